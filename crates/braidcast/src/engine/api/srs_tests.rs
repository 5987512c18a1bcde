//! Two real SRS processes, if `SRS_BINARY` names one: what they answer now, not when it was captured.
#![allow(clippy::unwrap_used)]

use super::relay_tests::{ask, body, next, relay};
use super::{Method, Watch};
use braidcast_sys::child::spawn_dependent;
use serde_json::json;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);

struct Srs {
    process: Child,
    api: SocketAddr,
    http: SocketAddr,
    _directory: tempfile::TempDir,
}

impl Drop for Srs {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn start(binary: &str) -> Srs {
    let directory = tempfile::tempdir().unwrap();
    let ports = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [rtmp, api, http] = ports.each_ref().map(|port| port.local_addr().unwrap());
    drop(ports);
    let path = directory.path().display();
    let file = directory.path().join("srs.conf");
    let text = format!(
        "listen {rtmp}; max_connections 100; daemon off; srs_log_tank console; pid {path}/srs.pid;\n\
         http_api {{ enabled on; listen {api}; }}\nhttp_server {{ enabled on; listen {http}; dir {path}; }}\n\
         vhost __defaultVhost__ {{ http_remux {{ enabled on; mount [vhost]/[app]/[stream].flv; }} }}\n"
    );
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new(binary);
    command.arg("-c").arg(&file).current_dir(&directory).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let srs = Srs { process: spawn_dependent(command).unwrap(), api, http, _directory: directory };
    // Until then its ports might be given to another.
    until("it listens", || TcpStream::connect(srs.http).and(TcpStream::connect(srs.api)).ok());
    srs
}

/// Looks until it is so.
fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(begun.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A viewer of a stream that nobody publishes: SRS has it wait.
fn view(srs: &Srs, stream: &str) -> TcpStream {
    let mut viewer = TcpStream::connect(srs.http).unwrap();
    write!(viewer, "GET /live/{stream}.flv HTTP/1.1\r\nHost: {}\r\n\r\n", srs.http).unwrap();
    viewer
}

#[test]
fn two_real_srs_are_one_api_and_a_viewer_of_either_can_be_ended() {
    let Ok(binary) = std::env::var("SRS_BINARY") else {
        println!("skipped: SRS_BINARY does not name an SRS");
        return;
    };
    let srs = [start(&binary), start(&binary)];
    let processes = [(1, srs[0].api), (2, srs[1].api)];
    let mut relay = relay();
    let mut get = |target: &str| body(&ask(&mut relay, Method::Get, target, &processes));
    until("both answer", || {
        get("/api/v1/versions").get("data").zip(get("/api/v1/versions").get("missing").is_none().then_some(())).map(drop)
    });
    let mut viewers = [view(&srs[0], "a"), view(&srs[1], "b"), view(&srs[1], "c")];
    let list = until("the viewers are listed", || {
        let clients = get("/api/v1/clients/")["clients"].take();
        (clients.as_array().unwrap().len() == 3).then_some(clients)
    });
    let vhosts = get("/api/v1/vhosts");
    assert_eq!((vhosts["vhosts"].as_array().unwrap().len(), &vhosts["vhosts"][0]["clients"]), (1, &json!(3)));
    let streams = get("/api/v1/streams?count=100");
    let mut names: Vec<_> = streams["streams"].as_array().unwrap().iter().map(|stream| stream["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    // What nobody has published has the name that the viewer said.
    assert_eq!(names, ["a.flv", "b.flv", "c.flv"]);
    for item in list.as_array().unwrap().iter().chain(streams["streams"].as_array().unwrap()) {
        assert_eq!(item["vhost"], vhosts["vhosts"][0]["id"]);
    }
    let summary = get("/api/v1/summaries");
    let [one, two] = [1, 2].map(|process| get(&format!("/api/v1/summaries?process={process}")));
    let memory = |body: &serde_json::Value| body["data"]["self"]["mem_kbyte"].as_u64().unwrap();
    assert!(memory(&summary) > memory(&one).max(memory(&two)), "{summary}");

    let c = list.as_array().unwrap().iter().find(|client| client["name"] == "c.flv").unwrap()["id"].as_str().unwrap();
    assert_eq!(get(&format!("/api/v1/clients/{c}"))["client"]["name"], json!("c.flv"));
    assert_eq!(get(&format!("/api/v1/clients/1:{c}")), json!({ "code": 2049 }));
    let ended = ask(&mut relay, Method::Delete, &format!("/api/v1/clients/{c}"), &processes);
    assert_eq!(body(&ended)["code"], json!(0));
    viewers[2].set_read_timeout(Some(PATIENCE)).unwrap();
    let mut piece = [0; 4096];
    let end = loop {
        match viewers[2].read(&mut piece) {
            Ok(1..) => {}
            end => break end.map_err(|error| error.kind()),
        }
    };
    assert!(matches!(end, Ok(0) | Err(ErrorKind::ConnectionReset)), "its connection ends: {end:?}");
    until("two are left", || {
        (body(&ask(&mut relay, Method::Get, "/api/v1/clients", &processes))["clients"].as_array()?.len() == 2).then_some(())
    });

    let mut watch = Watch::new(None).unwrap();
    assert!(watch.look(processes.to_vec()));
    for _ in 0..2 {
        let seen = next(&mut watch, Watch::poll);
        let load = seen.answered.unwrap();
        assert!(load.memory_kib > 1_000 && load.streams.iter().all(|stream| stream.vhost == "__defaultVhost__" && !stream.publishing));
    }
    drop(srs);
    assert_eq!(ask(&mut relay, Method::Get, "/api/v1/streams", &processes).status, 503);
}
