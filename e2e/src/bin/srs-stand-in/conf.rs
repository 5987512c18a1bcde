//! SRS's configuration as far as the stand-in acts on it: directives that end with `;` or hold others in braces. What is not known
//! here is passed over, as an engine may write more than this needs.

use anyhow::{Context, Result, bail, ensure};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// What the stand-in is to do.
#[derive(Debug)]
pub struct Conf {
    /// Where RTMP is spoken.
    pub rtmp: SocketAddr,
    /// Where HTTP-FLV is served.
    pub http: SocketAddr,
    /// Where the HTTP API answers.
    pub api: SocketAddr,
    /// Whether SRS would go into the background.
    pub daemon: bool,
    /// The vhosts' HLS, by name.
    vhosts: Vec<(String, Option<Hls>)>,
}

/// HLS of a vhost.
#[derive(Clone, Debug)]
pub struct Hls {
    /// What the files' names begin with.
    pub path: PathBuf,
    /// The pattern of segments' names.
    pub ts_file: String,
    /// The pattern of the index's name.
    pub m3u8_file: String,
    /// A segment's length.
    pub fragment: Duration,
    /// The length of what an index lists.
    pub window: Duration,
    /// Whether segments that the index does not list any more are removed.
    pub cleanup: bool,
}

/// The name of the vhost that stands for all that have no section of their own.
const DEFAULT_VHOST: &str = "__defaultVhost__";

impl Conf {
    /// Reads the text of a configuration, and SRS's environment variables for addresses and the length of segments, which go before it.
    pub fn parse(text: &str) -> Result<Self> {
        let top = directives(text)?;
        let address = |section: &str, variables: &[&str]| -> Result<SocketAddr> {
            let given = variables.iter().find_map(|name| std::env::var(name).ok());
            let said = given.or_else(|| first(&top, section)).with_context(|| format!("no {section}"))?;
            let whole = if said.contains(':') { said.clone() } else { format!("0.0.0.0:{said}") };
            whole.parse().with_context(|| format!("{section}: {said} is no address"))
        };
        let rtmp = address("listen", &["SRS_LISTEN"]).or_else(|_| address("rtmp.listen", &["SRS_RTMP_LISTEN"]))?;
        let vhosts = top.iter().filter(|directive| directive.name() == "vhost").map(|vhost| {
            let name = vhost.words.get(1).context("a vhost without a name")?.clone();
            Ok((name, Hls::of(&vhost.inside)?))
        });
        Ok(Self {
            rtmp,
            http: address("http_server.listen", &["SRS_HTTP_SERVER_LISTEN"])?,
            api: address("http_api.listen", &["SRS_HTTP_API_LISTEN"])?,
            daemon: first(&top, "daemon").is_none_or(|daemon| daemon != "off"),
            vhosts: vhosts.collect::<Result<_>>()?,
        })
    }

    /// The vhost that serves streams of this one: itself, if it has a section, else the default one.
    pub fn vhost(&self, name: &str) -> &str {
        self.vhosts.iter().map(|(own, _)| own.as_str()).find(|own| *own == name).unwrap_or(DEFAULT_VHOST)
    }

    /// HLS of a vhost, if it has any.
    pub fn hls(&self, name: &str) -> Option<&Hls> {
        let vhost = self.vhost(name);
        self.vhosts.iter().find(|(own, _)| own == vhost)?.1.as_ref()
    }

    /// The shortest segment of any vhost.
    pub fn fragment(&self) -> Duration {
        let all = self.vhosts.iter().filter_map(|(_, hls)| Some(hls.as_ref()?.fragment));
        all.min().unwrap_or(Duration::from_secs(10))
    }
}

impl Hls {
    fn of(vhost: &[Directive]) -> Result<Option<Self>> {
        let word = |name: &str, default: &str| first(vhost, &format!("hls.{name}")).unwrap_or_else(|| default.to_owned());
        let seconds = |name: &str, default: &str| -> Result<Duration> {
            let said = word(name, default);
            Duration::try_from_secs_f64(said.parse().with_context(|| format!("{name} {said}"))?).with_context(|| name.to_owned())
        };
        if word("enabled", "off") != "on" {
            return Ok(None);
        }
        let fragment = std::env::var("SRS_VHOST_HLS_HLS_FRAGMENT").ok();
        Ok(Some(Self {
            path: word("hls_path", "./objs/nginx/html").into(),
            ts_file: word("hls_ts_file", "[app]/[stream]-[seq].ts"),
            m3u8_file: word("hls_m3u8_file", "[app]/[stream].m3u8"),
            fragment: match fragment {
                Some(said) => Duration::try_from_secs_f64(said.parse()?)?,
                None => seconds("hls_fragment", "10")?,
            },
            window: seconds("hls_window", "60")?,
            cleanup: word("hls_cleanup", "on") == "on",
        }))
    }
}

/// A name with what is said after it, and what stands inside its braces.
#[derive(Debug, Default)]
struct Directive {
    words: Vec<String>,
    inside: Vec<Directive>,
}

impl Directive {
    fn name(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }
}

/// The first word after the name at the end of a path, `http_api.listen`.
fn first(directives: &[Directive], path: &str) -> Option<String> {
    let (name, rest) = path.split_once('.').map_or((path, None), |(name, rest)| (name, Some(rest)));
    let mut named = directives.iter().filter(|directive| directive.name() == name);
    match rest {
        Some(rest) => named.find_map(|directive| first(&directive.inside, rest)),
        None => named.find_map(|directive| directive.words.get(1).cloned()),
    }
}

fn directives(text: &str) -> Result<Vec<Directive>> {
    let mut open = vec![Directive::default()];
    let mut words = Vec::new();
    for token in tokens(text) {
        match token.as_str() {
            ";" | "{" => {
                ensure!(!words.is_empty(), "{token:?} after nothing");
                let directive = Directive { words: std::mem::take(&mut words), inside: Vec::new() };
                if token == "{" {
                    open.push(directive);
                } else {
                    open.last_mut().context("the top is always open")?.inside.push(directive);
                }
            }
            "}" => {
                let closed = open.pop().context("the top is always open")?;
                let Some(outer) = open.last_mut() else { bail!("a brace too many") };
                ensure!(words.is_empty(), "{words:?} without a semicolon");
                outer.inside.push(closed);
            }
            _ => words.push(token),
        }
    }
    ensure!(open.len() == 1 && words.is_empty(), "the end is missing after {words:?}");
    Ok(open.remove(0).inside)
}

/// Words, braces, semicolons; comments are left out, quotes taken off.
fn tokens(text: &str) -> Vec<String> {
    let (mut tokens, mut word, mut quote) = (Vec::new(), String::new(), None);
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            _ if quote == Some(letter) => {
                quote = None;
                tokens.push(std::mem::take(&mut word));
            }
            _ if quote.is_some() => word.push(letter),
            '"' | '\'' if word.is_empty() => quote = Some(letter),
            '#' if word.is_empty() => drop(letters.by_ref().find(|letter| *letter == '\n')),
            ';' | '{' | '}' => {
                tokens.extend((!word.is_empty()).then(|| std::mem::take(&mut word)));
                tokens.push(letter.to_string());
            }
            _ if letter.is_whitespace() => tokens.extend((!word.is_empty()).then(|| std::mem::take(&mut word))),
            _ => word.push(letter),
        }
    }
    tokens.extend((!word.is_empty()).then_some(word));
    tokens
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_an_engine_writes_is_read() {
        let text = "# head\nlisten 127.0.0.1:1936; daemon off;\nhttp_api { enabled on; listen 127.0.0.1:1986; }\n\
            http_server {\n listen 127.0.0.1:8081; # here\n}\nvhost __defaultVhost__ { hls { enabled on; hls_path \"/dev/shm/a b\"; hls_fragment 0.5; } }\n\
            vhost silent.example.com { }\n";
        let conf = Conf::parse(text).unwrap();
        assert_eq!((conf.rtmp.port(), conf.http.port(), conf.api.port(), conf.daemon), (1936, 8081, 1986, false));
        let hls = conf.hls("other.example.com").unwrap();
        assert_eq!((hls.path.to_str().unwrap(), hls.fragment), ("/dev/shm/a b", Duration::from_millis(500)));
        assert!(conf.hls("silent.example.com").is_none());
        let nested = text.replace("listen 127.0.0.1:1936;", "rtmp { listen 1936; }");
        assert_eq!(Conf::parse(&nested).unwrap().rtmp, "0.0.0.0:1936".parse().unwrap());
    }

    #[test]
    fn broken_text_is_refused() {
        for text in ["listen 1", "a { b;", "}", "{ }", ";", "listen 1; http_api { } }"] {
            assert!(directives(text).is_err(), "{text}");
        }
    }
}
