//! A reader of the log: lines in order, none twice; what was deleted before it was read is counted.

use super::{Line, file_of, files};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Bytes that one look takes in at most; some lines of the longest kind.
const LOOK_BYTES: usize = 256 << 10;

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// With what comes next.
    Newest,
    /// With the oldest line that is kept.
    Oldest,
    /// With the line after this one.
    After(u64),
}

/// See the module's head.
#[derive(Debug)]
pub struct Follower {
    directory: PathBuf,
    /// The file that is read, and the byte that the next line begins at.
    file: Option<(File, u64)>,
    next_id: u64,
    lost: u64,
    buffer: Vec<u8>,
}

impl Follower {
    /// Follows the log of an instance, which need not be there yet. A place behind its end is one of a log that was before: everything
    /// of the one that is there comes.
    pub fn open(shared_dir: &Path, from: From) -> io::Result<Self> {
        let directory = super::directory(shared_dir);
        let firsts = files(&directory)?;
        let oldest = firsts.first().copied().unwrap_or(1);
        let end = match firsts.last() {
            Some(first) => first + std::fs::read(file_of(&directory, *first))?.iter().filter(|byte| **byte == b'\n').count() as u64,
            None => 1,
        };
        let next_id = match from {
            From::Newest => end,
            From::After(id) if id < end => id + 1,
            From::Oldest | From::After(_) => oldest,
        };
        Ok(Self { directory, file: None, next_id, lost: 0, buffer: Vec::new() })
    }

    /// The lines that have come since, as many as one look takes in; none: there is nothing new. The error: a file cannot be read;
    /// the next look may succeed.
    pub fn poll(&mut self) -> io::Result<Vec<Line>> {
        for _ in 0..2 {
            if self.file.is_none() && !self.find_file()? {
                return Ok(Vec::new());
            }
            let lines = self.read_lines()?;
            if !lines.is_empty() || !file_of(&self.directory, self.next_id).exists() && !self.is_left_behind()? {
                return Ok(lines);
            }
            // This file is read to its end, and another one goes on.
            let last = self.read_lines()?;
            if !last.is_empty() {
                return Ok(last);
            }
            self.file = None;
        }
        Ok(Vec::new())
    }

    /// The id of the last line that was given out, or skipped.
    pub fn position(&self) -> u64 {
        self.next_id - 1
    }

    /// How many lines were deleted before they were read, or could not be read.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// The file that is read is none of those that are kept any more.
    fn is_left_behind(&self) -> io::Result<bool> {
        Ok(files(&self.directory)?.first().is_some_and(|oldest| *oldest > self.next_id))
    }

    /// Opens the file that holds the next line, or is to hold it.
    fn find_file(&mut self) -> io::Result<bool> {
        let firsts = files(&self.directory)?;
        let Some(oldest) = firsts.first().copied() else { return Ok(false) };
        let first = firsts.iter().rev().find(|first| **first <= self.next_id).copied().unwrap_or(oldest);
        if first > self.next_id {
            self.lost += first - self.next_id;
            self.next_id = first;
        }
        let file = match File::open(file_of(&self.directory, first)) {
            // Deleted in this moment: at the next look the next one is found.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            file => file?,
        };
        let Some(offset) = skip(&file, self.next_id - first)? else { return Ok(false) };
        self.file = Some((file, offset));
        Ok(true)
    }

    fn read_lines(&mut self) -> io::Result<Vec<Line>> {
        let Some((file, offset)) = &mut self.file else { return Ok(Vec::new()) };
        self.buffer.resize(LOOK_BYTES, 0);
        let read = file.read_at(&mut self.buffer, *offset)?;
        let whole = self.buffer[..read].iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        *offset += whole as u64;
        let mut lines = Vec::new();
        for text in self.buffer[..whole].split_inclusive(|byte| *byte == b'\n') {
            self.next_id += 1;
            match serde_json::from_slice(text) {
                Ok(line) => lines.push(line),
                Err(_) => self.lost += 1,
            }
        }
        if whole == 0 {
            // Nobody waits for long with a buffer that is not used.
            self.buffer = Vec::new();
        }
        Ok(lines)
    }
}

/// The byte behind so many lines; `None`: there are not so many.
fn skip(file: &File, lines: u64) -> io::Result<Option<u64>> {
    let (mut offset, mut left, mut buffer) = (0, lines, vec![0; LOOK_BYTES]);
    while left > 0 {
        let read = file.read_at(&mut buffer, offset)?;
        if read == 0 {
            return Ok(None);
        }
        for (at, _) in buffer[..read].iter().enumerate().filter(|(_, byte)| **byte == b'\n') {
            left -= 1;
            if left == 0 {
                return Ok(Some(offset + at as u64 + 1));
            }
        }
        offset += read as u64;
    }
    Ok(Some(offset))
}
