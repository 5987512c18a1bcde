//! What the process knows that calls the hooks: the configuration, the queue, how each server has answered lately, how far the log was read.
//!
//! Everything that changes is behind one lock that is held for moments only, never while anything is waited for.

use super::Event;
use super::answer::{Answer, Fault};
use super::call::Caller;
use super::circuit::Circuit;
use super::event::Names;
use super::page::HooksPage;
use super::position::Position;
use super::queue::{Fate, Limits, Outcome, Queue, Sent};
use super::source::Source;
use crate::config::{About, Config, Hook};
use crate::control::counters::HookCounter;
use crate::logging::RateLimit;
use braidcast_media::StreamKey;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// How often what is done is written down at most; what was done in between and then forgotten by a death is told once more.
const SAVE_EVERY_MS: u64 = 20;

/// See the module's head.
pub struct Hooks {
    config: Config,
    names: Mutex<Names>,
    caller: Arc<Caller>,
    page: HooksPage,
    shared_dir: PathBuf,
    fingerprints: Vec<u64>,
    changing: Mutex<Changing>,
    /// A call has ended.
    ended: Notify,
    questions: AtomicUsize,
    started: Instant,
}

struct Changing {
    queue: Queue<Arc<Event>>,
    circuits: Vec<Circuit>,
    /// The log, as long as this process is the one that tells.
    source: Option<Source>,
    /// What was left by who told before.
    position: Position,
    seen: u64,
    under_way: usize,
    unsaved: bool,
    saved_ms: u64,
    lines: RateLimit,
}

/// A question that is under way.
pub(super) struct Question<'a>(&'a AtomicUsize);

impl Drop for Question<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Hooks {
    /// Answers questions from now on; tells nothing yet.
    pub fn open(config: Config, names: Names, caller: Arc<Caller>, shared_dir: &Path) -> io::Result<Self> {
        let fingerprints: Vec<u64> = config.hook.iter().map(fingerprint).collect();
        let described: Vec<(u64, String)> = config.hook.iter().zip(&fingerprints).map(|(hook, of)| (*of, describe(hook))).collect();
        let limits = Limits {
            all: config.hooks.queue as usize,
            lane: config.hooks.queue_per_hook as usize,
            retry_max_ms: config.hooks.retry_max.as_ms(),
        };
        let changing = Changing {
            queue: Queue::new(limits, config.hook.iter().map(|hook| hook.retries)),
            circuits: vec![Circuit::default(); config.hook.len()],
            source: None,
            seen: 0,
            position: Position::default(),
            under_way: 0,
            unsaved: false,
            saved_ms: 0,
            lines: RateLimit::default(),
        };
        let page = HooksPage::create(shared_dir, &described)?;
        (0..config.hook.len()).for_each(|hook| page.counter(hook, HookCounter::Resting).store(0, Relaxed));
        Ok(Self {
            page,
            config,
            names: Mutex::new(names),
            caller,
            shared_dir: shared_dir.to_owned(),
            fingerprints,
            changing: Mutex::new(changing),
            ended: Notify::new(),
            questions: AtomicUsize::new(0),
            started: Instant::now(),
        })
    }

    /// Goes on with the log where it was left. Nobody else tells meanwhile.
    pub(super) fn begin_telling(&self) -> io::Result<()> {
        let (source, position) = Source::open(&self.shared_dir, Position::load(&self.shared_dir))?;
        let changing = &mut *self.lock();
        (changing.source, changing.seen, changing.position) = (Some(source), position.seen, position);
        changing.unsaved = true;
        Ok(())
    }

    /// Takes nothing more from the log.
    pub(super) fn stop_reading(&self) {
        self.lock().source = None;
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The server introduces itself like this from now on.
    pub fn rename(&self, names: Names) {
        *self.names.lock().unwrap_or_else(PoisonError::into_inner) = names;
    }

    /// The counters.
    pub fn page(&self) -> &HooksPage {
        &self.page
    }

    /// Room for another question; `None`: `most` are under way.
    pub(super) fn questions(&self, most: usize) -> Option<Question<'_>> {
        let question = (self.questions.fetch_add(1, Relaxed), Question(&self.questions));
        (question.0 < most).then_some(question.1)
    }

    /// Calls a hook that has been admitted.
    pub(super) async fn call(&self, hook: usize, event: &Event) -> Result<Answer, Fault> {
        let configured = &self.config.hook[hook];
        let begun = Instant::now();
        let body = event.body(&self.names.lock().unwrap_or_else(PoisonError::into_inner));
        let answer = self.caller.call(configured, body, &event.id).await;
        let count = |counter, by| _ = self.page.counter(hook, counter).fetch_add(by, Relaxed);
        count(HookCounter::Calls, 1);
        count(HookCounter::LatencyMicros, u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX));
        if let Err(fault) = &answer {
            count(HookCounter::Failures, 1);
            count(HookCounter::Timeouts, (*fault == Fault::Timeout).into());
        }
        let now_ms = self.now_ms();
        let turned = self.lock().circuits[hook].note(answer.is_ok(), now_ms);
        if turned {
            self.note_resting(hook, answer.is_err(), answer.as_ref().err());
        }
        answer
    }

    /// Whether a hook may be called now; who is told yes calls.
    pub(super) fn admit(&self, hook: usize) -> bool {
        let now_ms = self.now_ms();
        self.lock().circuits[hook].admit(now_ms)
    }

    /// Takes what is new from the log of events.
    pub(super) fn read_log(&self) {
        for (hook, event) in self.take_new() {
            self.note_dropped(hook, &event);
        }
    }

    /// What there was no room for.
    fn take_new(&self) -> Vec<(usize, Arc<Event>)> {
        let now_ms = self.now_ms();
        let mut dropped = Vec::new();
        let changing = &mut *self.lock();
        let Some(source) = &mut changing.source else { return dropped };
        loop {
            let lines = source.poll();
            if lines.is_empty() {
                break;
            }
            for (id, event) in lines {
                changing.seen = changing.seen.max(id);
                changing.unsaved = true;
                let Some(event) = event.map(Arc::new) else { continue };
                for (hook, _) in self.config.hooks_for(event.action, About::of(event.action, &event.key)) {
                    let wanted = changing.position.wants(self.fingerprints[hook], id);
                    if wanted && !changing.queue.push(hook, &event.key.to_string(), id, Arc::clone(&event), now_ms) {
                        dropped.push((hook, Arc::clone(&event)));
                    }
                }
            }
        }
        self.page.missed().fetch_add(source.take_lost(), Relaxed);
        for hook in 0..self.config.hook.len() {
            self.page.counter(hook, HookCounter::Waiting).store(changing.queue.pending(hook).len() as u64, Relaxed);
        }
        dropped
    }

    pub(super) fn next_notification(&self) -> Option<Sent<Arc<Event>>> {
        let now_ms = self.now_ms();
        let changing = &mut *self.lock();
        let sent = changing.queue.next(&mut changing.circuits, now_ms)?;
        changing.under_way += 1;
        Some(sent)
    }

    pub(super) fn notification_ended(&self, hook: usize, stream: &str, outcome: Outcome) -> Fate {
        let now_ms = self.now_ms();
        let fate = {
            let changing = &mut *self.lock();
            changing.under_way -= 1;
            changing.unsaved = true;
            let fate = changing.queue.ended(hook, stream, outcome, now_ms);
            self.page.counter(hook, HookCounter::Waiting).store(changing.queue.pending(hook).len() as u64, Relaxed);
            fate
        };
        self.ended.notify_waiters();
        fate
    }

    /// Waits until a notification has ended.
    pub(super) async fn something_ended(&self) {
        self.ended.notified().await;
    }

    /// Waits until nothing of a stream waits for a hook, or the hook rests.
    pub(super) async fn told(&self, hook: usize, key: &StreamKey) {
        let stream = key.to_string();
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            // From here on no end is overlooked.
            ended.as_mut().enable();
            {
                let changing = self.lock();
                if !changing.queue.concerns(hook, &stream) || changing.circuits[hook].is_resting() {
                    return;
                }
            }
            ended.await;
        }
    }

    pub(super) fn sends_something(&self) -> bool {
        self.lock().under_way > 0
    }

    /// How long until a notification may go out, if nothing else happens.
    pub(super) fn pause(&self) -> Duration {
        let now_ms = self.now_ms();
        let changing = self.lock();
        let at_ms = changing.queue.next_at_ms(&changing.circuits);
        at_ms.map_or(Duration::MAX, |at_ms| Duration::from_millis(at_ms.saturating_sub(now_ms)))
    }

    /// Writes down what is done, if that was not done just now.
    pub(super) fn save(&self) {
        let saved_ms = self.lock().saved_ms;
        if saved_ms == 0 || self.now_ms() >= saved_ms + SAVE_EVERY_MS {
            self.save_now();
        }
    }

    /// Writes down what is done.
    pub(super) fn save_now(&self) {
        let now_ms = self.now_ms();
        let changing = &mut *self.lock();
        if !changing.unsaved {
            return;
        }
        let queue = &changing.queue;
        let hooks = self.fingerprints.iter().enumerate().map(|(hook, fingerprint)| (*fingerprint, queue.pending(hook)));
        match Position::save(&self.shared_dir, changing.seen, hooks) {
            Ok(()) => (changing.unsaved, changing.saved_ms) = (false, now_ms.max(1)),
            Err(error) if changing.lines.allow(now_ms) => {
                tracing::error!(%error, "what hooks were told cannot be written down: after a restart they are told again");
            }
            Err(_) => {}
        }
    }

    /// Whether a line that strangers can cause may be written now.
    pub(super) fn may_log(&self) -> bool {
        let now_ms = self.now_ms();
        self.lock().lines.allow(now_ms)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, Changing> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells one hook from another, over restarts: what has to be the same for it to be the same one.
fn fingerprint(hook: &Hook) -> u64 {
    // This hasher has no seed; a new program may tell hooks apart in another way, and then begins their counters anew.
    let mut hasher = DefaultHasher::new();
    (hook.url.as_str(), &hook.events.0, hook.streams.as_str(), &hook.vhost).hash(&mut hasher);
    hasher.finish()
}

/// For people.
fn describe(hook: &Hook) -> String {
    let events: Vec<&str> = hook.events.0.iter().map(|action| action.name()).collect();
    let vhost = if hook.vhost.is_empty() { String::new() } else { format!(" of {}", hook.vhost) };
    format!("{} {}{vhost} {}", hook.url.shown(), hook.streams, events.join(","))
}
