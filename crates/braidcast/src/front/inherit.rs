//! What the workers of a front that is gone, or is to be replaced, still have: found by their notes and sockets in the shared
//! directory, asked for, and taken over. Blocks for a few seconds at most: this front does not serve yet.

use super::listen::Socket;
use super::orphans::{self, Orphan};
use crate::control::channel::Channel;
use crate::control::{ConnId, Holding, Inventory, PROTOCOL, PROTOCOL_BEFORE, ToFront, ToWorker, WorkerId};
use crate::saved::Rows;
use crate::worker::rendezvous_path;
use anyhow::{Context, bail, ensure};
use braidcast_media::StreamKey;
use braidcast_sys::{EventFd, PidFd, net};
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a worker may take to say what it has.
const PATIENCE: Duration = Duration::from_secs(5);

/// A worker that goes on.
#[derive(Debug)]
pub struct Inherited {
    /// Its process.
    pub pid: u32,
    /// A handle that means this process alone.
    pub handle: PidFd,
    /// The control channel.
    pub channel: Channel,
    /// What it is and has.
    pub inventory: Inventory,
    /// Its connections.
    pub held: Vec<(Holding, OwnedFd)>,
    /// The next segment numbers it knows, and how long the segments before them play.
    pub numbers: Vec<(StreamKey, u64, Option<u64>)>,
}

/// Everything that was found.
#[derive(Debug, Default)]
pub struct Inheritance {
    /// The workers that go on.
    pub workers: Vec<Inherited>,
    /// The instance's listening sockets.
    pub sockets: Vec<Socket>,
    /// All workers' doorbells.
    pub doorbells: Vec<EventFd>,
}

/// Looks for workers that go on, and asks each what it has. `None`: there are none. Those that do not answer are killed, and their
/// connections lost.
pub fn gather(shared_dir: &Path) -> anyhow::Result<Option<Inheritance>> {
    let (mut workers, mut sockets, mut doorbells) = (Vec::new(), Vec::new(), Vec::new());
    for Orphan { worker, pid, handle } in orphans::alive(shared_dir)? {
        // One that speaks another version hangs up at the first word.
        let versions = if Rows::are_of_before(shared_dir) { [PROTOCOL_BEFORE, PROTOCOL] } else { [PROTOCOL, PROTOCOL_BEFORE] };
        let asked = ask(shared_dir, worker, versions[0]).or_else(|_| ask(shared_dir, worker, versions[1]));
        match asked {
            Ok((channel, found)) => {
                if found.inventory.worker != worker {
                    bail!("worker {worker} (process {pid}) says that it is worker {}", found.inventory.worker);
                }
                // Every worker has all of them.
                let Found { inventory, held, numbers, sockets: its_sockets, doorbells: its_bells } = found;
                (sockets, doorbells) = (its_sockets, its_bells);
                workers.push(Inherited { pid, handle, channel, inventory, held, numbers });
            }
            Err(error) => {
                tracing::error!(%worker, pid, error = format!("{error:#}"), "a worker of the front that was does not say what it has: it is ended, and its connections are lost");
                orphans::end(shared_dir, worker, pid, handle)?;
            }
        }
    }
    if workers.is_empty() {
        return Ok(None);
    }
    one_copy(&mut workers);
    Ok(Some(Inheritance { workers, sockets, doorbells }))
}

/// A session that was just being moved when the front died is told of by both workers: the one that has it is right.
fn one_copy(workers: &mut [Inherited]) {
    let mut has: HashMap<ConnId, WorkerId> = HashMap::new();
    for worker in workers.iter() {
        let holds = worker.held.iter().filter(|(holding, _)| !holding.departed);
        has.extend(holds.map(|(holding, _)| (holding.conn, worker.inventory.worker)));
    }
    for worker in workers {
        let (held, gone): (Vec<_>, Vec<_>) =
            std::mem::take(&mut worker.held).into_iter().partition(|(holding, _)| !holding.departed || !has.contains_key(&holding.conn));
        worker.held = held;
        for (holding, _) in gone {
            // Best effort: what it keeps of it goes with it at the latest.
            let _ = worker.channel.send(&ToWorker::Departed { conn: holding.conn }, Vec::new());
        }
    }
}

struct Found {
    inventory: Inventory,
    sockets: Vec<Socket>,
    doorbells: Vec<EventFd>,
    held: Vec<(Holding, OwnedFd)>,
    numbers: Vec<(StreamKey, u64, Option<u64>)>,
}

fn ask(shared_dir: &Path, worker: WorkerId, protocol: u32) -> anyhow::Result<(Channel, Found)> {
    let deadline = Instant::now() + PATIENCE;
    let socket = net::connect_local(&rendezvous_path(shared_dir, worker)).context("connecting to it")?;
    let mut channel = Channel::new(socket)?;
    channel.send(&ToWorker::Hello { protocol }, Vec::new())?;
    let mut next = || -> anyhow::Result<(ToFront, Vec<OwnedFd>)> {
        let left = deadline.saturating_duration_since(Instant::now());
        channel.receive_blocking(left).context("waiting for what it has")
    };
    let (ToFront::Inventory(inventory), fds) = next()? else { bail!("it did not begin with its inventory") };
    ensure!(inventory.listening.len() == fds.len(), "{} listening sockets with {} descriptors", inventory.listening.len(), fds.len());
    let sockets = inventory.listening.iter().zip(fds);
    let sockets = sockets.map(|(listening, fd)| Socket::inherited(listening, fd)).collect();
    let (ToFront::Bells, fds) = next()? else { bail!("no doorbells came after its inventory") };
    ensure!(fds.len() == usize::from(inventory.workers), "{} doorbells for {} workers", fds.len(), inventory.workers);
    let mut found =
        Found { inventory, sockets, doorbells: fds.into_iter().map(EventFd::from_fd).collect(), held: Vec::new(), numbers: Vec::new() };
    loop {
        match next()? {
            (ToFront::Holding(holding), mut fds) => {
                let socket = fds.pop().context("a connection came without its descriptor")?;
                found.held.push((holding, socket));
            }
            (ToFront::Segment { key, next, duration_ms }, _) => found.numbers.push((key, next, duration_ms)),
            (ToFront::InventoryEnd, _) => return Ok((channel, found)),
            (other, _) => bail!("an inventory does not hold {other:?}"),
        }
    }
}
