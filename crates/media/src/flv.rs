//! The FLV file format as the log uses it: file header, tags, and the size that follows each tag.
//!
//! Source: Adobe Flash Video File Format Specification 10.1, annex E. A **record** here is one tag together with its
//! trailing `PreviousTagSize`, so that records can be appended and skipped without looking back.

/// File header (annex E.2; audio and video flags set) and the zero `PreviousTagSize0`.
pub const FILE_HEADER: [u8; 13] = [b'F', b'L', b'V', 1, 5, 0, 0, 0, 9, 0, 0, 0, 0];
/// Where the file header says which tracks there are (annex E.2, `TypeFlags`).
pub const FLAGS_AT: usize = 4;
/// There is video.
pub const FLAG_VIDEO: u8 = 1;
/// There is audio.
pub const FLAG_AUDIO: u8 = 4;
/// Bytes of a tag before its payload (annex E.4.1).
pub const TAG_HEADER_BYTES: usize = 11;
/// Bytes of a record beyond its payload: tag header and trailing `PreviousTagSize`.
pub const RECORD_OVERHEAD_BYTES: usize = TAG_HEADER_BYTES + 4;
/// The largest payload a tag can declare (24 bits).
pub const MAX_PAYLOAD_BYTES: usize = (1 << 24) - 1;

/// What kind of tag a record is; the numbers are FLV's tag types, which are RTMP's message types too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[repr(u8)]
pub enum RecordKind {
    /// Tag type 8.
    Audio = 8,
    /// Tag type 9.
    Video = 9,
    /// Tag type 18: AMF0 script data, `onMetaData` among them.
    Data = 18,
}

impl RecordKind {
    /// The kind with this FLV tag type, if the log knows it.
    pub fn from_tag_type(tag_type: u8) -> Option<Self> {
        match tag_type {
            8 => Some(Self::Audio),
            9 => Some(Self::Video),
            18 => Some(Self::Data),
            _ => None,
        }
    }
}

/// The header of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// Audio, video or data.
    pub kind: RecordKind,
    /// Decoding time in milliseconds, modulo 2^32.
    pub timestamp_ms: u32,
    /// Payload bytes, at most [`MAX_PAYLOAD_BYTES`].
    pub payload_bytes: u32,
}

impl RecordHeader {
    /// Reads the header of the record that starts at `bytes[0]`; `None` if it is cut short or of no known kind.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let header: &[u8; TAG_HEADER_BYTES] = bytes.get(..TAG_HEADER_BYTES)?.try_into().ok()?;
        Some(Self {
            kind: RecordKind::from_tag_type(header[0] & 0x1f)?,
            payload_bytes: u32::from_be_bytes([0, header[1], header[2], header[3]]),
            timestamp_ms: u32::from_be_bytes([header[7], header[4], header[5], header[6]]),
        })
    }

    /// Bytes of the whole record: tag header, payload, trailing size.
    pub fn record_bytes(&self) -> usize {
        self.payload_bytes as usize + RECORD_OVERHEAD_BYTES
    }
}

/// What comes before the payload of a record, which must not exceed [`MAX_PAYLOAD_BYTES`]: the caller has refused it before.
pub fn record_head(kind: RecordKind, timestamp_ms: u32, payload_bytes: usize) -> [u8; TAG_HEADER_BYTES] {
    debug_assert!(payload_bytes <= MAX_PAYLOAD_BYTES);
    let [_, s0, s1, s2] = (payload_bytes as u32).to_be_bytes();
    let [t_extended, t0, t1, t2] = timestamp_ms.to_be_bytes();
    [kind as u8, s0, s1, s2, t0, t1, t2, t_extended, 0, 0, 0]
}

/// What comes behind it.
pub fn record_tail(payload_bytes: usize) -> [u8; 4] {
    ((payload_bytes + TAG_HEADER_BYTES) as u32).to_be_bytes()
}

/// Appends a record to `out`. `payload` must not exceed [`MAX_PAYLOAD_BYTES`].
pub fn write_record(out: &mut Vec<u8>, kind: RecordKind, timestamp_ms: u32, payload: &[u8]) {
    out.extend_from_slice(&record_head(kind, timestamp_ms, payload.len()));
    out.extend_from_slice(payload);
    out.extend_from_slice(&record_tail(payload.len()));
}

/// One record of a byte run.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Where the record starts in the run.
    pub offset: usize,
    /// Its header.
    pub header: RecordHeader,
    /// Its payload, without tag header and trailing size.
    pub payload: &'a [u8],
}

/// Walks the whole records of a byte run, which must start at a record boundary; ends at the first that is cut short or unknown.
pub fn records(bytes: &[u8]) -> impl Iterator<Item = Record<'_>> {
    let mut offset = 0;
    std::iter::from_fn(move || {
        let rest = bytes.get(offset..)?;
        let header = RecordHeader::parse(rest)?;
        let whole = rest.get(..header.record_bytes())?;
        let record = Record { offset, header, payload: &whole[TAG_HEADER_BYTES..TAG_HEADER_BYTES + header.payload_bytes as usize] };
        offset += whole.len();
        Some(record)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn records_round_trip_with_extended_timestamps() {
        let mut bytes = Vec::new();
        write_record(&mut bytes, RecordKind::Video, 0x0102_0304, b"abc");
        write_record(&mut bytes, RecordKind::Audio, 7, b"");
        let read: Vec<_> = records(&bytes).map(|r| (r.offset, r.header.kind, r.header.timestamp_ms, r.payload.to_vec())).collect();
        assert_eq!(read, [(0, RecordKind::Video, 0x0102_0304, b"abc".to_vec()), (18, RecordKind::Audio, 7, vec![])]);
    }

    #[test]
    fn a_cut_record_ends_the_walk() {
        let mut bytes = Vec::new();
        write_record(&mut bytes, RecordKind::Video, 1, b"abcdef");
        for cut in 0..bytes.len() {
            assert_eq!(records(&bytes[..cut]).count(), 0, "cut at {cut}");
        }
    }
}
