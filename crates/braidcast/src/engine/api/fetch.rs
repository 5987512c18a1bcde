//! One HTTP request to one SRS process, and its whole answer, within a time. Blocks: for threads that may wait.

use super::Method;
use braidcast_protocols::http::{Answer, AnswerReader};
use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// The longest head of an answer.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// What to ask. The texts hold no control characters.
pub(super) struct Ask<'a> {
    pub method: Method,
    pub target: &'a str,
    pub host: Option<&'a str>,
    pub authorization: Option<&'a str>,
    pub client: Option<IpAddr>,
}

impl<'a> Ask<'a> {
    pub fn get(target: &'a str, authorization: Option<&'a str>, client: Option<IpAddr>) -> Self {
        Self { method: Method::Get, target, host: None, authorization, client }
    }

    fn bytes(&self, address: SocketAddr) -> Vec<u8> {
        let Self { method, target, .. } = self;
        let host = self.host.map_or_else(|| address.to_string(), str::to_owned);
        let mut head =
            format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: Braidcast\r\nAccept: */*\r\nConnection: close\r\n");
        let mut field = |name: &str, value: &str| {
            let _ = write!(head, "{name}: {value}\r\n");
        };
        if let Some(client) = self.client.map(|client| client.to_canonical().to_string()) {
            // Older SRS know the second alone.
            field("X-Forwarded-For", &client);
            field("X-Real-IP", &client);
        }
        if let Some(authorization) = self.authorization {
            field("Authorization", authorization);
        }
        if self.method == Method::Post {
            field("Content-Length", "0");
        }
        head.push_str("\r\n");
        head.into_bytes()
    }
}

/// Asks; the error says what is wrong with the process.
pub(super) fn fetch(address: SocketAddr, ask: &Ask, deadline: Instant, max_body_bytes: usize) -> Result<Answer, String> {
    let mut stream = TcpStream::connect_timeout(&address, left(deadline)?).map_err(|error| told("cannot be reached", &error))?;
    let request = ask.bytes(address);
    let mut rest = request.as_slice();
    while !rest.is_empty() {
        let timed = stream.set_write_timeout(Some(left(deadline)?)).and_then(|()| stream.write(rest));
        let written = timed.or_else(again).map_err(|error| told("does not take the request", &error))?;
        rest = &rest[written..];
    }
    let mut reader = AnswerReader::new(MAX_HEAD_BYTES, max_body_bytes);
    let mut piece = vec![0; 64 << 10];
    loop {
        let read = match stream.set_read_timeout(Some(left(deadline)?)).and_then(|()| stream.read(&mut piece)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read.map_err(|error| told("does not answer", &error))?,
        };
        if read == 0 || reader.handle_input(&piece[..read]).map_err(|error| error.to_string())? {
            return reader.finish().map_err(|error| error.to_string());
        }
    }
}

fn again(error: io::Error) -> io::Result<usize> {
    if error.kind() == io::ErrorKind::Interrupted { Ok(0) } else { Err(error) }
}

/// The time that is left; none is an error.
fn left(deadline: Instant) -> Result<Duration, String> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err("did not answer in time".to_owned()) } else { Ok(left) }
}

fn told(what: &str, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "did not answer in time".to_owned(),
        _ => format!("{what}: {error}"),
    }
}
