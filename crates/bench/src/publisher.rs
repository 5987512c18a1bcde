//! A publisher: it connects by RTMP, and then sends each frame when it is due, stamped with the moment at which it does.

use crate::rtmp::Session;
use crate::socket::{self, Outbox, Readiness};
use crate::source::{AUDIO_SEQUENCE_HEADER, Shape, Source, VIDEO_SEQUENCE_HEADER};
use anyhow::Context;
use braidcast_media::RecordKind;
use std::net::{SocketAddr, TcpStream};

/// One connection that publishes one stream.
pub struct Publisher {
    socket: TcpStream,
    session: Session,
    outbox: Outbox,
    source: Option<Source>,
    published: u64,
}

impl Publisher {
    /// Begins to connect; `plain`: to something that takes in FLV and does not speak RTMP.
    pub fn connect(address: SocketAddr, app: &str, stream: &str, plain: bool) -> anyhow::Result<Self> {
        let socket = socket::connect(address).with_context(|| format!("cannot connect to {address}"))?;
        let session = if plain { Session::Plain } else { Session::publish(app, stream, address) };
        Ok(Self { socket, session, outbox: Outbox::default(), source: None, published: 0 })
    }

    /// To be polled.
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Whether the server has accepted the stream.
    pub fn is_ready(&self) -> bool {
        self.session.has_started()
    }

    /// Sends the sequence headers; the first frame is due at `start_ns`.
    pub fn begin(&mut self, start_ns: u64, shape: Shape) {
        let out = self.outbox.buffer();
        self.session.write_media(out, RecordKind::Video, 0, &VIDEO_SEQUENCE_HEADER);
        if shape.audio_bps > 0 {
            self.session.write_media(out, RecordKind::Audio, 0, &AUDIO_SEQUENCE_HEADER);
        }
        self.source = Some(Source::new(shape, start_ns));
    }

    /// When the next frame is due; never, before [`Publisher::begin`].
    pub fn next_due_ns(&self) -> u64 {
        self.source.as_ref().map_or(u64::MAX, Source::next_due_ns)
    }

    /// The number of the next frame.
    pub fn next_sequence(&self) -> u64 {
        self.source.as_ref().map_or(0, Source::next_sequence)
    }

    /// Bytes of media that were handed to the socket, framing included.
    pub fn published_bytes(&self) -> u64 {
        self.published
    }

    /// Sends every frame that is due; returns by how much the latest of them was late.
    pub fn publish_due(&mut self, now_ns: u64) -> anyhow::Result<u64> {
        let Some(source) = &mut self.source else { return Ok(0) };
        let mut late_ns = 0;
        while source.next_due_ns() <= now_ns {
            let sent_ns = socket::monotonic_ns();
            late_ns = late_ns.max(sent_ns - source.next_due_ns());
            let frame = source.produce(sent_ns);
            let out = self.outbox.buffer();
            let before = out.len();
            self.session.write_media(out, frame.kind, frame.timestamp_ms, frame.payload);
            self.published += (out.len() - before) as u64;
            self.outbox.flush(&self.socket)?;
        }
        Ok(late_ns)
    }

    /// Does what the socket is ready for. An error ends the publisher.
    pub fn handle(&mut self, event: Readiness, scratch: &mut [u8]) -> anyhow::Result<()> {
        if event.readable {
            while let Some(bytes) = socket::receive(&self.socket, scratch)? {
                anyhow::ensure!(bytes > 0, "the server ended the publisher's connection");
                self.session.handle_input(&scratch[..bytes], |_, _| {})?;
            }
        }
        self.session.collect_output(self.outbox.buffer());
        if event.readable || event.writable {
            self.outbox.flush(&self.socket)?;
        }
        Ok(())
    }
}
