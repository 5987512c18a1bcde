//! The file `hls/source`: whose segments the newest ones are.
//!
//! Written before the first segment that does not continue the one before it, and never between segments that follow each other: so
//! it says of each later segment which one of the server's it was. Layout as of `state` ([`super::super::state`]), with the magic
//! word `BRAIDSRC`.

use crate::hls::files;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;

const NAME: &str = "source";
const MAGIC: &[u8; 8] = b"BRAIDSRC";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 16;

/// Where segments come from, from one of them on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Origin {
    /// The process that wrote them.
    pub process: u16,
    /// Which start of it.
    pub run: u64,
    /// The number here of the first one.
    pub number: u64,
    /// Its number there (`EXT-X-MEDIA-SEQUENCE` and on).
    pub sequence: u64,
}

impl Origin {
    /// Reads a directory's; `None` if there is none, or none that can be used.
    pub(super) fn load(directory: &Path) -> io::Result<Option<Self>> {
        Ok(files::read_if_there(&directory.join(NAME))?.and_then(|bytes| Self::decode(&bytes)))
    }

    /// Replaces a directory's.
    pub(super) fn store(&self, directory: &Path) -> io::Result<()> {
        let body = postcard::to_stdvec(self).expect("the origin holds only types that can be encoded");
        let head = [&MAGIC[..], &VERSION.to_le_bytes(), &crc32fast::hash(&body).to_le_bytes()].concat();
        files::replace(directory, NAME, &[head, body].concat())
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (header, body) = bytes.split_first_chunk::<HEADER_BYTES>()?;
        let known = [&MAGIC[..], &VERSION.to_le_bytes(), &crc32fast::hash(body).to_le_bytes()].concat();
        if header[..] != known[..] {
            return None;
        }
        postcard::from_bytes(body).ok()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn an_origin_is_read_back_and_a_damaged_one_is_none() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Origin::load(directory.path()).unwrap(), None);
        let origin = Origin { process: 3, run: u64::MAX, number: 7, sequence: 300 };
        origin.store(directory.path()).unwrap();
        assert_eq!(Origin::load(directory.path()).unwrap(), Some(origin));
        let bytes = fs::read(directory.path().join(NAME)).unwrap();
        for index in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[index] ^= 0x10;
            assert_eq!(Origin::decode(&damaged), None, "byte {index}");
            assert_eq!(Origin::decode(&bytes[..index]), None, "cut at {index}");
        }
    }
}
