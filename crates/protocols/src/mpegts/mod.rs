//! MPEG transport streams: writing one program of H.264 and AAC or MP3, and measuring files that others wrote.
//!
//! Source: ISO/IEC 13818-1. The writer is our own and not the `mpeg2ts` crate's: PES slicing, PCR, stuffing and the saved
//! continuity counters are the work, the crate would only fill in packet headers. Nothing here does I/O, and no input makes
//! it panic.

pub mod aac;
pub mod avc;
pub mod muxer;
mod packet;
pub mod scan;
mod tables;

pub use aac::AdtsConfig;
pub use avc::AvcConfig;
pub use muxer::{AudioKind, Muxer, MuxerState, Program, VideoFrame};
pub use packet::PACKET_BYTES;
pub use scan::{ScannedSegment, scan};

/// Ticks of the timestamps' clock in a millisecond (90 kHz).
pub const TICKS_PER_MS: u64 = 90;
