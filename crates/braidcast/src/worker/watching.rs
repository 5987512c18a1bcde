//! Tells, once a second, who views the worker's streams and what was sent of them ([`crate::watched`]).

use super::Worker;
use crate::watched::Lane;
use braidcast_media::StreamKey;
use std::collections::HashMap;
use std::io;

/// What was not told yet.
#[derive(Debug, Default)]
struct Untold {
    viewers: u64,
    sent_bytes: u64,
    jumps: u64,
}

/// The worker's lanes, and what is still to be told.
#[derive(Debug, Default)]
pub struct Watching {
    untold: HashMap<StreamKey, Untold>,
    /// Of streams of which there is more to tell.
    lanes: HashMap<StreamKey, Lane>,
}

impl Watching {
    /// So much was sent of a stream, and so often was a viewer of it jumped, as told by whoever has counted it by himself.
    pub fn add(&mut self, key: &StreamKey, sent_bytes: u64, jumps: u64) {
        let untold = match self.untold.get_mut(key) {
            Some(untold) => untold,
            None => self.untold.entry(key.clone()).or_default(),
        };
        untold.sent_bytes += sent_bytes;
        untold.jumps += jumps;
    }
}

impl Worker {
    /// Tells what has changed; `viewers` are those of each stream of this worker, by its slot.
    pub(super) fn tell_watching(&mut self, viewers: &HashMap<usize, u64>) {
        for (slot, stream) in &mut self.streams {
            let (sent_bytes, jumps) = stream.take_counted();
            self.watching.add(&stream.key, sent_bytes, jumps);
            if let Some(untold) = self.watching.untold.get_mut(&stream.key) {
                untold.viewers += viewers.get(&slot).copied().unwrap_or(0);
            }
        }
        let mut lanes = std::mem::take(&mut self.watching.lanes);
        lanes.retain(|key, lane| lane.is_of(&self.root, key));
        for key in lanes.keys() {
            self.watching.untold.entry(key.clone()).or_default();
        }
        for (key, untold) in std::mem::take(&mut self.watching.untold) {
            let opened = match lanes.remove(&key) {
                Some(lane) => Ok(lane),
                None if untold.viewers + untold.sent_bytes + untold.jumps == 0 => continue,
                None => Lane::open(&self.root, &key, self.id),
            };
            match opened {
                Ok(lane) => {
                    if lane.tell(untold.viewers, untold.sent_bytes, untold.jumps) {
                        self.watching.lanes.insert(key, lane);
                    }
                }
                // The stream was deleted meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => tracing::warn!(stream = %key, %error, "what was sent of the stream cannot be told: is the directory full?"),
            }
        }
    }
}
