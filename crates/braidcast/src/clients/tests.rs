//! The table as several processes see it: whole records or none, whoever writes and whoever is gone.

use super::*;
use proptest::prelude::*;
use std::sync::atomic::AtomicBool;

fn tables() -> (tempfile::TempDir, Table, Table) {
    let shared = tempfile::tempdir_in("/dev/shm").unwrap();
    std::fs::create_dir(shared.path().join("sessions")).unwrap();
    let front = Table::create(shared.path()).unwrap();
    let worker = Table::open(shared.path()).unwrap();
    (shared, front, worker)
}

fn description(stream: &str, param: &str) -> Description {
    Description {
        kind: Kind::RtmpPlay,
        listener: Listener::Rtmp,
        peer: "[2001:db8::1]:65535".parse().unwrap(),
        key: Some(StreamKey::new("v.example", "a/b", stream).unwrap()),
        tc_url: "rtmp://v.example/a/b".into(),
        page_url: String::new(),
        swf_url: String::new(),
        param: param.into(),
        agent: "LNX 9,0,124,2".into(),
        context: String::new(),
    }
}

#[test]
fn what_the_front_writes_everybody_reads_until_it_is_cleared() {
    let (_shared, mut front, mut worker) = tables();
    let (row, said) = (RowId(70), description("x", "token=1"));
    front.describe(row, ConnId(9), &said, 1_000);
    assert_eq!(worker.read(row), None, "no memory was taken for the row");
    front.provide(row).unwrap();
    front.describe(row, ConnId(9), &said, 1_000);
    let record = front.read(row).unwrap();
    assert_eq!((record.conn, &record.description, record.described_ms, record.began_ms), (ConnId(9), &said, 1_000, 0));
    front.begin(row, 1_500);
    assert_eq!(worker.read(row).unwrap().began_ms, 1_500);
    let listed: Vec<_> = worker.all().map(|(row, record)| (row, record.conn)).collect();
    assert_eq!(listed, [(row, ConnId(9))]);
    worker.end(row);
    assert_eq!(front.read(row).unwrap().began_ms, 0);
    front.clear(row);
    assert_eq!((worker.read(row), worker.all().count()), (None, 0));
}

#[test]
fn rates_are_over_the_last_half_minute_whoever_counts() {
    let (_shared, mut front, mut worker) = tables();
    let row = RowId(0);
    front.provide(row).unwrap();
    front.describe(row, ConnId(1), &description("x", ""), 0);
    // 1 kB/s in and 2 kB/s out for a minute, then nothing.
    for second in 1..=60 {
        let table = if second < 30 { &mut worker } else { &mut front };
        table.tell(row, second * 1_000, second * 2_000, 100_000 + second * 1_000);
    }
    let record = front.read(row).unwrap();
    assert_eq!((record.bytes_in, record.bytes_out, record.bits_in, record.bits_out), (60_000, 120_000, 8_000, 16_000));
    (61..=120).for_each(|second| worker.tell(row, 60_000, 120_000, 100_000 + second * 1_000));
    let record = front.read(row).unwrap();
    assert_eq!((record.bits_in, record.bits_out, record.told_ms), (0, 0, 220_000));
}

#[test]
fn a_session_without_a_connection_is_counted_by_whoever_serves_it() {
    let (_shared, mut front, mut worker) = tables();
    let row = RowId(0);
    front.provide(row).unwrap();
    front.describe(row, ConnId(7), &description("x", ""), 0);
    assert!(!worker.seen(row, ConnId(7), 1, 1, 5), "it has not begun");
    front.begin(row, 1);
    assert!(!worker.seen(row, ConnId(8), 1, 1, 5));
    assert!(worker.seen(row, ConnId(7), 10, 1_000, 1_000) && front.seen(row, ConnId(7), 10, 500, 2_000));
    let record = front.read(row).unwrap();
    assert_eq!((record.bytes_in, record.bytes_out, front.told_ms(row)), (20, 1_500, 2_000));
    front.clear(row);
    assert!(!worker.seen(row, ConnId(7), 1, 1, 3_000));
}

#[test]
fn the_longest_texts_fit_and_are_cut_at_whole_characters() {
    let (_shared, mut front, _) = tables();
    front.provide(RowId(0)).unwrap();
    let long = "é".repeat(3_000);
    let name = "x".repeat(80);
    let said = Description {
        key: Some(StreamKey::new(&name, &name, &name).unwrap()),
        tc_url: long.clone(),
        page_url: long.clone(),
        swf_url: format!("x{long}"),
        param: long.clone(),
        agent: long.clone(),
        context: long.clone(),
        ..description("x", "")
    };
    front.describe(RowId(0), ConnId(u64::MAX), &said, u64::MAX);
    let found = front.read(RowId(0)).unwrap().description;
    assert_eq!((found.param.len(), found.swf_url.len(), found.context.len()), (880, 95, 24));
    assert!(long.starts_with(&found.tc_url) && found.tc_url.len() == 320);
}

#[test]
fn a_record_whose_writer_died_of_it_is_none_until_it_is_written_again() {
    let (_shared, mut front, mut worker) = tables();
    let row = RowId(0);
    front.provide(row).unwrap();
    front.describe(row, ConnId(1), &description("x", ""), 0);
    let sequence = worker.words(row).unwrap().get(Word::Sequence);
    worker.words(row).unwrap().set(Word::Sequence, sequence + 1);
    assert_eq!(front.read(row), None);
    front.describe(row, ConnId(1), &description("y", ""), 0);
    assert_eq!(front.read(row).unwrap().description.key.unwrap().stream(), "y");
}

#[test]
fn a_reader_never_sees_two_records_mixed() {
    let (shared, mut front, _) = tables();
    let row = RowId(0);
    front.provide(row).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 1..20_000u64 {
                let stream = format!("s{number}");
                front.describe(row, ConnId(number), &description(&stream, &stream.repeat(number as usize % 50)), number);
            }
            done.store(true, Relaxed);
        });
        let mut reader = Table::open(shared.path()).unwrap();
        let mut seen = 0;
        while !done.load(Relaxed) || seen == 0 {
            let Some(record) = reader.read(row) else { continue };
            seen += 1;
            let stream = format!("s{}", record.conn.0);
            let said = record.description;
            assert_eq!((said.key.unwrap().stream(), record.described_ms), (stream.as_str(), record.conn.0));
            assert_eq!(said.param, stream.repeat(record.conn.0 as usize % 50));
        }
    });
}

#[test]
fn another_front_knows_which_texts_there_are_and_gives_their_room_to_others() {
    let (shared, mut front, _) = tables();
    let said = |row: u32| description(&format!("s{row}"), &"p".repeat(row as usize * 7 % 400));
    for row in 0..200 {
        front.provide(RowId(row)).unwrap();
        front.describe(RowId(row), ConnId(u64::from(row) + 1), &said(row), 0);
    }
    (0..200).filter(|row| row % 3 == 0).for_each(|row| front.clear(RowId(row)));
    let taken = front.texts.taken_bytes();
    drop(front);
    let mut front = Table::inherit(shared.path()).unwrap();
    (0..200).filter(|row| row % 3 == 0).for_each(|row| front.describe(RowId(row), ConnId(1_000), &said(row), 0));
    for row in 0..200 {
        assert_eq!(front.read(RowId(row)).unwrap().description, said(row), "{row}");
    }
    assert_eq!(front.texts.taken_bytes(), taken, "what was free was used");
}

#[test]
fn a_place_that_two_records_claim_is_nobodys_twice() {
    let (shared, mut front, worker) = tables();
    for row in 0..2 {
        front.provide(RowId(row)).unwrap();
        front.describe(RowId(row), ConnId(u64::from(row) + 1), &description("x", ""), 0);
    }
    let mut worker = worker;
    let text = worker.words(RowId(0)).unwrap().get(Word::Text);
    worker.words(RowId(1)).unwrap().set(Word::Text, text);
    let mut front = Table::inherit(shared.path()).unwrap();
    (0..2).for_each(|row| front.clear(RowId(row)));
    front.describe(RowId(0), ConnId(1), &description("y", ""), 0);
    front.describe(RowId(1), ConnId(2), &description("z", ""), 0);
    assert_eq!(front.read(RowId(0)).unwrap().description, description("y", ""));
}

proptest! {
    #[test]
    fn no_bytes_are_read_as_more_than_they_are(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = text::decode(&bytes);
    }
}
