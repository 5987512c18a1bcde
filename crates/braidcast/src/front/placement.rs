//! Which worker gets a publisher or a viewer: the named policies, as pure functions of what the workers hold.
//!
//! Knows no streams, no connections and no clock. Reservations are already counted in what it is given, so that two
//! questions asked at the same moment get two answers that fit together.

use crate::config::{PlayPolicy, PublishPolicy};
use crate::control::WorkerId;
use std::cmp::Ordering;

/// What a worker that can take sessions holds now, reservations included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// The worker.
    pub worker: WorkerId,
    /// Its publishers.
    pub publishers: u32,
    /// Its viewers (HLS viewers are requests, not sessions: they do not count).
    pub viewers: u32,
    /// The most publishers it may have; 0 means no limit.
    pub allowed: u32,
    /// Its share under [`PublishPolicy::Weighted`], from 1.
    pub weight: u32,
    /// CPU time it has to spare, per mille of one core: its share under [`PublishPolicy::Measured`].
    pub spare_permille: u32,
}

impl Load {
    /// How many more publishers it may take; `None` means no limit.
    pub fn free_slots(&self) -> Option<u32> {
        (self.allowed > 0).then(|| self.allowed.saturating_sub(self.publishers))
    }

    fn has_room(&self) -> bool {
        self.free_slots() != Some(0)
    }
}

/// The worker for one more publisher; `None` if every worker, or `allowed_in_all` (0: no limit), is full. Of equals the lowest id.
///
/// Publishers that workers outside of `loads` hold do not count: such workers are dead, and their publishers gone.
pub fn publish(policy: PublishPolicy, loads: &[Load], allowed_in_all: u32) -> Option<WorkerId> {
    let in_all: u64 = loads.iter().map(|load| u64::from(load.publishers)).sum();
    if allowed_in_all > 0 && in_all >= u64::from(allowed_in_all) {
        return None;
    }
    let share = |load: &Load| {
        u64::from(match policy {
            PublishPolicy::Weighted => load.weight.max(1),
            PublishPolicy::Even => 1,
            PublishPolicy::Measured => load.spare_permille.max(1),
        })
    };
    // (publishers + 1) / share, compared crosswise: exact, where a quotient would be rounded.
    let by_filling = |a: &&Load, b: &&Load| -> Ordering {
        let filled = |one: &Load, other: &Load| (u64::from(one.publishers) + 1) * share(other);
        filled(a, b).cmp(&filled(b, a)).then(a.worker.cmp(&b.worker))
    };
    loads.iter().filter(|load| load.has_room()).min_by(by_filling).map(|load| load.worker)
}

/// Whether `worker` itself may take one more publisher: the hard limits alone, for connections that cannot be placed elsewhere.
pub fn publish_here(loads: &[Load], worker: WorkerId, allowed_in_all: u32) -> Option<WorkerId> {
    publish(PublishPolicy::Even, loads, allowed_in_all)?;
    loads.iter().find(|load| load.worker == worker && load.has_room()).map(|load| load.worker)
}

/// Who has at most this part more sessions than the worker with the fewest is its equal: one in sixteen.
const EQUAL_PART: u64 = 16;

/// The worker for one more viewer; `None` if there is none. Of equals the one that takes the stream in (`publishing`), which need not wake
/// another for each frame; then the asking one, for a session that stays need not be moved; then the one with the fewest sessions, and the lowest id.
pub fn play(policy: PlayPolicy, loads: &[Load], asking: WorkerId, publishing: Option<WorkerId>) -> Option<WorkerId> {
    let room = |load: &Load| match policy {
        PlayPolicy::LeastLoaded => 0,
        PlayPolicy::FewestPublishSlots => load.free_slots().map_or(u64::MAX, u64::from),
    };
    let sessions = |load: &Load| u64::from(load.publishers) + u64::from(load.viewers);
    let first = loads.iter().min_by_key(|load| (room(load), sessions(load), load.worker))?;
    let most = sessions(first) + sessions(first) / EQUAL_PART;
    let is_equal =
        |worker: &WorkerId| loads.iter().any(|load| load.worker == *worker && room(load) == room(first) && sessions(load) <= most);
    Some(publishing.filter(is_equal).or(Some(asking).filter(is_equal)).unwrap_or(first.worker))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn load(id: u16) -> Load {
        Load { worker: WorkerId(id), publishers: 0, viewers: 0, allowed: 0, weight: 1, spare_permille: 1000 }
    }

    fn place_publishers(policy: PublishPolicy, loads: &mut [Load], count: usize, allowed_in_all: u32) -> usize {
        (0..count)
            .filter(|_| match publish(policy, loads, allowed_in_all) {
                Some(worker) => {
                    loads.iter_mut().find(|load| load.worker == worker).unwrap().publishers += 1;
                    true
                }
                None => false,
            })
            .count()
    }

    fn publishers(loads: &[Load]) -> Vec<u32> {
        loads.iter().map(|load| load.publishers).collect()
    }

    #[test]
    fn twelve_publishers_on_three_workers() {
        for policy in [PublishPolicy::Weighted, PublishPolicy::Even, PublishPolicy::Measured] {
            let mut loads = [load(1), load(2), load(3)];
            assert_eq!(place_publishers(policy, &mut loads, 12, 0), 12);
            assert_eq!(publishers(&loads), [4, 4, 4], "{policy:?}");
        }
    }

    #[test]
    fn weights_one_two_three_share_twelve_as_two_four_six() {
        let mut loads = [1, 2, 3].map(|id| Load { weight: id.into(), ..load(id) });
        place_publishers(PublishPolicy::Weighted, &mut loads, 12, 0);
        assert_eq!(publishers(&loads), [2, 4, 6]);
    }

    #[test]
    fn full_workers_are_passed_over() {
        let mut loads = [10, 20].map(|allowed| Load { allowed, weight: allowed, ..load(allowed as u16 / 10) });
        assert_eq!(place_publishers(PublishPolicy::Weighted, &mut loads, 15, 0), 15);
        assert_eq!(publishers(&loads), [5, 10]);
        assert_eq!(place_publishers(PublishPolicy::Weighted, &mut loads, 100, 0), 15);
        assert_eq!(publishers(&loads), [10, 20]);
    }

    #[test]
    fn measured_fills_the_idle_worker_first() {
        let mut loads = [Load { spare_permille: 100, ..load(1) }, Load { spare_permille: 900, ..load(2) }];
        place_publishers(PublishPolicy::Measured, &mut loads, 10, 0);
        assert_eq!(publishers(&loads), [1, 9]);
        let busy = [Load { spare_permille: 0, ..load(1) }, Load { spare_permille: 0, ..load(2) }];
        assert_eq!(publish(PublishPolicy::Measured, &busy, 0), Some(WorkerId(1)));
    }

    #[test]
    fn the_limit_in_all_holds_before_the_workers_limits() {
        let mut loads = [load(1), load(2)];
        assert_eq!(place_publishers(PublishPolicy::Even, &mut loads, 9, 5), 5);
        assert_eq!(publishers(&loads), [3, 2]);
        assert_eq!(publish_here(&loads, WorkerId(2), 5), None);
        assert_eq!(publish_here(&loads, WorkerId(2), 6), Some(WorkerId(2)));
        assert_eq!(publish_here(&loads, WorkerId(3), 6), None);
    }

    #[test]
    fn viewers_stay_where_they_are_among_equals() {
        let loads = [load(1), load(2), load(3)];
        for policy in [PlayPolicy::LeastLoaded, PlayPolicy::FewestPublishSlots] {
            for id in 1..=3 {
                assert_eq!(play(policy, &loads, WorkerId(id), None), Some(WorkerId(id)));
                assert_eq!(play(policy, &loads, WorkerId(id), Some(WorkerId(2))), Some(WorkerId(2)));
            }
            assert_eq!(play(policy, &loads[1..], WorkerId(1), Some(WorkerId(1))), Some(WorkerId(2)));
            assert_eq!(play(policy, &[], WorkerId(1), None), None);
        }
    }

    #[test]
    fn viewers_leave_the_room_for_publishers_where_it_is() {
        let loads = [
            Load { allowed: 10, publishers: 1, viewers: 0, ..load(1) },
            Load { allowed: 10, publishers: 8, viewers: 90, ..load(2) },
            Load { allowed: 0, ..load(3) },
        ];
        assert_eq!(play(PlayPolicy::FewestPublishSlots, &loads, WorkerId(1), Some(WorkerId(3))), Some(WorkerId(2)));
        assert_eq!(play(PlayPolicy::LeastLoaded, &loads, WorkerId(1), None), Some(WorkerId(3)));
    }

    #[test]
    fn many_small_streams_are_watched_where_they_are_taken_in() {
        let mut loads: Vec<Load> = (1..=8).map(load).collect();
        assert_eq!(place_publishers(PublishPolicy::Even, &mut loads, 3_000, 0), 3_000);
        for stream in 0..3_000u16 {
            let (publishing, asking) = (WorkerId(stream % 8 + 1), WorkerId(stream / 3 % 8 + 1));
            let chosen = play(PlayPolicy::LeastLoaded, &loads, asking, Some(publishing)).unwrap();
            assert_eq!(chosen, publishing);
            loads[usize::from(chosen.0) - 1].viewers += 1;
        }
    }

    #[test]
    fn a_great_audience_is_at_all_workers() {
        let mut loads: Vec<Load> = (1..=4).map(load).collect();
        loads[0].publishers = 1;
        for _ in 0..4_000 {
            let chosen = play(PlayPolicy::LeastLoaded, &loads, WorkerId(1), Some(WorkerId(1))).unwrap();
            loads[usize::from(chosen.0) - 1].viewers += 1;
        }
        let (least, most) = (loads.iter().map(|load| load.viewers).min().unwrap(), loads.iter().map(|load| load.viewers).max().unwrap());
        assert!(most <= least + least / 16 + 1, "{least} to {most}");
    }

    fn any_loads() -> impl Strategy<Value = Vec<Load>> {
        let one = (0u32..20, 0u32..50, prop_oneof![Just(0u32), 1u32..20], 1u32..8, 0u32..=1000);
        proptest::collection::vec(one, 0..6).prop_map(|rows| {
            let numbered = rows.into_iter().enumerate();
            numbered
                .map(|(i, (publishers, viewers, allowed, weight, spare_permille))| Load {
                    worker: WorkerId(i as u16 + 1),
                    publishers,
                    viewers,
                    allowed,
                    weight,
                    spare_permille,
                })
                .collect()
        })
    }

    /// The rule as a person would work it out: try every worker, keep the one that no other beats.
    fn naive_publish(share: impl Fn(&Load) -> u32, loads: &[Load], allowed_in_all: u32) -> Option<WorkerId> {
        let total: u32 = loads.iter().map(|load| load.publishers).sum();
        if allowed_in_all != 0 && total >= allowed_in_all {
            return None;
        }
        let mut best: Option<(f64, WorkerId)> = None;
        for load in loads {
            if load.allowed != 0 && load.publishers >= load.allowed {
                continue;
            }
            let filled = f64::from(load.publishers + 1) / f64::from(share(load));
            if best.is_none_or(|(least, _)| filled < least - 1e-9) {
                best = Some((filled, load.worker));
            }
        }
        best.map(|(_, worker)| worker)
    }

    proptest! {
        #[test]
        fn publishers_go_where_the_naive_rule_sends_them(loads in any_loads(), in_all in 0u32..60) {
            prop_assert_eq!(publish(PublishPolicy::Weighted, &loads, in_all), naive_publish(|load| load.weight, &loads, in_all));
            prop_assert_eq!(publish(PublishPolicy::Even, &loads, in_all), naive_publish(|_| 1, &loads, in_all));
            prop_assert_eq!(publish(PublishPolicy::Measured, &loads, in_all), naive_publish(|load| load.spare_permille.max(1), &loads, in_all));
        }

        #[test]
        fn viewers_go_where_nobody_has_much_less(loads in any_loads(), asking in 1u16..7, publishing in proptest::option::of(1u16..7)) {
            let (asking, publishing) = (WorkerId(asking), publishing.map(WorkerId));
            let chosen = play(PlayPolicy::LeastLoaded, &loads, asking, publishing);
            prop_assert_eq!(chosen.is_none(), loads.is_empty());
            let sessions = |id: WorkerId| loads.iter().find(|load| load.worker == id).map(|load| load.publishers + load.viewers);
            if let Some(least) = loads.iter().map(|load| load.publishers + load.viewers).min() {
                let is_equal = |id: WorkerId| sessions(id).is_some_and(|have| have <= least + least / 16);
                let wanted = [publishing, Some(asking)].into_iter().flatten().find(|id| is_equal(*id));
                match wanted {
                    Some(wanted) => prop_assert_eq!(chosen, Some(wanted)),
                    None => prop_assert_eq!(chosen.and_then(sessions), Some(least)),
                }
            }
        }
    }
}
