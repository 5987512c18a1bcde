//! HTTP-FLV as a viewer reads it: a response head, a file header, tags. Bytes in, tags out; no I/O.

use anyhow::Context;
use braidcast_media::RecordKind;
use braidcast_media::flv::{self, FILE_HEADER, RecordHeader, TAG_HEADER_BYTES};

const MAX_HEAD_BYTES: usize = 16 << 10;

/// The request for a stream.
pub fn request(app: &str, stream: &str, host: std::net::SocketAddr) -> Vec<u8> {
    format!("GET /{app}/{stream}.flv HTTP/1.1\r\nHost: {host}\r\nUser-Agent: braidcast-bench\r\n\r\n").into_bytes()
}

/// Reads the head of a response.
#[derive(Debug, Default)]
pub struct ResponseHead {
    bytes: Vec<u8>,
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
        let chunked = head.lines().any(|line| line.to_ascii_lowercase().starts_with("transfer-encoding:"));
        anyhow::ensure!(!chunked, "the response has a transfer encoding");
        let lengths = head.lines().filter_map(|line| line.split_once(':')).find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        self.content_length = lengths.and_then(|(_, value)| value.trim().parse().ok());
        Ok(Some(self.bytes.split_off(end + 4)))
    }

    /// Bytes of the body, as the head says; `None` before the head is whole, and where it says nothing.
    pub fn content_length(&self) -> Option<usize> {
        self.content_length
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
        assert!(ResponseHead::default().handle(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
    }
}
