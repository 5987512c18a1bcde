//! Media time: FLV's 32-bit milliseconds unwrapped to 90 kHz ticks, and how long the last frame of a track lasts.

use crate::mpegts::TICKS_PER_MS;
use serde::{Deserialize, Serialize};

/// Media time stops here (some 30,000 years), so that sums never overflow.
const MAX_MS: u64 = 1 << 50;
/// The length of a track's only frame: 1/30 s.
const LONE_FRAME_90K: u64 = 3000;
/// A longer gap between two frames of a track does not say how long a frame is: 1 s.
const MAX_FRAME_90K: u64 = 90_000;

/// Unwraps timestamps: each is taken to be at most 2^31 ms away from the one before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Clock {
    /// The last timestamp as sent, and unwrapped.
    last: Option<(u32, u64)>,
}

impl Clock {
    /// Whether a restored clock is one that timestamps lead to.
    pub(super) fn is_sound(&self) -> bool {
        self.last.is_none_or(|(_, unwrapped)| unwrapped <= MAX_MS)
    }

    /// Unwrapped milliseconds of a timestamp, and how far it lies from the one before. Changes nothing.
    pub(super) fn place(&self, timestamp_ms: u32) -> (u64, u32) {
        let Some((raw, unwrapped)) = self.last else {
            return (u64::from(timestamp_ms), 0);
        };
        let difference = timestamp_ms.wrapping_sub(raw) as i32;
        (unwrapped.saturating_add_signed(i64::from(difference)).min(MAX_MS), difference.unsigned_abs())
    }

    /// Makes a timestamp the last one.
    pub(super) fn set(&mut self, timestamp_ms: u32) {
        self.last = Some((timestamp_ms, self.place(timestamp_ms).0));
    }
}

/// 90 kHz ticks of unwrapped milliseconds.
pub(super) fn ticks(ms: u64) -> u64 {
    ms * TICKS_PER_MS // at most 2^50 * 90
}

/// When the last frame of a track ends: it is taken to be as long as the one before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TrackEnd {
    last_90k: Option<u64>,
    frame_90k: Option<u64>,
}

impl TrackEnd {
    /// As [`Clock::is_sound`].
    pub(super) fn is_sound(&self) -> bool {
        self.last_90k.is_none_or(|last| last <= ticks(MAX_MS)) && self.frame_90k.is_none_or(|frame| frame <= MAX_FRAME_90K)
    }

    /// A frame starts at `time_90k`.
    pub(super) fn frame(&mut self, time_90k: u64) {
        let since = self.last_90k.replace(time_90k).and_then(|last| time_90k.checked_sub(last));
        if let Some(since) = since.filter(|since| (1..=MAX_FRAME_90K).contains(since)) {
            self.frame_90k = Some(since);
        }
    }

    /// Nothing that comes belongs to what was; the length of frames is kept.
    pub(super) fn restart(&mut self) {
        self.last_90k = None;
    }

    /// The end of the last frame; `None` if there was none.
    pub(super) fn end_90k(&self) -> Option<u64> {
        Some(self.last_90k? + self.frame_90k.unwrap_or(LONE_FRAME_90K))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unwrapped(timestamps: &[u32]) -> Vec<u64> {
        let mut clock = Clock::default();
        let place = |&timestamp: &u32| {
            let (ms, _) = clock.place(timestamp);
            clock.set(timestamp);
            ms
        };
        timestamps.iter().map(place).collect()
    }

    #[test]
    fn a_wrap_goes_on_and_a_step_back_goes_back() {
        assert_eq!(unwrapped(&[u32::MAX - 10, 29, 20, 60]), [(1 << 32) - 11, (1 << 32) + 29, (1 << 32) + 20, (1 << 32) + 60]);
    }

    #[test]
    fn time_never_falls_below_zero() {
        assert_eq!(unwrapped(&[5, u32::MAX, 10]), [5, 0, 11]);
    }

    #[test]
    fn a_gap_is_no_frame_length() {
        let mut track = TrackEnd::default();
        track.frame(0);
        assert_eq!(track.end_90k(), Some(LONE_FRAME_90K));
        track.frame(3600);
        track.frame(903_600);
        assert_eq!(track.end_90k(), Some(907_200));
    }
}
