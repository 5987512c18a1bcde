//! Takes the HLS that other servers write into the shared directory into the streams' own directories.
//!
//! The other servers are processes of ours, one a core; each writes to `engine/<process>/hls/<vhost>/<app>/<stream>/`: segments, and
//! a playlist that says which of them are finished. A finished segment gets our packet and is moved, so it is one of the stream's
//! from then on, like a native one. Nothing is copied, nothing that a server is still writing is touched, and no path that a
//! playlist names is followed out of its directory.
//!
//! One process collects at a time; its caller sees to that. It may die at any instruction: what was done is seen by the files.

mod file;
mod intake;
mod origin;
#[cfg(test)]
mod server_tests;
#[cfg(test)]
mod tests;
mod tree;

use self::intake::{Source, Stream};
use self::tree::{Changed, Stamp, Tree};
use super::store::StoreOptions;
use crate::control::Settling;
use braidcast_media::StreamKey;
use braidcast_protocols::hls::SegmentInfo;
use braidcast_protocols::hls::media_playlist;
use braidcast_stream_log::{OpenError, Root, dispose};
use braidcast_sys::{Dir, file as files};
use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// Streams that are known at the same time, at most.
const MAX_STREAMS: usize = 1 << 16;
/// A look ends after the first playlist that was taken from later than this; the rest is for the next one.
const TURN: Duration = Duration::from_millis(100);

/// What came of a stream in one look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collected {
    /// The stream.
    pub key: StreamKey,
    /// The process that wrote it.
    pub process: u16,
    /// The number of the next segment.
    pub next: u64,
    /// The segments that were taken, in order.
    pub finished: Vec<SegmentInfo>,
    /// How many were passed over.
    pub refused: usize,
    /// Why, of the first few.
    pub problems: Vec<Problem>,
}

/// A segment that was passed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Its name, as the playlist has it, cut to a length that fits a line.
    pub file: String,
    /// What is wrong with it.
    pub why: String,
}

/// What was counted since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Segments that were taken.
    pub taken: u64,
    /// Segments that were passed over.
    pub refused: u64,
    /// Versions of playlists that could not be read.
    pub unreadable: u64,
}

/// See the module's head.
#[derive(Debug)]
pub struct Collector {
    root: Root,
    options: StoreOptions,
    tree: Tree,
    streams: HashMap<StreamKey, Stream>,
    counters: Counters,
    full: bool,
}

impl Collector {
    /// Collects what lies below `shared_dir/engine` into the streams of `root`. Nothing is read yet.
    pub fn new(root: Root, shared_dir: &Path, options: StoreOptions) -> Self {
        let tree = Tree::new(shared_dir);
        Self { root, options, tree, streams: HashMap::new(), counters: Counters::default(), full: false }
    }

    /// One bounded look at all sources: takes what is finished. What there is no time for is taken by the next look.
    ///
    /// `processes` are those that run, each with a number that changes with each start. What one that is not named left is taken
    /// too. `next_segment` says with which number a stream that was not seen yet begins at least; `None`: that is not known yet,
    /// and its segments wait.
    pub fn look(
        &mut self,
        processes: &[(u16, u64)],
        now_wall_ms: u64,
        next_segment: &mut dyn FnMut(&StreamKey) -> Option<u64>,
    ) -> Vec<Collected> {
        let began = Instant::now();
        let mut collected = Vec::new();
        for changed in self.tree.look(now_wall_ms) {
            let run = processes.iter().find(|(process, _)| *process == changed.process).map(|(_, run)| *run);
            match self.take_from(&changed, run, next_segment) {
                Ok(Some(one)) if !one.finished.is_empty() || one.refused > 0 => {
                    self.counters.taken += one.finished.len() as u64;
                    self.counters.refused += one.refused as u64;
                    collected.push(one);
                }
                Ok(_) => {}
                // It went while it was looked at.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    self.counters.unreadable += 1;
                    let playlist = changed.directory.join(&changed.name);
                    tracing::warn!(stream = %changed.key, playlist = %playlist.display(), %error, "HLS of the engine cannot be taken");
                }
            }
            if began.elapsed() > TURN {
                break;
            }
        }
        collected
    }

    fn take_from(
        &mut self,
        changed: &Changed,
        run: Option<u64>,
        next_segment: &mut dyn FnMut(&StreamKey) -> Option<u64>,
    ) -> io::Result<Option<Collected>> {
        let directory = Dir::open(&changed.directory)?;
        let file = directory.open_regular(&changed.name, false)?;
        let metadata = file.metadata()?;
        let stamp = Stamp::of(&metadata);
        let text = String::from_utf8_lossy(&files::read_start(&file, media_playlist::MAX_BYTES + 1)?).into_owned();
        let playlist = match media_playlist::parse(&text) {
            Ok(playlist) => playlist,
            Err(error) => {
                self.tree.was_read(&changed.directory, stamp);
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
        };
        let taken = match self.stream(&changed.key, next_segment)? {
            Some(stream) => {
                let listed_at = metadata.modified()?;
                let source = Source { process: changed.process, run, path: &changed.directory, directory, listed_at };
                Some(stream.take_from(&source, &playlist))
            }
            None => None,
        };
        if taken.is_some() {
            self.tree.was_read(&changed.directory, stamp);
        }
        Ok(taken)
    }

    /// The stream, opened if need be; `None` if that has to wait.
    fn stream(&mut self, key: &StreamKey, next_segment: &mut dyn FnMut(&StreamKey) -> Option<u64>) -> io::Result<Option<&mut Stream>> {
        if !self.streams.contains_key(key) {
            if self.streams.len() >= MAX_STREAMS {
                if !std::mem::replace(&mut self.full, true) {
                    tracing::warn!(stream = %key, "more than {MAX_STREAMS} streams have HLS: further ones are left out");
                }
                return Ok(None);
            }
            let Some(floor) = next_segment(key) else { return Ok(None) };
            let stream = Stream::open(&self.root, key, self.options, floor)?;
            self.streams.insert(key.clone(), stream);
        }
        Ok(self.streams.get_mut(key))
    }

    /// Brings a stream that nobody publishes in order. A stream without HLS is left alone.
    ///
    /// # Errors
    /// Files cannot be read, written or deleted. `WouldBlock`: somebody holds the stream's lock, and it was not deleted.
    pub fn settle(&mut self, key: &StreamKey, settling: Settling) -> io::Result<()> {
        if settling == Settling::Dispose {
            self.streams.remove(key);
            // The sources first: what they still hold would make the stream again.
            self.tree.delete(key)?;
            return match dispose(&self.root, key) {
                Ok(_) => Ok(()),
                Err(OpenError::Locked) => Err(io::ErrorKind::WouldBlock.into()),
                Err(OpenError::Io(error)) => Err(error),
                Err(error) => Err(io::Error::other(error)),
            };
        }
        let mut opened;
        let stream = match self.streams.get_mut(key) {
            Some(stream) => stream,
            None if !self.root.hls_dir(key).is_dir() => return Ok(()),
            // Not kept: the number it goes on with is still to be asked for.
            None => {
                opened = Stream::open(&self.root, key, self.options, 1)?;
                &mut opened
            }
        };
        if settling == Settling::End { stream.end() } else { stream.store_mut().write_index() }
    }

    /// The shared directory is nearly full: streams that hold more than this give up their oldest segments. Says how many went.
    pub fn evict_down_to(&mut self, stream_bytes: u64) -> usize {
        let mut evicted = 0;
        for stream in self.streams.values_mut() {
            while stream.store().bytes() > stream_bytes
                && let Some(ended_wall_ms) = stream.store().oldest_ended_wall_ms()
            {
                let gone = stream.store_mut().evict_older_than(ended_wall_ms.saturating_add(1));
                evicted += gone;
                if gone == 0 {
                    break;
                }
            }
        }
        evicted
    }

    /// What was counted.
    #[cfg(test)]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Streams that are known.
    #[cfg(test)]
    pub fn streams(&self) -> usize {
        self.streams.len()
    }
}
