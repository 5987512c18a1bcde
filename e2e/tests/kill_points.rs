//! A worker killed at every step of saving, moving, writing and segmenting: at each, whoever goes on goes on exactly.

use anyhow::{Context, Result, ensure};
use braidcast_e2e::ServerOptions;
use braidcast_e2e::chaos::{Scenario, Segment};
use braidcast_e2e::tools::{eventually, open_directory};
use std::time::Duration;

/// Every step that a worker which serves a stream goes through.
const SERVING: &[&str] = &[
    "received",
    "checkpoint",
    "row",
    "row_saved",
    "commit",
    "half_written",
    "written",
    "batch_saved",
    "seal",
    "sealed",
    "table",
    "entered",
    "keyframes",
    "before_word",
    "after_word",
    "evict",
    "evict_entry",
    "evict_file",
    "evicted",
    "sent",
    "segment",
    "segment_named",
    "segment_state",
];
/// Steps that only a worker goes through which takes a session over, or hands one over.
const MOVING: &[&str] = &["letting_go", "let_go", "resume_locked", "resumed", "restored", "entering", "adopted"];

fn scenario(point: &str, pass: u32, flag: &std::path::Path) -> Scenario {
    let options = ServerOptions { faults: true, ..ServerOptions::workers(2) };
    // Evicted is only what nobody is still to be sent, however slow the machine.
    let keep = if point.starts_with("evict") { "log.keep=1s" } else { "log.keep=20s" };
    let options = options.set("log.block_min=300ms").set(keep).environment("BRAIDCAST_KILL_POINT", &format!("{point}:{pass}"));
    let options = options.environment("BRAIDCAST_KILL_ONCE", &flag.to_string_lossy());
    Scenario::new(options, 2, 10).speed(5)
}

/// Runs it with one death at a point; `drain` has sessions moved all the time. False: nobody came by the point so often.
fn dies_at(point: &str, pass: u32, drain: bool, undisturbed: &[Segment]) -> Result<bool> {
    let directory = open_directory()?;
    let flag = directory.path().join("killed");
    let outcome = scenario(point, pass, &flag).run(|server, round| {
        if drain {
            // Refused while the worker is not there: then the next one is asked.
            let worker = (1 + round % 2).to_string();
            let binary = braidcast_e2e::server::binary();
            let order =
                |words: &[&str]| std::process::Command::new(&binary).args(words).arg("--shared-dir").arg(&server.shared_dir).output();
            order(&["drain", &worker, "--timeout", "5"])?;
        }
        std::thread::sleep(Duration::from_millis(30));
        Ok(())
    })?;
    outcome.check(undisturbed)?;
    let killed = flag.exists();
    let restarts = || outcome.server.front_counter("worker_restarts");
    if killed && !drain {
        eventually(Duration::from_secs(10), || (restarts() == 1).then_some(())).with_context(|| format!("{} deaths", restarts()))?;
    }
    Ok(killed)
}

fn all(points: &[&str], passes: &[u32], drain: bool) -> Result<()> {
    let undisturbed = scenario("none", 1, std::path::Path::new("/nonexistent")).undisturbed()?;
    ensure!(undisturbed.len() > 5, "only {} segments", undisturbed.len());
    for point in points {
        let mut killed = 0;
        for pass in passes {
            killed += u32::from(dies_at(point, *pass, drain, &undisturbed).with_context(|| format!("killed at {point}, pass {pass}"))?);
        }
        ensure!(killed > 0, "nobody came by {point}");
    }
    Ok(())
}

#[test]
fn while_it_serves() -> Result<()> {
    all(SERVING, &[1, 6], false)
}

#[test]
fn while_sessions_move() -> Result<()> {
    all(MOVING, &[1, 4], true)
}
