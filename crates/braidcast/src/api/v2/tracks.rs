//! What a stream consists of: its tracks, and how far apart its keyframes are; from its log, so that any process can say.

use crate::hls::survey::SEARCH_BYTES;
use braidcast_media::details;
use braidcast_media::tag::{Content, tracks};
use braidcast_media::{RecordHeader, RecordKind, flv};
use braidcast_stream_log::{Position, Reader};
use serde::Serialize;
use utoipa::ToSchema;

/// The most tracks that are told of a stream.
const MOST: usize = 64;
/// Over how many keyframes the interval is taken.
const KEYFRAMES: usize = 8;

/// A track of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Track {
    /// `video` or `audio`.
    pub kind: String,
    /// Its number among those of its kind, from 0.
    pub track: u8,
    /// Its codec.
    pub codec: String,
    /// Of a video: its width in pixels, if its sequence header says it.
    pub width: Option<u32>,
    /// Likewise its height.
    pub height: Option<u32>,
    /// Of a sound: samples in a second, if that is known.
    pub rate: Option<u32>,
    /// Of a sound: its channels, likewise.
    pub channels: Option<u32>,
}

/// The tracks that the newest block of a log shows, videos first.
pub fn tracks_of(reader: &Reader) -> Vec<Track> {
    let commit = reader.commit();
    let Ok(block) = reader.map(commit.block) else { return Vec::new() };
    let Some(bytes) = block.bytes(flv::FILE_HEADER.len() as u32, commit.offset.min(SEARCH_BYTES)) else { return Vec::new() };
    let mut found: Vec<Track> = Vec::new();
    for record in flv::records(bytes) {
        let kind = match record.header.kind {
            RecordKind::Video => "video",
            RecordKind::Audio => "audio",
            RecordKind::Data => continue,
        };
        for tag in tracks(record.header.kind, record.payload) {
            let header = Some(tag.body).filter(|_| tag.content == Content::SequenceHeader);
            let is_media = matches!(tag.content, Content::SequenceHeader | Content::Frame);
            if !is_media || found.len() >= MOST || found.iter().any(|known| (&*known.kind, known.track) == (kind, tag.track)) {
                continue;
            }
            let mut track = Track { kind: kind.to_owned(), track: tag.track, codec: tag.codec.to_string(), ..Track::default() };
            if let (RecordKind::Video, Some(header)) = (record.header.kind, header) {
                let size = details::video(tag.codec, header).and_then(|video| video.size);
                (track.width, track.height) = size.unzip();
            } else if record.header.kind == RecordKind::Audio {
                let audio = header.and_then(|header| details::audio(tag.codec, header));
                (track.rate, track.channels) = audio.map(|audio| (audio.rate, audio.channels.into())).unzip();
            }
            found.push(track);
        }
    }
    found.sort_by(|one, other| other.kind.cmp(&one.kind).then(one.track.cmp(&other.track)));
    found
}

/// How far the newest keyframes are apart on average, milliseconds; `None`: there are not two.
pub fn key_interval_ms(reader: &Reader) -> Option<u64> {
    let newest: Vec<Position> = reader.keyframes().take(KEYFRAMES).collect();
    let steps = newest.len().checked_sub(1).filter(|steps| *steps > 0)?;
    let (last, first) = (timestamp(reader, *newest.first()?)?, timestamp(reader, *newest.last()?)?);
    // Timestamps begin again with another publisher.
    Some(u64::from(last.checked_sub(first)?) / steps as u64)
}

fn timestamp(reader: &Reader, at: Position) -> Option<u32> {
    let block = reader.map(at.block).ok()?;
    Some(RecordHeader::parse(block.bytes(at.offset, reader.end_of(at.block)?)?)?.timestamp_ms)
}
