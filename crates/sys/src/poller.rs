//! epoll: which of many descriptors are ready, told by a token of the caller's choice.
//!
//! A registration belongs to the open file description, not to the descriptor: delete it before the descriptor is given
//! away or closed while a duplicate lives elsewhere (the front's vault holds one of every client's).

use crate::clock;
use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};
use std::io;
use std::ops::BitOr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// What to wait for. Hang-ups and errors are always reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interest(EventFlags);

impl Interest {
    /// Only hang-ups and errors.
    pub const NONE: Self = Self(EventFlags::empty());
    /// Readable.
    pub const READ: Self = Self(EventFlags::IN);
    /// Writable.
    pub const WRITE: Self = Self(EventFlags::OUT);
    /// The peer closed its sending half (reported as [`Event::peer_closed`]).
    pub const PEER_CLOSED: Self = Self(EventFlags::RDHUP);
    /// Report only changes to ready, once each.
    pub const EDGE: Self = Self(EventFlags::ET);
}

impl BitOr for Interest {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A ready descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// As given to [`Poller::add`].
    pub token: u64,
    /// A read would not block (it may report an error or the end).
    pub readable: bool,
    /// A write would not block (it may report an error).
    pub writable: bool,
    /// The peer closed its sending half; only with [`Interest::PEER_CLOSED`].
    pub peer_closed: bool,
    /// Both halves are closed, or the descriptor is in error: it will never be of use again.
    pub dead: bool,
}

/// Room for the events of one wait.
pub struct Events(Vec<epoll::Event>);

impl Events {
    /// Room for this many events, at least one, per wait.
    pub fn with_capacity(events: usize) -> Self {
        Self(Vec::with_capacity(events.max(1)))
    }

    /// What the last wait found.
    pub fn iter(&self) -> impl Iterator<Item = Event> + '_ {
        self.0.iter().map(|event| {
            let flags = event.flags;
            let dead = flags.intersects(EventFlags::ERR | EventFlags::HUP);
            Event {
                token: event.data.u64(),
                readable: dead || flags.intersects(EventFlags::IN | EventFlags::RDHUP),
                writable: dead || flags.contains(EventFlags::OUT),
                peer_closed: flags.contains(EventFlags::RDHUP),
                dead,
            }
        })
    }

    /// How many events the last wait found.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the last wait found nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// An epoll instance; itself pollable.
#[derive(Debug)]
pub struct Poller(OwnedFd);

impl Poller {
    /// A new instance that watches nothing.
    pub fn new() -> io::Result<Self> {
        Ok(Self(epoll::create(epoll::CreateFlags::CLOEXEC)?))
    }

    /// Watches `fd`. An error if it is watched already.
    pub fn add(&self, fd: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        Ok(epoll::add(&self.0, fd, EventData::new_u64(token), interest.0)?)
    }

    /// Changes token and interest of a watched descriptor; an edge-triggered one is reported again if it is ready.
    pub fn modify(&self, fd: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        Ok(epoll::modify(&self.0, fd, EventData::new_u64(token), interest.0)?)
    }

    /// Watches the descriptor no longer.
    pub fn delete(&self, fd: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.0, fd)?)
    }

    /// Waits until something is ready or the time is over, by [`clock`] (`None`: no limit). A signal ends
    /// the wait too, with no events: the caller looks at its signal flags after every wait.
    pub fn wait(&self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        events.0.clear();
        let timeout = timeout.map(|duration| {
            // The kernel takes at most i32::MAX milliseconds; a shorter wait than asked for is harmless.
            let duration = clock::real_wait(duration).min(Duration::from_millis(i32::MAX as u64 - 1));
            Timespec { tv_sec: duration.as_secs() as i64, tv_nsec: duration.subsec_nanos().into() }
        });
        match epoll::wait(&self.0, rustix::buffer::spare_capacity(&mut events.0), timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Poller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::EventFd;

    #[test]
    fn level_edge_modify_and_delete() {
        let (poller, bell) = (Poller::new().unwrap(), EventFd::new().unwrap());
        let mut events = Events::with_capacity(4);
        let mut now = |poller: &Poller| {
            poller.wait(&mut events, Some(Duration::ZERO)).unwrap();
            events.iter().map(|e| (e.token, e.readable)).collect::<Vec<_>>()
        };
        poller.add(&bell, 7, Interest::READ).unwrap();
        assert_eq!(now(&poller), []);
        bell.ring().unwrap();
        assert_eq!(now(&poller), [(7, true)]);
        assert_eq!(now(&poller), [(7, true)], "level-triggered events repeat");
        poller.modify(&bell, 8, Interest::READ | Interest::EDGE).unwrap();
        assert_eq!(now(&poller), [(8, true)]);
        assert_eq!(now(&poller), [], "edge-triggered events do not");
        poller.delete(&bell).unwrap();
        bell.ring().unwrap();
        assert_eq!(now(&poller), []);
        assert!(poller.delete(&bell).is_err());
    }

    #[test]
    fn a_closed_peer_is_told() {
        let (left, right) = crate::net::seqpacket_pair().unwrap();
        let poller = Poller::new().unwrap();
        poller.add(&left, 1, Interest::READ | Interest::PEER_CLOSED).unwrap();
        drop(right);
        let mut events = Events::with_capacity(4);
        poller.wait(&mut events, Some(Duration::from_secs(5))).unwrap();
        let event = events.iter().next().unwrap();
        assert!(event.readable && event.peer_closed && event.dead);
    }
}
