//! A stream's log whose files are damaged, as a reader and the next writer find them.

use crate::cut::Random;
use braidcast_media::{RecordKind, StreamKey};
use braidcast_stream_log::path::Root;
use braidcast_stream_log::{Ahead, LogOptions, Now, Position, Reader, SavedHeaders, SavedWriter, Writer};
use std::fs;
use std::path::Path;
use std::sync::LazyLock;

const NOW: Now = Now { mono_ms: 1_000_000, wall_ms: 1_790_000_000_000 };
/// More steps than this through a log of three small blocks is a walk without end.
const MOST_STEPS: usize = 2_000;

/// A good log.
struct Good {
    /// Names below the stream's directory, and what is in them.
    files: Vec<(String, Vec<u8>)>,
    /// Its writer, saved, and its headers.
    writer: Vec<u8>,
    headers: Vec<u8>,
}

static GOOD: LazyLock<Good> = LazyLock::new(|| make_good().expect("a log can be made in memory"));

fn key() -> StreamKey {
    StreamKey::new("v", "a", "s").expect("a good name")
}

fn options() -> LogOptions {
    LogOptions { block_min_ms: 100, block_max_ms: 500, block_max_bytes: 64 << 10, keep_ms: 60_000, budget_bytes: 1 << 20 }
}

fn directory() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("braidcast-fuzz-").tempdir_in("/dev/shm").expect("there is shared memory")
}

fn make_good() -> Result<Good, Box<dyn std::error::Error>> {
    let top = directory();
    let root = Root::new(top.path().to_path_buf());
    let mut writer = Writer::open(&root, &key(), &options(), NOW)?;
    writer.begin_publish(NOW)?;
    for frame in 0..12u32 {
        let now = Now { mono_ms: NOW.mono_ms + u64::from(frame) * 40, wall_ms: NOW.wall_ms + u64::from(frame) * 40 };
        let payload: &[u8] = if frame % 4 == 0 { b"\x17\x01\0\0\0\0\0\0\x02\x65k" } else { b"\x27\x01\0\0\0\0\0\0\x02\x41d" };
        writer.append(RecordKind::Video, frame * 40, payload, now)?;
        writer.commit(now)?;
    }
    let (saved, headers) = (postcard::to_stdvec(&writer.save())?, postcard::to_stdvec(&writer.save_headers())?);
    drop(writer);
    let mut files = Vec::new();
    for name in ["head", "log/1.flv", "log/2.flv", "log/3.flv"] {
        let path = root.stream_dir(&key()).join(name);
        if path.exists() {
            files.push((name.to_owned(), fs::read(path)?));
        }
    }
    assert!(files.len() > 2, "the log has several blocks");
    Ok(Good { files, writer: saved, headers })
}

/// Changes to the files of a good log, seven bytes each: which file, where, what. The first byte of all says what is done with it.
pub fn stream_log(input: &[u8]) {
    let [how, changes @ ..] = input else { return };
    let mut files = GOOD.files.clone();
    for change in changes.chunks_exact(7) {
        damage(&mut files, change);
    }
    let top = directory();
    let root = Root::new(top.path().to_path_buf());
    write_files(&root.stream_dir(&key()), &files);
    if let Ok(Some(reader)) = Reader::open(&root, &key()) {
        walk(&reader);
    }
    match how % 3 {
        0 => write_on(&root),
        1 => resume(&root, &GOOD.writer.clone()),
        _ => {
            let mut saved = GOOD.writer.clone();
            let mut random = Random(changes.iter().map(|byte| u64::from(*byte)).sum());
            let at = random.below(saved.len());
            saved[at] = random.number() as u8;
            resume(&root, &saved);
        }
    }
}

fn damage(files: &mut [(String, Vec<u8>)], change: &[u8]) {
    let index = usize::from(change[0] >> 4) % files.len();
    let bytes = &mut files[index].1;
    let at = usize::from(u16::from_be_bytes([change[1], change[2]])).min(bytes.len());
    match change[0] & 3 {
        0 => bytes.truncate(at),
        1 => bytes.extend_from_slice(&change[3..]),
        _ => {
            let end = (at + 4).min(bytes.len());
            bytes[at..end].copy_from_slice(&change[3..3 + end - at]);
        }
    }
}

fn write_files(directory: &Path, files: &[(String, Vec<u8>)]) {
    fs::create_dir_all(directory.join("log")).expect("a directory can be made");
    for (name, bytes) in files {
        fs::write(directory.join(name), bytes).expect("a file can be written");
    }
}

/// Goes through everything a reader may ask. Nothing is read beyond a file, no place comes twice.
fn walk(reader: &Reader) {
    let _ = (reader.counters(), reader.total_bytes(), reader.newest_keyframe(), reader.epoch(), reader.generation());
    let Some(mut place) = reader.start() else { return };
    for _ in 0..MOST_STEPS {
        let _ = reader.bytes_before(place);
        let next = match reader.ahead(place) {
            Ahead::Bytes { to } => {
                read_block(reader, place, to);
                Position { offset: to, ..place }
            }
            Ahead::Block(next) => next,
            Ahead::Nothing | Ahead::Lost => return,
        };
        assert!(next > place, "a reader goes forward: from {place:?} to {next:?}");
        place = next;
    }
    panic!("the walk has no end");
}

fn read_block(reader: &Reader, place: Position, to: u32) {
    let Ok(map) = reader.map(place.block) else { return };
    if let Some(bytes) = map.bytes(place.offset, to) {
        let _ = braidcast_media::flv::records(bytes).count();
    }
    for offset in [0, place.offset, to / 2, to, u32::MAX] {
        let _ = reader.record_end(&map, offset);
    }
}

/// The next publisher writes on, or is told that it cannot; what it writes can be read.
fn write_on(root: &Root) {
    let Ok(mut writer) = Writer::open(root, &key(), &options(), NOW) else { return };
    publish(&mut writer, root);
}

/// Somebody goes on as the writer that was saved.
fn resume(root: &Root, saved: &[u8]) {
    let Ok(saved) = postcard::from_bytes::<SavedWriter<'static>>(saved) else { return };
    let headers: SavedHeaders = postcard::from_bytes(&GOOD.headers).expect("good headers");
    if let Ok(mut writer) = Writer::resume(root, &key(), &options(), saved, headers, NOW) {
        publish(&mut writer, root);
    }
}

fn publish(writer: &mut Writer, root: &Root) {
    let _ = writer.begin_publish(NOW);
    let _ = writer.append(RecordKind::Video, 5, b"\x17\x01\0\0\0\0\0\0\x02\x65k", NOW);
    let _ = writer.commit(NOW);
    let _ = writer.evict(u64::MAX);
    let _ = writer.end_publish(NOW);
    if let Ok(Some(reader)) = Reader::open(root, &key()) {
        walk(&reader);
    }
}
