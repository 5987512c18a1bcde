//! Answers from a shared directory as workers leave it, compared with what SRS itself was heard to say.

use super::super::machine::{self, Sampler};
use super::snapshot::Stream;
use super::*;
use crate::api::tracks::Tracks;
use crate::clients::{Description, Kind, Record};
use crate::control::Listener;
use braidcast_media::StreamKey;
use braidcast_media::details::{Audio, Video};
use braidcast_media::tag::Codec;
use proptest::prelude::*;

/// What an SRS answered, by path.
const CAPTURED: &str = include_str!("../../engine/api/captured/process1.json");

fn key(stream: &str) -> StreamKey {
    StreamKey::new("v.example", "live", stream).unwrap()
}

fn client(conn: u64, kind: Kind, stream: &str) -> Record {
    Record {
        conn: ConnId(conn),
        description: Description {
            kind,
            listener: Listener::Rtmp,
            peer: "192.0.2.7:5000".parse().unwrap(),
            key: Some(key(stream)),
            tc_url: "rtmp://user:canary@v.example/live?token=canary".into(),
            page_url: "https://example.com/page?session=canary#canary".into(),
            swf_url: "http://example.com/p.swf?canary".into(),
            param: "token=canary".into(),
            agent: "FMLE/3.0".into(),
            context: String::new(),
        },
        described_ms: 1,
        began_ms: 1,
        bytes_in: 10,
        bytes_out: 20,
        bits_in: 8_000,
        bits_out: 16_999,
        told_ms: 5,
    }
}

fn stream(name: &str) -> Stream {
    Stream {
        key: key(name),
        id: ids::stream_id(&key(name)),
        active: true,
        publisher: Some(ConnId(1)),
        tc_url: "rtmp://v.example/live".into(),
        clients: 2,
        frames: 100,
        sent: 20,
        received: 10,
        bits_in: 8_000,
        bits_out: 16_999,
        tracks: Tracks {
            video: Some((Codec::H264, Video { profile: 66, level: 31, constraints: 0x40, size: Some((1280, 720)) })),
            audio: Some((Codec::Aac, Audio { rate: 48_000, channels: 2, object_type: 2 })),
        },
    }
}

fn snapshot(clients: u64) -> Snapshot {
    let directory = tempfile::tempdir().unwrap();
    Sampler::default().sample(directory.path(), std::process::id(), &[], 1_000).unwrap();
    let kind = |conn| if conn == 1 { Kind::FmlePublish } else { Kind::FlvPlay };
    Snapshot {
        server: "vid-server".into(),
        service: "service".into(),
        pid: 4711,
        started_wall_ms: 1,
        clients: (1..=clients).map(|conn| client(conn, kind(conn), "x")).collect(),
        streams: vec![stream("x")],
        hls_fragment_ms: Some(4_000),
        bytes: [1_000, 2_000],
        machine: machine::last(directory.path()).unwrap(),
    }
}

fn ask(snapshot: &Snapshot, method: &str, target: &str) -> Answer {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    answer(snapshot, &Request { method: method.into(), path: path.into(), query: query.into(), jsonp: false })
}

fn json_of(answer: &Answer) -> Value {
    assert_eq!((answer.status, answer.content_type), (200, "application/json"));
    serde_json::from_slice(&answer.body).unwrap()
}

fn get(snapshot: &Snapshot, target: &str) -> Value {
    json_of(&ask(snapshot, "GET", target))
}

/// Every field that SRS has is there, of the same type.
fn assert_like(ours: &Value, theirs: &Value, path: &str) {
    match (ours, theirs) {
        (Value::Object(ours), Value::Object(theirs)) => {
            for (name, value) in theirs {
                let own = ours.get(name).unwrap_or_else(|| panic!("{path}/{name} is missing"));
                assert_like(own, value, &format!("{path}/{name}"));
            }
        }
        (Value::Array(ours), Value::Array(theirs)) => {
            for (own, value) in ours.iter().flat_map(|own| theirs.iter().map(move |value| (own, value))) {
                assert_like(own, value, path);
            }
        }
        (Value::Number(own), Value::Number(value)) => {
            assert!(!value.is_f64() || own.is_f64(), "{path}: {own} has no point, {value} has");
            assert!(!own.is_f64() || value.is_f64(), "{path}: {own} has a point, {value} has none");
        }
        _ => assert_eq!(std::mem::discriminant(ours), std::mem::discriminant(theirs), "{path}: {ours} and {theirs}"),
    }
}

#[test]
fn every_answer_has_the_fields_and_types_of_srs() {
    let captured: Value = serde_json::from_str(CAPTURED).unwrap();
    let snapshot = snapshot(3);
    for (path, theirs) in captured.as_object().unwrap() {
        let mut theirs = theirs.clone();
        // What is listed there is what there is; HLS was off for one of its vhosts.
        theirs.as_object_mut().unwrap().shift_remove("urls");
        theirs.as_object_mut().unwrap().shift_remove("tests");
        assert_like(&get(&snapshot, path), &theirs, path);
    }
}

/// An answer without what goes on from one answer to the next.
fn lasting(answer: &Value) -> Value {
    let mut answer = answer.clone();
    let items = match &mut answer {
        Value::Array(items) => items.as_mut_slice(),
        item => std::slice::from_mut(item),
    };
    for item in items {
        for passing in ["alive", "live_ms"] {
            item.as_object_mut().unwrap().shift_remove(passing);
        }
    }
    answer
}

#[test]
fn lists_and_single_things_say_the_same() {
    let snapshot = snapshot(3);
    for (list, one) in [("streams", "stream"), ("clients", "client"), ("vhosts", "vhost")] {
        let listed = get(&snapshot, &format!("/api/v1/{list}"));
        assert_eq!(lasting(&listed[list]), lasting(&get(&snapshot, &format!("/api/v1/{list}/"))[list]));
        let id = listed[list][0]["id"].as_str().unwrap();
        let single = &get(&snapshot, &format!("/api/v1/{list}/{id}"))[one];
        let (single, item) = (lasting(single), lasting(&listed[list][0]));
        assert_eq!(single, item);
    }
    let (stream, client) = (&get(&snapshot, "/api/v1/streams")["streams"][0], &get(&snapshot, "/api/v1/clients/c1")["client"]);
    let vhost = &get(&snapshot, "/api/v1/vhosts")["vhosts"][0];
    assert_eq!((&stream["vhost"], &client["vhost"]), (&vhost["id"], &vhost["id"]));
    assert_eq!((&client["stream"], &stream["publish"]["cid"]), (&stream["id"], &client["id"]));
    assert_eq!(vhost["hls"], json!({ "enabled": true, "fragment": 4.0 }));
    assert_eq!(
        stream["video"],
        json!({ "codec": "H264", "profile": "Baseline(Constrained)", "level": "3.1", "width": 1280, "height": 720 })
    );
    assert_eq!(stream["audio"], json!({ "codec": "AAC", "sample_rate": 48_000, "channel": 2, "profile": "LC" }));
    assert_eq!(client["kbps"], json!({ "recv_30s": 8, "send_30s": 16 }));
}

#[test]
fn a_page_is_counted_as_srs_does() {
    let snapshot = snapshot(25);
    let ids = |target: &str| {
        let body = get(&snapshot, target);
        assert_eq!(body["total"], 25);
        body["clients"].as_array().unwrap().iter().map(|client| client["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(ids("/api/v1/clients").len(), 10);
    assert_eq!(ids("/api/v1/clients?count=3").len(), 10, "a count below 10 is 10");
    assert_eq!(ids("/api/v1/clients?count=99").len(), 25);
    assert_eq!(ids("/api/v1/clients?start=20"), ["c21", "c22", "c23", "c24", "c25"]);
    for odd in ["start=-5", "start=x", "start=%zz", "start=&count=", "start=00"] {
        assert_eq!(ids(&format!("/api/v1/clients?{odd}"))[0], "c1", "{odd}");
    }
    assert!(ids("/api/v1/clients?start=99999999999999999999999&count=99999999999999999999").is_empty());
}

#[test]
fn errors_have_the_codes_of_srs_and_status_200() {
    let snapshot = snapshot(1);
    let code = |method: &str, target: &str| json_of(&ask(&snapshot, method, target));
    assert_eq!(code("GET", "/api/v1/vhosts/vid-none"), json!({ "code": 2014 }));
    assert_eq!(code("GET", "/api/v1/streams/vid-none"), json!({ "code": 2048 }));
    for target in ["/api/v1/clients/c9", "/api/v1/clients/1", "/api/v1/clients/c1/x"] {
        assert_eq!(code("GET", target), json!({ "code": 2049 }), "{target}");
        assert_eq!(ask(&snapshot, "DELETE", target).kick, None);
    }
    for target in ["/api/v1/clients", "/api/v1/clients/"] {
        assert_eq!(code("DELETE", target), json!({ "code": 2049 }), "nobody is kicked by a list");
    }
    for (method, target) in
        [("POST", "/api/v1/streams"), ("DELETE", "/api/v1/vhosts"), ("PUT", "/api/v1/clients/c1"), ("POST", "/api/v1/clients")]
    {
        assert_eq!(ask(&snapshot, method, target).status, 405, "{method} {target}");
    }
    for target in ["/api/v1/raw", "/api/v1/versions/x", "/api/v2", "/api/v1x", "/api/v1/rusagesx"] {
        assert_eq!(ask(&snapshot, "GET", target).status, 404, "{target}");
        assert!(!is_known(target));
    }
}

#[test]
fn a_client_that_is_there_is_kicked() {
    let snapshot = snapshot(2);
    let kicked = ask(&snapshot, "DELETE", "/api/v1/clients/c2");
    assert_eq!((kicked.kick, json_of(&kicked)["code"].clone()), (Some(ConnId(2)), json!(0)));
    assert_eq!(ask(&snapshot, "GET", "/api/v1/clients/c2?callback=f&method=DELETE").kick, None);
}

#[test]
fn no_secret_of_a_client_is_shown() {
    let snapshot = snapshot(3);
    for target in ["/api/v1/clients", "/api/v1/streams", "/api/v1/vhosts", "/api/v1/clients/c1"] {
        let body = String::from_utf8(ask(&snapshot, "GET", target).body).unwrap();
        assert!(!body.contains("canary"), "{body}");
    }
    assert_eq!(get(&snapshot, "/api/v1/clients/c1")["client"]["tcUrl"], "rtmp://v.example/live");
    assert_eq!(lists::shown("rtmp://h/live...token...canary"), "rtmp://h/live");
    assert_eq!(lists::shown("no url@at all?x"), "no url@at all");
}

#[test]
fn callbacks_are_obeyed_only_if_that_was_allowed_and_they_are_names() {
    let snapshot = snapshot(1);
    let asked = |query: &str, jsonp| {
        answer(&snapshot, &Request { method: "GET".into(), path: "/api/v1/versions".into(), query: query.into(), jsonp })
    };
    assert_eq!(asked("callback=f", false), asked("", false));
    let called = asked("callback=a.b_1", true);
    assert_eq!(called.content_type, "text/javascript");
    assert!(called.body.starts_with(b"a.b_1({") && called.body.ends_with(b"})"));
    for bad in ["alert(1)//", "%3Cscript%3E", "a b", &"x".repeat(65)] {
        assert_eq!(asked(&format!("callback={bad}"), true).status, 400, "{bad}");
    }
}

proptest! {
    #[test]
    fn whatever_is_asked_is_answered_and_kicks_only_whom_it_names(
        method in "GET|DELETE|POST|[A-Z]{0,6}",
        path in "(/api/v1/(clients|streams|vhosts|rusages|[a-z_]{0,9})(/(c[0-9]{0,3}|vid-[a-z0-9]{0,4}|\\PC{0,6}))?/?)|\\PC{0,20}",
        query in "((start|count|callback|method)=(-?[0-9]{0,22}|[a-z%]{0,6})&?){0,3}|\\PC{0,20}",
    ) {
        let snapshot = Snapshot { clients: vec![client(2, Kind::RtmpPlay, "x")], ..Snapshot::default() };
        let request = Request { method: method.clone(), path: path.clone(), query, jsonp: true };
        let answer = answer(&snapshot, &request);
        prop_assert!([200, 400, 404, 405].contains(&answer.status));
        prop_assert_eq!(answer.kick.is_some(), method == "DELETE" && path == "/api/v1/clients/c2");
    }
}
