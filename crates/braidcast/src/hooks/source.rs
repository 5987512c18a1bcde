//! Where notifications come from: the front's log of events, and what of its lines hooks are told.

use super::Action;
use super::event::{Event, Segment};
use super::position::Position;
use crate::api::ids;
use crate::events::{self, Follower, From, Kind};
use serde_json::Value;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

/// The log, from where the process before this one has stopped.
#[derive(Debug)]
pub struct Source {
    follower: Follower,
    /// How many lost events have been told of.
    lost: u64,
}

impl Source {
    /// Opens the log. A process that is the first one begins with the front that serves: what was before, nobody wanted to know.
    pub fn open(shared_dir: &Path, saved: Option<Position>) -> io::Result<(Self, Position)> {
        let position = match saved {
            Some(position) => position,
            None => Position { seen: last_start(shared_dir)?, ..Position::default() },
        };
        let follower = Follower::open(shared_dir, From::After(position.first_wanted()))?;
        Ok((Self { follower, lost: 0 }, position))
    }

    /// What is new: each line's number, and what it is for hooks if it is something. Empty: nothing is new.
    pub fn poll(&mut self) -> Vec<(u64, Option<Event>)> {
        let lines = self.follower.poll().unwrap_or_else(|error| {
            tracing::error!(%error, "the log of events cannot be read");
            Vec::new()
        });
        lines.into_iter().map(|line| (line.id, notification(&line.event, line.id))).collect()
    }

    /// How many events were deleted before they were read, since this was asked last.
    pub fn take_lost(&mut self) -> u64 {
        let lost = self.follower.lost();
        lost - std::mem::replace(&mut self.lost, lost)
    }
}

/// The number of the event that the last front has begun with.
fn last_start(shared_dir: &Path) -> io::Result<u64> {
    let mut follower = Follower::open(shared_dir, From::Oldest)?;
    let mut last = follower.position();
    loop {
        let lines = follower.poll()?;
        if lines.is_empty() {
            return Ok(last);
        }
        last = lines.iter().filter(|line| line.event.kind == Kind::FrontStarted).map(|line| line.id).fold(last, u64::max);
    }
}

fn notification(event: &events::Event, id: u64) -> Option<Event> {
    let action = match event.kind {
        // Nobody was asked about a pull.
        Kind::Unpublish | Kind::Close if event.pulled => return None,
        Kind::Close => Action::Close,
        Kind::Unpublish => Action::Unpublish,
        Kind::Stop => Action::Stop,
        Kind::Segment => Action::Hls,
        _ => return None,
    };
    hook_event(event, action, id.to_string())
}

/// What hooks are told of an event; `None` if it lacks what they have to be told.
pub fn hook_event(event: &events::Event, action: Action, id: String) -> Option<Event> {
    let key = event.key()?;
    let said = |name: &str| event.record.as_ref().and_then(|record| record.pointer(name));
    let text = |name: &str| said(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let number = |name: &str| said(name).and_then(Value::as_u64).unwrap_or_default();
    let param = text("/description/param");
    Some(Event {
        id,
        action,
        client: event.conn.map(ids::client_id).unwrap_or_default(),
        // What nobody has connected for, a pull, is this server's own.
        ip: event.client.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        stream_id: ids::stream_id(&key),
        tc_url: text("/description/tc_url"),
        page_url: text("/description/page_url"),
        param: if param.is_empty() { param } else { format!("?{param}") },
        send_bytes: number("/bytes_out"),
        recv_bytes: number("/bytes_in"),
        segment: (action == Action::Hls).then(|| segment(event)),
        key,
    })
}

fn segment(event: &events::Event) -> Segment {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let path = |path: &Option<String>| text(path).trim_start_matches('/').to_owned();
    Segment {
        number: event.number.unwrap_or_default(),
        duration_ms: event.duration_ms.unwrap_or_default(),
        cwd: String::new(),
        file: text(&event.file),
        url: path(&event.url),
        index_file: text(&event.index),
        index_url: path(&event.index_url),
    }
}
