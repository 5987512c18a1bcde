//! What was measured, as a table for people and as JSON for machines.
//!
//! Medians over rounds, and the least and the greatest beside them; a ratio is taken within its round, because absolute
//! figures move from minute to minute and from machine to machine.

use crate::load::LoadReport;
use crate::pace::Pace;
use crate::peers::Peer;
use crate::viewer::Protocol;
use std::fmt::Write;

/// One server, measured once.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Run {
    /// The network it was reached over.
    pub network: String,
    /// From 1.
    pub round: u32,
    /// The server.
    pub server: Peer,
    /// How viewers connected, or publishers if there were no viewers.
    pub protocol: Protocol,
    /// How long the server might gather; `None`: as it does by itself.
    #[serde(default)]
    pub pace: Option<Pace>,
    /// What was measured; none if the run failed.
    pub report: Option<LoadReport>,
    /// Why it failed.
    pub error: Option<String>,
}

impl Run {
    /// One that could not even begin.
    pub fn failed(network: &str, server: Peer, protocol: Protocol, error: &anyhow::Error) -> Self {
        Self { network: network.to_owned(), round: 1, server, protocol, pace: None, report: None, error: Some(format!("{error:#}")) }
    }

    /// Whether frames or whole viewers were missed by a server that must not miss any.
    pub fn has_misses(&self) -> bool {
        let missed = |report: &LoadReport| report.faults.total() > 0 || report.lost > 0 || report.unanswered > 0;
        !matches!(self.server, Peer::NginxRtmp | Peer::NginxStream | Peer::Xiu) && self.report.as_ref().is_some_and(missed)
    }

    /// CPU-seconds of the server per 10^9 bytes that viewers got, or that publishers sent if there were no viewers.
    fn cpu_s_per_gb(&self) -> Option<f64> {
        let report = self.report.as_ref()?;
        let bytes = if report.delivered_bytes > 0 { report.delivered_bytes } else { report.published_bytes };
        Some(report.server_cpu_s? / (bytes as f64 / 1e9)).filter(|ratio| ratio.is_finite())
    }

    fn memory_per_client_kib(&self) -> Option<f64> {
        let report = self.report.as_ref()?;
        let grown = report.memory_after?.pss as f64 - report.memory_before?.pss as f64;
        Some(grown / 1024.0 / report.memory_clients.max(1) as f64)
    }
}

/// What tables call a server at a pace.
pub fn name(server: Peer, pace: Option<Pace>) -> String {
    match pace {
        None => server.name().to_owned(),
        Some(Pace::Millis(millis)) => format!("{server} {millis} ms"),
        Some(pace) => format!("{server} {pace}"),
    }
}

/// Median, least and greatest of some figures.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Spread {
    /// The middle one, or the mean of the middle two.
    pub median: f64,
    /// The least.
    pub least: f64,
    /// The greatest.
    pub greatest: f64,
}

impl Spread {
    /// Of what is there; `None` of nothing.
    pub fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut figures: Vec<f64> = figures.into_iter().collect();
        figures.sort_by(f64::total_cmp);
        let (least, greatest) = (*figures.first()?, *figures.last()?);
        let half = figures.len() / 2;
        let median = if figures.len().is_multiple_of(2) { (figures[half - 1] + figures[half]) / 2.0 } else { figures[half] };
        Some(Self { median, least, greatest })
    }
}

/// One line of the table: all runs of one server over one network with one protocol.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Row {
    /// As in [`Run`].
    pub network: String,
    /// As in [`Run`].
    pub server: Peer,
    /// As in [`Run`].
    pub protocol: Protocol,
    /// As in [`Run`].
    pub pace: Option<Pace>,
    /// Runs that were measured.
    pub runs: usize,
    /// Runs that failed.
    pub failed: usize,
    /// CPU-seconds per 10^9 bytes.
    pub cpu_s_per_gb: Option<Spread>,
    /// The same over the bare loop's in the same round: of the same pace if there is one, else of the one that waits least.
    pub ratio_to_bare: Option<Spread>,
    /// The same over that of the bare loop that waits longest, if there are several.
    pub ratio_to_patient_bare: Option<Spread>,
    /// Median latency in milliseconds.
    pub latency_p50_ms: Option<Spread>,
    /// 99th percentile of the latency in milliseconds.
    pub latency_p99_ms: Option<Spread>,
    /// KiB of proportional memory per viewer, or per publisher if there were no viewers.
    pub memory_per_client_kib: Option<Spread>,
    /// Delivered bytes over what was asked for.
    pub delivered_share: Option<Spread>,
    /// The server's part of its core.
    pub server_load: Option<Spread>,
    /// The generator's part of its core: near 1, it is the generator that was measured.
    pub generator_load: Option<Spread>,
    /// Cores that were busy with something else.
    pub foreign_cores: Option<Spread>,
    /// Frames that verified viewers missed, got twice, late or broken, in all runs.
    pub faults: u64,
    /// Viewers that got nothing, or not to the end, in all runs.
    pub lost: u64,
}

/// The rows of some runs, in the order in which their first runs came.
pub fn rows(runs: &[Run]) -> Vec<Row> {
    let mut keys = Vec::new();
    for run in runs {
        let key = (run.network.as_str(), run.server, run.protocol, run.pace);
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    keys.sort_by_key(|&(network, server, protocol, pace)| {
        (runs.iter().position(|run| run.network == network), pace.map(Pace::bare_ms), server, protocol, pace)
    });
    keys.iter()
        .map(|key| {
            row(&runs.iter().filter(|run| (run.network.as_str(), run.server, run.protocol, run.pace) == *key).collect::<Vec<_>>(), runs)
        })
        .collect()
}

/// Which bare loop a figure is held against.
#[derive(Clone, Copy)]
enum Against {
    SamePace,
    MostPatient,
}

/// A run's CPU per byte over that of a bare loop in its round.
fn over_bare(run: &Run, all: &[Run], against: Against) -> Option<f64> {
    let mut bare: Vec<&Run> =
        all.iter().filter(|other| other.server == Peer::Bare && (&other.network, other.round) == (&run.network, run.round)).collect();
    let millis = |run: &Run| run.pace.map_or(0, Pace::bare_ms);
    bare.sort_by_key(|other| millis(other));
    let other = match against {
        Against::SamePace => bare.iter().find(|other| millis(other) == millis(run)).or(bare.first()),
        Against::MostPatient => bare.last().filter(|_| bare.len() > 1),
    };
    Some(run.cpu_s_per_gb()? / other?.cpu_s_per_gb()?)
}

fn row(runs: &[&Run], all: &[Run]) -> Row {
    let first = runs[0];
    let reports = || runs.iter().filter_map(|run| run.report.as_ref());
    let ratio = |against| Spread::of(runs.iter().filter_map(|run| over_bare(run, all, against)));
    Row {
        network: first.network.clone(),
        server: first.server,
        protocol: first.protocol,
        pace: first.pace,
        runs: reports().count(),
        failed: runs.iter().filter(|run| run.error.is_some()).count(),
        cpu_s_per_gb: Spread::of(runs.iter().filter_map(|run| run.cpu_s_per_gb())),
        ratio_to_bare: ratio(Against::SamePace),
        ratio_to_patient_bare: ratio(Against::MostPatient),
        latency_p50_ms: Spread::of(reports().filter_map(|report| report.latency_p50_ms)),
        latency_p99_ms: Spread::of(reports().filter_map(|report| report.latency_p99_ms)),
        memory_per_client_kib: Spread::of(runs.iter().filter_map(|run| run.memory_per_client_kib())),
        delivered_share: Spread::of(reports().filter(|report| report.delivered_bytes > 0).map(|report| report.delivered_share)),
        server_load: Spread::of(reports().filter_map(|report| Some(report.server_cpu_s? / report.window_s))),
        generator_load: Spread::of(reports().map(|report| report.load_cpu_s / report.window_s)),
        foreign_cores: Spread::of(reports().map(|report| report.foreign_cores)),
        faults: reports().map(|report| report.faults.total()).sum(),
        lost: reports().map(|report| report.lost + report.unanswered).sum(),
    }
}

const HEADINGS: [&str; 13] = [
    "network",
    "server",
    "by",
    "CPU-s/GB (least-most)",
    "x bare (least-most)",
    "x patient bare",
    "p50 ms",
    "p99 ms",
    "KiB/client",
    "delivered",
    "core used",
    "missed",
    "lost",
];

/// The table, lines ended by newlines.
pub fn table(rows: &[Row]) -> String {
    let mut lines = vec![HEADINGS.map(str::to_owned)];
    lines.extend(rows.iter().map(cells));
    let widths: Vec<usize> = (0..HEADINGS.len()).map(|column| lines.iter().map(|line| line[column].len()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for line in &lines {
        for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
            let _ = if column < 3 { write!(text, "{cell:<width$}  ") } else { write!(text, "{cell:>width$}  ") };
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

fn cells(row: &Row) -> [String; 13] {
    let figure = |spread: Option<Spread>, decimals: usize| spread.map_or("-".to_owned(), |spread| format!("{:.decimals$}", spread.median));
    let range = |spread: Option<Spread>| {
        spread.map_or("-".to_owned(), |spread| format!("{:.2} ({:.2}-{:.2})", spread.median, spread.least, spread.greatest))
    };
    let percent = |spread: Option<Spread>| spread.map_or("-".to_owned(), |spread| format!("{:.1} %", spread.median * 100.0));
    [
        row.network.clone(),
        name(row.server, row.pace),
        row.protocol.to_string(),
        range(row.cpu_s_per_gb),
        range(row.ratio_to_bare),
        figure(row.ratio_to_patient_bare, 2),
        figure(row.latency_p50_ms, 1),
        figure(row.latency_p99_ms, 1),
        figure(row.memory_per_client_kib, 1),
        percent(row.delivered_share),
        percent(row.server_load),
        row.faults.to_string(),
        if row.failed > 0 { format!("{} ({} runs failed)", row.lost, row.failed) } else { row.lost.to_string() },
    ]
}

/// The words that this program was started with, without its path.
pub fn command() -> String {
    let words: Vec<String> = std::env::args().skip(1).collect();
    format!("braidcast {}", words.join(" "))
}

/// The date in UTC, as ISO 8601 has it.
pub fn today() -> String {
    let seconds = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    date_of(seconds / 86_400)
}

/// Of a number of days since 1 January 1970: years begin in March here, so that a leap day comes last.
fn date_of(days: u64) -> String {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, year) = if month < 10 { (month + 3, era * 400 + year_of_era) } else { (month - 9, era * 400 + year_of_era + 1) };
    format!("{year:04}-{month:02}-{day:02}")
}

/// What the figures were taken on.
pub fn machine() -> serde_json::Value {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu_info = read("/proc/cpuinfo");
    let model = cpu_info.lines().find_map(|line| line.strip_prefix("model name")).map(|rest| rest.trim_start_matches([' ', '\t', ':']));
    serde_json::json!({
        "cpu": model.unwrap_or("unknown"),
        "cores": cpu_info.lines().filter(|line| line.starts_with("processor")).count(),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn run(server: Peer, round: u32, cpu: f64) -> Run {
        let report = LoadReport { window_s: 10.0, delivered_bytes: 2_000_000_000, server_cpu_s: Some(cpu), ..LoadReport::default() };
        Run { network: "loopback".into(), round, server, protocol: Protocol::Flv, pace: None, report: Some(report), error: None }
    }

    #[test]
    fn medians_of_odd_and_even_counts() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Some(Spread { median: 2.0, least: 1.0, greatest: 3.0 }));
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 3.0]).unwrap().median, 2.5);
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn a_ratio_is_taken_within_its_round() {
        let runs = [run(Peer::Bare, 1, 1.0), run(Peer::Braidcast, 1, 2.0), run(Peer::Bare, 2, 2.0), run(Peer::Braidcast, 2, 4.0)];
        let rows = rows(&runs);
        assert_eq!(rows[1].server, Peer::Braidcast);
        assert_eq!(rows[1].ratio_to_bare, Some(Spread { median: 2.0, least: 2.0, greatest: 2.0 }));
        assert_eq!(rows[0].cpu_s_per_gb.unwrap().median, 0.75);
    }

    #[test]
    fn a_pace_is_held_against_the_bare_loop_of_the_same_pace() {
        let at = |server, cpu, pace| Run { pace, ..run(server, 1, cpu) };
        let patient = Some(Pace::Millis(350));
        let runs = [
            at(Peer::Bare, 1.0, Some(Pace::Low)),
            at(Peer::Bare, 0.5, patient),
            at(Peer::Braidcast, 2.0, patient),
            at(Peer::NginxRtmp, 3.0, None),
        ];
        assert_eq!(over_bare(&runs[2], &runs, Against::SamePace), Some(4.0));
        assert_eq!(over_bare(&runs[3], &runs, Against::SamePace), Some(3.0), "who has no pace is held against the least patient");
        assert_eq!(over_bare(&runs[3], &runs, Against::MostPatient), Some(6.0));
    }

    #[test]
    fn days_have_dates() {
        let dates = [(0, "1970-01-01"), (11_016, "2000-02-29"), (11_017, "2000-03-01"), (20_783, "2026-11-26"), (19_722, "2023-12-31")];
        for (days, date) in dates {
            assert_eq!(date_of(days), date);
        }
    }

    #[test]
    fn the_table_has_a_line_for_each_row_and_names_failures() {
        let mut failed = run(Peer::Braidcast, 1, 2.0);
        (failed.report, failed.error) = (None, Some("it did not start".into()));
        let text = table(&rows(&[run(Peer::Bare, 1, 1.0), failed]));
        assert_eq!(text.lines().count(), 3);
        assert!(text.lines().nth(2).unwrap().contains("(1 runs failed)"), "{text}");
    }

    #[test]
    fn only_servers_that_must_not_miss_a_frame_are_blamed() {
        let mut run = run(Peer::NginxRtmp, 1, 1.0);
        run.report.as_mut().unwrap().faults.missed = 3;
        assert!(!run.has_misses());
        run.server = Peer::Braidcast;
        assert!(run.has_misses());
    }
}
