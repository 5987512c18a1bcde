//! Rooms: parts of the program whose lines can have a level of their own.

use crate::config::LogLevel;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

macro_rules! rooms {
    ($($variant:ident = $name:literal: $doc:literal, $($target:literal)+;)+) => {
        /// A part of the program, for log lines.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Room { $(#[doc = $doc] $variant,)+ }

        impl Room {
            /// All of them, with what their lines are about.
            pub const ALL: &'static [(Self, &'static str)] = &[$((Self::$variant, $doc)),+];

            /// Its name.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            /// Its modules.
            pub fn targets(self) -> &'static [&'static str] {
                match self { $(Self::$variant => &[$($target),+]),+ }
            }
        }
    };
}

rooms! {
    Front = "front": "accepting, placing, workers, upgrades", "braidcast::front";
    Worker = "worker": "sessions, publishers, viewers, taking over", "braidcast::worker";
    Rtmp = "rtmp": "RTMP", "braidcast::worker::rtmp" "braidcast::worker::play" "braidcast::worker::relay::rtmp";
    Http = "http": "HTTP of viewers", "braidcast::worker::http" "braidcast::worker::websocket" "braidcast::worker::relay::http";
    Hls = "hls": "segments, indexes, viewers' sessions", "braidcast::hls" "braidcast::worker::hls_sessions" "braidcast::front::hls_sessions";
    Relays = "relays": "forwards and pulls", "braidcast::relays" "braidcast::worker::outgoing" "braidcast::front::pulls";
    Engine = "engine": "processes of another server", "braidcast::engine" "braidcast::front::engine" "braidcast::worker::relay" "braidcast::srs_conf";
    Access = "access": "rules of access", "braidcast::access" "braidcast::front::access" "braidcast::worker::access";
    Hooks = "hooks": "calls to back ends", "braidcast::hooks" "braidcast::front::decisions";
    Tls = "tls": "TLS", "braidcast::tls";
    Attendants = "attendants": "processes beside the workers", "braidcast::attendant" "braidcast::front::attendants";
    Events = "events": "the event log", "braidcast::events" "braidcast::front::events";
    Api = "api": "the HTTP API", "braidcast::api" "braidcast::worker::api";
    Moves = "moves": "sessions that move, and how they are saved",
        "braidcast::front::moves" "braidcast::front::balance" "braidcast::worker::handover" "braidcast::worker::takeover" "braidcast::worker::save";
    Metrics = "metrics": "metrics", "braidcast::metrics" "braidcast::worker::metrics";
    Sandbox = "sandbox": "what processes may do", "braidcast::sandbox";
    Logging = "logging": "logging itself", "braidcast::logging";
}

impl Room {
    /// Whose a module is: of those whose modules it lies in, the one that means it most.
    pub fn of(target: &str) -> Option<Self> {
        let of_room = |(room, _): &(Self, _)| {
            let longest = room.targets().iter().filter(|prefix| is_in(target, prefix)).map(|prefix| prefix.len()).max()?;
            Some((longest, *room))
        };
        Self::ALL.iter().filter_map(of_room).max_by_key(|(longest, _)| *longest).map(|(_, room)| room)
    }
}

fn is_in(target: &str, module: &str) -> bool {
    target.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

impl FromStr for Room {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = || Self::ALL.iter().map(|(room, _)| room.name()).collect::<Vec<_>>().join(", ");
        let found = Self::ALL.iter().find(|(room, _)| room.name() == text).map(|(room, _)| *room);
        found.ok_or_else(|| format!("{text:?} is no room; there are {}", names()))
    }
}

/// A room's level, as in `http=debug`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RoomLevel {
    /// Which room.
    pub room: Room,
    /// The least important lines of it that are written.
    pub level: LogLevel,
}

impl FromStr for RoomLevel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (room, level) = text.split_once('=').ok_or_else(|| format!("{text:?} is not written ROOM=LEVEL (\"http=debug\")"))?;
        let level =
            LogLevel::named(level.trim()).ok_or_else(|| format!("{level:?} is no level; there are error, warn, info, debug, trace"))?;
        Ok(Self { room: room.trim().parse()?, level })
    }
}

impl TryFrom<String> for RoomLevel {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<RoomLevel> for String {
    fn from(level: RoomLevel) -> Self {
        level.to_string()
    }
}

impl fmt::Display for RoomLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.room.name(), self.level.name())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_module_belongs_to_the_room_that_means_it_most() {
        for (target, room) in [
            ("braidcast::front", Some(Room::Front)),
            ("braidcast::front::workers", Some(Room::Front)),
            ("braidcast::front::pulls", Some(Room::Relays)),
            ("braidcast::worker", Some(Room::Worker)),
            ("braidcast::worker::relay::rtmp", Some(Room::Rtmp)),
            ("braidcast::worker::relay::pair", Some(Room::Engine)),
            ("braidcast::workers", None),
            ("rustls::client", None),
        ] {
            assert_eq!(Room::of(target), room, "{target}");
        }
    }

    #[test]
    fn levels_of_rooms_are_read_as_they_are_shown() {
        for (room, _) in Room::ALL {
            let level = RoomLevel { room: *room, level: LogLevel::Debug };
            assert_eq!(level.to_string().parse(), Ok(level));
        }
        for bad in ["", "http", "http=", "http=loud", "=debug", "htp=debug"] {
            assert!(bad.parse::<RoomLevel>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_documentation_names_every_room() {
        let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/logging.md");
        let text = std::fs::read_to_string(page).unwrap();
        for (room, about) in Room::ALL {
            assert!(text.contains(&format!("| `{}` | {about} |", room.name())), "{}", room.name());
        }
    }

    #[test]
    fn every_room_has_modules_that_are_there() {
        let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        for (room, _) in Room::ALL {
            for target in room.targets() {
                let path = source.join(target.strip_prefix("braidcast::").unwrap().replace("::", "/"));
                assert!(path.is_dir() || path.with_extension("rs").is_file(), "{target} of {}", room.name());
            }
        }
    }
}
