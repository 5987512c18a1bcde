//! The audio codecs of transport streams: how a PMT announces each, what a decoder needs to know, and how a frame becomes the
//! payload of a PES packet.

use super::aac::{AdtsConfig, MAX_FRAME_BYTES};
use super::opus;
use serde::{Deserialize, Serialize};

/// The longest payload: what a PES packet's 16-bit length can say, less its header's 8 bytes after that field.
pub const MAX_PAYLOAD_BYTES: usize = u16::MAX as usize - 8;

/// PES packets of MPEG audio (ISO/IEC 13818-1 table 2-22).
const STREAM_ID_AUDIO: u8 = 0xc0;
/// PES packets of audio that MPEG does not know.
const STREAM_ID_PRIVATE: u8 = 0xbd;

/// An audio codec that transport streams carry here, as a tag names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AudioCodec {
    /// One raw frame in each tag, configured by a header.
    Aac,
    /// Whole frames, which say all of themselves.
    Mp3,
    /// Whole frames, which say all of themselves.
    Ac3,
    /// Whole frames, which say all of themselves.
    Eac3,
    /// One packet in each tag, configured by a header.
    Opus,
}

/// What a PMT says of the audio.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AudioKind {
    /// ADTS, stream type 0x0F.
    Aac,
    /// MPEG-1 or MPEG-2 audio, stream type 0x03.
    Mp3,
    /// AC-3 as in ATSC A/53: stream type 0x81 and registration; DVB's descriptor (ETSI EN 300 468 annex D) beside it.
    Ac3,
    /// E-AC-3 as in ATSC A/53: stream type 0x87 and registration; DVB's descriptor beside it.
    Eac3,
    /// Private data that is registered as Opus.
    Opus {
        /// The channel_config_code: 1 to 8 channels.
        channels: u8,
    },
}

impl AudioKind {
    /// The codec.
    pub fn codec(self) -> AudioCodec {
        match self {
            Self::Aac => AudioCodec::Aac,
            Self::Mp3 => AudioCodec::Mp3,
            Self::Ac3 => AudioCodec::Ac3,
            Self::Eac3 => AudioCodec::Eac3,
            Self::Opus { .. } => AudioCodec::Opus,
        }
    }

    /// ISO/IEC 13818-1 table 2-34; above 0x7F of ATSC.
    pub(super) fn stream_type(self) -> u8 {
        match self {
            Self::Aac => 0x0f,
            Self::Mp3 => 0x03,
            Self::Ac3 => 0x81,
            Self::Eac3 => 0x87,
            Self::Opus { .. } => 0x06,
        }
    }

    /// Registration first (tag 5), by which all players know these codecs.
    pub(super) fn descriptors(self) -> Vec<u8> {
        match self {
            Self::Aac | Self::Mp3 => Vec::new(),
            // AC-3_descriptor, enhanced_ac-3_descriptor: none of their optional parts.
            Self::Ac3 => b"\x05\x04AC-3\x6a\x01\x0f".to_vec(),
            Self::Eac3 => b"\x05\x04EAC3\x7a\x01\x0f".to_vec(),
            // Extension descriptor (tag 0x7F) 0x80: the channels.
            Self::Opus { channels } => [&b"\x05\x04Opus\x7f\x02\x80"[..], &[channels]].concat(),
        }
    }

    pub(super) fn stream_id(self) -> u8 {
        match self {
            Self::Aac | Self::Mp3 => STREAM_ID_AUDIO,
            Self::Ac3 | Self::Eac3 | Self::Opus { .. } => STREAM_ID_PRIVATE,
        }
    }
}

/// An audio decoder's configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AudioConfig {
    /// Frames get an ADTS header.
    Aac(AdtsConfig),
    /// As they are.
    Mp3,
    /// As they are.
    Ac3,
    /// As they are.
    Eac3,
    /// Packets get a control header.
    Opus {
        /// The channel_config_code: 1 to 8 channels.
        channels: u8,
    },
}

impl AudioConfig {
    /// Whether a restored configuration is one that can be parsed.
    pub(crate) fn is_sound(&self) -> bool {
        match self {
            Self::Aac(config) => config.is_sound(),
            Self::Opus { channels } => (1..=8).contains(channels),
            Self::Mp3 | Self::Ac3 | Self::Eac3 => true,
        }
    }

    /// Of a codec's sequence header; `None` if it is broken or says what transport streams cannot.
    pub fn parse(codec: AudioCodec, header: &[u8]) -> Option<Self> {
        match codec {
            AudioCodec::Aac => AdtsConfig::parse(header).map(Self::Aac),
            AudioCodec::Opus => opus::channel_config(header).map(|channels| Self::Opus { channels }),
            AudioCodec::Mp3 | AudioCodec::Ac3 | AudioCodec::Eac3 => Self::of_frames(codec),
        }
    }

    /// Of a codec whose frames say all of themselves.
    pub fn of_frames(codec: AudioCodec) -> Option<Self> {
        match codec {
            AudioCodec::Mp3 => Some(Self::Mp3),
            AudioCodec::Ac3 => Some(Self::Ac3),
            AudioCodec::Eac3 => Some(Self::Eac3),
            AudioCodec::Aac | AudioCodec::Opus => None,
        }
    }

    /// What a PMT says of it.
    pub fn kind(self) -> AudioKind {
        match self {
            Self::Aac(_) => AudioKind::Aac,
            Self::Mp3 => AudioKind::Mp3,
            Self::Ac3 => AudioKind::Ac3,
            Self::Eac3 => AudioKind::Eac3,
            Self::Opus { channels } => AudioKind::Opus { channels },
        }
    }

    /// True if a frame is neither empty nor too long to be carried.
    pub fn accepts(self, frame: &[u8]) -> bool {
        let longest = match self {
            Self::Aac(_) => MAX_FRAME_BYTES,
            Self::Opus { .. } => opus::MAX_PACKET_BYTES,
            Self::Mp3 | Self::Ac3 | Self::Eac3 => MAX_PAYLOAD_BYTES,
        };
        (1..=longest).contains(&frame.len())
    }

    /// Appends what goes before a frame that it accepts.
    pub fn write_frame_header(self, out: &mut Vec<u8>, frame: &[u8]) {
        match self {
            Self::Aac(config) => out.extend_from_slice(&config.header(frame.len())),
            Self::Opus { .. } => opus::write_control_header(out, frame.len()),
            Self::Mp3 | Self::Ac3 | Self::Eac3 => {}
        }
    }
}
