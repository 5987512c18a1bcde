//! Which of a stream's codecs a form of it can carry: to be asked before somebody waits for bytes that never come.

use super::audio::AudioConfig;
use super::input::Input;
use super::nal::VideoConfig;
use braidcast_media::RecordKind;
use braidcast_media::tag::{Codec, Content, tracks};

/// A stream may have its other track come later than its first: so much media is waited for it, in milliseconds.
const OTHER_TRACK_MS: i32 = 1_000;

/// A form in which viewers get a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// MPEG-TS, live or in HLS segments.
    Ts,
    /// ADTS frames.
    Aac,
    /// MP3 frames.
    Mp3,
}

/// A codec of the stream's first track of video or audio.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    codec: Codec,
    /// Its sequence header says what a transport stream cannot.
    refused: bool,
}

impl Seen {
    fn is_carried_by(self, form: Form) -> bool {
        !self.refused
            && match form {
                Form::Ts => super::input::carried(self.codec).is_some(),
                Form::Aac => self.codec == Codec::Aac,
                Form::Mp3 => self.codec == Codec::Mp3,
            }
    }
}

/// What a block's prefix and its first records say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    video: Option<Seen>,
    audio: Option<Seen>,
    /// Timestamps of the first and the last frame.
    frames_ms: Option<(u32, u32)>,
}

impl Survey {
    /// Takes in the next record.
    pub fn record(&mut self, kind: RecordKind, timestamp_ms: u32, payload: &[u8]) {
        let Some(tag) = tracks(kind, payload).find(|tag| tag.track == 0) else { return };
        let refused = match Input::read(kind, payload) {
            Input::VideoConfig(kind, record) => VideoConfig::parse(kind, record).is_none(),
            Input::AudioConfig(codec, header) => AudioConfig::parse(codec, header).is_none(),
            Input::Frame(_) => false,
            Input::Unsupported(_) => true,
            Input::Nothing => return,
        };
        if tag.content == Content::Frame {
            let first_ms = self.frames_ms.map_or(timestamp_ms, |(first_ms, _)| first_ms);
            self.frames_ms = Some((first_ms, timestamp_ms));
        }
        let seen = if kind == RecordKind::Video { &mut self.video } else { &mut self.audio };
        seen.get_or_insert(Seen { codec: tag.codec, refused });
    }

    /// Nothing that comes later is likely to change the answer.
    pub fn is_settled(&self) -> bool {
        let passed = self.frames_ms.is_some_and(|(first_ms, last_ms)| last_ms.wrapping_sub(first_ms).cast_signed() >= OTHER_TRACK_MS);
        passed || (self.video.is_some() && self.audio.is_some())
    }

    /// The video codec.
    pub fn video(&self) -> Option<Codec> {
        self.video.map(|seen| seen.codec)
    }

    /// The audio codec.
    pub fn audio(&self) -> Option<Codec> {
        self.audio.map(|seen| seen.codec)
    }

    /// Whether a form shows anything of the stream, as far as is known.
    pub fn is_carried_by(&self, form: Form) -> bool {
        self.seen().any(|seen| seen.is_carried_by(form))
    }

    /// The codecs that a form leaves out.
    pub fn left_out_by(&self, form: Form) -> impl Iterator<Item = Codec> + '_ {
        self.seen().filter(move |seen| !seen.is_carried_by(form)).map(|seen| seen.codec)
    }

    fn seen(&self) -> impl Iterator<Item = Seen> + '_ {
        [self.video, self.audio].into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use RecordKind::{Audio, Data, Video};

    fn survey(records: &[(RecordKind, u32, &[u8])]) -> Survey {
        let mut survey = Survey::default();
        records.iter().for_each(|(kind, time, payload)| survey.record(*kind, *time, payload));
        survey
    }

    fn left_out(survey: &Survey, form: Form) -> Vec<Codec> {
        survey.left_out_by(form).collect()
    }

    #[test]
    fn each_form_carries_what_it_can() {
        let av1 = survey(&[(Data, 0, b"\x02"), (Video, 0, b"\x90av01\x81"), (Audio, 0, b"\xaf\0\x12\x10")]);
        assert!(av1.is_settled());
        assert_eq!((av1.video(), av1.audio()), (Some(Codec::Av1), Some(Codec::Aac)));
        assert!(av1.is_carried_by(Form::Ts) && av1.is_carried_by(Form::Aac) && !av1.is_carried_by(Form::Mp3));
        assert_eq!(left_out(&av1, Form::Ts), [Codec::Av1]);
        assert_eq!(left_out(&av1, Form::Mp3), [Codec::Av1, Codec::Aac]);
        let flac = survey(&[(Video, 0, b"\x93vp09x"), (Audio, 0, b"\x91fLaC\xff")]);
        assert!(!flac.is_carried_by(Form::Ts));
        assert_eq!(left_out(&flac, Form::Ts), [Codec::Vp9, Codec::Flac]);
    }

    #[test]
    fn a_header_that_says_what_cannot_be_carried_counts_as_left_out() {
        // AAC with a program config element; a broken H.265 record.
        let refused = survey(&[(Video, 0, b"\x90hvc1\x01"), (Audio, 0, b"\xaf\0\x12\x00")]);
        assert_eq!(left_out(&refused, Form::Ts), [Codec::Hevc, Codec::Aac]);
        assert!(!refused.is_carried_by(Form::Aac));
    }

    #[test]
    fn one_track_alone_is_settled_after_a_while() {
        let mut alone = survey(&[(Video, u32::MAX - 9, b"\x93av01x"), (Video, u32::MAX - 29, b"\x93av01x"), (Video, 980, b"\x93av01x")]);
        assert!(!alone.is_settled());
        alone.record(Video, 990, b"\x93av01x");
        assert!(alone.is_settled() && !alone.is_carried_by(Form::Ts));
        assert!(!survey(&[]).is_settled());
    }
}
