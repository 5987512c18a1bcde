//! HTTP requests at a relay: indexes and segments are answered from the shared directory as everywhere; live streams, and what we do not
//! know, are asked of a process.

use super::super::access::Said;
use super::super::session::{Role, Session};
use super::super::{End, Worker};
use super::pair::{CLIENT, Pair, SERVER};
use super::{Leaving, connect};
use crate::config::EngineKind;
use crate::control::{Intent, ProcessId, ToFront};
use braidcast_media::{StreamKey, vhost};
use braidcast_protocols::http::{Request, Status, parameter, parameters};
use std::net::SocketAddr;

/// Requests for WebRTC, which one process alone has (SRS's WHIP, WHEP and older forms).
const RTC: &str = "/rtc/";

impl Worker {
    /// Whether a request is for a process, whatever its route would be: then it is on its way.
    pub(in super::super) fn pass_on(&mut self, slot: usize, request: &Request) -> Result<bool, End> {
        self.sessions[slot].more.head.clone_from(&request.head);
        if request.body_bytes > 0 || !request.is_known_method() {
            // Its body was not taken: no request can follow it here.
            self.sessions[slot].last_request = true;
        }
        if self.config.engine.kind == EngineKind::Srs && request.path.starts_with(RTC) {
            if !self.lets_in_rtc(slot, request)? {
                return Ok(true);
            }
            let carries = ProcessId(self.config.engine.carries_others);
            return match self.relays.process(carries) {
                Some(process) => self.connect_http(slot, process.process, process.api),
                None => self.respond_text(slot, Status::UNAVAILABLE, "the process that has WebRTC does not run now", false),
            }
            .map(|()| true);
        }
        if !request.is_known_method() {
            return self.pass_to_any(slot).map(|()| true);
        }
        Ok(false)
    }

    /// Whether a request for WebRTC is let in. Only what begins a session by WHIP or WHEP says in its query which stream it is about; the
    /// older forms say it in their bodies, which are not read here.
    fn lets_in_rtc(&mut self, slot: usize, request: &Request) -> Result<bool, End> {
        let intent = match request.path.trim_end_matches('/') {
            // To end a session one has to know its name.
            _ if request.method_name() == Some("DELETE") || self.access.is_empty() => return Ok(true),
            "/rtc/v1/whip" => Intent::Publish,
            "/rtc/v1/whep" | "/rtc/v1/whip-play" => Intent::Play,
            _ => {
                let text = "with rules of access, WebRTC is begun by WHIP or WHEP (/rtc/v1/whip/, /rtc/v1/whep/)";
                return self.respond_text(slot, Status::FORBIDDEN, text, false).map(|()| false);
            }
        };
        // SRS reads the same query: nothing may be said twice, or in another spelling.
        let named: Vec<_> = parameters(&request.query).filter(|(name, ..)| matches!(*name, "app" | "stream")).collect();
        if named.len() != 2 || named.iter().any(|(_, value, _)| value.contains('%')) {
            let text = "app and stream are to be named once each, without percent signs";
            return self.respond_text(slot, Status::BAD_REQUEST, text, false).map(|()| false);
        }
        let said = |name| parameter(&request.query, name).unwrap_or_default();
        let named_host = ["vhost", "domain"].map(said).into_iter().find(|name| !name.is_empty());
        let host = vhost::of_host(named_host.as_deref().or(request.host.as_deref()).unwrap_or_default());
        let key = match StreamKey::new(&host, &said("app"), &said("stream")) {
            Ok(key) => self.relayed(key),
            Err(error) => return self.respond_text(slot, Status::BAD_REQUEST, &error.to_string(), false).map(|()| false),
        };
        self.lets_in(slot, &Said::by_request(intent, &key, request))
    }

    /// Has a request answered by the process that has least to do: files that the site serves, pages, whatever else.
    pub(in super::super) fn pass_to_any(&mut self, slot: usize) -> Result<(), End> {
        let load = |process: ProcessId| self.relays.pairs.iter().filter(|(_, pair)| pair.process == process).count();
        let serving = self.relays.processes.iter().filter(|process| process.serves);
        match serving.min_by_key(|process| load(process.process)).copied() {
            Some(process) => self.connect_http(slot, process.process, process.http),
            None => self.respond_text(slot, Status::UNAVAILABLE, "no process serves now", false),
        }
    }

    /// Connects a client with a process, which gets the request as it was sent but for whom it comes from.
    pub(super) fn connect_http(&mut self, slot: usize, process: ProcessId, address: SocketAddr) -> Result<(), End> {
        let server = match connect(address) {
            Ok(server) => server,
            Err(error) => {
                let Session { conn, ref more, .. } = self.sessions[slot];
                let peer = more.peer;
                tracing::warn!(%conn, %peer, %address, %error, "a process takes no connection");
                if matches!(self.sessions[slot].role, Role::Placing(_)) {
                    self.tell_front(&ToFront::Released { conn });
                }
                return self.respond_text(slot, Status::BAD_GATEWAY, "the process does not speak HTTP", false);
            }
        };
        let Leaving { session, owed, unread } = self.leave_table(slot);
        let request = with_client(&session.more.head, session.more.peer);
        let placed = matches!(session.role, Role::Placing(_));
        let mut pair = Pair { taken: placed, ..Pair::of(session, server, process) };
        pair.owe(CLIENT, &owed);
        pair.owe(SERVER, &request);
        pair.owe(SERVER, &unread);
        let conn = pair.conn;
        let Some(slot) = self.pair_up(pair) else { return Ok(()) };
        if placed {
            self.tell_front(&ToFront::Taken { conn });
        }
        match self.carry(slot, CLIENT) {
            Ok(()) => self.rewatch(slot),
            Err(end) => self.close_pair(slot, &end),
        }
        Ok(())
    }
}

/// A request's head with the client's address in it, and without the wish for another request after it: the connection is this request's.
pub fn with_client(head: &[u8], client: SocketAddr) -> Vec<u8> {
    let ip = client.ip().to_canonical().to_string();
    let mut lines = head.split_inclusive(|byte| *byte == b'\n');
    let mut out = Vec::with_capacity(head.len() + 128);
    out.extend_from_slice(lines.next().unwrap_or_default());
    for line in lines {
        let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
        let replaced = [&b"connection"[..], b"keep-alive", b"x-forwarded-for", b"x-real-ip"];
        let upgrades = name.eq_ignore_ascii_case(b"connection") && line.to_ascii_lowercase().windows(7).any(|word| word == b"upgrade");
        if line.trim_ascii().is_empty() {
            break;
        }
        if upgrades || !replaced.iter().any(|replaced| name.trim_ascii().eq_ignore_ascii_case(replaced)) {
            out.extend_from_slice(line);
        }
    }
    let closes = !head.to_ascii_lowercase().windows(8).any(|word| word == b"upgrade:");
    out.extend_from_slice(format!("X-Forwarded-For: {ip}\r\nX-Real-IP: {ip}\r\n").as_bytes());
    out.extend_from_slice(if closes { b"Connection: close\r\n\r\n" } else { b"\r\n" });
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn text(head: &str) -> String {
        String::from_utf8(with_client(head.as_bytes(), "[::ffff:192.0.2.7]:99".parse().unwrap())).unwrap()
    }

    #[test]
    fn a_request_says_whose_it_is_and_keeps_what_it_said() {
        let head = "GET /live/a.flv?token=x HTTP/1.1\r\nHost: v.example\r\nConnection: keep-alive\r\nX-Forwarded-For: 9.9.9.9\r\nReferer: r\r\n\r\n";
        assert_eq!(
            text(head),
            "GET /live/a.flv?token=x HTTP/1.1\r\nHost: v.example\r\nReferer: r\r\nX-Forwarded-For: 192.0.2.7\r\nX-Real-IP: 192.0.2.7\r\nConnection: close\r\n\r\n"
        );
    }

    #[test]
    fn an_upgrade_is_asked_for_as_it_was() {
        let upgraded = text("GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
        assert!(upgraded.contains("Connection: Upgrade\r\nUpgrade: websocket\r\n") && !upgraded.contains("close"), "{upgraded}");
    }
}
