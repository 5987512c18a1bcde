//! `bench flame`: where a running server's CPU goes, as a picture.

use crate::arguments::seconds;
use crate::flame;
use crate::process::Interrupt;
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments of `flame`.
#[derive(Clone, Debug, Args)]
pub struct FlameArgs {
    /// The process at the root of the server; its descendants are recorded too.
    pid: u32,
    /// How long to record.
    #[arg(long, default_value_t = 10.0, value_parser = seconds)]
    seconds: f64,
    /// Where to write the SVG.
    #[arg(long, default_value = "flame.svg")]
    out: PathBuf,
}

/// Runs it.
pub fn run(args: &FlameArgs) -> anyhow::Result<ExitCode> {
    let interrupt = Interrupt::install()?;
    if let Some(reason) = flame::unavailable() {
        anyhow::bail!(reason);
    }
    flame::record(args.pid, args.seconds, &args.out, &interrupt)?;
    println!("flame graph: {}", args.out.display());
    Ok(ExitCode::SUCCESS)
}
