//! From inside a worker: what somebody who has got into one can do, and what not; and that nothing is missing outside.

use anyhow::{Context, Result, ensure};
use braidcast_e2e::rtmp::RtmpClient;
use braidcast_e2e::server::binary;
use braidcast_e2e::tools::is_root;
use braidcast_e2e::{Record, Server, ServerOptions, Tool, eventually};
use braidcast_media::RecordKind;
use serde_json::{Value, json};
use std::net::TcpListener;
use std::process::{Command, Output};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// Two listeners, of which the server's configuration names one.
struct Elsewhere {
    configured: TcpListener,
    other: TcpListener,
}

impl Elsewhere {
    fn new() -> Result<Self> {
        Ok(Self { configured: TcpListener::bind("127.0.0.1:0")?, other: TcpListener::bind("127.0.0.1:0")? })
    }

    /// A server with faults that would forward a stream that nobody publishes.
    fn server(&self, set: &[&str]) -> Result<Server> {
        let to = self.configured.local_addr()?;
        let file = format!("[[forward]]\nstreams = \"nothing/at-all\"\nto = \"rtmp://{to}/live/x\"\n");
        let set = set.iter().map(|&key| key.to_owned()).collect();
        Server::start(ServerOptions { faults: true, file, set, ..ServerOptions::workers(1) })
    }

    /// What a worker says of what it has tried.
    fn trial(&self, server: &Server, other: &Server) -> Result<Value> {
        let victim = Tool::start("sleep", &["600"])?;
        let asked = json!({
            "result": "trial.json",
            "other": other.shared_dir,
            "pid": victim.pid(),
            "elsewhere": self.other.local_addr()?,
            "configured": self.configured.local_addr()?,
        });
        let text = format!("{asked}braidcast-test-trial");
        let mut payload = b"\x02\x00\x06onTest\x02".to_vec();
        payload.extend(u16::try_from(text.len())?.to_be_bytes());
        payload.extend(text.as_bytes());
        let mut publisher = RtmpClient::publish(&server.rtmp("trial"))?;
        publisher.push(&Record { kind: RecordKind::Data, timestamp_ms: 0, payload })?;
        let result = server.shared_dir.join("sessions/trial.json");
        let told = eventually(PATIENCE, || std::fs::read(&result).ok());
        let told = told.with_context(|| format!("nothing was tried:\n{}", server.log_text()))?;
        Ok(serde_json::from_slice(&told)?)
    }
}

/// What has to fail in the sandbox.
const EVIL: [&str; 21] = [
    "shadow",
    "environment",
    "program",
    "elsewhere",
    "other instance",
    "a file of another instance",
    "the front's page",
    "orders",
    "outside",
    "listen",
    "thread",
    "ptrace",
    "signal",
    "mount",
    "root",
    "unshare",
    "bpf",
    "io_uring",
    "keyctl",
    "module",
    "fork",
];
/// What has to work in it all the same.
const NEEDED: [&str; 2] = ["configured", "own directory"];
/// What of that root can do without the sandbox, whatever kernel it is: without this the test would prove nothing.
const EVIL_THAT_WORKS_FOR_ROOT: [&str; 13] = [
    "shadow",
    "environment",
    "program",
    "elsewhere",
    "other instance",
    "a file of another instance",
    "the front's page",
    "orders",
    "outside",
    "listen",
    "thread",
    "ptrace",
    "fork",
];

#[test]
fn who_gets_into_a_worker_gets_no_further() -> Result<()> {
    let elsewhere = Elsewhere::new()?;
    let other = Server::start(ServerOptions::workers(1))?;
    let server = elsewhere.server(&[])?;
    let told = elsewhere.trial(&server, &other)?;
    for what in EVIL {
        ensure!(told[what].is_string() && told[what] != "done", "{what}: {}\n{told:#}", told[what]);
    }
    for what in NEEDED {
        ensure!(told[what] == "done", "{what}: {}\n{told:#}", told[what]);
    }
    ensure!(told["unknown"].as_str().is_some_and(|said| said.contains("os error 38")), "what is not known is refused otherwise: {told:#}");
    // It is all the same worker, and it goes on.
    ensure!(server.worker(1)?["restarts"] == 0, "the worker died:\n{}", server.log_text());
    let sandbox = server.status()?["instance"]["sandbox"].clone();
    ensure!(!is_root() || sandbox == "on (not root, system calls, files, ports)", "{sandbox}");

    if is_root() {
        let open = elsewhere.server(&["sandbox.enabled=false"])?;
        let told = elsewhere.trial(&open, &other)?;
        for what in EVIL_THAT_WORKS_FOR_ROOT {
            ensure!(told[what] == "done", "without the sandbox, {what}: {}\n{told:#}", told[what]);
        }
        ensure!(open.status()?["instance"]["sandbox"] == "off", "{}", open.status()?["instance"]);
        open.wait_log(&["WARN", "[sandbox] enabled = false"])?;
    }
    Ok(())
}

/// The words of `/proc/PID/status` that a line begins with.
fn of_process(pid: u32, name: &str) -> Result<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
    Ok(line.with_context(|| format!("no {name} of process {pid}"))?.to_owned())
}

#[test]
fn workers_and_those_that_come_after_them_have_no_rights_left() -> Result<()> {
    let mut server = Server::start(ServerOptions::workers(2))?;
    let check = |server: &Server| -> Result<()> {
        for worker in [1, 2] {
            let pid = server.worker_pid(worker)?;
            ensure!(of_process(pid, "NoNewPrivs")? == "1" && of_process(pid, "Seccomp")? == "2", "worker {worker} is outside");
            for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
                ensure!(of_process(pid, set)? == "0000000000000000", "worker {worker} has {set}");
            }
            let users = of_process(pid, "Uid")?;
            ensure!(!is_root() || users.split('\t').all(|uid| uid != "0"), "worker {worker} is root: {users}");
            ensure!(of_process(pid, "Groups")?.trim().is_empty() || !is_root(), "worker {worker} has root's groups");
        }
        Ok(())
    };
    check(&server)?;
    server.kill_worker(1)?;
    server.replace_front()?;
    server.kill_worker(2)?;
    check(&server)
}

fn braidcast(words: &[&str]) -> Result<Output> {
    Ok(Command::new(binary()).args(words).output()?)
}

#[test]
fn a_user_that_there_is_not_is_named_with_what_makes_it() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let directory = tempfile::Builder::new().prefix("braidcast-test-user-").tempdir_in("/dev/shm")?;
    let path = |name: &str| directory.path().join(name).display().to_string();
    let shared = path("shared");
    let output = braidcast(&["serve", "--set", "sandbox.user=no-such-user", "--shared-dir", &shared, "--state-dir", &path("state")])?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success() && said.contains("useradd --system --no-create-home no-such-user"), "{said}");
    let output = braidcast(&["serve", "--set", "sandbox.user=root", "--shared-dir", &shared, "--state-dir", &path("state")])?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success() && said.contains("others than root"), "{said}");
    Ok(())
}

#[test]
fn the_doctor_looks_into_a_running_instance_and_names_what_mends_it() -> Result<()> {
    let server = Server::start(ServerOptions::workers(2))?;
    let doctor = |more: &[&str]| -> Result<(bool, Value)> {
        let mut words = vec!["doctor".to_owned(), "--json".to_owned(), "--workers".to_owned(), "2".to_owned()];
        for listener in ["rtmp", "http", "api"] {
            words.extend([format!("--{listener}"), server.address(listener).to_string()]);
        }
        words.extend(["--shared-dir".to_owned(), server.shared_dir.display().to_string()]);
        words.extend(["--state-dir".to_owned(), server.state_dir.display().to_string()]);
        words.extend(more.iter().map(|&word| word.to_owned()));
        let output = Command::new(binary()).args(words).output()?;
        let said: Value = serde_json::from_slice(&output.stdout).context("no JSON")?;
        ensure!(said["ok"] == output.status.success(), "{said}");
        Ok((output.status.success(), said))
    };
    let found = |said: &Value, topic: &str, verdict: &str| {
        let findings = said["findings"].as_array().map(Vec::as_slice).unwrap_or_default();
        findings.iter().find(|finding| finding["topic"] == topic && finding["verdict"] == verdict).cloned()
    };
    let (well, said) = doctor(&[])?;
    ensure!(well && said["pid"] == server.pid(), "{said:#}");
    for topic in ["worker 1", "worker 2", "rtmp", "http", "api", "configuration"] {
        found(&said, topic, "ok").with_context(|| format!("{topic} is not well: {said:#}"))?;
    }
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let (well, said) = doctor(&["--set", &format!("rtmp.listen={}", taken.local_addr()?), "--set", "sandbox.user=no-such-user"])?;
    let port = found(&said, "rtmp", "error").with_context(|| format!("a port that is taken is well: {said:#}"))?;
    ensure!(!well && port["said"].as_str().is_some_and(|said| said.contains(&format!("(pid {})", std::process::id()))), "{port}");
    ensure!(
        port["mend"].as_str().is_some_and(|mend| mend.contains(&format!("sport = :{}", taken.local_addr().map_or(0, |at| at.port())))),
        "{port}"
    );
    ensure!(
        !is_root()
            || found(&said, "sandbox", "error")
                .is_some_and(|finding| finding["said"].as_str().is_some_and(|said| said.contains("useradd"))),
        "{said:#}"
    );
    Ok(())
}
