//! What monitoring reads at `/metrics`: the series of SRS and our own, of the whole instance, whichever worker is asked.
//!
//! Everything is read from the shared directory; nobody is asked and nothing is written. It takes as long as there are streams, so a worker
//! has it done by a thread (`worker/metrics`) and goes on.

mod docs;
mod exposition;
mod families;
mod gather;
mod labels;
mod own_use;
mod streams;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

pub use docs::markdown;
pub use exposition::Form;
pub use gather::{Scope, gather};
pub use own_use::OwnUse;
