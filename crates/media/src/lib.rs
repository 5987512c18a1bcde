//! What flows through Braidcast: records (FLV tags), what a record holds, and the names of streams.
//!
//! This crate does no I/O and keeps no state of a connection.

pub mod annex_b;
pub mod bits;
pub mod choice;
pub mod details;
pub mod flv;
pub mod key;
pub mod tag;
pub mod vhost;

pub use choice::TrackChoice;
pub use flv::{RecordHeader, RecordKind};
pub use key::{KeyError, StreamKey};
pub use tag::TagInfo;
