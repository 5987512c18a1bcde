//! A worker: one thread that negotiates, ingests, serves and segments. It may die at any instruction.
//!
//! The loop takes what the front says, then reads, then commits, then fans out, each in bounded turns; nothing in it ever
//! waits but the poll itself. All state lies in plain tables; sessions are told apart by slot and generation.

mod access;
mod api;
mod by_conn;
mod clients;
mod clips;
mod fan_out;
mod front_link;
pub mod fuzzing;
mod gathering;
mod handover;
mod hls_files;
mod hls_sessions;
mod http;
mod http_files;
mod identity;
mod ingest;
mod intake;
mod kept;
mod ledger;
mod looks;
mod metrics;
mod outgoing;
mod pacing;
mod play;
mod publishers;
mod relay;
mod rendered;
mod rendezvous;
mod rendition;
mod requests;
mod rest;
mod rtmp;
mod save;
mod session;
mod sessions;
mod settle;
mod shares;
mod streams;
mod takeover;
mod timers;
mod turns;
mod waiting;
mod walk;
mod watching;
mod websocket;

use crate::access::Rules;
use crate::clients::Table;
use crate::config::Config;
use crate::control::channel::Channel;
use crate::control::counters::WorkerCounter;
use crate::control::{ConnId, ListeningSocket, ToWorker, WorkerId};
use crate::logging::{RateLimit, RequestLog};
use crate::metrics::OwnUse;
use crate::sandbox::{self, Needs};
use crate::saved::{Heap, HeapId, Rows};
use crate::status;
use anyhow::{Context, bail};
use api::Api;
use braidcast_media::StreamKey;
use braidcast_stream_log::doorbell::{Doorbells, WorkerPage};
use braidcast_stream_log::path::Root;
use braidcast_stream_log::{LogOptions, Now};
use braidcast_sys::{EventFd, Events, Interest, Poller, clock};
use by_conn::ByConn;
use clips::Clips;
use gathering::Gathering;
use hls_files::HlsFiles;
use hls_sessions::HlsSessions;
use ingest::Publisher;
use looks::Looks;
use outgoing::Outgoing;
use relay::{PAIR_TOKEN, Relays};
use rendezvous::Rendezvous;
pub use rendezvous::socket_path as rendezvous_path;
pub use save::{SAVED_VERSION, SAVED_VERSION_BEFORE, SAVED_VERSION_UNPACKED};
use session::Session;
use shares::Share;
use slab::Slab;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use streams::LocalStream;
use takeover::Departed;
use timers::Timers;
use turns::Turns;
use waiting::Waiting;
use watching::Watching;

/// How long a session that is to be closed may take to read what it is still owed, milliseconds.
const CLOSING_MS: u64 = 5_000;
/// How long the peer of a session that is over may take to close its half of the connection, milliseconds.
const DRAINING_MS: u64 = 1_000;
/// How long the front may take to say where a connection belongs, milliseconds.
const PLACING_MS: u64 = 5_000;
/// How long the lock of a stream may still be held by a publisher that is being closed, milliseconds.
const OPENING_MS: u64 = 3_000;
/// How often sessions that wait for a stream, a lock or an index are looked at, milliseconds.
const RETRY_MS: u64 = 50;
/// How soon messages that the front's channel did not take are tried again, milliseconds.
const FRONT_RETRY_MS: u64 = 5;
/// How often the gauges of the worker's page are brought up to date, milliseconds.
const REPORT_MS: u64 = 1_000;
/// Log lines that clients can cause: so many at once, and so many a second.
const PEER_LINES_BURST: u32 = 100;
const PEER_LINES_PER_SECOND: u32 = 20;
/// Bytes read from one socket before the next one has its turn.
const READ_BYTES: usize = 256 << 10;
/// Bytes read from a socket that does not publish: no more than this is held for a session while the front decides about it.
const COMMAND_BYTES: usize = 16 << 10;
/// Publishers read in one turn, and so many others.
const READS_PER_TURN: usize = 128;
/// Events heard in one turn.
const EVENTS_PER_TURN: usize = 1024;
/// How long publishers may hold up a turn.
const PUBLISHERS_TIME: Duration = Duration::from_millis(4);
/// How long others may: what one of them is answered with may be seconds of a stream.
const READS_TIME: Duration = Duration::from_millis(2);
/// Deadlines acted on in one turn.
const EXPIRED_PER_TURN: usize = 512;

/// Log and segments of one stream may each hold this part of the directory.
const STREAM_SHARE: u64 = 4;

const CONTROL: u64 = u64::MAX;
const DOORBELL: u64 = u64::MAX - 1;
const SIGNAL: u64 = u64::MAX - 2;
const RENDEZVOUS: u64 = u64::MAX - 3;
const NEWCOMER: u64 = u64::MAX - 4;
const OUTGOING: u64 = u64::MAX - 5;
const PROCESSES: u64 = u64::MAX - 6;
const API_ANSWERS: u64 = u64::MAX - 7;
const ASKED: u64 = u64::MAX - 9;
const PUBLISHERS: u64 = u64::MAX - 10;
const ASKERS: u64 = u64::MAX - 11;

/// Why a session is closed.
#[derive(Debug)]
pub(crate) enum End {
    /// Everything was said.
    Done,
    /// The peer closed the connection.
    PeerClosed,
    /// The socket failed.
    Socket(io::Error),
    /// The peer broke a rule or a limit; the text is for the log.
    Peer(String),
    /// Something of ours went wrong.
    Fault(&'static str),
}

/// For the log: what ended the session.
impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => f.write_str("we closed the connection"),
            Self::PeerClosed => f.write_str("the client closed the connection"),
            Self::Socket(error) => write!(f, "the connection failed ({error})"),
            Self::Peer(what) => f.write_str(what),
            Self::Fault(what) => f.write_str(what),
        }
    }
}

impl End {
    /// What ended a connection to another server.
    fn of_server(&self) -> String {
        match self {
            Self::PeerClosed => "the server closed the connection".to_owned(),
            other => other.to_string(),
        }
    }
}

/// The state of a worker.
pub(crate) struct Worker {
    id: WorkerId,
    config: Config,
    root: Root,
    log_options: LogOptions,
    /// What the segments of one stream may hold.
    hls_budget_bytes: u64,
    poller: Poller,
    publisher_sockets: Gathering,
    /// Clients that ask for HLS again and again.
    asker_sockets: Gathering,
    /// Until when input of which session rests, in that order.
    rests: VecDeque<(u64, u64)>,
    front: Channel,
    /// How many workers there are.
    workers: u16,
    rendezvous: Rendezvous,
    /// The instance's listening sockets, for a front that takes over.
    listeners: Vec<(ListeningSocket, OwnedFd)>,
    /// All workers' doorbells, likewise.
    bells: Vec<OwnedFd>,
    /// When the front was last there; `None`: it is.
    front_gone_ms: Option<u64>,
    doorbell: EventFd,
    doorbells: Doorbells,
    page: WorkerPage,
    sessions: Slab<Session>,
    by_conn: ByConn,
    rows: Rows,
    clients: Table,
    told_clients: clients::Round,
    hls_sessions: HlsSessions,
    /// Indexes and segments that were asked for.
    hls_files: HlsFiles,
    heap: Heap,
    save_buffer: Vec<u8>,
    /// Room for the next answer, of one that was sent.
    spare_control: Vec<u8>,
    /// Sessions that were handed over and are not yet another worker's own.
    departed: HashMap<ConnId, Departed>,
    generation: u32,
    streams: Slab<LocalStream>,
    stream_slots: HashMap<StreamKey, usize>,
    /// Which of them have which lane in the worker's news.
    stream_lanes: HashMap<u16, Vec<usize>>,
    publishers: Slab<Publisher>,
    /// Bytes of unfinished RTMP messages that all sessions hold.
    unfinished_bytes: usize,
    /// Sessions that wait for a stream, a lock or an index.
    waiting: Waiting,
    retry_at_ms: u64,
    retried_at_ms: u64,
    /// Sessions whose sockets may have more to read, and publishers of them, who do not wait for those.
    ready: VecDeque<usize>,
    ready_publishers: VecDeque<usize>,
    /// Publishers with records that are not committed.
    dirty: Vec<usize>,
    /// Slots of streams that have grown and whose readers were not rung yet.
    committed: Vec<u16>,
    /// Room for the lanes that have news.
    news: Vec<u16>,
    /// Whose viewers are to be served.
    turns: Turns,
    /// Sessions that are owed more, and take it.
    unfinished: VecDeque<u64>,
    flushes: Timers,
    /// What one round of each stream's fan-out takes together, microseconds.
    fan_out_load_us: u64,
    /// What each stream's fan-out may take of the worker's time, and when that was reckoned.
    share: Share,
    shared_at_ms: u64,
    /// When publishers' segmenters are due.
    pumps: Timers,
    /// Room for their segments' bytes, one after another.
    segment_bytes: Vec<u8>,
    deadlines: Timers,
    read_buffer: Vec<u8>,
    now: Now,
    report_at_ms: u64,
    own_use: OwnUse,
    /// Log lines that processes have suppressed that had this place before.
    suppressed_before: u64,
    stopping_since_ms: Option<u64>,
    peer_lines: RateLimit,
    status: status::Cached,
    clips: Clips,
    /// Where HTTP requests are written.
    request_log: Option<RequestLog>,
    /// Who may publish and play.
    access: Rules,
    /// Connections to other servers.
    outgoing: Outgoing,
    /// What goes through to processes of another server.
    relays: Relays,
    /// Who may use the HTTP API.
    api: Api,
    /// Who views what, to be told.
    watching: Watching,
}

/// Runs a worker that talks to its front by the inherited descriptor `control`.
pub fn run(control: OwnedFd) -> anyhow::Result<ExitCode> {
    let mut front = Channel::new(control).context("the control channel")?;
    let (message, fds) = front.receive_blocking(Duration::from_secs(10)).context("waiting for the front's welcome")?;
    let ToWorker::Welcome { worker, workers, heap, config } = message else { bail!("the front did not begin with a welcome") };
    let config = Config::from_json(&config).context("the configuration in the front's welcome")?;
    crate::logging::start(&config, &format!("worker {worker}"));
    if fds.len() != usize::from(workers) {
        bail!("the front sent {} doorbells for {workers} workers", fds.len());
    }
    let mut worker = Worker::new(worker, workers, heap, config, front, fds)?;
    worker.run()
}

impl Worker {
    fn new(id: WorkerId, workers: u16, heap: HeapId, config: Config, front: Channel, doorbells: Vec<OwnedFd>) -> anyhow::Result<Self> {
        // As far as it goes: the front has checked that it is enough.
        braidcast_sys::limits::raise_rlimit_nofile(u64::MAX).context("raising the descriptor limit")?;
        let root = Root::new(config.server.shared_dir.clone());
        let page = WorkerPage::create(&root, id.0).context("creating the worker's page")?;
        let bells = doorbells.iter().map(OwnedFd::try_clone).collect::<io::Result<Vec<_>>>().context("the doorbells")?;
        let doorbells: Vec<EventFd> = doorbells.into_iter().map(EventFd::from_fd).collect();
        let doorbell = doorbells[usize::from(id.0) - 1].try_clone().context("the worker's doorbell")?;
        let poller = Poller::new().context("epoll")?;
        poller.add(&front, CONTROL, Interest::READ)?;
        poller.add(&doorbell, DOORBELL, Interest::READ)?;
        let now_ms = clock::monotonic_ms();
        let publishers = Looks::new(config.publish.read_pause.as_ms(), looks::Worth::PUBLISHERS, now_ms);
        let publisher_sockets = Gathering::new(&poller, PUBLISHERS, publishers).context("epoll")?;
        let askers = Looks::new(config.hls.read_pause.as_ms(), looks::Worth::ASKERS, now_ms);
        let asker_sockets = Gathering::new(&poller, ASKERS, askers).context("epoll")?;
        let rendezvous = Rendezvous::open(&config.server.shared_dir, id, &poller).context("listening for fronts")?;
        let outgoing = Outgoing::new(&config.server.shared_dir).context("connections to other servers")?;
        outgoing.watch(&poller, OUTGOING)?;
        let relays = Relays::new(&config).context("what relays need")?;
        relays.watch(&poller, PROCESSES, API_ANSWERS)?;
        let api = Api::new(&config)?;
        poller.add(&api, ASKED, Interest::READ)?;
        let doorbells = Doorbells::open(&root, (1..).zip(doorbells)).context("opening the workers' pages")?;
        let rows = Rows::open(&config.server.shared_dir).context("opening the table of saved sessions")?;
        let clients = Table::open(&config.server.shared_dir).context("opening the client table")?;
        let heap = Heap::create(&config.server.shared_dir, heap).context("making the heap for saved sessions")?;
        for gauge in WorkerCounter::ALL.iter().filter(|counter| counter.is_gauge()) {
            page.counter(*gauge as usize).store(0, Ordering::Relaxed);
        }
        page.counter(WorkerCounter::Pid as usize).store(u64::from(std::process::id()), Ordering::Relaxed);
        let counted = |counter: WorkerCounter| page.counter(counter as usize).load(Ordering::Relaxed);
        let (own_use, suppressed_before) = (OwnUse::new(counted(WorkerCounter::CpuMicros)), counted(WorkerCounter::LogLinesSuppressed));
        let stream_most_bytes = stream_most_bytes(&config)?;
        let log_options = LogOptions {
            block_min_ms: config.log.block_min.as_ms(),
            block_max_ms: config.log.block_max.as_ms(),
            block_max_bytes: config.log.block_max_bytes.bytes(),
            keep_ms: config.log.keep.as_ms(),
            budget_bytes: config.log.stream_budget.bytes().min(stream_most_bytes),
        };
        Ok(Self {
            id,
            root,
            hls_budget_bytes: config.hls.stream_budget.bytes().min(stream_most_bytes),
            log_options,
            poller,
            publisher_sockets,
            asker_sockets,
            rests: VecDeque::new(),
            front,
            workers,
            rendezvous,
            listeners: Vec::new(),
            bells,
            front_gone_ms: None,
            doorbell,
            doorbells,
            page,
            sessions: Slab::new(),
            by_conn: ByConn::default(),
            rows,
            clients,
            told_clients: clients::Round::default(),
            hls_sessions: HlsSessions::default(),
            hls_files: HlsFiles::default(),
            heap,
            save_buffer: Vec::new(),
            spare_control: Vec::new(),
            departed: HashMap::new(),
            generation: 0,
            streams: Slab::new(),
            stream_slots: HashMap::new(),
            stream_lanes: HashMap::new(),
            publishers: Slab::new(),
            unfinished_bytes: 0,
            waiting: Waiting::default(),
            retry_at_ms: 0,
            retried_at_ms: 0,
            ready: VecDeque::new(),
            ready_publishers: VecDeque::new(),
            dirty: Vec::new(),
            committed: Vec::new(),
            news: Vec::new(),
            turns: Turns::default(),
            unfinished: VecDeque::new(),
            flushes: Timers::default(),
            fan_out_load_us: 0,
            share: Share::ALL,
            shared_at_ms: 0,
            pumps: Timers::default(),
            segment_bytes: Vec::new(),
            deadlines: Timers::default(),
            read_buffer: vec![0; READ_BYTES],
            now: Now::read(),
            report_at_ms: 0,
            own_use,
            suppressed_before,
            stopping_since_ms: None,
            peer_lines: RateLimit::new(PEER_LINES_BURST, PEER_LINES_PER_SECOND),
            status: status::Cached::default(),
            clips: Clips::default(),
            request_log: None,
            access: Rules::new(&config.access),
            outgoing,
            relays,
            api,
            watching: Watching::default(),
            config,
        })
    }

    fn run(&mut self) -> anyhow::Result<ExitCode> {
        let terminate = watch_signals().context("signal handlers")?;
        self.poller.add(&terminate, SIGNAL, Interest::READ | Interest::EDGE)?;
        // Everything is open that is opened once, and no client has said anything yet.
        let needs = Needs::of_worker(format!("worker {}", self.id), &self.config);
        let standing = sandbox::enter(&self.config, &needs).context("the sandbox")?;
        self.set(WorkerCounter::Sandbox, standing.bits());
        self.tell_front(&crate::control::ToFront::Ready);
        tracing::info!(pid = std::process::id(), "worker {} serves", self.id);
        let mut events = Events::with_capacity(EVENTS_PER_TURN);
        loop {
            self.page.beat();
            self.wait(&mut events)?;
            self.now = Now::read();
            let (mut rung, mut publishers, mut askers) = (false, false, false);
            for event in events.iter() {
                match event.token {
                    CONTROL => self.hear_front(),
                    DOORBELL => rung |= self.doorbell.drain()?,
                    PUBLISHERS => publishers = true,
                    ASKERS => askers = true,
                    RENDEZVOUS => self.meet(),
                    NEWCOMER => self.hear_newcomer(),
                    OUTGOING => self.outgoing_ready(),
                    PROCESSES => self.processes_seen(),
                    API_ANSWERS => self.api_answered(),
                    ASKED => self.api_told(),
                    SIGNAL => self.stop("the worker got SIGTERM"),
                    token if token & PAIR_TOKEN != 0 => self.pair_event(token, event),
                    token => self.session_event(token, event),
                }
            }
            let heard = !events.is_empty();
            // Of more sockets than there was room to hear of, these may be the last.
            let full = events.len() == EVENTS_PER_TURN;
            self.look_at_publishers(publishers || full, &mut events)?;
            self.look_at_askers(askers || full, &mut events)?;
            self.read_sessions();
            self.take_in_rested();
            let committed = self.commit_publishers();
            if rung || committed || heard || self.page.has_news() {
                self.take_news();
            }
            self.fan_out();
            self.flush_unfinished();
            self.expire();
            self.expire_outgoing();
            self.expire_relays();
            self.look_at_events();
            self.try_waiting();
            self.pump_segments();
            self.report();
            self.tell_clients();
            self.flush_front();
            if self.is_over() {
                self.request_log.take().into_iter().for_each(RequestLog::close);
                return Ok(ExitCode::SUCCESS);
            }
        }
    }

    /// Sleeps until there is something to do. Announces the sleep first and looks again, so that no doorbell is missed.
    fn wait(&mut self, events: &mut Events) -> io::Result<()> {
        // What was taken in late in a turn is committed, told and answered at once too.
        let busy = !self.ready.is_empty()
            || !self.ready_publishers.is_empty()
            || !self.dirty.is_empty()
            || !self.turns.is_empty()
            || !self.unfinished.is_empty();
        let timeout = if busy { Duration::ZERO } else { self.sleep_time() };
        if timeout.is_zero() {
            return self.poller.wait(events, Some(timeout));
        }
        self.page.announce_sleep();
        let timeout = if self.page.has_news() { Duration::ZERO } else { timeout };
        let waited = self.poller.wait(events, Some(timeout));
        self.page.announce_awake();
        self.count(WorkerCounter::WakeUps);
        self.add(WorkerCounter::SharedWrites, 2);
        waited
    }

    fn sleep_time(&mut self) -> Duration {
        let rest_ms = self.next_rest_ms();
        let mut wake_ms = self.report_at_ms.min(self.told_clients.due_ms());
        let mut sooner = |at: Option<u64>| wake_ms = wake_ms.min(at.unwrap_or(u64::MAX));
        sooner(self.flushes.next_ms());
        sooner(self.deadlines.next_ms());
        sooner((!self.waiting.is_empty()).then_some(self.retry_at_ms));
        sooner((self.front.pending() > 0).then_some(self.now.mono_ms + FRONT_RETRY_MS));
        sooner(self.pumps.next_ms());
        sooner(self.publisher_sockets.looks.next_ms());
        sooner(self.asker_sockets.looks.next_ms());
        sooner(rest_ms);
        sooner(self.outgoing.next_ms());
        sooner(self.relays.next_ms());
        sooner(self.api.next_ms());
        Duration::from_millis(wake_ms.saturating_sub(clock::monotonic_ms()))
    }

    /// Brings the page's gauges up to date, once a second.
    fn report(&mut self) {
        if self.now.mono_ms < self.report_at_ms {
            return;
        }
        self.report_at_ms = self.now.mono_ms + REPORT_MS;
        let used = self.own_use.look();
        self.set(WorkerCounter::SavedBytes, self.heap.taken_bytes() as u64);
        self.set(WorkerCounter::CpuMicros, used.cpu_us);
        self.set(WorkerCounter::CpuPermille, used.cpu_permille);
        self.set(WorkerCounter::MemoryBytes, used.memory_bytes);
        self.set(WorkerCounter::LogLinesSuppressed, self.suppressed_before + self.peer_lines.suppressed());
        self.set(WorkerCounter::EventFollowers, self.api.followers());
        self.flush_requests();
        self.report_hls_files();
        self.report_gauges();
        self.report_outgoing();
        self.report_clients();
        self.look_for_awaited();
        self.check_front();
        self.look_at_all_streams();
    }

    fn set(&self, counter: WorkerCounter, value: u64) {
        self.page.counter(counter as usize).store(value, Ordering::Relaxed);
    }

    fn count(&self, counter: WorkerCounter) {
        self.add(counter, 1);
    }

    fn add(&self, counter: WorkerCounter, more: u64) {
        self.page.counter(counter as usize).fetch_add(more, Ordering::Relaxed);
    }

    /// Begins the orderly end.
    fn stop(&mut self, why: &str) {
        if self.stopping_since_ms.is_some() {
            return;
        }
        tracing::info!("ending: {why}");
        self.stopping_since_ms = Some(self.now.mono_ms);
        self.listeners.clear();
        self.end_all_sessions();
        self.end_outgoing();
        self.end_relays();
    }

    fn is_over(&self) -> bool {
        let Some(since) = self.stopping_since_ms else { return false };
        self.sessions.is_empty() || self.now.mono_ms >= since + CLOSING_MS.min(self.config.server.stop_grace.as_ms())
    }
}

/// What the log, and as much again what the segments, of one stream may hold: a publisher that sends as fast as it can fills its own
/// share in less time than the front takes to look at the directory.
fn stream_most_bytes(config: &Config) -> anyhow::Result<u64> {
    let system = braidcast_sys::file::file_system(&config.server.shared_dir).context("looking at the shared directory's file system")?;
    let limits = [config.log.budget.bytes(), system.total_bytes].into_iter().filter(|bytes| *bytes > 0);
    Ok(limits.min().map_or(u64::MAX, |bytes| bytes / STREAM_SHARE))
}

/// SIGTERM is an order to end. SIGINT and SIGHUP, which a terminal sends to the front's workers too, are for the front alone.
fn watch_signals() -> io::Result<UnixStream> {
    let (read, write) = UnixStream::pair()?;
    signal_hook::low_level::pipe::register(signal_hook::consts::SIGTERM, write)?;
    for ignored in [signal_hook::consts::SIGINT, signal_hook::consts::SIGHUP, signal_hook::consts::SIGUSR1] {
        signal_hook::flag::register(ignored, Arc::default())?;
    }
    Ok(read)
}
