//! A visitor: it comes, waits for the first frame, stays a while and throws away what else it gets, and goes.
//!
//! What counts is how long it took from the connection's beginning until all of the first frame was there, and whether that
//! frame was one that a decoder can begin with. Bytes in, bytes out, one socket; it knows no clock but the monotonic one.

use crate::flv::{self, ResponseHead, TagReader};
use crate::rtmp::Session;
use crate::socket::{self, Outbox, Readiness};
use crate::source::sealed_part;
use anyhow::Context;
use braidcast_media::RecordKind;
use std::net::{SocketAddr, TcpStream};

/// How visitors come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// HTTP-FLV.
    Flv,
    /// RTMP play.
    Rtmp,
    /// HLS: the index, then the newest segment, on one connection.
    Hls,
}

impl Way {
    /// All, in the order of tables.
    pub const ALL: [Self; 3] = [Self::Flv, Self::Rtmp, Self::Hls];

    /// What tables call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Flv => "flv",
            Self::Rtmp => "rtmp",
            Self::Hls => "hls",
        }
    }
}

impl std::fmt::Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// A visitor's first frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirstFrame {
    /// From the connection's beginning until it was there, in nanoseconds.
    pub after_ns: u64,
    /// A decoder can begin with it.
    pub keyframe: bool,
}

enum Phase {
    FlvHead(ResponseHead),
    FlvTags(TagReader),
    Rtmp(Session),
    Hls(HlsVisit),
    /// Everything is thrown away.
    Staying,
}

/// One connection.
pub struct Visitor {
    socket: TcpStream,
    way: Way,
    phase: Phase,
    outbox: Outbox,
    began_ns: u64,
    first: Option<FirstFrame>,
}

impl Visitor {
    /// Begins to connect.
    pub fn connect(way: Way, address: SocketAddr, app: &str, stream: &str) -> anyhow::Result<Self> {
        let began_ns = socket::monotonic_ns();
        let socket = socket::connect(address).with_context(|| format!("cannot connect to {address}"))?;
        let mut outbox = Outbox::default();
        let phase = match way {
            Way::Flv => {
                outbox.buffer().extend(flv::request(app, stream, address));
                Phase::FlvHead(ResponseHead::default())
            }
            Way::Rtmp => Phase::Rtmp(Session::play(app, stream, address)),
            Way::Hls => {
                let visit = HlsVisit::new(format!("/{app}/{stream}.m3u8"), address);
                outbox.buffer().extend(visit.request());
                Phase::Hls(visit)
            }
        };
        Ok(Self { socket, way, phase, outbox, began_ns, first: None })
    }

    /// To be polled.
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// How it came.
    pub fn way(&self) -> Way {
        self.way
    }

    /// When it began to connect, monotonic nanoseconds.
    pub fn began_ns(&self) -> u64 {
        self.began_ns
    }

    /// `None`: it has not come yet.
    pub fn first_frame(&self) -> Option<FirstFrame> {
        self.first
    }

    /// Does what the socket is ready for. An error ends the visitor.
    pub fn handle(&mut self, event: Readiness, scratch: &mut [u8]) -> anyhow::Result<()> {
        if let Phase::Rtmp(session) = &mut self.phase {
            session.collect_output(self.outbox.buffer());
        }
        if event.writable {
            self.outbox.flush(&self.socket)?;
        }
        if event.readable {
            self.read(scratch)?;
        }
        Ok(())
    }

    fn read(&mut self, scratch: &mut [u8]) -> anyhow::Result<()> {
        loop {
            let staying = matches!(self.phase, Phase::Staying);
            let got = if staying { socket::discard(&self.socket, scratch)? } else { socket::receive(&self.socket, scratch)? };
            let Some(bytes) = got else { return Ok(()) };
            anyhow::ensure!(bytes > 0, "the server ended the connection");
            self.take(&scratch[..bytes])?;
            // Less than asked for: the socket is empty, and what comes next is a new edge.
            if bytes < scratch.len() {
                return Ok(());
            }
        }
    }

    fn take(&mut self, input: &[u8]) -> anyhow::Result<()> {
        let mut keyframe = None;
        let mut note = |kind, payload: &[u8]| {
            if sealed_part(kind, payload).is_some() {
                keyframe.get_or_insert(kind == RecordKind::Video && payload[0] >> 4 == 1);
            }
        };
        match &mut self.phase {
            Phase::FlvHead(head) => {
                let Some(body) = head.handle(input)? else { return Ok(()) };
                let mut tags = TagReader::default();
                tags.handle(&body, &mut note)?;
                self.phase = Phase::FlvTags(tags);
            }
            Phase::FlvTags(tags) => tags.handle(input, &mut note)?,
            Phase::Rtmp(session) => {
                session.handle_input(input, &mut note)?;
                session.collect_output(self.outbox.buffer());
                self.outbox.flush(&self.socket)?;
            }
            Phase::Hls(visit) => {
                keyframe = visit.handle(input)?;
                self.outbox.buffer().extend(visit.poll_request());
                self.outbox.flush(&self.socket)?;
            }
            Phase::Staying => {}
        }
        if let Some(keyframe) = keyframe {
            self.first = Some(FirstFrame { after_ns: socket::monotonic_ns() - self.began_ns, keyframe });
            self.phase = Phase::Staying;
        }
        Ok(())
    }
}

/// Follows indexes to the newest segment, and looks at the head of that.
struct HlsVisit {
    host: SocketAddr,
    path: String,
    asked: bool,
    head: ResponseHead,
    body: Option<Vec<u8>>,
}

/// Indexes that lead to indexes.
const MAX_INDEX_BYTES: usize = 1 << 20;
const TS_PACKET_BYTES: usize = 188;

impl HlsVisit {
    fn new(path: String, host: SocketAddr) -> Self {
        Self { host, path, asked: true, head: ResponseHead::default(), body: None }
    }

    fn request(&self) -> Vec<u8> {
        format!("GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: braidcast-bench\r\n\r\n", self.path, self.host).into_bytes()
    }

    /// The next request, once.
    fn poll_request(&mut self) -> Vec<u8> {
        if std::mem::replace(&mut self.asked, true) { Vec::new() } else { self.request() }
    }

    /// Takes what arrived; once the first frame's beginning is there, whether a decoder can begin with it.
    fn handle(&mut self, input: &[u8]) -> anyhow::Result<Option<bool>> {
        match &mut self.body {
            Some(body) => body.extend_from_slice(input),
            None => self.body = self.head.handle(input)?,
        }
        let Some(body) = &self.body else { return Ok(None) };
        if !without_query(&self.path).ends_with(".m3u8") {
            return Ok(first_picture(body));
        }
        let length = self.head.content_length().context("an index without Content-Length")?;
        anyhow::ensure!(length <= MAX_INDEX_BYTES, "an index of {length} bytes");
        if body.len() < length {
            return Ok(None);
        }
        let text = std::str::from_utf8(&body[..length]).context("an index that is no text")?;
        let uri = text.lines().rfind(|line| !line.is_empty() && !line.starts_with('#')).context("an index without a segment")?;
        let next = resolve(&self.path, uri);
        *self = Self { asked: false, ..Self::new(next, self.host) };
        Ok(None)
    }
}

fn without_query(uri: &str) -> &str {
    uri.split('?').next().unwrap_or_default()
}

/// A URI of an index, as a path (RFC 3986 §5.2, without dot segments: no server here writes any).
fn resolve(index: &str, uri: &str) -> String {
    if let Some((_, rest)) = uri.split_once("://") {
        return rest.find('/').map_or("/", |at| &rest[at..]).to_owned();
    }
    if uri.starts_with('/') {
        return uri.to_owned();
    }
    let folder = without_query(index).rfind('/').map_or("/", |at| &index[..=at]);
    format!("{folder}{uri}")
}

/// Whether the first picture of a transport stream is one that a decoder can begin with (ISO/IEC 13818-1 §2.4.3.5, random_access_indicator);
/// `None`: it has not come yet.
fn first_picture(stream: &[u8]) -> Option<bool> {
    stream.chunks_exact(TS_PACKET_BYTES).find_map(|packet| {
        let (starts, adapted) = (packet[1] & 0x40 != 0, packet[3] & 0x20 != 0);
        let payload = packet.get(if adapted { 5 + usize::from(packet[4]) } else { 4 }..)?;
        let is_video = starts && payload.starts_with(&[0, 0, 1]) && payload.get(3).is_some_and(|id| id & 0xf0 == 0xe0);
        is_video.then_some(adapted && packet[4] > 0 && packet[5] & 0x40 != 0)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const HOST: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 80);

    fn answer(body: &[u8]) -> Vec<u8> {
        let mut answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
        answer.extend_from_slice(body);
        answer
    }

    fn picture(random_access: bool) -> Vec<u8> {
        let mut packet = vec![0xff; TS_PACKET_BYTES];
        packet[..10].copy_from_slice(&[0x47, 0x41, 0, 0x30, 1, if random_access { 0x40 } else { 0 }, 0, 0, 1, 0xe0]);
        packet
    }

    #[test]
    fn indexes_lead_to_the_newest_segment_however_answers_are_cut() {
        for size in [1, 7, 1000] {
            let mut visit = HlsVisit::new("/live/a.m3u8".into(), HOST);
            let mut say = |bytes: &[u8]| {
                let mut found = None;
                for piece in bytes.chunks(size) {
                    found = found.or(visit.handle(piece).unwrap());
                }
                (String::from_utf8(visit.poll_request()).unwrap(), found)
            };
            let (asked, _) = say(&answer(b"#EXTM3U\na.m3u8?hls_ctx=1\n"));
            assert!(asked.starts_with("GET /live/a.m3u8?hls_ctx=1 HTTP/1.1\r\n"), "{asked}");
            let (asked, _) = say(&answer(b"#EXTM3U\n#EXTINF:2,\n/x/1.ts\n#EXTINF:2,\na/2.ts?hls_ctx=1\n"));
            assert!(asked.starts_with("GET /live/a/2.ts?hls_ctx=1 "), "{asked}");
            assert_eq!(say(&answer(&picture(true))), (String::new(), Some(true)));
        }
    }

    #[test]
    fn a_picture_without_random_access_is_no_beginning() {
        assert_eq!(first_picture(&picture(false)), Some(false));
        assert_eq!(first_picture(&picture(true)[..100]), None);
        assert_eq!(resolve("/live/a.m3u8?x=/y", "http://host/b/1.ts"), "/b/1.ts");
    }
}
