//! The attendants' lives: started, watched, started again after a death, replaced after an upgrade, ended after the workers.
//!
//! What they do is theirs. An attendant outlives the front: the next one finds it by its note, and waits until it says hello.

mod certificates;
mod hear;
mod process;

use super::backoff::HEALTHY_MS;
use super::timers::Timer;
use super::{Front, orphans, ownership, supervise};
use crate::attendant::report;
use crate::config::Config;
use crate::control::attendants::{Role, ToAttendant, file_of, program, socket_path};
use crate::sandbox;
use anyhow::Context;
use braidcast_sys::{Interest, net};
pub use certificates::check as check_certificates;
use hear::Link;
use process::{Place, Process, Stage};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// How long an attendant may take from its start, or from the end of the front before, until it says hello, milliseconds.
const HELLO_MS: u64 = 15_000;
/// Why the file that says who it is is called so.
const NOTE: &str = "pid";

/// The socket, and who is connected to it; the processes.
#[derive(Debug)]
pub struct Attendants {
    shared_dir: PathBuf,
    listener: OwnedFd,
    links: Vec<Option<Link>>,
    places: Vec<Place>,
    /// Those that take no new work.
    retired: Vec<(Role, Process)>,
    /// The workers have ended, and they were told to end too.
    ending: bool,
    shown: Vec<report::Process>,
    /// The files of certificates as they were passed on last.
    certificates: Vec<certificates::Stamp>,
}

/// Whether there is something to do for a role.
fn is_wanted(role: Role, config: &Config) -> bool {
    match role {
        Role::Tls => config.tls.is_on(),
        Role::Hooks => !config.hook.is_empty(),
    }
}

/// Kills the attendants of an instance whose workers are gone.
pub fn end_all(shared_dir: &Path) -> anyhow::Result<()> {
    for role in Role::ALL {
        if let Some((pid, handle)) = orphans::noted_at(&file_of(shared_dir, role, NOTE)) {
            tracing::warn!(%role, pid, "the attendant of an instance whose workers are gone is ended");
            orphans::kill(pid, handle)?;
        }
    }
    Ok(())
}

impl Attendants {
    /// Listens in the shared directory.
    pub fn open(shared_dir: &Path) -> io::Result<Self> {
        Ok(Self {
            shared_dir: shared_dir.to_owned(),
            listener: net::listen_local(&socket_path(shared_dir), 16)?,
            links: Vec::new(),
            places: Role::ALL.map(Place::new).into(),
            retired: Vec::new(),
            ending: false,
            shown: Vec::new(),
            certificates: Vec::new(),
        })
    }

    /// Whether none runs.
    pub fn is_empty(&self) -> bool {
        self.retired.is_empty() && self.places.iter().all(|place| place.process.is_none())
    }

    /// Kills all that run.
    pub fn kill_all(&self) {
        for (role, process) in self.processes() {
            tracing::warn!(%role, pid = process.pid, "the attendant has not ended in time: killing it");
            process.kill();
        }
    }

    /// Those that run.
    pub fn pids(&self) -> Vec<u32> {
        self.processes().map(|(_, process)| process.pid).collect()
    }

    fn processes(&self) -> impl Iterator<Item = (Role, &Process)> {
        let current = self.places.iter().filter_map(|place| Some((place.role, place.process.as_ref()?)));
        current.chain(self.retired.iter().map(|(role, process)| (*role, process)))
    }

    fn place(&mut self, role: Role) -> &mut Place {
        self.places.iter_mut().find(|place| place.role == role).expect("every role has a place")
    }

    fn process_mut(&mut self, pid: u32) -> Option<&mut Process> {
        let current = self.places.iter_mut().filter_map(|place| place.process.as_mut());
        current.chain(self.retired.iter_mut().map(|(_, process)| process)).find(|process| process.pid == pid)
    }

    /// A process that takes no new work from now on.
    fn retire(&mut self, role: Role) -> Option<u32> {
        let mut process = self.place(role).process.take()?;
        process.stage = Stage::Retiring;
        let pid = process.pid;
        self.retired.push((role, process));
        Some(pid)
    }

    /// Brings what `status` shows up to date.
    fn show(&mut self) {
        let row = |role: Role, restarts, process: &Process| report::Process {
            role: role.to_string(),
            pid: process.pid,
            state: process.stage.label().to_owned(),
            restarts,
            started_wall_ms: process.since_wall_ms,
        };
        let mut rows = Vec::new();
        for place in &self.places {
            match &place.process {
                Some(process) => rows.push(row(place.role, place.restarts, process)),
                None if place.restarts > 0 => rows.push(report::Process {
                    role: place.role.to_string(),
                    pid: 0,
                    state: "restarting".to_owned(),
                    restarts: place.restarts,
                    started_wall_ms: 0,
                }),
                None => {}
            }
        }
        rows.extend(self.retired.iter().map(|(role, process)| row(*role, 0, process)));
        if rows != self.shown {
            if let Err(error) = report::write(&self.shared_dir, &rows) {
                tracing::debug!(%error, "cannot say how the attendants get on");
            }
            self.shown = rows;
        }
    }
}

impl Front {
    /// Finds the attendants of the front before, starts those that are missing.
    pub(super) fn begin_attendants(&mut self) -> io::Result<()> {
        self.poller.add(&self.attendants.listener, super::token(super::ATTENDANT, 0), Interest::READ)?;
        let before = report::read(self.shared.path());
        for role in Role::ALL {
            match orphans::noted_at(&file_of(self.shared.path(), role, NOTE)) {
                Some((pid, handle)) => {
                    let mut process = Process::new(pid, handle, self.now_ms);
                    if let Some(before) = before.iter().find(|before| before.pid == pid) {
                        process.since_wall_ms = before.started_wall_ms;
                        self.attendants.place(role).restarts = before.restarts;
                    }
                    self.poller.add(&process.handle, super::token(super::ATTENDANT_PROCESS, pid as usize), Interest::READ)?;
                    tracing::info!(%role, pid, "the attendant of the front before goes on");
                    self.attendants.place(role).process = Some(process);
                    self.timers.set(Timer::AttendantOverdue(role), self.now_ms + HELLO_MS);
                }
                None if is_wanted(role, &self.config) => self.start_attendant(role),
                None => {}
            }
        }
        self.attendants.show();
        Ok(())
    }

    /// Starts the process of a role; a failure is tried again later like a death.
    pub(super) fn start_attendant(&mut self, role: Role) {
        if self.is_stopping() || self.attendants.place(role).process.is_some() {
            return;
        }
        match self.try_start_attendant(role) {
            Ok(process) => {
                tracing::debug!(%role, pid = process.pid, "the attendant is started");
                self.attendants.place(role).process = Some(process);
                self.timers.set(Timer::AttendantOverdue(role), self.now_ms + HELLO_MS);
            }
            Err(error) => {
                tracing::error!(%role, error = format!("{error:#}"), "the attendant cannot be started");
                self.plan_attendant(role, 0);
            }
        }
        self.attendants.show();
    }

    fn try_start_attendant(&mut self, role: Role) -> anyhow::Result<Process> {
        if role == Role::Tls && !self.config.acme.domains.is_empty() {
            ownership::hand_over_acme(&self.config, sandbox::identity(&self.config.sandbox)).context("what ACME keeps")?;
        }
        let process = Process::start(role, self.shared.path(), self.now_ms)?;
        let noted = orphans::note_at(&file_of(self.shared.path(), role, NOTE), process.pid);
        let watch = || self.poller.add(&process.handle, super::token(super::ATTENDANT_PROCESS, process.pid as usize), Interest::READ);
        if let Err(error) = noted.and_then(|()| watch()) {
            process.kill();
            return Err(error.into());
        }
        Ok(process)
    }

    fn plan_attendant(&mut self, role: Role, lived_ms: u64) {
        let place = self.attendants.place(role);
        place.restarts += 1;
        let pause_ms = place.backoff.next_ms(lived_ms);
        tracing::info!(%role, "the attendant is started again in {pause_ms} ms");
        self.timers.set(Timer::StartAttendant(role), self.now_ms + pause_ms);
    }

    /// A process of a role has ended.
    pub(super) fn attendant_ended(&mut self, pid: u32) {
        let Some(process) = self.attendants.process_mut(pid) else { return };
        if !process.handle.has_ended().unwrap_or(true) {
            return;
        }
        let ending = match process.handle.try_wait() {
            Ok(None) => return,
            Ok(Some(ending)) => supervise::describe(ending),
            Err(_) => "ended".to_owned(),
        };
        if let Err(error) = self.poller.delete(&process.handle) {
            tracing::debug!(pid, %error, "cannot leave a dead attendant");
        }
        self.unlink_attendant(pid);
        if let Some(index) = self.attendants.retired.iter().position(|(_, process)| process.pid == pid) {
            let (role, _) = self.attendants.retired.swap_remove(index);
            tracing::info!(%role, pid, "the attendant that was replaced {ending}");
        } else if let Some(place) = self.attendants.places.iter_mut().find(|place| place.process.as_ref().is_some_and(|it| it.pid == pid)) {
            let role = place.role;
            let lived_ms = place.process.take().map_or(0, |process| self.now_ms.saturating_sub(process.since_ms));
            self.timers.clear(Timer::AttendantOverdue(role));
            let _ = std::fs::remove_file(file_of(self.shared.path(), role, NOTE));
            if self.is_stopping() {
                tracing::info!(%role, pid, "the attendant {ending}");
            } else {
                tracing::error!(%role, pid, "the attendant {ending} after {lived_ms} ms: what went through it is lost");
                // What was killed from outside after it had served for a while is no reason to be careful.
                self.plan_attendant(role, if lived_ms >= HEALTHY_MS { u64::MAX } else { lived_ms });
            }
        }
        self.attendants.show();
    }

    /// It has not said hello.
    pub(super) fn attendant_overdue(&mut self, role: Role) {
        let place = self.attendants.place(role);
        if let Some(process) = place.process.as_ref().filter(|process| process.stage == Stage::Starting) {
            tracing::error!(%role, pid = process.pid, "the attendant does not say hello: killing it");
            process.kill();
        }
    }

    /// After an upgrade: those that run another binary than this front make room for new ones.
    pub(super) fn replace_attendants(&mut self) {
        let ours = program();
        for role in Role::ALL {
            let process = self.attendants.place(role).process.as_ref();
            if process.is_some_and(|process| process.program.is_some_and(|program| program != ours)) {
                self.replace_attendant(role);
            }
        }
    }

    fn replace_attendant(&mut self, role: Role) {
        let Some(pid) = self.attendants.retire(role) else { return };
        tracing::info!(%role, pid, "the attendant is replaced: it ends when its work is done");
        self.tell_attendant(pid, &ToAttendant::Retire, Vec::new());
        if is_wanted(role, &self.config) {
            self.start_attendant(role);
        }
        self.attendants.show();
    }

    /// The server ends: no client is taken by TLS any more.
    pub(super) fn retire_tls(&mut self) {
        for role in Role::ALL {
            self.timers.clear(Timer::StartAttendant(role));
        }
        if let Some(pid) = self.attendants.place(Role::Tls).process.as_ref().map(|process| process.pid) {
            self.tell_attendant(pid, &ToAttendant::Retire, Vec::new());
        }
    }

    /// When the server ends and the workers have ended: now the attendants end too.
    pub(super) fn end_attendants(&mut self) {
        if !self.is_stopping() || self.attendants.ending || !self.no_worker_runs() {
            return;
        }
        self.attendants.ending = true;
        for pid in self.attendants.pids() {
            if let Some(process) = self.attendants.process_mut(pid) {
                process.stage = Stage::Stopping;
            }
            self.tell_attendant(pid, &ToAttendant::End, Vec::new());
        }
        if !self.attendants.is_empty() {
            self.timers.set(Timer::StopOverdue, self.now_ms + self.config.server.stop_grace.as_ms());
        }
        self.attendants.show();
    }
}
