//! What ends a connection: which limit or rule, where in the connection's bytes, and on which chunk stream.
//!
//! Every error here is the peer's doing (or its silence); a misuse by the caller is documented as having no effect instead.

use std::borrow::Cow;
use std::fmt;

/// The limit or rule that was broken; the caller counts by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Limit {
    /// A message declares more bytes than `message_bytes`, or a command is longer than [`super::server::MAX_COMMAND_BYTES`].
    MessageBytes,
    /// More chunk streams than `chunk_streams`.
    ChunkStreams,
    /// The declared lengths of all unfinished messages together exceed `unfinished_message_bytes`.
    UnfinishedBytes,
    /// AMF values nested deeper than `amf_depth`.
    AmfDepth,
    /// A vhost, app or stream name (or a URL that carries them) that is too long or not allowed.
    Name,
    /// Anything else that is not RTMP as specified, or a peer that makes us answer faster than it reads.
    Protocol,
    /// The handshake was not done in time.
    HandshakeTimeout,
    /// Neither publish nor play, or no media after publish, in time.
    FirstPacketTimeout,
    /// A publisher was silent for too long.
    IdleTimeout,
}

/// Why the connection must be closed. The outbox may still hold a last message for the peer; sending it is optional.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RtmpError {
    /// The limit or rule.
    pub limit: Limit,
    /// Bytes of the connection (handshake included) that were consumed when it was noticed.
    pub position: u64,
    /// The chunk stream, where one is concerned.
    pub chunk_stream: Option<u32>,
    /// What exactly, for a log line; holds nothing the peer sent but numbers.
    pub detail: Cow<'static, str>,
}

impl RtmpError {
    pub(super) fn new(limit: Limit, position: u64, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { limit, position, chunk_stream: None, detail: detail.into() }
    }

    /// Whether the peer went silent rather than sent something wrong.
    pub fn is_timeout(&self) -> bool {
        matches!(self.limit, Limit::HandshakeTimeout | Limit::FirstPacketTimeout | Limit::IdleTimeout)
    }
}

impl fmt::Display for RtmpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fault = if self.is_timeout() { "the peer was silent" } else { "the peer broke the protocol" };
        write!(f, "{fault} at byte {}", self.position)?;
        if let Some(csid) = self.chunk_stream {
            write!(f, " (chunk stream {csid})")?;
        }
        write!(f, ": {}", self.detail)
    }
}

impl std::error::Error for RtmpError {}
