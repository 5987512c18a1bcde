//! A hook server of a test's own: it answers as the test says, and keeps what it was sent.

use crate::tools::eventually;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);
/// How long a silent server keeps a connection; longer than anybody waits for it.
const SILENCE: Duration = Duration::from_secs(60);

/// What a server does with a request.
#[derive(Clone, Debug)]
pub enum Reply {
    /// Answers with this status and this body.
    Say(u16, String),
    /// Waits, then answers `0`.
    After(Duration),
    /// Says nothing and keeps the connection.
    Silence,
    /// Closes the connection.
    Close,
    /// Answers without end.
    Endless,
}

impl Reply {
    /// `0`.
    pub fn yes() -> Self {
        Self::Say(200, "0".into())
    }

    /// `{"code":1}`.
    pub fn no() -> Self {
        Self::Say(200, r#"{"code":1}"#.into())
    }
}

/// A request.
#[derive(Clone, Debug)]
pub struct Heard {
    /// `Braidcast-Event-Id`.
    pub id: String,
    /// The URL's path and query.
    pub target: String,
    /// `Authorization`.
    pub authorization: String,
    /// The body.
    pub body: Value,
}

impl Heard {
    /// The action of the body.
    pub fn action(&self) -> &str {
        self.body["action"].as_str().unwrap_or_default()
    }

    /// Whether it is about a stream.
    pub fn is_of(&self, action: &str, stream: &str) -> bool {
        self.action() == action && self.body["stream"] == stream
    }
}

type Answerer = Box<dyn Fn(&Heard) -> Reply + Send>;

/// See the module's head. Its threads end with the test.
pub struct HookServer {
    /// Where it listens.
    pub address: SocketAddr,
    heard: Arc<Mutex<Vec<Heard>>>,
    answerer: Arc<Mutex<Answerer>>,
}

impl HookServer {
    /// Answers with what this says to each request.
    pub fn start(answer: impl Fn(&Heard) -> Reply + Send + 'static) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let heard = Arc::new(Mutex::new(Vec::new()));
        let answerer: Arc<Mutex<Answerer>> = Arc::new(Mutex::new(Box::new(answer)));
        let (keep, ask) = (heard.clone(), answerer.clone());
        std::thread::spawn(move || {
            while let Ok((socket, _)) = listener.accept() {
                let (keep, ask) = (keep.clone(), ask.clone());
                // A client that goes away is no failure of the test.
                std::thread::spawn(move || serve(socket, &keep, &ask));
            }
        });
        Ok(Self { address, heard, answerer })
    }

    /// Answers like this from now on.
    pub fn answer(&self, answer: impl Fn(&Heard) -> Reply + Send + 'static) {
        *self.answerer.lock().expect("no answer panics") = Box::new(answer);
    }

    /// `[[hook]]` for these events.
    pub fn hook(&self, events: &[&str], more: &str) -> String {
        format!("[[hook]]\nevents = {events:?}\nurl = \"http://{}/hook?key=canary\"\n{more}\n", self.address)
    }

    /// What was heard so far, in the order of arrival.
    pub fn heard(&self) -> Vec<Heard> {
        self.heard.lock().expect("no server panics").clone()
    }

    /// What was heard of one action about one stream.
    pub fn of(&self, action: &str, stream: &str) -> Vec<Heard> {
        self.heard().into_iter().filter(|heard| heard.is_of(action, stream)).collect()
    }

    /// Waits until so many requests of an action about a stream have come, and gives them; more are an error.
    pub fn wait(&self, action: &str, stream: &str, count: usize) -> Result<Vec<Heard>> {
        let enough = || Some(self.of(action, stream)).filter(|heard| heard.len() >= count);
        let heard = eventually(PATIENCE, enough).with_context(|| format!("no {count} {action} of {stream} in {:#?}", self.heard()))?;
        ensure!(heard.len() == count, "{action} of {stream} came too often: {heard:#?}");
        Ok(heard)
    }
}

fn serve(mut socket: TcpStream, keep: &Mutex<Vec<Heard>>, ask: &Mutex<Answerer>) -> Option<()> {
    let heard = read(&socket)?;
    keep.lock().ok()?.push(heard.clone());
    let reply = ask.lock().ok()?(&heard);
    match reply {
        Reply::Say(status, body) => say(&mut socket, status, &body),
        Reply::After(pause) => {
            std::thread::sleep(pause);
            say(&mut socket, 200, "0")
        }
        Reply::Silence => {
            std::thread::sleep(SILENCE);
            None
        }
        Reply::Close => None,
        Reply::Endless => {
            socket.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").ok()?;
            while socket.write_all(b"8\r\n00000000\r\n").is_ok() {}
            None
        }
    }
}

fn say(socket: &mut TcpStream, status: u16, body: &str) -> Option<()> {
    write!(socket, "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len()).ok()
}

fn read(socket: &TcpStream) -> Option<Heard> {
    let mut reader = BufReader::new(socket);
    let (mut id, mut length, mut target, mut authorization) = (String::new(), 0, String::new(), String::new());
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        if let Some(rest) = line.strip_prefix("POST ") {
            target = rest.split(' ').next()?.to_owned();
        }
        match line.trim_end().split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("braidcast-event-id") => id = value.to_owned(),
            Some((name, value)) if name.eq_ignore_ascii_case("authorization") => authorization = value.to_owned(),
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = value.parse().ok()?,
            _ => {}
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Heard { id, target, authorization, body: serde_json::from_slice(&body).ok()? })
}
