//! Short records packed: what was said before, in the record itself or in what most records say, is not said again.
//!
//! A packed record is a chain of pieces. A byte below 128 says how many bytes follow as they are, less one. Another one says how many are copied,
//! less three, in its lower six bits, and the one byte behind it, or two (the lower first) if it has bit 6, from how far back, less one. What [`COMMON`]
//! says lies before the record's beginning. It is part of the format: another one is another version.

/// The longest record that is packed.
const MOST_BYTES: usize = 4096;
const LEAST_COPY: usize = 3;
const MOST_COPY: usize = LEAST_COPY + 0x3f;
const MOST_PLAIN: usize = 0x80;
const COPY: u8 = 0x80;
const FAR: u8 = 0x40;
/// Copies from farther away take a byte more.
const NEAR_BYTES: usize = 256;

/// What is in most checkpoints of viewers: limits as they are if nobody sets them, state of chunk streams, names that are the usual ones.
const COMMON: &[u8] = b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\xff\xff\xff\x07@\x80\x80\x80\x10 P\x90N\xa0\x9c\x01\xe0\xd4\x03\x14\
\x81\x80\x04@\x84\x80\x10\x84\x1a\x80\x80\x04\0\x03\x02\0\0\n\x04\0\0\0\0\0\0\x03\0\0\x19\x14\0\0\0\0\0\0\x05\0\0\x1e\x14\x01\
\0\0\x05\x04livertmp:///live\0\0\rLNX 9,0,124,2\0\0\0\0\0\x10__defaultVhost__\x04live\x01\x01\0\0\x01\x01\
\x10__defaultVhost__\x04live\x01\0\x01\0\0\0\x01";

/// Where three bytes were seen last, by [`place_of`]; 0: nowhere, for the first bytes are as good elsewhere.
type Seen = [u16; 512];
const COMMON_SEEN: Seen = common_seen();

const fn common_seen() -> Seen {
    let (mut seen, mut at) = ([0; 512], 0);
    while at + LEAST_COPY <= COMMON.len() {
        seen[place_of([COMMON[at], COMMON[at + 1], COMMON[at + 2]])] = at as u16;
        at += 1;
    }
    seen
}

const fn place_of([a, b, c]: [u8; 3]) -> usize {
    let mixed = (a as u32 | (b as u32) << 8 | (c as u32) << 16).wrapping_mul(0x9e37_79b1);
    (mixed >> 23) as usize
}

/// Packs a record to the front of `packed`; says how many bytes it takes. `None`: there is not so much room, or it is too long to be packed.
pub fn pack(record: &[u8], packed: &mut [u8]) -> Option<usize> {
    if record.len() > MOST_BYTES {
        return None;
    }
    let mut out = Packed { bytes: packed, used: 0 };
    let end = COMMON.len() + record.len();
    let byte = |at: usize| if at < COMMON.len() { COMMON[at] } else { record[at - COMMON.len()] };
    let plain = |from: usize, to: usize| &record[from - COMMON.len()..to - COMMON.len()];
    let mut seen = COMMON_SEEN;
    let (mut at, mut said) = (COMMON.len(), COMMON.len());
    while at + LEAST_COPY <= end {
        let place = place_of([byte(at), byte(at + 1), byte(at + 2)]);
        let from = usize::from(std::mem::replace(&mut seen[place], at as u16));
        let back = at - from;
        let length = (0..MOST_COPY.min(end - at)).take_while(|more| byte(from + more) == byte(at + more)).count();
        if length < LEAST_COPY + usize::from(back > NEAR_BYTES) {
            at += 1;
            continue;
        }
        out.plain(plain(said, at))?;
        out.copy(length, back)?;
        let next = at + length;
        at += 1;
        while at < next && at + LEAST_COPY <= end {
            seen[place_of([byte(at), byte(at + 1), byte(at + 2)])] = at as u16;
            at += 1;
        }
        (at, said) = (next, next);
    }
    out.plain(plain(said, end))?;
    Some(out.used)
}

/// The record that [`pack`] has packed. `None` for anything that is none.
pub fn unpack(packed: &[u8]) -> Option<Vec<u8>> {
    let mut all = COMMON.to_vec();
    let mut rest = packed;
    while let Some((&piece, behind)) = rest.split_first() {
        if piece & COPY == 0 {
            let (plain, behind) = behind.split_at_checked(usize::from(piece) + 1)?;
            all.extend_from_slice(plain);
            rest = behind;
        } else {
            let (back, behind) = match piece & FAR {
                0 => (usize::from(*behind.first()?), &behind[1..]),
                _ => (usize::from(u16::from_le_bytes(*behind.first_chunk()?)), &behind[2..]),
            };
            let from = all.len().checked_sub(back + 1)?;
            // What is copied may be what the copy itself has said.
            for at in from..from + usize::from(piece & !(COPY | FAR)) + LEAST_COPY {
                all.push(all[at]);
            }
            rest = behind;
        }
        if all.len() > COMMON.len() + MOST_BYTES {
            return None;
        }
    }
    Some(all.split_off(COMMON.len()))
}

struct Packed<'a> {
    bytes: &'a mut [u8],
    used: usize,
}

impl Packed<'_> {
    fn put(&mut self, bytes: &[u8]) -> Option<()> {
        self.bytes.get_mut(self.used..self.used + bytes.len())?.copy_from_slice(bytes);
        self.used += bytes.len();
        Some(())
    }

    fn plain(&mut self, bytes: &[u8]) -> Option<()> {
        bytes.chunks(MOST_PLAIN).try_for_each(|piece| {
            self.put(&[(piece.len() - 1) as u8])?;
            self.put(piece)
        })
    }

    fn copy(&mut self, length: usize, back: usize) -> Option<()> {
        let piece = COPY | (length - LEAST_COPY) as u8;
        let [near, far] = ((back - 1) as u16).to_le_bytes();
        if back <= NEAR_BYTES { self.put(&[piece, near]) } else { self.put(&[piece | FAR, near, far]) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packed(record: &[u8]) -> Vec<u8> {
        let mut room = vec![0; 2 * MOST_BYTES];
        let used = pack(record, &mut room).unwrap();
        room.truncate(used);
        room
    }

    #[test]
    fn what_was_said_is_not_said_again() {
        let record = [&b"\x06\x10__defaultVhost__\x04live\x0aa-stream-1"[..], &[0; 100], b"\x04live\x0aa-stream-1"].concat();
        let short = packed(&record);
        assert!(short.len() < 40, "{} bytes of {}", short.len(), record.len());
        assert_eq!(unpack(&short).unwrap(), record);
        assert_eq!(pack(&record, &mut [0; 20]), None, "no room");
        assert_eq!(pack(&[7; MOST_BYTES + 1], &mut [0; 2 * MOST_BYTES]), None, "too long");
        assert_eq!(unpack(&packed(&[])).unwrap(), b"");
        assert_eq!(unpack(&packed(&[7; MOST_BYTES])).unwrap(), [7; MOST_BYTES]);
    }

    #[test]
    fn what_is_no_packed_record_is_refused() {
        for bad in [&[5, 1, 2][..], &[COPY], &[COPY | FAR, 0], &[COPY | FAR, 0xff, 0xff]] {
            assert_eq!(unpack(bad), None, "{bad:?}");
        }
        assert_eq!(unpack(&[0xbf, 0].repeat(200)), None, "longer than any record");
    }

    proptest! {
        #[test]
        fn a_record_comes_back_as_it_was(pieces in prop::collection::vec((any::<u8>(), 1usize..40, any::<bool>()), 0..60)) {
            let mut record = Vec::new();
            for (byte, length, repeats) in pieces {
                // Runs, pieces of what was there, and what nobody has said.
                let from = usize::from(byte) % (record.len() + 1);
                let length = if repeats { length.min(record.len() - from) } else { length };
                let more: Vec<u8> = if repeats { record[from..from + length].to_vec() } else if byte % 3 == 0 { vec![byte; length] } else { (0..length).map(|at| (at as u8).wrapping_mul(byte)).collect() };
                record.extend(more);
            }
            record.truncate(MOST_BYTES);
            prop_assert_eq!(unpack(&packed(&record)).unwrap(), record);
        }

        #[test]
        fn anything_is_unpacked_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let unpacked = unpack(&bytes);
            prop_assert!(unpacked.is_none_or(|record| record.len() <= MOST_BYTES));
        }
    }
}
