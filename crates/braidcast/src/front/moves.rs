//! Sessions that need another worker: who gets them, what they are waiting for, and what is said when they have a home.
//!
//! One mechanism for all of it: a session lies in its row, its descriptor in the vault, and a worker is told to go on with it.

use super::Front;
use super::registry::Homeless;
use crate::control::counters::FrontCounter;
use crate::control::pages::{MoveRow, Why};
use crate::control::{Adoption, ConnId, Intent, ToWorker, WorkerId};
use crate::events::{Event, Kind};
use braidcast_sys::clock;
use std::collections::HashMap;
use std::net::IpAddr;

/// The most addresses that are held off at once; past that the oldest is let in again.
const MAX_HELD_OFF: usize = 1_024;

/// A session on its way.
#[derive(Clone, Debug)]
pub struct Move {
    homeless: Homeless,
    /// Whose it was, and who was to have it and died. In the heap of any of them it may be saved still.
    from: Vec<WorkerId>,
    why: Why,
    since_ms: u64,
    /// Nobody could take it yet.
    waits: bool,
}

/// All sessions on their way, and the addresses that are held off.
#[derive(Debug, Default)]
pub struct Moves {
    under_way: HashMap<ConnId, Move>,
    held_off: Vec<(IpAddr, u64)>,
}

impl Moves {
    /// Whether a connection is on its way and nobody can take it yet.
    pub fn waits(&self, conn: ConnId) -> bool {
        self.under_way.get(&conn).is_some_and(|moving| moving.waits)
    }

    /// Whether a connection is on its way.
    pub fn is_under_way(&self, conn: ConnId) -> bool {
        self.under_way.contains_key(&conn)
    }

    /// How many connections are on their way.
    pub fn len(&self) -> usize {
        self.under_way.len()
    }

    /// The connections that came from a worker.
    pub fn from(&self, worker: WorkerId) -> impl Iterator<Item = ConnId> + '_ {
        self.under_way.iter().filter(move |(_, moving)| moving.from.contains(&worker)).map(|(conn, _)| *conn)
    }

    /// No connection is taken from an address until this time.
    pub fn hold_off(&mut self, address: IpAddr, until_ms: u64) {
        self.held_off.retain(|(held, _)| *held != address);
        if self.held_off.len() >= MAX_HELD_OFF {
            self.held_off.remove(0);
        }
        self.held_off.push((address, until_ms));
    }

    /// Whether an address is held off.
    pub fn is_held_off(&mut self, address: IpAddr, now_ms: u64) -> bool {
        self.held_off.retain(|(_, until_ms)| *until_ms > now_ms);
        self.held_off.iter().any(|(held, _)| *held == address)
    }
}

impl Front {
    /// A session without a worker goes to one that can take it, or waits for one.
    pub(super) fn find_home(&mut self, homeless: Homeless, from: WorkerId, why: Why) {
        let now_ms = self.now_ms;
        // A session whose next worker died as well has been on its way for longer than since now.
        let begun = || Move { homeless, from: Vec::new(), why, since_ms: now_ms, waits: true };
        let moving = self.moves.under_way.entry(homeless.conn).or_insert_with(begun);
        (moving.homeless, moving.waits) = (homeless, true);
        if !moving.from.contains(&from) {
            moving.from.push(from);
        }
        self.send_home(homeless.conn);
    }

    fn send_home(&mut self, conn: ConnId) {
        let Some(moving) = self.moves.under_way.get(&conn).cloned() else { return };
        let Some(worker) = self.registry.choose_home(&moving.homeless, &self.loads()) else { return };
        let client = match self.vault.duplicate(moving.homeless.row) {
            Ok(client) => client,
            Err(error) => {
                tracing::error!(%conn, %error, "no descriptor can be given on: the connection is closed");
                return self.give_up(conn);
            }
        };
        self.registry.rehome(conn, worker);
        if let Some(moving) = self.moves.under_way.get_mut(&conn) {
            moving.waits = false;
        }
        let publishes = moving.homeless.intent == Some(Intent::Publish);
        let next_segment = self.registry.stream_of(conn).filter(|_| publishes).map_or(0, |key| self.numbers.next(key));
        let adoption = Adoption {
            conn,
            row: moving.homeless.row,
            origin: moving.homeless.origin,
            next_segment,
            admitted: moving.why == Why::Placed,
            forward: self.registry.forward_of(conn).to_vec(),
        };
        self.send(worker, &ToWorker::Adopt(adoption), vec![client]);
    }

    /// Sessions that wait for a worker go to one, now that there is one more.
    pub(super) fn send_waiting_home(&mut self) {
        let mut waiting: Vec<ConnId> = self.moves.under_way.iter().filter(|(_, moving)| moving.waits).map(|(conn, _)| *conn).collect();
        waiting.sort_unstable_by_key(|conn| (self.moves.under_way[conn].homeless.intent != Some(Intent::Publish), *conn));
        for conn in waiting {
            self.send_home(conn);
        }
    }

    /// A worker goes on with a session that was given to it.
    pub(super) fn adopted(&mut self, worker: WorkerId, conn: ConnId) {
        let Some(moving) = self.moves.under_way.remove(&conn) else { return };
        self.vault.settled(conn);
        self.forget_departed(conn, &moving, worker);
        let pause_ms = self.now_ms.saturating_sub(moving.since_ms);
        self.count(FrontCounter::Moves);
        let (from, why) = (moving.from.first().copied().unwrap_or(worker), moving.why);
        self.page.push_move(&MoveRow { wall_ms: clock::wall_ms(), conn, from, to: worker, why, pause_ms });
        if matches!(moving.why, Why::Died | Why::Hung) {
            self.count(FrontCounter::Takeovers);
        }
        if moving.why != Why::Placed {
            let event = Event { from: Some(from.0), duration_ms: Some(pause_ms), ..Event::new(Kind::Move).conn(conn).worker(worker) };
            let event = self.registry.stream_of(conn).map(|key| event.clone().of_stream(key)).unwrap_or(event);
            self.log_some(&Event { client: self.registry.address_of(conn), ..event.why(moving.why.label()) });
        }
        let (stream, peer) = (self.registry.stream_of(conn), self.registry.address_of(conn));
        let (stream, peer) = (stream.map(tracing::field::display), peer.map(tracing::field::display));
        if moving.why == Why::Placed || !self.worker_lines.allow(self.now_ms) {
            tracing::debug!(stream, %conn, peer, from = %from, to = %worker, pause_ms, "a session has moved: {}", moving.why.label());
        } else {
            tracing::info!(stream, %conn, peer, from = %from, to = %worker, pause_ms, "a session has moved: {}", moving.why.label());
        }
    }

    /// Those who had a session need not hold what they kept of it any longer. Who has it now knows that already, and may have handed it over again
    /// before it hears this.
    fn forget_departed(&mut self, conn: ConnId, moving: &Move, now_with: WorkerId) {
        for from in moving.from.iter().filter(|from| **from != now_with) {
            self.send(*from, &ToWorker::Departed { conn }, Vec::new());
        }
    }

    /// A session cannot go on anywhere.
    pub(super) fn lost(&mut self, worker: WorkerId, conn: ConnId) {
        self.count(FrontCounter::SessionsLost);
        let result = self.registry.lost(conn, worker, self.now_ms);
        self.note(worker, conn, result);
    }

    fn give_up(&mut self, conn: ConnId) {
        if let Some(worker) = self.registry.worker_of(conn) {
            self.lost(worker, conn);
        }
    }

    /// Lets go of what is over.
    pub(super) fn clear_gone(&mut self) {
        while let Some((conn, row)) = self.registry.poll_gone() {
            if let Some(moving) = self.moves.under_way.remove(&conn) {
                self.forget_departed(conn, &moving, WorkerId::NONE);
            }
            self.vault.forget(conn, row);
        }
    }

    /// Two workers died of what this session's client sent: it ends, and its address is held off.
    pub(super) fn condemn(&mut self, homeless: Homeless, from: WorkerId) {
        self.count(FrontCounter::Poisoned);
        let address = self.registry.address_of(homeless.conn);
        let event = Event { client: address, ..Event::new(Kind::Poison).conn(homeless.conn) };
        let event = self.registry.stream_of(homeless.conn).map(|key| event.clone().of_stream(key)).unwrap_or(event);
        self.log(&event);
        if let Some(proxy) = address.filter(|address| self.registry.is_proxy(*address)) {
            // The others who come by it have done nothing.
            tracing::error!(conn = %homeless.conn, peer = %proxy, "two workers died of what came through this proxy: the connection is closed");
        } else if let Some(address) = address {
            let hold_ms = self.config.limits.poison_hold.as_ms();
            tracing::error!(conn = %homeless.conn, peer = %address, "two workers died of what this client sent: it is closed, and its address held off for {}", self.config.limits.poison_hold);
            self.moves.hold_off(address, self.now_ms + hold_ms);
        }
        let conn = homeless.conn;
        let home = self.registry.choose_home(&homeless, &self.loads());
        let (Some(worker), Ok(client)) = (home, self.vault.duplicate(homeless.row)) else {
            return self.lost(from, conn);
        };
        self.registry.rehome(conn, worker);
        let adoption = Adoption { conn, row: homeless.row, origin: homeless.origin, next_segment: 0, admitted: false, forward: Vec::new() };
        self.send(worker, &ToWorker::Bury(adoption), vec![client]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_held_off_for_a_while_and_the_list_is_bounded() {
        let mut moves = Moves::default();
        let address = |n: usize| IpAddr::from([10, 0, (n / 256) as u8, (n % 256) as u8]);
        moves.hold_off(address(1), 100);
        assert!(moves.is_held_off(address(1), 99) && !moves.is_held_off(address(2), 99));
        assert!(!moves.is_held_off(address(1), 100));
        for n in 0..MAX_HELD_OFF + 5 {
            moves.hold_off(address(n), 1_000);
        }
        assert_eq!(moves.held_off.len(), MAX_HELD_OFF);
        assert!(!moves.is_held_off(address(4), 200) && moves.is_held_off(address(5), 200));
    }
}
