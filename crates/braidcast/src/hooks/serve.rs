//! The attendant that calls hooks: what the front says, and who of those that there are asks and tells.

use super::ask::Verdict;
use super::call::Caller;
use super::event::Names;
use super::process::Hooks;
use super::source::hook_event;
use super::tell::Until;
use crate::api::ids;
use crate::attendant::{Attendant, RoleLock, Said};
use crate::config::Config;
use crate::control::attendants::{Decision, DecisionId};
use crate::control::pages::FrontPage;
use crate::events;
use anyhow::Context;
use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How many answers are remembered for a front that asks again what the one before has asked.
const REMEMBERED: usize = 4_096;
/// How long questions that are under way are waited for at the end.
const LAST_ANSWERS: Duration = Duration::from_secs(30);

/// The configuration that is in force, and who tells by it.
struct Generation {
    hooks: Arc<Hooks>,
    until: watch::Sender<Until>,
    telling: JoinHandle<Option<RoleLock>>,
}

/// What was asked already; `None`: the answer is still to come.
#[derive(Default)]
struct Answers {
    known: HashMap<DecisionId, Option<Decision>>,
    order: VecDeque<DecisionId>,
}

/// Calls hooks until the front wants no more of it.
pub async fn serve(mut attendant: Attendant) -> anyhow::Result<()> {
    let (caller, trouble) = Caller::new();
    if let Some(trouble) = trouble {
        tracing::warn!(trouble, "not all of the system's certificates can be read: https:// hook servers may not be trusted");
    }
    let caller = Arc::new(caller);
    let answers = Arc::new(Mutex::new(Answers::default()));
    let mut generation: Option<Generation> = None;
    let last = loop {
        match attendant.next().await {
            Said::Welcome { config, .. } => match &generation {
                Some(same) if !differ(same.hooks.config(), &config) => same.hooks.rename(names(&config, attendant.shared_dir())),
                _ => generation = Some(begin(&attendant, *config, &caller, generation.take())?),
            },
            Said::Decide { id, event } => {
                let Some(Generation { hooks, .. }) = &generation else { continue };
                answer(&attendant, id, event, Arc::clone(hooks), &answers);
            }
            Said::Certificates(_) => tracing::error!("certificates are not for this attendant"),
            Said::Retire => break Until::Now,
            Said::End => break Until::AllIsTold,
        }
    };
    if let Some(Generation { until, telling, .. }) = generation {
        let _ = until.send(last);
        // The lock goes with it: the next process tells from here on.
        drop(telling.await);
    }
    let _ = tokio::time::timeout(LAST_ANSWERS, async {
        while Arc::strong_count(&answers) > 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    // What was said last is on its way to the front.
    tokio::time::sleep(Duration::from_millis(10)).await;
    Ok(())
}

/// Whether hooks are called otherwise from now on.
fn differ(one: &Config, other: &Config) -> bool {
    (&one.hook, &one.hooks) != (&other.hook, &other.hooks)
}

/// Asks by another configuration at once; tells by it as soon as nobody tells by the one before.
fn begin(attendant: &Attendant, config: Config, caller: &Arc<Caller>, before: Option<Generation>) -> anyhow::Result<Generation> {
    let shared_dir = attendant.shared_dir();
    let names = names(&config, shared_dir);
    let hooks = Arc::new(Hooks::open(config, names, Arc::clone(caller), shared_dir).context("the hooks' counters")?);
    let (until, mut wanted) = watch::channel(Until::Further);
    let (role_lock, telling_hooks) = (attendant.lock(), Arc::clone(&hooks));
    let telling = tokio::spawn(async move {
        let lock = match before {
            Some(before) => {
                let _ = before.until.send(Until::Now);
                before.telling.await.ok().flatten()
            }
            None => None,
        };
        let lock = match lock {
            Some(lock) => lock,
            None => tokio::select! {
                lock = role_lock => match lock {
                    Ok(lock) => lock,
                    Err(error) => {
                        tracing::error!(%error, "cannot lock the role of hooks: nothing is told");
                        return None;
                    }
                },
                _ = wanted.wait_for(|until| *until != Until::Further) => return None,
            },
        };
        telling_hooks.tell(wanted).await;
        Some(lock)
    });
    Ok(Generation { hooks, until, telling })
}

/// As the API of the front that serves now has them.
fn names(config: &Config, shared_dir: &Path) -> Names {
    let started_wall_ms = FrontPage::open(shared_dir).map_or(0, |page| page.started_wall_ms());
    Names { server: ids::server_id(shared_dir, &config.hooks.server_id), service: ids::service_id(shared_dir, started_wall_ms) }
}

/// Finds an answer, and gives it to whatever front there is by then. What was asked before is not asked again.
fn answer(attendant: &Attendant, id: DecisionId, event: String, hooks: Arc<Hooks>, answers: &Arc<Mutex<Answers>>) {
    let outbox = attendant.outbox().clone();
    let known = answers.lock().unwrap_or_else(PoisonError::into_inner).ask(id);
    let answers = Arc::clone(answers);
    match known {
        Some(None) => {}
        Some(Some(decision)) => _ = tokio::spawn(async move { outbox.decided(decision).await }),
        None => {
            tokio::spawn(async move {
                let Verdict { allow, forward, why } = decide(&hooks, id, &event).await;
                let decision = Decision { id, allow, forward, message: why };
                answers.lock().unwrap_or_else(PoisonError::into_inner).note(decision.clone());
                outbox.decided(decision).await;
                drop(answers);
            });
        }
    }
}

async fn decide(hooks: &Hooks, id: DecisionId, event: &str) -> Verdict {
    let parsed = serde_json::from_str::<events::Event>(event).map_err(|error| error.to_string());
    let wanted = parsed.and_then(|event| hook_event(&event, id.action, id.to_string()).ok_or("it names no stream".to_owned()));
    match wanted {
        Ok(event) => hooks.decide(&event).await,
        Err(error) => {
            tracing::error!(%id, error, "a question of the front makes no sense: refused");
            Verdict { allow: false, forward: Vec::new(), why: "the question made no sense".into() }
        }
    }
}

impl Answers {
    /// What is known of a question; `None`: nothing, and from now on it is under way.
    fn ask(&mut self, id: DecisionId) -> Option<Option<Decision>> {
        if let Some(known) = self.known.get(&id) {
            return Some(known.clone());
        }
        self.known.insert(id, None);
        None
    }

    fn note(&mut self, decision: Decision) {
        self.order.push_back(decision.id);
        self.known.insert(decision.id, Some(decision));
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::ConnId;
    use crate::hooks::Action;

    #[test]
    fn what_was_asked_is_not_asked_again_and_old_answers_are_forgotten() {
        let mut answers = Answers::default();
        let id = |asked| DecisionId { conn: ConnId(7), asked, action: Action::Play };
        let decision = |asked| Decision { id: id(asked), allow: true, forward: Vec::new(), message: String::new() };
        assert_eq!((answers.ask(id(0)), answers.ask(id(0))), (None, Some(None)));
        answers.note(decision(0));
        assert_eq!(answers.ask(id(0)), Some(Some(decision(0))));
        for asked in 1..=u32::try_from(REMEMBERED).expect("it is small") {
            assert_eq!(answers.ask(id(asked)), None);
            answers.note(decision(asked));
        }
        assert_eq!((answers.ask(id(0)), answers.known.len()), (None, REMEMBERED + 1));
    }
}
