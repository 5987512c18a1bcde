#![allow(clippy::unwrap_used)]

use super::super::ledger::{Ledger, Next, OPEN, Source};
use super::super::rendition::Form;
use super::*;
use braidcast_media::TrackChoice;
use braidcast_stream_log::{LogOptions, Now, Root, Writer};

const KEYFRAME: [u8; 6] = [0x17, 1, 0, 0, 0, 9];
const FRAME: [u8; 6] = [0x27, 1, 0, 0, 0, 8];

const RTMP: Rendition = Rendition::RTMP;

struct Stream {
    _directory: tempfile::TempDir,
    writer: Writer,
    local: LocalStream,
    at_ms: u32,
}

fn pace() -> Pace {
    Pace::new(crate::config::Latency::Low, 350, 0)
}

fn now(ms: u32) -> Now {
    Now { mono_ms: 1_000_000 + u64::from(ms), wall_ms: 5_000_000 + u64::from(ms) }
}

impl Stream {
    /// Blocks of one second, kept for `keep_ms`.
    fn new(keep_ms: u64) -> Self {
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        let (root, key) = (Root::new(directory.path().to_path_buf()), StreamKey::new("v", "a", "s").unwrap());
        let options = LogOptions { block_min_ms: 1_000, block_max_ms: 1_000, block_max_bytes: 1 << 20, keep_ms, budget_bytes: 64 << 20 };
        let mut writer = Writer::open(&root, &key, &options, now(0)).unwrap();
        writer.begin_publish(now(0)).unwrap();
        let reader = Reader::open(&root, &key).unwrap().unwrap();
        Self { _directory: directory, writer, local: LocalStream::new(key, reader, pace()), at_ms: 0 }
    }

    /// Writes so many seconds of video at 10 frames a second; a keyframe at the beginning of each second `keys` says.
    fn write(&mut self, seconds: u32, keys: impl Fn(u32) -> bool) {
        for frame in 0..10 * seconds {
            let payload = if frame % 10 == 0 && keys(frame / 10) { KEYFRAME } else { FRAME };
            self.writer.append(RecordKind::Video, self.at_ms, &payload, now(self.at_ms)).unwrap();
            self.writer.commit(now(self.at_ms)).unwrap();
            self.at_ms += 100;
        }
    }
}

/// The payloads of what a ledger gives at once, and how many of them are keyframes.
fn take(ledger: &mut Ledger, view: &View<'_>, rendition: Rendition) -> (usize, usize) {
    let mut bytes = Vec::new();
    while let Next::Slices(slices) = ledger.gather(view, &[]) {
        slices.as_slice().iter().for_each(|slice| bytes.extend_from_slice(slice));
        let total = slices.total();
        ledger.advance(total);
    }
    if rendition == RTMP {
        let count = |what: &[u8]| bytes.windows(what.len()).filter(|window| *window == what).count();
        return (count(&KEYFRAME) + count(&FRAME), count(&KEYFRAME));
    }
    let records: Vec<_> = flv::records(&bytes).filter(|record| record.header.kind == RecordKind::Video).collect();
    (records.len(), records.iter().filter(|record| record.payload == KEYFRAME).count())
}

#[test]
fn a_viewer_that_comes_late_into_a_long_group_of_pictures_gets_all_of_it() {
    for rendition in [Rendition::LOG, RTMP] {
        let mut stream = Stream::new(60_000);
        stream.write(2, |second| second == 0);
        let (block, _) = stream.local.start(rendition).unwrap().unwrap();
        stream.local.join(0, rendition);
        assert_eq!(block, 1);
        // The first viewer keeps up, so that only the newest blocks are at hand when the second one comes.
        stream.write(4, |_| false);
        stream.local.update().unwrap();
        stream.local.seen = stream.local.reader.commit();
        stream.local.let_go(|_| Some((rendition, (6, 0))));
        let (block, offset) = stream.local.start(rendition).unwrap().unwrap();
        assert_eq!(block, 1, "the only keyframe");
        let mut ledger = Ledger::default();
        ledger.push(Source::Run { block, offset, end: OPEN }).unwrap();
        assert_eq!(take(&mut ledger, &stream.local.blocks(rendition), rendition), (60, 1), "{rendition:?}");
    }
}

#[test]
fn a_viewer_whose_stream_went_on_without_its_worker_is_stranded_at_a_message_and_can_go_on() {
    for rendition in [Rendition::LOG, RTMP] {
        let mut stream = Stream::new(2_000);
        stream.write(1, |_| true);
        stream.write(1, |_| true);
        let (block, offset) = stream.local.start(rendition).unwrap().unwrap();
        stream.local.join(0, rendition);
        let mut ledger = Ledger::default();
        ledger.push(Source::Run { block, offset, end: OPEN }).unwrap();
        // Half of what it could have had, in the middle of a message.
        let view = stream.local.blocks(rendition);
        let Next::Slices(slices) = ledger.gather(&view, &[]) else { panic!("nothing to send") };
        let sent = slices.total() / 2;
        ledger.advance(sent);
        stream.write(20, |_| true);
        stream.local.update().unwrap();
        let (at_block, at) = ledger.position().unwrap();
        assert!(!stream.local.is_stranded(at_block, at, rendition), "what it had begun is still there");
        take(&mut ledger, &stream.local.blocks(rendition), rendition);
        let (at_block, at) = ledger.position().unwrap();
        assert_eq!(at_block, block);
        assert!(stream.local.is_stranded(at_block, at, rendition));
        assert_eq!(stream.local.blocks(rendition).boundary(at_block, at), at);
        let target = stream.local.start(rendition).unwrap().unwrap();
        assert!(target.0 > block + 10);
        ledger.abandon(&stream.local.blocks(rendition));
        assert!(ledger.is_empty());
        ledger.push(Source::Run { block: target.0, offset: target.1, end: OPEN }).unwrap();
        assert_eq!(take(&mut ledger, &stream.local.blocks(rendition), rendition), (10, 1), "{rendition:?}");
    }
}

#[test]
fn leaving_in_the_middle_of_a_round_skips_nobody_and_serves_nobody_twice() {
    for gone in 0..8 {
        for served in 0..=8 {
            let mut stream = Stream::new(60_000);
            let mut places: Vec<Option<usize>> = (0..8).map(|session| Some(stream.local.join(session, Rendition::LOG))).collect();
            stream.local.next_viewer = served;
            let before: Vec<usize> = stream.local.viewers[served..].to_vec();
            for (session, place) in stream.local.leave(gone, Rendition::LOG).into_iter().flatten() {
                places[session] = Some(place);
            }
            places[gone] = None;
            for (session, place) in places.iter().enumerate().filter_map(|(session, place)| Some((session, (*place)?))) {
                assert_eq!(stream.local.viewers[place], session, "{gone} leaves, {served} were served");
            }
            let mut left: Vec<usize> = stream.local.viewers[stream.local.next_viewer..].to_vec();
            left.sort_unstable();
            assert_eq!(left, before.into_iter().filter(|session| *session != gone).collect::<Vec<_>>());
        }
    }
}

/// Every rendition there is.
fn all_renditions() -> impl Iterator<Item = Rendition> {
    let tracks = [TrackChoice::All, TrackChoice::First, TrackChoice::Audio, TrackChoice::Video, TrackChoice::Neither];
    let forms = [Form::Flv, Form::Rtmp, Form::WebSocket, Form::Ts, Form::Aac, Form::Mp3];
    forms.into_iter().flat_map(move |form| tracks.map(|tracks| Rendition { form, tracks }))
}

/// All bytes of all blocks of a rendition, and where its messages begin.
fn rendered(local: &LocalStream, rendition: Rendition) -> Vec<(Vec<u8>, Vec<u32>)> {
    let view = local.blocks(rendition);
    let block = |number| {
        let bytes = view.available(number)?.bytes;
        let mut boundaries = vec![view.boundary(number, 0)];
        while let Some(next) =
            boundaries.last().map(|last| view.boundary(number, last + 1)).filter(|next| *next > boundaries[boundaries.len() - 1])
        {
            boundaries.push(next);
        }
        Some((view.bytes(number, 0, bytes).to_vec(), boundaries))
    };
    (1..).map_while(block).collect()
}

#[test]
fn every_worker_makes_the_same_bytes_of_every_rendition() {
    let mut stream = Stream::new(60_000);
    let (directory, key) = (stream._directory.path().to_path_buf(), stream.local.key.clone());
    let headers: [(RecordKind, &[u8]); 2] =
        [(RecordKind::Video, b"\x17\0\0\0\0\x01\x64\0\x1f\xff\xe1\0\x01\x67\x01\0\x01\x68"), (RecordKind::Audio, &[0xaf, 0, 0x12, 0x10])];
    for (kind, payload) in headers {
        stream.writer.append(kind, 0, payload, now(0)).unwrap();
    }
    for (session, rendition) in all_renditions().enumerate() {
        stream.local.join(session, rendition);
    }
    for frame in 0..50_u32 {
        let keyframe = frame % 10 == 0;
        let first = if keyframe { 0x17 } else { 0x27 };
        let picture = [&[first, 1, 0, 0, 0, 0, 0, 0, 3, 0x65][..], &[frame as u8; 2]].concat();
        stream.writer.append(RecordKind::Video, frame * 100, &picture, now(frame * 100)).unwrap();
        for (track, sound) in [(0, &b"\xaf\x01sound"[..]), (1, b"\x95\x01mp4a\x01second")] {
            stream.writer.append(RecordKind::Audio, frame * 100 + track, sound, now(frame * 100)).unwrap();
        }
        stream.writer.commit(now(frame * 100)).unwrap();
        // The viewer at hand comes along in every step.
        if frame == 0 {
            for rendition in all_renditions() {
                stream.local.start(rendition).unwrap();
            }
        }
        stream.local.update().unwrap();
    }
    let reader = Reader::open(&Root::new(directory), &key).unwrap().unwrap();
    let mut late = LocalStream::new(key, reader, pace());
    for rendition in all_renditions() {
        late.join(0, rendition);
        late.hold(1, rendition).unwrap();
        let (step_by_step, at_once) = (rendered(&stream.local, rendition), rendered(&late, rendition));
        assert!(step_by_step.len() > 3, "{rendition:?}");
        assert_eq!(step_by_step, at_once, "{rendition:?}");
        for (number, (_, boundaries)) in (1..).zip(&at_once) {
            let prefix = late.prefix_bytes(number, rendition);
            for &boundary in boundaries.iter().filter(|boundary| **boundary >= prefix) {
                let place = late.in_log(rendition, number, boundary).unwrap();
                assert!(late.place_in(rendition, place).is_some_and(|back| back <= boundary), "{rendition:?} {place:?}");
            }
        }
    }
}

/// A worker that was given no time for longer than a block is kept: nobody may be sent on from where it has not seen anything.
#[test]
fn a_place_in_a_block_that_was_evicted_unseen_is_none() {
    let mut stream = Stream::new(2_000);
    stream.write(1, |_| true);
    let (block, _) = stream.local.start(Rendition::LOG).unwrap().unwrap();
    let seen = stream.local.blocks(Rendition::LOG).available(block).unwrap().bytes;
    let unseen = Position { block, offset: seen + 1 };
    stream.write(8, |_| true);
    stream.local.update().unwrap();
    for rendition in [Rendition::LOG, RTMP] {
        assert_eq!(stream.local.place_in(rendition, unseen), None, "{rendition:?}");
    }
    assert!(stream.local.place_in(Rendition::LOG, Position { block, offset: seen }).is_some());
}
