//! One `[[access]]`: which streams it is about, and what it asks of their clients.

use super::jwt::{self, Keys, Verified};
use super::reason::Reason;
use super::{Asking, sign};
use crate::config::{Access, AccessIntent, Network, Secret};
use crate::control::Intent;
use crate::relays::Pattern;
use braidcast_media::StreamKey;
use braidcast_protocols::http::parameter;
use std::collections::HashMap;
use std::net::IpAddr;

/// In `referers`: clients that say no page.
pub const NO_PAGE: &str = "none";

/// See the module's head.
#[derive(Debug)]
pub struct Rule {
    place: usize,
    streams: Pattern,
    vhost: String,
    intent: AccessIntent,
    allow: Vec<Network>,
    deny: Vec<Network>,
    referers: Vec<String>,
    sign: Option<sign::Secret>,
    tokens: Vec<Secret>,
    jwt: Option<Jwt>,
}

#[derive(Debug)]
struct Jwt {
    secret: Option<Keys>,
    files: Vec<String>,
    leeway_s: u64,
    verified: Verified,
}

impl Rule {
    /// From its table, the one at `place`, from 1.
    pub fn new(table: &Access, place: usize) -> Self {
        let files = table.key_files().map(str::to_owned).collect::<Vec<_>>();
        let secret = table.jwt_secret.is_set().then(|| Keys::of_secret(table.jwt_secret.expose().as_bytes()));
        let jwt = Jwt { secret, files, leeway_s: table.leeway.as_ms() / 1_000, verified: Verified::default() };
        Self {
            place,
            streams: table.streams.clone(),
            vhost: table.vhost.clone(),
            intent: table.intent,
            allow: table.allow.clone(),
            deny: table.deny.clone(),
            referers: table.referers.iter().map(|referer| referer.to_ascii_lowercase()).collect(),
            sign: table.sign_secret.is_set().then(|| sign::Secret::new(table.sign_secret.expose().as_bytes())),
            tokens: table.tokens.clone(),
            jwt: Some(jwt).filter(|jwt| jwt.secret.is_some() || !jwt.files.is_empty()),
        }
    }

    /// Its place among the others, from 1.
    pub fn place(&self) -> usize {
        self.place
    }

    /// Whether it is about this.
    pub fn is_about(&self, key: &StreamKey, intent: Intent) -> bool {
        let intended = match self.intent {
            AccessIntent::Both => true,
            AccessIntent::Publish => intent == Intent::Publish,
            AccessIntent::Play => intent == Intent::Play,
        };
        intended && (self.vhost.is_empty() || self.vhost.eq_ignore_ascii_case(key.vhost())) && self.streams.matches(key)
    }

    /// Whether it lets a client in that brings nothing and is on no page.
    pub fn asks_nothing_of(&self, client: IpAddr) -> bool {
        self.lets_in_address(client) && self.lets_in_page("") && !self.asks_for_credentials()
    }

    /// Other keys hold from now on.
    pub fn forget_verified(&mut self) {
        if let Some(jwt) = &mut self.jwt {
            jwt.verified = Verified::default();
        }
    }

    /// Whether it lets a client in.
    pub fn check(&mut self, asking: &Asking<'_>, keys: &HashMap<String, Keys>) -> Result<(), Reason> {
        if !self.lets_in_address(asking.client) {
            return Err(Reason::Address);
        }
        if !self.lets_in_page(asking.page) {
            return Err(Reason::Referer);
        }
        if !self.asks_for_credentials() {
            return Ok(());
        }
        let mut worst = Reason::Missing;
        let signed = self.sign.as_ref().map(|secret| secret.check(asking));
        let mut tried = signed.into_iter().collect::<Vec<_>>();
        for (token, may_be_static) in brought(asking) {
            if may_be_static && self.is_static(&token) {
                return Ok(());
            }
            match &mut self.jwt {
                Some(jwt) => tried.push(jwt.check(&token, asking, keys)),
                None if may_be_static && !self.tokens.is_empty() => tried.push(Err(Reason::Token)),
                None => {}
            }
        }
        for result in tried {
            match result {
                Ok(()) => return Ok(()),
                Err(reason) => worst = worst.max(reason),
            }
        }
        Err(worst)
    }

    fn asks_for_credentials(&self) -> bool {
        self.sign.is_some() || !self.tokens.is_empty() || self.jwt.is_some()
    }

    fn lets_in_address(&self, client: IpAddr) -> bool {
        let among = |networks: &[Network]| networks.iter().any(|network| network.contains(client));
        !among(&self.deny) && (self.allow.is_empty() || among(&self.allow))
    }

    fn lets_in_page(&self, page: &str) -> bool {
        let host = host_of(page);
        let allowed = |referer: &String| match &host {
            None => page.is_empty() && referer == NO_PAGE,
            Some(host) => host == referer || host.strip_suffix(referer.as_str()).is_some_and(|rest| rest.ends_with('.')),
        };
        self.referers.is_empty() || self.referers.iter().any(allowed)
    }

    /// Looks at all of them, so that the time says nothing of which one it was.
    fn is_static(&self, token: &str) -> bool {
        self.tokens.iter().fold(false, |found, secret| found | secret.matches(token))
    }
}

impl Jwt {
    fn check(&mut self, token: &str, asking: &Asking<'_>, keys: &HashMap<String, Keys>) -> Result<(), Reason> {
        let read = self.files.iter().filter_map(|path| keys.get(path));
        let sets: Vec<&Keys> = self.secret.iter().chain(read).collect();
        if sets.len() < self.files.len() {
            return Err(Reason::NoKeys);
        }
        let claims = self.verified.claims(token, &sets)?;
        jwt::allows(claims, asking, self.leeway_s)
    }
}

/// The tokens that a client brings, each with whether it may be one of `tokens`.
fn brought(asking: &Asking<'_>) -> impl Iterator<Item = (String, bool)> {
    let bearer = asking.bearer.map(|token| (token.to_owned(), true));
    let of_query = |name, may_be_static| parameter(asking.params, name).map(|token| (token, may_be_static));
    [of_query("token", true), of_query("jwt", false), bearer].into_iter().flatten().filter(|(token, _)| !token.is_empty())
}

/// The host of `scheme://host[:port]/…`, in small letters; `None`: it is no such URL.
fn host_of(page: &str) -> Option<String> {
    let (_, rest) = page.split_once("://")?;
    let authority = rest.split(['/', '?', '#', '\\']).next()?;
    let host = authority.rsplit('@').next()?;
    let host = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next()?,
        None => host.split(':').next()?,
    };
    Some(host.trim_end_matches('.').to_ascii_lowercase()).filter(|host| !host.is_empty())
}

#[cfg(test)]
mod tests {
    use super::host_of;

    #[test]
    fn a_page_has_a_host() {
        for (page, host) in [
            ("https://Example.com/x?y", Some("example.com")),
            ("http://a.b:8080", Some("a.b")),
            ("http://good.example@evil.example/", Some("evil.example")),
            ("http://evil.example/http://good.example", Some("evil.example")),
            ("http://evil.example\\.good.example/", Some("evil.example")),
            ("http://[::1]:80/", Some("::1")),
            ("http://a.b./", Some("a.b")),
            ("", None),
            ("example.com", None),
            ("http:///x", None),
        ] {
            assert_eq!(host_of(page).as_deref(), host, "{page}");
        }
    }
}
