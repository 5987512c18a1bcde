//! What has begun and not ended, by row: a small mapped table that the front writes beside the log, so that another front knows it.
//!
//! Each change follows the line that says it, and then the line's id is noted: after a death between the two, the one line that is not
//! noted is taken from the log.

use crate::control::{ConnId, Intent};
use crate::saved::RowId;
use braidcast_media::StreamKey;
use braidcast_sys::{Dir, SharedMemory};
use std::io;
use std::path::Path;

const NAME: &str = "begun";
/// "BCbegun" and the version of the layout.
const MAGIC: u64 = u64::from_be_bytes(*b"BCbegun\x01");
/// Words of the header: the magic, the id of the last line that the table knows, the last connection's number.
const MAGIC_AT: usize = 0;
const APPLIED_AT: usize = 8;
const LAST_CONN_AT: usize = 16;
const HEADER_BYTES: usize = 64;
const ENTRY_BYTES: usize = 16;
/// As many as there are rows.
const MOST_ROWS: usize = 1 << 20;
/// Memory is taken for so many entries at once.
const GROWTH: usize = 4096;

const CONNECTED: u64 = 1;
const PUBLISHES: u64 = 2;
const PLAYS: u64 = 4;
const FLAG_BITS: u32 = 8;

/// What of a connection has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Whose.
    pub conn: ConnId,
    /// There was a `connect`.
    pub connected: bool,
    /// What it publishes or plays, and which stream, as [`Entry::stream_sum`] says it.
    pub place: Option<(Intent, u32)>,
}

impl Entry {
    /// Nothing has begun yet.
    pub fn new(conn: ConnId) -> Self {
        Self { conn, connected: false, place: None }
    }

    /// A number that tells one stream from another, in this and the next version.
    pub fn stream_sum(key: &StreamKey) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        for part in [key.vhost(), key.app(), key.stream()] {
            hasher.update(part.as_bytes());
            hasher.update(&[0]);
        }
        hasher.finalize()
    }

    /// Whether this is what it does.
    pub fn is_in(&self, intent: Intent, key: &StreamKey) -> bool {
        self.place == Some((intent, Self::stream_sum(key)))
    }

    /// Nothing is left to end.
    pub fn is_over(&self) -> bool {
        !self.connected && self.place.is_none()
    }
}

/// See the module's head.
#[derive(Debug)]
pub struct Begun(SharedMemory);

impl Begun {
    /// Opens the table in the log's directory, or makes an empty one. One that cannot be read is begun anew.
    pub fn open(directory: &Path) -> io::Result<Self> {
        let file = Dir::open(directory)?.open_or_create(NAME)?;
        let mut memory = SharedMemory::map(file, HEADER_BYTES + MOST_ROWS * ENTRY_BYTES)?;
        if memory.taken_bytes() < HEADER_BYTES {
            memory.take(HEADER_BYTES)?;
        }
        let mut begun = Self(memory);
        if begun.word(MAGIC_AT) != MAGIC {
            let taken = begun.0.taken_bytes();
            begun.0.bytes_mut(0..taken).fill(0);
            begun.set_word(MAGIC_AT, MAGIC);
        }
        Ok(begun)
    }

    /// The id of the last line that the table knows.
    pub fn applied(&self) -> u64 {
        self.word(APPLIED_AT)
    }

    /// The table knows of everything up to this line.
    pub fn set_applied(&mut self, id: u64) {
        self.set_word(APPLIED_AT, id);
    }

    /// The highest number that a connection was given.
    pub fn last_conn(&self) -> u64 {
        self.word(LAST_CONN_AT)
    }

    /// A connection was given this number.
    pub fn set_last_conn(&mut self, conn: ConnId) {
        self.set_word(LAST_CONN_AT, conn.0);
    }

    /// What has begun in a row.
    pub fn entry(&self, row: RowId) -> Option<Entry> {
        let at = Self::place(row);
        if at + ENTRY_BYTES > self.0.taken_bytes() {
            return None;
        }
        let word = self.word(at);
        let conn = ConnId(word >> FLAG_BITS);
        let sum = self.word(at + 8) as u32;
        let intent = match word & (PUBLISHES | PLAYS) {
            PUBLISHES => Some(Intent::Publish),
            PLAYS => Some(Intent::Play),
            _ => None,
        };
        let entry = Entry { conn, connected: word & CONNECTED != 0, place: intent.map(|intent| (intent, sum)) };
        (!entry.is_over()).then_some(entry)
    }

    /// Takes memory for a row's entry. `StorageFull`: there is none.
    pub fn provide(&mut self, row: RowId) -> io::Result<()> {
        if Self::place(row) + ENTRY_BYTES > self.0.taken_bytes() {
            let entries = (row.0 as usize + 1).next_multiple_of(GROWTH);
            self.0.take(HEADER_BYTES + entries * ENTRY_BYTES)?;
        }
        Ok(())
    }

    /// What has begun in a row from now on. Of a row that no memory was taken for nothing is noted.
    pub fn set(&mut self, row: RowId, entry: &Entry) {
        let at = Self::place(row);
        if at + ENTRY_BYTES > self.0.taken_bytes() {
            return;
        }
        let mut word = entry.conn.0 << FLAG_BITS;
        word |= if entry.connected { CONNECTED } else { 0 };
        if let Some((intent, sum)) = entry.place {
            word |= if intent == Intent::Publish { PUBLISHES } else { PLAYS };
            self.set_word(at + 8, sum.into());
        }
        self.set_word(at, if entry.is_over() { 0 } else { word });
    }

    /// Everything that has begun.
    pub fn all(&self) -> Vec<(RowId, Entry)> {
        let rows = (self.0.taken_bytes() - HEADER_BYTES) / ENTRY_BYTES;
        (0..rows as u32).filter_map(|row| Some((RowId(row), self.entry(RowId(row))?))).collect()
    }

    fn place(row: RowId) -> usize {
        HEADER_BYTES + row.0 as usize * ENTRY_BYTES
    }

    fn word(&self, at: usize) -> u64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(self.0.bytes(at..at + 8));
        u64::from_ne_bytes(bytes)
    }

    /// One store: whoever comes after a death finds the old word or the new one.
    fn set_word(&mut self, at: usize, word: u64) {
        self.0.bytes_mut(at..at + 8).copy_from_slice(&word.to_ne_bytes());
    }
}
