//! The client's end of RTMP, publishing or playing, as the generator drives it. Bytes in, media and bytes out; no I/O.

use braidcast_media::RecordKind;
use braidcast_media::flv;
use braidcast_protocols::rtmp::chunk::ChunkLimits;
use braidcast_protocols::rtmp::{ClientOutput, ClientRole, ClientSession, ClientSettings, egress, message_type};
use std::net::SocketAddr;

/// What a server may make a client hold.
const LIMITS: ChunkLimits = ChunkLimits { message_bytes: 16 << 20, chunk_streams: 64, unfinished_message_bytes: 32 << 20 };
/// The chunk stream of protocol control messages (RTMP §5.4).
const CONTROL_CHUNK_STREAM: u8 = 2;

/// One connection's state above the socket.
pub enum Session {
    /// No protocol: what is published is sent as FLV, at once.
    Plain,
    /// RTMP.
    Rtmp {
        /// The state machine.
        session: Box<ClientSession>,
        /// The server has said that the publish or play has started.
        started: bool,
    },
}

impl Session {
    /// Will play a stream.
    pub fn play(app: &str, stream: &str, server: SocketAddr) -> Self {
        Self::begin(ClientRole::Play, app, stream, server)
    }

    /// Will publish a stream.
    pub fn publish(app: &str, stream: &str, server: SocketAddr) -> Self {
        Self::begin(ClientRole::Publish, app, stream, server)
    }

    fn begin(role: ClientRole, app: &str, stream: &str, server: SocketAddr) -> Self {
        let settings = ClientSettings {
            tc_url: format!("rtmp://{server}/{app}"),
            app: app.to_owned(),
            stream: stream.to_owned(),
            role,
            signed: false,
            chunks: LIMITS,
        };
        // Handshake filler need not differ from one connection to the next.
        Self::Rtmp { session: Box::new(ClientSession::new(settings, 1)), started: false }
    }

    /// Whether media may be sent.
    pub fn has_started(&self) -> bool {
        match self {
            Self::Plain => true,
            Self::Rtmp { started, .. } => *started,
        }
    }

    /// Takes what arrived; hands out audio and video. A refusal, or an end that the server announces, is an error.
    pub fn handle_input(&mut self, input: &[u8], mut media: impl FnMut(RecordKind, &[u8])) -> anyhow::Result<()> {
        let Self::Rtmp { session, started } = self else { return Ok(()) };
        session.handle_input(input)?;
        while let Some(output) = session.poll_output() {
            match output {
                ClientOutput::Started => *started = true,
                ClientOutput::Refused { code, description } => anyhow::bail!("the server refused: {code} ({description})"),
                ClientOutput::Media { kind: RecordKind::Data, .. } => {}
                ClientOutput::Media { kind, payload, .. } => media(kind, &payload),
                ClientOutput::Status { code } => {
                    let ended = matches!(code.as_str(), "NetStream.Play.Stop" | "NetStream.Play.UnpublishNotify");
                    anyhow::ensure!(!ended, "the server ended the stream: {code}");
                }
            }
        }
        Ok(())
    }

    /// Moves what the session wants to say to `out`.
    pub fn collect_output(&mut self, out: &mut Vec<u8>) {
        if let Self::Rtmp { session, .. } = self
            && !session.outbox().is_empty()
        {
            out.extend(session.take_outbox());
        }
    }

    /// Appends one frame, framed for this connection.
    pub fn write_media(&self, out: &mut Vec<u8>, kind: RecordKind, timestamp_ms: u32, payload: &[u8]) {
        match self {
            Self::Plain => flv::write_record(out, kind, timestamp_ms, payload),
            Self::Rtmp { .. } => egress::write_message(out, kind, timestamp_ms, payload),
        }
    }
}

/// Appends an acknowledgement of all bytes received so far, modulo 2^32 (RTMP §5.4.3).
pub fn write_acknowledgement(out: &mut Vec<u8>, received: u32) {
    out.extend_from_slice(&[CONTROL_CHUNK_STREAM, 0, 0, 0, 0, 0, 4, message_type::ACKNOWLEDGEMENT, 0, 0, 0, 0]);
    out.extend_from_slice(&received.to_be_bytes());
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use braidcast_protocols::rtmp::chunk::ChunkReader;

    #[test]
    fn an_acknowledgement_is_one_message_on_the_control_stream() {
        let mut bytes = Vec::new();
        write_acknowledgement(&mut bytes, 0x0102_0304);
        let (used, message) = ChunkReader::new(LIMITS, 0).read(&bytes).unwrap();
        let message = message.unwrap();
        assert_eq!((used, message.message_type, message.payload), (16, message_type::ACKNOWLEDGEMENT, vec![1, 2, 3, 4]));
    }

    #[test]
    fn a_fresh_session_speaks_first() {
        let mut out = Vec::new();
        let mut session = Session::play("live", "bench", SocketAddr::from(([127, 0, 0, 1], 1935)));
        session.collect_output(&mut out);
        assert_eq!((out.len(), out[0]), (1537, 3));
        assert!(!session.has_started());
    }
}
