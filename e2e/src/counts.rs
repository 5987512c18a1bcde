//! Counts of what a process does: system calls and the bytes they moved, by strace. They tell how much
//! work is done for a thing, whatever the machine's speed.
//!
//! A count that is above its bound is an error that says all that was counted.

use crate::tools::{eventually, run_ok};
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);
/// Calls that take bytes from the kernel or give it some: each copies what it returns.
const COPYING: [&str; 11] =
    ["read", "pread64", "readv", "recvfrom", "recvmsg", "write", "pwrite64", "writev", "pwritev", "sendto", "sendmsg"];

/// What a process is doing, being written down.
pub struct Trace {
    strace: Child,
    directory: TempDir,
}

/// What a process has done.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// System calls by name.
    pub calls: BTreeMap<String, u64>,
    /// Bytes that copying calls moved, by name.
    pub copied: BTreeMap<String, u64>,
}

impl Trace {
    /// Begins.
    pub fn start(pid: u32) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let mut command = Command::new("strace");
        command.args(["-f", "-s", "0", "-p", &pid.to_string(), "-o"]).arg(directory.path().join("calls"));
        let mut strace = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().context("starting strace")?;
        let mut said = String::new();
        let mut lines = BufReader::new(strace.stderr.take().context("no standard error")?);
        while !said.contains("attached") {
            if lines.read_line(&mut said)? == 0 {
                bail!("strace did not attach: {said}");
            }
        }
        // It goes on to say things, and must not be stopped by a full pipe.
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        Ok(Self { strace, directory })
    }

    /// Ends, and says what was done meanwhile.
    pub fn stop(mut self) -> Result<Counts> {
        run_ok("kill", &["-INT", &self.strace.id().to_string()], PATIENCE)?;
        eventually(PATIENCE, || self.strace.try_wait().ok().flatten()).context("strace did not end")?;
        let text = std::fs::read_to_string(self.directory.path().join("calls"))?;
        Ok(Counts::parse(&text))
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _ = self.strace.kill();
        let _ = self.strace.wait();
    }
}

impl Counts {
    /// Of what strace wrote. A call that another thread interrupted is counted where it is resumed.
    fn parse(text: &str) -> Self {
        let mut counts = Self::default();
        for line in text.lines().filter(|line| !line.ends_with("<unfinished ...>")) {
            let Some((_, call)) = line.split_once(' ') else { continue };
            let call = call.trim_start();
            let name = match call.strip_prefix("<... ") {
                Some(resumed) => resumed.split(' ').next(),
                None => call.split_once('(').map(|(name, _)| name),
            };
            let Some((name, returned)) = name.zip(call.rsplit_once(" = ").map(|(_, returned)| returned)) else { continue };
            *counts.calls.entry(name.to_owned()).or_default() += 1;
            let bytes = returned.split(' ').next().and_then(|number| number.parse::<u64>().ok()).unwrap_or(0);
            if COPYING.contains(&name) {
                *counts.copied.entry(name.to_owned()).or_default() += bytes;
            }
        }
        counts
    }

    /// All system calls.
    pub fn all_calls(&self) -> u64 {
        self.calls.values().sum()
    }

    /// All bytes that were copied from and to the kernel.
    pub fn all_copied(&self) -> u64 {
        self.copied.values().sum()
    }

    fn told(&self) -> String {
        let mut text = String::from("calls:");
        for (name, count) in &self.calls {
            let _ = write!(text, " {name} {count}");
        }
        text.push_str("; bytes:");
        for (name, bytes) in &self.copied {
            let _ = write!(text, " {name} {bytes}");
        }
        text
    }
}

/// What is held to bounds: counts of one kind of work.
pub struct Judged<'a> {
    what: &'a str,
    counts: &'a Counts,
    times: f64,
    faults: Vec<String>,
}

impl<'a> Judged<'a> {
    /// So many `times` was something done.
    pub fn new(what: &'a str, counts: &'a Counts, times: u64) -> Self {
        Self { what, counts, times: times as f64, faults: Vec::new() }
    }

    /// System calls for each time.
    pub fn calls(self, most: f64) -> Self {
        let counted = self.counts.all_calls() as f64 / self.times;
        self.hold("system calls", counted, most)
    }

    /// System calls for each time, without those that wait: how often a process is woken is up to how others are scheduled too.
    pub fn calls_besides_waits(self, most: f64) -> Self {
        let waits: u64 = self.counts.calls.iter().filter(|(name, _)| name.starts_with("epoll_")).map(|(_, count)| count).sum();
        let counted = (self.counts.all_calls() - waits) as f64 / self.times;
        self.hold("system calls besides waits", counted, most)
    }

    /// Bytes copied for each of `bytes`.
    pub fn copies(self, bytes: u64, most: f64) -> Self {
        let counted = self.counts.all_copied() as f64 / bytes as f64;
        self.hold("bytes copied for each byte", counted, most)
    }

    fn hold(mut self, of: &str, counted: f64, most: f64) -> Self {
        println!("{}: {of} {counted:.3}, at most {most}", self.what);
        if counted > most {
            self.faults.push(format!("{of}: {counted:.3}, at most {most} are allowed"));
        }
        self
    }

    /// The error says what was exceeded, and what to do.
    pub fn verdict(self) -> Result<()> {
        if self.faults.is_empty() {
            return Ok(());
        }
        bail!(
            "{} costs more than before.\n{}\nCounted in all: {}.\nFind out what was added (strace -c, perf). If it has to be, raise the bound in e2e/tests/counts.rs and say why in CHANGELOG.md.",
            self.what,
            self.faults.join("\n"),
            self.counts.told()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_where_they_end() {
        let counts = Counts::parse(
            "7 sendto(5, \"\"..., 40, MSG_NOSIGNAL, NULL, 0) = 40\n7 epoll_pwait(3,  <unfinished ...>\n8 close(9) = 0\n\
             7 <... epoll_pwait resumed>[], 4, 9, NULL, 8) = 0\n7 recvfrom(5, 0x1, 9, 0, NULL, NULL) = -1 EAGAIN (Resource)\n7 +++ exited with 0 +++\n",
        );
        assert_eq!((counts.all_calls(), counts.all_copied(), counts.calls["epoll_pwait"]), (4, 40, 1));
    }

    #[test]
    fn what_is_exceeded_is_named_with_its_bound() {
        let counts = Counts { calls: BTreeMap::from([("sendto".to_owned(), 30)]), ..Counts::default() };
        assert!(Judged::new("x", &counts, 10).calls(3.0).verdict().is_ok());
        let error = Judged::new("x", &counts, 10).calls(2.9).verdict().err().map(|error| error.to_string());
        assert!(error.is_some_and(|error| error.contains("system calls: 3.000, at most 2.9") && error.contains("sendto 30")));
    }
}
