//! The shared directory from the front's side: made, checked, locked at the start; tidied or removed at the end.
//!
//! What lies in a stream's directory is the workers' business; here is only which parts of it outlive an instance.

use crate::config::{OnExit, Server};
use crate::control::attendants;
use crate::status::instance::{LOCK_NAME, lock_holder};
use crate::tls::acme;
use anyhow::{Context, bail};
use braidcast_media::StreamKey;
use braidcast_stream_log::Root;
use braidcast_sys::file;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

/// Below this size of the file system there is a warning.
const SMALL_BYTES: u64 = 256 << 20;

/// How often a lock that is waited for is tried.
const LOCK_LOOK: Duration = Duration::from_millis(5);

/// The shared directory of this instance, locked for as long as this lives.
#[derive(Debug)]
pub struct SharedDir {
    root: Root,
    on_exit: OnExit,
    /// Held for as long as this lives.
    _lock: File,
}

impl SharedDir {
    /// Makes the directory if need be, checks it, and takes the instance's lock.
    /// Waits for so long for the lock of a front that is just letting go of it.
    pub fn open(server: &Server, patience: Duration) -> anyhow::Result<Self> {
        let path = &server.shared_dir;
        Self::open_checked(server, patience).with_context(|| format!("the shared directory {} cannot be used", path.display()))
    }

    fn open_checked(server: &Server, patience: Duration) -> anyhow::Result<Self> {
        let path = &server.shared_dir;
        make(path)?;
        check_owner(path)?;
        check_file_system(path, server.allow_disk)?;
        let lock = lock(path, patience)?;
        for name in ["workers", "sessions", "streams", attendants::DIRECTORY, acme::CHALLENGES] {
            make(&path.join(name))?;
        }
        // What clients have sent lies there, tokens too. The directory above may be open to others, who serve segments.
        let sessions = path.join("sessions");
        fs::set_permissions(&sessions, Permissions::from_mode(fs::metadata(&sessions)?.mode() & 0o7770))
            .with_context(|| format!("closing {} to others", sessions.display()))?;
        let shared = Self { root: Root::new(path.clone()), on_exit: server.on_exit, _lock: lock };
        braidcast_stream_log::clear_disposed(shared.root()).context("deleting what was left of deleted streams")?;
        Ok(shared)
    }

    /// Nobody has sessions from before: deletes what was saved of them.
    pub fn forget_sessions(&self) -> anyhow::Result<()> {
        self.empty("sessions")
    }

    /// Where everything lies.
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        self.root.path()
    }

    /// The streams that an earlier instance left.
    pub fn streams(&self) -> anyhow::Result<Vec<StreamKey>> {
        self.root.keys().context("looking for streams in the shared directory")
    }

    /// For the end, when no worker runs any more: keeps segments, indexes and counters, or removes everything.
    pub fn close(self) -> anyhow::Result<()> {
        match self.on_exit {
            OnExit::Keep => self.tidy(),
            OnExit::Remove => self.remove(),
        }
        .with_context(|| format!("tidying the shared directory {}", self.path().display()))
    }

    /// Logs and saved sessions mean nothing to the next instance; segments and indexes do, and pages hold the counters.
    fn tidy(&self) -> anyhow::Result<()> {
        self.empty("sessions")?;
        // What is told of processes that run no more; what they have written is still taken by the next instance.
        for entry in fs::read_dir(self.path().join(crate::engine::DIRECTORY)).into_iter().flatten().filter_map(Result::ok) {
            if entry.path().is_file() {
                ignore_missing(fs::remove_file(entry.path()))?;
            }
        }
        for key in self.root.keys()? {
            let stream = self.root.stream_dir(&key);
            ignore_missing(fs::remove_dir_all(stream.join("log")))?;
            ignore_missing(fs::remove_file(stream.join("head")))?;
            ignore_missing(fs::remove_file(stream.join("via")))?;
            // A stream without segments leaves nothing.
            let _ = fs::remove_dir(&stream);
        }
        Ok(())
    }

    /// Only what is ours: somebody may have named a directory that holds other things too.
    fn remove(&self) -> anyhow::Result<()> {
        for name in
            ["streams", "sessions", "workers", crate::events::DIRECTORY, attendants::DIRECTORY, acme::CHALLENGES, crate::engine::DIRECTORY]
        {
            ignore_missing(fs::remove_dir_all(self.path().join(name)))?;
        }
        let sockets = [crate::control::orders::SOCKET_NAME, attendants::SOCKET_NAME];
        let names = [crate::control::pages::FRONT_PAGE_NAME, LOCK_NAME, crate::relays::instance_file(), crate::api::machine::NAME];
        super::orphans::forget_all(self.path())?;
        for name in names.into_iter().chain(sockets) {
            ignore_missing(fs::remove_file(self.path().join(name)))?;
        }
        if let Err(error) = fs::remove_dir(self.path()) {
            tracing::info!(path = %self.path().display(), %error, "the shared directory itself stays");
        }
        Ok(())
    }

    fn empty(&self, name: &str) -> anyhow::Result<()> {
        let directory = self.path().join(name);
        for entry in fs::read_dir(&directory).with_context(|| format!("reading {}", directory.display()))? {
            let path = entry?.path();
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            ignore_missing(removed).with_context(|| format!("deleting {}", path.display()))?;
        }
        Ok(())
    }
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn make(path: &Path) -> anyhow::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        result => result.with_context(|| format!("making {}", path.display())),
    }
}

/// A directory that somebody else made, or may write to, could hold links that lead our writes anywhere.
fn check_owner(path: &Path) -> anyhow::Result<()> {
    let (owner, own) = (fs::metadata(path)?, fs::metadata("/proc/self")?.uid());
    if owner.uid() != own {
        bail!("it belongs to user {}, this process is user {own}; remove it, or name another one with --shared-dir", owner.uid());
    }
    let mode = owner.mode() & 0o777;
    if mode & 0o022 != 0 {
        tracing::warn!(path = %path.display(), "others may write to the shared directory (mode {mode:o}): taking that from them");
        fs::set_permissions(path, Permissions::from_mode(mode & !0o022))?;
    }
    Ok(())
}

fn check_file_system(path: &Path, allow_disk: bool) -> anyhow::Result<()> {
    let system = file::file_system(path).context("looking at its file system")?;
    if !system.is_tmpfs {
        if !allow_disk {
            bail!("it is on a disk, not in memory (tmpfs): name a directory under /dev/shm, or set [server] allow_disk = true");
        }
        tracing::warn!(path = %path.display(), "the shared directory is on a disk: every byte of every stream is written to it, and everything stalls when it does");
    }
    if system.total_bytes > 0 && system.total_bytes < SMALL_BYTES {
        tracing::warn!(
            path = %path.display(),
            "the shared directory's file system has only {} MiB: that is a few streams; containers give 64 MiB unless told otherwise (docker run --shm-size=1g)",
            system.total_bytes >> 20
        );
    }
    Ok(())
}

fn lock(path: &Path, patience: Duration) -> anyhow::Result<File> {
    let deadline = Instant::now() + patience;
    let lock_path = path.join(LOCK_NAME);
    // A lock file that another instance removed at its end just now is not the one the next instance will look at.
    for _ in 0..16 {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock_path)
            .context("opening its lock")?;
        while !file::try_lock_exclusive(&file).context("locking it")? {
            if Instant::now() < deadline {
                std::thread::sleep(LOCK_LOOK);
                continue;
            }
            let holder = lock_holder(path).filter(|pid| *pid > 0);
            let holder = holder.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"));
            bail!("another instance uses it ({holder}); stop that one, or give this one another directory (--shared-dir) and other ports");
        }
        let held = file.metadata()?;
        if fs::metadata(&lock_path).is_ok_and(|now| (now.dev(), now.ino()) == (held.dev(), held.ino())) {
            file.set_len(0)?;
            writeln!(&file, "{}", std::process::id()).context("writing its lock")?;
            return Ok(file);
        }
    }
    bail!("its lock file is replaced again and again")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn server(path: &Path, on_exit: OnExit) -> Server {
        Server { shared_dir: path.to_owned(), on_exit, ..Server::default() }
    }

    fn key() -> StreamKey {
        StreamKey::new("v", "live", "a").unwrap()
    }

    fn fill(shared: &SharedDir) {
        let stream = shared.root().stream_dir(&key());
        fs::create_dir_all(stream.join("log")).unwrap();
        fs::create_dir_all(stream.join("hls")).unwrap();
        for name in ["head", "log/1.flv", "hls/1.ts", "hls/index.m3u8", "hls/state"] {
            fs::write(stream.join(name), "x").unwrap();
        }
        fs::write(shared.path().join("sessions/c7"), "x").unwrap();
    }

    #[test]
    fn two_instances_do_not_share_a_directory() {
        let parent = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = parent.path().join("instance");
        let first = SharedDir::open(&server(&path, OnExit::Remove), Duration::ZERO).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(path.join("sessions")).unwrap().mode() & 0o777, 0o700);
        let second = format!("{:#}", SharedDir::open(&server(&path, OnExit::Remove), Duration::ZERO).unwrap_err());
        assert!(second.contains(&format!("process {}", std::process::id())) && second.contains("--shared-dir"), "{second}");
        first.close().unwrap();
        assert!(!path.exists());
        SharedDir::open(&server(&path, OnExit::Remove), Duration::ZERO).unwrap();
    }

    #[test]
    fn keep_leaves_segments_and_remove_leaves_strangers() {
        let parent = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = parent.path().join("instance");
        let shared = SharedDir::open(&server(&path, OnExit::Keep), Duration::ZERO).unwrap();
        fill(&shared);
        shared.close().unwrap();
        let stream = Root::new(path.clone()).stream_dir(&key());
        let left = |name: &str| stream.join(name).exists();
        assert_eq!(["hls/1.ts", "hls/index.m3u8", "hls/state", "log", "head"].map(left), [true, true, true, false, false]);
        assert_eq!(fs::read_dir(path.join("sessions")).unwrap().count(), 0);

        let shared = SharedDir::open(&server(&path, OnExit::Remove), Duration::ZERO).unwrap();
        assert_eq!(shared.streams().unwrap(), [key()]);
        fs::write(path.join("stranger"), "x").unwrap();
        shared.close().unwrap();
        let names: Vec<_> = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["stranger"]);
    }

    #[test]
    fn a_disk_is_refused_unless_allowed() {
        let parent = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        if file::file_system(parent.path()).unwrap().is_tmpfs {
            return;
        }
        let mut server = server(&parent.path().join("instance"), OnExit::Remove);
        let refused = format!("{:#}", SharedDir::open(&server, Duration::ZERO).unwrap_err());
        assert!(refused.contains("allow_disk"), "{refused}");
        server.allow_disk = true;
        SharedDir::open(&server, Duration::ZERO).unwrap();
    }
}
