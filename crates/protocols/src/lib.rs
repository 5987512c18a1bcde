//! Protocols without I/O: bytes and the time go in, outputs come out, state can be saved and restored.
//!
//! Nothing here opens a file or a socket, reads a clock, or knows the stream log.

pub mod hls;
pub mod http;
pub mod mpegts;
pub mod proxy;
pub mod random;
pub mod rtmp;
pub mod via;
