//! `bench load`: load on a server that runs already.

use crate::arguments::{ShapeArgs, seconds};
use crate::load::{self, LoadPlan, PublishPlan, WatchPlan};
use crate::process::Interrupt;
use crate::viewer::{Protocol, Target};
use clap::Args;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

/// Arguments of `load`.
#[derive(Clone, Debug, Args)]
pub struct LoadArgs {
    /// Publish to this RTMP address; without it the stream must be there.
    #[arg(long)]
    publish: Option<SocketAddr>,
    /// Streams to publish; the first is watched.
    #[arg(long, default_value_t = 1)]
    publishers: usize,
    /// Watch at this address; without it nobody watches.
    #[arg(long)]
    watch: Option<SocketAddr>,
    /// How viewers connect.
    #[arg(long, default_value_t = Protocol::Flv)]
    protocol: Protocol,
    /// Viewers.
    #[arg(long, default_value_t = 1000)]
    viewers: usize,
    /// How many of them check every frame.
    #[arg(long, default_value_t = 16)]
    verified: usize,
    /// The application.
    #[arg(long, default_value = "live")]
    app: String,
    /// The stream.
    #[arg(long, default_value = "bench")]
    stream: String,
    /// Seconds that are measured.
    #[arg(long, default_value_t = 10.0, value_parser = seconds)]
    window: f64,
    /// Seconds from the last viewer's first byte to the window.
    #[arg(long, default_value_t = 2.0, value_parser = seconds)]
    warm_up: f64,
    /// Never sleep while viewers are measured: only useful if the server is on this machine.
    #[arg(long)]
    awake: bool,
    /// The server's process, to account for it and its descendants.
    #[arg(long)]
    server_pid: Option<u32>,
    #[command(flatten)]
    shape: ShapeArgs,
}

/// Runs it.
pub fn run(args: &LoadArgs) -> anyhow::Result<ExitCode> {
    let interrupt = Interrupt::install()?;
    anyhow::ensure!((1..=args.viewers).contains(&args.verified), "there must be 1 to {} verified viewers", args.viewers);
    let watch = |address| WatchPlan {
        target: Target { protocol: args.protocol, address },
        viewers: args.viewers,
        verified: args.verified,
        streams: 1,
    };
    let plan = LoadPlan {
        app: args.app.clone(),
        stream: args.stream.clone(),
        shape: args.shape.shape()?,
        publish: args.publish.map(|address| PublishPlan { address, publishers: args.publishers, plain: false }),
        watch: args.watch.map(watch),
        settle: Duration::from_secs(1),
        warm_up: Duration::from_secs_f64(args.warm_up),
        window: Duration::from_secs_f64(args.window),
        server: args.server_pid,
        behind: None,
        sleeping: !args.awake,
    };
    let report = load::run(&plan, &interrupt)?;
    println!("{}", serde_json::to_string_pretty(&report)?);
    Ok(if report.faults.total() > 0 || report.lost > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
