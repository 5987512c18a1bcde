//! Shared pages of atomics: small files that processes map to tell each other numbers.

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::ffi::c_void;
use std::io;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64};

/// A mapped file that is only ever accessed as atomics, so that any number of processes may do so at once. It needs no descriptor.
///
/// A page mapped read-only hands out the same references: storing through one is a fault (SIGSEGV). Callers wrap the page
/// in a type that offers stores only where it was mapped for writing.
#[derive(Debug)]
pub struct SharedPage {
    start: NonNull<c_void>,
    bytes: usize,
    writable: bool,
}

// SAFETY: the map is owned by this value and accessed through atomics only.
unsafe impl Send for SharedPage {}
// SAFETY: as above.
unsafe impl Sync for SharedPage {}

impl SharedPage {
    /// Maps `bytes` of a file for reading and writing. The space is taken first (the file grows to it): a full tmpfs is a
    /// `StorageFull` error here instead of a SIGBUS at the first store.
    pub fn map_writable(file: impl AsFd, bytes: usize) -> io::Result<Self> {
        crate::file::fallocate(&file, 0, bytes as u64)?;
        Self::map(file, bytes, true)
    }

    /// Maps `bytes` of a file for reading. `UnexpectedEof` if the file is shorter.
    pub fn map_readonly(file: impl AsFd, bytes: usize) -> io::Result<Self> {
        if u64::try_from(rustix::fs::fstat(&file)?.st_size).unwrap_or(0) < bytes as u64 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file is shorter than its page"));
        }
        Self::map(file, bytes, false)
    }

    fn map(file: impl AsFd, bytes: usize, writable: bool) -> io::Result<Self> {
        let protection = if writable { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
        // SAFETY: a new map at an address of the kernel's choice touches no memory of ours.
        let start = unsafe { mmap(std::ptr::null_mut(), bytes, protection, MapFlags::SHARED, &file, 0)? };
        let start = NonNull::new(start).ok_or_else(|| io::Error::other("mmap gave the null page"))?;
        Ok(Self { start, bytes, writable })
    }

    /// The 32-bit number at `offset` bytes. Panics if that is not a multiple of 4 within the page: layouts are constants.
    pub fn u32(&self, offset: usize) -> &AtomicU32 {
        self.check(offset, 4);
        // SAFETY: in bounds and aligned (checked; maps start at a page boundary), alive as long as `self`, and accessed
        // only as atomics of this width by every process that maps it.
        unsafe { AtomicU32::from_ptr(self.start.as_ptr().cast::<u8>().add(offset).cast()) }
    }

    /// The 64-bit number at `offset` bytes. Panics if that is not a multiple of 8 within the page: layouts are constants.
    pub fn u64(&self, offset: usize) -> &AtomicU64 {
        self.check(offset, 8);
        // SAFETY: as for `u32`.
        unsafe { AtomicU64::from_ptr(self.start.as_ptr().cast::<u8>().add(offset).cast()) }
    }

    fn check(&self, offset: usize, width: usize) {
        assert!(offset.is_multiple_of(width) && offset <= self.bytes - width, "no number of {width} bytes at offset {offset} of a page");
    }

    /// How long the page is.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether the page has no bytes: never, the kernel refuses empty maps.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Whether it was mapped for writing.
    pub fn is_writable(&self) -> bool {
        self.writable
    }
}

impl Drop for SharedPage {
    fn drop(&mut self) {
        // SAFETY: start and length are those of the map made in `map`, and no reference into it outlives `self`.
        let unmapped = unsafe { munmap(self.start.as_ptr(), self.bytes) };
        debug_assert!(unmapped.is_ok());
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::SeqCst;

    #[test]
    fn what_one_map_stores_another_loads() {
        let file = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
        assert!(SharedPage::map_readonly(file.reopen().unwrap(), 4096).is_err(), "too short yet");
        let writer = SharedPage::map_writable(file.reopen().unwrap(), 4096).unwrap();
        let reader = SharedPage::map_readonly(file.reopen().unwrap(), 4096).unwrap();
        writer.u64(4088).store(7, SeqCst);
        writer.u32(4).store(9, SeqCst);
        assert_eq!((reader.u64(4088).load(SeqCst), reader.u32(4).load(SeqCst)), (7, 9));
        assert!(writer.is_writable() && !reader.is_writable());
    }

    #[test]
    fn places_outside_or_askew_are_refused() {
        let file = tempfile::tempfile_in("/dev/shm").unwrap();
        let page = SharedPage::map_writable(file, 64).unwrap();
        for (offset, width) in [(64, 4), (62, 4), (2, 4), (60, 8), (4, 8), (usize::MAX - 7, 8)] {
            let looked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                if width == 4 { u64::from(page.u32(offset).load(SeqCst)) } else { page.u64(offset).load(SeqCst) }
            }));
            assert!(looked.is_err(), "{offset} {width}");
        }
    }
}
