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
