//! The end of a stream's life: what becomes of it when nobody publishes it, step by step, and when each step is due.
//!
//! Gone in order: wait for `reconnect_grace`, end it, wait for `hls_dispose`, delete it. Gone with its worker: recover it
//! first. The steps are carried out by workers; here is only who was asked, and what to do when no answer comes.
//! No I/O, no clock of its own. The stream's lock makes a late step harmless to a publisher that is back.

use crate::control::{Settling, WorkerId};
use braidcast_media::StreamKey;
use std::collections::{BTreeSet, HashMap};

/// Orders that are under way at once; more wait, so that a start with thousands of streams does not flood the workers.
const MAX_ORDERS: usize = 128;
/// How long a worker may take to carry out an order before it is given again, milliseconds.
const ORDER_TIMEOUT_MS: u64 = 30_000;
/// How long after a failure an order is given again, milliseconds.
const RETRY_MS: u64 = 2_000;
/// How often an order may fail before the next step is taken instead.
const MAX_ATTEMPTS: u8 = 4;

/// How a publisher went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// Its worker closed the stream's log.
    InOrder,
    /// Its worker died, or was never asked: the log's tail is as it was left.
    LeftOpen,
}

/// The streams that nobody publishes and that are not deleted yet.
#[derive(Debug)]
pub struct Lifecycle {
    reconnect_grace_ms: u64,
    hls_dispose_ms: u64,
    idle: HashMap<StreamKey, Idle>,
    /// Steps that no worker was asked for yet, by when they are due.
    due: BTreeSet<(u64, StreamKey)>,
    /// Orders under way, by when an answer is overdue.
    asked: BTreeSet<(u64, StreamKey)>,
}

#[derive(Debug)]
struct Idle {
    gone_ms: u64,
    next: Settling,
    /// Its place in `due`, or in `asked` if a worker was asked.
    at_ms: u64,
    worker: Option<WorkerId>,
    attempts: u8,
}

impl Lifecycle {
    /// With `[play] reconnect_grace` and `[hls] hls_dispose`, in milliseconds.
    pub fn new(reconnect_grace_ms: u64, hls_dispose_ms: u64) -> Self {
        Self { reconnect_grace_ms, hls_dispose_ms, idle: HashMap::new(), due: BTreeSet::new(), asked: BTreeSet::new() }
    }

    /// How many streams nobody publishes.
    pub fn len(&self) -> usize {
        self.idle.len()
    }

    /// Whether the stream is known and nobody publishes it.
    pub fn contains(&self, key: &StreamKey) -> bool {
        self.idle.contains_key(key)
    }

    /// Somebody publishes the stream: nothing is due any more.
    pub fn published(&mut self, key: &StreamKey) {
        self.unplan(key);
        self.idle.remove(key);
    }

    /// Nobody publishes the stream any more.
    pub fn unpublished(&mut self, key: &StreamKey, gone: Gone, now_ms: u64) {
        self.unplan(key);
        let (next, due_ms) = match gone {
            Gone::InOrder => (Settling::End, now_ms + self.reconnect_grace_ms),
            Gone::LeftOpen => (Settling::Recover, now_ms),
        };
        self.idle.insert(key.clone(), Idle { gone_ms: now_ms, next, at_ms: due_ms, worker: None, attempts: 0 });
        self.due.insert((due_ms, key.clone()));
    }

    /// Nobody publishes the stream here, and it is live all the same: it ends at `at_ms`, whatever was planned before.
    pub fn ends_at(&mut self, key: &StreamKey, at_ms: u64) {
        self.unplan(key);
        self.idle.insert(
            key.clone(),
            Idle { gone_ms: at_ms.saturating_sub(self.reconnect_grace_ms), next: Settling::End, at_ms, worker: None, attempts: 0 },
        );
        self.due.insert((at_ms, key.clone()));
    }

    /// When [`Lifecycle::poll`] has to be called; `None` if never.
    pub fn next_due_ms(&self) -> Option<u64> {
        let due = self.due.first().filter(|_| self.asked.len() < MAX_ORDERS);
        [due, self.asked.first()].into_iter().flatten().map(|(at_ms, _)| *at_ms).min()
    }

    /// The next order that is due. The caller gives it to a worker and says so by [`Lifecycle::ordered`], or asks again later.
    pub fn poll(&mut self, now_ms: u64) -> Option<(StreamKey, Settling)> {
        while let Some((_, key)) = self.asked.first().filter(|(at_ms, _)| *at_ms <= now_ms).cloned() {
            tracing::warn!(stream = %key, "a worker did not settle the stream in {ORDER_TIMEOUT_MS} ms: asking again");
            self.failed(&key, now_ms);
        }
        if self.asked.len() >= MAX_ORDERS {
            return None;
        }
        let (_, key) = self.due.first().filter(|(at_ms, _)| *at_ms <= now_ms)?;
        Some((key.clone(), self.idle.get(key)?.next))
    }

    /// The order that [`Lifecycle::poll`] gave is with a worker.
    pub fn ordered(&mut self, key: &StreamKey, worker: WorkerId, now_ms: u64) {
        self.plan(key, Some(worker), now_ms + ORDER_TIMEOUT_MS);
    }

    /// A worker answers. An answer to an order that was withdrawn (a publisher is back) or given to another changes nothing.
    pub fn settled(&mut self, key: &StreamKey, settling: Settling, done: bool, worker: WorkerId, now_ms: u64) {
        let Some(idle) = self.idle.get(key) else { return };
        if idle.worker == Some(worker) && idle.next == settling {
            if done { self.advance(key, now_ms) } else { self.failed(key, now_ms) }
        }
    }

    /// A worker died: what it was asked will be asked again.
    pub fn worker_died(&mut self, worker: WorkerId, now_ms: u64) {
        let lost = |(_, key): &&(u64, StreamKey)| self.idle.get(key).is_some_and(|idle| idle.worker == Some(worker));
        let lost: Vec<StreamKey> = self.asked.iter().filter(lost).map(|(_, key)| key.clone()).collect();
        for key in lost {
            self.failed(&key, now_ms);
        }
    }

    /// Tries again in a while; after too many failures goes on with the next step, whose order includes this one.
    fn failed(&mut self, key: &StreamKey, now_ms: u64) {
        let Some(idle) = self.idle.get_mut(key) else { return };
        idle.attempts += 1;
        if idle.attempts >= MAX_ATTEMPTS {
            tracing::error!(stream = %key, "the stream could not be settled ({:?}) in {MAX_ATTEMPTS} attempts: the workers' lines say why", idle.next);
            return self.advance(key, now_ms);
        }
        self.plan(key, None, now_ms + RETRY_MS);
    }

    fn advance(&mut self, key: &StreamKey, now_ms: u64) {
        let Some(idle) = self.idle.get_mut(key) else { return };
        let (next, due_ms) = match idle.next {
            Settling::Recover => (Settling::End, (idle.gone_ms + self.reconnect_grace_ms).max(now_ms)),
            Settling::End => (Settling::Dispose, now_ms + self.hls_dispose_ms),
            Settling::Dispose => return self.published(key),
        };
        (idle.next, idle.attempts) = (next, 0);
        self.plan(key, None, due_ms);
    }

    fn plan(&mut self, key: &StreamKey, worker: Option<WorkerId>, at_ms: u64) {
        self.unplan(key);
        let Some(idle) = self.idle.get_mut(key) else { return };
        (idle.worker, idle.at_ms) = (worker, at_ms);
        let table = if worker.is_some() { &mut self.asked } else { &mut self.due };
        table.insert((at_ms, key.clone()));
    }

    fn unplan(&mut self, key: &StreamKey) {
        let Some(idle) = self.idle.get(key) else { return };
        let table = if idle.worker.is_some() { &mut self.asked } else { &mut self.due };
        table.remove(&(idle.at_ms, key.clone()));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const W1: WorkerId = WorkerId(1);
    const W2: WorkerId = WorkerId(2);

    fn key(name: &str) -> StreamKey {
        StreamKey::new("v", "live", name).unwrap()
    }

    #[track_caller]
    fn order(lifecycle: &mut Lifecycle, now_ms: u64, worker: WorkerId) -> Settling {
        let (key, settling) = lifecycle.poll(now_ms).expect("due");
        lifecycle.ordered(&key, worker, now_ms);
        assert_eq!(lifecycle.poll(now_ms), None);
        settling
    }

    #[test]
    fn a_stream_waits_ends_and_goes() {
        let mut life = Lifecycle::new(15_000, 120_000);
        life.unpublished(&key("a"), Gone::InOrder, 1_000);
        assert_eq!((life.poll(15_999), life.next_due_ms()), (None, Some(16_000)));
        assert_eq!(order(&mut life, 16_000, W1), Settling::End);
        life.settled(&key("a"), Settling::End, true, W1, 16_100);
        assert_eq!((life.poll(136_099), life.next_due_ms()), (None, Some(136_100)));
        assert_eq!(order(&mut life, 136_100, W2), Settling::Dispose);
        life.settled(&key("a"), Settling::Dispose, true, W2, 136_101);
        assert_eq!((life.len(), life.next_due_ms(), life.asked.len()), (0, None, 0));
    }

    #[test]
    fn a_stream_of_a_dead_worker_is_recovered_at_once_and_its_grace_runs_from_the_death() {
        let mut life = Lifecycle::new(15_000, 120_000);
        life.unpublished(&key("a"), Gone::LeftOpen, 1_000);
        assert_eq!(order(&mut life, 1_000, W1), Settling::Recover);
        life.settled(&key("a"), Settling::Recover, true, W1, 3_000);
        assert_eq!(life.next_due_ms(), Some(16_000));
    }

    #[test]
    fn a_publisher_that_is_back_stops_the_steps() {
        let mut life = Lifecycle::new(15_000, 120_000);
        life.unpublished(&key("a"), Gone::InOrder, 0);
        assert_eq!(order(&mut life, 15_000, W1), Settling::End);
        life.published(&key("a"));
        life.settled(&key("a"), Settling::End, false, W1, 15_001);
        assert_eq!((life.len(), life.next_due_ms(), life.asked.len()), (0, None, 0));
    }

    #[test]
    fn an_order_is_given_again_when_its_worker_dies_or_stays_silent() {
        let mut life = Lifecycle::new(0, 0);
        life.unpublished(&key("a"), Gone::LeftOpen, 0);
        assert_eq!(order(&mut life, 0, W1), Settling::Recover);
        life.worker_died(W1, 5);
        assert_eq!(order(&mut life, 5 + RETRY_MS, W2), Settling::Recover);
        life.settled(&key("a"), Settling::Recover, true, W1, 3_000);
        let silent = 5 + RETRY_MS + ORDER_TIMEOUT_MS;
        assert_eq!(life.poll(silent), None);
        assert_eq!(order(&mut life, silent + RETRY_MS, W1), Settling::Recover);
    }

    #[test]
    fn failing_for_good_goes_on_to_the_next_step() {
        let mut life = Lifecycle::new(0, 0);
        life.unpublished(&key("a"), Gone::LeftOpen, 0);
        let mut now_ms = 0;
        let mut steps = Vec::new();
        while life.len() > 0 {
            now_ms = life.next_due_ms().unwrap();
            let settling = order(&mut life, now_ms, W1);
            steps.push(settling);
            life.settled(&key("a"), settling, false, W1, now_ms);
        }
        let expected: Vec<_> =
            [Settling::Recover, Settling::End, Settling::Dispose].into_iter().flat_map(|s| [s; MAX_ATTEMPTS as usize]).collect();
        assert_eq!(steps, expected);
        assert!(now_ms < 60_000);
    }

    #[test]
    fn only_so_many_orders_are_under_way() {
        let mut life = Lifecycle::new(0, 0);
        for index in 0..MAX_ORDERS + 10 {
            life.unpublished(&key(&index.to_string()), Gone::LeftOpen, 0);
        }
        let mut ordered = 0;
        while let Some((key, _)) = life.poll(0) {
            life.ordered(&key, W1, 0);
            ordered += 1;
        }
        assert_eq!(ordered, MAX_ORDERS);
        assert_eq!(life.next_due_ms(), Some(ORDER_TIMEOUT_MS));
        let (_, asked) = life.asked.first().unwrap().clone();
        life.settled(&asked, Settling::Recover, true, W1, 1);
        assert!(life.poll(1).is_some());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Publish(u8),
        Unpublish(u8, bool),
        Poll(u16),
        Settle(u8, u8, bool, u16),
        Die(u16),
        Wait(u16),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0u8..4).prop_map(Step::Publish),
            (0u8..4, any::<bool>()).prop_map(|(k, o)| Step::Unpublish(k, o)),
            (1u16..3).prop_map(Step::Poll),
            (0u8..4, 0u8..3, any::<bool>(), 1u16..3).prop_map(|(k, s, d, w)| Step::Settle(k, s, d, w)),
            (1u16..3).prop_map(Step::Die),
            (0u16..20_000).prop_map(Step::Wait),
        ];
        proptest::collection::vec(step, 0..80)
    }

    proptest! {
        #[test]
        fn the_tables_agree_and_every_stream_comes_to_its_end(steps in steps()) {
            let mut life = Lifecycle::new(15_000, 40_000);
            let mut now_ms = 0;
            for step in steps {
                match step {
                    Step::Publish(k) => life.published(&key(&k.to_string())),
                    Step::Unpublish(k, in_order) => life.unpublished(&key(&k.to_string()), if in_order { Gone::InOrder } else { Gone::LeftOpen }, now_ms),
                    Step::Poll(w) => if let Some((key, _)) = life.poll(now_ms) { life.ordered(&key, WorkerId(w), now_ms) },
                    Step::Settle(k, s, done, w) => {
                        let settling = [Settling::Recover, Settling::End, Settling::Dispose][usize::from(s)];
                        life.settled(&key(&k.to_string()), settling, done, WorkerId(w), now_ms);
                    }
                    Step::Die(w) => life.worker_died(WorkerId(w), now_ms),
                    Step::Wait(ms) => now_ms += u64::from(ms),
                }
                prop_assert_eq!(life.due.len() + life.asked.len(), life.idle.len());
                for (key, idle) in &life.idle {
                    let table = if idle.worker.is_some() { &life.asked } else { &life.due };
                    prop_assert!(table.contains(&(idle.at_ms, key.clone())));
                }
            }
            for _ in 0..200 {
                let Some(due_ms) = life.next_due_ms() else { break };
                now_ms = now_ms.max(due_ms);
                while let Some((key, settling)) = life.poll(now_ms) {
                    life.ordered(&key, W1, now_ms);
                    life.settled(&key, settling, true, W1, now_ms);
                }
            }
            prop_assert_eq!(life.len(), 0);
        }
    }
}
