//! H.264 and H.265 as FLV carries them (ISO/IEC 14496-15: a configuration record, NAL units behind length fields) to Annex B byte
//! streams.
//!
//! NAL units are copied, never interpreted beyond their type. A frame whose lengths do not add up is refused whole.

use serde::{Deserialize, Serialize};

/// The longest configuration record that is accepted. Real ones have 50 to 150 bytes; each is kept in saved state.
pub const MAX_CONFIG_BYTES: usize = 8192;

const START_CODE: [u8; 4] = [0, 0, 0, 1];
/// NAL unit type 9, primary_pic_type 7: any slice type (H.264 section 7.4.2.4).
const DELIMITER_H264: [u8; 6] = [0, 0, 0, 1, 9, 0xf0];
const TYPE_DELIMITER_H264: u8 = 9;
/// NAL unit type 35, pic_type 2: any slice type (H.265 section 7.4.3.5).
const DELIMITER_HEVC: [u8; 7] = [0, 0, 0, 1, 0x46, 1, 0x50];
const TYPE_DELIMITER_HEVC: u8 = 35;
/// What a byte stream needs of an HEVCDecoderConfigurationRecord, in this order: VPS, SPS, PPS, prefix SEI (H.265 table 7-1).
const TYPES_KEPT_HEVC: [u8; 4] = [32, 33, 34, 39];
/// Bytes of an HEVCDecoderConfigurationRecord before the number of its arrays.
const HEVC_HEAD_BYTES: usize = 22;

/// A video codec that transport streams carry here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VideoKind {
    /// H.264, stream type 0x1B.
    H264,
    /// H.265, stream type 0x24.
    Hevc,
}

impl VideoKind {
    /// ISO/IEC 13818-1 table 2-34.
    pub(super) fn stream_type(self) -> u8 {
        match self {
            Self::H264 => 0x1b,
            Self::Hevc => 0x24,
        }
    }
}

/// What a decoder configuration record says that a byte stream needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VideoConfig {
    kind: VideoKind,
    /// Bytes of the length field before each NAL unit, 1 to 4.
    length_bytes: u8,
    /// Parameter sets with start codes.
    parameter_sets: Vec<u8>,
}

impl VideoConfig {
    /// Reads the record of a codec; `None` if it is cut short, of an unknown version, or longer than [`MAX_CONFIG_BYTES`].
    pub fn parse(kind: VideoKind, record: &[u8]) -> Option<Self> {
        if record.len() > MAX_CONFIG_BYTES {
            return None;
        }
        match kind {
            VideoKind::H264 => Self::parse_avc(record),
            VideoKind::Hevc => Self::parse_hevc(record),
        }
    }

    /// Whether a restored configuration is one that can be parsed.
    pub(crate) fn is_sound(&self) -> bool {
        (1..=4).contains(&self.length_bytes) && self.parameter_sets.len() <= 2 * MAX_CONFIG_BYTES
    }

    /// ISO/IEC 14496-15 section 5.3.3.1. What follows the picture parameter sets is not needed and ignored.
    fn parse_avc(record: &[u8]) -> Option<Self> {
        let [1, _, _, _, length_size, sps_count, sets @ ..] = record else {
            return None;
        };
        let mut parameter_sets = Vec::new();
        let sets = copy_sets(sets, u16::from(sps_count & 0x1f), &mut parameter_sets)?;
        let (pps_count, sets) = sets.split_first()?;
        copy_sets(sets, u16::from(*pps_count), &mut parameter_sets)?;
        Some(Self { kind: VideoKind::H264, length_bytes: (length_size & 3) + 1, parameter_sets })
    }

    /// ISO/IEC 14496-15 section 8.3.3.1. Arrays come in any order there, not here.
    fn parse_hevc(record: &[u8]) -> Option<Self> {
        let (head, arrays) = record.split_at_checked(HEVC_HEAD_BYTES)?;
        let [1, .., length_size] = head else { return None };
        let (array_count, arrays) = arrays.split_first()?;
        let mut kept: [Vec<u8>; TYPES_KEPT_HEVC.len()] = Default::default();
        let mut rest = arrays;
        for _ in 0..*array_count {
            let (&[first, high, low], sets) = rest.split_first_chunk()?;
            let mut array = Vec::new();
            rest = copy_sets(sets, u16::from_be_bytes([high, low]), &mut array)?;
            if let Some(place) = TYPES_KEPT_HEVC.iter().position(|&kept| kept == first & 0x3f) {
                kept[place].extend_from_slice(&array);
            }
        }
        Some(Self { kind: VideoKind::Hevc, length_bytes: (length_size & 3) + 1, parameter_sets: kept.concat() })
    }

    /// Which codec it is.
    pub fn kind(&self) -> VideoKind {
        self.kind
    }

    /// True if the NAL units of `frame` fill it exactly and at least one has content.
    pub fn accepts(&self, frame: &[u8]) -> bool {
        let mut content = false;
        for unit in self.units(frame) {
            let Some(unit) = unit else { return false };
            content |= !unit.is_empty();
        }
        content
    }

    /// Gives the pieces of one access unit, in order: delimiter, parameter sets if it is a keyframe, and the frame's NAL units up to
    /// the first broken one. Delimiters of its own are left out.
    pub fn access_unit(&self, frame: &[u8], keyframe: bool, mut piece: impl FnMut(&[u8])) {
        piece(match self.kind {
            VideoKind::H264 => &DELIMITER_H264[..],
            VideoKind::Hevc => &DELIMITER_HEVC,
        });
        if keyframe {
            piece(&self.parameter_sets);
        }
        for unit in self.units(frame).map_while(|unit| unit) {
            if unit.first().is_some_and(|&first| !self.is_delimiter(first)) {
                piece(&START_CODE);
                piece(unit);
            }
        }
    }

    /// Whether a NAL unit that starts with this byte is an access unit delimiter.
    fn is_delimiter(&self, first: u8) -> bool {
        match self.kind {
            VideoKind::H264 => first & 0x1f == TYPE_DELIMITER_H264,
            VideoKind::Hevc => first >> 1 & 0x3f == TYPE_DELIMITER_HEVC,
        }
    }

    /// The NAL units of a frame; `None` as the last item if a length reaches beyond the end.
    fn units<'a>(&self, frame: &'a [u8]) -> impl Iterator<Item = Option<&'a [u8]>> {
        let length_bytes = usize::from(self.length_bytes);
        let mut rest = frame;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let unit = take_unit(&mut rest, length_bytes);
            if unit.is_none() {
                rest = &[];
            }
            Some(unit)
        })
    }
}

fn take_unit<'a>(rest: &mut &'a [u8], length_bytes: usize) -> Option<&'a [u8]> {
    let (length, after) = rest.split_at_checked(length_bytes)?;
    let length = length.iter().fold(0_u64, |sum, &byte| sum << 8 | u64::from(byte));
    let (unit, after) = after.split_at_checked(usize::try_from(length).ok()?)?;
    *rest = after;
    Some(unit)
}

fn copy_sets<'a>(mut rest: &'a [u8], count: u16, out: &mut Vec<u8>) -> Option<&'a [u8]> {
    for _ in 0..count {
        let set = take_unit(&mut rest, 2)?;
        if !set.is_empty() {
            out.extend_from_slice(&START_CODE);
            out.extend_from_slice(set);
        }
    }
    Some(rest)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn config(length_size: u8) -> VideoConfig {
        VideoConfig::parse(
            VideoKind::H264,
            &[&[1, 0x64, 0, 0x1f, 0xfc | length_size, 0xe1, 0, 3][..], b"\x67sp", &[1, 0, 2], b"\x68p"].concat(),
        )
        .unwrap()
    }

    #[test]
    fn a_keyframe_gets_delimiter_and_parameter_sets() {
        for length_size in 0..4 {
            let mut frame = Vec::new();
            for unit in [&b"\x09\xf0"[..], b"\x65abc", b"", b"\x65de"] {
                frame.extend_from_slice(&(unit.len() as u32).to_be_bytes()[3 - usize::from(length_size)..]);
                frame.extend_from_slice(unit);
            }
            let config = config(length_size);
            assert!(config.accepts(&frame));
            let mut out = Vec::new();
            config.access_unit(&frame, true, |piece| out.extend_from_slice(piece));
            assert_eq!(out, b"\0\0\0\x01\x09\xf0\0\0\0\x01\x67sp\0\0\0\x01\x68p\0\0\0\x01\x65abc\0\0\0\x01\x65de");
            assert!(!config.accepts(&frame[..frame.len() - 1]), "cut");
        }
    }

    /// An HEVC record with these arrays: NAL unit type, NAL units.
    fn hevc_record(arrays: &[(u8, &[&[u8]])]) -> Vec<u8> {
        let mut record = [&[1_u8][..], &[0; 20], &[0xfc | 3, arrays.len() as u8]].concat();
        for (kind, units) in arrays {
            record.extend_from_slice(&[0x80 | kind, 0, units.len() as u8]);
            for unit in *units {
                record.extend_from_slice(&(unit.len() as u16).to_be_bytes());
                record.extend_from_slice(unit);
            }
        }
        record
    }

    #[test]
    fn hevc_parameter_sets_come_in_the_order_of_decoding() {
        let arrays: [(u8, &[&[u8]]); 5] = [
            (34, &[b"\x44\x01p", b"\x44\x01q"]),
            (33, &[b"\x42\x01s"]),
            (40, &[b"\x50\x01x"]),
            (32, &[b"\x40\x01v"]),
            (39, &[b"\x4e\x01i"]),
        ];
        let record = hevc_record(&arrays);
        let config = VideoConfig::parse(VideoKind::Hevc, &record).unwrap();
        let frame = b"\0\0\0\x03\x46\x01\x50\0\0\0\x04\x26\x01ab";
        assert!(config.accepts(frame));
        let mut out = Vec::new();
        config.access_unit(frame, true, |piece| out.extend_from_slice(piece));
        let units = [&b"\x46\x01\x50"[..], b"\x40\x01v", b"\x42\x01s", b"\x44\x01p", b"\x44\x01q", b"\x4e\x01i", b"\x26\x01ab"];
        assert_eq!(out, units.map(|unit| [&START_CODE[..], unit].concat()).concat());
        for cut in 0..record.len() {
            assert_eq!(VideoConfig::parse(VideoKind::Hevc, &record[..cut]), None, "cut at {cut}");
        }
    }

    #[test]
    fn broken_records_and_frames_are_refused() {
        for record in
            [&b""[..], &[1], &[0, 0x64, 0, 0x1f, 0xff, 0xe0, 0], &[1, 0x64, 0, 0x1f, 0xff, 0xe1, 0, 9, 1], &[1, 0x64, 0, 0x1f, 0xff, 0xe0]]
        {
            assert_eq!(VideoConfig::parse(VideoKind::H264, record), None, "{record:?}");
        }
        for frame in [&b""[..], &[0, 0, 0], &[0, 0, 0, 0], &[0xff, 0xff, 0xff, 0xff, 1], &[0, 0, 0, 1, 0x65, 0]] {
            assert!(!config(3).accepts(frame), "{frame:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(record in prop::collection::vec(any::<u8>(), 0..64), frame in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut record = record;
            if let Some(first) = record.first_mut() {
                *first = 1;
            }
            let mut out = Vec::new();
            let parsed = [VideoKind::H264, VideoKind::Hevc].into_iter().filter_map(|kind| VideoConfig::parse(kind, &record));
            for config in parsed.chain((0..4).map(config)) {
                config.accepts(&frame);
                config.access_unit(&frame, true, |piece| out.extend_from_slice(piece));
            }
        }
    }
}
