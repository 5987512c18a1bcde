//! Saving and restoring sessions: a version byte, then postcard. Clocks are saved as time left, never as an instant.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The version that [`save`] writes. A new one must still read this one.
const VERSION: u8 = 1;

/// Why a saved session cannot be continued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RestoreError {
    /// It was saved by a version this one does not know.
    Version(u8),
    /// It is cut short or not a saved session.
    Damaged,
}

impl std::fmt::Display for RestoreError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Version(version) => write!(f, "a saved RTMP session of unknown version {version}"),
            Self::Damaged => f.write_str("a saved RTMP session that is damaged"),
        }
    }
}

impl std::error::Error for RestoreError {}

pub(super) fn save(value: &impl Serialize) -> Vec<u8> {
    postcard::to_extend(value, vec![VERSION]).expect("plain values without maps of unknown length always serialise")
}

pub(super) fn restore<T: DeserializeOwned>(saved: &[u8]) -> Result<T, RestoreError> {
    match saved.split_first() {
        Some((&VERSION, value)) => match postcard::take_from_bytes(value) {
            Ok((value, [])) => Ok(value),
            _ => Err(RestoreError::Damaged),
        },
        Some((&other, _)) => Err(RestoreError::Version(other)),
        None => Err(RestoreError::Damaged),
    }
}

/// Serialises a `Vec<u8>` in one piece; serde's own way goes byte by byte, which shows in a partial message of megabytes.
pub(super) mod byte_string {
    use serde::{Deserializer, Serializer, de};

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        struct Bytes;
        impl de::Visitor<'_> for Bytes {
            type Value = Vec<u8>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a byte string")
            }

            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}
