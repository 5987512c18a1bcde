//! One worker of all looks after the processes: takes in the segments that they write, asks them how they are, says what lives where.
//!
//! Which one is said by a lock that dies with its holder, so that another one goes on within a moment. The front hears who it is, and lets
//! it settle the streams: nobody else writes into their directories.

use super::super::Worker;
use super::super::session::{Role, Session};
use crate::config::{Config, EngineKind};
use crate::control::counters::WorkerCounter;
use crate::control::{Intent, ProcessId, Settling, ToFront};
use crate::engine::DIRECTORY;
use crate::engine::api::{LiveStream, Seen, Watch};
use crate::engine::live::Live;
use crate::engine::probe::Probe;
use crate::hls::{Collector, StoreOptions};
use crate::srs_conf::ApiAuth;
use braidcast_media::StreamKey;
use braidcast_sys::file;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::atomic::Ordering;

/// How often segments are looked for, and the lock is tried, milliseconds.
const LOOK_MS: u64 = 200;
/// How often the processes are asked how they are, milliseconds.
const WATCH_MS: u64 = 1_000;
/// The lock's file.
const LOCK: &str = "keeper.lock";
/// Log lines about segments of one stream that were passed over in one look.
const PROBLEM_LINES: usize = 3;
/// Streams that are written there at most.
const MAX_LIVE: usize = 65_536;

/// See the module's head.
pub struct Keeper {
    relays: bool,
    lock_path: PathBuf,
    /// Held: this worker is the keeper.
    lock: Option<File>,
    collector: Option<Collector>,
    watch: Inquiry,
    /// At which number streams begin, as the front has said; `None`: it was asked.
    begins: HashMap<StreamKey, Option<u64>>,
    live: HashMap<u16, Vec<LiveStream>>,
    live_changed: bool,
    /// What lives where, as this worker has read it last, and when.
    known: (u64, HashMap<StreamKey, ProcessId>),
    look_at_ms: u64,
    watch_at_ms: u64,
}

/// How processes are asked how they are.
enum Inquiry {
    Srs(Watch),
    Any(Probe),
}

impl Keeper {
    pub fn new(config: &Config, auth: Option<&ApiAuth>) -> io::Result<Self> {
        let watch = match config.engine.kind {
            EngineKind::Srs => Inquiry::Srs(Watch::new(auth.map(ApiAuth::header))?),
            _ => Inquiry::Any(Probe::new()?),
        };
        Ok(Self {
            relays: config.relays(),
            lock_path: config.server.shared_dir.join(DIRECTORY).join(LOCK),
            lock: None,
            collector: None,
            watch,
            begins: HashMap::new(),
            live: HashMap::new(),
            live_changed: false,
            known: (0, HashMap::new()),
            look_at_ms: 0,
            watch_at_ms: 0,
        })
    }

    /// When it has something to do.
    pub fn next_ms(&self) -> Option<u64> {
        self.relays.then_some(self.look_at_ms)
    }

    /// The front has said at which number a stream's segments begin.
    pub fn collect_from(&mut self, key: StreamKey, next_segment: u64) {
        self.begins.insert(key, Some(next_segment));
    }
}

impl AsFd for Keeper {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.watch {
            Inquiry::Srs(watch) => watch.as_fd(),
            Inquiry::Any(probe) => probe.as_fd(),
        }
    }
}

impl Worker {
    /// Does what is due for the keeper, or tries to become it.
    pub(super) fn keep(&mut self) {
        let now_ms = self.now.mono_ms;
        if !self.relays.keeper.relays || now_ms < self.relays.keeper.look_at_ms {
            return;
        }
        self.relays.keeper.look_at_ms = now_ms + LOOK_MS;
        if self.relays.keeper.lock.is_none() && !self.become_keeper() {
            return;
        }
        self.collect();
        if now_ms >= self.relays.keeper.watch_at_ms {
            self.relays.keeper.watch_at_ms = now_ms + WATCH_MS;
            self.inquire();
            self.write_live();
        }
    }

    fn become_keeper(&mut self) -> bool {
        let path = self.relays.keeper.lock_path.clone();
        let locked = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| {
            let lock = File::options().create(true).truncate(false).write(true).open(&path)?;
            Ok(file::try_lock_exclusive(&lock)?.then_some(lock))
        });
        match locked {
            Ok(Some(lock)) => {
                let hls = &self.config.hls;
                let options = StoreOptions {
                    window_ms: hls.window.as_ms(),
                    retention_ms: hls.retention.as_ms(),
                    budget_bytes: self.hls_budget_bytes,
                };
                let collector = Collector::new(self.root.clone(), &self.config.server.shared_dir, options);
                (self.relays.keeper.lock, self.relays.keeper.collector) = (Some(lock), Some(collector));
                self.tell_front(&ToFront::Keeps);
                true
            }
            Ok(None) => false,
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "cannot try to become the worker that looks after the processes");
                false
            }
        }
    }

    /// A front that takes over hears who the keeper is.
    pub(in super::super) fn say_who_keeps(&mut self) {
        if self.relays.keeper.lock.is_some() {
            self.tell_front(&ToFront::Keeps);
        }
    }

    fn collect(&mut self) {
        if !self.config.hls.enabled {
            return;
        }
        let keeper = &mut self.relays.keeper;
        let Some(collector) = &mut keeper.collector else { return };
        let processes: Vec<(u16, u64)> = self.relays.processes.iter().map(|process| (process.process.0, process.run)).collect();
        let (begins, mut ask) = (&mut keeper.begins, Vec::new());
        let collected = collector.look(&processes, self.now.wall_ms, &mut |key| match begins.get(key) {
            Some(known) => *known,
            None => {
                begins.insert(key.clone(), None);
                ask.push(key.clone());
                None
            }
        });
        for key in ask {
            self.tell_front(&ToFront::Collects { key });
        }
        for collected in collected {
            self.relays.keeper.begins.insert(collected.key.clone(), Some(collected.next));
            let (key, process) = (&collected.key, collected.process);
            for problem in collected.problems.iter().take(PROBLEM_LINES) {
                tracing::warn!(stream = %key, process, file = problem.file, "a segment of the process is passed over: {}", problem.why);
            }
            self.page.counter(WorkerCounter::SegmentsLost as usize).fetch_add(collected.refused as u64, Ordering::Relaxed);
            self.report_segments(&collected.key, &collected.finished);
            self.tell_front(&ToFront::Segment { key: collected.key, next: collected.next, duration_ms: None });
        }
    }

    /// The front has another step for a stream.
    pub(in super::super) fn settle_collected(&mut self, key: StreamKey, settling: Settling) {
        let done = match &mut self.relays.keeper.collector {
            None => false,
            Some(collector) => match collector.settle(&key, settling) {
                Ok(()) => true,
                Err(error) => {
                    tracing::error!(stream = %key, %error, "cannot settle the stream ({settling:?})");
                    false
                }
            },
        };
        if settling == Settling::Dispose {
            self.relays.keeper.begins.remove(&key);
        }
        if settling == Settling::End && done {
            tracing::info!(stream = %key, "the stream is over: nobody came back to publish it in {}", self.config.play.reconnect_grace);
        }
        self.tell_front(&ToFront::Settled { key, settling, done });
    }

    /// The shared directory is nearly full.
    pub(in super::super) fn evict_collected(&mut self, stream_bytes: u64) {
        if let Some(collector) = &mut self.relays.keeper.collector {
            let evicted = collector.evict_down_to(stream_bytes);
            self.page.counter(WorkerCounter::SegmentsEvicted as usize).fetch_add(evicted as u64, Ordering::Relaxed);
        }
    }

    /// At which number a stream's segments begin.
    pub(in super::super) fn collect_from(&mut self, key: StreamKey, next_segment: u64) {
        self.relays.keeper.collect_from(key, next_segment);
    }

    fn inquire(&mut self) {
        let serving = self.relays.processes.iter().filter(|process| process.serves);
        match &mut self.relays.keeper.watch {
            Inquiry::Srs(watch) => {
                watch.look(serving.map(|process| (process.process.0, process.api)).collect());
            }
            Inquiry::Any(probe) => probe.look(serving.map(|process| (process.process.0, process.rtmp)).collect()),
        }
    }

    /// Processes have said how they are, or have not.
    pub(in super::super) fn processes_seen(&mut self) {
        loop {
            let (process, seen) = match &mut self.relays.keeper.watch {
                Inquiry::Srs(watch) => match watch.poll() {
                    Some(Seen { process, answered: Ok(load) }) => {
                        self.relays.keeper.live.insert(process, load.streams);
                        self.relays.keeper.live_changed = true;
                        (process, Ok(load.cpu_permille))
                    }
                    Some(Seen { process, answered: Err(why) }) => (process, Err(why)),
                    None => return,
                },
                Inquiry::Any(probe) => match probe.poll() {
                    Some((process, answered)) => (process, answered.map(|()| 0)),
                    None => return,
                },
            };
            let Some(run) = self.relays.processes.iter().find(|found| found.process.0 == process).map(|found| found.run) else { continue };
            // A message has to stay short, whatever a process says.
            let seen = seen.map_err(|why| why.chars().take(200).collect());
            self.tell_front(&ToFront::Health { process: ProcessId(process), run, seen });
        }
    }

    /// Writes what lives where, for relays that look for it and for `status`.
    fn write_live(&mut self) {
        let keeper = &mut self.relays.keeper;
        if !std::mem::take(&mut keeper.live_changed) {
            return;
        }
        keeper.live.retain(|process, _| self.relays.processes.iter().any(|found| found.process.0 == *process && found.serves));
        let mut room = MAX_LIVE;
        let mut live = Live::default();
        for (process, streams) in &keeper.live {
            let some: Vec<LiveStream> = streams.iter().take(room).cloned().collect();
            room -= some.len();
            live.processes.insert(*process, some);
        }
        if let Err(error) = live.write(&self.config.server.shared_dir) {
            tracing::debug!(%error, "cannot say what lives where");
        }
    }

    /// Players that wait for a stream that somebody else than our publishers has brought to a process by now: the front is told where.
    pub(in super::super) fn look_for_awaited(&mut self) {
        if !self.relays.keeper.relays {
            return;
        }
        let waits = |session: &Session| match (&session.role, &session.more.asked) {
            (Role::Placing(wish), Some(asked)) if asked.intent == Intent::Play && asked.found_at.is_none() => Some(wish.key.clone()),
            _ => None,
        };
        let waiting: Vec<(usize, StreamKey)> = self.sessions.iter().filter_map(|(slot, session)| Some((slot, waits(session)?))).collect();
        for (slot, key) in waiting {
            let Some(process) = self.found_at(&key) else { continue };
            let session = &mut self.sessions[slot];
            let conn = session.conn;
            let Some(asked) = &mut session.more.asked else { continue };
            asked.found_at = Some(process);
            let question = asked.question(conn);
            self.tell_front(&question);
        }
    }

    /// The process that says that it has a stream; read once a second.
    pub(in super::super) fn found_at(&mut self, key: &StreamKey) -> Option<ProcessId> {
        let now_ms = self.now.mono_ms;
        let known = &mut self.relays.keeper.known;
        if now_ms >= known.0 {
            known.0 = now_ms + WATCH_MS;
            let all = Live::read(&self.config.server.shared_dir)
                .processes
                .into_iter()
                .flat_map(|(process, streams)| streams.into_iter().map(move |stream| (process, stream)));
            known.1 = all
                .filter(|(_, stream)| stream.publishing)
                .filter_map(|(process, stream)| Some((StreamKey::new(&stream.vhost, &stream.app, &stream.name).ok()?, ProcessId(process))))
                .collect();
        }
        self.relays.keeper.known.1.get(key).copied()
    }
}
