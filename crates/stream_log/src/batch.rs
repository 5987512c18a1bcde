//! What a turn adds to the log, staged in memory until it is committed or dropped as a whole.

use crate::head::{BlockInfo, Entry, Position};
use braidcast_media::RecordKind;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;

/// How many blocks one batch may open.
pub(crate) const MAX_NEW_BLOCKS: usize = 16;
/// A staging buffer that has grown beyond this is given back after the commit.
const KEPT_STAGING_BYTES: usize = 1 << 20;

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
    /// The operating system failed otherwise; everything staged since the last commit was dropped and counted.
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

#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub runs: Vec<Run>,
    pub bytes: Vec<u8>,
    pub keyframes: Vec<Position>,
    /// How many audio, video, data records.
    pub records: [u64; 3],
}

impl Batch {
    pub fn new_blocks(&self) -> usize {
        self.runs.iter().filter(|run| run.is_new_block()).count()
    }

    pub fn count(&mut self, kind: RecordKind) {
        let place = match kind {
            RecordKind::Audio => 0,
            RecordKind::Video => 1,
            RecordKind::Data => 2,
        };
        self.records[place] += 1;
    }

    /// The staged bytes of a run.
    pub fn run_bytes(&self, index: usize) -> &[u8] {
        let end = self.runs.get(index + 1).map_or(self.bytes.len(), |next| next.staged);
        &self.bytes[self.runs[index].staged..end]
    }

    pub fn clear(&mut self) {
        self.runs.clear();
        self.keyframes.clear();
        self.records = [0; 3];
        self.bytes.clear();
        if self.bytes.capacity() > KEPT_STAGING_BYTES {
            self.bytes = Vec::new();
        }
    }
}
