//! Another front takes this one's place: from a new binary (upgrade), or with a changed configuration (reload).
//!
//! The successor is started beside this front, and first only shows that it can: it reads its configuration, and the versions of what
//! it would take over. Then this front waits for a quiet moment, writes down what it knows, and lets go of everything, as if it had
//! died; the successor finds the workers by the shared directory. If it fails even then, this front starts itself again and finds
//! them likewise. Nobody's connection depends on any of it: the workers have them all.

use super::timers::Timer;
use super::{Front, notify};
use crate::cli::ServeOptions;
use crate::control::channel::Channel;
use crate::control::{PROTOCOL, PROTOCOL_BEFORE, WorkerId};
use crate::events::{Event, Kind};
use crate::saved::Rows;
use crate::worker::{SAVED_VERSION, SAVED_VERSION_BEFORE, SAVED_VERSION_UNPACKED};
use anyhow::{Context, bail};
use braidcast_sys::process::SIGKILL;
use braidcast_sys::{Events, Interest, PidFd, Poller, child, clock, net};
use serde::{Deserialize, Serialize};
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// How long a successor may take to show that it can, milliseconds.
const PREPARE_MS: u64 = 20_000;
/// How long a quiet moment is waited for, milliseconds.
const QUIET_MS: u64 = 10_000;
/// How long a successor must live, serving, before its predecessor ends.
const PROBATION_MS: u64 = 2_000;
/// How long a successor may take until it has passed its probation.
const CONFIRM: Duration = Duration::from_secs(30);
/// How often a quiet moment is looked for, milliseconds.
const LOOK_MS: u64 = 10;
/// How long the lock of the predecessor may still be held when a successor starts.
pub(super) const LOCK_PATIENCE: Duration = Duration::from_secs(3);

/// Arguments of one start that say nothing about the next.
const ONCE: [&str; 3] = ["--ready-fd", "--succeed-fd", "--resumed"];

/// Why a front is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// There is a new binary.
    Upgrade,
    /// There is a new configuration.
    Reload,
}

/// From a front to its successor.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum ToSuccessor {
    /// Everything is yours.
    Go,
}

/// From a successor to the front before it.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum FromSuccessor {
    /// It can.
    Prepared { version: String, protocol: u32, saved: u8 },
    /// It cannot.
    Failed(String),
    /// It serves, and has for a while.
    Confirmed,
}

/// How far the succession has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// 1. The successor shows that it can.
    Preparing,
    /// 2. Moves that are under way come to their end; nothing new is begun.
    Quieting,
}

/// A succession from the side of the front that goes.
#[derive(Debug)]
pub struct Succession {
    channel: Channel,
    pid: u32,
    handle: PidFd,
    step: Step,
    since_ms: u64,
    version: String,
}

impl Front {
    /// Starts a successor. The error says why not.
    pub(super) fn begin_succession(&mut self, reason: Reason) -> Result<String, String> {
        if self.succession.is_some() {
            return Err("another front is just taking over".to_owned());
        }
        if self.is_stopping() {
            return Err("the server is ending".to_owned());
        }
        let succession = start(reason, self.now_ms).map_err(|error| format!("{error:#}"))?;
        let watched = self
            .poller
            .add(&succession.channel, super::token(super::SUCCESSOR, 0), Interest::READ)
            .and_then(|()| self.poller.add(&succession.handle, super::token(super::SUCCESSOR, 1), Interest::READ));
        if let Err(error) = watched {
            let _ = succession.handle.send_signal(SIGKILL);
            return Err(format!("the new front cannot be watched: {error}"));
        }
        let said = format!("another front was started (pid {})", succession.pid);
        tracing::info!(pid = succession.pid, ?reason, "another front was started: it shows that it can before it takes over");
        let kind = if reason == Reason::Upgrade { Kind::Upgrade } else { Kind::Reload };
        self.log(&Event { pid: Some(succession.pid), ..Event::new(kind) });
        self.timers.set(Timer::Succession, self.now_ms + PREPARE_MS);
        self.succession = Some(succession);
        self.gave_up = None;
        Ok(said)
    }

    /// The successor says something, or has ended.
    pub(super) fn hear_successor(&mut self) {
        let Some(succession) = &mut self.succession else { return };
        match succession.channel.receive::<FromSuccessor>() {
            Ok(Some((FromSuccessor::Prepared { version, protocol, saved }, _))) if succession.step == Step::Preparing => {
                let here = version_here(&self.config.server.shared_dir);
                if protocol != PROTOCOL || saved != here {
                    return self.give_up_succession(&format!(
                        "version {version} cannot take over from this one: control protocol {protocol} and saved state {saved}, here {PROTOCOL} and {here}"
                    ));
                }
                succession.step = Step::Quieting;
                succession.since_ms = self.now_ms;
                succession.version = version;
                self.watch_sockets();
                self.timers.set(Timer::Succession, self.now_ms);
            }
            Ok(Some((FromSuccessor::Failed(why), _))) => self.give_up_succession(&why),
            Ok(Some(_)) => self.give_up_succession("it spoke out of turn"),
            Ok(None) => {
                if succession.handle.has_ended().unwrap_or(false) {
                    self.give_up_succession("it ended before it could take over: its own lines say why");
                }
            }
            Err(error) => self.give_up_succession(&format!("it is not heard any more ({error}): its own lines say why")),
        }
    }

    /// The timer of the succession.
    pub(super) fn succession_due(&mut self) {
        let Some(succession) = &self.succession else { return };
        match succession.step {
            Step::Preparing => self.give_up_succession(&format!("it did not show in {PREPARE_MS} ms that it can")),
            Step::Quieting if self.is_quiet() => self.handing_over = true,
            Step::Quieting if self.now_ms >= succession.since_ms + QUIET_MS => {
                self.give_up_succession(&format!("there was no quiet moment in {QUIET_MS} ms: sessions were moving all the time"));
            }
            Step::Quieting => self.timers.set(Timer::Succession, self.now_ms + LOOK_MS),
        }
    }

    /// Nothing new is begun: no connection is accepted, no session is asked to move.
    pub(super) fn is_quieting(&self) -> bool {
        self.succession.as_ref().is_some_and(|succession| succession.step == Step::Quieting)
    }

    /// Nothing is under way that only this front knows of.
    fn is_quiet(&self) -> bool {
        let said =
            |id: WorkerId| self.worker(id).and_then(|worker| worker.process.as_ref()).is_none_or(|process| process.channel.pending() == 0);
        self.moves.len() == 0 && self.arrivals_are_held() && self.workers.iter().all(|worker| worker.serves() && said(worker.id))
    }

    fn give_up_succession(&mut self, why: &str) {
        let Some(succession) = self.succession.take() else { return };
        tracing::error!(pid = succession.pid, "the other front does not take over: {why}; this one goes on");
        self.gave_up = Some(why.to_owned());
        for result in [self.poller.delete(&succession.channel), self.poller.delete(&succession.handle)] {
            if let Err(error) = result {
                tracing::debug!(%error, "cannot leave a successor");
            }
        }
        end(&succession.handle);
        self.timers.clear(Timer::Succession);
        self.watch_sockets();
        self.timers.set(Timer::Orders, self.now_ms);
    }

    /// Writes down what only this front knows, lets go of everything, and waits until the successor is confirmed. Returns only then.
    pub(super) fn hand_over(mut self) -> anyhow::Result<ExitCode> {
        self.end_programs();
        let mut succession = self.succession.take().context("nobody was to succeed")?;
        self.tell_upgraders();
        let Self { budget, numbers, shared, poller, workers, attendants, vault, sockets, orders, .. } = self;
        budget.close();
        numbers.close()?;
        // The workers and attendants see no front for a moment, as if it had died; and nobody's connection hangs on this process any more.
        drop((poller, workers, attendants, vault, sockets, orders, shared));
        match succession.finish() {
            Ok(()) => {
                notify::main_pid(succession.pid);
                tracing::info!(pid = succession.pid, version = succession.version, "the other front has taken over: this one ends");
                Ok(ExitCode::SUCCESS)
            }
            Err(error) => {
                let why = format!("{error:#}");
                tracing::error!(pid = succession.pid, "the other front failed: {why}; this one takes over again");
                end(&succession.handle);
                Err(again(&why))
            }
        }
    }
}

impl Succession {
    /// Says go, and waits until it is confirmed.
    fn finish(&mut self) -> anyhow::Result<()> {
        self.channel.send(&ToSuccessor::Go, Vec::new()).context("it could not be told to take over")?;
        let (poller, mut events) = (Poller::new()?, Events::with_capacity(2));
        poller.add(&self.channel, 0, Interest::READ)?;
        poller.add(&self.handle, 1, Interest::READ)?;
        let deadline = Instant::now() + CONFIRM;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("it did not serve in {CONFIRM:?}");
            }
            poller.wait(&mut events, Some(left))?;
            match self.channel.receive::<FromSuccessor>() {
                Ok(Some((FromSuccessor::Confirmed, _))) => return Ok(()),
                Ok(Some((FromSuccessor::Failed(why), _))) => bail!("{why}"),
                Ok(Some(_)) => bail!("it spoke out of turn"),
                Ok(None) if self.handle.has_ended()? => bail!("it died in its first seconds"),
                Ok(None) => {}
                Err(error) => bail!("it is not heard any more: {error}"),
            }
        }
    }
}

/// Kills a successor that failed, and waits for its end.
fn end(handle: &PidFd) {
    // It may have ended by itself.
    let _ = handle.send_signal(SIGKILL);
    let deadline = Instant::now() + Duration::from_secs(5);
    while matches!(handle.try_wait(), Ok(None)) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn start(reason: Reason, now_ms: u64) -> anyhow::Result<Succession> {
    let program = match reason {
        Reason::Upgrade => program_on_disk()?,
        Reason::Reload => PathBuf::from("/proc/self/exe"),
    };
    let (ours, theirs) = net::seqpacket_pair().context("making its channel")?;
    let mut command = Command::new(&program);
    command.arg0("braidcast").args(arguments()).arg("--succeed-fd").arg(theirs.as_raw_fd().to_string());
    command.stdin(Stdio::null()).process_group(0);
    let child = child::spawn(command, &[theirs.as_fd()]).with_context(|| format!("starting {}", program.display()))?;
    let pid = child.id();
    let handle = PidFd::open(pid).context("watching it")?;
    Ok(Succession { channel: Channel::new(ours)?, pid, handle, step: Step::Preparing, since_ms: now_ms, version: String::new() })
}

/// Where the binary lies that this process was started from, though another one may lie there by now.
fn program_on_disk() -> anyhow::Result<PathBuf> {
    let path = std::env::current_exe().context("asking where the binary is")?;
    // The kernel says so behind the name of a file that was replaced (proc(5)).
    let text = path.to_string_lossy();
    Ok(text.strip_suffix(" (deleted)").map_or_else(|| path.clone(), PathBuf::from))
}

/// The arguments of this process, without those that were for its own start.
fn arguments() -> Vec<OsString> {
    without_once(std::env::args_os().skip(1))
}

fn without_once(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let (mut kept, mut value_follows) = (Vec::new(), false);
    for argument in arguments {
        if std::mem::take(&mut value_follows) {
            continue;
        }
        let text = argument.to_string_lossy();
        if ONCE.contains(&&*text) {
            value_follows = true;
        } else if !ONCE.iter().any(|once| text.strip_prefix(once).is_some_and(|rest| rest.starts_with('='))) {
            kept.push(argument);
        }
    }
    kept
}

/// Starts this very program anew in this process, which then takes over what the workers have. Returns only if that fails.
fn again(why: &str) -> anyhow::Error {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("braidcast").args(arguments()).args([OsStr::new("--resumed"), OsStr::new(why)]);
    anyhow::Error::new(command.exec()).context("starting this front again")
}

/// A succession from the side of the front that comes.
#[derive(Debug, Default)]
pub struct Predecessor(Option<(Channel, u64)>);

impl Predecessor {
    /// Takes the channel, if this front was started by another one.
    pub fn of(options: &ServeOptions) -> anyhow::Result<Self> {
        let Some(number) = options.succeed_fd else { return Ok(Self(None)) };
        let socket: OwnedFd = child::take_inherited(number).context("--succeed-fd: it is for fronts that replace another")?;
        Ok(Self(Some((Channel::new(socket)?, 0))))
    }

    /// Whether there is one.
    pub fn is_there(&self) -> bool {
        self.0.is_some()
    }

    /// Shows that this front can take over, and waits until it may.
    pub fn wait_for_go(&mut self, shared_dir: &Path) -> anyhow::Result<()> {
        let Some((channel, _)) = &mut self.0 else { return Ok(()) };
        let version = crate::VERSION.to_owned();
        // A front of the version before hears its own: this one reads what it has left.
        let (protocol, saved) = match Rows::are_of_before(shared_dir) {
            true => (PROTOCOL_BEFORE, SAVED_VERSION_BEFORE),
            false => (PROTOCOL, version_here(shared_dir)),
        };
        channel.send(&FromSuccessor::Prepared { version, protocol, saved: saved_version(saved) }, Vec::new())?;
        let wait = Duration::from_millis(PREPARE_MS + QUIET_MS);
        let (ToSuccessor::Go, _) = channel.receive_blocking(wait).context("waiting for the other front to let go")?;
        Ok(())
    }

    /// Says why this front cannot.
    pub fn fail(&mut self, error: &anyhow::Error) {
        if let Some((channel, _)) = &mut self.0 {
            // The other one sees the end of the process as well.
            let _ = channel.send(&FromSuccessor::Failed(format!("{error:#}")), Vec::new());
        }
    }

    /// This front serves. True when it has done so for long enough, once: the other one ends now.
    pub fn confirm(&mut self) -> bool {
        let now_ms = clock::monotonic_ms();
        let Some((channel, serves_since_ms)) = &mut self.0 else { return false };
        if *serves_since_ms == 0 {
            *serves_since_ms = now_ms;
        }
        if now_ms < *serves_since_ms + PROBATION_MS {
            return false;
        }
        // One that is gone needs no word.
        let _ = channel.send(&FromSuccessor::Confirmed, Vec::new());
        self.0 = None;
        true
    }
}

/// The version of what this instance saves.
fn version_here(shared_dir: &Path) -> u8 {
    if Rows::may_be_packed(shared_dir) { SAVED_VERSION } else { SAVED_VERSION_UNPACKED }
}

/// The version of saved state that this program says it reads.
#[cfg(not(feature = "faults"))]
fn saved_version(version: u8) -> u8 {
    version
}

/// As above, or the one that a test wants it to be.
#[cfg(feature = "faults")]
fn saved_version(version: u8) -> u8 {
    std::env::var("BRAIDCAST_TEST_SAVED_VERSION").ok().and_then(|version| version.parse().ok()).unwrap_or(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_for_one_start_is_not_said_again() {
        let words = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        let kept = without_once(words("serve --ready-fd 3 -c a.toml --succeed-fd=9 --resumed why --workers 2").into_iter());
        assert_eq!(kept, words("serve -c a.toml --workers 2"));
    }
}
