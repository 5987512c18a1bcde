//! Sockets, polling and the clock, as the generator and the bare loop need them: non-blocking, edge-triggered.
//!
//! Everything goes through rustix's safe calls. Errors are the operating system's own.

use anyhow::Context;
use rustix::event::epoll;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// `CLOCK_MONOTONIC` in nanoseconds; the same for all processes of this machine, so stamps of one can be read by another.
pub fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// An edge-triggered epoll.
pub struct Poller {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
}

/// What happened to a descriptor.
#[derive(Clone, Copy, Debug)]
pub struct Readiness {
    /// The token it was added with.
    pub token: u64,
    /// There may be bytes, an end, or an error to read.
    pub readable: bool,
    /// A send that found no room may find some now.
    pub writable: bool,
}

const EVENTS_PER_WAIT: usize = 1024;

impl Poller {
    /// An empty one.
    pub fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?, events: Vec::with_capacity(EVENTS_PER_WAIT) })
    }

    /// Watches `fd` for both directions, until it is closed.
    pub fn add(&self, fd: impl AsFd, token: u64) -> io::Result<()> {
        let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        Ok(epoll::add(&self.epoll, fd, epoll::EventData::new_u64(token), flags)?)
    }

    /// Waits until something happens or `timeout` is over, then writes what happened to `ready`.
    /// Returns with nothing when a signal came.
    pub fn wait(&mut self, timeout: Duration, ready: &mut Vec<Readiness>) -> io::Result<()> {
        ready.clear();
        self.events.clear();
        let timeout = rustix::event::Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: i64::from(timeout.subsec_nanos()) };
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut self.events), Some(&timeout)) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        let readable = epoll::EventFlags::IN | epoll::EventFlags::RDHUP | epoll::EventFlags::HUP | epoll::EventFlags::ERR;
        ready.extend(self.events.iter().map(|event| {
            let (flags, data) = (event.flags, event.data);
            Readiness { token: data.u64(), readable: flags.intersects(readable), writable: flags.contains(epoll::EventFlags::OUT) }
        }));
        Ok(())
    }
}

/// Begins to connect; the socket is writable once it is connected, and its error is told by the first send.
pub fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&socket, &address) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Listens, with a queue that a thousand viewers at once fit into (std's is 128).
pub fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))?;
    listener.set_nonblocking(true)?;
    rustix::net::listen(&listener, 4096)?;
    Ok(listener)
}

/// The next connection, ready to be polled; `None` when there is none now.
pub fn accept(listener: &TcpListener) -> io::Result<Option<TcpStream>> {
    loop {
        match listener.accept() {
            Ok((socket, _)) => {
                socket.set_nonblocking(true)?;
                socket.set_nodelay(true)?;
                return Ok(Some(socket));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Reads into `scratch`; `None` when there is nothing now, 0 at the end of the stream.
pub fn receive(socket: impl AsFd, scratch: &mut [u8]) -> io::Result<Option<usize>> {
    would_block(rustix::net::recv(socket, scratch, RecvFlags::empty()).map(|(_, bytes)| bytes))
}

/// Throws away what has arrived, at most as much as `scratch` is long, without copying it (`MSG_TRUNC` on TCP, see tcp(7)).
pub fn discard(socket: impl AsFd, scratch: &mut [u8]) -> io::Result<Option<usize>> {
    would_block(rustix::net::recv(socket, scratch, RecvFlags::TRUNC).map(|(_, bytes)| bytes))
}

/// Sends what fits; `None` when nothing does, or when the socket is not connected yet.
pub fn send(socket: impl AsFd, bytes: &[u8]) -> io::Result<Option<usize>> {
    would_block(rustix::net::send(socket, bytes, rustix::net::SendFlags::NOSIGNAL))
}

/// The kernel acknowledges what arrives when it is read, as it does until a connection's ends take turns to speak (`TCP_QUICKACK`, see tcp(7)).
/// Afterwards it waits for an answer that would carry the acknowledgement, until the next segment: on loopback it is then the sender
/// of that one that acknowledges both, to itself.
pub fn acknowledge_reads(socket: impl AsFd) -> io::Result<()> {
    Ok(rustix::net::sockopt::set_tcp_quickack(socket, true)?)
}

fn would_block(result: rustix::io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(bytes) => Ok(Some(bytes)),
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Raises the descriptor limit as far as it may go and refuses if that is less than `needed`.
pub fn raise_descriptor_limit(needed: u64) -> anyhow::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    let now = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    anyhow::ensure!(now >= needed, "{needed} descriptors are needed, the limit is {now} (raise it: ulimit -Hn)");
    Ok(())
}

/// Bytes on their way to a socket that took only a part of them.
#[derive(Debug, Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    sent: usize,
}

/// More than this unsent means that the server has stopped to read.
const MAX_OUTBOX_BYTES: usize = 32 << 20;

impl Outbox {
    /// Where to append.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Bytes that wait.
    pub fn pending(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// Sends as much as the socket takes.
    pub fn flush(&mut self, socket: impl AsFd) -> io::Result<()> {
        while self.sent < self.bytes.len() {
            match send(socket.as_fd(), &self.bytes[self.sent..])? {
                Some(bytes) => self.sent += bytes,
                None if self.pending() > MAX_OUTBOX_BYTES => return Err(io::Error::other("the server does not read what it is sent")),
                None => return Ok(()),
            }
        }
        self.bytes.clear();
        self.sent = 0;
        Ok(())
    }
}
