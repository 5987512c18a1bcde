//! A parsed request, and what can be wrong with one.
//!
//! Only what the media ports use is kept of a head; the rest is checked and forgotten.

use super::conditional::{self, Conditions};
use super::forwarded::Forwarded;
use super::range::ByteRange;
use super::response::Status;
use super::target;
use crate::via::{self, Via};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::mem::MaybeUninit;

/// The most header fields a request may have; more is answered with 431.
const MAX_FIELDS: usize = 96;

/// The methods of the media ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Method {
    /// GET.
    Get,
    /// HEAD: answered like GET, without the body.
    Head,
    /// OPTIONS: a browser's preflight.
    Options,
    /// Any other, if such are taken ([`super::Settings`]).
    Other,
}

/// A request, ready to be routed and answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// What to do.
    pub method: Method,
    /// The path, percent-decoded once: valid UTF-8 without control characters and dot segments, starts with `/`; or `*`.
    pub path: String,
    /// The minor version of HTTP/1: 0 or 1.
    pub minor_version: u8,
    /// The query as it was sent, without the `?`; empty if there was none.
    pub query: String,
    /// The authority of the target or of the `Host` header, port included.
    pub host: Option<String>,
    /// Whether the client means to send another request on this connection.
    pub keep_alive: bool,
    /// The byte range asked for; `None` if none was, or one that has to be ignored. Whether it counts is for its conditions to say too.
    pub range: Option<ByteRange>,
    /// The key of a WebSocket handshake (RFC 6455 section 4.2.1), if the request is a whole one.
    pub websocket_key: Option<String>,
    /// Whom proxies say it comes from.
    pub forwarded: Forwarded,
    /// The servers that pass the answer on.
    pub via: Via,
    /// The forms that the client takes, as its `Accept` field says it; `None` if it says nothing.
    pub accept: Option<String>,
    /// The page that it comes from (`Referer`), as sent.
    pub referer: Option<String>,
    /// The program that asks (`User-Agent`), as sent.
    pub user_agent: Option<String>,
    /// Who asks (`Authorization`), as sent: a secret.
    pub authorization: Option<String>,
    /// Bytes of a body that follows the head, already read when the request is handed out, unless it may be passed on.
    pub body_bytes: u64,
    /// The head as it was sent, blank line included, if heads are kept ([`super::Settings`]); else empty.
    pub head: Vec<u8>,
    /// The body, if bodies are kept.
    #[serde(skip)]
    pub body: Vec<u8>,
    /// What it says of a copy that the client has. Not saved: who is not asked for them gets all.
    #[serde(skip)]
    pub conditions: Conditions,
}

impl Request {
    /// Whether it is one that we answer ourselves: GET, HEAD, OPTIONS.
    pub fn is_known_method(&self) -> bool {
        self.method != Method::Other
    }

    /// The token of `Authorization: Bearer` (RFC 6750 section 2.1).
    pub fn bearer(&self) -> Option<&str> {
        let (scheme, token) = self.authorization.as_deref()?.split_once(' ')?;
        Some(token.trim()).filter(|_| scheme.eq_ignore_ascii_case("bearer"))
    }

    /// Its method's name, if heads are kept.
    pub fn method_name(&self) -> Option<&str> {
        self.line().next()
    }

    /// Its target as it was sent, likewise.
    pub fn target(&self) -> &str {
        self.line().nth(1).unwrap_or_default()
    }

    /// A field's value, likewise; the first one of that name.
    pub fn field(&self, name: &str) -> Option<String> {
        let lines = std::str::from_utf8(&self.head).ok()?.lines().skip(1);
        let of_name = |line: &str| {
            line.split_once(':').filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned())
        };
        lines.map(of_name).find(Option::is_some).flatten()
    }

    fn line(&self) -> impl Iterator<Item = &str> {
        let end = self.head.iter().position(|byte| matches!(byte, b'\r' | b'\n')).unwrap_or_default();
        std::str::from_utf8(&self.head[..end]).unwrap_or_default().split(' ')
    }
}

/// What is malformed about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fault {
    /// The head is not HTTP/1.x.
    Syntax,
    /// The target is of no known form.
    Target,
    /// The path holds a control character or a dot segment.
    Path,
    /// The path's percent-encoding is broken, or is not UTF-8.
    PathEncoding,
    /// No host where one is needed, several, or an impossible one.
    Host,
    /// A transfer encoding where no body belongs: a shape of request smuggling.
    TransferEncoding,
    /// A content length that is no number, or several.
    ContentLength,
}

/// Why a connection's bytes are not a request that can be served. The connection is answered with [`HttpError::status`] and closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HttpError {
    /// 400.
    BadRequest(Fault),
    /// 405: a method other than GET, HEAD and OPTIONS.
    Method,
    /// 413: a longer body than is read and thrown away.
    BodyTooLarge,
    /// 417: the client wants to be asked for its body.
    Expectation,
    /// 431: the head exceeds its limit, or has too many fields.
    HeadTooLarge,
    /// 505: not HTTP/1.0 or 1.1.
    Version,
}

impl HttpError {
    /// What to answer.
    pub fn status(self) -> Status {
        match self {
            Self::BadRequest(_) => Status::BAD_REQUEST,
            Self::Method => Status::METHOD_NOT_ALLOWED,
            Self::BodyTooLarge => Status::CONTENT_TOO_LARGE,
            Self::Expectation => Status::EXPECTATION_FAILED,
            Self::HeadTooLarge => Status::HEAD_TOO_LARGE,
            Self::Version => Status::VERSION_NOT_SUPPORTED,
        }
    }
}

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BadRequest(Fault::Syntax) => "the request head is malformed",
            Self::BadRequest(Fault::Target) => "the request target is malformed",
            Self::BadRequest(Fault::Path) => "the path holds a control character or a dot segment",
            Self::BadRequest(Fault::PathEncoding) => "the path's percent-encoding is broken or not UTF-8",
            Self::BadRequest(Fault::Host) => "the Host header is missing, repeated or malformed",
            Self::BadRequest(Fault::TransferEncoding) => "a transfer encoding is not accepted here",
            Self::BadRequest(Fault::ContentLength) => "the content length is malformed or repeated",
            Self::Method => "only GET, HEAD and OPTIONS are served here",
            Self::BodyTooLarge => "the request body is too long",
            Self::Expectation => "no request body is wanted here",
            Self::HeadTooLarge => "the request head is too long",
            Self::Version => "only HTTP/1.0 and HTTP/1.1 are served here",
        })
    }
}

impl std::error::Error for HttpError {}

impl From<Fault> for HttpError {
    fn from(fault: Fault) -> Self {
        Self::BadRequest(fault)
    }
}

/// The fields of a head that matter here, gathered in one pass.
#[derive(Default)]
struct Fields {
    host: Option<String>,
    content_length: Option<u64>,
    close: bool,
    keep_alive: bool,
    range: Option<ByteRange>,
    conditions: Conditions,
    /// The four parts of a WebSocket handshake.
    upgrades: bool,
    to_websocket: bool,
    websocket_version: bool,
    websocket_key: Option<String>,
    referer: Option<String>,
    user_agent: Option<String>,
    authorization: Option<String>,
    forwarded: Forwarded,
    via: Via,
    accept: Option<String>,
}

impl Fields {
    fn websocket(&mut self) -> Option<String> {
        let whole = self.upgrades && self.to_websocket && self.websocket_version;
        self.websocket_key.take().filter(|_| whole)
    }
}

/// Parses a whole head, blank line included; `any_method`: methods that are not ours are taken too.
pub(super) fn parse(head: &[u8], any_method: bool) -> Result<Request, HttpError> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Request::new(&mut []);
    match parsed.parse_with_uninit_headers(head, &mut fields) {
        Ok(httparse::Status::Complete(bytes)) if bytes == head.len() => {}
        Ok(_) => return Err(Fault::Syntax.into()),
        Err(httparse::Error::TooManyHeaders) => return Err(HttpError::HeadTooLarge),
        Err(httparse::Error::Version) => return Err(HttpError::Version),
        Err(_) => return Err(Fault::Syntax.into()),
    }
    let (Some(method), Some(target), Some(minor)) = (parsed.method, parsed.path, parsed.version) else {
        return Err(Fault::Syntax.into());
    };
    let method = match method {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "OPTIONS" => Method::Options,
        _ if any_method => Method::Other,
        _ => return Err(HttpError::Method),
    };
    let mut fields = gather(parsed.headers)?;
    let target = target::parse(target)?;
    if fields.host.is_none() && minor == 1 {
        return Err(Fault::Host.into());
    }
    if target.path == "*" && method != Method::Options {
        return Err(Fault::Target.into());
    }
    let websocket_key = fields.websocket().filter(|_| method == Method::Get && minor == 1);
    Ok(Request {
        method,
        path: target.path,
        minor_version: minor,
        query: target.query,
        host: target.authority.or(fields.host).filter(|host| !host.is_empty()),
        keep_alive: !fields.close && (minor == 1 || fields.keep_alive),
        range: fields.range.filter(|_| method == Method::Get),
        websocket_key,
        forwarded: fields.forwarded,
        via: fields.via,
        accept: fields.accept,
        referer: fields.referer,
        user_agent: fields.user_agent,
        authorization: fields.authorization,
        body_bytes: fields.content_length.unwrap_or(0),
        head: Vec::new(),
        body: Vec::new(),
        conditions: fields.conditions,
    })
}

fn gather(headers: &[httparse::Header<'_>]) -> Result<Fields, HttpError> {
    let mut fields = Fields::default();
    for header in headers {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        if is("transfer-encoding") {
            return Err(Fault::TransferEncoding.into());
        } else if is("expect") {
            return Err(HttpError::Expectation);
        } else if is("host") {
            let host = std::str::from_utf8(header.value).map_err(|_| Fault::Host)?;
            if fields.host.is_some() || !(host.is_empty() || target::is_authority(host)) {
                return Err(Fault::Host.into());
            }
            fields.host = Some(host.to_owned());
        } else if is("content-length") {
            if fields.content_length.is_some() {
                return Err(Fault::ContentLength.into());
            }
            fields.content_length = Some(content_length(header.value).ok_or(Fault::ContentLength)?);
        } else if is("connection") {
            for token in header.value.split(|b| *b == b',').map(<[u8]>::trim_ascii) {
                fields.close |= token.eq_ignore_ascii_case(b"close");
                fields.keep_alive |= token.eq_ignore_ascii_case(b"keep-alive");
                fields.upgrades |= token.eq_ignore_ascii_case(b"upgrade");
            }
        } else if is("upgrade") {
            fields.to_websocket |= header.value.trim_ascii().eq_ignore_ascii_case(b"websocket");
        } else if is("sec-websocket-version") {
            fields.websocket_version = header.value.trim_ascii() == b"13";
        } else if is("sec-websocket-key") {
            // 16 bytes in base64 have 24 characters.
            let key = std::str::from_utf8(header.value).ok().map(str::trim).filter(|key| key.len() == 24);
            fields.websocket_key = key.map(str::to_owned);
        } else if is("range") {
            fields.range = std::str::from_utf8(header.value).ok().and_then(ByteRange::parse);
        } else if is("accept") {
            fields.accept = std::str::from_utf8(header.value).ok().map(str::to_owned);
        } else if is("referer") {
            fields.referer = text(header.value);
        } else if is("user-agent") {
            fields.user_agent = text(header.value);
        } else if is("authorization") {
            fields.authorization = text(header.value);
        } else if is(via::FIELD) {
            fields.via = Via::parse(&String::from_utf8_lossy(header.value));
        } else if is("if-range") {
            // A condition that cannot be read does not hold: the whole file is sent.
            fields.conditions.if_range = Some(text(header.value).unwrap_or_default());
        } else if is("if-none-match") {
            // Several fields are one list (RFC 9110 section 5.3).
            let tags = fields.conditions.none_match.get_or_insert_default();
            tags.push_str(if tags.is_empty() { "" } else { "," });
            tags.push_str(&text(header.value).unwrap_or_default());
        } else if is("if-modified-since") {
            fields.conditions.modified_since = text(header.value);
        } else if is("accept-encoding") {
            fields.conditions.gzip |= text(header.value).is_some_and(|value| conditional::takes_gzip(&value));
        }
    }
    let forwarded_for = headers.iter().filter(|header| header.name.eq_ignore_ascii_case("x-forwarded-for"));
    fields.forwarded = Forwarded::read(forwarded_for.map(|header| header.value));
    Ok(fields)
}

/// A value that only informs, or that is compared with one of ours: what is not UTF-8 is as good as none.
fn text(value: &[u8]) -> Option<String> {
    std::str::from_utf8(value).ok().map(|text| text.trim().to_owned())
}

/// Digits and nothing else: a sign, a list, or 2^64 - 1 and beyond (no body is that long) are refused.
fn content_length(value: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(value).ok().filter(|text| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()))?;
    digits.parse().ok().filter(|length| *length < u64::MAX)
}
