//! Log lines: one for each event, for people or for programs, on standard error or in a file.
//!
//! Which lines are written is said by level and room, in the configuration and while the process runs. A file is opened by the front alone, and
//! is every process's standard error, so that what a process says when it panics is there too. Lines that a peer can trigger go through a
//! [`RateLimit`], so that nobody fills a disk from outside.

mod file;
mod lines;
mod rate_limit;
mod requests;
mod rooms;

pub use file::{LogFiles, take_lines};
pub use rate_limit::RateLimit;
pub use requests::{RequestLog, Requested};
pub use rooms::{Room, RoomLevel};

use crate::config::{Config, LogLevel};
use lines::Lines;
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::sync::{Mutex, OnceLock, PoisonError};
use tracing_subscriber::Registry;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

/// The variable with levels by module; it goes before the configured levels.
const FILTER_VARIABLE: &str = "BRAIDCAST_LOG";

/// What this process logs, since [`start`]. The library that writes lines has one place for the whole process too.
static LEVELS: OnceLock<Mutex<Levels>> = OnceLock::new();

struct Levels {
    handle: reload::Handle<Targets, Registry>,
    base: Targets,
    changed: BTreeMap<Room, LogLevel>,
}

/// Starts logging for this process; `role` is `front`, `worker` and its id, or an attendant's. `BRAIDCAST_LOG`, where it is set and makes sense,
/// goes before the configured levels. A second call, with another configuration, changes the levels alone.
pub fn start(config: &Config, role: &str) {
    let configured = || {
        let levels = config.logging.levels.iter().map(|RoomLevel { room, level }| (*room, *level));
        with_rooms(Targets::new().with_default(filter_of(config.server.log_level)), levels)
    };
    let from_environment = std::env::var(FILTER_VARIABLE).ok().filter(|text| !text.is_empty()).map(|text| (text.parse::<Targets>(), text));
    let (base, rejected) = match from_environment {
        Some((Ok(filter), _)) => (filter, None),
        Some((Err(error), text)) => (configured(), Some((error, text))),
        None => (configured(), None),
    };
    if let Some(levels) = LEVELS.get() {
        let mut levels = levels.lock().unwrap_or_else(PoisonError::into_inner);
        levels.base = base;
        return levels.apply();
    }
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let lines = Lines { role: role.to_owned(), format: config.logging.format };
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(colour).event_format(lines);
    let (filter, handle) = reload::Layer::new(base.clone());
    let started = tracing_subscriber::registry().with(filter).with(lines).try_init().is_ok();
    if started && LEVELS.set(Mutex::new(Levels { handle, base, changed: BTreeMap::new() })).is_err() {
        unreachable!("logging is started once");
    }
    if let (true, Some((error, text))) = (started, rejected) {
        tracing::warn!(%error, "{FILTER_VARIABLE}={text:?} is no list of levels; using the configuration");
    }
}

/// Gives rooms other levels than they were configured with, until the process ends. All levels that were changed are said each time.
pub fn set_levels(changed: &[RoomLevel]) {
    if let Some(levels) = LEVELS.get() {
        let mut levels = levels.lock().unwrap_or_else(PoisonError::into_inner);
        levels.changed = changed.iter().map(|RoomLevel { room, level }| (*room, *level)).collect();
        levels.apply();
    }
}

impl Levels {
    fn apply(&self) {
        let rooms = self.changed.iter().map(|(room, level)| (*room, *level));
        if let Err(error) = self.handle.reload(with_rooms(self.base.clone(), rooms)) {
            tracing::error!(%error, "the levels of log lines cannot be changed");
        }
    }
}

fn with_rooms(base: Targets, rooms: impl Iterator<Item = (Room, LogLevel)>) -> Targets {
    rooms.fold(base, |targets, (room, level)| {
        room.targets().iter().fold(targets, |targets, target| targets.with_target(*target, filter_of(level)))
    })
}

fn filter_of(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}
