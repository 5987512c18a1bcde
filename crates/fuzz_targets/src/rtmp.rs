//! RTMP: both ends' machines, the chunk reader, AMF0.

use crate::cut::Cuts;
use crate::{bounded, names};
use braidcast_media::RecordKind;
use braidcast_protocols::rtmp::amf0::{self, Value};
use braidcast_protocols::rtmp::chunk::{ChunkReader, Message};
use braidcast_protocols::rtmp::{
    ChunkLimits, ClientOutput, ClientRole, ClientSession, ClientSettings, Limit, Output, RtmpError, ServerSession, Settings, Stage,
    message_type, status,
};
use std::sync::LazyLock;

/// What a value of one byte can take: its place in a vector that doubled, and in the one it moves to.
pub(crate) const AMF_FACTOR: usize = 320;
/// Rooms of a fixed size: kept names, tables of chunk streams, first room for a payload on each.
pub(crate) const SESSION_BYTES: usize = 768 << 10;
/// What a saved session may take beyond the bytes that came and wait: names that were kept, chunk streams.
const SAVED_BYTES: usize = 64 << 10;
/// C0, C1 and C2 (RTMP §5.2).
pub(crate) const HANDSHAKE_BYTES: usize = 1 + 2 * 1536;
/// The longest URL that a session keeps.
const URL_BYTES: usize = 4096;

/// Limits that inputs of some kilobytes reach.
pub(crate) fn limits() -> ChunkLimits {
    ChunkLimits { message_bytes: 1 << 20, chunk_streams: 16, unfinished_message_bytes: 2 << 20 }
}

/// All that can be seen of a server's session.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    outputs: Vec<Output>,
    sent: Vec<u8>,
    ended: Option<(Limit, u64)>,
    consumed: usize,
    position: u64,
    stage: Option<Stage>,
}

/// The caller answers each wish: the bits of `answers` say how, one after another.
struct Server {
    session: ServerSession,
    answers: u8,
    /// Media is taken where it stands in the input.
    in_place: bool,
    seen: Seen,
}

impl Server {
    fn new(answers: u8, in_place: bool) -> Self {
        let settings = Settings { chunks: limits(), ..Settings::default() };
        Self { session: ServerSession::new(settings, 5, 0), answers, in_place, seen: Seen::default() }
    }

    /// Gives all input; ends early at an error.
    fn input(&mut self, input: &[u8], cuts: &mut Cuts) {
        let mut rest = input;
        loop {
            let piece = cuts.piece(rest.len());
            let used = match self.offer(&rest[..piece]) {
                Ok(used) => used,
                Err(error) => {
                    self.drain();
                    self.seen.ended = Some((error.limit, error.position));
                    // How much of the piece counts as taken depends on the piece.
                    self.seen.consumed = 0;
                    return;
                }
            };
            assert!(used <= piece, "more was used than there was");
            rest = &rest[used..];
            self.seen.consumed += used;
            let decided = self.drain();
            if cuts.restores() {
                self.restore();
            }
            assert!(used == piece || decided, "input is left although nothing is to be decided");
            if rest.is_empty() && !decided {
                return;
            }
        }
    }

    fn offer(&mut self, piece: &[u8]) -> Result<usize, RtmpError> {
        if !self.in_place {
            return self.session.handle_input(piece, 0);
        }
        let outputs = &mut self.seen.outputs;
        self.session.handle_media(piece, 0, &mut |kind, timestamp_ms, payload| {
            outputs.push(Output::Media { kind, timestamp_ms, payload: payload.to_vec() });
        })
    }

    /// Takes what came out, and answers a wish; true if there was one.
    fn drain(&mut self) -> bool {
        while let Some(output) = self.session.poll_output() {
            if let Output::Publish(request) | Output::Play(request) = &output {
                names::check_key(&request.key);
                let texts = [&request.tc_url, &request.page_url, &request.swf_url, &request.flash_version];
                assert!(texts.iter().all(|text| text.len() <= URL_BYTES), "a text is longer than a URL may be");
            }
            self.seen.outputs.push(output);
        }
        let decides = matches!(self.session.stage(), Stage::DecidingPublish | Stage::DecidingPlay);
        if decides {
            self.decide();
        }
        self.seen.sent.extend(self.session.take_outbox());
        decides
    }

    fn decide(&mut self) {
        let accepts = self.answers & 1 == 0;
        self.answers = self.answers.rotate_right(1);
        match (self.session.stage(), accepts) {
            (Stage::DecidingPublish, true) => self.session.accept_publish(0),
            (Stage::DecidingPlay, true) => self.session.accept_play(0),
            _ => self.session.refuse(status::PUBLISH_DENIED, "no", 0),
        }
    }

    fn restore(&mut self) {
        let saved = self.session.save(0);
        let came = self.seen.consumed;
        assert!(saved.len() <= SAVED_BYTES + 2 * came, "{} bytes are saved of {came} that came", saved.len());
        self.session = ServerSession::restore(&saved, 0).expect("what was saved can be restored");
        assert_eq!(self.session.save(0), saved, "a restored session saves the same");
    }

    fn finish(mut self) -> Seen {
        self.seen.position = self.session.position();
        self.seen.stage = Some(self.session.stage());
        if self.seen.ended.is_none() {
            // Bytes that looked like an extended timestamp may still wait inside: three at most.
            let waiting = self.seen.consumed as u64 - self.seen.position;
            assert!(waiting <= 3, "{waiting} bytes were used and are not counted");
            self.restore();
            let _ = self.session.handle_timeout(1 << 40);
        }
        self.seen
    }
}

/// Runs a server's session twice, once disturbed, and compares.
fn serve(prefix: &[u8], answers: u8, input: &[u8]) {
    let run = |cuts: &mut Cuts, in_place| {
        let mut server = Server::new(0, in_place);
        server.input(prefix, cuts);
        server.answers = answers;
        server.input(input, cuts);
        server.finish()
    };
    let whole = bounded(input, AMF_FACTOR, SESSION_BYTES, || run(&mut Cuts::none(), false));
    let media: usize = whole.outputs.iter().map(|output| if let Output::Media { payload, .. } = output { payload.len() } else { 0 }).sum();
    assert!(media <= input.len(), "more media came out than went in");
    assert_eq!(run(&mut Cuts::of(input), false), whole, "the pieces of the input, or a restored session, made a difference");
    assert_eq!(run(&mut Cuts::of(input), true), whole, "media taken in place made a difference");
}

/// A server's session from the first byte of the handshake on.
pub fn server_from_the_first_byte(input: &[u8]) {
    serve(&[], 0, input);
}

/// A server's session that has got somewhere: the first byte says where, the second how wishes are answered.
pub fn server_in_the_midst(input: &[u8]) {
    let [place, answers, input @ ..] = input else { return };
    serve(&CLIENTS[usize::from(*place) % CLIENTS.len()], *answers, input);
}

/// What clients have sent: when the handshake is done, when they are connected, when they publish, when they play.
pub(crate) static CLIENTS: LazyLock<[Vec<u8>; 4]> = LazyLock::new(|| {
    let publisher = conversation(ClientRole::Publish).0;
    let player = conversation(ClientRole::Play).0;
    let shaken = publisher[..HANDSHAKE_BYTES].to_vec();
    let connected = [&shaken[..], &CONNECT].concat();
    [shaken, connected, publisher, player]
});

/// What a server has sent to a client that publishes, and to one that plays, until it has begun.
static SERVERS: LazyLock<[Vec<u8>; 2]> = LazyLock::new(|| [conversation(ClientRole::Publish).1, conversation(ClientRole::Play).1]);

/// `connect` to the app `a`, in one chunk.
static CONNECT: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut payload = Vec::new();
    let object = Value::Object(vec![("app".to_owned(), "a".into()), ("tcUrl".to_owned(), "rtmp://h/a".into())]);
    for value in ["connect".into(), 1.0.into(), object] {
        amf0::encode(&mut payload, &value);
    }
    let mut chunk = vec![3, 0, 0, 0, 0, 0, payload.len() as u8, message_type::COMMAND_AMF0, 0, 0, 0, 0];
    chunk.extend(payload);
    chunk
});

fn settings(role: ClientRole) -> ClientSettings {
    let (tc_url, app, stream) = ("rtmp://h.example/live".to_owned(), "live".to_owned(), "x?token=1".to_owned());
    ClientSettings { tc_url, app, stream, role, signed: false, chunks: limits() }
}

/// What a client and a server say to each other until the publish or play has begun.
fn conversation(role: ClientRole) -> (Vec<u8>, Vec<u8>) {
    let mut client = ClientSession::new(settings(role), 7);
    let mut server = ServerSession::new(Settings::default(), 5, 0);
    let (mut from_client, mut from_server) = (Vec::new(), Vec::new());
    loop {
        let asked = client.take_outbox();
        from_client.extend_from_slice(&asked);
        let mut rest = asked.as_slice();
        loop {
            let used = server.handle_input(rest, 0).expect("the client speaks RTMP");
            rest = &rest[used..];
            server.accept_publish(0);
            server.accept_play(0);
            if rest.is_empty() {
                break;
            }
        }
        let answered = server.take_outbox();
        from_server.extend_from_slice(&answered);
        client.handle_input(&answered).expect("the server speaks RTMP");
        if asked.is_empty() && answered.is_empty() {
            return (from_client, from_server);
        }
    }
}

/// All that can be seen of a client's session.
#[derive(Debug, Default, PartialEq)]
struct ClientSeen {
    outputs: Vec<ClientOutput>,
    sent: Vec<u8>,
    ended: Option<(Limit, u64)>,
}

fn ask(role: ClientRole, prefix: &[u8], input: &[u8], cuts: &mut Cuts) -> ClientSeen {
    let mut client = ClientSession::new(settings(role), 7);
    let mut seen = ClientSeen::default();
    for mut rest in [prefix, input] {
        while !rest.is_empty() && seen.ended.is_none() {
            let (piece, later) = rest.split_at(cuts.piece(rest.len()));
            rest = later;
            seen.ended = client.handle_input(piece).err().map(|error| (error.limit, error.position));
            seen.outputs.extend(std::iter::from_fn(|| client.poll_output()));
            seen.sent.extend(client.take_outbox());
            if seen.ended.is_none() && cuts.restores() {
                let saved = client.save();
                assert!(saved.len() <= SAVED_BYTES + 2 * (prefix.len() + input.len()), "{} bytes are saved", saved.len());
                client = ClientSession::restore(&saved).expect("what was saved can be restored");
                assert_eq!(client.save(), saved, "a restored client saves the same");
            }
        }
    }
    client.push_media(RecordKind::Audio, 0, &[1]);
    client.end();
    seen.sent.extend(client.take_outbox());
    seen
}

/// A client's session against a server that says anything, from the first byte or after a start: the first byte says which.
pub fn client(input: &[u8]) {
    let [place, input @ ..] = input else { return };
    let role = if place & 1 == 0 { ClientRole::Publish } else { ClientRole::Play };
    let prefix: &[u8] = if place & 2 == 0 { &[] } else { &SERVERS[usize::from(place & 1)] };
    let whole = bounded(input, AMF_FACTOR, SESSION_BYTES, || ask(role, prefix, input, &mut Cuts::none()));
    assert_eq!(ask(role, prefix, input, &mut Cuts::of(input)), whole, "the pieces of the input, or a restored client, made a difference");
}

/// The chunk reader alone. The messages' own bytes bound what it holds.
pub fn chunks(input: &[u8]) {
    // Payload doubles; each chunk stream has a first room of 4 KiB at most, in which what came may lie.
    let whole = bounded(input, 8, 192 << 10, || read_chunks(input, &mut Cuts::none()));
    let payload: usize = whole.0.iter().map(|message| message.payload.len()).sum();
    assert!(payload <= input.len(), "more payload came out than went in");
    assert_eq!(read_chunks(input, &mut Cuts::of(input)), whole, "the pieces of the input made a difference");
}

fn read_chunks(input: &[u8], cuts: &mut Cuts) -> (Vec<Message>, Option<(Limit, u64)>, u64) {
    let mut reader = ChunkReader::new(limits(), 0);
    let mut messages = Vec::new();
    let mut rest = input;
    while !rest.is_empty() {
        let mut piece = &rest[..cuts.piece(rest.len())];
        rest = &rest[piece.len()..];
        loop {
            match reader.read(piece) {
                Ok((used, message)) => {
                    piece = &piece[used..];
                    let Some(message) = message else { break };
                    messages.push(message);
                }
                Err(error) => return (messages, Some((error.limit, error.position)), 0),
            }
        }
        assert!(piece.is_empty(), "a reader takes everything up to the next message");
        if cuts.restores() {
            let saved = postcard::to_stdvec(&reader).expect("a reader can be saved");
            reader = postcard::from_bytes(&saved).expect("a reader can be restored");
        }
    }
    (messages, None, reader.position())
}

/// AMF0 values: what was decoded and encoded is decoded to the same.
pub fn amf0_values(input: &[u8]) {
    let [depth, input @ ..] = input else { return };
    let decode = |bytes: &[u8]| amf0::decode(bytes, usize::from(*depth));
    let Ok(values) = bounded(input, AMF_FACTOR, 16 << 10, || decode(input)) else { return };
    let encode = |values: &[Value]| {
        let mut out = Vec::new();
        values.iter().for_each(|value| amf0::encode(&mut out, value));
        out
    };
    let encoded = encode(&values);
    // A byte that is not UTF-8 becomes a character of three.
    assert!(encoded.len() <= 4 * input.len(), "{} bytes were made of {}", encoded.len(), input.len());
    // Compared as bytes: a number that is none is not equal to itself.
    let again = decode(&encoded).expect("what was encoded can be decoded");
    assert_eq!(encode(&again), encoded);
}
