//! What the native API answers with and is asked with, beside what [`crate::status`] has.

use super::tracks::Track;
use crate::clients::{Kind, Record};
use crate::events::Line;
use crate::logging::RoomLevel;
use crate::status;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::net::IpAddr;
use utoipa::ToSchema;

/// Why a request failed (RFC 9457).
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Problem {
    /// Always `about:blank`: the status says what kind of problem it is.
    pub r#type: String,
    /// The status in words.
    pub title: String,
    /// The status.
    pub status: u16,
    /// What is wrong and what to do about it.
    pub detail: String,
}

/// A part of a list.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Page<T> {
    /// The entries.
    pub items: Vec<T>,
    /// What to say as `after` to get the entries that follow; `null`: there are none.
    pub next: Option<String>,
    /// How many there are on all pages.
    pub total: usize,
}

/// What an order led to.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Ordered {
    /// What the front says about it.
    pub said: String,
}

/// Sessions that are being ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Kicked {
    /// Their connections.
    pub conns: Vec<String>,
    /// How many more there are that fit: ask again.
    pub left: usize,
}

/// Which sessions are to be ended: those that fit all that is said. Something must be.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KickRequest {
    /// Those of this stream: `vhost/app/stream`, or `app/stream` in the default vhost.
    #[serde(default)]
    pub stream: Option<String>,
    /// Those from this address.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub client: Option<IpAddr>,
    /// Those of this kind, as in `kind` of a session.
    #[serde(default)]
    pub kind: Option<String>,
}

/// Which levels of log lines are to change; see `braidcast log-level`.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LevelRequest {
    /// First all levels become what is configured.
    #[serde(default)]
    pub reset: bool,
    /// Rooms and their levels: `http=debug`.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub set: Vec<RoomLevel>,
}

/// A stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Stream {
    /// As in the status.
    #[serde(flatten)]
    pub stream: status::Stream,
    /// Its tracks, videos first.
    pub tracks: Vec<Track>,
    /// How far its newest keyframes are apart on average, milliseconds; `null`: it has no video, or not two of them yet.
    pub key_interval_ms: Option<u64>,
}

/// A client's session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Session {
    /// Its connection, as in the log.
    pub conn: String,
    /// `rtmp-play`, `flv-play`, `hls-play`, `fmle-publish`, …; `Unknown` until it has said what it wants.
    pub kind: String,
    /// Whether it sends a stream.
    pub publishes: bool,
    /// Its true address, with the port if that is known.
    pub client: String,
    /// Its stream's vhost; `null` until it has named one.
    pub vhost: Option<String>,
    /// Its stream's app, likewise.
    pub app: Option<String>,
    /// Its stream's own name, likewise.
    pub stream: Option<String>,
    /// The page that it is on, without its query; often empty.
    pub page_url: String,
    /// What it calls itself; often empty.
    pub agent: String,
    /// When it said what it wants, wall clock, milliseconds since 1970.
    pub described_ms: u64,
    /// When it was let to publish or play, likewise; `null`: it does neither.
    pub began_ms: Option<u64>,
    /// Bytes received from it.
    pub bytes_in: u64,
    /// Bytes sent to it.
    pub bytes_out: u64,
    /// Bits received from it in a second, over the last 15 to 30.
    pub bits_in: u64,
    /// Bits sent to it, likewise.
    pub bits_out: u64,
}

impl From<Record> for Session {
    fn from(record: Record) -> Self {
        let said = record.description;
        Self {
            conn: record.conn.to_string(),
            kind: Kind::label(said.kind).to_owned(),
            publishes: said.kind.publishes(),
            client: said.peer.to_string(),
            vhost: said.key.as_ref().map(|key| key.vhost().to_owned()),
            app: said.key.as_ref().map(|key| key.app().to_owned()),
            stream: said.key.as_ref().map(|key| key.stream().to_owned()),
            page_url: without_query(&said.page_url).to_owned(),
            agent: said.agent,
            described_ms: record.described_ms,
            began_ms: Some(record.began_ms).filter(|began_ms| *began_ms != 0),
            bytes_in: record.bytes_in,
            bytes_out: record.bytes_out,
            bits_in: record.bits_in,
            bits_out: record.bits_out,
        }
    }
}

/// The limits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Limits {
    /// By their keys.
    pub limits: Vec<Limit>,
}

/// A limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Limit {
    /// Its key: `[section] key` of the configuration, written `section.key`.
    pub key: String,
    /// What it is set to, as a file says it.
    pub value: String,
    /// The counter that says how often it was met, as in the status and the metrics.
    pub counter: String,
    /// That counter, over all workers.
    pub met: u64,
    /// How much of it is in use; `null`: that is not counted.
    pub used: Option<u64>,
}

/// An event. What does not concern it is absent.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Event)]
pub struct Following {
    /// One more than that of the event before.
    pub id: u64,
    /// When, wall clock, milliseconds since 1970.
    pub at_ms: u64,
    /// What has happened: `connect`, `close`, `publish`, `unpublish`, `play`, `stop`, `segment`, `move`, `worker-ready`, `worker-died`,
    /// `crash-loop`, `poison`, `refused`, `limit`, `drain`, `upgrade`, `reload`, `front-started`.
    pub kind: String,
    /// What else there is to say of it: `conn`, `vhost`, `app`, `stream`, `client`, `worker`, `why`, …; of clients, `session` as it was then.
    #[serde(flatten)]
    #[schema(value_type = Object)]
    pub about: Value,
}

/// An event as those may see it who may read the API: what the client table says of a client is its session, without what may be a secret.
pub fn public(line: &Line) -> Value {
    let mut value = serde_json::to_value(line).unwrap_or_default();
    if let Some(event) = value.as_object_mut()
        && let Some(record) = event.remove("record")
        && let Ok(record) = serde_json::from_value::<Record>(record)
    {
        event.insert("session".into(), serde_json::to_value(Session::from(record)).unwrap_or_default());
    }
    value
}

fn without_query(url: &str) -> &str {
    url.split(['?', '#']).next().unwrap_or_default()
}
