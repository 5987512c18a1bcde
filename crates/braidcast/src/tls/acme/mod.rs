//! A certificate that is fetched from an authority by ACME (RFC 8555, challenge HTTP-01), and renewed in time.
//!
//! What is to be kept lies in the state directory. The answers to the authority's questions lie in the shared directory, where every
//! worker finds them. An attempt that fails is repeated ever less often, whatever is restarted meanwhile.

mod order;
mod state;

use super::Server;
use super::certificates::Certificate;
use super::x509::Facts;
use crate::attendant::report;
use crate::config::Acme;
use crate::control::attendants::Role;
use crate::control::counters::TlsCounter;
use braidcast_sys::clock;
use state::Attempt;
pub use state::{DIRECTORY, State};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The directory of the answers in the shared directory.
pub const CHALLENGES: &str = "acme";
/// What the copy of `[acme] ca_file` is called among the attendant's files: it may not be able to get at the file itself.
pub const CA_COPY: &str = "ca";
/// The longest answer, in bytes: a token and a thumbprint.
pub const ANSWER_BYTES: usize = 1_024;
/// The longest token, in bytes; authorities have tokens of 43.
const TOKEN_BYTES: usize = 128;
/// How long an attempt may take.
const ATTEMPT: Duration = Duration::from_secs(180);
/// The longest sleep: clocks are set, machines are suspended.
const SLEEP: Duration = Duration::from_secs(600);
/// The pause after the first failure, and the longest one, seconds. Each is twice as long as the one before.
const FIRST_PAUSE_S: i64 = 300;
const LONGEST_PAUSE_S: i64 = 12 * 3_600;

/// Where the answer to a challenge lies; `None`: that is no token (RFC 8555, section 8.3: base64url).
pub fn answer_at(shared_dir: &Path, token: &str) -> Option<PathBuf> {
    let fits = (1..=TOKEN_BYTES).contains(&token.len());
    let is_token = fits && token.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    is_token.then(|| shared_dir.join(CHALLENGES).join(token))
}

/// Uses the certificate that was fetched before, if it is for what the configuration asks for.
pub fn use_kept(server: &Server) {
    let config = server.settings().config.clone();
    let wanted = server.kept.as_ref().filter(|_| !config.acme.domains.is_empty());
    server.use_fetched(wanted.and_then(|kept| kept.certificate(&config.acme)));
}

/// Keeps the certificate that the configuration asks for, for ever.
pub async fn keep(server: Arc<Server>) {
    let mut changed = server.changed();
    loop {
        changed.mark_unchanged();
        let acme = server.settings().config.acme.clone();
        let due_s = server.kept.as_ref().filter(|_| !acme.domains.is_empty()).map(|state| {
            let (current, attempt) = (state.certificate(&acme), state.attempt(&acme));
            tell(&server, &attempt);
            let due_s = due_s(current.as_ref().map(|current| &current.facts), &acme, &attempt);
            server.use_fetched(current);
            (state, due_s)
        });
        let sleep = match due_s {
            Some((state, due_s)) if due_s <= now_s() => {
                try_once(&server, &acme, state).await;
                continue;
            }
            Some((_, due_s)) => Duration::from_secs((due_s - now_s()).unsigned_abs()).min(SLEEP),
            None => SLEEP,
        };
        tokio::select! {
            // The sender lives as long as the server.
            _ = changed.changed() => {}
            () = tokio::time::sleep(sleep) => {}
        }
    }
}

/// When a certificate is to be fetched: at once if there is none for these names, else when two thirds of its time are over; in no
/// case before the pause after a failure is.
fn due_s(current: Option<&Facts>, acme: &Acme, failed: &Attempt) -> i64 {
    let fitting = current.filter(|facts| state::same_names(&facts.names, &acme.domains));
    let wanted_s = fitting.map_or(i64::MIN, |facts| facts.since_s + facts.expires_s.saturating_sub(facts.since_s) / 3 * 2);
    wanted_s.max(failed.not_before_s)
}

/// The pause after so many failures in succession, at least 1.
fn pause_s(failures: u32) -> i64 {
    let doubled = 1_i64.checked_shl(failures.saturating_sub(1)).filter(|_| failures < 32);
    doubled.map_or(LONGEST_PAUSE_S, |times| FIRST_PAUSE_S.saturating_mul(times).min(LONGEST_PAUSE_S))
}

async fn try_once(server: &Server, acme: &Acme, state: &State) {
    let names = acme.domains.join(", ");
    tracing::info!(%names, directory = acme.directory, "fetching a certificate");
    let failures = state.attempt(acme).failures + 1;
    // Written before it begins: what dies of it must not begin at once again.
    let mut attempt = Attempt::failed(acme, failures, now_s() + pause_s(failures), "it was cut off");
    if let Err(error) = state.write_attempt(&attempt) {
        tracing::error!(error = format!("{error:#}"), "no certificate can be fetched: the state directory cannot be written to");
        return tokio::time::sleep(SLEEP).await;
    }
    let fetched = tokio::time::timeout(ATTEMPT, order::fetch(acme, state, &server.shared_dir)).await;
    let error = match fetched {
        Ok(Ok(())) => {
            server.add(TlsCounter::AcmeFetched, 1);
            attempt = Attempt::none(acme);
            None
        }
        Ok(Err(error)) => Some(format!("{error:#}")),
        Err(_) => Some(format!("it took longer than {ATTEMPT:?}")),
    };
    if let Some(error) = error {
        server.add(TlsCounter::AcmeFailures, 1);
        let pause = Duration::from_secs(pause_s(failures).unsigned_abs());
        tracing::error!(%names, "no certificate could be fetched: {error}; the next attempt is in {pause:?}");
        attempt.error = error;
    }
    if let Err(error) = state.write_attempt(&attempt) {
        tracing::error!(error = format!("{error:#}"), "the state directory cannot be written to");
    }
}

fn now_s() -> i64 {
    i64::try_from(clock::wall_ms() / 1_000).unwrap_or(i64::MAX)
}

/// For `status`: how the last attempt failed, and when the next one is; nothing if none has.
fn tell(server: &Server, attempt: &Attempt) {
    let next = time::OffsetDateTime::from_unix_timestamp(attempt.not_before_s).map_or_else(|_| String::new(), |next| next.to_string());
    let note = match attempt.failures {
        0 => String::new(),
        failures => format!("[acme] {failures} attempts in succession failed, the next one is not before {next}: {}", attempt.error),
    };
    if let Err(error) = report::write_note(&server.shared_dir, Role::Tls, &note) {
        tracing::debug!(%error, "cannot say how ACME gets on");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acme(domains: &[&str]) -> Acme {
        Acme { domains: domains.iter().map(ToString::to_string).collect(), ..Acme::default() }
    }

    #[test]
    fn a_certificate_is_fetched_in_time_and_not_too_often() {
        let acme = acme(&["b.example", "A.example"]);
        let facts = Facts { names: vec!["a.example".into(), "b.example".into()], since_s: 1_000, expires_s: 4_000 };
        let good = Attempt::none(&acme);
        assert_eq!(due_s(Some(&facts), &acme, &good), 3_000);
        assert!(due_s(None, &acme, &good) <= 0, "none is there");
        let other = Facts { names: vec!["a.example".into()], ..facts.clone() };
        assert!(due_s(Some(&other), &acme, &good) <= 0, "it is for other names");
        let failed = Attempt::failed(&acme, 1, 5_000, "why");
        assert_eq!((due_s(None, &acme, &failed), due_s(Some(&facts), &acme, &failed)), (5_000, 5_000));
    }

    #[test]
    fn pauses_double_up_to_half_a_day() {
        let pauses: Vec<i64> = [1, 2, 3, 8, 9, 31, 32, u32::MAX].map(pause_s).into();
        assert_eq!(pauses, [300, 600, 1_200, 38_400, 43_200, 43_200, 43_200, 43_200]);
    }

    #[test]
    fn a_token_is_no_path() {
        let at = |token: &str| answer_at(Path::new("/dev/shm/b"), token);
        assert_eq!(at("a-Z_9"), Some(PathBuf::from("/dev/shm/b/acme/a-Z_9")));
        for bad in ["", "..", "a/b", "a.b", "ü", "a\0", &"x".repeat(129)] {
            assert_eq!(at(bad), None, "{bad}");
        }
    }
}
