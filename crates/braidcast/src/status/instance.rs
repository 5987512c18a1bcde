//! Who holds which lock, without taking one even for a moment: whether an instance runs, and which process writes a stream.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The name of the file in the shared directory that the front locks for as long as it runs.
pub const LOCK_NAME: &str = "instance.lock";
/// The lock of a state directory, by its name there; the front holds it.
pub const STATE_LOCK_NAME: &str = "lock";

/// The process that holds the instance's lock. `None`: no instance runs with this shared directory, or one of another container does.
pub fn lock_holder(shared_dir: &Path) -> Option<u32> {
    Locks::read().holder(&shared_dir.join(LOCK_NAME))
}

/// The process that holds the lock of a state directory; `None`: nobody.
pub fn state_lock_holder(state_dir: &Path) -> Option<u32> {
    Locks::read().holder(&state_dir.join(STATE_LOCK_NAME))
}

/// All exclusive `flock`s of the machine that can be seen from here, at one moment.
///
/// Taking a lock to see whether it is free would make whoever wants it in this moment give up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Locks(HashMap<Place, u32>);

/// Device (major, minor) and inode.
type Place = (u64, u64, u64);

impl Locks {
    pub fn read() -> Self {
        Self::parse(&fs::read_to_string("/proc/locks").unwrap_or_default())
    }

    /// The process that locked a file.
    pub fn holder(&self, path: &Path) -> Option<u32> {
        let file = fs::metadata(path).ok()?;
        let (device, inode) = (file.dev(), file.ino());
        // As the C library splits them (makedev(3)).
        let major = ((device >> 8) & 0xfff) | ((device >> 32) & !0xfff);
        let minor = (device & 0xff) | ((device >> 12) & !0xff);
        self.0.get(&(major, minor, inode)).copied()
    }

    /// `1: FLOCK  ADVISORY  WRITE 4711 00:1b:42 0 EOF` (proc(5)): the device's numbers are hexadecimal, the inode's decimal.
    fn parse(locks: &str) -> Self {
        let line = |line: &str| {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            let [_, "FLOCK", _, "WRITE", pid, place, ..] = fields[..] else { return None };
            let mut parts = place.splitn(3, ':');
            let mut hexadecimal = || u64::from_str_radix(parts.next()?, 16).ok();
            let (major, minor) = (hexadecimal()?, hexadecimal()?);
            Some(((major, minor, parts.next()?.parse().ok()?), pid.parse().ok()?))
        };
        Self(locks.lines().filter_map(line).collect())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use braidcast_sys::file::try_lock_exclusive;

    #[test]
    fn the_holder_is_seen_while_it_holds() {
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        assert_eq!(lock_holder(directory.path()), None);
        let file = fs::File::create(directory.path().join(LOCK_NAME)).unwrap();
        assert_eq!(lock_holder(directory.path()), None);
        assert!(try_lock_exclusive(&file).unwrap());
        assert_eq!(lock_holder(directory.path()), Some(std::process::id()));
        drop(file);
        assert_eq!(lock_holder(directory.path()), None);
    }

    #[test]
    fn lines_of_proc_locks_are_read() {
        let locks = "1: POSIX  ADVISORY  WRITE 12 00:1b:42 0 EOF\n\
                     2: FLOCK  ADVISORY  READ 13 00:1b:42 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 14 00:1b:43 0 EOF\n\
                     3: -> FLOCK  ADVISORY  WRITE 15 00:1b:44 0 EOF\n\
                     4: FLOCK  ADVISORY  WRITE 16 fd:01:45 0 EOF\n\
                     5: FLOCK\n";
        let expected = HashMap::from([((0, 0x1b, 43), 14), ((0xfd, 1, 45), 16)]);
        assert_eq!(Locks::parse(locks).0, expected);
    }
}
