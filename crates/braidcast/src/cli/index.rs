//! `braidcast index`: makes indexes from the segments of one stream, whether the server runs or not.

use crate::hls::cli;
use braidcast_sys::clock;
use clap::{Args, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Subcommand)]
pub(super) enum IndexCommand {
    /// Write the live index again, from what the segments say of themselves.
    Rebuild(RebuildArgs),
    /// Write an index of a part of the past.
    Clip(ClipArgs),
}

#[derive(Args)]
#[command(after_help = "\
Number, duration and times are in each segment itself; a foreign segment, which does not say them, is measured by its presentation times.

Example:
  braidcast index rebuild /dev/shm/braidcast/streams/__defaultVhost__/live/name --verify-with-ffprobe")]
pub(super) struct RebuildArgs {
    /// The stream's directory, or its hls directory
    dir: PathBuf,
    /// Compare each segment's duration with what ffprobe finds
    #[arg(long)]
    verify_with_ffprobe: bool,
}

#[derive(Args)]
#[command(after_help = "\
The index lists exactly the segments that show any part of the time, in the order of their numbers, and it is ended: a player can seek in it.
A server that runs serves it as /app/stream/NAME.m3u8.

Times: 2026-11-23T07:15:00Z, 1795418100 (unix seconds), -90s (before now), now

Example:
  braidcast index clip /dev/shm/braidcast/streams/__defaultVhost__/live/name --start -90s --end -30s --name goal")]
pub(super) struct ClipArgs {
    /// The stream's directory, or its hls directory
    dir: PathBuf,
    /// From when
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    start: String,
    /// Until when
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    end: String,
    /// The index's name, without .m3u8
    #[arg(long, value_name = "NAME", default_value = "live001")]
    name: String,
}

pub(super) fn run(command: IndexCommand) -> ExitCode {
    let mut out = std::io::stdout().lock();
    let status = match command {
        IndexCommand::Rebuild(args) => cli::rebuild(&args.dir, args.verify_with_ffprobe, &mut out),
        IndexCommand::Clip(args) => cli::clip(&args.dir, &args.start, &args.end, &args.name, clock::wall_ms(), &mut out),
    };
    ExitCode::from(status)
}
