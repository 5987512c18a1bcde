//! Requests whose answers take longer than a turn may, because everything has to be looked at: a thread of the worker makes them.

use super::super::{End, Worker};
use super::{Reply, v1_error};
use crate::api::Answer;
use crate::api::v1::{self, Snapshots};
use crate::api::v2::endpoints::Found;
use crate::api::v2::{Library, Outcome};
use crate::config::Config;
use crate::control::counters::WorkerCounter;
use crate::control::{ConnId, ToFront};
use crate::jobs::Jobs;
use braidcast_protocols::http::{Method, Request, Status};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

/// Requests that are being answered, or wait for it.
const MAX_UNDER_WAY: usize = 64;
/// How long an answer may take, milliseconds.
pub(super) const ASKING_MS: u64 = 15_000;

/// See the module's head.
pub struct Asking {
    jobs: Jobs<(u64, Outcome)>,
    under_way: usize,
    snapshots: Snapshots,
    library: Arc<Library>,
}

impl Asking {
    /// One without a thread yet.
    pub fn new(config: &Config) -> io::Result<Self> {
        Ok(Self { jobs: Jobs::new(1)?, under_way: 0, snapshots: Snapshots::default(), library: Arc::new(Library::new(config)) })
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
        if !has_room || !self.api.asking.jobs.start(1, move |outlet| outlet.send((id, work()))) {
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
        while let Some((id, outcome)) = self.api.asking.jobs.poll() {
            self.api.asking.under_way -= 1;
            let Some(slot) = self.slot_of(id) else { continue };
            let Some(reply) = self.awaited_reply(slot) else { continue };
            let answer = match outcome {
                Outcome::Answer(answer) => answer,
                Outcome::Kick(conns, answer) => match self.kick_all(slot, &conns) {
                    true => answer,
                    false => Answer::problem(Status::UNAVAILABLE, "the front is being replaced: ask again"),
                },
            };
            if let Err(end) = self.reply(slot, &answer, reply) {
                self.close(slot, end);
            }
        }
    }

    /// Has connections ended. False: nobody can be told now.
    fn kick_all(&mut self, slot: usize, conns: &[ConnId]) -> bool {
        let peer = self.sessions[slot].peer;
        if self.front_gone_ms.is_some() && !conns.iter().all(|conn| self.by_conn.contains_key(conn)) {
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
