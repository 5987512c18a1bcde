//! When sockets are looked at: at once while few have something to say, at fixed steps of time while many do, so that one wake-up reads
//! many of them. Decides by what it is told; waits and reads nothing itself.

/// How long arrivals are counted before the way is chosen anew, milliseconds.
const WINDOW_MS: u64 = 500;
/// Arrivals in ten steps that make steps worth their wake-ups.
#[derive(Clone, Copy, Debug)]
pub struct Worth {
    /// So many do …
    enter: u64,
    /// … and fewer than so many do so no longer.
    leave: u64,
}

impl Worth {
    /// For publishers, whose viewers wait for what they send.
    pub const PUBLISHERS: Self = Self { enter: 40, leave: 20 };
    /// For clients of HLS, of which each counts once in a window, as often as it asks.
    pub const ASKERS: Self = Self { enter: 15, leave: 8 };
}

/// See the module's head.
#[derive(Debug)]
pub struct Looks {
    step_ms: u64,
    worth: Worth,
    stepping: bool,
    look_ms: u64,
    counted_from_ms: u64,
    arrivals: u64,
    /// Who was counted in this window, a bit for each.
    seen: Vec<u64>,
}

impl Looks {
    /// Looks at once until many arrive; then every `step_ms`, or never so if that is 0.
    pub fn new(step_ms: u64, worth: Worth, now_ms: u64) -> Self {
        Self { step_ms, worth, stepping: false, look_ms: 0, counted_from_ms: now_ms, arrivals: 0, seen: Vec::new() }
    }

    /// Whether something comes from this one for the first time in this window; small numbers, for each has a bit.
    pub fn is_new(&mut self, who: usize) -> bool {
        let (word, bit) = (who / 64, 1 << (who % 64));
        if word >= self.seen.len() {
            self.seen.resize(word + 1, 0);
        }
        let is_new = self.seen[word] & bit == 0;
        self.seen[word] |= bit;
        is_new
    }

    /// Whether it is time for the next look of those at fixed steps.
    pub fn is_due(&self, now_ms: u64) -> bool {
        self.stepping && self.look_ms <= now_ms
    }

    /// When that will be, monotonic milliseconds; `None` while sockets are looked at once.
    pub fn next_ms(&self) -> Option<u64> {
        self.stepping.then_some(self.look_ms)
    }

    /// A time that wakes nobody who is not woken for a look anyway: the first one of the steps that is not before `at_ms`.
    pub fn align(&self, at_ms: u64) -> u64 {
        at_ms.next_multiple_of(self.step_ms.max(1))
    }

    /// A look has found input at so many sockets. Whether from now on looks are at fixed steps is told when that changes.
    pub fn looked(&mut self, found: usize, now_ms: u64) -> Option<bool> {
        self.arrivals += found as u64;
        self.look_ms = self.align(now_ms + 1);
        let counted_ms = now_ms.saturating_sub(self.counted_from_ms);
        if self.step_ms == 0 || counted_ms < WINDOW_MS {
            return None;
        }
        let in_ten_steps = 10 * self.arrivals * self.step_ms / counted_ms;
        (self.arrivals, self.counted_from_ms) = (0, now_ms);
        self.seen.clear();
        let steps = in_ten_steps >= if self.stepping { self.worth.leave } else { self.worth.enter };
        let changed = std::mem::replace(&mut self.stepping, steps) != steps;
        changed.then_some(steps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks every millisecond, or when due, for so long at sockets that have so many arrivals a second; gives the number of looks.
    fn run(looks: &mut Looks, from_ms: u64, for_ms: u64, per_second: u64) -> u64 {
        let (mut times, mut arrived, mut seen) = (0, 0, 0);
        for now_ms in from_ms..from_ms + for_ms {
            arrived += per_second;
            let waiting = arrived / 1_000 - seen;
            if if looks.next_ms().is_some() { looks.is_due(now_ms) } else { waiting > 0 } {
                looks.looked(waiting as usize, now_ms);
                seen += waiting;
                times += 1;
            }
        }
        times
    }

    #[test]
    fn many_arrivals_are_gathered_and_few_are_not() {
        let mut looks = Looks::new(5, Worth::PUBLISHERS, 0);
        run(&mut looks, 0, 2_000, 75);
        assert_eq!(looks.next_ms(), None, "one publisher is read at once");
        run(&mut looks, 2_000, 1_000, 9_000);
        let times = run(&mut looks, 3_000, 1_000, 9_000);
        assert!((195..=205).contains(&times), "{times} looks in a second");
        run(&mut looks, 4_000, 2_000, 75);
        assert_eq!(looks.next_ms(), None);
    }

    #[test]
    fn silence_ends_the_steps() {
        let mut looks = Looks::new(5, Worth::PUBLISHERS, 0);
        run(&mut looks, 0, 1_000, 9_000);
        assert!(looks.next_ms().is_some());
        assert!(run(&mut looks, 1_000, 5_000, 0) < 300, "nobody is woken for ever");
    }

    #[test]
    fn one_that_comes_again_and_again_counts_once_in_a_window() {
        let mut looks = Looks::new(5, Worth::ASKERS, 0);
        let second = |looks: &mut Looks, from_ms: u64, clients: u64| {
            for now_ms in from_ms..from_ms + 1_000 {
                let found = (0..3).filter(|nth| looks.is_new(((3 * now_ms + nth) % clients) as usize)).count();
                looks.looked(found, now_ms);
            }
            looks.next_ms().is_some()
        };
        assert!(!second(&mut looks, 0, 1), "a client that asks 3,000 times a second is answered at once");
        assert!(!second(&mut looks, 1_000, 100));
        assert!(second(&mut looks, 2_000, 500));
        assert!(second(&mut looks, 3_000, 100), "what was begun goes on for a while");
        assert!(!second(&mut looks, 4_000, 10));
    }

    #[test]
    fn without_a_step_everything_is_at_once() {
        let mut looks = Looks::new(0, Worth::PUBLISHERS, 0);
        assert_eq!(run(&mut looks, 0, 1_000, 9_000), 1_000);
        assert_eq!((looks.next_ms(), looks.align(17)), (None, 17));
    }
}
