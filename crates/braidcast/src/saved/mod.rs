//! Where sessions are kept so that they outlive their worker: a table of rows that all processes share, and a heap for each
//! worker. Bytes: `docs/formats/saved-sessions.md`.
//!
//! Nothing here knows what a session is. A row and what it points to are written by the worker that has the session, and read
//! by another one only when that worker is dead or has handed the session over.

pub mod heap;
pub mod packed;
mod room;
pub mod rows;

pub use heap::{Block, Heap, HeapId};
pub use room::Room;
pub use rows::{RowId, Rows};

use std::path::{Path, PathBuf};

/// The directory of rows and heaps.
pub fn directory(shared_dir: &Path) -> PathBuf {
    shared_dir.join("sessions")
}
