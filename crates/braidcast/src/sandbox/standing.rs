//! How far a process is in the sandbox, as it notes it in its page for `status`.

use std::fmt;

const USER: u64 = 1;
const CALLS: u64 = 2;
const FILES: u64 = 4;
const PORTS: u64 = 8;

/// A set of restrictions that are in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing(u64);

impl Standing {
    /// As a number; 0: not in the sandbox.
    pub fn bits(self) -> u64 {
        self.0
    }

    /// From [`Standing::bits`].
    pub fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// What both have.
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether nothing is in force.
    pub fn is_none(self) -> bool {
        self.0 == 0
    }

    pub(super) fn note_user(&mut self, ordinary: bool) {
        self.0 |= if ordinary { USER } else { 0 };
    }

    pub(super) fn note_calls(&mut self) {
        self.0 |= CALLS;
    }

    /// What a version of Landlock restricts, when it does.
    pub(super) fn note_reach(&mut self, abi: u32) {
        self.0 |= FILES;
        self.0 |= if abi >= super::LANDLOCK_CONNECT { PORTS } else { 0 };
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_none() {
            return f.write_str("off");
        }
        let names = |wanted: bool| {
            let kinds = [(USER, "not root"), (CALLS, "system calls"), (FILES, "files"), (PORTS, "ports")];
            let fitting = kinds.into_iter().filter(|(bit, _)| (self.0 & bit != 0) == wanted).map(|(_, name)| name);
            fitting.collect::<Vec<_>>().join(", ")
        };
        match names(false).as_str() {
            "" => write!(f, "on ({})", names(true)),
            missing => write!(f, "not whole ({}; without: {missing})", names(true)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said() {
        let mut standing = Standing::default();
        assert_eq!(standing.to_string(), "off");
        standing.note_calls();
        standing.note_reach(3);
        assert_eq!(standing.to_string(), "not whole (system calls, files; without: not root, ports)");
        standing.note_user(true);
        standing.note_reach(4);
        assert_eq!(standing.to_string(), "on (not root, system calls, files, ports)");
        assert_eq!(Standing::from_bits(standing.bits()), standing);
        assert!(standing.and(Standing::default()).is_none());
    }
}
