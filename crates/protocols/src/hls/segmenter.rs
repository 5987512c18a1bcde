//! Cuts a stream's records into MPEG-TS segments.
//!
//! Same state and same records give the same bytes: a segmenter that is restored from [`Segmenter::state`] and fed again from the
//! record that opened the next segment goes on as if nothing had happened. A segment ends with its [`SegmentInfo`] packet.
//! Nothing here reads a clock, and no record makes it panic; what is broken costs itself only.
//!
//! Frames are written in the order in which they come. Durations are differences of decoding times, so that they add up to the
//! stream's span without drift. How many segments a stream may have is not decided here: hostile timestamps can ask for one per
//! record.

mod clock;
mod hold;
mod state;
#[cfg(test)]
mod tests;

use self::clock::ticks;
use self::hold::Hold;
pub use self::state::{SegmenterOptions, SegmenterState};
use super::SegmentInfo;
use crate::mpegts::input::{Input, Media};
use crate::mpegts::{AudioConfig, Muxer, Program, VideoConfig, VideoFrame};
use braidcast_media::RecordKind;
use braidcast_media::tag::Codec;
use std::collections::VecDeque;

/// Frames that a segment holds before a jump of the timestamps may end it; in a younger one the jumping frames are dropped,
/// so that timestamps that jump to and fro do not make a segment each.
const MIN_FRAMES_BEFORE_JUMP: u32 = 32;
/// So many bytes of the open segment wait at most before they should be drained.
const MOST_WAITING_BYTES: usize = 256 << 10;

/// What a segmenter has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SegmenterOutput {
    /// A segment begins; the bytes that follow are its own.
    Started {
        /// Its number.
        number: u64,
    },
    /// Bytes of the segment, a multiple of 188.
    Bytes(Vec<u8>),
    /// The segment is complete. If this comes out of [`Segmenter::handle_record`], that record opened the next segment: a
    /// restart goes on with it from [`Segmenter::state`]; otherwise with the next record.
    Finished(SegmentInfo),
    /// A codec that the segments do not carry, or not as it is configured; told once of each publisher.
    Unsupported(Codec),
}

/// A frame with its record and its times.
#[derive(Clone, Copy, Debug)]
struct Frame<'a> {
    kind: RecordKind,
    media: Media<'a>,
    /// The whole payload of its record.
    payload: &'a [u8],
    /// Decoding time, unwrapped.
    time_ms: u64,
    /// When it was written.
    wall_ms: u64,
}

/// The open segment.
#[derive(Debug)]
struct Open {
    program: Program,
    start_90k: u64,
    wall_start_ms: u64,
    wall_last_ms: u64,
    discontinuity: bool,
    independent: bool,
    frames: u32,
    has_video: bool,
    /// The latest decoding time in it.
    last_90k: u64,
}

/// When the open segment may end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// After so many more milliseconds of media.
    pub in_ms: u64,
    /// And not before a keyframe.
    pub by_keyframe: bool,
}

#[derive(Debug)]
enum Phase {
    Waiting(Hold),
    Open(Open),
}

/// Whether a frame goes into the open segment.
enum Verdict {
    Write,
    Drop,
    Cut,
}

/// See the module's head.
#[derive(Debug)]
pub struct Segmenter {
    options: SegmenterOptions,
    live: SegmenterState,
    saved: SegmenterState,
    muxer: Muxer,
    phase: Phase,
    outputs: VecDeque<SegmenterOutput>,
    /// Empty: room for the next [`SegmenterOutput::Bytes`].
    spare: Vec<u8>,
}

impl Segmenter {
    /// Goes on from `state`.
    pub fn new(options: SegmenterOptions, state: SegmenterState) -> Self {
        Self {
            options,
            muxer: Muxer::new(state.muxer.clone()),
            saved: state.clone(),
            live: state,
            phase: Phase::Waiting(Hold::default()),
            outputs: VecDeque::new(),
            spare: Vec::new(),
        }
    }

    /// What a restart needs as of the last [`SegmenterOutput::Finished`]; the open segment is to be redone.
    pub fn state(&self) -> &SegmenterState {
        &self.saved
    }

    /// The next output, in order. The caller drains it after every input that leaves the segmenter [`Segmenter::is_eventful`], and
    /// before it waits for more.
    pub fn poll_output(&mut self) -> Option<SegmenterOutput> {
        self.outputs.pop_front()
    }

    /// Whether there is more to say than some bytes of the open segment, which may wait until there are more of them.
    pub fn is_eventful(&self) -> bool {
        match self.outputs.front() {
            None => false,
            Some(SegmenterOutput::Bytes(bytes)) => self.outputs.len() > 1 || bytes.len() >= MOST_WAITING_BYTES,
            Some(_) => true,
        }
    }

    /// Lends a buffer, whose contents are lost, for the bytes to come.
    pub fn lend(&mut self, mut buffer: Vec<u8>) {
        buffer.clear();
        self.spare = buffer;
    }

    /// Gives back a buffer that was lent and is not in use.
    pub fn take_lent(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.spare)
    }

    /// When the open segment may end, as far as is known; `None`: none is open, or any record may end it.
    pub fn due(&self) -> Option<Due> {
        let Phase::Open(open) = &self.phase else { return None };
        let limit_90k = ticks(u64::from(self.options.fragment_ms));
        let left_90k = limit_90k.saturating_sub(open.last_90k.saturating_sub(open.start_90k));
        (!self.live.changed).then_some(Due { in_ms: left_90k / ticks(1), by_keyframe: open.program.video.is_some() })
    }

    /// Takes the next record: `timestamp_ms` as in its tag, `wall_ms` Unix milliseconds at which it was written.
    /// Sequence headers may be repeated at any time.
    pub fn handle_record(&mut self, kind: RecordKind, timestamp_ms: u32, payload: &[u8], wall_ms: u64) {
        match Input::read(kind, payload) {
            Input::VideoConfig(kind, record) => match VideoConfig::parse(kind, record) {
                Some(config) => self.set_video(config),
                None => self.report(kind.into()),
            },
            Input::AudioConfig(codec, header) => {
                let config = AudioConfig::parse(codec, header);
                if config.is_none() {
                    self.report(codec.into());
                }
                self.set_audio(config);
            }
            Input::Frame(media) => {
                if self.carries(&media) {
                    self.handle_frame(Frame { kind, media, payload, time_ms: 0, wall_ms }, timestamp_ms);
                }
            }
            Input::Unsupported(codec) => self.report(codec),
            Input::Nothing => {}
        }
    }

    /// What follows does not continue what was: ends the open segment; the next one carries a discontinuity.
    pub fn discontinuity(&mut self) {
        if self.end_here() {
            self.saved = self.live.clone();
        }
        for state in [&mut self.live, &mut self.saved] {
            state.break_off();
            state.discontinuity = true;
        }
    }

    /// Another publisher goes on with the stream: a discontinuity, and what it sends that is not carried is told of anew.
    pub fn publisher_changed(&mut self) {
        self.discontinuity();
        self.live.reported.clear();
        self.saved.reported.clear();
    }

    /// The stream has ended: ends the open segment. Records may follow all the same.
    pub fn finish(&mut self) {
        if self.end_here() {
            self.live.break_off();
            self.saved = self.live.clone();
        }
    }

    fn report(&mut self, codec: Codec) {
        if self.live.is_news(codec) {
            self.outputs.push_back(SegmenterOutput::Unsupported(codec));
        }
    }

    fn set_video(&mut self, config: VideoConfig) {
        if self.live.video.as_ref() == Some(&config) {
            return;
        }
        if matches!(&self.phase, Phase::Waiting(hold) if hold.has_keyframe()) {
            self.open_held();
        }
        self.live.video = Some(config);
        self.live.changed |= self.live.program.is_some_and(|program| program.video.is_some());
    }

    fn set_audio(&mut self, config: Option<AudioConfig>) {
        if self.live.audio == config {
            return;
        }
        if let Phase::Waiting(hold) = &mut self.phase
            && hold.has_audio()
        {
            if hold.openable() {
                self.open_held();
            } else {
                hold.drop_all();
            }
        }
        self.live.audio = config;
        self.live.audio_announced = config.is_some();
        self.live.changed |= self.live.program.is_some_and(|program| program.audio.is_some());
    }

    /// The frame is whole and its decoder is configured. A frame that says all of itself configures it.
    fn carries(&mut self, media: &Media<'_>) -> bool {
        match *media {
            Media::Video { kind, units, .. } => {
                self.live.video.as_ref().is_some_and(|config| config.kind() == kind && config.accepts(units))
            }
            Media::Audio(codec, frame) => {
                let configured = self.live.audio.filter(|config| config.kind().codec() == codec);
                let config = configured.or_else(|| AudioConfig::of_frames(codec));
                let carries = config.is_some_and(|config| config.accepts(frame));
                if carries {
                    self.set_audio(config);
                }
                carries
            }
        }
    }

    fn handle_frame(&mut self, mut frame: Frame<'_>, timestamp_ms: u32) {
        let (time_ms, step_ms) = self.live.clock.place(timestamp_ms);
        frame.time_ms = time_ms;
        if step_ms > self.options.max_jump_ms && !self.follow_jump() {
            return;
        }
        if matches!(&self.phase, Phase::Waiting(hold) if hold.expired(time_ms, self.options.patience())) {
            self.open_held();
        }
        match self.verdict(&frame) {
            Verdict::Write => {}
            Verdict::Drop => return self.live.clock.set(timestamp_ms),
            Verdict::Cut => self.cut(&frame),
        }
        self.live.clock.set(timestamp_ms);
        match &mut self.phase {
            Phase::Open(_) => self.write(&frame),
            Phase::Waiting(_) if self.live.program.is_some() => {
                if self.live.changed {
                    self.live.apply_change(self.live.program.is_some_and(|program| program.video.is_some()) || frame.media.is_video());
                }
                self.open(&frame, frame.time_ms, frame.wall_ms);
                self.write(&frame);
            }
            Phase::Waiting(hold) => {
                hold.push(&frame, self.options.patience());
                let complete = hold.has_keyframe() && (self.live.audio_announced || hold.has_audio());
                if complete || (hold.full() && hold.openable()) {
                    self.open_held();
                }
            }
        }
    }

    /// The timestamps have jumped. False if the frame is to be dropped for it.
    fn follow_jump(&mut self) -> bool {
        match &mut self.phase {
            Phase::Waiting(hold) => hold.drop_all(),
            Phase::Open(open) if open.frames < MIN_FRAMES_BEFORE_JUMP => {
                open.frames += 1;
                return false;
            }
            Phase::Open(_) => self.discontinuity(),
        }
        true
    }

    fn verdict(&mut self, frame: &Frame<'_>) -> Verdict {
        let Phase::Open(open) = &self.phase else {
            return Verdict::Write;
        };
        let age_90k = ticks(frame.time_ms).saturating_sub(open.start_90k);
        let reached = |limit_ms: u32| age_90k >= ticks(u64::from(limit_ms));
        let announced = match frame.media {
            Media::Video { kind, .. } => open.program.video == Some(kind),
            Media::Audio(codec, _) => open.program.audio.is_some_and(|kind| kind.codec() == codec),
        };
        if !announced && frame.media.is_video() && !frame.media.is_keyframe() {
            return Verdict::Drop;
        }
        self.live.changed |= !announced;
        let may_start = frame.media.is_keyframe() || !(open.program.video.is_some() || frame.media.is_video());
        if reached(self.options.hard_max_ms) || (may_start && (self.live.changed || reached(self.options.fragment_ms))) {
            Verdict::Cut
        } else if announced {
            Verdict::Write
        } else {
            Verdict::Drop
        }
    }

    /// Ends the open segment where `frame` starts, which opens the next one.
    fn cut(&mut self, frame: &Frame<'_>) {
        let Phase::Open(open) = &self.phase else {
            return;
        };
        let end_90k = ticks(frame.time_ms).max(open.start_90k);
        // Video that was missing for a whole segment is announced again when it comes back.
        let video = frame.media.is_keyframe() || (open.program.video.is_some() && (open.has_video || frame.media.is_video()));
        let changed = self.live.changed || video != open.program.video.is_some();
        self.close(end_90k, frame.wall_ms);
        self.live.continue_at_90k = Some(end_90k);
        if changed {
            self.live.apply_change(video);
        }
        self.saved = self.live.clone();
    }

    /// Opens a segment with the frames that waited, if they make one.
    fn open_held(&mut self) {
        let Phase::Waiting(hold) = &mut self.phase else {
            return;
        };
        let (video, with_audio) = (hold.has_video(), hold.has_audio() || self.live.audio_announced);
        let frames = hold.take();
        let audio = self.live.audio.filter(|_| with_audio).map(AudioConfig::kind);
        let video = self.live.video.as_ref().map(VideoConfig::kind).filter(|_| video);
        self.live.program = Some(Program { video, audio });
        let start = frames.iter().min_by_key(|held| held.time_ms).map(|held| (held.time_ms, held.wall_ms));
        for held in &frames {
            let Input::Frame(media) = Input::read(held.kind, &held.payload) else {
                continue;
            };
            let frame = Frame { kind: held.kind, media, payload: &held.payload, time_ms: held.time_ms, wall_ms: held.wall_ms };
            if let (Phase::Waiting(_), Some((start_ms, wall_ms))) = (&self.phase, start) {
                self.open(&frame, start_ms, wall_ms);
            }
            self.write(&frame);
        }
    }

    /// Opens the segment whose first frame in the file is `frame`; early audio may start it at an earlier time.
    fn open(&mut self, frame: &Frame<'_>, start_ms: u64, wall_start_ms: u64) {
        let Some(program) = self.live.program else {
            return;
        };
        let discontinuity = std::mem::take(&mut self.live.discontinuity);
        self.live.discontinuity_sequence = self.live.discontinuity_sequence.saturating_add(u64::from(discontinuity));
        self.outputs.push_back(SegmenterOutput::Started { number: self.live.next_number });
        let start_90k = ticks(start_ms).max(self.live.continue_at_90k.take().unwrap_or_default());
        let mut bytes = std::mem::take(&mut self.spare);
        self.muxer.write_tables(&mut bytes, program);
        self.outputs.push_back(SegmenterOutput::Bytes(bytes));
        self.phase = Phase::Open(Open {
            program,
            start_90k,
            wall_start_ms,
            wall_last_ms: frame.wall_ms,
            discontinuity,
            independent: program.video.is_none() || frame.media.is_keyframe(),
            frames: 0,
            has_video: false,
            last_90k: start_90k,
        });
    }

    fn write(&mut self, frame: &Frame<'_>) {
        let Phase::Open(open) = &mut self.phase else {
            return;
        };
        let time_90k = ticks(frame.time_ms);
        open.frames = open.frames.saturating_add(1);
        open.wall_last_ms = frame.wall_ms;
        open.last_90k = open.last_90k.max(time_90k);
        let end = if frame.media.is_video() { &mut self.live.video_end } else { &mut self.live.audio_end };
        end.frame(time_90k);
        if !matches!(self.outputs.back(), Some(SegmenterOutput::Bytes(_))) {
            self.outputs.push_back(SegmenterOutput::Bytes(std::mem::take(&mut self.spare)));
        }
        let Some(SegmenterOutput::Bytes(out)) = self.outputs.back_mut() else {
            return;
        };
        match (frame.media, &self.live.video, self.live.audio) {
            (Media::Video { composition_ms, keyframe, units, .. }, Some(config), _) => {
                open.has_video = true;
                self.muxer.write_video(out, config, VideoFrame { dts_90k: time_90k, composition_ms, keyframe, units });
            }
            (Media::Audio(_, frame), _, Some(config)) => self.muxer.write_audio(out, config, time_90k, frame),
            _ => {}
        }
    }

    /// Ends the segment that is open or waits to be, where its last frame ends. False if there is none.
    fn end_here(&mut self) -> bool {
        if let Phase::Waiting(hold) = &mut self.phase {
            if hold.openable() {
                self.open_held();
            } else {
                hold.drop_all();
            }
        }
        let Phase::Open(open) = &self.phase else {
            return false;
        };
        let ends = [Some(open.start_90k), self.live.video_end.end_90k(), self.live.audio_end.end_90k()];
        let wall_ms = open.wall_last_ms;
        self.close(ends.into_iter().flatten().max().unwrap_or_default(), wall_ms);
        true
    }

    fn close(&mut self, media_end_90k: u64, wall_end_ms: u64) {
        let Phase::Open(open) = std::mem::replace(&mut self.phase, Phase::Waiting(Hold::default())) else {
            return;
        };
        let info = SegmentInfo {
            stream: self.live.stream.clone(),
            number: self.live.next_number,
            duration_90k: media_end_90k - open.start_90k,
            media_start_90k: open.start_90k,
            media_end_90k,
            wall_start_ms: open.wall_start_ms,
            wall_end_ms,
            discontinuity: open.discontinuity,
            discontinuity_sequence: self.live.discontinuity_sequence,
            independent: open.independent,
        };
        match self.outputs.back_mut() {
            Some(SegmenterOutput::Bytes(bytes)) => bytes.extend_from_slice(&info.to_packet()),
            _ => self.outputs.push_back(SegmenterOutput::Bytes(info.to_packet().to_vec())),
        }
        self.outputs.push_back(SegmenterOutput::Finished(info));
        self.live.next_number = self.live.next_number.saturating_add(1);
        self.live.muxer = self.muxer.state().clone();
    }
}
