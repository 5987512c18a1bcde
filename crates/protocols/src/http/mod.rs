//! The small HTTP/1.1 of the media ports: requests in, response heads out.
//!
//! A [`RequestReader`] takes a connection's bytes and gives one [`Request`] at a time; [`route`] says what it asks for; the
//! heads of [`response`] answer it. Nothing here reads a file, knows a clock, or writes a body. Sources: RFC 9110 and RFC 9112.

mod answer;
mod conditional;
pub mod flv_client;
mod forwarded;
mod range;
mod reader;
mod request;
pub mod response;
mod route;
mod target;
pub mod websocket;

pub use answer::{Answer, AnswerError, AnswerHead, AnswerReader};
pub use conditional::{Conditions, Validators};
pub use flv_client::{FlvClient, FlvSettings};
pub use forwarded::Forwarded;
pub use range::{ByteRange, Span};
pub use reader::{RequestReader, Settings};
pub use request::{Fault, HttpError, Method, Request};
pub use response::{ResponseHead, Status};
pub use route::is_index_name;
pub use route::{Clip, LiveForm, Route, route};
pub use target::{parameter, parameters, percent_decode};
