//! Taking a stream's log: the lock, and what a dead writer left, either to begin anew or to go on where it was.
//!
//! The commit word is the truth. Whatever a death left beyond it is cut or removed; nothing before it is touched.

use crate::batch::OpenBlock;
use crate::head::{Entry, Head, HeadFault, MAX_BLOCKS, Position, State};
use crate::headers::{Headers, MAX_PREFIX_BYTES};
use crate::recycling::{BlockFile, SPARE};
use crate::removal;
use crate::saved::SavedWriter;
use crate::writer::{Kept, block_name, is_full};
use crate::{LogOptions, Root};
use braidcast_media::StreamKey;
use braidcast_sys::fault::kill_point;
use braidcast_sys::{Dir, dir, file};
use std::collections::VecDeque;
use std::path::Path;
use std::{fmt, fs, io};

/// How often opening starts anew because the directory was being removed at the same time.
const ATTEMPTS: usize = 16;

/// Why a log cannot be written.
#[derive(Debug)]
pub enum OpenError {
    /// Somebody else writes it.
    Locked,
    /// Somebody else has written it since it was saved.
    Changed,
    /// The shared directory has no room for another log.
    Full,
    /// It was made by another version of this program, whose number this is.
    Version(u32),
    /// What lies there is no log. [`crate::dispose`] removes it.
    Damaged,
    /// The operating system failed.
    Io(io::Error),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Locked => f.write_str("somebody else writes the stream's log"),
            Self::Changed => f.write_str("the stream's log is not as its writer left it"),
            Self::Full => f.write_str("the shared directory has no room for another log"),
            Self::Version(version) => write!(f, "the stream's log is of version {version}, which this program does not write"),
            Self::Damaged => f.write_str("the stream's log is damaged"),
            Self::Io(error) => write!(f, "the stream's log cannot be opened: {error}"),
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        if is_full(&error) { Self::Full } else { Self::Io(error) }
    }
}

/// A log that is locked, and whole up to its commit word.
pub(crate) struct Recovered {
    pub head: Head,
    pub log: Dir,
    pub options: LogOptions,
    pub kept: VecDeque<Kept>,
    pub cumulative_bytes: u64,
    /// The headers that the head's generation stands for, if they can be known.
    pub generation_headers: Option<Headers>,
}

/// A log that was taken over in the middle.
pub(crate) struct Resumed {
    pub recovered: Recovered,
    /// The block that was open before the batch.
    pub open: Option<(OpenBlock, BlockFile)>,
    /// The files of the batch's new blocks, in order.
    pub new_files: Vec<BlockFile>,
    /// Readers have seen the batch already.
    pub published: bool,
    /// The last block is finished: the publisher was just being ended.
    pub sealed: bool,
}

/// Takes a log whose writer was saved: everything it saved stays, everything else beyond the commit word is cut off.
pub(crate) fn resume(root: &Root, key: &StreamKey, options: &LogOptions, saved: &SavedWriter<'_>) -> Result<Resumed, OpenError> {
    let options = options.fitted(file::file_system(root.path())?.total_bytes);
    let Some((directory, head)) = lock(&root.stream_dir(key))? else { return Err(OpenError::Changed) };
    match head.check() {
        Ok(()) if head.state() != State::Disposed && head.epoch() == saved.epoch => {}
        Err(HeadFault::Version(version)) => return Err(OpenError::Version(version)),
        _ => return Err(OpenError::Changed),
    }
    let commit = head.commit();
    let published = saved.ends_at() == Some(commit);
    let unpublished = saved.begins_at().map_or(commit.block == saved.last_number, |begin| begin == commit);
    if !published && !unpublished {
        return Err(OpenError::Changed);
    }
    kill_point("resume_locked");
    let log = directory.create_dir("log")?;
    let mut recovered = Recovered { log, options, kept: VecDeque::new(), cumulative_bytes: 0, generation_headers: None, head };
    let mut sealed = false;
    if commit.block != 0 {
        let Entry { info, mono_ms } = recovered.head.entry(commit.block).ok_or(OpenError::Damaged)?;
        sealed = published && info.final_bytes.is_some();
        recovered.kept.push_front(Kept { number: commit.block, bytes: commit.offset.into(), wall_ms: info.wall_ms, mono_ms });
        recovered.find_older();
    }
    let last = saved.ends_at().unwrap_or(commit);
    recovered.clear_outside(commit, last.block)?;
    let open = match saved.open {
        Some(block) => {
            Some((block, recovered.reopen(saved.runs.first().filter(|run| !run.is_new_block()).map_or(block, |run| run.block))?))
        }
        None => None,
    };
    let new_blocks = saved.runs.iter().filter(|run| run.is_new_block());
    let new_files = new_blocks.map(|run| recovered.reopen(run.block)).collect::<Result<_, _>>()?;
    recovered.head.set_block_capacity(options.block_capacity());
    kill_point("resumed");
    Ok(Resumed { recovered, open, new_files, published: published && !saved.runs.is_empty(), sealed })
}

pub(crate) fn open(root: &Root, key: &StreamKey, options: &LogOptions) -> Result<Recovered, OpenError> {
    let path = root.stream_dir(key);
    let options = options.fitted(file::file_system(root.path())?.total_bytes);
    for _ in 0..ATTEMPTS {
        let Some((directory, head)) = lock(&path)? else { continue };
        match head.check() {
            Ok(()) if head.state() == State::Disposed => {
                // Somebody died while removing it.
                removal::move_away_and_delete(root, &path)?;
                continue;
            }
            Ok(()) => {}
            Err(HeadFault::Unfinished) => head.initialise(),
            Err(HeadFault::Version(version)) => return Err(OpenError::Version(version)),
            Err(HeadFault::Damaged) => return Err(OpenError::Damaged),
        }
        kill_point("locked");
        let log = directory.create_dir("log")?;
        return recover(head, log, options);
    }
    Err(OpenError::Locked)
}

/// Locks and maps the head at a path, making it if need be; `None` if the directory went away meanwhile.
pub(crate) fn lock(path: &Path) -> Result<Option<(Dir, Head)>, OpenError> {
    let opened = fs::create_dir_all(path).and_then(|()| Dir::open(path)).and_then(|directory| {
        let head = directory.open_or_create("head")?;
        Ok((directory, head))
    });
    let (directory, head) = match opened {
        Ok(opened) => opened,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if !file::try_lock_exclusive(&head)? {
        return Err(OpenError::Locked);
    }
    let still_there = Dir::open(path).is_ok_and(|now| matches!((dir::identity(&now), dir::identity(&directory)), (Ok(a), Ok(b)) if a == b));
    if still_there { Ok(Some((directory, Head::map_writable(head)?))) } else { Ok(None) }
}

fn recover(head: Head, log: Dir, options: LogOptions) -> Result<Recovered, OpenError> {
    let commit = head.commit();
    let mut recovered = Recovered { log, options, kept: VecDeque::new(), cumulative_bytes: 0, generation_headers: None, head };
    if commit.block != 0 {
        recovered.seal_last()?;
        recovered.find_older();
    }
    recovered.clear_outside(commit, commit.block)?;
    let head = &recovered.head;
    head.set_block_capacity(options.block_capacity());
    if head.state() == State::Live {
        head.set_state(State::Waiting);
    }
    kill_point("recovered");
    Ok(recovered)
}

impl Recovered {
    /// Cuts the last block at the commit word and finishes it there.
    fn seal_last(&mut self) -> Result<(), OpenError> {
        let commit = self.head.commit();
        let Entry { info, mono_ms } = self.head.entry(commit.block).ok_or(OpenError::Damaged)?;
        let block = self.log.open_or_create(&block_name(commit.block))?;
        if commit.offset < info.prefix_bytes || file::len(&block)? < commit.offset.into() {
            return Err(OpenError::Damaged);
        }
        file::truncate(&block, commit.offset.into())?;
        kill_point("recover_cut");
        self.head.seal(commit.block, commit.offset);
        self.cumulative_bytes = info.cumulative_bytes.saturating_add(u64::from(commit.offset - info.prefix_bytes));
        if info.generation == self.head.generation() {
            let prefix = file::read_start(&block, MAX_PREFIX_BYTES.min(info.prefix_bytes as usize))?;
            self.generation_headers = Headers::parse(&prefix);
        }
        self.kept.push_front(Kept { number: commit.block, bytes: commit.offset.into(), wall_ms: info.wall_ms, mono_ms });
        Ok(())
    }

    /// Clears away what readers cannot come to: entries and keyframes at or beyond the commit word, files of blocks that are gone or
    /// come after `last`.
    fn clear_outside(&self, commit: Position, last: u32) -> Result<(), OpenError> {
        let oldest = self.kept.front().map_or(1, |kept| kept.number);
        self.head.set_oldest(oldest);
        self.head.clear_entries_outside(oldest..=commit.block);
        self.head.strike_keyframes_from(commit);
        kill_point("recover_files");
        self.log.unlink(SPARE)?;
        for name in self.log.names()? {
            let number = name.to_str().and_then(|name| name.strip_suffix(".flv")).and_then(|number| number.parse::<u32>().ok());
            if let Some(number) = number
                && !(oldest..=last).contains(&number)
            {
                self.log.unlink(&block_name(number))?;
            }
        }
        Ok(())
    }

    /// Opens a block that is being written, and cuts off what was written behind its end.
    fn reopen(&self, block: OpenBlock) -> Result<BlockFile, OpenError> {
        let opened = self.log.open_or_create(&block_name(block.number()))?;
        if file::len(&opened)? < block.end.into() {
            return Err(OpenError::Damaged);
        }
        file::truncate(&opened, block.end.into())?;
        Ok(BlockFile::new(opened))
    }

    /// Finds the older blocks, back to the first that is missing: there an eviction was under way.
    fn find_older(&mut self) {
        let last = self.head.commit().block;
        let oldest = self.head.oldest().max(1).max(last.saturating_sub(MAX_BLOCKS - 1));
        for number in (oldest..last).rev() {
            let Some(Entry { info: crate::BlockInfo { final_bytes: Some(bytes), wall_ms, .. }, mono_ms }) = self.head.entry(number) else {
                break;
            };
            let whole = self.log.open_file(&block_name(number)).and_then(file::len).is_ok_and(|len| len >= bytes.into());
            if !whole {
                break;
            }
            self.kept.push_front(Kept { number, bytes: bytes.into(), wall_ms, mono_ms });
        }
    }
}
