//! Clocks: the monotonic one that all processes of a machine share, the wall clock, and the CPU time of this process.
//!
//! What a process decides by (deadlines, ages, dates) is read here, and its polls wait by the same clock. `std::time::Instant` is for what
//! stays as it is when time is simulated: how long work of ours took, how long another process on this machine may take to answer.
//!
//! With the feature `faults` time can be simulated: `BRAIDCAST_CLOCK=FACTOR@START_US` lets both clocks run `FACTOR` times as fast from the
//! moment at which the real monotonic clock shows `START_US`. It is the same moment in every process.

use rustix::time::{ClockId, Timespec, clock_gettime};
use std::time::Duration;

/// Milliseconds of `CLOCK_MONOTONIC`: the same in every process, never going back, zero near boot.
pub fn monotonic_ms() -> u64 {
    monotonic_us() / 1000
}

/// Microseconds of `CLOCK_MONOTONIC`.
pub fn monotonic_us() -> u64 {
    let real_us = micros(clock_gettime(ClockId::Monotonic));
    real_us + simulated::lead_us(real_us)
}

/// Milliseconds since 1970 of the wall clock, which may step. A time before 1970 reads as 0.
pub fn wall_ms() -> u64 {
    wall_us() / 1000
}

/// Microseconds since 1970, as [`wall_ms`].
pub fn wall_us() -> u64 {
    micros(clock_gettime(ClockId::Realtime)) + simulated::lead_us(micros(clock_gettime(ClockId::Monotonic)))
}

/// The kernel's time of a file, milliseconds since 1970, by the wall clock of [`wall_ms`].
pub fn wall_ms_of_file(file_ms: u64) -> u64 {
    let age_us = micros(clock_gettime(ClockId::Realtime)).saturating_sub(file_ms.saturating_mul(1000));
    let then_us = micros(clock_gettime(ClockId::Monotonic)).saturating_sub(age_us);
    file_ms + simulated::lead_us(then_us) / 1000
}

/// How long the kernel is to wait for so much time of these clocks to pass.
pub(crate) fn real_wait(duration: Duration) -> Duration {
    simulated::real_wait(duration)
}

/// Microseconds of CPU that this process has used, in user and system mode, over all its threads.
pub fn cpu_time_us() -> u64 {
    micros(clock_gettime(ClockId::ProcessCPUTime))
}

fn micros(time: Timespec) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000).saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0) / 1000)
}

#[cfg(not(feature = "faults"))]
mod simulated {
    use std::time::Duration;

    #[inline(always)]
    pub fn lead_us(_real_us: u64) -> u64 {
        0
    }

    #[inline(always)]
    pub fn real_wait(duration: Duration) -> Duration {
        duration
    }
}

#[cfg(feature = "faults")]
mod simulated {
    use std::sync::LazyLock;
    use std::time::Duration;

    /// How many times as fast time passes, and from which moment on.
    static PACE: LazyLock<Option<(u32, u64)>> = LazyLock::new(|| parse(&std::env::var("BRAIDCAST_CLOCK").ok()?));

    pub fn parse(text: &str) -> Option<(u32, u64)> {
        let (factor, start_us) = text.split_once('@')?;
        Some((factor.parse().ok().filter(|factor| *factor > 0)?, start_us.parse().ok()?))
    }

    /// By how much the simulated clock is ahead when the real one shows `real_us`.
    pub fn lead_us(real_us: u64) -> u64 {
        PACE.map_or(0, |(factor, start_us)| real_us.saturating_sub(start_us) * u64::from(factor - 1))
    }

    /// Before the start this is too short, which costs a look.
    pub fn real_wait(duration: Duration) -> Duration {
        PACE.map_or(duration, |(factor, _)| duration / factor)
    }

    #[cfg(test)]
    #[test]
    fn a_pace_is_a_factor_and_a_start() {
        assert_eq!(parse("288@17000000"), Some((288, 17_000_000)));
        assert_eq!([parse("288"), parse("0@5"), parse("x@5"), parse("2@")], [None; 4]);
    }
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
        assert_eq!(wall_ms_of_file(1_600_000_000_000), 1_600_000_000_000, "a file of old times");
    }
}
