//! RTMP clients of a relay: heard until they publish or play, then connected.

use super::super::access::Said;
use super::super::rendition::{Form, Rendition};
use super::super::session::{Protocol, Session, Want, Wish};
use super::super::{End, Worker};
use super::pair::{CLIENT, Pair};
use super::{Leaving, connect};
use crate::config::{ClientAddress, EngineKind};
use crate::control::{EngineProcess, Intent, Refusal};
use braidcast_protocols::proxy;
use braidcast_protocols::rtmp::relay::{RelayOutput, RelaySession, RelaySettings};
use braidcast_protocols::rtmp::{Request, Settings};
use std::net::SocketAddr;

impl Worker {
    /// For a client that has just come.
    pub(in super::super) fn new_relay(&self, seed: u64, session: Settings) -> Protocol {
        let settings = RelaySettings { session, enhanced: false, server_ms: self.config.relay.answer.as_ms() };
        Protocol::Relay(Box::new(RelaySession::new(settings, seed, self.now.mono_ms)))
    }

    /// Gives a client's bytes to its machine, and asks where it belongs once that is known.
    pub(in super::super) fn feed_relay(&mut self, slot: usize, bytes: &[u8]) -> Result<usize, End> {
        let now_ms = self.now.mono_ms;
        let Protocol::Relay(machine) = &mut self.sessions[slot].more.protocol else { return Ok(bytes.len()) };
        let used = machine.handle_client(bytes, now_ms);
        self.sessions[slot].kept.consumed += *used.as_ref().unwrap_or(&bytes.len());
        let acted = self.act_on_relay(slot);
        match used {
            Ok(used) => acted.map(|()| used),
            Err(error) => {
                let end = self.rtmp_error(&error);
                acted?;
                self.log_end(slot, &end);
                self.close_when_sent(slot);
                Ok(bytes.len())
            }
        }
    }

    fn act_on_relay(&mut self, slot: usize) -> Result<(), End> {
        while let Some(session) = self.sessions.get_mut(slot) {
            let Protocol::Relay(machine) = &mut session.more.protocol else { return Ok(()) };
            match machine.poll_output() {
                Some(RelayOutput::Publish(request)) => self.relay_wish(slot, *request, Want::Publish)?,
                Some(RelayOutput::Play(request)) => {
                    let rendition = Rendition { form: Form::Rtmp, tracks: request.tracks };
                    self.relay_wish(slot, *request, Want::Play(rendition))?;
                }
                Some(RelayOutput::Refused { .. }) => {}
                None => break,
            }
        }
        self.send_rtmp(slot)
    }

    fn relay_wish(&mut self, slot: usize, request: Request, what: Want) -> Result<(), End> {
        let key = self.relayed(request.key);
        let intent = if what == Want::Publish { Intent::Publish } else { Intent::Play };
        let said = Said { intent, key: &key, params: &request.params, bearer: None, page: &request.page_url };
        if !self.lets_in(slot, &said)? {
            return Ok(());
        }
        self.ask_place(slot, Wish { key, what }, &request.params)
    }

    /// A timer of the machine is due.
    pub(in super::super) fn expire_relay(&mut self, slot: usize) -> Result<(), End> {
        let now_ms = self.now.mono_ms;
        let Protocol::Relay(machine) = &mut self.sessions[slot].more.protocol else { return Ok(()) };
        let expired = machine.handle_timeout(now_ms);
        self.act_on_relay(slot)?;
        expired.map_err(|error| self.rtmp_error(&error))
    }

    /// Connects a client with the process that it was placed at.
    pub(super) fn connect_rtmp(&mut self, slot: usize, process: EngineProcess) -> Result<(), End> {
        let server = match connect(process.rtmp) {
            Ok(server) => server,
            Err(error) => {
                let Session { conn, ref more, .. } = self.sessions[slot];
                let peer = more.peer;
                tracing::warn!(%conn, %peer, process = %process.process, %error, "the process takes no connection");
                return self.refuse(slot, Refusal::Unavailable);
            }
        };
        let Leaving { mut session, owed, unread } = self.leave_table(slot);
        let prefix = self.client_prefix(session.more.peer, process.rtmp);
        let Protocol::Relay(mut machine) = std::mem::replace(&mut session.more.protocol, Protocol::Unknown) else { return Ok(()) };
        machine.begin(&prefix, self.now.mono_ms);
        let mut pair = Pair { machine: Some(machine), unread, ..Pair::of(session, server, process.process) };
        pair.owe(CLIENT, &owed);
        let Some(slot) = self.pair_up(pair) else { return Ok(()) };
        match self.feed_machine(slot, CLIENT, &[]) {
            Ok(()) => self.rewatch(slot),
            Err(end) => self.close_pair(slot, &end),
        }
        Ok(())
    }

    /// What a process is told first, of whose connection it is.
    fn client_prefix(&self, peer: SocketAddr, local: SocketAddr) -> Vec<u8> {
        let how = match self.config.engine.kind {
            EngineKind::Srs => ClientAddress::Srs,
            _ => self.config.engine.client_address,
        };
        match how {
            ClientAddress::None => Vec::new(),
            ClientAddress::Srs => proxy::real_ip_prefix(peer.ip()),
            ClientAddress::Proxy => proxy_line(peer, local),
        }
    }
}

/// A PROXY header of version 1. Both addresses have to be of one family: another one than the client's is written as one of its own.
fn proxy_line(client: SocketAddr, server: SocketAddr) -> Vec<u8> {
    let (family, server_ip) = match (client.ip().to_canonical(), server.ip()) {
        (std::net::IpAddr::V4(_), server) => ("TCP4", server),
        (std::net::IpAddr::V6(_), _) => ("TCP6", std::net::Ipv6Addr::LOCALHOST.into()),
    };
    format!("PROXY {family} {} {server_ip} {} {}\r\n", client.ip().to_canonical(), client.port(), server.port()).into_bytes()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use braidcast_protocols::proxy::{Form, PrefixReader, Sender};

    #[test]
    fn a_proxy_line_is_read_as_it_was_meant() {
        let server = "127.0.0.1:1935".parse().unwrap();
        for client in ["192.0.2.7:4000", "[2001:db8::1]:5", "[::ffff:192.0.2.9]:6"] {
            let client: SocketAddr = client.parse().unwrap();
            let line = proxy_line(client, server);
            let (used, sender) = PrefixReader::new(Form::Proxy).handle_input(&line).unwrap();
            assert_eq!(used, line.len());
            assert!(matches!(sender, Some(Sender::Is(said)) if said == SocketAddr::new(client.ip().to_canonical(), client.port())));
        }
    }
}
