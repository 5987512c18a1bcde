//! The client table as version 2 of saved sessions had it: read once, by a front that takes over from one of that version.

use super::{Record, text};
use crate::control::ConnId;
use crate::saved::{RowId, directory};
use braidcast_sys::{Dir, SharedMemory};
use std::io;
use std::path::Path;
use std::sync::atomic::Ordering::Acquire;

const NAME: &str = "clients";
const MOST_ROWS: usize = 1 << 20;
const RECORD_BYTES: usize = 2048;
/// The words before the text: sequence, connection, bytes of the text, when it was described, began and told, bytes in and out, and what
/// rates are made from.
const HEAD_BYTES: usize = 128;

/// All records, in the order of their rows; none if there is no such table.
pub(super) fn records(shared_dir: &Path) -> io::Result<Vec<(RowId, Record)>> {
    if !directory(shared_dir).join(NAME).exists() {
        return Ok(Vec::new());
    }
    let file = Dir::open(&directory(shared_dir))?.open_or_create(NAME)?;
    let memory = SharedMemory::map(file, MOST_ROWS * RECORD_BYTES)?;
    let rows = u32::try_from(memory.taken_bytes() / RECORD_BYTES).unwrap_or(u32::MAX);
    Ok((0..rows).map(RowId).filter_map(|row| Some((row, record(&memory, row.0 as usize * RECORD_BYTES)?))).collect())
}

/// Nothing of a record that is being written just then: its client describes itself again.
fn record(memory: &SharedMemory, start: usize) -> Option<Record> {
    let word = |index: usize| memory.word(start + index * 8).load(Acquire);
    let [sequence, conn, bytes, described_ms, began_ms, told_ms, bytes_in, bytes_out] = std::array::from_fn(word);
    let bytes = usize::try_from(bytes).ok().filter(|bytes| *bytes <= RECORD_BYTES - HEAD_BYTES)?;
    let words = (0..bytes.div_ceil(8)).flat_map(|index| word(HEAD_BYTES / 8 + index).to_ne_bytes());
    let said: Vec<u8> = words.take(bytes).collect();
    if conn == 0 || sequence % 2 == 1 || word(0) != sequence {
        return None;
    }
    let description = text::decode(&said)?;
    let (conn, bits_in, bits_out) = (ConnId(conn), 0, 0);
    Some(Record { conn, description, described_ms, began_ms, bytes_in, bytes_out, bits_in, bits_out, told_ms })
}
