//! Sessions that wait for a stream, a lock or an index: kept by what they wait for, so that one look serves all that wait
//! for the same, and looked at in turn, so that a look costs the same however many wait.

use braidcast_media::StreamKey;
use std::collections::{HashMap, HashSet, VecDeque};

/// What a session waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Awaited {
    /// A stream to play.
    Stream,
    /// The lock of a stream to publish.
    Lock,
    /// The index of a stream.
    Index,
}

/// What is waited for, of which stream.
pub type Place = (Awaited, StreamKey);

/// See the module's head.
#[derive(Default)]
pub struct Waiting {
    sessions: HashMap<Place, HashSet<usize>>,
    /// Every key of `sessions`, once. A place that nobody waits at any more goes when its turn comes.
    turns: VecDeque<Place>,
}

impl Waiting {
    /// Adds a session.
    pub fn add(&mut self, place: Place, session: usize) {
        if !self.sessions.contains_key(&place) {
            self.turns.push_back(place.clone());
        }
        self.sessions.entry(place).or_default().insert(session);
    }

    /// Removes a session, if it waits there.
    pub fn remove(&mut self, place: &Place, session: usize) {
        if let Some(sessions) = self.sessions.get_mut(place) {
            sessions.remove(&session);
        }
    }

    /// Nobody waits.
    pub fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// How many places there are to look at.
    pub fn places(&self) -> usize {
        self.turns.len()
    }

    /// The place whose turn it is, and up to `most` of those who wait there; whether there are more.
    pub fn next(&mut self, most: usize) -> Option<(Place, Vec<usize>, bool)> {
        while let Some(place) = self.turns.pop_front() {
            match self.sessions.get(&place) {
                Some(sessions) if !sessions.is_empty() => {
                    let (some, more) = (sessions.iter().copied().take(most).collect(), sessions.len() > most);
                    self.turns.push_back(place.clone());
                    return Some((place, some, more));
                }
                _ => drop(self.sessions.remove(&place)),
            }
        }
        None
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn place(name: &str) -> Place {
        (Awaited::Stream, StreamKey::new("v", "a", name).unwrap())
    }

    #[test]
    fn every_place_has_its_turn_and_empty_ones_go() {
        let mut waiting = Waiting::default();
        for (name, sessions) in [("one", 1..2), ("many", 10..20), ("two", 2..3)] {
            sessions.for_each(|session| waiting.add(place(name), session));
        }
        let turn = |waiting: &mut Waiting| waiting.next(4).map(|(place, some, more)| (place.1.stream().to_owned(), some.len(), more));
        assert_eq!(turn(&mut waiting), Some(("one".into(), 1, false)));
        assert_eq!(turn(&mut waiting), Some(("many".into(), 4, true)));
        waiting.remove(&place("one"), 1);
        waiting.remove(&place("nobody"), 1);
        waiting.remove(&place("two"), 2);
        waiting.add(place("two"), 3);
        assert_eq!(turn(&mut waiting), Some(("two".into(), 1, false)));
        assert_eq!(turn(&mut waiting), Some(("many".into(), 4, true)));
        assert_eq!(waiting.places(), 2);
        (10..20).for_each(|session| waiting.remove(&place("many"), session));
        waiting.remove(&place("two"), 3);
        assert_eq!(turn(&mut waiting), None);
        assert!(waiting.is_empty());
    }

    #[test]
    fn coming_and_going_leaves_nothing_behind() {
        let mut waiting = Waiting::default();
        for session in 0..1_000 {
            waiting.add(place("x"), session);
            waiting.remove(&place("x"), session);
        }
        assert_eq!(waiting.places(), 1);
        assert!(waiting.next(1).is_none());
        assert!(waiting.sessions.is_empty());
    }
}
