//! Fills the series from what the instance's processes have written. The numbers are of slightly different moments; each is right by itself, and
//! a counter that was read later is never less.

use super::exposition::{Exposition, Family, Form};
use super::families::*;
use super::labels::{Labelled, label_streams};
use crate::config::Config;
use crate::control::WorkerId;
use crate::control::counters::{FrontCounter, WorkerCounter};
use crate::control::pages::{FrontPage, InstanceState, PAUSE_BOUNDS_MS, Why, WorkerState};
use crate::status::{self, Status, Stream};
use braidcast_stream_log::{Root, WorkerPage, WorkerView};
use std::collections::BTreeMap;
use std::path::PathBuf;
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

fn of_streams(out: &mut Exposition, scope: &Scope, root: &Root, streams: &[Stream]) {
    let Labelled { own, other } = label_streams(root, streams, scope.stream_labels);
    out.family(&STREAMS_UNLABELLED).add(&[], other.len());
    let expects = |stream: &Stream| scope.hls && stream.state == "live" && stream.hls.carries;
    let sum = |what: &dyn Fn(&Stream) -> u64| other.iter().map(|stream| what(stream)).sum::<u64>();
    let most = |what: &dyn Fn(&Stream) -> Option<u64>| other.iter().filter_map(|stream| what(stream)).max();

    let mut states = out.family(&STREAM_STATE_NOW);
    for state in STREAM_STATES {
        for Stream { vhost, app, stream, state: now, .. } in &own {
            states.add(&[vhost, app, stream, state], u8::from(*now == state));
        }
    }
    if !other.is_empty() {
        for state in STREAM_STATES {
            states.add(&[OTHER[0], OTHER[1], OTHER[2], state], sum(&|stream| u64::from(stream.state == state)));
        }
    }
    let mut counter = |family: &Family, what: &dyn Fn(&Stream) -> u64| {
        let mut series = out.family(family);
        for known in &own {
            series.add(&[&known.vhost, &known.app, &known.stream], what(known));
        }
    };
    counter(&STREAM_BYTES_IN, &|stream| stream.bytes);
    counter(&STREAM_BYTES_OUT, &|stream| stream.sent_bytes);
    counter(&STREAM_JUMPS, &|stream| stream.jumps);
    counter(&STREAM_RECORDS, &|stream| stream.records);
    counter(&STREAM_KEYFRAMES, &|stream| stream.keyframes);
    counter(&STREAM_DROPPED, &|stream| stream.records_dropped);
    counter(&STREAM_SEGMENT, &|stream| stream.segment.unwrap_or(0));

    let mut summed = |family: &Family, what: &dyn Fn(&Stream) -> u64| {
        let mut series = out.family(family);
        for known in &own {
            series.add(&[&known.vhost, &known.app, &known.stream], what(known));
        }
        if !other.is_empty() {
            series.add(&OTHER, sum(what));
        }
    };
    summed(&STREAM_RATE_IN, &|stream| stream.received_rate);
    summed(&STREAM_RATE_OUT, &|stream| stream.sent_rate);
    summed(&STREAM_VIEWERS, &|stream| stream.viewers);
    summed(&STREAM_LOG_BYTES, &|stream| stream.log_bytes);
    summed(&STREAM_EXPECTS_SEGMENTS, &|stream| u64::from(expects(stream)));

    let mut longest = |family: &Family, what: &dyn Fn(&Stream) -> Option<u64>| {
        let mut series = out.family(family);
        for known in &own {
            if let Some(ms) = what(known) {
                series.add(&[&known.vhost, &known.app, &known.stream], seconds(ms));
            }
        }
        if let Some(ms) = most(what) {
            series.add(&OTHER, seconds(ms));
        }
    };
    longest(&STREAM_SILENT, &|stream| (stream.state == "live").then_some(stream.age_ms));
    longest(&STREAM_SEGMENT_AGE, &|stream| stream.segment_age_ms.filter(|_| expects(stream)));
    longest(&STREAM_SEGMENT_DURATION, &|stream| stream.segment_duration_ms.filter(|_| expects(stream)));
}

/// What a stream can be doing, as [`Stream::state`] says it.
const STREAM_STATES: [&str; 3] = ["live", "waiting", "ended"];
/// The labels of all streams together that have none of their own; no stream has an empty vhost.
const OTHER: [&str; 3] = ["", "", "other"];

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1_000.0
}
