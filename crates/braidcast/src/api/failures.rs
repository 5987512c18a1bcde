//! Wrong tokens and passwords, counted by address over all workers: a small table of atomics in the shared directory.
//!
//! A bounded number of addresses is remembered, the latest ones; IPv6 networks of 64 bits count as one address. Where an address lies is hashed
//! with a key of the instance's own, so that nobody can choose whom they share a place with.

use aws_lc_rs::digest::{Context, SHA256};
use braidcast_sys::{Dir, SharedPage};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;

/// Where the table is in the shared directory: beside the workers' pages, where every worker may make it.
const NAME: &str = "api.failures";
const DIRECTORY: &str = "workers";
/// For how long failures count, seconds; from an address's first one.
pub const WINDOW_S: u32 = 60;
/// Addresses with the same hash, of which so many are told apart.
const WAYS: usize = 4;
const SETS: usize = 1_024;
const HEAD_BYTES: usize = 64;
const BYTES: usize = HEAD_BYTES + SETS * WAYS * 8;
/// Seconds are kept in so many bits, and compared as such.
const SECONDS: u32 = (1 << 24) - 1;
/// How often it is tried again when other workers change the same place at the same time.
const TRIES: usize = 8;

/// See the module's head.
#[derive(Debug)]
pub struct Failures {
    page: SharedPage,
    key: u64,
}

/// What is remembered of an address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Entry {
    /// What of the hash does not say where it lies.
    tag: u32,
    /// The first failure.
    since_s: u32,
    /// 0: the place is free.
    count: u16,
}

impl Entry {
    fn read(word: u64) -> Self {
        Self { tag: (word >> 40) as u32, since_s: (word >> 16) as u32 & SECONDS, count: word as u16 }
    }

    fn word(self) -> u64 {
        u64::from(self.tag) << 40 | u64::from(self.since_s & SECONDS) << 16 | u64::from(self.count)
    }

    fn age_s(self, now_s: u64) -> u32 {
        (now_s as u32).wrapping_sub(self.since_s) & SECONDS
    }

    fn counts(self, now_s: u64) -> bool {
        self.count > 0 && self.age_s(now_s) < WINDOW_S
    }
}

impl Failures {
    /// The instance's table, made by whoever comes first.
    pub fn open(shared_dir: &Path) -> io::Result<Self> {
        let page = SharedPage::map_writable(Dir::open(&shared_dir.join(DIRECTORY))?.open_or_create(NAME)?, BYTES)?;
        // Two random numbers of the standard library: 0 means that nobody has set the key yet.
        let mut random = RandomState::new().build_hasher();
        random.write_u8(0);
        let fresh = random.finish() | 1;
        let key = page.u64(0).compare_exchange(0, fresh, Relaxed, Relaxed).err().unwrap_or(fresh);
        Ok(Self { page, key })
    }

    /// For how many seconds an address is not listened to, if it has failed so often; `now_s` is of the monotonic clock.
    pub fn held_s(&self, address: IpAddr, most: u32, now_s: u64) -> Option<u32> {
        let (set, tag) = self.place(address);
        let entries = (0..WAYS).map(|way| self.entry(set, way));
        let entry = entries.into_iter().find(|entry| entry.tag == tag && entry.counts(now_s))?;
        (u32::from(entry.count) >= most.min(u16::MAX.into())).then(|| WINDOW_S - entry.age_s(now_s))
    }

    /// Counts a failure.
    pub fn add(&self, address: IpAddr, now_s: u64) {
        let (set, tag) = self.place(address);
        for _ in 0..TRIES {
            let known = (0..WAYS).find(|way| self.entry(set, *way).tag == tag && self.entry(set, *way).count > 0);
            // Else the one whose failures are the longest ago.
            let least_needed = |way: &usize| {
                let entry = self.entry(set, *way);
                if entry.count == 0 { u32::MAX } else { entry.age_s(now_s) }
            };
            let way = known.or_else(|| (0..WAYS).max_by_key(least_needed)).unwrap_or_default();
            let old = self.word(set, way).load(Relaxed);
            let entry = Entry::read(old);
            let new = match entry.tag == tag && entry.counts(now_s) {
                true => Entry { count: entry.count.saturating_add(1), ..entry },
                false => Entry { tag, since_s: now_s as u32 & SECONDS, count: 1 },
            };
            if self.word(set, way).compare_exchange(old, new.word(), Relaxed, Relaxed).is_ok() {
                return;
            }
        }
    }

    fn word(&self, set: usize, way: usize) -> &std::sync::atomic::AtomicU64 {
        self.page.u64(HEAD_BYTES + (set * WAYS + way) * 8)
    }

    fn entry(&self, set: usize, way: usize) -> Entry {
        Entry::read(self.word(set, way).load(Relaxed))
    }

    fn place(&self, address: IpAddr) -> (usize, u32) {
        let mut hash = Context::new(&SHA256);
        hash.update(&self.key.to_le_bytes());
        match address.to_canonical() {
            IpAddr::V4(address) => hash.update(&address.octets()),
            IpAddr::V6(address) => hash.update(&address.octets()[..8]),
        }
        let digest = hash.finish();
        let hash = digest.as_ref().iter().take(8).fold(0, |hash: u64, byte| hash << 8 | u64::from(*byte));
        (hash as usize % SETS, (hash >> 40) as u32)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn tables() -> (tempfile::TempDir, Failures, Failures) {
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        std::fs::create_dir(directory.path().join(DIRECTORY)).unwrap();
        let (one, other) = (Failures::open(directory.path()).unwrap(), Failures::open(directory.path()).unwrap());
        (directory, one, other)
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn failures_at_all_workers_count_together_until_the_minute_is_over() {
        let (_directory, one, other) = tables();
        let guest = address("192.0.2.1");
        for second in 100..103 {
            assert_eq!(one.held_s(guest, 3, second), None);
            if second % 2 == 0 { one.add(guest, second) } else { other.add(guest, second) }
        }
        assert_eq!((one.held_s(guest, 3, 103), other.held_s(guest, 3, 159)), (Some(57), Some(1)));
        assert_eq!(one.held_s(address("::ffff:192.0.2.1"), 3, 103), Some(57));
        assert_eq!((other.held_s(guest, 3, 160), other.held_s(address("192.0.2.2"), 3, 103)), (None, None));
        other.add(guest, 170);
        assert_eq!((one.held_s(guest, 1, 171), one.held_s(guest, 2, 171)), (Some(59), None), "a minute of its own begins");
    }

    #[test]
    fn a_network_of_64_bits_is_one_address() {
        let (_directory, table, _) = tables();
        table.add(address("2001:db8::1"), 5);
        assert!(table.held_s(address("2001:db8::ffff:1"), 1, 5).is_some() && table.held_s(address("2001:db8:0:1::1"), 1, 5).is_none());
    }

    #[test]
    fn any_number_of_addresses_leaves_the_latest_ones() {
        let (_directory, table, _) = tables();
        for number in 0..50_000u32 {
            table.add(IpAddr::from(number.to_be_bytes()), u64::from(number / 1_000));
        }
        let held = (49_900..50_000u32).filter(|number| table.held_s(IpAddr::from(number.to_be_bytes()), 1, 50).is_some()).count();
        assert!(held >= 90, "{held} of the last 100 are known");
    }

    proptest! {
        #[test]
        fn few_addresses_are_counted_exactly(steps in prop::collection::vec((0u8..5, 0u64..20), 1..100)) {
            let (_directory, one, other) = tables();
            let (mut now_s, mut model) = (0xff_fff0, HashMap::<u8, (u64, u32)>::new());
            for (step, (guest, pause_s)) in steps.into_iter().enumerate() {
                now_s += pause_s;
                let address = IpAddr::from([192, 0, 2, guest]);
                let (since_s, count) = model.get(&guest).copied().filter(|(since_s, _)| now_s - since_s < u64::from(WINDOW_S)).unwrap_or((now_s, 0));
                model.insert(guest, (since_s, count + 1));
                if step % 2 == 0 { one.add(address, now_s) } else { other.add(address, now_s) }
                for (guest, (since_s, count)) in &model {
                    let expected = (now_s - since_s < u64::from(WINDOW_S) && *count >= 3).then(|| WINDOW_S - (now_s - since_s) as u32);
                    prop_assert_eq!(one.held_s(IpAddr::from([192, 0, 2, *guest]), 3, now_s), expected);
                }
            }
        }
    }
}
