//! Questions: whether a client may connect, publish or play, and where a stream is to be pushed to. The hooks are asked one after another; the
//! first that refuses decides.

use super::answer::{Answer, Fault, MAX_FORWARD_URLS};
use super::process::Hooks;
use super::{Action, Event};
use crate::config::{About, OnError};
use crate::control::counters::HookCounter;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// The most questions that are under way at once. Past that the hooks' `on_error` decides: clients wait for each of them.
const MAX_QUESTIONS: usize = 1_024;
/// How long a question waits for notifications of the same stream that came before it.
const IN_ORDER: Duration = Duration::from_millis(500);

/// What was decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it may happen.
    pub allow: bool,
    /// Where the stream is to be pushed to.
    pub forward: Vec<String>,
    /// Why not.
    pub why: String,
}

impl Hooks {
    /// Asks all hooks that an event concerns.
    pub async fn decide(&self, event: &Event) -> Verdict {
        let Some(_permit) = self.questions(MAX_QUESTIONS) else { return self.without_answers(event) };
        // What has happened before is told before.
        self.read_log();
        let mut forward = Vec::new();
        for (hook, configured) in self.config().hooks_for(event.action, About::of(event.action, &event.key)) {
            let _ = tokio::time::timeout(IN_ORDER, self.told(hook, &event.key)).await;
            let answer = match self.admit(hook) {
                true => self.call(hook, event).await,
                false => Err(Fault::Resting),
            };
            match answer {
                Ok(Answer::Allowed { urls }) => forward.extend(urls),
                Ok(Answer::Refused(why)) => {
                    self.count(hook, HookCounter::Refused);
                    tracing::info!(stream = %event.key, client = %event.client, ip = %event.ip, hook = %configured.url.shown(), why, "{} was refused", event.action);
                    if event.action != Action::Forward {
                        return Verdict { allow: false, forward: Vec::new(), why };
                    }
                }
                Err(fault) => {
                    if let Some(refusal) = self.on_error(hook, event, &fault) {
                        return refusal;
                    }
                }
            }
        }
        forward.truncate(MAX_FORWARD_URLS);
        Verdict { allow: true, forward, why: String::new() }
    }

    fn without_answers(&self, event: &Event) -> Verdict {
        let mut hooks = self.config().hooks_for(event.action, About::of(event.action, &event.key));
        let refusal = hooks.find_map(|(hook, _)| self.on_error(hook, event, &Fault::Crowded));
        refusal.unwrap_or(Verdict { allow: true, forward: Vec::new(), why: String::new() })
    }

    /// What the configuration says of a hook that gave no answer; `None`: the next one is asked.
    fn on_error(&self, hook: usize, event: &Event, fault: &Fault) -> Option<Verdict> {
        let configured = &self.config().hook[hook];
        let refuses = configured.on_error == OnError::Refuse && event.action != Action::Forward;
        self.count(hook, if refuses { HookCounter::RefusedOnError } else { HookCounter::AllowedOnError });
        if self.may_log() {
            let then = if refuses { "refused (on_error)" } else { "it goes on without an answer" };
            tracing::warn!(stream = %event.key, client = %event.client, ip = %event.ip, hook = %configured.url.shown(), why = %fault, "{} was not answered: {then}", event.action);
        }
        refuses.then(|| Verdict { allow: false, forward: Vec::new(), why: format!("a hook was not answered: {fault}") })
    }

    /// Counts an ended question's part.
    fn count(&self, hook: usize, counter: HookCounter) {
        self.page().counter(hook, counter).fetch_add(1, Relaxed);
    }
}
