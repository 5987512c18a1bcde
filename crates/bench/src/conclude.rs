//! The end of a comparison: its table and its file, and whether anything went wrong. A figure never does.

use crate::peers::{Bench, Peer};
use crate::report::{self, Run};
use anyhow::Context;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// A tenth of a core: a machine that is idle but for the bench stays well below.
pub const TOLERATED_FOREIGN_CORES: f64 = 0.1;

/// Prints the table, writes the file, and judges the runs (not the figures).
pub fn conclude(name: &str, heading: &str, runs: &[Run], bench: &Bench, servers: &[Peer], json: Option<&Path>) -> anyhow::Result<ExitCode> {
    let rows = report::rows(runs);
    println!("\n{heading}; medians of {} rounds; GB = 10^9 bytes\n", runs.iter().map(|run| run.round).max().unwrap_or(0));
    print!("{}", report::table(&rows));
    let versions: serde_json::Map<_, _> = servers.iter().map(|server| (server.name().to_owned(), bench.version(*server).into())).collect();
    let file = serde_json::json!({
        "bench": name, "what": heading, "command": report::command(), "date": report::today(),
        "machine": report::machine(), "versions": versions, "table": report::table(&rows),
        "shape": bench.shape, "cores": bench.cores, "rows": rows, "runs": runs,
    });
    write(name, json, &file)?;

    let busiest = rows.iter().filter_map(|row| row.foreign_cores).map(|cores| cores.greatest).fold(0.0, f64::max);
    if busiest > TOLERATED_FOREIGN_CORES {
        println!("the machine was busy with something else ({busiest:.2} cores at the worst): latencies and ratios suffer");
    }
    let failed = runs.iter().filter(|run| run.error.is_some()).count();
    let missed: Vec<&Run> = runs.iter().filter(|run| run.has_misses()).collect();
    for run in &missed {
        let Some(report) = &run.report else { continue };
        let which = format!("{} round {}, {} by {}", run.network, run.round, run.server.name(), run.protocol);
        println!(
            "MISSED: {which}: {:?}, {} viewers unanswered, {} lost {:?}",
            report.faults, report.unanswered, report.lost, report.first_loss
        );
    }
    if failed > 0 {
        println!("{failed} of {} runs failed", runs.len());
    }
    Ok(if failed > 0 || !missed.is_empty() || runs.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Writes the file of figures, and says where.
pub fn write(name: &str, json: Option<&Path>, file: &serde_json::Value) -> anyhow::Result<()> {
    let path = results(name, json);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(&path, serde_json::to_vec_pretty(file)?).with_context(|| format!("cannot write {}", path.display()))?;
    println!("\nall figures: {}", path.display());
    Ok(())
}

/// Where figures go: where it is said, else out of the way in a source tree, else right here.
pub fn results(name: &str, json: Option<&Path>) -> PathBuf {
    let directory = if Path::new("target").is_dir() { "target/bench" } else { "." };
    json.map_or_else(|| Path::new(directory).join(format!("{name}.json")), Path::to_owned)
}
