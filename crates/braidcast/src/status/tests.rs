//! A shared directory as the processes leave it, read by somebody else.

use super::*;
use crate::control::Listener;
use braidcast_media::{RecordKind, StreamKey};
use braidcast_stream_log::{LogOptions, Writer};
use braidcast_sys::clock;
use std::fs;

struct Made {
    directory: tempfile::TempDir,
    front: FrontPage,
    page: WorkerPage,
    writer: Writer,
    _lock: fs::File,
}

fn make() -> Made {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let root = Root::new(directory.path().to_owned());
    fs::create_dir_all(directory.path().join("workers")).unwrap();
    let front = FrontPage::create(directory.path()).unwrap();
    front.set_instance(clock::wall_ms() - 5_500, 2, 30);
    front.set_listening(&[
        Listening::new(Listener::Rtmp, None, "127.0.0.1:11935".parse().unwrap()),
        Listening::new(Listener::Rtmp, None, "[::1]:11935".parse().unwrap()),
        Listening::new(Listener::Sub, Some(WorkerId(1)), "127.0.0.1:7001".parse().unwrap()),
    ]);
    let row = WorkerRow {
        state: WorkerState::Running,
        pid: std::process::id(),
        allowed: 4,
        weight: 4,
        publishers: 1,
        started_wall_ms: clock::wall_ms() - 5_500,
        ..WorkerRow::default()
    };
    front.set_row(WorkerId(1), &row);
    front.set_row(WorkerId(2), &WorkerRow { state: WorkerState::Restarting, restarts: 3, weight: 1, ..WorkerRow::default() });
    front.counter(FrontCounter::Pid).store(4711, Relaxed);
    front.counter(FrontCounter::Accepted).store(9, Relaxed);
    front.counter(FrontCounter::DirectoryBytes).store(3 << 20, Relaxed);
    front.set_state(InstanceState::Running);
    let page = WorkerPage::create(&root, 1).unwrap();
    for (counter, value) in
        [(WorkerCounter::Publishers, 1), (WorkerCounter::FlvViewers, 2), (WorkerCounter::RtmpViewers, 3), (WorkerCounter::CpuPermille, 250)]
    {
        page.counter(counter as usize).store(value, Relaxed);
    }
    let key = StreamKey::new(braidcast_media::key::DEFAULT_VHOST, "live", "film").unwrap();
    let now = Now::read();
    let mut writer = Writer::open(&root, &key, &LogOptions::default(), now).unwrap();
    writer.begin_publish(now).unwrap();
    writer.set_publisher("192.0.2.1:40000".parse().unwrap());
    for (kind, payload) in [
        (RecordKind::Video, &b"\x17\0\0\0\0\x01\x64\0\x1f\xff\xe1\0\x01\x67\x01\0\x01\x68"[..]),
        (RecordKind::Video, &[0x17, 1, 0, 0, 0, 2, 3]),
        (RecordKind::Audio, &[0x2f, 1, 2, 3]),
    ] {
        writer.append(kind, 0, payload, now).unwrap();
    }
    writer.commit(now).unwrap();
    let segments = root.hls_dir(&key);
    fs::create_dir_all(&segments).unwrap();
    for name in ["7.ts", "12.ts", "index.m3u8", "x.ts"] {
        fs::write(segments.join(name), "").unwrap();
    }
    let lock = fs::File::create(directory.path().join(instance::LOCK_NAME)).unwrap();
    assert!(file::try_lock_exclusive(&lock).unwrap());
    Made { directory, front, page, writer, _lock: lock }
}

fn json_of(made: &Made) -> Value {
    serde_json::from_str(&read(made.directory.path()).unwrap().to_json()).unwrap()
}

#[test]
fn everything_is_in_the_json() {
    let made = make();
    let status = json_of(&made);
    let instance = &status["instance"];
    assert_eq!(
        (&instance["running"], &instance["state"], &instance["pid"], &instance["allowed"]),
        (&json!(true), &json!("running"), &json!(4711), &json!(30))
    );
    assert_eq!(instance["addresses"], json!({ "rtmp": ["127.0.0.1:11935", "[::1]:11935"], "sub1": ["127.0.0.1:7001"] }));
    assert!(instance["uptime_s"].as_u64().unwrap() >= 5);
    assert_eq!(status["front"]["accepted"], 9);
    let (one, two) = (&status["workers"][0], &status["workers"][1]);
    assert_eq!(*one, {
        let mut expected = one.clone();
        let known = json!({ "id": 1, "pid": std::process::id(), "allowed": 4, "current": 1, "free": 3, "publishers": 1, "viewers": 5, "weight": 4, "restarts": 0, "cpu_permille": 250 });
        expected.as_object_mut().unwrap().extend(known.as_object().unwrap().clone());
        expected
    });
    assert_eq!(one["counters"]["rtmp_viewers"], 3);
    assert_eq!(
        (&two["allowed"], &two["free"], &two["pid"], &two["state"], &two["restarts"]),
        (&Value::Null, &Value::Null, &json!(0), &json!("restarting"), &json!(3))
    );
    let stream = &status["streams"][0];
    let known = json!({
        "vhost": "__defaultVhost__", "app": "live", "stream": "film", "state": "live", "worker": 1, "publisher": "192.0.2.1:40000", "video": "H.264", "audio": "MP3",
        "bytes": made.writer.counters().bytes, "records": made.writer.counters().records, "keyframes": made.writer.counters().keyframes,
        "epoch": 1, "segment": 12, "hls": { "leaves_out": [], "carries": true },
    });
    for (key, value) in known.as_object().unwrap() {
        assert_eq!(&stream[key], value, "{key}");
    }
    assert!(stream["log_bytes"].as_u64().unwrap() > 0 && stream["age_ms"].as_u64().unwrap() < 60_000);
    assert_eq!(status["directory"]["bytes"], 3 << 20);
}

#[test]
fn the_page_hears_of_streams_and_of_nothing_else() {
    let made = make();
    let answer: Value = serde_json::from_str(&read(made.directory.path()).unwrap().streams_json(|_| true)).unwrap();
    assert_eq!(answer.as_object().unwrap().keys().collect::<Vec<_>>(), ["streams", "engine", "rtmp_port"]);
    assert_eq!((&answer["rtmp_port"], &answer["streams"][0]["stream"]), (&json!(11935), &json!("film")));
    assert!(!answer.to_string().contains("192.0.2.1"), "who publishes is nobody's business");
}

#[test]
fn people_see_tables() {
    let made = make();
    let mut status = read(made.directory.path()).unwrap();
    // What differs from run to run.
    (status.instance.uptime_s, status.instance.shared_dir) = (3_725, "/dev/shm/x".into());
    (status.directory.free_bytes, status.directory.budget_bytes) = (1 << 30, 2 << 30);
    (status.workers[0].pid, status.workers[0].uptime_s) = (4712, 5);
    let stream = &mut status.streams[0];
    (stream.bytes, stream.records, stream.log_bytes, stream.age_ms) = (5_000_000, 1_234, 2_000_000, 40);
    let second = Stream {
        stream: "a\u{202e}\u{1b}[31mb".into(),
        vhost: "v.example".into(),
        state: "waiting",
        worker: None,
        publisher: None,
        audio: None,
        segment: None,
        hls: streams::StreamHls { leaves_out: vec!["AV1".into(), "FLAC".into()], carries: false },
        ..stream.clone()
    };
    status.streams.push(second);
    assert_eq!(
        status.to_text(),
        "\
braidcast 0.1.0: running, pid 4711, up 1h 2m
/dev/shm/x: 3.0 MiB of 2.0 GiB used, 1.0 GiB free
publishers: 1 of 30 allowed in all, 29 free
rtmp  127.0.0.1:11935 [::1]:11935
sub1  127.0.0.1:7001
sandbox of workers: off

WORKER   PID  STATE       PUBLISHERS  ALLOWED  FREE  WEIGHT  VIEWERS  SESSIONS  CPU  RESTARTS  UP
     1  4712  ready                1        4     3       4        5         0  25%         0  5s
     2     -  restarting           0        -     -       1        0         0   0%         3   -

STREAM                   STATE    WORKER  PUBLISHER        CODECS       RECEIVED  RECORDS  KEYFRAMES  SEGMENT      LOG   AGE
live/film                live          1  192.0.2.1:40000  H.264 + MP3   4.8 MiB     1234          1       12  1.9 MiB  40ms
v.example/live/a??[31mb  waiting       -  -                H.264         4.8 MiB     1234          1        -  1.9 MiB  40ms
v.example/live/a??[31mb: HLS cannot carry AV1 and FLAC
"
    );
}

#[test]
fn an_instance_that_is_gone_is_told_from_one_that_ended() {
    let made = make();
    let Made { directory, front, page, writer, _lock } = made;
    drop((_lock, page, writer));
    let state = || read(directory.path()).map(|status| (status.instance.running, status.instance.state, status.streams[0].worker)).unwrap();
    assert_eq!(state(), (false, "lost", None));
    front.set_state(InstanceState::Ended);
    assert_eq!(state(), (false, "ended", None));
    assert!(read(&directory.path().join("workers")).unwrap_err().to_string().starts_with("no instance has run with "));
}

#[test]
fn strangers_make_nobody_read_more_than_once_a_second() {
    let made = make();
    let mut cached = Cached::default();
    let accepted = |status: &Status| status.front["accepted"].clone();
    assert_eq!(accepted(cached.read(made.directory.path(), 10_000).unwrap()), 9);
    made.front.counter(FrontCounter::Accepted).store(10, Relaxed);
    assert_eq!(accepted(cached.read(made.directory.path(), 10_999).unwrap()), 9);
    assert_eq!(accepted(cached.read(made.directory.path(), 11_000).unwrap()), 10);
    made.page.counter(WorkerCounter::Pid as usize).store(1, Relaxed);
    assert_eq!(cached.read(made.directory.path(), 12_000).unwrap().workers[0].counters["pid"], 1);
}

#[test]
fn versions_are_in_the_envelope_of_the_api() {
    let answer: Value = serde_json::from_str(&versions(7)).unwrap();
    assert_eq!((&answer["code"], &answer["pid"], &answer["data"]["version"]), (&json!(0), &json!("7"), &json!(env!("CARGO_PKG_VERSION"))));
}
