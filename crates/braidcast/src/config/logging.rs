//! `[logging]`: how log lines are written, and where.

use super::keys::LogLevel;
use super::table::section;
use super::value::{Raw, Value, choice};
use crate::logging::RoomLevel;

section! {
    /// Log lines. Which are the least important ones that are written is `[server] log_level`; see [logging.md](logging.md).
    Logging {
        /// `"human"`, or one object in a line for programs: `"json"`.
        format: LogFormat = LogFormat::Human;
        /// The file for log lines. Empty: standard error. `SIGUSR1` to the front has it opened again.
        file: String = String::new();
        /// Levels of rooms that differ: `["http=debug", "hooks=warn"]`. `braidcast log-level` changes them while the server runs.
        levels: Vec<RoomLevel> = Vec::new();
        /// The file for HTTP requests, one line for each that was answered, in the combined format. Empty: they are not written.
        access_log: String = String::new();
    }
}

choice! {
    /// How log lines are written.
    LogFormat {
        /// For people.
        Human = "human",
        /// For programs.
        Json = "json",
    }
}

impl LogLevel {
    /// As it is written.
    pub fn name(self) -> String {
        self.show().trim_matches('"').to_owned()
    }

    /// The level of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::read(&Raw::Bare(name.to_owned())).ok()
    }
}

impl Value for Vec<RoomLevel> {
    const ALLOWED: &'static str = "rooms and levels: `[\"http=debug\"]`";

    fn read(raw: &Raw) -> Result<Self, String> {
        Vec::<String>::read(raw)?.iter().map(|item| item.parse()).collect()
    }

    fn show(&self) -> String {
        format!("{:?}", self.iter().map(ToString::to_string).collect::<Vec<_>>())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::load_text;
    use std::path::Path;

    #[test]
    fn levels_of_rooms_are_checked() {
        let load = |levels: &str| load_text(Path::new("b.toml"), &format!("[logging]\nlevels = {levels}\n"));
        let loaded = load("['http=debug', 'hooks = warn']").unwrap().config;
        let shown: Vec<String> = loaded.logging.levels.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["http=debug", "hooks=warn"]);
        for (bad, fault) in [("['htp=debug']", "no room"), ("['http=loud']", "no level"), ("['http']", "ROOM=LEVEL"), ("1", "not")] {
            let message = load(bad).unwrap_err().to_string();
            assert!(message.contains(fault), "{bad}: {message}");
        }
    }
}
