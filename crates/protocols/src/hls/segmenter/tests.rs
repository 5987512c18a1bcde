//! The segmenter with made-up records; those of real encoders are in `tests/segmenter_ffmpeg.rs`.
#![allow(clippy::unwrap_used)]

use super::*;
use RecordKind::{Audio, Data, Video};
use proptest::prelude::*;

const AVC: &[u8] = b"\x17\0\0\0\0\x01\x64\0\x1f\xff\xe1\0\x01\x67\x01\0\x01\x68";
const AVC_OTHER: &[u8] = b"\x17\0\0\0\0\x01\x64\0\x20\xff\xe1\0\x02\x67\x01\x01\0\x01\x68";
const KEY: &[u8] = b"\x17\x01\0\0\0\0\0\0\x02\x65k";
const DELTA: &[u8] = b"\x27\x01\0\0\0\0\0\0\x02\x41d";
const AAC: &[u8] = b"\xaf\0\x12\x10";
const AAC_MONO: &[u8] = b"\xaf\0\x12\x08";
const SOUND: &[u8] = b"\xaf\x01sound";
const MP3: &[u8] = b"\x2f\xff\xfb";
/// VPS, SPS and PPS of two bytes each.
const HEVC: &[u8] =
    b"\x90hvc1\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x03\x03\xa0\0\x01\0\x02\x40\x01\xa1\0\x01\0\x02\x42\x01\xa2\0\x01\0\x02\x44\x01";
const HEVC_KEY: &[u8] = b"\x93hvc1\0\0\0\x03\x26\x01k";
const HEVC_DELTA: &[u8] = b"\xa1hvc1\0\0\x28\0\0\0\x03\x02\x01d";
const OPUS: &[u8] = b"\x90OpusOpusHead\x01\x02\x38\x01\x80\xbb\0\0\0\0\0";
const OPUS_MONO: &[u8] = b"\x90OpusOpusHead\x01\x01\x38\x01\x80\xbb\0\0\0\0\0";
const OPUS_SOUND: &[u8] = b"\x91Opuspacket";
const AC3: &[u8] = b"\x91ac-3\x0b\x77";
const EAC3: &[u8] = b"\x91ec-3\x0b\x77";

type Rec = (RecordKind, u32, &'static [u8]);

/// A segmenter and what came out of it.
struct Run {
    segmenter: Segmenter,
    segments: Vec<(SegmentInfo, Vec<u8>)>,
    open: Vec<u8>,
    unsupported: Vec<Codec>,
    /// Indexes of the records that finished a segment.
    opened_by: Vec<usize>,
    fed: usize,
}

impl Run {
    fn new(state: SegmenterState) -> Self {
        let segmenter = Segmenter::new(SegmenterOptions::new(4000), state);
        Self { segmenter, segments: Vec::new(), open: Vec::new(), unsupported: Vec::new(), opened_by: Vec::new(), fed: 0 }
    }

    fn fresh() -> Self {
        Self::new(SegmenterState::new("v/live/a", 1))
    }

    fn drain(&mut self) {
        while let Some(output) = self.segmenter.poll_output() {
            match output {
                SegmenterOutput::Started { number } => {
                    assert_eq!(number, self.segments.last().map_or(number, |(info, _)| info.number + 1));
                    assert!(self.open.is_empty(), "one segment at a time");
                }
                SegmenterOutput::Bytes(bytes) => self.open.extend_from_slice(&bytes),
                SegmenterOutput::Finished(info) => {
                    assert_eq!(SegmentInfo::of_segment(&self.open).as_ref(), Some(&info));
                    self.segments.push((info, std::mem::take(&mut self.open)));
                    self.opened_by.push(self.fed);
                }
                SegmenterOutput::Unsupported(codec) => self.unsupported.push(codec),
            }
        }
    }

    fn feed(&mut self, records: &[Rec]) -> &mut Self {
        for &(kind, timestamp_ms, payload) in records {
            self.segmenter.handle_record(kind, timestamp_ms, payload, 1_000_000 + u64::from(timestamp_ms));
            self.drain();
            self.fed += 1;
        }
        self
    }

    fn discontinuity(&mut self) -> &mut Self {
        self.segmenter.discontinuity();
        self.drain();
        self
    }

    fn finish(&mut self) -> &mut Self {
        self.segmenter.finish();
        self.drain();
        self
    }

    /// Start and length of each segment in milliseconds, "independent", "discontinuity".
    fn cuts(&self) -> Vec<(u64, u64, bool, bool)> {
        let cut =
            |(info, _): &(SegmentInfo, Vec<u8>)| (info.media_start_90k / 90, info.duration_90k / 90, info.independent, info.discontinuity);
        self.segments.iter().map(cut).collect()
    }

    /// PES packets of audio and of video in each segment.
    fn frames(&self) -> Vec<(usize, usize)> {
        let count = |bytes: &[u8], pid| bytes.chunks(188).filter(|p| p[1] == 0x41 && p[2] == pid).count();
        self.segments.iter().map(|(_, bytes)| (count(bytes, 1), count(bytes, 0))).collect()
    }
}

/// Both tracks from `from` to `to`: video every 40 ms with a keyframe every `group` ms, audio every 20 ms.
fn both(from: u32, to: u32, group: u32) -> Vec<Rec> {
    let mut records = Vec::new();
    for time in (from..to).step_by(20) {
        if (time - from).is_multiple_of(40) {
            records.push((Video, time, if (time - from).is_multiple_of(group) { KEY } else { DELTA }));
        }
        records.push((Audio, time, SOUND));
    }
    records
}

const HEADERS: [Rec; 2] = [(Video, 0, AVC), (Audio, 0, AAC)];

#[test]
fn it_cuts_at_the_first_keyframe_after_a_fragment() {
    let mut run = Run::fresh();
    run.feed(&HEADERS).feed(&both(0, 13_000, 3000)).finish();
    assert_eq!(run.cuts(), [(0, 6000, true, false), (6000, 6000, true, false), (12_000, 1000, true, false)]);
    assert_eq!(run.frames(), [(300, 150), (300, 150), (50, 25)]);
    let info = &run.segments[1].0;
    assert_eq!((info.wall_start_ms, info.wall_end_ms), (1_006_000, 1_012_000));
}

#[test]
fn without_keyframes_it_cuts_at_the_hard_maximum() {
    let mut run = Run::fresh();
    run.feed(&HEADERS).feed(&both(0, 25_000, 60_000)).finish();
    assert_eq!(run.cuts(), [(0, 12_000, true, false), (12_000, 12_000, false, false), (24_000, 1000, false, false)]);
}

#[test]
fn audio_alone_is_cut_at_the_fragment() {
    let mut run = Run::fresh();
    let sound: Vec<Rec> = (0..10_000).step_by(20).map(|time| (Audio, time, SOUND)).collect();
    run.feed(&HEADERS[1..]).feed(&sound).finish();
    assert_eq!(run.cuts(), [(0, 4000, true, false), (4000, 4000, true, false), (8000, 2000, true, false)]);
}

#[test]
fn what_comes_before_the_first_keyframe_is_dropped() {
    let mut records = both(0, 3000, 2000);
    records.drain(..1); // joined just behind a keyframe
    let mut run = Run::fresh();
    run.feed(&HEADERS).feed(&records).finish();
    // Audio of the last second before the keyframe is kept.
    assert_eq!(run.cuts(), [(1000, 2000, true, false)]);
    assert_eq!(run.frames(), [(100, 25)]);
}

#[test]
fn early_audio_comes_after_the_keyframe() {
    let mut run = Run::fresh();
    run.feed(&[(Audio, 0, AAC), (Audio, 0, SOUND), (Audio, 20, SOUND), (Video, 40, AVC), (Video, 40, KEY)]).finish();
    assert_eq!(run.frames(), [(2, 1)]);
    let info = &run.segments[0].0;
    assert_eq!((info.media_start_90k, info.wall_start_ms), (0, 1_000_000));
    let pids: Vec<u8> = run.segments[0].1.chunks(188).filter(|p| p[1] == 0x41).map(|p| p[2]).collect();
    assert_eq!(pids, [0, 1, 1]);
}

#[test]
fn mp3_is_waited_for_because_no_header_announces_it() {
    let mut run = Run::fresh();
    run.feed(&[(Video, 0, AVC), (Video, 0, KEY), (Video, 40, DELTA), (Audio, 30, MP3), (Video, 80, DELTA), (Audio, 56, MP3)]).finish();
    assert_eq!(run.cuts().len(), 1);
    assert_eq!(run.frames(), [(2, 3)]);
}

#[test]
fn a_discontinuity_ends_the_segment_and_is_counted_once() {
    let mut run = Run::fresh();
    run.feed(&HEADERS).feed(&both(0, 1000, 1000)).discontinuity().discontinuity().feed(&both(1500, 2500, 1000)).finish();
    assert_eq!(run.cuts(), [(0, 1000, true, false), (1500, 1000, true, true)]);
    assert_eq!(run.segments[1].0.discontinuity_sequence, 1);
}

#[test]
fn a_publisher_that_comes_back_without_audio_is_announced_without() {
    let mut run = Run::fresh();
    let video: Vec<Rec> = both(1000, 4000, 1000).into_iter().filter(|record| record.0 == Video).collect();
    run.feed(&HEADERS).feed(&both(0, 1000, 1000)).discontinuity().feed(&video).finish();
    assert_eq!(run.cuts(), [(0, 1000, true, false), (1000, 3000, true, true)]);
    assert_eq!(run.segments[1].1[188 + 4 + 3], 18, "length of a PMT with one stream");
}

#[test]
fn a_new_video_configuration_takes_effect_at_its_keyframe() {
    let mut run = Run::fresh();
    run.feed(&HEADERS).feed(&both(0, 2000, 2000)).feed(&[(Video, 0, AVC), (Video, 0, AVC_OTHER)]).feed(&both(2000, 3000, 1000)).finish();
    assert_eq!(run.cuts(), [(0, 2000, true, false), (2000, 1000, true, true)]);
}

#[test]
fn a_keyframe_that_steps_back_does_not_overlap_the_segment_before() {
    let mut run = Run::fresh();
    run.feed(&HEADERS).feed(&both(0, 5000, 1000)).feed(&[(Video, 0, AVC_OTHER), (Video, 3990, KEY)]).feed(&both(4000, 5000, 2000)).finish();
    assert_eq!(run.cuts(), [(0, 4000, true, false), (4000, 0, true, false), (4000, 1000, true, true)]);
}

#[test]
fn a_new_audio_configuration_waits_for_the_next_keyframe() {
    let mut run = Run::fresh();
    let records = both(0, 3000, 1000);
    run.feed(&HEADERS).feed(&records[..10]).feed(&[(Audio, 0, AAC_MONO)]).feed(&records[10..]).finish();
    assert_eq!(run.cuts(), [(0, 1000, true, false), (1000, 2000, true, true)]);
    assert_eq!(run.frames().iter().map(|(audio, _)| audio).sum::<usize>(), 150, "no audio is lost");
}

#[test]
fn video_that_appears_or_disappears_makes_another_program() {
    let mut run = Run::fresh();
    let sound = |from: u32, to: u32| (from..to).step_by(20).map(|time| (Audio, time, SOUND)).collect::<Vec<Rec>>();
    run.feed(&HEADERS[1..]).feed(&sound(0, 2000)).feed(&HEADERS[..1]).feed(&both(2000, 3000, 1000)).feed(&sound(3000, 30_000)).finish();
    // Video appears at 2 s; it is gone for all of the segment that starts at 14 s, so that from 26 s on it is audio alone.
    let expected = [(0, 2000, true, false), (2000, 12_000, true, true), (14_000, 12_000, false, false), (26_000, 4000, true, true)];
    assert_eq!(run.cuts(), expected);
}

#[test]
fn a_jump_of_the_timestamps_is_a_discontinuity() {
    let mut run = Run::fresh();
    run.feed(&HEADERS).feed(&both(0, 2000, 1000)).feed(&both(3_600_000, 3_602_000, 1000)).feed(&both(100_000, 102_000, 1000)).finish();
    assert_eq!(run.cuts(), [(0, 2000, true, false), (3_600_000, 2000, true, true), (100_000, 2000, true, true)]);
}

#[test]
fn timestamps_that_jump_to_and_fro_make_few_segments() {
    let mut run = Run::fresh();
    run.feed(&HEADERS);
    for _ in 0..1000 {
        run.feed(&[(Video, 0, KEY), (Audio, 1 << 30, SOUND), (Video, 1 << 30, KEY), (Audio, 0, SOUND)]);
    }
    assert!(run.finish().segments.len() < 4000 / MIN_FRAMES_BEFORE_JUMP as usize, "{}", run.segments.len());
}

#[test]
fn timestamps_wrap_without_a_seam() {
    let mut run = Run::fresh();
    let start = u32::MAX - 4999;
    let records: Vec<Rec> =
        both(0, 13_000, 1000).into_iter().map(|(kind, time, payload)| (kind, start.wrapping_add(time), payload)).collect();
    run.feed(&HEADERS).feed(&records).finish();
    let start = u64::from(start);
    assert_eq!(
        run.cuts().iter().map(|cut| (cut.0 - start, cut.1)).collect::<Vec<_>>(),
        [(0, 4000), (4000, 4000), (8000, 4000), (12_000, 1000)]
    );
}

#[test]
fn other_codecs_are_told_of_once_and_the_rest_goes_on() {
    let mut run = Run::fresh();
    let sound: Vec<Rec> = (0..2000).step_by(20).flat_map(|time| [(Video, time, &b"\x93av01frame"[..]), (Audio, time, SOUND)]).collect();
    run.feed(&HEADERS[1..]).feed(&[(Data, 0, b"\x02")]).feed(&sound).finish();
    assert_eq!(run.unsupported, [Codec::Av1]);
    assert_eq!(run.frames(), [(100, 0)]);
}

/// The version and the stream types of each segment's PMT.
fn programs(run: &Run) -> Vec<(u8, Vec<u8>)> {
    let program = |(_, bytes): &(SegmentInfo, Vec<u8>)| {
        let section = &bytes[188 + 5..];
        let (mut at, end, mut types) = (12, usize::from(section[2]) + 3 - 4, Vec::new());
        while at < end {
            types.push(section[at]);
            at += 5 + usize::from(section[at + 4]);
        }
        (section[5] >> 1 & 31, types)
    };
    run.segments.iter().map(program).collect()
}

#[test]
fn another_codec_is_another_program_after_a_discontinuity() {
    let mut run = Run::fresh();
    for (part, codecs) in (0..).zip([0, 1, 3, 0]) {
        run.feed(&translated(&HEADERS, codecs)).feed(&translated(&both(part * 4000, (part + 1) * 4000, 2000), codecs));
    }
    run.finish();
    let expected = [vec![0x1b, 0x0f], vec![0x24, 0x06], vec![0x1b, 0x06], vec![0x1b, 0x0f]];
    assert_eq!(programs(&run), (0..).zip(expected).collect::<Vec<(u8, Vec<u8>)>>());
    assert!(run.cuts().iter().skip(1).all(|cut| cut.3), "{:?}", run.cuts());
}

/// The tag that names the same codec in the other way: by FourCC, or by number.
fn renamed(payload: &[u8]) -> &'static [u8] {
    let other = match payload {
        [0x17, 0, _, _, _, rest @ ..] => [b"\x90avc1", rest].concat(),
        [first @ (0x17 | 0x27), 1, rest @ ..] => [&[0x80 | (first & 0x70) | 1][..], b"avc1", rest].concat(),
        [0xaf, packet_type, rest @ ..] => [&[0x90 | packet_type][..], b"mp4a", rest].concat(),
        [0x2f, rest @ ..] => [b"\x91.mp3", rest].concat(),
        [0x90, b'h', _, _, _, rest @ ..] => [b"\x1c\0\0\0\0", rest].concat(),
        [0x93, b'h', _, _, _, rest @ ..] => [b"\x1c\x01\0\0\0", rest].concat(),
        [0xa1, b'h', _, _, _, rest @ ..] => [b"\x2c\x01", rest].concat(),
        _ => payload.to_vec(),
    };
    other.leak()
}

#[test]
fn a_codec_is_the_same_however_tags_name_it() {
    for codecs in [0, 2, 3] {
        let records = [translated(&HEADERS, codecs), translated(&both(0, 9000, 2000), codecs), vec![(Audio, 9000, MP3)]].concat();
        let others: Vec<Rec> = records.iter().map(|&(kind, time, payload)| (kind, time, renamed(payload))).collect();
        assert_ne!(records, others);
        let [mut by_number, mut by_name] = [Run::fresh(), Run::fresh()];
        by_number.feed(&records).finish();
        by_name.feed(&others).finish();
        assert!(by_number.segments.len() == 3 && by_number.segments == by_name.segments, "{codecs}: {:?}", by_number.cuts());
    }
}

#[test]
fn audio_without_a_header_is_waited_for_and_told_from_other_audio() {
    for (codecs, types) in [(2, vec![0x24, 0x81]), (4, vec![0x1b, 0x87])] {
        let mut run = Run::fresh();
        run.feed(&translated(&HEADERS, codecs)).feed(&translated(&both(0, 4000, 2000), codecs)).finish();
        assert_eq!((programs(&run), run.frames()), (vec![(0, types)], vec![(200, 100)]));
    }
}

#[test]
fn opus_of_other_channels_is_another_program() {
    let mut run = Run::fresh();
    let sound = |from: u32| (from..from + 4000).step_by(20).map(|time| (Audio, time, OPUS_SOUND)).collect::<Vec<Rec>>();
    run.feed(&[(Audio, 0, OPUS)]).feed(&sound(0)).feed(&[(Audio, 4000, OPUS_MONO)]).feed(&sound(4000)).finish();
    assert_eq!(run.cuts(), [(0, 4000, true, false), (4000, 4000, true, true)]);
    assert_eq!(programs(&run), [(0, vec![6]), (1, vec![6])]);
}

#[test]
fn nothing_that_can_be_carried_gives_no_segment_and_every_publisher_is_told() {
    let mut run = Run::fresh();
    let frames: Vec<Rec> =
        (0..20_000).step_by(20).flat_map(|time| [(Video, time, &b"\x93av01x"[..]), (Audio, time, b"\x91fLaC\xff")]).collect();
    run.feed(&frames).discontinuity().feed(&frames);
    assert_eq!(run.unsupported, [Codec::Av1, Codec::Flac]);
    run.segmenter.publisher_changed();
    run.feed(&frames).finish();
    assert_eq!((run.unsupported.len(), run.segments.len()), (4, 0));
}

#[test]
fn a_broken_frame_costs_itself_only() {
    let mut records = both(0, 2000, 1000);
    records.insert(20, (Video, 777_777_777, b"\x17\x01\0\0\0\xff\xff\xff\xff\x65"));
    let mut run = Run::fresh();
    run.feed(&HEADERS).feed(&records).finish();
    assert_eq!(run.cuts(), [(0, 2000, true, false)]);
    assert_eq!(run.frames(), [(100, 50)]);
}

fn record() -> impl Strategy<Value = Rec> {
    let payload = prop::sample::select(vec![
        (Video, AVC),
        (Video, KEY),
        (Video, KEY),
        (Video, DELTA),
        (Video, DELTA),
        (Video, DELTA),
        (Audio, SOUND),
        (Audio, SOUND),
        (Audio, SOUND),
        (Audio, AAC),
        (Audio, MP3),
        (Video, AVC_OTHER),
        (Audio, AAC_MONO),
        (Data, b"\x02"),
        (Video, b"\x93av01x"),
        (Video, HEVC),
        (Video, HEVC_KEY),
        (Video, HEVC_DELTA),
        (Audio, OPUS),
        (Audio, OPUS_MONO),
        (Audio, OPUS_SOUND),
        (Audio, AC3),
        (Audio, EAC3),
    ]);
    (payload, 0_u32..3000).prop_map(|((kind, payload), step)| (kind, step, payload))
}

/// The same records in other codecs; some have no header of audio.
fn translated(records: &[Rec], codecs: usize) -> Vec<Rec> {
    let translate = |payload: &'static [u8]| match (codecs, payload) {
        (1 | 2, AVC) => HEVC,
        (1 | 2, KEY) => HEVC_KEY,
        (1 | 2, DELTA) => HEVC_DELTA,
        (1 | 3, AAC) => OPUS,
        (1 | 3, SOUND) => OPUS_SOUND,
        (2, SOUND) => AC3,
        (4, SOUND) => EAC3,
        _ => payload,
    };
    let kept = |record: &&Rec| !(matches!(codecs, 2 | 4) && record.2 == AAC);
    records.iter().filter(kept).map(|&(kind, time, payload)| (kind, time, translate(payload))).collect()
}

/// Mostly ordinary streams: steps become timestamps, codecs may change on the way, and now and then something odd is among them.
fn stream() -> impl Strategy<Value = Vec<Rec>> {
    let odd = prop::collection::vec((0_usize..400, record(), any::<u32>()), 0..6);
    let codecs = prop::collection::vec(0_usize..5, 1..3);
    (prop::sample::select(vec![200_u32, 1000, 2000, 5000, 60_000]), any::<u32>(), 0_u32..20_000, odd, codecs).prop_map(
        |(group, start, length, odd, codecs)| {
            let mut records = Vec::new();
            for (part, codecs) in (0..).zip(codecs) {
                let frames = both(part * length, (part + 1) * length, group);
                let frames = HEADERS.into_iter().chain(frames).map(|(kind, time, payload)| (kind, start.wrapping_add(time), payload));
                records.extend(translated(&frames.collect::<Vec<_>>(), codecs));
            }
            for (at, (kind, step, payload), jump) in odd {
                let time = if jump % 8 == 0 { jump } else { start.wrapping_add(step) };
                records.insert(at.min(records.len()), (kind, time, payload));
            }
            records
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn a_restart_at_any_segment_gives_the_same_bytes(records in stream(), break_at in prop::option::of(0_usize..1000)) {
        let break_at = break_at.map(|at| at.min(records.len()));
        let mut whole = Run::fresh();
        let mut states = Vec::new();
        for (index, record) in records.iter().enumerate() {
            if break_at == Some(index) {
                whole.discontinuity();
            }
            whole.feed(&[*record]);
            while states.len() < whole.segments.len() {
                states.push(whole.segmenter.state().clone());
            }
        }
        whole.finish();
        // Only the newest state of each record can be had from outside; a record that finishes two segments leaves one.
        for (index, state) in states.iter().enumerate() {
            let from = whole.opened_by[index];
            if whole.opened_by.get(index + 1) == Some(&from) || state.next_number != whole.segments[index].0.number + 1 {
                continue;
            }
            let mut again = Run::new(postcard::from_bytes(&postcard::to_allocvec(state).unwrap()).unwrap());
            for (at, record) in records.iter().enumerate().skip(from) {
                if break_at == Some(at) && at > from {
                    again.discontinuity();
                }
                again.feed(&[*record]);
            }
            again.finish();
            prop_assert_eq!(&again.segments[..], &whole.segments[index + 1..], "restarted after segment {}", index + 1);
        }
    }

    #[test]
    fn durations_add_up_and_counters_go_on(records in stream()) {
        let mut run = Run::fresh();
        run.feed(&records).finish();
        let mut counters = std::collections::HashMap::new();
        let mut end = None;
        for (info, bytes) in &run.segments {
            prop_assert_eq!(info.duration_90k, info.media_end_90k - info.media_start_90k);
            if !info.discontinuity {
                prop_assert!(end.is_none_or(|end| end == info.media_start_90k));
            }
            end = Some(info.media_end_90k);
            prop_assert_eq!(bytes.len() % 188, 0);
            for packet in bytes.chunks(188).filter(|packet| packet[1] & 0x1f != 0x1f) {
                let counter = packet[3] & 15;
                let before = counters.insert((packet[1] & 0x1f, packet[2]), counter);
                prop_assert!(before.is_none_or(|before| (before + 1) & 15 == counter));
            }
        }
    }

    #[test]
    fn no_records_make_it_panic(records in prop::collection::vec((any::<bool>(), any::<u32>(), prop::collection::vec(any::<u8>(), 0..24), record()), 0..200)) {
        let mut run = Run::fresh();
        for (video, timestamp, payload, (kind, _, known)) in records {
            run.segmenter.handle_record(if video { Video } else { Audio }, timestamp, &payload, 0);
            run.segmenter.handle_record(kind, timestamp, known, u64::MAX);
            run.drain();
        }
        run.discontinuity().finish();
    }
}

/// A length field of no bytes would never come to a frame's end.
#[test]
fn a_damaged_state_whose_frames_would_never_end_is_not_sound() {
    let mut run = Run::fresh();
    run.feed(&HEADERS).feed(&both(0, 13_000, 3000)).finish();
    let state = run.segmenter.state();
    assert!(state.is_sound());
    let good = postcard::to_stdvec(state).unwrap();
    let sets = good.windows(4).position(|window| window == [0, 0, 0, 1]).unwrap();
    let mut damaged = good.clone();
    // Before the parameter sets stands how many bytes they have, and before that how many a length field has.
    assert_eq!(damaged[sets - 2], 4);
    damaged[sets - 2] = 0;
    let damaged: SegmenterState = postcard::from_bytes(&damaged).unwrap();
    assert!(!damaged.is_sound());
}

proptest! {
    #[test]
    fn bytes_that_wait_in_a_lent_buffer_are_the_same(from in 0_u32..100, group in 1_u32..60) {
        let records: Vec<Rec> = [&[(Video, 0, AVC), (Audio, 0, AAC)][..], &both(from, from + 15_000, group * 200)].concat();
        let mut each = Run::fresh();
        each.feed(&records).finish();
        let mut lazy = Run::fresh();
        lazy.segmenter.lend(vec![7; 99]);
        let mut quiet = 0;
        for &(kind, timestamp_ms, payload) in &records {
            lazy.segmenter.handle_record(kind, timestamp_ms, payload, 1_000_000 + u64::from(timestamp_ms));
            if lazy.segmenter.is_eventful() {
                lazy.drain();
            } else {
                quiet += 1;
            }
        }
        lazy.finish();
        prop_assert!(quiet > records.len() / 2);
        prop_assert!(each.segments.len() > 1 && each.segments == lazy.segments);
    }
}
