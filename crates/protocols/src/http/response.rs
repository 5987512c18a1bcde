//! Response heads of the media ports.
//!
//! Every head says whether the connection stays, allows any origin (players run on other sites' pages) unless the caller says which one, and has
//! either a length or, for a live stream, `Connection: close`. Bodies are the caller's.

use super::conditional::Validators;
use super::range::Span;
use crate::via::{self, Via};
use std::fmt::Write;

/// A status code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(pub u16);

#[allow(missing_docs)]
impl Status {
    pub const OK: Self = Self(200);
    pub const ACCEPTED: Self = Self(202);
    pub const NO_CONTENT: Self = Self(204);
    pub const PARTIAL_CONTENT: Self = Self(206);
    pub const NOT_MODIFIED: Self = Self(304);
    pub const BAD_REQUEST: Self = Self(400);
    pub const UNAUTHORIZED: Self = Self(401);
    pub const FORBIDDEN: Self = Self(403);
    pub const NOT_FOUND: Self = Self(404);
    pub const METHOD_NOT_ALLOWED: Self = Self(405);
    pub const REQUEST_TIMEOUT: Self = Self(408);
    pub const CONFLICT: Self = Self(409);
    pub const CONTENT_TOO_LARGE: Self = Self(413);
    pub const RANGE_NOT_SATISFIABLE: Self = Self(416);
    pub const EXPECTATION_FAILED: Self = Self(417);
    pub const TOO_MANY_REQUESTS: Self = Self(429);
    pub const HEAD_TOO_LARGE: Self = Self(431);
    pub const INTERNAL_ERROR: Self = Self(500);
    pub const BAD_GATEWAY: Self = Self(502);
    pub const UNAVAILABLE: Self = Self(503);
    pub const GATEWAY_TIMEOUT: Self = Self(504);
    pub const VERSION_NOT_SUPPORTED: Self = Self(505);
    pub const LOOP_DETECTED: Self = Self(508);

    /// The reason phrase (RFC 9110 section 15).
    pub fn reason(self) -> &'static str {
        match self.0 {
            200 => "OK",
            202 => "Accepted",
            204 => "No Content",
            206 => "Partial Content",
            201 => "Created",
            302 => "Found",
            304 => "Not Modified",
            400 => "Bad Request",
            401 => "Unauthorized",
            403 => "Forbidden",
            404 => "Not Found",
            405 => "Method Not Allowed",
            408 => "Request Timeout",
            409 => "Conflict",
            413 => "Content Too Large",
            415 => "Unsupported Media Type",
            416 => "Range Not Satisfiable",
            417 => "Expectation Failed",
            429 => "Too Many Requests",
            431 => "Request Header Fields Too Large",
            500 => "Internal Server Error",
            502 => "Bad Gateway",
            503 => "Service Unavailable",
            504 => "Gateway Timeout",
            505 => "HTTP Version Not Supported",
            508 => "Loop Detected",
            _ => "Unknown",
        }
    }
}

/// How long an answer may be kept by caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cache {
    /// `no-cache`: live indexes, FLV, errors.
    No,
    /// `public, max-age=…` in seconds: segments, which never change while they exist.
    Seconds(u32),
    /// `private, max-age=…` in seconds: the same, of what not everybody may have.
    Private(u32),
}

/// Media types of what is served.
pub mod content_type {
    /// HTTP-FLV.
    pub const FLV: &str = "video/x-flv";
    /// An index (RFC 8216 section 4).
    pub const PLAYLIST: &str = "application/vnd.apple.mpegurl";
    /// HTTP-AAC: ADTS frames.
    pub const AAC: &str = "audio/aac";
    /// HTTP-MP3.
    pub const MP3: &str = "audio/mpeg";
    /// HTTP-TS, or a segment.
    pub const MPEG_TS: &str = "video/mp2t";
    /// Plain text, for errors.
    pub const TEXT: &str = "text/plain; charset=utf-8";
    /// The web page.
    pub const HTML: &str = "text/html; charset=utf-8";
    /// The API.
    pub const JSON: &str = "application/json";
}

/// A response head under construction.
#[derive(Clone, Debug)]
pub struct ResponseHead {
    status: Status,
    fields: String,
    keep_alive: bool,
    length: Option<u64>,
    origins: Origins,
}

/// Web pages of which origins may read an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origins {
    /// Any.
    Any,
    /// One's own alone.
    Own,
    /// This one too.
    This(String),
}

impl ResponseHead {
    /// A head that keeps the connection and announces an empty body.
    pub fn new(status: Status) -> Self {
        Self { status, fields: String::new(), keep_alive: true, length: Some(0), origins: Origins::Any }
    }

    /// Adds a field. Name and value are ours, never a client's: they are written as they are.
    pub fn field(mut self, name: &str, value: impl std::fmt::Display) -> Self {
        let _ = write!(self.fields, "{name}: {value}\r\n");
        self
    }

    /// Says which web pages may read the answer. Nothing else was said of that: any.
    pub fn origins(mut self, origins: Origins) -> Self {
        self.origins = origins;
        self
    }

    /// Sets the media type.
    pub fn content_type(self, value: &str) -> Self {
        self.field("Content-Type", value)
    }

    /// Says how long the answer may be kept.
    pub fn cache(self, cache: Cache) -> Self {
        match cache {
            Cache::No => self.field("Cache-Control", "no-cache"),
            Cache::Private(seconds) => self.field("Cache-Control", format_args!("private, max-age={seconds}")),
            Cache::Seconds(seconds) => self.field("Cache-Control", format_args!("public, max-age={seconds}")),
        }
    }

    /// Says which version of something it is.
    pub fn validators(self, validators: &Validators) -> Self {
        let head = self.field("ETag", &validators.etag);
        match validators.last_modified() {
            Some(date) => head.field("Last-Modified", date),
            None => head,
        }
    }

    /// The body's length in bytes (for HEAD: of the body that GET would have).
    pub fn length(mut self, bytes: u64) -> Self {
        self.length = Some(bytes);
        self
    }

    /// The body ends when the connection is closed.
    pub fn until_close(mut self) -> Self {
        self.length = None;
        self.keep_alive = false;
        self
    }

    /// Whether another request may follow on the connection.
    pub fn keep_alive(mut self, keep_alive: bool) -> Self {
        self.keep_alive = keep_alive && self.length.is_some();
        self
    }

    /// The head's bytes, blank line included.
    pub fn build(&self) -> Vec<u8> {
        let mut head = format!("HTTP/1.1 {} {}\r\nServer: Braidcast\r\n", self.status.0, self.status.reason());
        match &self.origins {
            Origins::Any => {
                head.push_str("Access-Control-Allow-Origin: *\r\nAccess-Control-Expose-Headers: Content-Length, Content-Range, ETag\r\n")
            }
            Origins::Own => head.push_str("Vary: Origin\r\n"),
            Origins::This(origin) => {
                let _ =
                    write!(head, "Vary: Origin\r\nAccess-Control-Allow-Origin: {origin}\r\nAccess-Control-Expose-Headers: Retry-After\r\n");
            }
        }
        head.push_str(&self.fields);
        // 204 has no length, not even 0, and that of 304 would be the length of what is not sent (RFC 9110 section 8.6).
        if let Some(length) = self.length.filter(|_| !matches!(self.status, Status::NO_CONTENT | Status::NOT_MODIFIED)) {
            let _ = write!(head, "Content-Length: {length}\r\n");
        }
        head.push_str(if self.keep_alive { "Connection: keep-alive\r\n\r\n" } else { "Connection: close\r\n\r\n" });
        head.into_bytes()
    }
}

/// The head of a live stream: no length, never chunked, the connection ends with the stream.
pub fn live(content_type: &str) -> Vec<u8> {
    live_via(content_type, &Via::default())
}

/// As [`live`], for a server that passes the stream on: it is told where the stream came through.
pub fn live_via(content_type: &str, via: &Via) -> Vec<u8> {
    let head = ResponseHead::new(Status::OK).content_type(content_type).cache(Cache::No).until_close();
    if via.is_empty() { head.build() } else { head.field(via::FIELD, via).build() }
}

/// The head that makes a connection a WebSocket (RFC 6455 section 4.2.2); `accept` is what [`super::websocket::accept`] says.
pub fn websocket(accept: &str) -> Vec<u8> {
    format!("HTTP/1.1 101 Switching Protocols\r\nServer: Braidcast\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n")
        .into_bytes()
}

/// The head of a file that does not change, whole or in part. A range that cannot be satisfied gives 416 and no body; otherwise
/// the body is the span (whole file: first byte 0, all bytes).
pub fn file(content_type: &str, cache: Cache, validators: &Validators, length: u64, span: Option<Span>, keep_alive: bool) -> Vec<u8> {
    let head = match span {
        Some(Span::Unsatisfiable) => {
            ResponseHead::new(Status::RANGE_NOT_SATISFIABLE).field("Content-Range", format_args!("bytes */{length}"))
        }
        Some(Span::Part { first, bytes }) => ResponseHead::new(Status::PARTIAL_CONTENT)
            .content_type(content_type)
            .cache(cache)
            .field("Content-Range", format_args!("bytes {first}-{}/{length}", first + bytes - 1))
            .length(bytes),
        None => ResponseHead::new(Status::OK).content_type(content_type).cache(cache).length(length),
    };
    head.validators(validators).field("Accept-Ranges", "bytes").keep_alive(keep_alive).build()
}

/// The answer to whoever has it already: the fields that tell caches that their copy is good for longer (RFC 9110 section 15.4.5).
pub fn not_modified(cache: Cache, validators: &Validators, varies: bool, keep_alive: bool) -> Vec<u8> {
    let head = ResponseHead::new(Status::NOT_MODIFIED).cache(cache).validators(validators).keep_alive(keep_alive);
    if varies { head.field("Vary", "Accept-Encoding").build() } else { head.build() }
}

/// The answer to OPTIONS: any page may ask, with any of the usual fields.
pub fn preflight(keep_alive: bool) -> Vec<u8> {
    ResponseHead::new(Status::NO_CONTENT)
        .field("Allow", "GET, HEAD, OPTIONS")
        .field("Access-Control-Allow-Methods", "GET, HEAD, OPTIONS")
        .field(
            "Access-Control-Allow-Headers",
            "Authorization, Cache-Control, Content-Type, If-Modified-Since, If-None-Match, If-Range, Pragma, Range",
        )
        .field("Access-Control-Max-Age", 86_400)
        .keep_alive(keep_alive)
        .build()
}

/// A whole answer in plain text: `message` and a newline. `head_only` for HEAD.
pub fn text(status: Status, message: &str, keep_alive: bool, head_only: bool) -> Vec<u8> {
    let mut head =
        ResponseHead::new(status).content_type(content_type::TEXT).cache(Cache::No).length(message.len() as u64 + 1).keep_alive(keep_alive);
    if status == Status::METHOD_NOT_ALLOWED {
        head = head.field("Allow", "GET, HEAD, OPTIONS");
    }
    if status == Status::UNAUTHORIZED {
        head = head.field("WWW-Authenticate", "Bearer");
    }
    let mut answer = head.build();
    if !head_only {
        answer.extend_from_slice(message.as_bytes());
        answer.push(b'\n');
    }
    answer
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn lines(head: Vec<u8>) -> Vec<String> {
        let text = String::from_utf8(head).unwrap();
        assert!(text.ends_with("\r\n\r\n"), "{text}");
        text.trim_end().split("\r\n").map(str::to_owned).collect()
    }

    #[test]
    fn a_live_head_has_no_length_and_closes() {
        let lines = lines(live(content_type::FLV));
        assert_eq!(lines[0], "HTTP/1.1 200 OK");
        for line in ["Connection: close", "Content-Type: video/x-flv", "Cache-Control: no-cache", "Access-Control-Allow-Origin: *"] {
            assert!(lines.iter().any(|l| l == line), "{line}");
        }
        assert!(!lines.iter().any(|l| l.starts_with("Content-Length") || l.starts_with("Transfer-Encoding")));
    }

    #[test]
    fn ranges_are_answered_in_full_in_part_or_not() {
        let tag = Validators { etag: "\"1-178\"".into(), modified_s: Some(0) };
        let whole = lines(file(content_type::MPEG_TS, Cache::Seconds(60), &tag, 376, None, true));
        assert!(
            whole.contains(&"ETag: \"1-178\"".to_owned()) && whole.contains(&"Last-Modified: Thu, 01 Jan 1970 00:00:00 GMT".to_owned())
        );
        assert_eq!(whole[0], "HTTP/1.1 200 OK");
        assert!(whole.contains(&"Content-Length: 376".to_owned()) && whole.contains(&"Cache-Control: public, max-age=60".to_owned()));
        let part = lines(file(content_type::MPEG_TS, Cache::No, &tag, 376, Some(Span::Part { first: 188, bytes: 188 }), true));
        assert_eq!(part[0], "HTTP/1.1 206 Partial Content");
        assert!(part.contains(&"Content-Range: bytes 188-375/376".to_owned()) && part.contains(&"Content-Length: 188".to_owned()));
        let none = lines(file(content_type::MPEG_TS, Cache::No, &tag, 376, Some(Span::Unsatisfiable), true));
        assert_eq!(none[0], "HTTP/1.1 416 Range Not Satisfiable");
        assert!(none.contains(&"Content-Range: bytes */376".to_owned()) && none.contains(&"Content-Length: 0".to_owned()));
    }

    #[test]
    fn what_is_not_modified_has_neither_body_nor_length() {
        let tag = Validators { etag: "\"x\"".into(), modified_s: None };
        let lines = lines(not_modified(Cache::No, &tag, true, true));
        assert_eq!(lines[0], "HTTP/1.1 304 Not Modified");
        assert!(["ETag: \"x\"", "Vary: Accept-Encoding", "Connection: keep-alive"].iter().all(|line| lines.iter().any(|l| l == line)));
        assert!(!lines.iter().any(|line| line.starts_with("Content-Length") || line.starts_with("Last-Modified")));
    }

    #[test]
    fn text_answers_and_preflights() {
        let answer = String::from_utf8(text(Status::METHOD_NOT_ALLOWED, "no", false, false)).unwrap();
        assert!(
            answer.contains("Allow: GET, HEAD, OPTIONS\r\n")
                && answer.contains("Content-Length: 3\r\n")
                && answer.ends_with("\r\n\r\nno\n")
        );
        assert!(text(Status::NOT_FOUND, "no", true, true).ends_with(b"\r\n\r\n"));
        let preflight = lines(preflight(true));
        assert_eq!(preflight[0], "HTTP/1.1 204 No Content");
        assert!(!preflight.iter().any(|l| l.starts_with("Content-Length")));
    }
}
