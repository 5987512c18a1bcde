//! A viewer: it connects, asks for the stream, and then either checks every frame or throws everything away unread.
//!
//! Only the verified few parse what they get; for the others a byte costs no copy and a wake-up one system call, so that
//! it is the server that is measured.

use crate::flv::{self, Chunks, ResponseHead, TagReader};
use crate::rtmp::Session;
use crate::socket::{self, Outbox, Readiness};
use crate::source::sealed_part;
use crate::verify::{Faults, Verifier};
use anyhow::Context;
use braidcast_media::RecordKind;
use std::net::{SocketAddr, TcpStream};

/// How viewers connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP-FLV.
    Flv,
    /// RTMP play.
    Rtmp,
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Flv => "flv",
            Self::Rtmp => "rtmp",
        })
    }
}

/// Where to watch.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// How.
    pub protocol: Protocol,
    /// The server's address for it.
    pub address: SocketAddr,
}

/// What verified viewers found, gathered.
#[derive(Debug, Default)]
pub struct Observations {
    measuring: bool,
    latencies_us: Vec<u32>,
    retired: Vec<Verifier>,
}

impl Observations {
    /// Begins or ends the window in which latencies count.
    pub fn measure(&mut self, on: bool) {
        self.measuring = on;
    }

    /// Median and 99th percentile in milliseconds of what all of these measured so far; `None` of nothing.
    pub fn latencies_of_all_ms(all: &[Self]) -> (Option<f64>, Option<f64>) {
        let mut latencies_us: Vec<u32> = all.iter().flat_map(|part| &part.latencies_us).copied().collect();
        latencies_us.sort_unstable();
        let at = |share: f64| {
            let last = latencies_us.len().checked_sub(1)?;
            Some(f64::from(latencies_us[(last as f64 * share).round() as usize]) / 1000.0)
        };
        (at(0.50), at(0.99))
    }

    /// What was measured so far counts no more.
    pub fn forget_latencies(&mut self) {
        self.latencies_us.clear();
    }

    /// Takes over what a viewer that has ended found.
    pub fn retire(&mut self, viewer: Viewer) {
        self.retired.extend(viewer.verifier);
    }

    /// Frames judged and faults found by all retired viewers of a stream whose last frame was the one before `end`.
    pub fn judgement(&self, end: u64) -> (u64, Faults) {
        let mut faults = Faults::default();
        self.retired.iter().for_each(|verifier| faults.add(verifier.faults_at(end)));
        (self.retired.iter().map(Verifier::frames).sum(), faults)
    }

    fn note(&mut self, verifier: &mut Verifier, kind: RecordKind, payload: &[u8]) {
        let Some(sealed) = sealed_part(kind, payload) else { return };
        if let (Some(stamp), true) = (verifier.judge(sealed), self.measuring) {
            let latency_us = socket::monotonic_ns().saturating_sub(stamp.sent_ns) / 1000;
            self.latencies_us.push(u32::try_from(latency_us).unwrap_or(u32::MAX));
        }
    }
}

/// Where a viewer is in its life.
enum Phase {
    /// HTTP: the response has not begun.
    Asked(ResponseHead),
    /// HTTP: tags are read, out of chunks if the server makes some.
    Tags(Option<Chunks>, TagReader),
    /// RTMP: from the handshake on; the verified stay here.
    Rtmp(Session),
    /// Everything is counted and thrown away.
    Draining,
}

/// One connection that plays.
pub struct Viewer {
    socket: TcpStream,
    protocol: Protocol,
    phase: Phase,
    outbox: Outbox,
    verifier: Option<Verifier>,
    playing: bool,
    received: u64,
    acknowledged: u64,
}

/// How often an RTMP viewer says how much it got; servers commonly ask for 2,500,000 (RTMP §5.4.3, §5.4.4).
const ACKNOWLEDGE_EVERY_BYTES: u64 = 2_500_000;

impl Viewer {
    /// Begins to connect.
    pub fn connect(target: &Target, app: &str, stream: &str, verified: bool) -> anyhow::Result<Self> {
        let socket = socket::connect(target.address).with_context(|| format!("cannot connect to {}", target.address))?;
        let mut outbox = Outbox::default();
        let phase = match target.protocol {
            Protocol::Flv => {
                outbox.buffer().extend(flv::request(app, stream, target.address));
                Phase::Asked(ResponseHead::default())
            }
            Protocol::Rtmp => Phase::Rtmp(Session::play(app, stream, target.address)),
        };
        let verifier = verified.then(Verifier::default);
        Ok(Self { socket, protocol: target.protocol, phase, outbox, verifier, playing: false, received: 0, acknowledged: 0 })
    }

    /// To be polled.
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Whether the stream's bytes have begun to come.
    pub fn is_playing(&self) -> bool {
        self.playing
    }

    /// Bytes that came so far, of whatever kind.
    pub fn received_bytes(&self) -> u64 {
        self.received
    }

    /// The sequence number that should come next, 0 before the first; `None` for those that do not verify.
    pub fn next_sequence(&self) -> Option<u64> {
        self.verifier.as_ref().map(|verifier| verifier.next().unwrap_or(0))
    }

    /// Does what the socket is ready for. An error ends the viewer.
    pub fn handle(&mut self, event: Readiness, scratch: &mut [u8], observations: &mut Observations) -> anyhow::Result<()> {
        if let Phase::Rtmp(session) = &mut self.phase {
            session.collect_output(self.outbox.buffer());
        }
        if event.writable {
            self.flush()?;
        }
        if event.readable {
            self.read(scratch, observations)?;
        }
        Ok(())
    }

    fn read(&mut self, scratch: &mut [u8], observations: &mut Observations) -> anyhow::Result<()> {
        loop {
            let draining = matches!(self.phase, Phase::Draining);
            let got = if draining { socket::discard(&self.socket, scratch)? } else { socket::receive(&self.socket, scratch)? };
            let Some(bytes) = got else { return Ok(()) };
            anyhow::ensure!(bytes > 0, "the server ended the connection after {} bytes", self.received);
            self.received += bytes as u64;
            if !draining {
                self.take(&scratch[..bytes], observations)?;
            }
            self.acknowledge()?;
            // Less than asked for: the socket is empty, and what comes next is a new edge.
            if bytes < scratch.len() {
                return Ok(());
            }
        }
    }

    fn take(&mut self, input: &[u8], observations: &mut Observations) -> anyhow::Result<()> {
        match &mut self.phase {
            Phase::Asked(head) => {
                let Some(body) = head.handle(input)? else { return Ok(()) };
                let chunks = head.is_chunked().then(Chunks::default);
                self.phase = if self.verifier.is_some() { Phase::Tags(chunks, TagReader::default()) } else { Phase::Draining };
                self.playing = !body.is_empty();
                if self.verifier.is_some() { self.take(&body, observations) } else { Ok(()) }
            }
            Phase::Tags(chunks, tags) => {
                self.playing = true;
                let verifier = self.verifier.get_or_insert_default();
                let mut take = |input: &[u8]| tags.handle(input, |kind, payload| observations.note(verifier, kind, payload));
                match chunks {
                    Some(chunks) => chunks.handle(input, take),
                    None => take(input),
                }
            }
            Phase::Rtmp(session) => {
                let verifier = &mut self.verifier;
                let playing = &mut self.playing;
                session.handle_input(input, |kind, payload| {
                    *playing = true;
                    if let Some(verifier) = verifier {
                        observations.note(verifier, kind, payload);
                    }
                })?;
                session.collect_output(self.outbox.buffer());
                self.flush()?;
                if self.playing && self.verifier.is_none() {
                    self.phase = Phase::Draining;
                }
                Ok(())
            }
            Phase::Draining => Ok(()),
        }
    }

    /// Tells an RTMP server how much has come, as players do; a verified viewer's session does so itself.
    fn acknowledge(&mut self) -> anyhow::Result<()> {
        self.playing |= matches!(self.phase, Phase::Draining);
        if self.protocol != Protocol::Rtmp || !matches!(self.phase, Phase::Draining) {
            return Ok(());
        }
        if self.received - self.acknowledged >= ACKNOWLEDGE_EVERY_BYTES {
            self.acknowledged = self.received;
            crate::rtmp::write_acknowledgement(self.outbox.buffer(), self.received as u32);
            self.flush()?;
        }
        Ok(())
    }

    /// Sends what waits. Whoever has spoken goes on as one that only listens, whatever protocol it speaks.
    fn flush(&mut self) -> anyhow::Result<()> {
        let waiting = self.outbox.pending();
        self.outbox.flush(&self.socket)?;
        if self.outbox.pending() < waiting {
            socket::acknowledge_reads(&self.socket)?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn who_has_answered_goes_on_as_one_that_only_listens() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let target = Target { protocol: Protocol::Rtmp, address: listener.local_addr().unwrap() };
        let mut viewer = Viewer::connect(&target, "live", "bench", false).unwrap();
        let mut server = listener.accept().unwrap().0;
        let (mut scratch, mut observations) = (vec![0; 1 << 16], Observations::default());
        let mut happens = |readable, writable| {
            let event = Readiness { token: 0, readable, writable };
            viewer.handle(event, &mut scratch, &mut observations).unwrap();
            rustix::net::sockopt::tcp_quickack(viewer.socket()).unwrap()
        };
        happens(false, true);
        // C0 and C1, answered by S0, S1 and S2 (RTMP §5.2.1).
        let mut hello = [0; 1537];
        server.read_exact(&mut hello).unwrap();
        server.write_all(&[&[3][..], &[0; 1536], &hello[1..]].concat()).unwrap();
        server.set_nonblocking(true).unwrap();
        let (mut answer, began) = ([0; 4096], std::time::Instant::now());
        let acknowledges = loop {
            assert!(began.elapsed().as_secs() < 10, "the viewer does not answer");
            let acknowledges = happens(true, false);
            if server.read(&mut answer).is_ok() {
                break acknowledges;
            }
        };
        assert!(acknowledges, "the kernel waits for this viewer to speak again");
    }

    #[test]
    fn percentiles_are_of_what_was_measured_within_the_window() {
        let mut observations = Observations::default();
        assert_eq!(Observations::latencies_of_all_ms(std::slice::from_ref(&observations)), (None, None));
        observations.latencies_us = (0..=100).rev().map(|percent| percent * 1000).collect();
        assert_eq!(Observations::latencies_of_all_ms(std::slice::from_ref(&observations)), (Some(50.0), Some(99.0)));
    }
}
