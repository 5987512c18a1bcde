//! Which codecs a stream has, and which of them HLS leaves out: from the newest block of its log, so that any process can say.

use braidcast_media::flv;
use braidcast_media::tag::Codec;
use braidcast_protocols::mpegts::{Form, Survey};
use braidcast_stream_log::Reader;

/// How far into the newest block codecs are looked for: a track that is there at all has a record within that.
pub const SEARCH_BYTES: u32 = 256 << 10;

/// What the newest block says: its prefix has the sequence headers, and codecs without such are seen in the first records.
pub fn survey(reader: &Reader) -> Survey {
    let mut survey = Survey::default();
    let commit = reader.commit();
    let Ok(block) = reader.map(commit.block) else { return survey };
    let Some(bytes) = block.bytes(flv::FILE_HEADER.len() as u32, commit.offset.min(SEARCH_BYTES)) else { return survey };
    for record in flv::records(bytes) {
        survey.record(record.header.kind, record.header.timestamp_ms, record.payload);
        if survey.is_settled() {
            break;
        }
    }
    survey
}

/// Why a stream will have no segments, if it is for its codecs; `None` if it may have some, or it is too early to tell.
pub fn why_none(reader: &Reader) -> Option<String> {
    let survey = survey(reader);
    let settled = survey.is_settled() || reader.commit().offset >= SEARCH_BYTES;
    if !settled || survey.is_carried_by(Form::Ts) {
        return None;
    }
    let codecs: Vec<String> = survey.left_out_by(Form::Ts).map(|codec: Codec| codec.to_string()).collect();
    Some(format!(
        "HLS cannot carry this stream ({}): watch it by HTTP-FLV or RTMP, or publish H.264 or H.265, AAC, MP3, AC-3, E-AC-3 or Opus",
        codecs.join(" + ")
    ))
}
