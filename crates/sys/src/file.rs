//! Files: locks that die with their holder, space taken before use, whole writes at a place, and the size of the file system.

use rustix::fs::{FallocateFlags, FlockOperation};
use rustix::io::Errno;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

/// `TMPFS_MAGIC` of linux/magic.h.
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// Takes the exclusive `flock` of an open file, without waiting; false if somebody else has it. The lock belongs to the
/// open file description and ends with its last descriptor and map, so at the latest with its holder's process.
pub fn try_lock_exclusive(fd: impl AsFd) -> io::Result<bool> {
    try_lock(fd, FlockOperation::NonBlockingLockExclusive)
}

/// As [`try_lock_exclusive`], shared.
pub fn try_lock_shared(fd: impl AsFd) -> io::Result<bool> {
    try_lock(fd, FlockOperation::NonBlockingLockShared)
}

fn try_lock(fd: impl AsFd, operation: FlockOperation) -> io::Result<bool> {
    match rustix::fs::flock(fd, operation) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Gives the lock back before the descriptor is closed.
pub fn unlock(fd: impl AsFd) -> io::Result<()> {
    Ok(rustix::fs::flock(fd, FlockOperation::Unlock)?)
}

/// Takes memory or disk for `offset..offset + len`, growing the file if need be. `StorageFull` when there is none.
pub fn fallocate(fd: impl AsFd, offset: u64, len: u64) -> io::Result<()> {
    loop {
        match rustix::fs::fallocate(&fd, FallocateFlags::empty(), offset, len) {
            Err(Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

/// Whether no other open file description, and so no mapping either, of any process refers to this open file. Who comes by a name
/// that it still has may do so from now on. False also where the kernel cannot tell, or does not tell this process.
pub fn is_open_once(fd: impl AsFd) -> bool {
    // A write lease is given on exactly this condition.
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: `F_SETLEASE` takes a number and touches no memory of this process; the descriptor is borrowed for the calls.
    let set = |lease: libc::c_int| unsafe { libc::fcntl(fd, libc::F_SETLEASE, lease) } == 0;
    set(libc::F_WRLCK) && set(libc::F_UNLCK)
}

/// Writes all of `bytes` at `offset`. After an error any part of them may have been written.
pub fn pwrite_all(fd: impl AsFd, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::pwrite(&fd, bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                bytes = &bytes[written..];
                offset += written as u64;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// As [`pwrite_all`], of pieces that are written one behind the other; the kernel takes 1,024 at most. They are used up.
pub fn pwritev_all(fd: impl AsFd, mut pieces: &mut [IoSlice<'_>], mut offset: u64) -> io::Result<()> {
    // Empty pieces at the start would look like a write of nothing.
    IoSlice::advance_slices(&mut pieces, 0);
    while !pieces.is_empty() {
        match rustix::io::pwritev(&fd, pieces, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                IoSlice::advance_slices(&mut pieces, written);
                offset += written as u64;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Cuts a file off, or grows it with zeros.
pub fn truncate(fd: impl AsFd, len: u64) -> io::Result<()> {
    Ok(rustix::fs::ftruncate(fd, len)?)
}

/// How long a file is, in bytes.
pub fn len(fd: impl AsFd) -> io::Result<u64> {
    Ok(u64::try_from(rustix::fs::fstat(fd)?.st_size).unwrap_or(0))
}

/// Reads at most `max_bytes` of a file from its start.
pub fn read_start(fd: impl AsFd, max_bytes: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; max_bytes.min(usize::try_from(len(&fd)?).unwrap_or(usize::MAX))];
    let mut read = 0;
    while read < bytes.len() {
        match rustix::io::pread(&fd, &mut bytes[read..], read as u64) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    bytes.truncate(read);
    Ok(bytes)
}

/// What is known of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileSystem {
    /// It lives in memory.
    pub is_tmpfs: bool,
    /// Its size in bytes; 0 for a tmpfs without a limit.
    pub total_bytes: u64,
    /// Bytes an ordinary process may still take; 0 for a tmpfs without a limit.
    pub free_bytes: u64,
}

/// The file system that `path` is on.
pub fn file_system(path: &Path) -> io::Result<FileSystem> {
    let stat = rustix::fs::statfs(path)?;
    let block_bytes = stat.f_bsize as u64;
    Ok(FileSystem {
        is_tmpfs: stat.f_type as u64 == TMPFS_MAGIC,
        total_bytes: block_bytes.saturating_mul(stat.f_blocks),
        free_bytes: block_bytes.saturating_mul(stat.f_bavail),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_has_one_holder_and_ends_with_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (one, two) = (file.reopen().unwrap(), file.reopen().unwrap());
        assert!(try_lock_exclusive(&one).unwrap());
        assert!(!try_lock_exclusive(&two).unwrap());
        assert!(!try_lock_shared(&two).unwrap());
        drop(one);
        assert!(try_lock_exclusive(&two).unwrap());
        unlock(&two).unwrap();
        assert!(try_lock_exclusive(file.reopen().unwrap()).unwrap());
    }

    #[test]
    fn a_file_that_somebody_else_has_open_or_mapped_is_told_from_one_that_nobody_has() {
        let file = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
        fallocate(&file, 0, 100).unwrap();
        let ours = file.reopen().unwrap();
        assert!(!is_open_once(&ours), "the temporary file's own descriptor");
        let path = file.into_temp_path();
        assert!(is_open_once(&ours) && is_open_once(&ours));
        let other = std::fs::File::open(&path).unwrap();
        assert!(!is_open_once(&ours));
        let mapping = crate::Mapping::map_readonly(other.into(), 100).unwrap();
        assert!(!is_open_once(&ours));
        drop(mapping);
        assert!(is_open_once(&ours));
    }

    #[test]
    fn space_is_taken_and_bytes_land_where_they_should() {
        let file = tempfile::tempfile_in("/dev/shm").unwrap();
        fallocate(&file, 0, 100).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 100);
        pwrite_all(&file, b"abc", 98).unwrap();
        assert_eq!(len(&file).unwrap(), 101);
        truncate(&file, 100).unwrap();
        assert_eq!(read_start(&file, 1 << 20).unwrap()[97..], *b"\0ab");
        assert_eq!(read_start(&file, 3).unwrap(), [0; 3]);
    }

    #[test]
    fn shm_is_a_tmpfs_and_proc_is_not() {
        let shm = file_system(Path::new("/dev/shm")).unwrap();
        assert!(shm.is_tmpfs && shm.free_bytes <= shm.total_bytes);
        assert!(!file_system(Path::new("/proc")).unwrap().is_tmpfs);
        assert!(file_system(Path::new("/nonexistent")).is_err());
    }
}
