//! The notifications that wait: in which order they go, when a failed one is repeated, which are lost for want of room.
//!
//! Each hook has a lane of its own, so that a dead server holds up nobody else's. Within a lane, what concerns one stream goes in order and one at
//! a time; different streams go side by side. Does no I/O and reads no clock: times are the caller's, in milliseconds, and never go back.

use super::circuit::Circuit;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

/// The most calls of one lane that are under way at once.
pub const MAX_CALLS: usize = 16;
/// The pause before the first repetition.
const FIRST_PAUSE_MS: u64 = 1_000;

/// What bounds a queue.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Notifications in all.
    pub all: usize,
    /// Notifications of one lane.
    pub lane: usize,
    /// The longest pause before a repetition.
    pub retry_max_ms: u64,
}

/// How a call went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The server has it, whatever it says of it.
    Delivered,
    /// Another call may do better.
    Failed,
}

/// What became of a notification whose call has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is done.
    Done,
    /// It goes once more, after this pause.
    Again(u64),
    /// It has been repeated as often as is allowed, and is lost.
    GivenUp,
}

/// A notification that goes out now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent<T> {
    /// Whose.
    pub lane: usize,
    /// Of which stream.
    pub stream: String,
    /// Its number in the log of events.
    pub id: u64,
    /// How often it has gone already.
    pub repeated: u32,
    /// It.
    pub item: T,
}

/// See the module's head.
#[derive(Debug)]
pub struct Queue<T> {
    limits: Limits,
    lanes: Vec<Lane<T>>,
    waiting: usize,
    /// Numbers what becomes due at the same time.
    turn: u64,
}

#[derive(Debug)]
struct Lane<T> {
    retries: u32,
    streams: HashMap<String, Stream<T>>,
    /// Streams of which nothing is under way, by when they are due.
    due: BTreeMap<(u64, u64), String>,
    /// Not done yet.
    pending: BTreeSet<u64>,
    under_way: usize,
}

#[derive(Debug)]
struct Stream<T> {
    waiting: VecDeque<(u64, T)>,
    repeated: u32,
}

impl<T: Clone> Queue<T> {
    /// One lane for each hook; `retries` says how often each repeats a notification.
    pub fn new(limits: Limits, retries: impl IntoIterator<Item = u32>) -> Self {
        let lane = |retries| Lane { retries, streams: HashMap::new(), due: BTreeMap::new(), pending: BTreeSet::new(), under_way: 0 };
        Self { limits, lanes: retries.into_iter().map(lane).collect(), waiting: 0, turn: 0 }
    }

    /// Adds a notification behind those of its stream. False: there is no room, and it is lost.
    pub fn push(&mut self, lane: usize, stream: &str, id: u64, item: T, now_ms: u64) -> bool {
        let Some(of_hook) = self.lanes.get_mut(lane) else { return false };
        if self.waiting >= self.limits.all || of_hook.pending.len() >= self.limits.lane || !of_hook.pending.insert(id) {
            return false;
        }
        self.waiting += 1;
        let new = !of_hook.streams.contains_key(stream);
        let of_stream = of_hook.streams.entry(stream.to_owned()).or_insert_with(|| Stream { waiting: VecDeque::new(), repeated: 0 });
        of_stream.waiting.push_back((id, item));
        if new {
            self.turn += 1;
            of_hook.due.insert((now_ms, self.turn), stream.to_owned());
        }
        true
    }

    /// The next notification that goes out now; its [`Queue::ended`] follows. `circuits`: of the lanes.
    pub fn next(&mut self, circuits: &mut [Circuit], now_ms: u64) -> Option<Sent<T>> {
        self.lanes.iter_mut().zip(circuits).enumerate().find_map(|(lane, (of_hook, circuit))| {
            let first = of_hook.due.first_entry().filter(|first| first.key().0 <= now_ms)?;
            if of_hook.under_way >= MAX_CALLS || !circuit.admit(now_ms) {
                return None;
            }
            let stream = first.remove();
            of_hook.under_way += 1;
            let of_stream = of_hook.streams.get(&stream).expect("what is due waits");
            let (id, item) = of_stream.waiting.front().cloned().expect("a stream without notifications is forgotten");
            Some(Sent { lane, stream, id, repeated: of_stream.repeated, item })
        })
    }

    /// When [`Queue::next`] may have something, if nothing else happens; `None`: not before something does.
    pub fn next_at_ms(&self, circuits: &[Circuit]) -> Option<u64> {
        let of_lane = |(of_hook, circuit): (&Lane<T>, &Circuit)| {
            let ((due_ms, _), _) = of_hook.due.first_key_value().filter(|_| of_hook.under_way < MAX_CALLS)?;
            Some((*due_ms).max(circuit.opens_at_ms()?))
        };
        self.lanes.iter().zip(circuits).filter_map(of_lane).min()
    }

    /// The call of a notification has ended.
    pub fn ended(&mut self, lane: usize, stream: &str, outcome: Outcome, now_ms: u64) -> Fate {
        let of_hook = &mut self.lanes[lane];
        let of_stream = of_hook.streams.get_mut(stream).expect("what was sent waits until it is done");
        of_hook.under_way -= 1;
        self.turn += 1;
        if outcome == Outcome::Failed && of_stream.repeated < of_hook.retries {
            let pause_ms = (FIRST_PAUSE_MS << of_stream.repeated.min(20)).min(self.limits.retry_max_ms);
            of_stream.repeated += 1;
            of_hook.due.insert((now_ms + pause_ms, self.turn), stream.to_owned());
            return Fate::Again(pause_ms);
        }
        let (id, _) = of_stream.waiting.pop_front().expect("it waited until now");
        of_hook.pending.remove(&id);
        of_stream.repeated = 0;
        self.waiting -= 1;
        if of_stream.waiting.is_empty() {
            of_hook.streams.remove(stream);
        } else {
            of_hook.due.insert((now_ms, self.turn), stream.to_owned());
        }
        if outcome == Outcome::Delivered { Fate::Done } else { Fate::GivenUp }
    }

    /// The numbers of those of a lane that are not done.
    pub fn pending(&self, lane: usize) -> impl ExactSizeIterator<Item = u64> + '_ {
        self.lanes[lane].pending.iter().copied()
    }

    /// Whether something of this stream waits in a lane, or is under way.
    pub fn concerns(&self, lane: usize, stream: &str) -> bool {
        self.lanes[lane].streams.contains_key(stream)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: Limits = Limits { all: 12, lane: 8, retry_max_ms: 4_000 };

    fn queue(retries: &[u32]) -> (Queue<u64>, Vec<Circuit>) {
        (Queue::new(LIMITS, retries.iter().copied()), vec![Circuit::default(); retries.len()])
    }

    #[test]
    fn a_stream_goes_in_order_and_others_do_not_wait_for_it() {
        let (mut queue, mut circuits) = queue(&[1]);
        for (stream, id) in [("a", 1), ("a", 2), ("b", 3)] {
            assert!(queue.push(0, stream, id, id, 0));
        }
        assert_eq!(queue.next(&mut circuits, 0).unwrap().id, 1);
        assert_eq!(queue.next(&mut circuits, 0).unwrap().id, 3);
        assert_eq!((queue.next(&mut circuits, 0), queue.next_at_ms(&circuits)), (None, None));
        assert_eq!(queue.ended(0, "a", Outcome::Failed, 10), Fate::Again(1_000));
        assert_eq!((queue.next(&mut circuits, 1_009), queue.next_at_ms(&circuits)), (None, Some(1_010)));
        let sent = queue.next(&mut circuits, 1_010).unwrap();
        assert_eq!((sent.id, sent.repeated), (1, 1));
        assert_eq!(queue.ended(0, "a", Outcome::Failed, 1_020), Fate::GivenUp);
        assert_eq!(queue.next(&mut circuits, 1_020).unwrap().id, 2);
        assert_eq!(queue.pending(0).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(queue.ended(0, "a", Outcome::Delivered, 1_030), Fate::Done);
        assert_eq!(queue.ended(0, "b", Outcome::Delivered, 1_030), Fate::Done);
        assert_eq!(queue.waiting, 0);
    }

    #[test]
    fn a_lane_and_all_of_them_are_bounded() {
        let (mut queue, _) = queue(&[0, 0]);
        let taken = |queue: &mut Queue<u64>, lane| (0..20).filter(|id| queue.push(lane, "a", *id, 0, 0)).count();
        assert_eq!((taken(&mut queue, 0), taken(&mut queue, 1)), (8, 4));
    }

    #[test]
    fn a_resting_lane_sends_one_to_find_out_and_others_go_on() {
        let (mut queue, mut circuits) = queue(&[3, 3]);
        circuits[0] = Circuit::Resting { until_ms: 50, failures: 5 };
        for (lane, stream, id) in [(0, "a", 1), (0, "b", 2), (1, "a", 1)] {
            queue.push(lane, stream, id, 0, 0);
        }
        assert_eq!(queue.next(&mut circuits, 0).unwrap().lane, 1);
        assert_eq!((queue.next(&mut circuits, 49), queue.next_at_ms(&circuits)), (None, Some(50)));
        assert!(queue.next(&mut circuits, 50).is_some() && queue.next(&mut circuits, 50).is_none());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push(usize, u8),
        Send,
        End(usize, bool),
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..2usize, 0..3u8).prop_map(|(lane, stream)| Step::Push(lane, stream)),
            Just(Step::Send),
            (0..40usize, any::<bool>()).prop_map(|(which, ok)| Step::End(which, ok)),
            (0..5_000u64).prop_map(Step::Wait),
        ]
    }

    proptest! {
        // A list of what was pushed, in order, is all that the model needs: what is sent must be the oldest of its stream that is not done, with
        // nothing else of its stream under way, and everything that was taken is done once, or given up after as many repetitions as are allowed.
        #[test]
        fn nothing_is_lost_sent_out_of_order_or_done_twice(steps in prop::collection::vec(step(), 0..200)) {
            let (mut queue, mut circuits) = queue(&[2, 0]);
            let mut waiting: Vec<(usize, String, u64)> = Vec::new();
            let mut under_way: Vec<Sent<u64>> = Vec::new();
            let mut times: HashMap<(usize, u64), u32> = HashMap::new();
            let (mut now, mut id) = (0, 0);
            for step in steps {
                match step {
                    Step::Push(lane, stream) => {
                        id += 1;
                        let of_lane = waiting.iter().filter(|(of, ..)| *of == lane).count();
                        let room = waiting.len() < LIMITS.all && of_lane < LIMITS.lane;
                        prop_assert_eq!(queue.push(lane, &stream.to_string(), id, id, now), room);
                        if room {
                            waiting.push((lane, stream.to_string(), id));
                        }
                    }
                    Step::Send => {
                        let at = queue.next_at_ms(&circuits);
                        let sent = queue.next(&mut circuits, now);
                        prop_assert_eq!(sent.is_some(), at.is_some_and(|at| at <= now));
                        let Some(sent) = sent else { continue };
                        let oldest = waiting.iter().find(|(lane, stream, _)| *lane == sent.lane && *stream == sent.stream);
                        prop_assert_eq!(oldest.map(|(.., id)| *id), Some(sent.id));
                        prop_assert!(!under_way.iter().any(|other| other.lane == sent.lane && other.stream == sent.stream));
                        prop_assert_eq!(sent.item, sent.id);
                        prop_assert_eq!(*times.entry((sent.lane, sent.id)).and_modify(|times| *times += 1).or_insert(0), sent.repeated);
                        under_way.push(sent);
                    }
                    Step::End(which, ok) if !under_way.is_empty() => {
                        let sent = under_way.swap_remove(which % under_way.len());
                        circuits[sent.lane].note(ok, now);
                        let fate = queue.ended(sent.lane, &sent.stream, if ok { Outcome::Delivered } else { Outcome::Failed }, now);
                        let most = [2, 0][sent.lane];
                        match fate {
                            Fate::Done => prop_assert!(ok),
                            Fate::Again(pause) => prop_assert!(!ok && sent.repeated < most && pause <= LIMITS.retry_max_ms),
                            Fate::GivenUp => prop_assert!(!ok && sent.repeated == most),
                        }
                        if !matches!(fate, Fate::Again(_)) {
                            waiting.retain(|(lane, _, id)| (*lane, *id) != (sent.lane, sent.id));
                        }
                    }
                    Step::End(..) => {}
                    Step::Wait(ms) => now += ms,
                }
                prop_assert_eq!(queue.waiting, waiting.len());
                for lane in 0..2 {
                    let pending: Vec<u64> = waiting.iter().filter(|(of, ..)| *of == lane).map(|(.., id)| *id).collect();
                    prop_assert_eq!(queue.pending(lane).collect::<Vec<_>>(), pending);
                }
            }
        }
    }
}
