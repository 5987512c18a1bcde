//! `braidcast status`: prints what an instance is doing. Talks to nobody.

use super::print;
use super::serve::ConfigArgs;
use crate::{config, status};
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Args)]
#[command(after_help = "\
Reads the shared directory alone: it works while the server is busy, and after it is gone. A number that has no limit is - in the
tables and null in JSON.

Examples:
  braidcast status
  braidcast status --shared-dir /dev/shm/second
  braidcast status --json | jq '.workers[] | {id, allowed, current, free}'")]
pub(super) struct StatusArgs {
    /// The instance's shared directory [default: of the environment, else /dev/shm/braidcast]
    #[arg(long, value_name = "DIR")]
    shared_dir: Option<PathBuf>,
    /// Print JSON, on one line
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: StatusArgs) -> anyhow::Result<ExitCode> {
    let shared_dir = match args.shared_dir {
        Some(directory) => directory,
        None => config::load(&ConfigArgs::default().sources()?)?.config.server.shared_dir,
    };
    let status = status::read(&shared_dir)?;
    print(&if args.json { status.to_json() + "\n" } else { status.to_text() })?;
    Ok(ExitCode::SUCCESS)
}
