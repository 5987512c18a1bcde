//! The HTTP API: who may use it ([`gate`]), and what each endpoint answers. Decides and writes answers; does no I/O of its own but reading the
//! shared directory. Connections, orders and what else needs a worker are [`crate::worker`]'s.

pub mod answer;
pub mod failures;
pub mod gate;
pub mod v2;

pub use answer::Answer;
