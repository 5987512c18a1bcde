//! The table of sessions: opening, reading, deadlines, closing.

use super::kept::Kept;
use super::session::{MAX_CONTROL_BYTES, More, Protocol, Role, Session, Want, Watched};
use super::waiting::Awaited;
use super::{COMMAND_BYTES, EXPIRED_PER_TURN, End, PUBLISHERS_TIME, READS_PER_TURN, READS_TIME, Worker};
use crate::control::counters::WorkerCounter;
use crate::control::{ConnId, Listener, Origin, ToFront};
use crate::saved::{Heap, RowId};
use braidcast_media::StreamKey;
use braidcast_protocols::http::RequestReader;
use braidcast_protocols::proxy::Form;
use braidcast_protocols::rtmp::{ServerSession, Settings};
use braidcast_sys::fault::kill_point;
use braidcast_sys::{Event, Interest, net};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Unsent bytes after which a viewer's socket counts as full: the kernel's share of a slow viewer's cost.
const NOT_SENT_LOWAT_BYTES: u32 = 128 << 10;

/// What the front says of a connection.
pub(super) struct Arrival {
    pub conn: ConnId,
    pub row: RowId,
    pub origin: Origin,
}

impl Worker {
    /// Takes a new connection.
    pub(super) fn open_session(&mut self, arrival: Arrival, socket: OwnedFd) {
        if self.stopping_since_ms.is_some() {
            return self.tell_front(&ToFront::Closed { conn: arrival.conn });
        }
        let handshake_ms = self.now.mono_ms + self.config.limits.handshake.as_ms();
        let protocol = self.first_protocol(&arrival, handshake_ms);
        // A client that is gone again has no counters, and no use for them.
        let Ok(Some(base)) = net::positions(&socket) else { return self.tell_front(&ToFront::Closed { conn: arrival.conn }) };
        let kept = Kept::new(arrival.row, base);
        if let Some(slot) = self.insert_session(arrival, socket, protocol, kept) {
            // What goes through a relay ends with it.
            self.sessions[slot].kept.lost |= self.config.relays();
            if !matches!(self.sessions[slot].more.protocol, Protocol::Rtmp(_) | Protocol::Relay(_)) {
                self.sessions[slot].deadline_ms = handshake_ms;
            }
            self.save(slot);
            self.watch_deadline(slot);
        }
    }

    /// Puts a session into the table and has its socket watched. On failure the connection is closed and the front told.
    pub(super) fn insert_session(&mut self, arrival: Arrival, socket: OwnedFd, protocol: Protocol, kept: Kept) -> Option<usize> {
        // The highest bit means something else, see [`super::PAIR_TOKEN`].
        self.generation = (self.generation + 1) & (u32::MAX >> 1);
        let entry = self.sessions.vacant_entry();
        let slot = entry.key();
        let token = (u64::from(self.generation) << 32) | slot as u64;
        let idle_ms = u32::try_from(self.config.limits.idle.as_ms()).unwrap_or(u32::MAX);
        let prepared = net::set_nodelay(&socket)
            .and_then(|()| net::set_user_timeout(&socket, idle_ms))
            .and_then(|()| net::set_notsent_lowat(&socket, NOT_SENT_LOWAT_BYTES))
            .and_then(|()| self.poller.add(&socket, token, Interest::READ | Interest::WRITE | Interest::PEER_CLOSED | Interest::EDGE));
        if let Err(error) = prepared {
            tracing::warn!(conn = %arrival.conn, peer = %arrival.origin.peer, %error, "cannot watch a connection: it is closed");
            if !matches!(protocol, Protocol::Client(_)) {
                self.tell_front(&ToFront::Closed { conn: arrival.conn });
            }
            return None;
        }
        entry.insert(Session {
            socket,
            generation: self.generation,
            blocked: false,
            closing: false,
            draining: false,
            readable: true,
            watched: Watched::Alone,
            held_back: false,
            peer_ended: false,
            queued: true,
            answering: false,
            last_request: false,
            role: Role::Idle,
            ledger: Default::default(),
            kept,
            more: More::new(arrival.origin, protocol),
            conn: arrival.conn,
            deadline_ms: 0,
            timer_ms: 0,
        });
        self.by_conn.insert(arrival.conn, slot);
        self.ready.push_back(slot);
        Some(slot)
    }

    /// The session a token stands for, if it still exists.
    pub(super) fn slot_of(&self, token: u64) -> Option<usize> {
        let slot = (token & u64::from(u32::MAX)) as usize;
        self.sessions.get(slot).filter(|session| u64::from(session.generation) == token >> 32).map(|_| slot)
    }

    /// What epoll says of a session's socket.
    pub(super) fn session_event(&mut self, token: u64, event: Event) {
        let Some(slot) = self.slot_of(token) else { return };
        let session = &mut self.sessions[slot];
        session.peer_ended |= event.peer_closed || event.dead;
        // What a session says while a decision is pending is not read, so its end is seen here or not at all.
        if !session.may_read()
            && (event.dead || event.peer_closed)
            && let Err(end) = self.peer_ended(slot, event.dead)
        {
            return self.close(slot, end);
        }
        let Some(session) = self.sessions.get_mut(slot) else { return };
        if event.readable || event.peer_closed || event.dead {
            session.readable = true;
            self.enqueue(slot);
        }
        let session = &mut self.sessions[slot];
        if event.writable && session.blocked {
            session.blocked = false;
            self.unfinished.push_back(session.token(slot));
        }
    }

    /// The peer of a session that is not read now has ended its half of the connection, or all of it. A client of HTTP may do
    /// the former when it has asked: the answer is still wanted, though nobody waits long for what may never come, because
    /// most such clients are gone.
    fn peer_ended(&mut self, slot: usize, dead: bool) -> Result<(), End> {
        let session = &self.sessions[slot];
        match session.role {
            _ if dead => Err(End::PeerClosed),
            _ if session.closing => Ok(()),
            _ if !matches!(session.more.protocol, Protocol::Http(_)) => Err(End::PeerClosed),
            Role::Waiting(_) | Role::WaitingForIndex(_) => self.not_found(slot),
            _ => Ok(()),
        }
    }

    /// Has the session read in this turn or the next, unless a decision about it is pending.
    pub(super) fn enqueue(&mut self, slot: usize) {
        let session = &mut self.sessions[slot];
        if !session.queued && (session.readable || !session.more.unread.is_empty()) && session.may_read() {
            session.queued = true;
            if session.watched == Watched::Publisher { self.ready_publishers.push_back(slot) } else { self.ready.push_back(slot) }
        }
    }

    /// Reads from sessions whose sockets have something, in a bounded turn: publishers first, whose viewers wait for it.
    pub(super) fn read_sessions(&mut self) {
        self.read_some(|worker| &mut worker.ready_publishers, PUBLISHERS_TIME);
        self.read_some(|worker| &mut worker.ready, READS_TIME);
    }

    fn read_some(&mut self, queue: fn(&mut Self) -> &mut VecDeque<usize>, most: Duration) {
        if queue(self).is_empty() {
            return;
        }
        let since = Instant::now();
        for _ in 0..queue(self).len().min(READS_PER_TURN) {
            if since.elapsed() >= most {
                return;
            }
            let Some(slot) = queue(self).pop_front() else { return };
            let Some(session) = self.sessions.get_mut(slot) else { continue };
            if !std::mem::replace(&mut session.queued, false) {
                continue;
            }
            if let Err(end) = self.read_session(slot) {
                self.close(slot, end);
            } else if self.sessions.contains(slot) {
                self.enqueue(slot);
            }
        }
    }

    fn read_session(&mut self, slot: usize) -> Result<(), End> {
        let session = &self.sessions[slot];
        if !session.may_read() {
            return Ok(());
        }
        if self.has_journal(slot) {
            return self.read_publisher(slot);
        }
        // One that had a journal when its input was held back hears of all input from now on.
        self.release_input(slot);
        if self.sessions[slot].more.rests_until_ms != 0 {
            // It has lost its journal for what comes, and what is in it comes first.
            return self.take_in(slot);
        }
        let session = &mut self.sessions[slot];
        let unread = std::mem::take(&mut session.more.unread);
        if !unread.is_empty() {
            return self.feed(slot, &unread);
        }
        if !session.readable {
            return Ok(());
        }
        let rested = self.sessions[slot].rests();
        self.wake(slot)?;
        let session = &mut self.sessions[slot];
        let publishes = matches!(session.role, Role::Publishing(_));
        let mut buffer = std::mem::take(&mut self.read_buffer);
        let room = self.make_journal_room(slot, if publishes { buffer.len() } else { COMMAND_BYTES });
        let session = &mut self.sessions[slot];
        let result = match Self::receive(&mut self.heap, session, &mut buffer[..room]) {
            Ok(0) if !session.draining && session.viewing().is_some() && matches!(session.more.protocol, Protocol::Http(_)) => {
                session.readable = false;
                Ok(())
            }
            Ok(0) => Err(End::PeerClosed),
            Ok(received) => {
                // An edge comes again only after the socket was read empty.
                session.readable = session.peer_ended || received == room;
                self.page.counter(WorkerCounter::BytesIn as usize).fetch_add(received as u64, Ordering::Relaxed);
                self.feed(slot, &buffer[..received])
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                session.readable = false;
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(End::Socket(error)),
        };
        self.read_buffer = buffer;
        if rested && result.is_ok() {
            self.rest_again(slot);
        }
        result
    }

    /// Takes input from the kernel into the session's journal, where it outlives this process, and a copy of it.
    fn receive(heap: &mut Heap, session: &mut Session, buffer: &mut [u8]) -> io::Result<usize> {
        let kept = &mut session.kept;
        let Some(region) = kept.region.filter(|_| !kept.lost && !session.draining) else {
            return net::recv(&session.socket, buffer);
        };
        let start = kept.checkpoint_bytes() + kept.journal_bytes;
        let received = net::recv(&session.socket, heap.bytes_mut(region, start..start + buffer.len()))?;
        buffer[..received].copy_from_slice(heap.bytes(region, start..start + received));
        kill_point("received");
        kept.journal_bytes += received;
        Ok(received)
    }

    /// Gives bytes to the session's protocol; keeps what is not consumed because a decision is pending.
    pub(super) fn feed(&mut self, slot: usize, bytes: &[u8]) -> Result<(), End> {
        let session = &mut self.sessions[slot];
        if session.draining {
            return Ok(());
        }
        if !matches!(session.role, Role::Publishing(_)) {
            session.kept.stale = true;
        }
        if !session.conn.is_own() {
            self.page.busy_with(session.conn.0, session.kept.journal_from + session.kept.consumed as u64);
        }
        let fed = self.feed_protocol(slot, bytes);
        self.page.busy_with_none();
        fed
    }

    fn feed_protocol(&mut self, slot: usize, bytes: &[u8]) -> Result<(), End> {
        let bytes = &bytes[self.feed_prefixes(slot, bytes)?..];
        if bytes.is_empty() {
            return Ok(());
        }
        if let Protocol::Unknown = self.sessions[slot].more.protocol {
            // RTMP begins with its version, 3 or 6; HTTP with a letter.
            let http = bytes[0].is_ascii_alphabetic();
            let Session { conn, deadline_ms, ref more, .. } = self.sessions[slot];
            let listener = more.listener;
            let protocol = if http { self.new_http(listener) } else { self.new_rtmp(conn, deadline_ms) };
            let session = &mut self.sessions[slot];
            session.more.protocol = protocol;
            if !http {
                session.deadline_ms = 0;
            }
        }
        let consumed = match self.sessions[slot].more.protocol {
            Protocol::Rtmp(_) => self.feed_rtmp(slot, bytes)?,
            Protocol::Http(_) => self.feed_http(slot, bytes)?,
            Protocol::WebSocket(_) => self.feed_websocket(slot, bytes)?,
            Protocol::Client(_) => self.feed_client(slot, bytes)?,
            Protocol::Relay(_) => self.feed_relay(slot, bytes)?,
            Protocol::Prefix(_) | Protocol::Unknown | Protocol::Resting => 0,
        };
        if let Some(session) = self.sessions.get_mut(slot)
            && consumed < bytes.len()
        {
            session.more.unread.extend_from_slice(&bytes[consumed..]);
            if consumed == 0 && session.may_read() {
                return Err(End::Fault("a session that waits for nothing takes no input"));
            }
        }
        Ok(())
    }

    /// Sets up the worker's timer for the earliest deadline of a session.
    pub(super) fn watch_deadline(&mut self, slot: usize) {
        let Some(session) = self.sessions.get_mut(slot) else { return };
        let mut next = if session.deadline_ms == 0 { u64::MAX } else { session.deadline_ms };
        match &session.more.protocol {
            Protocol::Rtmp(rtmp) => next = next.min(rtmp.poll_timeout().unwrap_or(u64::MAX)),
            Protocol::Relay(machine) => next = next.min(machine.poll_timeout().unwrap_or(u64::MAX)),
            _ => {}
        }
        if next != u64::MAX && (session.timer_ms == 0 || next < session.timer_ms) {
            session.timer_ms = next;
            self.deadlines.set(next, (u64::from(session.generation) << 32) | slot as u64);
        }
    }

    /// Acts on deadlines that have passed, in a bounded turn.
    pub(super) fn expire(&mut self) {
        for _ in 0..EXPIRED_PER_TURN {
            let Some((at_ms, token)) = self.deadlines.pop_due(self.now.mono_ms) else { return };
            let Some(slot) = self.slot_of(token) else { continue };
            // An entry that an earlier one has replaced is of no use, and must not live on.
            if self.sessions[slot].timer_ms != at_ms {
                continue;
            }
            self.sessions[slot].timer_ms = 0;
            let rested = self.sessions[slot].rests();
            if let Err(end) = self.wake(slot) {
                self.close(slot, end);
                continue;
            }
            self.sessions[slot].kept.stale = true;
            if let Err(end) = self.take_in_resting(slot).and_then(|()| self.expire_session(slot)) {
                self.close(slot, end);
            }
            self.watch_deadline(slot);
            if rested {
                self.rest_again(slot);
            }
        }
    }

    fn expire_session(&mut self, slot: usize) -> Result<(), End> {
        let now_ms = self.now.mono_ms;
        let Some(session) = self.sessions.get_mut(slot) else { return Ok(()) };
        if session.deadline_ms != 0 && session.deadline_ms <= now_ms {
            session.deadline_ms = 0;
            return self.deadline_passed(slot);
        }
        if let Protocol::Rtmp(rtmp) = &mut session.more.protocol
            && rtmp.poll_timeout().is_some_and(|at| at <= now_ms)
        {
            return self.expire_rtmp(slot);
        }
        if let Protocol::Relay(machine) = &session.more.protocol
            && machine.poll_timeout().is_some_and(|at| at <= now_ms)
        {
            return self.expire_relay(slot);
        }
        Ok(())
    }

    /// The deadline of a session's role has passed.
    fn deadline_passed(&mut self, slot: usize) -> Result<(), End> {
        let session = &mut self.sessions[slot];
        if session.answering && !session.draining {
            return self.answer_overdue(slot);
        }
        if session.closing {
            return Err(End::Done);
        }
        if let Protocol::Client(_) = session.more.protocol {
            return self.client_overdue(slot);
        }
        match &session.role {
            Role::Placing(wish) if self.config.relays() && wish.what != Want::Publish => {
                self.count(WorkerCounter::PlayWaitTimeouts);
                self.not_found(slot)
            }
            Role::Asking(_) => self.reply_overdue(slot),
            Role::AskingSession(_) => self.refuse_session(slot, crate::control::Refusal::Unavailable),
            Role::Placing(wish) => {
                tracing::warn!(stream = %wish.key, conn = %session.conn, peer = %session.more.peer, "the front did not say in time where a connection belongs");
                self.refuse(slot, crate::control::Refusal::Unavailable)
            }
            Role::Opening(..) => self.refuse(slot, crate::control::Refusal::StreamBusy),
            Role::Waiting(_) | Role::WaitingForIndex(_) => {
                self.count(WorkerCounter::PlayWaitTimeouts);
                self.not_found(slot)
            }
            Role::Idle if matches!(&session.more.protocol, Protocol::Prefix(reader) if reader.form() == Form::Proxy) => {
                Err(self.bad_prefix(Form::Proxy, &"none came in time"))
            }
            Role::Idle if matches!(session.more.protocol, Protocol::Prefix(_) | Protocol::Unknown) => {
                self.count(WorkerCounter::HandshakeTimeouts);
                Err(End::Peer("sent nothing".into()))
            }
            Role::Idle => self.http_timeout(slot),
            Role::Publishing(_) | Role::Viewing { .. } | Role::Following(_) => Ok(()),
        }
    }

    /// Closes a session and forgets it.
    pub(super) fn close(&mut self, slot: usize, end: End) {
        if !self.sessions.contains(slot) {
            return;
        }
        if let Protocol::Client(_) = self.sessions[slot].more.protocol {
            return self.close_outgoing(slot, &end);
        }
        // What came before the end belongs to the stream; the session is closed for whatever comes of it.
        let _ = self.take_in_resting(slot);
        if !self.sessions.contains(slot) {
            return;
        }
        // What is not known any more is not said.
        let _ = self.wake(slot);
        // A peer that takes nothing is given up by the kernel, after `[limits] idle` (TCP_USER_TIMEOUT).
        if matches!(&end, End::Socket(error) if error.kind() == io::ErrorKind::TimedOut) {
            self.count(WorkerCounter::IdleTimeouts);
        }
        self.log_end(slot, &end);
        self.end_endless(slot);
        self.leave_role(slot, &end);
        let session = self.sessions.remove(slot);
        self.unwatch(&session);
        self.rows.clear(session.kept.row);
        self.release_kept(&session);
        self.tell_front(&ToFront::Closed { conn: session.conn });
    }

    pub(super) fn log_end(&mut self, slot: usize, end: &End) {
        // What single clients do wrong is not said without bound.
        if matches!(end, End::Peer(_)) && !self.peer_lines.allow(self.now.mono_ms) {
            return;
        }
        let Some(Session { conn, more, role, .. }) = self.sessions.get(slot) else { return };
        let peer = more.peer;
        let stream = self.stream_of(role).map(tracing::field::display);
        match end {
            End::Done | End::PeerClosed | End::Socket(_) => tracing::debug!(stream, %conn, %peer, "closed: {end}"),
            End::Fault(what) => tracing::error!(stream, %conn, %peer, "closed: {what}"),
            End::Peer(what) => tracing::info!(stream, %conn, %peer, "closed by us: {what}"),
        }
    }

    /// Which stream a session is about.
    fn stream_of<'a>(&'a self, role: &'a Role) -> Option<&'a StreamKey> {
        match role {
            Role::Publishing(publisher) => self.publishers.get(*publisher).map(|publisher| &publisher.key),
            Role::Viewing { stream, .. } => self.streams.get(*stream).map(|stream| &stream.key),
            Role::Placing(wish) | Role::Opening(wish, _) | Role::Waiting(wish) => Some(&wish.key),
            Role::WaitingForIndex(wish) => Some(&wish.key),
            Role::AskingSession(question) => Some(&question.key),
            Role::Idle | Role::Asking(_) | Role::Following(_) => None,
        }
    }

    /// Ends what a session does with a stream; `why` is for the log.
    pub(super) fn leave_role(&mut self, slot: usize, why: &dyn fmt::Display) {
        self.release_input(slot);
        let session = &mut self.sessions[slot];
        let (conn, peer) = (session.conn, session.more.peer);
        match session.enter(Role::Idle) {
            Role::Publishing(publisher) => {
                if let Some(stream) = self.end_publisher(publisher)
                    && self.peer_lines.allow(self.now.mono_ms)
                {
                    let next = match self.stopping_since_ms {
                        Some(_) => "the server stops".to_owned(),
                        None => format!("viewers wait {} for the publisher to come back", self.config.play.reconnect_grace),
                    };
                    tracing::info!(%stream, %conn, %peer, "publishing ended: {why}; {next}");
                }
            }
            Role::Viewing { stream, rendition, place, .. } => self.leave_stream(stream, rendition, place),
            Role::Waiting(wish) => {
                self.page.set_reading(wish.key.slot(), false);
                self.waiting.remove(&(Awaited::Stream, wish.key), slot);
            }
            Role::Opening(wish, _) => self.waiting.remove(&(Awaited::Lock, wish.key), slot),
            Role::WaitingForIndex(wish) => self.waiting.remove(&(Awaited::Index, wish.key), slot),
            Role::Following(_) => self.end_following(slot),
            Role::Idle | Role::Placing(_) | Role::Asking(_) | Role::AskingSession(_) => {}
        }
    }

    /// What a session's peer was owed went out, or part of it: goes on with what had to wait for that.
    pub(super) fn after_flush(&mut self, slot: usize) {
        if self.sessions.contains(slot) {
            self.http_answered(slot);
            if self.sessions.contains(slot) {
                self.enqueue(slot);
            }
        }
    }

    /// Closes everything, telling peers what their protocols have for it.
    pub(super) fn end_all_sessions(&mut self) {
        let streams: Vec<usize> = self.streams.iter().map(|(slot, _)| slot).collect();
        for stream in streams {
            self.end_viewers(stream);
        }
        let sessions: Vec<usize> = self.sessions.iter().map(|(slot, _)| slot).collect();
        for slot in sessions {
            match self.sessions.get(slot) {
                // Told, and now taking it in.
                Some(session) if session.closing => {}
                Some(session) if session.answering => self.close_when_sent(slot),
                _ => self.close(slot, End::Done),
            }
        }
    }

    pub(super) fn new_http(&self, listener: Listener) -> Protocol {
        Protocol::Http(Box::new(RequestReader::new(self.http_settings(listener))))
    }

    /// The handshake is to be done at `deadline_ms`.
    pub(super) fn new_rtmp(&self, conn: ConnId, deadline_ms: u64) -> Protocol {
        let settings = Settings { handshake_ms: deadline_ms.saturating_sub(self.now.mono_ms), ..self.rtmp_settings() };
        // The seed only has to differ between connections: it fills the handshake's random bytes.
        let seed = conn.0 ^ self.now.wall_ms.rotate_left(32) ^ (u64::from(std::process::id()) << 40);
        match self.config.relays() {
            true => self.new_relay(seed, settings),
            false => Protocol::Rtmp(Box::new(ServerSession::new(settings, seed, self.now.mono_ms))),
        }
    }
}

impl Session {
    /// Nothing is read while a decision is pending, while an answer is not out, or when the session is to be closed.
    pub(super) fn may_read(&self) -> bool {
        match self.role {
            _ if self.draining => true,
            Role::Placing(_)
            | Role::Opening(..)
            | Role::Waiting(_)
            | Role::WaitingForIndex(_)
            | Role::Asking(_)
            | Role::AskingSession(_) => false,
            Role::Idle | Role::Publishing(_) | Role::Viewing { .. } | Role::Following(_) => {
                !self.closing && !self.answering && self.more.control.len() < MAX_CONTROL_BYTES
            }
        }
    }
}
