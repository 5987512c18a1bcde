//! Every test saves and restores the reader after every input.

#![allow(clippy::unwrap_used)]

use super::super::range::ByteRange;
use super::super::request::Method;
use super::*;
use proptest::prelude::*;

const LIMITS: Settings = Settings { head_bytes: 512, body_bytes: 16, passes_on: false, keeps_all: false };

const KEEPS_ALL: Settings = Settings { keeps_all: true, ..LIMITS };

/// Feeds pieces as a connection would: what was not consumed is offered again, together with what follows.
struct Connection {
    settings: Settings,
    reader: RequestReader,
    pending: Vec<u8>,
    requests: Vec<Request>,
    error: Option<HttpError>,
}

impl Connection {
    fn new() -> Self {
        Self::with(LIMITS)
    }

    fn with(settings: Settings) -> Self {
        Self { settings, reader: RequestReader::new(settings), pending: Vec::new(), requests: Vec::new(), error: None }
    }

    fn input(&mut self, piece: &[u8]) {
        self.pending.extend_from_slice(piece);
        while self.error.is_none() {
            let taken = self.reader.handle_input(&self.pending);
            self.reader = RequestReader::restore(self.settings, &self.reader.save()).unwrap();
            match taken {
                Ok(taken) => drop(self.pending.drain(..taken)),
                Err(error) => self.error = Some(error),
            }
            let Some(request) = self.reader.poll_request() else { break };
            assert_eq!(self.reader.handle_input(b"GET"), Ok(0), "a request is being answered");
            self.reader = RequestReader::restore(self.settings, &self.reader.save()).unwrap();
            self.requests.push(request);
            self.reader.next_request();
        }
    }
}

fn read(bytes: &[u8]) -> Result<Vec<Request>, HttpError> {
    let mut connection = Connection::new();
    connection.input(bytes);
    connection.error.map_or(Ok(connection.requests), Err)
}

fn one(head: &str) -> Result<Request, HttpError> {
    read(head.as_bytes()).map(|mut requests| {
        assert_eq!(requests.len(), 1, "{head:?}");
        requests.remove(0)
    })
}

#[test]
fn a_browser_s_request() {
    let head =
        "GET /live/x.m3u8?a=1 HTTP/1.1\r\nHost: a.example:8080\r\nUser-Agent: Mozilla/5.0 (X11)\r\nAccept: */*\r\nRange: bytes=0-\r\n\r\n";
    let request = one(head).unwrap();
    assert_eq!((request.method, request.path.as_str(), request.query.as_str()), (Method::Get, "/live/x.m3u8", "a=1"));
    assert_eq!(request.host.as_deref(), Some("a.example:8080"));
    assert_eq!(request.range, Some(ByteRange::From { first: 0, last: None }));
    assert!(request.keep_alive);
}

#[test]
fn whom_a_request_comes_from_is_read_from_all_its_headers_in_their_order() {
    let head =
        "GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 192.0.2.1\r\nContent-Length: 0\r\nx-forwarded-for: 10.0.0.2, 10.0.0.1\r\n\r\n";
    let request = one(head).unwrap();
    let client = |hops: usize| {
        let asked = std::cell::Cell::new(0);
        let trusted = |_| asked.replace(asked.get() + 1) < hops;
        request.forwarded.client("10.0.0.9:1".parse().unwrap(), trusted).to_string()
    };
    assert_eq!([0, 1, 2, 3, 9].map(client), ["10.0.0.9:1", "10.0.0.1:0", "10.0.0.2:0", "192.0.2.1:0", "192.0.2.1:0"]);
    assert!(!request.forwarded.is_malformed());
}

#[test]
fn connections_are_kept_as_version_and_header_say() {
    for (version, header, kept) in [
        ("1.1", "", true),
        ("1.1", "Connection: close\r\n", false),
        ("1.1", "Connection: foo, Close\r\n", false),
        ("1.0", "", false),
        ("1.0", "Connection: Keep-Alive\r\n", true),
        ("1.0", "connection: keep-alive, close\r\n", false),
    ] {
        assert_eq!(one(&format!("GET / HTTP/{version}\r\nHost: h\r\n{header}\r\n")).unwrap().keep_alive, kept, "{version} {header}");
    }
}

#[test]
fn pipelined_requests_come_one_by_one_and_bodies_are_discarded() {
    let requests = read(b"\r\nGET /1 HTTP/1.1\r\nHost: h\r\nContent-Length: 16\r\n\r\nGET /x HTTP/1.1\n\r\nHEAD /2 HTTP/1.1\nhost:h\n\nOPTIONS * HTTP/1.0\r\n\r\nGET /4").unwrap();
    let seen: Vec<_> = requests.iter().map(|r| (r.method, r.path.as_str())).collect();
    assert_eq!(seen, [(Method::Get, "/1"), (Method::Head, "/2"), (Method::Options, "*")]);
}

#[test]
fn where_everything_is_kept_any_method_comes_with_its_head_and_body() {
    let bytes = b"DELETE /1 HTTP/1.1\r\nHost: h\r\nOrigin: http://a.example\r\n\r\nPOST /2 HTTP/1.1\r\nHost: h\r\nContent-Length: 16\r\n\r\nGET /x HTTP/1.1\nGET /3 HTTP/1.1\r\nHost: h\r\n\r\n";
    for step in [1, 7, bytes.len()] {
        let mut connection = Connection::with(KEEPS_ALL);
        bytes.chunks(step).for_each(|piece| connection.input(piece));
        let seen: Vec<_> = connection.requests.iter().map(|r| (r.method_name().unwrap(), r.path.as_str(), r.body.as_slice())).collect();
        assert_eq!(seen, [("DELETE", "/1", &b""[..]), ("POST", "/2", b"GET /x HTTP/1.1\n"), ("GET", "/3", b"")]);
        assert_eq!(connection.requests[0].field("origin").as_deref(), Some("http://a.example"));
        assert_eq!((connection.requests[0].method, connection.requests[2].method), (Method::Other, Method::Get));
    }
    let mut connection = Connection::with(KEEPS_ALL);
    connection.input(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 17\r\n\r\n");
    assert_eq!(connection.error, Some(HttpError::BodyTooLarge));
}

#[test]
fn smuggling_shapes_are_refused() {
    let with = |headers: &str| one(&format!("GET / HTTP/1.1\r\nHost: h\r\n{headers}\r\n\r\n")).unwrap_err();
    assert_eq!(with("Transfer-Encoding: chunked"), Fault::TransferEncoding.into());
    assert_eq!(with("Content-Length: 4\r\nTransfer-Encoding: chunked"), Fault::TransferEncoding.into());
    assert_eq!(with("transfer-encoding: identity"), Fault::TransferEncoding.into());
    for length in ["18446744073709551615", "18446744073709551616", "-1", "+1", "1, 1", "0x10", "", "1 1", "1\r\nContent-Length: 1"] {
        assert_eq!(with(&format!("Content-Length: {length}")), Fault::ContentLength.into(), "{length:?}");
    }
    assert_eq!(with("Content-Length: 17"), HttpError::BodyTooLarge);
    assert_eq!(with("Content-Length : 1"), Fault::Syntax.into());
    assert_eq!(with("X: a\r\n folded"), Fault::Syntax.into());
    assert_eq!(with("X: a\rContent-Length: 1"), Fault::Syntax.into());
    assert_eq!(with("Host: h"), Fault::Host.into());
    assert_eq!(with("Expect: 100-continue"), HttpError::Expectation);
}

#[test]
fn what_is_not_served() {
    for method in ["POST", "PUT", "DELETE", "CONNECT", "PATCH", "FOO"] {
        assert_eq!(one(&format!("{method} / HTTP/1.1\r\nHost: h\r\n\r\n")), Err(HttpError::Method), "{method}");
    }
    assert_eq!(one("GET / HTTP/2.0\r\n\r\n"), Err(HttpError::Version));
    for head in ["GET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", "GET / HTTP/1.1\r\nHost: u@h\r\n\r\n"] {
        assert_eq!(one(head), Err(Fault::Host.into()), "{head:?}");
    }
    for head in ["GET\r\n\r\n", "GET /\r\n\r\n", "GET  / HTTP/1.1\r\nHost: h\r\n\r\n", "\r\n\r\n\r\n\r\n\r\nGET / HTTP/1.0\r\n\r\n"] {
        assert_eq!(one(head), Err(Fault::Syntax.into()), "{head:?}");
    }
    assert_eq!(one("GET * HTTP/1.0\r\n\r\n"), Err(Fault::Target.into()));
    assert_eq!(one("GET /a/../b HTTP/1.0\r\n\r\n"), Err(Fault::Path.into()));
}

#[test]
fn binary_input_is_refused_at_its_first_control_byte() {
    assert_eq!(read(b"\x16\x03\x01"), Err(Fault::Syntax.into()));
    assert_eq!(read(b"\x03"), Err(Fault::Syntax.into()));
    assert_eq!(read(b"GET /\0"), Err(Fault::Syntax.into()));
}

#[test]
fn a_head_is_limited_while_it_grows_and_fields_are_counted() {
    let mut connection = Connection::new();
    connection.input(b"GET / HTTP/1.1\r\nX: ");
    for _ in 0..LIMITS.head_bytes {
        connection.input(b"x");
    }
    assert_eq!(connection.error, Some(HttpError::HeadTooLarge));
    assert_eq!(connection.reader.handle_input(b"x"), Err(HttpError::HeadTooLarge), "an error stays");
    let mut reader = RequestReader::new(Settings::default());
    let many = format!("GET / HTTP/1.0\r\n{}\r\n", "X: y\r\n".repeat(200));
    assert_eq!(reader.handle_input(many.as_bytes()), Err(HttpError::HeadTooLarge));
}

#[test]
fn a_head_of_exactly_the_limit_is_taken() {
    let frame = "GET / HTTP/1.0\r\nX: \r\n\r\n";
    let head = |bytes: usize| format!("GET / HTTP/1.0\r\nX: {}\r\n\r\n", "x".repeat(bytes - frame.len()));
    assert!(one(&head(LIMITS.head_bytes)).is_ok());
    assert_eq!(one(&head(LIMITS.head_bytes + 1)), Err(HttpError::HeadTooLarge));
}

#[test]
fn an_idle_reader_holds_no_memory() {
    let mut reader = RequestReader::new(LIMITS);
    reader.handle_input(b"GET / HTTP/1.0\r\n").unwrap();
    assert!(!reader.is_idle());
    reader.handle_input(b"\r\n").unwrap();
    reader.poll_request().unwrap();
    reader.next_request();
    assert!(reader.is_idle());
    assert!(matches!(&reader.phase, Phase::Head { gathered, .. } if gathered.capacity() == 0));
}

fn plausible_request() -> impl Strategy<Value = String> {
    let method = prop_oneof![Just("GET"), Just("HEAD"), Just("OPTIONS")];
    let headers = prop::collection::vec(
        prop_oneof![
            Just("Connection: close"),
            Just("Content-Length: 5"),
            Just("Range: bytes=1-2"),
            Just("X: y z"),
            Just("Connection: keep-alive")
        ],
        0..3,
    );
    (method, "/[a-z0-9%.]{0,12}(\\?[a-z=&]{0,8})?", headers, any::<bool>()).prop_map(|(method, target, mut headers, lf)| {
        headers.dedup();
        let end = if lf { "\n" } else { "\r\n" };
        let body = if headers.contains(&"Content-Length: 5") { "12345" } else { "" };
        let headers: String = headers.iter().map(|h| format!("{h}{end}")).collect();
        format!("{method} {target} HTTP/1.1{end}Host: h{end}{headers}{end}{body}")
    })
}

proptest! {
    #[test]
    fn cuts_change_nothing(requests in prop::collection::vec(plausible_request(), 1..5), cuts in prop::collection::vec(1usize..40, 1..60)) {
        let bytes = requests.concat().into_bytes();
        let mut whole = Connection::new();
        whole.input(&bytes);
        let mut cut = Connection::new();
        let mut rest = &bytes[..];
        for length in cuts.into_iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, after) = rest.split_at(length.min(rest.len()));
            cut.input(piece);
            rest = after;
        }
        prop_assert_eq!(&whole.requests, &cut.requests);
        prop_assert_eq!(whole.error, cut.error);
        prop_assert!(whole.error.is_some() || whole.requests.len() == requests.len());
    }

    #[test]
    fn random_bytes_never_panic_and_paths_are_clean(bytes in prop::collection::vec(any::<u8>(), 0..300), target in "[ -~é]{0,40}") {
        let _ = read(&bytes);
        if let Ok(requests) = read(format!("GET /{target} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes()) {
            for request in requests {
                prop_assert!(request.path.starts_with('/') && !request.path.contains(char::is_control));
                prop_assert!(!request.path.split('/').any(|s| s == "." || s == ".."));
                let _ = super::super::route(&request, &[]);
            }
        }
    }
}

proptest! {
    #[test]
    fn a_head_in_one_piece_is_what_it_is_byte_by_byte(
        lines in prop::collection::vec("(GET /a HTTP/1\\.1|Host: h|Content-Length: 3|X: \u{1}|X:\ty|\r|\r\r|)(\r\n|\n|\r\r\n)", 1..12)
    ) {
        let bytes = lines.concat().into_bytes();
        let mut slow = Connection::new();
        bytes.chunks(1).for_each(|byte| slow.input(byte));
        let mut quick = Connection::new();
        quick.input(&bytes);
        prop_assert_eq!(quick.requests, slow.requests);
        prop_assert_eq!(quick.error, slow.error);
        // What is left behind an error nobody looks at.
        prop_assert!(quick.error.is_some() || quick.pending == slow.pending);
    }
}
