//! `braidcast drain`, `braidcast rebalance`: orders to a running instance, and what it says about them.

use crate::control::channel::Channel;
use crate::control::orders::{Order, Report, socket_path};
use crate::control::{ProcessId, WorkerId};
use crate::logging::RoomLevel;
use anyhow::{Context, bail};
use braidcast_sys::net;
use clap::Args;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How soon a front that takes over is asked again.
const RECONNECT: Duration = Duration::from_millis(100);

#[derive(Args, Debug)]
pub(super) struct OrderArgs {
    /// The instance's shared directory
    #[arg(long, value_name = "DIR", default_value = "/dev/shm/braidcast")]
    shared_dir: PathBuf,
    /// Seconds to wait for the order to be carried out
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    timeout: u64,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  braidcast drain 2                  worker 2 hands its connections to others
  braidcast drain --process 2        process 2 of another server ([engine]) ends when its streams do")]
pub(super) struct DrainArgs {
    /// Which worker, from 1
    #[arg(required_unless_present = "process")]
    worker: Option<u16>,
    /// Which process of another server, from 1: it gets no publishers any more, and is started anew when its streams have ended
    #[arg(long, value_name = "N", conflicts_with = "worker")]
    process: Option<u16>,
    #[command(flatten)]
    order: OrderArgs,
}

pub(super) fn drain(args: &DrainArgs) -> anyhow::Result<ExitCode> {
    let worker = Order::Drain(WorkerId(args.worker.unwrap_or_default()));
    give(&args.order, &args.process.map_or(worker, |process| Order::DrainProcess(ProcessId(process))))
}

pub(super) fn rebalance(args: &OrderArgs) -> anyhow::Result<ExitCode> {
    give(args, &Order::Rebalance)
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  braidcast upgrade                              the binary of braidcast that lies on disk now
  braidcast upgrade --srs-binary /opt/srs-7/srs  another SRS, one process after the other, each when its streams have ended")]
pub(super) struct UpgradeArgs {
    /// Replace the processes of SRS instead, by this program
    #[arg(long, value_name = "PATH")]
    srs_binary: Option<PathBuf>,
    #[command(flatten)]
    order: OrderArgs,
}

pub(super) fn upgrade(args: &UpgradeArgs) -> anyhow::Result<ExitCode> {
    let order = match &args.srs_binary {
        // The server may run elsewhere.
        Some(path) => Order::UpgradeProcesses(std::path::absolute(path)?.display().to_string()),
        None => Order::Upgrade,
    };
    give(&args.order, &order)
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  braidcast log-level http=debug hooks=warn      these rooms, in all processes, until the configuration is read anew
  braidcast log-level --reset                    as it is configured
Levels are error, warn, info, debug, trace; the rooms are listed in docs/logging.md.")]
pub(super) struct LogLevelArgs {
    /// A room and its level
    #[arg(value_name = "ROOM=LEVEL", required_unless_present = "reset")]
    levels: Vec<RoomLevel>,
    /// Have all levels as they are configured first
    #[arg(long)]
    reset: bool,
    #[command(flatten)]
    order: OrderArgs,
}

pub(super) fn log_level(args: &LogLevelArgs) -> anyhow::Result<ExitCode> {
    give(&args.order, &Order::LogLevels { reset: args.reset, set: args.levels.clone() })
}

pub(super) fn reload(args: &OrderArgs) -> anyhow::Result<ExitCode> {
    give(args, &Order::Reload)
}

/// Gives an order and prints what the front says until it is carried out. When another front takes over, that one is asked on.
fn give(args: &OrderArgs, order: &Order) -> anyhow::Result<ExitCode> {
    let deadline = Instant::now() + Duration::from_secs(args.timeout);
    let mut channel = connect(&args.shared_dir, order)?;
    let mut follows = false;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match channel.receive_blocking::<Report>(left) {
            Ok((Report::Progress(line), _)) => println!("{line}"),
            Ok((Report::Done(line), _)) => {
                println!("{line}");
                return Ok(ExitCode::SUCCESS);
            }
            Ok((Report::Refused(why), _)) => bail!("{why}"),
            Ok((Report::Follow, _)) => {
                println!("the other front takes over");
                follows = true;
                channel = follow(&args.shared_dir, deadline)?;
            }
            // The front that takes over listens where the one before did, but that one may have taken the call.
            Err(_) if follows && !left.is_zero() => channel = follow(&args.shared_dir, deadline)?,
            Err(error) => return Err(error).context("the order was given, but its end was not heard of"),
        }
    }
}

fn connect(shared_dir: &Path, order: &Order) -> anyhow::Result<Channel> {
    let path = socket_path(shared_dir);
    let socket = net::connect_local(&path).with_context(|| {
        format!("no server takes orders at {}: is it running? another instance has another --shared-dir", path.display())
    })?;
    let mut channel = Channel::new(socket)?;
    channel.send(order, Vec::new()).context("giving the order")?;
    Ok(channel)
}

/// Connects to the front that takes over, when it listens.
fn follow(shared_dir: &Path, deadline: Instant) -> anyhow::Result<Channel> {
    loop {
        std::thread::sleep(RECONNECT);
        match connect(shared_dir, &Order::FollowUpgrade) {
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => {}
            connected => return connected,
        }
    }
}
