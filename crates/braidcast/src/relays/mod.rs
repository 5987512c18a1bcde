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
