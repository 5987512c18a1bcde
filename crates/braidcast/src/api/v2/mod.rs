//! The native API: what each endpoint answers, from the shared directory alone. [`endpoints`] is the table of them, [`openapi`] its document.
//!
//! Looking at everything takes longer than a turn of a worker may: [`Library::outcome`] is for a thread. What has to be done, is said and left to
//! the worker.

pub mod endpoints;
pub mod follow;
pub mod limits;
pub mod openapi;
pub mod tracks;
pub mod types;

use super::answer::Answer;
use crate::clients::Table;
use crate::config::Config;
use crate::control::ConnId;
use crate::control::orders::Order;
use crate::events::Kind;
use crate::status::{self, Status};
use anyhow::Context;
use braidcast_media::StreamKey;
use braidcast_media::key::DEFAULT_VHOST;
use braidcast_protocols::http::{Status as Code, response::content_type};
use braidcast_stream_log::{Reader, Root};
use braidcast_sys::clock;
use endpoints::{Fault, Found, MOST, Operation, PAGE};
use serde::Serialize;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use types::{KickRequest, Kicked, LevelRequest, Page, Session, Stream};

/// The page for people.
const DOCS: &str = include_str!("docs.html");

/// What comes of a request.
#[derive(Debug)]
pub enum Outcome {
    /// It is answered.
    Answer(Answer),
    /// These connections are to be ended; then it is answered.
    Kick(Vec<ConnId>, Answer),
}

/// What answers are made from.
#[derive(Debug)]
pub struct Library {
    shared_dir: PathBuf,
    limits: limits::Values,
    status: Mutex<status::Cached>,
}

impl Library {
    /// Of an instance.
    pub fn new(config: &Config) -> Self {
        let shared_dir = config.server.shared_dir.clone();
        Self { shared_dir, limits: limits::Values::of(config), status: Mutex::default() }
    }

    /// Answers a request that reads, or says whom it wants to be ended. Blocks as long as it takes to look.
    pub fn outcome(&self, found: &Found, body: &[u8]) -> Outcome {
        match self.try_outcome(found, body) {
            Ok(outcome) => outcome,
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "the API cannot read the shared directory");
                Outcome::Answer(Answer::problem(Code::INTERNAL_ERROR, "the shared directory cannot be read; the log says why"))
            }
        }
    }

    fn try_outcome(&self, found: &Found, body: &[u8]) -> anyhow::Result<Outcome> {
        let operation = found.endpoint.operation;
        match operation {
            Operation::Sessions => return self.sessions(found).map(Outcome::Answer),
            Operation::Session | Operation::KickSession => return self.session(found),
            Operation::KickSessions => return self.kick(body),
            _ => {}
        }
        let mut cached = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        let status = cached.read(&self.shared_dir, clock::monotonic_ms())?;
        Ok(Outcome::Answer(self.of_status(found, status)))
    }

    fn of_status(&self, found: &Found, status: &Status) -> Answer {
        let number = |name| found.number(name).unwrap_or_default();
        let name_of = |stream: &status::Stream| format!("{}/{}/{}", stream.vhost, stream.app, stream.stream);
        match found.endpoint.operation {
            Operation::Workers => paged(found, &status.workers, |worker| format!("{:05}", worker.id), |worker| worker.id.to_string()),
            Operation::Worker => one(status.workers.iter().find(|worker| u64::from(worker.id) == number("worker"))),
            Operation::Processes => {
                paged(found, &status.processes, |process| format!("{:05}", process.id), |process| process.id.to_string())
            }
            Operation::Streams => {
                let fits = |stream: &&status::Stream| {
                    found.value("vhost").is_none_or(|vhost| stream.vhost == vhost) && found.value("app").is_none_or(|app| stream.app == app)
                };
                let streams: Vec<&status::Stream> = status.streams.iter().filter(fits).collect();
                let page = page(found, &streams, |stream| name_of(stream), |stream| name_of(stream));
                Answer::json(&Page {
                    items: page.items.iter().map(|stream| self.stream(stream)).collect(),
                    next: page.next,
                    total: page.total,
                })
            }
            Operation::Stream => {
                let named = |name| found.value(name).unwrap_or_default();
                let fits = |stream: &&status::Stream| {
                    stream.vhost == named("vhost") && stream.app == named("app") && stream.stream == named("stream")
                };
                one(status.streams.iter().find(fits).map(|stream| self.stream(stream)).as_ref())
            }
            Operation::Moves => Answer::json(&status.moves),
            Operation::Relays => {
                // Several may be of one stream: their place in the list tells them apart.
                let placed: Vec<(usize, &crate::relays::report::Relay)> = status.relays.iter().enumerate().collect();
                let page = page(found, &placed, |(place, _)| format!("{place:05}"), |(place, _)| place.to_string());
                Answer::json(&Page { items: page.items.into_iter().map(|(_, relay)| relay).collect(), next: page.next, total: page.total })
            }
            Operation::Directory => Answer::json(&status.directory),
            Operation::Limits => Answer::json(&self.limits.now(status)),
            _ => Answer::json(status),
        }
    }

    /// A stream, and what its log says.
    fn stream(&self, stream: &status::Stream) -> Stream {
        let key = StreamKey::new(&stream.vhost, &stream.app, &stream.stream).ok();
        let reader = key.and_then(|key| Reader::open(&Root::new(self.shared_dir.clone()), &key).ok().flatten());
        let tracks = reader.as_ref().map(tracks::tracks_of).unwrap_or_default();
        let has_video = tracks.iter().any(|track| track.kind == "video");
        let key_interval_ms = reader.as_ref().filter(|_| has_video).and_then(tracks::key_interval_ms);
        Stream { stream: stream.clone(), tracks, key_interval_ms }
    }

    /// Everybody who fits, by connection.
    fn fitting(&self, fits: impl Fn(&Session) -> bool) -> anyhow::Result<Vec<(ConnId, Session)>> {
        let mut table = Table::open(&self.shared_dir).context("the table of clients")?;
        let all = table.all().map(|(_, record)| (record.conn, Session::from(record)));
        let mut fitting: Vec<_> = all.filter(|(_, session)| fits(session)).collect();
        fitting.sort_by_key(|(conn, _)| *conn);
        Ok(fitting)
    }

    fn sessions(&self, found: &Found) -> anyhow::Result<Answer> {
        let stream = match found.value("stream").map(stream_name).transpose() {
            Ok(stream) => stream,
            Err(why) => return Ok(Answer::problem(Code::BAD_REQUEST, &why)),
        };
        let Ok(client) = found.value("client").map(str::parse::<IpAddr>).transpose() else {
            return Ok(Answer::problem(Code::BAD_REQUEST, "client is no address"));
        };
        let wanted = Wanted { stream, client, kind: found.value("kind").map(str::to_owned) };
        let fitting = self.fitting(|session| wanted.fits(session))?;
        let page = page(found, &fitting, |(conn, _)| format!("{:020}", conn.0), |(conn, _)| conn.to_string());
        Ok(Answer::json(&Page { items: page.items.into_iter().map(|(_, session)| session).collect(), next: page.next, total: page.total }))
    }

    fn session(&self, found: &Found) -> anyhow::Result<Outcome> {
        let named = found.value("conn").unwrap_or_default();
        let Some((conn, session)) = self.fitting(|session| session.conn == named)?.pop() else {
            return Ok(Outcome::Answer(nothing()));
        };
        Ok(match found.endpoint.operation {
            Operation::KickSession => {
                let kicked = Kicked { conns: vec![conn.to_string()], left: 0 };
                Outcome::Kick(vec![conn], Answer::json_with(Code::ACCEPTED, &kicked))
            }
            _ => Outcome::Answer(Answer::json(&session)),
        })
    }

    fn kick(&self, body: &[u8]) -> anyhow::Result<Outcome> {
        let wanted = match wanted(body) {
            Ok(wanted) => wanted,
            Err(why) => return Ok(Outcome::Answer(Answer::problem(Code::BAD_REQUEST, &why))),
        };
        // Who uses the API is not meant.
        let mut conns: Vec<ConnId> =
            self.fitting(|session| session.stream.is_some() && wanted.fits(session))?.into_iter().map(|(conn, _)| conn).collect();
        let left = conns.len().saturating_sub(MOST);
        conns.truncate(MOST);
        let kicked = Kicked { conns: conns.iter().map(ToString::to_string).collect(), left };
        Ok(Outcome::Kick(conns, Answer::json_with(Code::ACCEPTED, &kicked)))
    }
}

/// Which sessions are meant.
struct Wanted {
    stream: Option<StreamKey>,
    client: Option<IpAddr>,
    kind: Option<String>,
}

impl Wanted {
    fn fits(&self, session: &Session) -> bool {
        let of_stream = |key: &StreamKey| {
            let named = [&session.vhost, &session.app, &session.stream].map(|name| name.as_deref().unwrap_or_default());
            named == [key.vhost(), key.app(), key.stream()]
        };
        let from = |client: &IpAddr| {
            let address = session.client.parse::<std::net::SocketAddr>().map(|address| address.ip().to_canonical());
            address.is_ok_and(|address| address == client.to_canonical())
        };
        self.stream.as_ref().is_none_or(of_stream)
            && self.client.as_ref().is_none_or(from)
            && self.kind.as_ref().is_none_or(|kind| session.kind == *kind)
    }
}

fn wanted(body: &[u8]) -> Result<Wanted, String> {
    let asked: KickRequest = serde_json::from_slice(body).map_err(|error| format!("the content is not what it has to be: {error}"))?;
    let KickRequest { stream, client, kind } = asked;
    if stream.is_none() && client.is_none() && kind.is_none() {
        return Err("say at least one of stream, client and kind".into());
    }
    Ok(Wanted { stream: stream.as_deref().map(stream_name).transpose()?, client, kind })
}

/// The order that a request for other levels of log lines stands for.
///
/// # Errors
/// The content is not what it has to be.
pub fn log_levels(body: &[u8]) -> Result<Order, String> {
    let LevelRequest { reset, set } =
        serde_json::from_slice(body).map_err(|error| format!("the content is not what it has to be: {error}"))?;
    match set.is_empty() && !reset {
        true => Err("say set, or reset".into()),
        false => Ok(Order::LogLevels { reset, set }),
    }
}

/// `vhost/app/stream` or `app/stream`; what has more levels begins with its vhost.
fn stream_name(name: &str) -> Result<StreamKey, String> {
    let levels: Vec<&str> = name.split('/').collect();
    let key = match levels[..] {
        [app, stream] => StreamKey::new(DEFAULT_VHOST, app, stream),
        [vhost, ref app @ .., stream] if !app.is_empty() => StreamKey::new(vhost, &app.join("/"), stream),
        _ => return Err(format!("{name:?} names no stream; they are written vhost/app/stream")),
    };
    key.map_err(|error| format!("{name:?} names no stream: {error}"))
}

/// The connection of a name, as [`ConnId`] writes it; none that a worker has opened by itself.
pub fn conn(name: &str) -> Option<ConnId> {
    let digits = name.strip_prefix('c')?;
    let conn = ConnId(digits.parse().ok()?);
    (conn.to_string() == name).then_some(conn)
}

/// The kinds of events that a list names.
///
/// # Errors
/// One of them is none.
pub fn kinds(list: &str) -> Result<Vec<Kind>, String> {
    let kind = |name: &str| match serde_json::from_value(name.into()) {
        Ok(Kind::Unknown) | Err(_) => Err(format!("{name:?} is no kind of event")),
        Ok(kind) => Ok(kind),
    };
    list.split(',').map(str::trim).filter(|name| !name.is_empty()).map(kind).collect()
}

/// What is told of something wrong with a request.
pub fn fault(fault: &Fault) -> Answer {
    match fault {
        Fault::NoPath => Answer::problem(Code::NOT_FOUND, "no such endpoint; /api/v2/openapi.json lists those there are"),
        Fault::NoMethod(allowed) => Answer::problem(Code::METHOD_NOT_ALLOWED, &format!("here there are {allowed}")).field("Allow", allowed),
        Fault::Parameter(why) => Answer::problem(Code::BAD_REQUEST, why),
    }
}

/// The document, or the page that shows it.
pub fn shape(operation: Operation) -> Answer {
    match operation {
        Operation::Page => Answer::new(Code::OK, content_type::HTML, DOCS)
            .field(
                "Content-Security-Policy",
                "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'",
            )
            .field("X-Frame-Options", "DENY"),
        _ => Answer::new(Code::OK, content_type::JSON, openapi::document()),
    }
}

fn one<T: Serialize>(found: Option<&T>) -> Answer {
    found.map_or_else(nothing, Answer::json)
}

fn nothing() -> Answer {
    Answer::problem(Code::NOT_FOUND, "there is none of this name now")
}

fn paged<T: Serialize>(found: &Found, all: &[T], order: impl Fn(&T) -> String, name: impl Fn(&T) -> String) -> Answer {
    Answer::json(&page(found, all, order, name))
}

/// The part of a list that a request asks for. `order` is what entries are sorted by, and `name` what is said as `after`: numbers are compared as
/// such.
fn page<'a, T>(found: &Found, all: &'a [T], order: impl Fn(&T) -> String, name: impl Fn(&T) -> String) -> Page<&'a T> {
    let limit = found.number("limit").and_then(|limit| usize::try_from(limit).ok()).unwrap_or(PAGE);
    let mut sorted: Vec<(String, &T)> = all.iter().map(|entry| (order(entry), entry)).collect();
    sorted.sort_by(|(one, _), (other, _)| one.cmp(other));
    // One that is gone meanwhile still says where it was.
    let after = found.value("after").map(|after| match after.trim_start_matches('c').parse::<u64>() {
        Ok(number) => sorted.first().map_or(String::new(), |(order, _)| format!("{number:0width$}", width = order.len())),
        Err(_) => after.to_owned(),
    });
    let from = after.map_or(0, |after| sorted.partition_point(|(order, _)| *order <= after));
    let mut items: Vec<&T> = sorted[from..].iter().take(limit + 1).map(|(_, entry)| *entry).collect();
    let more = items.len() > limit;
    items.truncate(limit);
    let next = items.last().filter(|_| more).map(|last| name(last));
    Page { items, next, total: all.len() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
