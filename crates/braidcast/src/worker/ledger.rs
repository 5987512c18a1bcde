//! What a connection is owed: a ledger of extents.
//!
//! An extent says where a stretch of the connection's output comes from: control bytes of the session, a run of a
//! stream's log (or of a rendition of it), or an HTTP answer's body. Everything a client receives goes through its ledger, so that
//! how many bytes were sent is all one has to know to go on with any connection.
//!
//! The ledger never holds media bytes, allocates only while more than one extent is owed, and begins a new extent only at a message boundary.

use serde::{Deserialize, Serialize};
use std::io::IoSlice;

/// Extents a ledger can hold. The longest need: end of a run, control, prefix, run, and the crossing into two blocks.
pub const MAX_EXTENTS: usize = 6;

/// Where a viewer's bytes come from: the blocks of a stream, in one rendition.
pub trait Blocks {
    /// How many bytes of the block may be used now, and whether that is all it will ever have. `None`: it is not at hand.
    fn available(&self, block: u32) -> Option<Available>;
    /// Bytes `from..to` of a block, which are available.
    fn bytes(&self, block: u32, from: u32, to: u32) -> &[u8];
    /// The block that follows, and the offset at which a viewer goes on in it; `None` while there is none.
    fn after(&self, block: u32) -> Option<(u32, u32)>;
    /// The first message boundary at or after `offset`; never beyond what is available.
    fn boundary(&self, block: u32, offset: u32) -> u32;
    /// Where a block's prefix ends and its records begin.
    fn records_start(&self, block: u32) -> u32;
}

/// See [`Blocks::available`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Available {
    /// Bytes from the block's start.
    pub bytes: u32,
    /// Nothing will be added.
    pub complete: bool,
}

/// Where an extent's bytes come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// The oldest unsent bytes of the session's control buffer.
    Control {
        /// How many.
        bytes: u32,
    },
    /// A run of a block; [`OPEN`] as its end: as far as the block will go, and on into the next.
    Run {
        /// Block number.
        block: u32,
        /// First byte.
        offset: u32,
        /// Behind the last byte.
        end: u32,
    },
    /// A range of the session's body: a segment, or a part of the program.
    Body {
        /// First byte.
        offset: u32,
        /// Behind the last byte.
        end: u32,
    },
}

impl Source {
    fn is_empty(&self) -> bool {
        match self {
            Self::Control { bytes } => *bytes == 0,
            Self::Run { offset, end, .. } | Self::Body { offset, end } => offset == end,
        }
    }
}

/// The end of a run that goes on as long as the stream does.
pub const OPEN: u32 = u32::MAX;

/// From which byte of the connection on what is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// Byte of the connection's output at which it begins.
    pub from: u64,
    /// What it is.
    pub source: Source,
}

impl Extent {
    const NONE: Self = Self { from: 0, source: Source::Control { bytes: 0 } };

    /// Its length in bytes; `None` for an open run.
    fn len(&self) -> Option<u64> {
        match self.source {
            Source::Control { bytes } => Some(u64::from(bytes)),
            Source::Run { end: OPEN, .. } => None,
            Source::Run { offset, end, .. } | Source::Body { offset, end } => Some(u64::from(end - offset)),
        }
    }
}

/// The ledger has no room for the extents that were to be added; try again when it has advanced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// See the module's head.
#[derive(Clone, Debug)]
pub struct Ledger {
    sent: u64,
    /// Byte of the connection at which what is only finished ends, see [`Ledger::abandon`].
    finish: u64,
    /// See [`Ledger::changes`].
    changes: u32,
    count: u8,
    /// What is owed if it is one extent, as it nearly always is.
    one: Extent,
    /// All of them if there are more.
    several: Option<Box<[Extent; MAX_EXTENTS]>>,
}

/// What to send next.
pub enum Next<'a> {
    /// Nothing that is at hand.
    Nothing,
    /// Bytes.
    Slices(Slices<'a>),
    /// A range of the session's body: `offset`, `length`.
    Body(u32, u32),
}

/// Byte runs for one gathering send, without allocation.
pub struct Slices<'a> {
    slices: [IoSlice<'a>; MAX_EXTENTS],
    count: usize,
    before_body: bool,
}

impl<'a> Slices<'a> {
    fn new() -> Self {
        Self { slices: [IoSlice::new(&[]); MAX_EXTENTS], count: 0, before_body: false }
    }

    fn push(&mut self, bytes: &'a [u8]) {
        if !bytes.is_empty() && self.count < MAX_EXTENTS {
            self.slices[self.count] = IoSlice::new(bytes);
            self.count += 1;
        }
    }

    /// The runs, in order.
    pub fn as_slice(&self) -> &[IoSlice<'a>] {
        &self.slices[..self.count]
    }

    /// Whether a body follows at once: what is sent now need not be a packet of its own.
    pub fn are_before_body(&self) -> bool {
        self.before_body
    }

    /// Their bytes together.
    pub fn total(&self) -> usize {
        self.as_slice().iter().map(|slice| slice.len()).sum()
    }
}

impl Default for Ledger {
    fn default() -> Self {
        Self { sent: 0, finish: 0, changes: 0, count: 0, one: Extent::NONE, several: None }
    }
}

impl Ledger {
    /// A ledger as it was when so many bytes had been sent. `None` if these extents do not follow each other.
    pub fn restore(sent: u64, finish: u64, extents: &[Extent]) -> Option<Self> {
        let mut ledger = Self { sent, finish, ..Self::default() };
        let mut end = extents.first().map(|first| first.from).filter(|from| *from <= sent);
        for extent in extents {
            let sound = match extent.source {
                Source::Control { .. } => true,
                Source::Run { offset, end, .. } | Source::Body { offset, end } => offset <= end,
            };
            if !sound || end != Some(extent.from) {
                return None;
            }
            end = extent.len().and_then(|len| extent.from.checked_add(len));
            ledger.add(*extent).ok()?;
        }
        Some(ledger)
    }

    /// Rises with every change but that of having sent more, which the kernel knows: what was saved before it is out of date.
    pub fn changes(&self) -> u32 {
        self.changes
    }

    /// See [`Ledger::abandon`].
    pub fn finish(&self) -> u64 {
        self.finish
    }

    /// The oldest place, block and offset, that is still owed something from: nothing before it will be sent.
    pub fn oldest_place(&self) -> Option<(u32, u32)> {
        self.extents().iter().filter_map(|extent| self.place(extent)).min()
    }

    /// Whether a part of an answer's body is owed.
    pub fn owes_body(&self) -> bool {
        self.extents().iter().any(|extent| matches!(extent.source, Source::Body { .. }))
    }

    /// Nothing is owed, now or later.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes of the connection's output that were sent.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// The extents not yet sent whole, oldest first.
    pub fn extents(&self) -> &[Extent] {
        match &self.several {
            None => &std::slice::from_ref(&self.one)[..usize::from(self.count)],
            Some(several) => &several[..usize::from(self.count)],
        }
    }

    fn extents_mut(&mut self) -> &mut [Extent] {
        match &mut self.several {
            None => &mut std::slice::from_mut(&mut self.one)[..usize::from(self.count)],
            Some(several) => &mut several[..usize::from(self.count)],
        }
    }

    fn add(&mut self, extent: Extent) -> Result<(), Full> {
        match usize::from(self.count) {
            0 => self.one = extent,
            MAX_EXTENTS => return Err(Full),
            count => {
                let one = self.one;
                let several = self.several.get_or_insert_with(|| {
                    let mut several = Box::new([Extent::NONE; MAX_EXTENTS]);
                    several[0] = one;
                    several
                });
                several[count] = extent;
            }
        }
        self.count += 1;
        Ok(())
    }

    /// Takes away the first `gone` extents.
    fn drop_first(&mut self, gone: usize) {
        self.extents_mut().rotate_left(gone);
        self.keep(usize::from(self.count) - gone);
    }

    /// Keeps only the first `count` extents.
    fn keep(&mut self, count: usize) {
        self.count = count as u8;
        if count <= 1
            && let Some(several) = self.several.take()
        {
            self.one = several[0];
        }
    }

    /// Where the next media byte is: block and offset. `None` if no media is owed.
    pub fn position(&self) -> Option<(u32, u32)> {
        self.extents().iter().find_map(|extent| self.place(extent))
    }

    /// As [`Ledger::position`], but behind a message that is only finished before the viewer goes on elsewhere: how far it lags
    /// is told from here.
    pub fn pace(&self) -> Option<(u32, u32)> {
        let goes_on = |extent: &&Extent| extent.from.max(self.sent) >= self.finish;
        self.extents().iter().filter(goes_on).find_map(|extent| self.place(extent))
    }

    fn place(&self, extent: &Extent) -> Option<(u32, u32)> {
        match extent.source {
            Source::Run { block, offset, .. } => Some((block, offset.saturating_add(self.done(extent)))),
            _ => None,
        }
    }

    /// How much is owed for certain, in bytes; `None` if the ledger ends with an open run.
    pub fn owed_bytes(&self) -> Option<u64> {
        let end = self.extents().last().map_or(Some(self.sent), |last| Some(last.from + last.len()?))?;
        Some(end.saturating_sub(self.sent))
    }

    /// How many bytes of an extent were sent. A run is never longer than its block, so 32 bits hold it.
    fn done(&self, extent: &Extent) -> u32 {
        self.sent.saturating_sub(extent.from) as u32
    }

    /// Where in `block` a viewer stands that is owed this block from there on, as far as it will go, and nothing else: what is owed
    /// then is one run of bytes.
    #[inline]
    pub fn stands_in(&self, block: u32) -> Option<u32> {
        match self.one.source {
            Source::Run { block: of, offset, end: OPEN } if self.count == 1 && of == block => Some(offset + self.done(&self.one)),
            _ => None,
        }
    }

    /// As [`Ledger::advance`], of a viewer that [`Ledger::stands_in`] a block.
    #[inline]
    pub fn advance_in_run(&mut self, bytes: usize) {
        debug_assert!(self.count == 1 && self.one.len().is_none(), "the open run is all that is owed");
        self.sent += bytes as u64;
    }

    fn open_position(&self) -> Option<(u32, u32)> {
        let last = self.extents().last()?;
        match last.source {
            Source::Run { block, offset, end: OPEN } => Some((block, offset + self.done(last))),
            _ => None,
        }
    }

    /// Adds an extent behind the others. The last one must not be open.
    pub fn push(&mut self, source: Source) -> Result<(), Full> {
        let from = match self.extents().last() {
            None => self.sent,
            Some(last) => last.from + last.len().expect("nothing is added behind an open run: it is cut first"),
        };
        if let (Source::Control { bytes }, Some(Extent { source: Source::Control { bytes: before }, .. })) =
            (source, self.extents_mut().last_mut())
        {
            *before += bytes;
            self.changes = self.changes.wrapping_add(1);
            return Ok(());
        }
        self.add(Extent { from, source })?;
        self.changes = self.changes.wrapping_add(1);
        Ok(())
    }

    /// Ends the open run at the next message boundary and says where it would have gone on; `None` if there is no open run.
    /// Needs `room` further extents afterwards, else nothing is changed.
    pub fn cut(&mut self, blocks: &impl Blocks, room: usize) -> Result<Option<(u32, u32)>, Full> {
        let Some((block, position)) = self.open_position() else {
            return if usize::from(self.count) + room <= MAX_EXTENTS { Ok(None) } else { Err(Full) };
        };
        if usize::from(self.count) + room > MAX_EXTENTS {
            return Err(Full);
        }
        let boundary = blocks.boundary(block, position);
        self.changes = self.changes.wrapping_add(1);
        if let Some(Extent { source: Source::Run { end, .. }, .. }) = self.extents_mut().last_mut() {
            *end = boundary;
        }
        // Nothing of it is left to be sent: no send would ever take it away.
        if position == boundary {
            self.keep(usize::from(self.count) - 1);
        }
        Ok(Some((block, boundary)))
    }

    /// Gives up all media that is owed, but for what must be finished: the message, or the prefix, that was begun. Control
    /// bytes stay. Leaves room for two extents, and no open run.
    pub fn abandon(&mut self, blocks: &impl Blocks) {
        let mut kept = Self { sent: self.sent, changes: self.changes.wrapping_add(1), ..Self::default() };
        let mut in_midst = true;
        for extent in self.extents() {
            let done = self.done(extent);
            let left = match extent.source {
                Source::Control { bytes } => Source::Control { bytes: bytes - done },
                Source::Body { offset, end } => Source::Body { offset: offset + done, end },
                Source::Run { block, offset, end } if std::mem::take(&mut in_midst) => {
                    let (position, prefix) = (offset + done, blocks.records_start(block));
                    let stop = if position < prefix { prefix } else { blocks.boundary(block, position) };
                    Source::Run { block, offset: position, end: stop.min(end) }
                }
                Source::Run { .. } => continue,
            };
            if !left.is_empty() {
                let pushed = kept.push(left);
                debug_assert!(pushed.is_ok(), "no more extents than before");
            }
        }
        kept.finish = kept.sent + kept.owed_bytes().unwrap_or(0);
        *self = kept;
    }

    /// Everything that is owed and at hand, for one send. Follows the open run into the next blocks.
    pub fn gather<'a>(&mut self, blocks: &'a impl Blocks, control: &'a [u8]) -> Next<'a> {
        let mut slices = Slices::new();
        let mut control_used = 0;
        let mut index = 0;
        while index < usize::from(self.count) {
            let extent = self.extents()[index];
            let (source, done) = (extent.source, self.done(&extent));
            match source {
                Source::Control { bytes } => {
                    let to = control_used + (bytes - done) as usize;
                    slices.push(control.get(control_used..to).unwrap_or_default());
                    control_used = to;
                }
                Source::Body { offset, end } => {
                    if slices.count == 0 {
                        return Next::Body(offset + done, end - offset - done);
                    }
                    slices.before_body = true;
                    break;
                }
                Source::Run { block, offset, end } => {
                    let Some(available) = blocks.available(block) else { break };
                    let to = end.min(available.bytes);
                    let position = offset + done;
                    if position < to {
                        slices.push(blocks.bytes(block, position, to));
                    }
                    if end == OPEN {
                        let Some((next, start)) = available.complete.then(|| blocks.after(block)).flatten() else { break };
                        let Some(opened) = self.cross(index, to, next, start) else { break };
                        index = opened;
                        continue;
                    } else if to < end {
                        break;
                    }
                }
            }
            index += 1;
        }
        if slices.count == 0 { Next::Nothing } else { Next::Slices(slices) }
    }

    /// Ends the open run `index` at `end` and opens one in the next block; gives the new one's index, `None` if there is no room
    /// for it yet.
    fn cross(&mut self, index: usize, end: u32, next: u32, start: u32) -> Option<usize> {
        let Extent { from, source: Source::Run { block, offset, .. } } = self.extents()[index] else { return None };
        let opened = Source::Run { block: next, offset: start, end: OPEN };
        let is_done = self.sent >= from + u64::from(end - offset);
        if !is_done && index + 1 >= MAX_EXTENTS {
            // Nothing has changed: a caller that saves every change, and then gathers again, would never come to its send.
            return None;
        }
        self.changes = self.changes.wrapping_add(1);
        if is_done {
            // Everything of the old block is sent: its extent is not needed any more.
            self.extents_mut()[index] = Extent { from: self.sent, source: opened };
            return Some(index);
        }
        self.extents_mut()[index].source = Source::Run { block, offset, end };
        // The open run is the last extent.
        self.add(Extent { from: from + u64::from(end - offset), source: opened }).ok()?;
        Some(index + 1)
    }

    /// A copy of everything that is owed and at hand. Only for a ledger without an open run or body.
    pub fn copy_unsent(&mut self, blocks: &impl Blocks, control: &[u8]) -> Vec<u8> {
        match self.gather(blocks, control) {
            Next::Slices(slices) => slices.as_slice().iter().flat_map(|slice| slice.iter().copied()).collect(),
            Next::Nothing | Next::Body(..) => Vec::new(),
        }
    }

    /// Forgets what is owed, not how much was sent.
    pub fn restart(&mut self) {
        self.keep(0);
        self.changes = self.changes.wrapping_add(1);
    }

    /// Notes that `bytes` were sent; returns how many of them were control bytes, which the session may forget.
    pub fn advance(&mut self, bytes: usize) -> usize {
        let before = self.sent;
        self.sent += bytes as u64;
        let mut control = 0;
        let mut finished = 0;
        for extent in self.extents() {
            let end = extent.len().map_or(u64::MAX, |len| extent.from + len);
            if let Source::Control { .. } = extent.source {
                control += self.sent.min(end).saturating_sub(before.max(extent.from)) as usize;
            }
            if end > self.sent {
                break;
            }
            finished += 1;
        }
        if finished > 0 {
            self.drop_first(finished);
        }
        control
    }
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
