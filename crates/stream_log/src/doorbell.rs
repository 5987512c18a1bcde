//! Waking the workers that read a stream, without asking those that do not, and without losing a wake-up.
//!
//! Each worker has a page of its own, which it alone writes: whether it sleeps, which streams it reads, what it has counted.
//! And it has a second one, its news, which all write: which of the streams that it reads have grown, so that it need not look
//! at all of them to find those.
//!
//! The reader announces its sleep, fences, and looks at its news once more; the writer commits, fences, leaves the news, fences, and
//! then looks who sleeps. With the fences sequentially consistent, at least one of the two sees the other.

use crate::Root;
use braidcast_sys::{Dir, EventFd, SharedPage};
use std::collections::HashMap;
use std::fs;
use std::io;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicU64, fence};

/// How many counters a page has room for.
pub const COUNTERS: usize = 112;

const PAGE_BYTES: usize = 12 << 10;
const MAGIC: u64 = u64::from_le_bytes(*b"BRAIDWRK");
const PAGE_VERSION: u32 = 1;

mod at {
    pub const MAGIC: usize = 0;
    pub const VERSION: usize = 8;
    pub const BEATS: usize = 16;
    pub const BUSY_WITH: usize = 24;
    pub const BUSY_AT: usize = 32;
    /// Alone in its cache line: every writer looks at it after every commit.
    pub const SLEEPING: usize = 64;
    pub const COUNTERS: usize = 128;
    pub const READING: usize = 1024;
}

/// How many lanes the news have. A stream's lane is its slot modulo this: streams may share one.
const LANES: u16 = 4096;

/// Which lanes have news: a bit for each, and before them a bit for each 64 of those.
#[derive(Debug)]
struct News(SharedPage);

impl News {
    const BYTES: usize = 8 + LANES as usize / 8;

    /// Opens the news of a worker, made first if they are not there.
    fn open(root: &Root, worker: u16) -> io::Result<Self> {
        let file = Dir::open(&root.path().join("workers"))?.open_or_create(&format!("{worker}.news"))?;
        Ok(Self(SharedPage::map_writable(file, Self::BYTES)?))
    }

    fn word(&self, word: usize) -> &AtomicU64 {
        self.0.u64(8 + 8 * word)
    }

    fn summary(&self) -> &AtomicU64 {
        self.0.u64(0)
    }

    /// Leaves news of a stream; whether there were none yet. What was committed before must be followed by a fence: a lane that still
    /// has news is left alone, and whoever takes those sees the commit.
    fn leave(&self, slot: u16) -> bool {
        let lane = slot % LANES;
        let (word, bit) = (usize::from(lane / 64), 1 << (lane % 64));
        let is_known = self.word(word).load(Relaxed) & bit != 0 && self.summary().load(Relaxed) & 1 << word != 0;
        if !is_known {
            self.word(word).fetch_or(bit, SeqCst);
            self.summary().fetch_or(1 << word, SeqCst);
        }
        !is_known
    }

    fn take(&self, mut lane: impl FnMut(u16)) {
        let mut words = if self.summary().load(Relaxed) == 0 { 0 } else { self.summary().swap(0, SeqCst) };
        while words != 0 {
            let word = words.trailing_zeros() as u16;
            words &= words - 1;
            let mut bits = self.word(usize::from(word)).swap(0, SeqCst);
            fence(SeqCst);
            while bits != 0 {
                lane(word * 64 + bits.trailing_zeros() as u16);
                bits &= bits - 1;
            }
        }
    }
}

/// A worker's own page, for the worker itself.
#[derive(Debug)]
pub struct WorkerPage {
    page: SharedPage,
    news: News,
    /// How many of this worker's readers stand behind each set bit.
    readers: HashMap<u16, u32>,
}

impl WorkerPage {
    /// Makes the page `workers/<worker>`, or takes over the one of a dead predecessor, which others have mapped: awake,
    /// reading nothing. Counters go on; a gauge is for the caller to set. What is a page already is one at every moment: another
    /// worker may be opening it.
    pub fn create(root: &Root, worker: u16) -> io::Result<Self> {
        let directory = root.path().join("workers");
        fs::create_dir_all(&directory)?;
        let page = SharedPage::map_writable(Dir::open(&directory)?.open_or_create(&worker.to_string())?, PAGE_BYTES)?;
        let was_page = is_page(&page);
        if !was_page {
            page.u64(at::MAGIC).store(0, Release);
        }
        let kept = at::COUNTERS..if was_page { at::COUNTERS + 8 * COUNTERS } else { at::COUNTERS };
        for offset in (at::BEATS..PAGE_BYTES).step_by(8).filter(|offset| !kept.contains(offset)) {
            page.u64(offset).store(0, Relaxed);
        }
        let news = News::open(root, worker)?;
        news.take(|_| {});
        page.u32(at::VERSION).store(PAGE_VERSION, Relaxed);
        page.u64(at::MAGIC).store(MAGIC, Release);
        Ok(Self { page, news, readers: HashMap::new() })
    }

    /// Opens a worker's page for reading. `NotFound` if it was not made yet, `InvalidData` if it is no page of this version.
    pub fn open(root: &Root, worker: u16) -> io::Result<WorkerView> {
        let file = Dir::open(&root.path().join("workers"))?.open_file(&worker.to_string())?;
        let view = WorkerView(SharedPage::map_readonly(file, PAGE_BYTES)?);
        if !is_page(&view.0) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "no page of a worker"));
        }
        Ok(view)
    }

    /// Says that this worker goes on: once a turn.
    pub fn beat(&self) {
        self.page.u64(at::BEATS).fetch_add(1, Relaxed);
    }

    /// Says which connection's input is being processed, and from which byte of it on. If the worker dies of it, this tells.
    pub fn busy_with(&self, connection: u64, position: u64) {
        self.page.u64(at::BUSY_AT).store(position, Relaxed);
        self.page.u64(at::BUSY_WITH).store(connection, Relaxed);
    }

    /// Says that no connection's input is being processed.
    pub fn busy_with_none(&self) {
        self.page.u64(at::BUSY_WITH).store(0, Relaxed);
    }

    /// Says that this worker is about to sleep. It must look once more after this, and before it sleeps, whether it
    /// [`WorkerPage::has_news`].
    pub fn announce_sleep(&self) {
        self.page.u32(at::SLEEPING).store(1, Relaxed);
        fence(SeqCst);
    }

    /// Says that this worker is awake: it needs no bell.
    pub fn announce_awake(&self) {
        self.page.u32(at::SLEEPING).store(0, Relaxed);
    }

    /// Whether a stream that this worker reads has grown, ended or begun since it took the news.
    pub fn has_news(&self) -> bool {
        self.news.summary().load(Relaxed) != 0
    }

    /// Takes the news: calls `lane` with the [`lane`] of each stream that has some, in rising order. Look at the streams after this.
    pub fn take_news(&self, lane: impl FnMut(u16)) {
        self.news.take(lane);
    }

    /// Says that one more of this worker's readers reads streams with this slot, or one fewer. With the first one there are news of
    /// it: what was committed before is left by nobody. One fewer than none is no change.
    pub fn set_reading(&mut self, slot: u16, reads: bool) {
        let count = self.readers.entry(slot).or_default();
        let before = *count;
        *count = if reads { before.saturating_add(1) } else { before.saturating_sub(1) };
        let (word, bit) = reading_bit(slot);
        match (before, *count) {
            (0, 1) => {
                self.page.u64(word).fetch_or(bit, SeqCst);
                self.news.leave(slot);
            }
            (1, 0) => _ = self.page.u64(word).fetch_and(!bit, SeqCst),
            _ => {}
        }
        if self.readers.get(&slot) == Some(&0) {
            self.readers.remove(&slot);
        }
    }

    /// A counter or gauge, by its place (less than [`COUNTERS`]; panics beyond: places are constants).
    pub fn counter(&self, place: usize) -> &AtomicU64 {
        counter(&self.page, place)
    }
}

/// A worker's page, for everybody else.
#[derive(Debug)]
pub struct WorkerView(SharedPage);

impl WorkerView {
    /// Whether the worker has said that it sleeps.
    pub fn sleeps(&self) -> bool {
        self.0.u32(at::SLEEPING).load(Relaxed) != 0
    }

    /// How often the worker said that it goes on.
    pub fn beats(&self) -> u64 {
        self.0.u64(at::BEATS).load(Relaxed)
    }

    /// The connection whose input the worker was processing, and from which byte of it on; `None` if it was none's.
    pub fn busy_with(&self) -> Option<(u64, u64)> {
        let connection = self.0.u64(at::BUSY_WITH).load(Relaxed);
        (connection != 0).then(|| (connection, self.0.u64(at::BUSY_AT).load(Relaxed)))
    }

    /// Whether the worker reads a stream with this slot.
    pub fn reads(&self, slot: u16) -> bool {
        let (word, bit) = reading_bit(slot);
        self.0.u64(word).load(Relaxed) & bit != 0
    }

    /// A counter or gauge, by its place (less than [`COUNTERS`]; panics beyond).
    pub fn counter(&self, place: usize) -> u64 {
        counter(&self.0, place).load(Relaxed)
    }
}

fn is_page(page: &SharedPage) -> bool {
    page.u64(at::MAGIC).load(Acquire) == MAGIC && page.u32(at::VERSION).load(Relaxed) == PAGE_VERSION
}

fn counter(page: &SharedPage, place: usize) -> &AtomicU64 {
    assert!(place < COUNTERS, "a page has {COUNTERS} counters");
    page.u64(at::COUNTERS + 8 * place)
}

fn reading_bit(slot: u16) -> (usize, u64) {
    (at::READING + 8 * usize::from(slot / 64), 1 << (slot % 64))
}

/// The lane in a worker's news of streams with this slot.
pub fn lane(slot: u16) -> u16 {
    slot % LANES
}

/// All workers' pages and bells, for a writer.
#[derive(Debug)]
pub struct Doorbells(Vec<(WorkerView, News, EventFd)>);

/// What [`Doorbells::ring`] has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rung {
    /// Workers that were woken.
    pub woken: u64,
    /// News that were left: writes to memory that another worker looks at.
    pub news: u64,
}

impl Doorbells {
    /// The bells of some workers, by the workers' numbers. `NotFound` if one has no page yet.
    pub fn open(root: &Root, bells: impl IntoIterator<Item = (u16, EventFd)>) -> io::Result<Self> {
        let open = |(worker, bell)| Ok((WorkerPage::open(root, worker)?, News::open(root, worker)?, bell));
        bells.into_iter().map(open).collect::<io::Result<_>>().map(Self)
    }

    /// Whether any worker reads a stream with this slot. One that begins to read just now may not count yet.
    pub fn are_wanted(&self, slot: u16) -> bool {
        self.0.iter().any(|(view, ..)| view.reads(slot))
    }

    /// Leaves news of streams with these slots for every worker that reads one of them, and wakes those that sleep, each once. Call
    /// it once per turn, after the commits of the turn. A bell that cannot be rung is skipped: its worker is gone.
    pub fn ring(&self, slots: &[u16]) -> Rung {
        let mut rung = Rung::default();
        if slots.is_empty() {
            return rung;
        }
        fence(SeqCst);
        for (view, news, _) in &self.0 {
            rung.news += slots.iter().filter(|slot| view.reads(**slot) && news.leave(**slot)).count() as u64;
        }
        fence(SeqCst);
        let wanted = |view: &WorkerView| view.sleeps() && slots.iter().any(|slot| view.reads(*slot));
        rung.woken = self.0.iter().filter(|(view, _, bell)| wanted(view) && bell.ring().is_ok()).count() as u64;
        rung
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    fn root() -> (tempfile::TempDir, Root) {
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        let root = Root::new(directory.path().to_path_buf());
        (directory, root)
    }

    #[test]
    fn only_sleepers_that_read_are_rung() {
        let (_directory, root) = root();
        assert_eq!(WorkerPage::open(&root, 1).unwrap_err().kind(), io::ErrorKind::NotFound);
        let mut page = WorkerPage::create(&root, 1).unwrap();
        let bell = EventFd::new().unwrap();
        let bells = Doorbells::open(&root, [(1, bell.try_clone().unwrap())]).unwrap();
        page.announce_sleep();
        assert_eq!(bells.ring(&[65_535]).woken, 0);
        page.set_reading(65_535, true);
        page.set_reading(65_535, true);
        assert_eq!(bells.ring(&[0, 65_535]).woken, 1);
        assert!(bell.drain().unwrap());
        page.set_reading(65_535, false);
        assert_eq!(bells.ring(&[65_535]).woken, 1, "one of two readers is left");
        page.set_reading(65_535, false);
        page.set_reading(65_535, false);
        assert_eq!(bells.ring(&[65_535]).woken, 0);
        page.set_reading(7, true);
        page.announce_awake();
        assert_eq!(bells.ring(&[7]).woken, 0);
    }

    #[test]
    fn news_are_of_streams_that_are_read_and_are_taken_once() {
        let (_directory, root) = root();
        let mut page = WorkerPage::create(&root, 1).unwrap();
        let bells = Doorbells::open(&root, [(1, EventFd::new().unwrap())]).unwrap();
        let take = |page: &WorkerPage| {
            let mut lanes = Vec::new();
            page.take_news(|lane| lanes.push(lane));
            assert!(!page.has_news());
            lanes
        };
        assert_eq!(bells.ring(&[3]), Rung::default());
        assert!(!page.has_news());
        for slot in [3, 64, 65_535] {
            page.set_reading(slot, true);
        }
        assert_eq!(take(&page), [3, 64, lane(65_535)], "what was committed before is looked at once");
        assert_eq!(bells.ring(&[65_535, 9, 3]), Rung { woken: 0, news: 2 });
        assert_eq!(bells.ring(&[3]), Rung { woken: 0, news: 0 }, "there are news of it already");
        assert!(page.has_news());
        assert_eq!(take(&page), [3, lane(65_535)]);
        assert_eq!(take(&page), []);
        bells.ring(&[64]);
        assert_eq!(take(&WorkerPage::create(&root, 1).unwrap()), [], "those of a predecessor are no successor's");
    }

    /// A commit that leaves no news, because there are some of its stream already, is seen by whoever takes those.
    #[test]
    fn news_that_are_there_already_are_of_what_was_committed() {
        const ROUNDS: u64 = 30_000;
        let (_directory, root) = root();
        let mut page = WorkerPage::create(&root, 1).unwrap();
        page.set_reading(5, true);
        let bells = Doorbells::open(&root, [(1, EventFd::new().unwrap())]).unwrap();
        let (commit, arrivals) = (AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 1..=ROUNDS {
                    meet(&arrivals, 2 * round - 1);
                    for number in 4 * round..4 * round + 4 {
                        commit.store(number, Release);
                        bells.ring(&[5]);
                    }
                    meet(&arrivals, 2 * round);
                }
            });
            let mut lost = 0;
            for round in 1..=ROUNDS {
                meet(&arrivals, 2 * round - 1);
                let mut seen = 0;
                (0..round % 64).for_each(|_| page.take_news(|_| seen = commit.load(Acquire)));
                meet(&arrivals, 2 * round);
                page.take_news(|_| seen = commit.load(Acquire));
                lost += u64::from(seen != 4 * round + 3);
            }
            assert_eq!(lost, 0, "in {ROUNDS} rounds");
        });
    }

    /// A meeting of two threads, the n-th from 1, that lets them go closer together than the system's barriers do.
    fn meet(arrivals: &AtomicU64, nth: u64) {
        arrivals.fetch_add(1, SeqCst);
        let mut looks = 0u32;
        while arrivals.load(SeqCst) < 2 * nth {
            looks += 1;
            if looks.is_multiple_of(10_000) {
                std::thread::yield_now();
            }
        }
    }

    /// The pattern in which wake-ups are lost without the fences: one side commits and looks who sleeps, the other says that
    /// it sleeps and looks at the commit. Many times, on two threads that run past each other.
    #[test]
    fn a_writer_and_a_reader_never_miss_each_other() {
        const LANES: usize = 128;
        const ROUNDS: u64 = 3_000;
        let (_directory, root) = root();
        let (mut pages, mut bells) = (Vec::new(), Vec::new());
        for lane in 0..LANES as u16 {
            let mut page = WorkerPage::create(&root, lane).unwrap();
            page.set_reading(1, true);
            pages.push(page);
            bells.push(Doorbells::open(&root, [(lane, EventFd::new().unwrap())]).unwrap());
        }
        // Apart, so that each is in a cache line of its own.
        let commits: Vec<AtomicU64> = (0..8 * LANES).map(|_| AtomicU64::new(0)).collect();
        let arrivals = AtomicU64::new(0);
        let read = |round: u64| -> Vec<bool> {
            pages.iter().for_each(WorkerPage::announce_awake);
            meet(&arrivals, 2 * round - 1);
            let blind = pages.iter().enumerate().map(|(lane, page)| {
                // The writer is slower where it rings: keep step with it in some of the rounds.
                (0..round % 16).for_each(|_| std::hint::spin_loop());
                page.announce_sleep();
                commits[8 * lane].load(Acquire) < round
            });
            let blind = blind.collect();
            meet(&arrivals, 2 * round);
            blind
        };
        let write = |round: u64| -> Vec<bool> {
            meet(&arrivals, 2 * round - 1);
            let silent = bells.iter().enumerate().map(|(lane, bells)| {
                commits[8 * lane].store(round, Release);
                bells.ring(&[1]).woken == 0
            });
            let silent = silent.collect();
            meet(&arrivals, 2 * round);
            silent
        };
        let (blind, silent) = std::thread::scope(|scope| {
            let reader = scope.spawn(|| (1..=ROUNDS).map(read).collect::<Vec<_>>());
            let silent: Vec<_> = (1..=ROUNDS).map(write).collect();
            (reader.join().unwrap(), silent)
        });
        let lost = blind.iter().flatten().zip(silent.iter().flatten()).filter(|(blind, silent)| **blind && **silent).count();
        assert_eq!(lost, 0, "wake-ups lost in {} tries", ROUNDS * LANES as u64);
    }

    #[test]
    fn a_successor_goes_on_counting_on_a_page_that_others_have_mapped_and_is_else_clean() {
        let (_directory, root) = root();
        let mut page = WorkerPage::create(&root, 2).unwrap();
        page.set_reading(9, true);
        page.announce_sleep();
        page.counter(COUNTERS - 1).store(5, Relaxed);
        let view = WorkerPage::open(&root, 2).unwrap();
        assert_eq!((view.reads(9), view.sleeps(), view.counter(COUNTERS - 1)), (true, true, 5));
        let _successor = WorkerPage::create(&root, 2).unwrap();
        assert_eq!((view.reads(9), view.sleeps(), view.counter(COUNTERS - 1)), (false, false, 5));
    }

    /// Workers that start together take over their own pages while they open each other's.
    #[test]
    fn a_page_that_is_taken_over_can_be_opened_meanwhile() {
        let (_directory, root) = root();
        let _first = WorkerPage::create(&root, 4).unwrap();
        let taken_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..500 {
                    WorkerPage::create(&root, 4).unwrap();
                }
                taken_over.store(true, SeqCst);
            });
            while !taken_over.load(SeqCst) {
                WorkerPage::open(&root, 4).unwrap();
            }
        });
    }

    #[test]
    fn the_layout_does_not_overlap() {
        const { assert!(at::COUNTERS + 8 * COUNTERS <= at::READING) };
        const { assert!(at::READING + (1 << 16) / 8 <= PAGE_BYTES) };
    }

    #[test]
    fn garbage_is_no_page() {
        let (_directory, root) = root();
        fs::create_dir_all(root.path().join("workers")).unwrap();
        fs::write(root.worker_page(3), vec![1; PAGE_BYTES]).unwrap();
        assert_eq!(WorkerPage::open(&root, 3).unwrap_err().kind(), io::ErrorKind::InvalidData);
        fs::write(root.worker_page(3), b"short").unwrap();
        assert_eq!(WorkerPage::open(&root, 3).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
