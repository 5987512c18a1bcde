//! Streams that go to other servers or come from them: which ones, where to, what is told of them. No I/O but the files of
//! [`report`]; who connects is the workers' business, who pulls what the front's.

pub mod pattern;
pub mod report;
pub mod url;

pub use pattern::Pattern;
pub use url::{Endpoint, Scheme, Template};

use crate::config::{Config, Forward, Pull, When};
use braidcast_media::StreamKey;
use std::path::Path;

/// Where a server's own name for loops lies in the shared directory.
const INSTANCE_FILE: &str = "instance.id";
/// The first pause before a connection is tried again, milliseconds.
const FIRST_PAUSE_MS: u64 = 1_000;
/// Bytes of randomness in that name.
const INSTANCE_BYTES: usize = 10;

/// Who a server is, for others that a stream passes through: random, the same for as long as the shared directory is there. Made by
/// the front at its first start.
pub fn instance_id(shared_dir: &Path) -> std::io::Result<String> {
    let path = shared_dir.join(INSTANCE_FILE);
    if let Ok(id) = std::fs::read_to_string(&path)
        && id.len() == 2 * INSTANCE_BYTES
        && id.bytes().all(|byte| byte.is_ascii_hexdigit())
    {
        return Ok(id);
    }
    let mut random = [0; INSTANCE_BYTES];
    std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut random)?;
    let id: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    std::fs::write(&path, &id)?;
    Ok(id)
}

/// The name of its file, for whoever empties the shared directory.
pub fn instance_file() -> &'static str {
    INSTANCE_FILE
}

/// The pause before another try: 1 s, then twice as long each time, up to `most_ms`; shortened by up to a quarter, so that many do not come at
/// once.
pub fn pause_ms(failures: u32, most_ms: u64, random: u64) -> u64 {
    let pause_ms = FIRST_PAUSE_MS.saturating_mul(1 << failures.saturating_sub(1).min(20)).min(most_ms);
    // The low bits of clocks and counters differ least.
    pause_ms - (random.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) % (pause_ms / 4 + 1)
}

impl Forward {
    /// Whether a stream is to be forwarded.
    pub fn takes(&self, key: &StreamKey) -> bool {
        self.streams.matches(key) && (self.vhost.is_empty() || self.vhost.eq_ignore_ascii_case(key.vhost()))
    }
}

impl Pull {
    /// Whether this says where a stream comes from.
    pub fn gives(&self, key: &StreamKey) -> bool {
        let vhost = if self.vhost.is_empty() { braidcast_media::key::DEFAULT_VHOST } else { &self.vhost };
        vhost.eq_ignore_ascii_case(key.vhost()) && self.stream.matches(key)
    }

    /// The one stream that is always pulled; `None` if it is pulled on demand.
    pub fn always(&self) -> Option<StreamKey> {
        if self.when != When::Always {
            return None;
        }
        let vhost = if self.vhost.is_empty() { braidcast_media::key::DEFAULT_VHOST } else { &self.vhost };
        let (app, stream) = self.stream.as_str().rsplit_once('/')?;
        StreamKey::new(vhost, app, stream).ok()
    }
}

impl Config {
    /// The first rule by which a stream is pulled when somebody asks for it, and its place.
    pub fn pull_on_demand(&self, key: &StreamKey) -> Option<(usize, &Pull)> {
        self.pull.iter().enumerate().find(|(_, pull)| pull.when == When::Demand && pull.gives(key))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_differ_a_little() {
        assert_eq!([1, 2, 3, 6, 99].map(|failures| pause_ms(failures, 30_000, 0)), [1_000, 2_000, 4_000, 30_000, 30_000]);
        let pauses: std::collections::HashSet<u64> = (0..100).map(|random| pause_ms(1, 30_000, random)).collect();
        assert!(pauses.len() > 50 && pauses.iter().all(|pause| (750..=1_000).contains(pause)), "{pauses:?}");
    }

    fn config(json: &str) -> Config {
        Config::from_json(json).unwrap()
    }

    #[test]
    fn rules_are_about_streams_of_a_vhost() {
        let key = |vhost| StreamKey::new(vhost, "live", "x").unwrap();
        let default = braidcast_media::key::DEFAULT_VHOST;
        let forward = config("{\"forward\":[{\"streams\":\"live/*\"},{\"streams\":\"live/*\",\"vhost\":\"A.b\"}]}").forward;
        assert!(forward[0].takes(&key(default)) && forward[0].takes(&key("a.b")));
        assert!(!forward[1].takes(&key(default)) && forward[1].takes(&key("a.b")));
        let config = config(
            "{\"pull\":[{\"stream\":\"live/x\",\"from\":\"rtmp://h/a/b\",\"when\":\"always\"},{\"stream\":\"live/*\",\"from\":\"rtmp://h/a/b\"},{\"stream\":\"**\",\"from\":\"rtmp://h/a/b\",\"vhost\":\"a.b\"}]}",
        );
        assert_eq!((config.pull[0].always(), config.pull[1].always()), (Some(key(default)), None));
        assert_eq!(config.pull_on_demand(&key("a.b")).map(|(place, _)| place), Some(2));
        assert_eq!(config.pull_on_demand(&key(default)).map(|(place, _)| place), Some(1));
    }

    #[test]
    fn a_server_keeps_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let id = instance_id(directory.path()).unwrap();
        assert_eq!((instance_id(directory.path()).unwrap(), id.len()), (id.clone(), 2 * INSTANCE_BYTES));
        std::fs::write(directory.path().join(INSTANCE_FILE), "rubbish").unwrap();
        assert_ne!(instance_id(directory.path()).unwrap(), id);
    }
}
