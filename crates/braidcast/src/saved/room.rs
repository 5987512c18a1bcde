//! Which units of a memory that only grows are free. The shortest stretch that is long enough is given out, and what is given back grows
//! together with its neighbours, so that small and long pieces can follow each other for years. What was given back just now is given out
//! again first to whoever wants just as much: a session that is answered one request after another always does.
//!
//! Never touches the memory itself.

use std::collections::{BTreeMap, BTreeSet};

/// See the module's head.
#[derive(Debug, Default)]
pub struct Room {
    /// First unit and number of units of each free stretch. No two of them touch.
    stretches: BTreeMap<u32, u32>,
    /// The same by length.
    by_length: BTreeSet<(u32, u32)>,
    /// First unit and number of units of what was given back last, which is in no stretch yet.
    recent: [(u32, u32); RECENT],
    /// The oldest of them.
    oldest: usize,
}

/// How many stretches wait for somebody who wants just as much. A place with no units is empty.
const RECENT: usize = 8;

impl Room {
    /// The first of so many free units that follow each other, which are not free any more. `None`: there are not so many.
    pub fn take(&mut self, units: u32) -> Option<u32> {
        if units > 0
            && let Some((first, length)) = self.recent.iter_mut().find(|(_, length)| *length == units)
        {
            *length = 0;
            return Some(*first);
        }
        let (length, first) = self.shortest(units).or_else(|| {
            for place in 0..RECENT {
                let (first, length) = std::mem::take(&mut self.recent[place]);
                self.join(first, length);
            }
            self.shortest(units)
        })?;
        self.remove(first, length);
        if length > units {
            self.insert(first + units, length - units);
        }
        Some(first)
    }

    /// Takes just these units, if all of them are free.
    pub fn take_this(&mut self, first: u32, units: u32) -> bool {
        let Some((&start, &length)) = self.stretches.range(..=first).next_back() else { return false };
        let (end, stretch_end) = (first + units, start + length);
        if stretch_end < end {
            return false;
        }
        self.remove(start, length);
        for (start, end) in [(start, first), (end, stretch_end)] {
            if start < end {
                self.insert(start, end - start);
            }
        }
        true
    }

    /// So many units from `first` on are free from now on. They must not be already. Gives those that were given back a while ago and lie with all
    /// others that are free from now on: first unit and number.
    pub fn give(&mut self, first: u32, units: u32) -> (u32, u32) {
        let (first, units) = std::mem::replace(&mut self.recent[self.oldest], (first, units));
        self.oldest = (self.oldest + 1) % RECENT;
        self.join(first, units);
        (first, units)
    }

    fn shortest(&self, units: u32) -> Option<(u32, u32)> {
        self.by_length.range((units, 0)..).next().copied()
    }

    /// Makes a stretch of free units, one with those beside it.
    fn join(&mut self, mut first: u32, mut units: u32) {
        if units == 0 {
            return;
        }
        if let Some((&before, &length)) = self.stretches.range(..first).next_back()
            && before + length == first
        {
            self.remove(before, length);
            (first, units) = (before, length + units);
        }
        if let Some(&length) = self.stretches.get(&(first + units)) {
            self.remove(first + units, length);
            units += length;
        }
        self.insert(first, units);
    }

    fn insert(&mut self, first: u32, units: u32) {
        self.stretches.insert(first, units);
        self.by_length.insert((units, first));
    }

    fn remove(&mut self, first: u32, units: u32) {
        self.stretches.remove(&first);
        self.by_length.remove(&(units, first));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_was_given_back_is_one_piece_again() {
        let mut room = Room::default();
        room.give(10, 30);
        let pieces = [0; 3].map(|_| room.take(10).unwrap());
        assert_eq!((pieces, room.take(1)), ([10, 20, 30], None));
        [10, 30, 20].into_iter().for_each(|first| _ = room.give(first, 10));
        assert_eq!((room.take(31), room.take_this(9, 2), room.take_this(39, 2)), (None, false, false));
        assert!(room.take_this(20, 5) && !room.take_this(24, 1));
        room.give(20, 5);
        assert_eq!(room.take(30), Some(10));
    }

    proptest! {
        #[test]
        fn no_unit_is_given_out_twice_and_none_is_lost(steps in prop::collection::vec((any::<bool>(), 1u32..40), 1..200)) {
            let mut room = Room::default();
            room.give(0, 1000);
            let mut held: Vec<(u32, u32)> = Vec::new();
            for (gives, units) in steps {
                if gives && !held.is_empty() {
                    let (first, units) = held.swap_remove(units as usize % held.len());
                    room.give(first, units);
                } else if let Some(first) = room.take(units) {
                    prop_assert!(first + units <= 1000);
                    prop_assert!(held.iter().all(|(other, length)| first + units <= *other || other + length <= first));
                    held.push((first, units));
                }
            }
            held.into_iter().for_each(|(first, units)| _ = room.give(first, units));
            prop_assert_eq!(room.take(1000), Some(0));
        }
    }
}
