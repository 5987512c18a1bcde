//! The HTTP API at a relay: that of all SRS processes together ([`crate::engine::api`]). A client waits while they are asked; nobody else does.

use super::super::api::{Reply, v1_error};
use super::super::session::Protocol;
use super::super::{End, Worker};
use crate::engine::api::{ApiAnswer, ApiRelay, ApiRequest, Method};
use crate::srs_conf::ApiAuth;
use braidcast_protocols::http::{Request, Status, parameter};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

/// How long the processes may take together, milliseconds.
const ASKING_MS: u64 = 15_000;

/// See the module's head.
pub struct Asked {
    relay: ApiRelay,
    /// What the processes want to be told. What the client has said was for us.
    authorization: Option<String>,
}

impl Asked {
    pub fn new(shared_dir: &Path, auth: Option<&ApiAuth>) -> io::Result<Self> {
        Ok(Self { relay: ApiRelay::new(shared_dir)?, authorization: auth.map(ApiAuth::header) })
    }
}

impl AsFd for Asked {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.relay.as_fd()
    }
}

impl Worker {
    /// Asks the processes what a client asks, who may.
    pub(in super::super) fn ask_api(&mut self, slot: usize, request: &Request, reply: Reply) -> Result<(), End> {
        let refusal = match request.method_name().and_then(Method::parse) {
            None => Some((Status::METHOD_NOT_ALLOWED, "the API has GET, POST, PUT, PATCH and DELETE")),
            // The API's own requests have none but for settings that SRS does not take this way any more.
            _ if request.body_bytes > 0 => Some((Status::CONTENT_TOO_LARGE, "a request to the API has no body")),
            _ if !self.config.api.jsonp && parameter(&request.query, "callback").is_some() => {
                Some((Status::FORBIDDEN, "JSONP is off: any web page could use the API by it ([api] jsonp)"))
            }
            Some(_) => None,
        };
        let (None, Some(method)) = (refusal, request.method_name().and_then(Method::parse)) else {
            let (status, text) = refusal.unwrap_or((Status::BAD_REQUEST, "no method"));
            return self.reply(slot, &v1_error(status, text), reply);
        };
        let session = &self.sessions[slot];
        let asked = ApiRequest {
            method,
            target: request.target().to_owned(),
            host: request.host.clone(),
            authorization: self.relays.api.authorization.clone(),
            client: session.more.peer,
        };
        let id = (u64::from(session.generation) << 32) | slot as u64;
        let processes = self.relays.processes.iter().filter(|process| process.serves).map(|process| (process.process.0, process.api));
        if !self.relays.api.relay.ask(id, asked, processes.collect()) {
            return self.reply(slot, &v1_error(Status::UNAVAILABLE, "too many requests to the API are under way"), reply);
        }
        self.await_reply(slot, reply, ASKING_MS);
        Ok(())
    }

    /// Answers of the processes have come.
    pub(in super::super) fn api_answered(&mut self) {
        while let Some((id, answer)) = self.relays.api.relay.poll() {
            let Some(slot) = self.slot_of(id) else { continue };
            let Some(reply) = self.awaited_reply(slot) else { continue };
            if let Err(end) = self.answer_with(slot, &answer, reply) {
                self.close(slot, end);
            }
        }
    }

    fn answer_with(&mut self, slot: usize, answer: &ApiAnswer, reply: Reply) -> Result<(), End> {
        let status = Status(answer.status);
        let mut head = braidcast_protocols::http::response::ResponseHead::new(status)
            .origins(reply.origins)
            .cache(braidcast_protocols::http::response::Cache::No);
        if !answer.content_type.is_empty() {
            head = head.content_type(&answer.content_type);
        }
        for (name, value) in [("Location", &answer.location), ("WWW-Authenticate", &answer.www_authenticate)] {
            if let Some(value) = value {
                head = head.field(name, value);
            }
        }
        debug_assert!(matches!(self.sessions[slot].more.protocol, Protocol::Http(_)));
        let mut bytes = head.length(answer.body.len() as u64).keep_alive(self.keeps_alive(slot)).build();
        if !reply.head_only {
            bytes.extend_from_slice(&answer.body);
        }
        self.respond(slot, &bytes)
    }
}
