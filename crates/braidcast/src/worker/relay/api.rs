//! The HTTP API at a relay: that of all SRS processes together ([`crate::engine::api`]). A client waits while they are asked; nobody else does.

use super::super::session::{Protocol, Role};
use super::super::{End, Worker};
use crate::engine::api::{ApiAnswer, ApiRelay, ApiRequest, Method};
use braidcast_protocols::http::{Request, Status};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

/// How long the processes may take together, milliseconds.
const ASKING_MS: u64 = 15_000;

/// See the module's head.
pub struct Asked(ApiRelay);

impl Asked {
    pub fn new(shared_dir: &Path) -> io::Result<Self> {
        Ok(Self(ApiRelay::new(shared_dir)?))
    }
}

impl AsFd for Asked {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Worker {
    /// Asks the processes what a client asks.
    pub(super) fn ask_api(&mut self, slot: usize, request: &Request) -> Result<(), End> {
        let Some(method) = request.method_name().and_then(Method::parse) else {
            return self.respond_text(slot, Status::METHOD_NOT_ALLOWED, "the API has GET, POST, PUT, PATCH and DELETE", false);
        };
        if request.body_bytes > 0 {
            // The API's own requests have none but for settings that SRS does not take this way any more.
            return self.respond_text(slot, Status::CONTENT_TOO_LARGE, "a request to the API has no body", false);
        }
        let session = &self.sessions[slot];
        let asked = ApiRequest {
            method,
            target: request.target().to_owned(),
            host: request.host.clone(),
            authorization: request.field("authorization"),
            client: session.peer,
        };
        let id = (u64::from(session.generation) << 32) | slot as u64;
        let processes = self.relays.processes.iter().filter(|process| process.serves).map(|process| (process.process.0, process.api));
        if !self.relays.api.0.ask(id, asked, processes.collect()) {
            return self.respond_text(slot, Status::UNAVAILABLE, "too many requests to the API are under way", false);
        }
        let session = &mut self.sessions[slot];
        session.enter(Role::Asking);
        session.deadline_ms = self.now.mono_ms + ASKING_MS;
        self.watch_deadline(slot);
        Ok(())
    }

    /// Answers of the processes have come.
    pub(in super::super) fn api_answered(&mut self) {
        while let Some((id, answer)) = self.relays.api.0.poll() {
            let Some(slot) = self.slot_of(id).filter(|slot| matches!(self.sessions[*slot].role, Role::Asking)) else { continue };
            if let Err(end) = self.answer_with(slot, &answer) {
                self.close(slot, end);
            }
        }
    }

    fn answer_with(&mut self, slot: usize, answer: &ApiAnswer) -> Result<(), End> {
        let status = Status(answer.status);
        let mut head = braidcast_protocols::http::response::ResponseHead::new(status).cache(braidcast_protocols::http::response::Cache::No);
        if !answer.content_type.is_empty() {
            head = head.content_type(&answer.content_type);
        }
        for (name, value) in [("Location", &answer.location), ("WWW-Authenticate", &answer.www_authenticate)] {
            if let Some(value) = value {
                head = head.field(name, value);
            }
        }
        debug_assert!(matches!(self.sessions[slot].protocol, Protocol::Http(_)));
        let mut bytes = head.length(answer.body.len() as u64).keep_alive(self.keeps_alive(slot)).build();
        bytes.extend_from_slice(&answer.body);
        self.respond(slot, &bytes)
    }
}
