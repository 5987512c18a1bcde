//! Requests to SRS's API: answered by a thread of the worker, because looking at everything takes longer than a turn may.

use super::session::Role;
use super::{End, Worker};
use crate::api::v1::{self, Answer, Snapshots};
use crate::control::ToFront;
use crate::jobs::Jobs;
use braidcast_protocols::http::response::{Cache, ResponseHead};
use braidcast_protocols::http::{Method, Request, Status};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// Requests that are being answered, or wait for it.
const MAX_UNDER_WAY: usize = 64;
/// How long an answer may take, milliseconds.
const ASKING_MS: u64 = 15_000;

/// See the module's head.
pub struct Asking {
    jobs: Jobs<(u64, Option<Answer>)>,
    under_way: usize,
    snapshots: Snapshots,
}

impl Asking {
    /// One without a thread yet.
    pub fn new() -> io::Result<Self> {
        Ok(Self { jobs: Jobs::new(1)?, under_way: 0, snapshots: Snapshots::default() })
    }
}

impl AsFd for Asking {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.jobs.as_fd()
    }
}

impl Worker {
    /// Has a request to SRS's API answered.
    pub(super) fn ask_v1(&mut self, slot: usize, path: &str, request: &Request) -> Result<(), End> {
        let head_only = request.method == Method::Head;
        let method = match request.method {
            Method::Get | Method::Head => "GET",
            Method::Options => "OPTIONS",
            Method::Other => request.method_name().unwrap_or_default(),
        };
        let asked = v1::Request { method: method.to_owned(), path: path.to_owned(), query: request.query.clone(), jsonp: false };
        let session = &self.sessions[slot];
        let id = (u64::from(session.generation) << 32) | slot as u64;
        let (snapshots, config) = (self.asking.snapshots.clone(), self.config.clone());
        let has_room = self.asking.under_way < MAX_UNDER_WAY;
        let started = has_room
            && self.asking.jobs.start(1, move |outlet| {
                let snapshot = snapshots.fresh(&config.server.shared_dir, &config);
                let answer = snapshot.map(|snapshot| v1::answer(&snapshot, &asked));
                let answer =
                    answer.inspect_err(|error| tracing::error!(error = format!("{error:#}"), "the API cannot read the shared directory"));
                outlet.send((id, answer.ok()));
            });
        if !started {
            return self.respond_text(slot, Status::UNAVAILABLE, "too many requests to the API are under way", head_only);
        }
        self.asking.under_way += 1;
        let session = &mut self.sessions[slot];
        session.enter(Role::Asking);
        session.deadline_ms = self.now.mono_ms + ASKING_MS;
        self.watch_deadline(slot);
        Ok(())
    }

    /// Answers are there.
    pub(super) fn v1_answered(&mut self) {
        while let Some((id, answer)) = self.asking.jobs.poll() {
            self.asking.under_way -= 1;
            let Some(slot) = self.slot_of(id).filter(|slot| matches!(self.sessions[*slot].role, Role::Asking)) else { continue };
            let answered = match answer {
                Some(answer) => self.answer_v1(slot, &answer),
                None => self.respond_text(slot, Status::INTERNAL_ERROR, "the shared directory cannot be read", false),
            };
            if let Err(end) = answered {
                self.close(slot, end);
            }
        }
    }

    fn answer_v1(&mut self, slot: usize, answer: &Answer) -> Result<(), End> {
        if let Some(conn) = answer.kick {
            let peer = self.sessions[slot].peer;
            tracing::info!(%conn, by = %peer, "a client is to be gone, says the API");
            match self.front_gone_ms {
                // Nobody else can be told; this worker's own clients it can close itself.
                Some(_) if !self.by_conn.contains_key(&conn) => {
                    return self.respond_text(slot, Status::UNAVAILABLE, "the front is gone: try again in a moment", false);
                }
                Some(_) => self.kick(conn),
                None => self.tell_front(&ToFront::Kick { conn }),
            }
        }
        let head = ResponseHead::new(Status(answer.status)).content_type(answer.content_type).cache(Cache::No);
        let mut bytes = head.length(answer.body.len() as u64).keep_alive(self.keeps_alive(slot)).build();
        bytes.extend_from_slice(&answer.body);
        self.respond(slot, &bytes)
    }
}
