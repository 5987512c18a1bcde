//! What lives at which process, as the processes themselves say: a file that the worker writes that looks after them.

use super::DIRECTORY;
use super::api::LiveStream;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::Path;

/// The file's name.
const NAME: &str = "streams.json";

/// All of them.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Live {
    /// By process.
    pub processes: HashMap<u16, Vec<LiveStream>>,
}

impl Live {
    /// Writes it. Readers see the file before or the one after.
    pub fn write(&self, shared_dir: &Path) -> io::Result<()> {
        let directory = shared_dir.join(DIRECTORY);
        let part = directory.join(format!("{NAME}.part"));
        fs::write(&part, serde_json::to_vec(self)?)?;
        fs::rename(part, directory.join(NAME))
    }

    /// Reads it; nothing if there is none.
    pub fn read(shared_dir: &Path) -> Self {
        let text = fs::read(shared_dir.join(DIRECTORY).join(NAME)).ok();
        text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
    }
}
