//! The worker's part of the client table: what its clients are and want, and how many bytes they have sent and got.

use super::rendition::Form;
use super::session::{Role, Session, Want, Wish};
use super::{End, REPORT_MS, Worker};
use crate::clients::{Description, Kind};
use crate::control::{ConnId, ToFront};
use braidcast_media::StreamKey;
use braidcast_protocols::{http, rtmp};

/// Sessions whose counters are told in one turn: some tens of microseconds.
const TELLS_PER_TURN: usize = 256;

/// So many sessions have left something to give back to the system, …
const WORTH_GIVING_BACK: usize = 256;
/// … or so many, and in the last round no more have.
const WORTH_IN_THE_END: usize = 16;

/// How far the round over all sessions has come that tells their counters.
#[derive(Default)]
pub struct Round {
    next_slot: usize,
    due_ms: u64,
    /// Sessions that rest since memory was given back, and those of them that did so when the round began.
    rested: usize,
    rested_before: usize,
}

impl Round {
    /// When it goes on, monotonic milliseconds.
    pub fn due_ms(&self) -> u64 {
        self.due_ms
    }

    /// Asked at the end of each round.
    fn is_worth_giving_back(&mut self) -> bool {
        let is_quiet = std::mem::replace(&mut self.rested_before, self.rested) == self.rested;
        self.rested >= if is_quiet { WORTH_IN_THE_END } else { WORTH_GIVING_BACK }
    }

    /// Much memory was freed that does not come again soon.
    pub fn note_freed(&mut self) {
        self.rested = WORTH_GIVING_BACK;
    }
}

impl Worker {
    /// Writes down who wants to publish or play by RTMP.
    pub(super) fn describe_rtmp(&mut self, slot: usize, wish: &Wish, request: &rtmp::Request) {
        let session = &self.sessions[slot];
        let kind = match wish.what {
            Want::Play(_) => Kind::RtmpPlay,
            Want::Publish if session.announces() => Kind::FmlePublish,
            Want::Publish => Kind::FlashPublish,
        };
        let description = Description {
            tc_url: request.tc_url.clone(),
            page_url: request.page_url.clone(),
            swf_url: request.swf_url.clone(),
            param: request.params.clone(),
            agent: request.flash_version.clone(),
            ..session.description(kind, &wish.key)
        };
        self.describe(slot, description);
    }

    /// Writes down who wants to play by HTTP.
    pub(super) fn describe_http(&mut self, slot: usize, wish: &Wish, request: &http::Request) {
        if let Want::Play(rendition) = wish.what {
            self.describe_request(slot, kind_of(rendition.form), &wish.key, request);
        }
    }

    /// As [`Worker::describe_http`], for a play of any kind.
    pub(super) fn describe_request(&mut self, slot: usize, kind: Kind, key: &StreamKey, request: &http::Request) {
        let host = request.host.as_deref().unwrap_or(key.vhost());
        let description = Description {
            // As SRS has it: players by HTTP have no such URL of their own.
            tc_url: format!("rtmp://{host}/{}", key.app()),
            page_url: request.referer.clone().unwrap_or_default(),
            param: request.query.clone(),
            agent: request.user_agent.clone().unwrap_or_default(),
            ..self.sessions[slot].description(kind, key)
        };
        self.describe(slot, description);
    }

    fn describe(&mut self, slot: usize, description: Description) {
        let session = &mut self.sessions[slot];
        let (conn, description) = (session.conn, Box::new(description));
        session.more.described = Some(description.clone());
        self.tell_front(&ToFront::Describes { conn, description });
    }

    /// A session publishes or plays no longer, but is still open: the front is told.
    pub(super) fn tell_released(&mut self, slot: usize) {
        let session = &self.sessions[slot];
        let (conn, row) = (session.conn, session.kept.row);
        if !session.is_outgoing() {
            self.clients.end(row);
        }
        self.tell_front(&ToFront::Released { conn });
    }

    /// Tells the counters of clients, once a second each, in bounded turns.
    pub(super) fn tell_clients(&mut self) {
        let now_ms = self.now.mono_ms;
        if now_ms < self.told_clients.due_ms {
            return;
        }
        let from = self.told_clients.next_slot;
        let to = (from + TELLS_PER_TURN).min(self.sessions.capacity());
        for slot in from..to {
            let Some(session) = self.sessions.get(slot).filter(|session| session.is_placed() && !session.is_outgoing()) else { continue };
            let [bytes_in, bytes_out] = session.traffic();
            self.clients.tell(session.kept.row, bytes_in, bytes_out, now_ms);
            self.told_clients.rested += usize::from(self.forget_while_quiet(slot));
        }
        (self.told_clients.next_slot, self.told_clients.due_ms) = match to < self.sessions.capacity() {
            true => (to, now_ms),
            false => (0, now_ms + REPORT_MS),
        };
        if to >= self.sessions.capacity() && self.told_clients.is_worth_giving_back() {
            self.told_clients.rested = 0;
            // As long as they were when many said something at once.
            self.ready.shrink_to(TELLS_PER_TURN);
            self.unfinished.shrink_to(TELLS_PER_TURN);
            braidcast_sys::allocation::give_back_free();
        }
    }

    /// An operator wants a client gone.
    pub(super) fn kick(&mut self, conn: ConnId) {
        if let Some(slot) = self.by_conn.get(conn) {
            self.close(slot, End::Peer("kicked by the API".into()));
        }
    }
}

impl Session {
    /// A connection to another server.
    pub(super) fn is_outgoing(&self) -> bool {
        matches!(self.more.protocol, super::session::Protocol::Client(_))
    }

    /// The front has let it publish or play.
    fn is_placed(&self) -> bool {
        matches!(self.role, Role::Opening(..) | Role::Waiting(_) | Role::Publishing(_) | Role::Viewing { .. })
    }

    /// Bytes received and sent since the connection began.
    fn traffic(&self) -> [u64; 2] {
        let kept = &self.kept;
        [kept.journal_from + kept.journal_bytes.max(kept.consumed) as u64, self.ledger.sent()]
    }

    fn announces(&self) -> bool {
        matches!(&self.more.protocol, super::session::Protocol::Rtmp(rtmp) if rtmp.announces())
    }

    /// What is known of it without what it said.
    fn description(&self, kind: Kind, key: &StreamKey) -> Description {
        Description {
            kind,
            listener: self.more.listener,
            peer: self.more.peer,
            key: Some(key.clone()),
            tc_url: String::new(),
            page_url: String::new(),
            swf_url: String::new(),
            param: String::new(),
            agent: String::new(),
            context: String::new(),
        }
    }
}

fn kind_of(form: Form) -> Kind {
    match form {
        Form::Flv | Form::WebSocket => Kind::FlvPlay,
        Form::Rtmp => Kind::RtmpPlay,
        Form::Ts => Kind::TsPlay,
        Form::Aac => Kind::AacPlay,
        Form::Mp3 => Kind::Mp3Play,
    }
}
