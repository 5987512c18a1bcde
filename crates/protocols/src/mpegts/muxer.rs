//! Writes one program: PAT and PMT, a PES packet per video and audio frame, PCR, continuity counters.
//!
//! Times come in as 90 kHz ticks that never wrap and go out modulo 2^33, all moved by [`START_90K`]. Frames go out in the order
//! in which they come. The state that goes on from segment to segment is a plain value.

use super::audio::{AudioConfig, AudioKind};
use super::nal::{VideoConfig, VideoKind};
use super::packet::{Counter, PACKET_BYTES, UnitStart, UnitWriter, write_clock, write_unit};
use super::tables::{Elementary, PAT_PID, PMT_PID, pat, pmt};
use serde::{Deserialize, Serialize};

/// Added to every timestamp, so that neither the clock reference nor a negative composition time goes below zero: 10 s.
pub const START_90K: u64 = 900_000;
/// How far the clock reference runs ahead of decoding: 0.7 s, which is also how far audio may come behind video.
const PCR_LEAD_90K: u64 = 63_000;
/// A frame may be shown at most this long before its FLV decoding time (negative composition time): 2 s.
const MAX_DECODE_LEAD_90K: u64 = 180_000;

const VIDEO_PID: u16 = 0x100;
const AUDIO_PID: u16 = 0x101;
/// The clock reference alone, where it has a PID of its own.
const CLOCK_PID: u16 = 0x102;
const VIDEO_STREAM_ID: u8 = 0xe0;
const TIMESTAMP_MASK: u64 = (1 << 33) - 1;

/// What the PMT announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// The video, if any, which then is what the clock follows.
    pub video: Option<VideoKind>,
    /// The audio, if any.
    pub audio: Option<AudioKind>,
}

/// One video frame as FLV carries it.
#[derive(Clone, Copy, Debug)]
pub struct VideoFrame<'a> {
    /// Decoding time in 90 kHz ticks, not wrapped.
    pub dts_90k: u64,
    /// Presentation less decoding time in milliseconds; 24 bits, may be negative.
    pub composition_ms: i32,
    /// A decoder can start with it.
    pub keyframe: bool,
    /// NAL units behind length fields.
    pub units: &'a [u8],
}

/// What goes on from one segment to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MuxerState {
    pat_counter: Counter,
    pmt_counter: Counter,
    video_counter: Counter,
    audio_counter: Counter,
    pmt_version: u8,
    program: Option<Program>,
    /// How much earlier than FLV says frames are decoded, because a composition time was negative.
    decode_lead_90k: u64,
}

impl MuxerState {
    /// Whether a restored state is one that a muxer can come to.
    pub(crate) fn is_sound(&self) -> bool {
        let counters = [self.pat_counter, self.pmt_counter, self.video_counter, self.audio_counter];
        counters.iter().all(|counter| counter.is_sound()) && self.pmt_version < 32 && self.decode_lead_90k <= MAX_DECODE_LEAD_90K
    }
}

/// Writes packets; see the module's head.
#[derive(Debug, Default)]
pub struct Muxer {
    state: MuxerState,
    /// The clock reference has a PID of its own, and is written by [`Muxer::write_clock`] only.
    own_clock: bool,
    /// What goes before a frame: the header of its PES packet and of its codec. Kept for its capacity.
    before: Vec<u8>,
}

impl Muxer {
    /// Goes on from `state`.
    pub fn new(state: MuxerState) -> Self {
        Self { state, ..Self::default() }
    }

    /// Starts without knowing what was sent before: the first packet of each PID says that its counter does not continue. The
    /// clock reference does, so it must not lie in such packets, where the indicator would mean a new time base (ISO/IEC 13818-1
    /// section 2.4.3.5): it gets a PID of its own. `pmt_version` is that of the first program, modulo 32.
    pub(super) fn anew(pmt_version: u8) -> Self {
        let anew = Counter::anew();
        let state = MuxerState {
            pat_counter: anew,
            pmt_counter: anew,
            video_counter: anew,
            audio_counter: anew,
            pmt_version,
            program: None,
            decode_lead_90k: 0,
        };
        Self { state, own_clock: true, before: Vec::new() }
    }

    /// What another muxer needs to go on from here.
    pub fn state(&self) -> &MuxerState {
        &self.state
    }

    /// Writes PAT and PMT. To be called at the start of every segment; a different program gets a new PMT version.
    pub fn write_tables(&mut self, out: &mut Vec<u8>, program: Program) {
        if self.state.program.is_some_and(|before| before != program) {
            self.state.pmt_version = (self.state.pmt_version + 1) & 31;
        }
        self.state.program = Some(program);
        let descriptors = program.audio.map(AudioKind::descriptors).unwrap_or_default();
        let video = program.video.map(|kind| Elementary { stream_type: kind.stream_type(), pid: VIDEO_PID, descriptors: &[] });
        let audio = program.audio.map(|kind| Elementary { stream_type: kind.stream_type(), pid: AUDIO_PID, descriptors: &descriptors });
        let streams: Vec<_> = video.into_iter().chain(audio).collect();
        let pcr_pid = match program.video {
            _ if self.own_clock => CLOCK_PID,
            Some(_) => VIDEO_PID,
            None => AUDIO_PID,
        };
        write_section(out, PAT_PID, &mut self.state.pat_counter, pat());
        write_section(out, PMT_PID, &mut self.state.pmt_counter, pmt(self.state.pmt_version, pcr_pid, &streams));
    }

    /// Writes a frame that `config` accepts ([`VideoConfig::accepts`]).
    pub fn write_video(&mut self, out: &mut Vec<u8>, config: &VideoConfig, frame: VideoFrame<'_>) {
        let (pts, dts) = self.video_times(frame.dts_90k, frame.composition_ms);
        self.start_pes(VIDEO_STREAM_ID, pts, dts);
        let mut bytes = self.before.len();
        config.access_unit(frame.units, frame.keyframe, |piece| bytes += piece.len());
        self.close_pes(bytes);
        let start = UnitStart { random_access: frame.keyframe, pcr_90k: (!self.own_clock).then(|| clock_reference(dts)) };
        let mut unit = UnitWriter::new(out, VIDEO_PID, &mut self.state.video_counter, start, bytes);
        unit.push(&self.before);
        config.access_unit(frame.units, frame.keyframe, |piece| unit.push(piece));
    }

    /// Writes a frame that `config` accepts ([`AudioConfig::accepts`]). One PES packet per frame: its time is exact, at the price of
    /// some stuffing.
    pub fn write_audio(&mut self, out: &mut Vec<u8>, config: AudioConfig, time_90k: u64, frame: &[u8]) {
        let pts = time_90k.saturating_add(START_90K);
        self.start_pes(config.kind().stream_id(), pts, pts);
        config.write_frame_header(&mut self.before, frame);
        let bytes = self.before.len() + frame.len();
        self.close_pes(bytes);
        let alone = self.state.program.is_none_or(|program| program.video.is_none());
        let start = UnitStart { random_access: alone, pcr_90k: (alone && !self.own_clock).then(|| clock_reference(pts)) };
        let mut unit = UnitWriter::new(out, AUDIO_PID, &mut self.state.audio_counter, start, bytes);
        unit.push(&self.before);
        unit.push(frame);
    }

    /// Writes the clock reference of a decoding time to the PID of its own.
    pub(super) fn write_clock(&self, out: &mut Vec<u8>, dts_90k: u64) {
        write_clock(out, CLOCK_PID, clock_reference(dts_90k.saturating_add(START_90K)));
    }

    /// PTS and DTS, moved but not wrapped. A transport stream cannot decode a frame after it is shown, so the first negative
    /// composition time moves all decoding times from then on, back over the last ones once; presentation times stay what
    /// the encoder said. Moving them from the start for all streams would cost every player a delay.
    fn video_times(&mut self, dts_90k: u64, composition_ms: i32) -> (u64, u64) {
        let composition = i64::from(composition_ms) * 90;
        if composition < 0 {
            self.state.decode_lead_90k = self.state.decode_lead_90k.max(composition.unsigned_abs()).min(MAX_DECODE_LEAD_90K);
        }
        let base = dts_90k.saturating_add(START_90K);
        let pts = base.saturating_add_signed(composition.max(-(MAX_DECODE_LEAD_90K as i64)));
        (pts, base.saturating_sub(self.state.decode_lead_90k).min(pts))
    }

    /// Begins a PES packet (ISO/IEC 13818-1 section 2.4.3.6) with its length still open.
    fn start_pes(&mut self, stream_id: u8, pts: u64, dts: u64) {
        self.before.clear();
        self.before.extend_from_slice(&[0, 0, 1, stream_id, 0, 0, 0x84]); // data_alignment_indicator
        if pts == dts {
            self.before.extend_from_slice(&[0x80, 5]);
            self.before.extend_from_slice(&timestamp(2, pts));
        } else {
            self.before.extend_from_slice(&[0xc0, 10]);
            self.before.extend_from_slice(&timestamp(3, pts));
            self.before.extend_from_slice(&timestamp(1, dts));
        }
    }

    /// Fills in the length of the PES packet; a video packet too long for 16 bits says 0, which is allowed for video only.
    fn close_pes(&mut self, bytes: usize) {
        let length = u16::try_from(bytes - 6).unwrap_or(0);
        self.before[4..6].copy_from_slice(&length.to_be_bytes());
    }
}

fn clock_reference(dts: u64) -> u64 {
    dts.saturating_sub(PCR_LEAD_90K) & TIMESTAMP_MASK
}

/// A timestamp with its marker bits; `prefix` is 2 for a lone PTS, 3 for a PTS before a DTS, 1 for a DTS.
fn timestamp(prefix: u8, ticks: u64) -> [u8; 5] {
    let ticks = ticks & TIMESTAMP_MASK;
    [prefix << 4 | (ticks >> 29) as u8 & 0x0e | 1, (ticks >> 22) as u8, (ticks >> 14) as u8 | 1, (ticks >> 7) as u8, (ticks << 1) as u8 | 1]
}

/// A section is padded with 0xFF behind it, not with an adaptation field, because some players read no other tables.
fn write_section(out: &mut Vec<u8>, pid: u16, counter: &mut Counter, mut section: Vec<u8>) {
    let room = if counter.is_broken() { PACKET_BYTES - 4 - 2 } else { PACKET_BYTES - 4 };
    section.resize(room, 0xff);
    write_unit(out, pid, counter, UnitStart::default(), &section);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOTH: Program = Program { video: Some(VideoKind::H264), audio: Some(AudioKind::Aac) };

    fn avc() -> VideoConfig {
        VideoConfig::parse(VideoKind::H264, b"\x01\x64\0\x1f\xff\xe1\0\x01\x67\x01\0\x01\x68").unwrap()
    }

    fn read_timestamp(bytes: &[u8]) -> u64 {
        let b: Vec<u64> = bytes[..5].iter().map(|&b| u64::from(b)).collect();
        assert!(b[0] & b[2] & b[4] & 1 == 1, "marker bits");
        (b[0] >> 1 & 7) << 30 | b[1] << 22 | (b[2] >> 1) << 15 | b[3] << 7 | b[4] >> 1
    }

    /// PES packets by PID, with continuity checked on the way.
    fn pes_of(out: &[u8], pid: u16) -> Vec<Vec<u8>> {
        let (mut all, mut counter): (Vec<Vec<u8>>, Option<u8>) = (Vec::new(), None);
        for packet in out.chunks(188).filter(|p| u16::from_be_bytes([p[1] & 0x1f, p[2]]) == pid) {
            assert_eq!(counter.replace(packet[3] & 15).map_or(packet[3] & 15, |c| (c + 1) & 15), packet[3] & 15);
            let skip = if packet[3] & 0x20 != 0 { 5 + usize::from(packet[4]) } else { 4 };
            if packet[1] & 0x40 != 0 {
                all.push(Vec::new());
            }
            all.last_mut().unwrap().extend_from_slice(&packet[skip..]);
        }
        all
    }

    #[test]
    fn times_wrap_at_33_bits() {
        let mut muxer = Muxer::default();
        let mut out = Vec::new();
        muxer.write_tables(&mut out, BOTH);
        let dts_90k = (1 << 33) - START_90K - 1;
        muxer.write_video(&mut out, &avc(), VideoFrame { dts_90k, composition_ms: 40, keyframe: true, units: b"\0\0\0\x01\x65" });
        let pes = pes_of(&out, VIDEO_PID);
        assert_eq!(read_timestamp(&pes[0][9..]), 3599);
        assert_eq!(read_timestamp(&pes[0][14..]), (1 << 33) - 1);
    }

    #[test]
    fn a_negative_composition_time_moves_decoding_not_presentation() {
        let mut muxer = Muxer::default();
        let mut shown = Vec::new();
        for (frame, composition_ms) in [(0, 0), (1, 40), (2, -40), (3, 0)] {
            let (pts, dts) = muxer.video_times(frame * 3600, composition_ms);
            assert!(dts <= pts);
            shown.push((pts - START_90K) / 3600);
        }
        assert_eq!(shown, [0, 2, 1, 3]);
        assert_eq!(muxer.video_times(4 * 3600, 0).1, START_90K + 3 * 3600);
    }

    #[test]
    fn a_new_program_has_a_new_version() {
        let mut muxer = Muxer::default();
        let versions = [BOTH, BOTH, Program { audio: None, ..BOTH }].map(|program| {
            let mut out = Vec::new();
            muxer.write_tables(&mut out, program);
            out[188 + 4 + 6] >> 1 & 31
        });
        assert_eq!(versions, [0, 0, 1]);
    }

    proptest! {
        #[test]
        fn lengths_and_counters_are_right(frames in prop::collection::vec((any::<bool>(), any::<u64>(), any::<i32>(), 0_usize..70_000), 1..20)) {
            let mut muxer = Muxer::default();
            let (mut out, mut sent) = (Vec::new(), (0, 0));
            muxer.write_tables(&mut out, BOTH);
            for (video, time, cts, bytes) in frames {
                muxer = Muxer::new(muxer.state().clone());
                if video {
                    let units = [&(bytes as u32).to_be_bytes()[..], &vec![0x65; bytes]].concat();
                    let frame = VideoFrame { dts_90k: time, composition_ms: cts >> 8, keyframe: time % 2 == 0, units: &units };
                    muxer.write_video(&mut out, &avc(), frame);
                    sent.0 += 1;
                } else if AudioConfig::Mp3.accepts(&vec![0xff; bytes]) {
                    muxer.write_audio(&mut out, AudioConfig::Mp3, time, &vec![0xff; bytes]);
                    sent.1 += 1;
                }
            }
            for (pid, count) in [(VIDEO_PID, sent.0), (AUDIO_PID, sent.1), (PAT_PID, 1), (PMT_PID, 1)] {
                let all = pes_of(&out, pid);
                prop_assert_eq!(all.len(), count);
                for pes in all.iter().filter(|_| pid == VIDEO_PID || pid == AUDIO_PID) {
                    let length = usize::from(u16::from_be_bytes([pes[4], pes[5]]));
                    prop_assert!(length == pes.len() - 6 || (length == 0 && pes.len() > 65_541 && pid == VIDEO_PID));
                }
            }
        }
    }
}
