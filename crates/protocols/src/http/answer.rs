//! A server's answer to a request of ours: its head, where its body ends (RFC 9112 sections 4, 6, 7.1), and whole short answers.
//!
//! Nothing is held but what a limit allows. Keeps no clock.

use std::fmt;

/// The longest line between chunks, in bytes: a length and what some servers put behind it.
const MAX_LINE_BYTES: usize = 256;
/// Header fields that are looked at.
const MAX_FIELDS: usize = 96;

/// Why the connection must be closed: what the server did wrong, for a log line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswerError(String);

impl fmt::Display for AnswerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server broke the protocol: {}", self.0)
    }
}

impl std::error::Error for AnswerError {}

pub(super) fn fault<T>(what: impl Into<String>) -> Result<T, AnswerError> {
    Err(AnswerError(what.into()))
}

/// The bytes of a head, until it is whole.
#[derive(Debug, Default)]
pub(super) struct HeadBytes(Vec<u8>);

impl HeadBytes {
    /// Takes input. A whole head, and what of the input lies behind it.
    pub fn take<'a>(&mut self, bytes: &'a [u8], limit: usize) -> Result<Option<(AnswerHead, &'a [u8])>, AnswerError> {
        let before = self.0.len();
        self.0.extend_from_slice(&bytes[..bytes.len().min((limit + 1).saturating_sub(before))]);
        let from = before.saturating_sub(3);
        let Some(end) = self.0[from..].windows(4).position(|four| four == b"\r\n\r\n").map(|at| from + at + 4) else {
            return if self.0.len() > limit { fault("the head of its answer is too long") } else { Ok(None) };
        };
        Ok(Some((AnswerHead::parse(&self.0[..end])?, &bytes[end - before..])))
    }
}

/// An answer's status and fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswerHead {
    /// The status code.
    pub status: u16,
    /// What stands behind the status code.
    pub reason: String,
    fields: Vec<(String, String)>,
}

impl AnswerHead {
    fn parse(head: &[u8]) -> Result<Self, AnswerError> {
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let mut answer = httparse::Response::new(&mut fields);
        let Ok(httparse::Status::Complete(_)) = answer.parse(head) else { return fault("its answer is not HTTP/1.1") };
        let fields = answer.headers.iter().map(|field| (field.name.to_owned(), String::from_utf8_lossy(field.value).into_owned()));
        Ok(Self { fields: fields.collect(), status: answer.code.unwrap_or(0), reason: answer.reason.unwrap_or_default().to_owned() })
    }

    /// The first field of this name.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The body that follows.
    pub(super) fn body(&self) -> Result<Body, AnswerError> {
        if matches!(self.status, 100..200 | 204 | 304) {
            return Ok(Body::Plain(Some(0)));
        }
        match self.field("transfer-encoding").map(|encoding| encoding.trim().to_ascii_lowercase()) {
            Some(encoding) if encoding == "chunked" => Ok(Body::Chunked(Chunk::Length(Vec::new()))),
            Some(_) => fault("its answer has a transfer encoding that is not known"),
            None => match self.field("content-length").map(|length| length.trim().parse()) {
                Some(Ok(length)) => Ok(Body::Plain(Some(length))),
                Some(Err(_)) => fault("the length of its answer is no number"),
                None => Ok(Body::Plain(None)),
            },
        }
    }
}

/// Where in a body the next byte lies.
#[derive(Debug)]
pub(super) enum Body {
    /// Bytes until the connection is closed, or so many.
    Plain(Option<u64>),
    Chunked(Chunk),
}

#[derive(Debug)]
pub(super) enum Chunk {
    /// The line with the length so far.
    Length(Vec<u8>),
    Data(u64),
    /// The line's end behind the data.
    End(Vec<u8>),
    /// The last chunk has come. What follows it says nothing that is needed here.
    Last,
}

impl Body {
    /// Takes the next piece: content, and what is left of the input.
    pub fn take<'a>(&mut self, bytes: &'a [u8]) -> Result<(&'a [u8], &'a [u8]), AnswerError> {
        match self {
            Self::Plain(None) => Ok((bytes, &[])),
            Self::Plain(Some(left)) => Ok(counted(left, bytes)),
            Self::Chunked(Chunk::Last) => Ok((&[], &[])),
            Self::Chunked(chunk) => chunk.take(bytes),
        }
    }

    /// Nothing more belongs to the body.
    pub fn is_over(&self) -> bool {
        matches!(self, Self::Plain(Some(0)) | Self::Chunked(Chunk::Last))
    }

    /// The connection may end here without anything being cut.
    fn may_end(&self) -> bool {
        self.is_over() || matches!(self, Self::Plain(None))
    }
}

impl Chunk {
    fn take<'a>(&mut self, bytes: &'a [u8]) -> Result<(&'a [u8], &'a [u8]), AnswerError> {
        match self {
            Self::Length(line) => {
                let (whole, rest) = take_line(line, bytes)?;
                if whole {
                    *self = match chunk_length(line) {
                        Some(0) => Self::Last,
                        Some(length) => Self::Data(length),
                        None => return fault("the length of a chunk is no number"),
                    };
                }
                Ok((&[], rest))
            }
            Self::Data(left) => {
                let taken = counted(left, bytes);
                if *left == 0 {
                    *self = Self::End(Vec::new());
                }
                Ok(taken)
            }
            Self::End(line) => {
                let (whole, rest) = take_line(line, bytes)?;
                if whole && !line.is_empty() {
                    return fault("a chunk is longer than it says");
                }
                if whole {
                    *self = Self::Length(Vec::new());
                }
                Ok((&[], rest))
            }
            Self::Last => Ok((&[], &[])),
        }
    }
}

/// Splits off what is left of so many bytes.
fn counted<'a>(left: &mut u64, bytes: &'a [u8]) -> (&'a [u8], &'a [u8]) {
    let now = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
    *left -= now as u64;
    bytes.split_at(now)
}

/// Takes bytes up to the end of a line, which is not kept; whether it has come, and what is left.
fn take_line<'a>(line: &mut Vec<u8>, bytes: &'a [u8]) -> Result<(bool, &'a [u8]), AnswerError> {
    let end = bytes.iter().position(|byte| *byte == b'\n');
    let now = &bytes[..end.unwrap_or(bytes.len())];
    if line.len() + now.len() > MAX_LINE_BYTES {
        return fault("a line between its chunks is too long");
    }
    line.extend_from_slice(now);
    match end {
        Some(end) => {
            if line.last() == Some(&b'\r') {
                line.pop();
            }
            Ok((true, &bytes[end + 1..]))
        }
        None => Ok((false, &[])),
    }
}

/// Hexadecimal digits, at most 15, before any extension (RFC 9112 §7.1.1).
fn chunk_length(line: &[u8]) -> Option<u64> {
    let digits = line.split(|byte| *byte == b';').next()?.trim_ascii();
    let digits = std::str::from_utf8(digits).ok().filter(|digits| (1..=15).contains(&digits.len()))?;
    if digits.bytes().all(|byte| byte.is_ascii_hexdigit()) { u64::from_str_radix(digits, 16).ok() } else { None }
}

/// A whole answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Status and fields.
    pub head: AnswerHead,
    /// The content, without chunks.
    pub body: Vec<u8>,
}

/// Reads one whole answer. After an error it must not be used any more.
#[derive(Debug)]
pub struct AnswerReader {
    head_bytes: usize,
    body_bytes: usize,
    head: HeadBytes,
    begun: Option<(AnswerHead, Body)>,
    content: Vec<u8>,
}

impl AnswerReader {
    /// A reader that allows a head and a body of so many bytes.
    pub fn new(head_bytes: usize, body_bytes: usize) -> Self {
        Self { head_bytes, body_bytes, head: HeadBytes::default(), begun: None, content: Vec::new() }
    }

    /// Takes input. True: the answer is whole, and the rest of the connection is not needed.
    pub fn handle_input(&mut self, bytes: &[u8]) -> Result<bool, AnswerError> {
        let mut rest = bytes;
        if self.begun.is_none() {
            let Some((head, behind)) = self.head.take(rest, self.head_bytes)? else { return Ok(false) };
            let body = head.body()?;
            if matches!(body, Body::Plain(Some(length)) if length > self.body_bytes as u64) {
                return fault("its answer is too long");
            }
            (self.begun, rest) = (Some((head, body)), behind);
        }
        let Some((_, body)) = &mut self.begun else { return Ok(false) };
        while !rest.is_empty() && !body.is_over() {
            let (content, behind) = body.take(rest)?;
            if self.content.len() + content.len() > self.body_bytes {
                return fault("its answer is too long");
            }
            self.content.extend_from_slice(content);
            rest = behind;
        }
        Ok(body.is_over())
    }

    /// The answer, when it is whole or the connection has ended.
    pub fn finish(self) -> Result<Answer, AnswerError> {
        match self.begun {
            Some((head, body)) if body.may_end() => Ok(Answer { head, body: self.content }),
            _ => fault("its answer was cut"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(bytes: &[u8], piece: usize) -> Result<Answer, AnswerError> {
        let mut reader = AnswerReader::new(200, 50);
        for piece in bytes.chunks(piece.max(1)) {
            if reader.handle_input(piece)? {
                break;
            }
        }
        reader.finish()
    }

    #[test]
    fn bodies_end_by_length_by_chunks_and_with_the_connection() {
        for (bytes, status, body) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello, more", 200, "hello"),
            ("HTTP/1.1 200 OK\r\n\r\nhello", 200, "hello"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n2;x=y\r\nhe\r\n03\r\nllo\r\n0\r\n\r\n", 200, "hello"),
            ("HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 401, ""),
            ("HTTP/1.1 204 No Content\r\nContent-Length: 7\r\n\r\n", 204, ""),
            ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, ""),
        ] {
            for piece in [1, 2, 7, 500] {
                let answer = read(bytes.as_bytes(), piece).unwrap();
                assert_eq!((answer.head.status, answer.body.as_slice()), (status, body.as_bytes()), "{bytes:?} in {piece}");
            }
        }
        let refused = read(b"HTTP/1.1 401 No\r\nwww-authenticate: Basic\r\nContent-Length: 0\r\n\r\n", 9).unwrap();
        assert_eq!(refused.head.field("WWW-Authenticate"), Some("Basic"));
    }

    #[test]
    fn what_is_cut_too_long_or_no_answer_is_an_error() {
        let long = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(51));
        let long_head = format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "x".repeat(200));
        for bytes in [
            "",
            "HTTP/1.1 200 OK\r\nContent-Le",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
            "HTTP/1.1 200 OK\r\nContent-Length: 51\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhello",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
            "SSH-2.0-x\r\n\r\n",
            &long,
            &long_head,
        ] {
            for piece in [1, 500] {
                assert!(read(bytes.as_bytes(), piece).is_err(), "{bytes:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_answer_or_an_error_and_are_never_held_beyond_the_limits(
            begin in prop::sample::select(vec!["", "HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n"]),
            bytes in prop::collection::vec(any::<u8>(), 0..400),
            piece in 1usize..90,
        ) {
            let bytes = [begin.as_bytes(), &bytes].concat();
            let answer = read(&bytes, piece);
            prop_assert_eq!(&answer, &read(&bytes, bytes.len()));
            prop_assert!(answer.map_or(0, |answer| answer.body.len()) <= 50);
        }
    }
}
