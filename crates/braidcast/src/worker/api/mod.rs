//! The HTTP API at a worker: the one way that all its requests take, whoever answers them in the end.
//!
//! First who may ([`crate::api::gate`]), then what is asked for. Any worker answers for the whole instance, from shared pages; nobody is asked but
//! the front, for orders.

use super::session::Role;
use super::{End, Worker};
use crate::api::gate::{self, Gate, Verdict};
use crate::api::{Answer, failures::Failures};
use crate::config::{Config, EngineKind};
use crate::status;
use anyhow::Context;
use braidcast_protocols::http::response::{Cache, Origins};
use braidcast_protocols::http::{Method, Request, ResponseHead, Status};
use serde_json::json;

/// The path of everything here.
const PREFIX: &str = "/api/";
/// SRS's own API.
const V1: &str = "/api/v1/";

/// What somebody reads who guesses at the API.
const NO_ENDPOINT: &str = "no such endpoint; /api/v2/openapi.json lists those there are";

/// What a worker needs for the API.
#[derive(Debug)]
pub struct Api {
    gate: Gate,
    failures: Failures,
}

impl Api {
    /// Of a configuration.
    pub fn new(config: &Config) -> anyhow::Result<Self> {
        let failures = Failures::open(&config.server.shared_dir).context("the table of failures at the API")?;
        Ok(Self { gate: Gate::new(config), failures })
    }
}

/// How a request is to be answered.
#[derive(Debug)]
pub struct Reply {
    /// HEAD: without content.
    pub head_only: bool,
    /// Whose web pages may read it.
    pub origins: Origins,
}

impl Worker {
    /// Whether a request is for the API, where it has come in.
    pub(super) fn is_for_api(&self, slot: usize, request: &Request) -> bool {
        let srs_on_http = self.config.engine.kind == EngineKind::Srs && self.relays.has_api_on_http();
        request.path.starts_with(PREFIX) && (self.sessions[slot].listener.has_api() || srs_on_http)
    }

    /// Answers a request of the API, if it may ask.
    pub(super) fn answer_api(&mut self, slot: usize, request: &Request) -> Result<(), End> {
        if self.config.relays() && (request.body_bytes > 0 || !request.is_known_method()) {
            // Its body was not taken: no request can follow it here.
            self.sessions[slot].last_request = true;
        }
        let reply = Reply { head_only: request.method == Method::Head, origins: self.api.gate.origins(request) };
        let peer = self.sessions[slot].peer;
        let shape_only = false;
        let verdict = self.api.gate.judge(request, peer.ip(), shape_only, &self.api.failures, self.now.mono_ms / 1_000);
        match verdict {
            Verdict::Admitted => {}
            Verdict::Preflight => {
                let head = gate::preflight().origins(reply.origins).keep_alive(self.keeps_alive(slot)).build();
                return self.respond(slot, &head);
            }
            Verdict::Refused(refusal) => {
                self.count(refusal.counter());
                if self.peer_lines.allow(self.now.mono_ms) {
                    let method = request.method_name();
                    tracing::info!(conn = %self.sessions[slot].conn, %peer, method, path = request.path, "API request refused: {refusal}");
                }
                let answer = refusal.answer();
                let answer = if request.path.starts_with(V1) {
                    Answer { fields: answer.fields, ..v1_error(answer.status, &refusal.to_string()) }
                } else {
                    answer
                };
                return self.reply(slot, &answer, reply);
            }
        }
        if self.config.engine.kind == EngineKind::Srs && request.path.starts_with(V1) {
            return self.ask_api(slot, request, reply);
        }
        let answer = match &*request.path {
            "/api/v1/versions" => Answer::new(Status::OK, "application/json", status::versions(std::process::id())),
            "/api/v2/status" => match self.status.read(&self.config.server.shared_dir, self.now.mono_ms) {
                Ok(status) => Answer::json(status),
                Err(error) => {
                    tracing::error!(error = format!("{error:#}"), "cannot read the instance's status");
                    Answer::problem(Status::INTERNAL_ERROR, "the status cannot be read")
                }
            },
            _ => Answer::problem(Status::NOT_FOUND, NO_ENDPOINT),
        };
        self.reply(slot, &answer, reply)
    }

    /// Sends an answer.
    pub(super) fn reply(&mut self, slot: usize, answer: &Answer, reply: Reply) -> Result<(), End> {
        let mut head = ResponseHead::new(answer.status).origins(reply.origins).cache(Cache::No);
        if !answer.content_type.is_empty() {
            head = head.content_type(answer.content_type).field("X-Content-Type-Options", "nosniff");
        }
        for (name, value) in &answer.fields {
            head = head.field(name, value);
        }
        let mut bytes = head.length(answer.body.len() as u64).keep_alive(self.keeps_alive(slot)).build();
        if !reply.head_only {
            bytes.extend_from_slice(&answer.body);
        }
        self.respond(slot, &bytes)
    }

    /// A session's request waits for an answer that comes from elsewhere, for so long at most.
    pub(super) fn await_reply(&mut self, slot: usize, reply: Reply, most_ms: u64) {
        let session = &mut self.sessions[slot];
        session.enter(Role::Asking(Box::new(reply)));
        session.deadline_ms = self.now.mono_ms + most_ms;
        self.watch_deadline(slot);
    }

    /// What a session's request waits for has not come in time.
    pub(super) fn reply_overdue(&mut self, slot: usize) -> Result<(), End> {
        match self.awaited_reply(slot) {
            Some(reply) => self.reply(slot, &Answer::problem(Status::GATEWAY_TIMEOUT, "no answer came in time; ask again"), reply),
            None => Ok(()),
        }
    }

    /// How a session's request is to be answered that waits for that; it waits no longer.
    pub(super) fn awaited_reply(&mut self, slot: usize) -> Option<Reply> {
        match self.sessions[slot].enter(Role::Idle) {
            Role::Asking(reply) => Some(*reply),
            other => {
                self.sessions[slot].role = other;
                None
            }
        }
    }
}

/// An error in the envelope of SRS's API; the status is its code, since SRS's own begin at 1000.
pub(super) fn v1_error(status: Status, text: &str) -> Answer {
    Answer::json_with(status, &json!({ "code": status.0, "error": text }))
}
