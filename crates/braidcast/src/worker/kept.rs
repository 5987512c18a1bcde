//! What of a session lies in shared memory, so that another worker can go on with it: a row, a checkpoint with the input that
//! came after it, control bytes.
//!
//! The checkpoint says everything of a session at some moment. Input is read into the room behind it, the **journal**, so that it
//! is there although its reader is dead. The row says how far the journal was used and what is owed. A session is saved before
//! anything leaves the process for it, and at no other time: what nobody has seen can be done once more.

use super::ledger::{Extent, Ledger};
use crate::saved::{Block, HeapId, RowId};
use braidcast_stream_log::SavedWriter;
use braidcast_sys::net::Positions;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::ops::{Deref, DerefMut};

/// Handshakes, commands and requests come in pieces of some kilobytes.
const COMMAND_JOURNAL_BYTES: usize = 3 << 10;
/// A publisher's checkpoint and journal together, at first: that long a block is, however long the checkpoint.
const INGEST_REGION_BYTES: usize = 64 << 10;
/// It doubles while a single read fills it, beginning with twice this.
const GROWN_JOURNAL_BYTES: usize = 56 << 10;
/// It is half as long after each checkpoint before which no read was as long as this part of it.
const SHRINKING_PART: u32 = 8;
/// The longest journal, unless a partial message is longer.
const MOST_JOURNAL_BYTES: usize = 500 << 10;

/// What a session needs the journal for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appetite {
    /// It sends nothing now: there is room when it does.
    Idle,
    /// It negotiates.
    Commands,
    /// It publishes.
    Ingest,
}

/// See the module's head.
#[derive(Debug)]
pub struct Kept {
    /// Where its saves go.
    pub row: RowId,
    /// The number of the last save.
    pub number: u64,
    base: [u32; 2],
    /// The checkpoint, then the journal.
    pub region: Option<Block>,
    checkpoint_bytes: u32,
    /// The checkpoint's checksum.
    pub checkpoint_sum: u32,
    /// Byte of the connection's input at which the journal begins.
    pub journal_from: u64,
    /// The checkpoint does not say any more what the session is, even with its journal.
    pub stale: bool,
    /// The session could not be saved: it cannot be continued elsewhere, but goes on here.
    pub lost: bool,
    /// [`Ledger::changes`] at the last save.
    pub ledger_changes: u32,
    /// When the checkpoint was made, the lower half of the monotonic milliseconds.
    checkpoint_ms: u32,
    under_way: Option<Box<UnderWay>>,
}

/// What is kept of a session only while its checkpoint and its row do not say everything; of one that rests nothing is.
#[derive(Debug, Default, PartialEq)]
pub struct UnderWay {
    /// Input in the journal.
    pub journal_bytes: usize,
    /// How much of it the protocol has taken.
    pub consumed: usize,
    /// How many of the protocol's outputs since the checkpoint were acted on.
    pub acted: u32,
    /// How many bytes of the protocol's replies since the checkpoint went into the ledger.
    pub replied: u64,
    /// Control bytes that were owed at the last save.
    pub control: Option<Block>,
    /// What did not fit the row.
    pub spill: Option<Block>,
    /// The spill of the save before, for the next one.
    pub spare: Option<Block>,
    /// `Writer::headers_revision` at the checkpoint.
    pub headers_revision: u32,
    /// Something is about to be read, and there is no room for it.
    pub hungry: bool,
    grown_bytes: u32,
    /// The longest single read since the checkpoint.
    longest_read: u32,
}

static NOTHING: UnderWay = UnderWay {
    journal_bytes: 0,
    consumed: 0,
    acted: 0,
    replied: 0,
    control: None,
    spill: None,
    spare: None,
    headers_revision: 0,
    hungry: false,
    grown_bytes: 0,
    longest_read: 0,
};

impl Deref for Kept {
    type Target = UnderWay;

    fn deref(&self) -> &UnderWay {
        self.under_way.as_deref().unwrap_or(&NOTHING)
    }
}

impl DerefMut for Kept {
    fn deref_mut(&mut self) -> &mut UnderWay {
        self.under_way.get_or_insert_default()
    }
}

impl Kept {
    /// Of a session that was never saved. `base`: what the kernel's counters said when its connection was accepted; more than 4 GiB it cannot have
    /// been then.
    pub fn new(row: RowId, base: Positions) -> Self {
        let [written, read] = [base.written, base.read].map(u32::try_from);
        Self {
            row,
            number: 0,
            base: [*written.as_ref().unwrap_or(&0), *read.as_ref().unwrap_or(&0)],
            region: None,
            checkpoint_bytes: 0,
            checkpoint_sum: 0,
            journal_from: 0,
            stale: true,
            lost: written.is_err() || read.is_err(),
            ledger_changes: 0,
            checkpoint_ms: 0,
            under_way: None,
        }
    }

    /// What the kernel's counters said when the connection was accepted: written, read.
    pub fn base(&self) -> [u64; 2] {
        self.base.map(u64::from)
    }

    /// Length of the checkpoint.
    pub fn checkpoint_bytes(&self) -> usize {
        self.checkpoint_bytes as usize
    }

    /// When the checkpoint was made, monotonic milliseconds; it was made in the last 49 days.
    pub fn checkpoint_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub((now_ms as u32).wrapping_sub(self.checkpoint_ms).into())
    }

    /// A checkpoint of so many bytes was made, with so many bytes of input behind it that are not used yet.
    pub fn begin_journal(&mut self, checkpoint_bytes: usize, bytes: usize, now_ms: u64) {
        (self.checkpoint_bytes, self.checkpoint_ms) = (checkpoint_bytes as u32, now_ms as u32);
        self.journal_from += self.consumed as u64;
        self.stale = false;
        if bytes > 0 || self.under_way.is_some() {
            (self.consumed, self.acted, self.replied, self.hungry) = (0, 0, 0, false);
            self.journal_bytes = bytes;
            if std::mem::take(&mut self.longest_read) < self.grown_bytes / SHRINKING_PART {
                self.grown_bytes /= 2;
            }
        }
    }

    /// The row was saved, and points to these; `spare` no row points to any more.
    pub fn hold(&mut self, control: Option<Block>, spill: Option<Block>, spare: Option<Block>) {
        if (control, spill, spare) != (self.control, self.spill, self.spare) {
            (self.control, self.spill, self.spare) = (control, spill, spare);
            self.settle();
        }
    }

    /// Whether the row points to more than the checkpoint.
    pub fn holds_more(&self) -> bool {
        self.control.is_some() || self.spill.is_some()
    }

    /// Keeps nothing more than checkpoint and row say, if there is nothing more.
    pub fn settle(&mut self) {
        self.under_way.take_if(|under_way| **under_way == NOTHING);
    }

    /// Whether something would leave the process that is not saved.
    pub fn is_behind(&self, ledger: &Ledger) -> bool {
        (self.stale || self.ledger_changes != ledger.changes()) && !self.lost
    }

    /// Whether the checkpoint alone says everything.
    pub fn is_plain(&self) -> bool {
        !self.lost && !self.stale && (self.consumed, self.journal_bytes, self.acted, self.replied) == (0, 0, 0, 0)
    }

    /// Room behind the journal.
    pub fn room(&self) -> usize {
        self.region.map_or(0, |region| region.bytes() - self.checkpoint_bytes() - self.journal_bytes)
    }

    /// Less room than this would make many small reads of at most `wanted` bytes.
    pub fn least_room(&self, wanted: usize) -> usize {
        self.region.map_or(1, |region| (region.bytes() - self.checkpoint_bytes()) / 4).clamp(1, wanted)
    }

    /// Input in the journal that was not parsed yet.
    pub fn unparsed(&self) -> usize {
        self.journal_bytes.saturating_sub(self.consumed)
    }

    /// The journal behind the next checkpoint, which is so many bytes long, unfinished messages included.
    pub fn wanted_journal(&self, appetite: Appetite, checkpoint_bytes: usize) -> usize {
        match appetite {
            // A partial message is saved with each checkpoint: they must become fewer as it grows.
            Appetite::Ingest => INGEST_REGION_BYTES.saturating_sub(checkpoint_bytes).max(self.grown_bytes as usize).max(checkpoint_bytes),
            Appetite::Commands => COMMAND_JOURNAL_BYTES.max(checkpoint_bytes),
            Appetite::Idle => 0,
        }
    }

    /// So much was read at once into the journal.
    pub fn note_read(&mut self, bytes: usize) {
        self.longest_read = self.longest_read.max(bytes as u32);
    }

    /// A single read has filled the journal.
    pub fn grow(&mut self) {
        self.grown_bytes = ((self.grown_bytes as usize).max(GROWN_JOURNAL_BYTES) * 2).min(MOST_JOURNAL_BYTES) as u32;
    }
}

/// What a row says of a session. The version of the encoding is [`super::save::VERSION`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Row<'a> {
    /// Whose it is.
    pub conn: u64,
    /// See [`Kept::base`]: written, read.
    pub base: [u64; 2],
    /// The heap that everything lies in.
    pub heap: HeapId,
    /// See [`Kept::region`].
    pub region: Block,
    /// Length of the checkpoint, and its checksum.
    pub checkpoint: (u32, u32),
    /// See [`Kept::journal_from`].
    pub journal_from: u64,
    /// See [`UnderWay::consumed`].
    pub consumed: u32,
    /// See [`UnderWay::acted`].
    pub acted: u32,
    /// See [`UnderWay::replied`].
    pub replied: u64,
    /// Bytes of the connection's output that were sent.
    pub sent: u64,
    /// See [`Ledger::finish`].
    pub finish: u64,
    /// What was owed then.
    pub extents: Cow<'a, [Extent]>,
    /// The control bytes of the extents: where, how many, their checksum.
    pub control: Option<(Block, u32, u32)>,
    /// Of a publisher: its writer.
    pub writer: Option<SavedWriter<'a>>,
}
