//! Who may publish and play which stream: the rules of `[[access]]`.
//!
//! Decides from what a client says and where it comes from; knows no session and no protocol, opens no file ([`files`] does, for the front
//! alone) and reads no clock. Nothing it says of a refusal holds what the client brought, or what it should have brought.

pub mod files;
mod jwt;
mod reason;
mod rule;
pub mod sign;

pub use reason::{Denied, Reason};

use crate::config::{Access, HIDDEN};
use crate::control::Intent;
use braidcast_media::StreamKey;
use jwt::Keys;
use rule::Rule;
use std::collections::HashMap;
use std::net::IpAddr;

/// Who wants what, and what they bring.
#[derive(Clone, Copy, Debug)]
pub struct Asking<'a> {
    /// Publish or play.
    pub intent: Intent,
    /// The stream.
    pub key: &'a StreamKey,
    /// The client's true address.
    pub client: IpAddr,
    /// The query as it was sent, without the `?`.
    pub params: &'a str,
    /// What an `Authorization: Bearer` field holds.
    pub bearer: Option<&'a str>,
    /// The page that the client is on (`Referer`, `pageUrl`); empty if it says none.
    pub page: &'a str,
    /// Wall clock, seconds since 1970.
    pub now_s: u64,
}

/// The rules of a configuration, with the keys that were read for them.
#[derive(Debug, Default)]
pub struct Rules {
    rules: Vec<Rule>,
    /// By the path that the configuration says.
    keys: HashMap<String, Keys>,
    /// The front's own, with which it signs what a program of ours publishes.
    own: Option<sign::Secret>,
}

impl Rules {
    /// The rules; keys that lie in files are still to come, by [`Rules::keep_keys`].
    pub fn new(tables: &[Access]) -> Self {
        let rules = tables.iter().zip(1..).map(|(table, place)| Rule::new(table, place)).collect();
        Self { rules, keys: HashMap::new(), own: None }
    }

    /// Takes what a key file holds, instead of what it held before. Only what can be used is taken.
    pub fn keep_keys(&mut self, path: String, content: &str) -> Result<(), String> {
        let keys = Keys::read(content)?;
        for rule in &mut self.rules {
            rule.forget_verified();
        }
        self.keys.insert(path, keys);
        Ok(())
    }

    /// Takes the secret with which the front signs for the programs that it starts.
    pub fn keep_own(&mut self, secret: &[u8]) {
        self.own = Some(sign::Secret::new(secret));
    }

    /// Whether there is no rule at all.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether any rule is about a stream, for this intent.
    pub fn are_about(&self, key: &StreamKey, intent: Intent) -> bool {
        self.rules.iter().any(|rule| rule.is_about(key, intent))
    }

    /// Whether a client may do what it asks for: if every rule that is about the stream and the intent lets it in.
    pub fn check(&mut self, asking: &Asking<'_>) -> Result<(), Denied> {
        let Self { rules, keys, own } = self;
        for rule in rules.iter_mut().filter(|rule| rule.is_about(asking.key, asking.intent)) {
            if own.as_ref().is_some_and(|own| asking.intent == Intent::Publish && own.check(asking) == Ok(())) {
                return Ok(());
            }
            rule.check(asking, keys).map_err(|reason| Denied { rule: rule.place(), reason })?;
        }
        Ok(())
    }

    /// Whether a stream's name may be told to a client: if it could play it without bringing anything.
    pub fn may_know(&self, key: &StreamKey, client: IpAddr) -> bool {
        self.rules.iter().filter(|rule| rule.is_about(key, Intent::Play)).all(|rule| rule.asks_nothing_of(client))
    }
}

/// Parameters whose values tell nobody anything that he may not know.
const HARMLESS: &[&str] = &["vhost", "domain", "expires", "start", "end", "only", "tracks", "hls_ctx"];

/// A query for log lines and answers: without the values of parameters that may hold a secret, which are all that are not known to hold none.
pub fn without_secrets(query: &str) -> String {
    let shown = |pair: &str| match pair.split_once('=') {
        Some((name, value)) if HARMLESS.contains(&name) || value.is_empty() => pair.to_owned(),
        Some((name, _)) => format!("{name}={HIDDEN}"),
        None => HIDDEN.to_owned(),
    };
    query.split('&').filter(|pair| !pair.is_empty()).map(shown).collect::<Vec<_>>().join("&")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
