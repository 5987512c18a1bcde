//! Accepting: takes connections in bounded turns, holds them to the limits, gives each to a worker. Never reads from them.

use super::Front;
use super::listen::local_of;
use super::registry::Unwelcome;
use super::timers::Timer;
use crate::control::counters::FrontCounter;
use crate::control::{ConnId, Listener, Origin, ToWorker, WorkerId};
use crate::events::{Event, Kind};
use braidcast_sys::net;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

/// Connections taken from one socket before the others have their turn.
const ACCEPTS_PER_TURN: usize = 64;
/// How long accepting pauses when the process or the machine has no descriptor left, milliseconds.
const PAUSE_MS: u64 = 200;

/// errno-base(3): out of descriptors here, everywhere, out of memory for sockets.
const EMFILE: i32 = 24;
const ENFILE: i32 = 23;
const ENOBUFS: i32 = 105;
const ENOMEM: i32 = 12;

impl Front {
    /// Takes what waits on a listening socket.
    pub(super) fn accept_turn(&mut self, index: usize) {
        for _ in 0..ACCEPTS_PER_TURN {
            let Some(socket) = self.sockets.get(index).filter(|_| self.accepting) else { return };
            match net::accept4(&socket.fd) {
                Ok((client, peer)) => self.take_in(index, client, peer),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if matches!(error.raw_os_error(), Some(EMFILE | ENFILE | ENOBUFS | ENOMEM)) => {
                    return self.pause_accepting(&error);
                }
                // The client's own failure (gone already, unreachable): accept(2) says to go on with the next one.
                Err(error) => tracing::debug!(address = %socket.address, %error, "a connection failed before it was accepted"),
            }
        }
    }

    /// Watches the listening sockets while somebody can take connections; else they wait in the kernel.
    pub(super) fn watch_sockets(&mut self) {
        let wanted = !self.is_stopping() && !self.is_quieting() && !self.accept_paused && self.workers.iter().any(|worker| worker.serves());
        if wanted == self.accepting {
            return;
        }
        // TLS is the attendant's to accept.
        for (index, socket) in self.sockets.iter().enumerate().filter(|(_, socket)| !socket.listener.is_tls()) {
            let result = match wanted {
                true => self.poller.add(&socket.fd, super::token(super::LISTENER, index), braidcast_sys::Interest::READ),
                false => self.poller.delete(&socket.fd),
            };
            if let Err(error) = result {
                tracing::error!(address = %socket.address, %error, "cannot {} a listening socket", if wanted { "watch" } else { "leave" });
            }
        }
        self.accepting = wanted;
        self.hold_arrivals(!wanted);
    }

    /// Readiness would be told again at once, and accepting fail again: the loop must not spin.
    fn pause_accepting(&mut self, error: &io::Error) {
        self.count(FrontCounter::AcceptPauses);
        if self.peer_lines.allow(self.now_ms) {
            tracing::warn!(%error, "cannot accept connections: pausing for {PAUSE_MS} ms; raise the descriptor limit (LimitNOFILE=, ulimit -n) or lower [limits] connections");
        }
        self.accept_paused = true;
        self.timers.set(Timer::ResumeAccept, self.now_ms + PAUSE_MS);
        self.watch_sockets();
    }

    fn take_in(&mut self, index: usize, client: OwnedFd, peer: SocketAddr) {
        let Some(socket) = self.sockets.get(index) else { return };
        let (listener, owner) = (socket.listener, socket.worker);
        self.count(FrontCounter::Accepted);
        if self.config.expects_proxy(listener) && !self.registry.is_proxy(peer.ip()) {
            return self.turn_away(
                peer,
                FrontCounter::RefusedUntrusted,
                "[server] trusted_proxies: others cannot connect where PROXY headers are expected",
            );
        }
        self.admit(listener, owner, client, peer, None);
    }

    /// An attendant passes a client's connection on: from here on it is one like any other.
    pub(super) fn arrived(&mut self, listener: Listener, client: OwnedFd, peer: SocketAddr, local: SocketAddr) {
        self.count(FrontCounter::Accepted);
        self.admit(listener, None, client, peer, Some(local));
    }

    /// `owner`: whose sub-port it came in by. `local`: the address that was connected to, if the socket does not know it.
    fn admit(&mut self, listener: Listener, owner: Option<WorkerId>, client: OwnedFd, peer: SocketAddr, local: Option<SocketAddr>) {
        if let Err(unwelcome) = self.registry.admit(peer.ip()) {
            return self.unwelcome(peer, unwelcome);
        }
        if self.moves.is_held_off(peer.ip(), self.now_ms) {
            return self.unwelcome(peer, Unwelcome::HeldOff);
        }
        let worker = match owner {
            Some(owner) => {
                Some(owner).filter(|owner| self.worker(*owner).is_some_and(|worker| worker.serves() && self.has_pending_room(*owner)))
            }
            None => self.least_busy(),
        };
        let Some(worker) = worker else {
            return self.turn_away(peer, FrontCounter::RefusedPending, "[limits] pending_connections, or no worker serves");
        };
        match local.map_or_else(|| local_of(&client), Ok) {
            Ok(local) => self.give(worker, listener, client, peer, local),
            Err(error) => tracing::debug!(%peer, error = format!("{error:#}"), "a connection was gone before it was served"),
        }
    }

    fn give(&mut self, worker: WorkerId, listener: Listener, client: OwnedFd, peer: SocketAddr, local: SocketAddr) {
        let row = match self.vault.take_row() {
            Ok(row) => row,
            Err(error) => {
                tracing::error!(%peer, %error, "a connection cannot be served: no memory for its row");
                return self.turn_away(peer, FrontCounter::RefusedPending, "[limits] connections");
            }
        };
        let origin = Origin { listener, peer, local };
        let conn = self.registry.connected(worker, origin, row);
        self.events.note_conn(conn);
        tracing::debug!(%conn, %peer, %local, %worker, "accepted ({listener:?})");
        self.lend(worker, &ToWorker::Connection { conn, row, origin }, &client);
        self.vault.keep(row, client);
    }

    /// A proxy has said whose connection it is: the limits are for that client.
    pub(super) fn named(&mut self, worker: WorkerId, conn: ConnId, client: SocketAddr) {
        let held_off = self.moves.is_held_off(client.ip(), self.now_ms);
        match self.registry.named(conn, worker, client.ip(), held_off) {
            Ok(None) => tracing::debug!(%conn, peer = %client, %worker, "a proxy's connection is this client's"),
            Ok(Some(unwelcome)) => self.unwelcome(client, unwelcome),
            Err(mismatch) => self.note(worker, conn, Err(mismatch)),
        }
    }

    fn unwelcome(&mut self, peer: SocketAddr, unwelcome: Unwelcome) {
        match unwelcome {
            Unwelcome::TooMany => self.turn_away(peer, FrontCounter::RefusedConnections, "[limits] connections"),
            Unwelcome::TooManyFromAddress => self.turn_away(peer, FrontCounter::RefusedPerAddress, "[limits] connections_per_address"),
            Unwelcome::HeldOff => {
                self.turn_away(peer, FrontCounter::RefusedPoison, "[limits] poison_hold: the address sent what two workers died of");
            }
        }
    }

    /// Counts a connection that is closed, and says so.
    fn turn_away(&mut self, peer: SocketAddr, counter: FrontCounter, rule: &str) {
        self.count(counter);
        self.log_some(&Event { client: Some(peer.ip()), ..Event::new(Kind::Limit).why(rule) });
        if self.peer_lines.allow(self.now_ms) {
            tracing::warn!(%peer, "connection refused: {rule}");
        }
    }

    /// The worker with the fewest sessions that can take one more; of equals the next in turn, so that short requests go round.
    pub(super) fn least_busy(&mut self) -> Option<WorkerId> {
        let count = self.workers.len();
        let turn = |id: WorkerId| (usize::from(id.0) + count - 1 - usize::from(self.last_given.0) % count.max(1)) % count.max(1);
        let candidates = self.workers.iter().filter(|worker| worker.serves() && self.has_pending_room(worker.id));
        let chosen = candidates.min_by_key(|worker| (self.registry.load(worker.id).sessions, turn(worker.id)))?.id;
        self.last_given = chosen;
        Some(chosen)
    }

    fn has_pending_room(&self, worker: WorkerId) -> bool {
        let pending = self.worker(worker).and_then(|worker| worker.process.as_ref()).map_or(0, |process| process.channel.pending());
        pending < self.config.limits.pending_connections as usize
    }
}
