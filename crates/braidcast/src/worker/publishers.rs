//! Admission, and the way of a publisher's records: log, commit, doorbells, segmenter.
//!
//! Success is told to a client only here, after the front has placed it and the stream is held.

use super::ingest::Publisher;
use super::rendition::Carried;
use super::session::{Role, Session, Want, Wish};
use super::waiting::Awaited;
use super::{End, OPENING_MS, RETRY_MS, Worker};
use crate::control::counters::WorkerCounter;
use crate::control::{Refusal, ToFront};
use crate::hls::{Options, StreamSegmenter};
use braidcast_media::{RecordKind, StreamKey};
use braidcast_protocols::hls::SegmentInfo;
use braidcast_stream_log::{AppendError, OpenError, Reader, State, Writer, dispose};
use braidcast_sys::fault::kill_point;
use std::io;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How often a publisher's segmenter looks whether what is new is worth taking in, milliseconds.
pub(super) const PUMP_MS: u64 = 100;
/// They do so at multiples of this, many in one wake-up.
const PUMP_STEP_MS: u64 = 25;
/// Log bytes a segmenter takes in in one turn.
const PUMP_BYTES: usize = 1 << 20;
/// Finished segments that a front, or the front, is told of once more, in case it was not told.
pub(super) const TOLD_AGAIN: usize = 8;
/// How long segmenters may hold up a turn together.
const PUMP_TIME: Duration = Duration::from_millis(10);
/// Streams that somebody waits for, looked at in one turn: each is a failed open, some microseconds.
const LOOKS_PER_TURN: usize = 128;
/// Sessions that end their wait in one turn.
const SERVED_PER_TURN: usize = 32;

/// When a segmenter that has looked just now looks again.
fn next_pump_ms(now_ms: u64) -> u64 {
    (now_ms + PUMP_MS) / PUMP_STEP_MS * PUMP_STEP_MS
}

impl Worker {
    /// Serves here what a session wished for; the front has agreed.
    pub(super) fn admit(&mut self, slot: usize, wish: Wish, next_segment: u64) -> Result<(), End> {
        match wish.what {
            Want::Publish => self.admit_publisher(slot, wish, next_segment),
            Want::Play(_) => self.admit_viewer(slot, wish),
        }
    }

    fn admit_publisher(&mut self, slot: usize, wish: Wish, next_segment: u64) -> Result<(), End> {
        let mut writer = match self.open_writer(&wish.key) {
            Ok(writer) => writer,
            Err(OpenError::Locked) => {
                self.wait_for_lock(slot, wish, next_segment);
                return Ok(());
            }
            Err(error) => {
                let Session { conn, ref more, .. } = self.sessions[slot];
                let peer = more.peer;
                tracing::error!(stream = %wish.key, %conn, %peer, %error, "cannot open the stream's log");
                let refusal = if matches!(error, OpenError::Full) { Refusal::DirectoryFull } else { Refusal::Unavailable };
                return self.refuse(slot, refusal);
            }
        };
        if let Err(error) = writer.begin_publish(self.now) {
            // It has begun all the same: what could not be written was left over from before.
            let Session { conn, ref more, .. } = self.sessions[slot];
            let peer = more.peer;
            tracing::error!(stream = %wish.key, %conn, %peer, %error, "what an earlier publisher left could not be written");
        }
        self.leave_waiting(slot);
        self.note_via(slot, &wish.key);
        let session = &mut self.sessions[slot];
        writer.set_publisher(session.more.peer);
        if self.peer_lines.allow(self.now.mono_ms) {
            tracing::info!(stream = %wish.key, conn = %session.conn, peer = %session.more.peer, "publishing begins");
        }
        let publisher = self.publishers.insert(Publisher {
            session: slot,
            key_slot: wish.key.slot(),
            key: wish.key,
            evicted: writer.counters().evicted_blocks,
            writer,
            segmenter: None,
            segmenter_from: Some(next_segment),
            dirty: false,
            pump_at_ms: 0,
            dropped: 0,
            complain_at: 1,
        });
        session.enter(Role::Publishing(publisher));
        self.watch_publisher(slot);
        self.plan_pump(publisher, self.now.mono_ms);
        let session = &mut self.sessions[slot];
        session.deadline_ms = 0;
        self.publish_accepted(slot)?;
        if matches!(self.sessions.get(slot), Some(Session { role: Role::Publishing(_), .. })) {
            self.begin_forwards(publisher);
        }
        Ok(())
    }

    /// Opens a stream's log for writing. One that is damaged beyond reading is deleted: a stream must not be lost for its past.
    pub(super) fn open_writer(&self, key: &StreamKey) -> Result<Writer, OpenError> {
        let opened = Writer::open(&self.root, key, &self.log_options, self.now);
        let Err(OpenError::Damaged) = opened else { return opened };
        tracing::error!(stream = %key, "the stream's log is damaged: its directory is deleted and begun anew");
        dispose(&self.root, key)?;
        Writer::open(&self.root, key, &self.log_options, self.now)
    }

    fn wait_for_lock(&mut self, slot: usize, wish: Wish, next_segment: u64) {
        let session = &mut self.sessions[slot];
        if !matches!(session.role, Role::Opening(..)) {
            session.deadline_ms = self.now.mono_ms + OPENING_MS;
            self.waiting.add((Awaited::Lock, wish.key.clone()), slot);
        }
        session.enter(Role::Opening(Box::new(wish), next_segment));
        self.watch_deadline(slot);
    }

    fn leave_waiting(&mut self, slot: usize) {
        if let Role::Opening(wish, _) = &self.sessions[slot].role {
            self.waiting.remove(&(Awaited::Lock, wish.key.clone()), slot);
        }
    }

    fn admit_viewer(&mut self, slot: usize, wish: Wish) -> Result<(), End> {
        let key = wish.key.clone();
        // The bit is set before the first look, so that a stream that begins now rings.
        self.page.set_reading(key.slot(), true);
        let session = &mut self.sessions[slot];
        session.enter(Role::Waiting(Box::new(wish)));
        session.deadline_ms = self.now.mono_ms + self.config.play.play_wait.as_ms();
        self.waiting.add((Awaited::Stream, key.clone()), slot);
        self.watch_deadline(slot);
        self.with_local_stream(&key, |worker, stream| worker.try_play(slot, stream)).unwrap_or(Ok(()))?;
        match self.sessions.get(slot) {
            Some(Session { role: Role::Waiting(_), peer_ended: true, .. }) => self.not_found(slot),
            _ => Ok(()),
        }
    }

    /// Looks at what sessions wait for, in a bounded turn.
    pub(super) fn try_waiting(&mut self) {
        let now_ms = self.now.mono_ms;
        if self.waiting.is_empty() || now_ms < self.retry_at_ms {
            return;
        }
        self.retried_at_ms = now_ms;
        self.retry_at_ms = now_ms + RETRY_MS;
        let mut left = SERVED_PER_TURN;
        for _ in 0..self.waiting.places().min(LOOKS_PER_TURN) {
            let Some(((awaited, key), sessions, more)) = self.waiting.next(left) else { return };
            let served = match awaited {
                Awaited::Stream => self.with_local_stream(&key, |worker, stream| {
                    worker.serve_waiting(&sessions, |worker, slot| worker.try_play(slot, stream));
                }),
                Awaited::Lock => {
                    self.serve_waiting(&sessions, Self::try_open);
                    Some(())
                }
                Awaited::Index => self.is_index_settled(&key).then(|| self.serve_waiting(&sessions, Self::retry_index)),
            };
            if served.is_some() {
                left = left.saturating_sub(sessions.len()).max(1);
                if more {
                    // The others are not kept waiting for the next look.
                    self.retry_at_ms = now_ms;
                }
            }
        }
    }

    fn serve_waiting(&mut self, sessions: &[usize], mut serve: impl FnMut(&mut Self, usize) -> Result<(), End>) {
        for &slot in sessions {
            if let Err(end) = serve(self, slot) {
                self.close(slot, end);
            }
        }
    }

    fn try_open(&mut self, slot: usize) -> Result<(), End> {
        let Some(Session { role: Role::Opening(wish, next_segment), .. }) = self.sessions.get(slot) else { return Ok(()) };
        let (wish, next_segment) = (wish.clone(), *next_segment);
        self.admit_publisher(slot, *wish, next_segment)
    }

    /// Starts the play of a session that waits for a stream, if there is a place to start at.
    pub(super) fn try_play(&mut self, slot: usize, stream: usize) -> Result<(), End> {
        let Some(Session { role: Role::Waiting(wish), conn, more, .. }) = self.sessions.get(slot) else { return Ok(()) };
        let peer = more.peer;
        let Want::Play(rendition) = wish.what else { return Ok(()) };
        // The viewer that came before may have failed at its first byte, and the stream's local view gone with it.
        let Some(local) = self.streams.get_mut(stream) else { return Ok(()) };
        let offered = local.offered(rendition).and_then(|rendition| Ok(local.start(rendition)?.map(|start| (rendition, start))));
        let (rendition, start) = match offered {
            Ok(Some(start)) => start,
            Ok(None) => return Ok(()),
            Err(error) => {
                tracing::error!(stream = %wish.key, %conn, %peer, %error, "cannot map the stream's log");
                return Err(End::Fault("cannot map the stream's log"));
            }
        };
        match local.carries(rendition, start.0) {
            Carried::Yes => {}
            Carried::NotYet => return Ok(()),
            Carried::No(codecs) => {
                let text = format!("the stream cannot be had in this form: it has {codecs}");
                return self.release_with(slot, &text);
            }
        }
        self.waiting.remove(&(Awaited::Stream, wish.key.clone()), slot);
        // What is said before the media has to be in the ledger first. The mark that the session reads the stream stays: from
        // now on it is the viewer's.
        self.play_accepted(slot, rendition.form);
        self.start_viewing(slot, stream, rendition, start)?;
        let (session, stream) = (&self.sessions[slot], &self.streams[stream]);
        tracing::debug!(stream = %stream.key, conn = %session.conn, peer = %session.more.peer, "playing begins");
        self.try_flush(slot)
    }

    /// Does something with the local view of a stream, which is forgotten afterwards unless somebody watches it. `None`: there
    /// is no such stream to watch.
    pub(super) fn with_local_stream<T>(&mut self, key: &StreamKey, act: impl FnOnce(&mut Self, usize) -> T) -> Option<T> {
        let stream = self.local_stream(key)?;
        let result = act(self, stream);
        self.forget_unwatched(stream);
        Some(result)
    }

    /// The local view of a stream that is live, or waits for its publisher to come back.
    fn local_stream(&mut self, key: &StreamKey) -> Option<usize> {
        let plays = |reader: &Reader| matches!(reader.state(), State::Live | State::Waiting);
        if let Some(&slot) = self.stream_slots.get(key) {
            return plays(&self.streams[slot].reader).then_some(slot);
        }
        let reader = match Reader::open(&self.root, key) {
            Ok(reader) => reader?,
            Err(error) => {
                if self.peer_lines.allow(self.now.mono_ms) {
                    tracing::error!(stream = %key, %error, "cannot read the stream's log: nobody can watch it");
                }
                return None;
            }
        };
        if !plays(&reader) {
            return None;
        }
        Some(self.add_stream(key, reader))
    }

    /// Forgets the local view of a stream that nobody here watches.
    pub(super) fn forget_unwatched(&mut self, slot: usize) {
        if self.streams.get(slot).is_some_and(|stream| stream.viewers.is_empty()) {
            let mut stream = self.remove_stream(slot);
            let (sent_bytes, jumps) = stream.take_counted();
            if sent_bytes + jumps > 0 {
                self.watching.add(&stream.key, sent_bytes, jumps);
            }
        }
    }

    /// A record came from a publisher.
    ///
    /// # Errors
    /// The record is one that no log takes: the publisher is closed.
    pub(super) fn append(&mut self, publisher: usize, kind: RecordKind, timestamp_ms: u32, payload: &[u8]) -> Result<(), End> {
        if self.publishers.get(publisher).is_some_and(|at| at.writer.is_written()) {
            // What lies in the files is as long as it was written.
            self.commit_publisher(publisher);
        }
        let Some(at) = self.publishers.get_mut(publisher) else { return Ok(()) };
        let converted = at.writer.converted();
        let appended = at.writer.append(kind, timestamp_ms, payload, self.now);
        self.appended(publisher, converted, appended)
    }

    /// Records were appended; `converted` is what the writer had counted before.
    pub(super) fn appended(&mut self, publisher: usize, converted: u64, appended: Result<(), AppendError>) -> Result<(), End> {
        let at = &mut self.publishers[publisher];
        let newly_converted = at.writer.converted() - converted;
        if newly_converted > 0 {
            if converted == 0 && self.peer_lines.allow(self.now.mono_ms) {
                let Session { conn, ref more, .. } = self.sessions[at.session];
                let peer = more.peer;
                tracing::info!(stream = %at.key, %conn, %peer, "the encoder sends video with start codes (Annex B): it is converted");
            }
            self.page.counter(WorkerCounter::VideoConverted as usize).fetch_add(newly_converted, Ordering::Relaxed);
        }
        if !std::mem::replace(&mut at.dirty, true) {
            self.dirty.push(publisher);
        }
        match appended {
            Ok(()) => {}
            Err(error @ (AppendError::TooLong { .. } | AppendError::HeaderFlood)) => {
                self.page.counter(WorkerCounter::RefusedRecords as usize).fetch_add(1, Ordering::Relaxed);
                return Err(End::Peer(format!("{error} (stream {})", at.key)));
            }
            Err(error) => self.records_dropped(publisher, &error),
        }
        Ok(())
    }

    pub(super) fn records_dropped(&mut self, publisher: usize, error: &AppendError) {
        let dropped = if let AppendError::Full { dropped } = error { *dropped } else { 1 };
        self.page.counter(WorkerCounter::RecordsDropped as usize).fetch_add(dropped, Ordering::Relaxed);
        let at = &mut self.publishers[publisher];
        at.dropped += dropped;
        if at.dropped >= at.complain_at {
            at.complain_at = at.dropped.saturating_mul(2);
            let Session { conn, ref more, .. } = self.sessions[at.session];
            let peer = more.peer;
            tracing::error!(stream = %at.key, %conn, %peer, dropped = at.dropped, "records are dropped: {error}; raise the directory's size or [log] budget, or lower [log] keep");
        }
    }

    /// Makes what publishers sent in this turn visible to readers, and wakes them. Then sends the publishers what they were
    /// answered meanwhile.
    pub(super) fn commit_publishers(&mut self) -> bool {
        let mut dirty = std::mem::take(&mut self.dirty);
        for publisher in &dirty {
            self.commit_publisher(*publisher);
        }
        let committed = !self.committed.is_empty();
        self.add(WorkerCounter::SharedWrites, self.committed.len() as u64);
        self.ring(&self.committed);
        self.committed.clear();
        for publisher in dirty.drain(..) {
            if let Some(session) = self.publishers.get(publisher).map(|at| at.session) {
                self.flush(session);
            }
        }
        // Its room serves the next turn.
        if self.dirty.is_empty() {
            self.dirty = dirty;
        }
        committed
    }

    /// Tells the readers of streams with these slots that they have news.
    pub(super) fn ring(&self, slots: &[u16]) {
        let rung = self.doorbells.ring(slots);
        self.add(WorkerCounter::DoorbellRings, rung.woken);
        self.add(WorkerCounter::SharedWrites, rung.news);
    }

    /// Writes what a publisher sent, saves its session, lets readers see it: in this order, so that whoever goes on after a death in
    /// between knows what was done. True if there was anything.
    pub(super) fn commit_publisher(&mut self, publisher: usize) -> bool {
        let Some(at) = self.publishers.get_mut(publisher) else { return false };
        if !std::mem::replace(&mut at.dirty, false) {
            return false;
        }
        match at.writer.write() {
            Ok(true) => {}
            Ok(false) => return false,
            Err(error) => {
                self.records_dropped(publisher, &error);
                return false;
            }
        }
        let session = at.session;
        self.save(session);
        kill_point("batch_saved");
        let at = &mut self.publishers[publisher];
        self.committed.push(at.key_slot);
        at.writer.publish(self.now)
    }

    /// Lets segmenters that are due take in what is new, in a bounded turn: who waits longest first.
    pub(super) fn pump_segments(&mut self) {
        let now_ms = self.now.mono_ms;
        if self.pumps.next_ms().is_none_or(|due_ms| due_ms > now_ms) {
            return;
        }
        let until = Instant::now() + PUMP_TIME;
        while let Some((at_ms, slot)) = self.pumps.pop_due(now_ms) {
            let slot = slot as usize;
            if self.publishers.get(slot).is_some_and(|at| at.pump_at_ms == at_ms) {
                self.pump_publisher(slot, now_ms);
            }
            if Instant::now() >= until {
                return;
            }
        }
    }

    /// Has a publisher's segmenter take in what is new at this time.
    pub(super) fn plan_pump(&mut self, slot: usize, at_ms: u64) {
        self.publishers[slot].pump_at_ms = at_ms;
        self.pumps.set(at_ms, slot as u64);
    }

    fn pump_publisher(&mut self, slot: usize, now_ms: u64) {
        self.start_segmenter(slot);
        if !self.commit_resting(slot) {
            return;
        }
        let at = &mut self.publishers[slot];
        let Some((segmenter, reader)) = &mut at.segmenter else { return };
        if !segmenter.is_due(reader) {
            return self.plan_pump(slot, next_pump_ms(now_ms));
        }
        let before = segmenter.store().counters();
        let pumped = segmenter.pump(reader, PUMP_BYTES, &mut self.segment_bytes);
        let after = segmenter.store().counters();
        for (counter, more) in
            [(WorkerCounter::SegmentsEvicted, after.evicted - before.evicted), (WorkerCounter::SegmentsLost, after.lost - before.lost)]
        {
            self.page.counter(counter as usize).fetch_add(more, Ordering::Relaxed);
        }
        match pumped {
            Ok(pumped) => {
                self.plan_pump(slot, if pumped.more { now_ms + 1 } else { next_pump_ms(now_ms) });
                let at = &self.publishers[slot];
                if !pumped.finished.is_empty() {
                    let key = at.key.clone();
                    self.report_segments(&key, &pumped.finished);
                }
            }
            Err(error) => {
                tracing::error!(stream = %at.key, %error, "HLS of the stream ends: its segmenter failed");
                at.segmenter = None;
            }
        }
    }

    pub(super) fn report_segments(&mut self, key: &StreamKey, finished: &[SegmentInfo]) {
        if !finished.is_empty() {
            self.hls_files.renewed(key);
        }
        for info in finished {
            self.count(WorkerCounter::Segments);
            let duration_ms = Some(duration_ms(info));
            self.tell_front(&ToFront::Segment { key: key.clone(), next: info.number + 1, duration_ms });
        }
    }

    fn hls_options(&self) -> Options {
        let hls = &self.config.hls;
        Options {
            fragment_ms: u32::try_from(hls.fragment.as_ms()).unwrap_or(u32::MAX),
            window_ms: hls.window.as_ms(),
            retention_ms: hls.retention.as_ms(),
            budget_bytes: self.hls_budget_bytes,
        }
    }

    /// Opens a publisher's segmenter if that is still to be done.
    fn start_segmenter(&mut self, slot: usize) {
        let at = &mut self.publishers[slot];
        if let Some(next_segment) = at.segmenter_from.take() {
            let key = at.key.clone();
            self.publishers[slot].segmenter = self.open_segmenter(&key, next_segment);
            let untold = self.publishers[slot].segmenter.as_ref().map(|(segmenter, _)| untold(segmenter, next_segment));
            self.report_segments(&key, &untold.unwrap_or_default());
        }
    }

    pub(super) fn open_segmenter(&self, key: &StreamKey, next_segment: u64) -> Option<(StreamSegmenter, Reader)> {
        if !self.config.hls.enabled {
            return None;
        }
        let reader = match Reader::open(&self.root, key) {
            Ok(Some(reader)) => reader,
            Ok(None) => return None,
            Err(error) => {
                tracing::error!(stream = %key, %error, "no HLS for the stream: its log cannot be read");
                return None;
            }
        };
        match StreamSegmenter::open(&self.root, key, next_segment, self.hls_options()) {
            Ok(segmenter) => Some((segmenter, reader)),
            Err(error) => {
                tracing::error!(stream = %key, %error, "no HLS for the stream: its segmenter cannot start");
                None
            }
        }
    }

    /// A publisher is gone: its last records are committed, its last segment finished, the stream, which is returned, left for its
    /// return.
    pub(super) fn end_publisher(&mut self, slot: usize) -> Option<StreamKey> {
        self.publishers.get(slot)?;
        self.commit_publisher(slot);
        self.start_segmenter(slot);
        let mut at = self.publishers.remove(slot);
        self.dirty.retain(|dirty| *dirty != slot);
        if let Err(error) = at.writer.end_publish(self.now) {
            tracing::error!(stream = %at.key, %error, "the end of the stream could not be written");
        }
        if let Some((segmenter, reader)) = &mut at.segmenter {
            match catch_up(segmenter, reader) {
                Ok(mut finished) => {
                    finished.extend(segmenter.finish_publish());
                    self.report_segments(&at.key, &finished);
                }
                Err(error) => tracing::error!(stream = %at.key, %error, "the stream's last segment could not be finished"),
            }
        }
        let evicted = at.newly_evicted();
        self.page.counter(WorkerCounter::BlocksEvicted as usize).fetch_add(evicted, Ordering::Relaxed);
        self.ring(&[at.key_slot]);
        self.end_forwards(&at.key);
        Some(at.key)
    }
}

/// How long a segment plays, milliseconds.
pub(super) fn duration_ms(segment: &SegmentInfo) -> u64 {
    segment.duration_90k / 90
}

/// The segments that were finished by a worker that died before it told the front, which awaits `next_segment`.
pub(super) fn untold(segmenter: &StreamSegmenter, next_segment: u64) -> Vec<SegmentInfo> {
    let newest = segmenter.store().segments().rev().take(TOLD_AGAIN).take_while(|info| info.number >= next_segment);
    let mut untold: Vec<SegmentInfo> = newest.cloned().collect();
    untold.reverse();
    untold
}

/// Has a segmenter read all that is committed.
pub(super) fn catch_up(segmenter: &mut StreamSegmenter, reader: &Reader) -> io::Result<Vec<SegmentInfo>> {
    let (mut finished, mut buffer) = (Vec::new(), Vec::new());
    loop {
        let pumped = segmenter.pump(reader, PUMP_BYTES, &mut buffer)?;
        finished.extend(pumped.finished);
        if !pumped.more {
            return Ok(finished);
        }
    }
}
