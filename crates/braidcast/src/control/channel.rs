//! One end of the socket pair between the front and a worker or an attendant: typed messages with their descriptors, in order.
//!
//! Never blocks (but for the first message, on request). What the kernel does not take at once waits in a bounded list;
//! a message that does not fit there is an error. Reading is one message a call, so that turns can be bounded.

use super::{MAX_MESSAGE_BYTES, decode, encode};
use braidcast_sys::fd_passing::{MAX_FDS, recv_with_fds, send_with_fds};
use braidcast_sys::{Events, Interest, Poller, net};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// The most messages that wait for the other end to read. A few for each connection it can have; past that it is not alive.
pub const MAX_PENDING: usize = 65_536;

/// One end of a control channel.
#[derive(Debug)]
pub struct Channel {
    socket: OwnedFd,
    pending: VecDeque<Packet>,
    max_pending: usize,
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct Packet {
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
}

impl Channel {
    /// Over a connected `SOCK_SEQPACKET` socket, which becomes non-blocking. At most [`MAX_PENDING`] messages wait to be sent.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        net::set_nonblocking(&socket)?;
        Ok(Self { socket, pending: VecDeque::new(), max_pending: MAX_PENDING, buffer: vec![0; MAX_MESSAGE_BYTES] })
    }

    /// Sends a message with its descriptors, which are closed here as soon as they are under way. After what waits, if anything does.
    ///
    /// `WouldBlock`: the other end does not read and the list is full; the message is dropped, its descriptors closed.
    /// `InvalidInput`: longer than [`MAX_MESSAGE_BYTES`]. Any other error: the channel is broken, the other process probably gone.
    pub fn send<M: Serialize>(&mut self, message: &M, fds: Vec<OwnedFd>) -> io::Result<()> {
        let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        match self.send_now(message, &borrowed)? {
            None => Ok(()),
            Some(bytes) => self.wait(Packet { bytes, fds }),
        }
    }

    /// As [`Channel::send`], with one descriptor that stays the caller's. It is duplicated only if the message has to wait.
    pub fn lend<M: Serialize>(&mut self, message: &M, fd: &OwnedFd) -> io::Result<()> {
        match self.send_now(message, &[fd.as_fd()])? {
            None => Ok(()),
            Some(bytes) => self.wait(Packet { bytes, fds: vec![fd.try_clone()?] }),
        }
    }

    /// After what waits, if that is under way now; else the bytes that have to wait too.
    fn send_now<M: Serialize>(&mut self, message: &M, fds: &[BorrowedFd<'_>]) -> io::Result<Option<Vec<u8>>> {
        let bytes = encode(message);
        if bytes.len() > MAX_MESSAGE_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a control message is too long"));
        }
        self.flush()?;
        let sent = self.pending.is_empty() && self.transmit(&bytes, fds)?;
        Ok(if sent { None } else { Some(bytes) })
    }

    fn wait(&mut self, packet: Packet) -> io::Result<()> {
        if self.pending.len() >= self.max_pending {
            return Err(io::Error::new(io::ErrorKind::WouldBlock, "the other process does not read its control messages"));
        }
        self.pending.push_back(packet);
        Ok(())
    }

    /// Sends what waits, as far as the kernel takes it.
    pub fn flush(&mut self) -> io::Result<()> {
        while let Some(packet) = self.pending.pop_front() {
            let fds: Vec<BorrowedFd<'_>> = packet.fds.iter().map(AsFd::as_fd).collect();
            match self.transmit(&packet.bytes, &fds) {
                Ok(true) => {}
                Ok(false) => {
                    self.pending.push_front(packet);
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// How many messages wait. While any do, the owner watches for the socket to become writable, and calls [`Channel::flush`].
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// The next message and the descriptors that came with it (how many its variant has is not checked); `None` if there is none now.
    ///
    /// `InvalidData`: a packet that is no message, or whose descriptors were lost; the channel goes on. `UnexpectedEof`: the
    /// other end is closed. Any other error: the channel is broken.
    pub fn receive<M: DeserializeOwned>(&mut self) -> io::Result<Option<(M, Vec<OwnedFd>)>> {
        let (bytes, fds) = match recv_with_fds(&self.socket, &mut self.buffer, MAX_FDS) {
            // No message is empty, so an empty packet is the end.
            Ok((0, _)) => return Err(closed()),
            Ok(received) => received,
            Err(error) => {
                return match error.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
                    io::ErrorKind::ConnectionReset => Err(closed()),
                    _ => Err(error),
                };
            }
        };
        let message = decode(&self.buffer[..bytes]).map_err(|malformed| io::Error::new(io::ErrorKind::InvalidData, malformed))?;
        Ok(Some((message, fds)))
    }

    /// As [`Channel::receive`], but waits; `TimedOut` if nothing came. Only for a process that has nothing else to do yet.
    pub fn receive_blocking<M: DeserializeOwned>(&mut self, timeout: Duration) -> io::Result<(M, Vec<OwnedFd>)> {
        let deadline = Instant::now() + timeout;
        let poller = Poller::new()?;
        poller.add(&self.socket, 0, Interest::READ)?;
        let mut events = Events::with_capacity(1);
        loop {
            if let Some(received) = self.receive()? {
                return Ok(received);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            poller.wait(&mut events, Some(left))?;
        }
    }

    /// False: the kernel takes no more now.
    fn transmit(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<bool> {
        match send_with_fds(&self.socket, bytes, fds) {
            Ok(()) => Ok(true),
            Err(error) if can_wait(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the other end of the control channel is closed")
}

/// Full queues empty themselves. Too many descriptors in flight (ETOOMANYREFS, unix(7)) is such a queue too, over all
/// channels of the user; no readiness event tells its end, so owners with pending messages also try again after a while.
fn can_wait(error: &io::Error) -> bool {
    const ENOBUFS: i32 = 105;
    const ETOOMANYREFS: i32 = 109;
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted | io::ErrorKind::OutOfMemory)
        || matches!(error.raw_os_error(), Some(ETOOMANYREFS | ENOBUFS))
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::{ConnId, ToFront};
    use super::*;
    use braidcast_sys::EventFd;
    use braidcast_sys::net::seqpacket_pair;

    fn channels() -> (Channel, Channel) {
        let (left, right) = seqpacket_pair().unwrap();
        (Channel::new(left).unwrap(), Channel::new(right).unwrap())
    }

    fn closed(conn: u64) -> ToFront {
        ToFront::Closed { conn: ConnId(conn) }
    }

    #[test]
    fn messages_and_their_descriptors_arrive_in_order() {
        let (mut here, mut there) = channels();
        let bell = EventFd::new().unwrap();
        here.send(&closed(1), vec![]).unwrap();
        here.send(&closed(2), vec![bell.try_clone().unwrap().into()]).unwrap();
        assert_eq!(there.receive_blocking::<ToFront>(Duration::from_secs(5)).unwrap().0, closed(1));
        let (message, mut fds) = there.receive::<ToFront>().unwrap().unwrap();
        assert_eq!(message, closed(2));
        EventFd::from_fd(fds.remove(0)).ring().unwrap();
        assert!(bell.drain().unwrap());
        assert!(there.receive::<ToFront>().unwrap().is_none());
        assert_eq!(there.receive_blocking::<ToFront>(Duration::ZERO).unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn a_peer_that_does_not_read_fills_a_bounded_list_that_drains_in_order() {
        let (mut here, mut there) = channels();
        here.max_pending = 100;
        let bell: std::os::fd::OwnedFd = EventFd::new().unwrap().into();
        let mut sent = 0;
        let refused = loop {
            // Lent or given away, what waits has descriptors of its own.
            let result = match sent % 2 {
                0 => here.send(&closed(sent), vec![bell.try_clone().unwrap()]),
                _ => here.lend(&closed(sent), &bell),
            };
            match result {
                Ok(()) => sent += 1,
                Err(error) => break error,
            }
        };
        assert_eq!((refused.kind(), here.pending()), (io::ErrorKind::WouldBlock, 100));
        for expected in 0..sent {
            let (message, fds) = there.receive::<ToFront>().unwrap().unwrap();
            assert_eq!((message, fds.len()), (closed(expected), 1));
            here.flush().unwrap();
        }
        assert_eq!(here.pending(), 0);
        assert!(there.receive::<ToFront>().unwrap().is_none());
    }

    #[test]
    fn rubbish_is_an_error_and_the_channel_goes_on() {
        let (mut here, mut there) = channels();
        send_with_fds(&there, &[0xff; 3], &[]).unwrap();
        send_with_fds(&there, &vec![1; MAX_MESSAGE_BYTES + 1], &[]).unwrap();
        there.send(&closed(7), vec![]).unwrap();
        for _ in 0..2 {
            assert_eq!(here.receive::<ToFront>().unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
        assert_eq!(here.receive::<ToFront>().unwrap().unwrap().0, closed(7));
        drop(there);
        assert_eq!(here.receive::<ToFront>().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert!(here.send(&closed(1), vec![]).is_err());
    }
}
