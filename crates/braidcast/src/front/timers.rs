//! Every timer of the front is a row of one table.

use crate::control::attendants::Role;
use crate::control::{ProcessId, WorkerId};
use std::collections::HashMap;

/// What can become due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Timer {
    /// Once a second: counters, CPU times, budget.
    Tick,
    /// Every few seconds: processes and machine are looked at for the API.
    Sample,
    /// A successor takes too long, or a quiet moment is looked for.
    Succession,
    /// A front that has just come has served for long enough.
    Confirm,
    /// Orders that are under way are looked at.
    Orders,
    /// Workers that are drained have more sessions to hand over, or none.
    Drain,
    /// Pulls that are to be ordered, or are not wanted any more.
    Pulls,
    /// Every few seconds: have files with keys for access rules changed?
    KeyFiles,
    /// Several times a second: does every worker go on?
    Watch,
    /// A dead worker is started again.
    Restart(WorkerId),
    /// Several times a second: processes of another server.
    Engine,
    /// Hooks should have answered.
    Decisions,
    /// Such a process is started, perhaps again.
    StartProcess(ProcessId),
    /// An attendant is started, perhaps again.
    StartAttendant(Role),
    /// The files of certificates are looked at.
    Certificates,
    /// An attendant should have said hello.
    AttendantOverdue(Role),
    /// A worker should have said that it is ready, or should have ended.
    Overdue(WorkerId),
    /// Accepting goes on after a pause.
    ResumeAccept,
    /// Messages that wait are tried again, whatever epoll says.
    RetrySends,
    /// The next step for a stream that nobody publishes.
    Settle,
    /// Readiness is told although not every worker is ready.
    ReadyAnyway,
    /// Workers that have not ended in order are killed.
    StopOverdue,
}

/// The next multiple of a step of time: what is done at such moments is done together, by one wake-up.
pub fn next_step(now_ms: u64, step_ms: u64) -> u64 {
    (now_ms / step_ms + 1) * step_ms
}

/// Which timers run, and when they are due: monotonic milliseconds.
#[derive(Debug, Default)]
pub struct Timers(HashMap<Timer, u64>);

impl Timers {
    /// Starts a timer, or moves it.
    pub fn set(&mut self, timer: Timer, due_ms: u64) {
        self.0.insert(timer, due_ms);
    }

    /// Starts a timer unless it runs.
    pub fn set_if_idle(&mut self, timer: Timer, due_ms: u64) {
        self.0.entry(timer).or_insert(due_ms);
    }

    /// Starts a timer, or moves it if it would be due later.
    pub fn set_sooner(&mut self, timer: Timer, due_ms: u64) {
        let due = self.0.entry(timer).or_insert(due_ms);
        *due = due_ms.min(*due);
    }

    /// Stops a timer, if it runs.
    pub fn clear(&mut self, timer: Timer) {
        self.0.remove(&timer);
    }

    /// When the next one is due.
    pub fn next_due_ms(&self) -> Option<u64> {
        self.0.values().min().copied()
    }

    /// Those that are due, in a fixed order; they no longer run.
    pub fn take_due(&mut self, now_ms: u64) -> Vec<Timer> {
        let mut due: Vec<(u64, Timer)> = self.0.iter().filter(|(_, at)| **at <= now_ms).map(|(timer, at)| (*at, *timer)).collect();
        due.sort_unstable();
        for (_, timer) in &due {
            self.0.remove(timer);
        }
        due.into_iter().map(|(_, timer)| timer).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_timers_come_once_and_in_order() {
        let mut timers = Timers::default();
        timers.set(Timer::Tick, 30);
        timers.set(Timer::Restart(WorkerId(1)), 20);
        timers.set(Timer::Restart(WorkerId(2)), 50);
        timers.set_if_idle(Timer::Tick, 10);
        assert_eq!(timers.next_due_ms(), Some(20));
        assert_eq!(timers.take_due(30), [Timer::Restart(WorkerId(1)), Timer::Tick]);
        assert!(timers.take_due(30).is_empty());
        timers.clear(Timer::Restart(WorkerId(2)));
        assert_eq!(timers.next_due_ms(), None);
    }
}
