//! The log of the whole instance: its files are opened here for all processes, its levels are changed here for all of them.

use super::Front;
use crate::control::attendants::ToAttendant;
use crate::control::{ToWorker, WorkerId};
use crate::logging::{self, LogFiles, RoomLevel};
use std::io;
use std::os::fd::OwnedFd;

/// See the module's head.
#[derive(Debug, Default)]
pub struct Logs {
    /// Set when the front has begun.
    pub files: Option<LogFiles>,
    /// The levels that were changed since.
    pub changed: Vec<RoomLevel>,
}

impl Logs {
    /// With these files.
    pub fn new(files: LogFiles) -> Self {
        Self { files: Some(files), changed: Vec::new() }
    }

    /// For a worker; its lines go to its standard error, which it has from this process, unless that is `anew`.
    fn message(&self, anew: bool) -> io::Result<Option<(ToWorker, Vec<OwnedFd>)>> {
        let Some(files) = &self.files else { return Ok(None) };
        let (lines, requests) = (files.lines()?.filter(|_| anew), files.requests()?);
        let message = ToWorker::LogFiles { lines: lines.is_some(), requests: requests.is_some() };
        let fds: Vec<OwnedFd> = lines.into_iter().chain(requests).collect();
        Ok((!fds.is_empty()).then_some((message, fds)))
    }
}

impl Front {
    /// Tells a worker that has just come, or that another front had, where its lines go.
    pub(super) fn introduce_logs(&mut self, worker: WorkerId) {
        self.send_log_files(worker, false);
        if !self.logs.changed.is_empty() {
            self.send(worker, &ToWorker::LogLevels(self.logs.changed.clone()), Vec::new());
        }
    }

    /// Tells an attendant that has said hello which levels were changed.
    pub(super) fn introduce_levels(&mut self, pid: u32) {
        if !self.logs.changed.is_empty() {
            self.tell_attendant(pid, &ToAttendant::LogLevels(self.logs.changed.clone()), Vec::new());
        }
    }

    fn send_log_files(&mut self, worker: WorkerId, anew: bool) {
        match self.logs.message(anew) {
            Ok(Some((message, fds))) => self.send(worker, &message, fds),
            Ok(None) => {}
            Err(error) => tracing::error!(%worker, %error, "the worker cannot be told of the log files"),
        }
    }

    /// Somebody has moved the log files away: they are opened again, in all processes.
    pub(super) fn reopen_logs(&mut self) {
        let Some(files) = &mut self.logs.files else { return };
        files.reopen();
        self.ids().for_each(|id| self.send_log_files(id, true));
        for pid in self.attendants.pids() {
            let lines = self.logs.files.as_ref().and_then(|files| files.lines().transpose());
            match lines {
                Some(Ok(lines)) => {
                    self.tell_attendant(pid, &ToAttendant::LogFile, vec![lines]);
                }
                Some(Err(error)) => tracing::error!(pid, %error, "an attendant cannot be told of the log file"),
                None => {}
            }
        }
        tracing::info!("the log files were opened again");
    }

    /// Gives rooms other levels, in all processes, until the configuration is read anew. Says which levels differ from it now.
    pub(super) fn change_levels(&mut self, reset: bool, set: &[RoomLevel]) -> String {
        if reset {
            self.logs.changed.clear();
        }
        for level in set {
            self.logs.changed.retain(|other| other.room != level.room);
            self.logs.changed.push(*level);
        }
        let changed = self.logs.changed.clone();
        logging::set_levels(&changed);
        self.ids().for_each(|id| self.send(id, &ToWorker::LogLevels(changed.clone()), Vec::new()));
        for pid in self.attendants.pids() {
            self.tell_attendant(pid, &ToAttendant::LogLevels(changed.clone()), Vec::new());
        }
        match &*changed.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ") {
            "" => "all levels are as they are configured".to_owned(),
            levels => format!("levels that are not as they are configured: {levels}"),
        }
    }
}
