//! `bench ingest`: what it costs to take in many streams that nobody watches.

use crate::arguments::{CompareArgs, ShapeArgs, seconds};
use crate::compare::{Case, Clients, Comparison};
use crate::conclude::conclude;
use crate::pace::Pace;
use crate::peers::{Peer, SERVERS};
use crate::process::Interrupt;
use crate::viewer::Protocol;
use clap::Args;
use std::process::ExitCode;
use std::time::Duration;

/// Arguments of `ingest`.
#[derive(Clone, Debug, Args)]
pub struct IngestArgs {
    /// Publishers, each of a stream of its own.
    #[arg(long, default_value_t = 300)]
    publishers: usize,
    /// Have servers make HLS segments of every stream.
    #[arg(long)]
    hls: bool,
    /// Video kilobits (1000 bits) per second of each stream, at 30 frames.
    #[arg(long, default_value_t = 1000)]
    kbps: u64,
    /// Seconds before braidcast's window at least: its logs take the pages of blocks that are evicted, and the first ones are after 20 s.
    #[arg(long, default_value_t = 25.0, value_parser = seconds)]
    braidcast_warm_up: f64,
    /// Milliseconds for which the patient bare loop rests between its reads. The default is what braidcast takes where somebody watches;
    /// what nobody watches it reads every `[publish] unwatched_pause`.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=5_000))]
    patience: u32,
    #[command(flatten)]
    compare: CompareArgs,
}

/// Runs it.
pub fn run(args: &IngestArgs) -> anyhow::Result<ExitCode> {
    let interrupt = Interrupt::install()?;
    let shape = ShapeArgs { video_kbps: args.kbps, fps: 30, gop_frames: 60, audio_kbps: 0 }.shape()?;
    let bench = args.compare.bench(shape, args.hls)?;
    let servers = args.compare.available(&bench, SERVERS);
    let publishers = if args.compare.quick { args.publishers.min(20) } else { args.publishers };
    // Two bare loops: one reads whatever comes at once, the other rests as long as braidcast may between reads.
    let patient = servers.contains(&Peer::Bare).then_some(Case {
        server: Peer::Bare,
        protocol: Protocol::Rtmp,
        pace: Some(Pace::Millis(args.patience)),
    });
    let cases = servers.iter().map(|&server| Case { server, protocol: Protocol::Rtmp, pace: None }).chain(patient).collect();
    let comparison = Comparison {
        own_warm_up: if args.compare.quick { Duration::ZERO } else { Duration::from_secs_f64(args.braidcast_warm_up) },
        ..args.compare.comparison(&bench, cases, Clients::Publishers(publishers))
    };
    let runs = comparison.run(&interrupt)?;
    let heading = format!("{publishers} publishers of {} kbps each, HLS {}", args.kbps, if args.hls { "on" } else { "off" });
    conclude("ingest", &heading, &runs, &bench, &servers, args.compare.json.as_deref())
}
