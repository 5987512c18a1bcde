//! MPEG-TS as a verified HLS viewer reads it: 188-byte packets in, sealed video frames out; no I/O.
//!
//! Only what the bench's own stream has is understood: one video track, whose frames end with a sealed NAL unit.

use anyhow::Context;

const PACKET_BYTES: usize = 188;
const SYNC: u8 = 0x47;

/// Puts the video frames of successive segments together.
#[derive(Debug, Default)]
pub struct FrameReader {
    /// The PID whose PES packets are video, once one was seen.
    video: Option<u16>,
    pes: Vec<u8>,
}

impl FrameReader {
    /// Takes a whole segment and hands out the sealed part of each frame in it.
    ///
    /// # Errors
    /// It is no MPEG-TS, or a video packet without a frame.
    pub fn segment(&mut self, bytes: &[u8], mut frame: impl FnMut(&[u8])) -> anyhow::Result<()> {
        anyhow::ensure!(!bytes.is_empty() && bytes.len().is_multiple_of(PACKET_BYTES), "a segment of {} bytes", bytes.len());
        self.pes.clear();
        for packet in bytes.chunks_exact(PACKET_BYTES) {
            self.packet(packet, &mut frame)?;
        }
        self.end_frame(&mut frame)
    }

    fn packet(&mut self, packet: &[u8], frame: &mut impl FnMut(&[u8])) -> anyhow::Result<()> {
        anyhow::ensure!(packet[0] == SYNC, "a packet without its sync byte");
        let (starts, pid) = (packet[1] & 0x40 != 0, u16::from_be_bytes([packet[1] & 0x1f, packet[2]]));
        let payload = match packet[3] & 0x30 {
            0x10 => &packet[4..],
            0x30 => packet.get(5 + usize::from(packet[4])..).context("an adaptation field longer than its packet")?,
            _ => return Ok(()),
        };
        // Stream ids of video (ISO/IEC 13818-1 table 2-22).
        if starts && payload.starts_with(&[0, 0, 1]) && payload.get(3).is_some_and(|id| (0xe0..=0xef).contains(id)) {
            self.end_frame(frame)?;
            self.video = Some(pid);
        }
        if self.video == Some(pid) {
            self.pes.extend_from_slice(payload);
        }
        Ok(())
    }

    fn end_frame(&mut self, frame: &mut impl FnMut(&[u8])) -> anyhow::Result<()> {
        if self.pes.is_empty() {
            return Ok(());
        }
        let header = 9 + usize::from(*self.pes.get(8).context("a PES packet without a header")?);
        let units = self.pes.get(header..).context("a PES header longer than its packet")?;
        let slice = sealed_unit(units).context("a frame without a picture")?;
        frame(slice);
        self.pes.clear();
        Ok(())
    }
}

/// What follows the header of the first NAL unit that is a picture (ITU-T H.264 table 7-1: 1 and 5): it is the frame's last.
fn sealed_unit(units: &[u8]) -> Option<&[u8]> {
    let is_picture =
        |at: &usize| units[*at..].starts_with(&[0, 0, 1]) && matches!(units.get(at + 3).map(|header| header & 0x1f), Some(1 | 5));
    // Delimiter and parameter sets come before it, within some dozens of bytes: the picture itself is not searched.
    let start = (0..units.len().saturating_sub(3)).find(is_picture)?;
    units.get(start + 4..)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::verify::{self, SEAL_BYTES, Stamp};

    /// A frame as packets: a delimiter, a picture, and stuffing in the last packet's adaptation field.
    fn packets(sequence: u64, bytes: usize) -> Vec<u8> {
        let mut body = vec![0xaa; bytes.max(SEAL_BYTES)];
        verify::seal(&mut body, Stamp { sequence, sent_ns: 7 });
        let mut pes = vec![0, 0, 1, 0xe0, 0, 0, 0x80, 0, 0, 0, 0, 0, 1, 9, 0xf0, 0, 0, 1, 0x41];
        pes.extend(body);
        let mut packets = Vec::new();
        for (index, chunk) in pes.chunks(184).enumerate() {
            let mut packet = vec![SYNC, if index == 0 { 0x41 } else { 1 }, 0, 0x10];
            if chunk.len() < 184 {
                let field = 183 - chunk.len();
                packet[3] = 0x30;
                packet.push(field as u8);
                packet.extend(vec![0xff; field]);
            }
            packet.extend(chunk);
            packets.extend(packet);
        }
        packets
    }

    #[test]
    fn frames_come_out_as_they_were_sealed() {
        let segment: Vec<u8> = (0..3).flat_map(|sequence| packets(sequence, 100 + 200 * sequence as usize)).collect();
        let mut seen = Vec::new();
        FrameReader::default().segment(&segment, |frame| seen.push(verify::open(frame).unwrap().sequence)).unwrap();
        assert_eq!(seen, [0, 1, 2]);
    }

    #[test]
    fn a_lost_packet_breaks_its_frame_and_no_other() {
        let (first, second) = (packets(0, 900), packets(1, 900));
        let segment: Vec<u8> = first[..2 * PACKET_BYTES].iter().chain(&first[3 * PACKET_BYTES..]).chain(&second).copied().collect();
        let mut seen = Vec::new();
        FrameReader::default().segment(&segment, |frame| seen.push(verify::open(frame).map(|stamp| stamp.sequence))).unwrap();
        assert_eq!(seen, [None, Some(1)]);
    }

    #[test]
    fn what_is_no_segment_is_said_to_be_none() {
        assert!(FrameReader::default().segment(&[], |_| {}).is_err());
        assert!(FrameReader::default().segment(&[0; PACKET_BYTES], |_| {}).is_err());
        assert!(FrameReader::default().segment(&packets(0, 500)[..300], |_| {}).is_err());
    }
}
