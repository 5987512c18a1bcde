//! What a server answers while a client has heard half of it from us already: which of its messages are dropped, and how the others
//! are written anew.

use crate::rtmp::amf0::{self, Value};
use crate::rtmp::chunk::{ChunkLimits, ChunkReader, Message};
use crate::rtmp::command::{Command, information};
use crate::rtmp::egress::MEDIA_STREAM_ID;
use crate::rtmp::error::{Limit, RtmpError};
use crate::rtmp::message_type;
use crate::rtmp::server::MAX_COMMAND_BYTES;

/// More calls than this are nothing that a client has before it publishes or plays.
const MAX_CALLS: usize = 64;
/// A longer id of a client than this is none.
const MAX_CLIENT_ID_BYTES: usize = 64;
/// What is kept of a text that the server says, in characters.
const MAX_TEXT: usize = 200;
/// The chunk size before a peer sets one (RTMP §5.4.1).
const FIRST_CHUNK_BYTES: usize = 128;
const STATUS_CHUNK_STREAM: u32 = 5;
/// From here on the timestamp needs the extended field (RTMP §5.3.1.3).
const EXTENDED_FROM: u32 = 0x00ff_ffff;

/// A call of the client that we have answered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Call {
    transaction: f64,
    what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Connect,
    CreateStream,
    /// What servers need not know.
    Courtesy,
}

/// Our own answers to the client, as they are told.
#[derive(Debug)]
pub(super) struct Answered {
    /// Bytes of the handshake that are still to come.
    handshake_left: usize,
    reader: ChunkReader,
    pub calls: Vec<Call>,
}

impl Answered {
    pub fn new(limits: ChunkLimits, handshake_bytes: usize) -> Self {
        Self { handshake_left: handshake_bytes, reader: ChunkReader::new(limits, 0), calls: Vec::new() }
    }

    /// Takes answers, whole messages, and writes what the client is to be told; `position` is the client's.
    pub fn tell(&mut self, answers: &[u8], position: u64, out: &mut Vec<u8>) -> Result<(), RtmpError> {
        let (handshake, mut rest) = answers.split_at(self.handshake_left.min(answers.len()));
        self.handshake_left -= handshake.len();
        out.extend_from_slice(handshake);
        loop {
            // Set Chunk Size is not handed out, and so not told.
            let (used, message) = self.reader.read(rest)?;
            rest = &rest[used..];
            let Some(message) = message else { return Ok(()) };
            write(out, FIRST_CHUNK_BYTES, &message);
            let Some(command) = command(&message, amf0::MAX_DEPTH).filter(|command| command.name == "_result") else { continue };
            if self.calls.len() == MAX_CALLS {
                return Err(RtmpError::new(Limit::Protocol, position, format!("more than {MAX_CALLS} calls before publish or play")));
            }
            let what = match command.arguments.first() {
                // Nothing else is answered before it.
                _ if self.calls.is_empty() => What::Connect,
                Some(Value::Number(id)) if *id == f64::from(MEDIA_STREAM_ID) => What::CreateStream,
                _ => What::Courtesy,
            };
            self.calls.push(Call { transaction: command.transaction, what });
        }
    }
}

/// What came of a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// There is no whole message yet.
    More,
    /// It was dealt with.
    Next,
    /// It was the last that had to be looked at: what follows is as the client can read it.
    Through,
    /// The server does not let the client connect.
    Refused { code: String, description: String },
}

/// The server's end, until the client and it have heard the same.
#[derive(Debug)]
pub(super) struct Replies {
    reader: ChunkReader,
    amf_depth: usize,
    /// Calls whose answers are to be dropped.
    calls: Vec<Call>,
    /// The message stream of the client's publish or play, and the status that refuses it.
    message_stream: u32,
    denial: &'static str,
    /// The server has answered the publish or play.
    answered: bool,
    /// The chunk size that the client was told last.
    chunk_bytes: usize,
    /// As the server has called the client in its answer to `connect`.
    pub client_id: Option<String>,
}

impl Replies {
    pub fn new(calls: Vec<Call>, message_stream: u32, denial: &'static str, limits: ChunkLimits, amf_depth: usize) -> Self {
        let reader = ChunkReader::new(limits, 0);
        Self { reader, amf_depth, calls, message_stream, denial, answered: false, chunk_bytes: FIRST_CHUNK_BYTES, client_id: None }
    }

    /// Counts the handshake.
    pub fn skip(&mut self, bytes: usize) {
        self.reader.skip(bytes);
    }

    pub fn position(&self) -> u64 {
        self.reader.position()
    }

    /// Reads the next message of `input`, which shrinks by what was used, and writes what the client must hear of it.
    pub fn read(&mut self, input: &mut &[u8], out: &mut Vec<u8>) -> Result<Reply, RtmpError> {
        let (used, message) = self.reader.read_any(input)?;
        *input = &input[used..];
        let Some(message) = message else { return Ok(Reply::More) };
        match message.message_type {
            message_type::SET_CHUNK_SIZE => self.set_chunk_size(&message, out),
            // The client never saw what this takes back.
            message_type::ABORT => {}
            message_type::COMMAND_AMF0 | message_type::COMMAND_AMF3 => {
                if let Some(refused) = self.handle_command(&message, out)? {
                    return Ok(refused);
                }
            }
            _ => write(out, self.chunk_bytes, &message),
        }
        let waits = self.calls.iter().any(|call| call.what != What::Courtesy);
        let through = self.answered && !waits && self.reader.is_between_messages();
        Ok(if through { Reply::Through } else { Reply::Next })
    }

    fn set_chunk_size(&mut self, message: &Message, out: &mut Vec<u8>) {
        write(out, self.chunk_bytes, message);
        self.chunk_bytes = self.reader.chunk_bytes() as usize;
    }

    fn handle_command(&mut self, message: &Message, out: &mut Vec<u8>) -> Result<Option<Reply>, RtmpError> {
        let Some(command) = command(message, self.amf_depth) else {
            write(out, self.chunk_bytes, message);
            return Ok(None);
        };
        match command.name.as_str() {
            "_result" | "_error" => {
                if let Some(place) = self.calls.iter().position(|call| call.transaction == command.transaction) {
                    let call = self.calls.remove(place);
                    if call.what == What::Connect {
                        self.client_id = client_id(&command);
                    }
                    return self.drop_answer(call, &command);
                }
            }
            // The client was told as much with our answer to its connect, and some reply to each.
            "onBWDone" => return Ok(None),
            "onStatus" => {
                let code = information_text(&command, "code");
                let starts = matches!(code, "NetStream.Publish.Start" | "NetStream.Play.Start");
                let refuses = information_text(&command, "level") == "error";
                self.answered |= starts || refuses;
                if refuses {
                    // Nothing more is to come, whatever was not answered.
                    self.calls.clear();
                }
            }
            _ => {}
        }
        write(out, self.chunk_bytes, message);
        Ok(None)
    }

    /// The server's answer to a call that the client has had answered.
    fn drop_answer(&self, call: Call, answer: &Command) -> Result<Option<Reply>, RtmpError> {
        if answer.name == "_error" && call.what != What::Courtesy {
            let text = |key| information_text(answer, key).chars().take(MAX_TEXT).collect();
            return Ok(Some(Reply::Refused { code: text("code"), description: text("description") }));
        }
        let id = answer.arguments.first().and_then(Value::as_number);
        if call.what == What::CreateStream && id != Some(f64::from(MEDIA_STREAM_ID)) {
            let position = self.reader.position();
            let named = id.map_or_else(|| "none".to_owned(), |id| id.to_string());
            let detail = format!("the server names message stream {named}, the client was told {MEDIA_STREAM_ID}");
            return Err(RtmpError::new(Limit::Protocol, position, detail));
        }
        Ok(None)
    }

    /// Tells the client that its publish or play is refused.
    pub fn refuse(&self, code: Option<&str>, description: &str, out: &mut Vec<u8>) {
        let code = code.filter(|code| !code.is_empty()).unwrap_or(self.denial);
        let mut payload = Vec::new();
        amf0::encode_str(&mut payload, "onStatus");
        for value in [0.0.into(), Value::Null, information("error", code, description)] {
            amf0::encode(&mut payload, &value);
        }
        let message_type = message_type::COMMAND_AMF0;
        let message =
            Message { message_type, chunk_stream: STATUS_CHUNK_STREAM, message_stream: self.message_stream, timestamp_ms: 0, payload };
        write(out, self.chunk_bytes, &message);
    }
}

/// The command that a message is, if it can be read as one.
fn command(message: &Message, depth: usize) -> Option<Command> {
    let payload = match message.message_type {
        message_type::COMMAND_AMF0 => message.payload.as_slice(),
        message_type::COMMAND_AMF3 => message.payload.strip_prefix(&[0]).unwrap_or(&message.payload),
        _ => return None,
    };
    if payload.len() > MAX_COMMAND_BYTES { None } else { Command::decode(payload, depth).ok() }
}

/// What SRS calls the client in its HTTP API. Older ones count their clients: a number means nothing once they are started anew.
fn client_id(answer: &Command) -> Option<String> {
    let id = answer.arguments.first()?.member("data")?.member("srs_id")?.as_str()?;
    (1..=MAX_CLIENT_ID_BYTES).contains(&id.len()).then(|| id.to_owned())
}

fn information_text<'a>(command: &'a Command, key: &str) -> &'a str {
    command.arguments.first().and_then(|information| information.member(key)).and_then(Value::as_str).unwrap_or_default()
}

/// Writes a message as its reader takes it, on the chunk stream it came on, whatever that is.
pub(super) fn write(out: &mut Vec<u8>, chunk_bytes: usize, message: &Message) {
    let basic = |format: u8, out: &mut Vec<u8>| match message.chunk_stream {
        id @ ..64 => out.push(format << 6 | id as u8),
        id @ 64..320 => out.extend_from_slice(&[format << 6, (id - 64) as u8]),
        id => {
            let [low, high, ..] = (id - 64).to_le_bytes();
            out.extend_from_slice(&[format << 6 | 1, low, high]);
        }
    };
    let [_, s0, s1, s2] = (message.payload.len() as u32).to_be_bytes();
    let [_, t0, t1, t2] = message.timestamp_ms.min(EXTENDED_FROM).to_be_bytes();
    let extended = message.timestamp_ms.to_be_bytes();
    let extended: &[u8] = if message.timestamp_ms >= EXTENDED_FROM { &extended } else { &[] };
    basic(0, out);
    out.extend_from_slice(&[t0, t1, t2, s0, s1, s2, message.message_type]);
    out.extend_from_slice(&message.message_stream.to_le_bytes());
    out.extend_from_slice(extended);
    for (index, chunk) in message.payload.chunks(chunk_bytes).enumerate() {
        if index > 0 {
            basic(3, out);
            out.extend_from_slice(extended);
        }
        out.extend_from_slice(chunk);
    }
}
