//! How a segmenter cuts, and what it carries from one segment to the next.

use super::clock::{Clock, TrackEnd};
use super::hold::Patience;
use crate::mpegts::{AudioConfig, MuxerState, Program, VideoConfig};
use braidcast_media::tag::Codec;
use serde::{Deserialize, Serialize};

/// Codecs that are reported as unsupported at most; a peer that invents more is not told.
const MAX_REPORTED: usize = 8;

/// How to cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmenterOptions {
    /// A segment ends with the first keyframe (of audio alone: frame) at or after so many milliseconds of media.
    pub fragment_ms: u32,
    /// Without keyframes it ends after so many milliseconds of media.
    pub hard_max_ms: u32,
    /// At a start, milliseconds of media to wait for the other track, and audio kept from before the keyframe.
    pub track_wait_ms: u32,
    /// A step of the timestamps by more milliseconds than this, in either direction, is a discontinuity.
    pub max_jump_ms: u32,
}

impl SegmenterOptions {
    /// The usual relations: three fragments at most without a keyframe, a second (half a fragment at most) for the other track.
    pub fn new(fragment_ms: u32) -> Self {
        let fragment_ms = fragment_ms.max(1);
        let hard_max_ms = fragment_ms.saturating_mul(3);
        Self { fragment_ms, hard_max_ms, track_wait_ms: (fragment_ms / 2).min(1000), max_jump_ms: hard_max_ms.max(10_000) }
    }

    pub(super) fn patience(&self) -> Patience {
        Patience { track_ms: u64::from(self.track_wait_ms), keyframe_ms: u64::from(self.hard_max_ms) }
    }
}

/// All that a restart needs, as of the end of a segment. It grows with the decoder configuration only (some 8 KiB at most).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmenterState {
    /// `vhost/app/stream`, for [`SegmentInfo::stream`].
    pub stream: String,
    /// The number of the next segment.
    pub next_number: u64,
    /// Discontinuities so far.
    pub discontinuity_sequence: u64,
    /// The next segment starts with a discontinuity.
    pub(super) discontinuity: bool,
    pub(super) video: Option<VideoConfig>,
    pub(super) audio: Option<AudioConfig>,
    /// An audio configuration has come since the start or the last discontinuity: audio is announced before its first frame.
    pub(super) audio_announced: bool,
    /// The tracks of the segments; `None`: to be found out with the next frames.
    pub(super) program: Option<Program>,
    /// A codec or its configuration has changed: the next keyframe (of audio alone: frame) starts a segment.
    pub(super) changed: bool,
    /// Where the next segment starts, if it continues the last one.
    pub(super) continue_at_90k: Option<u64>,
    pub(super) clock: Clock,
    pub(super) video_end: TrackEnd,
    pub(super) audio_end: TrackEnd,
    pub(super) muxer: MuxerState,
    pub(super) reported: Vec<Codec>,
}

impl SegmenterState {
    /// A stream without history whose first segment is to have this number.
    pub fn new(stream: impl Into<String>, next_number: u64) -> Self {
        Self {
            stream: stream.into(),
            next_number,
            discontinuity_sequence: 0,
            discontinuity: false,
            video: None,
            audio: None,
            audio_announced: false,
            program: None,
            changed: false,
            continue_at_90k: None,
            clock: Clock::default(),
            video_end: TrackEnd::default(),
            audio_end: TrackEnd::default(),
            muxer: MuxerState::default(),
            reported: Vec::new(),
        }
    }

    /// Whether a restored state is one that a segmenter can come to: only such a one may be gone on from.
    pub fn is_sound(&self) -> bool {
        let codecs_ok = self.video.as_ref().is_none_or(VideoConfig::is_sound) && self.audio.is_none_or(|audio| audio.is_sound());
        let times_ok = self.clock.is_sound() && self.video_end.is_sound() && self.audio_end.is_sound();
        codecs_ok && times_ok && self.muxer.is_sound()
    }

    /// Forgets what does not survive an interruption.
    pub(super) fn break_off(&mut self) {
        self.program = None;
        self.continue_at_90k = None;
        self.audio_announced = false;
        self.changed = false;
        self.video_end.restart();
        self.audio_end.restart();
    }

    /// True if this codec has not been told of before.
    pub(super) fn is_news(&mut self, codec: Codec) -> bool {
        let news = self.reported.len() < MAX_REPORTED && !self.reported.contains(&codec);
        if news {
            self.reported.push(codec);
        }
        news
    }

    /// Puts a change of codecs into effect: the next segment has other tracks and does not continue the last.
    pub(super) fn apply_change(&mut self, video: bool) {
        self.changed = false;
        self.discontinuity = true;
        let video = self.video.as_ref().map(VideoConfig::kind).filter(|_| video);
        self.program = Some(Program { video, audio: self.audio.map(AudioConfig::kind) });
    }
}
