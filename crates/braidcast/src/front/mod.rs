//! The front: listens, accepts, places, watches, and keeps the table of who publishes what where.
//!
//! One thread, one epoll loop: commands first, then accepting, each in bounded turns. It never reads a byte that a client
//! sent, never waits for a worker, and holds nothing whose loss a worker would notice before `front_grace` is over.

mod accept;
mod access;
mod addresses;
mod attendants;
mod backoff;
mod balance;
mod budget;
mod clients;
mod decisions;
mod engine;
mod events;
mod hear;
mod hls_sessions;
mod inherit;
mod lifecycle;
mod listen;
mod logs;
mod moves;
mod next_segments;
mod notify;
mod orders;
mod orphans;
mod ownership;
mod placement;
mod pulls;
mod registry;
mod shared_dir;
mod signals;
mod succession;
mod supervise;
mod timers;
mod vault;
mod watch;
mod workers;

use crate::api::machine::Sampler;
use crate::cli::ServeOptions;
use crate::clients::{Record, Table};
use crate::config::{Config, OnDuplicate, OnExit};
use crate::control::counters::FrontCounter;
use crate::control::pages::{FrontPage, InstanceState, Listening, MAX_WORKERS, Why, WorkerState};
use crate::control::{Holding, ProcessId, WorkerId};
use crate::events::Writer;
use crate::logging::{self, LogFiles, RateLimit};
use crate::metrics::OwnUse;
use crate::saved::RowId;
use crate::{relays, sandbox};
use access::Access;
use anyhow::{Context, bail};
use attendants::Attendants;
use balance::Balance;
use braidcast_stream_log::WorkerPage;
use braidcast_sys::{EventFd, Events, Interest, Poller, clock, limits};
use budget::Budget;
use decisions::Decisions;
use engine::Engine;
pub use engine::Recipe;
use hls_sessions::HlsSessions;
use inherit::{Inheritance, Inherited};
use listen::Socket;
use logs::Logs;
use moves::Moves;
use next_segments::NextSegments;
use orders::Orders;
pub use ownership::check_way;
use placement::Load;
use pulls::Pulls;
use registry::{Question, Registry, Rules};
use shared_dir::SharedDir;
use signals::{Signals, Wish};
use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use succession::{Predecessor, Reason, Succession};
use timers::{Timer, Timers};
use vault::Vault;
use workers::{Process, Worker};

/// Tokens of the poller: what it is in the upper half, which one in the lower.
const SIGNALS: u64 = 1;
const LISTENER: u64 = 2;
const CHANNEL: u64 = 3;
const PROCESS: u64 = 4;
const ORDERS: u64 = 5;
const SUCCESSOR: u64 = 6;
const PROGRAM: u64 = 7;
const ENGINE: u64 = 8;
const ATTENDANT: u64 = 9;
const ATTENDANT_PROCESS: u64 = 10;

/// How long a front that was killed may still hold the lock while another one is started in its place: a dying process is seen
/// dead before it has let go of its files.
const DYING_PATIENCE: Duration = Duration::from_secs(1);
/// How often gauges, CPU times and the budget are looked at, milliseconds.
const TICK_MS: u64 = 1_000;
/// How often a front that has just come looks whether it has served for long enough, milliseconds.
const CONFIRM_LOOK_MS: u64 = 50;
/// How often orders that are under way are looked at, milliseconds.
const ORDERS_LOOK_MS: u64 = 50;
/// How long an order waits when no worker can take it, milliseconds.
const SETTLE_RETRY_MS: u64 = 200;
/// Events taken from the kernel in one turn.
const EVENTS: usize = 256;
/// Descriptors beyond one for each connection: listeners, and a handful for each worker.
const OWN_DESCRIPTORS: u64 = 128;
const DESCRIPTORS_PER_WORKER: u64 = 8;

fn token(kind: u64, index: usize) -> u64 {
    kind << 32 | index as u64
}

/// A worker's place in the table.
fn index(worker: WorkerId) -> usize {
    usize::from(worker.0).wrapping_sub(1)
}

/// The state of the front.
struct Front {
    config: Config,
    config_json: String,
    shared: SharedDir,
    page: FrontPage,
    /// What the page shows too; decided from here, where no other process can write.
    state: InstanceState,
    poller: Poller,
    signals: Signals,
    sockets: Vec<Socket>,
    /// The listening sockets are watched.
    accepting: bool,
    accept_paused: bool,
    workers: Vec<Worker>,
    last_given: WorkerId,
    /// Questions that wait for a worker that can take sessions.
    unanswered: Vec<(WorkerId, Question)>,
    doorbells: Vec<EventFd>,
    registry: Registry,
    events: Writer,
    decisions: Decisions,
    vault: Vault,
    moves: Moves,
    balance: Balance,
    orders: Orders,
    /// Another front is about to take over.
    succession: Option<Succession>,
    /// It is its turn.
    handing_over: bool,
    /// The front before, until this one is confirmed.
    predecessor: Predecessor,
    /// The workers of the front before are being replaced.
    replacing: bool,
    /// Changed keys of the configuration that stay as they were until a new start.
    unchanged: Vec<&'static str>,
    /// Why the last succession came to nothing.
    gave_up: Option<String>,
    pulls: Pulls,
    /// What the API says of processes and machine.
    sampler: Sampler,
    /// Files and levels of the log.
    logs: Logs,
    hls_sessions: HlsSessions,
    /// Keys for access rules, and what signs for programs of our own.
    access: Access,
    /// Processes of another server.
    engine: Engine,
    attendants: Attendants,
    numbers: NextSegments,
    budget: Budget,
    evicting: bool,
    /// When it was last said that the directory is nearly full.
    eviction_told_ms: Option<u64>,
    timers: Timers,
    peer_lines: RateLimit,
    /// Events that clients can cause as often as they like.
    event_lines: RateLimit,
    worker_lines: RateLimit,
    /// Log lines that fronts before this one have suppressed.
    suppressed_before: u64,
    own_use: OwnUse,
    ready_fd: Option<OwnedFd>,
    now_ms: u64,
}

/// Runs an instance until somebody asks it to end. The error says what an operator can do about it.
pub fn run(load: impl FnOnce() -> anyhow::Result<Config>, options: ServeOptions) -> anyhow::Result<ExitCode> {
    let mut predecessor = Predecessor::of(&options)?;
    let begun = load().and_then(|config| begin(config, &options, &mut predecessor));
    if let Err(error) = &begun {
        predecessor.fail(error);
    }
    let mut front = begun?;
    front.predecessor = predecessor;
    front.run()?;
    if front.handing_over { front.hand_over() } else { front.end() }
}

fn begin(config: Config, options: &ServeOptions, predecessor: &mut Predecessor) -> anyhow::Result<Front> {
    let files = LogFiles::open(&config)?;
    logging::start(&config, "front");
    let begun = begin_with(config, options, predecessor);
    if begun.is_err() {
        files.give_back();
    }
    begun.map(|front| Front { logs: Logs::new(files), ..front })
}

fn begin_with(mut config: Config, options: &ServeOptions, predecessor: &mut Predecessor) -> anyhow::Result<Front> {
    sandbox::settle(&mut config.sandbox)?;
    if config.workers() > MAX_WORKERS {
        bail!("[server] workers = {}: an instance has at most {MAX_WORKERS} workers", config.workers());
    }
    // Whoever waited for the readiness of the first front of an instance has heard of it.
    let first = !predecessor.is_there() && options.resumed.is_none();
    let access = Access::new(&config)?;
    let ready_fd = options.ready_fd.filter(|_| first).map(notify::ready_fd).transpose()?;
    let signals = Signals::take_over()?;
    if predecessor.is_there() {
        // What is wrong with them is better said by who can still be stopped.
        attendants::check_certificates(&config)?;
    }
    predecessor.wait_for_go(&config.server.shared_dir)?;
    let patience = if first { DYING_PATIENCE } else { succession::LOCK_PATIENCE };
    let shared = SharedDir::open(&config.server, patience)?;
    let (path, remove) = (shared.path().to_owned(), config.server.on_exit == OnExit::Remove && first);
    match Front::new(config, shared, signals, ready_fd) {
        Ok(front) => Ok(Front { gave_up: options.resumed.clone(), access, ..front }),
        Err((error, shared)) => {
            // What was made for this start and is not wanted after the end is not wanted after a failed start either.
            if let Some(shared) = shared.filter(|_| remove)
                && let Err(error) = shared.close()
            {
                tracing::warn!(path = %path.display(), error = format!("{error:#}"), "cannot remove the shared directory");
            }
            Err(error)
        }
    }
}

impl Front {
    /// Opens everything; on failure gives the shared directory back, unless workers of another front use it.
    fn new(
        mut config: Config,
        shared: SharedDir,
        signals: Signals,
        ready_fd: Option<OwnedFd>,
    ) -> Result<Self, (anyhow::Error, Option<SharedDir>)> {
        let inheritance = match inherit::gather(shared.path()) {
            Ok(inheritance) => inheritance,
            Err(error) => return Err((error, None)),
        };
        let in_use = inheritance.is_some();
        match Opened::new(&mut config, &shared, inheritance) {
            Ok(opened) => Self::assemble(config, shared, signals, ready_fd, opened).map_err(|error| (error, None)),
            Err(error) => Err((error, Some(shared).filter(|_| !in_use))),
        }
    }

    fn assemble(config: Config, shared: SharedDir, signals: Signals, ready_fd: Option<OwnedFd>, opened: Opened) -> anyhow::Result<Self> {
        let Opened {
            events,
            sockets,
            page,
            vault,
            orders,
            numbers,
            budget,
            doorbells,
            streams,
            connections,
            inherited,
            hls_sessions,
            unchanged,
            engine,
            attendants,
        } = opened;
        let now_ms = clock::monotonic_ms();
        let poller = Poller::new().context("epoll")?;
        for (place, pipe) in signals.pipes() {
            poller.add(pipe, token(SIGNALS, place), Interest::READ).context("watching signals")?;
        }
        let registry = Registry::new(rules(&config, connections), events.last_conn());
        let listening: Vec<Listening> = sockets.iter().map(Socket::listening).collect();
        page.set_listening(&listening);
        page.set_instance(clock::wall_ms(), config.workers(), config.placement.max_publishers);
        page.counter(FrontCounter::Pid).store(std::process::id().into(), Relaxed);
        let counted = |counter: FrontCounter| page.counter(counter).load(Relaxed);
        let (own_use, suppressed_before) = (OwnUse::new(counted(FrontCounter::CpuMicros)), counted(FrontCounter::LogLinesSuppressed));
        relays::instance_id(shared.path()).context("giving this server its name")?;
        let pulls = Pulls::new(&config, now_ms);
        let mut front = Self {
            config_json: config.to_json(),
            workers: (1..=config.workers()).map(|id| Worker::new(config.worker(id), page.row(WorkerId(id)).restarts)).collect(),
            config,
            shared,
            page,
            state: InstanceState::Starting,
            poller,
            signals,
            sockets,
            accepting: false,
            accept_paused: false,
            last_given: WorkerId(0),
            unanswered: Vec::new(),
            doorbells,
            registry,
            events,
            decisions: Decisions::default(),
            vault,
            moves: Moves::default(),
            balance: Balance::default(),
            orders,
            succession: None,
            handing_over: false,
            predecessor: Predecessor::default(),
            replacing: false,
            unchanged,
            gave_up: None,
            logs: Logs::default(),
            access: Access::default(),
            pulls,
            sampler: Sampler::default(),
            hls_sessions: HlsSessions::default(),
            engine,
            attendants,
            numbers,
            budget,
            evicting: false,
            eviction_told_ms: None,
            timers: Timers::default(),
            peer_lines: RateLimit::default(),
            event_lines: RateLimit::default(),
            worker_lines: RateLimit::default(),
            suppressed_before,
            own_use,
            ready_fd,
            now_ms,
        };
        for (key, number) in front.events.told_segments().context("reading the event log")? {
            front.numbers.raise(&key, number + 1);
        }
        for worker in inherited {
            front.inherit(worker)?;
        }
        front.inherit_hls_sessions(hls_sessions);
        front.reconcile_events().context("bringing the event log in line")?;
        for key in streams.iter().take(registry::MAX_STREAMS) {
            if !front.registry.knows(key) {
                front.registry.found(key, now_ms);
            }
        }
        Ok(front)
    }

    /// A worker of the front before goes on as this one's.
    fn inherit(&mut self, worker: Inherited) -> anyhow::Result<()> {
        let Inherited { pid, handle, channel, inventory, held, numbers } = worker;
        let (id, now_ms) = (inventory.worker, self.now_ms);
        let mut process = Process::new(pid, handle, channel, inventory.heap, now_ms);
        process.inherited = true;
        self.watch(id, &process)?;
        let Some(place) = self.worker_mut(id) else { bail!("there is a worker {id}, and only {} are configured", self.workers.len()) };
        (place.process, place.state) = (Some(process), WorkerState::Running);
        tracing::info!(worker = %id, pid, connections = held.len(), "the worker of the front before goes on");
        for (holding, socket) in held {
            let Holding { conn, row, departed, pull, .. } = holding.clone();
            let placed = holding.place.is_some();
            self.registry.inherited(id, holding, now_ms);
            if let Some(key) = pull {
                // Nobody else can go on with it.
                self.pulls.inherited(conn, id, &key, placed, &self.config, now_ms);
                continue;
            }
            self.vault.keep(row, socket);
            if departed && let Ok(homeless) = self.registry.handed_over(conn, id) {
                self.find_home(homeless, id, Why::Drained);
            }
        }
        for (key, next, duration_ms) in numbers {
            self.segment(&key, next, duration_ms);
        }
        Ok(())
    }

    fn run(&mut self) -> anyhow::Result<()> {
        for id in self.ids() {
            match self.worker(id).is_some_and(|worker| worker.process.is_none()) {
                true => self.start_worker(id),
                false => {
                    self.introduce_logs(id);
                    self.introduce_access(id);
                }
            }
        }
        self.begin_engine();
        self.begin_attendants().context("watching for attendants")?;
        self.watch_orders().context("watching for orders")?;
        self.timers.set(Timer::Tick, self.now_ms);
        self.timers.set(Timer::Sample, self.now_ms);
        self.timers.set(Timer::Pulls, self.now_ms);
        self.timers.set(Timer::Watch, self.now_ms);
        self.timers.set(Timer::Confirm, self.now_ms);
        self.timers.set(Timer::ReadyAnyway, self.now_ms + supervise::READY_ANYWAY_MS);
        self.watch_sockets();
        self.send_waiting_home();
        self.announce_if_ready(false);
        let mut events = Events::with_capacity(EVENTS);
        while !self.is_over() && !self.handing_over {
            let timeout = self.timers.next_due_ms().map(|due_ms| Duration::from_millis(due_ms.saturating_sub(clock::monotonic_ms())));
            self.poller.wait(&mut events, timeout).context("waiting for events")?;
            self.now_ms = clock::monotonic_ms();
            self.turn(&events);
        }
        Ok(())
    }

    /// Signals have come.
    fn signalled(&mut self, place: usize) {
        let Some((wish, count)) = self.signals.drain(place) else { return };
        let reason = match wish {
            Wish::Stop => return (0..count).for_each(|_| self.stop()),
            Wish::Reload => Reason::Reload,
            Wish::Upgrade => Reason::Upgrade,
            Wish::Reopen if count == 0 => return,
            Wish::Reopen => return self.reopen_logs(),
        };
        if count > 0
            && let Err(why) = self.begin_succession(reason)
        {
            tracing::error!("{reason:?} by a signal is refused: {why}");
        }
    }

    /// A front that has just taken over is confirmed when it has served for a while; then the workers of the front before are replaced.
    fn confirm(&mut self) {
        let was_there = self.predecessor.is_there();
        if was_there && self.state == InstanceState::Running {
            braidcast_sys::fault::kill_point("succeeding");
        }
        if was_there && self.state == InstanceState::Running && self.predecessor.confirm() {
            tracing::info!("this front has taken over: the workers are replaced one by one");
            self.replacing = true;
            self.replace_attendants();
        }
        if self.replacing {
            self.replacing = self.replace_inherited() > 0;
        }
        if self.predecessor.is_there() || self.replacing {
            self.timers.set(Timer::Confirm, self.now_ms + CONFIRM_LOOK_MS);
        }
    }

    /// One turn: commands and deaths, timers, new connections.
    fn turn(&mut self, events: &Events) {
        for event in events.iter() {
            let worker = WorkerId(event.token as u16);
            match event.token >> 32 {
                SIGNALS => self.signalled(event.token as u32 as usize),
                CHANNEL => {
                    if event.writable {
                        self.flush(worker);
                    }
                    self.hear(worker);
                }
                PROCESS => self.worker_ended(worker),
                ORDERS => self.orders_turn(event.token as u32 as usize),
                SUCCESSOR => self.hear_successor(),
                PROGRAM => self.program_ended(event.token as u32 as usize),
                ENGINE => self.process_ended(ProcessId(event.token as u16)),
                ATTENDANT => self.attendants_turn(event.token as u32 as usize),
                ATTENDANT_PROCESS => self.attendant_ended(event.token as u32),
                _ => {}
            }
        }
        for timer in self.timers.take_due(self.now_ms) {
            self.due(timer);
        }
        for event in events.iter().filter(|event| event.token >> 32 == LISTENER) {
            self.accept_turn(event.token as u32 as usize);
        }
        self.deliver();
        self.settle();
        self.end_attendants();
        self.show_rows();
    }

    fn due(&mut self, timer: Timer) {
        match timer {
            Timer::Tick => self.tick(),
            Timer::Sample => self.sample_machine(),
            Timer::Watch => self.watch_workers(),
            Timer::Drain => self.drain_on(),
            Timer::Decisions => self.decisions_due(),
            Timer::Pulls => self.pulls_turn(),
            Timer::KeyFiles => self.look_at_key_files(),
            Timer::Orders => self.report_on_orders(),
            Timer::Succession => self.succession_due(),
            Timer::Confirm => self.confirm(),
            Timer::Restart(worker) => self.restart_worker(worker),
            Timer::Engine => self.engine_look(),
            Timer::StartProcess(process) => self.start_process_of_engine(process),
            Timer::Overdue(worker) => self.worker_overdue(worker),
            Timer::ResumeAccept => {
                self.accept_paused = false;
                self.watch_sockets();
            }
            Timer::RetrySends => {
                self.ids().for_each(|id| self.flush(id));
                self.flush_attendants();
            }
            Timer::StartAttendant(role) => self.start_attendant(role),
            Timer::Certificates => self.look_at_certificates(),
            Timer::AttendantOverdue(role) => self.attendant_overdue(role),
            // Looked at in every turn; the timer only ends the wait.
            Timer::Settle => {}
            Timer::ReadyAnyway => {
                self.announce_if_ready(true);
                if self.state == InstanceState::Starting {
                    self.timers.set(Timer::ReadyAnyway, self.now_ms + supervise::READY_ANYWAY_MS);
                }
            }
            Timer::StopOverdue => self.kill_all(),
        }
    }

    /// Orders what is due for streams that nobody publishes, and plans the next look.
    fn settle(&mut self) {
        if self.is_stopping() {
            return self.timers.clear(Timer::Settle);
        }
        while let Some((key, settling)) = self.registry.poll_settling(self.now_ms) {
            // Where other servers write the segments, one worker settles streams: the one that collects them.
            let settler = if self.config.relays() { self.engine.keeper() } else { self.least_busy() };
            let Some(worker) = settler else {
                return self.timers.set(Timer::Settle, self.now_ms + SETTLE_RETRY_MS);
            };
            let next_segment = self.numbers.next(&key);
            tracing::debug!(stream = %key, %worker, "nobody publishes the stream: {settling:?}");
            self.registry.lifecycle().ordered(&key, worker, self.now_ms);
            self.send(worker, &crate::control::ToWorker::Settle { key, settling, next_segment }, Vec::new());
        }
        match self.registry.lifecycle().next_due_ms() {
            Some(due_ms) => self.timers.set(Timer::Settle, due_ms),
            None => self.timers.clear(Timer::Settle),
        }
    }

    fn is_over(&self) -> bool {
        self.is_stopping() && self.no_worker_runs() && self.engine.is_empty() && self.attendants.is_empty()
    }

    fn no_worker_runs(&self) -> bool {
        self.workers.iter().all(|worker| worker.process.is_none())
    }

    /// After the last worker: writes down what is to stay, removes what is not.
    fn end(mut self) -> anyhow::Result<ExitCode> {
        self.end_decisions();
        self.show_rows();
        self.show_gauges();
        self.page.counter(FrontCounter::StateDropped).fetch_add(self.numbers.dropped(), Relaxed);
        let Self { budget, numbers, page, shared, .. } = self;
        budget.close();
        let written = numbers.close();
        page.set_state(InstanceState::Ended);
        let tidied = shared.close();
        tracing::info!("ended in order");
        written.and(tidied)?;
        Ok(ExitCode::SUCCESS)
    }

    fn ids(&self) -> impl Iterator<Item = WorkerId> + use<> {
        (1..=self.config.workers()).map(WorkerId)
    }

    fn worker(&self, id: WorkerId) -> Option<&Worker> {
        self.workers.get(index(id))
    }

    fn worker_mut(&mut self, id: WorkerId) -> Option<&mut Worker> {
        self.workers.get_mut(index(id))
    }

    /// The workers that can take sessions, for placement; their counts are the registry's to fill in.
    fn loads(&self) -> Vec<Load> {
        let serving = self.workers.iter().filter(|worker| worker.serves());
        let load = |worker: &Worker| Load {
            worker: worker.id,
            publishers: 0,
            viewers: 0,
            allowed: worker.limits.max_publishers,
            weight: worker.limits.effective_weight(),
            spare_permille: worker.spare_permille,
        };
        serving.map(load).collect()
    }

    fn set_state(&mut self, state: InstanceState) {
        self.state = state;
        self.page.set_state(state);
    }

    fn count(&self, counter: FrontCounter) {
        self.count_by(counter, 1);
    }

    fn count_by(&self, counter: FrontCounter, by: u64) {
        self.page.counter(counter).fetch_add(by, Relaxed);
    }
}

/// What can fail for a reason that an operator can do something about.
struct Opened {
    events: Writer,
    sockets: Vec<Socket>,
    page: FrontPage,
    vault: Vault,
    orders: Orders,
    numbers: NextSegments,
    budget: Budget,
    doorbells: Vec<EventFd>,
    streams: HashSet<braidcast_media::StreamKey>,
    connections: u64,
    inherited: Vec<Inherited>,
    hls_sessions: Vec<(RowId, Record)>,
    unchanged: Vec<&'static str>,
    engine: Engine,
    attendants: Attendants,
}

impl Opened {
    fn new(config: &mut Config, shared: &SharedDir, inheritance: Option<Inheritance>) -> anyhow::Result<Self> {
        let full = "making the pages in the shared directory: is it full?";
        let mut events = Writer::open(shared.path()).context(full)?;
        let Inheritance { workers: inherited, mut sockets, mut doorbells } = match inheritance {
            Some(inheritance) => inheritance,
            None => {
                events::end_all(&mut events, shared.path())?;
                shared.forget_sessions()?;
                Inheritance::default()
            }
        };
        let mut unchanged = Vec::new();
        match inherited.first() {
            Some(worker) => unchanged = keep_what_cannot_change(config, &worker.inventory.config)?,
            None => {
                // They would hold listening sockets of an instance that is gone.
                attendants::end_all(shared.path())?;
                attendants::check_certificates(config)?;
                sockets = listen::open_all(config)?;
                doorbells = (0..config.workers()).map(|_| EventFd::new()).collect::<Result<_, _>>().context("making the doorbells")?;
            }
        }
        if let Some(identity) = sandbox::identity(&config.sandbox) {
            sandbox::share_with_group();
            if inherited.is_empty() {
                ownership::hand_over(config, identity).context("the shared directory cannot be used")?;
            }
        }
        let connections = cover_connections(config)?;
        let page = FrontPage::create(shared.path()).context(full)?;
        for id in 1..=config.workers() {
            // Made here, so that each worker finds the pages of all others whichever starts first.
            if !inherited.iter().any(|worker| worker.inventory.worker.0 == id) {
                WorkerPage::create(shared.root(), id).context(full)?;
            }
        }
        let mut hls_sessions = Vec::new();
        let vault = match &*inherited {
            [] => Vault::create(shared.path()),
            workers => {
                let mut clients = Table::inherit(shared.path()).context(full)?;
                hls_sessions = hls_sessions::found(&mut clients);
                let held = workers.iter().flat_map(|worker| worker.held.iter().map(|(holding, _)| holding.row));
                let rows = held.chain(hls_sessions.iter().map(|(row, _)| *row)).collect();
                let heaps: HashSet<_> = workers.iter().map(|worker| worker.inventory.heap).collect();
                let vault = Vault::inherit(shared.path(), &rows, clients, heaps.iter().max().copied().unwrap_or_default());
                vault.inspect(|vault| vault.delete_other_heaps(&heaps))
            }
        };
        let vault = vault.context(full)?;
        let orders = Orders::open(shared.path()).context("listening for orders")?;
        let streams: HashSet<_> = shared.streams()?.into_iter().collect();
        if !streams.is_empty() && inherited.is_empty() {
            tracing::info!("{} streams of an earlier instance were found: their indexes are rebuilt", streams.len());
        }
        let numbers = NextSegments::open(&config.server.state_dir, |key| streams.contains(key))?;
        let budget = Budget::start(shared.path(), config.log.budget.bytes(), config.log.keep.as_ms())?;
        let engine = Engine::open(config, clock::monotonic_ms())?;
        let attendants = Attendants::open(shared.path()).context("listening for attendants")?;
        Ok(Self {
            events,
            sockets,
            page,
            vault,
            orders,
            numbers,
            budget,
            doorbells,
            streams,
            connections,
            inherited,
            hls_sessions,
            unchanged,
            engine,
            attendants,
        })
    }
}

/// What a running instance was started with stays as it is; a changed value is named.
fn keep_what_cannot_change(config: &mut Config, running: &str) -> anyhow::Result<Vec<&'static str>> {
    let running = Config::from_json(running).context("the configuration of the workers that go on")?;
    let changed = config.keep_fixed(&running);
    if !changed.is_empty() {
        tracing::warn!("what changes only with a new start stays as it was: {}", changed.join(", "));
    }
    Ok(changed)
}

/// How many descriptors the front needs for all the connections that the configuration allows.
pub fn descriptors_wanted(config: &Config) -> u64 {
    u64::from(config.limits.connections) + own_descriptors(config)
}

fn own_descriptors(config: &Config) -> u64 {
    OWN_DESCRIPTORS + DESCRIPTORS_PER_WORKER * u64::from(config.workers())
}

/// Raises the descriptor limit so that it covers the connections of all workers together; returns how many it covers.
fn cover_connections(config: &Config) -> anyhow::Result<u64> {
    let own = own_descriptors(config);
    let wanted = u64::from(config.limits.connections);
    let limit = limits::raise_rlimit_nofile(wanted + own).context("raising the descriptor limit")?.soft;
    let covered = limit.saturating_sub(own).min(wanted);
    if covered == 0 {
        bail!("the descriptor limit is {limit}, which leaves none for connections: raise it (LimitNOFILE=, ulimit -n) to {}", wanted + own);
    }
    if covered < wanted {
        tracing::warn!(
            "the descriptor limit is {limit}: taking {covered} connections instead of {wanted}; raise it (LimitNOFILE=, ulimit -n) to {}, or lower [limits] connections",
            wanted + own
        );
    }
    Ok(covered)
}

fn rules(config: &Config, connections: u64) -> Rules {
    Rules {
        connections: usize::try_from(connections).unwrap_or(usize::MAX),
        connections_per_address: config.limits.connections_per_address,
        trusted_proxies: config.server.trusted_proxies.clone(),
        publish: config.placement.publish,
        play: config.placement.play,
        max_publishers: config.placement.max_publishers,
        replace: config.publish.on_duplicate == OnDuplicate::Replace,
        silent_after_ms: config.publish.silent_after.as_ms(),
        reconnect_grace_ms: config.play.reconnect_grace.as_ms(),
        hls_dispose_ms: config.hls.hls_dispose.as_ms(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
