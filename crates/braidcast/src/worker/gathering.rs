//! Sockets that are looked at apart from all others, many in one wake-up when many have something to say: those of publishers, and those of
//! clients that ask for HLS again and again. Says what they say; reads nothing.

use super::Worker;
use super::looks::Looks;
use super::session::{Protocol, Watched};
use braidcast_sys::{Events, Interest, Poller};
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

/// See the module's head.
pub struct Gathering {
    poller: Poller,
    /// What the worker's poller calls it.
    token: u64,
    /// When they are looked at.
    pub looks: Looks,
}

impl Gathering {
    /// One that `main` watches under this token, unless its sockets are looked at in steps.
    pub fn new(main: &Poller, token: u64, looks: Looks) -> io::Result<Self> {
        let poller = Poller::new()?;
        main.add(&poller, token, Interest::READ)?;
        Ok(Self { poller, token, looks })
    }

    /// Has a socket watched here.
    pub fn add(&self, socket: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        self.poller.add(socket, token, interest)
    }

    /// Has it not watched here any longer.
    pub fn delete(&self, socket: impl AsFd) -> io::Result<()> {
        self.poller.delete(socket)
    }

    /// Hears from the sockets, if it is time or `told` says that there is something to hear. False: it is not.
    pub fn hear(&self, told: bool, events: &mut Events, now_ms: u64) -> io::Result<bool> {
        let hears = told || self.looks.is_due(now_ms);
        if hears {
            self.poller.wait(events, Some(Duration::ZERO))?;
        }
        Ok(hears)
    }

    /// A look has found input at so many sockets: chooses how to look from now on.
    pub fn looked(&mut self, main: &Poller, found: usize, now_ms: u64) -> io::Result<()> {
        match self.looks.looked(found, now_ms) {
            Some(true) => main.delete(&self.poller),
            Some(false) => main.add(&self.poller, self.token, Interest::READ),
            None => Ok(()),
        }
    }
}

impl Worker {
    /// Hears from publishers' sockets; `told` says that there is something to hear, `events` is room for it.
    pub(super) fn look_at_publishers(&mut self, told: bool, events: &mut Events) -> io::Result<()> {
        if !self.publisher_sockets.hear(told, events, self.now.mono_ms)? {
            return Ok(());
        }
        for event in events.iter() {
            self.session_event(event.token, event);
        }
        self.publisher_sockets.looked(&self.poller, events.len(), self.now.mono_ms)
    }

    /// As [`Worker::look_at_publishers`], for clients of HLS. One that asks for a thing after another as fast as it is answered counts as one:
    /// it is not made slower.
    pub(super) fn look_at_askers(&mut self, told: bool, events: &mut Events) -> io::Result<()> {
        if !self.asker_sockets.hear(told, events, self.now.mono_ms)? {
            return Ok(());
        }
        let mut found = 0;
        for event in events.iter() {
            if let Some(slot) = self.slot_of(event.token) {
                found += usize::from(self.asker_sockets.looks.is_new(slot));
            }
            self.session_event(event.token, event);
        }
        self.asker_sockets.looked(&self.poller, found, self.now.mono_ms)
    }

    /// A session asks for a file of HLS. Once it has done so before, its requests are looked at with those of the others; that it takes more of
    /// what it was answered is still heard at once.
    pub(super) fn watch_asker(&mut self, slot: usize) {
        let session = &mut self.sessions[slot];
        let again = session.ledger.sent() > 0 && !session.last_request && matches!(session.more.protocol, Protocol::Http(_));
        if !again || session.watched != Watched::Alone {
            return;
        }
        let token = session.token(slot);
        let added = self.asker_sockets.add(&session.socket, token, Interest::READ | Interest::PEER_CLOSED | Interest::EDGE);
        let moved = added.and_then(|()| {
            let left = self.poller.modify(&session.socket, token, Interest::WRITE | Interest::EDGE);
            left.inspect_err(|_| drop(self.asker_sockets.delete(&session.socket)))
        });
        match moved {
            Ok(()) => session.watched = Watched::Asker,
            Err(error) => {
                tracing::debug!(conn = %session.conn, peer = %session.more.peer, %error, "a client's socket is looked at by itself");
            }
        }
    }
}
