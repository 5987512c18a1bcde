//! Braidcast: a live streaming server that uses every core of a machine.
//!
//! The program's only entry is [`main`]; [`fuzzing`] is what the fuzz targets of this crate's parsers call.

mod access;
mod api;
mod attendant;
mod cli;
mod clients;
mod config;
mod control;
mod engine;
mod events;
mod front;
pub mod fuzzing;
mod hls;
mod hooks;
mod jobs;
mod logging;
mod metrics;
mod page;
mod relays;
mod sandbox;
mod saved;
mod srs_conf;
mod status;
mod tls;
mod watched;
mod worker;

/// Which version this is. Tests upgrade from one to another.
const VERSION: &str = if cfg!(feature = "faults") { concat!(env!("CARGO_PKG_VERSION"), "-faults") } else { env!("CARGO_PKG_VERSION") };

/// Runs the command that the program's arguments name.
pub fn main() -> std::process::ExitCode {
    // Fronts start workers, and each other, by a name that says nothing.
    let _ = braidcast_sys::process::set_name(c"braidcast");
    cli::main()
}
