//! The two tables of a one-program stream: PAT and PMT (ISO/IEC 13818-1 sections 2.4.4.3 and 2.4.4.8).

/// PID of the program association table.
pub(super) const PAT_PID: u16 = 0;
/// PID of the program map table.
pub(super) const PMT_PID: u16 = 0x1000;
const STREAM_ID: [u8; 2] = [0, 1];
const PROGRAM: [u8; 2] = [0, 1];

/// An elementary stream in the program map.
#[derive(Clone, Copy)]
pub(super) struct Elementary<'a> {
    /// Table 2-34.
    pub stream_type: u8,
    /// Where its packets are.
    pub pid: u16,
    /// What else is said of it, as descriptors (section 2.6).
    pub descriptors: &'a [u8],
}

/// The PAT as a unit: pointer field and section.
pub(super) fn pat() -> Vec<u8> {
    let [pmt_high, pmt_low] = PMT_PID.to_be_bytes();
    section(0, STREAM_ID, 0, &[PROGRAM[0], PROGRAM[1], 0xe0 | pmt_high, pmt_low])
}

/// The PMT as a unit: pointer field and section. `version` counts changes, modulo 32.
pub(super) fn pmt(version: u8, pcr_pid: u16, streams: &[Elementary<'_>]) -> Vec<u8> {
    let [pcr_high, pcr_low] = pcr_pid.to_be_bytes();
    let mut body = vec![0xe0 | pcr_high, pcr_low, 0xf0, 0];
    for stream in streams {
        let [high, low] = stream.pid.to_be_bytes();
        body.extend_from_slice(&[stream.stream_type, 0xe0 | high, low, 0xf0, stream.descriptors.len() as u8]);
        body.extend_from_slice(stream.descriptors);
    }
    section(2, PROGRAM, version, &body)
}

/// A long-form section that is current and the only one of its table.
fn section(table: u8, id: [u8; 2], version: u8, body: &[u8]) -> Vec<u8> {
    let length = (5 + body.len() + 4) as u8; // after the length field; our tables are far below 255 bytes
    let mut unit = vec![0, table, 0xb0, length, id[0], id[1], 0xc1 | (version & 31) << 1, 0, 0];
    unit.extend_from_slice(body);
    let crc = crc32_mpeg(&unit[1..]);
    unit.extend_from_slice(&crc.to_be_bytes());
    unit
}

/// Annex A: polynomial 0x04C11DB7, most significant bit first, no final inversion.
fn crc32_mpeg(bytes: &[u8]) -> u32 {
    bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte) << 24, |crc, _| crc << 1 ^ if crc >> 31 == 1 { 0x04c1_1db7 } else { 0 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_of_the_check_string() {
        assert_eq!(crc32_mpeg(b"123456789"), 0x0376_e6e7);
    }

    #[test]
    fn the_pat_names_the_pmt() {
        // As ffmpeg writes it for the same ids.
        assert_eq!(pat(), [0, 0, 0xb0, 0x0d, 0, 1, 0xc1, 0, 0, 0, 1, 0xf0, 0, 0x2a, 0xb1, 0x04, 0xb2]);
    }

    #[test]
    fn a_whole_section_has_crc_zero() {
        let video = Elementary { stream_type: 0x1b, pid: 0x100, descriptors: &[] };
        let unit = pmt(3, 0x100, &[video, Elementary { stream_type: 0x81, pid: 0x101, descriptors: b"\x05\x04AC-3" }]);
        assert_eq!(crc32_mpeg(&unit[1..]), 0);
        assert_eq!(usize::from(unit[3]), unit.len() - 4);
    }
}
