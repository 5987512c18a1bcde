//! Measures a transport stream file that somebody else wrote: where it starts and how long it is, from its PTS.
//!
//! It reads PES headers only and never decodes. Packets may be lost, damaged or cut; PAT and PMT are not needed.

use super::packet::PACKET_BYTES;

/// Elementary streams looked at; a file with more is measured by the first ones.
const MAX_STREAMS: usize = 8;
/// Assumed length of a lone frame: 1/30 s.
const LONE_FRAME_90K: u64 = 3000;

/// What PTS say about a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScannedSegment {
    /// The earliest presentation time, in 90 kHz ticks as the file has it (33 bits): of its video if it has video.
    pub first_pts_90k: u64,
    /// From the earliest frame's start to the last frame's end; the last frame is taken to be as long as the average one.
    pub duration_90k: u64,
    /// It has a video stream with a presentation time.
    pub has_video: bool,
    /// It has an audio stream with a presentation time.
    pub has_audio: bool,
}

/// Looks through a file; `None` if it holds no presentation time.
pub fn scan(bytes: &[u8]) -> Option<ScannedSegment> {
    let mut streams: Vec<Stream> = Vec::new();
    let packets = Packets { rest: bytes };
    for (pid, video, pts) in packets.filter_map(presentation_time) {
        if let Some(stream) = streams.iter_mut().find(|stream| stream.pid == pid) {
            stream.add(pts);
        } else if streams.len() < MAX_STREAMS {
            streams.push(Stream { pid, video, first: pts, earliest: 0, latest: 0, frames: 1 });
        }
    }
    let first_of = |video: bool| streams.iter().find(|stream| stream.video == video);
    let (video, audio) = (first_of(true), first_of(false));
    // A single picture says nothing about how long it stands; audio beside it does.
    let measured = [video, audio].into_iter().flatten().find(|stream| stream.frames > 1).or(video).or(audio)?;
    Some(ScannedSegment {
        first_pts_90k: video.or(audio)?.start(),
        duration_90k: measured.duration(),
        has_video: video.is_some(),
        has_audio: audio.is_some(),
    })
}

/// The times of one elementary stream, relative to the first one met: they wrap, and B-frames come out of order.
struct Stream {
    pid: u16,
    video: bool,
    first: u64,
    earliest: i64,
    latest: i64,
    frames: u64,
}

impl Stream {
    fn add(&mut self, pts: u64) {
        // Sign-extend the 33-bit difference.
        let difference = (pts.wrapping_sub(self.first) << 31) as i64 >> 31;
        self.earliest = self.earliest.min(difference);
        self.latest = self.latest.max(difference);
        self.frames += 1;
    }

    fn start(&self) -> u64 {
        self.first.wrapping_add_signed(self.earliest) & 0x1_ffff_ffff
    }

    fn duration(&self) -> u64 {
        let span = self.latest.abs_diff(self.earliest);
        let between = self.frames - 1;
        let last = (span + between / 2).checked_div(between).unwrap_or(LONE_FRAME_90K);
        span + last
    }
}

/// Walks the packets; where the sync byte is missing it looks for the next two that are a packet apart.
struct Packets<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Packets<'a> {
    type Item = &'a [u8; PACKET_BYTES];

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.first() != Some(&0x47) {
            let in_step = |at: usize| self.rest[at] == 0x47 && self.rest.get(at + PACKET_BYTES).is_none_or(|&byte| byte == 0x47);
            let start = (0..self.rest.len()).find(|&at| in_step(at))?;
            self.rest = &self.rest[start..];
        }
        let (packet, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(packet)
    }
}

/// PID, "is video" and PTS if a PES packet of audio or video with a PTS starts in this packet.
fn presentation_time(packet: &[u8; PACKET_BYTES]) -> Option<(u16, bool, u64)> {
    let (damaged, unit_start) = (packet[1] & 0x80 != 0, packet[1] & 0x40 != 0);
    let (scrambled, has_payload) = (packet[3] & 0xc0 != 0, packet[3] & 0x10 != 0);
    if damaged || scrambled || !unit_start || !has_payload {
        return None;
    }
    let skip = if packet[3] & 0x20 != 0 { 5 + usize::from(packet[4]) } else { 4 };
    let header: &[u8; 14] = packet.get(skip..)?.first_chunk()?;
    let video = match header[..4] {
        [0, 0, 1, 0xe0..=0xef] => true,
        [0, 0, 1, 0xc0..=0xdf | 0xbd] => false, // 0xbd: AC-3 and others as private stream
        _ => return None,
    };
    if header[6] & 0xc0 != 0x80 || header[7] & 0x80 == 0 {
        return None;
    }
    let bits = |index: usize, mask: u8, shift: u32| u64::from(header[index] & mask) << shift;
    let pts = bits(9, 0x0e, 29) | bits(10, 0xff, 22) | bits(11, 0xfe, 14) | bits(12, 0xff, 7) | bits(13, 0xfe, 0) >> 1;
    Some((u16::from_be_bytes([packet[1] & 0x1f, packet[2]]), video, pts))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::{AudioConfig, AudioKind, Muxer, Program, VideoConfig, VideoFrame, VideoKind, muxer::START_90K};
    use super::*;
    use proptest::prelude::*;

    fn file(start_90k: u64, order: &[u64]) -> Vec<u8> {
        let config = VideoConfig::parse(VideoKind::H264, b"\x01\x64\0\x1f\xff\xe1\0\x01\x67\x01\0\x01\x68").unwrap();
        let (mut muxer, mut out) = (Muxer::default(), Vec::new());
        muxer.write_tables(&mut out, Program { video: Some(VideoKind::H264), audio: Some(AudioKind::Mp3) });
        for (index, &shown) in (0..).zip(order) {
            let composition_ms = (shown as i32 + 1 - index) * 40;
            let dts_90k = start_90k + index as u64 * 3600;
            muxer.write_video(&mut out, &config, VideoFrame { dts_90k, composition_ms, keyframe: index == 0, units: b"\0\0\0\x02\x65x" });
            muxer.write_audio(&mut out, AudioConfig::Mp3, dts_90k, &[0xff; 300]);
        }
        out
    }

    #[test]
    fn b_frames_and_a_wrap_do_not_change_the_duration() {
        for start in [0, (1 << 33) - START_90K - 3 * 3600 - 5] {
            let scanned = scan(&file(start, &[0, 4, 2, 1, 3, 8, 6, 5, 7, 9])).unwrap();
            assert_eq!(scanned.duration_90k, 36_000);
            assert_eq!(scanned.first_pts_90k, (start + START_90K + 3600) & 0x1_ffff_ffff);
            assert!(scanned.has_video && scanned.has_audio);
        }
    }

    #[test]
    fn sync_is_found_again() {
        let mut bytes = b"junk\x47in front".to_vec();
        bytes.extend_from_slice(&file(0, &[0, 1, 2, 3]));
        bytes.truncate(bytes.len() - 7);
        assert_eq!(scan(&bytes).unwrap().duration_90k, 4 * 3600);
    }

    #[test]
    fn a_file_without_times_is_none() {
        assert_eq!(scan(b""), None);
        assert_eq!(scan(&[0x47; 1880]), None);
        assert_eq!(scan(&file(0, &[])), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(changes in prop::collection::vec((0_usize..4000, any::<u8>()), 0..60), noise in prop::collection::vec(any::<u8>(), 0..600)) {
            scan(&noise);
            let mut bytes = file((1 << 33) - 1_000_000, &[0, 2, 1, 3, 5, 4]);
            for (at, value) in changes {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = value;
                }
            }
            scan(&bytes);
        }
    }
}
