//! The streams of an instance, each read from its log's head, a few of its newest records and its segments' names.

use super::instance::Locks;
use crate::control::WorkerId;
use crate::hls::files;
use crate::hls::survey::survey;
use crate::watched::{self, Watched};
use anyhow::Context;
use braidcast_media::StreamKey;
use braidcast_protocols::mpegts::Form;
use braidcast_stream_log::{BlockInfo, Now, Reader, Root, State};
use serde::Serialize;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use utoipa::ToSchema;

/// Over how long a rate is taken at most, and at least, milliseconds.
const RATE_MS: u64 = 30_000;
const LEAST_RATE_MS: u64 = 1_000;
/// How many blocks are looked at for it.
const RATE_BLOCKS: usize = 64;

/// A stream that has a log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = StreamStatus)]
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
    /// Bytes received in a second, over the last blocks, half a minute at most; 0 unless it is live.
    pub received_rate: u64,
    /// Viewers now, by RTMP and by HTTP in one endless answer.
    pub viewers: u64,
    /// Bytes sent to viewers since the log was made, live and in segments.
    pub sent_bytes: u64,
    /// Bytes sent to viewers in a second; an average in which the last ten seconds count most.
    pub sent_rate: u64,
    /// How often viewers were jumped to the newest keyframe because they lagged.
    pub jumps: u64,
    /// Milliseconds since the end of the newest segment; `null` if there is none.
    pub segment_age_ms: Option<u64>,
    /// How long the newest segment lasts, milliseconds; `null` if there is none.
    pub segment_duration_ms: Option<u64>,
}

/// How a stream fares in HLS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct StreamHls {
    /// Codecs that MPEG-TS cannot carry, as in `video` and `audio`: HLS has the others, or nothing.
    pub leaves_out: Vec<String>,
    /// Whether HLS can carry any of it.
    pub carries: bool,
}

/// All streams, sorted by name. `worker_of` tells a worker by its process.
pub(super) fn streams(
    root: &Root,
    locks: &Locks,
    worker_of: impl Fn(u32) -> Option<u16>,
    pid_of: impl Fn(WorkerId) -> u32,
    now: Now,
) -> anyhow::Result<Vec<Stream>> {
    let keys = root.keys().context("the list of streams")?;
    // A stream that cannot be read (removed in this moment, made by another version) does not hide the others.
    let streams = keys.iter().filter_map(|key| {
        let Watched { viewers, sent_bytes, sent_rate, jumps } = watched::read(root, key, &pid_of);
        Some(Stream { viewers, sent_bytes, sent_rate, jumps, ..stream(root, key, locks, &worker_of, now)? })
    });
    Ok(streams.collect())
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
    let segment = newest_segment(&root.hls_dir(key));
    let info = segment.and_then(|number| files::read_info(&root.hls_dir(key), number));
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
        hls: StreamHls {
            leaves_out: survey.left_out_by(Form::Ts).map(|codec| codec.to_string()).collect(),
            carries: survey.is_carried_by(Form::Ts),
        },
        bytes: counters.bytes,
        records: counters.records,
        keyframes: counters.keyframes,
        records_dropped: counters.records_dropped,
        epoch: reader.epoch(),
        segment,
        log_bytes: reader.total_bytes().saturating_sub(before_oldest),
        age_ms: now.mono_ms.saturating_sub(reader.last_append_mono_ms()),
        received_rate: if reader.state() == State::Live { received_rate(&reader, now.wall_ms) } else { 0 },
        viewers: 0,
        sent_bytes: 0,
        sent_rate: 0,
        jumps: 0,
        segment_age_ms: info.as_ref().map(|info| now.wall_ms.saturating_sub(info.wall_end_ms)),
        segment_duration_ms: info.map(|info| info.duration_90k / 90),
    })
}

/// Bytes per second since the oldest block began that is young enough.
fn received_rate(reader: &Reader, wall_ms: u64) -> u64 {
    let newest = reader.commit().block;
    let blocks = (reader.oldest_block()..=newest).rev().take(RATE_BLOCKS).map_while(|number| reader.block(number));
    let young = |block: &BlockInfo| block.number == newest || wall_ms.saturating_sub(block.wall_ms) <= RATE_MS;
    let Some(from) = blocks.take_while(young).last() else { return 0 };
    let bytes = reader.total_bytes().saturating_sub(from.cumulative_bytes);
    bytes.saturating_mul(1_000) / wall_ms.saturating_sub(from.wall_ms).max(LEAST_RATE_MS)
}

pub(super) fn newest_segment(directory: &Path) -> Option<u64> {
    let numbers = fs::read_dir(directory).ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_suffix(".ts")?.parse().ok());
    numbers.max()
}
