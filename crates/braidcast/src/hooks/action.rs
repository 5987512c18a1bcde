//! What hooks can be called for, by the names of SRS's callbacks.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What has happened, or wants to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Action {
    /// An RTMP client has named its app.
    Connect,
    /// An RTMP connection is over.
    Close,
    /// Somebody wants to publish.
    Publish,
    /// A publisher is gone.
    Unpublish,
    /// Somebody wants to watch.
    Play,
    /// A viewer is gone.
    Stop,
    /// A segment is finished.
    Hls,
    /// A publisher was let in: where is its stream to be pushed to?
    Forward,
}

impl Action {
    /// All of them.
    pub const ALL: [Self; 8] =
        [Self::Connect, Self::Close, Self::Publish, Self::Unpublish, Self::Play, Self::Stop, Self::Hls, Self::Forward];

    /// Its name in configurations and in what hooks are sent.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "on_connect",
            Self::Close => "on_close",
            Self::Publish => "on_publish",
            Self::Unpublish => "on_unpublish",
            Self::Play => "on_play",
            Self::Stop => "on_stop",
            Self::Hls => "on_hls",
            Self::Forward => "on_forward",
        }
    }

    /// The action with this name; the error says why there is none.
    pub fn parse(name: &str) -> Result<Self, String> {
        if let Some(action) = Self::ALL.into_iter().find(|action| action.name() == name) {
            return Ok(action);
        }
        match name {
            "on_dvr" => Err("\"on_dvr\" is about recordings, and streams are not recorded here: take on_hls, or record with ffmpeg".into()),
            "on_hls_notify" => Err("\"on_hls_notify\" fetches segments through other servers; on_hls says of each where it is".into()),
            _ => {
                let near = |action: &Self| strsim::normalized_damerau_levenshtein(name, action.name());
                let nearest = Self::ALL.into_iter().max_by(|a, b| near(a).total_cmp(&near(b))).unwrap_or(Self::Publish);
                Err(format!("unknown event {name:?}; did you mean {nearest}?"))
            }
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_what_there_is_not_is_said() {
        for action in Action::ALL {
            assert_eq!(Action::parse(action.name()), Ok(action));
        }
        assert!(Action::parse("on_dvr").unwrap_err().contains("not recorded"));
        assert!(Action::parse("on_hls_notify").unwrap_err().contains("on_hls"));
        assert!(Action::parse("on_publsh").unwrap_err().contains("did you mean on_publish?"));
    }
}
