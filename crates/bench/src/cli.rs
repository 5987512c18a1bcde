//! The command line of `braidcast bench`: which commands there are. Each has a file of its own in `commands/`.
//!
//! The exit code is about the harness and about frames that verified viewers missed, never about speed.

use crate::commands::{bare, capacity, churn, curve, diff, document, fanout, flame, hls, ingest, load, relay, scale, viral};
use clap::Subcommand;
use std::process::{Command as Process, ExitCode};

/// What `braidcast bench` can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Compare what it costs to send one stream to many viewers: braidcast, a bare loop, nginx-rtmp.
    Fanout(fanout::FanoutArgs),
    /// Compare what it costs to take in many streams that nobody watches.
    Ingest(ingest::IngestArgs),
    /// Compare what it costs to stand between clients and another RTMP server: only the CPU of what stands between counts.
    Relay(relay::RelayArgs),
    /// Draw latency against CPU: every server at several latencies, as a table, SVG and PNG.
    Curve(curve::CurveArgs),
    /// Find out how many viewers one core sustains.
    Capacity(capacity::CapacityArgs),
    /// Publish to a server that runs already.
    Publish(load::PublishArgs),
    /// Watch a server that runs already, by RTMP, HTTP-FLV or both, and check what comes.
    Play(load::PlayArgs),
    /// Compare the files of two runs.
    Diff(diff::DiffArgs),
    /// Draw a flame graph of a running server.
    Flame(flame::FlameArgs),
    /// Write the figures of a directory into a page of Markdown.
    #[command(hide = true)]
    Document(document::DocumentArgs),
    /// See what braidcast spends with 1, 2, 4, 8 workers: one hot stream on all of them, and thousands of small streams.
    Scale(scale::ScaleArgs),
    /// Compare what it costs to serve HLS to many viewers: braidcast, and nginx with the same files.
    Hls(hls::HlsArgs),
    /// Let viewers come and go all the time: how long each waits for its first frame, and what it costs.
    Churn(churn::ChurnArgs),
    /// Let thousands come for one stream at once: what those notice who watch others.
    Viral(viral::ViralArgs),
    /// The bare loop by itself: one stream to whoever connects, or (--receive) from whoever does, until standard input ends.
    Bare(bare::BareArgs),
}

/// Runs a command. An error is the harness's; the exit code tells of failed runs and of missed frames.
pub fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Fanout(args) => fanout::run(&args),
        Command::Ingest(args) => ingest::run(&args),
        Command::Relay(args) => relay::run(&args),
        Command::Curve(args) => curve::run(&args),
        Command::Capacity(args) => capacity::run(&args),
        Command::Publish(args) => load::publish(&args),
        Command::Play(args) => load::play(&args),
        Command::Diff(args) => diff::run(&args),
        Command::Flame(args) => flame::run(&args),
        Command::Document(args) => document::run(&args),
        Command::Scale(args) => scale::run(&args),
        Command::Hls(args) => hls::run(&args),
        Command::Churn(args) => churn::run(&args),
        Command::Viral(args) => viral::run(&args),
        Command::Bare(args) => bare::run(&args),
    }
}

/// This program, about to run another command of this crate: with the words that stood before the command given to it.
pub(crate) fn own_command(name: &str) -> Process {
    let commands = Command::augment_subcommands(clap::Command::new("bench"));
    let is_command = |word: &String| commands.get_subcommands().any(|command| command.get_name() == word);
    let words: Vec<String> = std::env::args().skip(1).take_while(|word| !is_command(word)).collect();
    let mut command = Process::new(std::env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into()));
    command.args(words).arg(name);
    command
}
