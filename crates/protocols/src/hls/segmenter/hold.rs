//! Frames kept back until it is clear with which tracks, and with which keyframe, a stream's first segment starts.
//!
//! Only the first segment after a start or a discontinuity waits here, for at most a second of media; the bounds below hold
//! whatever the timestamps say.

use super::Frame;
use braidcast_media::RecordKind;
use std::collections::VecDeque;

/// Frames that are kept at most.
const MAX_FRAMES: usize = 1024;
/// Payload bytes that are kept at most, a single frame excepted.
const MAX_BYTES: usize = 8 << 20;

/// A record that waits.
#[derive(Debug)]
pub(super) struct Held {
    pub kind: RecordKind,
    pub time_ms: u64,
    pub wall_ms: u64,
    pub payload: Vec<u8>,
}

/// How long to wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// For the other track; and how much audio before the keyframe is kept.
    pub track_ms: u64,
    /// For a keyframe.
    pub keyframe_ms: u64,
}

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct Hold {
    frames: VecDeque<Held>,
    bytes: usize,
    first_ms: Option<u64>,
    keyframe_ms: Option<u64>,
    /// Video frames came before any keyframe and were dropped.
    mid_group: bool,
}

impl Hold {
    /// The wait is over at this time, whatever has come.
    pub(super) fn expired(&self, time_ms: u64, patience: Patience) -> bool {
        let (since, wait) = match self.keyframe_ms {
            Some(keyframe_ms) => (Some(keyframe_ms), patience.track_ms),
            None if self.mid_group => (self.first_ms, patience.keyframe_ms),
            None => (self.first_ms, patience.track_ms),
        };
        since.is_some_and(|since| time_ms.saturating_sub(since) >= wait)
    }

    /// A segment that starts as it should can be made of what is here.
    pub(super) fn openable(&self) -> bool {
        !self.frames.is_empty() && (self.keyframe_ms.is_some() || !self.mid_group)
    }

    /// No more can be kept.
    pub(super) fn full(&self) -> bool {
        self.frames.len() >= MAX_FRAMES || self.bytes >= MAX_BYTES
    }

    /// There is video to be written: a keyframe, or frames whose keyframe is not waited for any longer.
    pub(super) fn has_video(&self) -> bool {
        self.keyframe_ms.is_some() || self.mid_group
    }

    /// There is audio among the frames.
    pub(super) fn has_audio(&self) -> bool {
        self.frames.iter().any(|held| held.kind == RecordKind::Audio)
    }

    /// A keyframe is here.
    pub(super) fn has_keyframe(&self) -> bool {
        self.keyframe_ms.is_some()
    }

    /// Keeps a frame, or drops it if it is of no use to a start.
    pub(super) fn push(&mut self, frame: &Frame<'_>, patience: Patience) {
        self.first_ms.get_or_insert(frame.time_ms);
        let earliest = frame.time_ms.saturating_sub(patience.track_ms);
        if self.keyframe_ms.is_none() {
            if frame.media.is_keyframe() {
                self.keyframe_ms = Some(frame.time_ms);
                self.drop_before(earliest);
            } else if frame.media.is_video() {
                self.mid_group = true;
                return;
            } else if self.mid_group {
                self.drop_before(earliest);
            }
        }
        self.bytes += frame.payload.len();
        let (kind, time_ms, wall_ms) = (frame.kind, frame.time_ms, frame.wall_ms);
        self.frames.push_back(Held { kind, time_ms, wall_ms, payload: frame.payload.to_vec() });
        while self.full() && !self.openable() {
            self.drop_first();
        }
    }

    /// The frames, the keyframe first: audio that came before it is written after it.
    pub(super) fn take(&mut self) -> VecDeque<Held> {
        let mut frames = std::mem::take(self).frames;
        if let Some(at) = frames.iter().position(|held| held.kind == RecordKind::Video)
            && let Some(keyframe) = frames.remove(at)
        {
            frames.push_front(keyframe);
        }
        frames
    }

    /// Forgets all frames; the wait starts anew.
    pub(super) fn drop_all(&mut self) {
        *self = Self::default();
    }

    fn drop_before(&mut self, time_ms: u64) {
        while self.frames.front().is_some_and(|held| held.time_ms < time_ms) {
            self.drop_first();
        }
    }

    fn drop_first(&mut self) {
        if let Some(held) = self.frames.pop_front() {
            self.bytes -= held.payload.len();
        }
    }
}
