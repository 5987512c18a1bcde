//! What a worker remembers of HLS files, so that most requests for them cost no file: indexes as they are sent, segments open.
//!
//! An index counts as long as its file is the same, which one look in [`INDEX_LOOK_MS`] says for all who ask; what this worker has cut
//! itself is looked at at once. A segment never changes, so
//! it counts until it is deleted; within a second of that, or when nobody has asked for a while, it is let go of. What most clients are
//! answered is kept whole, head and all. All of it is bounded by count and bytes, and nothing is ever written.

use super::session::Index;
use crate::hls::{INDEX, files, serve};
use braidcast_media::StreamKey;
use braidcast_protocols::http::response::{self, Cache, ResponseHead, content_type};
use braidcast_protocols::http::{Status, Validators};
use braidcast_stream_log::Root;
use flate2::Compression;
use flate2::write::GzEncoder;
use std::borrow::Cow;
use std::cell::{Cell, OnceCell};
use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::rc::Rc;

/// Streams that are remembered.
const MOST_STREAMS: usize = 1_024;
/// What the names of indexes end with.
const EXTENSION: &str = ".m3u8";
/// Index files of a stream: its live index, and those that others have laid there.
const MOST_INDEXES: usize = 4;
/// Texts of an index that are remembered: each query that is carried on to its segments makes another one.
const MOST_TEXTS: usize = 8;
/// The longest index that is remembered, in bytes.
const INDEX_BYTES: usize = 1 << 20;
/// How long an index that others write is what it was without a look at its file, milliseconds: little beside the seconds after which a
/// client asks again.
pub const INDEX_LOOK_MS: u64 = 50;
/// Segments that are held open, of all streams.
const MOST_SEGMENTS: usize = 1_024;
/// Their bytes together.
const SEGMENT_BYTES: u64 = 2 << 30;
/// How long what nobody asks for is remembered, milliseconds.
const IDLE_MS: u64 = 30_000;
/// The end of a segment by which it is told from all others: what Braidcast writes there names stream, number and time.
const TELLING_BYTES: u64 = 188;

/// See the module's head.
#[derive(Default)]
pub struct HlsFiles {
    streams: HashMap<StreamKey, Stream>,
    segments: usize,
    held_bytes: u64,
    counts: Counts,
}

/// What was done since the last look at it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Index files read.
    pub indexes_read: u64,
    /// Segments opened.
    pub segments_opened: u64,
}

struct Stream {
    directory: PathBuf,
    used_ms: u64,
    indexes: Vec<IndexFile>,
    segments: Vec<Rc<Segment>>,
}

/// An index file at some moment.
struct IndexFile {
    path: PathBuf,
    /// Without extension; `None`: the live index, by whatever name it is asked for.
    name: Option<String>,
    identity: Identity,
    looked_ms: u64,
    text: String,
    /// As they are sent, oldest first.
    texts: Vec<Rc<IndexText>>,
}

/// What tells a file from the one that replaces it: inode, length, and when it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity(u64, u64, i64, i64);

impl Identity {
    fn of(metadata: &Metadata) -> Self {
        Self(metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec())
    }
}

/// An index as it is sent.
pub struct IndexText {
    /// It is for `/app/stream.m3u8`, not for what lies beside its segments.
    live: bool,
    query: String,
    /// The text.
    pub plain: String,
    etag: String,
    modified_s: u64,
    compressed: OnceCell<Vec<u8>>,
    /// Head and body as nearly all ask for them, on connections that are kept; without a date, and with one.
    answers: [OnceCell<Vec<u8>>; 2],
}

impl IndexText {
    fn new(live: bool, query: &str, plain: String, modified_s: u64) -> Self {
        let etag = format!("{:x}-{:x}", crc32fast::hash(plain.as_bytes()), plain.len());
        Self { live, query: query.to_owned(), plain, etag, modified_s, compressed: OnceCell::new(), answers: Default::default() }
    }

    /// The head of an answer with this text.
    pub fn head(&self, gzip: bool, validators: &Validators, keep_alive: bool) -> Vec<u8> {
        let bytes = if gzip { self.gzip().len() } else { self.plain.len() };
        let head = ResponseHead::new(Status::OK)
            .content_type(content_type::PLAYLIST)
            .cache(Cache::No)
            .validators(validators)
            .field("Vary", "Accept-Encoding")
            .length(bytes as u64)
            .keep_alive(keep_alive);
        if gzip { head.field("Content-Encoding", "gzip").build() } else { head.build() }
    }

    /// Head and body, not compressed, on a connection that is kept; made when they are asked for first.
    pub fn answer(&self, now_wall_ms: u64) -> &[u8] {
        let is_dated = self.date(now_wall_ms).is_some();
        self.answers[usize::from(is_dated)].get_or_init(|| {
            let head = self.head(false, &self.validators(false, now_wall_ms), true);
            [&head, self.plain.as_bytes()].concat()
        })
    }

    /// When it was written; as long as it can be replaced within the same second it has no date.
    fn date(&self, now_wall_ms: u64) -> Option<u64> {
        Some(self.modified_s).filter(|at| *at < now_wall_ms / 1_000)
    }

    /// What tells it from the version before.
    pub fn validators(&self, gzip: bool, now_wall_ms: u64) -> Validators {
        let form = if gzip { "-gz" } else { "" };
        Validators { etag: format!("\"{}{form}\"", self.etag), modified_s: self.date(now_wall_ms) }
    }

    /// The text in gzip, made when it is asked for first.
    pub fn gzip(&self) -> &[u8] {
        self.compressed.get_or_init(|| {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(self.plain.as_bytes()).and_then(|()| encoder.finish()).expect("memory takes all that is written to it")
        })
    }
}

/// A finished segment, open.
pub struct Segment {
    number: u64,
    file: File,
    /// How long it is.
    pub length: u32,
    /// What tells it from all others.
    pub validators: Validators,
    /// The head before all of it as nearly all ask for it, on connections that are kept, and how long caches may keep it then.
    head: OnceCell<(Cache, Vec<u8>)>,
    used_ms: Cell<u64>,
}

impl Segment {
    fn of(file: File, number: u64, now_ms: u64) -> io::Result<Self> {
        let metadata = file.metadata()?;
        let length = u32::try_from(metadata.len()).map_err(|_| io::Error::other("a segment of more than 4 GiB"))?;
        let mut telling = [0; TELLING_BYTES as usize];
        let from = metadata.len().saturating_sub(TELLING_BYTES);
        let telling = &mut telling[..(metadata.len() - from) as usize];
        file.read_exact_at(telling, from)?;
        let validators = Validators {
            etag: format!("\"{number:x}-{length:x}-{:x}\"", crc32fast::hash(telling)),
            modified_s: u64::try_from(metadata.mtime()).ok(),
        };
        Ok(Self { number, file, length, validators, head: OnceCell::new(), used_ms: Cell::new(now_ms) })
    }

    /// What is sent.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The head of an answer with all of it, on a connection that is kept. Made once for what caches may do with it first, which is
    /// the same until rules of access change.
    pub fn whole_head(&self, cache: Cache) -> Cow<'_, [u8]> {
        let head = || response::file(content_type::MPEG_TS, cache, &self.validators, self.length.into(), None, true);
        match self.head.get_or_init(|| (cache, head())) {
            (of, head) if *of == cache => Cow::Borrowed(head),
            _ => Cow::Owned(head()),
        }
    }

    /// Whether it has no name any more. As long as it is held it keeps its memory.
    fn is_deleted(&self) -> bool {
        self.file.metadata().is_ok_and(|metadata| metadata.nlink() == 0)
    }

    /// Its number.
    pub fn number(&self) -> u64 {
        self.number
    }
}

impl HlsFiles {
    /// An index, with URIs that fit where it is served; `None`: it is not there. [`Index::Clip`] is no file.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn index(&mut self, root: &Root, key: &StreamKey, index: &Index, query: &str, now_ms: u64) -> io::Result<Option<Rc<IndexText>>> {
        let (live, name) = match index {
            Index::Live => (true, None),
            Index::Named(name) => (false, Some(name.as_str())),
            Index::Clip(_) => return Ok(None),
        };
        let counts = &mut self.counts;
        let stream = Self::stream(&mut self.streams, root, key, now_ms);
        let Some(file) = stream.index_file(name, now_ms, counts)? else { return Ok(None) };
        if let Some(text) = file.texts.iter().find(|text| text.live == live && text.query == query) {
            return Ok(Some(Rc::clone(text)));
        }
        let plain = if live { serve::live_index(&file.text, key.stream(), query) } else { serve::named_index(&file.text, query) };
        let text = Rc::new(IndexText::new(live, query, plain, u64::try_from(file.identity.2).unwrap_or(0)));
        if file.texts.len() >= MOST_TEXTS {
            file.texts.remove(0);
        }
        file.texts.push(Rc::clone(&text));
        Ok(Some(text))
    }

    /// A segment; `None`: it is not there.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn segment(&mut self, root: &Root, key: &StreamKey, number: u64, now_ms: u64) -> io::Result<Option<Rc<Segment>>> {
        let stream = Self::stream(&mut self.streams, root, key, now_ms);
        if let Some(segment) = stream.segments.iter().rev().find(|segment| segment.number == number) {
            segment.used_ms.set(now_ms);
            return Ok(Some(Rc::clone(segment)));
        }
        let file = match File::open(files::segment(&stream.directory, number)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let segment = Rc::new(Segment::of(file, number, now_ms)?);
        stream.segments.push(Rc::clone(&segment));
        self.counts.segments_opened += 1;
        self.segments += 1;
        self.held_bytes += u64::from(segment.length);
        if self.segments > MOST_SEGMENTS || self.held_bytes > SEGMENT_BYTES {
            self.let_go_of_half();
        }
        Ok(Some(segment))
    }

    /// A stream's live index was written just now: whoever asks for it next looks at its file.
    pub fn renewed(&mut self, key: &StreamKey) {
        for file in self.streams.get_mut(key).map(|stream| &mut stream.indexes).into_iter().flatten() {
            file.looked_ms = 0;
        }
    }

    /// Lets go of segments that are deleted, and of what nobody has asked for.
    pub fn sweep(&mut self, now_ms: u64) {
        let goes_on = |used_ms: u64| now_ms.saturating_sub(used_ms) < IDLE_MS;
        self.retain(|segment| goes_on(segment.used_ms.get()) && !segment.is_deleted());
        self.streams.retain(|_, stream| goes_on(stream.used_ms));
    }

    /// What all open segments hold, in bytes.
    pub fn held_bytes(&self) -> u64 {
        self.held_bytes
    }

    /// Takes what was counted.
    pub fn take_counts(&mut self) -> Counts {
        std::mem::take(&mut self.counts)
    }

    fn stream<'a>(streams: &'a mut HashMap<StreamKey, Stream>, root: &Root, key: &StreamKey, now_ms: u64) -> &'a mut Stream {
        if !streams.contains_key(key) {
            if streams.len() >= MOST_STREAMS {
                // Whoever has none open loses little; their sum is right without them.
                streams.retain(|_, stream| !stream.segments.is_empty());
            }
            let directory = root.hls_dir(key);
            streams.insert(key.clone(), Stream { directory, used_ms: now_ms, indexes: Vec::new(), segments: Vec::new() });
        }
        let stream = streams.get_mut(key).expect("it was there, or was put there");
        stream.used_ms = now_ms;
        stream
    }

    /// Too much is held: the half goes that was asked for longest ago, so that it is not done for each.
    fn let_go_of_half(&mut self) {
        let mut used: Vec<u64> = self.streams.values().flat_map(|stream| &stream.segments).map(|segment| segment.used_ms.get()).collect();
        used.sort_unstable();
        let middle = used.get(used.len() / 2).copied().unwrap_or(0);
        self.retain(|segment| segment.used_ms.get() > middle);
    }

    fn retain(&mut self, mut stays: impl FnMut(&Segment) -> bool) {
        (self.segments, self.held_bytes) = (0, 0);
        for stream in self.streams.values_mut() {
            stream.segments.retain(|segment| stays(segment));
            self.segments += stream.segments.len();
            self.held_bytes += stream.segments.iter().map(|segment| u64::from(segment.length)).sum::<u64>();
        }
    }
}

impl Stream {
    /// An index file as it is now; `name` is without extension, `None`: the live index.
    fn index_file(&mut self, name: Option<&str>, now_ms: u64, counts: &mut Counts) -> io::Result<Option<&mut IndexFile>> {
        let name = name.filter(|name| Some(*name) != INDEX.strip_suffix(EXTENSION));
        let place = self.indexes.iter().position(|file| file.name.as_deref() == name);
        if let Some(place) = place.filter(|place| now_ms.saturating_sub(self.indexes[*place].looked_ms) < INDEX_LOOK_MS) {
            return Ok(Some(&mut self.indexes[place]));
        }
        let path = match (place, name) {
            (Some(place), _) => self.indexes[place].path.clone(),
            (None, None) => self.directory.join(INDEX),
            (None, Some(name)) => self.directory.join(format!("{name}{EXTENSION}")),
        };
        let identity = match fs::metadata(&path) {
            Ok(metadata) => Identity::of(&metadata),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.indexes.retain(|file| file.path != path);
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        if let Some(place) = place {
            self.indexes[place].looked_ms = now_ms;
            if self.indexes[place].identity == identity {
                return Ok(Some(&mut self.indexes[place]));
            }
            self.indexes.remove(place);
        }
        let Some(file) = IndexFile::read(path, name, now_ms)? else { return Ok(None) };
        counts.indexes_read += 1;
        if self.indexes.len() >= MOST_INDEXES {
            self.indexes.remove(0);
        }
        self.indexes.push(file);
        Ok(self.indexes.last_mut())
    }
}

impl IndexFile {
    fn read(path: PathBuf, name: Option<&str>, now_ms: u64) -> io::Result<Option<Self>> {
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        // Of the file that is read, which may have replaced the one that was looked at.
        let identity = Identity::of(&file.metadata()?);
        let bytes = braidcast_sys::file::read_start(file, INDEX_BYTES)?;
        if bytes.len() == INDEX_BYTES {
            return Err(io::Error::other("the index is too long to be served"));
        }
        let name = name.map(str::to_owned);
        Ok(Some(Self { path, name, identity, looked_ms: now_ms, text: String::from_utf8_lossy(&bytes).into_owned(), texts: Vec::new() }))
    }
}

#[cfg(test)]
#[path = "hls_files_tests.rs"]
mod tests;
