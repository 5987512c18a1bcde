//! Places where tests kill the writer, to prove that another one can go on from there. Compiled to nothing without the
//! feature `kill-points`.

/// Aborts the process if `BRAIDCAST_KILL_POINT` is `name:n` and this is the n-th time (from 1) that it comes by `name`.
#[cfg(feature = "kill-points")]
pub(crate) fn kill_point(name: &str) {
    use std::sync::atomic::{AtomicU64, Ordering};
    static PASSED: AtomicU64 = AtomicU64::new(0);
    let Ok(wanted) = std::env::var("BRAIDCAST_KILL_POINT") else { return };
    let Some((wanted_name, count)) = wanted.rsplit_once(':') else { return };
    if wanted_name == name && count.parse() == Ok(PASSED.fetch_add(1, Ordering::Relaxed) + 1) {
        std::process::abort();
    }
}

/// Does nothing: the feature is off.
#[cfg(not(feature = "kill-points"))]
#[inline(always)]
pub(crate) fn kill_point(_name: &str) {}
