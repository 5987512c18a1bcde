//! `bench diff`: two files of the same comparison, row by row.
//!
//! It says what changed by more than the rounds of each run differ among themselves; it judges nothing.

use crate::report::{Row, Spread, name};
use anyhow::Context;
use clap::Args;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Arguments of `diff`.
#[derive(Clone, Debug, Args)]
pub struct DiffArgs {
    /// The figures before.
    before: PathBuf,
    /// The figures after.
    after: PathBuf,
}

/// What is needed of a comparison's file.
#[derive(serde::Deserialize)]
struct Figures {
    what: String,
    #[serde(default)]
    date: String,
    rows: Vec<Row>,
}

/// Runs it.
pub fn run(args: &DiffArgs) -> anyhow::Result<ExitCode> {
    let (before, after) = (read(&args.before)?, read(&args.after)?);
    if before.what != after.what {
        println!("these are not the same comparison:\n  {}\n  {}", before.what, after.what);
    }
    println!("before: {} {}\nafter:  {} {}\n", args.before.display(), before.date, args.after.display(), after.date);
    print!("{}", table(&before.rows, &after.rows));
    println!("\n*: no round of one is within the rounds of the other");
    Ok(ExitCode::SUCCESS)
}

fn read(path: &Path) -> anyhow::Result<Figures> {
    let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} holds no figures of a comparison", path.display()))
}

type Figure = fn(&Row) -> Option<Spread>;

const FIGURES: [(&str, Figure); 5] = [
    ("CPU-s/GB", |row| row.cpu_s_per_gb),
    ("x bare", |row| row.ratio_to_bare),
    ("p99 ms", |row| row.latency_p99_ms),
    ("KiB/client", |row| row.memory_per_client_kib),
    ("delivered", |row| row.delivered_share),
];

fn table(before: &[Row], after: &[Row]) -> String {
    let key = |row: &Row| (row.network.clone(), row.server, row.protocol, row.pace);
    let mut text = String::new();
    for row in after {
        let _ = writeln!(text, "{}, {} by {}", row.network, name(row.server, row.pace), row.protocol);
        let Some(old) = before.iter().find(|old| key(old) == key(row)) else {
            text.push_str("  not in the first file\n");
            continue;
        };
        for (title, figure) in FIGURES {
            if let (Some(old), Some(new)) = (figure(old), figure(row)) {
                let _ = writeln!(text, "  {title:<11}{}", change(old, new));
            }
        }
        if (old.faults, old.lost) != (row.faults, row.lost) {
            let _ = writeln!(text, "  missed {} -> {}, lost {} -> {}", old.faults, row.faults, old.lost, row.lost);
        }
    }
    for old in before.iter().filter(|old| after.iter().all(|row| key(row) != key(old))) {
        let _ = writeln!(text, "{}, {} by {}\n  not in the second file", old.network, name(old.server, old.pace), old.protocol);
    }
    text
}

fn change(old: Spread, new: Spread) -> String {
    let percent = (new.median / old.median - 1.0) * 100.0;
    let percent = if percent.is_finite() { format!("{percent:+.1} %") } else { "-".to_owned() };
    let apart = if new.least > old.greatest || new.greatest < old.least { " *" } else { "" };
    format!("{:>9.2} -> {:>9.2}  {percent:>9}{apart}", old.median, new.median)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::LoadReport;
    use crate::peers::Peer;
    use crate::report::{Run, rows};
    use crate::viewer::Protocol;

    fn rows_of(server: Peer, cpu: [f64; 2]) -> Vec<Row> {
        let run = |(round, cpu): (usize, f64)| {
            let report = LoadReport { window_s: 1.0, delivered_bytes: 1_000_000_000, server_cpu_s: Some(cpu), ..LoadReport::default() };
            let (network, round) = ("loopback".to_owned(), round as u32 + 1);
            Run { network, round, server, protocol: Protocol::Flv, pace: None, report: Some(report), error: None }
        };
        rows(&cpu.into_iter().enumerate().map(run).collect::<Vec<_>>())
    }

    #[test]
    fn only_what_the_rounds_do_not_explain_is_marked() {
        let before = rows_of(Peer::Braidcast, [1.0, 1.2]);
        let same = table(&before, &rows_of(Peer::Braidcast, [1.1, 1.3]));
        assert!(same.contains("+9.1 %") && !same.contains('*'), "{same}");
        let worse = table(&before, &rows_of(Peer::Braidcast, [2.0, 2.4]));
        assert!(worse.contains("+100.0 % *"), "{worse}");
    }

    #[test]
    fn rows_of_one_file_only_are_named() {
        let text = table(&rows_of(Peer::Bare, [1.0, 1.0]), &rows_of(Peer::NginxRtmp, [1.0, 1.0]));
        assert!(text.contains("nginx-rtmp by flv\n  not in the first") && text.contains("bare by flv\n  not in the second"), "{text}");
    }
}
