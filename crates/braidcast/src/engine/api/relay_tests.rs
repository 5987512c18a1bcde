//! Asking over real connections: servers that answer as captured, and such that do what they should not.
#![allow(clippy::unwrap_used)]

use super::fetch::{Ask, fetch};
use super::merge_tests::{captured, request};
use super::watch::Load;
use super::{ApiAnswer, ApiRelay, LiveStream, Method, Seen, Watch};
use crate::control::WorkerId;
use crate::engine::clients::Clients;
use braidcast_sys::{Events, Interest, Poller};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A server whose connections are each given to a function in a thread of its own; it ends with the test's process.
pub(super) fn serve(answer: impl Fn(&str, &mut TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let answer = Arc::new(answer);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let answer = answer.clone();
            std::thread::spawn(move || {
                let (mut request, mut piece) = (Vec::new(), [0; 4096]);
                while !request.windows(4).any(|four| four == b"\r\n\r\n") {
                    match stream.read(&mut piece) {
                        Ok(read @ 1..) => request.extend_from_slice(&piece[..read]),
                        _ => return,
                    }
                }
                answer(&String::from_utf8(request).unwrap(), &mut stream);
            });
        }
    });
    address
}

/// One that knows nobody's address.
pub(super) fn relay() -> ApiRelay {
    ApiRelay::new(Path::new("/nonexistent")).unwrap()
}

fn write_json(stream: &mut TcpStream, body: &str) {
    let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len());
}

/// A server that answers as one that was captured, and keeps the requests.
fn srs(process: u16) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let requests = Arc::new(Mutex::new(Vec::new()));
    let kept = requests.clone();
    let address = serve(move |request, stream| {
        kept.lock().unwrap().push(request.to_owned());
        let target = request.split(' ').nth(1).unwrap();
        let path = target.split('?').next().unwrap();
        let clients = captured(process, "/api/v1/clients/")["clients"].take();
        let body = match path.strip_prefix("/api/v1/clients/").filter(|id| !id.is_empty()) {
            Some(id) => match clients.as_array().unwrap().iter().find(|client| client["id"] == id) {
                Some(client) => json!({ "code": 0, "client": client }),
                None => json!({ "code": 2049 }),
            },
            None => captured(process, path),
        };
        write_json(stream, &body.to_string());
    });
    (address, requests)
}

/// Waits, as an event loop does, until something is there.
pub(super) fn next<T: AsFd, R>(from: &mut T, mut poll: impl FnMut(&mut T) -> Option<R>) -> R {
    let poller = Poller::new().unwrap();
    poller.add(&*from, 0, Interest::READ).unwrap();
    let mut events = Events::with_capacity(1);
    loop {
        if let Some(result) = poll(from) {
            return result;
        }
        poller.wait(&mut events, Some(Duration::from_secs(20))).unwrap();
        assert!(!events.is_empty(), "the doorbell rings");
    }
}

pub(super) fn ask(relay: &mut ApiRelay, method: Method, target: &str, processes: &[(u16, SocketAddr)]) -> ApiAnswer {
    assert!(relay.ask(7, request(method, target), processes.to_vec()));
    let (id, answer) = next(relay, ApiRelay::poll);
    assert_eq!(id, 7);
    answer
}

pub(super) fn body(answer: &ApiAnswer) -> Value {
    serde_json::from_slice(&answer.body).unwrap_or_else(|_| panic!("{answer:?}"))
}

#[test]
fn all_are_asked_for_the_client_and_their_answers_are_one() {
    let ((one, heard), (two, _)) = (srs(1), srs(2));
    let processes = [(1, one), (2, two)];
    let mut relay = relay();
    let mut asked = request(Method::Get, "/api/v1/streams?count=3");
    asked.authorization = Some("Basic dTpw".to_owned());
    assert!(relay.ask(9, asked, processes.to_vec()));
    let (id, answer) = next(&mut relay, ApiRelay::poll);
    assert_eq!((id, body(&answer)["streams"].as_array().unwrap().len()), (9, 4));
    let heard = std::mem::take(&mut *heard.lock().unwrap());
    assert!(heard[0].starts_with("GET /api/v1/streams/?start=0&count=10 HTTP/1.1\r\n"), "{heard:?}");
    for field in ["X-Forwarded-For: 192.0.2.7\r\n", "X-Real-IP: 192.0.2.7\r\n", "Authorization: Basic dTpw\r\n"] {
        assert!(heard.iter().all(|request| request.contains(field)), "{heard:?}");
    }
    let call = ask(&mut relay, Method::Get, "/api/v1/versions?callback=f", &processes);
    assert!(call.body.starts_with(b"f({\"code\":0,") && call.body.ends_with(b")"), "{call:?}");
    let one_alone = ask(&mut relay, Method::Get, "/api/v1/streams?process=2", &processes);
    assert_eq!(body(&one_alone), captured(2, "/api/v1/streams/"));
}

#[test]
fn a_client_is_ended_by_its_process_alone_and_once() {
    let ((one, heard_one), (two, heard_two)) = (srs(1), srs(2));
    let mut relay = relay();
    let id = captured(2, "/api/v1/clients/")["clients"][0]["id"].as_str().unwrap().to_owned();
    let processes = [(1, one), (2, two)];
    let answer = ask(&mut relay, Method::Delete, &format!("/api/v1/clients/{id}"), &processes);
    assert_eq!(body(&answer)["code"], json!(0));
    let answer = ask(&mut relay, Method::Delete, "/api/v1/clients/nobody", &processes);
    assert_eq!(body(&answer), json!({ "code": 2049 }));
    let deleted = |heard: &Mutex<Vec<String>>| heard.lock().unwrap().iter().filter(|request| request.starts_with("DELETE ")).count();
    assert_eq!((deleted(&heard_one), deleted(&heard_two)), (0, 1));
}

#[test]
fn a_request_is_passed_to_one_process_as_it_is() {
    let address = serve(|request, stream| {
        assert!(request.starts_with("POST /api/v1/raw?rpc=reload HTTP/1.1\r\nHost: v.example\r\n"), "{request}");
        assert!(request.contains("Content-Length: 0\r\n"), "{request}");
        let _ = stream
            .write_all(b"HTTP/1.1 302 Found\r\nContent-Type: text/plain\r\nLocation: /api/v1/raw/?a=b\r\nContent-Length: 3\r\n\r\nv=0");
    });
    let mut reload = request(Method::Post, "/api/v1/raw?rpc=reload&process=2");
    reload.host = Some("v.example".to_owned());
    let mut relay = relay();
    assert!(relay.ask(1, reload.clone(), vec![(2, address)]));
    let (_, answer) = next(&mut relay, ApiRelay::poll);
    assert_eq!((answer.status, answer.content_type.as_str(), answer.body.as_slice()), (302, "text/plain", &b"v=0"[..]));
    assert_eq!(answer.location.as_deref(), Some("/api/v1/raw/?a=b"));

    let mut refuse = |request| {
        assert!(relay.ask(2, request, vec![(2, address)]));
        assert_eq!(next(&mut relay, ApiRelay::poll).1.status, 400);
    };
    refuse(super::ApiRequest { authorization: Some("a\r\nHost: b".to_owned()), ..reload.clone() });
    refuse(super::ApiRequest { target: "/a b".to_owned(), ..reload });
}

#[test]
fn clients_have_the_addresses_that_relays_know() {
    let directory = tempfile::tempdir().unwrap();
    let processes = [(1, srs(1).0), (2, srs(2).0)];
    let mut relay = ApiRelay::new(directory.path()).unwrap();
    let id = captured(2, "/api/v1/clients/")["clients"][1]["id"].as_str().unwrap().to_owned();
    let (list, one) = ("/api/v1/clients?count=100".to_owned(), format!("/api/v1/clients/{id}"));
    let seen = |relay: &mut ApiRelay| {
        let all = body(&ask(relay, Method::Get, &list, &processes))["clients"].take();
        let row = all.as_array().unwrap().iter().find(|client| client["id"] == *id).unwrap().clone();
        (row["ip"].clone(), body(&ask(relay, Method::Get, &one, &processes))["client"]["ip"].take())
    };
    assert_eq!(seen(&mut relay), (json!("127.0.0.1"), json!("127.0.0.1")));
    let mut known = Clients::default();
    known.insert(2, &id, "192.0.2.7".parse().unwrap());
    known.write(directory.path(), WorkerId(1)).unwrap();
    assert_eq!(seen(&mut relay), (json!("192.0.2.7"), json!("192.0.2.7")));
}

#[test]
fn processes_that_answer_badly_slowly_or_not_are_missing_after_three_seconds() {
    let good = srs(1).0;
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let never = TcpListener::bind("127.0.0.1:0").unwrap();
    let trickles = serve(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n");
        while stream.write_all(b" ").is_ok() {
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let cut = serve(|_, stream| drop(stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{\"code\":0")));
    let huge = serve(|_, stream| drop(stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n{\"code\":0")));
    let other = serve(|_, stream| write_json(stream, "\u{1}not JSON"));
    let deep = serve(|_, stream| write_json(stream, &format!("{{\"code\":0,\"a\":{}", "[".repeat(100_000))));
    let addresses = [closed, never.local_addr().unwrap(), good, trickles, cut, huge, other, deep];
    let processes: Vec<_> = (1..).zip(addresses).collect();
    let begun = Instant::now();
    let mut relay = relay();
    let answer = body(&ask(&mut relay, Method::Get, "/api/v1/versions", &processes));
    assert_eq!((&answer["data"]["major"], &answer["missing"]), (&json!(7), &json!([1, 2, 4, 5, 6, 7, 8])));
    assert!((Duration::from_secs(3)..Duration::from_secs(6)).contains(&begun.elapsed()), "{:?}", begun.elapsed());
}

#[test]
fn an_answer_without_an_end_is_not_kept() {
    let endless = serve(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        while stream.write_all(b"4\r\nabcd\r\n").is_ok() {}
    });
    let deadline = Instant::now() + Duration::from_secs(10);
    let error = fetch(endless, &Ask::get("/", None, None), deadline, 10_000).unwrap_err();
    assert!(error.contains("too long"), "{error}");
}

#[test]
fn no_more_requests_than_allowed_are_under_way_and_all_are_answered() {
    let processes = vec![(1, srs(1).0)];
    let mut relay = relay();
    let taken = (0..1_000).take_while(|id| relay.ask(*id, request(Method::Get, "/api/v1/versions"), processes.clone())).count();
    assert_eq!(taken, 64);
    let mut answered: Vec<_> = (0..taken).map(|_| next(&mut relay, ApiRelay::poll)).map(|(id, answer)| (id, answer.status)).collect();
    answered.sort_unstable();
    assert_eq!(answered, (0..taken as u64).map(|id| (id, 200)).collect::<Vec<_>>());
    assert!(relay.ask(0, request(Method::Get, "/api/v1/versions"), processes));
}

#[test]
fn a_watch_sees_load_and_streams_and_who_does_not_answer() {
    let never = TcpListener::bind("127.0.0.1:0").unwrap();
    let locked = serve(|_, stream| drop(stream.write_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")));
    let (good, heard) = srs(2);
    let processes = vec![(1, never.local_addr().unwrap()), (2, good), (3, locked)];
    let mut watch = Watch::new(Some("Basic dTpw".to_owned())).unwrap();
    assert!(watch.look(processes.clone()));
    assert!(!watch.look(processes.clone()), "one round at once");
    let mut seen: Vec<Seen> = (0..3).map(|_| next(&mut watch, Watch::poll)).collect();
    seen.sort_by_key(|seen| seen.process);
    assert_eq!(seen[0].answered, Err("did not answer in time".to_owned()));
    assert_eq!(seen[2].answered, Err("answered /api/v1/streams/?start=0&count=10000 with status 401".to_owned()));
    let Load { cpu_permille, memory_kib, streams } = seen[1].answered.clone().unwrap();
    assert_eq!((cpu_permille, memory_kib), (10, 18_604));
    let four = LiveStream {
        vhost: "v.example".to_owned(),
        app: "live".to_owned(),
        name: "four".to_owned(),
        clients: 1,
        kbps_in: 145,
        kbps_out: 0,
        frames: 351,
        bytes_in: 682_484,
        bytes_out: 4_384,
        video: Some("H264".to_owned()),
        audio: Some("AAC".to_owned()),
        publishing: true,
    };
    assert_eq!((streams.len(), &streams[0]), (2, &four));
    assert_eq!(streams[1].vhost, "__defaultVhost__");
    assert!(heard.lock().unwrap().iter().all(|request| request.contains("Authorization: Basic dTpw\r\n")));
    // The round's end is heard of as well.
    next(&mut watch, |watch| {
        let _ = watch.poll();
        watch.look(vec![]).then_some(())
    });
}
