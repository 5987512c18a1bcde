//! The program as a person meets it on the command line: what it prints, and how it ends.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Output};

fn braidcast(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_braidcast"));
    command.args(arguments);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("BRAIDCAST_")) {
        command.env_remove(name);
    }
    command
}

fn said(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    said(&braidcast(arguments).output().unwrap())
}

fn in_directory(directory: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    said(&braidcast(arguments).current_dir(directory).output().unwrap())
}

#[test]
fn a_wrong_file_is_told_with_lines_and_remedies() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("b.toml"), "[server]\nworker = 2\n\n[htp]\nlisten = 80\n\n[hls]\nfragment = \"4 sec\"\n").unwrap();
    let expected = [
        "b.toml:2: unknown key \"worker\" in [server]; did you mean workers?",
        "b.toml:4: unknown section [htp]; did you mean [http]?",
        "b.toml:8: [hls] fragment = \"4 sec\": not a duration (10, 2.5, \"500ms\", \"2m\"); allowed: 500ms to 1m",
    ];
    let checked: String = expected.iter().map(|line| format!("error  configuration: {line}\n")).collect();
    assert_eq!(in_directory(directory.path(), &["check", "-c", "b.toml"]), (Some(1), checked, String::new()));
    let refused: String = expected.iter().map(|line| format!("braidcast: {line}\n")).collect();
    assert_eq!(in_directory(directory.path(), &["check", "--print", "-c", "b.toml"]), (Some(1), String::new(), refused));
}

#[test]
fn a_wrong_variable_and_a_wrong_flag_are_told_as_they_were_given() {
    let mut command = braidcast(&["check", "--print", "--workers", "many", "--set", "hls.window=1"]);
    let (code, _, errors) = said(&command.env("BRAIDCAST_HLS_FRAGMENTS", "2s").output().unwrap());
    assert_eq!(code, Some(1));
    assert_eq!(
        errors,
        "\
braidcast: environment BRAIDCAST_HLS_FRAGMENTS: no such setting; did you mean BRAIDCAST_HLS_FRAGMENT?
braidcast: --workers many: [server] workers = many: not a whole number; allowed: 0 to 253
braidcast: --set hls.window=1: [hls] window = 1: out of range; allowed: 2s to 1d
"
    );
}

#[test]
fn check_says_a_line_for_each_finding() {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let shared = directory.path().join("shared");
    let state = directory.path().join("state");
    let free = ["--rtmp", "127.0.0.1:0", "--http", "127.0.0.1:0", "--api", "127.0.0.1:0", "--set", "limits.connections=10"];
    let directories = ["--shared-dir", shared.to_str().unwrap(), "--state-dir", state.to_str().unwrap()];
    let (code, out, errors) = run(&[&["check"], &free[..], &directories[..]].concat());
    assert_eq!((code, &*errors), (Some(0), ""), "{out}");
    assert_eq!(out.lines().next(), Some("ok     configuration: built-in defaults"));
    assert!(out.lines().all(|line| ["ok     ", "warn   "].iter().any(|word| line.starts_with(word))), "{out}");

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, out, _) = run(&[&["check"], &free[..], &directories[..], &["--rtmp", &address]].concat());
    assert_eq!(code, Some(1));
    let line = out.lines().find(|line| line.starts_with("error")).unwrap();
    assert!(
        line.starts_with(&format!("error  rtmp: {address} is taken by ")) && line.ends_with(&format!("(pid {})", std::process::id())),
        "{line}"
    );
}

#[test]
fn check_names_the_instance_that_has_the_state_directory() {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let (shared, state) = (directory.path().join("shared"), directory.path().join("state"));
    std::fs::create_dir(&state).unwrap();
    let lock = std::fs::File::create(state.join("lock")).unwrap();
    lock.lock().unwrap();
    let free = ["--rtmp", "127.0.0.1:0", "--http", "127.0.0.1:0", "--api", "127.0.0.1:0"];
    let directories = ["--shared-dir", shared.to_str().unwrap(), "--state-dir", state.to_str().unwrap()];
    let (code, out, _) = run(&[&["check"], &free[..], &directories[..]].concat());
    let line = out.lines().find(|line| line.starts_with("error")).unwrap();
    assert_eq!(code, Some(1));
    assert!(line.starts_with("error  state_dir ") && line.contains(&format!("(pid {})", std::process::id())), "{line}");
}

#[test]
fn the_reference_is_printed() {
    let (code, out, _) = run(&["config-docs"]);
    assert_eq!(code, Some(0));
    assert!(
        out == include_str!("../../../docs/configuration.md"),
        "docs/configuration.md is stale: braidcast config-docs > docs/configuration.md"
    );
}

#[test]
fn the_reference_of_the_metrics_is_printed() {
    let (code, out, _) = run(&["metrics-docs"]);
    assert_eq!(code, Some(0));
    assert!(out == include_str!("../../../docs/metrics.md"), "docs/metrics.md is stale: braidcast metrics-docs > docs/metrics.md");
}

#[test]
fn status_without_an_instance_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let name = directory.path().to_str().unwrap();
    let (code, out, errors) = run(&["status", "--shared-dir", name]);
    assert_eq!((code, &*out), (Some(1), ""));
    assert!(errors.starts_with(&format!("braidcast: no instance has run with {name} as its shared directory: ")), "{errors}");
}

#[test]
fn help_shows_what_people_need_and_no_more() {
    let (code, out, _) = run(&["--help"]);
    assert_eq!(code, Some(0));
    for command in ["check", "status", "index", "bench", "config-docs"] {
        assert!(out.contains(&format!("\n  {command} ")), "{command} is missing in:\n{out}");
        assert!(run(&[command, "--help"]).1.contains("Usage: braidcast "), "{command}");
    }
    assert!(!out.contains("\n  worker "), "workers are not started by hand:\n{out}");
}

#[test]
fn a_reader_that_went_away_is_no_error() {
    let mut child = braidcast(&["config-docs"]).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
}
