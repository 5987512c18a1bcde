//! What is known of the processes, for `status`: a file that the front writes anew when something has changed.

use super::DIRECTORY;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

/// The file's name.
const NAME: &str = "processes.json";

/// All of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// `srs` or `external`.
    pub kind: String,
    /// By id.
    pub processes: Vec<Process>,
    /// What is published through relays, by name.
    pub streams: Vec<Published>,
}

/// A stream that is published through a relay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Published {
    /// Its vhost.
    pub vhost: String,
    /// Its app.
    pub app: String,
    /// Its own name.
    pub stream: String,
    /// The process that has it.
    pub process: u16,
    /// The worker that it goes through.
    pub worker: u16,
    /// The address that it is published from; a port of 0.
    pub publisher: SocketAddr,
    /// Since when, wall clock, milliseconds since 1970.
    pub since_wall_ms: u64,
}

/// A process of another server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Process {
    /// From 1.
    pub id: u16,
    /// Its number; 0 if there is none.
    pub pid: u32,
    /// `empty`, `starting`, `ready`, `restarting`, `draining`, `stopping`.
    pub state: String,
    /// The most publishers it may have; `null`: no limit of its own.
    pub allowed: Option<u32>,
    /// Publishers that count against that, reservations included.
    pub current: u32,
    /// How many more it may take; `null`: no limit of its own.
    pub free: Option<u32>,
    /// Players that were connected to it by relays.
    pub viewers: u32,
    /// Its share of the publishers.
    pub weight: u32,
    /// How often it was started again after it had ended by itself or was killed.
    pub restarts: u32,
    /// When it was started, wall clock, milliseconds since 1970; 0 if there is none.
    pub started_wall_ms: u64,
    /// Share of one core used, per mille, as it says itself.
    pub cpu_permille: u32,
    /// What it was started from, or will be.
    pub program: String,
    /// Where it speaks RTMP.
    #[schema(value_type = Option<String>)]
    pub rtmp: Option<SocketAddr>,
    /// Where it speaks HTTP.
    #[schema(value_type = Option<String>)]
    pub http: Option<SocketAddr>,
    /// Where its HTTP API is.
    #[schema(value_type = Option<String>)]
    pub api: Option<SocketAddr>,
    /// Why it does not answer, if it does not.
    pub silent: Option<String>,
}

impl Report {
    /// Writes it. Readers see the file before or the one after.
    pub fn write(&self, shared_dir: &Path) -> io::Result<()> {
        let directory = shared_dir.join(DIRECTORY);
        let part = directory.join(format!("{NAME}.part"));
        fs::create_dir_all(&directory)?;
        fs::write(&part, serde_json::to_vec(self)?)?;
        fs::rename(part, directory.join(NAME))
    }

    /// Reads it; `None` if there is none.
    pub fn read(shared_dir: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(shared_dir.join(DIRECTORY).join(NAME)).ok()?).ok()
    }
}
