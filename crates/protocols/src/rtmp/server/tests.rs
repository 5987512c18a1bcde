//! Server and client paired on a virtual clock, and a server against bytes written by hand.
//!
//! Every scenario runs several times: once undisturbed, then with its input cut at random places down to single bytes and both
//! ends saved and restored after every piece, on another clock. Nothing that comes out may differ.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::rtmp::amf0::{self, Value};
use crate::rtmp::client::{ClientOutput, ClientRole, ClientSession, ClientSettings};
use crate::rtmp::command::Command;
use crate::rtmp::egress::{self, Frame};
use proptest::prelude::*;

/// How a scenario is disturbed.
#[derive(Clone, Copy)]
enum Disturb {
    Not,
    /// Input in random pieces of at most so many bytes; both ends saved and restored after each.
    CutAndSave {
        seed: u64,
        most: usize,
    },
}

/// The random source of a disturbance.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

/// A server alone: what its peer sent and was not taken yet, and all that ever came out.
struct Server {
    session: ServerSession,
    disturb: Disturb,
    random: Random,
    /// The clock of the scenario, and how far the session's own is ahead of it.
    now_ms: u64,
    ahead_ms: u64,
    unread: Vec<u8>,
    outputs: Vec<Output>,
    sent: Vec<u8>,
}

impl Server {
    fn new(settings: Settings, disturb: Disturb) -> Self {
        let seed = if let Disturb::CutAndSave { seed, .. } = disturb { seed } else { 0 };
        let (unread, outputs, sent) = (Vec::new(), Vec::new(), Vec::new());
        let session = ServerSession::new(settings, 99, 0);
        Self { session, disturb, random: Random(seed), now_ms: 0, ahead_ms: 0, unread, outputs, sent }
    }

    fn clock(&self) -> u64 {
        self.now_ms + self.ahead_ms
    }

    fn move_elsewhere(&mut self) {
        if let Disturb::CutAndSave { .. } = self.disturb {
            let saved = self.session.save(self.clock());
            self.ahead_ms = self.random.below(1 << 20) as u64;
            self.session = ServerSession::restore(&saved, self.clock()).unwrap();
            assert_eq!(self.session.save(self.clock()), saved, "a restored session saves the same");
        }
    }

    /// Gives the session input until it stops taking it; collects what comes out.
    fn input(&mut self, bytes: &[u8]) -> Result<(), RtmpError> {
        self.unread.extend_from_slice(bytes);
        loop {
            let most = match self.disturb {
                Disturb::Not => self.unread.len(),
                Disturb::CutAndSave { most, .. } => (1 + self.random.below(most)).min(self.unread.len()),
            };
            let now_ms = self.clock();
            let used = self.session.handle_input(&self.unread[..most], now_ms)?;
            self.unread.drain(..used);
            self.drain();
            self.move_elsewhere();
            if used < most || self.unread.is_empty() {
                return Ok(());
            }
        }
    }

    fn drain(&mut self) {
        // Part of what is pending is left in the session at times, to be saved with it.
        let keeps = matches!(self.disturb, Disturb::CutAndSave { .. }) && self.random.below(2) == 0;
        if keeps {
            self.move_elsewhere();
            let part = self.random.below(self.session.outbox().len() + 1);
            self.sent.extend_from_slice(&self.session.outbox()[..part]);
            self.session.outbox_sent(part);
            self.move_elsewhere();
        }
        self.outputs.extend(std::iter::from_fn(|| self.session.poll_output()));
        self.sent.extend(self.session.take_outbox());
    }

    fn decide(&mut self, decision: impl FnOnce(&mut ServerSession, u64)) {
        let now_ms = self.clock();
        decision(&mut self.session, now_ms);
        self.move_elsewhere();
        self.input(&[]).unwrap();
    }

    /// Lets time pass, doing what is due on the way.
    fn wait(&mut self, ms: u64) -> Result<(), RtmpError> {
        let end_ms = self.now_ms + ms;
        while let Some(due) = self.session.poll_timeout().map(|due| due - self.ahead_ms).filter(|&due| due <= end_ms) {
            self.now_ms = due;
            let now_ms = self.clock();
            self.session.handle_timeout(now_ms)?;
            self.drain();
            self.move_elsewhere();
        }
        self.now_ms = end_ms;
        Ok(())
    }
}

/// Both ends.
struct Pair {
    server: Server,
    client: ClientSession,
    client_outputs: Vec<ClientOutput>,
    /// How much of what the server ever sent has reached the client.
    delivered: usize,
}

impl Pair {
    fn new(role: ClientRole, disturb: Disturb) -> Self {
        let settings = ClientSettings {
            tc_url: "rtmp://media.example.com:1935/live".into(),
            app: "live".into(),
            stream: "cam?token=abc".into(),
            role,
            signed: true,
            chunks: ChunkLimits::default(),
        };
        let client = ClientSession::new(settings, 7);
        Self { server: Server::new(Settings::default(), disturb), client, client_outputs: Vec::new(), delivered: 0 }
    }

    /// Carries bytes both ways until both are quiet or the server waits for a decision.
    fn run(&mut self) {
        loop {
            let to_server = self.client.take_outbox();
            self.server.input(&to_server).unwrap();
            let to_client = self.server.sent[self.delivered..].to_vec();
            self.delivered = self.server.sent.len();
            self.deliver(&to_client);
            if to_server.is_empty() && to_client.is_empty() {
                return;
            }
        }
    }

    fn deliver(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let cut = match self.server.disturb {
                Disturb::Not => bytes.len(),
                Disturb::CutAndSave { most, .. } => (1 + self.server.random.below(most)).min(bytes.len()),
            };
            self.client.handle_input(&bytes[..cut]).unwrap();
            bytes = &bytes[cut..];
            if let Disturb::CutAndSave { .. } = self.server.disturb {
                self.client = ClientSession::restore(&self.client.save()).unwrap();
            }
            self.client_outputs.extend(std::iter::from_fn(|| self.client.poll_output()));
        }
    }
}

/// Runs a scenario undisturbed, then disturbed in several ways, and compares all that came out.
fn undisturbed_and_disturbed<T: PartialEq + std::fmt::Debug>(scenario: impl Fn(Disturb) -> T) -> T {
    let undisturbed = scenario(Disturb::Not);
    for (seed, most) in [(1, 1), (2, 3), (3, 40), (4, 700), (5, 5000), (6, 100_000)] {
        assert_eq!(scenario(Disturb::CutAndSave { seed, most }), undisturbed, "seed {seed}, pieces of at most {most} bytes");
    }
    undisturbed
}

fn codes(outputs: &[ClientOutput]) -> Vec<&str> {
    let code = |output| match output {
        &ClientOutput::Started => Some("started"),
        ClientOutput::Refused { code, .. } | ClientOutput::Status { code } => Some(code.as_str()),
        ClientOutput::Media { .. } => None,
    };
    outputs.iter().filter_map(code).collect()
}

const METADATA: &[u8] = b"\x02\0\x0aonMetaData\x08\0\0\0\0\0\0\x09";

#[test]
fn a_publisher_publishes_twice_on_one_connection() {
    let (outputs, client_outputs, _, _) = undisturbed_and_disturbed(|disturb| {
        let mut pair = Pair::new(ClientRole::Publish, disturb);
        pair.run();
        assert_eq!(pair.server.session.stage(), Stage::DecidingPublish);
        assert_eq!(codes(&pair.client_outputs), Vec::<&str>::new(), "nothing is told before the decision");
        pair.server.decide(|session, now_ms| session.accept_publish(now_ms));
        pair.run();
        pair.client.push_media(RecordKind::Data, 0, METADATA);
        pair.client.push_media(RecordKind::Video, 0x00ff_fff0, &vec![0x17; 7_000]);
        pair.client.push_media(RecordKind::Audio, 0x0100_0005, &[0xaf; 300]);
        pair.client.push_media(RecordKind::Audio, 0x0100_0005, &[]);
        pair.run();
        pair.client.end();
        pair.run();
        pair.client.publish_again("other");
        pair.run();
        pair.server.decide(|session, now_ms| session.refuse(status::PUBLISH_BAD_NAME, "in use", now_ms));
        pair.run();
        assert_eq!(pair.server.session.stage(), Stage::Commanding);
        (pair.server.outputs, pair.client_outputs, pair.server.sent, pair.server.session.position())
    });
    assert_eq!(codes(&client_outputs), ["started", status::UNPUBLISH_SUCCESS, status::PUBLISH_BAD_NAME]);
    let [Output::Publish(first), media @ .., Output::PublishEnded, Output::Publish(second)] = outputs.as_slice() else {
        panic!("{outputs:?}")
    };
    assert_eq!((first.key.vhost(), first.key.app(), first.key.stream()), ("media.example.com", "live", "cam"));
    assert_eq!((first.params.as_str(), first.tc_url.as_str()), ("token=abc", "rtmp://media.example.com:1935/live"));
    assert_eq!(second.key.stream(), "other");
    let expected = [
        (RecordKind::Data, 0, METADATA.to_vec()),
        (RecordKind::Video, 0x00ff_fff0, vec![0x17; 7_000]),
        (RecordKind::Audio, 0x0100_0005, vec![0xaf; 300]),
    ];
    assert_eq!(media, expected.map(|(kind, timestamp_ms, payload)| Output::Media { kind, timestamp_ms, payload }));
}

#[test]
fn a_player_gets_status_media_and_an_end() {
    let (outputs, client_outputs, ..) = undisturbed_and_disturbed(|disturb| {
        let mut pair = Pair::new(ClientRole::Play, disturb);
        pair.run();
        assert_eq!(pair.server.session.stage(), Stage::DecidingPlay);
        pair.server.decide(|session, now_ms| session.accept_play(now_ms));
        pair.run();
        let mut media = Vec::new();
        egress::write_message(&mut media, RecordKind::Video, 0x0100_0000, &[0x17; 20_000]);
        egress::write_message(&mut media, RecordKind::Audio, 5, &[0xaf; 10]);
        pair.deliver(&media);
        pair.server.decide(|session, now_ms| session.end_play(now_ms));
        pair.run();
        (pair.server.outputs, pair.client_outputs, pair.server.sent)
    });
    assert!(matches!(outputs.as_slice(), [Output::Play(request)] if request.key.stream() == "cam"), "{outputs:?}");
    let expected = ["NetStream.Play.Reset", "started", "NetStream.Play.UnpublishNotify", "NetStream.Play.Stop"];
    assert_eq!(codes(&client_outputs), expected);
    let media: Vec<_> = client_outputs
        .iter()
        .filter_map(|output| match output {
            ClientOutput::Media { kind, timestamp_ms, payload } => Some((*kind, *timestamp_ms, payload.len())),
            _ => None,
        })
        .collect();
    assert_eq!(media.iter().filter(|(kind, ..)| *kind == RecordKind::Data).count(), 1, "sample access");
    assert_eq!(media[1..], [(RecordKind::Video, 0x0100_0000, 20_000), (RecordKind::Audio, 5, 10)]);
}

/// A client written by hand: what it sends is exactly what a test says.
fn plain_opening() -> Vec<u8> {
    let mut bytes = vec![0; 1 + 2 * 1536];
    bytes[0] = 3;
    bytes
}

fn message(message_type: u8, message_stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    Frame { chunk_stream: 3, message_type, timestamp_ms: 0, message_stream }.write(&mut out, 128, payload);
    out
}

fn call(name: &str, transaction: f64, values: &[Value]) -> Vec<u8> {
    let mut payload = Vec::new();
    amf0::encode_str(&mut payload, name);
    amf0::encode(&mut payload, &transaction.into());
    values.iter().for_each(|value| amf0::encode(&mut payload, value));
    message(message_type::COMMAND_AMF0, u32::from(name == "publish" || name == "play"), &payload)
}

fn connect(app: &str) -> Vec<u8> {
    let members = vec![("app".to_owned(), app.into()), ("tcUrl".to_owned(), Value::from(&*format!("rtmp://localhost/{app}")))];
    call("connect", 1.0, &[Value::Object(members)])
}

/// Names and values of all commands that the server sent so far, and its other messages by type.
fn answers(sent: &[u8]) -> Vec<String> {
    let mut reader = crate::rtmp::chunk::ChunkReader::new(ChunkLimits::default(), 0);
    let mut rest = &sent[1 + 2 * 1536..];
    let mut answers = Vec::new();
    loop {
        let (used, message) = reader.read(rest).unwrap();
        rest = &rest[used..];
        let Some(message) = message else { return answers };
        answers.push(if message.message_type == message_type::COMMAND_AMF0 {
            let command = Command::decode(&message.payload, 32).unwrap();
            let code = command.arguments.first().and_then(|object| object.member("code")).and_then(Value::as_str);
            format!("{} {} {}", command.name, command.transaction, code.unwrap_or("-"))
        } else {
            format!("type {} {:?}", message.message_type, message.payload)
        });
    }
}

fn connected(settings: Settings, disturb: Disturb) -> Server {
    let mut server = Server::new(settings, disturb);
    server.input(&plain_opening()).unwrap();
    server.input(&connect("live")).unwrap();
    server
}

fn publishing(settings: Settings, disturb: Disturb) -> Server {
    let mut server = connected(settings, disturb);
    server.input(&call("publish", 5.0, &[Value::Null, "x".into(), "live".into()])).unwrap();
    server.decide(|session, now_ms| session.accept_publish(now_ms));
    server
}

#[test]
fn an_fmle_style_encoder_gets_every_answer_it_waits_for() {
    let sent = undisturbed_and_disturbed(|disturb| {
        let mut server = connected(Settings::default(), disturb);
        server.input(&call("releaseStream", 2.0, &[Value::Null, "x".into()])).unwrap();
        server.input(&call("FCPublish", 3.0, &[Value::Null, "x".into()])).unwrap();
        server.input(&call("createStream", 4.0, &[Value::Null])).unwrap();
        server.input(&call("_checkbw", 5.0, &[Value::Null])).unwrap();
        // The publish, and right behind it what must wait for the decision.
        let publish = call("publish", 6.0, &[Value::Null, "x".into(), "live".into()]);
        server.input(&[publish, call("getStreamLength", 7.0, &[Value::Null, "x".into()])].concat()).unwrap();
        assert!(!answers(&server.sent).contains(&"_result 7 -".to_owned()));
        server.decide(|session, now_ms| session.accept_publish(now_ms));
        server.input(&call("FCUnpublish", 8.0, &[Value::Null, "x".into()])).unwrap();
        server.input(&call("deleteStream", 9.0, &[Value::Null, 1.0.into()])).unwrap();
        assert_eq!(server.outputs.last(), Some(&Output::PublishEnded));
        server.sent
    });
    let answers = answers(&sent);
    assert_eq!(answers[..3], ["type 5 [0, 38, 37, 160]", "type 6 [0, 38, 37, 160, 2]", "_result 1 NetConnection.Connect.Success"]);
    let expected = [
        "onBWDone 0 -",
        "_result 2 -",
        "_result 3 -",
        "_result 4 -",
        "_result 5 -",
        "onFCPublish 0 NetStream.Publish.Start",
        "onStatus 0 NetStream.Publish.Start",
        "_result 7 -",
        "onFCUnpublish 0 NetStream.Unpublish.Success",
        "onStatus 0 NetStream.Unpublish.Success",
        "_result 8 -",
    ];
    assert_eq!(answers[3..], expected);
}

#[test]
fn amf3_typed_messages_are_read_past_their_zero_byte() {
    let outputs = undisturbed_and_disturbed(|disturb| {
        let mut server = connected(Settings::default(), disturb);
        let mut payload = vec![0];
        amf0::encode_str(&mut payload, "publish");
        amf0::encode(&mut payload, &5.0.into());
        [Value::Null, "x".into(), "live".into()].iter().for_each(|value| amf0::encode(&mut payload, value));
        server.input(&message(message_type::COMMAND_AMF3, 1, &payload)).unwrap();
        server.decide(|session, now_ms| session.accept_publish(now_ms));
        server.input(&message(message_type::DATA_AMF3, 1, &[b"\0\x02\0\x0d@setDataFrame", METADATA].concat())).unwrap();
        server.input(&message(message_type::DATA_AMF0, 1, b"\x02\0\x0f@clearDataFrame")).unwrap();
        server.outputs
    });
    assert_eq!(outputs[1..], [Output::Media { kind: RecordKind::Data, timestamp_ms: 0, payload: METADATA.to_vec() }]);
}

#[test]
fn a_client_with_object_encoding_3_publishes_and_its_metadata_is_amf0() {
    let outputs = undisturbed_and_disturbed(|disturb| {
        let mut server = Server::new(Settings::default(), disturb);
        server.input(&plain_opening()).unwrap();
        // Everything behind the marker 0x11 is AMF3; the names of members are referred to a second time.
        let connect =
            b"\0\x02\0\x07connect\0\x3f\xf0\0\0\0\0\0\0\x11\x0a\x0b\x01\x07app\x06\x09live\x0btcUrl\x06\x2brtmp://localhost/live\x01";
        server.input(&message(message_type::COMMAND_AMF3, 0, connect)).unwrap();
        let publish = b"\0\x02\0\x07publish\x11\x04\x05\x11\x01\x11\x06\x03x\x11\x06\x09live";
        server.input(&message(message_type::COMMAND_AMF3, 1, publish)).unwrap();
        server.decide(|session, now_ms| session.accept_publish(now_ms));
        let metadata = b"\0\x02\0\x0d@setDataFrame\x02\0\x0aonMetaData\x11\x09\x01\x0bwidth\x04\x82\x40\x01";
        server.input(&message(message_type::DATA_AMF3, 1, metadata)).unwrap();
        let unread = b"\0\x02\0\x04cues\x11\x0d\x03\0\0\0\0\x01";
        server.input(&message(message_type::DATA_AMF3, 1, unread)).unwrap();
        server.outputs
    });
    assert!(matches!(&outputs[0], Output::Publish(request) if request.key.to_string() == "live/x"), "{outputs:?}");
    let width = b"\x02\0\x0aonMetaData\x08\0\0\0\x01\0\x05width\0\x40\x74\0\0\0\0\0\0\0\0\x09";
    let data = |payload: &[u8]| Output::Media { kind: RecordKind::Data, timestamp_ms: 0, payload: payload.to_vec() };
    assert_eq!(outputs[1..], [data(width), data(b"\x02\0\x04cues\x11\x0d\x03\0\0\0\0\x01")]);
}

#[test]
fn publishers_call_in_any_order_and_on_any_message_stream() {
    let opening = |name: &str| vec![Value::Null, name.into(), "live".into()];
    let on = |message_stream: u32, name: &str, values: &[Value]| {
        let mut payload = Vec::new();
        amf0::encode_str(&mut payload, name);
        [&5.0.into()].into_iter().chain(values).for_each(|value| amf0::encode(&mut payload, value));
        message(message_type::COMMAND_AMF0, message_stream, &payload)
    };
    let orders: [Vec<Vec<u8>>; 5] = [
        // No createStream, on the connection's own stream, and on one that nobody made.
        vec![on(0, "publish", &opening("x"))],
        vec![on(7, "publish", &opening("x"))],
        // What belongs before it comes after createStream, or twice, or with other arguments.
        vec![
            on(0, "createStream", &[Value::Null]),
            on(0, "FCPublish", &opening("x")),
            on(1, "releaseStream", &opening("x")),
            on(1, "publish", &opening("x")),
        ],
        vec![
            on(0, "FCPublish", &[]),
            on(0, "FCPublish", &[Value::Null]),
            on(0, "createStream", &[]),
            on(0, "createStream", &[]),
            on(1, "publish", &opening("x")),
        ],
        vec![
            on(0, "FCUnpublish", &opening("x")),
            on(0, "deleteStream", &[Value::Null, 1.0.into()]),
            on(1, "publish", &[Value::Null, "x".into()]),
        ],
    ];
    for calls in orders {
        let outputs = undisturbed_and_disturbed(|disturb| {
            let mut server = connected(Settings::default(), disturb);
            calls.iter().for_each(|call| server.input(call).unwrap());
            server.decide(|session, now_ms| session.accept_publish(now_ms));
            let count = |server: &Server| {
                answers(&server.sent).iter().filter(|answer| answer.ends_with("onStatus 0 NetStream.Publish.Start")).count()
            };
            assert_eq!(count(&server), 1, "{:?}", answers(&server.sent));
            // Media on any message stream, a tag without bytes, a window of 0, and no acknowledgement ever.
            for message_stream in [0, 1, 7] {
                server.input(&message(message_type::VIDEO, message_stream, &[0x17, 1])).unwrap();
            }
            server.input(&message(message_type::VIDEO, 1, &[])).unwrap();
            server.input(&message(message_type::WINDOW_ACKNOWLEDGEMENT_SIZE, 0, &[0; 4])).unwrap();
            server.input(&message(message_type::AUDIO, 1, &[0xaf, 1])).unwrap();
            server.outputs
        });
        assert_eq!(outputs.len(), 5, "{outputs:?}");
    }
}

#[test]
fn an_aggregate_message_is_split_and_rebased() {
    let mut tags = Vec::new();
    braidcast_media::flv::write_record(&mut tags, RecordKind::Video, 0x0100_0000, &[0x27; 300]);
    braidcast_media::flv::write_record(&mut tags, RecordKind::Audio, 0x0100_0017, &[0xaf; 2]);
    let mut aggregate = Vec::new();
    let frame = Frame { chunk_stream: 7, message_type: message_type::AGGREGATE, timestamp_ms: 1000, message_stream: 1 };
    frame.write(&mut aggregate, 128, &tags);
    let outputs = undisturbed_and_disturbed(|disturb| {
        let mut server = publishing(Settings::default(), disturb);
        server.input(&aggregate).unwrap();
        server.outputs
    });
    let times: Vec<_> = outputs[1..]
        .iter()
        .map(|output| match output {
            Output::Media { kind, timestamp_ms, payload } => (*kind, *timestamp_ms, payload.len()),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(times, [(RecordKind::Video, 1000, 300), (RecordKind::Audio, 1023, 2)]);
    let mut server = publishing(Settings::default(), Disturb::Not);
    let cut = message(message_type::AGGREGATE, 1, &tags[..tags.len() - 10]);
    assert_eq!(server.input(&cut).unwrap_err().limit, Limit::Protocol);
}

#[test]
fn a_player_may_pause_stop_and_play_another() {
    let outputs = undisturbed_and_disturbed(|disturb| {
        let mut server = connected(Settings::default(), disturb);
        server.input(&call("play", 4.0, &[Value::Null, "x".into()])).unwrap();
        server.decide(|session, now_ms| session.accept_play(now_ms));
        server.input(&call("pause", 0.0, &[Value::Null, Value::Boolean(true), 0.0.into()])).unwrap();
        server.input(&call("pause", 0.0, &[Value::Null, Value::Boolean(false), 0.0.into()])).unwrap();
        for (kind, wanted) in [("Audio", false), ("Audio", false), ("Video", false), ("Audio", true), ("Video", true)] {
            server.input(&call(&format!("receive{kind}"), 0.0, &[Value::Null, Value::Boolean(wanted)])).unwrap();
        }
        server.input(&call("play", 5.0, &[Value::Null, "y".into()])).unwrap();
        server.decide(|session, now_ms| session.refuse(status::PLAY_STREAM_NOT_FOUND, "nobody publishes it", now_ms));
        assert!(answers(&server.sent).iter().any(|answer| answer.ends_with("StreamNotFound")));
        server.outputs
    });
    let names: Vec<String> = outputs
        .iter()
        .map(|output| match output {
            Output::Play(request) => request.key.to_string(),
            other => format!("{other:?}"),
        })
        .collect();
    let tracks = ["Tracks(Video)", "Tracks(Neither)", "Tracks(Audio)", "Tracks(First)"];
    assert_eq!(names, [&["live/x", "Paused(true)", "Paused(false)"][..], &tracks, &["PlayEnded", "live/y"]].concat());
}

#[test]
fn acknowledgements_come_as_often_as_the_peer_asks() {
    let sent = undisturbed_and_disturbed(|disturb| {
        let mut server = publishing(Settings::default(), disturb);
        server.input(&message(message_type::WINDOW_ACKNOWLEDGEMENT_SIZE, 0, &20_000u32.to_be_bytes())).unwrap();
        for _ in 0..50 {
            server.input(&message(message_type::VIDEO, 1, &[0x27; 1000])).unwrap();
        }
        server.sent
    });
    let acknowledged: Vec<_> = answers(&sent).into_iter().filter(|answer| answer.starts_with("type 3 ")).collect();
    assert_eq!(acknowledged.len(), 5, "some 54 kB in steps of at least 10 kB: {acknowledged:?}");
}

#[test]
fn pings_are_answered_and_sent() {
    let sent = undisturbed_and_disturbed(|disturb| {
        let mut server = connected(Settings::default(), disturb);
        server.input(&call("play", 4.0, &[Value::Null, "x".into()])).unwrap();
        server.decide(|session, now_ms| session.accept_play(now_ms));
        server.input(&message(message_type::USER_CONTROL, 0, b"\0\x06\x01\x02\x03\x04")).unwrap();
        server.wait(200_000).unwrap();
        server.sent.len()
    });
    let mut server = connected(Settings::default(), Disturb::Not);
    server.input(&call("play", 4.0, &[Value::Null, "x".into()])).unwrap();
    server.decide(|session, now_ms| session.accept_play(now_ms));
    server.input(&message(message_type::USER_CONTROL, 0, b"\0\x06\x01\x02\x03\x04")).unwrap();
    server.wait(200_000).unwrap();
    let answers = answers(&server.sent);
    assert!(answers.contains(&"type 4 [0, 7, 1, 2, 3, 4]".to_owned()));
    assert_eq!(answers.iter().filter(|answer| answer.starts_with("type 4 [0, 6")).count(), 6, "each 30 s, and no player is cut off");
    assert_eq!(server.sent.len(), sent);
}

#[test]
fn each_timer_ends_what_it_watches() {
    undisturbed_and_disturbed(|disturb| {
        let mut server = Server::new(Settings::default(), disturb);
        server.input(&plain_opening()[..2000]).unwrap();
        server.wait(9_999).unwrap();
        assert_eq!(server.wait(1).unwrap_err().limit, Limit::HandshakeTimeout);

        let mut server = connected(Settings::default(), disturb);
        server.wait(19_999).unwrap();
        server.input(&call("releaseStream", 2.0, &[Value::Null])).unwrap();
        assert_eq!(server.wait(1).unwrap_err().limit, Limit::FirstPacketTimeout, "other commands do not count");

        let mut server = connected(Settings::default(), disturb);
        server.input(&call("publish", 5.0, &[Value::Null, "x".into(), "live".into()])).unwrap();
        server.wait(1_000_000).unwrap();
        server.decide(|session, now_ms| session.accept_publish(now_ms));
        server.wait(19_999).unwrap();
        assert_eq!(server.wait(1).unwrap_err().limit, Limit::FirstPacketTimeout, "deciding is our own time");

        let mut server = publishing(Settings::default(), disturb);
        server.input(&message(message_type::VIDEO, 1, &[0x17])).unwrap();
        server.wait(59_999).unwrap();
        server.input(&message(message_type::VIDEO, 1, &[0x27])).unwrap();
        server.wait(59_999).unwrap();
        assert_eq!(server.wait(1).unwrap_err().limit, Limit::IdleTimeout);
    });
}

#[test]
fn names_and_values_beyond_limits_are_refused() {
    undisturbed_and_disturbed(|disturb| {
        let settings = Settings { name_bytes: 10, ..Settings::default() };
        let mut server = connected(settings, disturb);
        let error = server.input(&call("publish", 5.0, &[Value::Null, "elevenchars".into()])).unwrap_err();
        assert_eq!(error.limit, Limit::Name);
        let told = [server.sent.as_slice(), server.session.outbox()].concat();
        assert!(answers(&told).last().unwrap().ends_with("NetStream.Publish.BadName"), "the client is told before it is cut off");

        let mut server = connected(Settings::default(), disturb);
        let error = server.input(&call("publish", 5.0, &[Value::Null, "../x/..".into()])).unwrap_err();
        assert_eq!(error.limit, Limit::Name);

        let mut server = connected(Settings::default(), disturb);
        let deep = b"\x02\0\x01a\0\0\0\0\0\0\0\0\0".iter().copied().chain(b"\x03\0\x01a".repeat(1_000)).collect::<Vec<u8>>();
        assert_eq!(server.input(&message(message_type::COMMAND_AMF0, 0, &deep)).unwrap_err().limit, Limit::AmfDepth);
    });
    let mut server = connected(Settings::default(), Disturb::Not);
    let long = message(message_type::COMMAND_AMF0, 0, &vec![5; MAX_COMMAND_BYTES + 1]);
    assert_eq!(server.input(&long).unwrap_err().limit, Limit::MessageBytes);
    let mut server = Server::new(Settings::default(), Disturb::Not);
    server.input(&plain_opening()).unwrap();
    assert_eq!(server.input(&connect(&"a".repeat(MAX_URL_BYTES + 1))).unwrap_err().limit, Limit::Name);
    let told = [server.sent.as_slice(), server.session.outbox()].concat();
    assert_eq!(answers(&told).last().unwrap(), &format!("_error 1 {}", status::CONNECT_REJECTED));
}

#[test]
fn a_peer_that_reads_no_answers_is_cut_off() {
    let mut server = connected(Settings::default(), Disturb::Not);
    let flood = message(message_type::USER_CONTROL, 0, b"\0\x06\x01\x02\x03\x04").repeat(100_000);
    let error = server.input(&flood).unwrap_err();
    assert_eq!(error.limit, Limit::Protocol);
    assert!(server.session.outbox().len() <= MAX_OUTBOX_BYTES + 64);
}

#[test]
fn errors_say_where() {
    undisturbed_and_disturbed(|disturb| {
        let mut server = connected(Settings::default(), disturb);
        let before = server.session.position();
        let error = server.input(&[message(message_type::VIDEO, 1, &[0; 5]), vec![0xc9]].concat()).unwrap_err();
        assert_eq!((error.limit, error.position, error.chunk_stream), (Limit::Protocol, before + 12 + 5 + 1, Some(9)));
        error.to_string()
    });
}

#[test]
fn a_playing_session_is_small() {
    let mut pair = Pair::new(ClientRole::Play, Disturb::Not);
    pair.run();
    pair.server.decide(|session, now_ms| session.accept_play(now_ms));
    pair.run();
    let core = &pair.server.session.core;
    assert_eq!((core.outputs.capacity(), core.link.outbox.bytes().len()), (0, 0));
    let heap = core.link.reader.heap_bytes()
        + core.phase.wanted().map_or(0, |(connection, wanted)| {
            size_of_val(connection)
                + connection.tc_url.len()
                + connection.app.len()
                + connection.flash_version.len()
                + wanted.resolved.params.capacity()
                + 40
        });
    assert!(heap < 1024, "{heap} bytes on the heap");
    assert!(size_of::<ServerSession>() < 600, "{} bytes", size_of::<ServerSession>());
    assert!(pair.server.session.save(0).len() < 400);
}

#[test]
fn damaged_and_foreign_saves_are_refused() {
    let server = publishing(Settings::default(), Disturb::Not);
    let saved = server.session.save(0);
    assert_eq!(ServerSession::restore(&[], 0).unwrap_err(), RestoreError::Damaged);
    assert_eq!(ServerSession::restore(&[9, 9], 0).unwrap_err(), RestoreError::Version(9));
    for cut in 1..saved.len() {
        assert!(ServerSession::restore(&saved[..cut], 0).is_err(), "cut at {cut}");
    }
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..4000), opened: bool) {
        let mut server = if opened { connected(Settings::default(), Disturb::Not) } else { Server::new(Settings::default(), Disturb::Not) };
        let _ = server.input(&bytes);
    }

    #[test]
    fn random_commands_never_panic(
        name in "(publish|play|pause|FCUnpublish|deleteStream|connect|FCPublish|[a-z]{0,9})",
        values in prop::collection::vec(any::<u8>(), 0..60),
    ) {
        let mut payload = Vec::new();
        amf0::encode_str(&mut payload, &name);
        amf0::encode(&mut payload, &2.0.into());
        payload.extend(values);
        let mut server = publishing(Settings::default(), Disturb::Not);
        let _ = server.input(&message(message_type::COMMAND_AMF0, 1, &payload));
    }

    #[test]
    fn damaged_saves_never_panic(place in any::<prop::sample::Index>(), byte: u8, more in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut server = publishing(Settings::default(), Disturb::Not);
        server.input(&message(message_type::VIDEO, 1, &[0; 500])[..200]).unwrap();
        let mut saved = server.session.save(0);
        let place = place.index(saved.len());
        saved[place] = byte;
        if let Ok(mut session) = ServerSession::restore(&saved, 0) {
            let _ = session.handle_input(&more, 1);
        }
    }
}

/// What is held for a connection before it is admitted is a few commands' worth, whatever the limits of publishers are: anybody can
/// have such a connection.
#[test]
fn a_stranger_may_not_begin_what_is_longer_than_a_command() {
    let begins = |declared: u32| {
        let [_, b0, b1, b2] = declared.to_be_bytes();
        [&[6, 0, 0, 0, b0, b1, b2, message_type::VIDEO, 1, 0, 0, 0][..], &[0; 128]].concat()
    };
    undisturbed_and_disturbed(|disturb| {
        let mut server = connected(Settings::default(), disturb);
        assert_eq!(server.input(&begins(1 << 20)).unwrap_err().limit, Limit::MessageBytes);
        let mut server = publishing(Settings::default(), disturb);
        server.input(&begins(1 << 20)).unwrap();
        // Who has unpublished may still be sending what it began.
        let mut server = publishing(Settings::default(), disturb);
        server.input(&call("FCUnpublish", 6.0, &[Value::Null, "x".into()])).unwrap();
        server.input(&begins(1 << 20)).unwrap();
    });
}
