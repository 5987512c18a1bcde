//! Renditions for live viewers over HTTP: a transport stream without end, or the audio frames alone.
//!
//! Whoever serves them renders each block of a stream's log by itself, from its first byte: first the prefix's records, then the
//! block's. The bytes are a function of these records and the block's codec generation alone, so that any process makes the
//! same ones at the same places. So nothing goes on from block to block: continuity counters start anew, and the first packet of
//! each PID says so. Times are those of the records and go on by themselves.
//!
//! A prefix gives no bytes. What a viewer needs who starts at a keyframe lies before that keyframe, in its record's bytes.

use super::TICKS_PER_MS;
use super::audio::{AudioCodec, AudioConfig};
use super::input::{Input, Media};
use super::muxer::{Muxer, Program, VideoFrame};
use super::nal::VideoConfig;
use crate::rtmp::amf0;
use braidcast_media::RecordKind;

/// Tables are written again after so many milliseconds of media, keyframe or not.
const TABLES_MS: u32 = 500;
/// Milliseconds of media between two clock references: two of them with a frame between are less than the 100 ms that are allowed
/// (ISO/IEC 13818-1 section 2.7.2), at 25 frames a second and more.
const CLOCK_MS: u32 = 60;
/// PMT versions that a block has for changes of its program.
const VERSIONS_PER_GENERATION: u32 = 4;
/// The deepest nesting of metadata that is read.
const METADATA_DEPTH: usize = 4;

/// Writes a block of a stream's log as transport stream packets.
#[derive(Debug)]
pub struct LiveMuxer {
    muxer: Muxer,
    video: Option<VideoConfig>,
    audio: Option<AudioConfig>,
    program: Option<Program>,
    /// Timestamps of the records at which tables and the clock were last written in this block.
    tables_ms: Option<u32>,
    clock_ms: Option<u32>,
}

impl LiveMuxer {
    /// For one block of this codec generation, from its first byte on.
    pub fn new(generation: u32) -> Self {
        let version = generation.wrapping_mul(VERSIONS_PER_GENERATION) & 31;
        Self { muxer: Muxer::anew(version as u8), video: None, audio: None, program: None, tables_ms: None, clock_ms: None }
    }

    /// Appends what a record is in the transport stream: whole packets; nothing for metadata, sequence headers, other codecs and
    /// broken frames. `timestamp_ms` is the tag's. Who leaves out video or audio for a viewer leaves out its sequence headers too, and with
    /// audio the metadata: tables announce what these say.
    pub fn record(&mut self, out: &mut Vec<u8>, kind: RecordKind, timestamp_ms: u32, payload: &[u8]) {
        match Input::read(kind, payload) {
            Input::VideoConfig(kind, record) => {
                if let Some(config) = VideoConfig::parse(kind, record) {
                    self.video = Some(config);
                }
            }
            Input::AudioConfig(codec, header) => self.audio = AudioConfig::parse(codec, header),
            Input::Frame(media) => self.frame(out, timestamp_ms, media),
            Input::Nothing if kind == RecordKind::Data => {
                if self.audio.is_none() {
                    self.audio = announced_audio(payload).and_then(AudioConfig::of_frames);
                }
            }
            Input::Unsupported(_) | Input::Nothing => {}
        }
    }

    fn frame(&mut self, out: &mut Vec<u8>, timestamp_ms: u32, media: Media<'_>) {
        let time_90k = u64::from(timestamp_ms) * TICKS_PER_MS;
        match media {
            Media::Video { kind, composition_ms, keyframe, units } => {
                let Some(config) = self.video.take_if(|config| config.kind() == kind) else { return };
                if config.accepts(units) {
                    let program = Program { video: Some(kind), audio: self.audio.map(AudioConfig::kind) };
                    self.write_start(out, timestamp_ms, program, keyframe);
                    self.write_clock(out, timestamp_ms);
                    self.muxer.write_video(out, &config, VideoFrame { dts_90k: time_90k, composition_ms, keyframe, units });
                }
                self.video = Some(config);
            }
            Media::Audio(codec, frame) => {
                let config = self.audio.filter(|config| config.kind().codec() == codec).or_else(|| AudioConfig::of_frames(codec));
                let Some(config) = config.filter(|config| config.accepts(frame)) else { return };
                self.audio = Some(config);
                let program = Program { video: self.video.as_ref().map(VideoConfig::kind), audio: Some(config.kind()) };
                self.write_start(out, timestamp_ms, program, false);
                if program.video.is_none() {
                    self.write_clock(out, timestamp_ms);
                }
                self.muxer.write_audio(out, config, time_90k, frame);
            }
        }
    }

    /// Tables, if it is time for them.
    fn write_start(&mut self, out: &mut Vec<u8>, timestamp_ms: u32, program: Program, keyframe: bool) {
        if keyframe || self.program != Some(program) || is_due(self.tables_ms, timestamp_ms, TABLES_MS) {
            self.program = Some(program);
            self.tables_ms = Some(timestamp_ms);
            self.muxer.write_tables(out, program);
        }
    }

    /// The clock, if it is time for it. It follows one track, whose times rise.
    fn write_clock(&mut self, out: &mut Vec<u8>, timestamp_ms: u32) {
        if is_due(self.clock_ms, timestamp_ms, CLOCK_MS) {
            self.clock_ms = Some(timestamp_ms);
            self.muxer.write_clock(out, u64::from(timestamp_ms) * TICKS_PER_MS);
        }
    }
}

/// Whether so much media has passed, in whichever direction, since it was last done.
fn is_due(last_ms: Option<u32>, now_ms: u32, after_ms: u32) -> bool {
    last_ms.is_none_or(|last_ms| now_ms.wrapping_sub(last_ms).cast_signed().unsigned_abs() >= after_ms)
}

/// The audio codec that metadata (`onMetaData`) announces. Codecs without a sequence header are known before their first frame only
/// by that, and a keyframe's tables should name them.
fn announced_audio(payload: &[u8]) -> Option<AudioCodec> {
    let values = amf0::decode(payload, METADATA_DEPTH).ok()?;
    let id = values.iter().find_map(|value| value.member("audiocodecid"))?;
    // A sound format, or a FourCC as a number (E-RTMP v2, "Metadata Frame") or as text.
    match (id.as_number(), id.as_str()) {
        (Some(number), _) if number == 2.0 || number == 14.0 => Some(AudioCodec::Mp3),
        (Some(number), _) => audio_of_four_cc(&(number as u32).to_be_bytes()),
        (None, Some(text)) => audio_of_four_cc(text.as_bytes()),
        (None, None) => None,
    }
}

fn audio_of_four_cc(code: &[u8]) -> Option<AudioCodec> {
    match code {
        b".mp3" => Some(AudioCodec::Mp3),
        b"ac-3" => Some(AudioCodec::Ac3),
        b"ec-3" => Some(AudioCodec::Eac3),
        _ => None,
    }
}

/// Writes the audio of a stream's log alone, of one codec. Like [`LiveMuxer`] it is run from the first byte of each block.
#[derive(Debug)]
pub struct AudioWriter {
    codec: AudioCodec,
    config: Option<AudioConfig>,
}

impl AudioWriter {
    /// AAC as ADTS frames.
    pub fn aac() -> Self {
        Self { codec: AudioCodec::Aac, config: None }
    }

    /// MP3 frames.
    pub fn mp3() -> Self {
        Self { codec: AudioCodec::Mp3, config: Some(AudioConfig::Mp3) }
    }

    /// Appends a record's frames; nothing for whatever is not audio of this codec. The times are lost: such files have none.
    pub fn record(&mut self, out: &mut Vec<u8>, kind: RecordKind, payload: &[u8]) {
        match Input::read(kind, payload) {
            Input::AudioConfig(codec, header) if codec == self.codec => self.config = AudioConfig::parse(codec, header),
            Input::Frame(Media::Audio(codec, frame)) if codec == self.codec => {
                if let Some(config) = self.config.filter(|config| config.accepts(frame)) {
                    config.write_frame_header(out, frame);
                    out.extend_from_slice(frame);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
#[path = "live_tests.rs"]
mod tests;
