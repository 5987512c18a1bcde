//! WebSocket (RFC 6455) as far as a viewer needs it: the handshake's answer, messages to the client, and reading over what it sends.
//!
//! A viewer's messages mean nothing here and are thrown away as they come; pings are answered, a close is. No state of a client is
//! larger than a control frame (125 bytes).

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use sha1::{Digest, Sha1};

/// What a server appends to the client's key before it hashes it (section 1.3).
const KEY_SUFFIX: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Final fragment.
const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;
const OPCODE_BINARY: u8 = 2;
const OPCODE_CLOSE: u8 = 8;
const OPCODE_PING: u8 = 9;
const OPCODE_PONG: u8 = 10;
/// The longest payload of a control frame (section 5.5).
const MAX_CONTROL_BYTES: u64 = 125;
/// Status codes of a close (section 7.4.1).
const GOING_AWAY: u16 = 1001;
const PROTOCOL_ERROR: u16 = 1002;

/// `Sec-WebSocket-Accept` for a client's `Sec-WebSocket-Key`; `None` if that is no 16 bytes in base64.
pub fn accept(key: &str) -> Option<String> {
    BASE64.decode(key).ok().filter(|nonce| nonce.len() == 16)?;
    let digest = Sha1::new().chain_update(key).chain_update(KEY_SUFFIX).finalize();
    Some(BASE64.encode(digest))
}

/// Bytes of a frame with so much payload.
pub fn frame_bytes(payload: usize) -> usize {
    let length_bytes = match payload {
        0..=125 => 0,
        126..=0xffff => 2,
        _ => 8,
    };
    2 + length_bytes + payload
}

/// Appends a binary message of one frame.
pub fn write_frame(out: &mut Vec<u8>, payload: &[u8]) {
    out.reserve(frame_bytes(payload.len()));
    out.push(FIN | OPCODE_BINARY);
    match payload.len() {
        short @ 0..=125 => out.push(short as u8),
        medium @ 126..=0xffff => {
            out.push(126);
            out.extend_from_slice(&(medium as u16).to_be_bytes());
        }
        long => {
            out.push(127);
            out.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(payload);
}

/// A close frame that says that the stream is over.
pub fn goodbye() -> [u8; 4] {
    close(GOING_AWAY)
}

fn close(code: u16) -> [u8; 4] {
    let [high, low] = code.to_be_bytes();
    [FIN | OPCODE_CLOSE, 2, high, low]
}

/// What a client's bytes ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// To be sent between two messages.
    Reply(Vec<u8>),
    /// To be sent, and then the connection closed.
    Close([u8; 4]),
}

/// Reads a client's frames.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrameReader {
    /// A frame's header, or a control frame, that is not whole yet.
    gathered: Vec<u8>,
    /// Bytes of a message's frame that are still to be thrown away.
    skip: u64,
    over: bool,
}

impl FrameReader {
    /// Takes input; says how much it used and what comes of it. It stops behind the first event: call it again with the rest.
    pub fn handle_input(&mut self, input: &[u8]) -> (usize, Option<Event>) {
        let mut used = 0;
        while used < input.len() {
            if self.over {
                return (input.len(), None);
            }
            if self.skip > 0 {
                let skipped = (input.len() - used).min(usize::try_from(self.skip).unwrap_or(usize::MAX));
                self.skip -= skipped as u64;
                used += skipped;
                continue;
            }
            self.gathered.push(input[used]);
            used += 1;
            if let Some(event) = self.look() {
                return (used, Some(event));
            }
        }
        (used, None)
    }

    /// Looks at what was gathered: at most a header of 14 bytes, or a control frame of 131.
    fn look(&mut self) -> Option<Event> {
        let header = Header::read(&self.gathered)?;
        let opcode = header.first & 0x0f;
        let control = opcode & 8 != 0;
        let whole_control = header.first & FIN != 0 && header.payload <= MAX_CONTROL_BYTES;
        if !header.masked || header.first & 0x70 != 0 || (control && !whole_control) {
            return Some(self.end(PROTOCOL_ERROR));
        }
        if !control {
            self.skip = header.payload;
            self.gathered = Vec::new();
            return None;
        }
        // At most 125: it fits.
        let body = self.gathered.get(header.bytes..).filter(|body| body.len() as u64 == header.payload)?;
        let mask = &self.gathered[header.bytes - 4..header.bytes];
        let payload: Vec<u8> = body.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
        self.gathered = Vec::new();
        match opcode {
            OPCODE_CLOSE => {
                let code = payload.first_chunk::<2>().map_or(GOING_AWAY, |code| u16::from_be_bytes(*code));
                Some(self.end(code))
            }
            OPCODE_PING => {
                let mut pong = vec![FIN | OPCODE_PONG, payload.len() as u8];
                pong.extend_from_slice(&payload);
                Some(Event::Reply(pong))
            }
            _ => None,
        }
    }

    fn end(&mut self, code: u16) -> Event {
        self.over = true;
        self.gathered = Vec::new();
        Event::Close(close(code))
    }
}

/// The header of a frame (section 5.2).
struct Header {
    first: u8,
    masked: bool,
    /// Of the payload, in bytes.
    payload: u64,
    /// Of the header itself, mask included.
    bytes: usize,
}

impl Header {
    /// `None` while it is not whole.
    fn read(bytes: &[u8]) -> Option<Self> {
        let [first, second, rest @ ..] = bytes else { return None };
        let masked = second & MASKED != 0;
        let (payload, length_bytes) = match second & 0x7f {
            126 => (u64::from(u16::from_be_bytes(*rest.first_chunk()?)), 2),
            127 => (u64::from_be_bytes(*rest.first_chunk()?), 8),
            short => (u64::from(short), 0),
        };
        let whole = 2 + length_bytes + if masked { 4 } else { 0 };
        (bytes.len() >= whole).then_some(Self { first: *first, masked, payload, bytes: whole })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        write_frame(&mut plain, payload);
        let header = plain.len() - payload.len();
        let mask = [1, 2, 3, 4];
        let masked = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask);
        let mut out = vec![first, plain[1] | MASKED];
        out.extend_from_slice(&plain[2..header]);
        out.extend_from_slice(&mask);
        out.extend(masked);
        out
    }

    /// All events of an input that comes in pieces, with the reader saved and restored in between.
    fn events(input: &[u8], piece: usize) -> Vec<Event> {
        let (mut reader, mut events) = (FrameReader::default(), Vec::new());
        for mut rest in input.chunks(piece) {
            while !rest.is_empty() {
                let (used, event) = reader.handle_input(rest);
                rest = &rest[used..];
                events.extend(event);
                let saved = postcard::to_stdvec(&reader).expect("it can be saved");
                reader = postcard::from_bytes(&saved).expect("it can be restored");
            }
        }
        events
    }

    #[test]
    fn the_example_of_the_specification() {
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ==").as_deref(), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        for bad in ["", "x", "dGhlIHNhbXBsZQ==", "dGhlIHNhbXBsZSBub25jZQ"] {
            assert_eq!(accept(bad), None, "{bad}");
        }
    }

    #[test]
    fn frames_have_the_three_lengths() {
        for (payload, header) in [(0, 2), (125, 2), (126, 4), (0xffff, 4), (0x1_0000, 10)] {
            let mut out = Vec::new();
            write_frame(&mut out, &vec![7; payload]);
            assert_eq!((out.len(), frame_bytes(payload)), (header + payload, header + payload));
            assert_eq!(out[0], 0x82);
        }
    }

    #[test]
    fn pings_are_answered_and_messages_thrown_away() {
        let input = [frame(0x82, &[9; 300]), frame(0x89, b"hello"), frame(0x8a, b""), frame(0x81, b""), frame(0x89, b"")].concat();
        let replies = [Event::Reply(b"\x8a\x05hello".to_vec()), Event::Reply(b"\x8a\0".to_vec())];
        for piece in [1, 2, 7, 1000] {
            assert_eq!(events(&input, piece), replies, "pieces of {piece}");
        }
    }

    #[test]
    fn a_close_is_answered_once_and_faults_are_told() {
        let closed = [frame(0x88, &[3, 0xe8, b'x']), frame(0x89, b"more")].concat();
        assert_eq!(events(&closed, 3), [Event::Close([0x88, 2, 3, 0xe8])]);
        assert_eq!(events(&frame(0x88, b""), 1), [Event::Close([0x88, 2, 3, 0xe9])]);
        let fault = [Event::Close([0x88, 2, 3, 0xea])];
        assert_eq!(events(b"\x82\x01x", 1), fault, "not masked");
        assert_eq!(events(&frame(0x09, b""), 1), fault, "a control frame in pieces");
        assert_eq!(events(&frame(0x89, &[0; 126]), 5), fault, "a control frame that is too long");
        assert_eq!(events(&frame(0xc2, b""), 1), fault, "an extension that was not agreed upon");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_grow(input in prop::collection::vec(any::<u8>(), 0..400), piece in 1_usize..20) {
            let whole = events(&input, input.len().max(1));
            prop_assert_eq!(events(&input, piece), whole);
            let mut reader = FrameReader::default();
            let mut rest = input.as_slice();
            while !rest.is_empty() {
                rest = &rest[reader.handle_input(rest).0..];
                prop_assert!(reader.gathered.len() <= 14 + 125);
            }
        }
    }
}
