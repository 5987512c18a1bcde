//! RTMP without I/O: bytes, the time and a seed go in; bytes for the peer, requests and media come out.
//!
//! Source: Adobe's Real Time Messaging Protocol Specification 1.0 (2012), named "RTMP" with a section below. What real
//! encoders and players do beyond it is said where it is dealt with. Nothing here opens a socket, reads a clock, logs, or
//! decides who may publish.
//!
//! Reading order: [`server`] (what a worker drives), [`chunk`] (bytes to messages), [`egress`] (records to the bytes of a
//! viewer), [`client`] (the other end, for tests and load), [`relay`] (between a client and another server), then the small parts.

pub mod amf0;
mod amf3;
pub mod chunk;
pub mod client;
mod command;
pub mod egress;
mod error;
pub mod handshake;
mod link;
pub mod relay;
mod saved;
pub mod server;
mod timers;
pub mod url;

pub use chunk::ChunkLimits;
pub use client::{ClientOutput, ClientRole, ClientSession, ClientSettings};
pub use error::{Limit, RtmpError};
pub use relay::{RelayOutput, RelaySession, RelaySettings};
pub use saved::RestoreError;
pub use server::{Output, Request, ServerSession, Settings, Stage, status};

/// RTMP §5.4 and §7.1: the message types that are known by name here.
pub mod message_type {
    /// Set Chunk Size (§5.4.1).
    pub const SET_CHUNK_SIZE: u8 = 1;
    /// Abort Message (§5.4.2).
    pub const ABORT: u8 = 2;
    /// Acknowledgement (§5.4.3).
    pub const ACKNOWLEDGEMENT: u8 = 3;
    /// User Control Message (§6.2).
    pub const USER_CONTROL: u8 = 4;
    /// Window Acknowledgement Size (§5.4.4).
    pub const WINDOW_ACKNOWLEDGEMENT_SIZE: u8 = 5;
    /// Set Peer Bandwidth (§5.4.5).
    pub const SET_PEER_BANDWIDTH: u8 = 6;
    /// Audio Message (§7.1.4).
    pub const AUDIO: u8 = 8;
    /// Video Message (§7.1.5).
    pub const VIDEO: u8 = 9;
    /// Data Message, AMF3 (§7.1.2): a zero byte, then AMF0 that may switch to AMF3.
    pub const DATA_AMF3: u8 = 15;
    /// Command Message, AMF3 (§7.1.1): a zero byte, then AMF0 that may switch to AMF3.
    pub const COMMAND_AMF3: u8 = 17;
    /// Data Message, AMF0 (§7.1.2).
    pub const DATA_AMF0: u8 = 18;
    /// Command Message, AMF0 (§7.1.1).
    pub const COMMAND_AMF0: u8 = 20;
    /// Aggregate Message (§7.1.6).
    pub const AGGREGATE: u8 = 22;
}
