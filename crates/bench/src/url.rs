//! Where a stream is, as people write it: `rtmp://host/app/stream` or `http://host:port/app/stream.flv`.

use crate::viewer::Protocol;
use anyhow::Context;
use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;

/// A stream on a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamUrl {
    /// How it is to be watched.
    pub protocol: Protocol,
    /// Host and port as they were written.
    pub host: String,
    /// Its application.
    pub app: String,
    /// Its name, with a question mark and what follows it.
    pub stream: String,
}

const RTMP_PORT: u16 = 1935;
const HTTP_PORT: u16 = 80;

impl FromStr for StreamUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text.split_once("://").ok_or("must begin with rtmp:// or http://")?;
        let (protocol, port) = match scheme {
            "rtmp" => (Protocol::Rtmp, RTMP_PORT),
            "http" => (Protocol::Flv, HTTP_PORT),
            _ => return Err("must begin with rtmp:// or http://".to_owned()),
        };
        let (host, path) = rest.split_once('/').ok_or("names no stream: host/app/stream")?;
        let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
        let path = match protocol {
            Protocol::Rtmp => path,
            Protocol::Flv => path.strip_suffix(".flv").ok_or("an http:// address must end with .flv")?,
        };
        let (app, name) = path.rsplit_once('/').ok_or("names no stream: host/app/stream")?;
        if [host, app, name].contains(&"") || text.contains(char::is_whitespace) {
            return Err("names no stream: host/app/stream".to_owned());
        }
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let host = if has_port { host.to_owned() } else { format!("{host}:{port}") };
        let stream = query.map_or(name.to_owned(), |query| format!("{name}?{query}"));
        Ok(Self { protocol, host, app: app.to_owned(), stream })
    }
}

impl StreamUrl {
    /// The first address of its host. An error if the name is not known.
    pub fn address(&self) -> anyhow::Result<SocketAddr> {
        let mut all = self.host.to_socket_addrs().with_context(|| format!("no address of {}", self.host))?;
        all.next().with_context(|| format!("no address of {}", self.host))
    }
}

/// A stream and how many watch it: `URL` or `URL=COUNT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audience {
    /// What they watch.
    pub url: StreamUrl,
    /// How many; `None`: as many as is said elsewhere.
    pub viewers: Option<usize>,
}

impl FromStr for Audience {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // A token may hold the same sign: only a number after the last one is a count.
        if let Some((url, count)) = text.rsplit_once('=')
            && !url.contains('?')
        {
            let viewers = count.parse().ok().filter(|&count| count > 0).ok_or("what follows = must be a number of viewers")?;
            return Ok(Self { url: url.parse()?, viewers: Some(viewers) });
        }
        Ok(Self { url: text.parse()?, viewers: None })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart() {
        let url: StreamUrl = "rtmp://example.org/live/a?token=b".parse().unwrap();
        let expected = (Protocol::Rtmp, "example.org:1935", "live", "a?token=b");
        assert_eq!((url.protocol, url.host.as_str(), url.app.as_str(), url.stream.as_str()), expected);
        let url: StreamUrl = "http://[::1]:8080/one/two/a.flv".parse().unwrap();
        let expected = (Protocol::Flv, "[::1]:8080", "one/two", "a");
        assert_eq!((url.protocol, url.host.as_str(), url.app.as_str(), url.stream.as_str()), expected);
        assert_eq!(url.address().unwrap(), "[::1]:8080".parse().unwrap());
    }

    #[test]
    fn what_names_no_stream_is_refused() {
        for text in ["", "a", "rtmp://", "rtmp://h", "rtmp://h/a", "rtmp://h/a/", "http://h/a/b", "https://h/a/b.flv", "rtmp://h /a/b"] {
            assert!(text.parse::<StreamUrl>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_count_follows_the_address() {
        let audience: Audience = "http://h/a/b.flv=600".parse().unwrap();
        assert_eq!((audience.viewers, audience.url.stream.as_str()), (Some(600), "b"));
        let audience: Audience = "rtmp://h/a/b?token=5".parse().unwrap();
        assert_eq!((audience.viewers, audience.url.stream.as_str()), (None, "b?token=5"));
        assert!("rtmp://h/a/b=x".parse::<Audience>().is_err() && "rtmp://h/a/b=0".parse::<Audience>().is_err());
    }
}
