//! What is counted of hooks: a shared page that the process which calls them writes, and `status` and the metrics read.
//!
//! Layout (all numbers native-endian): a header of 64-bit words, then a row for each hook, in the order of the configuration: its fingerprint, its
//! counters, its description. A hook's counters go on as long as the hook stays the same, whatever process writes them.

use super::MAX_HOOKS;
use crate::control::counters::HookCounter;
use braidcast_sys::SharedPage;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

/// The name of the page in the directory of hooks.
const NAME: &str = "page";
/// "BChooks" and the version of the layout.
const MAGIC: u64 = u64::from_be_bytes(*b"BChooks\x01");
const HEADER_BYTES: usize = 64;
const COUNTER_SLOTS: usize = 32;
const TEXT_BYTES: usize = 512;
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
    Hooks,
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
pub struct HooksPage(SharedPage);

impl HooksPage {
    /// Opens the page in the directory of hooks for writing, or makes a new one. `hooks`: fingerprint and description of each.
    pub fn create(directory: &Path, hooks: &[(u64, String)]) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(directory.join(NAME))?;
        let page = Self(SharedPage::map_writable(OwnedFd::from(file), PAGE_BYTES)?);
        let known = page.header(Header::Magic).load(Acquire) == MAGIC;
        page.header(Header::Hooks).store(0, Release);
        if !known {
            page.header(Header::Missed).store(0, Relaxed);
        }
        for (hook, (fingerprint, description)) in hooks.iter().enumerate().take(MAX_HOOKS) {
            let same = known && page.0.u64(row_at(hook)).load(Relaxed) == *fingerprint;
            for counter in HookCounter::ALL.iter().filter(|counter| !same || is_gauge(**counter)) {
                page.counter(hook, *counter).store(0, Relaxed);
            }
            page.0.u64(row_at(hook)).store(*fingerprint, Relaxed);
            page.describe(hook, description);
        }
        page.header(Header::Magic).store(MAGIC, Release);
        page.header(Header::Hooks).store(hooks.len().min(MAX_HOOKS) as u64, Release);
        Ok(page)
    }

    /// Opens the page for reading. `InvalidData`: it is of another version.
    pub fn open(directory: &Path) -> io::Result<Self> {
        let page = Self(SharedPage::map_readonly(OwnedFd::from(File::open(directory.join(NAME))?), PAGE_BYTES)?);
        match page.header(Header::Magic).load(Acquire) {
            MAGIC => Ok(page),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the hooks' page is of another version of braidcast")),
        }
    }

    /// A hook's counter.
    pub fn counter(&self, hook: usize, counter: HookCounter) -> &AtomicU64 {
        self.0.u64(row_at(hook) + COUNTERS_AT + counter as usize * 8)
    }

    /// Events that were gone from the log before they were read.
    pub fn missed(&self) -> &AtomicU64 {
        self.header(Header::Missed)
    }

    /// What is known of each hook, in the order of the configuration.
    pub fn rows(&self) -> Vec<Row> {
        let hooks = usize::try_from(self.header(Header::Hooks).load(Acquire)).unwrap_or(0).min(MAX_HOOKS);
        let row = |hook| Row {
            description: self.description(hook),
            counters: HookCounter::ALL.iter().map(|counter| self.counter(hook, *counter).load(Relaxed)).collect(),
        };
        (0..hooks).map(row).collect()
    }

    fn describe(&self, hook: usize, description: &str) {
        let mut end = description.len().min(TEXT_BYTES);
        while !description.is_char_boundary(end) {
            end -= 1;
        }
        for at in 0..TEXT_BYTES / 8 {
            let mut word = [0; 8];
            let piece = description.as_bytes()[..end].chunks(8).nth(at).unwrap_or_default();
            word[..piece.len()].copy_from_slice(piece);
            self.0.u64(row_at(hook) + TEXT_AT + at * 8).store(u64::from_ne_bytes(word), Relaxed);
        }
    }

    fn description(&self, hook: usize) -> String {
        let words = (0..TEXT_BYTES / 8).map(|at| self.0.u64(row_at(hook) + TEXT_AT + at * 8).load(Relaxed).to_ne_bytes());
        let bytes: Vec<u8> = words.flatten().take_while(|byte| *byte != 0).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn header(&self, header: Header) -> &AtomicU64 {
        self.0.u64(header as usize * 8)
    }
}

fn is_gauge(counter: HookCounter) -> bool {
    matches!(counter, HookCounter::Waiting | HookCounter::Resting)
}

fn row_at(hook: usize) -> usize {
    assert!(hook < MAX_HOOKS, "a configuration has at most {MAX_HOOKS} hooks");
    HEADER_BYTES + hook * ROW_BYTES
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn counters_go_on_while_a_hook_stays_the_same() {
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        assert!(HooksPage::open(directory.path()).is_err());
        let hooks = [(1, "on_play http://a/".to_owned()), (2, "ü".repeat(TEXT_BYTES))];
        let page = HooksPage::create(directory.path(), &hooks).unwrap();
        for hook in 0..2 {
            page.counter(hook, HookCounter::Calls).fetch_add(3, Relaxed);
            page.counter(hook, HookCounter::Waiting).store(7, Relaxed);
        }
        let rows = HooksPage::open(directory.path()).unwrap().rows();
        assert_eq!((rows.len(), rows[0].description.as_str(), rows[0].counters[0]), (2, "on_play http://a/", 3));
        assert_eq!(rows[1].description, "ü".repeat(TEXT_BYTES / 2));
        let page = HooksPage::create(directory.path(), &[(1, "x".into()), (9, "y".into())]).unwrap();
        let calls = [0, 1].map(|hook| page.counter(hook, HookCounter::Calls).load(Relaxed));
        assert_eq!((calls, page.counter(0, HookCounter::Waiting).load(Relaxed)), ([3, 0], 0));
    }
}
