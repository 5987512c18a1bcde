//! A stream as one worker's viewers see it: the mapped blocks they need, and the RTMP rendition made from them.
//!
//! Both are caches: they can be thrown away and made again from the log at any time. Nothing here waits, and nothing
//! here knows of sockets.

use super::ledger::{Available, Blocks};
use braidcast_media::{RecordKind, StreamKey, flv};
use braidcast_protocols::rtmp::egress;
use braidcast_stream_log::{BlockMap, Position, Reader, State};
use std::collections::VecDeque;
use std::io;

/// The form in which a viewer gets the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Rendition {
    /// FLV: the log's own bytes.
    Flv,
    /// RTMP chunks.
    Rtmp,
}

/// A stream that this worker reads.
pub struct LocalStream {
    /// Its name.
    pub key: StreamKey,
    /// Its log.
    pub reader: Reader,
    /// Session slots of the viewers.
    pub viewers: Vec<usize>,
    /// Fan-out: when the next one may start, monotonic milliseconds.
    pub flush_at_ms: u64,
    /// Fan-out: the next viewer of the round that is under way.
    pub next_viewer: usize,
    /// The stream waits in the worker's fan-out queue.
    pub queued: bool,
    /// What the commit word said at the last fan-out.
    pub seen: Position,
    /// The stream has ended, and its viewers were told; some may still be taking what they are owed.
    pub over: bool,
    flv: FlvBlocks,
    rtmp: RtmpBlocks,
    rtmp_viewers: usize,
}

impl LocalStream {
    /// A stream without viewers yet.
    pub fn new(key: StreamKey, reader: Reader) -> Self {
        Self {
            key,
            reader,
            viewers: Vec::new(),
            flush_at_ms: 0,
            next_viewer: 0,
            queued: false,
            seen: Position { block: 0, offset: 0 },
            over: false,
            flv: FlvBlocks::default(),
            rtmp: RtmpBlocks::default(),
            rtmp_viewers: 0,
        }
    }

    /// Adds a viewer and says which place it has among the viewers.
    pub fn join(&mut self, session: usize, rendition: Rendition) -> usize {
        self.viewers.push(session);
        self.rtmp_viewers += usize::from(rendition == Rendition::Rtmp);
        self.viewers.len() - 1
    }

    /// Where a viewer begins or is jumped to: the newest keyframe.
    pub fn start(&mut self, rendition: Rendition) -> io::Result<Option<(u32, u32)>> {
        let Some(start) = self.reader.start() else { return Ok(None) };
        self.flv.ensure(&self.reader, start.block)?;
        self.flv.update(&self.reader)?;
        if self.flv.get(start.block).is_none() {
            // Evicted since: there is a newer place to start at soon.
            return Ok(None);
        }
        let start = self.flv.with_leading_audio(start);
        let offset = match rendition {
            Rendition::Flv => Some(start.offset),
            Rendition::Rtmp => {
                self.rtmp.ensure(&self.flv, start.block);
                self.rtmp.update(&self.flv);
                self.rtmp.locate(start)
            }
        };
        Ok(offset.map(|offset| (start.block, offset)))
    }

    /// Sees to it that a block and all later ones are at hand for a viewer that came from elsewhere. False: it is not there any more.
    pub fn hold(&mut self, block: u32, rendition: Rendition) -> io::Result<bool> {
        self.flv.ensure(&self.reader, block)?;
        if rendition == Rendition::Rtmp {
            self.rtmp.ensure(&self.flv, block);
            self.rtmp.update(&self.flv);
        }
        Ok(self.flv.get(block).is_some())
    }

    /// Bytes of a block's prefix in a rendition, from its very first byte: what a new viewer is sent first.
    pub fn prefix_bytes(&self, block: u32, rendition: Rendition) -> u32 {
        match rendition {
            Rendition::Flv => self.flv.get(block).map_or(0, |block| block.prefix_bytes),
            Rendition::Rtmp => self.rtmp.get(block).map_or(0, |block| block.prefix_bytes),
        }
    }

    /// The codec generation of a block at hand.
    pub fn generation(&self, block: u32) -> Option<u32> {
        self.flv.get(block).map(|block| block.generation)
    }

    /// Removes the viewer at a place. Others move up, at most two: says which sessions have which place now. The round
    /// that is under way skips nobody and serves nobody twice.
    pub fn leave(&mut self, place: usize, rendition: Rendition) -> [Option<(usize, usize)>; 2] {
        let (mut hole, mut moved) = (place, [None; 2]);
        if place < self.next_viewer {
            // The viewers that were served stay together before the others.
            self.next_viewer -= 1;
            hole = self.next_viewer;
            self.viewers.swap(place, hole);
            moved[0] = (hole != place).then(|| (self.viewers[place], place));
        }
        self.viewers.swap_remove(hole);
        moved[1] = self.viewers.get(hole).map(|session| (*session, hole));
        self.rtmp_viewers -= usize::from(rendition == Rendition::Rtmp);
        if self.rtmp_viewers == 0 {
            self.rtmp = RtmpBlocks::default();
        }
        if self.viewers.is_empty() {
            self.flv = FlvBlocks::default();
        }
        moved
    }

    /// Takes in what the log has gained.
    pub fn update(&mut self) -> io::Result<()> {
        self.flv.update(&self.reader)?;
        if self.rtmp_viewers > 0 {
            self.rtmp.update(&self.flv);
        }
        Ok(())
    }

    /// Lets go of blocks before `oldest`, the oldest that a viewer still needs.
    pub fn trim(&mut self, oldest: u32) {
        self.flv.trim(oldest);
        self.rtmp.trim(oldest);
    }

    /// How far a viewer that stands in `block` at `offset` is behind: bytes, and at least so many milliseconds. The renditions
    /// differ by a few bytes a message, which does not matter here.
    pub fn lag(&self, block: u32, offset: u32) -> Lag {
        let Some(at) = self.flv.get(block) else { return Lag { bytes: u64::MAX, ms: u64::MAX } };
        let bytes = self.reader.total_bytes().saturating_sub(at.cumulative_bytes + u64::from(offset.saturating_sub(at.prefix_bytes)));
        let newest = self.flv.blocks.back().map_or(at.start_timestamp_ms, |last| last.start_timestamp_ms);
        let passed = self.flv.get(block.saturating_add(1)).map_or(newest, |next| next.start_timestamp_ms);
        Lag { bytes, ms: newest.saturating_sub(passed).max(0) as u64 }
    }

    /// Whether no more can come for a viewer that stands here, because the log went on without this worker: the blocks that
    /// followed were evicted before they were seen.
    pub fn is_stranded(&self, block: u32, offset: u32, rendition: Rendition) -> bool {
        let view = self.blocks(rendition);
        let newest = self.flv.blocks.back().map_or(0, |newest| newest.number);
        block < newest
            && view.available(block).is_none_or(|available| available.complete && offset >= available.bytes && view.after(block).is_none())
    }

    /// Whether the worker has to look at the stream before it sleeps: it grew, it ended, or it goes on.
    pub fn has_news(&self) -> bool {
        let over = self.has_ended();
        over != self.over || (!over && !self.queued && self.reader.commit() != self.seen)
    }

    /// Whether the stream is over, or its log deleted. Of an ended one somebody may still make a live one.
    pub fn has_ended(&self) -> bool {
        matches!(self.reader.state(), State::Ended | State::Disposed)
    }

    /// The view a ledger needs.
    pub fn blocks(&self, rendition: Rendition) -> View<'_> {
        match rendition {
            Rendition::Flv => View::Flv(&self.flv),
            Rendition::Rtmp => View::Rtmp(&self.rtmp),
        }
    }
}

/// See [`LocalStream::lag`].
#[derive(Clone, Copy, Debug)]
pub struct Lag {
    /// Bytes of log.
    pub bytes: u64,
    /// Milliseconds of media, rounded down to whole blocks.
    pub ms: u64,
}

/// The blocks of a stream in one rendition.
pub enum View<'a> {
    /// See [`Rendition::Flv`].
    Flv(&'a FlvBlocks),
    /// See [`Rendition::Rtmp`].
    Rtmp(&'a RtmpBlocks),
    /// Of no stream: for sessions that view nothing.
    Nothing,
}

impl Blocks for View<'_> {
    fn available(&self, block: u32) -> Option<Available> {
        match self {
            Self::Flv(blocks) => blocks.get(block).map(|block| block.available),
            Self::Rtmp(blocks) => blocks.get(block).map(|block| Available { bytes: block.bytes.len() as u32, complete: block.complete }),
            Self::Nothing => None,
        }
    }

    fn bytes(&self, block: u32, from: u32, to: u32) -> &[u8] {
        match self {
            Self::Flv(blocks) => blocks.get(block).and_then(|block| block.map.bytes(from, to)).unwrap_or_default(),
            Self::Rtmp(blocks) => blocks.get(block).and_then(|block| block.bytes.get(from as usize..to as usize)).unwrap_or_default(),
            Self::Nothing => &[],
        }
    }

    fn after(&self, block: u32) -> Option<(u32, u32)> {
        let next = block.saturating_add(1);
        match self {
            Self::Flv(blocks) => blocks.get(next).map(|at| {
                let same = blocks.get(block).is_some_and(|before| before.generation == at.generation);
                (next, if same { at.prefix_bytes } else { flv::FILE_HEADER.len() as u32 })
            }),
            Self::Rtmp(blocks) => blocks.get(next).map(|at| {
                let same = blocks.get(block).is_some_and(|before| before.generation == at.generation);
                (next, if same { at.prefix_bytes } else { 0 })
            }),
            Self::Nothing => None,
        }
    }

    fn boundary(&self, block: u32, offset: u32) -> u32 {
        match self {
            Self::Flv(blocks) => blocks.get(block).map_or(offset, |block| block.boundary(offset)),
            Self::Rtmp(blocks) => blocks.get(block).map_or(offset, |block| block.boundary(offset)),
            Self::Nothing => offset,
        }
    }

    fn records_start(&self, block: u32) -> u32 {
        match self {
            Self::Flv(blocks) => blocks.get(block).map_or(0, |block| block.prefix_bytes),
            Self::Rtmp(blocks) => blocks.get(block).map_or(0, |block| block.prefix_bytes),
            Self::Nothing => 0,
        }
    }
}

/// Mapped blocks in the order of their numbers. A gap is what was evicted before this worker saw it.
#[derive(Default)]
pub struct FlvBlocks {
    blocks: VecDeque<FlvBlock>,
}

struct FlvBlock {
    number: u32,
    map: BlockMap,
    available: Available,
    prefix_bytes: u32,
    generation: u32,
    start_timestamp_ms: i64,
    cumulative_bytes: u64,
}

impl FlvBlock {
    fn open(reader: &Reader, number: u32) -> io::Result<Option<Self>> {
        let Some(info) = reader.block(number) else { return Ok(None) };
        let map = match reader.map(number) {
            Ok(map) => map,
            // Evicted between two looks.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(Some(Self {
            number,
            map,
            available: Available { bytes: 0, complete: false },
            prefix_bytes: info.prefix_bytes,
            generation: info.generation,
            start_timestamp_ms: info.start_timestamp_ms,
            cumulative_bytes: info.cumulative_bytes,
        }))
    }

    fn refresh(&mut self, reader: &Reader, commit: Position) {
        if self.available.complete {
            return;
        }
        if self.number == commit.block {
            self.available.bytes = commit.offset;
        } else {
            // Of a block that was evicted before its end was seen, what was seen is all there will be; it ends with a record.
            let bytes = reader.end_of(self.number).unwrap_or(self.available.bytes);
            self.available = Available { bytes, complete: true };
        }
    }

    fn boundary(&self, offset: u32) -> u32 {
        let first = flv::FILE_HEADER.len() as u32;
        if offset <= first {
            return first.min(self.available.bytes);
        }
        let records = flv::records(self.map.bytes(first, self.available.bytes).unwrap_or_default());
        let ends = records.map(|record| first + (record.offset + record.header.record_bytes()) as u32);
        std::iter::once(first).chain(ends).find(|end| *end >= offset).unwrap_or(self.available.bytes)
    }
}

impl FlvBlocks {
    fn get(&self, number: u32) -> Option<&FlvBlock> {
        let place = self.blocks.binary_search_by_key(&number, |block| block.number).ok()?;
        self.blocks.get(place)
    }

    /// Sees to it that `number` and all later blocks are mapped, as far as they are still there.
    fn ensure(&mut self, reader: &Reader, number: u32) -> io::Result<()> {
        let commit = reader.commit();
        for number in number.max(reader.oldest_block())..=commit.block {
            if let Err(place) = self.blocks.binary_search_by_key(&number, |block| block.number)
                && let Some(block) = FlvBlock::open(reader, number)?
            {
                self.blocks.insert(place, block);
            }
        }
        self.refresh(reader, commit);
        Ok(())
    }

    /// The block's first record instead of its keyframe if only audio and data come before it: the beginning of a stream is not cut.
    fn with_leading_audio(&self, start: Position) -> Position {
        let Some(block) = self.get(start.block) else { return start };
        let leading = block.map.bytes(block.prefix_bytes, start.offset).unwrap_or_default();
        if flv::records(leading).any(|record| record.header.kind == RecordKind::Video) {
            return start;
        }
        Position { block: start.block, offset: block.prefix_bytes }
    }

    /// Maps the blocks that are new.
    fn update(&mut self, reader: &Reader) -> io::Result<()> {
        match self.blocks.back().map(|last| last.number) {
            Some(last) => self.ensure(reader, last.saturating_add(1)),
            None => Ok(()),
        }
    }

    fn refresh(&mut self, reader: &Reader, commit: Position) {
        for block in &mut self.blocks {
            // One that was begun after the commit word was read is looked at the next time.
            if block.number <= commit.block {
                block.refresh(reader, commit);
            }
        }
    }

    fn trim(&mut self, oldest: u32) {
        while self.blocks.len() > 1 && self.blocks.front().is_some_and(|first| first.number < oldest) {
            self.blocks.pop_front();
        }
    }
}

/// The same records as RTMP chunks: a pure function of the blocks, so that an offset means the same in every worker.
#[derive(Default)]
pub struct RtmpBlocks {
    blocks: VecDeque<RtmpBlock>,
}

struct RtmpBlock {
    number: u32,
    bytes: Vec<u8>,
    complete: bool,
    /// Log offset up to which records were rendered.
    rendered: u32,
    prefix_bytes: u32,
    generation: u32,
    /// Where each record begins: log offset and offset here.
    records: Vec<(u32, u32)>,
}

impl RtmpBlock {
    fn new(number: u32) -> Self {
        let rendered = flv::FILE_HEADER.len() as u32;
        Self { number, bytes: Vec::new(), complete: false, rendered, prefix_bytes: 0, generation: 0, records: Vec::new() }
    }

    fn render(&mut self, source: &FlvBlock) {
        if self.complete || self.rendered > source.available.bytes {
            return;
        }
        self.generation = source.generation;
        let start = self.rendered;
        for record in flv::records(source.map.bytes(start, source.available.bytes).unwrap_or_default()) {
            let at = start + record.offset as u32;
            self.records.push((at, self.bytes.len() as u32));
            egress::write_message(&mut self.bytes, record.header.kind, record.header.timestamp_ms, record.payload);
            self.rendered = at + record.header.record_bytes() as u32;
            if self.rendered <= source.prefix_bytes {
                self.prefix_bytes = self.bytes.len() as u32;
            }
        }
        self.complete = source.available.complete && self.rendered >= source.available.bytes;
        if self.complete {
            self.bytes.shrink_to_fit();
            self.records.shrink_to_fit();
        }
    }

    fn boundary(&self, offset: u32) -> u32 {
        let at = self.records.partition_point(|(_, here)| *here < offset);
        self.records.get(at).map_or(self.bytes.len() as u32, |(_, here)| *here)
    }
}

impl RtmpBlocks {
    fn get(&self, number: u32) -> Option<&RtmpBlock> {
        let place = self.blocks.binary_search_by_key(&number, |block| block.number).ok()?;
        self.blocks.get(place)
    }

    /// Makes room for the renditions of `number` and all later blocks that are at hand.
    fn ensure(&mut self, source: &FlvBlocks, number: u32) {
        let from = source.blocks.partition_point(|block| block.number < number);
        for block in source.blocks.range(from..) {
            if let Err(place) = self.blocks.binary_search_by_key(&block.number, |block| block.number) {
                self.blocks.insert(place, RtmpBlock::new(block.number));
            }
        }
    }

    /// Renders what is new.
    fn update(&mut self, source: &FlvBlocks) {
        if let Some(last) = self.blocks.back().map(|last| last.number) {
            self.ensure(source, last.saturating_add(1));
        }
        for block in self.blocks.iter_mut().filter(|block| !block.complete) {
            if let Some(source) = source.get(block.number) {
                block.render(source);
            }
        }
    }

    /// The offset of a record in this rendition.
    fn locate(&self, position: Position) -> Option<u32> {
        let block = self.get(position.block)?;
        let at = block.records.binary_search_by_key(&position.offset, |(log, _)| *log).ok()?;
        Some(block.records[at].1)
    }

    fn trim(&mut self, oldest: u32) {
        while self.blocks.len() > 1 && self.blocks.front().is_some_and(|first| first.number < oldest) {
            self.blocks.pop_front();
        }
    }
}

#[cfg(test)]
#[path = "streams_tests.rs"]
mod tests;
