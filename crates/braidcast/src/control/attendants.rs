//! What the front and its attendants say to each other: processes of ours beside the workers, one for each role.
//!
//! As between front and workers one message is one packet, with the descriptors its variant names. An attendant connects to the front, by
//! a socket in the shared directory, and again to each front that comes after it.

use super::counters::TlsCounter;
use super::{ConnId, Listener, ListeningSocket};
use crate::hooks::Action;
use crate::logging::RoomLevel;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// The directory of the attendants' files in the shared directory.
pub const DIRECTORY: &str = "attendants";
/// The name of the socket in the shared directory where the front is found.
pub const SOCKET_NAME: &str = "attendants.sock";
/// The version of the messages below. [`FromAttendant::Hello`] and [`ToAttendant::Retire`] are the same in all of them.
pub const PROTOCOL: u32 = 1;

/// Where an attendant finds the front.
pub fn socket_path(shared_dir: &Path) -> PathBuf {
    shared_dir.join(SOCKET_NAME)
}

/// Where a file of an attendant lies.
pub fn file_of(shared_dir: &Path, role: Role, suffix: &str) -> PathBuf {
    shared_dir.join(DIRECTORY).join(format!("{role}.{suffix}"))
}

/// What an attendant is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
pub enum Role {
    /// It takes TLS off.
    Tls,
    /// It calls others' HTTP servers.
    Hooks,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Tls, Self::Hooks];

    /// The names of its counters, in the order of their places in its page.
    pub fn counters(self) -> Vec<&'static str> {
        match self {
            Self::Tls => TlsCounter::ALL.iter().map(|counter| counter.label()).collect(),
            Self::Hooks => Vec::new(),
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tls => "tls",
            Self::Hooks => "hooks",
        })
    }
}

/// From the front to an attendant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToAttendant {
    /// Take no new work; end when what there is has been done.
    Retire,
    /// The answer to [`FromAttendant::Hello`], and said again when something of it has changed. Descriptors: the listening sockets.
    Welcome {
        /// The effective configuration, as JSON.
        config: String,
        /// The listening sockets that are this role's, in the order of the descriptors.
        listening: Vec<ListeningSocket>,
        /// As if [`ToAttendant::Hold`] had been said.
        held: bool,
    },
    /// Whether arrivals have to wait. `true` is answered by [`FromAttendant::Held`].
    Hold(bool),
    /// End now: the workers have.
    End,
    /// A question about something that has not happened yet. Answered by [`FromAttendant::Decided`], in any order.
    Decide {
        /// Which question.
        id: DecisionId,
        /// What is to happen, as JSON.
        event: String,
    },
    /// Where log lines go from now on. Descriptor: standard error.
    LogFile,
    /// The levels of log lines that are not as they are configured, all of them.
    LogLevels(Vec<RoomLevel>),
    /// The certificates there are, all of them, after the welcome and whenever a file has changed. Descriptors: of each that could be opened
    /// the file of the certificate and that of the key.
    Certificates(Vec<OpenedCertificate>),
}

/// A certificate's files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenedCertificate {
    /// The path of the certificate.
    pub cert: String,
    /// The path of its key.
    pub key: String,
    /// Why they could not be opened.
    pub error: Option<String>,
}

/// From an attendant to the front.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromAttendant {
    /// First message.
    Hello {
        /// [`PROTOCOL`].
        protocol: u32,
        /// What it is for.
        role: Role,
        /// Its process.
        pid: u32,
        /// Tells one binary from another: [`program`].
        program: u64,
        /// It was told to take no new work.
        retired: bool,
    },
    /// No [`FromAttendant::Arrived`] follows until [`ToAttendant::Hold`] says that it may, or a front's welcome does.
    Held,
    /// A client has connected. Descriptor: a TCP connection on which its bytes come and go.
    Arrived {
        /// Where it came in.
        listener: Listener,
        /// Who it is.
        peer: SocketAddr,
        /// The address it connected to.
        local: SocketAddr,
    },
    /// The answer to [`ToAttendant::Decide`]. The front that has asked may be gone: then nobody knows the question.
    Decided(Decision),
    /// The configuration wants something that this process cannot do any more: it is to be replaced by another one.
    Outgrown,
}

/// Which question it is. A front that comes after the one that has asked asks with the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DecisionId {
    /// Whose connection it is about.
    pub conn: ConnId,
    /// Which question about that connection, from 0.
    pub asked: u32,
    /// What is to happen.
    pub action: Action,
}

impl fmt::Display for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} ({})", self.action.name(), self.conn, self.asked)
    }
}

/// What was decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// The question's.
    pub id: DecisionId,
    /// Whether it may happen.
    pub allow: bool,
    /// Where the stream is to be pushed to as well: URLs.
    pub forward: Vec<String>,
    /// Why not, for the log.
    pub message: String,
}

/// Tells the binary that runs in this process from others that lie, lay or will lie at its path.
pub fn program() -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    use std::os::unix::fs::MetadataExt;
    let mut hasher = DefaultHasher::new();
    if let Ok(file) = std::fs::metadata("/proc/self/exe") {
        (file.dev(), file.ino(), file.mtime(), file.mtime_nsec()).hash(&mut hasher);
    }
    hasher.finish()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::{decode, encode};
    use super::*;

    #[test]
    fn what_is_the_same_in_all_versions() {
        assert_eq!(encode(&ToAttendant::Retire), [0]);
        let hello = FromAttendant::Hello { protocol: 1, role: Role::Hooks, pid: 7, program: 3, retired: true };
        assert_eq!(encode(&hello), [0, 1, 1, 7, 3, 1]);
        assert_eq!(decode::<FromAttendant>(&[0, 1, 1, 7, 3, 1]).unwrap(), hello);
        assert_eq!(program(), program());
    }
}
