//! How full the shared directory is, and how much each stream may hold then: those that hold most give up their oldest
//! blocks and segments until all hold the same at most. So nobody loses anything to a stream that is larger than his own.
//!
//! A thread walks the directory, so that the front's loop never does; it decides nothing but a number of bytes, and deletes nothing:
//! that is done by the workers that write the streams.

use anyhow::Context;
use braidcast_sys::{clock, file, limits};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Eviction begins above this share of the budget, and aims at the lower one.
const HIGH_PERCENT: u64 = 90;
const LOW_PERCENT: u64 = 80;
/// A directory that will not have more than this share of it soon is walked less often.
const ROOMY_PERCENT: u64 = 50;
/// The longest time between two walks.
const SELDOM: Duration = Duration::from_secs(10);
/// Of what file system and control group allow, unless a budget is configured.
const AUTO_PERCENT: u64 = 80;
/// What a new stream takes at least until the next walk has seen it: this, but never more than an eighth of the budget.
const STREAM_BYTES: u64 = 4 << 20;
/// How long a new stream is counted as that much although the walk does not see it yet, milliseconds.
const FRESH_MS: u64 = 10_000;

/// The budget of the shared directory.
#[derive(Debug)]
pub struct Budget {
    seen: Arc<Seen>,
    thread: JoinHandle<()>,
    /// When streams were admitted that the walk cannot have seen grow yet.
    fresh: Vec<u64>,
}

/// What the thread found out.
#[derive(Debug, Default)]
struct Seen {
    bytes: AtomicU64,
    limit_bytes: AtomicU64,
    stream_bytes: AtomicU64,
    tight: AtomicBool,
    stop: AtomicBool,
}

/// What lies in the directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Usage {
    bytes: u64,
    /// By stream.
    streams: Vec<StreamUsage>,
}

/// What a stream has in the directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct StreamUsage {
    bytes: u64,
    /// Blocks and segments that may go: wall clock of their last byte in milliseconds, and their size.
    evictable: Vec<(u64, u64)>,
}

impl StreamUsage {
    /// When the youngest of those ended that go if the stream is to hold no more than this; `None` if it cannot be brought so far.
    fn youngest_gone(&self, bytes: u64) -> Option<u64> {
        let mut excess = self.bytes.saturating_sub(bytes);
        let mut oldest_first = self.evictable.clone();
        oldest_first.sort_unstable();
        let mut youngest = 0;
        for (ended_wall_ms, size) in oldest_first {
            if excess == 0 {
                break;
            }
            youngest = ended_wall_ms;
            excess = excess.saturating_sub(size);
        }
        (excess == 0).then_some(youngest)
    }
}

/// What follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Plan {
    /// What a stream may hold; `u64::MAX`: no need for a limit.
    stream_bytes: u64,
    /// Even what viewers may still be reading has to go: there is no room for another stream.
    tight: bool,
}

impl Plan {
    const ROOMY: Self = Self { stream_bytes: u64::MAX, tight: false };
}

impl Budget {
    /// Measures once, says what the budget is, and starts the thread. `configured_bytes` 0: as much as is sensible. `keep_ms` is
    /// `[log] keep`: what is younger is evicted only when nothing else is left.
    pub fn start(shared_dir: &Path, configured_bytes: u64, keep_ms: u64) -> anyhow::Result<Self> {
        let usage = walk(shared_dir).context("measuring the shared directory")?;
        let allowed = allowed_bytes(shared_dir, usage.bytes)?;
        let bytes = match configured_bytes {
            0 => allowed / 100 * AUTO_PERCENT,
            configured => configured.min(allowed),
        };
        if configured_bytes > allowed {
            tracing::warn!(
                "[log] budget is {} MiB, but file system and memory limit allow only {} MiB: using that",
                configured_bytes >> 20,
                allowed >> 20
            );
        }
        tracing::info!("logs and segments may take {} MiB in {} ({} MiB are in use)", bytes >> 20, shared_dir.display(), usage.bytes >> 20);
        let seen = Arc::new(Seen { stream_bytes: AtomicU64::new(u64::MAX), ..Seen::default() });
        let walker = Walker { shared_dir: shared_dir.to_owned(), budget_bytes: bytes, keep_ms, seen: seen.clone() };
        walker.take_in(&usage);
        let thread =
            std::thread::Builder::new().name("budget".into()).spawn(move || walker.run()).context("starting the budget's thread")?;
        Ok(Self { seen, thread, fresh: Vec::new() })
    }

    /// Bytes that logs and segments took when they were last measured.
    pub fn bytes(&self) -> u64 {
        self.seen.bytes.load(Relaxed)
    }

    /// The budget, or what the file system still allows if that is less.
    pub fn limit_bytes(&self) -> u64 {
        self.seen.limit_bytes.load(Relaxed)
    }

    /// What a stream may hold, in bytes; `u64::MAX` while there is room.
    pub fn stream_bytes(&self) -> u64 {
        self.seen.stream_bytes.load(Relaxed)
    }

    /// Whether one more stream has room.
    pub fn has_room(&mut self, now_ms: u64) -> bool {
        self.fresh.retain(|admitted_ms| now_ms.saturating_sub(*admitted_ms) < FRESH_MS);
        let one = STREAM_BYTES.min(self.limit_bytes() / 8);
        let wanted = one.saturating_mul(self.fresh.len() as u64 + 1);
        !self.seen.tight.load(Relaxed) && self.bytes().saturating_add(wanted) <= self.limit_bytes()
    }

    /// A new stream was admitted.
    pub fn admitted(&mut self, now_ms: u64) {
        self.fresh.push(now_ms);
    }

    /// Ends the thread.
    pub fn close(self) {
        self.seen.stop.store(true, Relaxed);
        self.thread.thread().unpark();
        if self.thread.join().is_err() {
            tracing::error!("the budget's thread had died");
        }
    }
}

struct Walker {
    shared_dir: PathBuf,
    budget_bytes: u64,
    keep_ms: u64,
    seen: Arc<Seen>,
}

impl Walker {
    fn run(&self) {
        let (mut took, mut before, mut is_roomy) = (Duration::ZERO, None, false);
        while !self.seen.stop.load(Relaxed) {
            // A large directory is walked less often: at most a twentieth of one core, or a two-hundredth where there is room.
            std::thread::park_timeout((took * if is_roomy { 200 } else { 20 }).clamp(Duration::from_secs(1), SELDOM));
            let started = Instant::now();
            match walk(&self.shared_dir) {
                Ok(usage) => {
                    self.take_in(&usage);
                    let before = before.replace((started, usage.bytes));
                    is_roomy = before
                        .is_some_and(|(at, bytes)| stays_roomy(bytes, usage.bytes, started - at, self.seen.limit_bytes.load(Relaxed)));
                }
                Err(error) => tracing::warn!(%error, "cannot measure the shared directory"),
            }
            took = started.elapsed();
        }
    }

    fn take_in(&self, usage: &Usage) {
        // Others may take space in the same file system, and so do deleted blocks that a reader has still mapped.
        let free = file::file_system(&self.shared_dir)
            .map_or(u64::MAX, |system| if system.total_bytes == 0 { u64::MAX } else { system.free_bytes });
        let limit_bytes = self.budget_bytes.min(usage.bytes.saturating_add(free));
        let plan = plan(usage, limit_bytes, clock::wall_ms(), self.keep_ms, self.seen.stream_bytes.load(Relaxed));
        self.seen.bytes.store(usage.bytes, Relaxed);
        self.seen.limit_bytes.store(limit_bytes, Relaxed);
        self.seen.stream_bytes.store(plan.stream_bytes, Relaxed);
        self.seen.tight.store(plan.tight, Relaxed);
    }
}

/// `before` is what was said the last time: if that was not enough, streams that nobody writes hold the rest, and less is said.
fn plan(usage: &Usage, limit_bytes: u64, now_wall_ms: u64, keep_ms: u64, before: u64) -> Plan {
    if usage.bytes <= limit_bytes / 100 * HIGH_PERCENT {
        return Plan::ROOMY;
    }
    let fair = fair_share(usage.streams.iter().map(|stream| stream.bytes).collect(), limit_bytes / 100 * LOW_PERCENT);
    let stream_bytes = if before == u64::MAX { fair } else { fair.min(before - before / 8) };
    let young = |stream: &StreamUsage| {
        stream.bytes > stream_bytes
            && stream.youngest_gone(stream_bytes).is_none_or(|youngest| youngest.saturating_add(keep_ms) >= now_wall_ms)
    };
    Plan { stream_bytes, tight: usage.streams.iter().any(young) }
}

/// The most that each may hold so that all together hold `target` at most.
fn fair_share(mut held: Vec<u64>, target: u64) -> u64 {
    held.sort_unstable();
    let mut left = target;
    for (index, bytes) in held.iter().enumerate() {
        let share = left / (held.len() - index) as u64;
        if *bytes > share {
            return share;
        }
        left -= bytes;
    }
    u64::MAX
}

/// What the directory may grow to: its own bytes and the free ones, but no more than the memory limit.
fn allowed_bytes(shared_dir: &Path, own_bytes: u64) -> anyhow::Result<u64> {
    let system = file::file_system(shared_dir).context("looking at the shared directory's file system")?;
    let by_system = match system.total_bytes {
        // A tmpfs without a limit: what the kernel gives one by default, half of the memory.
        0 => memory_bytes() / 2,
        _ => own_bytes.saturating_add(system.free_bytes),
    };
    let by_group = if system.is_tmpfs { limits::cgroup_memory_max() } else { None };
    Ok(by_group.map_or(by_system, |group| by_system.min(group)))
}

fn memory_bytes() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    total.unwrap_or(1 << 20) << 10
}

/// Whether a directory that had `before` bytes, and has `now` after `elapsed`, still has room enough at the longest time to the next walk.
fn stays_roomy(before: u64, now: u64, elapsed: Duration, limit_bytes: u64) -> bool {
    let grows_by = now.saturating_sub(before).saturating_mul(SELDOM.as_millis() as u64) / (elapsed.as_millis() as u64).max(1);
    now.saturating_add(grows_by) <= limit_bytes / 100 * ROOMY_PERCENT
}

/// Adds up `streams/<vhost>/<app>/<stream>/…`. What disappears during the walk is not counted.
fn walk(shared_dir: &Path) -> io::Result<Usage> {
    let mut usage = Usage::default();
    let mut alone = StreamUsage::default();
    walk_level(&shared_dir.join("streams"), 0, &mut usage, &mut alone)?;
    let others = unfinished(&shared_dir.join(crate::engine::DIRECTORY), 0);
    usage.bytes = alone.bytes + others + usage.streams.iter().map(|stream| stream.bytes).sum::<u64>();
    Ok(usage)
}

/// What processes of another server are writing: it becomes a stream's when it is whole.
fn unfinished(directory: &Path, level: usize) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
    let bytes = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() && level < DEEPEST_OF_ENGINE => unfinished(&entry.path(), level + 1),
        Ok(metadata) if metadata.is_file() => metadata.blocks() * 512,
        _ => 0,
    };
    entries.map(bytes).sum()
}

/// `engine/<process>/hls/<vhost>/<app, some levels>/<stream>`.
const DEEPEST_OF_ENGINE: usize = 10;
/// A stream's directory is so deep below `streams`, …
const STREAM_LEVEL: usize = 3;
/// … and has one more level (`log`, `hls`) of plain files.
const DEEPEST: usize = 4;

/// Adds what lies in a directory to `stream`, or, above the streams, to `usage` as streams of their own.
fn walk_level(directory: &Path, level: usize, usage: &mut Usage, stream: &mut StreamUsage) -> io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut newest: Option<(u64, u64)> = None;
    for entry in entries {
        let entry = entry?;
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() {
            if level + 1 == STREAM_LEVEL {
                let mut found = StreamUsage::default();
                walk_level(&entry.path(), STREAM_LEVEL, usage, &mut found)?;
                usage.streams.push(found);
            } else if level < DEEPEST {
                walk_level(&entry.path(), level + 1, usage, stream)?;
            }
            continue;
        }
        let bytes = metadata.blocks() * 512;
        stream.bytes += bytes;
        let name = entry.file_name();
        if level == DEEPEST && name.to_str().is_some_and(|name| name.ends_with(".flv") || name.ends_with(".ts")) {
            let ended_ms = u64::try_from(metadata.mtime() * 1000 + metadata.mtime_nsec() / 1_000_000).unwrap_or(0);
            let ended_wall_ms = clock::wall_ms_of_file(ended_ms);
            // The newest of a directory is being written, or is all that there is.
            let older = match newest.replace((ended_wall_ms, bytes)) {
                Some(before) if before.0 > ended_wall_ms => newest.replace(before),
                before => before,
            };
            stream.evictable.extend(older);
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn usage(streams: &[(u64, &[(u64, u64)])]) -> Usage {
        let streams: Vec<_> =
            streams.iter().map(|(bytes, evictable)| StreamUsage { bytes: *bytes, evictable: evictable.to_vec() }).collect();
        Usage { bytes: streams.iter().map(|stream| stream.bytes).sum(), streams }
    }

    #[test]
    fn nothing_goes_below_nine_tenths() {
        assert_eq!(plan(&usage(&[(900, &[(1, 900)])]), 1_000, 1_000_000, 0, u64::MAX), Plan::ROOMY);
        let plan = plan(&usage(&[(901, &[(1, 900)])]), 1_000, 1_000_000, 0, u64::MAX);
        assert_eq!(plan, Plan { stream_bytes: 800, tight: false });
    }

    #[test]
    fn small_streams_lose_nothing_to_large_ones() {
        let large: [(u64, u64); 3] = [(30_000, 400), (40_000, 200), (50_000, 100)];
        let small: [(u64, u64); 1] = [(10_000, 50)];
        let usage = usage(&[(700, &large), (100, &small), (150, &small)]);
        // 950 are to become 800: the large one gives up 150, though what the small ones have is older.
        assert_eq!(plan(&usage, 1_000, 60_000, 20_000, u64::MAX), Plan { stream_bytes: 550, tight: false });
        assert_eq!(plan(&usage, 1_000, 40_000, 20_000, u64::MAX), Plan { stream_bytes: 550, tight: true });
        // It was not enough: somebody holds what he cannot give up.
        assert_eq!(plan(&usage, 1_000, 60_000, 20_000, 480), Plan { stream_bytes: 420, tight: false });
    }

    proptest! {
        #[test]
        fn a_share_is_enough_and_not_less_than_needed(held in proptest::collection::vec(1u64..1_000, 0..40), target in 1u64..20_000) {
            let share = fair_share(held.clone(), target);
            let kept = |share: u64| held.iter().map(|bytes| (*bytes).min(share)).sum::<u64>();
            prop_assert!(kept(share) <= target);
            if share < u64::MAX {
                prop_assert!(kept(share + 1) > target);
            }
        }
    }

    #[test]
    fn a_walk_counts_everything_and_spares_the_newest_of_each_directory() {
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        let stream = directory.path().join("streams/v/live/a");
        for name in ["log/1.flv", "log/2.flv", "hls/1.ts", "hls/index.m3u8", "head"] {
            let path = stream.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, vec![1; 4096]).unwrap();
        }
        let old = std::time::SystemTime::UNIX_EPOCH + Duration::from_millis(1_234_567);
        fs::File::open(stream.join("log/1.flv")).unwrap().set_modified(old).unwrap();
        let usage = walk(directory.path()).unwrap();
        let streams = vec![StreamUsage { bytes: 5 * 4096, evictable: vec![(1_234_567, 4096)] }];
        assert_eq!(usage, Usage { bytes: 5 * 4096, streams });
        assert_eq!(walk(&directory.path().join("nowhere")).unwrap(), Usage::default());
    }

    #[test]
    fn a_directory_is_roomy_as_long_as_it_will_not_be_half_full_soon() {
        let after = |seconds| Duration::from_secs(seconds);
        assert!(stays_roomy(0, 0, after(1), 1_000));
        assert!(stays_roomy(500, 500, after(1), 1_000) && !stays_roomy(501, 501, after(1), 1_000));
        assert!(stays_roomy(100, 130, after(1), 1_000) && !stays_roomy(100, 140, after(1), 1_000));
        assert!(stays_roomy(100, 300, after(10), 1_000) && stays_roomy(400, 100, after(1), 1_000));
        assert!(!stays_roomy(0, u64::MAX, Duration::ZERO, u64::MAX));
    }

    #[test]
    fn a_burst_of_new_streams_does_not_get_more_room_than_there_is() {
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        let mut budget = Budget::start(directory.path(), 64 << 20, 20_000).unwrap();
        let mut admitted = 0;
        while budget.has_room(1_000) && admitted < 100 {
            budget.admitted(1_000);
            admitted += 1;
        }
        assert_eq!(admitted, 16);
        assert!(!budget.has_room(1_000 + FRESH_MS - 1));
        assert!(budget.has_room(1_000 + FRESH_MS));
        budget.close();
    }
}
