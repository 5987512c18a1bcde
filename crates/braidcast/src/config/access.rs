//! `[[access]]`: who may publish and play which streams. What the values mean is [`crate::access`]'s to say.

use super::Config;
use super::check::Finding;
use super::networks::Network;
use super::secret::Secret;
use super::table::section;
use super::units::Span;
use super::value::choice;
use crate::relays::Pattern;
use braidcast_media::StreamKey;

/// The most rules.
const MAX_RULES: usize = 256;
/// A shorter secret can be found by trying.
const SHORT_SECRET_BYTES: usize = 16;

section! {
    /// Who may publish and play: one `[[access]]` for each rule. A client has to be let in by every rule that names the stream and what it wants
    /// to do with it; streams that no rule names are everybody's. See [access.md](access.md).
    Access {
        /// Which streams: `app/stream`, where `*` stands for any characters but slashes and `**` for any.
        streams: Pattern = Pattern::default();
        /// Only streams of this virtual host. Empty: of any.
        vhost: String = String::new();
        /// Whether the rule is for publishers, for viewers (`"play"`: RTMP, HTTP and all of HLS), or for both.
        intent: AccessIntent = AccessIntent::Both;
        /// Addresses and networks that are let in, and no others. Empty: all are.
        allow: Vec<Network> = Vec::new();
        /// Addresses and networks that are not let in, even if `allow` names them.
        deny: Vec<Network> = Vec::new();
        /// Hosts of the pages that clients may come from, with those below them: `"example.com"` stands for `www.example.com` too. `"none"` stands for
        /// clients that name no page. Empty: all may. Players other than browsers say whatever they like.
        referers: Vec<String> = Vec::new();
        /// The secret of signed URLs: `?expires=UNIX&sign=HEX`.
        sign_secret: Secret = Secret::default();
        /// Tokens of which a client has to bring one: `?token=…`, or over HTTP `Authorization: Bearer …`.
        tokens: Vec<Secret> = Vec::new();
        /// The secret with which JSON Web Tokens are made (HS256): `?jwt=…` or `?token=…`, or over HTTP `Authorization: Bearer …`.
        jwt_secret: Secret = Secret::default();
        /// A file with the public key of who makes JSON Web Tokens: PEM, RSA (RS256) or P-256 (ES256). It is read again when it changes.
        jwt_public_key: String = String::new();
        /// A file with several such keys: a JWK set. It is read again when it changes.
        jwks: String = String::new();
        /// How far the clock of who makes JSON Web Tokens may differ from ours.
        leeway: Span = Span::secs(30), in Span::ms(0)..=Span::secs(3_600);
    }
}

choice! {
    /// What an access rule is about.
    AccessIntent {
        /// Publishers.
        Publish = "publish",
        /// Viewers.
        Play = "play",
        /// Both.
        Both = "both",
    }
}

impl Access {
    /// The files that hold keys for it.
    pub fn key_files(&self) -> impl Iterator<Item = &str> {
        [&self.jwt_public_key, &self.jwks].into_iter().map(String::as_str).filter(|path| !path.is_empty())
    }

    fn asks_nothing(&self) -> bool {
        let credentials =
            self.sign_secret.is_set() || !self.tokens.is_empty() || self.jwt_secret.is_set() || self.key_files().next().is_some();
        !credentials && self.allow.is_empty() && self.deny.is_empty() && self.referers.is_empty()
    }
}

/// What rules of access cannot be.
pub(super) fn contradictions(found: &mut Vec<Finding>, config: &Config) {
    let mut add = |key, message: String, harmless| found.push(Finding { key: ("access", key), message, harmless });
    if config.access.len() > MAX_RULES {
        add("streams", format!("[[access]] is there {} times; allowed: at most {MAX_RULES}", config.access.len()), false);
    }
    for rule in &config.access {
        let streams = rule.streams.as_str();
        if !rule.vhost.is_empty()
            && let Err(fault) = StreamKey::new(&rule.vhost, "app", "stream")
        {
            add("vhost", format!("[[access]] vhost = {:?}: {fault}", rule.vhost), false);
        }
        for referer in &rule.referers {
            if referer.is_empty() || referer.contains(['/', '*', ' ', '@']) {
                add("referers", format!("[[access]] referers: {referer:?} is no host (\"example.com\", \"none\")"), false);
            }
        }
        if rule.asks_nothing() {
            add("streams", format!("[[access]] streams = {streams:?} asks for nothing: it lets everybody in"), true);
        }
        let secrets = [("sign_secret", &rule.sign_secret), ("jwt_secret", &rule.jwt_secret)];
        for (key, secret) in secrets.into_iter().chain(rule.tokens.iter().map(|token| ("tokens", token))) {
            if secret.is_set() && secret.expose().len() < SHORT_SECRET_BYTES {
                add(
                    key,
                    format!("[[access]] streams = {streams:?}: {key} is shorter than {SHORT_SECRET_BYTES} characters and can be guessed"),
                    true,
                );
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::load_text;
    use std::path::Path;

    fn findings(text: &str) -> (Vec<String>, Vec<String>) {
        match load_text(Path::new("b.toml"), text) {
            Ok(loaded) => (Vec::new(), loaded.warnings.iter().map(|warning| warning.message.clone()).collect()),
            Err(problems) => (problems.0.iter().map(|problem| problem.message.clone()).collect(), Vec::new()),
        }
    }

    #[test]
    fn rules_that_make_no_sense_are_refused_or_told_of() {
        let rule = |keys: &str| findings(&format!("[[access]]\nstreams = 'live/*'\n{keys}\n"));
        assert_eq!(rule("tokens = ['0123456789abcdef']\nallow = ['10.0.0.0/8']\nreferers = ['a.b', 'none']"), Default::default());
        for (keys, fault) in [
            ("referers = ['https://a.b/']", "no host"),
            ("referers = ['*.a.b']", "no host"),
            ("vhost = 'a/b'", "vhost"),
            ("allow = ['10.0.0.1/8']", "allow"),
            ("intent = 'watch'", "not one of these"),
            ("tokens = [1]", "tokens = ***"),
            ("sign_secret_file = '/nowhere'", "sign_secret_file"),
        ] {
            let (errors, _) = rule(keys);
            assert!(errors.len() == 1 && errors[0].contains(fault), "{keys}: {errors:?}");
        }
        for (keys, warning) in
            [("", "asks for nothing"), ("tokens = ['canary']", "can be guessed"), ("jwt_secret = 'canary'", "can be guessed")]
        {
            let (errors, warnings) = rule(keys);
            assert!(errors.is_empty() && warnings.len() == 1 && warnings[0].contains(warning), "{keys}: {errors:?} {warnings:?}");
            assert!(!warnings[0].contains("canary"), "{warnings:?}");
        }
        assert!(findings("[[access]]\nintent = 'play'\n").0[0].contains("without streams"));
    }
}
