//! What is known of the attendants, for `status`: a file that the front writes anew when something has changed.

use crate::control::attendants::{DIRECTORY, Role, file_of};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::Path;

/// The file's name.
const NAME: &str = "processes.json";

/// How the file is called that holds what an attendant says of itself.
const NOTE: &str = "note";

/// An attendant's process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// `tls` or `hooks`.
    pub role: String,
    /// Its number; 0 if there is none.
    pub pid: u32,
    /// `starting`, `ready`, `restarting`, `retiring`, `stopping`.
    pub state: String,
    /// How often it was started again after it had ended by itself.
    pub restarts: u32,
    /// When it was started, wall clock, milliseconds since 1970; 0 if there is none.
    pub started_wall_ms: u64,
}

/// Writes it. Readers see the file before or the one after.
pub fn write(shared_dir: &Path, processes: &[Process]) -> io::Result<()> {
    let directory = shared_dir.join(DIRECTORY);
    let part = directory.join(format!("{NAME}.part"));
    fs::write(&part, serde_json::to_vec(processes)?)?;
    fs::rename(part, directory.join(NAME))
}

/// What an attendant has to say of itself beside its counters, if anything: one line.
pub fn note(shared_dir: &Path, role: Role) -> Option<String> {
    fs::read_to_string(file_of(shared_dir, role, NOTE)).ok().filter(|note| !note.is_empty())
}

/// Says it.
pub fn write_note(shared_dir: &Path, role: Role, note: &str) -> io::Result<()> {
    fs::write(file_of(shared_dir, role, NOTE), note)
}

/// Reads it; empty if there is none.
pub fn read(shared_dir: &Path) -> Vec<Process> {
    let read = fs::read(shared_dir.join(DIRECTORY).join(NAME)).ok();
    read.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}
