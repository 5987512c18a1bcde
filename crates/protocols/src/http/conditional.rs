//! Conditional requests (RFC 9110 section 13), and the forms of an answer that a client takes.
//!
//! What is served is told apart by a strong entity tag, and where it has a date, by that. Nothing here knows a file.

use std::time::{Duration, UNIX_EPOCH};

/// What a request says of a copy that the client has, and of the forms that it takes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// `If-None-Match`, as sent.
    pub none_match: Option<String>,
    /// `If-Modified-Since`, as sent.
    pub modified_since: Option<String>,
    /// `If-Range`, as sent.
    pub if_range: Option<String>,
    /// Whether the client takes gzip (`Accept-Encoding`).
    pub gzip: bool,
}

/// What tells one version of something that is served from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Validators {
    /// A strong entity tag, quotes included: no other bytes have it.
    pub etag: String,
    /// When it was written, in seconds since 1970; `None`: it may change again within that second.
    pub modified_s: Option<u64>,
}

impl Validators {
    /// The date as HTTP writes it (RFC 9110 section 5.6.7).
    pub fn last_modified(&self) -> Option<String> {
        self.modified_s.map(|seconds| httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds)))
    }
}

impl Conditions {
    /// Whether the client has what it asks for: answer 304. A tag decides where one was sent, else the date does (section 13.2.2).
    pub fn has(&self, validators: &Validators) -> bool {
        match (&self.none_match, &self.modified_since, validators.modified_s) {
            (Some(tags), ..) => tags.split(',').any(|tag| is_tag(tag.trim(), &validators.etag)),
            (None, Some(since), Some(modified_s)) => seconds(since).is_some_and(|since_s| modified_s <= since_s),
            _ => false,
        }
    }

    /// Whether the client says of no version that it has it.
    pub fn are_none(&self) -> bool {
        self.none_match.is_none() && self.modified_since.is_none()
    }

    /// Whether a range of it may be given: the client says of no version that its part is of, or of this one (section 13.1.5).
    pub fn allow_range(&self, validators: &Validators) -> bool {
        match self.if_range.as_deref() {
            None => true,
            Some(tag) if tag.starts_with('"') => tag == validators.etag,
            Some(date) => validators.modified_s.is_some() && seconds(date) == validators.modified_s,
        }
    }
}

/// The weak comparison (section 8.8.3.2): a proxy may have made a strong tag a weak one.
fn is_tag(sent: &str, etag: &str) -> bool {
    sent == "*" || sent.strip_prefix("W/").unwrap_or(sent) == etag
}

fn seconds(date: &str) -> Option<u64> {
    Some(httpdate::parse_http_date(date).ok()?.duration_since(UNIX_EPOCH).ok()?.as_secs())
}

/// Whether the value of `Accept-Encoding` takes gzip (section 12.5.3): it is named, or all are, and not with a weight of 0.
pub(super) fn takes_gzip(value: &str) -> bool {
    let weight = |wanted: &str| {
        value.split(',').find_map(|coding| {
            let mut parts = coding.split(';').map(str::trim);
            let named = parts.next()?.eq_ignore_ascii_case(wanted);
            let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
            named.then(|| weight.map_or(1.0, |weight| weight.parse().unwrap_or(0.0)))
        })
    };
    weight("gzip").or_else(|| weight("x-gzip")).or_else(|| weight("*")).is_some_and(|weight: f32| weight > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const THEN: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const THEN_S: u64 = 784_111_777;

    fn validators() -> Validators {
        Validators { etag: "\"5-a\"".into(), modified_s: Some(THEN_S) }
    }

    fn none_match(tags: &str) -> Conditions {
        Conditions { none_match: Some(tags.into()), ..Conditions::default() }
    }

    fn since(date: &str) -> Conditions {
        Conditions { modified_since: Some(date.into()), ..Conditions::default() }
    }

    #[test]
    fn a_tag_decides_before_a_date() {
        for tags in ["\"5-a\"", "*", "\"x\", \"5-a\"", "W/\"5-a\""] {
            assert!(none_match(tags).has(&validators()), "{tags}");
        }
        for tags in ["", "\"5-b\"", "5-a", "\"5-a", "\"5-A\""] {
            assert!(!none_match(tags).has(&validators()), "{tags}");
            let both = Conditions { modified_since: Some(THEN.into()), ..none_match(tags) };
            assert!(!both.has(&validators()), "{tags}");
        }
    }

    #[test]
    fn a_date_counts_where_there_is_one() {
        assert_eq!(validators().last_modified().as_deref(), Some(THEN));
        assert!(since(THEN).has(&validators()) && since("Sun, 06 Nov 1994 08:49:38 GMT").has(&validators()));
        for date in ["Sun, 06 Nov 1994 08:49:36 GMT", "yesterday", "", "Sun, 06 Nov 1994"] {
            assert!(!since(date).has(&validators()), "{date}");
        }
        assert!(!since(THEN).has(&Validators { modified_s: None, ..validators() }));
        assert!(!Conditions::default().has(&validators()));
    }

    #[test]
    fn a_range_is_of_the_version_that_the_client_has_begun() {
        let of = |if_range: &str| Conditions { if_range: Some(if_range.into()), ..Conditions::default() }.allow_range(&validators());
        assert!(Conditions::default().allow_range(&validators()));
        assert!(of("\"5-a\"") && of(THEN));
        for other in ["\"5-b\"", "W/\"5-a\"", "Sun, 06 Nov 1994 08:49:38 GMT", "", "x"] {
            assert!(!of(other), "{other}");
        }
    }

    #[test]
    fn gzip_is_taken_by_those_who_say_so() {
        for value in ["gzip", "deflate, gzip;q=0.5", "GZIP", "*", "br;q=1.0, *;q=0.1", "gzip ; q=1", "x-gzip"] {
            assert!(takes_gzip(value), "{value}");
        }
        for value in ["", "br", "gzip;q=0", "gzip;q=0.000, *", "identity", "*;q=0", "gzipped", "gzip;q=x"] {
            assert!(!takes_gzip(value), "{value}");
        }
    }
}
