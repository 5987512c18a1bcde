//! SRS's HTTP API over several SRS processes, as if they were one.
//!
//! [`ApiRelay`] takes a client's request, asks the processes in threads of its own and gives one merged answer; [`Watch`] asks them how they
//! are. `plan` says what a request asks for, `merge` makes one answer of several: both without I/O. Whoever calls never waits: answers are
//! announced by a descriptor. Nothing here listens, or decides where a process is.

mod each;
mod fetch;
mod ids;
mod merge;
#[cfg(test)]
mod merge_tests;
mod plan;
mod relay;
#[cfg(test)]
mod relay_tests;
#[cfg(test)]
mod srs_tests;
mod sums;
mod watch;

pub use plan::leading_number;
pub use relay::ApiRelay;
pub use watch::{LiveStream, Seen, Watch};

use serde_json::json;
use std::fmt;
use std::net::SocketAddr;

/// A request's method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Method {
    Get,
    Post,
    Put,
    Patch,
    Delete,
}

impl Method {
    /// The method of this name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Get, Self::Post, Self::Put, Self::Patch, Self::Delete].into_iter().find(|method| method.name() == name)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a client asks for; no body belongs to it. What it says is checked here: no field reaches a process with a control character in it.
#[derive(Clone, Debug)]
pub struct ApiRequest {
    /// What to do.
    pub method: Method,
    /// Path and query as they were sent.
    pub target: String,
    /// The field `Host`.
    pub host: Option<String>,
    /// The field `Authorization`.
    pub authorization: Option<String>,
    /// Who asks.
    pub client: SocketAddr,
}

/// What the client is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiAnswer {
    /// The status code.
    pub status: u16,
    /// The field `Content-Type`; empty: none.
    pub content_type: String,
    /// The content.
    pub body: Vec<u8>,
    /// The field `Location`.
    pub location: Option<String>,
    /// The field `WWW-Authenticate`.
    pub www_authenticate: Option<String>,
}

impl ApiAnswer {
    fn json(status: u16, body: &serde_json::Value) -> Self {
        let (content_type, body) = ("application/json".to_owned(), body.to_string().into_bytes());
        Self { status, content_type, body, location: None, www_authenticate: None }
    }

    /// An error of ours, which has the status as its code: the codes of SRS begin at 1000.
    fn error(status: u16, text: impl fmt::Display) -> Self {
        Self::json(status, &json!({ "code": status, "error": text.to_string() }))
    }
}
