//! Every codec that transport streams carry, as a real encoder sends it: in segments, and in blocks for live viewers that are each
//! rendered by themselves. Real demultiplexers and decoders say whether that is right.
//!
//! Needs `ffmpeg`, `ffprobe`, GStreamer, VLC, and the newest ffmpeg, which alone writes these codecs into FLV (`make test` brings it).
#![allow(clippy::unwrap_used)]

use braidcast_media::{RecordKind, TagInfo, flv};
use braidcast_protocols::hls::{Segmenter, SegmenterOptions, SegmenterOutput, SegmenterState};
use braidcast_protocols::mpegts::{Form, LiveMuxer, Survey};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// The newest ffmpeg.
fn next() -> String {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/ffmpeg-next/ffmpeg");
    let path = std::env::var_os("BRAIDCAST_TEST_FFMPEG_NEXT").map_or_else(default, PathBuf::from);
    assert!(path.exists(), "no {}: `make test` brings it, or name one by BRAIDCAST_TEST_FFMPEG_NEXT", path.display());
    path.to_string_lossy().into_owned()
}

/// Standard output and standard error of a command that must succeed; FILE stands for the file.
fn run(program: &str, arguments: &str, file: &Path) -> (String, String) {
    let mut command = Command::new("timeout");
    command.args(["-k", "2", "120", program]);
    for argument in arguments.split_whitespace() {
        command.arg(argument.replace("FILE", &file.to_string_lossy()));
    }
    let output = command.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned());
    assert!(output.status.success(), "{program} {arguments}: {err}");
    (out, err)
}

struct Case {
    /// Names of the codecs as ffprobe has them.
    video: Option<&'static str>,
    audio: &'static str,
    /// ffmpeg's arguments for the encoders.
    encode: String,
    rate: u32,
}

const X264: &str = "-c:v libx264 -preset ultrafast -g 25 -bf 2 -threads 1 -sc_threshold 0";
const X265: &str =
    "-c:v libx265 -preset ultrafast -x265-params log-level=none:pools=1:frame-threads=1:bframes=2:scenecut=0:keyint=25:min-keyint=25";

/// A source in a directory of its own, removed at its end.
struct Source {
    directory: TempDir,
    flv: PathBuf,
    bytes: Vec<u8>,
}

impl Source {
    fn new(name: &str, case: &Case) -> Self {
        let directory = tempfile::Builder::new().prefix(&format!("braidcast-ts-{name}-")).tempdir().unwrap();
        let flv = directory.path().join("source.flv");
        let picture = if case.video.is_some() { "-f lavfi -i testsrc2=s=320x180:r=25:d=6.2" } else { "" };
        let tone = format!("-f lavfi -i sine=440:r={}:d=6.2", case.rate);
        run(&next(), &format!("-v error -y {picture} {tone} {} -f flv FILE", case.encode), &flv);
        let bytes = fs::read(&flv).unwrap();
        Self { directory, flv, bytes }
    }

    fn records(&self) -> impl Iterator<Item = flv::Record<'_>> {
        flv::records(&self.bytes[flv::FILE_HEADER.len()..])
    }

    /// The stream's segments, one after the other.
    fn segments(&self) -> Vec<u8> {
        let mut segmenter = Segmenter::new(SegmenterOptions::new(2000), SegmenterState::new("v/live/a", 1));
        let (mut all, mut finished) = (Vec::new(), 0);
        let mut drain = |segmenter: &mut Segmenter| {
            while let Some(output) = segmenter.poll_output() {
                match output {
                    SegmenterOutput::Started { .. } => {}
                    SegmenterOutput::Bytes(bytes) => all.extend_from_slice(&bytes),
                    SegmenterOutput::Finished(info) => {
                        assert!(!info.discontinuity);
                        finished += 1;
                    }
                    SegmenterOutput::Unsupported(codec) => panic!("{codec} is left out"),
                }
            }
        };
        for record in self.records() {
            segmenter.handle_record(record.header.kind, record.header.timestamp_ms, record.payload, 0);
            drain(&mut segmenter);
        }
        segmenter.finish();
        drain(&mut segmenter);
        assert_eq!(finished, 4);
        all
    }

    /// The stream's blocks as the log cuts them, each rendered by itself; and where its keyframes begin.
    fn blocks(&self, shift_ms: u32) -> (Vec<u8>, Vec<usize>) {
        let header = |record: &flv::Record<'_>| {
            record.header.kind == RecordKind::Data || TagInfo::of(record.header.kind, record.payload).header.is_some()
        };
        let prefix: Vec<_> = self.records().filter(header).collect();
        let start = |generation| {
            let (mut muxer, mut out) = (LiveMuxer::new(generation), Vec::new());
            prefix.iter().for_each(|record| muxer.record(&mut out, record.header.kind, 0, record.payload));
            assert!(out.is_empty(), "a prefix gives no bytes");
            muxer
        };
        let has_video = prefix.iter().any(|record| record.header.kind == RecordKind::Video);
        let (mut muxer, mut out, mut block_ms, mut starts) = (start(1), Vec::new(), 0, Vec::new());
        for record in self.records().filter(|record| !header(record)) {
            let keyframe = TagInfo::of(record.header.kind, record.payload).keyframe;
            if record.header.timestamp_ms >= block_ms + 2000 && (keyframe || !has_video) {
                muxer = start(1);
                block_ms = record.header.timestamp_ms;
            }
            if keyframe {
                starts.push(out.len());
            }
            muxer.record(&mut out, record.header.kind, record.header.timestamp_ms.wrapping_add(shift_ms), record.payload);
        }
        assert!(block_ms >= 4000, "several blocks");
        (out, starts)
    }
}

/// Hashes of the decoded frames of one stream, in order.
fn decoded(file: &Path, stream: &str) -> Vec<String> {
    let arguments = format!("-v error -i FILE -map 0:{stream}:0 -fps_mode passthrough -f framehash -hash md5 -");
    let (out, _) = run(&next(), &arguments, file);
    out.lines().filter(|line| !line.starts_with('#')).map(|line| line.rsplit(',').next().unwrap().trim().to_owned()).collect()
}

/// Decoding and presentation times of the packets of one stream, in 90 kHz ticks, modulo 2^33.
fn times(file: &Path, stream: &str) -> Vec<(i64, i64)> {
    let (out, _) = run(&next(), &format!("-v error -copyts -i FILE -map 0:{stream}:0 -c copy -f framecrc -"), file);
    let scale: i64 = out.lines().find_map(|line| line.strip_prefix("#tb 0: 1/")).unwrap().parse().unwrap();
    let packet = |line: &str| {
        let mut fields = line.split(',').skip(1).map(|field| field.trim().parse::<i64>().unwrap_or_default());
        let mut ticks = || (fields.next().unwrap() * 90_000 / scale).rem_euclid(1 << 33);
        (ticks(), ticks())
    };
    // ffmpeg makes an empty packet of a tag that tells the layout of channels.
    out.lines().filter(|line| !line.starts_with('#') && !line.contains(" 0, 0x00000000")).map(packet).collect()
}

/// Counters, clock references: what an analyser looks at.
fn analyse(bytes: &[u8]) {
    assert_eq!(bytes.len() % 188, 0);
    let (mut counters, mut clock) = (HashMap::new(), None);
    for (index, packet) in bytes.chunks(188).enumerate() {
        assert_eq!(packet[0], 0x47);
        let pid = u16::from_be_bytes([packet[1] & 0x1f, packet[2]]);
        if pid == 0x1fff {
            continue;
        }
        let flags = if packet[3] & 0x20 != 0 && packet[4] > 0 { packet[5] } else { 0 };
        let payload = u8::from(packet[3] & 0x10 != 0);
        let before = counters.insert(pid, packet[3] & 15);
        let continues = before.is_none_or(|before: u8| (before + payload) & 15 == packet[3] & 15);
        assert!(continues || flags & 0x80 != 0, "packet {index}: the counter of PID {pid:#x} jumps");
        if flags & 0x10 != 0 {
            assert_eq!(flags & 0x80, 0, "a clock reference that says that the clock has changed");
            let now = u64::from_be_bytes(packet[4..12].try_into().unwrap()) << 16 >> 31;
            let passed = clock.replace(now).map_or(0, |before: u64| now.wrapping_sub(before) & ((1 << 33) - 1));
            assert!(passed <= 9000, "packet {index}: {passed} ticks between two clock references");
        }
    }
    assert!(clock.is_some());
}

fn check(name: &str, case: &Case) {
    let source = Source::new(name, case);
    let mut survey = Survey::default();
    source.records().for_each(|record| survey.record(record.header.kind, record.header.timestamp_ms, record.payload));
    assert_eq!(survey.left_out_by(Form::Ts).count(), 0);

    let (live, keyframes) = source.blocks(0);
    for (form, bytes) in [("segments", source.segments()), ("blocks", live.clone())] {
        let file = source.directory.path().join(format!("{form}.ts"));
        fs::write(&file, &bytes).unwrap();
        analyse(&bytes);
        compare(case, &source, &file);
        check_with_gstreamer(case, &file);
    }
    if let Some(start) = keyframes.get(3) {
        // Behind the beginning of a block.
        let file = source.directory.path().join("late.ts");
        fs::write(&file, &live[*start..]).unwrap();
        say_nothing(case, &file);
        let pictures = decoded(&source.flv, "v");
        assert_eq!(decoded(&file, "v"), pictures[75..], "a viewer who comes at a keyframe");
    }
}

/// Neither ffprobe nor ffmpeg complains, and both find the codecs.
fn say_nothing(case: &Case, file: &Path) {
    let (streams, complaints) = run("ffprobe", "-v warning -show_packets -show_streams FILE", file);
    assert_eq!(complaints, "", "ffprobe complains of {}", file.display());
    let codecs: Vec<&str> = streams.lines().filter_map(|line| line.strip_prefix("codec_name=")).collect();
    assert_eq!(codecs, case.video.into_iter().chain([case.audio]).collect::<Vec<_>>());
    let (_, complaints) = run(&next(), "-v warning -i FILE -map 0 -f null -", file);
    assert_eq!(complaints, "", "ffmpeg complains of {}", file.display());
}

fn compare(case: &Case, source: &Source, file: &Path) {
    say_nothing(case, file);
    let mut offsets = Vec::new();
    for stream in case.video.map(|_| "v").into_iter().chain(["a"]) {
        let (hashes, before) = (decoded(&source.flv, stream), times(&source.flv, stream));
        assert!(hashes.len() > 100, "a source worth testing");
        let (found, after) = (decoded(file, stream), times(file, stream));
        // Of Opus's first frame FLV's reader leaves out the encoder's pre-skip; a transport stream does not say it.
        let trimmed = usize::from(stream == "a" && case.audio == "opus");
        assert!(
            hashes[trimmed..] == found[trimmed..],
            "decoded frames of {stream} in {}: {} and {}",
            file.display(),
            hashes.len(),
            found.len()
        );
        let offset = (after[0].1 - before[0].1).rem_euclid(1 << 33);
        let moved = before.iter().map(|(dts, pts)| ((dts + offset) % (1 << 33), (pts + offset) % (1 << 33))).collect::<Vec<_>>();
        let other = moved.iter().zip(&after).position(|(before, after)| before != after);
        assert!(moved == after, "times of {stream} in {}: {other:?} of {}, {}", file.display(), moved.len(), after.len());
        offsets.push(offset);
    }
    assert!(offsets.iter().all(|offset| *offset == offsets[0]), "one offset for all: {offsets:?}");
}

/// GStreamer's demultiplexer finds both streams and its decoders take them to the end.
fn check_with_gstreamer(case: &Case, file: &Path) {
    let video = if case.video.is_some() { "d. ! queue ! video/x-raw ! fakesink" } else { "" };
    let pipeline = format!("-q filesrc location=FILE ! decodebin name=d {video} d. ! queue ! audio/x-raw ! fakesink");
    let (_, complaints) = run("gst-launch-1.0", &pipeline, file);
    assert!(!complaints.contains("WARN") && !complaints.contains("ERROR"), "{complaints}");
}

#[test]
fn hevc_with_aac() {
    check("hevc-aac", &Case { video: Some("hevc"), audio: "aac", encode: format!("{X265} -c:a aac -ac 2"), rate: 44_100 });
}

#[test]
fn hevc_with_opus() {
    check("hevc-opus", &Case { video: Some("hevc"), audio: "opus", encode: format!("{X265} -c:a libopus -ac 2"), rate: 48_000 });
}

#[test]
fn h264_with_opus_of_six_channels() {
    let encode = format!("{X264} -c:a libopus -ac 6 -mapping_family 1");
    check("opus-6", &Case { video: Some("h264"), audio: "opus", encode, rate: 48_000 });
}

#[test]
fn h264_with_ac3() {
    check("ac3", &Case { video: Some("h264"), audio: "ac3", encode: format!("{X264} -c:a ac3"), rate: 48_000 });
}

#[test]
fn h264_with_eac3() {
    check("eac3", &Case { video: Some("h264"), audio: "eac3", encode: format!("{X264} -c:a eac3 -ac 6"), rate: 48_000 });
}

#[test]
fn h264_with_mp3() {
    check("mp3", &Case { video: Some("h264"), audio: "mp3", encode: format!("{X264} -c:a libmp3lame"), rate: 44_100 });
}

#[test]
fn h264_with_aac() {
    check("aac", &Case { video: Some("h264"), audio: "aac", encode: format!("{X264} -c:a aac"), rate: 44_100 });
}

#[test]
fn opus_alone() {
    check("opus", &Case { video: None, audio: "opus", encode: "-c:a libopus -ac 2".into(), rate: 48_000 });
}

#[test]
fn ac3_alone() {
    check("ac3-alone", &Case { video: None, audio: "ac3", encode: "-c:a ac3".into(), rate: 48_000 });
}

/// What VLC hears, as a WAV file. VLC refuses to run as root.
fn heard_by_vlc(file: &Path) -> Vec<u8> {
    let wav = file.with_extension("wav");
    let root = fs::metadata("/proc/self").map(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0).unwrap();
    let nobody = if root { "setpriv --reuid=65534 --regid=65534 --clear-groups " } else { "" };
    let sout = format!("#transcode{{acodec=s16l,vcodec=none}}:std{{access=file,mux=wav,dst={}}}", wav.display());
    run("env", &format!("HOME=/tmp {nobody}cvlc -q --play-and-exit FILE --sout {sout} vlc://quit"), file);
    fs::read(wav).unwrap()
}

#[test]
fn vlc_hears_no_seam_between_blocks() {
    let case = Case { video: Some("h264"), audio: "aac", encode: format!("{X264} -c:a aac"), rate: 44_100 };
    let source = Source::new("vlc", &case);
    fs::set_permissions(source.directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let heard = [("segments.ts", source.segments()), ("blocks.ts", source.blocks(0).0)].map(|(name, bytes)| {
        let file = source.directory.path().join(name);
        fs::write(&file, bytes).unwrap();
        heard_by_vlc(&file)
    });
    assert!(heard[0].len() > 500_000 && heard[0] == heard[1], "{} and {} bytes", heard[0].len(), heard[1].len());
}

#[test]
fn blocks_go_on_over_the_wraps_of_both_clocks() {
    let case = Case { video: Some("h264"), audio: "aac", encode: format!("{X264} -c:a aac"), rate: 44_100 };
    let source = Source::new("wraps", &case);
    // In the middle of the stream: the records' clock of 32 bits in milliseconds, PTS of 33 bits in 90 kHz (with its 10 s).
    for (name, shift_ms) in [("32", u32::MAX - 2999), ("33", ((1_u64 << 33) / 90) as u32 - 10_000 - 3000)] {
        let file = source.directory.path().join(format!("{name}.ts"));
        let (bytes, _) = source.blocks(shift_ms);
        analyse(&bytes);
        fs::write(&file, bytes).unwrap();
        compare(&case, &source, &file);
    }
}
