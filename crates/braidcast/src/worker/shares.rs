//! How much of a worker's time the viewers of one stream may take: as much as its frames need, unless that is more than an equal share.
//!
//! What small audiences leave of their shares is for the great ones, so a stream that thousands come for delays itself before it delays others.
//! Decides only; reads no clock.

/// How much of a worker's time the fan-out may take: the rest is for publishers, and for what comes all at once.
pub const FAN_OUT_PERMILLE: u64 = 700;
const SECOND_US: u64 = 1_000_000;

/// What one stream's rounds take of each second, microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// With rounds as rare as is allowed.
    pub least_us: u64,
    /// With a round for each frame.
    pub most_us: u64,
}

/// What each stream may take of a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    us: u64,
}

impl Share {
    /// Everybody has what it needs.
    pub const ALL: Self = Self { us: u64::MAX };

    /// The greatest that does not exceed the worker's time when each stream takes it or what it needs, whichever is less; never less than an equal one,
    /// though some streams may need more of the time than there is.
    pub fn of(needs: &[Need]) -> Self {
        let budget_us = SECOND_US * FAN_OUT_PERMILLE / 1_000;
        if needs.iter().map(|need| need.most_us).fold(0, u64::saturating_add) <= budget_us {
            return Self::ALL;
        }
        let fits = |us: u64| needs.iter().map(|need| us.min(need.most_us).max(need.least_us)).fold(0, u64::saturating_add) <= budget_us;
        let (mut fitting, mut over) = ((budget_us / needs.len() as u64).max(1), budget_us + 1);
        while over - fitting > 1 {
            let between = fitting + (over - fitting) / 2;
            if fits(between) { fitting = between } else { over = between }
        }
        Self { us: fitting }
    }

    /// From the begin of one round of a stream to the begin of the next, milliseconds, if a round takes `cost_us`.
    pub fn gap_ms(self, cost_us: u64) -> u64 {
        cost_us.saturating_mul(1_000) / self.us
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn need(cost_us: u64, per_second: u64) -> Need {
        Need { least_us: cost_us * 1_000 / 350, most_us: cost_us * per_second }
    }

    #[test]
    fn a_great_audience_delays_itself_and_not_the_small_ones() {
        let (great_us, small_us) = (35_000, 140);
        let share = Share::of(&[need(great_us, 30), need(small_us, 30), need(small_us, 30), need(small_us, 30), need(small_us, 30)]);
        assert_eq!(share.gap_ms(small_us), 0, "every frame is sent at once");
        // It has what the others leave.
        assert!((50..=52).contains(&share.gap_ms(great_us)), "{}", share.gap_ms(great_us));
    }

    #[test]
    fn equals_wait_equally_long() {
        let share = Share::of(&[need(10_000, 30); 7]);
        assert!((99..=101).contains(&share.gap_ms(10_000)), "{}", share.gap_ms(10_000));
        assert_eq!(Share::of(&[need(10_000, 30), need(10_000, 30)]), Share::ALL);
        assert_eq!(Share::of(&[]), Share::ALL);
    }

    #[test]
    fn who_needs_little_has_it_even_beside_more_than_fits() {
        let fixed = Need { least_us: 2_000_000, most_us: 2_000_000 };
        assert_eq!(Share::of(&[fixed, need(100, 30)]).gap_ms(100), 0);
    }

    proptest! {
        /// Of any audiences: the time is not exceeded if it can be kept, it is used, and who needs less than another waits no longer.
        #[test]
        fn the_time_is_shared_out(streams in proptest::collection::vec((1u64..60_000, 5u64..60), 1..50)) {
            let needs: Vec<Need> = streams.iter().map(|(cost_us, per_second)| need(*cost_us, *per_second)).collect();
            let share = Share::of(&needs);
            let budget_us = SECOND_US * FAN_OUT_PERMILLE / 1_000;
            if share == Share::ALL {
                prop_assert!(needs.iter().map(|need| need.most_us).sum::<u64>() <= budget_us);
                return Ok(());
            }
            let taken = |share: u64| needs.iter().map(|need| share.min(need.most_us).max(need.least_us)).sum::<u64>();
            let equal_us = (budget_us / needs.len() as u64).max(1);
            prop_assert!(taken(share.us) <= budget_us && share.us >= equal_us || share.us == equal_us);
            prop_assert!(taken(share.us + 1) > budget_us);
            for one in &streams {
                for other in streams.iter().filter(|other| one.0 <= other.0) {
                    prop_assert!(share.gap_ms(one.0) <= share.gap_ms(other.0));
                }
            }
        }
    }
}
