//! HTTP: requests and where they lead; answers; ranges and times.

use crate::cut::Cuts;
use crate::{bounded, names};
use braidcast_protocols::hls::clock::{ClipTime, format_iso8601};
use braidcast_protocols::http::{
    Answer, AnswerError, AnswerReader, ByteRange, HttpError, Request, RequestReader, Route, Settings, Span, is_index_name, parameter,
    parameters, percent_decode, route,
};

const SETTINGS: Settings = Settings { head_bytes: 1024, body_bytes: 64, passes_on: false, keeps_all: false };

/// Requests of one connection, one behind the other, and what they ask for.
pub fn requests(input: &[u8]) {
    requests_with(SETTINGS, input);
    requests_with(Settings { keeps_all: true, ..SETTINGS }, input);
}

fn requests_with(settings: Settings, input: &[u8]) {
    let whole = bounded(input, 24, 32 << 10, || read(settings, input, &mut Cuts::none()));
    assert_eq!(read(settings, input, &mut Cuts::of(input)), whole, "the pieces of the input, or a restored reader, made a difference");
    let (requests, error) = whole;
    for request in &requests {
        check_request(request);
        for vhosts in [&[][..], &["a.example".to_owned()]] {
            check_route(&route(request, vhosts));
        }
    }
    if let Some(error) = error {
        assert!((400..=505).contains(&error.status().0), "{error}");
    }
}

fn read(settings: Settings, input: &[u8], cuts: &mut Cuts) -> (Vec<Request>, Option<HttpError>) {
    let mut reader = RequestReader::new(settings);
    let mut requests = Vec::new();
    let mut rest = input;
    while !rest.is_empty() {
        let piece = cuts.piece(rest.len());
        let used = match reader.handle_input(&rest[..piece]) {
            Ok(used) => used,
            Err(error) => {
                assert_eq!(reader.handle_input(b"GET"), Err(error), "an error stays");
                return (requests, Some(error));
            }
        };
        rest = &rest[used..];
        if cuts.restores() {
            let saved = reader.save();
            assert!(saved.len() <= 3 * SETTINGS.head_bytes + 64, "{} bytes are saved", saved.len());
            reader = RequestReader::restore(settings, &saved).expect("what was saved can be restored");
        }
        let request = reader.poll_request();
        assert!(used == piece || request.is_some(), "input is left although no request is whole");
        if let Some(request) = request {
            assert_eq!(reader.handle_input(b"GET"), Ok(0), "nothing is taken while a request is answered");
            requests.push(request);
            reader.next_request();
        }
    }
    (requests, None)
}

/// The answer to a request of ours.
pub fn answers(input: &[u8]) {
    let whole = bounded(input, 24, 32 << 10, || read_answer(input, &mut Cuts::none()));
    assert_eq!(read_answer(input, &mut Cuts::of(input)), whole, "the pieces of the input made a difference");
    assert!(whole.map_or(0, |answer| answer.body.len()) <= 256, "a longer body than is allowed");
}

fn read_answer(input: &[u8], cuts: &mut Cuts) -> Result<Answer, AnswerError> {
    let mut reader = AnswerReader::new(1024, 256);
    let mut rest = input;
    while !rest.is_empty() {
        let (piece, behind) = rest.split_at(cuts.piece(rest.len()));
        if reader.handle_input(piece)? {
            break;
        }
        rest = behind;
    }
    reader.finish()
}

fn check_request(request: &Request) {
    assert!(request.path.starts_with('/') || request.path == "*", "{}", request.path);
    assert!(!request.path.contains(char::is_control), "a path holds a control character");
    assert!(request.path.split(['/', '\\']).all(|level| level != "." && level != ".."), "a path leads elsewhere: {}", request.path);
    assert!(!request.query.contains(['\r', '\n', '\0']), "a query would end a line where it is written");
    assert!(request.path.len() + request.query.len() <= SETTINGS.head_bytes);
}

fn check_route(route: &Route) {
    match route {
        Route::Live { key, .. } | Route::LiveIndex { key, .. } => names::check_key(key),
        Route::NamedIndex { key, name, or_live, .. } => {
            names::check_key(key);
            or_live.iter().for_each(names::check_key);
            assert!(is_index_name(name) && !name.contains(['/', '\\']) && !name.starts_with('.'), "{name}");
        }
        Route::Segment { key, number, .. } => {
            names::check_key(key);
            assert!(*number > 0);
        }
        Route::Asset(path) => assert!(!path.split('/').any(|level| level == ".."), "{path}"),
        Route::Api(path) => assert!(path.starts_with("/api/"), "{path}"),
        Route::Page | Route::NotFound | Route::BadName(_) | Route::BadClip(_) | Route::BadTracks => {}
    }
}

/// A range, a time, a query: each line is tried as all of them.
pub fn values(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    for line in text.split('\n') {
        if let Some(range) = ByteRange::parse(line) {
            [0, 1, 188, u64::MAX].into_iter().for_each(|length| check_span(range, length));
        }
        if let Ok(time) = ClipTime::parse(line) {
            for now_ms in [0, 1_790_000_000_000, u64::MAX] {
                let resolved = time.resolve(now_ms);
                let written = format_iso8601(resolved);
                // Years beyond 9999 have no way to be written.
                if resolved < 253_402_300_800_000 {
                    assert_eq!(ClipTime::parse(&written), Ok(ClipTime::At(resolved)), "{written}");
                }
            }
        }
        if let Some(decoded) = percent_decode(line) {
            assert!(decoded.len() <= line.len());
        }
        for (name, value, pair) in parameters(line) {
            assert!(name.len() + value.len() <= pair.len());
            let _ = parameter(line, name);
        }
    }
}

fn check_span(range: ByteRange, length: u64) {
    if let Span::Part { first, bytes } = range.span(length) {
        assert!(bytes > 0 && first.checked_add(bytes).is_some_and(|end| end <= length), "{range:?} of {length}");
    }
}
