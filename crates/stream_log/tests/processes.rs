//! Readers and writers in different processes: this test binary starts itself in other roles.

#![allow(clippy::unwrap_used)]

mod support;

use braidcast_media::RecordKind::{Audio, Video};
use braidcast_media::StreamKey;
use braidcast_stream_log::{Doorbells, LogOptions, Position, Reader, Root, State, WorkerPage, WorkerView};
use braidcast_sys::{EventFd, Events, Interest, Poller, child};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};
use support::{Place, at, audio, checked_number, eventually, follow, place, video};

/// Commits in the test of wake-ups.
const TURNS: u64 = 60_000;

/// Starts this binary again as `role`, on the same directory.
fn start(role: &str, place: &Place, fds: &[BorrowedFd<'_>]) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["other_process", "--exact", "--nocapture", "--test-threads=1"]);
    command.env("BRAIDCAST_TEST_ROLE", role).env("BRAIDCAST_TEST_DIR", place.directory.path());
    if let Some(fd) = fds.first() {
        command.env("BRAIDCAST_TEST_FD", fd.as_raw_fd().to_string());
    }
    command.stdin(Stdio::null()).stdout(Stdio::null());
    child::spawn(command, fds).unwrap()
}

/// The entry of the other processes; nothing when run as a test.
#[test]
fn other_process() {
    let Ok(role) = std::env::var("BRAIDCAST_TEST_ROLE") else { return };
    let root = Root::new(Path::new(&std::env::var_os("BRAIDCAST_TEST_DIR").unwrap()).to_path_buf());
    let key = StreamKey::new("v", "live", "x").unwrap();
    match role.as_str() {
        "reader" => read_until_the_end(&root, &key),
        "sleeper" => sleep_and_wake(&root, &key),
        other => panic!("no such role: {other}"),
    }
}

/// Follows the stream at full speed and checks every byte; what it has seen goes to its worker page.
fn read_until_the_end(root: &Root, key: &StreamKey) {
    let page = WorkerPage::create(root, std::process::id() as u16).unwrap();
    let mut reader = None;
    eventually("a stream", || {
        reader = Reader::open(root, key).unwrap();
        reader.is_some()
    });
    let reader = reader.unwrap();
    let (mut position, mut expected): (Position, [Option<u64>; 2]) = (Position::default(), [None; 2]);
    loop {
        let ended = reader.state() == State::Ended;
        let stayed = position.block != 0
            && follow(&reader, &mut position, |record| {
                let number = checked_number(record);
                let expected = &mut expected[usize::from(record.header.kind == Video)];
                assert!(expected.is_none_or(|expected| expected == number), "wanted {expected:?}, found {number}");
                *expected = Some(number + 1);
                page.counter(0).fetch_add(1, SeqCst);
            });
        if !stayed {
            // Fell off the end of the log: on at the newest keyframe.
            page.counter(1).fetch_add(1, SeqCst);
            let Some(start) = reader.start() else { continue };
            (position, expected) = (start, [None; 2]);
        }
        if ended && position == reader.commit() {
            return;
        }
    }
}

#[test]
fn readers_in_other_processes_see_only_whole_records_of_a_writer_at_full_speed() {
    let place = place();
    let mut readers: Vec<Child> = (0..2).map(|_| start("reader", &place, &[])).collect();
    let pages: Vec<WorkerView> = readers
        .iter()
        .map(|reader| {
            let mut view = None;
            eventually("a reader's page", || {
                view = WorkerPage::open(&place.root, reader.id() as u16).ok();
                view.is_some()
            });
            view.unwrap()
        })
        .collect();
    let options = LogOptions { block_min_ms: 200, keep_ms: 2_000, budget_bytes: 16 << 20, ..LogOptions::default() };
    let mut writer = place.writer(&options);
    writer.begin_publish(at(0)).unwrap();
    let begun = Instant::now();
    let mut number = 0u64;
    while number < 60_000 || (begun.elapsed() < Duration::from_secs(10) && pages.iter().any(|page| page.counter(0) < 10_000)) {
        let bytes = (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 53) as usize;
        writer.append(Video, number as u32, &video(number.is_multiple_of(50), number, bytes), at(number)).unwrap();
        writer.append(Audio, number as u32, &audio(number, bytes / 8), at(number)).unwrap();
        if number.is_multiple_of(3) {
            writer.commit(at(number)).unwrap();
        }
        number += 1;
    }
    writer.end_stream(at(number)).unwrap();
    for (reader, page) in readers.iter_mut().zip(&pages) {
        assert!(reader.wait().unwrap().success(), "a reader found something wrong");
        println!("a reader saw {} of {} records and fell off {} times", page.counter(0), 2 * number, page.counter(1));
        assert!(page.counter(0) > 10_000);
    }
}

/// Sleeps whenever there is nothing new, as a worker does, and answers each commit by its counter.
fn sleep_and_wake(root: &Root, key: &StreamKey) {
    let bell = EventFd::from_fd(child::take_inherited(std::env::var("BRAIDCAST_TEST_FD").unwrap().parse().unwrap()).unwrap());
    let reader = Reader::open(root, key).unwrap().unwrap();
    let poller = Poller::new().unwrap();
    poller.add(&bell, 0, Interest::READ).unwrap();
    let mut events = Events::with_capacity(1);
    let mut page = WorkerPage::create(root, 1).unwrap();
    page.set_reading(key.slot(), true);
    let mut seen = reader.commit();
    page.counter(0).store(seen.to_word(), SeqCst);
    page.counter(1).store(1, SeqCst);
    for turn in 0u64.. {
        // From one moment of the writer's commit to another.
        for _ in 0..turn.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 53 {
            std::hint::spin_loop();
        }
        page.announce_sleep();
        if !page.has_news() && reader.state() != State::Ended {
            poller.wait(&mut events, Some(Duration::from_secs(10))).unwrap();
            assert!(!events.is_empty() || reader.commit() == seen, "a wake-up was lost");
        }
        page.announce_awake();
        bell.drain().unwrap();
        page.take_news(|_| {});
        seen = reader.commit();
        page.counter(0).store(seen.to_word(), SeqCst);
        if reader.state() == State::Ended {
            return;
        }
    }
}

#[test]
fn no_wake_up_is_lost_between_two_processes() {
    let place = place();
    let mut writer = place.writer(&LogOptions::default());
    writer.begin_publish(at(0)).unwrap();
    let bell = EventFd::new().unwrap();
    let mut sleeper = start("sleeper", &place, &[bell.as_fd()]);
    let mut view = None;
    eventually("the sleeper", || {
        view = WorkerPage::open(&place.root, 1).ok().filter(|view| view.counter(1) == 1);
        view.is_some()
    });
    let page = view.unwrap();
    let bells = Doorbells::open(&place.root, [(1, bell.try_clone().unwrap())]).unwrap();
    let (slots, mut rung) = ([place.key.slot()], 0);
    for turn in 0..TURNS {
        writer.append(Audio, turn as u32, &audio(turn, 1), at(turn)).unwrap();
        writer.commit(at(turn)).unwrap();
        rung += bells.ring(&slots).woken;
        let (wanted, deadline) = (writer.position().to_word(), Instant::now() + Duration::from_secs(15));
        let mut looks = 0;
        while page.counter(0) < wanted {
            looks += 1;
            if looks % 10_000 == 0 {
                assert!(Instant::now() < deadline, "turn {turn}: the sleeper did not wake");
                std::thread::yield_now();
            }
        }
    }
    writer.end_stream(at(0)).unwrap();
    bell.ring().unwrap();
    assert!(sleeper.wait().unwrap().success());
    println!("rung {rung} times in {TURNS} turns");
    assert!(rung > 0);
}
