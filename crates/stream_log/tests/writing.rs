//! What a writer does, seen by a reader in the same process.

#![allow(clippy::unwrap_used)]

mod support;

use braidcast_media::RecordKind::{Audio, Data, Video};
use braidcast_stream_log::{Ahead, AppendError, Disposal, LogOptions, OpenError, Position, Reader, State, Writer, dispose};
use proptest::prelude::*;
use std::os::unix::fs::MetadataExt;
use support::{AAC_HEADER, AVC_HEADER, METADATA, at, audio, follow, place, read_all, video};

fn headers(writer: &mut Writer, ms: u64) {
    let sent = [b"\x02\x00\x0d@setDataFrame", METADATA].concat();
    writer.append(Data, 0, &sent, at(ms)).unwrap();
    writer.append(Video, 0, AVC_HEADER, at(ms)).unwrap();
    writer.append(Audio, 0, AAC_HEADER, at(ms)).unwrap();
}

/// 25 frames a second with a keyframe every second, an audio record beside each; committed every four frames.
fn publish(writer: &mut Writer, frames: std::ops::Range<u64>) {
    for frame in frames {
        let ms = frame * 40;
        writer.append(Video, ms as u32, &video(frame % 25 == 0, frame, 100), at(ms)).unwrap();
        writer.append(Audio, ms as u32 + 5, &audio(frame, 20), at(ms)).unwrap();
        if frame % 4 == 3 {
            writer.commit(at(ms)).unwrap();
        }
    }
}

#[test]
fn nothing_is_seen_before_the_commit_and_no_block_before_the_first_record() {
    let place = place();
    assert!(Reader::open(&place.root, &place.key).unwrap().is_none());
    let mut writer = place.writer(&LogOptions::default());
    let reader = place.reader();
    assert_eq!((reader.state(), reader.epoch(), reader.commit().block), (State::Waiting, 0, 0));
    assert!(matches!(writer.append(Video, 0, b"x", at(0)), Err(AppendError::NotPublishing)));
    writer.begin_publish(at(0)).unwrap();
    headers(&mut writer, 0);
    assert!(!writer.commit(at(0)).unwrap());
    assert_eq!((place.log_files(), reader.start()), (vec![], None));
    writer.append(Video, 40, &video(true, 0, 10), at(1)).unwrap();
    assert_eq!(reader.commit().block, 0);
    assert!(writer.commit(at(1)).unwrap());
    let block = reader.block(1).unwrap();
    assert_eq!((block.generation, block.epoch, block.starts_with_keyframe, block.start_timestamp_ms), (1, 1, true, 40));
    let prefix = reader.map(1).unwrap().bytes(0, block.prefix_bytes).unwrap().to_vec();
    assert_eq!(prefix.len(), 13 + 3 * 15 + METADATA.len() + AVC_HEADER.len() + AAC_HEADER.len());
    assert_eq!(reader.start(), Some(Position { block: 1, offset: block.prefix_bytes }));
    assert_eq!((reader.state(), reader.epoch(), reader.generation()), (State::Live, 1, 1));
    assert_eq!(read_all(&reader).len(), 1);
}

#[test]
fn blocks_roll_at_the_first_keyframe_after_the_minimum() {
    let place = place();
    let mut writer = place.writer(&LogOptions { block_min_ms: 1_500, ..LogOptions::default() });
    writer.begin_publish(at(0)).unwrap();
    headers(&mut writer, 0);
    publish(&mut writer, 0..100);
    let reader = place.reader();
    assert_eq!(reader.commit().block, 2);
    let (one, two) = (reader.block(1).unwrap(), reader.block(2).unwrap());
    assert_eq!((two.start_timestamp_ms, two.starts_with_keyframe, two.generation), (2_000, true, 1));
    assert_eq!(two.cumulative_bytes, u64::from(one.final_bytes.unwrap() - one.prefix_bytes));
    assert_eq!(two.final_bytes, None);
    let file = place.root.stream_dir(&place.key).join("log/1.flv");
    assert_eq!(std::fs::metadata(file).unwrap().len(), u64::from(one.final_bytes.unwrap()));
    assert_eq!(reader.newest_keyframe().map(|k| k.block), Some(2));
    let all = read_all(&reader);
    assert_eq!(all.len(), 200);
    assert!(all.iter().enumerate().all(|(index, sent)| sent.timestamp_ms == (index as u32 / 2) * 40 + (index as u32 % 2) * 5));
    assert_eq!((writer.counters().records, writer.counters().keyframes, writer.counters().video), (200, 4, 100));
    assert_eq!(writer.counters().bytes, reader.total_bytes());
    writer.end_publish(at(4_000)).unwrap();
    assert!(reader.block(2).unwrap().final_bytes.is_some());
    assert_eq!((reader.state(), reader.ahead(reader.commit())), (State::Waiting, Ahead::Nothing));
}

#[test]
fn blocks_without_keyframes_roll_by_time_and_by_size() {
    let place = place();
    let options = LogOptions { block_max_ms: 3_000, block_max_bytes: 70_000, ..LogOptions::default() };
    let mut writer = place.writer(&options);
    writer.begin_publish(at(0)).unwrap();
    for frame in 0..100u64 {
        writer.append(Video, frame as u32 * 40, &video(false, frame, 10), at(frame * 40)).unwrap();
    }
    writer.append(Video, 4_000, &video(false, 100, 69_000), at(4_000)).unwrap();
    writer.append(Video, 4_040, &video(false, 101, 200_000), at(4_040)).unwrap();
    writer.append(Video, 4_080, &video(false, 102, 10), at(4_080)).unwrap();
    writer.commit(at(4_080)).unwrap();
    let reader = place.reader();
    let starts: Vec<_> =
        (1..=reader.commit().block).map(|n| reader.block(n).unwrap()).map(|b| (b.start_timestamp_ms, b.starts_with_keyframe)).collect();
    assert_eq!(starts, [(0, false), (3_000, false), (4_040, false), (4_080, false)]);
    assert_eq!(reader.newest_keyframe(), None);
    assert_eq!(reader.start().map(|p| p.block), Some(4));
    assert_eq!(read_all(&reader).len(), 103);
}

#[test]
fn audio_only_has_places_to_start_at_every_second() {
    let place = place();
    let mut writer = place.writer(&LogOptions::default());
    writer.begin_publish(at(0)).unwrap();
    writer.append(Audio, 0, AAC_HEADER, at(0)).unwrap();
    for frame in 0..500u64 {
        writer.append(Audio, frame as u32 * 20, &audio(frame, 50), at(frame * 20)).unwrap();
    }
    writer.commit(at(10_000)).unwrap();
    let reader = place.reader();
    assert_eq!((writer.counters().keyframes, reader.commit().block), (10, 5));
    assert!((1..=5).all(|n| reader.block(n).unwrap().starts_with_keyframe));
    assert_eq!(reader.map(1).unwrap().bytes(0, 5).unwrap()[4], 4, "no video is promised");
}

#[test]
fn a_changed_sequence_header_ends_the_block_and_a_repeated_one_is_dropped() {
    let place = place();
    let mut writer = place.writer(&LogOptions::default());
    writer.begin_publish(at(0)).unwrap();
    headers(&mut writer, 0);
    publish(&mut writer, 0..4);
    headers(&mut writer, 160);
    publish(&mut writer, 4..8);
    let reader = place.reader();
    assert_eq!((reader.commit().block, reader.generation()), (1, 1));
    let other = [AVC_HEADER, &[9]].concat();
    writer.append(Video, 320, &other, at(320)).unwrap();
    publish(&mut writer, 8..12);
    assert_eq!((reader.commit().block, reader.generation()), (2, 2));
    assert_eq!((reader.block(1).unwrap().generation, reader.block(2).unwrap().generation), (1, 2));
    assert!(!reader.block(2).unwrap().starts_with_keyframe);
    assert_eq!(read_all(&reader).len(), 24);
}

#[test]
fn changed_metadata_is_a_record_and_goes_to_later_prefixes() {
    let place = place();
    let mut writer = place.writer(&LogOptions { block_min_ms: 900, ..LogOptions::default() });
    writer.begin_publish(at(0)).unwrap();
    headers(&mut writer, 0);
    publish(&mut writer, 0..4);
    let other = [METADATA, b"more"].concat();
    writer.append(Data, 200, &other, at(200)).unwrap();
    writer.append(Data, 200, b"\x02\x00\x0d@setDataFrame\x02\x00\x04onFI", at(200)).unwrap();
    publish(&mut writer, 8..32);
    let reader = place.reader();
    let data: Vec<_> = read_all(&reader).into_iter().filter(|sent| sent.kind == Data).map(|sent| sent.payload).collect();
    assert_eq!(data, [other.clone(), b"\x02\x00\x04onFI".to_vec()]);
    let (one, two) = (reader.block(1).unwrap(), reader.block(2).unwrap());
    assert_eq!((one.generation, two.generation, two.prefix_bytes), (1, 1, one.prefix_bytes + 4));
}

#[test]
fn who_starts_behind_changed_metadata_has_it_in_the_prefix() {
    let place = place();
    let mut writer = place.writer(&LogOptions { block_min_ms: 60_000, ..LogOptions::default() });
    writer.begin_publish(at(0)).unwrap();
    headers(&mut writer, 0);
    publish(&mut writer, 0..30);
    let other = [METADATA, b"more"].concat();
    writer.append(Data, 1_200, &other, at(1_200)).unwrap();
    // What viewers start with now stands before the change; only the next keyframe begins a block.
    publish(&mut writer, 30..48);
    let reader = place.reader();
    assert_eq!((reader.commit().block, reader.start().map(|position| position.block)), (1, Some(1)));
    publish(&mut writer, 48..80);
    assert_eq!((reader.commit().block, reader.start().map(|position| position.block)), (2, Some(2)));
    let block = reader.block(2).unwrap();
    assert_eq!((block.start_timestamp_ms, block.generation), (2_000, 1), "no decoder is set up anew for it");
    let prefix = reader.map(2).unwrap().bytes(0, block.prefix_bytes).unwrap().to_vec();
    assert!(prefix.windows(other.len()).any(|window| window == other));
    publish(&mut writer, 80..200);
    assert_eq!(reader.commit().block, 2, "one change, one block");
}

#[test]
fn viewers_start_with_keyframes_of_the_first_track() {
    let place = place();
    let mut writer = place.writer(&LogOptions::default());
    writer.begin_publish(at(0)).unwrap();
    let other = |head: u8, content: u8| [head, content, b'h', b'v', b'c', b'1', 1, 0, 0, 0, 9];
    writer.append(Video, 0, &other(0x96, 0x00), at(0)).unwrap();
    writer.append(Video, 0, &other(0x96, 0x03), at(0)).unwrap();
    writer.commit(at(0)).unwrap();
    assert_eq!(writer.counters().keyframes, 1, "without a first track the other one leads");
    writer.append(Video, 0, AVC_HEADER, at(0)).unwrap();
    for ms in [40, 1_040] {
        writer.append(Video, ms, &video(true, 1, 10), at(ms.into())).unwrap();
        writer.append(Video, ms, &other(0x96, 0x03), at(ms.into())).unwrap();
    }
    writer.commit(at(1_040)).unwrap();
    let reader = place.reader();
    assert_eq!(writer.counters().keyframes, 3);
    let start = reader.start().unwrap();
    let bytes = reader.map(start.block).unwrap().bytes(start.offset, reader.end_of(start.block).unwrap()).unwrap().to_vec();
    assert_eq!(bytes[11], 0x17);
}

#[test]
fn start_codes_become_lengths_and_a_sequence_header() {
    let place = place();
    let mut writer = place.writer(&LogOptions::default());
    writer.begin_publish(at(0)).unwrap();
    let sets = b"\0\0\0\x01\x67\x42\xc0\x1e\xd9\0\0\0\x01\x68\xce\x3c";
    let sent = [&b"\x17\x01\0\0\0"[..], sets, b"\0\0\x01\x65\x88"].concat();
    for ms in [0, 40, 80] {
        writer.append(Video, ms, &sent, at(ms.into())).unwrap();
        writer.append(Video, ms + 20, b"\x27\x01\0\0\0\0\0\0\x01\x41\x9a", at(ms.into())).unwrap();
    }
    writer.commit(at(80)).unwrap();
    assert_eq!(writer.converted(), 6);
    let reader = place.reader();
    let block = reader.block(1).unwrap();
    let header = b"\x17\0\0\0\0\x01\x42\xc0\x1e\xff\xe1\0\x05\x67\x42\xc0\x1e\xd9\x01\0\x03\x68\xce\x3c";
    let prefix = reader.map(1).unwrap().bytes(0, block.prefix_bytes).unwrap().to_vec();
    assert_eq!(prefix[13 + 11..prefix.len() - 4], header[..]);
    let frames: Vec<Vec<u8>> = read_all(&reader).into_iter().map(|sent| sent.payload).collect();
    let key = b"\x17\x01\0\0\0\0\0\0\x05\x67\x42\xc0\x1e\xd9\0\0\0\x03\x68\xce\x3c\0\0\0\x02\x65\x88".to_vec();
    let inter = b"\x27\x01\0\0\0\0\0\0\x02\x41\x9a".to_vec();
    assert_eq!(frames, [key.clone(), inter.clone(), key.clone(), inter.clone(), key, inter]);
    assert_eq!((reader.commit().block, reader.generation(), writer.counters().keyframes), (1, 1, 3));
    // A header of the encoder's own that has the same sets stands: theirs is not made anew.
    writer.append(Video, 120, &[&header[..], b"\xfd\xf8\xf8\0"].concat(), at(120)).unwrap();
    writer.append(Video, 120, &sent, at(120)).unwrap();
    writer.append(Video, 160, &sent, at(160)).unwrap();
    assert_eq!((reader.commit().block, reader.generation()), (1, 1));
    writer.commit(at(160)).unwrap();
    assert_eq!((reader.commit().block, reader.generation()), (2, 2));
}

#[test]
fn the_next_publisher_goes_on_in_numbers_time_and_generation() {
    let place = place();
    let mut writer = place.writer(&LogOptions::default());
    writer.begin_publish(at(0)).unwrap();
    headers(&mut writer, 0);
    publish(&mut writer, 0..5);
    writer.end_stream(at(200)).unwrap();
    let reader = place.reader();
    assert_eq!((reader.state(), read_all(&reader).len()), (State::Ended, 10), "what was staged is committed");
    let mut position = reader.commit();
    drop(writer);

    let mut writer = place.writer(&LogOptions::default());
    assert_eq!(reader.state(), State::Ended);
    writer.begin_publish(at(300)).unwrap();
    headers(&mut writer, 300);
    writer.append(Video, 77_000, &video(true, 100, 10), at(300)).unwrap();
    writer.append(Video, 77_040, &video(false, 101, 10), at(300)).unwrap();
    writer.commit(at(300)).unwrap();
    assert_eq!((reader.epoch(), reader.block(2).unwrap().epoch, reader.generation()), (2, 2, 1), "the same headers, the same generation");
    let mut times = Vec::new();
    assert!(follow(&reader, &mut position, |record| times.push(record.header.timestamp_ms)));
    assert_eq!(times, [185, 225]);

    // Somebody takes the stream over without the former publisher's end.
    writer.append(Video, 77_080, &video(false, 102, 10), at(310)).unwrap();
    writer.begin_publish(at(320)).unwrap();
    writer.append(Audio, 0, AAC_HEADER, at(320)).unwrap();
    writer.append(Audio, 0, &audio(1, 1), at(320)).unwrap();
    writer.commit(at(320)).unwrap();
    assert_eq!((reader.epoch(), reader.generation(), reader.commit().block), (3, 2, 3));
    times.clear();
    assert!(follow(&reader, &mut position, |record| times.push(record.header.timestamp_ms)));
    assert_eq!(times, [265, 285]);
}

#[test]
fn old_blocks_go_by_age_and_by_budget_but_never_the_last_two() {
    let place = place();
    let options = LogOptions { block_min_ms: 900, keep_ms: 3_000, ..LogOptions::default() };
    let mut writer = place.writer(&options);
    writer.begin_publish(at(0)).unwrap();
    headers(&mut writer, 0);
    publish(&mut writer, 0..252);
    let reader = place.reader();
    assert_eq!((reader.commit().block, reader.oldest_block(), place.log_files()), (11, 8, (8..=11).collect()));
    assert_eq!((reader.block(7), reader.ahead(Position { block: 7, offset: 50 })), (None, Ahead::Lost));
    assert_eq!(reader.map(7).unwrap_err().kind(), std::io::ErrorKind::NotFound);
    assert_eq!(writer.evict(u64::MAX), 2);
    assert_eq!((place.log_files(), writer.counters().evicted_blocks), (vec![10, 11], 9));
    assert_eq!(writer.evict(u64::MAX), 0);
    writer.end_publish(at(10_080)).unwrap();
    assert_eq!(writer.evict(u64::MAX), 1);
    assert_eq!(writer.evict(u64::MAX), 0);
    assert_eq!((place.log_files(), reader.oldest_block()), (vec![11], 11));
    drop(writer);

    let mut writer = place.writer(&LogOptions { block_min_ms: 0, budget_bytes: 600_000, ..LogOptions::default() });
    writer.begin_publish(at(20_000)).unwrap();
    for frame in 0..100u64 {
        writer.append(Video, frame as u32, &video(true, frame, 50_000), at(20_000)).unwrap();
        writer.commit(at(20_000)).unwrap();
        assert!(writer.file_bytes() <= 600_000);
    }
    assert_eq!(place.log_files().len(), 11);
    assert_eq!(read_all(&reader).len(), 11);
}

/// Seconds of a stream of some 100 kB each, committed every four frames.
fn publish_seconds(writer: &mut Writer, seconds: std::ops::Range<u64>) {
    for frame in seconds.start * 25..seconds.end * 25 {
        let ms = frame * 40;
        let bytes = 3_000 + (frame * 7919 % 2_000) as usize;
        writer.append(Video, ms as u32, &video(frame.is_multiple_of(25), frame, bytes), at(ms)).unwrap();
        if frame % 4 == 3 {
            writer.commit(at(ms)).unwrap();
        }
    }
}

#[test]
fn files_of_evicted_blocks_are_written_again_unless_somebody_has_them() {
    let place = place();
    let options = LogOptions { block_min_ms: 900, keep_ms: 3_000, ..LogOptions::default() };
    let mut writer = place.writer(&options);
    writer.begin_publish(at(0)).unwrap();
    headers(&mut writer, 0);
    let log = place.root.stream_dir(&place.key).join("log");
    let inode = |name: String| std::fs::metadata(log.join(name)).map(|file| file.ino()).unwrap();
    publish_seconds(&mut writer, 0..5);
    let reader = place.reader();
    // Somebody reads block 3 for as long as this lasts; all others are free when they go.
    let held = reader.map(3).unwrap();
    let held_bytes = held.bytes(0, reader.end_of(3).unwrap()).unwrap().to_vec();
    let (mut seen, mut written_again) = (std::collections::HashMap::new(), 0);
    for second in 5..40 {
        publish_seconds(&mut writer, second..second + 1);
        let (open, first) = (reader.commit(), reader.oldest_block());
        for number in first..=open.block {
            let before = seen.insert(number, inode(format!("{number}.flv")));
            if before.is_none() && seen.iter().any(|(other, inode)| *other < first && *inode == seen[&number]) {
                written_again += 1;
            }
            let bytes = std::fs::read(log.join(format!("{number}.flv"))).unwrap();
            if number < open.block {
                assert_eq!(Some(bytes.len() as u32), reader.end_of(number), "a finished block is as long as its table says");
            } else if let Some(rest) = bytes.get(open.offset as usize..).filter(|rest| rest.len() > 15) {
                let size = u32::from_be_bytes([rest[0], rest[1], rest[2], rest[3]]);
                assert_eq!(size as usize, rest.len() - 15, "a tag of no kind up to the end");
            }
        }
        // In the files, the spare one included, there is what the writer says.
        let files = std::fs::read_dir(&log).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len());
        assert_eq!(files.sum::<u64>(), writer.file_bytes());
    }
    assert!(written_again > 20, "{written_again} of {} blocks", seen.len());
    assert_eq!(held.bytes(0, held_bytes.len() as u32), Some(&held_bytes[..]), "a block that somebody reads stays");
    let kept = read_all(&reader);
    assert!(kept.len() > 75 && kept.windows(2).all(|pair| pair[0].timestamp_ms + 40 == pair[1].timestamp_ms));
    // Room that holds nothing goes first.
    writer.evict(0);
    assert!(!log.join("spare").exists());
    publish_seconds(&mut writer, 40..43);
    writer.end_publish(at(43_000)).unwrap();
    assert!(!log.join("spare").exists());
    place.check_lengths();
}

#[test]
fn the_table_never_overflows() {
    let place = place();
    let mut writer = place.writer(&LogOptions { block_min_ms: 0, keep_ms: u64::MAX, ..LogOptions::default() });
    writer.begin_publish(at(0)).unwrap();
    for frame in 0..400u64 {
        writer.append(Video, frame as u32, &video(true, frame, 1), at(0)).unwrap();
        if frame % 8 == 7 {
            writer.commit(at(0)).unwrap();
        }
    }
    let reader = place.reader();
    assert_eq!((reader.commit().block, reader.oldest_block(), place.log_files().len()), (400, 273, 128));
    assert_eq!(read_all(&reader).len(), 128);
    // Within one turn only so many blocks are made: keyframes then go on in one block, changing headers are refused.
    for frame in 0..40u64 {
        writer.append(Video, 400 + frame as u32, &video(true, frame, 1), at(0)).unwrap();
    }
    writer.commit(at(0)).unwrap();
    assert_eq!(reader.commit().block, 416);
    let mut flood = || {
        for change in 0..40u8 {
            writer.append(Video, 500, &[AVC_HEADER, &[change]].concat(), at(0))?;
            writer.append(Video, 500, &video(true, 0, 1), at(0))?;
        }
        Ok(())
    };
    assert!(matches!(flood(), Err(AppendError::HeaderFlood)));
    writer.commit(at(0)).unwrap();
    writer.append(Video, 500, &video(true, 0, 1), at(0)).unwrap();
    writer.commit(at(0)).unwrap();
    assert_eq!((reader.commit().block, reader.oldest_block()), (433, 306));
    // All blocks hold one record, except the one that the keyframes went on in.
    assert_eq!(read_all(&reader).len(), 127 + 25);
}

#[test]
fn one_writer_at_a_time() {
    let place = place();
    let writer = place.writer(&LogOptions::default());
    let again = || Writer::open(&place.root, &place.key, &LogOptions::default(), at(0));
    assert!(matches!(again(), Err(OpenError::Locked)));
    assert!(matches!(dispose(&place.root, &place.key), Err(OpenError::Locked)));
    drop(writer);
    again().unwrap();
}

#[test]
fn a_removed_stream_is_gone_for_new_readers_and_told_to_old_ones() {
    let place = place();
    let mut writer = place.writer(&LogOptions::default());
    writer.begin_publish(at(0)).unwrap();
    publish(&mut writer, 0..8);
    drop(writer);
    let reader = place.reader();
    let map = reader.map(1).unwrap();
    assert_eq!(dispose(&place.root, &place.key).unwrap(), Disposal::Removed);
    assert_eq!(dispose(&place.root, &place.key).unwrap(), Disposal::Absent);
    assert_eq!(reader.state(), State::Disposed);
    assert!(map.bytes(0, reader.commit().offset).is_some(), "what is mapped stays");
    assert!(Reader::open(&place.root, &place.key).unwrap().is_none());
    assert_eq!(place.root.keys().unwrap(), []);
    let mut writer = place.writer(&LogOptions::default());
    writer.begin_publish(at(0)).unwrap();
    publish(&mut writer, 0..4);
    assert_eq!((place.reader().commit().block, place.reader().epoch()), (1, 1));
    assert!(reader.map(1).is_err(), "the old reader does not see the new log's blocks");
}

#[test]
fn record_ends_are_found_from_anywhere() {
    let place = place();
    let mut writer = place.writer(&LogOptions::default());
    writer.begin_publish(at(0)).unwrap();
    headers(&mut writer, 0);
    publish(&mut writer, 0..40);
    let reader = place.reader();
    let (map, end) = (reader.map(1).unwrap(), reader.end_of(1).unwrap());
    let mut ends = vec![map.prefix_bytes()];
    let mut position = Position { block: 1, offset: map.prefix_bytes() };
    follow(&reader, &mut position, |record| ends.push(ends.last().unwrap() + record.header.record_bytes() as u32));
    for offset in 0..=end {
        let wanted = ends.iter().copied().find(|e| *e >= offset);
        assert_eq!(reader.record_end(&map, offset), wanted);
    }
    assert_eq!(reader.record_end(&map, end + 1), None);
}

#[test]
fn hostile_payloads_and_times_do_no_harm() {
    let place = place();
    let mut writer = place.writer(&LogOptions { block_max_bytes: 1 << 20, ..LogOptions::default() });
    writer.begin_publish(at(0)).unwrap();
    let too_long = vec![0x17; 1 << 24];
    assert!(matches!(writer.append(Video, 0, &too_long, at(0)), Err(AppendError::TooLong { .. })));
    for (kind, payload) in
        [(Video, &b""[..]), (Audio, b""), (Data, b""), (Video, b"\x17"), (Video, b"\x9f"), (Audio, b"\x9f\xff"), (Data, b"\x02")]
    {
        for time in [0, u32::MAX, 1 << 31, 7, u32::MAX / 3] {
            writer.append(kind, time, payload, at(5)).unwrap();
        }
        writer.commit(at(5)).unwrap();
    }
    writer.append(Video, 0, &too_long[1..], at(6)).unwrap();
    // A header that is too long for prefixes is a record.
    let mut long = AVC_HEADER.to_vec();
    long.resize(100_000, 1);
    writer.append(Video, 0, &long, at(7)).unwrap();
    writer.commit(at(8)).unwrap();
    assert_eq!(read_all(&place.reader()).len(), 35 + 2);
    assert!(writer.counters().timestamp_corrections > 0);
}

/// What a turn takes in: of each record whether it is video, starts a group, how long it is, and whether it stands in the turn's input.
type Turn = (Vec<(bool, bool, usize, bool)>, bool);

proptest! {
    /// However payloads come to it, and whether they are written at once or kept, the log is the same, byte for byte.
    #[test]
    fn payloads_written_from_where_they_stand_make_the_same_log(
        turns in prop::collection::vec((prop::collection::vec((any::<bool>(), prop::bool::weighted(0.2), 0..3_000usize, any::<bool>()), 0..90), any::<bool>()), 1..6)
    ) {
        let turns: Vec<Turn> = turns;
        let options = LogOptions { block_min_ms: 100, block_max_bytes: 20_000, ..LogOptions::default() };
        let (copied, gathered) = (place(), place());
        let mut writers = [copied.writer(&options), gathered.writer(&options)];
        for writer in &mut writers {
            writer.begin_publish(at(0)).unwrap();
            headers(writer, 0);
        }
        let mut number = 0;
        for (records, keeps) in turns {
            let ms = number * 10;
            let payloads: Vec<Vec<u8>> = (number..).zip(&records).map(|(n, (is_video, key, bytes, _))| if *is_video { video(*key, n, *bytes) } else { audio(n, *bytes) }).collect();
            let mut input = b"a chunk's header".to_vec();
            let places: Vec<_> = payloads.iter().map(|payload| {
                input.extend_from_slice(payload);
                let place = input.len() - payload.len()..input.len();
                input.extend_from_slice(b"and another");
                place
            }).collect();
            let [copies, gathers] = &mut writers;
            let mut gathering = gathers.gather(&input, at(ms));
            for (index, (is_video, _, _, stands)) in records.iter().enumerate() {
                let (kind, time) = (if *is_video { Video } else { Audio }, (ms + 10 * index as u64) as u32);
                let one = copies.append(kind, time, &payloads[index], at(ms));
                let payload = if *stands { &input[places[index].clone()] } else { &payloads[index] };
                prop_assert_eq!(one.is_ok(), gathering.append(kind, time, payload).is_ok());
            }
            if keeps {
                gathering.keep();
                drop(input);
                copies.append(Audio, ms as u32, &audio(0, 700), at(ms)).ok();
                gathers.append(Audio, ms as u32, &audio(0, 700), at(ms)).ok();
            } else {
                prop_assert_eq!(gathering.write().unwrap(), !records.is_empty());
            }
            prop_assert_eq!(copies.commit(at(ms)).unwrap(), gathers.commit(at(ms)).unwrap());
            number += records.len() as u64;
        }
        prop_assert_eq!(read_all(&copied.reader()), read_all(&gathered.reader()));
        let bytes = |place: &support::Place| place.log_files().iter().map(|block| std::fs::read(place.root.stream_dir(&place.key).join(format!("log/{block}.flv"))).unwrap()).collect::<Vec<_>>();
        prop_assert_eq!(bytes(&copied), bytes(&gathered));
    }
}
