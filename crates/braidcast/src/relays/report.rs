//! What is known of forwards and pulls, for `status`: a file of each process that has some, written anew when something has changed.

use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The end of such a file's name.
const SUFFIX: &str = ".relays";

/// Whether a stream leaves or comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = RelayKind)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// It is pushed to another server.
    Forward,
    /// It is pulled from another server.
    Pull,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = RelayState)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// The other server is looked for, connected to, asked.
    Connecting,
    /// The stream flows.
    Running,
    /// It failed, or ended, and is tried again later.
    Waiting,
}

impl State {
    /// In words.
    pub fn label(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Running => "running",
            Self::Waiting => "waiting",
        }
    }
}

/// One forward or pull.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Relay {
    /// Which of the two.
    pub kind: Kind,
    /// The stream here, as it is shown elsewhere.
    pub stream: String,
    /// The other server's URL, without its secrets.
    pub url: String,
    /// How far it is.
    pub state: State,
    /// Since when, wall clock, milliseconds since 1970.
    pub since_wall_ms: u64,
    /// The worker that has it; `null` while none has.
    pub worker: Option<u16>,
    /// Bytes sent or received, over all connections since it began; of HLS, what the external program received is not known.
    pub bytes: u64,
    /// How often it was connected anew.
    pub reconnects: u64,
    /// Why the last connection failed or ended.
    pub error: Option<String>,
}

/// What a process has written.
#[derive(Debug, Default, Serialize, Deserialize)]
struct File {
    pid: u32,
    relays: Vec<Relay>,
}

fn path(shared_dir: &Path, who: &str) -> PathBuf {
    shared_dir.join("workers").join(format!("{who}{SUFFIX}"))
}

/// Writes what a process (`front`, or a worker's id) has. Readers see the file before or the one after.
pub fn write(shared_dir: &Path, who: &str, relays: &[Relay]) -> io::Result<()> {
    let path = path(shared_dir, who);
    let part = path.with_extension("part");
    let file = File { pid: std::process::id(), relays: relays.to_vec() };
    fs::write(&part, serde_json::to_vec(&file).map_err(io::Error::other)?)?;
    fs::rename(&part, &path)
}

/// What the processes have that are alive: `(who, pid)`. Of a pull the front knows how it gets on, and its worker how much has come.
pub fn read(shared_dir: &Path, processes: &[(String, u32)]) -> Vec<Relay> {
    let mut relays: Vec<Relay> = Vec::new();
    for (who, pid) in processes {
        let file = fs::read(path(shared_dir, who)).ok().and_then(|bytes| serde_json::from_slice::<File>(&bytes).ok()).unwrap_or_default();
        relays.extend(file.relays.into_iter().filter(|_| file.pid == *pid));
    }
    let mut bytes = std::collections::HashMap::new();
    relays.retain(|relay| {
        let of_worker = relay.kind == Kind::Pull && relay.url.is_empty();
        if of_worker {
            *bytes.entry(relay.stream.clone()).or_insert(0) += relay.bytes;
        }
        !of_worker
    });
    for relay in relays.iter_mut().filter(|relay| relay.kind == Kind::Pull) {
        relay.bytes = bytes.get(&relay.stream).copied().unwrap_or(0);
    }
    relays.sort_by(|a, b| (a.kind, &a.stream, &a.url).cmp(&(b.kind, &b.stream, &b.url)));
    relays
}
