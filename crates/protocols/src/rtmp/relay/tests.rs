//! Our client and our server with a relay between, and a relay against servers written by hand. Nothing that comes out may depend on
//! how bytes were cut on their ways.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::rtmp::amf0::{self, Value};
use crate::rtmp::chunk::{ChunkLimits, ChunkReader, Message};
use crate::rtmp::command::{Command, information};
use crate::rtmp::egress::{self, Frame};
use crate::rtmp::{ClientOutput, ClientRole, ClientSession, ClientSettings, message_type};
use braidcast_media::RecordKind;
use proptest::prelude::*;

const PREFIX: &[u8] = b"\xf3\0\x04\xc0\0\x02\x01";

/// Pieces of at most so many bytes; 0: no cuts.
#[derive(Clone, Copy)]
struct Cut(usize);

impl Cut {
    fn pieces(self, bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
        bytes.chunks(if self.0 == 0 { bytes.len().max(1) } else { self.0 })
    }
}

const CUTS: [Cut; 7] = [Cut(0), Cut(1), Cut(3), Cut(40), Cut(127), Cut(700), Cut(5000)];

fn client(role: ClientRole, signed: bool) -> ClientSession {
    let (tc_url, app, stream) = ("rtmp://media.example.com:1935/live".into(), "live".into(), "cam?token=abc".into());
    ClientSession::new(ClientSettings { tc_url, app, stream, role, signed, chunks: ChunkLimits::default() }, 7)
}

/// A client, a relay, and a server that is our own.
struct Three {
    cut: Cut,
    client: ClientSession,
    relay: RelaySession,
    server: ServerSession,
    /// What the client and the relay ever sent, and what the client and the server ever were sent.
    from_client: Vec<u8>,
    to_server: Vec<u8>,
    to_client: Vec<u8>,
    from_server: Vec<u8>,
    asked: Vec<RelayOutput>,
    client_outputs: Vec<ClientOutput>,
    server_outputs: Vec<Output>,
}

impl Three {
    fn new(role: ClientRole, signed: bool, cut: Cut) -> Self {
        Self {
            cut,
            client: client(role, signed),
            relay: RelaySession::new(RelaySettings::default(), 5, 0),
            server: ServerSession::new(Settings::default(), 9, 0),
            from_client: Vec::new(),
            to_server: Vec::new(),
            to_client: Vec::new(),
            from_server: Vec::new(),
            asked: Vec::new(),
            client_outputs: Vec::new(),
            server_outputs: Vec::new(),
        }
    }

    /// Carries bytes until all are quiet. Both wishes are granted.
    fn run(&mut self) {
        loop {
            let from_client = self.client.take_outbox();
            self.from_client.extend_from_slice(&from_client);
            for mut piece in self.cut.pieces(&from_client) {
                while !piece.is_empty() {
                    let used = self.relay.handle_client(piece, 0).unwrap();
                    piece = &piece[used..];
                    while let Some(output) = self.relay.poll_output() {
                        self.asked.push(output);
                        self.relay.begin(PREFIX, 0);
                    }
                }
            }
            let to_server = self.relay.take_server_outbox();
            let plain = &to_server[if self.to_server.is_empty() { PREFIX.len().min(to_server.len()) } else { 0 }..];
            for mut piece in self.cut.pieces(plain) {
                while !piece.is_empty() {
                    let used = self.server.handle_input(piece, 0).unwrap();
                    piece = &piece[used..];
                    self.server_outputs.extend(std::iter::from_fn(|| self.server.poll_output()));
                    self.server.accept_publish(0);
                    self.server.accept_play(0);
                }
            }
            self.to_server.extend_from_slice(&to_server);
            let from_server = self.server.take_outbox();
            self.give_relay(&from_server);
            let to_client = self.relay.take_client_outbox();
            self.to_client.extend_from_slice(&to_client);
            for piece in self.cut.pieces(&to_client) {
                self.client.handle_input(piece).unwrap();
            }
            self.client_outputs.extend(std::iter::from_fn(|| self.client.poll_output()));
            if [from_client, to_server, from_server, to_client].iter().all(Vec::is_empty) {
                return;
            }
        }
    }

    fn give_relay(&mut self, bytes: &[u8]) {
        self.from_server.extend_from_slice(bytes);
        for piece in self.cut.pieces(bytes) {
            self.relay.handle_server(piece).unwrap();
        }
    }
}

#[test]
fn a_server_is_sent_what_a_publisher_sent_byte_for_byte() {
    for signed in [false, true] {
        let mut all = Vec::new();
        for cut in CUTS {
            let mut three = Three::new(ClientRole::Publish, signed, cut);
            three.run();
            assert!(three.relay.is_through() && three.client.is_started());
            assert_eq!(three.relay.poll_timeout(), None);
            three.client.push_media(RecordKind::Video, 0x0100_0000, &vec![0x17; 90_000]);
            three.client.push_media(RecordKind::Audio, 40, &[0xaf; 300]);
            three.run();
            three.client.end();
            three.run();
            let [RelayOutput::Publish(request)] = three.asked.as_slice() else { panic!("{:?}", three.asked) };
            assert_eq!((request.key.vhost(), request.key.app(), request.key.stream()), ("media.example.com", "live", "cam"));
            assert_eq!(request.params, "token=abc");
            let sent = three.to_server.strip_prefix(PREFIX).unwrap();
            assert_eq!(sent[..OPENING_BYTES], three.from_client[..OPENING_BYTES]);
            assert!(sent[HANDSHAKE_BYTES..] == three.from_client[HANDSHAKE_BYTES..], "the client's words differ");
            let echoes = sent[OPENING_BYTES..HANDSHAKE_BYTES] == three.from_server[1..OPENING_BYTES];
            assert_eq!(echoes, !signed, "C2 answers the server's S1 as C1 asked");
            let codes: Vec<_> = three.client_outputs.iter().filter(|output| !matches!(output, ClientOutput::Media { .. })).collect();
            assert!(matches!(codes.as_slice(), [ClientOutput::Started, ClientOutput::Status { .. }]), "{codes:?}");
            let media: Vec<usize> = three
                .server_outputs
                .iter()
                .filter_map(|o| if let Output::Media { payload, .. } = o { Some(payload.len()) } else { None })
                .collect();
            assert_eq!(media, [90_000, 300]);
            all.push((three.to_server, three.to_client, three.client_outputs));
        }
        assert!(all.windows(2).all(|two| two[0] == two[1]), "the cuts made a difference");
    }
}

#[test]
fn a_player_hears_the_server_once_and_then_its_bytes() {
    let mut all = Vec::new();
    for cut in CUTS {
        let mut three = Three::new(ClientRole::Play, true, cut);
        three.run();
        assert!(three.relay.is_through() && three.client.is_started());
        let before = three.to_client.len();
        let mut media = Vec::new();
        egress::write_message(&mut media, RecordKind::Video, 0x0100_0000, &[0x17; 70_000]);
        egress::write_message(&mut media, RecordKind::Audio, 5, &[0xaf; 10]);
        three.give_relay(&media);
        three.run();
        three.server.end_play(0);
        three.run();
        assert!(three.to_client[before..].starts_with(&media));
        let codes: Vec<_> = three
            .client_outputs
            .iter()
            .filter_map(|output| match output {
                ClientOutput::Status { code } => Some(code.as_str()),
                ClientOutput::Started => Some("started"),
                _ => None,
            })
            .collect();
        assert_eq!(codes, ["NetStream.Play.Reset", "started", "NetStream.Play.UnpublishNotify", "NetStream.Play.Stop"]);
        let results = commands(&three.to_client).iter().filter(|command| command.name == "_result").count();
        assert_eq!(results, 2, "connect and createStream are answered once each");
        all.push((three.to_server, three.to_client, three.client_outputs));
    }
    assert!(all.windows(2).all(|two| two[0] == two[1]), "the cuts made a difference");
}

fn messages(sent: &[u8]) -> Vec<Message> {
    let mut reader = ChunkReader::new(ChunkLimits::default(), 0);
    let mut rest = &sent[HANDSHAKE_BYTES..];
    let mut messages = Vec::new();
    loop {
        let (used, message) = reader.read_any(rest).unwrap();
        rest = &rest[used..];
        match message {
            Some(message) => messages.push(message),
            None => return messages,
        }
    }
}

fn commands(sent: &[u8]) -> Vec<Command> {
    let commands = messages(sent).into_iter().filter(|message| message.message_type == message_type::COMMAND_AMF0);
    commands.map(|message| Command::decode(&message.payload, 32).unwrap()).collect()
}

/// A relay whose client waits for the server, and what that client was sent.
fn begun(role: ClientRole) -> (RelaySession, Vec<u8>) {
    let (mut client, mut relay) = (client(role, false), RelaySession::new(RelaySettings::default(), 5, 0));
    let (mut heard, mut rest) = (Vec::new(), Vec::new());
    while relay.poll_output().is_none() {
        let asked = client.take_outbox();
        let used = relay.handle_client(&asked, 0).unwrap();
        rest = asked[used..].to_vec();
        let answers = relay.take_client_outbox();
        client.handle_input(&answers).unwrap();
        heard.extend(answers);
    }
    relay.begin(&[], 1000);
    assert_eq!(relay.handle_client(&rest, 1000), Ok(rest.len()));
    (relay, heard)
}

/// A server by hand, whose chunk size is what it said last.
struct Hand {
    bytes: Vec<u8>,
    chunk_bytes: usize,
}

impl Hand {
    fn new() -> Self {
        Self { bytes: [vec![3], vec![0; 2 * PACKET_BYTES]].concat(), chunk_bytes: 128 }
    }

    fn message(mut self, chunk_stream: u8, message_type: u8, message_stream: u32, payload: &[u8]) -> Self {
        Frame { chunk_stream, message_type, timestamp_ms: 0, message_stream }.write(&mut self.bytes, self.chunk_bytes, payload);
        self
    }

    fn chunk_size(self, bytes: u32) -> Self {
        let mut hand = self.message(2, message_type::SET_CHUNK_SIZE, 0, &bytes.to_be_bytes());
        hand.chunk_bytes = bytes as usize;
        hand
    }

    fn command(self, message_stream: u32, name: &str, transaction: f64, values: &[Value]) -> Self {
        self.message(3, message_type::COMMAND_AMF0, message_stream, &call(name, transaction, values))
    }

    fn connected(self) -> Self {
        self.command(0, "_result", 1.0, &[Value::Null, information("status", "NetConnection.Connect.Success", &"x".repeat(300))])
    }

    fn created(self, id: f64) -> Self {
        self.command(0, "_result", 4.0, &[Value::Null, id.into()])
    }

    fn status(self, level: &str, code: &str) -> Self {
        self.command(1, "onStatus", 0.0, &[Value::Null, information(level, code, "words")])
    }
}

fn call(name: &str, transaction: f64, values: &[Value]) -> Vec<u8> {
    let mut payload = Vec::new();
    amf0::encode_str(&mut payload, name);
    amf0::encode(&mut payload, &transaction.into());
    values.iter().for_each(|value| amf0::encode(&mut payload, value));
    payload
}

const PUBLISHES: &str = "NetStream.Publish.Start";
const PLAYS: &str = "NetStream.Play.Start";

/// What a client is sent after the decision, however the server's bytes are cut; and how the relay stands then.
fn answer(role: ClientRole, bytes: &[u8]) -> (Vec<u8>, RelaySession, Result<(), RtmpError>) {
    let all = CUTS.map(|cut| {
        let (mut relay, heard) = begun(role);
        let result = cut.pieces(bytes).try_for_each(|piece| relay.handle_server(piece));
        ([heard, relay.take_client_outbox()].concat(), relay, result)
    });
    assert!(all.windows(2).all(|two| two[0].0 == two[1].0), "the cuts made a difference");
    let [first, ..] = all;
    first
}

/// Types, streams and times of what came after our own answers.
fn after_ours(role: ClientRole, sent: &[u8]) -> Vec<Message> {
    let ours = messages(&begun(role).1).len();
    messages(sent).split_off(ours)
}

#[test]
fn the_client_hears_of_the_servers_chunk_sizes_and_no_other() {
    for (first, second, third) in
        [(None, None, None), (Some(4096), None, None), (Some(60_000), Some(200), None), (Some(65_536), None, Some(1000))]
    {
        let sized = |hand: Hand, size: Option<u32>| if let Some(size) = size { hand.chunk_size(size) } else { hand };
        let hand = sized(Hand::new(), first).connected();
        let hand = sized(hand, second).message(2, message_type::WINDOW_ACKNOWLEDGEMENT_SIZE, 0, &[0, 38, 37, 160]).created(1.0);
        let hand = hand.status("status", PUBLISHES);
        let hand = sized(hand, third).message(6, message_type::DATA_AMF0, 1, &[5; 70_000]);
        let (sent, relay, result) = answer(ClientRole::Publish, &hand.bytes);
        result.unwrap();
        assert!(relay.is_through());
        let sizes = [first, second, third];
        let got = after_ours(ClientRole::Publish, &sent);
        let got_sizes: Vec<_> = got
            .iter()
            .filter(|message| message.message_type == message_type::SET_CHUNK_SIZE)
            .map(|message| message.payload.clone())
            .collect();
        assert_eq!(got_sizes, sizes.into_iter().flatten().map(|size| size.to_be_bytes().to_vec()).collect::<Vec<_>>());
        assert_eq!(got.last().unwrap().payload, [5; 70_000]);
        let names: Vec<_> = commands(&sent).into_iter().map(|command| command.name).collect();
        assert_eq!(names.iter().filter(|name| *name == "onStatus").count(), 1);
    }
}

#[test]
fn answers_that_the_client_has_are_dropped_and_all_else_is_handed_on() {
    let hand = Hand::new()
        .message(2, message_type::SET_PEER_BANDWIDTH, 0, &[0, 38, 37, 160, 2])
        .connected()
        .command(0, "onBWDone", 0.0, &[Value::Null])
        .command(0, "_error", 2.0, &[Value::Null])
        .command(0, "_result", 3.0, &[Value::Null, Value::Undefined])
        .message(2, message_type::USER_CONTROL, 0, &[0, 6, 1, 2, 3, 4])
        .created(1.0)
        .command(0, "_result", 9.0, &[Value::Null, "of no call of ours".into()])
        .message(6, message_type::VIDEO, 1, &[9; 300])
        .command(1, "onFCPublish", 0.0, &[Value::Null])
        .status("status", PUBLISHES)
        .command(0, "_result", 3.0, &[Value::Null, "raw".into()]);
    let (sent, relay, result) = answer(ClientRole::Publish, &hand.bytes);
    result.unwrap();
    assert!(relay.is_through());
    let got: Vec<_> = after_ours(ClientRole::Publish, &sent)
        .into_iter()
        .map(|message| match Command::decode(&message.payload, 8) {
            Ok(command) if message.message_type == message_type::COMMAND_AMF0 => format!("{} {}", command.name, command.transaction),
            _ => message.message_type.to_string(),
        })
        .collect();
    assert_eq!(got, ["6", "4", "_result 9", "9", "onFCPublish 0", "onStatus 0", "_result 3"]);
}

/// Raw bytes begin where nothing is under way, and short headers that refer to what was dropped are written in full.
#[test]
fn what_the_server_calls_the_client_is_known_if_it_is_a_short_word() {
    let said = |data: Option<(&str, Value)>| {
        let mut information = information("status", "NetConnection.Connect.Success", "words");
        if let (Value::Object(members), Some((key, value))) = (&mut information, data) {
            let members_of_data = vec![("srs_pid".to_owned(), 7.0.into()), (key.to_owned(), value)];
            members.push(("data".to_owned(), Value::EcmaArray(members_of_data)));
        }
        let hand = Hand::new().command(0, "_result", 1.0, &[Value::Null, information]).created(1.0).status("status", PLAYS);
        let (_, relay, result) = answer(ClientRole::Play, &hand.bytes);
        result.unwrap();
        assert!(relay.is_through());
        relay.server_client_id().map(str::to_owned)
    };
    assert_eq!(said(Some(("srs_id", "y7b7r3z9".into()))).as_deref(), Some("y7b7r3z9"));
    assert_eq!(said(Some(("srs_id", "a".repeat(64).as_str().into()))).as_deref(), Some("a".repeat(64).as_str()));
    for data in [
        None,
        Some(("srs_id", "".into())),
        Some(("srs_id", "a".repeat(65).as_str().into())),
        Some(("srs_id", 17.0.into())),
        Some(("srs_version", "7.0.0".into())),
    ] {
        assert_eq!(said(data.clone()), None, "{data:?}");
    }
    // Of its answer to `connect` alone.
    let (mut relay, _) = begun(ClientRole::Play);
    assert_eq!(relay.server_client_id(), None);
    let data = Value::Object(vec![("data".into(), Value::Object(vec![("srs_id".into(), "other".into())]))]);
    relay.handle_server(&Hand::new().connected().command(0, "_result", 3.0, &[Value::Null, data]).bytes).unwrap();
    assert_eq!(relay.server_client_id(), None);
}

#[test]
fn short_headers_and_interleaved_messages_are_made_whole() {
    let mut hand = Hand::new().connected();
    // Format 1 on the chunk stream whose last message is dropped: it says no message stream (RTMP §5.3.1.2.2).
    let started = call("onBWDoneToo", 0.0, &[]);
    hand.bytes.extend_from_slice(&[0x43, 0, 0, 7, 0, 0, started.len() as u8, message_type::COMMAND_AMF0]);
    hand.bytes.extend_from_slice(&started);
    // The first chunk of a message, a status in between, the rest of the message (RTMP §5.3.2).
    let mut long = Vec::new();
    Frame { chunk_stream: 6, message_type: message_type::VIDEO, timestamp_ms: 5, message_stream: 1 }.write(&mut long, 128, &[8; 200]);
    let (begin, end) = long.split_at(12 + 128);
    hand.bytes.extend_from_slice(begin);
    let mut hand = hand.created(1.0).status("status", PLAYS);
    hand.bytes.extend_from_slice(end);
    // Format 2 and 3 after it.
    hand.bytes.extend_from_slice(&[0x86, 0, 0, 40]);
    hand.bytes.extend_from_slice(&[7; 128]);
    hand.bytes.push(0xc6);
    hand.bytes.extend_from_slice(&[7; 72]);
    let (sent, relay, result) = answer(ClientRole::Play, &hand.bytes);
    result.unwrap();
    assert!(relay.is_through());
    let got = after_ours(ClientRole::Play, &sent);
    let got: Vec<_> =
        got.iter().map(|message| (message.chunk_stream, message.message_stream, message.timestamp_ms, message.payload.len())).collect();
    let status = call("onStatus", 0.0, &[Value::Null, information("status", PLAYS, "words")]).len();
    assert_eq!(got, [(3, 0, 7, started.len()), (3, 1, 0, status), (6, 1, 5, 200), (6, 1, 45, 200)]);
}

#[test]
fn a_connect_that_the_server_refuses_refuses_what_the_client_wanted() {
    let refusal = |code: &str| information("error", code, &"why ".repeat(100));
    for (role, code, expected) in [
        (ClientRole::Publish, "NetConnection.Connect.Rejected", "NetConnection.Connect.Rejected"),
        (ClientRole::Publish, "", status::PUBLISH_DENIED),
        (ClientRole::Play, "", status::PLAY_FAILED),
    ] {
        let hand = Hand::new().command(0, "_error", 1.0, &[Value::Null, refusal(code)]).connected();
        let (sent, mut relay, result) = answer(role, &hand.bytes);
        result.unwrap();
        assert!(relay.is_ended() && !relay.is_through());
        let Some(RelayOutput::Refused { code: told, description }) = relay.poll_output() else { panic!("nothing is told") };
        assert_eq!((told.as_str(), description.len()), (code, 200));
        let last = messages(&sent).pop().unwrap();
        assert_eq!(last.message_stream, 1);
        let last = commands(&sent).pop().unwrap();
        assert_eq!((last.name.as_str(), last.arguments[0].member("code").unwrap().as_str()), ("onStatus", Some(expected)));
        assert_eq!(relay.handle_client(&[1, 2, 3], 0), Ok(3), "what still comes is dropped");
        relay.handle_server(&[1, 2, 3]).unwrap();
        assert!(relay.take_server_outbox().len() > HANDSHAKE_BYTES && relay.take_client_outbox().is_empty());
    }
}

#[test]
fn a_refused_publish_or_play_is_handed_on_as_it_is() {
    for (role, code) in [(ClientRole::Publish, status::PUBLISH_BAD_NAME), (ClientRole::Play, status::PLAY_STREAM_NOT_FOUND)] {
        // As SRS redirects: before any other answer.
        for hand in [Hand::new().connected().created(1.0).status("error", code), Hand::new().status("error", code)] {
            let (sent, relay, result) = answer(role, &hand.bytes);
            result.unwrap();
            assert!(relay.is_through());
            let last = commands(&sent).pop().unwrap();
            assert_eq!(last.arguments[0].member("code").unwrap().as_str(), Some(code));
        }
    }
}

#[test]
fn a_server_that_fails_is_told_of_to_the_client() {
    let code = |sent: &[u8]| commands(sent).pop().unwrap().arguments[0].member("code").unwrap().as_str().unwrap().to_owned();
    let (sent, relay, result) = answer(ClientRole::Play, &Hand::new().connected().created(2.0).bytes);
    let error = result.unwrap_err();
    assert_eq!(error.detail, "the server names message stream 2, the client was told 1");
    assert_eq!((code(&sent).as_str(), relay.is_ended()), (status::PLAY_FAILED, true));

    let hand = Hand::new().connected();
    for happens in [0, 1, 2] {
        let (mut relay, mut sent) = begun(ClientRole::Publish);
        relay.handle_server(&hand.bytes[..[100, 2000, hand.bytes.len()][happens]]).unwrap();
        if happens == 1 {
            relay.server_closed();
        } else {
            assert_eq!(relay.poll_timeout(), Some(11_000));
            relay.handle_timeout(10_999).unwrap();
            assert!(relay.handle_timeout(11_000).unwrap_err().is_timeout());
        }
        sent.extend(relay.take_client_outbox());
        assert_eq!((code(&sent).as_str(), relay.is_ended(), relay.poll_timeout()), (status::PUBLISH_DENIED, true, None));
    }
    let (mut relay, _) = begun(ClientRole::Publish);
    assert!(relay.handle_server(b"HTTP/1.1 400 Bad Request").is_err());
    assert!(relay.is_ended() && !relay.client_outbox().is_empty());
}

#[test]
fn a_refusal_by_the_caller_reaches_no_server() {
    let mut client = client(ClientRole::Play, false);
    let mut relay = RelaySession::new(RelaySettings::default(), 5, 0);
    relay.begin(PREFIX, 0);
    relay.refuse(status::PLAY_FAILED, "no room", 0);
    assert!(relay.server_outbox().is_empty() && relay.client_outbox().is_empty() && !relay.is_ended());
    while relay.poll_output().is_none() {
        assert!(relay.handle_client(&client.take_outbox(), 0).is_ok());
        client.handle_input(&relay.take_client_outbox()).unwrap();
    }
    assert_eq!(relay.handle_client(&[0; 10], 0), Ok(0), "nothing is taken while it is decided");
    relay.refuse(status::PLAY_FAILED, "no room", 0);
    client.handle_input(&relay.take_client_outbox()).unwrap();
    let refused = ClientOutput::Refused { code: status::PLAY_FAILED.into(), description: "no room".into() };
    assert_eq!(client.poll_output(), Some(refused));
    relay.begin(PREFIX, 0);
    assert!(relay.server_outbox().is_empty() && relay.is_ended());
}

#[test]
fn what_waits_for_the_server_is_bounded() {
    let (mut relay, _) = begun(ClientRole::Publish);
    let taken: usize = (0..100).map(|_| relay.handle_client(&[7; 10_000], 0).unwrap()).sum();
    assert!(taken < MAX_BACKLOG_BYTES && relay.server_backlog() == MAX_BACKLOG_BYTES, "{taken}");
    let opening = relay.take_server_outbox();
    assert_eq!(opening.len(), OPENING_BYTES);
    relay.handle_server(&Hand::new().bytes).unwrap();
    let rest = relay.take_server_outbox();
    assert!(rest.ends_with(&[7; 10_000]) && rest.len() == PACKET_BYTES + MAX_BACKLOG_BYTES - OPENING_BYTES);
    assert_eq!((relay.server_backlog(), relay.handle_client(&[7; 10_000], 0)), (0, Ok(10_000)));
}

#[test]
fn a_client_that_never_says_what_it_wants_is_cut_off() {
    let handshake = [vec![3], vec![0; 2 * PACKET_BYTES]].concat();
    let connect = call("connect", 1.0, &[Value::Object(vec![("app".into(), "live".into())])]);
    let mut bytes = handshake;
    Frame { chunk_stream: 3, message_type: message_type::COMMAND_AMF0, timestamp_ms: 0, message_stream: 0 }
        .write(&mut bytes, 128, &connect);
    let talk = |payload: &[u8]| {
        let mut relay = RelaySession::new(RelaySettings::default(), 5, 0);
        relay.handle_client(&bytes, 0).unwrap();
        let mut more = Vec::new();
        Frame { chunk_stream: 4, message_type: message_type::COMMAND_AMF0, timestamp_ms: 0, message_stream: 0 }
            .write(&mut more, 128, payload);
        (0..40_000).find_map(|_| relay.handle_client(&more, 0).err()).unwrap().detail
    };
    assert!(talk(&call("x", 2.0, &[])).contains("more than 64 calls"));
    assert!(talk(&call("x", 0.0, &[])).contains("neither publish nor play"));
    let mut relay = RelaySession::new(RelaySettings::default(), 5, 0);
    assert_eq!(relay.poll_timeout(), Some(10_000));
    assert!(relay.handle_timeout(10_000).unwrap_err().is_timeout());
}

#[test]
fn nothing_is_promised_for_a_server() {
    for (enhanced, expected) in [(false, false), (true, true)] {
        let session = Settings { instance: "one".into(), ..Settings::default() };
        let mut relay = RelaySession::new(RelaySettings { session, enhanced, ..RelaySettings::default() }, 5, 0);
        let mut bytes = [vec![3], vec![0; 2 * PACKET_BYTES]].concat();
        let members = [("app", "live".into()), ("fourCcList", Value::StrictArray(vec!["hvc1".into()])), (crate::via::MEMBER, "two".into())];
        let object = Value::Object(members.map(|(name, value)| (name.to_owned(), value)).into());
        let frame = Frame { chunk_stream: 3, message_type: message_type::COMMAND_AMF0, timestamp_ms: 0, message_stream: 0 };
        frame.write(&mut bytes, 128, &call("connect", 1.0, &[object]));
        relay.handle_client(&bytes, 0).unwrap();
        let answer = commands(relay.client_outbox()).into_iter().find(|command| command.name == "_result").unwrap();
        assert_eq!(answer.object.member("fourCcList").is_some(), expected);
        assert!(answer.object.member(crate::via::MEMBER).is_none());
    }
}

proptest! {
    #[test]
    fn servers_that_say_anything_never_panic(role: bool, cut in 0..300_usize, bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        let role = if role { ClientRole::Play } else { ClientRole::Publish };
        let bytes = [Hand::new().connected().created(1.0).bytes, bytes].concat();
        let run = |cut: Cut| {
            let (mut relay, _) = begun(role);
            let result = cut.pieces(&bytes).try_for_each(|piece| relay.handle_server(piece));
            (relay.take_client_outbox(), result, relay.is_through())
        };
        prop_assert_eq!(run(Cut(cut)), run(Cut(0)));
    }

    #[test]
    fn what_is_written_is_read_as_it_was(
        chunk_stream in 2..=65_599_u32,
        chunk_bytes in 1..5000_usize,
        timestamp_ms: u32,
        message_stream: u32,
        payload in prop::collection::vec(any::<u8>(), 0..3000),
    ) {
        let message = Message { message_type: message_type::VIDEO, chunk_stream, message_stream, timestamp_ms, payload };
        let size = (chunk_bytes as u32).to_be_bytes().to_vec();
        let size = Message { message_type: message_type::SET_CHUNK_SIZE, chunk_stream: 2, message_stream: 0, timestamp_ms: 0, payload: size };
        let mut written = vec![0; HANDSHAKE_BYTES];
        replies::write(&mut written, 128, &size);
        replies::write(&mut written, chunk_bytes, &message);
        prop_assert_eq!(messages(&written), [size, message]);
    }
}
