//! Limits that the operating system sets: descriptors of a process, memory of its control group.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// How many descriptors a process may have open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DescriptorLimit {
    /// The limit in force.
    pub soft: u64,
    /// How far an ordinary process may raise it.
    pub hard: u64,
}

/// The descriptor limit (`RLIMIT_NOFILE`) of this process; children inherit it.
pub fn rlimit_nofile() -> DescriptorLimit {
    let limit = getrlimit(Resource::Nofile);
    DescriptorLimit { soft: limit.current.unwrap_or(u64::MAX), hard: limit.maximum.unwrap_or(u64::MAX) }
}

/// Raises the soft limit to `wanted`, the hard one too where the process may, and never lowers anything. Returns what is in
/// force afterwards, which may be less than wanted: the caller checks.
pub fn raise_rlimit_nofile(wanted: u64) -> io::Result<DescriptorLimit> {
    let now = rlimit_nofile();
    if now.soft >= wanted {
        return Ok(now);
    }
    let both = Rlimit { current: Some(wanted), maximum: Some(now.hard.max(wanted)) };
    if now.hard < wanted && setrlimit(Resource::Nofile, both).is_ok() {
        return Ok(rlimit_nofile());
    }
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(wanted.min(now.hard)), maximum })?;
    Ok(rlimit_nofile())
}

/// The least memory limit, in bytes, of this process's control group and those above it (`memory.max`, cgroup v2;
/// `memory.limit_in_bytes`, v1). `None` if there is none, or none that can be read. Files in a tmpfs count against it.
pub fn cgroup_memory_max() -> Option<u64> {
    let membership = fs::read_to_string("/proc/self/cgroup").ok()?;
    memory_max_in(Path::new("/sys/fs/cgroup"), &membership)
}

fn memory_max_in(mount: &Path, membership: &str) -> Option<u64> {
    let mut least = None;
    for line in membership.lines() {
        // hierarchy-ID:controllers:path (cgroups(7))
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else { continue };
        let (root, file) = match controllers {
            "" => (mount.to_path_buf(), "memory.max"),
            list if list.split(',').any(|name| name == "memory") => (mount.join("memory"), "memory.limit_in_bytes"),
            _ => continue,
        };
        least = [least, least_on_the_way_up(&root, path, file)].into_iter().flatten().min();
    }
    least
}

fn least_on_the_way_up(root: &Path, path: &str, file: &str) -> Option<u64> {
    /// What v1 writes for "no limit" is this, rounded down to a page.
    const NO_LIMIT: u64 = i64::MAX as u64 & !0xffff;
    let mut directory: PathBuf = root.join(path.trim_start_matches('/'));
    let mut least = None;
    loop {
        let limit = fs::read_to_string(directory.join(file)).ok().and_then(|text| text.trim().parse::<u64>().ok());
        least = [least, limit.filter(|bytes| *bytes < NO_LIMIT)].into_iter().flatten().min();
        if directory == root || !directory.pop() || !directory.starts_with(root) {
            return least;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_descriptor_limit_only_rises() {
        let before = rlimit_nofile();
        assert_eq!(raise_rlimit_nofile(1).unwrap(), before);
        let after = raise_rlimit_nofile(before.hard).unwrap();
        assert_eq!(after.soft, before.hard);
    }

    #[test]
    fn the_least_memory_limit_on_the_way_up_counts() {
        let mount = tempfile::tempdir().unwrap();
        let leaf = mount.path().join("a/b");
        fs::create_dir_all(&leaf).unwrap();
        assert_eq!(memory_max_in(mount.path(), "0::/a/b\n"), None);
        fs::write(leaf.join("memory.max"), "max\n").unwrap();
        assert_eq!(memory_max_in(mount.path(), "0::/a/b\n"), None);
        fs::write(mount.path().join("a/memory.max"), "67108864\n").unwrap();
        assert_eq!(memory_max_in(mount.path(), "0::/a/b\n"), Some(67_108_864));
        fs::create_dir_all(mount.path().join("memory/x")).unwrap();
        fs::write(mount.path().join("memory/x/memory.limit_in_bytes"), "4096\n").unwrap();
        fs::write(mount.path().join("memory/memory.limit_in_bytes"), "9223372036854771712\n").unwrap();
        assert_eq!(memory_max_in(mount.path(), "4:cpu:/y\n3:memory:/x\n0::/a/b\n"), Some(4096));
        assert_eq!(memory_max_in(mount.path(), "3:memory:/\n"), None);
        assert_eq!(memory_max_in(mount.path(), "garbage"), None);
    }
}
