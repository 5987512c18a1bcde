//! The event log: what happens to clients, streams, workers and the front, as lines of JSON in files of the shared directory. The front
//! writes it, anybody may follow it; it is what hooks and the API's event stream are made from. Bytes: `docs/formats/events.md`.
//!
//! A session that began has one begin and one end in it, whichever processes die meanwhile: what has begun stands in a table beside
//! the files, and a front that comes ends what ended while there was none. Nothing here is done for a frame, or waits.

mod begun;
mod event;
mod follower;
mod writer;

pub use begun::Entry;
pub use event::{Event, Kind, Line};
pub use follower::{Follower, From};
pub use writer::{Found, Mark, Writer};

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The name of the log's directory in the shared directory.
pub const DIRECTORY: &str = "events";
/// A file gets no more lines when it has so many bytes.
const FILE_BYTES: u64 = 1 << 20;
/// The most files that are kept, the one that is written included.
const KEPT_FILES: usize = 32;
/// The longest line, in bytes. What makes one longer is left out of it.
const MAX_LINE_BYTES: usize = 16 << 10;
const EXTENSION: &str = "jsonl";

/// Where the log of an instance is.
pub fn directory(shared_dir: &Path) -> PathBuf {
    shared_dir.join(DIRECTORY)
}

fn file_of(directory: &Path, first_id: u64) -> PathBuf {
    directory.join(format!("{first_id}.{EXTENSION}"))
}

/// The files that there are, by the ids of their first lines, oldest first.
fn files(directory: &Path) -> io::Result<Vec<u64>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let first_id = |name: &str| name.strip_suffix(EXTENSION)?.strip_suffix('.')?.parse().ok();
    let mut firsts: Vec<u64> = entries.filter_map(|entry| first_id(entry.ok()?.file_name().to_str()?)).filter(|first| *first > 0).collect();
    firsts.sort_unstable();
    Ok(firsts)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
