//! What a line looks like: for people, or as JSON for programs.
//!
//! `2026-11-23T07:15:00.123Z  INFO worker 2: publishing stream=live/x conn=c7 peer=192.0.2.1:5000`
//!
//! `{"time":"2026-11-23T07:15:00.123Z","level":"INFO","process":"worker 2","room":"worker","message":"publishing","stream":"live/x","conn":"c7","peer":"192.0.2.1:5000"}`

use super::rooms::Room;
use crate::config::LogFormat;
use braidcast_sys::clock;
use serde_json::{Map, Value};
use std::fmt;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

const TIME: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// How the lines of a process are written.
pub struct Lines {
    /// `front`, or `worker` and its id, or an attendant's role.
    pub role: String,
    /// For whom.
    pub format: LogFormat,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let now = OffsetDateTime::from_unix_timestamp_nanos(i128::from(clock::wall_us()) * 1_000).map_err(|_| fmt::Error)?;
        let now = now.format(TIME).map_err(|_| fmt::Error)?;
        match self.format {
            LogFormat::Human => self.human(&now, context, &mut writer, event)?,
            LogFormat::Json => write!(writer, "{}", self.json(&now, event))?,
        }
        writeln!(writer)
    }
}

impl Lines {
    fn human<S, N>(&self, now: &str, context: &FmtContext<'_, S, N>, writer: &mut Writer<'_>, event: &Event<'_>) -> fmt::Result
    where
        S: Subscriber + for<'span> LookupSpan<'span>,
        N: for<'writer> FormatFields<'writer> + 'static,
    {
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
        Ok(())
    }

    /// Whatever a peer sent, the encoder escapes it.
    fn json(&self, now: &str, event: &Event<'_>) -> Value {
        let mut fields = Fields(Map::new());
        event.record(&mut fields);
        let Fields(mut fields) = fields;
        let mut line = Map::new();
        line.insert("time".into(), now.into());
        line.insert("level".into(), event.metadata().level().as_str().into());
        line.insert("process".into(), self.role.as_str().into());
        line.insert("room".into(), Room::of(event.metadata().target()).map(Room::name).into());
        line.insert("message".into(), fields.shift_remove("message").unwrap_or_default());
        line.extend(fields);
        line.into()
    }
}

/// The fields of an event, each as what it is.
struct Fields(Map<String, Value>);

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        self.0.insert(field.name().to_owned(), value);
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use super::super::RateLimit;
    use super::*;
    use std::sync::{Arc, Mutex};
    use tracing_subscriber::layer::SubscriberExt;

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

    fn logged_as(format: LogFormat, what: impl FnOnce()) -> String {
        let sink = Sink::default();
        let writer = sink.clone();
        let lines = Lines { role: "worker 2".into(), format };
        let layer = tracing_subscriber::fmt::layer().with_writer(move || writer.clone()).with_ansi(false).event_format(lines);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), what);
        let bytes = sink.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    fn logged(what: impl FnOnce()) -> String {
        logged_as(LogFormat::Human, what)
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
    fn a_json_line_holds_the_fields_as_what_they_are() {
        let text = logged_as(LogFormat::Json, || {
            tracing::info!(stream = "live/x", conn = %"c7", pid = 7u32, late = true, share = -1, none = None::<u64>, "publishing");
            tracing::warn!(app = "a\n\x1b[31m\"b\"", "refused: {}", "e\r\nf\x1b[0m");
        });
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let mut first = lines[0].clone();
        assert_eq!(first["time"].take().as_str().unwrap().len(), 24);
        let expected = serde_json::json!({
            "time": null, "level": "INFO", "process": "worker 2", "room": "logging", "message": "publishing",
            "stream": "live/x", "conn": "c7", "pid": 7, "late": true, "share": -1,
        });
        assert_eq!(first, expected);
        assert_eq!(
            (lines.len(), &lines[1]["message"], &lines[1]["app"]),
            (2, &"refused: e\r\nf\x1b[0m".into(), &"a\n\x1b[31m\"b\"".into())
        );
        assert!(!text.contains('\x1b'));
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
