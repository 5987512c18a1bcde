//! The timers of a session as rows of one table.

use serde::{Deserialize, Serialize};

/// A row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timer {
    /// From the first moment to the end of the handshake.
    Handshake,
    /// From then to a publish or play; and from an accepted publish to its first media.
    FirstPacket,
    /// Since a publisher's last byte.
    Idle,
    /// Since any peer's last byte: ask whether it is there.
    Ping,
}

impl Timer {
    const ALL: [Self; 4] = [Self::Handshake, Self::FirstPacket, Self::Idle, Self::Ping];
}

/// When each row is due, in the caller's milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Timers([Option<u64>; Timer::ALL.len()]);

/// What is saved of a table: how long until each row is due.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct TimersLeft([Option<u64>; Timer::ALL.len()]);

impl Timers {
    pub fn set(&mut self, timer: Timer, due_ms: u64) {
        self.0[timer as usize] = Some(due_ms);
    }

    pub fn stop(&mut self, timer: Timer) {
        self.0[timer as usize] = None;
    }

    /// The earliest due time.
    pub fn next_due(&self) -> Option<u64> {
        self.0.iter().flatten().min().copied()
    }

    /// The first row that is due, which stops by this.
    pub fn take_due(&mut self, now_ms: u64) -> Option<Timer> {
        let due = Timer::ALL.into_iter().find(|&timer| self.0[timer as usize].is_some_and(|due| due <= now_ms))?;
        self.stop(due);
        Some(due)
    }

    pub fn left(&self, now_ms: u64) -> TimersLeft {
        TimersLeft(self.0.map(|due| Some(due?.saturating_sub(now_ms))))
    }

    pub fn from_left(left: &TimersLeft, now_ms: u64) -> Self {
        Self(left.0.map(|left| Some(now_ms.saturating_add(left?))))
    }
}
