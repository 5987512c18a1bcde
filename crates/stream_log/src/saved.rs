//! What of a writer outlives its process: enough for another one to go on in the middle of a block, as if nothing had happened.
//!
//! The order of a commit that is to survive a death at any instruction: [`crate::Writer::write`], save, [`crate::Writer::publish`].
//! What was saved says what is to be published, so whoever goes on publishes it; what was not saved is cut off, and its input
//! appended once more.

use crate::batch::{OpenBlock, Run};
use crate::head::{Counters, Position};
use crate::headers::Headers;
use crate::timeline::Timeline;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// A writer as of its last [`crate::Writer::write`]. Small, and cheap to make: it goes with every commit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedWriter<'a> {
    pub(crate) epoch: u32,
    pub(crate) generation: u32,
    pub(crate) heard: [bool; 2],
    pub(crate) extended: bool,
    pub(crate) newest_keyframe: Option<(Position, i64)>,
    pub(crate) timeline: Timeline,
    pub(crate) counters: Counters,
    pub(crate) corrections_before: u64,
    pub(crate) last_number: u32,
    pub(crate) cumulative_bytes: u64,
    pub(crate) open: Option<OpenBlock>,
    /// What was written and is to be published.
    pub(crate) runs: Cow<'a, [Run]>,
    pub(crate) keyframes: Cow<'a, [Position]>,
    pub(crate) records: [u64; 3],
}

impl SavedWriter<'_> {
    /// Where the commit word stands before the batch is published; `None` if no block was open.
    pub(crate) fn begins_at(&self) -> Option<Position> {
        self.open.map(|open| open.position())
    }

    /// Where the commit word stands after the batch; `None` if nothing was written and no block was open.
    pub(crate) fn ends_at(&self) -> Option<Position> {
        self.runs.last().map(|run| run.block.position()).or(self.begins_at())
    }
}

/// The headers of a writer's publisher. They change seldom; [`crate::Writer::headers_revision`] tells when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedHeaders {
    pub(crate) headers: Headers,
    pub(crate) generation_headers: Option<Headers>,
}
