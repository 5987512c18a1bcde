//! `bench publish` and `bench play`: load on a server that runs already, of one kind or mixed.
//!
//! The clock in the media is this machine's: latency is told when publisher and viewers are in the same run, or on the same machine.

use crate::arguments::{ShapeArgs, seconds};
use crate::load::{self, LoadPlan, LoadReport, PublishPlan, WatchPlan};
use crate::process::Interrupt;
use crate::url::{Audience, StreamUrl};
use crate::viewer::{Protocol, Target};
use anyhow::Context;
use clap::Args;
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// What both take.
#[derive(Clone, Debug, Args)]
pub struct LoadArgs {
    /// Seconds that are measured.
    #[arg(long, default_value_t = 10.0, value_parser = seconds)]
    window: f64,
    /// Seconds before the window, for everything to become steady.
    #[arg(long, default_value_t = 2.0, value_parser = seconds)]
    warm_up: f64,
    /// The server's process if it is on this machine, to account for it and its descendants.
    #[arg(long)]
    server_pid: Option<u32>,
    /// Draw where that process's CPU went into this file (SVG); takes perf.
    #[arg(long, requires = "server_pid")]
    flame: Option<PathBuf>,
    /// Never sleep while viewers are measured: only useful if the server is on this machine, and this program has a core to itself.
    #[arg(long)]
    awake: bool,
    /// Where to write all figures as JSON; `-`: to standard output instead of the table.
    #[arg(long)]
    json: Option<PathBuf>,
    #[command(flatten)]
    shape: ShapeArgs,
}

/// Arguments of `publish`.
#[derive(Clone, Debug, Args)]
pub struct PublishArgs {
    /// Where to: rtmp://host[:port]/app/stream[?query].
    url: StreamUrl,
    /// Streams; all but the first have a number after their name.
    #[arg(long, default_value_t = 1)]
    streams: usize,
    #[command(flatten)]
    load: LoadArgs,
}

/// Arguments of `play`.
#[derive(Clone, Debug, Args)]
pub struct PlayArgs {
    /// What to watch, and how many of the viewers do so: rtmp://host/app/stream[=COUNT], http://host/app/stream.flv[=COUNT]. Several
    /// make a mixed audience of one stream.
    #[arg(required = true)]
    urls: Vec<Audience>,
    /// Viewers of each address that has no count.
    #[arg(long, default_value_t = 100)]
    viewers: usize,
    /// How many of each address check every frame; the stream must be one of this program's.
    #[arg(long, default_value_t = 8)]
    verified: usize,
    /// Publish the stream as well: rtmp://host[:port]/app/stream[?query].
    #[arg(long)]
    publish: Option<StreamUrl>,
    /// Streams to publish; the first is watched.
    #[arg(long, default_value_t = 1, requires = "publish")]
    streams: usize,
    #[command(flatten)]
    load: LoadArgs,
}

/// Runs `publish`.
pub fn publish(args: &PublishArgs) -> anyhow::Result<ExitCode> {
    run(&args.load, Some((&args.url, args.streams)), &[])
}

/// Runs `play`.
pub fn play(args: &PlayArgs) -> anyhow::Result<ExitCode> {
    let mut watch = Vec::new();
    for Audience { url, viewers } in &args.urls {
        let viewers = viewers.unwrap_or(args.viewers);
        anyhow::ensure!(viewers > 0, "there must be at least one viewer");
        watch.push((url, viewers, args.verified.min(viewers)));
    }
    run(&args.load, args.publish.as_ref().map(|url| (url, args.streams)), &watch)
}

fn run(args: &LoadArgs, publish: Option<(&StreamUrl, usize)>, watch: &[(&StreamUrl, usize, usize)]) -> anyhow::Result<ExitCode> {
    let interrupt = Interrupt::install()?;
    let watched = watch.first().map(|(url, _, _)| *url);
    let published = publish.map(|(url, _)| url);
    if let Some(url) = published {
        anyhow::ensure!(url.protocol == Protocol::Rtmp, "publishing takes an rtmp:// address");
    }
    let first = watched.or(published).context("neither publisher nor viewer")?;
    let name = |url: &StreamUrl| (url.app.clone(), url.stream.split('?').next().unwrap_or_default().to_owned());
    for other in watch.iter().map(|(url, _, _)| *url).chain(published) {
        anyhow::ensure!(name(other) == name(first), "all addresses must name the same stream: {} and {}", first.stream, other.stream);
    }
    let audience = |&(url, viewers, verified): &(&StreamUrl, usize, usize)| {
        let target = Target { protocol: url.protocol, address: url.address()? };
        anyhow::Ok(WatchPlan { target, viewers, verified, stream: url.stream.clone(), streams: 1 })
    };
    let plan = LoadPlan {
        app: first.app.clone(),
        stream: published.unwrap_or(first).stream.clone(),
        shape: args.shape.shape()?,
        publish: publish
            .map(|(url, publishers)| anyhow::Ok(PublishPlan { address: url.address()?, publishers, plain: false }))
            .transpose()?,
        watch: watch.iter().map(audience).collect::<Result<_, _>>()?,
        settle: Duration::from_secs(1),
        warm_up: Duration::from_secs_f64(args.warm_up),
        window: Duration::from_secs_f64(args.window),
        server: args.server_pid,
        behind: None,
        sleeping: !args.awake,
        tell: true,
        flame: args.flame.clone(),
    };
    let report = load::run(&plan, &interrupt)?;
    let json = serde_json::to_string_pretty(&report)?;
    match &args.json {
        Some(path) if path.as_os_str() == "-" => println!("{json}"),
        Some(path) => {
            fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))?;
            print!("{}", told(&report, &plan));
        }
        None => print!("{}", told(&report, &plan)),
    }
    let bad = report.faults.total() > 0 || report.lost > 0 || report.unanswered > 0;
    Ok(if bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The report for people.
fn told(report: &LoadReport, plan: &LoadPlan) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<22}{value}");
    };
    let mbps = |bytes: u64| format!("{:.1} Mbit/s", bytes as f64 * 8.0 / report.window_s / 1e6);
    if report.published_bytes > 0 {
        line("published", format!("{}, at the latest {:.1} ms after it was due", mbps(report.published_bytes), report.publish_late_ms));
    }
    if !plan.watch.is_empty() {
        let asked = report.delivered_share * 100.0;
        line(
            "delivered",
            format!("{}, {asked:.1} % of the rate, {:.1} % to the worst", mbps(report.delivered_bytes), report.least_share * 100.0),
        );
        line("latency", latency(report.latency_p50_ms, report.latency_p99_ms));
        let faults = report.faults;
        line(
            "verified frames",
            format!("{}: {} missed, {} stale, {} corrupt", report.verified_frames, faults.missed, faults.stale, faults.corrupt),
        );
        line("viewers lost", format!("{} lost, {} without an answer", report.lost, report.unanswered));
    }
    for part in &report.parts {
        let what = format!("  {} by {}", part.viewers, part.protocol);
        let latency = latency(part.latency_p50_ms, part.latency_p99_ms);
        line(&what, format!("{:.1} % of the rate, {latency}, {} missed", part.delivered_share * 100.0, part.faults.total()));
    }
    if let Some(cpu) = report.server_cpu_s {
        let bytes = report.delivered_bytes.max(report.published_bytes) as f64;
        line("server's CPU", format!("{:.1} % of a core, {:.2} CPU-s/GB", cpu / report.window_s * 100.0, cpu / bytes * 1e9));
    }
    if let (Some(before), Some(after)) = (report.memory_before, report.memory_after) {
        let each = (after.pss as f64 - before.pss as f64) / 1024.0 / report.memory_clients.max(1) as f64;
        line("server's memory", format!("{} MiB, {each:.1} KiB more for each client", after.pss >> 20));
    }
    line("this program", format!("{:.0} % of a core", report.load_cpu_s / report.window_s * 100.0));
    if let Some(loss) = &report.first_loss {
        line("the first loss", loss.clone());
    }
    text
}

fn latency(p50: Option<f64>, p99: Option<f64>) -> String {
    match (p50, p99) {
        (Some(p50), Some(p99)) => format!("p50 {p50:.1} ms, p99 {p99:.1} ms"),
        _ => "not known (no frame of this program's)".to_owned(),
    }
}
