//! Sockets: always non-blocking and close-on-exec, never a SIGPIPE.
//!
//! Reads and writes report what the kernel says: `WouldBlock` when there is nothing or no room, `Ok(0)` at the end.

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrAny, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use std::io::{self, IoSlice};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

/// A listening TCP socket. An IPv6 one takes IPv6 only if `v6only`, so that the IPv4 one can have the same port.
/// `oob_inline` keeps urgent data in the stream, where the byte counters of [`tcp_info`] expect it; accepted sockets
/// inherit it. Port 0 takes a free port: see [`local_addr`].
pub fn listen(address: SocketAddr, backlog: i32, v6only: bool, oob_inline: bool) -> io::Result<OwnedFd> {
    let socket = stream_socket(address)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_oobinline(&socket, oob_inline)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, v6only)?;
    }
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, backlog)?;
    Ok(socket)
}

/// Takes a waiting connection.
pub fn accept4(listener: impl AsFd) -> io::Result<(OwnedFd, SocketAddr)> {
    let (socket, peer) = rustix::net::acceptfrom_with(listener, FLAGS)?;
    // A connection that is gone already has no address any more.
    let peer = peer.ok_or(io::ErrorKind::ConnectionAborted)?;
    Ok((socket, internet(peer)?))
}

/// Starts a TCP connection. It is made (or has failed: [`take_error`]) when the socket becomes writable.
pub fn connect(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = stream_socket(address)?;
    match rustix::net::connect(&socket, &address) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error.into()),
    }
}

/// As [`connect`], from an address of this machine's own; port 0 takes any.
pub fn connect_from(from: SocketAddr, address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = stream_socket(address)?;
    rustix::net::bind(&socket, &from)?;
    match rustix::net::connect(&socket, &address) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error.into()),
    }
}

/// The two ends of a channel that keeps packet boundaries (`SOCK_SEQPACKET`, unix(7)).
pub fn seqpacket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, FLAGS, None)?)
}

/// A listening `SOCK_SEQPACKET` socket at a path, for the processes of one user; what was at the path before is removed.
pub fn listen_local(path: &Path, backlog: i32) -> io::Result<OwnedFd> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, FLAGS, None)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, backlog)?;
    Ok(socket)
}

/// Takes a connection that waits on a [`listen_local`] socket.
pub fn accept_local(listener: impl AsFd) -> io::Result<OwnedFd> {
    Ok(rustix::net::accept_with(listener, FLAGS)?)
}

/// Connects to a [`listen_local`] socket. `ConnectionRefused` if nobody listens there any more, `WouldBlock` if too many wait.
pub fn connect_local(path: &Path) -> io::Result<OwnedFd> {
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, FLAGS, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// The user who had the rights of the process at the other end of a local connection when it was made (`SO_PEERCRED`, unix(7)).
pub fn peer_uid(socket: impl AsFd) -> io::Result<u32> {
    Ok(rustix::net::sockopt::socket_peercred(socket)?.uid.as_raw())
}

/// The process at the other end of a local connection when it was made (`SO_PEERCRED`, unix(7)).
pub fn peer_pid(socket: impl AsFd) -> io::Result<u32> {
    Ok(rustix::net::sockopt::socket_peercred(socket)?.pid.as_raw_nonzero().get().cast_unsigned())
}

/// Makes an inherited or received socket non-blocking.
pub fn set_nonblocking(socket: impl AsFd) -> io::Result<()> {
    Ok(rustix::io::ioctl_fionbio(socket, true)?)
}

/// Takes what has arrived, up to `buffer.len()` bytes.
pub fn recv(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    Ok(rustix::net::recv(socket, buffer, RecvFlags::DONTWAIT)?.0)
}

/// Takes what has arrived, at most `max_bytes`, to the end of `buffer`, which grows if it has less room than that.
pub fn recv_append(socket: impl AsFd, buffer: &mut Vec<u8>, max_bytes: usize) -> io::Result<usize> {
    buffer.reserve(max_bytes);
    let room = &mut buffer.spare_capacity_mut()[..max_bytes];
    let ((received, _), _) = rustix::net::recv(socket, room, RecvFlags::DONTWAIT)?;
    let received = received.len();
    // SAFETY: `recv` has initialised that many bytes behind the old end, within the capacity.
    unsafe { buffer.set_len(buffer.len() + received) };
    Ok(received)
}

/// Sends as much as there is room for.
pub fn send(socket: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    Ok(rustix::net::send(socket, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?)
}

/// As [`send`], and more follows at once (`MSG_MORE`): what would be a small packet waits for it.
pub fn send_more(socket: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    Ok(rustix::net::send(socket, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT | SendFlags::MORE)?)
}

/// Sends as much of several pieces, in order, as there is room for.
pub fn writev(socket: impl AsFd, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    Ok(rustix::net::sendmsg(socket, pieces, &mut rustix::net::SendAncillaryBuffer::default(), flags)?)
}

/// Sends from a file, from `offset` on, at most `count` bytes; the socket must be non-blocking.
pub fn sendfile(socket: impl AsFd, file: impl AsFd, mut offset: u64, count: usize) -> io::Result<usize> {
    Ok(rustix::fs::sendfile(socket, file, Some(&mut offset), count)?)
}

/// Ends one direction or both, in order, for every holder of the socket.
pub fn shutdown(socket: impl AsFd, how: Shutdown) -> io::Result<()> {
    let how = match how {
        Shutdown::Read => rustix::net::Shutdown::Read,
        Shutdown::Write => rustix::net::Shutdown::Write,
        Shutdown::Both => rustix::net::Shutdown::Both,
    };
    Ok(rustix::net::shutdown(socket, how)?)
}

/// Ends a connection at once and frees its buffers, even while another process holds a duplicate (`connect(AF_UNSPEC)`,
/// connect(2)); the peer gets a reset.
pub fn abort(socket: impl AsFd) -> io::Result<()> {
    Ok(rustix::net::connect_unspec(socket)?)
}

/// The address the socket is bound to.
pub fn local_addr(socket: impl AsFd) -> io::Result<SocketAddr> {
    internet(rustix::net::getsockname(socket)?)
}

/// The address of the other end.
pub fn peer_addr(socket: impl AsFd) -> io::Result<SocketAddr> {
    internet(rustix::net::getpeername(socket)?.ok_or(io::ErrorKind::NotConnected)?)
}

/// The error that waits on the socket (`SO_ERROR`), which is cleared: how a [`connect`] went.
pub fn take_error(socket: impl AsFd) -> io::Result<()> {
    Ok(sockopt::socket_error(socket)??)
}

/// Sends small pieces at once (`TCP_NODELAY`).
pub fn set_nodelay(socket: impl AsFd) -> io::Result<()> {
    Ok(sockopt::set_tcp_nodelay(socket, true)?)
}

/// How long sent bytes may stay unacknowledged before the connection is given up (`TCP_USER_TIMEOUT`), in milliseconds.
pub fn set_user_timeout(socket: impl AsFd, timeout_ms: u32) -> io::Result<()> {
    Ok(sockopt::set_tcp_user_timeout(socket, timeout_ms)?)
}

/// How much input must have come before the socket is called readable (`SO_RCVLOWAT`), if the peer goes on and the kernel has room. Reads
/// get what there is all the same. With 1, what has come by then is told.
pub fn set_rcvlowat(socket: impl AsFd, bytes: u32) -> io::Result<()> {
    // SAFETY: the pointer and length are those of a live number.
    let result = unsafe {
        let value = (&raw const bytes).cast();
        libc::setsockopt(socket.as_fd().as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVLOWAT, value, size_of::<u32>() as u32)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// How many unsent bytes the socket may hold and still be called writable (`TCP_NOTSENT_LOWAT`).
pub fn set_notsent_lowat(socket: impl AsFd, bytes: u32) -> io::Result<()> {
    // SAFETY: the pointer and length are those of a live number.
    let result = unsafe {
        let value = (&raw const bytes).cast();
        libc::setsockopt(socket.as_fd().as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, value, size_of::<u32>() as u32)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The size of the kernel's receive buffer (`SO_RCVBUF`; the kernel doubles it). Turns its own tuning off.
pub fn set_recv_buffer(socket: impl AsFd, bytes: usize) -> io::Result<()> {
    Ok(sockopt::set_socket_recv_buffer_size(socket, bytes)?)
}

/// The size of the kernel's send buffer (`SO_SNDBUF`; the kernel doubles it). Turns its own tuning off.
pub fn set_send_buffer(socket: impl AsFd, bytes: usize) -> io::Result<()> {
    Ok(sockopt::set_socket_send_buffer_size(socket, bytes)?)
}

/// What the kernel counts of a TCP connection (linux/tcp.h, `struct tcp_info`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpInfo {
    /// 1 is ESTABLISHED, 8 CLOSE_WAIT (net/tcp_states.h).
    pub state: u8,
    /// Bytes that the peer has acknowledged.
    pub bytes_acked: u64,
    /// Bytes that have arrived in order.
    pub bytes_received: u64,
}

/// Reads `TCP_INFO`. `Unsupported` on kernels before 4.1, which do not count bytes.
pub fn tcp_info(socket: impl AsFd) -> io::Result<TcpInfo> {
    let mut raw = [0u8; 256];
    let mut length = raw.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes into `raw`.
    let result = unsafe {
        libc::getsockopt(socket.as_fd().as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, raw.as_mut_ptr().cast(), &raw mut length)
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    if (length as usize) < 136 {
        return Err(io::ErrorKind::Unsupported.into());
    }
    // tcpi_bytes_acked and tcpi_bytes_received follow 120 bytes of older fields.
    let number = |at: usize| u64::from_ne_bytes(raw[at..at + 8].try_into().expect("eight bytes are eight bytes"));
    Ok(TcpInfo { state: raw[0], bytes_acked: number(120), bytes_received: number(128) })
}

/// Bytes written to the socket and not yet acknowledged by the peer (`SIOCOUTQ`, tcp(7)).
pub fn outq(socket: impl AsFd) -> io::Result<u32> {
    queue(socket, libc::TIOCOUTQ)
}

/// Bytes that have arrived and were not read yet (`SIOCINQ`, tcp(7)).
pub fn inq(socket: impl AsFd) -> io::Result<u32> {
    queue(socket, libc::FIONREAD)
}

/// `tcpi_state` of a connection that both sides use, and of one whose peer has said that it sends no more (net/tcp_states.h).
pub const ESTABLISHED: u8 = 1;
/// See [`ESTABLISHED`].
pub const CLOSE_WAIT: u8 = 8;

/// How far a TCP connection has come, whoever used it before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Positions {
    /// Bytes ever written to the socket.
    pub written: u64,
    /// Bytes ever read from the socket.
    pub read: u64,
}

/// Asks the kernel how many bytes were ever written to and read from a connection. `None` if it is in a state in which the kernel's
/// counters do not say: anything but [`ESTABLISHED`] and [`CLOSE_WAIT`].
///
/// Acknowledgements and data go on arriving, so each counter is read, the queue, and the counter again, until both readings agree.
pub fn positions(socket: impl AsFd) -> io::Result<Option<Positions>> {
    loop {
        let before = tcp_info(&socket)?;
        let (unacknowledged, unread) = (outq(&socket)?, inq(&socket)?);
        let after = tcp_info(&socket)?;
        if !matches!(after.state, ESTABLISHED | CLOSE_WAIT) {
            return Ok(None);
        }
        if before == after {
            // The peer's FIN has a place in the sequence and counts as a byte that came; FIONREAD knows better.
            let fin = u64::from(after.state == CLOSE_WAIT);
            let read = after.bytes_received.wrapping_sub(fin).wrapping_sub(u64::from(unread));
            return Ok(Some(Positions { written: after.bytes_acked + u64::from(unacknowledged), read }));
        }
    }
}

fn queue(socket: impl AsFd, request: libc::Ioctl) -> io::Result<u32> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: both requests write one int to the pointer.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), request, &raw mut bytes) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(u32::try_from(bytes).unwrap_or(0))
}

fn stream_socket(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    Ok(rustix::net::socket_with(family, SocketType::STREAM, FLAGS, None)?)
}

fn internet(address: SocketAddrAny) -> io::Result<SocketAddr> {
    Ok(SocketAddr::try_from(address)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{Events, Interest, Poller};
    use std::time::{Duration, Instant};

    fn wait(socket: impl AsFd, interest: Interest) {
        let poller = Poller::new().unwrap();
        poller.add(socket, 0, interest).unwrap();
        let mut events = Events::with_capacity(1);
        poller.wait(&mut events, Some(Duration::from_secs(10))).unwrap();
        assert!(!events.is_empty(), "not ready within 10 s");
    }

    fn pair(address: &str) -> (OwnedFd, OwnedFd) {
        let listener = listen(address.parse().unwrap(), 16, true, true).unwrap();
        let client = connect(local_addr(&listener).unwrap()).unwrap();
        wait(&listener, Interest::READ);
        let (server, peer) = accept4(&listener).unwrap();
        wait(&client, Interest::WRITE);
        take_error(&client).unwrap();
        assert_eq!(peer, local_addr(&client).unwrap());
        assert_eq!(peer_addr(&server).unwrap(), peer);
        (server, client)
    }

    fn eventually(mut condition: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !condition() {
            assert!(Instant::now() < deadline, "not within 10 s");
            std::thread::yield_now();
        }
    }

    #[test]
    fn bytes_go_both_ways_and_are_counted() {
        let (server, client) = pair("127.0.0.1:0");
        set_nodelay(&server).unwrap();
        set_user_timeout(&server, 20_000).unwrap();
        set_notsent_lowat(&server, 16_384).unwrap();
        set_rcvlowat(&server, 1_000).unwrap();
        let before = tcp_info(&server).unwrap();
        assert_eq!(before.state, 1);
        assert_eq!(recv(&server, &mut [0; 4]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(writev(&client, &[IoSlice::new(b"ab"), IoSlice::new(b"cde")]).unwrap(), 5);
        eventually(|| inq(&server).unwrap() == 5);
        assert_eq!(tcp_info(&server).unwrap().bytes_received, before.bytes_received + 5);
        let mut buffer = b"x".to_vec();
        assert_eq!(recv_append(&server, &mut buffer, 3).unwrap(), 3);
        assert_eq!(buffer, b"xabc");
        let mut rest = [0; 8];
        assert_eq!(recv(&server, &mut rest).unwrap(), 2);
        assert_eq!(send(&server, b"hello").unwrap(), 5);
        eventually(|| outq(&server).unwrap() == 0);
        assert_eq!(tcp_info(&server).unwrap().bytes_acked, before.bytes_acked + 5);
        shutdown(&client, Shutdown::Write).unwrap();
        wait(&server, Interest::READ);
        assert_eq!(recv(&server, &mut rest).unwrap(), 0);
    }

    #[test]
    fn a_stranger_finds_out_how_far_a_connection_has_come() {
        let (server, client) = pair("127.0.0.1:0");
        let base = positions(&server).unwrap().unwrap();
        send(&client, b"0123456789").unwrap();
        wait(&server, Interest::READ);
        eventually(|| inq(&server).unwrap() == 10);
        recv(&server, &mut [0; 4]).unwrap();
        while send(&server, &[7; 65_536]).is_ok() {}
        let written = positions(&server).unwrap().unwrap().written - base.written;
        assert!(written > 0 && outq(&server).unwrap() > 0);
        assert_eq!(positions(&server).unwrap().unwrap().read - base.read, 4);
        shutdown(&client, Shutdown::Write).unwrap();
        eventually(|| tcp_info(&server).unwrap().state == CLOSE_WAIT);
        let now = positions(&server).unwrap().unwrap();
        assert_eq!((now.written - base.written, now.read - base.read), (written, 4));
        assert_eq!(recv(&server, &mut [0; 16]).unwrap(), 6);
        assert_eq!(positions(&server).unwrap().unwrap().read - base.read, 10);
        let mut got = 0;
        let mut buffer = vec![0; 1 << 20];
        eventually(|| {
            got += recv(&client, &mut buffer).unwrap_or(0) as u64;
            got == written
        });
        shutdown(&server, Shutdown::Write).unwrap();
        eventually(|| positions(&server).unwrap().is_none());
    }

    #[test]
    fn a_file_is_sent() {
        let (server, client) = pair("127.0.0.1:0");
        let file = tempfile::tempfile_in("/dev/shm").unwrap();
        crate::file::pwrite_all(&file, b"0123456789", 0).unwrap();
        assert_eq!(sendfile(&server, &file, 3, 4).unwrap(), 4);
        wait(&client, Interest::READ);
        let mut buffer = [0; 16];
        let received = recv(&client, &mut buffer).unwrap();
        assert_eq!(&buffer[..received], b"3456");
    }

    #[test]
    fn an_abort_frees_the_buffers_although_a_duplicate_is_open() {
        let (server, client) = pair("127.0.0.1:0");
        let _vault = server.try_clone().unwrap();
        while send(&server, &[0; 65_536]).is_ok() {}
        assert!(outq(&server).unwrap() > 0);
        abort(&server).unwrap();
        wait(&client, Interest::READ);
        let mut buffer = vec![0; 1 << 20];
        eventually(|| matches!(recv(&client, &mut buffer), Err(error) if error.kind() == io::ErrorKind::ConnectionReset));
    }

    #[test]
    fn both_families_share_a_port_and_a_taken_one_is_an_error() {
        let Ok(six) = listen("[::1]:0".parse().unwrap(), 16, true, true) else {
            println!("skipped: no IPv6 on this machine");
            return;
        };
        let port = local_addr(&six).unwrap().port();
        // Somebody else may have the port's IPv4 half; only a second IPv6 listener is certain to fail.
        if let Ok(any) = listen(format!("0.0.0.0:{port}").parse().unwrap(), 16, true, true) {
            assert_eq!(local_addr(&any).unwrap().port(), port);
        }
        let taken = listen(format!("[::1]:{port}").parse().unwrap(), 16, true, true).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        let (_, client) = pair("[::1]:0");
        assert!(peer_addr(&client).unwrap().is_ipv6());
    }

    #[test]
    fn processes_of_one_machine_meet_at_a_path() {
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = directory.path().join("meet");
        assert_eq!(connect_local(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        let listener = listen_local(&path, 4).unwrap();
        let client = connect_local(&path).unwrap();
        let server = accept_local(&listener).unwrap();
        assert_eq!(accept_local(&listener).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        send(&client, b"one packet").unwrap();
        let mut buffer = [0; 32];
        assert_eq!(recv(&server, &mut buffer).unwrap(), 10);
        drop(listener);
        assert_eq!(connect_local(&path).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        listen_local(&path, 4).unwrap();
    }

    #[test]
    fn a_refused_connection_is_told() {
        let port = {
            let listener = listen("127.0.0.1:0".parse().unwrap(), 1, true, true).unwrap();
            local_addr(&listener).unwrap().port()
        };
        match connect(format!("127.0.0.1:{port}").parse().unwrap()) {
            Ok(client) => {
                wait(&client, Interest::WRITE);
                assert_eq!(take_error(&client).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
            }
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused),
        }
    }
}
