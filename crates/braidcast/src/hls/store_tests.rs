//! The store on a real tmpfs, whole and full.

#![allow(clippy::unwrap_used)]

use super::super::scan::scan;
use super::*;
use proptest::prelude::*;
use tempfile::TempDir;

const OPTIONS: StoreOptions = StoreOptions { window_ms: 12_000, retention_ms: 40_000, budget_bytes: 1 << 30 };
const WALL_MS: u64 = 1_769_860_800_000;

fn info(number: u64, duration_90k: u64, discontinuity: bool, discontinuity_sequence: u64) -> SegmentInfo {
    let media_start_90k = number * 360_000;
    SegmentInfo {
        stream: "v/live/x".into(),
        number,
        duration_90k,
        media_start_90k,
        media_end_90k: media_start_90k + duration_90k,
        wall_start_ms: WALL_MS + number * 4000,
        wall_end_ms: WALL_MS + number * 4000 + duration_90k / 90,
        discontinuity,
        discontinuity_sequence,
        independent: true,
    }
}

fn directory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap()
}

fn open(directory: &TempDir) -> SegmentStore {
    let (store, skipped) = SegmentStore::open(directory.path(), OPTIONS).unwrap();
    assert_eq!(skipped, []);
    store
}

fn write(store: &mut SegmentStore, info: SegmentInfo) {
    store.begin(info.number).unwrap();
    store.append(&[0x47; 188 * 10]).unwrap();
    store.append(&info.to_packet()).unwrap();
    store.finish(info).unwrap();
}

fn names(directory: &TempDir) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn index(directory: &TempDir) -> String {
    fs::read_to_string(directory.path().join(INDEX)).unwrap()
}

#[test]
fn a_segment_is_visible_when_it_is_whole() {
    let directory = directory();
    let mut store = open(&directory);
    store.begin(7).unwrap();
    store.append(&vec![0x47; 188 * 1000]).unwrap();
    assert_eq!(names(&directory), [".7.part"]);
    assert_eq!(store.bytes(), 188_000);
    let info = info(7, 360_000, false, 0);
    store.append(&info.to_packet()).unwrap();
    store.finish(info.clone()).unwrap();
    assert_eq!(names(&directory), ["7.ts", "index.m3u8"]);
    assert_eq!(store.bytes(), 188_188);
    assert_eq!(scan(directory.path()).unwrap().segments, [Found { info, bytes: 188_188, foreign: false }]);
    assert!(index(&directory).contains("#EXT-X-MEDIA-SEQUENCE:7\n"));
}

#[test]
fn what_a_dead_owner_was_writing_is_cleared_away() {
    let directory = directory();
    let mut store = open(&directory);
    write(&mut store, info(1, 360_000, false, 0));
    store.begin(2).unwrap();
    drop(store);
    fs::write(directory.path().join(".index.m3u8.tmp"), "#EXT").unwrap();
    let store = open(&directory);
    assert_eq!((names(&directory), store.segments().len()), (vec!["1.ts".to_owned(), "index.m3u8".to_owned()], 1));
}

#[test]
fn old_segments_go_and_the_window_stays() {
    let directory = directory();
    let mut store = open(&directory);
    for number in 1..=30 {
        write(&mut store, info(number, 360_000, false, 0));
    }
    // 40 s beyond the newest: ten segments newer than the oldest one that stays.
    assert_eq!(store.segments().map(|info| info.number).collect::<Vec<_>>(), (21..=30).collect::<Vec<_>>());
    assert_eq!(store.evict_older_than(WALL_MS + 24 * 4000), 2);
    assert_eq!(store.evict_older_than(u64::MAX), 5);
    assert_eq!(store.segments().map(|info| info.number).collect::<Vec<_>>(), [28, 29, 30]);
    assert_eq!(names(&directory), ["28.ts", "29.ts", "30.ts", "index.m3u8"]);
    assert_eq!(store.counters(), StoreCounters { finished: 30, lost: 0, evicted: 27 });
}

#[test]
fn for_want_of_room_the_live_index_becomes_shorter() {
    let directory = directory();
    let long = StoreOptions { window_ms: 40_000, retention_ms: 400_000, budget_bytes: 1 << 30 };
    let (mut store, _) = SegmentStore::open(directory.path(), long).unwrap();
    for number in 1..=20 {
        write(&mut store, info(number, 360_000, number == 4, u64::from(number >= 4)));
    }
    assert!(index(&directory).contains("#EXT-X-MEDIA-SEQUENCE:11\n"));
    // Ten go from outside of the window, five from inside of it: the index says so before they are gone.
    assert_eq!(store.evict_older_than(WALL_MS + 16 * 4000 + 1), 15);
    let text = index(&directory);
    assert!(text.contains("#EXT-X-MEDIA-SEQUENCE:16\n") && text.contains("#EXT-X-DISCONTINUITY-SEQUENCE:1\n"), "{text}");
    // Three stay whatever happens (RFC 8216 section 6.2.2).
    assert_eq!(store.evict_older_than(u64::MAX), 2);
    assert_eq!(names(&directory), ["18.ts", "19.ts", "20.ts", "index.m3u8"]);
    assert_eq!(store.counters(), StoreCounters { finished: 20, lost: 0, evicted: 17 });
    // It grows again by itself.
    write(&mut store, info(21, 360_000, false, 1));
    assert!(index(&directory).contains("#EXT-X-MEDIA-SEQUENCE:18\n"));
}

#[test]
fn indexes_by_name_follow_what_is_deleted() {
    let directory = directory();
    let mut store = open(&directory);
    for number in 1..=10 {
        write(&mut store, info(number, 360_000, false, 0));
    }
    let all: Vec<_> = store.segments().cloned().collect();
    for (name, chosen) in [("old.m3u8", &all[..2]), ("live001.m3u8", &all[..8]), ("new.m3u8", &all[8..])] {
        fs::write(directory.path().join(name), clip_text(chosen.iter().collect())).unwrap();
    }
    assert_eq!(store.evict_older_than(WALL_MS + 5 * 4000), 3);
    assert_eq!(
        names(&directory).iter().filter(|name| name.ends_with("m3u8")).collect::<Vec<_>>(),
        ["index.m3u8", "live001.m3u8", "new.m3u8"]
    );
    assert_eq!(fs::read_to_string(directory.path().join("live001.m3u8")).unwrap(), clip_text(all[3..8].iter().collect()));
    assert_eq!(fs::read_to_string(directory.path().join("new.m3u8")).unwrap(), clip_text(all[8..].iter().collect()));
}

#[test]
fn a_segment_written_once_more_takes_its_place() {
    let directory = directory();
    let mut store = open(&directory);
    for number in 1..=3 {
        write(&mut store, info(number, 360_000, false, 0));
    }
    let before = index(&directory);
    write(&mut store, info(3, 360_000, false, 0));
    assert_eq!((store.segments().len(), index(&directory)), (3, before));
}

#[test]
fn an_ended_stream_has_an_end_and_one_that_is_back_has_none() {
    let directory = directory();
    let mut store = open(&directory);
    store.end().unwrap();
    assert!(names(&directory).is_empty(), "no index without segments");
    write(&mut store, info(1, 360_000, false, 0));
    store.end().unwrap();
    assert!(index(&directory).ends_with("#EXT-X-ENDLIST\n"));
    write(&mut store, info(2, 360_000, true, 1));
    assert!(!index(&directory).contains("ENDLIST"));
}

#[test]
fn a_full_directory_costs_old_segments_first_and_then_the_open_one() {
    let directory = directory();
    let mut store = open(&directory);
    for number in 1..=8 {
        write(&mut store, info(number, 360_000, false, 0));
    }
    // Whatever is written to this device meets a full directory.
    std::os::unix::fs::symlink("/dev/full", directory.path().join(".9.part")).unwrap();
    store.begin(9).unwrap();
    let error = store.append(&[0x47; 188 * 200]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert_eq!(store.counters(), StoreCounters { finished: 8, lost: 1, evicted: 5 });
    store.append(b"bytes of a segment that is lost").unwrap();
    assert!(matches!(store.finish(info(9, 360_000, false, 0)), Err(FinishError::Lost(_))));
    assert_eq!(names(&directory), ["6.ts", "7.ts", "8.ts", "index.m3u8"]);
    write(&mut store, info(9, 360_000, false, 0));
    assert!(index(&directory).contains("\n9.ts\n"));
}

#[test]
fn an_index_that_cannot_be_written_costs_no_segment() {
    let directory = directory();
    let mut store = open(&directory);
    for number in 1..=20 {
        write(&mut store, info(number, 360_000, false, 0));
    }
    let before = index(&directory);
    std::os::unix::fs::symlink("/dev/full", directory.path().join(".index.m3u8.tmp")).unwrap();
    store.begin(21).unwrap();
    let info = info(21, 360_000, false, 0);
    store.append(&info.to_packet()).unwrap();
    // The first attempt meets the full device and clears it away, the second one works: an old segment was given up.
    store.finish(info).unwrap();
    assert!(store.counters().evicted > 0 && index(&directory) != before);
    fs::create_dir_all(directory.path().join(".index.m3u8.tmp/x")).unwrap();
    assert!(store.write_index().is_err());
    assert!(index(&directory).contains("\n21.ts\n"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_is_rebuilt_is_what_was_there(shape in prop::collection::vec((1_000u64..900_000, prop::bool::weighted(0.2)), 1..40), ended: bool) {
        let directory = directory();
        let mut store = open(&directory);
        let mut sequence = 0;
        for (number, (duration_90k, discontinuity)) in (1..).zip(shape) {
            sequence += u64::from(discontinuity);
            write(&mut store, info(number, duration_90k, discontinuity, sequence));
        }
        if ended {
            store.end().unwrap();
        }
        let before = index(&directory);
        let (segments, longest): (Vec<_>, _) = (store.segments().cloned().collect(), store.longest_90k());
        drop(store);
        fs::remove_file(directory.path().join(INDEX)).unwrap();
        let mut store = open(&directory);
        store.resume(longest, ended);
        store.write_index().unwrap();
        prop_assert_eq!(index(&directory), before);
        prop_assert_eq!(store.segments().cloned().collect::<Vec<_>>(), segments);
    }
}

#[test]
fn segments_keep_to_their_budget_and_a_huge_one_is_lost() {
    let directory = directory();
    let tight = StoreOptions { budget_bytes: 100_000, ..OPTIONS };
    let (mut store, _) = SegmentStore::open(directory.path(), tight).unwrap();
    for number in 1..=60 {
        write(&mut store, info(number, 360_000 / 10, false, 0));
        assert!(store.bytes() <= 75_000, "room is left for one more of the largest size");
    }
    // Each has 2,068 bytes; by their durations all would stay.
    assert_eq!(store.segments().len(), 36);
    store.begin(61).unwrap();
    store.append(&vec![0x47; 20_000]).unwrap();
    assert_eq!(store.append(&vec![0x47; 20_000]).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    assert_eq!((store.counters().lost, store.segments().len()), (1, 36));
    assert!(!directory.path().join(".61.part").exists());
}
