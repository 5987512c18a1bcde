//! How long to wait before what has died is started again: at first hardly, then twice as long each time, until it lives.

/// The first pause, and the longest one, milliseconds.
const SHORTEST_MS: u64 = 100;
const LONGEST_MS: u64 = 10_000;
/// What ran for so long was healthy, milliseconds.
pub const HEALTHY_MS: u64 = 10_000;

/// See the module's head.
#[derive(Debug)]
pub struct Backoff {
    next_ms: u64,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next_ms: SHORTEST_MS }
    }
}

impl Backoff {
    /// The pause, in milliseconds, before what ran for `lived_ms` is replaced.
    pub fn next_ms(&mut self, lived_ms: u64) -> u64 {
        if lived_ms >= HEALTHY_MS {
            self.next_ms = SHORTEST_MS;
        }
        let pause_ms = self.next_ms;
        self.next_ms = (pause_ms * 2).min(LONGEST_MS);
        pause_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_up_to_ten_seconds_and_begins_anew_after_health() {
        let mut backoff = Backoff::default();
        let pauses: Vec<u64> = (0..9).map(|_| backoff.next_ms(50)).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000]);
        assert_eq!([backoff.next_ms(HEALTHY_MS), backoff.next_ms(0)], [100, 200]);
    }
}
