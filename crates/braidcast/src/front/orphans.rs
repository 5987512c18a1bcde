//! Workers that outlived their front: who they are is noted in the shared directory, and the next front finds them there.
//!
//! A process is named by its number, its start time and the boot, so that no stranger who got the number later is ever harmed.

use super::next_segments::boot_id;
use crate::control::WorkerId;
use anyhow::{Context, bail};
use braidcast_sys::process::{SIGKILL, start_time_ticks};
use braidcast_sys::{Events, Interest, PidFd, Poller, privileges};
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const PREFIX: &str = "worker-";
const SUFFIX: &str = ".pid";

/// Notes who a worker is: `worker-<id>.pid`.
pub fn note(shared_dir: &Path, worker: WorkerId, pid: u32) -> io::Result<()> {
    note_at(&path(shared_dir, worker), pid)
}

/// Notes who a process is.
pub fn note_at(path: &Path, pid: u32) -> io::Result<()> {
    let Some(started) = start_time_ticks(pid)? else { return Ok(()) };
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    writeln!(&file, "{pid} {started} {}", boot_id())
}

/// Forgets all workers: nobody is looked for any more.
pub fn forget_all(shared_dir: &Path) -> anyhow::Result<()> {
    for note in notes(shared_dir)? {
        fs::remove_file(&note).with_context(|| format!("removing {}", note.display()))?;
    }
    Ok(())
}

/// The worker is dead.
pub fn forget(shared_dir: &Path, worker: WorkerId) {
    if let Err(error) = fs::remove_file(path(shared_dir, worker))
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(%worker, %error, "cannot remove the note of a dead worker");
    }
}

/// A worker that outlived its front.
#[derive(Debug)]
pub struct Orphan {
    /// Which.
    pub worker: WorkerId,
    /// Its process.
    pub pid: u32,
    /// A handle that means this process alone.
    pub handle: PidFd,
}

/// The workers of a front that is gone, or still there, that run. Notes of others are removed.
pub fn alive(shared_dir: &Path) -> anyhow::Result<Vec<Orphan>> {
    let boot = boot_id();
    let mut found = Vec::new();
    for note in notes(shared_dir)? {
        let id = note.file_stem().and_then(|stem| stem.to_str()?.strip_prefix(PREFIX)?.parse().ok());
        match id.zip(running(&note, &boot)) {
            Some((id, (pid, handle))) => found.push(Orphan { worker: WorkerId(id), pid, handle }),
            None => fs::remove_file(&note).with_context(|| format!("removing {}", note.display()))?,
        }
    }
    found.sort_by_key(|orphan| orphan.worker);
    Ok(found)
}

/// Kills a worker of another front, and waits until it is dead.
pub fn end(shared_dir: &Path, worker: WorkerId, pid: u32, handle: PidFd) -> anyhow::Result<()> {
    kill(pid, handle)?;
    forget(shared_dir, worker);
    Ok(())
}

/// Kills a process of another front, and waits until it is dead.
pub fn kill(pid: u32, handle: PidFd) -> anyhow::Result<()> {
    signal(pid, &handle, SIGKILL);
    if !wait(vec![(pid, handle)], Duration::from_secs(10))?.is_empty() {
        bail!("process {pid} of an earlier front cannot be killed");
    }
    Ok(())
}

/// The process that the note at a path names, if it runs.
pub fn noted_at(path: &Path) -> Option<(u32, PidFd)> {
    running(path, &boot_id())
}

fn path(shared_dir: &Path, worker: WorkerId) -> PathBuf {
    shared_dir.join(format!("{PREFIX}{worker}{SUFFIX}"))
}

fn notes(shared_dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(shared_dir).with_context(|| format!("reading {}", shared_dir.display()))?;
    let is_note = |name: &OsStr| name.to_str().is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(SUFFIX));
    Ok(entries.filter_map(|entry| Some(entry.ok()?.path()).filter(|path| path.file_name().is_some_and(is_note))).collect())
}

/// The process that a note names, if it runs. The handle is opened before the start time is looked at: it cannot come to mean another.
fn running(note: &Path, boot: &str) -> Option<(u32, PidFd)> {
    let mut file = File::open(note).ok()?;
    let found = file.metadata().ok()?;
    // Who is noted may be killed: what others can write is no note.
    (found.uid() == privileges::effective_uid() && found.mode() & 0o022 == 0).then_some(())?;
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    let mut fields = text.split_ascii_whitespace();
    let (pid, started): (u32, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    let process = PidFd::open(pid).ok()?;
    let same = fields.next() == Some(boot) && start_time_ticks(pid).ok()? == Some(started);
    (same && !process.has_ended().ok()?).then_some((pid, process))
}

fn signal(pid: u32, process: &PidFd, signal: i32) {
    if let Err(error) = process.send_signal(signal) {
        tracing::debug!(pid, %error, "it is gone already");
    }
}

/// Those that still run when the time is over.
fn wait(mut processes: Vec<(u32, PidFd)>, limit: Duration) -> anyhow::Result<Vec<(u32, PidFd)>> {
    let deadline = Instant::now() + limit;
    let poller = Poller::new()?;
    for (pid, process) in &processes {
        poller.add(process, (*pid).into(), Interest::READ)?;
    }
    let mut events = Events::with_capacity(16);
    while !processes.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        poller.wait(&mut events, Some(left))?;
        for event in events.iter() {
            let ended = processes.iter().position(|(pid, _)| u64::from(*pid) == event.token);
            if let Some((_, process)) = ended.map(|index| processes.swap_remove(index)) {
                poller.delete(&process)?;
            }
        }
    }
    Ok(processes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::process::Command;

    fn shared_dir() -> tempfile::TempDir {
        tempfile::tempdir_in("/dev/shm").unwrap()
    }

    #[test]
    fn a_worker_that_runs_is_found_and_can_be_ended() {
        let directory = shared_dir();
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        note(directory.path(), WorkerId(2), child.id()).unwrap();
        let Ok([Orphan { worker: WorkerId(2), pid, handle }]) = <[Orphan; 1]>::try_from(alive(directory.path()).unwrap()) else {
            panic!("not found")
        };
        end(directory.path(), WorkerId(2), pid, handle).unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&child.wait().unwrap()), Some(SIGKILL));
        assert!(notes(directory.path()).unwrap().is_empty());
    }

    #[test]
    fn a_stranger_with_the_same_number_is_left_alone() {
        let directory = shared_dir();
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let started = start_time_ticks(child.id()).unwrap().unwrap();
        let write = |id, text: String| fs::write(path(directory.path(), WorkerId(id)), text).unwrap();
        write(1, format!("{} {} {}\n", child.id(), started + 1, boot_id()));
        write(2, format!("{} {started} another-boot\n", child.id()));
        write(3, "rubbish".into());
        assert!(alive(directory.path()).unwrap().is_empty());
        assert!(child.try_wait().unwrap().is_none() && notes(directory.path()).unwrap().is_empty());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_dead_worker_is_forgotten() {
        let directory = shared_dir();
        note(directory.path(), WorkerId(1), std::process::id()).unwrap();
        forget(directory.path(), WorkerId(1));
        forget(directory.path(), WorkerId(1));
        assert!(notes(directory.path()).unwrap().is_empty());
    }
}
