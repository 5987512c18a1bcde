//! A file that another server calls a segment: is it finished, is it one, does it carry our packet already?
//!
//! Only its ends are read.

use braidcast_protocols::hls::SegmentInfo;
use braidcast_protocols::hls::media_playlist::{Listed, MediaPlaylist};
use braidcast_protocols::mpegts::{self, PACKET_BYTES};
use braidcast_sys::Dir;
use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// The first byte of each packet (ISO/IEC 13818-1 section 2.4.3.3).
const SYNC: u8 = 0x47;
/// How far into a file its first presentation time is looked for.
const HEAD_BYTES: usize = 256 << 10;
/// Directory entries that are looked at in a sweep, at most.
const MAX_SWEPT: usize = 1 << 14;
/// A file that is not twice as old as everything in the playlist, and this, is not swept away.
const LEFT_ALONE: Duration = Duration::from_secs(10);

/// What a name stands for.
pub(super) enum Seen {
    /// Nothing.
    Absent,
    /// A file that was written to after the playlist.
    Unfinished,
    /// Something that is no file that can be read and written.
    NoFile(String),
    /// A file that is no segment.
    Refused(String),
    Segment(Candidate),
}

/// A finished segment of another server.
pub(super) struct Candidate {
    pub file: File,
    /// What is the other server's: whole packets, without ours.
    pub media_bytes: u64,
    /// When it was finished, in Unix milliseconds.
    pub wall_end_ms: u64,
}

/// Looks at a file. The playlist that names it was written at `listed_at`: a server that starts its numbers anew may be writing to
/// a file that an old playlist names.
pub(super) fn look_at(directory: &Dir, name: &str, listed_at: SystemTime) -> Seen {
    let file = match directory.open_regular(name, true) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Seen::Absent,
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Seen::NoFile("it is no ordinary file".to_owned()),
        Err(error) => return Seen::NoFile(format!("it cannot be opened: {error}")),
    };
    judge(file, listed_at).unwrap_or_else(|error| Seen::Refused(format!("it cannot be read: {error}")))
}

fn judge(file: File, listed_at: SystemTime) -> io::Result<Seen> {
    let metadata = file.metadata()?;
    let (bytes, modified) = (metadata.len(), metadata.modified()?);
    let packet = PACKET_BYTES as u64;
    let mut last = [0; PACKET_BYTES];
    // A last packet that is not whole is no packet; a whole one may be ours.
    let odd = bytes % packet;
    let tail = &mut last[..if odd > 0 { odd } else { packet.min(bytes) } as usize];
    file.read_exact_at(tail, bytes - tail.len() as u64)?;
    // Our own packet, whole or not, is no sign of a server that still writes.
    let marked = SegmentInfo::begins(tail);
    if !marked && modified > listed_at {
        return Ok(Seen::Unfinished);
    }
    let wall_end_ms = match SegmentInfo::from_packet(tail) {
        Some(info) => info.wall_end_ms,
        None => modified.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX)),
    };
    let media_bytes = if odd > 0 || marked { bytes - tail.len() as u64 } else { bytes };
    let mut head = [0; PACKET_BYTES + 1];
    if media_bytes < 2 * packet {
        return Ok(Seen::Refused(format!("it has only {bytes} bytes")));
    }
    file.read_exact_at(&mut head, 0)?;
    if head[0] != SYNC || head[PACKET_BYTES] != SYNC {
        return Ok(Seen::Refused("it is no MPEG-TS: its packets do not begin with 0x47".to_owned()));
    }
    Ok(Seen::Segment(Candidate { file, media_bytes, wall_end_ms }))
}

/// Deletes files beside a playlist that it does not name, and that are older than all it names: what a server left that was
/// ended, or that nobody collected from for long. Best effort: they only take room.
pub(super) fn sweep(directory: &Path, playlist: &MediaPlaylist<'_>, listed_at: SystemTime) {
    let listed: HashSet<&str> = playlist.segments.iter().filter_map(Listed::file_name).collect();
    let ticks = playlist.segments.iter().filter_map(|listed| listed.duration_90k.ok()).fold(0, u64::saturating_add);
    let age = Duration::from_millis(ticks / 90).saturating_mul(2) + LEFT_ALONE;
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.take(MAX_SWEPT).flatten() {
        let name = entry.file_name();
        let segment = name.to_str().is_some_and(|name| (name.ends_with(".ts") || name.ends_with(".tmp")) && !listed.contains(name));
        let old = || Some(entry.metadata().ok().filter(fs::Metadata::is_file)?.modified().ok()? + age < listed_at);
        if segment && old() == Some(true) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

impl Candidate {
    /// The first presentation time, in 1/90,000 s; `None` if there is none near the start.
    pub(super) fn first_pts_90k(&self) -> Option<u64> {
        let mut head = vec![0; usize::try_from(self.media_bytes).unwrap_or(usize::MAX).min(HEAD_BYTES)];
        self.file.read_exact_at(&mut head, 0).ok()?;
        Some(mpegts::scan(&head)?.first_pts_90k)
    }
}
