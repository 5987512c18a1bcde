//! HTTP-FLV as a viewer reads it: a response head, a file header, tags. Bytes in, tags out; no I/O.

use anyhow::Context;
use braidcast_media::RecordKind;
use braidcast_media::flv::{self, FILE_HEADER, RecordHeader, TAG_HEADER_BYTES};

const MAX_HEAD_BYTES: usize = 16 << 10;
const MAX_CHUNK_BYTES: usize = 1 << 30;

/// The request for a stream.
pub fn request(app: &str, stream: &str, host: std::net::SocketAddr) -> Vec<u8> {
    // What follows a question mark is no part of the name.
    let (name, question) = stream.split_once('?').map_or((stream, String::new()), |(name, query)| (name, format!("?{query}")));
    format!("GET /{app}/{name}.flv{question} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: braidcast-bench\r\n\r\n").into_bytes()
}

/// Reads the head of a response.
#[derive(Debug, Default)]
pub struct ResponseHead {
    bytes: Vec<u8>,
    chunked: bool,
    content_length: Option<usize>,
}

impl ResponseHead {
    /// Takes what arrived; once the head is whole, returns what followed it. Anything but a plain 200 is an error.
    pub fn handle(&mut self, input: &[u8]) -> anyhow::Result<Option<Vec<u8>>> {
        self.bytes.extend_from_slice(input);
        let Some(end) = self.bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
            anyhow::ensure!(self.bytes.len() <= MAX_HEAD_BYTES, "the response's head does not end");
            return Ok(None);
        };
        let head = String::from_utf8_lossy(&self.bytes[..end]).into_owned();
        let status = head.lines().next().unwrap_or_default();
        anyhow::ensure!(status.starts_with("HTTP/1.") && status.split(' ').nth(1) == Some("200"), "the server answered: {status}");
        let encoding =
            head.lines().map(str::to_ascii_lowercase).find_map(|line| Some(line.strip_prefix("transfer-encoding:")?.trim().to_owned()));
        anyhow::ensure!(encoding.as_deref().is_none_or(|encoding| encoding == "chunked"), "the response has a transfer encoding");
        self.chunked = encoding.is_some();
        let length = head.lines().filter_map(|line| line.split_once(':')).find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        self.content_length = length.and_then(|(_, value)| value.trim().parse().ok());
        Ok(Some(self.bytes.split_off(end + 4)))
    }

    /// Whether the body comes in chunks (RFC 9112 §7.1).
    pub fn is_chunked(&self) -> bool {
        self.chunked
    }

    /// Bytes of the body, as the head says; `None` before the head is whole, and where it says nothing.
    pub fn content_length(&self) -> Option<usize> {
        self.content_length
    }
}

/// Takes a chunked body out of its chunks.
#[derive(Debug, Default)]
pub struct Chunks {
    /// Bytes left of the chunk, its closing line end included; 0: the line with the next one's length comes.
    left: usize,
    line: Vec<u8>,
}

const LINE_END_BYTES: usize = 2;

impl Chunks {
    /// Calls `content` with each piece of the body.
    pub fn handle(&mut self, mut input: &[u8], mut content: impl FnMut(&[u8]) -> anyhow::Result<()>) -> anyhow::Result<()> {
        while let Some(&next) = input.first() {
            if self.left > 0 {
                let (now, rest) = input.split_at(input.len().min(self.left));
                let data = now.len().min(self.left.saturating_sub(LINE_END_BYTES));
                if data > 0 {
                    content(&now[..data])?;
                }
                self.left -= now.len();
                input = rest;
            } else if next == b'\n' {
                let line = String::from_utf8_lossy(&self.line).into_owned();
                let length = usize::from_str_radix(line.trim().split(';').next().unwrap_or_default(), 16);
                let length = length.ok().filter(|&length| length <= MAX_CHUNK_BYTES).context("the length of a chunk makes no sense")?;
                anyhow::ensure!(length > 0, "the server ended the stream");
                self.left = length + LINE_END_BYTES;
                self.line.clear();
                input = &input[1..];
            } else {
                anyhow::ensure!(self.line.len() < MAX_HEAD_BYTES, "the length of a chunk does not end");
                self.line.push(next);
                input = &input[1..];
            }
        }
        Ok(())
    }
}

/// Takes FLV apart.
#[derive(Debug, Default)]
pub struct TagReader {
    bytes: Vec<u8>,
    header_seen: bool,
}

impl TagReader {
    /// Takes what arrived and hands out every tag that is whole.
    pub fn handle(&mut self, input: &[u8], mut tag: impl FnMut(RecordKind, &[u8])) -> anyhow::Result<()> {
        self.bytes.extend_from_slice(input);
        let mut at = 0;
        if !self.header_seen {
            if self.bytes.len() < FILE_HEADER.len() {
                return Ok(());
            }
            anyhow::ensure!(self.bytes.starts_with(b"FLV\x01"), "what arrives is no FLV");
            self.header_seen = true;
            at = FILE_HEADER.len();
        }
        let mut end = at;
        for record in flv::records(&self.bytes[at..]) {
            tag(record.header.kind, record.payload);
            end = at + record.offset + record.header.record_bytes();
        }
        let rest = &self.bytes[end..];
        if rest.len() >= TAG_HEADER_BYTES {
            RecordHeader::parse(rest).with_context(|| format!("a tag of unknown type {}", rest[0]))?;
        }
        self.bytes.drain(..end);
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn tags_come_whole_however_the_bytes_are_cut() {
        let mut file = FILE_HEADER.to_vec();
        flv::write_record(&mut file, RecordKind::Video, 0, &[1; 300]);
        flv::write_record(&mut file, RecordKind::Audio, 5, &[2; 7]);
        for size in [1, 2, 13, 100, file.len()] {
            let mut reader = TagReader::default();
            let mut tags = Vec::new();
            for piece in file.chunks(size) {
                reader.handle(piece, |kind, payload| tags.push((kind, payload.len()))).unwrap();
            }
            assert_eq!(tags, [(RecordKind::Video, 300), (RecordKind::Audio, 7)], "pieces of {size}");
        }
    }

    #[test]
    fn a_reader_that_lost_its_place_says_so() {
        let mut file = FILE_HEADER.to_vec();
        file.extend_from_slice(&[0x55; 40]);
        assert!(TagReader::default().handle(&file, |_, _| {}).is_err());
        assert!(TagReader::default().handle(&[0; 40], |_, _| {}).is_err());
    }

    #[test]
    fn only_a_plain_200_is_a_stream() {
        let mut head = ResponseHead::default();
        assert_eq!(head.handle(b"HTTP/1.1 200 OK\r\nA: b\r").unwrap(), None);
        assert_eq!(head.handle(b"\n\r\nFLV").unwrap(), Some(b"FLV".to_vec()));
        assert!(ResponseHead::default().handle(b"HTTP/1.1 404 Not Found\r\n\r\n").is_err());
        assert!(ResponseHead::default().handle(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n").is_err());
    }

    #[test]
    fn chunks_are_taken_apart_wherever_they_are_cut() {
        let body = b"5\r\nhello\r\n1;x=y\r\n!\r\nA\r\n0123456789\r\n";
        for cut in 0..body.len() {
            let (mut chunks, mut content) = (Chunks::default(), Vec::new());
            for piece in [&body[..cut], &body[cut..]] {
                chunks
                    .handle(piece, |bytes| {
                        content.extend_from_slice(bytes);
                        Ok(())
                    })
                    .unwrap();
            }
            assert_eq!(content, b"hello!0123456789", "cut at {cut}");
        }
        assert!(Chunks::default().handle(b"zz\r\n", |_| Ok(())).is_err());
        assert!(Chunks::default().handle(b"fffffffffffffff\r\n", |_| Ok(())).is_err());
        assert!(Chunks::default().handle(b"0\r\n", |_| Ok(())).is_err(), "a live stream does not end");
    }

    #[test]
    fn a_token_goes_behind_the_name() {
        let request = request("live", "a?token=b", "127.0.0.1:80".parse().unwrap());
        assert!(request.starts_with(b"GET /live/a.flv?token=b HTTP/1.1\r\n"));
    }
}
