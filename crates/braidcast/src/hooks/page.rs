//! What is counted of hooks: a shared page that the process which calls them writes, and `status` and the metrics read.
//!
//! Layout (all numbers native-endian): a header of 64-bit words, then rows: a hook's fingerprint, its place in the configuration, its counters, its
//! description. A hook keeps its row as long as it stays the same, whatever process writes there, and whatever hooks come and go beside it.

use super::MAX_HOOKS;
use crate::control::attendants::{Role, file_of};
use crate::control::counters::HookCounter;
use braidcast_sys::SharedPage;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

/// What the name of the page's file ends with.
const SUFFIX: &str = "calls";
/// "BChooks" and the version of the layout.
const MAGIC: u64 = u64::from_be_bytes(*b"BChooks\x01");
const HEADER_BYTES: usize = 64;
const COUNTER_SLOTS: usize = 32;
const TEXT_BYTES: usize = 512;
const FINGERPRINT_AT: usize = 0;
/// From 1; 0: the row is nobody's.
const PLACE_AT: usize = 8;
const COUNTERS_AT: usize = 16;
const TEXT_AT: usize = COUNTERS_AT + COUNTER_SLOTS * 8;
const ROW_BYTES: usize = TEXT_AT + TEXT_BYTES;
const PAGE_BYTES: usize = HEADER_BYTES + MAX_HOOKS * ROW_BYTES;

const _: () = assert!(HookCounter::ALL.len() <= COUNTER_SLOTS);

/// The words of the header.
#[derive(Clone, Copy)]
#[repr(usize)]
enum Header {
    Magic,
    /// Events that were gone from the log before they were read.
    Missed,
}

/// What is known of a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// What it is: its events, its URL without secrets, its streams.
    pub description: String,
    /// Its counters, in the order of [`HookCounter::ALL`].
    pub counters: Vec<u64>,
}

/// See the module's head. What was opened for reading must not be written to: that is a fault (SIGSEGV).
#[derive(Debug)]
pub struct HooksPage {
    page: SharedPage,
    /// The row of each hook of the configuration.
    rows: Vec<usize>,
}

impl HooksPage {
    /// Opens the page for writing, or makes a new one. `hooks`: fingerprint and description of each, in the order of the configuration.
    pub fn create(shared_dir: &Path, hooks: &[(u64, String)]) -> io::Result<Self> {
        let path = file_of(shared_dir, Role::Hooks, SUFFIX);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o640).open(path)?;
        let mut this = Self { page: SharedPage::map_writable(file, PAGE_BYTES)?, rows: Vec::new() };
        if this.header(Header::Magic).load(Acquire) != MAGIC {
            (0..MAX_HOOKS).for_each(|row| this.word(row, PLACE_AT).store(0, Relaxed));
            this.header(Header::Missed).store(0, Relaxed);
            this.header(Header::Magic).store(MAGIC, Release);
        }
        for row in 0..MAX_HOOKS {
            let of_row = this.word(row, FINGERPRINT_AT).load(Relaxed);
            if !hooks.iter().any(|(fingerprint, _)| *fingerprint == of_row) {
                this.word(row, PLACE_AT).store(0, Release);
            }
        }
        for (place, (fingerprint, description)) in hooks.iter().enumerate().take(MAX_HOOKS) {
            let taken = |row: &usize| this.word(*row, PLACE_AT).load(Relaxed) != 0;
            let own = |row: &usize| taken(row) && !this.rows.contains(row) && this.word(*row, FINGERPRINT_AT).load(Relaxed) == *fingerprint;
            let row = match (0..MAX_HOOKS).find(own) {
                Some(row) => row,
                None => {
                    let row = (0..MAX_HOOKS).find(|row| !taken(row)).ok_or(io::ErrorKind::StorageFull)?;
                    HookCounter::ALL.iter().for_each(|counter| this.counter_of(row, *counter).store(0, Relaxed));
                    this.word(row, FINGERPRINT_AT).store(*fingerprint, Relaxed);
                    row
                }
            };
            this.describe(row, description);
            this.word(row, PLACE_AT).store(place as u64 + 1, Release);
            this.rows.push(row);
        }
        Ok(this)
    }

    /// Opens the page for reading. `InvalidData`: it is of another version.
    pub fn open(shared_dir: &Path) -> io::Result<Self> {
        let file = File::open(file_of(shared_dir, Role::Hooks, SUFFIX))?;
        let mut this = Self { page: SharedPage::map_readonly(file, PAGE_BYTES)?, rows: Vec::new() };
        if this.header(Header::Magic).load(Acquire) != MAGIC {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the hooks' page is of another version of braidcast"));
        }
        let mut rows: Vec<(u64, usize)> = (0..MAX_HOOKS).map(|row| (this.word(row, PLACE_AT).load(Acquire), row)).collect();
        rows.retain(|(place, _)| *place != 0);
        rows.sort_unstable();
        this.rows = rows.into_iter().map(|(_, row)| row).collect();
        Ok(this)
    }

    /// The counter of a hook, named by its place in the configuration.
    pub fn counter(&self, hook: usize, counter: HookCounter) -> &AtomicU64 {
        self.counter_of(self.rows[hook], counter)
    }

    /// Events that were gone from the log before they were read.
    pub fn missed(&self) -> &AtomicU64 {
        self.header(Header::Missed)
    }

    /// What is known of each hook, in the order of the configuration.
    pub fn rows(&self) -> Vec<Row> {
        let row = |row: &usize| Row {
            description: self.description(*row),
            counters: HookCounter::ALL.iter().map(|counter| self.counter_of(*row, *counter).load(Relaxed)).collect(),
        };
        self.rows.iter().map(row).collect()
    }

    fn counter_of(&self, row: usize, counter: HookCounter) -> &AtomicU64 {
        self.word(row, COUNTERS_AT + counter as usize * 8)
    }

    fn word(&self, row: usize, at: usize) -> &AtomicU64 {
        self.page.u64(HEADER_BYTES + row * ROW_BYTES + at)
    }

    fn describe(&self, row: usize, description: &str) {
        let mut end = description.len().min(TEXT_BYTES);
        while !description.is_char_boundary(end) {
            end -= 1;
        }
        let mut pieces = description.as_bytes()[..end].chunks(8);
        for at in (TEXT_AT..ROW_BYTES).step_by(8) {
            let mut word = [0; 8];
            let piece = pieces.next().unwrap_or_default();
            word[..piece.len()].copy_from_slice(piece);
            self.word(row, at).store(u64::from_ne_bytes(word), Relaxed);
        }
    }

    fn description(&self, row: usize) -> String {
        let words = (TEXT_AT..ROW_BYTES).step_by(8).map(|at| self.word(row, at).load(Relaxed).to_ne_bytes());
        let bytes: Vec<u8> = words.flatten().take_while(|byte| *byte != 0).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn header(&self, header: Header) -> &AtomicU64 {
        self.page.u64(header as usize * 8)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn calls(page: &HooksPage) -> Vec<u64> {
        page.rows().iter().map(|row| row.counters[HookCounter::Calls as usize]).collect()
    }

    #[test]
    fn a_hook_keeps_its_counters_whatever_comes_and_goes_beside_it() {
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        let shared_dir = directory.path();
        std::fs::create_dir(shared_dir.join("attendants")).unwrap();
        assert!(HooksPage::open(shared_dir).is_err());
        let hooks = [(1, "on_play http://a/".to_owned()), (2, "ü".repeat(TEXT_BYTES)), (2, "twice".into())];
        let before = HooksPage::create(shared_dir, &hooks).unwrap();
        for hook in 0..3 {
            before.counter(hook, HookCounter::Calls).fetch_add(3 + hook as u64, Relaxed);
        }
        let read = HooksPage::open(shared_dir).unwrap();
        assert_eq!((read.rows()[0].description.as_str(), calls(&read)), ("on_play http://a/", vec![3, 4, 5]));
        assert_eq!(read.rows()[1].description, "ü".repeat(TEXT_BYTES / 2));
        let after = HooksPage::create(shared_dir, &[(9, "new".into()), (1, "on_play http://a/".into())]).unwrap();
        // A call that was under way when the configuration changed.
        before.counter(0, HookCounter::Calls).fetch_add(1, Relaxed);
        assert_eq!((calls(&after), calls(&HooksPage::open(shared_dir).unwrap())), (vec![0, 4], vec![0, 4]));
        let many: Vec<_> = (100..100 + MAX_HOOKS as u64).map(|of| (of, String::new())).collect();
        assert_eq!(calls(&HooksPage::create(shared_dir, &many).unwrap()), vec![0; MAX_HOOKS]);
    }
}
