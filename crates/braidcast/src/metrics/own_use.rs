//! What this process takes of the machine. Reads one file that is opened at the start, and never fails: what cannot be read is 0.

use braidcast_sys::clock;
use braidcast_sys::process::OwnMemory;

/// What was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// CPU time since the first process that had this place, in microseconds.
    pub cpu_us: u64,
    /// Share of one core since the look before, per mille; 1000 at most.
    pub cpu_permille: u64,
    /// Memory of the process alone, in bytes.
    pub memory_bytes: u64,
}

/// See the module's head.
#[derive(Debug)]
pub struct OwnUse {
    memory: Option<OwnMemory>,
    /// What processes used that had this place before.
    before_us: u64,
    cpu_us: u64,
    looked_us: u64,
}

impl OwnUse {
    /// Of a process in whose place others have used so much CPU time before.
    pub fn new(before_us: u64) -> Self {
        Self { memory: OwnMemory::open().ok(), before_us, cpu_us: 0, looked_us: clock::monotonic_us() }
    }

    /// Looks.
    pub fn look(&mut self) -> Used {
        let (now_us, cpu_us) = (clock::monotonic_us(), clock::cpu_time_us());
        let elapsed_us = now_us.saturating_sub(self.looked_us).max(1);
        let spent_us = cpu_us.saturating_sub(self.cpu_us);
        (self.cpu_us, self.looked_us) = (cpu_us, now_us);
        Used {
            cpu_us: self.before_us.saturating_add(cpu_us),
            cpu_permille: (spent_us.saturating_mul(1_000) / elapsed_us).min(1_000),
            memory_bytes: self.memory.as_ref().map_or(0, OwnMemory::bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_before_is_added() {
        let mut own = OwnUse::new(5_000_000);
        let first = own.look();
        let held = std::hint::black_box(vec![1_u8; 8 << 20]);
        let second = own.look();
        assert!(first.cpu_us >= 5_000_000 && second.cpu_us >= first.cpu_us && second.cpu_permille <= 1_000);
        assert!(second.memory_bytes >= first.memory_bytes.max(held.len() as u64), "{first:?} {second:?}");
    }
}
