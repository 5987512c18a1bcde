//! One event, and the line that says it.

use crate::control::{ConnId, WorkerId};
use braidcast_media::StreamKey;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;

/// What has happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A client that speaks RTMP wants its first stream. Ends with `close`.
    Connect,
    /// Such a client's connection is over.
    Close,
    /// A publisher is admitted. Ends with `unpublish`.
    Publish,
    /// It publishes no more.
    Unpublish,
    /// A player is admitted; the stream may not be there yet. Ends with `stop`.
    Play,
    /// It plays no more.
    Stop,
    /// A segment of a stream is finished.
    Segment,
    /// A session goes on in another worker.
    Move,
    /// A worker serves.
    WorkerReady,
    /// A worker's process has ended though nobody had asked it to.
    WorkerDied,
    /// A worker dies again and again, and no client's input is the reason.
    CrashLoop,
    /// Two workers died of what a client sent.
    Poison,
    /// A publish or play was refused. So many a second are told, no more.
    Refused,
    /// A connection was turned away because of a limit. So many a second are told, no more.
    Limit,
    /// A worker hands its sessions to others, then it is started anew.
    Drain,
    /// Another front, from another binary, is to take over.
    Upgrade,
    /// Another front, with a changed configuration, is to take over.
    Reload,
    /// A front serves: the first one, or another one after it.
    FrontStarted,
    /// Of a version that knows more.
    #[default]
    #[serde(other)]
    Unknown,
}

impl Kind {
    /// Its name in a line.
    pub fn label(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Close => "close",
            Self::Publish => "publish",
            Self::Unpublish => "unpublish",
            Self::Play => "play",
            Self::Stop => "stop",
            Self::Segment => "segment",
            Self::Move => "move",
            Self::WorkerReady => "worker-ready",
            Self::WorkerDied => "worker-died",
            Self::CrashLoop => "crash-loop",
            Self::Poison => "poison",
            Self::Refused => "refused",
            Self::Limit => "limit",
            Self::Drain => "drain",
            Self::Upgrade => "upgrade",
            Self::Reload => "reload",
            Self::FrontStarted => "front-started",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// An event. What does not concern it is absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Event {
    /// What has happened.
    pub kind: Kind,
    /// To whom, as in the logs: `c17`.
    #[serde(skip_serializing_if = "Option::is_none", with = "conn_name")]
    pub conn: Option<ConnId>,
    /// The stream's vhost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vhost: Option<String>,
    /// The stream's app.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// The stream's own name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    /// The client's true address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<IpAddr>,
    /// `true` of a publisher that is a pull: nobody has connected to us.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub pulled: bool,
    /// The worker that it is about; of a move, who has the session now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<u16>,
    /// Of a move: who had the session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<u16>,
    /// A process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Why, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Of a segment: its number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub number: Option<u64>,
    /// Of a segment: how long it plays; of a move: how long the session paused. Milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// Of a segment: its file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Of a segment: the path where it is served.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Of a segment: the file of the index that lists it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<String>,
    /// Of a segment: the path where that index is served.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index_url: Option<String>,
    /// Of a client: what the client table said of it at that moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub record: Option<serde_json::Value>,
}

impl Event {
    /// One of this kind, that concerns nothing yet.
    pub fn new(kind: Kind) -> Self {
        Self { kind, ..Self::default() }
    }

    /// It is about this connection.
    pub fn conn(self, conn: ConnId) -> Self {
        Self { conn: Some(conn), ..self }
    }

    /// It is about this stream.
    pub fn of_stream(self, key: &StreamKey) -> Self {
        let [vhost, app, stream] = [key.vhost(), key.app(), key.stream()].map(|part| Some(part.to_owned()));
        Self { vhost, app, stream, ..self }
    }

    /// It is about this worker.
    pub fn worker(self, worker: WorkerId) -> Self {
        // HLS sessions have none.
        Self { worker: Some(worker.0).filter(|_| worker != WorkerId::NONE), ..self }
    }

    /// This is why.
    pub fn why(self, why: impl fmt::Display) -> Self {
        Self { why: Some(why.to_string()), ..self }
    }

    /// The stream that it is about.
    pub fn key(&self) -> Option<StreamKey> {
        StreamKey::new(self.vhost.as_deref()?, self.app.as_deref()?, self.stream.as_deref()?).ok()
    }
}

/// An event as it stands in the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// One more than that of the line before.
    pub id: u64,
    /// When, Unix milliseconds.
    pub at_ms: u64,
    /// What.
    #[serde(flatten)]
    pub event: Event,
}

/// As [`Line`], for writing one.
#[derive(Serialize)]
pub(super) struct LineOf<'a> {
    pub id: u64,
    pub at_ms: u64,
    #[serde(flatten)]
    pub event: &'a Event,
}

/// Connections are named in lines as everywhere.
mod conn_name {
    use crate::control::ConnId;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(conn: &Option<ConnId>, serializer: S) -> Result<S::Ok, S::Error> {
        match conn {
            Some(conn) => serializer.collect_str(conn),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<ConnId>, D::Error> {
        let name = Option::<String>::deserialize(deserializer)?;
        Ok(name.and_then(|name| name.strip_prefix('c')?.parse().ok().map(ConnId)))
    }
}
