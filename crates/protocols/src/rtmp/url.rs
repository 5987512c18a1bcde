//! Which stream a client means: vhost, app and stream from `tcUrl`, `app` and the stream name, in all the forms SRS takes.
//!
//! Says nothing about whether the stream exists or may be used.

use braidcast_media::{KeyError, StreamKey, vhost};

/// A client's wish, resolved.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Resolved {
    /// The stream.
    pub key: StreamKey,
    /// The query strings of stream, app and `tcUrl`, joined with `&` without repeats, without a leading `?`.
    pub params: String,
}

/// Resolves what a client sent: `tcUrl` and `app` of its `connect`, and the name in its `publish` or `play`.
///
/// The vhost is the `vhost=` or `domain=` of the stream's, the app's or the `tcUrl`'s query (in this order), else
/// `app...vhost...v`, else the host of `tcUrl`; an IP address or a name without a dot is the default vhost. `_definst_` is
/// dropped. The app takes every level up to the last slash, wherever the client drew the line between app and stream.
pub fn resolve(tc_url: &str, app: &str, stream: &str) -> Result<Resolved, KeyError> {
    let (tc_base, tc_query) = split_query(tc_url);
    let (host, tc_path) = split_host(tc_base);
    let (app, app_query) = split_query(app);
    let (app, dotted_query) = split_dotted(if app.trim_matches('/').is_empty() { tc_path } else { app });
    let (stream, stream_query) = split_query(stream);

    let mut params = Vec::new();
    for query in [stream_query, app_query, dotted_query.as_str(), tc_query] {
        // The app is the end of tcUrl, so that most queries come twice.
        if !query.is_empty() && !params.contains(&query) {
            params.push(query);
        }
    }
    let named = params.iter().find_map(|query| parameter(query, "vhost").or_else(|| parameter(query, "domain")));
    let vhost = vhost::of_host(named.unwrap_or(host));

    let path = format!("{app}/{stream}");
    let mut levels: Vec<&str> = path.split('/').filter(|level| !level.is_empty() && *level != "_definst_").collect();
    // With one level it is a stream without an app, or an app without a stream; either way a part is empty.
    let stream = if stream.trim_matches('/').is_empty() { "" } else { levels.pop().unwrap_or_default() };
    Ok(Resolved { key: StreamKey::new(&vhost, &levels.join("/"), stream)?, params: params.join("&") })
}

fn split_query(text: &str) -> (&str, &str) {
    text.split_once('?').unwrap_or((text, ""))
}

/// Host (with port) and path of `scheme://host/path`.
fn split_host(url: &str) -> (&str, &str) {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split_once('/').unwrap_or((rest, ""))
}

/// `app...vhost...v` means `app?vhost=v`, for encoders that cannot send a question mark.
fn split_dotted(app: &str) -> (&str, String) {
    let mut parts = app.split("...");
    let app = parts.next().unwrap_or_default();
    let words: Vec<&str> = parts.collect();
    (app, words.chunks(2).map(|pair| pair.join("=")).collect::<Vec<_>>().join("&"))
}

fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.into_iter().find_map(|(key, value)| (key == name && !value.is_empty()).then_some(value))
}

/// An RTMP URL taken apart the way encoders do it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Name or address, without brackets.
    pub host: String,
    /// 1935 if the URL names none.
    pub port: u16,
    /// All levels of the path but the last.
    pub app: String,
    /// The last level, with the query.
    pub stream: String,
    /// What a client says in `connect`: the URL up to the app.
    pub tc_url: String,
}

impl Target {
    /// Takes `rtmp://host[:port]/app/stream[?query]` apart; `None` for anything else.
    pub fn parse(url: &str) -> Option<Self> {
        let (base, query) = split_query(url);
        let (authority, path) = base.strip_prefix("rtmp://")?.split_once('/')?;
        let (app, stream) = path.rsplit_once('/')?;
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']')?;
                (host, port.strip_prefix(':'))
            }
            None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
        };
        let port = port.map_or(Some(1935), |port| port.parse().ok())?;
        let whole = !host.is_empty() && !app.is_empty() && !stream.is_empty();
        whole.then(|| Self {
            host: host.to_owned(),
            port,
            app: app.to_owned(),
            stream: if query.is_empty() { stream.to_owned() } else { format!("{stream}?{query}") },
            tc_url: format!("rtmp://{authority}/{app}"),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use braidcast_media::key::DEFAULT_VHOST;
    use proptest::prelude::*;

    fn resolved(tc_url: &str, app: &str, stream: &str) -> (String, String) {
        let resolved = resolve(tc_url, app, stream).unwrap();
        (format!("{}|{}|{}", resolved.key.vhost(), resolved.key.app(), resolved.key.stream()), resolved.params)
    }

    #[track_caller]
    fn check(tc_url: &str, app: &str, stream: &str, expected: &str, params: &str) {
        assert_eq!(resolved(tc_url, app, stream), (expected.replace('*', DEFAULT_VHOST), params.to_owned()), "{tc_url} {app} {stream}");
    }

    #[test]
    fn hosts_give_vhosts() {
        check("rtmp://localhost/live", "live", "x", "*|live|x", "");
        check("rtmp://10.0.0.1:1935/live", "live", "x", "*|live|x", "");
        check("rtmp://[::1]:1935/live", "live", "x", "*|live|x", "");
        check("rtmp://Cdn.Example.com:1936/live", "live", "x", "cdn.example.com|live|x", "");
        check("", "live", "x", "*|live|x", "");
    }

    #[test]
    fn queries_name_vhosts_wherever_they_stand() {
        check("rtmp://h/live", "live", "x?vhost=a.b", "a.b|live|x", "vhost=a.b");
        check("rtmp://h/live", "live", "x?token=1&domain=a.b", "a.b|live|x", "token=1&domain=a.b");
        check("rtmp://h/live?vhost=a.b", "live?vhost=a.b", "x", "a.b|live|x", "vhost=a.b");
        check("rtmp://h/live?vhost=a.b", "live", "x?token=2", "a.b|live|x", "token=2&vhost=a.b");
        check("rtmp://c.d/live?vhost=a.b", "live?vhost=a.b", "x?vhost=e.f", "e.f|live|x", "vhost=e.f&vhost=a.b");
        check("rtmp://h/live...vhost...a.b", "live...vhost...a.b", "x", "a.b|live|x", "vhost=a.b");
        check("rtmp://c.d/live", "live", "x?vhost=__defaultVhost__", "*|live|x", "vhost=__defaultVhost__");
    }

    #[test]
    fn apps_have_levels() {
        check("rtmp://h/a/b", "a/b", "x", "*|a/b|x", "");
        check("rtmp://h/a/b", "a/b", "c/x", "*|a/b/c|x", "");
        check("rtmp://h/a", "a", "b/x?k=1/2", "*|a/b|x", "k=1/2");
        check("rtmp://h/live/_definst_", "live/_definst_", "x", "*|live|x", "");
        check("rtmp://h/live/", "live/", "/x", "*|live|x", "");
        check("rtmp://h/live", "", "x", "*|live|x", "");
    }

    #[test]
    fn what_is_no_name_is_refused() {
        assert_eq!(resolve("rtmp://h/live", "live", ""), Err(KeyError::Empty("stream")));
        assert_eq!(resolve("rtmp://h/live", "live", "?token=1"), Err(KeyError::Empty("stream")));
        assert_eq!(resolve("rtmp://h", "", "x"), Err(KeyError::Empty("app")));
        assert!(resolve("rtmp://h/live", "live", "..").is_err());
        assert!(resolve("rtmp://h/live", "../../etc", "x").is_err());
        assert!(resolve("rtmp://h/live", "live", "a\\b").is_err());
        assert!(resolve("rtmp://h/live", "live", &"x".repeat(81)).is_err());
    }

    #[test]
    fn a_url_is_taken_apart_as_encoders_do() {
        let target = Target::parse("rtmp://[::1]:2000/a/b/x?k=v").unwrap();
        assert_eq!((target.host.as_str(), target.port), ("::1", 2000));
        assert_eq!((target.app.as_str(), target.stream.as_str(), target.tc_url.as_str()), ("a/b", "x?k=v", "rtmp://[::1]:2000/a/b"));
        assert_eq!(Target::parse("rtmp://host/live/x").unwrap().port, 1935);
        for bad in ["http://h/a/b", "rtmp://h/a", "rtmp:///a/b", "rtmp://h:x/a/b", "rtmp://h/a/"] {
            assert_eq!(Target::parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(tc_url in "(rtmp://)?[a-z.:?/&=\\[\\]_]{0,30}", app in "[a.?/&=_]{0,20}", stream in "\\PC{0,20}") {
            let _ = resolve(&tc_url, &app, &stream);
            let _ = Target::parse(&tc_url);
        }
    }
}
