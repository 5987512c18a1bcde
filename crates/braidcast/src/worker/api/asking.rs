//! Requests whose answers take longer than a turn may, because everything has to be looked at: a thread of the worker makes them.

use super::super::session::Session;
use super::super::{End, Worker};
use super::{Reply, v1_error};
use crate::api::Answer;
use crate::api::v1::{self, Snapshots};
use crate::api::v2::endpoints::Found;
use crate::api::v2::follow::Seen;
use crate::api::v2::types::Ordered;
use crate::api::v2::{Library, Outcome};
use crate::config::Config;
use crate::control::counters::WorkerCounter;
use crate::control::orders::Order;
use crate::control::{ConnId, ToFront};
use crate::jobs::Jobs;
use braidcast_protocols::http::{Method, Request, Status};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

/// Requests that are being answered, or wait for it.
const MAX_UNDER_WAY: usize = 64;
/// What somebody reads whose wish nobody can hear.
const NO_FRONT: &str = "the front is being replaced: ask again";
/// How long an answer may take, milliseconds.
pub(super) const ASKING_MS: u64 = 15_000;

/// What the thread has done, for a session.
#[derive(Debug)]
pub enum Done {
    /// Its request is answered.
    Answered(Outcome),
    /// It was looked at the event log; `None`: that could not be read.
    Looked(Option<Seen>),
}

/// See the module's head.
pub struct Asking {
    jobs: Jobs<(u64, Done)>,
    under_way: usize,
    snapshots: Snapshots,
    library: Arc<Library>,
}

impl Asking {
    /// One without a thread yet.
    pub fn new(config: &Config) -> io::Result<Self> {
        Ok(Self { jobs: Jobs::new(1)?, under_way: 0, snapshots: Snapshots::default(), library: Arc::new(Library::new(config)) })
    }

    /// Has the thread do something. False: there is none.
    pub fn start(&mut self, work: impl FnOnce() -> (u64, Done) + Send + 'static) -> bool {
        self.jobs.start(1, move |outlet| outlet.send(work()))
    }
}

impl AsFd for Asking {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.jobs.as_fd()
    }
}

impl Worker {
    /// Has a request to SRS's API answered.
    pub(super) fn ask_v1(&mut self, slot: usize, request: &Request, reply: Reply) -> Result<(), End> {
        let method = match request.method {
            Method::Get | Method::Head => "GET",
            Method::Options => "OPTIONS",
            Method::Other => request.method_name().unwrap_or_default(),
        };
        let asked = v1::Request {
            method: method.to_owned(),
            path: request.path.clone(),
            query: request.query.clone(),
            jsonp: self.config.api.jsonp,
        };
        let (snapshots, config) = (self.api.asking.snapshots.clone(), self.config.clone());
        self.ask_thread(slot, request, reply, move || match snapshots.fresh(&config.server.shared_dir, &config) {
            Ok(snapshot) => {
                let v1::Answer { status, content_type, body, kick } = v1::answer(&snapshot, &asked);
                let answer = Answer::new(Status(status), content_type, body);
                kick.map_or(Outcome::Answer(answer.clone()), |conn| Outcome::Kick(vec![conn], answer))
            }
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "the API cannot read the shared directory");
                Outcome::Answer(v1_error(Status::INTERNAL_ERROR, "the shared directory cannot be read"))
            }
        })
    }

    /// Has a request to the native API answered.
    pub(super) fn ask_v2(&mut self, slot: usize, request: &Request, found: Found, reply: Reply) -> Result<(), End> {
        let (library, body) = (self.api.asking.library.clone(), request.body.clone());
        self.ask_thread(slot, request, reply, move || library.outcome(&found, &body))
    }

    /// Has the thread make an answer.
    pub(in super::super) fn ask_thread_for(
        &mut self,
        slot: usize,
        request: &Request,
        reply: Reply,
        work: impl FnOnce() -> Answer + Send + 'static,
    ) -> Result<(), End> {
        self.ask_thread(slot, request, reply, || Outcome::Answer(work()))
    }

    fn ask_thread(
        &mut self,
        slot: usize,
        request: &Request,
        reply: Reply,
        work: impl FnOnce() -> Outcome + Send + 'static,
    ) -> Result<(), End> {
        let session = &self.sessions[slot];
        let id = (u64::from(session.generation) << 32) | slot as u64;
        let has_room = self.api.asking.under_way < MAX_UNDER_WAY;
        if !has_room || !self.api.asking.start(move || (id, Done::Answered(work()))) {
            self.count(WorkerCounter::RefusedApiBusy);
            let answer = super::error_at(&request.path, Status::UNAVAILABLE, "too many requests to the API are under way: ask again");
            return self.reply(slot, &answer, reply);
        }
        self.api.asking.under_way += 1;
        self.await_reply(slot, reply, ASKING_MS);
        Ok(())
    }

    /// Answers are there.
    pub(super) fn take_answers(&mut self) {
        while let Some((id, done)) = self.api.asking.jobs.poll() {
            self.api.asking.under_way -= usize::from(matches!(done, Done::Answered(_)));
            let Some(slot) = self.slot_of(id) else { continue };
            match done {
                Done::Answered(outcome) => self.take_answer(slot, outcome),
                Done::Looked(seen) => self.looked(slot, seen),
            }
        }
    }

    fn take_answer(&mut self, slot: usize, outcome: Outcome) {
        let Some(reply) = self.awaited_reply(slot) else { return };
        let answer = match outcome {
            Outcome::Answer(answer) => answer,
            Outcome::Kick(conns, answer) => match self.kick_all(slot, &conns) {
                true => answer,
                false => Answer::problem(Status::UNAVAILABLE, NO_FRONT),
            },
        };
        if let Err(end) = self.reply(slot, &answer, reply) {
            self.close(slot, end);
        }
    }

    /// Gives the front an order, and its client an answer when the front has said what comes of it.
    pub(super) fn give_order(&mut self, slot: usize, order: Order, reply: Reply) -> Result<(), End> {
        let Session { conn, ref more, generation, .. } = self.sessions[slot];
        let peer = more.peer;
        if self.front_gone_ms.is_some() {
            return self.reply(slot, &Answer::problem(Status::UNAVAILABLE, NO_FRONT), reply);
        }
        tracing::info!(%conn, by = %peer, ?order, "an order by the API");
        self.tell_front(&ToFront::Order { ticket: (u64::from(generation) << 32) | slot as u64, order });
        self.await_reply(slot, reply, ASKING_MS);
        Ok(())
    }

    /// What comes of an order.
    pub(in super::super) fn ordered(&mut self, ticket: u64, said: Result<String, String>) {
        let Some(slot) = self.slot_of(ticket) else { return };
        let Some(reply) = self.awaited_reply(slot) else { return };
        let answer = match said {
            Ok(said) => Answer::json_with(Status::ACCEPTED, &Ordered { said }),
            Err(why) => Answer::problem(Status::CONFLICT, &why),
        };
        if let Err(end) = self.reply(slot, &answer, reply) {
            self.close(slot, end);
        }
    }

    /// Has connections ended. False: nobody can be told now.
    fn kick_all(&mut self, slot: usize, conns: &[ConnId]) -> bool {
        let peer = self.sessions[slot].more.peer;
        if self.front_gone_ms.is_some() && !conns.iter().all(|conn| self.by_conn.get(*conn).is_some()) {
            return false;
        }
        for conn in conns {
            tracing::info!(%conn, by = %peer, "a client is to be gone, says the API");
            // This worker's own clients it can end itself.
            match self.front_gone_ms {
                Some(_) => self.kick(*conn),
                None => self.tell_front(&ToFront::Kick { conn: *conn }),
            }
        }
        true
    }
}
