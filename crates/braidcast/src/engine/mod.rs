//! What front, relays and `status` have in common about processes of another server: where their things lie, and what is told of them.

use crate::config::{Config, EngineKind};
use crate::control::ProcessId;
use crate::srs_conf::{ApiAuth, Site};
use anyhow::bail;
use std::path::{Path, PathBuf};

pub mod api;
pub mod clients;
pub mod live;
pub mod note;
pub mod probe;
pub mod report;

/// The directory of all processes in the shared directory.
pub const DIRECTORY: &str = "engine";

/// What a process has in the shared directory: its configuration, the segments it writes, whatever else it needs.
pub fn process_dir(shared_dir: &Path, process: ProcessId) -> PathBuf {
    shared_dir.join(DIRECTORY).join(process.to_string())
}

/// What relays have to know of the site that the processes of SRS serve.
#[derive(Debug, Default)]
pub struct SiteFacts {
    /// User and password of the processes' HTTP APIs, if the site has set some.
    pub api_auth: Option<ApiAuth>,
    /// The site has its API on the port of HTTP.
    pub api_on_http: bool,
}

impl SiteFacts {
    /// Reads them. What is wrong with the site's configuration was said by the front, which has not started then.
    pub fn of(config: &Config) -> Self {
        if config.engine.kind != EngineKind::Srs {
            return Self::default();
        }
        let path = Some(Path::new(&config.engine.srs_conf)).filter(|path| !path.as_os_str().is_empty());
        let environment: Vec<(String, String)> = std::env::vars().collect();
        let Ok(site) = Site::load(path, &environment) else { return Self::default() };
        let listens = site.listens();
        Self { api_auth: site.api_auth(), api_on_http: !listens.api.is_empty() && listens.api == listens.http }
    }
}

/// Splits a command into words as a shell does: by blanks, unless quoted. Nothing else means anything.
///
/// # Errors
/// A quote is not closed, or there is no word.
pub fn words(text: &str) -> anyhow::Result<Vec<String>> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for character in text.chars() {
        match (quote, character) {
            (Some(open), _) if open == character => quote = None,
            (None, '\'' | '"') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (None, _) if character.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(character),
        }
    }
    if let Some(open) = quote {
        bail!("the quote {open} is not closed");
    }
    words.extend(word);
    if words.is_empty() {
        bail!("it names no program");
    }
    Ok(words)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn words_are_separated_by_blanks_unless_quoted() {
        assert_eq!(words("nginx  -g 'daemon off;' -p \"\" a'b c'd").unwrap(), ["nginx", "-g", "daemon off;", "-p", "", "ab cd"]);
        assert!(words("nginx 'x").is_err() && words("  ").is_err());
    }
}
