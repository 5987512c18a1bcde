//! Hooks: HTTP servers of the operator's that are asked before clients are let in, and told what has happened.

mod action;
pub(crate) mod answer;
mod ask;
mod call;
mod circuit;
mod event;
pub mod page;
mod position;
mod process;
mod queue;
mod serve;
mod source;
mod tell;
mod url;

pub use action::Action;
pub use event::Event;
pub use serve::serve;
pub use url::{Place, Url};

/// The most hooks of a configuration.
pub const MAX_HOOKS: usize = 64;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
