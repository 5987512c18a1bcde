//! What an instance is doing, read from its shared directory alone: nobody is asked, nothing is written, and it works while workers are stuck and
//! after everything is gone.
//!
//! Numbers are of slightly different moments; each is right by itself.

mod attendants;
mod engine_streams;
mod hooks;
pub mod instance;
mod streams;
mod table;
mod text;

use crate::control::WorkerId;
use crate::control::counters::{FrontCounter, WorkerCounter};
use crate::control::pages::{FrontPage, InstanceState, Listening, MoveRow, WorkerRow, WorkerState};
use crate::engine::live::Live;
use crate::engine::report as report_of_engine;
use crate::relays::report::{self, Relay};
use crate::sandbox::Standing;
use anyhow::Context;
use braidcast_media::StreamKey;
use braidcast_stream_log::{Now, Root, WorkerPage};
use braidcast_sys::file;
use instance::Locks;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use utoipa::ToSchema;

pub use attendants::Attendant;
pub use hooks::Hook;
pub use streams::Stream;

/// How old [`Cached`] answers may become, in milliseconds.
const CACHED_MS: u64 = 1_000;

/// All that is known of an instance.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Status {
    /// The version of the program that asks.
    pub version: &'static str,
    /// The instance as a whole.
    pub instance: Instance,
    /// The front's counters by name.
    #[schema(value_type = HashMap<String, u64>)]
    pub front: Map<String, Value>,
    /// What carries the streams.
    pub engine: Engine,
    /// The workers, by id.
    pub workers: Vec<Worker>,
    /// The processes of another server, by id; none with our own workers.
    pub processes: Vec<report_of_engine::Process>,
    /// Processes beside the workers.
    pub attendants: Vec<Attendant>,
    /// Sessions that move between workers.
    pub moves: Moves,
    /// The streams that have a log, by name.
    pub streams: Vec<Stream>,
    /// Streams that go to other servers, or come from them.
    pub relays: Vec<Relay>,
    /// The hook servers, in the order of the configuration.
    pub hooks: Vec<Hook>,
    /// The shared directory.
    pub directory: Directory,
}

/// The instance as a whole.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Instance {
    /// The shared directory.
    pub shared_dir: String,
    /// Whether the front runs.
    pub running: bool,
    /// `starting`, `running`, `stopping`, `ended`; `lost` if the front is gone without having ended in order.
    pub state: &'static str,
    /// The front's process, or what it was.
    pub pid: u64,
    /// Seconds since the start; 0 if it does not run.
    pub uptime_s: u64,
    /// Addresses in use, by what is spoken there: `rtmp`, `http`, `api`, `sub1`, …
    #[schema(value_type = HashMap<String, Vec<String>>)]
    pub addresses: Map<String, Value>,
    /// The most publishers in all; `null`: no limit.
    pub allowed: Option<u32>,
    /// What of the sandbox is in force in every worker: `on (…)`, `not whole (…)`, `off` or `no worker serves`.
    pub sandbox: String,
}

/// What carries the streams.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Engine {
    /// `native`, `srs` or `external`.
    pub kind: String,
    /// Whether connections go on when the process dies that has them: with our own workers alone.
    pub exact_takeover: bool,
}

/// A worker.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Worker {
    /// From 1.
    pub id: u16,
    /// Its process; 0 if there is none.
    pub pid: u32,
    /// `empty`, `starting`, `ready`, `restarting`, `crash-loop`, `draining`, `stopping`.
    pub state: &'static str,
    /// The most publishers it may have; `null`: no limit of its own.
    pub allowed: Option<u32>,
    /// Publishers that count against that, reservations included.
    pub current: u32,
    /// How many more it may take; `null`: no limit of its own.
    pub free: Option<u32>,
    /// Its publishers, as the worker itself counts them.
    pub publishers: u64,
    /// Its viewers by HTTP-FLV and RTMP.
    pub viewers: u64,
    /// Its client connections.
    pub sessions: u64,
    /// Its share of the publishers.
    pub weight: u32,
    /// How often it was started again.
    pub restarts: u32,
    /// Seconds since its process was started; 0 if there is none.
    pub uptime_s: u64,
    /// Share of one core used in the last second, per mille.
    pub cpu_permille: u64,
    /// Its counters by name.
    #[schema(value_type = HashMap<String, u64>)]
    pub counters: Map<String, Value>,
}

/// Sessions that move between workers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Moves {
    /// How many are on their way. 0: whatever happened is recovered from.
    pub under_way: u64,
    /// The last ones, newest first.
    pub last: Vec<Moved>,
}

/// A session that has moved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Moved {
    /// Its connection, as in the log.
    pub conn: String,
    /// Whose it was.
    pub from: u16,
    /// Whose it is.
    pub to: u16,
    /// `placed`, `worker died`, `worker hung`, `drained`, `rebalanced`.
    pub why: &'static str,
    /// How long nobody had it.
    pub pause_ms: u64,
    /// When it went on, wall clock, milliseconds since 1970.
    pub wall_ms: u64,
}

/// The shared directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Directory {
    /// Bytes in use, as the front last counted them.
    pub bytes: u64,
    /// The most that logs and segments may take.
    pub budget_bytes: u64,
    /// The size of the file system; 0: no limit.
    pub total_bytes: u64,
    /// What is free in it.
    pub free_bytes: u64,
}

/// Reads everything.
pub fn read(shared_dir: &Path) -> anyhow::Result<Status> {
    let front = FrontPage::open(shared_dir)
        .with_context(|| format!("no instance has run with {} as its shared directory", shared_dir.display()))?;
    let now = Now::read();
    let locks = Locks::read();
    let running = locks.holder(&shared_dir.join(instance::LOCK_NAME)).is_some();
    let rows: Vec<(WorkerId, WorkerRow)> = (1..=front.workers()).map(WorkerId).map(|id| (id, front.row(id))).collect();
    let worker_of = |pid: u32| rows.iter().find(|(_, row)| row.pid == pid).map(|(id, _)| id.0);
    let pid_of = |worker: WorkerId| front.row(worker).pid;
    let root = Root::new(shared_dir.to_owned());
    let front_pid = u32::try_from(front.counter(FrontCounter::Pid).load(Relaxed)).unwrap_or(0);
    let processes: Vec<(String, u32)> =
        std::iter::once(("front".to_owned(), front_pid)).chain(rows.iter().map(|(id, row)| (id.to_string(), row.pid))).collect();
    let system = file::file_system(shared_dir).context("the shared directory's file system")?;
    let counter = |counter| front.counter(counter).load(Relaxed);
    let engine = report_of_engine::Report::read(shared_dir).filter(|engine| !engine.kind.is_empty());
    let kind = engine.as_ref().map_or("native".to_owned(), |engine| engine.kind.clone());
    let streams = match &engine {
        Some(engine) => engine_streams::streams(&root, engine, &if running { Live::read(shared_dir) } else { Live::default() }, now)?,
        None => streams::streams(&root, &locks, worker_of, pid_of, now)?,
    };
    Ok(Status {
        version: crate::VERSION,
        instance: Instance {
            shared_dir: shared_dir.display().to_string(),
            running,
            state: if running || front.state() == InstanceState::Ended { front.state().label() } else { "lost" },
            pid: counter(FrontCounter::Pid),
            uptime_s: if running { now.wall_ms.saturating_sub(front.started_wall_ms()) / 1_000 } else { 0 },
            addresses: addresses(&front.listening()),
            allowed: Some(front.allowed_in_all()).filter(|most| *most != 0),
            sandbox: sandboxed(&root, &rows).map_or("no worker serves".to_owned(), |standing| standing.to_string()),
        },
        front: FrontCounter::ALL.iter().map(|known| (known.label().to_owned(), counter(*known).into())).collect(),
        engine: Engine { exact_takeover: engine.is_none(), kind },
        processes: engine.map_or_else(Vec::new, |engine| engine.processes),
        workers: rows.iter().map(|(id, row)| worker(&root, *id, row, now)).collect(),
        attendants: if running { attendants::read(shared_dir, now) } else { Vec::new() },
        moves: Moves { under_way: front.moving(), last: front.moves().into_iter().map(moved).collect() },
        streams,
        relays: if running { report::read(shared_dir, &processes) } else { Vec::new() },
        hooks: if running { hooks::read(shared_dir) } else { Vec::new() },
        directory: Directory {
            bytes: counter(FrontCounter::DirectoryBytes),
            budget_bytes: counter(FrontCounter::DirectoryBudgetBytes),
            total_bytes: system.total_bytes,
            free_bytes: system.free_bytes,
        },
    })
}

/// Addresses by what is spoken there: `{"rtmp":["127.0.0.1:1935"],"http":[…],…}`. The form of the status and of `--ready-fd`.
pub fn addresses(listening: &[Listening]) -> Map<String, Value> {
    let mut map = Map::new();
    for Listening { what, address } in listening {
        if let Value::Array(list) = map.entry(what.clone()).or_insert_with(|| json!([])) {
            list.push(address.to_string().into());
        }
    }
    map
}

/// What of the sandbox all workers that serve are in.
fn sandboxed(root: &Root, rows: &[(WorkerId, WorkerRow)]) -> Option<Standing> {
    let serving = rows.iter().filter(|(_, row)| matches!(row.state, WorkerState::Running | WorkerState::Draining));
    let standing = |id: &WorkerId| {
        let bits = WorkerPage::open(root, id.0).map(|view| view.counter(WorkerCounter::Sandbox as usize));
        Standing::from_bits(bits.unwrap_or(0))
    };
    serving.map(|(id, _)| standing(id)).reduce(Standing::and)
}

fn moved(row: MoveRow) -> Moved {
    let MoveRow { wall_ms, conn, from, to, why, pause_ms } = row;
    Moved { conn: conn.to_string(), from: from.0, to: to.0, why: why.label(), pause_ms, wall_ms }
}

fn worker(root: &Root, id: WorkerId, row: &WorkerRow, now: Now) -> Worker {
    // A worker that never came up has no page, which is no reason to say nothing of the others.
    let view = WorkerPage::open(root, id.0).ok();
    let counter = |counter: WorkerCounter| view.as_ref().map_or(0, |view| view.counter(counter as usize));
    Worker {
        id: id.0,
        pid: row.pid,
        state: if row.state == WorkerState::Running { "ready" } else { row.state.label() },
        allowed: Some(row.allowed).filter(|most| *most != 0),
        current: row.publishers,
        free: row.free(),
        publishers: counter(WorkerCounter::Publishers),
        viewers: [WorkerCounter::FlvViewers, WorkerCounter::RtmpViewers, WorkerCounter::OtherViewers].into_iter().map(counter).sum(),
        sessions: counter(WorkerCounter::Sessions),
        weight: row.weight,
        restarts: row.restarts,
        uptime_s: if row.pid == 0 { 0 } else { now.wall_ms.saturating_sub(row.started_wall_ms) / 1_000 },
        cpu_permille: counter(WorkerCounter::CpuPermille),
        counters: WorkerCounter::ALL.iter().map(|known| (known.label().to_owned(), counter(*known).into())).collect(),
    }
}

impl Status {
    /// Everything, as JSON on one line.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a status holds only text, numbers and lists")
    }

    /// What the web page needs: the streams that may be listed, and the port that RTMP is spoken on. Nothing of processes, directories, or who
    /// publishes.
    pub fn streams_json(&self, listed: impl Fn(&StreamKey) -> bool) -> String {
        let rtmp = self.instance.addresses.get("rtmp").and_then(|list| list.get(0)).and_then(Value::as_str);
        let port = rtmp.and_then(|address| address.rsplit(':').next()).and_then(|port| port.parse::<u16>().ok());
        let may_be = |stream: &&Stream| StreamKey::new(&stream.vhost, &stream.app, &stream.stream).is_ok_and(|key| listed(&key));
        let streams: Vec<&Stream> = self.streams.iter().filter(may_be).collect();
        let mut answer = json!({ "streams": streams, "engine": self.engine.kind });
        for stream in answer["streams"].as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
            for inner in ["publisher", "viewers", "sent_bytes", "sent_rate", "jumps"] {
                stream.shift_remove(inner);
            }
        }
        if let (Some(port), Value::Object(answer)) = (port, &mut answer) {
            answer.insert("rtmp_port".into(), port.into());
        }
        answer.to_string()
    }

    /// For people.
    pub fn to_text(&self) -> String {
        text::text(self)
    }
}

/// The last status that was read, for answers to strangers: however often they ask, the directory is read once a second.
#[derive(Debug, Default)]
pub struct Cached(Option<(u64, Status)>);

impl Cached {
    /// The status, at most a second old. `now_ms` is of the monotonic clock.
    pub fn read(&mut self, shared_dir: &Path, now_ms: u64) -> anyhow::Result<&Status> {
        let fresh = self.0.take().filter(|(read_ms, _)| now_ms.saturating_sub(*read_ms) < CACHED_MS);
        let (_, status) = self.0.insert(match fresh {
            Some(fresh) => fresh,
            None => (now_ms, read(shared_dir)?),
        });
        Ok(status)
    }
}

/// The answer of `/api/v1/versions`, in the envelope of SRS's API.
pub fn versions(pid: u32) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let part = |index| version.split('.').nth(index).and_then(|part| part.parse::<u32>().ok()).unwrap_or(0);
    json!({
        "code": 0,
        "server": "braidcast",
        "service": pid.to_string(),
        "pid": pid.to_string(),
        "data": { "major": part(0), "minor": part(1), "revision": part(2), "version": version },
    })
    .to_string()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
