//! Starting children that inherit exactly the descriptors they are given.

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

/// Starts a command that inherits `fds`, under the numbers they have here, and nothing else beyond its standard input,
/// output and error as `command` says. No signal is blocked in it. It is no child to die with its parent.
pub fn spawn(mut command: Command, fds: &[BorrowedFd<'_>]) -> io::Result<Child> {
    let numbers: Vec<RawFd> = fds.iter().map(|fd| fd.as_raw_fd()).collect();
    // SAFETY: between fork and exec the closure makes async-signal-safe system calls only and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            close_on_exec_from(3)?;
            for number in &numbers {
                // The number is still open: it is borrowed by the caller until the command, which is consumed here, has been started.
                if libc::fcntl(*number, libc::F_SETFD, 0) < 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            unblock_signals()
        });
    }
    command.spawn()
}

/// Starts a command that inherits nothing but its standard input, output and error, and that is killed when this process ends, however it ends.
/// To be called from a thread that lives as long as the process: the kernel counts the thread as the parent (prctl(2)).
pub fn spawn_dependent(mut command: Command) -> io::Result<Child> {
    let parent = rustix::process::getpid();
    // SAFETY: between fork and exec the closure makes async-signal-safe system calls only and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            close_on_exec_from(3)?;
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong) < 0 {
                return Err(io::Error::last_os_error());
            }
            // It may have ended in between.
            if libc::getppid() != parent.as_raw_nonzero().get() {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            unblock_signals()
        });
    }
    command.spawn()
}

/// Has a command start with another umask than this process's (umask(2)).
pub fn set_umask(command: &mut Command, mask: u32) {
    // SAFETY: between fork and exec the closure makes one async-signal-safe system call.
    unsafe {
        command.pre_exec(move || {
            libc::umask(mask);
            Ok(())
        });
    }
}

/// Takes a descriptor that this process was started with. `InvalidInput` for standard input, output and error, and for one
/// that is close-on-exec: such a one was opened here and has an owner. Taking it makes it close-on-exec.
pub fn take_inherited(number: RawFd) -> io::Result<OwnedFd> {
    if number <= 2 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: borrowed only to ask for its flags, which fails cleanly if it is not open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    if fcntl_getfd(borrowed)?.contains(FdFlags::CLOEXEC) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    fcntl_setfd(borrowed, FdFlags::CLOEXEC)?;
    // SAFETY: it is open, and nobody owns it: what this process opens is close-on-exec, as is what was taken here before.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

fn close_on_exec_from(first: libc::c_uint) -> io::Result<()> {
    // SAFETY: sets a flag on descriptors; touches no memory.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn unblock_signals() -> io::Result<()> {
    // SAFETY: `sigemptyset` initialises the set before it is read; both calls are async-signal-safe.
    let result = unsafe {
        let mut none = std::mem::MaybeUninit::uninit();
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut())
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::process::Stdio;

    #[test]
    fn only_the_given_descriptors_are_inherited() {
        let bell = crate::EventFd::new().unwrap();
        // Numbers that the child's program does not come to use itself.
        let given = rustix::io::fcntl_dupfd_cloexec(&bell, 500).unwrap();
        let other = rustix::io::fcntl_dupfd_cloexec(&bell, 500).unwrap();
        let (given_number, other_number) = (given.as_raw_fd(), other.as_raw_fd());
        // A descriptor that somebody forgot to make close-on-exec does not slip through either.
        fcntl_setfd(&other, FdFlags::empty()).unwrap();
        let mut command = Command::new("ls");
        command.arg("/proc/self/fd").stdout(Stdio::piped()).stdin(Stdio::null());
        let output = spawn(command, &[given.as_fd()]).unwrap().wait_with_output().unwrap();
        let listed = String::from_utf8(output.stdout).unwrap();
        let numbers: Vec<i32> = listed.lines().map(|line| line.parse().unwrap()).collect();
        assert!(numbers.contains(&given_number), "{numbers:?}");
        assert!(!numbers.contains(&other_number), "{numbers:?}");
        assert!(fcntl_getfd(&given).unwrap().contains(FdFlags::CLOEXEC), "unchanged in the parent");
    }

    #[test]
    fn a_dependent_child_ends_with_its_parent() {
        // The thread is the parent: when it ends, the child is killed.
        let mut child = std::thread::spawn(|| {
            let mut command = Command::new("sleep");
            command.arg("600");
            spawn_dependent(command).unwrap()
        })
        .join()
        .unwrap();
        let ending = child.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ending), Some(libc::SIGKILL));
    }

    #[test]
    fn a_descriptor_is_taken_once() {
        let bell = crate::EventFd::new().unwrap();
        let number = rustix::io::fcntl_dupfd_cloexec(&bell, 100).map(std::os::fd::IntoRawFd::into_raw_fd).unwrap();
        assert!(take_inherited(number).is_err(), "one that was opened here has an owner");
        // SAFETY: open, see above; the raw number is this test's own.
        fcntl_setfd(unsafe { BorrowedFd::borrow_raw(number) }, FdFlags::empty()).unwrap();
        let taken = take_inherited(number).unwrap();
        assert!(take_inherited(number).is_err());
        assert!(take_inherited(1).is_err() && take_inherited(-1).is_err());
        crate::EventFd::from_fd(taken).ring().unwrap();
        assert!(bell.drain().unwrap());
    }
}
