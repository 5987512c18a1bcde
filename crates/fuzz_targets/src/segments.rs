//! HLS: the segmenter, files in a stream's directory, indexes.

use crate::cut::Random;
use crate::{bounded, media};
use braidcast_media::RecordKind;
use braidcast_protocols::hls::media_playlist;
use braidcast_protocols::hls::playlist::{self, Playlist};
use braidcast_protocols::hls::{SegmentInfo, Segmenter, SegmenterOptions, SegmenterOutput, SegmenterState, segment_info};
use braidcast_protocols::mpegts::{self, PACKET_BYTES};

/// The longest decoder configuration is repeated with each keyframe, tables and a closing packet come with each segment.
const RECORD_BYTES: usize = 10 << 10;

/// What is done to a segmenter.
#[derive(Clone, Copy, Debug)]
enum Step<'a> {
    Record(RecordKind, u32, &'a [u8]),
    Discontinuity,
    Finish,
}

/// Steps: a byte that says what, four for the time, two for the length, and the payload; lengths reach to the end at most.
fn steps(mut input: &[u8]) -> Vec<Step<'_>> {
    let mut steps = Vec::new();
    while let Some((&[what, t0, t1, t2, t3, l0, l1], rest)) = input.split_first_chunk() {
        let (payload, after) = rest.split_at(usize::from(u16::from_be_bytes([l0, l1])).min(rest.len()));
        input = after;
        steps.push(match what {
            254 => Step::Discontinuity,
            255 => Step::Finish,
            what => Step::Record(media::kind_of(what), u32::from_be_bytes([t0, t1, t2, t3]), payload),
        });
    }
    steps
}

/// What came out at each step.
type Came = Vec<Vec<SegmenterOutput>>;

fn apply(segmenter: &mut Segmenter, steps: &[Step<'_>], mut after: impl FnMut(usize, &Segmenter, &[SegmenterOutput])) -> Came {
    let mut came = Vec::new();
    for (index, step) in steps.iter().enumerate() {
        match *step {
            Step::Record(kind, timestamp_ms, payload) => segmenter.handle_record(kind, timestamp_ms, payload, u64::from(timestamp_ms)),
            Step::Discontinuity => segmenter.discontinuity(),
            Step::Finish => segmenter.finish(),
        }
        let outputs: Vec<_> = std::iter::from_fn(|| segmenter.poll_output()).collect();
        after(index, segmenter, &outputs);
        came.push(outputs);
    }
    came
}

/// Records in, segments out: whole segments that say themselves what they are; and whoever goes on from a saved state writes the
/// same bytes.
pub fn segmenter(input: &[u8]) {
    let steps = steps(input);
    let options = SegmenterOptions::new(4_000);
    let mut saves: Vec<(usize, bool, SegmenterState)> = Vec::new();
    let mut segmenter = Segmenter::new(options, SegmenterState::new("v/a/s", 1));
    let came = apply(&mut segmenter, &steps, |index, segmenter, outputs| {
        if outputs.iter().any(|output| matches!(output, SegmenterOutput::Finished(_))) {
            // The record that ends a segment opens the next; anything else that ends one is done with.
            let redone = matches!(steps[index], Step::Record(..));
            saves.push((if redone { index } else { index + 1 }, redone, segmenter.state().clone()));
        }
    });
    check_segments(&steps, &came);
    let Some((from, redone, state)) = pick(&saves, input) else { return };
    let encoded = postcard::to_stdvec(state).expect("a state can be saved");
    let state = postcard::from_bytes(&encoded).expect("a state can be restored");
    let again = apply(&mut Segmenter::new(options, state), &steps[*from..], |_, _, _| {});
    let mut rest: Vec<_> = came[*from..].to_vec();
    // What the step that ended the segment had said up to its end was said.
    if let Some(first) = rest.first_mut()
        && let Some(end) = first.iter().rposition(|output| matches!(output, SegmenterOutput::Finished(_)))
        && *redone
    {
        first.drain(..=end);
    }
    let flat = |came: &[Vec<SegmenterOutput>]| came.iter().flatten().cloned().collect::<Vec<_>>();
    assert_eq!(flat(&again), flat(&rest), "a segmenter that goes on from step {from} does not write the same");
}

fn pick<'a, T>(all: &'a [T], input: &[u8]) -> Option<&'a T> {
    let seed = input.iter().map(|byte| u64::from(*byte)).sum();
    (!all.is_empty()).then(|| &all[Random(seed).below(all.len())])
}

fn check_segments(steps: &[Step<'_>], came: &Came) {
    let mut open: Option<(u64, Vec<u8>)> = None;
    let mut next = 1;
    let (mut bytes, mut allowed) = (0, 64 << 10);
    for (step, outputs) in steps.iter().zip(came) {
        if let Step::Record(_, _, payload) = step {
            allowed += RECORD_BYTES + 64 * payload.len();
        }
        for output in outputs {
            match output {
                SegmenterOutput::Started { number } => {
                    assert!(open.is_none() && *number == next, "one segment at a time, each with the next number");
                    open = Some((*number, Vec::new()));
                }
                SegmenterOutput::Bytes(more) => {
                    assert_eq!(more.len() % PACKET_BYTES, 0, "whole packets");
                    bytes += more.len();
                    open.as_mut().expect("bytes belong to a segment").1.extend_from_slice(more);
                }
                SegmenterOutput::Finished(info) => {
                    let (number, segment) = open.take().expect("only what was begun is finished");
                    assert_eq!(SegmentInfo::of_segment(&segment).as_ref(), Some(info), "a segment says itself what it is");
                    assert!(info.number == number && info.media_end_90k - info.media_start_90k == info.duration_90k);
                    next += 1;
                }
                SegmenterOutput::Unsupported(_) => {}
            }
        }
    }
    assert!(bytes <= allowed, "{bytes} bytes of segments, {allowed} are allowed");
}

/// The bytes of a file in a stream's directory: of ours, or of anybody's.
pub fn files(input: &[u8]) {
    if let Some(info) = SegmentInfo::of_segment(input) {
        assert_eq!(info.to_packet(), *input.last_chunk::<PACKET_BYTES>().expect("it was read from there"));
    }
    if let Some(scanned) = bounded(input, 2, 4 << 10, || mpegts::scan(input)) {
        assert!(scanned.has_video || scanned.has_audio);
        assert!(scanned.first_pts_90k < 1 << 33, "presentation times have 33 bits");
        // Two frames that are all of the clock apart, and the last one as long as that.
        assert!(scanned.duration_90k <= 1 << 35, "{}", scanned.duration_90k);
    }
}

/// Indexes of segments that say anything of themselves, and texts that are no index of ours.
pub fn playlists(input: &[u8]) {
    let (numbers, text) = input.split_at(input.len() / 2);
    let segments: Vec<SegmentInfo> = numbers.chunks_exact(58).map(segment).collect();
    for info in &segments {
        assert_eq!(SegmentInfo::from_packet(&info.to_packet()).as_ref(), Some(info));
    }
    let named: Vec<&SegmentInfo> = segments.iter().collect();
    let longest_90k = segments.first().map_or(0, |info| info.media_start_90k);
    let index =
        bounded(input, 32, 8 << 10, || playlist::write(&Playlist { segments: named, longest_90k, ended: input.len().is_multiple_of(2) }));
    assert!(index.starts_with("#EXTM3U\n"));
    let listed: Vec<u64> = playlist::numbers(&index).collect();
    assert_eq!(listed, segments.iter().map(|info| info.number).collect::<Vec<_>>(), "an index names its segments");
    let window = playlist::window(segments.iter(), 60_000);
    assert!(window.len() <= playlist::MAX_WINDOW_SEGMENTS);
    assert!(playlist::clip(segments.iter(), longest_90k, u64::MAX).len() <= segments.len());

    let text = String::from_utf8_lossy(text);
    let query = playlist::carried_query(&text);
    assert!(query.len() <= 3 * text.len() && !query.contains(['\n', '\r', '"', ' ']), "{query}");
    let prefix = playlist::stream_prefix(text.lines().next().unwrap_or_default());
    assert!(prefix.ends_with('/') && prefix.matches('/').count() == 1 && !prefix.contains(['\n', '?', '#']), "{prefix}");
    let rewritten = playlist::rewrite(&index, &prefix, &query);
    assert_eq!(rewritten.lines().count(), index.lines().count(), "an index keeps its lines");
    let _ = playlist::numbers(&text).count();
    let _ = playlist::rewrite(&text, "", "");
}

/// A playlist that another server wrote: each segment has its own line, each name is that of a file beside it, times are bounded.
pub fn media_playlists(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let Ok(read) = bounded(text.as_bytes(), 128, 8 << 10, || media_playlist::parse(&text)) else { return };
    assert!(read.segments.len() < text.lines().count() && read.segments.len() <= media_playlist::MAX_SEGMENTS);
    for pair in read.segments.windows(2) {
        assert_eq!(pair[1].sequence, pair[0].sequence + 1, "numbers rise by one");
    }
    for listed in &read.segments {
        assert!(text.contains(listed.uri) && !listed.uri.starts_with('#') && !listed.uri.is_empty());
        assert!(
            listed.duration_90k.is_ok_and(|ticks| (1..=media_playlist::MAX_DURATION_90K).contains(&ticks)) || listed.duration_90k.is_err()
        );
        if let Some(name) = listed.file_name() {
            let path = std::path::Path::new("/directory").join(name);
            assert_eq!(path.parent(), Some(std::path::Path::new("/directory")), "{name:?}");
            assert!(path.file_name().is_some_and(|last| last == name) && name.len() <= 255, "{name:?}");
        }
    }
    // A playlist that is cut anywhere names a beginning of it, or is none.
    let cut = text.floor_char_boundary(text.len() / 2);
    if let Ok(part) = media_playlist::parse(&text[..cut]) {
        assert_eq!(part.segments[..], read.segments[..part.segments.len()]);
    }
}

fn segment(bytes: &[u8]) -> SegmentInfo {
    let number = |index: usize| u64::from_be_bytes(bytes[index * 8..index * 8 + 8].try_into().expect("eight bytes"));
    let name: String = bytes[56..58].iter().map(|byte| char::from(*byte)).collect();
    assert!(name.len() <= segment_info::MAX_NAME_BYTES);
    SegmentInfo {
        stream: name,
        number: number(0),
        duration_90k: number(1),
        media_start_90k: number(2),
        media_end_90k: number(3),
        wall_start_ms: number(4),
        wall_end_ms: number(5),
        discontinuity: bytes[56] & 1 != 0,
        discontinuity_sequence: number(6),
        independent: bytes[57] & 1 != 0,
    }
}
