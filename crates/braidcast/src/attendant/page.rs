//! An attendant's page: its counters, in a small mapped file that outlives it. Gauges are those of the process that takes new work.

use crate::control::attendants::{Role, file_of};
use braidcast_sys::SharedPage;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::AtomicU64;

/// How many counters a page has.
const SLOTS: usize = 128;

/// The page of a role. What was opened for reading must not be written to: that is a fault (SIGSEGV).
#[derive(Debug)]
pub struct Page(SharedPage);

impl Page {
    /// Opens the page of a role for writing, or makes it. Counters go on.
    pub fn create(shared_dir: &Path, role: Role) -> io::Result<Self> {
        let path = file_of(shared_dir, role, "page");
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        Ok(Self(SharedPage::map_writable(file, SLOTS * 8)?))
    }

    /// Opens the page of a role for reading.
    pub fn open(shared_dir: &Path, role: Role) -> io::Result<Self> {
        let file = File::open(file_of(shared_dir, role, "page"))?;
        Ok(Self(SharedPage::map_readonly(file, SLOTS * 8)?))
    }

    /// The counter at a place (below 128: panics otherwise, places are constants).
    pub fn counter(&self, place: usize) -> &AtomicU64 {
        self.0.u64(place * 8)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::Relaxed;

    #[test]
    fn counters_go_on_after_their_process() {
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        std::fs::create_dir(directory.path().join("attendants")).unwrap();
        assert!(Page::open(directory.path(), Role::Tls).is_err());
        Page::create(directory.path(), Role::Tls).unwrap().counter(SLOTS - 1).fetch_add(2, Relaxed);
        Page::create(directory.path(), Role::Tls).unwrap().counter(SLOTS - 1).fetch_add(3, Relaxed);
        assert_eq!(Page::open(directory.path(), Role::Tls).unwrap().counter(SLOTS - 1).load(Relaxed), 5);
    }
}
