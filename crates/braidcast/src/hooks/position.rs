//! How far notifications have come, in a file: a process that comes after this one neither loses nor repeats what is done.
//!
//! A line for the log of events, then one for each hook: its fingerprint and the numbers of what it has not been told. What a death interrupts
//! was perhaps told and is told once more.

use crate::control::attendants::{Role, file_of};
use std::collections::{BTreeSet, HashMap};
use std::fmt::Write;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// What the file's name ends with.
const SUFFIX: &str = "position";

/// See the module's head.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The last event that was taken from the log.
    pub seen: u64,
    /// By fingerprint: what a hook has not been told of the events up to there.
    pub pending: HashMap<u64, BTreeSet<u64>>,
}

impl Position {
    /// What was saved last; `None`: nothing, or nothing that can be read.
    pub fn load(shared_dir: &Path) -> Option<Self> {
        Self::parse(&fs::read_to_string(file_of(shared_dir, Role::Hooks, SUFFIX)).ok()?)
    }

    /// Saves it; a reader finds this one or the one before.
    pub fn save(shared_dir: &Path, seen: u64, hooks: impl Iterator<Item = (u64, impl Iterator<Item = u64>)>) -> io::Result<()> {
        let mut text = format!("{seen}\n");
        for (fingerprint, pending) in hooks {
            let _ = write!(text, "{fingerprint:x}");
            pending.for_each(|id| _ = write!(text, " {id}"));
            text.push('\n');
        }
        text.push_str("end\n");
        let path = file_of(shared_dir, Role::Hooks, SUFFIX);
        let part = path.with_extension("part");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
        file.write_all(text.as_bytes())?;
        fs::rename(part, path)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.strip_suffix("end\n")?.lines();
        let seen = lines.next()?.parse().ok()?;
        let of_hook = |line: &str| {
            let mut words = line.split(' ');
            let fingerprint = u64::from_str_radix(words.next()?, 16).ok()?;
            Some((fingerprint, words.map(|word| word.parse().ok()).collect::<Option<_>>()?))
        };
        Some(Self { seen, pending: lines.map(of_hook).collect::<Option<_>>()? })
    }

    /// The event before the first one that a hook has to be told; [`Position::seen`] if there is none.
    pub fn first_wanted(&self) -> u64 {
        let pending = self.pending.values().filter_map(|pending| pending.first());
        pending.min().map_or(self.seen, |first| first.saturating_sub(1))
    }

    /// Whether a hook is to be told of an event. A hook that is new is told of what comes after [`Position::seen`].
    pub fn wants(&self, fingerprint: u64, id: u64) -> bool {
        id > self.seen || self.pending.get(&fingerprint).is_some_and(|pending| pending.contains(&id))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_position_reads_back_and_wants_what_was_not_done(seen in 0..100u64, hooks in prop::collection::hash_map(any::<u64>(), prop::collection::btree_set(1..100u64, 0..5), 0..4)) {
            let hooks: HashMap<u64, BTreeSet<u64>> =
                hooks.into_iter().map(|(of, ids)| (of, ids.into_iter().filter(|id| *id <= seen).collect())).collect();
            let directory = tempfile::tempdir_in("/dev/shm").unwrap();
            std::fs::create_dir(directory.path().join("attendants")).unwrap();
            Position::save(directory.path(), seen, hooks.iter().map(|(of, ids)| (*of, ids.iter().copied()))).unwrap();
            let position = Position::load(directory.path()).unwrap();
            prop_assert_eq!(&position, &Position { seen, pending: hooks.clone() });
            for (of, ids) in &hooks {
                for id in 1..110 {
                    prop_assert_eq!(position.wants(*of, id), id > seen || ids.contains(&id));
                    prop_assert!(!position.wants(*of, id) || id > position.first_wanted());
                }
            }
        }

        #[test]
        fn no_file_panics_and_a_cut_one_is_none(text in "[0-9a-f \n]{0,40}(end\n)?") {
            let position = Position::parse(&text);
            prop_assert!(position.is_none() || text.ends_with("end\n"));
        }
    }
}
