//! Files with keys for tokens: read by the front, which tells the workers what is in them, and looked at again every few seconds.
//!
//! Workers never open them: they may not be allowed to. A file that cannot be used any more leaves the keys that it held before in use.

use super::jwt::Keys;
use crate::config::Config;
use anyhow::{Context, bail};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;

/// How often the front looks at them, milliseconds.
pub const LOOK_MS: u64 = 3_000;
/// The longest key file, in bytes: it travels in one message.
const MAX_BYTES: u64 = 48 << 10;

/// The key files of a configuration.
#[derive(Debug, Default)]
pub struct KeyFiles(Vec<KeyFile>);

#[derive(Debug)]
struct KeyFile {
    path: String,
    content: String,
    stamp: Option<Stamp>,
}

/// What changes when a file does: device, inode, length, time of change in nanoseconds.
type Stamp = (u64, u64, u64, i64, i64);

impl KeyFiles {
    /// Reads all of them. The error says which one is of no use, and why.
    pub fn read(config: &Config) -> anyhow::Result<Self> {
        let mut paths: Vec<&str> = config.access.iter().flat_map(|access| access.key_files()).collect();
        paths.sort_unstable();
        paths.dedup();
        let read = |path: &&str| {
            let stamp = stamp(path).ok();
            let content = content(path).with_context(|| format!("[[access]] keys in {path}"))?;
            Ok(KeyFile { path: (*path).to_owned(), content, stamp })
        };
        paths.iter().map(read).collect::<anyhow::Result<_>>().map(Self)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each path as the configuration says it, and what is in the file.
    pub fn contents(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|file| (file.path.as_str(), file.content.as_str()))
    }

    /// Looks whether files have changed; gives the paths of those that hold other keys than before. What cannot be used is logged once
    /// for each change.
    pub fn look(&mut self) -> Vec<String> {
        let mut changed = Vec::new();
        for file in &mut self.0 {
            let now = stamp(&file.path).ok();
            if now == file.stamp {
                continue;
            }
            file.stamp = now;
            match content(&file.path) {
                Ok(content) if content == file.content => {}
                Ok(content) => {
                    tracing::info!(path = file.path, "the keys in this file have changed: the new ones hold from now on");
                    file.content = content;
                    changed.push(file.path.clone());
                }
                Err(error) => {
                    let error = format!("{error:#}");
                    tracing::error!(
                        path = file.path,
                        error,
                        "the keys in this file cannot be used: those before still hold; mend the file"
                    );
                }
            }
        }
        changed
    }
}

fn stamp(path: &str) -> io::Result<Stamp> {
    let metadata = std::fs::metadata(path)?;
    Ok((metadata.dev(), metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec()))
}

fn content(path: &str) -> anyhow::Result<String> {
    let mut text = String::new();
    // A pipe would be waited for.
    if !std::fs::metadata(path).context("cannot be looked at")?.is_file() {
        bail!("it is no file");
    }
    let file = File::open(path).context("cannot be opened")?;
    file.take(MAX_BYTES + 1).read_to_string(&mut text).context("cannot be read")?;
    if text.len() as u64 > MAX_BYTES {
        bail!("longer than {MAX_BYTES} bytes");
    }
    Keys::read(&text).map_err(anyhow::Error::msg)?;
    Ok(text)
}
