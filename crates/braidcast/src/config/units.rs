//! The two quantities that the configuration is full of: a [`Span`] of time and a [`Size`] in bytes.
//!
//! Both are read from what a person writes (`2.5`, `"500ms"`, `"16MiB"`) and shown in the same form; neither is ever a bare number in code.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::str::FromStr;

/// A length of time, in whole milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Span(u64);

/// A number of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Size(u64);

/// Longest first within one last letter, so that `ms` is not taken for `s`.
const SPAN_UNITS: &[(&str, u64)] = &[("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

const SIZE_UNITS: &[(&str, u64)] =
    &[("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("kB", 1_000), ("MB", 1_000_000), ("GB", 1_000_000_000), ("B", 1)];

impl Span {
    /// So many milliseconds.
    pub const fn ms(ms: u64) -> Self {
        Self(ms)
    }

    /// So many seconds.
    pub const fn secs(seconds: u64) -> Self {
        Self(seconds * 1_000)
    }

    /// In milliseconds.
    pub const fn as_ms(self) -> u64 {
        self.0
    }
}

impl Size {
    /// So many bytes.
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// So many times 1,024 bytes.
    pub const fn kib(kib: u64) -> Self {
        Self(kib << 10)
    }

    /// So many times 1,048,576 bytes.
    pub const fn mib(mib: u64) -> Self {
        Self(mib << 20)
    }

    /// In bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for Span {
    type Err = String;

    /// `10` and `2.5` are seconds; the units are `ms`, `s`, `m`, `h`, `d`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) =
            split_unit(text, SPAN_UNITS).map(|(n, u)| (n, u.unwrap_or(1_000))).ok_or("not a duration (10, 2.5, \"500ms\", \"2m\")")?;
        scale(number, unit).map(Self).map_err(|fault| match fault {
            ScaleFault::NoNumber => "not a duration (10, 2.5, \"500ms\", \"2m\")".into(),
            ScaleFault::TooFine => "finer than a millisecond".into(),
            ScaleFault::TooLarge => "longer than any duration that can be counted".into(),
        })
    }
}

impl FromStr for Size {
    type Err = String;

    /// A plain number is bytes; the units are `B`, `kB`, `MB`, `GB` (thousands) and `KiB`, `MiB`, `GiB` (1,024).
    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) =
            split_unit(text, SIZE_UNITS).map(|(n, u)| (n, u.unwrap_or(1))).ok_or("not a size (65536, \"64KiB\", \"16MiB\", \"1GB\")")?;
        scale(number, unit).map(Self).map_err(|fault| match fault {
            ScaleFault::NoNumber => "not a size (65536, \"64KiB\", \"16MiB\", \"1GB\")".into(),
            ScaleFault::TooFine => "not a whole number of bytes".into(),
            ScaleFault::TooLarge => "larger than any size that can be counted".into(),
        })
    }
}

impl fmt::Display for Span {
    /// In the largest unit that divides it: `2m`, `90s`, `1500ms`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.pad("0s"),
            ms => f.pad(&in_largest_unit(ms, SPAN_UNITS)),
        }
    }
}

impl fmt::Display for Size {
    /// In the largest power of 1,024 that divides it: `16MiB`, `1500B`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.pad("0B"),
            bytes => {
                let units: Vec<_> = SIZE_UNITS.iter().copied().filter(|(_, unit)| unit.is_power_of_two()).collect();
                f.pad(&in_largest_unit(bytes, &units))
            }
        }
    }
}

fn in_largest_unit(quantity: u64, units: &[(&str, u64)]) -> String {
    let (name, unit) =
        units.iter().filter(|(_, unit)| quantity.is_multiple_of(*unit)).max_by_key(|(_, unit)| *unit).expect("1 is a unit, and divides");
    format!("{}{name}", quantity / unit)
}

/// The number's text and the unit's factor, if a unit is there. `None`: the text after the number is no unit.
fn split_unit<'t>(text: &'t str, units: &[(&str, u64)]) -> Option<(&'t str, Option<u64>)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.' && c != '_').unwrap_or(text.len());
    let (number, unit) = (&text[..end], text[end..].trim_start());
    if unit.is_empty() {
        return Some((number, None));
    }
    units.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).map(|(_, factor)| (number, Some(*factor)))
}

enum ScaleFault {
    NoNumber,
    TooFine,
    TooLarge,
}

/// `number` (digits, at most one point) times `unit`, exactly: floating point would make 0.1 s of 99 ms.
fn scale(number: &str, unit: u64) -> Result<u64, ScaleFault> {
    let digits = number.replace('_', "");
    let (whole, fraction) = digits.split_once('.').unwrap_or((&digits, ""));
    if whole.is_empty() || (digits.contains('.') && fraction.is_empty()) || fraction.contains('.') {
        return Err(ScaleFault::NoNumber);
    }
    let fraction = fraction.trim_end_matches('0');
    let parse = |text: &str| text.parse::<u128>().map_err(|_| ScaleFault::TooLarge);
    let power = u32::try_from(fraction.len()).ok().and_then(|n| 10_u128.checked_pow(n)).ok_or(ScaleFault::TooFine)?;
    let part = if fraction.is_empty() { 0 } else { parse(fraction)? };
    let scaled = parse(whole)?
        .checked_mul(power)
        .and_then(|w| w.checked_add(part))
        .and_then(|w| w.checked_mul(u128::from(unit)))
        .ok_or(ScaleFault::TooLarge)?;
    if scaled % power != 0 {
        return Err(ScaleFault::TooFine);
    }
    u64::try_from(scaled / power).map_err(|_| ScaleFault::TooLarge)
}

macro_rules! as_text {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    };
}

as_text!(Span);
as_text!(Size);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn spans_are_read_as_people_write_them() {
        for (text, ms) in [
            ("10", 10_000),
            ("2.5", 2_500),
            ("500ms", 500),
            ("10s", 10_000),
            ("2m", 120_000),
            ("1h", 3_600_000),
            ("0.1", 100),
            ("1.5 h", 5_400_000),
            ("0", 0),
        ] {
            assert_eq!(text.parse::<Span>(), Ok(Span::ms(ms)), "{text}");
        }
        for text in ["", "s", "-1", "1w", "1 2", ".5", "5.", "1.2.3", "1e3", "inf", "0.1ms", "99999999999999999999h"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in
            [("65536", 65_536), ("16MiB", 16 << 20), ("64 KiB", 64 << 10), ("1GB", 1_000_000_000), ("1.5kib", 1_536), ("7B", 7)]
        {
            assert_eq!(text.parse::<Size>(), Ok(Size::new(bytes)), "{text}");
        }
        for text in ["", "MiB", "-1", "16M", "0.5B", "1TB", "99999999999GiB"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(quantity: u64) {
            prop_assert_eq!(Span::ms(quantity).to_string().parse(), Ok(Span::ms(quantity)));
            prop_assert_eq!(Size::new(quantity).to_string().parse(), Ok(Size::new(quantity)));
        }

        #[test]
        fn no_text_panics(text: String) {
            let _ = (text.parse::<Span>(), text.parse::<Size>());
        }
    }
}
