//! What a client is answered to `connect`: SRS tells it there which client it is in the API.

use anyhow::{Context, Result, ensure};
use braidcast_e2e::rtmp::RawMessage;
use braidcast_protocols::rtmp::amf0::{self, Value};
use braidcast_protocols::rtmp::message_type;
use std::io::{Read, Write};

/// A version byte and two packets (RTMP §5.2).
const HANDSHAKE_BYTES: usize = 1 + 2 * 1536;
/// Basic and message header of a chunk of format 0 (RTMP §5.3.1.2).
const HEADER_BYTES: usize = 12;
/// Nesting of what is read.
const DEPTH: usize = 32;

/// The beginning of what the server inside sends.
pub struct Answers {
    id: String,
    chunk_bytes: usize,
}

impl Answers {
    /// For a client of this id.
    pub fn new(id: String) -> Self {
        Self { id, chunk_bytes: 128 }
    }

    /// Passes on all that comes before and with the answer to `connect`.
    pub fn pass(&mut self, from: &mut impl Read, to: &mut impl Write) -> Result<()> {
        // All of it is sent in answer to the client's first packet.
        let mut handshake = vec![0; HANDSHAKE_BYTES];
        from.read_exact(&mut handshake)?;
        to.write_all(&handshake)?;
        loop {
            let message = self.message(from)?;
            let mut values = match message.message_type {
                message_type::COMMAND_AMF0 => amf0::decode(&message.payload, DEPTH)?,
                _ => Vec::new(),
            };
            if message.message_type == message_type::SET_CHUNK_SIZE {
                let bytes = message.payload.first_chunk().context("a chunk size of four bytes")?;
                to.write_all(&message.bytes(self.chunk_bytes))?;
                self.chunk_bytes = u32::from_be_bytes(*bytes) as usize;
                continue;
            }
            let is_answer = values.first().and_then(Value::as_str) == Some("_result");
            if let Some(Value::Object(info) | Value::EcmaArray(info)) = values.last_mut().filter(|_| is_answer) {
                let pid = f64::from(std::process::id());
                let data = vec![("srs_pid".to_owned(), pid.into()), ("srs_id".to_owned(), self.id.as_str().into())];
                info.push(("data".to_owned(), Value::EcmaArray(data)));
                let changed = RawMessage::amf0(message.message_type, message.message_stream, &values);
                return Ok(to.write_all(&changed.bytes(self.chunk_bytes))?);
            }
            to.write_all(&message.bytes(self.chunk_bytes))?;
        }
    }

    /// The next message. The server inside begins with whole ones, each with a full header.
    fn message(&self, from: &mut impl Read) -> Result<RawMessage> {
        let mut header = [0; HEADER_BYTES];
        from.read_exact(&mut header)?;
        let [basic, t0, t1, t2, l0, l1, l2, message_type, s0, s1, s2, s3] = header;
        ensure!((2..64).contains(&basic), "a chunk begins with {basic:#x}");
        let length = u32::from_be_bytes([0, l0, l1, l2]) as usize;
        let mut payload = vec![0; length];
        for (number, piece) in payload.chunks_mut(self.chunk_bytes).enumerate() {
            if number > 0 {
                from.read_exact(&mut [0])?;
            }
            from.read_exact(piece)?;
        }
        Ok(RawMessage {
            chunk_stream: basic.into(),
            message_type,
            message_stream: u32::from_le_bytes([s0, s1, s2, s3]),
            timestamp_ms: u32::from_be_bytes([0, t0, t1, t2]),
            payload,
        })
    }
}
