//! Who a process is and what it may do: users and groups by name, becoming another user, giving capabilities away.

use rustix::thread::{CapabilitySet, CapabilitySets};
use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;

/// A user and a group, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

/// Bytes for what the system's tables say of a user or group.
const ENTRY_BYTES: usize = 16 << 10;

/// The user whose rights this process has.
pub fn effective_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// A user of the system by name, with its own group; `None` if there is none.
pub fn user(name: &str) -> io::Result<Option<Identity>> {
    let name = CString::new(name)?;
    let (mut entry, mut buffer, mut found) = (MaybeUninit::<libc::passwd>::uninit(), vec![0; ENTRY_BYTES], std::ptr::null_mut());
    // SAFETY: all pointers are to memory of this function, with its true length; the C library writes no further.
    let error = unsafe { libc::getpwnam_r(name.as_ptr(), entry.as_mut_ptr(), buffer.as_mut_ptr(), buffer.len(), &raw mut found) };
    if found.is_null() {
        return absent(error);
    }
    // SAFETY: `found` points to `entry`, which the call has filled.
    let entry = unsafe { entry.assume_init() };
    Ok(Some(Identity { uid: entry.pw_uid, gid: entry.pw_gid }))
}

/// The number of a group by name; `None` if there is none.
pub fn group(name: &str) -> io::Result<Option<u32>> {
    let name = CString::new(name)?;
    let (mut entry, mut buffer, mut found) = (MaybeUninit::<libc::group>::uninit(), vec![0; ENTRY_BYTES], std::ptr::null_mut());
    // SAFETY: as in `user`.
    let error = unsafe { libc::getgrnam_r(name.as_ptr(), entry.as_mut_ptr(), buffer.as_mut_ptr(), buffer.len(), &raw mut found) };
    if found.is_null() {
        return absent(error);
    }
    // SAFETY: `found` points to `entry`, which the call has filled.
    Ok(Some(unsafe { entry.assume_init() }.gr_gid))
}

/// What the lookups give besides 0 for a name that is not there (getpwnam(3)).
fn absent<T>(error: libc::c_int) -> io::Result<Option<T>> {
    match error {
        0 | libc::ENOENT | libc::ESRCH | libc::EBADF | libc::EPERM => Ok(None),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// Whether this process may become another user and hand files over to it.
pub fn may_change_user() -> bool {
    let needed = CapabilitySet::SETUID | CapabilitySet::SETGID | CapabilitySet::CHOWN;
    rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(needed))
}

/// Becomes another user, with its group and no further ones, for good; the capabilities go with it, but for that to send signals
/// (`CAP_KILL`) if `keep_signals`. For a process of one thread.
pub fn become_user(identity: Identity, keep_signals: bool) -> io::Result<()> {
    rustix::thread::set_keep_capabilities(keep_signals)?;
    // SAFETY: an empty list is read nowhere; the others take numbers.
    unsafe {
        check(libc::setgroups(0, std::ptr::null()))?;
        check(libc::setresgid(identity.gid, identity.gid, identity.gid))?;
        check(libc::setresuid(identity.uid, identity.uid, identity.uid))?;
    }
    drop_capabilities(keep_signals)?;
    rustix::thread::set_keep_capabilities(false)?;
    // SAFETY: takes numbers. This must not succeed.
    if unsafe { libc::setresuid(0, 0, 0) } == 0 {
        return Err(io::Error::other("the process could become root again"));
    }
    Ok(())
}

/// Gives all capabilities away, but for that to send signals if `keep_signals`, where the process has it.
pub fn drop_capabilities(keep_signals: bool) -> io::Result<()> {
    let had = rustix::thread::capabilities(None)?.permitted;
    let kept = if keep_signals { had & CapabilitySet::KILL } else { CapabilitySet::empty() };
    // Kernels without ambient capabilities have none to clear.
    let _ = rustix::thread::clear_ambient_capability_set();
    rustix::thread::set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() })?;
    Ok(())
}

/// From now on no program that this process could start has more rights than it has (`PR_SET_NO_NEW_PRIVS`).
pub fn set_no_new_privileges() -> io::Result<()> {
    Ok(rustix::thread::set_no_new_privs(true)?)
}

/// Others of the same user cannot look into this process, or steer it; it leaves no core either (`PR_SET_DUMPABLE`).
pub fn set_undumpable() -> io::Result<()> {
    Ok(rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?)
}

/// Which rights files do not get that this process and its children make (umask(2)).
pub fn set_umask(mask: u32) {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(mask));
}

/// How many threads this process has; 0 if that cannot be told.
pub fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count)
}

/// The version of Landlock that the kernel has switched on; `None`: none.
pub fn landlock_abi() -> Option<u32> {
    const VERSION: libc::c_ulong = 1;
    // SAFETY: with this flag the call takes no memory of ours (landlock_create_ruleset(2)).
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0, VERSION) };
    u32::try_from(version).ok().filter(|version| *version > 0)
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn users_and_groups_are_found_by_name() {
        assert_eq!(user("root").unwrap(), Some(Identity { uid: 0, gid: 0 }));
        assert_eq!(user("nobody-has-this-name").unwrap(), None);
        assert_eq!(group("root").unwrap(), Some(0));
        assert_eq!(group("nobody-has-this-name").unwrap(), None);
        assert!(user("a\0b").is_err());
    }
}
