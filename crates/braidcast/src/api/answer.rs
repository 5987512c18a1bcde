//! What an endpoint answers.

use braidcast_protocols::http::Status;
use braidcast_protocols::http::response::content_type;
use serde::Serialize;
use serde_json::json;

/// The media type of errors (RFC 9457 section 3).
pub const PROBLEM_JSON: &str = "application/problem+json";

/// An answer, before it is known what becomes of its connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: Status,
    /// The media type; empty: there is no content.
    pub content_type: &'static str,
    /// Fields of its own. Names and values are ours, never a client's.
    pub fields: Vec<(&'static str, String)>,
    /// The content.
    pub body: Vec<u8>,
}

impl Answer {
    /// Content of a type.
    pub fn new(status: Status, content_type: &'static str, body: impl Into<Vec<u8>>) -> Self {
        Self { status, content_type, fields: Vec::new(), body: body.into() }
    }

    /// 200 with JSON.
    pub fn json(value: &impl Serialize) -> Self {
        Self::json_with(Status::OK, value)
    }

    /// JSON with this status.
    pub fn json_with(status: Status, value: &impl Serialize) -> Self {
        let body = serde_json::to_vec(value).expect("answers hold only text, numbers, lists and maps with text as keys");
        Self::new(status, content_type::JSON, body)
    }

    /// An error as problem details (RFC 9457): `detail` says what to do about it.
    pub fn problem(status: Status, detail: &str) -> Self {
        let body = json!({ "type": "about:blank", "title": status.reason(), "status": status.0, "detail": detail });
        Self::new(status, PROBLEM_JSON, body.to_string())
    }

    /// With a field. Name and value are ours.
    pub fn field(mut self, name: &'static str, value: impl ToString) -> Self {
        self.fields.push((name, value.to_string()));
        self
    }
}
