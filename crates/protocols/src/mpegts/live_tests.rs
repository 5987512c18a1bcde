//! Blocks with made-up records; those of real encoders, and what players say, are in `tests/live_ts.rs`.
#![allow(clippy::unwrap_used)]

use super::*;
use RecordKind::{Audio, Data, Video};
use proptest::prelude::*;
use std::collections::{HashMap, HashSet};

const AVC: &[u8] = b"\x17\0\0\0\0\x01\x64\0\x1f\xff\xe1\0\x01\x67\x01\0\x01\x68";
const KEY: &[u8] = b"\x17\x01\0\0\0\0\0\0\x02\x65k";
const DELTA: &[u8] = b"\x27\x01\0\0\0\0\0\0\x02\x41d";
const AAC: &[u8] = b"\xaf\0\x12\x10";
const SOUND: &[u8] = b"\xaf\x01sound";
const MP3: &[u8] = b"\x2f\xff\xfb";
const FLAC: &[u8] = b"\x91fLaC\xff";

const PAT: u16 = 0;
const PMT: u16 = 0x1000;
const VIDEO: u16 = 0x100;
const AUDIO: u16 = 0x101;
const CLOCK: u16 = 0x102;

type Rec = (RecordKind, u32, &'static [u8]);

/// What each record of a block gives.
fn block(generation: u32, records: &[Rec]) -> Vec<Vec<u8>> {
    let mut muxer = LiveMuxer::new(generation);
    let render = |&(kind, time, payload): &Rec| {
        let mut out = Vec::new();
        muxer.record(&mut out, kind, time, payload);
        out
    };
    records.iter().map(render).collect()
}

fn pids(bytes: &[u8]) -> Vec<u16> {
    bytes.chunks(188).map(|packet| u16::from_be_bytes([packet[1] & 0x1f, packet[2]])).collect()
}

/// The discontinuity indicator of a packet.
fn broken(packet: &[u8]) -> bool {
    packet[3] & 0x20 != 0 && packet[4] > 0 && packet[5] & 0x80 != 0
}

fn pcr(packet: &[u8]) -> Option<u64> {
    (packet[3] & 0x20 != 0 && packet[4] > 0 && packet[5] & 0x10 != 0)
        .then(|| u64::from_be_bytes(packet[4..12].try_into().unwrap()) << 16 >> 31)
}

/// The version and the stream types of each PMT.
fn programs(bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let maps = bytes.chunks(188).filter(|packet| packet[1] & 0x1f == 0x10 && packet[2] == 0);
    maps.map(|packet| {
        let section = &packet[if packet[3] & 0x20 != 0 { 5 + usize::from(packet[4]) } else { 4 } + 1..];
        let (mut at, end, mut types) = (12, usize::from(section[2]) + 3 - 4, Vec::new());
        while at < end {
            types.push(section[at]);
            at += 5 + usize::from(section[at + 4]);
        }
        (section[5] >> 1 & 31, types)
    })
    .collect()
}

fn both(from: u32, to: u32) -> Vec<Rec> {
    let frames = (from..to).step_by(20).flat_map(|time| {
        let picture = (time - from).is_multiple_of(40).then_some((Video, time, if time == from { KEY } else { DELTA }));
        picture.into_iter().chain([(Audio, time, SOUND)])
    });
    [(Video, from, AVC), (Audio, from, AAC)].into_iter().chain(frames).collect()
}

#[test]
fn a_viewer_can_start_at_any_keyframe() {
    let mut records = both(0, 2000);
    records.push((Video, 2000, KEY));
    let rendered = block(3, &records);
    assert!(rendered[0].is_empty() && rendered[1].is_empty(), "headers give no bytes");
    for keyframe in [&rendered[2], rendered.last().unwrap()] {
        assert_eq!(pids(keyframe), [PAT, PMT, CLOCK, VIDEO]);
        assert_eq!(programs(keyframe), [(12, vec![0x1b, 0x0f])]);
    }
}

#[test]
fn tables_come_twice_a_second_without_keyframes() {
    let sound: Vec<Rec> = [(Audio, 0, AAC)].into_iter().chain((0..2000).step_by(20).map(|time| (Audio, time, SOUND))).collect();
    let times: Vec<u32> = block(0, &sound).iter().zip(&sound).filter(|(out, _)| pids(out).contains(&PMT)).map(|(_, r)| r.1).collect();
    assert_eq!(times, [0, 500, 1000, 1500]);
}

#[test]
fn audio_that_only_metadata_announces_is_in_the_first_tables() {
    for (id, payload, stream_type) in [
        (&b"\0\x40\0\0\0\0\0\0\0"[..], MP3, 3),
        (b"\x02\0\x04.mp3", MP3, 3),
        (b"\0\x41\xd8\x58\xcb\x4c\xc0\0\0", b"\x91ac-3\x0b\x77", 0x81),
        (b"\x02\0\x04ec-3", b"\x91ec-3\x0b\x77", 0x87),
    ] {
        let metadata = [&b"\x02\0\x0aonMetaData\x08\0\0\0\x01\0\x0caudiocodecid"[..], id, b"\0\0\x09"].concat();
        let mut muxer = LiveMuxer::new(0);
        let mut out = Vec::new();
        for (kind, payload) in [(Data, &metadata[..]), (Video, AVC), (Video, KEY), (Audio, payload)] {
            muxer.record(&mut out, kind, 0, payload);
        }
        assert_eq!(programs(&out), [(0, vec![0x1b, stream_type])], "{id:?}");
        assert_eq!(pids(&out), [PAT, PMT, CLOCK, VIDEO, AUDIO]);
    }
}

#[test]
fn a_track_that_comes_unannounced_makes_a_new_version() {
    let rendered = block(1, &[(Video, 0, AVC), (Video, 0, KEY), (Audio, 0, MP3), (Video, 40, DELTA)]).concat();
    assert_eq!(programs(&rendered), [(4, vec![0x1b]), (5, vec![0x1b, 3])]);
}

#[test]
fn times_go_on_over_the_wrap_of_the_records() {
    let clocks = |time: u32| block(0, &[(Audio, 0, AAC), (Audio, time, SOUND)]).concat().chunks(188).find_map(pcr).unwrap();
    let (before, after) = (clocks(u32::MAX - 19), clocks(20));
    assert_eq!(after.wrapping_sub(before) & ((1 << 33) - 1), 40 * 90);
}

#[test]
fn what_cannot_be_carried_gives_no_bytes() {
    assert!(
        block(0, &[(Video, 0, b"\x93av01x"), (Audio, 0, FLAC), (Data, 0, b"\x02"), (Video, 0, KEY), (Audio, 0, SOUND)]).concat().is_empty()
    );
}

#[test]
fn audio_alone() {
    let mut records = both(0, 60);
    records.push((Audio, 60, MP3));
    let written = |mut writer: AudioWriter| {
        let mut out = Vec::new();
        records.iter().for_each(|(kind, _, payload)| writer.record(&mut out, *kind, payload));
        out
    };
    assert_eq!(written(AudioWriter::mp3()), b"\xff\xfb");
    assert_eq!(written(AudioWriter::aac()), b"\xff\xf1\x50\x80\x01\x9f\xfcsound".repeat(3));
    let mut out = Vec::new();
    AudioWriter::aac().record(&mut out, Audio, SOUND);
    assert!(out.is_empty(), "no header, no frames");
}

fn record() -> impl Strategy<Value = Rec> {
    let payload = prop::sample::select(vec![
        (Video, AVC),
        (Video, KEY),
        (Video, DELTA),
        (Video, DELTA),
        (Audio, AAC),
        (Audio, SOUND),
        (Audio, SOUND),
        (Audio, MP3),
        (Audio, FLAC),
        (Audio, b"\x91ac-3\x0b\x77"),
        (Audio, b"\x90OpusOpusHead\x01\x02\x38\x01\x80\xbb\0\0\0\0\0"),
        (Audio, b"\x91Opuspacket"),
        (Video, b"\x91hvc1\0\0\0frame"),
        (Data, b"\x02\0\x0aonMetaData\x08\0\0\0\x01\0\x0caudiocodecid\0\x40\0\0\0\0\0\0\0\0\0\x09"),
    ]);
    (payload, 0_u32..100).prop_map(|((kind, payload), step)| (kind, step, payload))
}

proptest! {
    #[test]
    fn blocks_fit_together(blocks in prop::collection::vec(prop::collection::vec(record(), 0..60), 1..5), start: u32) {
        let (mut time, mut counters, mut clock) = (start, HashMap::new(), None);
        for (generation, block) in (0..).zip(&blocks) {
            let mut muxer = LiveMuxer::new(generation);
            let (mut first, mut known) = (HashSet::new(), HashSet::new());
            for (kind, step, payload) in block {
                time = time.wrapping_add(*step);
                let mut out = Vec::new();
                muxer.record(&mut out, *kind, time, payload);
                prop_assert_eq!(out.len() % 188, 0);
                for packet in out.chunks(188) {
                    let (pid, payload) = (pids(packet)[0], packet[3] & 0x10 != 0);
                    prop_assert_eq!(broken(packet), payload && first.insert(pid), "the first packet of each PID says that it is");
                    let before = counters.insert(pid, packet[3] & 15);
                    prop_assert!(broken(packet) || before.is_none_or(|before| packet[3] & 15 == (before + u8::from(payload)) & 15));
                    if let Some(now) = pcr(packet) {
                        prop_assert_eq!(pid, CLOCK);
                        let passed = clock.replace(now).map_or(0, |before: u64| now.wrapping_sub(before) & ((1 << 33) - 1));
                        prop_assert!(passed < 90 * 100 * 60 * 5, "the clock never steps back");
                    }
                    for (_, types) in programs(packet) {
                        known = types.into_iter().collect::<HashSet<u8>>();
                    }
                    if pid == VIDEO || pid == AUDIO {
                        prop_assert!(!known.is_empty(), "tables come first");
                    }
                }
            }
        }
    }

    #[test]
    fn no_records_make_it_panic(records in prop::collection::vec((any::<bool>(), any::<u32>(), prop::collection::vec(any::<u8>(), 0..40), record()), 0..60)) {
        let (mut muxer, mut writer, mut out) = (LiveMuxer::new(u32::MAX), AudioWriter::aac(), Vec::new());
        for (video, time, bytes, (kind, _, known)) in records {
            for (kind, payload) in [(if video { Video } else { Audio }, &bytes[..]), (Data, &bytes), (kind, known)] {
                muxer.record(&mut out, kind, time, payload);
                writer.record(&mut Vec::new(), kind, payload);
            }
        }
        prop_assert_eq!(out.len() % 188, 0);
    }
}
