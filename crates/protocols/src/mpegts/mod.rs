//! MPEG transport streams: writing one program of video and audio, for segments and for live viewers, and measuring files that
//! others wrote.
//!
//! Source: ISO/IEC 13818-1. The writer is our own and not the `mpeg2ts` crate's: PES slicing, PCR, stuffing and the saved
//! continuity counters are the work, the crate would only fill in packet headers. Nothing here does I/O, and no input makes
//! it panic.

pub mod aac;
pub mod audio;
pub(crate) mod input;
pub mod live;
pub mod muxer;
pub mod nal;
mod opus;
mod packet;
pub mod scan;
pub mod survey;
mod tables;

pub use aac::AdtsConfig;
pub use audio::{AudioConfig, AudioKind};
pub use live::{AudioWriter, LiveMuxer};
pub use muxer::{Muxer, MuxerState, Program, VideoFrame};
pub use nal::{VideoConfig, VideoKind};
pub use packet::PACKET_BYTES;
pub use scan::{ScannedSegment, scan};
pub use survey::{Form, Survey};

/// Ticks of the timestamps' clock in a millisecond (90 kHz).
pub const TICKS_PER_MS: u64 = 90;
