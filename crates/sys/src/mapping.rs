//! Read-only maps of files that another process appends to.
//!
//! The contract with whoever writes the file: bytes that were told to a reader (the log's commit word) never change and are
//! never cut off. A map gives out only ranges that the file really has, so that a wrong number is an answer and not a fault.

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};
use std::ffi::c_void;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A read-only shared map of a file, which may still grow up to the mapped length.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<c_void>,
    mapped_bytes: usize,
    /// How long the file was when last asked. It never shrinks below what was given out.
    known_bytes: AtomicUsize,
    file: OwnedFd,
}

// SAFETY: the map is plain memory owned by this value and only ever read.
unsafe impl Send for Mapping {}
// SAFETY: as above; the only mutable part is an atomic.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `len` bytes of a file, which may be longer than the file is now. Errors are the kernel's; `InvalidInput`
    /// for a length of zero.
    pub fn map_readonly(file: OwnedFd, len: usize) -> io::Result<Self> {
        // SAFETY: a new map at an address of the kernel's choice touches no memory of ours.
        let start = unsafe { mmap(std::ptr::null_mut(), len, ProtFlags::READ, MapFlags::SHARED, &file, 0)? };
        let start = NonNull::new(start).ok_or_else(|| io::Error::other("mmap gave the null page"))?;
        Ok(Self { start, mapped_bytes: len, known_bytes: AtomicUsize::new(0), file })
    }

    /// The bytes of a committed range; `None` if the range is reversed, beyond the map, or beyond the file's present end.
    pub fn bytes(&self, range: Range<usize>) -> Option<&[u8]> {
        if range.start > range.end || range.end > self.mapped_bytes || !self.file_reaches(range.end) {
            return None;
        }
        // SAFETY: the range lies within the map and within the file (checked above), and the writer of the file neither
        // changes nor cuts off bytes that a reader was told of (this module's contract).
        Some(unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast::<u8>().add(range.start), range.len()) })
    }

    /// Lets go of the pages that were looked at: they count as this process's memory no more. The file keeps them, and what is looked at again
    /// is there again, for some microseconds. Errors are the kernel's; then they stay.
    pub fn let_go(&self) -> io::Result<()> {
        // SAFETY: the map is shared and read only, so that it says the same before and after: what the file has.
        Ok(unsafe { madvise(self.start.as_ptr(), self.mapped_bytes, Advice::LinuxDontNeed) }?)
    }

    /// Bytes that were mapped, whether the file has them yet or not.
    pub fn mapped_bytes(&self) -> usize {
        self.mapped_bytes
    }

    fn file_reaches(&self, end: usize) -> bool {
        if end <= self.known_bytes.load(Ordering::Relaxed) {
            return true;
        }
        let Ok(stat) = rustix::fs::fstat(&self.file) else { return false };
        let file_bytes = usize::try_from(stat.st_size).unwrap_or(0);
        // Only what is asked for is noted: the tail beyond it may be cut by the writer's recovery.
        if end <= file_bytes {
            self.known_bytes.fetch_max(end, Ordering::Relaxed);
        }
        end <= file_bytes
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: start and length are those of the map made in `map_readonly`, and no slice of it outlives `self`.
        let unmapped = unsafe { munmap(self.start.as_ptr(), self.mapped_bytes) };
        debug_assert!(unmapped.is_ok());
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_growing_file_is_seen_and_its_end_is_respected() {
        let mut file = tempfile::tempfile_in("/dev/shm").unwrap();
        let map = Mapping::map_readonly(file.try_clone().unwrap().into(), 1 << 20).unwrap();
        assert_eq!(map.bytes(0..1), None);
        assert_eq!(map.bytes(0..0), Some(&[][..]));
        file.write_all(b"hello").unwrap();
        assert_eq!(map.bytes(0..5), Some(&b"hello"[..]));
        assert_eq!(map.bytes(1..6), None);
        file.write_all(&vec![7; 1 << 20]).unwrap();
        assert_eq!(map.bytes(5..1 << 20).unwrap().len(), (1 << 20) - 5);
        assert_eq!(map.bytes(5..(1 << 20) + 1), None);
        #[allow(clippy::reversed_empty_ranges)]
        let reversed = map.bytes(3..2);
        assert_eq!(reversed, None);
    }

    #[test]
    fn pages_that_were_let_go_of_count_no_more_and_come_back() {
        let mut file = tempfile::tempfile_in("/dev/shm").unwrap();
        file.write_all(&vec![7; 1 << 20]).unwrap();
        let map = Mapping::map_readonly(file.into(), 1 << 20).unwrap();
        let resident = || {
            let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
            let start = format!("{:x}-", map.start.as_ptr() as usize);
            let rss = smaps.lines().skip_while(|line| !line.starts_with(&start)).find_map(|line| line.strip_prefix("Rss:")).unwrap();
            rss.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
        };
        let sum = || map.bytes(0..1 << 20).unwrap().iter().map(|byte| usize::from(*byte)).sum::<usize>();
        assert_eq!((sum(), resident()), (7 << 20, 1 << 20));
        map.let_go().unwrap();
        assert_eq!(resident(), 0);
        assert_eq!((sum(), resident()), (7 << 20, 1 << 20));
    }

    #[test]
    fn an_empty_map_is_an_error() {
        let file = tempfile::tempfile_in("/dev/shm").unwrap();
        assert!(Mapping::map_readonly(file.into(), 0).is_err());
    }
}
