//! The harness with real processes: it measures, and it leaves nothing behind when it is stopped half-way.
//!
//! Only the bare loop is compared here: it is part of this crate. Two cores are needed; with one there is nothing to test.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const BENCH: &str = env!("CARGO_BIN_EXE_braidcast-bench");

fn has_two_cores() -> bool {
    let enough = std::thread::available_parallelism().is_ok_and(|cores| cores.get() >= 2);
    if !enough {
        eprintln!("skipped: this machine has no two cores");
    }
    enough
}

fn fanout(json: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(BENCH);
    command.args(["fanout", "--servers", "bare", "--mtu", "0", "--viewers", "40", "--verified", "4"]);
    command.arg("--json").arg(json).args(more).stdin(Stdio::null()).stdout(Stdio::null());
    command
}

#[test]
fn a_quick_comparison_judges_every_frame_and_misses_none() {
    if !has_two_cores() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let json = directory.path().join("figures.json");
    assert!(fanout(&json, &["--quick", "--audio-kbps", "96"]).status().unwrap().success());
    let figures: serde_json::Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    let report = &figures["runs"][0]["report"];
    assert!(report["verified_frames"].as_u64().unwrap() > 4 * 60, "{report}");
    assert_eq!(report["faults"], serde_json::json!({ "missed": 0, "stale": 0, "corrupt": 0 }));
    assert!(report["delivered_share"].as_f64().unwrap() > 0.8, "{report}");
    assert!(report["latency_p50_ms"].as_f64().is_some() && report["server_cpu_s"].as_f64().is_some(), "{report}");
}

#[test]
fn a_stopped_comparison_leaves_no_process_behind() {
    if !has_two_cores() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mut child = fanout(&directory.path().join("figures.json"), &["--window", "600"]).spawn().unwrap();
    let server = wait_for("its server", || children(child.id()).first().copied());
    stop(&child);
    let status = wait_for("its end", || child.try_wait().unwrap());
    assert!(!status.success());
    assert!(!Path::new(&format!("/proc/{server}")).exists(), "process {server} was left behind");
}

#[test]
fn cores_that_cannot_be_had_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let status = fanout(&directory.path().join("figures.json"), &["--server-core", "1", "--load-core", "1"]).stderr(Stdio::null()).status();
    assert!(!status.unwrap().success());
}

fn children(pid: u32) -> Vec<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_ascii_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

fn stop(child: &Child) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
}

fn wait_for<T>(what: &str, mut poll: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(value) = poll() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
