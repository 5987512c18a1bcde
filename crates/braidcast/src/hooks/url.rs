//! The URL of a hook server, taken apart. Its query may hold a token: it is never shown, not by `Debug` either.

use crate::config::HIDDEN;
use std::fmt;
use std::net::IpAddr;

/// The longest URL, in bytes.
const MAX_BYTES: usize = 1_024;

/// An `http://` or `https://` URL.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Url(String);

/// Where such a URL leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Whether TLS is spoken there.
    pub tls: bool,
    /// Name or address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Host and port as in the URL, for the header `Host`.
    pub authority: String,
}

impl Url {
    /// Checks one; the error says what is wrong with it, and repeats nothing of it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MAX_BYTES {
            return Err(format!("longer than {MAX_BYTES} bytes"));
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'<' | b'>' | b'\\' | b'`' | b'#' | b'{' | b'}')) {
            return Err("it holds a character that has no place in a URL (write it as %XX)".into());
        }
        if text.ends_with(&format!("?{HIDDEN}")) {
            return Err("its query stands for a secret where one is shown; it is none".into());
        }
        let url = Self(text.to_owned());
        url.take_apart()?;
        Ok(url)
    }

    /// As it was written, secrets and all.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// For people: without its query.
    pub fn shown(&self) -> String {
        match self.0.split_once('?') {
            Some((before, _)) => format!("{before}?{HIDDEN}"),
            None => self.0.clone(),
        }
    }

    /// Where it leads.
    pub fn place(&self) -> Place {
        // Every value was checked, but for the default one, which no hook can have.
        self.take_apart().unwrap_or(Place { tls: false, host: String::new(), port: 0, authority: String::new() })
    }

    /// Path and query.
    pub fn target(&self) -> String {
        let (_, rest) = self.scheme_and_rest();
        match rest.find(['/', '?']) {
            Some(at) if rest[at..].starts_with('/') => rest[at..].to_owned(),
            Some(at) => format!("/{}", &rest[at..]),
            None => "/".to_owned(),
        }
    }

    fn scheme_and_rest(&self) -> (&str, &str) {
        self.0.split_once("://").unwrap_or(("", &self.0))
    }

    fn take_apart(&self) -> Result<Place, String> {
        let (scheme, rest) = self.scheme_and_rest();
        let tls = match scheme {
            "http" => false,
            "https" => true,
            _ => return Err("it does not begin with http:// or https://".into()),
        };
        let authority = &rest[..rest.find(['/', '?']).unwrap_or(rest.len())];
        if authority.contains('@') {
            return Err("a name or password has no place before the host".into());
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(inner) => {
                let (host, port) = inner.split_once(']').ok_or("a bracket without its other half")?;
                host.parse::<IpAddr>().map_err(|_| "what is in brackets is no IPv6 address")?;
                let port = if port.is_empty() { None } else { Some(port.strip_prefix(':').ok_or("after the bracket comes :port")?) };
                (host, port)
            }
            None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
        };
        if host.is_empty() {
            return Err("no host".into());
        }
        let port = match port {
            Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or("its port is none (1 to 65535)")?,
            None if tls => 443,
            None => 80,
        };
        Ok(Place { tls, host: host.to_owned(), port, authority: authority.to_owned() })
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.shown())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn place(text: &str) -> (bool, String, u16, String) {
        let url = Url::parse(text).unwrap();
        let place = url.place();
        (place.tls, place.host, place.port, url.target())
    }

    #[test]
    fn urls_are_taken_apart() {
        assert_eq!(place("http://h/api?x=1"), (false, "h".into(), 80, "/api?x=1".into()));
        assert_eq!(place("https://h.example"), (true, "h.example".into(), 443, "/".into()));
        assert_eq!(place("http://[::1]:8085?x"), (false, "::1".into(), 8_085, "/?x".into()));
        assert_eq!(Url::parse("http://h:1/").unwrap().place().authority, "h:1");
    }

    #[test]
    fn what_is_no_url_of_a_hook_server_is_refused() {
        for bad in ["", "h", "ftp://h", "http://", "http:///x", "http://h:0/", "http://h:x", "http://u:p@h/", "http://[::1/", "http://[x]/"]
        {
            assert!(Url::parse(bad).is_err(), "{bad}");
        }
        for bad in ["http://h/ x", "http://h/\r\nX: y", "http://h/#x", "http://h/é"] {
            assert!(Url::parse(bad).is_err(), "{bad}");
        }
        assert!(Url::parse(&format!("http://h/{}", "x".repeat(MAX_BYTES))).is_err());
    }

    #[test]
    fn the_query_is_never_shown() {
        let url = Url::parse("https://h/x?token=canary").unwrap();
        assert_eq!(url.shown(), "https://h/x?***");
        assert!(!format!("{url:?}").contains("canary") && Url::parse(&url.shown()).is_err());
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(https?)?(://)?[a-z:/?@\\[\\]{}.%é]{0,30}") {
            if let Ok(url) = Url::parse(&text) {
                prop_assert!(!url.place().host.is_empty() && url.target().starts_with('/'));
            }
        }
    }
}
