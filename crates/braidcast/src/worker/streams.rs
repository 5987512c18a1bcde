//! A stream as one worker's viewers see it: the mapped blocks they need, and the renditions made from them.
//!
//! Both are caches: they can be thrown away and made again from the log at any time. Nothing here waits, and nothing
//! here knows of sockets.

use super::ledger::{Available, Blocks};
use super::pacing::{Pace, Turn};
use super::rendered::{RenderedBlock, RenderedBlocks};
use super::rendition::{Carried, Rendition};
use braidcast_media::{RecordKind, StreamKey, flv};
use braidcast_stream_log::{BlockMap, Position, Reader, State};
use std::collections::VecDeque;
use std::io;

/// So much more of a stream is sent before the memory behind its viewers is given back: some microseconds' work each time.
const LET_GO_BYTES: u32 = 128 << 10;

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
    /// What there was when memory was let go of last.
    let_go: Position,
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
            let_go: Position { block: 0, offset: 0 },
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

    /// Makes a rendition of `number` and all later blocks at hand, from their beginning.
    fn render(&mut self, rendition: Rendition, number: u32) {
        let flv = std::mem::take(&mut self.flv);
        if let Some(rendered) = self.rendered_mut(rendition) {
            rendered.ensure(&flv, number);
            rendered.update(&flv);
            rendered.bring_back(&flv, number);
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

    /// Whether there is enough behind the viewers to let go of: another block has begun, or the newest has grown by much. If so, it counts as done.
    pub fn may_let_go(&mut self) -> bool {
        let Some(newest) = self.flv.blocks.back() else { return false };
        let now = Position { block: newest.number, offset: newest.available.bytes };
        let grown = now.offset.saturating_sub(self.let_go.offset);
        let may = now.block != self.let_go.block || grown >= LET_GO_BYTES;
        if may {
            self.let_go = now;
        }
        may
    }

    /// Lets go of all that no viewer needs any more: `place_of` says of a viewer in which rendition it is owed something, and from where on.
    /// Blocks go when nobody is in them and a newer one has followed; of the others, the memory. True: much of it was this process's own.
    pub fn let_go(&mut self, place_of: impl Fn(usize) -> Option<(Rendition, (u32, u32))>) -> bool {
        let newest = self.seen.block;
        let nowhere = (u32::MAX, u32::MAX);
        let mut oldest = nowhere;
        self.renditions.iter_mut().for_each(|rendered| rendered.needed_from = nowhere);
        for (rendition, place) in self.viewers.iter().filter_map(|viewer| place_of(*viewer)) {
            oldest = oldest.min(place);
            if let Some(rendered) = self.renditions.iter_mut().find(|rendered| rendered.rendition == rendition) {
                rendered.needed_from = rendered.needed_from.min(place);
            }
        }
        // A new viewer begins at the newest keyframe, which may lie one block back.
        let oldest = oldest.0.min(newest.saturating_sub(1));
        self.flv.let_go(oldest);
        self.renditions.iter_mut().fold(false, |freed, rendered| rendered.let_go(oldest) | freed)
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
        let (from, bytes) = if rendition == Rendition::LOG {
            (0, newest.map.bytes(0, newest.available.bytes)?)
        } else {
            self.rendered(rendition)?.get(newest.number)?.at_hand()
        };
        Some(Front { block: newest.number, from, bytes })
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
    /// Where `bytes` begin.
    from: u32,
    /// Its bytes, as far as they may be used.
    bytes: &'a [u8],
}

impl<'a> Front<'a> {
    /// What follows a place, if it is at hand.
    #[inline]
    pub fn after(&self, offset: u32) -> Option<&'a [u8]> {
        self.bytes.get(offset.checked_sub(self.from)? as usize..)
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
            Self::Rendered(blocks) => blocks.get(block).map(RenderedBlock::available),
            Self::Nothing => None,
        }
    }

    fn bytes(&self, block: u32, from: u32, to: u32) -> &[u8] {
        match self {
            Self::Log(blocks) => blocks.get(block).and_then(|block| block.map.bytes(from, to)).unwrap_or_default(),
            Self::Rendered(blocks) => blocks.get(block).map_or(&[], |block| block.bytes(from, to)),
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
    pub(super) blocks: VecDeque<FlvBlock>,
}

pub(super) struct FlvBlock {
    pub(super) number: u32,
    pub(super) map: BlockMap,
    pub(super) available: Available,
    pub(super) prefix_bytes: u32,
    pub(super) generation: u32,
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
    pub(super) fn get(&self, number: u32) -> Option<&FlvBlock> {
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

    /// Lets go of blocks before `oldest`, and of the memory of the others: who is behind has it back at a look.
    fn let_go(&mut self, oldest: u32) {
        while self.blocks.len() > 1 && self.blocks.front().is_some_and(|first| first.number < oldest) {
            self.blocks.pop_front();
        }
        for block in &self.blocks {
            if let Err(error) = block.map.let_go() {
                tracing::debug!(block = block.number, %error, "memory of a mapped block stays taken");
            }
        }
    }
}

#[cfg(test)]
#[path = "streams_tests.rs"]
mod tests;
