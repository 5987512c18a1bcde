//! The page `watched` in a stream's directory: who views the stream, and what was sent of it. Each worker has a lane in it that it alone writes; what it
//! has counted there stays when it dies, and whoever takes its place goes on. The page goes with the stream's directory.
//!
//! Written once a second, never in a frame's path.

use crate::control::WorkerId;
use crate::control::pages::MAX_WORKERS;
use braidcast_media::StreamKey;
use braidcast_stream_log::Root;
use braidcast_sys::dir::{Identity, identity, identity_at};
use braidcast_sys::{Dir, SharedPage};
use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

const NAME: &str = "watched";
/// A lane is a cache line: nobody else writes there.
const LANE_BYTES: usize = 64;

/// The words of a lane.
#[derive(Clone, Copy)]
#[repr(usize)]
enum Word {
    /// The process that has said how many view and how much they get: of another one that is no longer true.
    Pid,
    Viewers,
    SentBytes,
    Jumps,
    SentRate,
}

/// What a stream's viewers get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watched {
    /// Viewers now, by RTMP and by HTTP in one endless answer.
    pub viewers: u64,
    /// Bytes that were sent of it since its directory was made: live, and in segments.
    pub sent_bytes: u64,
    /// Likewise, in a second; an average in which the last ten seconds count most.
    pub sent_rate: u64,
    /// How often viewers were jumped to the newest keyframe because they lagged.
    pub jumps: u64,
}

/// The rate's average takes in so much of what is new: one part in so many.
const RATE_PARTS: u64 = 8;
/// A rate that only fades is none any more below this, bytes per second.
const FADED: u64 = 1_000;

/// A worker's lane, for the worker.
#[derive(Debug)]
pub struct Lane {
    page: SharedPage,
    /// Which file it is.
    identity: Identity,
    worker: WorkerId,
}

impl Lane {
    /// Opens a worker's lane of a stream. `NotFound` if the stream has no directory.
    pub fn open(root: &Root, key: &StreamKey, worker: WorkerId) -> io::Result<Self> {
        let file = Dir::open(&root.stream_dir(key))?.open_or_create(NAME)?;
        // Others may have made it longer already.
        let identity = identity(&file)?;
        Ok(Self { page: SharedPage::map_writable(file, usize::from(worker.0) * LANE_BYTES)?, identity, worker })
    }

    /// Says how many view in this process, and adds what was sent and how often somebody was jumped in the last second. Whether there is more to
    /// tell: somebody views, or the rate has not faded.
    pub fn tell(&self, viewers: u64, sent_bytes: u64, jumps: u64) -> bool {
        let word = |word| lane_word(&self.page, self.worker, word);
        let is_own = word(Word::Pid).load(Relaxed) == u64::from(std::process::id());
        let before = if is_own { word(Word::SentRate).load(Relaxed) } else { 0 };
        let rate = (before * (RATE_PARTS - 1)).saturating_add(sent_bytes) / RATE_PARTS;
        let rate = if sent_bytes == 0 && rate < FADED { 0 } else { rate };
        word(Word::SentRate).store(rate, Relaxed);
        word(Word::SentBytes).fetch_add(sent_bytes, Relaxed);
        word(Word::Jumps).fetch_add(jumps, Relaxed);
        word(Word::Viewers).store(viewers, Relaxed);
        word(Word::Pid).store(std::process::id().into(), Relaxed);
        viewers + rate > 0
    }

    /// Whether the stream still has the directory that the lane lies in.
    pub fn is_of(&self, root: &Root, key: &StreamKey) -> bool {
        identity_at(&root.stream_dir(key).join(NAME)).is_ok_and(|there| there == self.identity)
    }
}

/// What all workers have said of a stream. `pid_of` tells a worker's process, 0 if it has none. Zeros if nobody has said anything, or if it cannot be read.
pub fn read(root: &Root, key: &StreamKey, pid_of: impl Fn(WorkerId) -> u32) -> Watched {
    try_read(root, key, pid_of).unwrap_or_default()
}

fn try_read(root: &Root, key: &StreamKey, pid_of: impl Fn(WorkerId) -> u32) -> io::Result<Watched> {
    let file = Dir::open(&root.stream_dir(key))?.open_regular(NAME, false)?;
    let lanes = (file.metadata()?.len() / LANE_BYTES as u64).min(MAX_WORKERS.into()) as u16;
    let mut watched = Watched::default();
    if lanes == 0 {
        return Ok(watched);
    }
    let page = SharedPage::map_readonly(file, usize::from(lanes) * LANE_BYTES)?;
    for worker in (1..=lanes).map(WorkerId) {
        let word = |word| lane_word(&page, worker, word).load(Relaxed);
        if word(Word::Pid) == u64::from(pid_of(worker)) {
            watched.viewers += word(Word::Viewers);
            watched.sent_rate += word(Word::SentRate);
        }
        watched.sent_bytes += word(Word::SentBytes);
        watched.jumps += word(Word::Jumps);
    }
    Ok(watched)
}

fn lane_word(page: &SharedPage, worker: WorkerId, word: Word) -> &AtomicU64 {
    page.u64((usize::from(worker.0) - 1) * LANE_BYTES + word as usize * 8)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn lanes_add_up_and_outlive_their_processes() {
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        let root = Root::new(directory.path().to_owned());
        let key = StreamKey::new("v", "live", "x").unwrap();
        let own = |_| std::process::id();
        assert_eq!(Lane::open(&root, &key, WorkerId(1)).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(read(&root, &key, own), Watched::default());
        std::fs::create_dir_all(root.stream_dir(&key)).unwrap();
        let second = Lane::open(&root, &key, WorkerId(2)).unwrap();
        assert!(second.tell(3, 800_000, 1));
        let first = Lane::open(&root, &key, WorkerId(1)).unwrap();
        assert!(first.tell(4, 16_000, 0));
        assert_eq!(read(&root, &key, own), Watched { viewers: 7, sent_bytes: 816_000, sent_rate: 102_000, jumps: 1 });
        // The second dies: nobody views there now, but what was sent was sent.
        let survivor = |worker| if worker == WorkerId(1) { std::process::id() } else { 1 };
        assert_eq!(read(&root, &key, survivor), Watched { viewers: 4, sent_bytes: 816_000, sent_rate: 2_000, jumps: 1 });
        drop(second);
        let successor = Lane::open(&root, &key, WorkerId(2)).unwrap();
        successor.tell(1, 8, 0);
        // Nobody views there any more, and the rate fades.
        while first.tell(0, 0, 0) {}
        assert_eq!(read(&root, &key, own), Watched { viewers: 1, sent_bytes: 816_008, sent_rate: 87_501, jumps: 1 });
        assert!(first.is_of(&root, &key));
        std::fs::remove_dir_all(root.stream_dir(&key)).unwrap();
        assert!(!first.is_of(&root, &key));
    }
}
