//! What the workers say, and what the front says back. A worker may be wrong about anything: nothing it says can stop the front.

use super::Front;
use super::registry::{Answer, Circumstances, Mismatch, Question};
use super::timers::Timer;
use crate::control::counters::FrontCounter;
use crate::control::pages::{Why, WorkerState};
use crate::control::{Asked, ConnId, Intent, Placement, Refusal, ToFront, ToWorker, WorkerId};
use crate::events::{Event, Kind};
use braidcast_media::StreamKey;
use braidcast_stream_log::Reader;
use braidcast_sys::Interest;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;

/// Messages taken from one worker before the others have their turn.
const MESSAGES_PER_TURN: usize = 256;
/// How long after its channel broke a worker may live, milliseconds.
const DEAF_MS: u64 = 1_000;
/// How soon messages that wait are tried again, whatever epoll says, milliseconds.
const RETRY_SENDS_MS: u64 = 20;

impl Front {
    /// Takes what a worker has sent, in a bounded turn.
    pub(super) fn hear(&mut self, worker: WorkerId) {
        for _ in 0..MESSAGES_PER_TURN {
            if !self.hear_one(worker) {
                return;
            }
        }
    }

    /// False: there is nothing more to hear now.
    pub(super) fn hear_one(&mut self, worker: WorkerId) -> bool {
        let Some(process) = self.worker_mut(worker).and_then(|worker| worker.process.as_mut()).filter(|process| !process.deaf) else {
            return false;
        };
        match process.channel.receive::<ToFront>() {
            Ok(None) => return false,
            // No message of a worker has descriptors: they would be closed here.
            Ok(Some((message, _))) => self.obey(worker, message),
            Err(error) if error.kind() == ErrorKind::InvalidData => self.bad_message(worker, &error),
            Err(error) => {
                self.lose_channel(worker, &error);
                return false;
            }
        }
        self.deliver();
        true
    }

    /// Sends what the registry has to say.
    pub(super) fn deliver(&mut self) {
        self.write_happenings();
        while let Some((worker, message)) = self.registry.poll_message() {
            match message {
                ToWorker::Placed { conn, placement, .. } if worker == WorkerId::NONE => self.hls_placed(conn, &placement),
                message => self.send(worker, &message, Vec::new()),
            }
        }
        // What was refused is over at once.
        self.write_happenings();
        self.clear_gone();
    }

    /// Sends to a worker, or lets it wait. A worker without a process gets nothing: what it had is gone, and so is what concerns it.
    pub(super) fn send(&mut self, worker: WorkerId, message: &ToWorker, fds: Vec<OwnedFd>) {
        let Some(process) = self.worker_mut(worker).and_then(|worker| worker.process.as_mut()).filter(|process| !process.deaf) else {
            return;
        };
        match process.channel.send(message, fds) {
            Ok(()) => self.watch_writing(worker),
            Err(error) => self.lose_channel(worker, &error),
        }
    }

    /// As [`Front::send`], with a descriptor that stays the front's: a duplicate of it is made only for a message that has to wait.
    pub(super) fn lend(&mut self, worker: WorkerId, message: &ToWorker, fd: &OwnedFd) {
        let Some(process) = self.worker_mut(worker).and_then(|worker| worker.process.as_mut()).filter(|process| !process.deaf) else {
            return;
        };
        match process.channel.lend(message, fd) {
            Ok(()) => self.watch_writing(worker),
            Err(error) => self.lose_channel(worker, &error),
        }
    }

    /// The channel can take more.
    pub(super) fn flush(&mut self, worker: WorkerId) {
        let Some(process) = self.worker_mut(worker).and_then(|worker| worker.process.as_mut()).filter(|process| !process.deaf) else {
            return;
        };
        match process.channel.flush() {
            Ok(()) => self.watch_writing(worker),
            Err(error) => self.lose_channel(worker, &error),
        }
    }

    /// Watches for room while something waits.
    fn watch_writing(&mut self, worker: WorkerId) {
        let token = super::token(super::CHANNEL, worker.0.into());
        let poller = &self.poller;
        let Some(process) = self.workers.get_mut(super::index(worker)).and_then(|worker| worker.process.as_mut()) else { return };
        let waits = process.channel.pending() > 0;
        if waits != process.watched_for_writing {
            let interest = if waits { Interest::READ | Interest::WRITE } else { Interest::READ };
            if let Err(error) = poller.modify(&process.channel, token, interest) {
                tracing::error!(%worker, %error, "cannot watch a control channel");
            }
            process.watched_for_writing = waits;
        }
        if waits {
            self.timers.set_if_idle(Timer::RetrySends, self.now_ms + RETRY_SENDS_MS);
        }
    }

    /// The channel is of no use any more. Usually the process is ending; if it does not, it is killed.
    fn lose_channel(&mut self, worker: WorkerId, error: &std::io::Error) {
        let poller = &self.poller;
        let Some(process) = self.workers.get_mut(super::index(worker)).and_then(|worker| worker.process.as_mut()) else { return };
        process.deaf = true;
        if let Err(error) = poller.delete(&process.channel) {
            tracing::debug!(%worker, %error, "cannot leave a control channel");
        }
        if !process.handle.has_ended().unwrap_or(false) && error.kind() != ErrorKind::UnexpectedEof {
            tracing::error!(%worker, pid = process.pid, %error, "the worker cannot be talked to: it will be killed and started again");
        }
        self.timers.set(Timer::Overdue(worker), self.now_ms + DEAF_MS);
    }

    fn obey(&mut self, worker: WorkerId, message: ToFront) {
        let now_ms = self.now_ms;
        match message {
            ToFront::Ready => self.worker_is_ready(worker),
            ToFront::Inventory(_) | ToFront::Bells | ToFront::Holding(_) | ToFront::InventoryEnd => {
                self.bad_message(worker, &std::io::Error::other("an inventory that nobody asked for"));
            }
            ToFront::Place { conn, asked } => {
                if self.is_sound(worker, &asked.key) {
                    let Asked { intent, key, credential, pinned, found_at, number } = asked;
                    self.answer(worker, Question { conn, intent, key, credential, pinned, found_at, number, undecided: false });
                }
            }
            ToFront::Move { conn, to } => self.forward(worker, conn, to),
            ToFront::Stays { conn } => self.stays(worker, conn),
            ToFront::Adopted { conn } => self.adopted(worker, conn),
            ToFront::Lost { conn } => self.lost(worker, conn),
            ToFront::Released { conn } => {
                self.engine.gone(conn);
                let result = self.registry.released(conn, worker, now_ms);
                self.note(worker, conn, result);
            }
            ToFront::Wanted { key, via } => {
                if self.is_sound(worker, &key) {
                    self.wanted(&key, &via);
                }
            }
            ToFront::PullEnded { conn, error } => self.pull_ended(conn, error),
            ToFront::Closed { conn } => {
                self.engine.gone(conn);
                self.pull_closed(conn);
                let result = self.registry.closed(conn, worker, now_ms);
                self.note(worker, conn, result);
            }
            ToFront::Segment { key, next, duration_ms } => {
                if self.is_sound(worker, &key) {
                    self.segment(&key, next, duration_ms);
                    self.segment_of_unknown(&key);
                }
            }
            ToFront::Settled { key, settling, done } => {
                tracing::debug!(stream = %key, %worker, done, "settled ({settling:?})");
                self.registry.lifecycle().settled(&key, settling, done, worker, now_ms);
            }
            ToFront::Named { conn, client } => self.named(worker, conn, client),
            ToFront::Kick { conn } => self.kick(conn),
            ToFront::HlsSession { conn, key, context, begins } => {
                if self.is_sound(worker, &key) {
                    self.hls_session(worker, conn, key, context, begins);
                }
            }
            ToFront::Order { ticket, order } => self.order_by_api(worker, ticket, &order),
            ToFront::Taken { conn } => self.taken(worker, conn),
            ToFront::Describes { conn, description } => self.describe_client(worker, conn, &description),
            ToFront::Collects { ref key } if !self.is_sound(worker, key) => {}
            message @ (ToFront::Keeps | ToFront::Collects { .. } | ToFront::Health { .. }) => self.hear_keeper(worker, message),
        }
    }

    fn worker_is_ready(&mut self, worker: WorkerId) {
        let now_ms = self.now_ms;
        let Some(found) = self.worker_mut(worker) else { return };
        if found.state == WorkerState::Starting {
            found.state = WorkerState::Running;
            let pid = found.process.as_ref().map_or(0, |process| process.pid);
            let took_ms = found.process.as_ref().map_or(0, |process| now_ms.saturating_sub(process.started_ms));
            tracing::debug!(%worker, pid, "the worker serves ({took_ms} ms after its start)");
            self.timers.clear(Timer::Overdue(worker));
            self.log(&Event { pid: Some(pid), ..Event::new(Kind::WorkerReady).worker(worker) });
            self.introduce_processes(worker);
            self.watch_sockets();
            self.send_waiting_home();
            for (asking, question) in std::mem::take(&mut self.unanswered) {
                // Of a session that has gone elsewhere since, the worker that has it asks again.
                if self.registry.worker_of(question.conn) == Some(asking) {
                    self.answer(asking, question);
                }
            }
            self.announce_if_ready(false);
        }
    }

    pub(super) fn answer(&mut self, worker: WorkerId, question: Question) {
        // Between the death of one worker and the start of another there may be none; the asking one waits for a while.
        if !self.is_stopping() && self.workers.iter().all(|worker| !worker.serves()) {
            return self.unanswered.push((worker, question));
        }
        if self.config.relays() {
            return self.answer_at_process(worker, question);
        }
        let actions = self.wanted_decisions(&question);
        let question = Question { undecided: !actions.is_empty(), ..question };
        let (conn, number, intent, key) = (question.conn, question.number, question.intent, question.key.clone());
        let is_new = intent == Intent::Publish && !self.registry.knows(&key);
        let room = !is_new || self.budget.has_room(self.now_ms);
        let loads = self.loads();
        let (numbers, root) = (&self.numbers, self.shared.root());
        let around = Circumstances {
            workers: &loads,
            room,
            last_append_ms: &|key| Reader::open(root, key).ok().flatten().map(|reader| reader.last_append_mono_ms()),
            next_segment: &|key| numbers.next(key),
            fetched_at: None,
        };
        match self.registry.place(worker, question, &around, self.now_ms) {
            Ok(_) if self.registry.is_undecided(conn, number) => {
                self.hold((conn, number), intent, key, actions);
            }
            Ok(answer) => self.note_answer(worker, conn, intent, &key, is_new, &answer),
            Err(mismatch) => self.refuse_question(worker, conn, mismatch),
        }
    }

    pub(super) fn refuse_question(&mut self, worker: WorkerId, conn: ConnId, mismatch: Mismatch) {
        self.note(worker, conn, Err(mismatch));
        self.send(worker, &ToWorker::Placed { conn, placement: Placement::Refused(Refusal::Unavailable), forward: Vec::new() }, Vec::new());
    }

    pub(super) fn note_answer(&mut self, worker: WorkerId, conn: ConnId, intent: Intent, key: &StreamKey, is_new: bool, answer: &Answer) {
        let peer = self.registry.address_of(conn).map(tracing::field::display);
        if let Some(replaced) = answer.replaced {
            self.count(FrontCounter::Replaced);
            tracing::info!(stream = %key, %conn, peer, "the publisher takes the stream over from {replaced}");
        }
        if let Placement::Refused(refusal) = answer.placement {
            self.count(match refusal {
                Refusal::StreamBusy => FrontCounter::RefusedStreamBusy,
                Refusal::PublishersFull => FrontCounter::RefusedPublishersFull,
                Refusal::DirectoryFull => FrontCounter::RefusedDirectoryFull,
                Refusal::Unavailable => FrontCounter::RefusedUnavailable,
                Refusal::ByHook => FrontCounter::RefusedByHook,
                // Counted when its client was named, or where it was kicked.
                Refusal::Unwelcome | Refusal::Kicked => return,
            });
            let event = Event { record: None, ..self.event_of(conn, intent, key) };
            self.log_some(&Event { kind: Kind::Refused, ..event }.why(refusal));
            if self.peer_lines.allow(self.now_ms) {
                tracing::warn!(stream = %key, %conn, peer, "{} refused: {refusal}", if intent == Intent::Publish { "publish" } else { "play" });
            }
            return;
        }
        if intent == Intent::Publish {
            self.pull_placed(conn);
        }
        self.count(if intent == Intent::Publish { FrontCounter::AdmittedPublishers } else { FrontCounter::AdmittedViewers });
        let target = if let Placement::MoveTo(target) = answer.placement { target } else { worker };
        self.begin_client(conn);
        let process = if let Placement::Process(process) = answer.placement { Some(tracing::field::display(process)) } else { None };
        match intent {
            Intent::Play => tracing::debug!(stream = %key, %conn, peer, worker = %target, process, "a viewer is placed"),
            Intent::Publish => {
                tracing::info!(stream = %key, %conn, peer, worker = %target, process, "a publisher is placed");
                // Known from now on, so that even a crash before its first segment cannot make a number come twice.
                self.numbers.raise(key, 1);
                if is_new {
                    self.budget.admitted(self.now_ms);
                }
            }
        }
    }

    /// A worker has let go of a session: it goes on where it was placed, or where there is room.
    fn forward(&mut self, worker: WorkerId, conn: ConnId, to: Option<WorkerId>) {
        match self.registry.handed_over(conn, worker) {
            Ok(homeless) => {
                let why = if to.is_some() { Why::Placed } else { self.why_moving(worker, conn) };
                self.find_home(homeless, worker, why);
            }
            Err(mismatch) => self.note(worker, conn, Err(mismatch)),
        }
    }

    pub(super) fn note(&mut self, worker: WorkerId, conn: ConnId, result: Result<(), Mismatch>) {
        if let Err(mismatch) = result {
            self.count(FrontCounter::BadMessages);
            if self.worker_lines.allow(self.now_ms) {
                tracing::warn!(%worker, %conn, "the worker spoke of a connection that it does not have: {mismatch}");
            }
        }
    }

    /// A name is checked where it comes in; a worker that went wrong may send one that was not.
    fn is_sound(&mut self, worker: WorkerId, key: &StreamKey) -> bool {
        let checked = StreamKey::new(key.vhost(), key.app(), key.stream());
        if let Err(error) = &checked {
            self.bad_message(worker, error);
        }
        checked.is_ok()
    }

    fn bad_message(&mut self, worker: WorkerId, error: &dyn std::error::Error) {
        self.count(FrontCounter::BadMessages);
        if self.worker_lines.allow(self.now_ms) {
            tracing::error!(%worker, error = %error, "a message of the worker makes no sense, and was dropped");
        }
    }
}
