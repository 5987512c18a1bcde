//! How many lines a peer can cause.

/// A token bucket for log lines that a peer can trigger: so many at once, so many a second over time; the others are counted, and their number
/// is told before the next line that is written.
///
/// ```ignore
/// if self.peer_lines.allow(now_ms) {
///     tracing::info!(%conn, %peer, "refused");
/// }
/// ```
#[derive(Clone, Debug)]
pub struct RateLimit {
    /// In thousandths of a line.
    tokens: u64,
    burst: u64,
    /// Lines a second, which is thousandths of a line a millisecond.
    per_second: u64,
    filled_ms: u64,
    untold: u64,
    total: u64,
}

impl Default for RateLimit {
    /// 50 lines at once, 10 a second over time: enough to see what is going on, some 100 MB a day at worst.
    fn default() -> Self {
        Self::new(50, 10)
    }
}

impl RateLimit {
    /// `burst` lines at once, `per_second` over time.
    pub fn new(burst: u32, per_second: u32) -> Self {
        let burst = u64::from(burst) * 1_000;
        Self { tokens: burst, burst, per_second: u64::from(per_second), filled_ms: 0, untold: 0, total: 0 }
    }

    /// Whether a line may be written now; the caller writes it. `now_ms` is of the monotonic clock.
    pub fn allow(&mut self, now_ms: u64) -> bool {
        let elapsed = now_ms.saturating_sub(self.filled_ms);
        self.filled_ms = self.filled_ms.max(now_ms);
        self.tokens = self.tokens.saturating_add(elapsed.saturating_mul(self.per_second)).min(self.burst);
        let Some(rest) = self.tokens.checked_sub(1_000) else {
            self.untold += 1;
            self.total += 1;
            return false;
        };
        self.tokens = rest;
        let lines = std::mem::take(&mut self.untold);
        if lines > 0 {
            tracing::warn!(lines, "log lines about clients were suppressed");
        }
        true
    }

    /// How many lines were suppressed in all.
    pub fn suppressed(&self) -> u64 {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_beyond_the_rate_are_counted() {
        let mut limit = RateLimit::new(2, 1);
        assert_eq!([0, 0, 0, 999].map(|now| limit.allow(now)), [true, true, false, false]);
        assert_eq!([1_000, 1_500].map(|now| limit.allow(now)), [true, false]);
        assert!(!limit.allow(1_000), "a clock that steps back gives nothing");
        assert_eq!([1_000_000; 3].map(|now| limit.allow(now)), [true, true, false], "the bucket never holds more than the burst");
        assert_eq!(limit.suppressed(), 5);
    }
}
