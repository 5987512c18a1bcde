//! A client's end of one HTTP-FLV connection: takes a stream from another server.
//!
//! Sends one request and reads its answer: head, chunked or plain body (RFC 9112 §7.1), FLV tags (FLV 10.1 annex E). Nothing is held but
//! what a limit allows: the head, one tag, one line between chunks. Keeps no clock.

use super::answer::{AnswerError, AnswerHead, Body, HeadBytes, fault};
use crate::rtmp::ClientOutput;
use crate::via::{self, Via};
use braidcast_media::flv::TAG_HEADER_BYTES;
use braidcast_media::{RecordHeader, RecordKind};
use std::collections::VecDeque;

/// Signature, version, flags and length (annex E.2).
const FILE_HEADER_BYTES: usize = 9;
/// The longest file header; what it holds beyond [`FILE_HEADER_BYTES`] means nothing.
const MAX_FILE_HEADER_BYTES: u32 = 4_096;
/// `PreviousTagSize` behind the header and each tag.
const SIZE_BYTES: u64 = 4;
/// What is kept of a reason or an address that the server says, in characters.
const MAX_TEXT: usize = 1_024;
/// In a tag's first byte: the tag is encrypted (annex E.4.1).
const FILTER: u8 = 0x20;

/// What to ask for, and what the server may make this client hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlvSettings {
    /// Host and port as in the URL.
    pub authority: String,
    /// Path and query, percent-encoded, with a leading slash.
    pub path: String,
    /// Who passes the stream on.
    pub via: Via,
    /// The longest head of an answer, in bytes.
    pub head_bytes: usize,
    /// The longest tag, in bytes.
    pub message_bytes: usize,
}

/// The state machine. After an error it must not be used any more.
#[derive(Debug)]
pub struct FlvClient {
    limits: (usize, usize),
    outbox: Vec<u8>,
    outputs: VecDeque<ClientOutput>,
    server_via: Via,
    phase: Phase,
    tags: Tags,
}

#[derive(Debug)]
enum Phase {
    Head(HeadBytes),
    Body(Body),
    Ended,
}

impl FlvClient {
    /// A client on a fresh connection; its request is in the outbox.
    pub fn new(settings: FlvSettings) -> Self {
        let FlvSettings { authority, path, via, head_bytes, message_bytes } = settings;
        let via = if via.is_empty() { String::new() } else { format!("{}: {via}\r\n", via::FIELD) };
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: Braidcast\r\nAccept: */*\r\n{via}Connection: close\r\n\r\n");
        Self {
            limits: (head_bytes, message_bytes),
            outbox: request.into_bytes(),
            outputs: VecDeque::new(),
            server_via: Via::default(),
            phase: Phase::Head(HeadBytes::default()),
            tags: Tags::default(),
        }
    }

    /// Takes input, all of it. Drain [`FlvClient::poll_output`] after each call: what is in there is bounded by the input. A redirection is
    /// [`ClientOutput::Refused`] with a code that begins with `3` and the new address as its description.
    pub fn handle_input(&mut self, bytes: &[u8]) -> Result<(), AnswerError> {
        let mut rest = bytes;
        if let Phase::Head(head) = &mut self.phase {
            let Some((head, behind)) = head.take(rest, self.limits.0)? else { return Ok(()) };
            rest = behind;
            self.answered(&head)?;
        }
        while !rest.is_empty()
            && let Phase::Body(body) = &mut self.phase
        {
            let (content, behind) = body.take(rest)?;
            rest = behind;
            let over = body.is_over();
            self.tags.take(content, self.limits.1, &mut self.outputs)?;
            if over {
                self.phase = Phase::Ended;
                self.outputs.push_back(ClientOutput::Status { code: "the stream has ended".to_owned() });
            }
        }
        Ok(())
    }

    /// The next thing the caller must know of.
    pub fn poll_output(&mut self) -> Option<ClientOutput> {
        self.outputs.pop_front()
    }

    /// Takes what is to be sent.
    pub fn take_outbox(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.outbox)
    }

    /// What is to be sent.
    pub fn outbox(&self) -> &[u8] {
        &self.outbox
    }

    /// Who the server is, and through whom its stream came, as far as it says so.
    pub fn server_via(&self) -> &Via {
        &self.server_via
    }

    /// The answer has come and is the stream.
    pub fn is_started(&self) -> bool {
        matches!(self.phase, Phase::Body(_))
    }

    /// What is being waited for, in words.
    pub fn waits_for(&self) -> &'static str {
        if self.is_started() { "media" } else { "the answer to the request" }
    }

    #[cfg(test)]
    fn held_bytes(&self) -> usize {
        let outputs =
            self.outputs.iter().map(|output| if let ClientOutput::Media { payload, .. } = output { payload.capacity() } else { 0 });
        outputs.sum::<usize>() + self.tags.held.capacity()
    }

    fn answered(&mut self, head: &AnswerHead) -> Result<(), AnswerError> {
        if head.status != 200 {
            let location = head.field("location").filter(|_| (300..400).contains(&head.status));
            let description = location.unwrap_or(&head.reason).chars().take(MAX_TEXT).collect();
            self.outputs.push_back(ClientOutput::Refused { code: head.status.to_string(), description });
            self.phase = Phase::Ended;
            return Ok(());
        }
        if let Some(encoding) = head.field("content-encoding").filter(|encoding| !encoding.eq_ignore_ascii_case("identity")) {
            return fault(format!("its answer is encoded ({})", encoding.chars().take(20).collect::<String>()));
        }
        self.server_via = Via::parse(head.field(via::FIELD).unwrap_or_default());
        self.phase = Phase::Body(head.body()?);
        self.outputs.push_back(ClientOutput::Started);
        Ok(())
    }
}

/// From the bytes of an FLV file to media. What it holds is what has arrived of one tag.
#[derive(Debug, Default)]
struct Tags {
    step: Step,
    held: Vec<u8>,
}

#[derive(Debug, Default)]
enum Step {
    #[default]
    FileHeader,
    TagHeader,
    Payload(RecordHeader),
    /// So many bytes that mean nothing here, then a tag.
    Skip(u64),
}

impl Tags {
    fn take(&mut self, mut bytes: &[u8], limit: usize, outputs: &mut VecDeque<ClientOutput>) -> Result<(), AnswerError> {
        while !bytes.is_empty() {
            let wanted = match &self.step {
                Step::FileHeader => FILE_HEADER_BYTES,
                Step::TagHeader => TAG_HEADER_BYTES,
                Step::Payload(header) => header.payload_bytes as usize,
                Step::Skip(left) => {
                    let now = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    bytes = &bytes[now..];
                    self.step = match left - now as u64 {
                        0 => Step::TagHeader,
                        left => Step::Skip(left),
                    };
                    continue;
                }
            };
            let now = bytes.len().min(wanted - self.held.len());
            self.held.extend_from_slice(&bytes[..now]);
            bytes = &bytes[now..];
            if self.held.len() == wanted {
                let held = std::mem::take(&mut self.held);
                self.step = self.whole(held, limit, outputs)?;
            }
        }
        Ok(())
    }

    fn whole(&self, held: Vec<u8>, limit: usize, outputs: &mut VecDeque<ClientOutput>) -> Result<Step, AnswerError> {
        match &self.step {
            Step::FileHeader => {
                let length = u32::from_be_bytes([held[5], held[6], held[7], held[8]]);
                if !held.starts_with(b"FLV") || !(FILE_HEADER_BYTES as u32..=MAX_FILE_HEADER_BYTES).contains(&length) {
                    return fault("what it sends is no FLV file");
                }
                Ok(Step::Skip(u64::from(length) - FILE_HEADER_BYTES as u64 + SIZE_BYTES))
            }
            Step::TagHeader => {
                let payload_bytes = u32::from_be_bytes([0, held[1], held[2], held[3]]);
                if payload_bytes as usize > limit {
                    return fault(format!("a tag of {payload_bytes} bytes, {limit} are allowed"));
                }
                match RecordHeader::parse(&held).filter(|_| held[0] & FILTER == 0 && payload_bytes > 0) {
                    Some(header) => Ok(Step::Payload(header)),
                    None => Ok(Step::Skip(u64::from(payload_bytes) + SIZE_BYTES)),
                }
            }
            Step::Payload(RecordHeader { kind, timestamp_ms, .. }) => {
                outputs.push_back(ClientOutput::Media { kind: *kind, timestamp_ms: *timestamp_ms, payload: strip(*kind, held) });
                Ok(Step::Skip(SIZE_BYTES))
            }
            Step::Skip(_) => Ok(Step::TagHeader),
        }
    }
}

/// Some servers leave RTMP's `@setDataFrame` before the metadata.
fn strip(kind: RecordKind, mut payload: Vec<u8>) -> Vec<u8> {
    const SET_DATA_FRAME: &[u8] = b"\x02\0\x0d@setDataFrame";
    if kind == RecordKind::Data && payload.starts_with(SET_DATA_FRAME) {
        payload.drain(..SET_DATA_FRAME.len());
    }
    payload
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use braidcast_media::flv::{FILE_HEADER, write_record};
    use proptest::prelude::*;

    fn client() -> FlvClient {
        let (authority, path, via) = ("h:81".to_owned(), "/live/x.flv?t=1".to_owned(), Via::parse("a1,b2"));
        FlvClient::new(FlvSettings { authority, path, via, head_bytes: 512, message_bytes: 1_000 })
    }

    fn file() -> Vec<u8> {
        let mut file = FILE_HEADER.to_vec();
        write_record(&mut file, RecordKind::Data, 0, b"\x02\0\x0aonMetaData");
        write_record(&mut file, RecordKind::Video, 5, &[0x17; 700]);
        file.extend_from_slice(b"\x0f\0\0\x02\0\0\0\0\0\0\0xx\0\0\0\x0d");
        write_record(&mut file, RecordKind::Audio, 0x0102_0304, &[0xaf, 1]);
        file
    }

    fn outputs(answer: &[u8], cut: usize) -> Result<Vec<ClientOutput>, AnswerError> {
        let mut client = client();
        let mut outputs = Vec::new();
        for piece in answer.chunks(cut) {
            client.handle_input(piece)?;
            outputs.extend(std::iter::from_fn(|| client.poll_output()));
        }
        Ok(outputs)
    }

    fn chunked(body: &[u8], size: usize) -> Vec<u8> {
        let mut out = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\nBraidcast-Via: c3\r\n\r\n".to_vec();
        for chunk in body.chunks(size) {
            out.extend_from_slice(format!("{:x};ext=1\r\n", chunk.len()).as_bytes());
            out.extend_from_slice(chunk);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"0\r\n\r\n");
        out
    }

    #[test]
    fn the_request_says_who_asks() {
        let request = String::from_utf8(client().take_outbox()).unwrap();
        assert!(request.starts_with("GET /live/x.flv?t=1 HTTP/1.1\r\nHost: h:81\r\n"), "{request}");
        assert!(request.contains("\r\nBraidcast-Via: a1,b2\r\n") && request.ends_with("\r\n\r\n"), "{request}");
    }

    #[test]
    fn bodies_of_every_framing_and_cut_give_the_same_media() {
        let file = file();
        let plain = [b"HTTP/1.1 200 OK\r\nContent-Type: video/x-flv\r\n\r\n".as_slice(), &file].concat();
        let sized = [format!("HTTP/1.0 200 OK\r\ncontent-length: {}\r\n\r\n", file.len()).as_bytes(), &file, b"rest"].concat();
        let expected = outputs(&plain, usize::MAX).unwrap();
        let media: Vec<_> = expected[1..]
            .iter()
            .map(|output| match output {
                ClientOutput::Media { kind, timestamp_ms, payload } => (*kind, *timestamp_ms, payload.len()),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(media, [(RecordKind::Data, 0, 13), (RecordKind::Video, 5, 700), (RecordKind::Audio, 0x0102_0304, 2)]);
        for cut in [1, 2, 3, 7, 100, 5_000] {
            assert_eq!(outputs(&plain, cut).unwrap(), expected);
            for answer in [&sized, &chunked(&file, 1), &chunked(&file, 97), &chunked(&file, 10_000)] {
                let got = outputs(answer, cut).unwrap();
                assert_eq!(got[..expected.len()], expected);
                assert!(matches!(got[expected.len()..], [ClientOutput::Status { .. }]), "it says that it has ended");
            }
        }
    }

    #[test]
    fn refusals_and_redirections_say_what_the_server_said() {
        let one = |answer: &str| outputs(answer.as_bytes(), 9).unwrap().pop().unwrap();
        let refused = |code: &str, description: &str| ClientOutput::Refused { code: code.into(), description: description.into() };
        assert_eq!(one("HTTP/1.1 404 Not Found\r\n\r\nxx"), refused("404", "Not Found"));
        assert_eq!(one("HTTP/1.1 302 Found\r\nLocation: http://b/x.flv\r\n\r\n"), refused("302", "http://b/x.flv"));
    }

    #[test]
    fn what_is_too_long_or_no_flv_is_an_error() {
        let error = |answer: &[u8]| outputs(answer, 100).unwrap_err().to_string();
        assert!(error(&[b'x'; 600]).contains("too long"));
        assert!(error(b"SSH-2.0-x\r\n\r\n").contains("not HTTP"));
        assert!(error(b"HTTP/1.1 200 OK\r\n\r\nGIF89a...........").contains("no FLV"));
        assert!(error(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n").contains("encoded"));
        assert!(error(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n").contains("no number"));
        let long = [b"HTTP/1.1 200 OK\r\n\r\n".as_slice(), &FILE_HEADER, &[9, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0]].concat();
        assert!(error(&long).contains("a tag of 1024 bytes"));
    }

    proptest! {
        #[test]
        fn no_bytes_panic_or_make_it_hold_more_than_came(noise in proptest::collection::vec(any::<u8>(), 0..3_000), at in 0usize..4, flip in any::<(u16, u8)>(), cut in 1usize..300) {
            let heads: [&[u8]; 4] = [b"", b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\nFLV\x01\x05\0\0\0\x09\0\0\0\0"];
            let mut damaged = chunked(&file(), 64);
            let place = usize::from(flip.0) % damaged.len();
            damaged[place] = flip.1;
            for answer in [[heads[at], &noise].concat(), damaged] {
                let mut client = client();
                for piece in answer.chunks(cut) {
                    if client.handle_input(piece).is_err() {
                        break;
                    }
                    prop_assert!(client.held_bytes() <= 2 * answer.len() + 1_000);
                    while client.poll_output().is_some() {}
                }
            }
        }
    }
}
