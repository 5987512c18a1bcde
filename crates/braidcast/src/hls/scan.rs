//! What segments lie in a directory, told by the segments themselves.
//!
//! Of ours only the last 188 bytes are read. A file that somebody else wrote is measured by its presentation times; its wall
//! clock is its modification time. Nothing is changed.

use super::files;
use braidcast_protocols::hls::SegmentInfo;
use braidcast_protocols::mpegts::{self, PACKET_BYTES};
use braidcast_sys::clock;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// Directory entries that are looked at, at most.
const MAX_ENTRIES: usize = 1 << 16;
/// The largest foreign file that is measured, in bytes.
const MAX_FOREIGN_BYTES: u64 = 256 << 20;
/// Presentation times have 33 bits (ISO/IEC 13818-1 section 2.4.3.7).
const PTS_BITS: u32 = 33;
/// A foreign segment whose time is further from its predecessor's end than this does not continue it: half a second.
const MAX_STEP_90K: u64 = 45_000;

/// A segment that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What it is; for a foreign file as far as can be told.
    pub info: SegmentInfo,
    /// The file's length.
    pub bytes: u64,
    /// It does not say itself what it is.
    pub foreign: bool,
}

/// A file that looks like a segment and is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// The file's name.
    pub name: String,
    /// Why it was skipped.
    pub why: String,
}

/// What lies in a directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// The segments, ordered by number.
    pub segments: Vec<Found>,
    /// What was passed over, ordered by name.
    pub skipped: Vec<Skipped>,
}

/// Looks at the `*.ts` files of a directory. A file that vanishes or cannot be read meanwhile is skipped.
///
/// # Errors
/// The directory cannot be read.
pub fn scan(directory: &Path) -> io::Result<Scan> {
    let mut scan = Scan::default();
    for entry in fs::read_dir(directory)?.take(MAX_ENTRIES) {
        let Ok(name) = entry?.file_name().into_string() else { continue };
        if name.starts_with('.') || !name.ends_with(".ts") {
            continue;
        }
        match look_at(directory, &name) {
            Ok(found) => scan.segments.push(found),
            Err(why) => scan.skipped.push(Skipped { name, why }),
        }
    }
    scan.segments.sort_by_key(|found| found.info.number);
    scan.skipped.sort_by(|a, b| a.name.cmp(&b.name));
    link_foreign(&mut scan.segments);
    Ok(scan)
}

fn look_at(directory: &Path, name: &str) -> Result<Found, String> {
    let number = files::segment_number(name).ok_or("its name is not a segment's number")?;
    let unreadable = |error: io::Error| format!("it cannot be read: {error}");
    let mut file = File::open(directory.join(name)).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err("it is no file".to_owned());
    }
    let bytes = metadata.len();
    // A file under another number than its own is foreign: somebody moved it here.
    if let Some(info) = own_info(&mut file, bytes).map_err(unreadable)?.filter(|info| info.number == number) {
        return Ok(Found { info, bytes, foreign: false });
    }
    if bytes > MAX_FOREIGN_BYTES {
        return Err(format!("it does not say what it is, and is too large to be measured ({bytes} bytes)"));
    }
    let mut content = Vec::new();
    file.rewind().and_then(|()| file.take(MAX_FOREIGN_BYTES).read_to_end(&mut content)).map_err(unreadable)?;
    let scanned = mpegts::scan(&content).ok_or("it is no transport stream with presentation times")?;
    let wall_end_ms = metadata.modified().map_or(0, |at| clock::wall_ms_of_file(unix_ms(at)));
    let info = SegmentInfo {
        stream: String::new(),
        number,
        duration_90k: scanned.duration_90k,
        media_start_90k: scanned.first_pts_90k,
        media_end_90k: scanned.first_pts_90k + scanned.duration_90k,
        wall_start_ms: wall_end_ms.saturating_sub(scanned.duration_90k / 90),
        wall_end_ms,
        discontinuity: false,
        discontinuity_sequence: 0,
        // Whether it starts with a keyframe was not looked at.
        independent: false,
    };
    Ok(Found { info, bytes, foreign: true })
}

fn own_info(file: &mut File, bytes: u64) -> io::Result<Option<SegmentInfo>> {
    let Some(at) = bytes.checked_sub(PACKET_BYTES as u64) else { return Ok(None) };
    let mut packet = [0; PACKET_BYTES];
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(&mut packet)?;
    Ok(SegmentInfo::from_packet(&packet))
}

/// Says of foreign segments whether they continue their predecessors.
fn link_foreign(segments: &mut [Found]) {
    for index in 1..segments.len() {
        let (before, rest) = segments.split_at_mut(index);
        let (before, found) = (&before[index - 1].info, &mut rest[0]);
        if found.foreign {
            let info = &mut found.info;
            info.discontinuity = before.number + 1 != info.number || !continues(before.media_end_90k, info.media_start_90k);
            info.discontinuity_sequence = before.discontinuity_sequence + u64::from(info.discontinuity);
        }
    }
}

/// Compares media times modulo 2^33, as presentation times are written.
fn continues(end_90k: u64, start_90k: u64) -> bool {
    let step = start_90k.wrapping_sub(end_90k) % (1 << PTS_BITS);
    step <= MAX_STEP_90K || (1 << PTS_BITS) - step <= MAX_STEP_90K
}

fn unix_ms(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
