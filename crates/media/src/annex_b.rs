//! H.264 and H.265 that an encoder sent as a byte stream (start codes between NAL units, ITU-T H.264 and H.265 annex B) where FLV wants
//! lengths before them and a configuration record ahead: turned into that, because no player decodes the other.
//!
//! Each tag is looked at alone, so nothing has to be remembered. A tag that is as it should be costs a look at its first bytes.
//! Sources: ISO/IEC 14496-15 for the configuration records, H.264 section 7.3.2.1.1 and H.265 section 7.3.2.2 for what they repeat of a
//! sequence parameter set.

use crate::RecordKind;
use crate::bits::BitReader;
use crate::tag::{Codec, Content, tracks};

/// Parameter sets of a kind that a configuration takes; the record counts more, no encoder has more.
const MAX_SETS: usize = 16;
/// Bytes of a sequence parameter set that are looked at.
const LOOKED_AT_BYTES: usize = 256;

/// What takes the place of a tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Converted<'a> {
    /// The sequence header that the parameter sets in the tag make, if they are all there.
    pub sequence_header: Option<Vec<u8>>,
    /// Those parameter sets. A decoder that is configured with just these needs no new header.
    pub parameter_sets: Vec<&'a [u8]>,
    /// The frame, with lengths; `None` if there is nothing in the tag but parameter sets.
    pub frame: Option<Vec<u8>>,
}

/// Converts the payload of a video tag that holds a byte stream; `None` for any other. Tags with tracks or modifiers are left alone:
/// encoders that know them know better.
pub fn convert(payload: &[u8]) -> Option<Converted<'_>> {
    let mut all = tracks(RecordKind::Video, payload);
    let tag = all.next()?;
    let family = Family::of(tag.codec)?;
    let from = payload.len().checked_sub(tag.body.len())?;
    let head = payload.get(..from)?;
    if !is_byte_stream(tag.body) || from > LONGEST_HEAD || !matches!(tag.content, Content::SequenceHeader | Content::Frame) {
        return None;
    }
    let units = || units(tag.body).filter(|unit| !unit.is_empty());
    let parameter_sets: Vec<&[u8]> = units().filter(|unit| family.set_place(unit).is_some()).collect();
    let record = family.configuration(&parameter_sets);
    let has_frame = tag.content == Content::Frame && units().any(|unit| family.is_picture(unit));
    let frame = has_frame.then(|| {
        let mut frame = Vec::with_capacity(payload.len() + 16);
        frame.extend_from_slice(head);
        for unit in units() {
            frame.extend_from_slice(&(unit.len() as u32).to_be_bytes());
            frame.extend_from_slice(unit);
        }
        frame
    });
    let sequence_header = record.map(|record| [&sequence_head(payload)[..], &record].concat());
    Some(Converted { sequence_header, parameter_sets, frame })
}

/// The longest head of a tag without tracks: first byte, FourCC, composition time.
const LONGEST_HEAD: usize = 8;

/// How the sequence header's tag begins, given a tag of the same stream: legacy with codec id and an empty composition time, enhanced
/// with the FourCC.
fn sequence_head(payload: &[u8]) -> [u8; 5] {
    match *payload {
        [first, c0, c1, c2, c3, ..] if first & 0x80 != 0 => [0x90, c0, c1, c2, c3],
        [first, ..] => [0x10 | (first & 0x0f), 0, 0, 0, 0],
        [] => [0; 5],
    }
}

/// Whether NAL units are told apart by start codes. Lengths of four bytes look like one at times, and then fill the body exactly.
fn is_byte_stream(body: &[u8]) -> bool {
    let unit = match body {
        [0, 0, 0, 1, unit, ..] | [0, 0, 1, unit, ..] => *unit,
        _ => return false,
    };
    // The forbidden bit of every NAL unit is 0.
    unit & 0x80 == 0 && !lengths_fill(body)
}

fn lengths_fill(mut body: &[u8]) -> bool {
    while let Some((length, rest)) = body.split_first_chunk::<4>() {
        let Some(rest) = rest.get(u32::from_be_bytes(*length) as usize..) else { return false };
        body = rest;
    }
    body.is_empty()
}

/// The NAL units between start codes, without the zeros that may stand before one.
fn units(body: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(body);
    std::iter::from_fn(move || {
        let from = rest?;
        let next = start_code(from);
        rest = next.map(|at| &from[at + 3..]);
        let unit = &from[..next.unwrap_or(from.len())];
        let zeros = unit.iter().rev().take_while(|byte| **byte == 0).count();
        Some(&unit[..unit.len() - zeros])
    })
}

/// Where the next start code stands.
fn start_code(bytes: &[u8]) -> Option<usize> {
    let mut from = 2;
    loop {
        let one = from + bytes.get(from..)?.iter().position(|byte| *byte <= 1)?;
        match bytes[one] {
            1 if bytes[one - 2..one] == [0, 0] => return Some(one - 2),
            _ => from = one + 1,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    Avc,
    Hevc,
}

impl Family {
    fn of(codec: Codec) -> Option<Self> {
        match codec {
            Codec::H264 => Some(Self::Avc),
            Codec::Hevc => Some(Self::Hevc),
            _ => None,
        }
    }

    /// `nal_unit_type`.
    fn unit_type(self, unit: &[u8]) -> u8 {
        let first = unit.first().copied().unwrap_or(0);
        if self == Self::Avc { first & 0x1f } else { first >> 1 & 0x3f }
    }

    /// The place of a parameter set in a configuration; `None` for any other unit.
    fn set_place(self, unit: &[u8]) -> Option<usize> {
        match (self, self.unit_type(unit)) {
            (Self::Avc, 7) | (Self::Hevc, 32) => Some(0),
            (Self::Avc, 8) | (Self::Hevc, 33) => Some(1),
            (Self::Hevc, 34) => Some(2),
            _ => None,
        }
    }

    /// Whether it is a slice.
    fn is_picture(self, unit: &[u8]) -> bool {
        match self {
            Self::Avc => matches!(self.unit_type(unit), 1..=5),
            Self::Hevc => self.unit_type(unit) < 32,
        }
    }

    /// The configuration record; `None` unless there is at least one parameter set of each kind.
    fn configuration(self, sets: &[&[u8]]) -> Option<Vec<u8>> {
        let of = |place| {
            sets.iter().copied().filter(move |set| self.set_place(set) == Some(place) && set.len() <= usize::from(u16::MAX)).take(MAX_SETS)
        };
        let kinds = if self == Self::Avc { 2 } else { 3 };
        if (0..kinds).any(|place| of(place).next().is_none()) {
            return None;
        }
        let mut record = Vec::new();
        match self {
            Self::Avc => {
                let sps = of(0).next()?;
                let &[_, profile, compatibility, level, ..] = sps else { return None };
                record.extend([1, profile, compatibility, level, 0xff, 0xe0 | of(0).count() as u8]);
                write_sets(&mut record, of(0));
                record.push(of(1).count() as u8);
                write_sets(&mut record, of(1));
                record.extend(avc_extension(sps, profile).into_iter().flatten());
            }
            Self::Hevc => {
                record = hevc_head(of(1).next()?)?;
                record.push(kinds as u8);
                for place in 0..kinds {
                    record.extend([0x80 | (32 + place as u8), 0, of(place).count() as u8]);
                    write_sets(&mut record, of(place));
                }
            }
        }
        Some(record)
    }
}

fn write_sets<'a>(record: &mut Vec<u8>, sets: impl Iterator<Item = &'a [u8]>) {
    for set in sets {
        record.extend_from_slice(&(set.len() as u16).to_be_bytes());
        record.extend_from_slice(set);
    }
}

/// What the record of the High profiles says besides: chroma format and bit depths.
fn avc_extension(sps: &[u8], profile: u8) -> Option<[u8; 4]> {
    if matches!(profile, 66 | 77 | 88) {
        return None;
    }
    let bytes = without_prevention(sps, 4);
    let mut bits = BitReader::new(&bytes);
    bits.exp_golomb()?;
    let chroma = bits.exp_golomb()?;
    if chroma == 3 {
        bits.read(1)?;
    }
    let (luma, colour) = (bits.exp_golomb()?, bits.exp_golomb()?);
    Some([0xfc | (chroma & 3) as u8, 0xf8 | (luma & 7) as u8, 0xf8 | (colour & 7) as u8, 0])
}

/// An HEVCDecoderConfigurationRecord (ISO/IEC 14496-15 section 8.3.3.1.2) up to its arrays.
fn hevc_head(sps: &[u8]) -> Option<Vec<u8>> {
    let bytes = without_prevention(sps, 2);
    let mut bits = BitReader::new(&bytes);
    bits.read(4)?;
    let sub_layers = bits.read(3)?;
    let nested = bits.read(1)?;
    let mut record = vec![1];
    for _ in 0..12 {
        record.push(bits.read(8)? as u8);
    }
    let (chroma, _) = hevc_chroma_and_size(&mut bits, sub_layers)?;
    if bits.read(1)? == 1 {
        for _ in 0..4 {
            bits.exp_golomb()?;
        }
    }
    let (luma, colour) = (bits.exp_golomb()?, bits.exp_golomb()?);
    // No spatial segmentation, parallelism and frame rate are said to be unknown; lengths have four bytes.
    record.extend([0xf0, 0, 0xfc, 0xfc | (chroma & 3) as u8, 0xf8 | (luma & 7) as u8, 0xf8 | (colour & 7) as u8, 0, 0]);
    record.push((sub_layers as u8 + 1) << 3 | (nested as u8) << 2 | 3);
    Some(record)
}

/// What an H.265 sequence parameter set says behind its general profile and level: `chroma_format_idc`, and the size before it is cropped
/// (H.265 sections 7.3.2.2.1 and 7.3.3). `sub_layers` is `sps_max_sub_layers_minus1`.
pub(crate) fn hevc_chroma_and_size(bits: &mut BitReader<'_>, sub_layers: u32) -> Option<(u32, (u32, u32))> {
    let present: Vec<(u32, u32)> = (0..sub_layers).map(|_| Some((bits.read(1)?, bits.read(1)?))).collect::<Option<_>>()?;
    if sub_layers > 0 {
        bits.skip(2 * (8 - sub_layers))?;
    }
    for (profile, level) in present {
        bits.skip(88 * profile + 8 * level)?;
    }
    bits.exp_golomb()?;
    let chroma = bits.exp_golomb()?;
    if chroma == 3 {
        bits.skip(1)?;
    }
    Some((chroma, (bits.exp_golomb()?, bits.exp_golomb()?)))
}

/// The bytes of a parameter set behind its header, emulation prevention taken out.
pub(crate) fn without_prevention(unit: &[u8], header_bytes: usize) -> Vec<u8> {
    let (mut bytes, mut zeros) = (Vec::new(), 0);
    for &byte in unit.iter().skip(header_bytes).take(LOOKED_AT_BYTES) {
        if zeros >= 2 && byte == 3 {
            zeros = 0;
            continue;
        }
        zeros = if byte == 0 { zeros + 1 } else { 0 };
        bytes.push(byte);
    }
    bytes
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Of x264, High profile, 320x180.
    const SPS: &[u8] = &[0x67, 0x64, 0x00, 0x0c, 0xac, 0xd9, 0x41, 0x41, 0x9f, 0x9f, 0x01, 0x10];
    const PPS: &[u8] = &[0x68, 0xeb, 0xe3, 0xcb];

    fn stream(units: &[&[u8]]) -> Vec<u8> {
        units.iter().flat_map(|unit| [&[0, 0, 0, 1], *unit].concat()).collect()
    }

    fn tag(head: &[u8], body: &[u8]) -> Vec<u8> {
        [head, body].concat()
    }

    fn record() -> Vec<u8> {
        let sets = [&[1, 0x64, 0, 0x0c, 0xff, 0xe1, 0, 12][..], SPS, &[1, 0, 4], PPS].concat();
        [sets, vec![0xfd, 0xf8, 0xf8, 0]].concat()
    }

    #[test]
    fn a_keyframe_gives_a_header_and_a_frame() {
        let body = stream(&[&[9, 0xf0], SPS, PPS, &[0x65, 1, 2, 0, 0, 3, 1]]);
        let payload = tag(&[0x17, 1, 0, 0, 40], &body);
        let converted = convert(&payload).unwrap();
        assert_eq!(converted.sequence_header, Some(tag(&[0x17, 0, 0, 0, 0], &record())));
        assert_eq!(converted.parameter_sets, [SPS, PPS]);
        let lengths = [&[0, 0, 0, 2, 9, 0xf0, 0, 0, 0, 12][..], SPS, &[0, 0, 0, 4], PPS, &[0, 0, 0, 7, 0x65, 1, 2, 0, 0, 3, 1]].concat();
        assert_eq!(converted.frame.as_deref(), Some(&tag(&[0x17, 1, 0, 0, 40], &lengths)[..]));
        assert_eq!(convert(&tag(&[0x17, 1, 0, 0, 40], &lengths)), None, "what was converted is as it should be");
    }

    #[test]
    fn short_start_codes_trailing_zeros_and_enhanced_tags() {
        let payload = tag(b"\xa1avc1\0\0\x28", &[0, 0, 1, 0x41, 7, 0, 0, 0, 1, 0x41, 8, 0]);
        let converted = convert(&payload).unwrap();
        assert_eq!((converted.sequence_header, converted.parameter_sets.len()), (None, 0));
        assert_eq!(converted.frame.as_deref(), Some(&b"\xa1avc1\0\0\x28\0\0\0\x02\x41\x07\0\0\0\x02\x41\x08"[..]));
        let header = tag(b"\x90avc1", &stream(&[SPS, PPS]));
        let converted = convert(&header).unwrap();
        assert_eq!((converted.sequence_header, converted.frame), (Some(tag(b"\x90avc1", &record())), None));
    }

    #[test]
    fn lengths_that_look_like_start_codes_are_lengths() {
        // A unit of 0x141 bytes: its length begins like a short start code.
        let long = [&[0, 0, 1, 0x41][..], &[0x41; 0x141]].concat();
        // An end of sequence of one byte.
        let short = [&[0, 0, 0, 1, 10][..], &[0, 0, 0, 2, 0x41, 1]].concat();
        for body in [&long[..], &short, &[0, 0, 0, 1, 0xff], &[0, 0], &[]] {
            assert_eq!(convert(&tag(&[0x27, 1, 0, 0, 0], body)), None, "{body:x?}");
        }
        assert_eq!(convert(&tag(&[0x22], &stream(&[SPS, PPS]))), None, "not a codec with NAL units");
        assert_eq!(convert(&tag(b"\x96\x01avc1\0", &stream(&[SPS, PPS]))), None, "a tag with tracks");
    }

    #[test]
    fn hevc_has_a_record_of_its_own() {
        // Of x265, Main profile, 320x180.
        let vps: &[u8] = &[
            0x40, 0x01, 0x0c, 0x01, 0xff, 0xff, 0x01, 0x60, 0x00, 0x00, 0x03, 0x00, 0x90, 0x00, 0x00, 0x03, 0x00, 0x00, 0x03, 0x00, 0x3c,
            0x95, 0x98, 0x09,
        ];
        let sps: &[u8] = &[
            0x42, 0x01, 0x01, 0x01, 0x60, 0x00, 0x00, 0x03, 0x00, 0x90, 0x00, 0x00, 0x03, 0x00, 0x00, 0x03, 0x00, 0x3c, 0xa0, 0x0a, 0x08,
            0x0b, 0x9f, 0x79, 0x65,
        ];
        let pps: &[u8] = &[0x44, 0x01, 0xc1, 0x72, 0xb4, 0x62, 0x40];
        let payload = tag(&[0x1c, 1, 0, 0, 0], &stream(&[vps, sps, pps, &[0x26, 1, 0xaf]]));
        let header = convert(&payload).unwrap().sequence_header.unwrap();
        assert_eq!(header[..5], [0x1c, 0, 0, 0, 0]);
        assert_eq!(header[5..18], [1, 1, 0x60, 0, 0, 0, 0x90, 0, 0, 0, 0, 0, 0x3c]);
        assert_eq!(header[18..28], [0xf0, 0, 0xfc, 0xfd, 0xf8, 0xf8, 0, 0, 0x0f, 3]);
        assert_eq!(header[28..33], [0xa0, 0, 1, 0, 24]);
        assert_eq!(convert(&tag(&[0x1c, 1, 0, 0, 0], &stream(&[sps, pps, &[0x26, 1, 0xaf]]))).unwrap().sequence_header, None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(head in prop::sample::select(vec![&b"\x17\0\0\0\0"[..], b"\x1c\x01\0\0\0", b"\x90hvc1", b"\xa3avc1"]), body in prop::collection::vec(prop_oneof![3 => 0u8..2, 1 => any::<u8>()], 0..200)) {
            if let Some(Converted { frame: Some(frame), .. }) = convert(&tag(head, &[&[0, 0, 0, 1], &body[..]].concat())) {
                prop_assert_eq!(convert(&frame), None);
            }
        }

        #[test]
        fn units_come_out_as_they_went_in(units in prop::collection::vec(prop::collection::vec(2u8..128, 1..50), 1..8)) {
            let units: Vec<&[u8]> = units.iter().map(Vec::as_slice).collect();
            let body = stream(&units);
            prop_assert_eq!(super::units(&body).filter(|unit| !unit.is_empty()).collect::<Vec<_>>(), units);
        }
    }
}
