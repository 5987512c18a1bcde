//! The stream log: an append-only log of FLV blocks per stream, in a directory that all processes share.
//!
//! One writer per stream, whoever holds the lock; any number of readers in any process. A reader never writes into a
//! stream's files, and nothing a reader does can slow or stop the writer. The bytes are described in
//! `docs/formats/stream-log.md`.
//!
//! This crate never looks into a tag beyond what [`braidcast_media::TagInfo`] says, and knows nothing of protocols.

mod batch;
pub mod doorbell;
mod head;
mod headers;
mod options;
pub mod path;
mod reader;
mod recovery;
mod recycling;
mod removal;
mod saved;
mod timeline;
mod writer;

pub use batch::AppendError;
pub use doorbell::{Doorbells, WorkerPage, WorkerView};
pub use head::{BlockInfo, Counters, MAX_BLOCKS, Position, State, VERSION};
pub use options::LogOptions;
pub use path::Root;
pub use reader::{Ahead, BlockMap, Reader};
pub use recovery::OpenError;
pub use removal::{Disposal, clear_disposed, dispose};
pub use saved::{SavedHeaders, SavedWriter};
pub use writer::{Gathering, Writer};

use braidcast_sys::clock;

/// The time, as one turn of a worker sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// `CLOCK_MONOTONIC`, milliseconds: the same in all processes of a machine.
    pub mono_ms: u64,
    /// Wall clock, milliseconds since 1970; may step.
    pub wall_ms: u64,
}

impl Now {
    /// Reads both clocks.
    pub fn read() -> Self {
        Self { mono_ms: clock::monotonic_ms(), wall_ms: clock::wall_ms() }
    }
}
