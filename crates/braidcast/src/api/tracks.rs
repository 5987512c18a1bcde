//! What a stream's first tracks are, for people: from the newest block of its log, so that any process can say.

use crate::hls::survey::SEARCH_BYTES;
use braidcast_media::details::{self, Audio, Video};
use braidcast_media::tag::{Codec, Content, tracks};
use braidcast_media::{RecordKind, flv};
use braidcast_stream_log::Reader;

/// A stream's first video and first audio track.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tracks {
    /// Codec, and what its sequence header says; `None`: no video was seen.
    pub video: Option<(Codec, Video)>,
    /// Likewise of the sound.
    pub audio: Option<(Codec, Audio)>,
}

impl Tracks {
    /// Those of a log.
    pub fn of(reader: &Reader) -> Self {
        let commit = reader.commit();
        let Ok(block) = reader.map(commit.block) else { return Self::default() };
        let Some(bytes) = block.bytes(flv::FILE_HEADER.len() as u32, commit.offset.min(SEARCH_BYTES)) else { return Self::default() };
        let mut found = Self::default();
        for record in flv::records(bytes) {
            found.record(record.header.kind, record.payload);
            if found.video.is_some() && found.audio.is_some() {
                break;
            }
        }
        found
    }

    fn record(&mut self, kind: RecordKind, payload: &[u8]) {
        let Some(tag) = tracks(kind, payload).find(|tag| tag.track == 0) else { return };
        let header = Some(tag.body).filter(|_| tag.content == Content::SequenceHeader);
        if !matches!(tag.content, Content::SequenceHeader | Content::Frame) {
            return;
        }
        match kind {
            RecordKind::Video => {
                self.video.get_or_insert((tag.codec, header.and_then(|header| details::video(tag.codec, header)).unwrap_or_default()));
            }
            RecordKind::Audio => {
                let legacy = payload.first().copied().filter(|first| first >> 4 != 9).map(details::legacy_audio);
                let said = header.and_then(|header| details::audio(tag.codec, header)).or(legacy);
                self.audio.get_or_insert((tag.codec, said.unwrap_or_default()));
            }
            RecordKind::Data => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_say_more_than_frames() {
        let mut found = Tracks::default();
        found.record(RecordKind::Data, b"\x02\0\x0aonMetaData");
        found.record(RecordKind::Video, &[0x17, 0, 0, 0, 0, 1, 100, 0, 31, 0xff, 0xe0]);
        found.record(RecordKind::Video, &[0x17, 1, 0, 0, 0, 0, 0, 0, 1, 9]);
        found.record(RecordKind::Audio, &[0xaf, 0, 0x11, 0x90]);
        assert_eq!(found.video, Some((Codec::H264, Video { profile: 100, level: 31, constraints: 0, size: None })));
        assert_eq!(found.audio, Some((Codec::Aac, Audio { rate: 48_000, channels: 2, object_type: 2 })));
        let mut legacy = Tracks::default();
        legacy.record(RecordKind::Audio, &[0x2e, 0xff, 0xfb]);
        assert_eq!(legacy.audio, Some((Codec::Mp3, Audio { rate: 44_100, channels: 1, object_type: 0 })));
    }
}
