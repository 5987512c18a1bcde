//! The event stream: lines of the event log as server-sent events (WHATWG HTML section 9.2). Reading and writing them takes a while: for a thread.

use super::types;
use crate::events::{Follower, From, Kind, Line};
use std::fmt::Write;
use std::io;
use std::path::Path;

/// What goes before the first event: how long a browser waits before it comes again, milliseconds.
pub const PREAMBLE: &str = "retry: 1000\n\n";
/// What is sent when nothing has happened for a while.
pub const BEAT: &str = ":\n\n";

/// One look at the log, for somebody who follows it.
#[derive(Debug)]
pub struct Look {
    /// Where the follower is; `None`: at the beginning of `from`.
    pub follower: Option<Follower>,
    /// Where to begin.
    pub from: From,
    /// The kinds that are wanted; empty: all.
    pub kinds: Vec<Kind>,
    /// How many deleted lines were told of.
    pub told_lost: u64,
}

/// What was found.
#[derive(Debug)]
pub struct Seen {
    /// For the next look; `None`: it begins anew, after `after`.
    pub follower: Option<Follower>,
    /// The last line that was looked at.
    pub after: u64,
    /// How many were deleted before.
    pub lost: u64,
    /// Events, ready to be sent.
    pub text: String,
}

impl Look {
    /// Looks for what has come. The error: the log cannot be read now.
    pub fn take(self, shared_dir: &Path) -> io::Result<Seen> {
        let mut follower = match self.follower {
            Some(follower) => follower,
            None => Follower::open(shared_dir, self.from)?,
        };
        let lines = follower.poll()?;
        let (after, lost) = (follower.position(), follower.lost());
        let mut text = String::new();
        if lost > self.told_lost {
            let _ = write!(text, "event: lost\ndata: {{\"lost\":{}}}\n\n", lost - self.told_lost);
        }
        let wanted = |line: &&Line| self.kinds.is_empty() || self.kinds.contains(&line.event.kind);
        for line in lines.iter().filter(wanted) {
            // JSON has no line breaks of its own.
            let _ = write!(text, "id: {}\nevent: {}\ndata: {}\n\n", line.id, line.event.kind, types::public(line));
        }
        Ok(Seen { follower: Some(follower), after, lost, text })
    }
}
