//! SRS's HTTP API (`/api/v1/…`): the same envelope, fields, types and error codes, over all workers at once.
//!
//! [`answer`] is a pure function of a [`Snapshot`]. What a query string holds may be a secret: none is ever shown.

mod lists;
mod snapshot;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
mod words;

pub use snapshot::{Snapshot, Snapshots};

use super::ids;
use crate::control::ConnId;
use crate::engine::api::leading_number;
use braidcast_protocols::http::parameter;
use serde_json::{Map, Value, json};

/// The error codes of SRS that are answered here.
const NO_VHOST: i64 = 2014;
const NO_STREAM: i64 = 2048;
const NO_CLIENT: i64 = 2049;
/// A list is never shorter than this, if there is so much: SRS reads a smaller `count` as this.
const MIN_COUNT: usize = 10;
/// The most of a list that one answer holds: some megabytes.
const MAX_COUNT: usize = 10_000;
/// The longest name of a callback.
const MAX_CALLBACK_BYTES: usize = 64;

/// What somebody asks.
#[derive(Clone, Debug)]
pub struct Request {
    /// `GET`, `DELETE`, …
    pub method: String,
    /// From `/api/` on, percent-decoded.
    pub path: String,
    /// As it was sent.
    pub query: String,
    /// Whether `callback` is obeyed (`[api] jsonp`).
    pub jsonp: bool,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status code.
    pub status: u16,
    /// The field `Content-Type`.
    pub content_type: &'static str,
    /// The content.
    pub body: Vec<u8>,
    /// A client that is to be gone.
    pub kick: Option<ConnId>,
}

impl Answer {
    fn text(status: u16, text: &str) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body: text.as_bytes().to_vec(), kick: None }
    }

    fn json(body: &Value) -> Self {
        Self { status: 200, content_type: "application/json", body: body.to_string().into_bytes(), kick: None }
    }

    /// An error of SRS: the status is 200, as it is there.
    fn code(code: i64) -> Self {
        Self::json(&json!({ "code": code }))
    }

    /// Puts an answer into a call of JavaScript.
    fn called(self, callback: &str) -> Self {
        let body = [callback.as_bytes(), b"(", &self.body, b")"].concat();
        Self { content_type: "text/javascript", body, ..self }
    }
}

/// An endpoint that there is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Endpoint<'a> {
    Root,
    V1,
    Versions,
    Features,
    Authors,
    Summaries,
    /// A part of what the front sees of processes and machine.
    Machine(&'static str),
    Vhosts(&'a str),
    Streams(&'a str),
    Clients(&'a str),
}

impl<'a> Endpoint<'a> {
    /// SRS redirects lists without a slash at their end; here both forms are the list.
    fn of(path: &'a str) -> Option<Self> {
        let rest = path.strip_prefix("/api")?;
        if rest.is_empty() || rest == "/" {
            return Some(Self::Root);
        }
        let rest = rest.strip_prefix("/v1")?;
        if rest.is_empty() || rest == "/" {
            return Some(Self::V1);
        }
        let (name, id) = rest.strip_prefix('/')?.split_once('/').unwrap_or((rest.get(1..)?, ""));
        let alone = |endpoint: Self| Some(endpoint).filter(|_| id.is_empty());
        match name {
            "vhosts" => Some(Self::Vhosts(id)),
            "streams" => Some(Self::Streams(id)),
            "clients" => Some(Self::Clients(id)),
            "versions" => alone(Self::Versions),
            "features" => alone(Self::Features),
            "authors" => alone(Self::Authors),
            "summaries" => alone(Self::Summaries),
            "rusages" => alone(Self::Machine("rusages")),
            "self_proc_stats" => alone(Self::Machine("self_proc_stats")),
            "system_proc_stats" => alone(Self::Machine("system_proc_stats")),
            "meminfos" => alone(Self::Machine("meminfos")),
            _ => None,
        }
    }
}

/// Whether there is something to answer at this path.
pub fn is_known(path: &str) -> bool {
    Endpoint::of(path).is_some()
}

/// Answers a request.
pub fn answer(snapshot: &Snapshot, request: &Request) -> Answer {
    let Some(endpoint) = Endpoint::of(&request.path) else { return Answer::text(404, "Not Found") };
    let callback = match parameter(&request.query, "callback").filter(|name| request.jsonp && !name.is_empty()) {
        Some(name) if !is_callback(&name) => {
            return Answer::text(400, "a callback's name has letters, digits, '.', '_' and '$' alone, and is no longer than 64 characters");
        }
        other => other,
    };
    let answer = answer_at(snapshot, request, &endpoint);
    match callback {
        Some(name) if answer.content_type == "application/json" => answer.called(&name),
        _ => answer,
    }
}

/// It becomes a part of a program that a browser runs: nothing but a name may pass.
fn is_callback(name: &str) -> bool {
    name.len() <= MAX_CALLBACK_BYTES && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._$".contains(&byte))
}

fn answer_at(snapshot: &Snapshot, request: &Request, endpoint: &Endpoint<'_>) -> Answer {
    let reads = request.method == "GET";
    let envelope = |key: &str, content: Value| {
        let mut body = snapshot.envelope();
        body.insert(key.to_owned(), content);
        Answer::json(&Value::Object(body))
    };
    match endpoint {
        Endpoint::Root => envelope("urls", json!({ "api": "the api root" })),
        Endpoint::V1 => envelope("urls", words::urls()),
        Endpoint::Versions => envelope("data", words::versions()),
        Endpoint::Features => envelope("data", words::features()),
        Endpoint::Authors => envelope("data", words::authors()),
        Endpoint::Summaries => envelope("data", snapshot.summaries()),
        Endpoint::Machine(part) => envelope("data", snapshot.machine_part(part)),
        Endpoint::Vhosts("") if reads => envelope("vhosts", lists::vhosts(snapshot).into()),
        Endpoint::Streams("") if reads => {
            page(snapshot, request, "streams", snapshot.streams.len(), |at| lists::stream(&snapshot.streams[at]))
        }
        Endpoint::Clients("") if reads => {
            page(snapshot, request, "clients", snapshot.clients.len(), |at| lists::client(&snapshot.clients[at]))
        }
        Endpoint::Vhosts(id) if !id.is_empty() => match lists::vhosts(snapshot).into_iter().find(|vhost| vhost["id"] == **id) {
            None => Answer::code(NO_VHOST),
            Some(_) if !reads => not_allowed(),
            Some(vhost) => envelope("vhost", vhost),
        },
        Endpoint::Streams(id) if !id.is_empty() => match snapshot.streams.iter().find(|stream| stream.id == **id) {
            None => Answer::code(NO_STREAM),
            Some(_) if !reads => not_allowed(),
            Some(stream) => envelope("stream", lists::stream(stream)),
        },
        Endpoint::Clients(id) => {
            let client = ids::client_of(id).and_then(|conn| snapshot.client(conn));
            match (client, request.method.as_str()) {
                (None, "DELETE") => Answer::code(NO_CLIENT),
                (None, _) if !id.is_empty() => Answer::code(NO_CLIENT),
                (Some(client), "GET") => envelope("client", lists::client(client)),
                (Some(client), "DELETE") => {
                    let body = Value::Object(snapshot.envelope());
                    Answer { kick: Some(client.conn), ..Answer::json(&body) }
                }
                _ => not_allowed(),
            }
        }
        Endpoint::Vhosts(_) | Endpoint::Streams(_) => not_allowed(),
    }
}

fn not_allowed() -> Answer {
    Answer::text(405, "Method Not Allowed")
}

/// A part of a list, and how long the whole list is.
fn page(snapshot: &Snapshot, request: &Request, key: &str, total: usize, item: impl Fn(usize) -> Value) -> Answer {
    let number = |name| parameter(&request.query, name).map_or(0, |text| leading_number(&text));
    let (start, count) = (number("start").min(total), number("count").clamp(MIN_COUNT, MAX_COUNT));
    let items: Vec<Value> = (start..total.min(start + count)).map(item).collect();
    let mut body = snapshot.envelope();
    body.insert(key.to_owned(), items.into());
    body.insert("total".to_owned(), total.into());
    Answer::json(&Value::Object(body))
}

impl Snapshot {
    /// What every answer begins with.
    fn envelope(&self) -> Map<String, Value> {
        let mut envelope = Map::new();
        envelope.insert("code".into(), 0.into());
        envelope.insert("server".into(), self.server.clone().into());
        envelope.insert("service".into(), self.service.clone().into());
        envelope.insert("pid".into(), self.pid.to_string().into());
        envelope
    }
}
