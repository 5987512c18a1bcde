//! HLS viewers as sessions: they begin and end here, whichever workers their requests come to. To the registry, the event log and the API a
//! session is a client like any other, with an id and a record, that no worker has and that has no connection.
//!
//! A front that comes finds them in the client table.

use super::Front;
use super::addresses::Addresses;
use super::registry::Question;
use crate::clients::{Description, Kind, Record, Table};
use crate::control::counters::FrontCounter;
use crate::control::{ConnId, HeldPlace, HlsAnswer, HlsSession, Holding, Intent, Origin, Placement, Refusal, ToWorker, WorkerId};
use crate::hls::context;
use crate::saved::RowId;
use braidcast_media::StreamKey;
use braidcast_sys::clock;
use std::collections::hash_map::RandomState;
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::net::{IpAddr, SocketAddr};

/// Requests that wait for the same session to begin; a player has one or two.
const MAX_ASKERS: usize = 16;
/// How long it is remembered that a session was kicked, milliseconds.
const KICKED_MS: u64 = 600_000;
/// The most of those that are remembered; past that the oldest may come again.
const MAX_KICKED: usize = 4_096;
/// A session ends when nothing was asked for by it for so many times the live index's window, as in SRS.
const WINDOWS: u64 = 2;

/// All sessions.
#[derive(Debug, Default)]
pub struct HlsSessions {
    sessions: HashMap<ConnId, Session>,
    by_context: HashMap<(StreamKey, String), ConnId>,
    /// Which were kicked, and until when that is remembered; oldest first.
    kicked: VecDeque<((StreamKey, String), u64)>,
    addresses: Addresses,
    /// Makes contexts that nobody can guess.
    secret: RandomState,
}

#[derive(Debug)]
struct Session {
    row: RowId,
    key: StreamKey,
    context: String,
    client: IpAddr,
    /// Who waits for it to begin; `None`: it has begun.
    askers: Option<Vec<(WorkerId, ConnId)>>,
}

impl HlsSessions {
    fn new_context(&self, conn: ConnId) -> String {
        format!("{:016x}", self.secret.hash_one(conn))
    }

    fn is_kicked(&mut self, key: &StreamKey, context: &str, now_ms: u64) -> bool {
        self.kicked.retain(|(_, until_ms)| *until_ms > now_ms);
        self.kicked.iter().any(|((kicked, its), _)| kicked == key && its == context)
    }

    fn note_kicked(&mut self, key: StreamKey, context: String, now_ms: u64) {
        if self.kicked.len() >= MAX_KICKED {
            self.kicked.pop_front();
        }
        self.kicked.push_back(((key, context), now_ms + KICKED_MS));
    }

    fn insert(&mut self, conn: ConnId, session: Session) {
        self.addresses.opened(session.client);
        self.by_context.insert((session.key.clone(), session.context.clone()), conn);
        self.sessions.insert(conn, session);
    }

    fn remove(&mut self, conn: ConnId) -> Option<Session> {
        let session = self.sessions.remove(&conn)?;
        self.addresses.closed(session.client);
        self.by_context.remove(&(session.key.clone(), session.context.clone()));
        Some(session)
    }
}

impl Front {
    /// A worker asks which session a request is of.
    pub(super) fn hls_session(&mut self, worker: WorkerId, conn: ConnId, key: StreamKey, context: Option<String>, begins: bool) {
        if self.registry.worker_of(conn) != Some(worker) {
            return;
        }
        let now_ms = self.now_ms;
        let context = context.filter(|context| context::is_sound(context));
        if let Some(context) = &context {
            if self.hls_sessions.is_kicked(&key, context, now_ms) {
                return self.answer_hls(worker, conn, HlsAnswer::Refused(Refusal::Kicked));
            }
            if let Some(known) = self.hls_sessions.by_context.get(&(key.clone(), context.clone())).copied() {
                return self.join_hls_session(worker, conn, known);
            }
        }
        if !begins {
            return self.answer_hls(worker, conn, HlsAnswer::Unknown);
        }
        if let Err(refusal) = self.begin_hls_session(worker, conn, key, context) {
            self.answer_hls(worker, conn, HlsAnswer::Refused(refusal));
        }
    }

    /// A session that is asked for is there, or about to begin.
    fn join_hls_session(&mut self, worker: WorkerId, conn: ConnId, known: ConnId) {
        let Some(session) = self.hls_sessions.sessions.get_mut(&known) else { return };
        match &mut session.askers {
            None => {
                let answer = HlsAnswer::Goes(HlsSession { conn: known, row: session.row, context: session.context.clone() });
                self.answer_hls(worker, conn, answer);
            }
            Some(askers) if askers.len() < MAX_ASKERS => askers.push((worker, conn)),
            Some(_) => self.answer_hls(worker, conn, HlsAnswer::Refused(Refusal::Unavailable)),
        }
    }

    fn begin_hls_session(&mut self, worker: WorkerId, asker: ConnId, key: StreamKey, context: Option<String>) -> Result<(), Refusal> {
        let row_of_asker = self.registry.row_of(asker).ok_or(Refusal::Unavailable)?;
        let said = self.vault.clients().read(row_of_asker).filter(|record| record.conn == asker).map(|record| record.description);
        let said = said.filter(|said| said.kind == Kind::HlsPlay && said.key.as_ref() == Some(&key)).ok_or(Refusal::Unavailable)?;
        let origin = self.registry.origin_of(asker).ok_or(Refusal::Unavailable)?;
        let client = said.peer.ip();
        let (most, most_of_one) = (self.config.limits.connections, self.config.limits.connections_per_address);
        let too_many = self.hls_sessions.sessions.len() >= most as usize;
        let of_one = !self.registry.is_proxy(client) && self.hls_sessions.addresses.count(client) >= most_of_one;
        if too_many || of_one || self.is_stopping() {
            self.count(FrontCounter::RefusedHlsSessions);
            if self.peer_lines.allow(self.now_ms) {
                let rule = if too_many { "connections" } else { "connections_per_address" };
                tracing::warn!(stream = %key, peer = %client, "HLS session refused: [limits] {rule}");
            }
            return Err(Refusal::Unavailable);
        }
        let row = self.vault.take_row().map_err(|error| {
            tracing::error!(peer = %client, %error, "an HLS session cannot begin: no memory for its row");
            Refusal::DirectoryFull
        })?;
        let conn = self.registry.connected(WorkerId::NONE, Origin { peer: said.peer, ..origin }, row);
        self.events.note_conn(conn);
        let context = context.unwrap_or_else(|| self.hls_sessions.new_context(conn));
        let record = Description { context: context.clone(), ..said };
        let (row_ms, now_ms) = (clock::wall_ms(), self.now_ms);
        let table = self.vault.clients();
        table.describe(row, conn, &record, row_ms);
        table.tell(row, 0, 0, now_ms);
        let askers = Some(vec![(worker, asker)]);
        self.hls_sessions.insert(conn, Session { row, key: key.clone(), context, client, askers });
        let question =
            Question { conn, intent: Intent::Play, key, credential: 0, pinned: true, found_at: None, number: 1, undecided: false };
        self.answer(WorkerId::NONE, question);
        Ok(())
    }

    /// It is decided whether a session begins.
    pub(super) fn hls_placed(&mut self, conn: ConnId, placement: &Placement) {
        let Some(session) = self.hls_sessions.sessions.get_mut(&conn) else { return };
        let askers = session.askers.take().unwrap_or_default();
        let answer = match placement {
            Placement::Refused(refusal) => HlsAnswer::Refused(*refusal),
            _ => HlsAnswer::Goes(HlsSession { conn, row: session.row, context: session.context.clone() }),
        };
        if matches!(answer, HlsAnswer::Refused(_)) {
            self.forget_hls_session(conn);
        }
        for (worker, asker) in askers {
            self.answer_hls(worker, asker, answer.clone());
        }
    }

    fn answer_hls(&mut self, worker: WorkerId, conn: ConnId, answer: HlsAnswer) {
        self.send(worker, &ToWorker::HlsSession { conn, answer }, Vec::new());
    }

    /// Once a second: sessions of which nothing was heard for too long are over.
    pub(super) fn expire_hls_sessions(&mut self) {
        let (now_ms, patience_ms) = (self.now_ms, WINDOWS * self.config.hls.window.as_ms());
        let mut over = Vec::new();
        for (conn, session) in &self.hls_sessions.sessions {
            let told_ms = self.vault.clients().told_ms(session.row);
            if session.askers.is_none() && now_ms.saturating_sub(told_ms) >= patience_ms {
                over.push(*conn);
            }
        }
        over.into_iter().for_each(|conn| self.end_hls_session(conn, "it asked for nothing any more"));
    }

    /// The server ends, and all sessions with it.
    pub(super) fn end_hls_sessions(&mut self) {
        for conn in self.hls_sessions.sessions.keys().copied().collect::<Vec<_>>() {
            self.end_hls_session(conn, "the server stops");
        }
        self.deliver();
    }

    /// An operator wants a session gone. Who asks for it again is refused for a while.
    pub(super) fn kick_hls_session(&mut self, conn: ConnId) {
        let Some(Session { key, context, .. }) = self.hls_sessions.sessions.get(&conn) else { return };
        let (key, context) = (key.clone(), context.clone());
        self.hls_sessions.note_kicked(key, context, self.now_ms);
        self.end_hls_session(conn, "kicked by the API");
    }

    fn end_hls_session(&mut self, conn: ConnId, why: &str) {
        if let Some(Session { key, client, .. }) = self.hls_sessions.sessions.get(&conn) {
            tracing::debug!(stream = %key, %conn, peer = %client, "an HLS session ends: {why}");
        }
        self.forget_hls_session(conn);
    }

    fn forget_hls_session(&mut self, conn: ConnId) {
        self.hls_sessions.remove(conn);
        let closed = self.registry.closed(conn, WorkerId::NONE, self.now_ms);
        debug_assert!(closed.is_ok(), "a session is in the registry for as long as it is here");
    }

    /// Sessions of the front before go on.
    pub(super) fn inherit_hls_sessions(&mut self, found: Vec<(RowId, Record)>) {
        for (row, Record { conn, description, .. }) in found {
            let Description { key: Some(key), context, peer, listener, .. } = description else { continue };
            let place =
                HeldPlace { intent: Intent::Play, key: key.clone(), credential: 0, process: None, admitted: true, forward: Vec::new() };
            let local = SocketAddr::from(([0, 0, 0, 0], 0));
            let origin = Origin { listener, peer, local };
            let holding = Holding { conn, row, origin, client: peer, departed: false, pull: None, place: Some(place) };
            self.registry.inherited(WorkerId::NONE, holding, self.now_ms);
            self.hls_sessions.insert(conn, Session { row, key, context, client: peer.ip(), askers: None });
        }
    }
}

/// The sessions in the client table: those that had begun.
pub(super) fn found(table: &mut Table) -> Vec<(RowId, Record)> {
    let is_session =
        |record: &Record| record.description.kind == Kind::HlsPlay && !record.description.context.is_empty() && record.began_ms != 0;
    table.all().filter(|(_, record)| is_session(record)).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn key(stream: &str) -> StreamKey {
        StreamKey::new("v", "live", stream).unwrap()
    }

    fn session(sessions: &HlsSessions, conn: u64, stream: &str) -> Session {
        let context = sessions.new_context(ConnId(conn));
        Session { row: RowId(conn as u32), key: key(stream), context, client: [192, 0, 2, 1].into(), askers: None }
    }

    #[test]
    fn a_session_is_found_by_its_stream_and_context_until_it_is_over() {
        let mut sessions = HlsSessions::default();
        let (one, two) = (session(&sessions, 1, "x"), session(&sessions, 2, "x"));
        let context = one.context.clone();
        assert!(context::is_sound(&context) && context != two.context);
        sessions.insert(ConnId(1), one);
        sessions.insert(ConnId(2), two);
        assert_eq!(sessions.by_context.get(&(key("x"), context.clone())), Some(&ConnId(1)));
        assert_eq!(sessions.by_context.get(&(key("y"), context.clone())), None, "of another stream it means nothing");
        assert_eq!(sessions.addresses.count([192, 0, 2, 1].into()), 2);
        assert!(sessions.remove(ConnId(1)).is_some() && sessions.remove(ConnId(1)).is_none());
        assert_eq!((sessions.by_context.len(), sessions.addresses.count([192, 0, 2, 1].into())), (1, 1));
    }

    #[test]
    fn who_was_kicked_is_remembered_for_a_while_and_not_without_bound() {
        let mut sessions = HlsSessions::default();
        for n in 0..MAX_KICKED as u64 + 5 {
            sessions.note_kicked(key("x"), format!("k{n}"), 1_000 + n);
        }
        assert_eq!(sessions.kicked.len(), MAX_KICKED);
        assert!(!sessions.is_kicked(&key("x"), "k4", 2_000) && sessions.is_kicked(&key("x"), "k5", 2_000));
        assert!(!sessions.is_kicked(&key("y"), "k5", 2_000));
        assert!(!sessions.is_kicked(&key("x"), "k5", 1_005 + KICKED_MS), "it may come again");
    }
}
