//! The handshake (RTMP §5.2) in its plain form and in the form signed with digests that Flash introduced.
//!
//! Adobe never published the signed form; players that ask for it (Flash, librtmp with a SWF hash, ffmpeg) check the
//! answer. Offsets and keys are those every open implementation agrees on. The encrypted form (version 6, RTMPE) is
//! refused.

use super::error::{Limit, RtmpError};
use super::saved::byte_string;
use crate::random::Random;
use hmac::{Hmac, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

/// Bytes of C1, S1, C2 and S2 each (§5.2.3, §5.2.4).
pub const PACKET_BYTES: usize = 1536;
/// The only version spoken (§5.2.2).
const VERSION: u8 = 3;
const DIGEST_BYTES: usize = 32;

const PLAYER_KEY: &[u8; 30] = b"Genuine Adobe Flash Player 001";
const SERVER_KEY: &[u8; 36] = b"Genuine Adobe Flash Media Server 001";
/// Follows either key where the second packets are signed.
const KEY_TAIL: [u8; 32] = [
    0xf0, 0xee, 0xc2, 0x4a, 0x80, 0x68, 0xbe, 0xe8, 0x2e, 0x00, 0xd0, 0xd1, 0x02, 0x9e, 0x7e, 0x57, 0x6e, 0xec, 0x5d, 0x2d, 0x29, 0x80,
    0x6f, 0xab, 0x93, 0xb8, 0xe6, 0x36, 0xcf, 0xeb, 0x31, 0xae,
];
/// What our first packet says as version; any non-zero number tells that it is signed.
const SIGNED_SERVER_VERSION: [u8; 4] = [4, 5, 0, 1];
const SIGNED_CLIENT_VERSION: [u8; 4] = [9, 0, 124, 2];

/// Where the digest of a signed first packet stands: which half of it says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Schema {
    /// Key block first: the digest lies in the second half.
    Zero,
    /// Digest block first.
    One,
}

type Packet = [u8; PACKET_BYTES];

fn digest_offset(packet: &Packet, schema: Schema) -> usize {
    let block = match schema {
        Schema::Zero => 772,
        Schema::One => 8,
    };
    let sum: usize = packet[block..block + 4].iter().map(|&byte| usize::from(byte)).sum();
    block + 4 + sum % 728
}

fn sign(key: &[u8], parts: &[&[u8]]) -> [u8; DIGEST_BYTES] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

fn first_packet_digest(packet: &Packet, offset: usize, key: &[u8]) -> [u8; DIGEST_BYTES] {
    sign(key, &[&packet[..offset], &packet[offset + DIGEST_BYTES..]])
}

fn find_digest(packet: &Packet, key: &[u8]) -> Option<(Schema, [u8; DIGEST_BYTES])> {
    [Schema::Zero, Schema::One].into_iter().find_map(|schema| {
        let offset = digest_offset(packet, schema);
        let digest = first_packet_digest(packet, offset, key);
        (packet[offset..offset + DIGEST_BYTES] == digest).then_some((schema, digest))
    })
}

fn signed_first_packet(random: &mut Random, version: [u8; 4], schema: Schema, key: &[u8]) -> (Packet, [u8; DIGEST_BYTES]) {
    let mut packet = filler_packet(random);
    packet[4..8].copy_from_slice(&version);
    let offset = digest_offset(&packet, schema);
    let digest = first_packet_digest(&packet, offset, key);
    packet[offset..offset + DIGEST_BYTES].copy_from_slice(&digest);
    (packet, digest)
}

/// The answer to a signed first packet with this digest.
fn signed_second_packet(random: &mut Random, peer_digest: &[u8; DIGEST_BYTES], key: &[u8]) -> Packet {
    let mut packet = filler_packet(random);
    let (body, signature) = packet.split_at_mut(PACKET_BYTES - DIGEST_BYTES);
    let packet_key = sign(&[key, &KEY_TAIL].concat(), &[peer_digest]);
    signature.copy_from_slice(&sign(&packet_key, &[body]));
    packet
}

/// A packet of filler bytes. They follow from the caller's seed, so that a redone handshake is the same.
fn filler_packet(random: &mut Random) -> Packet {
    let mut packet = [0; PACKET_BYTES];
    for eight in packet[8..].chunks_exact_mut(8) {
        eight.copy_from_slice(&random.word().to_le_bytes());
    }
    packet
}

/// Collects the version byte and the first packet; both ends need the same of their peer.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Opening(#[serde(with = "byte_string")] Vec<u8>);

impl Opening {
    /// Takes from `input` what is missing and counts it into `used`; the packet when it is whole.
    fn take(&mut self, input: &[u8], used: &mut usize, position: u64) -> Result<Option<Packet>, RtmpError> {
        let missing = (1 + PACKET_BYTES).saturating_sub(self.0.len());
        let taken = &input[..missing.min(input.len())];
        *used += taken.len();
        self.0.extend_from_slice(taken);
        match self.0.first() {
            None | Some(&VERSION) => {}
            Some(6) => return Err(RtmpError::new(Limit::Protocol, position, "version 6 (RTMPE) is not supported")),
            Some(0xf3) => {
                return Err(RtmpError::new(
                    Limit::Protocol,
                    position,
                    "a real-IP prefix, which only trusted proxies may send (trusted_proxies)",
                ));
            }
            Some(other) => {
                return Err(RtmpError::new(Limit::Protocol, position, format!("not an RTMP handshake (first byte {other:#04x})")));
            }
        }
        if self.0.len() <= PACKET_BYTES {
            return Ok(None);
        }
        let bytes = std::mem::take(&mut self.0);
        Ok(Some(bytes[1..=PACKET_BYTES].try_into().expect("one byte and a packet were collected")))
    }
}

/// The server's side.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServerHandshake {
    seed: u64,
    state: State,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
enum State {
    Opening(Opening),
    /// Waiting for this many bytes more of the peer's second packet, whose content is not looked at.
    SecondPacket {
        missing: u16,
    },
}

impl State {
    fn skip(missing: &mut u16, input: &[u8], used: &mut usize) -> bool {
        let skipped = usize::from(*missing).min(input.len());
        *used += skipped;
        *missing -= skipped as u16;
        *missing == 0
    }
}

impl ServerHandshake {
    /// A handshake whose filler bytes follow from `seed`.
    pub fn new(seed: u64) -> Self {
        Self { seed, state: State::Opening(Opening::default()) }
    }

    /// Takes input; returns how many bytes it used and whether the handshake is done. `position` is that of `input` in the connection.
    pub fn handle_input(&mut self, input: &[u8], out: &mut Vec<u8>, position: u64) -> Result<(usize, bool), RtmpError> {
        let mut used = 0;
        if let State::Opening(opening) = &mut self.state {
            let Some(c1) = opening.take(input, &mut used, position)? else { return Ok((used, false)) };
            self.answer(&c1, out);
            self.state = State::SecondPacket { missing: PACKET_BYTES as u16 };
        }
        let State::SecondPacket { missing } = &mut self.state else { return Ok((used, false)) };
        let done = State::skip(missing, &input[used..], &mut used);
        Ok((used, done))
    }

    fn answer(&self, c1: &Packet, out: &mut Vec<u8>) {
        let mut random = Random(self.seed);
        let claims_digest = c1[4..8] != [0; 4];
        let signed = claims_digest.then(|| find_digest(c1, PLAYER_KEY)).flatten();
        out.push(VERSION);
        if let Some((schema, digest)) = signed {
            out.extend_from_slice(&signed_first_packet(&mut random, SIGNED_SERVER_VERSION, schema, SERVER_KEY).0);
            out.extend_from_slice(&signed_second_packet(&mut random, &digest, SERVER_KEY));
        } else {
            out.extend_from_slice(&filler_packet(&mut random));
            out.extend_from_slice(c1);
        }
    }
}

/// The client's side.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ClientHandshake {
    seed: u64,
    state: State,
}

impl ClientHandshake {
    /// Starts a handshake: appends C0 and C1 to `out`, signed (schema 0 if the seed is even, else 1) or plain.
    pub fn start(seed: u64, signed: bool, out: &mut Vec<u8>) -> Self {
        let mut random = Random(seed);
        out.push(VERSION);
        if signed {
            let schema = if seed.is_multiple_of(2) { Schema::Zero } else { Schema::One };
            out.extend_from_slice(&signed_first_packet(&mut random, SIGNED_CLIENT_VERSION, schema, PLAYER_KEY).0);
        } else {
            out.extend_from_slice(&filler_packet(&mut random));
        }
        Self { seed, state: State::Opening(Opening::default()) }
    }

    /// Goes on with a handshake whose C0 and C1 are another's, and were sent already.
    pub(super) fn continued(seed: u64) -> Self {
        Self { seed, state: State::Opening(Opening::default()) }
    }

    /// As [`ServerHandshake::handle_input`]. The answer is signed if the server's packet is.
    pub fn handle_input(&mut self, input: &[u8], out: &mut Vec<u8>, position: u64) -> Result<(usize, bool), RtmpError> {
        let mut used = 0;
        if let State::Opening(opening) = &mut self.state {
            let Some(s1) = opening.take(input, &mut used, position)? else { return Ok((used, false)) };
            match find_digest(&s1, SERVER_KEY) {
                Some((_, digest)) => out.extend_from_slice(&signed_second_packet(&mut Random(!self.seed), &digest, PLAYER_KEY)),
                None => out.extend_from_slice(&s1),
            }
            self.state = State::SecondPacket { missing: PACKET_BYTES as u16 };
        }
        let State::SecondPacket { missing } = &mut self.state else { return Ok((used, false)) };
        let done = State::skip(missing, &input[used..], &mut used);
        Ok((used, done))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Runs both ends; gives what the client and the server sent.
    fn run(seed: u64, signed: bool, cut: usize) -> (Vec<u8>, Vec<u8>) {
        let (mut from_client, mut from_server) = (Vec::new(), Vec::new());
        let mut client = ClientHandshake::start(seed, signed, &mut from_client);
        let mut server = ServerHandshake::new(seed ^ 77);
        let (mut client_read, mut server_read) = (0, 0);
        let (mut client_done, mut server_done) = (false, false);
        while !(client_done && server_done) {
            let end = from_client.len().min(server_read + cut);
            let (used, done) = server.handle_input(&from_client[server_read..end], &mut from_server, 0).unwrap();
            (server_read, server_done) = (server_read + used, server_done || done);
            let end = from_server.len().min(client_read + cut);
            let (used, done) = client.handle_input(&from_server[client_read..end], &mut from_client, 0).unwrap();
            (client_read, client_done) = (client_read + used, client_done || done);
        }
        assert_eq!((server_read, client_read), (from_client.len(), from_server.len()));
        (from_client, from_server)
    }

    #[test]
    fn plain_handshakes_echo_each_other() {
        for cut in [1, 7, 1536, 5000] {
            let (client, server) = run(1, false, cut);
            assert_eq!(client.len(), 1 + 2 * PACKET_BYTES);
            assert_eq!(server[1 + PACKET_BYTES..], client[1..1 + PACKET_BYTES]);
            assert_eq!(client[1 + PACKET_BYTES..], server[1..1 + PACKET_BYTES]);
        }
    }

    #[test]
    fn signed_handshakes_of_both_schemas_verify() {
        for seed in 0..40 {
            let (client, server) = run(seed, true, 5000);
            let c1: &Packet = client[1..1 + PACKET_BYTES].try_into().unwrap();
            let s1: &Packet = server[1..1 + PACKET_BYTES].try_into().unwrap();
            let (schema, c1_digest) = find_digest(c1, PLAYER_KEY).unwrap();
            assert_eq!(schema, if seed % 2 == 0 { Schema::Zero } else { Schema::One });
            let (s1_schema, s1_digest) = find_digest(s1, SERVER_KEY).unwrap();
            assert_eq!(s1_schema, schema, "the server answers in the client's schema");
            for (second, digest, key) in [(&server, c1_digest, &SERVER_KEY[..]), (&client, s1_digest, &PLAYER_KEY[..])] {
                let second = &second[1 + PACKET_BYTES..];
                let key = sign(&[key, &KEY_TAIL].concat(), &[&digest]);
                assert_eq!(second[PACKET_BYTES - 32..], sign(&key, &[&second[..PACKET_BYTES - 32]]));
            }
        }
    }

    #[test]
    fn other_versions_are_refused_by_name() {
        let refused = |first: u8| ServerHandshake::new(1).handle_input(&[first], &mut Vec::new(), 0).unwrap_err().detail;
        assert!(refused(6).contains("RTMPE"));
        assert!(refused(0xf3).contains("real-IP"));
        assert!(refused(b'G').contains("0x47"));
    }
}
