//! The HTTP API over native workers: what is asked is answered from the shared directory alone, by any worker, without asking another.
//!
//! [`v1`] is SRS's API; [`machine`] is what it says of processes and machine, sampled by the front. Nothing here listens, reads a request
//! from a socket, or decides who may ask.

pub mod ids;
pub mod machine;
pub mod tracks;
pub mod v1;
