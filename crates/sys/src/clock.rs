//! Clocks: the monotonic one that all processes of a machine share, the wall clock, and the CPU time of this process.

use rustix::time::{ClockId, Timespec, clock_gettime};

/// Milliseconds of `CLOCK_MONOTONIC`: the same in every process, never going back, zero near boot.
pub fn monotonic_ms() -> u64 {
    millis(clock_gettime(ClockId::Monotonic))
}

/// Microseconds of `CLOCK_MONOTONIC`.
pub fn monotonic_us() -> u64 {
    micros(clock_gettime(ClockId::Monotonic))
}

/// Milliseconds since 1970 of the wall clock, which may step. A time before 1970 reads as 0.
pub fn wall_ms() -> u64 {
    millis(clock_gettime(ClockId::Realtime))
}

/// Microseconds of CPU that this process has used, in user and system mode, over all its threads.
pub fn cpu_time_us() -> u64 {
    micros(clock_gettime(ClockId::ProcessCPUTime))
}

fn millis(time: Timespec) -> u64 {
    micros(time) / 1000
}

fn micros(time: Timespec) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000).saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0) / 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_run() {
        let (mono, cpu) = (monotonic_us(), cpu_time_us());
        let mut sum = 0u64;
        while monotonic_us() < mono + 5_000 || cpu_time_us() == cpu {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(monotonic_ms() >= mono / 1000);
        assert!(wall_ms() > 1_600_000_000_000);
    }
}
