//! `bench bare`: the bare loops by themselves, as a comparison starts them.

use crate::arguments::ShapeArgs;
use crate::bare::{self, Pacing};
use crate::sink;
use clap::Args;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

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

/// Runs it.
pub fn run(args: &BareArgs) -> anyhow::Result<ExitCode> {
    if args.receive {
        sink::run(args.listen, Duration::from_millis(args.pause_ms))?;
    } else {
        bare::run(args.listen, Pacing { shape: args.shape.shape()?, flush: Duration::from_millis(args.flush_ms) })?;
    }
    Ok(ExitCode::SUCCESS)
}
