//! The knob between delay and CPU: how long the frames of a stream are gathered before they are sent.

use super::units::Span;
use super::value::{Raw, Value};
use braidcast_media::StreamKey;
use serde::{Deserialize, Serialize};

/// The longest time that may be said in numbers.
const MOST: Span = Span::secs(1);

/// What counts more, that frames come soon or that they cost little.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Latency {
    /// Every video frame goes at once.
    Low,
    /// Every video frame goes at once while the worker has time to spare.
    Balanced,
    /// Frames are gathered for `max_batch_ms`.
    Frugal,
    /// Frames are gathered for so long.
    Fixed(Span),
}

impl Value for Latency {
    const ALLOWED: &'static str = "`\"low\"`, `\"balanced\"`, `\"frugal\"` or milliseconds, at most 1000";

    fn read(raw: &Raw) -> Result<Self, String> {
        let span = match raw {
            Raw::Text(text) | Raw::Bare(text) if text == "low" => return Ok(Self::Low),
            Raw::Text(text) | Raw::Bare(text) if text == "balanced" => return Ok(Self::Balanced),
            Raw::Text(text) | Raw::Bare(text) if text == "frugal" => return Ok(Self::Frugal),
            // A plain number is milliseconds here, as everywhere where people talk of the latency of streams.
            Raw::Number(text) | Raw::Bare(text) if text.bytes().all(|b| b.is_ascii_digit()) => {
                Span::ms(text.parse().map_err(|_| "out of range")?)
            }
            Raw::Text(text) | Raw::Bare(text) => text.parse().map_err(|_| "not one of these")?,
            _ => return Err("not one of these".into()),
        };
        if span > MOST { Err("out of range".into()) } else { Ok(Self::Fixed(span)) }
    }

    fn show(&self) -> String {
        match self {
            Self::Low => "\"low\"".into(),
            Self::Balanced => "\"balanced\"".into(),
            Self::Frugal => "\"frugal\"".into(),
            Self::Fixed(span) => span.as_ms().to_string(),
        }
    }
}

impl super::Config {
    /// The latency that a stream is to have.
    pub fn latency(&self, stream: &StreamKey) -> Latency {
        self.vhost.iter().find(|vhost| vhost.name == stream.vhost()).map_or(self.play.latency, |vhost| vhost.latency)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::{Config, load_text};
    use super::*;
    use std::path::Path;

    fn from_file(text: &str) -> Result<Config, String> {
        load_text(Path::new("b.toml"), text).map(|loaded| loaded.config).map_err(|problems| problems.to_string())
    }

    #[test]
    fn names_and_milliseconds_are_read_as_they_are_shown() {
        let read = |value: &str| from_file(&format!("[play]\nlatency = {value}")).map(|config| config.play.latency);
        for (text, latency) in [
            ("\"low\"", Latency::Low),
            ("\"balanced\"", Latency::Balanced),
            ("\"frugal\"", Latency::Frugal),
            ("0", Latency::Fixed(Span::ms(0))),
            ("350", Latency::Fixed(Span::ms(350))),
        ] {
            assert_eq!(read(text).unwrap(), latency);
            assert_eq!(latency.show(), text);
        }
        assert_eq!(read("\"80ms\"").unwrap(), Latency::Fixed(Span::ms(80)));
        assert_eq!(Latency::read(&Raw::Bare("80".into())), Ok(Latency::Fixed(Span::ms(80))));
        for bad in ["\"lowest\"", "1001", "\"80\"", "-1", "true", "2.5"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_virtual_host_may_differ() {
        let config: Config = from_file("[play]\nlatency = \"low\"\n[[vhost]]\nname = \"a.example\"\nlatency = 200").unwrap();
        let of = |vhost: &str| config.latency(&StreamKey::new(vhost, "live", "x").unwrap());
        assert_eq!((of("a.example"), of("b.example")), (Latency::Fixed(Span::ms(200)), Latency::Low));
        assert!(from_file("[[vhost]]\nlatency = 200").is_err(), "it needs a name");
        let twice = "[[vhost]]\nname = \"a.example\"\nlatency = 1\n";
        assert!(from_file(&format!("{twice}{twice}")).unwrap_err().contains("there twice"));
        assert!(from_file("[[vhost]]\nname = \"a/b\"\nlatency = 1").is_err());
    }
}
