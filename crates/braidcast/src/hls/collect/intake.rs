//! One stream: takes the segments that a playlist of another server names into the stream's own directory.
//!
//! Whether a segment was taken is said by the file alone: it lies there, or not any more. So whoever goes on after a death takes
//! nothing twice, and what is known in memory only says whether something is missing in between.

use super::file::{self, Candidate, Seen};
use super::origin::Origin;
use super::{Collected, Problem};
use crate::hls::state::SavedState;
use crate::hls::store::{FinishError, SegmentStore, StoreOptions};
use braidcast_media::StreamKey;
use braidcast_protocols::hls::media_playlist::{Listed, MediaPlaylist};
use braidcast_protocols::hls::{SegmentInfo, SegmenterState};
use braidcast_stream_log::Root;
use braidcast_sys::Dir;
use braidcast_sys::fault::kill_point;
use std::io;
use std::path::Path;
use std::time::SystemTime;

/// Problems that are told of one look at one playlist, at most; all are counted.
const MAX_PROBLEMS: usize = 16;
/// A segment that continues another one starts when that one ended, unless the clock says otherwise by more than this.
const MAX_WALL_STEP_MS: u64 = 1_000;

/// A playlist of another server, and where it lies.
pub(super) struct Source<'a> {
    pub process: u16,
    /// `None`: the process is gone, whatever run of it this was.
    pub run: Option<u64>,
    pub path: &'a Path,
    pub directory: Dir,
    /// When the playlist was written.
    pub listed_at: SystemTime,
}

/// Which segment of which server comes next if nothing breaks off.
#[derive(Clone, Copy, Debug)]
struct Expected {
    process: u16,
    run: u64,
    sequence: u64,
}

/// See the module's head.
#[derive(Debug)]
pub(super) struct Stream {
    key: StreamKey,
    window_ms: u64,
    store: SegmentStore,
    next: u64,
    discontinuity_sequence: u64,
    expected: Option<Expected>,
    /// The next segment does not continue the last one.
    broken: bool,
}

impl Stream {
    /// Opens a stream's `hls/` directory and rebuilds the live index. No segment gets a number below `floor`.
    ///
    /// # Errors
    /// The directory cannot be opened.
    pub(super) fn open(root: &Root, key: &StreamKey, options: StoreOptions, floor: u64) -> io::Result<Self> {
        let directory = root.hls_dir(key);
        let (mut store, skipped) = SegmentStore::open(&directory, options)?;
        for skipped in skipped {
            tracing::warn!(stream = %key, file = skipped.name, why = skipped.why, "a file among the segments was skipped");
        }
        let saved = SavedState::load(&directory)?;
        if let Some(saved) = &saved {
            store.resume(saved.longest_90k, saved.ended);
        }
        if let Err(error) = store.write_index() {
            tracing::warn!(stream = %key, %error, "the HLS index could not be written");
        }
        let last = store.segments().next_back();
        let following = last.map_or(0, |info| info.number).saturating_add(1);
        let passed = last.map_or(0, |info| info.discontinuity_sequence);
        let next = saved.as_ref().map_or(1, |saved| saved.segmenter.next_number).max(following).max(floor);
        let origin = Origin::load(&directory)?;
        let since = origin.and_then(|origin| following.checked_sub(origin.number).map(|since| (origin, since)));
        let expected = match (origin, since) {
            (Some(_), Some((origin, since))) => Some(origin.sequence.saturating_add(since)),
            (Some(origin), None) => Some(origin.sequence),
            (None, _) => None,
        };
        Ok(Self {
            key: key.clone(),
            window_ms: options.window_ms,
            next,
            discontinuity_sequence: saved.map_or(0, |saved| saved.segmenter.discontinuity_sequence).max(passed),
            expected: origin.zip(expected).map(|(Origin { process, run, .. }, sequence)| Expected { process, run, sequence }),
            // A source that was announced, and nothing of it came.
            broken: next > 1 && (next != following || since.is_none_or(|(_, since)| since == 0)),
            store,
        })
    }

    pub(super) fn store(&self) -> &SegmentStore {
        &self.store
    }

    pub(super) fn store_mut(&mut self) -> &mut SegmentStore {
        &mut self.store
    }

    /// Takes what is finished and was not taken.
    pub(super) fn take_from(&mut self, source: &Source<'_>, playlist: &MediaPlaylist<'_>) -> Collected {
        let mut collected = Collected {
            key: self.key.clone(),
            process: source.process,
            next: self.next,
            finished: Vec::new(),
            refused: 0,
            problems: Vec::new(),
        };
        for listed in &playlist.segments {
            let expected = self.expected_of(source);
            let fresh = expected.is_none_or(|sequence| listed.sequence >= sequence);
            let refusal = match look_at(source, listed) {
                Look::Unfinished => break,
                // Who knows nothing of this source takes it that another one has taken these.
                Look::Absent if !fresh || expected.is_none() => continue,
                Look::Useless(_) if !fresh => continue,
                Look::Absent => "it is missing".to_owned(),
                Look::Useless(why) | Look::Refused(why) => why,
                Look::Segment(name, candidate) => match self.take(source, listed, name, &candidate) {
                    Ok(info) => {
                        collected.finished.push(info);
                        continue;
                    }
                    Err(why) => why,
                },
            };
            self.refuse(source, listed, refusal, &mut collected);
        }
        if collected.finished.iter().any(|info| info.discontinuity) {
            file::sweep(source.path, playlist, source.listed_at);
        }
        collected.next = self.next;
        collected
    }

    /// The number that comes next of this source; `None` if the last segment was another one's.
    fn expected_of(&self, source: &Source<'_>) -> Option<u64> {
        let same = |expected: &Expected| expected.process == source.process && source.run.is_none_or(|run| run == expected.run);
        self.expected.filter(same).map(|expected| expected.sequence)
    }

    fn take(&mut self, source: &Source<'_>, listed: &Listed<'_>, name: &str, candidate: &Candidate) -> Result<SegmentInfo, String> {
        let info = self.describe(source, listed, candidate)?;
        if info.discontinuity || self.expected_of(source).is_none() {
            self.announce(source, listed.sequence);
            kill_point("source_announced");
        }
        match self.store.take(&source.path.join(name), &candidate.file, candidate.media_bytes, info.clone()) {
            Ok(()) => {}
            Err(FinishError::Lost(error)) if error.kind() == io::ErrorKind::StorageFull => {
                return Err(format!("{error}; enlarge the shared directory, or lower [hls] retention"));
            }
            Err(FinishError::Lost(error)) => return Err(error.to_string()),
            Err(error) => tracing::warn!(stream = %self.key, segment = info.number, %error, "the HLS index is late"),
        }
        kill_point("segment_named");
        self.discontinuity_sequence = info.discontinuity_sequence;
        self.next = info.number.saturating_add(1);
        self.broken = false;
        self.expect(source, listed.sequence.saturating_add(1));
        self.save();
        Ok(info)
    }

    /// What a segment is.
    fn describe(&self, source: &Source<'_>, listed: &Listed<'_>, candidate: &Candidate) -> Result<SegmentInfo, String> {
        let duration_90k = listed.duration_90k.map_err(|unusable| unusable.to_string())?;
        let last = self.store.segments().next_back();
        let follows = self.expected_of(source) == Some(listed.sequence) && !listed.discontinuity && !self.broken;
        let first = last.is_none() && self.next == 1;
        let discontinuity = !follows && !first;
        let continued = last.filter(|_| !discontinuity);
        let media_start_90k = continued
            .map(|last| last.media_end_90k)
            .or_else(|| candidate.first_pts_90k())
            .unwrap_or_else(|| last.map_or(0, |last| last.media_end_90k));
        let wall_end_ms = listed.wall_start_ms.map_or(candidate.wall_end_ms, |start| start.saturating_add(duration_90k / 90));
        let computed = wall_end_ms.saturating_sub(duration_90k / 90);
        let ended_before = continued.map(|last| last.wall_end_ms).filter(|end| *end < wall_end_ms);
        let near = ended_before.filter(|end| listed.wall_start_ms.is_none() && end.abs_diff(computed) <= MAX_WALL_STEP_MS);
        Ok(SegmentInfo {
            stream: format!("{}/{}/{}", self.key.vhost(), self.key.app(), self.key.stream()),
            number: self.next,
            duration_90k,
            media_start_90k,
            media_end_90k: media_start_90k.saturating_add(duration_90k),
            wall_start_ms: near.unwrap_or(computed),
            wall_end_ms,
            discontinuity,
            discontinuity_sequence: self.discontinuity_sequence.saturating_add(u64::from(discontinuity)),
            // Whether it begins with a keyframe was not looked at.
            independent: false,
        })
    }

    /// Passes over a segment: what follows does not continue what was.
    fn refuse(&mut self, source: &Source<'_>, listed: &Listed<'_>, why: String, collected: &mut Collected) {
        tracing::warn!(stream = %self.key, process = source.process, file = listed.uri, why, "a segment of the engine was skipped");
        self.broken = true;
        let after = listed.sequence.saturating_add(1);
        self.announce(source, after);
        kill_point("source_announced");
        self.expect(source, after);
        if let Some(name) = listed.file_name() {
            // Best effort: what stays is passed over again by its number.
            let _ = source.directory.unlink(name);
        }
        collected.refused += 1;
        if collected.problems.len() < MAX_PROBLEMS {
            collected.problems.push(Problem { file: listed.uri.chars().take(80).collect(), why });
        }
    }

    fn run(&self, source: &Source<'_>) -> u64 {
        source.run.or(self.expected.map(|expected| expected.run)).unwrap_or_default()
    }

    fn expect(&mut self, source: &Source<'_>, sequence: u64) {
        self.expected = Some(Expected { process: source.process, run: self.run(source), sequence });
    }

    /// Writes down that the next segment is of this source and follows nothing.
    fn announce(&self, source: &Source<'_>, sequence: u64) {
        let origin = Origin { process: source.process, run: self.run(source), number: self.next, sequence };
        if let Err(error) = origin.store(self.store.directory()) {
            tracing::warn!(stream = %self.key, %error, "it could not be written down which process a stream comes from");
        }
    }

    /// The stream is over.
    pub(super) fn end(&mut self) -> io::Result<()> {
        let ended = self.store.end();
        self.save();
        ended
    }

    /// Writes the state, which `braidcast index rebuild` and the native segmenter go on from.
    fn save(&self) {
        let mut segmenter = SegmenterState::new(format!("{}/{}/{}", self.key.vhost(), self.key.app(), self.key.stream()), self.next);
        segmenter.discontinuity_sequence = self.discontinuity_sequence;
        let state = SavedState {
            segmenter,
            block: 0,
            offset: 0,
            epoch: 0,
            longest_90k: self.store.longest_90k(),
            window_ms: self.window_ms,
            ended: self.store.ended(),
        };
        if let Err(error) = state.store(self.store.directory()) {
            tracing::warn!(stream = %self.key, %error, "the state of a stream's HLS could not be saved");
        }
    }
}

/// What a line of a playlist stands for.
enum Look<'a> {
    Absent,
    Unfinished,
    /// By what the playlist says, or for what cannot be a segment under any content.
    Useless(String),
    /// By what lies there.
    Refused(String),
    Segment(&'a str, Candidate),
}

fn look_at<'a>(source: &Source<'_>, listed: &Listed<'a>) -> Look<'a> {
    let Some(name) = listed.file_name() else { return Look::Useless("it is no file beside its playlist".to_owned()) };
    if let Err(unusable) = listed.duration_90k {
        return Look::Useless(unusable.to_string());
    }
    match file::look_at(&source.directory, name, source.listed_at) {
        Seen::Absent => Look::Absent,
        Seen::Unfinished => Look::Unfinished,
        Seen::NoFile(why) => Look::Useless(why),
        Seen::Refused(why) => Look::Refused(why),
        Seen::Segment(candidate) => Look::Segment(name, candidate),
    }
}
