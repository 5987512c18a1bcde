//! A doorbell: an eventfd that any process holding it can ring and its owner polls.

use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// An eventfd, non-blocking and close-on-exec. However often it is rung, it is one readable event until drained.
#[derive(Debug)]
pub struct EventFd(OwnedFd);

impl EventFd {
    /// A new, silent doorbell.
    pub fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// Takes an eventfd that came from another process.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Another descriptor of the same doorbell.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self(self.0.try_clone()?))
    }

    /// Makes the doorbell readable. A counter that is full is readable already, so that is no error.
    pub fn ring(&self) -> io::Result<()> {
        match rustix::io::write(&self.0, &1u64.to_ne_bytes()) {
            Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Silences the doorbell; true if it had been rung.
    pub fn drain(&self) -> io::Result<bool> {
        let mut count = [0u8; 8];
        match rustix::io::read(&self.0, &mut count) {
            Ok(_) => Ok(true),
            Err(rustix::io::Errno::AGAIN) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<EventFd> for OwnedFd {
    fn from(event: EventFd) -> Self {
        event.0
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn many_rings_are_one_drain() {
        let bell = EventFd::new().unwrap();
        assert!(!bell.drain().unwrap());
        let other = bell.try_clone().unwrap();
        other.ring().unwrap();
        other.ring().unwrap();
        assert!(bell.drain().unwrap());
        assert!(!bell.drain().unwrap());
    }

    #[test]
    fn a_full_counter_is_no_error() {
        let bell = EventFd::new().unwrap();
        rustix::io::write(&bell.0, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        bell.ring().unwrap();
        assert!(bell.drain().unwrap());
    }
}
