//! HTTP as far as the stand-in speaks it: one request on a connection, which is closed with the answer, as SRS does.

use crate::Shared;
use anyhow::{Context, Result, ensure};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

/// The longest head of a request.
const HEAD_BYTES: usize = 16 << 10;

/// Serves each connection in a thread of its own.
pub fn accept(listener: TcpListener, shared: &Arc<Shared>, serve: fn(&Arc<Shared>, TcpStream) -> Result<()>) {
    let shared = shared.clone();
    std::thread::spawn(move || {
        while let Ok((stream, peer)) = listener.accept() {
            let shared = shared.clone();
            std::thread::spawn(move || {
                if let Err(error) = serve(&shared, stream) {
                    println!("{peer}: {error:#}");
                }
            });
        }
    });
}

/// A request without its body.
pub struct Request {
    /// The bytes of the head.
    pub head: Vec<u8>,
    /// `GET`.
    pub method: String,
    /// From the first slash on, without the query.
    pub path: String,
    /// What stands behind the question mark.
    pub query: String,
}

impl Request {
    /// Reads one.
    pub fn read(stream: &mut TcpStream) -> Result<Self> {
        let head = read_head(stream)?;
        let text = String::from_utf8_lossy(&head).into_owned();
        let mut words = text.split(' ');
        let method = words.next().context("no method")?.to_owned();
        let target = words.next().context("no target")?;
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        Ok(Self { head, method, path: path.to_owned(), query: query.to_owned() })
    }

    /// A field of the head.
    pub fn field(&self, name: &str) -> Option<String> {
        let text = String::from_utf8_lossy(&self.head);
        let mut fields = text.lines().filter_map(|line| line.split_once(':'));
        fields.find_map(|(own, value)| own.eq_ignore_ascii_case(name).then(|| value.trim().to_owned()))
    }

    /// A parameter of the query.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.query.split('&').filter_map(|pair| pair.split_once('=')).find_map(|(own, value)| (own == name).then_some(value))
    }
}

/// Reads as far as a head goes.
pub fn read_head(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        ensure!(head.len() < HEAD_BYTES, "a head without an end");
        stream.read_exact(&mut byte).context("a head")?;
        head.push(byte[0]);
    }
    Ok(head)
}

/// Answers and ends.
pub fn answer(stream: &mut TcpStream, status: &str, fields: &str, body: &str) -> Result<()> {
    let length = body.len();
    write!(stream, "HTTP/1.1 {status}\r\nConnection: Close\r\nContent-Length: {length}\r\n{fields}\r\n{body}")?;
    Ok(())
}
