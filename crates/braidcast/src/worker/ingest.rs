//! A publisher: what it sends goes to the stream's log; the segmenter follows as a reader of that log.
//!
//! Nothing here waits for a viewer, a hook or a disk.

use crate::hls::{SegmentStore, StreamSegmenter};
use braidcast_media::StreamKey;
use braidcast_stream_log::{Reader, Writer};

/// The stream that a session publishes.
pub struct Publisher {
    /// Slot of the session.
    pub session: usize,
    /// Its name.
    pub key: StreamKey,
    /// [`StreamKey::slot`]: asked for with every read.
    pub key_slot: u16,
    /// Its log.
    pub writer: Writer,
    /// Its segmenter and the reader it reads by; `None` when HLS is off, failed to start, or is still to be started.
    pub segmenter: Option<(StreamSegmenter, Reader)>,
    /// The segmenter is still to be started: with this number, if its own state knows no better.
    pub segmenter_from: Option<u64>,
    /// Records were appended and not yet committed.
    pub dirty: bool,
    /// When the segmenter is due, monotonic milliseconds.
    pub pump_at_ms: u64,
    /// Records that were dropped.
    pub dropped: u64,
    /// So many of them are worth the next log line.
    pub complain_at: u64,
    /// Evicted blocks of the log that are in the worker's counter, or were there before this publisher.
    pub evicted: u64,
}

impl Publisher {
    /// Gives up blocks and segments, in the order of their age, until the stream holds no more than this or has only what viewers need.
    /// Says how many segments went.
    pub fn evict_down_to(&mut self, bytes: u64) -> usize {
        let mut segments = 0;
        loop {
            let store = self.segmenter.as_ref().map(|(segmenter, _)| segmenter.store());
            let held = self.writer.file_bytes() + store.map_or(0, SegmentStore::bytes);
            let oldest = [self.writer.oldest_ended_wall_ms(), store.and_then(SegmentStore::oldest_ended_wall_ms)];
            let Some(ended_wall_ms) = oldest.into_iter().flatten().min().filter(|_| held > bytes) else { return segments };
            let blocks = self.writer.evict(ended_wall_ms);
            let gone = self.segmenter.as_mut().map_or(0, |(segmenter, _)| segmenter.evict_older_than(ended_wall_ms.saturating_add(1)));
            segments += gone;
            if blocks + gone == 0 {
                return segments;
            }
        }
    }

    /// Blocks evicted since this was last asked.
    pub fn newly_evicted(&mut self) -> u64 {
        let evicted = self.writer.counters().evicted_blocks;
        evicted.wrapping_sub(std::mem::replace(&mut self.evicted, evicted))
    }
}
