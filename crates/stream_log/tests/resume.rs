//! A writer that is saved and resumed again and again, in the middle of blocks and between writing and publishing: readers see what they
//! would see of one that never stopped.

#![allow(clippy::unwrap_used)]

mod support;

use braidcast_media::RecordKind::{Audio, Data, Video};
use braidcast_stream_log::{LogOptions, OpenError, SavedHeaders, SavedWriter, State, Writer};
use proptest::prelude::*;
use support::{AAC_HEADER, AVC_HEADER, METADATA, Place, at, audio, place, read_all, video};

const OPTIONS: LogOptions =
    LogOptions { block_min_ms: 200, block_max_ms: 2_000, block_max_bytes: 1 << 20, keep_ms: 100_000, budget_bytes: 64 << 20 };

/// What another process would have of a writer.
struct Saved(Vec<u8>, Vec<u8>);

impl Saved {
    fn of(writer: &Writer) -> Self {
        Self(postcard::to_stdvec(&writer.save()).unwrap(), postcard::to_stdvec(&writer.save_headers()).unwrap())
    }

    fn resume(&self, place: &Place, ms: u64) -> Result<Writer, OpenError> {
        let writer: SavedWriter<'_> = postcard::from_bytes(&self.0).unwrap();
        let headers: SavedHeaders = postcard::from_bytes(&self.1).unwrap();
        Writer::resume(&place.root, &place.key, &OPTIONS, writer, headers, at(ms))
    }
}

/// How a writer is interrupted after a batch.
#[derive(Clone, Copy, Debug)]
enum Cut {
    No,
    /// Its last deed was to save.
    Saved,
    /// It had published, too.
    Published,
    /// It had written more, which nobody saved.
    Unsaved,
}

#[derive(Clone, Debug)]
struct Batch {
    frames: u8,
    change: u8,
    cut: Cut,
}

fn batches() -> impl Strategy<Value = Vec<Batch>> {
    let cut = prop_oneof![Just(Cut::No), Just(Cut::Saved), Just(Cut::Published), Just(Cut::Unsaved)];
    prop::collection::vec((1u8..6, 0u8..8, cut).prop_map(|(frames, change, cut)| Batch { frames, change, cut }), 1..40)
}

/// Appends a batch's records; their numbers go on from `next`.
fn append(writer: &mut Writer, batch: &Batch, next: u64) -> u64 {
    let now = at(next * 40);
    match batch.change {
        0 => writer.append(Video, next as u32 * 40, &[AVC_HEADER, &[next as u8]].concat(), now).unwrap(),
        1 => writer.append(Data, next as u32 * 40, &[METADATA, &[next as u8]].concat(), now).unwrap(),
        2 => writer.append(Audio, next as u32 * 40, AAC_HEADER, now).unwrap(),
        _ => {}
    }
    for number in next..next + u64::from(batch.frames) {
        writer.append(Video, number as u32 * 40, &video(number % 7 == 0, number, 100), at(number * 40)).unwrap();
        writer.append(Audio, number as u32 * 40 + 3, &audio(number, 20), at(number * 40)).unwrap();
    }
    next + u64::from(batch.frames)
}

fn begin(place: &Place) -> Writer {
    let mut writer = Writer::open(&place.root, &place.key, &OPTIONS, at(0)).unwrap();
    writer.begin_publish(at(0)).unwrap();
    writer.append(Data, 0, METADATA, at(0)).unwrap();
    writer.append(Video, 0, AVC_HEADER, at(0)).unwrap();
    writer
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn readers_see_no_difference(batches in batches()) {
        let (whole, cut) = (place(), place());
        let (mut steady, mut moved) = (begin(&whole), begin(&cut));
        let mut next = 0;
        for batch in &batches {
            let after = append(&mut steady, batch, next);
            steady.commit(at(after * 40)).unwrap();
            append(&mut moved, batch, next);
            prop_assert!(moved.write().unwrap());
            let saved = Saved::of(&moved);
            if !matches!(batch.cut, Cut::Saved) {
                moved.publish(at(after * 40));
            }
            if matches!(batch.cut, Cut::Unsaved) {
                // Written, and perhaps even in a new block, but nobody will know of it.
                append(&mut moved, &Batch { frames: 9, change: 0, cut: Cut::No }, after);
                prop_assert!(moved.write().unwrap());
            }
            if !matches!(batch.cut, Cut::No) {
                drop(moved);
                moved = saved.resume(&cut, after * 40).unwrap();
            }
            next = after;
            let (one, other) = (whole.reader(), cut.reader());
            prop_assert_eq!(one.commit(), other.commit());
            prop_assert_eq!(one.newest_keyframe(), other.newest_keyframe());
            prop_assert_eq!(one.generation(), other.generation());
            prop_assert_eq!(one.counters(), other.counters());
            prop_assert_eq!(one.block(one.commit().block), other.block(other.commit().block));
        }
        prop_assert_eq!(read_all(&whole.reader()), read_all(&cut.reader()));
        prop_assert_eq!(whole.log_files(), cut.log_files());
        for mut writer in [steady, moved] {
            writer.end_publish(at(next * 40)).unwrap();
        }
        whole.check_lengths();
        cut.check_lengths();
    }
}

#[test]
fn a_publisher_that_was_just_ending_begins_another_block() {
    let place = place();
    let mut writer = begin(&place);
    append(&mut writer, &Batch { frames: 3, change: 9, cut: Cut::No }, 0);
    assert!(writer.write().unwrap());
    let saved = Saved::of(&writer);
    writer.publish(at(200));
    writer.end_publish(at(200)).unwrap();
    drop(writer);
    assert_eq!(place.reader().state(), State::Waiting);
    let before = read_all(&place.reader());
    let mut resumed = saved.resume(&place, 300).unwrap();
    assert_eq!(place.reader().state(), State::Live);
    append(&mut resumed, &Batch { frames: 2, change: 9, cut: Cut::No }, 3);
    resumed.commit(at(400)).unwrap();
    let after = read_all(&place.reader());
    assert_eq!((&after[..before.len()], after.len()), (&before[..], before.len() + 4));
    assert_eq!((resumed.epoch(), place.reader().commit().block), (1, 2));
}

#[test]
fn a_log_that_somebody_else_has_written_since_is_not_resumed() {
    let place = place();
    let mut writer = begin(&place);
    append(&mut writer, &Batch { frames: 3, change: 9, cut: Cut::No }, 0);
    assert!(writer.write().unwrap());
    let saved = Saved::of(&writer);
    assert!(matches!(saved.resume(&place, 100), Err(OpenError::Locked)), "its writer is still there");
    writer.publish(at(100));
    append(&mut writer, &Batch { frames: 1, change: 9, cut: Cut::No }, 3);
    writer.commit(at(200)).unwrap();
    drop(writer);
    assert!(matches!(saved.resume(&place, 300), Err(OpenError::Changed)), "more was published");
    let mut other = Writer::open(&place.root, &place.key, &OPTIONS, at(300)).unwrap();
    other.begin_publish(at(300)).unwrap();
    drop(other);
    assert!(matches!(saved.resume(&place, 400), Err(OpenError::Changed)), "another publisher has it");
}
