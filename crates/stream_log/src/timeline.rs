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
/// A step forward by more than this is no pause (a publisher that is silent for so long is sent away): the encoder has set its clock. A
/// track that is so far behind the others has a clock of its own.
pub(crate) const JUMP_MS: i64 = 60_000;
/// Tracks of a kind that have a time of their own; those beyond share the last one's.
const TRACKS: usize = 6;
/// The place of data's time, behind those of audio and video.
const DATA: usize = 2 * TRACKS;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Timeline {
    /// The latest time of any track.
    last: Option<i64>,
    tracks: [i64; DATA + 1],
    clock: Option<Clock>,
    corrections: u64,
}

/// How the times that the present publisher sends map to the time line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Clock {
    /// The last time as sent, and unwrapped.
    sent: u32,
    unwrapped: i64,
    /// What is added to unwrapped times; and what was before the encoder's clock was set, for records of other tracks that were sent
    /// before that and are still on their way, or that have another clock for good.
    offset: i64,
    former_offset: Option<i64>,
}

impl Clock {
    /// Of the two ways round the 32-bit circle the shorter one is meant.
    fn unwrap(&self, sent: u32) -> i64 {
        self.unwrapped.saturating_add(i64::from(sent.wrapping_sub(self.sent).cast_signed()))
    }
}

fn is_near(time: i64, other: i64) -> bool {
    time.abs_diff(other) <= RESTART_MS.unsigned_abs()
}

impl Timeline {
    /// Goes on after `last`, the latest time in the log; `None` for a log without records.
    pub fn resume(last: Option<i64>) -> Self {
        Self { last, tracks: [last.unwrap_or(0); DATA + 1], clock: None, corrections: 0 }
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

    /// Where a record of a track sent with this time belongs. Never before 0, nor before an earlier record of the same track.
    pub fn place(&mut self, kind: RecordKind, track: u8, sent: u32) -> i64 {
        let track = usize::from(track).min(TRACKS - 1);
        let (track, placed) = match kind {
            RecordKind::Audio => (track, self.place_media(track, sent)),
            RecordKind::Video => (TRACKS + track, self.place_media(TRACKS + track, sent)),
            RecordKind::Data => (DATA, self.place_data(sent)),
        };
        self.tracks[track] = placed;
        self.last = Some(self.last.map_or(placed, |last| last.max(placed)));
        placed
    }

    fn place_media(&mut self, track: usize, sent: u32) -> i64 {
        let (last, before) = (self.last.unwrap_or(0), self.tracks[track]);
        let Some(clock) = &mut self.clock else {
            let unwrapped = i64::from(sent);
            let offset = self.last.map_or(0, |last| last.saturating_add(GAP_MS).saturating_sub(unwrapped));
            self.clock = Some(Clock { sent, unwrapped, offset, former_offset: None });
            return unwrapped.saturating_add(offset).max(before);
        };
        clock.unwrapped = clock.unwrap(sent);
        clock.sent = sent;
        let placed = clock.unwrapped.saturating_add(clock.offset);
        let odd = placed < before || !is_near(placed, last);
        if odd && let Some(former) = clock.former_offset.map(|former| clock.unwrapped.saturating_add(former)).filter(|f| is_near(*f, last))
        {
            self.corrections += 1;
            return former.max(before);
        }
        if before.saturating_sub(placed) > RESTART_MS || placed.abs_diff(last) > JUMP_MS.unsigned_abs() {
            self.corrections += 1;
            let placed = last.saturating_add(GAP_MS);
            clock.former_offset = Some(clock.offset);
            clock.offset = placed.saturating_sub(clock.unwrapped);
            return placed;
        }
        self.corrections += u64::from(placed < before);
        placed.max(before)
    }

    /// Data says something of the moment, and some encoders always send it with time 0: what is far from the media's time is of now.
    /// It sets no clock but that of a log's first record.
    fn place_data(&mut self, sent: u32) -> i64 {
        let Some(last) = self.last else { return self.place_media(DATA, sent) };
        let meant = self.clock.map_or(last, |clock| clock.unwrap(sent).saturating_add(clock.offset));
        let placed = if is_near(meant, last) { meant } else { last }.max(self.tracks[DATA]);
        self.corrections += u64::from(placed != meant);
        placed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use RecordKind::{Audio, Data, Video};
    use proptest::prelude::*;

    fn placed(line: &mut Timeline, records: &[(RecordKind, u32)]) -> Vec<i64> {
        records.iter().map(|(kind, sent)| line.place(*kind, 0, *sent)).collect()
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

    #[test]
    fn a_clock_that_is_set_forward_goes_on_too() {
        let mut line = Timeline::resume(None);
        let sent = [(Video, 1_000), (Audio, 1_010), (Video, 3_600_000), (Audio, 1_030), (Audio, 3_600_020), (Video, 3_600_040)];
        assert_eq!(placed(&mut line, &sent), [1_000, 1_010, 1_030, 1_030, 1_050, 1_070]);
        assert_eq!(line.corrections(), 2);
        let pause = [(Video, 3_600_040 + 59_000), (Audio, 3_600_040 + 59_010)];
        assert_eq!(placed(&mut line, &pause), [60_070, 60_080], "a pause is kept");
    }

    #[test]
    fn one_wild_time_harms_nobody_else() {
        let mut line = Timeline::resume(None);
        for wild in [500_000_000, 2_000_000_000, 3_000_000_000, u32::MAX] {
            let now = line.last().map_or(1_000, |last| last as u32 + 40);
            let times = placed(&mut line, &[(Video, now), (Video, wild), (Video, now + 40), (Audio, now + 50), (Video, now + 80)]);
            assert!(times.is_sorted() && times[4] - times[0] <= 100, "{wild}: {times:?}");
        }
    }

    #[test]
    fn sound_an_hour_ahead_is_brought_beside_the_picture() {
        for picture_first in [true, false] {
            let mut line = Timeline::resume(None);
            let mut sent: Vec<(RecordKind, u32)> = (0..10_000).flat_map(|n| [(Video, n * 40), (Audio, 3_600_010 + n * 40)]).collect();
            if !picture_first {
                sent.remove(0);
            }
            let times = placed(&mut line, &sent);
            let steps = times.windows(2).map(|pair| pair[1] - pair[0]);
            assert!(steps.clone().all(|step| step.abs() < 100), "{picture_first}: a step of {:?}", steps.max());
        }
    }

    #[test]
    fn tracks_have_times_of_their_own() {
        let mut line = Timeline::resume(None);
        let sent = [
            (Audio, 0, 100),
            (Audio, 1, 70),
            (Video, 0, 100),
            (Video, 3, 60),
            (Audio, 1, 90),
            (Audio, 0, 120),
            (Audio, 9, 50),
            (Audio, 200, 40),
        ];
        let times: Vec<i64> = sent.iter().map(|(kind, track, sent)| line.place(*kind, *track, *sent)).collect();
        assert_eq!((times, line.corrections()), (vec![100, 70, 100, 60, 90, 120, 50, 50], 1));
    }

    #[test]
    fn data_is_of_its_moment_and_sets_no_clock() {
        let mut line = Timeline::resume(None);
        assert_eq!(
            placed(&mut line, &[(Video, 3_000_000_000), (Data, 0), (Video, 3_000_000_040)]),
            [3_000_000_000, 3_000_000_000, 3_000_000_040]
        );
        assert_eq!(
            placed(&mut line, &[(Data, 3_000_000_100), (Data, 3_000_000_050), (Video, 3_000_000_080)]),
            [3_000_000_100, 3_000_000_100, 3_000_000_080]
        );
        line.begin_publish();
        assert_eq!(placed(&mut line, &[(Data, 0), (Video, 5)]), [3_000_000_100, 3_000_000_120]);
        let mut fresh = Timeline::resume(None);
        assert_eq!(placed(&mut fresh, &[(Data, 0), (Video, 500), (Audio, 510)]), [0, 500, 510]);
    }

    proptest! {
        #[test]
        fn time_never_goes_back_on_a_track(sent in prop::collection::vec((0..DATA + 1, any::<u32>(), any::<bool>()), 1..200)) {
            let mut line = Timeline::resume(None);
            let mut tracks = [0i64; DATA + 1];
            for (track, time, anew) in sent {
                if anew {
                    line.begin_publish();
                }
                let placed = line.place([Audio, Video, Data][track / TRACKS], (track % TRACKS) as u8, time);
                prop_assert!(placed >= tracks[track]);
                tracks[track] = placed;
                prop_assert!(line.last().is_some_and(|last| last >= placed));
            }
        }
    }
}
