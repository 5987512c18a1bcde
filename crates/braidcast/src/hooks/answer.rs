//! What a hook server's answer means. A pure function of status and body: both come from strangers.

use serde_json::Value;
use std::fmt;

/// The longest answer that is read, in bytes.
pub const MAX_ANSWER_BYTES: usize = 64 << 10;
/// The most URLs of an answer to `on_forward`; the rest is left out.
pub const MAX_FORWARD_URLS: usize = 16;
/// The longest of these URLs, in bytes.
const MAX_URL_BYTES: usize = 1_024;
/// How much of a server's words is kept for the log, in characters.
const MAX_WORDS: usize = 120;

/// What the server says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Yes.
    Allowed {
        /// The URLs of `data.urls`: where `on_forward` wants the stream to be pushed to.
        urls: Vec<String>,
    },
    /// No, in its words.
    Refused(String),
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Its name is not to be found.
    Name(String),
    /// No connection.
    Connect(String),
    /// No TLS, or a certificate that will not do.
    Tls(String),
    /// Nothing in time.
    Timeout,
    /// The connection broke, or what came was not HTTP.
    Broken(String),
    /// A status that is neither a yes nor a no.
    Status(u16),
    /// An answer that is too long.
    TooLong,
    /// Something else than `0`, another number, or `{"code":…}`.
    Nonsense,
    /// It was not asked: it has failed too often just now.
    Resting,
    /// It was not asked: too many questions are under way.
    Crowded,
}

impl Fault {
    /// Whether another call may do better. A server that has answered has been told.
    pub fn is_worth_repeating(&self) -> bool {
        !matches!(self, Self::TooLong | Self::Nonsense)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(why) => write!(f, "its name is not found: {why}"),
            Self::Connect(why) => write!(f, "no connection: {why}"),
            Self::Tls(why) => write!(f, "no TLS: {why}"),
            Self::Timeout => f.write_str("no answer in time"),
            Self::Broken(why) => write!(f, "the connection broke: {why}"),
            Self::Status(status) => write!(f, "it answered HTTP {status}"),
            Self::TooLong => write!(f, "it answered more than {MAX_ANSWER_BYTES} bytes"),
            Self::Nonsense => f.write_str("it answered neither 0 nor {\"code\":0}"),
            Self::Resting => f.write_str("it has failed too often just now and is not asked"),
            Self::Crowded => f.write_str("too many questions are under way"),
        }
    }
}

/// What an answer means. 200 and 201 are looked into, as SRS does; a status that says that the request will not do is a no; any other says that the
/// server has a trouble of its own.
pub fn judge(status: u16, body: &[u8]) -> Result<Answer, Fault> {
    match status {
        200 | 201 => look_into(body),
        408 | 425 | 429 => Err(Fault::Status(status)),
        400..=499 => Ok(Answer::Refused(format!("HTTP {status}"))),
        _ => Err(Fault::Status(status)),
    }
}

fn look_into(body: &[u8]) -> Result<Answer, Fault> {
    let answer: Value = serde_json::from_slice(body).map_err(|_| Fault::Nonsense)?;
    let code = match &answer {
        Value::Object(fields) => fields.get("code").and_then(Value::as_i64),
        number => number.as_i64(),
    };
    match code {
        None => Err(Fault::Nonsense),
        Some(0) => Ok(Answer::Allowed { urls: urls(&answer) }),
        Some(code) => {
            let words = answer.get("msg").or_else(|| answer.get("message")).and_then(Value::as_str).map(printable);
            Ok(Answer::Refused(words.map_or_else(|| format!("code {code}"), |words| format!("code {code}, {words}"))))
        }
    }
}

fn urls(answer: &Value) -> Vec<String> {
    let list = answer.pointer("/data/urls").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let text = list.iter().filter_map(Value::as_str).filter(|url| !url.is_empty() && url.len() <= MAX_URL_BYTES);
    text.map(str::to_owned).take(MAX_FORWARD_URLS).collect()
}

/// A stranger's words, cut and harmless in a log line.
fn printable(words: &str) -> String {
    words.chars().take(MAX_WORDS).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn yes() -> Result<Answer, Fault> {
        Ok(Answer::Allowed { urls: Vec::new() })
    }

    #[test]
    fn answers_of_srs_hook_servers() {
        for body in ["0", "0\n", " 0 ", r#"{"code":0}"#, r#"{"code":0,"data":{}}"#, r#"{"code":0,"msg":"x"}"#] {
            assert_eq!(judge(200, body.as_bytes()), yes(), "{body}");
            assert_eq!(judge(201, body.as_bytes()), yes(), "{body}");
        }
        assert_eq!(judge(200, b"1"), Ok(Answer::Refused("code 1".into())));
        assert_eq!(judge(200, br#"{"code":403,"msg":"no\nway"}"#), Ok(Answer::Refused("code 403, no way".into())));
        for status in [400, 401, 403, 404] {
            assert_eq!(judge(status, b"0"), Ok(Answer::Refused(format!("HTTP {status}"))));
        }
        for status in [100, 204, 301, 302, 307, 408, 429, 500, 502, 503] {
            assert_eq!(judge(status, b"0"), Err(Fault::Status(status)));
        }
        for body in ["", "ok", "null", "true", "[]", "\"0\"", "{}", r#"{"code":"0"}"#, r#"{"code":null}"#, "0.5", "{\"code\":0", "0 0"] {
            assert_eq!(judge(200, body.as_bytes()), Err(Fault::Nonsense), "{body}");
        }
    }

    #[test]
    fn urls_to_forward_to_are_bounded() {
        let urls = |body: &str| match judge(200, body.as_bytes()) {
            Ok(Answer::Allowed { urls }) => urls,
            other => panic!("{other:?}"),
        };
        assert_eq!(urls(r#"{"code":0,"data":{"urls":["rtmp://a/b/c","",7,"rtmp://d/e/f"]}}"#), ["rtmp://a/b/c", "rtmp://d/e/f"]);
        assert_eq!(urls(r#"{"code":0,"data":{"urls":"rtmp://a/b/c"}}"#), [""; 0]);
        let many = format!(r#"{{"code":0,"data":{{"urls":[{}]}}}}"#, vec!["\"u\""; 100].join(","));
        assert_eq!(urls(&many).len(), MAX_FORWARD_URLS);
    }

    proptest! {
        #[test]
        fn nothing_panics_and_only_zero_allows(status: u16, body in r#"\{?("code"|"data"|"urls"|[0-9:\[\]{},"x]){0,12}"#) {
            if let Ok(Answer::Allowed { .. }) = judge(status, body.as_bytes()) {
                let value: Value = serde_json::from_str(&body).unwrap();
                prop_assert!(value == 0 || value["code"] == 0);
                prop_assert!(status == 200 || status == 201);
            }
        }
    }
}
