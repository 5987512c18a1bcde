//! Where streams go to and come from: URLs with placeholders for the stream's name, and what they come to for one stream.
//!
//! The query of such a URL, and a last level that is no stream's name, are secrets of the operator's: [`Endpoint::shown`] leaves them out, and
//! nothing else of an endpoint is ever logged or reported.

use braidcast_media::StreamKey;
use braidcast_protocols::rtmp::url::Target;
use std::fmt;
use std::net::IpAddr;

/// The longest URL, in bytes.
const MAX_BYTES: usize = 1_024;
/// What a URL may hold in braces.
const PLACEHOLDERS: [&str; 3] = ["stream", "app", "vhost"];

/// How a stream travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scheme {
    /// `rtmp://`.
    Rtmp,
    /// `http://….flv`.
    HttpFlv,
    /// `http://….m3u8`, or `https://`: an external program fetches it.
    Hls,
}

/// A URL with placeholders.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Template(String);

/// The URL for one stream, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// How.
    pub scheme: Scheme,
    /// Name or address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// RTMP: what a client asks for.
    pub target: Option<Target>,
    /// HTTP: host and port as in the URL.
    pub authority: String,
    /// HTTP: path and query, percent-encoded.
    pub path: String,
    /// The whole URL. Holds secrets.
    pub url: String,
    /// The URL without them, for people.
    pub shown: String,
    /// What of it is secret.
    secrets: Vec<String>,
}

impl Template {
    /// Checks a URL that streams are pushed to.
    pub fn parse_target(text: &str) -> Result<Self, String> {
        let template = Self::parse(text)?;
        match template.example()?.scheme {
            Scheme::Rtmp => Ok(template),
            Scheme::HttpFlv | Scheme::Hls => Err("streams are pushed by rtmp:// only".into()),
        }
    }

    /// Checks a URL that streams come from.
    pub fn parse_source(text: &str) -> Result<Self, String> {
        let template = Self::parse(text)?;
        template.example()?;
        Ok(template)
    }

    fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MAX_BYTES {
            return Err(format!("longer than {MAX_BYTES} bytes"));
        }
        if let Some(bad) = text.chars().find(|c| c.is_control() || c.is_whitespace() || matches!(c, '"' | '<' | '>' | '\\' | '`' | '#')) {
            return Err(format!("{bad:?} has no place in a URL"));
        }
        check_braces(text)?;
        Ok(Self(text.to_owned()))
    }

    /// As it was written, secrets and all.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether an external program is needed to fetch it.
    pub fn is_hls(&self) -> bool {
        self.example().is_ok_and(|endpoint| endpoint.scheme == Scheme::Hls)
    }

    /// The port that this server connects to; `None` if another program does.
    pub fn port(&self) -> Option<u16> {
        self.example().ok().filter(|endpoint| endpoint.scheme != Scheme::Hls).map(|endpoint| endpoint.port)
    }

    /// Whether different streams get different URLs.
    pub fn has_placeholders(&self) -> bool {
        self.0.contains('{')
    }

    /// The endpoint of some stream, which shows whether the URL is one.
    fn example(&self) -> Result<Endpoint, String> {
        let key = StreamKey::new("v", "app", "stream").map_err(|error| error.to_string())?;
        self.for_stream(&key)
    }

    /// The URL for a stream. The error says why there is none: for an HTTP address names are percent-encoded, but a name with a question mark
    /// cannot be said over RTMP.
    pub fn for_stream(&self, key: &StreamKey) -> Result<Endpoint, String> {
        let (base, query) = self.0.split_once('?').map_or((self.0.as_str(), None), |(base, query)| (base, Some(query)));
        let (scheme, rest) = base.split_once("://").ok_or("no scheme (rtmp://…, http://…)")?;
        let (authority, path) = rest.split_once('/').ok_or("no path")?;
        if authority.contains(['@', '{']) {
            return Err("only a host and a port can stand between the slashes: no name, password or placeholder".into());
        }
        let scheme = scheme_of(scheme, path)?;
        let fill = |text: &str| fill(text, key, scheme);
        let query = query.map_or(Ok(String::new()), |query| Ok::<_, String>(format!("?{}", fill(query)?)))?;
        let filled = fill(path)?;
        let (host, port) = host_and_port(
            authority,
            if scheme == Scheme::Rtmp {
                1_935
            } else if self.0.starts_with("https") {
                443
            } else {
                80
            },
        )?;
        let url = format!("{}://{authority}/{filled}{query}", self.0.split("://").next().unwrap_or_default());
        let target = match scheme {
            Scheme::Rtmp => Some(Target::parse(&url).ok_or("not rtmp://host[:port]/app/stream")?),
            Scheme::HttpFlv | Scheme::Hls => None,
        };
        let mut secrets = vec![query.trim_start_matches('?').to_owned()];
        if !is_name(path) {
            secrets.extend(filled.rsplit('/').next().map(str::to_owned));
        }
        secrets.retain(|secret| !secret.is_empty());
        let shown = shown(&url[..url.len() - query.len()], path);
        Ok(Endpoint { scheme, host, port, target, authority: authority.to_owned(), path: format!("/{filled}{query}"), url, shown, secrets })
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Endpoint {
    /// Where an answer of an HTTP server sends the client to: another `http://` address, or a path of the same server.
    pub fn redirected(&self, location: &str) -> Result<Self, String> {
        let url = match location {
            absolute if absolute.contains("://") => absolute.to_owned(),
            path if path.starts_with('/') => format!("http://{}{path}", self.authority),
            _ => return Err("it sends us to an address that is none".into()),
        };
        let template = Template::parse(&url.replace(['{', '}'], ""))?;
        let (scheme, rest) = template.0.split_once("://").unwrap_or_default();
        if scheme != "http" {
            return Err(format!("it sends us to {scheme}://, which is not spoken here"));
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (host, port) = host_and_port(authority, 80)?;
        let (authority, path, shown) = (authority.to_owned(), format!("/{path}"), format!("http://{authority}/…"));
        let secrets = self.secrets.clone();
        Ok(Self { scheme: Scheme::HttpFlv, host, port, target: None, authority, path, url: template.0.clone(), shown, secrets })
    }

    /// A text of another's without the secrets that he may have repeated.
    pub fn scrub(&self, text: &str) -> String {
        self.secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret, "…"))
    }

    /// Whether both are the same place on the same server, as far as names tell.
    pub fn is_server_of(&self, other: &Self) -> bool {
        self.host.eq_ignore_ascii_case(&other.host) && self.port == other.port
    }
}

/// Braces that are closed and hold what there is.
fn check_braces(text: &str) -> Result<(), String> {
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        let (open, after) = (rest.as_bytes()[at] == b'{', &rest[at + 1..]);
        let (name, after) = open.then(|| after.split_once('}')).flatten().ok_or("a brace without its other half")?;
        if !PLACEHOLDERS.contains(&name) {
            let near = |known: &&str| strsim::normalized_damerau_levenshtein(name, known);
            let nearest = PLACEHOLDERS.into_iter().max_by(|a, b| near(a).total_cmp(&near(b))).unwrap_or("stream");
            return Err(format!("unknown placeholder {{{name}}}; did you mean {{{nearest}}}?"));
        }
        rest = after;
    }
    Ok(())
}

fn scheme_of(scheme: &str, path: &str) -> Result<Scheme, String> {
    match scheme {
        "rtmp" => Ok(Scheme::Rtmp),
        "rtmps" => Err("rtmps:// is not spoken yet: TLS to other servers is missing".into()),
        "http" if path.ends_with(".flv") => Ok(Scheme::HttpFlv),
        "https" if path.ends_with(".flv") => {
            Err("https:// is not spoken yet for HTTP-FLV: TLS to other servers is missing (https://….m3u8 works, through ffmpeg)".into())
        }
        "http" | "https" if path.ends_with(".m3u8") => Ok(Scheme::Hls),
        "http" | "https" => Err("an HTTP address ends with .flv or .m3u8".into()),
        other => Err(format!("{other}:// is not spoken; there are rtmp://, http://….flv and http://….m3u8")),
    }
}

fn host_and_port(authority: &str, default: u16) -> Result<(String, u16), String> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or("a bracket without its other half")?;
            (host, port.strip_prefix(':'))
        }
        None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
    };
    if host.is_empty() {
        return Err("no host".into());
    }
    if authority.starts_with('[') && host.parse::<IpAddr>().is_err() {
        return Err(format!("{host:?} is no IPv6 address"));
    }
    let port = port.map_or(Ok(default), |port| port.parse().map_err(|_| format!("{port:?} is not a port (1 to 65535)")))?;
    if port == 0 { Err("0 is not a port (1 to 65535)".into()) } else { Ok((host.to_owned(), port)) }
}

fn fill(text: &str, key: &StreamKey, scheme: Scheme) -> Result<String, String> {
    let mut filled = text.to_owned();
    for (name, value) in [("{stream}", key.stream()), ("{app}", key.app()), ("{vhost}", key.vhost())] {
        if !filled.contains(name) {
            continue;
        }
        let value = match scheme {
            Scheme::Rtmp if value.contains(['?', '{', '}']) => return Err(format!("the name {value:?} cannot be said over RTMP")),
            Scheme::Rtmp => value.to_owned(),
            Scheme::HttpFlv | Scheme::Hls => percent_encode(value),
        };
        filled = filled.replace(name, &value);
    }
    Ok(filled)
}

/// Bytes that could mean something else in a path or a query as `%XX` (RFC 3986 §2.3 says which never do). Slashes stay: apps have levels.
fn percent_encode(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'/');
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// A URL without its query, and without a last level that is not the stream's own name: platforms have their keys there.
fn shown(url: &str, path: &str) -> String {
    match url.rsplit_once('/') {
        Some((front, _)) if !is_name(path) => format!("{front}/…"),
        _ => url.to_owned(),
    }
}

/// Whether the last level of a path is a stream's name rather than a key.
fn is_name(path: &str) -> bool {
    let last = path.rsplit('/').next().unwrap_or_default();
    last.contains("{stream}") || last.ends_with(".flv") || last.ends_with(".m3u8")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(stream: &str) -> StreamKey {
        StreamKey::new("v.example", "live/a", stream).unwrap()
    }

    #[test]
    fn placeholders_are_filled_in() {
        let template = Template::parse_target("rtmp://h:1936/{app}/{stream}?key=s3cret&v={vhost}").unwrap();
        let endpoint = template.for_stream(&key("x")).unwrap();
        let target = endpoint.target.as_ref().unwrap();
        assert_eq!((target.app.as_str(), target.stream.as_str()), ("live/a", "x?key=s3cret&v=v.example"));
        assert_eq!((endpoint.host.as_str(), endpoint.port, endpoint.shown.as_str()), ("h", 1_936, "rtmp://h:1936/live/a/x"));
        assert!(template.for_stream(&key("a?b")).is_err());
        let http = Template::parse_source("http://[::1]/o/{stream}.flv?t=1").unwrap().for_stream(&key("a b?\u{e9}")).unwrap();
        assert_eq!((http.path.as_str(), http.host.as_str(), http.port), ("/o/a%20b%3F%C3%A9.flv?t=1", "::1", 80));
        assert_eq!(http.shown, "http://[::1]/o/a%20b%3F%C3%A9.flv");
        assert_eq!(Template::parse_source("https://h/x.m3u8").unwrap().for_stream(&key("x")).unwrap().port, 443);
    }

    #[test]
    fn keys_of_platforms_are_not_shown() {
        let shown = |url| Template::parse_target(url).unwrap().for_stream(&key("x")).unwrap().shown;
        assert_eq!(shown("rtmp://a.example/live2/abcd-key"), "rtmp://a.example/live2/…");
        assert_eq!(shown("rtmp://a.example/app/{stream}?k=1"), "rtmp://a.example/app/x");
        let endpoint = Template::parse_target("rtmp://a.example/live2/abcd-key?t=s3cret").unwrap().for_stream(&key("x")).unwrap();
        assert_eq!(endpoint.scrub("no such key: abcd-key?t=s3cret"), "no such key: …?…");
    }

    #[test]
    fn what_is_not_spoken_is_said() {
        let target = |url| Template::parse_target(url).unwrap_err();
        let source = |url| Template::parse_source(url).unwrap_err();
        assert!(target("rtmps://h/a/x").contains("TLS") && source("https://h/x.flv").contains("TLS"));
        assert!(target("http://h/a/x.flv").contains("rtmp:// only"));
        assert!(target("rtmp://h/a/{strem}").contains("did you mean {stream}?"));
        assert!(target("rtmp://u:p@h/a/x").contains("password"));
        for bad in [
            "h/a/x",
            "rtmp://h",
            "rtmp://h/a",
            "rtmp:///a/x",
            "rtmp://h:0/a/x",
            "rtmp://h:x/a/b",
            "rtmp://h/a/{stream",
            "rtmp://h/a b/x",
            "rtmp://{app}/a/x",
        ] {
            assert!(Template::parse_target(bad).is_err(), "{bad}");
        }
        for bad in ["http://h/x.ts", "ftp://h/x.flv", "http://h", "srt://h/x.flv"] {
            assert!(Template::parse_source(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn redirections_stay_with_plain_http() {
        let from = Template::parse_source("http://h:81/x.flv").unwrap().for_stream(&key("x")).unwrap();
        let to = from.redirected("/other/x.flv?k=1").unwrap();
        assert_eq!((to.host.as_str(), to.port, to.path.as_str()), ("h", 81, "/other/x.flv?k=1"));
        assert_eq!(from.redirected("http://edge/y?z").unwrap().authority, "edge");
        for bad in ["https://h/x", "x.flv", "http://u@/x\r\nA: b", "http://h/ x"] {
            assert!(from.redirected(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(rtmp|http)?(://)?[a-z:/?@\\[\\]{}.*%]{0,30}", stream in "[a-z?{} ]{1,9}", location in "\\PC{0,20}") {
            let key = StreamKey::new("v", "a", &stream).unwrap();
            for template in [Template::parse_target(&text), Template::parse_source(&text)].into_iter().flatten() {
                if let Ok(endpoint) = template.for_stream(&key) {
                    let _ = endpoint.redirected(&location);
                }
            }
        }
    }
}
