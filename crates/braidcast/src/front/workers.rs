//! A worker from the front's side: its process, its channel, when it may be started again. Decides nothing about sessions.

use super::backoff::{Backoff, HEALTHY_MS};
use super::listen::Socket;
use super::notify::NOTIFY_VARIABLE;
use super::watch::Pulse;
use crate::config;
use crate::control::channel::Channel;
use crate::control::pages::{WorkerRow, WorkerState};
use crate::control::{ToWorker, WorkerId};
use crate::saved::HeapId;
use anyhow::Context;
use braidcast_stream_log::WorkerView;
use braidcast_sys::process::{self, SIGKILL};
use braidcast_sys::{EventFd, PidFd, child, clock, net};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// What the C library's allocator reads at the start of a process …
const ALLOCATOR_VARIABLE: &str = "GLIBC_TUNABLES";
/// … and what workers have there: of each size it keeps one free piece at hand and not seven. Each of them holds a page of what thousands of
/// sessions had while they negotiated, and is never given back.
const WORKERS_ALLOCATOR: &str = "glibc.malloc.tcache_count=1";

/// The binary that runs now, even if another one lies at its path by now.
pub(super) const PROGRAM: &str = "/proc/self/exe";
/// So many processes in succession that crash soon are no accident.
const CRASH_LOOP: u32 = 3;
/// Kernel clock ticks in a second, as /proc shows them (`USER_HZ`; 100 on every Linux of today).
const TICK_MS: u64 = 10;

/// A worker's place, and the process that has it.
#[derive(Debug)]
pub struct Worker {
    /// Its id, from 1.
    pub id: WorkerId,
    /// `max_publishers` and weight.
    pub limits: config::Worker,
    /// What it is doing.
    pub state: WorkerState,
    /// Its process; there is one in every state but `Empty` and `Restarting`.
    pub process: Option<Process>,
    /// How often it was started again.
    pub restarts: u32,
    /// CPU time to spare in the last second, per mille of a core.
    pub spare_permille: u32,
    /// Its row as the page shows it.
    pub shown: WorkerRow,
    /// How long to wait before its next process is started.
    pub backoff: Backoff,
    /// Processes in succession that died soon, and of no client's input.
    unexplained: u32,
}

/// A worker's process.
#[derive(Debug)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// A handle that means this process alone.
    pub handle: PidFd,
    /// The control channel.
    pub channel: Channel,
    /// What its sessions are saved in.
    pub heap: HeapId,
    /// Whether it goes on.
    pub pulse: Pulse,
    /// Its page, once it was there.
    pub page: Option<WorkerView>,
    /// Another front started it.
    pub inherited: bool,
    /// When it was started, monotonic and wall clock, milliseconds.
    pub started_ms: u64,
    /// As above.
    pub started_wall_ms: u64,
    /// The loop watches for the channel to become writable.
    pub watched_for_writing: bool,
    /// The loop does not watch the channel any more: it is closed or broken.
    pub deaf: bool,
    cpu: CpuMeter,
}

impl Worker {
    /// A place without a process.
    pub fn new(limits: config::Worker, restarts: u32) -> Self {
        let (id, state, shown) = (WorkerId(limits.id), WorkerState::Empty, WorkerRow::default());
        Self { id, limits, state, process: None, restarts, spare_permille: 1000, shown, backoff: Backoff::default(), unexplained: 0 }
    }

    /// Whether it can take sessions.
    pub fn serves(&self) -> bool {
        self.state == WorkerState::Running
    }

    /// Whether another front started its process, or it has none at the moment.
    pub fn is_inherited(&self) -> bool {
        self.process.as_ref().is_none_or(|process| process.inherited)
    }

    /// Its process has crashed by itself after `lived_ms`; `explained`: by what a client sent. True if that goes on and on.
    pub fn note_crash(&mut self, lived_ms: u64, explained: bool) -> bool {
        self.unexplained = if lived_ms >= HEALTHY_MS || explained { 0 } else { self.unexplained + 1 };
        self.unexplained >= CRASH_LOOP
    }

    /// Measures the CPU time since the last call.
    pub fn measure(&mut self, now_ms: u64) {
        if let Some(process) = &mut self.process
            && let Some(busy_permille) = cpu_ms(process.pid).and_then(|used_ms| process.cpu.permille(used_ms, now_ms))
        {
            self.spare_permille = 1000_u32.saturating_sub(busy_permille);
        }
    }

    /// Kills its process, if it has one. Its death is noticed by the handle.
    pub fn kill(&self) {
        if let Some(process) = &self.process
            && let Err(error) = process.handle.send_signal(SIGKILL)
        {
            tracing::debug!(worker = %self.id, pid = process.pid, %error, "it is dead already");
        }
    }
}

impl Process {
    /// A process that was started just now.
    pub fn new(pid: u32, handle: PidFd, channel: Channel, heap: HeapId, now_ms: u64) -> Self {
        let (started_wall_ms, cpu) = (clock::wall_ms(), CpuMeter::default());
        Self {
            pid,
            handle,
            channel,
            heap,
            pulse: Pulse::default(),
            page: None,
            inherited: false,
            started_ms: now_ms,
            started_wall_ms,
            watched_for_writing: false,
            deaf: false,
            cpu,
        }
    }

    /// Starts a worker, and welcomes it with its id, the bells of all workers and the configuration. It is in a process group
    /// of its own, so that a Ctrl-C reaches the front alone; it is never told to die with its parent.
    pub fn start(id: WorkerId, heap: HeapId, shared: &ForWorkers<'_>, now_ms: u64) -> anyhow::Result<Self> {
        let (ours, theirs) = net::seqpacket_pair().context("making its control channel")?;
        let mut command = Command::new(PROGRAM);
        command.arg0("braidcast").arg("worker").arg("--control-fd").arg(theirs.as_raw_fd().to_string());
        command.stdin(Stdio::null()).env_remove(NOTIFY_VARIABLE).process_group(0);
        config::without_settings(&mut command);
        if std::env::var_os(ALLOCATOR_VARIABLE).is_none() {
            command.env(ALLOCATOR_VARIABLE, WORKERS_ALLOCATOR);
        }
        let mut child = child::spawn(command, &[theirs.as_fd()]).with_context(|| format!("starting {PROGRAM}"))?;
        let pid = child.id();
        let greeted = (|| {
            let handle = PidFd::open(pid).context("watching it")?;
            let mut channel = Channel::new(ours).context("its control channel")?;
            welcome(&mut channel, id, heap, shared).context("welcoming it")?;
            Ok((handle, channel))
        })();
        match greeted {
            Ok((handle, channel)) => Ok(Self::new(pid, handle, channel, heap, now_ms)),
            Err(error) => {
                // It has not got its first message: it holds nothing.
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }
}

/// What every worker is given at its start.
#[derive(Clone, Copy, Debug)]
pub struct ForWorkers<'a> {
    /// The doorbells of all workers.
    pub doorbells: &'a [EventFd],
    /// The listening sockets.
    pub sockets: &'a [Socket],
    /// The configuration.
    pub config_json: &'a str,
}

fn welcome(channel: &mut Channel, worker: WorkerId, heap: HeapId, shared: &ForWorkers<'_>) -> anyhow::Result<()> {
    let bells: io::Result<Vec<OwnedFd>> = shared.doorbells.iter().map(|bell| Ok(bell.try_clone()?.into())).collect();
    let workers = u16::try_from(shared.doorbells.len()).context("too many workers")?;
    channel.send(&ToWorker::Welcome { worker, workers, heap, config: shared.config_json.to_owned() }, bells?)?;
    let listening = shared.sockets.iter().map(Socket::description).collect();
    let sockets: io::Result<Vec<OwnedFd>> = shared.sockets.iter().map(|socket| socket.fd.try_clone()).collect();
    channel.send(&ToWorker::Listeners { listening }, sockets?)?;
    Ok(())
}

/// How busy a process was between two readings of its CPU time.
#[derive(Clone, Copy, Debug, Default)]
struct CpuMeter {
    last: Option<(u64, u64)>,
}

impl CpuMeter {
    fn permille(&mut self, used_ms: u64, now_ms: u64) -> Option<u32> {
        let (used_then, then_ms) = self.last.replace((used_ms, now_ms))?;
        let elapsed_ms = now_ms.checked_sub(then_ms).filter(|ms| *ms > 0)?;
        u32::try_from(used_ms.saturating_sub(used_then) * 1000 / elapsed_ms).ok()
    }
}

/// CPU time of a process in milliseconds.
fn cpu_ms(pid: u32) -> Option<u64> {
    process::run_state(pid).map(|(_, ticks)| ticks * TICK_MS)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_a_share_of_the_time_between_readings() {
        let mut meter = CpuMeter::default();
        assert_eq!(meter.permille(500, 1_000), None);
        assert_eq!(meter.permille(750, 2_000), Some(250));
        assert_eq!(meter.permille(750, 2_000), None);
        assert!(cpu_ms(std::process::id()).is_some() && cpu_ms(u32::MAX).is_none());
    }
}
