//! Reads the media playlists that other servers write (RFC 8216 section 4).
//!
//! Only what is needed to take their segments over: which ones are finished, how long each lasts, where something breaks off.
//! Nothing here opens what is named. Any text is read in one pass; what is kept is bounded by [`MAX_SEGMENTS`].

use super::clock::ClipTime;
use std::fmt;

/// The longest text that is read, in bytes.
pub const MAX_BYTES: usize = 1 << 20;
/// The most segments that are read.
pub const MAX_SEGMENTS: usize = 1 << 14;
/// The longest duration that a segment may have: an hour, in 1/90,000 s.
pub const MAX_DURATION_90K: u64 = 3600 * 90_000;
/// The longest name that a file may have (`NAME_MAX` of Linux).
const MAX_NAME_BYTES: usize = 255;

/// A playlist as somebody wrote it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MediaPlaylist<'a> {
    /// What it names, in its order; numbers rise by one.
    pub segments: Vec<Listed<'a>>,
    /// No further segment will come (`EXT-X-ENDLIST`).
    pub ended: bool,
}

/// A segment that a playlist names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed<'a> {
    /// Its number in the playlist's count (`EXT-X-MEDIA-SEQUENCE`), which says nothing about its name.
    pub sequence: u64,
    /// Where it is, as it was written.
    pub uri: &'a str,
    /// It does not continue the one before it (`EXT-X-DISCONTINUITY`).
    pub discontinuity: bool,
    /// When it starts, in Unix milliseconds, if the playlist says so (`EXT-X-PROGRAM-DATE-TIME`).
    pub wall_start_ms: Option<u64>,
    /// How long it lasts, in 1/90,000 s, at least 1; or why it is of no use.
    pub duration_90k: Result<u64, Unusable>,
}

impl<'a> Listed<'a> {
    /// The name of a file beside the playlist; `None` for anything else: a path, a URL, a hidden file.
    pub fn file_name(&self) -> Option<&'a str> {
        let plain = !self.uri.starts_with('.') && !self.uri.contains(|c: char| c == '/' || c == '\\' || c.is_control());
        (plain && !self.uri.is_empty() && self.uri.len() <= MAX_NAME_BYTES).then_some(self.uri)
    }
}

/// Why a segment cannot be used although it may be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// It is encrypted (`EXT-X-KEY`).
    Encrypted,
    /// It is a part of a file (`EXT-X-BYTERANGE`).
    PartOfFile,
    /// The playlist says that it is missing (`EXT-X-GAP`).
    Gap,
    /// It has no duration, or one that no segment has.
    Duration,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Encrypted => "it is encrypted: turn encryption off in the server that writes it",
            Self::PartOfFile => "it is a part of a file, not a file",
            Self::Gap => "its playlist says that it is missing",
            Self::Duration => "its playlist does not say how long it lasts, or says what cannot be",
        })
    }
}

/// Why a text is no media playlist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlaylistError {
    /// It does not begin with `#EXTM3U`.
    NoPlaylist,
    /// It lists playlists, not segments.
    Master,
    /// It is longer than [`MAX_BYTES`], or names more than [`MAX_SEGMENTS`].
    TooLong,
    /// Its `EXT-X-MEDIA-SEQUENCE` is no number, or comes after a segment.
    Sequence,
}

impl fmt::Display for PlaylistError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPlaylist => f.write_str("it does not begin with #EXTM3U"),
            Self::Master => f.write_str("it lists playlists, not segments"),
            Self::TooLong => write!(f, "it has more than {MAX_BYTES} bytes or {MAX_SEGMENTS} segments"),
            Self::Sequence => f.write_str("its EXT-X-MEDIA-SEQUENCE is no number, or in the wrong place"),
        }
    }
}

impl std::error::Error for PlaylistError {}

/// What the tags before a URI have said of it. All but the key hold for one segment.
#[derive(Default)]
struct Said {
    duration_90k: Option<u64>,
    discontinuity: bool,
    wall_start_ms: Option<u64>,
    encrypted: bool,
    part: bool,
    gap: bool,
}

impl Said {
    fn listed<'a>(&mut self, sequence: u64, uri: &'a str) -> Listed<'a> {
        let said = std::mem::take(self);
        self.encrypted = said.encrypted;
        let duration_90k = match said {
            Self { encrypted: true, .. } => Err(Unusable::Encrypted),
            Self { part: true, .. } => Err(Unusable::PartOfFile),
            Self { gap: true, .. } => Err(Unusable::Gap),
            Self { duration_90k, .. } => duration_90k.ok_or(Unusable::Duration),
        };
        Listed { sequence, uri, discontinuity: said.discontinuity, wall_start_ms: said.wall_start_ms, duration_90k }
    }
}

/// Reads a playlist. A last line without an end is not there yet. Unknown tags are passed over.
///
/// # Errors
/// See [`PlaylistError`].
pub fn parse(text: &str) -> Result<MediaPlaylist<'_>, PlaylistError> {
    if text.len() > MAX_BYTES {
        return Err(PlaylistError::TooLong);
    }
    let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
    let mut lines = whole.lines().map(str::trim_end);
    if lines.next() != Some("#EXTM3U") {
        return Err(PlaylistError::NoPlaylist);
    }
    let (mut playlist, mut said, mut first) = (MediaPlaylist::default(), Said::default(), 0_u64);
    for line in lines.filter(|line| !line.is_empty()) {
        if !line.starts_with('#') {
            if playlist.segments.len() == MAX_SEGMENTS {
                return Err(PlaylistError::TooLong);
            }
            let sequence = first.checked_add(playlist.segments.len() as u64).ok_or(PlaylistError::Sequence)?;
            playlist.segments.push(said.listed(sequence, line));
            continue;
        }
        let (tag, value) = line.split_once(':').unwrap_or((line, ""));
        match tag {
            "#EXT-X-MEDIA-SEQUENCE" => {
                first = number(value).filter(|_| playlist.segments.is_empty()).ok_or(PlaylistError::Sequence)?;
            }
            "#EXT-X-STREAM-INF" => return Err(PlaylistError::Master),
            "#EXT-X-ENDLIST" => playlist.ended = true,
            "#EXTINF" => said.duration_90k = duration_90k(value),
            "#EXT-X-DISCONTINUITY" => said.discontinuity = true,
            "#EXT-X-KEY" => said.encrypted = !value.split(',').any(|attribute| attribute.trim() == "METHOD=NONE"),
            "#EXT-X-BYTERANGE" => said.part = true,
            "#EXT-X-GAP" => said.gap = true,
            "#EXT-X-PROGRAM-DATE-TIME" => said.wall_start_ms = wall_ms(value),
            _ => {}
        }
    }
    Ok(playlist)
}

fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// Decimal seconds before a comma, to the nearest 1/90,000 s; digits after the ninth are of no weight.
fn duration_90k(value: &str) -> Option<u64> {
    const NANOSECONDS: u64 = 1_000_000_000;
    let seconds = value.split(',').next().unwrap_or_default().trim();
    let (whole, fraction) = seconds.split_once('.').unwrap_or((seconds, "0"));
    number(fraction.get(..1)?)?;
    let nanoseconds = fraction.bytes().chain(*b"00000000").take(9).try_fold(0, |sum: u64, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        Some(sum * 10 + digit)
    })?;
    let whole = number(whole).filter(|whole| *whole <= MAX_DURATION_90K / 90_000)?;
    let duration_90k = whole * 90_000 + (nanoseconds * 90_000 + NANOSECONDS / 2) / NANOSECONDS;
    (1..=MAX_DURATION_90K).contains(&duration_90k).then_some(duration_90k)
}

/// An absolute date and time; a bare number is none here.
fn wall_ms(value: &str) -> Option<u64> {
    match ClipTime::parse(value) {
        Ok(ClipTime::At(wall_ms)) if value.contains('-') => Some(wall_ms),
        _ => None,
    }
}

#[cfg(test)]
#[path = "media_playlist_tests.rs"]
mod tests;
