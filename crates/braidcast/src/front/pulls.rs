//! Streams that come from other servers: which are wanted, who fetches them, and when they are tried again.
//!
//! The front decides and orders; a worker connects, and asks for a place like any publisher when media has come. HLS is fetched by an external
//! program, a child of the front's, which pushes to this server's own RTMP address and is a publisher like any other. The front reads no
//! byte of what is pulled; of the program's complaints it keeps the last line, for people.

use super::Front;
use super::timers::Timer;
use crate::config::{self, Config, When};
use crate::control::counters::FrontCounter;
use crate::control::{ConnId, Listener, Origin, ToWorker, WorkerId};
use crate::relays::report::{self, Kind, Relay, State};
use crate::relays::{self, Endpoint, Scheme, Template, pause_ms};
use crate::sandbox;
use anyhow::{Context, bail};
use braidcast_media::StreamKey;
use braidcast_media::key::DEFAULT_VHOST;
use braidcast_protocols::via::{self, Via};
use braidcast_sys::privileges::Identity;
use braidcast_sys::process::{Ending, SIGKILL};
use braidcast_sys::{Interest, PidFd, child, clock, net};
use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// How long a program that fetches HLS may take to push it, once it has it, seconds.
const OWN_URL_S: u64 = 60;
/// The most streams that are pulled at once.
const MAX_PULLS: usize = 1_024;
/// How long a pull waits when it cannot be ordered just now: no worker, another front about to come, somebody else publishing. Milliseconds.
const LATER_MS: u64 = 500;
/// A pull that went well for so long begins its pauses anew, milliseconds.
const HEALTHY_MS: u64 = 10_000;
/// Workers that may die while they process what a server sent, before it is left alone for `limits.poison_hold`.
const MAX_CRASHES: u32 = 2;
/// Bytes of a program's complaints taken in one look, and the longest line that is kept, in characters.
const COMPLAINT_BYTES: usize = 64 << 10;
const MAX_LINE: usize = 300;

/// One stream that is pulled.
#[derive(Debug)]
struct Pull {
    from: Template,
    endpoint: Endpoint,
    always: bool,
    stop_after_ms: u64,
    /// For which servers.
    via: Via,
    wanted_ms: u64,
    state: State,
    since_wall_ms: u64,
    running_since_ms: u64,
    conn: Option<(ConnId, WorkerId)>,
    program: Option<Program>,
    /// When it is ordered, if nobody has it.
    next_ms: u64,
    tried: bool,
    /// Its worker was told to let go of it: another one is to have it as soon as it has.
    moves: bool,
    failures: u32,
    crashes: u32,
    reconnects: u64,
    /// Why the last connection failed or ended.
    error: Option<String>,
    /// Why its worker says that it is over; it is closed in a moment.
    said: Option<String>,
}

/// An external program that pushes a stream to us.
#[derive(Debug)]
struct Program {
    number: usize,
    pid: u32,
    handle: PidFd,
    complaints: File,
    last_line: String,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Pulls {
    pulls: HashMap<StreamKey, Pull>,
    conns: HashMap<ConnId, StreamKey>,
    programs: usize,
    reported: Vec<Relay>,
}

impl Pulls {
    /// Those that go on as long as the server runs.
    pub fn new(config: &Config, now_ms: u64) -> Self {
        let mut pulls = Self::default();
        for pull in &config.pull {
            if let Some(key) = pull.always() {
                pulls.add(key, pull, now_ms, Via::default());
            }
        }
        pulls
    }

    fn add(&mut self, key: StreamKey, rule: &crate::config::Pull, now_ms: u64, via: Via) {
        match rule.from.0.for_stream(&key) {
            Ok(endpoint) => {
                let pull = Pull {
                    from: rule.from.0.clone(),
                    endpoint,
                    always: rule.when == When::Always,
                    stop_after_ms: rule.stop_after.as_ms(),
                    via,
                    wanted_ms: now_ms,
                    state: State::Connecting,
                    since_wall_ms: clock::wall_ms(),
                    running_since_ms: 0,
                    conn: None,
                    program: None,
                    next_ms: now_ms,
                    tried: false,
                    moves: false,
                    failures: 0,
                    crashes: 0,
                    reconnects: 0,
                    error: None,
                    said: None,
                };
                self.pulls.insert(key, pull);
            }
            Err(error) => tracing::debug!(stream = %key, error, "the stream cannot be pulled"),
        }
    }

    /// A worker of the front before has a pull.
    pub fn inherited(&mut self, conn: ConnId, worker: WorkerId, key: &StreamKey, publishes: bool, config: &Config, now_ms: u64) {
        if !self.pulls.contains_key(key)
            && let Some((_, rule)) = config.pull_on_demand(key)
        {
            self.add(key.clone(), rule, now_ms, Via::default());
        }
        self.conns.insert(conn, key.clone());
        if let Some(pull) = self.pulls.get_mut(key) {
            (pull.conn, pull.tried) = (Some((conn, worker)), true);
            pull.enter(if publishes { State::Running } else { State::Connecting }, now_ms);
        }
    }

    /// Whether a connection is a pull's.
    pub fn has(&self, conn: ConnId) -> bool {
        self.conns.contains_key(&conn)
    }

    fn of_conn(&mut self, conn: ConnId) -> Option<(StreamKey, &mut Pull)> {
        let key = self.conns.get(&conn)?.clone();
        let pull = self.pulls.get_mut(&key).filter(|pull| pull.conn.is_some_and(|(its, _)| its == conn))?;
        Some((key, pull))
    }

    /// When something is to be done.
    fn next_ms(&self) -> Option<u64> {
        self.pulls.values().map(Pull::due_ms).min()
    }

    /// Pulls that a worker has and that have no place yet.
    fn unplaced_at(&self, worker: WorkerId) -> u32 {
        self.pulls.values().filter(|pull| pull.state != State::Running && pull.conn.is_some_and(|(_, at)| at == worker)).count() as u32
    }
}

impl Pull {
    fn is_had(&self) -> bool {
        self.conn.is_some() || self.program.is_some()
    }

    fn due_ms(&self) -> u64 {
        let unwanted_ms = if self.always { u64::MAX } else { self.wanted_ms + self.stop_after_ms };
        if self.is_had() { unwanted_ms } else { unwanted_ms.min(self.next_ms) }
    }

    fn enter(&mut self, state: State, now_ms: u64) {
        if self.state != state {
            (self.state, self.since_wall_ms) = (state, clock::wall_ms());
            if state == State::Running {
                self.running_since_ms = now_ms;
            }
        }
    }
}

impl Front {
    /// Does what is due for pulls, and plans the next look.
    pub(super) fn pulls_turn(&mut self) {
        if self.is_stopping() {
            return self.timers.clear(Timer::Pulls);
        }
        let now_ms = self.now_ms;
        let due: Vec<StreamKey> = self.pulls.pulls.iter().filter(|(_, pull)| pull.due_ms() <= now_ms).map(|(key, _)| key.clone()).collect();
        for key in due {
            let unwanted = self.pulls.pulls.get(&key).is_some_and(|pull| !pull.always && pull.wanted_ms + pull.stop_after_ms <= now_ms);
            if unwanted { self.stop_pull(&key) } else { self.try_pull(&key) }
        }
        match self.pulls.next_ms() {
            Some(next_ms) => self.timers.set(Timer::Pulls, next_ms),
            None => self.timers.clear(Timer::Pulls),
        }
    }

    /// Somebody wants to watch a stream, by what a worker says.
    pub(super) fn wanted(&mut self, key: &StreamKey, via: &str) {
        let (now_ms, via) = (self.now_ms, Via::parse(via));
        if let Some(pull) = self.pulls.pulls.get_mut(key) {
            pull.wanted_ms = now_ms;
            if !via.is_empty() && pull.state != State::Running {
                pull.via = via;
            }
            return;
        }
        let Some((_, rule)) = self.config.pull_on_demand(key).filter(|_| self.registry.publisher_of(key).is_none()) else { return };
        if self.pulls.pulls.len() >= MAX_PULLS {
            self.count(FrontCounter::RefusedPulls);
            if self.peer_lines.allow(now_ms) {
                tracing::warn!(stream = %key, "not pulled: {MAX_PULLS} streams are pulled already");
            }
            return;
        }
        tracing::info!(stream = %key, from = rule.from.0.for_stream(key).map(|endpoint| endpoint.shown).unwrap_or_default(), "somebody wants the stream: it is pulled");
        let rule = rule.clone();
        self.pulls.add(key.clone(), &rule, now_ms, via);
        self.timers.set(Timer::Pulls, now_ms);
    }

    fn stop_pull(&mut self, key: &StreamKey) {
        let Some(mut pull) = self.pulls.pulls.remove(key) else { return };
        tracing::info!(stream = %key, from = pull.endpoint.shown, "nobody wants the stream any more: it is not pulled");
        if let Some((conn, worker)) = pull.conn {
            self.send(worker, &ToWorker::StopPull { conn }, Vec::new());
        }
        if let Some(program) = pull.program.take() {
            self.end_program(program);
        }
    }

    fn try_pull(&mut self, key: &StreamKey) {
        let now_ms = self.now_ms;
        let busy = self.registry.publisher_of(key).is_some();
        let ready = !self.is_quieting() && self.workers.iter().any(super::workers::Worker::serves);
        let Some(pull) = self.pulls.pulls.get_mut(key) else { return };
        if busy || !ready {
            pull.next_ms = now_ms + LATER_MS;
            if busy {
                pull.enter(State::Waiting, now_ms);
                pull.error = Some("somebody else publishes the stream here".to_owned());
            }
            return;
        }
        pull.reconnects += u64::from(std::mem::replace(&mut pull.tried, true));
        pull.enter(State::Connecting, now_ms);
        let ordered = match pull.endpoint.scheme {
            Scheme::Hls => self.start_program(key),
            Scheme::Rtmp | Scheme::HttpFlv => self.order_pull(key),
        };
        if let Err(error) = ordered {
            self.pull_failed(key, &format!("{error:#}"));
        }
    }

    fn order_pull(&mut self, key: &StreamKey) -> anyhow::Result<()> {
        let loads = self.loads();
        let worker = self.registry.place_for_publisher(&loads, |worker| self.pulls.unplaced_at(worker));
        let Some(worker) = worker else {
            self.count(FrontCounter::RefusedPublishersFull);
            bail!("{}", crate::control::Refusal::PublishersFull);
        };
        let row = self.vault.take_row().context("no memory for its row")?;
        let nobody = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let conn = self.registry.pulls(worker, Origin { listener: Listener::Rtmp, peer: nobody, local: nobody }, row);
        self.events.note_conn(conn);
        let Some(pull) = self.pulls.pulls.get_mut(key) else { return Ok(()) };
        pull.conn = Some((conn, worker));
        let message = ToWorker::Pull { conn, row, key: key.clone(), from: pull.from.as_str().to_owned(), via: pull.via.to_string() };
        tracing::debug!(stream = %key, %conn, %worker, from = pull.endpoint.shown, "a worker is to pull the stream");
        self.pulls.conns.insert(conn, key.clone());
        self.send(worker, &message, Vec::new());
        Ok(())
    }

    /// A pull was given its place: it publishes.
    pub(super) fn pull_placed(&mut self, conn: ConnId) {
        let now_ms = self.now_ms;
        if let Some((key, pull)) = self.pulls.of_conn(conn) {
            pull.enter(State::Running, now_ms);
            tracing::info!(stream = %key, %conn, from = pull.endpoint.shown, "pulling begins");
        }
    }

    /// A worker says why a pull is over.
    pub(super) fn pull_ended(&mut self, conn: ConnId, error: String) {
        if let Some((_, pull)) = self.pulls.of_conn(conn) {
            pull.said = Some(error.chars().take(MAX_LINE).collect());
        }
    }

    /// The connection of a pull is closed.
    pub(super) fn pull_closed(&mut self, conn: ConnId) {
        let found = self.pulls.of_conn(conn).map(|(key, pull)| (key, pull.said.take(), pull.moves));
        if let Some((.., true)) = found {
            return self.pull_again(conn, "the worker is drained");
        }
        self.pulls.conns.remove(&conn);
        if let Some((key, error, _)) = found {
            self.pull_failed(&key, &error.unwrap_or_else(|| "the connection is closed".to_owned()));
        }
    }

    /// A pull is lost with its worker, or its worker is to be empty: another one is told to fetch the stream, at once.
    pub(super) fn pull_again(&mut self, conn: ConnId, why: &str) {
        let now_ms = self.now_ms;
        if let Some((key, pull)) = self.pulls.of_conn(conn) {
            tracing::info!(stream = %key, %conn, from = pull.endpoint.shown, "{why}: the stream is pulled by another one");
            (pull.conn, pull.next_ms, pull.moves) = (None, now_ms, false);
            if pull.crashes >= MAX_CRASHES {
                let hold = self.config.limits.poison_hold;
                tracing::error!(stream = %key, from = pull.endpoint.shown, "{MAX_CRASHES} workers died of what the server sends: it is left alone for {hold}");
                (pull.crashes, pull.next_ms) = (0, now_ms + hold.as_ms());
                pull.error = Some("workers died of what the server sends".to_owned());
            }
            pull.enter(State::Waiting, now_ms);
            self.timers.set(Timer::Pulls, now_ms);
        }
        self.pulls.conns.remove(&conn);
    }

    /// A worker died while it processed what a pull's server sent.
    pub(super) fn pull_crashed(&mut self, conn: ConnId) {
        if let Some((_, pull)) = self.pulls.of_conn(conn) {
            pull.crashes += 1;
        }
    }

    /// Has a pull of a worker that is to be empty go elsewhere.
    pub(super) fn move_pull(&mut self, conn: ConnId, worker: WorkerId) {
        // One that the configuration does not name any more ends like that too.
        let told = self.pulls.of_conn(conn).is_some_and(|(_, pull)| std::mem::replace(&mut pull.moves, true));
        if !told {
            self.send(worker, &ToWorker::StopPull { conn }, Vec::new());
        }
    }

    fn pull_failed(&mut self, key: &StreamKey, error: &str) {
        let (now_ms, most_ms) = (self.now_ms, self.config.relay.retry_max.as_ms());
        self.count(FrontCounter::PullFailures);
        let Some(pull) = self.pulls.pulls.get_mut(key) else { return };
        let running = pull.state == State::Running;
        if running && now_ms.saturating_sub(pull.running_since_ms) >= HEALTHY_MS {
            (pull.failures, pull.crashes) = (0, 0);
        }
        pull.failures = if error.contains("loop:") { u32::MAX / 2 } else { pull.failures.saturating_add(1) };
        (pull.conn, pull.program) = (None, None);
        let pause_ms = pause_ms(pull.failures, most_ms, clock::wall_ms() ^ u64::from(key.slot()));
        pull.next_ms = now_ms + pause_ms;
        pull.enter(State::Waiting, now_ms);
        if pull.failures.is_power_of_two() || running || pull.error.as_deref().is_none_or(|before| before != error) {
            tracing::warn!(stream = %key, from = pull.endpoint.shown, "pulling failed: {error}; tried again in {pause_ms} ms");
        }
        pull.error = Some(error.to_owned());
        self.timers.set_sooner(Timer::Pulls, now_ms + pause_ms);
    }

    /// Starts the program that fetches HLS.
    fn start_program(&mut self, key: &StreamKey) -> anyhow::Result<()> {
        let instance = relays::instance_id(self.shared.path()).context("who this server is")?;
        // It opens its own connection when it knows what it has fetched, which may take as long as the server may be silent.
        let target = self.own_url(key, 2 * self.config.relay.silent.as_ms() / 1_000 + OWN_URL_S)?;
        let Some(pull) = self.pulls.pulls.get_mut(key) else { return Ok(()) };
        let via = pull.via.clone().then(&instance);
        let program = &self.config.relay.ffmpeg;
        let mut command = Command::new(program);
        command.args(["-nostdin", "-hide_banner", "-loglevel", "error"]);
        // What a playlist names is fetched over the network only, whatever it says.
        command.args(["-protocol_whitelist", "http,https,tcp,tls,crypto,httpproxy"]);
        command.arg("-rw_timeout").arg((self.config.relay.silent.as_ms() * 1_000).to_string());
        command.arg("-headers").arg(format!("{}: {via}\r\n", via::FIELD));
        command.arg("-i").arg(&pull.endpoint.url).args(["-c", "copy", "-f", "flv"]).arg(target);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        // It reads what strangers send, as workers do.
        if let Some(Identity { uid, gid }) = sandbox::identity(&self.config.sandbox) {
            command.uid(uid).gid(gid);
        }
        config::without_settings(&mut command);
        let mut started = child::spawn_dependent(command).with_context(|| format!("[relay] ffmpeg = {program:?} cannot be run"))?;
        let complaints = started.stderr.take().context("no pipe for its complaints")?;
        let (pid, complaints) = (started.id(), OwnedFd::from(complaints));
        let watched = net::set_nonblocking(&complaints).and_then(|()| PidFd::open(pid)).and_then(|handle| {
            self.pulls.programs += 1;
            self.poller.add(&handle, super::token(super::PROGRAM, self.pulls.programs), Interest::READ)?;
            Ok(handle)
        });
        let handle = match watched {
            Ok(handle) => handle,
            Err(error) => {
                let _ = started.kill();
                let _ = started.wait();
                return Err(error).context("watching it");
            }
        };
        tracing::info!(stream = %key, pid, from = pull.endpoint.shown, "a program was started that fetches the stream");
        pull.program =
            Some(Program { number: self.pulls.programs, pid, handle, complaints: File::from(complaints), last_line: String::new() });
        Ok(())
    }

    /// Where a program on this machine pushes a stream to.
    fn own_url(&self, key: &StreamKey, holds_s: u64) -> anyhow::Result<String> {
        let rtmp = self.sockets.iter().find(|socket| socket.listener == Listener::Rtmp).context("[rtmp] listen is empty")?;
        let mut address = rtmp.address;
        if address.ip().is_unspecified() {
            address.set_ip(if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { std::net::Ipv6Addr::LOCALHOST.into() });
        }
        if format!("{}{}{}", key.vhost(), key.app(), key.stream()).contains(['?', '&', ' ', '#']) {
            bail!("the stream's name cannot be said to an external program");
        }
        let vhost = if key.vhost() == DEFAULT_VHOST { String::new() } else { format!("vhost={}", key.vhost()) };
        let query = [vhost, self.own_query(key, clock::wall_ms() / 1_000 + holds_s)];
        let query = query.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("&");
        let query = if query.is_empty() { query } else { format!("?{query}") };
        Ok(format!("rtmp://{address}/{}/{}{query}", key.app(), key.stream()))
    }

    /// A program has ended.
    pub(super) fn program_ended(&mut self, number: usize) {
        let of_program = |pull: &Pull| pull.program.as_ref().is_some_and(|program| program.number == number);
        let Some(key) = self.pulls.pulls.iter().find(|(_, pull)| of_program(pull)).map(|(key, _)| key.clone()) else { return };
        let Some(pull) = self.pulls.pulls.get_mut(&key) else { return };
        let Some(program) = &mut pull.program else { return };
        let how = match program.handle.try_wait() {
            Ok(None) => return,
            Ok(Some(Ending::Code(code))) => format!("ended with code {code}"),
            Ok(Some(Ending::Signal(signal))) => format!("was ended by signal {signal}"),
            Err(error) => format!("ended ({error})"),
        };
        program.listen(&pull.endpoint);
        let said = if program.last_line.is_empty() { String::new() } else { format!(": {}", program.last_line) };
        if let Err(error) = self.poller.delete(&program.handle) {
            tracing::debug!(%error, "cannot leave a program that has ended");
        }
        self.pull_failed(&key, &format!("the program that fetches it {how}{said}"));
    }

    fn end_program(&mut self, program: Program) {
        if let Err(error) = self.poller.delete(&program.handle) {
            tracing::debug!(%error, "cannot leave a program that is ended");
        }
        program.kill();
    }

    /// Ends all programs: this front ends, or another one takes over.
    pub(super) fn end_programs(&mut self) {
        let programs: Vec<Program> = self.pulls.pulls.values_mut().filter_map(|pull| pull.program.take()).collect();
        programs.into_iter().for_each(|program| self.end_program(program));
    }

    /// Once a second: what programs complain of, and how all pulls get on.
    pub(super) fn report_pulls(&mut self) {
        let now_ms = self.now_ms;
        let (mut relays, registry) = (Vec::new(), &self.registry);
        for (key, pull) in &mut self.pulls.pulls {
            if let Some(program) = &mut pull.program {
                program.listen(&pull.endpoint);
                let publishes = registry.publisher_of(key);
                pull.enter(if publishes.is_some() { State::Running } else { State::Connecting }, now_ms);
            }
            let publisher = pull.conn.map(|(_, worker)| worker).or_else(|| registry.worker_of(registry.publisher_of(key)?));
            relays.push(Relay {
                kind: Kind::Pull,
                stream: key.to_string(),
                url: pull.endpoint.shown.clone(),
                state: pull.state,
                since_wall_ms: pull.since_wall_ms,
                worker: publisher.filter(|_| pull.is_had()).map(|worker| worker.0),
                bytes: 0,
                reconnects: pull.reconnects,
                error: pull.error.clone(),
            });
        }
        relays.sort_by(|a, b| (&a.stream, &a.url).cmp(&(&b.stream, &b.url)));
        if relays != self.pulls.reported {
            if let Err(error) = report::write(self.shared.path(), "front", &relays) {
                tracing::debug!(%error, "cannot say how pulls get on");
            }
            self.pulls.reported = relays;
        }
    }
}

impl Program {
    /// Takes what it complains of, so that it never waits for us, and keeps the last line.
    fn listen(&mut self, endpoint: &Endpoint) {
        let mut buffer = vec![0; COMPLAINT_BYTES];
        if let Ok(bytes @ 1..) = self.complaints.read(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..bytes]);
            if let Some(line) = text.lines().rev().find(|line| !line.trim().is_empty()) {
                self.last_line = endpoint.scrub(line.trim()).chars().take(MAX_LINE).collect();
            }
        }
    }

    fn kill(self) {
        tracing::info!(pid = self.pid, "a program that fetched a stream is ended");
        let _ = self.handle.send_signal(SIGKILL);
        // It is dead in a moment; collected here, so that no zombie stays.
        for _ in 0..100 {
            if !matches!(self.handle.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}
