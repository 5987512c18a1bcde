//! What stands between a client and another RTMP server (SRS, nginx-rtmp): it asks the client what it wants, and then lets it speak
//! with the server that its caller picked, as if nobody had been between.
//!
//! First the client is answered as far as it takes to learn its vhost, app, stream, token, and whether it publishes or plays. Then the
//! server is sent the client's own bytes: C0 and C1, and after a C2 made for the server's S1 everything as it came. What the server
//! answers to calls that the client has had answered is dropped, everything else is handed on in whole messages, until both have heard
//! the same. From then on bytes go both ways untouched, and the machine is not needed any more: it never sees media but what came before.
//!
//! Our own answers are written with the chunk size that both sides of a connection have at its beginning (RTMP §5.4.1), and say no other:
//! the client hears of the server's only. (Encoders send the size they are told back, and nginx-rtmp loses count where one shrinks.)
//!
//! What is relied on, because it cannot be made so:
//! - Messages that are handed on are written with headers of format 0, so that a later header of format 1 or 2 finds the client where
//!   the server takes it to be. A chunk stream whose last message was dropped or was one of our own answers, and media that came before
//!   the answer, must go on with format 0 (or media with 1 or 2). SRS writes every message's header in format 0; nginx-rtmp writes those of
//!   commands and control messages so, and the first of each kind of media; media comes from both after the answer only.
//! - The message stream is 1, as both servers number the first; a server that names another is refused.
//! - Sequence numbers of acknowledgements count what was dropped and answered here otherwise than their reader does. Neither server
//!   and no known client compares them with anything.

mod replies;

use super::error::{Limit, RtmpError};
use super::handshake::{ClientHandshake, PACKET_BYTES};
use super::server::{Output, Request, ServerSession, Settings, Stage, status};
use replies::{Answered, Replies, Reply};
use std::collections::VecDeque;

/// The most that a client may send before it says what it wants, handshake included.
pub const MAX_RECORDED_BYTES: usize = 256 << 10;
/// What waits for the server at most; then nothing more is taken from the client.
pub const MAX_BACKLOG_BYTES: usize = 512 << 10;
/// C0 and C1 (RTMP §5.2).
const OPENING_BYTES: usize = 1 + PACKET_BYTES;
/// With C2.
const HANDSHAKE_BYTES: usize = OPENING_BYTES + PACKET_BYTES;

/// Limits of a relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelaySettings {
    /// Those of the client's end; its chunk limits hold for the server too.
    pub session: Settings,
    /// The servers speak Enhanced RTMP, so that a client that does is told of it before one of them was asked.
    pub enhanced: bool,
    /// From [`RelaySession::begin`] to the server's answer, milliseconds.
    pub server_ms: u64,
}

impl Default for RelaySettings {
    fn default() -> Self {
        Self { session: Settings::default(), enhanced: false, server_ms: 10_000 }
    }
}

/// What a relay tells its caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RelayOutput {
    /// The client wants to publish: answer by `begin` or `refuse`.
    Publish(Box<Request>),
    /// The client wants to play: answer by `begin` or `refuse`.
    Play(Box<Request>),
    /// The server does not let the client connect, and the client has been told: send its outbox, then close both.
    Refused {
        /// The status code, as the server said it, cut to 200 characters; empty if it said none.
        code: String,
        /// Words for people, likewise.
        description: String,
    },
}

/// The state machine. After an error it must not be used any more, but for the client's outbox.
#[derive(Debug)]
pub struct RelaySession {
    settings: RelaySettings,
    seed: u64,
    outputs: VecDeque<RelayOutput>,
    client_outbox: Vec<u8>,
    server_outbox: Vec<u8>,
    /// The server must have answered by then, in the caller's milliseconds.
    due_ms: Option<u64>,
    server_client_id: Option<String>,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    Asking(Box<Asking>),
    Answering(Box<Answering>),
    Through,
    Ended,
}

/// The client is asked what it wants.
#[derive(Debug)]
struct Asking {
    front: ServerSession,
    answered: Answered,
    /// All that the client has sent.
    recorded: Vec<u8>,
}

/// The server has been sent the client's opening, and its answers are heard.
#[derive(Debug)]
struct Answering {
    /// Until it is done.
    shaking: Option<Shaking>,
    replies: Replies,
}

#[derive(Debug)]
struct Shaking {
    handshake: ClientHandshake,
    position: u64,
    /// What follows C2.
    later: Vec<u8>,
}

impl RelaySession {
    /// A relay for a connection that was just accepted. Filler bytes of both handshakes follow from `seed`.
    pub fn new(settings: RelaySettings, seed: u64, now_ms: u64) -> Self {
        let session = Settings { instance: String::new(), ..settings.session.clone() };
        let front = match settings.enhanced {
            true => ServerSession::new(session, seed, now_ms),
            false => ServerSession::for_another(session, seed, now_ms),
        };
        let answered = Answered::new(settings.session.chunks, HANDSHAKE_BYTES);
        Self {
            settings,
            seed,
            outputs: VecDeque::new(),
            client_outbox: Vec::new(),
            server_outbox: Vec::new(),
            due_ms: None,
            server_client_id: None,
            phase: Phase::Asking(Box::new(Asking { front, answered, recorded: Vec::new() })),
        }
    }

    /// Takes what the client sent; returns how many bytes it used. Less than all means that a decision is pending, or that
    /// [`RelaySession::server_backlog`] is full: offer the rest again after it.
    ///
    /// # Errors
    /// The client broke a rule, or asks for more than a relay keeps.
    pub fn handle_client(&mut self, bytes: &[u8], now_ms: u64) -> Result<usize, RtmpError> {
        let room = MAX_BACKLOG_BYTES.saturating_sub(self.server_backlog()).min(bytes.len());
        match &mut self.phase {
            Phase::Asking(_) => return self.ask(bytes, now_ms),
            Phase::Answering(answering) => match &mut answering.shaking {
                Some(Shaking { later, .. }) => later.extend_from_slice(&bytes[..room]),
                None => self.server_outbox.extend_from_slice(&bytes[..room]),
            },
            Phase::Through => self.server_outbox.extend_from_slice(&bytes[..room]),
            Phase::Ended => return Ok(bytes.len()),
        }
        Ok(room)
    }

    fn ask(&mut self, bytes: &[u8], now_ms: u64) -> Result<usize, RtmpError> {
        let Phase::Asking(asking) = &mut self.phase else { return Ok(0) };
        let used = asking.front.handle_input(bytes, now_ms);
        let position = asking.front.position();
        let told = asking.answered.tell(&asking.front.take_outbox(), position, &mut self.client_outbox);
        let used = used?;
        told?;
        asking.recorded.extend_from_slice(&bytes[..used]);
        if asking.recorded.len() > MAX_RECORDED_BYTES {
            return Err(RtmpError::new(Limit::Protocol, position, format!("neither publish nor play in {MAX_RECORDED_BYTES} bytes")));
        }
        self.outputs.extend(std::iter::from_fn(|| asking.front.poll_output()).filter_map(|output| match output {
            Output::Publish(request) => Some(RelayOutput::Publish(request)),
            Output::Play(request) => Some(RelayOutput::Play(request)),
            _ => None,
        }));
        Ok(used)
    }

    /// The next thing the caller must know of.
    pub fn poll_output(&mut self) -> Option<RelayOutput> {
        self.outputs.pop_front()
    }

    /// When [`RelaySession::handle_timeout`] must be called, in the caller's milliseconds. `None` while a decision is pending: how long
    /// finding and connecting a server may take is for the caller to limit.
    pub fn poll_timeout(&self) -> Option<u64> {
        match &self.phase {
            Phase::Asking(asking) => asking.front.poll_timeout(),
            _ => self.due_ms,
        }
    }

    /// Does what is due; nothing if it is called early.
    ///
    /// # Errors
    /// The client said nothing, or the server did not answer, in time; the client has been told of the latter.
    pub fn handle_timeout(&mut self, now_ms: u64) -> Result<(), RtmpError> {
        if let Phase::Asking(asking) = &mut self.phase {
            return asking.front.handle_timeout(now_ms);
        }
        if self.due_ms.is_none_or(|due_ms| now_ms < due_ms) {
            return Ok(());
        }
        let error = RtmpError::new(Limit::FirstPacketTimeout, self.server_position(), "the server did not answer in time");
        self.fail(None, "the server did not answer in time");
        Err(error)
    }

    /// Bytes for the client.
    pub fn client_outbox(&self) -> &[u8] {
        &self.client_outbox
    }

    /// Takes the client's whole outbox.
    pub fn take_client_outbox(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.client_outbox)
    }

    /// Bytes for the server.
    pub fn server_outbox(&self) -> &[u8] {
        &self.server_outbox
    }

    /// Takes the server's whole outbox.
    pub fn take_server_outbox(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.server_outbox)
    }

    /// Bytes that wait for the server, in its outbox and for its handshake; [`MAX_BACKLOG_BYTES`] and what the client sent before the
    /// decision are the most.
    pub fn server_backlog(&self) -> usize {
        let later = match &self.phase {
            Phase::Answering(answering) => answering.shaking.as_ref().map_or(0, |shaking| shaking.later.len()),
            _ => 0,
        };
        self.server_outbox.len() + later
    }

    /// Tells the client that what it wanted is refused, with `code` one of [`status`]. Send its outbox, then close. Does nothing
    /// unless a decision is pending.
    pub fn refuse(&mut self, code: &str, description: &str, now_ms: u64) {
        let Phase::Asking(asking) = &mut self.phase else { return };
        if asking.front.undecided_message_stream().is_none() {
            return;
        }
        asking.front.refuse(code, description, now_ms);
        let position = asking.front.position();
        // What we write ourselves can be read.
        let _ = asking.answered.tell(&asking.front.take_outbox(), position, &mut self.client_outbox);
        self.phase = Phase::Ended;
    }

    /// A server was picked and is connected: `prefix` (a PROXY header, or SRS's real-IP prefix; see [`crate::proxy`]) goes to it, and
    /// the client's C0 and C1. Does nothing unless a decision is pending.
    pub fn begin(&mut self, prefix: &[u8], now_ms: u64) {
        let Phase::Asking(asking) = &mut self.phase else { return };
        let Some(message_stream) = asking.front.undecided_message_stream() else { return };
        let denial = match asking.front.stage() {
            Stage::DecidingPublish => status::PUBLISH_DENIED,
            _ => status::PLAY_FAILED,
        };
        let mut opening = std::mem::take(&mut asking.recorded);
        // Nothing is decided before the handshake is done.
        let later = opening.split_off(HANDSHAKE_BYTES.min(opening.len()));
        opening.truncate(OPENING_BYTES);
        let answered = std::mem::take(&mut asking.answered.calls);
        let replies = Replies::new(answered, message_stream, denial, self.settings.session.chunks, self.settings.session.amf_depth);
        self.server_outbox.extend_from_slice(prefix);
        self.server_outbox.append(&mut opening);
        self.due_ms = Some(now_ms.saturating_add(self.settings.server_ms));
        let shaking = Shaking { handshake: ClientHandshake::continued(self.seed), position: 0, later };
        self.phase = Phase::Answering(Box::new(Answering { shaking: Some(shaking), replies }));
    }

    /// Takes all of what the server sent. Nothing is read before [`RelaySession::begin`]. Stop reading the server while the client's
    /// outbox is long.
    ///
    /// # Errors
    /// The server broke a rule, or names a message stream that the client was not told; the client has been told.
    pub fn handle_server(&mut self, bytes: &[u8]) -> Result<(), RtmpError> {
        let result = self.listen(bytes);
        if result.is_err() {
            self.fail(None, "the server does not speak as it should");
        }
        result
    }

    fn listen(&mut self, bytes: &[u8]) -> Result<(), RtmpError> {
        let mut rest = bytes;
        while let Phase::Answering(answering) = &mut self.phase {
            if let Some(shaking) = &mut answering.shaking {
                if !shaking.listen(&mut rest, &mut self.server_outbox)? {
                    return Ok(());
                }
                answering.replies.skip(HANDSHAKE_BYTES);
                answering.shaking = None;
            }
            let reply = answering.replies.read(&mut rest, &mut self.client_outbox)?;
            if let Some(id) = answering.replies.client_id.take() {
                self.server_client_id = Some(id);
            }
            match reply {
                Reply::More => return Ok(()),
                Reply::Next => {}
                Reply::Through => {
                    self.due_ms = None;
                    self.phase = Phase::Through;
                }
                Reply::Refused { code, description } => {
                    self.fail(Some(&code), &description);
                    self.outputs.push_back(RelayOutput::Refused { code, description });
                }
            }
        }
        if matches!(self.phase, Phase::Through) {
            self.client_outbox.extend_from_slice(rest);
        }
        Ok(())
    }

    /// The server has closed the connection, or none could be made after all: a client that still waits for its answer is told. Send
    /// its outbox, then close.
    pub fn server_closed(&mut self) {
        self.fail(None, "the server closed the connection");
    }

    /// What the server calls the client in its HTTP API, once it has said so: SRS's `srs_id`. From 1 to 64 bytes.
    pub fn server_client_id(&self) -> Option<&str> {
        self.server_client_id.as_deref()
    }

    /// All that was given has come out of the two outboxes, in order, and both ends have heard the same: from now on bytes are
    /// handed on as they are.
    pub fn is_through(&self) -> bool {
        matches!(self.phase, Phase::Through)
    }

    /// Nothing will come of this connection: close both ends once the client's outbox is sent.
    pub fn is_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended)
    }

    /// Bytes of the server that were used so far.
    fn server_position(&self) -> u64 {
        match &self.phase {
            Phase::Answering(answering) => answering.shaking.as_ref().map_or(answering.replies.position(), |shaking| shaking.position),
            Phase::Asking(_) | Phase::Through | Phase::Ended => 0,
        }
    }

    /// Tells a client that waits for the server's answer that there is none, or this one.
    fn fail(&mut self, code: Option<&str>, description: &str) {
        let Phase::Answering(answering) = &self.phase else { return };
        answering.replies.refuse(code, description, &mut self.client_outbox);
        self.due_ms = None;
        self.phase = Phase::Ended;
    }
}

impl Shaking {
    /// Takes the server's side of the handshake from `input`, which shrinks by it; true once it is done.
    fn listen(&mut self, input: &mut &[u8], out: &mut Vec<u8>) -> Result<bool, RtmpError> {
        let (used, done) = self.handshake.handle_input(input, out, self.position)?;
        self.position += used as u64;
        *input = &input[used..];
        // C2 is made once S1 is whole; the client's words do not wait for S2.
        if self.position >= OPENING_BYTES as u64 {
            out.append(&mut self.later);
        }
        Ok(done)
    }
}

#[cfg(test)]
mod tests;
