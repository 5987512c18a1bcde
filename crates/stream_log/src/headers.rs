//! What a decoder needs before the first record: metadata and sequence headers, and the block prefix made of them.

use braidcast_media::flv::{FILE_HEADER, MAX_PAYLOAD_BYTES, records, write_record};
use braidcast_media::{RecordKind, TagInfo};
use serde::{Deserialize, Serialize};

/// The longest metadata or sequence header that goes into prefixes. Longer ones are carried as plain records: every
/// block would repeat them.
pub(crate) const MAX_HEADER_BYTES: usize = 64 << 10;
/// No prefix is longer: file header and three records.
pub(crate) const MAX_PREFIX_BYTES: usize = FILE_HEADER.len() + 3 * (MAX_HEADER_BYTES + 15);

/// AMF0 string marker, length and text of what RTMP puts before the metadata ("add to the stored data frame").
const SET_DATA_FRAME: &[u8] = b"\x02\x00\x0d@setDataFrame";
const ON_META_DATA: &[u8] = b"\x02\x00\x0aonMetaData";

/// FLV 10.1 annex E.2, the `TypeFlags` of the file header.
const FLAG_VIDEO: u8 = 1;
const FLAG_AUDIO: u8 = 4;
const FLAGS_AT: usize = 4;

/// Which part of the headers a payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Metadata,
    Sequence(RecordKind),
}

/// The payload of a data tag as an FLV file has it.
pub(crate) fn strip_set_data_frame(payload: &[u8]) -> &[u8] {
    payload.strip_prefix(SET_DATA_FRAME).unwrap_or(payload)
}

/// Which part of the headers this is; `None` for a record.
pub(crate) fn part_of(kind: RecordKind, payload: &[u8], info: TagInfo) -> Option<Part> {
    if payload.len() > MAX_HEADER_BYTES.min(MAX_PAYLOAD_BYTES) {
        return None;
    }
    match kind {
        RecordKind::Data => payload.starts_with(ON_META_DATA).then_some(Part::Metadata),
        _ => info.sequence_header.then_some(Part::Sequence(kind)),
    }
}

/// The headers of one publisher so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Headers {
    metadata: Option<Vec<u8>>,
    video: Option<Vec<u8>>,
    audio: Option<Vec<u8>>,
}

impl Headers {
    /// Takes a part; false if it was there already, byte for byte.
    pub fn set(&mut self, part: Part, payload: &[u8]) -> bool {
        let place = match part {
            Part::Metadata => &mut self.metadata,
            Part::Sequence(RecordKind::Video) => &mut self.video,
            Part::Sequence(_) => &mut self.audio,
        };
        if place.as_deref() == Some(payload) {
            return false;
        }
        *place = Some(payload.to_vec());
        true
    }

    pub fn has_video(&self) -> bool {
        self.video.is_some()
    }

    /// Whether a decoder set up for the one can go on with the other.
    pub fn same_codecs(&self, other: &Self) -> bool {
        self.video == other.video && self.audio == other.audio
    }

    /// Takes over only the metadata of `other`: it does not concern decoders. True if it was other than before.
    pub fn copy_metadata(&mut self, other: &Self) -> bool {
        let changed = self.metadata != other.metadata;
        if changed {
            self.metadata.clone_from(&other.metadata);
        }
        changed
    }

    /// Appends a block's prefix: file header, metadata, sequence headers, all at the block's first time. The file header
    /// says which tracks there are as far as known (`heard`: audio, video): a player waits for those it is promised.
    pub fn write_prefix(&self, out: &mut Vec<u8>, timestamp_ms: u32, heard: [bool; 2]) {
        let hinted = |name: &[u8]| self.metadata.as_deref().is_some_and(|text| memchr::memmem::find(text, name).is_some());
        let audio = heard[0] || self.audio.is_some() || hinted(b"audiocodecid");
        let video = heard[1] || self.video.is_some() || hinted(b"videocodecid");
        let start = out.len();
        out.extend_from_slice(&FILE_HEADER);
        if audio || video {
            out[start + FLAGS_AT] = if audio { FLAG_AUDIO } else { 0 } | if video { FLAG_VIDEO } else { 0 };
        }
        for (kind, payload) in [(RecordKind::Data, &self.metadata), (RecordKind::Video, &self.video), (RecordKind::Audio, &self.audio)] {
            if let Some(payload) = payload {
                write_record(out, kind, timestamp_ms, payload);
            }
        }
    }

    /// Reads the headers back from a block's prefix; `None` if it is none.
    pub fn parse(prefix: &[u8]) -> Option<Self> {
        let body = prefix.get(FILE_HEADER.len()..)?;
        let (mut headers, mut walked) = (Self::default(), 0);
        for record in records(body) {
            let kind = record.header.kind;
            let part = part_of(kind, record.payload, TagInfo::of(kind, record.payload))?;
            headers.set(part, record.payload);
            walked = record.offset + record.header.record_bytes();
        }
        (prefix.starts_with(&FILE_HEADER[..FLAGS_AT]) && walked == body.len()).then_some(headers)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const AVC: &[u8] = &[0x17, 0, 0, 0, 0, 1];
    const AAC: &[u8] = &[0xaf, 0, 0x12, 0x10];

    fn part(kind: RecordKind, payload: &[u8]) -> Option<Part> {
        part_of(kind, payload, TagInfo::of(kind, payload))
    }

    #[test]
    fn metadata_is_stripped_and_told_from_other_data() {
        let sent = [SET_DATA_FRAME, ON_META_DATA, b"\x08"].concat();
        let stripped = strip_set_data_frame(&sent);
        assert_eq!(stripped, [ON_META_DATA, b"\x08"].concat());
        assert_eq!(part(RecordKind::Data, stripped), Some(Part::Metadata));
        assert_eq!(part(RecordKind::Data, b"\x02\x00\x04onFI"), None);
        assert_eq!(part(RecordKind::Video, AVC), Some(Part::Sequence(RecordKind::Video)));
        let long = [AVC, &vec![0; MAX_HEADER_BYTES]].concat();
        assert_eq!(part(RecordKind::Video, &long), None);
    }

    #[test]
    fn the_prefix_reads_back_and_promises_only_what_is_known() {
        let mut headers = Headers::default();
        let flags = |headers: &Headers, heard| {
            let mut prefix = Vec::new();
            headers.write_prefix(&mut prefix, 77, heard);
            assert_eq!(Headers::parse(&prefix).as_ref(), Some(headers));
            assert!(prefix.len() <= MAX_PREFIX_BYTES);
            prefix[FLAGS_AT]
        };
        assert_eq!(flags(&headers, [false, false]), 5, "nothing known: everything promised");
        assert_eq!(flags(&headers, [true, false]), 4);
        assert!(headers.set(Part::Sequence(RecordKind::Video), AVC));
        assert!(!headers.set(Part::Sequence(RecordKind::Video), AVC));
        assert_eq!(flags(&headers, [false, false]), 1);
        assert!(headers.set(Part::Metadata, &[ON_META_DATA, b"audiocodecid"].concat()));
        assert_eq!(flags(&headers, [false, false]), 5);
        assert!(headers.set(Part::Sequence(RecordKind::Audio), AAC));
        assert_eq!(flags(&headers, [false, false]), 5);
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_not(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = Headers::parse(&bytes);
            let _ = Headers::parse(&[&FILE_HEADER[..], &bytes].concat());
        }
    }
}
