//! The commands on directories of ours and of others.

#![allow(clippy::unwrap_used)]

use super::*;
use std::fs;
use tempfile::TempDir;

const WALL_MS: u64 = 1_769_860_800_000; // 2026-01-31T12:00:00Z

fn directory(segments: u64) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("hls")).unwrap();
    for number in 1..=segments {
        let media_start_90k = number * 360_000;
        let info = SegmentInfo {
            stream: "v/live/x".into(),
            number,
            duration_90k: 360_000,
            media_start_90k,
            media_end_90k: media_start_90k + 360_000,
            wall_start_ms: WALL_MS + number * 4_000,
            wall_end_ms: WALL_MS + number * 4_000 + 4_000,
            discontinuity: number == 3,
            discontinuity_sequence: u64::from(number >= 3),
            independent: true,
        };
        fs::write(files::segment(&directory.path().join("hls"), number), info.to_packet()).unwrap();
    }
    directory
}

/// What a command prints, and its error; and whether all was as it should be.
fn run(command: impl FnOnce(&mut dyn Write) -> Result<bool, String>) -> (u8, String) {
    let mut out = Vec::new();
    let result = command(&mut out);
    let text = String::from_utf8(out).unwrap() + result.as_ref().err().map_or("", String::as_str);
    (report(result), text)
}

fn rebuild(directory: &Path, verify: bool, out: &mut dyn Write) -> Result<bool, String> {
    rebuild_in(&hls_dir(directory), verify, out)
}

#[test]
fn a_recording_s_index_is_rebuilt_whole() {
    let directory = directory(20);
    let hls = directory.path().join("hls");
    fs::write(hls.join("21.ts"), "no transport stream").unwrap();
    fs::write(hls.join("intro.ts"), "").unwrap();
    let (status, text) = run(|out| rebuild(directory.path(), false, out));
    assert_eq!(status, DONE, "{text}");
    for line in
        ["skipped 21.ts: it is no transport stream", "skipped intro.ts: its name", "20 segments, 3760 bytes", "segments 1 to 20, ended"]
    {
        assert!(text.contains(line), "{line:?} in {text}");
    }
    let index = fs::read_to_string(hls.join(INDEX)).unwrap();
    assert_eq!(playlist::numbers(&index).collect::<Vec<_>>(), (1..=20).collect::<Vec<_>>());
    assert!(index.contains("#EXT-X-MEDIA-SEQUENCE:1\n") && index.ends_with("#EXT-X-ENDLIST\n"));
    // The hls directory itself will do as well.
    assert_eq!(run(|out| rebuild(&hls, false, out)).0, DONE);
}

#[test]
fn a_directory_without_segments_fails() {
    let directory = tempfile::tempdir().unwrap();
    let (status, text) = run(|out| rebuild(directory.path(), false, out));
    assert!(status == FAILED && text.contains("holds no segments"), "{text}");
    let (status, text) = run(|out| rebuild(&directory.path().join("missing"), false, out));
    assert!(status == FAILED && text.contains("missing"), "{text}");
}

#[test]
fn a_clip_covers_what_was_asked_for() {
    let directory = directory(10);
    let now = WALL_MS + 44_000;
    let clip = |start: &str, end: &str, name: &str| run(|out| clip_in(&hls_dir(directory.path()), [start, end], name, now, out));
    let (status, text) = clip("2026-01-31T12:00:09Z", "2026-01-31T12:00:20Z", "live001");
    assert!(status == DONE && text.contains("3 segments, 2 to 4, 12.000 s"), "{text}");
    let index = fs::read_to_string(directory.path().join("hls/live001.m3u8")).unwrap();
    assert_eq!(playlist::numbers(&index).collect::<Vec<_>>(), [2, 3, 4]);
    assert!(index.ends_with("#EXT-X-ENDLIST\n") && index.contains("#EXT-X-DISCONTINUITY\n"));
    assert!(clip("-9s", "now", "live002").1.contains("3 segments, 8 to 10"));
    for (start, end, name, why) in [
        ("yesterday", "now", "x", "is no time"),
        ("now", "-9s", "x", "must be after"),
        ("-9s", "now", "index", "cannot be"),
        ("-9s", "now", "../x", "cannot be"),
        ("0", "1", "x", "no segment shows"),
    ] {
        let (status, text) = clip(start, end, name);
        assert!(status == FAILED && text.contains(why), "{text}");
    }
}

#[test]
fn foreign_segments_are_measured_and_ffprobe_agrees() {
    let directory = tempfile::tempdir().unwrap();
    let made = Command::new("ffmpeg")
        .args([
            "-v",
            "error",
            "-f",
            "lavfi",
            "-i",
            "testsrc=size=160x120:rate=25",
            "-f",
            "lavfi",
            "-i",
            "sine",
            "-t",
            "6",
            "-c:v",
            "libx264",
        ])
        .args([
            "-g",
            "50",
            "-bf",
            "2",
            "-c:a",
            "aac",
            "-f",
            "segment",
            "-segment_time",
            "2",
            "-segment_format",
            "mpegts",
            "-segment_start_number",
            "5",
        ])
        .arg(directory.path().join("%d.ts"))
        .status();
    if made.is_err() {
        eprintln!("skipped: there is no ffmpeg");
        return;
    }
    let (status, text) = run(|out| rebuild(directory.path(), true, out));
    assert_eq!(status, DONE, "{text}");
    assert!(text.contains("3 of them do not say what they are") && text.contains("ffprobe agrees with 3 of 3"), "{text}");
    let index = fs::read_to_string(directory.path().join(INDEX)).unwrap();
    assert!(!index.contains("DISCONTINUITY") && index.contains("#EXT-X-MEDIA-SEQUENCE:5\n"), "{index}");
    // A segment that lies about its length is found out.
    let mut bytes = fs::read(directory.path().join("6.ts")).unwrap();
    let lie = SegmentInfo { number: 6, duration_90k: 900_000, ..scan(directory.path()).unwrap().segments[1].info.clone() };
    bytes.extend_from_slice(&lie.to_packet());
    fs::write(directory.path().join("6.ts"), bytes).unwrap();
    let (status, text) = run(|out| rebuild(directory.path(), true, out));
    assert!(status == FAILED && text.contains("6.ts: 10.000 s, ffprobe says"), "{text}");
}
