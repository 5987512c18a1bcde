//! Those who follow the events: endless answers, each at its own place in the log. The thread of the API looks what has come and writes it down;
//! here it is only sent.
//!
//! Such a session is saved with its place, so that it goes on in another worker with nothing twice and nothing missing.

use super::super::session::Role;
use super::super::{End, Worker};
use super::Reply;
use super::asking::Done;
use crate::api::Answer;
use crate::api::v2::endpoints::Found;
use crate::api::v2::follow::{BEAT, Look, PREAMBLE, Seen};
use crate::api::v2::kinds;
use crate::control::counters::WorkerCounter;
use crate::events::{Follower, From, Kind};
use braidcast_protocols::http::response::Cache;
use braidcast_protocols::http::{Request, ResponseHead, Status};

/// The most who follow the events at one worker.
const MOST: usize = 32;
/// How often it is looked whether something has happened, milliseconds.
const LOOK_MS: u64 = 200;
/// After so long without an event something is sent all the same, milliseconds.
const BEAT_MS: u64 = 15_000;
/// What a client may still have to take, in bytes: it gets no more before that.
const OWED_BYTES: usize = 64 << 10;

/// Where somebody is who follows the events.
#[derive(Debug)]
pub struct Following {
    from: From,
    kinds: Vec<Kind>,
    told_lost: u64,
    /// The thread has the follower, and looks.
    looking: bool,
    follower: Option<Follower>,
    beat_at_ms: u64,
}

impl Following {
    /// One who begins.
    pub fn new(from: From, kinds: Vec<Kind>) -> Self {
        Self { from, kinds, told_lost: 0, looking: false, follower: None, beat_at_ms: 0 }
    }

    /// What is saved: the last event that the client has, or was not to have; `None`: none is known yet.
    pub fn place(&self) -> (Option<u64>, Vec<Kind>) {
        let after = match self.from {
            From::After(id) => Some(id),
            From::Oldest => Some(0),
            From::Newest => None,
        };
        (after, self.kinds.clone())
    }

    /// One who was saved.
    pub fn again(after: Option<u64>, kinds: Vec<Kind>) -> Self {
        Self::new(after.map_or(From::Newest, From::After), kinds)
    }
}

/// Those who follow at this worker.
#[derive(Debug, Default)]
pub struct Followers {
    tokens: Vec<u64>,
    look_at_ms: u64,
}

impl Followers {
    /// When something is to be done for them, monotonic milliseconds.
    pub fn next_ms(&self) -> Option<u64> {
        (!self.tokens.is_empty()).then_some(self.look_at_ms)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }
}

impl Worker {
    /// Has a client follow the events.
    pub(super) fn begin_following(&mut self, slot: usize, request: &Request, found: &Found, reply: Reply) -> Result<(), End> {
        if self.api.followers.len() >= MOST {
            self.count(WorkerCounter::RefusedApiBusy);
            let answer =
                Answer::problem(Status::UNAVAILABLE, "too many follow the events already: ask again later").field("Retry-After", 10);
            return self.reply(slot, &answer, reply);
        }
        self.sessions[slot].last_request = true;
        let head = ResponseHead::new(Status::OK).origins(reply.origins).cache(Cache::No).content_type("text/event-stream");
        let head = head.field("X-Accel-Buffering", "no").until_close().build();
        if reply.head_only {
            return self.respond(slot, &head);
        }
        let last = request.field("last-event-id").and_then(|id| id.parse().ok()).or_else(|| found.number("after"));
        let from = match last {
            None => From::Newest,
            Some(0) => From::Oldest,
            Some(id) => From::After(id),
        };
        let kinds = found.value("kinds").map(kinds).transpose().unwrap_or_default().unwrap_or_default();
        let session = &mut self.sessions[slot];
        session.push_control(&head);
        session.push_control(PREAMBLE.as_bytes());
        session.deadline_ms = 0;
        session.enter(Role::Following(Box::new(Following::new(from, kinds))));
        self.go_on_following(slot);
        self.try_flush(slot)
    }

    /// A session follows the events here from now on.
    pub(in super::super) fn go_on_following(&mut self, slot: usize) {
        let session = &mut self.sessions[slot];
        if let Role::Following(following) = &mut session.role {
            following.beat_at_ms = self.now.mono_ms + BEAT_MS;
        }
        self.api.followers.tokens.push((u64::from(session.generation) << 32) | slot as u64);
        self.api.followers.look_at_ms = self.now.mono_ms;
    }

    /// A session follows the events no longer, or not here.
    pub(in super::super) fn end_following(&mut self, slot: usize) {
        let token = (u64::from(self.sessions[slot].generation) << 32) | slot as u64;
        self.api.followers.tokens.retain(|other| *other != token);
    }

    /// Has the thread look for those whose time it is.
    pub(in super::super) fn look_at_events(&mut self) {
        let now_ms = self.now.mono_ms;
        if self.api.followers.next_ms().is_none_or(|at_ms| at_ms > now_ms) {
            return;
        }
        self.api.followers.look_at_ms = now_ms + LOOK_MS;
        for token in self.api.followers.tokens.clone() {
            let Some(slot) = self.slot_of(token) else { continue };
            let session = &mut self.sessions[slot];
            let owed = session.more.control.len();
            let Role::Following(following) = &mut session.role else { continue };
            if following.looking || owed > OWED_BYTES {
                continue;
            }
            if owed == 0 && now_ms >= following.beat_at_ms {
                following.beat_at_ms = now_ms + BEAT_MS;
                session.push_control(BEAT.as_bytes());
                self.flush(slot);
                continue;
            }
            let Following { from, kinds, told_lost, .. } = &**following;
            let (from, kinds, told_lost) = (*from, kinds.clone(), *told_lost);
            let look = Look { follower: following.follower.take(), from, kinds, told_lost };
            following.looking = true;
            let shared_dir = self.config.server.shared_dir.clone();
            let started = self.api.asking.start(move || {
                let seen =
                    look.take(&shared_dir).inspect_err(|error| tracing::warn!(%error, "the event log cannot be read; it is tried again"));
                (token, Done::Looked(seen.ok()))
            });
            if !started && let Role::Following(following) = &mut self.sessions[slot].role {
                following.looking = false;
            }
        }
    }

    /// The thread has looked for somebody.
    pub(super) fn looked(&mut self, slot: usize, seen: Option<Seen>) {
        let now_ms = self.now.mono_ms;
        let session = &mut self.sessions[slot];
        let Role::Following(following) = &mut session.role else { return };
        following.looking = false;
        let Some(Seen { follower, after, lost, text }) = seen else { return };
        (following.from, following.follower, following.told_lost) = (From::After(after), follower, lost);
        if text.is_empty() {
            return;
        }
        following.beat_at_ms = now_ms + BEAT_MS;
        session.kept.stale = true;
        session.push_control(text.as_bytes());
        // There may be more.
        self.api.followers.look_at_ms = now_ms;
        self.flush(slot);
    }
}
