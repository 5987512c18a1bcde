//! A client and the process that serves it: what comes from one goes to the other, spliced, so that no byte is looked at or copied.
//!
//! Readiness is told again as long as there is some (level-triggered): each turn takes what fits a pipe and gives it on. A side that takes no
//! more stops the other one from being read, so that whoever is slow is slow for the server as if nobody were between.

use super::super::session::{Role, Session, Want};
use super::super::{End, Worker};
use crate::control::counters::WorkerCounter;
use crate::control::{ConnId, HeldPlace, Holding, Intent, Origin, ProcessId, ToFront};
use crate::saved::RowId;
use braidcast_media::StreamKey;
use braidcast_protocols::rtmp::relay::{RelayOutput, RelaySession};
use braidcast_sys::splice::DEFAULT_PIPE_BYTES;
use braidcast_sys::{Interest, Pipe, net};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;

/// The two ends of a pair; what flows from one is called after it.
pub const CLIENT: usize = 0;
pub const SERVER: usize = 1;
/// Bytes read at once while a machine looks at them.
const LOOKED_AT_BYTES: usize = 64 << 10;
/// How long a side may take to go when the other one has, milliseconds.
const LEAVING_MS: u64 = 5_000;

/// See the module's head.
pub struct Pair {
    pub conn: ConnId,
    pub row: RowId,
    pub origin: Origin,
    /// The client, as far as proxies that are trusted say.
    pub peer: SocketAddr,
    pub generation: u32,
    pub key: Option<StreamKey>,
    /// What for; `None`: something that is no stream.
    pub want: Option<Want>,
    /// As in [`crate::control::Asked`].
    pub credential: u64,
    pub process: ProcessId,
    /// What the process calls the client, RTMP.
    pub client_id: Option<String>,
    /// The process has taken it, and the front was told.
    pub taken: bool,
    /// RTMP, until both ends have heard the same.
    pub machine: Option<Box<RelaySession>>,
    /// What the client has sent and the machine has not taken.
    pub unread: Vec<u8>,
    pub ends: [Side; 2],
    /// From the client, from the server.
    pub flows: [Flow; 2],
    /// Monotonic milliseconds; 0: none.
    pub deadline_ms: u64,
}

/// One end.
pub struct Side {
    pub socket: OwnedFd,
    /// What its registration says now.
    watched: Interest,
}

impl Side {
    /// Watched for reading.
    pub fn new(socket: OwnedFd) -> Self {
        Self { socket, watched: Interest::READ }
    }
}

/// What goes from one end to the other.
#[derive(Default)]
pub struct Flow {
    /// Goes before what is in the pipe.
    pending: Vec<u8>,
    /// There is one while the other end does not take what is in it.
    pipe: Option<Pipe>,
    /// Nothing more comes.
    pub ended: bool,
    /// The other end has been told so.
    told: bool,
}

impl Flow {
    fn is_clogged(&self) -> bool {
        !self.pending.is_empty() || self.pipe.is_some()
    }
}

impl Pair {
    /// Of a session that has left the table, and of a connection to a process; nothing is owed to either yet.
    pub fn of(session: Session, server: OwnedFd, process: ProcessId) -> Self {
        let origin = session.origin();
        let placed = match session.role {
            Role::Placing(wish) => Some((wish.key, wish.what)),
            _ => None,
        };
        let (key, want) = placed.unzip();
        Self {
            conn: session.conn,
            row: session.kept.row,
            origin,
            peer: session.more.peer,
            generation: 0,
            key,
            want,
            credential: session.more.asked.as_ref().map_or(0, |asked| asked.credential),
            process,
            client_id: None,
            taken: false,
            machine: None,
            unread: Vec::new(),
            ends: [Side::new(session.socket), Side::new(server)],
            flows: [Flow::default(), Flow::default()],
            deadline_ms: 0,
        }
    }

    /// Has bytes sent to an end before anything else.
    pub fn owe(&mut self, to: usize, bytes: &[u8]) {
        self.flows[1 - to].pending.extend_from_slice(bytes);
    }

    /// What a front that takes over needs to know.
    pub fn holding(&self) -> Holding {
        let place = self.key.as_ref().zip(self.want).map(|(key, want)| HeldPlace {
            intent: if want == Want::Publish { Intent::Publish } else { Intent::Play },
            key: key.clone(),
            credential: self.credential,
            process: Some((self.process, self.taken)),
            admitted: true,
            forward: Vec::new(),
        });
        Holding { conn: self.conn, row: self.row, origin: self.origin, client: self.peer, departed: false, pull: None, place }
    }
}

impl Worker {
    /// Carries on what flows from one end of a pair: what waits first, then what can be read, in a bounded turn.
    pub(super) fn carry(&mut self, slot: usize, from: usize) -> Result<(), End> {
        if !self.give_on(slot, from)? {
            return Ok(());
        }
        let pair = &mut self.relays.pairs[slot];
        if pair.flows[from].ended {
            return self.tell_end(slot, from);
        }
        match pair.machine {
            Some(_) => self.look_at(slot, from),
            None => self.splice(slot, from),
        }
    }

    /// Sends what waits; true once nothing does.
    fn give_on(&mut self, slot: usize, from: usize) -> Result<bool, End> {
        let Pair { ends, flows, .. } = &mut self.relays.pairs[slot];
        let (flow, to) = (&mut flows[from], &ends[1 - from].socket);
        while !flow.pending.is_empty() {
            match net::send(to, &flow.pending) {
                Ok(sent) if sent == flow.pending.len() => flow.pending = Vec::new(),
                Ok(sent) => drop(flow.pending.drain(..sent)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(End::Socket(error)),
            }
        }
        let Some(pipe) = &mut flow.pipe else { return Ok(true) };
        while !pipe.is_empty() {
            match pipe.splice_out(to) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(End::Socket(error)),
            }
        }
        if let Some(pipe) = flow.pipe.take()
            && self.relays.pipes.len() < super::IDLE_PIPES
        {
            self.relays.pipes.push(pipe);
        }
        Ok(true)
    }

    /// Bytes as they are.
    fn splice(&mut self, slot: usize, from: usize) -> Result<(), End> {
        let mut pipe = match self.relays.pipes.pop() {
            Some(pipe) => pipe,
            None => Pipe::new(DEFAULT_PIPE_BYTES).map_err(End::Socket)?,
        };
        let pair = &mut self.relays.pairs[slot];
        let taken = pipe.splice_in(&pair.ends[from].socket);
        match taken {
            Ok(bytes @ 1..) => {
                pair.flows[from].pipe = Some(pipe);
                let counter = if from == CLIENT { WorkerCounter::BytesIn } else { WorkerCounter::BytesOut };
                self.page.counter(counter as usize).fetch_add(bytes as u64, Ordering::Relaxed);
                self.give_on(slot, from).map(drop)
            }
            Ok(_) => {
                self.relays.pipes.push(pipe);
                pair.flows[from].ended = true;
                self.tell_end(slot, from)
            }
            Err(error) => {
                self.relays.pipes.push(pipe);
                match error.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(()),
                    _ => Err(End::Socket(error)),
                }
            }
        }
    }

    /// Bytes that the machine looks at: until both ends have heard the same.
    fn look_at(&mut self, slot: usize, from: usize) -> Result<(), End> {
        let mut buffer = std::mem::take(&mut self.relays.buffer);
        buffer.resize(LOOKED_AT_BYTES, 0);
        let received = net::recv(&self.relays.pairs[slot].ends[from].socket, &mut buffer);
        let looked = match received {
            Ok(0) => {
                let pair = &mut self.relays.pairs[slot];
                pair.flows[from].ended = true;
                if from == SERVER {
                    pair.machine.iter_mut().for_each(|machine| machine.server_closed());
                }
                self.act_on_machine(slot).and_then(|()| self.tell_end(slot, from))
            }
            Ok(bytes) => self.feed_machine(slot, from, &buffer[..bytes]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(()),
            Err(error) => Err(End::Socket(error)),
        };
        self.relays.buffer = buffer;
        looked
    }

    pub(super) fn feed_machine(&mut self, slot: usize, from: usize, bytes: &[u8]) -> Result<(), End> {
        let now_ms = self.now.mono_ms;
        let pair = &mut self.relays.pairs[slot];
        let Some(machine) = &mut pair.machine else { return Ok(()) };
        let fed = match from {
            SERVER => machine.handle_server(bytes),
            _ => {
                pair.unread.extend_from_slice(bytes);
                Ok(())
            }
        };
        if let Err(error) = fed {
            // What it has to say to the client goes out before it ends.
            let _ = self.act_on_machine(slot);
            return Err(End::Peer(format!("the process: {error}")));
        }
        let unread = std::mem::take(&mut pair.unread);
        let used = machine.handle_client(&unread, now_ms).map_err(|error| End::Peer(error.to_string()))?;
        pair.unread = unread[used..].to_vec();
        self.act_on_machine(slot)
    }

    /// Does what the machine asks for, and lets go of it when it is not needed any more.
    pub(super) fn act_on_machine(&mut self, slot: usize) -> Result<(), End> {
        let pair = &mut self.relays.pairs[slot];
        let Some(machine) = &mut pair.machine else { return Ok(()) };
        let (to_client, to_server) = (machine.take_client_outbox(), machine.take_server_outbox());
        let mut refused = None;
        while let Some(output) = machine.poll_output() {
            if let RelayOutput::Refused { code, description } = output {
                refused = Some(End::Peer(format!("the process refuses it: {code} {description}")));
            }
        }
        let (through, ended) = (machine.is_through(), machine.is_ended());
        if pair.client_id.is_none()
            && let Some(id) = machine.server_client_id()
        {
            pair.client_id = Some(id.to_owned());
            self.relays.clients_changed = true;
        }
        pair.owe(CLIENT, &to_client);
        pair.owe(SERVER, &to_server);
        if through {
            let unread = std::mem::take(&mut pair.unread);
            pair.owe(SERVER, &unread);
            (pair.machine, pair.taken, pair.deadline_ms) = (None, true, 0);
            let conn = pair.conn;
            self.tell_front(&ToFront::Taken { conn });
        }
        self.give_on(slot, SERVER)?;
        self.give_on(slot, CLIENT)?;
        if let Some(end) = refused {
            return Err(end);
        }
        if ended {
            return Err(End::Peer("the process ended it before it had begun".into()));
        }
        self.plan_deadline(slot, 0);
        Ok(())
    }

    /// An end says nothing more: the other one is told, once it has everything.
    fn tell_end(&mut self, slot: usize, from: usize) -> Result<(), End> {
        let now_ms = self.now.mono_ms;
        let pair = &mut self.relays.pairs[slot];
        if pair.flows[from].is_clogged() || pair.flows[from].told {
            return Ok(());
        }
        pair.flows[from].told = true;
        if pair.flows.iter().all(|flow| flow.ended && flow.told) {
            return Err(if from == CLIENT { End::PeerClosed } else { End::Done });
        }
        if let Err(error) = net::shutdown(&pair.ends[1 - from].socket, std::net::Shutdown::Write) {
            return Err(End::Socket(error));
        }
        pair.machine = None;
        self.plan_deadline(slot, now_ms + LEAVING_MS);
        Ok(())
    }

    /// Watches for what a pair can go on with.
    pub(super) fn rewatch(&mut self, slot: usize) {
        let Some(pair) = self.relays.pairs.get_mut(slot) else { return };
        let token = super::PAIR_TOKEN | u64::from(pair.generation) << 32 | slot as u64;
        for side in [CLIENT, SERVER] {
            let (from, to) = (&pair.flows[side], &pair.flows[1 - side]);
            let held = side == CLIENT && !pair.unread.is_empty();
            let mut interest = Interest::NONE;
            if !from.ended && !from.is_clogged() && !held {
                interest = interest | Interest::READ;
            }
            if to.is_clogged() {
                interest = interest | Interest::WRITE;
            }
            if interest == Interest::NONE {
                // A hang-up is told all the same: once, not again and again while nothing can be done about it.
                interest = Interest::EDGE;
            }
            let end = &mut pair.ends[side];
            if interest != end.watched {
                end.watched = interest;
                let token = if side == SERVER { token | super::SERVER_TOKEN } else { token };
                if let Err(error) = self.poller.modify(&end.socket, token, interest) {
                    tracing::error!(conn = %pair.conn, %error, "cannot watch a socket");
                }
            }
        }
    }
}
