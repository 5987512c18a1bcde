//! The workers' lives: started, watched, started again after a death, ended in order.

use super::Front;
use super::orphans;
use super::timers::{Timer, next_step};
use super::workers::{ForWorkers, Process};
use crate::control::counters::FrontCounter;
use crate::control::pages::{InstanceState, Why, WorkerRow, WorkerState};
use crate::control::{ConnId, ToWorker, WorkerId};
use crate::events::{Event, Kind};
use braidcast_media::StreamKey;
use braidcast_stream_log::WorkerPage;
use braidcast_sys::Interest;
use braidcast_sys::process::Ending;
use std::io;
use std::sync::atomic::Ordering::Relaxed;

/// How long a worker may take from its start until it serves, milliseconds.
const START_MS: u64 = 15_000;
/// How long the readiness of the last workers is waited for before the instance calls itself ready, milliseconds.
pub(super) const READY_ANYWAY_MS: u64 = 5_000;
/// A worker that was killed from outside after so long is started again at once, milliseconds.
const KILLED_MS: u64 = 500;
/// How often it is said, while it lasts, that the directory is nearly full, milliseconds.
const EVICTION_LINE_MS: u64 = 60_000;
/// Messages of a dead worker that are still looked at; its channel holds a few hundred at most.
const LAST_WORDS: usize = 100_000;
/// How many of the streams that lost their publisher a log line names.
const NAMED_STREAMS: usize = 10;

impl Front {
    /// Starts the process of a worker; a failure is tried again later like a death.
    pub(super) fn start_worker(&mut self, id: WorkerId) {
        let now_ms = self.now_ms;
        match self.start_process(id) {
            Ok(process) => {
                let pid = process.pid;
                let Some(worker) = self.worker_mut(id) else { return };
                worker.process = Some(process);
                worker.state = WorkerState::Starting;
                tracing::debug!(worker = %id, pid, "the worker is started");
                self.timers.set(Timer::Overdue(id), now_ms + START_MS);
                self.introduce_logs(id);
                self.introduce_access(id);
            }
            Err(error) => {
                tracing::error!(worker = %id, error = format!("{error:#}"), "the worker cannot be started");
                self.plan_restart(id, 0);
            }
        }
    }

    fn start_process(&mut self, id: WorkerId) -> anyhow::Result<Process> {
        let heap = self.vault.next_heap();
        let shared = ForWorkers { doorbells: &self.doorbells, sockets: &self.sockets, config_json: &self.config_json };
        let process = Process::start(id, heap, &shared, self.now_ms)?;
        let noted = orphans::note(self.shared.path(), id, process.pid);
        if let Err(error) = noted.and_then(|()| self.watch(id, &process)) {
            // Not watched its end would not be noticed, and its place be given twice.
            let _ = process.handle.send_signal(braidcast_sys::process::SIGKILL);
            return Err(error.into());
        }
        Ok(process)
    }

    pub(super) fn watch(&self, id: WorkerId, process: &Process) -> io::Result<()> {
        self.poller.add(&process.handle, super::token(super::PROCESS, id.0.into()), Interest::READ)?;
        self.poller.add(&process.channel, super::token(super::CHANNEL, id.0.into()), Interest::READ)
    }

    /// A worker's process has ended: hears its last words, then clears away what it had.
    pub(super) fn worker_ended(&mut self, id: WorkerId) {
        let Some(process) = self.worker(id).and_then(|worker| worker.process.as_ref()) else { return };
        if !process.handle.has_ended().unwrap_or(true) {
            return;
        }
        let (ending, crashed) = match process.handle.try_wait() {
            Ok(None) => return,
            Ok(Some(ending)) => (describe(ending), is_crash(ending)),
            // Of a child of another front nobody says how.
            Err(_) => ("ended".to_owned(), false),
        };
        for _ in 0..LAST_WORDS {
            if !self.hear_one(id) {
                break;
            }
        }
        let Some(process) = self.worker_mut(id).and_then(|worker| worker.process.take()) else { return };
        self.leave(id, &process);
        let lived_ms = self.now_ms.saturating_sub(process.started_ms);
        orphans::forget(self.shared.path(), id);
        self.timers.clear(Timer::Overdue(id));
        if self.is_stopping() {
            let lost = self.registry.give_up(id, self.now_ms);
            tracing::info!(worker = %id, pid = process.pid, lost, "the worker {ending}");
            if let Some(worker) = self.worker_mut(id) {
                worker.state = WorkerState::Empty;
            }
            if self.no_worker_runs() {
                self.end_engine(false);
            }
        } else {
            let streams = self.registry.published_by(id);
            let connections = self.registry.load(id).sessions;
            let drained = self.worker(id).is_some_and(|worker| worker.state == WorkerState::Draining);
            if !drained || crashed {
                self.log(&Event { pid: Some(process.pid), ..Event::new(Kind::WorkerDied).worker(id).why(&ending) });
            }
            self.not_draining(id);
            if drained && !crashed {
                tracing::info!(worker = %id, pid = process.pid, "the drained worker {ending}");
            } else {
                tracing::error!(worker = %id, pid = process.pid, connections, streams = named(&streams), "the worker {ending} after {lived_ms} ms; others go on with its connections");
            }
            // What was drained, or killed from outside after it had served for a while, is no reason to be careful.
            let blameless = drained || (!crashed && lived_ms >= KILLED_MS);
            self.plan_restart(id, if blameless { u64::MAX } else { lived_ms });
            let busy = WorkerPage::open(self.shared.root(), id.0).ok().and_then(|page| page.busy_with());
            let loops = crashed && self.worker_mut(id).is_some_and(|worker| worker.note_crash(lived_ms, busy.is_some()));
            if loops {
                tracing::error!(worker = %id, "the worker dies again and again, and not of what a client sends: its own lines say why; `braidcast check` may, too");
                self.worker_mut(id).into_iter().for_each(|worker| worker.state = WorkerState::CrashLoop);
                self.log(&Event::new(Kind::CrashLoop).worker(id));
            }
            self.take_over(id, &process, busy.filter(|_| crashed || process.pulse.hung_by_itself()));
        }
        self.deliver();
        self.watch_sockets();
    }

    /// Sends the sessions of a dead worker to others.
    fn take_over(&mut self, id: WorkerId, process: &Process, died_of: Option<(u64, u64)>) {
        if self.config.relays() {
            // What went through it had no state that another one could go on with.
            let lost = self.registry.give_up(id, self.now_ms);
            self.count_by(FrontCounter::SessionsLost, lost as u64);
            self.engine.worker_died(id);
            return;
        }
        let homeless = self.registry.worker_died(id, self.now_ms);
        let stay = homeless.iter().map(|homeless| homeless.conn).chain(self.moves.from(id)).collect();
        self.vault.keep_heap(process.heap, stay);
        for reserved in self.registry.reserved_at(id) {
            if let Some(other) = self.registry.choose_home(&reserved, &self.loads()) {
                self.registry.reserve_at(reserved.conn, other);
            }
        }
        if let Some((conn, _)) = died_of {
            self.pull_crashed(ConnId(conn));
        }
        let suspect = died_of.and_then(|(conn, position)| self.suspect(id, ConnId(conn), position));
        let why = if process.pulse.is_hung() { Why::Hung } else { Why::Died };
        for homeless in homeless {
            if self.pulls.has(homeless.conn) {
                self.pull_again(homeless.conn, "the worker died");
                let result = self.registry.lost(homeless.conn, id, self.now_ms);
                self.note(id, homeless.conn, result);
            } else if suspect == Some(homeless.conn) {
                self.condemn(homeless, id);
            } else {
                self.find_home(homeless, id, why);
            }
        }
    }

    /// The connection that a worker died of, if it is the second one that did.
    fn suspect(&mut self, id: WorkerId, conn: ConnId, position: u64) -> Option<ConnId> {
        let again = self.registry.suspect(conn, position);
        let peer = self.registry.address_of(conn).map(tracing::field::display);
        tracing::warn!(worker = %id, %conn, peer, position, again, "the worker died while it processed what this client sent");
        again.then_some(conn)
    }

    fn leave(&self, id: WorkerId, process: &Process) {
        let result =
            self.poller.delete(&process.handle).and_then(|()| if process.deaf { Ok(()) } else { self.poller.delete(&process.channel) });
        if let Err(error) = result {
            tracing::debug!(worker = %id, %error, "cannot leave a dead worker's descriptors");
        }
    }

    fn plan_restart(&mut self, id: WorkerId, lived_ms: u64) {
        let now_ms = self.now_ms;
        let Some(worker) = self.worker_mut(id) else { return };
        worker.state = WorkerState::Restarting;
        let pause_ms = worker.backoff.next_ms(lived_ms);
        tracing::info!(worker = %id, "the worker is started again in {pause_ms} ms");
        self.timers.set(Timer::Restart(id), now_ms + pause_ms);
    }

    pub(super) fn restart_worker(&mut self, id: WorkerId) {
        if let Some(worker) = self.worker_mut(id) {
            worker.restarts += 1;
        }
        self.count(FrontCounter::WorkerRestarts);
        self.start_worker(id);
    }

    /// A worker that does not become ready, or does not end although its channel is closed, is killed.
    pub(super) fn worker_overdue(&mut self, id: WorkerId) {
        let Some(worker) = self.worker(id) else { return };
        let Some(process) = &worker.process else { return };
        if worker.state == WorkerState::Starting || process.deaf {
            let why = if process.deaf { "does not end although its channel is closed" } else { "is not ready in time" };
            tracing::error!(worker = %id, pid = process.pid, "the worker {why}: killing it");
            worker.kill();
        }
    }

    /// Tells the outside that the instance serves: when all workers do, or (`anyway`) when at least one does.
    pub(super) fn announce_if_ready(&mut self, anyway: bool) {
        let serving = self.workers.iter().filter(|worker| worker.serves()).count();
        let enough = (serving == self.workers.len() || (anyway && serving > 0)) && self.engine_is_ready(anyway);
        if self.state != InstanceState::Starting || !enough {
            return;
        }
        self.set_state(InstanceState::Running);
        self.timers.clear(Timer::ReadyAnyway);
        self.show_rows();
        let listening: Vec<_> = self.sockets.iter().map(super::listen::Socket::listening).collect();
        tracing::info!("ready: {serving} of {} workers serve", self.workers.len());
        self.log(&Event { pid: Some(std::process::id()), ..Event::new(Kind::FrontStarted) });
        super::notify::ready(&listening, self.ready_fd.take());
    }

    /// Somebody asks the server to end: the first time in order, from the second time on at once.
    pub(super) fn stop(&mut self) {
        if self.is_stopping() {
            tracing::warn!("asked to end again: killing the workers");
            return self.kill_all();
        }
        tracing::info!(
            "ending in order: the workers have {} to finish ([server] stop_grace); asking again ends at once",
            self.config.server.stop_grace
        );
        self.set_state(InstanceState::Stopping);
        self.end_hls_sessions();
        super::notify::stopping();
        self.end_programs();
        self.watch_sockets();
        self.retire_tls();
        self.sockets.clear();
        for id in self.ids() {
            self.timers.clear(Timer::Restart(id));
            if let Some(worker) = self.worker_mut(id) {
                worker.state = if worker.process.is_some() { WorkerState::Stopping } else { WorkerState::Empty };
            }
            self.send(id, &ToWorker::Stop, Vec::new());
        }
        self.timers.set(Timer::StopOverdue, self.now_ms + self.config.server.stop_grace.as_ms());
    }

    /// Kills the workers that still run.
    pub(super) fn kill_all(&mut self) {
        for worker in self.workers.iter().filter(|worker| worker.process.is_some()) {
            tracing::warn!(worker = %worker.id, "the worker has not ended in time: killing it");
            worker.kill();
        }
        self.end_engine(true);
        self.attendants.kill_all();
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.state == InstanceState::Stopping
    }

    /// Once a second: CPU times, budget, gauges.
    pub(super) fn tick(&mut self) {
        let now_ms = self.now_ms;
        for worker in &mut self.workers {
            worker.measure(now_ms);
        }
        self.evict();
        self.balance_tick();
        self.report_pulls();
        self.expire_hls_sessions();
        self.show_decisions();
        self.show_gauges();
        self.timers.set(Timer::Tick, next_step(now_ms, super::TICK_MS));
    }

    /// While the directory is nearly full every worker hears each second what has to go, and once that nothing has to any more.
    fn evict(&mut self) {
        let stream_bytes = self.budget.stream_bytes();
        if stream_bytes == u64::MAX && !self.evicting {
            return;
        }
        self.evicting = stream_bytes < u64::MAX;
        if self.evicting && self.eviction_told_ms.is_none_or(|told_ms| self.now_ms - told_ms >= EVICTION_LINE_MS) {
            self.eviction_told_ms = Some(self.now_ms);
            tracing::warn!(
                "the shared directory is nearly full ({} of {} MiB): old blocks and segments of the largest streams go; raise [log] budget or lower [hls] retention",
                self.budget.bytes() >> 20,
                self.budget.limit_bytes() >> 20
            );
        }
        for id in self.ids() {
            // What waits already says the same.
            if self.worker(id).and_then(|worker| worker.process.as_ref()).is_some_and(|process| process.channel.pending() == 0) {
                self.send(id, &ToWorker::EvictDownTo { stream_bytes }, Vec::new());
            }
        }
    }

    pub(super) fn show_gauges(&mut self) {
        let used = self.own_use.look();
        let suppressed = self.suppressed_before + self.peer_lines.suppressed() + self.worker_lines.suppressed();
        let gauges = [
            (FrontCounter::CpuMicros, used.cpu_us),
            (FrontCounter::CpuPermille, used.cpu_permille),
            (FrontCounter::MemoryBytes, used.memory_bytes),
            (FrontCounter::Connections, self.registry.connections() as u64),
            (FrontCounter::DirectoryBytes, self.budget.bytes()),
            (FrontCounter::DirectoryBudgetBytes, self.budget.limit_bytes()),
            (FrontCounter::LogLinesSuppressed, suppressed),
        ];
        for (gauge, value) in gauges {
            self.page.counter(gauge).store(value, Relaxed);
        }
    }

    /// Brings the workers' rows on the page up to date.
    pub(super) fn show_rows(&mut self) {
        self.page.counter(FrontCounter::Connections).store(self.registry.connections() as u64, Relaxed);
        self.page.set_moving(self.moves.len() as u64);
        for worker in &mut self.workers {
            let tally = self.registry.load(worker.id);
            let row = WorkerRow {
                state: worker.state,
                pid: worker.process.as_ref().map_or(0, |process| process.pid),
                allowed: worker.limits.max_publishers,
                weight: worker.limits.effective_weight(),
                publishers: tally.publishers,
                viewers: tally.viewers,
                sessions: tally.sessions,
                restarts: worker.restarts,
                started_wall_ms: worker.process.as_ref().map_or(0, |process| process.started_wall_ms),
                spare_permille: worker.spare_permille,
            };
            if row != worker.shown {
                self.page.set_row(worker.id, &row);
                worker.shown = row;
            }
        }
    }
}

/// Streams for a log line: the first few by name, the rest as a number.
fn named(streams: &[StreamKey]) -> String {
    let mut names = streams.iter().take(NAMED_STREAMS).map(StreamKey::to_string).collect::<Vec<_>>().join(", ");
    if let Some(more) = streams.len().checked_sub(NAMED_STREAMS).filter(|more| *more > 0) {
        names += &format!(" and {more} more");
    }
    names
}

/// Whether a process ended by its own doing: a panic, an abort, a fault. Signals from outside say nothing of what it was doing.
fn is_crash(ending: Ending) -> bool {
    const FAULTS: [i32; 7] = [4, 5, 6, 7, 8, 11, 31];
    match ending {
        Ending::Code(code) => code != 0,
        Ending::Signal(signal) => FAULTS.contains(&signal),
    }
}

pub(super) fn describe(ending: Ending) -> String {
    match ending {
        Ending::Code(0) => "ended".to_owned(),
        Ending::Code(code) => format!("ended with code {code}"),
        Ending::Signal(signal) => format!("was killed by signal {signal}"),
    }
}
