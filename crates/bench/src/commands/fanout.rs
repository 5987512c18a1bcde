//! `bench fanout`: what it costs to send one stream to many viewers.

use crate::arguments::{CompareArgs, ShapeArgs, joined, shape_arguments};
use crate::compare::{Case, Clients, Comparison};
use crate::conclude::conclude;
use crate::namespace;
use crate::pace::Pace;
use crate::peers::{Peer, SERVERS};
use crate::process::Interrupt;
use crate::report::Run;
use crate::viewer::Protocol;
use anyhow::Context;
use clap::Args;
use std::fs;
use std::process::ExitCode;

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
    /// Compare at each of these latencies: low, balanced, frugal or milliseconds; braidcast as configured, the bare loop by flushing that
    /// often [default: braidcast's default, and a round of the bare loop for each frame].
    #[arg(long, value_delimiter = ',')]
    latency: Vec<Pace>,
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

/// Runs it.
pub fn run(args: &FanoutArgs) -> anyhow::Result<ExitCode> {
    let interrupt = Interrupt::install()?;
    if args.inside_namespace {
        namespace::prepare_inside(args.mtu)?;
    }
    // HLS off: no other server here makes segments in this comparison.
    let bench = args.compare.bench(args.shape.shape()?, false)?;
    let servers = args.compare.available(&bench, SERVERS);
    let (viewers, verified) = args.compare.audience(args.viewers, args.verified, 100)?;
    let network = if args.inside_namespace { format!("MTU {}", args.mtu) } else { "loopback".to_owned() };
    let cases = Case::at_paces(Case::all(&servers, &args.protocols), &args.latency);
    let comparison = Comparison { network: &network, ..args.compare.comparison(&bench, cases, Clients::Viewers { viewers, verified }) };
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
    if !args.latency.is_empty() {
        add("latency", joined(&args.latency));
    }
    let compare = &args.compare;
    add("rounds", compare.rounds.to_string());
    add("window", compare.window.to_string());
    add("warm-up", compare.warm_up.to_string());
    add("settle", compare.settle.to_string());
    add("nginx", compare.nginx.display().to_string());
    add("xiu", compare.xiu.display().to_string());
    if let Some(rounds) = compare.peer_rounds {
        add("peer-rounds", rounds.to_string());
    }
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
    if compare.sleeping_load {
        arguments.push("--sleeping-load".into());
    }
    if compare.quick {
        arguments.push("--quick".into());
    }
    arguments.extend(shape_arguments(args.shape.shape()?));
    namespace::run(arguments, &results, interrupt)
}
