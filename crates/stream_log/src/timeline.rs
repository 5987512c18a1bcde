//! One unbroken time line, in milliseconds, over all the publishers that a stream's log has had.
//!
//! What a well-behaved first publisher sends is kept as sent. Everything else is repaired so that time never goes back on
//! a track; each repair is counted.

use braidcast_media::RecordKind;
use serde::{Deserialize, Serialize};

/// From the last record of one publisher (or of one clock of a publisher) to the first of the next.
pub(crate) const GAP_MS: i64 = 20;
/// A step back by more than this is no disorder: the encoder has started its clock anew.
pub(crate) const RESTART_MS: i64 = 5_000;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Timeline {
    /// The latest time of any track.
    last: Option<i64>,
    tracks: [i64; 3],
    clock: Option<Clock>,
    corrections: u64,
}

/// How the times that the present publisher sends map to the time line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Clock {
    /// The last time as sent, and unwrapped.
    sent: u32,
    unwrapped: i64,
    /// What is added to unwrapped times; and what was before the encoder's clock started anew, for records of other tracks
    /// that were sent before that and are still on their way.
    offset: i64,
    former_offset: Option<i64>,
}

impl Timeline {
    /// Goes on after `last`, the latest time in the log; `None` for a log without records.
    pub fn resume(last: Option<i64>) -> Self {
        Self { last, tracks: [last.unwrap_or(0); 3], clock: None, corrections: 0 }
    }

    /// The next record is the first of another publisher.
    pub fn begin_publish(&mut self) {
        self.clock = None;
    }

    /// The latest time of any track.
    pub fn last(&self) -> Option<i64> {
        self.last
    }

    /// How many times were changed so far.
    pub fn corrections(&self) -> u64 {
        self.corrections
    }

    /// Where a record sent with this time belongs. Never before 0, nor before an earlier record of the same track.
    pub fn place(&mut self, kind: RecordKind, sent: u32) -> i64 {
        let track = match kind {
            RecordKind::Audio => 0,
            RecordKind::Video => 1,
            RecordKind::Data => 2,
        };
        let last = self.last.unwrap_or(0);
        let clock = self.clock.get_or_insert_with(|| {
            let unwrapped = i64::from(sent);
            let offset = self.last.map_or(0, |last| last.saturating_add(GAP_MS).saturating_sub(unwrapped));
            Clock { sent, unwrapped, offset, former_offset: None }
        });
        // Of the two ways round the 32-bit circle the shorter one is meant.
        clock.unwrapped = clock.unwrapped.saturating_add(i64::from(sent.wrapping_sub(clock.sent).cast_signed()));
        clock.sent = sent;
        let mut placed = clock.unwrapped.saturating_add(clock.offset);
        if placed > last.saturating_add(RESTART_MS)
            && let Some(former) = clock.former_offset
            && clock.unwrapped.saturating_add(former).abs_diff(last) <= RESTART_MS.unsigned_abs()
        {
            placed = clock.unwrapped.saturating_add(former);
            self.corrections += 1;
        }
        if placed < self.tracks[track] {
            self.corrections += 1;
            if self.tracks[track].saturating_sub(placed) > RESTART_MS {
                clock.former_offset = Some(clock.offset);
                placed = last.saturating_add(GAP_MS);
                clock.offset = placed.saturating_sub(clock.unwrapped);
            } else {
                placed = self.tracks[track];
            }
        }
        self.tracks[track] = placed;
        self.last = Some(self.last.map_or(placed, |last| last.max(placed)));
        placed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use RecordKind::{Audio, Data, Video};
    use proptest::prelude::*;

    fn placed(line: &mut Timeline, records: &[(RecordKind, u32)]) -> Vec<i64> {
        records.iter().map(|(kind, sent)| line.place(*kind, *sent)).collect()
    }

    #[test]
    fn a_first_publisher_is_kept_as_sent_through_wraps() {
        let mut line = Timeline::resume(None);
        let sent = [(Video, u32::MAX - 40), (Audio, u32::MAX - 50), (Video, u32::MAX), (Audio, 3), (Video, 39), (Data, 40)];
        let times = placed(&mut line, &sent);
        assert_eq!(times.iter().map(|t| *t as u32).collect::<Vec<_>>(), sent.map(|(_, t)| t));
        assert_eq!((times[4], line.corrections()), ((1 << 32) + 39, 0));
    }

    #[test]
    fn the_next_publisher_goes_on_after_a_gap() {
        let mut line = Timeline::resume(None);
        placed(&mut line, &[(Video, 1000), (Audio, 1010)]);
        line.begin_publish();
        assert_eq!(placed(&mut line, &[(Video, 500_000), (Audio, 499_995), (Video, 500_040)]), [1030, 1025, 1070]);
        assert_eq!(line.corrections(), 0);
        let mut resumed = Timeline::resume(line.last());
        assert_eq!(placed(&mut resumed, &[(Audio, 0)]), [1090]);
    }

    #[test]
    fn small_steps_back_are_clamped_on_their_track_only() {
        let mut line = Timeline::resume(None);
        assert_eq!(placed(&mut line, &[(Video, 100), (Audio, 80), (Video, 90), (Audio, 85), (Video, 110)]), [100, 80, 100, 85, 110]);
        assert_eq!(line.corrections(), 1);
        assert_eq!(placed(&mut Timeline::resume(None), &[(Video, 0), (Audio, u32::MAX)]), [0, 0], "never before zero");
    }

    #[test]
    fn a_clock_that_starts_anew_goes_on_and_stragglers_find_their_place() {
        let mut line = Timeline::resume(None);
        let sent = [(Video, 3_600_000), (Audio, 3_600_010), (Video, 0), (Audio, 3_600_030), (Video, 40), (Audio, 25)];
        let times = placed(&mut line, &sent);
        assert_eq!(times, [3_600_000, 3_600_010, 3_600_030, 3_600_030, 3_600_070, 3_600_055]);
        assert_eq!(line.corrections(), 2);
    }

    proptest! {
        #[test]
        fn time_never_goes_back_on_a_track(sent in prop::collection::vec((0..3usize, any::<u32>(), any::<bool>()), 1..200)) {
            let mut line = Timeline::resume(None);
            let mut tracks = [0i64; 3];
            for (track, time, anew) in sent {
                if anew {
                    line.begin_publish();
                }
                let placed = line.place([Audio, Video, Data][track], time);
                prop_assert!(placed >= tracks[track]);
                tracks[track] = placed;
                prop_assert!(line.last().is_some_and(|last| last >= placed));
            }
        }
    }
}
