//! The walk over a stream's viewers: what each lacks leaves with one send.
//!
//! It serves those who keep up: they are owed the newest block from where they stand, and nothing else. Everything else that can be with a viewer
//! (another block, a message between, a full socket, a save that is due) is for [`super::fan_out`]; nothing is decided here, allocated or looked up.

use super::Worker;
use super::fan_out::FLUSH_BYTES;
use super::rendition::Rendition;
use super::session::{Protocol, Role, Session};
use super::streams::Front;
use crate::control::counters::WorkerCounter;
use braidcast_sys::fault::kill_point;
use braidcast_sys::net;
use std::io;
use std::sync::atomic::Ordering;

/// Why a walk has ended.
pub(super) enum Walked {
    /// Everybody was served.
    Round,
    /// The turn is over.
    Turn,
    /// This viewer needs more than a send.
    Needs(usize),
    /// This viewer's socket failed.
    Failed(usize, io::Error),
}

impl Worker {
    /// Serves the next viewers of a stream, `left` at most.
    pub(super) fn walk(&mut self, slot: usize, left: &mut usize) -> Walked {
        // The last viewer may have been closed by what was done before, and the stream with it.
        let Some(stream) = self.streams.get_mut(slot) else { return Walked::Round };
        let (mut next, mut sent_bytes) = (stream.next_viewer, 0);
        let mut at_hand: Option<(Rendition, Front<'_>)> = None;
        let walked = loop {
            let Some(&viewer) = stream.viewers.get(next) else { break Walked::Round };
            if *left == 0 {
                break Walked::Turn;
            }
            next += 1;
            *left -= 1;
            let Some(session) = self.sessions.get_mut(viewer) else { continue };
            let Role::Viewing { rendition, next: None, .. } = session.role else { break Walked::Needs(viewer) };
            let front = match at_hand {
                Some((of, front)) if of == rendition => front,
                _ => {
                    let Some(front) = stream.front(rendition) else { break Walked::Needs(viewer) };
                    at_hand = Some((rendition, front));
                    front
                }
            };
            let Some(lacks) = session.lacks(&front) else { break Walked::Needs(viewer) };
            if lacks.is_empty() {
                continue;
            }
            match net::send(&session.socket, lacks) {
                Ok(sent) => {
                    kill_point("sent");
                    session.ledger.advance_in_run(sent);
                    sent_bytes += sent as u64;
                    if sent < lacks.len() {
                        session.blocked = true;
                        break Walked::Needs(viewer);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    session.blocked = true;
                    break Walked::Needs(viewer);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => break Walked::Needs(viewer),
                Err(error) => break Walked::Failed(viewer, error),
            }
        };
        stream.next_viewer = next;
        stream.sent_bytes += sent_bytes;
        self.page.counter(WorkerCounter::BytesOut as usize).fetch_add(sent_bytes, Ordering::Relaxed);
        walked
    }
}

impl Session {
    /// What a viewer lacks of the newest block, if that is all it is owed, its socket takes it, and what was saved of the session is enough to go on
    /// from elsewhere.
    #[inline]
    fn lacks<'a>(&self, front: &Front<'a>) -> Option<&'a [u8]> {
        let from = self.ledger.stands_in(front.block)?;
        if self.blocked || self.kept.is_behind(&self.ledger) || matches!(self.more.protocol, Protocol::Client(_)) {
            return None;
        }
        front.after(from).filter(|lacks| lacks.len() <= FLUSH_BYTES)
    }
}
