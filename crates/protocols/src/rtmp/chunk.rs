//! From a peer's bytes to messages: the chunk stream (RTMP §5.3).
//!
//! Takes input in any pieces, in time proportional to its bytes. Memory grows with payload that really arrived, never with
//! what a header declares. Set Chunk Size and Abort act on the reader itself and are not handed out.

use super::error::{Limit, RtmpError};
use super::message_type;
use super::saved::byte_string;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// The chunk size before a peer sets one (§5.4.1).
const DEFAULT_CHUNK_BYTES: u32 = 128;
/// Larger chunk sizes than the largest message mean the same as this (§5.4.1).
const MAX_CHUNK_BYTES: u32 = 0x00ff_ffff;
/// A timestamp field with this value says that an extended one follows (§5.3.1.3).
const EXTENDED: u32 = 0x00ff_ffff;
/// The longest basic and message header, without extended timestamp (§5.3.1).
const MAX_HEADER_BYTES: usize = 14;
/// Room that a message gets at once for bytes that stand in the same input, before it grows by doubling.
const FIRST_ROOM_BYTES: usize = 4096;
/// Bytes of the message header of formats 0 to 3 (§5.3.1.2).
const MESSAGE_HEADER_BYTES: [usize; 4] = [11, 7, 3, 0];
const CONTINUATION: u8 = 3;

/// What a peer may make a reader hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkLimits {
    /// The longest message, in declared bytes.
    pub message_bytes: u32,
    /// The most chunk streams; each is looked up by walking them, so keep it in the hundreds.
    pub chunk_streams: u32,
    /// The most declared bytes of all unfinished messages together; messages of a single chunk do not count, for only one can be under way.
    pub unfinished_message_bytes: u64,
}

impl Default for ChunkLimits {
    fn default() -> Self {
        Self { message_bytes: 16 << 20, chunk_streams: 64, unfinished_message_bytes: 32 << 20 }
    }
}

/// A whole message; its content is held, or stands in the input that ended it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message<P = Vec<u8>> {
    /// One of [`message_type`], or a type that is not known here.
    pub message_type: u8,
    /// The chunk stream it came on, 2..=65599.
    pub chunk_stream: u32,
    /// The message stream it belongs to; 0 is the connection itself.
    pub message_stream: u32,
    /// Milliseconds modulo 2^32.
    pub timestamp_ms: u32,
    /// Its content, without any header.
    pub payload: P,
}

/// A message whose content was not copied if it stands in the input in one piece.
pub(super) type Arrived<'a> = Message<Cow<'a, [u8]>>;

impl Arrived<'_> {
    /// As it is kept.
    pub fn into_owned(self) -> Message {
        let Self { message_type, chunk_stream, message_stream, timestamp_ms, payload } = self;
        Message { message_type, chunk_stream, message_stream, timestamp_ms, payload: payload.into_owned() }
    }
}

/// What is remembered of a chunk stream: the header its next chunk may refer to, and the message that is under way.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct ChunkStream {
    id: u32,
    timestamp_ms: u32,
    /// The last timestamp field as sent: after format 0 the absolute timestamp, which a format 3 that starts a message
    /// then adds again (§5.3.1.2.4).
    delta_ms: u32,
    declared_bytes: u32,
    message_type: u8,
    message_stream: u32,
    /// The last timestamp field was an extended one, so format 3 repeats it …
    extended: bool,
    /// … except that this peer was caught not repeating it.
    omits_extended: bool,
    /// A message is under way.
    open: bool,
    /// Its declared bytes, if it is of several chunks: what it adds to the unfinished ones.
    counted_bytes: u32,
    #[serde(with = "byte_string")]
    payload: Vec<u8>,
}

/// Where in a chunk the next byte belongs. Streams are named by their place in the list, which never changes.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum State {
    Header { bytes: [u8; MAX_HEADER_BYTES], filled: u8 },
    Extended { stream: u32, format: u8, bytes: [u8; 4], filled: u8 },
    Payload { stream: u32, chunk_left: u32 },
}

impl State {
    const START: Self = Self::Header { bytes: [0; MAX_HEADER_BYTES], filled: 0 };
}

/// Assembles messages from chunks.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ChunkReader {
    limits: ChunkLimits,
    position: u64,
    chunk_bytes: u32,
    unfinished_bytes: u64,
    streams: Vec<ChunkStream>,
    /// The place of the stream that was used last: most chunks stay on it.
    latest: u32,
    state: State,
    /// Bytes that looked like a repeated extended timestamp, then turned out to be payload, and are to be read again.
    again: Again,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Again {
    bytes: [u8; 3],
    filled: u8,
}

impl Again {
    fn extend(&mut self, bytes: &[u8]) {
        let filled = usize::from(self.filled);
        self.bytes[filled..filled + bytes.len()].copy_from_slice(bytes);
        self.filled += bytes.len() as u8;
    }
}

impl ChunkReader {
    /// A reader whose first byte is at `position` of the connection.
    pub fn new(limits: ChunkLimits, position: u64) -> Self {
        Self {
            limits,
            position,
            chunk_bytes: DEFAULT_CHUNK_BYTES,
            unfinished_bytes: 0,
            streams: Vec::new(),
            latest: 0,
            state: State::START,
            again: Again::default(),
        }
    }

    /// Other limits from now on; what is under way keeps to the old ones.
    pub(super) fn set_limits(&mut self, limits: ChunkLimits) {
        self.limits = limits;
    }

    /// Bytes of the connection that were used so far. After a message it is where that message ended, however the input was cut.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Payload of unfinished messages that has come.
    pub(super) fn held_bytes(&self) -> usize {
        self.streams.iter().map(|stream| stream.payload.len()).sum()
    }

    /// Counts bytes that were read before the chunk stream began: the handshake.
    pub fn skip(&mut self, bytes: usize) {
        self.position += bytes as u64;
    }

    /// Gives back memory that is not needed while nothing is under way.
    pub fn shrink(&mut self) {
        self.streams.shrink_to_fit();
    }

    /// Reads up to the end of the next message, or all of `input`. Returns how much of it was used. Call it again after
    /// a message even if nothing is left: up to 3 bytes can be waiting inside.
    pub fn read(&mut self, input: &[u8]) -> Result<(usize, Option<Message>), RtmpError> {
        let (used, message) = self.read_in_place(input)?;
        Ok((used, message.map(Arrived::into_owned)))
    }

    /// As [`ChunkReader::read`], without a copy of what stands in `input` in one piece.
    pub(super) fn read_in_place<'a>(&mut self, input: &'a [u8]) -> Result<(usize, Option<Arrived<'a>>), RtmpError> {
        let mut used = 0;
        loop {
            let (step, message) = self.read_next(&input[used..])?;
            used += step;
            match message {
                Some(message) if is_for_the_reader(&message) => {}
                other => return Ok((used, other)),
            }
        }
    }

    /// As [`ChunkReader::read`], but hands out also what acted on the reader itself.
    pub(super) fn read_any(&mut self, input: &[u8]) -> Result<(usize, Option<Message>), RtmpError> {
        let (used, message) = self.read_next(input)?;
        Ok((used, message.map(Arrived::into_owned)))
    }

    fn read_next<'a>(&mut self, input: &'a [u8]) -> Result<(usize, Option<Arrived<'a>>), RtmpError> {
        let mut used = 0;
        loop {
            let message = if self.again.filled > 0 {
                let again = std::mem::take(&mut self.again);
                let bytes = &again.bytes[..usize::from(again.filled)];
                let (step, message) = self.step(bytes)?;
                self.again.extend(&bytes[step..]);
                message.map(|message| Arrived { payload: Cow::Owned(message.payload.into_owned()), ..message })
            } else if used < input.len() {
                let (step, message) = self.step(&input[used..])?;
                used += step;
                message
            } else {
                return Ok((used, None));
            };
            if let Some(message) = message {
                if is_for_the_reader(&message) {
                    self.apply(&message)?;
                }
                return Ok((used, Some(message)));
            }
        }
    }

    /// Whether all that was taken are whole messages: the next byte starts one, and none is under way on any chunk stream.
    pub(super) fn is_between_messages(&self) -> bool {
        let at_a_header = matches!(self.state, State::Header { filled: 0, .. });
        at_a_header && self.again.filled == 0 && self.streams.iter().all(|stream| !stream.open)
    }

    /// The peer's chunk size.
    pub(super) fn chunk_bytes(&self) -> u32 {
        self.chunk_bytes
    }

    #[cfg(test)]
    pub(super) fn heap_bytes(&self) -> usize {
        self.streams.capacity() * size_of::<ChunkStream>() + self.streams.iter().map(|stream| stream.payload.capacity()).sum::<usize>()
    }

    /// Whether a restored reader can be worked with: no index or count points outside of what it has.
    pub(super) fn is_sound(&self) -> bool {
        let missing = |stream: &ChunkStream| (stream.declared_bytes as usize).checked_sub(stream.payload.len());
        let streams_ok = self.streams.iter().all(|stream| missing(stream).is_some_and(|missing| missing > 0 || !stream.open));
        let state_ok = match &self.state {
            State::Header { bytes, filled } => {
                let (basic, message) = header_bytes(bytes[0]);
                usize::from(*filled) < basic + message
            }
            State::Extended { stream, format, filled, .. } => {
                (*stream as usize) < self.streams.len() && *format <= CONTINUATION && *filled < 4
            }
            State::Payload { stream, chunk_left } => self.streams.get(*stream as usize).is_some_and(|stream| {
                stream.open && *chunk_left > 0 && missing(stream).is_some_and(|missing| *chunk_left as usize <= missing)
            }),
        };
        let counted: u64 = self.streams.iter().map(|stream| u64::from(stream.counted_bytes)).sum();
        streams_ok && state_ok && counted == self.unfinished_bytes && self.again.filled <= 3 && self.chunk_bytes > 0
    }

    /// One step: a header, an extended timestamp, or a run of payload, or as much of it as there is.
    fn step<'a>(&mut self, input: &'a [u8]) -> Result<(usize, Option<Arrived<'a>>), RtmpError> {
        match self.state {
            State::Header { ref mut bytes, ref mut filled } => {
                let mut used = 0;
                loop {
                    let Some(&byte) = input.get(used) else { return Ok((used, None)) };
                    used += 1;
                    self.position += 1;
                    bytes[usize::from(*filled)] = byte;
                    *filled += 1;
                    let (basic, message) = header_bytes(bytes[0]);
                    if usize::from(*filled) == basic + message {
                        let header = *bytes;
                        return Ok((used, self.header(&header, basic)?));
                    }
                }
            }
            State::Extended { .. } => self.extended(input),
            State::Payload { stream, chunk_left } => Ok(self.payload(stream, chunk_left, input)),
        }
    }

    /// A basic and message header is complete.
    fn header(&mut self, header: &[u8; MAX_HEADER_BYTES], basic: usize) -> Result<Option<Arrived<'static>>, RtmpError> {
        let format = header[0] >> 6;
        let id = match basic {
            1 => u32::from(header[0] & 0x3f),
            2 => 64 + u32::from(header[1]),
            _ => 64 + u32::from(header[1]) + 256 * u32::from(header[2]),
        };
        let index = self.stream_index(id, format)?;
        let stream = &mut self.streams[index as usize];
        let fields = &header[basic..];
        if format < CONTINUATION {
            // A header in the middle of a message starts another one: what came of the first is of no use.
            self.unfinished_bytes -= stream.discard();
            let field = u32::from_be_bytes([0, fields[0], fields[1], fields[2]]);
            stream.extended = field == EXTENDED;
            if format < 2 {
                stream.declared_bytes = u32::from_be_bytes([0, fields[3], fields[4], fields[5]]);
                stream.message_type = fields[6];
            }
            if format == 0 {
                stream.message_stream = u32::from_le_bytes([fields[7], fields[8], fields[9], fields[10]]);
            }
            if !stream.extended {
                return self.start_message(index, format, field);
            }
        } else if !stream.extended || stream.omits_extended {
            if stream.open {
                self.start_payload(index);
                return Ok(None);
            }
            let delta_ms = stream.delta_ms;
            return self.start_message(index, format, delta_ms);
        }
        self.state = State::Extended { stream: index, format, bytes: [0; 4], filled: 0 };
        Ok(None)
    }

    fn stream_index(&mut self, id: u32, format: u8) -> Result<u32, RtmpError> {
        if self.streams.get(self.latest as usize).is_some_and(|stream| stream.id == id) {
            return Ok(self.latest);
        }
        self.latest = match self.streams.iter().position(|stream| stream.id == id) {
            Some(index) => index as u32,
            None => {
                if self.streams.len() >= self.limits.chunk_streams as usize {
                    return Err(self.error(Limit::ChunkStreams, id, format!("more than {} chunk streams", self.limits.chunk_streams)));
                }
                // librtmp opens a chunk stream with format 1 for pings: the message stream is then 0. Formats 2 and 3 say too little.
                if format >= 2 {
                    return Err(self.error(Limit::Protocol, id, format!("a chunk stream starts with format {format}")));
                }
                self.streams.push(ChunkStream::new(id));
                self.streams.len() as u32 - 1
            }
        };
        Ok(self.latest)
    }

    /// Takes bytes of the field that follows a header with an extended timestamp. On a continuation it may be missing: then
    /// the first byte that differs from what would be repeated shows it, and all of them are payload.
    fn extended(&mut self, input: &[u8]) -> Result<(usize, Option<Arrived<'static>>), RtmpError> {
        let State::Extended { stream: index, format, ref mut bytes, ref mut filled } = self.state else { return Ok((0, None)) };
        let stream = &mut self.streams[index as usize];
        let continuation = format == CONTINUATION && stream.open;
        let repeated = [stream.delta_ms.to_be_bytes(), stream.timestamp_ms.to_be_bytes()];
        let mut used = 0;
        while *filled < 4 {
            let Some(&byte) = input.get(used) else { return Ok((used, None)) };
            let at = usize::from(*filled);
            bytes[at] = byte;
            if continuation && !repeated.iter().any(|repeated| repeated[..=at] == bytes[..=at]) {
                stream.omits_extended = true;
                self.position -= at as u64;
                self.again.extend(&bytes[..at]);
                self.start_payload(index);
                return Ok((used, None));
            }
            *filled += 1;
            used += 1;
            self.position += 1;
        }
        if continuation {
            self.start_payload(index);
            return Ok((used, None));
        }
        let field = u32::from_be_bytes(*bytes);
        Ok((used, self.start_message(index, format, field)?))
    }

    /// The whole header of a new message is known.
    fn start_message(&mut self, index: u32, format: u8, field: u32) -> Result<Option<Arrived<'static>>, RtmpError> {
        let limits = self.limits;
        let stream = &mut self.streams[index as usize];
        stream.delta_ms = field;
        stream.timestamp_ms = if format == 0 { field } else { stream.timestamp_ms.wrapping_add(field) };
        let (id, declared) = (stream.id, stream.declared_bytes);
        let counted = if declared > self.chunk_bytes { declared } else { 0 };
        if declared > limits.message_bytes {
            return Err(self.error(
                Limit::MessageBytes,
                id,
                format!("a message of {declared} bytes, {} are allowed", limits.message_bytes),
            ));
        }
        if counted > 0 && self.unfinished_bytes + u64::from(counted) > limits.unfinished_message_bytes {
            let detail = format!("unfinished messages declare more than {} bytes", limits.unfinished_message_bytes);
            return Err(self.error(Limit::UnfinishedBytes, id, detail));
        }
        self.unfinished_bytes += u64::from(counted);
        stream.open = true;
        stream.counted_bytes = counted;
        if declared == 0 {
            return Ok(Some(self.finish(index, None)));
        }
        self.start_payload(index);
        Ok(None)
    }

    fn start_payload(&mut self, index: u32) {
        let stream = &self.streams[index as usize];
        let missing = stream.declared_bytes - stream.payload.len() as u32;
        self.state = State::Payload { stream: index, chunk_left: missing.min(self.chunk_bytes) };
    }

    fn payload<'a>(&mut self, index: u32, chunk_left: u32, input: &'a [u8]) -> (usize, Option<Arrived<'a>>) {
        let used = input.len().min(chunk_left as usize);
        self.position += used as u64;
        let stream = &mut self.streams[index as usize];
        if used == stream.declared_bytes as usize {
            return (used, Some(self.finish(index, Some(&input[..used]))));
        }
        stream.append(&input[..used], input.len());
        if stream.payload.len() == stream.declared_bytes as usize {
            return (used, Some(self.finish(index, None)));
        }
        let chunk_left = chunk_left - used as u32;
        self.state = if chunk_left == 0 { State::START } else { State::Payload { stream: index, chunk_left } };
        (used, None)
    }

    /// A message is whole: with what stands in the input, or with what was gathered.
    fn finish<'a>(&mut self, index: u32, in_place: Option<&'a [u8]>) -> Arrived<'a> {
        self.state = State::START;
        let stream = &mut self.streams[index as usize];
        stream.open = false;
        self.unfinished_bytes -= u64::from(std::mem::take(&mut stream.counted_bytes));
        Arrived {
            message_type: stream.message_type,
            chunk_stream: stream.id,
            message_stream: stream.message_stream,
            timestamp_ms: stream.timestamp_ms,
            payload: in_place.map_or_else(|| Cow::Owned(std::mem::take(&mut stream.payload)), Cow::Borrowed),
        }
    }

    /// Carries out a message that is meant for the reader.
    fn apply(&mut self, message: &Arrived<'_>) -> Result<(), RtmpError> {
        let Some(&value) = message.payload.first_chunk() else {
            return Err(self.error(Limit::Protocol, message.chunk_stream, "a control message of less than 4 bytes"));
        };
        let value = u32::from_be_bytes(value);
        if message.message_type == message_type::ABORT {
            if let Some(stream) = self.streams.iter_mut().find(|stream| stream.id == value) {
                self.unfinished_bytes -= stream.discard();
            }
        } else if value == 0 || value > i32::MAX as u32 {
            return Err(self.error(Limit::Protocol, message.chunk_stream, format!("chunk size {value:#x}")));
        } else {
            self.chunk_bytes = value.min(MAX_CHUNK_BYTES);
        }
        Ok(())
    }

    fn error(&self, limit: Limit, chunk_stream: u32, detail: impl Into<std::borrow::Cow<'static, str>>) -> RtmpError {
        RtmpError { chunk_stream: Some(chunk_stream), ..RtmpError::new(limit, self.position, detail) }
    }
}

fn is_for_the_reader<P>(message: &Message<P>) -> bool {
    matches!(message.message_type, message_type::SET_CHUNK_SIZE | message_type::ABORT)
}

/// Bytes of the basic header and of the message header that a chunk's first byte announces.
fn header_bytes(first: u8) -> (usize, usize) {
    let basic = match first & 0x3f {
        0 => 2,
        1 => 3,
        _ => 1,
    };
    (basic, MESSAGE_HEADER_BYTES[usize::from(first >> 6)])
}

impl ChunkStream {
    fn new(id: u32) -> Self {
        Self {
            id,
            timestamp_ms: 0,
            delta_ms: 0,
            declared_bytes: 0,
            message_type: 0,
            message_stream: 0,
            extended: false,
            omits_extended: false,
            open: false,
            counted_bytes: 0,
            payload: Vec::new(),
        }
    }

    /// Drops the message under way, if any; returns what it no longer adds to the unfinished bytes.
    fn discard(&mut self) -> u64 {
        self.payload = Vec::new();
        self.open = false;
        u64::from(std::mem::take(&mut self.counted_bytes))
    }

    /// Appends payload. `arrived` counts this and what follows it in the input, most of it probably this message's.
    fn append(&mut self, bytes: &[u8], arrived: usize) {
        let (length, capacity) = (self.payload.len(), self.payload.capacity());
        if capacity - length < bytes.len() {
            let at_once = arrived.min(FIRST_ROOM_BYTES).max(length + bytes.len());
            let target = at_once.max(2 * capacity).min(self.declared_bytes as usize);
            self.payload.reserve_exact(target - length);
        }
        self.payload.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests;
