//! What a record means to a transport stream: a decoder configuration, a frame, something it cannot carry, or nothing.
//!
//! Only what [`braidcast_media::tag`] says of a tag is used here, not the frame.

use super::audio::AudioCodec;
use super::nal::VideoKind;
use braidcast_media::RecordKind;
use braidcast_media::tag::{Codec, Content, tracks};

/// A record, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Input<'a> {
    /// A decoder configuration record.
    VideoConfig(VideoKind, &'a [u8]),
    /// A sequence header of audio.
    AudioConfig(AudioCodec, &'a [u8]),
    /// A frame.
    Frame(Media<'a>),
    /// A codec that our transport streams do not carry.
    Unsupported(Codec),
    /// Data, an empty tag, an end of sequence, a command, another track than the first.
    Nothing,
}

/// A frame as its tag carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Media<'a> {
    /// A picture.
    Video {
        /// The codec.
        kind: VideoKind,
        /// Presentation less decoding time.
        composition_ms: i32,
        /// FLV calls it a keyframe.
        keyframe: bool,
        /// NAL units behind length fields.
        units: &'a [u8],
    },
    /// One raw AAC frame, one Opus packet, or whole frames of another codec.
    Audio(AudioCodec, &'a [u8]),
}

impl Media<'_> {
    pub(crate) fn is_video(&self) -> bool {
        matches!(self, Self::Video { .. })
    }

    pub(crate) fn is_keyframe(&self) -> bool {
        matches!(self, Self::Video { keyframe: true, .. })
    }
}

/// How a transport stream carries a codec.
pub(crate) enum Carried {
    Video(VideoKind),
    Audio(AudioCodec),
}

/// `None`: it does not.
pub(crate) fn carried(codec: Codec) -> Option<Carried> {
    Some(match codec {
        Codec::H264 => Carried::Video(VideoKind::H264),
        Codec::Hevc => Carried::Video(VideoKind::Hevc),
        Codec::Aac => Carried::Audio(AudioCodec::Aac),
        Codec::Mp3 => Carried::Audio(AudioCodec::Mp3),
        Codec::Ac3 => Carried::Audio(AudioCodec::Ac3),
        Codec::Eac3 => Carried::Audio(AudioCodec::Eac3),
        Codec::Opus => Carried::Audio(AudioCodec::Opus),
        Codec::Av1 | Codec::Vp9 | Codec::Vp8 | Codec::Flac => return None,
        Codec::LegacyVideo(_) | Codec::LegacyAudio(_) | Codec::FourCc(_) => return None,
    })
}

impl From<VideoKind> for Codec {
    fn from(kind: VideoKind) -> Self {
        match kind {
            VideoKind::H264 => Self::H264,
            VideoKind::Hevc => Self::Hevc,
        }
    }
}

impl From<AudioCodec> for Codec {
    fn from(codec: AudioCodec) -> Self {
        match codec {
            AudioCodec::Aac => Self::Aac,
            AudioCodec::Mp3 => Self::Mp3,
            AudioCodec::Ac3 => Self::Ac3,
            AudioCodec::Eac3 => Self::Eac3,
            AudioCodec::Opus => Self::Opus,
        }
    }
}

impl<'a> Input<'a> {
    /// Reads a record's payload: the first track, as a transport stream carries one of each kind. Never fails: what cannot be
    /// read is [`Input::Nothing`].
    pub(crate) fn read(kind: RecordKind, payload: &'a [u8]) -> Self {
        let Some(tag) = tracks(kind, payload).find(|tag| tag.track == 0) else { return Self::Nothing };
        match (carried(tag.codec), tag.content) {
            (None, _) => Self::Unsupported(tag.codec),
            (Some(Carried::Video(kind)), Content::SequenceHeader) => Self::VideoConfig(kind, tag.body),
            (Some(Carried::Video(kind)), Content::Frame) => {
                Self::Frame(Media::Video { kind, composition_ms: tag.composition_ms, keyframe: tag.keyframe, units: tag.body })
            }
            (Some(Carried::Audio(codec)), Content::SequenceHeader) => Self::AudioConfig(codec, tag.body),
            (Some(Carried::Audio(codec)), Content::Frame) => Self::Frame(Media::Audio(codec, tag.body)),
            (Some(_), _) => Self::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn video(kind: VideoKind, composition_ms: i32, keyframe: bool, units: &[u8]) -> Input<'_> {
        Input::Frame(Media::Video { kind, composition_ms, keyframe, units })
    }

    #[test]
    fn known_tags() {
        use RecordKind::{Audio, Data, Video};
        use VideoKind::{H264, Hevc};
        let sound = |codec, frame| Input::Frame(Media::Audio(codec, frame));
        let cases: [(RecordKind, &[u8], Input<'_>); 26] = [
            (Video, &[0x17, 0, 0, 0, 0, 1, 2], Input::VideoConfig(H264, &[1, 2])),
            (Video, &[0x17, 1, 0, 0, 40, 9], video(H264, 40, true, &[9])),
            (Video, &[0x27, 1, 0xff, 0xff, 0xd8, 9], video(H264, -40, false, &[9])),
            (Video, &[0x17, 2, 0, 0, 0], Input::Nothing),
            (Video, &[0x57, 1, 0, 0, 0], Input::Nothing),
            (Video, &[0x17, 1, 0], Input::Nothing),
            (Video, b"\x91avc1\0\0\x28\x09", video(H264, 40, true, &[9])),
            (Video, b"\x90hvc1\x01", Input::VideoConfig(Hevc, &[1])),
            (Video, b"\x91hvc1\0\0\x28\x09", video(Hevc, 40, true, &[9])),
            (Video, b"\xa3hvc1\x09", video(Hevc, 0, false, &[9])),
            (Video, &[0x1c, 0, 0, 0, 0, 1], Input::VideoConfig(Hevc, &[1])),
            (Video, &[0x1c, 1, 0, 0, 40, 9], video(Hevc, 40, true, &[9])),
            (Video, b"\x93av01\x09", Input::Unsupported(Codec::Av1)),
            (Video, &[0x12, 0], Input::Unsupported(Codec::LegacyVideo(2))),
            // E-RTMP multitrack, one track: number 1, then number 0.
            (Video, b"\x96\x01hvc1\x01\0\0\x28\x09", Input::Nothing),
            (Video, b"\x96\x01hvc1\0\0\0\x28\x09", video(Hevc, 40, true, &[9])),
            (Audio, &[0xaf, 0, 0x12, 0x10], Input::AudioConfig(AudioCodec::Aac, &[0x12, 0x10])),
            (Audio, &[0xaf, 1, 7], sound(AudioCodec::Aac, &[7])),
            (Audio, b"\x91mp4a\x07", sound(AudioCodec::Aac, &[7])),
            (Audio, &[0x2f, 0xff], sound(AudioCodec::Mp3, &[0xff])),
            (Audio, b"\x91.mp3\xff", sound(AudioCodec::Mp3, &[0xff])),
            (Audio, b"\x91ac-3\x0b", sound(AudioCodec::Ac3, &[0x0b])),
            (Audio, b"\x91ec-3\x0b", sound(AudioCodec::Eac3, &[0x0b])),
            (Audio, b"\x90OpusOpusHead", Input::AudioConfig(AudioCodec::Opus, b"OpusHead")),
            (Audio, b"\x91fLaC\xff", Input::Unsupported(Codec::Flac)),
            (Data, b"\x02", Input::Nothing),
        ];
        for (kind, payload, input) in cases {
            assert_eq!(Input::read(kind, payload), input, "{payload:x?}");
        }
    }
}
