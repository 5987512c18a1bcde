//! Request targets: from the bytes of a request line to a decoded path and a query.
//!
//! A path is percent-decoded exactly once; what is not UTF-8 then, holds a control character, or has a `.` or `..` segment is
//! refused. The query stays as it was sent, because it travels on into playlists and hooks; its values are decoded when asked for.

use super::request::Fault;

/// What a request line's target says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Decoded; starts with `/`, or is `*`.
    pub path: String,
    /// As sent, without the `?`.
    pub query: String,
    /// The authority of an absolute-form target.
    pub authority: Option<String>,
}

/// Takes a target apart (RFC 9112 section 3.2: origin form, absolute form, asterisk form).
pub(super) fn parse(target: &str) -> Result<Target, Fault> {
    if target == "*" {
        return Ok(Target { path: target.to_owned(), query: String::new(), authority: None });
    }
    if target.contains('#') {
        return Err(Fault::Target);
    }
    let (authority, rest) = if target.starts_with('/') { (None, target) } else { absolute(target)? };
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let path = if path.is_empty() { "/" } else { path };
    Ok(Target { path: decode_path(path)?, query: query.to_owned(), authority })
}

/// Splits `http://authority/rest`.
fn absolute(target: &str) -> Result<(Option<String>, &str), Fault> {
    let (scheme, rest) = target.split_once("://").ok_or(Fault::Target)?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return Err(Fault::Target);
    }
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at(end);
    if !is_authority(authority) {
        return Err(Fault::Target);
    }
    Ok((Some(authority.to_owned()), rest))
}

/// A host with or without a port, made of the characters such a thing can have. User names are refused (RFC 9110 section 4.2.4).
pub(super) fn is_authority(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~:[]%!$&'()*+,;=".contains(&b))
}

fn decode_path(path: &str) -> Result<String, Fault> {
    let decoded = percent_decode(path).ok_or(Fault::PathEncoding)?;
    if decoded.contains(|c: char| c.is_control()) || decoded.split(['/', '\\']).any(|segment| matches!(segment, "." | "..")) {
        return Err(Fault::Path);
    }
    Ok(decoded)
}

/// Decodes every `%XX` once. `None` if a `%` is not followed by two hexadecimal digits, or if what comes out is not UTF-8
/// (over-long forms are not).
pub fn percent_decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(if byte == b'%' { hex(bytes.next()?)? << 4 | hex(bytes.next()?)? } else { byte });
    }
    String::from_utf8(out).ok()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

/// The parameters of a query as they were sent: name, value, the whole `name=value` (a parameter without `=` has an empty value).
pub fn parameters(query: &str) -> impl Iterator<Item = (&str, &str, &str)> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (name, value, pair)
    })
}

/// The decoded value of the first parameter called `name`. `None` as well if it cannot be decoded. A `+` stays one: it is part
/// of times such as `12:00+02:00`.
pub fn parameter(query: &str, name: &str) -> Option<String> {
    parameters(query).find(|(n, _, _)| *n == name).and_then(|(_, value, _)| percent_decode(value))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn path(target: &str) -> Result<String, Fault> {
        parse(target).map(|target| target.path)
    }

    #[test]
    fn paths_are_decoded_once() {
        assert_eq!(path("/live/a%20b.flv").unwrap(), "/live/a b.flv");
        assert_eq!(path("/live/%252e%252e/x").unwrap(), "/live/%2e%2e/x");
        assert_eq!(path("/live/%E4%BD%A0.flv").unwrap(), "/live/你.flv");
        assert_eq!(path("/live/你.flv").unwrap(), "/live/你.flv");
    }

    #[test]
    fn path_tricks_are_refused() {
        for target in [
            "/../x",
            "/live/..",
            "/a/./b",
            "/%2e%2e/x",
            "/a%2F..%2Fb",
            "/a\\..\\b",
            "/%00",
            "/a%0d%0ab",
            "/%c0%ae%c0%ae/",
            "/%c1%81",
            "/%e0%80%af",
            "/%ff",
            "/%",
            "/%4",
            "/%zz",
            "/%+1",
            "/a#b",
            "a/b",
            "",
            "ftp://h/x",
            "http:///x",
            "http://u@h/x",
            "http://h\u{e4}/x",
            "/%ed%a0%80",
        ] {
            assert!(parse(target).is_err(), "{target:?}");
        }
    }

    #[test]
    fn absolute_targets_name_their_host() {
        let target = parse("HTTP://a.example:8080/live/x.flv?token=%41").unwrap();
        assert_eq!((target.path.as_str(), target.query.as_str()), ("/live/x.flv", "token=%41"));
        assert_eq!(target.authority.as_deref(), Some("a.example:8080"));
        assert_eq!(path("http://h?x=/../y").unwrap(), "/");
        assert_eq!(path("*").unwrap(), "*");
    }

    #[test]
    fn parameters_are_found_and_decoded() {
        let query = "a=1&&b&vhost=x%2ey&vhost=z&start=12:00+02:00";
        assert_eq!(parameter(query, "vhost").as_deref(), Some("x.y"));
        assert_eq!(parameter(query, "b").as_deref(), Some(""));
        assert_eq!(parameter(query, "start").as_deref(), Some("12:00+02:00"));
        assert_eq!(parameter(query, "c"), None);
        assert_eq!(parameters(query).count(), 5);
    }
}
