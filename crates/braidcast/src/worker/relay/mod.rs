//! This worker as a relay before processes of another server: a client is heard until it is known what it wants, the front says which
//! process has it, and then bytes go both ways as they are.
//!
//! A client that is being heard is a session like any other ([`Protocol::Relay`], or HTTP). Connected to a process it is a [`pair::Pair`], which
//! knows no protocol any more. Neither is ever saved: what went through a relay ends with it.

mod api;
mod clients;
mod http;
mod keeper;
mod pair;
mod rtmp;

use super::session::{Protocol, Session, Want};
use super::timers::Timers;
use super::{End, Worker};
use crate::control::{EngineProcess, ProcessId, Refusal, ToFront};
use crate::engine::SiteFacts;
use braidcast_media::StreamKey;
use braidcast_sys::{Interest, Pipe, net};
use keeper::Keeper;
use pair::{CLIENT, Pair, SERVER};
use slab::Slab;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;

/// Set in tokens that mean a socket of a pair; sessions have it never.
pub const PAIR_TOKEN: u64 = 1 << 63;
/// Set in those of the process's side.
const SERVER_TOKEN: u64 = 1 << 62;
/// Pipes that are kept for the next bytes.
const IDLE_PIPES: usize = 8;

/// All that a relay has.
pub(super) struct Relays {
    pairs: Slab<Pair>,
    by_conn: HashMap<crate::control::ConnId, usize>,
    /// Empty ones.
    pipes: Vec<Pipe>,
    processes: Vec<EngineProcess>,
    timers: Timers,
    generation: u32,
    buffer: Vec<u8>,
    keeper: Keeper,
    /// The site has its API on the port of HTTP.
    api_on_http: bool,
    api: api::Asked,
    /// What the file of clients says is not so any more.
    clients_changed: bool,
}

impl Relays {
    /// None yet.
    pub fn new(config: &crate::config::Config) -> io::Result<Self> {
        let SiteFacts { api_auth, api_on_http } = SiteFacts::of(config);
        Ok(Self {
            api_on_http,
            pairs: Slab::new(),
            by_conn: HashMap::new(),
            pipes: Vec::new(),
            processes: Vec::new(),
            timers: Timers::default(),
            generation: 0,
            buffer: Vec::new(),
            keeper: Keeper::new(config, api_auth.as_ref())?,
            api: api::Asked::new(&config.server.shared_dir, api_auth.as_ref())?,
            clients_changed: true,
        })
    }

    /// Has what it waits for told in a worker's poller.
    pub fn watch(&self, poller: &braidcast_sys::Poller, processes: u64, answers: u64) -> io::Result<()> {
        poller.add(&self.keeper, processes, Interest::READ)?;
        poller.add(&self.api, answers, Interest::READ)
    }

    /// The next deadline, monotonic milliseconds.
    pub fn next_ms(&self) -> Option<u64> {
        self.timers.next_ms().into_iter().chain(self.keeper.next_ms()).min()
    }

    /// Connections that go through.
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// What goes through, for the gauges: publishers, RTMP players, others.
    pub fn counts(&self) -> (u64, u64, u64) {
        let mut counts = (0, 0, 0);
        for (_, pair) in &self.pairs {
            match pair.want {
                Some(Want::Publish) => counts.0 += 1,
                Some(Want::Play(rendition)) if rendition.form == super::rendition::Form::Rtmp => counts.1 += 1,
                Some(Want::Play(_)) => counts.2 += 1,
                None => {}
            }
        }
        counts
    }

    /// Whether the site has its API on the port of HTTP.
    pub fn has_api_on_http(&self) -> bool {
        self.api_on_http
    }

    /// A process that takes connections.
    fn process(&self, id: ProcessId) -> Option<EngineProcess> {
        self.processes.iter().find(|process| process.process == id && process.serves).copied()
    }
}

/// What a session leaves to the pair that it becomes.
struct Leaving {
    session: Session,
    /// What its client is still to be sent.
    owed: Vec<u8>,
    /// What it has sent and nobody has taken.
    unread: Vec<u8>,
}

impl Worker {
    /// The front says where the processes are.
    pub(super) fn processes_changed(&mut self, processes: Vec<EngineProcess>) {
        self.relays.processes = processes;
    }

    /// A session was placed at a process: connects it.
    pub(super) fn connect_through(&mut self, slot: usize, process: ProcessId) -> Result<(), End> {
        let Some(address) = self.relays.process(process) else { return self.refuse(slot, Refusal::Unavailable) };
        match self.sessions[slot].more.protocol {
            Protocol::Relay(_) => self.connect_rtmp(slot, address),
            Protocol::Http(_) => self.connect_http(slot, address.process, address.http),
            _ => Err(End::Fault("a session of no protocol that is relayed was placed at a process")),
        }
    }

    /// Takes a session out of the table, to become a pair.
    fn leave_table(&mut self, slot: usize) -> Leaving {
        let mut session = self.sessions.remove(slot);
        self.unwatch(&session);
        self.release_kept(&session);
        let (owed, unread) = (std::mem::take(&mut session.more.control), std::mem::take(&mut session.more.unread));
        Leaving { session, owed, unread }
    }

    /// Connects a client with a process. On failure both are closed and the front is told.
    fn pair_up(&mut self, pair: Pair) -> Option<usize> {
        self.relays.generation = (self.relays.generation + 1) & 0x3fff_ffff;
        let conn = pair.conn;
        let slot = self.relays.pairs.insert(Pair { generation: self.relays.generation, ..pair });
        let pair = &self.relays.pairs[slot];
        let token = PAIR_TOKEN | u64::from(pair.generation) << 32 | slot as u64;
        let watched = self
            .poller
            .add(&pair.ends[CLIENT].socket, token, Interest::READ)
            .and_then(|()| self.poller.add(&pair.ends[SERVER].socket, token | SERVER_TOKEN, Interest::READ));
        self.relays.by_conn.insert(conn, slot);
        if let Err(error) = watched {
            self.close_pair(slot, &End::Socket(error));
            return None;
        }
        Some(slot)
    }

    /// What epoll says of a socket of a pair.
    pub(super) fn pair_event(&mut self, token: u64, event: braidcast_sys::Event) {
        let slot = (token & u64::from(u32::MAX)) as usize;
        let generation = (token >> 32) as u32 & 0x3fff_ffff;
        let side = if token & SERVER_TOKEN == 0 { CLIENT } else { SERVER };
        if self.relays.pairs.get(slot).is_none_or(|pair| pair.generation != generation) {
            return;
        }
        if event.dead
            && let Err(error) = net::take_error(&self.relays.pairs[slot].ends[side].socket)
        {
            return self.close_pair(slot, &End::Socket(error));
        }
        let mut moved = Ok(());
        if event.writable {
            moved = self.carry(slot, 1 - side);
        }
        if moved.is_ok() && (event.readable || event.peer_closed || event.dead) && self.relays.pairs.contains(slot) {
            moved = self.carry(slot, side);
        }
        match moved {
            Ok(()) => self.rewatch(slot),
            Err(end) => self.close_pair(slot, &end),
        }
    }

    /// Ends a pair: the server lost the stream to somebody else, or the client is not let in.
    pub(super) fn close_pair_of(&mut self, conn: crate::control::ConnId, end: End) -> bool {
        let Some(&slot) = self.relays.by_conn.get(&conn) else { return false };
        self.close_pair(slot, &end);
        true
    }

    /// Closes a pair whose stream is another's now, or at another process; false if there is none.
    pub(super) fn evict_pair_of(&mut self, conn: crate::control::ConnId) -> bool {
        let Some(&slot) = self.relays.by_conn.get(&conn) else { return false };
        let why = match self.relays.pairs[slot].want {
            Some(Want::Publish) => "a newer publisher takes the stream over",
            _ => "the stream is published at another process now, where its players are led when they come back",
        };
        self.close_pair(slot, &End::Peer(why.into()));
        true
    }

    fn close_pair(&mut self, slot: usize, end: &End) {
        let Some(pair) = self.relays.pairs.try_remove(slot) else { return };
        self.relays.by_conn.remove(&pair.conn);
        self.relays.clients_changed |= pair.client_id.is_some();
        for side in &pair.ends {
            if let Err(error) = self.poller.delete(&side.socket) {
                tracing::debug!(conn = %pair.conn, %error, "cannot unwatch a socket");
            }
        }
        let (conn, peer, process) = (pair.conn, pair.peer, tracing::field::display(pair.process));
        let stream = pair.key.as_ref().map(tracing::field::display);
        match (end, pair.want) {
            (End::Peer(why), _) if self.peer_lines.allow(self.now.mono_ms) => {
                tracing::info!(stream, %conn, %peer, process, "closed by us: {why}");
            }
            (_, Some(Want::Publish)) if self.peer_lines.allow(self.now.mono_ms) => {
                tracing::info!(stream, %conn, %peer, process, "publishing ended: {end}");
            }
            _ => tracing::debug!(stream, %conn, %peer, process, "closed: {end}"),
        }
        self.tell_front(&ToFront::Closed { conn });
    }

    /// Acts on deadlines that have passed.
    pub(super) fn expire_relays(&mut self) {
        for _ in 0..super::EXPIRED_PER_TURN {
            let Some((at_ms, token)) = self.relays.timers.pop_due(self.now.mono_ms) else { break };
            let (slot, generation) = ((token & u64::from(u32::MAX)) as usize, (token >> 32) as u32);
            let Some(pair) = self.relays.pairs.get_mut(slot) else { continue };
            if pair.generation != generation || pair.deadline_ms != at_ms {
                continue;
            }
            pair.deadline_ms = 0;
            self.pair_overdue(slot);
        }
        self.keep();
    }

    fn pair_overdue(&mut self, slot: usize) {
        let now_ms = self.now.mono_ms;
        let pair = &mut self.relays.pairs[slot];
        let end = match &mut pair.machine {
            Some(machine) => match machine.handle_timeout(now_ms) {
                Ok(()) => None,
                Err(error) => {
                    let last = machine.take_client_outbox();
                    pair.owe(CLIENT, &last);
                    pair.machine = None;
                    pair.flows[CLIENT].ended = true;
                    pair.flows[SERVER].ended = true;
                    // The client is told why, as far as it takes it at once.
                    let _ = self.carry(slot, SERVER);
                    Some(End::Peer(error.to_string()))
                }
            },
            None => Some(End::Done),
        };
        match end {
            Some(end) => self.close_pair(slot, &end),
            None => self.plan_deadline(slot, 0),
        }
    }

    /// Has a pair looked at again, at the latest when its machine wants it.
    fn plan_deadline(&mut self, slot: usize, at_ms: u64) {
        let Some(pair) = self.relays.pairs.get_mut(slot) else { return };
        let wanted = pair.machine.as_ref().and_then(|machine| machine.poll_timeout()).unwrap_or(at_ms);
        if wanted != 0 && wanted != pair.deadline_ms {
            pair.deadline_ms = wanted;
            self.relays.timers.set(wanted, u64::from(pair.generation) << 32 | slot as u64);
        }
    }

    /// Ends everything.
    pub(super) fn end_relays(&mut self) {
        let slots: Vec<usize> = self.relays.pairs.iter().map(|(slot, _)| slot).collect();
        slots.into_iter().for_each(|slot| self.close_pair(slot, &End::Done));
    }

    /// What a front that takes over needs to know of what goes through.
    pub(super) fn pairs_held(&self) -> impl Iterator<Item = io::Result<(crate::control::Holding, std::os::fd::OwnedFd)>> + '_ {
        self.relays.pairs.iter().map(|(_, pair)| Ok((pair.holding(), pair.ends[CLIENT].socket.try_clone()?)))
    }

    /// Whose vhost a client names that there is not is the default one's; otherwise names stay as they are.
    fn relayed(&self, key: StreamKey) -> StreamKey {
        braidcast_media::vhost::restrict(key, &self.config.server.vhosts)
    }
}

/// A connection to a process; on loopback it is there at once, or refused.
fn connect(address: SocketAddr) -> io::Result<std::os::fd::OwnedFd> {
    let socket = net::connect(address)?;
    net::set_nodelay(&socket)?;
    Ok(socket)
}
