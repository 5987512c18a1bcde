//! Who is connected and what for: the client table, one record for each row of the table of sessions, read by every process.
//!
//! The worker that serves a connection writes its record, the front says when it begins what it was placed for and clears it when the
//! connection is over. A record outlives its worker: whoever goes on with the session goes on writing. Everything is atomic words, the text
//! guarded by a sequence number, so that a reader gets a whole record or none and never waits.
//!
//! Never decides anything, and holds nothing that a session needs to go on.

mod text;

use crate::control::{ConnId, Listener};
use crate::saved::{RowId, directory};
use braidcast_media::StreamKey;
use braidcast_sys::{Dir, SharedMemory};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU64, fence};

/// The name of the table, beside the one of sessions.
const NAME: &str = "clients";
/// As many as there are rows of sessions.
const MOST_ROWS: usize = 1 << 20;
/// Memory is taken for so many records at once.
const GROWTH_ROWS: usize = 64;
const RECORD_BYTES: usize = 2048;
/// The words before the text.
const HEAD_BYTES: usize = 128;
const TEXT_BYTES: usize = RECORD_BYTES - HEAD_BYTES;
/// How often a reader tries again that finds a record being written.
const TRIES: usize = 64;
/// Rates are over one to two of these, milliseconds.
const RATE_WINDOW_MS: u64 = 15_000;

/// A rate over less than this says nothing, milliseconds.
const LEAST_RATE_MS: u64 = 1_000;

/// The words of a record.
#[derive(Clone, Copy)]
#[repr(usize)]
enum Word {
    /// Odd while the text and what belongs to it is written.
    Sequence,
    Conn,
    TextBytes,
    /// Wall clock, milliseconds.
    Described,
    Began,
    /// Monotonic clock, milliseconds.
    Told,
    BytesIn,
    BytesOut,
    /// What the counters said a window ago, and in between: the clock, bytes in, bytes out.
    Before,
    BeforeIn,
    BeforeOut,
    Between,
    BetweenIn,
    BetweenOut,
}

const WORDS: usize = Word::BetweenOut as usize + 1;
const _: () = assert!(WORDS * 8 <= HEAD_BYTES);

/// What a client is, in the words of SRS's API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Kind {
    /// It has not said yet what it wants.
    Connected,
    /// An encoder that announces its stream (FCPublish), as most do.
    FmlePublish,
    /// An encoder that does not.
    FlashPublish,
    /// A player by RTMP.
    RtmpPlay,
    /// By HTTP-FLV, also in WebSocket messages.
    FlvPlay,
    /// By MPEG-TS over HTTP.
    TsPlay,
    /// By AAC over HTTP.
    AacPlay,
    /// By MP3 over HTTP.
    Mp3Play,
    /// By HLS.
    HlsPlay,
}

impl Kind {
    /// In the words of SRS's API.
    pub fn label(self) -> &'static str {
        match self {
            Self::Connected => "Unknown",
            Self::FmlePublish => "fmle-publish",
            Self::FlashPublish => "flash-publish",
            Self::RtmpPlay => "rtmp-play",
            Self::FlvPlay => "flv-play",
            Self::TsPlay => "ts-play",
            Self::AacPlay => "aac-play",
            Self::Mp3Play => "mp3-play",
            Self::HlsPlay => "hls-play",
        }
    }

    /// Whether it sends a stream.
    pub fn publishes(self) -> bool {
        matches!(self, Self::FmlePublish | Self::FlashPublish)
    }
}

/// What a client said of itself. Texts are cut to the bounds of their fields, at whole characters.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Description {
    /// What it is.
    pub kind: Kind,
    /// Where it came in.
    pub listener: Listener,
    /// The client: whom a trusted proxy named, else who has connected.
    pub peer: SocketAddr,
    /// The stream; `None`: it has named none yet.
    pub key: Option<StreamKey>,
    /// The URL it connected to, as it was sent, with its query: a secret. At most 320 bytes.
    pub tc_url: String,
    /// The page it is on, likewise. At most 224 bytes.
    pub page_url: String,
    /// The program it is; often empty. At most 96 bytes.
    pub swf_url: String,
    /// The query of its stream, without `?`: a secret. At most 880 bytes.
    pub param: String,
    /// What it calls itself: `flashVer`, `User-Agent`. At most 96 bytes.
    pub agent: String,
    /// HLS: what tells the session from others (`hls_ctx`). At most 24 bytes.
    pub context: String,
}

/// A record of the table.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Record {
    /// The connection, or the HLS session.
    pub conn: ConnId,
    /// What it said of itself.
    pub description: Description,
    /// When it said so, wall clock, milliseconds.
    pub described_ms: u64,
    /// When it was let to publish or play, likewise; 0: it does neither.
    pub began_ms: u64,
    /// Bytes received from it.
    pub bytes_in: u64,
    /// Bytes sent to it.
    pub bytes_out: u64,
    /// Received in the last 15 to 30 seconds, bits per second.
    pub bits_in: u64,
    /// Sent, likewise.
    pub bits_out: u64,
    /// When the counters were told, monotonic clock, milliseconds; 0: never.
    pub told_ms: u64,
}

/// See the module's head.
#[derive(Debug)]
pub struct Table(SharedMemory);

impl Table {
    /// Makes an empty table; the front's part.
    pub fn create(shared_dir: &Path) -> io::Result<Self> {
        let file = Dir::open(&directory(shared_dir))?.create_file(NAME)?;
        Ok(Self(SharedMemory::map(file, MOST_ROWS * RECORD_BYTES)?))
    }

    /// Opens the table.
    pub fn open(shared_dir: &Path) -> io::Result<Self> {
        let file = Dir::open(&directory(shared_dir))?.open_or_create(NAME)?;
        Ok(Self(SharedMemory::map(file, MOST_ROWS * RECORD_BYTES)?))
    }

    /// Takes memory for a row's record before the row is given out; the front's part. `StorageFull` if there is none.
    pub fn provide(&mut self, row: RowId) -> io::Result<()> {
        let rows = (row.0 as usize + 1).next_multiple_of(GROWTH_ROWS);
        self.0.take(rows * RECORD_BYTES)
    }

    /// Makes a record empty: its row is given to a new connection, or the connection is over. The front's part.
    pub fn clear(&mut self, row: RowId) {
        self.change(row, |words| (Word::Conn as usize..WORDS).for_each(|at| words.at(at).store(0, Relaxed)));
    }

    /// Writes down what a connection is and wants, before anybody is asked about it; it has not begun. Counters stay. `now_ms` is of the
    /// wall clock. A row that the front never gave out is left alone.
    pub fn describe(&mut self, row: RowId, conn: ConnId, description: &Description, now_ms: u64) {
        let mut text = [0; TEXT_BYTES];
        let text = text::encode(description, &mut text);
        self.change(row, |words| {
            words.set(Word::Conn, conn.0);
            words.set(Word::Described, now_ms);
            words.set(Word::Began, 0);
            words.set(Word::TextBytes, text.len() as u64);
            for (index, piece) in text.chunks(8).enumerate() {
                let mut word = [0; 8];
                word[..piece.len()].copy_from_slice(piece);
                words.at(HEAD_BYTES / 8 + index).store(u64::from_ne_bytes(word), Relaxed);
            }
        });
    }

    /// The connection was let to do what it wants, at `now_ms` of the wall clock; the front's part.
    pub fn begin(&mut self, row: RowId, now_ms: u64) {
        if let Some(words) = self.words(row) {
            words.word(Word::Began).store(now_ms, Release);
        }
    }

    /// It publishes or plays no longer, and may begin something else.
    pub fn end(&mut self, row: RowId) {
        self.begin(row, 0);
    }

    /// Says how many bytes have come from a client and gone to it, since its connection began. About once a second, by whoever serves it.
    /// `now_ms` is of the monotonic clock.
    pub fn tell(&mut self, row: RowId, bytes_in: u64, bytes_out: u64, now_ms: u64) {
        let Some(words) = self.words(row) else { return };
        words.set(Word::BytesIn, bytes_in);
        words.set(Word::BytesOut, bytes_out);
        words.mark(bytes_in, bytes_out, now_ms);
    }

    /// Something was asked for by an HLS session, in whichever worker: so many bytes more have come and go. `now_ms` as in [`Table::tell`].
    /// False: the row is not this session's any more, or it has not begun.
    pub fn seen(&mut self, row: RowId, conn: ConnId, bytes_in: u64, bytes_out: u64, now_ms: u64) -> bool {
        let Some(words) = self.words(row).filter(|words| words.goes(conn)) else { return false };
        let total = |word, more| words.word(word).fetch_add(more, Relaxed) + more;
        let (bytes_in, bytes_out) = (total(Word::BytesIn, bytes_in), total(Word::BytesOut, bytes_out));
        words.mark(bytes_in, bytes_out, now_ms);
        true
    }

    /// When the counters of a row were told last, monotonic clock, milliseconds; 0: never.
    pub fn told_ms(&mut self, row: RowId) -> u64 {
        self.words(row).map_or(0, |words| words.get(Word::Told))
    }

    /// A row's record; `None` if it is empty, or was being written all the time, or by a worker that died of it.
    pub fn read(&mut self, row: RowId) -> Option<Record> {
        let words = self.words(row)?;
        (0..TRIES).find_map(|_| words.whole())?
    }

    /// All records, in the order of their rows.
    pub fn all(&mut self) -> impl Iterator<Item = (RowId, Record)> + '_ {
        // What cannot be looked at has not grown.
        let _ = self.0.look();
        let rows = u32::try_from(self.0.taken_bytes() / RECORD_BYTES).unwrap_or(u32::MAX);
        (0..rows).map(RowId).filter_map(|row| Some((row, self.read(row)?)))
    }

    fn change(&mut self, row: RowId, change: impl FnOnce(&Words<'_>)) {
        let Some(words) = self.words(row) else { return };
        // Odd already if whoever wrote last died of it.
        let writing = words.get(Word::Sequence) | 1;
        words.set(Word::Sequence, writing);
        fence(Release);
        change(&words);
        words.word(Word::Sequence).store(writing.wrapping_add(1), Release);
    }

    fn words(&mut self, row: RowId) -> Option<Words<'_>> {
        let start = (row.0 as usize).checked_mul(RECORD_BYTES)?;
        if start + RECORD_BYTES > self.0.taken_bytes() {
            self.0.look().ok()?;
        }
        (start + RECORD_BYTES <= self.0.taken_bytes()).then_some(Words { memory: &self.0, start })
    }
}

/// One record's memory.
struct Words<'a> {
    memory: &'a SharedMemory,
    start: usize,
}

impl Words<'_> {
    fn at(&self, index: usize) -> &AtomicU64 {
        self.memory.word(self.start + index * 8)
    }

    fn word(&self, word: Word) -> &AtomicU64 {
        self.at(word as usize)
    }

    fn get(&self, word: Word) -> u64 {
        self.word(word).load(Relaxed)
    }

    fn set(&self, word: Word, value: u64) {
        self.word(word).store(value, Relaxed);
    }

    fn goes(&self, conn: ConnId) -> bool {
        self.get(Word::Conn) == conn.0 && self.word(Word::Began).load(Acquire) != 0
    }

    /// The counters are so much now: goes on to the next window for rates if it is time. Two who do so at once make a rate a little wrong.
    fn mark(&self, bytes_in: u64, bytes_out: u64, now_ms: u64) {
        let first = self.get(Word::Before) == 0;
        if first || now_ms.saturating_sub(self.get(Word::Between)) >= RATE_WINDOW_MS {
            let (at, counts) = match first {
                true => (now_ms, [bytes_in, bytes_out]),
                false => (self.get(Word::Between), [self.get(Word::BetweenIn), self.get(Word::BetweenOut)]),
            };
            self.set(Word::Before, at);
            self.set(Word::BeforeIn, counts[0]);
            self.set(Word::BeforeOut, counts[1]);
            self.set(Word::Between, now_ms);
            self.set(Word::BetweenIn, bytes_in);
            self.set(Word::BetweenOut, bytes_out);
        }
        self.set(Word::Told, now_ms);
    }

    /// `None`: it is just being written. `Some(None)`: it is empty.
    fn whole(&self) -> Option<Option<Record>> {
        let sequence = self.word(Word::Sequence).load(Acquire);
        if sequence % 2 == 1 {
            std::hint::spin_loop();
            return None;
        }
        let conn = self.get(Word::Conn);
        if conn == 0 {
            return Some(None);
        }
        let mut text = [0; TEXT_BYTES];
        let bytes = usize::try_from(self.get(Word::TextBytes)).unwrap_or(usize::MAX).min(TEXT_BYTES);
        for (index, piece) in text[..bytes.next_multiple_of(8)].chunks_mut(8).enumerate() {
            piece.copy_from_slice(&self.at(HEAD_BYTES / 8 + index).load(Relaxed).to_ne_bytes());
        }
        let elapsed_ms = self.get(Word::Told).saturating_sub(self.get(Word::Before)).max(LEAST_RATE_MS);
        let rate = |now: Word, before: Word| self.get(now).saturating_sub(self.get(before)).saturating_mul(8_000) / elapsed_ms;
        let found = text::decode(&text[..bytes]).map(|description| Record {
            conn: ConnId(conn),
            description,
            described_ms: self.get(Word::Described),
            began_ms: self.word(Word::Began).load(Acquire),
            bytes_in: self.get(Word::BytesIn),
            bytes_out: self.get(Word::BytesOut),
            bits_in: rate(Word::BytesIn, Word::BeforeIn),
            bits_out: rate(Word::BytesOut, Word::BeforeOut),
            told_ms: self.get(Word::Told),
        });
        fence(Acquire);
        (self.get(Word::Sequence) == sequence).then_some(found)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
