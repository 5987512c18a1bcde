//! What a segment says about itself: one MPEG-TS null packet, the last of the segment, from which an index can be rebuilt.
//!
//! Players drop null packets (ISO/IEC 13818-1 section 2.4.3.3), so the segment stays an ordinary TS file. The bytes are
//! described in `docs/formats/segment-info.md`. Reading never panics and never trusts a packet whose checksum is wrong.

use serde::{Deserialize, Serialize};

/// Bytes of a transport stream packet, and so of a [`SegmentInfo`] packet.
pub const PACKET_BYTES: usize = 188;
/// The longest stream name that a packet holds, in bytes.
pub const MAX_NAME_BYTES: usize = CRC_AT - NAME_AT;
/// The version that [`SegmentInfo::to_packet`] writes.
pub const VERSION: u8 = 1;

const TS_HEADER: [u8; 4] = [0x47, 0x1f, 0xff, 0x10];
const MAGIC: [u8; 8] = *b"BRAIDSEG";
const MAGIC_AT: usize = 4;
const VERSION_AT: usize = 12;
const FLAGS_AT: usize = 13;
const NAME_LENGTH_AT: usize = 14;
const NUMBERS_AT: usize = 16;
const NAME_AT: usize = NUMBERS_AT + 7 * 8;
const CRC_AT: usize = PACKET_BYTES - 4;

const FLAG_DISCONTINUITY: u8 = 1;
const FLAG_INDEPENDENT: u8 = 2;

/// A finished segment: which one it is, of which stream, and which part of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentInfo {
    /// `vhost/app/stream`. A packet holds its first [`MAX_NAME_BYTES`] bytes, cut at a character.
    pub stream: String,
    /// The segment's number, which is also its file's name; one more than the segment before it.
    pub number: u64,
    /// Exact duration in 1/90,000 s: `media_end_90k - media_start_90k`.
    pub duration_90k: u64,
    /// Media time at which the segment starts, in 1/90,000 s, not wrapped at 33 bits.
    pub media_start_90k: u64,
    /// Media time at which the segment ends: the start of the next one, unless a discontinuity lies between.
    pub media_end_90k: u64,
    /// Wall clock of the segment's first record, in Unix milliseconds.
    pub wall_start_ms: u64,
    /// Wall clock at the segment's end, in Unix milliseconds. Clocks step: it may lie before the start.
    pub wall_end_ms: u64,
    /// This segment does not continue the one before it (`EXT-X-DISCONTINUITY` stands before it).
    pub discontinuity: bool,
    /// How many discontinuities the stream has had, this segment's own included.
    pub discontinuity_sequence: u64,
    /// A player can start with this segment: it begins with a keyframe, or the stream has no video.
    pub independent: bool,
}

impl SegmentInfo {
    /// The null packet that ends the segment.
    pub fn to_packet(&self) -> [u8; PACKET_BYTES] {
        let name = &self.stream.as_bytes()[..self.stream.floor_char_boundary(MAX_NAME_BYTES)];
        let mut packet = [0; PACKET_BYTES];
        packet[..MAGIC_AT].copy_from_slice(&TS_HEADER);
        packet[MAGIC_AT..VERSION_AT].copy_from_slice(&MAGIC);
        packet[VERSION_AT] = VERSION;
        packet[FLAGS_AT] = (u8::from(self.discontinuity) * FLAG_DISCONTINUITY) | (u8::from(self.independent) * FLAG_INDEPENDENT);
        packet[NAME_LENGTH_AT] = name.len() as u8;
        let numbers = [
            self.number,
            self.duration_90k,
            self.media_start_90k,
            self.media_end_90k,
            self.wall_start_ms,
            self.wall_end_ms,
            self.discontinuity_sequence,
        ];
        for (place, number) in packet[NUMBERS_AT..NAME_AT].chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_be_bytes());
        }
        packet[NAME_AT..NAME_AT + name.len()].copy_from_slice(name);
        let crc = crc32fast::hash(&packet[..CRC_AT]);
        packet[CRC_AT..].copy_from_slice(&crc.to_be_bytes());
        packet
    }

    /// Reads the packet; `None` if it is not one of ours, of a version we do not know, or damaged.
    pub fn from_packet(packet: &[u8]) -> Option<Self> {
        let packet: &[u8; PACKET_BYTES] = packet.try_into().ok()?;
        let ours = packet[..MAGIC_AT] == TS_HEADER && packet[MAGIC_AT..VERSION_AT] == MAGIC && packet[VERSION_AT] == VERSION;
        if !ours || crc32fast::hash(&packet[..CRC_AT]).to_be_bytes() != packet[CRC_AT..] {
            return None;
        }
        let number = |index: usize| {
            let at = NUMBERS_AT + index * 8;
            u64::from_be_bytes(packet[at..at + 8].try_into().expect("eight bytes"))
        };
        let name = packet[NAME_AT..CRC_AT].get(..usize::from(packet[NAME_LENGTH_AT]))?;
        Some(Self {
            stream: std::str::from_utf8(name).ok()?.to_owned(),
            number: number(0),
            duration_90k: number(1),
            media_start_90k: number(2),
            media_end_90k: number(3),
            wall_start_ms: number(4),
            wall_end_ms: number(5),
            discontinuity: packet[FLAGS_AT] & FLAG_DISCONTINUITY != 0,
            discontinuity_sequence: number(6),
            independent: packet[FLAGS_AT] & FLAG_INDEPENDENT != 0,
        })
    }

    /// Whether bytes, as far as they go, begin as a packet of ours does: one that was cut short or damaged while it was written.
    pub fn begins(bytes: &[u8]) -> bool {
        TS_HEADER.iter().chain(&MAGIC).zip(bytes).all(|(ours, byte)| ours == byte) && !bytes.is_empty()
    }

    /// Reads the packet at the end of a segment's bytes.
    pub fn of_segment(segment: &[u8]) -> Option<Self> {
        Self::from_packet(segment.last_chunk::<PACKET_BYTES>()?)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn info(stream: String) -> SegmentInfo {
        SegmentInfo {
            stream,
            number: 0x0102_0304_0506_0708,
            duration_90k: 360_000,
            media_start_90k: 1 << 40,
            media_end_90k: (1 << 40) + 360_000,
            wall_start_ms: 1_790_000_000_000,
            wall_end_ms: 1_790_000_004_000,
            discontinuity: true,
            discontinuity_sequence: 7,
            independent: false,
        }
    }

    #[test]
    fn the_bytes_are_those_of_the_document() {
        let packet = info("v/live/a".into()).to_packet();
        assert_eq!(packet[..16], *b"\x47\x1f\xff\x10BRAIDSEG\x01\x01\x08\x00");
        assert_eq!(packet[16..24], [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(packet[64..80], *b"\0\0\0\0\0\0\0\x07v/live/a");
        assert!(packet[80..184].iter().all(|&b| b == 0));
    }

    #[test]
    fn a_packet_that_was_cut_short_is_known_by_its_beginning() {
        let packet = info("v/live/a".into()).to_packet();
        assert!((1..=PACKET_BYTES).all(|cut| SegmentInfo::begins(&packet[..cut])));
        assert!(
            !SegmentInfo::begins(b"") && !SegmentInfo::begins(b"\x47\x40\x00\x10") && !SegmentInfo::begins(b"\x47\x1f\xff\x10BRAIDSEX")
        );
    }

    #[test]
    fn a_changed_bit_anywhere_is_noticed() {
        let packet = info("v/live/a".into()).to_packet();
        for bit in 0..packet.len() * 8 {
            let mut damaged = packet;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentInfo::from_packet(&damaged), None, "bit {bit}");
        }
    }

    #[test]
    fn a_long_name_is_cut_at_a_character() {
        let read = SegmentInfo::from_packet(&info("é".repeat(200)).to_packet()).unwrap();
        assert_eq!(read.stream, "é".repeat(MAX_NAME_BYTES / 2));
        let read = SegmentInfo::from_packet(&info(format!("x{}", "é".repeat(200))).to_packet()).unwrap();
        assert_eq!(read.stream.len(), MAX_NAME_BYTES - 1);
    }

    proptest! {
        #[test]
        fn packets_round_trip(stream in ".{0,28}", numbers: [u64; 7], discontinuity: bool, independent: bool) {
            let [number, duration_90k, media_start_90k, media_end_90k, wall_start_ms, wall_end_ms, discontinuity_sequence] = numbers;
            let info = SegmentInfo {
                stream, number, duration_90k, media_start_90k, media_end_90k, wall_start_ms, wall_end_ms,
                discontinuity, discontinuity_sequence, independent,
            };
            prop_assert_eq!(SegmentInfo::from_packet(&info.to_packet()), Some(info));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = SegmentInfo::of_segment(&bytes);
        }
    }
}
