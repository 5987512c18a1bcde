//! Where notifications come from: the front's log of events, and what of its lines hooks are told.

use super::Action;
use super::event::{Event, Segment};
use super::position::Position;
use crate::api::ids;
use crate::events::{self, Follower, From, Kind, Line};
use braidcast_sys::clock;
use serde_json::Value;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

/// What was not even read within so long is not told any more: hooks were not configured when it happened.
const STALE_MS: u64 = 600_000;

/// The log, from where the process before this one has stopped.
#[derive(Debug)]
pub struct Source {
    follower: Follower,
    /// How many lost events have been told of.
    lost: u64,
    /// The last line that was read before, and the time before which lines after it are stale.
    seen: u64,
    stale_before_ms: u64,
    stale: u64,
}

impl Source {
    /// Opens the log. A process that is the first one begins with the front that serves: what was before, nobody wanted to know.
    pub fn open(shared_dir: &Path, saved: Option<Position>) -> io::Result<(Self, Position)> {
        let position = match saved {
            Some(position) => position,
            None => Position { seen: last_start(shared_dir)?, ..Position::default() },
        };
        let follower = Follower::open(shared_dir, From::After(position.first_wanted()))?;
        let stale_before_ms = clock::wall_ms().saturating_sub(STALE_MS);
        Ok((Self { follower, lost: 0, seen: position.seen, stale_before_ms, stale: 0 }, position))
    }

    /// What is new: each line's number, and what it is for hooks if it is something. Empty: nothing is new.
    pub fn poll(&mut self) -> Vec<(u64, Option<Event>)> {
        let lines = self.follower.poll().unwrap_or_else(|error| {
            tracing::error!(%error, "the log of events cannot be read");
            Vec::new()
        });
        let of_line = |Line { id, at_ms, event }| {
            let told = notification(&event, id);
            if told.is_some() && id > self.seen && at_ms < self.stale_before_ms {
                self.stale += 1;
                return (id, None);
            }
            (id, told)
        };
        lines.into_iter().map(of_line).collect()
    }

    /// How many events were deleted before they were read, or read too late, since this was asked last.
    pub fn take_lost(&mut self) -> u64 {
        let lost = self.follower.lost() + self.stale;
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::control::ConnId;
    use braidcast_media::StreamKey;

    fn stop() -> events::Event {
        events::Event::new(Kind::Stop).conn(ConnId(7)).of_stream(&StreamKey::new("v", "a", "x").unwrap())
    }

    /// Everything that is new, as numbers and whether it is told.
    fn all(source: &mut Source) -> Vec<(u64, bool)> {
        std::iter::from_fn(|| Some(source.poll()).filter(|lines| !lines.is_empty()))
            .flatten()
            .map(|(id, event)| (id, event.is_some()))
            .collect()
    }

    #[test]
    fn the_first_process_begins_with_the_front_and_another_one_where_it_was_left() {
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        let mut log = events::Writer::open(directory.path()).unwrap();
        for event in [stop(), events::Event::new(Kind::FrontStarted), stop(), stop()] {
            log.append(&event).unwrap();
        }
        let (mut source, position) = Source::open(directory.path(), None).unwrap();
        assert_eq!((position.seen, all(&mut source)), (2, vec![(3, true), (4, true)]));
        let left = Position { seen: 4, pending: [(1, [3].into())].into() };
        let (mut source, _) = Source::open(directory.path(), Some(left.clone())).unwrap();
        log.append(&events::Event { pulled: true, kind: Kind::Unpublish, ..stop() }).unwrap();
        assert_eq!((all(&mut source), source.take_lost()), (vec![(3, true), (4, true), (5, false)], 0));
        // As if nobody had read for an hour: what waits is told, what was never read is not.
        source.stale_before_ms = u64::MAX;
        source.follower = Follower::open(directory.path(), From::After(2)).unwrap();
        log.append(&stop()).unwrap();
        assert_eq!((all(&mut source), source.take_lost(), source.take_lost()), (vec![(3, true), (4, true), (5, false), (6, false)], 1, 0));
    }

    #[test]
    fn what_a_record_says_is_what_hooks_are_told() {
        let record = serde_json::json!({ "description": { "tc_url": "rtmp://h/a", "param": "k=1", "page_url": 7 }, "bytes_in": 3, "bytes_out": "x" });
        let event = hook_event(&events::Event { record: Some(record), ..stop() }, Action::Stop, "1".into()).unwrap();
        assert_eq!((event.tc_url.as_str(), event.param.as_str(), event.page_url.as_str()), ("rtmp://h/a", "?k=1", ""));
        assert_eq!((event.recv_bytes, event.send_bytes, event.client.as_str()), (3, 0, "c7"));
        assert_eq!(hook_event(&events::Event::new(Kind::Stop), Action::Stop, "1".into()), None);
    }
}
