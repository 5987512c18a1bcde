//! What a request asks for: from path, query and host to a stream, a segment, an index, or the page.
//!
//! The extension decides: `/app/stream.flv` (or `.ts`, `.aac`, `.mp3`), `/app/stream.m3u8`, `/app/stream/NAME.m3u8`, `/app/stream/N.ts`, where the app may have
//! several levels. Nothing here knows which streams exist.

use super::request::Request;
use super::target::parameter;
use crate::hls::clock::{ClipTime, ClockError};
use braidcast_media::{KeyError, StreamKey, TrackChoice, vhost};
use serde::{Deserialize, Serialize};

/// The longest name of an index, in bytes.
const MAX_INDEX_NAME_BYTES: usize = 80;

/// The part of a stream's past that an index shall cover, as the query's `start` and `end` say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clip {
    /// From here on; `None`: from the oldest segment.
    pub start: Option<ClipTime>,
    /// Up to here; `None`: up to the newest segment.
    pub end: Option<ClipTime>,
}

/// A form in which a stream is watched over one endless answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LiveForm {
    /// HTTP-FLV.
    Flv,
    /// MPEG-TS.
    Ts,
    /// AAC in ADTS frames.
    Aac,
    /// MP3 frames.
    Mp3,
}

/// What a request asks for. `params` is the query as it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// A stream, live.
    Live {
        /// The stream.
        key: StreamKey,
        /// In which form.
        form: LiveForm,
        /// Which tracks: `only=audio`, `only=video`, `tracks=all`; else one of each kind.
        tracks: TrackChoice,
        /// The query.
        params: String,
    },
    /// A stream's live index, or an index of a part of its past.
    LiveIndex {
        /// The stream.
        key: StreamKey,
        /// The part that was asked for; `None`: the live window.
        clip: Option<Clip>,
        /// The query.
        params: String,
    },
    /// An index file of a stream, by name. `/a/b/c.m3u8` is the index `c` of the stream `b` of app `a` if there is such a file,
    /// else the live index of `or_live`, the stream `c` of app `a/b`.
    NamedIndex {
        /// The stream.
        key: StreamKey,
        /// The index's name without extension: letters, digits, `_`, `-`, `.`, not first a `.`.
        name: String,
        /// The other reading of the path, if it is one.
        or_live: Option<StreamKey>,
        /// The query.
        params: String,
    },
    /// A segment.
    Segment {
        /// The stream.
        key: StreamKey,
        /// Its number, from 1.
        number: u64,
        /// The query.
        params: String,
    },
    /// The web page.
    Page,
    /// A file that belongs to the web page: the path below `/assets/`; browsers ask for the icon as `/favicon.ico` as well.
    Asset(String),
    /// The HTTP API: the path, from `/api/` on.
    Api(String),
    /// Nothing that is served here.
    NotFound,
    /// The path is of a known form, but a name in it cannot be a stream's.
    BadName(KeyError),
    /// `start` or `end` is no time.
    BadClip(ClockError),
    /// `only` or `tracks` is no choice of tracks.
    BadTracks,
}

impl Route {
    /// The same route with another stream instead of each that it names.
    pub fn map_key(mut self, other: impl Fn(StreamKey) -> StreamKey) -> Self {
        match &mut self {
            Self::Live { key, .. } | Self::LiveIndex { key, .. } | Self::Segment { key, .. } => *key = other(key.clone()),
            Self::NamedIndex { key, or_live, .. } => {
                *key = other(key.clone());
                *or_live = or_live.take().map(other);
            }
            Self::Page | Self::Asset(_) | Self::Api(_) | Self::NotFound | Self::BadName(_) | Self::BadClip(_) | Self::BadTracks => {}
        }
        self
    }
}

/// Says what a request asks for. `vhosts` are those of the configuration, as in [`vhost::restrict`].
pub fn route(request: &Request, vhosts: &[String]) -> Route {
    match media(request, vhosts) {
        Some(route) => route,
        None => other(&request.path),
    }
}

fn other(path: &str) -> Route {
    match path {
        "/" | "/index.html" => Route::Page,
        "/favicon.ico" => Route::Asset("icon.svg".to_owned()),
        _ if path.starts_with("/api/") => Route::Api(path.to_owned()),
        _ => match path.strip_prefix("/assets/") {
            Some(asset) if !asset.is_empty() => Route::Asset(asset.to_owned()),
            _ => Route::NotFound,
        },
    }
}

/// `None`: not the form of a media path.
fn media(request: &Request, vhosts: &[String]) -> Option<Route> {
    let (directory, file) = request.path.strip_prefix('/')?.rsplit_once('/')?;
    let (name, extension) = file.rsplit_once('.')?;
    let directory: Vec<&str> = directory.split('/').filter(|level| *level != "_definst_").collect();
    let vhost = vhost_of(request);
    let key = |app: &[&str], stream| StreamKey::new(&vhost, &app.join("/"), stream).map(|key| vhost::restrict(key, vhosts));
    let params = request.query.clone();
    let in_app = key(&directory, name);
    let in_stream = || directory.split_last().filter(|(_, app)| !app.is_empty()).map(|(stream, app)| key(app, stream));
    let live = |form, params| match tracks(&request.query) {
        Some(tracks) => in_app.clone().map(|key| Route::Live { key, form, tracks, params }),
        None => Ok(Route::BadTracks),
    };
    let route = match extension {
        "flv" => live(LiveForm::Flv, params),
        "aac" => live(LiveForm::Aac, params),
        "mp3" => live(LiveForm::Mp3, params),
        "m3u8" => {
            let clip = match clip(&request.query) {
                Ok(clip) => clip,
                Err(error) => return Some(Route::BadClip(error)),
            };
            match in_stream() {
                // A named index is a file as it is: it has no parts to ask for.
                Some(Ok(key)) if clip.is_none() && is_index_name(name) => {
                    Ok(Route::NamedIndex { key, name: name.to_owned(), or_live: in_app.ok(), params })
                }
                _ => in_app.map(|key| Route::LiveIndex { key, clip, params }),
            }
        }
        "ts" => match segment_number(name).zip(in_stream()) {
            // A stream that is called like a segment cannot be had in this form.
            Some((number, key)) => key.map(|key| Route::Segment { key, number, params }),
            None => live(LiveForm::Ts, params),
        },
        _ => return None,
    };
    Some(route.unwrap_or_else(Route::BadName))
}

/// Which tracks a query asks for; `None` if that is no choice.
fn tracks(query: &str) -> Option<TrackChoice> {
    let value = |name| parameter(query, name).filter(|value| !value.is_empty());
    match (value("only").as_deref(), value("tracks").as_deref()) {
        (None, None) => Some(TrackChoice::First),
        (None, Some("all")) => Some(TrackChoice::All),
        (Some("audio"), None) => Some(TrackChoice::Audio),
        (Some("video"), None) => Some(TrackChoice::Video),
        _ => None,
    }
}

/// `vhost=`, else `domain=`, else the host.
fn vhost_of(request: &Request) -> String {
    let named = ["vhost", "domain"].into_iter().find_map(|name| parameter(&request.query, name).filter(|value| !value.is_empty()));
    vhost::of_host(named.as_deref().or(request.host.as_deref()).unwrap_or_default())
}

/// The one way to write a segment's number: decimal, from 1, no sign, no leading zero.
fn segment_number(name: &str) -> Option<u64> {
    let first = *name.as_bytes().first()?;
    (name.bytes().all(|b| b.is_ascii_digit()) && first != b'0').then(|| name.parse().ok())?
}

/// Whether `name` may name an index; as a file name it needs no encoding.
pub fn is_index_name(name: &str) -> bool {
    let fits = !name.is_empty() && name.len() <= MAX_INDEX_NAME_BYTES && !name.starts_with('.');
    fits && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
}

fn clip(query: &str) -> Result<Option<Clip>, ClockError> {
    let time = |name| parameter(query, name).filter(|value| !value.is_empty()).map(|value| ClipTime::parse(&value)).transpose();
    let (start, end) = (time("start")?, time("end")?);
    Ok((start.is_some() || end.is_some()).then_some(Clip { start, end }))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::reader::{RequestReader, Settings};
    use super::*;
    use braidcast_media::key::DEFAULT_VHOST;

    fn at(target: &str, host: &str) -> Route {
        let mut reader = RequestReader::new(Settings::default());
        reader.handle_input(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).unwrap();
        route(&reader.poll_request().unwrap(), &[])
    }

    fn key(app: &str, stream: &str) -> StreamKey {
        StreamKey::new(DEFAULT_VHOST, app, stream).unwrap()
    }

    fn flv(app: &str, stream: &str, params: &str) -> Route {
        Route::Live { key: key(app, stream), form: LiveForm::Flv, tracks: TrackChoice::First, params: params.into() }
    }

    fn none() -> String {
        String::new()
    }

    #[test]
    fn streams_by_flv() {
        assert_eq!(at("/live/x.flv", "localhost:8080"), flv("live", "x", ""));
        assert_eq!(at("/a/b/c.flv", "[::1]"), flv("a/b", "c", ""));
        assert_eq!(at("/live/x.y.flv?token=1", "h"), flv("live", "x.y", "token=1"));
        assert_eq!(at("/live/a%20b.flv", "h"), flv("live", "a b", ""));
        assert!(matches!(at("/live/x.flv", "A.example:8080"), Route::Live { key, .. } if key.vhost() == "a.example"));
        assert!(matches!(at("/live/x.flv?vhost=b.example", "a.example"), Route::Live { key, .. } if key.vhost() == "b.example"));
        assert!(matches!(at("/live/x.flv?vhost=&domain=c.example", "a.example"), Route::Live { key, .. } if key.vhost() == "c.example"));
        assert_eq!(at("/live/_definst_/x.flv", "h"), flv("live", "x", ""));
        assert!(matches!(at("/live/x.flv?domain=b.example", "a.example"), Route::Live { key, .. } if key.vhost() == "b.example"));
    }

    #[test]
    fn segments_belong_to_the_stream_before_them() {
        assert_eq!(at("/a/b/3.ts", "h"), Route::Segment { key: key("a", "b"), number: 3, params: none() });
        assert_eq!(at("/a/b/c/3.ts?t=1", "h"), Route::Segment { key: key("a/b", "c"), number: 3, params: "t=1".into() });
        for target in ["/b/3.ts", "/a/b/0.ts", "/a/b/03.ts", "/a/b/x.ts", "/a/b/+3.ts", "/a/b/99999999999999999999.ts"] {
            assert!(matches!(at(target, "h"), Route::Live { form: LiveForm::Ts, .. }), "{target}");
        }
    }

    #[test]
    fn forms_and_tracks_of_a_live_stream() {
        let live = |target| match at(target, "h") {
            Route::Live { form, tracks, .. } => Some((form, tracks)),
            other => {
                assert_eq!(other, Route::BadTracks);
                None
            }
        };
        assert_eq!(live("/live/x.aac?token=1"), Some((LiveForm::Aac, TrackChoice::First)));
        assert_eq!(live("/live/x.mp3"), Some((LiveForm::Mp3, TrackChoice::First)));
        assert_eq!(live("/live/x.ts?only=audio"), Some((LiveForm::Ts, TrackChoice::Audio)));
        assert_eq!(live("/live/x.flv?only=video"), Some((LiveForm::Flv, TrackChoice::Video)));
        assert_eq!(live("/live/x.flv?tracks=all"), Some((LiveForm::Flv, TrackChoice::All)));
        assert_eq!(live("/live/x.flv?only=&tracks="), Some((LiveForm::Flv, TrackChoice::First)));
        for target in ["/live/x.flv?only=sound", "/live/x.flv?tracks=2", "/live/x.flv?only=audio&tracks=all"] {
            assert_eq!(live(target), None, "{target}");
        }
    }

    #[test]
    fn indexes_live_named_and_by_time() {
        assert_eq!(at("/live/x.m3u8", "h"), Route::LiveIndex { key: key("live", "x"), clip: None, params: none() });
        let named =
            Route::NamedIndex { key: key("live", "x"), name: "live001".into(), or_live: Some(key("live/x", "live001")), params: none() };
        assert_eq!(at("/live/x/live001.m3u8", "h"), named);
        let clip = Some(Clip { start: Some(ClipTime::parse("-90s").unwrap()), end: None });
        assert_eq!(
            at("/live/x.m3u8?start=-90s&end=", "h"),
            Route::LiveIndex { key: key("live", "x"), clip, params: "start=-90s&end=".into() }
        );
        assert!(matches!(at("/a/b/c.m3u8?start=-90s", "h"), Route::LiveIndex { key: k, .. } if k == key("a/b", "c")));
        assert!(matches!(at("/a/b/%E4%BD%A0.m3u8", "h"), Route::LiveIndex { key: k, .. } if k == key("a/b", "你")));
        assert!(matches!(at("/live/x.m3u8?start=tomorrow", "h"), Route::BadClip(_)));
    }

    #[test]
    fn the_page_its_assets_and_the_api() {
        assert_eq!(at("/", "h"), Route::Page);
        assert_eq!(at("/assets/player.js", "h"), Route::Asset("player.js".into()));
        assert_eq!(at("/api/v1/streams", "h"), Route::Api("/api/v1/streams".into()));
        for target in ["/x", "/x/y", "/x/y.mp4", "/assets/", "/.flv", "/x.flv"] {
            assert_eq!(at(target, "h"), Route::NotFound, "{target}");
        }
    }

    #[test]
    fn names_that_no_stream_can_have() {
        for target in ["/live/.flv", "/a//b.flv", "//b.flv", "/a\\b/c.flv", "/a%5cb/c.m3u8"] {
            assert!(matches!(at(target, "h"), Route::BadName(_)), "{target}");
        }
        assert!(matches!(at(&format!("/live/{}.flv", "x".repeat(200)), "h"), Route::BadName(KeyError::TooLong("stream"))));
    }
}
