//! Emptying a worker, and evening out the workers: which sessions are asked to go. How they go is [`super::moves`]' business.

use super::timers::Timer;
use super::{Front, TICK_MS};
use crate::control::pages::{Why, WorkerState};
use crate::control::{ConnId, Intent, ToWorker, WorkerId};
use crate::events::{Event, Kind};
use std::collections::HashMap;

/// How often a worker that is drained is looked at, milliseconds.
const DRAIN_LOOK_MS: u64 = 20;
/// Sessions of a drained worker that are on their way at once.
const DRAIN_AT_ONCE: usize = 256;
/// Sessions that will not move (answers under way) have so long to end by themselves, milliseconds.
const DRAIN_MS: u64 = 10_000;
/// No session is moved for balance twice in this time, milliseconds.
const RESTING_MS: u64 = 60_000;
/// Fewer sessions than this beyond a worker's share are not worth moving by themselves.
const LEAST_EXCESS: u32 = 8;

/// What is under way.
#[derive(Debug, Default)]
pub struct Balance {
    /// Workers that are drained, since when.
    draining: HashMap<WorkerId, u64>,
    /// Sessions that were asked to go.
    asked: HashMap<ConnId, WorkerId>,
    /// Sessions that were moved for balance, and when.
    rested: HashMap<ConnId, u64>,
    /// Since when the shares have differed.
    uneven_since_ms: Option<u64>,
    /// Sessions that are still to be moved because somebody asked for it.
    ordered: bool,
}

impl Front {
    /// Why a session of a worker moves that the front has asked for.
    pub(super) fn why_moving(&mut self, worker: WorkerId, conn: ConnId) -> Why {
        self.balance.asked.remove(&conn);
        if self.balance.draining.contains_key(&worker) { Why::Drained } else { Why::Rebalanced }
    }

    /// A session that was asked to go stays for now.
    pub(super) fn stays(&mut self, _worker: WorkerId, conn: ConnId) {
        self.balance.asked.remove(&conn);
    }

    /// Has a worker hand all its sessions to others; then it ends, and is started anew. The error says why not.
    pub(super) fn drain(&mut self, worker: WorkerId) -> Result<(), String> {
        if self.is_quieting() {
            return Err("another front is just taking over".to_owned());
        }
        match self.worker(worker).map(|found| found.state) {
            None => return Err(format!("there is no worker {worker}; there are 1 to {}", self.workers.len())),
            Some(WorkerState::Running) => {}
            Some(WorkerState::Draining) => return Ok(()),
            Some(other) => return Err(format!("worker {worker} is {}", other.label())),
        }
        tracing::info!(%worker, sessions = self.registry.load(worker).sessions, "the worker is drained: its sessions go to others");
        self.log(&Event::new(Kind::Drain).worker(worker));
        self.balance.draining.insert(worker, self.now_ms);
        if let Some(found) = self.worker_mut(worker) {
            found.state = WorkerState::Draining;
        }
        self.timers.set(Timer::Drain, self.now_ms);
        Ok(())
    }

    /// Goes on with the workers that are drained.
    pub(super) fn drain_on(&mut self) {
        let draining: Vec<(WorkerId, u64)> = self.balance.draining.iter().map(|(worker, since_ms)| (*worker, *since_ms)).collect();
        for (worker, since_ms) in draining {
            let left = self.registry.connections_of(worker);
            // Sessions that nobody else can take wait for this worker's successor.
            let on_their_way = self.moves.from(worker).any(|conn| !self.moves.waits(conn));
            let done = !on_their_way && left.iter().all(|conn| self.moves.waits(*conn));
            // Connections through a relay stay with it to their end.
            let limit_ms = if self.config.relays() { self.config.engine.drain_limit.as_ms() } else { DRAIN_MS };
            let overdue = self.now_ms >= since_ms + limit_ms && !on_their_way;
            if done || overdue {
                tracing::info!(%worker, left = left.len(), ms = self.now_ms - since_ms, "the worker is empty: it ends and is started anew");
                self.balance.draining.remove(&worker);
                self.send(worker, &ToWorker::Stop, Vec::new());
                continue;
            }
            let room = DRAIN_AT_ONCE.saturating_sub(self.moves.len() + self.balance.asked.len());
            let may_go = |conn: &ConnId| !self.balance.asked.contains_key(conn) && !self.moves.waits(*conn);
            for conn in left.into_iter().filter(may_go).take(room).collect::<Vec<_>>() {
                self.ask_to_go(conn, worker);
            }
        }
        if !self.balance.draining.is_empty() {
            self.timers.set(Timer::Drain, self.now_ms + DRAIN_LOOK_MS);
        }
    }

    /// Has every worker that another front started replaced, one after the other. Returns how many are left.
    pub(super) fn replace_inherited(&mut self) -> usize {
        let all_serve = self.workers.iter().all(super::workers::Worker::serves);
        let next = self.workers.iter().find(|worker| worker.is_inherited()).map(|worker| worker.id);
        if let Some(next) = next.filter(|_| all_serve && self.balance.draining.is_empty())
            && let Err(error) = self.drain(next)
        {
            tracing::debug!(worker = %next, "it cannot be replaced yet: {error}");
        }
        self.workers_to_replace()
    }

    /// How many workers were started by another front.
    pub(super) fn workers_to_replace(&self) -> usize {
        self.workers.iter().filter(|worker| worker.is_inherited()).count()
    }

    /// A worker is dead, drained or not.
    pub(super) fn not_draining(&mut self, worker: WorkerId) {
        self.balance.draining.remove(&worker);
        self.balance.asked.retain(|_, of| *of != worker);
    }

    fn ask_to_go(&mut self, conn: ConnId, worker: WorkerId) {
        // A pull cannot be moved, only made anew, which is not worth it for balance.
        if self.pulls.has(conn) {
            if self.balance.draining.contains_key(&worker) {
                self.move_pull(conn, worker);
            }
            return;
        }
        // Where it goes is decided when it comes.
        self.balance.asked.insert(conn, worker);
        self.send(worker, &ToWorker::HandOver { conn }, Vec::new());
    }

    /// Moves sessions until the workers have their shares. Returns how many are to go.
    pub(super) fn rebalance(&mut self) -> usize {
        self.balance.ordered = true;
        self.imbalance()
    }

    /// How many sessions are not where their worker's share would have them.
    pub(super) fn imbalance(&self) -> usize {
        self.excess().iter().map(|(_, _, excess)| *excess as usize).sum()
    }

    /// Once a second: are the shares uneven for long enough, or did somebody ask? Then some go.
    pub(super) fn balance_tick(&mut self) {
        let now_ms = self.now_ms;
        self.balance.rested.retain(|_, moved_ms| now_ms - *moved_ms < RESTING_MS);
        self.balance.asked.retain(|conn, _| self.registry.worker_of(*conn).is_some());
        let excess = self.excess();
        if excess.is_empty() {
            self.balance.ordered = false;
            self.balance.uneven_since_ms = None;
            return;
        }
        let share = self.config.placement.rebalance_share;
        let uneven = share > 0
            && excess.iter().any(|(worker, _, excess)| {
                let tally = self.registry.load(*worker);
                let fair = (tally.publishers + tally.viewers).saturating_sub(*excess);
                *excess >= LEAST_EXCESS && u64::from(*excess) * 100 > u64::from(fair) * u64::from(share)
            });
        if !uneven {
            self.balance.uneven_since_ms = None;
        }
        let since_ms = *self.balance.uneven_since_ms.get_or_insert(now_ms);
        let due = self.balance.ordered || (uneven && now_ms - since_ms >= self.config.placement.rebalance_after.as_ms());
        if !due || self.is_quieting() {
            return;
        }
        let mut left = (u64::from(self.config.placement.rebalance_per_second) * TICK_MS / 1_000) as usize;
        for (worker, intent, excess) in excess {
            for conn in self.registry.sessions_of(worker, intent) {
                if left == 0 || self.registry.load(worker).sessions == 0 {
                    return;
                }
                if excess as usize <= self.balance.asked.values().filter(|of| **of == worker).count() {
                    break;
                }
                if !self.balance.rested.contains_key(&conn) && !self.balance.asked.contains_key(&conn) {
                    left -= 1;
                    self.balance.rested.insert(conn, now_ms);
                    self.ask_to_go(conn, worker);
                }
            }
        }
    }

    /// Which workers have more publishers or viewers than their share, and how many more.
    fn excess(&self) -> Vec<(WorkerId, Intent, u32)> {
        let loads = self.loads();
        if loads.len() < 2 || self.config.relays() {
            return Vec::new();
        }
        let weights: u64 = loads.iter().map(|load| u64::from(load.weight)).sum();
        let tally = |worker: WorkerId| self.registry.load(worker);
        let publishers: u64 = loads.iter().map(|load| u64::from(tally(load.worker).publishers)).sum();
        let viewers: u64 = loads.iter().map(|load| u64::from(tally(load.worker).viewers)).sum();
        let over = |have: u32, share: u64| u32::try_from(u64::from(have).saturating_sub(share)).unwrap_or(0);
        let mut excess = Vec::new();
        for load in &loads {
            let tally = tally(load.worker);
            let fair_publishers = (publishers * u64::from(load.weight)).div_ceil(weights.max(1));
            let fair_viewers = viewers.div_ceil(loads.len() as u64);
            excess.push((load.worker, Intent::Publish, over(tally.publishers, fair_publishers)));
            excess.push((load.worker, Intent::Play, over(tally.viewers, fair_viewers)));
        }
        excess.retain(|(.., excess)| *excess > 0);
        excess
    }
}
