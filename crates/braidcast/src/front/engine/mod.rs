//! Processes of another server: started, watched, started again, replaced one by one; and which of them gets a publisher or a player.
//!
//! Never speaks with them: whether they answer is for the worker to find out that keeps them ([`ToFront::Keeps`]).

mod launch;
mod process;

use super::Front;
use super::placement::Load;
use super::registry::{Circumstances, Question};
use super::timers::Timer;
use crate::control::counters::FrontCounter;
use crate::control::pages::WorkerState;
use crate::control::{ConnId, EngineProcess, Intent, ProcessId, ToFront, ToWorker, WorkerId};
use crate::engine::{process_dir, report};
use crate::srs_conf::NoteKind;
use anyhow::Context;
use braidcast_media::StreamKey;
use braidcast_sys::{Interest, clock, net};
pub use launch::Recipe;
pub use launch::program_at;
use process::{Ports, Process};
use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;

/// How often processes are looked at, milliseconds.
const LOOK_MS: u64 = 100;
/// How long a process may take from its start until it takes connections, milliseconds.
const START_MS: u64 = 15_000;
/// How long a process may take to end when it was asked to, milliseconds.
const END_MS: u64 = 5_000;
/// A stream that comes from nobody we know is over when no segment of it has come for so long, milliseconds.
const UNKNOWN_SILENT_MS: u64 = 60_000;

/// All about them.
#[derive(Debug, Default)]
pub struct Engine {
    recipe: Option<Recipe>,
    processes: Vec<Process>,
    /// The worker that looks after them.
    keeper: Option<WorkerId>,
    /// Questions for streams that nobody publishes, by stream; and for which stream a connection asks.
    waiting: HashMap<StreamKey, Vec<(WorkerId, Question)>>,
    waits_for: HashMap<ConnId, StreamKey>,
    /// Vhosts whose streams a process fetches from elsewhere when it is asked for them.
    fetching: Vec<String>,
    told: Vec<EngineProcess>,
    /// Processes that are still to be replaced, one by one.
    to_replace: VecDeque<ProcessId>,
    /// When the monotonic clock began, wall clock, milliseconds.
    clock_began_ms: u64,
    reported: report::Report,
    report_at_ms: u64,
}

impl Engine {
    /// As configured; nothing is started yet. What an earlier front has started goes on.
    pub fn open(config: &crate::config::Config, now_ms: u64) -> anyhow::Result<Self> {
        if !config.relays() {
            // Nobody looks after processes of an instance before, or takes what they have written.
            let left = config.server.shared_dir.join(crate::engine::DIRECTORY);
            if left.exists() {
                crate::engine::note::end_all(&config.server.shared_dir);
                std::fs::remove_dir_all(&left).with_context(|| format!("deleting {}", left.display()))?;
            }
            return Ok(Self::default());
        }
        let recipe = Recipe::read(&config.engine)?;
        let program = recipe.program(&config.engine);
        let mut processes: Vec<Process> = (1..=config.processes()).map(|id| Process::new(config.worker(id), program.clone())).collect();
        for process in &mut processes {
            process.adopt(&process_dir(&config.server.shared_dir, process.id), now_ms)?;
        }
        let fetching = match &recipe {
            Recipe::Srs(site) => site.edge_vhosts(),
            Recipe::External { .. } => Vec::new(),
        };
        for note in recipe.notes() {
            match note.kind {
                NoteKind::Changed => tracing::info!("{note}"),
                NoteKind::Lost | NoteKind::Odd => tracing::warn!("{note}"),
            }
        }
        let clock_began_ms = clock::wall_ms().saturating_sub(now_ms);
        Ok(Self { recipe: Some(recipe), processes, fetching, clock_began_ms, ..Self::default() })
    }

    fn process(&mut self, id: ProcessId) -> Option<&mut Process> {
        self.processes.get_mut(usize::from(id.0).wrapping_sub(1))
    }

    /// What relays are told.
    pub fn addresses(&self) -> Vec<EngineProcess> {
        self.processes.iter().filter_map(Process::address).collect()
    }

    /// Whether none runs.
    pub fn is_empty(&self) -> bool {
        self.processes.iter().all(|process| process.running.is_none())
    }

    /// The worker that settles streams; `None`: any.
    pub fn keeper(&self) -> Option<WorkerId> {
        self.keeper
    }

    /// A connection is over, or wants nothing any more.
    pub fn gone(&mut self, conn: ConnId) {
        let Some(key) = self.waits_for.remove(&conn) else { return };
        if let Some(waiting) = self.waiting.get_mut(&key) {
            waiting.retain(|(_, question)| question.conn != conn);
            if waiting.is_empty() {
                self.waiting.remove(&key);
            }
        }
    }

    /// A worker is dead.
    pub fn worker_died(&mut self, worker: WorkerId) {
        self.keeper = self.keeper.filter(|keeper| *keeper != worker);
        let conns: Vec<ConnId> =
            self.waiting.values().flatten().filter(|(asking, _)| *asking == worker).map(|(_, question)| question.conn).collect();
        conns.into_iter().for_each(|conn| self.gone(conn));
    }
}

impl Front {
    /// Starts those that do not run, watches those that do.
    pub(super) fn begin_engine(&mut self) {
        let ids: Vec<ProcessId> = self.engine.processes.iter().map(|process| process.id).collect();
        for id in ids {
            let running = self.engine.process(id).is_some_and(|process| process.running.is_some());
            match running {
                true => self.watch_process(id),
                false => self.start_process_of_engine(id),
            }
        }
        if self.config.relays() {
            self.timers.set(Timer::Engine, self.now_ms);
        }
    }

    fn watch_process(&mut self, id: ProcessId) {
        let Some(running) = self.engine.process(id).and_then(|process| process.running.as_ref()) else { return };
        if let Err(error) = self.poller.add(&running.handle, super::token(super::ENGINE, id.0.into()), Interest::READ) {
            tracing::error!(process = %id, %error, "cannot watch a process: its end will not be noticed");
        }
    }

    /// Starts a process; a failure is tried again later like a death.
    pub(super) fn start_process_of_engine(&mut self, id: ProcessId) {
        let (now_ms, stopping) = (self.now_ms, self.is_stopping());
        let shared_dir = self.config.server.shared_dir.clone();
        let Engine { recipe: Some(recipe), processes, .. } = &mut self.engine else { return };
        let taken: Vec<Ports> = processes.iter().filter_map(Process::ports).collect();
        let Some(process) = processes.get_mut(usize::from(id.0) - 1).filter(|process| process.running.is_none() && !stopping) else {
            return;
        };
        let started = Ports::free(&taken).map_err(anyhow::Error::from).and_then(|ports| {
            let pid = recipe.start(&self.config, &process.program, id, ports)?;
            process.started(&process_dir(&shared_dir, id), pid, ports, now_ms)?;
            Ok((pid, ports))
        });
        match started {
            Ok((pid, ports)) => {
                tracing::info!(process = %id, pid, rtmp = %ports.rtmp, http = %ports.http, api = %ports.api, "{} is started", process.program.display());
                self.watch_process(id);
            }
            Err(error) => {
                process.state = WorkerState::Restarting;
                let pause_ms = process.backoff.next_ms(0);
                tracing::error!(process = %id, error = format!("{error:#}"), "a process cannot be started; tried again in {pause_ms} ms");
                self.timers.set(Timer::StartProcess(id), now_ms + pause_ms);
            }
        }
    }

    /// A process has ended.
    pub(super) fn process_ended(&mut self, id: ProcessId) {
        let now_ms = self.now_ms;
        let (stopping, publishers) = (self.is_stopping(), self.registry.process_load(id).publishers);
        let Some(process) = self.engine.process(id) else { return };
        let Some(running) = process.running.as_ref().filter(|running| running.handle.has_ended().unwrap_or(true)) else { return };
        let ending = match running.handle.try_wait() {
            Ok(None) => return,
            Ok(Some(ending)) => super::supervise::describe(ending),
            // Of a child of another front nobody says how.
            Err(_) => "ended".to_owned(),
        };
        let lived_ms = now_ms.saturating_sub(running.since_ms);
        let pid = running.note.pid;
        if let Err(error) = self.poller.delete(&running.handle) {
            tracing::debug!(process = %id, %error, "cannot leave a process that has ended");
        }
        let expected = process.draining_since_ms.take().is_some();
        process.running = None;
        process.state = if stopping { WorkerState::Empty } else { WorkerState::Restarting };
        if stopping {
            return tracing::info!(process = %id, pid, "the process {ending}");
        }
        let pause_ms = if expected { 0 } else { process.backoff.next_ms(lived_ms) };
        process.restarts += u32::from(!expected);
        match expected {
            true => tracing::info!(process = %id, pid, "the drained process {ending}; it is started anew"),
            false => {
                tracing::error!(process = %id, pid, publishers, "the process {ending} after {lived_ms} ms; its publishers are placed elsewhere when they come back; it is started again in {pause_ms} ms")
            }
        }
        if !expected {
            self.count(FrontCounter::ProcessRestarts);
        }
        self.timers.set(Timer::StartProcess(id), now_ms + pause_ms);
        self.tell_processes();
    }

    /// Several times a second: who takes connections, who is silent, who is empty.
    pub(super) fn engine_look(&mut self) {
        let (now_ms, silent_ms) = (self.now_ms, self.config.engine.silent_after.as_ms());
        for index in 0..self.engine.processes.len() {
            let process = &mut self.engine.processes[index];
            let Some(running) = &process.running else { continue };
            let (id, pid, since_ms) = (process.id, running.note.pid, running.since_ms);
            match process.state {
                WorkerState::Starting if takes_connections(running.note.rtmp) => {
                    process.state = WorkerState::Running;
                    tracing::info!(process = %id, pid, "the process takes connections ({} ms after its start)", now_ms - since_ms);
                }
                WorkerState::Starting if now_ms >= since_ms + START_MS => {
                    tracing::error!(process = %id, pid, "the process does not take connections in time: killing it; its own lines say why");
                    process.end(true);
                }
                _ => {}
            }
            if let Some((since_ms, why)) = &process.silent
                && process.serves()
                && now_ms.saturating_sub(*since_ms) >= silent_ms
            {
                tracing::error!(process = %id, pid, "the process has not answered for {} ms ({why}): killing it", now_ms - since_ms);
                process.silent = None;
                process.end(true);
            }
        }
        self.drain_processes();
        self.tell_processes();
        self.announce_if_ready(false);
        self.report_engine();
        self.timers.set(Timer::Engine, now_ms + LOOK_MS);
    }

    /// Tells all relays where the processes are, if something has changed.
    fn tell_processes(&mut self) {
        let addresses = self.engine.addresses();
        if addresses == self.engine.told {
            return;
        }
        self.engine.told.clone_from(&addresses);
        for id in self.ids() {
            self.send(id, &ToWorker::Processes(addresses.clone()), Vec::new());
        }
    }

    /// Whether all processes take connections, or there are none.
    pub(super) fn engine_is_ready(&self, anyway: bool) -> bool {
        let serving = self.engine.processes.iter().filter(|process| process.serves()).count();
        serving == self.engine.processes.len() || (anyway && serving > 0)
    }

    /// Ends all processes: the server stops, and no worker needs them any more.
    pub(super) fn end_engine(&mut self, kill: bool) {
        for process in &mut self.engine.processes {
            if kill || process.state != WorkerState::Stopping {
                process.end(kill);
            }
            if process.running.is_some() {
                process.state = WorkerState::Stopping;
            }
        }
    }

    /// A process gets no publishers any more, is left until its streams end or the limit passes, then ends and is started anew. The error
    /// says why not.
    pub(super) fn drain_process(&mut self, id: ProcessId) -> Result<(), String> {
        let now_ms = self.now_ms;
        let most = self.engine.processes.len();
        let Some(process) = self.engine.process(id) else { return Err(format!("there is no process {id}; there are {most}")) };
        match process.state {
            WorkerState::Running => {}
            WorkerState::Draining => return Ok(()),
            other => return Err(format!("process {id} is {}", other.label())),
        }
        process.state = WorkerState::Draining;
        process.draining_since_ms = Some(now_ms);
        tracing::info!(process = %id, publishers = self.registry.process_load(id).publishers, "the process gets no publishers any more; it ends when its streams do ([engine] drain_limit: {})", self.config.engine.drain_limit);
        Ok(())
    }

    /// Has all processes replaced by ones of another program, one by one.
    pub(super) fn upgrade_processes(&mut self, program: PathBuf) -> Result<String, String> {
        if self.engine.processes.is_empty() {
            return Err("there are no processes of another server: [engine] kind = \"native\"".to_owned());
        }
        for process in &mut self.engine.processes {
            process.program.clone_from(&program);
        }
        self.engine.to_replace = self.engine.processes.iter().map(|process| process.id).collect();
        Ok(format!("{} processes are replaced one by one by {}", self.engine.to_replace.len(), program.display()))
    }

    /// How many processes are still to be replaced, the one included that is being drained.
    pub(super) fn processes_to_replace(&self) -> usize {
        let replaced = |process: &&Process| !matches!(process.state, WorkerState::Running);
        self.engine.to_replace.len() + self.engine.processes.iter().filter(replaced).count()
    }

    /// When a process was started, and whether it serves now.
    pub(super) fn process_run(&self, id: ProcessId) -> Option<(u64, bool)> {
        let process = self.engine.processes.get(usize::from(id.0).checked_sub(1)?)?;
        Some((process.running.as_ref().map_or(0, |running| running.note.run), process.takes_publishers()))
    }

    fn drain_processes(&mut self) {
        let (now_ms, limit_ms) = (self.now_ms, self.config.engine.drain_limit.as_ms());
        for process in &mut self.engine.processes {
            let Some(since_ms) = process.draining_since_ms else { continue };
            let tally = self.registry.process_load(process.id);
            let overdue = now_ms >= since_ms + limit_ms;
            match process.state {
                WorkerState::Draining if tally.publishers == 0 || overdue => {
                    tracing::info!(process = %process.id, publishers = tally.publishers, viewers = tally.viewers, "the drained process is ended");
                    process.state = WorkerState::Stopping;
                    process.draining_since_ms = Some(now_ms);
                    process.end(false);
                }
                WorkerState::Stopping if now_ms >= since_ms + END_MS => process.end(true),
                _ => {}
            }
        }
        let all_serve = self.engine.processes.iter().all(Process::takes_publishers);
        if all_serve
            && let Some(next) = self.engine.to_replace.pop_front()
            && let Err(why) = self.drain_process(next)
        {
            tracing::warn!(process = %next, "it cannot be replaced yet: {why}");
            self.engine.to_replace.push_back(next);
        }
    }

    /// Where a connection belongs, where processes of another server have the streams.
    pub(super) fn answer_at_process(&mut self, worker: WorkerId, question: Question) {
        let actions = self.wanted_decisions(&question);
        let question = Question { undecided: !actions.is_empty(), ..question };
        let (conn, number, intent, key) = (question.conn, question.number, question.intent, question.key.clone());
        let is_new = intent == Intent::Publish && !self.registry.knows(&key);
        let room = !is_new || self.budget.has_room(self.now_ms);
        let loads: Vec<Load> = self.engine.processes.iter().filter(|process| process.takes_publishers()).map(load).collect();
        let (now_ms, serves) = (self.now_ms, |id: ProcessId| self.engine.processes.get(usize::from(id.0) - 1).is_some_and(Process::serves));
        let question = Question { found_at: question.found_at.filter(|process| process.0 > 0 && serves(*process)), ..question };
        let around = Circumstances {
            workers: &[],
            room,
            // Its relay sees a publisher that is gone; until then it is there.
            last_append_ms: &|_| Some(now_ms),
            next_segment: &|_| 0,
            fetched_at: self.fetched_at(&key),
        };
        let asked = question.clone();
        match self.registry.place_at_process(worker, question, &loads, &around, now_ms) {
            Ok(Some(_)) if self.registry.is_undecided(conn, number) => {
                self.engine.gone(conn);
                self.hold((conn, number), intent, key, actions);
            }
            Ok(Some(answer)) => {
                self.engine.gone(conn);
                self.note_answer(worker, conn, intent, &key, is_new, &answer);
            }
            Ok(None) => {
                self.engine.gone(conn);
                self.engine.waits_for.insert(conn, key.clone());
                self.engine.waiting.entry(key).or_default().push((worker, asked));
            }
            Err(mismatch) => self.refuse_question(worker, conn, mismatch),
        }
    }

    /// The process that fetches a stream of such a vhost: always the same one, so that it is fetched once.
    fn fetched_at(&self, key: &StreamKey) -> Option<ProcessId> {
        if !self.engine.fetching.iter().any(|vhost| vhost == key.vhost()) {
            return None;
        }
        let serving: Vec<ProcessId> = self.engine.processes.iter().filter(|process| process.serves()).map(|process| process.id).collect();
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        serving.get((hasher.finish() % serving.len().max(1) as u64) as usize).copied()
    }

    /// A process has taken a connection. If it publishes, those who wait for the stream are connected.
    pub(super) fn taken(&mut self, worker: WorkerId, conn: ConnId) {
        match self.registry.taken(conn, worker, self.now_ms) {
            Ok(Some(key)) => {
                for (asking, question) in self.engine.waiting.remove(&key).into_iter().flatten() {
                    self.engine.waits_for.remove(&question.conn);
                    if self.registry.worker_of(question.conn) == Some(asking) {
                        self.answer_at_process(asking, question);
                    }
                }
            }
            Ok(None) => {}
            Err(mismatch) => self.note(worker, conn, Err(mismatch)),
        }
    }

    /// What the worker says that looks after the processes.
    pub(super) fn hear_keeper(&mut self, worker: WorkerId, message: ToFront) {
        match message {
            ToFront::Keeps => {
                tracing::info!(%worker, "the worker collects segments and looks after the processes");
                self.engine.keeper = Some(worker);
                self.timers.set_sooner(Timer::Settle, self.now_ms);
            }
            ToFront::Collects { key } => {
                let next_segment = self.numbers.next(&key);
                self.numbers.raise(&key, next_segment.max(1));
                self.send(worker, &ToWorker::CollectFrom { key, next_segment }, Vec::new());
            }
            ToFront::Health { process, run, seen } => {
                let now_ms = self.now_ms;
                let Some(process) = self.engine.process(process) else { return };
                if process.running.as_ref().is_none_or(|running| running.note.run != run) {
                    return;
                }
                match seen {
                    Ok(cpu_permille) => {
                        if let Some((since_ms, _)) = process.silent.take() {
                            tracing::info!(process = %process.id, "the process answers again, after {} ms", now_ms - since_ms);
                        }
                        process.cpu_permille = cpu_permille;
                    }
                    Err(why) if process.silent.is_none() && process.serves() => {
                        tracing::warn!(process = %process.id, "the process does not answer: {why}");
                        process.silent = Some((now_ms, why));
                    }
                    Err(_) => {}
                }
            }
            _ => {}
        }
    }

    /// A segment of a stream has come that nobody publishes through a relay: it lives as long as they come.
    pub(super) fn segment_of_unknown(&mut self, key: &StreamKey) {
        if self.config.relays() && self.registry.publisher_of(key).is_none() {
            self.registry.comes_from_elsewhere(key, self.now_ms + UNKNOWN_SILENT_MS);
        }
    }

    /// A worker that is new, or whose front is, is told where the processes are.
    pub(super) fn introduce_processes(&mut self, worker: WorkerId) {
        if self.config.relays() {
            self.send(worker, &ToWorker::Processes(self.engine.addresses()), Vec::new());
        }
    }

    fn report_engine(&mut self) {
        if self.now_ms < self.engine.report_at_ms {
            return;
        }
        self.engine.report_at_ms = self.now_ms + super::TICK_MS;
        let registry = &self.registry;
        let row = |process: &Process| {
            let (tally, note) = (registry.process_load(process.id), process.running.as_ref().map(|running| &running.note));
            report::Process {
                id: process.id.0,
                pid: note.map_or(0, |note| note.pid),
                state: if process.state == WorkerState::Running { "ready" } else { process.state.label() }.to_owned(),
                allowed: Some(process.limits.max_publishers).filter(|most| *most != 0),
                current: tally.publishers,
                free: Some(process.limits.max_publishers).filter(|most| *most != 0).map(|most| most.saturating_sub(tally.publishers)),
                viewers: tally.viewers,
                weight: process.limits.effective_weight(),
                restarts: process.restarts,
                started_wall_ms: note.map_or(0, |note| note.run),
                cpu_permille: process.cpu_permille,
                program: process.program.display().to_string(),
                rtmp: note.map(|note| note.rtmp),
                http: note.map(|note| note.http),
                api: note.map(|note| note.api),
                silent: process.silent.as_ref().map(|(_, why)| why.clone()),
            }
        };
        let report = report::Report {
            kind: crate::config::show_engine(self.config.engine.kind),
            processes: self.engine.processes.iter().map(row).collect(),
            streams: registry.published_at_processes(self.engine.clock_began_ms),
        };
        if report != self.engine.reported {
            if let Err(error) = report.write(self.shared.path()) {
                tracing::debug!(%error, "cannot say how the processes get on");
            }
            self.engine.reported = report;
        }
    }
}

/// A process as placement sees it: as a worker of its number.
fn load(process: &Process) -> Load {
    Load {
        worker: WorkerId(process.id.0),
        publishers: 0,
        viewers: 0,
        allowed: process.limits.max_publishers,
        weight: process.limits.effective_weight(),
        spare_permille: 1_000_u32.saturating_sub(process.cpu_permille),
    }
}

/// Whether somebody listens there. On loopback that is known at once.
fn takes_connections(address: std::net::SocketAddr) -> bool {
    net::connect(address).is_ok_and(|socket| net::peer_addr(&socket).is_ok())
}
