//! The limits that the configuration sets, and the counters that say how often each was met.

use super::types::{Limit, Limits};
use crate::config::Config;
use crate::control::counters::{FrontCounter, WorkerCounter};
use crate::status::Status;

/// Who counts.
#[derive(Clone, Copy, Debug)]
enum Counter {
    Front(FrontCounter),
    Worker(WorkerCounter),
}

use Counter::{Front, Worker};

/// Section, key, and what counts that it was met.
const LIMITS: &[(&str, &str, Counter)] = &[
    ("limits", "connections", Front(FrontCounter::RefusedConnections)),
    ("limits", "connections_per_address", Front(FrontCounter::RefusedPerAddress)),
    ("limits", "pending_connections", Front(FrontCounter::RefusedPending)),
    ("limits", "handshake", Worker(WorkerCounter::HandshakeTimeouts)),
    ("limits", "first_packet", Worker(WorkerCounter::FirstPacketTimeouts)),
    ("limits", "idle", Worker(WorkerCounter::IdleTimeouts)),
    ("limits", "poison_hold", Front(FrontCounter::RefusedPoison)),
    ("limits", "message_bytes", Worker(WorkerCounter::RefusedMessageBytes)),
    ("limits", "chunk_streams", Worker(WorkerCounter::RefusedChunkStreams)),
    ("limits", "unfinished_message_bytes", Worker(WorkerCounter::RefusedUnfinishedBytes)),
    ("limits", "amf_depth", Worker(WorkerCounter::RefusedAmfDepth)),
    ("limits", "name_bytes", Worker(WorkerCounter::RefusedNames)),
    ("limits", "http_head_bytes", Worker(WorkerCounter::RefusedHttpHeads)),
    ("placement", "max_publishers", Front(FrontCounter::RefusedPublishersFull)),
    ("log", "budget", Front(FrontCounter::RefusedDirectoryFull)),
    ("play", "max_lag", Worker(WorkerCounter::ViewerJumps)),
    ("play", "play_wait", Worker(WorkerCounter::PlayWaitTimeouts)),
    ("server", "trusted_proxies", Front(FrontCounter::RefusedUntrusted)),
    ("api", "failures", Worker(WorkerCounter::RefusedApiFailures)),
];

/// What the limits are set to.
#[derive(Debug)]
pub struct Values(Vec<String>);

impl Values {
    /// In a configuration.
    pub fn of(config: &Config) -> Self {
        let value = |(section, key, _): &(&str, &str, _)| config.value(section, key).expect("the table names keys that there are");
        Self(LIMITS.iter().map(value).collect())
    }

    /// How often each was met.
    pub fn now(&self, status: &Status) -> Limits {
        let limit = |((section, key, counter), value): (&(&str, &str, Counter), &String)| {
            let number =
                |map: &serde_json::Map<String, serde_json::Value>, name| map.get(name).and_then(|value| value.as_u64()).unwrap_or(0);
            let (name, met) = match counter {
                Front(counter) => (counter.label(), number(&status.front, counter.label())),
                Worker(counter) => (counter.label(), status.workers.iter().map(|worker| number(&worker.counters, counter.label())).sum()),
            };
            let used = match (*section, *key) {
                ("limits", "connections") => Some(number(&status.front, FrontCounter::Connections.label())),
                ("placement", "max_publishers") => Some(status.workers.iter().map(|worker| u64::from(worker.current)).sum()),
                ("log", "budget") => Some(status.directory.bytes),
                _ => None,
            };
            Limit { key: format!("{section}.{key}"), value: value.trim_matches('"').to_owned(), counter: name.to_owned(), met, used }
        };
        Limits { limits: LIMITS.iter().zip(&self.0).map(limit).collect() }
    }
}
