//! Somebody who uses the HTTP API: requests with fields and content, and the events as they come.

use crate::tools::Answer;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A client of the API.
#[derive(Clone, Debug)]
pub struct Api {
    address: SocketAddr,
    fields: Vec<String>,
}

impl Api {
    /// Of a server, without credentials.
    pub fn at(address: SocketAddr) -> Self {
        Self { address, fields: Vec::new() }
    }

    /// With a field in each request: `Authorization: Bearer …`.
    pub fn with(&self, field: impl Into<String>) -> Self {
        Self { fields: self.fields.iter().cloned().chain([field.into()]).collect(), ..*self }
    }

    /// With a token.
    pub fn token(&self, token: &str) -> Self {
        self.with(format!("Authorization: Bearer {token}"))
    }

    /// A request without content; any answer.
    pub fn ask(&self, method: &str, path: &str) -> Result<Answer> {
        self.send(method, path, None)
    }

    /// A request with JSON.
    pub fn send(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Answer> {
        let mut stream = self.begin(method, path, body)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).with_context(|| format!("{method} {path}"))?;
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n").context("no end of the response head")?;
        let head = String::from_utf8_lossy(&answer[..end]).into_owned();
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).context("no status")?;
        Ok(Answer { status, head, body: answer.split_off(end + 4) })
    }

    fn begin(&self, method: &str, path: &str, body: Option<&Value>) -> Result<TcpStream> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let body = body.map(Value::to_string).unwrap_or_default();
        let host =
            if self.fields.iter().any(|field| field.starts_with("Host:")) { String::new() } else { format!("Host: {}\r\n", self.address) };
        let fields: String = self.fields.iter().map(|field| format!("{field}\r\n")).collect();
        let content = match body.len() {
            0 => String::new(),
            bytes => format!("Content-Type: application/json\r\nContent-Length: {bytes}\r\n"),
        };
        write!(stream, "{method} {path} HTTP/1.1\r\n{host}Connection: close\r\n{fields}{content}\r\n{body}")?;
        Ok(stream)
    }

    /// JSON that has to come with this status.
    pub fn json(&self, method: &str, path: &str, body: Option<&Value>, status: u16) -> Result<Value> {
        let answer = self.send(method, path, body)?;
        ensure!(answer.status == status, "{method} {path}: {}\n{}", answer.head, answer.text());
        serde_json::from_slice(&answer.body).with_context(|| format!("{method} {path}: {}", answer.text()))
    }

    /// What is read.
    pub fn get(&self, path: &str) -> Result<Value> {
        self.json("GET", path, None, 200)
    }

    /// Follows the events.
    pub fn events(&self, path: &str) -> Result<Events> {
        let mut lines = BufReader::new(self.begin("GET", path, None)?);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            ensure!(lines.read_line(&mut head)? > 0, "the connection ended: {head}");
        }
        ensure!(head.starts_with("HTTP/1.1 200 ") && head.contains("Content-Type: text/event-stream"), "{head}");
        Ok(Events { lines })
    }
}

/// Events as they come.
#[derive(Debug)]
pub struct Events {
    lines: BufReader<TcpStream>,
}

/// One of them.
#[derive(Clone, Debug)]
pub struct Event {
    /// Its number; 0: it has none.
    pub id: u64,
    /// What has happened.
    pub kind: String,
    /// All that is said of it.
    pub data: Value,
}

impl Events {
    /// The next one.
    pub fn read(&mut self) -> Result<Event> {
        let mut event = Event { id: 0, kind: String::new(), data: Value::Null };
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut line = String::new();
            ensure!(Instant::now() < deadline, "no event came");
            ensure!(self.lines.read_line(&mut line).context("waiting for an event")? > 0, "the connection ended");
            match line.trim_end().split_once(':') {
                Some(("id", id)) => event.id = id.trim().parse()?,
                Some(("event", kind)) => kind.trim().clone_into(&mut event.kind),
                Some(("data", data)) => event.data = serde_json::from_str(data)?,
                // A comment, or how long to wait.
                Some(_) => {}
                None if event.kind.is_empty() => {}
                None => return Ok(event),
            }
        }
    }

    /// Reads on until one fits; gives all that came, it the last.
    pub fn until(&mut self, fits: impl Fn(&Event) -> bool) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        loop {
            let event =
                self.read().with_context(|| format!("after {:?}", events.iter().map(|event: &Event| &event.kind).collect::<Vec<_>>()))?;
            let found = fits(&event);
            events.push(event);
            if found {
                return Ok(events);
            }
        }
    }
}
