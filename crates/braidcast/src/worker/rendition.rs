//! The forms in which viewers get a stream, and the bytes of each.
//!
//! A rendition is a pure function of a block of the log: its records, and nothing from before. So every worker makes the same
//! bytes, an offset means the same everywhere, and all viewers of a rendition share them.

use braidcast_media::flv::{self, Record};
use braidcast_media::{RecordKind, TrackChoice};
use braidcast_protocols::http::websocket;
use braidcast_protocols::rtmp::egress;
use serde::{Deserialize, Serialize};

/// What a viewer gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rendition {
    /// In which form.
    pub form: Form,
    /// Which tracks.
    pub tracks: TrackChoice,
}

/// A form of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Form {
    /// An FLV file. With all tracks: the log's own bytes.
    Flv,
    /// RTMP chunks.
    Rtmp,
    /// An FLV file in WebSocket messages, a record each.
    WebSocket,
    /// MPEG-TS.
    Ts,
    /// AAC in ADTS frames.
    Aac,
    /// MP3 frames.
    Mp3,
}

impl Rendition {
    /// The log's own bytes.
    pub const LOG: Self = Self { form: Form::Flv, tracks: TrackChoice::All };

    /// Bytes at the beginning of a block's prefix that only a new viewer gets: the header of a file.
    pub fn file_header_bytes(self) -> u32 {
        let bytes = flv::FILE_HEADER.len();
        match self.form {
            Form::Flv => bytes as u32,
            Form::WebSocket => websocket::frame_bytes(bytes) as u32,
            Form::Rtmp | Form::Ts | Form::Aac | Form::Mp3 => 0,
        }
    }

    /// The rendition that has the same bytes where the stream has no tags with tracks or modifiers: the fewer there are, the better.
    pub fn without_tracks(self) -> Self {
        let tracks = if self.tracks == TrackChoice::First { TrackChoice::All } else { self.tracks };
        Self { tracks, ..self }
    }
}

/// Writes the bytes of one block.
#[derive(Debug)]
pub struct Renderer {
    rendition: Rendition,
    /// A record that is to be framed as a whole.
    scratch: Vec<u8>,
}

impl Renderer {
    /// For a block whose file begins with `file_header`.
    pub fn new(rendition: Rendition, file_header: &[u8], out: &mut Vec<u8>) -> Self {
        match rendition.form {
            Form::Flv => out.extend_from_slice(&chosen_header(rendition.tracks, file_header)),
            Form::WebSocket => websocket::write_frame(out, &chosen_header(rendition.tracks, file_header)),
            Form::Rtmp | Form::Ts | Form::Aac | Form::Mp3 => {}
        }
        Self { rendition, scratch: Vec::new() }
    }

    /// Appends what a record is in the rendition; maybe nothing.
    pub fn render(&mut self, record: &Record<'_>, out: &mut Vec<u8>) {
        let (kind, timestamp_ms) = (record.header.kind, record.header.timestamp_ms);
        let Some(payload) = self.rendition.tracks.payload(kind, record.payload) else { return };
        match self.rendition.form {
            Form::Flv => flv::write_record(out, kind, timestamp_ms, &payload),
            Form::Ts | Form::Aac | Form::Mp3 => {}
            Form::Rtmp => egress::write_message(out, kind, timestamp_ms, &payload),
            Form::WebSocket => {
                self.scratch.clear();
                flv::write_record(&mut self.scratch, kind, timestamp_ms, &payload);
                websocket::write_frame(out, &self.scratch);
            }
        }
    }
}

/// The file header, without a promise of what was not chosen.
fn chosen_header(tracks: TrackChoice, header: &[u8]) -> Vec<u8> {
    let mut header = header.to_vec();
    if let Some(flags) = header.get_mut(flv::FLAGS_AT) {
        for (kind, flag) in [(RecordKind::Audio, flv::FLAG_AUDIO), (RecordKind::Video, flv::FLAG_VIDEO)] {
            if !tracks.has(kind) {
                *flags &= !flag;
            }
        }
    }
    header
}
