//! The directories that other servers write: which streams there are, and whose playlist has changed since it was read.
//!
//! A look is a `stat` of each playlist, and of each directory that may have got new ones; a directory is read only when it has
//! changed. Symbolic links are never followed. What lies too deep, or beyond the limits, is passed over.

use braidcast_media::StreamKey;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Directories that are known at the same time, at most: two for each of 65,536 streams.
const MAX_DIRECTORIES: usize = 1 << 17;
/// Entries of one directory that are looked at, at most.
const MAX_ENTRIES: usize = 1 << 16;
/// Levels below a process's directory, at most: vhost, app, stream. An app may have eight levels.
const MAX_DEPTH: usize = 10;
/// The fewest levels of a stream.
const MIN_DEPTH: usize = 3;
/// Processes, at most.
const MAX_PROCESSES: usize = 1 << 10;
/// A stream's directory is looked at for others inside it in one of so many looks.
const SELDOM: u64 = 8;
/// A directory that changed less than this ago may change again without its time being another: file times move in steps.
const RECENT_MS: u128 = 100;

/// A file's version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    inode: u64,
    modified: (i64, i64),
    bytes: u64,
}

impl Stamp {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self { inode: metadata.ino(), modified: (metadata.mtime(), metadata.mtime_nsec()), bytes: metadata.len() }
    }
}

/// A playlist that is to be read.
#[derive(Clone, Debug)]
pub(super) struct Changed {
    pub process: u16,
    pub directory: PathBuf,
    pub name: String,
    pub key: StreamKey,
    pub modified: SystemTime,
}

#[derive(Debug)]
struct Playlist {
    name: String,
    key: StreamKey,
    /// As it was read last.
    read: Option<Stamp>,
}

#[derive(Debug)]
struct Directory {
    process: u16,
    depth: usize,
    /// Its time and its number of links when it was read.
    read: Option<((i64, i64), u64)>,
    playlist: Option<Playlist>,
}

/// See the module's head.
#[derive(Debug)]
pub(super) struct Tree {
    engine: PathBuf,
    directories: BTreeMap<PathBuf, Directory>,
    looks: u64,
    full: bool,
}

impl Tree {
    pub(super) fn new(shared_dir: &Path) -> Self {
        Self { engine: shared_dir.join("engine"), directories: BTreeMap::new(), looks: 0, full: false }
    }

    /// Where a process writes.
    pub(super) fn of_process(&self, process: u16) -> PathBuf {
        self.engine.join(process.to_string()).join("hls")
    }

    /// The playlists that are to be read, the oldest first.
    pub(super) fn look(&mut self, now_wall_ms: u64) -> Vec<Changed> {
        self.looks = self.looks.wrapping_add(1);
        for process in processes(&self.engine) {
            let root = self.of_process(process);
            self.directories.entry(root).or_insert(Directory { process, depth: 0, read: None, playlist: None });
        }
        let (mut changed, mut gone, mut found) = (Vec::new(), Vec::new(), Vec::new());
        for (index, (path, directory)) in (0..).zip(&mut self.directories) {
            let seldom = !(self.looks + index).is_multiple_of(SELDOM);
            if !look_at(path, directory, seldom, now_wall_ms, &mut changed, &mut found) {
                gone.push(path.clone());
            }
        }
        for path in gone {
            self.directories.remove(&path);
        }
        while let Some((path, mut directory)) = found.pop() {
            if self.directories.contains_key(&path) {
                continue;
            }
            if self.directories.len() >= MAX_DIRECTORIES {
                if !std::mem::replace(&mut self.full, true) {
                    tracing::warn!(directory = %path.display(), "the engine has more than {MAX_DIRECTORIES} directories: HLS of further streams is left out");
                }
                break;
            }
            if look_at(&path, &mut directory, false, now_wall_ms, &mut changed, &mut found) {
                self.directories.insert(path, directory);
            }
        }
        changed.sort_by(|a, b| a.modified.cmp(&b.modified).then_with(|| a.directory.cmp(&b.directory)));
        changed
    }

    /// A playlist was read.
    pub(super) fn was_read(&mut self, directory: &Path, stamp: Stamp) {
        if let Some(playlist) = self.directories.get_mut(directory).and_then(|directory| directory.playlist.as_mut()) {
            playlist.read = Some(stamp);
        }
    }

    /// Deletes what other servers wrote of a stream. Directories of other streams inside it stay.
    pub(super) fn delete(&mut self, key: &StreamKey) -> std::io::Result<()> {
        for process in processes(&self.engine) {
            let vhost = self.of_process(process).join(key.vhost());
            let directory = vhost.join(key.app()).join(key.stream());
            // A link on the way would lead to what is not the engine's.
            let real = directory
                .ancestors()
                .take_while(|path| *path != self.engine)
                .all(|path| fs::symlink_metadata(path).is_ok_and(|it| it.is_dir()));
            if !real {
                continue;
            }
            for entry in fs::read_dir(&directory)?.take(MAX_ENTRIES) {
                let entry = entry?;
                if !entry.file_type()?.is_dir() {
                    crate::hls::files::remove_if_there(&entry.path())?;
                }
            }
            self.directories.remove(&directory);
            // Levels that others use stay: they are not empty. The vhost's stays: not every server makes it.
            for empty in directory.ancestors().take_while(|path| *path != vhost) {
                if fs::remove_dir(empty).is_err() {
                    break;
                }
            }
        }
        Ok(())
    }
}

/// The processes that have a directory.
fn processes(engine: &Path) -> Vec<u16> {
    let Ok(entries) = fs::read_dir(engine) else { return Vec::new() };
    let name = |name: OsString| name.to_str().and_then(|name| name.parse::<u16>().ok().filter(|process| process.to_string() == name));
    entries.take(MAX_PROCESSES).filter_map(|entry| name(entry.ok()?.file_name())).collect()
}

/// Looks at a directory and its playlist. False if it is gone.
fn look_at(
    path: &Path,
    directory: &mut Directory,
    seldom: bool,
    now_wall_ms: u64,
    changed: &mut Vec<Changed>,
    found: &mut Vec<(PathBuf, Directory)>,
) -> bool {
    if directory.playlist.is_none() || !seldom {
        let Some(metadata) = fs::symlink_metadata(path).ok().filter(Metadata::is_dir) else { return false };
        let seen = ((metadata.mtime(), metadata.mtime_nsec()), metadata.nlink());
        let same = match (&directory.playlist, directory.read) {
            // Its files come and go; directories inside it are counted by its links.
            (Some(_), Some((_, links))) => links == seen.1,
            (_, read) => read == Some(seen),
        };
        if !same {
            let modified = metadata.modified().unwrap_or(UNIX_EPOCH).duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
            let settled = modified + RECENT_MS < u128::from(now_wall_ms);
            directory.read = settled.then_some(seen);
            read(path, directory, found);
        }
    }
    let Some(playlist) = &directory.playlist else { return true };
    match fs::symlink_metadata(path.join(&playlist.name)) {
        Ok(metadata) => {
            if playlist.read != Some(Stamp::of(&metadata)) {
                changed.push(Changed {
                    process: directory.process,
                    directory: path.to_owned(),
                    name: playlist.name.clone(),
                    key: playlist.key.clone(),
                    modified: metadata.modified().unwrap_or(UNIX_EPOCH),
                });
            }
        }
        Err(_) => (directory.playlist, directory.read) = (None, None),
    }
    true
}

/// Reads a directory: what lies in it, and which playlist is its stream's.
fn read(path: &Path, directory: &mut Directory, found: &mut Vec<(PathBuf, Directory)>) {
    let Ok(entries) = fs::read_dir(path) else { return };
    let mut playlists: Vec<String> = Vec::new();
    for entry in entries.take(MAX_ENTRIES).flatten() {
        let (Ok(kind), Ok(name)) = (entry.file_type(), entry.file_name().into_string()) else { continue };
        if kind.is_dir() && directory.depth < MAX_DEPTH {
            let child = Directory { process: directory.process, depth: directory.depth + 1, read: None, playlist: None };
            found.push((entry.path(), child));
        } else if kind.is_file() && name.ends_with(".m3u8") && !name.starts_with('.') && directory.depth >= MIN_DEPTH {
            playlists.push(name);
        }
    }
    let index = playlists.iter().position(|name| name == crate::hls::INDEX);
    let chosen = index.or((playlists.len() == 1).then_some(0)).map(|index| playlists.swap_remove(index));
    let known = directory.playlist.take_if(|playlist| Some(&playlist.name) == chosen.as_ref());
    directory.playlist = known.or_else(|| Some(Playlist { name: chosen?, key: key(path, directory.depth)?, read: None }));
}

/// The stream that a directory, so many levels below its process's, is named after.
fn key(path: &Path, depth: usize) -> Option<StreamKey> {
    let mut names: Vec<&str> = path.iter().rev().take(depth).map(|name| name.to_str()).collect::<Option<_>>()?;
    names.reverse();
    let [vhost, app @ .., stream] = &names[..] else { return None };
    StreamKey::new(vhost, &app.join("/"), stream).ok()
}
