//! The bench without the server: the same commands as `braidcast bench`, for this crate's own tests.

use braidcast_bench::Command;
use clap::Parser;
use std::process::ExitCode;

#[derive(Parser)]
#[command(version, about = "Load generator and comparison runs")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

fn main() -> anyhow::Result<ExitCode> {
    braidcast_bench::run(Arguments::parse().command)
}
