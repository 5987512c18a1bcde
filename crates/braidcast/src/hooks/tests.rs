//! Calls of real servers, over real connections: good ones, and of every bad kind.

use super::ask::Verdict;
use super::call::Caller;
use super::event::{Names, tests::event};
use super::process::Hooks;
use super::tell::Until;
use super::{Action, Event};
use crate::config::{Config, load_text};
use crate::control::ConnId;
use crate::control::counters::HookCounter;
use crate::events;
use braidcast_media::StreamKey;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// A server, and what it was sent: each request's event id and body.
struct Server {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<(String, serde_json::Value)>>>,
}

impl Server {
    /// `answer` has the connection when the request was read; it is told how many came before.
    fn start(answer: impl Fn(&mut TcpStream, usize) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (keep, answer) = (Arc::clone(&heard), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (Ok(mut stream), keep, answer) = (stream, Arc::clone(&keep), Arc::clone(&answer)) else { return };
                std::thread::spawn(move || {
                    let Some(request) = read(&stream) else { return };
                    let before = {
                        let mut heard = keep.lock().unwrap();
                        heard.push(request);
                        heard.len() - 1
                    };
                    answer(&mut stream, before);
                });
            }
        });
        Self { address, heard }
    }

    fn says(status: u16, body: &'static str) -> Self {
        Self::start(move |stream, _| say(stream, status, body))
    }

    fn ids(&self) -> Vec<String> {
        self.heard.lock().unwrap().iter().map(|(id, _)| id.clone()).collect()
    }
}

fn read(stream: &TcpStream) -> Option<(String, serde_json::Value)> {
    let mut reader = BufReader::new(stream);
    let (mut id, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        match line.trim_end().split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("braidcast-event-id") => id = value.to_owned(),
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = value.parse().ok()?,
            _ => {}
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((id, serde_json::from_slice(&body).ok()?))
}

fn say(stream: &mut TcpStream, status: u16, body: &str) {
    let _ = write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
}

fn config(hooks: &str) -> Config {
    load_text(Path::new("b.toml"), hooks).unwrap_or_else(|problems| panic!("{problems}")).config
}

fn shared_dir() -> tempfile::TempDir {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    std::fs::create_dir(directory.path().join("attendants")).unwrap();
    directory
}

fn open(config: Config, shared_dir: &Path) -> Arc<Hooks> {
    Arc::new(Hooks::open(config, Names::default(), Arc::new(Caller::new().0), shared_dir).unwrap())
}

fn counted(hooks: &Hooks, hook: usize, counter: HookCounter) -> u64 {
    hooks.page().counter(hook, counter).load(Relaxed)
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn question(stream: &str) -> Event {
    event(Action::Publish, stream, 1)
}

#[tokio::test]
async fn every_kind_of_answer_is_what_the_configuration_says() {
    let endless = Server::start(|stream, _| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        while stream.write_all(b"4\r\n0000\r\n").is_ok() {}
    });
    let endless_head = Server::start(|stream, _| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n");
        while stream.write_all(b"X: y\r\n").is_ok() {}
    });
    let closing = Server::start(|_, _| {});
    let rubbish = Server::start(|stream, _| _ = stream.write_all(b"\x16\x03\x01 no HTTP at all\r\n\r\n"));
    let silent = Server::start(|_, _| std::thread::sleep(Duration::from_secs(30)));
    let slow_drip = Server::start(|stream, _| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n");
        while stream.write_all(b"0").is_ok() {
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let round_and_round = Server::start(|stream, _| {
        let _ = stream.write_all(b"HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n");
    });
    let unclosed = Server::start(|stream, _| {
        let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n{\"code\":0}");
    });
    let dead = { TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap() };
    let (yes, no, wrong, broken) =
        (Server::says(201, "0\n"), Server::says(200, "{\"code\":7,\"msg\":\"no\"}"), Server::says(200, "fine"), Server::says(500, "0"));
    // Who it is, whether it allows, and whether it gives an answer at all.
    let servers = [
        (yes.address, true, true),
        (unclosed.address, true, true),
        (no.address, false, true),
        (wrong.address, false, false),
        (broken.address, false, false),
        (endless.address, false, false),
        (endless_head.address, false, false),
        (closing.address, false, false),
        (rubbish.address, false, false),
        (silent.address, false, false),
        (slow_drip.address, false, false),
        (round_and_round.address, false, false),
        (dead, false, false),
    ];
    for (address, allows, answers) in servers {
        for on_error in ["refuse", "allow"] {
            let directory = shared_dir();
            let text =
                format!("[[hook]]\nevents = 'on_publish'\nurl = 'http://{address}/x?t=1'\ntimeout = '300ms'\non_error = '{on_error}'");
            let hooks = open(config(&text), directory.path());
            let begun = Instant::now();
            let verdict = hooks.decide(&question("x")).await;
            assert!(begun.elapsed() < Duration::from_secs(3), "{address} took {:?}", begun.elapsed());
            let expected = allows || (!answers && on_error == "allow");
            assert_eq!(verdict.allow, expected, "{address} {on_error} {verdict:?}");
            let counters =
                [HookCounter::Calls, HookCounter::Failures, HookCounter::Refused, HookCounter::AllowedOnError, HookCounter::RefusedOnError];
            let expected = [
                1,
                !answers as u64,
                (answers && !allows) as u64,
                (!answers && on_error == "allow") as u64,
                (!answers && on_error == "refuse") as u64,
            ];
            assert_eq!(counters.map(|counter| counted(&hooks, 0, counter)), expected, "{address} {on_error}");
        }
    }
    let heard = yes.heard.lock().unwrap();
    assert_eq!((heard[0].0.as_str(), &heard[0].1["stream"], &heard[0].1["ip"]), ("1", &"x".into(), &"192.0.2.7".into()));
    assert_eq!(round_and_round.heard.lock().unwrap().len(), 2, "redirections are not followed");
}

#[tokio::test]
async fn the_first_that_refuses_decides_and_a_dead_server_is_not_waited_for_again_and_again() {
    let (yes, no, never) = (Server::says(200, "0"), Server::says(403, ""), Server::says(200, "0"));
    let silent = Server::start(|_, _| std::thread::sleep(Duration::from_secs(30)));
    let directory = shared_dir();
    let hook = |address: SocketAddr, streams: &str, on_error: &str| {
        format!(
            "[[hook]]\nevents = ['on_publish']\nurl = 'http://{address}'\nstreams = '{streams}'\ntimeout = '200ms'\non_error = '{on_error}'\n"
        )
    };
    let text = [
        hook(yes.address, "**", "refuse"),
        hook(silent.address, "live/slow", "allow"),
        hook(no.address, "live/no", "refuse"),
        hook(never.address, "live/no", "refuse"),
    ];
    let hooks = open(config(&text.concat()), directory.path());
    let refused = hooks.decide(&question("no")).await;
    assert_eq!(refused, Verdict { allow: false, forward: Vec::new(), why: "HTTP 403".into() });
    assert_eq!((yes.ids().len(), no.ids().len(), never.ids().len()), (1, 1, 0));
    let begun = Instant::now();
    for _ in 0..40 {
        assert!(hooks.decide(&question("slow")).await.allow);
    }
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}: each waits for a server that is known to be dead", begun.elapsed());
    assert_eq!((counted(&hooks, 1, HookCounter::AllowedOnError), counted(&hooks, 1, HookCounter::Resting)), (40, 1));
    assert!(counted(&hooks, 1, HookCounter::Timeouts) < 10 && silent.ids().len() < 10);
}

#[tokio::test]
async fn urls_to_forward_to_come_from_all_hooks_and_no_answer_refuses_the_stream() {
    let (one, no) = (Server::says(200, r#"{"code":0,"data":{"urls":["rtmp://a/b/c","rtmp://d/e/f"]}}"#), Server::says(200, "1"));
    let directory = shared_dir();
    let text = [one.address, no.address].map(|address| format!("[[hook]]\nevents = 'on_forward'\nurl = 'http://{address}'\n"));
    let hooks = open(config(&text.concat()), directory.path());
    let verdict = hooks.decide(&event(Action::Forward, "x", 1)).await;
    assert_eq!((verdict.allow, verdict.forward.len()), (true, 2));
}

struct Log(events::Writer);

impl Log {
    fn open(shared_dir: &Path) -> Self {
        let mut log = Self(events::Writer::open(shared_dir).unwrap());
        log.0.append(&events::Event::new(events::Kind::FrontStarted)).unwrap();
        log
    }

    fn stop(&mut self, stream: &str) -> String {
        let key = StreamKey::new("v.example", "live", stream).unwrap();
        self.0.append(&events::Event::new(events::Kind::Stop).conn(ConnId(9)).of_stream(&key)).unwrap().to_string()
    }
}

fn telling(hooks: &Arc<Hooks>) -> (watch::Sender<Until>, tokio::task::JoinHandle<()>) {
    let (until, wanted) = watch::channel(Until::Further);
    let hooks = Arc::clone(hooks);
    (until, tokio::spawn(async move { hooks.tell(wanted).await }))
}

fn on_stop(address: SocketAddr, more: &str) -> String {
    format!("[[hook]]\nevents = 'on_stop'\nurl = 'http://{address}'\n{more}\n")
}

#[tokio::test]
async fn a_stream_is_told_in_order_and_what_fails_is_repeated_until_it_is_given_up() {
    // Every second call fails, and everything of "lost".
    let server = Server::start(|stream, before| say(stream, if before % 2 == 0 { 500 } else { 200 }, "0"));
    let directory = shared_dir();
    let mut log = Log::open(directory.path());
    let hooks = open(config(&format!("[hooks]\nretry_max = '100ms'\n{}", on_stop(server.address, "retries = 9"))), directory.path());
    let ids: Vec<String> = (0..20).map(|_| log.stop("x")).collect();
    let (until, told) = telling(&hooks);
    eventually("all are told", || counted(&hooks, 0, HookCounter::Delivered) == 20).await;
    let mut heard = server.ids();
    assert!(heard.len() > 20 && counted(&hooks, 0, HookCounter::Retries) as usize == heard.len() - 20);
    heard.dedup();
    assert_eq!(heard, ids, "in order, a repetition right after what it repeats");
    until.send(Until::Now).unwrap();
    told.await.unwrap();
    let dead = Server::says(503, "");
    let hooks = open(config(&format!("[hooks]\nretry_max = '100ms'\n{}", on_stop(dead.address, "retries = 2"))), directory.path());
    let (until, told) = telling(&hooks);
    let lost = log.stop("x");
    eventually("it is given up", || counted(&hooks, 0, HookCounter::GivenUp) == 1).await;
    assert_eq!(dead.ids(), vec![lost; 3]);
    until.send(Until::Now).unwrap();
    told.await.unwrap();
}

#[tokio::test]
async fn a_dead_server_holds_up_no_other_and_loses_what_there_is_no_room_for() {
    let dead = { TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap() };
    let good = Server::says(200, "0");
    let directory = shared_dir();
    let mut log = Log::open(directory.path());
    let limits = "[hooks]\nqueue = 60\nqueue_per_hook = 40\n";
    let hooks = open(config(&format!("{limits}{}{}", on_stop(dead, ""), on_stop(good.address, ""))), directory.path());
    let (_until, _told) = telling(&hooks);
    for round in 1..=10 {
        (0..10).for_each(|stream| _ = log.stop(&stream.to_string()));
        eventually("the good one is told", || counted(&hooks, 1, HookCounter::Delivered) == round * 10).await;
    }
    eventually("the others are lost", || counted(&hooks, 0, HookCounter::Dropped) == 60).await;
    assert_eq!((counted(&hooks, 1, HookCounter::Dropped), counted(&hooks, 0, HookCounter::Waiting)), (0, 40));
    assert_eq!(counted(&hooks, 0, HookCounter::Resting), 1);
}

#[tokio::test]
async fn who_comes_after_a_death_loses_nothing_and_repeats_only_what_was_under_way() {
    let (gate, opened) = std::sync::mpsc::channel::<()>();
    let opened = Mutex::new(opened);
    let server = Server::start(move |stream, before| {
        // From the sixth call on nothing is answered until the gate opens.
        if before >= 5 {
            let _ = opened.lock().unwrap().recv();
        }
        say(stream, 200, "0");
    });
    let directory = shared_dir();
    let mut log = Log::open(directory.path());
    let text = on_stop(server.address, "timeout = '20s'");
    let first = open(config(&text), directory.path());
    let (_until, told) = telling(&first);
    let mut ids: Vec<String> = (0..10).map(|_| log.stop("x")).collect();
    eventually("the sixth is under way", || server.ids().len() == 6).await;
    eventually("five are written down", || {
        let position = std::fs::read_to_string(directory.path().join("attendants/hooks.position")).unwrap_or_default();
        position.split_whitespace().any(|word| word == ids[5]) && !position.split_whitespace().any(|word| word == ids[4])
    })
    .await;
    // As if killed: nothing is said any more.
    told.abort();
    ids.push(log.stop("y"));
    drop(gate);
    let second = open(config(&text), directory.path());
    let (_until, _told) = telling(&second);
    eventually("all are told", || counted(&second, 0, HookCounter::Delivered) == 12).await;
    let mut heard = server.ids();
    let under_way = heard.iter().filter(|id| **id == ids[5]).count();
    assert_eq!(under_way, 2, "what was under way is told once more");
    heard.sort_by_key(|id| id.parse::<u64>().unwrap());
    heard.dedup();
    assert_eq!((heard, server.ids().len()), (ids, 12));
}

#[tokio::test]
async fn a_question_comes_after_what_was_before_it() {
    let server = Server::start(|stream, before| {
        std::thread::sleep(Duration::from_millis(if before == 0 { 200 } else { 0 }));
        say(stream, 200, "0");
    });
    let directory = shared_dir();
    let mut log = Log::open(directory.path());
    let text = format!("[[hook]]\nevents = ['on_stop', 'on_publish']\nurl = 'http://{}'", server.address);
    let hooks = open(config(&text), directory.path());
    let (_until, _told) = telling(&hooks);
    eventually("it reads the log", || directory.path().join("attendants/hooks.position").exists()).await;
    let before = log.stop("x");
    let key = StreamKey::new("v.example", "live", "x").unwrap();
    assert!(hooks.decide(&Event { key, id: "asked".into(), ..question("x") }).await.allow);
    assert_eq!(server.ids(), [before, "asked".to_owned()]);
    assert_eq!(counted(&hooks, 0, HookCounter::Delivered), 1);
}
