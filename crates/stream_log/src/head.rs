//! The head of a stream's log: a small mapped file of atomics. Layout and meaning: `docs/formats/stream-log.md`.
//!
//! Only the writer stores, in an order that is right for readers at every instant and for recovery after a death between
//! any two stores. Readers take every number for what it is: something in a file.

use braidcast_sys::SharedPage;
use serde::{Deserialize, Serialize};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::fence;

/// Version of the bytes of head and blocks.
pub const VERSION: u32 = 1;
/// How many blocks a log can hold at once; before one more is opened the oldest is evicted, whatever the options say.
pub const MAX_BLOCKS: u32 = 128;

pub(crate) const HEAD_BYTES: usize = 12 << 10;
const MAGIC: u64 = u64::from_le_bytes(*b"BRAIDLOG");
/// How many keyframes the head lists.
const KEYFRAMES: u64 = 256;
const BLOCK_ENTRY_BYTES: usize = 64;

mod at {
    pub const MAGIC: usize = 0;
    pub const VERSION: usize = 8;
    pub const HEAD_BYTES: usize = 12;
    pub const COMMIT: usize = 64;
    pub const STATE: usize = 72;
    pub const EPOCH: usize = 76;
    pub const LAST_APPEND_MONO: usize = 80;
    pub const LAST_TIMESTAMP: usize = 88;
    pub const GENERATION: usize = 96;
    pub const OLDEST: usize = 100;
    pub const BLOCK_CAPACITY: usize = 104;
    pub const KEYFRAME_COUNT: usize = 112;
    pub const COUNTERS: usize = 128;
    pub const PUBLISHER: usize = 512;
    pub const KEYFRAMES: usize = 2048;
    pub const BLOCKS: usize = 4096;
}

/// Offsets in an entry of the block table.
mod entry {
    pub const NUMBER: usize = 0;
    pub const PREFIX_BYTES: usize = 4;
    pub const FINAL_BYTES: usize = 8;
    pub const FLAGS: usize = 12;
    pub const GENERATION: usize = 16;
    pub const EPOCH: usize = 20;
    pub const START_TIMESTAMP: usize = 24;
    pub const WALL_MS: usize = 32;
    pub const CUMULATIVE_BYTES: usize = 40;
    pub const MONO_MS: usize = 48;

    pub const STARTS_WITH_KEYFRAME: u32 = 1;
    pub const EXTENDED: u32 = 2;
}

/// A place in a log: a block and an offset in bytes from that block's start. Later places compare greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Position {
    /// Block number, from 1; 0 stands for "before everything".
    pub block: u32,
    /// Bytes from the start of the block's file.
    pub offset: u32,
}

impl Position {
    /// As one word: the block above, the offset below.
    pub fn to_word(self) -> u64 {
        u64::from(self.block) << 32 | u64::from(self.offset)
    }

    /// The place that a word stands for.
    pub fn from_word(word: u64) -> Self {
        Self { block: (word >> 32) as u32, offset: word as u32 }
    }
}

/// What the log is about to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum State {
    /// A publisher sends. (If it went away with its process, the lock is free.)
    Live = 1,
    /// Nobody publishes; somebody may soon.
    Waiting = 2,
    /// The stream is over. It may be published again.
    Ended = 3,
    /// The log is being removed: leave it. The stream may have a new log.
    Disposed = 4,
}

impl State {
    fn from_number(number: u32) -> Self {
        match number {
            1 => Self::Live,
            2 => Self::Waiting,
            3 => Self::Ended,
            // A number that nobody stores is not a log to stay in.
            _ => Self::Disposed,
        }
    }
}

/// What is known of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockInfo {
    /// From 1, without gaps.
    pub number: u32,
    /// File header, metadata and sequence headers; the first record is here.
    pub prefix_bytes: u32,
    /// The length of a block that is finished: nothing will be appended to it.
    pub final_bytes: Option<u32>,
    /// Time of the first record on the log's own unwrapped time line, milliseconds.
    pub start_timestamp_ms: i64,
    /// Wall clock when it was opened, milliseconds since 1970.
    pub wall_ms: u64,
    /// Rises when a prefix holds other headers than the block before: whoever crosses into it needs the prefix.
    pub generation: u32,
    /// Which publisher wrote it, from 1.
    pub epoch: u32,
    /// The first record is a keyframe (without video: an audio record).
    pub starts_with_keyframe: bool,
    /// Its publisher's tags have tracks or modifiers ([`braidcast_media::TagInfo::extended`]) that not every player knows.
    pub extended: bool,
    /// Record bytes of all blocks before this one, prefixes not counted, since the log was made.
    pub cumulative_bytes: u64,
}

/// An entry of the block table as the writer keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub info: BlockInfo,
    pub mono_ms: u64,
}

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// What a log has counted since it was made.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        pub struct Counters { $($(#[doc = $doc])+ pub $name: u64,)+ }

        impl Counters {
            /// In the order of their places in the head: append, never reorder.
            fn fields(&mut self) -> impl Iterator<Item = &mut u64> {
                [$(&mut self.$name),+].into_iter()
            }
        }
    };
}

counters! {
    /// Records appended.
    records,
    /// Their bytes in the log.
    bytes,
    /// Places where a viewer can start.
    keyframes,
    /// Audio records.
    audio,
    /// Video records.
    video,
    /// Data records.
    data,
    /// Blocks evicted.
    evicted_blocks,
    /// Times that were changed so that the time line stays whole.
    timestamp_corrections,
    /// Records dropped because the directory was full.
    records_dropped,
}

/// Why a file is no head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeadFault {
    /// It was never finished: its maker died.
    Unfinished,
    /// Of another version.
    Version(u32),
    /// Not a head at all.
    Damaged,
}

/// A lock on the file that was mapped lasts as long as the map: a map keeps its file open, without a descriptor.
#[derive(Debug)]
pub(crate) struct Head(SharedPage);

impl Head {
    /// Maps a head for writing; takes its space first.
    pub fn map_writable(file: OwnedFd) -> io::Result<Self> {
        Ok(Self(SharedPage::map_writable(file, HEAD_BYTES)?))
    }

    /// Maps a head for reading; `UnexpectedEof` if the file is too short.
    pub fn map_readonly(file: OwnedFd) -> io::Result<Self> {
        Ok(Self(SharedPage::map_readonly(file, HEAD_BYTES)?))
    }

    pub fn check(&self) -> Result<(), HeadFault> {
        match self.0.u64(at::MAGIC).load(Acquire) {
            MAGIC => {}
            0 => return Err(HeadFault::Unfinished),
            _ => return Err(HeadFault::Damaged),
        }
        match self.0.u32(at::VERSION).load(Relaxed) {
            VERSION if self.0.u32(at::HEAD_BYTES).load(Relaxed) as usize == HEAD_BYTES => Ok(()),
            VERSION => Err(HeadFault::Damaged),
            other => Err(HeadFault::Version(other)),
        }
    }

    /// Makes an empty head of a page of zeros or of one that was left unfinished.
    pub fn initialise(&self) {
        for offset in (0..HEAD_BYTES).step_by(8) {
            self.0.u64(offset).store(0, Relaxed);
        }
        self.0.u32(at::VERSION).store(VERSION, Relaxed);
        self.0.u32(at::HEAD_BYTES).store(HEAD_BYTES as u32, Relaxed);
        self.set_state(State::Waiting);
        self.set_oldest(1);
        self.0.u64(at::MAGIC).store(MAGIC, Release);
    }

    pub fn commit(&self) -> Position {
        Position::from_word(self.0.u64(at::COMMIT).load(Acquire))
    }

    /// The last store of a commit: everything before it is visible to whoever loads it.
    pub fn set_commit(&self, position: Position) {
        self.0.u64(at::COMMIT).store(position.to_word(), Release);
    }

    pub fn state(&self) -> State {
        State::from_number(self.0.u32(at::STATE).load(Acquire))
    }

    pub fn set_state(&self, state: State) {
        self.0.u32(at::STATE).store(state as u32, Release);
    }

    pub fn epoch(&self) -> u32 {
        self.0.u32(at::EPOCH).load(Acquire)
    }

    pub fn set_epoch(&self, epoch: u32) {
        self.0.u32(at::EPOCH).store(epoch, Release);
    }

    /// Where the newest publisher sends from; `None` if that is not known, or just being changed.
    pub fn publisher(&self) -> Option<SocketAddr> {
        let word = |index: usize| self.0.u64(at::PUBLISHER + 8 * index);
        let who = word(0).load(Acquire);
        let ip = u128::from(word(1).load(Relaxed)) << 64 | u128::from(word(2).load(Relaxed));
        // The epoch in it is unlike any other that was ever there.
        fence(Acquire);
        let (family, port) = ((who >> 16) as u16, who as u16);
        let ip: IpAddr = match family {
            4 => Ipv4Addr::from_bits(ip as u32).into(),
            6 => Ipv6Addr::from_bits(ip).into(),
            _ => return None,
        };
        (word(0).load(Relaxed) == who).then_some(SocketAddr::new(ip, port))
    }

    /// Says where the publisher of an epoch sends from.
    pub fn set_publisher(&self, publisher: SocketAddr, epoch: u32) {
        let word = |index: usize| self.0.u64(at::PUBLISHER + 8 * index);
        let (family, ip) = match publisher.ip() {
            IpAddr::V4(v4) => (4, u128::from(v4.to_bits())),
            IpAddr::V6(v6) => (6, v6.to_bits()),
        };
        word(0).store(0, Relaxed);
        fence(Release);
        word(1).store((ip >> 64) as u64, Relaxed);
        word(2).store(ip as u64, Relaxed);
        word(0).store(u64::from(epoch) << 32 | family << 16 | u64::from(publisher.port()), Release);
    }

    pub fn generation(&self) -> u32 {
        self.0.u32(at::GENERATION).load(Acquire)
    }

    pub fn set_generation(&self, generation: u32) {
        self.0.u32(at::GENERATION).store(generation, Release);
    }

    pub fn oldest(&self) -> u32 {
        self.0.u32(at::OLDEST).load(Acquire)
    }

    pub fn set_oldest(&self, block: u32) {
        self.0.u32(at::OLDEST).store(block, Release);
    }

    /// The longest a block can become, in bytes: how much a reader maps of one that still grows.
    pub fn block_capacity(&self) -> u32 {
        self.0.u32(at::BLOCK_CAPACITY).load(Acquire)
    }

    pub fn set_block_capacity(&self, bytes: u32) {
        self.0.u32(at::BLOCK_CAPACITY).store(bytes, Release);
    }

    pub fn last_append_mono_ms(&self) -> u64 {
        self.0.u64(at::LAST_APPEND_MONO).load(Acquire)
    }

    pub fn set_last_append_mono_ms(&self, mono_ms: u64) {
        self.0.u64(at::LAST_APPEND_MONO).store(mono_ms, Release);
    }

    pub fn last_timestamp_ms(&self) -> i64 {
        self.0.u64(at::LAST_TIMESTAMP).load(Acquire).cast_signed()
    }

    pub fn set_last_timestamp_ms(&self, timestamp_ms: i64) {
        self.0.u64(at::LAST_TIMESTAMP).store(timestamp_ms.cast_unsigned(), Release);
    }

    pub fn counters(&self) -> Counters {
        let mut counters = Counters::default();
        for (index, value) in counters.fields().enumerate() {
            *value = self.0.u64(at::COUNTERS + 8 * index).load(Relaxed);
        }
        counters
    }

    pub fn set_counters(&self, mut counters: Counters) {
        for (index, value) in counters.fields().enumerate() {
            self.0.u64(at::COUNTERS + 8 * index).store(*value, Relaxed);
        }
    }

    /// Adds to the list of keyframes, in order of their places.
    pub fn push_keyframe(&self, position: Position) {
        let count = self.0.u64(at::KEYFRAME_COUNT).load(Relaxed);
        self.keyframe(count).store(position.to_word(), Release);
        self.0.u64(at::KEYFRAME_COUNT).store(count.wrapping_add(1), Release);
    }

    /// The listed keyframes, newest first. Some may lie beyond the commit word, or in blocks that are gone.
    pub fn keyframes(&self) -> impl Iterator<Item = Position> + '_ {
        let count = self.0.u64(at::KEYFRAME_COUNT).load(Acquire);
        (0..count.min(KEYFRAMES))
            .map(move |back| self.keyframe(count - 1 - back).load(Acquire))
            .filter(|word| *word != 0)
            .map(Position::from_word)
    }

    /// Strikes keyframes at or beyond `end` from the list: their records were never committed.
    pub fn strike_keyframes_from(&self, end: Position) {
        for index in 0..KEYFRAMES {
            if Position::from_word(self.keyframe(index).load(Relaxed)) >= end {
                self.keyframe(index).store(0, Release);
            }
        }
    }

    fn keyframe(&self, index: u64) -> &std::sync::atomic::AtomicU64 {
        self.0.u64(at::KEYFRAMES + 8 * (index % KEYFRAMES) as usize)
    }

    /// The entry of a block; `None` if the block is not in the table, or its entry is just being changed.
    pub fn entry(&self, number: u32) -> Option<Entry> {
        let base = entry_base(number);
        if number == 0 || self.0.u32(base + entry::NUMBER).load(Acquire) != number {
            return None;
        }
        let word = |offset| self.0.u32(base + offset).load(Relaxed);
        let long = |offset| self.0.u64(base + offset).load(Relaxed);
        let final_bytes = word(entry::FINAL_BYTES);
        let info = BlockInfo {
            number,
            prefix_bytes: word(entry::PREFIX_BYTES),
            final_bytes: (final_bytes != 0).then_some(final_bytes),
            start_timestamp_ms: long(entry::START_TIMESTAMP).cast_signed(),
            wall_ms: long(entry::WALL_MS),
            generation: word(entry::GENERATION),
            epoch: word(entry::EPOCH),
            starts_with_keyframe: word(entry::FLAGS) & entry::STARTS_WITH_KEYFRAME != 0,
            extended: word(entry::FLAGS) & entry::EXTENDED != 0,
            cumulative_bytes: long(entry::CUMULATIVE_BYTES),
        };
        let mono_ms = long(entry::MONO_MS);
        // The number is unlike any other that this place ever holds: if it is still there, nothing was overwritten.
        fence(Acquire);
        (self.0.u32(base + entry::NUMBER).load(Relaxed) == number).then_some(Entry { info, mono_ms })
    }

    /// Enters a block, over whichever had the place before.
    pub fn set_entry(&self, new: &Entry) {
        let base = entry_base(new.info.number);
        self.0.u32(base + entry::NUMBER).store(0, Relaxed);
        fence(Release);
        braidcast_sys::fault::kill_point("table");
        let word = |offset, value| self.0.u32(base + offset).store(value, Relaxed);
        let long = |offset, value| self.0.u64(base + offset).store(value, Relaxed);
        word(entry::PREFIX_BYTES, new.info.prefix_bytes);
        word(entry::FINAL_BYTES, new.info.final_bytes.unwrap_or(0));
        let flag = |set, flag| if set { flag } else { 0 };
        let info = &new.info;
        word(entry::FLAGS, flag(info.starts_with_keyframe, entry::STARTS_WITH_KEYFRAME) | flag(info.extended, entry::EXTENDED));
        word(entry::GENERATION, new.info.generation);
        word(entry::EPOCH, new.info.epoch);
        long(entry::START_TIMESTAMP, new.info.start_timestamp_ms.cast_unsigned());
        long(entry::WALL_MS, new.info.wall_ms);
        long(entry::CUMULATIVE_BYTES, new.info.cumulative_bytes);
        long(entry::MONO_MS, new.mono_ms);
        self.0.u32(base + entry::NUMBER).store(new.info.number, Release);
    }

    /// Marks a block as finished.
    pub fn seal(&self, number: u32, final_bytes: u32) {
        self.0.u32(entry_base(number) + entry::FINAL_BYTES).store(final_bytes, Release);
    }

    /// Takes a block out of the table, if it is there.
    pub fn clear_entry(&self, number: u32) {
        let place = self.0.u32(entry_base(number) + entry::NUMBER);
        if place.load(Relaxed) == number {
            place.store(0, Release);
        }
    }

    /// Takes all blocks outside a range out of the table.
    pub fn clear_entries_outside(&self, kept: std::ops::RangeInclusive<u32>) {
        for slot in 0..MAX_BLOCKS {
            let place = self.0.u32(entry_base(slot) + entry::NUMBER);
            if !kept.contains(&place.load(Relaxed)) {
                place.store(0, Release);
            }
        }
    }
}

fn entry_base(number: u32) -> usize {
    at::BLOCKS + (number % MAX_BLOCKS) as usize * BLOCK_ENTRY_BYTES
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn head() -> Head {
        let head = Head::map_writable(tempfile::tempfile_in("/dev/shm").unwrap().into()).unwrap();
        assert_eq!(head.check(), Err(HeadFault::Unfinished));
        head.initialise();
        head.check().unwrap();
        head
    }

    fn entry(number: u32) -> Entry {
        let info = BlockInfo {
            number,
            prefix_bytes: 13,
            final_bytes: None,
            start_timestamp_ms: -1,
            wall_ms: 2,
            generation: 3,
            epoch: 4,
            starts_with_keyframe: true,
            extended: number.is_multiple_of(2),
            cumulative_bytes: 5,
        };
        Entry { info, mono_ms: 6 }
    }

    #[test]
    fn the_layout_does_not_overlap() {
        const { assert!(at::COUNTERS + 8 * 32 <= at::PUBLISHER) };
        const { assert!(at::PUBLISHER + 8 * 3 <= at::KEYFRAMES) };
        const { assert!(at::KEYFRAMES + 8 * KEYFRAMES as usize <= at::BLOCKS) };
        const { assert!(at::BLOCKS + MAX_BLOCKS as usize * BLOCK_ENTRY_BYTES == HEAD_BYTES) };
        const { assert!(entry::MONO_MS + 8 <= BLOCK_ENTRY_BYTES) };
    }

    #[test]
    fn entries_are_known_by_their_number_only() {
        let head = head();
        head.set_entry(&entry(1));
        assert_eq!(head.entry(1), Some(entry(1)));
        head.seal(1, 99);
        assert_eq!(head.entry(1).unwrap().info.final_bytes, Some(99));
        head.set_entry(&entry(1 + MAX_BLOCKS));
        assert_eq!((head.entry(1), head.entry(0)), (None, None));
        head.clear_entry(1);
        assert_eq!(head.entry(1 + MAX_BLOCKS), Some(entry(1 + MAX_BLOCKS)));
        head.clear_entries_outside(1..=MAX_BLOCKS);
        assert_eq!(head.entry(1 + MAX_BLOCKS), None);
    }

    #[test]
    fn keyframes_are_listed_newest_first_and_can_be_struck() {
        let head = head();
        for offset in 0..KEYFRAMES as u32 + 10 {
            head.push_keyframe(Position { block: 1, offset });
        }
        assert_eq!(head.keyframes().count() as u64, KEYFRAMES);
        assert_eq!(head.keyframes().next().unwrap().offset, KEYFRAMES as u32 + 9);
        head.strike_keyframes_from(Position { block: 1, offset: 100 });
        assert_eq!(head.keyframes().next().unwrap().offset, 99);
    }

    #[test]
    fn the_publishers_address_is_read_as_it_was_said() {
        let head = head();
        assert_eq!(head.publisher(), None);
        for address in ["192.0.2.1:40000", "[2001:db8::7]:0", "0.0.0.0:0", "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"] {
            head.set_publisher(address.parse().unwrap(), 7);
            assert_eq!(head.publisher().unwrap().to_string(), address);
        }
    }

    #[test]
    fn positions_order_as_their_words() {
        let (early, late) = (Position { block: 1, offset: u32::MAX }, Position { block: 2, offset: 0 });
        assert!(early < late && early.to_word() < late.to_word());
        assert_eq!(Position::from_word(late.to_word()), late);
    }
}
