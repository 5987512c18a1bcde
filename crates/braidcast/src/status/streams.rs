//! The streams of an instance, each read from its log's head, a few of its newest records and its segments' names.

use super::instance::Locks;
use anyhow::Context;
use braidcast_media::tag::Codec;
use braidcast_media::{RecordKind, StreamKey, TagInfo, flv};
use braidcast_stream_log::{Now, Reader, Root, State};
use serde::Serialize;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;

/// How far into the newest block codecs are looked for: a track that is there at all has a record within that.
const CODEC_SEARCH_BYTES: u32 = 256 << 10;

/// A stream that has a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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
    /// The address that it is published from, a port of 0 if that is not known; `null` if nobody publishes.
    pub publisher: Option<SocketAddr>,
    /// The video codec; `null` if no video was seen.
    pub video: Option<String>,
    /// The audio codec; `null` if no audio was seen.
    pub audio: Option<String>,
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
    let (video, audio) = codecs(&reader);
    let before_oldest = reader.block(reader.oldest_block()).map_or(0, |oldest| oldest.cumulative_bytes);
    Some(Stream {
        vhost: key.vhost().to_owned(),
        app: key.app().to_owned(),
        stream: key.stream().to_owned(),
        state,
        worker: locks.holder(&root.stream_dir(key).join("head")).and_then(worker_of),
        publisher: reader.publisher().filter(|_| reader.state() == State::Live),
        video: video.map(|codec| name(RecordKind::Video, codec)),
        audio: audio.map(|codec| name(RecordKind::Audio, codec)),
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

/// What the newest block says: its prefix has the sequence headers, and codecs without such are seen in the first records.
fn codecs(reader: &Reader) -> (Option<Codec>, Option<Codec>) {
    let (mut video, mut audio) = (None, None);
    let commit = reader.commit();
    let header_bytes = flv::FILE_HEADER.len() as u32;
    let Ok(block) = reader.map(commit.block) else { return (None, None) };
    let end = commit.offset.min(CODEC_SEARCH_BYTES);
    let Some(bytes) = block.bytes(header_bytes, end) else { return (None, None) };
    for record in flv::records(bytes) {
        let codec = TagInfo::of(record.header.kind, record.payload).codec;
        match record.header.kind {
            RecordKind::Video => video = video.or(codec),
            RecordKind::Audio => audio = audio.or(codec),
            RecordKind::Data => {}
        }
        if video.is_some() && audio.is_some() {
            break;
        }
    }
    (video, audio)
}

/// A codec as people call it. Numbers are those of FLV 10.1 annex E.4.2.1 and E.4.3.1; 12 for H.265 is the unofficial one.
fn name(kind: RecordKind, codec: Codec) -> String {
    let known = match (kind, codec) {
        (_, Codec::H264) => "H.264",
        (_, Codec::Aac) => "AAC",
        (_, Codec::Mp3) => "MP3",
        (RecordKind::Video, Codec::Legacy(2)) => "H.263",
        (RecordKind::Video, Codec::Legacy(4 | 5)) => "VP6",
        (RecordKind::Video, Codec::Legacy(12)) => "H.265",
        (RecordKind::Audio, Codec::Legacy(7 | 8)) => "G.711",
        (RecordKind::Audio, Codec::Legacy(4..=6)) => "Nellymoser",
        (RecordKind::Audio, Codec::Legacy(11)) => "Speex",
        (_, Codec::Legacy(number)) => return format!("FLV codec {number}"),
        (_, Codec::FourCc(code)) => match &code {
            b"avc1" => "H.264",
            b"hvc1" => "H.265",
            b"av01" => "AV1",
            b"vp09" => "VP9",
            b"vp08" => "VP8",
            b"mp4a" => "AAC",
            b"Opus" => "Opus",
            b".mp3" => "MP3",
            b"fLaC" => "FLAC",
            b"ac-3" => "AC-3",
            b"ec-3" => "E-AC-3",
            _ => return code.escape_ascii().to_string(),
        },
    };
    known.to_owned()
}

fn newest_segment(directory: &Path) -> Option<u64> {
    let numbers = fs::read_dir(directory).ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_suffix(".ts")?.parse().ok());
    numbers.max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codecs_have_their_usual_names() {
        let names = [
            (RecordKind::Video, Codec::H264),
            (RecordKind::Video, Codec::FourCc(*b"hvc1")),
            (RecordKind::Audio, Codec::Mp3),
            (RecordKind::Audio, Codec::Legacy(11)),
            (RecordKind::Video, Codec::Legacy(11)),
            (RecordKind::Video, Codec::FourCc(*b"a\x1b\"b")),
        ]
        .map(|(kind, codec)| name(kind, codec));
        assert_eq!(names, ["H.264", "H.265", "MP3", "Speex", "FLV codec 11", "a\\x1b\\\"b"]);
    }
}
