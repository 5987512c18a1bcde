//! Braidcast: a live streaming server that uses every core of a machine.

mod cli;
mod config;
mod control;
mod front;
mod hls;
mod logging;
mod page;
mod saved;
mod status;
mod worker;

fn main() -> std::process::ExitCode {
    cli::main()
}
