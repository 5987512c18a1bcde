//! Cutting a PES packet or a table section into transport stream packets (ISO/IEC 13818-1 section 2.4.3).
//!
//! It never keeps bytes: whoever calls owns the output and the continuity counter.

use serde::{Deserialize, Serialize};

/// Bytes of a transport stream packet.
pub const PACKET_BYTES: usize = 188;
/// Bytes of a packet after its four-byte header.
const BODY_BYTES: usize = PACKET_BYTES - 4;

const SYNC: u8 = 0x47;
const UNIT_START: u8 = 0x40;
const HAS_ADAPTATION: u8 = 0x20;
const HAS_PAYLOAD: u8 = 0x10;
const DISCONTINUITY: u8 = 0x80;
const RANDOM_ACCESS: u8 = 0x40;
const PCR_PRESENT: u8 = 0x10;

/// The continuity counter of a PID.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Counter {
    /// Of the next packet with payload, modulo 16.
    next: u8,
    /// The next packet is to say that its counter does not continue what was.
    broken: bool,
}

impl Counter {
    /// Starts at zero, whatever was sent before.
    pub(super) fn anew() -> Self {
        Self { next: 0, broken: true }
    }

    /// Whether a restored counter is one that packets lead to.
    pub(super) fn is_sound(&self) -> bool {
        self.next < 16
    }

    /// The next packet has an adaptation field for that, of two bytes at least.
    pub(super) fn is_broken(&self) -> bool {
        self.broken
    }
}

/// What the first packet of a unit says in its adaptation field.
#[derive(Clone, Copy, Default)]
pub(super) struct UnitStart {
    /// A decoder can start here.
    pub random_access: bool,
    /// Program clock reference, in 90 kHz ticks (33 bits are used, the 27 MHz extension is 0).
    pub pcr_90k: Option<u64>,
}

impl UnitStart {
    /// Bytes that the adaptation field may take from the payload.
    fn field_bytes(self) -> usize {
        if self.pcr_90k.is_some() { 8 } else { 2 }
    }

    /// Flags and PCR of the adaptation field; empty if the field is not needed.
    fn adaptation(self, discontinuity: bool) -> ([u8; 7], usize) {
        let mut field = [0; 7];
        field[0] = if self.random_access { RANDOM_ACCESS } else { 0 } | if discontinuity { DISCONTINUITY } else { 0 };
        let Some(pcr) = self.pcr_90k else {
            return (field, usize::from(field[0] != 0));
        };
        field[0] |= PCR_PRESENT;
        // Section 2.4.3.4: 33 bits of base, 6 reserved ones, 9 bits of extension.
        let bits = (pcr & 0x1_ffff_ffff) << 15 | 0x7e00;
        field[1..].copy_from_slice(&bits.to_be_bytes()[2..]);
        (field, field.len())
    }
}

/// Appends the packets that carry a unit, whose first byte starts a PES packet or a pointer field and section. The unit comes in
/// pieces, of which the packets are made without its being put together; the last packet is filled up with stuffing in the
/// adaptation field, which is why the length comes first.
pub(super) struct UnitWriter<'a> {
    out: &'a mut Vec<u8>,
    pid: u16,
    counter: &'a mut Counter,
    /// Flags and PCR of the packet to come.
    field: ([u8; 7], usize),
    unit_start: u8,
    /// Bytes of the unit that are in no packet yet.
    left: usize,
    /// Payload bytes that the last packet still lacks.
    room: usize,
}

impl<'a> UnitWriter<'a> {
    /// Begins a unit of so many bytes; exactly these are to be pushed.
    pub fn new(out: &'a mut Vec<u8>, pid: u16, counter: &'a mut Counter, start: UnitStart, bytes: usize) -> Self {
        out.reserve((bytes + start.field_bytes()).div_ceil(BODY_BYTES) * PACKET_BYTES + PACKET_BYTES);
        let field = start.adaptation(std::mem::take(&mut counter.broken));
        Self { out, pid, counter, field, unit_start: UNIT_START, left: bytes, room: 0 }
    }

    /// The unit's next bytes.
    pub fn push(&mut self, piece: &[u8]) {
        let mut rest = piece;
        while !rest.is_empty() {
            if self.room == 0 && !self.begin_packet() {
                debug_assert!(false, "more bytes than the unit was said to have");
                return;
            }
            let (now, after) = rest.split_at(rest.len().min(self.room));
            self.out.extend_from_slice(now);
            self.room -= now.len();
            rest = after;
        }
    }

    fn begin_packet(&mut self) -> bool {
        let (field, field_bytes) = std::mem::take(&mut self.field);
        let most = BODY_BYTES - if field_bytes > 0 { 1 + field_bytes } else { 0 };
        self.room = self.left.min(most);
        self.left -= self.room;
        let stuffed = self.room < BODY_BYTES;
        let [pid_high, pid_low] = self.pid.to_be_bytes();
        let control = HAS_PAYLOAD | if stuffed { HAS_ADAPTATION } else { 0 } | (self.counter.next & 0x0f);
        self.out.extend_from_slice(&[SYNC, std::mem::take(&mut self.unit_start) | (pid_high & 0x1f), pid_low, control]);
        if stuffed {
            write_adaptation(self.out, &field[..field_bytes], BODY_BYTES - self.room);
        }
        self.counter.next = (self.counter.next + 1) & 0x0f;
        self.room > 0
    }
}

/// Appends the packets that carry a unit that is in one piece.
pub(super) fn write_unit(out: &mut Vec<u8>, pid: u16, counter: &mut Counter, start: UnitStart, unit: &[u8]) {
    UnitWriter::new(out, pid, counter, start, unit.len()).push(unit);
}

/// Appends a packet without payload that carries the clock reference alone. Its counter stays 0, as packets without payload do not
/// count (section 2.4.3.3).
pub(super) fn write_clock(out: &mut Vec<u8>, pid: u16, pcr_90k: u64) {
    let (field, field_bytes) = UnitStart { random_access: false, pcr_90k: Some(pcr_90k) }.adaptation(false);
    let [pid_high, pid_low] = pid.to_be_bytes();
    out.extend_from_slice(&[SYNC, pid_high & 0x1f, pid_low, HAS_ADAPTATION]);
    write_adaptation(out, &field[..field_bytes], BODY_BYTES);
}

/// Writes an adaptation field of exactly `bytes` bytes, its length byte included.
fn write_adaptation(out: &mut Vec<u8>, field: &[u8], bytes: usize) {
    let end = out.len() + bytes;
    out.push((bytes - 1) as u8);
    out.extend_from_slice(field);
    if field.is_empty() && bytes > 1 {
        out.push(0); // no flag set
    }
    out.resize(end, 0xff);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_length_comes_back_whole(
            bytes in 1_usize..800, random_access: bool, broken: bool, pcr in prop::option::of(any::<u64>()), first in 0_u8..16,
            cuts in prop::collection::vec(0_usize..800, 0..6),
        ) {
            let unit: Vec<u8> = (0..bytes).map(|i| i as u8).collect();
            let (mut out, mut counter) = (Vec::new(), Counter { next: first, broken });
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes)).chain([0, bytes]).collect();
            cuts.sort_unstable();
            let mut writer = UnitWriter::new(&mut out, 0x101, &mut counter, UnitStart { random_access, pcr_90k: pcr }, bytes);
            cuts.windows(2).for_each(|piece| writer.push(&unit[piece[0]..piece[1]]));
            prop_assert_eq!(out.len() % PACKET_BYTES, 0);
            let mut read = Vec::new();
            for (index, packet) in out.chunks(PACKET_BYTES).enumerate() {
                prop_assert_eq!(packet[0], 0x47);
                prop_assert_eq!(packet[1] & 0x40 != 0, index == 0);
                prop_assert_eq!(u16::from_be_bytes([packet[1] & 0x1f, packet[2]]), 0x101);
                prop_assert_eq!(usize::from(packet[3] & 15), (usize::from(first) + index) % 16);
                let field = if packet[3] & 0x20 != 0 { 1 + usize::from(packet[4]) } else { 0 };
                if index == 0 && pcr.is_some() {
                    let base = u64::from_be_bytes(packet[4..12].try_into().expect("eight bytes")) << 16 >> 31;
                    prop_assert_eq!(Some(base), pcr.map(|p| p & 0x1_ffff_ffff));
                }
                let flags = if field > 1 { packet[5] } else { 0 };
                prop_assert_eq!(flags & 0x40 != 0, index == 0 && random_access);
                prop_assert_eq!(flags & 0x80 != 0, index == 0 && broken);
                read.extend_from_slice(&packet[4 + field..]);
            }
            prop_assert_eq!(usize::from(counter.next), (usize::from(first) + out.len() / PACKET_BYTES) % 16);
            prop_assert_eq!(read, unit);
        }
    }

    #[test]
    fn a_clock_packet_is_full_of_stuffing() {
        let mut out = Vec::new();
        write_clock(&mut out, 0x102, 0x1_2345_6789);
        assert_eq!(out[..12], [0x47, 0x01, 0x02, 0x20, 183, 0x10, 0x91, 0xa2, 0xb3, 0xc4, 0xfe, 0]);
        assert!(out.len() == PACKET_BYTES && out[12..].iter().all(|&byte| byte == 0xff));
    }
}
