//! The streams of an instance, each read from its log's head, a few of its newest records and its segments' names.

use super::instance::Locks;
use crate::hls::survey::survey;
use anyhow::Context;
use braidcast_media::StreamKey;
use braidcast_protocols::mpegts::Form;
use braidcast_stream_log::{Now, Reader, Root, State};
use serde::Serialize;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use utoipa::ToSchema;

/// A stream that has a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Stream {
    /// Its vhost.
    pub vhost: String,
    /// Its app.
    pub app: String,
    /// Its own name.
    pub stream: String,
    /// `live`; `waiting` for a publisher; `ended`.
    pub state: &'static str,
    /// The worker that writes it; `null` if nobody does.
    pub worker: Option<u16>,
    /// The process of another server that has it; `null` with our own workers, or if none has.
    pub process: Option<u16>,
    /// The address that it is published from, a port of 0 if that is not known; `null` if nobody publishes.
    #[schema(value_type = Option<String>)]
    pub publisher: Option<SocketAddr>,
    /// The video codec; `null` if no video was seen.
    pub video: Option<String>,
    /// The audio codec; `null` if no audio was seen.
    pub audio: Option<String>,
    /// What HLS makes of it.
    pub hls: StreamHls,
    /// Bytes received since the log was made.
    pub bytes: u64,
    /// Records received.
    pub records: u64,
    /// Keyframes received.
    pub keyframes: u64,
    /// Records that were dropped because the directory was full.
    pub records_dropped: u64,
    /// How many publishers it has had, one after the other.
    pub epoch: u32,
    /// The number of the newest segment; `null` if there is none.
    pub segment: Option<u64>,
    /// Bytes that the log holds now.
    pub log_bytes: u64,
    /// Milliseconds since the last record.
    pub age_ms: u64,
}

/// How a stream fares in HLS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct StreamHls {
    /// Codecs that MPEG-TS cannot carry, as in `video` and `audio`: HLS has the others, or nothing.
    pub leaves_out: Vec<String>,
}

/// All streams, sorted by name. `worker_of` tells a worker by its process.
pub(super) fn streams(root: &Root, locks: &Locks, worker_of: impl Fn(u32) -> Option<u16>, now: Now) -> anyhow::Result<Vec<Stream>> {
    let keys = root.keys().context("the list of streams")?;
    // A stream that cannot be read (removed in this moment, made by another version) does not hide the others.
    Ok(keys.iter().filter_map(|key| stream(root, key, locks, &worker_of, now)).collect())
}

fn stream(root: &Root, key: &StreamKey, locks: &Locks, worker_of: &impl Fn(u32) -> Option<u16>, now: Now) -> Option<Stream> {
    let reader = Reader::open(root, key).ok()??;
    let state = match reader.state() {
        State::Live => "live",
        State::Waiting => "waiting",
        State::Ended => "ended",
        State::Disposed => return None,
    };
    let counters = reader.counters();
    let survey = survey(&reader);
    let before_oldest = reader.block(reader.oldest_block()).map_or(0, |oldest| oldest.cumulative_bytes);
    Some(Stream {
        vhost: key.vhost().to_owned(),
        app: key.app().to_owned(),
        stream: key.stream().to_owned(),
        state,
        worker: locks.holder(&root.stream_dir(key).join("head")).and_then(worker_of),
        process: None,
        publisher: reader.publisher().filter(|_| reader.state() == State::Live),
        video: survey.video().map(|codec| codec.to_string()),
        audio: survey.audio().map(|codec| codec.to_string()),
        hls: StreamHls { leaves_out: survey.left_out_by(Form::Ts).map(|codec| codec.to_string()).collect() },
        bytes: counters.bytes,
        records: counters.records,
        keyframes: counters.keyframes,
        records_dropped: counters.records_dropped,
        epoch: reader.epoch(),
        segment: newest_segment(&root.hls_dir(key)),
        log_bytes: reader.total_bytes().saturating_sub(before_oldest),
        age_ms: now.mono_ms.saturating_sub(reader.last_append_mono_ms()),
    })
}

pub(super) fn newest_segment(directory: &Path) -> Option<u64> {
    let numbers = fs::read_dir(directory).ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_suffix(".ts")?.parse().ok());
    numbers.max()
}
