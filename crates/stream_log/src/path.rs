//! Where things lie in the shared directory. The one place that turns a name a peer sent into a path component, and back.

use braidcast_media::StreamKey;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// How many directory entries, at most, [`Root::keys`] looks at on each of its three levels.
pub const MAX_ENTRIES: usize = 1 << 16;

const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// The shared directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root(PathBuf);

impl Root {
    /// The shared directory at this path. Nothing is made or checked.
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The directory of all streams.
    pub fn streams_dir(&self) -> PathBuf {
        self.0.join("streams")
    }

    /// The directory of one stream: `streams/<vhost>/<app>/<stream>`, each one component.
    pub fn stream_dir(&self, key: &StreamKey) -> PathBuf {
        self.streams_dir().join(encode(key.vhost())).join(encode(key.app())).join(encode(key.stream()))
    }

    /// The directory of a stream's segments and indexes.
    pub fn hls_dir(&self, key: &StreamKey) -> PathBuf {
        self.stream_dir(key).join("hls")
    }

    /// The page of a worker, by the worker's number.
    pub fn worker_page(&self, worker: u16) -> PathBuf {
        self.0.join("workers").join(worker.to_string())
    }

    /// The streams that have a directory, sorted. What is no stream's directory is skipped, and so is what is beyond
    /// [`MAX_ENTRIES`] on a level. A missing directory holds no streams.
    pub fn keys(&self) -> io::Result<Vec<StreamKey>> {
        let mut keys = Vec::new();
        for (vhost, vhost_dir) in parts(&self.streams_dir())? {
            for (app, app_dir) in parts(&vhost_dir)? {
                for (stream, _) in parts(&app_dir)? {
                    keys.extend(StreamKey::new(&vhost, &app, &stream));
                    if keys.len() == MAX_ENTRIES {
                        return Ok(keys);
                    }
                }
            }
        }
        keys.sort();
        Ok(keys)
    }
}

/// The decoded names of the directories in a directory.
fn parts(directory: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        // Streams come and go during the walk.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries.take(MAX_ENTRIES) {
        let entry = entry?;
        let name = entry.file_name();
        if let Some(part) = name.to_str().and_then(decode)
            && entry.file_type().is_ok_and(|kind| kind.is_dir())
        {
            found.push((part, entry.path()));
        }
    }
    Ok(found)
}

/// A part of a stream's name as one path component: bytes outside `[A-Za-z0-9_.-]`, and a leading `.`, become `%XX`.
pub fn encode(part: &str) -> String {
    let mut component = String::with_capacity(part.len());
    for (index, byte) in part.bytes().enumerate() {
        if is_plain(byte) && !(byte == b'.' && index == 0) {
            component.push(char::from(byte));
        } else {
            component.push('%');
            component.push(char::from(HEX[usize::from(byte >> 4)]));
            component.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
    component
}

/// The part of a name that [`encode`] made this component of; `None` if it made it of none.
pub fn decode(component: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(component.len());
    let mut rest = component.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == b'%' {
            let (digits, after) = rest.split_at_checked(2)?;
            bytes.push(hex_digit(digits[0])? << 4 | hex_digit(digits[1])?);
            rest = after;
        } else {
            bytes.push(byte);
        }
    }
    // Only one spelling of each name is a stream's: two directories must not mean the same stream.
    String::from_utf8(bytes).ok().filter(|part| !part.is_empty() && encode(part) == component)
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.')
}

fn hex_digit(digit: u8) -> Option<u8> {
    HEX.iter().position(|known| *known == digit).map(|value| value as u8)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_components() {
        for (part, component) in [("live", "live"), ("a/b", "a%2Fb"), (".x.y", "%2Ex.y"), ("ü%", "%C3%BC%25"), ("..", "%2E.")] {
            assert_eq!(encode(part), component);
            assert_eq!(decode(component).unwrap(), part);
        }
        for foreign in ["", ".", "..", ".disposed", "a b", "%2", "%2e", "%41", "%FF", "%zz", "a/b", "%"] {
            assert_eq!(decode(foreign), None, "{foreign:?}");
        }
    }

    proptest! {
        #[test]
        fn every_name_round_trips_and_stays_one_component(part in "\\PC{1,80}") {
            let component = encode(&part);
            prop_assert!(!component.contains('/') && !component.starts_with('.') && !component.contains('\0'));
            prop_assert_eq!(decode(&component), Some(part));
        }

        #[test]
        fn any_component_decodes_or_not(component in ".*") {
            if let Some(part) = decode(&component) {
                prop_assert_eq!(encode(&part), component);
            }
        }
    }

    #[test]
    fn the_walk_finds_streams_and_skips_the_rest() {
        let top = tempfile::tempdir().unwrap();
        let root = Root::new(top.path().to_path_buf());
        assert_eq!(root.keys().unwrap(), []);
        let keys = [StreamKey::new("v", "a/b", "s").unwrap(), StreamKey::new("v", "a/b", ".t").unwrap()];
        for key in &keys {
            fs::create_dir_all(root.stream_dir(key)).unwrap();
        }
        fs::create_dir_all(root.streams_dir().join(".disposed/1/x")).unwrap();
        fs::create_dir_all(root.streams_dir().join("v/a b/s")).unwrap();
        fs::write(root.streams_dir().join("v/a%2Fb/file"), "").unwrap();
        fs::write(root.streams_dir().join("w"), "").unwrap();
        assert_eq!(root.keys().unwrap(), [keys[1].clone(), keys[0].clone()]);
    }
}
