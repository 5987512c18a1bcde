//! JSON Web Tokens (RFC 7519): which keys there are, whether a token was made with one, and what its claims allow.
//!
//! Each key is for one algorithm, HS256, RS256 or ES256; a token is only ever looked at with keys that are for the algorithm it names.

use super::Asking;
use super::reason::Reason;
use crate::control::Intent;
use crate::relays::Pattern;
use aws_lc_rs::digest::{SHA256, digest};
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::{Map, Value};
use std::collections::{HashMap, HashSet};
use std::fmt;

/// The most keys of a file.
const MAX_KEYS: usize = 64;
/// The longest token, in bytes.
const MAX_TOKEN_BYTES: usize = 8_192;
/// Tokens whose signatures were found right and that are remembered: players ask for a segment every few seconds.
const MAX_VERIFIED: usize = 4_096;
/// An uncompressed point of P-256: what a public key for ES256 is.
const P256_POINT_BYTES: usize = 65;

/// What a token says.
pub type Claims = Map<String, Value>;

/// Keys from one place.
pub struct Keys(Vec<Key>);

struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} keys", self.0.len())
    }
}

impl Keys {
    /// A secret that both sides have, for HS256.
    pub fn of_secret(secret: &[u8]) -> Self {
        Self(vec![Key { id: None, algorithm: Algorithm::HS256, key: DecodingKey::from_secret(secret) }])
    }

    /// What a file holds: a public key in PEM, RSA for RS256 or P-256 for ES256, or a JWK set (RFC 7517) of such keys.
    pub fn read(text: &str) -> Result<Self, String> {
        if text.trim_start().starts_with('{') { Self::of_set(text) } else { Self::of_pem(text) }
    }

    fn of_pem(text: &str) -> Result<Self, String> {
        if text.contains("PRIVATE KEY") {
            return Err("it is a private key: only its owner may have that; the public one is needed here".into());
        }
        if let Ok(key) = DecodingKey::from_ec_pem(text.as_bytes()) {
            return match key.as_bytes().len() {
                P256_POINT_BYTES => Ok(Self(vec![Key { id: None, algorithm: Algorithm::ES256, key }])),
                _ => Err("it is a key of another curve than P-256".into()),
            };
        }
        let key = DecodingKey::from_rsa_pem(text.as_bytes())
            .map_err(|_| "it holds neither a JWK set nor a public key in PEM, RSA or P-256 (-----BEGIN PUBLIC KEY-----)")?;
        Ok(Self(vec![Key { id: None, algorithm: Algorithm::RS256, key }]))
    }

    fn of_set(text: &str) -> Result<Self, String> {
        let set: Value = serde_json::from_str(text).map_err(|error| format!("it is no JSON: {error}"))?;
        let keys = set["keys"].as_array().ok_or("it has no list \"keys\", which a JWK set is")?;
        if keys.len() > MAX_KEYS {
            return Err(format!("it holds {} keys; allowed: at most {MAX_KEYS}", keys.len()));
        }
        let usable: Vec<Key> = keys.iter().filter_map(|key| of_jwk(serde_json::from_value(key.clone()).ok()?)).collect();
        match usable.is_empty() {
            true => Err("it holds no key that can be used: RSA (RS256) or P-256 (ES256), for signatures".into()),
            false => Ok(Self(usable)),
        }
    }
}

/// A key of a set, if it is one for signatures that are known here. Others may be there for others.
fn of_jwk(jwk: Jwk) -> Option<Key> {
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => Algorithm::ES256,
        _ => return None,
    };
    let other_use = jwk.common.public_key_use.as_ref().is_some_and(|of| *of != PublicKeyUse::Signature);
    let other_algorithm = jwk.common.key_algorithm.is_some_and(|named| named.to_string() != format!("{algorithm:?}"));
    let key = DecodingKey::from_jwk(&jwk).ok().filter(|_| !other_use && !other_algorithm)?;
    Some(Key { id: jwk.common.key_id, algorithm, key })
}

/// Whether a token is signed by one of these keys; its claims. Looks at no claim.
fn verify(token: &str, sets: &[&Keys]) -> Result<Claims, Reason> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(Reason::Token);
    }
    let header = decode_header(token).map_err(|_| Reason::Token)?;
    // A field that has to be understood, and is not (RFC 7515 section 4.1.11).
    if header.crit.is_some() {
        return Err(Reason::Token);
    }
    let fits = |key: &&Key| key.algorithm == header.alg && key.id.as_ref().zip(header.kid.as_ref()).is_none_or(|(id, named)| id == named);
    let mut validation = Validation::new(header.alg);
    // Times are looked at by [`allows`], whose clock is its caller's.
    validation.required_spec_claims = HashSet::new();
    (validation.validate_exp, validation.validate_nbf, validation.validate_aud) = (false, false, false);
    let keys = sets.iter().flat_map(|set| &set.0).filter(fits);
    keys.map(|key| decode::<Claims>(token, &key.key, &validation)).find_map(Result::ok).map(|data| data.claims).ok_or(Reason::Token)
}

/// Tokens that were found to be signed, with what they say: checking a signature anew for each segment would cost more than serving it.
#[derive(Debug, Default)]
pub struct Verified(HashMap<[u8; 32], Claims>);

impl Verified {
    /// The claims of a token that one of these keys has signed. They must be the same as the last time; else begin anew.
    pub fn claims(&mut self, token: &str, sets: &[&Keys]) -> Result<&Claims, Reason> {
        let mut name = [0; 32];
        name.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        if !self.0.contains_key(&name) {
            let claims = verify(token, sets)?;
            if self.0.len() >= MAX_VERIFIED {
                self.0.clear();
            }
            self.0.insert(name, claims);
        }
        Ok(&self.0[&name])
    }
}

/// Whether claims allow what is asked for: `exp` must be there; `nbf`, and `stream`, `vhost` and `action`, hold if they are. What is there and
/// makes no sense allows nothing.
pub fn allows(claims: &Claims, asking: &Asking<'_>, leeway_s: u64) -> Result<(), Reason> {
    let time = |name| claims.get(name).map(|value| value.as_f64().ok_or(Reason::Token)).transpose();
    let (now_s, leeway_s) = (asking.now_s as f64, leeway_s as f64);
    let expires_s = time("exp")?.ok_or(Reason::Token)?;
    if now_s >= expires_s + leeway_s {
        return Err(Reason::Expired);
    }
    if time("nbf")?.is_some_and(|from_s| now_s + leeway_s < from_s) {
        return Err(Reason::Early);
    }
    let action = match asking.intent {
        Intent::Publish => "publish",
        Intent::Play => "play",
    };
    let named = |pattern: &str| Pattern::parse(pattern).is_ok_and(|pattern| pattern.matches(asking.key));
    let inside = one_of(claims, "stream", named)
        && one_of(claims, "vhost", |vhost| vhost.eq_ignore_ascii_case(asking.key.vhost()))
        && one_of(claims, "action", |allowed| allowed == action);
    if inside { Ok(()) } else { Err(Reason::Scope) }
}

/// Whether a claim, a text or a list of them, has one that fits; whether it is not there.
fn one_of(claims: &Claims, name: &str, fits: impl Fn(&str) -> bool) -> bool {
    match claims.get(name) {
        None => true,
        Some(Value::String(text)) => fits(text),
        Some(Value::Array(texts)) => texts.iter().filter_map(Value::as_str).any(fits),
        Some(_) => false,
    }
}
