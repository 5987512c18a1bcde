//! The configuration files of SRS: read as SRS reads them, changed so that several SRS processes can serve one site together, and translated
//! into this server's own configuration.
//!
//! [`Site::load`] is the only function here that reads files. Nothing here starts a process or listens.

mod access;
mod directive;
mod equivalents;
mod import;
mod known;
mod read;
mod rules;
mod site;
mod spelling;
mod variables;

pub use directive::print;
pub use read::parse;
pub use rules::{Note, NoteKind, Place};
pub use site::{ApiAuth, Site};

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
