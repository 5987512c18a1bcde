//! How long a server may gather before it sends (or, when it takes in, before it reads again): the knob that trades latency for CPU.
//!
//! Only the bare loops and braidcast have one; other servers run as they are.

use std::fmt;
use std::str::FromStr;

/// A value of braidcast's `latency`, and what the bare loop does to be comparable with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Pace {
    /// Every video frame at once.
    Low,
    /// Every frame as long as there is time to spare.
    Balanced,
    /// As rarely as braidcast may.
    Frugal,
    /// This many milliseconds from one round of sends to the next.
    Millis(u32),
}

/// Braidcast's default of `max_batch_ms`.
const FRUGAL_MS: u32 = 350;
const MAX_MS: u32 = 5_000;

impl Pace {
    /// Milliseconds between the bare loop's rounds; 0: a round for each frame.
    pub fn bare_ms(self) -> u32 {
        match self {
            Self::Low | Self::Balanced => 0,
            Self::Frugal => FRUGAL_MS,
            Self::Millis(millis) => millis,
        }
    }

    /// Braidcast's configuration.
    pub fn setting(self) -> String {
        match self {
            Self::Millis(millis) => format!("play.latency={millis}"),
            word => format!("play.latency={}", String::from(word)),
        }
    }
}

impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Low => f.pad("low"),
            Self::Balanced => f.pad("balanced"),
            Self::Frugal => f.pad("frugal"),
            Self::Millis(millis) => f.pad(&millis.to_string()),
        }
    }
}

impl FromStr for Pace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "low" => Ok(Self::Low),
            "balanced" => Ok(Self::Balanced),
            "frugal" => Ok(Self::Frugal),
            number => match number.parse() {
                Ok(millis) if millis <= MAX_MS => Ok(Self::Millis(millis)),
                _ => Err(format!("must be low, balanced, frugal, or 0 to {MAX_MS} milliseconds")),
            },
        }
    }
}

impl TryFrom<String> for Pace {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Pace> for String {
    fn from(pace: Pace) -> Self {
        pace.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_reads_back_as_it_is_written() {
        for pace in [Pace::Low, Pace::Balanced, Pace::Frugal, Pace::Millis(0), Pace::Millis(350)] {
            assert_eq!(pace.to_string().parse(), Ok(pace));
        }
        assert!("5001".parse::<Pace>().is_err() && "fast".parse::<Pace>().is_err() && "-1".parse::<Pace>().is_err());
    }
}
