//! Whom this worker lets in: asks the rules of access before anything else is done for a publish, a play or a file of HLS, and tells a
//! client that is refused why.

use super::session::Protocol;
use super::{End, Worker};
use crate::access::{Asking, Denied, Reason};
use crate::control::Intent;
use braidcast_media::StreamKey;
use braidcast_protocols::http::response::Cache;
use braidcast_protocols::http::{Request, Status, parameters};
use braidcast_protocols::rtmp;

/// What a client says that wants something.
pub(super) struct Said<'a> {
    pub intent: Intent,
    pub key: &'a StreamKey,
    /// The query as it was sent.
    pub params: &'a str,
    /// The token of an `Authorization` field.
    pub bearer: Option<&'a str>,
    /// The page it is on.
    pub page: &'a str,
}

impl<'a> Said<'a> {
    /// Of an HTTP request.
    pub fn by_request(intent: Intent, key: &'a StreamKey, request: &'a Request) -> Self {
        let page = request.referer.as_deref().unwrap_or_default();
        Self { intent, key, params: &request.query, bearer: request.bearer(), page }
    }
}

impl Worker {
    /// Whether the rules let a client in. If not, it is told so, and nothing more is to be done for it.
    pub(super) fn lets_in(&mut self, slot: usize, said: &Said<'_>) -> Result<bool, End> {
        if self.access.is_empty() {
            return Ok(true);
        }
        if self.config.relays() && is_ambiguous(said.params) {
            return self.turn_down(slot, said.intent, Status::BAD_REQUEST, "the virtual host is named in several ways").map(|()| false);
        }
        let client = self.sessions[slot].more.peer.ip();
        let Said { intent, key, params, bearer, page } = *said;
        let asking = Asking { intent, key, client, params, bearer, page, now_s: self.now.wall_ms / 1_000 };
        match self.access.check(&asking) {
            Ok(()) => Ok(true),
            Err(denied) => self.deny(slot, said, denied).map(|()| false),
        }
    }

    fn deny(&mut self, slot: usize, said: &Said<'_>, Denied { rule, reason }: Denied) -> Result<(), End> {
        self.count(reason.counter());
        let session = &self.sessions[slot];
        if self.peer_lines.allow(self.now.mono_ms) {
            let what = if said.intent == Intent::Publish { "publish" } else { "play" };
            let (conn, peer, advice) = (session.conn, session.more.peer, reason.advice());
            tracing::info!(stream = %said.key, %conn, %peer, rule, "{what} not let in by [[access]]: {reason}; {advice}");
        }
        let status = if reason == Reason::Missing { Status::UNAUTHORIZED } else { Status::FORBIDDEN };
        self.turn_down(slot, said.intent, status, &reason.to_string())
    }

    fn turn_down(&mut self, slot: usize, intent: Intent, status: Status, text: &str) -> Result<(), End> {
        match self.sessions[slot].more.protocol {
            Protocol::Rtmp(_) | Protocol::Relay(_) => {
                let code = if intent == Intent::Publish { rtmp::status::PUBLISH_DENIED } else { rtmp::status::PLAY_FAILED };
                self.refuse_rtmp(slot, code, text)
            }
            _ => self.respond_text(slot, status, text, false),
        }
    }

    /// How long caches may keep what a viewer of a stream gets: what not everybody may have is for nobody else.
    pub(super) fn cache_for(&self, key: &StreamKey, seconds: u32) -> Cache {
        if self.access.are_about(key, Intent::Play) { Cache::Private(seconds) } else { Cache::Seconds(seconds) }
    }

    /// Takes what the front says of a key file. It has looked whether that can be used.
    pub(super) fn keep_access_keys(&mut self, path: String, content: &str) {
        if let Err(error) = self.access.keep_keys(path.clone(), content) {
            tracing::error!(path, error, "the front sent keys that cannot be used: those before still hold");
        }
    }
}

/// Whether a query, which another server reads too, could name another virtual host there than here: it names several, or encodes one.
fn is_ambiguous(query: &str) -> bool {
    let mut named = parameters(query).filter(|(name, value, _)| matches!(*name, "vhost" | "domain") && !value.is_empty());
    let Some((_, first, _)) = named.next() else { return false };
    first.contains('%') || named.any(|(_, other, _)| other != first)
}

#[cfg(test)]
mod tests {
    use super::is_ambiguous;

    #[test]
    fn a_query_that_two_servers_may_read_differently_is_ambiguous() {
        for query in ["", "token=1", "vhost=a.b", "vhost=a.b&token=1&vhost=a.b", "vhost=a.b&domain=a.b", "vhost=&vhost=a.b"] {
            assert!(!is_ambiguous(query), "{query}");
        }
        for query in ["vhost=a.b&vhost=c.d", "domain=a.b&vhost=c.d", "vhost=a%2eb"] {
            assert!(is_ambiguous(query), "{query}");
        }
    }
}
