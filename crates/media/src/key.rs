//! The name of a stream: vhost, app and stream, checked once and safe to use from then on.
//!
//! A [`StreamKey`] never holds an empty part, a control character, `\`, a `.` or `..` path segment or a part that is too long.
//! It says nothing about paths: the one function that turns a key into a directory is in the stream log.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::sync::Arc;

/// The vhost of a client that named none, or named an IP address or a host without a dot (SRS's convention).
pub const DEFAULT_VHOST: &str = "__defaultVhost__";

/// The longest part of a key, in bytes. A percent-encoded part (3 bytes a byte at most) still fits a file name's 255.
pub const MAX_PART_BYTES: usize = 80;

/// Identifies a stream on this server.
///
/// Cheap to copy: many clients are of one stream.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamKey(Arc<Parts>);

#[derive(PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
struct Parts {
    vhost: Box<str>,
    app: Box<str>,
    stream: Box<str>,
}

impl fmt::Debug for StreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Parts { vhost, app, stream } = &*self.0;
        f.debug_struct("StreamKey").field("vhost", vhost).field("app", app).field("stream", stream).finish()
    }
}

impl Serialize for StreamKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for StreamKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(Arc::new(Parts::deserialize(deserializer)?)))
    }
}

/// Why a name that a peer sent is not a stream's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyError {
    /// A part is empty.
    Empty(&'static str),
    /// A part is longer than [`MAX_PART_BYTES`].
    TooLong(&'static str),
    /// A part holds a character or a path segment that no name may hold.
    Forbidden(&'static str),
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty(part) => write!(f, "the {part} is empty"),
            Self::TooLong(part) => write!(f, "the {part} is longer than {MAX_PART_BYTES} bytes"),
            Self::Forbidden(part) => write!(f, "the {part} holds a character or path segment that is not allowed"),
        }
    }
}

impl std::error::Error for KeyError {}

impl StreamKey {
    /// Checks the three parts of a name. `app` may have several levels (`a/b`); vhost and stream have no slash.
    pub fn new(vhost: &str, app: &str, stream: &str) -> Result<Self, KeyError> {
        check("vhost", vhost, false)?;
        check("app", app, true)?;
        check("stream", stream, false)?;
        Ok(Self(Arc::new(Parts { vhost: vhost.into(), app: app.into(), stream: stream.into() })))
    }

    /// The virtual host, `__defaultVhost__` if none was named.
    pub fn vhost(&self) -> &str {
        &self.0.vhost
    }

    /// The application; several levels are separated by `/`.
    pub fn app(&self) -> &str {
        &self.0.app
    }

    /// The stream's own name.
    pub fn stream(&self) -> &str {
        &self.0.stream
    }

    /// A slot in `0..65536` that stands for this stream in the workers' "who reads what" bitmaps. Two streams may share one.
    pub fn slot(&self) -> u16 {
        // FNV-1a: every process must come to the same slot, so the standard library's seeded hash does not do.
        let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
        for part in [&self.0.vhost, &self.0.app, &self.0.stream] {
            for byte in part.bytes().chain([0]) {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
        (hash ^ (hash >> 16) ^ (hash >> 32) ^ (hash >> 48)) as u16
    }
}

impl fmt::Display for StreamKey {
    /// `app/stream`, or `vhost/app/stream` when the vhost is not the default one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.vhost() != DEFAULT_VHOST {
            write!(f, "{}/", self.vhost())?;
        }
        write!(f, "{}/{}", self.app(), self.stream())
    }
}

fn check(part: &'static str, text: &str, slashes: bool) -> Result<(), KeyError> {
    if text.is_empty() {
        return Err(KeyError::Empty(part));
    }
    if text.len() > MAX_PART_BYTES {
        return Err(KeyError::TooLong(part));
    }
    let bad_character = |c: char| c.is_control() || c == '\\' || (c == '/' && !slashes);
    let bad_segment = |segment: &str| segment.is_empty() || segment == "." || segment == "..";
    if text.contains(bad_character) || text.split('/').any(bad_segment) {
        return Err(KeyError::Forbidden(part));
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn path_tricks_are_refused() {
        for stream in ["..", ".", "a/b", "a\\b", "a\0b", "a\nb", ""] {
            assert!(StreamKey::new("v", "live", stream).is_err(), "{stream:?}");
        }
        for app in ["..", "a//b", "/a", "a/", "a/../b", ""] {
            assert!(StreamKey::new("v", app, "s").is_err(), "{app:?}");
        }
        assert!(StreamKey::new("v", "a/b", "s").is_ok());
        assert!(StreamKey::new("v", "a", &"x".repeat(MAX_PART_BYTES + 1)).is_err());
    }

    #[test]
    fn keys_that_join_to_the_same_text_differ_in_slot() {
        let one = StreamKey::new("v", "a/b", "c").unwrap();
        let two = StreamKey::new("v", "a", "b").unwrap();
        assert_ne!(one.slot(), two.slot());
    }

    #[test]
    fn the_default_vhost_is_not_shown() {
        assert_eq!(StreamKey::new(DEFAULT_VHOST, "live", "x").unwrap().to_string(), "live/x");
        assert_eq!(StreamKey::new("a.b", "live", "x").unwrap().to_string(), "a.b/live/x");
    }
}
