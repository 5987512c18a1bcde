//! What the tests of the log share: a directory, a simple publisher, and a reader that checks everything it can.

#![allow(dead_code, clippy::unwrap_used)]

use braidcast_media::flv::{self, Record};
use braidcast_media::{RecordKind, StreamKey, TagInfo};
use braidcast_stream_log::{Ahead, LogOptions, Now, Position, Reader, Root, Writer};
use std::time::{Duration, Instant};

pub const AVC_HEADER: &[u8] = &[0x17, 0, 0, 0, 0, 1, 0x64, 0, 31];
pub const AAC_HEADER: &[u8] = &[0xaf, 0, 0x12, 0x10];
pub const METADATA: &[u8] = b"\x02\x00\x0aonMetaData\x08\x00\x00\x00\x00\x00\x00\x09";

pub struct Place {
    pub directory: tempfile::TempDir,
    pub root: Root,
    pub key: StreamKey,
}

pub fn place() -> Place {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let root = Root::new(directory.path().to_path_buf());
    Place { directory, root, key: StreamKey::new("v", "live", "x").unwrap() }
}

impl Place {
    pub fn writer(&self, options: &LogOptions) -> Writer {
        Writer::open(&self.root, &self.key, options, at(0)).unwrap()
    }

    pub fn reader(&self) -> Reader {
        Reader::open(&self.root, &self.key).unwrap().unwrap()
    }

    /// Every block's file is as long as the log says.
    pub fn check_lengths(&self) {
        let reader = self.reader();
        for number in self.log_files() {
            let path = self.root.stream_dir(&self.key).join(format!("log/{number}.flv"));
            assert_eq!(Some(std::fs::metadata(path).unwrap().len()), reader.end_of(number).map(u64::from), "block {number}");
        }
    }

    pub fn log_files(&self) -> Vec<u32> {
        let mut numbers: Vec<u32> = std::fs::read_dir(self.root.stream_dir(&self.key).join("log"))
            .unwrap()
            .filter_map(|entry| Some(entry.unwrap().file_name().to_str()?.strip_suffix(".flv")?.parse().unwrap()))
            .collect();
        numbers.sort_unstable();
        numbers
    }
}

pub fn at(ms: u64) -> Now {
    Now { mono_ms: 1_000_000 + ms, wall_ms: 1_700_000_000_000 + ms }
}

/// A video payload: keyframe or not, with a number to know it by, and some bytes that follow from the number.
pub fn video(keyframe: bool, number: u64, bytes: usize) -> Vec<u8> {
    let mut payload = vec![if keyframe { 0x17 } else { 0x27 }, 1, 0, 0, 0];
    fill(&mut payload, number, bytes);
    payload
}

pub fn audio(number: u64, bytes: usize) -> Vec<u8> {
    let mut payload = vec![0xaf, 1];
    fill(&mut payload, number, bytes);
    payload
}

/// Set in every number in a payload: without it some would look like a start code, and be converted.
const MARK: u64 = 1 << 63;

fn fill(payload: &mut Vec<u8>, number: u64, bytes: usize) {
    payload.extend_from_slice(&(number | MARK).to_be_bytes());
    payload.extend((0..bytes).map(|index| (number as usize).wrapping_mul(31).wrapping_add(index) as u8));
}

/// The number in a payload of [`video`] or [`audio`], after checking that every byte is as it was made.
pub fn checked_number(record: &Record<'_>) -> u64 {
    let start = if record.header.kind == RecordKind::Video { 5 } else { 2 };
    let number = u64::from_be_bytes(record.payload[start..start + 8].try_into().unwrap()) & !MARK;
    for (index, byte) in record.payload[start + 8..].iter().enumerate() {
        assert_eq!(*byte, (number as usize).wrapping_mul(31).wrapping_add(index) as u8, "byte {index} of record {number}");
    }
    number
}

/// A record as a test remembers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    pub kind: RecordKind,
    pub timestamp_ms: u32,
    pub payload: Vec<u8>,
}

/// Everything a new reader finds from the oldest block to the commit word, each block checked as an FLV file of its own.
pub fn read_all(reader: &Reader) -> Vec<Sent> {
    let (mut all, commit) = (Vec::new(), reader.commit());
    for number in reader.oldest_block()..=commit.block {
        let info = reader.block(number).unwrap_or_else(|| panic!("block {number} is missing"));
        let map = reader.map(number).unwrap();
        let end = reader.end_of(number).unwrap();
        let bytes = map.bytes(0, end).unwrap();
        assert_eq!(&bytes[..4], b"FLV\x01");
        let prefix: Vec<_> = flv::records(&bytes[13..info.prefix_bytes as usize]).collect();
        assert_eq!(prefix.iter().map(|r| r.header.record_bytes()).sum::<usize>() + 13, info.prefix_bytes as usize);
        for record in &prefix {
            let at = if record.header.kind == RecordKind::Data { 0 } else { info.start_timestamp_ms as u32 };
            assert_eq!(record.header.timestamp_ms, at);
        }
        let body = &bytes[info.prefix_bytes as usize..];
        let records: Vec<_> = flv::records(body).collect();
        assert!(!records.is_empty(), "a committed block holds records");
        assert_eq!(records.iter().map(|r| r.header.record_bytes()).sum::<usize>(), body.len(), "block {number} ends at a record's end");
        assert_eq!(records[0].header.timestamp_ms, info.start_timestamp_ms as u32);
        let first_is_key = TagInfo::of(records[0].header.kind, records[0].payload).keyframe;
        assert!(info.starts_with_keyframe || !first_is_key);
        for record in records {
            let trailer = record.offset + record.header.record_bytes() - 4;
            assert_eq!(body[trailer..trailer + 4], (record.header.payload_bytes + 11).to_be_bytes());
            all.push(Sent { kind: record.header.kind, timestamp_ms: record.header.timestamp_ms, payload: record.payload.to_vec() });
        }
    }
    all
}

/// Follows the log from a place as far as it goes, as a viewer does; false if the place was lost.
pub fn follow(reader: &Reader, position: &mut Position, mut each: impl FnMut(&Record<'_>)) -> bool {
    loop {
        match reader.ahead(*position) {
            Ahead::Bytes { to } => {
                let Ok(map) = reader.map(position.block) else { return false };
                let bytes = map.bytes(position.offset, to).unwrap();
                let mut read = 0;
                for record in flv::records(bytes) {
                    read += record.header.record_bytes();
                    each(&record);
                }
                assert_eq!(read, bytes.len(), "the commit word lies at a record's end");
                position.offset = to;
            }
            Ahead::Block(next) => *position = next,
            Ahead::Nothing => return true,
            Ahead::Lost => return false,
        }
    }
}

/// Waits until something holds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within 20 s");
        std::thread::sleep(Duration::from_millis(1));
    }
}
