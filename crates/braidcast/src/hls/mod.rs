//! HLS on disk: a stream's `hls/` directory, and the driver that fills it from the stream's log.
//!
//! Whoever holds the stream's writer lock may own a [`StreamSegmenter`] (and with it a [`SegmentStore`]) of that stream; nobody
//! else writes here, except that [`collect`] does for streams that other servers segment. Any process may read: [`serve`] makes the
//! answers of the HTTP side from the files alone.

pub mod cli;
mod collect;
pub mod context;
mod driver;
#[cfg(test)]
mod encoder_tests;
pub mod files;
mod scan;
pub mod serve;
mod state;
mod store;
pub mod survey;

pub use collect::Collector;
pub use driver::{Options, StreamSegmenter};
pub use state::SavedState;
pub use store::{SegmentStore, StoreOptions};

/// The name of the live index in a stream's `hls/` directory.
pub const INDEX: &str = "index.m3u8";
