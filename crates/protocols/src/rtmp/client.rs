//! A client's end of one RTMP connection, publishing or playing: for tests, for load, and for feeding other servers.
//!
//! It asks for one stream and keeps no clock: how long it waits is its caller's decision.

use super::amf0::Value;
use super::chunk::{ChunkLimits, Message};
use super::command::Command;
use super::egress;
use super::error::{Limit, RtmpError};
use super::handshake::ClientHandshake;
use super::link::{Link, event};
use super::message_type;
use super::saved::{self, RestoreError, byte_string};
use braidcast_media::RecordKind;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

const AMF_DEPTH: usize = 32;
/// How often we want to be acknowledged, and what a player's buffer is said to hold; both as ffmpeg says them.
const WINDOW_BYTES: u32 = 2_500_000;
const BUFFER_MS: u32 = 3_000;

/// Transactions (RTMP §7.2.1): each call has a number of its own, as nothing is called twice.
mod transaction {
    pub const CONNECT: f64 = 1.0;
    pub const RELEASE_STREAM: f64 = 2.0;
    pub const FC_PUBLISH: f64 = 3.0;
    pub const CREATE_STREAM: f64 = 4.0;
    pub const START: f64 = 5.0;
    pub const FC_UNPUBLISH: f64 = 6.0;
    pub const DELETE_STREAM: f64 = 7.0;
}

/// What a client is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClientRole {
    /// It sends media.
    Publish,
    /// It receives media.
    Play,
}

/// What to ask for; [`super::url::Target`] takes a URL apart into the first three.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientSettings {
    /// The URL up to the app.
    pub tc_url: String,
    /// The app.
    pub app: String,
    /// The stream's name, with its query if it has one.
    pub stream: String,
    /// Publish or play.
    pub role: ClientRole,
    /// Whether the handshake is signed with digests.
    pub signed: bool,
    /// What the server may make this client hold.
    pub chunks: ChunkLimits,
}

/// What a client tells its caller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClientOutput {
    /// The publish or play has started: media may be pushed, or will come.
    Started,
    /// The server refused, at whatever step. Nothing more will come of this connection.
    Refused {
        /// The status code, `NetStream.Publish.BadName` for one.
        code: String,
        /// Words for people.
        description: String,
    },
    /// Media from the server; data messages as they come, those about the stream's status among them.
    Media {
        /// Audio, video or data.
        kind: RecordKind,
        /// Milliseconds modulo 2^32.
        timestamp_ms: u32,
        /// The tag's payload.
        #[serde(with = "byte_string")]
        payload: Vec<u8>,
    },
    /// Any other status of the stream, its end among them.
    Status {
        /// The status code, `NetStream.Play.Stop` for one.
        code: String,
    },
}

#[derive(Debug, Serialize, Deserialize)]
enum Phase {
    Handshaking(Box<ClientHandshake>),
    /// Waiting for the answer to `connect`.
    Connecting,
    /// Waiting for the answer to `createStream`.
    Creating,
    /// Waiting for the status that says it has started.
    Starting {
        message_stream: u32,
    },
    Running {
        message_stream: u32,
    },
    /// Refused, or ended by us.
    Ended,
}

/// The state machine. After an error it must not be used any more.
#[derive(Debug, Serialize, Deserialize)]
pub struct ClientSession {
    settings: ClientSettings,
    link: Link,
    outputs: VecDeque<ClientOutput>,
    phase: Phase,
}

impl ClientSession {
    /// A client on a fresh connection; its first bytes are in the outbox. The handshake's filler bytes follow from `seed`.
    pub fn new(settings: ClientSettings, seed: u64) -> Self {
        let mut link = Link::new(settings.chunks);
        let handshake = ClientHandshake::start(seed, settings.signed, link.outbox.buffer());
        Self { settings, link, outputs: VecDeque::new(), phase: Phase::Handshaking(Box::new(handshake)) }
    }

    /// Takes input, all of it. Drain [`ClientSession::poll_output`] after each call.
    pub fn handle_input(&mut self, bytes: &[u8]) -> Result<(), RtmpError> {
        let mut used = 0;
        if let Phase::Handshaking(handshake) = &mut self.phase {
            let (step, done) = handshake.handle_input(bytes, self.link.outbox.buffer(), self.link.reader.position())?;
            self.link.reader.skip(step);
            used = step;
            if !done {
                return Ok(());
            }
            self.phase = Phase::Connecting;
            self.call_connect();
        }
        loop {
            let (step, message) = self.link.reader.read(&bytes[used..])?;
            used += step;
            let Some(message) = message else { return Ok(()) };
            self.handle_message(message)?;
            self.link.acknowledge();
        }
    }

    /// The next thing the caller must know of.
    pub fn poll_output(&mut self) -> Option<ClientOutput> {
        self.outputs.pop_front()
    }

    /// Bytes for the server.
    pub fn outbox(&self) -> &[u8] {
        self.link.outbox.bytes()
    }

    /// Forgets the first `bytes` of the outbox: they were sent.
    pub fn outbox_sent(&mut self, bytes: usize) {
        self.link.outbox.sent(bytes);
    }

    /// Takes the whole outbox.
    pub fn take_outbox(&mut self) -> Vec<u8> {
        self.link.outbox.take()
    }

    /// Appends media to the outbox; metadata (`onMetaData`) goes as `@setDataFrame`, like encoders send it. Does nothing
    /// unless a publish has started. A caller that feeds many connections may send [`egress::write_message`]'s bytes itself.
    pub fn push_media(&mut self, kind: RecordKind, timestamp_ms: u32, payload: &[u8]) {
        if !matches!((&self.phase, self.settings.role), (Phase::Running { .. }, ClientRole::Publish)) {
            return;
        }
        if kind == RecordKind::Data && payload.starts_with(b"\x02\0\x0aonMetaData") {
            let framed = [b"\x02\0\x0d@setDataFrame", payload].concat();
            egress::write_message(self.link.outbox.buffer(), kind, timestamp_ms, &framed);
        } else {
            egress::write_message(self.link.outbox.buffer(), kind, timestamp_ms, payload);
        }
    }

    /// Says goodbye: unpublishes or stops playing. The connection can be closed once the outbox is sent.
    pub fn end(&mut self) {
        if let Phase::Starting { message_stream } | Phase::Running { message_stream } = self.phase {
            if self.settings.role == ClientRole::Publish {
                self.call_with_name(0, "FCUnpublish", transaction::FC_UNPUBLISH);
            }
            let values = [Value::Null, f64::from(message_stream).into()];
            self.link.send_command(0, "deleteStream", transaction::DELETE_STREAM, &values);
        }
        self.phase = Phase::Ended;
    }

    /// Publishes again on the same connection after [`ClientSession::end`], under another name or the same.
    pub fn publish_again(&mut self, stream: &str) {
        stream.clone_into(&mut self.settings.stream);
        self.settings.role = ClientRole::Publish;
        self.phase = Phase::Creating;
        self.call_create_stream();
    }

    /// Everything that is needed to continue this session.
    pub fn save(&self) -> Vec<u8> {
        saved::save(self)
    }

    /// Continues a saved session.
    pub fn restore(saved: &[u8]) -> Result<Self, RestoreError> {
        let session: Self = saved::restore(saved)?;
        if session.link.is_sound() { Ok(session) } else { Err(RestoreError::Damaged) }
    }

    fn handle_message(&mut self, message: Message) -> Result<(), RtmpError> {
        if message.message_type == message_type::SET_PEER_BANDWIDTH {
            // The answer that the specification asks for (§5.4.5).
            self.link.send_control(message_type::WINDOW_ACKNOWLEDGEMENT_SIZE, &WINDOW_BYTES.to_be_bytes());
        }
        if self.link.handle_control(&message) {
            return Ok(());
        }
        if let Some(kind) = RecordKind::from_tag_type(message.message_type) {
            self.outputs.push_back(ClientOutput::Media { kind, timestamp_ms: message.timestamp_ms, payload: message.payload });
        } else if message.message_type == message_type::COMMAND_AMF0 {
            let command = Command::decode(&message.payload, AMF_DEPTH);
            let command = command.map_err(|(limit, detail)| self.link.error(limit, detail))?;
            return self.handle_command(&command);
        }
        Ok(())
    }

    fn handle_command(&mut self, command: &Command) -> Result<(), RtmpError> {
        match (command.name.as_str(), &self.phase) {
            ("_result", Phase::Connecting) if command.transaction == transaction::CONNECT => {
                self.phase = Phase::Creating;
                self.call_create_stream();
            }
            ("_result", Phase::Creating) if command.transaction == transaction::CREATE_STREAM => {
                let id = command.arguments.first().and_then(Value::as_number);
                let Some(id) = id.filter(|id| (0.0..=f64::from(u32::MAX)).contains(id)) else {
                    return Err(self.link.error(Limit::Protocol, "createStream was answered without a stream"));
                };
                self.phase = Phase::Starting { message_stream: id as u32 };
                self.call_start(id as u32);
            }
            ("_error", Phase::Connecting | Phase::Creating | Phase::Starting { .. }) if is_needed(command.transaction) => {
                self.refused(command)
            }
            ("onStatus", _) => self.handle_status(command),
            _ => {}
        }
        Ok(())
    }

    fn handle_status(&mut self, command: &Command) {
        let code = information_text(command, "code");
        if information_text(command, "level") == "error" {
            return self.refused(command);
        }
        match self.phase {
            Phase::Starting { message_stream } if matches!(code, "NetStream.Publish.Start" | "NetStream.Play.Start") => {
                self.phase = Phase::Running { message_stream };
                self.outputs.push_back(ClientOutput::Started);
            }
            _ => self.outputs.push_back(ClientOutput::Status { code: code.to_owned() }),
        }
    }

    fn refused(&mut self, command: &Command) {
        self.phase = Phase::Ended;
        let text = |key| information_text(command, key).to_owned();
        self.outputs.push_back(ClientOutput::Refused { code: text("code"), description: text("description") });
    }

    fn call_connect(&mut self) {
        self.link.send_chunk_size();
        let mut members = vec![("app".to_owned(), self.settings.app.as_str().into())];
        match self.settings.role {
            ClientRole::Publish => {
                members.push(("type".to_owned(), "nonprivate".into()));
                members.push(("flashVer".to_owned(), "FMLE/3.0 (compatible; Braidcast)".into()));
            }
            ClientRole::Play => members.push(("flashVer".to_owned(), "LNX 9,0,124,2".into())),
        }
        members.push(("tcUrl".to_owned(), self.settings.tc_url.as_str().into()));
        self.link.send_command(0, "connect", transaction::CONNECT, &[Value::Object(members)]);
    }

    fn call_create_stream(&mut self) {
        match self.settings.role {
            ClientRole::Publish => {
                self.call_with_name(0, "releaseStream", transaction::RELEASE_STREAM);
                self.call_with_name(0, "FCPublish", transaction::FC_PUBLISH);
            }
            ClientRole::Play => self.link.send_control(message_type::WINDOW_ACKNOWLEDGEMENT_SIZE, &WINDOW_BYTES.to_be_bytes()),
        }
        self.link.send_command(0, "createStream", transaction::CREATE_STREAM, &[Value::Null]);
    }

    fn call_start(&mut self, message_stream: u32) {
        match self.settings.role {
            ClientRole::Publish => {
                let values = [Value::Null, self.settings.stream.as_str().into(), "live".into()];
                self.link.send_command(message_stream, "publish", transaction::START, &values);
            }
            ClientRole::Play => {
                // Start -2: live if there is a publisher, else what is there (§7.2.2.1).
                let values = [Value::Null, self.settings.stream.as_str().into(), (-2.0).into()];
                self.link.send_command(message_stream, "play", transaction::START, &values);
                self.link.send_event(event::SET_BUFFER_LENGTH, &[message_stream, BUFFER_MS]);
            }
        }
    }

    fn call_with_name(&mut self, message_stream: u32, name: &str, transaction: f64) {
        let values = [Value::Null, self.settings.stream.as_str().into()];
        self.link.send_command(message_stream, name, transaction, &values);
    }
}

/// Whether nothing can go on when this call fails; releaseStream and FCPublish are courtesies that some servers do not know.
fn is_needed(transaction: f64) -> bool {
    [transaction::CONNECT, transaction::CREATE_STREAM, transaction::START].contains(&transaction)
}

/// A text of the information object that a status or an error carries.
fn information_text<'a>(command: &'a Command, key: &str) -> &'a str {
    command.arguments.first().and_then(|information| information.member(key)).and_then(Value::as_str).unwrap_or_default()
}
