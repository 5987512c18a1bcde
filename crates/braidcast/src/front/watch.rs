//! Does every worker go on? One that does not, although it was given time, is killed; its death is then handled like any other.

use super::Front;
use super::timers::Timer;
use crate::control::counters::FrontCounter;
use braidcast_stream_log::WorkerPage;
use braidcast_sys::process::{self, RunState};

/// How often workers are looked at, milliseconds.
const LOOK_MS: u64 = 100;

/// What was seen of a worker.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pulse {
    beats: u64,
    cpu_ticks: u64,
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

    /// Takes in another look, `passed_ms` after the last; says for how long the worker has been stuck.
    fn look(&mut self, beats: u64, cpu_ticks: u64, state: RunState, passed_ms: u64) -> u64 {
        // Ready to run and not run: the machine is busy, not the worker stuck.
        let starved = state == RunState::Running && cpu_ticks == self.cpu_ticks;
        if beats != self.beats {
            self.stuck_ms = 0;
        } else if !starved {
            self.stuck_ms += passed_ms;
        }
        (self.beats, self.cpu_ticks) = (beats, cpu_ticks);
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
            let Ok(view) = WorkerPage::open(self.shared.root(), id.0) else { continue };
            let Some((state, cpu_ticks)) = process::run_state(process.pid) else { continue };
            let stuck_ms = process.pulse.look(view.beats(), cpu_ticks, state, LOOK_MS);
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
        self.timers.set(Timer::Watch, self.now_ms + LOOK_MS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use RunState::{Other, Running, Stopped};

    #[test]
    fn only_time_that_was_given_counts() {
        let mut pulse = Pulse::default();
        assert_eq!(pulse.look(1, 5, Other, 100), 0);
        assert_eq!(pulse.look(1, 5, Other, 100), 100, "asleep for too long");
        assert_eq!(pulse.look(1, 5, Running, 100), 100, "waiting for a core");
        assert_eq!(pulse.look(1, 15, Running, 100), 200, "running in circles");
        assert_eq!(pulse.look(1, 15, Stopped, 100), 300);
        assert!(pulse.stopped);
        assert_eq!(pulse.look(2, 15, Other, 100), 0);
    }
}
