//! Segments of what a real encoder sends, read back by a real demultiplexer and decoder.
//!
//! For each source: decoded frame hashes and their order equal, per-frame timestamps equal up to one offset, no complaint from
//! ffprobe, and what the segments say of themselves adds up. Needs `ffmpeg` and `ffprobe` on the path.
#![allow(clippy::unwrap_used)]

use braidcast_media::{RecordKind, flv};
use braidcast_protocols::hls::{SegmentInfo, Segmenter, SegmenterOptions, SegmenterOutput, SegmenterState};
use braidcast_protocols::mpegts;
use std::fs;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

/// A directory of this test run, removed at its end.
fn scratch(name: &str) -> TempDir {
    tempfile::Builder::new().prefix(&format!("braidcast-segmenter-{name}-")).tempdir().unwrap()
}

/// Standard output and standard error of a command that must succeed.
fn run(program: &str, arguments: &str, files: &[(&str, &Path)]) -> (String, String) {
    let mut command = Command::new(program);
    for argument in arguments.split_whitespace() {
        match files.iter().find(|(name, _)| *name == argument) {
            Some((_, path)) => command.arg(path),
            None => command.arg(argument),
        };
    }
    let output = command.output().unwrap_or_else(|error| panic!("{program} is needed: {error}"));
    let (out, err) = (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned());
    assert!(output.status.success(), "{program} {arguments}: {err}");
    (out, err)
}

struct Segment {
    info: SegmentInfo,
    bytes: Vec<u8>,
}

fn drain(segmenter: &mut Segmenter, open: &mut Vec<u8>, segments: &mut Vec<Segment>) {
    while let Some(output) = segmenter.poll_output() {
        match output {
            SegmenterOutput::Started { .. } => open.clear(),
            SegmenterOutput::Bytes(bytes) => open.extend_from_slice(&bytes),
            SegmenterOutput::Finished(info) => segments.push(Segment { info, bytes: std::mem::take(open) }),
            SegmenterOutput::Unsupported(codec) => panic!("{codec:?} is not supported"),
        }
    }
}

fn segments_of(flv_bytes: &[u8], case: &Case) -> Vec<Segment> {
    let mut segmenter = Segmenter::new(SegmenterOptions::new(case.fragment_ms), SegmenterState::new("v/live/a", 1));
    let (mut open, mut segments) = (Vec::new(), Vec::new());
    for record in flv::records(&flv_bytes[flv::FILE_HEADER.len()..]) {
        segmenter.handle_record(record.header.kind, record.header.timestamp_ms.wrapping_add(case.shift_ms), record.payload, 0);
        drain(&mut segmenter, &mut open, &mut segments);
    }
    segmenter.finish();
    drain(&mut segmenter, &mut open, &mut segments);
    segments
}

/// Hashes of the decoded frames of one stream, in order.
fn decoded_hashes(file: &Path, stream: &str) -> Vec<String> {
    let arguments = format!("-v error -i FILE -map 0:{stream}:0 -fps_mode passthrough -f framehash -hash md5 -");
    let (out, _) = run("ffmpeg", &arguments, &[("FILE", file)]);
    out.lines().filter(|line| !line.starts_with('#')).map(|line| line.rsplit(',').next().unwrap().trim().to_owned()).collect()
}

/// Presentation times of the decoded frames of one stream, in 90 kHz ticks.
fn decoded_times(file: &Path, stream: &str) -> Vec<i64> {
    let arguments = format!("-v error -select_streams {stream}:0 -show_entries stream=time_base:frame=pts -of compact=p=1:nk=0 FILE");
    let (out, _) = run("ffprobe", &arguments, &[("FILE", file)]);
    let scale: i64 = 90_000 / out.split("time_base=1/").nth(1).unwrap().split(['|', '\n']).next().unwrap().parse::<i64>().unwrap();
    let times = out.lines().filter_map(|line| line.strip_prefix("frame|pts="));
    times.map(|pts| pts.split('|').next().unwrap().parse::<i64>().unwrap() * scale).collect()
}

/// Where a stream's first frame would be in the other file; equal for all streams of a file.
fn offset(source: &[i64], result: &[i64]) -> i64 {
    let offset = result[0] - source[0];
    let moved: Vec<_> = source.iter().map(|time| time + offset).collect();
    assert_eq!(moved, result, "timestamps equal up to one offset");
    offset
}

#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    /// ffmpeg's arguments between inputs and output.
    encode: &'static str,
    streams: &'static [&'static str],
    fragment_ms: u32,
    /// Segments expected.
    segments: usize,
    /// Added to the records' timestamps, modulo 2^32.
    shift_ms: u32,
    /// Added to the composition times, in the source file too.
    composition_ms: i32,
}

const PLAIN: Case = Case {
    name: "plain",
    encode: "-c:v libx264 -preset ultrafast -g 25 -c:a aac -ac 2",
    streams: &["v", "a"],
    fragment_ms: 2000,
    segments: 4,
    shift_ms: 0,
    composition_ms: 0,
};

const VIDEO: &str = "-f lavfi -i testsrc2=s=320x180:r=25:d=6.2";
const AUDIO: &str = "-f lavfi -i sine=440:r=44100:d=6.2";

/// Moves the composition times of all H.264 frames.
fn move_composition(flv_bytes: &mut [u8], by_ms: i32) {
    let places: Vec<usize> = flv::records(&flv_bytes[flv::FILE_HEADER.len()..])
        .filter(|record| record.header.kind == RecordKind::Video && record.payload.get(1) == Some(&1))
        .map(|record| flv::FILE_HEADER.len() + record.offset + flv::TAG_HEADER_BYTES + 2)
        .collect();
    for at in places {
        let before = i32::from_be_bytes([flv_bytes[at], flv_bytes[at + 1], flv_bytes[at + 2], 0]) >> 8;
        flv_bytes[at..at + 3].copy_from_slice(&(before + by_ms).to_be_bytes()[1..]);
    }
}

fn check(case: &Case) {
    let scratch = scratch(case.name);
    let (flv_path, ts_path) = (scratch.path().join("source.flv"), scratch.path().join("all.ts"));
    let inputs = [("v", VIDEO), ("a", AUDIO)].into_iter().filter(|(stream, _)| case.streams.contains(stream)).map(|(_, input)| input);
    let arguments = format!("-v error -y {} {} -f flv FLV", inputs.collect::<Vec<_>>().join(" "), case.encode);
    run("ffmpeg", &arguments, &[("FLV", &flv_path)]);
    let mut flv_bytes = fs::read(&flv_path).unwrap();
    if case.composition_ms != 0 {
        move_composition(&mut flv_bytes, case.composition_ms);
        fs::write(&flv_path, &flv_bytes).unwrap();
    }

    let segments = segments_of(&flv_bytes, case);
    fs::write(&ts_path, segments.iter().flat_map(|segment| segment.bytes.iter().copied()).collect::<Vec<_>>()).unwrap();
    check_infos(case, &flv_bytes, &segments);

    let (_, complaints) = run("ffprobe", "-v warning -show_packets -show_streams FILE", &[("FILE", &ts_path)]);
    // The first negative composition time moves decoding times back once: it could not be foreseen.
    let once = usize::from(case.composition_ms < 0);
    let (foreseen, others): (Vec<_>, Vec<_>) = complaints.lines().partition(|line| line.contains("out of order"));
    assert!(others.is_empty() && foreseen.len() <= once, "ffprobe complains: {complaints}");
    let mut offsets = Vec::new();
    for stream in case.streams {
        let hashes = decoded_hashes(&flv_path, stream);
        assert!(hashes.len() > 100, "a source worth testing");
        assert_eq!(hashes, decoded_hashes(&ts_path, stream), "decoded frames of {stream}");
        offsets.push(offset(&decoded_times(&flv_path, stream), &decoded_times(&ts_path, stream)));
    }
    assert!(offsets.iter().all(|offset| *offset == offsets[0]), "one offset for all streams: {offsets:?}");
}

/// The segments' own words, against the FLV file and against their PTS.
fn check_infos(case: &Case, flv_bytes: &[u8], segments: &[Segment]) {
    assert_eq!(segments.len(), case.segments);
    let mut end = segments[0].info.media_start_90k;
    for (number, segment) in (1..).zip(segments) {
        let info = &segment.info;
        assert_eq!(SegmentInfo::of_segment(&segment.bytes).as_ref(), Some(info), "the last packet");
        assert_eq!((info.number, info.discontinuity, info.media_start_90k), (number, false, end));
        assert_eq!(info.duration_90k, info.media_end_90k - info.media_start_90k);
        assert!(info.independent);
        end = info.media_end_90k;
        let scanned = mpegts::scan(&segment.bytes).unwrap();
        // The last one ends with its last audio frame, which the scan does not look at if there is video.
        let difference = if number as usize == case.segments { 0 } else { scanned.duration_90k.abs_diff(info.duration_90k) };
        assert!(difference < 4500, "segment {number}: scan says {} and the packet {}", scanned.duration_90k, info.duration_90k);
        assert_eq!((scanned.has_video, scanned.has_audio), (case.streams.contains(&"v"), case.streams.contains(&"a")));
    }
    let header = |record: &flv::Record<'_>| matches!(record.payload, [0xaf, 0, ..] | [0x17, 0 | 2, ..]);
    let media = |record: &flv::Record<'_>| record.header.kind != RecordKind::Data && !header(record);
    let times = flv::records(&flv_bytes[flv::FILE_HEADER.len()..]).filter(media).map(|record| u64::from(record.header.timestamp_ms));
    let (first, last) = times.fold((u64::MAX, 0), |(first, last), time| (first.min(time), last.max(time)));
    let (first, last) = ((first + u64::from(case.shift_ms)) * 90, (last + u64::from(case.shift_ms)) * 90);
    assert_eq!(segments[0].info.media_start_90k, first);
    assert!((last..last + 9000).contains(&end), "the segments end at {end}, the last frame starts at {last}");
}

#[test]
fn video_and_audio() {
    check(&PLAIN);
}

#[test]
fn b_frames() {
    let encode = "-c:v libx264 -preset fast -bf 3 -b_strategy 0 -g 50 -c:a aac -ar 48000";
    check(&Case { name: "b-frames", encode, ..PLAIN });
}

#[test]
fn negative_composition_times() {
    let encode = "-c:v libx264 -preset fast -bf 3 -b_strategy 0 -g 50 -c:a aac -ar 48000";
    check(&Case { name: "negative", encode, composition_ms: -80, ..PLAIN });
}

#[test]
fn a_wrap_of_the_transport_streams_clock() {
    let shift_ms = ((1_u64 << 33) / 90) as u32 - 10_000 - 3000; // 3 s before PTS wrap
    check(&Case { name: "wrap-33", shift_ms, ..PLAIN });
}

#[test]
fn a_wrap_of_flvs_clock() {
    check(&Case { name: "wrap-32", shift_ms: u32::MAX - 2999, ..PLAIN });
}

#[test]
fn open_gop() {
    let encode = "-c:v libx264 -preset fast -x264-params open-gop=1:bframes=3:keyint=30:min-keyint=30:scenecut=0 -c:a aac";
    check(&Case { name: "open-gop", encode, fragment_ms: 1000, segments: 6, ..PLAIN });
}

#[test]
fn half_second_gop() {
    let encode = "-c:v libx264 -preset ultrafast -g 12 -keyint_min 12 -c:a aac";
    check(&Case { name: "short-gop", encode, fragment_ms: 500, segments: 7, ..PLAIN });
}

#[test]
fn all_intra() {
    let encode = "-c:v libx264 -preset ultrafast -g 1 -b:v 4M -c:a aac";
    check(&Case { name: "all-intra", encode, fragment_ms: 1000, segments: 7, ..PLAIN });
}

#[test]
fn video_only() {
    check(&Case { name: "video", encode: "-c:v libx264 -bf 2 -preset fast -g 50", streams: &["v"], ..PLAIN });
}

#[test]
fn audio_only() {
    check(&Case { name: "audio", encode: "-c:a aac", streams: &["a"], ..PLAIN });
}

#[test]
fn mp3_with_video() {
    check(&Case { name: "mp3", encode: "-c:v libx264 -preset ultrafast -g 25 -c:a libmp3lame -ar 44100", ..PLAIN });
}

#[test]
fn mp3_only() {
    check(&Case { name: "mp3-only", encode: "-c:a libmp3lame -ar 22050", streams: &["a"], ..PLAIN });
}

#[test]
fn every_segment_decodes_alone() {
    let scratch = scratch("alone");
    let flv_path = scratch.path().join("source.flv");
    run("ffmpeg", &format!("-v error -y {VIDEO} {AUDIO} {} -f flv FLV", PLAIN.encode), &[("FLV", &flv_path)]);
    let mut hashes = Vec::new();
    for segment in segments_of(&fs::read(&flv_path).unwrap(), &PLAIN) {
        let path = scratch.path().join(format!("{}.ts", segment.info.number));
        fs::write(&path, &segment.bytes).unwrap();
        let (_, complaints) = run("ffmpeg", "-v warning -i FILE -f null -", &[("FILE", &path)]);
        assert_eq!(complaints, "", "segment {}", segment.info.number);
        hashes.extend(decoded_hashes(&path, "v"));
    }
    assert_eq!(hashes, decoded_hashes(&flv_path, "v"));
}

#[test]
fn segments_of_ffmpegs_own_are_measured_as_its_index_says() {
    let scratch = scratch("foreign");
    let index = scratch.path().join("index.m3u8");
    let encode = "-c:v libx264 -preset fast -bf 3 -g 50 -c:a aac -hls_time 2 -hls_list_size 0 -f hls";
    run("ffmpeg", &format!("-v error -y {VIDEO} {AUDIO} {encode} INDEX"), &[("INDEX", &index)]);
    let text = fs::read_to_string(&index).unwrap();
    let lengths: Vec<f64> = text.lines().filter_map(|line| line.strip_prefix("#EXTINF:")?.trim_end_matches(',').parse().ok()).collect();
    assert_eq!(lengths.len(), 4);
    for (number, length) in lengths.iter().enumerate() {
        let bytes = fs::read(scratch.path().join(format!("index{number}.ts"))).unwrap();
        let scanned = mpegts::scan(&bytes).unwrap();
        assert!((scanned.duration_90k as f64 / 90_000.0 - length).abs() < 0.001, "{scanned:?} for {length} s");
        assert!(SegmentInfo::of_segment(&bytes).is_none());
    }
}
