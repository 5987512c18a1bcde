//! A stream's `hls/` directory: segments, live index, indexes by name.
//!
//! Owned by one process at a time (the stream's writer lock says which). The list of segments is kept in memory, so that nothing
//! is scanned while a stream runs; it holds exactly what a scan would find. A full directory costs the segment that is being
//! written, never more. Nothing here knows the log or cuts anything.

use super::scan::{Found, Skipped, scan};
use super::{INDEX, files};
use braidcast_protocols::hls::SegmentInfo;
use braidcast_protocols::hls::playlist::{self, Playlist};
use braidcast_protocols::mpegts::PACKET_BYTES;
use braidcast_sys::fault::kill_point;
use std::collections::VecDeque;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Segments a store keeps at most, whatever their durations: timestamps that jump can make very short ones.
const MAX_SEGMENTS: usize = 8192;
/// A segment may hold this part of the budget: players need three, and one is being written.
const LARGEST_SHARE: u64 = 4;

/// What a store keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreOptions {
    /// What the live index lasts, in milliseconds of media; it has at least three segments if there are as many.
    pub window_ms: u64,
    /// How much media stays, in milliseconds, counted back from the newest segment. The window stays in any case, and what left
    /// it stays for as long as the window lasts: players may still be reading it (RFC 8216 section 6.2.2).
    pub retention_ms: u64,
    /// What all segments may hold, in bytes, the open one included: then the oldest go, whatever else is said here, but for the few
    /// that players need. A segment of more than a quarter of it is lost.
    pub budget_bytes: u64,
}

/// What a store has counted since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreCounters {
    /// Segments finished.
    pub finished: u64,
    /// Segments lost because their bytes could not be written.
    pub lost: u64,
    /// Segments deleted: past their retention, or for want of room.
    pub evicted: u64,
}

/// Why a segment is not finished, or not named.
#[derive(Debug)]
pub enum FinishError {
    /// The segment is lost.
    Lost(io::Error),
    /// The segment is safe, but the live index does not name it yet. Nothing was deleted: the old index names what is there.
    Index(io::Error),
}

impl fmt::Display for FinishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost(error) => write!(f, "the segment is lost: {error}"),
            Self::Index(error) => write!(f, "the index cannot be written: {error}"),
        }
    }
}

impl std::error::Error for FinishError {}

#[derive(Debug)]
struct Open {
    number: u64,
    file: File,
    /// Bytes in the file.
    written: u64,
}

/// See the module's head.
#[derive(Debug)]
pub struct SegmentStore {
    directory: PathBuf,
    options: StoreOptions,
    segments: VecDeque<Found>,
    open: Option<Open>,
    /// The longest segment that the live index ever named, in 1/90,000 s.
    longest_90k: u64,
    ended: bool,
    counters: StoreCounters,
}

impl SegmentStore {
    /// Opens a directory (makes it if it is missing): clears away what was being written when its last owner died, and scans what
    /// is there. The index is not touched. Also says which files were passed over.
    ///
    /// # Errors
    /// The directory cannot be made or read.
    pub fn open(directory: &Path, options: StoreOptions) -> io::Result<(Self, Vec<Skipped>)> {
        fs::create_dir_all(directory)?;
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            if entry.file_name().to_str().is_some_and(files::is_unfinished) {
                files::remove_if_there(&entry.path())?;
            }
        }
        let found = scan(directory)?;
        let mut store = Self {
            directory: directory.to_owned(),
            options,
            segments: found.segments.into(),
            open: None,
            longest_90k: 0,
            ended: false,
            counters: StoreCounters::default(),
        };
        store.note_longest();
        Ok((store, found.skipped))
    }

    /// Takes over what the segments do not say: the longest segment ever named, and whether the stream is over.
    pub fn resume(&mut self, longest_90k: u64, ended: bool) {
        self.longest_90k = self.longest_90k.max(longest_90k);
        self.ended = ended;
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The segments, ordered by number.
    pub fn segments(&self) -> impl DoubleEndedIterator<Item = &SegmentInfo> + ExactSizeIterator {
        self.segments.iter().map(|found| &found.info)
    }

    /// What was counted.
    pub fn counters(&self) -> StoreCounters {
        self.counters
    }

    /// When the oldest segment ended that may go: wall clock, milliseconds; `None` if players need all there are.
    pub fn oldest_ended_wall_ms(&self) -> Option<u64> {
        let most = self.segments.len() - playlist::window(self.segments(), 0).len();
        self.segments.front().filter(|_| most > 0).map(|found| found.info.wall_end_ms)
    }

    /// Bytes of all segments, the open one included.
    pub fn bytes(&self) -> u64 {
        let open = self.open.as_ref().map_or(0, |open| open.written);
        self.segments.iter().map(|found| found.bytes).sum::<u64>() + open
    }

    /// The longest segment that the live index ever named, in 1/90,000 s.
    pub fn longest_90k(&self) -> u64 {
        self.longest_90k
    }

    /// Whether the live index says that the stream is over.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Starts a segment; one that was open is thrown away.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn begin(&mut self, number: u64) -> io::Result<()> {
        self.abandon();
        let path = files::part(&self.directory, number);
        let file = self.making_room(|_| File::create(&path))?;
        self.open = Some(Open { number, file, written: 0 });
        Ok(())
    }

    /// Appends to the open segment's file; without one, nothing happens. Each call is a system call: the caller gathers.
    ///
    /// # Errors
    /// The segment is lost: it is too large, or its bytes cannot be written though all segments outside the window were given up for them.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(mut open) = self.open.take() else { return Ok(()) };
        if open.written + bytes.len() as u64 > self.options.budget_bytes / LARGEST_SHARE {
            self.lose(open.number);
            return Err(too_large());
        }
        let mut done = 0;
        let result = self.making_room(|_| {
            while done < bytes.len() {
                match open.file.write(&bytes[done..]) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(bytes) => done += bytes,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        });
        open.written += done as u64;
        match result {
            Ok(()) => {
                self.open = Some(open);
                Ok(())
            }
            Err(error) => {
                self.lose(open.number);
                Err(error)
            }
        }
    }

    /// Finishes the open segment, names it in the live index, and deletes what is past its retention.
    ///
    /// # Errors
    /// See [`FinishError`].
    pub fn finish(&mut self, info: SegmentInfo) -> Result<(), FinishError> {
        let Some(open) = self.open.take() else {
            return Err(FinishError::Lost(io::Error::new(io::ErrorKind::NotFound, "no segment is open")));
        };
        kill_point("segment");
        let moved = fs::rename(files::part(&self.directory, open.number), files::segment(&self.directory, info.number));
        if let Err(error) = moved {
            self.lose(open.number);
            return Err(FinishError::Lost(error));
        }
        self.name(info, open.written)
    }

    /// Takes a file that another server has finished, on the same file system, as a segment: appends what it is to its first
    /// `media_bytes`, and moves it here. Otherwise as [`SegmentStore::finish`].
    ///
    /// # Errors
    /// See [`FinishError`]. A file that is lost may lie where it was.
    pub fn take(&mut self, path: &Path, file: &File, media_bytes: u64, info: SegmentInfo) -> Result<(), FinishError> {
        let bytes = media_bytes.saturating_add(PACKET_BYTES as u64);
        let taken = if bytes > self.options.budget_bytes / LARGEST_SHARE {
            Err(too_large())
        } else {
            self.making_room(|_| braidcast_sys::file::pwrite_all(file, &info.to_packet(), media_bytes)).and_then(|()| {
                kill_point("segment");
                fs::rename(path, files::segment(&self.directory, info.number))
            })
        };
        if let Err(error) = taken {
            self.counters.lost += 1;
            return Err(FinishError::Lost(error));
        }
        self.name(info, bytes)
    }

    /// Names a segment that is there in the live index, and deletes what is past its retention.
    fn name(&mut self, info: SegmentInfo, bytes: u64) -> Result<(), FinishError> {
        // After a restart a segment may be written once more, with the same bytes.
        while self.segments.back().is_some_and(|last| last.info.number >= info.number) {
            self.segments.pop_back();
        }
        self.segments.push_back(Found { info, bytes, foreign: false });
        self.counters.finished += 1;
        self.ended = false;
        let named = self.write_index();
        if named.is_ok() {
            self.retain();
            self.keep_to_budget();
        }
        named.map_err(FinishError::Index)
    }

    /// Throws the open segment away.
    pub fn abandon(&mut self) {
        if let Some(open) = self.open.take() {
            self.lose(open.number);
        }
    }

    /// Writes the live index's end.
    ///
    /// # Errors
    /// The index cannot be written.
    pub fn end(&mut self) -> io::Result<()> {
        self.ended = true;
        self.write_index()
    }

    /// The stream goes on after all: takes the end out of the live index, so that whoever comes now waits for what comes.
    ///
    /// # Errors
    /// The index cannot be written.
    pub fn revive(&mut self) -> io::Result<()> {
        self.ended = false;
        self.write_index()
    }

    /// Writes the live index. Without segments there is none.
    ///
    /// # Errors
    /// It cannot be written; the old one stays.
    pub fn write_index(&mut self) -> io::Result<()> {
        self.note_longest();
        if self.segments.is_empty() {
            return files::remove_if_there(&self.directory.join(INDEX));
        }
        let text = self.index_text();
        let directory = self.directory.clone();
        self.making_room(|_| files::replace(&directory, INDEX, text.as_bytes()))
    }

    /// Deletes the oldest segments up to the first one that ended at or after this wall clock time. For want of room even the live
    /// index becomes shorter, but not shorter than players need. Says how many went.
    pub fn evict_older_than(&mut self, wall_ms: u64) -> usize {
        let old = |store: &Self, index: usize| store.segments[index].info.wall_end_ms < wall_ms;
        self.evict(old) + self.shorten_index(old)
    }

    /// Takes old segments out of the live index, then deletes them. An index that cannot be written stays, and so do they.
    fn shorten_index(&mut self, goes: impl Fn(&Self, usize) -> bool) -> usize {
        let most = self.segments.len() - playlist::window(self.segments(), 0).len();
        let count = (0..most).take_while(|index| goes(self, *index)).count();
        if count == 0 {
            return 0;
        }
        let kept = self.segments.split_off(count);
        let gone = std::mem::replace(&mut self.segments, kept);
        if let Err(error) = self.write_index() {
            tracing::warn!(directory = %self.directory.display(), %error, "the live index could not be made shorter");
            let kept = std::mem::replace(&mut self.segments, gone);
            self.segments.extend(kept);
            return 0;
        }
        for segment in &gone {
            // Best effort: no index names it any more, and the next owner sees to it again.
            let _ = files::remove_if_there(&files::segment(&self.directory, segment.info.number));
        }
        self.counters.evicted += count as u64;
        self.refresh_clips();
        count
    }

    fn index_text(&self) -> String {
        let segments = playlist::window(self.segments(), self.options.window_ms);
        playlist::write(&Playlist { segments, longest_90k: self.longest_90k, ended: self.ended })
    }

    fn note_longest(&mut self) {
        let window = playlist::window(self.segments(), self.options.window_ms);
        self.longest_90k = window.iter().map(|info| info.duration_90k).fold(self.longest_90k, u64::max);
    }

    /// Tries something again for as long as the directory is full and an old segment can be given up for it.
    fn making_room<T>(&mut self, mut attempt: impl FnMut(&Self) -> io::Result<T>) -> io::Result<T> {
        loop {
            match attempt(self) {
                Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                    let mut one = true;
                    if self.evict(|_, _| std::mem::take(&mut one)) == 0 {
                        return Err(error);
                    }
                }
                other => return other,
            }
        }
    }

    fn lose(&mut self, number: u64) {
        self.counters.lost += 1;
        // Best effort: the next owner clears it away.
        let _ = files::remove_if_there(&files::part(&self.directory, number));
    }

    /// Deletes what is past its retention.
    fn retain(&mut self) {
        let kept_90k = self.options.retention_ms.max(self.options.window_ms.saturating_mul(2)).saturating_mul(90);
        let mut newer_90k = self.segments().map(|info| info.duration_90k).fold(0, u64::saturating_add);
        self.evict(|store, index| {
            newer_90k = newer_90k.saturating_sub(store.segments[index].info.duration_90k);
            newer_90k >= kept_90k || store.segments.len() - index > MAX_SEGMENTS
        });
    }

    /// Deletes the oldest segments until the rest, with one more of the largest size, is within the budget.
    fn keep_to_budget(&mut self) {
        let room = self.options.budget_bytes - self.options.budget_bytes / LARGEST_SHARE;
        while self.bytes() > room
            && let Some(ended_wall_ms) = self.oldest_ended_wall_ms()
        {
            if self.evict_older_than(ended_wall_ms.saturating_add(1)) == 0 {
                return;
            }
        }
    }

    /// Deletes segments from the oldest on, for as long as `goes` says so and the window is not touched.
    fn evict(&mut self, mut goes: impl FnMut(&Self, usize) -> bool) -> usize {
        let window = playlist::window(self.segments(), self.options.window_ms).len();
        let outside = self.segments.len() - window;
        let mut count = 0;
        while count < outside && goes(self, count) {
            // A file that cannot be deleted must not be deleted from the list either: a scan would find it.
            if files::remove_if_there(&files::segment(&self.directory, self.segments[count].info.number)).is_err() {
                break;
            }
            count += 1;
        }
        self.segments.drain(..count);
        self.counters.evicted += count as u64;
        if count > 0 {
            self.refresh_clips();
        }
        count
    }

    /// Indexes by name lose the segments that are gone; one that has none left is deleted.
    fn refresh_clips(&self) {
        let Ok(entries) = fs::read_dir(&self.directory) else { return };
        for name in entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()) {
            if name != INDEX && !name.starts_with('.') && name.ends_with(".m3u8") {
                // Best effort: an index that is not refreshed names files that are gone, and is seen to again next time.
                let _ = self.refresh_clip(&name);
            }
        }
    }

    fn refresh_clip(&self, name: &str) -> io::Result<()> {
        let path = self.directory.join(name);
        let Some(bytes) = files::read_if_there(&path)? else { return Ok(()) };
        let numbers: Vec<u64> = playlist::numbers(&String::from_utf8_lossy(&bytes)).collect();
        let left: Vec<_> = self.segments().filter(|info| numbers.contains(&info.number)).collect();
        if left.is_empty() {
            files::remove_if_there(&path)
        } else if left.len() < numbers.len() {
            files::replace(&self.directory, name, clip_text(left).as_bytes())
        } else {
            Ok(())
        }
    }
}

fn too_large() -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, "it holds more than a quarter of [hls] stream_budget")
}

/// The text of an index that ends.
pub(super) fn clip_text(segments: Vec<&SegmentInfo>) -> String {
    playlist::write(&Playlist { segments, longest_90k: 0, ended: true })
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
