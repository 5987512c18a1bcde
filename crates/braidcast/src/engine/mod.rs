//! Real SRS processes as the engine.

pub mod api;
