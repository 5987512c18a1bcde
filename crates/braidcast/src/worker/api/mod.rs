//! The HTTP API at a worker: the one way that all its requests take, whoever answers them in the end.
//!
//! First who may ([`crate::api::gate`]), then what is asked for. Any worker answers for the whole instance, from shared pages; nobody is asked but
//! the front, for orders.

mod asking;
mod following;

use super::session::Role;
use super::{End, Worker};
use crate::api::gate::{self, Gate, Verdict};
use crate::api::v2::endpoints::{self, Operation, Verb};
use crate::api::{Answer, failures::Failures, v1, v2};
use crate::config::{Config, EngineKind};
use crate::control::orders::Order;
use crate::control::{ProcessId, WorkerId};
use anyhow::Context;
use asking::Asking;
use braidcast_protocols::http::response::{Cache, Origins, content_type};
use braidcast_protocols::http::{HttpError, Method, Request, ResponseHead, Status};
use following::Followers;
pub use following::Following;
use serde_json::json;
use std::os::fd::{AsFd, BorrowedFd};

/// The path of everything here, and of what is below it.
const ROOT: &str = "/api";
const BELOW: &str = "/api/";
/// Our own API.
const V2: &str = "/api/v2";

/// What a worker needs for the API.
pub struct Api {
    gate: Gate,
    failures: Failures,
    asking: Asking,
    followers: Followers,
}

impl Api {
    /// Of a configuration.
    pub fn new(config: &Config) -> anyhow::Result<Self> {
        let failures = Failures::open(&config.server.shared_dir).context("the table of failures at the API")?;
        let asking = Asking::new(config).context("the thread of the API")?;
        Ok(Self { gate: Gate::new(config), failures, asking, followers: Followers::default() })
    }
}

impl Api {
    /// When something is to be done, monotonic milliseconds.
    pub fn next_ms(&self) -> Option<u64> {
        self.followers.next_ms()
    }

    /// How many follow the events here.
    pub fn followers(&self) -> u64 {
        self.followers.len() as u64
    }
}

impl AsFd for Api {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.asking.as_fd()
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
        (request.path == ROOT || request.path.starts_with(BELOW)) && (self.sessions[slot].more.listener.has_api() || srs_on_http)
    }

    /// Answers a request of the API, if it may ask.
    pub(super) fn answer_api(&mut self, slot: usize, request: &Request) -> Result<(), End> {
        if self.config.relays() && (request.body_bytes > 0 || !request.is_known_method()) {
            // Its body was not taken: no request can follow it here.
            self.sessions[slot].last_request = true;
        }
        let reply = Reply { head_only: request.method == Method::Head, origins: self.api.gate.origins(request) };
        let peer = self.sessions[slot].more.peer;
        let shape_only = endpoints::is_shape_only(&request.path);
        let verdict = self.api.gate.judge(request, peer.ip(), shape_only, &self.api.failures, self.now.mono_ms / 1_000);
        let Some(reply) = self.pass_gate(slot, request, reply, verdict)? else { return Ok(()) };
        match request.path.strip_prefix(V2) {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => self.answer_v2(slot, request, reply),
            _ if self.config.engine.kind == EngineKind::Srs => self.ask_api(slot, request, reply),
            _ if v1::is_known(&request.path) => self.ask_v1(slot, request, reply),
            _ => self.reply(slot, &Answer::problem(Status::NOT_FOUND, "no such endpoint; there are /api/v1/ and /api/v2/docs"), reply),
        }
    }

    /// As for the API, where metrics are read: on loopback nobody is asked.
    pub(super) fn pass_gate_to_metrics(&mut self, slot: usize, request: &Request, reply: Reply) -> Result<Option<Reply>, End> {
        let session = &self.sessions[slot];
        let on_loopback = session.more.local.ip().to_canonical().is_loopback();
        let verdict =
            self.api.gate.judge_metrics(request, session.more.peer.ip(), on_loopback, &self.api.failures, self.now.mono_ms / 1_000);
        self.pass_gate(slot, request, reply, verdict)
    }

    /// Answers a request that the gate does not let through; gives back how it is to be answered if it does.
    fn pass_gate(&mut self, slot: usize, request: &Request, reply: Reply, verdict: Verdict) -> Result<Option<Reply>, End> {
        let peer = self.sessions[slot].more.peer;
        match verdict {
            Verdict::Admitted => Ok(Some(reply)),
            Verdict::Preflight => {
                let allow = endpoints::allowed(&request.path);
                let head = gate::preflight(allow.as_deref()).origins(reply.origins).keep_alive(self.keeps_alive(slot)).build();
                self.respond(slot, &head).map(|()| None)
            }
            Verdict::Refused(refusal) => {
                self.count(refusal.counter());
                if self.peer_lines.allow(self.now.mono_ms) {
                    let method = request.method_name();
                    tracing::info!(conn = %self.sessions[slot].conn, %peer, method, path = request.path, "API request refused: {refusal}");
                }
                let answer = Answer { fields: refusal.answer().fields, ..error_at(&request.path, refusal.status(), &refusal.to_string()) };
                self.reply(slot, &answer, reply).map(|()| None)
            }
        }
    }

    fn answer_v2(&mut self, slot: usize, request: &Request, reply: Reply) -> Result<(), End> {
        let verb = match request.method {
            Method::Get | Method::Head => Some(Verb::Get),
            Method::Options | Method::Other => request.method_name().and_then(Verb::parse),
        };
        let found = match endpoints::find(verb, &request.path, &request.query) {
            Ok(found) => found,
            Err(fault) => return self.reply(slot, &v2::fault(&fault), reply),
        };
        let id = |name| found.number(name).and_then(|id| u16::try_from(id).ok()).unwrap_or_default();
        match found.endpoint.operation {
            operation @ (Operation::Document | Operation::Page) => self.reply(slot, &v2::shape(operation), reply),
            Operation::Events => self.begin_following(slot, request, &found, reply),
            Operation::DrainWorker => self.give_order(slot, Order::Drain(WorkerId(id("worker"))), reply),
            Operation::DrainProcess => self.give_order(slot, Order::DrainProcess(ProcessId(id("process"))), reply),
            Operation::Rebalance => self.give_order(slot, Order::Rebalance, reply),
            Operation::Upgrade => self.give_order(slot, Order::Upgrade, reply),
            Operation::Reload => self.give_order(slot, Order::Reload, reply),
            _ if found.endpoint.body.is_some() && self.config.relays() => {
                self.reply(slot, &Answer::problem(Status::CONFLICT, "with another engine requests have no content"), reply)
            }
            _ if found.endpoint.body.is_some() && !is_json(request) => {
                self.reply(slot, &Answer::problem(Status(415), "the content has to be application/json, and to say so"), reply)
            }
            Operation::LogLevels => match v2::log_levels(&request.body) {
                Ok(order) => self.give_order(slot, order, reply),
                Err(why) => self.reply(slot, &Answer::problem(Status::BAD_REQUEST, &why), reply),
            },
            _ => self.ask_v2(slot, request, found, reply),
        }
    }

    /// What the API waits for has come.
    pub(super) fn api_told(&mut self) {
        self.take_answers();
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

fn is_json(request: &Request) -> bool {
    let named = request.field("content-type").unwrap_or_default();
    named.split(';').next().is_some_and(|media_type| media_type.trim().eq_ignore_ascii_case(content_type::JSON))
}

/// An error, in the form of the API that a path belongs to.
fn error_at(path: &str, status: Status, text: &str) -> Answer {
    match path.starts_with(V2) {
        true => Answer::problem(status, text),
        false => v1_error(status, text),
    }
}

/// An error in the envelope of SRS's API; the status is its code, since SRS's own begin at 1000.
pub(super) fn v1_error(status: Status, text: &str) -> Answer {
    Answer::json_with(status, &json!({ "code": status.0, "error": text }))
}

/// What is said to a client of the API whose bytes are no request, before its connection is closed.
pub(super) fn malformed(error: HttpError) -> Vec<u8> {
    let answer = Answer::problem(error.status(), &error.to_string());
    let head = ResponseHead::new(answer.status).origins(Origins::Own).content_type(answer.content_type).cache(Cache::No);
    let mut bytes = head.length(answer.body.len() as u64).keep_alive(false).build();
    bytes.extend_from_slice(&answer.body);
    bytes
}
