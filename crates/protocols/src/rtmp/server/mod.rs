//! A server's end of one RTMP connection, from the first handshake byte to publishing or playing.
//!
//! The caller feeds input and time, drains [`ServerSession::poll_output`] after every input, and sends the outbox. Success
//! is told to the client only by [`ServerSession::accept_publish`] and [`ServerSession::accept_play`]: until then nothing
//! more is read. A session never sends media to a player: the caller puts [`super::egress`] bytes between the outbox's, at
//! message boundaries. It allocates nothing while a player plays.

mod commands;
mod enhanced;
mod phases;

use super::amf0;
use super::chunk::{Arrived, ChunkLimits, Message};
use super::error::{Limit, RtmpError};
use super::handshake::ServerHandshake;
use super::link::{Link, event};
use super::message_type;
use super::saved::{self, RestoreError, byte_string};
use super::timers::{Timer, Timers, TimersLeft};
use crate::via::Via;
use braidcast_media::{RecordKind, StreamKey, TrackChoice};
use phases::{Deciding, Handshaking, Phase, Playing, Publishing, Wish};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::VecDeque;

/// The longest command message. Values take far more memory than their bytes, and no real command is near it.
pub const MAX_COMMAND_BYTES: usize = 64 << 10;
/// How many commands of that length may be under way at once; encoders send one after another.
const UNFINISHED_COMMANDS: u64 = 4;
/// The longest URL or name with its query that a client may send.
pub const MAX_URL_BYTES: usize = 4096;
/// A peer that makes us answer this much without reading it is cut off.
const MAX_OUTBOX_BYTES: usize = 1 << 20;
/// Places for outputs that a publishing session keeps between inputs.
const KEPT_OUTPUTS: usize = 64;

/// Status codes for [`ServerSession::refuse`] and [`ServerSession::end_publish`] (RTMP §7.2.2 and Flash's documentation).
pub mod status {
    /// The name is in use, or no name a stream can have.
    pub const PUBLISH_BAD_NAME: &str = "NetStream.Publish.BadName";
    /// Publishing is not allowed (or no room is left).
    pub const PUBLISH_DENIED: &str = "NetStream.Publish.Denied";
    /// A publisher is told that it ended.
    pub const UNPUBLISH_SUCCESS: &str = "NetStream.Unpublish.Success";
    /// Nobody publishes this stream.
    pub const PLAY_STREAM_NOT_FOUND: &str = "NetStream.Play.StreamNotFound";
    /// Playing is not allowed (or no room is left).
    pub const PLAY_FAILED: &str = "NetStream.Play.Failed";
    /// The connection as such is refused.
    pub const CONNECT_REJECTED: &str = "NetConnection.Connect.Rejected";
}

/// Limits of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Chunk streams, message lengths, unfinished messages. Before its first publish is accepted a client may send no longer message
    /// than a command ([`MAX_COMMAND_BYTES`]).
    pub chunks: ChunkLimits,
    /// The deepest nesting of AMF values.
    pub amf_depth: usize,
    /// The longest vhost, app or stream, in bytes; [`braidcast_media::key::MAX_PART_BYTES`] holds whatever this says.
    pub name_bytes: usize,
    /// From the first moment to the end of the handshake, milliseconds.
    pub handshake_ms: u64,
    /// From there to publish or play, and from an accepted publish to its first media, milliseconds.
    pub first_packet_ms: u64,
    /// A publisher's longest silence, milliseconds. After half of it, publishers and players are pinged; a player's own
    /// silence ends nothing, for some never answer: whether it still takes bytes shows at the socket.
    pub idle_ms: u64,
    /// This server's name for others that streams pass through; empty if it has none.
    pub instance: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            chunks: ChunkLimits::default(),
            amf_depth: 32,
            name_bytes: braidcast_media::key::MAX_PART_BYTES,
            handshake_ms: 10_000,
            first_packet_ms: 20_000,
            idle_ms: 60_000,
            instance: String::new(),
        }
    }
}

/// What a client wants to publish or play, and what it said of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The stream.
    pub key: StreamKey,
    /// Its query strings, joined with `&`, without a leading `?`; empty if none.
    pub params: String,
    /// The URL of `connect`, as sent.
    pub tc_url: String,
    /// The page a player is on, as sent; often empty.
    pub page_url: String,
    /// The program a player is, as sent; often empty.
    pub swf_url: String,
    /// The client's version string (`FMLE/3.0 …`, `LNX 9,0,124,2`), as sent.
    pub flash_version: String,
    /// What a player wants to be sent: all tracks, if it can tell several of a kind apart (Enhanced RTMP v2, `capsEx`).
    pub tracks: TrackChoice,
    /// The servers that the stream has passed through, if it is published by one; that pass it on, if it is played by one.
    pub via: Via,
}

/// What a session tells its caller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Output {
    /// The client wants to publish: answer by `accept_publish` or `refuse`.
    Publish(Box<Request>),
    /// The client wants to play: answer by `accept_play` or `refuse`.
    Play(Box<Request>),
    /// Media from a publisher, never empty. Data comes as FLV script data: `@setDataFrame` is taken off.
    Media {
        /// Audio, video or data.
        kind: RecordKind,
        /// As sent: milliseconds modulo 2^32.
        timestamp_ms: u32,
        /// The tag's payload.
        #[serde(with = "byte_string")]
        payload: Vec<u8>,
    },
    /// The publisher ended its stream; the connection goes on and may publish again.
    PublishEnded,
    /// The player stopped; the connection goes on.
    PlayEnded,
    /// The player paused (true) or resumed (false); it was told so. What to do about its media is the caller's choice.
    Paused(bool),
    /// The player wants other tracks than before (receiveAudio, receiveVideo).
    Tracks(TrackChoice),
}

/// Where a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Before or in the handshake, or before `connect`.
    Opening,
    /// Connected; neither publishing nor playing.
    Commanding,
    /// A publish waits for the caller's decision.
    DecidingPublish,
    /// A play waits for the caller's decision.
    DecidingPlay,
    /// Publishing.
    Publishing,
    /// Playing.
    Playing,
}

/// The limits of a client that has not been admitted to send media: it has nothing to say that is longer than a command, and
/// anybody may be such a client.
fn negotiating(limits: ChunkLimits) -> ChunkLimits {
    // A command of AMF3 has a byte before its AMF0 values (RTMP §7.1.1).
    let message_bytes = limits.message_bytes.min(MAX_COMMAND_BYTES as u32 + 1);
    let unfinished_message_bytes = limits.unfinished_message_bytes.min(UNFINISHED_COMMANDS * u64::from(message_bytes));
    ChunkLimits { message_bytes, unfinished_message_bytes, ..limits }
}

/// The state machine. After an error it must not be used any more, but for its outbox.
#[derive(Debug)]
pub struct ServerSession {
    core: Core,
    timers: Timers,
}

/// What a caller takes while its input is handled; all else it is told by outputs.
enum Takes<'a> {
    Nothing,
    Media(&'a mut dyn FnMut(RecordKind, u32, &[u8])),
}

/// Everything of a session but its clock.
#[derive(Debug, Serialize, Deserialize)]
struct Core {
    settings: Settings,
    link: Link,
    outputs: VecDeque<Output>,
    phase: Phase,
    /// Nothing is said of Enhanced RTMP: it is for another server to say. A session that was restored speaks for itself.
    #[serde(skip)]
    speaks_for_another: bool,
}

impl ServerSession {
    /// A session of a connection that was just accepted. The handshake's filler bytes follow from `seed`.
    pub fn new(settings: Settings, seed: u64, now_ms: u64) -> Self {
        let mut timers = Timers::default();
        timers.set(Timer::Handshake, now_ms.saturating_add(settings.handshake_ms));
        let phase = Phase::Handshaking(Handshaking { handshake: Box::new(ServerHandshake::new(seed)) });
        let link = Link::new(negotiating(settings.chunks));
        Self { core: Core { link, settings, outputs: VecDeque::new(), phase, speaks_for_another: false }, timers }
    }

    /// A session that answers only until it is known what the client wants, and says nothing that another server may not keep.
    pub(super) fn for_another(settings: Settings, seed: u64, now_ms: u64) -> Self {
        let mut session = Self::new(Settings { instance: String::new(), ..settings }, seed, now_ms);
        session.core.speaks_for_another = true;
        session
    }

    /// Whether the client announces what it publishes (FCPublish), as most encoders do.
    pub fn announces(&self) -> bool {
        self.core.phase.wanted().is_some_and(|(connection, _)| connection.announces)
    }

    /// Takes input; returns how many bytes it used. Less than all means that a decision is pending: offer the rest again
    /// after it (call this then even if nothing is left). What comes out does not depend on how the input is cut.
    pub fn handle_input(&mut self, bytes: &[u8], now_ms: u64) -> Result<usize, RtmpError> {
        self.handle(bytes, now_ms, &mut Takes::Nothing)
    }

    /// As [`ServerSession::handle_input`], but hands media out at once, as it stands in `bytes` where it can: kind, timestamp and
    /// payload as in [`Output::Media`]. What follows another output is an output too, so that the order stays.
    pub fn handle_media(&mut self, bytes: &[u8], now_ms: u64, take: &mut dyn FnMut(RecordKind, u32, &[u8])) -> Result<usize, RtmpError> {
        self.handle(bytes, now_ms, &mut Takes::Media(take))
    }

    fn handle(&mut self, bytes: &[u8], now_ms: u64, caller: &mut Takes<'_>) -> Result<usize, RtmpError> {
        let mut used = 0;
        while !matches!(self.core.phase, Phase::Deciding(_)) {
            if let Phase::Handshaking(Handshaking { handshake }) = &mut self.core.phase {
                let link = &mut self.core.link;
                let (step, done) = handshake.handle_input(&bytes[used..], link.outbox.buffer(), link.reader.position())?;
                link.reader.skip(step);
                used += step;
                if !done {
                    break;
                }
                self.core.phase = Phase::Connecting;
                self.timers.stop(Timer::Handshake);
                self.timers.set(Timer::FirstPacket, now_ms.saturating_add(self.core.settings.first_packet_ms));
            }
            let (step, message) = self.core.link.reader.read_in_place(&bytes[used..])?;
            used += step;
            let Some(message) = message else { break };
            self.handle_message(message, now_ms, caller)?;
            self.core.link.acknowledge();
            if self.core.link.outbox.bytes().len() > MAX_OUTBOX_BYTES {
                return Err(self.core.link.error(Limit::Protocol, "the peer asks for more answers than it reads"));
            }
        }
        if used > 0 {
            self.peer_is_there(now_ms);
        }
        Ok(used)
    }

    /// When [`ServerSession::handle_timeout`] must be called, in the caller's milliseconds.
    pub fn poll_timeout(&self) -> Option<u64> {
        self.timers.next_due()
    }

    /// Does what is due; nothing if it is called early.
    pub fn handle_timeout(&mut self, now_ms: u64) -> Result<(), RtmpError> {
        while let Some(timer) = self.timers.take_due(now_ms) {
            let link = &mut self.core.link;
            match timer {
                Timer::Handshake => return Err(link.error(Limit::HandshakeTimeout, "the handshake was not done in time")),
                Timer::FirstPacket => {
                    return Err(link.error(Limit::FirstPacketTimeout, "no publish or play, or no media after it, in time"));
                }
                Timer::Idle => return Err(link.error(Limit::IdleTimeout, "the publisher was silent for too long")),
                Timer::Ping => {
                    link.send_event(event::PING_REQUEST, &[now_ms as u32]);
                    self.set_ping(now_ms);
                }
            }
        }
        Ok(())
    }

    /// The next thing the caller must know of.
    pub fn poll_output(&mut self) -> Option<Output> {
        let output = self.core.outputs.pop_front();
        let kept = if matches!(self.core.phase, Phase::Publishing(_)) { KEPT_OUTPUTS } else { 0 };
        if self.core.outputs.is_empty() && self.core.outputs.capacity() > kept {
            self.core.outputs = VecDeque::new();
        }
        output
    }

    /// Whether there is anything that the caller must know of.
    pub fn has_output(&self) -> bool {
        !self.core.outputs.is_empty()
    }

    /// Bytes for the peer. They consist of whole messages (once the handshake is done): media may be sent before or after
    /// them, never between.
    pub fn outbox(&self) -> &[u8] {
        self.core.link.outbox.bytes()
    }

    /// Forgets the first `bytes` of the outbox: they were sent.
    pub fn outbox_sent(&mut self, bytes: usize) {
        self.core.link.outbox.sent(bytes);
    }

    /// Takes the whole outbox.
    pub fn take_outbox(&mut self) -> Vec<u8> {
        self.core.link.outbox.take()
    }

    /// Bytes of the connection that were used so far.
    pub fn position(&self) -> u64 {
        self.core.link.reader.position()
    }

    /// Bytes of unfinished messages that have come.
    pub fn unfinished_bytes(&self) -> usize {
        self.core.link.reader.held_bytes()
    }

    /// Where the session stands.
    pub fn stage(&self) -> Stage {
        match &self.core.phase {
            Phase::Handshaking(_) | Phase::Connecting => Stage::Opening,
            Phase::Commanding(_) => Stage::Commanding,
            Phase::Deciding(Deciding { wish: Wish::Publish, .. }) => Stage::DecidingPublish,
            Phase::Deciding(Deciding { wish: Wish::Play, .. }) => Stage::DecidingPlay,
            Phase::Publishing(_) => Stage::Publishing,
            Phase::Playing(_) => Stage::Playing,
        }
    }

    /// The request that waits for a decision, or that was accepted and goes on.
    pub fn request(&self) -> Option<Request> {
        let (connection, wanted) = self.core.phase.wanted()?;
        Some(Request {
            key: wanted.resolved.key.clone(),
            params: wanted.resolved.params.clone(),
            tc_url: connection.tc_url.to_string(),
            page_url: connection.page_url.to_string(),
            swf_url: connection.swf_url.to_string(),
            flash_version: connection.flash_version.to_string(),
            tracks: connection.tracks(),
            via: Via::parse(&connection.via),
        })
    }

    /// The message stream of what waits for a decision.
    pub(super) fn undecided_message_stream(&self) -> Option<u32> {
        let Phase::Deciding(Deciding { wanted, .. }) = &self.core.phase else { return None };
        Some(wanted.message_stream)
    }

    /// The stream that [`ServerSession::request`] is about.
    pub fn stream(&self) -> Option<&StreamKey> {
        self.core.phase.wanted().map(|(_, wanted)| &wanted.resolved.key)
    }

    /// Tells the client that its publish has started. Does nothing unless a publish waits for a decision.
    pub fn accept_publish(&mut self, now_ms: u64) {
        let Phase::Deciding(Deciding { connection, wish: Wish::Publish, wanted }) = &mut self.core.phase else { return };
        let announces = connection.announces;
        let message_stream = wanted.message_stream;
        let (connection, wanted) = (std::mem::take(connection), wanted.clone());
        self.core.phase = Phase::Publishing(Publishing { connection, wanted, started: false });
        // From here on for good: encoders go on sending media for a moment after they have unpublished.
        self.core.link.reader.set_limits(self.core.settings.chunks);
        self.timers.set(Timer::FirstPacket, now_ms.saturating_add(self.core.settings.first_packet_ms));
        self.set_ping(now_ms);
        self.core.link.send_publish_start(message_stream, announces);
    }

    /// Tells the client that its play has started; media may be sent after the outbox. Does nothing unless a play waits for a decision.
    pub fn accept_play(&mut self, now_ms: u64) {
        self.accept_play_via(&Via::default(), now_ms);
    }

    /// As [`ServerSession::accept_play`], for a server that passes the stream on: it is told where the stream came through.
    pub fn accept_play_via(&mut self, via: &Via, now_ms: u64) {
        let Phase::Deciding(Deciding { connection, wish: Wish::Play, wanted }) = &mut self.core.phase else { return };
        let (connection, wanted) = (std::mem::take(connection), wanted.clone());
        self.core.link.send_play_start(wanted.message_stream, via);
        self.core.phase = Phase::Playing(Playing { connection, wanted });
        self.core.link.reader.shrink();
        self.set_ping(now_ms);
    }

    /// Tells the client that what it wanted is refused; `code` is one of [`status`]. The connection could go on: closing it
    /// after the outbox is sent is the caller's choice. Does nothing unless a decision is pending.
    pub fn refuse(&mut self, code: &str, description: &str, now_ms: u64) {
        let Phase::Deciding(Deciding { wanted, .. }) = &self.core.phase else { return };
        self.core.link.send_status(wanted.message_stream, "error", code, description);
        self.command_again(now_ms);
    }

    /// Tells the player that the stream has ended. Does nothing unless the session plays.
    pub fn end_play(&mut self, now_ms: u64) {
        let Phase::Playing(Playing { wanted, .. }) = &self.core.phase else { return };
        self.core.link.send_play_end(wanted.message_stream);
        self.command_again(now_ms);
    }

    /// Tells the publisher that its stream was ended by us, with `code` one of [`status`]. Does nothing unless the session publishes.
    pub fn end_publish(&mut self, code: &str, description: &str, now_ms: u64) {
        let Phase::Publishing(Publishing { wanted, .. }) = &self.core.phase else { return };
        self.core.link.send_status(wanted.message_stream, "error", code, description);
        self.command_again(now_ms);
    }

    /// Everything a worker needs to continue this session, partial messages, outbox and outputs included.
    pub fn save(&self, now_ms: u64) -> Vec<u8> {
        saved::save(&(&self.core, self.timers.left(now_ms)))
    }

    /// Continues a saved session; `now_ms` may be of another clock than that of [`ServerSession::save`].
    pub fn restore(saved: &[u8], now_ms: u64) -> Result<Self, RestoreError> {
        let (core, left): (Core, TimersLeft) = saved::restore(saved)?;
        if !core.link.is_sound() {
            return Err(RestoreError::Damaged);
        }
        Ok(Self { core, timers: Timers::from_left(&left, now_ms) })
    }

    fn set_ping(&mut self, now_ms: u64) {
        self.timers.set(Timer::Ping, now_ms.saturating_add((self.core.settings.idle_ms / 2).max(1)));
    }

    fn peer_is_there(&mut self, now_ms: u64) {
        match &self.core.phase {
            Phase::Publishing(publishing) => {
                if publishing.started {
                    self.timers.set(Timer::Idle, now_ms.saturating_add(self.core.settings.idle_ms));
                }
                self.set_ping(now_ms);
            }
            Phase::Playing(_) => self.set_ping(now_ms),
            _ => {}
        }
    }

    /// Back to waiting for commands, with the time that a new client has.
    fn command_again(&mut self, now_ms: u64) {
        self.core.phase.back_to_commanding();
        self.timers.stop(Timer::Idle);
        self.timers.stop(Timer::Ping);
        self.timers.set(Timer::FirstPacket, now_ms.saturating_add(self.core.settings.first_packet_ms));
    }

    fn handle_message(&mut self, message: Arrived<'_>, now_ms: u64, caller: &mut Takes<'_>) -> Result<(), RtmpError> {
        if self.core.link.handle_control(&message) {
            return Ok(());
        }
        match message.message_type {
            message_type::COMMAND_AMF0 | message_type::COMMAND_AMF3 => self.handle_command_message(&message, now_ms),
            message_type::AUDIO => self.media(RecordKind::Audio, message.timestamp_ms, message.payload, caller),
            message_type::VIDEO => self.media(RecordKind::Video, message.timestamp_ms, message.payload, caller),
            message_type::DATA_AMF0 | message_type::DATA_AMF3 => {
                if let Some((timestamp_ms, payload)) = script_data(message.into_owned(), self.core.settings.amf_depth) {
                    self.media(RecordKind::Data, timestamp_ms, payload.into(), caller)?;
                }
                Ok(())
            }
            message_type::AGGREGATE => {
                let (tags, whole) = split_aggregate(&message.into_owned());
                tags.into_iter().try_for_each(|(kind, timestamp_ms, payload)| self.media(kind, timestamp_ms, payload.into(), caller))?;
                if whole { Ok(()) } else { Err(self.core.link.error(Limit::Protocol, "an aggregate message is cut short")) }
            }
            // Shared objects and what is not known: nothing here depends on them.
            _ => Ok(()),
        }
    }

    /// Hands out media of a publisher; what others send is dropped, for encoders go on for a moment after unpublishing.
    fn media(&mut self, kind: RecordKind, timestamp_ms: u32, payload: Cow<'_, [u8]>, caller: &mut Takes<'_>) -> Result<(), RtmpError> {
        if payload.len() > braidcast_media::flv::MAX_PAYLOAD_BYTES {
            return Err(self.core.link.error(Limit::MessageBytes, "media longer than a tag can be"));
        }
        if let Phase::Publishing(publishing) = &mut self.core.phase
            && !payload.is_empty()
        {
            publishing.started = true;
            self.timers.stop(Timer::FirstPacket);
            match caller {
                Takes::Media(take) if self.core.outputs.is_empty() => take(kind, timestamp_ms, &payload),
                _ => self.core.outputs.push_back(Output::Media { kind, timestamp_ms, payload: payload.into_owned() }),
            }
        }
        Ok(())
    }
}

/// Splits an aggregate message (RTMP §7.1.6): tags, each with its size behind it, whose first timestamp stands for the message's own. Says
/// whether it ended with a tag.
pub(super) fn split_aggregate(message: &Message) -> (Vec<(RecordKind, u32, Vec<u8>)>, bool) {
    let mut tags = Vec::new();
    let mut rest = message.payload.as_slice();
    let mut first_ms = None;
    while let Some(&[tag_type, s0, s1, s2, t0, t1, t2, t_extended, ..]) = rest.first_chunk::<11>() {
        let (size, tag_ms) = (u32::from_be_bytes([0, s0, s1, s2]) as usize, u32::from_be_bytes([t_extended, t0, t1, t2]));
        let shift_ms = message.timestamp_ms.wrapping_sub(*first_ms.get_or_insert(tag_ms));
        let Some(payload) = rest.get(11..11 + size) else { break };
        if let Some(kind) = RecordKind::from_tag_type(tag_type) {
            tags.push((kind, tag_ms.wrapping_add(shift_ms), payload.to_vec()));
        }
        // The last tag may lack its size.
        rest = rest.get(11 + size + 4..).unwrap_or_default();
    }
    (tags, rest.is_empty())
}

/// `@setDataFrame` as an AMF0 string: it tells a server to keep the metadata that follows, and is not part of it.
const SET_DATA_FRAME: &[u8; 16] = b"\x02\0\x0d@setDataFrame";
/// `@clearDataFrame`: nothing that players need to know.
const CLEAR_DATA_FRAME: &[u8; 18] = b"\x02\0\x0f@clearDataFrame";

/// Timestamp and payload of a data message as FLV keeps them.
pub(super) fn script_data(message: Message, amf_depth: usize) -> Option<(u32, Vec<u8>)> {
    let mut payload = message.payload;
    if message.message_type == message_type::DATA_AMF3 {
        if payload.first() == Some(&0) {
            payload.remove(0);
        }
        payload = without_amf3(payload, amf_depth);
    }
    if payload.starts_with(CLEAR_DATA_FRAME) {
        return None;
    }
    if payload.starts_with(SET_DATA_FRAME) {
        payload.drain(..SET_DATA_FRAME.len());
    }
    Some((message.timestamp_ms, payload))
}

/// FLV has no AMF3: values that can be read are written as AMF0. Others stay as they are.
fn without_amf3(payload: Vec<u8>, amf_depth: usize) -> Vec<u8> {
    if payload.len() > MAX_COMMAND_BYTES {
        return payload;
    }
    let mut decoder = amf0::Decoder::new(&payload, amf_depth);
    let values: Result<Vec<_>, _> = std::iter::from_fn(|| decoder.next_value()).collect();
    match values {
        Ok(values) if decoder.switched() => {
            let mut converted = Vec::with_capacity(payload.len());
            values.iter().for_each(|value| amf0::encode(&mut converted, value));
            converted
        }
        _ => payload,
    }
}

#[cfg(test)]
mod tests;
