//! The front's side of log files: it opens them, and opens them again when somebody has moved them away.
//!
//! Other processes are given descriptors, for they may not be allowed to open anything. A process's lines go to its standard error, which it has
//! from the front; so do its last words when it panics.

use crate::config::Config;
use anyhow::Context;
use braidcast_sys::process;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Log files may name clients: they are for the group of those who look after the server, and for nobody else.
const MODE: u32 = 0o640;

/// The files, and what was standard error before.
#[derive(Debug)]
pub struct LogFiles {
    lines: Option<PathBuf>,
    requests: Option<(PathBuf, File)>,
    before: OwnedFd,
}

impl LogFiles {
    /// Opens the files of a configuration; the one for lines becomes standard error. The error says which one cannot be opened.
    pub fn open(config: &Config) -> anyhow::Result<Self> {
        let path = |text: &str| if text.is_empty() { Ok(None) } else { std::path::absolute(text).map(Some) };
        let (lines, requests) = (path(&config.logging.file)?, path(&config.logging.access_log)?);
        let before = io::stderr().as_fd().try_clone_to_owned().context("standard error")?;
        let requests = match requests {
            Some(path) => Some((path.clone(), open(&path).with_context(|| format!("[logging] access_log = {path:?}"))?)),
            None => None,
        };
        if let Some(path) = &lines {
            open(path).and_then(|file| process::replace_stderr(&file)).with_context(|| format!("[logging] file = {path:?}"))?;
        }
        Ok(Self { lines, requests, before })
    }

    /// Opens them again, under the names that they had. What cannot be opened stays open as it is; each error is logged.
    pub fn reopen(&mut self) {
        if let Some(path) = &self.lines
            && let Err(error) = open(path).and_then(|file| process::replace_stderr(&file))
        {
            tracing::error!(path = %path.display(), %error, "the log file cannot be opened again: lines go on to the one that is open");
        }
        if let Some((path, file)) = &mut self.requests {
            match open(path) {
                Ok(new) => *file = new,
                Err(error) => {
                    tracing::error!(path = %path.display(), %error, "the access log cannot be opened again: lines go on to the one that is open");
                }
            }
        }
    }

    /// For another process: its standard error, if lines go to a file.
    pub fn lines(&self) -> io::Result<Option<OwnedFd>> {
        self.lines.as_ref().map(|_| io::stderr().as_fd().try_clone_to_owned()).transpose()
    }

    /// For a worker: where its HTTP requests are written, if they are.
    pub fn requests(&self) -> io::Result<Option<OwnedFd>> {
        self.requests.as_ref().map(|(_, file)| file.try_clone().map(OwnedFd::from)).transpose()
    }

    /// Standard error becomes again what it was: the start has failed, and who started it shall see why.
    pub fn give_back(&self) {
        if self.lines.is_some()
            && let Err(error) = process::replace_stderr(&self.before)
        {
            tracing::error!(%error, "standard error cannot be had back");
        }
    }
}

/// For a process that was given its standard error anew.
pub fn take_lines(file: &OwnedFd) {
    if let Err(error) = process::replace_stderr(file) {
        tracing::error!(%error, "the log file that the front sent cannot be used: lines go on to the one before");
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(MODE).open(path)
}
