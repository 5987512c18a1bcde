//! What the front does for the rules of access: it reads key files, which workers may not be able to, and signs what programs of its own publish.

use super::Front;
use super::timers::Timer;
use crate::access::files::{KeyFiles, LOOK_MS};
use crate::access::sign;
use crate::config::Config;
use crate::control::{Intent, ToWorker, WorkerId};
use anyhow::Context;
use braidcast_media::StreamKey;
use std::fs::File;
use std::io::Read;

/// See the module's head.
#[derive(Debug, Default)]
pub struct Access {
    files: KeyFiles,
    own: [u8; 32],
}

impl Access {
    /// Reads what a configuration names. The error says what is wrong with it.
    pub fn new(config: &Config) -> anyhow::Result<Self> {
        let mut own = [0; 32];
        File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut own)).context("a secret of this server's own")?;
        Ok(Self { files: KeyFiles::read(config)?, own })
    }
}

impl Front {
    /// Tells a worker that has just come, or that another front had, what it needs for its rules.
    pub(super) fn introduce_access(&mut self, worker: WorkerId) {
        if self.config.access.is_empty() {
            return;
        }
        self.send(worker, &ToWorker::OwnSecret(self.access.own), Vec::new());
        let messages: Vec<ToWorker> = self.access.files.contents().map(keys_message).collect();
        messages.iter().for_each(|message| self.send(worker, message, Vec::new()));
        if !self.access.files.is_empty() {
            self.timers.set_if_idle(Timer::KeyFiles, self.now_ms + LOOK_MS);
        }
    }

    /// Looks whether key files have changed, and tells the workers.
    pub(super) fn look_at_key_files(&mut self) {
        let changed = self.access.files.look();
        let messages: Vec<ToWorker> =
            self.access.files.contents().filter(|(path, _)| changed.iter().any(|one| one == path)).map(keys_message).collect();
        for id in self.ids() {
            messages.iter().for_each(|message| self.send(id, message, Vec::new()));
        }
        self.timers.set(Timer::KeyFiles, self.now_ms + LOOK_MS);
    }

    /// The query with which a program of ours may publish a stream until then, wall clock; empty if nobody asks for one.
    pub(super) fn own_query(&self, key: &StreamKey, expires_s: u64) -> String {
        if self.config.access.is_empty() {
            return String::new();
        }
        sign::Secret::new(&self.access.own).query(Intent::Publish, key, expires_s)
    }
}

fn keys_message((path, content): (&str, &str)) -> ToWorker {
    ToWorker::AccessKeys { path: path.to_owned(), content: content.to_owned() }
}
