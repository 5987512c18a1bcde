//! What a frame, a viewer, a connection and a request cost, in counts that do not depend on the machine's speed: system calls and bytes
//! copied. The bounds are what was counted when they were recorded, and some room. A worker that is late does more with one call, so a busy
//! machine lowers the counts, never raises them; where it does, waits are left out.

use anyhow::{Context, Result, ensure};
use braidcast_e2e::counts::{Judged, Trace};
use braidcast_e2e::rtmp::RtmpClient;
use braidcast_e2e::tools::{eventually, http_get};
use braidcast_e2e::{Server, ServerOptions, Viewer, paced};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);
const FRAME_BYTES: usize = 4_000;
const FRAMES: u64 = 100;

/// With one worker.
fn server(set: &[&str]) -> Result<Server> {
    Server::start(set.iter().fold(ServerOptions::workers(1).set("play.reconnect_grace=60s"), |options, key| options.set(key)))
}

fn publisher(server: &Server, name: &str) -> Result<RtmpClient> {
    paced::publisher(&server.rtmp(name))
}

fn push(publishers: &mut [RtmpClient], frames: std::ops::Range<u64>) -> Result<()> {
    paced::push(publishers, frames, FRAME_BYTES)
}

/// What a frame costs for each viewer that is sent it.
fn sent_to_viewers(what: &str, watch: impl Fn(&Server) -> Result<Viewer>, calls: f64) -> Result<()> {
    const VIEWERS: u64 = 20;
    const BEFORE: u64 = 55;
    let server = server(&["hls.enabled=false"])?;
    let mut publishers = [publisher(&server, "x")?];
    push(&mut publishers, 0..5)?;
    let viewers: Vec<Viewer> = (0..VIEWERS).map(|_| watch(&server)).collect::<Result<_>>()?;
    // What is done once for a viewer and a block is done by then.
    push(&mut publishers, 5..BEFORE)?;
    let have = |frames: u64| viewers.iter().all(|viewer| viewer.frames() >= frames).then_some(());
    eventually(PATIENCE, || have(BEFORE)).context("the viewers did not get what was there")?;
    let trace = Trace::start(server.worker_pid(1)?)?;
    push(&mut publishers, BEFORE..BEFORE + FRAMES)?;
    eventually(PATIENCE, || have(BEFORE + FRAMES)).context("the viewers did not get everything")?;
    Judged::new(what, &trace.stop()?, FRAMES * VIEWERS).calls(calls).verdict()
}

#[test]
fn a_frame_for_a_viewer_by_flv() -> Result<()> {
    let watch = |server: &Server| Viewer::flv(server.address("http"), "live/x.flv");
    sent_to_viewers("a frame for a viewer by HTTP-FLV", watch, 1.45)
}

#[test]
fn a_frame_for_a_viewer_by_rtmp() -> Result<()> {
    sent_to_viewers("a frame for a viewer by RTMP", |server| Viewer::rtmp(&server.rtmp("x")), 1.45)
}

/// What a published frame costs that nobody watches.
fn taken_in(what: &str, hls: bool, calls: f64, copies: f64) -> Result<()> {
    const PUBLISHERS: u64 = 8;
    let server = server(&[&format!("hls.enabled={hls}"), "hls.fragment=1s"])?;
    let mut publishers: Vec<RtmpClient> = (0..PUBLISHERS).map(|number| publisher(&server, &format!("x{number}"))).collect::<Result<_>>()?;
    push(&mut publishers, 0..55)?;
    let trace = Trace::start(server.worker_pid(1)?)?;
    let before = server.workers_counter("bytes_in");
    push(&mut publishers, 55..55 + FRAMES)?;
    let bytes = FRAMES * PUBLISHERS * FRAME_BYTES as u64;
    server.wait_workers_counter("bytes_in", before + bytes)?;
    Judged::new(what, &trace.stop()?, FRAMES * PUBLISHERS).calls_besides_waits(calls).copies(bytes, copies).verdict()
}

#[test]
fn a_published_frame() -> Result<()> {
    taken_in("a published frame", false, 0.7, 2.3)
}

#[test]
fn a_published_frame_with_hls() -> Result<()> {
    taken_in("a published frame with HLS", true, 1.2, 3.4)
}

/// One that watches until the first frame is there, and goes when what is returned is dropped.
fn visit(address: SocketAddr) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET /live/x.flv HTTP/1.1\r\nHost: x\r\n\r\n")?;
    let (mut got, mut piece) = (0, vec![0; 64 << 10]);
    while got < FRAME_BYTES {
        let read = stream.read(&mut piece)?;
        ensure!(read > 0, "closed after {got} bytes");
        got += read;
    }
    Ok(stream)
}

#[test]
fn a_viewer_that_comes_and_goes() -> Result<()> {
    const VISITS: u64 = 100;
    let server = server(&["hls.enabled=false"])?;
    let mut publishers = [publisher(&server, "x")?];
    push(&mut publishers, 0..55)?;
    // While somebody watches, the stream is not opened anew for each.
    let _stays = visit(server.address("http"))?;
    let (front, worker) = (Trace::start(server.pid())?, Trace::start(server.worker_pid(1)?)?);
    (0..VISITS).try_for_each(|_| visit(server.address("http")).map(drop))?;
    // Looked at seldom, by what costs the server nothing.
    let over = |server: &Server| (server.worker(1).ok()?["sessions"].as_u64()? <= 2).then_some(());
    eventually(PATIENCE, || over(&server)).context("the visitors' connections did not end")?;
    let (front, worker) = (front.stop()?, worker.stop()?);
    Judged::new("a viewer that comes and goes, for the front", &front, VISITS).calls(21.0).verdict()?;
    // 17, and four more for each that is gone before it was sent all that was there: how many are is up to how they are scheduled.
    Judged::new("a viewer that comes and goes, for a worker", &worker, VISITS).calls_besides_waits(21.5).verdict()
}

/// A stream with segments, and nothing that comes any more.
fn with_segments(server: &Server) -> Result<RtmpClient> {
    let mut publishers = [publisher(server, "x")?];
    push(&mut publishers, 0..160)?;
    let index = || http_get(&server.http("live/x.m3u8")).ok().filter(|answer| answer.status == 200 && answer.text().contains("2.ts"));
    eventually(PATIENCE, index).context("no index came")?;
    let [publisher] = publishers;
    Ok(publisher)
}

fn connect(server: &Server) -> Result<TcpStream> {
    let stream = TcpStream::connect(server.address("http"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn ask(stream: &mut TcpStream, path: &str) -> Result<()> {
    // In one piece, as clients do.
    Ok(stream.write_all(format!("GET /{path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes())?)
}

fn answer(stream: &mut TcpStream) -> Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head)?.to_ascii_lowercase();
    ensure!(head.starts_with("http/1.1 200"), "{head}");
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok()).context("no length")?;
    stream.read_exact(&mut vec![0; length])?;
    Ok(())
}

#[test]
fn a_request_for_hls() -> Result<()> {
    const REQUESTS: u64 = 100;
    let server = server(&["hls.fragment=1s"])?;
    let _publisher = with_segments(&server)?;
    let mut stream = connect(&server)?;
    for (what, path, calls) in [("a request for an index", "live/x.m3u8", 5.0), ("a request for a segment", "live/x/1.ts", 6.0)] {
        let mut once = || ask(&mut stream, path).and_then(|()| answer(&mut stream));
        once()?;
        let trace = Trace::start(server.worker_pid(1)?)?;
        (0..REQUESTS).try_for_each(|_| once())?;
        Judged::new(what, &trace.stop()?, REQUESTS).calls(calls).verdict()?;
    }
    Ok(())
}

/// Each asks once in a while, and not all at once: no wake-up for each of them.
#[test]
fn requests_of_many_for_hls() -> Result<()> {
    const CLIENTS: usize = 200;
    const GAP: Duration = Duration::from_millis(1);
    /// Answers that are under way: of more time than the server lets pass.
    const BEHIND: usize = 80;
    let server = server(&["hls.fragment=1s", "hls.read_pause=50ms"])?;
    let _publisher = with_segments(&server)?;
    let mut clients = (0..CLIENTS).map(|_| connect(&server)).collect::<Result<Vec<_>>>()?;
    let mut round = || -> Result<()> {
        for index in 0..CLIENTS + BEHIND {
            if let Some(client) = clients.get_mut(index) {
                ask(client, "live/x.m3u8")?;
                std::thread::sleep(GAP);
            }
            if let Some(client) = index.checked_sub(BEHIND).and_then(|asked| clients.get_mut(asked)) {
                answer(client)?;
            }
        }
        Ok(())
    };
    let gathered = || {
        let before = server.workers_counter("wake_ups");
        round().map(|()| (server.workers_counter("wake_ups") - before < CLIENTS as u64 / 4).then_some(())).transpose()
    };
    eventually(PATIENCE, gathered).context("each request has a wake-up of its own")??;
    let trace = Trace::start(server.worker_pid(1)?)?;
    round()?;
    Judged::new("one of many requests for an index", &trace.stop()?, CLIENTS as u64).calls(2.7).verdict()
}
