//! `bench scale`: what braidcast spends with more and more workers, more of them than its core too: one hot stream that all workers serve,
//! and thousands of small streams. CPU per GB, and what workers do to each other: wake-ups, and writes to memory that others look at.

use crate::arguments::{CompareArgs, ShapeArgs, joined};
use crate::compare::Clients;
use crate::conclude::{self, TOLERATED_FOREIGN_CORES};
use crate::load::{self, LoadPlan, LoadReport, Moment, PublishPlan, WatchPlan};
use crate::peers::{Bench, Peer};
use crate::process::Interrupt;
use crate::report::{self, Spread, machine};
use crate::viewer::{Protocol, Target};
use anyhow::Context;
use clap::{Args, ValueEnum};
use std::path::Path;
use std::process::{Command, ExitCode};

/// Arguments of `scale`.
#[derive(Clone, Debug, Args)]
pub struct ScaleArgs {
    /// With how many workers.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 4, 8])]
    workers: Vec<u16>,
    /// Which cases.
    #[arg(long, value_delimiter = ',', default_values_t = [Case::Hot, Case::Many])]
    cases: Vec<Case>,
    /// `hot`: viewers of the one stream for each worker: the load grows with the workers.
    #[arg(long, default_value_t = 100)]
    viewers_per_worker: usize,
    /// `hot`: viewers of the one stream in all, however many workers there are; instead of `--viewers-per-worker`.
    #[arg(long)]
    viewers: Option<usize>,
    /// `hot`: video kilobits (1000 bits) per second, at 30 frames.
    #[arg(long, default_value_t = 2500)]
    kbps: u64,
    /// `many`: streams, each with a publisher and a viewer.
    #[arg(long, default_value_t = 3000)]
    streams: usize,
    /// `many`: video kilobits (1000 bits) per second of each stream.
    #[arg(long, default_value_t = 100)]
    many_kbps: u64,
    /// `many`: frames per second of each stream.
    #[arg(long, default_value_t = 10)]
    many_fps: u64,
    /// How viewers connect.
    #[arg(long, default_value_t = Protocol::Flv)]
    protocol: Protocol,
    #[command(flatten)]
    compare: CompareArgs,
}

/// What is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Case {
    /// One stream, watched at every worker.
    Hot,
    /// Many small streams, each watched by one.
    Many,
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Hot => "hot",
            Self::Many => "many",
        })
    }
}

/// What the workers have counted, all together.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
struct Counts {
    bytes_out: u64,
    wake_ups: u64,
    doorbell_rings: u64,
    shared_writes: u64,
}

impl Counts {
    /// From `braidcast status --json`.
    fn read(bench: &Bench, shared_dir: &Path) -> anyhow::Result<Self> {
        let output = Command::new(&bench.braidcast).args(["status", "--json", "--shared-dir"]).arg(shared_dir).output()?;
        anyhow::ensure!(output.status.success(), "braidcast status: {}", String::from_utf8_lossy(&output.stderr));
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).context("what braidcast status says")?;
        let workers = status["workers"].as_array().context("no workers in the status")?;
        let sum = |name: &str| workers.iter().map(|worker| worker["counters"][name].as_u64().unwrap_or(0)).sum();
        Ok(Self {
            bytes_out: sum("bytes_out"),
            wake_ups: sum("wake_ups"),
            doorbell_rings: sum("doorbell_rings"),
            shared_writes: sum("shared_writes"),
        })
    }

    fn since(self, earlier: Self) -> Self {
        Self {
            bytes_out: self.bytes_out - earlier.bytes_out,
            wake_ups: self.wake_ups - earlier.wake_ups,
            doorbell_rings: self.doorbell_rings - earlier.doorbell_rings,
            shared_writes: self.shared_writes - earlier.shared_writes,
        }
    }
}

/// One server, measured once.
#[derive(Clone, Debug, serde::Serialize)]
struct Run {
    case: Case,
    workers: u16,
    round: u32,
    report: LoadReport,
    counts: Counts,
}

impl Run {
    fn per_gb(&self, count: u64) -> f64 {
        count as f64 / (self.counts.bytes_out.max(1) as f64 / 1e9)
    }

    fn cpu_s_per_gb(&self) -> f64 {
        self.report.server_cpu_s.unwrap_or(0.0) / (self.report.delivered_bytes.max(1) as f64 / 1e9)
    }

    fn has_misses(&self) -> bool {
        self.report.faults.total() + self.report.lost + self.report.unanswered > 0
    }
}

/// A case with some number of workers: medians, least and greatest.
#[derive(Clone, Debug, serde::Serialize)]
struct Row {
    case: Case,
    workers: u16,
    runs: usize,
    cpu_s_per_gb: Option<Spread>,
    /// CPU per GB over that with the fewest workers, in the same round.
    ratio: Option<Spread>,
    wake_ups_per_gb: Option<Spread>,
    rings_per_gb: Option<Spread>,
    shared_writes_per_gb: Option<Spread>,
    latency_p50_ms: Option<Spread>,
    latency_p99_ms: Option<Spread>,
    delivered_share: Option<Spread>,
    server_load: Option<Spread>,
    missed: u64,
}

/// Runs it.
pub fn run(args: &ScaleArgs) -> anyhow::Result<ExitCode> {
    let interrupt = Interrupt::install()?;
    let mut runs = Vec::new();
    let mut failed = 0;
    for round in 1..=args.compare.rounds() {
        for &case in &args.cases {
            for &workers in &args.workers {
                let name = format!("round {round}/{}: {case} with {workers} workers", args.compare.rounds());
                match args.measure(case, workers, round, &interrupt) {
                    Ok(run) => {
                        eprintln!("{name}: {:.3} CPU-s/GB, {:.0} rings/GB", run.cpu_s_per_gb(), run.per_gb(run.counts.doorbell_rings));
                        runs.push(run);
                    }
                    Err(error) => {
                        interrupt.check()?;
                        eprintln!("{name}: FAILED: {error:#}");
                        failed += 1;
                    }
                }
            }
        }
    }
    conclude(args, &runs, failed)
}

impl ScaleArgs {
    fn measure(&self, case: Case, workers: u16, round: u32, interrupt: &Interrupt) -> anyhow::Result<Run> {
        let quick = self.compare.quick;
        let (kbps, fps) = if case == Case::Hot { (self.kbps, 30) } else { (self.many_kbps, self.many_fps) };
        let shape = ShapeArgs { video_kbps: kbps, fps, gop_frames: 2 * fps, audio_kbps: 0 }.shape()?;
        let bench = Bench { workers, ..self.compare.bench(shape, false)? };
        let (streams, viewers) = match case {
            Case::Hot => (1, self.viewers.unwrap_or(self.viewers_per_worker * usize::from(workers))),
            Case::Many => (self.streams, self.streams),
        };
        let (streams, viewers) = if quick { (streams.min(50), viewers.min(50)) } else { (streams, viewers) };
        let mut server = bench.start(Peer::Braidcast, None, Clients::Viewers { viewers, verified: 0 }, interrupt)?;
        let (rtmp, http) = (server.rtmp.context("it takes no RTMP")?, server.http.context("it serves no HTTP")?);
        let target = Target { protocol: self.protocol, address: if self.protocol == Protocol::Flv { http } else { rtmp } };
        let timing = self.compare.timing();
        let plan = LoadPlan {
            app: "live".to_owned(),
            stream: "bench".to_owned(),
            shape,
            publish: Some(PublishPlan { address: rtmp, publishers: streams, plain: false }),
            watch: vec![WatchPlan { target, viewers, verified: viewers.min(32), stream: "bench".to_owned(), streams }],
            settle: timing.settle,
            warm_up: timing.warm_up,
            window: timing.window,
            server: Some(server.root()),
            behind: None,
            sleeping: self.compare.sleeping_load,
            flame: None,
            tell: false,
        };
        let (mut before, mut after) = (Counts::default(), Counts::default());
        let shared_dir = server.shared_dir();
        let report = load::run_with(&plan, interrupt, |moment| {
            *(if moment == Moment::Begin { &mut before } else { &mut after }) = Counts::read(&bench, &shared_dir)?;
            Ok(())
        });
        server.check()?;
        let report = report.with_context(|| format!("its server's last words:\n{}", server.last_words()))?;
        Ok(Run { case, workers, round, report, counts: after.since(before) })
    }
}

fn rows(args: &ScaleArgs, runs: &[Run]) -> Vec<Row> {
    let mut rows = Vec::new();
    for &case in &args.cases {
        let least = args.workers.iter().min().copied().unwrap_or(1);
        for &workers in &args.workers {
            let of: Vec<&Run> = runs.iter().filter(|run| (run.case, run.workers) == (case, workers)).collect();
            let base = |run: &Run| runs.iter().find(|base| (base.case, base.workers, base.round) == (case, least, run.round));
            let spread = |figure: &dyn Fn(&Run) -> Option<f64>| Spread::of(of.iter().filter_map(|run| figure(run)));
            rows.push(Row {
                case,
                workers,
                runs: of.len(),
                cpu_s_per_gb: spread(&|run| Some(run.cpu_s_per_gb())),
                ratio: spread(&|run| Some(run.cpu_s_per_gb() / base(run)?.cpu_s_per_gb())),
                wake_ups_per_gb: spread(&|run| Some(run.per_gb(run.counts.wake_ups))),
                rings_per_gb: spread(&|run| Some(run.per_gb(run.counts.doorbell_rings))),
                shared_writes_per_gb: spread(&|run| Some(run.per_gb(run.counts.shared_writes))),
                latency_p50_ms: spread(&|run| run.report.latency_p50_ms),
                latency_p99_ms: spread(&|run| run.report.latency_p99_ms),
                delivered_share: spread(&|run| Some(run.report.delivered_share)),
                server_load: spread(&|run| Some(run.report.server_cpu_s? / run.report.window_s)),
                missed: of.iter().map(|run| run.report.faults.total() + run.report.lost + run.report.unanswered).sum(),
            });
        }
    }
    rows
}

fn table(rows: &[Row]) -> String {
    let mut text = format!(
        "{:<5} {:>7}  {:>20}  {:>18}  {:>11}  {:>9}  {:>16}  {:>7}  {:>7}  {:>9}  {:>9}  {:>6}\n",
        "case",
        "workers",
        "CPU-s/GB (least-most)",
        "x fewest workers",
        "wake-ups/GB",
        "rings/GB",
        "shared writes/GB",
        "p50 ms",
        "p99 ms",
        "delivered",
        "core used",
        "missed"
    );
    for row in rows {
        let figure =
            |spread: Option<Spread>, decimals: usize| spread.map_or("-".to_owned(), |spread| format!("{:.decimals$}", spread.median));
        let range = |spread: Option<Spread>| {
            spread.map_or("-".to_owned(), |spread| format!("{:.2} ({:.2}-{:.2})", spread.median, spread.least, spread.greatest))
        };
        let percent = |spread: Option<Spread>| spread.map_or("-".to_owned(), |spread| format!("{:.1} %", spread.median * 100.0));
        text += &format!(
            "{:<5} {:>7}  {:>21}  {:>18}  {:>11}  {:>9}  {:>16}  {:>7}  {:>7}  {:>9}  {:>9}  {:>6}\n",
            row.case,
            row.workers,
            range(row.cpu_s_per_gb),
            range(row.ratio),
            figure(row.wake_ups_per_gb, 0),
            figure(row.rings_per_gb, 0),
            figure(row.shared_writes_per_gb, 0),
            figure(row.latency_p50_ms, 1),
            figure(row.latency_p99_ms, 1),
            percent(row.delivered_share),
            percent(row.server_load),
            row.missed
        );
    }
    text
}

/// Prints the table, writes the file, and judges the runs (not the figures).
fn conclude(args: &ScaleArgs, runs: &[Run], failed: usize) -> anyhow::Result<ExitCode> {
    let rows = rows(args, runs);
    let viewers = args.viewers.map_or_else(|| format!("{} for each worker", args.viewers_per_worker), |viewers| viewers.to_string());
    let what = format!(
        "hot: viewers of one stream of {} kbps, {viewers}; many: {} streams of {} kbps with a viewer each; workers {} on one core",
        args.kbps,
        args.streams,
        args.many_kbps,
        joined(&args.workers)
    );
    let table = table(&rows);
    println!("\n{what}; medians of {} rounds; GB = 10^9 bytes\n", args.compare.rounds());
    print!("{table}");
    let file = serde_json::json!({
        "bench": "scale", "what": what, "command": report::command(), "date": report::today(), "machine": machine(),
        "table": table, "rows": rows, "runs": runs,
    });
    conclude::write("scale", args.compare.json.as_deref(), &file)?;
    let busiest = runs.iter().map(|run| run.report.foreign_cores).fold(0.0, f64::max);
    if busiest > TOLERATED_FOREIGN_CORES {
        println!("the machine was busy with something else ({busiest:.2} cores at the worst): latencies and ratios suffer");
    }
    let missed: Vec<&Run> = runs.iter().filter(|run| run.has_misses()).collect();
    for run in &missed {
        let report = &run.report;
        println!(
            "MISSED: {} with {} workers, round {}: {:?}, {} viewers unanswered, {} lost {:?}",
            run.case, run.workers, run.round, report.faults, report.unanswered, report.lost, report.first_loss
        );
    }
    if failed > 0 {
        println!("{failed} runs failed");
    }
    Ok(if failed > 0 || !missed.is_empty() || runs.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
