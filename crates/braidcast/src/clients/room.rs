//! Where texts lie: the front's own note of it, which no worker can write, and the memory that is free for more.

use crate::saved::{Room, RowId};
use braidcast_sys::SharedMemory;

/// Texts begin at multiples of this, and take a multiple of it.
const UNIT_BYTES: usize = 32;
/// Memory is taken for so many bytes of texts at once.
const GROWTH_BYTES: usize = 64 << 10;
/// Bits of a place that say how many units it has.
const UNITS_BITS: u32 = 6;

/// A stretch of the file of texts: its first unit, and how many there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place(u32);

impl Place {
    fn new(unit: u32, units: u32) -> Option<Self> {
        (unit < 1 << (u32::BITS - UNITS_BITS) && (1..1 << UNITS_BITS).contains(&units)).then_some(Self(unit << UNITS_BITS | units))
    }

    fn unit(self) -> u32 {
        self.0 >> UNITS_BITS
    }

    fn units(self) -> u32 {
        self.0 & ((1 << UNITS_BITS) - 1)
    }

    /// Its first byte.
    pub fn start(self) -> usize {
        self.unit() as usize * UNIT_BYTES
    }

    /// As a record says it, of a text of so many bytes.
    pub fn word(self, bytes: usize) -> u64 {
        u64::from(self.unit()) << 32 | bytes as u64
    }

    /// What a record says: place and bytes. `None`: it has no text.
    pub fn of_word(word: u64) -> Option<(Self, usize)> {
        let bytes = (word as u32) as usize;
        Some((Self::new((word >> 32) as u32, u32::try_from(bytes.div_ceil(UNIT_BYTES)).ok()?)?, bytes))
    }
}

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct TextRoom {
    /// By row.
    places: Vec<Option<Place>>,
    free: Room,
}

impl TextRoom {
    /// As it was, by what the records say. A place that was said twice is the first one's: nobody can give it back twice.
    pub fn inherit(said: Vec<Option<(Place, usize)>>, taken_bytes: usize) -> Self {
        let mut places: Vec<Option<Place>> = said.into_iter().map(|said| Some(said?.0)).collect();
        let mut order: Vec<usize> = (0..places.len()).filter(|row| places[*row].is_some()).collect();
        order.sort_unstable_by_key(|row| places[*row].map(Place::unit));
        let (mut free, mut next, end) = (Room::default(), 0, (taken_bytes / UNIT_BYTES) as u32);
        for row in order {
            let Some(place) = places[row] else { continue };
            if place.unit() < next || place.unit() + place.units() > end {
                places[row] = None;
                continue;
            }
            if place.unit() > next {
                free.give(next, place.unit() - next);
            }
            next = place.unit() + place.units();
        }
        if end > next {
            free.give(next, end - next);
        }
        Self { places, free }
    }

    /// A place for a row's text; `None` if there is no memory for it.
    pub fn take(&mut self, row: RowId, bytes: usize, texts: &mut SharedMemory) -> Option<Place> {
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).ok()?;
        let unit = match self.free.take(units) {
            Some(unit) => unit,
            None => {
                let before = texts.taken_bytes();
                texts.take(before + GROWTH_BYTES).ok()?;
                self.free.give((before / UNIT_BYTES) as u32, (GROWTH_BYTES / UNIT_BYTES) as u32);
                self.free.take(units)?
            }
        };
        let place = Place::new(unit, units)?;
        let row = row.0 as usize;
        if self.places.len() <= row {
            self.places.resize(row + 1, None);
        }
        self.places[row] = Some(place);
        Some(place)
    }

    /// A row has no text any more.
    pub fn give(&mut self, row: RowId) {
        if let Some(place) = self.places.get_mut(row.0 as usize).and_then(Option::take) {
            self.free.give(place.unit(), place.units());
        }
    }
}
