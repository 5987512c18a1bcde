//! Whose a connection is when it comes through a proxy: what is said by a prefix to the client's bytes, or with an HTTP request.
//!
//! Only who is in `trusted_proxies` is believed. From then on a session is the client's, in the log, towards the front and in what is
//! saved; a session whose worker dies before the front has heard of it is named once more, from the same bytes.

use super::session::Protocol;
use super::sessions::Arrival;
use super::{End, Worker};
use crate::control::counters::WorkerCounter;
use crate::control::{ConnId, Listener, Origin, ToFront};
use braidcast_protocols::http::Forwarded;
use braidcast_protocols::proxy::{Form, PrefixReader, Sender};
use braidcast_sys::fault::kill_point;
use std::fmt;
use std::net::SocketAddr;

impl Worker {
    /// What a new connection begins with. An RTMP handshake is to be done at `handshake_ms`.
    pub(super) fn first_protocol(&self, arrival: &Arrival, handshake_ms: u64) -> Protocol {
        let Arrival { conn, origin: Origin { listener, peer, .. }, .. } = *arrival;
        match self.config.expects_proxy(listener) {
            true => Protocol::Prefix(Box::new(PrefixReader::new(Form::Proxy))),
            false => self.next_protocol(conn, listener, Some(peer), handshake_ms),
        }
    }

    /// What follows when nothing, or no more, is said by a PROXY header. If `holder` speaks RTMP it may be SRS's proxy.
    fn next_protocol(&self, conn: ConnId, listener: Listener, holder: Option<SocketAddr>, handshake_ms: u64) -> Protocol {
        match listener {
            Listener::Rtmp | Listener::Rtmps | Listener::Sub if holder.is_some_and(|holder| self.config.trusts(holder.ip())) => {
                Protocol::Prefix(Box::new(PrefixReader::new(Form::RealIp)))
            }
            Listener::Rtmp | Listener::Rtmps => self.new_rtmp(conn, handshake_ms),
            Listener::Http | Listener::Https | Listener::Api | Listener::HttpsApi | Listener::Metrics => self.new_http(listener),
            Listener::Sub => Protocol::Unknown,
        }
    }

    /// Gives bytes to what reads the prefixes of a connection, one after the other; says how many they were.
    pub(super) fn feed_prefixes(&mut self, slot: usize, bytes: &[u8]) -> Result<usize, End> {
        let mut used = 0;
        while let Protocol::Prefix(reader) = &mut self.sessions[slot].more.protocol {
            let form = reader.form();
            let (step, sender) = reader.handle_input(&bytes[used..]).map_err(|error| self.bad_prefix(form, &error))?;
            used += step;
            self.sessions[slot].kept.consumed += step;
            match sender {
                Some(sender) => self.end_prefix(slot, form, sender)?,
                None => break,
            }
        }
        Ok(used)
    }

    fn end_prefix(&mut self, slot: usize, form: Form, sender: Sender) -> Result<(), End> {
        let session = &self.sessions[slot];
        let (conn, proxy, deadline_ms) = (session.conn, session.more.holder, session.deadline_ms);
        if form == Form::Proxy && !self.config.trusts(proxy.ip()) {
            // The front lets nobody else in, unless it runs with another configuration than this worker.
            return Err(self.bad_prefix(form, &"it is from an address that is not trusted"));
        }
        if let Sender::Is(client) = sender {
            let session = &mut self.sessions[slot];
            (session.more.peer, session.more.holder) = (client, client);
            kill_point("naming");
            tracing::debug!(%conn, peer = %client, %proxy, "a proxy says whose connection it is");
            self.tell_front(&ToFront::Named { conn, client });
            kill_point("named");
        }
        let session = &self.sessions[slot];
        let holder = Some(session.more.holder).filter(|_| form == Form::Proxy);
        let next = self.next_protocol(conn, session.more.listener, holder, deadline_ms);
        let session = &mut self.sessions[slot];
        if matches!(next, Protocol::Rtmp(_) | Protocol::Relay(_)) {
            // Its handshake has a timer of its own, for the time that is left.
            session.deadline_ms = 0;
        }
        session.more.protocol = next;
        self.watch_deadline(slot);
        Ok(())
    }

    /// Why a connection is closed that does not begin as it has to.
    pub(super) fn bad_prefix(&self, form: Form, why: &dyn fmt::Display) -> End {
        self.count(WorkerCounter::RefusedProxyHeaders);
        End::Peer(match form {
            Form::Proxy => format!("the connection has to begin with a PROXY header: {why}"),
            Form::RealIp => format!("the connection begins with a bad real-IP prefix: {why}"),
        })
    }

    /// Who sent an HTTP request, as far as the proxies that passed it on are trusted.
    pub(super) fn name_client(&mut self, slot: usize, forwarded: &Forwarded) {
        let session = &self.sessions[slot];
        let holder = session.more.holder;
        let client = forwarded.client(holder, |address| self.config.trusts(address));
        if forwarded.is_malformed() && self.config.trusts(holder.ip()) {
            self.count(WorkerCounter::ForwardedMalformed);
        }
        self.sessions[slot].more.peer = client;
    }
}
