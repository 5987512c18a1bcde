//! `bench curve`: latency against CPU, of every server at several paces, as a table, a file and a chart.

use crate::arguments::{CompareArgs, ShapeArgs};
use crate::chart;
use crate::compare::{Case, Clients, Comparison};
use crate::conclude::{conclude, results};
use crate::pace::Pace;
use crate::peers::SERVERS;
use crate::process::Interrupt;
use crate::report;
use crate::viewer::Protocol;
use anyhow::Context;
use clap::Args;
use std::fs;
use std::process::ExitCode;
use std::time::Duration;

/// Arguments of `curve`.
#[derive(Clone, Debug, Args)]
pub struct CurveArgs {
    /// Viewers of the one stream.
    #[arg(long, default_value_t = 1000)]
    viewers: usize,
    /// How many of them check every frame.
    #[arg(long, default_value_t = 16)]
    verified: usize,
    /// How viewers connect.
    #[arg(long, value_delimiter = ',', default_values_t = [Protocol::Flv])]
    protocols: Vec<Protocol>,
    /// The points of each curve.
    #[arg(long, value_delimiter = ',', default_values_t = [Pace::Low, Pace::Balanced, Pace::Millis(70), Pace::Millis(150), Pace::Millis(350)])]
    latency: Vec<Pace>,
    #[command(flatten)]
    shape: ShapeArgs,
    #[command(flatten)]
    compare: CompareArgs,
}

/// Runs it.
pub fn run(args: &CurveArgs) -> anyhow::Result<ExitCode> {
    let interrupt = Interrupt::install()?;
    let bench = args.compare.bench(args.shape.shape()?, false)?;
    let servers = args.compare.available(&bench, SERVERS);
    let (viewers, verified) =
        if args.compare.quick { (args.viewers.min(100), args.verified.min(8)) } else { (args.viewers, args.verified) };
    anyhow::ensure!((1..=viewers).contains(&verified), "there must be 1 to {viewers} verified viewers");
    let comparison = Comparison {
        bench: &bench,
        cases: Case::at_paces(Case::all(&servers, &args.protocols), &args.latency),
        rounds: args.compare.rounds(),
        network: "loopback",
        clients: Clients::Viewers { viewers, verified },
        timing: args.compare.timing(),
        sleeping: args.compare.sleeping_load,
        own_warm_up: Duration::ZERO,
        peer_rounds: args.compare.peer_rounds(),
        flames: args.compare.flames.clone(),
    };
    let runs = comparison.run(&interrupt)?;
    let heading = format!("latency against CPU, {viewers} viewers of one stream of {} kbps, {} fps", args.shape.video_kbps, args.shape.fps);
    let outcome = conclude("curve", &heading, &runs, &bench, &servers, args.compare.json.as_deref())?;
    if let Some(drawing) = chart::latency_against_cpu(&heading, &report::rows(&runs)) {
        let path = results("curve", args.compare.json.as_deref());
        for (extension, bytes) in [("svg", drawing.svg().into_bytes()), ("png", drawing.png()?)] {
            let path = path.with_extension(extension);
            fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
            println!("chart: {}", path.display());
        }
    }
    Ok(outcome)
}
