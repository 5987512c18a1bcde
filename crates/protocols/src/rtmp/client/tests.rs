//! A client against servers that say what they should not. How it gets on with ours, under every cut and save, is tested with the server.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::rtmp::amf0;
use crate::rtmp::handshake::PACKET_BYTES;
use crate::rtmp::{Output, ServerSession, Settings};
use proptest::prelude::*;

fn client(role: ClientRole) -> ClientSession {
    let (tc_url, app, stream) = ("rtmp://h/live".into(), "live".into(), "x".into());
    ClientSession::new(ClientSettings { tc_url, app, stream, role, signed: false, chunks: ChunkLimits::default() }, 3)
}

/// The answers of a server by hand: handshake, then commands.
struct Hand(Vec<u8>);

impl Hand {
    fn new() -> Self {
        let mut bytes = vec![3];
        bytes.extend(vec![0; 2 * PACKET_BYTES]);
        Self(bytes)
    }

    fn message(mut self, message_type: u8, payload: &[u8]) -> Self {
        let chunk_bytes = 128;
        Frame { chunk_stream: 3, message_type, timestamp_ms: 0, message_stream: 0 }.write(&mut self.0, chunk_bytes, payload);
        self
    }

    fn command(self, name: &str, transaction: f64, values: &[Value]) -> Self {
        let mut payload = Vec::new();
        amf0::encode_str(&mut payload, name);
        amf0::encode(&mut payload, &transaction.into());
        values.iter().for_each(|value| amf0::encode(&mut payload, value));
        self.message(message_type::COMMAND_AMF0, &payload)
    }

    fn connected(self) -> Self {
        self.command("_result", 1.0, &[Value::Null, Value::Null])
    }

    fn status(self, level: &str, code: &str, text: &str) -> Self {
        let information = super::super::command::information(level, code, text);
        self.command("onStatus", 0.0, &[Value::Null, information])
    }
}

fn run(client: &mut ClientSession, bytes: &[u8]) -> Result<Vec<ClientOutput>, RtmpError> {
    client.handle_input(bytes)?;
    Ok(std::iter::from_fn(|| client.poll_output()).collect())
}

#[test]
fn media_goes_to_the_message_stream_that_the_server_names() {
    let mut publisher = client(ClientRole::Publish);
    let answers =
        Hand::new().connected().command("_result", 4.0, &[Value::Null, 7.0.into()]).status("status", "NetStream.Publish.Start", "");
    assert_eq!(run(&mut publisher, &answers.0).unwrap(), [ClientOutput::Started]);
    assert_eq!((publisher.message_stream(), publisher.is_started()), (7, true));
    publisher.take_outbox();
    publisher.push_media(RecordKind::Audio, 1, &[0xaf, 1]);
    assert_eq!(publisher.take_outbox(), b"\x04\0\0\x01\0\0\x02\x08\x07\0\0\0\xaf\x01");
}

#[test]
fn a_refusal_says_at_which_step_and_in_which_words() {
    let mut publisher = client(ClientRole::Publish);
    assert_eq!(publisher.waits_for(), "the handshake");
    run(&mut publisher, &Hand::new().0).unwrap();
    assert_eq!(publisher.waits_for(), "the answer to connect");
    let words = "no, ".repeat(1_000);
    let refused = run(
        &mut publisher,
        &Hand(Vec::new())
            .command("_error", 1.0, &[Value::Null, super::super::command::information("error", "NetConnection.Connect.Rejected", &words)])
            .0,
    )
    .unwrap();
    let [ClientOutput::Refused { code, description }] = &refused[..] else { panic!("{refused:?}") };
    assert_eq!((code.as_str(), description.chars().count()), ("NetConnection.Connect.Rejected", MAX_TEXT));
}

#[test]
fn a_server_that_makes_us_answer_without_end_is_cut_off() {
    let mut player = client(ClientRole::Play);
    run(&mut player, &Hand::new().0).unwrap();
    let mut pings = Hand(Vec::new());
    for _ in 0..20_000 {
        pings = pings.message(message_type::USER_CONTROL, &[0, 6, 1, 2, 3, 4]);
    }
    assert!(run(&mut player, &pings.0).unwrap_err().to_string().contains("answers"));
}

#[test]
fn commands_beyond_every_measure_are_errors() {
    let error = |bytes: Hand| run(&mut client(ClientRole::Play), &bytes.0).unwrap_err().limit;
    assert_eq!(error(Hand::new().message(message_type::COMMAND_AMF0, &vec![2; MAX_COMMAND_BYTES + 1])), Limit::MessageBytes);
    assert_eq!(error(Hand::new().message(message_type::COMMAND_AMF0, &[3, 0, 1, b'a'].repeat(500))), Limit::AmfDepth);
    assert_eq!(error(Hand::new().connected().command("_result", 4.0, &[Value::Null, (-1.0).into()])), Limit::Protocol);
    assert_eq!(error(Hand::new().message(message_type::AGGREGATE, &[9, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 1])), Limit::Protocol);
}

#[test]
fn aggregates_and_amf3_data_of_a_server_are_taken_apart() {
    let mut player = client(ClientRole::Play);
    let tag = b"\x09\0\0\x02\0\0\x05\0\0\0\0\x17\x01\0\0\0\x0d";
    let answers = Hand::new().connected().message(message_type::AGGREGATE, tag).message(message_type::DATA_AMF3, b"\0\x02\0\x0aonMetaData");
    let media = |kind, payload: &[u8]| ClientOutput::Media { kind, timestamp_ms: 0, payload: payload.to_vec() };
    let expected = [media(RecordKind::Video, &[0x17, 1]), media(RecordKind::Data, b"\x02\0\x0aonMetaData")];
    assert_eq!(run(&mut player, &answers.0).unwrap(), expected);
}

#[test]
fn servers_tell_each_other_whom_a_stream_has_passed() {
    for role in [ClientRole::Publish, ClientRole::Play] {
        let mut client = client(role);
        client.set_via(Via::parse("a1,b2"));
        let mut server = ServerSession::new(Settings { instance: "c3".into(), ..Settings::default() }, 1, 0);
        let mut requests = Vec::new();
        for _ in 0..20 {
            let sent = client.take_outbox();
            server.handle_input(&sent, 0).unwrap();
            while let Some(output) = server.poll_output() {
                match output {
                    Output::Publish(request) => {
                        requests.push(request.via.to_string());
                        server.accept_publish(0);
                    }
                    Output::Play(request) => {
                        requests.push(request.via.to_string());
                        server.accept_play_via(&Via::parse("z9,c3"), 0);
                    }
                    other => panic!("{other:?}"),
                }
            }
            client.handle_input(&server.take_outbox()).unwrap();
            client = ClientSession::restore(&client.save()).unwrap();
            server = ServerSession::restore(&server.save(0), 0).unwrap();
        }
        assert!(client.is_started());
        assert_eq!(requests, ["a1,b2"]);
        assert_eq!(client.server_via().to_string(), if role == ClientRole::Play { "z9,c3" } else { "c3" });
    }
}

proptest! {
    /// Bytes of any kind behind any part of a proper conversation: an error or not, but no panic, and nothing held that did not come.
    #[test]
    fn whatever_a_server_says_is_survived(steps in 0usize..6, noise in proptest::collection::vec(any::<u8>(), 0..4_000), flips in proptest::collection::vec(any::<(u16, u8)>(), 0..6), cut in 1usize..600, publishes: bool) {
        let role = if publishes { ClientRole::Publish } else { ClientRole::Play };
        let mut hand = Hand(Vec::new());
        if steps > 0 { hand = Hand::new(); }
        if steps > 1 { hand = hand.connected(); }
        if steps > 2 { hand = hand.command("_result", 4.0, &[Value::Null, 1.0.into()]); }
        if steps > 3 { hand = hand.status("status", if publishes { "NetStream.Publish.Start" } else { "NetStream.Play.Start" }, ""); }
        if steps > 4 { hand = hand.message(message_type::VIDEO, &[0x17; 300]); }
        let mut bytes = hand.0;
        for (at, value) in flips {
            if let Some(byte) = bytes.get_mut(usize::from(at)) { *byte = value; }
        }
        bytes.extend_from_slice(&noise);
        let mut client = client(role);
        for piece in bytes.chunks(cut) {
            if client.handle_input(piece).is_err() {
                break;
            }
            let outputs: usize = std::iter::from_fn(|| client.poll_output()).map(|output| if let ClientOutput::Media { payload, .. } = output { payload.len() } else { 1 }).sum();
            prop_assert!(outputs <= bytes.len() && client.outbox().len() <= 2 * MAX_ANSWER_BYTES);
            prop_assert!(client.link.reader.heap_bytes() <= 64 * 200 + 4 * bytes.len() + 8_192);
            client.save_and_restore();
        }
    }
}

impl ClientSession {
    /// Saving and restoring in whatever state noise has brought it to.
    fn save_and_restore(&mut self) {
        *self = Self::restore(&self.save()).unwrap();
    }
}
