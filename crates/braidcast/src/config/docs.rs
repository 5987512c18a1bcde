//! Writes `docs/configuration.md` from the table of keys, so that the two cannot differ.

use super::load::{OTHER_PREFIXES, OTHER_VARIABLES, variable_name};
use super::secret::FILE_SUFFIX;
use super::{KeyInfo, TABLES, WORKER, heading, is_table, sections};
use std::fmt::Write;

const INTRODUCTION: &str = "\
# Configuration

<!-- Written by `braidcast config-docs` from crates/braidcast/src/config/keys.rs. Change it there. -->

Braidcast runs without any configuration. What you set is taken, the later before the earlier, from

1. a TOML file: `braidcast serve -c braidcast.toml`,
2. the environment: `BRAIDCAST_HLS_FRAGMENT=2s` sets `fragment` in `[hls]`,
3. flags: `--http 127.0.0.1:8080`, or for any key `--set hls.fragment=2s`.

A key or section that does not exist is refused, with its line and the nearest one that does; so is a value out of range, and a variable that
begins with `BRAIDCAST_` and sets nothing. `braidcast check -c braidcast.toml` says all that is wrong at once, without starting anything.

| What | How it is written |
|---|---|
| duration | a number of seconds (`10`, `2.5`), or text with a unit: `\"500ms\"`, `\"10s\"`, `\"2m\"`, `\"1h\"`, `\"7d\"` |
| size | a number of bytes, or text with a unit: `\"64KiB\"`, `\"16MiB\"` (powers of 1,024), `\"1GB\"` (powers of 1,000) |
| addresses to listen on | `1935` (all addresses, IPv4 and IPv6), `\"127.0.0.1:1935\"`, `\"[::1]:1935\"`, `\"localhost:1935\"`, or a list of these; port 0 takes a free one |

Secrets (passwords, tokens, keys) are never shown, and may each be in a file of their own: `token_file = \"/etc/braidcast/token\"` takes the
place of `token`. They are not taken from flags, which everybody on the machine can read.

In variables and flags nothing is quoted, and lists are separated by commas: `BRAIDCAST_RTMP_LISTEN=127.0.0.1:1935,[::1]:1935`.

```toml
[server]
workers = 4

[rtmp]
listen = 1935

[hls]
fragment = 2
window = \"30s\"

[[worker]]
id = 1
max_publishers = 10
```
";

/// The documentation of all keys, as Markdown.
pub fn markdown() -> String {
    let mut out = INTRODUCTION.to_owned();
    for (section, doc, keys) in sections() {
        let needed = TABLES.iter().find(|(name, _)| *name == section).map_or(&[][..], |(_, needed)| *needed);
        put(
            &mut out,
            format_args!("\n## {}\n\n{}\n\n| Key | Default | Allowed | What it does |\n|---|---|---|---|\n", heading(section), joined(doc)),
        );
        for KeyInfo { name, doc, default, allowed, secret } in keys {
            let default = if needed.contains(&name) { "must be set".into() } else { format!("`{default}`") };
            let or_file = if secret { format!(" `{name}{FILE_SUFFIX}` names a file that holds it.") } else { String::new() };
            put(&mut out, format_args!("| `{name}` | {default} | {allowed} | {}{or_file} |\n", joined(doc).replace('|', "\\|")));
        }
        if section == WORKER {
            put(
                &mut out,
                format_args!(
                    "\nIn a variable or flag, the worker's id takes the place of the heading: `{}=10`, `--set worker.1.max_publishers=10`.\n",
                    variable_name("worker_1", "max_publishers")
                ),
            );
        } else if is_table(section) {
            put(
                &mut out,
                format_args!(
                    "\nIn a variable or flag, its place among the others, from 1, takes the place of the heading: `{}=…`, `--set {section}.1.{}=…`.\n",
                    variable_name(&format!("{section}_1"), needed[0]),
                    needed[0]
                ),
            );
        }
    }
    out.push_str("\n## Other variables\n\n| Variable | What it does |\n|---|---|\n");
    for (name, meaning) in OTHER_VARIABLES {
        put(&mut out, format_args!("| `{name}` | {meaning} |\n"));
    }
    let prefixes: Vec<String> = OTHER_PREFIXES.iter().map(|prefix| format!("`{prefix}`")).collect();
    put(&mut out, format_args!("\nVariables that begin with {} are ignored.\n", prefixes.join(" or ")));
    out
}

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("writing to a string does not fail");
}

/// Doc lines as one paragraph.
fn joined(doc: &str) -> String {
    doc.split_whitespace().collect::<Vec<_>>().join(" ")
}
