//! A process beside the workers, with a thread pool: it does what would make a worker wait. The front starts it, and starts it again.
//!
//! Here is what all roles have in common: the channel to the front, which is looked for again when the front is gone or replaced, and
//! who of two processes of a role takes new work. It never touches a stream.

mod link;
pub mod page;
pub mod report;

use crate::config::Config;
use crate::control::attendants::{Decision, DecisionId, FromAttendant, Role, file_of};
use crate::control::{ListeningSocket, Origin};
use crate::sandbox::{self, Needs};
use crate::tls::acme;
use anyhow::Context;
use braidcast_sys::file;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tokio::sync::mpsc;

/// Messages that wait for the front, or for the role's code; then senders wait.
const QUEUE: usize = 256;
/// How often the lock of a role is tried.
const LOCK_LOOK: Duration = Duration::from_millis(10);

/// What the front says to a role.
#[derive(Debug)]
pub enum Said {
    /// First, and again when a front has come, perhaps with another configuration.
    Welcome {
        /// The configuration from now on.
        config: Box<Config>,
        /// The listening sockets of this role.
        sockets: Vec<(ListeningSocket, OwnedFd)>,
    },
    /// A question, to be answered by [`Outbox::decided`].
    Decide {
        /// Which.
        id: DecisionId,
        /// What is to happen, as JSON.
        event: String,
    },
    /// The certificates there are.
    Certificates(Vec<CertificateFiles>),
    /// Take no new work, drop the [`RoleLock`], and end when what there is has been done.
    Retire,
    /// End as soon as that can be done in order. Nothing follows.
    End,
}

/// A certificate's files.
#[derive(Debug)]
pub struct CertificateFiles {
    /// The path of the certificate.
    pub cert: String,
    /// The path of its key.
    pub key: String,
    /// What is in them, or why they could not be read.
    pub read: Result<(Vec<u8>, Vec<u8>), String>,
}

/// The process's side of a role.
#[derive(Debug)]
pub struct Attendant {
    role: Role,
    shared_dir: PathBuf,
    said: mpsc::Receiver<Said>,
    outbox: Outbox,
}

/// What a role says to the front. While there is no front it waits, and whoever says more than a few hundred things waits too.
#[derive(Clone, Debug)]
pub struct Outbox {
    messages: mpsc::Sender<FromAttendant>,
    arrivals: mpsc::Sender<(FromAttendant, OwnedFd)>,
}

/// Held by the process of a role that takes new work.
#[derive(Debug)]
pub struct RoleLock {
    _lock: File,
}

/// Runs the attendant of a role until its work is done.
pub fn run(role: Role, shared_dir: &Path) -> anyhow::Result<ExitCode> {
    // As far as it goes.
    braidcast_sys::limits::raise_rlimit_nofile(u64::MAX).context("raising the descriptor limit")?;
    let Some(met) = link::meet(role, shared_dir)? else { return Ok(ExitCode::SUCCESS) };
    let config = met.config().context("the configuration in the front's welcome")?;
    let wants_acme = role == Role::Tls && !config.acme.domains.is_empty();
    let kept =
        wants_acme.then(|| acme::State::open(&config.server.state_dir)).transpose().context("what ACME keeps in the state directory")?;
    sandbox::enter(&config, &Needs::of_attendant(role, &config)).context("the sandbox")?;
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if role == Role::Hooks {
        builder.worker_threads(2);
    }
    let runtime = builder.thread_name(format!("braidcast-{role}")).enable_all().build().context("starting threads")?;
    let result = runtime.block_on(async {
        let attendant = Attendant::begin(role, shared_dir, met).context("the channel to the front")?;
        match role {
            Role::Tls => crate::tls::serve(attendant, kept).await,
            Role::Hooks => crate::hooks::serve(attendant).await,
        }
    });
    // Threads that look up names are not waited for.
    runtime.shutdown_background();
    result.map(|()| ExitCode::SUCCESS)
}

impl Attendant {
    /// Talks with the front from now on, and with those that come after it.
    fn begin(role: Role, shared_dir: &Path, met: link::Met) -> io::Result<Self> {
        let (say, said) = mpsc::channel(QUEUE);
        let (messages, to_send) = mpsc::channel(QUEUE);
        let (arrivals, arrived) = mpsc::channel(QUEUE);
        link::Link::new(role, shared_dir.to_owned(), say, to_send, arrived).begin(met)?;
        Ok(Self { role, shared_dir: shared_dir.to_owned(), said, outbox: Outbox { messages, arrivals } })
    }

    /// The next thing that the front says. Safe to be dropped and asked again (`select!`). After [`Said::End`] always that.
    pub async fn next(&mut self) -> Said {
        self.said.recv().await.unwrap_or(Said::End)
    }

    /// For saying things to the front; may be cloned.
    pub fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// The instance's shared directory.
    pub fn shared_dir(&self) -> &Path {
        &self.shared_dir
    }

    /// Waits until no other process of this role takes new work; from then on this one does, until the lock is dropped.
    pub fn lock(&self) -> impl Future<Output = io::Result<RoleLock>> + Send + use<> {
        let path = file_of(&self.shared_dir, self.role, "lock");
        async move {
            let lock = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
            while !file::try_lock_exclusive(&lock)? {
                tokio::time::sleep(LOCK_LOOK).await;
            }
            Ok(RoleLock { _lock: lock })
        }
    }
}

impl Outbox {
    /// Answers [`Said::Decide`].
    pub async fn decided(&self, decision: Decision) {
        // The other end lives as long as this process.
        let _ = self.messages.send(FromAttendant::Decided(decision)).await;
    }

    /// The configuration wants something that this process cannot do any more: another one is to take its place.
    pub async fn outgrown(&self) {
        let _ = self.messages.send(FromAttendant::Outgrown).await;
    }

    /// Gives a client's connection to the front: a TCP connection on which its bytes come and go. Waits while the front takes none.
    pub async fn arrived(&self, origin: Origin, socket: OwnedFd) {
        let Origin { listener, peer, local } = origin;
        let _ = self.arrivals.send((FromAttendant::Arrived { listener, peer, local }, socket)).await;
    }
}
