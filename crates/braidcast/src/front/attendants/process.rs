//! An attendant from the front's side: the place of its role, the process that has it, how far its life has come.

use super::super::backoff::Backoff;
use super::super::notify::NOTIFY_VARIABLE;
use super::super::workers::PROGRAM;
use crate::control::attendants::Role;
use anyhow::Context;
use braidcast_sys::process::SIGKILL;
use braidcast_sys::{PidFd, child, clock};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// The place of a role, and the process that takes its new work.
#[derive(Debug)]
pub struct Place {
    /// Which role.
    pub role: Role,
    /// The process, if there is one.
    pub process: Option<Process>,
    /// How often it was started again.
    pub restarts: u32,
    /// How long to wait before the next one is started.
    pub backoff: Backoff,
}

/// What a process of a role is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It has not said hello yet.
    Starting,
    /// It takes new work.
    Ready,
    /// It takes none.
    Retiring,
    /// It was told to end.
    Stopping,
}

/// A process.
#[derive(Debug)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// A handle that means this process alone.
    pub handle: PidFd,
    /// How far its life has come.
    pub stage: Stage,
    /// The binary that it runs; `None`: it has not said yet.
    pub program: Option<u64>,
    /// When it was started or found, monotonic and wall clock, milliseconds.
    pub since_ms: u64,
    /// As above.
    pub since_wall_ms: u64,
}

impl Place {
    /// Without a process.
    pub fn new(role: Role) -> Self {
        Self { role, process: None, restarts: 0, backoff: Backoff::default() }
    }
}

impl Stage {
    /// In words.
    pub fn label(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Retiring => "retiring",
            Self::Stopping => "stopping",
        }
    }
}

impl Process {
    /// One that runs, started just now or by another front.
    pub fn new(pid: u32, handle: PidFd, now_ms: u64) -> Self {
        Self { pid, handle, stage: Stage::Starting, program: None, since_ms: now_ms, since_wall_ms: clock::wall_ms() }
    }

    /// Starts one. It is in a process group of its own, and is never told to die with its parent.
    pub fn start(role: Role, shared_dir: &Path, now_ms: u64) -> anyhow::Result<Self> {
        let mut command = Command::new(PROGRAM);
        command.arg0("braidcast").arg("attendant").arg(role.to_string()).arg("--shared-dir").arg(shared_dir);
        command.stdin(Stdio::null()).env_remove(NOTIFY_VARIABLE).process_group(0);
        crate::config::without_settings(&mut command);
        let mut child = child::spawn(command, &[]).with_context(|| format!("starting {PROGRAM}"))?;
        let pid = child.id();
        match PidFd::open(pid) {
            Ok(handle) => Ok(Self::new(pid, handle, now_ms)),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(anyhow::Error::new(error).context("watching it"))
            }
        }
    }

    /// Kills it. Its death is noticed by the handle.
    pub fn kill(&self) {
        if let Err(error) = self.handle.send_signal(SIGKILL) {
            tracing::debug!(pid = self.pid, %error, "it is dead already");
        }
    }
}
