//! What a turn adds to the log, staged in memory until it is committed or dropped as a whole.
//!
//! Payloads that stand where they stay until the batch is written are not copied: what is staged then is what goes around them.

use crate::head::{BlockInfo, Entry, Position};
use braidcast_media::RecordKind;
use braidcast_media::flv::{record_head, record_tail, write_record};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;

/// How many blocks one batch may open.
pub(crate) const MAX_NEW_BLOCKS: usize = 16;
/// A staging buffer that has grown beyond this is given back after the commit.
const KEPT_STAGING_BYTES: usize = 1 << 20;
/// A shorter payload is copied for less than what one more piece costs to write.
const LEAST_LEFT_BYTES: usize = 512;

/// Why records were not taken, or not kept. The log is whole in every case.
#[derive(Debug)]
pub enum AppendError {
    /// The payload is longer than an FLV tag can say (16 MiB - 1).
    TooLong {
        /// How long it is.
        bytes: usize,
    },
    /// There is no publisher: `begin_publish` was not called, or `end_publish` was.
    NotPublishing,
    /// The peer changed its codec headers too often within one turn.
    HeaderFlood,
    /// The log has had as many blocks as numbers can count.
    Exhausted,
    /// The directory is full, and the log has nothing left to evict: everything staged since the last commit was dropped
    /// and counted. The publisher may go on.
    Full {
        /// How many records were dropped.
        dropped: u64,
    },
    /// The operating system failed otherwise, or a payload was gone before it was written; everything staged since the last commit was dropped and counted.
    Io(io::Error),
}

impl fmt::Display for AppendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { bytes } => write!(f, "a payload of {bytes} bytes is too long for a tag"),
            Self::NotPublishing => f.write_str("nobody publishes into this log"),
            Self::HeaderFlood => f.write_str("the publisher changes its codec headers too often"),
            Self::Exhausted => f.write_str("the log has used up its block numbers"),
            Self::Full { dropped } => write!(f, "the shared directory is full: {dropped} records dropped"),
            Self::Io(error) => write!(f, "the log cannot be written: {error}"),
        }
    }
}

impl std::error::Error for AppendError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}

/// A block that is being written: its entry, and where its next record goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OpenBlock {
    pub entry: Entry,
    pub end: u32,
}

impl OpenBlock {
    pub fn number(&self) -> u32 {
        self.entry.info.number
    }

    /// Where its next record goes.
    pub fn position(&self) -> Position {
        Position { block: self.number(), offset: self.end }
    }

    /// Record bytes of the log up to this block's end.
    pub fn cumulative_end(&self) -> u64 {
        let BlockInfo { cumulative_bytes, prefix_bytes, .. } = self.entry.info;
        cumulative_bytes.saturating_add(u64::from(self.end.saturating_sub(prefix_bytes)))
    }
}

/// What a batch adds to one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Run {
    /// The block as it is after this batch.
    pub block: OpenBlock,
    /// Where in the block the run begins: 0 for a new block.
    pub offset: u32,
    /// Where in the staging buffer it begins.
    pub staged: usize,
}

impl Run {
    pub fn is_new_block(&self) -> bool {
        self.offset == 0
    }
}

/// A payload that was left where it stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Left {
    /// Where in the staging buffer it belongs.
    staged: usize,
    /// Where it stands in its source.
    from: usize,
    bytes: usize,
}

#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub runs: Vec<Run>,
    pub bytes: Vec<u8>,
    /// Payloads that are not in `bytes`, in their order; they belong between a tag's head and its tail, so never at a run's ends.
    pub left: Vec<Left>,
    pub keyframes: Vec<Position>,
    /// How many audio, video, data records.
    pub records: [u64; 3],
}

impl Batch {
    pub fn new_blocks(&self) -> usize {
        self.runs.iter().filter(|run| run.is_new_block()).count()
    }

    /// Stages a record. A long payload that stands in `source` is left there.
    pub fn push(&mut self, kind: RecordKind, timestamp_ms: u32, payload: &[u8], source: &[u8]) {
        match place_in(source, payload).filter(|_| payload.len() >= LEAST_LEFT_BYTES) {
            Some(from) => {
                self.bytes.extend_from_slice(&record_head(kind, timestamp_ms, payload.len()));
                self.left.push(Left { staged: self.bytes.len(), from, bytes: payload.len() });
                self.bytes.extend_from_slice(&record_tail(payload.len()));
            }
            None => write_record(&mut self.bytes, kind, timestamp_ms, payload),
        }
        let place = match kind {
            RecordKind::Audio => 0,
            RecordKind::Video => 1,
            RecordKind::Data => 2,
        };
        self.records[place] += 1;
    }

    /// How long all that is staged is, payloads that were left included.
    pub fn len(&self) -> usize {
        self.bytes.len() + self.left.iter().map(|left| left.bytes).sum::<usize>()
    }

    /// The pieces of a run, in their order. An error if a payload that was left is not in `source`.
    pub fn run_pieces<'a>(&'a self, index: usize, source: &'a [u8]) -> impl Iterator<Item = io::Result<&'a [u8]>> {
        let mut staged = self.runs[index].staged;
        let end = self.runs.get(index + 1).map_or(self.bytes.len(), |next| next.staged);
        let first = self.left.partition_point(|left| left.staged < staged);
        let mut left = self.left[first..].iter().take_while(move |left| left.staged < end).peekable();
        std::iter::from_fn(move || {
            let next = left.peek().map_or(end, |left| left.staged);
            if staged < next {
                let piece = &self.bytes[staged..next];
                staged = next;
                return Some(Ok(piece));
            }
            let left = left.next()?;
            let gone = || io::Error::other("a payload is gone before it was written");
            Some(source.get(left.from..left.from + left.bytes).ok_or_else(gone))
        })
    }

    /// Copies what was left in `source`.
    pub fn take_left(&mut self, source: &[u8]) {
        if self.left.is_empty() {
            return;
        }
        let (left, staged) = (std::mem::take(&mut self.left), std::mem::take(&mut self.bytes));
        self.bytes.reserve(staged.len() + left.iter().map(|left| left.bytes).sum::<usize>());
        let (mut runs, mut copied) = (self.runs.iter_mut().peekable(), 0);
        for left in left {
            // Runs that begin before the payload have what was put in before them.
            while let Some(run) = runs.next_if(|run| run.staged <= left.staged) {
                run.staged += self.bytes.len() - copied;
            }
            self.bytes.extend_from_slice(&staged[copied..left.staged]);
            copied = left.staged;
            self.bytes.extend_from_slice(source.get(left.from..left.from + left.bytes).unwrap_or_default());
        }
        let put_in = self.bytes.len() - copied;
        runs.for_each(|run| run.staged += put_in);
        self.bytes.extend_from_slice(&staged[copied..]);
    }

    pub fn clear(&mut self) {
        self.runs.clear();
        self.keyframes.clear();
        self.records = [0; 3];
        self.bytes.clear();
        self.left.clear();
        if self.bytes.capacity() > KEPT_STAGING_BYTES {
            self.bytes = Vec::new();
        }
    }
}

/// Where in `source` a slice of it begins; `None` of any other.
fn place_in(source: &[u8], slice: &[u8]) -> Option<usize> {
    let from = slice.as_ptr().addr().checked_sub(source.as_ptr().addr())?;
    source.get(from..)?.get(..slice.len()).map(|_| from)
}
