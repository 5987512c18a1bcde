//! The bare loop: what this kernel needs to send a stream to viewers, with no server around it.
//!
//! Single-threaded; one frame made, then one send per viewer of everything it lacks. It reads no more of a request than
//! its end, keeps no state of a protocol, and answers whatever it is asked with the same HTTP-FLV stream.

use crate::socket::{self, Poller, Readiness};
use crate::source::{AUDIO_SEQUENCE_HEADER, Shape, Source, VIDEO_SEQUENCE_HEADER};
use anyhow::Context;
use braidcast_media::RecordKind;
use braidcast_media::flv::{FILE_HEADER, write_record};
use slab::Slab;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

const LISTENER: u64 = 0;
const STANDARD_INPUT: u64 = 1;
const FIRST_VIEWER: u64 = 2;
const MAX_REQUEST_BYTES: usize = 16 << 10;
/// How much of the stream is kept for viewers that lag; older bytes go at the next keyframe.
const KEEP: Duration = Duration::from_secs(10);
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: video/x-flv\r\nConnection: close\r\n\r\n";

/// How the loop paces its sends.
#[derive(Clone, Copy, Debug)]
pub struct Pacing {
    /// What it sends.
    pub shape: Shape,
    /// The least time between two rounds of sends; zero: one round per frame.
    pub flush: Duration,
}

struct Viewer {
    socket: TcpStream,
    request: Vec<u8>,
    /// Where it is in the stream; `None` until its request is whole.
    position: Option<u64>,
    /// Its socket took less than there was: wait until it is writable.
    blocked: bool,
}

struct Stream {
    source: Source,
    /// Bytes from position `base` on.
    bytes: Vec<u8>,
    base: u64,
    /// Positions of kept keyframes and when they were made.
    keyframes: std::collections::VecDeque<(u64, u64)>,
}

impl Stream {
    fn end(&self) -> u64 {
        self.base + self.bytes.len() as u64
    }

    fn append_due(&mut self, now_ns: u64) {
        while self.source.next_due_ns() <= now_ns {
            let position = self.base + self.bytes.len() as u64;
            // Stamped with the moment at which a publisher would have sent it, however late this loop is: waiting is latency.
            let frame = self.source.produce(self.source.next_due_ns());
            if frame.keyframe {
                self.keyframes.push_back((position, now_ns));
            }
            write_record(&mut self.bytes, frame.kind, frame.timestamp_ms, frame.payload);
        }
        self.forget(now_ns);
    }

    fn forget(&mut self, now_ns: u64) {
        let keep_ns = KEEP.as_nanos() as u64;
        let mut to = self.base;
        while self.keyframes.len() > 1 && self.keyframes[1].1 + keep_ns < now_ns {
            self.keyframes.pop_front();
            to = self.keyframes[0].0;
        }
        self.bytes.drain(..(to - self.base) as usize);
        self.base = to;
    }
}

/// Serves until standard input ends, or for ever if that is no pipe. Tells its address on standard output in one JSON line.
pub fn run(listen: SocketAddr, pacing: Pacing) -> anyhow::Result<()> {
    pacing.shape.check()?;
    socket::raise_descriptor_limit(256)?;
    let listener = socket::listen(listen)?;
    let poller = Poller::new()?;
    poller.add(&listener, LISTENER)?;
    // Fails for what cannot be polled (a file, /dev/null); then nobody means to stop us that way.
    let watches_input = poller.add(io::stdin(), STANDARD_INPUT).is_ok();
    let ready = serde_json::json!({ "http": [listener.local_addr()?.to_string()] });
    println!("{ready}");
    io::stdout().flush()?;
    let source = Source::new(pacing.shape, socket::monotonic_ns());
    let stream = Stream { source, bytes: Vec::new(), base: 0, keyframes: Default::default() };
    Loop { poller, listener, stream, viewers: Slab::new(), prefix: prefix(pacing.shape), flush: pacing.flush, watches_input }.serve()
}

fn prefix(shape: Shape) -> Vec<u8> {
    let mut bytes = [RESPONSE, &FILE_HEADER].concat();
    write_record(&mut bytes, RecordKind::Video, 0, &VIDEO_SEQUENCE_HEADER);
    if shape.audio_bps > 0 {
        write_record(&mut bytes, RecordKind::Audio, 0, &AUDIO_SEQUENCE_HEADER);
    }
    bytes
}

struct Loop {
    poller: Poller,
    listener: TcpListener,
    stream: Stream,
    viewers: Slab<Viewer>,
    prefix: Vec<u8>,
    flush: Duration,
    watches_input: bool,
}

impl Loop {
    fn serve(&mut self) -> anyhow::Result<()> {
        let mut ready: Vec<Readiness> = Vec::new();
        let mut next_flush_ns = 0;
        loop {
            let now_ns = socket::monotonic_ns();
            if now_ns >= self.stream.source.next_due_ns().max(next_flush_ns) {
                self.stream.append_due(now_ns);
                next_flush_ns = now_ns + self.flush.as_nanos() as u64;
                self.send_to_all();
            }
            let due_ns = self.stream.source.next_due_ns().max(next_flush_ns);
            self.poller.wait(Duration::from_nanos(due_ns.saturating_sub(socket::monotonic_ns())), &mut ready)?;
            for &event in &ready {
                match event.token {
                    LISTENER => self.accept()?,
                    STANDARD_INPUT if self.watches_input => {
                        if io::stdin().read(&mut [0; 64])? == 0 {
                            return Ok(());
                        }
                    }
                    token => self.handle(token.saturating_sub(FIRST_VIEWER) as usize, event),
                }
            }
        }
    }

    fn accept(&mut self) -> anyhow::Result<()> {
        while let Some(socket) = socket::accept(&self.listener).context("cannot accept")? {
            let entry = self.viewers.vacant_entry();
            self.poller.add(&socket, FIRST_VIEWER + entry.key() as u64)?;
            entry.insert(Viewer { socket, request: Vec::new(), position: None, blocked: false });
        }
        Ok(())
    }

    fn handle(&mut self, key: usize, event: Readiness) {
        let Some(viewer) = self.viewers.get_mut(key) else { return };
        let mut alive = true;
        if event.readable {
            alive = viewer.read(&self.prefix, &self.stream).is_ok();
        }
        if alive && event.writable && viewer.blocked {
            viewer.blocked = false;
            alive = viewer.send(&self.stream).is_ok();
        }
        if !alive {
            self.viewers.remove(key);
        }
    }

    fn send_to_all(&mut self) {
        let stream = &self.stream;
        self.viewers.retain(|_, viewer| viewer.blocked || viewer.send(stream).is_ok());
    }
}

impl Viewer {
    fn read(&mut self, prefix: &[u8], stream: &Stream) -> io::Result<()> {
        let mut scratch = [0; 4096];
        while let Some(bytes) = socket::receive(&self.socket, &mut scratch)? {
            if bytes == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.request.extend_from_slice(&scratch[..bytes]);
            if self.request.len() > MAX_REQUEST_BYTES {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        if self.position.is_none() && self.request.ends_with(b"\r\n\r\n") {
            // An empty socket takes so few bytes whole.
            socket::send(&self.socket, prefix)?;
            self.position = Some(stream.keyframes.back().map_or(stream.end(), |&(position, _)| position));
            return self.send(stream);
        }
        Ok(())
    }

    fn send(&mut self, stream: &Stream) -> io::Result<()> {
        let Some(position) = self.position else { return Ok(()) };
        let Some(skip) = position.checked_sub(stream.base) else {
            return Err(io::Error::other("fell behind what is kept"));
        };
        let lacking = &stream.bytes[skip as usize..];
        if lacking.is_empty() {
            return Ok(());
        }
        let sent = socket::send(&self.socket, lacking)?.unwrap_or(0);
        self.blocked = sent < lacking.len();
        self.position = Some(position + sent as u64);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_forgets_whole_groups_of_pictures_only() {
        let shape = Shape { video_bps: 2_500_000, fps: 30, gop_frames: 60, audio_bps: 0 };
        let mut stream = Stream { source: Source::new(shape, 0), bytes: Vec::new(), base: 0, keyframes: Default::default() };
        for tick in 0..900 {
            stream.append_due(tick * 33_333_334);
            assert_eq!(stream.keyframes.front().map(|&(position, _)| position), Some(stream.base));
        }
        assert!(stream.base > 0);
        assert!(stream.bytes.len() < 14 * 312_500, "kept {} bytes", stream.bytes.len());
    }
}
