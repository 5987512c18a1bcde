//! RTMP: the machine between a client and another server.

use crate::bounded;
use crate::cut::Cuts;
use crate::rtmp::{AMF_FACTOR, CLIENTS, HANDSHAKE_BYTES, SESSION_BYTES, limits};
use braidcast_protocols::rtmp::{Limit, RelayOutput, RelaySession, RelaySettings, Settings, status};

/// C0 and C1 (RTMP §5.2).
const OPENING_BYTES: usize = 1 + 1536;

/// All that can be seen of a relay.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    outputs: Vec<RelayOutput>,
    to_client: Vec<u8>,
    to_server: Vec<u8>,
    /// Of the client's bytes.
    used: usize,
    ended: Option<(Limit, u64)>,
    through: bool,
}

struct Relay {
    session: RelaySession,
    begins: bool,
    seen: Seen,
}

impl Relay {
    fn new(begins: bool) -> Self {
        let settings = RelaySettings { session: Settings { chunks: limits(), ..Settings::default() }, ..RelaySettings::default() };
        Self { session: RelaySession::new(settings, 5, 0), begins, seen: Seen::default() }
    }

    /// Gives what a client sends; a wish is granted, or not.
    fn client(&mut self, mut rest: &[u8], cuts: &mut Cuts) {
        while !rest.is_empty() && self.seen.ended.is_none() {
            let piece = cuts.piece(rest.len());
            match self.session.handle_client(&rest[..piece], 0) {
                Ok(used) => {
                    assert!(used <= piece, "more was used than there was");
                    rest = &rest[used..];
                    self.seen.used += used;
                    assert!(self.drain() || used == piece, "input is left although nothing is to be decided");
                }
                Err(error) => {
                    self.seen.ended = Some((error.limit, error.position));
                    // How much of the piece counts as taken depends on the piece.
                    self.seen.used = 0;
                    self.drain();
                }
            }
        }
    }

    fn server(&mut self, mut rest: &[u8], cuts: &mut Cuts) {
        while !rest.is_empty() && self.seen.ended.is_none() {
            let (piece, later) = rest.split_at(cuts.piece(rest.len()));
            rest = later;
            self.seen.ended = self.session.handle_server(piece).err().map(|error| (error.limit, error.position));
            self.drain();
        }
    }

    /// Takes what came out; true if something was decided.
    fn drain(&mut self) -> bool {
        let mut decided = false;
        while let Some(output) = self.session.poll_output() {
            if let RelayOutput::Publish(_) | RelayOutput::Play(_) = &output {
                decided = true;
                if self.begins {
                    self.session.begin(&[], 0);
                } else {
                    self.session.refuse(status::PLAY_FAILED, "no", 0);
                }
            }
            self.seen.outputs.push(output);
        }
        self.seen.to_client.extend(self.session.take_client_outbox());
        self.seen.to_server.extend(self.session.take_server_outbox());
        decided
    }

    fn finish(mut self) -> Seen {
        self.seen.through = self.session.is_through();
        let _ = self.session.handle_timeout(1 << 40);
        self.session.server_closed();
        self.seen
    }
}

/// A relay whose client, or whose server, says anything: the first byte says which, for whom, and what is decided.
pub fn relay(input: &[u8]) {
    let [what, input @ ..] = input else { return };
    let client: &[u8] = if what & 1 == 0 { input } else { &CLIENTS[2 + usize::from(what >> 1 & 1)] };
    let server: &[u8] = if what & 1 == 0 { &[] } else { input };
    let run = |cuts: &mut Cuts| {
        let mut relay = Relay::new(what & 4 == 0);
        relay.client(client, cuts);
        relay.server(&[3], cuts);
        relay.server(&[0; HANDSHAKE_BYTES - 1], cuts);
        relay.server(server, cuts);
        relay.finish()
    };
    let whole = bounded(input, AMF_FACTOR, SESSION_BYTES, || run(&mut Cuts::none()));
    if !whole.to_server.is_empty() {
        assert!(whole.to_server[..OPENING_BYTES] == client[..OPENING_BYTES], "the opening is not the client's");
        let shaken = whole.to_server.get(HANDSHAKE_BYTES..).unwrap_or_default();
        assert!(client[HANDSHAKE_BYTES..].starts_with(shaken), "the words are not the client's");
    }
    assert_eq!(run(&mut Cuts::of(input)), whole, "the pieces of the input made a difference");
}
