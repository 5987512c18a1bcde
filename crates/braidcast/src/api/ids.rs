//! The names by which SRS's API and hooks call vhosts, streams, clients and the server: the same from every process, and for as long as
//! what they name is there.

use crate::control::ConnId;
use crate::relays;
use braidcast_media::StreamKey;
use std::path::Path;

/// Characters behind `vid-`: some 51 bits.
const ID_CHARACTERS: usize = 10;
const SERVICE_CHARACTERS: usize = 8;

/// A vhost's id.
pub fn vhost_id(vhost: &str) -> String {
    format!("vid-{}", letters(&[b"vhost", vhost.as_bytes()], ID_CHARACTERS))
}

/// A stream's id.
pub fn stream_id(key: &StreamKey) -> String {
    format!("vid-{}", letters(&[b"stream", key.vhost().as_bytes(), key.app().as_bytes(), key.stream().as_bytes()], ID_CHARACTERS))
}

/// A client's id: the one it has in the log.
pub fn client_id(conn: ConnId) -> String {
    conn.to_string()
}

/// The client of an id.
pub fn client_of(id: &str) -> Option<ConnId> {
    let digits = id.strip_prefix('c')?;
    let number = digits.parse().ok()?;
    // No other spelling of the same number.
    (number > 0 && client_id(ConnId(number)) == id).then_some(ConnId(number))
}

/// This server's id: the configured one (`[hooks] server_id`), or one that is the same for as long as its shared directory is there.
pub fn server_id(shared_dir: &Path, configured: &str) -> String {
    if !configured.is_empty() {
        return configured.to_owned();
    }
    let instance = relays::instance_id(shared_dir).unwrap_or_default();
    format!("vid-{}", letters(&[b"server", instance.as_bytes()], ID_CHARACTERS))
}

/// The id of one run of this server: it began at `started_wall_ms`.
pub fn service_id(shared_dir: &Path, started_wall_ms: u64) -> String {
    let instance = relays::instance_id(shared_dir).unwrap_or_default();
    letters(&[b"service", instance.as_bytes(), &started_wall_ms.to_be_bytes()], SERVICE_CHARACTERS)
}

/// Letters and digits that follow from what is named; the same in every version of this program (FNV-1a, then base 36).
fn letters(parts: &[&[u8]], count: usize) -> String {
    const ALPHABET: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for part in parts {
        for byte in part.iter().chain(&[0]) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    // The high bits of the sum are the better ones.
    hash ^= hash >> 29;
    let mut rest = hash;
    let mut text = String::with_capacity(count);
    for _ in 0..count {
        text.push(char::from(ALPHABET[(rest % 36) as usize]));
        rest /= 36;
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn ids_are_those_of_what_they_name_for_ever() {
        let key = StreamKey::new("__defaultVhost__", "live", "x").unwrap();
        // These must not change with a version: an upgrade goes on with what is there.
        assert_eq!(stream_id(&key), "vid-ltjcgmyq9z");
        assert_eq!(vhost_id("__defaultVhost__"), "vid-fcb2lyr28s");
    }

    #[test]
    fn many_streams_have_many_ids() {
        let streams = (0..50_000).map(|n| StreamKey::new("v", "live", &format!("cam{n}")).unwrap());
        let ids: HashSet<String> = streams.map(|key| stream_id(&key)).collect();
        assert_eq!(ids.len(), 50_000);
        assert!(ids.iter().all(|id| id.len() == 14));
    }

    #[test]
    fn parts_are_not_run_together() {
        let a = StreamKey::new("v", "ab", "c").unwrap();
        let b = StreamKey::new("v", "a", "bc").unwrap();
        assert_ne!(stream_id(&a), stream_id(&b));
    }

    #[test]
    fn a_client_is_found_by_its_own_id_alone() {
        assert_eq!(client_of(&client_id(ConnId(17))), Some(ConnId(17)));
        for bad in ["", "c", "c0", "c017", "17", "o17", "c-1", "c1 ", "c99999999999999999999"] {
            assert_eq!(client_of(bad), None, "{bad}");
        }
    }
}
