//! `braidcast index`: rebuild a stream's live index from its segments, and make an index of a part of its past.
//!
//! Both print what they did (errors go to standard error), and work on a stream's directory or on its `hls/` directory, whether the server runs or not.

use super::scan::{Found, scan};
use super::state::SavedState;
use super::store::clip_text;
use super::{INDEX, files};
use braidcast_protocols::hls::SegmentInfo;
use braidcast_protocols::hls::clock::{ClipTime, format_iso8601};
use braidcast_protocols::hls::playlist::{self, Playlist};
use braidcast_protocols::http::is_index_name;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Exit status: everything was as it should be.
pub const DONE: u8 = 0;
/// Exit status: something could not be done, or a check failed.
pub const FAILED: u8 = 1;

/// By how much ffprobe's duration may differ from ours. It cannot know how long the last frame stands, and counts audio that reaches
/// beyond the cut: a tenth of a second, and a fiftieth of the segment.
fn tolerance_s(duration_s: f64) -> f64 {
    0.1 + duration_s / 50.0
}

/// Scans a stream's segments and writes its live index from what they say.
pub fn rebuild(directory: &Path, verify_with_ffprobe: bool, out: &mut dyn Write) -> u8 {
    report(rebuild_in(&hls_dir(directory), verify_with_ffprobe, out))
}

/// Writes the index `name` of the segments that show any part of the time from `start` to `end`; `now_wall_ms` is what relative times
/// count from.
pub fn clip(directory: &Path, start: &str, end: &str, name: &str, now_wall_ms: u64, out: &mut dyn Write) -> u8 {
    report(clip_in(&hls_dir(directory), [start, end], name, now_wall_ms, out))
}

fn report(result: Result<bool, String>) -> u8 {
    match result {
        Ok(true) => DONE,
        Ok(false) => FAILED,
        Err(message) => {
            eprintln!("braidcast: {message}");
            FAILED
        }
    }
}

/// `DIR/hls` if there is one, else `DIR`.
fn hls_dir(directory: &Path) -> PathBuf {
    let inside = directory.join("hls");
    if inside.is_dir() { inside } else { directory.to_owned() }
}

fn rebuild_in(directory: &Path, verify: bool, out: &mut dyn Write) -> Result<bool, String> {
    let say = |error: io::Error| error.to_string();
    let segments = list(directory, out)?;
    let foreign = segments.iter().filter(|found| found.foreign).count();
    if foreign > 0 {
        writeln!(out, "{foreign} of them do not say what they are: measured by their presentation times").map_err(say)?;
    }
    if segments.is_empty() {
        return Err(format!("{} holds no segments: no index was written", directory.display()));
    }
    let infos = || segments.iter().map(|found| &found.info);
    let state = SavedState::load(directory).map_err(say)?;
    // Without a state nobody segments here: the index is that of a recording, whole and ended.
    let playlist = match &state {
        Some(state) => {
            Playlist { segments: playlist::window(infos(), state.window_ms), longest_90k: state.longest_90k, ended: state.ended }
        }
        None => Playlist { segments: infos().collect(), longest_90k: 0, ended: true },
    };
    let (first, last) = (playlist.segments[0].number, infos().next_back().map_or(0, |info| info.number));
    let text = playlist::write(&playlist);
    files::replace(directory, INDEX, text.as_bytes()).map_err(|error| format!("{}: {error}", directory.join(INDEX).display()))?;
    let ended = if playlist.ended { ", ended" } else { "" };
    writeln!(out, "wrote {}: segments {first} to {last}{ended}", directory.join(INDEX).display()).map_err(say)?;
    if verify { verify_all(directory, &segments, out) } else { Ok(true) }
}

fn clip_in(directory: &Path, range: [&str; 2], name: &str, now_wall_ms: u64, out: &mut dyn Write) -> Result<bool, String> {
    let say = |error: io::Error| error.to_string();
    let time = |text| ClipTime::parse(text).map(|time| time.resolve(now_wall_ms)).map_err(|error| error.to_string());
    let (start_ms, end_ms) = (time(range[0])?, time(range[1])?);
    if start_ms >= end_ms {
        return Err(format!("the end ({}) must be after the start ({})", format_iso8601(end_ms), format_iso8601(start_ms)));
    }
    if !is_index_name(name) || format!("{name}.m3u8") == INDEX {
        return Err(format!("{name:?} cannot be an index's name: letters, digits, '_', '-' and '.', not \"index\""));
    }
    let segments = list(directory, out)?;
    let chosen: Vec<&SegmentInfo> = playlist::clip(segments.iter().map(|found| &found.info), start_ms, end_ms);
    let (Some(first), Some(last)) = (chosen.first(), chosen.last()) else {
        return Err(format!("no segment shows anything from {} to {}", format_iso8601(start_ms), format_iso8601(end_ms)));
    };
    let (first, last, count) = (first.number, last.number, chosen.len());
    let seconds = chosen.iter().map(|info| info.duration_90k).sum::<u64>() as f64 / 90_000.0;
    let file = format!("{name}.m3u8");
    files::replace(directory, &file, clip_text(chosen).as_bytes())
        .map_err(|error| format!("{}: {error}", directory.join(&file).display()))?;
    writeln!(out, "wrote {}: {count} segments, {first} to {last}, {seconds:.3} s", directory.join(&file).display()).map_err(say)?;
    Ok(true)
}

fn list(directory: &Path, out: &mut dyn Write) -> Result<Vec<Found>, String> {
    let found = scan(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    let lines = || -> io::Result<()> {
        for skipped in &found.skipped {
            writeln!(out, "skipped {}: {}", skipped.name, skipped.why)?;
        }
        let bytes: u64 = found.segments.iter().map(|segment| segment.bytes).sum();
        writeln!(out, "{} segments, {bytes} bytes, in {}", found.segments.len(), directory.display())
    };
    let mut lines = lines;
    lines().map_err(|error| error.to_string())?;
    Ok(found.segments)
}

fn verify_all(directory: &Path, segments: &[Found], out: &mut dyn Write) -> Result<bool, String> {
    let mut wrong = 0;
    for found in segments {
        let path = files::segment(directory, found.info.number);
        let ours = found.info.duration_90k as f64 / 90_000.0;
        let line = match ffprobe_duration_s(&path)? {
            Ok(theirs) if (ours - theirs).abs() <= tolerance_s(ours) => continue,
            Ok(theirs) => format!("{ours:.3} s, ffprobe says {theirs:.3} s"),
            Err(why) => format!("ffprobe cannot read it: {why}"),
        };
        wrong += 1;
        writeln!(out, "{}: {line}", path.display()).map_err(|error| error.to_string())?;
    }
    let right = segments.len() - wrong;
    writeln!(out, "ffprobe agrees with {right} of {} segments", segments.len()).map_err(|error| error.to_string())?;
    Ok(wrong == 0)
}

/// The duration that ffprobe finds; the inner error is about the file, the outer one about ffprobe itself.
fn ffprobe_duration_s(path: &Path) -> Result<Result<f64, String>, String> {
    let arguments = ["-v", "error", "-show_entries", "format=duration", "-of", "default=noprint_wrappers=1:nokey=1"];
    let output = Command::new("ffprobe").args(arguments).arg(path).output().map_err(|error| format!("ffprobe cannot be run: {error}"))?;
    let printed = String::from_utf8_lossy(&output.stdout);
    Ok(printed.trim().parse().map_err(|_| {
        let message = String::from_utf8_lossy(&output.stderr);
        message.lines().next().unwrap_or("it tells no duration").to_owned()
    }))
}

#[cfg(test)]
#[path = "cli_tests.rs"]
mod tests;
