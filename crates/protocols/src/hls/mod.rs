//! HTTP live streaming: cutting records into segments, and what a segment says about itself.
//!
//! Bytes in, outputs out: nothing here opens a file or a socket or reads a clock.

pub mod clock;
pub mod media_playlist;
pub mod playlist;
pub mod segment_info;
pub mod segmenter;

pub use segment_info::SegmentInfo;
pub use segmenter::{Segmenter, SegmenterOptions, SegmenterOutput, SegmenterState};
