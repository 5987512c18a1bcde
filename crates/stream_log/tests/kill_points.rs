//! The writer killed at every step, and another one going on from there.

#![cfg(feature = "faults")]
#![allow(clippy::unwrap_used)]

mod support;

use braidcast_media::RecordKind::{Data, Video};
use braidcast_media::StreamKey;
use braidcast_stream_log::{Disposal, LogOptions, Now, Reader, Root, Writer, dispose};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use support::{AVC_HEADER, METADATA, Place, Sent, at, place, read_all, video};

const OPTIONS: LogOptions =
    LogOptions { block_min_ms: 400, block_max_ms: 10_000, block_max_bytes: 1 << 20, keep_ms: 2_000, budget_bytes: 8 << 20 };

/// Every step of writing; each is tried at its first passes.
const WRITING: &[&str] = &[
    "locked",
    "recover_files",
    "recovered",
    "staged",
    "commit",
    "recycled",
    "half_written",
    "written",
    "seal",
    "sealed",
    "table",
    "entered",
    "keyframes",
    "before_word",
    "after_word",
    "evict",
    "evict_entry",
    "evict_file",
    "evicted",
    "sealed_at_end",
];
/// Steps of recovery that only a log with records goes through.
const RECOVERING: &[&str] = &["locked", "recover_cut", "recover_files", "recovered"];
const REMOVING: &[&str] = &["disposed", "moved"];

/// Publishes twice, with keyframes, changed headers, rolls and evictions; says the number of records after each commit.
fn publish(root: &Root, key: &StreamKey, then_remove: bool) {
    let mut writer = Writer::open(root, key, &OPTIONS, at(0)).unwrap();
    let say = |writer: &Writer| {
        let line = format!("{}\n", writer.counters().records);
        std::io::stderr().write_all(line.as_bytes()).unwrap();
    };
    for round in 0..2u64 {
        let now = |frame: u64| -> Now { at(round * 10_000 + frame * 40) };
        writer.begin_publish(now(0)).unwrap();
        writer.append(Data, 0, METADATA, now(0)).unwrap();
        writer.append(Video, 0, AVC_HEADER, now(0)).unwrap();
        for frame in 0..120u64 {
            if frame == 60 {
                writer.append(Video, 0, &[AVC_HEADER, &[1]].concat(), now(frame)).unwrap();
            }
            writer.append(Video, frame as u32 * 40, &video(frame % 10 == 0, round * 1_000 + frame, 300), now(frame)).unwrap();
            // Some batches lie in one block, some in two.
            if frame % 7 == 6 {
                writer.commit(now(frame)).unwrap();
                say(&writer);
            }
        }
        writer.end_publish(now(120)).unwrap();
        say(&writer);
    }
    writer.end_stream(at(30_000)).unwrap();
    drop(writer);
    if then_remove {
        dispose(root, key).unwrap();
    }
}

/// The entry of the process that is killed; nothing when run as a test.
#[test]
fn other_process() {
    let Some(directory) = std::env::var_os("BRAIDCAST_TEST_DIR") else { return };
    let remove = std::env::var_os("BRAIDCAST_TEST_REMOVE").is_some();
    publish(&Root::new(Path::new(&directory).to_path_buf()), &StreamKey::new("v", "live", "x").unwrap(), remove);
}

struct Ended {
    killed: bool,
    /// Records that the process knew to be committed.
    committed: u64,
}

fn run_and_kill(place: &Place, point: &str, pass: u32, remove: bool) -> Ended {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["other_process", "--exact", "--nocapture", "--test-threads=1"]);
    command.env("BRAIDCAST_TEST_DIR", place.directory.path()).env("BRAIDCAST_KILL_POINT", format!("{point}:{pass}"));
    if remove {
        command.env("BRAIDCAST_TEST_REMOVE", "1");
    }
    let output = command.stdin(Stdio::null()).output().unwrap();
    let killed = output.status.signal() == Some(braidcast_sys::process::SIGABRT);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(killed || output.status.success(), "{point}:{pass}: {said}");
    Ended { killed, committed: said.lines().filter_map(|line| line.parse().ok()).next_back().unwrap_or(0) }
}

/// A log as its dead writer left it: whole up to the commit word, with everything that was committed.
fn check_left(place: &Place, committed: u64) -> Vec<Sent> {
    let Some(reader) = Reader::open(&place.root, &place.key).unwrap() else {
        assert_eq!(committed, 0);
        return Vec::new();
    };
    let there = read_all(&reader);
    assert!(reader.counters().records >= committed);
    if reader.commit().block != 0 {
        assert!(reader.newest_keyframe().is_some());
        assert!(reader.start().is_some());
    }
    there
}

/// Recovers, checks that nothing committed has changed and nothing else is left, and goes on.
fn check_recovered(place: &Place, before: &[Sent]) {
    let mut writer = place.writer(&OPTIONS);
    let reader = place.reader();
    assert_eq!(read_all(&reader), before);
    let blocks = if reader.commit().block == 0 { vec![] } else { (reader.oldest_block()..=reader.commit().block).collect() };
    assert_eq!(place.log_files(), blocks);
    place.check_lengths();
    assert_eq!(reader.block(reader.oldest_block() - 1), None);
    let newest_keyframe = reader.newest_keyframe();
    let (last, last_time) = (reader.commit().block, before.last().map_or(0, |sent| sent.timestamp_ms));
    writer.begin_publish(at(50_000)).unwrap();
    // At first no keyframe: one that was lost with the dead writer must not come back to life.
    for frame in 0..20u64 {
        writer.append(Video, frame as u32 * 40, &video(frame == 19, frame, 50), at(50_000)).unwrap();
        if frame == 18 {
            writer.commit(at(50_000)).unwrap();
            assert_eq!(reader.newest_keyframe(), newest_keyframe);
        }
    }
    writer.end_stream(at(50_000)).unwrap();
    let after = read_all(&reader);
    assert_eq!(reader.commit().block, last + 2);
    let new = &after[after.len() - 20..];
    assert_eq!(&after[..after.len() - 20], &before[before.len() - (after.len() - 20)..]);
    assert!(before.is_empty() || new[0].timestamp_ms >= last_time + 20);
}

#[test]
fn a_writer_killed_at_any_step_of_writing_leaves_a_log_to_go_on_with() {
    for point in WRITING {
        for pass in [1, 2, 3, 5, 9] {
            let place = place();
            let ended = run_and_kill(&place, point, pass, false);
            assert!(ended.killed || pass > 1, "nothing comes by {point}");
            if !ended.killed {
                break;
            }
            let before = check_left(&place, ended.committed);
            check_recovered(&place, &before);
        }
    }
}

#[test]
fn a_writer_killed_while_it_recovers_leaves_the_rest_to_the_next() {
    for first in ["half_written", "table", "before_word", "evict_file"] {
        for point in RECOVERING {
            let place = place();
            assert!(run_and_kill(&place, first, 3, false).killed);
            let before = check_left(&place, 0);
            assert!(!before.is_empty());
            assert!(run_and_kill(&place, point, 1, false).killed, "nothing comes by {point}");
            assert_eq!(check_left(&place, 0), before);
            check_recovered(&place, &before);
        }
    }
}

#[test]
fn a_removal_that_was_cut_short_is_finished() {
    for point in REMOVING {
        let place = place();
        assert!(run_and_kill(&place, point, 1, true).killed);
        assert!(Reader::open(&place.root, &place.key).unwrap().is_none());
        check_recovered(&place, &[]);
        braidcast_stream_log::clear_disposed(&place.root).unwrap();
        assert_eq!(dispose(&place.root, &place.key).unwrap(), Disposal::Removed);
        assert_eq!(place.root.keys().unwrap(), []);
    }
}
