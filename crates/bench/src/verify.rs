//! The proof inside each frame, and the verifier that reads it back.
//!
//! A **seal** is written over the first bytes of a frame's NAL unit (or audio frame): a sequence number, the clock at
//! which it was sent, and a CRC over everything after it. All its bytes have the top bit set, so that no seal ever
//! looks like a start code or needs emulation prevention (ITU-T H.264 §7.4.1).

/// Bytes that a seal takes.
pub const SEAL_BYTES: usize = MAGIC.len() + CRC_BYTES + 2 * NUMBER_BYTES;

const MAGIC: [u8; 4] = [0xB7, 0xA1, 0xD0, 0xCA];
const NUMBER_BYTES: usize = 10;
const CRC_BYTES: usize = 5;

/// What a sealed frame says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Position in the stream, from 0, audio and video counted together.
    pub sequence: u64,
    /// `CLOCK_MONOTONIC` in nanoseconds when the publisher wrote the frame.
    pub sent_ns: u64,
}

/// Seals `body` in place. `body` must have room for [`SEAL_BYTES`].
pub fn seal(body: &mut [u8], stamp: Stamp) {
    body[..MAGIC.len()].copy_from_slice(&MAGIC);
    let (crc_field, rest) = body[MAGIC.len()..].split_at_mut(CRC_BYTES);
    write_number(&mut rest[..NUMBER_BYTES], stamp.sequence);
    write_number(&mut rest[NUMBER_BYTES..2 * NUMBER_BYTES], stamp.sent_ns);
    write_number(crc_field, u64::from(crc32fast::hash(rest)));
}

/// Reads the seal of `body`; `None` if it has none or a byte of it or after it changed.
pub fn open(body: &[u8]) -> Option<Stamp> {
    let rest = body.strip_prefix(&MAGIC)?;
    if body.len() < SEAL_BYTES {
        return None;
    }
    let (crc_field, rest) = rest.split_at(CRC_BYTES);
    if read_number(crc_field) != u64::from(crc32fast::hash(rest)) {
        return None;
    }
    Some(Stamp { sequence: read_number(&rest[..NUMBER_BYTES]), sent_ns: read_number(&rest[NUMBER_BYTES..2 * NUMBER_BYTES]) })
}

fn write_number(field: &mut [u8], mut number: u64) {
    for byte in field.iter_mut().rev() {
        *byte = 0x80 | (number & 0x7f) as u8;
        number >>= 7;
    }
}

fn read_number(field: &[u8]) -> u64 {
    field.iter().fold(0, |number, byte| (number << 7) | u64::from(byte & 0x7f))
}

/// What a verified viewer found wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Faults {
    /// Frames that were skipped, or had not arrived when the run ended.
    pub missed: u64,
    /// Frames that came a second time, or after a later one.
    pub stale: u64,
    /// Frames whose bytes are not those that were published.
    pub corrupt: u64,
}

impl Faults {
    /// All of them together.
    pub fn total(&self) -> u64 {
        self.missed + self.stale + self.corrupt
    }

    /// Adds another viewer's.
    pub fn add(&mut self, other: Faults) {
        self.missed += other.missed;
        self.stale += other.stale;
        self.corrupt += other.corrupt;
    }
}

/// Follows one viewer's frames. It may begin anywhere; from its first frame on none may be missing.
#[derive(Debug, Default)]
pub struct Verifier {
    next: Option<u64>,
    frames: u64,
    faults: Faults,
}

impl Verifier {
    /// Judges the sealed part of one frame; the stamp if the frame is whole.
    pub fn judge(&mut self, body: &[u8]) -> Option<Stamp> {
        self.frames += 1;
        let Some(stamp) = open(body) else {
            self.faults.corrupt += 1;
            // A broken frame took somebody's place in the sequence: not to be counted a second time as missed.
            self.next = self.next.map(|next| next + 1);
            return None;
        };
        match self.next {
            Some(next) if stamp.sequence < next => self.faults.stale += 1,
            Some(next) => {
                self.faults.missed += stamp.sequence - next;
                self.next = Some(stamp.sequence + 1);
            }
            None => self.next = Some(stamp.sequence + 1),
        }
        Some(stamp)
    }

    /// The sequence number that should come next; `None` before the first frame.
    pub fn next(&self) -> Option<u64> {
        self.next
    }

    /// Frames seen, good or bad.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// The faults if the stream ended with the frame before `end`; frames that never came count as missed, all of them if none came.
    pub fn faults_at(&self, end: u64) -> Faults {
        let outstanding = end.saturating_sub(self.next.unwrap_or(0));
        Faults { missed: self.faults.missed + outstanding, ..self.faults }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn frame(sequence: u64) -> Vec<u8> {
        let mut body = vec![0x55; 200];
        seal(&mut body, Stamp { sequence, sent_ns: 1_000 + sequence });
        body
    }

    fn faults_of(sequences: &[u64], end: u64) -> Faults {
        let mut verifier = Verifier::default();
        for &sequence in sequences {
            assert_eq!(verifier.judge(&frame(sequence)).unwrap().sequence, sequence);
        }
        verifier.faults_at(end)
    }

    #[test]
    fn a_seal_reads_back_and_never_holds_a_start_code() {
        for number in [0, 1, 0x7f, 0x80, u64::from(u32::MAX), u64::MAX] {
            let mut body = vec![0x55; SEAL_BYTES];
            let stamp = Stamp { sequence: number, sent_ns: !number };
            seal(&mut body, stamp);
            assert_eq!(open(&body), Some(stamp));
            assert!(body.iter().all(|byte| byte & 0x80 != 0));
        }
    }

    #[test]
    fn any_changed_or_missing_byte_breaks_the_seal() {
        let whole = frame(7);
        for at in 0..whole.len() {
            let mut broken = whole.clone();
            broken[at] ^= 1;
            assert_eq!(open(&broken), None, "byte {at}");
            assert_eq!(open(&whole[..at]), None, "cut at {at}");
        }
    }

    #[test]
    fn a_viewer_may_begin_anywhere_and_miss_nothing() {
        assert_eq!(faults_of(&[40, 41, 42, 43], 44), Faults::default());
    }

    #[test]
    fn a_missed_a_doubled_and_a_late_frame_are_seen() {
        assert_eq!(faults_of(&[1, 2, 5], 6), Faults { missed: 2, ..Faults::default() });
        assert_eq!(faults_of(&[1, 2, 2, 3], 4), Faults { stale: 1, ..Faults::default() });
        assert_eq!(faults_of(&[1, 3, 2, 4], 5), Faults { missed: 1, stale: 1, ..Faults::default() });
    }

    #[test]
    fn frames_that_never_came_are_missed() {
        assert_eq!(faults_of(&[1, 2], 10), Faults { missed: 7, ..Faults::default() });
    }

    #[test]
    fn a_corrupt_frame_counts_once() {
        let mut verifier = Verifier::default();
        verifier.judge(&frame(0));
        let mut broken = frame(1);
        broken[150] ^= 0x10;
        assert_eq!(verifier.judge(&broken), None);
        verifier.judge(&frame(2));
        assert_eq!(verifier.faults_at(3), Faults { corrupt: 1, ..Faults::default() });
        assert_eq!(verifier.frames(), 3);
    }
}
