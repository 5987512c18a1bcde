//! The figures that this project holds itself to, and what a set of files says of them.
//!
//! A figure that is not reached is told as such; it fails nothing.

use crate::pace::Pace;
use crate::peers::Peer;
use crate::report::{Row, Spread};
use crate::viewer::Protocol;
use serde_json::Value;
use std::collections::BTreeMap;

/// Files of a comparison by the name they were written under, without directory and extension.
pub type Files = BTreeMap<String, Value>;

/// One figure to reach.
pub struct Verdict {
    /// What is measured.
    pub what: String,
    /// Where: a network, or nothing.
    pub network: String,
    /// What is to be reached.
    pub goal: String,
    /// What was measured.
    pub measured: String,
    /// Whether that is enough.
    pub reached: bool,
}

/// Every figure that the files tell of.
pub fn verdicts(files: &Files) -> Vec<Verdict> {
    let mut all = Vec::new();
    let low = "FLV viewers, every frame flushed: CPU over the bare loop's";
    all.extend(ratios(files, "fanout", low, Protocol::Flv, 1.10));
    all.extend(ratios(files, "fanout", "the same by RTMP", Protocol::Rtmp, 1.15));
    all.extend(ratios(files, "batches", "the same in batches of 350 ms, FLV", Protocol::Flv, 1.15));
    all.extend(ratios(files, "batches", "the same in batches of 350 ms, RTMP", Protocol::Rtmp, 1.15));
    all.extend(latencies(files));
    all.extend(memories(files));
    all.extend(capacity(files));
    all.extend(ingest(files, "ingest", "ingest: CPU over that of a bare loop that rests 5 ms between its reads"));
    all.extend(ingest(files, "ingest-patient", "the same, over one that rests 200 ms, as Braidcast does where nobody watches"));
    all.extend(segments(files));
    all.extend(delivery(files));
    all.extend(first_frame(files, "churn", "time to the first frame, p99, 20,000 connections a minute"));
    all.extend(first_frame(files, "viral", "the same, 5,000 viewers of one stream within 2 s"));
    all.extend(others(files));
    all.extend(scale(files));
    all
}

fn rows(files: &Files, name: &str) -> Vec<Row> {
    files.get(name).and_then(|file| serde_json::from_value(file.get("rows")?.clone()).ok()).unwrap_or_default()
}

fn of_braidcast(rows: &[Row], protocol: Protocol) -> impl Iterator<Item = &Row> {
    rows.iter().filter(move |row| row.server == Peer::Braidcast && row.protocol == protocol)
}

fn at_most(what: &str, network: &str, limit: f64, unit: &str, figure: Spread) -> Verdict {
    Verdict {
        what: what.to_owned(),
        network: network.to_owned(),
        goal: format!("at most {limit:.2}{unit}"),
        measured: format!("{:.2}{unit} ({:.2}-{:.2})", figure.median, figure.least, figure.greatest),
        reached: figure.median <= limit,
    }
}

fn ratios(files: &Files, file: &str, what: &str, protocol: Protocol, limit: f64) -> Vec<Verdict> {
    let rows = rows(files, file);
    let verdict = |row: &Row| Some(at_most(what, &row.network, limit, "", row.ratio_to_bare?));
    of_braidcast(&rows, protocol).filter_map(verdict).collect()
}

/// Over that of the bare loop at the same pace.
fn latencies(files: &Files) -> Vec<Verdict> {
    let rows = rows(files, "fanout");
    let mut all = Vec::new();
    for (protocol, what) in
        [(Protocol::Flv, "p99 latency at every-frame flush, FLV, over the bare loop's"), (Protocol::Rtmp, "the same by RTMP")]
    {
        for row in of_braidcast(&rows, protocol) {
            let millis = |row: &Row| row.pace.map_or(0, Pace::bare_ms);
            let same = |other: &&Row| other.server == Peer::Bare && other.network == row.network && millis(other) == millis(row);
            let bare = rows.iter().find(same).and_then(|row| row.latency_p99_ms);
            if let (Some(own), Some(bare)) = (row.latency_p99_ms, bare) {
                let over =
                    Spread { median: own.median / bare.median, least: own.least / bare.median, greatest: own.greatest / bare.median };
                all.push(at_most(what, &row.network, 1.25, "", over));
            }
        }
    }
    all
}

fn memories(files: &Files) -> Vec<Verdict> {
    let rows = rows(files, "fanout");
    let mut all = Vec::new();
    for (protocol, what) in [(Protocol::Flv, "memory per FLV viewer (PSS, all processes)"), (Protocol::Rtmp, "memory per RTMP viewer")] {
        let verdict = |row: &Row| Some(at_most(what, &row.network, 1.0, " KiB", row.memory_per_client_kib?));
        all.extend(of_braidcast(&rows, protocol).take(1).filter_map(verdict));
    }
    all
}

fn capacity(files: &Files) -> Option<Verdict> {
    let found = files.get("capacity")?.get("found")?.as_array()?;
    let own = found.iter().find(|one| one.get("server").and_then(Value::as_str) == Some("braidcast"))?;
    let most = own.get("most")?.as_u64()?;
    let limit = if own.get("at_limit").and_then(Value::as_bool) == Some(true) { " or more" } else { "" };
    Some(Verdict {
        what: "FLV viewers that one core sustains at 1 Mbps".to_owned(),
        network: "loopback".to_owned(),
        goal: "at least 17000".to_owned(),
        measured: format!("{most}{limit}"),
        reached: most >= 17_000,
    })
}

fn ingest(files: &Files, name: &str, what: &str) -> Option<Verdict> {
    let rows = rows(files, name);
    let row = of_braidcast(&rows, Protocol::Rtmp).next()?;
    Some(at_most(what, "loopback", 1.3, "", row.ratio_to_patient_bare?))
}

/// At most 5 CPU-seconds, or half of nginx-rtmp's.
fn segments(files: &Files) -> Option<Verdict> {
    let rows = rows(files, "ingest-hls");
    let own = of_braidcast(&rows, Protocol::Rtmp).next()?.cpu_s_per_gb?;
    let nginx = rows.iter().find(|row| row.server == Peer::NginxRtmp).and_then(|row| row.cpu_s_per_gb);
    let limit = nginx.map_or(5.0, |nginx| (nginx.median / 2.0).max(5.0));
    let mut verdict = at_most("ingest with HLS: CPU-s/GB", "loopback", limit, "", own);
    verdict.goal = "at most 5.0, or half of nginx-rtmp".to_owned();
    if let Some(nginx) = nginx {
        verdict.measured = format!("{}; nginx-rtmp {:.2}", verdict.measured, nginx.median);
    }
    Some(verdict)
}

fn delivery(files: &Files) -> Option<Verdict> {
    let ratio: Spread = serde_json::from_value(files.get("hls")?.get("ratio_to_nginx")?.clone()).ok()?;
    Some(at_most("HLS viewers: CPU over nginx's, same files", "loopback", 1.0, "", ratio))
}

/// Of all who came, however they did.
fn first_frame(files: &Files, name: &str, what: &str) -> Option<Verdict> {
    let waits = files.get(name)?.get("found")?.get("waits")?.as_array()?;
    let all = waits.iter().find(|waits| waits.get("way").is_some_and(Value::is_null))?;
    let (p50_ms, p99_ms, most_ms) = (all.get("p50_ms")?.as_f64()?, all.get("p99_ms")?.as_f64()?, all.get("most_ms")?.as_f64()?);
    Some(Verdict {
        what: what.to_owned(),
        network: "loopback".to_owned(),
        goal: "under 50 ms".to_owned(),
        measured: format!("{p99_ms:.1} ms (median {p50_ms:.1}, longest {most_ms:.1})"),
        reached: p99_ms < 50.0,
    })
}

/// Milliseconds by which a crowd may lengthen the p99 of those who watch something else.
const DISTURBED_MS: f64 = 10.0;

fn others(files: &Files) -> Option<Verdict> {
    let found = files.get("viral")?.get("found")?;
    let p99_ms = |when: &str| found.get(when)?.get("p99_ms")?.as_f64();
    let (before, coming, after) = (p99_ms("others_before")?, p99_ms("others_while_they_come")?, p99_ms("others_afterwards")?);
    Some(Verdict {
        what: "p99 latency of viewers of other streams, while the 5,000 come and afterwards".to_owned(),
        network: "loopback".to_owned(),
        goal: format!("at most {DISTURBED_MS:.0} ms more than before"),
        measured: format!("{coming:.1} ms, {after:.1} ms; before {before:.1} ms"),
        reached: coming.max(after) <= before + DISTURBED_MS,
    })
}

/// What more workers may cost for each gigabyte, and what they may do to each other, over that with the fewest: the same, as far as short windows tell.
const FLAT: f64 = 1.25;

/// CPU for each gigabyte with the most workers over that with one, and what workers do to each other over that with two: one alone has nobody to wake.
fn scale(files: &Files) -> Vec<Verdict> {
    let rows: Vec<&Value> = files.get("scale").and_then(|file| file.get("rows")?.as_array()).into_iter().flatten().collect();
    let mut all = Vec::new();
    for (case, what) in [("hot", "one stream watched at all workers"), ("many", "3,000 streams of 100 kbps, a viewer each")] {
        let of = |row: &Value, figure: &str| Some((row.get("workers")?.as_u64()?, row.get(figure)?.get("median")?.as_f64()?));
        let figures = |figure: &str| -> Vec<(u64, f64)> {
            let case = rows.iter().copied().filter(|row| row.get("case").and_then(Value::as_str) == Some(case));
            case.filter_map(|row| of(row, figure)).collect()
        };
        let verdict = |figures: &[(u64, f64)], what: String, unit: &str, decimals: usize| {
            let ((_, few), rest) = figures.split_first()?;
            let most = rest.iter().map(|(_, figure)| *figure).fold(*few, f64::max);
            let told: Vec<String> = figures.iter().map(|(workers, figure)| format!("{workers}: {figure:.decimals$}")).collect();
            Some(Verdict {
                what,
                network: "loopback".to_owned(),
                goal: format!("at most {FLAT:.2} x that of the fewest workers"),
                measured: format!("{} {unit}", told.join(", ")),
                reached: most <= few * FLAT,
            })
        };
        all.extend(verdict(&figures("cpu_s_per_gb"), format!("{what}: CPU by workers"), "CPU-s/GB", 2));
        let sum = |(workers, rings): &(u64, f64), writes: &[(u64, f64)]| {
            Some((*workers, rings + writes.iter().find(|(of, _)| of == workers)?.1)).filter(|(workers, _)| *workers > 1)
        };
        let writes = figures("shared_writes_per_gb");
        let told: Vec<(u64, f64)> = figures("rings_per_gb").iter().filter_map(|rings| sum(rings, &writes)).collect();
        all.extend(verdict(&told, "the same: wake-ups of other workers, and writes that they see".to_owned(), "per GB", 0));
    }
    all
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    fn row(server: &str, pace: Option<&str>, cpu: f64, ratio: f64, p99: f64) -> Value {
        let spread = |figure: f64| json!({ "median": figure, "least": figure, "greatest": figure });
        json!({
            "network": "loopback", "server": server, "protocol": "flv", "pace": pace, "runs": 1, "failed": 0, "cpu_s_per_gb": spread(cpu),
            "ratio_to_bare": spread(ratio), "ratio_to_patient_bare": null, "latency_p50_ms": spread(1.0), "latency_p99_ms": spread(p99),
            "memory_per_client_kib": spread(0.5), "delivered_share": spread(1.0), "server_load": spread(0.2), "generator_load": spread(0.2),
            "foreign_cores": spread(0.0), "faults": 0, "lost": 0
        })
    }

    #[test]
    fn what_is_reached_and_what_is_not() {
        let rows = [row("bare", Some("low"), 0.5, 1.0, 10.0), row("braidcast", Some("low"), 0.6, 1.2, 12.0)];
        let files = Files::from([
            ("fanout".to_owned(), json!({ "rows": rows })),
            ("capacity".to_owned(), json!({ "found": [{ "server": "braidcast", "most": 17_000, "at_limit": true, "tries": [] }] })),
        ]);
        let verdicts = verdicts(&files);
        let reached: Vec<(bool, &str)> = verdicts.iter().map(|verdict| (verdict.reached, verdict.measured.as_str())).collect();
        let expected = [(false, "1.20 (1.20-1.20)"), (true, "1.20 (1.20-1.20)"), (true, "0.50 KiB (0.50-0.50)"), (true, "17000 or more")];
        assert_eq!(reached, expected);
    }

    #[test]
    fn a_crowd_is_judged_by_what_others_notice_and_workers_by_what_they_cost() {
        let viral = |after: f64| {
            json!({ "found": {
                "others_before": { "p99_ms": 0.5 }, "others_while_they_come": { "p99_ms": 3.0 }, "others_afterwards": { "p99_ms": after },
                "waits": [{ "way": "flv", "p50_ms": 1, "p99_ms": 60, "most_ms": 70 }, { "way": null, "p50_ms": 1, "p99_ms": 20, "most_ms": 70 }],
            } })
        };
        let reached = |files: &Files| verdicts(files).iter().map(|verdict| verdict.reached).collect::<Vec<_>>();
        assert_eq!(reached(&Files::from([("viral".to_owned(), viral(10.0))])), [true, true]);
        assert_eq!(reached(&Files::from([("viral".to_owned(), viral(11.0))])), [true, false]);
        let row = |workers: u64, cpu: f64, rings: f64| {
            let spread = |median: f64| json!({ "median": median });
            json!({ "case": "hot", "workers": workers, "cpu_s_per_gb": spread(cpu), "rings_per_gb": spread(rings), "shared_writes_per_gb": spread(3_000.0) })
        };
        let scale = |rows: [Value; 3]| Files::from([("scale".to_owned(), json!({ "rows": rows }))]);
        assert_eq!(reached(&scale([row(1, 0.8, 0.0), row(2, 0.7, 500.0), row(8, 0.9, 800.0)])), [true, true]);
        assert_eq!(reached(&scale([row(1, 0.8, 0.0), row(2, 0.7, 500.0), row(8, 1.1, 2_000.0)])), [false, false]);
    }

    #[test]
    fn files_that_are_not_there_or_odd_say_nothing() {
        assert!(verdicts(&Files::new()).is_empty());
        assert!(verdicts(&Files::from([("fanout".to_owned(), json!({ "rows": 7 })), ("hls".to_owned(), json!([]))])).is_empty());
    }
}
