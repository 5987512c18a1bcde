//! Byte ranges of a file that does not change: one range, by RFC 9110 section 14.
//!
//! Several ranges in one request are answered with the whole file, which the RFC allows and every client takes.

use serde::{Deserialize, Serialize};

/// The range a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ByteRange {
    /// `bytes=first-`, `bytes=first-last`: from a byte on, to a last one (included) or to the end.
    From {
        /// First byte, from 0.
        first: u64,
        /// Last byte, itself included.
        last: Option<u64>,
    },
    /// `bytes=-count`: the last bytes of the file.
    Suffix(u64),
}

/// What a range comes to for a file of known length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// Answer 206 with these bytes.
    Part {
        /// First byte, from 0.
        first: u64,
        /// How many, at least 1.
        bytes: u64,
    },
    /// Answer 416: the file has no such byte.
    Unsatisfiable,
}

impl ByteRange {
    /// Reads the value of a `Range` header. `None` for what has to be ignored: other units, several ranges, broken syntax.
    pub fn parse(value: &str) -> Option<Self> {
        let (unit, range) = value.trim().split_once('=')?;
        let (first, last) = range.trim().split_once('-')?;
        if !unit.trim_end().eq_ignore_ascii_case("bytes") {
            return None;
        }
        match (first, last) {
            ("", count) => Some(Self::Suffix(digits(count)?)),
            (first, "") => Some(Self::From { first: digits(first)?, last: None }),
            (first, last) => {
                let (first, last) = (digits(first)?, digits(last)?);
                (first <= last).then_some(Self::From { first, last: Some(last) })
            }
        }
    }

    /// Applies the range to a file of `length` bytes.
    pub fn span(self, length: u64) -> Span {
        match self {
            Self::From { first, .. } if first >= length => Span::Unsatisfiable,
            Self::From { first, last } => {
                let last = last.unwrap_or(u64::MAX).min(length - 1);
                Span::Part { first, bytes: last - first + 1 }
            }
            Self::Suffix(count) if count == 0 || length == 0 => Span::Unsatisfiable,
            Self::Suffix(count) => {
                let bytes = count.min(length);
                Span::Part { first: length - bytes, bytes }
            }
        }
    }
}

/// Reads a run of ASCII digits and nothing else; what exceeds 64 bits is as good as the largest number.
fn digits(text: &str) -> Option<u64> {
    (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_by_the_examples_of_the_rfc() {
        let span = |value, length| ByteRange::parse(value).map(|range| range.span(length));
        let part = |first, bytes| Some(Span::Part { first, bytes });
        assert_eq!(span("bytes=0-499", 10_000), part(0, 500));
        assert_eq!(span("bytes=-500", 10_000), part(9_500, 500));
        assert_eq!(span("bytes=9500-", 10_000), part(9_500, 500));
        assert_eq!(span("bytes=0-", 1), part(0, 1));
        assert_eq!(span("bytes=0-99999999999999999999999", 10), part(0, 10));
        assert_eq!(span("bytes=-99", 10), part(0, 10));
        assert_eq!(span("bytes=10-", 10), Some(Span::Unsatisfiable));
        assert_eq!(span("bytes=-0", 10), Some(Span::Unsatisfiable));
        assert_eq!(span("bytes=0-", 0), Some(Span::Unsatisfiable));
        for ignored in ["bytes=0-1,3-4", "bytes=", "bytes=-", "bytes=5-4", "lines=0-1", "bytes=+1-2", "bytes", "bytes=a-b"] {
            assert_eq!(ByteRange::parse(ignored), None, "{ignored}");
        }
    }
}
