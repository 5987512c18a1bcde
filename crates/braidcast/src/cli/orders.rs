//! `braidcast drain`, `braidcast rebalance`: orders to a running instance, and what it says about them.

use crate::control::WorkerId;
use crate::control::channel::Channel;
use crate::control::orders::{Order, Report, socket_path};
use anyhow::{Context, bail};
use braidcast_sys::net;
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

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
pub(super) struct DrainArgs {
    /// Which worker, from 1
    worker: u16,
    #[command(flatten)]
    order: OrderArgs,
}

pub(super) fn drain(args: &DrainArgs) -> anyhow::Result<ExitCode> {
    give(&args.order, &Order::Drain(WorkerId(args.worker)))
}

pub(super) fn rebalance(args: &OrderArgs) -> anyhow::Result<ExitCode> {
    give(args, &Order::Rebalance)
}

/// Gives an order and prints what the front says until it is carried out.
fn give(args: &OrderArgs, order: &Order) -> anyhow::Result<ExitCode> {
    let path = socket_path(&args.shared_dir);
    let socket = net::connect_local(&path).with_context(|| {
        format!("no server takes orders at {}: is it running? another instance has another --shared-dir", path.display())
    })?;
    let mut channel = Channel::new(socket)?;
    channel.send(order, Vec::new()).context("giving the order")?;
    let deadline = Instant::now() + Duration::from_secs(args.timeout);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let (report, _) = channel.receive_blocking::<Report>(left).context("the order was given, but its end was not heard of")?;
        match report {
            Report::Progress(line) => println!("{line}"),
            Report::Done(line) => {
                println!("{line}");
                return Ok(ExitCode::SUCCESS);
            }
            Report::Refused(why) => bail!("{why}"),
        }
    }
}
