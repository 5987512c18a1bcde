//! The table of saved sessions: one row for each connection, which stays the same whichever worker has the session.
//!
//! A row has two slots. A save goes to the older one, with a number that rises and a checksum, so that a death in the middle
//! of it leaves the newer one. The front makes the table and gives the rows out; it never looks into one.

use braidcast_sys::{Dir, SharedMemory};
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

/// The name of the table in its directory, and of the one that version 2 of saved sessions has left there: after an upgrade the newest save
/// of a session may be in either.
const NAME: &str = "rows-3";
const NAME_BEFORE: &str = "rows";
/// Made with a table whose sessions may have packed checkpoints, which version 3 cannot read: all who come upon it read them.
const PACKED_NAME: &str = "packed";
/// The most rows, and so connections, of an instance.
const MOST_ROWS: usize = 1 << 20;
/// Memory is taken for so many rows at once.
const GROWTH_ROWS: usize = 256;
const SLOT_BYTES: usize = 80;
const SLOT_BYTES_BEFORE: usize = 256;
const SLOT_HEAD_BYTES: usize = 16;

/// What one save can hold.
pub const PAYLOAD_BYTES: usize = SLOT_BYTES - SLOT_HEAD_BYTES;

/// A row's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RowId(pub u32);

/// See the module's head.
#[derive(Debug)]
pub struct Rows {
    slots: Slots,
    before: Option<Slots>,
    may_pack: bool,
}

/// A table's memory.
#[derive(Debug)]
struct Slots {
    memory: SharedMemory,
    slot_bytes: usize,
}

/// The newest whole save of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Save {
    /// Its number, from 1.
    pub number: u64,
    /// What was saved.
    pub payload: Vec<u8>,
}

impl Rows {
    /// Makes an empty table; the front's part.
    pub fn create(shared_dir: &Path) -> io::Result<Self> {
        let directory = Dir::open(&super::directory(shared_dir))?;
        directory.create_file(PACKED_NAME)?;
        Ok(Self { slots: Slots::map(directory.create_file(NAME)?, SLOT_BYTES)?, before: None, may_pack: true })
    }

    /// Opens the table.
    pub fn open(shared_dir: &Path) -> io::Result<Self> {
        let directory = Dir::open(&super::directory(shared_dir))?;
        // Made by the front, which was there before.
        let slots = Slots::map(directory.open_or_create(NAME)?, SLOT_BYTES)?;
        let before = match super::directory(shared_dir).join(NAME_BEFORE).exists() {
            true => Some(Slots::map(directory.open_or_create(NAME_BEFORE)?, SLOT_BYTES_BEFORE)?),
            false => None,
        };
        Ok(Self { slots, before, may_pack: Self::may_be_packed(shared_dir) })
    }

    /// Whether checkpoints may be packed: no process of a version that cannot read them ever had a session of this instance.
    pub fn may_pack(&self) -> bool {
        self.may_pack
    }

    /// Whether sessions of what there is may have packed checkpoints.
    pub fn may_be_packed(shared_dir: &Path) -> bool {
        super::directory(shared_dir).join(PACKED_NAME).exists()
    }

    /// Whether what there is was left by version 2.
    pub fn are_of_before(shared_dir: &Path) -> bool {
        let directory = super::directory(shared_dir);
        directory.join(NAME_BEFORE).exists() && !directory.join(NAME).exists()
    }

    /// Takes memory for a row before it is given out; the front's part. `StorageFull` if there is none.
    pub fn provide(&mut self, row: RowId) -> io::Result<()> {
        let rows = (row.0 as usize + 1).next_multiple_of(GROWTH_ROWS);
        for slots in self.before.iter_mut().chain([&mut self.slots]) {
            slots.memory.take(rows * 2 * slots.slot_bytes)?;
        }
        Ok(())
    }

    /// Saves into the row's older slot. Each save's number is higher than the one before. Panics if the payload is longer than
    /// [`PAYLOAD_BYTES`]. `NotFound`: there is no memory for the row, the front never gave it out.
    pub fn save(&mut self, row: RowId, number: u64, payload: &[u8]) -> io::Result<()> {
        assert!(payload.len() <= PAYLOAD_BYTES, "{} bytes do not fit a row", payload.len());
        if let Some(before) = &mut self.before {
            // Workers of that version may be there still, and get the session.
            before.save(row, number, payload)?;
        }
        self.slots.save(row, number, payload)
    }

    /// The newest save that is whole; `None` if there is none.
    pub fn load(&mut self, row: RowId) -> Option<Save> {
        let before = self.before.as_mut().and_then(|before| before.load(row));
        self.slots.load(row).into_iter().chain(before).max_by_key(|save| save.number)
    }

    /// Forgets what a row holds: nobody can continue its session.
    pub fn clear(&mut self, row: RowId) {
        for slots in self.before.iter_mut().chain([&mut self.slots]) {
            for slot in 0..2 {
                if let Ok(slot) = slots.slot(row, slot) {
                    slot[..SLOT_HEAD_BYTES].fill(0);
                }
            }
        }
    }
}

impl Slots {
    fn map(file: OwnedFd, slot_bytes: usize) -> io::Result<Self> {
        Ok(Self { memory: SharedMemory::map(file, MOST_ROWS * 2 * slot_bytes)?, slot_bytes })
    }

    fn save(&mut self, row: RowId, number: u64, payload: &[u8]) -> io::Result<()> {
        let slot = self.slot(row, (number % 2) as usize)?;
        let (head, body) = slot.split_at_mut(SLOT_HEAD_BYTES);
        body[..payload.len()].copy_from_slice(payload);
        let length = payload.len() as u32;
        head[..8].copy_from_slice(&number.to_le_bytes());
        head[8..12].copy_from_slice(&length.to_le_bytes());
        let sum = checksum(row, number, payload);
        head[12..].copy_from_slice(&sum.to_le_bytes());
        Ok(())
    }

    fn load(&mut self, row: RowId) -> Option<Save> {
        let load = |slot: &[u8]| {
            let (head, body) = slot.split_at(SLOT_HEAD_BYTES);
            let number = u64::from_le_bytes(head[..8].try_into().ok()?);
            let length = u32::from_le_bytes(head[8..12].try_into().ok()?);
            let sum = u32::from_le_bytes(head[12..].try_into().ok()?);
            let payload = body.get(..length as usize)?;
            (number > 0 && sum == checksum(row, number, payload)).then(|| Save { number, payload: payload.to_vec() })
        };
        let slots = [0, 1].map(|slot| self.slot(row, slot).ok().and_then(|slot| load(slot)));
        slots.into_iter().flatten().max_by_key(|save| save.number)
    }

    fn slot(&mut self, row: RowId, slot: usize) -> io::Result<&mut [u8]> {
        let start = (row.0 as usize).checked_mul(2 * self.slot_bytes).ok_or(io::ErrorKind::NotFound)? + slot * self.slot_bytes;
        let end = start + self.slot_bytes;
        if end > self.memory.taken_bytes() {
            self.memory.look()?;
            if end > self.memory.taken_bytes() {
                return Err(io::ErrorKind::NotFound.into());
            }
        }
        Ok(self.memory.bytes_mut(start..end))
    }
}

fn checksum(row: RowId, number: u64, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&row.0.to_le_bytes());
    hasher.update(&number.to_le_bytes());
    hasher.update(payload);
    hasher.finalize()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn tables() -> (tempfile::TempDir, Rows, Rows) {
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        std::fs::create_dir(directory.path().join("sessions")).unwrap();
        assert!(!Rows::may_be_packed(directory.path()));
        let front = Rows::create(directory.path()).unwrap();
        let worker = Rows::open(directory.path()).unwrap();
        assert!(front.may_pack() && worker.may_pack());
        (directory, front, worker)
    }

    #[test]
    fn the_newest_save_is_found_by_another_process() {
        let (_directory, mut front, mut worker) = tables();
        let row = RowId(300);
        assert_eq!(worker.save(row, 1, b"x").unwrap_err().kind(), io::ErrorKind::NotFound);
        front.provide(row).unwrap();
        assert_eq!(worker.load(row), None);
        for number in 1..10u64 {
            worker.save(row, number, &number.to_le_bytes()).unwrap();
            let found = front.load(row).unwrap();
            assert_eq!((found.number, &found.payload[..]), (number, &number.to_le_bytes()[..]));
        }
        assert_eq!(front.load(RowId(299)), None);
        worker.clear(row);
        assert_eq!(front.load(row), None);
    }

    #[test]
    fn a_torn_save_leaves_the_one_before_and_a_damaged_one_is_never_misread() {
        let (_directory, mut front, mut worker) = tables();
        let row = RowId(0);
        front.provide(row).unwrap();
        worker.save(row, 6, &[6; PAYLOAD_BYTES]).unwrap();
        worker.save(row, 7, b"seven").unwrap();
        let start = SLOT_BYTES;
        let whole = worker.slots.memory.bytes(start..start + SLOT_BYTES).to_vec();
        for at in 0..SLOT_HEAD_BYTES + 5 {
            worker.slots.memory.bytes_mut(start..start + SLOT_BYTES)[at] ^= 0x10;
            let found = front.load(row).unwrap();
            assert_eq!(found, Save { number: 6, payload: vec![6; PAYLOAD_BYTES] }, "flipped at {at}");
            worker.slots.memory.bytes_mut(start..start + SLOT_BYTES).copy_from_slice(&whole);
        }
        assert_eq!(front.load(row).unwrap().payload, b"seven");
    }

    #[test]
    fn what_version_2_has_saved_counts_until_there_is_a_newer_save() {
        let (directory, mut front, _) = tables();
        let row = RowId(300);
        front.provide(row).unwrap();
        let file = Dir::open(&crate::saved::directory(directory.path())).unwrap().create_file(NAME_BEFORE).unwrap();
        let mut before = Slots::map(file, SLOT_BYTES_BEFORE).unwrap();
        before.memory.take(301 * 2 * SLOT_BYTES_BEFORE).unwrap();
        let old = [2; 240];
        before.save(row, 9, &old).unwrap();
        let mut worker = Rows::open(directory.path()).unwrap();
        assert_eq!(worker.load(row), Some(Save { number: 9, payload: old.to_vec() }));
        worker.save(row, 10, b"new").unwrap();
        assert_eq!(worker.load(row), Some(Save { number: 10, payload: b"new".to_vec() }));
        assert_eq!(before.load(row), worker.load(row), "a worker of that version may get the session");
        worker.clear(row);
        assert_eq!(worker.load(row), None);
    }
}
