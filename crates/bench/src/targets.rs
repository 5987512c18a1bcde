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
    all.extend(ingest(files));
    all.extend(segments(files));
    all.extend(delivery(files));
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

fn ingest(files: &Files) -> Option<Verdict> {
    let rows = rows(files, "ingest");
    let row = of_braidcast(&rows, Protocol::Rtmp).next()?;
    Some(at_most("ingest: CPU over that of a bare loop that may wait 5 ms, too", "loopback", 1.3, "", row.ratio_to_patient_bare?))
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
    fn files_that_are_not_there_or_odd_say_nothing() {
        assert!(verdicts(&Files::new()).is_empty());
        assert!(verdicts(&Files::from([("fanout".to_owned(), json!({ "rows": 7 })), ("hls".to_owned(), json!([]))])).is_empty());
    }
}
