//! A full tmpfs gives errors, drops and evictions; never a signal and never a broken log.

#![allow(clippy::unwrap_used)]

mod support;

use braidcast_media::RecordKind::Video;
use braidcast_media::StreamKey;
use braidcast_stream_log::{AppendError, LogOptions, OpenError, Root, WorkerPage, Writer};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use support::{AVC_HEADER, Place, at, checked_number, read_all, video};

/// A tmpfs of one megabyte, gone with the value; `None` where this process may not mount one.
struct SmallDirectory(Place);

impl SmallDirectory {
    fn new() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(directory.path()).output();
        if !mounted.as_ref().is_ok_and(|output| output.status.success()) {
            println!("skipped: a tmpfs cannot be mounted here: {mounted:?}");
            return None;
        }
        let root = Root::new(directory.path().to_path_buf());
        Some(Self(Place { directory, root, key: StreamKey::new("v", "live", "x").unwrap() }))
    }

    fn path(&self) -> &Path {
        self.0.directory.path()
    }

    /// Takes all the room that is left.
    fn fill(&self) {
        let mut ballast = std::fs::File::create(self.path().join("ballast")).unwrap();
        while ballast.write_all(&[0; 4096]).is_ok() {}
    }

    fn empty(&self) {
        std::fs::remove_file(self.path().join("ballast")).unwrap();
    }
}

impl Drop for SmallDirectory {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()));
    }
}

#[test]
fn a_log_that_is_alone_never_fills_the_directory() {
    let Some(small) = SmallDirectory::new() else { return };
    let mut writer = small.0.writer(&LogOptions::default());
    writer.begin_publish(at(0)).unwrap();
    for number in 0..2_000 {
        writer.append(Video, number as u32, &video(number % 100 == 0, number, 5_000), at(number)).unwrap();
        writer.commit(at(number)).unwrap();
    }
    assert_eq!(writer.counters().records_dropped, 0);
    assert!(read_all(&small.0.reader()).len() > 50);
}

#[test]
fn a_directory_that_others_fill_drops_records_and_goes_on() {
    let Some(small) = SmallDirectory::new() else { return };
    let options = LogOptions::default();
    let mut writer = small.0.writer(&options);
    writer.begin_publish(at(0)).unwrap();
    let append = |writer: &mut Writer, number: u64| {
        writer.append(Video, number as u32, &video(number.is_multiple_of(10), number, 3_000), at(number)).unwrap()
    };
    let mut kept = Vec::new();
    for number in 0..20 {
        append(&mut writer, number);
        writer.commit(at(number)).unwrap();
        kept.push(number);
    }
    small.fill();
    let mut dropped = 0;
    for number in 20..60 {
        append(&mut writer, number);
        match writer.commit(at(number)) {
            Ok(committed) => {
                assert!(committed);
                kept.push(number);
            }
            Err(AppendError::Full { dropped: one }) => dropped += one,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(dropped > 30, "{dropped}");
    small.0.check_lengths();
    assert_eq!(writer.counters().records_dropped, dropped);

    let other = StreamKey::new("v", "live", "other").unwrap();
    assert!(matches!(Writer::open(&small.0.root, &other, &options, at(0)), Err(OpenError::Full)));
    assert_eq!(WorkerPage::create(&small.0.root, 9).unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    let numbers = |place: &Place| -> Vec<u64> {
        read_all(&place.reader())
            .iter()
            .map(|sent| {
                let mut bytes = Vec::new();
                braidcast_media::flv::write_record(&mut bytes, sent.kind, 0, &sent.payload);
                checked_number(&braidcast_media::flv::records(&bytes).next().unwrap())
            })
            .collect()
    };
    assert_eq!(numbers(&small.0), kept);

    small.empty();
    for number in 60..80 {
        append(&mut writer, number);
        writer.commit(at(number)).unwrap();
        kept.push(number);
    }
    assert_eq!(numbers(&small.0), kept);
    drop(writer);
    Writer::open(&small.0.root, &other, &options, at(0)).unwrap();
    let mut writer = small.0.writer(&options);
    writer.begin_publish(at(0)).unwrap();
    assert_eq!(numbers(&small.0), kept, "recovery changes nothing that was committed");
}

#[test]
fn headers_outlive_the_drop_of_the_block_they_began() {
    let Some(small) = SmallDirectory::new() else { return };
    let mut writer = small.0.writer(&LogOptions::default());
    writer.begin_publish(at(0)).unwrap();
    writer.append(Video, 0, AVC_HEADER, at(0)).unwrap();
    writer.append(Video, 0, &video(true, 0, 100), at(0)).unwrap();
    writer.commit(at(0)).unwrap();
    small.fill();
    let other = [AVC_HEADER, &[1]].concat();
    writer.append(Video, 40, &other, at(40)).unwrap();
    writer.append(Video, 40, &video(true, 1, 5_000), at(40)).unwrap();
    assert!(matches!(writer.commit(at(40)), Err(AppendError::Full { dropped: 1 })));
    let reader = small.0.reader();
    assert_eq!((small.0.log_files(), reader.commit().block, reader.generation()), (vec![1], 1, 1));
    small.empty();
    writer.append(Video, 80, &video(false, 2, 100), at(80)).unwrap();
    writer.commit(at(80)).unwrap();
    let block = reader.block(2).unwrap();
    assert_eq!((block.generation, block.starts_with_keyframe, reader.generation()), (2, false, 2));
    let prefix = reader.map(2).unwrap().bytes(0, block.prefix_bytes).unwrap().to_vec();
    assert!(prefix.windows(other.len()).any(|window| window == other));
    assert_eq!(read_all(&reader).len(), 2);
}
