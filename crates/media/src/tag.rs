//! What a tag carries: codec, track, sequence header or frame, and where its bytes begin.
//!
//! Sources: FLV 10.1 annex E.4.2 and E.4.3; Enhanced RTMP v1 and v2 ("E-RTMP", sections "Enhanced Audio" and "Enhanced Video") for
//! tags that name their codec by FourCC, modifiers ("ModEx") and several tracks in one message. Only a tag's own headers are read, never
//! a frame: any payload, however broken, gets an answer.

use crate::RecordKind;
use std::fmt;

/// A codec, however its tag names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Codec {
    /// Video codec id 7, or `avc1`.
    H264,
    /// `hvc1`, or the video codec id 12 that encoders used before there was a FourCC.
    Hevc,
    /// `av01`, or the video codec id 13 of the same time.
    Av1,
    /// `vp09`.
    Vp9,
    /// `vp08`.
    Vp8,
    /// Sound format 10, or `mp4a`.
    Aac,
    /// Sound format 2 (or 14, 8 kHz), or `.mp3`.
    Mp3,
    /// `Opus`, or the sound format 13 that encoders used before there was a FourCC.
    Opus,
    /// `fLaC`.
    Flac,
    /// `ac-3`.
    Ac3,
    /// `ec-3`: E-AC-3.
    Eac3,
    /// Any other video codec id.
    LegacyVideo(u8),
    /// Any other sound format.
    LegacyAudio(u8),
    /// Any other FourCC.
    FourCc([u8; 4]),
}

impl fmt::Display for Codec {
    /// As people call it. Numbers are those of FLV 10.1 annex E.4.2.1 and E.4.3.1.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::H264 => "H.264",
            Self::Hevc => "H.265",
            Self::Av1 => "AV1",
            Self::Vp9 => "VP9",
            Self::Vp8 => "VP8",
            Self::Aac => "AAC",
            Self::Mp3 => "MP3",
            Self::Opus => "Opus",
            Self::Flac => "FLAC",
            Self::Ac3 => "AC-3",
            Self::Eac3 => "E-AC-3",
            Self::LegacyVideo(2) => "H.263",
            Self::LegacyVideo(4 | 5) => "VP6",
            Self::LegacyAudio(7 | 8) => "G.711",
            Self::LegacyAudio(4..=6) => "Nellymoser",
            Self::LegacyAudio(11) => "Speex",
            Self::LegacyVideo(number) | Self::LegacyAudio(number) => return write!(f, "FLV codec {number}"),
            Self::FourCc(code) => return write!(f, "{}", code.escape_ascii()),
        })
    }
}

/// What the log and its readers need to know of one tag; of the first track if it has several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TagInfo {
    /// The codec; `None` for data, empty tags, and enhanced tags that do not name one.
    pub codec: Option<Codec>,
    /// The track, 0 if the tag knows none.
    pub track: u8,
    /// A video frame that a decoder can start with. Never true of a sequence header.
    pub keyframe: bool,
    /// Which part of the decoders' configuration it is, if it is one: it belongs into the prefix of a block.
    pub header: Option<HeaderPart>,
    /// Only players that know E-RTMP v2 can read it: it has a modifier or a track number.
    pub extended: bool,
}

/// Tells the parts of the decoders' configuration apart: a later tag of the same part replaces the earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct HeaderPart {
    /// The (first) track that it is for.
    pub track: u8,
    /// What of that track.
    pub content: Content,
}

/// What a tag has for a track.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub enum Content {
    /// Decoder configuration.
    SequenceHeader,
    /// A frame, or several of audio.
    Frame,
    /// The end of a sequence, without a frame.
    SequenceEnd,
    /// AMF values about the picture (colours, HDR).
    Metadata,
    /// Decoder configuration as an MPEG-2 TS descriptor.
    TsDescriptor,
    /// How audio channels are laid out.
    ChannelLayout,
    /// Anything else: a command to the player, a type that is not known.
    Other,
}

impl Content {
    /// Whether a decoder needs it before the first frame.
    fn configures(self) -> bool {
        matches!(self, Self::SequenceHeader | Self::Metadata | Self::TsDescriptor | Self::ChannelLayout)
    }
}

/// One track's part of a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrackTag<'a> {
    /// 0 if the tag knows no tracks.
    pub track: u8,
    /// The codec.
    pub codec: Codec,
    /// What it is.
    pub content: Content,
    /// A video frame that a decoder can start with.
    pub keyframe: bool,
    /// Video: presentation less decoding time in milliseconds, 24 bits, may be negative; 0 where the codec's tags have none.
    pub composition_ms: i32,
    /// What follows: the configuration, the frame.
    pub body: &'a [u8],
}

impl TagInfo {
    const NOTHING: Self = Self { codec: None, track: 0, keyframe: false, header: None, extended: false };

    /// Looks at the payload of a tag.
    pub fn of(kind: RecordKind, payload: &[u8]) -> Self {
        let Some((head, rest)) = Head::read(kind, payload) else { return Self::NOTHING };
        let extended = head.is_extended();
        let Some(first) = (Tracks { head: Some(head), rest }).next() else { return Self { extended, ..Self::NOTHING } };
        let header = first.content.configures().then_some(HeaderPart { track: first.track, content: first.content });
        Self { codec: Some(first.codec), track: first.track, keyframe: first.keyframe, header, extended }
    }
}

/// The tracks of a tag, in order: one, unless it is a multitrack tag. What is cut short is left out.
pub fn tracks(kind: RecordKind, payload: &[u8]) -> Tracks<'_> {
    match Head::read(kind, payload) {
        Some((head, rest)) => Tracks { head: Some(head), rest },
        None => Tracks { head: None, rest: &[] },
    }
}

/// The first track of a tag: what a player gets that has never heard of tracks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FirstTrack {
    /// The tag as it is.
    Same,
    /// Another tag in its place: the bytes that go before the rest of the payload, which starts at `from` and ends before `to`.
    Instead {
        /// A tag header without modifiers and tracks.
        header: [u8; 5],
        /// First byte of the payload that follows.
        from: usize,
        /// Behind the last one.
        to: usize,
    },
    /// Nothing: the tag is of other tracks only.
    Nothing,
}

/// Says how a tag looks to a player that knows neither tracks nor modifiers.
pub fn first_track(kind: RecordKind, payload: &[u8]) -> FirstTrack {
    let Some((head, rest)) = Head::read(kind, payload) else { return FirstTrack::Same };
    if !head.is_extended() {
        return FirstTrack::Same;
    }
    let mut tracks = RawTracks { head: Some(head), rest };
    let Some(RawTrack { four_cc: Some(code), body, .. }) = tracks.find(|raw| raw.track == 0) else { return FirstTrack::Nothing };
    let first = match kind {
        RecordKind::Video => EX_HEADER | head.frame_type << 4 | head.packet_type,
        _ => SOUND_FORMAT_ENHANCED << 4 | head.packet_type,
    };
    let from = body.as_ptr() as usize - payload.as_ptr() as usize;
    FirstTrack::Instead { header: [first, code[0], code[1], code[2], code[3]], from, to: from + body.len() }
}

/// E-RTMP: the bit that says that a video tag names its codec by FourCC.
const EX_HEADER: u8 = 0x80;
const SOUND_FORMAT_ENHANCED: u8 = 9;
const FRAME_TYPE_KEY: u8 = 1;
const FRAME_TYPE_COMMAND: u8 = 5;
/// Modifiers before a tag's body that are read at most; no encoder sends more than one.
const MAX_MODIFIERS: usize = 8;

/// `VideoPacketType` and `AudioPacketType`.
mod packet {
    pub const SEQUENCE_START: u8 = 0;
    pub const CODED_FRAMES: u8 = 1;
    pub const SEQUENCE_END: u8 = 2;
    pub const CODED_FRAMES_X: u8 = 3;
    /// Video: metadata. Audio: the layout of channels.
    pub const METADATA: u8 = 4;
    pub const VIDEO_TS_SEQUENCE_START: u8 = 5;
    pub const AUDIO_MULTITRACK: u8 = 5;
    pub const VIDEO_MULTITRACK: u8 = 6;
    pub const MOD_EX: u8 = 7;
}

/// `AvMultitrackType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Multitrack {
    One,
    Many,
    ManyCodecs,
}

/// What comes before the tracks of a tag.
#[derive(Clone, Copy, Debug)]
struct Head {
    kind: RecordKind,
    frame_type: u8,
    packet_type: u8,
    multitrack: Option<Multitrack>,
    modified: bool,
    /// The one codec of all tracks; `None`: each says its own.
    codec: Option<(Codec, Option<[u8; 4]>)>,
}

impl Head {
    /// `None`: nothing to be read, or it is cut short.
    fn read(kind: RecordKind, payload: &[u8]) -> Option<(Self, &[u8])> {
        let (&first, rest) = payload.split_first()?;
        let enhanced = match kind {
            RecordKind::Video => first & EX_HEADER != 0,
            RecordKind::Audio => first >> 4 == SOUND_FORMAT_ENHANCED,
            RecordKind::Data => return None,
        };
        if enhanced { Self::read_enhanced(kind, first, rest) } else { Self::read_legacy(kind, first, rest) }
    }

    fn read_legacy(kind: RecordKind, first: u8, rest: &[u8]) -> Option<(Self, &[u8])> {
        let (codec, has_packet_type) = match (kind, if kind == RecordKind::Video { first & 0x0f } else { first >> 4 }) {
            (RecordKind::Video, 7) => (Codec::H264, true),
            (RecordKind::Video, 12) => (Codec::Hevc, true),
            (RecordKind::Video, 13) => (Codec::Av1, true),
            (RecordKind::Audio, 10) => (Codec::Aac, true),
            (RecordKind::Audio, 13) => (Codec::Opus, true),
            (RecordKind::Audio, 2 | 14) => (Codec::Mp3, false),
            (RecordKind::Video, other) => (Codec::LegacyVideo(other), false),
            (_, other) => (Codec::LegacyAudio(other), false),
        };
        let (packet_type, rest) = match rest.split_first() {
            Some((&packet_type, rest)) if has_packet_type => (packet_type, rest),
            None if has_packet_type => return None,
            _ => (packet::CODED_FRAMES, rest),
        };
        let frame_type = if kind == RecordKind::Video { first >> 4 } else { 0 };
        Some((Self { kind, frame_type, packet_type, multitrack: None, modified: false, codec: Some((codec, None)) }, rest))
    }

    fn read_enhanced(kind: RecordKind, first: u8, mut rest: &[u8]) -> Option<(Self, &[u8])> {
        let frame_type = if kind == RecordKind::Video { first >> 4 & 7 } else { 0 };
        let mut packet_type = first & 0x0f;
        let mut modified = false;
        for _ in 0..MAX_MODIFIERS {
            if packet_type != packet::MOD_EX {
                break;
            }
            modified = true;
            (packet_type, rest) = skip_modifier(rest)?;
        }
        let mut head = Self { kind, frame_type, packet_type, multitrack: None, modified, codec: None };
        if kind == RecordKind::Video && frame_type == FRAME_TYPE_COMMAND && packet_type != packet::METADATA {
            // A command to the player: one byte, no codec.
            return None;
        }
        let multitrack = if kind == RecordKind::Video { packet::VIDEO_MULTITRACK } else { packet::AUDIO_MULTITRACK };
        if packet_type == multitrack {
            let (&types, after) = rest.split_first()?;
            rest = after;
            head.packet_type = types & 0x0f;
            head.multitrack = Some(match types >> 4 {
                0 => Multitrack::One,
                1 => Multitrack::Many,
                2 => Multitrack::ManyCodecs,
                _ => return None,
            });
        }
        if head.multitrack != Some(Multitrack::ManyCodecs) {
            let (code, after) = rest.split_first_chunk::<4>()?;
            head.codec = Some((codec_of(kind, *code), Some(*code)));
            rest = after;
        }
        Some((head, rest))
    }

    fn is_extended(&self) -> bool {
        self.modified || self.multitrack.is_some()
    }

    fn is_legacy(&self) -> bool {
        matches!(self.codec, Some((_, None)))
    }

    fn content(&self) -> Content {
        match (self.kind, self.packet_type) {
            (RecordKind::Video, _) if self.is_legacy() && self.frame_type == FRAME_TYPE_COMMAND => Content::Other,
            (_, packet::SEQUENCE_START) => Content::SequenceHeader,
            (_, packet::CODED_FRAMES) => Content::Frame,
            (_, packet::SEQUENCE_END) => Content::SequenceEnd,
            (RecordKind::Video, packet::CODED_FRAMES_X) if !self.is_legacy() => Content::Frame,
            (RecordKind::Video, packet::METADATA) if !self.is_legacy() => Content::Metadata,
            (RecordKind::Audio, packet::METADATA) if !self.is_legacy() => Content::ChannelLayout,
            (RecordKind::Video, packet::VIDEO_TS_SEQUENCE_START) if !self.is_legacy() => Content::TsDescriptor,
            _ => Content::Other,
        }
    }

    /// Whether a composition time stands before the frame.
    fn has_composition(&self, codec: Codec) -> bool {
        match self.is_legacy() {
            // Of all packet types; only that of frames means something.
            true => self.kind == RecordKind::Video && matches!(codec, Codec::H264 | Codec::Hevc | Codec::Av1),
            false => {
                self.kind == RecordKind::Video && self.packet_type == packet::CODED_FRAMES && matches!(codec, Codec::H264 | Codec::Hevc)
            }
        }
    }
}

/// `ModEx`: a size, so many bytes, then a type that we need not know, and the packet type that was meant.
fn skip_modifier(rest: &[u8]) -> Option<(u8, &[u8])> {
    let (&short, mut rest) = rest.split_first()?;
    let mut size = usize::from(short) + 1;
    if size == 256 {
        let (long, after) = rest.split_first_chunk::<2>()?;
        size = usize::from(u16::from_be_bytes(*long)) + 1;
        rest = after;
    }
    let (&types, rest) = rest.get(size..)?.split_first()?;
    Some((types & 0x0f, rest))
}

fn codec_of(kind: RecordKind, code: [u8; 4]) -> Codec {
    match (kind, &code) {
        (RecordKind::Video, b"avc1") => Codec::H264,
        (RecordKind::Video, b"hvc1") => Codec::Hevc,
        (RecordKind::Video, b"av01") => Codec::Av1,
        (RecordKind::Video, b"vp09") => Codec::Vp9,
        (RecordKind::Video, b"vp08") => Codec::Vp8,
        (RecordKind::Audio, b"mp4a") => Codec::Aac,
        (RecordKind::Audio, b".mp3") => Codec::Mp3,
        (RecordKind::Audio, b"Opus") => Codec::Opus,
        (RecordKind::Audio, b"fLaC") => Codec::Flac,
        (RecordKind::Audio, b"ac-3") => Codec::Ac3,
        (RecordKind::Audio, b"ec-3") => Codec::Eac3,
        _ => Codec::FourCc(code),
    }
}

/// A track's bytes, composition time included.
#[derive(Clone, Copy)]
struct RawTrack<'a> {
    track: u8,
    codec: Codec,
    four_cc: Option<[u8; 4]>,
    body: &'a [u8],
}

struct RawTracks<'a> {
    head: Option<Head>,
    rest: &'a [u8],
}

impl<'a> Iterator for RawTracks<'a> {
    type Item = RawTrack<'a>;

    fn next(&mut self) -> Option<RawTrack<'a>> {
        let head = self.head?;
        let raw = self.read(&head);
        // Only some multitrack tags have more than one.
        let more = matches!(head.multitrack, Some(Multitrack::Many | Multitrack::ManyCodecs)) && !self.rest.is_empty();
        if raw.is_none() || !more {
            self.head = None;
        }
        raw
    }
}

impl<'a> RawTracks<'a> {
    fn read(&mut self, head: &Head) -> Option<RawTrack<'a>> {
        let (codec, four_cc) = match head.codec {
            Some(codec) => codec,
            None => {
                let (code, rest) = self.rest.split_first_chunk::<4>()?;
                self.rest = rest;
                (codec_of(head.kind, *code), Some(*code))
            }
        };
        let Some(multitrack) = head.multitrack else { return Some(RawTrack { track: 0, codec, four_cc, body: self.rest }) };
        let (&track, mut rest) = self.rest.split_first()?;
        let mut size = rest.len();
        if multitrack != Multitrack::One {
            let (bytes, after) = rest.split_first_chunk::<3>()?;
            size = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]) as usize;
            rest = after;
        }
        let (body, rest) = rest.split_at_checked(size)?;
        self.rest = rest;
        Some(RawTrack { track, codec, four_cc, body })
    }
}

/// See [`tracks`].
pub struct Tracks<'a> {
    head: Option<Head>,
    rest: &'a [u8],
}

impl<'a> Iterator for Tracks<'a> {
    type Item = TrackTag<'a>;

    fn next(&mut self) -> Option<TrackTag<'a>> {
        let head = self.head?;
        let mut raw_tracks = RawTracks { head: Some(head), rest: self.rest };
        let raw = raw_tracks.next();
        (self.head, self.rest) = (raw_tracks.head, raw_tracks.rest);
        let RawTrack { track, codec, mut body, .. } = raw?;
        let content = head.content();
        let mut composition_ms = 0;
        if head.has_composition(codec) {
            match body.split_first_chunk::<3>() {
                Some(([c0, c1, c2], after)) => {
                    composition_ms = i32::from_be_bytes([*c0, *c1, *c2, 0]) >> 8; // 24 bits, signed
                    body = after;
                }
                // The end of a sequence needs none; anything else is cut short.
                None if content == Content::SequenceEnd => {}
                None => return None,
            }
        }
        if content != Content::Frame {
            composition_ms = 0;
        }
        let keyframe = content == Content::Frame && head.kind == RecordKind::Video && head.frame_type & 7 == FRAME_TYPE_KEY;
        Some(TrackTag { track, codec, content, keyframe, composition_ms, body })
    }
}

#[cfg(test)]
mod tests {
    use super::RecordKind::{Audio, Data, Video};
    use super::*;

    fn info(kind: RecordKind, payload: &[u8]) -> (Option<Codec>, bool, Option<Content>) {
        let info = TagInfo::of(kind, payload);
        (info.codec, info.keyframe, info.header.map(|part| part.content))
    }

    /// Track, codec, content, keyframe, composition time, body.
    type Read<'a> = (u8, Codec, Content, bool, i32, &'a [u8]);

    fn all(kind: RecordKind, payload: &[u8]) -> Vec<Read<'_>> {
        tracks(kind, payload).map(|t| (t.track, t.codec, t.content, t.keyframe, t.composition_ms, t.body)).collect()
    }

    #[test]
    fn tags_of_flash() {
        let header = Some(Content::SequenceHeader);
        assert_eq!(info(Video, &[0x17, 0, 0, 0, 0]), (Some(Codec::H264), false, header));
        assert_eq!(info(Video, &[0x17, 1, 0, 0, 0]), (Some(Codec::H264), true, None));
        assert_eq!(info(Video, &[0x27, 1, 0, 0, 0]), (Some(Codec::H264), false, None));
        assert_eq!(info(Video, &[0x17, 2, 0, 0, 0]), (Some(Codec::H264), false, None));
        assert_eq!(info(Video, &[0x1c, 0, 0, 0, 0, 1]), (Some(Codec::Hevc), false, header));
        assert_eq!(info(Video, &[0x1c, 1, 0, 0, 0, 1]), (Some(Codec::Hevc), true, None));
        assert_eq!(info(Video, &[0x12, 9]), (Some(Codec::LegacyVideo(2)), true, None));
        assert_eq!(info(Audio, &[0xaf, 0, 0x12, 0x10]), (Some(Codec::Aac), false, header));
        assert_eq!(info(Audio, &[0x2f, 0xff]), (Some(Codec::Mp3), false, None));
        assert_eq!(info(Audio, &[0x2f]), (Some(Codec::Mp3), false, None));
        assert_eq!(info(Data, b"\x02"), (None, false, None));
        assert_eq!(info(Video, &[]), (None, false, None));
        assert_eq!(all(Video, &[0x17, 1, 0xff, 0xff, 0xd8, 9]), [(0, Codec::H264, Content::Frame, true, -40, &[9][..])]);
        assert_eq!(all(Video, &[0x57, 1, 0, 0, 0]), [(0, Codec::H264, Content::Other, false, 0, &[][..])]);
        assert_eq!(all(Video, &[0x17, 2]), [(0, Codec::H264, Content::SequenceEnd, false, 0, &[][..])]);
        assert_eq!(all(Video, &[0x17, 1, 0]), []);
    }

    #[test]
    fn tags_with_a_four_cc() {
        let header = Some(Content::SequenceHeader);
        assert_eq!(info(Video, b"\x90hvc1\x01"), (Some(Codec::Hevc), false, header));
        assert_eq!(info(Video, b"\x91hvc1\0\0\0"), (Some(Codec::Hevc), true, None));
        assert_eq!(info(Video, b"\x94hvc1\x02"), (Some(Codec::Hevc), false, Some(Content::Metadata)));
        assert_eq!(info(Audio, b"\x94Opus\0\x02"), (Some(Codec::Opus), false, Some(Content::ChannelLayout)));
        assert_eq!(info(Audio, b"\x90fLaC"), (Some(Codec::Flac), false, header));
        assert_eq!(info(Video, b"\x91zzzz"), (Some(Codec::FourCc(*b"zzzz")), true, None));
        assert_eq!(all(Video, b"\x91hvc1\0\0\x28x"), [(0, Codec::Hevc, Content::Frame, true, 40, &b"x"[..])]);
        assert_eq!(all(Video, b"\xa3hvc1x"), [(0, Codec::Hevc, Content::Frame, false, 0, &b"x"[..])]);
        assert_eq!(all(Video, b"\x91av01x"), [(0, Codec::Av1, Content::Frame, true, 0, &b"x"[..])]);
        assert_eq!(all(Audio, b"\x91ac-3x"), [(0, Codec::Ac3, Content::Frame, false, 0, &b"x"[..])]);
        assert_eq!(all(Video, b"\xd1\x00"), [], "a command names no codec");
        assert_eq!(all(Video, b"\x91hv"), []);
    }

    #[test]
    fn modifiers_are_read_over() {
        // Three bytes of nanoseconds; type 0; coded frames.
        let short = b"\x97\x02\0\0\x09\x01av01x";
        assert_eq!(all(Video, short), [(0, Codec::Av1, Content::Frame, true, 0, &b"x"[..])]);
        let long = [&b"\x97\xff\x00\x01\xaa\xbb\x01"[..], b"av01x"].concat();
        assert_eq!(all(Video, &long), all(Video, short));
        assert!(TagInfo::of(Video, short).extended);
        assert_eq!(first_track(Video, short), FirstTrack::Instead { header: *b"\x91av01", from: 10, to: 11 });
        let endless = [&b"\x97"[..], &b"\0\0\x07".repeat(100)].concat();
        assert_eq!(TagInfo::of(Video, &endless).codec.is_some(), all(Video, &endless).len() == 1);
    }

    #[test]
    fn several_tracks_in_one_tag() {
        let one = b"\x95\x01mp4a\x03raw";
        assert_eq!(all(Audio, one), [(3, Codec::Aac, Content::Frame, false, 0, &b"raw"[..])]);
        assert_eq!(first_track(Audio, one), FirstTrack::Nothing);
        let many = b"\x95\x11Opus\0\0\0\x02ab\x01\0\0\x01c";
        assert_eq!(
            all(Audio, many),
            [(0, Codec::Opus, Content::Frame, false, 0, &b"ab"[..]), (1, Codec::Opus, Content::Frame, false, 0, &b"c"[..])]
        );
        assert_eq!(first_track(Audio, many), FirstTrack::Instead { header: *b"\x91Opus", from: 10, to: 12 });
        let codecs = b"\x96\x20av01\0\0\0\x01avp09\x01\0\0\x02bc";
        assert_eq!(
            all(Video, codecs),
            [(0, Codec::Av1, Content::SequenceHeader, false, 0, &b"a"[..]), (1, Codec::Vp9, Content::SequenceHeader, false, 0, &b"bc"[..])]
        );
        assert_eq!(TagInfo::of(Video, codecs).header, Some(HeaderPart { track: 0, content: Content::SequenceHeader }));
        assert_eq!(first_track(Video, codecs), FirstTrack::Instead { header: *b"\x90av01", from: 10, to: 11 });
        // The composition time stays with the frame.
        let hevc = b"\xa6\x01hvc1\0\0\0\x28x";
        assert_eq!(all(Video, hevc), [(0, Codec::Hevc, Content::Frame, false, 40, &b"x"[..])]);
        assert_eq!(first_track(Video, hevc), FirstTrack::Instead { header: *b"\xa1hvc1", from: 7, to: 11 });
        assert_eq!(first_track(Video, b"\x17\x01\0\0\0x"), FirstTrack::Same);
    }

    #[test]
    fn codecs_have_their_usual_names() {
        let codecs = [Codec::H264, Codec::Hevc, Codec::LegacyAudio(11), Codec::LegacyVideo(11), Codec::FourCc(*b"a\x1b\"b")];
        assert_eq!(codecs.map(|codec| codec.to_string()), ["H.264", "H.265", "Speex", "FLV codec 11", "a\\x1b\\\"b"]);
    }

    #[test]
    fn what_is_cut_short_is_left_out() {
        let many = b"\x95\x11Opus\0\0\0\x02ab\x01\0\0\x01c";
        for cut in 0..many.len() {
            let whole = all(Audio, &many[..cut]).len();
            assert_eq!(whole, usize::from(cut >= 12), "cut at {cut}");
        }
    }
}
