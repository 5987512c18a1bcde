//! What a caller decides about a log: when blocks end, when they go, how much room they may take.

use crate::headers::MAX_PREFIX_BYTES;
use braidcast_media::flv::{MAX_PAYLOAD_BYTES, RECORD_OVERHEAD_BYTES};

/// When blocks roll and when they go. Sizes are lowered at [`crate::Writer::open`] to what the budget and the file system allow:
/// a block is at most an eighth of either, so that there is always something to evict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// A block this old, in milliseconds, ends at the next keyframe.
    pub block_min_ms: u64,
    /// A block this old ends wherever it is.
    pub block_max_ms: u64,
    /// No record is added that would make a block longer than this many bytes (unless it is the block's only one).
    pub block_max_bytes: u64,
    /// Blocks whose last record is older than this, in milliseconds, are evicted, except that with the newest keyframe.
    pub keep_ms: u64,
    /// The files of all blocks together, in bytes; the oldest are evicted, except the one being written and the one before.
    pub budget_bytes: u64,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self { block_min_ms: 2_000, block_max_ms: 10_000, block_max_bytes: 32 << 20, keep_ms: 20_000, budget_bytes: 256 << 20 }
    }
}

const LEAST_BLOCK_BYTES: u64 = 64 << 10;
const MOST_BLOCK_BYTES: u64 = 1 << 30;

impl LogOptions {
    pub(crate) fn fitted(mut self, file_system_bytes: u64) -> Self {
        let share = if file_system_bytes == 0 { u64::MAX } else { file_system_bytes / 8 };
        self.block_max_bytes = self.block_max_bytes.min(self.budget_bytes / 8).min(share).clamp(LEAST_BLOCK_BYTES, MOST_BLOCK_BYTES);
        self
    }

    /// The longest a block's file can become: its limit, or a prefix and one record of any size.
    pub(crate) fn block_capacity(&self) -> u32 {
        let one_record = (MAX_PREFIX_BYTES + MAX_PAYLOAD_BYTES + RECORD_OVERHEAD_BYTES) as u64;
        u32::try_from(self.block_max_bytes.max(one_record)).expect("blocks are limited to MOST_BLOCK_BYTES")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_fit_the_budget_and_the_file_system() {
        let options = LogOptions::default();
        assert_eq!(options.fitted(0).block_max_bytes, 32 << 20, "a file system without a limit");
        assert_eq!(options.fitted(64 << 20).block_max_bytes, 8 << 20);
        assert_eq!(options.fitted(1000).block_max_bytes, LEAST_BLOCK_BYTES);
        let tight = LogOptions { budget_bytes: 16 << 20, ..options };
        assert_eq!(tight.fitted(u64::MAX).block_max_bytes, 2 << 20);
        assert!(tight.block_capacity() as usize > MAX_PAYLOAD_BYTES, "one record of any size fits");
        let huge = LogOptions { block_max_bytes: u64::MAX, budget_bytes: u64::MAX, ..options };
        assert_eq!(huge.fitted(0).block_capacity(), 1 << 30);
    }
}
