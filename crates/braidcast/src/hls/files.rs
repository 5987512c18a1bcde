//! File names of a stream's `hls/` directory, and how its small files are replaced.
//!
//! What is being written has a name that starts with a dot, so that no URL reaches it; a rename makes it visible whole.

use braidcast_protocols::hls::SegmentInfo;
use braidcast_protocols::hls::segment_info::PACKET_BYTES;
use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The file of a segment.
pub fn segment(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number}.ts"))
}

/// The file of a segment that is being written.
pub fn part(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!(".{number}.part"))
}

/// The number that a segment's file name stands for; `None` for any other spelling than [`segment`]'s.
pub fn segment_number(name: &str) -> Option<u64> {
    let number: u64 = name.strip_suffix(".ts")?.parse().ok()?;
    (number > 0 && name == format!("{number}.ts")).then_some(number)
}

/// What a finished segment says about itself; `None` if it is not there, or says nothing.
pub fn read_info(directory: &Path, number: u64) -> Option<SegmentInfo> {
    let file = fs::File::open(segment(directory, number)).ok()?;
    let mut packet = [0; PACKET_BYTES];
    let at = file.metadata().ok()?.len().checked_sub(PACKET_BYTES as u64)?;
    file.read_exact_at(&mut packet, at).ok()?;
    SegmentInfo::from_packet(&packet)
}

/// Whether a name belongs to something that was being written.
pub fn is_unfinished(name: &str) -> bool {
    name.starts_with('.') && (name.ends_with(".part") || name.ends_with(".tmp"))
}

/// Replaces a file by a rename: a reader sees the old bytes or the new ones. On an error the old ones stay.
pub fn replace(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = directory.join(format!(".{name}.tmp"));
    let replaced = fs::write(&temporary, bytes).and_then(|()| fs::rename(&temporary, directory.join(name)));
    if replaced.is_err() {
        // Best effort: the next writer clears it away.
        let _ = fs::remove_file(&temporary);
    }
    replaced
}

/// Reads a file that may be missing.
pub fn read_if_there(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes a file that may be missing.
pub fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_spelling_of_each_number_is_a_segment() {
        assert_eq!(segment_number("17.ts"), Some(17));
        for name in ["0.ts", "017.ts", "+17.ts", "17.TS", "17", ".ts", "x.ts", "99999999999999999999.ts", ".17.ts"] {
            assert_eq!(segment_number(name), None, "{name}");
        }
    }
}
