//! The command line: which commands there are, what they are told, what they print. No command's work is done here.

mod check;
mod doctor;
mod findings;
mod import_srs;
mod index;
mod orders;
mod ports;
mod serve;
mod status;

use crate::{config, metrics};
use anyhow::Context;
use clap::{Parser, Subcommand};
use std::io::Write;
use std::process::ExitCode;

pub use ports::who_listens;
pub use serve::ServeOptions;

#[derive(Parser)]
#[command(
    name = "braidcast",
    version,
    about = "A live streaming server that uses every core of a machine.",
    after_help = "\
Examples:
  braidcast serve                             listen on RTMP 1935, HTTP 8080, API 1985
  braidcast serve -c braidcast.toml --workers 4
  braidcast check -c braidcast.toml           say what would be wrong, start nothing
  braidcast status                            what a running server is doing
  braidcast doctor                            what is wrong with the machine, and what mends it

Push:  ffmpeg -re -i film.mp4 -c copy -f flv rtmp://HOST/live/name
Watch: http://HOST:8080/live/name.flv, http://HOST:8080/live/name.m3u8, rtmp://HOST/live/name"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the server: a front and its workers.
    Serve(serve::ServeArgs),
    /// One of the server's workers; started by the front alone.
    #[command(hide = true)]
    Worker(serve::WorkerArgs),
    /// A process beside the workers; started by the front alone.
    #[command(hide = true)]
    Attendant(serve::AttendantArgs),
    /// Say what is wrong with a configuration and with the machine for it, and start nothing.
    Check(check::CheckArgs),
    /// Look whether machine, kernel and sandbox are as they should be, and say what mends each fault.
    Doctor(doctor::DoctorArgs),
    /// Write the configuration of this server for a site that has one of SRS.
    ImportSrs(import_srs::ImportSrsArgs),
    /// Say what an instance is doing
    Status(status::StatusArgs),
    /// Hand a worker's sessions to the others; it ends and is started anew.
    Drain(orders::DrainArgs),
    /// Move sessions until every worker has its share.
    Rebalance(orders::OrderArgs),
    /// Have the binary that lies on disk now take over; nobody is disconnected.
    Upgrade(orders::UpgradeArgs),
    /// Change which log lines are written, while the server runs.
    LogLevel(orders::LogLevelArgs),
    /// Read the configuration anew; nobody is disconnected.
    Reload(orders::OrderArgs),
    /// Make an index from the segments of a stream.
    #[command(subcommand)]
    Index(index::IndexCommand),
    /// Measure servers, this one and others, on this machine.
    #[command(subcommand)]
    Bench(braidcast_bench::cli::Command),
    /// Print the reference of the configuration, as Markdown.
    ConfigDocs,
    /// Print the reference of the metrics, as Markdown.
    MetricsDocs,
}

/// Reads the command line and does what it says.
pub fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            // Each problem of a configuration is a line of its own.
            for line in format!("{error:#}").lines() {
                eprintln!("braidcast: {line}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve(args) => serve::run(args),
        Command::Worker(args) => serve::run_worker(&args),
        Command::Attendant(args) => crate::attendant::run(args.role, &args.shared_dir),
        Command::Check(args) => check::run(args),
        Command::Doctor(args) => doctor::run(&args),
        Command::ImportSrs(args) => import_srs::run(&args),
        Command::Status(args) => status::run(args),
        Command::Drain(args) => orders::drain(&args),
        Command::Rebalance(args) => orders::rebalance(&args),
        Command::Upgrade(args) => orders::upgrade(&args),
        Command::LogLevel(args) => orders::log_level(&args),
        Command::Reload(args) => orders::reload(&args),
        Command::Index(command) => Ok(index::run(command)),
        Command::Bench(command) => braidcast_bench::cli::run(command),
        Command::ConfigDocs => {
            print(&config::markdown())?;
            Ok(ExitCode::SUCCESS)
        }
        Command::MetricsDocs => {
            print(&metrics::markdown())?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Writes to standard output. A reader that went away (`| head`) is no error.
fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("cannot write to standard output"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
