//! Playlists: which segments an index names, and its text (RFC 8216 section 4).
//!
//! An index is a function of the segments alone, so that it can be written again from them. Numbers decide the order; wall clock
//! times, which can step, only say what a segment shows. Nothing here reads or writes a file.

use super::SegmentInfo;
use super::clock::format_iso8601;
use crate::http::parameters;
use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, utf8_percent_encode};
use std::fmt::Write;

/// The fewest segments of a live index, if there are as many (RFC 8216 section 6.2.2 asks for three target durations).
pub const MIN_WINDOW_SEGMENTS: usize = 3;

/// The most segments of a live index: timestamps that jump can make very short ones.
pub const MAX_WINDOW_SEGMENTS: usize = 1024;

/// What stays as it is in a path segment of a URI (RFC 3986 section 2.3).
const PATH_SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// What is no part of a query (RFC 3986 section 3.4). `%` stays: a query is passed on as it was sent.
const QUERY: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'<')
    .add(b'>')
    .add(b'#')
    .add(b'[')
    .add(b']')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// What an index says.
#[derive(Clone, Debug)]
pub struct Playlist<'a> {
    /// By number, rising. A number left out is written as a discontinuity.
    pub segments: Vec<&'a SegmentInfo>,
    /// The longest segment that any earlier version of this index named, in 1/90,000 s; 0 if there was none. The target duration
    /// covers it too, because it may not shrink while players follow (RFC 8216 section 6.2.1).
    pub longest_90k: u64,
    /// No further segment will come.
    pub ended: bool,
}

/// The segments of a live index: the newest ones that last `window_ms` together, but at least [`MIN_WINDOW_SEGMENTS`]
/// and at most [`MAX_WINDOW_SEGMENTS`].
///
/// It never reaches back over a missing number: a live index numbers its segments by counting from the first.
/// `segments` must be ordered by number.
pub fn window<'a>(segments: impl DoubleEndedIterator<Item = &'a SegmentInfo>, window_ms: u64) -> Vec<&'a SegmentInfo> {
    let mut chosen: Vec<&SegmentInfo> = Vec::new();
    let mut total_90k: u64 = 0;
    for segment in segments.rev() {
        let enough = chosen.len() >= MIN_WINDOW_SEGMENTS && total_90k >= window_ms.saturating_mul(90);
        let gap = chosen.last().is_some_and(|newer| segment.number.checked_add(1) != Some(newer.number));
        if enough || gap || chosen.len() == MAX_WINDOW_SEGMENTS {
            break;
        }
        total_90k = total_90k.saturating_add(segment.duration_90k);
        chosen.push(segment);
    }
    chosen.reverse();
    chosen
}

/// The segments that show any part of the wall clock time from `start_ms` up to, not including, `end_ms`.
/// `segments` must be ordered by number; so is the answer, whatever the clock did.
pub fn clip<'a>(segments: impl Iterator<Item = &'a SegmentInfo>, start_ms: u64, end_ms: u64) -> Vec<&'a SegmentInfo> {
    segments.filter(|segment| segment.wall_start_ms < end_ms && shown_until_ms(segment) > start_ms).collect()
}

/// When a segment ends, in wall clock milliseconds; if the clock was set back inside it, as if it had not been.
fn shown_until_ms(segment: &SegmentInfo) -> u64 {
    if segment.wall_end_ms > segment.wall_start_ms {
        segment.wall_end_ms
    } else {
        segment.wall_start_ms.saturating_add((segment.duration_90k / 90).max(1))
    }
}

/// The target duration in seconds: the longest segment's, rounded up.
fn target_duration_s(playlist: &Playlist<'_>) -> u64 {
    let longest = playlist.segments.iter().map(|segment| segment.duration_90k).fold(playlist.longest_90k, u64::max);
    longest.div_ceil(90_000).max(1)
}

/// A duration in microseconds, rounded so that the durations of successive segments add up to their distance: no drift.
fn duration_us(segment: &SegmentInfo) -> u128 {
    let us = |media_90k: u128| (media_90k * 200 + 9) / 18;
    let start = u128::from(segment.media_start_90k);
    us(start + u128::from(segment.duration_90k)) - us(start)
}

/// Writes an index whose URIs are `N.ts`, as it lies beside its segments.
pub fn write(playlist: &Playlist<'_>) -> String {
    let mut text = String::with_capacity(256 + playlist.segments.len() * 96);
    write_into(&mut text, playlist).expect("writing to a string does not fail");
    text
}

fn write_into(text: &mut String, playlist: &Playlist<'_>) -> std::fmt::Result {
    let segments = &playlist.segments;
    writeln!(text, "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:{}", target_duration_s(playlist))?;
    if let Some(first) = segments.first() {
        writeln!(text, "#EXT-X-MEDIA-SEQUENCE:{}", first.number)?;
        // The first segment's own discontinuity has its tag below; the ones before it have left the index.
        let left = first.discontinuity_sequence.saturating_sub(u64::from(first.discontinuity));
        if left > 0 {
            writeln!(text, "#EXT-X-DISCONTINUITY-SEQUENCE:{left}")?;
        }
    }
    if !segments.is_empty() && segments.iter().all(|segment| segment.independent) {
        writeln!(text, "#EXT-X-INDEPENDENT-SEGMENTS")?;
    }
    let mut before: Option<&SegmentInfo> = None;
    for segment in segments {
        let gap = before.is_some_and(|before| before.number.checked_add(1) != Some(segment.number));
        if segment.discontinuity || gap {
            writeln!(text, "#EXT-X-DISCONTINUITY")?;
        }
        writeln!(text, "#EXT-X-PROGRAM-DATE-TIME:{}", format_iso8601(segment.wall_start_ms))?;
        let us = duration_us(segment);
        writeln!(text, "#EXTINF:{}.{:06},\n{}.ts", us / 1_000_000, us % 1_000_000, segment.number)?;
        before = Some(segment);
    }
    if playlist.ended {
        writeln!(text, "#EXT-X-ENDLIST")?;
    }
    Ok(())
}

/// The numbers of the segments that an index of ours names.
pub fn numbers(index: &str) -> impl Iterator<Item = u64> {
    index.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.trim().strip_suffix(".ts")?.parse().ok())
}

/// What stands before `N.ts` in an index that is served as `/app/stream.m3u8`, where the segments are `/app/stream/N.ts`.
pub fn stream_prefix(stream: &str) -> String {
    format!("{}/", utf8_percent_encode(stream, PATH_SEGMENT))
}

/// The part of a request's query that its segments' URIs carry on (tokens, `vhost`): all but `start` and `end`.
pub fn carried_query(query: &str) -> String {
    let mut carried = String::new();
    for (name, _, pair) in parameters(query) {
        if !matches!(name, "start" | "end") {
            carried.push_str(if carried.is_empty() { "" } else { "&" });
            let _ = write!(carried, "{}", utf8_percent_encode(pair, QUERY));
        }
    }
    carried
}

/// A multivariant playlist (RFC 8216 section 4.3.4) whose one variant is beside it: `name`, with `query`. How many bits the variant has is
/// not known here, and SRS says 1.
pub fn leading_to(name: &str, query: &str) -> String {
    let (name, query) = (utf8_percent_encode(name, PATH_SEGMENT), utf8_percent_encode(query, QUERY));
    format!("#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1,AVERAGE-BANDWIDTH=1\n{name}?{query}\n")
}

/// An index with `prefix` before, and `?query` (if not empty) after each of its URIs.
pub fn rewrite(index: &str, prefix: &str, query: &str) -> String {
    let mut text = String::with_capacity(index.len() + index.len() / 4);
    for line in index.lines() {
        if line.is_empty() || line.starts_with('#') {
            text.push_str(line);
        } else {
            text.push_str(prefix);
            text.push_str(line);
            if !query.is_empty() {
                text.push('?');
                text.push_str(query);
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
#[path = "playlist_tests.rs"]
mod tests;
