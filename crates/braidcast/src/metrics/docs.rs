//! Writes `docs/metrics.md` from the table of families and the lists of counters, so that they cannot differ.

use super::exposition::Family;
use super::families::{GROUPS, of_front, of_hook, of_tls, of_worker};
use crate::control::counters::{FrontCounter, HookCounter, TlsCounter, WorkerCounter};
use std::fmt::Write;

const INTRODUCTION: &str = "\
# Metrics

<!-- Written by `braidcast metrics-docs` from crates/braidcast/src/metrics/ and crates/braidcast/src/control/counters.rs. Change it there. -->

```sh
braidcast serve --metrics                # http://localhost:9972/metrics
braidcast serve --metrics 10.0.0.5:9972
```

or `listen` in `[metrics]`. It is off unless it is asked for. Any worker answers for the whole instance, from what all processes have written to the shared
directory; nobody is asked, and no stream waits for it. `Accept` decides between Prometheus's text format and OpenMetrics.

For Prometheus and Grafana there are, in [deploy/](../deploy/): an example of a scrape configuration, alert rules, and a dashboard.

Who connects to it on loopback is asked for nothing. Elsewhere `Authorization: Bearer TOKEN` has to be sent if the API asks for one (`[api] read_token` will do, or
`token`, or a user); if it does not, anybody may read, and `braidcast check` says so.

Counters only rise: they go on when a worker or the front dies and another process takes its place. They begin anew with a new shared directory.

## How many series

Monitoring keeps every series that it ever saw. So only `[metrics] stream_labels` streams, the oldest, have series of their own; who has them keeps them. All
others together are `stream=\"other\"`, with empty `vhost` and `app`: rates and states as sums, ages as the longest. `braidcast_streams_unlabelled` says how
many they are. Of them there are no counters, because a sum that streams leave would fall; what all streams have together is in the workers' counters.
";

/// The documentation of all series, as Markdown.
pub fn markdown() -> String {
    let mut out = INTRODUCTION.to_owned();
    for (heading, families) in GROUPS {
        table(&mut out, heading, families);
    }
    let front: Vec<Family> = FrontCounter::ALL.iter().map(|counter| of_front(*counter).0).collect();
    table(&mut out, "What the front has counted", &front);
    let workers: Vec<Family> = WorkerCounter::ALL.iter().map(|counter| of_worker(*counter).0).collect();
    table(&mut out, "What each worker has counted", &workers);
    let hooks: Vec<Family> = HookCounter::ALL.iter().map(|counter| of_hook(*counter).0).collect();
    table(&mut out, "What was counted of each hook", &hooks);
    let tls: Vec<Family> = TlsCounter::ALL.iter().map(|counter| of_tls(*counter).0).collect();
    table(&mut out, "What was counted where TLS ends", &tls);
    out
}

fn table(out: &mut String, heading: &str, families: &[Family]) {
    put(out, format_args!("\n## {heading}\n\n| Name | Kind | Labels | What it says |\n|---|---|---|---|\n"));
    for Family { name, kind, labels, help } in families {
        let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
        put(out, format_args!("| `{name}` | {} | {} | {} |\n", kind.label(), labels.join(", "), help.replace('|', "\\|")));
    }
}

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("writing to a string does not fail");
}
