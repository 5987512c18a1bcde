//! Who is connected, who serves whom, who publishes what: the one table that admission is decided from, for all protocols.
//!
//! Pure: events go in, messages for workers come out of [`Registry::poll_message`], which the caller drains after every
//! input. It never sees a descriptor, a byte a client sent, or a clock of its own.

mod conn;
mod undecided;

use super::addresses::Addresses;
use super::lifecycle::{Gone, Lifecycle};
use super::placement::{self, Load};
use crate::config::{Network, PlayPolicy, PublishPolicy};
use crate::control::{ConnId, HeldPlace, Holding, Intent, Origin, Placement, ProcessId, Refusal, ToWorker, WorkerId};
use crate::engine::report::Published;
use crate::saved::RowId;
use braidcast_media::StreamKey;
use conn::{Conn, Place, Targets};
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
pub use undecided::{Happening, What};

/// The most streams that are known at once: published, waiting for their publisher, or ended and not deleted yet.
pub const MAX_STREAMS: usize = 65_536;

/// What the registry is told once.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Connections in all.
    pub connections: usize,
    /// Connections from one address.
    pub connections_per_address: u32,
    /// The addresses that this is not for: many clients come from them.
    pub trusted_proxies: Vec<Network>,
    /// How publishers are shared out.
    pub publish: PublishPolicy,
    /// How viewers are shared out.
    pub play: PlayPolicy,
    /// Publishers in all; 0: no limit.
    pub max_publishers: u32,
    /// Whether a second publisher always takes the stream over.
    pub replace: bool,
    /// A publisher that was silent for so long may be replaced by anybody, milliseconds.
    pub silent_after_ms: u64,
    /// `[play] reconnect_grace`, milliseconds.
    pub reconnect_grace_ms: u64,
    /// `[hls] hls_dispose`, milliseconds.
    pub hls_dispose_ms: u64,
}

/// Why a connection was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unwelcome {
    /// `connections`.
    TooMany,
    /// `connections_per_address`.
    TooManyFromAddress,
    /// `poison_hold`.
    HeldOff,
}

/// A worker's question, [`crate::control::ToFront::Place`].
#[derive(Clone, Debug)]
pub struct Question {
    /// Whose.
    pub conn: ConnId,
    /// Publish or play.
    pub intent: Intent,
    /// The stream.
    pub key: StreamKey,
    /// Tells a publisher that comes back from a stranger.
    pub credential: u64,
    /// It must stay in the asking worker.
    pub pinned: bool,
    /// As in [`crate::control::Asked`].
    pub found_at: Option<ProcessId>,
    /// As in [`crate::control::Asked`].
    pub number: u32,
    /// Hooks are asked before it is answered: the place is reserved until [`Registry::decided`].
    pub undecided: bool,
}

/// What the registry cannot know by itself.
pub struct Circumstances<'a> {
    /// Workers that can take sessions: limits, weights and spare CPU; their counts are filled in here.
    pub workers: &'a [Load],
    /// Whether the shared directory has room for one more stream.
    pub room: bool,
    /// When the stream's log last grew, monotonic milliseconds; `None` if there is no log.
    pub last_append_ms: &'a dyn Fn(&StreamKey) -> Option<u64>,
    /// The stream's next segment number.
    pub next_segment: &'a dyn Fn(&StreamKey) -> u64,
    /// The process that fetches a stream from elsewhere when it is asked for it, whoever publishes it.
    pub fetched_at: Option<ProcessId>,
}

/// How a question was answered, for log and counters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What the worker is told.
    pub placement: Placement,
    /// The publisher that lost its stream to this one.
    pub replaced: Option<ConnId>,
}

/// A worker spoke of something that is not so. Logged and counted by the caller; nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// There is no such connection.
    UnknownConnection,
    /// The connection is another worker's.
    NotItsConnection,
}

impl std::fmt::Display for Mismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::UnknownConnection => "there is no such connection",
            Self::NotItsConnection => "the connection is another worker's",
        })
    }
}

/// A session that needs another worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Homeless {
    /// Its connection.
    pub conn: ConnId,
    /// Where it is saved.
    pub row: RowId,
    /// Where it came in, from whom.
    pub origin: Origin,
    /// What it does, as far as the front was asked.
    pub intent: Option<Intent>,
    /// Who was chosen for it before, if that was another worker than the one it was with.
    pub chosen: Option<WorkerId>,
}

/// What a worker holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Connections.
    pub sessions: u32,
    /// Publishers, reservations included.
    pub publishers: u32,
    /// Viewers, reservations included.
    pub viewers: u32,
}

/// The table.
#[derive(Debug)]
pub struct Registry {
    rules: Rules,
    next_conn: u64,
    /// Boxed: a table has room for up to twice of what is in it.
    conns: HashMap<ConnId, Box<Conn>>,
    /// From which byte of its input on a worker was working when it died of a connection.
    suspects: HashMap<ConnId, u64>,
    publishers: HashMap<StreamKey, ConnId>,
    /// Who is to publish a stream if hooks allow it; until then whoever has it keeps it.
    claims: HashMap<StreamKey, ConnId>,
    tallies: HashMap<WorkerId, Tally>,
    process_tallies: HashMap<ProcessId, Tally>,
    addresses: Addresses,
    lifecycle: Lifecycle,
    messages: VecDeque<(WorkerId, ToWorker)>,
    happenings: VecDeque<Happening>,
    gone: Vec<(ConnId, RowId)>,
}

impl Registry {
    /// An empty one. Connection ids begin behind `first_conn`.
    pub fn new(rules: Rules, first_conn: u64) -> Self {
        let lifecycle = Lifecycle::new(rules.reconnect_grace_ms, rules.hls_dispose_ms);
        Self {
            rules,
            next_conn: first_conn,
            conns: HashMap::new(),
            suspects: HashMap::new(),
            publishers: HashMap::new(),
            claims: HashMap::new(),
            tallies: HashMap::new(),
            process_tallies: HashMap::new(),
            addresses: Addresses::default(),
            lifecycle,
            messages: VecDeque::new(),
            happenings: VecDeque::new(),
            gone: Vec::new(),
        }
    }

    /// Whether a connection from this address may come in.
    pub fn admit(&self, address: IpAddr) -> Result<(), Unwelcome> {
        if self.connections() >= self.rules.connections {
            Err(Unwelcome::TooMany)
        } else if self.has_too_many(address) {
            Err(Unwelcome::TooManyFromAddress)
        } else {
            Ok(())
        }
    }

    /// Whether connections come from an address for many clients.
    pub fn is_proxy(&self, address: IpAddr) -> bool {
        self.rules.trusted_proxies.iter().any(|network| network.contains(address))
    }

    fn has_too_many(&self, address: IpAddr) -> bool {
        !self.is_proxy(address) && self.addresses.count(address) >= self.rules.connections_per_address
    }

    /// HLS sessions are counted where they begin.
    fn opened(&mut self, worker: WorkerId, address: IpAddr) {
        if worker != WorkerId::NONE && !self.is_proxy(address) {
            self.addresses.opened(address);
        }
    }

    fn closed_by(&mut self, worker: WorkerId, address: IpAddr) {
        if worker != WorkerId::NONE && !self.is_proxy(address) {
            self.addresses.closed(address);
        }
    }

    /// A connection was given to a worker.
    pub fn connected(&mut self, worker: WorkerId, origin: Origin, row: RowId) -> ConnId {
        let address = origin.peer.ip();
        self.next_conn += 1;
        let conn = ConnId(self.next_conn);
        self.conns.insert(conn, Box::new(Conn::new(worker, row, origin, address)));
        self.opened(worker, address);
        self.tally(worker).sessions += 1;
        conn
    }

    /// As [`Registry::connected`], of a connection that the worker is to open: a pull.
    pub fn pulls(&mut self, worker: WorkerId, origin: Origin, row: RowId) -> ConnId {
        let conn = self.connected(worker, origin, row);
        self.conns.get_mut(&conn).into_iter().for_each(|held| held.pulled = true);
        conn
    }

    /// A connection that was there before this front. Its id is not given again.
    pub fn inherited(&mut self, worker: WorkerId, holding: Holding, now_ms: u64) {
        let Holding { conn, row, origin, client, place, pull, .. } = holding;
        let address = client.ip();
        self.next_conn = self.next_conn.max(conn.0);
        let asked_before = place.as_ref().filter(|place| !place.admitted).map(|place| Box::new((place.intent, place.key.clone())));
        self.conns.insert(conn, Box::new(Conn { asked_before, pulled: pull.is_some(), ..Conn::new(worker, row, origin, address) }));
        self.opened(worker, address);
        self.tally(worker).sessions += 1;
        if let Some(HeldPlace { intent, key, credential, process, admitted: true, forward }) = place {
            let taken = intent == Intent::Publish && self.publishers.contains_key(&key);
            if !taken {
                self.happens(conn, What::Began(intent, key.clone()));
                let question = Question { conn, intent, key, credential, pinned: false, found_at: None, number: 0, undecided: false };
                self.reserve(question, worker, forward, now_ms);
                if let Some((process, has_taken)) = process {
                    self.reserve_process(conn, process);
                    if has_taken {
                        // It is this worker's connection: that cannot be otherwise.
                        let _ = self.taken(conn, worker, now_ms);
                    }
                }
            }
        }
    }

    /// A proxy has said whose connection it is. If that client is not let in, the reason; its worker is told.
    pub fn named(&mut self, conn: ConnId, from: WorkerId, client: IpAddr, held_off: bool) -> Result<Option<Unwelcome>, Mismatch> {
        let before = self.owned(conn, from)?.address();
        if before == client {
            return Ok(None);
        }
        let unwelcome = match held_off {
            true => Some(Unwelcome::HeldOff),
            false => Some(Unwelcome::TooManyFromAddress).filter(|_| self.has_too_many(client)),
        };
        self.owned(conn, from)?.turned_away = unwelcome.is_some();
        if unwelcome.is_some() {
            self.messages.push_back((from, ToWorker::TurnAway { conn }));
            return Ok(unwelcome);
        }
        self.closed_by(from, before);
        self.opened(from, client);
        self.owned(conn, from)?.client = Some(Box::new(client));
        Ok(None)
    }

    /// Open connections. HLS sessions are none.
    pub fn connections(&self) -> usize {
        self.conns.len() - self.load(WorkerId::NONE).sessions as usize
    }

    /// What a worker holds.
    pub fn load(&self, worker: WorkerId) -> Tally {
        self.tallies.get(&worker).copied().unwrap_or_default()
    }

    /// Whether the stream is known: published, or its directory not deleted yet.
    pub fn knows(&self, key: &StreamKey) -> bool {
        self.publishers.contains_key(key) || self.lifecycle.contains(key)
    }

    /// A stream's directory was found at the start.
    pub fn found(&mut self, key: &StreamKey, now_ms: u64) {
        self.lifecycle.unpublished(key, Gone::LeftOpen, now_ms);
    }

    /// A connection that is over, and the row it had. Drained after every input.
    pub fn poll_gone(&mut self) -> Option<(ConnId, RowId)> {
        self.gone.pop()
    }

    /// A stream comes from nobody who is connected: it is over at `over_ms`, unless this is said again.
    pub fn comes_from_elsewhere(&mut self, key: &StreamKey, over_ms: u64) {
        self.lifecycle.ends_at(key, over_ms);
    }

    /// A message for a worker. Drained after every input.
    pub fn poll_message(&mut self) -> Option<(WorkerId, ToWorker)> {
        self.messages.pop_front()
    }

    /// The next step for a stream that nobody publishes; see [`Lifecycle::poll`].
    pub fn poll_settling(&mut self, now_ms: u64) -> Option<(StreamKey, crate::control::Settling)> {
        self.lifecycle.poll(now_ms)
    }

    /// See [`Lifecycle`]; the registry decides only when it is told what.
    pub fn lifecycle(&mut self) -> &mut Lifecycle {
        &mut self.lifecycle
    }

    /// Answers a worker's question; the message is in [`Registry::poll_message`]. A place the connection had before is given up. If the
    /// question is undecided and nothing speaks against it, it is answered by [`Registry::decided`].
    pub fn place(&mut self, asking: WorkerId, question: Question, around: &Circumstances<'_>, now_ms: u64) -> Result<Answer, Mismatch> {
        let turned_away = self.owned(question.conn, asking)?.turned_away;
        let conn = question.conn;
        let (before, question) = self.step_back(question, now_ms);
        let decided = match question.intent {
            _ if turned_away => Err(Refusal::Unwelcome),
            Intent::Play => self.decide_play(asking, &question, around).map(|worker| (worker, None)),
            Intent::Publish => self.decide_publish(asking, &question, around, now_ms),
        };
        let (placement, replaced) = match decided {
            Ok((worker, holder)) => {
                let replaced = self.make_way(&question, holder, &before, now_ms);
                let next_segment = if question.intent == Intent::Publish { (around.next_segment)(&question.key) } else { 0 };
                let undecided = question.undecided;
                self.reserve(question, worker, before.forward.clone(), now_ms);
                let placement = if worker == asking { Placement::Here { next_segment } } else { Placement::MoveTo(worker) };
                if undecided {
                    return Ok(Answer { placement, replaced });
                }
                (placement, replaced)
            }
            Err(refusal) => {
                self.ended(conn, before.place);
                (Placement::Refused(refusal), None)
            }
        };
        let forward = self.forward_of(conn).to_vec();
        self.messages.push_back((asking, ToWorker::Placed { conn, placement: placement.clone(), forward }));
        Ok(Answer { placement, replaced })
    }

    /// As [`Registry::place`], where processes of another server have the streams: the session stays in the asking worker, which connects it to the
    /// process that the answer names. `Ok(None)`: nobody has the stream yet; to be asked again.
    pub fn place_at_process(
        &mut self,
        asking: WorkerId,
        question: Question,
        processes: &[Load],
        around: &Circumstances<'_>,
        now_ms: u64,
    ) -> Result<Option<Answer>, Mismatch> {
        let turned_away = self.owned(question.conn, asking)?.turned_away;
        let conn = question.conn;
        let (before, question) = self.step_back(question, now_ms);
        let decided = match question.intent {
            _ if turned_away => Err(Refusal::Unwelcome),
            Intent::Play => match self.process_of(&question.key).or(question.found_at).or(around.fetched_at) {
                Some(process) => Ok((process, None)),
                None => {
                    self.ended(conn, before.place);
                    return Ok(None);
                }
            },
            Intent::Publish => self.decide_process(&question, processes, around, now_ms),
        };
        let (placement, replaced) = match decided {
            Ok((process, holder)) => {
                let replaced = self.make_way(&question, holder, &before, now_ms);
                let undecided = question.undecided;
                self.reserve(question, asking, Vec::new(), now_ms);
                self.reserve_process(conn, process);
                if undecided {
                    return Ok(Some(Answer { placement: Placement::Process(process), replaced }));
                }
                (Placement::Process(process), replaced)
            }
            Err(refusal) => {
                self.ended(conn, before.place);
                (Placement::Refused(refusal), None)
            }
        };
        self.messages.push_back((asking, ToWorker::Placed { conn, placement: placement.clone(), forward: Vec::new() }));
        Ok(Some(Answer { placement, replaced }))
    }

    /// The process that a stream is published at, once that has taken the publisher.
    pub fn process_of(&self, key: &StreamKey) -> Option<ProcessId> {
        let conn = self.publishers.get(key)?;
        self.conns.get(conn)?.place.as_ref()?.process.filter(|(_, taken)| *taken).map(|(process, _)| process)
    }

    /// What is published at processes, for `status`. `began_ms` is when the monotonic clock began, wall clock.
    pub fn published_at_processes(&self, began_ms: u64) -> Vec<Published> {
        let row = |(key, conn): (&StreamKey, &ConnId)| {
            let held = self.conns.get(conn)?;
            let place = held.place.as_ref()?;
            Some(Published {
                vhost: key.vhost().to_owned(),
                app: key.app().to_owned(),
                stream: key.stream().to_owned(),
                process: place.process?.0.0,
                worker: held.worker.0,
                publisher: (held.address(), 0).into(),
                since_wall_ms: began_ms + place.since_ms,
            })
        };
        let mut rows: Vec<Published> = self.publishers.iter().filter_map(row).collect();
        rows.sort_unstable_by(|a, b| (&a.vhost, &a.app, &a.stream).cmp(&(&b.vhost, &b.app, &b.stream)));
        rows
    }

    /// A process has taken the connection that was placed there. If it publishes, its stream is returned, and those who wait for it at other
    /// processes are sent away: they come back to this one.
    pub fn taken(&mut self, conn: ConnId, from: WorkerId, now_ms: u64) -> Result<Option<StreamKey>, Mismatch> {
        let Some(place) = &mut self.owned(conn, from)?.place else { return Ok(None) };
        let Some((process, taken)) = &mut place.process else { return Ok(None) };
        *taken = true;
        if place.intent != Intent::Publish {
            return Ok(None);
        }
        let (process, key) = (*process, place.key.clone());
        let elsewhere =
            |place: &Place| place.intent == Intent::Play && place.process.is_some_and(|(other, _)| other != process) && place.key == key;
        let lost = self.conns.iter().filter(|(_, held)| held.place.as_ref().is_some_and(elsewhere));
        for conn in lost.map(|(conn, _)| *conn).collect::<Vec<_>>() {
            self.evict(conn, now_ms);
        }
        Ok(Some(key))
    }

    /// What is connected to a process, reservations included.
    pub fn process_load(&self, process: ProcessId) -> Tally {
        self.process_tallies.get(&process).copied().unwrap_or_default()
    }

    fn decide_process(
        &self,
        question: &Question,
        processes: &[Load],
        around: &Circumstances<'_>,
        now_ms: u64,
    ) -> Result<(ProcessId, Option<ConnId>), Refusal> {
        let holder = self.may_publish(question, around, now_ms)?;
        let freed = holder.and_then(|conn| self.conns.get(&conn)?.place.as_ref()?.process).map(|(process, _)| process);
        let filled = |load: &Load| {
            let process = ProcessId(load.worker.0);
            let tally = self.process_load(process);
            Load { publishers: tally.publishers - u32::from(freed == Some(process)), viewers: tally.viewers, ..*load }
        };
        let loads: Vec<Load> = processes.iter().map(filled).collect();
        if loads.is_empty() {
            return Err(Refusal::Unavailable);
        }
        let chosen = placement::publish(self.rules.publish, &loads, self.rules.max_publishers).ok_or(Refusal::PublishersFull)?;
        let waiting = self.waiting_at(&question.key);
        let has_room = |load: &&Load| load.allowed == 0 || load.publishers < load.allowed;
        let awaited = loads.iter().filter(has_room).map(|load| (waiting.get(&ProcessId(load.worker.0)), load.worker));
        let most = awaited.filter(|(viewers, _)| viewers.is_some()).max_by_key(|(viewers, _)| *viewers);
        Ok((ProcessId(most.map_or(chosen, |(_, worker)| worker).0), holder))
    }

    /// How many are connected to play a stream, by process. They stay when its publisher leaves, and see it if it comes back there.
    fn waiting_at(&self, key: &StreamKey) -> HashMap<ProcessId, u32> {
        let mut waiting = HashMap::new();
        let places = self.conns.values().filter_map(|held| held.place.as_ref());
        for (process, _) in places.filter(|place| place.intent == Intent::Play && place.key == *key).filter_map(|place| place.process) {
            *waiting.entry(process).or_default() += 1;
        }
        waiting
    }

    fn reserve_process(&mut self, conn: ConnId, process: ProcessId) {
        let Some(place) = self.conns.get_mut(&conn).and_then(|held| held.place.as_mut()) else { return };
        place.process = Some((process, false));
        let intent = place.intent;
        let tally = self.process_tallies.entry(process).or_default();
        match intent {
            Intent::Publish => tally.publishers += 1,
            Intent::Play => tally.viewers += 1,
        }
    }

    /// The connection neither publishes nor plays any more.
    pub fn released(&mut self, conn: ConnId, from: WorkerId, now_ms: u64) -> Result<(), Mismatch> {
        self.owned(conn, from)?;
        self.release(conn, Gone::InOrder, now_ms);
        Ok(())
    }

    /// The connection is closed.
    pub fn closed(&mut self, conn: ConnId, from: WorkerId, now_ms: u64) -> Result<(), Mismatch> {
        self.owned(conn, from)?;
        self.forget(conn, Gone::InOrder, now_ms);
        Ok(())
    }

    /// A session cannot go on: what it published was not ended in order.
    pub fn lost(&mut self, conn: ConnId, from: WorkerId, now_ms: u64) -> Result<(), Mismatch> {
        self.owned(conn, from)?;
        self.forget(conn, Gone::LeftOpen, now_ms);
        Ok(())
    }

    /// A worker has let go of a session: it needs another one.
    pub fn handed_over(&mut self, conn: ConnId, from: WorkerId) -> Result<Homeless, Mismatch> {
        let held = self.owned(conn, from)?;
        Ok(Self::homeless(conn, held))
    }

    /// A session without a home goes to `worker`, and so does its reservation.
    pub fn rehome(&mut self, conn: ConnId, worker: WorkerId) {
        let Some(held) = self.conns.get_mut(&conn) else { return };
        let before = std::mem::replace(&mut held.worker, worker);
        self.tally(before).sessions -= 1;
        self.tally(worker).sessions += 1;
        self.reserve_at(conn, worker);
    }

    /// Where a session without a home can go: by its reservation, else by what it does. `None`: nobody can take it now.
    pub fn choose_home(&self, homeless: &Homeless, workers: &[Load]) -> Option<WorkerId> {
        let serves = |worker: &WorkerId| workers.iter().any(|load| load.worker == *worker);
        if let Some(chosen) = homeless.chosen.filter(serves) {
            return Some(chosen);
        }
        let loads = self.loads(workers, None);
        match homeless.intent {
            // It was admitted: limits were for the door.
            Some(Intent::Publish) => {
                let unlimited: Vec<Load> = loads.iter().map(|load| Load { allowed: 0, ..*load }).collect();
                placement::publish(self.rules.publish, &unlimited, 0)
            }
            Some(Intent::Play) => {
                let follows = self.stream_of(homeless.conn).and_then(|key| self.publishing_worker(key));
                // One that has to go does not come back because its stream has stayed.
                let elsewhere = follows.filter(|worker| Some(*worker) != self.worker_of(homeless.conn));
                placement::play(PlayPolicy::LeastLoaded, &loads, WorkerId::NONE, elsewhere)
            }
            None => loads.iter().min_by_key(|load| (self.load(load.worker).sessions, load.worker)).map(|load| load.worker),
        }
    }

    /// Where one more publisher would go, if so many more than are known of were at the workers. Nothing is reserved. `None`: all are full.
    pub fn place_for_publisher(&self, workers: &[Load], more: impl Fn(WorkerId) -> u32) -> Option<WorkerId> {
        let loads: Vec<Load> =
            self.loads(workers, None).into_iter().map(|load| Load { publishers: load.publishers + more(load.worker), ..load }).collect();
        placement::publish(self.rules.publish, &loads, self.rules.max_publishers)
    }

    /// The connection that publishes a stream, or has a place for it.
    pub fn publisher_of(&self, key: &StreamKey) -> Option<ConnId> {
        self.publishers.get(key).copied()
    }

    /// The address of a connection's client; `None` if there is no such connection.
    pub fn address_of(&self, conn: ConnId) -> Option<IpAddr> {
        Some(self.conns.get(&conn)?.address())
    }

    /// A worker is dead: which sessions need another one. Publishers come first, for viewers wait for them.
    pub fn worker_died(&mut self, worker: WorkerId, now_ms: u64) -> Vec<Homeless> {
        let its = self.conns.iter().filter(|(_, held)| held.worker == worker);
        let mut homeless: Vec<Homeless> = its.map(|(conn, held)| Self::homeless(*conn, held)).collect();
        homeless.sort_unstable_by_key(|homeless| (homeless.intent != Some(Intent::Publish), homeless.conn));
        self.lifecycle.worker_died(worker, now_ms);
        homeless
    }

    /// Sessions that other workers have and that are on their way to this one: they need another home in time.
    pub fn reserved_at(&self, worker: WorkerId) -> Vec<Homeless> {
        let reserved = |held: &Conn| held.worker != worker && held.place.as_ref().is_some_and(|place| place.worker == worker);
        self.conns
            .iter()
            .filter(|(_, held)| reserved(held))
            .map(|(conn, held)| Homeless { chosen: None, ..Self::homeless(*conn, held) })
            .collect()
    }

    /// A session's reservation goes to another worker.
    pub fn reserve_at(&mut self, conn: ConnId, worker: WorkerId) {
        let Some(place) = self.conns.get_mut(&conn).and_then(|held| held.place.as_mut()) else { return };
        let (before, intent) = (std::mem::replace(&mut place.worker, worker), place.intent);
        for (worker, by) in [(before, -1), (worker, 1)] {
            let tally = self.tally(worker);
            let count = if intent == Intent::Publish { &mut tally.publishers } else { &mut tally.viewers };
            *count = count.saturating_add_signed(by);
        }
    }

    /// All connections are lost with their worker, and nobody goes on with them. Returns how many.
    pub fn give_up(&mut self, worker: WorkerId, now_ms: u64) -> usize {
        let lost: Vec<ConnId> = self.conns.iter().filter(|(_, held)| held.worker == worker).map(|(conn, _)| *conn).collect();
        for conn in &lost {
            self.forget(*conn, Gone::LeftOpen, now_ms);
        }
        self.lifecycle.worker_died(worker, now_ms);
        lost.len()
    }

    /// A worker died while it was processing a connection's input from this byte on. True: so did one before.
    pub fn suspect(&mut self, conn: ConnId, position: u64) -> bool {
        self.conns.contains_key(&conn) && self.suspects.insert(conn, position) == Some(position)
    }

    /// The worker that has a connection, or is to have it.
    pub fn worker_of(&self, conn: ConnId) -> Option<WorkerId> {
        Some(self.conns.get(&conn)?.worker)
    }

    /// Where a connection is saved, and where its record is.
    pub fn row_of(&self, conn: ConnId) -> Option<RowId> {
        Some(self.conns.get(&conn)?.row)
    }

    /// A worker's connections that publish, or that play.
    pub fn sessions_of(&self, worker: WorkerId, intent: Intent) -> Vec<ConnId> {
        let does = |held: &Conn| held.worker == worker && held.place.as_ref().is_some_and(|place| place.intent == intent);
        let mut conns: Vec<ConnId> = self.conns.iter().filter(|(_, held)| does(held)).map(|(conn, _)| *conn).collect();
        conns.sort_unstable();
        conns
    }

    /// The connections of a worker.
    pub fn connections_of(&self, worker: WorkerId) -> Vec<ConnId> {
        self.conns.iter().filter(|(_, held)| held.worker == worker).map(|(conn, _)| *conn).collect()
    }

    fn homeless(conn: ConnId, held: &Conn) -> Homeless {
        let place = held.place.as_ref();
        Homeless {
            conn,
            row: held.row,
            origin: held.origin(),
            intent: place.map(|place| place.intent),
            chosen: place.map(|place| place.worker).filter(|worker| *worker != held.worker),
        }
    }

    /// The stream that a connection publishes or plays.
    pub fn stream_of(&self, conn: ConnId) -> Option<&StreamKey> {
        self.conns.get(&conn)?.place.as_ref().map(|place| &place.key)
    }

    /// The streams whose publishers a worker has, in the order of their names.
    pub fn published_by(&self, worker: WorkerId) -> Vec<StreamKey> {
        let has = |conn: &ConnId| self.conns.get(conn).is_some_and(|held| held.worker == worker);
        let mut streams: Vec<StreamKey> = self.publishers.iter().filter(|(_, conn)| has(conn)).map(|(key, _)| key.clone()).collect();
        streams.sort_unstable();
        streams
    }

    fn owned(&mut self, conn: ConnId, by: WorkerId) -> Result<&mut Conn, Mismatch> {
        let held = self.conns.get_mut(&conn).ok_or(Mismatch::UnknownConnection)?;
        if held.worker == by { Ok(held) } else { Err(Mismatch::NotItsConnection) }
    }

    fn decide_play(&self, asking: WorkerId, question: &Question, around: &Circumstances<'_>) -> Result<WorkerId, Refusal> {
        if question.pinned {
            return Ok(asking);
        }
        let publishing = self.publishing_worker(&question.key);
        placement::play(self.rules.play, &self.loads(around.workers, None), asking, publishing).ok_or(Refusal::Unavailable)
    }

    /// The worker that takes a stream in.
    fn publishing_worker(&self, key: &StreamKey) -> Option<WorkerId> {
        Some(self.conns.get(self.publishers.get(key)?)?.worker)
    }

    /// The worker, and the publisher that has to go.
    fn decide_publish(
        &self,
        asking: WorkerId,
        question: &Question,
        around: &Circumstances<'_>,
        now_ms: u64,
    ) -> Result<(WorkerId, Option<ConnId>), Refusal> {
        let holder = self.may_publish(question, around, now_ms)?;
        let loads = self.loads(around.workers, holder);
        if loads.is_empty() {
            return Err(Refusal::Unavailable);
        }
        let worker = match question.pinned {
            true => placement::publish_here(&loads, asking, self.rules.max_publishers),
            false => placement::publish(self.rules.publish, &loads, self.rules.max_publishers),
        };
        worker.map(|worker| (worker, holder)).ok_or(Refusal::PublishersFull)
    }

    /// Whether the stream can be published, wherever; and by whom it is published and would have to be left.
    fn may_publish(&self, question: &Question, around: &Circumstances<'_>, now_ms: u64) -> Result<Option<ConnId>, Refusal> {
        let holder = self.publishers.get(&question.key).copied();
        let claimant = self.claims.get(&question.key).copied();
        if [holder, claimant].into_iter().flatten().any(|other| !self.may_replace(other, question, around, now_ms)) {
            return Err(Refusal::StreamBusy);
        }
        // A stream that is there already has its room; a publisher that is back goes on however full the directory is.
        let full = self.publishers.len() + self.lifecycle.len() >= MAX_STREAMS || !around.room;
        match full && !self.knows(&question.key) {
            true => Err(Refusal::DirectoryFull),
            false => Ok(holder),
        }
    }

    fn may_replace(&self, holder: ConnId, question: &Question, around: &Circumstances<'_>, now_ms: u64) -> bool {
        let (Some(held), Some(asks)) = (self.conns.get(&holder), self.conns.get(&question.conn)) else { return true };
        let Some(place) = &held.place else { return true };
        let same_publisher = held.address() == asks.address() && place.credential == question.credential;
        // The log may last have grown under an earlier publisher: silence is counted from when this one was admitted.
        let last_sign_ms = (around.last_append_ms)(&question.key).unwrap_or(0).max(place.since_ms);
        self.rules.replace || same_publisher || now_ms.saturating_sub(last_sign_ms) >= self.rules.silent_after_ms
    }

    /// What the workers hold, as if the place of `without` were free.
    fn loads(&self, workers: &[Load], without: Option<ConnId>) -> Vec<Load> {
        let freed = without.and_then(|conn| self.conns.get(&conn)?.place.as_ref()).map(|place| place.worker);
        let filled = |load: &Load| {
            let tally = self.load(load.worker);
            let publishers = tally.publishers - u32::from(freed == Some(load.worker));
            Load { publishers, viewers: tally.viewers, ..*load }
        };
        workers.iter().map(filled).collect()
    }

    fn reserve(&mut self, question: Question, worker: WorkerId, forward: Vec<String>, now_ms: u64) {
        let Question { conn, intent, key, credential, undecided, number, .. } = question;
        // One name for all who are of one stream.
        let key = self.publishers.get_key_value(&key).map(|(known, _)| known.clone()).unwrap_or(key);
        let undecided = undecided.then_some(number);
        match intent {
            Intent::Publish => {
                self.tally(worker).publishers += 1;
                if undecided.is_some() {
                    self.claims.insert(key.clone(), conn);
                } else {
                    self.lifecycle.published(&key);
                    self.publishers.insert(key.clone(), conn);
                }
            }
            Intent::Play => self.tally(worker).viewers += 1,
        }
        let held = self.conns.get_mut(&conn).expect("the question came from this connection's worker");
        held.place =
            Some(Place { intent, key, worker, credential, since_ms: now_ms, process: None, undecided, forward: Targets::of(forward) });
    }

    fn evict(&mut self, conn: ConnId, now_ms: u64) {
        let Some(held) = self.conns.get(&conn) else { return };
        let message = match held.place.as_ref().is_some_and(|place| place.undecided.is_some()) {
            true => ToWorker::Placed { conn, placement: Placement::Refused(Refusal::StreamBusy), forward: Vec::new() },
            false => ToWorker::Evict { conn },
        };
        self.messages.push_back((held.worker, message));
        self.release(conn, Gone::LeftOpen, now_ms);
    }

    fn release(&mut self, conn: ConnId, gone: Gone, now_ms: u64) {
        let asked_before = self.conns.get_mut(&conn).and_then(|held| held.asked_before.take());
        let place = self.vacate(conn, gone, now_ms).filter(|place| place.undecided.is_none());
        self.ended(conn, place.map(|place| (place.intent, place.key)).or(asked_before.map(|before| *before)));
    }

    /// Gives a connection's place up; what it was.
    fn vacate(&mut self, conn: ConnId, gone: Gone, now_ms: u64) -> Option<Place> {
        let place = self.conns.get_mut(&conn).and_then(|held| held.place.take())?;
        if let Some((process, _)) = place.process {
            let tally = self.process_tallies.entry(process).or_default();
            let count = if place.intent == Intent::Publish { &mut tally.publishers } else { &mut tally.viewers };
            *count = count.saturating_sub(1);
        }
        match place.intent {
            Intent::Play => self.tally(place.worker).viewers -= 1,
            Intent::Publish => {
                self.tally(place.worker).publishers -= 1;
                if place.undecided.is_some() {
                    self.claims.remove(&place.key);
                } else {
                    self.publishers.remove(&place.key);
                    self.lifecycle.unpublished(&place.key, gone, now_ms);
                }
            }
        }
        Some(place)
    }

    fn forget(&mut self, conn: ConnId, gone: Gone, now_ms: u64) {
        self.release(conn, gone, now_ms);
        self.happens(conn, What::Closed);
        self.suspects.remove(&conn);
        if let Some(held) = self.conns.remove(&conn) {
            self.closed_by(held.worker, held.address());
            self.tally(held.worker).sessions -= 1;
            self.gone.push((conn, held.row));
        }
    }

    fn tally(&mut self, worker: WorkerId) -> &mut Tally {
        self.tallies.entry(worker).or_default()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "registry_tests.rs"]
mod tests;
