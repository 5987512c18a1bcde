//! Why a client is not let in: for itself, for the log, and as a counter.

use crate::control::counters::WorkerCounter;
use std::fmt;

/// Why a rule does not let a client in. A later one says more: of several it is the one that is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Its address is denied, or not among those that are allowed.
    Address,
    /// The page it is on is not among those that are allowed.
    Referer,
    /// It brought nothing that the rule asks for.
    Missing,
    /// The keys for its token are not known.
    NoKeys,
    /// Its token is none, or nobody's who may give them out.
    Token,
    /// Its signature is wrong, or is for another stream, intent or time.
    Signature,
    /// Its token is for later.
    Early,
    /// Its token is for another stream or another intent.
    Scope,
    /// Its token or signature was right and is too old.
    Expired,
}

impl Reason {
    /// The counter of those that were refused for it.
    pub fn counter(self) -> WorkerCounter {
        match self {
            Self::Address => WorkerCounter::AccessAddress,
            Self::Referer => WorkerCounter::AccessReferer,
            Self::Missing => WorkerCounter::AccessMissing,
            Self::NoKeys | Self::Token => WorkerCounter::AccessToken,
            Self::Signature => WorkerCounter::AccessSignature,
            Self::Scope => WorkerCounter::AccessScope,
            Self::Early | Self::Expired => WorkerCounter::AccessExpired,
        }
    }

    /// What an operator can do if the client is to be let in.
    pub fn advice(self) -> &'static str {
        match self {
            Self::Address => "if it is to be let in, look at allow and deny",
            Self::Referer => "if it is to be let in, add the page's host to referers",
            Self::Missing => "it has to bring ?expires=…&sign=…, ?token=… or ?jwt=…, as the rule says",
            Self::NoKeys => "the front's log says why jwks or jwt_public_key could not be read",
            Self::Token => "is it given out with another key, another algorithm, or among tokens no more?",
            Self::Signature => "what is signed is in docs/access.md; is it another sign_secret, stream, virtual host or intent?",
            Self::Early | Self::Expired => "the client needs a new one; do the clocks agree?",
            Self::Scope => "the claims stream, vhost and action say what a token is for",
        }
    }
}

/// For the client.
impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Address => "this address is not let in",
            Self::Referer => "the page that asks is not let in",
            Self::Missing => "a token or a signature is needed",
            Self::NoKeys => "the token cannot be checked now",
            Self::Token => "the token is not valid",
            Self::Signature => "the signature is not valid for this",
            Self::Early => "the token is not valid yet",
            Self::Scope => "the token is for something else",
            Self::Expired => "the token or signature has expired",
        })
    }
}

/// A refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denied {
    /// The place of the `[[access]]` that says so, from 1.
    pub rule: usize,
    /// Why.
    pub reason: Reason,
}
