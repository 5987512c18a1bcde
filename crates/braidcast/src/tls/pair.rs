//! A client's bytes without TLS: a TCP connection within this machine, one end for a worker, and what goes between it and TLS.
//!
//! Whatever one side does to its connection the other side is done too: end one direction, end in order, be cut off, be slow.

use super::Server;
use crate::control::Origin;
use crate::control::counters::TlsCounter;
use braidcast_sys::net;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Notify;
use tokio_rustls::server::TlsStream;

/// What our end takes in before the worker's is full, in bytes: what lies here is late for a slow viewer, and no worker can skip it.
const RECEIVE_BYTES: u32 = 128 << 10;
/// Bytes on their way from a client, and to one.
const BUFFER_IN_BYTES: usize = 16 << 10;
const BUFFER_OUT_BYTES: usize = 32 << 10;
/// How long a client may keep its half of a connection open when the worker has ended the other one.
const LINGER: Duration = Duration::from_secs(5);

/// Our end of a pair. Counts what goes through it.
#[derive(Debug)]
pub struct Pair {
    socket: TcpStream,
    server: Arc<Server>,
    /// Told when the worker has said everything.
    ended: Arc<Notify>,
}

/// Makes a pair and gives the front the worker's end. Waits while the front takes none.
pub async fn arrive(server: &Arc<Server>, origin: Origin) -> io::Result<Pair> {
    let (ours, theirs) = connected().await?;
    server.outbox.arrived(origin, theirs.into_std()?.into()).await;
    Ok(Pair { socket: ours, server: server.clone(), ended: Arc::default() })
}

/// Two ends of a TCP connection within this machine. Whoever else connects in between is not let in.
async fn connected() -> io::Result<(TcpStream, TcpStream)> {
    // Each address has all the ports there are.
    static NEXT: AtomicU8 = AtomicU8::new(0);
    let address = Ipv4Addr::new(127, 0, 0, 1 + NEXT.fetch_add(1, Relaxed) % 16);
    let listener = TcpListener::bind((address, 0)).await?;
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(RECEIVE_BYTES)?;
    socket.set_nodelay(true)?;
    let ours = socket.connect(listener.local_addr()?).await?;
    let expected: SocketAddr = ours.local_addr()?;
    loop {
        let (theirs, peer) = listener.accept().await?;
        if peer == expected {
            return Ok((ours, theirs));
        }
    }
}

/// Carries bytes between a client and a worker, to and fro, until both have ended, or one is cut off.
pub async fn carry(server: &Arc<Server>, client: TlsStream<TcpStream>, origin: Origin) {
    let mut pair = match arrive(server, origin).await {
        Ok(pair) => pair,
        Err(error) => return tracing::error!(peer = %origin.peer, %error, "a connection by TLS cannot be passed on"),
    };
    let (mut client, ended) = (Client(client), pair.ended.clone());
    let lingered = async {
        ended.notified().await;
        tokio::time::sleep(LINGER).await;
    };
    tokio::select! {
        copied = copy_bidirectional_with_sizes(&mut client, &mut pair, BUFFER_IN_BYTES, BUFFER_OUT_BYTES) => {
            if let Err(error) = copied {
                tracing::debug!(peer = %origin.peer, %error, "a connection by TLS was cut off");
                pair.abort();
                client.abort();
            }
        }
        () = lingered => {}
    }
}

impl Pair {
    /// The worker sees its client's connection fail.
    fn abort(&self) {
        // It may have failed already.
        let _ = net::abort(&self.socket);
    }
}

impl AsyncRead for Pair {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.socket).poll_read(cx, buffer))?;
        match buffer.filled().len() - before {
            0 => self.ended.notify_one(),
            bytes => self.server.add(TlsCounter::BytesOut, bytes as u64),
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pair {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.socket).poll_write(cx, bytes))?;
        self.server.add(TlsCounter::BytesIn, written as u64);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// A client's end. That it ends its TCP connection without a word of TLS is an end like any other: RTMP and HTTP know by themselves
/// whether something is missing.
struct Client(TlsStream<TcpStream>);

impl Client {
    /// The client sees its connection fail.
    fn abort(&self) {
        let _ = net::abort(self.0.get_ref().0);
    }
}

impl AsyncRead for Client {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match ready!(Pin::new(&mut self.0).poll_read(cx, buffer)) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
            result => Poll::Ready(result),
        }
    }
}

impl AsyncWrite for Client {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
