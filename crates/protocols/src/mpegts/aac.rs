//! AAC as FLV carries it (an AudioSpecificConfig, then raw frames) to ADTS frames, which transport streams carry.
//!
//! Source: ISO/IEC 14496-3 sections 1.6.2.1 (AudioSpecificConfig) and 1.A.2.2 (ADTS). ADTS names the core coder only: HE-AAC,
//! however it is signalled, is written as its core, in which decoders find SBR and PS by themselves (section 1.6.5). What ADTS
//! cannot say (a program config element, 960-sample frames, odd rates, newer object types) is refused, not guessed.

use braidcast_media::bits::BitReader;
use serde::{Deserialize, Serialize};

/// Bytes of an ADTS header without checksum.
pub const ADTS_HEADER_BYTES: usize = 7;
/// The longest raw AAC frame whose length fits the header's 13 bits.
pub const MAX_FRAME_BYTES: usize = (1 << 13) - 1 - ADTS_HEADER_BYTES;

const OBJECT_TYPE_SBR: u8 = 5;
const OBJECT_TYPE_PS: u8 = 29;
const RATES: [u32; 13] = [96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350];

/// What an ADTS header says of every frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdtsConfig {
    /// Audio object type less one: 0 Main, 1 LC, 2 SSR, 3 LTP.
    profile: u8,
    /// Index of the core coder's sampling rate.
    rate_index: u8,
    /// Channel configuration, 1 to 7.
    channels: u8,
}

impl AdtsConfig {
    /// Reads an AudioSpecificConfig; `None` if it is cut short or says what ADTS cannot.
    pub fn parse(config: &[u8]) -> Option<Self> {
        let mut bits = BitReader::new(config);
        let mut object_type = read_object_type(&mut bits)?;
        let rate_index = read_rate_index(&mut bits)?;
        let channels = bits.read(4)? as u8;
        if matches!(object_type, OBJECT_TYPE_SBR | OBJECT_TYPE_PS) {
            // Explicit hierarchical signalling: the extension's rate, then the core's object type.
            skip_rate(&mut bits)?;
            object_type = read_object_type(&mut bits)?;
        }
        if !(1..=4).contains(&object_type) || !(1..=7).contains(&channels) {
            return None;
        }
        // GASpecificConfig's frameLengthFlag: 960 samples.
        let short_frames = bits.read(1)? == 1;
        (!short_frames).then_some(Self { profile: object_type - 1, rate_index, channels })
    }

    /// Whether a restored configuration is one that can be parsed.
    pub(crate) fn is_sound(&self) -> bool {
        self.profile < 4 && usize::from(self.rate_index) < RATES.len() && (1..=7).contains(&self.channels)
    }

    /// The core coder's sampling rate in Hz.
    pub fn rate(&self) -> u32 {
        RATES.get(usize::from(self.rate_index)).copied().unwrap_or(RATES[4])
    }

    /// The header of a frame of `frame_bytes` raw bytes, at most [`MAX_FRAME_BYTES`].
    pub fn header(&self, frame_bytes: usize) -> [u8; ADTS_HEADER_BYTES] {
        debug_assert!(frame_bytes <= MAX_FRAME_BYTES);
        let length = (frame_bytes + ADTS_HEADER_BYTES) as u16;
        [
            0xff,
            0xf1, // MPEG-4, layer 0, no checksum
            self.profile << 6 | self.rate_index << 2 | self.channels >> 2,
            self.channels << 6 | (length >> 11) as u8 & 3,
            (length >> 3) as u8,
            (length << 5) as u8 | 0x1f, // buffer fullness 0x7ff: variable rate
            0xfc,                       // one raw data block
        ]
    }
}

fn read_object_type(bits: &mut BitReader<'_>) -> Option<u8> {
    match bits.read(5)? {
        31 => Some(32 + bits.read(6)? as u8),
        object_type => Some(object_type as u8),
    }
}

/// A rate that the index table knows, by index or spelt out.
fn read_rate_index(bits: &mut BitReader<'_>) -> Option<u8> {
    match bits.read(4)? {
        15 => {
            let rate = bits.read(24)?;
            RATES.iter().position(|&known| known == rate).map(|index| index as u8)
        }
        index => (index < RATES.len() as u32).then_some(index as u8),
    }
}

fn skip_rate(bits: &mut BitReader<'_>) -> Option<()> {
    if bits.read(4)? == 15 {
        bits.read(24)?;
    }
    Some(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(config: &[u8]) -> Option<(u8, u32, u8)> {
        AdtsConfig::parse(config).map(|c| (c.profile, c.rate(), c.channels))
    }

    #[test]
    fn low_complexity() {
        assert_eq!(parsed(&[0x12, 0x10]), Some((1, 44_100, 2)));
        assert_eq!(parsed(&[0x11, 0x88]), Some((1, 48_000, 1)));
        // 48,000 Hz spelt out: 00010 1111 (24 bits) 0010 000
        assert_eq!(parsed(&[0x17, 0x80, 0x5d, 0xc0, 0x10]), Some((1, 48_000, 2)));
    }

    #[test]
    fn high_efficiency_is_reduced_to_its_core() {
        // Explicit SBR: 00101 0110 0010 0011 00010 000: core 24 kHz, output 48 kHz.
        assert_eq!(parsed(&[0x2b, 0x11, 0x88, 0x00]), Some((1, 24_000, 2)));
        // Explicit PS: 11101 0110 0001 0011 00010 000: core mono.
        assert_eq!(parsed(&[0xeb, 0x09, 0x88, 0x00]), Some((1, 24_000, 1)));
        // Backward compatible: LC at 24 kHz, sync extension 0x2b7 behind it.
        assert_eq!(parsed(&[0x13, 0x10, 0x56, 0xe5, 0x98]), Some((1, 24_000, 2)));
    }

    #[test]
    fn what_adts_cannot_say_is_refused() {
        let cases: [(&str, &[u8]); 6] = [
            ("empty", &[]),
            ("cut short", &[0x12]),
            ("program config element", &[0x12, 0x00]),
            ("960 samples", &[0x12, 0x14]),
            ("error resilient LD, type 23", &[0xba, 0x10]),
            ("reserved rate", &[0x16, 0x90]),
        ];
        for (what, config) in cases {
            assert_eq!(parsed(config), None, "{what}");
        }
    }

    #[test]
    fn the_header_of_a_known_frame() {
        // LC, 44.1 kHz, stereo, 371 bytes in all.
        assert_eq!(AdtsConfig::parse(&[0x12, 0x10]).unwrap().header(364), [0xff, 0xf1, 0x50, 0x80, 0x2e, 0x7f, 0xfc]);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(config in prop::collection::vec(any::<u8>(), 0..12), frame_bytes in 0..=MAX_FRAME_BYTES) {
            if let Some(config) = AdtsConfig::parse(&config) {
                let header = config.header(frame_bytes);
                let length = usize::from(header[3] & 3) << 11 | usize::from(header[4]) << 3 | usize::from(header[5] >> 5);
                prop_assert_eq!(length, frame_bytes + ADTS_HEADER_BYTES);
            }
        }
    }
}
