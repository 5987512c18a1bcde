//! Places where tests kill a process, to prove that another one can go on from there. Compiled to nothing without the feature
//! `faults`.

/// Aborts the process if `BRAIDCAST_KILL_POINT` is `name:n` and this is the n-th time (from 1) that it comes by `name`. If
/// `BRAIDCAST_KILL_ONCE` names a file, only the process that makes it aborts.
#[cfg(feature = "faults")]
pub fn kill_point(name: &str) {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    static PASSED: AtomicU64 = AtomicU64::new(0);
    static WANTED: LazyLock<Option<(String, u64)>> = LazyLock::new(|| {
        let wanted = std::env::var("BRAIDCAST_KILL_POINT").ok()?;
        let (name, count) = wanted.rsplit_once(':')?;
        Some((name.to_owned(), count.parse().ok()?))
    });
    let Some((wanted, count)) = WANTED.as_ref().filter(|(wanted, _)| wanted == name) else { return };
    if PASSED.fetch_add(1, Ordering::Relaxed) + 1 != *count {
        return;
    }
    let first = |path| std::fs::File::create_new(path).is_ok();
    if std::env::var_os("BRAIDCAST_KILL_ONCE").is_none_or(first) {
        eprintln!("killed at {wanted}:{count}");
        std::process::abort();
    }
}

/// Does nothing: the feature is off.
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub fn kill_point(_name: &str) {}

/// Makes one of the calls that a process in a sandbox is refused. `InvalidInput`: no such trial.
#[cfg(feature = "faults")]
pub fn attempt(what: &str, pid: u32) -> std::io::Result<()> {
    let nothing = std::ptr::null::<u8>();
    // SAFETY: none of the calls is given memory of ours to write to; those that succeed harm this process at most, which is a test's.
    let result = unsafe {
        match what {
            "ptrace" => libc::ptrace(libc::PTRACE_ATTACH, pid as libc::pid_t, 0, 0),
            "signal" => libc::kill(pid as libc::pid_t, 0).into(),
            // Who may mount is told that there is no such file system.
            "mount" => libc::mount(c"none".as_ptr(), c"/".as_ptr(), c"no-such-file-system".as_ptr(), 0, nothing.cast()).into(),
            "root" => libc::setresuid(0, 0, 0).into(),
            "unshare" => libc::unshare(libc::CLONE_NEWNS).into(),
            "bpf" => libc::syscall(libc::SYS_bpf, 0, nothing, 0),
            "io_uring" => libc::syscall(libc::SYS_io_uring_setup, 1, nothing),
            "keyctl" => libc::syscall(libc::SYS_keyctl, 0, -3, 0),
            "module" => libc::syscall(libc::SYS_init_module, nothing, 0, c"".as_ptr()),
            "fork" => libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0),
            "unknown" => libc::syscall(9_999),
            _ => return Err(std::io::ErrorKind::InvalidInput.into()),
        }
    };
    match result {
        // A new process: it is not to go on as this one.
        // SAFETY: ends the process.
        0 if what == "fork" => unsafe { libc::_exit(0) },
        -1 => Err(std::io::Error::last_os_error()),
        // Let go of, so that its parent hears of its end. SAFETY: takes numbers.
        0 if what == "ptrace" => unsafe {
            libc::waitpid(pid as libc::pid_t, std::ptr::null_mut(), libc::__WALL);
            libc::ptrace(libc::PTRACE_DETACH, pid as libc::pid_t, 0, 0);
            Ok(())
        },
        _ => Ok(()),
    }
}
