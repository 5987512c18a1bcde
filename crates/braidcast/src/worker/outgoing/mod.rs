//! Connections that this worker opens: forwards of streams whose publishers it has, and pulls that the front has ordered.
//!
//! A connection is dialled here (its name looked up in a thread of its own, its addresses tried one after the other, nothing ever waited
//! for) and then is a session like any other, but for its protocol, [`Client`], and that it is not saved: whoever goes on after a death
//! connects anew. A forward is a viewer whose connection we opened; a pull is a publisher.

mod client;
mod forward;
mod pull;
mod resolve;

pub use client::{Client, message_stream, send_restamped};

use super::kept::Kept;
use super::session::{Protocol, Role, Session};
use super::sessions::Arrival;
use super::timers::Timers;
use super::{EXPIRED_PER_TURN, End, Worker, WorkerCounter};
use crate::control::{ConnId, Listener, Origin};
use crate::relays::report::{self, Kind, Relay};
use crate::relays::{self, Endpoint, Scheme};
use crate::saved::RowId;
use braidcast_media::StreamKey;
use braidcast_protocols::via::Via;
use braidcast_sys::net::{self, Positions};
use braidcast_sys::{Events, Interest, Poller};
use forward::Forward;
pub use pull::PullOrder;
use resolve::Resolver;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::Path;

/// Events of connections that are being made, taken in one turn.
const EVENTS: usize = 64;
/// The resolver's token in the poller of connections that are being made; theirs are their ids, which count from 1.
const RESOLVED: u64 = 0;
/// A connection that went well for so long begins its pauses anew, milliseconds.
const HEALTHY_MS: u64 = 10_000;

/// What a connection is opened for.
#[derive(Clone, Debug)]
pub(super) enum Purpose {
    /// A forward, by its id.
    Forward(u64),
    /// A pull.
    Pull(Box<PullOrder>),
}

/// A connection that is being made.
struct Dial {
    purpose: Purpose,
    endpoint: Endpoint,
    /// How many redirections have led here.
    redirects: u8,
    addresses: VecDeque<SocketAddr>,
    socket: Option<OwnedFd>,
    deadline_ms: u64,
    /// Why the last address did not do.
    error: Option<String>,
}

/// All of them, and what they are for.
pub(super) struct Outgoing {
    /// This server's name, for others that a stream passes through.
    instance: String,
    poller: Poller,
    events: Events,
    resolver: Resolver,
    dials: HashMap<u64, Dial>,
    forwards: HashMap<u64, Forward>,
    next_id: u64,
    /// Deadlines of dials, and when forwards are tried again; by id.
    timers: Timers,
    /// When the front was last told that somebody wants a stream.
    wanted: HashMap<StreamKey, u64>,
    reported: Vec<Relay>,
}

impl Outgoing {
    /// None yet. What is ready is told by one descriptor, [`Outgoing::watch`].
    pub fn new(shared_dir: &Path) -> io::Result<Self> {
        let (poller, resolver) = (Poller::new()?, Resolver::new()?);
        poller.add(&resolver, RESOLVED, Interest::READ)?;
        Ok(Self {
            instance: relays::instance_id(shared_dir)?,
            poller,
            events: Events::with_capacity(EVENTS),
            resolver,
            dials: HashMap::new(),
            forwards: HashMap::new(),
            next_id: 0,
            timers: Timers::default(),
            wanted: HashMap::new(),
            reported: Vec::new(),
        })
    }

    /// Has it watched in a worker's poller.
    pub fn watch(&self, poller: &Poller, token: u64) -> io::Result<()> {
        poller.add(&self.poller, token, Interest::READ)
    }

    /// See [`crate::relays::instance_id`].
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// The next deadline, monotonic milliseconds.
    pub fn next_ms(&self) -> Option<u64> {
        self.timers.next_ms()
    }

    fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }
}

impl Worker {
    /// Goes on with connections that are being made: something about them is ready.
    pub(super) fn outgoing_ready(&mut self) {
        if let Err(error) = self.outgoing.poller.wait(&mut self.outgoing.events, Some(std::time::Duration::ZERO)) {
            tracing::error!(%error, "cannot look at connections to other servers");
        }
        let ready: Vec<u64> = self.outgoing.events.iter().map(|event| event.token).collect();
        for id in ready {
            if id == RESOLVED {
                while let Some((id, found)) = self.outgoing.resolver.poll() {
                    self.resolved(id, found);
                }
            } else {
                self.dial_answered(id);
            }
        }
    }

    /// Acts on what is due.
    pub(super) fn expire_outgoing(&mut self) {
        let now_ms = self.now.mono_ms;
        for _ in 0..EXPIRED_PER_TURN {
            let Some((at_ms, id)) = self.outgoing.timers.pop_due(now_ms) else { return };
            if self.outgoing.dials.get(&id).is_some_and(|dial| dial.deadline_ms == at_ms) {
                self.dial_failed(id, "it does not answer in time");
            } else if self.outgoing.forwards.contains_key(&id) {
                self.retry_forward(id, at_ms);
            }
        }
    }

    /// Begins to connect to another server; how it went is told to the purpose, perhaps before this returns.
    fn dial(&mut self, purpose: Purpose, endpoint: Endpoint, redirects: u8) -> u64 {
        let id = self.outgoing.new_id();
        let deadline_ms = self.now.mono_ms + self.config.relay.answer.as_ms();
        let (host, port) = (endpoint.host.clone(), endpoint.port);
        let dial = Dial { purpose, endpoint, redirects, addresses: VecDeque::new(), socket: None, deadline_ms, error: None };
        self.outgoing.dials.insert(id, dial);
        self.outgoing.timers.set(deadline_ms, id);
        match host.parse::<IpAddr>() {
            Ok(ip) => self.resolved(id, Ok(vec![SocketAddr::new(ip, port)])),
            Err(_) if !self.outgoing.resolver.ask(id, &host, port) => self.dial_failed(id, "too many names are being looked up"),
            Err(_) => {}
        }
        id
    }

    /// Gives up a connection that is being made; nobody is told.
    fn forget_dial(&mut self, id: u64) -> Option<Dial> {
        let mut dial = self.outgoing.dials.remove(&id)?;
        self.drop_socket(dial.socket.take());
        Some(dial)
    }

    fn drop_socket(&self, socket: Option<OwnedFd>) {
        if let Some(socket) = socket
            && let Err(error) = self.outgoing.poller.delete(&socket)
        {
            tracing::debug!(%error, "cannot unwatch a connection that was being made");
        }
    }

    fn resolved(&mut self, id: u64, found: Result<Vec<SocketAddr>, String>) {
        match found {
            Ok(addresses) => {
                let Some(dial) = self.outgoing.dials.get_mut(&id) else { return };
                dial.addresses = addresses.into();
                self.try_address(id);
            }
            Err(error) => self.dial_failed(id, &error),
        }
    }

    /// Tries the next address.
    fn try_address(&mut self, id: u64) {
        loop {
            let Some(dial) = self.outgoing.dials.get_mut(&id) else { return };
            let Some(address) = dial.addresses.pop_front() else {
                let error = dial.error.take().unwrap_or_else(|| "the name has no address".to_owned());
                return self.dial_failed(id, &error);
            };
            if is_own(&self.listeners, address) {
                self.count(WorkerCounter::RefusedLoops);
                return self.dial_failed(id, "loop: that is this server itself");
            }
            let connected =
                net::connect(address).and_then(|socket| self.outgoing.poller.add(&socket, id, Interest::WRITE).map(|()| socket));
            match connected {
                Ok(socket) => {
                    dial.socket = Some(socket);
                    return;
                }
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    let port = address.port();
                    dial.error =
                        Some(format!("{address}: {error}; workers may not connect to port {port}, unless [sandbox] connect names it"));
                }
                Err(error) => dial.error = Some(format!("{address}: {error}")),
            }
        }
    }

    /// A connection is made, or has failed.
    fn dial_answered(&mut self, id: u64) {
        let Some(socket) = self.outgoing.dials.get_mut(&id).and_then(|dial| dial.socket.take()) else { return };
        let result = net::take_error(&socket).and_then(|()| net::peer_addr(&socket));
        if let Err(error) = self.outgoing.poller.delete(&socket) {
            tracing::debug!(%error, "cannot unwatch a connection that was being made");
        }
        match result {
            Ok(peer) => {
                if let Some(dial) = self.outgoing.dials.remove(&id) {
                    self.connected(dial, socket, peer);
                }
            }
            Err(error) => {
                if let Some(dial) = self.outgoing.dials.get_mut(&id) {
                    dial.error = Some(format!("it cannot be connected to: {error}"));
                }
                self.try_address(id);
            }
        }
    }

    fn dial_failed(&mut self, id: u64, error: &str) {
        if let Some(dial) = self.forget_dial(id) {
            self.purpose_failed(dial.purpose, error, false);
        }
    }

    fn purpose_failed(&mut self, purpose: Purpose, error: &str, was_running: bool) {
        match purpose {
            Purpose::Forward(forward) => self.forward_failed(forward, error, was_running),
            Purpose::Pull(order) => self.pull_failed(&order, error),
        }
    }

    /// The connection stands: it becomes a session.
    fn connected(&mut self, dial: Dial, socket: OwnedFd, peer: SocketAddr) {
        let Dial { purpose, endpoint, redirects, .. } = dial;
        let conn = match &purpose {
            Purpose::Forward(_) => ConnId::own(self.outgoing.new_id()),
            Purpose::Pull(order) => order.conn,
        };
        let row = match &purpose {
            Purpose::Forward(_) => NO_ROW,
            Purpose::Pull(order) => order.row,
        };
        let local = net::local_addr(&socket).unwrap_or(peer);
        let arrival = Arrival { conn, row, origin: Origin { listener: Listener::Rtmp, peer, local } };
        let via = self.via_for(&purpose);
        let client = Client::new(purpose.clone(), endpoint, redirects, via, &self.config, conn.0 ^ self.now.wall_ms);
        let mut kept = Kept::new(row, Positions { written: 0, read: 0 });
        kept.lost = true;
        let Some(slot) = self.insert_session(arrival, socket, Protocol::Client(Box::new(client)), kept) else {
            return self.purpose_failed(purpose, "the connection cannot be watched", false);
        };
        if let Purpose::Forward(id) = purpose
            && let Some(forward) = self.outgoing.forwards.get_mut(&id)
        {
            forward.connected(slot);
        }
        self.sessions[slot].deadline_ms = self.now.mono_ms + self.config.relay.answer.as_ms();
        self.watch_deadline(slot);
        if let Err(end) = self.send_rtmp(slot) {
            self.close(slot, end);
        }
    }

    /// The servers that another one is told of.
    fn via_for(&self, purpose: &Purpose) -> Via {
        let before = match purpose {
            Purpose::Forward(id) => self.outgoing.forwards.get(id).map(|forward| self.stream_via(&forward.key)).unwrap_or_default(),
            Purpose::Pull(order) => order.via.clone(),
        };
        before.then(&self.outgoing.instance)
    }

    /// Whom a stream here has passed through.
    pub(super) fn stream_via(&self, key: &StreamKey) -> Via {
        std::fs::read_to_string(self.via_file(key)).map(|text| Via::parse(&text)).unwrap_or_default()
    }

    fn via_file(&self, key: &StreamKey) -> std::path::PathBuf {
        self.root.stream_dir(key).join("via")
    }

    /// Notes whom the stream that a session begins to publish has passed through, for all workers.
    pub(super) fn note_via(&mut self, slot: usize, key: &StreamKey) {
        let via = match &self.sessions[slot].more.protocol {
            Protocol::Rtmp(rtmp) => rtmp.request().map(|request| request.via).unwrap_or_default(),
            Protocol::Client(client) => client.server_via(),
            _ => Via::default(),
        };
        let file = self.via_file(key);
        let noted = match via.is_empty() {
            true => std::fs::remove_file(&file).or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }),
            false => std::fs::write(&file, via.to_string()),
        };
        if let Err(error) = noted {
            tracing::error!(stream = %key, %error, "whom the stream has passed through cannot be noted");
        }
    }

    /// Why a stream must not go to, or come from, a server that says whom it passes: it would go round in circles.
    pub(super) fn loop_of(&mut self, slot: usize, via: &Via, key: &StreamKey, publishes: bool) -> Option<&'static str> {
        let why = if via.is_empty() {
            return None;
        } else if via.contains(&self.outgoing.instance) {
            "loop: the stream has passed through this server already"
        } else if via.is_full() {
            "loop: the stream has passed through too many servers"
        } else if !publishes && self.stream_via(key).meets(via) {
            "loop: the stream comes from the server that asks for it"
        } else {
            return None;
        };
        self.count(WorkerCounter::RefusedLoops);
        if self.peer_lines.allow(self.now.mono_ms) {
            let Session { conn, ref more, .. } = self.sessions[slot];
            let peer = more.peer;
            tracing::warn!(stream = %key, %conn, %peer, %via, "refused: {why}");
        }
        Some(why)
    }

    /// What a server that plays a stream is told of whom it passed through; for other viewers nothing.
    pub(super) fn via_for_server(&self, slot: usize) -> Via {
        let session = &self.sessions[slot];
        let asks = match &session.more.protocol {
            Protocol::Rtmp(rtmp) => rtmp.request().is_some_and(|request| !request.via.is_empty()),
            _ => session.more.via.is_some(),
        };
        match &session.role {
            Role::Waiting(wish) if asks => self.stream_via(&wish.key).then(&self.outgoing.instance),
            _ => Via::default(),
        }
    }

    /// Closes a session whose other end is a server: what it was for goes on in its own way.
    pub(super) fn close_outgoing(&mut self, slot: usize, end: &End) {
        self.leave_role(slot, &end.of_server());
        let mut session = self.sessions.remove(slot);
        self.unwatch(&session);
        let (conn, bytes) = (session.conn, session.ledger.sent());
        let Protocol::Client(client) = std::mem::replace(&mut session.more.protocol, Protocol::Resting) else { return };
        let running = client.was_running;
        let error = client.endpoint.scrub(&client.error.clone().unwrap_or_else(|| end.of_server()));
        if let Some(target) = client.redirect
            && !self.is_stopping()
        {
            let (purpose, redirects) = (client.purpose, client.redirects + 1);
            self.dial(purpose, target, redirects);
            return;
        }
        if let Purpose::Forward(id) = client.purpose
            && let Some(forward) = self.outgoing.forwards.get_mut(&id)
        {
            forward.bytes += bytes;
        }
        tracing::debug!(%conn, "a connection to another server is over: {error}");
        self.purpose_failed(client.purpose, &error, running);
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping_since_ms.is_some()
    }

    /// Ends all that is being connected: the worker ends.
    pub(super) fn end_outgoing(&mut self) {
        let dials: Vec<u64> = self.outgoing.dials.keys().copied().collect();
        for id in dials {
            self.forget_dial(id);
        }
        self.outgoing.forwards.clear();
    }

    /// Once a second: says how forwards and pulls get on, and which streams are wanted.
    pub(super) fn report_outgoing(&mut self) {
        self.want_watched();
        let mut relays: Vec<Relay> = self.outgoing.forwards.values().map(|forward| self.forward_report(forward)).collect();
        relays.extend(self.pull_reports());
        if relays.is_empty() && self.outgoing.reported.is_empty() {
            return;
        }
        relays.sort_by(|a, b| (a.kind, &a.stream, &a.url).cmp(&(b.kind, &b.stream, &b.url)));
        let running = |kind| relays.iter().filter(|relay| relay.kind == kind && relay.state == report::State::Running).count() as u64;
        self.set(WorkerCounter::Forwards, running(Kind::Forward));
        self.set(WorkerCounter::Pulls, running(Kind::Pull));
        if relays != self.outgoing.reported {
            if let Err(error) = report::write(&self.config.server.shared_dir, &self.id.to_string(), &relays) {
                tracing::debug!(%error, "cannot say how forwards and pulls get on");
            }
            self.outgoing.reported = relays;
        }
    }
}

/// The row of a session that is never saved and that the front does not know.
const NO_ROW: RowId = RowId(u32::MAX);

/// Whether an address is one that this server listens on.
fn is_own(listeners: &[(crate::control::ListeningSocket, OwnedFd)], address: SocketAddr) -> bool {
    let same = |ip: IpAddr| match ip.is_unspecified() {
        // Whatever can be bound to is ours.
        true => address.ip().is_loopback() || UdpSocket::bind((address.ip(), 0)).is_ok(),
        false => ip == address.ip(),
    };
    listeners.iter().any(|(listening, _)| listening.address.port() == address.port() && same(listening.address.ip()))
}

/// Whether a stream can be fetched by a worker itself.
pub(super) fn is_native(endpoint: &Endpoint) -> bool {
    endpoint.scheme != Scheme::Hls
}
