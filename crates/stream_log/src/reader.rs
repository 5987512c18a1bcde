//! Reading a stream's log, in any process, while its writer goes on.
//!
//! A reader holds no lock and tells the writer nothing. It believes no number that it finds: a damaged head gives errors
//! and `None`s, never a panic and never a byte from beyond a file's end.

use crate::Root;
use crate::head::{BlockInfo, Counters, Head, HeadFault, Position, State};
use crate::writer::block_name;
use braidcast_media::{RecordHeader, StreamKey};
use braidcast_sys::{Dir, Mapping};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// A stream's log, opened for reading. It stays the same log even if the stream is removed and made anew:
/// [`State::Disposed`] tells.
#[derive(Debug)]
pub struct Reader {
    head: Head,
    /// The directory of the blocks. What is opened there is this log's as long as it was not disposed of.
    log: PathBuf,
}

/// What lies ahead of a place in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ahead {
    /// Records, up to this offset of the same block.
    Bytes {
        /// The end of what is there.
        to: u32,
    },
    /// The block is finished: the next record is, or will be, here. The prefix before it is for those who come from
    /// another generation.
    Block(Position),
    /// Nothing yet.
    Nothing,
    /// The place is not in the log any more (or never was): its block was evicted.
    Lost,
}

impl Reader {
    /// Opens a stream's log. `None` if there is none, or if it is just being made or removed. `InvalidData` if what lies
    /// there is no log, `Unsupported` if it is of another version.
    pub fn open(root: &Root, key: &StreamKey) -> io::Result<Option<Self>> {
        let directory = root.stream_dir(key);
        let head = match open_below(&directory, "head").and_then(Head::map_readonly) {
            Ok(head) => head,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof) => return Ok(None),
            Err(error) => return Err(error),
        };
        match head.check() {
            Ok(()) if head.state() == State::Disposed => Ok(None),
            Ok(()) => Ok(Some(Self { head, log: directory.join("log") })),
            Err(HeadFault::Unfinished) => Ok(None),
            Err(HeadFault::Version(version)) => {
                Err(io::Error::new(io::ErrorKind::Unsupported, format!("a stream log of version {version}")))
            }
            Err(HeadFault::Damaged) => Err(io::Error::new(io::ErrorKind::InvalidData, "no head of a stream log")),
        }
    }

    /// Every byte before this may be read and never changes. Block 0: nothing yet.
    pub fn commit(&self) -> Position {
        self.head.commit()
    }

    /// See [`State`].
    pub fn state(&self) -> State {
        self.head.state()
    }

    /// How many publishers there have been.
    pub fn epoch(&self) -> u32 {
        self.head.epoch()
    }

    /// Where the newest publisher sends from, if its writer has said so.
    pub fn publisher(&self) -> Option<SocketAddr> {
        self.head.publisher()
    }

    /// The generation of the newest block's headers; see [`BlockInfo::generation`].
    pub fn generation(&self) -> u32 {
        self.head.generation()
    }

    /// `CLOCK_MONOTONIC` of the last commit, or of the publisher's begin, milliseconds.
    pub fn last_append_mono_ms(&self) -> u64 {
        self.head.last_append_mono_ms()
    }

    /// The latest time in the log, on its unwrapped time line, milliseconds.
    pub fn last_timestamp_ms(&self) -> i64 {
        self.head.last_timestamp_ms()
    }

    /// What the log has counted.
    pub fn counters(&self) -> Counters {
        self.head.counters()
    }

    /// The newest keyframe that is committed and still there; without video an audio record of the last second or so.
    pub fn newest_keyframe(&self) -> Option<Position> {
        let commit = self.head.commit();
        let newest = self.head.keyframes().find(|position| *position < commit)?;
        (newest.block >= self.head.oldest() && self.block(newest.block).is_some()).then_some(newest)
    }

    /// The keyframes that are committed and still there, newest first, as many as are listed; without video, audio records a second or so apart.
    pub fn keyframes(&self) -> impl Iterator<Item = Position> + '_ {
        let commit = self.head.commit();
        let listed = self.head.keyframes().filter(move |position| *position < commit);
        listed.take_while(|position| position.block >= self.head.oldest() && self.block(position.block).is_some())
    }

    /// Where a new viewer starts: at the newest keyframe, else at the first record of the newest block.
    pub fn start(&self) -> Option<Position> {
        self.newest_keyframe().or_else(|| {
            let newest = self.block(self.head.commit().block)?;
            Some(Position { block: newest.number, offset: newest.prefix_bytes })
        })
    }

    /// What is known of a block; `None` if it is not there (any more, or yet).
    pub fn block(&self, number: u32) -> Option<BlockInfo> {
        let commit = self.head.commit();
        if number > commit.block {
            return None;
        }
        let mut info = self.head.entry(number)?.info;
        // While the writer goes on to the next block, the table is ahead of the commit word.
        let settled = number < commit.block || info.final_bytes == Some(commit.offset);
        info.final_bytes = info.final_bytes.filter(|_| settled);
        Some(info)
    }

    /// The oldest block that is still there; with no block at all, the first that will be.
    pub fn oldest_block(&self) -> u32 {
        self.head.oldest()
    }

    /// Up to where a block may be read: its length if it is finished, else the commit word's offset.
    pub fn end_of(&self, number: u32) -> Option<u32> {
        let commit = self.head.commit();
        if number == commit.block { Some(commit.offset) } else { self.block(number)?.final_bytes }
    }

    /// Record bytes from the log's making up to the commit word, prefixes not counted.
    pub fn total_bytes(&self) -> u64 {
        self.bytes_before(self.head.commit()).unwrap_or(0)
    }

    /// Record bytes from the log's making up to a place; with [`Reader::total_bytes`] it tells how far somebody lags.
    pub fn bytes_before(&self, position: Position) -> Option<u64> {
        let BlockInfo { cumulative_bytes, prefix_bytes, .. } = self.block(position.block)?;
        Some(cumulative_bytes.saturating_add(u64::from(position.offset.saturating_sub(prefix_bytes))))
    }

    /// What lies ahead of a place that was reached by reading.
    pub fn ahead(&self, position: Position) -> Ahead {
        let commit = self.head.commit();
        if position == commit {
            return Ahead::Nothing;
        }
        if position.block == commit.block && position.offset < commit.offset {
            return Ahead::Bytes { to: commit.offset };
        }
        match self.block(position.block).and_then(|block| block.final_bytes) {
            Some(end) if position.offset < end => Ahead::Bytes { to: end },
            Some(end) if position.offset == end => self.after(position.block),
            _ => Ahead::Lost,
        }
    }

    fn after(&self, number: u32) -> Ahead {
        let Some(next) = number.checked_add(1).and_then(|next| self.block(next)) else { return Ahead::Lost };
        Ahead::Block(Position { block: next.number, offset: next.prefix_bytes })
    }

    /// Maps a block, once for all its viewers; one that still grows, up to where it can grow. `NotFound` if it is not there.
    pub fn map(&self, number: u32) -> io::Result<BlockMap> {
        let block = self.block(number).ok_or(io::ErrorKind::NotFound)?;
        let longest = block.final_bytes.unwrap_or_else(|| self.head.block_capacity().max(self.head.commit().offset));
        let file = open_below(&self.log, &block_name(number))?;
        // A file that was evicted before it was opened may have been given to another block, a directory that was disposed of replaced by another;
        // once it is open it is not.
        self.block(number).filter(|_| self.state() != State::Disposed).ok_or(io::ErrorKind::NotFound)?;
        Ok(BlockMap { number, first_record: block.prefix_bytes, mapping: Mapping::map_readonly(file, longest.max(1) as usize)? })
    }

    /// The first record boundary at or after an offset of a block. It walks the records from the keyframe before the
    /// offset, or from the first record. `None` if the offset is beyond what is committed, or the bytes are no records.
    pub fn record_end(&self, map: &BlockMap, offset: u32) -> Option<u32> {
        let end = self.end_of(map.number)?;
        let target = Position { block: map.number, offset };
        let near = self.head.keyframes().find(|keyframe| *keyframe <= target).filter(|keyframe| keyframe.block == map.number);
        let mut at = near.map_or(map.first_record, |keyframe| keyframe.offset.max(map.first_record));
        while at < offset {
            let header = RecordHeader::parse(map.bytes(at, end)?)?;
            at = at.checked_add(u32::try_from(header.record_bytes()).ok()?)?;
        }
        (at <= end).then_some(at)
    }
}

/// A mapped block. The memory of an evicted block is freed when the last map of it goes.
#[derive(Debug)]
pub struct BlockMap {
    number: u32,
    first_record: u32,
    mapping: Mapping,
}

impl BlockMap {
    /// Which block this is.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Where the prefix ends.
    pub fn prefix_bytes(&self) -> u32 {
        self.first_record
    }

    /// The bytes of a range that lies before the commit word, as [`Reader::ahead`] or [`Reader::end_of`] told. `None` if the
    /// file has no such range: then the log is damaged.
    pub fn bytes(&self, from: u32, to: u32) -> Option<&[u8]> {
        self.mapping.bytes(from as usize..to as usize)
    }

    /// Lets go of the memory that was looked at, which the file keeps: see [`Mapping::let_go`].
    pub fn let_go(&self) -> io::Result<()> {
        self.mapping.let_go()
    }
}

fn open_below(directory: &Path, name: &str) -> io::Result<OwnedFd> {
    Dir::open(directory)?.open_file(name)
}
