//! One file per command: its arguments, and what it runs.

pub mod bare;
pub mod capacity;
pub mod churn;
pub mod curve;
pub mod diff;
pub mod document;
pub mod fanout;
pub mod flame;
pub mod hls;
pub mod ingest;
pub mod load;
pub mod relay;
pub mod scale;
pub mod viral;
