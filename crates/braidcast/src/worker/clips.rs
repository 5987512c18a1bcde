//! The segments of streams that clips were asked of, remembered for a moment.
//!
//! Finding them costs a read for every file of a directory, and anybody may ask as often as he likes: so it is done once in a
//! while, and the less often the longer it takes. A clip of what has passed loses nothing by that.

use crate::hls::serve;
use braidcast_media::StreamKey;
use braidcast_protocols::hls::SegmentInfo;
use braidcast_stream_log::Root;
use std::collections::VecDeque;
use std::io;
use std::time::Instant;

/// Streams that are remembered.
const MOST_STREAMS: usize = 16;
/// How long what was found counts, at the least, milliseconds.
const LEAST_MS: u64 = 1_000;
/// How much longer than it took to find it: a twentieth of the worker's time is the most a stream's clips can cost.
const TIMES: u64 = 20;

/// See the module's head.
#[derive(Default)]
pub struct Clips {
    known: VecDeque<Known>,
}

struct Known {
    key: StreamKey,
    segments: Vec<SegmentInfo>,
    until_ms: u64,
}

impl Clips {
    /// A stream's segments, ordered by number, as of a moment ago.
    ///
    /// # Errors
    /// The stream's directory cannot be read.
    pub fn segments(&mut self, root: &Root, key: &StreamKey, now_ms: u64) -> io::Result<&[SegmentInfo]> {
        self.known.retain(|known| now_ms < known.until_ms);
        let place = match self.known.iter().position(|known| known.key == *key) {
            Some(place) => place,
            None => {
                let began = Instant::now();
                let segments = serve::segments(&root.hls_dir(key))?;
                let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
                let until_ms = now_ms.saturating_add(took_ms.saturating_mul(TIMES).max(LEAST_MS));
                if self.known.len() >= MOST_STREAMS {
                    self.known.pop_front();
                }
                self.known.push_back(Known { key: key.clone(), segments, until_ms });
                self.known.len() - 1
            }
        };
        Ok(&self.known[place].segments)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_directory_is_not_looked_through_again_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::new(directory.path().to_path_buf());
        let key = |number: usize| StreamKey::new("v", "a", &format!("s{number}")).unwrap();
        let mut clips = Clips::default();
        assert_eq!(clips.segments(&root, &key(0), 0).unwrap().len(), 0);
        let info = SegmentInfo {
            stream: "v/a/s0".into(),
            number: 1,
            duration_90k: 9,
            media_start_90k: 0,
            media_end_90k: 9,
            wall_start_ms: 1,
            wall_end_ms: 2,
            discontinuity: false,
            discontinuity_sequence: 0,
            independent: true,
        };
        fs::create_dir_all(root.hls_dir(&key(0))).unwrap();
        fs::write(root.hls_dir(&key(0)).join("1.ts"), info.to_packet()).unwrap();
        assert_eq!(clips.segments(&root, &key(0), LEAST_MS - 1).unwrap().len(), 0, "remembered");
        let long_after = 1_000_000;
        assert_eq!(clips.segments(&root, &key(0), long_after).unwrap(), [info]);
        for number in 0..2 * MOST_STREAMS {
            clips.segments(&root, &key(number), long_after).unwrap();
        }
        assert_eq!(clips.known.len(), MOST_STREAMS);
    }
}
