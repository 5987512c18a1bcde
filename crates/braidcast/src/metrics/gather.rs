//! Fills the series from what the instance's processes have written. The numbers are of slightly different moments; each is right by itself, and
//! a counter that was read later is never less.

use super::exposition::{Exposition, Family, Form};
use super::families::*;
use super::streams::{STREAM_STATES, of_streams};
use crate::attendant::page::Page;
use crate::config::Config;
use crate::control::WorkerId;
use crate::control::attendants::Role;
use crate::control::counters::{FrontCounter, HookCounter, TlsCounter, WorkerCounter};
use crate::control::pages::{FrontPage, InstanceState, PAUSE_BOUNDS_MS, Why, WorkerState};
use crate::hooks::page::HooksPage;
use crate::status::{self, Status};
use braidcast_stream_log::{Root, WorkerPage, WorkerView};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;

/// What is read, and how much of it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// The shared directory.
    pub shared_dir: PathBuf,
    /// How many streams have series of their own.
    pub stream_labels: usize,
    /// Whether streams are cut into segments.
    pub hls: bool,
}

impl Scope {
    /// What a configuration says.
    pub fn of(config: &Config) -> Self {
        Self { shared_dir: config.server.shared_dir.clone(), stream_labels: config.metrics.stream_labels as usize, hls: config.hls.enabled }
    }
}

/// A worker: its label, its page, and what the front says of it.
struct Worker {
    id: WorkerId,
    label: String,
    view: Option<WorkerView>,
}

impl Worker {
    fn counter(&self, counter: WorkerCounter) -> u64 {
        // A worker that never came up has counted nothing.
        self.view.as_ref().map_or(0, |view| view.counter(counter as usize))
    }
}

fn sum(workers: &[Worker], counter: WorkerCounter) -> u64 {
    workers.iter().map(|worker| worker.counter(counter)).sum()
}

/// Everything, as text.
///
/// # Errors
/// No instance has run with this shared directory, or it cannot be read.
pub fn gather(scope: &Scope, form: Form) -> anyhow::Result<String> {
    let status = status::read(&scope.shared_dir)?;
    let front = FrontPage::open(&scope.shared_dir)?;
    let root = Root::new(scope.shared_dir.clone());
    let workers: Vec<Worker> = (1..=front.workers())
        .map(|id| Worker { id: WorkerId(id), label: id.to_string(), view: WorkerPage::open(&root, id).ok() })
        .collect();
    let mut out = Exposition::new(form);
    of_srs(&mut out, &status, &front, &workers);
    of_instance(&mut out, &status, &front);
    of_limits(&mut out, &front, &workers);
    of_front_page(&mut out, &front);
    of_workers(&mut out, &front, &workers);
    of_attendants(&mut out, &status, &scope.shared_dir);
    of_streams(&mut out, scope, &root, &status.streams);
    Ok(out.finish())
}

fn of_srs(out: &mut Exposition, status: &Status, front: &FrontPage, workers: &[Worker]) {
    let of_front = |counter| front.counter(counter).load(Relaxed);
    let sum = |counters: &[WorkerCounter]| -> u64 { counters.iter().map(|counter| sum(workers, *counter)).sum() };
    let mut put = |family: &Family, value: f64| out.family(family).add(&[], value);
    put(&SRS_STREAMS, status.streams.iter().filter(|stream| stream.state == "live").count() as f64);
    let viewers = [WorkerCounter::FlvViewers, WorkerCounter::RtmpViewers, WorkerCounter::OtherViewers];
    put(&SRS_CLIENTS, (sum(&viewers) + sum(&[WorkerCounter::Publishers])) as f64);
    put(&SRS_CLIENTS_TOTAL, (of_front(FrontCounter::AdmittedPublishers) + of_front(FrontCounter::AdmittedViewers)) as f64);
    let errors =
        [WorkerCounter::HandshakeTimeouts, WorkerCounter::FirstPacketTimeouts, WorkerCounter::IdleTimeouts, WorkerCounter::ProtocolErrors];
    put(&SRS_CLIENTS_ERRS_TOTAL, (sum(&errors) + of_front(FrontCounter::SessionsLost)) as f64);
    put(&SRS_SEND_BYTES_TOTAL, sum(&[WorkerCounter::BytesOut]) as f64);
    put(&SRS_RECEIVE_BYTES_TOTAL, sum(&[WorkerCounter::BytesIn]) as f64);
    put(&SRS_CPU_PERCENT, (sum(&[WorkerCounter::CpuPermille]) + of_front(FrontCounter::CpuPermille)) as f64 / 10.0);
    put(&SRS_MEMORY, ((sum(&[WorkerCounter::MemoryBytes]) + of_front(FrontCounter::MemoryBytes)) >> 10) as f64);
}

fn of_instance(out: &mut Exposition, status: &Status, front: &FrontPage) {
    out.family(&BUILD_INFO).add(&[crate::VERSION], 1);
    let mut states = out.family(&INSTANCE_STATE);
    for state in InstanceState::ALL.map(InstanceState::label).into_iter().chain(["lost"]) {
        states.add(&[state], u8::from(status.instance.state == state));
    }
    out.family(&START_TIME).add(&[], seconds(front.started_wall_ms()));
    out.family(&SESSIONS_MOVING).add(&[], front.moving());
    let mut pauses = out.family(&MOVE_PAUSE);
    let bounds = PAUSE_BOUNDS_MS.map(seconds);
    for why in Why::ALL {
        let known = front.pauses(why);
        pauses.add_histogram(&[why.label()], &bounds, &known.counts, seconds(known.sum_ms));
    }
    out.family(&DIRECTORY_SIZE).add(&[], status.directory.total_bytes);
    out.family(&DIRECTORY_FREE).add(&[], status.directory.free_bytes);
    let mut streams = out.family(&STREAMS);
    for state in STREAM_STATES {
        streams.add(&[state], status.streams.iter().filter(|stream| stream.state == state).count());
    }
}

fn of_limits(out: &mut Exposition, front: &FrontPage, workers: &[Worker]) {
    let mut hits: BTreeMap<&str, u64> = BTreeMap::new();
    let mut add = |limit: &'static str, times| *hits.entry(limit).or_default() += times;
    FrontCounter::ALL.iter().for_each(|counter| add(counter.label(), front.counter(*counter).load(Relaxed)));
    WorkerCounter::ALL.iter().for_each(|counter| add(counter.label(), sum(workers, *counter)));
    let mut series = out.family(&LIMIT_HITS);
    for (limit, times) in hits.iter().filter(|(label, _)| is_limit(label)) {
        series.add(&[limit], times);
    }
}

fn of_front_page(out: &mut Exposition, front: &FrontPage) {
    for counter in FrontCounter::ALL {
        let (family, factor) = of_front(*counter);
        out.family(&family).add(&[], front.counter(*counter).load(Relaxed) as f64 * factor);
    }
}

fn of_workers(out: &mut Exposition, front: &FrontPage, workers: &[Worker]) {
    let rows: Vec<_> = workers.iter().map(|worker| (&*worker.label, front.row(worker.id))).collect();
    let mut states = out.family(&WORKER_STATE);
    for (worker, row) in &rows {
        for state in WorkerState::ALL {
            states.add(&[worker, state.label()], u8::from(row.state == state));
        }
    }
    let mut started = out.family(&WORKER_START_TIME);
    for (worker, row) in rows.iter().filter(|(_, row)| row.pid != 0) {
        started.add(&[worker], seconds(row.started_wall_ms));
    }
    let mut restarts = out.family(&WORKER_RESTARTS);
    for (worker, row) in &rows {
        restarts.add(&[worker], row.restarts);
    }
    let mut allowed = out.family(&WORKER_ALLOWED);
    for (worker, row) in rows.iter().filter(|(_, row)| row.allowed != 0) {
        allowed.add(&[worker], row.allowed);
    }
    let mut placed = out.family(&WORKER_PLACED);
    for (worker, row) in &rows {
        placed.add(&[worker], row.publishers);
    }
    for counter in WorkerCounter::ALL {
        let (family, factor) = of_worker(*counter);
        let mut series = out.family(&family);
        for worker in workers {
            series.add(&[&worker.label], worker.counter(*counter) as f64 * factor);
        }
    }
}

fn of_attendants(out: &mut Exposition, status: &Status, shared_dir: &Path) {
    let mut up = out.family(&ATTENDANT_UP);
    for role in Role::ALL.map(|role| role.to_string()) {
        let mut processes = status.attendants.iter().filter(|process| process.role == role).peekable();
        if processes.peek().is_some() {
            up.add(&[&role], u8::from(processes.any(|process| process.state == "ready")));
        }
    }
    // Nobody has ever called hooks, or taken TLS off, who has no page.
    if let Ok(page) = HooksPage::open(shared_dir) {
        out.family(&HOOK_EVENTS_MISSED).add(&[], page.missed().load(Relaxed));
        let rows = page.rows();
        for (index, counter) in HookCounter::ALL.iter().enumerate() {
            let (family, factor) = of_hook(*counter);
            let mut series = out.family(&family);
            for (hook, row) in (1..).zip(&rows) {
                series.add(&[&format!("{hook}"), &row.description], row.counters[index] as f64 * factor);
            }
        }
    }
    if let Ok(page) = Page::open(shared_dir, Role::Tls) {
        for counter in TlsCounter::ALL {
            let (family, factor) = of_tls(*counter);
            out.family(&family).add(&[], page.counter(*counter as usize).load(Relaxed) as f64 * factor);
        }
    }
}

/// Milliseconds as seconds.
pub(super) fn seconds(ms: u64) -> f64 {
    ms as f64 / 1_000.0
}
