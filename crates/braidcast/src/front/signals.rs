//! Signals, as readable bytes.

use anyhow::Context;
use braidcast_sys::process::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::consts::SIGQUIT;
use std::fs;
use std::io::{ErrorKind, Read};
use std::os::unix::net::UnixStream;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// End in order: `SIGTERM`, `SIGINT`, `SIGQUIT`.
    Stop,
    /// Read the configuration anew: `SIGHUP`.
    Reload,
    /// Make room for the binary that lies on disk now: `SIGUSR2`.
    Upgrade,
    /// Open the log files again: `SIGUSR1`.
    Reopen,
}

/// Each becomes readable when a signal has come.
#[derive(Debug)]
pub struct Signals([(Wish, UnixStream); 4]);

impl Signals {
    /// Takes the signals over. `SIGHUP` only unless it is ignored (`nohup`).
    pub fn take_over() -> anyhow::Result<Self> {
        let stop = pipe(&[SIGTERM, SIGINT, SIGQUIT])?;
        let reload = pipe(if is_ignored(SIGHUP) { &[] } else { &[SIGHUP] })?;
        let (upgrade, reopen) = (pipe(&[SIGUSR2])?, pipe(&[SIGUSR1])?);
        Ok(Self([(Wish::Stop, stop), (Wish::Reload, reload), (Wish::Upgrade, upgrade), (Wish::Reopen, reopen)]))
    }

    /// The pipes, by their places.
    pub fn pipes(&self) -> impl Iterator<Item = (usize, &UnixStream)> {
        self.0.iter().map(|(_, pipe)| pipe).enumerate()
    }

    /// What was asked for at a place since the last call, and how often.
    pub fn drain(&mut self, place: usize) -> Option<(Wish, usize)> {
        let (wish, pipe) = self.0.get_mut(place)?;
        let (mut count, mut buffer) = (0, [0; 64]);
        loop {
            match pipe.read(&mut buffer) {
                Ok(0) => return Some((*wish, count)),
                Ok(bytes) => count += bytes,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Some((*wish, count)),
            }
        }
    }
}

fn pipe(signals: &[i32]) -> anyhow::Result<UnixStream> {
    let (read, write) = UnixStream::pair().context("a pipe for signals")?;
    read.set_nonblocking(true).context("a pipe for signals")?;
    for signal in signals {
        let write = write.try_clone().context("a pipe for signals")?;
        signal_hook::low_level::pipe::register(*signal, write).with_context(|| format!("taking over signal {signal}"))?;
    }
    // With no signal the other end would be closed, which reads as an end again and again.
    std::mem::forget(write);
    Ok(read)
}

/// Whether this process ignores a signal (`SigIgn` of `/proc/self/status`, proc(5): bit n − 1 is signal n).
fn is_ignored(signal: i32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_a_byte() {
        let mut signals = Signals::take_over().unwrap();
        assert_eq!(signals.drain(0), Some((Wish::Stop, 0)));
        signal_hook::low_level::raise(SIGTERM).unwrap();
        signal_hook::low_level::raise(SIGUSR2).unwrap();
        assert_eq!([0, 1, 2, 3].map(|place| signals.drain(place).unwrap().1), [1, 0, 1, 0]);
        assert_eq!(signals.drain(4), None);
        assert!(!is_ignored(SIGTERM));
        // Rust ignores it before main.
        assert!(is_ignored(signal_hook::consts::SIGPIPE));
    }
}
