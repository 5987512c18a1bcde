//! Times as people write them, and as playlists do.
//!
//! Nothing here reads a clock: a relative time becomes a moment when its caller says what time it is.

use serde::{Deserialize, Serialize};
use std::fmt;
use time::{Date, Month, OffsetDateTime};

/// Numbers from here on are milliseconds since 1970, not seconds: 10^11 s lies in the year 5138, 10^11 ms in 1973.
const FIRST_MILLISECONDS: u64 = 100_000_000_000;

/// A moment that somebody named: absolute, or relative to now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClipTime {
    /// Wall clock, milliseconds since 1970-01-01T00:00:00Z.
    At(u64),
    /// Milliseconds before now.
    Ago(u64),
}

/// A text that names no moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClockError {
    /// The text, cut to a length that fits a message.
    text: String,
}

impl fmt::Display for ClockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = &self.text;
        write!(
            f,
            "{text:?} is no time: use ISO 8601 (2026-01-31T12:00:00Z, 2026-01-31T12:00:00.5+02:00; UTC if there is no offset), \
             unix seconds or milliseconds, a time ago (-90s, -5m, -2h), or now"
        )
    }
}

impl std::error::Error for ClockError {}

impl ClipTime {
    /// Reads a time:
    /// - ISO 8601 date and time, extended or basic (`2026-01-31T12:00:00.5+02:00`, `20260131T120000Z`), or a date (its midnight); UTC if there is no offset;
    /// - unix time in seconds with or without a fraction, or in milliseconds (from 10^11 on);
    /// - a time ago: `-90s`, `-500ms`, `-5m`, `-2h`, `-1d`, `-90` (seconds); `now`.
    ///
    /// # Errors
    /// The text is none of these, or names a moment before 1970.
    pub fn parse(text: &str) -> Result<Self, ClockError> {
        let trimmed = text.trim();
        let moment = if trimmed.eq_ignore_ascii_case("now") {
            Some(Self::Ago(0))
        } else if let Some(ago) = trimmed.strip_prefix('-') {
            parse_ago(ago).map(Self::Ago)
        } else {
            parse_unix(trimmed).or_else(|| parse_iso8601(trimmed)).map(Self::At)
        };
        moment.ok_or_else(|| ClockError { text: trimmed.chars().take(64).collect() })
    }

    /// The moment in wall clock milliseconds, if it is `now_wall_ms` now.
    pub fn resolve(self, now_wall_ms: u64) -> u64 {
        match self {
            Self::At(wall_ms) => wall_ms,
            Self::Ago(ms) => now_wall_ms.saturating_sub(ms),
        }
    }
}

/// A number with an optional decimal fraction, in thousandths, cut after the third digit.
fn thousandths(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(fraction) {
        return None;
    }
    let fraction: u64 = fraction.bytes().chain(*b"000").take(3).fold(0, |value, digit| value * 10 + u64::from(digit - b'0'));
    whole.parse::<u64>().ok()?.checked_mul(1000)?.checked_add(fraction)
}

fn parse_ago(text: &str) -> Option<u64> {
    let unit_at = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let number = thousandths(number)?;
    match unit {
        "ms" => Some(number / 1000),
        "s" | "" => Some(number),
        "m" => number.checked_mul(60),
        "h" => number.checked_mul(3_600),
        "d" => number.checked_mul(86_400),
        _ => None,
    }
}

fn parse_unix(text: &str) -> Option<u64> {
    let number = thousandths(text)?;
    // Eight digits are a basic date (20260131), not a morning in August 1970.
    if text.len() == 8 && parse_iso8601(text).is_some() {
        return None;
    }
    Some(if number / 1000 >= FIRST_MILLISECONDS { number / 1000 } else { number })
}

/// Reads fixed-width digits and marks from the front of a text.
struct Scanner<'a>(&'a str);

impl Scanner<'_> {
    fn number(&mut self, digits: usize) -> Option<u32> {
        let head = self.0.get(..digits)?;
        if !head.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        self.0 = &self.0[digits..];
        head.parse().ok()
    }

    fn take(&mut self, marks: &[char]) -> bool {
        match self.0.strip_prefix(marks) {
            Some(rest) => {
                self.0 = rest;
                true
            }
            None => false,
        }
    }
}

fn parse_iso8601(text: &str) -> Option<u64> {
    let mut scanner = Scanner(text);
    let year = scanner.number(4)?;
    let extended = scanner.take(&['-']);
    let month = Month::try_from(u8::try_from(scanner.number(2)?).ok()?).ok()?;
    if scanner.take(&['-']) != extended {
        return None;
    }
    let date = Date::from_calendar_date(year as i32, month, scanner.number(2)? as u8).ok()?;
    let days_ms = i64::from(date.to_julian_day() - UNIX_JULIAN_DAY) * 86_400_000;
    let time_ms = if scanner.take(&['T', 't', ' ', '_']) { time_of_day_ms(&mut scanner)? } else { 0 };
    let offset_ms = offset_ms(&mut scanner)?;
    if !scanner.0.is_empty() {
        return None;
    }
    u64::try_from(days_ms + time_ms - offset_ms).ok()
}

/// The Julian day of 1970-01-01.
const UNIX_JULIAN_DAY: i32 = 2_440_588;

fn time_of_day_ms(scanner: &mut Scanner<'_>) -> Option<i64> {
    let hour = scanner.number(2)?;
    let extended = scanner.take(&[':']);
    let minute = scanner.number(2)?;
    let with_seconds = if extended { scanner.take(&[':']) } else { scanner.0.starts_with(|c: char| c.is_ascii_digit()) };
    let second = if with_seconds { scanner.number(2)? } else { 0 };
    let mut ms = 0;
    if with_seconds && scanner.take(&['.', ',']) {
        let digits = scanner.0.bytes().take_while(u8::is_ascii_digit).count();
        ms = (thousandths(&format!("0.{}", &scanner.0[..digits]))?) as i64;
        scanner.0 = &scanner.0[digits..];
    }
    // Second 60 is a leap second, which unix time counts as the next one.
    if hour > 24 || minute > 59 || second > 60 || (hour == 24 && (minute, second, ms) != (0, 0, 0)) {
        return None;
    }
    Some(i64::from((hour * 60 + minute) * 60 + second) * 1000 + ms)
}

fn offset_ms(scanner: &mut Scanner<'_>) -> Option<i64> {
    if scanner.take(&['Z', 'z']) || scanner.0.is_empty() {
        return Some(0);
    }
    // A `+` in a query may have been read as a space.
    let sign = if scanner.take(&['+', ' ']) {
        1
    } else if scanner.take(&['-']) {
        -1
    } else {
        return None;
    };
    let hours = scanner.number(2)?;
    scanner.take(&[':']);
    let minutes = if scanner.0.is_empty() { 0 } else { scanner.number(2)? };
    (hours <= 23 && minutes <= 59).then(|| sign * i64::from(hours * 60 + minutes) * 60_000)
}

/// Writes a wall clock time as `EXT-X-PROGRAM-DATE-TIME` wants it: `2026-01-31T12:00:00.500Z`.
pub fn format_iso8601(wall_ms: u64) -> String {
    // The latest moment the calendar has is the end of the year 9999.
    let moment = i64::try_from(wall_ms / 1000).ok().and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    let moment = moment.unwrap_or_else(|| Date::MAX.midnight().assume_utc());
    let (date, (hour, minute, second)) = (moment.date(), moment.to_hms());
    format!("{:04}-{:02}-{:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", date.year(), u8::from(date.month()), date.day(), wall_ms % 1000)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::ClipTime::{Ago, At};
    use super::*;
    use proptest::prelude::*;

    const NOON: u64 = 1_769_860_800_000; // 2026-01-31T12:00:00Z

    #[test]
    fn iso_8601() {
        for text in [
            "2026-01-31T12:00:00Z",
            "2026-01-31T12:00:00",
            "2026-01-31t12:00z",
            "2026-01-31 12:00:00.000",
            "2026-01-31T14:00:00+02:00",
            "2026-01-31T14:00:00 02:00",
            "2026-01-31T06:30:00-0530",
            "2026-01-31T11:00:00-01",
            "20260131T120000Z",
            "20260131T1200",
            " 2026-01-31T12:00:00Z ",
        ] {
            assert_eq!(ClipTime::parse(text), Ok(At(NOON)), "{text}");
        }
        assert_eq!(ClipTime::parse("2026-01-31T12:00:00.5Z"), Ok(At(NOON + 500)));
        assert_eq!(ClipTime::parse("2026-01-31T12:00:00,123456+00:00"), Ok(At(NOON + 123)));
        assert_eq!(ClipTime::parse("2026-01-31"), Ok(At(NOON - 12 * 3_600_000)));
        assert_eq!(ClipTime::parse("20260131"), Ok(At(NOON - 12 * 3_600_000)));
        assert_eq!(ClipTime::parse("2024-02-29T00:00Z"), Ok(At(1_709_164_800_000)));
        assert_eq!(ClipTime::parse("2026-01-30T24:00Z"), Ok(At(NOON - 12 * 3_600_000)));
    }

    #[test]
    fn unix_times_and_times_ago() {
        for text in ["1769860800", "1769860800.0", "1769860800000"] {
            assert_eq!(ClipTime::parse(text), Ok(At(NOON)), "{text}");
        }
        assert_eq!(ClipTime::parse("1769860800.25"), Ok(At(NOON + 250)));
        assert_eq!(ClipTime::parse("0"), Ok(At(0)));
        for (text, ms) in [
            ("-90s", 90_000),
            ("-90", 90_000),
            ("-5m", 300_000),
            ("-1.5h", 5_400_000),
            ("-1d", 86_400_000),
            ("-250ms", 250),
            ("now", 0),
            ("-0", 0),
        ] {
            assert_eq!(ClipTime::parse(text), Ok(Ago(ms)), "{text}");
        }
        assert_eq!((Ago(90_000).resolve(NOON), Ago(u64::MAX).resolve(NOON), At(7).resolve(NOON)), (NOON - 90_000, 0, 7));
    }

    #[test]
    fn what_is_no_time_is_named_in_the_error() {
        for text in [
            "",
            "-",
            "-s",
            "-5x",
            "--5",
            "5s",
            "tomorrow",
            "2026-13-01",
            "2026-02-29",
            "2026-01-31T",
            "2026-01-31T25:00",
            "2026-01-31T12:60",
            "2026-01-31T12:00:61",
            "2026-01-31T12:00:00+",
            "2026-01-31T12:00:00Q",
            "2026-01-31T12:00:00+2:00",
            "2026-0131",
            "1.",
            ".5",
            "1e9",
            "99999999999999999999999",
            "-99999999999999999999d",
            "1969-12-31T23:59:59Z",
            "２０２６-01-31",
            "2026-01-3é",
        ] {
            let error = ClipTime::parse(text).unwrap_err();
            assert!(error.to_string().starts_with(&format!("{text:?} is no time")), "{text}");
        }
    }

    #[test]
    fn playlists_times() {
        assert_eq!(format_iso8601(NOON + 7), "2026-01-31T12:00:00.007Z");
        assert_eq!(format_iso8601(0), "1970-01-01T00:00:00.000Z");
        assert!(format_iso8601(u64::MAX).starts_with("9999-12-31T"));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(wall_ms in 0u64..253_402_300_800_000) {
            prop_assert_eq!(ClipTime::parse(&format_iso8601(wall_ms)), Ok(At(wall_ms)));
        }

        #[test]
        fn no_text_panics(text in "[-0-9T:.Z+ dhms]{0,30}", wild in any::<String>()) {
            let _ = (ClipTime::parse(&text), ClipTime::parse(&wild));
        }
    }
}
