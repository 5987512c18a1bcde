//! One file per command: its arguments, and what it runs.

pub mod bare;
pub mod fanout;
pub mod ingest;
pub mod load;
pub mod relay;
pub mod scale;
