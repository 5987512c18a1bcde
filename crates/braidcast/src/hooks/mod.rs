//! Hooks: HTTP servers of the operator's that are asked before clients are let in, and told what has happened.

mod action;
mod url;

pub use action::Action;
pub use url::{Place, Url};

/// The most hooks of a configuration.
pub const MAX_HOOKS: usize = 64;
