//! What a record means to the segmenter: a decoder configuration, a frame, something it cannot carry, or nothing.
//!
//! Only what [`braidcast_media::tag`] says of a tag is used here, not the frame.

use braidcast_media::RecordKind;
use braidcast_media::tag::{Codec, Content, tracks};

/// A record, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Input<'a> {
    /// An AVCDecoderConfigurationRecord.
    AvcConfig(&'a [u8]),
    /// An AudioSpecificConfig.
    AacConfig(&'a [u8]),
    /// A frame.
    Frame(Media<'a>),
    /// A codec that our transport streams do not carry.
    Unsupported(Codec),
    /// Data, an empty tag, an end of sequence, a command.
    Nothing,
}

/// A frame as its tag carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Media<'a> {
    /// H.264: NAL units behind length fields.
    Video {
        /// Presentation less decoding time.
        composition_ms: i32,
        /// FLV calls it a keyframe.
        keyframe: bool,
        /// The NAL units.
        units: &'a [u8],
    },
    /// One raw AAC frame.
    Aac(&'a [u8]),
    /// MP3 frames.
    Mp3(&'a [u8]),
}

/// A frame with its record and its times.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame<'a> {
    pub kind: RecordKind,
    pub media: Media<'a>,
    /// The whole payload of its record.
    pub payload: &'a [u8],
    /// Decoding time, unwrapped.
    pub time_ms: u64,
    /// When it was written.
    pub wall_ms: u64,
}

impl Media<'_> {
    pub(super) fn is_video(&self) -> bool {
        matches!(self, Self::Video { .. })
    }

    pub(super) fn is_keyframe(&self) -> bool {
        matches!(self, Self::Video { keyframe: true, .. })
    }
}

impl<'a> Input<'a> {
    /// Reads a record's payload: the first track, as a transport stream carries one of each kind. Never fails: what cannot be
    /// read is [`Input::Nothing`].
    pub(super) fn read(kind: RecordKind, payload: &'a [u8]) -> Self {
        let Some(tag) = tracks(kind, payload).find(|tag| tag.track == 0) else { return Self::Nothing };
        match (tag.codec, tag.content) {
            (Codec::H264, Content::SequenceHeader) => Self::AvcConfig(tag.body),
            (Codec::H264, Content::Frame) => {
                Self::Frame(Media::Video { composition_ms: tag.composition_ms, keyframe: tag.keyframe, units: tag.body })
            }
            (Codec::Aac, Content::SequenceHeader) => Self::AacConfig(tag.body),
            (Codec::Aac, Content::Frame) => Self::Frame(Media::Aac(tag.body)),
            (Codec::Mp3, Content::Frame) => Self::Frame(Media::Mp3(tag.body)),
            (Codec::H264 | Codec::Aac | Codec::Mp3, _) => Self::Nothing,
            (codec, _) => Self::Unsupported(codec),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_tags() {
        use RecordKind::{Audio, Data, Video};
        let cases: [(RecordKind, &[u8], Input<'_>); 11] = [
            (Video, &[0x17, 0, 0, 0, 0, 1, 2], Input::AvcConfig(&[1, 2])),
            (Video, &[0x17, 1, 0, 0, 40, 9], Input::Frame(Media::Video { composition_ms: 40, keyframe: true, units: &[9] })),
            (Video, &[0x27, 1, 0xff, 0xff, 0xd8, 9], Input::Frame(Media::Video { composition_ms: -40, keyframe: false, units: &[9] })),
            (Video, &[0x17, 2, 0, 0, 0], Input::Nothing),
            (Video, &[0x57, 1, 0, 0, 0], Input::Nothing),
            (Video, &[0x17, 1, 0], Input::Nothing),
            (Video, &[0x12, 0], Input::Unsupported(Codec::LegacyVideo(2))),
            (Audio, &[0xaf, 0, 0x12, 0x10], Input::AacConfig(&[0x12, 0x10])),
            (Audio, &[0xaf, 1, 7], Input::Frame(Media::Aac(&[7]))),
            (Audio, &[0x2f, 0xff], Input::Frame(Media::Mp3(&[0xff]))),
            (Data, b"\x02", Input::Nothing),
        ];
        for (kind, payload, input) in cases {
            assert_eq!(Input::read(kind, payload), input, "{payload:x?}");
        }
    }
}
