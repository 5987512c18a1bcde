//! Reads a stream's log and fills its `hls/` directory.
//!
//! A [`StreamSegmenter`] belongs to whoever holds the stream's writer lock. It is a reader of the log like any other: it never
//! delays the writer, and after a death it goes on from `hls/state` and the log alone. The wall clock of a record is computed from
//! its block's, so that a segment that is written once more comes out with the same bytes.

use super::scan::Skipped;
use super::state::SavedState;
use super::store::{FinishError, SegmentStore, StoreOptions};
use braidcast_media::flv::{self, FILE_HEADER};
use braidcast_media::{RecordKind, StreamKey, TagInfo};
use braidcast_protocols::hls::segmenter::{Due, SegmenterOutput};
use braidcast_protocols::hls::{SegmentInfo, Segmenter, SegmenterOptions, SegmenterState};
use braidcast_stream_log::{Ahead, BlockInfo, BlockMap, Position, Reader, Root};
use braidcast_sys::fault::kill_point;
use std::io;

/// How often, in one turn, a block may vanish just when it is to be read.
const MAX_RACES: u32 = 3;
/// What is new waits until it is so many milliseconds of media, if it cannot finish a segment.
const CALM_MS: i64 = 500;
/// As [`CALM_MS`], in bytes.
const CALM_BYTES: u32 = 256 << 10;
/// A buffer that has grown beyond this is given back.
const KEPT_BUFFER_BYTES: usize = 1 << 20;
/// Segments that begin without a keyframe are a stopgap: encoders with long GOPs (10 s is common) shall not get them.
const LEAST_HARD_MAX_MS: u32 = 30_000;

/// How a stream is cut and kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// A segment ends with the first keyframe at or after so many milliseconds.
    pub fragment_ms: u32,
    /// See [`StoreOptions::window_ms`].
    pub window_ms: u64,
    /// See [`StoreOptions::retention_ms`].
    pub retention_ms: u64,
    /// See [`StoreOptions::budget_bytes`].
    pub budget_bytes: u64,
}

/// What [`StreamSegmenter::pump`] did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Pumped {
    /// The budget was used up before the log was.
    pub more: bool,
    /// Segments that were finished, in order.
    pub finished: Vec<SegmentInfo>,
}

/// See the module's head.
#[derive(Debug)]
pub struct StreamSegmenter {
    key: StreamKey,
    options: SegmenterOptions,
    window_ms: u64,
    segmenter: Segmenter,
    store: SegmentStore,
    /// The segmenter as of the last segment that is safe, and where its next one opens: what a restart begins with.
    kept: SegmenterState,
    resume: Position,
    /// What is read next; block 0: nothing was read yet.
    position: Position,
    /// Of the block that was read last; 0: none was.
    epoch: u32,
    generation: u32,
    block: Option<(BlockInfo, BlockMap)>,
    finished: Vec<SegmentInfo>,
    /// Of the log when it was last read to its end, and when the open segment may end; see [`StreamSegmenter::is_due`].
    read_to_ms: i64,
    due: Option<Due>,
}

impl StreamSegmenter {
    /// Opens a stream's `hls/` directory, rebuilds the live index from the segments that are there, and goes on where the saved state
    /// says; if there is none that fits the log, with the number after the highest segment. No segment gets a number below
    /// `next_segment_floor`, except one that is there already and is written once more with the same bytes.
    ///
    /// # Errors
    /// The directory or the log cannot be opened. What else goes wrong is logged.
    pub fn open(root: &Root, key: &StreamKey, next_segment_floor: u64, options: Options) -> io::Result<Self> {
        let directory = root.hls_dir(key);
        let store_options =
            StoreOptions { window_ms: options.window_ms, retention_ms: options.retention_ms, budget_bytes: options.budget_bytes };
        let (mut store, skipped) = SegmentStore::open(&directory, store_options)?;
        for Skipped { name, why } in skipped {
            tracing::warn!(stream = %key, file = name, why, "a file among the segments was skipped");
        }
        let saved = SavedState::load(&directory)?;
        if let Some(saved) = &saved {
            store.resume(saved.longest_90k, saved.ended);
        }
        if let Err(error) = store.write_index() {
            tracing::warn!(stream = %key, %error, "the HLS index could not be written");
        }
        let reader = Reader::open(root, key)?;
        let new = saved.is_none();
        let segmenter = Self::start(key, options, store, saved, reader.as_ref(), next_segment_floor);
        if new {
            // A death between the first segment and its state must not leave a segment that nobody knows the origin of.
            segmenter.save();
        }
        Ok(segmenter)
    }

    fn start(
        key: &StreamKey,
        options: Options,
        store: SegmentStore,
        saved: Option<SavedState>,
        reader: Option<&Reader>,
        floor: u64,
    ) -> Self {
        let last = store.segments().next_back();
        let next = last.map_or(0, |info| info.number).saturating_add(1);
        let passed = last.map_or(0, |info| info.discontinuity_sequence);
        let continued = saved.as_ref().zip(reader).is_some_and(|(saved, reader)| is_continued_by(reader, saved, last));
        let fits = continued && saved.as_ref().is_some_and(|saved| floor <= next.max(saved.segmenter.next_number));
        let history = saved.is_some() || last.is_some() || floor > 1;
        let (resume, epoch) = match (&saved, reader) {
            // A place that was evicted is found out by reading, as if the segmenter had been slow.
            (Some(saved), Some(reader)) if continued || saved.block < reader.oldest_block() => (saved.position(), saved.epoch),
            // The segments hold an unknown part of the log: nothing of it shall come twice.
            (None, Some(reader)) if last.is_some() => (reader.start().unwrap_or_default(), 0),
            // A log that the segments hold nothing of.
            _ => (Position::default(), 0),
        };
        let name = || format!("{}/{}/{}", key.vhost(), key.app(), key.stream());
        let mut state = saved.map_or_else(|| SegmenterState::new(name(), 1), |saved| saved.segmenter);
        if !fits {
            state.next_number = state.next_number.max(next).max(floor);
            state.discontinuity_sequence = state.discontinuity_sequence.max(passed);
        }
        let usual = SegmenterOptions::new(options.fragment_ms);
        let cutting = SegmenterOptions { hard_max_ms: usual.hard_max_ms.max(LEAST_HARD_MAX_MS), ..usual };
        let mut segmenter = Segmenter::new(cutting, state);
        if history && !fits {
            segmenter.discontinuity();
        }
        Self {
            key: key.clone(),
            options: cutting,
            window_ms: options.window_ms,
            kept: segmenter.state().clone(),
            segmenter,
            store,
            resume,
            position: resume,
            epoch,
            generation: 0,
            block: None,
            finished: Vec::new(),
            read_to_ms: 0,
            due: None,
        }
    }

    /// Whether [`StreamSegmenter::pump`] is worth its while: what is new may finish a segment, or it is much. What is left unread
    /// meanwhile is safe in the log.
    pub fn is_due(&self, reader: &Reader) -> bool {
        let commit = reader.commit();
        if commit == self.position {
            return false;
        }
        let Some(due) = self.due.filter(|_| commit.block == self.position.block) else { return true };
        let new_ms = reader.last_timestamp_ms().saturating_sub(self.read_to_ms);
        let finishes = u64::try_from(new_ms).is_ok_and(|new_ms| new_ms >= due.in_ms);
        (finishes && (!due.by_keyframe || reader.newest_keyframe().is_some_and(|keyframe| keyframe >= self.position)))
            || !(0..CALM_MS).contains(&new_ms)
            || commit.offset.saturating_sub(self.position.offset) >= CALM_BYTES
    }

    /// Reads on, up to the commit word or for about `budget_bytes` (a record at least). `buffer` is room to work in; its contents
    /// are lost, and it is for all segmenters of a thread.
    ///
    /// # Errors
    /// The log cannot be read. A directory that is full is no error: it costs segments, which are counted and logged.
    pub fn pump(&mut self, reader: &Reader, budget_bytes: usize, buffer: &mut Vec<u8>) -> io::Result<Pumped> {
        self.segmenter.lend(std::mem::take(buffer));
        let pumped = self.read_on(reader, budget_bytes);
        *buffer = self.segmenter.take_lent();
        buffer.shrink_to(KEPT_BUFFER_BYTES);
        pumped
    }

    fn read_on(&mut self, reader: &Reader, budget_bytes: usize) -> io::Result<Pumped> {
        // Read before the commit word: what is committed later then counts as new.
        self.read_to_ms = reader.last_timestamp_ms();
        let (mut left, mut races) = (budget_bytes.max(1), 0);
        let more = loop {
            let step = match reader.ahead(self.position) {
                Ahead::Nothing => break false,
                Ahead::Bytes { .. } if left == 0 => break true,
                Ahead::Bytes { to } => self.read(reader, to, left).map(|bytes| left = left.saturating_sub(bytes)),
                Ahead::Block(next) => self.enter(reader, next),
                Ahead::Lost => match self.jump_target(reader) {
                    Some(next) => self.jump(reader, next),
                    None => break false,
                },
            };
            match step {
                // The block was evicted between two looks at the log; the next look says so.
                Err(error) if error.kind() == io::ErrorKind::NotFound && races < MAX_RACES => races += 1,
                other => other?,
            }
        };
        self.due = self.segmenter.due().filter(|_| !more);
        if let Some((_, map)) = &self.block
            && let Err(error) = map.let_go()
        {
            tracing::debug!(stream = %self.key, %error, "memory of a block that was read stays taken");
        }
        Ok(Pumped { more, finished: std::mem::take(&mut self.finished) })
    }

    /// The publisher is gone: ends the open segment. Everything before the commit word should have been pumped.
    pub fn finish_publish(&mut self) -> Vec<SegmentInfo> {
        self.segmenter.finish();
        self.drain(self.position);
        self.block = None;
        std::mem::take(&mut self.finished)
    }

    /// The stream is over: ends the open segment and the live index. It may go on all the same.
    pub fn end_stream(&mut self) -> Vec<SegmentInfo> {
        let finished = self.finish_publish();
        if let Err(error) = self.store.end() {
            tracing::warn!(stream = %self.key, %error, "the HLS index could not be ended");
        }
        self.save();
        finished
    }

    /// See [`SegmentStore::evict_older_than`].
    pub fn evict_older_than(&mut self, wall_ms: u64) -> usize {
        self.store.evict_older_than(wall_ms)
    }

    /// The directory's segments, counters and size.
    pub fn store(&self) -> &SegmentStore {
        &self.store
    }

    /// The number of the next segment that will be finished.
    pub fn next_number(&self) -> u64 {
        self.kept.next_number
    }

    /// The log position that is read next: whatever lies before it may be evicted, as far as this reader is concerned.
    #[cfg(test)]
    pub fn position(&self) -> Position {
        self.position
    }

    /// Where to go on when the place is not in the log any more.
    fn jump_target(&self, reader: &Reader) -> Option<Position> {
        let oldest = reader.block(reader.oldest_block()).map(|block| Position { block: block.number, offset: block.prefix_bytes });
        // A place that was never in this log is left for one that surely is.
        oldest.filter(|oldest| *oldest > self.position).or_else(|| reader.start()).filter(|next| *next != self.position)
    }

    fn jump(&mut self, reader: &Reader, next: Position) -> io::Result<()> {
        if self.position.block != 0 {
            tracing::warn!(stream = %self.key, from = ?self.position, to = ?next, "HLS missed a part of the log");
            self.segmenter.discontinuity();
            self.drain(next);
        }
        self.enter(reader, next)
    }

    /// Goes on at a place in another block.
    fn enter(&mut self, reader: &Reader, next: Position) -> io::Result<()> {
        self.block = None;
        self.position = next;
        self.map(reader)
    }

    /// Maps the block of the place that is read next, and takes from its prefix what is new.
    fn map(&mut self, reader: &Reader) -> io::Result<()> {
        let number = self.position.block;
        let info = reader.block(number).ok_or(io::ErrorKind::NotFound)?;
        let map = reader.map(number)?;
        let publisher_changed = self.epoch != 0 && info.epoch != self.epoch;
        self.epoch = info.epoch;
        if publisher_changed {
            self.segmenter.publisher_changed();
            self.drain(self.position);
        }
        if info.generation != self.generation {
            self.generation = info.generation;
            feed_headers(&mut self.segmenter, &info, &map);
            self.drain(self.position);
        }
        self.block = Some((info, map));
        Ok(())
    }

    /// Reads records up to an offset of the block, for about `budget_bytes`. Says how many bytes that were.
    fn read(&mut self, reader: &Reader, to: u32, budget_bytes: usize) -> io::Result<usize> {
        if self.block.as_ref().is_none_or(|(info, _)| info.number != self.position.block) {
            self.map(reader)?;
        }
        let Some((info, map)) = self.block.take() else { return Ok(0) };
        if self.store.ended()
            && let Err(error) = self.store.revive()
        {
            tracing::warn!(stream = %self.key, %error, "the HLS index still says that the stream is over");
        }
        let from = self.position.offset;
        let bytes =
            map.bytes(from, to).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a log block is shorter than its table says"))?;
        let mut done = 0;
        for record in flv::records(bytes) {
            let opens_here = self.position;
            done = record.offset + record.header.record_bytes();
            self.position.offset = from + done as u32;
            self.segmenter.handle_record(
                record.header.kind,
                record.header.timestamp_ms,
                record.payload,
                wall_ms(&info, record.header.timestamp_ms),
            );
            if self.segmenter.is_eventful() && !self.drain(opens_here) {
                feed_headers(&mut self.segmenter, &info, &map);
            }
            if done >= budget_bytes {
                break;
            }
        }
        if done == 0 {
            tracing::warn!(stream = %self.key, at = ?self.position, "HLS skips bytes of the log that are no records");
            self.position.offset = to;
            self.segmenter.discontinuity();
            self.drain(self.position);
            done = bytes.len();
        }
        if !self.drain(self.position) {
            feed_headers(&mut self.segmenter, &info, &map);
        }
        self.block = Some((info, map));
        Ok(done)
    }

    /// Carries out what the segmenter says. `opens_at` is where the next segment opens if one is finished now. False if the segment
    /// was lost: then the segmenter starts anew, with the same number, and does not know the codecs' headers.
    fn drain(&mut self, opens_at: Position) -> bool {
        let mut lost = None;
        while let Some(output) = self.segmenter.poll_output() {
            if lost.is_some() {
                continue;
            }
            lost = match output {
                SegmenterOutput::Started { number } => self.store.begin(number).err(),
                SegmenterOutput::Bytes(bytes) => {
                    let appended = self.store.append(&bytes);
                    self.segmenter.lend(bytes);
                    appended.err()
                }
                SegmenterOutput::Finished(info) => self.finish(info, opens_at).err(),
                SegmenterOutput::Unsupported(codec) => {
                    tracing::info!(stream = %self.key, %codec, "HLS leaves this codec out: MPEG-TS cannot carry it, or its configuration; HTTP-FLV and RTMP have it. For HLS publish H.264 or H.265, AAC, MP3, AC-3, E-AC-3 or Opus");
                    None
                }
            };
        }
        let Some(error) = lost else { return true };
        tracing::warn!(stream = %self.key, segment = self.kept.next_number, %error, "a segment was lost: its number is given to the next one; enlarge the shared directory, or lower [hls] retention and [log] keep");
        self.store.abandon();
        let buffer = self.segmenter.take_lent();
        self.segmenter = Segmenter::new(self.options, self.kept.clone());
        self.segmenter.lend(buffer);
        self.segmenter.discontinuity();
        false
    }

    fn finish(&mut self, info: SegmentInfo, opens_at: Position) -> io::Result<()> {
        match self.store.finish(info.clone()) {
            Ok(()) => {}
            Err(FinishError::Lost(error)) => return Err(error),
            Err(error) => tracing::warn!(stream = %self.key, segment = info.number, %error, "the HLS index is late"),
        }
        self.finished.push(info);
        kill_point("segment_named");
        self.kept = self.segmenter.state().clone();
        self.resume = opens_at;
        kill_point("segment_state");
        self.save();
        Ok(())
    }

    /// Writes the state. If that fails, a restart writes the segments since the last one that was saved once more, with the same bytes.
    fn save(&self) {
        let state = SavedState {
            segmenter: self.kept.clone(),
            block: self.resume.block,
            offset: self.resume.offset,
            epoch: self.epoch,
            longest_90k: self.store.longest_90k(),
            window_ms: self.window_ms,
            ended: self.store.ended(),
        };
        if let Err(error) = state.store(self.store.directory()) {
            tracing::warn!(stream = %self.key, %error, "the segmenter's state could not be saved");
        }
    }
}

/// Whether the log goes on where a saved state left it: same publisher, at a record's start.
fn is_continued_by(reader: &Reader, saved: &SavedState, last: Option<&SegmentInfo>) -> bool {
    let position = saved.position();
    if position.block == 0 {
        // A segment that is there already must be of this log, not of one before it.
        return last.is_none_or(|last| reader.block(1).is_some_and(|first| last.wall_start_ms >= first.wall_ms));
    }
    let same_publisher = reader.block(position.block).is_some_and(|block| block.epoch == saved.epoch);
    same_publisher && reader.map(position.block).is_ok_and(|map| reader.record_end(&map, position.offset) == Some(position.offset))
}

/// Gives the segmenter the codecs' headers of a block's prefix.
fn feed_headers(segmenter: &mut Segmenter, info: &BlockInfo, map: &BlockMap) {
    let prefix = map.bytes(FILE_HEADER.len() as u32, info.prefix_bytes).unwrap_or_default();
    for record in flv::records(prefix) {
        let kind = record.header.kind;
        if kind != RecordKind::Data && TagInfo::of(kind, record.payload).header.is_some() {
            segmenter.handle_record(kind, record.header.timestamp_ms, record.payload, info.wall_ms);
        }
    }
}

/// The wall clock of a record: its block's, and how far it lies from the block's start.
fn wall_ms(block: &BlockInfo, timestamp_ms: u32) -> u64 {
    // Both are places on one line that wraps at 2^32; a block is never that long.
    let since = timestamp_ms.wrapping_sub(block.start_timestamp_ms as u32).cast_signed();
    block.wall_ms.saturating_add_signed(i64::from(since))
}

#[cfg(test)]
#[path = "driver_tests.rs"]
mod tests;
