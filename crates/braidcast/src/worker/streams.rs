//! A stream as one worker's viewers see it: the mapped blocks they need, and the renditions made from them.
//!
//! Both are caches: they can be thrown away and made again from the log at any time. Nothing here waits, and nothing
//! here knows of sockets.

use super::ledger::{Available, Blocks};
use super::pacing::{Pace, Turn};
use super::rendition::{Carried, Renderer, Rendition};
use braidcast_media::{RecordKind, StreamKey, flv};
use braidcast_stream_log::{BlockMap, Position, Reader, State};
use std::collections::VecDeque;
use std::io;

/// A stream that this worker reads.
pub struct LocalStream {
    /// Its name.
    pub key: StreamKey,
    /// Its log.
    pub reader: Reader,
    /// Session slots of the viewers.
    pub viewers: Vec<usize>,
    /// When its viewers are served.
    pub pace: Pace,
    /// Fan-out: the next viewer of the round that is under way.
    pub next_viewer: usize,
    /// What the commit word said when it was looked at last, be it by a round of the fan-out or by one who decides about the next.
    pub seen: Position,
    /// The newest block when blocks were let go of last.
    pub trimmed: u32,
    /// The stream has ended, and its viewers were told; some may still be taking what they are owed.
    pub over: bool,
    /// Bytes that were sent to viewers and are not told yet.
    pub sent_bytes: u64,
    /// Likewise, how often a viewer was jumped.
    pub jumps: u64,
    flv: FlvBlocks,
    /// All but the log itself, as long as somebody views them.
    renditions: Vec<RenderedBlocks>,
}

impl LocalStream {
    /// A stream without viewers yet.
    pub fn new(key: StreamKey, reader: Reader, pace: Pace) -> Self {
        Self {
            key,
            reader,
            viewers: Vec::new(),
            pace,
            next_viewer: 0,
            seen: Position { block: 0, offset: 0 },
            trimmed: 0,
            over: false,
            sent_bytes: 0,
            jumps: 0,
            flv: FlvBlocks::default(),
            renditions: Vec::new(),
        }
    }

    /// What was counted and is not told yet: bytes sent, jumps. It counts as told from now on.
    pub fn take_counted(&mut self) -> (u64, u64) {
        (std::mem::take(&mut self.sent_bytes), std::mem::take(&mut self.jumps))
    }

    /// Adds a viewer and says which place it has among the viewers.
    pub fn join(&mut self, session: usize, rendition: Rendition) -> usize {
        self.viewers.push(session);
        self.count_in(rendition);
        self.viewers.len() - 1
    }

    /// A viewer goes on in another rendition.
    pub fn change(&mut self, from: Rendition, to: Rendition) {
        self.count_in(to);
        self.count_out(from);
    }

    fn count_in(&mut self, rendition: Rendition) {
        if let Some(rendered) = self.rendered_mut(rendition) {
            rendered.viewers += 1;
        }
    }

    fn count_out(&mut self, rendition: Rendition) {
        if let Some(rendered) = self.rendered_mut(rendition) {
            rendered.viewers -= 1;
        }
        self.renditions.retain(|rendered| rendered.viewers > 0);
    }

    /// The blocks of a rendition, made if nobody has viewed it yet; `None`: it is the log itself.
    fn rendered_mut(&mut self, rendition: Rendition) -> Option<&mut RenderedBlocks> {
        if rendition == Rendition::LOG {
            return None;
        }
        let known = self.renditions.iter().position(|rendered| rendered.rendition == rendition);
        let place = known.unwrap_or_else(|| {
            self.renditions.push(RenderedBlocks::new(rendition));
            self.renditions.len() - 1
        });
        self.renditions.get_mut(place)
    }

    fn rendered(&self, rendition: Rendition) -> Option<&RenderedBlocks> {
        self.renditions.iter().find(|rendered| rendered.rendition == rendition)
    }

    /// Makes a rendition of `number` and all later blocks at hand.
    fn render(&mut self, rendition: Rendition, number: u32) {
        let flv = std::mem::take(&mut self.flv);
        if let Some(rendered) = self.rendered_mut(rendition) {
            rendered.ensure(&flv, number);
            rendered.update(&flv);
        }
        self.flv = flv;
    }

    /// The rendition that a viewer gets who asked for this one.
    pub fn offered(&mut self, rendition: Rendition) -> io::Result<Rendition> {
        let Some(start) = self.reader.start() else { return Ok(rendition) };
        self.flv.ensure(&self.reader, start.block)?;
        Ok(if self.flv.get(start.block).is_some_and(|block| block.extended) { rendition } else { rendition.without_tracks() })
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
        Ok(self.place_in(rendition, start).map(|offset| (start.block, offset)))
    }

    /// Whether a rendition can show anything of the stream, as the block says that a viewer would begin with.
    pub fn carries(&self, rendition: Rendition, block: u32) -> Carried {
        let bytes = self.flv.get(block).and_then(|block| block.map.bytes(flv::FILE_HEADER.len() as u32, block.available.bytes));
        rendition.carries(bytes.unwrap_or_default())
    }

    /// Where the newest keyframe is in the log.
    pub fn newest_keyframe(&self) -> Option<Position> {
        self.reader.start()
    }

    /// The offset in a rendition of a record of a block at hand.
    pub fn place_in(&mut self, rendition: Rendition, position: Position) -> Option<u32> {
        // Evicted before so much of it was seen: nothing will ever be sent from there.
        self.flv.get(position.block).filter(|block| position.offset <= block.available.bytes)?;
        if rendition == Rendition::LOG {
            return Some(position.offset);
        }
        self.render(rendition, position.block);
        self.rendered(rendition)?.locate(position)
    }

    /// The place in the log of a place in a rendition, rounded down to a record.
    pub fn in_log(&self, rendition: Rendition, block: u32, offset: u32) -> Option<Position> {
        let offset = if rendition == Rendition::LOG { offset } else { self.rendered(rendition)?.get(block)?.in_log(offset) };
        Some(Position { block, offset })
    }

    /// Sees to it that a block and all later ones are at hand for a viewer that came from elsewhere. False: it is not there any more.
    pub fn hold(&mut self, block: u32, rendition: Rendition) -> io::Result<bool> {
        self.flv.ensure(&self.reader, block)?;
        self.render(rendition, block);
        Ok(self.flv.get(block).is_some())
    }

    /// Bytes of a block's prefix in a rendition, from its very first byte: what a new viewer is sent first.
    pub fn prefix_bytes(&self, block: u32, rendition: Rendition) -> u32 {
        self.blocks(rendition).records_start(block)
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
        self.count_out(rendition);
        if self.viewers.is_empty() {
            self.flv = FlvBlocks::default();
        }
        moved
    }

    /// Takes in what the log has gained.
    pub fn update(&mut self) -> io::Result<()> {
        self.flv.update(&self.reader)?;
        for rendered in &mut self.renditions {
            rendered.update(&self.flv);
        }
        Ok(())
    }

    /// Whether there may be blocks that nobody needs any more: not before another one has begun.
    pub fn may_trim(&mut self) -> bool {
        let newest = self.flv.blocks.back().map_or(0, |newest| newest.number);
        std::mem::replace(&mut self.trimmed, newest) != newest
    }

    /// Lets go of blocks before `oldest`, the oldest that a viewer still needs.
    pub fn trim(&mut self, oldest: u32) {
        self.flv.trim(oldest);
        self.renditions.iter_mut().for_each(|rendered| rendered.trim(oldest));
    }

    /// How far a viewer that stands in `block` at `offset` is behind: bytes of log, and at least so many milliseconds.
    pub fn lag(&self, block: u32, offset: u32, rendition: Rendition) -> Lag {
        let offset = self.in_log(rendition, block, offset).map_or(offset, |place| place.offset);
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

    /// Whether there is something about which nobody has decided yet when it goes to the viewers.
    pub fn has_grown(&self) -> bool {
        matches!(self.pace.turn, Turn::Idle | Turn::Riding(_)) && self.reader.commit() != self.seen
    }

    /// Looks at what the log has gained since the last look: how many video frames are among it. A new block counts as one.
    pub fn look(&mut self) -> io::Result<u64> {
        let before = std::mem::replace(&mut self.seen, self.reader.commit());
        let frames = self.frames_since(before);
        self.pace.count(*frames.as_ref().unwrap_or(&1));
        frames
    }

    fn frames_since(&mut self, before: Position) -> io::Result<u64> {
        if before == self.seen {
            return Ok(0);
        }
        if before.block != self.seen.block {
            return Ok(1);
        }
        self.flv.update(&self.reader)?;
        // Nobody views it yet, or its block is gone: what is there does not wait.
        let Some(block) = self.flv.get(before.block) else { return Ok(1) };
        let gained = block.map.bytes(before.offset, self.seen.offset).unwrap_or_default();
        Ok(flv::records(gained).filter(|record| record.header.kind == RecordKind::Video).count() as u64)
    }

    /// The newest block in a rendition, if anything of it is at hand.
    pub fn front(&self, rendition: Rendition) -> Option<Front<'_>> {
        let newest = self.flv.blocks.back()?;
        let bytes = if rendition == Rendition::LOG {
            newest.map.bytes(0, newest.available.bytes)?
        } else {
            &self.rendered(rendition)?.blocks.back().filter(|rendered| rendered.number == newest.number)?.bytes
        };
        Some(Front { block: newest.number, bytes })
    }

    /// Whether the stream is over, or its log deleted. Of an ended one somebody may still make a live one.
    pub fn has_ended(&self) -> bool {
        matches!(self.reader.state(), State::Ended | State::Disposed)
    }

    /// The view a ledger needs.
    pub fn blocks(&self, rendition: Rendition) -> View<'_> {
        if rendition == Rendition::LOG { View::Log(&self.flv) } else { self.rendered(rendition).map_or(View::Nothing, View::Rendered) }
    }
}

/// See [`LocalStream::front`].
#[derive(Clone, Copy)]
pub struct Front<'a> {
    /// Its number.
    pub block: u32,
    /// Its bytes, as far as they may be used.
    pub bytes: &'a [u8],
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
    /// The log itself.
    Log(&'a FlvBlocks),
    /// What was made from it.
    Rendered(&'a RenderedBlocks),
    /// Of no stream: for sessions that view nothing.
    Nothing,
}

impl Blocks for View<'_> {
    fn available(&self, block: u32) -> Option<Available> {
        match self {
            Self::Log(blocks) => blocks.get(block).map(|block| block.available),
            Self::Rendered(blocks) => {
                blocks.get(block).map(|block| Available { bytes: block.bytes.len() as u32, complete: block.complete })
            }
            Self::Nothing => None,
        }
    }

    fn bytes(&self, block: u32, from: u32, to: u32) -> &[u8] {
        match self {
            Self::Log(blocks) => blocks.get(block).and_then(|block| block.map.bytes(from, to)).unwrap_or_default(),
            Self::Rendered(blocks) => blocks.get(block).and_then(|block| block.bytes.get(from as usize..to as usize)).unwrap_or_default(),
            Self::Nothing => &[],
        }
    }

    fn after(&self, block: u32) -> Option<(u32, u32)> {
        let next = block.saturating_add(1);
        match self {
            Self::Log(blocks) => blocks.get(next).map(|at| {
                let same = blocks.get(block).is_some_and(|before| before.generation == at.generation);
                (next, if same { at.prefix_bytes } else { Rendition::LOG.file_header_bytes() })
            }),
            Self::Rendered(blocks) => blocks.get(next).filter(|at| at.is_begun()).map(|at| {
                let same = blocks.get(block).is_some_and(|before| before.generation == at.generation);
                (next, if same { at.prefix_bytes } else { blocks.rendition.file_header_bytes() })
            }),
            Self::Nothing => None,
        }
    }

    fn boundary(&self, block: u32, offset: u32) -> u32 {
        match self {
            Self::Log(blocks) => blocks.get(block).map_or(offset, |block| block.boundary(offset)),
            Self::Rendered(blocks) => blocks.get(block).map_or(offset, |block| block.boundary(offset)),
            Self::Nothing => offset,
        }
    }

    fn records_start(&self, block: u32) -> u32 {
        match self {
            Self::Log(blocks) => blocks.get(block).map_or(0, |block| block.prefix_bytes),
            Self::Rendered(blocks) => blocks.get(block).map_or(0, |block| block.prefix_bytes),
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
    extended: bool,
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
            extended: info.extended,
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
        // Evicted before anything of it was seen.
        self.blocks.retain(|block| !block.available.complete || block.available.bytes > 0);
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

/// The same records in another form, see [`super::rendition`].
pub struct RenderedBlocks {
    rendition: Rendition,
    viewers: usize,
    blocks: VecDeque<RenderedBlock>,
}

struct RenderedBlock {
    number: u32,
    bytes: Vec<u8>,
    complete: bool,
    /// Made with the first bytes.
    renderer: Option<Renderer>,
    /// Log offset up to which records were rendered.
    rendered: u32,
    prefix_bytes: u32,
    generation: u32,
    /// Where each record begins: log offset and offset here.
    records: Vec<(u32, u32)>,
}

impl RenderedBlock {
    fn new(number: u32) -> Self {
        let rendered = flv::FILE_HEADER.len() as u32;
        let (bytes, records) = (Vec::new(), Vec::new());
        Self { number, bytes, complete: false, renderer: None, rendered, prefix_bytes: 0, generation: 0, records }
    }

    fn is_begun(&self) -> bool {
        self.renderer.is_some() || self.complete
    }

    fn render(&mut self, rendition: Rendition, source: &FlvBlock) {
        // A prefix is committed with its first record: what is available has it whole.
        if self.complete || self.rendered > source.available.bytes || source.available.bytes < source.prefix_bytes {
            return;
        }
        self.generation = source.generation;
        let start = self.rendered;
        let (bytes, renderer) = (&mut self.bytes, &mut self.renderer);
        let renderer = renderer.get_or_insert_with(|| {
            let header = source.map.bytes(0, flv::FILE_HEADER.len() as u32).unwrap_or_default();
            Renderer::new(rendition, header, source.generation, bytes)
        });
        for record in flv::records(source.map.bytes(start, source.available.bytes).unwrap_or_default()) {
            let at = start + record.offset as u32;
            if at == source.prefix_bytes {
                self.prefix_bytes = bytes.len() as u32;
            }
            self.records.push((at, bytes.len() as u32));
            renderer.render(&record, bytes);
            self.rendered = at + record.header.record_bytes() as u32;
        }
        if self.rendered <= source.prefix_bytes {
            self.prefix_bytes = bytes.len() as u32;
        }
        self.complete = source.available.complete && self.rendered >= source.available.bytes;
        if self.complete {
            self.renderer = None;
            self.bytes.shrink_to_fit();
            self.records.shrink_to_fit();
        }
    }

    fn boundary(&self, offset: u32) -> u32 {
        let at = self.records.partition_point(|(_, here)| *here < offset);
        self.records.get(at).map_or(self.bytes.len() as u32, |(_, here)| *here)
    }

    /// The log offset of the record that `offset` lies in, or begins with.
    fn in_log(&self, offset: u32) -> u32 {
        if offset as usize >= self.bytes.len() {
            return self.rendered;
        }
        let behind = self.records.partition_point(|(_, here)| *here <= offset);
        self.records.get(behind.saturating_sub(1)).map_or(self.rendered, |(log, _)| *log)
    }
}

impl RenderedBlocks {
    fn new(rendition: Rendition) -> Self {
        Self { rendition, viewers: 0, blocks: VecDeque::new() }
    }

    fn get(&self, number: u32) -> Option<&RenderedBlock> {
        let place = self.blocks.binary_search_by_key(&number, |block| block.number).ok()?;
        self.blocks.get(place)
    }

    /// Makes room for the renditions of `number` and all later blocks that are at hand.
    fn ensure(&mut self, source: &FlvBlocks, number: u32) {
        let from = source.blocks.partition_point(|block| block.number < number);
        for block in source.blocks.range(from..) {
            if let Err(place) = self.blocks.binary_search_by_key(&block.number, |block| block.number) {
                self.blocks.insert(place, RenderedBlock::new(block.number));
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
                block.render(self.rendition, source);
            }
        }
    }

    /// The offset of a record in this rendition.
    fn locate(&self, position: Position) -> Option<u32> {
        let block = self.get(position.block)?;
        if position.offset == block.rendered {
            return Some(block.bytes.len() as u32);
        }
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
