//! Playlists of real servers, ours, and ones that nobody should write.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::hls::SegmentInfo;
use crate::hls::playlist::{self, Playlist};
use proptest::prelude::*;

/// As SRS 7 wrote it after a publisher had come back.
const SRS: &str = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-MEDIA-SEQUENCE:2\n#EXT-X-TARGETDURATION:3\n#EXTINF:2.000, no desc\n2.ts\n\
    #EXTINF:2.000, no desc\n3.ts\n#EXTINF:0.960, no desc\n4.ts\n#EXT-X-DISCONTINUITY\n#EXTINF:2.023, no desc\n5.ts\n\
    #EXTINF:2.000, no desc\n6.ts\n#EXTINF:1.960, no desc\n7.ts\n";
/// As nginx-rtmp 1.2 wrote it.
const NGINX: &str = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-MEDIA-SEQUENCE:0\n#EXT-X-TARGETDURATION:2\n#EXT-X-DISCONTINUITY\n\
    #EXTINF:2.000,\n0.ts\n#EXTINF:0.986,\n1.ts\n";

fn durations(playlist: &MediaPlaylist<'_>) -> Vec<u64> {
    playlist.segments.iter().map(|listed| listed.duration_90k.unwrap()).collect()
}

#[test]
fn what_real_servers_write() {
    let srs = parse(SRS).unwrap();
    assert_eq!(durations(&srs), [180_000, 180_000, 86_400, 182_070, 180_000, 176_400]);
    assert_eq!(srs.segments.iter().map(|listed| listed.sequence).collect::<Vec<_>>(), [2, 3, 4, 5, 6, 7]);
    assert_eq!(srs.segments.iter().filter_map(Listed::file_name).collect::<Vec<_>>(), ["2.ts", "3.ts", "4.ts", "5.ts", "6.ts", "7.ts"]);
    assert_eq!(srs.segments.iter().position(|listed| listed.discontinuity), Some(3));
    assert!(!srs.ended);
    let nginx = parse(NGINX).unwrap();
    assert_eq!(durations(&nginx), [180_000, 88_740]);
    assert!(nginx.segments[0].discontinuity && !nginx.segments[1].discontinuity);
    // Line ends of another kind, and an end.
    let other = format!("{}#EXT-X-ENDLIST\n", SRS).replace('\n', "\r\n");
    assert_eq!(parse(&other).unwrap(), MediaPlaylist { ended: true, ..srs });
}

#[test]
fn what_is_said_of_a_segment_is_of_that_one_alone() {
    let text = "#EXTM3U\n#EXT-X-PROGRAM-DATE-TIME:2026-01-31T12:00:00.500Z\n#EXTINF:4\na.ts\nb.ts\n#EXT-X-GAP\n#EXTINF:4,\nc.ts\n\
                #EXT-X-BYTERANGE:75232@0\n#EXTINF:4,\nd.ts\n#EXT-X-KEY:METHOD=AES-128,URI=\"k\"\n#EXTINF:4,\ne.ts\n#EXTINF:4,\nf.ts\n\
                #EXT-X-KEY:METHOD=NONE\n#EXTINF:4,\ng.ts\n";
    let playlist = parse(text).unwrap();
    let said: Vec<_> = playlist.segments.iter().map(|listed| listed.duration_90k).collect();
    use Unusable::{Duration, Encrypted, Gap, PartOfFile};
    assert_eq!(said, [Ok(360_000), Err(Duration), Err(Gap), Err(PartOfFile), Err(Encrypted), Err(Encrypted), Ok(360_000)]);
    let walls: Vec<_> = playlist.segments.iter().filter_map(|listed| listed.wall_start_ms).collect();
    assert_eq!(walls, [1_769_860_800_500]);
}

#[test]
fn durations_that_none_are() {
    let duration = |text: &str| parse(&format!("#EXTM3U\n#EXTINF:{text}\na.ts\n")).unwrap().segments[0].duration_90k;
    for (text, ticks) in
        [("1", 90_000), ("0.000012,", 1), (" 2.5 , x", 225_000), ("3600", MAX_DURATION_90K), ("1.0000000000000001", 90_000)]
    {
        assert_eq!(duration(text), Ok(ticks), "{text}");
    }
    for text in ["", "0", "0.000001", "-1", "+1", "1e3", "nan", "inf", "3600.1", "99999999999999999999999", "1.", ".5", "1.x", "1.2.3", "١"]
    {
        assert_eq!(duration(text), Err(Unusable::Duration), "{text}");
    }
}

#[test]
fn a_name_is_a_file_beside_the_playlist_or_none() {
    let name = |uri| Listed { sequence: 0, uri, discontinuity: false, wall_start_ms: None, duration_90k: Ok(1) }.file_name();
    for uri in ["0.ts", "stream-0.ts", "ü.ts", "a b.ts", "x?y.ts"] {
        assert_eq!(name(uri), Some(uri));
    }
    for uri in ["", ".", "..", "../0.ts", "/etc/passwd", "a/0.ts", "http://h/0.ts", ".hidden", "a\\b", "a\0b", "a\tb", &"x".repeat(256)] {
        assert_eq!(name(uri), None, "{uri:?}");
    }
}

#[test]
fn what_is_no_media_playlist_is_refused() {
    use PlaylistError::{Master, NoPlaylist, Sequence, TooLong};
    for text in ["", "#EXTM3U", "0.ts\n", "\u{feff}#EXTM3U\n", "#EXTM3U8\n", "\n#EXTM3U\n"] {
        assert_eq!(parse(text), Err(NoPlaylist), "{text:?}");
    }
    assert_eq!(parse("#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\na.m3u8\n"), Err(Master));
    for sequence in ["x", "-1", "", "18446744073709551616", " 1 x"] {
        assert_eq!(parse(&format!("#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:{sequence}\n")), Err(Sequence));
    }
    assert_eq!(parse("#EXTM3U\na.ts\n#EXT-X-MEDIA-SEQUENCE:1\n"), Err(Sequence));
    assert_eq!(parse("#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:18446744073709551615\na.ts\nb.ts\n"), Err(Sequence));
    assert_eq!(parse(&format!("#EXTM3U\n{}", "a\n".repeat(MAX_SEGMENTS + 1))), Err(TooLong));
    assert_eq!(parse(&format!("#EXTM3U\n{}\n", "a".repeat(MAX_BYTES))), Err(TooLong));
}

proptest! {
    #[test]
    fn what_we_write_is_read(shape in prop::collection::vec((1u64..900_000, any::<bool>()), 1..30), first in 1u64..1 << 40, ended: bool) {
        let (mut start, mut infos) = (0, Vec::new());
        for (number, (duration_90k, discontinuity)) in (first..).zip(shape) {
            infos.push(SegmentInfo {
                stream: "v/a/s".into(), number, duration_90k, media_start_90k: start, media_end_90k: start + duration_90k,
                wall_start_ms: 1_769_860_800_000 + start / 90, wall_end_ms: 0, discontinuity, discontinuity_sequence: 0, independent: true,
            });
            start += duration_90k;
        }
        let text = playlist::write(&Playlist { segments: infos.iter().collect(), longest_90k: 0, ended });
        let read = parse(&text).unwrap();
        prop_assert_eq!(read.ended, ended);
        prop_assert_eq!(read.segments.len(), infos.len());
        for (listed, info) in read.segments.iter().zip(&infos) {
            prop_assert_eq!((listed.sequence, listed.discontinuity, listed.wall_start_ms), (info.number, info.discontinuity, Some(info.wall_start_ms)));
            prop_assert_eq!(listed.file_name().unwrap(), format!("{}.ts", info.number));
            prop_assert!(listed.duration_90k.unwrap_or(1).abs_diff(info.duration_90k) <= 1);
        }
    }

    /// A playlist that is being written in place is one that names fewer segments.
    #[test]
    fn a_text_that_is_cut_names_a_beginning(cut in 0..SRS.len()) {
        let whole = parse(SRS).unwrap();
        if let Ok(part) = parse(&SRS[..cut]) {
            prop_assert_eq!(&whole.segments[..part.segments.len()], &part.segments[..]);
        }
    }

    #[test]
    fn no_text_panics(lines in prop::collection::vec("(#EXTINF:|#EXT-X-MEDIA-SEQUENCE:|#EXT-X-KEY:|#EXT-X-PROGRAM-DATE-TIME:)?\\PC{0,12}", 0..20)) {
        let _ = parse(&format!("#EXTM3U\n{}\n", lines.join("\n")));
    }
}
