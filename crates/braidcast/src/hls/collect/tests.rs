//! The collector on a real tmpfs, with playlists and files as other servers write them.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::hls::{INDEX, cli, serve};
use braidcast_protocols::hls::playlist;
use braidcast_protocols::mpegts::PACKET_BYTES;
use proptest::prelude::*;
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};
use tempfile::TempDir;

mod deaths;

const OPTIONS: StoreOptions = StoreOptions { window_ms: 12_000, retention_ms: 40_000, budget_bytes: 1 << 20 };
const PACKETS: usize = 10;

fn key() -> StreamKey {
    StreamKey::new("__defaultVhost__", "live", "x").unwrap()
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

/// A shared directory, who writes into it, and who collects.
struct Site {
    top: TempDir,
    collector: Collector,
    processes: Vec<(u16, u64)>,
}

impl Site {
    fn new() -> Self {
        let top = tempfile::tempdir_in("/dev/shm").unwrap();
        let collector = collector(top.path());
        Self { top, collector, processes: vec![(1, 100)] }
    }

    fn source(&self, process: u16) -> PathBuf {
        self.named_source(process, "__defaultVhost__/live/x")
    }

    fn named_source(&self, process: u16, names: &str) -> PathBuf {
        self.top.path().join(format!("engine/{process}/hls/{names}"))
    }

    fn hls(&self) -> PathBuf {
        Root::new(self.top.path().to_owned()).hls_dir(&key())
    }

    /// Another process collects from now on.
    fn collector_dies(&mut self) {
        self.collector = collector(self.top.path());
    }

    fn look(&mut self) -> Vec<Collected> {
        self.collector.look(&self.processes, now_ms(), &mut |_| Some(1))
    }

    /// The segments that were taken, which must all be of one stream, and none refused.
    fn taken(&mut self) -> Vec<SegmentInfo> {
        let collected = self.look();
        assert!(collected.iter().all(|one| one.key == key() && one.refused == 0), "{collected:?}");
        collected.into_iter().flat_map(|one| one.finished).collect()
    }

    /// Numbers, and which of them have a discontinuity.
    fn index(&self) -> (Vec<u64>, Vec<u64>) {
        let text = fs::read_to_string(self.hls().join(INDEX)).unwrap();
        let read = media_playlist::parse(&text).unwrap();
        let broken = read.segments.iter().filter(|listed| listed.discontinuity).map(|listed| listed.sequence).collect();
        (playlist::numbers(&text).collect(), broken)
    }
}

fn collector(top: &Path) -> Collector {
    Collector::new(Root::new(top.to_owned()), top, OPTIONS)
}

fn media() -> Vec<u8> {
    let mut packet = [0xff; PACKET_BYTES];
    packet[..4].copy_from_slice(&[0x47, 0x1f, 0xff, 0x10]);
    packet.repeat(PACKETS)
}

/// A server finishes segments `from..to` of two seconds and names those from `first` on in its playlist.
fn serve_segments(directory: &Path, first: u64, from: u64, to: u64, broken: &[u64]) {
    fs::create_dir_all(directory).unwrap();
    for sequence in from..to {
        fs::write(directory.join(format!("{sequence}.ts")), media()).unwrap();
    }
    let lines = (first..to).map(|sequence| {
        let tag = if broken.contains(&sequence) { "#EXT-X-DISCONTINUITY\n" } else { "" };
        format!("{tag}#EXTINF:2.000, no desc\n{sequence}.ts\n")
    });
    write_playlist(directory, first, &lines.collect::<String>());
}

/// A segment's file is so many seconds old.
fn made_ago(directory: &Path, sequence: u64, seconds: u64) {
    let file = fs::File::options().write(true).open(directory.join(format!("{sequence}.ts"))).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
}

fn write_playlist(directory: &Path, first: u64, lines: &str) {
    let text = format!("#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-MEDIA-SEQUENCE:{first}\n#EXT-X-TARGETDURATION:3\n{lines}");
    crate::hls::files::replace(directory, INDEX, text.as_bytes()).unwrap();
}

fn numbers(infos: &[SegmentInfo]) -> Vec<u64> {
    infos.iter().map(|info| info.number).collect()
}

fn broken(infos: &[SegmentInfo]) -> Vec<u64> {
    infos.iter().filter(|info| info.discontinuity).map(|info| info.number).collect()
}

#[test]
fn what_is_finished_is_moved_and_says_what_it_is() {
    let mut site = Site::new();
    let source = site.source(1);
    serve_segments(&source, 0, 0, 2, &[0]);
    fs::write(source.join("2.ts"), media()).unwrap();
    let before = now_ms();
    let collected = site.look();
    assert_eq!((collected.len(), collected[0].next, collected[0].process), (1, 3, 1));
    assert_eq!(numbers(&collected[0].finished), [1, 2]);
    assert!(!source.join("0.ts").exists() && !source.join("1.ts").exists() && source.join("2.ts").exists());
    for (info, number) in collected[0].finished.iter().zip(1..) {
        let bytes = fs::read(site.hls().join(format!("{number}.ts"))).unwrap();
        assert_eq!(bytes[..PACKETS * PACKET_BYTES], media());
        assert_eq!((bytes.len(), SegmentInfo::of_segment(&bytes).as_ref()), ((PACKETS + 1) * PACKET_BYTES, Some(info)));
        assert_eq!((info.stream.as_str(), info.duration_90k), ("__defaultVhost__/live/x", 180_000));
        assert!(info.wall_end_ms.abs_diff(before) < 10_000 && info.wall_start_ms < info.wall_end_ms);
    }
    // Nothing came before the first one that it could not continue.
    assert_eq!(site.index(), (vec![1, 2], vec![]));
    assert_eq!(site.look(), []);
    assert_eq!(site.collector.counters(), Counters { taken: 2, refused: 0, unreadable: 0 });
}

#[test]
fn nothing_is_taken_twice_although_the_playlist_still_names_it() {
    let mut site = Site::new();
    let source = site.source(1);
    for sequence in 0..12_u64 {
        serve_segments(&source, sequence.saturating_sub(5), sequence, sequence + 1, &[0, 7]);
        if sequence % 4 == 3 {
            site.collector_dies();
        }
        let infos = site.taken();
        assert_eq!(numbers(&infos), [sequence + 1]);
        assert_eq!(infos[0].discontinuity, sequence == 7);
        assert_eq!(infos[0].discontinuity_sequence, u64::from(sequence >= 7));
    }
    let segments = serve::segments(&site.hls()).unwrap();
    for pair in segments.windows(2) {
        assert_eq!(pair[0].media_end_90k, pair[1].media_start_90k);
    }
    let names = fs::read_dir(&source).unwrap().count();
    assert_eq!(names, 1, "the playlist alone is left");
}

#[test]
fn a_server_that_starts_again_from_zero_goes_on_here() {
    for dies in [false, true] {
        let mut site = Site::new();
        let source = site.source(1);
        serve_segments(&source, 0, 0, 3, &[0]);
        assert_eq!(numbers(&site.taken()), [1, 2, 3]);
        site.processes = vec![(1, 101)];
        if dies {
            site.collector_dies();
        }
        assert_eq!(site.taken(), [], "the old playlist is still there");
        // Without a tag, too: the process says that it is another run.
        serve_segments(&source, 0, 0, 2, &[]);
        let infos = site.taken();
        assert_eq!((numbers(&infos), broken(&infos)), (vec![4, 5], vec![4]));
        // The same run begins anew: its stream was forgotten while nobody published it.
        serve_segments(&source, 0, 0, 1, &[]);
        let infos = site.taken();
        assert_eq!((numbers(&infos), broken(&infos)), (vec![6], vec![6]));
        assert_eq!(site.index(), ((1..=6).collect(), vec![4, 6]));
    }
}

#[test]
fn a_stream_that_moves_to_another_process_breaks_off_once_each_time() {
    for dies in [false, true] {
        let mut site = Site::new();
        site.processes = vec![(1, 100), (2, 200)];
        let (one, two) = (site.source(1), site.source(2));
        serve_segments(&one, 0, 0, 2, &[]);
        if !dies {
            assert_eq!(numbers(&site.taken()), [1, 2]);
        }
        std::thread::sleep(Duration::from_millis(20));
        serve_segments(&two, 7, 7, 9, &[]);
        let infos = site.taken();
        // Who finds both takes the older playlist's first.
        assert_eq!(broken(&infos), [3]);
        assert_eq!(infos.last().unwrap().number, 4);
        serve_segments(&two, 7, 9, 10, &[]);
        if dies {
            site.collector_dies();
        }
        assert_eq!(broken(&site.taken()), [0; 0]);
        serve_segments(&one, 0, 2, 3, &[]);
        let infos = site.taken();
        assert_eq!((numbers(&infos), broken(&infos)), (vec![6], vec![6]));
    }
}

#[test]
fn a_file_that_an_old_playlist_names_and_a_new_run_writes_is_left_alone() {
    let mut site = Site::new();
    let source = site.source(1);
    serve_segments(&source, 0, 0, 3, &[]);
    assert_eq!(numbers(&site.taken()), [1, 2, 3]);
    std::thread::sleep(Duration::from_millis(20));
    // nginx writes under the final name.
    fs::write(source.join("0.ts"), media()).unwrap();
    site.collector_dies();
    site.processes = vec![(1, 101)];
    assert_eq!(site.look(), []);
    std::thread::sleep(Duration::from_millis(20));
    serve_segments(&source, 0, 1, 1, &[]);
    write_playlist(&source, 0, "#EXTINF:2,\n0.ts\n");
    assert_eq!(broken(&site.taken()), [4]);
}

#[test]
fn what_is_no_segment_is_passed_over_and_what_follows_breaks_off() {
    let mut site = Site::new();
    let source = site.source(1);
    fs::create_dir_all(source.join("7.ts")).unwrap();
    fs::write(site.top.path().join("outside.ts"), media()).unwrap();
    fs::create_dir_all(source.join("deeper")).unwrap();
    fs::write(source.join("deeper/8.ts"), media()).unwrap();
    for name in ["0.ts", "6.ts", "9.ts", "10.ts", "12.ts"] {
        fs::write(source.join(name), media()).unwrap();
    }
    fs::write(source.join("2.ts"), vec![0; 4_000]).unwrap();
    fs::write(source.join("3.ts"), &media()[..200]).unwrap();
    fs::write(source.join("4.ts"), vec![0x47; OPTIONS.budget_bytes as usize / 4]).unwrap();
    std::os::unix::fs::symlink("../../../../../../outside.ts", source.join("5.ts")).unwrap();
    let absolute = site.top.path().join("outside.ts");
    let mut lines: String = (0..6).map(|sequence| format!("#EXTINF:2,\n{sequence}.ts\n")).collect();
    write!(lines, "6.ts\n#EXTINF:2,\n7.ts\n#EXTINF:2,\ndeeper/8.ts\n#EXTINF:2,\n{}\n", absolute.display()).unwrap();
    lines += "#EXTINF:2,\n../../outside.ts\n#EXTINF:2,\nhttp://h/9.ts\n#EXT-X-KEY:METHOD=AES-128,URI=\"k\"\n#EXTINF:2,\n10.ts\n";
    lines += "#EXT-X-KEY:METHOD=NONE\n#EXTINF:2,\n12.ts\n";
    write_playlist(&source, 0, &lines);
    let collected = site.look();
    assert_eq!((numbers(&collected[0].finished), broken(&collected[0].finished)), (vec![1, 2], vec![2]));
    let problems: Vec<_> = collected[0].problems.iter().map(|problem| (problem.file.as_str(), problem.why.as_str())).collect();
    let expected = [
        ("1.ts", "it is missing"),
        ("2.ts", "it is no MPEG-TS"),
        ("3.ts", "it has only 200 bytes"),
        ("4.ts", "it holds more than a quarter of"),
        ("5.ts", "it cannot be opened"),
        ("6.ts", "its playlist does not say how long"),
        ("7.ts", "it is no"),
        ("deeper/8.ts", "it is no file beside its playlist"),
        (absolute.to_str().unwrap(), "it is no file beside its playlist"),
        ("../../outside.ts", "it is no file beside its playlist"),
        ("http://h/9.ts", "it is no file beside its playlist"),
        ("10.ts", "it is encrypted"),
    ];
    assert_eq!(problems.len(), expected.len(), "{problems:?}");
    for ((file, why), (expected_file, begin)) in problems.iter().zip(expected) {
        assert_eq!(file.chars().take(80).collect::<String>(), expected_file.chars().take(80).collect::<String>());
        assert!(why.starts_with(begin) || expected_file == "7.ts", "{file}: {why}");
    }
    assert_eq!(fs::read(&absolute).unwrap(), media());
    assert!(source.join("deeper/8.ts").exists() && !source.join("10.ts").exists() && !source.join("5.ts").is_symlink());
    // None of it is told of again, by this process or the next.
    for dies in [false, true] {
        if dies {
            site.collector_dies();
        }
        write_playlist(&source, 0, &format!("{lines}#EXT-X-VERSION:4\n"));
        assert_eq!(site.look(), []);
    }
}

#[test]
fn a_playlist_that_cannot_be_read_is_counted_once_for_each_version() {
    let mut site = Site::new();
    let source = site.source(1);
    fs::create_dir_all(&source).unwrap();
    for text in ["#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\na.m3u8\n", "no playlist\n", "\0\u{1}"] {
        crate::hls::files::replace(&source, INDEX, text.as_bytes()).unwrap();
        assert_eq!((site.look(), site.look()), (vec![], vec![]));
    }
    assert_eq!(site.collector.counters().unreadable, 3);
    fs::remove_file(source.join(INDEX)).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", source.join(INDEX)).unwrap();
    assert_eq!(site.look(), []);
    assert!(!site.hls().exists());
}

/// The files of a directory and those below it.
fn tree_of(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(tree_of(&path));
        } else {
            files.push((path.clone(), fs::read(&path).unwrap()));
        }
    }
    files.sort();
    files
}

#[test]
fn segments_that_left_the_playlist_unseen_are_a_gap_and_are_swept_away() {
    let mut site = Site::new();
    let source = site.source(1);
    serve_segments(&source, 0, 0, 2, &[]);
    assert_eq!(site.taken().len(), 2);
    site.collector_dies();
    serve_segments(&source, 5, 2, 8, &[]);
    (2..5).for_each(|sequence| made_ago(&source, sequence, 100));
    fs::write(source.join("8.ts"), media()).unwrap();
    let infos = site.taken();
    assert_eq!((numbers(&infos), broken(&infos)), (vec![3, 4, 5], vec![3]));
    assert_eq!(tree_of(&source).iter().map(|(path, _)| path.file_name().unwrap()).collect::<Vec<_>>(), ["8.ts", INDEX]);
}

#[test]
fn numbers_begin_where_the_caller_says_and_wait_until_it_knows() {
    let mut site = Site::new();
    serve_segments(&site.source(1), 0, 0, 2, &[]);
    assert_eq!(site.collector.look(&[(1, 100)], now_ms(), &mut |_| None), []);
    let collected = site.collector.look(&[(1, 100)], now_ms(), &mut |asked| (*asked == key()).then_some(41));
    assert_eq!((numbers(&collected[0].finished), broken(&collected[0].finished)), (vec![41, 42], vec![41]));
    // What is there counts more than a number that is behind.
    site.collector_dies();
    serve_segments(&site.source(1), 0, 2, 3, &[]);
    assert_eq!(numbers(&site.taken()), [43]);
    // And a number that is ahead leaves a gap.
    site.collector_dies();
    serve_segments(&site.source(1), 0, 3, 5, &[]);
    let collected = site.collector.look(&[(1, 100)], now_ms(), &mut |_| Some(60));
    assert_eq!((numbers(&collected[0].finished), broken(&collected[0].finished)), (vec![60, 61], vec![60]));
    site.collector_dies();
    serve_segments(&site.source(1), 0, 5, 6, &[]);
    let infos = site.taken();
    assert_eq!((numbers(&infos), broken(&infos)), (vec![62], vec![]));
}

#[test]
fn times_are_the_playlist_s_or_the_file_s_and_clips_find_them() {
    let mut site = Site::new();
    let source = site.source(1);
    fs::create_dir_all(&source).unwrap();
    for name in ["0.ts", "1.ts", "2.ts"] {
        fs::write(source.join(name), media()).unwrap();
    }
    let lines = "#EXT-X-PROGRAM-DATE-TIME:2026-01-31T12:00:00Z\n#EXTINF:2,\n0.ts\n#EXT-X-PROGRAM-DATE-TIME:2026-01-31T12:00:02Z\n#EXTINF:4.5,\n1.ts\n";
    write_playlist(&source, 0, lines);
    let infos = site.taken();
    const NOON_MS: u64 = 1_769_860_800_000;
    assert_eq!(
        infos.iter().map(|info| (info.wall_start_ms - NOON_MS, info.wall_end_ms - NOON_MS)).collect::<Vec<_>>(),
        [(0, 2_000), (2_000, 6_500)]
    );
    let clip = serve::clip(&serve::segments(&site.hls()).unwrap(), "x", "", NOON_MS + 2_100, NOON_MS + 2_200).unwrap();
    assert_eq!(playlist::numbers(&clip.replace("x/", "")).collect::<Vec<_>>(), [2]);
    // A live index that is rebuilt is what it was, and it lives.
    let before = fs::read(site.hls().join(INDEX)).unwrap();
    fs::remove_file(site.hls().join(INDEX)).unwrap();
    assert_eq!(cli::rebuild(site.hls().parent().unwrap(), false, &mut Vec::new()), cli::DONE);
    assert_eq!(fs::read(site.hls().join(INDEX)).unwrap(), before);
}

/// A server is done with a segment a little sooner or later: what it shows goes on where the one before it ended.
#[test]
fn wall_clocks_have_no_holes() {
    let mut site = Site::new();
    let source = site.source(1);
    serve_segments(&source, 0, 0, 4, &[]);
    for (sequence, age_ms) in (0..).zip([60_000, 58_300, 55_900, 40_000]) {
        let file = fs::File::options().write(true).open(source.join(format!("{sequence}.ts"))).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_millis(age_ms)).unwrap();
    }
    let infos = site.taken();
    let holes: Vec<bool> = infos.windows(2).map(|pair| pair[0].wall_end_ms != pair[1].wall_start_ms).collect();
    // The last one came much later than it would have: it shows what it shows.
    assert_eq!(holes, [false, false, true]);
    assert!(infos.iter().all(|info| info.wall_end_ms > info.wall_start_ms), "{infos:?}");
}

#[test]
fn a_stream_ends_comes_back_and_is_deleted() {
    let mut site = Site::new();
    let source = site.source(1);
    let text = |site: &Site| fs::read_to_string(site.hls().join(INDEX)).unwrap();
    assert!(site.collector.settle(&key(), Settling::End).is_ok() && !site.hls().exists());
    serve_segments(&source, 0, 0, 4, &[]);
    assert_eq!(site.taken().len(), 4);
    site.collector.settle(&key(), Settling::Recover).unwrap();
    assert!(!text(&site).contains("ENDLIST"));
    // By whoever collects then.
    for dies in [false, true] {
        if dies {
            site.collector_dies();
        }
        site.collector.settle(&key(), Settling::End).unwrap();
        assert!(text(&site).ends_with("#EXT-X-ENDLIST\n"));
        let from = 4 + u64::from(dies);
        serve_segments(&source, 2, from, from + 1, &[from]);
        assert_eq!(broken(&site.taken()), [from + 1]);
        assert!(!text(&site).contains("ENDLIST"));
    }
    // A stream inside the other one's directory stays.
    let inside = site.named_source(1, "__defaultVhost__/live/x/y");
    serve_segments(&inside, 0, 0, 1, &[]);
    fs::write(source.join("9.ts.tmp"), "").unwrap();
    site.collector.settle(&key(), Settling::Dispose).unwrap();
    assert!(!site.hls().exists() && source.exists() && tree_of(&source).len() == 2);
    let other = StreamKey::new("__defaultVhost__", "live/x", "y").unwrap();
    site.collector.settle(&other, Settling::Dispose).unwrap();
    assert!(!source.exists() && site.named_source(1, "__defaultVhost__").exists());
    assert_eq!(site.look(), []);
    site.collector.settle(&key(), Settling::Dispose).unwrap();
    // It may come again.
    serve_segments(&source, 0, 0, 1, &[]);
    assert_eq!(numbers(&site.taken()), [1]);
}

#[test]
fn what_a_gone_process_left_is_taken() {
    let mut site = Site::new();
    let source = site.source(1);
    serve_segments(&source, 0, 0, 2, &[]);
    assert_eq!(site.taken().len(), 2);
    serve_segments(&source, 0, 2, 3, &[]);
    fs::write(source.join("3.ts"), media()).unwrap();
    site.processes.clear();
    let infos = site.taken();
    assert_eq!((numbers(&infos), broken(&infos)), (vec![3], vec![]));
    fs::remove_dir_all(site.top.path().join("engine/1/hls")).unwrap();
    assert_eq!(site.look(), []);
    // Its number is given to another one.
    site.processes = vec![(1, 500)];
    serve_segments(&source, 2, 2, 4, &[]);
    assert_eq!(broken(&site.taken()), [4]);
}

#[test]
fn streams_are_found_where_servers_put_them() {
    let mut site = Site::new();
    let found = |site: &mut Site| site.look().into_iter().map(|one| one.key.to_string()).collect::<Vec<_>>();
    serve_segments(&site.named_source(1, "v.example/a/b/c/s"), 0, 0, 1, &[]);
    serve_segments(&site.named_source(1, "v.example/a/b"), 0, 0, 1, &[]);
    // Too deep, too shallow, no name of a stream, a link, several playlists and none of them the index.
    serve_segments(&site.named_source(1, "v.example/1/2/3/4/5/6/7/8/9/s"), 0, 0, 1, &[]);
    serve_segments(&site.named_source(1, "v.example/a"), 0, 0, 1, &[]);
    serve_segments(&site.named_source(1, "v.example/a/x\\y"), 0, 0, 1, &[]);
    std::os::unix::fs::symlink(site.named_source(1, "v.example/a/b"), site.named_source(1, "v.example/a/link")).unwrap();
    let several = site.named_source(1, "v.example/a/several");
    serve_segments(&several, 0, 0, 1, &[]);
    fs::rename(several.join(INDEX), several.join("one.m3u8")).unwrap();
    fs::write(several.join("two.m3u8"), "#EXTM3U\n").unwrap();
    let mut keys = found(&mut site);
    keys.sort();
    assert_eq!(keys, ["v.example/a/b", "v.example/a/b/c/s"]);
    // One that is alone will do; and what comes later is found at once.
    fs::remove_file(several.join("two.m3u8")).unwrap();
    serve_segments(&site.named_source(1, "v.example/a/later"), 0, 0, 1, &[]);
    let mut keys = found(&mut site);
    keys.sort();
    assert_eq!(keys, ["v.example/a/later", "v.example/a/several"]);
    // Inside of a stream's directory it may take some looks.
    serve_segments(&site.named_source(1, "v.example/a/later/deeper"), 0, 0, 1, &[]);
    let keys: Vec<_> = (0..8).flat_map(|_| found(&mut site)).collect();
    assert_eq!(keys, ["v.example/a/later/deeper"]);
}

#[test]
fn for_want_of_room_the_oldest_go() {
    let mut site = Site::new();
    for sequence in 0..10 {
        serve_segments(&site.source(1), 0, sequence, sequence + 1, &[]);
        made_ago(&site.source(1), sequence, 60 - 2 * sequence);
        assert_eq!(site.taken().len(), 1);
    }
    assert_eq!(site.collector.evict_down_to(u64::MAX), 0);
    let one = ((PACKETS + 1) * PACKET_BYTES) as u64;
    assert_eq!(site.collector.evict_down_to(5 * one), 5);
    assert_eq!(site.collector.evict_down_to(0), 2);
    assert_eq!(site.index().0, [8, 9, 10]);
    assert_eq!(site.collector.streams(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever is written into a playlist: what lies elsewhere stays as it is, and every file that is taken was one.
    #[test]
    fn no_playlist_reaches_out_of_its_directory(lines in prop::collection::vec("(#EXTINF:2,|#EXT-X-DISCONTINUITY|#EXT-X-GAP|[0-5]\\.ts|\\.\\./[0-5]\\.ts|\\.\\./\\.\\./state|/dev/shm/x|\\PC{0,8})", 0..24), first in 0u64..4) {
        let mut site = Site::new();
        let source = site.source(1);
        serve_segments(&site.named_source(1, "__defaultVhost__/live/other"), 0, 0, 3, &[]);
        site.look();
        let parent = source.parent().unwrap().to_owned();
        for number in 0..6 {
            fs::write(parent.join(format!("{number}.ts")), media()).unwrap();
        }
        let outside = || tree_of(site.top.path()).into_iter().filter(|(path, _)| !path.starts_with(&source)).collect::<Vec<_>>();
        let before = outside();
        serve_segments(&source, 0, 0, 6, &[]);
        write_playlist(&source, first, &format!("{}\n", lines.join("\n")));
        let collected = site.collector.look(&[(1, 100)], now_ms(), &mut |_| Some(1));
        let hls = site.hls();
        let after: Vec<_> = tree_of(site.top.path()).into_iter().filter(|(path, _)| !path.starts_with(&source) && !path.starts_with(&hls)).collect();
        prop_assert_eq!(after, before);
        let finished: Vec<u64> = collected.iter().flat_map(|one| numbers(&one.finished)).collect();
        prop_assert_eq!(&finished, &(1..=finished.len() as u64).collect::<Vec<_>>());
        let there: Vec<u64> = serve::segments(&hls).unwrap().iter().map(|info| info.number).collect();
        prop_assert_eq!(there, finished);
    }
}
