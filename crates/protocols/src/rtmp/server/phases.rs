//! The phases of a server's session, each with only what that phase needs, and what a client said of itself.

use crate::rtmp::handshake::ServerHandshake;
use crate::rtmp::url::Resolved;
use braidcast_media::TrackChoice;
use serde::{Deserialize, Serialize};

/// What a client said in `connect`, kept because it may publish and play several times.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Connection {
    pub app: Box<str>,
    pub tc_url: Box<str>,
    pub page_url: Box<str>,
    pub swf_url: Box<str>,
    pub flash_version: Box<str>,
    /// See [`crate::via`].
    pub via: Box<str>,
    /// It sent FCPublish, so it wants onFCPublish too when its publish starts.
    pub announces: bool,
    /// It can tell several tracks of a kind apart (Enhanced RTMP v2).
    pub knows_tracks: bool,
    /// It does not want audio, or video (RTMP §7.2.2.4 and §7.2.2.5).
    pub without_audio: bool,
    pub without_video: bool,
}

impl Connection {
    /// What of a stream it wants to be sent.
    pub fn tracks(&self) -> TrackChoice {
        match (self.without_audio, self.without_video) {
            (false, false) if self.knows_tracks => TrackChoice::All,
            (false, false) => TrackChoice::First,
            (false, true) => TrackChoice::Audio,
            (true, false) => TrackChoice::Video,
            (true, true) => TrackChoice::Neither,
        }
    }
}

/// A stream that the client publishes or plays, or wants to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Wanted {
    pub resolved: Resolved,
    /// The message stream of the command, which its status goes to.
    pub message_stream: u32,
}

/// Publish or play.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Wish {
    Publish,
    Play,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Phase {
    Handshaking(Handshaking),
    /// The handshake is done; only `connect` is listened to.
    Connecting,
    Commanding(Commanding),
    Deciding(Deciding),
    Publishing(Publishing),
    Playing(Playing),
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Handshaking {
    pub handshake: Box<ServerHandshake>,
}

/// Connected; neither publishing nor playing.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Commanding {
    pub connection: Box<Connection>,
}

/// The caller was asked; nothing more is read until it answers.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Deciding {
    pub connection: Box<Connection>,
    pub wish: Wish,
    pub wanted: Wanted,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Publishing {
    pub connection: Box<Connection>,
    pub wanted: Wanted,
    /// Media has come, so that from now on silence counts.
    pub started: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Playing {
    pub connection: Box<Connection>,
    pub wanted: Wanted,
}

impl Phase {
    /// What the client said of itself, once it did.
    pub fn connection(&mut self) -> Option<&mut Box<Connection>> {
        match self {
            Self::Handshaking(_) | Self::Connecting => None,
            Self::Commanding(Commanding { connection })
            | Self::Deciding(Deciding { connection, .. })
            | Self::Publishing(Publishing { connection, .. })
            | Self::Playing(Playing { connection, .. }) => Some(connection),
        }
    }

    /// The stream in question, if there is one.
    pub fn wanted(&self) -> Option<(&Connection, &Wanted)> {
        match self {
            Self::Handshaking(_) | Self::Connecting | Self::Commanding(_) => None,
            Self::Deciding(Deciding { connection, wanted, .. })
            | Self::Publishing(Publishing { connection, wanted, .. })
            | Self::Playing(Playing { connection, wanted }) => Some((connection, wanted)),
        }
    }

    /// The phase that follows `connect`, and every end of a publish or play.
    pub fn back_to_commanding(&mut self) {
        let connection = self.connection().map(std::mem::take).unwrap_or_default();
        *self = Self::Commanding(Commanding { connection });
    }
}
