//! Which tracks of a stream a viewer gets.

use crate::RecordKind;
use crate::tag::{self, FirstTrack};
use std::borrow::Cow;

/// A choice of tracks. Data records always go along.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum TrackChoice {
    /// Everything, as it was published.
    All,
    /// One video and one audio track, in tags that need no Enhanced RTMP v2 ([`tag::first_track`]).
    First,
    /// Of those the audio.
    Audio,
    /// Of those the video.
    Video,
    /// Neither.
    Neither,
}

impl TrackChoice {
    /// Whether records of this kind are part of it.
    pub fn has(self, kind: RecordKind) -> bool {
        match kind {
            RecordKind::Audio => !matches!(self, Self::Video | Self::Neither),
            RecordKind::Video => !matches!(self, Self::Audio | Self::Neither),
            RecordKind::Data => true,
        }
    }

    /// The record's payload as this choice has it; `None` if it has nothing of it.
    pub fn payload(self, kind: RecordKind, payload: &[u8]) -> Option<Cow<'_, [u8]>> {
        if !self.has(kind) {
            return None;
        }
        if self == Self::All {
            return Some(Cow::Borrowed(payload));
        }
        match tag::first_track(kind, payload) {
            FirstTrack::Same => Some(Cow::Borrowed(payload)),
            FirstTrack::Instead { header, from, to } => Some(Cow::Owned([&header[..], &payload[from..to]].concat())),
            FirstTrack::Nothing => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::RecordKind::{Audio, Data, Video};
    use super::*;

    #[test]
    fn each_choice_has_its_records() {
        let (plain, second, first) = (&b"\x17\x01\0\0\0x"[..], &b"\x95\x01mp4a\x01raw"[..], &b"\x95\x01mp4a\0raw"[..]);
        let has = |choice: TrackChoice| {
            [(Video, plain), (Audio, first), (Audio, second), (Data, b"\x02")].map(|(kind, bytes)| choice.payload(kind, bytes).is_some())
        };
        assert_eq!(has(TrackChoice::All), [true; 4]);
        assert_eq!(has(TrackChoice::First), [true, true, false, true]);
        assert_eq!(has(TrackChoice::Audio), [false, true, false, true]);
        assert_eq!(has(TrackChoice::Video), [true, false, false, true]);
        assert_eq!(has(TrackChoice::Neither), [false, false, false, true]);
        assert_eq!(TrackChoice::First.payload(Audio, first).as_deref(), Some(&b"\x91mp4araw"[..]));
        assert_eq!(TrackChoice::All.payload(Audio, first).as_deref(), Some(first));
    }
}
