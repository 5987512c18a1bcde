//! HTTP sessions: one request at a time, answered from the stream's directory or the embedded page.

use super::access::Said;
use super::hls_sessions::OfSession;
use super::rendition::{Form, Rendition};
use super::session::{Index, IndexWish, Protocol, Role, Session, Want, Wish};
use super::waiting::Awaited;
use super::websocket::WebSocket;
use super::{End, Worker};
use crate::control::counters::WorkerCounter;
use crate::control::{Intent, Listener};
use crate::hls::{INDEX, survey};
use crate::tls::acme;
use crate::{page, status};
use braidcast_media::StreamKey;
use braidcast_protocols::http::response::{self, Cache, ResponseHead, content_type};
use braidcast_protocols::http::{HttpError, LiveForm, Method, Request, Route, Settings, Status, route};
use braidcast_protocols::via::Via;
use braidcast_stream_log::{Reader, State};
use std::fs::File;

/// The longest request body that is read and thrown away, or is the API's, in bytes.
const BODY_BYTES: u64 = 16 << 10;
/// What a client must take of an answer in each `[limits] idle`, in bytes.
const ANSWER_BYTES: u64 = 64 << 10;
/// Where the web page finds the live streams.
const STREAM_LIST: &str = "/streams.json";

/// Where an authority for certificates asks for its token's answer, and what that is (RFC 8555, section 8.3).
const CHALLENGE: &str = "/.well-known/acme-challenge/";
const CHALLENGE_TYPE: &str = "application/octet-stream";

/// What somebody reads who asks for tracks that there are not.
const BAD_TRACKS: &str = "say only=audio, only=video, or tracks=all";
/// What somebody reads who asks for a segment of which no index told him.
const NO_SESSION: &str = "this stream's segments are for those who have its index: ask for that first";
/// What somebody reads who asks the API where it is not.
const NO_API: &str = "nothing here; the API has a port of its own ([api] listen), and here only /api/v1/versions";

impl Worker {
    pub(super) fn http_settings(&self, listener: Listener) -> Settings {
        let passes_on = self.config.relays();
        let keeps_all = (listener.has_api() || listener == Listener::Metrics) && !passes_on;
        Settings { head_bytes: self.config.limits.http_head_bytes as usize, body_bytes: BODY_BYTES, passes_on, keeps_all }
    }

    /// Gives bytes to the session's request reader; answers a request that is whole.
    pub(super) fn feed_http(&mut self, slot: usize, bytes: &[u8]) -> Result<usize, End> {
        let session = &mut self.sessions[slot];
        if session.is_endless() {
            // Whatever a viewer of HTTP-FLV sends after its request, nothing can follow on this connection.
            session.kept.consumed += bytes.len();
            return Ok(bytes.len());
        }
        let Protocol::Http(reader) = &mut session.more.protocol else { return Ok(bytes.len()) };
        let consumed = match reader.handle_input(bytes) {
            Ok(consumed) => consumed,
            Err(error) => {
                session.kept.consumed += bytes.len();
                self.bad_request(slot, error);
                return Ok(bytes.len());
            }
        };
        session.kept.consumed += consumed;
        if let Some(request) = reader.poll_request() {
            session.deadline_ms = 0;
            self.count(WorkerCounter::HttpRequests);
            self.name_client(slot, &request.forwarded);
            self.note_request(slot, &request);
            self.answer(slot, &request)?;
        }
        Ok(consumed)
    }

    fn bad_request(&mut self, slot: usize, error: HttpError) {
        self.count(WorkerCounter::ProtocolErrors);
        if error == HttpError::HeadTooLarge {
            self.count(WorkerCounter::RefusedHttpHeads);
        }
        let session = &mut self.sessions[slot];
        if self.peer_lines.allow(self.now.mono_ms) {
            tracing::info!(conn = %session.conn, peer = %session.more.peer, "bad HTTP request: {error}");
        }
        let answer = match session.more.listener.has_api() {
            true => super::api::malformed(error),
            false => response::text(error.status(), &error.to_string(), false, false),
        };
        session.push_control(&answer);
        self.log_answer(slot);
        self.close_when_sent(slot);
    }

    fn answer(&mut self, slot: usize, request: &Request) -> Result<(), End> {
        self.answer_knowing(slot, request, false)
    }

    /// Answers a request. `unknown`: the front knows of no HLS session that it says to be of.
    pub(super) fn answer_knowing(&mut self, slot: usize, request: &Request, unknown: bool) -> Result<(), End> {
        if !request.keep_alive {
            self.sessions[slot].last_request = true;
        }
        if self.sessions[slot].more.listener == Listener::Metrics {
            return self.answer_metrics(slot, request);
        }
        if self.is_for_api(slot, request) {
            return self.answer_api(slot, request);
        }
        if request.method == Method::Options {
            return self.respond(slot, &response::preflight(request.keep_alive));
        }
        let head_only = request.method == Method::Head;
        if let Some(token) = request.path.strip_prefix(CHALLENGE).filter(|_| self.answers_challenges(slot)) {
            return self.answer_challenge(slot, token, head_only);
        }
        if self.config.relays() && self.pass_on(slot, request)? {
            return Ok(());
        }
        if !request.is_known_method() {
            return self.respond_text(slot, Status::METHOD_NOT_ALLOWED, "only GET, HEAD and OPTIONS are served here", head_only);
        }
        let wants_api = self.sessions[slot].more.listener.has_api();
        let route = route(request, &self.config.server.vhosts);
        // With other servers a stream is where it is, and vhosts are theirs.
        let route = if self.config.relays() { route } else { route.map_key(|key| self.played(key)) };
        let route = self.which_index(route);
        let of_session = match self.of_session(&route, request, unknown) {
            OfSession::Ask { key, context } => return self.ask_session(slot, key, request, Some(context), false),
            known => known,
        };
        if let Route::Live { key, .. } | Route::LiveIndex { key, .. } | Route::NamedIndex { key, .. } | Route::Segment { key, .. } = &route
        {
            if of_session != OfSession::Goes && !self.lets_in(slot, &Said::by_request(Intent::Play, key, request))? {
                return Ok(());
            }
            if let Some(why) = self.loop_of(slot, &request.via, key, false) {
                return self.respond_text(slot, Status::LOOP_DETECTED, why, head_only);
            }
            self.want(key, &request.via);
            self.sessions[slot].more.via = (!request.via.is_empty()).then(|| Box::new(request.via.clone()));
        }
        match of_session {
            OfSession::Begin { key, context } => return self.ask_session(slot, key, request, context, true),
            OfSession::Missing => return self.respond_text(slot, Status::FORBIDDEN, NO_SESSION, head_only),
            _ => {}
        }
        match route {
            Route::Api(path) if path == "/api/v1/versions" => {
                let versions = status::versions(std::process::id());
                self.respond_with(slot, content_type::JSON, Cache::No, versions.as_bytes(), head_only)
            }
            Route::Api(_) => self.respond_text(slot, Status::NOT_FOUND, NO_API, head_only),
            _ if wants_api => self.respond_text(slot, Status::NOT_FOUND, "here is only the API, below /api/", head_only),
            Route::Live { .. } if head_only && self.config.relays() => self.pass_to_any(slot),
            Route::Live { form, .. } if head_only => {
                self.sessions[slot].last_request = true;
                self.respond(slot, &live_head(form_of(form), &Via::default()))
            }
            Route::Live { key, form, tracks, params } => {
                let session = &mut self.sessions[slot];
                session.last_request = true;
                let mut form = form_of(form);
                if form == Form::Flv
                    && !self.config.relays()
                    && let Some(socket) = request.websocket_key.as_deref().and_then(WebSocket::new)
                {
                    form = Form::WebSocket;
                    session.more.protocol = Protocol::WebSocket(Box::new(socket));
                }
                let wish = Wish { key, what: Want::Play(Rendition { form, tracks }) };
                self.describe_http(slot, &wish, request);
                self.ask_place(slot, wish, &params)
            }
            Route::BadTracks => self.respond_text(slot, Status::BAD_REQUEST, BAD_TRACKS, head_only),
            Route::LiveIndex { key, clip, params } => {
                let index = clip.map_or(Index::Live, Index::Clip);
                self.want_index(slot, IndexWish { key, index, query: params, head_only, conditions: request.conditions.clone() })
            }
            Route::NamedIndex { key, name, params, .. } => {
                let conditions = request.conditions.clone();
                self.want_index(slot, IndexWish { key, index: Index::Named(name), query: params, head_only, conditions })
            }
            Route::Segment { key, number, params } => self.answer_segment(slot, &key, number, &params, request),
            Route::Page if self.config.http.page => self.answer_asset(slot, "/", request),
            Route::Asset(path) if self.config.http.page && page::asset(&format!("/assets/{path}")).is_some() => {
                self.answer_asset(slot, &format!("/assets/{path}"), request)
            }
            Route::NotFound if self.config.http.page && request.path == STREAM_LIST => self.answer_streams(slot, head_only),
            Route::BadName(error) => {
                self.count(WorkerCounter::RefusedNames);
                self.respond_text(slot, Status::BAD_REQUEST, &error.to_string(), head_only)
            }
            Route::BadClip(error) => {
                self.count(WorkerCounter::ProtocolErrors);
                self.respond_text(slot, Status::BAD_REQUEST, &error.to_string(), head_only)
            }
            Route::Page | Route::Asset(_) | Route::NotFound if self.config.relays() => self.pass_to_any(slot),
            Route::Page | Route::Asset(_) | Route::NotFound => self.respond_text(slot, Status::NOT_FOUND, "nothing here", head_only),
        }
    }

    /// Which of two readings of an index's path is meant: the one that is there, else the live index.
    fn which_index(&mut self, route: Route) -> Route {
        match route {
            Route::NamedIndex { key, name, or_live: Some(live), params } => match self.has_index(&key, &name) {
                true => Route::NamedIndex { key, name, or_live: None, params },
                false => Route::LiveIndex { key: live, clip: None, params },
            },
            other => other,
        }
    }

    /// Whether an authority for certificates may ask here.
    fn answers_challenges(&self, slot: usize) -> bool {
        !self.config.acme.domains.is_empty() && matches!(self.sessions[slot].more.listener, Listener::Http | Listener::Https)
    }

    /// An authority looks whether a name is this server's: the attendant that fetches the certificate has laid the answer down.
    fn answer_challenge(&mut self, slot: usize, token: &str, head_only: bool) -> Result<(), End> {
        let file = acme::answer_at(&self.config.server.shared_dir, token).and_then(|path| File::open(path).ok());
        match file.and_then(|file| braidcast_sys::file::read_start(file, acme::ANSWER_BYTES).ok()) {
            Some(answer) => self.respond_with(slot, CHALLENGE_TYPE, Cache::No, &answer, head_only),
            None => self.respond_text(slot, Status::NOT_FOUND, "no such challenge", head_only),
        }
    }

    fn want_index(&mut self, slot: usize, wish: IndexWish) -> Result<(), End> {
        if let Index::Clip(clip) = &wish.index
            && let (Some(start), Some(end)) = (clip.start, clip.end)
            && end.resolve(self.now.wall_ms) <= start.resolve(self.now.wall_ms)
        {
            return self.respond_text(slot, Status::BAD_REQUEST, "the end must be after the start", wish.head_only);
        }
        if self.try_index(slot, &wish)? {
            return Ok(());
        }
        if !wish.may_come() || self.sessions[slot].peer_ended {
            let text = match &wish.index {
                Index::Clip(_) => "no segment shows any of that time",
                Index::Live | Index::Named(_) => "no such index",
            };
            return self.respond_text(slot, Status::NOT_FOUND, text, wish.head_only);
        }
        if let Some(why) = self.why_no_index(&wish.key) {
            return self.respond_text(slot, Status::NOT_FOUND, &why, wish.head_only);
        }
        let session = &mut self.sessions[slot];
        self.waiting.add((Awaited::Index, wish.key.clone()), slot);
        session.enter(Role::WaitingForIndex(Box::new(wish)));
        session.deadline_ms = self.now.mono_ms + self.config.play.play_wait.as_ms();
        self.watch_deadline(slot);
        Ok(())
    }

    /// Whether those who wait for a stream's live index can be answered now: it is there, or will never be.
    pub(super) fn is_index_settled(&self, key: &StreamKey) -> bool {
        self.root.hls_dir(key).join(INDEX).exists() || self.why_no_index(key).is_some()
    }

    /// Why a stream that is there will have no index, for people: its codecs are none that segments carry.
    fn why_no_index(&self, key: &StreamKey) -> Option<String> {
        let reader = Reader::open(&self.root, key).ok()?.filter(|reader| matches!(reader.state(), State::Live | State::Waiting))?;
        survey::why_none(&reader)
    }

    /// Looks once more at the index that a session waits for.
    pub(super) fn retry_index(&mut self, slot: usize) -> Result<(), End> {
        let Some(Session { role: Role::WaitingForIndex(wish), .. }) = self.sessions.get(slot) else { return Ok(()) };
        let wish = wish.clone();
        if self.try_index(slot, &wish)? {
            return Ok(());
        }
        match self.why_no_index(&wish.key) {
            Some(why) => self.respond_text(slot, Status::NOT_FOUND, &why, wish.head_only),
            None => Ok(()),
        }
    }

    fn answer_streams(&mut self, slot: usize, head_only: bool) -> Result<(), End> {
        // A name that not everybody may play is told to nobody: it may be half of the secret.
        let client = self.sessions[slot].more.peer.ip();
        let access = &self.access;
        let listed = |key: &StreamKey| access.may_know(key, client);
        match self.status.read(&self.config.server.shared_dir, self.now.mono_ms).map(|status| status.streams_json(listed)) {
            Ok(json) => self.respond_with(slot, content_type::JSON, Cache::No, json.as_bytes(), head_only),
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "cannot read the list of streams");
                self.respond_text(slot, Status::INTERNAL_ERROR, "the streams cannot be read", head_only)
            }
        }
    }

    pub(super) fn respond_with(&mut self, slot: usize, media_type: &str, cache: Cache, body: &[u8], head_only: bool) -> Result<(), End> {
        let head = ResponseHead::new(Status::OK)
            .content_type(media_type)
            .cache(cache)
            .length(body.len() as u64)
            .keep_alive(self.keeps_alive(slot))
            .build();
        self.sessions[slot].push_control(&head);
        if !head_only {
            self.sessions[slot].push_control(body);
        }
        self.finish_response(slot)
    }

    pub(super) fn respond_text(&mut self, slot: usize, status: Status, message: &str, head_only: bool) -> Result<(), End> {
        let answer = response::text(status, message, self.keeps_alive(slot), head_only);
        self.respond(slot, &answer)
    }

    pub(super) fn respond(&mut self, slot: usize, answer: &[u8]) -> Result<(), End> {
        self.sessions[slot].push_control(answer);
        self.finish_response(slot)
    }

    pub(super) fn keeps_alive(&self, slot: usize) -> bool {
        !self.sessions[slot].last_request && self.stopping_since_ms.is_none()
    }

    /// The answer is in the ledger: sends it, and goes on with the connection's next request when it is out.
    pub(super) fn finish_response(&mut self, slot: usize) -> Result<(), End> {
        self.leave_role(slot, &"answered");
        let keep_alive = self.keeps_alive(slot);
        let session = &mut self.sessions[slot];
        session.kept.stale = true;
        session.answering = true;
        session.closing = !keep_alive;
        session.deadline_ms = self.now.mono_ms + self.config.limits.idle.as_ms();
        session.more.sent_mark = session.ledger.sent();
        self.log_answer(slot);
        self.watch_deadline(slot);
        self.try_flush(slot)?;
        self.http_answered(slot);
        Ok(())
    }

    /// An answer has been on its way for a while: its client must take some of it, for it holds a file open.
    pub(super) fn answer_overdue(&mut self, slot: usize) -> Result<(), End> {
        let session = &mut self.sessions[slot];
        let sent = session.ledger.sent();
        if sent - session.more.sent_mark < ANSWER_BYTES {
            self.count(WorkerCounter::IdleTimeouts);
            return Err(End::Peer("does not take the answer it asked for".into()));
        }
        session.more.sent_mark = sent;
        session.deadline_ms = self.now.mono_ms + self.config.limits.idle.as_ms();
        Ok(())
    }

    /// If the answer is out, the connection's next request may be read.
    pub(super) fn http_answered(&mut self, slot: usize) {
        let idle_ms = self.now.mono_ms + self.config.limits.idle.as_ms();
        let Some(session) = self.sessions.get_mut(slot) else { return };
        if !session.answering || !session.ledger.is_empty() {
            return;
        }
        session.kept.stale = true;
        session.answering = false;
        if session.closing {
            return;
        }
        session.more.peer = session.more.holder;
        if let Protocol::Http(reader) = &mut session.more.protocol {
            reader.next_request();
        }
        session.deadline_ms = idle_ms;
        self.watch_deadline(slot);
        self.enqueue(slot);
    }

    /// An HTTP connection was silent for too long: before its first request, in the middle of one, or between two.
    pub(super) fn http_timeout(&mut self, slot: usize) -> Result<(), End> {
        let session = &mut self.sessions[slot];
        if let Protocol::Http(reader) = &session.more.protocol
            && !reader.is_idle()
        {
            if self.peer_lines.allow(self.now.mono_ms) {
                tracing::info!(conn = %session.conn, peer = %session.more.peer, "closed by us: the request did not come in time");
            }
            session.push_control(&response::text(Status::REQUEST_TIMEOUT, "the request did not come in time", false, false));
            self.log_answer(slot);
            self.count(WorkerCounter::HandshakeTimeouts);
            self.close_when_sent(slot);
            return Ok(());
        }
        self.count(WorkerCounter::IdleTimeouts);
        Err(End::Peer("HTTP connection idle".into()))
    }

    /// Closes a session when what it is owed is out, or after a while.
    pub(super) fn close_when_sent(&mut self, slot: usize) {
        let Some(session) = self.sessions.get_mut(slot) else { return };
        session.kept.stale = true;
        session.closing = true;
        session.deadline_ms = self.now.mono_ms + super::CLOSING_MS;
        self.watch_deadline(slot);
        self.flush(slot);
    }
}

fn form_of(form: LiveForm) -> Form {
    match form {
        LiveForm::Flv => Form::Flv,
        LiveForm::Ts => Form::Ts,
        LiveForm::Aac => Form::Aac,
        LiveForm::Mp3 => Form::Mp3,
    }
}

/// What is said to a viewer before its first byte of media.
pub(super) fn live_head(form: Form, via: &Via) -> Vec<u8> {
    let content_type = match form {
        Form::Ts => content_type::MPEG_TS,
        Form::Aac => content_type::AAC,
        Form::Mp3 => content_type::MP3,
        Form::Flv | Form::WebSocket | Form::Rtmp => content_type::FLV,
    };
    response::live_via(content_type, via)
}
