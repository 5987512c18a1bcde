//! The synthetic stream: H.264-like and AAC-like tags, sealed, exact in rate and pace.
//!
//! It does no I/O and reads no clock: `now` comes in. The decoder configuration is a real one (1280x720 High, 44.1 kHz
//! stereo), the frames are filler that no decoder accepts.

use crate::verify::{self, SEAL_BYTES, Stamp};
use braidcast_media::RecordKind;
use braidcast_media::flv::RECORD_OVERHEAD_BYTES;

/// Video sequence header: AVCDecoderConfigurationRecord (ISO/IEC 14496-15 §5.3.3.1) with SPS and PPS of x264, 1280x720.
pub const VIDEO_SEQUENCE_HEADER: [u8; 50] = [
    0x17, 0x00, 0x00, 0x00, 0x00, 0x01, 0x64, 0x00, 0x1f, 0xff, 0xe1, 0x00, 0x18, 0x67, 0x64, 0x00, 0x1f, 0xac, 0xb2, 0x00, 0xa0, 0x0b,
    0x76, 0x02, 0x20, 0x00, 0x00, 0x03, 0x00, 0x20, 0x00, 0x00, 0x07, 0x81, 0xe3, 0x06, 0x49, 0x01, 0x00, 0x06, 0x68, 0xeb, 0xc3, 0xcb,
    0x22, 0xc0, 0xfd, 0xf8, 0xf8, 0x00,
];
/// Audio sequence header: AudioSpecificConfig of AAC-LC, 44.1 kHz, stereo (ISO/IEC 14496-3 §1.6.2.1).
pub const AUDIO_SEQUENCE_HEADER: [u8; 4] = [0xaf, 0x00, 0x12, 0x10];

/// Frame type and codec, AVCPacketType, composition time; then NAL unit length and header.
const VIDEO_HEAD_BYTES: usize = 5 + 4 + 1;
/// Sound format and AACPacketType.
const AUDIO_HEAD_BYTES: usize = 2;
/// A keyframe is this many times as large as another frame.
const KEYFRAME_WEIGHT: u64 = 5;
const AUDIO_SAMPLES_PER_FRAME: u64 = 1024;
const AUDIO_SAMPLES_PER_SECOND: u64 = 44_100;
const NS_PER_S: u64 = 1_000_000_000;

/// What a stream looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Shape {
    /// Video bits per second, FLV's 15 bytes of framing per frame included.
    pub video_bps: u64,
    /// Video frames per second.
    pub fps: u64,
    /// Frames from one keyframe to the next.
    pub gop_frames: u64,
    /// Audio bits per second, framing included; 0 for none.
    pub audio_bps: u64,
}

impl Shape {
    /// Bytes per second of FLV, in the long run.
    pub fn bytes_per_second(&self) -> f64 {
        (self.video_bps + self.audio_bps) as f64 / 8.0
    }

    /// Refuses what has no room for a seal in every frame, or more than an FLV tag holds.
    pub fn check(&self) -> anyhow::Result<()> {
        anyhow::ensure!((1..=240).contains(&self.fps), "frames per second must be 1 to 240");
        anyhow::ensure!((1..=100_000).contains(&self.gop_frames), "a GOP must be 1 to 100,000 frames");
        anyhow::ensure!(self.video_bps <= 1_000_000_000 && self.audio_bps <= 10_000_000, "the bit rate is too high");
        let least = VIDEO_HEAD_BYTES + SEAL_BYTES + RECORD_OVERHEAD_BYTES;
        anyhow::ensure!(self.frame_bytes(1) >= least as u64, "the video bit rate leaves less than {least} bytes per frame");
        let least = AUDIO_HEAD_BYTES + SEAL_BYTES + RECORD_OVERHEAD_BYTES;
        anyhow::ensure!(self.audio_bps == 0 || self.audio_frame_bytes() >= least as u64, "the audio bit rate is too low");
        Ok(())
    }

    /// Record bytes of video frame `index`; every whole GOP has exactly the bytes of its rate.
    fn frame_bytes(&self, index: u64) -> u64 {
        let gop_bytes = self.video_bps * self.gop_frames / (8 * self.fps);
        let unit = gop_bytes / (self.gop_frames - 1 + KEYFRAME_WEIGHT);
        if index.is_multiple_of(self.gop_frames) { gop_bytes - unit * (self.gop_frames - 1) } else { unit }
    }

    fn audio_frame_bytes(&self) -> u64 {
        self.audio_bps * AUDIO_SAMPLES_PER_FRAME / (8 * AUDIO_SAMPLES_PER_SECOND)
    }

    /// When video frame `index` is due, from the start of the stream. Computed anew each time: no error adds up.
    fn video_due_ns(&self, index: u64) -> u64 {
        (u128::from(index) * u128::from(NS_PER_S) / u128::from(self.fps)) as u64
    }

    fn audio_due_ns(&self, index: u64) -> u64 {
        if self.audio_bps == 0 {
            return u64::MAX;
        }
        (u128::from(index) * u128::from(AUDIO_SAMPLES_PER_FRAME * NS_PER_S) / u128::from(AUDIO_SAMPLES_PER_SECOND)) as u64
    }
}

/// One frame, ready to be framed for a protocol.
#[derive(Debug)]
pub struct Frame<'a> {
    /// Audio or video.
    pub kind: RecordKind,
    /// Milliseconds since the start of the stream.
    pub timestamp_ms: u32,
    /// A decoder could start here.
    pub keyframe: bool,
    /// The tag's payload.
    pub payload: &'a [u8],
}

/// Makes the frames of one stream in the order in which they are due.
#[derive(Debug)]
pub struct Source {
    shape: Shape,
    start_ns: u64,
    video_index: u64,
    audio_index: u64,
    payload: Vec<u8>,
    filler: Vec<u8>,
}

impl Source {
    /// A stream whose first frame is due at `start_ns`. The shape has been checked.
    pub fn new(shape: Shape, start_ns: u64) -> Self {
        let longest = shape.frame_bytes(0).max(shape.audio_frame_bytes()) as usize;
        Self { shape, start_ns, video_index: 0, audio_index: 0, payload: Vec::with_capacity(longest), filler: filler(longest) }
    }

    /// When the next frame is due, on the clock that `start_ns` came from.
    pub fn next_due_ns(&self) -> u64 {
        self.start_ns + self.video_due().min(self.audio_due())
    }

    /// The sequence number of the next frame.
    pub fn next_sequence(&self) -> u64 {
        self.video_index + self.audio_index
    }

    /// Makes the next frame, stamped with `now_ns`: the clock at which it is really sent, be that late.
    pub fn produce(&mut self, now_ns: u64) -> Frame<'_> {
        let stamp = Stamp { sequence: self.next_sequence(), sent_ns: now_ns };
        if self.audio_due() < self.video_due() { self.produce_audio(stamp) } else { self.produce_video(stamp) }
    }

    fn video_due(&self) -> u64 {
        self.shape.video_due_ns(self.video_index)
    }

    fn audio_due(&self) -> u64 {
        self.shape.audio_due_ns(self.audio_index)
    }

    fn produce_video(&mut self, stamp: Stamp) -> Frame<'_> {
        let keyframe = self.video_index.is_multiple_of(self.shape.gop_frames);
        let timestamp_ms = (self.video_due() / 1_000_000) as u32;
        let payload_bytes = self.shape.frame_bytes(self.video_index) as usize - RECORD_OVERHEAD_BYTES;
        let nal_bytes = (payload_bytes - (VIDEO_HEAD_BYTES - 1)) as u32;
        let (frame_type, nal_header) = if keyframe { (0x17, 0x65) } else { (0x27, 0x41) };
        self.video_index += 1;
        self.payload.clear();
        self.payload.extend_from_slice(&[frame_type, 1, 0, 0, 0]);
        self.payload.extend_from_slice(&nal_bytes.to_be_bytes());
        self.payload.push(nal_header);
        self.fill(payload_bytes, VIDEO_HEAD_BYTES, stamp);
        Frame { kind: RecordKind::Video, timestamp_ms, keyframe, payload: &self.payload }
    }

    fn produce_audio(&mut self, stamp: Stamp) -> Frame<'_> {
        let timestamp_ms = (self.audio_due() / 1_000_000) as u32;
        let payload_bytes = self.shape.audio_frame_bytes() as usize - RECORD_OVERHEAD_BYTES;
        self.audio_index += 1;
        self.payload.clear();
        self.payload.extend_from_slice(&[0xaf, 1]);
        self.fill(payload_bytes, AUDIO_HEAD_BYTES, stamp);
        Frame { kind: RecordKind::Audio, timestamp_ms, keyframe: false, payload: &self.payload }
    }

    fn fill(&mut self, payload_bytes: usize, head_bytes: usize, stamp: Stamp) {
        self.payload.extend_from_slice(&self.filler[..payload_bytes - head_bytes]);
        verify::seal(&mut self.payload[head_bytes..], stamp);
    }
}

/// The sealed part of a tag's payload; `None` for sequence headers, metadata and anything else that is no frame.
pub fn sealed_part(kind: RecordKind, payload: &[u8]) -> Option<&[u8]> {
    let head_bytes = match (kind, payload.get(1)?) {
        (RecordKind::Video, 1) => VIDEO_HEAD_BYTES,
        (RecordKind::Audio, 1) => AUDIO_HEAD_BYTES,
        _ => return None,
    };
    Some(payload.get(head_bytes..).unwrap_or_default())
}

/// Bytes that differ from place to place and are never zero (a fixed linear congruential sequence).
fn filler(bytes: usize) -> Vec<u8> {
    let mut state: u32 = 0x2545_f491;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8 | 0x80
    };
    std::iter::repeat_with(next).take(bytes).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { video_bps: 2_500_000, fps: 30, gop_frames: 60, audio_bps: 0 };

    #[test]
    fn a_gop_has_exactly_the_bytes_of_its_rate() {
        for shape in [SHAPE, Shape { video_bps: 1_000_000, fps: 25, gop_frames: 50, audio_bps: 0 }] {
            shape.check().unwrap();
            let mut source = Source::new(shape, 0);
            let bytes: usize = (0..shape.gop_frames).map(|_| source.produce(0).payload.len() + RECORD_OVERHEAD_BYTES).sum();
            assert_eq!(bytes as u64, shape.video_bps * shape.gop_frames / shape.fps / 8);
        }
    }

    #[test]
    fn pacing_does_not_drift() {
        let mut source = Source::new(SHAPE, 500);
        for second in 0..1_000 {
            assert_eq!(source.next_due_ns(), 500 + second * NS_PER_S);
            for _ in 0..SHAPE.fps {
                source.produce(0);
            }
        }
    }

    #[test]
    fn keyframes_come_when_they_should() {
        let mut source = Source::new(SHAPE, 0);
        let keys: Vec<u64> = (0..180).filter(|_| source.produce(0).keyframe).collect();
        assert_eq!(keys, [0, 60, 120]);
    }

    #[test]
    fn audio_and_video_share_one_sequence_in_order_of_time() {
        let shape = Shape { audio_bps: 128_000, ..SHAPE };
        shape.check().unwrap();
        let mut source = Source::new(shape, 0);
        let (mut last_ms, mut audio) = (0, 0);
        for sequence in 0..1_000 {
            let frame = source.produce(sequence * 10);
            assert!(frame.timestamp_ms >= last_ms);
            last_ms = frame.timestamp_ms;
            audio += u64::from(frame.kind == RecordKind::Audio);
            let stamp = verify::open(sealed_part(frame.kind, frame.payload).unwrap()).unwrap();
            assert_eq!(stamp, Stamp { sequence, sent_ns: sequence * 10 });
        }
        assert!((580..600).contains(&audio), "43 audio frames to 30 video frames, got {audio} of 1,000");
    }

    #[test]
    fn sequence_headers_are_no_frames() {
        assert_eq!(sealed_part(RecordKind::Video, &VIDEO_SEQUENCE_HEADER), None);
        assert_eq!(sealed_part(RecordKind::Audio, &AUDIO_SEQUENCE_HEADER), None);
    }

    #[test]
    fn the_nal_unit_length_covers_the_rest() {
        let mut source = Source::new(SHAPE, 0);
        let payload = source.produce(0).payload.to_vec();
        let length = u32::from_be_bytes(payload[5..9].try_into().unwrap()) as usize;
        assert_eq!(length, payload.len() - 9);
    }

    #[test]
    fn rates_without_room_for_a_seal_are_refused() {
        assert!(Shape { video_bps: 8_000, ..SHAPE }.check().is_err());
        assert!(Shape { audio_bps: 1_000, ..SHAPE }.check().is_err());
        assert!(Shape { fps: 0, ..SHAPE }.check().is_err());
    }
}
