//! Notifications: read from the log of events, sent in order, repeated, given up; what is done is saved.

use super::Event;
use super::answer::{Answer, Fault};
use super::process::Hooks;
use super::queue::{Fate, Outcome, Sent};
use crate::control::counters::HookCounter;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::sync::watch;

/// How soon the log is looked at again.
const LOOK: Duration = Duration::from_millis(50);
/// How soon a log that could not be opened is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// How long calls that are under way are waited for at the end, beyond their own time limits.
const LAST_CALLS: Duration = Duration::from_millis(500);

/// How long to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// As long as there is something.
    Further,
    /// Until everything that can be told now is told: the instance ends.
    AllIsTold,
    /// Only what is under way is waited for: another one goes on.
    Now,
}

impl Hooks {
    /// Tells what happens until something else is wanted, and finishes as that says. Nobody else may tell meanwhile.
    pub async fn tell(self: &Arc<Self>, mut until: watch::Receiver<Until>) {
        while let Err(error) = self.begin_telling() {
            tracing::error!(%error, "the log of events cannot be read: hooks are told nothing until it can");
            let wanted = until.wait_for(|until| *until != Until::Further);
            if tokio::time::timeout(AGAIN, wanted).await.is_ok() {
                return;
            }
        }
        loop {
            self.read_log();
            while let Some(sent) = self.next_notification() {
                tokio::spawn(Arc::clone(self).send(sent));
            }
            self.save();
            match *until.borrow() {
                Until::Further => {}
                Until::AllIsTold if self.sends_something() => {}
                Until::AllIsTold | Until::Now => break,
            }
            tokio::select! {
                () = self.something_ended() => {}
                () = tokio::time::sleep(self.pause().min(LOOK)) => {}
                changed = until.changed() => if changed.is_err() { break },
            }
        }
        self.stop_reading();
        let longest = self.config().hook.iter().map(|hook| hook.timeout.as_ms()).max().unwrap_or(0);
        let _ = tokio::time::timeout(Duration::from_millis(longest) + LAST_CALLS, async {
            while self.sends_something() {
                let _ = tokio::time::timeout(LOOK, self.something_ended()).await;
            }
        })
        .await;
        self.save_now();
    }

    async fn send(self: Arc<Self>, sent: Sent<Arc<Event>>) {
        let Sent { lane: hook, stream, item: event, repeated, .. } = sent;
        let answer = self.call(hook, &event).await;
        let outcome = match &answer {
            Err(fault) if fault.is_worth_repeating() => Outcome::Failed,
            _ => Outcome::Delivered,
        };
        let counter = match self.notification_ended(hook, &stream, outcome) {
            Fate::Done => HookCounter::Delivered,
            Fate::Again(_) => HookCounter::Retries,
            Fate::GivenUp => HookCounter::GivenUp,
        };
        self.page().counter(hook, counter).fetch_add(1, Relaxed);
        let url = self.config().hook[hook].url.shown();
        let (client, action) = (&event.client, event.action);
        match answer {
            Ok(Answer::Allowed { .. }) => tracing::debug!(stream, %client, hook = url, repeated, "{action} was told"),
            Ok(Answer::Refused(why)) => tracing::debug!(stream, %client, hook = url, why, "{action} was told, and answered with no"),
            Err(why) if counter == HookCounter::GivenUp => {
                if self.may_log() {
                    tracing::warn!(stream, %client, hook = url, repeated, %why, id = event.id, "{action} could not be told and is lost");
                }
            }
            Err(why) => tracing::debug!(stream, %client, hook = url, repeated, %why, "{action} could not be told"),
        }
    }

    /// A notification was lost because too many wait.
    pub(super) fn note_dropped(&self, hook: usize, event: &Event) {
        self.page().counter(hook, HookCounter::Dropped).fetch_add(1, Relaxed);
        if self.may_log() {
            let url = self.config().hook[hook].url.shown();
            tracing::warn!(stream = %event.key, client = event.client, hook = url, id = event.id, "too many notifications wait: {} is lost; see [hooks] queue", event.action);
        }
    }

    /// A server was found dead, or alive again.
    pub(super) fn note_resting(&self, hook: usize, resting: bool, fault: Option<&Fault>) {
        self.page().counter(hook, HookCounter::Resting).store(resting.into(), Relaxed);
        let url = self.config().hook[hook].url.shown();
        match fault {
            Some(why) => tracing::warn!(hook = url, %why, "a hook server fails again and again: it is called less often until it answers"),
            None => tracing::info!(hook = url, "a hook server answers again"),
        }
    }
}
