//! How the hook servers get on, from the page of the process that calls them.

use super::table::Align::{Left, Right};
use super::table::columns;
use super::text::printable;
use crate::control::counters::HookCounter;
use crate::hooks::page::{HooksPage, Row};
use serde::Serialize;
use serde_json::{Map, Value};
use std::path::Path;
use utoipa::ToSchema;

/// A hook server.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Hook {
    /// Its URL without secrets, the streams that it is for, its events.
    pub hook: String,
    /// It is left alone for a while, because it failed too often.
    pub resting: bool,
    /// How long a call took on average, milliseconds.
    pub latency_ms: u64,
    /// Its counters by name.
    #[schema(value_type = HashMap<String, u64>)]
    pub counters: Map<String, Value>,
}

/// Those of an instance; none if no hooks are configured, or none was ever called.
pub(super) fn read(shared_dir: &Path) -> Vec<Hook> {
    HooksPage::open(shared_dir).map_or_else(|_| Vec::new(), |page| page.rows().into_iter().map(hook).collect())
}

fn hook(Row { description, counters }: Row) -> Hook {
    let count = |counter: HookCounter| counters[counter as usize];
    Hook {
        hook: description,
        resting: count(HookCounter::Resting) != 0,
        latency_ms: count(HookCounter::LatencyMicros).checked_div(count(HookCounter::Calls)).unwrap_or(0) / 1_000,
        counters: HookCounter::ALL.iter().map(|known| (known.label().to_owned(), count(*known).into())).collect(),
    }
}

/// A table for people.
pub(super) fn text(hooks: &[Hook]) -> String {
    let row = |hook: &Hook| {
        let count = |counter: HookCounter| hook.counters.get(counter.label()).and_then(Value::as_u64).unwrap_or(0);
        vec![
            printable(&hook.hook),
            if hook.resting { "resting" } else { "called" }.to_owned(),
            count(HookCounter::Calls).to_string(),
            format!("{} ms", hook.latency_ms),
            count(HookCounter::Failures).to_string(),
            count(HookCounter::Refused).to_string(),
            count(HookCounter::RefusedOnError).to_string(),
            count(HookCounter::AllowedOnError).to_string(),
            count(HookCounter::Waiting).to_string(),
            (count(HookCounter::GivenUp) + count(HookCounter::Dropped)).to_string(),
        ]
    };
    let headings = [
        ("HOOK", Left),
        ("STATE", Left),
        ("CALLS", Right),
        ("TAKE", Right),
        ("FAILED", Right),
        ("REFUSED", Right),
        ("REFUSED ON ERROR", Right),
        ("ALLOWED ON ERROR", Right),
        ("WAITING", Right),
        ("LOST", Right),
    ];
    columns(&headings, &hooks.iter().map(row).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hook_is_shown_with_what_it_takes() {
        let mut counters = vec![0; HookCounter::ALL.len()];
        (counters[HookCounter::Calls as usize], counters[HookCounter::LatencyMicros as usize]) = (4, 50_000);
        (counters[HookCounter::GivenUp as usize], counters[HookCounter::Dropped as usize]) = (1, 2);
        let hook = hook(Row { description: "http://h/?*** live/* on_stop".into(), counters });
        let text = text(&[hook]);
        let words: Vec<&str> = text.lines().last().unwrap_or_default().split_whitespace().collect();
        assert_eq!(words, ["http://h/?***", "live/*", "on_stop", "called", "4", "12", "ms", "0", "0", "0", "0", "0", "3"]);
    }
}
