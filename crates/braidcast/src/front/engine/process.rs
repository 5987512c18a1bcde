//! A process of another server: where it is, how it gets on, when it may be started again. Decides nothing about connections.

use super::super::backoff::Backoff;
use crate::config;
use crate::control::pages::WorkerState;
use crate::control::{EngineProcess, ProcessId};
use crate::engine::note::Note;
use anyhow::Context;
use braidcast_sys::process::{self, SIGKILL, SIGTERM};
use braidcast_sys::{PidFd, clock};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

/// The place of a process, and the process that has it.
#[derive(Debug)]
pub struct Process {
    /// From 1.
    pub id: ProcessId,
    /// `max_publishers` and weight.
    pub limits: config::Worker,
    /// What it is doing.
    pub state: WorkerState,
    /// The process, if there is one.
    pub running: Option<Running>,
    /// How often it was started again.
    pub restarts: u32,
    /// The program that it is started from next.
    pub program: PathBuf,
    /// Its CPU use, per mille of a core, as it says.
    pub cpu_permille: u32,
    /// Since when it does not answer, monotonic milliseconds, and why.
    pub silent: Option<(u64, String)>,
    /// Since when it gets no publishers any more, monotonic milliseconds.
    pub draining_since_ms: Option<u64>,
    /// How long to wait before the next one is started.
    pub backoff: Backoff,
}

/// A process that runs.
#[derive(Debug)]
pub struct Running {
    /// A handle that means this process alone.
    pub handle: PidFd,
    /// When it was started or found, monotonic milliseconds.
    pub since_ms: u64,
    /// What is written down of it.
    pub note: Note,
}

/// Where a process is to listen.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// RTMP.
    pub rtmp: SocketAddr,
    /// HTTP.
    pub http: SocketAddr,
    /// Its HTTP API.
    pub api: SocketAddr,
}

impl Ports {
    /// Three that are free now and that no process of `others` is to have: one that was started just before may not listen yet. Somebody else may
    /// take one before the process does: then it ends, and others are tried.
    pub fn free(others: &[Self]) -> io::Result<Self> {
        // Those that will not do are held too, so that they are not given again.
        let mut held = Vec::new();
        let mut next = || loop {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            let address = listener.local_addr()?;
            held.push(listener);
            if !others.iter().any(|other| other.all().contains(&address)) {
                return io::Result::Ok(address);
            }
        };
        Ok(Self { rtmp: next()?, http: next()?, api: next()? })
    }

    fn all(&self) -> [SocketAddr; 3] {
        [self.rtmp, self.http, self.api]
    }
}

impl Process {
    /// A place without a process.
    pub fn new(limits: config::Worker, program: PathBuf) -> Self {
        Self {
            id: ProcessId(limits.id),
            limits,
            state: WorkerState::Empty,
            running: None,
            restarts: 0,
            program,
            cpu_permille: 0,
            silent: None,
            draining_since_ms: None,
            backoff: Backoff::default(),
        }
    }

    /// A process that an earlier front has started, if it is still there.
    pub fn adopt(&mut self, directory: &Path, now_ms: u64) -> anyhow::Result<()> {
        let Some(note) = Note::of_living(directory) else { return Ok(()) };
        let handle = PidFd::open(note.pid).context("watching a process of another server")?;
        self.restarts = note.restarts;
        self.program.clone_from(&note.program);
        self.state = WorkerState::Starting;
        self.running = Some(Running { handle, since_ms: now_ms, note });
        Ok(())
    }

    /// It was started just now.
    pub fn started(&mut self, directory: &Path, pid: u32, ports: Ports, now_ms: u64) -> anyhow::Result<()> {
        let handle = PidFd::open(pid).context("watching it")?;
        let start_ticks = process::start_time_ticks(pid)?.context("it is gone already")?;
        let note = Note {
            pid,
            start_ticks,
            run: clock::wall_ms(),
            rtmp: ports.rtmp,
            http: ports.http,
            api: ports.api,
            program: self.program.clone(),
            restarts: self.restarts,
        };
        note.write(directory).context("writing it down")?;
        self.state = WorkerState::Starting;
        (self.silent, self.cpu_permille) = (None, 0);
        self.running = Some(Running { handle, since_ms: now_ms, note });
        Ok(())
    }

    /// Whether it takes publishers.
    pub fn takes_publishers(&self) -> bool {
        self.state == WorkerState::Running
    }

    /// Whether it takes anybody.
    pub fn serves(&self) -> bool {
        matches!(self.state, WorkerState::Running | WorkerState::Draining) && self.running.is_some()
    }

    /// Where it listens, or is going to.
    pub fn ports(&self) -> Option<Ports> {
        let Note { rtmp, http, api, .. } = self.running.as_ref()?.note;
        Some(Ports { rtmp, http, api })
    }

    /// What relays are told of it.
    pub fn address(&self) -> Option<EngineProcess> {
        let Note { run, rtmp, http, api, .. } = self.running.as_ref()?.note;
        Some(EngineProcess { process: self.id, run, serves: self.serves(), rtmp, http, api })
    }

    /// Asks it to end, or (`kill`) makes it. Its end is noticed by the handle.
    pub fn end(&self, kill: bool) {
        if let Some(running) = &self.running
            && let Err(error) = running.handle.send_signal(if kill { SIGKILL } else { SIGTERM })
        {
            tracing::debug!(process = %self.id, %error, "it is dead already");
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn a_later_front_finds_a_process_and_never_another_of_its_number() {
        let directory = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let limits = config::Worker { id: 3, ..config::Worker::default() };
        let mut first = Process::new(limits.clone(), "/bin/sleep".into());
        first.restarts = 2;
        first.started(directory.path(), child.id(), Ports::free(&[]).unwrap(), 5).unwrap();
        let mut next = Process::new(limits.clone(), "/bin/false".into());
        next.adopt(directory.path(), 9).unwrap();
        assert_eq!(next.address(), first.address());
        assert_eq!((next.restarts, next.program.to_str(), next.id), (2, Some("/bin/sleep"), ProcessId(3)));
        next.end(true);
        child.wait().unwrap();
        let mut last = Process::new(limits, "/bin/false".into());
        last.adopt(directory.path(), 9).unwrap();
        assert!(last.running.is_none());
    }

    #[test]
    fn free_ports_differ() {
        // So many that the system would give one twice if it were asked for each anew.
        let mut taken: Vec<Ports> = Vec::new();
        for _ in 0..300 {
            let ports = Ports::free(&taken).unwrap();
            assert!(ports.rtmp.ip().is_loopback() && ports.rtmp.port() != 0);
            taken.push(ports);
        }
        let all: HashSet<SocketAddr> = taken.iter().flat_map(Ports::all).collect();
        assert_eq!(all.len(), 900);
    }
}
