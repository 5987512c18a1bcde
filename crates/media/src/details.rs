//! What a sequence header says of its track for people to read: profile and level, size of the picture, sampling rate and channels.
//!
//! Sources: ISO/IEC 14496-15 sections 5.3.3.1 and 8.3.3.1 for the configuration records, H.264 section 7.3.2.1.1 and H.265 section
//! 7.3.2.2 for sequence parameter sets, the AV1 bindings' `av1C`, ISO/IEC 14496-3 section 1.6.2.1 for AudioSpecificConfig, RFC 7845 section
//! 5.1 for Opus. Nothing is decoded with these numbers: what cannot be read is left out.

use crate::annex_b::{hevc_chroma_and_size, without_prevention};
use crate::bits::BitReader;
use crate::tag::Codec;

/// Of a video track.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Video {
    /// `profile_idc`, `general_profile_idc`, `seq_profile`.
    pub profile: u8,
    /// `level_idc` (40: level 4), `general_level_idc` (120: level 4), `seq_level_idx_0`.
    pub level: u8,
    /// The profile's constraints: `constraint_set` flags of H.264; else 0.
    pub constraints: u8,
    /// Width and height in pixels; `None`: it could not be read.
    pub size: Option<(u32, u32)>,
}

/// Of an audio track.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Audio {
    /// Hz.
    pub rate: u32,
    /// Channels.
    pub channels: u8,
    /// AAC: the audio object type, SBR (5) and PS (29) if they are said; else 0.
    pub object_type: u8,
}

/// Reads a video track's configuration record. `None`: the codec has none that is known here, or it is cut short.
pub fn video(codec: Codec, record: &[u8]) -> Option<Video> {
    match codec {
        Codec::H264 => {
            let [_, profile, constraints, level, _, sets, length @ ..] = record else { return None };
            let sps = (sets & 0x1f > 0).then(|| prefixed(length)).flatten();
            let size = sps.and_then(h264_size);
            Some(Video { profile: *profile, level: *level, constraints: *constraints, size })
        }
        Codec::Hevc => {
            let (profile, level) = (record.get(1)? & 0x1f, *record.get(12)?);
            Some(Video { profile, level, constraints: 0, size: hevc_sps(record).and_then(hevc_size) })
        }
        Codec::Av1 => {
            let packed = *record.get(1)?;
            Some(Video { profile: packed >> 5, level: packed & 0x1f, constraints: 0, size: None })
        }
        _ => None,
    }
}

/// Reads an audio track's configuration: AudioSpecificConfig, or the header of Opus. `None` as for [`video`].
pub fn audio(codec: Codec, header: &[u8]) -> Option<Audio> {
    match codec {
        Codec::Aac => aac(header),
        Codec::Opus => {
            let rest = header.strip_prefix(b"OpusHead")?;
            Some(Audio { rate: 48_000, channels: *rest.get(1)?, object_type: 0 })
        }
        _ => None,
    }
}

/// What the first byte of a legacy audio tag says (FLV 10.1 annex E.4.2.1): for codecs without a configuration.
pub fn legacy_audio(first: u8) -> Audio {
    let rate = match first >> 4 {
        // MP3 at 8 kHz, Nellymoser at 16 and 8, G.711, Speex.
        14 | 5 | 7 | 8 => 8_000,
        4 | 11 => 16_000,
        _ => [5_512, 11_025, 22_050, 44_100][usize::from(first >> 2 & 3)],
    };
    Audio { rate, channels: 1 + (first & 1), object_type: 0 }
}

/// What follows a length of two bytes.
fn prefixed(bytes: &[u8]) -> Option<&[u8]> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    rest.get(..usize::from(u16::from_be_bytes(*length)))
}

/// The first sequence parameter set in the arrays of an HEVCDecoderConfigurationRecord.
fn hevc_sps(record: &[u8]) -> Option<&[u8]> {
    const SPS: u8 = 33;
    let (&arrays, mut rest) = record.get(22..)?.split_first()?;
    for _ in 0..arrays {
        let (head, units) = rest.split_first_chunk::<3>()?;
        rest = units;
        for _ in 0..u16::from_be_bytes([head[1], head[2]]) {
            let unit = prefixed(rest)?;
            if head[0] & 0x3f == SPS {
                return Some(unit);
            }
            rest = &rest[2 + unit.len()..];
        }
    }
    None
}

fn h264_size(sps: &[u8]) -> Option<(u32, u32)> {
    let bytes = without_prevention(sps, 1);
    let mut bits = BitReader::new(&bytes);
    let profile = bits.read(8)?;
    bits.skip(16)?;
    bits.exp_golomb()?;
    let (mut chroma, mut separate) = (1, 0);
    if matches!(profile, 100 | 110 | 122 | 244 | 44 | 83 | 86 | 118 | 128 | 138 | 139 | 134 | 135) {
        chroma = bits.exp_golomb()?;
        if chroma == 3 {
            separate = bits.read(1)?;
        }
        bits.exp_golomb()?;
        bits.exp_golomb()?;
        bits.skip(1)?;
        if bits.read(1)? == 1 {
            for list in 0..if chroma == 3 { 12 } else { 8 } {
                if bits.read(1)? == 1 {
                    skip_scaling_list(&mut bits, if list < 6 { 16 } else { 64 })?;
                }
            }
        }
    }
    bits.exp_golomb()?;
    match bits.exp_golomb()? {
        0 => _ = bits.exp_golomb()?,
        1 => {
            bits.skip(1)?;
            bits.exp_golomb()?;
            bits.exp_golomb()?;
            for _ in 0..bits.exp_golomb()?.min(255) {
                bits.exp_golomb()?;
            }
        }
        _ => {}
    }
    bits.exp_golomb()?;
    bits.skip(1)?;
    let (columns, rows) = (bits.exp_golomb()?, bits.exp_golomb()?);
    let whole_frames = bits.read(1)?;
    if whole_frames == 0 {
        bits.skip(1)?;
    }
    bits.skip(1)?;
    let width = columns.checked_add(1)?.checked_mul(16)?;
    let height = rows.checked_add(1)?.checked_mul(16 * (2 - whole_frames))?;
    if bits.read(1)? == 0 {
        return Some((width, height));
    }
    // CropUnitX and CropUnitY (H.264 equations 7-19 to 7-22).
    let subsampled = if separate == 1 { 0 } else { chroma };
    let unit = match subsampled {
        1 => (2, 2 * (2 - whole_frames)),
        2 => (2, 2 - whole_frames),
        _ => (1, 2 - whole_frames),
    };
    cropped(&mut bits, (width, height), unit)
}

fn skip_scaling_list(bits: &mut BitReader<'_>, size: u32) -> Option<()> {
    let (mut last, mut next) = (8i64, 8i64);
    for _ in 0..size {
        if next != 0 {
            let code = i64::from(bits.exp_golomb()?);
            // se(v), H.264 section 9.1.1.
            let delta = if code % 2 == 1 { (code + 1) / 2 } else { -(code / 2) };
            next = (last + delta).rem_euclid(256);
        }
        last = if next == 0 { last } else { next };
    }
    Some(())
}

fn hevc_size(sps: &[u8]) -> Option<(u32, u32)> {
    let bytes = without_prevention(sps, 2);
    let mut bits = BitReader::new(&bytes);
    bits.skip(4)?;
    let sub_layers = bits.read(3)?;
    bits.skip(1 + 96)?;
    let (chroma, size) = hevc_chroma_and_size(&mut bits, sub_layers)?;
    if bits.read(1)? == 0 {
        return Some(size);
    }
    // SubWidthC and SubHeightC (H.265 table 6-1).
    let unit = match chroma {
        1 => (2, 2),
        2 => (2, 1),
        _ => (1, 1),
    };
    cropped(&mut bits, size, unit)
}

/// The picture less what is cropped: left, right, top, bottom, in units.
fn cropped(bits: &mut BitReader<'_>, (width, height): (u32, u32), unit: (u32, u32)) -> Option<(u32, u32)> {
    let [left, right, top, bottom] = [bits.exp_golomb()?, bits.exp_golomb()?, bits.exp_golomb()?, bits.exp_golomb()?];
    let less = |from: u32, a: u32, b: u32, unit: u32| from.checked_sub(a.checked_add(b)?.checked_mul(unit)?);
    Some((less(width, left, right, unit.0)?, less(height, top, bottom, unit.1)?))
}

fn aac(config: &[u8]) -> Option<Audio> {
    const RATES: [u32; 13] = [96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350];
    let mut bits = BitReader::new(config);
    let mut object_type = bits.read(5)?;
    if object_type == 31 {
        object_type = 32 + bits.read(6)?;
    }
    let rate = match bits.read(4)? {
        15 => bits.read(24)?,
        index => *RATES.get(index as usize)?,
    };
    let channels = match bits.read(4)? {
        7 => 8,
        configuration => configuration as u8,
    };
    Some(Audio { rate, channels, object_type: object_type as u8 })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn avc(sps: &[u8]) -> Vec<u8> {
        let [_, profile, constraints, level, ..] = *sps else { panic!("no parameter set") };
        [&[1, profile, constraints, level, 0xff, 0xe1, 0, sps.len() as u8], sps, &[1, 0, 0]].concat()
    }

    #[test]
    fn h264_of_x264() {
        // High, 320x180: cropped from 192 rows.
        let high = video(Codec::H264, &avc(&[0x67, 0x64, 0, 0x0c, 0xac, 0xd9, 0x41, 0x41, 0x9f, 0x9f, 0x01, 0x10])).unwrap();
        assert_eq!((high.profile, high.level, high.size), (100, 12, Some((320, 180))));
        // Constrained baseline, 160x120.
        let baseline = video(Codec::H264, &avc(&[0x67, 0x42, 0xc0, 0x0a, 0xda, 0x0a, 0x1f, 0xb0, 0x11, 0, 0, 3, 0, 1])).unwrap();
        assert_eq!((baseline.profile, baseline.level, baseline.constraints), (66, 10, 0xc0));
        assert_eq!(video(Codec::H264, &[1, 77, 0, 31, 0xff, 0xe0]).unwrap().size, None);
        assert_eq!(video(Codec::H264, &[1, 77, 0]), None);
    }

    #[test]
    fn sound_of_all_kinds() {
        assert_eq!(audio(Codec::Aac, &[0x12, 0x10]), Some(Audio { rate: 44_100, channels: 2, object_type: 2 }));
        assert_eq!(audio(Codec::Aac, &[0x11, 0x90]), Some(Audio { rate: 48_000, channels: 2, object_type: 2 }));
        assert_eq!(audio(Codec::Opus, b"OpusHead\x01\x02\x38\x01"), Some(Audio { rate: 48_000, channels: 2, object_type: 0 }));
        assert_eq!(audio(Codec::Aac, &[0x12]), None);
        assert_eq!(legacy_audio(0x2f), Audio { rate: 44_100, channels: 2, object_type: 0 });
        assert_eq!(legacy_audio(0xbe).rate, 16_000);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120), profile: u8) {
            for codec in [Codec::H264, Codec::Hevc, Codec::Av1, Codec::Aac, Codec::Opus, Codec::Flac] {
                let (_, _) = (video(codec, &bytes), audio(codec, &bytes));
            }
            let sps = [&[0x67, profile, 0, 30], &bytes[..]].concat();
            let _ = video(Codec::H264, &avc(&sps));
            let _ = hevc_size(&bytes);
        }
    }
}
