//! What a tag's first bytes say about it: codec, keyframe, sequence header.
//!
//! Source: FLV 10.1 annex E.4.2 and E.4.3; enhanced RTMP v1 and v2 for tags that name their codec by FourCC. Nothing
//! beyond the first five bytes is read: any payload, however broken, gets an answer.

use crate::RecordKind;

/// A codec as a tag names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Codec {
    /// Video codec id 7.
    H264,
    /// Sound format 10.
    Aac,
    /// Sound format 2 (or 14, 8 kHz).
    Mp3,
    /// Any other legacy codec id or sound format.
    Legacy(u8),
    /// Enhanced RTMP: named by FourCC.
    FourCc([u8; 4]),
}

/// What the log and its readers need to know of one tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TagInfo {
    /// The codec; `None` for data, empty tags, and enhanced tags that do not name one.
    pub codec: Option<Codec>,
    /// A video frame that a decoder can start with. Never true of a sequence header.
    pub keyframe: bool,
    /// Decoder configuration that belongs into the prefix of a block.
    pub sequence_header: bool,
}

impl TagInfo {
    /// Looks at the payload of a tag.
    pub fn of(kind: RecordKind, payload: &[u8]) -> Self {
        match kind {
            RecordKind::Video => video(payload),
            RecordKind::Audio => audio(payload),
            RecordKind::Data => Self { codec: None, keyframe: false, sequence_header: false },
        }
    }
}

const FRAME_TYPE_KEY: u8 = 1;
const ENHANCED_SEQUENCE_START: u8 = 0;
const ENHANCED_CODED_FRAMES: u8 = 1;
const ENHANCED_CODED_FRAMES_X: u8 = 3;
const SOUND_FORMAT_ENHANCED: u8 = 9;

fn four_cc(payload: &[u8]) -> Option<Codec> {
    Some(Codec::FourCc(payload.get(1..5)?.try_into().ok()?))
}

fn video(payload: &[u8]) -> TagInfo {
    let Some(&first) = payload.first() else {
        return TagInfo { codec: None, keyframe: false, sequence_header: false };
    };
    let key = (first >> 4) & 7 == FRAME_TYPE_KEY;
    if first & 0x80 != 0 {
        let packet_type = first & 0x0f;
        let frame = matches!(packet_type, ENHANCED_CODED_FRAMES | ENHANCED_CODED_FRAMES_X);
        return TagInfo { codec: four_cc(payload), keyframe: key && frame, sequence_header: packet_type == ENHANCED_SEQUENCE_START };
    }
    let codec = if first & 0x0f == 7 { Codec::H264 } else { Codec::Legacy(first & 0x0f) };
    // AVCPacketType exists for H.264, and for the unofficial id 12 (HEVC) in the same place.
    let packet_type = if matches!(first & 0x0f, 7 | 12) { payload.get(1).copied() } else { Some(1) };
    TagInfo { codec: Some(codec), keyframe: key && packet_type == Some(1), sequence_header: packet_type == Some(0) }
}

fn audio(payload: &[u8]) -> TagInfo {
    let Some(&first) = payload.first() else {
        return TagInfo { codec: None, keyframe: false, sequence_header: false };
    };
    let (codec, sequence_header) = match first >> 4 {
        10 => (Some(Codec::Aac), payload.get(1) == Some(&0)),
        2 | 14 => (Some(Codec::Mp3), false),
        SOUND_FORMAT_ENHANCED => (four_cc(payload), first & 0x0f == ENHANCED_SEQUENCE_START),
        other => (Some(Codec::Legacy(other)), false),
    };
    TagInfo { codec, keyframe: false, sequence_header }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(kind: RecordKind, payload: &[u8]) -> (Option<Codec>, bool, bool) {
        let info = TagInfo::of(kind, payload);
        (info.codec, info.keyframe, info.sequence_header)
    }

    #[test]
    fn known_first_bytes() {
        use RecordKind::{Audio, Data, Video};
        assert_eq!(info(Video, &[0x17, 0, 0, 0, 0]), (Some(Codec::H264), false, true));
        assert_eq!(info(Video, &[0x17, 1, 0, 0, 0]), (Some(Codec::H264), true, false));
        assert_eq!(info(Video, &[0x27, 1, 0, 0, 0]), (Some(Codec::H264), false, false));
        assert_eq!(info(Video, &[0x17, 2, 0, 0, 0]), (Some(Codec::H264), false, false));
        assert_eq!(info(Video, b"\x90hvc1"), (Some(Codec::FourCc(*b"hvc1")), false, true));
        assert_eq!(info(Video, b"\x91hvc1"), (Some(Codec::FourCc(*b"hvc1")), true, false));
        assert_eq!(info(Audio, &[0xaf, 0, 0x12, 0x10]), (Some(Codec::Aac), false, true));
        assert_eq!(info(Audio, &[0x2f, 0xff]), (Some(Codec::Mp3), false, false));
        assert_eq!(info(Data, b"\x02"), (None, false, false));
        assert_eq!(info(Video, &[]), (None, false, false));
    }
}
