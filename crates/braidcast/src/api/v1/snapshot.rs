//! Everything that SRS's API tells of, gathered from the shared directory at one moment.

use super::super::tracks::Tracks;
use super::super::{ids, machine};
use super::lists::shown;
use crate::clients::{Record, Table};
use crate::config::Config;
use crate::control::counters::{FrontCounter, WorkerCounter};
use crate::control::pages::FrontPage;
use crate::control::{ConnId, WorkerId};
use crate::watched;
use anyhow::Context;
use braidcast_media::StreamKey;
use braidcast_stream_log::{Reader, Root, State, WorkerPage};
use braidcast_sys::clock;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How old a snapshot may become that several requests are answered from: so many times as long as it took to gather it, so that a twentieth
/// of a core is the most that the API can cost.
const TIMES: u32 = 20;
/// And no longer than this.
const MOST_OLD: Duration = Duration::from_secs(1);

/// See the module's head.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub(super) server: String,
    pub(super) service: String,
    pub(super) pid: u64,
    pub(super) started_wall_ms: u64,
    /// Who publishes or plays, by id.
    pub(super) clients: Vec<Record>,
    /// What is published, played or waited for, by name.
    pub(super) streams: Vec<Stream>,
    /// `None`: there is no HLS.
    pub(super) hls_fragment_ms: Option<u64>,
    /// Received and sent by all workers.
    pub(super) bytes: [u64; 2],
    /// What the front has sampled.
    pub(super) machine: Value,
}

/// A stream that SRS would list: it is published, or has clients.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Stream {
    pub key: StreamKey,
    pub id: String,
    /// Somebody publishes it.
    pub active: bool,
    pub publisher: Option<ConnId>,
    pub tc_url: String,
    /// The publisher among them.
    pub clients: usize,
    pub frames: u64,
    pub sent: u64,
    pub received: u64,
    pub bits_in: u64,
    pub bits_out: u64,
    pub tracks: Tracks,
}

impl Stream {
    fn new(key: StreamKey) -> Self {
        Self {
            id: ids::stream_id(&key),
            tc_url: format!("rtmp://{}/{}", key.vhost(), key.app()),
            key,
            active: false,
            publisher: None,
            clients: 0,
            frames: 0,
            sent: 0,
            received: 0,
            bits_in: 0,
            bits_out: 0,
            tracks: Tracks::default(),
        }
    }

    /// What its log says.
    fn see(&mut self, root: &Root, reader: &Reader) {
        let counters = reader.counters();
        self.active = reader.state() == State::Live;
        (self.frames, self.received) = (counters.video, counters.bytes);
        // Also to viewers that are gone; who views now is not asked for.
        self.sent = watched::read(root, &self.key, |_| 0).sent_bytes;
        if self.active {
            self.tracks = Tracks::of(reader);
        }
    }

    fn count(&mut self, client: &Record) {
        self.clients += 1;
        self.bits_out += client.bits_out;
        if client.description.kind.publishes() {
            self.publisher = Some(client.conn);
            self.tc_url = shown(&client.description.tc_url);
            self.sent += client.bytes_out;
            self.bits_in += client.bits_in;
        }
    }
}

impl Snapshot {
    /// Gathers everything.
    ///
    /// # Errors
    /// The shared directory cannot be read.
    pub fn read(shared_dir: &Path, config: &Config) -> anyhow::Result<Self> {
        let front = FrontPage::open(shared_dir).context("the front's page")?;
        let root = Root::new(shared_dir.to_owned());
        let mut clients: Vec<Record> = Table::open(shared_dir).context("the client table")?.all().map(|(_, record)| record).collect();
        clients.retain(|record| record.began_ms != 0 && record.description.key.is_some());
        clients.sort_unstable_by_key(|record| record.conn);
        let workers: Vec<WorkerPageTotals> = (1..=front.workers()).map(|id| WorkerPageTotals::read(&root, WorkerId(id))).collect();
        Ok(Self {
            server: ids::server_id(shared_dir, &config.hooks.server_id),
            service: ids::service_id(shared_dir, front.started_wall_ms()),
            pid: front.counter(FrontCounter::Pid).load(Relaxed),
            started_wall_ms: front.started_wall_ms(),
            streams: streams(&root, &clients)?,
            clients,
            hls_fragment_ms: config.hls.enabled.then(|| config.hls.fragment.as_ms()),
            bytes: [workers.iter().map(|worker| worker.received).sum(), workers.iter().map(|worker| worker.sent).sum()],
            machine: machine::last(shared_dir).unwrap_or_default(),
        })
    }

    /// The client with this id.
    pub(super) fn client(&self, conn: ConnId) -> Option<&Record> {
        let at = self.clients.binary_search_by_key(&conn, |record| record.conn).ok()?;
        self.clients.get(at)
    }

    /// A part of what the front has sampled.
    pub(super) fn machine_part(&self, part: &str) -> Value {
        self.machine.get(part).cloned().unwrap_or_else(|| json!({ "ok": false }))
    }

    /// `data` of `/api/v1/summaries`.
    pub(super) fn summaries(&self) -> Value {
        let now_ms = clock::wall_ms();
        let (mut own, mut system) = (self.machine_part("self"), self.machine_part("system"));
        own["version"] = env!("CARGO_PKG_VERSION").into();
        own["pid"] = self.pid.into();
        own["srs_uptime"] = (now_ms.saturating_sub(self.started_wall_ms) / 1_000).into();
        system["srs_sample_time"] = now_ms.into();
        system["srs_recv_bytes"] = self.bytes[0].into();
        system["srs_send_bytes"] = self.bytes[1].into();
        system["conn_srs"] = self.clients.len().into();
        json!({ "ok": self.machine.is_object(), "now_ms": now_ms, "self": own, "system": system })
    }
}

#[derive(Default)]
struct WorkerPageTotals {
    received: u64,
    sent: u64,
}

impl WorkerPageTotals {
    /// A worker that never came up has no page, which is no reason to say nothing of the others.
    fn read(root: &Root, worker: WorkerId) -> Self {
        let Ok(page) = WorkerPage::open(root, worker.0) else { return Self::default() };
        let counter = |counter: WorkerCounter| page.counter(counter as usize);
        Self { received: counter(WorkerCounter::BytesIn), sent: counter(WorkerCounter::BytesOut) }
    }
}

fn streams(root: &Root, clients: &[Record]) -> anyhow::Result<Vec<Stream>> {
    let mut streams: BTreeMap<StreamKey, Stream> = BTreeMap::new();
    for key in root.keys().context("the list of streams")? {
        // A stream that cannot be read (removed in this moment, made by another version) does not hide the others.
        if let Ok(Some(reader)) = Reader::open(root, &key) {
            streams.entry(key.clone()).or_insert_with(|| Stream::new(key)).see(root, &reader);
        }
    }
    for client in clients {
        if let Some(key) = &client.description.key {
            streams.entry(key.clone()).or_insert_with(|| Stream::new(key.clone())).count(client);
        }
    }
    Ok(streams.into_values().filter(|stream| stream.active || stream.clients > 0).collect())
}

/// The last snapshot, for as long as it is fresh: however many ask at once, one gathers.
#[derive(Clone, Debug, Default)]
pub struct Snapshots(Arc<Mutex<Option<Fresh>>>);

#[derive(Debug)]
struct Fresh {
    snapshot: Arc<Snapshot>,
    until: Instant,
}

impl Snapshots {
    /// A fresh one; waits for whoever is gathering it.
    ///
    /// # Errors
    /// As [`Snapshot::read`].
    pub fn fresh(&self, shared_dir: &Path, config: &Config) -> anyhow::Result<Arc<Snapshot>> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let began = Instant::now();
        if let Some(Fresh { snapshot, .. }) = last.as_ref().filter(|fresh| began < fresh.until) {
            return Ok(snapshot.clone());
        }
        let snapshot = Arc::new(Snapshot::read(shared_dir, config)?);
        let until = Instant::now() + (began.elapsed() * TIMES).min(MOST_OLD);
        *last = Some(Fresh { snapshot: snapshot.clone(), until });
        Ok(snapshot)
    }
}
