//! The files of certificates and keys: the front opens them, which may read what others may not, and passes them on, again when they have changed.
//! It reads none once the server runs.

use crate::config::{Certificate, Config};
use crate::control::attendants::{OpenedCertificate, Role, ToAttendant};
use crate::front::Front;
use crate::front::timers::Timer;
use crate::tls;
use anyhow::bail;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// How often the files are looked at, milliseconds.
const LOOK_MS: u64 = 2_000;

/// asm-generic/fcntl.h: whatever lies there, opening it does not wait.
const O_NONBLOCK: i32 = 0o4000;

/// Tells a file, or its absence, from what lay there before: device, inode, time of the last change, size.
pub type Stamp = Option<(u64, u64, i64, i64, u64)>;

fn stamp(path: &Path) -> Stamp {
    let file = fs::metadata(path).ok()?;
    Some((file.dev(), file.ino(), file.mtime(), file.mtime_nsec(), file.size()))
}

fn stamps(certificates: &[Certificate]) -> Vec<Stamp> {
    certificates.iter().flat_map(|Certificate { cert, key }| [stamp(cert), stamp(key)]).collect()
}

fn open(path: &Path) -> Result<OwnedFd, String> {
    let regular = |file: File| match file.metadata()?.is_file() {
        true => Ok(file.into()),
        false => Err(io::Error::other("it is no file")),
    };
    OpenOptions::new()
        .read(true)
        .custom_flags(O_NONBLOCK)
        .open(path)
        .and_then(regular)
        .map_err(|error| format!("{}: {error}", path.display()))
}

/// Before the server starts: whether all certificates can be used.
///
/// # Errors
/// What an operator has to mend.
pub fn check(config: &Config) -> anyhow::Result<()> {
    for Certificate { cert, key } in config.certificate.iter().filter(|_| config.tls.is_on()) {
        if let Err(why) = tls::certificates::Certificate::read(cert, key) {
            bail!("[[certificate]] cert = {:?}: {why}", cert.display().to_string());
        }
    }
    Ok(())
}

impl Front {
    /// Passes all certificates on to the attendant for TLS.
    pub(super) fn pass_certificates(&mut self) {
        // First, so that what changes meanwhile is seen later.
        self.attendants.certificates = stamps(&self.config.certificate);
        let (mut opened, mut fds) = (Vec::new(), Vec::new());
        for Certificate { cert, key } in &self.config.certificate {
            let both = open(cert).and_then(|cert| Ok([cert, open(key)?]));
            let error = match both {
                Ok(both) => {
                    fds.extend(both);
                    None
                }
                Err(error) => Some(error),
            };
            opened.push(OpenedCertificate { cert: cert.display().to_string(), key: key.display().to_string(), error });
        }
        self.tell_role(Role::Tls, &ToAttendant::Certificates(opened), fds);
        self.timers.set(Timer::Certificates, self.now_ms + LOOK_MS);
    }

    /// Passes them on again if any has changed.
    pub(in crate::front) fn look_at_certificates(&mut self) {
        if stamps(&self.config.certificate) != self.attendants.certificates {
            return self.pass_certificates();
        }
        self.timers.set(Timer::Certificates, self.now_ms + LOOK_MS);
    }
}
