//! Who is connected and what for: the client table, one record for each row of the table of sessions, read by every process.
//!
//! The front writes records down, as workers tell it, and clears them when the connection is over; the worker that serves a connection
//! counts its bytes. A record outlives its worker. Everything is atomic words, what is more than a word guarded by a sequence number, so that a
//! reader gets a whole record or none and never waits. What a client said lies beside the records, in a file of texts: they are of any length.
//!
//! Never decides anything, and holds nothing that a session needs to go on.

mod before;
mod room;
mod text;

use crate::control::{ConnId, Listener};
use crate::saved::{RowId, directory};
use braidcast_media::StreamKey;
use braidcast_sys::{Dir, SharedMemory};
use room::{Place, TextRoom};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU64, fence};

/// The names of the records and their texts, beside the table of sessions.
const NAME: &str = "clients-3";
const TEXTS: &str = "texts-3";
/// As many as there are rows of sessions.
const MOST_ROWS: usize = 1 << 20;
/// Memory is taken for so many records at once.
const GROWTH_ROWS: usize = 64;
/// The longest text.
const TEXT_BYTES: usize = 1920;
/// How often a reader tries again that finds a record being written.
const TRIES: usize = 64;
/// Rates are over one to two of these, milliseconds.
const RATE_WINDOW_MS: u64 = 15_000;

/// A rate over less than this says nothing, milliseconds.
const LEAST_RATE_MS: u64 = 1_000;
/// Marks of counters for rates have 32 bits, of this many bytes each.
const MARK_BYTES: u64 = 8;

/// The words of a record.
#[derive(Clone, Copy)]
#[repr(usize)]
enum Word {
    /// Odd while the words up to `Began` and the text are written.
    Sequence,
    Conn,
    /// Where the text is: its first unit, and in the lower half its bytes.
    Text,
    /// Wall clock, milliseconds.
    Described,
    Began,
    /// Monotonic clock, milliseconds.
    Told,
    BytesIn,
    BytesOut,
    /// What the counters said a window ago, and in between: the lower halves of clock and bytes in …
    Before,
    Between,
    /// … and bytes out, of both.
    BytesOutThen,
}

const WORDS: usize = Word::BytesOutThen as usize + 1;
const RECORD_BYTES: usize = WORDS * 8;

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
pub struct Table {
    records: SharedMemory,
    texts: SharedMemory,
    /// Where there is room for texts; the front's.
    room: TextRoom,
}

impl Table {
    /// Makes an empty table; the front's part.
    pub fn create(shared_dir: &Path) -> io::Result<Self> {
        let directory = Dir::open(&directory(shared_dir))?;
        Self::map(directory.create_file(NAME)?, directory.create_file(TEXTS)?)
    }

    /// Opens the table.
    pub fn open(shared_dir: &Path) -> io::Result<Self> {
        let directory = Dir::open(&directory(shared_dir))?;
        Self::map(directory.open_or_create(NAME)?, directory.open_or_create(TEXTS)?)
    }

    /// Opens the table that the front before has left, to go on with it, whichever of the last two versions it was; the front's part.
    pub fn inherit(shared_dir: &Path) -> io::Result<Self> {
        let mut table = Self::open(shared_dir)?;
        let places: Vec<_> = (0..table.rows()).map(|row| table.place(RowId(row))).collect();
        table.room = TextRoom::inherit(places, table.texts.taken_bytes());
        for (row, record) in before::records(shared_dir)?.into_iter().filter(|_| table.rows() == 0).collect::<Vec<_>>() {
            table.provide(row)?;
            table.describe(row, record.conn, &record.description, record.described_ms);
            table.begin(row, record.began_ms);
            table.tell(row, record.bytes_in, record.bytes_out, record.told_ms);
        }
        Ok(table)
    }

    fn map(records: OwnedFd, texts: OwnedFd) -> io::Result<Self> {
        let records = SharedMemory::map(records, MOST_ROWS * RECORD_BYTES)?;
        Ok(Self { records, texts: SharedMemory::map(texts, MOST_ROWS * TEXT_BYTES)?, room: TextRoom::default() })
    }

    /// Takes memory for a row's record before the row is given out; the front's part. `StorageFull` if there is none.
    pub fn provide(&mut self, row: RowId) -> io::Result<()> {
        let rows = (row.0 as usize + 1).next_multiple_of(GROWTH_ROWS);
        self.records.take(rows * RECORD_BYTES)
    }

    /// Makes a record empty: its row is given to a new connection, or the connection is over. The front's part.
    pub fn clear(&mut self, row: RowId) {
        self.room.give(row);
        self.change(row, |words| (Word::Conn as usize..WORDS).for_each(|at| words.at(at).store(0, Relaxed)));
    }

    /// Writes down what a connection is and wants, before it is decided about it; it has not begun. Counters stay. `now_ms` is of the
    /// wall clock. The front's part. A row that it never gave out is left alone; a description for which there is no memory is empty.
    pub fn describe(&mut self, row: RowId, conn: ConnId, description: &Description, now_ms: u64) {
        let mut text = [0; TEXT_BYTES];
        let text = text::encode(description, &mut text);
        self.room.give(row);
        let place = self.room.take(row, text.len(), &mut self.texts);
        self.change(row, |words| {
            words.set(Word::Conn, conn.0);
            words.set(Word::Described, now_ms);
            words.set(Word::Began, 0);
            words.set(Word::Text, place.map_or(0, |place| place.word(text.len())));
            let Some(place) = place else { return };
            for (index, piece) in text.chunks(8).enumerate() {
                let mut word = [0; 8];
                word[..piece.len()].copy_from_slice(piece);
                words.texts.word(place.start() + index * 8).store(u64::from_ne_bytes(word), Relaxed);
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

    /// A row's record; `None` if it is empty, or was being written all the time, or by a front that died of it.
    pub fn read(&mut self, row: RowId) -> Option<Record> {
        let place = self.place(row);
        if place.is_some_and(|(place, bytes)| place.start() + bytes > self.texts.taken_bytes()) {
            self.texts.look().ok()?;
        }
        let words = self.words(row)?;
        (0..TRIES).find_map(|_| words.whole())?
    }

    /// All records, in the order of their rows.
    pub fn all(&mut self) -> impl Iterator<Item = (RowId, Record)> + '_ {
        // What cannot be looked at has not grown.
        let _ = self.records.look();
        (0..self.rows()).map(RowId).filter_map(|row| Some((row, self.read(row)?)))
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

    fn rows(&self) -> u32 {
        u32::try_from(self.records.taken_bytes() / RECORD_BYTES).unwrap_or(u32::MAX)
    }

    /// Where a row's text is, and how long it is.
    fn place(&mut self, row: RowId) -> Option<(Place, usize)> {
        Place::of_word(self.words(row)?.get(Word::Text))
    }

    fn words(&mut self, row: RowId) -> Option<Words<'_>> {
        let start = (row.0 as usize).checked_mul(RECORD_BYTES)?;
        if start + RECORD_BYTES > self.records.taken_bytes() {
            self.records.look().ok()?;
        }
        (start + RECORD_BYTES <= self.records.taken_bytes()).then_some(Words { memory: &self.records, texts: &self.texts, start })
    }
}

/// One record's memory.
struct Words<'a> {
    memory: &'a SharedMemory,
    texts: &'a SharedMemory,
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
        let now = halves((now_ms as u32).max(1), (bytes_in / MARK_BYTES) as u32);
        let out = (bytes_out / MARK_BYTES) as u32;
        let (first, between, outs) = (self.get(Word::Before) == 0, self.get(Word::Between), self.get(Word::BytesOutThen));
        if first {
            self.set(Word::BytesOutThen, halves(out, out));
            self.set(Word::Between, now);
            self.set(Word::Before, now);
        } else if u64::from((now_ms as u32).wrapping_sub(upper(between))) >= RATE_WINDOW_MS {
            self.set(Word::Before, between);
            self.set(Word::Between, now);
            self.set(Word::BytesOutThen, halves(outs as u32, out));
        }
        self.set(Word::Told, now_ms);
    }

    /// Bits a second since the mark before the last.
    fn rates(&self) -> [u64; 2] {
        let (before, outs) = (self.get(Word::Before), self.get(Word::BytesOutThen));
        let elapsed_ms = match before {
            0 => 0,
            _ => u64::from((self.get(Word::Told) as u32).wrapping_sub(upper(before))),
        };
        let rate = |now: Word, then: u32| {
            let marks = ((self.get(now) / MARK_BYTES) as u32).wrapping_sub(then);
            u64::from(marks) * MARK_BYTES * 8_000 / elapsed_ms.max(LEAST_RATE_MS)
        };
        [rate(Word::BytesIn, before as u32), rate(Word::BytesOut, upper(outs))]
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
        let (place, bytes) = Place::of_word(self.get(Word::Text)).unwrap_or_default();
        let there = bytes <= TEXT_BYTES && place.start() + bytes.next_multiple_of(8) <= self.texts.taken_bytes();
        let bytes = if there { bytes } else { 0 };
        for (index, piece) in text[..bytes.next_multiple_of(8)].chunks_mut(8).enumerate() {
            piece.copy_from_slice(&self.texts.word(place.start() + index * 8).load(Relaxed).to_ne_bytes());
        }
        let [bits_in, bits_out] = self.rates();
        let found = text::decode(&text[..bytes]).map(|description| Record {
            conn: ConnId(conn),
            description,
            described_ms: self.get(Word::Described),
            began_ms: self.word(Word::Began).load(Acquire),
            bytes_in: self.get(Word::BytesIn),
            bytes_out: self.get(Word::BytesOut),
            bits_in,
            bits_out,
            told_ms: self.get(Word::Told),
        });
        fence(Acquire);
        (self.get(Word::Sequence) == sequence).then_some(found)
    }
}

fn halves(upper: u32, lower: u32) -> u64 {
    u64::from(upper) << 32 | u64::from(lower)
}

fn upper(word: u64) -> u32 {
    (word >> 32) as u32
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
