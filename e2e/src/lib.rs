//! Helpers for tests with real processes: a server on free loopback ports, ffmpeg, waiting for conditions.
//!
//! Everything that is started is ended and everything that is made is removed when its handle is dropped, also when a test fails.

pub mod api;
pub mod chaos;
pub mod counts;
pub mod day;
pub mod engine;
pub mod hooks;
pub mod hostile;
pub mod media;
pub mod monitoring;
pub mod next;
pub mod paced;
pub mod proxies;
pub mod relays;
pub mod rtmp;
pub mod server;
pub mod tls;
pub mod tools;
pub mod viewer;

pub use api::Api;
pub use server::{Server, ServerOptions};
pub use tools::{Tool, eventually, http_get};
pub use viewer::{Record, Viewer};
