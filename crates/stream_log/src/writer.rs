//! The writer of a stream's log: whoever holds the lock on its head.
//!
//! Records are staged in memory, but for payloads that may be left where they stand, and written by one call per block and turn, then committed by one store: a full
//! tmpfs is an error here, never a SIGBUS. A failed commit drops what was staged and leaves the log as it was. The writer
//! never waits for a reader, and trusts nothing a publisher sent: neither payloads nor times.

use crate::batch::{AppendError, Batch, MAX_NEW_BLOCKS, OpenBlock, Run};
use crate::head::{BlockInfo, Counters, Entry, Head, MAX_BLOCKS, Position, State};
use crate::headers::{self, Headers, Taken};
use crate::recovery::{self, Recovered};
use crate::recycling::{BlockFile, Spare};
use crate::saved::{SavedHeaders, SavedWriter};
use crate::timeline::Timeline;
use crate::{LogOptions, Now, OpenError, Root};
use braidcast_media::annex_b::{self, Converted};
use braidcast_media::flv::{MAX_PAYLOAD_BYTES, RECORD_OVERHEAD_BYTES};
use braidcast_media::{RecordKind, StreamKey, TagInfo};
use braidcast_sys::fault::kill_point;
use braidcast_sys::{Dir, file};
use std::borrow::Cow;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

/// Without video, every so often an audio record counts as a place to start at.
const AUDIO_ENTRY_MS: i64 = 1_000;
/// Pieces that are written by one call: two for each payload that is left where it stands.
const PIECES: usize = 128;

/// A finished or open block that is still there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kept {
    pub number: u32,
    pub bytes: u64,
    pub wall_ms: u64,
    pub mono_ms: u64,
}

/// See the module's head.
#[derive(Debug)]
pub struct Writer {
    head: Head,
    log: Dir,
    options: LogOptions,
    /// Committed blocks, oldest first; the last one is `open` or sealed.
    kept: VecDeque<Kept>,
    /// The committed block that the next record may go to.
    open: Option<(OpenBlock, BlockFile)>,
    batch: Batch,
    /// The batch lies in the files, and these of them are new: it waits to be published.
    written: Option<Vec<BlockFile>>,
    /// The file of an evicted block, for the next one.
    spare: Spare,
    /// The end of the last block, sealed or not, as the next block's start.
    cumulative_bytes: u64,
    last_number: u32,
    timeline: Timeline,
    /// Of the present publisher; and those that `generation` stands for.
    headers: Headers,
    generation: u32,
    generation_headers: Option<Headers>,
    headers_revision: u32,
    /// Whether the present publisher sent audio, video.
    heard: [bool; 2],
    /// Whether it sent tags with tracks or modifiers.
    extended: bool,
    newest_keyframe: Option<(Position, i64)>,
    epoch: u32,
    publishing: bool,
    counters: Counters,
    corrections_before: u64,
    converted: u64,
}

impl Writer {
    /// Takes a stream's log, making it if there is none. What a dead writer left beyond its last commit is cut; its last
    /// block is sealed. Numbers, times and counters go on.
    pub fn open(root: &Root, key: &StreamKey, options: &LogOptions, now: Now) -> Result<Self, OpenError> {
        let Recovered { head, log, options, kept, cumulative_bytes, generation_headers } = recovery::open(root, key, options)?;
        let last_number = head.commit().block;
        let counters = head.counters();
        let newest_keyframe = head.keyframes().next().map(|position| (position, head.last_timestamp_ms()));
        head.set_last_append_mono_ms(now.mono_ms);
        Ok(Self {
            log,
            options,
            kept,
            open: None,
            batch: Batch::default(),
            written: None,
            spare: Spare::default(),
            cumulative_bytes,
            last_number,
            timeline: Timeline::resume((last_number != 0).then(|| head.last_timestamp_ms())),
            headers: Headers::default(),
            generation: head.generation(),
            generation_headers,
            headers_revision: 0,
            heard: [false; 2],
            extended: false,
            newest_keyframe,
            epoch: head.epoch(),
            publishing: false,
            counters,
            corrections_before: counters.timestamp_corrections,
            converted: 0,
            head,
        })
    }

    /// Goes on where a writer that is gone was when it was saved, in the middle of its block and its publisher: publishes what
    /// was written and saved, and cuts off what was not. [`OpenError::Changed`] if somebody else has written the log since.
    pub fn resume(
        root: &Root,
        key: &StreamKey,
        options: &LogOptions,
        saved: SavedWriter<'_>,
        headers: SavedHeaders,
        now: Now,
    ) -> Result<Self, OpenError> {
        let resumed = recovery::resume(root, key, options, &saved)?;
        let Recovered { head, log, options, kept, .. } = resumed.recovered;
        let SavedWriter { counters, timeline, epoch, generation, heard, extended, newest_keyframe, .. } = saved;
        let evicted_blocks = counters.evicted_blocks.max(head.counters().evicted_blocks);
        let mut writer = Self {
            log,
            options,
            kept,
            open: resumed.open,
            batch: Batch {
                runs: saved.runs.into_owned(),
                bytes: Vec::new(),
                left: Vec::new(),
                keyframes: saved.keyframes.into_owned(),
                records: saved.records,
            },
            written: None,
            spare: Spare::default(),
            cumulative_bytes: saved.cumulative_bytes,
            last_number: saved.last_number,
            timeline,
            headers: headers.headers,
            generation,
            generation_headers: headers.generation_headers,
            headers_revision: 0,
            heard,
            extended,
            newest_keyframe,
            epoch,
            publishing: true,
            counters: Counters { evicted_blocks, ..counters },
            corrections_before: saved.corrections_before,
            converted: 0,
            head,
        };
        if resumed.published {
            writer.note_published(resumed.new_files);
        } else if !writer.batch.runs.is_empty() {
            writer.written = Some(resumed.new_files);
            writer.publish(now);
        }
        if resumed.sealed {
            writer.open = None;
        }
        writer.head.set_state(State::Live);
        writer.head.set_last_append_mono_ms(now.mono_ms);
        Ok(writer)
    }

    /// The writer's state, to be kept where it outlives the process; see [`Writer::resume`]. Only between turns, or between
    /// [`Writer::write`] and [`Writer::publish`]: what is merely staged is not in it.
    pub fn save(&self) -> SavedWriter<'_> {
        debug_assert!(self.batch.runs.is_empty() || self.written.is_some(), "staged records are lost by saving");
        SavedWriter {
            epoch: self.epoch,
            generation: self.generation,
            heard: self.heard,
            extended: self.extended,
            newest_keyframe: self.newest_keyframe,
            timeline: self.timeline,
            counters: self.counters,
            corrections_before: self.corrections_before,
            last_number: self.last_number,
            cumulative_bytes: self.cumulative_bytes,
            open: self.open.as_ref().map(|(block, _)| *block),
            runs: Cow::Borrowed(&self.batch.runs),
            keyframes: Cow::Borrowed(&self.batch.keyframes),
            records: self.batch.records,
        }
    }

    /// The part of the state that changes seldom.
    pub fn save_headers(&self) -> SavedHeaders {
        SavedHeaders { headers: self.headers.clone(), generation_headers: self.generation_headers.clone() }
    }

    /// Rises whenever [`Writer::save_headers`] would give something else than before.
    pub fn headers_revision(&self) -> u32 {
        self.headers_revision
    }

    /// A publisher begins (or takes over): a new epoch, and a new block with its first record. Its times are moved so that
    /// they go on after the last one in the log; the first publisher of a fresh log keeps its own. An error is one of
    /// committing what the publisher before left staged; the new one has begun all the same.
    pub fn begin_publish(&mut self, now: Now) -> Result<(), AppendError> {
        let left = self.finish_block(now);
        self.timeline.begin_publish();
        self.headers = Headers::default();
        self.headers_revision = self.headers_revision.wrapping_add(1);
        self.heard = [false; 2];
        self.extended = false;
        self.publishing = true;
        self.epoch = self.epoch.wrapping_add(1);
        self.head.set_last_append_mono_ms(now.mono_ms);
        self.head.set_epoch(self.epoch);
        self.head.set_state(State::Live);
        left
    }

    /// Says where the present publisher sends from, for whoever looks at the stream.
    pub fn set_publisher(&self, publisher: SocketAddr) {
        self.head.set_publisher(publisher, self.epoch);
    }

    /// Stages a record. Nothing is written and no reader sees it before [`Writer::commit`], which a caller does once per
    /// turn: what is staged is bounded by what it reads from a peer in one turn.
    ///
    /// `timestamp_ms` and `payload` are as RTMP sent them; a leading `@setDataFrame` is dropped. Metadata and sequence
    /// headers go to the prefixes of the blocks to come; a changed sequence header ends the block. Repeated ones are
    /// dropped. Video with start codes in it is taken as players need it; see [`annex_b`]. On an error this record alone is not taken.
    pub fn append(&mut self, kind: RecordKind, timestamp_ms: u32, payload: &[u8], now: Now) -> Result<(), AppendError> {
        self.append_in(&[], kind, timestamp_ms, payload, now)
    }

    /// Appends records whose payloads stand in `source`, without a copy of those that are long: they are written from there.
    pub fn gather<'a>(&'a mut self, source: &'a [u8], now: Now) -> Gathering<'a> {
        Gathering { writer: self, source, now }
    }

    fn append_in(&mut self, source: &[u8], kind: RecordKind, timestamp_ms: u32, payload: &[u8], now: Now) -> Result<(), AppendError> {
        debug_assert!(self.written.is_none(), "nothing is appended to a batch that is written");
        if !self.publishing {
            return Err(AppendError::NotPublishing);
        }
        let payload = if kind == RecordKind::Data { headers::strip_set_data_frame(payload) } else { payload };
        if payload.len() > MAX_PAYLOAD_BYTES {
            return Err(AppendError::TooLong { bytes: payload.len() });
        }
        match (kind == RecordKind::Video).then(|| annex_b::convert(payload)).flatten() {
            Some(converted) => self.append_converted(timestamp_ms, &converted, now),
            None => self.append_tag(source, kind, timestamp_ms, payload, now),
        }
    }

    fn append_converted(&mut self, timestamp_ms: u32, converted: &Converted<'_>, now: Now) -> Result<(), AppendError> {
        self.converted = self.converted.wrapping_add(1);
        // The header that the publisher sent may say more than one made of the same parameter sets.
        if let Some(header) = &converted.sequence_header
            && !self.headers.hold_video(&converted.parameter_sets)
        {
            self.append_tag(&[], RecordKind::Video, timestamp_ms, header, now)?;
        }
        match &converted.frame {
            Some(frame) if frame.len() > MAX_PAYLOAD_BYTES => Err(AppendError::TooLong { bytes: frame.len() }),
            Some(frame) => self.append_tag(&[], RecordKind::Video, timestamp_ms, frame, now),
            None => Ok(()),
        }
    }

    fn append_tag(&mut self, source: &[u8], kind: RecordKind, timestamp_ms: u32, payload: &[u8], now: Now) -> Result<(), AppendError> {
        let info = TagInfo::of(kind, payload);
        self.extended |= info.extended;
        let as_record = match headers::part_of(kind, payload, info) {
            Some(part) => match self.headers.set(part, payload) {
                Taken::Known => false,
                Taken::Changed => {
                    self.headers_revision = self.headers_revision.wrapping_add(1);
                    // Viewers that are past the prefix learn of changed metadata by a record.
                    !part.configures() && self.publisher_has_block()
                }
                Taken::NoRoom => true,
            },
            None => true,
        };
        if as_record { self.stage(source, kind, timestamp_ms, payload, info, now) } else { Ok(()) }
    }

    /// Writes what is staged and lets readers see it; true if there was anything. The caller rings the doorbells then.
    pub fn commit(&mut self, now: Now) -> Result<bool, AppendError> {
        let written = self.write()?;
        Ok(written && self.publish(now))
    }

    /// Writes what is staged; no reader sees it before [`Writer::publish`]. True if there is anything to publish. In between the
    /// caller may [`Writer::save`], so that whoever goes on after a death publishes it.
    pub fn write(&mut self) -> Result<bool, AppendError> {
        self.write_from(&[])
    }

    /// Whether something waits for [`Writer::publish`]: until then nothing can be appended.
    pub fn is_written(&self) -> bool {
        self.written.is_some()
    }

    fn write_from(&mut self, source: &[u8]) -> Result<bool, AppendError> {
        if self.batch.runs.is_empty() || self.written.is_some() {
            return Ok(self.written.is_some());
        }
        kill_point("commit");
        self.make_room();
        match self.write_runs(source) {
            Ok(files) => self.written = Some(files),
            Err(error) => return Err(self.drop_batch(error)),
        }
        kill_point("written");
        Ok(true)
    }

    /// Lets readers see what was written; true if there was anything.
    pub fn publish(&mut self, now: Now) -> bool {
        let Some(files) = self.written.take() else { return false };
        let rolled = self.batch.new_blocks() > 0;
        self.publish_runs(files, now);
        self.batch.clear();
        if rolled {
            self.evict_aged(now);
        }
        true
    }

    /// The publisher is gone: commits what it left, seals the block, and waits for another. An error is the commit's.
    pub fn end_publish(&mut self, now: Now) -> Result<(), AppendError> {
        let left = self.finish_block(now);
        self.publishing = false;
        self.head.set_state(State::Waiting);
        left
    }

    /// As [`Writer::end_publish`], and the stream is over.
    pub fn end_stream(&mut self, now: Now) -> Result<(), AppendError> {
        let left = self.finish_block(now);
        self.publishing = false;
        self.head.set_state(State::Ended);
        left
    }

    /// Evicts blocks whose last record is older than this wall clock time, but neither the one being written nor the last
    /// sealed one. Returns how many. (Blocks past `keep_ms` and beyond the budget go by themselves.)
    pub fn evict(&mut self, older_than_wall_ms: u64) -> usize {
        let mut evicted = 0;
        self.spare.give_up(&self.log);
        while self.kept.get(1).is_some_and(|next| next.wall_ms <= older_than_wall_ms) && self.evict_oldest(self.least_kept()) {
            evicted += 1;
        }
        evicted
    }

    /// When the oldest block ended that [`Writer::evict`] may take: wall clock, milliseconds.
    pub fn oldest_ended_wall_ms(&self) -> Option<u64> {
        self.kept.get(1).filter(|_| self.kept.len() > self.least_kept()).map(|next| next.wall_ms)
    }

    /// What the log has counted; staged records are counted when they are committed.
    pub fn counters(&self) -> Counters {
        Counters { timestamp_corrections: self.corrections_before.wrapping_add(self.timeline.corrections()), ..self.counters }
    }

    /// How many video tags with start codes were converted since this writer was opened or resumed.
    pub fn converted(&self) -> u64 {
        self.converted
    }

    /// Whether the present publisher has sent a record.
    pub fn has_begun(&self) -> bool {
        self.publisher_has_block()
    }

    /// Up to where readers see the log.
    pub fn position(&self) -> Position {
        self.head.commit()
    }

    /// Which publisher of the log the present one is, from 1.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Bytes that are staged and not committed.
    pub fn staged_bytes(&self) -> usize {
        self.batch.len()
    }

    /// Bytes of all files in `log/`.
    pub fn file_bytes(&self) -> u64 {
        self.kept.iter().map(|kept| kept.bytes).sum::<u64>() + self.spare.bytes()
    }

    fn current_block(&self) -> Option<OpenBlock> {
        self.batch.runs.last().map(|run| run.block).or_else(|| self.open.as_ref().map(|(block, _)| *block))
    }

    fn publisher_has_block(&self) -> bool {
        self.current_block().is_some_and(|block| block.entry.info.epoch == self.epoch)
    }

    fn stage(&mut self, source: &[u8], kind: RecordKind, sent_ms: u32, payload: &[u8], info: TagInfo, now: Now) -> Result<(), AppendError> {
        let record_bytes = payload.len() + RECORD_OVERHEAD_BYTES;
        let rolls = self.roll_allowed(record_bytes)?;
        let timestamp = self.timeline.place(kind, info.track, sent_ms);
        match kind {
            RecordKind::Audio => self.heard[0] = true,
            RecordKind::Video => self.heard[1] = true,
            RecordKind::Data => {}
        }
        let entry = (info.keyframe && self.leads(info.track)) || (kind == RecordKind::Audio && self.audio_entry_due(timestamp));
        if rolls.must || (rolls.may && self.roll_due(timestamp, entry, record_bytes, now)) {
            self.stage_new_block(timestamp, entry, now);
        } else {
            self.stage_run();
        }
        let run = self.batch.runs.last_mut().expect("a run was just made sure of");
        let position = Position { block: run.block.number(), offset: run.block.end };
        // No overflow: roll_allowed keeps a block within its capacity.
        run.block.end += record_bytes as u32;
        self.batch.push(kind, timestamp as u32, payload, source);
        if entry {
            self.batch.keyframes.push(position);
            self.newest_keyframe = Some((position, timestamp));
        }
        kill_point("staged");
        Ok(())
    }

    fn roll_allowed(&self, record_bytes: usize) -> Result<Rolls, AppendError> {
        let must = match self.current_block() {
            // The generation differs where a batch that began a new one was dropped.
            Some(block) if block.entry.info.epoch == self.epoch => block.entry.info.generation != self.generation || self.headers_changed(),
            _ => true,
        };
        let may = self.batch.new_blocks() < MAX_NEW_BLOCKS;
        let end = self.current_block().map_or(0, |block| u64::from(block.end) + record_bytes as u64);
        if (must || end > self.options.block_capacity().into()) && !may {
            return Err(AppendError::HeaderFlood);
        }
        let number = self.current_block().map_or(self.last_number, |block| block.number());
        if number == u32::MAX { Err(AppendError::Exhausted) } else { Ok(Rolls { must, may }) }
    }

    /// Whether the present publisher's headers are other than those of its block; metadata alone does not count.
    fn headers_changed(&self) -> bool {
        match &self.generation_headers {
            Some(known) => !known.same_codecs(&self.headers),
            None => true,
        }
    }

    /// Whether the block's prefix describes the stream (metadata, colours) as it was: who starts behind the record that changed it
    /// would never be told.
    fn described_anew(&self) -> bool {
        self.publisher_has_block() && self.generation_headers.as_ref() != Some(&self.headers)
    }

    /// Whether viewers may start with a keyframe of this track: those of other tracks come in the midst of the first one's group.
    fn leads(&self, track: u8) -> bool {
        track == 0 || !self.headers.has_first_video()
    }

    fn audio_entry_due(&self, timestamp: i64) -> bool {
        let video = self.heard[1] || self.headers.has_video();
        let last = self.newest_keyframe.filter(|_| self.publisher_has_block()).map(|(_, last)| last);
        !video && last.is_none_or(|last| timestamp.saturating_sub(last) >= AUDIO_ENTRY_MS)
    }

    fn roll_due(&self, timestamp: i64, entry: bool, record_bytes: usize, now: Now) -> bool {
        let Some(block) = self.current_block() else { return true };
        let media_ms = timestamp.saturating_sub(block.entry.info.start_timestamp_ms).max(0).cast_unsigned();
        let age_ms = media_ms.max(now.mono_ms.saturating_sub(block.entry.mono_ms));
        let holds_records = block.end > block.entry.info.prefix_bytes;
        let too_long = u64::from(block.end) + record_bytes as u64 > self.options.block_max_bytes;
        (entry && (age_ms >= self.options.block_min_ms || self.described_anew()))
            || age_ms >= self.options.block_max_ms
            || (too_long && holds_records)
    }

    fn stage_new_block(&mut self, timestamp: i64, starts_with_keyframe: bool, now: Now) {
        if self.publisher_has_block() {
            if self.headers_changed() {
                self.new_generation();
            } else if let Some(known) = &mut self.generation_headers {
                self.headers_revision = self.headers_revision.wrapping_add(u32::from(known.copy_metadata(&self.headers)));
            }
        } else if self.generation_headers.as_ref() != Some(&self.headers) {
            // A viewer that comes from another publisher's block has not been told of this one's metadata either.
            self.new_generation();
        }
        let before = self.current_block();
        let staged = self.batch.bytes.len();
        self.headers.write_prefix(&mut self.batch.bytes, timestamp as u32, self.heard);
        let prefix_bytes = (self.batch.bytes.len() - staged) as u32;
        let info = BlockInfo {
            number: before.map_or(self.last_number, |block| block.number()) + 1,
            prefix_bytes,
            final_bytes: None,
            start_timestamp_ms: timestamp,
            wall_ms: now.wall_ms,
            generation: self.generation,
            epoch: self.epoch,
            starts_with_keyframe,
            extended: self.extended,
            cumulative_bytes: before.map_or(self.cumulative_bytes, |block| block.cumulative_end()),
        };
        let block = OpenBlock { entry: Entry { info, mono_ms: now.mono_ms }, end: prefix_bytes };
        self.batch.runs.push(Run { block, offset: 0, staged });
    }

    fn new_generation(&mut self) {
        self.generation = self.generation.wrapping_add(1);
        self.headers_revision = self.headers_revision.wrapping_add(1);
        self.generation_headers = Some(self.headers.clone());
    }

    /// Makes sure that the batch has a run that goes on with the open block.
    fn stage_run(&mut self) {
        if self.batch.runs.is_empty() {
            let (block, _) = self.open.as_ref().expect("without an open block a new one is due");
            self.batch.runs.push(Run { block: *block, offset: block.end, staged: self.batch.bytes.len() });
        }
    }

    /// Brings every run's bytes into its file; gives the files of new blocks, in order.
    fn write_runs(&mut self, source: &[u8]) -> io::Result<Vec<BlockFile>> {
        let mut files = Vec::new();
        for index in 0..self.batch.runs.len() {
            loop {
                match self.write_run(index, source) {
                    Ok(new_file) => {
                        files.extend(new_file);
                        break;
                    }
                    Err(error) if is_full(&error) && (self.give_up_stale() || self.evict_oldest(self.least_kept())) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(files)
    }

    fn write_run(&mut self, index: usize, source: &[u8]) -> io::Result<Option<BlockFile>> {
        let run = self.batch.runs[index];
        let new_file = if run.is_new_block() { Some(self.new_file(run.block.number())?) } else { None };
        let target = match (&new_file, &self.open) {
            (Some(file), _) | (None, Some((_, file))) => file,
            (None, None) => return Err(io::Error::other("a run goes on with a block that is not open")),
        };
        let staged = self.batch.bytes.len();
        // All but the last are cut at their ends right away.
        if index + 1 == self.batch.runs.len() {
            target.write_filler(&mut self.batch.bytes, run.block.end);
        }
        let written = write_pieces(&target.fd, self.batch.run_pieces(index, source), run.offset.into());
        self.batch.bytes.truncate(staged);
        written.map(|()| new_file)
    }

    fn new_file(&mut self, number: u32) -> io::Result<BlockFile> {
        let name = block_name(number);
        match self.spare.take(&self.log, &name) {
            Some(file) => {
                kill_point("recycled");
                Ok(file)
            }
            None => self.log.create_file(&name).map(BlockFile::new),
        }
    }

    /// Gives back room that holds nothing: the spare file, and what is left of another block in the one being written. False if there
    /// was none.
    fn give_up_stale(&mut self) -> bool {
        let before = self.file_bytes();
        self.spare.give_up(&self.log);
        self.cut_open();
        self.file_bytes() < before
    }

    fn cut_open(&mut self) {
        if let (Some((block, file)), Some(kept)) = (&mut self.open, self.kept.back_mut()) {
            // A file cannot fail to become shorter; one that did would hold bytes that no reader comes to.
            // What is written and not published yet stays.
            let run = self.batch.runs.iter().find(|run| run.block.number() == block.number());
            let end = run.map_or(block.end, |run| run.block.end);
            drop(file.cut(end));
            kept.bytes = end.into();
        }
    }

    /// Tells readers of the batch. The order is that of the format: table, keyframes, numbers, and the commit word last.
    fn publish_runs(&mut self, files: Vec<BlockFile>, now: Now) {
        let mut files = files.into_iter();
        for index in 0..self.batch.runs.len() {
            let run = self.batch.runs[index];
            if run.is_new_block() {
                self.seal_open();
                kill_point("sealed");
                self.head.set_entry(&run.block.entry);
                kill_point("entered");
                let Entry { info, mono_ms } = run.block.entry;
                self.kept.push_back(Kept { number: info.number, bytes: 0, wall_ms: info.wall_ms, mono_ms });
            }
            self.note_run(run, &mut files);
        }
        for keyframe in &self.batch.keyframes {
            self.head.push_keyframe(*keyframe);
        }
        kill_point("keyframes");
        self.count_batch();
        self.head.set_counters(self.counters());
        self.head.set_generation(self.generation);
        self.head.set_last_timestamp_ms(self.timeline.last().unwrap_or(0));
        self.head.set_last_append_mono_ms(now.mono_ms);
        kill_point("before_word");
        if let Some((block, _)) = &self.open {
            self.head.set_commit(Position { block: block.number(), offset: block.end });
        }
        kill_point("after_word");
    }

    /// What a run changes in this writer alone.
    fn note_run(&mut self, run: Run, new_files: &mut impl Iterator<Item = BlockFile>) {
        if run.is_new_block() {
            self.open = new_files.next().map(|file| (run.block, file));
        } else if let Some((block, _)) = &mut self.open {
            *block = run.block;
        }
        if let (Some(kept), Some((_, file))) = (self.kept.back_mut(), &self.open) {
            kept.bytes = file.bytes(run.block.end);
        }
        self.last_number = run.block.number();
        self.cumulative_bytes = run.block.cumulative_end();
    }

    /// The batch was published by a writer that is gone: takes it in.
    fn note_published(&mut self, new_files: Vec<BlockFile>) {
        let mut files = new_files.into_iter();
        for run in std::mem::take(&mut self.batch.runs) {
            self.note_run(run, &mut files);
        }
        self.count_batch();
        self.batch.clear();
    }

    fn count_batch(&mut self) {
        let [audio, video, data] = self.batch.records;
        let keyframes = self.batch.keyframes.len() as u64;
        let counters = &mut self.counters;
        // Wrapping: the numbers go on from those in the head, which are not to be believed more than any other.
        for (counter, more) in [
            (&mut counters.audio, audio),
            (&mut counters.video, video),
            (&mut counters.data, data),
            (&mut counters.records, audio + video + data),
            (&mut counters.keyframes, keyframes),
        ] {
            *counter = counter.wrapping_add(more);
        }
        self.counters.bytes = self.cumulative_bytes;
    }

    /// Undoes a commit that failed: readers have seen nothing of it.
    fn drop_batch(&mut self, error: io::Error) -> AppendError {
        for run in &self.batch.runs {
            let undone = if run.is_new_block() {
                self.log.unlink(&block_name(run.block.number()))
            } else {
                self.open.as_ref().map_or(Ok(()), |(block, file)| file::truncate(&file.fd, block.end.into()))
            };
            // Whatever stays lies beyond the commit word, where it is overwritten or cut by recovery.
            drop(undone);
        }
        let dropped = self.batch.records.iter().sum();
        self.counters.records_dropped = self.counters.records_dropped.wrapping_add(dropped);
        self.head.set_counters(self.counters());
        self.newest_keyframe = self.head.keyframes().next().zip(self.timeline.last());
        self.batch.clear();
        self.cut_open();
        if is_full(&error) { AppendError::Full { dropped } } else { AppendError::Io(error) }
    }

    fn finish_block(&mut self, now: Now) -> Result<(), AppendError> {
        let committed = self.commit(now);
        self.seal_open();
        kill_point("sealed_at_end");
        self.open = None;
        self.spare.give_up(&self.log);
        committed.map(|_| ())
    }

    fn seal_open(&mut self) {
        self.cut_open();
        if let Some((block, _)) = &self.open {
            kill_point("seal");
            self.head.seal(block.number(), block.end);
        }
    }

    /// Evicts what must go before the batch can be written: for places in the table, and for the budget.
    fn make_room(&mut self) {
        let newest = self.current_block().map_or(self.last_number, |block| block.number());
        while self.kept.front().is_some_and(|oldest| newest - oldest.number >= MAX_BLOCKS) && self.evict_oldest(1) {}
        let wanted = self.batch.len() as u64;
        while self.file_bytes() + wanted > self.options.budget_bytes && (self.give_up_stale() || self.evict_oldest(self.least_kept())) {}
    }

    /// Blocks that must stay: the one being written, and the last sealed one. A batch that begins another block makes the
    /// one being written the last sealed.
    fn least_kept(&self) -> usize {
        if self.open.is_some() && self.batch.new_blocks() == 0 { 2 } else { 1 }
    }

    fn evict_aged(&mut self, now: Now) {
        let keyframe_block = self.newest_keyframe.map_or(u32::MAX, |(position, _)| position.block);
        let aged = |next: &Kept| now.mono_ms < next.mono_ms || now.mono_ms - next.mono_ms >= self.options.keep_ms;
        let mut count = self.kept.iter().skip(1).take_while(|next| aged(next) && next.number <= keyframe_block).count();
        // One goes for one that was begun, and its file is the next one's. Where blocks become old just as others begin, two would
        // go at some times and none at others, and with them the files: of several the last one stays until then.
        let least = usize::from(count > 1);
        while count > least && self.evict_block(2, true) {
            count -= 1;
        }
    }

    fn evict_oldest(&mut self, least_kept: usize) -> bool {
        self.evict_block(least_kept, false)
    }

    /// Evicts the oldest block; its file may become the spare one, which makes no room.
    fn evict_block(&mut self, least_kept: usize, spare: bool) -> bool {
        if self.kept.len() <= least_kept {
            return false;
        }
        let Some(oldest) = self.kept.pop_front() else { return false };
        kill_point("evict");
        self.head.set_oldest(oldest.number + 1);
        kill_point("evict_entry");
        self.head.clear_entry(oldest.number);
        kill_point("evict_file");
        let name = block_name(oldest.number);
        if !(spare && self.spare.keep(&self.log, &name, oldest.bytes)) {
            // A file that cannot be removed now is removed by the next recovery.
            drop(self.log.unlink(&name));
        }
        kill_point("evicted");
        self.counters.evicted_blocks = self.counters.evicted_blocks.wrapping_add(1);
        self.head.set_counters(self.counters());
        true
    }
}

/// Appends records whose payloads stand in one place; see [`Writer::gather`]. Ends with [`Gathering::write`] or
/// [`Gathering::keep`].
#[must_use = "what is gathered has to be written or kept"]
#[derive(Debug)]
pub struct Gathering<'a> {
    writer: &'a mut Writer,
    source: &'a [u8],
    now: Now,
}

impl Gathering<'_> {
    /// As [`Writer::append`].
    pub fn append(&mut self, kind: RecordKind, timestamp_ms: u32, payload: &[u8]) -> Result<(), AppendError> {
        self.writer.append_in(self.source, kind, timestamp_ms, payload, self.now)
    }

    /// As [`Writer::write`]: the source is not needed any more.
    pub fn write(self) -> Result<bool, AppendError> {
        self.writer.write_from(self.source)
    }

    /// Takes copies of what stands in the source: more is to be appended before it is all written.
    pub fn keep(self) {
        self.writer.batch.take_left(self.source);
    }
}

fn write_pieces<'a>(fd: &OwnedFd, mut pieces: impl Iterator<Item = io::Result<&'a [u8]>>, mut offset: u64) -> io::Result<()> {
    loop {
        let mut slices = [IoSlice::new(&[]); PIECES];
        let (mut taken, mut bytes) = (0, 0);
        while let Some(slice) = slices.get_mut(taken)
            && let Some(piece) = pieces.next().transpose()?
        {
            (*slice, taken, bytes) = (IoSlice::new(piece), taken + 1, bytes + piece.len());
        }
        if taken == 0 {
            return Ok(());
        }
        #[cfg(feature = "faults")]
        {
            let (mut left, mut at) = (bytes / 2, offset);
            for slice in &slices[..taken] {
                let part = &slice[..slice.len().min(left)];
                file::pwrite_all(fd, part, at)?;
                (left, at) = (left - part.len(), at + part.len() as u64);
            }
        }
        kill_point("half_written");
        file::pwritev_all(fd, &mut slices[..taken], offset)?;
        offset += bytes as u64;
    }
}

/// Whether a block may, and must, end before the next record.
struct Rolls {
    must: bool,
    may: bool,
}

/// The file name of a block in `log/`.
pub(crate) fn block_name(number: u32) -> String {
    format!("{number}.flv")
}

/// Whether an error says that there is no room: in the file system, in a quota, or in the memory of a control group.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::OutOfMemory)
}
