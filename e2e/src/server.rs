//! A Braidcast of a test's own: free ports, its own shared directory and state directory, removed with it.

use crate::tools::eventually;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::ffi::OsString;
use std::fs::File;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// What a test's server is started with.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// How many workers.
    pub workers: u16,
    /// `section.key=value`, as `--set` takes them.
    pub set: Vec<String>,
    /// A configuration file's text.
    pub file: String,
    /// Sub-ports for the workers.
    pub sub_ports: bool,
    /// The shared and state directories of an earlier server of the test, to be used again.
    pub reuse: Option<(PathBuf, PathBuf)>,
    /// Further arguments of `serve`.
    pub arguments: Vec<String>,
    /// Environment variables.
    pub environment: Vec<(String, String)>,
    /// A program, with its arguments, that becomes the server in the end: `prlimit --nofile=100`.
    pub by: Vec<String>,
    /// Make the shared directory in this one instead of `/dev/shm`.
    pub shared_in: Option<PathBuf>,
    /// Start the binary with faults: kill points, and a message that crashes a worker.
    pub faults: bool,
    /// Start this program instead.
    pub program: Option<PathBuf>,
    /// Start it in a process group of its own, so that the test can send that what a terminal would. Else whoever ends the test ends it.
    pub own_group: bool,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            workers: 2,
            set: Vec::new(),
            file: String::new(),
            sub_ports: false,
            reuse: None,
            arguments: Vec::new(),
            environment: Vec::new(),
            by: Vec::new(),
            shared_in: None,
            faults: false,
            program: None,
            own_group: false,
        }
    }
}

impl ServerOptions {
    /// With so many workers.
    pub fn workers(workers: u16) -> Self {
        Self { workers, ..Self::default() }
    }

    /// With a key set to a value.
    pub fn set(mut self, key_value: &str) -> Self {
        self.set.push(key_value.to_owned());
        self
    }

    /// With a further argument of `serve`.
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// With an environment variable.
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    child: Child,
    launch: Launch,
    /// What the server said when it was ready.
    pub ready: Value,
    /// Its shared directory.
    pub shared_dir: PathBuf,
    /// Its state directory.
    pub state_dir: PathBuf,
    log: PathBuf,
    sub_base: u16,
    _dirs: Option<(TempDir, TempDir)>,
}

/// How a server is started.
#[derive(Debug)]
struct Launch {
    words: Vec<OsString>,
    environment: Vec<(String, String)>,
    own_group: bool,
}

impl Launch {
    /// Starts it and waits until it is ready; gives what it says then.
    fn start(&self, log: &Path) -> Result<(Child, Value)> {
        let (read, write) = std::io::pipe()?;
        let (program, words) = self.words.split_first().context("no program")?;
        let mut command = Command::new(program);
        command.args(words).arg("--ready-fd").arg(write.as_raw_fd().to_string()).envs(self.environment.iter().cloned());
        if self.own_group {
            command.process_group(0);
        }
        let output = File::options().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = braidcast_sys::child::spawn(command, &[write.as_fd()]).context("starting the server")?;
        drop(write);
        let mut line = String::new();
        BufReader::new(read).read_line(&mut line)?;
        let said = || std::fs::read_to_string(log).unwrap_or_default();
        let ready = serde_json::from_str(&line).with_context(|| format!("the server did not become ready:\n{}", said()))?;
        Ok((child, ready))
    }
}

/// The binary under test.
pub fn binary() -> PathBuf {
    std::env::var_os("BRAIDCAST_BIN").map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/debug/braidcast"), PathBuf::from)
}

/// The binary under test with the feature `faults`, which `make test` builds beside it.
pub fn faulty_binary() -> PathBuf {
    binary().with_file_name("braidcast-faults")
}

/// A port such that it and the next `count` − 1 were free just now. Below the ports that the kernel gives to connections, so that
/// nobody takes them by chance; another test may, and then the server is started again.
pub fn free_ports(count: u16) -> Result<u16> {
    let mut hasher = RandomState::new().build_hasher();
    for attempt in 0..1_000 {
        hasher.write_u32(attempt);
        let base = 10_000 + (hasher.finish() % 20_000) as u16;
        if (base..base + count).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return Ok(base);
        }
    }
    bail!("no {count} free ports in a row")
}

/// Removes what tests left that were killed: their directories, and the workers that still use them.
fn sweep() {
    for (place, prefix) in [(PathBuf::from("/dev/shm"), PREFIX), (std::env::temp_dir(), STATE_PREFIX)] {
        for entry in std::fs::read_dir(place).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let owner = name.to_str().and_then(|name| name.strip_prefix(prefix)?.split('-').next()?.parse::<u32>().ok());
            if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
                end_processes_of(&entry.path());
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
    }
}

/// The names of tests' shared directories begin with this and the test's process id,
const PREFIX: &str = "braidcast-test-";
/// those of their state directories with this.
const STATE_PREFIX: &str = "braidcast-state-";
/// How often a start is tried when a sub-port was taken in between.
const STARTS: u32 = 5;

impl Server {
    /// Starts a server and waits until all its workers serve.
    pub fn start(options: ServerOptions) -> Result<Self> {
        sweep();
        let mut attempt = 1;
        loop {
            match Self::start_once(&options) {
                Err(error) if options.sub_ports && attempt < STARTS && format!("{error:#}").contains("the port is taken") => attempt += 1,
                result => return result,
            }
        }
    }

    fn start_once(options: &ServerOptions) -> Result<Self> {
        let dirs = match &options.reuse {
            Some(_) => None,
            None => {
                let shared_in = options.shared_in.as_deref().unwrap_or(Path::new("/dev/shm"));
                Some((
                    tempfile::Builder::new().prefix(&format!("{PREFIX}{}-", std::process::id())).tempdir_in(shared_in)?,
                    tempfile::Builder::new().prefix(&format!("{STATE_PREFIX}{}-", std::process::id())).tempdir()?,
                ))
            }
        };
        let (shared_dir, state_dir) = match (&options.reuse, &dirs) {
            (Some(reuse), _) => reuse.clone(),
            (None, Some((shared, state))) => (shared.path().to_owned(), state.path().to_owned()),
            (None, None) => unreachable!("directories are made unless they are given"),
        };
        let config = state_dir.join("test.toml");
        std::fs::write(&config, &options.file)?;
        let log = state_dir.join("log");
        let sub_base = if options.sub_ports { free_ports(options.workers)? } else { 0 };
        let program = options.program.clone().unwrap_or_else(|| if options.faults { faulty_binary() } else { binary() });
        let mut words: Vec<OsString> = options.by.iter().map(OsString::from).chain([program.into_os_string()]).collect();
        words.extend(["serve".into(), "-c".into(), config.into(), "--workers".into(), options.workers.to_string().into()]);
        for listener in ["--rtmp", "--http", "--api"] {
            words.extend([listener.into(), "127.0.0.1:0".into()]);
        }
        words.extend(["--shared-dir".into(), shared_dir.clone().into(), "--state-dir".into(), state_dir.clone().into()]);
        words.extend(["--log-level", "debug", "--worker-base-port"].map(OsString::from));
        words.push(sub_base.to_string().into());
        words.extend(options.set.iter().flat_map(|set| ["--set".into(), set.into()]));
        words.extend(options.arguments.iter().map(OsString::from));
        let launch = Launch { words, environment: options.environment.clone(), own_group: options.own_group };
        let (child, ready) = launch.start(&log)?;
        Ok(Self { child, launch, ready, shared_dir, state_dir, log, sub_base, _dirs: dirs })
    }

    /// The first address of a listener: `rtmp`, `http` or `api`.
    pub fn address(&self, listener: &str) -> SocketAddr {
        *self.addresses(listener).first().unwrap_or_else(|| panic!("no {listener} address in {}", self.ready))
    }

    /// All addresses of a listener.
    pub fn addresses(&self, listener: &str) -> Vec<SocketAddr> {
        let list = self.ready[listener].as_array().map(Vec::as_slice).unwrap_or_default();
        list.iter().filter_map(|address| address.as_str()?.parse().ok()).collect()
    }

    /// The sub-port of a worker, from 1.
    pub fn sub_port(&self, worker: u16) -> SocketAddr {
        assert_ne!(self.sub_base, 0, "the server was started without sub-ports");
        SocketAddr::from(([127, 0, 0, 1], self.sub_base + worker - 1))
    }

    /// `rtmp://…/live/NAME`.
    pub fn rtmp(&self, name: &str) -> String {
        format!("rtmp://{}/live/{name}", self.address("rtmp"))
    }

    /// `http://…/PATH`.
    pub fn http(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address("http"))
    }

    /// The process id of the front that was started.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The process id of the front that is in charge: the one that holds the instance's lock, whose number it has written there.
    pub fn front_pid(&self) -> Option<u32> {
        std::fs::read_to_string(self.shared_dir.join("instance.lock")).ok()?.trim().parse().ok()
    }

    /// Kills the front with SIGKILL and starts another one, with the same words, in its place.
    pub fn replace_front(&mut self) -> Result<()> {
        let pid = self.front_pid().context("no front")?;
        signal(pid, "KILL")?;
        // A dying process has no command line any more while its threads still hold the instance's lock; one that can be collected has none.
        let child = &mut self.child;
        let mut gone = || if pid == child.id() { child.try_wait().ok().flatten().is_some() } else { !alive(pid) };
        eventually(Duration::from_secs(10), || gone().then_some(())).context("the front does not die")?;
        self.start_front()
    }

    /// Starts another front, with the same words, after the death of the one before.
    pub fn start_front(&mut self) -> Result<()> {
        let (child, ready) = self.launch.start(&self.log)?;
        (self.child, self.ready) = (child, ready);
        Ok(())
    }

    /// What `braidcast status --json` says.
    pub fn status(&self) -> Result<Value> {
        let output = Command::new(binary()).args(["status", "--json", "--shared-dir"]).arg(&self.shared_dir).output()?;
        ensure!(output.status.success(), "status: {}", String::from_utf8_lossy(&output.stderr));
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// A worker's row of the status.
    pub fn worker(&self, id: u16) -> Result<Value> {
        let status = self.status()?;
        let workers = status["workers"].as_array().context("no workers in the status")?;
        workers.iter().find(|worker| worker["id"] == id).cloned().with_context(|| format!("no worker {id} in {status}"))
    }

    /// The process id of a worker.
    pub fn worker_pid(&self, id: u16) -> Result<u32> {
        let row = self.worker(id)?;
        row["pid"].as_u64().filter(|pid| *pid > 0).map(|pid| pid as u32).with_context(|| format!("no process: {row}"))
    }

    /// A counter of the workers by name, all workers together.
    pub fn workers_counter(&self, name: &str) -> u64 {
        let Ok(status) = self.status() else { return 0 };
        let rows = status["workers"].as_array().map(Vec::as_slice).unwrap_or_default();
        rows.iter().map(|row| row["counters"][name].as_u64().unwrap_or(0)).sum()
    }

    /// A counter of the front by name.
    pub fn front_counter(&self, name: &str) -> u64 {
        self.status().ok().and_then(|status| status["front"][name].as_u64()).unwrap_or(0)
    }

    /// Waits until a counter of the workers is at least this.
    pub fn wait_workers_counter(&self, name: &str, least: u64) -> Result<()> {
        let reached = eventually(Duration::from_secs(60), || (self.workers_counter(name) >= least).then_some(()));
        reached.with_context(|| format!("{name} is {}, not {least}:\n{}", self.workers_counter(name), self.log_text()))
    }

    /// Waits until so many viewers of a stream (of `live`) have been placed since the start, whether it is published or not.
    pub fn wait_placed(&self, name: &str, viewers: usize) -> Result<()> {
        let line = format!("a viewer is placed stream=live/{name} ");
        let placed = || self.log_text().matches(&line).count() >= viewers;
        eventually(Duration::from_secs(60), || placed().then_some(()))
            .with_context(|| format!("no {viewers} viewers of {name}:\n{}", self.log_text()))
    }

    /// Waits until the log has a line with all these words; gives the line.
    pub fn wait_log(&self, words: &[&str]) -> Result<String> {
        let line = || self.log_text().lines().find(|line| words.iter().all(|word| line.contains(word))).map(str::to_owned);
        eventually(Duration::from_secs(30), line).with_context(|| format!("no line with {words:?} in the log:\n{}", self.log_text()))
    }

    /// A stream's row of the status, if there is one.
    pub fn stream(&self, name: &str) -> Result<Option<Value>> {
        let status = self.status()?;
        Ok(status["streams"].as_array().context("no streams in the status")?.iter().find(|stream| stream["stream"] == name).cloned())
    }

    /// Waits until a stream is live.
    pub fn wait_live(&self, name: &str) -> Result<Value> {
        eventually(Duration::from_secs(60), || self.stream(name).ok().flatten().filter(|stream| stream["state"] == "live"))
            .with_context(|| format!("{name} did not go live:\n{}", self.log_text()))
    }

    /// The worker that has a stream's publisher.
    pub fn publisher_worker(&self, name: &str) -> Result<u16> {
        let stream = self.stream(name)?.with_context(|| format!("no stream {name}"))?;
        stream["worker"].as_u64().map(|id| id as u16).with_context(|| format!("no worker publishes {name}: {stream}"))
    }

    /// Kills a worker with SIGKILL and waits until another process has its place.
    pub fn kill_worker(&self, id: u16) -> Result<()> {
        let old = self.worker_pid(id)?;
        signal(old, "KILL")?;
        eventually(Duration::from_secs(60), || {
            let worker = self.worker(id).ok()?;
            (worker["pid"] != old && worker["state"] == "ready").then_some(())
        })
        .with_context(|| format!("worker {id} did not come back:\n{}", self.log_text()))
    }

    /// A stream's directory.
    pub fn stream_dir(&self, name: &str) -> PathBuf {
        self.shared_dir.join("streams/__defaultVhost__/live").join(name)
    }

    /// What the server has logged.
    pub fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Ends the server with SIGTERM and waits for its end.
    pub fn stop(&mut self) -> Result<std::process::ExitStatus> {
        signal(self.child.id(), "TERM")?;
        self.wait_end()
    }

    /// Waits for the end of the front.
    pub fn wait_end(&mut self) -> Result<std::process::ExitStatus> {
        let status = eventually(Duration::from_secs(60), || self.child.try_wait().ok().flatten());
        status.with_context(|| format!("the server did not end:\n{}", self.log_text()))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A front that has taken over is nobody's child here.
        let ours = |pid: &u32| {
            let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            *pid != self.child.id() && String::from_utf8_lossy(&words).contains(&*self.shared_dir.to_string_lossy())
        };
        if let Some(pid) = self.front_pid().filter(ours) {
            let _ = signal(pid, "TERM");
            if eventually(Duration::from_secs(10), || (!alive(pid)).then_some(())).is_none() {
                let _ = signal(pid, "KILL");
            }
        }
        if self.child.try_wait().ok().flatten().is_none() {
            let _ = signal(self.child.id(), "TERM");
            if eventually(Duration::from_secs(10), || self.child.try_wait().ok().flatten()).is_none() {
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
        }
        end_processes_of(&self.shared_dir);
        self.keep_log();
    }
}

impl Server {
    /// Leaves the log in `target/e2e/`, by the test's name: there it is found when the test has failed.
    fn keep_log(&self) {
        let test = std::thread::current().name().unwrap_or("test").replace("::", ".");
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/e2e");
        if std::fs::create_dir_all(&dir).is_ok() {
            let _ = std::fs::copy(&self.log, dir.join(format!("{test}.{}.log", self.child.id())));
        }
    }
}

/// Ends workers and processes of other servers that outlive their front. Waits until they are dead.
fn end_processes_of(shared_dir: &Path) {
    for pid in processes_of(shared_dir) {
        let _ = signal(pid, "KILL");
        let _ = eventually(Duration::from_secs(10), || (!alive(pid)).then_some(()));
    }
}

/// Those that use a test's shared directory: they have something in it open, or were started with a file in it.
pub fn processes_of(shared_dir: &Path) -> Vec<u32> {
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    let shared_dir = shared_dir.to_string_lossy();
    let names = |process: &Path, file: &str| {
        std::fs::read(process.join(file)).is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(&*shared_dir))
    };
    let uses = |process: &Path| names(process, "maps") || names(process, "cmdline");
    let pid = |process: &Path| process.file_name()?.to_str()?.parse().ok();
    processes.flatten().filter_map(|process| pid(&process.path()).filter(|_| uses(&process.path()))).collect()
}

/// Whether a process runs, or has still something to close: its memory goes first, its first thread may be gone before the others, and
/// its locks are free after all of them.
pub fn alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // proc(5): the state follows the name, which is in brackets and may hold any.
    let zombie = stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']));
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, |threads| threads.count());
    !zombie || threads > 1
}

/// Sends a signal by name.
pub fn signal(pid: u32, name: &str) -> Result<()> {
    send_signal(&pid.to_string(), name)
}

/// Sends a signal by name to a whole process group, as a terminal does.
pub fn signal_group(leader: u32, name: &str) -> Result<()> {
    send_signal(&format!("-{leader}"), name)
}

fn send_signal(pid: &str, name: &str) -> Result<()> {
    let status = Command::new("kill").args(["-s", name, "--", pid]).stderr(Stdio::null()).status()?;
    ensure!(status.success(), "cannot send {name} to {pid}");
    Ok(())
}
