//! The forms in which viewers get a stream, and the bytes of each.
//!
//! A rendition is a pure function of a block of the log: its records, and nothing from before. So every worker makes the same
//! bytes, an offset means the same everywhere, and all viewers of a rendition share them.

use braidcast_media::flv::{self, Record};
use braidcast_media::{RecordKind, TrackChoice};
use braidcast_protocols::http::websocket;
use braidcast_protocols::mpegts::{self, AudioWriter, LiveMuxer, Survey};
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

    /// Everything in RTMP chunks.
    pub const RTMP: Self = Self { form: Form::Rtmp, tracks: TrackChoice::All };

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

/// Whether a rendition can show anything of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Carried {
    /// It can.
    Yes,
    /// What was published so far does not tell.
    NotYet,
    /// It cannot; what the stream has instead, for people.
    No(String),
}

impl Rendition {
    /// Looks at the beginning of a block: its prefix and its first records.
    pub fn carries(self, beginning: &[u8]) -> Carried {
        let form = match self.form {
            Form::Flv | Form::Rtmp | Form::WebSocket => return Carried::Yes,
            Form::Ts => mpegts::Form::Ts,
            Form::Aac => mpegts::Form::Aac,
            Form::Mp3 => mpegts::Form::Mp3,
        };
        let mut survey = Survey::default();
        for record in flv::records(beginning) {
            let kind = record.header.kind;
            if let Some(payload) = self.tracks.payload(kind, record.payload) {
                survey.record(kind, record.header.timestamp_ms, &payload);
            }
            if survey.is_carried_by(form) {
                return Carried::Yes;
            }
            if survey.is_settled() {
                break;
            }
        }
        if !survey.is_settled() {
            return Carried::NotYet;
        }
        let codecs: Vec<String> = survey.left_out_by(form).map(|codec| codec.to_string()).collect();
        Carried::No(codecs.join(" and "))
    }
}

/// Writes the bytes of one block.
#[derive(Debug)]
pub struct Renderer {
    tracks: TrackChoice,
    pen: Pen,
}

/// What a form keeps from record to record of a block.
#[derive(Debug)]
enum Pen {
    Flv,
    Rtmp,
    /// The record that is framed as a whole.
    WebSocket(Vec<u8>),
    Ts(Box<LiveMuxer>),
    Audio(Box<AudioWriter>),
}

impl Renderer {
    /// For a block whose file begins with `file_header`, of a codec generation.
    pub fn new(rendition: Rendition, file_header: &[u8], generation: u32, out: &mut Vec<u8>) -> Self {
        let tracks = rendition.tracks;
        let pen = match rendition.form {
            Form::Flv => {
                out.extend_from_slice(&chosen_header(tracks, file_header));
                Pen::Flv
            }
            Form::WebSocket => {
                websocket::write_frame(out, &chosen_header(tracks, file_header));
                Pen::WebSocket(Vec::new())
            }
            Form::Rtmp => Pen::Rtmp,
            Form::Ts => Pen::Ts(Box::new(LiveMuxer::new(generation))),
            Form::Aac => Pen::Audio(Box::new(AudioWriter::aac())),
            Form::Mp3 => Pen::Audio(Box::new(AudioWriter::mp3())),
        };
        Self { tracks, pen }
    }

    /// Appends what a record is in the rendition; maybe nothing.
    pub fn render(&mut self, record: &Record<'_>, out: &mut Vec<u8>) {
        let (kind, timestamp_ms) = (record.header.kind, record.header.timestamp_ms);
        let Some(payload) = self.tracks.payload(kind, record.payload) else { return };
        match &mut self.pen {
            Pen::Flv => flv::write_record(out, kind, timestamp_ms, &payload),
            Pen::Rtmp => egress::write_message(out, kind, timestamp_ms, &payload),
            Pen::WebSocket(message) => {
                message.clear();
                flv::write_record(message, kind, timestamp_ms, &payload);
                websocket::write_frame(out, message);
            }
            // Metadata announces audio: who has none must not be promised any.
            Pen::Ts(_) if kind == RecordKind::Data && !self.tracks.has(RecordKind::Audio) => {}
            Pen::Ts(muxer) => muxer.record(out, kind, timestamp_ms, &payload),
            Pen::Audio(writer) => writer.record(out, kind, &payload),
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
