//! What a client calls, and the words we answer with.
//!
//! The answers are those of Flash Media Server, SRS and nginx-rtmp, for encoders and players were written against them: their
//! order and spelling matter more than the specification's examples.

use super::enhanced;
use super::phases::{Commanding, Connection, Deciding, Phase, Wanted, Wish};
use super::{MAX_COMMAND_BYTES, MAX_URL_BYTES, Output, ServerSession, status};
use crate::rtmp::amf0::Value;
use crate::rtmp::chunk::Arrived;
use crate::rtmp::command::{Command, information};
use crate::rtmp::egress::MEDIA_STREAM_ID;
use crate::rtmp::error::{Limit, RtmpError};
use crate::rtmp::link::{Link, event};
use crate::rtmp::message_type;
use crate::rtmp::timers::Timer;
use crate::rtmp::url::{Resolved, resolve};
use crate::via::{self, Via};

/// Told to peers as window and as bandwidth, like SRS: they acknowledge every so many bytes.
const WINDOW_BYTES: u32 = 2_500_000;
/// The limit type of Set Peer Bandwidth that lets the peer decide (§5.4.5).
const DYNAMIC: u8 = 2;
/// What clients know a server by; some look for the `FMS/` of a version that speaks plain RTMP.
const FMS_VERSION: &str = "FMS/3,5,3,888";

impl ServerSession {
    pub(super) fn handle_command_message(&mut self, message: &Arrived<'_>, now_ms: u64) -> Result<(), RtmpError> {
        let mut payload = &*message.payload;
        if message.message_type == message_type::COMMAND_AMF3 {
            payload = payload.strip_prefix(&[0]).unwrap_or(payload);
        }
        if payload.len() > MAX_COMMAND_BYTES {
            return Err(self.core.link.error(Limit::MessageBytes, format!("a command of {} bytes", payload.len())));
        }
        let command = Command::decode(payload, self.core.settings.amf_depth);
        let command = command.map_err(|(limit, detail)| self.core.link.error(limit, detail))?;
        if matches!(self.core.phase, Phase::Connecting) {
            // Nothing means anything before `connect`.
            return if command.name == "connect" { self.connect(&command) } else { Ok(()) };
        }
        self.handle_command(&command, message.message_stream, now_ms)
    }

    fn handle_command(&mut self, command: &Command, message_stream: u32, now_ms: u64) -> Result<(), RtmpError> {
        match command.name.as_str() {
            "connect" => return Err(self.core.link.error(Limit::Protocol, "a second connect")),
            "createStream" => self.core.link.send_result(command, f64::from(MEDIA_STREAM_ID).into()),
            "publish" => return self.want(command, message_stream, Wish::Publish, now_ms),
            "play" => return self.want(command, message_stream, Wish::Play, now_ms),
            "FCPublish" => {
                if let Some(connection) = self.core.phase.connection() {
                    connection.announces = true;
                }
                self.core.link.send_result(command, Value::Undefined);
            }
            "FCUnpublish" => {
                self.end(now_ms);
                self.core.link.send_result(command, Value::Undefined);
            }
            "deleteStream" | "closeStream" => self.end(now_ms),
            "getStreamLength" => self.core.link.send_result(command, 0.0.into()),
            "FCSubscribe" => self.core.link.send_subscribed(),
            "pause" | "pauseRaw" => self.pause(command),
            "receiveAudio" => self.receive(command, |connection| &mut connection.without_audio),
            "receiveVideo" => self.receive(command, |connection| &mut connection.without_video),
            // Answers to what we never asked, and calls that want none.
            "_result" | "_error" | "onStatus" | "play2" | "seek" => {}
            // releaseStream, _checkbw and whatever else: an encoder may wait for an answer, and none of them needs more than one.
            _ => self.core.link.send_result(command, Value::Undefined),
        }
        Ok(())
    }

    fn connect(&mut self, command: &Command) -> Result<(), RtmpError> {
        let bounded = |key: &str| Some(command.object_text(key)).filter(|text| text.len() <= MAX_URL_BYTES);
        let (Some(app), Some(tc_url)) = (bounded("app"), bounded("tcUrl")) else {
            let object = information("error", status::CONNECT_REJECTED, "the URL is too long");
            self.core.link.send_chunk_size();
            self.core.link.send_command(0, "_error", command.transaction, &[Value::Null, object]);
            return Err(self.core.link.error(Limit::Name, format!("app or tcUrl is longer than {MAX_URL_BYTES} bytes")));
        };
        let connection = Connection {
            app: app.into(),
            tc_url: tc_url.into(),
            // These only inform: too long ones are left out.
            page_url: bounded("pageUrl").unwrap_or_default().into(),
            swf_url: bounded("swfUrl").unwrap_or_default().into(),
            flash_version: bounded("flashVer").unwrap_or_default().into(),
            via: bounded(via::MEMBER).unwrap_or_default().into(),
            announces: false,
            knows_tracks: enhanced::knows_tracks(&command.object),
            without_audio: false,
            without_video: false,
        };
        self.core.phase = Phase::Commanding(Commanding { connection: Box::new(connection) });
        let enhanced = enhanced::is_spoken_by(&command.object) && !self.core.speaks_for_another;
        self.core.link.send_connected(command, &self.core.settings.instance, enhanced);
        Ok(())
    }

    /// The client wants to publish or play: ask the caller.
    fn want(&mut self, command: &Command, message_stream: u32, wish: Wish, now_ms: u64) -> Result<(), RtmpError> {
        let (refusal, what) = match wish {
            Wish::Publish => (status::PUBLISH_BAD_NAME, "publish"),
            Wish::Play => (status::PLAY_STREAM_NOT_FOUND, "play"),
        };
        match (&self.core.phase, wish) {
            (Phase::Publishing(_), _) | (Phase::Playing(_), Wish::Publish) => {
                self.core.link.send_status(message_stream, "error", refusal, "this connection publishes or plays already");
                return Ok(());
            }
            // Another play replaces the first.
            (Phase::Playing(_), Wish::Play) => self.end(now_ms),
            _ => {}
        }
        let Some(connection) = self.core.phase.connection() else { return Ok(()) };
        let name = command.text(0).unwrap_or_default();
        let resolved = match bounded_resolve(connection, name, self.core.settings.name_bytes) {
            Ok(resolved) => resolved,
            Err(reason) => {
                self.core.link.send_status(message_stream, "error", refusal, &reason);
                return Err(self.core.link.error(Limit::Name, format!("{what}: {reason}")));
            }
        };
        let connection = std::mem::take(connection);
        self.core.phase = Phase::Deciding(Deciding { connection, wish, wanted: Wanted { resolved, message_stream } });
        self.timers.stop(Timer::FirstPacket);
        if let Some(request) = self.request().map(Box::new) {
            self.core.outputs.push_back(if wish == Wish::Publish { Output::Publish(request) } else { Output::Play(request) });
        }
        Ok(())
    }

    /// The client ends its publish or play, if it has one.
    fn end(&mut self, now_ms: u64) {
        match &self.core.phase {
            Phase::Publishing(publishing) => {
                let message_stream = publishing.wanted.message_stream;
                self.core.link.send_publish_end(message_stream, publishing.connection.announces);
                self.core.outputs.push_back(Output::PublishEnded);
            }
            Phase::Playing(_) => self.core.outputs.push_back(Output::PlayEnded),
            _ => return,
        }
        self.command_again(now_ms);
    }

    /// The client says whether it wants one kind of media, for its play or for one to come (RTMP §7.2.2.4 and §7.2.2.5).
    fn receive(&mut self, command: &Command, without: impl Fn(&mut Connection) -> &mut bool) {
        let Some(Value::Boolean(wanted)) = command.arguments.first() else { return };
        let plays = matches!(self.core.phase, Phase::Playing(_));
        let Some(connection) = self.core.phase.connection() else { return };
        let before = connection.tracks();
        *without(connection) = !*wanted;
        let tracks = connection.tracks();
        if plays && tracks != before {
            self.core.outputs.push_back(Output::Tracks(tracks));
        }
    }

    fn pause(&mut self, command: &Command) {
        let Phase::Playing(playing) = &self.core.phase else { return };
        let pauses = command.arguments.first() == Some(&Value::Boolean(true));
        self.core.link.send_paused(playing.wanted.message_stream, pauses);
        self.core.outputs.push_back(Output::Paused(pauses));
    }
}

fn bounded_resolve(connection: &Connection, name: &str, name_bytes: usize) -> Result<Resolved, String> {
    if name.len() > MAX_URL_BYTES {
        return Err(format!("the stream's name is longer than {MAX_URL_BYTES} bytes"));
    }
    let resolved = resolve(&connection.tc_url, &connection.app, name).map_err(|error| error.to_string())?;
    let key = &resolved.key;
    match [key.vhost(), key.app(), key.stream()].iter().any(|part| part.len() > name_bytes) {
        true => Err(format!("a name is longer than {name_bytes} bytes")),
        false => Ok(resolved),
    }
}

impl Link {
    /// A result, if the call asked for one.
    fn send_result(&mut self, command: &Command, value: Value) {
        if command.transaction != 0.0 {
            self.send_command(0, "_result", command.transaction, &[Value::Null, value]);
        }
    }

    pub(super) fn send_status(&mut self, message_stream: u32, level: &str, code: &str, description: &str) {
        self.send_command(message_stream, "onStatus", 0.0, &[Value::Null, information(level, code, description)]);
    }

    fn send_connected(&mut self, command: &Command, instance: &str, enhanced: bool) {
        self.send_control(message_type::WINDOW_ACKNOWLEDGEMENT_SIZE, &WINDOW_BYTES.to_be_bytes());
        let [b0, b1, b2, b3] = WINDOW_BYTES.to_be_bytes();
        self.send_control(message_type::SET_PEER_BANDWIDTH, &[b0, b1, b2, b3, DYNAMIC]);
        self.send_chunk_size();
        let mut properties =
            vec![("fmsVer".to_owned(), FMS_VERSION.into()), ("capabilities".to_owned(), 127.0.into()), ("mode".to_owned(), 1.0.into())];
        if enhanced {
            properties.extend(enhanced::properties());
        }
        // Only who says that it is a server too wants to know who we are.
        if !instance.is_empty() && !command.object_text(via::MEMBER).is_empty() {
            properties.push((via::MEMBER.to_owned(), instance.into()));
        }
        let properties = Value::Object(properties);
        let mut answer = information("status", "NetConnection.Connect.Success", "Connection succeeded");
        if let Value::Object(members) = &mut answer {
            members.push(("objectEncoding".to_owned(), 0.0.into()));
        }
        self.send_command(0, "_result", command.transaction, &[properties, answer]);
        self.send_command(0, "onBWDone", 0.0, &[Value::Null]);
    }

    pub(super) fn send_publish_start(&mut self, message_stream: u32, announces: bool) {
        if announces {
            self.send_announcement(message_stream, "onFCPublish", "NetStream.Publish.Start", "Started publishing stream.");
        }
        self.send_status(message_stream, "status", "NetStream.Publish.Start", "Started publishing stream.");
    }

    fn send_publish_end(&mut self, message_stream: u32, announces: bool) {
        if announces {
            self.send_announcement(message_stream, "onFCUnpublish", status::UNPUBLISH_SUCCESS, "Stop publishing stream.");
        }
        self.send_status(message_stream, "status", status::UNPUBLISH_SUCCESS, "Stream is now unpublished");
    }

    fn send_announcement(&mut self, message_stream: u32, name: &str, code: &str, description: &str) {
        let object = Value::Object(vec![("code".to_owned(), code.into()), ("description".to_owned(), description.into())]);
        self.send_command(message_stream, name, 0.0, &[Value::Null, object]);
    }

    /// What a player waits for, in SRS's order; the last one only matters to Flash. SRS adds a data message `NetStream.Data.Start`:
    /// ffmpeg takes that for a track of its own, so it is left out.
    pub(super) fn send_play_start(&mut self, message_stream: u32, via: &Via) {
        self.send_event(event::STREAM_BEGIN, &[message_stream]);
        self.send_status(message_stream, "status", "NetStream.Play.Reset", "Playing and resetting stream.");
        let mut start = information("status", "NetStream.Play.Start", "Started playing stream.");
        if let (Value::Object(members), false) = (&mut start, via.is_empty()) {
            members.push((via::MEMBER.to_owned(), via.to_string().as_str().into()));
        }
        self.send_command(message_stream, "onStatus", 0.0, &[Value::Null, start]);
        self.send_data(message_stream, &["|RtmpSampleAccess".into(), Value::Boolean(true), Value::Boolean(true)]);
    }

    pub(super) fn send_play_end(&mut self, message_stream: u32) {
        self.send_status(message_stream, "status", "NetStream.Play.UnpublishNotify", "Stream is now unpublished.");
        self.send_event(event::STREAM_EOF, &[message_stream]);
        self.send_status(message_stream, "status", "NetStream.Play.Stop", "Stopped playing stream.");
    }

    fn send_paused(&mut self, message_stream: u32, pauses: bool) {
        let (code, text, event) = match pauses {
            true => ("NetStream.Pause.Notify", "Paused stream.", event::STREAM_EOF),
            false => ("NetStream.Unpause.Notify", "Unpaused stream.", event::STREAM_BEGIN),
        };
        self.send_status(message_stream, "status", code, text);
        self.send_event(event, &[message_stream]);
    }

    /// librtmp asks for this before it plays from some networks, and waits for the answer.
    fn send_subscribed(&mut self) {
        self.send_command(0, "onFCSubscribe", 0.0, &[Value::Null, information("status", "NetStream.Play.Start", "Subscribed.")]);
    }
}
