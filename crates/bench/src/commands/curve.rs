//! `bench curve`: latency against CPU, of every server at several paces, as a table, a file and a chart.

use crate::arguments::{CompareArgs, ShapeArgs};
use crate::chart;
use crate::compare::{Case, Clients};
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
    let (viewers, verified) = args.compare.audience(args.viewers, args.verified, 100)?;
    let comparison = args.compare.comparison(
        &bench,
        Case::at_paces(Case::all(&servers, &args.protocols), &args.latency),
        Clients::Viewers { viewers, verified },
    );
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
