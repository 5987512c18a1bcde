//! `/metrics`: what monitoring asks is gathered by a thread, for it takes as long as there are streams; no frame waits for it.
//!
//! Nothing is kept for the next who asks: what one worker has told must not be older than what another one told before.

use super::api::Reply;
use super::session::Role;
use super::{End, Worker};
use crate::control::counters::WorkerCounter;
use crate::metrics::{Form, Scope, gather};
use braidcast_protocols::http::response::{Cache, Origins, ResponseHead};
use braidcast_protocols::http::{Method, Request, Status};
use braidcast_sys::EventFd;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::mpsc::{Receiver, Sender, channel};

/// Where the metrics are.
const PATH: &str = "/metrics";
/// Requests that may wait at once.
const MAX_WAITING: usize = 64;
/// How long the thread may take, milliseconds.
const GATHERING_MS: u64 = 15_000;

/// A request that waits.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    /// Slot and generation of its session.
    token: u64,
    form: Form,
    head_only: bool,
}

/// What the thread has to say to those that it was started for.
struct Gathered {
    waiting: Vec<Waiting>,
    /// For each form that somebody wants.
    texts: Vec<(Form, anyhow::Result<String>)>,
}

/// The requests that wait, and the thread that gathers for some of them.
pub struct Monitoring {
    waiting: Vec<Waiting>,
    /// It gathers for requests that came before.
    busy: bool,
    results: (Sender<Gathered>, Receiver<Gathered>),
    bell: EventFd,
}

impl Monitoring {
    pub fn new() -> io::Result<Self> {
        Ok(Self { waiting: Vec::new(), busy: false, results: channel(), bell: EventFd::new()? })
    }

    /// Starts the thread for all that wait.
    fn start(&mut self, scope: Scope) -> io::Result<()> {
        let (results, bell) = (self.results.0.clone(), self.bell.try_clone()?);
        let waiting = self.waiting.clone();
        let work = move || {
            let wanted = [Form::Text, Form::OpenMetrics].into_iter().filter(|form| waiting.iter().any(|waiting| waiting.form == *form));
            let texts = wanted.map(|form| (form, gather(&scope, form))).collect();
            // A worker that has ended meanwhile hears nothing.
            let _ = results.send(Gathered { waiting, texts });
            let _ = bell.ring();
        };
        std::thread::Builder::new().name("metrics".into()).spawn(work)?;
        self.waiting.clear();
        self.busy = true;
        Ok(())
    }
}

impl AsFd for Monitoring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

impl Worker {
    /// Answers a request that came in by the metrics listener.
    pub(super) fn answer_metrics(&mut self, slot: usize, request: &Request) -> Result<(), End> {
        let head_only = request.method == Method::Head;
        if !matches!(request.method, Method::Get | Method::Head) {
            return self.respond_text(slot, Status::METHOD_NOT_ALLOWED, "metrics are only read", head_only);
        }
        if request.path != PATH {
            return self.respond_text(slot, Status::NOT_FOUND, "here is nothing but /metrics", head_only);
        }
        if self.monitoring.waiting.len() >= MAX_WAITING {
            self.count(WorkerCounter::RefusedMetrics);
            return self.respond_text(slot, Status::UNAVAILABLE, "too many ask for metrics at once", head_only);
        }
        let session = &self.sessions[slot];
        let token = (u64::from(session.generation) << 32) | slot as u64;
        self.await_reply(slot, Reply { head_only, origins: Origins::Any }, GATHERING_MS);
        self.monitoring.waiting.push(Waiting { token, form: Form::accepted(request.accept.as_deref()), head_only });
        self.gather_metrics();
        Ok(())
    }

    /// Has the thread begin, unless it is at work; then those who wait are next.
    fn gather_metrics(&mut self) {
        if self.monitoring.busy || self.monitoring.waiting.is_empty() {
            return;
        }
        if let Err(error) = self.monitoring.start(Scope::of(&self.config)) {
            tracing::warn!(%error, "no thread to gather metrics: who asked is told to come again");
            for waiting in std::mem::take(&mut self.monitoring.waiting) {
                self.end_waiting(waiting, |worker, slot| {
                    worker.respond_text(slot, Status::UNAVAILABLE, "metrics cannot be gathered now", waiting.head_only)
                });
            }
        }
    }

    /// The thread has done its work.
    pub(super) fn metrics_gathered(&mut self) {
        let _ = self.monitoring.bell.drain();
        let Ok(Gathered { waiting, texts }) = self.monitoring.results.1.try_recv() else { return };
        self.monitoring.busy = false;
        for (_, error) in texts.iter().filter_map(|(form, text)| Some((form, text.as_ref().err()?))) {
            tracing::error!(error = format!("{error:#}"), "cannot gather metrics");
        }
        for waiting in waiting {
            let text = texts.iter().find(|(form, _)| *form == waiting.form).and_then(|(_, text)| text.as_ref().ok());
            self.end_waiting(waiting, |worker, slot| match text {
                Some(text) => worker.tell_metrics(slot, waiting, text),
                None => worker.respond_text(slot, Status::INTERNAL_ERROR, "the metrics cannot be read", waiting.head_only),
            });
        }
        self.gather_metrics();
    }

    fn end_waiting(&mut self, waiting: Waiting, answer: impl FnOnce(&mut Self, usize) -> Result<(), End>) {
        let Some(slot) = self.slot_of(waiting.token).filter(|slot| matches!(self.sessions[*slot].role, Role::Asking(_))) else { return };
        if let Err(end) = answer(self, slot) {
            self.close(slot, end);
        }
    }

    fn tell_metrics(&mut self, slot: usize, waiting: Waiting, text: &str) -> Result<(), End> {
        self.count(WorkerCounter::MetricsRequests);
        let head = ResponseHead::new(Status::OK).content_type(waiting.form.content_type()).cache(Cache::No).length(text.len() as u64);
        let mut answer = head.keep_alive(self.keeps_alive(slot)).build();
        if !waiting.head_only {
            answer.extend_from_slice(text.as_bytes());
        }
        self.respond(slot, &answer)
    }
}
