//! What is written down of a process when it is started: for a front that comes after the one that started it, and for the workers, if none does.

use super::DIRECTORY;
use braidcast_sys::process::{self, SIGTERM};
use braidcast_sys::{PidFd, privileges};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The file's name, in the directory of the process.
const NAME: &str = "process.json";

/// What is written down of a process, for a front that comes after the one that started it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// Its number, and when it was started, in ticks since boot: together they mean this process alone.
    pub pid: u32,
    /// As above.
    pub start_ticks: u64,
    /// When it was started, wall clock, milliseconds: tells one start from another.
    pub run: u64,
    /// Where it speaks RTMP.
    pub rtmp: SocketAddr,
    /// Where it speaks HTTP.
    pub http: SocketAddr,
    /// Where its HTTP API is.
    pub api: SocketAddr,
    /// The program.
    pub program: PathBuf,
    /// How often its place was filled again.
    pub restarts: u32,
}

impl Note {
    /// Writes it into the directory of the process.
    pub fn write(&self, directory: &Path) -> io::Result<()> {
        write_for_reading(&directory.join(NAME), &serde_json::to_vec(self)?)
    }

    /// What is written there, if that process still runs. Who is noted may be ended: what a worker has written is no note.
    pub fn of_living(directory: &Path) -> Option<Self> {
        let mut file = fs::File::open(directory.join(NAME)).ok()?;
        let owner = file.metadata().ok()?.uid();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).ok().filter(|_| owner == 0 || owner == privileges::effective_uid())?;
        let note: Self = serde_json::from_slice(&bytes).ok()?;
        process::is_alive(note.pid, note.start_ticks).then_some(note)
    }
}

/// Writes a file that workers read and only its owner writes, whatever the umask says.
pub fn write_for_reading(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(path)?;
    file.write_all(bytes)
}

/// Asks all processes to end: there is no front that could, and nobody stands before them any more.
pub fn end_all(shared_dir: &Path) {
    let directories = fs::read_dir(shared_dir.join(DIRECTORY)).into_iter().flatten().filter_map(Result::ok);
    for note in directories.filter_map(|entry| Note::of_living(&entry.path())) {
        let ended = PidFd::open(note.pid).and_then(|handle| handle.send_signal(SIGTERM));
        tracing::info!(
            pid = note.pid,
            error = ended.err().map(tracing::field::display),
            "nobody looks after it any more: {} is ended",
            note.program.display()
        );
    }
}
