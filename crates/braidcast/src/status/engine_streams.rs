//! The streams that processes of another server have: those that are published through relays, as the front says; those that SRS says it
//! has, whoever brought them; those whose segments are still there.

use super::streams::{Stream, newest_segment};
use crate::engine::api::LiveStream;
use crate::engine::live::Live;
use crate::engine::report::{Published, Report};
use anyhow::Context;
use braidcast_media::StreamKey;
use braidcast_stream_log::{Now, Root};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// All streams, sorted by name.
pub(super) fn streams(root: &Root, report: &Report, live: &Live, now: Now) -> anyhow::Result<Vec<Stream>> {
    let mut all: BTreeMap<StreamKey, Stream> = BTreeMap::new();
    for key in root.keys().context("the list of streams")? {
        let ended = is_ended(&root.hls_dir(&key));
        all.insert(key.clone(), unpublished(root, &key, if ended { "ended" } else { "waiting" }));
    }
    let mut found = |vhost: &str, app: &str, stream: &str| {
        let key = StreamKey::new(vhost, app, stream).ok()?;
        all.contains_key(&key).then_some(()).or_else(|| {
            all.insert(key.clone(), unpublished(root, &key, "waiting"));
            Some(())
        });
        Some(key)
    };
    let published: Vec<(StreamKey, &Published)> = report
        .streams
        .iter()
        .filter_map(|published| Some((found(&published.vhost, &published.app, &published.stream)?, published)))
        .collect();
    let said: Vec<(StreamKey, u16, &LiveStream)> = live
        .processes
        .iter()
        .flat_map(|(process, streams)| streams.iter().map(move |stream| (*process, stream)))
        .filter(|(_, stream)| stream.publishing)
        .filter_map(|(process, stream)| Some((found(&stream.vhost, &stream.app, &stream.name)?, process, stream)))
        .collect();
    for (key, published) in published {
        let Some(stream) = all.get_mut(&key) else { continue };
        (stream.state, stream.process, stream.worker) = ("live", Some(published.process), Some(published.worker));
        stream.publisher = Some(published.publisher);
        stream.age_ms = now.wall_ms.saturating_sub(published.since_wall_ms);
    }
    for (key, process, said) in said {
        let Some(stream) = all.get_mut(&key) else { continue };
        stream.state = "live";
        stream.process.get_or_insert(process);
        if stream.process == Some(process) {
            (stream.bytes, stream.records, stream.age_ms) = (said.bytes_in, said.frames, 0);
            (stream.video, stream.audio) = (said.video.clone(), said.audio.clone());
        }
    }
    Ok(all.into_values().collect())
}

fn unpublished(root: &Root, key: &StreamKey, state: &'static str) -> Stream {
    Stream {
        vhost: key.vhost().to_owned(),
        app: key.app().to_owned(),
        stream: key.stream().to_owned(),
        state,
        segment: newest_segment(&root.hls_dir(key)),
        ..Stream::default()
    }
}

fn is_ended(directory: &Path) -> bool {
    fs::read_to_string(directory.join(crate::hls::INDEX)).is_ok_and(|index| index.contains("#EXT-X-ENDLIST"))
}
