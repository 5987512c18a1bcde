//! Processes: pinning, accounting from `/proc`, and children that do not outlive the run.
//!
//! It only ever signals processes that this run started, or their descendants.

use anyhow::Context;
use rustix::process::{Pid, Signal};
use rustix::thread::{CpuSet, sched_setaffinity};
use std::collections::BTreeSet;
use std::fs;
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Set by SIGINT, SIGTERM and SIGHUP: every wait of a run looks at it, so that guards clean up.
#[derive(Clone)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Takes over the three signals for the rest of this process's life.
    pub fn install() -> anyhow::Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
            signal_hook::flag::register(signal.as_raw(), Arc::clone(&flag)).context("cannot take over signals")?;
        }
        Ok(Self(flag))
    }

    /// An error once a signal has come.
    pub fn check(&self) -> anyhow::Result<()> {
        anyhow::ensure!(!self.0.load(Ordering::Relaxed), "interrupted");
        Ok(())
    }

    /// Sleeps, at most until a signal comes.
    pub fn sleep(&self, duration: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + duration;
        while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            self.check()?;
            std::thread::sleep(left.min(Duration::from_millis(20)));
        }
        self.check()
    }
}

/// Which core the server has for itself, and which one the generator.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
pub struct Cores {
    /// All processes of a server.
    pub server: usize,
    /// This process.
    pub load: usize,
}

impl Cores {
    /// Pins this thread, and what it starts from now on, to the load's core. Refuses cores that are the same or not to be had.
    pub fn pin(self) -> anyhow::Result<()> {
        anyhow::ensure!(self.server != self.load, "server and load need a core each, both are {}", self.server);
        pin_to(self.server)?;
        pin_to(self.load)
    }

    /// Starts a child on the server's core. Only for single-threaded callers: they stand there themselves for a moment.
    pub fn spawn_server(self, command: &mut Command) -> anyhow::Result<Child> {
        pin_to(self.server)?;
        let child = command.spawn();
        pin_to(self.load)?;
        child.with_context(|| format!("cannot start {:?}", command.get_program()))
    }
}

fn pin_to(core: usize) -> anyhow::Result<()> {
    anyhow::ensure!(core < CpuSet::MAX_CPU, "there is no core {core}");
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).with_context(|| format!("cannot run on core {core}"))
}

/// A child that ends, with all its descendants, when this value does.
pub struct Guarded {
    child: Child,
    name: String,
    grace: Duration,
}

/// How long a child may take to stop by itself.
pub const STOP_GRACE: Duration = Duration::from_secs(8);

impl Guarded {
    /// Takes charge of a child; it is killed if it has not ended `grace` after it was asked to.
    pub fn new(child: Child, name: &str, grace: Duration) -> Self {
        Self { child, name: name.to_owned(), grace }
    }

    /// Its exit status once it has ended.
    pub fn try_wait(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// The process id of the child itself.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// An error if it has ended already.
    pub fn check_running(&mut self) -> anyhow::Result<()> {
        match self.try_wait()? {
            Some(status) => anyhow::bail!("{} has ended: {status}", self.name),
            None => Ok(()),
        }
    }

    fn end(&mut self) {
        let mut family = descendants(self.id());
        signal(self.id(), Signal::TERM);
        let deadline = Instant::now() + self.grace;
        while Instant::now() < deadline {
            let ended = self.child.try_wait().is_ok_and(|status| status.is_some());
            family.retain(|member| member.is_alive());
            if ended && family.is_empty() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        eprintln!("bench: {} did not stop within {} s: killed", self.name, self.grace.as_secs());
        for member in family.iter().filter(|member| member.is_alive()) {
            signal(member.pid, Signal::KILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.end();
    }
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // It may have ended in between; then there is nothing to stop.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// A process, told from a later one with the same number by its start time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    pid: u32,
    start_ticks: u64,
}

impl Process {
    /// Its number.
    pub fn pid(self) -> u32 {
        self.pid
    }

    fn is_alive(self) -> bool {
        Stat::read(self.pid).is_some_and(|stat| stat.start_ticks == self.start_ticks && stat.state != 'Z')
    }
}

/// The fields of `/proc/PID/stat` that matter here (proc(5)).
struct Stat {
    state: char,
    parent: u32,
    cpu_ticks: u64,
    start_ticks: u64,
}

impl Stat {
    fn read(pid: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        // The name, in brackets, may hold anything: what counts begins after the last bracket, with field 3.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        Some(Self {
            state: fields.first()?.chars().next()?,
            parent: number(4)? as u32,
            cpu_ticks: number(14)? + number(15)?,
            start_ticks: number(22)?,
        })
    }
}

/// `root` and everything below it, in order of process id; empty if it has ended.
pub fn descendants(root: u32) -> Vec<Process> {
    let mut all: Vec<(u32, Stat)> = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if let Some((pid, stat)) = pid.and_then(|pid| Some((pid, Stat::read(pid)?))) {
            all.push((pid, stat));
        }
    }
    let mut family = BTreeSet::from([root]);
    // A parent may have a higher number than its child: repeat until nobody joins.
    let mut known = 0;
    while known < family.len() {
        known = family.len();
        family.extend(all.iter().filter(|(_, stat)| family.contains(&stat.parent)).map(|(pid, _)| *pid).collect::<Vec<_>>());
    }
    let members = all.iter().filter(|(pid, stat)| family.contains(pid) && stat.state != 'Z');
    members.map(|(pid, stat)| Process { pid: *pid, start_ticks: stat.start_ticks }).collect::<BTreeSet<_>>().into_iter().collect()
}

/// The same without some of them: a relay may have started the server behind it.
pub fn descendants_without(root: u32, left_out: &[Process]) -> Vec<Process> {
    let mut family = descendants(root);
    family.retain(|member| !left_out.contains(member));
    family
}

/// Seconds of CPU that these processes have used so far, in user and kernel mode.
pub fn cpu_seconds(family: &[Process]) -> f64 {
    family.iter().filter_map(|member| run_seconds(member.pid).or_else(|| Some(tick_seconds(&Stat::read(member.pid)?)))).sum()
}

/// What all threads of a process ran, as the scheduler counts it: exact to the nanosecond (`/proc/PID/task/TID/schedstat`, first number).
/// Kernels without it count ticks of 10 ms.
fn run_seconds(pid: u32) -> Option<f64> {
    let mut sum_ns = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        sum_ns += text.split_ascii_whitespace().next()?.parse::<u64>().ok()?;
    }
    Some(sum_ns as f64 / 1e9)
}

fn tick_seconds(stat: &Stat) -> f64 {
    stat.cpu_ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}

/// Seconds of CPU that this process has used so far.
pub fn own_cpu_seconds() -> f64 {
    run_seconds(std::process::id()).or_else(|| Some(tick_seconds(&Stat::read(std::process::id())?))).unwrap_or(0.0)
}

/// Seconds that all cores of the machine were busy so far, whatever with (`/proc/stat`, first line; proc(5)).
pub fn machine_busy_seconds() -> f64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    busy_ticks(&text) as f64 / rustix::param::clock_ticks_per_second() as f64
}

fn busy_ticks(stat: &str) -> u64 {
    let ticks = |field: usize| stat.lines().next()?.split_ascii_whitespace().nth(field)?.parse::<u64>().ok();
    // User, nice, system, interrupts, soft interrupts; not idle (4) and waiting for disks (5).
    [1, 2, 3, 6, 7].into_iter().filter_map(ticks).sum()
}

/// Proportional memory of some processes, in bytes (`/proc/PID/smaps_rollup`).
#[derive(Clone, Copy, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Memory {
    /// All of it.
    pub pss: u64,
    /// The anonymous part: heap and stacks.
    pub anonymous: u64,
    /// The part in tmpfs and shared mappings.
    pub shared: u64,
}

impl Memory {
    /// What these processes hold together.
    pub fn of(family: &[Process]) -> anyhow::Result<Self> {
        let mut sum = Self::default();
        for member in family {
            let path = format!("/proc/{}/smaps_rollup", member.pid);
            let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
            sum.add(&text);
        }
        Ok(sum)
    }

    fn add(&mut self, text: &str) {
        for line in text.lines() {
            let Some((name, kilobytes)) = line.split_once(':') else { continue };
            let Ok(kilobytes) = kilobytes.trim().trim_end_matches(" kB").parse::<u64>() else { continue };
            match name {
                "Pss" => self.pss += kilobytes * 1024,
                "Pss_Anon" => self.anonymous += kilobytes * 1024,
                "Pss_Shmem" => self.shared += kilobytes * 1024,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_spaces_does_not_confuse_the_fields() {
        let text = "77 (a) b (c) S 5 77 77 0 -1 4194304 1 0 0 0 30 12 0 0 20 0 1 0 9000 1 1\n";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.state, stat.parent, stat.cpu_ticks, stat.start_ticks), ('S', 5, 42, 9000));
    }

    #[test]
    fn a_child_is_a_descendant_and_ends_with_its_guard() {
        let child = Command::new("sleep").arg("60").spawn().unwrap();
        let guarded = Guarded::new(child, "sleep", STOP_GRACE);
        let family = descendants(std::process::id());
        let member = *family.iter().find(|member| member.pid == guarded.id()).unwrap();
        assert!(member.is_alive());
        let others = descendants_without(std::process::id(), &descendants(guarded.id()));
        assert!(!others.contains(&member) && others.iter().any(|other| other.pid == std::process::id()));
        drop(guarded);
        assert!(!member.is_alive());
    }

    #[test]
    fn idle_and_waiting_are_not_busy() {
        assert_eq!(busy_ticks("cpu  1 2 4 800 1600 8 16 99 0 0\ncpu0 5 5 5 5 5 5 5 5 5 5\n"), 31);
    }

    #[test]
    fn memory_is_read_in_bytes() {
        let mut memory = Memory::default();
        memory.add("00400000-7ffe rollup\nRss:  100 kB\nPss:   40 kB\nPss_Anon:  30 kB\nPss_Shmem:  8 kB\n");
        assert_eq!((memory.pss, memory.anonymous, memory.shared), (40 << 10, 30 << 10, 8 << 10));
    }
}
