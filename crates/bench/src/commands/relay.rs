//! `bench relay`: what it costs to stand between clients and another RTMP server.

use crate::arguments::{CompareArgs, ShapeArgs};
use crate::compare::{Case, Clients};
use crate::conclude::conclude;
use crate::peers::Peer;
use crate::process::Interrupt;
use crate::viewer::Protocol;
use clap::Args;
use std::process::ExitCode;

/// What stands before another server.
const RELAYS: &[Peer] = &[Peer::BraidcastRelay, Peer::NginxStream];

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

/// Runs it.
pub fn run(args: &RelayArgs) -> anyhow::Result<ExitCode> {
    let interrupt = Interrupt::install()?;
    let bench = args.compare.bench(args.shape.shape()?, false)?;
    let servers = args.compare.available(&bench, RELAYS);
    let (viewers, verified) = args.compare.audience(args.viewers, args.verified, 50)?;
    let comparison = args.compare.comparison(&bench, Case::all(&servers, &[Protocol::Rtmp]), Clients::Viewers { viewers, verified });
    let runs = comparison.run(&interrupt)?;
    let heading = format!("one stream of {} kbps relayed from nginx-rtmp to {viewers} viewers", args.shape.video_kbps);
    conclude("relay", &heading, &runs, &bench, &servers, args.compare.json.as_deref())
}
