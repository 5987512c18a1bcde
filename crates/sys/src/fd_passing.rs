//! Descriptors over Unix sockets (`SCM_RIGHTS`, unix(7)).

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The most descriptors one message can carry (the kernel's `SCM_MAX_FD`).
pub const MAX_FDS: usize = 253;

/// Sends one packet with descriptors. `WouldBlock` if the receiver's queue is full: then nothing was sent, and the
/// descriptors still belong to the caller alone. `InvalidInput` beyond [`MAX_FDS`].
pub fn send_with_fds(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    if fds.len() > MAX_FDS {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors for one message"));
    }
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(fds.len()))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors for one message"));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    let sent = rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags)?;
    if sent != bytes.len() {
        return Err(io::Error::new(io::ErrorKind::WriteZero, "a packet was sent in part: not a packet socket"));
    }
    Ok(())
}

/// Receives one packet and at most `max_fds` descriptors, which are close-on-exec. `(0, [])` is the end: the peer is gone.
/// A packet longer than `buffer`, or one whose descriptors did not fit (also because this process is at its descriptor
/// limit), is an `InvalidData` error; descriptors that did arrive are closed.
pub fn recv_with_fds(socket: impl AsFd, buffer: &mut [u8], max_fds: usize) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(max_fds.min(MAX_FDS)))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = rustix::net::recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, flags)?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "descriptors were lost on the way: too many, or the descriptor limit"));
    }
    if received.flags.contains(ReturnFlags::TRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a packet was longer than the longest message"));
    }
    // Room for descriptors is rounded up to the alignment, so that one more than asked for can slip in.
    if fds.len() > max_fds {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "more descriptors than the message may carry"));
    }
    Ok((received.bytes, fds))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::EventFd;
    use crate::net::seqpacket_pair;

    #[test]
    fn a_descriptor_arrives_and_works() {
        let (left, right) = seqpacket_pair().unwrap();
        let bell = EventFd::new().unwrap();
        send_with_fds(&left, b"here", &[bell.as_fd(), left.as_fd()]).unwrap();
        let mut buffer = [0; 16];
        let (bytes, mut fds) = recv_with_fds(&right, &mut buffer, 4).unwrap();
        assert_eq!((&buffer[..bytes], fds.len()), (&b"here"[..], 2));
        let far = EventFd::from_fd(fds.remove(0));
        assert!(rustix::io::fcntl_getfd(&far).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
        far.ring().unwrap();
        assert!(bell.drain().unwrap());
    }

    #[test]
    fn empty_queue_blocks_and_a_gone_peer_is_the_end() {
        let (left, right) = seqpacket_pair().unwrap();
        let mut buffer = [0; 16];
        assert_eq!(recv_with_fds(&right, &mut buffer, 1).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(left);
        let (bytes, fds) = recv_with_fds(&right, &mut buffer, 1).unwrap();
        assert_eq!((bytes, fds.len()), (0, 0));
        assert!(send_with_fds(&right, b"x", &[]).is_err(), "a gone peer is an error, not a signal");
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let (left, right) = seqpacket_pair().unwrap();
        let fds: Vec<BorrowedFd<'_>> = std::iter::repeat_n(left.as_fd(), 8).collect();
        send_with_fds(&left, b"many", &fds).unwrap();
        let mut buffer = [0; 4];
        assert_eq!(recv_with_fds(&right, &mut buffer, 1).unwrap_err().kind(), io::ErrorKind::InvalidData);
        send_with_fds(&left, b"long packet", &[]).unwrap();
        assert_eq!(recv_with_fds(&right, &mut buffer, 1).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let many: Vec<BorrowedFd<'_>> = std::iter::repeat_n(left.as_fd(), MAX_FDS + 1).collect();
        assert_eq!(send_with_fds(&left, b"", &many).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn a_full_queue_would_block() {
        let (left, _right) = seqpacket_pair().unwrap();
        let full = (0..100_000).find_map(|_| send_with_fds(&left, &[0; 1024], &[]).err());
        assert_eq!(full.unwrap().kind(), io::ErrorKind::WouldBlock);
    }
}
