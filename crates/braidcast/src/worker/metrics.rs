//! `/metrics`: what monitoring asks is gathered by the thread that answers the API, for it takes as long as there are streams; no frame waits for it.
//!
//! Nothing is kept for the next who asks: what one worker tells must not be older than what another one has told before.

use super::api::Reply;
use super::{End, Worker};
use crate::api::Answer;
use crate::control::counters::WorkerCounter;
use crate::metrics::{Form, Scope, gather};
use braidcast_protocols::http::response::Origins;
use braidcast_protocols::http::{Method, Request, Status};

/// Where the metrics are.
const PATH: &str = "/metrics";

impl Worker {
    /// Answers a request that came in by the metrics listener, if it may ask.
    pub(super) fn answer_metrics(&mut self, slot: usize, request: &Request) -> Result<(), End> {
        if self.config.relays() && (request.body_bytes > 0 || !request.is_known_method()) {
            // Its body was not taken: no request can follow it here.
            self.sessions[slot].last_request = true;
        }
        let reply = Reply { head_only: request.method == Method::Head, origins: Origins::Own };
        let Some(reply) = self.pass_gate_to_metrics(slot, request, reply)? else { return Ok(()) };
        if !matches!(request.method, Method::Get | Method::Head) {
            return self.reply(
                slot,
                &Answer::problem(Status::METHOD_NOT_ALLOWED, "metrics are only read").field("Allow", "GET, HEAD"),
                reply,
            );
        }
        if request.path != PATH {
            return self.reply(slot, &Answer::problem(Status::NOT_FOUND, "here is nothing but /metrics"), reply);
        }
        self.count(WorkerCounter::MetricsRequests);
        let (scope, form) = (Scope::of(&self.config), Form::accepted(request.accept.as_deref()));
        self.ask_thread_for(slot, request, reply, move || match gather(&scope, form) {
            Ok(text) => Answer::new(Status::OK, form.content_type(), text),
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "cannot gather metrics");
                Answer::problem(Status::INTERNAL_ERROR, "the shared directory cannot be read")
            }
        })
    }
}
