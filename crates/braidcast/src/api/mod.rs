//! The HTTP API: who may use it ([`gate`]), and what each endpoint answers. Decides and writes answers; does no I/O of its own but reading the
//! shared directory. Connections, orders and what else needs a worker are [`crate::worker`]'s.
//!
//! [`v1`] is SRS's API, [`v2`] our own; [`machine`] is what the former says of processes and machine, sampled by the front.

pub mod answer;
pub mod failures;
pub mod gate;
pub mod ids;
pub mod machine;
pub mod tracks;
pub mod v1;
pub mod v2;

pub use answer::Answer;
