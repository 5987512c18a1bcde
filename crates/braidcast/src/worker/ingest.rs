//! A publisher: what it sends goes to the stream's log; the segmenter follows as a reader of that log.
//!
//! Nothing here waits for a viewer, a hook or a disk.

use crate::hls::StreamSegmenter;
use braidcast_media::StreamKey;
use braidcast_stream_log::{Reader, Writer};

/// The stream that a session publishes.
pub struct Publisher {
    /// Slot of the session.
    pub session: usize,
    /// Its name.
    pub key: StreamKey,
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
    /// Blocks evicted since this was last asked.
    pub fn newly_evicted(&mut self) -> u64 {
        let evicted = self.writer.counters().evicted_blocks;
        evicted.wrapping_sub(std::mem::replace(&mut self.evicted, evicted))
    }
}
