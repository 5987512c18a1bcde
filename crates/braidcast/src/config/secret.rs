//! Values that nobody may see: passwords, tokens, keys for signatures.
//!
//! A secret never shows itself: not to [`Debug`], not in a file that is printed, not in a message about a wrong value. The processes of the
//! instance get it with the rest of the configuration ([`super::Config::to_json`]), and nobody else.

use super::value::{Raw, Value};
use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io::Read;
use std::path::Path;
use subtle::ConstantTimeEq;

/// What is shown in the place of a secret.
pub const HIDDEN: &str = "***";
/// What follows a secret key's name to name a file that holds it.
pub(super) const FILE_SUFFIX: &str = "_file";
/// The longest secret, in bytes.
const MAX_BYTES: usize = 4_096;
/// The longest file of secrets, in bytes.
const MAX_FILE_BYTES: u64 = 256 << 10;

/// A secret; empty: there is none.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// A secret of this text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Whether there is one.
    pub fn is_set(&self) -> bool {
        !self.0.is_empty()
    }

    /// Whether somebody gave just this secret; nothing equals one that is not set. Takes as long whatever part of it is right, and says nothing
    /// of its length: digests are compared.
    pub fn matches(&self, given: impl AsRef<[u8]>) -> bool {
        let same = digest(&SHA256, self.0.as_bytes()).as_ref().ct_eq(digest(&SHA256, given.as_ref()).as_ref());
        self.is_set() & bool::from(same)
    }

    /// The text itself: for keys of signatures and for what is sent to another server. Never for a log line or an answer.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// `***`, or `""` if it is not set.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.show())
    }
}

impl Value for Secret {
    const ALLOWED: &'static str = "text that is kept secret";
    const SECRET: bool = true;

    fn read(raw: &Raw) -> Result<Self, String> {
        match raw {
            Raw::Text(text) | Raw::Bare(text) => one(text.strip_suffix('\n').unwrap_or(text)),
            _ => Err("not text".into()),
        }
    }

    fn show(&self) -> String {
        if self.is_set() { format!("{HIDDEN:?}") } else { "\"\"".into() }
    }
}

/// Several: a list, or the lines of a file.
impl Value for Vec<Secret> {
    const ALLOWED: &'static str = "a list of texts that are kept secret";
    const SECRET: bool = true;

    fn read(raw: &Raw) -> Result<Self, String> {
        let given: Vec<&str> = match raw {
            Raw::List(items) => {
                let texts = items.iter().map(|item| if let Raw::Text(text) = item { Some(text.as_str()) } else { None });
                texts.collect::<Option<_>>().ok_or("not a list of texts")?
            }
            Raw::Text(text) => text.lines().collect(),
            Raw::Bare(text) => text.split([',', '\n']).map(str::trim).collect(),
            _ => return Err("not a list of texts".into()),
        };
        given.into_iter().filter(|text| !text.is_empty()).map(one).collect()
    }

    fn show(&self) -> String {
        format!("[{}]", self.iter().map(Value::show).collect::<Vec<_>>().join(", "))
    }
}

fn one(text: &str) -> Result<Secret, String> {
    let text = text.trim();
    if text == HIDDEN {
        return Err("this stands for a secret where one is shown; it is none".into());
    }
    if text.len() > MAX_BYTES {
        return Err(format!("longer than {MAX_BYTES} bytes"));
    }
    match text.chars().any(char::is_control) {
        true => Err("control characters or several lines".into()),
        false => Ok(Secret(text.to_owned())),
    }
}

/// What a file of secrets holds.
pub(super) fn from_file(path: &Path) -> Result<Raw, String> {
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|error| format!("cannot be opened: {error}"))?;
    file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).map_err(|error| format!("cannot be read: {error}"))?;
    match text.len() as u64 {
        0 => Err("it is empty".into()),
        1..=MAX_FILE_BYTES => Ok(Raw::Text(text)),
        _ => Err(format!("longer than {MAX_FILE_BYTES} bytes")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const CANARY: &str = "canary-4711";

    #[test]
    fn a_secret_matches_itself_alone_and_nothing_if_it_is_not_set() {
        let secret = Secret::new(CANARY);
        assert!(secret.matches(CANARY) && secret.matches(CANARY.as_bytes()));
        for other in ["", "canary-471", "canary-47111", "Canary-4711"] {
            assert!(!secret.matches(other), "{other}");
        }
        assert!(!Secret::default().matches("") && !Secret::default().is_set());
    }

    #[test]
    fn a_secret_never_shows_itself() {
        let secret = Secret::read(&Raw::Text(format!("{CANARY}\n"))).unwrap();
        assert_eq!(secret.expose(), CANARY);
        assert_eq!((format!("{secret:?}"), secret.show()), (r#""***""#.to_owned(), r#""***""#.to_owned()));
        assert_eq!(Secret::default().show(), r#""""#);
        assert_eq!(vec![secret.clone(), secret.clone()].show(), r#"["***", "***"]"#);
        assert_eq!(serde_json::to_string(&secret).unwrap(), format!("{CANARY:?}"));
    }

    #[test]
    fn what_is_no_secret_is_refused() {
        for bad in [Raw::Text(HIDDEN.into()), Raw::Text("a\nb".into()), Raw::Text("x".repeat(5_000)), Raw::Number("1".into())] {
            assert!(Secret::read(&bad).is_err());
        }
        assert!(Vec::<Secret>::read(&Raw::List(vec![Raw::Number("1".into())])).is_err());
    }

    #[test]
    fn several_come_from_a_list_lines_or_a_variable() {
        let texts = |raw: Raw| Vec::<Secret>::read(&raw).unwrap().iter().map(|one| one.expose().to_owned()).collect::<Vec<_>>();
        assert_eq!(texts(Raw::List(vec![Raw::Text("a".into()), Raw::Text("b,c".into())])), ["a", "b,c"]);
        assert_eq!(texts(Raw::Text("a\n\nb,c\r\n".into())), ["a", "b,c"]);
        assert_eq!(texts(Raw::Bare("a, b".into())), ["a", "b"]);
        assert_eq!(texts(Raw::Bare(String::new())), [""; 0]);
    }
}
