//! Playlists against a naive model, and against an independent parser.

#![allow(clippy::unwrap_used)]

use super::*;
use proptest::prelude::*;

const START_MS: u64 = 1_769_860_800_000;

/// Segments from number 1 on; each is its duration in 1/90,000 s and whether it is discontinuous.
fn segments(shape: &[(u64, bool)]) -> Vec<SegmentInfo> {
    let (mut media, mut sequence) = (7, 0);
    let mut made = Vec::new();
    for (index, &(duration_90k, discontinuity)) in shape.iter().enumerate() {
        sequence += u64::from(discontinuity);
        made.push(SegmentInfo {
            stream: "v/live/x".into(),
            number: index as u64 + 1,
            duration_90k,
            media_start_90k: media,
            media_end_90k: media + duration_90k,
            wall_start_ms: START_MS + media / 90,
            wall_end_ms: START_MS + (media + duration_90k) / 90,
            discontinuity,
            discontinuity_sequence: sequence,
            independent: true,
        });
        media += duration_90k;
    }
    made
}

fn playlist(segments: Vec<&SegmentInfo>) -> Playlist<'_> {
    Playlist { segments, longest_90k: 0, ended: false }
}

#[test]
fn the_text_of_an_index() {
    let made = segments(&[(360_360, false), (360_000, true), (359_999, false)]);
    let text = write(&Playlist { segments: made[1..].iter().collect(), longest_90k: 360_360, ended: true });
    assert_eq!(
        text,
        "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:5\n#EXT-X-MEDIA-SEQUENCE:2\n#EXT-X-INDEPENDENT-SEGMENTS\n\
         #EXT-X-DISCONTINUITY\n#EXT-X-PROGRAM-DATE-TIME:2026-01-31T12:00:04.004Z\n#EXTINF:4.000000,\n2.ts\n\
         #EXT-X-PROGRAM-DATE-TIME:2026-01-31T12:00:08.004Z\n#EXTINF:3.999989,\n3.ts\n#EXT-X-ENDLIST\n"
    );
    assert_eq!(numbers(&text).collect::<Vec<_>>(), [2, 3]);
    assert!(write(&playlist(made[2..].iter().collect())).contains("\n#EXT-X-DISCONTINUITY-SEQUENCE:1\n"));
}

#[test]
fn segments_that_need_others_are_not_called_independent() {
    let mut made = segments(&[(1, false), (1, false)]);
    made[1].independent = false;
    assert!(!write(&playlist(made.iter().collect())).contains("INDEPENDENT"));
}

#[test]
fn a_live_window_stops_at_a_missing_number_and_a_clip_marks_it() {
    let made = segments(&[(90_000, false); 6]);
    let with_gap: Vec<_> = made.iter().filter(|s| s.number != 3).collect();
    assert_eq!(window(with_gap.iter().copied(), 60_000).iter().map(|s| s.number).collect::<Vec<_>>(), [4, 5, 6]);
    assert_eq!(write(&playlist(with_gap)).matches("#EXT-X-DISCONTINUITY\n").count(), 1);
}

#[test]
fn a_clip_holds_the_segments_that_overlap_it() {
    let made = segments(&[(360_000, false); 5]);
    let at = |seconds: u64| START_MS + seconds * 1000;
    let clip_of = |start, end| clip(made.iter(), start, end).iter().map(|s| s.number).collect::<Vec<_>>();
    assert_eq!(clip_of(at(4), at(8)), [2]);
    assert_eq!(clip_of(at(4) - 1, at(8) + 1), [1, 2, 3]);
    assert_eq!(clip_of(0, u64::MAX), [1, 2, 3, 4, 5]);
    assert_eq!(clip_of(at(20), at(30)), []);
    assert_eq!(clip_of(at(8), at(4)), []);
}

#[test]
fn clock_steps_do_not_change_the_order_of_a_clip() {
    let mut made = segments(&[(360_000, false); 6]);
    for segment in &mut made[3..] {
        segment.wall_start_ms -= 10_000;
        segment.wall_end_ms -= 10_000;
    }
    made[2].wall_end_ms -= 10_000; // the step lies inside it
    let chosen: Vec<_> = clip(made.iter(), START_MS + 4_000, START_MS + 12_000).iter().map(|s| s.number).collect();
    assert_eq!(chosen, [2, 3, 4, 5, 6]);
}

#[test]
fn uris_get_a_prefix_and_a_query() {
    let made = segments(&[(1, false), (1, true)]);
    let text = rewrite(
        &write(&playlist(made.iter().collect())),
        &stream_prefix("a b/?你:%"),
        &carried_query("start=-9s&token=a%20b&x=\"é#&end=now"),
    );
    let uris: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(uris[0], "a%20b%2F%3F%E4%BD%A0%3A%25/1.ts?token=a%20b&x=%22%C3%A9%23");
    assert_eq!(uris.len(), 2);
    let plain = write(&playlist(made.iter().collect()));
    assert_eq!(rewrite(&plain, "", ""), plain);
}

/// What a player that follows a live index knows of a segment: RFC 8216 sections 6.2.1 and 6.3.
fn followed(text: &str) -> Vec<(u64, u64, u64)> {
    let value = |tag: &str| text.lines().find_map(|line| line.strip_prefix(tag)?.parse::<u64>().ok());
    let (mut number, mut sequence) = (value("#EXT-X-MEDIA-SEQUENCE:").unwrap(), value("#EXT-X-DISCONTINUITY-SEQUENCE:").unwrap_or(0));
    let mut seen = Vec::new();
    for line in text.lines() {
        if line == "#EXT-X-DISCONTINUITY" {
            sequence += 1;
        } else if !line.starts_with('#') {
            seen.push((number, line.strip_suffix(".ts").unwrap().parse().unwrap(), sequence));
            number += 1;
        }
    }
    seen
}

proptest! {
    #[test]
    fn a_live_index_is_right_at_every_moment(shape in prop::collection::vec((1u64..2_000_000, prop::bool::weighted(0.2)), 1..40), window_ms in 0u64..90_000) {
        let made = segments(&shape);
        let (mut longest, mut first_before, mut target_before) = (0, 0, 0);
        for now in 1..=made.len() {
            let chosen = window(made[..now].iter(), window_ms);
            let total: u64 = chosen.iter().map(|s| s.duration_90k).sum();
            // Enough, and no more than enough.
            prop_assert!(chosen.len() == now || (chosen.len() >= 3 && total >= window_ms * 90));
            prop_assert!(chosen.len() <= 3 || total - chosen[0].duration_90k < window_ms * 90);
            let first = chosen[0].number;
            prop_assert!(first >= first_before);
            longest = chosen.iter().map(|s| s.duration_90k).fold(longest, u64::max);
            let text = write(&Playlist { segments: chosen.clone(), longest_90k: longest, ended: false });
            for (number, file, sequence) in followed(&text) {
                prop_assert_eq!(number, file);
                let naive = made[..number as usize].iter().filter(|s| s.discontinuity).count() as u64;
                prop_assert_eq!(sequence, naive);
            }
            let parsed = m3u8_rs::parse_media_playlist_res(text.as_bytes()).unwrap();
            prop_assert!(parsed.target_duration >= target_before);
            prop_assert!(parsed.segments.iter().all(|s| s.duration.round() as u64 <= parsed.target_duration));
            prop_assert_eq!(parsed.media_sequence, first);
            prop_assert_eq!(parsed.segments.len(), chosen.len());
            prop_assert!(parsed.independent_segments && !parsed.end_list);
            prop_assert!(parsed.segments.iter().zip(&chosen).all(|(p, s)| p.discontinuity == s.discontinuity && p.program_date_time.unwrap().timestamp_millis() as u64 == s.wall_start_ms));
            (first_before, target_before) = (first, parsed.target_duration);
        }
        // Durations add up: no drift, however many segments.
        let sum: u128 = made.iter().map(duration_us).sum();
        let exact = made.iter().map(|s| u128::from(s.duration_90k)).sum::<u128>() * 100;
        prop_assert!((sum * 9).abs_diff(exact) <= 9);
    }
}
