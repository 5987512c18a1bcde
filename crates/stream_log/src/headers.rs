//! What a decoder needs before the first record: metadata and sequence headers, and the block prefix made of them.

use braidcast_media::flv::{
    FILE_HEADER, FLAG_AUDIO, FLAG_VIDEO, FLAGS_AT, MAX_PAYLOAD_BYTES, RECORD_OVERHEAD_BYTES, records, write_record,
};
use braidcast_media::tag::{Content, HeaderPart};
use braidcast_media::{RecordKind, TagInfo};
use serde::{Deserialize, Serialize};

/// The longest metadata or sequence header that goes into prefixes. Longer ones are carried as plain records: every
/// block would repeat them.
pub(crate) const MAX_HEADER_BYTES: usize = 64 << 10;
/// Parts of all tracks together that are kept; a stream with one video and one audio track has two.
const MAX_PARTS: usize = 32;
/// Bytes of all parts, metadata included.
const MAX_PARTS_BYTES: usize = 3 * MAX_HEADER_BYTES;
/// No prefix is longer: file header and a record a part.
pub(crate) const MAX_PREFIX_BYTES: usize = FILE_HEADER.len() + MAX_PARTS_BYTES + (MAX_PARTS + 1) * RECORD_OVERHEAD_BYTES;

/// AMF0 string marker, length and text of what RTMP puts before the metadata ("add to the stored data frame").
const SET_DATA_FRAME: &[u8] = b"\x02\x00\x0d@setDataFrame";
const ON_META_DATA: &[u8] = b"\x02\x00\x0aonMetaData";

/// Which part of the headers a payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Metadata,
    Track(RecordKind, HeaderPart),
}

impl Part {
    /// Whether a decoder has to be set up anew for another one. What only describes the stream is told by a record as well.
    pub fn configures(self) -> bool {
        matches!(self, Self::Track(_, HeaderPart { content: Content::SequenceHeader | Content::TsDescriptor, .. }))
    }

    /// The order of a prefix: metadata, video, audio; first tracks first.
    fn place(self) -> (u8, Option<HeaderPart>) {
        match self {
            Self::Metadata => (0, None),
            Self::Track(RecordKind::Video, part) => (1, Some(part)),
            Self::Track(_, part) => (2, Some(part)),
        }
    }

    fn kind(self) -> RecordKind {
        match self {
            Self::Metadata => RecordKind::Data,
            Self::Track(kind, _) => kind,
        }
    }
}

/// What became of a part that was given to [`Headers::set`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It was there already, byte for byte.
    Known,
    /// It is new.
    Changed,
    /// There are too many: it has to be carried as a record.
    NoRoom,
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
        _ => info.header.map(|part| Part::Track(kind, part)),
    }
}

/// The headers of one publisher so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Headers {
    metadata: Option<Vec<u8>>,
    /// In the order of a prefix.
    tracks: Vec<(RecordKind, HeaderPart, Vec<u8>)>,
}

impl Headers {
    /// Takes a part.
    pub fn set(&mut self, part: Part, payload: &[u8]) -> Taken {
        let before = self.parts().find(|(known, _)| *known == part).map(|(_, bytes)| bytes);
        if before == Some(payload) {
            return Taken::Known;
        }
        let kept: usize = self.parts().map(|(_, bytes)| bytes.len()).sum();
        let full = before.is_none() && part != Part::Metadata && self.tracks.len() >= MAX_PARTS;
        if full || kept - before.map_or(0, <[u8]>::len) + payload.len() > MAX_PARTS_BYTES {
            return Taken::NoRoom;
        }
        match part {
            Part::Metadata => self.metadata = Some(payload.to_vec()),
            Part::Track(kind, header) => {
                let place = self.tracks.binary_search_by_key(&part.place(), |(kind, header, _)| Part::Track(*kind, *header).place());
                match place {
                    Ok(known) => self.tracks[known].2 = payload.to_vec(),
                    Err(place) => self.tracks.insert(place, (kind, header, payload.to_vec())),
                }
            }
        }
        Taken::Changed
    }

    /// All parts, in the order of a prefix.
    fn parts(&self) -> impl Iterator<Item = (Part, &[u8])> {
        let metadata = self.metadata.as_deref().map(|bytes| (Part::Metadata, bytes));
        metadata.into_iter().chain(self.tracks.iter().map(|(kind, header, bytes)| (Part::Track(*kind, *header), bytes.as_slice())))
    }

    fn configuring(&self) -> impl Iterator<Item = (Part, &[u8])> {
        self.parts().filter(|(part, _)| part.configures())
    }

    /// Whether the header of the first video track has these parameter sets in it.
    pub fn hold_video(&self, parameter_sets: &[&[u8]]) -> bool {
        self.first_video().is_some_and(|header| parameter_sets.iter().all(|set| memchr::memmem::find(header, set).is_some()))
    }

    /// Whether the first video track has a sequence header.
    pub fn has_first_video(&self) -> bool {
        self.first_video().is_some()
    }

    fn first_video(&self) -> Option<&[u8]> {
        const FIRST: Part = Part::Track(RecordKind::Video, HeaderPart { track: 0, content: Content::SequenceHeader });
        self.parts().find(|(part, _)| *part == FIRST).map(|(_, bytes)| bytes)
    }

    fn has(&self, wanted: RecordKind) -> bool {
        self.tracks.iter().any(|(kind, ..)| *kind == wanted)
    }

    pub fn has_video(&self) -> bool {
        self.has(RecordKind::Video)
    }

    /// Whether a decoder set up for the one can go on with the other.
    pub fn same_codecs(&self, other: &Self) -> bool {
        self.configuring().eq(other.configuring())
    }

    /// Takes over what does not concern decoders, of `other` with the same codecs. True if it was other than before.
    pub fn copy_metadata(&mut self, other: &Self) -> bool {
        let changed = self != other;
        if changed {
            self.clone_from(other);
        }
        changed
    }

    /// Appends a block's prefix: file header, metadata at time 0, sequence headers at the block's first time. The file header
    /// says which tracks there are as far as known (`heard`: audio, video): a player waits for those it is promised.
    pub fn write_prefix(&self, out: &mut Vec<u8>, timestamp_ms: u32, heard: [bool; 2]) {
        let hinted = |name: &[u8]| self.metadata.as_deref().is_some_and(|text| memchr::memmem::find(text, name).is_some());
        let audio = heard[0] || self.has(RecordKind::Audio) || hinted(b"audiocodecid");
        let video = heard[1] || self.has_video() || hinted(b"videocodecid");
        let start = out.len();
        out.extend_from_slice(&FILE_HEADER);
        if audio || video {
            out[start + FLAGS_AT] = if audio { FLAG_AUDIO } else { 0 } | if video { FLAG_VIDEO } else { 0 };
        }
        for (part, payload) in self.parts() {
            // ffmpeg takes metadata of any other time for a track of its own.
            let at_ms = if part == Part::Metadata { 0 } else { timestamp_ms };
            write_record(out, part.kind(), at_ms, payload);
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

    fn sequence(kind: RecordKind, track: u8) -> Part {
        Part::Track(kind, HeaderPart { track, content: Content::SequenceHeader })
    }

    #[test]
    fn metadata_is_stripped_and_told_from_other_data() {
        let sent = [SET_DATA_FRAME, ON_META_DATA, b"\x08"].concat();
        let stripped = strip_set_data_frame(&sent);
        assert_eq!(stripped, [ON_META_DATA, b"\x08"].concat());
        assert_eq!(part(RecordKind::Data, stripped), Some(Part::Metadata));
        assert_eq!(part(RecordKind::Data, b"\x02\x00\x04onFI"), None);
        assert_eq!(part(RecordKind::Video, AVC), Some(sequence(RecordKind::Video, 0)));
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
        assert_eq!(headers.set(sequence(RecordKind::Video, 0), AVC), Taken::Changed);
        assert_eq!(headers.set(sequence(RecordKind::Video, 0), AVC), Taken::Known);
        assert_eq!(flags(&headers, [false, false]), 1);
        assert_eq!(headers.set(Part::Metadata, &[ON_META_DATA, b"audiocodecid"].concat()), Taken::Changed);
        assert_eq!(flags(&headers, [false, false]), 5);
        assert_eq!(headers.set(sequence(RecordKind::Audio, 0), AAC), Taken::Changed);
        assert_eq!(flags(&headers, [false, false]), 5);
    }

    #[test]
    fn many_tracks_have_their_places_and_an_end() {
        let mut headers = Headers::default();
        for track in (0..MAX_PARTS as u8).rev() {
            let payload = [b"\x95\x00mp4a", &[track][..], &vec![1; 2000]].concat();
            assert_eq!(part(RecordKind::Audio, &payload), Some(sequence(RecordKind::Audio, track)));
            assert_eq!(headers.set(sequence(RecordKind::Audio, track), &payload), Taken::Changed);
        }
        assert_eq!(headers.set(sequence(RecordKind::Video, 0), AVC), Taken::NoRoom);
        assert_eq!(headers.set(sequence(RecordKind::Audio, 3), &vec![1; MAX_PARTS_BYTES]), Taken::NoRoom);
        assert_eq!(headers.set(Part::Metadata, ON_META_DATA), Taken::Changed);
        let mut prefix = Vec::new();
        headers.write_prefix(&mut prefix, 0, [false; 2]);
        assert_eq!(Headers::parse(&prefix), Some(headers));
        let tracks: Vec<u8> = records(&prefix[FILE_HEADER.len()..]).skip(1).map(|record| record.payload[6]).collect();
        assert!(tracks.is_sorted());
    }

    #[test]
    fn what_only_describes_needs_no_new_decoder() {
        let mut headers = Headers::default();
        headers.set(sequence(RecordKind::Video, 0), AVC);
        let mut described = headers.clone();
        let colours = b"\x94hvc1\x02";
        described.set(part(RecordKind::Video, colours).unwrap(), colours);
        assert!(headers.same_codecs(&described));
        assert!(headers.copy_metadata(&described) && headers == described);
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_not(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = Headers::parse(&bytes);
            let _ = Headers::parse(&[&FILE_HEADER[..], &bytes].concat());
        }
    }
}
