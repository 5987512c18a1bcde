//! `bench capacity`: how many viewers one core sustains. Each number that is tried is a fresh server and a fresh audience.

use crate::arguments::{CompareArgs, ShapeArgs};
use crate::compare::{Case, Clients};
use crate::load::LoadReport;
use crate::peers::{Bench, Peer, SERVERS};
use crate::process::Interrupt;
use crate::progress::Progress;
use crate::report;
use crate::viewer::Protocol;
use clap::Args;
use std::fmt::Write;
use std::process::ExitCode;

/// Arguments of `capacity`.
#[derive(Clone, Debug, Args)]
pub struct CapacityArgs {
    /// The number that is tried first.
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    first: u32,
    /// The greatest number that is tried.
    #[arg(long, default_value_t = 17_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    most: u32,
    /// How many numbers are tried at most for each server.
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=30))]
    tries: u32,
    /// The least part of the stream's rate that must be delivered.
    #[arg(long, default_value_t = 0.97)]
    share: f64,
    /// The 99th percentile of the latency must stay below this many milliseconds.
    #[arg(long, default_value_t = 1000.0)]
    latency_ms: f64,
    /// How viewers connect.
    #[arg(long, default_value_t = Protocol::Flv)]
    protocol: Protocol,
    /// How many of the viewers check every frame.
    #[arg(long, default_value_t = 16)]
    verified: u32,
    /// Video kilobits (1000 bits) per second, at 30 frames.
    #[arg(long, default_value_t = 1000)]
    kbps: u64,
    #[command(flatten)]
    compare: CompareArgs,
}

/// A number that was tried.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
struct Try {
    viewers: u32,
    sustained: bool,
    report: Option<LoadReport>,
    error: Option<String>,
}

/// All numbers tried with one server.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
struct Found {
    server: Peer,
    /// The greatest number that was sustained.
    most: u32,
    /// Whether there was no greater number to try.
    at_limit: bool,
    tries: Vec<Try>,
}

/// Runs it. A number that is not sustained is a finding, not a failure.
pub fn run(args: &CapacityArgs) -> anyhow::Result<ExitCode> {
    let interrupt = Interrupt::install()?;
    let shape = ShapeArgs { video_kbps: args.kbps, fps: 30, gop_frames: 60, audio_kbps: 0 }.shape()?;
    let bench = args.compare.bench(shape, false)?;
    let servers = args.compare.available(&bench, SERVERS);
    let (first, most) = if args.compare.quick { (args.first.min(50), args.most.min(100)) } else { (args.first.min(args.most), args.most) };
    let mut found = Vec::new();
    let mut broken = false;
    let mut progress = Progress::new(servers.len() * args.tries as usize);
    for case in Case::all(&servers, &[args.protocol]) {
        let mut search = Search::new(first, most);
        let mut tries = Vec::new();
        while let Some(viewers) = search.next().filter(|_| tries.len() < args.tries as usize) {
            progress.show(&format!("{}: {viewers} viewers", case.server));
            let result = one(args, &bench, case, viewers, &interrupt);
            interrupt.check()?;
            let sustained = result.as_ref().is_ok_and(|report| args.is_sustained(report));
            progress.step(&line(case.server, viewers, sustained, &result));
            search.answer(viewers, sustained);
            let error = result.as_ref().err().map(|error| format!("{error:#}"));
            // The bare loop and this server must not break, however many come.
            broken |= error.is_some() && matches!(case.server, Peer::Bare | Peer::Braidcast);
            tries.push(Try { viewers, sustained, report: result.ok(), error });
        }
        found.push(Found { server: case.server, most: search.sustained, at_limit: search.sustained == most, tries });
    }
    drop(progress);
    let heading = format!(
        "viewers of one stream of {} kbps that one core sustains by {}: {:.0} % of the rate, p99 below {} ms",
        args.kbps,
        args.protocol,
        args.share * 100.0,
        args.latency_ms
    );
    let table = table(&found);
    println!("\n{heading}\n\n{table}");
    let versions: serde_json::Map<_, _> = servers.iter().map(|server| (server.name().to_owned(), bench.version(*server).into())).collect();
    let file = serde_json::json!({
        "bench": "capacity", "what": heading, "command": report::command(), "date": report::today(),
        "machine": report::machine(), "versions": versions, "table": table, "found": found,
    });
    crate::conclude::write("capacity", args.compare.json.as_deref(), &file)?;
    Ok(if broken { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

impl CapacityArgs {
    fn is_sustained(&self, report: &LoadReport) -> bool {
        let all = report.lost == 0 && report.unanswered == 0 && report.faults.total() == 0;
        all && report.delivered_share >= self.share && report.latency_p99_ms.is_some_and(|p99| p99 < self.latency_ms)
    }
}

fn one(args: &CapacityArgs, bench: &Bench, case: Case, viewers: u32, interrupt: &Interrupt) -> anyhow::Result<LoadReport> {
    let clients = Clients::Viewers { viewers: viewers as usize, verified: args.verified.min(viewers) as usize };
    let comparison = args.compare.comparison(bench, vec![case], clients);
    comparison.measure(case, None, interrupt)
}

fn line(server: Peer, viewers: u32, sustained: bool, result: &anyhow::Result<LoadReport>) -> String {
    let verdict = if sustained { "sustained" } else { "NOT sustained" };
    match result {
        Ok(report) => format!("{server}: {viewers} viewers {verdict}: {}", figures(report)),
        Err(error) => format!("{server}: {viewers} viewers {verdict}: {error:#}"),
    }
}

fn figures(report: &LoadReport) -> String {
    let p99 = report.latency_p99_ms.map_or("-".to_owned(), |p99| format!("{p99:.0} ms"));
    let core = report.server_cpu_s.map_or("-".to_owned(), |cpu| format!("{:.0} %", cpu / report.window_s * 100.0));
    let (share, least) = (report.delivered_share * 100.0, report.least_share * 100.0);
    let (lost, missed) = (report.lost + report.unanswered, report.faults.total());
    format!("{share:.1} % of the rate ({least:.1} % to the worst), p99 {p99}, {core} of the core, {missed} missed, {lost} lost")
}

fn table(found: &[Found]) -> String {
    let mut text = String::new();
    for one in found {
        let limit = if one.at_limit { " or more" } else { "" };
        let _ = writeln!(text, "{:<12}{}{limit}", one.server.name(), one.most);
        for tried in &one.tries {
            let verdict = if tried.sustained { "yes" } else { "no" };
            let what = tried.report.as_ref().map(figures).or(tried.error.clone()).unwrap_or_default();
            let _ = writeln!(text, "  {:>7} {verdict:<4}{}", tried.viewers, what.lines().next().unwrap_or_default());
        }
    }
    text
}

/// Looks for the greatest number that is sustained: first by steps, then between the last two answers.
struct Search {
    /// The greatest number that is known to be sustained.
    sustained: u32,
    /// The least number that is known not to be.
    not: Option<u32>,
    first: u32,
    most: u32,
}

impl Search {
    fn new(first: u32, most: u32) -> Self {
        Self { sustained: 0, not: None, first, most }
    }

    /// What to try; `None` when it is known to a tenth.
    fn next(&self) -> Option<u32> {
        let next = match (self.sustained, self.not) {
            (0, None) => self.first,
            (0, Some(not)) => not / 2,
            (sustained, None) => sustained.saturating_mul(2).min(self.most),
            (sustained, Some(not)) if not - sustained > sustained / 10 => sustained + (not - sustained) / 2,
            _ => return None,
        };
        (next > self.sustained && self.not.is_none_or(|not| next < not)).then_some(next)
    }

    fn answer(&mut self, viewers: u32, sustained: bool) {
        if sustained {
            self.sustained = self.sustained.max(viewers);
        } else {
            self.not = Some(self.not.map_or(viewers, |not| not.min(viewers)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(first: u32, most: u32, truth: u32) -> (u32, usize) {
        let (mut search, mut tries) = (Search::new(first, most), 0);
        while let Some(viewers) = search.next() {
            assert!((1..=most).contains(&viewers));
            search.answer(viewers, viewers <= truth);
            tries += 1;
            assert!(tries < 40, "does not end");
        }
        (search.sustained, tries)
    }

    #[test]
    fn the_search_ends_within_a_tenth_of_the_truth() {
        for truth in [1, 2, 30, 333, 1_000, 5_000, 16_999] {
            for first in [1, 100, 2_000, 17_000] {
                let (found, tries) = search(first, 17_000, truth);
                assert!(found <= truth && f64::from(truth - found) <= f64::from(found) * 0.1 + 1.0, "{first}: {found} of {truth}");
                assert!(tries <= 30, "{tries} tries");
            }
        }
    }

    #[test]
    fn a_limit_that_is_sustained_is_found_at_once() {
        assert_eq!(search(17_000, 17_000, 99_999), (17_000, 1));
        assert_eq!(search(100, 17_000, 0).0, 0);
    }
}
