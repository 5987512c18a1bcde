//! Pulls: streams that the front has this worker fetch from other servers. A pull connects first; when media has come it asks the front for a
//! place like any publisher, and is one from then on.

use super::super::session::{Protocol, Role, Session, Want, Wish};
use super::super::{End, Worker, WorkerCounter};
use super::{Purpose, is_native};
use crate::control::{Asked, ConnId, Intent, ToFront};
use crate::relays::report::{Kind, Relay, State};
use crate::relays::{Endpoint, Template};
use crate::saved::RowId;
use braidcast_media::{RecordKind, StreamKey};
use braidcast_protocols::via::Via;
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Data messages that are kept before the first media.
const MAX_EARLY: usize = 16;
/// How often the front is told that a stream is wanted, milliseconds.
const TELL_MS: u64 = 1_000;
/// Streams that the front was told of.
const MAX_WANTED: usize = 4_096;
/// The longest reason that the front is told, in characters.
const MAX_REASON: usize = 300;

/// What the front orders.
#[derive(Clone, Debug)]
pub struct PullOrder {
    /// The connection's id.
    pub conn: ConnId,
    /// Its row, in which nothing is saved.
    pub row: RowId,
    /// The stream here.
    pub key: StreamKey,
    /// Where from, as configured.
    pub from: String,
    /// The servers for which it is pulled.
    pub via: Via,
}

impl Worker {
    /// The front has this worker fetch a stream.
    pub(in super::super) fn begin_pull(&mut self, order: PullOrder) {
        let endpoint = Template::parse_source(&order.from).and_then(|template| template.for_stream(&order.key));
        match endpoint {
            _ if self.is_stopping() => self.pull_failed(&order, "the worker is ending"),
            Ok(endpoint) if is_native(&endpoint) => {
                tracing::debug!(stream = %order.key, conn = %order.conn, from = endpoint.shown, "the stream is to be pulled");
                self.dial(Purpose::Pull(Box::new(order)), endpoint, 0);
            }
            Ok(_) => self.pull_failed(&order, "HLS is fetched by an external program, not by a worker"),
            Err(error) => self.pull_failed(&order, &error),
        }
    }

    /// The front does not want a pull any more.
    pub(in super::super) fn end_pull(&mut self, conn: ConnId) {
        let of_pull = |dial: &super::Dial| matches!(&dial.purpose, Purpose::Pull(order) if order.conn == conn);
        let dialled = self.outgoing.dials.iter().find(|(_, dial)| of_pull(dial)).map(|(id, _)| *id);
        if let Some(id) = dialled {
            self.forget_dial(id);
            return self.tell_front(&ToFront::Closed { conn });
        }
        let Some(slot) = self.by_conn.get(conn) else { return };
        if let Protocol::Client(client) = &mut self.sessions[slot].more.protocol {
            client.end();
            client.error = Some("nobody wants it any more".to_owned());
            let bytes = client.take_outbox();
            // Said as a courtesy: the connection is closed whether it goes out at once or not.
            let _ = braidcast_sys::net::send(&self.sessions[slot].socket, &bytes);
            self.close(slot, End::Done);
        }
    }

    /// A pull's connection could not be made, was refused, or is over: the front decides what becomes of it.
    pub(super) fn pull_failed(&mut self, order: &PullOrder, error: &str) {
        let error = error.chars().take(MAX_REASON).collect();
        self.tell_front(&ToFront::PullEnded { conn: order.conn, error });
        self.tell_front(&ToFront::Closed { conn: order.conn });
    }

    /// The server has agreed to send.
    pub(super) fn pull_started(&mut self, slot: usize) -> Result<(), End> {
        let Protocol::Client(client) = &self.sessions[slot].more.protocol else { return Ok(()) };
        if client.server_via().contains(self.outgoing.instance()) {
            self.count(WorkerCounter::RefusedLoops);
            return Err(End::Peer("loop: the server has the stream from this one".into()));
        }
        // Some servers agree to everything and then wait for a publisher.
        self.sessions[slot].deadline_ms = self.now.mono_ms + self.config.relay.silent.as_ms();
        self.watch_deadline(slot);
        Ok(())
    }

    /// Media from the server.
    pub(super) fn pulled_media(&mut self, slot: usize, kind: RecordKind, timestamp_ms: u32, payload: Vec<u8>) -> Result<(), End> {
        let now_ms = self.now.mono_ms;
        let session = &mut self.sessions[slot];
        let Protocol::Client(client) = &mut session.more.protocol else { return Ok(()) };
        if payload.is_empty() || (kind == RecordKind::Data && is_about_the_connection(&payload)) {
            return Ok(());
        }
        client.media_bytes += payload.len() as u64;
        client.media_ms = now_ms;
        if let Role::Publishing(publisher) = session.role {
            return self.append(publisher, kind, timestamp_ms, &payload);
        }
        if client.early.len() < MAX_EARLY || kind != RecordKind::Data {
            client.early.push((kind, timestamp_ms, payload));
        }
        if kind == RecordKind::Data {
            return Ok(());
        }
        let Purpose::Pull(order) = &client.purpose else { return Ok(()) };
        let (key, credential) = (order.key.clone(), credential(&order.from));
        let asked = Asked { intent: Intent::Publish, key: key.clone(), credential, pinned: true, found_at: None, number: 1 };
        self.ask(slot, Wish { key, what: Want::Publish }, asked)
    }

    /// The stream is held: what has come goes into its log, and all that follows.
    pub(in super::super) fn pull_accepted(&mut self, slot: usize) -> Result<(), End> {
        let silent_ms = self.config.relay.silent.as_ms();
        let session = &mut self.sessions[slot];
        let (Protocol::Client(client), Role::Publishing(publisher)) = (&mut session.more.protocol, &session.role) else { return Ok(()) };
        let publisher = *publisher;
        client.was_running = true;
        session.deadline_ms = client.media_ms + silent_ms;
        for (kind, timestamp_ms, payload) in std::mem::take(&mut client.early) {
            self.append(publisher, kind, timestamp_ms, &payload)?;
        }
        self.watch_deadline(slot);
        self.act_on_client(slot)
    }

    /// Where a stream that is published here is pulled from.
    pub(super) fn pulled_from(&self, key: &StreamKey) -> Option<Endpoint> {
        let publisher = self.publishers.iter().find(|(_, publisher)| publisher.key == *key)?.1;
        let Protocol::Client(client) = &self.sessions.get(publisher.session)?.more.protocol else { return None };
        Some(client.endpoint.clone())
    }

    /// The pull that a session is, for a front that takes over.
    pub(in super::super) fn pulled_by(session: &Session) -> Option<StreamKey> {
        let Protocol::Client(client) = &session.more.protocol else { return None };
        let Purpose::Pull(order) = &client.purpose else { return None };
        Some(order.key.clone())
    }

    /// Somebody wants a stream: the front hears of it if it is one that can be pulled. Servers say for whom.
    pub(in super::super) fn want(&mut self, key: &StreamKey, via: &Via) {
        let demanded = self.config.pull_on_demand(key).is_some();
        // A server that wants what is always pulled may be the one that it is pulled from.
        let asked_by_server = !via.is_empty() && self.config.pull.iter().any(|pull| pull.gives(key));
        if !demanded && !asked_by_server {
            return;
        }
        let now_ms = self.now.mono_ms;
        if self.outgoing.wanted.len() >= MAX_WANTED {
            self.outgoing.wanted.retain(|_, told_ms| now_ms - *told_ms < TELL_MS);
        }
        let told = self.outgoing.wanted.get(key).is_some_and(|told_ms| now_ms - told_ms < TELL_MS);
        if !told && self.outgoing.wanted.len() < MAX_WANTED {
            self.outgoing.wanted.insert(key.clone(), now_ms);
            self.tell_front(&ToFront::Wanted { key: key.clone(), via: via.to_string() });
        }
    }

    /// Whether a stream that is not there would be pulled for whoever asks for it.
    pub(in super::super) fn is_on_demand(&self, key: &StreamKey) -> bool {
        self.config.pull_on_demand(key).is_some()
    }

    /// Once a second: streams that are watched, or waited for, are wanted.
    pub(super) fn want_watched(&mut self) {
        if self.config.pull.is_empty() {
            return;
        }
        let (mut streams, mut waited) = (HashSet::new(), HashSet::new());
        for (_, session) in self.sessions.iter().filter(|(_, session)| !matches!(session.more.protocol, Protocol::Client(_))) {
            match &session.role {
                Role::Viewing { stream, .. } => _ = streams.insert(*stream),
                Role::Waiting(wish) => _ = waited.insert(wish.key.clone()),
                Role::WaitingForIndex(wish) => _ = waited.insert(wish.key.clone()),
                _ => {}
            }
        }
        waited.extend(streams.into_iter().map(|stream| self.streams[stream].key.clone()));
        for key in waited {
            self.want(&key, &Via::default());
        }
    }

    /// How much has come of each pull; how it gets on is for the front to say.
    pub(super) fn pull_reports(&self) -> Vec<Relay> {
        let report = |session: &Session| {
            let Protocol::Client(client) = &session.more.protocol else { return None };
            let key = Self::pulled_by(session)?;
            Some(Relay {
                kind: Kind::Pull,
                stream: key.to_string(),
                url: String::new(),
                state: if matches!(session.role, Role::Publishing(_)) { State::Running } else { State::Connecting },
                since_wall_ms: 0,
                worker: Some(self.id.0),
                bytes: client.media_bytes,
                reconnects: 0,
                error: None,
            })
        };
        self.sessions.iter().filter_map(|(_, session)| report(session)).collect()
    }
}

/// Whether data is something that servers say to every player, and no part of the stream.
fn is_about_the_connection(payload: &[u8]) -> bool {
    payload.starts_with(b"\x02\0\x11|RtmpSampleAccess") || payload.starts_with(b"\x02\0\x08onStatus")
}

/// What tells a pull that comes back from a stranger.
fn credential(from: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    ("pull", from).hash(&mut hasher);
    hasher.finish()
}
