//! The file `hls/state`: where a segmenter goes on after its process died.
//!
//! Rewritten by a rename at the end of each segment. Layout: the magic word `BRAIDHLS`, version (u32), CRC-32 of the rest (u32), then
//! a [`SavedState`] in postcard's encoding; numbers little-endian. A file of another version or with a wrong checksum is no state:
//! the segmenter then starts after the highest segment there is.

use super::files;
use braidcast_protocols::hls::SegmenterState;
use braidcast_stream_log::Position;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;

const NAME: &str = "state";
const MAGIC: &[u8; 8] = b"BRAIDHLS";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 16;

/// What is kept across a restart, as of the end of the last finished segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedState {
    /// The segmenter itself; its `next_number` is the number of the segment that opens at `block`, `offset`.
    pub segmenter: SegmenterState,
    /// Log block in which the next segment opens; 0: at the log's beginning.
    pub block: u32,
    /// Offset in that block.
    pub offset: u32,
    /// The publisher whose records the last segment holds.
    pub epoch: u32,
    /// The longest segment that the live index ever named, in 1/90,000 s.
    pub longest_90k: u64,
    /// What the live index's window is to last, in milliseconds.
    pub window_ms: u64,
    /// The live index ends: the stream is over.
    pub ended: bool,
}

impl SavedState {
    /// The log position where the next segment opens.
    pub fn position(&self) -> Position {
        Position { block: self.block, offset: self.offset }
    }

    /// Reads a directory's state; `None` if there is none, or none that can be used.
    pub fn load(directory: &Path) -> io::Result<Option<Self>> {
        Ok(files::read_if_there(&directory.join(NAME))?.and_then(|bytes| Self::decode(&bytes)))
    }

    /// Replaces a directory's state.
    pub fn store(&self, directory: &Path) -> io::Result<()> {
        files::replace(directory, NAME, &self.encode())
    }

    /// The file's bytes.
    pub fn encode(&self) -> Vec<u8> {
        Self::framed(&postcard::to_stdvec(self).expect("the state holds only types that can be encoded"))
    }

    /// A file's bytes of an encoded state.
    pub fn framed(body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&crc32fast::hash(body).to_le_bytes());
        bytes.extend_from_slice(body);
        bytes
    }

    /// Reads a file's bytes; `None` if they are no state that can be used.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (header, body) = bytes.split_first_chunk::<HEADER_BYTES>()?;
        let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        if &header[..8] != MAGIC || word(8) != VERSION || word(12) != crc32fast::hash(body) {
            return None;
        }
        postcard::from_bytes(body).ok().filter(|state: &Self| state.segmenter.is_sound())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_read_back_and_a_damaged_one_is_none() {
        let state = SavedState {
            segmenter: SegmenterState::new("v/live/x", 7),
            block: 3,
            offset: 99,
            epoch: 2,
            longest_90k: 360_000,
            window_ms: 60_000,
            ended: true,
        };
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(SavedState::load(directory.path()).unwrap(), None);
        state.store(directory.path()).unwrap();
        assert_eq!(SavedState::load(directory.path()).unwrap().as_ref(), Some(&state));
        let bytes = state.encode();
        for index in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[index] ^= 0x10;
            assert_eq!(SavedState::decode(&damaged), None, "byte {index}");
            assert_eq!(SavedState::decode(&bytes[..index]), None, "cut at {index}");
        }
    }
}
