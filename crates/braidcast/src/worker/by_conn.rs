//! Which session a connection is: for what the front says of one, which is seldom. Small, for every viewer is in it; a hash table takes three
//! times as much.
//!
//! Connections are in the order of their ids, and new ones have higher ids, so that most come in at the end. Who is gone is left where it was, until
//! half of them are.

use crate::control::ConnId;

/// No slot: the connection is gone.
const GONE: u32 = u32::MAX;
/// So many that are gone are no trouble.
const FEW: usize = 64;

/// See the module's head.
#[derive(Debug, Default)]
pub struct ByConn {
    places: Vec<Place>,
    gone: usize,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    /// The upper half of the id, and the lower.
    conn: [u32; 2],
    slot: u32,
}

fn halves(conn: ConnId) -> [u32; 2] {
    [(conn.0 >> 32) as u32, conn.0 as u32]
}

impl ByConn {
    /// The slot of a connection's session.
    pub fn get(&self, conn: ConnId) -> Option<usize> {
        let at = self.find(conn).ok()?;
        Some(self.places[at].slot).filter(|slot| *slot != GONE).map(|slot| slot as usize)
    }

    /// A connection has a session in a slot from now on.
    pub fn insert(&mut self, conn: ConnId, slot: usize) {
        let place = Place { conn: halves(conn), slot: slot as u32 };
        match self.find(conn) {
            Ok(at) => {
                self.gone -= usize::from(self.places[at].slot == GONE);
                self.places[at] = place;
            }
            Err(at) => self.places.insert(at, place),
        }
    }

    /// A connection has no session any more.
    pub fn remove(&mut self, conn: ConnId) {
        let Ok(at) = self.find(conn) else { return };
        self.gone += usize::from(std::mem::replace(&mut self.places[at].slot, GONE) != GONE);
        if self.gone > FEW && 2 * self.gone > self.places.len() {
            self.places.retain(|place| place.slot != GONE);
            self.gone = 0;
            if self.places.capacity() > 4 * self.places.len() {
                self.places.shrink_to(2 * self.places.len());
            }
        }
    }

    fn find(&self, conn: ConnId) -> Result<usize, usize> {
        let conn = halves(conn);
        match self.places.last() {
            Some(last) if last.conn < conn => Err(self.places.len()),
            _ => self.places.binary_search_by_key(&conn, |place| place.conn),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    proptest! {
        /// Connections come in order or from elsewhere, some are a worker's own, and most go.
        #[test]
        fn it_knows_what_a_map_knows(steps in prop::collection::vec((0u8..8, 0u64..400), 1..2_000)) {
            let (mut places, mut model, mut next) = (ByConn::default(), HashMap::new(), 200);
            for (slot, (what, conn)) in steps.into_iter().enumerate() {
                let conn = match what {
                    0..3 => {
                        next += 1;
                        ConnId(next)
                    }
                    3 => ConnId::own(conn),
                    _ => ConnId(conn),
                };
                if what < 5 {
                    places.insert(conn, slot);
                    model.insert(conn, slot);
                } else {
                    places.remove(conn);
                    model.remove(&conn);
                }
                prop_assert_eq!(places.get(conn), model.get(&conn).copied());
                prop_assert!(places.places.len() <= 2 * model.len() + FEW + 2, "{} places of {}", places.places.len(), model.len());
            }
            for conn in (0..=next).flat_map(|conn| [ConnId(conn), ConnId::own(conn)]) {
                prop_assert_eq!(places.get(conn), model.get(&conn).copied());
            }
        }
    }
}
