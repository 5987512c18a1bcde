//! Places that wait for hooks, and what the event log hears: what begins, goes on and ends with a connection.
//!
//! A place is reserved before hooks are asked. Who claims a stream that somebody has gets it when they have allowed it, and not before.

use super::{Answer, Conn, Gone, Place, Question, Registry, Targets};
use crate::control::{ConnId, Intent, Listener, Origin, Placement, Refusal, ToWorker, WorkerId};
use crate::events::Found;
use crate::saved::RowId;
use braidcast_media::StreamKey;
use std::collections::HashMap;
use std::net::IpAddr;

/// What has happened to a connection, for the event log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happening {
    /// Which one.
    pub conn: ConnId,
    /// Where it is saved.
    pub row: RowId,
    /// Its client's address.
    pub client: IpAddr,
    /// Who has it, or had it.
    pub worker: WorkerId,
    /// It is a pull.
    pub pulled: bool,
    /// What.
    pub what: What,
}

/// See [`Happening`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// It is admitted to a stream.
    Began(Intent, StreamKey),
    /// It does that no more.
    Ended(Intent, StreamKey),
    /// It is over.
    Closed,
}

/// What a connection had before it asked anew.
pub(super) struct Before {
    /// It did this, or another front was asked for it.
    pub place: Option<(Intent, StreamKey)>,
    /// It did what it asks for, and goes on.
    has_begun: bool,
    /// Then its stream is pushed to these as well.
    pub forward: Vec<String>,
}

impl Registry {
    /// What has happened, for the event log. Drained after every input, before the messages.
    pub fn poll_happening(&mut self) -> Option<Happening> {
        self.happenings.pop_front()
    }

    /// Hooks have decided about a connection's place: it is answered now. With `forward`, where a publisher's stream is pushed to as well.
    /// `None`: it has none that is undecided; it is gone, or somebody else came first.
    pub fn decided(
        &mut self,
        (conn, number): (ConnId, u32),
        allowed: bool,
        forward: Vec<String>,
        next_segment: &dyn Fn(&StreamKey) -> u64,
        now_ms: u64,
    ) -> Option<Answer> {
        let held = self.conns.get_mut(&conn)?;
        let (place, asking) = (held.place.as_mut().filter(|place| place.undecided == Some(number))?, held.worker);
        if !allowed {
            self.release(conn, Gone::InOrder, now_ms);
            let placement = Placement::Refused(Refusal::ByHook);
            self.messages.push_back((asking, ToWorker::Placed { conn, placement: placement.clone(), forward: Vec::new() }));
            return Some(Answer { placement, replaced: None });
        }
        held.asked_before = None;
        (place.undecided, place.since_ms) = (None, now_ms);
        place.forward = Targets::of(forward.clone());
        let (intent, key, worker, process) = (place.intent, place.key.clone(), place.worker, place.process);
        let mut replaced = None;
        if intent == Intent::Publish {
            self.claims.remove(&key);
            replaced = self.publishers.get(&key).copied();
            if let Some(holder) = replaced {
                self.evict(holder, now_ms);
            }
            self.lifecycle.published(&key);
            self.publishers.insert(key.clone(), conn);
        }
        let next_segment = if intent == Intent::Publish { next_segment(&key) } else { 0 };
        let placement = match process {
            Some((process, _)) => Placement::Process(process),
            None if worker == asking => Placement::Here { next_segment },
            None => Placement::MoveTo(worker),
        };
        self.happens(conn, What::Began(intent, key));
        self.messages.push_back((asking, ToWorker::Placed { conn, placement: placement.clone(), forward }));
        Some(Answer { placement, replaced })
    }

    /// Whether a connection's place waits for hooks, by the question with this number.
    pub fn is_undecided(&self, conn: ConnId, number: u32) -> bool {
        self.conns.get(&conn).and_then(|held| held.place.as_ref()).is_some_and(|place| place.undecided == Some(number))
    }

    /// The connections that are there, for the event log.
    pub fn connections_found(&self) -> HashMap<ConnId, Found> {
        let place = |held: &Conn| {
            held.place.as_ref().map(|place| (place.intent, place.key.clone())).or_else(|| held.asked_before.as_deref().cloned())
        };
        self.conns.iter().map(|(conn, held)| (*conn, Found { row: held.row, place: place(held) })).collect()
    }

    /// Where a connection came in.
    pub fn listener_of(&self, conn: ConnId) -> Option<Listener> {
        Some(self.origin_of(conn)?.listener)
    }

    /// Where a connection came in, from whom.
    pub fn origin_of(&self, conn: ConnId) -> Option<Origin> {
        Some(self.conns.get(&conn)?.origin())
    }

    /// Where a publisher's stream is pushed to besides what the configuration says.
    pub fn forward_of(&self, conn: ConnId) -> &[String] {
        self.conns.get(&conn).and_then(|held| held.place.as_ref()).map_or(&[], Place::forward)
    }

    /// Whether a connection does what it was placed for, as far as this front has decided.
    pub fn has_begun(&self, conn: ConnId) -> bool {
        self.conns.get(&conn).and_then(|held| held.place.as_ref()).is_some_and(|place| place.undecided.is_none())
    }

    /// Gives up what a connection had before it asks anew. For what it has it needs no decision.
    pub(super) fn step_back(&mut self, question: Question, now_ms: u64) -> (Before, Question) {
        let conn = question.conn;
        let place = self.vacate(conn, Gone::InOrder, now_ms).filter(|place| place.undecided.is_none());
        let asked_before = self.conns.get_mut(&conn).and_then(|held| held.asked_before.take());
        let goes_on = place.as_ref().filter(|place| place.intent == question.intent && place.key == question.key);
        let (has_begun, forward) = (goes_on.is_some(), goes_on.map(|place| place.forward().to_vec()).unwrap_or_default());
        let question = Question { undecided: question.undecided && !has_begun, ..question };
        (
            Before { place: place.map(|place| (place.intent, place.key)).or(asked_before.map(|before| *before)), has_begun, forward },
            question,
        )
    }

    /// A question is about to get its place: says what ends and begins by it, and lets go of who has the stream. Who claims it is turned away at
    /// once, who publishes it when hooks have allowed it.
    pub(super) fn make_way(&mut self, question: &Question, holder: Option<ConnId>, before: &Before, now_ms: u64) -> Option<ConnId> {
        let goes_on = before.place.as_ref().is_some_and(|(intent, key)| *intent == question.intent && *key == question.key);
        if !goes_on {
            self.ended(question.conn, before.place.clone());
        } else if question.undecided
            && let Some(held) = self.conns.get_mut(&question.conn)
        {
            // It may have begun; then it ends if this comes to nothing.
            held.asked_before = before.place.clone().map(Box::new);
        }
        if question.intent == Intent::Publish
            && let Some(claimant) = self.claims.get(&question.key).copied()
        {
            self.evict(claimant, now_ms);
        }
        let replaced = holder.filter(|_| !question.undecided);
        if let Some(holder) = replaced {
            self.evict(holder, now_ms);
        }
        if !question.undecided && !before.has_begun {
            self.happens(question.conn, What::Began(question.intent, question.key.clone()));
        }
        replaced
    }

    pub(super) fn ended(&mut self, conn: ConnId, place: Option<(Intent, StreamKey)>) {
        if let Some((intent, key)) = place {
            self.happens(conn, What::Ended(intent, key));
        }
    }

    pub(super) fn happens(&mut self, conn: ConnId, what: What) {
        let Some(held) = self.conns.get(&conn) else { return };
        self.happenings.push_back(Happening {
            conn,
            row: held.row,
            client: held.address(),
            worker: held.worker,
            pulled: held.pulled,
            what,
        });
    }
}
