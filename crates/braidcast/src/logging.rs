//! Log lines on standard error: one line for each event, with the process's role before the message and the fields after it.
//!
//! `2026-11-23T07:15:00.123Z  INFO worker 2: publishing stream=live/x conn=c7 peer=192.0.2.1:5000`
//!
//! Lines that a peer can trigger go through a [`RateLimit`], so that nobody fills a disk from outside.

use crate::config::LogLevel;
use std::fmt;
use std::io::IsTerminal;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

/// The variable with levels by module; it goes before the configured level.
const FILTER_VARIABLE: &str = "BRAIDCAST_LOG";

const TIME: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// Starts logging for this process; `role` is `front`, or `worker` and its id. `BRAIDCAST_LOG`, where it is set and makes sense, goes before
/// `level`. A second call changes nothing.
pub fn start(level: LogLevel, role: &str) {
    let from_environment = std::env::var(FILTER_VARIABLE).ok().filter(|text| !text.is_empty()).map(|text| (text.parse::<Targets>(), text));
    let (filter, rejected) = match from_environment {
        Some((Ok(filter), _)) => (filter, None),
        Some((Err(error), text)) => (Targets::new().with_default(filter_of(level)), Some((error, text))),
        None => (Targets::new().with_default(filter_of(level)), None),
    };
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let lines =
        tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(colour).event_format(Lines { role: role.to_owned() });
    let started = tracing_subscriber::registry().with(lines).with(filter).try_init().is_ok();
    if let (true, Some((error, text))) = (started, rejected) {
        tracing::warn!(%error, "{FILTER_VARIABLE}={text:?} is no list of levels; using log_level");
    }
}

fn filter_of(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

struct Lines {
    role: String,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let now = OffsetDateTime::now_utc().format(TIME).map_err(|_| fmt::Error)?;
        let level = *event.metadata().level();
        if writer.has_ansi_escapes() {
            let colour = match level {
                Level::ERROR => 31,
                Level::WARN => 33,
                Level::INFO => 32,
                Level::DEBUG => 34,
                Level::TRACE => 35,
            };
            write!(writer, "\x1b[2m{now}\x1b[0m \x1b[{colour}m{level:>5}\x1b[0m \x1b[1m{}\x1b[0m: ", self.role)?;
        } else {
            write!(writer, "{now} {level:>5} {}: ", self.role)?;
        }
        let mut text = String::new();
        context.format_fields(Writer::new(&mut text), event)?;
        // A name or an error text can hold what a peer sent: it shall neither forge a line nor paint the terminal.
        for c in text.chars() {
            if c.is_control() { write!(writer, "{}", c.escape_default())? } else { writer.write_char(c)? }
        }
        writeln!(writer)
    }
}

/// A token bucket for log lines that a peer can trigger: so many at once, so many a second over time; the others are counted, and their number
/// is told before the next line that is written.
///
/// ```ignore
/// if self.peer_lines.allow(now_ms) {
///     tracing::info!(%conn, %peer, "refused");
/// }
/// ```
#[derive(Clone, Debug)]
pub struct RateLimit {
    /// In thousandths of a line.
    tokens: u64,
    burst: u64,
    /// Lines a second, which is thousandths of a line a millisecond.
    per_second: u64,
    filled_ms: u64,
    untold: u64,
    total: u64,
}

impl Default for RateLimit {
    /// 50 lines at once, 10 a second over time: enough to see what is going on, some 100 MB a day at worst.
    fn default() -> Self {
        Self::new(50, 10)
    }
}

impl RateLimit {
    /// `burst` lines at once, `per_second` over time.
    pub fn new(burst: u32, per_second: u32) -> Self {
        let burst = u64::from(burst) * 1_000;
        Self { tokens: burst, burst, per_second: u64::from(per_second), filled_ms: 0, untold: 0, total: 0 }
    }

    /// Whether a line may be written now; the caller writes it. `now_ms` is of the monotonic clock.
    pub fn allow(&mut self, now_ms: u64) -> bool {
        let elapsed = now_ms.saturating_sub(self.filled_ms);
        self.filled_ms = self.filled_ms.max(now_ms);
        self.tokens = self.tokens.saturating_add(elapsed.saturating_mul(self.per_second)).min(self.burst);
        let Some(rest) = self.tokens.checked_sub(1_000) else {
            self.untold += 1;
            self.total += 1;
            return false;
        };
        self.tokens = rest;
        let lines = std::mem::take(&mut self.untold);
        if lines > 0 {
            tracing::warn!(lines, "log lines about clients were suppressed");
        }
        true
    }

    /// How many lines were suppressed in all.
    pub fn suppressed(&self) -> u64 {
        self.total
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(what: impl FnOnce()) -> String {
        let sink = Sink::default();
        let writer = sink.clone();
        let lines = Lines { role: "worker 2".into() };
        let layer = tracing_subscriber::fmt::layer().with_writer(move || writer.clone()).with_ansi(false).event_format(lines);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), what);
        let bytes = sink.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_line_has_role_message_and_fields() {
        let line = logged(|| tracing::info!(stream = "live/x", conn = %"c7", "publishing"));
        let (time, rest) = line.split_once(' ').unwrap();
        assert!(time.len() == 24 && time.ends_with('Z'), "{line}");
        assert_eq!(rest, " INFO worker 2: publishing stream=\"live/x\" conn=c7\n");
    }

    #[test]
    fn a_peer_cannot_break_a_line_in_two() {
        let line = logged(|| tracing::info!(app = "a\n\x1b[31mb", stream = %"c\nd", "refused: {}", "e\r\nf\x1b[0m"));
        assert_eq!(line.lines().count(), 1);
        assert!(!line.contains('\x1b'));
    }

    #[test]
    fn lines_beyond_the_rate_are_counted() {
        let mut limit = RateLimit::new(2, 1);
        assert_eq!([0, 0, 0, 999].map(|now| limit.allow(now)), [true, true, false, false]);
        assert_eq!([1_000, 1_500].map(|now| limit.allow(now)), [true, false]);
        assert!(!limit.allow(1_000), "a clock that steps back gives nothing");
        assert_eq!([1_000_000; 3].map(|now| limit.allow(now)), [true, true, false], "the bucket never holds more than the burst");
        assert_eq!(limit.suppressed(), 5);
    }

    #[test]
    fn the_number_of_suppressed_lines_is_told_before_the_next() {
        let text = logged(|| {
            let mut limit = RateLimit::new(1, 1);
            for now in [0, 0, 0, 1_000] {
                if limit.allow(now) {
                    tracing::info!(now, "refused");
                }
            }
        });
        let messages: Vec<&str> = text.lines().filter_map(|line| line.split_once(": ")).map(|(_, message)| message).collect();
        assert_eq!(messages, ["refused now=0", "log lines about clients were suppressed lines=2", "refused now=1000"]);
    }
}
