//! The worker's side of the control channel: what the front says, what it is told, and life without it.

use super::outgoing::PullOrder;
use super::session::{Protocol, Role, Session};
use super::sessions::Arrival;
use super::{End, PLACING_MS, Worker};
use crate::config::About;
use crate::control::counters::WorkerCounter;
use crate::control::{Asked, ConnId, Intent, Listener, ListeningSocket, Placement, Refusal, ToFront, ToWorker};
use crate::hooks::Action;
use braidcast_media::StreamKey;
use braidcast_protocols::via::Via;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// Messages taken from the front in one turn.
const MESSAGES_PER_TURN: usize = 256;
/// How long they may hold up a turn: many viewers that come at once must not delay those who are there.
const MESSAGES_TIME: Duration = Duration::from_millis(2);

impl Worker {
    /// Takes what the front has sent.
    pub(super) fn hear_front(&mut self) {
        let since = Instant::now();
        for _ in 0..MESSAGES_PER_TURN {
            if since.elapsed() >= MESSAGES_TIME {
                // The poll tells of the others again.
                return;
            }
            match self.front.receive::<ToWorker>() {
                Ok(Some((ToWorker::Listeners { listening }, fds))) => self.keep_listeners(&listening, fds),
                Ok(Some((ToWorker::LogFiles { lines, requests }, fds))) => self.take_log_files(lines, requests, fds),
                Ok(Some((message, fds))) => self.obey(message, fds.into_iter().next()),
                Ok(None) => return,
                Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                    tracing::error!(%error, "a message of the front was lost or malformed");
                }
                Err(error) => return self.lose_front(&error),
            }
        }
    }

    fn obey(&mut self, message: ToWorker, fd: Option<OwnedFd>) {
        match message {
            ToWorker::Connection { conn, row, origin } => match fd {
                Some(socket) => self.open_session(Arrival { conn, row, origin }, socket),
                None => self.missing_descriptor(conn),
            },
            ToWorker::Adopt(adoption) => match fd {
                Some(socket) => self.adopt(adoption, socket),
                None => self.missing_descriptor(adoption.conn),
            },
            ToWorker::Bury(adoption) => match fd {
                Some(socket) => self.bury(&adoption, &socket),
                None => self.missing_descriptor(adoption.conn),
            },
            ToWorker::HandOver { conn } => self.hand_over_conn(conn),
            ToWorker::Departed { conn } => self.forget_departed(conn),
            ToWorker::Pull { conn, row, key, from, via } => self.begin_pull(PullOrder { conn, row, key, from, via: Via::parse(&via) }),
            ToWorker::StopPull { conn } => self.end_pull(conn),
            ToWorker::Placed { conn, placement, forward } => self.placed(conn, placement, forward),
            ToWorker::Evict { conn } => self.evict(conn),
            ToWorker::Settle { key, settling, .. } if self.config.relays() => self.settle_collected(key, settling),
            ToWorker::Settle { key, settling, next_segment } => self.settle(key, settling, next_segment),
            ToWorker::EvictDownTo { stream_bytes } if self.config.relays() => self.evict_collected(stream_bytes),
            ToWorker::EvictDownTo { stream_bytes } => self.evict_down_to(stream_bytes),
            ToWorker::Processes(processes) => self.processes_changed(processes),
            ToWorker::AccessKeys { path, content } => self.keep_access_keys(path, &content),
            ToWorker::LogLevels(changed) => crate::logging::set_levels(&changed),
            ToWorker::OwnSecret(secret) => self.access.keep_own(&secret),
            ToWorker::CollectFrom { key, next_segment } => self.collect_from(key, next_segment),
            ToWorker::Stop => self.stop("the front says so"),
            ToWorker::Kick { conn } => self.kick(conn),
            ToWorker::HlsSession { conn, answer } => self.hls_session(conn, answer),
            ToWorker::Ordered { ticket, said } => self.ordered(ticket, said),
            ToWorker::TurnAway { conn } => self.turn_away(conn),
            ToWorker::Welcome { .. } | ToWorker::Hello { .. } | ToWorker::Listeners { .. } | ToWorker::LogFiles { .. } => {
                tracing::error!("the front said what only a new one says");
            }
        }
    }

    /// Keeps the listening sockets open: connections wait in them while there is no front.
    fn keep_listeners(&mut self, listening: &[ListeningSocket], sockets: Vec<OwnedFd>) {
        if listening.len() != sockets.len() {
            tracing::error!("{} listening sockets came with {} descriptors", listening.len(), sockets.len());
        }
        self.listeners = listening.iter().copied().zip(sockets).collect();
    }

    /// A publisher lost its stream, or a player the process that has it. If it has none any more, it has left by itself.
    fn evict(&mut self, conn: ConnId) {
        if self.evict_pair_of(conn) {
            return;
        }
        let Some(slot) = self.by_conn.get(conn) else { return };
        let session = &self.sessions[slot];
        if matches!(session.role, Role::Publishing(_) | Role::Opening(..)) {
            self.close(slot, End::Peer("a newer publisher takes the stream over".into()));
        }
    }

    /// The client that a proxy named is not let in. The front has logged it.
    fn turn_away(&mut self, conn: ConnId) {
        if self.close_pair_of(conn, End::Done) {
            return;
        }
        let Some(slot) = self.by_conn.get(conn) else { return };
        let session = &self.sessions[slot];
        let end = match (&session.more.protocol, &session.role) {
            // Its proxy would take a connection that ends for a server that is gone.
            (Protocol::Http(_), Role::Placing(_)) => self.refuse(slot, Refusal::Unwelcome),
            _ => Err(End::Done),
        };
        if let Err(end) = end {
            self.close(slot, end);
        }
    }

    fn missing_descriptor(&mut self, conn: ConnId) {
        tracing::error!(%conn, "a connection came without its descriptor: it is lost");
        self.tell_front(&ToFront::Lost { conn });
    }

    /// Tells the front something that needs no descriptor. A front that is gone is noticed by the poll.
    pub(super) fn tell_front(&mut self, message: &ToFront) {
        if self.front_gone_ms.is_none()
            && let Err(error) = self.front.send(message, Vec::new())
        {
            tracing::error!(%error, "cannot tell the front {message:?}");
        }
    }

    /// Sends what the channel did not take before.
    pub(super) fn flush_front(&mut self) {
        if self.front_gone_ms.is_none()
            && self.front.pending() > 0
            && let Err(error) = self.front.flush()
        {
            self.lose_front(&error);
        }
    }

    fn lose_front(&mut self, error: &std::io::Error) {
        if self.front_gone_ms.is_some() {
            return;
        }
        tracing::warn!(%error, "the front is gone: this worker goes on with what it has for {} (front_grace)", self.config.server.front_grace);
        self.front_gone_ms = Some(self.now.mono_ms);
        if let Err(error) = self.poller.delete(&self.front) {
            tracing::debug!(%error, "cannot unwatch the control channel");
        }
    }

    /// Ends the worker when the front has been gone for too long.
    pub(super) fn check_front(&mut self) {
        if let Some(gone) = self.front_gone_ms
            && self.now.mono_ms >= gone + self.config.server.front_grace.as_ms()
        {
            if self.config.relays() {
                crate::engine::note::end_all(&self.config.server.shared_dir);
            }
            self.stop("the front has been gone for front_grace");
        }
    }

    /// Asks the front where a session belongs; its input waits until the answer is there.
    pub(super) fn ask_place(&mut self, slot: usize, wish: super::session::Wish, params: &str) -> Result<(), End> {
        let intent = match wish.what {
            super::session::Want::Publish => Intent::Publish,
            super::session::Want::Play(_) => Intent::Play,
        };
        let pinned = self.sessions[slot].more.listener == Listener::Sub;
        let found_at = if self.config.relays() && intent == Intent::Play { self.found_at(&wish.key) } else { None };
        let number = self.sessions[slot].more.asked.as_ref().map_or(0, |asked| asked.number) + 1;
        let asked = Asked { intent, key: wish.key.clone(), credential: credential(params), pinned, found_at, number };
        self.ask(slot, wish, asked)
    }

    /// As [`Worker::ask_place`]. A front that is gone may be back in time: then it is asked again.
    pub(super) fn ask(&mut self, slot: usize, wish: super::session::Wish, asked: Asked) -> Result<(), End> {
        let session = &mut self.sessions[slot];
        let question = asked.question(session.conn);
        let (intent, key) = (asked.intent, asked.key.clone());
        session.more.asked = Some(asked);
        session.enter(Role::Placing(Box::new(wish)));
        // Where processes of another server have the streams, the front answers when one has this one.
        let waits = question_is_for_later(&self.config, &question);
        let patience_ms = if waits { self.config.play.play_wait.as_ms() } else { PLACING_MS };
        session.deadline_ms = self.now.mono_ms + patience_ms + decisions_ms(&self.config, intent, &key);
        self.watch_deadline(slot);
        if self.stopping_since_ms.is_some() {
            return self.refuse(slot, Refusal::Unavailable);
        }
        // A proxy that speaks HTTP has the connection to itself again after each answer, but not after this one.
        let session = &self.sessions[slot];
        if session.more.peer != session.more.holder {
            self.tell_front(&ToFront::Named { conn: session.conn, client: session.more.peer });
        }
        self.tell_front(&question);
        Ok(())
    }

    fn placed(&mut self, conn: ConnId, placement: Placement, forward: Vec<String>) {
        // The client may have gone while the front was asked; the front was told by `Closed`.
        let Some(slot) = self.by_conn.get(conn) else { return };
        let Session { role: Role::Placing(wish), .. } = &self.sessions[slot] else { return };
        let wish = (**wish).clone();
        self.sessions[slot].more.described = None;
        self.sessions[slot].more.forward = forward;
        let result = match placement {
            Placement::Here { next_segment } => self.admit(slot, wish, next_segment),
            Placement::MoveTo(worker) if self.hand_over(slot, Some(worker)) => Ok(()),
            Placement::MoveTo(_) => self.refuse(slot, Refusal::DirectoryFull),
            Placement::Process(process) => self.connect_through(slot, process),
            Placement::Refused(refusal) => self.refuse(slot, refusal),
        };
        if let Err(end) = result {
            self.close(slot, end);
        }
    }

    /// The publish or play of a session was not admitted: its client is told why.
    pub(super) fn refuse(&mut self, slot: usize, refusal: Refusal) -> Result<(), End> {
        let session = &mut self.sessions[slot];
        let (stream, publish) = match &session.role {
            Role::Placing(wish) | Role::Opening(wish, _) | Role::Waiting(wish) => {
                (wish.key.to_string(), wish.what == super::session::Want::Publish)
            }
            _ => (String::new(), false),
        };
        let (conn, peer) = (session.conn, session.more.peer);
        if self.peer_lines.allow(self.now.mono_ms) {
            tracing::info!(%stream, %conn, %peer, "refused: {refusal}");
        }
        if publish {
            self.count(WorkerCounter::RefusedPublishers);
        }
        self.leave_role(slot, &refusal);
        self.tell_released(slot);
        self.answer_refusal(slot, refusal)
    }
}

/// Whether the front answers a question only when somebody publishes the stream.
fn question_is_for_later(config: &crate::config::Config, question: &ToFront) -> bool {
    config.relays() && matches!(question, ToFront::Place { asked: Asked { intent: Intent::Play, .. }, .. })
}

/// How long hooks may take until the front can answer, milliseconds.
pub(super) fn decisions_ms(config: &crate::config::Config, intent: Intent, key: &StreamKey) -> u64 {
    let about = About::Stream(key);
    let connect = config.hooks_limit_ms(Action::Connect, About::App { vhost: key.vhost(), app: key.app() });
    connect
        + match intent {
            Intent::Publish => config.hooks_limit_ms(Action::Publish, about) + config.hooks_limit_ms(Action::Forward, about),
            Intent::Play => config.hooks_limit_ms(Action::Play, about),
        }
}

/// What tells a publisher that comes back from a stranger: a hash, because the parameters may hold a secret.
fn credential(params: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    params.hash(&mut hasher);
    hasher.finish()
}
