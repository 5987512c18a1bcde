//! Does every worker go on? One that does not, although it was given time, is killed; its death is then handled like any other.

use super::Front;
use super::timers::{Timer, next_step};
use crate::control::counters::FrontCounter;
use braidcast_stream_log::WorkerPage;
use braidcast_sys::process::{self, RunState};

/// How often workers are looked at, milliseconds; with the other looks of the front, which are not that often.
const LOOK_MS: u64 = 250;

/// What was seen of a worker.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pulse {
    beats: u64,
    /// At the last look, if it had not gone on then.
    cpu_ticks: Option<u64>,
    /// For how long it has not gone on although it could have, milliseconds.
    stuck_ms: u64,
    hung: bool,
    stopped: bool,
}

impl Pulse {
    /// It was killed because it did not go on.
    pub fn is_hung(&self) -> bool {
        self.hung
    }

    /// As [`Pulse::is_hung`], and nobody had stopped it.
    pub fn hung_by_itself(&self) -> bool {
        self.hung && !self.stopped
    }

    /// Takes in another look, `passed_ms` after the last; says for how long the worker has been stuck. What it does is asked only if it
    /// has not gone on; `None`: it is gone.
    fn look(&mut self, beats: u64, passed_ms: u64, run_state: impl FnOnce() -> Option<(RunState, u64)>) -> u64 {
        if beats != self.beats {
            *self = Self { beats, ..Self::default() };
            return 0;
        }
        let Some((state, cpu_ticks)) = run_state() else { return self.stuck_ms };
        // Ready to run and not run: the machine is busy, not the worker stuck.
        let starved = state == RunState::Running && self.cpu_ticks.is_none_or(|before| before == cpu_ticks);
        if !starved {
            self.stuck_ms += passed_ms;
        }
        self.cpu_ticks = Some(cpu_ticks);
        self.stopped = state == RunState::Stopped;
        self.stuck_ms
    }
}

impl Front {
    /// Looks at every worker. Time in which this process itself was not given any does not count against them.
    pub(super) fn watch_workers(&mut self) {
        let hang_after_ms = self.config.server.hang_after.as_ms();
        let mut hung = Vec::new();
        for worker in self.workers.iter_mut().filter(|worker| worker.serves()) {
            let id = worker.id;
            let Some(process) = worker.process.as_mut().filter(|process| !process.pulse.hung) else { continue };
            if process.page.is_none() {
                process.page = WorkerPage::open(self.shared.root(), id.0).ok();
            }
            let (Some(page), pid) = (&process.page, process.pid) else { continue };
            let stuck_ms = process.pulse.look(page.beats(), LOOK_MS, || process::run_state(pid));
            if stuck_ms >= hang_after_ms {
                process.pulse.hung = true;
                hung.push((id, stuck_ms, process.pid));
                worker.kill();
            }
        }
        for (worker, stuck_ms, pid) in hung {
            self.count(FrontCounter::WorkersHung);
            tracing::error!(%worker, pid, "the worker has not gone on for {stuck_ms} ms although it was given time ([server] hang_after): it is killed, others go on with its connections");
        }
        self.timers.set(Timer::Watch, next_step(self.now_ms, LOOK_MS));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use RunState::{Other, Running, Stopped};

    #[test]
    fn only_time_that_was_given_counts() {
        let mut pulse = Pulse::default();
        let mut look = |beats, ticks, state| pulse.look(beats, 100, || Some((state, ticks)));
        assert_eq!(look(1, 5, Other), 0);
        assert_eq!(look(1, 5, Other), 100, "asleep for too long");
        assert_eq!(look(1, 5, Running), 100, "waiting for a core");
        assert_eq!(look(1, 15, Running), 200, "running in circles");
        assert_eq!(look(1, 15, Stopped), 300);
        assert!(pulse.stopped);
        assert_eq!(pulse.look(2, 100, || unreachable!("a worker that goes on is not asked about")), 0);
        assert_eq!(pulse.look(2, 100, || Some((Running, 20))), 0, "perhaps waiting for a core");
        assert_eq!(pulse.look(2, 100, || Some((Running, 21))), 100);
        assert_eq!(pulse.look(2, 100, || None), 100);
    }
}
