//! What a real encoder sends, through log and segments, read back from the live index by a real player's demultiplexer.
//!
//! Needs `ffmpeg` and `ffprobe` on the path.

#![allow(clippy::unwrap_used)]

use super::{INDEX, Options, StreamSegmenter};
use braidcast_media::{StreamKey, flv};
use braidcast_stream_log::{LogOptions, Now, Reader, Root, Writer};
use std::path::Path;
use std::process::Command;

fn run(program: &str, arguments: &str, file: &Path) -> String {
    let path = file.to_str().unwrap();
    let output = Command::new(program).args(arguments.split_whitespace().map(|a| if a == "FILE" { path } else { a })).output();
    let output = output.unwrap_or_else(|error| panic!("{program} is needed: {error}"));
    assert!(output.status.success() && output.stderr.is_empty(), "{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Hashes of the decoded frames of one stream, in order.
fn decoded(file: &Path, stream: &str) -> Vec<String> {
    let out = run("ffmpeg", &format!("-v error -i FILE -map 0:{stream}:0 -fps_mode passthrough -f framehash -hash md5 -"), file);
    out.lines().filter(|line| !line.starts_with('#')).map(|line| line.rsplit(',').next().unwrap().trim().to_owned()).collect()
}

#[test]
fn a_published_file_is_what_a_player_gets_from_the_index() {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let source = directory.path().join("source.flv");
    let encode = "-v error -f lavfi -i testsrc2=size=320x180:rate=25 -f lavfi -i sine=frequency=440:sample_rate=44100 -t 12 \
                  -c:v libx264 -preset ultrafast -bf 2 -g 50 -c:a aac -f flv FILE";
    run("ffmpeg", encode, &source);
    let bytes = std::fs::read(&source).unwrap();
    let (root, key) = (Root::new(directory.path().to_owned()), StreamKey::new("v.example", "live", "x").unwrap());
    let mut time = Now { mono_ms: 1000, wall_ms: 1_769_860_800_000 };
    let mut writer = Writer::open(&root, &key, &LogOptions::default(), time).unwrap();
    writer.begin_publish(time).unwrap();
    let options = Options { fragment_ms: 2_000, window_ms: 60_000, retention_ms: 600_000, budget_bytes: 1 << 30 };
    let mut finished = 0;
    for (count, record) in flv::records(&bytes[flv::FILE_HEADER.len()..]).enumerate() {
        time.mono_ms = time.mono_ms.max(1000 + u64::from(record.header.timestamp_ms));
        time.wall_ms = 1_769_860_799_000 + time.mono_ms;
        writer.append(record.header.kind, record.header.timestamp_ms, record.payload, time).unwrap();
        if count % 5 == 0 {
            writer.commit(time).unwrap();
        }
        if count % 100 == 0 {
            // Another process each time: the last one was killed.
            let reader = Reader::open(&root, &key).unwrap().unwrap();
            let mut segmenter = StreamSegmenter::open(&root, &key, finished + 1, options).unwrap();
            finished = segmenter.pump(&reader, usize::MAX, &mut Vec::new()).unwrap().finished.last().map_or(finished, |info| info.number);
        }
    }
    writer.end_publish(time).unwrap();
    let reader = Reader::open(&root, &key).unwrap().unwrap();
    let mut segmenter = StreamSegmenter::open(&root, &key, finished + 1, options).unwrap();
    segmenter.pump(&reader, usize::MAX, &mut Vec::new()).unwrap();
    segmenter.end_stream();
    let index = root.hls_dir(&key).join(INDEX);
    assert_eq!(decoded(&index, "v"), decoded(&source, "v"));
    assert_eq!(decoded(&index, "a"), decoded(&source, "a"));
    assert_eq!(segmenter.store().segments().filter(|info| info.discontinuity).count(), 0);
    let length: f64 = run("ffprobe", "-v error -show_entries format=duration -of csv=p=0 FILE", &index).trim().parse().unwrap();
    assert!((length - 12.0).abs() < 0.1, "{length}");
}
