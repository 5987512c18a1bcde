//! Handing a session to another worker: it is saved, let go of, and the front told. The descriptor does not travel: the front has
//! a duplicate of every client's.
//!
//! Placement does this to sessions that were not told of success yet, draining and rebalancing to any.

use super::Worker;
use super::ingest::Publisher;
use super::rendezvous::holding;
use super::session::{Role, Session, Watched};
use super::takeover::Departed;
use crate::control::counters::WorkerCounter;
use crate::control::{ConnId, ToFront, WorkerId};
use braidcast_sys::fault::kill_point;

impl Worker {
    /// Hands a session over; `to` is who was chosen for it, or `None` if that is for the front to say. False: it cannot be moved.
    pub(super) fn hand_over(&mut self, slot: usize, to: Option<WorkerId>) -> bool {
        if self.wake(slot).is_err() {
            return false;
        }
        if let Role::Publishing(publisher) = self.sessions[slot].role {
            self.commit_publisher(publisher);
        }
        let session = &mut self.sessions[slot];
        // What it is may have changed in ways that are saved only when something leaves.
        session.kept.stale = true;
        self.save(slot);
        if self.sessions[slot].kept.lost {
            return false;
        }
        let holding = holding(&self.sessions[slot]);
        kill_point("letting_go");
        self.let_go(slot);
        // Before anybody else has the connection: the registration belongs to it, and lives on elsewhere.
        let session = self.sessions.remove(slot);
        self.unwatch(&session);
        let conn = session.conn;
        tracing::debug!(%conn, peer = %session.more.peer, to = to.map(tracing::field::display), "handed over");
        self.departed.insert(conn, Departed::new(session, holding));
        self.count(WorkerCounter::MovesOut);
        kill_point("let_go");
        self.tell_front(&ToFront::Move { conn, to });
        true
    }

    /// The front wants a session to go elsewhere.
    pub(super) fn hand_over_conn(&mut self, conn: ConnId) {
        if self.config.relays() {
            return self.tell_front(&ToFront::Stays { conn });
        }
        let Some(slot) = self.by_conn.get(conn) else { return };
        let session = &self.sessions[slot];
        let asks = matches!(session.role, Role::Asking(_) | Role::AskingSession(_));
        let answers = asks || session.is_outgoing() || session.answering || session.closing || session.draining;
        if answers || !self.hand_over(slot, None) {
            self.tell_front(&ToFront::Stays { conn });
        }
    }

    /// Another worker has the session as its own.
    pub(super) fn forget_departed(&mut self, conn: ConnId) {
        for block in self.departed.remove(&conn).into_iter().flat_map(Departed::into_blocks) {
            self.heap.free(block);
        }
    }

    /// Lets go of what the session's role holds, without ending it.
    fn let_go(&mut self, slot: usize) {
        self.release_input(slot);
        match std::mem::replace(&mut self.sessions[slot].role, Role::Idle) {
            // Dropped as it is: the lock goes with the writer, and the open segment is written once more elsewhere.
            Role::Publishing(publisher) => {
                if let Some(Publisher { key, writer, .. }) = self.publishers.try_remove(publisher) {
                    drop(writer);
                    self.end_forwards(&key);
                }
            }
            role => {
                self.sessions[slot].role = role;
                self.leave_role(slot, &"moved");
            }
        }
    }

    /// Takes a session's socket out of the loop, and what it holds out of the worker's sum.
    pub(super) fn unwatch(&mut self, session: &Session) {
        self.unfinished_bytes -= session.more.unfinished_bytes;
        self.by_conn.remove(session.conn);
        let gathered = match session.watched {
            Watched::Alone | Watched::Publisher => Ok(()),
            Watched::Asker => self.asker_sockets.delete(&session.socket),
        };
        let watched = match session.watched {
            Watched::Alone | Watched::Asker => self.poller.delete(&session.socket),
            Watched::Publisher => self.publisher_sockets.delete(&session.socket),
        };
        if let Err(error) = gathered.and(watched) {
            tracing::debug!(conn = %session.conn, %error, "cannot unwatch a socket");
        }
    }
}
