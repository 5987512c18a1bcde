//! When a stream's viewers are sent what it has gained: at once, or with what comes after it.
//!
//! A send costs the same however much it carries, so whoever has little time sends less often. Decides only; knows of no
//! socket and reads no clock.

use super::shares::{Need, Share};
use crate::config::Latency;

/// How long audio waits for a video frame to go with, milliseconds: a frame of 24 per second comes in that time.
const AUDIO_WAIT_MS: u64 = 45;
/// How long frames are counted before their rate is believed, milliseconds.
const COUNTED_MS: u64 = 500;
/// What is believed before, frames per second.
const ASSUMED_RATE: u64 = 30;

/// What a stream's fan-out does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Nothing: there is no news.
    Idle,
    /// What is there goes at this time (monotonic milliseconds); sooner if a video frame comes.
    Riding(u64),
    /// A round begins at this time, whatever comes.
    Set(u64),
    /// It is in the worker's queue, or under way.
    Queued,
}

/// The pace of one stream's fan-out.
#[derive(Debug)]
pub struct Pace {
    latency: Latency,
    max_batch_ms: u64,
    /// See [`Turn`].
    pub turn: Turn,
    round_began_ms: u64,
    /// What the round that is under way has taken so far.
    spent_us: u64,
    /// What the last whole round has taken.
    cost_us: u64,
    /// Video frames since `counted_from_ms`.
    frames: u64,
    counted_from_ms: u64,
    frames_per_second: u64,
}

impl Pace {
    /// Of a stream that had no round yet.
    pub fn new(latency: Latency, max_batch_ms: u64, now_ms: u64) -> Self {
        Self {
            latency,
            max_batch_ms,
            turn: Turn::Idle,
            round_began_ms: 0,
            spent_us: 0,
            cost_us: 0,
            frames: 0,
            counted_from_ms: now_ms,
            frames_per_second: ASSUMED_RATE,
        }
    }

    /// So many video frames have come.
    pub fn count(&mut self, frames: u64) {
        self.frames += frames;
    }

    /// What the stream would take of the worker's time, as far as is known.
    pub fn need(&mut self, now_ms: u64) -> Need {
        let counted_ms = now_ms.saturating_sub(self.counted_from_ms);
        if counted_ms >= COUNTED_MS {
            self.frames_per_second = self.frames * 1_000 / counted_ms;
            (self.frames, self.counted_from_ms) = (0, now_ms);
        }
        // Without video, audio decides.
        let most_us = self.cost_us * self.frames_per_second.max(1_000 / AUDIO_WAIT_MS);
        let every = |batch_ms: u64| most_us.min(self.cost_us * 1_000 / batch_ms.max(1));
        match self.latency {
            Latency::Low => Need { least_us: most_us, most_us },
            Latency::Balanced => Need { least_us: every(self.max_batch_ms), most_us },
            Latency::Frugal => Need { least_us: every(self.max_batch_ms), most_us: every(self.max_batch_ms) },
            Latency::Fixed(span) => Need { least_us: every(span.as_ms()), most_us: every(span.as_ms()) },
        }
    }

    /// Something new is there; `share` is what each stream may take of the worker's time.
    pub fn news(&mut self, has_video: bool, now_ms: u64, share: Share) -> Turn {
        let next_ms = self.round_began_ms + self.gap_ms(share);
        let at_ms = match (has_video, self.turn) {
            (true, _) => next_ms,
            (false, Turn::Riding(at_ms)) => at_ms,
            (false, _) => next_ms.max(now_ms + AUDIO_WAIT_MS),
        };
        self.turn = match has_video {
            _ if at_ms <= now_ms => Turn::Queued,
            true => Turn::Set(at_ms),
            false => Turn::Riding(at_ms),
        };
        self.turn
    }

    /// The time that a turn was set for has come; false if that turn is not wanted any more.
    pub fn is_due(&mut self, at_ms: u64) -> bool {
        let due = matches!(self.turn, Turn::Riding(set) | Turn::Set(set) if set == at_ms);
        if due {
            self.turn = Turn::Queued;
        }
        due
    }

    /// A round begins.
    pub fn begin_round(&mut self, now_ms: u64) {
        self.round_began_ms = now_ms;
        self.spent_us = 0;
    }

    /// The round took so many microseconds more.
    pub fn spend(&mut self, us: u64) {
        self.spent_us += us;
    }

    /// The round is over: everybody was served. Says what the round before took, and what this one has.
    pub fn end_round(&mut self) -> (u64, u64) {
        self.turn = Turn::Idle;
        (std::mem::replace(&mut self.cost_us, self.spent_us), self.spent_us)
    }

    /// What the last whole round has taken, microseconds.
    pub fn cost_us(&self) -> u64 {
        self.cost_us
    }

    /// From the begin of one round to the begin of the next, at least.
    fn gap_ms(&self, share: Share) -> u64 {
        match self.latency {
            Latency::Low => 0,
            Latency::Balanced => share.gap_ms(self.cost_us).min(self.max_batch_ms),
            Latency::Frugal => self.max_batch_ms,
            Latency::Fixed(span) => span.as_ms(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::shares::FAN_OUT_PERMILLE;
    use super::*;
    use crate::config::Span;
    use proptest::prelude::*;

    const MAX_BATCH_MS: u64 = 350;

    fn pace(latency: Latency) -> Pace {
        Pace::new(latency, MAX_BATCH_MS, 0)
    }

    #[test]
    fn a_video_frame_goes_at_once_and_audio_with_it() {
        let mut pace = pace(Latency::Low);
        assert_eq!(pace.news(false, 1_000, Share::ALL), Turn::Riding(1_000 + AUDIO_WAIT_MS));
        assert_eq!(pace.news(false, 1_020, Share::ALL), Turn::Riding(1_000 + AUDIO_WAIT_MS), "more audio waits no longer");
        assert_eq!(pace.news(true, 1_030, Share::ALL), Turn::Queued);
        assert!(!pace.is_due(1_000 + AUDIO_WAIT_MS), "it went with the frame");
        pace.begin_round(1_030);
        pace.end_round();
        assert_eq!(pace.news(false, 1_040, Share::ALL), Turn::Riding(1_040 + AUDIO_WAIT_MS));
        assert!(pace.is_due(1_040 + AUDIO_WAIT_MS));
        assert_eq!(pace.turn, Turn::Queued);
    }

    #[test]
    fn batches_are_as_long_as_was_said() {
        for (latency, gap_ms) in [(Latency::Frugal, MAX_BATCH_MS), (Latency::Fixed(Span::ms(80)), 80), (Latency::Low, 0)] {
            let mut pace = pace(latency);
            pace.begin_round(5_000);
            pace.end_round();
            let turn = pace.news(true, 5_000, Share::ALL);
            assert_eq!(turn, if gap_ms == 0 { Turn::Queued } else { Turn::Set(5_000 + gap_ms) }, "{latency:?}");
            assert!(!pace.is_due(5_000 + gap_ms + 1) && pace.is_due(5_000 + gap_ms) == (gap_ms > 0), "{latency:?}");
        }
    }

    #[test]
    fn who_has_time_waits_for_nothing_and_who_has_none_sends_less_often() {
        let gap_of = |cost_us| {
            let mut pace = Pace { cost_us, ..pace(Latency::Balanced) };
            let share = Share::of(&[pace.need(0)]);
            pace.gap_ms(share)
        };
        // 1,000 viewers: every frame of 30 a second finds the gap over. 10,000: ten rounds in a second take no more than the share.
        assert_eq!(gap_of(7_000), 0);
        assert_eq!(gap_of(70_000), 100);
        assert_eq!(gap_of(10_000_000), MAX_BATCH_MS);
    }

    #[test]
    fn a_stream_needs_what_its_frames_need() {
        let mut pace = Pace { cost_us: 1_000, ..pace(Latency::Balanced) };
        assert_eq!(pace.need(100), Need { least_us: 1_000_000 / MAX_BATCH_MS, most_us: 30_000 }, "nothing is known yet");
        pace.count(60);
        assert_eq!(pace.need(1_000).most_us, 60_000);
        pace.count(1);
        assert_eq!(pace.need(1_100).most_us, 60_000, "a tenth of a second tells nothing");
        assert_eq!(pace.need(3_000).most_us, 1_000 * (1_000 / AUDIO_WAIT_MS), "audio alone");
        pace.latency = Latency::Fixed(Span::ms(100));
        assert_eq!(pace.need(3_000), Need { least_us: 10_000, most_us: 10_000 });
        pace.latency = Latency::Frugal;
        assert_eq!(pace.need(3_000).most_us, 1_000_000 / MAX_BATCH_MS);
    }

    proptest! {
        /// Streams of any sizes, on a worker whose rounds take exactly their cost: the fan-out keeps its part of the time as long as the longest batch
        /// allows it, nobody waits longer than that batch and the rounds of the others, nobody starves, and who needs less than an equal share of
        /// the time waits for nothing but rounds that are under way.
        #[test]
        fn balanced_streams_share_the_worker(costs_us in proptest::collection::vec(100u64..40_000, 1..8), frame_ms in 16u64..50) {
            let load_us: u64 = costs_us.iter().sum();
            let mut paces: Vec<Pace> = costs_us.iter().map(|cost_us| Pace { cost_us: *cost_us, ..pace(Latency::Balanced) }).collect();
            let mut waiting_since: Vec<Option<u64>> = vec![None; costs_us.len()];
            let (mut now_us, mut busy_us, mut rounds) = (1_000_000u64, 0, vec![0u32; costs_us.len()]);
            let (end_us, mut frame_at_us) = (now_us + 20_000_000, now_us);
            let (mut share, mut shared_us) = (Share::ALL, 0);
            let equal_us = 1_000 * FAN_OUT_PERMILLE / costs_us.len() as u64;
            while now_us < end_us {
                let now_ms = now_us / 1_000;
                if shared_us <= now_us {
                    shared_us = now_us + 100_000;
                    share = Share::of(&paces.iter_mut().map(|pace| pace.need(now_ms)).collect::<Vec<_>>());
                }
                while frame_at_us <= now_us {
                    frame_at_us += frame_ms * 1_000;
                    for (pace, since) in paces.iter_mut().zip(&mut waiting_since) {
                        pace.count(1);
                        if matches!(pace.turn, Turn::Idle) {
                            pace.news(true, now_ms, share);
                            since.get_or_insert(now_us);
                        }
                    }
                }
                let mut worked = false;
                for index in 0..paces.len() {
                    if let Turn::Set(at_ms) = paces[index].turn && at_ms <= now_us / 1_000 {
                        assert!(paces[index].is_due(at_ms));
                    }
                    if paces[index].turn == Turn::Queued {
                        let waited_us = now_us - waiting_since[index].take().unwrap();
                        prop_assert!(waited_us <= MAX_BATCH_MS * 1_000 + 2 * load_us + 2_000, "waited {waited_us} us");
                        // Frames are a little nearer to each other here than their rate says, and their rate is a whole number.
                        if costs_us[index] * 1_200 / frame_ms < equal_us {
                            prop_assert!(waited_us <= 2 * load_us + 2_000, "a small one waited {waited_us} us");
                        }
                        paces[index].begin_round(now_us / 1_000);
                        now_us += costs_us[index];
                        busy_us += costs_us[index];
                        paces[index].spend(costs_us[index]);
                        paces[index].end_round();
                        rounds[index] += 1;
                        worked = true;
                    }
                }
                if !worked {
                    now_us += 500;
                }
            }
            let part = busy_us * 1_000 / 20_000_000;
            if load_us / FAN_OUT_PERMILLE < MAX_BATCH_MS / 2 {
                prop_assert!(part <= FAN_OUT_PERMILLE + 60, "{part} per mille");
            }
            let least = 20_000 / (MAX_BATCH_MS + 2 * load_us / 1_000 + frame_ms) - 1;
            prop_assert!(rounds.iter().all(|rounds| u64::from(*rounds) >= least), "{rounds:?}, at least {least}");
        }
    }
}
