//! A stream's blocks in a rendition that is not the log itself: made record by record, as far as the log goes, and kept as long as a viewer needs them.
//!
//! What all viewers have got is given back at once; an offset stays what it was. Who comes later has the block rendered once more, from its beginning: it is
//! a pure function of the log's block.

use super::ledger::Available;
use super::rendition::{Renderer, Rendition};
use super::streams::{FlvBlock, FlvBlocks};
use braidcast_media::flv;
use braidcast_stream_log::Position;
use std::collections::VecDeque;

/// A buffer that is longer than this, for no reason any more, is made shorter.
const BUFFER_BYTES: usize = 256 << 10;

/// The same records in another form, see [`super::rendition`].
pub struct RenderedBlocks {
    pub(super) rendition: Rendition,
    pub(super) viewers: usize,
    /// Block and offset before which no viewer needs anything; see [`super::streams::LocalStream::let_go`].
    pub(super) needed_from: (u32, u32),
    blocks: VecDeque<RenderedBlock>,
    /// The buffer of a block that is not needed any more, for the next one.
    spare: Vec<u8>,
}

/// One of them.
pub struct RenderedBlock {
    pub(super) number: u32,
    /// Where `bytes` begin: what was before is given back.
    from: u32,
    bytes: Vec<u8>,
    pub(super) complete: bool,
    /// Made with the first bytes.
    renderer: Option<Renderer>,
    /// Log offset up to which records were rendered.
    rendered: u32,
    pub(super) prefix_bytes: u32,
    pub(super) generation: u32,
    /// Where each record begins: log offset and offset here.
    records: Vec<(u32, u32)>,
}

impl RenderedBlock {
    fn new(number: u32, bytes: Vec<u8>) -> Self {
        let rendered = flv::FILE_HEADER.len() as u32;
        Self { number, from: 0, bytes, complete: false, renderer: None, rendered, prefix_bytes: 0, generation: 0, records: Vec::new() }
    }

    /// Whether there is anything of it.
    pub(super) fn is_begun(&self) -> bool {
        self.renderer.is_some() || self.complete
    }

    /// How much of it was rendered, whether it is at hand or not.
    pub(super) fn available(&self) -> Available {
        Available { bytes: self.from + self.bytes.len() as u32, complete: self.complete }
    }

    /// What is at hand, and where that begins.
    pub(super) fn at_hand(&self) -> (u32, &[u8]) {
        (self.from, &self.bytes)
    }

    /// A range that is at hand.
    pub(super) fn bytes(&self, from: u32, to: u32) -> &[u8] {
        let range = from.checked_sub(self.from).zip(to.checked_sub(self.from));
        let bytes = range.and_then(|(from, to)| self.bytes.get(from as usize..to as usize));
        debug_assert!(bytes.is_some(), "bytes {from}..{to} of a rendition of which {:?} behind {} are there", self.bytes.len(), self.from);
        bytes.unwrap_or_default()
    }

    fn render(&mut self, rendition: Rendition, source: &FlvBlock) {
        // A prefix is committed with its first record: what is available has it whole.
        if self.complete || self.rendered > source.available.bytes || source.available.bytes < source.prefix_bytes {
            return;
        }
        self.generation = source.generation;
        let (start, given_back) = (self.rendered, self.from);
        let (bytes, renderer) = (&mut self.bytes, &mut self.renderer);
        let renderer = renderer.get_or_insert_with(|| {
            let header = source.map.bytes(0, flv::FILE_HEADER.len() as u32).unwrap_or_default();
            Renderer::new(rendition, header, source.generation, bytes)
        });
        let end = |bytes: &Vec<u8>| given_back + bytes.len() as u32;
        for record in flv::records(source.map.bytes(start, source.available.bytes).unwrap_or_default()) {
            let at = start + record.offset as u32;
            if at == source.prefix_bytes {
                self.prefix_bytes = end(bytes);
            }
            self.records.push((at, end(bytes)));
            renderer.render(&record, bytes);
            self.rendered = at + record.header.record_bytes() as u32;
        }
        if self.rendered <= source.prefix_bytes {
            self.prefix_bytes = end(bytes);
        }
        self.complete = source.available.complete && self.rendered >= source.available.bytes;
        if self.complete {
            self.renderer = None;
            self.records.shrink_to_fit();
        }
    }

    /// Renders once more what was given back.
    fn bring_back(&mut self, rendition: Rendition, source: &FlvBlock) {
        if self.from == 0 {
            return;
        }
        let upto = self.rendered;
        let header = source.map.bytes(0, flv::FILE_HEADER.len() as u32).unwrap_or_default();
        let mut bytes = Vec::with_capacity(self.available().bytes as usize);
        let mut renderer = Renderer::new(rendition, header, self.generation, &mut bytes);
        let first = flv::FILE_HEADER.len() as u32;
        for record in flv::records(source.map.bytes(first, upto).unwrap_or_default()) {
            renderer.render(&record, &mut bytes);
        }
        debug_assert_eq!(bytes.get(self.from as usize..), Some(&self.bytes[..]), "a rendition came out as another one");
        if bytes.len() == self.available().bytes as usize {
            (self.from, self.bytes) = (0, bytes);
        }
    }

    /// Gives back what is before `offset`, unless it would mean to move more than that. True: that was much.
    fn let_go(&mut self, offset: u32) -> bool {
        let behind = (offset.saturating_sub(self.from) as usize).min(self.bytes.len());
        if behind < self.bytes.len() - behind {
            return false;
        }
        self.bytes.drain(..behind);
        self.from += behind as u32;
        let is_long = self.bytes.capacity() > BUFFER_BYTES && self.bytes.len() <= BUFFER_BYTES / 2;
        if is_long {
            self.bytes.shrink_to(BUFFER_BYTES / 2);
        }
        is_long
    }

    /// The first boundary at or after an offset.
    pub(super) fn boundary(&self, offset: u32) -> u32 {
        let at = self.records.partition_point(|(_, here)| *here < offset);
        self.records.get(at).map_or(self.available().bytes, |(_, here)| *here)
    }

    /// The log offset of the record that `offset` lies in, or begins with.
    pub(super) fn in_log(&self, offset: u32) -> u32 {
        if offset >= self.available().bytes {
            return self.rendered;
        }
        let behind = self.records.partition_point(|(_, here)| *here <= offset);
        self.records.get(behind.saturating_sub(1)).map_or(self.rendered, |(log, _)| *log)
    }
}

impl RenderedBlocks {
    /// Of a rendition that nobody has viewed yet.
    pub(super) fn new(rendition: Rendition) -> Self {
        Self { rendition, viewers: 0, needed_from: (0, 0), blocks: VecDeque::new(), spare: Vec::new() }
    }

    /// A block, if it is there.
    pub(super) fn get(&self, number: u32) -> Option<&RenderedBlock> {
        let place = self.blocks.binary_search_by_key(&number, |block| block.number).ok()?;
        self.blocks.get(place)
    }

    /// Makes room for the renditions of `number` and all later blocks that are at hand.
    pub(super) fn ensure(&mut self, source: &FlvBlocks, number: u32) {
        let from = source.blocks.partition_point(|block| block.number < number);
        for block in source.blocks.range(from..) {
            if let Err(place) = self.blocks.binary_search_by_key(&block.number, |block| block.number) {
                self.blocks.insert(place, RenderedBlock::new(block.number, std::mem::take(&mut self.spare)));
            }
        }
    }

    /// Renders what is new.
    pub(super) fn update(&mut self, source: &FlvBlocks) {
        if let Some(last) = self.blocks.back().map(|last| last.number) {
            self.ensure(source, last.saturating_add(1));
        }
        for block in self.blocks.iter_mut().filter(|block| !block.complete) {
            if let Some(source) = source.get(block.number) {
                block.render(self.rendition, source);
            }
        }
    }

    /// Has `number` and all later blocks at hand as a whole: somebody comes who was nowhere in them yet.
    pub(super) fn bring_back(&mut self, source: &FlvBlocks, number: u32) {
        let from = self.blocks.partition_point(|block| block.number < number);
        for block in self.blocks.range_mut(from..) {
            if let Some(source) = source.get(block.number) {
                block.bring_back(self.rendition, source);
            }
        }
    }

    /// The offset of a record in this rendition.
    pub(super) fn locate(&self, position: Position) -> Option<u32> {
        let block = self.get(position.block)?;
        if position.offset == block.rendered {
            return Some(block.available().bytes);
        }
        let at = block.records.binary_search_by_key(&position.offset, |(log, _)| *log).ok()?;
        Some(block.records[at].1)
    }

    /// Lets go of blocks before `oldest`, and of what lies before `needed_from` in the others. True: that was much.
    pub(super) fn let_go(&mut self, oldest: u32) -> bool {
        let mut freed = false;
        while self.blocks.len() > 1 && self.blocks.front().is_some_and(|first| first.number < oldest) {
            freed |= self.blocks.pop_front().is_some_and(|block| block.bytes.capacity() > BUFFER_BYTES);
        }
        let (needed, offset) = self.needed_from;
        for block in self.blocks.iter_mut().take_while(|block| block.number <= needed) {
            freed |= block.let_go(if block.number < needed { u32::MAX } else { offset });
            if block.complete && block.bytes.is_empty() && block.bytes.capacity() > 0 {
                self.spare = std::mem::take(&mut block.bytes);
            }
        }
        freed
    }
}
