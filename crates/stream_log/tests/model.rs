//! The writer against a simple model, and readers and writers against damaged heads.

#![allow(clippy::unwrap_used)]

mod support;

use braidcast_media::RecordKind::{self, Audio, Data, Video};
use braidcast_media::flv;
use braidcast_stream_log::{Ahead, LogOptions, Position, Reader, Writer, dispose};
use proptest::prelude::*;
use std::os::unix::fs::FileExt;
use support::{AVC_HEADER, METADATA, Sent, at, audio, place, read_all, video};

#[derive(Clone, Debug)]
enum Step {
    Record { kind: RecordKind, keyframe: bool, bytes: usize, after_ms: u32 },
    VideoHeader(u8),
    Metadata(u8),
    Commit,
    End,
    Begin { first_ms: u32 },
    Reopen,
    Evict,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let record = (0..3usize, any::<bool>(), 0..3000usize, 0..700u32).prop_map(|(kind, keyframe, bytes, after_ms)| Step::Record {
        kind: [Audio, Video, Data][kind],
        keyframe,
        bytes,
        after_ms,
    });
    let step = prop_oneof![
        20 => record,
        2 => (0..3u8).prop_map(Step::VideoHeader),
        1 => (0..3u8).prop_map(Step::Metadata),
        6 => Just(Step::Commit),
        1 => Just(Step::End),
        1 => any::<u32>().prop_map(|first_ms| Step::Begin { first_ms }),
        1 => Just(Step::Reopen),
        1 => Just(Step::Evict),
    ];
    prop::collection::vec(step, 1..150)
}

/// What a log should hold.
#[derive(Default)]
struct Model {
    committed: Vec<Sent>,
    staged: Vec<Sent>,
    publishing: bool,
    /// The publisher's clock, and what is added to it; unknown before its first record.
    clock_ms: u32,
    offset: Option<u32>,
    last_ms: Option<u32>,
    has_block: bool,
    metadata: Option<u8>,
}

impl Model {
    fn record(&mut self, kind: RecordKind, payload: Vec<u8>) {
        self.has_block = true;
        if let (Data, None, Some(timestamp_ms)) = (kind, self.offset, self.last_ms) {
            // Data before a publisher's first media is of the moment, and sets no clock.
            return self.staged.push(Sent { kind, timestamp_ms, payload });
        }
        let last = self.last_ms;
        let offset = *self.offset.get_or_insert_with(|| last.map_or(0, |last| last.wrapping_add(20).wrapping_sub(self.clock_ms)));
        let timestamp_ms = self.clock_ms.wrapping_add(offset);
        self.last_ms = Some(timestamp_ms);
        self.staged.push(Sent { kind, timestamp_ms, payload });
    }

    fn commit(&mut self) {
        self.committed.append(&mut self.staged);
    }
}

fn run(steps: Vec<Step>) {
    let place = place();
    let options =
        LogOptions { block_min_ms: 1_500, block_max_ms: 5_000, block_max_bytes: 100_000, keep_ms: u64::MAX, budget_bytes: u64::MAX };
    let mut writer = place.writer(&options);
    let mut model = Model::default();
    let mut number = 0;
    for step in steps {
        match step {
            Step::Record { kind, keyframe, bytes, after_ms } if model.publishing => {
                number += 1;
                model.clock_ms = model.clock_ms.wrapping_add(after_ms);
                let payload = match kind {
                    Video => video(keyframe, number, bytes),
                    Audio => audio(number, bytes),
                    Data => b"\x02\x00\x04onFI".to_vec(),
                };
                match writer.append(kind, model.clock_ms, &payload, at(0)) {
                    Ok(()) => model.record(kind, payload),
                    Err(braidcast_stream_log::AppendError::HeaderFlood) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            Step::VideoHeader(which) if model.publishing => writer.append(Video, 0, &[AVC_HEADER, &[which]].concat(), at(0)).unwrap(),
            Step::Metadata(which) if model.publishing => {
                let payload = [METADATA, &[which]].concat();
                if writer.append(Data, model.clock_ms, &payload, at(0)).is_ok()
                    && model.metadata.replace(which) != Some(which)
                    && model.has_block
                {
                    model.record(Data, payload);
                }
            }
            Step::Commit => {
                assert_eq!(writer.commit(at(0)).unwrap(), !model.staged.is_empty());
                model.commit();
            }
            Step::End => {
                writer.end_publish(at(0)).unwrap();
                model.commit();
                model.publishing = false;
            }
            Step::Begin { first_ms } => {
                writer.begin_publish(at(0)).unwrap();
                model.commit();
                (model.publishing, model.clock_ms, model.offset, model.metadata) = (true, first_ms, None, None);
                model.has_block = false;
            }
            Step::Reopen => {
                drop(writer);
                writer = place.writer(&options);
                model.staged.clear();
                model.publishing = false;
                model.last_ms = model.committed.iter().map(|sent| sent.timestamp_ms).next_back();
            }
            Step::Evict => _ = writer.evict(u64::MAX),
            Step::Record { .. } | Step::VideoHeader(_) | Step::Metadata(_) => {
                assert!(writer.append(Video, 0, b"\x27", at(0)).is_err());
            }
        }
        check(&place.reader(), &model);
    }
}

fn check(reader: &Reader, model: &Model) {
    let there = read_all(reader);
    assert!(there.len() <= model.committed.len());
    let gone = model.committed.len() - there.len();
    assert_eq!(there, model.committed[gone..]);
    if reader.oldest_block() == 1 {
        assert_eq!(gone, 0);
    }
    if let Some(newest) = reader.newest_keyframe() {
        assert!(newest < reader.commit() && newest.block >= reader.oldest_block());
        let map = reader.map(newest.block).unwrap();
        let bytes = map.bytes(newest.offset, reader.end_of(newest.block).unwrap()).unwrap();
        let record = flv::records(bytes).next().unwrap();
        let start = record.header.kind == Audio || braidcast_media::TagInfo::of(record.header.kind, record.payload).keyframe;
        assert!(start, "a keyframe, or audio where there is no video yet");
    }
}

/// Asks a reader everything and follows it as far as it goes: nothing may panic or run on for ever.
fn ask_everything(reader: &Reader) {
    let _ = (reader.commit(), reader.state(), reader.epoch(), reader.generation(), reader.counters(), reader.total_bytes());
    let _ = (reader.newest_keyframe(), reader.last_timestamp_ms(), reader.last_append_mono_ms());
    for number in [0, 1, 2, reader.oldest_block(), reader.commit().block, u32::MAX] {
        let _ = (reader.block(number), reader.end_of(number));
        if let Ok(map) = reader.map(number) {
            for offset in [0, 1, 13, 500, u32::MAX] {
                let _ = (reader.record_end(&map, offset), map.bytes(offset, offset.saturating_add(40)));
            }
        }
    }
    for start in [reader.start().unwrap_or_default(), Position { block: 1, offset: 13 }] {
        let mut position = start;
        for _ in 0..1000 {
            match reader.ahead(position) {
                Ahead::Bytes { to } => {
                    let bytes = reader
                        .map(position.block)
                        .ok()
                        .and_then(|map| map.bytes(position.offset, to).map(|bytes| flv::records(bytes).count()));
                    if bytes.is_none() {
                        break;
                    }
                    position.offset = to;
                }
                Ahead::Block(next) => position = next,
                Ahead::Nothing | Ahead::Lost => break,
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn the_log_holds_what_the_model_holds(steps in steps()) {
        run(steps);
    }

    #[test]
    fn a_damaged_head_is_an_error_and_never_a_panic(
        damage in prop::collection::vec((prop_oneof![0..200u64, 2048..2100u64, 4096..4400u64, 0..12_288u64], prop_oneof![any::<u64>(), Just(0), Just(u64::MAX), Just(1u64 << 32)]), 1..12),
        cut in prop::option::of(0..13_000u64),
    ) {
        let place = place();
        let options = LogOptions { block_min_ms: 0, ..LogOptions::default() };
        let mut writer = place.writer(&options);
        writer.begin_publish(at(0)).unwrap();
        for number in 0..6 {
            writer.append(Video, number as u32, &video(true, number, 300), at(0)).unwrap();
            writer.commit(at(0)).unwrap();
        }
        let before = place.reader();
        drop(writer);
        let path = place.root.stream_dir(&place.key).join("head");
        let head = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        for (offset, value) in damage {
            let bytes = value.to_le_bytes();
            let room = usize::try_from(12_288 - offset.min(12_287)).unwrap().min(8);
            head.write_all_at(&bytes[..room], offset.min(12_287)).unwrap();
        }
        ask_everything(&before);
        if let Some(cut) = cut {
            drop(before);
            head.set_len(cut).unwrap();
        }
        if let Ok(Some(reader)) = Reader::open(&place.root, &place.key) {
            ask_everything(&reader);
        }
        if let Ok(mut writer) = Writer::open(&place.root, &place.key, &options, at(0)) {
            let _ = writer.begin_publish(at(0));
            for number in 0..3 {
                let _ = writer.append(Video, 7, &video(true, number, 300), at(0));
                let _ = writer.append(Audio, 9, &audio(number, 300), at(0));
                let _ = writer.commit(at(0));
            }
            let _ = writer.end_stream(at(0));
        }
        dispose(&place.root, &place.key).unwrap();
        place.writer(&options).begin_publish(at(0)).unwrap();
    }
}
