//! Signals that end the server in order, as readable bytes.

use anyhow::Context;
use braidcast_sys::process::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::consts::SIGQUIT;
use std::fs;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

/// Becomes readable when somebody asks the server to end.
#[derive(Debug)]
pub struct Signals(UnixStream);

impl Signals {
    /// Takes over `SIGTERM`, `SIGINT` and `SIGQUIT`, and `SIGHUP` (the terminal is gone) unless it is ignored (`nohup`).
    pub fn take_over() -> anyhow::Result<Self> {
        let (read, write) = UnixStream::pair().context("a pipe for signals")?;
        read.set_nonblocking(true).context("a pipe for signals")?;
        for signal in [SIGTERM, SIGINT, SIGQUIT, SIGHUP] {
            if signal == SIGHUP && is_ignored(SIGHUP) {
                continue;
            }
            let write = write.try_clone().context("a pipe for signals")?;
            signal_hook::low_level::pipe::register(signal, write).with_context(|| format!("taking over signal {signal}"))?;
        }
        Ok(Self(read))
    }

    /// How many have come since the last call.
    pub fn drain(&mut self) -> usize {
        let (mut count, mut buffer) = (0, [0; 64]);
        loop {
            match self.0.read(&mut buffer) {
                Ok(0) => return count,
                Ok(bytes) => count += bytes,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return count,
            }
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
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
        assert_eq!(signals.drain(), 0);
        signal_hook::low_level::raise(SIGTERM).unwrap();
        assert_eq!(signals.drain(), 1);
        assert!(!is_ignored(SIGTERM));
        // Rust ignores it before main.
        assert!(is_ignored(signal_hook::consts::SIGPIPE));
    }
}
