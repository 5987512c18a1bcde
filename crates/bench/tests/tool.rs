//! The tool as operators use it, with real processes: load on a running server, charts, a search, a comparison of two files, a page.
//!
//! The running server is the bare loop, which is part of this crate. Two cores are needed where servers are compared.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

const BENCH: &str = env!("CARGO_BIN_EXE_braidcast-bench");

fn bench(directory: &Path, words: &[&str]) -> Output {
    Command::new(BENCH).current_dir(directory).args(words).stdin(Stdio::null()).output().unwrap()
}

fn succeeds(directory: &Path, words: &[&str]) -> String {
    let output = bench(directory, words);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{words:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

fn has_two_cores() -> bool {
    std::thread::available_parallelism().is_ok_and(|cores| cores.get() >= 2)
}

/// A bare loop; it ends when its standard input does.
struct Bare {
    child: Child,
    address: String,
}

impl Bare {
    fn start(direction: &[&str]) -> Self {
        let mut command = Command::new(BENCH);
        command.arg("bare").args(direction).args(["--video-kbps", "400"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let ready: serde_json::Value = serde_json::from_str(&line).unwrap();
        let address = ready["http"][0].as_str().unwrap().to_owned();
        Self { child, address }
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        self.child.wait().unwrap();
    }
}

#[test]
fn a_running_server_is_watched_and_every_frame_of_the_verified_is_checked() {
    let server = Bare::start(&[]);
    let directory = tempfile::tempdir().unwrap();
    let url = |count: u32| format!("http://{}/live/any.flv={count}", server.address);
    let pid = server.child.id().to_string();
    let words = ["play", &url(20), &url(5), "--verified", "3", "--window", "1", "--warm-up", "0.2", "--video-kbps", "400"];
    let text = succeeds(directory.path(), &[&words[..], &["--json", "figures.json", "--server-pid", &pid]].concat());
    assert!(text.contains("20 by flv") && text.contains("5 by flv") && text.contains("server's CPU"), "{text}");
    let figures: serde_json::Value = serde_json::from_slice(&std::fs::read(directory.path().join("figures.json")).unwrap()).unwrap();
    assert_eq!(figures["faults"], serde_json::json!({ "missed": 0, "stale": 0, "corrupt": 0 }));
    assert!(figures["verified_frames"].as_u64().unwrap() > 6 * 20, "{figures}");
    assert_eq!(figures["parts"].as_array().unwrap().len(), 2);
}

#[test]
fn what_a_server_gathers_is_latency() {
    let server = Bare::start(&["--flush-ms", "300"]);
    let directory = tempfile::tempdir().unwrap();
    let url = format!("http://{}/live/any.flv", server.address);
    let words = ["play", &url, "--viewers", "4", "--window", "2", "--warm-up", "0.2", "--video-kbps", "400", "--json", "-"];
    let figures: serde_json::Value = serde_json::from_str(&succeeds(directory.path(), &words)).unwrap();
    assert!(figures["latency_p50_ms"].as_f64().unwrap() > 80.0, "{figures}");
}

#[test]
fn what_cannot_be_watched_is_an_error_with_a_reason() {
    let server = Bare::start(&[]);
    let directory = tempfile::tempdir().unwrap();
    let two = [format!("http://{}/live/a.flv", server.address), format!("http://{}/live/b.flv", server.address)];
    let output = bench(directory.path(), &["play", &two[0], &two[1]]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("the same stream"));
    assert!(!bench(directory.path(), &["play", "https://h/live/a.flv"]).status.success());
}

#[test]
fn figures_become_a_chart_a_comparison_and_a_page() {
    if !has_two_cores() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let figures = directory.path().join("figures");
    let json = |name: &str| figures.join(name).to_str().unwrap().to_owned();
    let curve = json("curve.json");
    let small = ["--quick", "--servers", "bare", "--viewers", "20", "--verified", "4", "--json"];
    succeeds(directory.path(), &[&["curve", "--latency", "low,100"], &small[..], &[&curve]].concat());
    assert!(std::fs::read_to_string(json("curve.svg")).unwrap().contains(">100<"));
    assert!(std::fs::read(json("curve.png")).unwrap().starts_with(b"\x89PNG"));

    let capacity = json("capacity.json");
    let words = ["capacity", "--quick", "--servers", "bare", "--first", "10", "--most", "20", "--kbps", "200", "--latency-ms", "3000"];
    let text = succeeds(directory.path(), &[&words[..], &["--share", "0.5", "--json", &capacity]].concat());
    assert!(text.contains("20 or more"), "{text}");

    let text = succeeds(directory.path(), &["diff", &curve, &curve]);
    assert!(text.contains("bare 100 ms by flv") && text.contains("+0.0 %") && !text.contains("% *"), "{text}");

    let page = directory.path().join("page.md");
    std::fs::write(&page, "mine\n<!-- figures: begin (written by `make bench`) -->\n<!-- figures: end -->\nalso mine\n").unwrap();
    succeeds(directory.path(), &["document", "--figures", figures.to_str().unwrap(), "--page", page.to_str().unwrap()]);
    let text = std::fs::read_to_string(&page).unwrap();
    assert!(text.starts_with("mine\n") && text.ends_with("also mine\n"), "{text}");
    assert!(text.contains("### capacity") && text.contains("20 or more") && text.contains("(page/curve.png)"), "{text}");
    assert!(directory.path().join("page/curve.svg").is_file());
}
