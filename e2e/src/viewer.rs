//! Viewers that check what they get: whole records, times that never go back on a track, the connection kept open.

use crate::rtmp::RtmpClient;
use crate::tools::eventually;
use anyhow::{Context, Result, ensure};
use braidcast_media::{RecordKind, flv};
use braidcast_protocols::rtmp::{ClientOutput, ClientRole};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a viewer may wait for what it is to see.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a viewer that gets nothing looks whether it is to end.
const LOOK: Duration = Duration::from_millis(200);

/// One record as a viewer got it, or as a publisher sends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Audio, video or data.
    pub kind: RecordKind,
    /// Milliseconds modulo 2^32.
    pub timestamp_ms: u32,
    /// The tag's payload.
    pub payload: Vec<u8>,
}

impl Record {
    /// Whether this configures a decoder, or is metadata: what a server may repeat or leave out.
    pub fn is_header(&self) -> bool {
        braidcast_media::TagInfo::of(self.kind, &self.payload).header.is_some() || self.payload.starts_with(b"\x02\0\x0aonMetaData")
    }
}

/// What a viewer has seen; shared with its thread.
#[derive(Default)]
struct Seen {
    video_frames: AtomicU64,
    records: Mutex<Vec<Record>>,
    keep: bool,
    /// What has to come, headers left out: the viewer ends with the first record that is another.
    expected: Option<Arc<Vec<Record>>>,
    /// How many of those have come.
    matched: AtomicUsize,
    /// When video frames came, by [`now_us`]; only with `expected`.
    arrivals: Mutex<Vec<u64>>,
    stop: AtomicBool,
}

/// A clock for all threads of a test, microseconds.
pub fn now_us() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed().as_micros() as u64
}

/// The rules that a stream keeps towards its viewers.
struct Judge<'a> {
    seen: &'a Seen,
    last_ms: [Option<u32>; 256],
}

impl<'a> Judge<'a> {
    fn new(seen: &'a Seen) -> Self {
        Self { seen, last_ms: [None; 256] }
    }

    fn record(&mut self, record: Record) -> Result<()> {
        let (kind, now) = (record.kind, record.timestamp_ms);
        // Metadata is of no time.
        let timed = kind != RecordKind::Data || !record.is_header();
        if timed && let Some(last) = self.last_ms[kind as usize].replace(now) {
            // Modulo 2^32: forward is less than half of the circle.
            ensure!(now.wrapping_sub(last) < 1 << 31, "{kind:?} went back from {last} to {now}");
        }
        if kind == RecordKind::Video && !record.is_header() {
            self.seen.video_frames.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(expected) = self.seen.expected.as_ref().filter(|_| !record.is_header()) {
            let at = self.seen.matched.load(Ordering::Relaxed);
            let want = expected.get(at).context("more came than was published")?;
            ensure!(*want == record, "record {at}: wanted {}, got {}", describe(want), describe(&record));
            self.seen.matched.fetch_add(1, Ordering::Relaxed);
            if kind == RecordKind::Video {
                self.seen.arrivals.lock().expect("no viewer panics").push(now_us());
            }
        }
        if self.seen.keep {
            self.seen.records.lock().expect("no viewer panics").push(record);
        }
        Ok(())
    }
}

fn describe(record: &Record) -> String {
    format!("{:?} at {} ms, {} bytes", record.kind, record.timestamp_ms, record.payload.len())
}

/// A viewer in a thread of its own.
pub struct Viewer {
    thread: Option<JoinHandle<Result<()>>>,
    seen: Arc<Seen>,
}

impl Viewer {
    /// Watches `/PATH` by HTTP-FLV.
    pub fn flv(address: SocketAddr, path: &str) -> Result<Self> {
        Self::start_flv(address, path, false)
    }

    /// Watches `/PATH` by HTTP-FLV and keeps every record.
    pub fn flv_recorder(address: SocketAddr, path: &str) -> Result<Self> {
        Self::start_flv(address, path, true)
    }

    /// Watches `/PATH` by HTTP-FLV, and ends with the first record (headers left out) that is not the next of these.
    pub fn flv_expecting(address: SocketAddr, path: &str, expected: Arc<Vec<Record>>) -> Result<Self> {
        let mut stream = Self::ask_flv(address, path)?;
        let seen = Seen { expected: Some(expected), ..Seen::default() };
        Ok(Self::spawn(seen, move |seen| watch_flv(&mut stream, seen, u64::MAX)))
    }

    /// As [`Viewer::flv_expecting`], by RTMP.
    pub fn rtmp_expecting(url: &str, expected: Arc<Vec<Record>>) -> Result<Self> {
        let mut client = RtmpClient::connect(url, ClientRole::Play)?;
        let seen = Seen { expected: Some(expected), ..Seen::default() };
        Ok(Self::spawn(seen, move |seen| watch_rtmp(&mut client, seen)))
    }

    fn start_flv(address: SocketAddr, path: &str, keep: bool) -> Result<Self> {
        let mut stream = Self::ask_flv(address, path)?;
        let seen = Seen { keep, ..Seen::default() };
        Ok(Self::spawn(seen, move |seen| watch_flv(&mut stream, seen, u64::MAX)))
    }

    /// Watches what a program writes into `stream`: FLV without an HTTP head. Keeps every record.
    pub fn flv_body(mut stream: UnixStream) -> Result<Self> {
        stream.set_read_timeout(Some(LOOK))?;
        let seen = Seen { keep: true, ..Seen::default() };
        Ok(Self::spawn(seen, move |seen| watch_flv_after(FlvAnswer::Plain, &mut stream, seen, u64::MAX)))
    }

    fn ask_flv(address: SocketAddr, path: &str) -> Result<TcpStream> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(LOOK))?;
        write!(stream, "GET /{path} HTTP/1.1\r\nHost: x\r\n\r\n")?;
        Ok(stream)
    }

    /// Watches by RTMP.
    pub fn rtmp(url: &str) -> Result<Self> {
        Self::start_rtmp(url, false)
    }

    /// Watches by RTMP and keeps every record.
    pub fn rtmp_recorder(url: &str) -> Result<Self> {
        Self::start_rtmp(url, true)
    }

    fn start_rtmp(url: &str, keep: bool) -> Result<Self> {
        let mut client = RtmpClient::connect(url, ClientRole::Play)?;
        Ok(Self::spawn(Seen { keep, ..Seen::default() }, move |seen| watch_rtmp(&mut client, seen)))
    }

    fn spawn(seen: Seen, watch: impl FnOnce(&Seen) -> Result<()> + Send + 'static) -> Self {
        let seen = Arc::new(seen);
        let shared = seen.clone();
        Self { thread: Some(std::thread::spawn(move || watch(&shared))), seen }
    }

    /// Video frames seen so far, without headers.
    pub fn frames(&self) -> u64 {
        self.seen.video_frames.load(Ordering::Relaxed)
    }

    /// What a recorder has kept so far.
    pub fn records(&self) -> Vec<Record> {
        self.seen.records.lock().expect("no viewer panics").clone()
    }

    /// How many of the expected records have come.
    pub fn matched(&self) -> usize {
        self.seen.matched.load(Ordering::Relaxed)
    }

    /// When the expected video frames came, by [`now_us`].
    pub fn arrivals(&self) -> Vec<u64> {
        self.seen.arrivals.lock().expect("no viewer panics").clone()
    }

    /// How many records a recorder has kept so far.
    pub fn count(&self) -> usize {
        self.seen.records.lock().expect("no viewer panics").len()
    }

    /// Waits for `more` frames than there are now.
    pub fn wait_more(&self, more: u64) -> Result<()> {
        let until = self.frames() + more;
        let reached = eventually(PATIENCE, || (self.frames() >= until || self.is_over()).then_some(()));
        ensure!(reached.is_some() && self.frames() >= until, "the viewer stands at {} frames, wanted {until}", self.frames());
        Ok(())
    }

    /// Waits until a recorder has a record that fits.
    pub fn wait_record(&self, fits: impl Fn(&Record) -> bool) -> Result<()> {
        let found = || self.seen.records.lock().expect("no viewer panics").iter().any(&fits);
        let reached = eventually(PATIENCE, || (found() || self.is_over()).then_some(()));
        ensure!(reached.is_some() && found(), "the viewer never got the record; it has {}", self.count());
        Ok(())
    }

    /// Whether it has ended: the server closed it, or what it got was wrong.
    pub fn is_over(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Ends the viewer; an error if what it got was wrong, or the server closed it.
    pub fn end(mut self) -> Result<()> {
        self.seen.stop.store(true, Ordering::Relaxed);
        self.thread.take().context("a viewer ends once")?.join().expect("the viewer does not panic")
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        self.seen.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Checks what comes by HTTP-FLV until `most` video frames have come. For streams that a test reads by itself.
pub fn check_flv(stream: &mut impl Read, most: u64) -> Result<()> {
    watch_flv(stream, &Seen::default(), most)
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

fn watch_flv(stream: &mut impl Read, seen: &Seen, most: u64) -> Result<()> {
    watch_flv_after(FlvAnswer::Head(Vec::new()), stream, seen, most)
}

fn watch_flv_after(mut answer: FlvAnswer, stream: &mut impl Read, seen: &Seen, most: u64) -> Result<()> {
    let mut judge = Judge::new(seen);
    let (mut bytes, mut begun) = (Vec::new(), false);
    let mut buffer = [0; 64 << 10];
    while !seen.stop.load(Ordering::Relaxed) && seen.video_frames.load(Ordering::Relaxed) < most {
        match stream.read(&mut buffer) {
            Ok(0) => anyhow::bail!("the server closed the viewer"),
            Ok(read) => answer.read(&buffer[..read], &mut bytes)?,
            Err(error) if is_timeout(&error) => continue,
            Err(error) => return Err(error.into()),
        }
        if !begun {
            if bytes.len() < flv::FILE_HEADER.len() {
                continue;
            }
            ensure!(bytes.starts_with(b"FLV"), "no FLV header");
            bytes.drain(..flv::FILE_HEADER.len());
            begun = true;
        }
        let mut used = 0;
        for record in flv::records(&bytes) {
            let whole = record.header.record_bytes();
            let size = &bytes[record.offset + whole - 4..][..4];
            ensure!(size == ((whole - 4) as u32).to_be_bytes(), "a record's trailing size is wrong");
            used = record.offset + whole;
            judge.record(Record {
                kind: record.header.kind,
                timestamp_ms: record.header.timestamp_ms,
                payload: record.payload.to_vec(),
            })?;
        }
        bytes.drain(..used);
        if let Some(kind) = bytes.first() {
            ensure!(matches!(kind & 0x1f, 8 | 9 | 18), "a byte that begins no tag: {kind}");
        }
    }
    Ok(())
}

/// An answer as it comes: its head, then its body, in chunks (RFC 9112 §7.1) or until the end.
enum FlvAnswer {
    Head(Vec<u8>),
    Plain,
    /// How much of the chunk is to come, and what has come of the next one's size.
    Chunked(usize, Vec<u8>),
}

impl FlvAnswer {
    /// Takes bytes; appends those of the body.
    fn read(&mut self, mut bytes: &[u8], body: &mut Vec<u8>) -> Result<()> {
        while !bytes.is_empty() {
            match self {
                Self::Head(head) => {
                    let (byte, rest) = bytes.split_first().context("not empty")?;
                    head.push(*byte);
                    bytes = rest;
                    if head.ends_with(b"\r\n\r\n") {
                        let text = String::from_utf8_lossy(head).to_lowercase();
                        ensure!(text.starts_with("http/1.1 200"), "{text}");
                        let chunked = text.lines().any(|line| line.replace(' ', "") == "transfer-encoding:chunked");
                        *self = if chunked { Self::Chunked(0, Vec::new()) } else { Self::Plain };
                    }
                }
                Self::Plain => {
                    body.extend_from_slice(bytes);
                    bytes = &[];
                }
                Self::Chunked(0, size) => {
                    let (byte, rest) = bytes.split_first().context("not empty")?;
                    bytes = rest;
                    size.push(*byte);
                    // The line break behind the last chunk comes first.
                    let text = std::str::from_utf8(size)?.trim_start().to_owned();
                    if let Some(digits) = text.strip_suffix("\r\n") {
                        let length = usize::from_str_radix(digits, 16).with_context(|| format!("a chunk of {digits:?} bytes"))?;
                        ensure!(length > 0, "the server ended the answer");
                        *self = Self::Chunked(length, Vec::new());
                    }
                }
                Self::Chunked(left, _) => {
                    let (piece, rest) = bytes.split_at(bytes.len().min(*left));
                    body.extend_from_slice(piece);
                    *left -= piece.len();
                    bytes = rest;
                }
            }
        }
        Ok(())
    }
}

fn watch_rtmp(client: &mut RtmpClient, seen: &Seen) -> Result<()> {
    let mut judge = Judge::new(seen);
    while !seen.stop.load(Ordering::Relaxed) {
        match client.next(LOOK)? {
            Some(ClientOutput::Media { kind, timestamp_ms, payload }) => {
                // Said to every player at the start; it belongs to no stream.
                if !payload.starts_with(b"\x02\0\x11|RtmpSampleAccess") {
                    judge.record(Record { kind, timestamp_ms, payload })?;
                }
            }
            Some(ClientOutput::Refused { code, description }) => anyhow::bail!("refused: {code} {description}"),
            Some(ClientOutput::Status { code }) if code == "NetStream.Play.Stop" => anyhow::bail!("the server ended the play"),
            Some(ClientOutput::Started | ClientOutput::Status { .. }) | None => {}
        }
    }
    Ok(())
}
