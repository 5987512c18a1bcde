//! What attendants say, and what the front says to them. An attendant may be wrong about anything: nothing it says can stop the front.

use super::process::{Process, Stage};
use super::{Attendants, is_wanted};
use crate::control::attendants::{FromAttendant, PROTOCOL, Role, ToAttendant};
use crate::control::channel::Channel;
use crate::control::counters::FrontCounter;
use crate::front::listen::Socket;
use crate::front::timers::Timer;
use crate::front::{ATTENDANT, ATTENDANT_PROCESS, Front, token};
use braidcast_sys::{Interest, PidFd, net};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;

/// Attendants that are connected at once: one for each role, and some that were replaced.
const MOST_LINKS: usize = 16;
/// Messages taken from one attendant before the others have their turn.
const MESSAGES_PER_TURN: usize = 64;
/// How soon messages that wait are tried again, milliseconds.
const RETRY_SENDS_MS: u64 = 20;
/// How long it may take to hold arrivals before that is not waited for any more, milliseconds.
const HOLD_MS: u64 = 2_000;

/// A connection to an attendant.
#[derive(Debug)]
pub struct Link {
    channel: Channel,
    /// The process that has connected, as the kernel says.
    pid: u32,
    /// Who it is; `None`: it has not said hello.
    who: Option<(Role, u32)>,
    /// When it was told to hold arrivals, monotonic milliseconds, and whether it has said that it does.
    hold: Option<(u64, bool)>,
}

impl Front {
    /// Somebody connects (`index` 0), or says something.
    pub(in crate::front) fn attendants_turn(&mut self, index: usize) {
        let Some(link) = index.checked_sub(1) else { return self.take_attendant() };
        for _ in 0..MESSAGES_PER_TURN {
            let Some(Some(Link { channel, .. })) = self.attendants.links.get_mut(link) else { return };
            match channel.receive::<FromAttendant>() {
                Ok(None) => return,
                Ok(Some((message, fds))) => self.hear_attendant(link, message, fds.into_iter().next()),
                Err(error) if error.kind() == ErrorKind::InvalidData => {
                    self.count(FrontCounter::BadMessages);
                    tracing::error!(%error, "a message of an attendant was lost or malformed");
                }
                Err(_) => return self.unlink(link),
            }
        }
    }

    fn take_attendant(&mut self) {
        let Ok(socket) = net::accept_local(&self.attendants.listener) else { return };
        let links = &mut self.attendants.links;
        let place = links.iter().position(Option::is_none).unwrap_or(links.len());
        if place >= MOST_LINKS {
            return tracing::warn!("{MOST_LINKS} attendants are connected already: another one is turned away");
        }
        let Ok(pid) = net::peer_pid(&socket) else { return };
        let Ok(channel) = Channel::new(socket) else { return };
        if let Err(error) = self.poller.add(&channel, token(ATTENDANT, place + 1), Interest::READ) {
            return tracing::error!(%error, "cannot watch an attendant's connection");
        }
        let link = Some(Link { channel, pid, who: None, hold: None });
        match links.get_mut(place) {
            Some(free) => *free = link,
            None => links.push(link),
        }
    }

    fn hear_attendant(&mut self, link: usize, message: FromAttendant, fd: Option<OwnedFd>) {
        match message {
            FromAttendant::Hello { role, pid, .. } if self.attendants.pid_of(link) != Some(pid) => {
                self.count(FrontCounter::BadMessages);
                tracing::error!(%role, pid, "a process says that it is an attendant of another number than its own: it is not heard");
                self.unlink(link);
            }
            FromAttendant::Hello { protocol, role, pid, program, retired } => {
                if let Err(error) = self.meet_attendant(link, (protocol, role, pid, program), retired) {
                    tracing::error!(%role, pid, %error, "an attendant cannot be watched");
                    self.unlink(link);
                }
            }
            FromAttendant::Held => {
                if let Some(Some(Link { hold: Some((_, held)), .. })) = self.attendants.links.get_mut(link) {
                    *held = true;
                }
            }
            FromAttendant::Arrived { listener, peer, local } => match fd {
                Some(socket) if listener.is_tls() => self.arrived(listener, socket, peer, local),
                _ => {
                    self.count(FrontCounter::BadMessages);
                    tracing::error!(%peer, ?listener, "a connection of an attendant came without its descriptor, or by no such listener");
                }
            },
            FromAttendant::Outgrown => {
                let who = self.attendants.links.get(link).and_then(|link| link.as_ref()?.who);
                if let Some((role, pid)) = who
                    && self.attendants.place(role).process.as_ref().is_some_and(|process| process.pid == pid)
                {
                    self.replace_attendant(role);
                }
            }
            FromAttendant::Decided(decision) => {
                self.decided(decision);
                self.deliver();
            }
        }
    }

    /// An attendant says who it is.
    fn meet_attendant(&mut self, link: usize, (protocol, role, pid, program): (u32, Role, u32, u64), retired: bool) -> io::Result<()> {
        if self.attendants.process_mut(pid).is_none() {
            // Another front has started it, and did not come to note it.
            let process = Process::new(pid, PidFd::open(pid)?, self.now_ms);
            self.poller.add(&process.handle, token(ATTENDANT_PROCESS, pid as usize), Interest::READ)?;
            let wanted = !retired && is_wanted(role, &self.config);
            match &mut self.attendants.place(role).process {
                place @ None if wanted => *place = Some(process),
                _ => self.attendants.retired.push((role, Process { stage: Stage::Retiring, ..process })),
            }
        }
        self.unlink_attendant(pid);
        if let Some(Some(link)) = self.attendants.links.get_mut(link) {
            link.who = Some((role, pid));
        }
        let Some(process) = self.attendants.process_mut(pid) else { return Ok(()) };
        process.program = Some(program);
        let is_retired = process.stage == Stage::Retiring;
        if !is_retired {
            process.stage = Stage::Ready;
            self.timers.clear(Timer::AttendantOverdue(role));
            tracing::debug!(%role, pid, "the attendant is ready");
            if retired || protocol != PROTOCOL || !is_wanted(role, &self.config) {
                self.replace_attendant(role);
            }
        } else {
            self.tell_attendant(pid, &ToAttendant::Retire, Vec::new());
        }
        if protocol == PROTOCOL {
            self.welcome_attendant(pid, role)?;
            self.introduce_levels(pid);
            if role == Role::Hooks {
                self.ask_hooks_again();
            }
        }
        self.attendants.show();
        Ok(())
    }

    fn welcome_attendant(&mut self, pid: u32, role: Role) -> io::Result<()> {
        let theirs = || self.sockets.iter().filter(|socket| role == Role::Tls && socket.listener.is_tls());
        let listening = theirs().map(Socket::description).collect();
        let fds = theirs().map(|socket| socket.fd.try_clone()).collect::<io::Result<_>>()?;
        let held = !self.accepting;
        self.tell_attendant(pid, &ToAttendant::Welcome { config: self.config_json.clone(), listening, held }, fds);
        if held {
            self.tell_attendant(pid, &ToAttendant::Hold(true), Vec::new());
        }
        if role == Role::Tls {
            self.pass_certificates();
        }
        Ok(())
    }

    /// Says something to the attendant of a role that takes new work. False: there is none now, or it is not connected.
    pub(in crate::front) fn tell_role(&mut self, role: Role, message: &ToAttendant, fds: Vec<OwnedFd>) -> bool {
        let process = self.attendants.place(role).process.as_ref();
        let Some(pid) = process.filter(|process| process.stage == Stage::Ready).map(|process| process.pid) else { return false };
        self.tell_attendant(pid, message, fds)
    }

    /// False: it is not connected.
    pub(in crate::front) fn tell_attendant(&mut self, pid: u32, message: &ToAttendant, fds: Vec<OwnedFd>) -> bool {
        let Some(link) = self.attendants.link_of(pid) else { return false };
        let Some(Some(to)) = self.attendants.links.get_mut(link) else { return false };
        if let ToAttendant::Hold(held) = message {
            to.hold = held.then_some((self.now_ms, false));
        }
        if let Err(error) = to.channel.send(message, fds) {
            tracing::error!(pid, %error, "an attendant cannot be talked to");
            self.unlink(link);
            return false;
        }
        if to.channel.pending() > 0 {
            self.timers.set_if_idle(Timer::RetrySends, self.now_ms + RETRY_SENDS_MS);
        }
        true
    }

    /// Tries again to send what waits.
    pub(in crate::front) fn flush_attendants(&mut self) {
        for link in 0..self.attendants.links.len() {
            let Some(Some(to)) = self.attendants.links.get_mut(link) else { continue };
            match to.channel.flush() {
                Ok(()) if to.channel.pending() > 0 => self.timers.set_if_idle(Timer::RetrySends, self.now_ms + RETRY_SENDS_MS),
                Ok(()) => {}
                Err(_) => self.unlink(link),
            }
        }
    }

    /// Has arrivals wait where they are, or come on.
    pub(in crate::front) fn hold_arrivals(&mut self, held: bool) {
        let arriving = self.attendants.links.iter().flatten().filter_map(|link| link.who).filter(|(role, _)| *role == Role::Tls);
        for (_, pid) in arriving.collect::<Vec<_>>() {
            self.tell_attendant(pid, &ToAttendant::Hold(held), Vec::new());
        }
    }

    /// Whether none is on its way here.
    pub(in crate::front) fn arrivals_are_held(&self) -> bool {
        self.attendants.links.iter().flatten().all(|link| match (link.who, link.hold) {
            (Some((Role::Tls, _)), Some((since_ms, held))) => held || self.now_ms >= since_ms + HOLD_MS,
            _ => true,
        })
    }

    /// Forgets the connection to a process, but not one that has not said yet whose it is.
    pub(super) fn unlink_attendant(&mut self, pid: u32) {
        if let Some(link) = self.attendants.link_of(pid) {
            self.unlink(link);
        }
    }

    fn unlink(&mut self, link: usize) {
        let Some(link) = self.attendants.links.get_mut(link).and_then(Option::take) else { return };
        if let Err(error) = self.poller.delete(&link.channel) {
            tracing::debug!(%error, "cannot leave an attendant's connection");
        }
        // It connects again, or is dead, which its handle says.
        let lost = link.who.and_then(|(_, pid)| self.attendants.process_mut(pid)).filter(|process| process.stage == Stage::Ready);
        if let Some((process, (role, _))) = lost.zip(link.who) {
            process.stage = Stage::Starting;
            self.timers.set(Timer::AttendantOverdue(role), self.now_ms + super::HELLO_MS);
        }
    }
}

impl Attendants {
    fn pid_of(&self, link: usize) -> Option<u32> {
        self.links.get(link)?.as_ref().map(|link| link.pid)
    }

    fn link_of(&self, pid: u32) -> Option<usize> {
        self.links.iter().position(|link| link.as_ref().is_some_and(|link| link.who.is_some_and(|(_, of)| of == pid)))
    }
}
