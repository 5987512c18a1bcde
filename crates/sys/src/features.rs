//! Which of the kernel's abilities are there, found out by using them once.

use crate::{PidFd, fd_passing, net};
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;

/// Handles for processes.
pub fn pidfd() -> io::Result<()> {
    PidFd::open(std::process::id()).map(drop)
}

/// Packets between processes that carry descriptors.
pub fn descriptors_in_packets() -> io::Result<()> {
    let (ours, theirs) = net::seqpacket_pair()?;
    fd_passing::send_with_fds(&ours, b"x", &[ours.as_fd()])?;
    let (_, fds) = fd_passing::recv_with_fds(&theirs, &mut [0; 1], 1)?;
    if fds.len() == 1 { Ok(()) } else { Err(io::Error::other("the descriptor did not arrive")) }
}

/// Files in memory that have no name.
pub fn memfd() -> io::Result<()> {
    rustix::fs::memfd_create("braidcast", rustix::fs::MemfdFlags::CLOEXEC)?;
    Ok(())
}

/// To be told how far a TCP connection has come, and to hold back what is not sent: tried on a loopback connection of one's own.
pub fn tcp() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let _client = TcpStream::connect(listener.local_addr()?)?;
    let (stream, _) = listener.accept()?;
    net::set_notsent_lowat(&stream, 1 << 14)?;
    match net::positions(&stream)? {
        Some(net::Positions { written: 0, read: 0 }) => Ok(()),
        positions => Err(io::Error::other(format!("the kernel's counters of a new connection say {positions:?}"))),
    }
}

/// Whether the kernel encrypts TLS by itself, or has the module for it loaded.
pub fn kernel_tls() -> bool {
    let known = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_available_ulp");
    known.is_ok_and(|list| list.split_ascii_whitespace().any(|name| name == "tls"))
}

/// Whether the kernel filters system calls (seccomp) and can answer them by an error.
pub fn call_filters() -> bool {
    let actions = std::fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail");
    actions.is_ok_and(|list| list.split_ascii_whitespace().any(|name| name == "errno"))
}

/// Whether something keeps the wall clock right; `None`: this process is not told.
pub fn clock_is_kept() -> Option<bool> {
    let mut time = std::mem::MaybeUninit::<libc::timex>::zeroed();
    // SAFETY: with all modes 0, as here, the call changes nothing and fills the structure (adjtimex(2)).
    let state = unsafe { libc::adjtimex(time.as_mut_ptr()) };
    (state >= 0).then_some(state != libc::TIME_ERROR)
}

/// The kernel's release, as `uname -r` says it.
pub fn kernel_release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_the_other_tests_use_is_there() {
        pidfd().unwrap();
        descriptors_in_packets().unwrap();
        memfd().unwrap();
        tcp().unwrap();
        assert!(kernel_release().starts_with(|first: char| first.is_ascii_digit()));
    }
}
