//! An HLS viewer: one connection that is kept, an index every half segment, each new segment once, in order.
//!
//! Only the verified few look at what is in a segment; for the others a byte costs no copy. Time comes in.

use crate::hls_ts::FrameReader;
use crate::socket::{self, Outbox, Readiness};
use crate::verify::Verifier;
use anyhow::Context;
use std::collections::VecDeque;
use std::net::{SocketAddr, TcpStream};

/// The longest head of an answer, and the most that is read of an answer at once while its head is awaited.
const HEAD_BYTES: usize = 16 << 10;
/// Players begin so many segments before the live index's end (RFC 8216 section 6.3.3).
const FIRST_SEGMENTS: usize = 3;

/// How long answers took, in microseconds from the request until the last byte, within the window.
#[derive(Debug, Default)]
pub struct Answers {
    /// Whether what comes now counts.
    pub measuring: bool,
    /// Of segments.
    pub segments_us: Vec<u32>,
    /// Of indexes.
    pub indexes_us: Vec<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Index,
    Segment,
}

#[derive(Debug)]
enum Phase {
    Idle,
    /// A head is awaited.
    Head(Wanted, Vec<u8>),
    /// So many bytes of a body are missing.
    Body {
        wanted: Wanted,
        left: u64,
        kept: Vec<u8>,
    },
}

/// One connection that plays.
pub struct HlsViewer {
    socket: TcpStream,
    outbox: Outbox,
    host: SocketAddr,
    /// Path of the index.
    index: String,
    phase: Phase,
    asked_ns: u64,
    next_index_ns: u64,
    period_ns: u64,
    /// Number of the last segment that was queued.
    newest: Option<u64>,
    queue: VecDeque<String>,
    verified: Option<(FrameReader, Verifier)>,
    received: u64,
    segments: u64,
}

impl HlsViewer {
    /// Begins to connect. The index at `path` is asked for at `first_ns`, and every `period_ns` from then on.
    ///
    /// # Errors
    /// There is no socket for it.
    pub fn connect(host: SocketAddr, path: &str, first_ns: u64, period_ns: u64, verified: bool) -> anyhow::Result<Self> {
        let socket = socket::connect(host).with_context(|| format!("cannot connect to {host}"))?;
        Ok(Self {
            socket,
            outbox: Outbox::default(),
            host,
            index: path.to_owned(),
            phase: Phase::Idle,
            asked_ns: 0,
            next_index_ns: first_ns,
            period_ns,
            newest: None,
            queue: VecDeque::new(),
            verified: verified.then(Default::default),
            received: 0,
            segments: 0,
        })
    }

    /// To be polled.
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Bytes that came so far, heads and indexes included.
    pub fn received_bytes(&self) -> u64 {
        self.received
    }

    /// Whole segments that came so far.
    pub fn segments(&self) -> u64 {
        self.segments
    }

    /// What it has found; `None` if it does not verify.
    pub fn verifier(&self) -> Option<&Verifier> {
        self.verified.as_ref().map(|(_, verifier)| verifier)
    }

    /// Asks for what is due, if nothing is under way.
    ///
    /// # Errors
    /// The connection is over.
    pub fn ask_due(&mut self, now_ns: u64) -> anyhow::Result<()> {
        if !matches!(self.phase, Phase::Idle) {
            return Ok(());
        }
        if let Some(path) = self.queue.pop_front() {
            return self.ask(Wanted::Segment, &path, now_ns);
        }
        if self.next_index_ns <= now_ns {
            // Who is late asks once, not once for each time that he missed.
            let missed = (now_ns - self.next_index_ns) / self.period_ns;
            self.next_index_ns += (missed + 1) * self.period_ns;
            return self.ask(Wanted::Index, &self.index.clone(), now_ns);
        }
        Ok(())
    }

    fn ask(&mut self, wanted: Wanted, path: &str, now_ns: u64) -> anyhow::Result<()> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nUser-Agent: braidcast-bench\r\nAccept: */*\r\n\r\n", self.host);
        self.outbox.buffer().extend_from_slice(request.as_bytes());
        self.phase = Phase::Head(wanted, Vec::new());
        self.asked_ns = now_ns;
        Ok(self.outbox.flush(&self.socket)?)
    }

    /// Does what the socket is ready for. An error ends the viewer.
    ///
    /// # Errors
    /// The server has answered with anything but success, or has ended the connection.
    pub fn handle(&mut self, event: Readiness, scratch: &mut [u8], answers: &mut Answers) -> anyhow::Result<()> {
        if event.writable {
            self.outbox.flush(&self.socket)?;
        }
        if !event.readable {
            return Ok(());
        }
        loop {
            // Less than asked for does not mean that the socket is empty here: what was asked for is what is missing of an answer.
            let got = match &self.phase {
                Phase::Body { wanted: Wanted::Segment, left, .. } if self.verified.is_none() => {
                    let most = scratch.len().min(usize::try_from(*left)?);
                    socket::discard(&self.socket, &mut scratch[..most])?
                }
                Phase::Body { left, .. } => {
                    let most = scratch.len().min(usize::try_from(*left)?);
                    socket::receive(&self.socket, &mut scratch[..most])?
                }
                Phase::Head(..) | Phase::Idle => socket::receive(&self.socket, &mut scratch[..HEAD_BYTES])?,
            };
            let Some(bytes) = got else { return Ok(()) };
            anyhow::ensure!(bytes > 0, "the server ended the connection after {} bytes", self.received);
            self.received += bytes as u64;
            self.take(&scratch[..bytes], answers)?;
        }
    }

    fn take(&mut self, input: &[u8], answers: &mut Answers) -> anyhow::Result<()> {
        match &mut self.phase {
            Phase::Idle => anyhow::bail!("the server sends what was not asked for"),
            Phase::Head(wanted, head) => {
                head.extend_from_slice(input);
                let Some(end) = head.windows(4).position(|window| window == b"\r\n\r\n") else {
                    anyhow::ensure!(head.len() <= HEAD_BYTES, "the answer's head does not end");
                    return Ok(());
                };
                let body = head.split_off(end + 4);
                let length = length_of(&String::from_utf8_lossy(head))?;
                let left = length.checked_sub(body.len() as u64).context("more came than was asked for")?;
                self.phase = Phase::Body { wanted: *wanted, left, kept: body };
            }
            Phase::Body { wanted, left, kept } => {
                *left -= input.len() as u64;
                if *wanted == Wanted::Index || self.verified.is_some() {
                    kept.extend_from_slice(input);
                }
            }
        }
        if let Phase::Body { left: 0, .. } = self.phase { self.answered(answers) } else { Ok(()) }
    }

    /// An answer is whole.
    fn answered(&mut self, answers: &mut Answers) -> anyhow::Result<()> {
        let Phase::Body { wanted, kept, .. } = std::mem::replace(&mut self.phase, Phase::Idle) else { return Ok(()) };
        let now_ns = socket::monotonic_ns();
        let took_us = u32::try_from((now_ns - self.asked_ns) / 1000).unwrap_or(u32::MAX);
        let list = if wanted == Wanted::Index { &mut answers.indexes_us } else { &mut answers.segments_us };
        if answers.measuring {
            list.push(took_us);
        }
        match wanted {
            Wanted::Index => self.read_index(std::str::from_utf8(&kept).context("an index that is no text")?)?,
            Wanted::Segment => {
                self.segments += 1;
                if let Some((frames, verifier)) = &mut self.verified {
                    frames.segment(&kept, |frame| {
                        verifier.judge(frame);
                    })?;
                }
            }
        }
        self.ask_due(now_ns)
    }

    /// Queues the segments of an index that are new.
    fn read_index(&mut self, text: &str) -> anyhow::Result<()> {
        let (first, uris) = parse_index(text)?;
        let known = self.newest.map_or(uris.len().saturating_sub(FIRST_SEGMENTS), |newest| (newest + 1).saturating_sub(first) as usize);
        let directory = self.index.rsplit_once('/').map_or("", |(directory, _)| directory);
        self.queue.extend(uris.iter().skip(known).map(|uri| format!("{directory}/{uri}")));
        self.newest = self.newest.max((first + uris.len() as u64).checked_sub(1));
        Ok(())
    }
}

/// The body's length; an error if the answer is not 200.
fn length_of(head: &str) -> anyhow::Result<u64> {
    let mut lines = head.lines();
    let status = lines.next().unwrap_or_default();
    anyhow::ensure!(status.starts_with("HTTP/1.1 200"), "the server answered: {status}");
    let length = lines.find_map(|line| line.split_once(':').filter(|(name, _)| name.eq_ignore_ascii_case("content-length")));
    length.context("an answer without a length")?.1.trim().parse().context("an answer's length that is no number")
}

/// Number of the first segment, and the URIs of all.
fn parse_index(text: &str) -> anyhow::Result<(u64, Vec<&str>)> {
    let first = text.lines().find_map(|line| line.strip_prefix("#EXT-X-MEDIA-SEQUENCE:"));
    let first = first.context("an index without a media sequence")?.trim().parse().context("a media sequence that is no number")?;
    Ok((first, text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn index(first: u64, last: u64) -> String {
        let uris: String = (first..=last).map(|number| format!("#EXTINF:2,\ns/{number}.ts\n")).collect();
        format!("#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:{first}\n{uris}")
    }

    #[test]
    fn each_segment_is_asked_for_once_and_in_order() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut viewer = HlsViewer::connect(listener.local_addr().unwrap(), "/live/s.m3u8", 0, 1, false).unwrap();
        viewer.read_index(&index(4, 9)).unwrap();
        assert_eq!(viewer.queue, ["/live/s/7.ts", "/live/s/8.ts", "/live/s/9.ts"]);
        viewer.read_index(&index(4, 9)).unwrap();
        viewer.read_index(&index(6, 10)).unwrap();
        assert_eq!(viewer.queue.len(), 4);
        assert_eq!(viewer.queue.back().unwrap(), "/live/s/10.ts");
    }

    #[test]
    fn anything_but_a_whole_answer_is_refused() {
        assert_eq!(length_of("HTTP/1.1 200 OK\r\nContent-length: 17\r\n\r\n").unwrap(), 17);
        for head in ["HTTP/1.1 404 Not Found\r\nContent-Length: 1", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nContent-Length: x"] {
            assert!(length_of(head).is_err());
        }
    }
}
