//! What HTTP players and browsers ask for, and what those are told who ask for nothing that there is.

use anyhow::{Context, Result, ensure};
use braidcast_e2e::media;
use braidcast_e2e::rtmp::{Pump, RtmpClient};
use braidcast_e2e::tools::{Answer, eventually, http, http_get};
use braidcast_e2e::{Server, ServerOptions};
use braidcast_protocols::rtmp::{ClientOutput, ClientRole};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);
/// What the servers of these tests wait, less what clocks in whole milliseconds may differ.
const PLAY_WAIT: Duration = Duration::from_millis(995);

fn has_fields(answer: &Answer, fields: &[&str]) -> Result<()> {
    for field in fields {
        ensure!(answer.head.lines().any(|line| line.eq_ignore_ascii_case(field)), "no {field} in {}", answer.head);
    }
    Ok(())
}

#[test]
fn browsers_of_other_sites_may_play() -> Result<()> {
    let server = Server::start(ServerOptions::workers(2).set("hls.fragment=1s"))?;
    let _publisher = media::publish_live(&server.rtmp("x"))?;
    eventually(PATIENCE, || http_get(&server.http("live/x/1.ts")).ok().filter(|answer| answer.status == 200)).context("no segment")?;
    for path in ["live/x.flv", "live/x.m3u8", "live/x/index.m3u8", "live/x/1.ts"] {
        let head = http("HEAD", &server.http(path))?;
        ensure!(head.status == 200 && head.body.is_empty(), "{path}: {}", head.head);
        has_fields(&head, &["Access-Control-Allow-Origin: *"]).context(path)?;
        let asked = http("OPTIONS", &server.http(path))?;
        ensure!(matches!(asked.status, 200 | 204) && asked.body.is_empty(), "{path}: {}", asked.head);
        has_fields(&asked, &["Access-Control-Allow-Origin: *"]).context(path)?;
        let allows = asked.head.lines().find(|line| line.starts_with("Access-Control-Allow-Methods:"));
        ensure!(allows.is_some_and(|line| line.contains("GET") && line.contains("HEAD")), "{path}: {}", asked.head);
        ensure!(asked.head.contains("Access-Control-Allow-Headers:"), "{path}: {}", asked.head);
        let wrong = http("DELETE", &server.http(path))?;
        ensure!(wrong.status == 405 || wrong.status == 400, "{path}: {}", wrong.head);
    }
    // What GET says HEAD says too, with the length.
    let (head, whole) = (http("HEAD", &server.http("live/x/1.ts"))?, http_get(&server.http("live/x/1.ts"))?);
    has_fields(&head, &[&format!("Content-Length: {}", whole.body.len()), "Content-Type: video/mp2t"])?;
    Ok(())
}

/// Reads one answer of a connection that is kept: head, then as many bytes as it says.
fn kept_answer(stream: &mut TcpStream, request: &str) -> Result<Answer> {
    write!(stream, "{request}\r\nHost: x\r\n\r\n")?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).context("no status")?;
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")?.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok(Answer { status, head, body })
}

#[test]
fn one_connection_asks_for_index_segments_and_then_the_live_stream() -> Result<()> {
    let server = Server::start(ServerOptions::workers(2).set("hls.fragment=1s"))?;
    let _publisher = media::publish_live(&server.rtmp("x"))?;
    eventually(PATIENCE, || http_get(&server.http("live/x/1.ts")).ok().filter(|answer| answer.status == 200)).context("no segment")?;
    let mut stream = TcpStream::connect(server.address("http"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let index = kept_answer(&mut stream, "GET /live/x.m3u8 HTTP/1.1")?;
    ensure!(index.status == 200 && index.text().contains("1.ts"), "{}", index.text());
    let whole = kept_answer(&mut stream, "GET /live/x/1.ts HTTP/1.1")?;
    ensure!(whole.status == 200 && whole.body.len() % 188 == 0, "{}", whole.head);
    let part = kept_answer(&mut stream, "GET /live/x/1.ts HTTP/1.1\r\nRange: bytes=188-375")?;
    ensure!(part.status == 206 && part.body == whole.body[188..376], "{}", part.head);
    let missing = kept_answer(&mut stream, "GET /live/x/999999.ts HTTP/1.1")?;
    ensure!(missing.status == 404, "{}", missing.head);
    write!(stream, "GET /live/x.flv HTTP/1.1\r\nHost: x\r\n\r\n")?;
    braidcast_e2e::viewer::check_flv(&mut stream, 20)
}

#[test]
fn who_plays_nothing_is_told_so_after_play_wait() -> Result<()> {
    let server = Server::start(ServerOptions::workers(2).set("play.play_wait=1s"))?;
    let _pump = Pump::start(&server.rtmp("x"), "x")?;
    // Many at once, so that some are moved to the other worker before they wait.
    let paths: Vec<String> = (0..6).flat_map(|n| [format!("live/none{n}.flv"), format!("live/none{n}.m3u8")]).collect();
    std::thread::scope(|scope| {
        let asked: Vec<_> = paths
            .iter()
            .map(|path| {
                let url = server.http(path);
                scope.spawn(move || -> Result<()> {
                    let started = Instant::now();
                    let answer = http_get(&url)?;
                    ensure!(answer.status == 404 && started.elapsed() >= PLAY_WAIT, "{url}: {} in {:?}", answer.head, started.elapsed());
                    has_fields(&answer, &["Access-Control-Allow-Origin: *"]).context(url)
                })
            })
            .collect();
        let by_rtmp: Vec<_> = (0..6)
            .map(|n| {
                let url = server.rtmp(&format!("nothing{n}"));
                scope.spawn(move || -> Result<()> {
                    let started = Instant::now();
                    let mut client = RtmpClient::connect(&url, ClientRole::Play)?;
                    let said = client.wait(|output| matches!(output, ClientOutput::Started | ClientOutput::Refused { .. }))?;
                    let refused = matches!(&said, ClientOutput::Refused { code, .. } if code == "NetStream.Play.StreamNotFound");
                    ensure!(refused && started.elapsed() >= PLAY_WAIT, "{url}: {said:?} in {:?}", started.elapsed());
                    Ok(())
                })
            })
            .collect();
        asked.into_iter().chain(by_rtmp).try_for_each(|thread| thread.join().expect("no panic"))
    })?;
    server.wait_workers_counter("play_wait_timeouts", 18)?;
    // A segment is there or it is not: nobody waits for it.
    let started = Instant::now();
    ensure!(http_get(&server.http("live/none/1.ts"))?.status == 404 && started.elapsed() < PLAY_WAIT, "a segment was waited for");
    Ok(())
}
