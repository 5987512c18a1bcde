//! Viewers that rest: who has said nothing for a while is only what a send needs; all else stands in its checkpoint, from which it is
//! taken when the client says something, a timer is due, or the session is to go elsewhere.
//!
//! A session rests only while its checkpoint says everything, and nobody changes it before it is awake.

use super::save::Checkpoint;
use super::session::{More, Protocol, Role, Session};
use super::{End, Worker};
use crate::control::Origin;

impl Session {
    /// Whether only its checkpoint knows what it speaks.
    pub(super) fn rests(&self) -> bool {
        matches!(self.more.protocol, Protocol::Resting)
    }

    /// Whether its checkpoint says all that is not needed for a send.
    fn may_rest(&self) -> bool {
        let speaks = matches!(self.more.protocol, Protocol::Rtmp(_) | Protocol::Http(_) | Protocol::WebSocket(_));
        let views = matches!(self.role, Role::Viewing { next: None, .. });
        let settled = !self.closing && !self.draining && !self.answering && !self.queued && !self.readable && self.deadline_ms == 0;
        let more = &self.more;
        let said = more.control.is_empty() && more.unread.is_empty() && self.more.protocol.outbox().is_empty();
        let bare = more.body.is_none() && more.head.is_empty() && more.forward.is_empty() && more.unfinished_bytes == 0;
        speaks && views && settled && said && bare && self.kept.is_plain()
    }
}

impl Worker {
    /// A session may have been quiet for a while: then it gives up what its checkpoint says as well. True if it does.
    pub(super) fn forget_while_quiet(&mut self, slot: usize) -> bool {
        let Some(session) = self.sessions.get(slot).filter(|session| session.may_rest()) else { return false };
        if session.kept.holds_more() {
            // What it was answered before it was sent the stream.
            self.save(slot);
        }
        let session = &mut self.sessions[slot];
        if session.kept.lost {
            return false;
        }
        // Which says that it rests.
        session.more = More::default();
        session.kept.settle();
        true
    }

    /// A session that rested was woken, and what it was woken for is done: what it is now is saved, and it rests again if that says everything.
    pub(super) fn rest_again(&mut self, slot: usize) {
        let Some(session) = self.sessions.get(slot).filter(|session| session.viewing().is_some()) else { return };
        if session.kept.is_behind(&session.ledger) {
            self.save(slot);
        }
        self.forget_while_quiet(slot);
    }

    /// Takes a session from its checkpoint, if it rests.
    ///
    /// # Errors
    /// The checkpoint is not what this process has written: the session cannot go on.
    pub(super) fn wake(&mut self, slot: usize) -> Result<(), End> {
        let Some(session) = self.sessions.get(slot).filter(|session| session.rests()) else { return Ok(()) };
        let (conn, kept) = (session.conn, &session.kept);
        let bytes = kept.region.map_or(&[][..], |region| self.heap.bytes(region, 0..kept.checkpoint_bytes()));
        let woken = Checkpoint::read(bytes).and_then(|checkpoint| {
            let protocol = self.restore_protocol(&checkpoint, kept.checkpoint_ms(self.now.mono_ms))?;
            Ok((checkpoint, protocol))
        });
        let (checkpoint, protocol) = match woken {
            Ok(woken) => woken,
            Err(error) => {
                tracing::error!(%conn, error = format!("{error:#}"), "what a viewer was is not known any more");
                return Err(End::Fault("a viewer's checkpoint cannot be read"));
            }
        };
        let session = &mut self.sessions[slot];
        let Origin { listener, peer, local } = checkpoint.origin;
        // Something may have been owed to it meanwhile.
        let more = &mut *session.more;
        (more.listener, more.holder, more.local, more.peer) = (listener, peer, local, checkpoint.peer);
        more.protocol = protocol;
        (more.asked, more.via, more.requested) = (checkpoint.asked, checkpoint.via, checkpoint.requested);
        Ok(())
    }
}
