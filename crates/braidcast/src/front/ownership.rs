//! Makes the shared directory fit for workers of another user than the front: what they have to write is their group's, everything else is
//! root's and they cannot write it.
//!
//! Directories are setgid, so that whatever is made in them is the group's too, whoever makes it.

use crate::config::Config;
use crate::control::{ProcessId, attendants};
use crate::engine::{self, process_dir};
use crate::events;
use crate::tls::acme;
use anyhow::{Context, bail};
use braidcast_sys::Dir;
use braidcast_sys::privileges::{self, Identity};
use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, fchown};
use std::path::Path;

/// The group looks in, and writes nothing.
const READ: u32 = 0o2750;
/// The group writes.
const WRITE: u32 = 0o2770;
/// The group writes, but does not rename or remove what others have made.
const ADD: u32 = 0o3770;
/// Directories within each other that are looked into, at most: those of a process of another server have the most levels.
const MAX_DEPTH: usize = 16;
/// What workers write all over.
const OF_WORKERS: [&str; 5] = ["workers", "sessions", "streams", attendants::DIRECTORY, acme::CHALLENGES];

/// Hands the directory to the group of the workers, with what an earlier instance has left in it.
///
/// # Errors
/// Workers could not get at it, or it cannot be changed.
pub fn hand_over(config: &Config, identity: Identity) -> anyhow::Result<()> {
    let shared_dir = &config.server.shared_dir;
    check_way(shared_dir, identity)?;
    let top = Dir::open(shared_dir)?;
    set(&top, 0, identity.gid, READ)?;
    for name in OF_WORKERS {
        give(&top.create_dir(name)?, identity.gid, MAX_DEPTH).with_context(|| format!("handing {name} to the workers"))?;
    }
    show(&top.create_dir(events::DIRECTORY)?, identity.gid).context("showing the event log to the workers")?;
    if config.relays() {
        hand_over_engine(config, &top, identity.gid).context("handing the processes' directories to the workers")?;
    }
    Ok(())
}

/// What the attendant for TLS keeps of ACME is its user's alone; and it is given a copy of the certificate that it is to trust.
///
/// # Errors
/// The state directory or the file cannot be used.
pub fn hand_over_acme(config: &Config, identity: Option<Identity>) -> anyhow::Result<()> {
    let path = config.server.state_dir.join(acme::DIRECTORY);
    let made = DirBuilder::new().mode(0o700).recursive(true).create(&path);
    made.with_context(|| format!("making {}", path.display()))?;
    if let Some(identity @ Identity { uid, gid }) = identity {
        check_way(&config.server.state_dir, identity)?;
        // The group passes through the state directory, and reads nothing there.
        let top = Dir::open(&config.server.state_dir)?;
        let mode = as_file(&top)?.metadata()?.mode();
        set(&top, privileges::effective_uid(), gid, mode & 0o700 | 0o010)?;
        let directory = Dir::open(&path)?;
        set(&directory, uid, gid, 0o700)?;
        for name in directory.names()? {
            let Some(Ok(file)) = name.to_str().map(|name| directory.open_regular(name, false)) else { continue };
            if file.metadata()?.nlink() == 1 {
                fchown(&file, Some(uid), Some(gid))?;
            }
        }
    }
    let ca_file = &config.acme.ca_file;
    if !ca_file.is_empty() {
        let copy = attendants::file_of(&config.server.shared_dir, attendants::Role::Tls, acme::CA_COPY);
        // Not a copy of the file's mode too.
        fs::read(ca_file).and_then(|pem| fs::write(copy, pem)).with_context(|| format!("[acme] ca_file = {ca_file:?}"))?;
    }
    Ok(())
}

/// Workers take segments out of what the processes of another server write, and tell of them in a few files; how the processes are started
/// is not theirs to say.
fn hand_over_engine(config: &Config, top: &Dir, gid: u32) -> anyhow::Result<()> {
    let engine = top.create_dir(engine::DIRECTORY)?;
    set(&engine, 0, gid, ADD)?;
    for name in engine.names()? {
        // What was told of processes by an earlier instance.
        if let Some(name) = name.to_str()
            && engine.open_regular(name, false).is_ok()
        {
            engine.unlink(name)?;
        }
    }
    for id in (1..=config.processes()).map(ProcessId) {
        let path = process_dir(&config.server.shared_dir, id);
        match DirBuilder::new().mode(READ & 0o777).create(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(error).with_context(|| format!("making {}", path.display()));
            }
            _ => {}
        }
        let process = engine.open_dir(&id.to_string())?;
        set(&process, 0, gid, READ)?;
        for name in ["hls", "run"] {
            give(&process.create_dir(name)?, gid, MAX_DEPTH)?;
        }
    }
    Ok(())
}

/// A directory that is the group's, with all that is in it. Links are not followed, and files with two names are left alone: the other name
/// may be anywhere.
fn give(directory: &Dir, gid: u32, depth: usize) -> io::Result<()> {
    set(directory, directory_owner(directory)?, gid, WRITE)?;
    for name in directory.names()? {
        let Some(name) = name.to_str() else { continue };
        if let Ok(below) = directory.open_dir(name) {
            if depth > 0 {
                give(&below, gid, depth - 1)?;
            }
        } else if let Ok(file) = directory.open_regular(name, false) {
            let found = file.metadata()?;
            if found.nlink() == 1 {
                fchown(&file, None, Some(gid))?;
                file.set_permissions(Permissions::from_mode((found.mode() & 0o777) | 0o660))?;
            }
        }
    }
    Ok(())
}

/// What the front alone writes, and the group reads.
fn show(directory: &Dir, gid: u32) -> io::Result<()> {
    set(directory, 0, gid, READ)?;
    for name in directory.names()? {
        let Some(Ok(file)) = name.to_str().map(|name| directory.open_regular(name, false)) else { continue };
        fchown(&file, Some(0), Some(gid))?;
        file.set_permissions(Permissions::from_mode(0o640))?;
    }
    Ok(())
}

fn directory_owner(directory: &Dir) -> io::Result<u32> {
    Ok(as_file(directory)?.metadata()?.uid())
}

fn set(directory: &Dir, uid: u32, gid: u32, mode: u32) -> io::Result<()> {
    let file = as_file(directory)?;
    fchown(&file, Some(uid), Some(gid))?;
    file.set_permissions(Permissions::from_mode(mode))
}

fn as_file(directory: &Dir) -> io::Result<File> {
    Ok(File::from(directory.as_fd().try_clone_to_owned()?))
}

/// Whoever becomes the user has to get through all directories above.
///
/// # Errors
/// One of those that are there lets it not, and which command mends it.
pub fn check_way(shared_dir: &Path, identity: Identity) -> anyhow::Result<()> {
    for above in shared_dir.ancestors().skip(1) {
        let Ok(found) = fs::metadata(above) else { continue };
        let bit = if found.uid() == identity.uid {
            0o100
        } else if found.gid() == identity.gid {
            0o010
        } else {
            0o001
        };
        if found.mode() & bit == 0 {
            bail!(
                "workers run as user {} ([sandbox] user), who may not enter {}: chmod o+x {}, or name another directory with --shared-dir",
                identity.uid,
                above.display(),
                above.display()
            );
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// What is no user's here.
    const NOBODY: Identity = Identity { uid: 4_000_001, gid: 4_000_001 };

    fn config(path: &Path) -> Config {
        let mut config = Config::default();
        config.server.shared_dir = path.to_owned();
        (config.engine.kind, config.engine.processes) = (crate::config::EngineKind::Srs, 2);
        config
    }

    #[test]
    fn workers_get_what_they_write_and_no_more() {
        if privileges::effective_uid() != 0 {
            return;
        }
        let parent = tempfile::tempdir_in("/dev/shm").unwrap();
        fs::set_permissions(parent.path(), Permissions::from_mode(0o711)).unwrap();
        let (path, outside) = (parent.path().join("instance"), parent.path().join("outside"));
        fs::write(&outside, "x").unwrap();
        fs::create_dir_all(path.join("streams/v/a/s/hls")).unwrap();
        fs::write(path.join("streams/v/a/s/hls/1.ts"), "x").unwrap();
        symlink(&outside, path.join("streams/v/a/s/link")).unwrap();
        fs::hard_link(&outside, path.join("streams/v/a/s/second")).unwrap();
        fs::create_dir_all(path.join("engine/1/hls")).unwrap();
        fs::write(path.join("engine/streams.json"), "x").unwrap();
        fs::write(path.join("engine/1/server.conf"), "x").unwrap();
        hand_over(&config(&path), NOBODY).unwrap();
        let look = |name: &str| {
            let found = fs::symlink_metadata(path.join(name)).unwrap();
            (found.uid(), found.gid(), found.mode() & 0o7777)
        };
        assert_eq!(look("."), (0, NOBODY.gid, READ));
        for name in ["workers", "sessions", "streams", "streams/v/a/s/hls", "engine/1/hls", "engine/2/run"] {
            assert_eq!(look(name), (0, NOBODY.gid, WRITE), "{name}");
        }
        assert_eq!(look("streams/v/a/s/hls/1.ts").1, NOBODY.gid);
        assert_eq!(look("streams/v/a/s/hls/1.ts").2 & 0o660, 0o660);
        assert_eq!((look("engine").2, look("engine/2").2), (ADD, READ));
        assert_eq!(look("engine/1/server.conf").2 & 0o020, 0, "not theirs to change");
        assert!(!path.join("engine/streams.json").exists());
        assert_eq!(fs::metadata(&outside).unwrap().gid(), 0, "neither by a link nor by a second name");
    }

    #[test]
    fn a_closed_directory_above_is_said() {
        let parent = tempfile::tempdir_in("/dev/shm").unwrap();
        fs::set_permissions(parent.path(), Permissions::from_mode(0o700)).unwrap();
        let said = format!("{:#}", check_way(&parent.path().join("instance"), NOBODY).unwrap_err());
        assert!(said.contains(&format!("chmod o+x {}", parent.path().display())), "{said}");
    }
}
