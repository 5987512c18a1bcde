//! Directories by descriptor, so that what is opened in one stays together even if the path comes to mean another.
//!
//! Names are single path components; symbolic links are never followed.

use rustix::fs::{AtFlags, Mode, OFlags, mkdirat, openat, unlinkat};
use rustix::io::Errno;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

/// An open directory.
#[derive(Debug)]
pub struct Dir(OwnedFd);

/// What tells one file or directory from any other on the machine: device and inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    device: u64,
    inode: u64,
}

/// The identity of an open file.
pub fn identity(file: impl AsFd) -> io::Result<Identity> {
    Ok(rustix::fs::fstat(file)?.into())
}

/// The identity of what has a path, which is followed if it is a link.
pub fn identity_at(path: &Path) -> io::Result<Identity> {
    Ok(rustix::fs::stat(path)?.into())
}

impl From<rustix::fs::Stat> for Identity {
    fn from(stat: rustix::fs::Stat) -> Self {
        Self { device: stat.st_dev, inode: stat.st_ino }
    }
}

impl Dir {
    /// Opens a directory.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(rustix::fs::open(path, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?))
    }

    /// Opens a directory in this one.
    pub fn open_dir(&self, name: &str) -> io::Result<Self> {
        Ok(Self(self.open_at(name, OFlags::DIRECTORY | OFlags::RDONLY)?))
    }

    /// Makes a directory in this one unless it is there, and opens it.
    pub fn create_dir(&self, name: &str) -> io::Result<Self> {
        match mkdirat(&self.0, name, Mode::from_raw_mode(0o770)) {
            Ok(()) | Err(Errno::EXIST) => self.open_dir(name),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens a file for reading.
    pub fn open_file(&self, name: &str) -> io::Result<OwnedFd> {
        self.open_at(name, OFlags::RDONLY)
    }

    /// Opens an ordinary file that is there, for reading, or for reading and writing. `InvalidInput` for anything else (a pipe, a
    /// device, a directory), none of which can make this wait.
    pub fn open_regular(&self, name: &str, write: bool) -> io::Result<std::fs::File> {
        let flags = if write { OFlags::RDWR } else { OFlags::RDONLY };
        let file = std::fs::File::from(self.open_at(name, flags | OFlags::NONBLOCK)?);
        if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::InvalidInput.into()) }
    }

    /// Opens a file for reading and writing, made empty first if it is not there.
    pub fn open_or_create(&self, name: &str) -> io::Result<OwnedFd> {
        self.open_at(name, OFlags::RDWR | OFlags::CREATE)
    }

    /// Makes an empty file, or empties the one that is there, and opens it for reading and writing.
    pub fn create_file(&self, name: &str) -> io::Result<OwnedFd> {
        self.open_at(name, OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC)
    }

    /// Makes a file that its owner alone may read and write, and opens it. `AlreadyExists`: the name is taken.
    pub fn create_private(&self, name: &str) -> io::Result<std::fs::File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(openat(&self.0, name, flags, Mode::from_raw_mode(0o600))?.into())
    }

    fn open_at(&self, name: &str, flags: OFlags) -> io::Result<OwnedFd> {
        Ok(openat(&self.0, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::from_raw_mode(0o660))?)
    }

    /// Removes a file; one that is not there is no error.
    pub fn unlink(&self, name: &str) -> io::Result<()> {
        match unlinkat(&self.0, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Gives a file another name in this directory, in the place of what has it.
    pub fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.0, from, &self.0, to)?)
    }

    /// The names in it, without `.` and `..`.
    pub fn names(&self) -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.0)? {
            let name = entry?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(OsString::from_vec(name));
            }
        }
        Ok(names)
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_followed_where_it_moves() {
        let top = tempfile::tempdir().unwrap();
        let dir = Dir::open(top.path()).unwrap().create_dir("a").unwrap();
        std::fs::rename(top.path().join("a"), top.path().join("b")).unwrap();
        dir.create_file("x").unwrap();
        assert!(top.path().join("b/x").exists());
        assert_eq!(dir.names().unwrap(), ["x"]);
        assert_eq!(identity(dir.open_file("x").unwrap()).unwrap(), identity(dir.open_or_create("x").unwrap()).unwrap());
        dir.unlink("x").unwrap();
        dir.unlink("x").unwrap();
        assert_eq!(dir.open_file("x").unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn links_are_not_followed() {
        let top = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/passwd", top.path().join("link")).unwrap();
        assert!(Dir::open(top.path()).unwrap().open_file("link").is_err());
    }

    #[test]
    fn a_pipe_is_no_ordinary_file_and_nothing_waits_for_it() {
        let top = tempfile::tempdir().unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, top.path().join("pipe"), rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap();
        std::fs::write(top.path().join("file"), "x").unwrap();
        std::os::unix::fs::symlink("file", top.path().join("link")).unwrap();
        let dir = Dir::open(top.path()).unwrap();
        dir.create_dir("directory").unwrap();
        for write in [false, true] {
            assert!(dir.open_regular("file", write).is_ok());
            assert_eq!(dir.open_regular("missing", write).unwrap_err().kind(), io::ErrorKind::NotFound);
            for name in ["pipe", "directory", "link"] {
                assert!(dir.open_regular(name, write).is_err(), "{name}");
            }
        }
    }
}
