//! HLS viewers as sessions: what a worker does for them. A session belongs to no worker: the front begins and ends it, any worker serves
//! requests that name it by `hls_ctx`, and notes in its record that it was there.

use super::session::Role;
use super::{End, PLACING_MS, Worker};
use crate::clients::Kind;
use crate::config::{About, HlsSessions as Which};
use crate::control::{ConnId, HlsAnswer, HlsSession, Intent, Refusal, ToFront};
use crate::hls::context;
use crate::hooks::Action;
use crate::saved::RowId;
use braidcast_media::StreamKey;
use braidcast_protocols::http::response::{Cache, content_type};
use braidcast_protocols::http::{Method, Request, Route, Status};
use std::collections::HashMap;

/// Sessions that a worker remembers; past that it forgets them all, and asks the front once more for each.
const MOST_KNOWN: usize = 65_536;

/// The sessions whose requests have come to this worker.
#[derive(Debug, Default)]
pub struct HlsSessions(HashMap<StreamKey, HashMap<String, (ConnId, RowId)>>, usize);

impl HlsSessions {
    fn find(&self, key: &StreamKey, context: &str) -> Option<(ConnId, RowId)> {
        self.0.get(key)?.get(context).copied()
    }

    fn insert(&mut self, key: StreamKey, session: HlsSession) {
        if self.1 >= MOST_KNOWN {
            *self = Self::default();
        }
        let new = self.0.entry(key).or_default().insert(session.context, (session.conn, session.row)).is_none();
        self.1 += usize::from(new);
    }

    fn forget(&mut self, key: &StreamKey, context: &str) {
        let Some(known) = self.0.get_mut(key) else { return };
        self.1 -= usize::from(known.remove(context).is_some());
        if known.is_empty() {
            self.0.remove(key);
        }
    }
}

/// A request of which the front is asked.
#[derive(Debug)]
pub struct HlsQuestion {
    /// The stream.
    pub key: StreamKey,
    request: Request,
    /// What it says to be of.
    context: Option<String>,
    begins: bool,
}

impl HlsQuestion {
    /// The question.
    pub fn message(&self, conn: ConnId) -> ToFront {
        ToFront::HlsSession { conn, key: self.key.clone(), context: self.context.clone(), begins: self.begins }
    }
}

/// What a request has to do with a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum OfSession {
    /// Nothing: it is for no file of HLS, or there are no sessions of its stream.
    No,
    /// It is of one that goes on.
    Goes,
    /// It says that it is of one that this worker does not know.
    Ask { key: StreamKey, context: String },
    /// It asks for an index, and one has to begin for that.
    Begin { key: StreamKey, context: Option<String> },
    /// It asks for something else, and is of none.
    Missing,
}

impl Worker {
    fn has_sessions(&self, key: &StreamKey) -> bool {
        let asks = |action| self.config.asks_hooks(action, About::Stream(key));
        match self.config.hls.sessions {
            _ if self.config.relays() => false,
            Which::Never => false,
            Which::Always => true,
            Which::WithHooks => !self.config.hook.is_empty() && (asks(Action::Play) || asks(Action::Stop)),
        }
    }

    /// What a request has to do with a session; one of this worker's is noted to go on. `unknown`: the front knows none of its context.
    pub(super) fn of_session(&mut self, route: &Route, request: &Request, unknown: bool) -> OfSession {
        let (key, is_index) = match route {
            Route::LiveIndex { key, .. } | Route::NamedIndex { key, .. } => (key, true),
            Route::Segment { key, .. } => (key, false),
            _ => return OfSession::No,
        };
        if request.method != Method::Get || !self.has_sessions(key) {
            return OfSession::No;
        }
        match context::of_query(&request.query) {
            Some(context) if self.goes_on(key, &context, 0) => OfSession::Goes,
            Some(context) if !unknown => OfSession::Ask { key: key.clone(), context },
            context if is_index => OfSession::Begin { key: key.clone(), context },
            _ => OfSession::Missing,
        }
    }

    /// Notes that something of a session was asked for. False: this worker does not know it, or it is over.
    fn goes_on(&mut self, key: &StreamKey, context: &str, bytes: u64) -> bool {
        let Some((conn, row)) = self.hls_sessions.find(key, context) else { return false };
        let goes = self.clients.seen(row, conn, 0, bytes, self.now.mono_ms);
        if !goes {
            self.hls_sessions.forget(key, context);
        }
        goes
    }

    /// So many bytes of a stream go to whoever sent this query.
    pub(super) fn count_for_session(&mut self, key: &StreamKey, query: &str, bytes: u64) {
        if self.has_sessions(key)
            && let Some(context) = context::of_query(query)
        {
            self.goes_on(key, &context, bytes);
        }
    }

    /// Asks the front for a session; the request waits.
    pub(super) fn ask_session(
        &mut self,
        slot: usize,
        key: StreamKey,
        request: &Request,
        context: Option<String>,
        begins: bool,
    ) -> Result<(), End> {
        if self.stopping_since_ms.is_some() {
            return self.refuse_session(slot, Refusal::Unavailable);
        }
        self.describe_request(slot, Kind::HlsPlay, &key, request);
        let patience_ms = PLACING_MS + super::front_link::decisions_ms(&self.config, Intent::Play, &key);
        let question = Box::new(HlsQuestion { key, request: request.clone(), context, begins });
        let message = question.message(self.sessions[slot].conn);
        let session = &mut self.sessions[slot];
        session.enter(Role::AskingSession(question));
        session.deadline_ms = self.now.mono_ms + patience_ms;
        self.watch_deadline(slot);
        self.tell_front(&message);
        Ok(())
    }

    /// The front has answered.
    pub(super) fn hls_session(&mut self, conn: ConnId, answer: HlsAnswer) {
        let Some(slot) = self.by_conn.get(conn) else { return };
        let session = &mut self.sessions[slot];
        if !matches!(session.role, Role::AskingSession(_)) {
            return;
        }
        session.deadline_ms = 0;
        session.more.described = None;
        let Role::AskingSession(question) = session.enter(Role::Idle) else { return };
        let HlsQuestion { key, request, context, .. } = *question;
        let answered = match answer {
            HlsAnswer::Goes(session) => {
                let leads = context.is_none().then(|| session.context.clone());
                self.hls_sessions.insert(key, session);
                match leads {
                    Some(context) => self.lead_to_index(slot, &request, &context),
                    None => self.answer_knowing(slot, &request, false),
                }
            }
            HlsAnswer::Unknown => self.answer_knowing(slot, &request, true),
            HlsAnswer::Refused(refusal) => self.refuse_session(slot, refusal),
        };
        if let Err(end) = answered {
            self.close(slot, end);
        }
    }

    /// A session has begun: its client is led to the index that it asked for, as a part of it.
    fn lead_to_index(&mut self, slot: usize, request: &Request, context: &str) -> Result<(), End> {
        let name = request.path.rsplit('/').next().unwrap_or_default();
        let index = context::leading_index(name, &request.query, context);
        self.respond_with(slot, content_type::PLAYLIST, Cache::No, index.as_bytes(), false)
    }

    /// There is no session for a request.
    pub(super) fn refuse_session(&mut self, slot: usize, refusal: Refusal) -> Result<(), End> {
        let status = match refusal {
            Refusal::ByHook | Refusal::Kicked => Status::FORBIDDEN,
            _ => Status::UNAVAILABLE,
        };
        self.respond_text(slot, status, &refusal.to_string(), false)
    }
}
