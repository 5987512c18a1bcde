//! Other processes: a handle that cannot come to mean another process, and who is still alive.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid};
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

pub use libc::{SIGABRT, SIGCONT, SIGHUP, SIGINT, SIGKILL, SIGSTOP, SIGTERM, SIGUSR1, SIGUSR2};

/// Makes a file this process's standard error, in one step: no line falls between the two.
pub fn replace_stderr(file: &impl AsFd) -> io::Result<()> {
    Ok(rustix::stdio::dup2_stderr(file)?)
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// A process, by a pidfd: it becomes readable when the process ends, and its number is never taken over by another process.
#[derive(Debug)]
pub struct PidFd(OwnedFd);

impl PidFd {
    /// The process with this number; `ESRCH` if there is none.
    pub fn open(pid: u32) -> io::Result<Self> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Self(pidfd_open(pid, PidfdFlags::empty())?))
    }

    /// Sends a signal (`SIGTERM`, …); `ESRCH` if the process has ended and was waited for.
    pub fn send_signal(&self, signal: i32) -> io::Result<()> {
        let signal = Signal::from_named_raw(signal).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(pidfd_send_signal(&self.0, signal)?)
    }

    /// Whether the process has ended (waited for or not). Any process's, not only a child's.
    pub fn has_ended(&self) -> io::Result<bool> {
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        Ok(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))? > 0)
    }

    /// Collects a child that has ended, without waiting; `None` if it runs. `ECHILD` for processes of other parents and for
    /// a child collected before.
    pub fn try_wait(&self) -> io::Result<Option<Ending>> {
        let Some(status) = waitid(WaitId::PidFd(self.0.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG)? else {
            return Ok(None);
        };
        let ending = match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Ending::Code(code),
            (None, Some(signal)) => Ending::Signal(signal),
            (None, None) => return Err(io::Error::other("a child neither exited nor was it killed")),
        };
        Ok(Some(ending))
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The name of this process in `ps` and `ss`, at most 15 bytes of it: else that of the file that was executed, which may be `exe`.
pub fn set_name(name: &std::ffi::CStr) -> io::Result<()> {
    Ok(rustix::thread::set_name(name)?)
}

/// What this process takes of the machine's memory. Opened once: later the process may not see `/proc` any more.
#[derive(Debug)]
pub struct OwnMemory(fs::File);

impl OwnMemory {
    /// Opens what tells.
    pub fn open() -> io::Result<Self> {
        fs::File::open("/proc/self/statm").map(Self)
    }

    /// Bytes of memory in use by this process alone, without what it shares with others (proc(5)); 0 if that cannot be read.
    pub fn bytes(&self) -> u64 {
        let mut text = [0; 128];
        let read = self.0.read_at(&mut text, 0).unwrap_or(0);
        let mut pages = std::str::from_utf8(&text[..read]).unwrap_or_default().split(' ').map(|field| field.parse::<u64>().unwrap_or(0));
        let (_, resident, shared) = (pages.next(), pages.next().unwrap_or(0), pages.next().unwrap_or(0));
        resident.saturating_sub(shared).saturating_mul(rustix::param::page_size() as u64)
    }
}

/// What the scheduler does with a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// It runs, or waits for a core.
    Running,
    /// Somebody has stopped it.
    Stopped,
    /// It sleeps, or has ended.
    Other,
}

/// State and CPU time of a process, all threads, in clock ticks (fields 3, 14 and 15 of `/proc/PID/stat`, proc(5)); `None` if there is
/// no such process.
pub fn run_state(pid: u32) -> Option<(RunState, u64)> {
    // Never longer than this, and read with one call: it is looked at several times a second.
    let mut stat = [0; 1024];
    let bytes = fs::File::open(format!("/proc/{pid}/stat")).ok()?.read_at(&mut stat, 0).ok()?;
    let stat = String::from_utf8_lossy(&stat[..bytes]);
    // The second field is the program's name in parentheses, which may hold spaces and parentheses.
    let fields: Vec<&str> = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace().collect();
    let ticks = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let state = match *fields.first()? {
        "R" => RunState::Running,
        "T" | "t" => RunState::Stopped,
        _ => RunState::Other,
    };
    Some((state, ticks(14)? + ticks(15)?))
}

/// What `/proc/PID/status` says of a process under a name (`Uid`, `CapEff`, `Seccomp`, …; proc(5)); `None`: no such process, or no such line.
pub fn status_line(pid: u32, name: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    text.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim().to_owned()))
}

/// How many descriptors a process has open, and how many it may have (soft limit); `None` if this process may not know.
pub fn descriptors(pid: u32) -> Option<(u64, u64)> {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count() as u64;
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let soft = limits.lines().find_map(|line| line.strip_prefix("Max open files")?.split_ascii_whitespace().next())?;
    Some((open, if soft == "unlimited" { u64::MAX } else { soft.parse().ok()? }))
}

/// When a process started, in clock ticks since boot (field 22 of `/proc/PID/stat`, proc(5)); `None` if there is no such
/// process. With its number it names a process for as long as the machine runs.
pub fn start_time_ticks(pid: u32) -> io::Result<Option<u64>> {
    let stat = match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat,
        Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
        Err(error) => return Err(error),
    };
    parse_start_time(&stat).map(Some).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/PID/stat is not as in proc(5)"))
}

/// Whether the process that had this number and start time still runs. An error counts as "it does".
pub fn is_alive(pid: u32, start_time_ticks_then: u64) -> bool {
    match start_time_ticks(pid) {
        Ok(now) => now == Some(start_time_ticks_then),
        Err(_) => true,
    }
}

fn parse_start_time(stat: &str) -> Option<u64> {
    // The second field is the program's name in parentheses, and may itself hold spaces and parentheses.
    let after_name = stat.get(stat.rfind(')')? + 1..)?;
    after_name.split_ascii_whitespace().nth(22 - 3)?.parse().ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{Events, Interest, Poller};
    use std::process::Command;

    #[test]
    #[allow(clippy::zombie_processes)] // The pidfd collects it.
    fn a_child_is_signalled_polled_and_collected() {
        let child = Command::new("sleep").arg("60").spawn().unwrap();
        let fd = PidFd::open(child.id()).unwrap();
        assert_eq!((fd.try_wait().unwrap(), fd.has_ended().unwrap()), (None, false));
        let poller = Poller::new().unwrap();
        poller.add(&fd, 1, Interest::READ).unwrap();
        fd.send_signal(SIGTERM).unwrap();
        let mut events = Events::with_capacity(1);
        poller.wait(&mut events, Some(std::time::Duration::from_secs(10))).unwrap();
        assert_eq!(events.len(), 1);
        assert!(fd.has_ended().unwrap());
        assert_eq!(fd.try_wait().unwrap(), Some(Ending::Signal(SIGTERM)));
        assert!(fd.send_signal(SIGTERM).is_err());
        assert!(PidFd::open(0).is_err() && PidFd::open(u32::MAX).is_err());
    }

    #[test]
    fn what_proc_says_of_a_process_is_found() {
        let own = std::process::id();
        assert_eq!(status_line(own, "Pid").unwrap(), own.to_string());
        assert!(status_line(own, "Pi").is_none() && status_line(u32::MAX, "Pid").is_none());
        let (open, most) = descriptors(own).unwrap();
        assert!(open >= 3 && open <= most);
    }

    #[test]
    fn a_start_time_tells_processes_apart() {
        let mine = start_time_ticks(std::process::id()).unwrap().unwrap();
        assert!(is_alive(std::process::id(), mine));
        assert!(!is_alive(std::process::id(), mine + 1));
        assert_eq!(start_time_ticks(u32::MAX).unwrap(), None);
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4 1 0 0 0 1 2 3 4 20 0 1 0 4711 9 9";
        assert_eq!(parse_start_time(stat), Some(4711));
        assert_eq!(parse_start_time("7 (a"), None);
    }
}
