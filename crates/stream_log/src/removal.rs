//! Removing a stream's directory while others may be looking at it.
//!
//! The directory is moved out of the way in one step, so that nobody ever sees half of it, and a new log can be made
//! at once. Who still has the old one open sees [`State::Disposed`].

use crate::head::{Head, State};
use crate::{OpenError, Root, recovery};
use braidcast_media::StreamKey;
use braidcast_sys::clock;
use braidcast_sys::fault::kill_point;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::{fs, io};

/// Where directories lie while they are deleted. No stream's name encodes to one with a leading dot.
const DISPOSED: &str = ".disposed";

/// What became of a stream's directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposal {
    /// It is gone, with log, segments and indexes.
    Removed,
    /// There was none.
    Absent,
}

/// Removes a stream's directory. [`OpenError::Locked`] if somebody publishes the stream.
pub fn dispose(root: &Root, key: &StreamKey) -> Result<Disposal, OpenError> {
    let path = root.stream_dir(key);
    if !path.exists() {
        return Ok(Disposal::Absent);
    }
    let Some((_, head)) = recovery::lock(&path)? else { return Ok(Disposal::Absent) };
    mark(&head);
    kill_point("disposed");
    move_away_and_delete(root, &path)?;
    Ok(Disposal::Removed)
}

fn mark(head: &Head) {
    // What is no head of ours has no readers either.
    if head.check().is_ok() {
        head.set_state(State::Disposed);
    }
}

/// Deletes what removals left that were cut short by a death. For the start of an instance, before others run.
pub fn clear_disposed(root: &Root) -> io::Result<()> {
    ignore_missing(fs::remove_dir_all(root.streams_dir().join(DISPOSED)))
}

/// Moves a directory, whose head is locked, out of the way, and deletes it.
pub(crate) fn move_away_and_delete(root: &Root, path: &Path) -> io::Result<()> {
    /// Tells the removals of one process apart.
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let grave = root.streams_dir().join(DISPOSED);
    fs::create_dir_all(&grave)?;
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let moved = grave.join(format!("{}-{}-{count}", std::process::id(), clock::monotonic_us()));
    fs::rename(path, &moved)?;
    kill_point("moved");
    ignore_missing(fs::remove_dir_all(&moved))?;
    // The app's and the vhost's directory go with their last stream; that others are still there is no error.
    for parent in path.ancestors().skip(1).take(2) {
        if fs::remove_dir(parent).is_err() {
            break;
        }
    }
    Ok(())
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
