//! What the HTTP side answers, made from the files of a stream's `hls/` directory alone: any process can.
//!
//! Nothing is changed here.

use super::scan::scan;
use super::store::clip_text;
use braidcast_protocols::hls::SegmentInfo;
use braidcast_protocols::hls::playlist;
use std::io;
use std::path::Path;

/// The live index of a stream, as `/app/stream.m3u8` serves it: segments are `stream/N.ts`, and carry `query` (without `start`, `end`).
pub fn live_index(index: &str, stream: &str, query: &str) -> String {
    playlist::rewrite(index, &playlist::stream_prefix(stream), &playlist::carried_query(query))
}

/// The segments of a directory, ordered by number; none if there is no directory. Reads from every segment: for who asks again
/// and again, remember it for a while.
///
/// # Errors
/// The directory cannot be read.
pub fn segments(directory: &Path) -> io::Result<Vec<SegmentInfo>> {
    match scan(directory) {
        Ok(scan) => Ok(scan.segments.into_iter().map(|found| found.info).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// An index that ends, of those `segments` that show any part of the time from `start_ms` up to, not including, `end_ms` (wall
/// clock), as `/app/stream.m3u8?start=…&end=…` serves it.
pub fn clip(segments: &[SegmentInfo], stream: &str, query: &str, start_ms: u64, end_ms: u64) -> Option<String> {
    let chosen: Vec<&SegmentInfo> = playlist::clip(segments.iter(), start_ms, end_ms);
    if chosen.is_empty() {
        return None;
    }
    Some(playlist::rewrite(&clip_text(chosen), &playlist::stream_prefix(stream), &playlist::carried_query(query)))
}

/// An index by name, as `/app/stream/NAME.m3u8` serves it: segments are `N.ts` beside it.
pub fn named_index(index: &str, query: &str) -> String {
    playlist::rewrite(index, "", &playlist::carried_query(query))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::hls::files;
    use std::fs;

    fn info(number: u64) -> SegmentInfo {
        SegmentInfo {
            stream: "v/live/x".into(),
            number,
            duration_90k: 360_000,
            media_start_90k: number * 360_000,
            media_end_90k: (number + 1) * 360_000,
            wall_start_ms: number * 4000,
            wall_end_ms: (number + 1) * 4000,
            discontinuity: false,
            discontinuity_sequence: 0,
            independent: true,
        }
    }

    fn uris(index: &str) -> Vec<String> {
        index.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    }

    #[test]
    fn indexes_are_written_for_where_they_are_served() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        for number in 1..=3 {
            fs::write(files::segment(directory, number), info(number).to_packet()).unwrap();
        }
        let (second, third) = (info(2), info(3));
        let index = clip_text(vec![&second, &third]);
        assert_eq!(uris(&live_index(&index, "a b", "start=1&token=x")), ["a%20b/2.ts?token=x", "a%20b/3.ts?token=x"]);
        assert_eq!(uris(&named_index(&index, "token=x")), ["2.ts?token=x", "3.ts?token=x"]);
        let clipped = clip(&segments(directory).unwrap(), "x", "end=9&start=4", 5_000, 9_000).unwrap();
        assert!(clipped.ends_with("#EXT-X-ENDLIST\n"));
        assert_eq!(uris(&clipped), ["x/1.ts", "x/2.ts"]);
    }

    #[test]
    fn what_is_not_there_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("missing");
        for directory in [directory.path(), &missing] {
            assert_eq!(segments(directory).unwrap(), []);
        }
        assert_eq!(clip(&[info(1)], "x", "", 9_000, 10_000), None);
    }
}
