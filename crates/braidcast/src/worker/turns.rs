//! In what order streams' viewers are served, and for how long until the worker looks at its sockets again.
//!
//! A turn serves small audiences first, each with all of its viewers, then one part of one great audience. So what a stream of few viewers has to say
//! waits for one part of a great one at most, and a great one waits for a part of the small ones. Decides only; serves nobody and reads no clock.

use std::collections::VecDeque;

/// How long the small audiences may take in one turn, and the part of a great one likewise, microseconds. Whose round took longer the last time is great.
pub const PART_US: u64 = 1_500;

/// The streams whose viewers are to be served, and the turn that is under way.
#[derive(Debug, Default)]
pub struct Turns {
    small: VecDeque<usize>,
    great: VecDeque<usize>,
    phase: Phase,
}

/// Where a turn is.
#[derive(Clone, Copy, Debug, Default)]
enum Phase {
    /// It serves the small ones.
    #[default]
    Small,
    /// It is over with this part.
    Last,
}

impl Turns {
    /// A round of a stream begins, whose last one took `cost_us`.
    pub fn begin(&mut self, stream: usize, cost_us: u64) {
        if cost_us > PART_US { self.great.push_back(stream) } else { self.small.push_back(stream) }
    }

    /// Not all of a stream's viewers were served in its part.
    pub fn go_on(&mut self, stream: usize) {
        self.great.push_back(stream);
    }

    /// Nobody is to be served.
    pub fn is_empty(&self) -> bool {
        self.small.is_empty() && self.great.is_empty()
    }

    /// Begins a turn.
    pub fn turn(&mut self) {
        self.phase = Phase::Small;
    }

    /// Who is served next in the turn, which has lasted for `now_us`, and when that has to stop. `None`: the turn is over.
    pub fn next(&mut self, now_us: u64) -> Option<(usize, u64)> {
        if matches!(self.phase, Phase::Last) {
            return None;
        }
        if now_us < PART_US
            && let Some(stream) = self.small.pop_front()
        {
            return Some((stream, PART_US));
        }
        self.phase = Phase::Last;
        Some((self.great.pop_front()?, now_us + PART_US))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    /// Serves one turn: each stream's viewers take what `left` says, which sinks. Gives who was served, and how long it took.
    fn turn(turns: &mut Turns, left: &mut HashMap<usize, u64>) -> (Vec<usize>, u64) {
        let (mut now_us, mut served) = (0, Vec::new());
        turns.turn();
        while let Some((stream, until_us)) = turns.next(now_us) {
            served.push(stream);
            let left_us = left.entry(stream).or_default();
            let takes_us = (*left_us).min(until_us.saturating_sub(now_us));
            now_us += takes_us;
            *left_us -= takes_us;
            if *left_us > 0 {
                turns.go_on(stream);
            }
        }
        (served, now_us)
    }

    #[test]
    fn between_two_parts_of_a_great_audience_every_small_one_is_served() {
        let (mut turns, mut left) = (Turns::default(), HashMap::from([(0, 35_000)]));
        turns.begin(0, 35_000);
        let mut parts = 0;
        while left[&0] > 0 {
            for small in 1..=4 {
                turns.begin(small, 140);
                left.insert(small, 140);
            }
            let (served, took_us) = turn(&mut turns, &mut left);
            assert_eq!(served, [1, 2, 3, 4, 0]);
            assert!(took_us <= 4 * 140 + PART_US, "{took_us} us without a look at the sockets");
            parts += 1;
        }
        assert_eq!(parts, 35_000_u64.div_ceil(PART_US));
        assert!(turns.is_empty());
    }

    #[test]
    fn an_audience_that_has_grown_great_since_its_last_round_gives_way() {
        let (mut turns, mut left) = (Turns::default(), HashMap::from([(0, 35_000), (1, 100)]));
        turns.begin(0, 100);
        turns.begin(1, 100);
        assert_eq!(turn(&mut turns, &mut left).0, [0, 0], "nobody knew");
        assert_eq!(turn(&mut turns, &mut left).0, [1, 0]);
    }

    proptest! {
        /// Whatever audiences there are: a turn takes no longer than two parts, everybody who is not great waits for no more turns than those before it
        /// fill, and each great one has its part after all others had theirs.
        #[test]
        fn turns_are_bounded_and_nobody_starves(costs_us in proptest::collection::vec(1u64..40_000, 1..40), again in proptest::collection::vec(0usize..40, 0..400)) {
            let (mut turns, mut left) = (Turns::default(), HashMap::new());
            let mut waits: HashMap<usize, u64> = HashMap::new();
            let mut again = again.into_iter();
            let mut comes = Some((0..costs_us.len()).collect::<Vec<_>>());
            while !turns.is_empty() || comes.is_some() {
                for stream in comes.take().unwrap_or_default() {
                    if left.get(&stream).is_none_or(|left| *left == 0) {
                        turns.begin(stream, costs_us[stream]);
                        left.insert(stream, costs_us[stream]);
                        waits.insert(stream, 0);
                    }
                }
                let (served, took_us) = turn(&mut turns, &mut left);
                prop_assert!(took_us <= 2 * PART_US, "{took_us} us");
                for stream in served {
                    waits.insert(stream, 0);
                }
                for (stream, turns) in waits.iter_mut().filter(|(stream, _)| left[stream] > 0) {
                    *turns += 1;
                    prop_assert!(*turns <= costs_us.len() as u64, "stream {stream} waits for {turns} turns");
                }
                comes = again.next().map(|stream| vec![stream % costs_us.len()]);
            }
            prop_assert!(left.values().all(|left| *left == 0));
        }
    }
}
