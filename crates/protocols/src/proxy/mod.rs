//! What a proxy puts before a client's bytes, to say whose they are: the PROXY protocol of HAProxy, versions 1 and 2, and the
//! real-IP prefix of SRS's proxy.
//!
//! Whether the sender may be believed is for the caller to know. A [`PrefixReader`] takes no byte beyond the prefix, holds at most
//! [`MAX_PROXY_BYTES`], and what comes out does not depend on how the input is cut. Sources: `proxy-protocol.txt` of HAProxy,
//! sections 2.1 and 2.2; `SrsHandshakeBytes::read_c0c1` of SRS.

mod real_ip;
mod v1;
mod v2;

pub use real_ip::real_ip_prefix;

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::SocketAddr;

/// The longest PROXY header that is read, its TLVs included, in bytes. Version 2 allows 64 KiB; senders use a few hundred.
pub const MAX_PROXY_BYTES: usize = 4096;

/// Which prefix is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Form {
    /// A PROXY header, version 1 or 2: it has to be there.
    Proxy,
    /// SRS's real-IP prefix: it may be there.
    RealIp,
}

/// What a prefix says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// This is the client. A port of 0 was not said.
    Is(SocketAddr),
    /// Nothing: the connection is the proxy's own (a health check), its client has no address of IP, or there is no prefix.
    Unsaid,
}

/// What is wrong with a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrefixError {
    /// The connection begins with something else.
    Missing,
    /// It is longer than it may be.
    TooLong,
    /// It is of no version, command or family that there is.
    Unknown,
    /// It is of version 1, and not as that has to be.
    Line,
    /// It is too short for the addresses that it announces.
    TooShort,
}

impl fmt::Display for PrefixError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "there is none",
            Self::TooLong => "it is too long",
            Self::Unknown => "its version, command or family is unknown",
            Self::Line => "it is not as version 1 has to be",
            Self::TooShort => "it is too short for its addresses",
        })
    }
}

impl std::error::Error for PrefixError {}

/// A prefix that is whole: its length, and what it says. `None`: more is needed.
type Parsed = Result<Option<(usize, Sender)>, PrefixError>;

/// Reads a prefix. Once it has given an answer or an error it must not be used any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrefixReader {
    form: Form,
    gathered: Vec<u8>,
}

impl PrefixReader {
    /// A reader at the start of a connection, or behind another prefix.
    pub fn new(form: Form) -> Self {
        Self { form, gathered: Vec::new() }
    }

    /// What it reads.
    pub fn form(&self) -> Form {
        self.form
    }

    /// Takes bytes and says how many, and what the prefix says once it is whole. Then the rest is the client's; until then all are taken.
    ///
    /// # Errors
    /// It is no such prefix, or a broken one: the connection must be closed.
    pub fn handle_input(&mut self, input: &[u8]) -> Result<(usize, Option<Sender>), PrefixError> {
        let before = self.gathered.len();
        let room = (MAX_PROXY_BYTES - before).min(input.len());
        self.gathered.extend_from_slice(&input[..room]);
        let parsed = match self.form {
            Form::Proxy => parse_proxy(&self.gathered),
            Form::RealIp => real_ip::parse(&self.gathered),
        };
        match parsed? {
            // Shorter prefixes were looked at before, and were not whole.
            Some((length, sender)) => Ok((length.saturating_sub(before), Some(sender))),
            None if self.gathered.len() >= MAX_PROXY_BYTES => Err(PrefixError::TooLong),
            None => Ok((input.len(), None)),
        }
    }
}

fn parse_proxy(bytes: &[u8]) -> Parsed {
    match bytes.first() {
        None => Ok(None),
        Some(b'P') => v1::parse(bytes),
        Some(b'\r') => v2::parse(bytes),
        Some(_) => Err(PrefixError::Missing),
    }
}

/// Whether the bytes that are there are those of a signature.
fn begins(bytes: &[u8], signature: &[u8]) -> Result<(), PrefixError> {
    let there = bytes.len().min(signature.len());
    if bytes[..there] == signature[..there] { Ok(()) } else { Err(PrefixError::Missing) }
}

/// An address as the rest of the program compares it: IPv4 in IPv6 clothes is IPv4.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests;
