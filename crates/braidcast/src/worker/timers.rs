//! Deadlines of sessions and streams: a heap with lazy removal. An entry that is not wanted any more stays until it is due; the
//! caller then ignores it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Deadlines in monotonic milliseconds, each for a token of the caller's.
#[derive(Default)]
pub struct Timers {
    heap: BinaryHeap<Reverse<(u64, u64)>>,
}

impl Timers {
    /// Asks for `token` to come up at `at_ms`.
    pub fn set(&mut self, at_ms: u64, token: u64) {
        self.heap.push(Reverse((at_ms, token)));
    }

    /// The next deadline.
    pub fn next_ms(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// The next entry that is due: its time and its token. Whether it is still wanted is for the caller to know.
    pub fn pop_due(&mut self, now_ms: u64) -> Option<(u64, u64)> {
        let Reverse((at, token)) = *self.heap.peek()?;
        if at > now_ms {
            return None;
        }
        self.heap.pop();
        Some((at, token))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_tokens_come_in_order_of_time() {
        let mut timers = Timers::default();
        timers.set(30, 1);
        timers.set(10, 2);
        timers.set(20, 3);
        assert_eq!(timers.next_ms(), Some(10));
        assert_eq!(timers.pop_due(25), Some((10, 2)));
        assert_eq!(timers.pop_due(25), Some((20, 3)));
        assert_eq!(timers.pop_due(25), None);
        assert_eq!(timers.next_ms(), Some(30));
    }
}
