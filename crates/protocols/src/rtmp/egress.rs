//! Framing of messages into chunks: the bytes that an RTMP viewer gets for a record, and our own commands.
//!
//! A media message's bytes are a pure function of its record: format 0 header, chunk stream by kind, message stream 1,
//! chunk size 65,536, extended timestamps repeated on every continuation. So any worker can make, cache and cut them
//! again. They presume that the peer was told the chunk size before (a server session does so in its answer to `connect`).

use braidcast_media::{RecordHeader, RecordKind, flv::MAX_PAYLOAD_BYTES};

/// Payload bytes of a chunk in everything a server sends (RTMP §5.4.1).
pub const CHUNK_BYTES: usize = 65_536;
/// The message stream that media goes out on; a server session tells its peers no other.
pub const MEDIA_STREAM_ID: u32 = 1;
/// Basic header of one byte and message header of format 0 (RTMP §5.3.1).
const HEADER_BYTES: usize = 12;
const EXTENDED_BYTES: usize = 4;
/// From here on the timestamp needs the extended field (RTMP §5.3.1.3).
const EXTENDED_FROM: u32 = 0x00ff_ffff;
const CONTINUATION: u8 = 0xc0;

/// The chunk stream of a kind of media.
pub fn chunk_stream(kind: RecordKind) -> u8 {
    match kind {
        RecordKind::Audio => 4,
        RecordKind::Data => 5,
        RecordKind::Video => 6,
    }
}

/// Appends one media message. `payload` must not exceed [`MAX_PAYLOAD_BYTES`]: no record does.
pub fn write_message(out: &mut Vec<u8>, kind: RecordKind, timestamp_ms: u32, payload: &[u8]) {
    let frame = Frame { chunk_stream: chunk_stream(kind), message_type: kind as u8, timestamp_ms, message_stream: MEDIA_STREAM_ID };
    frame.write(out, CHUNK_BYTES, payload);
}

/// Bytes of the message that [`write_message`] makes of a record with this header.
pub fn message_bytes(header: &RecordHeader) -> usize {
    let payload = header.payload_bytes as usize;
    let continuations = payload.saturating_sub(1) / CHUNK_BYTES;
    let extended = if header.timestamp_ms >= EXTENDED_FROM { EXTENDED_BYTES } else { 0 };
    HEADER_BYTES + extended + payload + continuations * (1 + extended)
}

/// One media message of a framed byte run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FramedMessage {
    /// Where it starts in the run.
    pub offset: usize,
    /// The record it was made of.
    pub header: RecordHeader,
    /// All its bytes, chunk headers included.
    pub framed_bytes: usize,
}

/// Reads the header of the framed message that starts at `bytes[0]`; `None` if it is cut short or none that [`write_message`] makes.
pub fn parse_header(bytes: &[u8]) -> Option<RecordHeader> {
    let header: &[u8; HEADER_BYTES] = bytes.first_chunk()?;
    let kind = RecordKind::from_tag_type(header[7])?;
    if header[0] != chunk_stream(kind) {
        return None;
    }
    let field = u32::from_be_bytes([0, header[1], header[2], header[3]]);
    let timestamp_ms = match field {
        EXTENDED_FROM => u32::from_be_bytes(*bytes[HEADER_BYTES..].first_chunk()?),
        plain => plain,
    };
    Some(RecordHeader { kind, timestamp_ms, payload_bytes: u32::from_be_bytes([0, header[4], header[5], header[6]]) })
}

/// Walks the whole messages of a run of framed media, which must start at a message boundary; ends at the first that is
/// cut short or unknown.
pub fn messages(bytes: &[u8]) -> impl Iterator<Item = FramedMessage> {
    let mut offset = 0;
    std::iter::from_fn(move || {
        let header = parse_header(bytes.get(offset..)?)?;
        let message = FramedMessage { offset, header, framed_bytes: message_bytes(&header) };
        offset = offset.checked_add(message.framed_bytes).filter(|&end| end <= bytes.len())?;
        Some(message)
    })
}

/// Where and as what a message goes.
pub(super) struct Frame {
    /// 2..=63: one byte of basic header.
    pub chunk_stream: u8,
    pub message_type: u8,
    pub timestamp_ms: u32,
    pub message_stream: u32,
}

impl Frame {
    pub fn write(&self, out: &mut Vec<u8>, chunk_bytes: usize, payload: &[u8]) {
        debug_assert!((2..64).contains(&self.chunk_stream) && payload.len() <= MAX_PAYLOAD_BYTES && chunk_bytes > 0);
        let [_, s0, s1, s2] = (payload.len() as u32).to_be_bytes();
        let [_, t0, t1, t2] = self.timestamp_ms.min(EXTENDED_FROM).to_be_bytes();
        let extended = self.timestamp_ms.to_be_bytes();
        let extended: &[u8] = if self.timestamp_ms >= EXTENDED_FROM { &extended } else { &[] };
        let continuations = payload.len().saturating_sub(1) / chunk_bytes;
        out.reserve(HEADER_BYTES + extended.len() + payload.len() + continuations * (1 + extended.len()));
        out.extend_from_slice(&[self.chunk_stream, t0, t1, t2, s0, s1, s2, self.message_type]);
        // The message stream is the protocol's one little-endian field (RTMP §5.3.1.2.5).
        out.extend_from_slice(&self.message_stream.to_le_bytes());
        out.extend_from_slice(extended);
        for (index, chunk) in payload.chunks(chunk_bytes).enumerate() {
            if index > 0 {
                out.push(CONTINUATION | self.chunk_stream);
                out.extend_from_slice(extended);
            }
            out.extend_from_slice(chunk);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [RecordKind; 3] = [RecordKind::Audio, RecordKind::Video, RecordKind::Data];

    #[test]
    fn the_bytes_of_a_small_message_are_these() {
        let mut out = Vec::new();
        write_message(&mut out, RecordKind::Video, 0x01_02_03, b"abc");
        assert_eq!(out, b"\x06\x01\x02\x03\0\0\x03\x09\x01\0\0\0abc");
    }

    #[test]
    fn the_extended_timestamp_is_repeated_on_continuations() {
        let mut out = Vec::new();
        write_message(&mut out, RecordKind::Audio, 0x00ff_ffff, &[7; CHUNK_BYTES + 1]);
        assert_eq!(out[..16], *b"\x04\xff\xff\xff\x01\0\x01\x08\x01\0\0\0\0\xff\xff\xff");
        assert_eq!(out[16 + CHUNK_BYTES..], *b"\xc4\0\xff\xff\xff\x07");
    }

    #[test]
    fn a_peer_that_was_told_the_chunk_size_reads_what_was_written() {
        use crate::rtmp::chunk::{ChunkLimits, ChunkReader};
        let mut run = b"\x02\0\0\0\0\0\x04\x01\0\0\0\0\0\x01\0\0".to_vec();
        let mut expected = Vec::new();
        for (index, bytes) in [1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES + 3].into_iter().enumerate() {
            for timestamp_ms in [5, 0x00ff_ffff, u32::MAX] {
                let payload = vec![index as u8; bytes];
                write_message(&mut run, KINDS[index % 3], timestamp_ms, &payload);
                expected.push((KINDS[index % 3] as u8, timestamp_ms, payload));
            }
        }
        let mut reader = ChunkReader::new(ChunkLimits::default(), 0);
        let mut rest = run.as_slice();
        for expected in expected {
            let (used, message) = reader.read(rest).expect("what we write is right");
            rest = &rest[used..];
            let message = message.expect("a whole message was written");
            assert_eq!((message.chunk_stream, message.message_stream), (u32::from(run_stream(message.message_type)), MEDIA_STREAM_ID));
            assert_eq!((message.message_type, message.timestamp_ms, message.payload), expected);
        }
        assert!(rest.is_empty());
    }

    fn run_stream(message_type: u8) -> u8 {
        RecordKind::from_tag_type(message_type).map_or(0, chunk_stream)
    }

    #[test]
    fn a_run_is_walked_to_its_boundaries() {
        let mut run = Vec::new();
        let mut expected = Vec::new();
        for (index, bytes) in [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES, 200_000].into_iter().enumerate() {
            let header = RecordHeader {
                kind: KINDS[index % 3],
                timestamp_ms: [0, 0x00ff_fffe, 0x00ff_ffff, u32::MAX][index % 4],
                payload_bytes: bytes as u32,
            };
            let offset = run.len();
            write_message(&mut run, header.kind, header.timestamp_ms, &vec![index as u8; bytes]);
            expected.push(FramedMessage { offset, header, framed_bytes: run.len() - offset });
            assert_eq!(message_bytes(&header), run.len() - offset);
        }
        assert_eq!(messages(&run).collect::<Vec<_>>(), expected);
        assert_eq!(messages(&run[..run.len() - 1]).count(), expected.len() - 1, "a cut message ends the walk");
    }
}
