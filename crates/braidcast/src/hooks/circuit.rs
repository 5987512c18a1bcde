//! Whether a hook server is called at all: one that fails again and again is left alone for a while, so that nobody waits for a dead one.

/// After so many failures in a row a server rests.
const FAILURES: u32 = 5;
/// The first rest; each one after it is twice as long.
const FIRST_REST_MS: u64 = 1_000;
/// The longest rest.
const LONGEST_REST_MS: u64 = 8_000;

/// How a server has answered lately. Times are of a clock of the caller's that never goes back, in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Circuit {
    /// It is called.
    Closed {
        /// Failures in a row.
        failures: u32,
    },
    /// It is not called until then.
    Resting {
        /// Until when.
        until_ms: u64,
        /// Failures in a row.
        failures: u32,
    },
    /// One call finds out whether it is back; nobody else calls.
    Probing {
        /// Failures in a row.
        failures: u32,
    },
}

impl Default for Circuit {
    fn default() -> Self {
        Self::Closed { failures: 0 }
    }
}

impl Circuit {
    /// Whether a call may begin now. Who is told yes calls, and says how it went.
    pub fn admit(&mut self, now_ms: u64) -> bool {
        match *self {
            Self::Closed { .. } => true,
            Self::Resting { until_ms, failures } if until_ms <= now_ms => {
                *self = Self::Probing { failures };
                true
            }
            Self::Resting { .. } | Self::Probing { .. } => false,
        }
    }

    /// How a call went. True: with this the server has begun to rest, or has come back.
    pub fn note(&mut self, answered: bool, now_ms: u64) -> bool {
        let failures = match *self {
            // Calls that began before the rest.
            Self::Resting { .. } if !answered => return false,
            Self::Closed { failures } | Self::Probing { failures } | Self::Resting { failures, .. } => failures,
        };
        let before = matches!(self, Self::Closed { .. });
        *self = if answered {
            Self::Closed { failures: 0 }
        } else if failures + 1 < FAILURES {
            Self::Closed { failures: failures + 1 }
        } else {
            let doublings = (failures + 1 - FAILURES).min(16);
            Self::Resting { until_ms: now_ms + (FIRST_REST_MS << doublings).min(LONGEST_REST_MS), failures: failures.saturating_add(1) }
        };
        before != matches!(self, Self::Closed { .. })
    }

    /// When a call may begin at the earliest; `None`: when a probe has ended.
    pub fn opens_at_ms(&self) -> Option<u64> {
        match self {
            Self::Closed { .. } => Some(0),
            Self::Resting { until_ms, .. } => Some(*until_ms),
            Self::Probing { .. } => None,
        }
    }

    /// Whether the server is left alone.
    pub fn is_resting(&self) -> bool {
        !matches!(self, Self::Closed { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_fails_rests_ever_longer_and_one_call_finds_it_back() {
        let mut circuit = Circuit::default();
        for _ in 1..FAILURES {
            assert!(circuit.admit(0) && !circuit.note(false, 0));
        }
        assert!(circuit.admit(0) && circuit.note(false, 0) && circuit.is_resting());
        // A call that began before.
        assert!(!circuit.note(false, 10));
        let mut now = 0;
        for rest in [1_000, 2_000, 4_000, 8_000, 8_000] {
            assert!(!circuit.admit(now + rest - 1) && circuit.opens_at_ms() == Some(now + rest));
            now += rest;
            assert!(circuit.admit(now) && !circuit.admit(now), "one at a time");
            assert!(circuit.opens_at_ms().is_none() && !circuit.note(false, now));
        }
        assert!(circuit.admit(now + 8_000) && circuit.note(true, now + 8_001) && !circuit.is_resting());
        assert!(circuit.admit(now + 8_001) && circuit.admit(now + 8_001));
    }

    #[test]
    fn a_late_yes_of_an_earlier_call_ends_the_rest() {
        let mut circuit = Circuit::default();
        (0..FAILURES).for_each(|_| _ = circuit.note(false, 0));
        assert!(circuit.note(true, 5) && circuit.admit(5));
    }
}
