//! What an operator and a service manager use: settings from file, environment and flags, readiness, `check`, `status`.

use anyhow::{Context, Result, ensure};
use braidcast_e2e::rtmp::Pump;
use braidcast_e2e::server::{binary, signal};
use braidcast_e2e::tools::eventually;
use braidcast_e2e::{Server, ServerOptions};
use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Output};
use std::time::Duration;

fn braidcast(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Output> {
    Command::new(binary()).args(arguments).envs(environment.iter().copied()).output().context("running braidcast")
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn flags_win_over_the_environment_which_wins_over_the_file() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("b.toml");
    std::fs::write(&file, "[hls]\nfragment = 7\nwindow = 77\nretention = 777\n")?;
    let file = file.to_string_lossy().into_owned();
    let environment = [("BRAIDCAST_HLS_FRAGMENT", "3s"), ("BRAIDCAST_HLS_WINDOW", "33s")];
    let output = braidcast(&["check", "--print", "-c", &file, "--set", "hls.fragment=2s"], &environment)?;
    let text = said(&output);
    ensure!(output.status.success(), "{text}");
    for line in ["fragment = \"2s\"", "window = \"33s\""] {
        ensure!(text.contains(line), "no {line} in {text}");
    }
    // The file can be named by the environment, and what it prints is a configuration again.
    std::fs::write(&file, &output.stdout)?;
    let again = braidcast(&["check", "--print"], &[("BRAIDCAST_CONFIG", &file)])?;
    ensure!(again.status.success() && again.stdout == output.stdout, "{}", said(&again));
    // A mistake in it is as bad as one in the file.
    let wrong = braidcast(&["check", "--print"], &[("BRAIDCAST_HLS_FRAGMNT", "2s")])?;
    ensure!(!wrong.status.success() && said(&wrong).contains("FRAGMENT"), "{}", said(&wrong));
    Ok(())
}

#[test]
fn a_server_takes_settings_from_everywhere() -> Result<()> {
    let mut options = ServerOptions::workers(2).environment("BRAIDCAST_PLACEMENT_MAX_PUBLISHERS", "7");
    options.file = "[[worker]]\nid = 2\nmax_publishers = 5\n".into();
    let server = Server::start(options)?;
    let status = server.status()?;
    ensure!(status["instance"]["allowed"] == 7 && status["workers"][1]["allowed"] == 5, "{status}");
    ensure!(status["workers"].as_array().map(Vec::len) == Some(2), "--workers: {status}");
    Ok(())
}

#[test]
fn the_addresses_in_use_are_printed_and_told() -> Result<()> {
    let server = Server::start(ServerOptions::workers(1))?;
    for listener in ["rtmp", "http", "api"] {
        let address = server.address(listener);
        ensure!(address.port() != 0, "{}", server.ready);
        server.wait_log(&[&format!("{listener} {address}")])?;
        ensure!(server.status()?["instance"]["addresses"][listener][0] == address.to_string(), "{:?}", server.status());
    }
    Ok(())
}

#[test]
fn a_service_manager_is_told_of_readiness_and_end() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path)?;
    socket.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut server = Server::start(ServerOptions::workers(2).environment("NOTIFY_SOCKET", &path.to_string_lossy()))?;
    let mut buffer = [0; 64];
    let mut next = || -> Result<String> {
        let bytes = socket.recv(&mut buffer)?;
        Ok(String::from_utf8_lossy(&buffer[..bytes]).into_owned())
    };
    ensure!(next()?.contains("READY=1"), "not ready");
    let environment = std::fs::read(format!("/proc/{}/environ", server.worker_pid(1)?))?;
    ensure!(!String::from_utf8_lossy(&environment).contains("NOTIFY_SOCKET"), "workers are not to speak to the service manager");
    server.stop()?;
    ensure!(next()?.contains("STOPPING=1"), "the end was not told");
    Ok(())
}

#[test]
fn check_says_what_would_be_wrong_and_starts_nothing() -> Result<()> {
    let (shared, state) = (tempfile::tempdir_in("/dev/shm")?, tempfile::tempdir()?);
    let (shared, state) = (shared.path().join("b").to_string_lossy().into_owned(), state.path().to_string_lossy().into_owned());
    let places = ["--shared-dir", &shared, "--state-dir", &state, "--http", "127.0.0.1:0", "--api", "127.0.0.1:0"];
    let check = |more: &[&str]| braidcast(&[&["check"][..], &places, more].concat(), &[]);
    let good = check(&["--rtmp", "127.0.0.1:0"])?;
    ensure!(good.status.success() && said(&good).contains("ok"), "{}", said(&good));
    ensure!(!std::path::Path::new(&shared).exists(), "check left a directory behind");

    let holder = TcpListener::bind("127.0.0.1:0")?;
    let taken = holder.local_addr()?.to_string();
    let bad = check(&["--rtmp", &taken])?;
    ensure!(!bad.status.success() && said(&bad).contains(&taken), "{}", said(&bad));
    let bad = check(&["--rtmp", "127.0.0.1:0", "--set", "hls.fragment=900s"])?;
    ensure!(!bad.status.success() && said(&bad).contains("fragment"), "{}", said(&bad));
    Ok(())
}

#[test]
fn status_speaks_of_running_ended_and_lost_instances() -> Result<()> {
    let text = |server: &Server| -> Result<String> {
        let shared = server.shared_dir.to_string_lossy();
        Ok(said(&braidcast(&["status", "--shared-dir", &shared], &[])?))
    };
    let state = |server: &Server| server.status().map(|status| status["instance"]["state"].clone());
    let mut server = Server::start(ServerOptions::workers(2))?;
    let pump = Pump::start(&server.rtmp("x"), "x")?;
    server.wait_live("x")?;
    ensure!(state(&server)? == "running" && server.status()?["instance"]["pid"] == server.pid(), "{:?}", server.status());
    let row = server.worker(server.publisher_worker("x")?)?;
    ensure!(row["pid"].as_u64() > Some(0) && row["state"] == "ready", "{row}");
    eventually(Duration::from_secs(20), || (server.workers_counter("publishers") == 1).then_some(())).context("no publisher")?;
    ensure!(text(&server)?.contains("live/x"), "{}", text(&server)?);
    drop(pump);
    server.stop()?;
    ensure!(state(&server)? == "ended", "{:?}", server.status());

    let mut killed = Server::start(ServerOptions::workers(1))?;
    signal(killed.pid(), "KILL")?;
    killed.wait_end()?;
    ensure!(state(&killed)? == "lost", "{:?}", killed.status());

    let nothing = braidcast(&["status", "--shared-dir", "/dev/shm/there-is-none"], &[])?;
    ensure!(!nothing.status.success() && said(&nothing).contains("/dev/shm/there-is-none"), "{}", said(&nothing));
    Ok(())
}
