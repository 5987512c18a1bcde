//! The log of HTTP requests: one line for each request that was answered, in the combined format of web servers.
//!
//! Lines are gathered and written by a thread of their own: a disk that stalls costs lines, which are counted, and nobody's stream.

use crate::access::without_secrets;
use braidcast_protocols::http::Request;
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write};
use std::net::IpAddr;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

const TIME: &[BorrowedFormatItem<'_>] = format_description!("[day]/[month repr:short]/[year]:[hour]:[minute]:[second] +0000");
/// Lines of so many bytes are given to the thread at once.
const BATCH_BYTES: usize = 16 << 10;
/// Lines that wait because the thread has not taken those before, bytes; past it they are dropped.
const MAX_WAITING_BYTES: usize = 256 << 10;
/// Batches that the thread has not written.
const BATCHES: usize = 8;
/// The longest target, referer or user agent that is written, bytes.
const MAX_FIELD_BYTES: usize = 2_048;

/// What of a request is written when it has been answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Requested {
    line: String,
    referer: String,
    user_agent: String,
    /// Bytes of the connection's output that are not of the answer's body.
    before: u64,
    /// An endless answer has begun, with this status.
    endless: Option<u16>,
}

impl Requested {
    /// Of a request that came when so many bytes had been sent on its connection.
    pub fn new(request: &Request, sent: u64) -> Self {
        let method = match request.method {
            braidcast_protocols::http::Method::Get => "GET",
            braidcast_protocols::http::Method::Head => "HEAD",
            braidcast_protocols::http::Method::Options => "OPTIONS",
            _ => request.method_name().unwrap_or("-"),
        };
        let mut line = format!("{method} {}", encoded(&request.path));
        if !request.query.is_empty() {
            let _ = write!(line, "?{}", encoded(&without_secrets(&request.query)));
        }
        let _ = write!(line, " HTTP/1.{}", request.minor_version);
        let referer = request.referer.as_deref().unwrap_or_default();
        // Another page's query is as secret as ours.
        let referer = match referer.split_once('?') {
            Some((page, query)) => format!("{page}?{}", without_secrets(query)),
            None => referer.to_owned(),
        };
        let user_agent = request.user_agent.clone().unwrap_or_default();
        Self { line, referer: quoted(&referer), user_agent: quoted(&user_agent), before: sent, endless: None }
    }

    /// Of bytes that were no request.
    pub fn none() -> Self {
        Self { line: "-".into(), referer: "-".into(), user_agent: "-".into(), before: 0, endless: None }
    }

    /// An answer without an end begins with a head of so many bytes.
    pub fn begin_endless(&mut self, status: u16, head_bytes: u64) {
        self.before += head_bytes;
        self.endless = Some(status);
    }

    /// Its status and the bytes of its body, if it is such an answer; `sent` in all on its connection.
    pub fn endless(&self, sent: u64) -> Option<(u16, u64)> {
        self.endless.map(|status| (status, sent.saturating_sub(self.before)))
    }

    /// The line: `bytes` of the body, or of as much of it as was sent.
    pub fn written(&self, client: IpAddr, status: u16, bytes: u64, wall_ms: u64) -> String {
        let at = i64::try_from(wall_ms / 1_000).ok().and_then(|s| OffsetDateTime::from_unix_timestamp(s).ok());
        let at = at.and_then(|at| at.format(TIME).ok()).unwrap_or_default();
        let Self { line, referer, user_agent, .. } = self;
        format!("{} - - [{at}] \"{line}\" {status} {bytes} \"{referer}\" \"{user_agent}\"\n", client.to_canonical())
    }
}

/// A target as it may have been sent: what would end the field, and what no target holds, is encoded.
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in cut(text).bytes() {
        match byte {
            b'"' | b'\\' | b'^' | b'`' | b'<' | b'>' | b'{' | b'}' | 0..=b' ' | 0x7f.. => {
                let _ = write!(out, "%{byte:02X}");
            }
            _ => out.push(char::from(byte)),
        }
    }
    out
}

/// A field in quotes.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in cut(text).chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(out, "\\x{:02x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    if out.is_empty() { "-".into() } else { out }
}

fn cut(text: &str) -> &str {
    let mut end = text.len().min(MAX_FIELD_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// A worker's side of the file: what is written there, and the thread that does it.
#[derive(Debug)]
pub struct RequestLog {
    waiting: Vec<u8>,
    dropped: u64,
    to_thread: SyncSender<Vec<u8>>,
    /// The file that the thread is to go on with.
    next: Arc<Mutex<Option<File>>>,
    thread: JoinHandle<()>,
}

impl RequestLog {
    /// Writes to this file.
    pub fn start(file: File) -> io::Result<Self> {
        let (to_thread, batches) = sync_channel(BATCHES);
        let next = Arc::new(Mutex::new(None));
        let files = Arc::clone(&next);
        let thread = std::thread::Builder::new().name("requests".into()).spawn(move || write_all(file, &files, &batches))?;
        Ok(Self { waiting: Vec::new(), dropped: 0, to_thread, next, thread })
    }

    /// Takes a line. It never waits.
    pub fn push(&mut self, line: &str) {
        if self.waiting.len() + line.len() > MAX_WAITING_BYTES {
            self.dropped += 1;
            return;
        }
        self.waiting.extend_from_slice(line.as_bytes());
        if self.waiting.len() >= BATCH_BYTES {
            self.hand_over();
        }
    }

    /// Gives what waits to the thread; says how many lines were dropped since the last time.
    pub fn flush(&mut self) -> u64 {
        self.hand_over();
        std::mem::take(&mut self.dropped)
    }

    /// Another file from now on.
    pub fn reopen(&mut self, file: File) {
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
    }

    /// Writes what waits, and waits for that.
    pub fn close(self) {
        // A thread that is gone has nothing to write with.
        if self.waiting.is_empty() || self.to_thread.send(self.waiting).is_ok() {
            drop(self.to_thread);
            let _ = self.thread.join();
        }
    }

    fn hand_over(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        match self.to_thread.try_send(std::mem::take(&mut self.waiting)) {
            Ok(()) => {}
            Err(TrySendError::Full(waiting)) => self.waiting = waiting,
            Err(TrySendError::Disconnected(lost)) => self.dropped += lost.iter().filter(|byte| **byte == b'\n').count() as u64,
        }
    }
}

fn write_all(mut file: File, next: &Mutex<Option<File>>, batches: &Receiver<Vec<u8>>) {
    let mut failed = false;
    for batch in batches {
        if let Some(other) = next.lock().unwrap_or_else(PoisonError::into_inner).take() {
            file = other;
        }
        match file.write_all(&batch) {
            Ok(()) => failed = false,
            Err(error) if !failed => {
                failed = true;
                tracing::error!(%error, "the access log cannot be written: its lines are lost until it can");
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use braidcast_protocols::http::{RequestReader, Settings};

    fn requested(head: &str) -> Requested {
        let mut reader = RequestReader::new(Settings::default());
        reader.handle_input(head.as_bytes()).unwrap();
        Requested::new(&reader.poll_request().unwrap(), 100)
    }

    #[test]
    fn a_line_is_in_the_combined_format_and_tells_no_secret() {
        let head = "GET /live/a%20b.flv?token=secret&start=-9s HTTP/1.0\r\nHost: h\r\nReferer: http://p/x?key=secret\r\nUser-Agent: a \"b\"\\\r\n\r\n";
        let line = requested(head).written("::ffff:192.0.2.7".parse().unwrap(), 200, 7, 1_700_000_000_000);
        assert_eq!(
            line,
            "192.0.2.7 - - [14/Nov/2023:22:13:20 +0000] \"GET /live/a%20b.flv?token=***&start=-9s HTTP/1.0\" 200 7 \"http://p/x?key=***\" \"a \\\"b\\\"\\\\\"\n"
        );
        let line = Requested::none().written("2001:db8::1".parse().unwrap(), 400, 3, 0);
        assert_eq!(line, "2001:db8::1 - - [01/Jan/1970:00:00:00 +0000] \"-\" 400 3 \"-\" \"-\"\n");
    }

    #[test]
    fn an_endless_answer_counts_its_body() {
        let mut requested = requested("GET /live/x.flv HTTP/1.1\r\nHost: h\r\n\r\n");
        assert_eq!(requested.endless(500), None);
        requested.begin_endless(200, 150);
        assert_eq!(requested.endless(1_250), Some((200, 1_000)));
    }

    #[test]
    fn lines_are_written_in_order_across_files_and_what_is_too_much_is_counted() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str| File::create(directory.path().join(name)).unwrap();
        let mut log = RequestLog::start(file("a")).unwrap();
        let line = format!("{}\n", "x".repeat(99));
        let mut dropped = 0;
        for number in 0..20_000_u64 {
            log.push(&line);
            if number == 10_000 {
                log.reopen(file("b"));
            }
            if number % 100 == 0 {
                dropped += log.flush();
            }
        }
        dropped += log.flush();
        log.close();
        let text = |name| std::fs::read_to_string(directory.path().join(name)).unwrap();
        let (first, second) = (text("a"), text("b"));
        assert!(first.lines().chain(second.lines()).all(|written| written == line.trim()));
        assert_eq!(first.lines().count() + second.lines().count() + dropped as usize, 20_000);
        assert!(!second.is_empty());
    }

    #[test]
    fn a_file_that_takes_nothing_costs_lines_and_no_time() {
        let (read, write) = std::io::pipe().unwrap();
        let file = File::from(std::os::fd::OwnedFd::from(write));
        let mut log = RequestLog::start(file).unwrap();
        let line = format!("{}\n", "x".repeat(999));
        for _ in 0..10_000 {
            log.push(&line);
        }
        assert!(log.flush() > 5_000, "nobody reads the pipe");
        drop(read);
        log.close();
    }
}
