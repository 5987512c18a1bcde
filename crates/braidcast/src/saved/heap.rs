//! A worker's memory that outlives it: blocks for what its sessions keep beside their rows.
//!
//! Only the worker knows which blocks are free: nobody allocates in a heap whose worker is dead. Then it is read, through the
//! rows that point into it, and deleted when the last session has moved out.

use super::room::Room;
use braidcast_sys::{Dir, Mapping, SharedMemory};
use serde::{Deserialize, Serialize};
use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::io;
use std::num::NonZeroU32;
use std::ops::Range;
use std::os::fd::AsFd;
use std::path::Path;

/// Blocks begin at multiples of this, and short ones are a multiple of it long.
const UNIT_BYTES: u64 = 32;
/// A block of more than this is a power of two of pages: what rests shares no page with what is there for a moment.
const SHORT_BYTES: u64 = 1024;
/// The longest block: a partial message of 16 MiB with its journal, and some.
const CLASSES: usize = 15;
/// Memory is taken from the file system in pieces of this size, or of the block's if that is more.
const GROWTH_BYTES: usize = 256 << 10;
/// The memory of a free long block is given back to the file system when so many of its length, and as many as are in use, are kept for
/// whoever comes next: of sessions that are answered one request after another each holds now more of them, now fewer; …
const KEPT_BLOCKS: usize = 8;
/// … one of the length of journals while one is in use, for a new one is there before the old one goes, and none that are longer than most.
const KEPT_JOURNALS: usize = 1;
const JOURNAL_BYTES: u64 = 64 << 10;
const LONG_JOURNAL_BYTES: u64 = 1 << 20;
const PAGE_BYTES: u64 = 4096;
const PAGE_UNITS: u32 = (PAGE_BYTES / UNIT_BYTES) as u32;
/// Address space that is set aside, not memory: the directory's budget is reached long before.
const MOST_BYTES: usize = 64 << 30;

/// The shortest long block.
const PAGE: NonZeroU32 = NonZeroU32::new(PAGE_BYTES as u32).unwrap();

/// Tells the heaps of one instance apart: each worker process has a new one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HeapId(pub u32);

impl fmt::Display for HeapId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "heap-{}", self.0)
    }
}

/// A block of a heap. Its owner gives it back with [`Heap::free`]; it is not freed by being forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Place", try_from = "Place")]
pub struct Block {
    /// Where it begins, in units: a session holds several blocks, and there are many sessions.
    unit: u32,
    bytes: NonZeroU32,
}

/// How a block is written down.
#[derive(Serialize, Deserialize)]
struct Place {
    offset: u64,
    bytes: u32,
}

impl From<Block> for Place {
    fn from(block: Block) -> Self {
        Self { offset: block.start() as u64, bytes: block.bytes.get() }
    }
}

impl TryFrom<Place> for Block {
    type Error = &'static str;

    fn try_from(place: Place) -> Result<Self, Self::Error> {
        Self::new(place.offset, place.bytes).ok_or("no place of a block")
    }
}

impl Block {
    fn new(offset: u64, bytes: u32) -> Option<Self> {
        let unit = u32::try_from(offset / UNIT_BYTES).ok().filter(|_| offset.is_multiple_of(UNIT_BYTES))?;
        Some(Self { unit, bytes: NonZeroU32::new(bytes)? })
    }

    /// Its length.
    pub fn bytes(&self) -> usize {
        self.bytes.get() as usize
    }

    fn start(&self) -> usize {
        self.unit as usize * UNIT_BYTES as usize
    }

    fn range(&self) -> Range<usize> {
        self.start()..self.start() + self.bytes()
    }

    fn part(&self, part: Range<usize>) -> Range<usize> {
        assert!(part.start <= part.end && part.end <= self.bytes(), "bytes {part:?} of a block of {}", self.bytes);
        self.start() + part.start..self.start() + part.end
    }
}

/// See the module's head.
#[derive(Debug)]
pub struct Heap {
    id: HeapId,
    memory: SharedMemory,
    /// Everything from here on was never given out.
    unused: u64,
    /// What is free for short blocks that stay …
    lasting: Room,
    /// … and for those that are there for a moment: they share no page.
    brief: Room,
    /// The pages of `brief`, by number.
    brief_pages: HashSet<u32>,
    /// Free long blocks that have their memory, by their class; what was freed last comes last.
    free: [VecDeque<u32>; CLASSES],
    /// How many long blocks somebody has.
    in_use: [usize; CLASSES],
    /// Those that have none.
    given_back: [Vec<u32>; CLASSES],
}

impl Heap {
    /// Makes the heap of a worker that starts.
    pub fn create(shared_dir: &Path, id: HeapId) -> io::Result<Self> {
        let file = Dir::open(&super::directory(shared_dir))?.create_file(&id.to_string())?;
        let memory = SharedMemory::map(file, MOST_BYTES)?;
        Ok(Self {
            id,
            memory,
            unused: 0,
            lasting: Room::default(),
            brief: Room::default(),
            brief_pages: HashSet::new(),
            free: Default::default(),
            in_use: [0; CLASSES],
            given_back: Default::default(),
        })
    }

    /// Which heap this is.
    pub fn id(&self) -> HeapId {
        self.id
    }

    /// Bytes that were taken from the file system.
    pub fn taken_bytes(&self) -> usize {
        self.memory.taken_bytes()
    }

    /// A block of at least so many bytes, with whatever was in it before. `StorageFull` if the directory has none, or if it is more
    /// than a block can have.
    pub fn allocate(&mut self, bytes: usize) -> io::Result<Block> {
        self.allocate_for(bytes, false)
    }

    fn allocate_for(&mut self, bytes: usize, is_brief: bool) -> io::Result<Block> {
        match length_of(bytes).ok_or(io::ErrorKind::StorageFull)? {
            Length::Short(bytes) => self.allocate_short(bytes, is_brief),
            Length::Long(class, bytes) => {
                let block = self.allocate_long(class, bytes)?;
                self.in_use[class] += 1;
                Ok(block)
            }
        }
    }

    fn allocate_short(&mut self, bytes: NonZeroU32, is_brief: bool) -> io::Result<Block> {
        let units = bytes.get() / UNIT_BYTES as u32;
        let room = if is_brief { &mut self.brief } else { &mut self.lasting };
        if let Some(unit) = room.take(units) {
            return Ok(Block { unit, bytes });
        }
        let page = self.allocate_long(0, PAGE)?.unit;
        let room = if is_brief { &mut self.brief } else { &mut self.lasting };
        if is_brief {
            self.brief_pages.insert(page / PAGE_UNITS);
        }
        room.give(page, PAGE_UNITS);
        let unit = room.take(units).ok_or(io::ErrorKind::StorageFull)?;
        Ok(Block { unit, bytes })
    }

    fn allocate_long(&mut self, class: usize, bytes: NonZeroU32) -> io::Result<Block> {
        if let Some(unit) = self.free[class].pop_back() {
            return Ok(Block { unit, bytes });
        }
        if let Some(&unit) = self.given_back[class].last() {
            let block = Block { unit, bytes };
            self.memory.take_again(block.range())?;
            self.given_back[class].pop();
            return Ok(block);
        }
        let start = self.extend(bytes.get().into())?;
        Ok(Block { unit: (start / UNIT_BYTES) as u32, bytes })
    }

    /// Takes whole pages that nobody has had; says where they begin.
    fn extend(&mut self, bytes: u64) -> io::Result<u64> {
        let start = self.unused;
        let end = (start + bytes) as usize;
        if end > self.memory.taken_bytes() {
            self.memory.take(end.next_multiple_of(GROWTH_BYTES))?;
        }
        self.unused = end as u64;
        Ok(start)
    }

    /// Takes a block back. Nothing that is still needed may point to it.
    pub fn free(&mut self, block: Block) {
        match length_of(block.bytes()) {
            Some(Length::Short(bytes)) => self.free_short(block.unit, bytes.get() / UNIT_BYTES as u32),
            Some(Length::Long(class, bytes)) => {
                self.in_use[class] -= 1;
                self.free_long(class, Block { bytes, ..block });
            }
            None => {}
        }
    }

    fn free_short(&mut self, unit: u32, units: u32) {
        let room = if self.brief_pages.contains(&(unit / PAGE_UNITS)) { &mut self.brief } else { &mut self.lasting };
        let (first, units) = room.give(unit, units);
        // A page that nothing is left in is anybody's. What was given back just now may be wanted again at once.
        let pages = first / PAGE_UNITS..(first + units).div_ceil(PAGE_UNITS);
        for page in pages.filter(|page| room.take_this(page * PAGE_UNITS, PAGE_UNITS)).collect::<Vec<_>>() {
            self.brief_pages.remove(&page);
            self.free_long(0, Block { unit: page * PAGE_UNITS, bytes: PAGE });
        }
    }

    fn free_long(&mut self, class: usize, block: Block) {
        let most = match u64::from(block.bytes.get()) {
            ..JOURNAL_BYTES => KEPT_BLOCKS + self.in_use[class],
            JOURNAL_BYTES..=LONG_JOURNAL_BYTES if self.in_use[class] > 0 => KEPT_JOURNALS,
            _ => 0,
        };
        self.free[class].push_back(block.unit);
        while self.free[class].len() > most
            && let Some(unit) = self.free[class].pop_front()
        {
            if let Err(error) = self.memory.give_back(Block { unit, ..block }.range()) {
                tracing::debug!(%error, "memory of a saved session stays taken");
            }
            self.given_back[class].push(unit);
        }
    }

    /// A part of a block. Panics beyond its end.
    pub fn bytes(&self, block: Block, part: Range<usize>) -> &[u8] {
        self.memory.bytes(block.part(part))
    }

    /// As [`Heap::bytes`], for writing.
    pub fn bytes_mut(&mut self, block: Block, part: Range<usize>) -> &mut [u8] {
        self.memory.bytes_mut(block.part(part))
    }

    /// A block that holds just this, for a moment.
    pub fn store(&mut self, bytes: &[u8]) -> io::Result<Block> {
        let block = self.allocate_for(bytes.len(), true)?;
        self.bytes_mut(block, 0..bytes.len()).copy_from_slice(bytes);
        Ok(block)
    }
}

impl AsFd for Heap {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.memory.as_fd()
    }
}

/// How long a block is, rounded up.
enum Length {
    /// A multiple of the unit.
    Short(NonZeroU32),
    /// A class, and its power of two.
    Long(usize, NonZeroU32),
}

fn length_of(bytes: usize) -> Option<Length> {
    let bytes = bytes.max(1) as u64;
    if bytes <= SHORT_BYTES {
        return Some(Length::Short(NonZeroU32::new(bytes.next_multiple_of(UNIT_BYTES) as u32)?));
    }
    let rounded = bytes.checked_next_power_of_two()?.max(PAGE_BYTES);
    let class = (rounded / PAGE_BYTES).trailing_zeros() as usize;
    (class < CLASSES).then_some(Length::Long(class, NonZeroU32::new(u32::try_from(rounded).ok()?)?))
}

/// Another worker's heap, for reading: that worker is dead, or does not touch the blocks that are asked for.
#[derive(Debug)]
pub struct ForeignHeap(Mapping);

impl ForeignHeap {
    /// Opens a heap.
    pub fn open(shared_dir: &Path, id: HeapId) -> io::Result<Self> {
        let file = Dir::open(&super::directory(shared_dir))?.open_file(&id.to_string())?;
        Ok(Self(Mapping::map_readonly(file, MOST_BYTES)?))
    }

    /// A part of a block; `None` if the heap has no such bytes.
    pub fn bytes(&self, block: Block, part: Range<usize>) -> Option<&[u8]> {
        let start = block.start();
        (part.start <= part.end && part.end <= block.bytes()).then_some(())?;
        self.0.bytes(start.checked_add(part.start)?..start.checked_add(part.end)?)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn heap() -> (tempfile::TempDir, Heap) {
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        std::fs::create_dir(directory.path().join("sessions")).unwrap();
        let heap = Heap::create(directory.path(), HeapId(7)).unwrap();
        (directory, heap)
    }

    #[test]
    fn a_stranger_reads_what_was_stored() {
        let (directory, mut heap) = heap();
        let small = heap.store(b"hello").unwrap();
        let large = heap.store(&vec![3; 1 << 20]).unwrap();
        let stranger = ForeignHeap::open(directory.path(), HeapId(7)).unwrap();
        assert_eq!(stranger.bytes(small, 1..5), Some(&b"ello"[..]));
        assert_eq!(stranger.bytes(large, (1 << 20) - 1..1 << 20), Some(&[3][..]));
        assert_eq!(stranger.bytes(small, 0..33), None);
        assert_eq!(stranger.bytes(Block::new(1 << 36, 128).unwrap(), 0..1), None);
        assert!(Block::new(33, 1).is_none() && Block::new(32, 0).is_none() && Block::new(1 << 60, 1).is_none());
    }

    #[test]
    fn long_blocks_give_their_memory_back_and_absurd_ones_are_refused() {
        let (directory, mut heap) = heap();
        let used = || std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(directory.path().join("sessions/heap-7")).unwrap()) * 512;
        let block = heap.allocate(16 << 20).unwrap();
        heap.bytes_mut(block, 0..16 << 20).fill(1);
        assert!(used() >= 16 << 20);
        heap.free(block);
        assert!(used() < 1 << 20, "{}", used());
        let again = heap.allocate(16 << 20).unwrap();
        assert_eq!(again, block);
        heap.bytes_mut(again, 0..1).fill(2);
        assert_eq!(heap.allocate(usize::MAX / 2).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(heap.allocate(100 << 20).unwrap_err().kind(), io::ErrorKind::StorageFull);
    }

    /// Sessions that are answered one request after another: each has room for its input, and what it was answered last, which is long
    /// for all of them now, and short for all then.
    #[test]
    fn what_sessions_take_in_turn_stays_at_hand_until_they_go() {
        const SESSIONS: usize = 200;
        let (directory, mut heap) = heap();
        let used = || std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(directory.path().join("sessions/heap-7")).unwrap()) * 512;
        let mut held: Vec<(Block, Block)> =
            (0..SESSIONS).map(|_| (heap.allocate(3_400).unwrap(), heap.store(&[1; 300]).unwrap())).collect();
        for round in 0..6 {
            for (region, said) in &mut held {
                let bytes = if round % 2 == 0 { 2_000 } else { 300 };
                let (next, says) = (heap.allocate(3_400).unwrap(), heap.store(&vec![2; bytes]).unwrap());
                heap.free(std::mem::replace(said, says));
                heap.free(std::mem::replace(region, next));
            }
            assert!(heap.given_back.iter().all(Vec::is_empty), "memory was given back in round {round}");
        }
        assert!(used() >= (2 * SESSIONS) as u64 * PAGE_BYTES);
        held.into_iter().flat_map(|(region, said)| [region, said]).for_each(|block| heap.free(block));
        let most = 2 * KEPT_BLOCKS * PAGE_BYTES as usize + GROWTH_BYTES;
        assert!(used() <= most as u64, "{} bytes for nobody", used());
    }

    /// Many negotiate at once, each with room for its input; then they rest, and what they had is nobody's.
    #[test]
    fn what_was_there_for_a_moment_leaves_nothing_between_what_rests() {
        const SESSIONS: usize = 500;
        let (directory, mut heap) = heap();
        let used = || std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(directory.path().join("sessions/heap-7")).unwrap()) * 512;
        let (mut resting, mut said) = (Vec::new(), Vec::new());
        for _ in 0..SESSIONS / 100 {
            let negotiating: Vec<Block> = (0..100).map(|_| heap.allocate(3_400).unwrap()).collect();
            for block in negotiating {
                let region = heap.allocate(350).unwrap();
                heap.bytes_mut(region, 0..350).fill(1);
                resting.push(region);
                said.push(heap.store(&[2; 250]).unwrap());
                heap.free(block);
            }
        }
        assert!(said.iter().all(|block| heap.bytes(*block, 0..250) == [2; 250]));
        let before = used();
        said.into_iter().for_each(|block| heap.free(block));
        let (given_back, most_left) = (before - used(), 3 * KEPT_BLOCKS * PAGE_BYTES as usize);
        assert!(given_back as usize + most_left >= SESSIONS * 256, "{given_back} bytes were given back");
        let most = SESSIONS * 352 + 2 * KEPT_BLOCKS * PAGE_BYTES as usize + GROWTH_BYTES;
        assert!(used() <= most as u64, "{} bytes for {SESSIONS} sessions", used());
        assert!(resting.iter().all(|block| heap.bytes(*block, 0..350) == [1; 350]));
    }

    proptest! {
        #[test]
        fn blocks_never_share_a_byte(steps in prop::collection::vec((any::<bool>(), 1usize..300_000), 1..80)) {
            let (_directory, mut heap) = heap();
            let mut held: Vec<(Block, u8, usize)> = Vec::new();
            for (number, (free, bytes)) in steps.into_iter().enumerate() {
                if free && !held.is_empty() {
                    let (block, ..) = held.swap_remove(bytes % held.len());
                    heap.free(block);
                } else {
                    // Every other one is short, and for a moment or to stay.
                    let bytes = if number % 2 == 0 { bytes % 1_200 } else { bytes };
                    let block = if number % 4 == 0 { heap.store(&vec![0; bytes]) } else { heap.allocate(bytes) }.unwrap();
                    heap.bytes_mut(block, 0..bytes).fill(number as u8);
                    held.push((block, number as u8, bytes));
                }
                for (block, mark, bytes) in &held {
                    prop_assert!(heap.bytes(*block, 0..*bytes).iter().all(|byte| byte == mark));
                }
            }
        }
    }
}
