//! H.264 as FLV carries it (ISO/IEC 14496-15: a configuration record, NAL units behind length fields) to Annex B byte streams.
//!
//! NAL units are copied, never interpreted beyond their type. A frame whose lengths do not add up is refused whole.

use serde::{Deserialize, Serialize};

/// The longest configuration record that is accepted. Real ones have some 50 bytes; each is kept in saved state.
pub const MAX_CONFIG_BYTES: usize = 8192;

const START_CODE: [u8; 4] = [0, 0, 0, 1];
/// NAL unit type 9, primary_pic_type 7: any slice type (H.264 section 7.4.2.4).
const ACCESS_UNIT_DELIMITER: [u8; 6] = [0, 0, 0, 1, 9, 0xf0];
const NAL_TYPE_DELIMITER: u8 = 9;

/// What an AVCDecoderConfigurationRecord says that a byte stream needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AvcConfig {
    /// Bytes of the length field before each NAL unit, 1 to 4.
    length_bytes: u8,
    /// SPS and PPS with start codes.
    parameter_sets: Vec<u8>,
}

impl AvcConfig {
    /// Reads the record (ISO/IEC 14496-15 section 5.3.3.1); `None` if it is cut short, of an unknown version, or longer than
    /// [`MAX_CONFIG_BYTES`]. What follows the picture parameter sets is not needed and ignored.
    pub fn parse(record: &[u8]) -> Option<Self> {
        let [1, _, _, _, length_size, sps_count, sets @ ..] = record else {
            return None;
        };
        if record.len() > MAX_CONFIG_BYTES {
            return None;
        }
        let mut parameter_sets = Vec::new();
        let sets = copy_sets(sets, sps_count & 0x1f, &mut parameter_sets)?;
        let (pps_count, sets) = sets.split_first()?;
        copy_sets(sets, *pps_count, &mut parameter_sets)?;
        Some(Self { length_bytes: (length_size & 3) + 1, parameter_sets })
    }

    /// Whether a restored configuration is one that can be parsed.
    pub(crate) fn is_sound(&self) -> bool {
        (1..=4).contains(&self.length_bytes) && self.parameter_sets.len() <= 2 * MAX_CONFIG_BYTES
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

    /// Appends one access unit: delimiter, parameter sets if it is a keyframe, and the frame's NAL units up to the first
    /// broken one. Delimiters of its own are left out.
    pub fn write_access_unit(&self, out: &mut Vec<u8>, frame: &[u8], keyframe: bool) {
        out.extend_from_slice(&ACCESS_UNIT_DELIMITER);
        if keyframe {
            out.extend_from_slice(&self.parameter_sets);
        }
        for unit in self.units(frame).map_while(|unit| unit) {
            if unit.first().is_some_and(|first| first & 0x1f != NAL_TYPE_DELIMITER) {
                out.extend_from_slice(&START_CODE);
                out.extend_from_slice(unit);
            }
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

fn copy_sets<'a>(mut rest: &'a [u8], count: u8, out: &mut Vec<u8>) -> Option<&'a [u8]> {
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

    fn config(length_size: u8) -> AvcConfig {
        AvcConfig::parse(&[&[1, 0x64, 0, 0x1f, 0xfc | length_size, 0xe1, 0, 3][..], b"\x67sp", &[1, 0, 2], b"\x68p"].concat()).unwrap()
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
            config.write_access_unit(&mut out, &frame, true);
            assert_eq!(out, b"\0\0\0\x01\x09\xf0\0\0\0\x01\x67sp\0\0\0\x01\x68p\0\0\0\x01\x65abc\0\0\0\x01\x65de");
            assert!(!config.accepts(&frame[..frame.len() - 1]), "cut");
        }
    }

    #[test]
    fn broken_records_and_frames_are_refused() {
        for record in
            [&b""[..], &[1], &[0, 0x64, 0, 0x1f, 0xff, 0xe0, 0], &[1, 0x64, 0, 0x1f, 0xff, 0xe1, 0, 9, 1], &[1, 0x64, 0, 0x1f, 0xff, 0xe0]]
        {
            assert_eq!(AvcConfig::parse(record), None, "{record:?}");
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
            for config in AvcConfig::parse(&record).into_iter().chain((0..4).map(config)) {
                config.accepts(&frame);
                config.write_access_unit(&mut out, &frame, true);
            }
        }
    }
}
