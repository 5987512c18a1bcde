//! Waiting for conditions, running external programs, plain HTTP.

use anyhow::{Context, Result, ensure};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The seed of the environment (BRAIDCAST_TEST_SEED), else one of the time.
pub fn any_seed() -> u64 {
    let given = std::env::var("BRAIDCAST_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    given.unwrap_or_else(|| {
        std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH).map_or(1, |since| since.as_millis() as u64)
    })
}

/// Asks again and again until there is an answer, or the time is over.
pub fn eventually<T>(within: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + within;
    let mut pause = Duration::from_millis(10);
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(pause);
        // Questions cost CPU time that what is waited for may need.
        pause = (pause * 3 / 2).min(Duration::from_millis(150));
    }
}

/// A program that runs beside the test and is killed with its handle.
pub struct Tool(Child);

impl Tool {
    /// Starts a program; its errors go to the test's output.
    pub fn start(program: &str, arguments: &[&str]) -> Result<Self> {
        let child = Command::new(program).args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit()).spawn();
        child.map(Self).with_context(|| format!("starting {program}"))
    }

    /// Of a program that was started elsewhere.
    pub fn of(child: Child) -> Self {
        Self(child)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Whether it is still running.
    pub fn is_running(&mut self) -> bool {
        self.0.try_wait().ok().flatten().is_none()
    }

    /// Waits for its end.
    pub fn wait(&mut self, within: Duration) -> Result<std::process::ExitStatus> {
        eventually(within, || self.0.try_wait().ok().flatten()).context("the program did not end in time")
    }
}

impl Drop for Tool {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a program to its end, at most for `within`, and gives what it printed.
pub fn run(program: &str, arguments: &[&str], within: Duration) -> Result<Output> {
    let seconds = within.as_secs().max(1).to_string();
    let output = Command::new("timeout").args(["-k", "2", &seconds, program]).args(arguments).stdin(Stdio::null()).output();
    output.with_context(|| format!("running {program}"))
}

/// Like [`run`], but an error unless the program succeeds; gives its standard output.
pub fn run_ok(program: &str, arguments: &[&str], within: Duration) -> Result<String> {
    let output = run(program, arguments, within)?;
    ensure!(output.status.success(), "{program} {arguments:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// An HTTP answer: status, head, body.
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// The head as text.
    pub head: String,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Whether a program is there to be run.
pub fn has(program: &str) -> bool {
    Command::new("sh").args(["-c", &format!("command -v {program}")]).stdout(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// Whether this process is root.
pub fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}

/// A directory in which workers, who are another user, may make files too.
pub fn open_directory() -> Result<tempfile::TempDir> {
    let directory = tempfile::tempdir()?;
    std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
    Ok(directory)
}

/// GET of `http://host:port/path`, read until the server closes.
pub fn http_get(url: &str) -> Result<Answer> {
    http("GET", url)
}

/// A request of any method, read until the server closes.
pub fn http(method: &str, url: &str) -> Result<Answer> {
    let (authority, path) = url.strip_prefix("http://").and_then(|rest| rest.split_once('/')).context("not an http URL")?;
    let mut stream = TcpStream::connect(authority)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    write!(stream, "{method} /{path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").context("no end of the response head")?;
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).context("no status")?;
    Ok(Answer { status, head, body: answer.split_off(end + 4) })
}
