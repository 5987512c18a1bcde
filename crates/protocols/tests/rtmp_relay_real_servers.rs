//! Real encoders and players through the relay machine to real servers: nginx-rtmp, and SRS where `SRS_BINARY` says it is.
//!
//! The relay here is a toy: two threads a connection, which copy bytes once the machine is through. What is not installed is skipped,
//! loudly.
#![allow(clippy::unwrap_used)]

mod tools;

use braidcast_protocols::proxy::real_ip_prefix;
use braidcast_protocols::rtmp::{RelayOutput, RelaySession, RelaySettings};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tools::{file_media, frames, recording, run};

/// A program that is gone with its value.
struct Guarded(Child);

impl Guarded {
    fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server, with its directory.
struct Server {
    _process: Guarded,
    port: u16,
    folder: PathBuf,
    /// Whether it reads a prefix.
    real_ip: bool,
}

impl Drop for Server {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Server {
    fn start(name: &str, test: &str, real_ip: bool, command: impl FnOnce(&Path, u16) -> Command) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("relay-{name}-{test}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let port = free_port();
        let process = Guarded::start(&mut command(&folder, port));
        let server = Self { _process: process, port, folder, real_ip };
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "{name} does not listen");
            std::thread::yield_now();
        }
        server
    }

    fn nginx(test: &str) -> Option<Self> {
        let module = ["/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/usr/share/nginx/modules"];
        let module = module.map(|folder| format!("{folder}/ngx_rtmp_module.so")).into_iter().find(|module| Path::new(module).is_file());
        let Some(module) = module else {
            eprintln!("SKIPPED: nginx's RTMP module is not installed");
            return None;
        };
        Some(Self::start("nginx", test, false, |folder, port| {
            let config = format!(
                "load_module {module};\ndaemon off;\nmaster_process off;\npid nginx.pid;\nerror_log error.log;\nevents {{}}\n\
                 rtmp {{ server {{ listen 127.0.0.1:{port}; application live {{ live on; }} }} }}\n"
            );
            std::fs::write(folder.join("nginx.conf"), config).unwrap();
            let mut command = Command::new("nginx");
            command.arg("-p").arg(folder).arg("-c").arg(folder.join("nginx.conf")).args(["-e", "error.log"]);
            command
        }))
    }

    fn srs(test: &str) -> Option<Self> {
        let Some(binary) = std::env::var_os("SRS_BINARY") else {
            eprintln!("SKIPPED: SRS_BINARY does not say where SRS is");
            return None;
        };
        Some(Self::start("srs", test, true, |folder, port| {
            let config = format!(
                "listen 127.0.0.1:{port};\ndaemon off;\nmax_connections 100;\nsrs_log_tank file;\nsrs_log_file ./srs.log;\npid ./srs.pid;\n\
                 http_api {{ enabled off; }}\nhttp_server {{ enabled off; }}\nvhost __defaultVhost__ {{ }}\n"
            );
            std::fs::write(folder.join("srs.conf"), config).unwrap();
            let mut command = Command::new(binary);
            command.arg("-c").arg("srs.conf").current_dir(folder);
            command
        }))
    }
}

/// How often connections came through.
type Through = Arc<Mutex<usize>>;

/// Relays whoever comes to `server`; the port, and how many came through.
fn relay(server: &Server) -> (u16, Through) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let through = Through::default();
    let (server_port, real_ip, count) = (server.port, server.real_ip, through.clone());
    std::thread::spawn(move || {
        for (seed, client) in listener.incoming().enumerate() {
            let count = count.clone();
            std::thread::spawn(move || from_client(client.unwrap(), seed as u64, server_port, real_ip, count));
        }
    });
    (port, through)
}

/// Asks a client, connects it, and carries its bytes.
fn from_client(mut client: TcpStream, seed: u64, server_port: u16, real_ip: bool, count: Through) {
    let session = Arc::new(Mutex::new(RelaySession::new(RelaySettings::default(), seed, 0)));
    let mut server: Option<TcpStream> = None;
    let mut buffer = [0; 3001];
    while let Ok(read @ 1..) = client.read(&mut buffer) {
        let mut rest = &buffer[..read];
        while !rest.is_empty() {
            let mut relay = session.lock().unwrap();
            let used = relay.handle_client(rest, 0).unwrap();
            rest = &rest[used..];
            if let Some(RelayOutput::Publish(request) | RelayOutput::Play(request)) = relay.poll_output() {
                assert_eq!(request.params, "token=t1");
                let prefix = if real_ip { real_ip_prefix(client.peer_addr().unwrap().ip()) } else { Vec::new() };
                relay.begin(&prefix, 0);
                let connected = TcpStream::connect(("127.0.0.1", server_port)).unwrap();
                let ends = (connected.try_clone().unwrap(), client.try_clone().unwrap());
                let (session, count) = (session.clone(), count.clone());
                std::thread::spawn(move || from_server(ends.0, ends.1, &session, &count));
                server = Some(connected);
            }
            if exchange(&mut relay, &mut client, server.as_mut()).is_err() {
                return;
            }
        }
    }
    if let Some(server) = server {
        let _ = server.shutdown(Shutdown::Write);
    }
}

fn from_server(mut server: TcpStream, mut client: TcpStream, session: &Mutex<RelaySession>, count: &Through) {
    let mut buffer = [0; 2999];
    while let Ok(read @ 1..) = server.read(&mut buffer) {
        let mut relay = session.lock().unwrap();
        relay.handle_server(&buffer[..read]).unwrap();
        exchange(&mut relay, &mut client, Some(&mut server)).ok();
        if relay.is_through() {
            drop(relay);
            *count.lock().unwrap() += 1;
            let _ = std::io::copy(&mut server, &mut client);
            let _ = client.shutdown(Shutdown::Both);
            return;
        }
    }
    let mut relay = session.lock().unwrap();
    relay.server_closed();
    exchange(&mut relay, &mut client, None).ok();
    let _ = client.shutdown(Shutdown::Both);
}

fn exchange(relay: &mut RelaySession, client: &mut TcpStream, server: Option<&mut TcpStream>) -> std::io::Result<()> {
    client.write_all(&relay.take_client_outbox())?;
    server.map_or(Ok(()), |server| server.write_all(&relay.take_server_outbox()))
}

/// Publishes a recording through the relay at its own pace while players play it through the relay, and compares frames.
fn publish_and_play(name: &str, server: Option<Server>) {
    let Some(server) = server else { return };
    let Some((folder, file)) = recording(&format!("relay-{name}"), "5", &[]) else { return };
    let expected = file_media(&file);
    let expected = frames(&expected);
    let (port, through) = relay(&server);
    let file = file.to_str().unwrap();
    let location = format!("location={file}");
    let path = |ending: &str| folder.join(ending).to_str().unwrap().to_owned();
    let mut came = 0;
    for encoder in ["ffmpeg", "rtmpsink"] {
        let url = format!("rtmp://127.0.0.1:{port}/live/{encoder}?token=t1");
        let to = format!("location={url}");
        let direct = format!("rtmp://127.0.0.1:{}/live/{encoder}", server.port);
        let players = [
            ("ffmpeg", path("ffmpeg.flv"), url.clone()),
            ("rtmpdump", path("rtmpdump.flv"), url.clone()),
            ("signed", path("signed.flv"), url.clone()),
            ("direct", path("direct.flv"), direct),
        ];
        std::thread::scope(|scope| {
            for (player, to, url) in &players {
                scope.spawn(move || match *player {
                    "ffmpeg" | "direct" => run("ffmpeg", &["-v", "error", "-y", "-i", url, "-t", "2", "-c", "copy", to]),
                    "rtmpdump" => run_rtmpdump(&["-v", "-q", "-m", "6", "-r", url, "-B", "2", "-o", to]),
                    _ => run_rtmpdump(&["-v", "-q", "-m", "6", "-r", url, "-w", &"ab".repeat(32), "-x", "1000", "-B", "2", "-o", to]),
                });
            }
            scope.spawn(|| match encoder {
                "ffmpeg" => run("ffmpeg", &["-v", "error", "-re", "-i", file, "-c", "copy", "-f", "flv", &url]),
                _ => {
                    let words = ["-q", "-e", "filesrc", &location, "!", "flvdemux", "name=d", "flvmux", "streamable=true", "name=m"];
                    let links = ["d.video", "!", "queue", "!", "m.video", "d.audio", "!", "queue", "!", "m.audio"];
                    let sink = ["!", "rtmpsink", "sync=true", &to];
                    run("gst-launch-1.0", &[&words[..], &sink, &links].concat())
                }
            });
        });
        for (player, to, _) in &players {
            if !Path::new(to).is_file() {
                eprintln!("SKIPPED: {player} with {encoder}");
                continue;
            }
            let played = file_media(Path::new(to));
            let played = frames(&played);
            assert!(played.len() > 20, "{name}, {encoder}, {player}: {} frames", played.len());
            let begin = expected.iter().position(|frame| *frame == played[0]);
            let begin = begin.unwrap_or_else(|| panic!("{name}, {encoder}, {player}: an unknown frame"));
            assert!(expected[begin..].starts_with(&played), "{name}, {encoder}, {player}: frames differ");
            std::fs::remove_file(to).unwrap();
            came += usize::from(*player != "direct");
        }
        came += 1;
    }
    assert!(*through.lock().unwrap() >= came.min(4), "connections did not go through the relay");
    std::fs::remove_dir_all(folder).unwrap();
}

/// As [`run`]; it ends with 2 when nothing came for six seconds, which is how it notices that nginx-rtmp has no more.
fn run_rtmpdump(arguments: &[&str]) -> bool {
    let Ok(output) = Command::new("timeout").arg("60").arg("rtmpdump").args(arguments).output() else { return false };
    if output.status.code() == Some(127) {
        eprintln!("SKIPPED: rtmpdump is not installed");
        return false;
    }
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(matches!(output.status.code(), Some(0 | 2)), "rtmpdump {arguments:?}: {}\n{words}", output.status);
    true
}

#[test]
fn publishers_and_players_of_nginx_rtmp_are_relayed() {
    publish_and_play("nginx", Server::nginx("media"));
}

/// nginx-rtmp closes the connection when it does not know an app, and its client would not learn why.
#[test]
fn a_client_is_told_that_the_server_closed_the_connection() {
    let Some(server) = Server::nginx("closed") else { return };
    let (port, through) = relay(&server);
    let url = format!("rtmp://127.0.0.1:{port}/unknown/x?token=t1");
    let Ok(output) = Command::new("timeout").args(["30", "ffmpeg", "-v", "error", "-i", &url, "-f", "null", "-"]).output() else { return };
    if output.status.code() == Some(127) {
        eprintln!("SKIPPED: ffmpeg is not installed");
        return;
    }
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(words.contains("Server error: the server closed the connection"), "{words}");
    assert_eq!(*through.lock().unwrap(), 0);
}

#[test]
fn publishers_and_players_of_srs_are_relayed() {
    publish_and_play("srs", Server::srs("media"));
}
