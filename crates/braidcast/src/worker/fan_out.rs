//! Fan-out: what a stream has gained goes to its viewers, in bounded turns.
//!
//! A viewer is sent everything it lacks with one call. One that takes no more is left alone until its socket has room;
//! when it lags too far it is jumped to the newest keyframe, at a record boundary. Nothing is allocated and nothing is
//! queued for a viewer.

use super::ledger::{Next, OPEN, Slices};
use super::pacing::{Pace, Turn};
use super::rendition::Rendition;
use super::session::{Body, Protocol, Role, Session};
use super::shares::{FAN_OUT_PERMILLE, Share};
use super::streams::{Lag, LocalStream, View};
use super::walk::Walked;
use super::{End, Worker, outgoing};
use crate::control::counters::WorkerCounter;
use braidcast_media::StreamKey;
use braidcast_protocols::http::websocket;
use braidcast_stream_log::doorbell::lane;
use braidcast_stream_log::{Reader, State};
use braidcast_sys::fault::kill_point;
use braidcast_sys::net;
use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// Viewers served between two looks at the clock.
const VIEWERS_PER_LOOK: usize = 32;
/// Bytes sent to one session before the others have their turn.
pub(super) const FLUSH_BYTES: usize = 4 << 20;
/// How long sessions that are not served with others may take in one turn: those whose sockets have room again, and those that take more than others.
const UNFINISHED_TIME: Duration = Duration::from_millis(2);
/// The longest buffer of control bytes that is kept for the next answer.
const SPARE_BYTES: usize = 16 << 10;
/// How often streams' shares of the worker's time are reckoned anew, milliseconds.
const SHARES_MS: u64 = 100;
/// What one round of each stream may take together, microseconds, without anybody's share having to be reckoned: 60 frames a second fit.
const LIGHT_US: u64 = 1_000 * FAN_OUT_PERMILLE / 60;
/// The shortest time between two looks at sessions that wait, milliseconds.
const RETRY_ON_NEWS_MS: u64 = 5;

impl Worker {
    /// Looks at the local streams that have news; queues those that have grown.
    pub(super) fn take_news(&mut self) {
        let mut lanes = std::mem::take(&mut self.news);
        self.page.take_news(|lane| lanes.push(lane));
        for lane in lanes.drain(..) {
            let streams = self.stream_lanes.get(&lane).map_or(0, Vec::len);
            for at in (0..streams).rev() {
                // Looking at one of them may have ended it.
                if let Some(&slot) = self.stream_lanes.get(&lane).and_then(|streams| streams.get(at)) {
                    self.look_at_stream(slot);
                }
            }
        }
        self.news = lanes;
        // Something new may be what a session waits for; but never more often than this, however many wait.
        self.retry_at_ms = self.retry_at_ms.min(self.retried_at_ms + RETRY_ON_NEWS_MS);
    }

    /// What a writer did that died before it left news of it is found too.
    pub(super) fn look_at_all_streams(&mut self) {
        let slots: Vec<usize> = self.streams.iter().map(|(slot, _)| slot).collect();
        for slot in slots {
            self.look_at_stream(slot);
        }
    }

    /// Has a local stream grown, or ended?
    fn look_at_stream(&mut self, slot: usize) {
        let Some(stream) = self.streams.get_mut(slot) else { return };
        if stream.has_ended() {
            let is_new = !std::mem::replace(&mut stream.over, true);
            if stream.reader.state() == State::Disposed && self.stream_slots.get(&stream.key) == Some(&slot) {
                // Whoever comes now gets the stream that may be made under the same name.
                self.stream_slots.remove(&stream.key);
            }
            if is_new {
                self.end_viewers(slot);
            }
            return;
        }
        stream.over = false;
        if !stream.has_grown() {
            return;
        }
        // A block that cannot be mapped is the next round's to complain of.
        let has_video = stream.look().unwrap_or(1) > 0;
        let before = stream.pace.turn;
        match stream.pace.news(has_video, self.now.mono_ms, self.share) {
            Turn::Queued => self.turns.begin(slot, stream.pace.cost_us()),
            Turn::Riding(at_ms) | Turn::Set(at_ms) if stream.pace.turn != before => self.flushes.set(at_ms, slot as u64),
            _ => {}
        }
    }

    /// Makes a stream one that this worker reads.
    pub(super) fn add_stream(&mut self, key: &StreamKey, reader: Reader) -> usize {
        let slot = self.streams.insert(LocalStream::new(key.clone(), reader, self.pace(key)));
        self.stream_slots.insert(key.clone(), slot);
        self.stream_lanes.entry(lane(key.slot())).or_default().push(slot);
        slot
    }

    /// Takes a stream out of those that this worker reads.
    pub(super) fn remove_stream(&mut self, slot: usize) -> LocalStream {
        let stream = self.streams.remove(slot);
        self.fan_out_load_us -= stream.pace.cost_us();
        // A stream that was deleted may have a successor of the same name.
        if self.stream_slots.get(&stream.key) == Some(&slot) {
            self.stream_slots.remove(&stream.key);
        }
        let lane = lane(stream.key.slot());
        let others = self.stream_lanes.entry(lane).or_default();
        others.retain(|other| *other != slot);
        if others.is_empty() {
            self.stream_lanes.remove(&lane);
        }
        stream
    }

    /// The pace of a stream that nobody viewed here before.
    pub(super) fn pace(&self, stream: &StreamKey) -> Pace {
        Pace::new(self.config.latency(stream), self.config.play.max_batch_ms.into(), self.now.mono_ms)
    }

    /// Serves viewers for one bounded turn.
    pub(super) fn fan_out(&mut self) {
        while let Some((at_ms, slot)) = self.flushes.pop_due(self.now.mono_ms) {
            if let Some(stream) = self.streams.get_mut(slot as usize)
                && stream.pace.is_due(at_ms)
            {
                self.turns.begin(slot as usize, stream.pace.cost_us());
            }
        }
        if self.turns.is_empty() {
            return;
        }
        self.share_time();
        let began = Instant::now();
        self.turns.turn();
        while let Some((slot, until_us)) = self.turns.next(began.elapsed().as_micros() as u64) {
            if self.streams.contains(slot) && !self.fan_out_stream(slot, began + Duration::from_micros(until_us)) {
                self.turns.go_on(slot);
            }
        }
    }

    /// Says anew, from time to time, how much of the worker's time each stream may take.
    fn share_time(&mut self) {
        let now_ms = self.now.mono_ms;
        if now_ms < self.shared_at_ms + SHARES_MS {
            return;
        }
        self.shared_at_ms = now_ms;
        self.share = if self.fan_out_load_us <= LIGHT_US {
            Share::ALL
        } else {
            Share::of(&self.streams.iter_mut().map(|(_, stream)| stream.pace.need(now_ms)).collect::<Vec<_>>())
        };
    }

    /// Serves the viewers of one stream; true when all have been served, else it is so late.
    fn fan_out_stream(&mut self, slot: usize, until: Instant) -> bool {
        let began = Instant::now();
        let stream = &mut self.streams[slot];
        let looked = if stream.next_viewer == 0 {
            stream.pace.begin_round(self.now.mono_ms);
            stream.look().map(drop)
        } else {
            Ok(())
        };
        if let Err(error) = looked.and_then(|()| stream.update()) {
            tracing::error!(stream = %stream.key, %error, "cannot map a block: viewers of the stream are closed");
            // Who comes while they go has rounds again.
            self.end_round(slot);
            self.end_viewers(slot);
            return true;
        }
        let mut left = VIEWERS_PER_LOOK;
        let is_round = loop {
            match self.walk(slot, &mut left) {
                Walked::Round => break true,
                Walked::Turn => left = VIEWERS_PER_LOOK,
                Walked::Needs(viewer) => self.serve_viewer(viewer),
                Walked::Failed(viewer, error) => self.close(viewer, End::Socket(error)),
            }
            if Instant::now() >= until {
                break false;
            }
        };
        let Some(stream) = self.streams.get_mut(slot) else { return true };
        stream.pace.spend(began.elapsed().as_micros() as u64);
        if is_round {
            let may_let_go = stream.may_let_go();
            self.end_round(slot);
            if may_let_go {
                self.let_go_of_sent(slot);
            }
            // What came while the round was under way left no news that anybody still has.
            self.look_at_stream(slot);
        }
        is_round
    }

    fn end_round(&mut self, slot: usize) {
        let stream = &mut self.streams[slot];
        stream.next_viewer = 0;
        let (before_us, now_us) = stream.pace.end_round();
        self.fan_out_load_us = self.fan_out_load_us + now_us - before_us;
    }

    fn serve_viewer(&mut self, slot: usize) {
        let Some(session) = self.sessions.get(slot) else { return };
        let waits = matches!(session.role, Role::Viewing { next: Some(_), .. });
        if waits && let Err(end) = self.resume_at_keyframe(slot) {
            return self.close(slot, end);
        }
        if !self.sessions[slot].blocked {
            self.flush(slot);
        }
        if let Err(end) = self.jump_if_lost(slot) {
            self.close(slot, end);
        }
    }

    /// Lets go of a stream's memory that its viewers have passed.
    fn let_go_of_sent(&mut self, slot: usize) {
        let sessions = &self.sessions;
        let freed = self.streams[slot].let_go(|viewer| {
            let session = sessions.get(viewer)?;
            let (_, rendition) = session.viewing()?;
            let (block, offset) = session.ledger.oldest_place()?;
            // A forward is sent copies, for which blocks are read from their beginning.
            let offset = if matches!(session.more.protocol, Protocol::Client(_)) { 0 } else { offset };
            Some((rendition, (block, offset)))
        });
        if freed {
            self.told_clients.note_freed();
        }
    }

    /// Sends everything a session is owed and its socket takes.
    pub(super) fn flush(&mut self, slot: usize) {
        if let Err(end) = self.try_flush(slot) {
            self.close(slot, end);
        }
    }

    pub(super) fn try_flush(&mut self, slot: usize) -> Result<(), End> {
        let mut left = FLUSH_BYTES;
        while let Some(session) = self.sessions.get_mut(slot).filter(|session| !session.blocked) {
            if left == 0 {
                // A client that takes as fast as we give must not have the worker to itself.
                self.unfinished.push_back(session.token(slot));
                break;
            }
            let view = match session.role {
                Role::Viewing { stream, rendition, .. } => self.streams[stream].blocks(rendition),
                // Answers to a publisher wait for what it sent before to be in the log.
                Role::Publishing(publisher) if self.publishers[publisher].dirty => return Ok(()),
                _ => View::Nothing,
            };
            let next = session.ledger.gather(&view, &session.more.control);
            if !matches!(next, Next::Nothing) && session.kept.is_behind(&session.ledger) {
                self.save(slot);
                continue;
            }
            let (sent, wanted) = match next {
                Next::Nothing => break,
                Next::Slices(slices) => match outgoing::message_stream(session) {
                    None => (send(&session.socket, &slices), slices.total()),
                    Some(id) => outgoing::send_restamped(&session.socket, &session.ledger, &view, &session.more.control, id),
                },
                Next::Body(offset, length) => {
                    let length = left.min(length as usize);
                    (send_body(&session.socket, session.more.body.as_deref(), offset as usize, length), length)
                }
            };
            match sent {
                Ok(0) => return Err(End::Fault("a body is shorter than was promised")),
                Ok(sent) => {
                    kill_point("sent");
                    let control = session.ledger.advance(sent);
                    if let Some(mut buffer) = session.forget_control(control).filter(|buffer| buffer.capacity() <= SPARE_BYTES) {
                        buffer.clear();
                        self.spare_control = buffer;
                    }
                    self.page.counter(WorkerCounter::BytesOut as usize).fetch_add(sent as u64, std::sync::atomic::Ordering::Relaxed);
                    if let Some((stream, _)) = session.viewing().filter(|_| !matches!(session.more.protocol, Protocol::Client(_))) {
                        self.streams[stream].sent_bytes += sent as u64;
                    }
                    session.blocked = sent < wanted;
                    left = left.saturating_sub(sent);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => session.blocked = true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(End::Socket(error)),
            }
        }
        self.finish_closing(slot)
    }

    /// Goes on, for one bounded turn, with sessions whose sockets have room again, and those that took everything that they were given in the last turn.
    pub(super) fn flush_unfinished(&mut self) {
        let since = Instant::now();
        for _ in 0..self.unfinished.len() {
            let Some(token) = self.unfinished.pop_front() else { return };
            if let Some(slot) = self.slot_of(token) {
                self.flush(slot);
                self.after_flush(slot);
            }
            if since.elapsed() >= UNFINISHED_TIME {
                return;
            }
        }
    }

    /// Ends our half of a connection that is owed nothing more and is to be closed.
    fn finish_closing(&mut self, slot: usize) -> Result<(), End> {
        let Some(session) = self.sessions.get_mut(slot) else { return Ok(()) };
        if !session.ledger.is_empty() {
            return Ok(());
        }
        if session.more.body.is_some() {
            session.more.body = None;
        }
        if session.closing && !session.draining {
            net::shutdown(&session.socket, Shutdown::Write).map_err(End::Socket)?;
            session.draining = true;
            session.deadline_ms = self.now.mono_ms + super::DRAINING_MS;
            self.watch_deadline(slot);
            self.enqueue(slot);
        }
        Ok(())
    }

    /// Jumps a viewer to the newest keyframe if it lags too far, or if the log has gone on without it.
    fn jump_if_lost(&mut self, slot: usize) -> Result<(), End> {
        let Some(session) = self.sessions.get_mut(slot) else { return Ok(()) };
        let Some((stream, rendition)) = session.viewing().filter(|_| !session.closing) else { return Ok(()) };
        let Some((block, offset)) = session.ledger.position() else { return Ok(()) };
        let stream = &mut self.streams[stream];
        let play = &self.config.play;
        let lags = |lag: Lag| lag.bytes > play.max_lag_bytes.bytes() || lag.ms > play.max_lag.as_ms();
        // Behind what a jump before has left to be finished.
        let pace = session.ledger.pace().unwrap_or((block, offset));
        let lost = match session.blocked {
            true => lags(stream.lag(pace.0, pace.1, rendition)),
            false => stream.is_stranded(block, offset, rendition),
        };
        if !lost {
            return Ok(());
        }
        let Some(generation) = stream.generation(block) else {
            return Err(End::Fault("the block that a viewer reads is gone"));
        };
        let target = match stream.start(rendition) {
            Ok(Some(target)) if target > pace => target,
            Ok(_) => return Ok(()),
            Err(error) => {
                tracing::error!(stream = %stream.key, %error, "cannot map a block");
                return Ok(());
            }
        };
        session.ledger.abandon(&stream.blocks(rendition));
        let first = rendition.file_header_bytes();
        let prefix = stream.prefix_bytes(target.0, rendition);
        if stream.generation(target.0) != Some(generation) && prefix > first {
            session.owe_run(target.0, first, prefix)?;
        }
        session.owe_run(target.0, target.1, OPEN)?;
        tracing::debug!(stream = %stream.key, conn = %session.conn, from = ?(block, offset), to = ?target,
            "a viewer that lagged was jumped to the newest keyframe");
        let forwards = matches!(session.more.protocol, Protocol::Client(_));
        stream.jumps += u64::from(!forwards);
        self.count(if forwards { WorkerCounter::ForwardJumps } else { WorkerCounter::ViewerJumps });
        self.try_flush(slot)
    }

    /// The stream is over: its viewers are told in their protocol's way and closed.
    pub(super) fn end_viewers(&mut self, slot: usize) {
        let stream = &mut self.streams[slot];
        if let Err(error) = stream.update() {
            tracing::error!(stream = %stream.key, %error, "cannot map the stream's last block");
        }
        for session in stream.viewers.clone() {
            self.end_viewer(session);
        }
        self.forget_unwatched(slot);
    }

    pub(super) fn end_viewer(&mut self, slot: usize) {
        // Who keeps up gets everything; who does not, the message that was begun.
        self.flush(slot);
        if let Err(end) = self.wake(slot) {
            return self.close(slot, end);
        }
        let Some(session) = self.sessions.get_mut(slot) else { return };
        let Role::Viewing { stream, rendition, .. } = session.role else { return };
        if session.closing {
            return;
        }
        session.ledger.abandon(&self.streams[stream].blocks(rendition));
        match &mut session.more.protocol {
            Protocol::Rtmp(rtmp) => {
                rtmp.end_play(self.now.mono_ms);
                let bytes = rtmp.take_outbox();
                session.push_control(&bytes);
            }
            Protocol::Client(client) => {
                client.end();
                let bytes = client.take_outbox();
                session.push_control(&bytes);
            }
            Protocol::WebSocket(_) => session.push_control(&websocket::goodbye()),
            Protocol::Http(_) | Protocol::Prefix(_) | Protocol::Unknown | Protocol::Relay(_) | Protocol::Resting => {}
        }
        // What is left still needs the stream's blocks: it goes with its last viewer.
        self.close_when_sent(slot);
    }

    /// Makes a session a viewer of a stream that is there, from a place that [`super::streams::LocalStream::start`] gave just now.
    pub(super) fn start_viewing(&mut self, slot: usize, stream: usize, rendition: Rendition, start: (u32, u32)) -> Result<(), End> {
        let place = self.streams[stream].join(slot, rendition);
        let session = &mut self.sessions[slot];
        session.enter(Role::Viewing { stream, rendition, place, next: None });
        session.deadline_ms = 0;
        // Players say more before they are answered; nobody rests who was not heard.
        self.enqueue(slot);
        let (block, offset) = start;
        let prefix = self.streams[stream].prefix_bytes(block, rendition);
        let session = &mut self.sessions[slot];
        if offset == prefix {
            return session.owe_run(block, 0, OPEN);
        }
        if prefix > 0 {
            session.owe_run(block, 0, prefix)?;
        }
        session.owe_run(block, offset, OPEN)
    }

    /// A session views no longer.
    pub(super) fn leave_stream(&mut self, stream: usize, rendition: Rendition, place: usize) {
        let local = &mut self.streams[stream];
        self.page.set_reading(local.key.slot(), false);
        for (session, now_at) in local.leave(place, rendition).into_iter().flatten() {
            if let Some(Session { role: Role::Viewing { place, .. }, .. }) = self.sessions.get_mut(session) {
                *place = now_at;
            }
        }
        self.forget_unwatched(stream);
    }
}

/// A segment's pages go as they are: nothing is copied.
fn send_body(socket: &OwnedFd, body: Option<&Body>, offset: usize, length: usize) -> io::Result<usize> {
    match body {
        Some(Body::Segment(_, segment)) => net::sendfile(socket, segment.file(), offset as u64, length),
        Some(Body::Asset(_, asset)) => net::send(socket, asset.bytes.get(offset..offset + length).unwrap_or_default()),
        None => Ok(0),
    }
}

/// One call, whatever there is to send; the plain one when it is one run, which it nearly always is.
fn send(socket: &OwnedFd, slices: &Slices<'_>) -> io::Result<usize> {
    match slices.as_slice() {
        [one] if slices.are_before_body() => net::send_more(socket, one),
        [one] => net::send(socket, one),
        several => net::writev(socket, several),
    }
}
