//! Forwards: a stream whose publisher is here goes to other servers for as long as it is.
//!
//! Each is a reader of the log like any viewer: it is served by fan-out, jumped when it lags, and never called by the publisher's path. It ends
//! in order with its publisher, and begins again where the publisher goes on.

use super::super::ingest::Publisher;
use super::super::ledger::Blocks;
use super::super::rendition::Rendition;
use super::super::session::{Protocol, Role, Want, Wish};
use super::super::waiting::Awaited;
use super::super::{End, Worker};
use super::{HEALTHY_MS, Purpose};
use crate::control::counters::WorkerCounter;
use crate::relays::report::{Kind, Relay, State};
use crate::relays::{Endpoint, Template, pause_ms};
use braidcast_media::{RecordKind, StreamKey};
use braidcast_protocols::rtmp::egress;

/// What metadata begins with.
const ON_META_DATA: &[u8] = b"\x02\0\x0aonMetaData";
/// The longest pause after a loop was found: it does not go away by itself.
const LOOP_FAILURES: u32 = 20;

/// A stream on its way to another server.
#[derive(Debug)]
pub(super) struct Forward {
    pub key: StreamKey,
    endpoint: Endpoint,
    state: State,
    since_wall_ms: u64,
    running_since_ms: u64,
    /// Bytes sent on connections that are over.
    pub bytes: u64,
    reconnects: u64,
    error: Option<String>,
    failures: u32,
    dial: Option<u64>,
    slot: Option<usize>,
    retry_at_ms: u64,
}

impl Forward {
    /// Its connection stands.
    pub fn connected(&mut self, slot: usize) {
        (self.dial, self.slot) = (None, Some(slot));
    }

    fn enter(&mut self, state: State, wall_ms: u64) {
        if self.state != state {
            (self.state, self.since_wall_ms) = (state, wall_ms);
        }
    }
}

impl Worker {
    /// A stream's publisher is here: it goes to where the configuration says, and to where hooks do.
    pub(in super::super) fn begin_forwards(&mut self, publisher: usize) {
        let Some(Publisher { key, session, .. }) = self.publishers.get(publisher) else { return };
        let key = &key.clone();
        let rules = self.config.forward.iter().filter(|forward| forward.takes(key));
        let mut endpoints: Vec<_> = rules.flat_map(|forward| forward.to.0.iter().map(|to| to.for_stream(key))).collect();
        let by_hooks = self.sessions.get(*session).map_or(&[][..], |session| &session.more.forward);
        endpoints.extend(by_hooks.iter().map(|url| Template::parse_target(url).and_then(|to| to.for_stream(key))));
        let source = self.pulled_from(key);
        for endpoint in endpoints {
            match endpoint {
                Ok(endpoint) if source.as_ref().is_some_and(|source| source.is_server_of(&endpoint)) => {
                    tracing::info!(stream = %key, to = endpoint.shown, "not forwarded to where it comes from");
                }
                Ok(endpoint) => self.begin_forward(key, endpoint),
                Err(error) => tracing::warn!(stream = %key, error, "the stream cannot be forwarded"),
            }
        }
    }

    fn begin_forward(&mut self, key: &StreamKey, endpoint: Endpoint) {
        let same = |forward: &Forward| forward.key == *key && forward.endpoint == endpoint;
        if self.outgoing.forwards.values().any(same) {
            return;
        }
        let id = self.outgoing.new_id();
        let forward = Forward {
            key: key.clone(),
            endpoint,
            state: State::Connecting,
            since_wall_ms: self.now.wall_ms,
            running_since_ms: 0,
            bytes: 0,
            reconnects: 0,
            error: None,
            failures: 0,
            dial: None,
            slot: None,
            retry_at_ms: 0,
        };
        self.outgoing.forwards.insert(id, forward);
        self.connect_forward(id);
    }

    fn connect_forward(&mut self, id: u64) {
        let wall_ms = self.now.wall_ms;
        let Some(forward) = self.outgoing.forwards.get_mut(&id) else { return };
        forward.enter(State::Connecting, wall_ms);
        let endpoint = forward.endpoint.clone();
        let dial = self.dial(Purpose::Forward(id), endpoint, 0);
        // It may have failed at once, and wait already.
        if self.outgoing.dials.contains_key(&dial)
            && let Some(forward) = self.outgoing.forwards.get_mut(&id)
        {
            forward.dial = Some(dial);
        }
    }

    /// A forward's pause is over.
    pub(super) fn retry_forward(&mut self, id: u64, at_ms: u64) {
        if let Some(forward) = self.outgoing.forwards.get_mut(&id)
            && forward.retry_at_ms == at_ms
            && forward.state == State::Waiting
        {
            forward.reconnects += 1;
            self.connect_forward(id);
        }
    }

    /// The publisher of a stream leaves this worker: what goes to others ends in order.
    pub(in super::super) fn end_forwards(&mut self, key: &StreamKey) {
        let ended: Vec<u64> = self.outgoing.forwards.iter().filter(|(_, forward)| forward.key == *key).map(|(id, _)| *id).collect();
        for id in ended {
            let Some(forward) = self.outgoing.forwards.remove(&id) else { continue };
            if let Some(dial) = forward.dial {
                self.forget_dial(dial);
            }
            if let Some(slot) = forward.slot {
                self.end_forwarding(slot);
            }
            tracing::info!(stream = %key, to = forward.endpoint.shown, "forwarding ended with the publisher");
        }
    }

    /// Everything that is in the log goes out, then the goodbye.
    fn end_forwarding(&mut self, slot: usize) {
        let Some(session) = self.sessions.get(slot) else { return };
        match session.role {
            Role::Viewing { stream, .. } => {
                if let Err(error) = self.streams[stream].update() {
                    tracing::debug!(%error, "cannot map the last block of a stream that is forwarded");
                }
                self.end_viewer(slot);
            }
            _ => self.close(slot, End::Done),
        }
    }

    /// A forward's connection could not be made, was refused, or is over.
    pub(super) fn forward_failed(&mut self, id: u64, error: &str, was_running: bool) {
        let now = self.now;
        let most_ms = self.config.relay.retry_max.as_ms();
        // It may have ended with its publisher.
        let Some(forward) = self.outgoing.forwards.get_mut(&id) else { return };
        if was_running && now.mono_ms.saturating_sub(forward.running_since_ms) >= HEALTHY_MS {
            forward.failures = 0;
        }
        forward.failures = if error.contains("loop:") { LOOP_FAILURES } else { forward.failures + 1 };
        (forward.dial, forward.slot) = (None, None);
        forward.enter(State::Waiting, now.wall_ms);
        let pause_ms = pause_ms(forward.failures, most_ms, now.wall_ms ^ id.wrapping_mul(0x9e37_79b9));
        forward.retry_at_ms = now.mono_ms + pause_ms;
        if forward.failures.is_power_of_two() || forward.error.as_deref() != Some(error) {
            tracing::warn!(stream = %forward.key, to = forward.endpoint.shown, "forwarding failed: {error}; tried again in {pause_ms} ms");
        }
        forward.error = Some(error.to_owned());
        self.outgoing.timers.set(forward.retry_at_ms, id);
        self.count(WorkerCounter::ForwardFailures);
    }

    /// The server takes the stream: it is watched like by any viewer, from the newest keyframe on.
    pub(super) fn begin_forwarding(&mut self, slot: usize) -> Result<(), End> {
        let Some(key) = self.forward_of(slot).map(|forward| forward.key.clone()) else { return Err(End::Done) };
        self.page.set_reading(key.slot(), true);
        let session = &mut self.sessions[slot];
        session.deadline_ms = 0;
        session.enter(Role::Waiting(Box::new(Wish { key: key.clone(), what: Want::Play(Rendition::RTMP) })));
        self.waiting.add((Awaited::Stream, key.clone()), slot);
        self.with_local_stream(&key, |worker, stream| worker.try_play(slot, stream)).unwrap_or(Ok(()))
    }

    /// The first media is about to be sent: the metadata goes first, as encoders send it.
    pub(in super::super) fn forward_accepted(&mut self, slot: usize) {
        let wall_ms = self.now.wall_ms;
        let now_ms = self.now.mono_ms;
        let metadata = self.forward_of(slot).and_then(|forward| self.metadata(&forward.key));
        let session = &mut self.sessions[slot];
        let Protocol::Client(client) = &mut session.more.protocol else { return };
        client.was_running = true;
        if let Some((timestamp_ms, payload)) = metadata {
            client.push_metadata(timestamp_ms, &payload);
        }
        let bytes = client.take_outbox();
        let id = if let Purpose::Forward(id) = client.purpose { id } else { 0 };
        session.push_control(&bytes);
        if let Some(forward) = self.outgoing.forwards.get_mut(&id) {
            forward.enter(State::Running, wall_ms);
            forward.running_since_ms = now_ms;
            tracing::info!(stream = %forward.key, to = forward.endpoint.shown, "forwarding begins");
        }
    }

    fn forward_of(&self, slot: usize) -> Option<&Forward> {
        let Protocol::Client(client) = &self.sessions.get(slot)?.more.protocol else { return None };
        let Purpose::Forward(id) = client.purpose else { return None };
        self.outgoing.forwards.get(&id)
    }

    /// The metadata that the newest blocks of a stream begin with.
    fn metadata(&self, key: &StreamKey) -> Option<(u32, Vec<u8>)> {
        let stream = self.streams.get(*self.stream_slots.get(key)?)?;
        let block = stream.reader.start()?.block;
        let view = stream.blocks(Rendition::RTMP);
        let prefix = view.bytes(block, 0, view.records_start(block));
        let message = egress::messages(prefix).find(|message| message.header.kind == RecordKind::Data)?;
        let end = message.offset + message.framed_bytes;
        // A prefix's headers are shorter than a chunk: the payload is in one piece.
        let payload = prefix.get(end - message.header.payload_bytes as usize..end)?;
        payload.starts_with(ON_META_DATA).then(|| (message.header.timestamp_ms, payload.to_vec()))
    }

    pub(super) fn forward_report(&self, forward: &Forward) -> Relay {
        let sent = forward.slot.and_then(|slot| self.sessions.get(slot)).map_or(0, |session| session.ledger.sent());
        Relay {
            kind: Kind::Forward,
            stream: forward.key.to_string(),
            url: forward.endpoint.shown.clone(),
            state: forward.state,
            since_wall_ms: forward.since_wall_ms,
            worker: Some(self.id.0),
            bytes: forward.bytes + sent,
            reconnects: forward.reconnects,
            error: forward.error.clone(),
        }
    }
}
