//! The numbers of system calls on this machine's architecture, for filters that are made of them; what a filter is for is decided elsewhere.

macro_rules! numbers {
    ($(#[$meta:meta])* $list:ident: $($call:ident)+ $(; on x86_64: $($old:ident)+)?) => {
        $(#[$meta])*
        pub const $list: &[libc::c_long] = &[
            $(libc::$call,)+
            $($(#[cfg(target_arch = "x86_64")] libc::$old,)+)?
        ];
    };
}

numbers! {
    /// Reading, writing and waiting on what is open.
    INPUT_OUTPUT:
    SYS_read SYS_write SYS_readv SYS_writev SYS_pread64 SYS_pwrite64 SYS_preadv SYS_pwritev SYS_preadv2 SYS_pwritev2
    SYS_sendfile SYS_splice SYS_tee SYS_copy_file_range SYS_lseek SYS_close SYS_dup SYS_dup3 SYS_fcntl SYS_ioctl SYS_fsync
    SYS_fdatasync SYS_ftruncate SYS_fallocate SYS_fadvise64 SYS_flock SYS_pipe2 SYS_eventfd2 SYS_epoll_create1 SYS_epoll_ctl
    SYS_epoll_pwait SYS_epoll_pwait2 SYS_ppoll SYS_pselect6 SYS_timerfd_create SYS_timerfd_settime SYS_timerfd_gettime
    SYS_inotify_init1 SYS_inotify_add_watch SYS_inotify_rm_watch
    ; on x86_64: SYS_dup2 SYS_epoll_wait SYS_poll SYS_select SYS_pipe
}

numbers! {
    /// Files and directories by name.
    FILES:
    SYS_openat SYS_fstat SYS_newfstatat SYS_statx SYS_statfs SYS_fstatfs SYS_faccessat SYS_faccessat2 SYS_readlinkat SYS_getcwd
    SYS_getdents64 SYS_mkdirat SYS_unlinkat SYS_renameat SYS_renameat2 SYS_utimensat
    ; on x86_64: SYS_open SYS_stat SYS_lstat SYS_access SYS_readlink SYS_mkdir SYS_unlink SYS_rmdir SYS_rename
}

numbers! {
    /// Connections.
    SOCKETS:
    SYS_socket SYS_socketpair SYS_connect SYS_bind SYS_listen SYS_accept SYS_accept4 SYS_sendto SYS_recvfrom SYS_sendmsg SYS_recvmsg
    SYS_sendmmsg SYS_recvmmsg SYS_shutdown SYS_getsockname SYS_getpeername SYS_setsockopt SYS_getsockopt
}

numbers! {
    /// Memory, threads, signals of one's own, clocks, numbers of the process.
    PROCESS:
    SYS_mmap SYS_mprotect SYS_munmap SYS_mremap SYS_madvise SYS_brk SYS_membarrier SYS_clone SYS_clone3 SYS_futex SYS_rseq
    SYS_set_robust_list SYS_get_robust_list SYS_set_tid_address SYS_gettid SYS_getpid SYS_getppid SYS_tgkill SYS_sched_yield
    SYS_sched_getaffinity SYS_getcpu SYS_rt_sigaction SYS_rt_sigprocmask SYS_rt_sigreturn SYS_sigaltstack SYS_restart_syscall
    SYS_clock_gettime SYS_clock_getres SYS_clock_nanosleep SYS_nanosleep SYS_gettimeofday SYS_getrandom SYS_uname SYS_sysinfo
    SYS_getrusage SYS_prlimit64 SYS_getrlimit SYS_getuid SYS_geteuid SYS_getgid SYS_getegid SYS_prctl SYS_exit SYS_exit_group
    ; on x86_64: SYS_time
}

numbers! {
    /// What signals other processes.
    SIGNALS:
    SYS_kill SYS_pidfd_open SYS_pidfd_send_signal
}

numbers! {
    /// What only somebody calls who has got into the process: other programs and processes, other rights, the system itself, parts of the
    /// kernel that are large and reached by nobody here.
    HOSTILE:
    SYS_execve SYS_execveat SYS_ptrace SYS_process_vm_readv SYS_process_vm_writev SYS_process_madvise SYS_kcmp SYS_pidfd_getfd
    SYS_tkill SYS_rt_sigqueueinfo SYS_rt_tgsigqueueinfo
    SYS_setuid SYS_setgid SYS_setreuid SYS_setregid SYS_setresuid SYS_setresgid SYS_setgroups SYS_setfsuid SYS_setfsgid SYS_capset
    SYS_personality SYS_unshare SYS_setns SYS_chroot SYS_pivot_root SYS_mount SYS_umount2 SYS_move_mount SYS_open_tree SYS_fsopen
    SYS_fsconfig SYS_fsmount SYS_fspick SYS_mount_setattr SYS_swapon SYS_swapoff SYS_quotactl SYS_acct SYS_reboot SYS_sethostname
    SYS_setdomainname SYS_syslog SYS_settimeofday SYS_clock_settime SYS_clock_adjtime SYS_adjtimex
    SYS_init_module SYS_finit_module SYS_delete_module SYS_kexec_load SYS_bpf SYS_perf_event_open SYS_userfaultfd SYS_keyctl
    SYS_add_key SYS_request_key SYS_io_uring_setup SYS_io_uring_enter SYS_io_uring_register SYS_memfd_create SYS_open_by_handle_at
    SYS_name_to_handle_at SYS_mknodat SYS_symlinkat SYS_linkat SYS_fchmod SYS_fchmodat SYS_fchown SYS_fchownat SYS_setxattr
    SYS_fsetxattr SYS_lsetxattr
    ; on x86_64: SYS_fork SYS_vfork SYS_iopl SYS_ioperm SYS_modify_ldt SYS_kexec_file_load SYS_uselib SYS_mknod SYS_symlink SYS_link
    SYS_chmod SYS_chown SYS_lchown
}

pub use libc::{
    AF_INET, AF_INET6, AF_NETLINK, AF_UNIX, CLONE_THREAD, ENOSYS, EPERM, FIOCLEX, FIONBIO, FIONREAD, PR_GET_NAME, PR_SET_NAME,
    PR_SET_NO_NEW_PRIVS, PR_SET_VMA, PROT_EXEC, SYS_bind, SYS_clone, SYS_clone3, SYS_ioctl, SYS_listen, SYS_mmap, SYS_mprotect, SYS_prctl,
    SYS_prlimit64, SYS_socket, SYS_socketpair, SYS_tgkill, TCGETS, TIOCOUTQ,
};
