//! The log: files that are moved away under load, lines for programs, levels that change while the server runs, requests.

use anyhow::{Context, Result, ensure};
use braidcast_e2e::media;
use braidcast_e2e::server::{binary, signal};
use braidcast_e2e::tools::{eventually, http_get, run_ok};
use braidcast_e2e::viewer::Viewer;
use braidcast_e2e::{Server, ServerOptions};
use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);

/// Where a test's logs are.
struct Logs {
    directory: TempDir,
}

impl Logs {
    fn new() -> Result<Self> {
        Ok(Self { directory: tempfile::tempdir()? })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn options(&self, format: &str) -> ServerOptions {
        let path = |name| self.path(name).display().to_string();
        let file = format!(
            "[logging]\nformat = '{format}'\nfile = '{}'\naccess_log = '{}'\n[[access]]\nstreams = 'live/closed'\ndeny = ['127.0.0.0/8']\n",
            path("lines"),
            path("requests")
        );
        ServerOptions { file, ..ServerOptions::workers(2) }
    }

    /// All of a log, in the order in which it was moved away.
    fn text(&self, name: &str, moves: usize) -> String {
        let names = (0..moves).map(|number| format!("{name}.{number}")).chain([name.to_owned()]);
        names.map(|name| fs::read_to_string(self.path(&name)).unwrap_or_default()).collect()
    }
}

fn order(server: &Server, words: &[&str]) -> Result<String> {
    let shared = server.shared_dir.to_string_lossy().into_owned();
    run_ok(&binary().to_string_lossy(), &[words, &["--shared-dir", &shared]].concat(), PATIENCE)
}

/// A bad request, which each time is a line of the log and one of the access log; the connection is closed.
fn bad_request(server: &Server) -> Result<()> {
    let mut stream = TcpStream::connect(server.address("http"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"nonsense\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    ensure!(answer.starts_with(b"HTTP/1.1 400"), "{}", String::from_utf8_lossy(&answer));
    Ok(())
}

#[test]
fn files_that_are_moved_away_under_load_lose_no_line() -> Result<()> {
    let logs = Logs::new()?;
    let server = Server::start(logs.options("json"))?;
    let (stop, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    let moves = 4;
    std::thread::scope(|scope| -> Result<()> {
        let load = scope.spawn(|| -> Result<()> {
            while !stop.load(Ordering::Relaxed) {
                let number = asked.fetch_add(1, Ordering::Relaxed);
                let answer = http_get(&server.http(&format!("nothing/{number}")))?;
                ensure!(answer.status == 404, "{}", answer.head);
            }
            Ok(())
        });
        let moved = (0..moves).try_for_each(|number| -> Result<()> {
            let before = asked.load(Ordering::Relaxed);
            eventually(PATIENCE, || (asked.load(Ordering::Relaxed) > before + 50).then_some(())).context("no load")?;
            for name in ["lines", "requests"] {
                fs::rename(logs.path(name), logs.path(&format!("{name}.{number}")))?;
            }
            signal(server.pid(), "USR1")?;
            let opened = || ["lines", "requests"].iter().all(|name| logs.path(name).exists()).then_some(());
            eventually(PATIENCE, opened).context("the files are not opened again")
        });
        stop.store(true, Ordering::Relaxed);
        load.join().expect("no panic")?;
        moved
    })?;
    // Accepting is a line each time at debug; so is its end.
    let asked = asked.load(Ordering::Relaxed);
    let counted = || {
        let requests = logs.text("requests", moves);
        let all = (0..asked).all(|number| requests.matches(&format!("\"GET /nothing/{number} HTTP/1.1\" 404 ")).count() == 1);
        (all && requests.lines().count() == asked).then_some(())
    };
    eventually(PATIENCE, counted).with_context(|| format!("{asked} requests, {} lines", logs.text("requests", moves).lines().count()))?;
    let accepted = |text: &str| text.lines().filter(|line| line.contains("\"message\":\"accepted (Http)\"")).count();
    eventually(PATIENCE, || (accepted(&logs.text("lines", moves)) == asked).then_some(())).context("lines of the log are missing")?;
    let text = logs.text("lines", moves);
    for line in text.lines() {
        serde_json::from_str::<Value>(line).with_context(|| line.to_owned())?;
    }
    ensure!(logs.text("lines", 0).contains("the log files were opened again"), "the newest file");
    // Every process has the new file: each worker's lines are still there.
    for worker in 1..=2 {
        let pid = server.worker_pid(worker)?;
        let target = fs::read_link(format!("/proc/{pid}/fd/2"))?;
        ensure!(target == logs.path("lines"), "worker {worker} writes to {}", target.display());
    }
    ensure!(server.workers_counter("request_lines_dropped") == 0, "dropped");
    ensure!(!server.log_text().contains("INFO"), "standard error got lines:\n{}", server.log_text());
    Ok(())
}

#[test]
fn lines_for_programs_say_stream_session_and_client() -> Result<()> {
    let logs = Logs::new()?;
    let mut server = Server::start(logs.options("json").set("play.reconnect_grace=1s"))?;
    let publisher = media::publish_live(&format!("{}?token=canary", server.rtmp("x")))?;
    server.wait_live("x")?;
    let viewer = Viewer::flv(server.address("http"), "live/x.flv?token=canary")?;
    viewer.wait_more(20)?;
    ensure!(http_get(&server.http("live/closed.flv?token=canary"))?.status == 403, "let in");
    bad_request(&server)?;
    let request = |begin: &str| {
        eventually(PATIENCE, || logs.text("requests", 0).lines().find(|line| line.contains(begin)).map(str::to_owned))
            .with_context(|| format!("{begin} in {}", logs.text("requests", 0)))
    };
    request("\"GET /live/closed.flv?token=*** HTTP/1.1\" 403 ")?;
    request("\"-\" 400 ")?;
    // The viewer goes on in another worker, and is one line in the end.
    for worker in 1..=2 {
        server.kill_worker(worker)?;
    }
    viewer.wait_more(20)?;
    drop((viewer, publisher));
    let lines = || -> Vec<Value> { logs.text("lines", 0).lines().filter_map(|line| serde_json::from_str(line).ok()).collect() };
    let ended = |line: &Value| line["message"].as_str().is_some_and(|message| message.starts_with("publishing ended"));
    let of_stream = |wanted: &dyn Fn(&Value) -> bool| {
        eventually(PATIENCE, || lines().into_iter().find(|line| wanted(line))).with_context(|| logs.text("lines", 0))
    };
    for (what, wanted) in [
        ("publishing", &(|line: &Value| line["message"] == "publishing begins") as &dyn Fn(&Value) -> bool),
        ("its end", &ended),
        ("refused", &|line: &Value| line["room"] == "access"),
        ("moved", &|line: &Value| line["message"].as_str().is_some_and(|message| message.starts_with("a session has moved"))),
    ] {
        let line = of_stream(wanted).context(what)?;
        let has = |field: &str, begins: &str| line[field].as_str().is_some_and(|value| value.starts_with(begins));
        ensure!(has("stream", "live/") && has("conn", "c") && has("peer", "127.0.0.1"), "{what}: {line}");
        ensure!(line["process"].is_string() && line["level"].is_string() && line["time"].is_string(), "{what}: {line}");
    }
    let live = request("\"GET /live/x.flv?token=*** HTTP/1.1\" 200 ")?;
    let bytes: u64 = live.split("\" 200 ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok()).context("no bytes")?;
    ensure!(live.starts_with("127.0.0.1 - - [") && bytes > 10_000, "{live}");
    ensure!(logs.text("requests", 0).matches("/live/x.flv").count() == 1, "{}", logs.text("requests", 0));
    server.stop()?;
    let all = logs.text("lines", 0) + &logs.text("requests", 0);
    ensure!(!all.contains("canary"), "a secret is in the log");
    Ok(())
}

#[test]
fn levels_change_in_all_processes_while_they_run() -> Result<()> {
    let server = Server::start(ServerOptions::workers(2).set("server.log_level=info"))?;
    // A line of workers at debug, and one of the front.
    let wanted = |text: &str| (text.contains("DEBUG worker"), text.contains("DEBUG front"));
    for _ in 0..10 {
        http_get(&server.http("nothing"))?;
    }
    ensure!(wanted(&server.log_text()) == (false, false), "{}", server.log_text());
    let said = order(&server, &["log-level", "worker=debug", "front=debug"])?;
    ensure!(said.contains("worker=debug front=debug"), "{said}");
    let after = |wanted: (bool, bool), from: usize| {
        eventually(PATIENCE, || {
            http_get(&server.http("nothing")).ok()?;
            let text = server.log_text();
            ((text[from..].contains("DEBUG worker"), text[from..].contains("DEBUG front")) == wanted).then_some(())
        })
    };
    let from = server.log_text().len();
    after((true, true), from).with_context(|| server.log_text())?;
    // A worker that is started later has them too.
    server.kill_worker(1)?;
    server.kill_worker(2)?;
    let from = server.log_text().len();
    after((true, true), from).context("new workers")?;
    order(&server, &["log-level", "--reset"])?;
    let from = server.log_text().len();
    for _ in 0..20 {
        http_get(&server.http("nothing"))?;
    }
    ensure!(wanted(&server.log_text()[from..]) == (false, false), "{}", &server.log_text()[from..]);
    ensure!(order(&server, &["log-level", "htp=debug"]).is_err(), "a room that there is not");
    Ok(())
}

#[test]
fn a_log_file_that_cannot_be_opened_is_said_where_it_was_started() -> Result<()> {
    let file = "[logging]\nfile = '/nowhere/lines'\n".to_owned();
    let error = format!("{:#}", Server::start(ServerOptions { file, ..ServerOptions::default() }).err().context("it started")?);
    ensure!(error.contains("[logging] file = \"/nowhere/lines\""), "{error}");
    // What fails after that is said there too.
    let logs = Logs::new()?;
    let file = format!("[logging]\nfile = '{}'\n[[access]]\nstreams = '**'\njwks = '/nowhere/keys'\n", logs.path("lines").display());
    let error = format!("{:#}", Server::start(ServerOptions { file, ..ServerOptions::default() }).err().context("it started")?);
    ensure!(error.contains("/nowhere/keys") && Path::new(&logs.path("lines")).exists(), "{error}");
    Ok(())
}
