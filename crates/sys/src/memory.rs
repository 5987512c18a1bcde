//! Memory that outlives its process: a file in tmpfs, mapped, that one process at a time writes each part of.
//!
//! Unlike a [`crate::SharedPage`] it grows, and may hold plain bytes. The contract of everybody who maps the same file: a byte is written
//! by at most one process, and read by another only when that one is dead or has said that it is done with it. A file whose bytes are only
//! accessed by [`SharedMemory::word`] needs no such care.

use rustix::fs::{FallocateFlags, fallocate};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::ffi::c_void;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

/// See the module's head.
#[derive(Debug)]
pub struct SharedMemory {
    start: NonNull<c_void>,
    mapped_bytes: usize,
    /// Bytes from the start that the file has memory for: only they are ever touched, so that nothing here is a SIGBUS.
    taken_bytes: usize,
    file: OwnedFd,
}

// SAFETY: the map is plain memory owned by this value; it is written through `&mut self` only.
unsafe impl Send for SharedMemory {}

impl SharedMemory {
    /// Maps up to `most_bytes` of a file. What the file already has must have been taken with [`SharedMemory::take`], by whomever.
    pub fn map(file: OwnedFd, most_bytes: usize) -> io::Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new map at an address of the kernel's choice touches no memory of ours.
        let start = unsafe { mmap(std::ptr::null_mut(), most_bytes, protection, MapFlags::SHARED | MapFlags::NORESERVE, &file, 0)? };
        let start = NonNull::new(start).ok_or_else(|| io::Error::other("mmap gave the null page"))?;
        let mut memory = Self { start, mapped_bytes: most_bytes, taken_bytes: 0, file };
        memory.look()?;
        Ok(memory)
    }

    /// Takes memory up to `bytes` from the start. `StorageFull` when there is none, or when it would be more than was mapped.
    pub fn take(&mut self, bytes: usize) -> io::Result<()> {
        if bytes > self.mapped_bytes {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if bytes > self.taken_bytes {
            crate::file::fallocate(&self.file, self.taken_bytes as u64, (bytes - self.taken_bytes) as u64)?;
            self.taken_bytes = bytes;
        }
        Ok(())
    }

    /// Sees what another process has taken since.
    pub fn look(&mut self) -> io::Result<()> {
        let file_bytes = usize::try_from(crate::file::len(&self.file)?).unwrap_or(usize::MAX);
        self.taken_bytes = self.taken_bytes.max(file_bytes.min(self.mapped_bytes));
        Ok(())
    }

    /// Bytes from the start that there is memory for.
    pub fn taken_bytes(&self) -> usize {
        self.taken_bytes
    }

    /// Gives the memory of a range back; it has to be taken again by [`SharedMemory::take_again`] before it is touched.
    pub fn give_back(&self, range: Range<usize>) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(fallocate(&self.file, flags, range.start as u64, range.len() as u64)?)
    }

    /// Takes the memory of a range once more.
    pub fn take_again(&self, range: Range<usize>) -> io::Result<()> {
        crate::file::fallocate(&self.file, range.start as u64, range.len() as u64)
    }

    /// The bytes of a range. Panics beyond what was taken: ranges are those of an allocator of ours.
    pub fn bytes(&self, range: Range<usize>) -> &[u8] {
        self.check(&range);
        // SAFETY: within what the file has memory for (checked), written through `&mut self` alone or, as the module's contract
        // says, by nobody any more.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast::<u8>().add(range.start), range.len()) }
    }

    /// As [`SharedMemory::bytes`], for writing.
    pub fn bytes_mut(&mut self, range: Range<usize>) -> &mut [u8] {
        self.check(&range);
        // SAFETY: as above; `&mut self` keeps this process's other references away.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().cast::<u8>().add(range.start), range.len()) }
    }

    /// The 64-bit number at `offset` bytes. For memory that is accessed by such numbers alone: then any number of processes may read and
    /// write it at once. Panics if the offset is not a multiple of 8, and beyond what was taken: layouts are constants.
    pub fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8), "no number of 8 bytes at offset {offset}");
        self.check(&(offset..offset + 8));
        // SAFETY: in bounds and aligned (checked; maps start at a page boundary), alive as long as `self`, and accessed as an atomic
        // by every process, as the contract of this function says.
        unsafe { AtomicU64::from_ptr(self.start.as_ptr().cast::<u8>().add(offset).cast()) }
    }

    fn check(&self, range: &Range<usize>) {
        assert!(range.start <= range.end && range.end <= self.taken_bytes, "bytes {range:?} of {} that were taken", self.taken_bytes);
    }
}

impl AsFd for SharedMemory {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: start and length are those of the map made in `map`, and no slice of it outlives `self`.
        let unmapped = unsafe { munmap(self.start.as_ptr(), self.mapped_bytes) };
        debug_assert!(unmapped.is_ok());
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_one_map_writes_another_reads_and_growth_is_seen() {
        let file = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
        let mut writer = SharedMemory::map(file.reopen().unwrap().into(), 1 << 20).unwrap();
        let mut reader = SharedMemory::map(file.reopen().unwrap().into(), 1 << 20).unwrap();
        assert_eq!((writer.taken_bytes(), reader.taken_bytes()), (0, 0));
        writer.take(8192).unwrap();
        writer.bytes_mut(8000..8005).copy_from_slice(b"hello");
        reader.look().unwrap();
        assert_eq!(reader.taken_bytes(), 8192);
        assert_eq!(reader.bytes(8000..8005), b"hello");
        assert_eq!(writer.take((1 << 20) + 1).unwrap_err().kind(), io::ErrorKind::StorageFull);
    }

    #[test]
    fn what_was_given_back_can_be_taken_again() {
        let file = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
        let blocks = || std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(file.path()).unwrap());
        let mut memory = SharedMemory::map(file.reopen().unwrap().into(), 1 << 20).unwrap();
        memory.take(1 << 20).unwrap();
        let full = blocks();
        memory.give_back(65_536..1 << 20).unwrap();
        assert!(blocks() < full / 8);
        memory.take_again(65_536..131_072).unwrap();
        memory.bytes_mut(65_536..65_540).copy_from_slice(b"back");
        assert_eq!(memory.bytes(65_535..65_541), b"\0back\0");
    }

    #[test]
    fn words_are_seen_by_others_at_once() {
        let file = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
        let mut writer = SharedMemory::map(file.reopen().unwrap().into(), 1 << 16).unwrap();
        writer.take(4096).unwrap();
        let reader = SharedMemory::map(file.reopen().unwrap().into(), 1 << 16).unwrap();
        writer.word(4088).store(7, std::sync::atomic::Ordering::SeqCst);
        assert_eq!(reader.word(4088).load(std::sync::atomic::Ordering::SeqCst), 7);
        for offset in [4, 4096, 1 << 16] {
            assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| reader.word(offset).as_ptr())).is_err(), "{offset}");
        }
    }

    #[test]
    #[should_panic(expected = "that were taken")]
    fn bytes_that_were_not_taken_are_not_touched() {
        let file = tempfile::tempfile_in("/dev/shm").unwrap();
        let memory = SharedMemory::map(file.into(), 4096).unwrap();
        let _ = memory.bytes(0..1);
    }
}
