//! The log as its writer leaves it and followers find it, over rotations, deaths and cut lines.

use super::*;
use crate::control::{ConnId, Intent};
use crate::saved::RowId;
use braidcast_media::StreamKey;
use proptest::prelude::*;
use std::collections::{HashMap, HashSet};

fn shared() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap()
}

fn key(number: u8) -> StreamKey {
    StreamKey::new("v", "live", &format!("s{number}")).unwrap()
}

fn open(shared: &Path) -> Writer {
    let mut writer = Writer::open(shared).unwrap();
    writer.reconcile(&HashMap::new(), |_, _, event| event).unwrap();
    writer
}

fn everything(shared: &Path) -> Vec<Line> {
    let mut follower = Follower::open(shared, From::Oldest).unwrap();
    let mut lines = Vec::new();
    loop {
        let more = follower.poll().unwrap();
        if more.is_empty() {
            assert_eq!(follower.lost(), 0);
            return lines;
        }
        lines.extend(more);
    }
}

#[test]
fn a_line_says_what_concerns_it_and_nothing_else() {
    let shared = shared();
    let mut writer = open(shared.path());
    let event = Event { client: Some([1, 2, 3, 4].into()), ..Event::new(Kind::Publish).conn(ConnId(17)).of_stream(&key(1)) };
    writer.append(&event).unwrap();
    writer.append(&Event::new(Kind::WorkerDied)).unwrap();
    let text = fs::read_to_string(directory(shared.path()).join("1.jsonl")).unwrap();
    let mut lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let mut first = lines.next().unwrap();
    assert!(first["at_ms"].take().as_u64().unwrap() > 1_700_000_000_000);
    let expected = serde_json::json!({
        "id": 1, "at_ms": null, "kind": "publish", "conn": "c17", "vhost": "v", "app": "live", "stream": "s1", "client": "1.2.3.4"
    });
    assert_eq!(first, expected);
    assert_eq!(lines.next().unwrap().as_object().unwrap().keys().collect::<HashSet<_>>().len(), 3);
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(directory(shared.path()).join("1.jsonl")).unwrap().permissions());
    assert_eq!(mode & 0o777 & !0o640, 0);
    assert_eq!(everything(shared.path())[0].event, event);
}

#[test]
fn every_kind_has_its_name_and_that_of_a_newer_version_is_none_of_ours() {
    let json = |kind: Kind| serde_json::to_value(kind).unwrap();
    for kind in [Kind::Connect, Kind::WorkerReady, Kind::FrontStarted, Kind::CrashLoop, Kind::Stop, Kind::Segment, Kind::Unpublish] {
        assert_eq!(json(kind), kind.label());
    }
    let line = r#"{"id":1,"at_ms":2,"kind":"teleport","conn":"c1","colour":"red"}"#;
    assert_eq!(serde_json::from_str::<Line>(line).unwrap().event, Event::new(Kind::Unknown).conn(ConnId(1)));
}

#[test]
fn what_makes_a_line_too_long_is_left_out_of_it() {
    let shared = shared();
    let mut writer = open(shared.path());
    let long = Event { record: Some("x".repeat(20_000).into()), ..Event::new(Kind::Refused).why("y".repeat(20_000)) };
    writer.append(&long).unwrap();
    let line = &everything(shared.path())[0];
    assert!(line.event.record.is_none() && line.event.why.as_ref().unwrap().len() == 1024);
}

#[test]
fn a_follower_may_come_before_the_log_and_begins_where_it_says() {
    let shared = shared();
    let mut early = Follower::open(shared.path(), From::Newest).unwrap();
    assert!(early.poll().unwrap().is_empty());
    let mut writer = open(shared.path());
    (0..5).for_each(|_| assert!(writer.append(&Event::new(Kind::Move)).is_ok()));
    let ids = |follower: &mut Follower| follower.poll().unwrap().iter().map(|line| line.id).collect::<Vec<_>>();
    assert_eq!(ids(&mut early), [1, 2, 3, 4, 5]);
    assert_eq!(ids(&mut Follower::open(shared.path(), From::After(3)).unwrap()), [4, 5]);
    assert_eq!(ids(&mut Follower::open(shared.path(), From::After(5)).unwrap()), [0; 0]);
    assert_eq!(ids(&mut Follower::open(shared.path(), From::Newest).unwrap()), [0; 0]);
    // A place of a log that was here before.
    assert_eq!(ids(&mut Follower::open(shared.path(), From::After(99)).unwrap()), [1, 2, 3, 4, 5]);
    writer.append(&Event::new(Kind::Move)).unwrap();
    assert_eq!((ids(&mut early), early.position()), (vec![6], 6));
}

#[test]
fn a_line_that_is_no_line_is_counted_and_the_next_one_comes() {
    let shared = shared();
    let mut writer = open(shared.path());
    (0..3).for_each(|_| assert!(writer.append(&Event::new(Kind::Move)).is_ok()));
    let file = directory(shared.path()).join("1.jsonl");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replacen("\"id\":2", "\"id\":!", 1)).unwrap();
    let mut follower = Follower::open(shared.path(), From::Oldest).unwrap();
    let ids: Vec<u64> = follower.poll().unwrap().iter().map(|line| line.id).collect();
    assert_eq!((ids, follower.lost(), follower.position()), (vec![1, 3], 1, 3));
}

#[derive(Clone, Debug)]
enum Step {
    Append(u8),
    /// The front dies; that many bytes of a line are there already.
    Die(u8),
    /// This follower looks.
    Look(u8),
    /// This follower is opened anew where it was.
    Reopen(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (1..40u8).prop_map(Step::Append),
        1 => (0..60u8).prop_map(Step::Die),
        3 => (0..3u8).prop_map(Step::Look),
        1 => (0..3u8).prop_map(Step::Reopen),
    ];
    proptest::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn lines_come_in_order_once_and_what_is_missing_is_counted(steps in steps()) {
        let shared = shared();
        let mut writer = open(shared.path()).with_small_files(600, 3);
        let mut followers: Vec<_> = (0..3).map(|_| (Follower::open(shared.path(), From::Oldest).unwrap(), 0u64, 0u64)).collect();
        let mut written = 0;
        let look = |(follower, got, lost): &mut (Follower, u64, u64)| {
            let before = follower.lost();
            let lines = follower.poll().unwrap();
            *lost += follower.lost() - before;
            for line in &lines {
                *got += 1;
                assert_eq!(line.id, *got + *lost);
            }
            lines.len()
        };
        for step in steps {
            match step {
                Step::Append(many) => for _ in 0..many {
                    written += 1;
                    assert_eq!(writer.append(&Event::new(Kind::Move).conn(ConnId(written))).unwrap(), written);
                },
                Step::Die(torn) => {
                    drop(writer);
                    if let Some(first) = files(&directory(shared.path())).unwrap().last() {
                        let file = file_of(&directory(shared.path()), *first);
                        let mut text = fs::read(&file).unwrap();
                        text.extend(std::iter::repeat_n(b'x', torn.into()));
                        fs::write(&file, text).unwrap();
                    }
                    writer = open(shared.path()).with_small_files(600, 3);
                    assert_eq!(writer.last_id(), written);
                }
                Step::Look(who) => { look(&mut followers[usize::from(who)]); }
                Step::Reopen(who) => {
                    let (follower, ..) = &mut followers[usize::from(who)];
                    *follower = Follower::open(shared.path(), From::After(follower.position())).unwrap();
                }
            }
            assert!(files(&directory(shared.path())).unwrap().len() <= 3);
        }
        for follower in &mut followers {
            while look(follower) > 0 {}
            assert_eq!(follower.1 + follower.2, written);
        }
    }

    #[test]
    fn what_began_ends_once_whenever_the_front_dies(steps in proptest::collection::vec((0..6u8, 0..5u8, 0..2u8), 1..120)) {
        let shared = shared();
        let mut writer = open(shared.path()).with_small_files(2_000, 32);
        let mut there: HashMap<ConnId, Found> = HashMap::new();
        let row = |conn: ConnId| RowId((conn.0 % 5) as u32);
        let mut conns = [1u64, 2, 3, 4, 5].map(ConnId);
        let event = |conn: ConnId| Event::default().conn(conn);
        let placed = |intent, key: &StreamKey, conn| Event { kind: if intent == Intent::Publish { Kind::Publish } else { Kind::Play }, ..event(conn).of_stream(key) };
        for (what, who, which) in steps {
            let (conn, key) = (&mut conns[usize::from(who)], key(which));
            let intent = if which == 0 { Intent::Publish } else { Intent::Play };
            let row = row(*conn);
            match what {
                // It begins something, or ends what it does.
                0 | 1 if there.get(conn).is_none_or(|found| found.place.is_none()) => {
                    writer.begin(row, *conn, Mark::Connection, event(*conn)).unwrap();
                    writer.begin(row, *conn, Mark::Place(intent, &key), event(*conn).of_stream(&key)).unwrap();
                    assert!(!writer.begin(row, *conn, Mark::Place(intent, &key), event(*conn).of_stream(&key)).unwrap());
                    there.insert(*conn, Found { row, place: Some((intent, key)) });
                }
                2 => if let Some((intent, key)) = there.get_mut(conn).and_then(|found| found.place.take()) {
                    assert!(writer.end(row, *conn, Mark::Place(intent, &key), event(*conn).of_stream(&key)).unwrap());
                },
                // The front dies, and it closes before there is another one.
                3 => {
                    drop(writer);
                    there.remove(conn);
                    writer = Writer::open(shared.path()).unwrap().with_small_files(2_000, 32);
                    writer.reconcile(&there, |_, _, event| event).unwrap();
                    *conn = ConnId(conn.0 + 5);
                }
                // The front dies in the middle of its beginning; it goes on, or closes.
                4 | 5 if !there.contains_key(conn) => {
                    writer.begin(row, *conn, Mark::Connection, event(*conn)).unwrap();
                    writer.die_after_line(&placed(intent, &key, *conn));
                    if what == 4 {
                        there.insert(*conn, Found { row, place: Some((intent, key)) });
                    }
                    writer = Writer::open(shared.path()).unwrap().with_small_files(2_000, 32);
                    writer.reconcile(&there, |_, _, event| event).unwrap();
                    if what == 5 {
                        *conn = ConnId(conn.0 + 5);
                    }
                }
                _ => {}
            }
        }
        let mut open: HashMap<(ConnId, bool), Event> = HashMap::new();
        for line in everything(shared.path()) {
            let event = line.event;
            let begun = (event.conn.unwrap(), matches!(event.kind, Kind::Connect | Kind::Close));
            match event.kind {
                Kind::Connect | Kind::Publish | Kind::Play => assert!(open.insert(begun, event).is_none(), "began twice"),
                _ => {
                    let began = open.remove(&begun).expect("ends what began");
                    assert_eq!(began.key(), event.key());
                }
            }
        }
        let left: HashSet<ConnId> = open.keys().map(|(conn, _)| *conn).collect();
        assert_eq!(left, there.keys().copied().collect());
        for (conn, found) in &there {
            assert_eq!(open.get(&(*conn, false)).and_then(Event::key), found.place.clone().map(|(_, key)| key));
        }
    }
}
