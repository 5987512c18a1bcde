//! Which streams a rule is about: `live/*`.

use braidcast_media::StreamKey;
use std::fmt;

/// The longest pattern, in bytes: an app, a slash and a stream.
const MAX_BYTES: usize = 2 * braidcast_media::key::MAX_PART_BYTES + 1;

/// A pattern for `app/stream`: `*` stands for any characters but slashes, `**` for any.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pattern(String);

impl Pattern {
    /// Checks a pattern; the error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MAX_BYTES {
            return Err(format!("longer than {MAX_BYTES} bytes"));
        }
        if text.contains("***") {
            return Err("three stars in a row mean nothing".into());
        }
        if text.contains('{') || text.contains('}') {
            return Err("a pattern has stars, no braces (\"live/*\")".into());
        }
        if text != "**" {
            // What counts is that both parts can be names once the stars are filled in.
            let filled = text.replace('*', "x");
            let (app, stream) = filled.rsplit_once('/').ok_or("not app/stream (\"live/*\", \"live/news\")")?;
            StreamKey::new("v", app, stream).map_err(|error| error.to_string())?;
        }
        Ok(Self(text.to_owned()))
    }

    /// The pattern for all streams.
    pub fn everything() -> Self {
        Self("**".into())
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it stands for one stream only.
    pub fn is_exact(&self) -> bool {
        !self.0.contains('*')
    }

    /// Whether it stands for a stream, of whatever vhost.
    pub fn matches(&self, key: &StreamKey) -> bool {
        matches(self.0.as_bytes(), format!("{}/{}", key.app(), key.stream()).as_bytes())
    }

    /// Whether it stands for some stream of an app, whatever its vhost and name.
    pub fn may_match_in(&self, app: &str) -> bool {
        let Some((of_app, of_stream)) = self.0.rsplit_once('/') else { return true };
        // Two stars can stand for the slash before the stream, and for what is on both sides of it.
        let mut stars = of_stream.match_indices("**").map(|(at, stars)| of_app.len() + 1 + at + stars.len());
        let text = format!("{app}/");
        matches(of_app.as_bytes(), app.as_bytes()) || stars.any(|end| matches(&self.0.as_bytes()[..end], text.as_bytes()))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which places of the text the pattern so far can end at; one pass, whatever the pattern, because names come from strangers.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let mut ends = vec![false; text.len() + 1];
    ends[0] = true;
    let mut at = 0;
    while at < pattern.len() {
        let stars = pattern[at..].iter().take_while(|byte| **byte == b'*').count();
        if stars > 0 {
            for place in 1..=text.len() {
                ends[place] |= ends[place - 1] && (stars > 1 || text[place - 1] != b'/');
            }
            at += stars;
        } else {
            for place in (1..=text.len()).rev() {
                ends[place] = ends[place - 1] && text[place - 1] == pattern[at];
            }
            ends[0] = false;
            at += 1;
        }
    }
    ends[text.len()]
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fits(pattern: &str, app: &str, stream: &str) -> bool {
        Pattern::parse(pattern).unwrap().matches(&StreamKey::new("v", app, stream).unwrap())
    }

    #[test]
    fn stars_stand_for_parts_of_a_level_and_two_for_levels() {
        assert!(fits("live/*", "live", "x") && fits("live/cam*", "live", "cam7") && fits("*/x", "a", "x"));
        assert!(fits("live/x", "live", "x") && !fits("live/x", "live", "xy") && !fits("live/x", "alive", "x"));
        assert!(!fits("live/*", "live/a", "x") && fits("live/**", "live/a", "x") && fits("**", "a/b", "c"));
        assert!(fits("*a*b*/*", "xaxxb", "y") && !fits("*a*b*/*", "xbxa", "y"));
        assert!(fits("live/*x", "live", "xxx"));
    }

    #[test]
    fn what_can_be_no_name_is_refused() {
        for bad in ["", "*", "live", "live/", "/x", "a//b", "a/../b", "live/{stream}", "a/***", "a\\b/x"] {
            assert!(Pattern::parse(bad).is_err(), "{bad}");
        }
        assert!(Pattern::parse(&format!("live/{}", "x".repeat(200))).is_err());
    }

    proptest! {
        #[test]
        fn an_app_is_matched_if_one_of_its_streams_can_be(app in "[ab]{1,2}(/[ab])?", pattern in "[ab*]{1,3}(/[ab*]{1,3}){1,2}") {
            let Ok(pattern) = Pattern::parse(&pattern) else { return Ok(()) };
            // Every name that a pattern with so few letters can need.
            let mut names = vec![String::new()];
            for _ in 0..3 {
                let longer: Vec<String> = names.iter().flat_map(|name| ["", "a", "b"].map(|letter| format!("{name}{letter}"))).collect();
                names = longer;
            }
            let names = names.iter().filter_map(|name| StreamKey::new("v", &app, name).ok());
            let expected = names.into_iter().any(|key| pattern.matches(&key));
            prop_assert_eq!(pattern.may_match_in(&app), expected, "{} {}", pattern, app);
        }

        #[test]
        fn a_name_is_its_own_pattern_and_no_pattern_panics(app in "[a-z/]{1,9}", stream in "[a-z]{1,9}", pattern in "[a*/]{0,20}") {
            if let (Ok(key), Ok(own)) = (StreamKey::new("v", &app, &stream), Pattern::parse(&format!("{app}/{stream}"))) {
                prop_assert!(own.matches(&key) && own.may_match_in(&app));
                if let Ok(pattern) = Pattern::parse(&pattern) {
                    let _ = pattern.matches(&key);
                }
            }
        }
    }
}
