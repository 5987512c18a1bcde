//! What hooks decide before a client is told of success: who is asked, what waits for it, what is done without an answer.
//!
//! The place is reserved meanwhile and nothing in the front waits: a question is a row of a bounded table with a deadline. A front that comes
//! after this one is asked again by the workers, and asks with the same id.

use super::Front;
use super::registry::Question;
use super::timers::Timer;
use crate::config::About;
use crate::control::attendants::{Decision, DecisionId, Role, ToAttendant};
use crate::control::counters::FrontCounter;
use crate::control::{ConnId, Intent};
use crate::events::{Event, Kind};
use crate::hooks::Action;
use braidcast_media::StreamKey;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering::Relaxed;

/// Questions that are held at once; past that it is decided as if nobody had answered.
const MAX_HELD: usize = 4_096;
/// How long a decision that was made without its answer, or whose session is on its way elsewhere, is kept, milliseconds.
const KEPT_MS: u64 = 60_000;
/// Servers that the hooks of one publisher can name, and the longest URL of one, in bytes.
const MAX_FORWARDS: usize = 16;
const MAX_FORWARD_BYTES: usize = 1_024;

/// A worker's question that hooks are asked about.
#[derive(Debug)]
struct Held {
    intent: Intent,
    key: StreamKey,
    /// What is still to be decided; the first is being asked.
    actions: VecDeque<Action>,
    until_ms: u64,
    event: Event,
    forward: Vec<String>,
    /// A hook has let it publish or play, and expects to hear of the end.
    promised: bool,
    /// All is decided, but the session has no worker that could hear it.
    verdict: Option<bool>,
}

/// All of them, by connection and the question's number.
#[derive(Debug, Default)]
pub struct Decisions(HashMap<(ConnId, u32), Held>);

impl Decisions {
    /// How many questions are held.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl Front {
    /// What hooks have to be asked before a question is answered.
    pub(super) fn wanted_decisions(&mut self, question: &Question) -> VecDeque<Action> {
        let Question { conn, intent, key, .. } = question;
        if self.config.hook.is_empty() || self.pulls.has(*conn) {
            return VecDeque::new();
        }
        let Some(row) = self.registry.row_of(*conn) else { return VecDeque::new() };
        let entry = self.events.entry(row, *conn);
        let goes_on = entry.is_in(*intent, key);
        if goes_on && self.registry.has_begun(*conn) {
            return VecDeque::new();
        }
        let connects = !entry.connected && self.speaks_rtmp(row, *conn);
        let actions: &[Action] = match intent {
            // Its worker did not hear what the front before had decided, and this one does not know where its stream is to go.
            Intent::Publish if goes_on && !self.config.relays() => &[Action::Forward],
            _ if goes_on => &[],
            Intent::Publish if self.config.relays() => &[Action::Connect, Action::Publish],
            Intent::Publish => &[Action::Connect, Action::Publish, Action::Forward],
            Intent::Play => &[Action::Connect, Action::Play],
        };
        let wanted = |action: &Action| self.config.asks_hooks(*action, about(*action, key)) && (connects || *action != Action::Connect);
        actions.iter().copied().filter(wanted).collect()
    }

    /// The place that a question asks for is reserved: hooks are asked, unless they were.
    pub(super) fn hold(&mut self, (conn, number): (ConnId, u32), intent: Intent, key: StreamKey, actions: VecDeque<Action>) {
        let id = (conn, number);
        if let Some(held) = self.decisions.0.get(&id) {
            if let Some(allowed) = held.verdict {
                self.conclude(id, allowed);
            }
            return;
        }
        let event = self.event_of(conn, intent, &key);
        let held = Held { intent, key, actions, until_ms: 0, event, forward: Vec::new(), promised: false, verdict: None };
        self.decisions.0.insert(id, held);
        self.put_question(id);
    }

    /// Asks about the next action.
    fn put_question(&mut self, id: (ConnId, u32)) {
        let now_ms = self.now_ms;
        let Some(held) = self.decisions.0.get_mut(&id) else { return };
        let Some(action) = held.actions.front().copied() else { return self.conclude(id, true) };
        if self.decisions.len() > MAX_HELD {
            self.count(FrontCounter::HookOverflow);
            self.without_answer(id, "too many questions wait for hooks");
            // One that was refused is not kept: nobody was asked.
            if !self.registry.is_undecided(id.0, id.1) {
                self.forget_question(id);
            }
            return;
        }
        let Some(held) = self.decisions.0.get_mut(&id) else { return };
        held.until_ms = now_ms + self.config.hooks_limit_ms(action, about(action, &held.key));
        self.timers.set_sooner(Timer::Decisions, held.until_ms);
        self.count(FrontCounter::HookQuestions);
        self.send_question(id);
    }

    /// One that nobody hears is asked again when there is somebody.
    fn send_question(&mut self, id: (ConnId, u32)) {
        let Some(held) = self.decisions.0.get(&id).filter(|held| held.verdict.is_none()) else { return };
        let Some(action) = held.actions.front().copied() else { return };
        let kind = if action == Action::Connect { Kind::Connect } else { held.event.kind };
        let event = serde_json::to_string(&Event { kind, ..held.event.clone() }).unwrap_or_default();
        let question = ToAttendant::Decide { id: DecisionId { conn: id.0, asked: id.1, action }, event };
        if !self.tell_role(Role::Hooks, &question, Vec::new()) {
            tracing::debug!(conn = %id.0, %action, "no hooks can be asked now");
        }
    }

    /// There is a process again that asks hooks: what was asked before may be lost.
    pub(super) fn ask_hooks_again(&mut self) {
        let undecided = |id: &&(ConnId, u32)| self.registry.is_undecided(id.0, id.1);
        for id in self.decisions.0.keys().filter(undecided).copied().collect::<Vec<_>>() {
            self.send_question(id);
        }
    }

    /// Hooks have decided.
    pub(super) fn decided(&mut self, decision: Decision) {
        let Decision { id: DecisionId { conn, asked, action }, allow, forward, message } = decision;
        let id = (conn, asked);
        let Some(held) = self.decisions.0.get_mut(&id).filter(|held| held.verdict.is_none() && held.actions.front() == Some(&action))
        else {
            return tracing::debug!(%conn, %action, "hooks answer what nobody asks any more");
        };
        if allow && matches!(action, Action::Publish | Action::Play) {
            held.promised = true;
        }
        if !self.registry.is_undecided(conn, asked) {
            // The client is gone, or somebody else came first. Whoever was told of a begin is told of an end.
            if let Some(held) = self.decisions.0.remove(&id) {
                match action {
                    Action::Connect if allow => self.log_pair(held.event, Kind::Connect, Kind::Close),
                    _ => self.log_unkept(held),
                }
            }
            return;
        }
        if !allow && action != Action::Forward {
            let (stream, peer) = (held.key.clone(), held.event.client.map(tracing::field::display));
            if self.peer_lines.allow(self.now_ms) {
                tracing::info!(%stream, %conn, peer, "{action} is refused by a hook: {message}");
            }
            return self.conclude(id, false);
        }
        self.allowed(id, if allow { forward } else { Vec::new() });
    }

    /// One action of a question is allowed.
    fn allowed(&mut self, id: (ConnId, u32), forward: Vec<String>) {
        let Some(held) = self.decisions.0.get_mut(&id) else { return };
        let action = held.actions.pop_front();
        let event = held.event.clone();
        if action == Some(Action::Forward) {
            let given = forward.len();
            held.forward = forward.into_iter().filter(|url| url.len() <= MAX_FORWARD_BYTES).take(MAX_FORWARDS).collect();
            if held.forward.len() < given {
                tracing::warn!(stream = %held.key, conn = %id.0, "on_forward names {given} servers: {} are taken, each URL of at most {MAX_FORWARD_BYTES} bytes", held.forward.len());
            }
        }
        if action == Some(Action::Connect)
            && let Some(row) = self.registry.row_of(id.0)
        {
            self.connection_begins(row, id.0, event);
        }
        self.put_question(id);
    }

    /// Nobody has answered: what is decided then is configured.
    fn without_answer(&mut self, id: (ConnId, u32), why: &str) {
        let Some(held) = self.decisions.0.get_mut(&id) else { return };
        let Some(action) = held.actions.front().copied() else { return };
        if !self.registry.is_undecided(id.0, id.1) {
            return self.forget_question(id);
        }
        // Where a stream is to be pushed to is no reason to refuse it.
        let allow = action == Action::Forward || self.config.hooks_allow_on_error(action, about(action, &held.key));
        // What a hook says later is still heard, so that it hears of the end of what it has allowed.
        held.until_ms = self.now_ms + KEPT_MS;
        let (stream, peer) = (held.key.clone(), held.event.client.map(tracing::field::display));
        self.count(FrontCounter::HookUnanswered);
        if self.peer_lines.allow(self.now_ms) {
            let what = if allow { "allowed" } else { "refused" };
            tracing::warn!(%stream, conn = %id.0, peer, "{action} is {what} without an answer ([[hook]] on_error): {why}");
        }
        match allow {
            true => self.allowed(id, Vec::new()),
            false => {
                self.answer_held(id, false);
            }
        }
    }

    /// All is decided.
    fn conclude(&mut self, id: (ConnId, u32), allowed: bool) {
        if self.moves.is_under_way(id.0) {
            // Who goes on with it asks again.
            let until_ms = self.now_ms + KEPT_MS;
            if let Some(held) = self.decisions.0.get_mut(&id) {
                (held.verdict, held.until_ms) = (Some(allowed), until_ms);
            }
            return;
        }
        match self.answer_held(id, allowed) && allowed {
            true => drop(self.decisions.0.remove(&id)),
            false => self.forget_question(id),
        }
    }

    /// Answers the worker. False: nobody waits for it any more.
    fn answer_held(&mut self, id: (ConnId, u32), allowed: bool) -> bool {
        let Some(held) = self.decisions.0.get(&id) else { return false };
        let (conn, intent, key, forward) = (id.0, held.intent, held.key.clone(), held.forward.clone());
        let is_new = intent == Intent::Publish && !self.registry.knows(&key);
        let numbers = &self.numbers;
        let answer = self.registry.decided(id, allowed, forward, &|key| numbers.next(key), self.now_ms);
        let (Some(answer), Some(worker)) = (answer, self.registry.worker_of(conn)) else { return false };
        self.note_answer(worker, conn, intent, &key, is_new, &answer);
        true
    }

    /// Nothing can come of a question any more.
    fn forget_question(&mut self, id: (ConnId, u32)) {
        if let Some(held) = self.decisions.0.remove(&id) {
            self.log_unkept(held);
        }
    }

    /// The server ends: what was not decided does not begin.
    pub(super) fn end_decisions(&mut self) {
        for id in self.decisions.0.keys().copied().collect::<Vec<_>>() {
            self.forget_question(id);
        }
    }

    /// A hook let somebody publish or play, who then did not: both its begin and its end are told.
    fn log_unkept(&mut self, held: Held) {
        if !held.promised {
            return;
        }
        match held.intent {
            Intent::Publish => self.log_pair(held.event, Kind::Publish, Kind::Unpublish),
            Intent::Play => self.log_pair(held.event, Kind::Play, Kind::Stop),
        }
    }

    fn log_pair(&mut self, event: Event, begin: Kind, end: Kind) {
        self.log(&Event { kind: begin, ..event.clone() });
        self.log(&Event { kind: end, ..event }.why("it was gone before it was decided"));
    }

    /// Deadlines have passed.
    pub(super) fn decisions_due(&mut self) {
        let now_ms = self.now_ms;
        let due: Vec<(ConnId, u32)> = self.decisions.0.iter().filter(|(_, held)| held.until_ms <= now_ms).map(|(id, _)| *id).collect();
        for id in due {
            let decided = self.decisions.0.get(&id).is_some_and(|held| held.verdict.is_some());
            match decided {
                // Nobody has come to hear it.
                true => self.forget_question(id),
                false => self.without_answer(id, "no hook has answered in time, or the process that asks them is not there"),
            }
        }
        if let Some(next_ms) = self.decisions.0.values().map(|held| held.until_ms).min() {
            self.timers.set_sooner(Timer::Decisions, next_ms);
        }
    }

    pub(super) fn show_decisions(&self) {
        self.page.counter(FrontCounter::HookWaiting).store(self.decisions.len() as u64, Relaxed);
    }
}

/// What an action is about, for the choice of hooks.
fn about(action: Action, key: &StreamKey) -> About<'_> {
    match action {
        Action::Connect | Action::Close => About::App { vhost: key.vhost(), app: key.app() },
        _ => About::Stream(key),
    }
}
