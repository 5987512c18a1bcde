//! What both ends of a connection do alike: reading messages, the outbox, acknowledgements and pings.

use super::amf0::{self, Value};
use super::chunk::{ChunkLimits, ChunkReader, Message};
use super::egress::{CHUNK_BYTES, Frame};
use super::error::{Limit, RtmpError};
use super::message_type;
use super::saved::byte_string;
use serde::{Deserialize, Serialize};
use std::ops::Deref;

/// Acknowledging more often than this would be work for nobody's good.
const MIN_ACK_WINDOW_BYTES: u32 = 1024;
const CONTROL_CHUNK_STREAM: u8 = 2;
const COMMAND_CHUNK_STREAM: u8 = 3;
const STATUS_CHUNK_STREAM: u8 = 5;

/// User control events (RTMP §6.2).
pub(super) mod event {
    pub const STREAM_BEGIN: u16 = 0;
    pub const STREAM_EOF: u16 = 1;
    pub const SET_BUFFER_LENGTH: u16 = 3;
    pub const PING_REQUEST: u16 = 6;
    pub const PING_RESPONSE: u16 = 7;
}

/// Bytes for the peer, in order.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Outbox {
    #[serde(with = "byte_string")]
    bytes: Vec<u8>,
    sent: usize,
}

impl Outbox {
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    pub fn sent(&mut self, bytes: usize) {
        self.sent += bytes.min(self.bytes.len() - self.sent);
        if self.sent == self.bytes.len() {
            self.take();
        } else if self.sent > self.bytes.len() / 2 {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
    }

    pub fn take(&mut self) -> Vec<u8> {
        let sent = std::mem::take(&mut self.sent);
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.drain(..sent);
        bytes
    }

    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }
}

/// The connection below the commands.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Link {
    pub reader: ChunkReader,
    pub outbox: Outbox,
    /// How often the peer wants to hear what we received; 0: never.
    ack_window_bytes: u32,
    /// Position that was acknowledged last.
    acknowledged: u64,
}

impl Link {
    pub fn new(limits: ChunkLimits) -> Self {
        Self { reader: ChunkReader::new(limits, 0), outbox: Outbox::default(), ack_window_bytes: 0, acknowledged: 0 }
    }

    /// Whether restored state can be worked with.
    pub fn is_sound(&self) -> bool {
        self.reader.is_sound() && self.outbox.sent <= self.outbox.bytes.len() && self.acknowledged <= self.reader.position()
    }

    pub fn error(&self, limit: Limit, detail: impl Into<std::borrow::Cow<'static, str>>) -> RtmpError {
        RtmpError::new(limit, self.reader.position(), detail)
    }

    /// Deals with messages about the connection itself; false if `message` is none.
    pub fn handle_control(&mut self, message: &Message<impl Deref<Target = [u8]>>) -> bool {
        match message.message_type {
            message_type::WINDOW_ACKNOWLEDGEMENT_SIZE => {
                if let Some(window) = message.payload.first_chunk() {
                    self.ack_window_bytes = u32::from_be_bytes(*window);
                }
                true
            }
            message_type::USER_CONTROL => {
                if let Some(&[e0, e1, t0, t1, t2, t3]) = message.payload.first_chunk()
                    && u16::from_be_bytes([e0, e1]) == event::PING_REQUEST
                {
                    self.send_event(event::PING_RESPONSE, &[u32::from_be_bytes([t0, t1, t2, t3])]);
                }
                true
            }
            message_type::ACKNOWLEDGEMENT | message_type::SET_PEER_BANDWIDTH => true,
            _ => false,
        }
    }

    /// Sends an acknowledgement if half of the peer's window has come since the last. Call it after each message: where
    /// messages end does not depend on how the input was cut.
    pub fn acknowledge(&mut self) {
        let received = self.reader.position();
        let due = u64::from(self.ack_window_bytes.max(MIN_ACK_WINDOW_BYTES) / 2);
        if self.ack_window_bytes > 0 && received - self.acknowledged >= due {
            self.acknowledged = received;
            // The sequence number wraps at 32 bits (§5.4.3).
            self.send_control(message_type::ACKNOWLEDGEMENT, &(received as u32).to_be_bytes());
        }
    }

    pub fn send_control(&mut self, message_type: u8, payload: &[u8]) {
        self.send(CONTROL_CHUNK_STREAM, message_type, 0, payload);
    }

    pub fn send_event(&mut self, event: u16, values: &[u32]) {
        let mut payload = event.to_be_bytes().to_vec();
        values.iter().for_each(|value| payload.extend_from_slice(&value.to_be_bytes()));
        self.send_control(message_type::USER_CONTROL, &payload);
    }

    /// A command of the connection (message stream 0) or of a stream.
    pub fn send_command(&mut self, message_stream: u32, name: &str, transaction: f64, values: &[Value]) {
        let chunk_stream = if message_stream == 0 { COMMAND_CHUNK_STREAM } else { STATUS_CHUNK_STREAM };
        let mut payload = Vec::with_capacity(128);
        amf0::encode_str(&mut payload, name);
        amf0::encode(&mut payload, &transaction.into());
        values.iter().for_each(|value| amf0::encode(&mut payload, value));
        self.send(chunk_stream, message_type::COMMAND_AMF0, message_stream, &payload);
    }

    /// A data message of a stream.
    pub fn send_data(&mut self, message_stream: u32, values: &[Value]) {
        let mut payload = Vec::with_capacity(64);
        values.iter().for_each(|value| amf0::encode(&mut payload, value));
        self.send(STATUS_CHUNK_STREAM, message_type::DATA_AMF0, message_stream, &payload);
    }

    /// Tells the peer our chunk size. It must come before the first message of more than 128 bytes: all are written with it.
    pub fn send_chunk_size(&mut self) {
        self.send_control(message_type::SET_CHUNK_SIZE, &(CHUNK_BYTES as u32).to_be_bytes());
    }

    fn send(&mut self, chunk_stream: u8, message_type: u8, message_stream: u32, payload: &[u8]) {
        let frame = Frame { chunk_stream, message_type, timestamp_ms: 0, message_stream };
        frame.write(self.outbox.buffer(), CHUNK_BYTES, payload);
    }
}
