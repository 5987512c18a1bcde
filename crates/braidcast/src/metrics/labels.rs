//! Which streams have series of their own. Monitoring keeps every series that it ever saw, so there are only so many, and who has one keeps it.

use crate::status::Stream;
use braidcast_media::StreamKey;
use braidcast_stream_log::Root;
use std::time::SystemTime;

/// The streams of an instance, parted.
#[derive(Debug)]
pub struct Labelled<'a> {
    /// Those with series of their own, by name.
    pub own: Vec<&'a Stream>,
    /// Those that are counted together.
    pub other: Vec<&'a Stream>,
}

/// Parts them: the oldest `most` have series of their own.
pub fn label_streams<'a>(root: &Root, streams: &'a [Stream], most: usize) -> Labelled<'a> {
    let mut own: Vec<&Stream> = streams.iter().collect();
    let mut other = Vec::new();
    if own.len() > most {
        own.sort_by_cached_key(|stream| (made(root, stream), name(stream)));
        other = own.split_off(most);
    }
    own.sort_by(|one, other| name(one).cmp(&name(other)));
    Labelled { own, other }
}

fn name(stream: &Stream) -> [&str; 3] {
    [&stream.vhost, &stream.app, &stream.stream]
}

/// When a stream's directory was made; one of which that is not known counts as the newest.
fn made(root: &Root, stream: &Stream) -> (bool, SystemTime) {
    let key = StreamKey::new(&stream.vhost, &stream.app, &stream.stream).ok();
    let made = key.and_then(|key| std::fs::metadata(root.stream_dir(&key)).ok()?.created().ok());
    (made.is_none(), made.unwrap_or(SystemTime::UNIX_EPOCH))
}
