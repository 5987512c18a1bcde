//! The load generator and the comparison runs behind `braidcast bench …`.
//!
//! One process publishes a synthetic stream, plays it many times over and measures what the server spent on it; the
//! servers it compares run as children, alone on a core. Nothing here is linked into the serving path, and no figure
//! ever changes the exit code: only a harness that failed or a frame that a verified viewer missed does.

mod arguments;
mod bare;
mod chart;
pub mod cli;
mod commands;
mod compare;
mod conclude;
mod crowd;
mod document;
mod drawing;
mod flame;
mod flv;
mod hls_ts;
mod hls_viewer;
mod load;
mod namespace;
mod pace;
mod peers;
mod process;
mod progress;
mod publisher;
mod report;
mod rtmp;
mod shares;
mod sink;
mod socket;
mod source;
mod targets;
mod url;
mod verify;
mod viewer;
mod visitor;

pub use cli::{Command, run};
