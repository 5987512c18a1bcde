//! A client's end of one RTMP connection, publishing or playing: for feeding other servers, for taking streams from them, for tests and load.
//!
//! It asks for one stream and keeps no clock: how long it waits is its caller's decision ([`ClientSession::is_started`] says for what). A
//! server is trusted no more than a client is: what it can make us hold, nest or answer is bounded, and its words are cut before they are
//! handed on.

use super::amf0::Value;
use super::chunk::{ChunkLimits, Message};
use super::command::Command;
use super::egress::{self, CHUNK_BYTES, Frame, MEDIA_STREAM_ID};
use super::error::{Limit, RtmpError};
use super::handshake::ClientHandshake;
use super::link::{Link, event};
use super::message_type;
use super::saved::{self, RestoreError, byte_string};
use super::server::{MAX_COMMAND_BYTES, script_data, split_aggregate};
use crate::via::{self, Via};
use braidcast_media::RecordKind;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

const AMF_DEPTH: usize = 32;
/// A server that makes us answer this much to one input is cut off.
const MAX_ANSWER_BYTES: usize = 256 << 10;
/// What is kept of a text that the server says, in characters.
const MAX_TEXT: usize = 200;
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
        /// The status code, `NetStream.Publish.BadName` for one; as the server said it, cut to 200 characters.
        code: String,
        /// Words for people, likewise.
        description: String,
    },
    /// Media from the server, aggregates taken apart; data as FLV keeps it, that about the stream's status too.
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
    /// What the server is told of who passes the stream on.
    via: Via,
    /// What the server said of itself and the stream.
    server_via: Via,
}

impl ClientSession {
    /// A client on a fresh connection; its first bytes are in the outbox. The handshake's filler bytes follow from `seed`.
    pub fn new(settings: ClientSettings, seed: u64) -> Self {
        let mut link = Link::new(settings.chunks);
        let handshake = ClientHandshake::start(seed, settings.signed, link.outbox.buffer());
        let (via, server_via) = (Via::default(), Via::default());
        Self { settings, link, outputs: VecDeque::new(), phase: Phase::Handshaking(Box::new(handshake)), via, server_via }
    }

    /// Says for whom the stream is passed on. Before the first input.
    pub fn set_via(&mut self, via: Via) {
        self.via = via;
    }

    /// Who the server is, and through whom its stream came, as far as it says so.
    pub fn server_via(&self) -> &Via {
        &self.server_via
    }

    /// The publish or play has started and not ended.
    pub fn is_started(&self) -> bool {
        matches!(self.phase, Phase::Running { .. })
    }

    /// What is being waited for, in words.
    pub fn waits_for(&self) -> &'static str {
        match self.phase {
            Phase::Handshaking(_) => "the handshake",
            Phase::Connecting => "the answer to connect",
            Phase::Creating => "the answer to createStream",
            Phase::Starting { .. } if self.settings.role == ClientRole::Publish => "the answer to publish",
            Phase::Starting { .. } => "the answer to play",
            Phase::Running { .. } => "media",
            Phase::Ended => "nothing",
        }
    }

    /// The message stream that the server wants the media on; [`MEDIA_STREAM_ID`] if it has not said.
    pub fn message_stream(&self) -> u32 {
        match self.phase {
            Phase::Starting { message_stream } | Phase::Running { message_stream } => message_stream,
            _ => MEDIA_STREAM_ID,
        }
    }

    /// Takes input, all of it. Drain [`ClientSession::poll_output`] after each call: what is in there is bounded by the input.
    pub fn handle_input(&mut self, bytes: &[u8]) -> Result<(), RtmpError> {
        let answered = self.link.outbox.bytes().len();
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
            if self.link.outbox.bytes().len() > answered + MAX_ANSWER_BYTES {
                return Err(self.link.error(Limit::Protocol, "the peer asks for more answers than anybody needs"));
            }
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
        if payload.len() + SET_DATA_FRAME.len() > braidcast_media::flv::MAX_PAYLOAD_BYTES {
            return;
        }
        let frame = Frame {
            chunk_stream: egress::chunk_stream(kind),
            message_type: kind as u8,
            timestamp_ms,
            message_stream: self.message_stream(),
        };
        if kind == RecordKind::Data && payload.starts_with(ON_META_DATA) {
            frame.write(self.link.outbox.buffer(), CHUNK_BYTES, &[SET_DATA_FRAME, payload].concat());
        } else {
            frame.write(self.link.outbox.buffer(), CHUNK_BYTES, payload);
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
        match message.message_type {
            message_type::COMMAND_AMF0 | message_type::COMMAND_AMF3 => self.handle_command_message(&message),
            message_type::AUDIO => self.media(RecordKind::Audio, message.timestamp_ms, message.payload),
            message_type::VIDEO => self.media(RecordKind::Video, message.timestamp_ms, message.payload),
            message_type::DATA_AMF0 | message_type::DATA_AMF3 => match script_data(message, AMF_DEPTH) {
                Some((timestamp_ms, payload)) => self.media(RecordKind::Data, timestamp_ms, payload),
                None => Ok(()),
            },
            message_type::AGGREGATE => {
                let (tags, whole) = split_aggregate(&message);
                tags.into_iter().try_for_each(|(kind, timestamp_ms, payload)| self.media(kind, timestamp_ms, payload))?;
                if whole { Ok(()) } else { Err(self.link.error(Limit::Protocol, "an aggregate message is cut short")) }
            }
            _ => Ok(()),
        }
    }

    fn media(&mut self, kind: RecordKind, timestamp_ms: u32, payload: Vec<u8>) -> Result<(), RtmpError> {
        if payload.len() > braidcast_media::flv::MAX_PAYLOAD_BYTES {
            return Err(self.link.error(Limit::MessageBytes, "media longer than a tag can be"));
        }
        self.outputs.push_back(ClientOutput::Media { kind, timestamp_ms, payload });
        Ok(())
    }

    fn handle_command_message(&mut self, message: &Message) -> Result<(), RtmpError> {
        let mut payload = message.payload.as_slice();
        if message.message_type == message_type::COMMAND_AMF3 {
            payload = payload.strip_prefix(&[0]).unwrap_or(payload);
        }
        if payload.len() > MAX_COMMAND_BYTES {
            return Err(self.link.error(Limit::MessageBytes, format!("a command of {} bytes", payload.len())));
        }
        let command = Command::decode(payload, AMF_DEPTH);
        let command = command.map_err(|(limit, detail)| self.link.error(limit, detail))?;
        self.handle_command(&command)
    }

    fn handle_command(&mut self, command: &Command) -> Result<(), RtmpError> {
        match (command.name.as_str(), &self.phase) {
            ("_result", Phase::Connecting) if command.transaction == transaction::CONNECT => {
                self.server_via = Via::parse(command.object_text(via::MEMBER));
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
            // Some servers say no more than this before they close.
            ("close", _) => self.outputs.push_back(ClientOutput::Status { code: "close".to_owned() }),
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
                // Where the stream came through before it came to the server.
                let before = Via::parse(information_text(command, via::MEMBER));
                if !before.is_empty() {
                    self.server_via = before;
                }
                self.phase = Phase::Running { message_stream };
                self.outputs.push_back(ClientOutput::Started);
            }
            _ => self.outputs.push_back(ClientOutput::Status { code: cut(code) }),
        }
    }

    fn refused(&mut self, command: &Command) {
        self.phase = Phase::Ended;
        let text = |key| cut(information_text(command, key));
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
        if !self.via.is_empty() {
            members.push((via::MEMBER.to_owned(), self.via.to_string().as_str().into()));
        }
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

/// `@setDataFrame` and `onMetaData` as AMF0 strings.
const SET_DATA_FRAME: &[u8] = b"\x02\0\x0d@setDataFrame";
const ON_META_DATA: &[u8] = b"\x02\0\x0aonMetaData";

/// What a server says, cut to a length that fits a line.
fn cut(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}

/// Whether nothing can go on when this call fails; releaseStream and FCPublish are courtesies that some servers do not know.
fn is_needed(transaction: f64) -> bool {
    [transaction::CONNECT, transaction::CREATE_STREAM, transaction::START].contains(&transaction)
}

/// A text of the information object that a status or an error carries.
fn information_text<'a>(command: &'a Command, key: &str) -> &'a str {
    command.arguments.first().and_then(|information| information.member(key)).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests;
