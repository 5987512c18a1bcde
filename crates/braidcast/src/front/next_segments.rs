//! The number of each stream's next segment, kept on disk so that no number is used twice: not after a reconnect, a crash, a
//! restart, nor a reboot that empties the shared directory.
//!
//! The front never waits for the disk: a thread writes, at most once a second, and changes gather in a bounded map until
//! then. What a crash of the machine can lose is made up for by skipping [`MARGIN`] numbers at the next start.

use crate::status::instance::{STATE_LOCK_NAME, state_lock_holder};
use anyhow::{Context, bail};
use braidcast_media::StreamKey;
use braidcast_sys::{clock, file};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The most streams that are remembered; beyond it the one that was longest without a new segment is forgotten.
pub const MAX_STREAMS: usize = 65_536;
/// The least time between two writes.
const FLUSH: Duration = Duration::from_secs(1);
/// Numbers that are skipped after an unclean end: two for each of the eight flush intervals that a write may be on its way.
/// (Segments are at least half a second long.)
const MARGIN: u64 = 16;
const FIRST_LINE: &str = "braidcast next-segments 1";
const FILE_NAME: &str = "next-segments";

/// The numbers, and the thread that writes them down.
#[derive(Debug)]
pub struct NextSegments {
    numbers: HashMap<StreamKey, Entry>,
    max_streams: usize,
    dropped: u64,
    shared: Arc<Shared>,
    thread: JoinHandle<io::Result<()>>,
    /// Held as long as this lives: two instances must not share a state directory.
    _lock: File,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    next: u64,
    /// When it last changed, seconds since 1970.
    changed_s: u64,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<Changes>,
    news: Condvar,
}

/// What the thread has not taken yet; at most one entry per stream. `None`: forgotten.
#[derive(Debug, Default)]
struct Changes {
    entries: HashMap<StreamKey, Option<Entry>>,
    stop: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Changes> {
        // Nothing panics between two steps of a change: the map is whole even if a thread died.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl NextSegments {
    /// Reads the state directory, making it if need be, and starts the thread. `present` says of which streams the shared
    /// directory holds the segments: if the last instance died but the machine did not, those tell their own numbers.
    pub fn open(state_dir: &Path, present: impl Fn(&StreamKey) -> bool) -> anyhow::Result<Self> {
        Self::open_on(state_dir, &boot_id(), present).with_context(|| {
            let path = state_dir.display();
            format!("cannot use the state directory {path}; give this user a directory that outlives a reboot with [server] state_dir or --state-dir")
        })
    }

    fn open_on(state_dir: &Path, boot: &str, present: impl Fn(&StreamKey) -> bool) -> anyhow::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(state_dir).context("making it")?;
        let lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(state_dir.join(STATE_LOCK_NAME))
            .context("opening its lock")?;
        if !file::try_lock_exclusive(&lock).context("locking it")? {
            let holder = state_lock_holder(state_dir).map(|pid| format!(" (process {pid})")).unwrap_or_default();
            bail!("another instance uses it{holder}: every instance needs one of its own");
        }
        let mut saved = match fs::read_to_string(state_dir.join(FILE_NAME)) {
            Ok(text) => Saved::parse(&text)
                .with_context(|| format!("its file {FILE_NAME} is damaged; move it away to begin anew (numbers may then be used twice)"))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Saved { boot: boot.to_owned(), clean: true, entries: BTreeMap::new() },
            Err(error) => return Err(error).with_context(|| format!("reading its file {FILE_NAME}")),
        };
        if !saved.clean {
            let same_boot = saved.boot == boot;
            for (key, entry) in &mut saved.entries {
                if !(same_boot && present(key)) {
                    entry.next += MARGIN;
                }
            }
            tracing::warn!(path = %state_dir.display(), "the last instance did not end in order: segment numbers of streams that are gone go on {MARGIN} higher");
        }
        saved.boot = boot.to_owned();
        saved.clean = false;
        // From now on the file says "unclean", and this shows at once whether it can be written at all.
        saved.write(state_dir).context("writing it")?;
        let numbers = saved.entries.iter().map(|(key, entry)| (key.clone(), *entry)).collect();
        let shared = Arc::new(Shared::default());
        let writer = Writer { dir: state_dir.to_owned(), saved, shared: shared.clone(), failing: false };
        let thread = std::thread::Builder::new().name("next-segments".into()).spawn(move || writer.run()).context("starting its thread")?;
        Ok(Self { numbers, max_streams: MAX_STREAMS, dropped: 0, shared, thread, _lock: lock })
    }

    /// The number of the stream's next segment, from 1: no segment ever had it.
    pub fn next(&self, key: &StreamKey) -> u64 {
        self.numbers.get(key).map_or(1, |entry| entry.next)
    }

    /// The stream's next segment has at least this number. Numbers never fall.
    pub fn raise(&mut self, key: &StreamKey, next: u64) {
        let next = next.max(self.next(key));
        if self.numbers.get(key).is_some_and(|entry| entry.next == next) {
            return;
        }
        if self.numbers.len() >= self.max_streams && !self.numbers.contains_key(key) {
            self.forget_oldest();
        }
        let entry = Entry { next, changed_s: clock::wall_ms() / 1000 };
        self.numbers.insert(key.clone(), entry);
        self.change(key.clone(), Some(entry));
    }

    /// How many streams were forgotten because there were too many.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Writes everything down and marks the file as clean. Waits for the disk.
    pub fn close(self) -> anyhow::Result<()> {
        self.shared.lock().stop = true;
        self.shared.news.notify_one();
        match self.thread.join() {
            Ok(result) => result.context("the next segment numbers could not be written; after a reboot numbers may be used twice"),
            Err(_) => bail!("the thread that writes the next segment numbers had died"),
        }
    }

    fn forget_oldest(&mut self) {
        // Names that were published for a moment, and never had a segment, must not push out those that had.
        let oldest = self.numbers.iter().min_by_key(|(_, entry)| (entry.next > 1, entry.changed_s)).map(|(key, _)| key.clone());
        let Some(oldest) = oldest else { return };
        tracing::warn!(stream = %oldest, "the next segment number of the stream is forgotten: more than {} streams have one", self.max_streams);
        self.numbers.remove(&oldest);
        self.dropped += 1;
        self.change(oldest, None);
    }

    fn change(&self, key: StreamKey, entry: Option<Entry>) {
        self.shared.lock().entries.insert(key, entry);
        self.shared.news.notify_one();
    }
}

struct Writer {
    dir: PathBuf,
    saved: Saved,
    shared: Arc<Shared>,
    failing: bool,
}

impl Writer {
    fn run(mut self) -> io::Result<()> {
        loop {
            let stop = self.take_changes(if self.failing { Some(FLUSH) } else { None });
            self.saved.clean = stop;
            let started = Instant::now();
            let result = self.saved.write(&self.dir);
            if stop {
                return result;
            }
            self.report(&result);
            // A slow disk is not written to all the time.
            self.wait(FLUSH.max(started.elapsed() * 4));
        }
    }

    /// Waits for changes (`retry`: at most so long) and takes them over; true: this is the last time.
    fn take_changes(&mut self, retry: Option<Duration>) -> bool {
        let mut changes = self.shared.lock();
        while changes.entries.is_empty() && !changes.stop {
            changes = match retry {
                Some(timeout) => {
                    let (guard, timeout) = self.shared.news.wait_timeout(changes, timeout).unwrap_or_else(PoisonError::into_inner);
                    if timeout.timed_out() {
                        return guard.stop;
                    }
                    guard
                }
                None => self.shared.news.wait(changes).unwrap_or_else(PoisonError::into_inner),
            };
        }
        for (key, entry) in changes.entries.drain() {
            match entry {
                Some(entry) => self.saved.entries.insert(key, entry),
                None => self.saved.entries.remove(&key),
            };
        }
        changes.stop
    }

    /// Lets changes gather for a while, unless it is the end.
    fn wait(&self, pause: Duration) {
        let guard = self.shared.lock();
        let ended = self.shared.news.wait_timeout_while(guard, pause, |changes| !changes.stop);
        drop(ended.unwrap_or_else(PoisonError::into_inner));
    }

    fn report(&mut self, result: &io::Result<()>) {
        match (result, self.failing) {
            (Err(error), false) => {
                tracing::error!(%error, path = %self.dir.display(), "the next segment numbers cannot be written: until they can, a reboot may lead to numbers that were used before; make room in the state directory")
            }
            (Ok(()), true) => tracing::info!(path = %self.dir.display(), "the next segment numbers are written again"),
            _ => {}
        }
        self.failing = result.is_err();
    }
}

/// The file: a first line with its version, a line with the boot it was written in and whether that instance ended in
/// order, a line for each stream (next number, time of its last change, vhost, app, stream; tabs between, which no name
/// holds), and the CRC-32 of all that.
#[derive(Debug, PartialEq, Eq)]
struct Saved {
    boot: String,
    clean: bool,
    entries: BTreeMap<StreamKey, Entry>,
}

impl Saved {
    fn text(&self) -> String {
        let mut text = format!("{FIRST_LINE}\nboot\t{}\t{}\n", self.boot, if self.clean { "clean" } else { "open" });
        for (key, Entry { next, changed_s }) in &self.entries {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{next}\t{changed_s}\t{}\t{}\t{}", key.vhost(), key.app(), key.stream());
        }
        let _ = writeln!(text, "crc32\t{:08x}", crc32fast::hash(text.as_bytes()));
        text
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let (body, crc) = text.rsplit_once("crc32\t").context("it has no checksum")?;
        if u32::from_str_radix(crc.trim_end(), 16).ok() != Some(crc32fast::hash(body.as_bytes())) {
            bail!("its checksum is wrong");
        }
        let mut lines = body.lines();
        if lines.next() != Some(FIRST_LINE) {
            bail!("it is of another version");
        }
        let mut header = lines.next().unwrap_or_default().split('\t').skip(1);
        let (boot, clean) = (header.next().unwrap_or_default().to_owned(), header.next() == Some("clean"));
        let entry = |line: &str| {
            let mut fields = line.split('\t');
            let mut field = || fields.next().context("a line is too short");
            let entry = Entry { next: field()?.parse()?, changed_s: field()?.parse()? };
            Ok((StreamKey::new(field()?, field()?, field()?)?, entry))
        };
        let entries = lines.map(entry).collect::<anyhow::Result<_>>()?;
        Ok(Self { boot, clean, entries })
    }

    fn write(&self, dir: &Path) -> io::Result<()> {
        let (path, temporary) = (dir.join(FILE_NAME), dir.join(format!("{FILE_NAME}.tmp")));
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(self.text().as_bytes())?;
        file.sync_all()?;
        fs::rename(temporary, path)?;
        File::open(dir)?.sync_all()
    }
}

/// Names this boot of the machine; the same text for as long as it runs.
pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map_or_else(|_| "unknown".into(), |id| id.trim().to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(name: &str) -> StreamKey {
        StreamKey::new("v", "a/b", name).unwrap()
    }

    fn open(dir: &Path, boot: &str, present: bool) -> NextSegments {
        NextSegments::open_on(dir, boot, |_| present).unwrap()
    }

    /// Ends without the clean mark, but with everything written: a crash right after a flush.
    fn crash(numbers: NextSegments, dir: &Path) {
        numbers.close().unwrap();
        let text = fs::read_to_string(dir.join(FILE_NAME)).unwrap();
        let mut saved = Saved::parse(&text).unwrap();
        saved.clean = false;
        saved.write(dir).unwrap();
    }

    #[test]
    fn numbers_survive_and_never_fall() {
        let dir = tempfile::tempdir().unwrap();
        let mut numbers = open(dir.path(), "boot 1", false);
        assert_eq!(numbers.next(&key("a")), 1);
        numbers.raise(&key("a"), 7);
        numbers.raise(&key("a"), 3);
        assert_eq!(numbers.next(&key("a")), 7);
        numbers.close().unwrap();
        let numbers = open(dir.path(), "boot 2", false);
        assert_eq!((numbers.next(&key("a")), numbers.next(&key("b"))), (7, 1));
    }

    #[test]
    fn an_unclean_end_skips_numbers_unless_the_segments_are_still_there() {
        for (boot, present, expected) in
            [("boot 1", true, 7), ("boot 1", false, 7 + MARGIN), ("boot 2", true, 7 + MARGIN), ("boot 2", false, 7 + MARGIN)]
        {
            let dir = tempfile::tempdir().unwrap();
            let mut numbers = open(dir.path(), "boot 1", false);
            numbers.raise(&key("a"), 7);
            crash(numbers, dir.path());
            assert_eq!(open(dir.path(), boot, present).next(&key("a")), expected, "{boot} {present}");
        }
    }

    #[test]
    fn what_changes_is_on_disk_soon_without_closing() {
        let dir = tempfile::tempdir().unwrap();
        let mut numbers = open(dir.path(), "boot", false);
        numbers.raise(&key("a"), 5);
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let saved = Saved::parse(&fs::read_to_string(dir.path().join(FILE_NAME)).unwrap()).unwrap();
            assert!(!saved.clean);
            if saved.entries.get(&key("a")).is_some_and(|entry| entry.next == 5) {
                break;
            }
            assert!(Instant::now() < deadline, "never written");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    #[test]
    fn the_stream_without_news_for_the_longest_time_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let mut numbers = open(dir.path(), "boot", false);
        numbers.max_streams = 2;
        numbers.raise(&key("a"), 2);
        numbers.raise(&key("b"), 2);
        numbers.numbers.get_mut(&key("b")).unwrap().changed_s = 1;
        numbers.raise(&key("c"), 2);
        assert_eq!((numbers.next(&key("a")), numbers.next(&key("b")), numbers.next(&key("c")), numbers.dropped()), (2, 1, 2, 1));
        numbers.close().unwrap();
        assert_eq!(open(dir.path(), "boot", false).numbers.len(), 2);
    }

    #[test]
    fn a_damaged_file_or_a_second_instance_is_an_error_that_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let numbers = open(dir.path(), "boot", false);
        let second = format!("{:#}", NextSegments::open(dir.path(), |_| false).unwrap_err());
        assert!(second.contains("another instance") && second.contains("--state-dir"), "{second}");
        numbers.close().unwrap();
        fs::write(dir.path().join(FILE_NAME), "rubbish").unwrap();
        let damaged = format!("{:#}", NextSegments::open(dir.path(), |_| false).unwrap_err());
        assert!(damaged.contains("move it away"), "{damaged}");
        let no_dir = format!("{:#}", NextSegments::open(Path::new("/proc/nowhere"), |_| false).unwrap_err());
        assert!(no_dir.contains("/proc/nowhere") && no_dir.contains("state_dir"), "{no_dir}");
    }

    proptest! {
        #[test]
        fn the_file_reads_back_and_a_changed_byte_is_noticed(
            entries in proptest::collection::btree_map("[a-z \u{e9}\u{20ac}]{1,9}", (1u64.., 0u64..1 << 40), 0..6),
            clean: bool,
            at in any::<prop::sample::Index>(),
        ) {
            let entries = entries.into_iter().map(|(name, (next, changed_s))| (key(&name), Entry { next, changed_s })).collect();
            let saved = Saved { boot: "b".into(), clean, entries };
            let text = saved.text();
            prop_assert_eq!(&Saved::parse(&text).unwrap(), &saved);
            let mut bytes = text.into_bytes();
            let at = at.index(bytes.len() - 1);
            bytes[at] ^= 1;
            if let Ok(changed) = String::from_utf8(bytes) {
                prop_assert!(Saved::parse(&changed).is_err());
            }
        }
    }
}
