//! The driver over real logs: restarts, evictions, changes of the publisher, lost segments.

#![allow(clippy::unwrap_used)]

use super::super::INDEX;
use super::super::scan::scan;
use super::*;
use RecordKind::{Audio, Video};
use braidcast_stream_log::{LogOptions, Now, Writer};
use std::collections::BTreeMap;
use std::fs;
use tempfile::TempDir;

const AVC: &[u8] = b"\x17\0\0\0\0\x01\x64\0\x1f\xff\xe1\0\x01\x67\x01\0\x01\x68";
const AVC_OTHER: &[u8] = b"\x17\0\0\0\0\x01\x64\0\x20\xff\xe1\0\x02\x67\x01\x01\0\x01\x68";
const AAC: &[u8] = b"\xaf\0\x12\x10";
const KEY: &[u8] = b"\x17\x01\0\0\0\0\0\0\x02\x65k";
const DELTA: &[u8] = b"\x27\x01\0\0\0\0\0\0\x02\x41d";
const SOUND: &[u8] = b"\xaf\x01sound";
const WALL_MS: u64 = 1_769_860_800_000;

/// A stream: its log's writer, and how far its clock is.
struct Stream {
    _directory: TempDir,
    root: Root,
    key: StreamKey,
    writer: Writer,
    now_ms: u64,
}

const LOG: LogOptions =
    LogOptions { block_min_ms: 2_000, block_max_ms: 10_000, block_max_bytes: 1 << 20, keep_ms: 20_000, budget_bytes: 8 << 20 };
const OPTIONS: Options = Options { fragment_ms: 2_000, window_ms: 12_000, retention_ms: 600_000, budget_bytes: 1 << 30 };

impl Stream {
    fn new() -> Self {
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        let root = Root::new(directory.path().to_owned());
        let key = StreamKey::new("v.example", "live", "x").unwrap();
        let writer = Writer::open(&root, &key, &LOG, now(0)).unwrap();
        Self { _directory: directory, root, key, writer, now_ms: 0 }
    }

    fn begin(&mut self) {
        self.writer.begin_publish(now(self.now_ms)).unwrap();
        self.headers(AVC);
    }

    fn headers(&mut self, video: &[u8]) {
        self.append(Video, 0, video);
        self.append(Audio, 0, AAC);
    }

    fn append(&mut self, kind: RecordKind, timestamp_ms: u32, payload: &[u8]) {
        self.writer.append(kind, timestamp_ms, payload, now(self.now_ms)).unwrap();
    }

    /// Publishes both tracks, a keyframe every second, the time going on with the media.
    fn publish(&mut self, from_ms: u32, to_ms: u32) {
        for time in (from_ms..to_ms).step_by(20) {
            if time % 40 == 0 {
                self.append(Video, time, if time % 1000 == 0 { KEY } else { DELTA });
            }
            self.append(Audio, time, SOUND);
            self.now_ms += 20;
            self.writer.commit(now(self.now_ms)).unwrap();
        }
    }

    fn end_publish(&mut self) {
        self.writer.end_publish(now(self.now_ms)).unwrap();
    }

    fn reader(&self) -> Reader {
        Reader::open(&self.root, &self.key).unwrap().unwrap()
    }

    fn segmenter(&self, floor: u64) -> StreamSegmenter {
        StreamSegmenter::open(&self.root, &self.key, floor, OPTIONS).unwrap()
    }

    fn hls(&self) -> std::path::PathBuf {
        self.root.hls_dir(&self.key)
    }

    fn index(&self) -> String {
        fs::read_to_string(self.hls().join(INDEX)).unwrap()
    }

    /// All files of the directory that a viewer can reach.
    fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let entries = fs::read_dir(self.hls()).unwrap().map(|entry| entry.unwrap().path());
        let visible =
            entries.filter(|path| !path.file_name().unwrap().to_str().unwrap().starts_with('.') && path.file_name().unwrap() != "state");
        visible.map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(&path).unwrap())).collect()
    }

    /// Number, length in milliseconds, discontinuity of each segment.
    fn cuts(&self) -> Vec<(u64, u64, bool)> {
        let scan = scan(&self.hls()).unwrap();
        assert_eq!(scan.skipped, []);
        scan.segments.iter().map(|found| (found.info.number, found.info.duration_90k / 90, found.info.discontinuity)).collect()
    }
}

fn now(ms: u64) -> Now {
    Now { mono_ms: 1000 + ms, wall_ms: WALL_MS + ms }
}

fn pump_all(segmenter: &mut StreamSegmenter, reader: &Reader, budget_bytes: usize) -> Vec<SegmentInfo> {
    let mut finished = Vec::new();
    loop {
        let pumped = segmenter.pump(reader, budget_bytes, &mut Vec::new()).unwrap();
        finished.extend(pumped.finished);
        if !pumped.more {
            return finished;
        }
    }
}

#[test]
fn a_stream_is_cut_numbered_and_indexed() {
    let mut stream = Stream::new();
    stream.begin();
    stream.publish(0, 9_000);
    let mut segmenter = stream.segmenter(1);
    let finished = pump_all(&mut segmenter, &stream.reader(), usize::MAX);
    assert_eq!(finished.iter().map(|info| info.number).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert_eq!(finished[1].stream, "v.example/live/x");
    assert_eq!((finished[1].wall_start_ms, finished[1].wall_end_ms), (WALL_MS + 2000, WALL_MS + 4000));
    assert_eq!(segmenter.next_number(), 5);
    assert_eq!(segmenter.position(), stream.reader().commit());
    stream.end_publish();
    assert!(pump_all(&mut segmenter, &stream.reader(), usize::MAX).is_empty());
    assert_eq!(segmenter.end_stream().len(), 1);
    assert_eq!(stream.cuts(), [(1, 2000, false), (2, 2000, false), (3, 2000, false), (4, 2000, false), (5, 1000, false)]);
    assert!(stream.index().ends_with("\n5.ts\n#EXT-X-ENDLIST\n"));
    // Ended it stays, over a restart too.
    fs::remove_file(stream.hls().join(INDEX)).unwrap();
    let mut segmenter = stream.segmenter(6);
    pump_all(&mut segmenter, &stream.reader(), usize::MAX);
    assert!(stream.index().ends_with("\n5.ts\n#EXT-X-ENDLIST\n"));
    // Who comes when the publisher is back, before its first segment is finished, waits for it.
    stream.begin();
    stream.publish(0, 500);
    pump_all(&mut segmenter, &stream.reader(), usize::MAX);
    assert!(stream.index().ends_with("\n5.ts\n"));
}

#[test]
fn a_segmenter_that_dies_at_any_moment_leaves_the_same_files() {
    let mut stream = Stream::new();
    stream.begin();
    stream.publish(0, 7_000);
    stream.headers(AVC_OTHER);
    stream.publish(7_000, 12_000);
    stream.end_publish();
    stream.begin();
    stream.publish(0, 6_000);
    stream.end_publish();
    let reader = stream.reader();
    let whole = {
        let mut segmenter = stream.segmenter(1);
        pump_all(&mut segmenter, &reader, usize::MAX);
        segmenter.finish_publish();
        stream.files()
    };
    assert!(whole.len() > 8 && stream.cuts().iter().filter(|cut| cut.2).count() == 2, "{:?}", stream.cuts());
    for budget in [1, 700, 5_000, 40_000] {
        fs::remove_dir_all(stream.hls()).unwrap();
        let mut floor = 1;
        // A segmenter that never gets far enough to finish a segment would never come to an end: each lives a little longer.
        for life in 1.. {
            let mut segmenter = stream.segmenter(floor);
            let mut more = true;
            for _ in 0..life * 3 {
                let pumped = segmenter.pump(&reader, budget, &mut Vec::new()).unwrap();
                floor = pumped.finished.last().map_or(floor, |info| info.number + 1);
                more = pumped.more;
                if !more {
                    break;
                }
            }
            if !more {
                segmenter.finish_publish();
                break;
            }
        }
        assert!(stream.files() == whole, "budget {budget}: {:?}", stream.cuts());
    }
}

#[test]
fn a_state_that_is_one_segment_late_costs_nothing() {
    let mut stream = Stream::new();
    stream.begin();
    stream.publish(0, 5_000);
    let mut segmenter = stream.segmenter(1);
    pump_all(&mut segmenter, &stream.reader(), usize::MAX);
    let late = fs::read(stream.hls().join("state")).unwrap();
    stream.publish(5_000, 7_000);
    pump_all(&mut segmenter, &stream.reader(), usize::MAX);
    let whole = stream.files();
    fs::write(stream.hls().join("state"), late).unwrap();
    let mut segmenter = stream.segmenter(4);
    assert_eq!(pump_all(&mut segmenter, &stream.reader(), usize::MAX).iter().map(|info| info.number).collect::<Vec<_>>(), [3]);
    assert_eq!(stream.files(), whole);
}

#[test]
fn a_publisher_that_is_back_is_a_discontinuity_and_numbers_go_on() {
    let mut stream = Stream::new();
    stream.begin();
    stream.publish(0, 3_000);
    let mut segmenter = stream.segmenter(1);
    pump_all(&mut segmenter, &stream.reader(), usize::MAX);
    stream.end_publish();
    segmenter.finish_publish();
    stream.now_ms += 5_000;
    stream.begin();
    stream.publish(0, 3_000);
    pump_all(&mut segmenter, &stream.reader(), usize::MAX);
    assert_eq!(stream.cuts(), [(1, 2000, false), (2, 1000, false), (3, 2000, true)]);
    let infos: Vec<_> = segmenter.store().segments().cloned().collect();
    assert_eq!(infos[2].wall_start_ms, WALL_MS + 8_000);
    assert_eq!(infos[2].discontinuity_sequence, 1);
}

#[test]
fn another_codec_is_a_discontinuity_and_other_metadata_is_none() {
    let mut stream = Stream::new();
    stream.begin();
    stream.append(RecordKind::Data, 0, b"\x02\0\x0aonMetaData\x08\0\0\0\0\0\0\x09");
    stream.publish(0, 3_000);
    stream.append(RecordKind::Data, 3_000, b"\x02\0\x0aonMetaData\x08\0\0\0\x01\0\x01a\x05\0\0\x09");
    stream.publish(3_000, 5_000);
    stream.headers(AVC_OTHER);
    stream.publish(5_000, 8_000);
    pump_all(&mut stream.segmenter(1), &stream.reader(), 1000);
    let cuts = stream.cuts();
    assert_eq!(cuts.iter().filter(|cut| cut.2).count(), 1, "{cuts:?}");
    assert!(stream.reader().generation() > 1);
}

#[test]
fn evicted_blocks_are_a_discontinuity() {
    let mut stream = Stream::new();
    stream.begin();
    stream.publish(0, 5_000);
    let mut segmenter = stream.segmenter(1);
    pump_all(&mut segmenter, &stream.reader(), usize::MAX);
    stream.publish(5_000, 60_000);
    assert!(stream.reader().oldest_block() > segmenter.position().block);
    pump_all(&mut segmenter, &stream.reader(), usize::MAX);
    let cuts = stream.cuts();
    assert_eq!(cuts.iter().filter(|cut| cut.2).count(), 1, "{cuts:?}");
    assert!(cuts.windows(2).all(|pair| pair[0].0 + 1 == pair[1].0));
    // The same for one that was not there meanwhile.
    stream.publish(60_000, 120_000);
    let mut segmenter = stream.segmenter(1);
    pump_all(&mut segmenter, &stream.reader(), usize::MAX);
    let cuts = stream.cuts();
    assert_eq!(cuts.iter().filter(|cut| cut.2).count(), 2, "{cuts:?}");
    assert!(cuts.windows(2).all(|pair| pair[0].0 + 1 == pair[1].0));
}

#[test]
fn numbers_never_fall_below_the_floor_or_the_segments_that_are_there() {
    let mut stream = Stream::new();
    stream.begin();
    stream.publish(0, 5_000);
    pump_all(&mut stream.segmenter(100), &stream.reader(), usize::MAX);
    assert_eq!(stream.cuts(), [(100, 2000, true), (101, 2000, false)]);
    // Without a state: after the highest, and nothing of the log twice.
    fs::remove_file(stream.hls().join("state")).unwrap();
    let mut segmenter = stream.segmenter(7);
    stream.publish(5_000, 7_000);
    pump_all(&mut segmenter, &stream.reader(), usize::MAX);
    let cuts = stream.cuts();
    assert_eq!(cuts[2..], [(102, 2000, true)], "{cuts:?}");
    let infos: Vec<_> = segmenter.store().segments().cloned().collect();
    assert!(infos[2].media_start_90k >= infos[1].media_end_90k);
    // A floor beyond what is known of.
    let mut segmenter = stream.segmenter(500);
    stream.publish(7_000, 10_000);
    pump_all(&mut segmenter, &stream.reader(), usize::MAX);
    assert_eq!(stream.cuts().last().unwrap().0, 500);
    assert!(stream.index().contains("#EXT-X-MEDIA-SEQUENCE:500\n"));
}

#[test]
fn a_state_of_another_log_is_not_trusted() {
    let mut stream = Stream::new();
    stream.begin();
    stream.publish(0, 9_000);
    pump_all(&mut stream.segmenter(1), &stream.reader(), usize::MAX);
    let mut other = Stream::new();
    other.begin();
    other.publish(0, 5_000);
    fs::create_dir_all(other.hls()).unwrap();
    for (name, bytes) in stream.files() {
        fs::write(other.hls().join(name), bytes).unwrap();
    }
    fs::copy(stream.hls().join("state"), other.hls().join("state")).unwrap();
    let mut segmenter = other.segmenter(1);
    other.publish(5_000, 9_000);
    pump_all(&mut segmenter, &other.reader(), usize::MAX);
    let cuts = other.cuts();
    assert_eq!(cuts.len(), 8, "all of the other log follows");
    assert_eq!(cuts.iter().filter(|cut| cut.2).count(), 1);
    assert!(cuts[4].2 && cuts.windows(2).all(|pair| pair[0].0 + 1 == pair[1].0), "{cuts:?}");
}

#[test]
fn a_lost_segment_leaves_no_hole_in_the_numbers() {
    let mut stream = Stream::new();
    stream.begin();
    stream.publish(0, 4_500);
    let mut segmenter = stream.segmenter(1);
    pump_all(&mut segmenter, &stream.reader(), usize::MAX);
    // The third segment cannot take its name for a while.
    fs::create_dir(stream.hls().join("3.ts")).unwrap();
    stream.publish(4_500, 9_000);
    assert!(pump_all(&mut segmenter, &stream.reader(), usize::MAX).is_empty());
    assert!(segmenter.store().counters().lost > 0);
    assert_eq!(segmenter.next_number(), 3);
    fs::remove_dir(stream.hls().join("3.ts")).unwrap();
    stream.publish(9_000, 12_000);
    pump_all(&mut segmenter, &stream.reader(), usize::MAX);
    let cuts = stream.cuts();
    assert_eq!(cuts.iter().map(|cut| (cut.0, cut.2)).collect::<Vec<_>>(), [(1, false), (2, false), (3, true)]);
}

#[test]
fn it_is_due_when_a_segment_may_end_and_otherwise_seldom() {
    let mut stream = Stream::new();
    stream.begin();
    stream.publish(0, 1_000);
    let (mut segmenter, reader) = (stream.segmenter(1), stream.reader());
    let (mut due_at, mut finished) = (Vec::new(), Vec::new());
    let mut pump = |segmenter: &mut StreamSegmenter, at_ms: u32| {
        if segmenter.is_due(&reader) {
            due_at.push(at_ms);
            let pumped = segmenter.pump(&reader, usize::MAX, &mut Vec::new()).unwrap();
            finished.extend(pumped.finished.into_iter().map(|info| (at_ms, info.number)));
            assert!(!segmenter.is_due(&reader), "it has read all");
        }
    };
    for at_ms in (1_000..9_000).step_by(100) {
        pump(&mut segmenter, at_ms);
        stream.publish(at_ms, at_ms + 100);
    }
    // As soon as with a pump at each step: the keyframe at 2,000 ms is in the log when the next step begins.
    assert_eq!(finished, [(2_100, 1), (4_100, 2), (6_100, 3), (8_100, 4)]);
    assert!(due_at.len() <= 2 * 8 + 4, "{due_at:?}");
}
