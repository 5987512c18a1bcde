//! The command line of `braidcast bench`: arguments to plans, results to standard output and a file.
//!
//! The exit code is about the harness and about frames that verified viewers missed, never about speed.

use crate::bare::{self, Pacing};
use crate::churn;
use crate::compare::{Case, Clients, Comparison, Timing};
use crate::load::{self, LoadPlan, PublishPlan, WatchPlan};
use crate::namespace;
use crate::peers::{Bench, Peer};
use crate::process::{Cores, Interrupt};
use crate::report::{self, Run};
use crate::sink;
use crate::source::Shape;
use crate::viewer::{Protocol, Target};
use crate::viral;
use anyhow::Context;
use clap::{Args, Subcommand};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, ExitCode};
use std::time::Duration;

/// What `braidcast bench` can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Compare what it costs to send one stream to many viewers: braidcast, a bare loop, nginx-rtmp.
    Fanout(FanoutArgs),
    /// Compare what it costs to take in many streams that nobody watches.
    Ingest(IngestArgs),
    /// Compare what it costs to stand between clients and another RTMP server: only the CPU of what stands between counts.
    Relay(RelayArgs),
    /// Let viewers come and go all the time: how long each waits for its first frame, and what it costs.
    Churn(churn::ChurnArgs),
    /// Let thousands come for one stream at once: what those notice who watch others.
    Viral(viral::ViralArgs),
    /// Put load on a server that runs already; prints one JSON report.
    Load(LoadArgs),
    /// The bare loop by itself: one stream to whoever connects, or (--receive) from whoever does, until standard input ends.
    Bare(BareArgs),
}

/// What a stream looks like.
#[derive(Clone, Copy, Debug, Args)]
pub struct ShapeArgs {
    /// Video kilobits (1000 bits) per second.
    #[arg(long, default_value_t = 2500)]
    video_kbps: u64,
    /// Video frames per second.
    #[arg(long, default_value_t = 30)]
    fps: u64,
    /// Frames from one keyframe to the next.
    #[arg(long, default_value_t = 60)]
    gop_frames: u64,
    /// Audio kilobits per second; 0 for none.
    #[arg(long, default_value_t = 0)]
    audio_kbps: u64,
}

impl ShapeArgs {
    fn shape(self) -> anyhow::Result<Shape> {
        let bps = |kbps: u64| kbps.checked_mul(1000).context("the bit rate is too high");
        let shape =
            Shape { video_bps: bps(self.video_kbps)?, fps: self.fps, gop_frames: self.gop_frames, audio_bps: bps(self.audio_kbps)? };
        shape.check()?;
        Ok(shape)
    }
}

/// What all comparisons take.
#[derive(Clone, Debug, Args)]
pub struct CompareArgs {
    /// Rounds of all servers.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Seconds that are measured in each run.
    #[arg(long, default_value_t = 10.0, value_parser = seconds)]
    window: f64,
    /// Seconds before the window, for everything to become steady.
    #[arg(long, default_value_t = 3.0, value_parser = seconds)]
    warm_up: f64,
    /// Seconds from the first frame to the first viewer.
    #[arg(long, default_value_t = 2.0, value_parser = seconds)]
    settle: f64,
    /// Small and short: to see that everything works. The figures mean nothing.
    #[arg(long)]
    quick: bool,
    /// Which servers [default: all that the comparison knows].
    #[arg(long, value_delimiter = ',')]
    servers: Vec<Peer>,
    /// The braidcast binary; else this program itself.
    #[arg(long)]
    braidcast: Option<PathBuf>,
    /// The nginx binary.
    #[arg(long, default_value = "/usr/sbin/nginx")]
    nginx: PathBuf,
    /// A configuration key of braidcast, `section.key=value`; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// The core of the server's processes.
    #[arg(long, default_value_t = 0)]
    server_core: usize,
    /// The core of the load.
    #[arg(long, default_value_t = 1)]
    load_core: usize,
    /// Where to write all figures as JSON [default: target/bench/NAME.json if there is a target directory, else NAME.json].
    #[arg(long, overrides_with = "json")]
    json: Option<PathBuf>,
}

/// The servers that send to viewers and take in from publishers.
const SERVERS: &[Peer] = &[Peer::Bare, Peer::Braidcast, Peer::NginxRtmp];
/// Those that stand before another server.
const RELAYS: &[Peer] = &[Peer::BraidcastRelay, Peer::NginxStream];

/// A tenth of a core: a machine that is idle but for the bench stays well below.
const TOLERATED_FOREIGN_CORES: f64 = 0.1;

/// A number of seconds that makes sense here.
pub(crate) fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("must be 0.1 to 3600 seconds".to_owned()),
    }
}

impl CompareArgs {
    fn bench(&self, shape: Shape, hls: bool) -> anyhow::Result<Bench> {
        let braidcast = match &self.braidcast {
            Some(path) => path.clone(),
            None => std::env::current_exe().context("cannot tell where this program is")?,
        };
        let cores = Cores { server: self.server_core, load: self.load_core };
        cores.pin()?;
        Ok(Bench { braidcast, nginx: self.nginx.clone(), cores, shape, settings: self.settings.clone(), hls })
    }

    fn timing(&self) -> Timing {
        let [settle, warm_up, window] =
            if self.quick { [0.5, 0.5, 2.0] } else { [self.settle, self.warm_up, self.window] }.map(Duration::from_secs_f64);
        Timing { settle, warm_up, window }
    }

    fn rounds(&self) -> u32 {
        if self.quick { 1 } else { self.rounds }
    }

    /// The servers that are there; says which are not.
    fn available(&self, bench: &Bench, known: &[Peer]) -> Vec<Peer> {
        let there = |server: &Peer| match bench.missing(*server) {
            None => true,
            Some(reason) => {
                eprintln!("{} is left out: {reason}", server.name());
                false
            }
        };
        let wanted = |server: &Peer| self.servers.is_empty() || self.servers.contains(server);
        known.iter().copied().filter(wanted).filter(there).collect()
    }
}

/// Arguments of `fanout`.
#[derive(Clone, Debug, Args)]
pub struct FanoutArgs {
    /// Viewers of the one stream.
    #[arg(long, default_value_t = 1000)]
    viewers: usize,
    /// How many of them check every frame.
    #[arg(long, default_value_t = 16)]
    verified: usize,
    /// How viewers connect.
    #[arg(long, value_delimiter = ',', default_values_t = [Protocol::Flv, Protocol::Rtmp])]
    protocols: Vec<Protocol>,
    /// Compare a second time in a network namespace with this MTU; 0: do not.
    #[arg(long, default_value_t = 1500, value_parser = clap::value_parser!(u32).range(0..=65536))]
    mtu: u32,
    /// This process is in that namespace already.
    #[arg(long, hide = true)]
    inside_namespace: bool,
    #[command(flatten)]
    shape: ShapeArgs,
    #[command(flatten)]
    compare: CompareArgs,
}

/// Arguments of `ingest`.
#[derive(Clone, Debug, Args)]
pub struct IngestArgs {
    /// Publishers, each of a stream of its own.
    #[arg(long, default_value_t = 300)]
    publishers: usize,
    /// Have servers make HLS segments of every stream.
    #[arg(long)]
    hls: bool,
    /// Video kilobits (1000 bits) per second of each stream, at 30 frames.
    #[arg(long, default_value_t = 1000)]
    kbps: u64,
    #[command(flatten)]
    compare: CompareArgs,
}

/// Arguments of `relay`.
#[derive(Clone, Debug, Args)]
pub struct RelayArgs {
    /// Viewers of the one stream, by RTMP.
    #[arg(long, default_value_t = 200)]
    viewers: usize,
    /// How many of them check every frame.
    #[arg(long, default_value_t = 16)]
    verified: usize,
    #[command(flatten)]
    shape: ShapeArgs,
    #[command(flatten)]
    compare: CompareArgs,
}

/// Arguments of `load`.
#[derive(Clone, Debug, Args)]
pub struct LoadArgs {
    /// Publish to this RTMP address; without it the stream must be there.
    #[arg(long)]
    publish: Option<SocketAddr>,
    /// Streams to publish; the first is watched.
    #[arg(long, default_value_t = 1)]
    publishers: usize,
    /// Watch at this address; without it nobody watches.
    #[arg(long)]
    watch: Option<SocketAddr>,
    /// How viewers connect.
    #[arg(long, default_value_t = Protocol::Flv)]
    protocol: Protocol,
    /// Viewers.
    #[arg(long, default_value_t = 1000)]
    viewers: usize,
    /// How many of them check every frame.
    #[arg(long, default_value_t = 16)]
    verified: usize,
    /// The application.
    #[arg(long, default_value = "live")]
    app: String,
    /// The stream.
    #[arg(long, default_value = "bench")]
    stream: String,
    /// Seconds that are measured.
    #[arg(long, default_value_t = 10.0, value_parser = seconds)]
    window: f64,
    /// Seconds from the last viewer's first byte to the window.
    #[arg(long, default_value_t = 2.0, value_parser = seconds)]
    warm_up: f64,
    /// The server's process, to account for it and its descendants.
    #[arg(long)]
    server_pid: Option<u32>,
    #[command(flatten)]
    shape: ShapeArgs,
}

/// Arguments of `bare`.
#[derive(Clone, Debug, Args)]
pub struct BareArgs {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Milliseconds from one round of sends to the next at least; 0: a round for each frame.
    #[arg(long, default_value_t = 0)]
    flush_ms: u64,
    /// The other direction: take in and forget whatever comes.
    #[arg(long)]
    receive: bool,
    /// With --receive: milliseconds of rest after each round of reads.
    #[arg(long, default_value_t = 0)]
    pause_ms: u64,
    #[command(flatten)]
    shape: ShapeArgs,
}

/// Runs a command. An error is the harness's; the exit code tells of failed runs and of missed frames.
pub fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Fanout(args) => fanout(&args),
        Command::Ingest(args) => ingest(&args),
        Command::Relay(args) => relay(&args),
        Command::Churn(args) => churn::run(&args),
        Command::Viral(args) => viral::run(&args),
        Command::Load(args) => load(&args),
        Command::Bare(args) if args.receive => {
            sink::run(args.listen, Duration::from_millis(args.pause_ms))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Bare(args) => {
            let pacing = Pacing { shape: args.shape.shape()?, flush: Duration::from_millis(args.flush_ms) };
            bare::run(args.listen, pacing)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn fanout(args: &FanoutArgs) -> anyhow::Result<ExitCode> {
    let interrupt = Interrupt::install()?;
    if args.inside_namespace {
        namespace::prepare_inside(args.mtu)?;
    }
    // HLS off: no other server here makes segments in this comparison.
    let bench = args.compare.bench(args.shape.shape()?, false)?;
    let servers = args.compare.available(&bench, SERVERS);
    let (viewers, verified) =
        if args.compare.quick { (args.viewers.min(100), args.verified.min(8)) } else { (args.viewers, args.verified) };
    anyhow::ensure!((1..=viewers).contains(&verified), "there must be 1 to {viewers} verified viewers");
    let network = if args.inside_namespace { format!("MTU {}", args.mtu) } else { "loopback".to_owned() };
    let comparison = Comparison {
        bench: &bench,
        cases: Case::all(&servers, &args.protocols),
        rounds: args.compare.rounds(),
        network: &network,
        clients: Clients::Viewers { viewers, verified },
        timing: args.compare.timing(),
    };
    let mut runs = comparison.run(&interrupt)?;
    if args.inside_namespace {
        let results = args.compare.json.as_deref().context("inside the namespace, --json says where the runs go")?;
        fs::write(results, serde_json::to_vec(&runs)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    if args.mtu > 0 {
        match fanout_in_namespace(args, &interrupt) {
            Ok(more) => runs.extend(more),
            Err(error) => {
                interrupt.check()?;
                // What was measured so far is not lost for it.
                runs.push(Run::failed(&format!("MTU {}", args.mtu), Peer::Braidcast, Protocol::Flv, &error));
            }
        }
    }
    let heading = format!("{viewers} viewers of one stream of {} kbps, {} fps, {verified} verified", args.shape.video_kbps, args.shape.fps);
    conclude("fanout", &heading, &runs, &bench, &servers, args.compare.json.as_deref())
}

fn fanout_in_namespace(args: &FanoutArgs, interrupt: &Interrupt) -> anyhow::Result<Vec<Run>> {
    if let Some(reason) = namespace::unavailable() {
        eprintln!("MTU {} is left out: {reason}", args.mtu);
        return Ok(Vec::new());
    }
    let directory = tempfile::tempdir().context("no temporary directory")?;
    let results = directory.path().join("runs.json");
    let mut arguments: Vec<String> = vec!["--inside-namespace".into()];
    let mut add = |name: &str, value: String| arguments.extend([format!("--{name}"), value]);
    add("mtu", args.mtu.to_string());
    add("viewers", args.viewers.to_string());
    add("verified", args.verified.to_string());
    add("protocols", joined(&args.protocols));
    let compare = &args.compare;
    add("rounds", compare.rounds.to_string());
    add("window", compare.window.to_string());
    add("warm-up", compare.warm_up.to_string());
    add("settle", compare.settle.to_string());
    add("nginx", compare.nginx.display().to_string());
    add("server-core", compare.server_core.to_string());
    add("load-core", compare.load_core.to_string());
    add("json", results.display().to_string());
    if !compare.servers.is_empty() {
        add("servers", joined(&compare.servers));
    }
    for setting in &compare.settings {
        add("set", setting.clone());
    }
    if let Some(path) = &compare.braidcast {
        add("braidcast", path.display().to_string());
    }
    if compare.quick {
        arguments.push("--quick".into());
    }
    arguments.extend(shape_arguments(args.shape.shape()?));
    namespace::run(arguments, &results, interrupt)
}

fn ingest(args: &IngestArgs) -> anyhow::Result<ExitCode> {
    let interrupt = Interrupt::install()?;
    let shape = ShapeArgs { video_kbps: args.kbps, fps: 30, gop_frames: 60, audio_kbps: 0 }.shape()?;
    let bench = args.compare.bench(shape, args.hls)?;
    let servers = args.compare.available(&bench, SERVERS);
    let publishers = if args.compare.quick { args.publishers.min(20) } else { args.publishers };
    let comparison = Comparison {
        bench: &bench,
        cases: servers.iter().map(|&server| Case { server, protocol: Protocol::Rtmp }).collect(),
        rounds: args.compare.rounds(),
        network: "loopback",
        clients: Clients::Publishers(publishers),
        timing: args.compare.timing(),
    };
    let runs = comparison.run(&interrupt)?;
    let heading = format!("{publishers} publishers of {} kbps each, HLS {}", args.kbps, if args.hls { "on" } else { "off" });
    conclude("ingest", &heading, &runs, &bench, &servers, args.compare.json.as_deref())
}

fn relay(args: &RelayArgs) -> anyhow::Result<ExitCode> {
    let interrupt = Interrupt::install()?;
    let bench = args.compare.bench(args.shape.shape()?, false)?;
    let servers = args.compare.available(&bench, RELAYS);
    let (viewers, verified) = if args.compare.quick { (args.viewers.min(50), args.verified.min(8)) } else { (args.viewers, args.verified) };
    anyhow::ensure!((1..=viewers).contains(&verified), "there must be 1 to {viewers} verified viewers");
    let comparison = Comparison {
        bench: &bench,
        cases: Case::all(&servers, &[Protocol::Rtmp]),
        rounds: args.compare.rounds(),
        network: "loopback",
        clients: Clients::Viewers { viewers, verified },
        timing: args.compare.timing(),
    };
    let runs = comparison.run(&interrupt)?;
    let heading = format!("one stream of {} kbps relayed from nginx-rtmp to {viewers} viewers", args.shape.video_kbps);
    conclude("relay", &heading, &runs, &bench, &servers, args.compare.json.as_deref())
}

fn load(args: &LoadArgs) -> anyhow::Result<ExitCode> {
    let interrupt = Interrupt::install()?;
    anyhow::ensure!((1..=args.viewers).contains(&args.verified), "there must be 1 to {} verified viewers", args.viewers);
    let watch = |address| WatchPlan { target: Target { protocol: args.protocol, address }, viewers: args.viewers, verified: args.verified };
    let plan = LoadPlan {
        app: args.app.clone(),
        stream: args.stream.clone(),
        shape: args.shape.shape()?,
        publish: args.publish.map(|address| PublishPlan { address, publishers: args.publishers, plain: false }),
        watch: args.watch.map(watch),
        settle: Duration::from_secs(1),
        warm_up: Duration::from_secs_f64(args.warm_up),
        window: Duration::from_secs_f64(args.window),
        server: args.server_pid,
        behind: None,
    };
    let report = load::run(&plan, &interrupt)?;
    println!("{}", serde_json::to_string_pretty(&report)?);
    Ok(if report.faults.total() > 0 || report.lost > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Prints the table, writes the file, and judges the runs (not the figures).
fn conclude(name: &str, heading: &str, runs: &[Run], bench: &Bench, servers: &[Peer], json: Option<&Path>) -> anyhow::Result<ExitCode> {
    let rows = report::rows(runs);
    println!("\n{heading}; medians of {} rounds; GB = 10^9 bytes\n", runs.iter().map(|run| run.round).max().unwrap_or(0));
    print!("{}", report::table(&rows));
    let versions: serde_json::Map<_, _> = servers.iter().map(|server| (server.name().to_owned(), bench.version(*server).into())).collect();
    let file = serde_json::json!({
        "bench": name, "what": heading, "machine": report::machine(), "versions": versions,
        "shape": bench.shape, "cores": bench.cores, "rows": rows, "runs": runs,
    });
    let path = json.map_or_else(|| default_results(name), Path::to_owned);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(&path, serde_json::to_vec_pretty(&file)?).with_context(|| format!("cannot write {}", path.display()))?;
    println!("\nall figures: {}", path.display());

    let busiest = rows.iter().filter_map(|row| row.foreign_cores).map(|cores| cores.greatest).fold(0.0, f64::max);
    if busiest > TOLERATED_FOREIGN_CORES {
        println!("the machine was busy with something else ({busiest:.2} cores at the worst): latencies and ratios suffer");
    }
    let failed = runs.iter().filter(|run| run.error.is_some()).count();
    let missed: Vec<&Run> = runs.iter().filter(|run| run.has_misses()).collect();
    for run in &missed {
        let Some(report) = &run.report else { continue };
        let which = format!("{} round {}, {} by {}", run.network, run.round, run.server.name(), run.protocol);
        println!(
            "MISSED: {which}: {:?}, {} viewers unanswered, {} lost {:?}",
            report.faults, report.unanswered, report.lost, report.first_loss
        );
    }
    if failed > 0 {
        println!("{failed} of {} runs failed", runs.len());
    }
    Ok(if failed > 0 || !missed.is_empty() || runs.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Where figures go if nothing is said: out of the way in a source tree, else right here.
pub(crate) fn default_results(name: &str) -> PathBuf {
    let directory = if Path::new("target").is_dir() { "target/bench" } else { "." };
    Path::new(directory).join(format!("{name}.json"))
}

/// This program, about to run another command of this crate: with the words that stood before the command given to it.
pub(crate) fn own_command(name: &str) -> Process {
    let names = ["fanout", "ingest", "relay", "churn", "viral", "load", "bare"];
    let words: Vec<String> = std::env::args().skip(1).take_while(|word| !names.contains(&word.as_str())).collect();
    let mut command = Process::new(std::env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into()));
    command.args(words).arg(name);
    command
}

/// The arguments that make [`ShapeArgs`] of a shape.
pub(crate) fn shape_arguments(shape: Shape) -> Vec<String> {
    let numbers = [
        ("--video-kbps", shape.video_bps / 1000),
        ("--fps", shape.fps),
        ("--gop-frames", shape.gop_frames),
        ("--audio-kbps", shape.audio_bps / 1000),
    ];
    numbers.into_iter().flat_map(|(name, number)| [name.to_owned(), number.to_string()]).collect()
}

fn joined(values: &[impl std::fmt::Display]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}
