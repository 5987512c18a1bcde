//! Arguments that several commands take, and what they turn into: a stream's shape, the servers to compare, phases.

use crate::compare::{Case, Clients, Comparison, Timing};
use crate::peers::{Bench, Peer};
use crate::process::Cores;
use crate::source::Shape;
use anyhow::Context;
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;

/// What a stream looks like.
#[derive(Clone, Copy, Debug, Args)]
pub struct ShapeArgs {
    /// Video kilobits (1000 bits) per second.
    #[arg(long, default_value_t = 2500)]
    pub video_kbps: u64,
    /// Video frames per second.
    #[arg(long, default_value_t = 30)]
    pub fps: u64,
    /// Frames from one keyframe to the next.
    #[arg(long, default_value_t = 60)]
    pub gop_frames: u64,
    /// Audio kilobits per second; 0 for none.
    #[arg(long, default_value_t = 0)]
    pub audio_kbps: u64,
}

impl ShapeArgs {
    /// The shape, if it makes sense.
    pub fn shape(self) -> anyhow::Result<Shape> {
        let bps = |kbps: u64| kbps.checked_mul(1000).context("the bit rate is too high");
        let shape =
            Shape { video_bps: bps(self.video_kbps)?, fps: self.fps, gop_frames: self.gop_frames, audio_bps: bps(self.audio_kbps)? };
        shape.check()?;
        Ok(shape)
    }
}

/// The arguments that make [`ShapeArgs`] of a shape.
pub fn shape_arguments(shape: Shape) -> Vec<String> {
    let numbers = [
        ("--video-kbps", shape.video_bps / 1000),
        ("--fps", shape.fps),
        ("--gop-frames", shape.gop_frames),
        ("--audio-kbps", shape.audio_bps / 1000),
    ];
    numbers.into_iter().flat_map(|(name, number)| [name.to_owned(), number.to_string()]).collect()
}

/// What all comparisons take.
#[derive(Clone, Debug, Args)]
pub struct CompareArgs {
    /// Rounds of all servers.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: u32,
    /// Seconds that are measured in each run.
    #[arg(long, default_value_t = 10.0, value_parser = seconds)]
    pub window: f64,
    /// Seconds before the window, for everything to become steady.
    #[arg(long, default_value_t = 3.0, value_parser = seconds)]
    pub warm_up: f64,
    /// Seconds from the first frame to the first viewer.
    #[arg(long, default_value_t = 2.0, value_parser = seconds)]
    pub settle: f64,
    /// Let the load sleep until something arrives: then a server on the same machine pays for waking it, with every send.
    #[arg(long)]
    pub sleeping_load: bool,
    /// Small and short: to see that everything works. The figures mean nothing.
    #[arg(long)]
    pub quick: bool,
    /// Which servers [default: all that the comparison knows].
    #[arg(long, value_delimiter = ',')]
    pub servers: Vec<Peer>,
    /// The braidcast binary; else this program itself.
    #[arg(long)]
    pub braidcast: Option<PathBuf>,
    /// The nginx binary.
    #[arg(long, default_value = "/usr/sbin/nginx")]
    pub nginx: PathBuf,
    /// The xiu binary.
    #[arg(long, default_value = "target/tools/bin/xiu")]
    pub xiu: PathBuf,
    /// Rounds in which servers other than braidcast and the bare loop take part [default: all].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub peer_rounds: Option<u32>,
    /// Draw a flame graph of each server into this directory, in one more round on loopback that is not measured; takes perf.
    #[arg(long)]
    pub flames: Option<PathBuf>,
    /// A configuration key of braidcast, `section.key=value`; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub settings: Vec<String>,
    /// The core of the server's processes.
    #[arg(long, default_value_t = 0)]
    pub server_core: usize,
    /// The core of the load.
    #[arg(long, default_value_t = 1)]
    pub load_core: usize,
    /// Where to write all figures as JSON [default: target/bench/NAME.json if there is a target directory, else NAME.json].
    #[arg(long, overrides_with = "json")]
    pub json: Option<PathBuf>,
}

/// A number of seconds as an argument.
pub fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("must be 0.1 to 3600 seconds".to_owned()),
    }
}

impl CompareArgs {
    /// How servers are started; pins this process to the load's core.
    pub fn bench(&self, shape: Shape, hls: bool) -> anyhow::Result<Bench> {
        let braidcast = match &self.braidcast {
            Some(path) => path.clone(),
            None => std::env::current_exe().context("cannot tell where this program is")?,
        };
        let cores = Cores { server: self.server_core, load: self.load_core };
        cores.pin()?;
        Ok(Bench {
            braidcast,
            nginx: self.nginx.clone(),
            // It is started in a directory of its own.
            xiu: std::path::absolute(&self.xiu).context("cannot tell where xiu is")?,
            cores,
            shape,
            settings: self.settings.clone(),
            hls,
            workers: 1,
        })
    }

    /// The phases of each run.
    pub fn timing(&self) -> Timing {
        let [settle, warm_up, window] =
            if self.quick { [0.5, 0.5, 2.0] } else { [self.settle, self.warm_up, self.window] }.map(Duration::from_secs_f64);
        Timing { settle, warm_up, window }
    }

    /// How many rounds.
    pub fn rounds(&self) -> u32 {
        if self.quick { 1 } else { self.rounds }
    }

    /// How many viewers one stream has, and how many of them check every frame; `quick_most` viewers at most when it is to be quick.
    pub fn audience(&self, viewers: usize, verified: usize, quick_most: usize) -> anyhow::Result<(usize, usize)> {
        let (viewers, verified) = if self.quick { (viewers.min(quick_most), verified.min(8)) } else { (viewers, verified) };
        anyhow::ensure!((1..=viewers).contains(&verified), "there must be 1 to {viewers} verified viewers");
        Ok((viewers, verified))
    }

    /// A comparison of these cases over loopback, as the arguments say.
    pub fn comparison<'a>(&self, bench: &'a Bench, cases: Vec<Case>, clients: Clients) -> Comparison<'a> {
        Comparison {
            bench,
            cases,
            rounds: self.rounds(),
            network: "loopback",
            clients,
            timing: self.timing(),
            sleeping: self.sleeping_load,
            own_warm_up: Duration::ZERO,
            peer_rounds: self.peer_rounds.unwrap_or(u32::MAX),
            flames: self.flames.clone(),
        }
    }

    /// The servers that are there; says which are not.
    pub fn available(&self, bench: &Bench, known: &[Peer]) -> Vec<Peer> {
        let there = |server: &Peer| match bench.missing(*server) {
            None => true,
            Some(reason) => {
                eprintln!("{} is left out: {reason}", server.name());
                false
            }
        };
        let wanted = |server: &Peer| self.servers.is_empty() || self.servers.contains(server);
        known.iter().copied().filter(wanted).filter(there).collect()
    }
}

/// Values as one argument.
pub fn joined(values: &[impl std::fmt::Display]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}
