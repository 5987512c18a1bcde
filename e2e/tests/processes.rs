//! Ends of processes, orderly and not: what a terminal sends, workers that hang, a front that is killed and started again.

use anyhow::{Context, Result, ensure};
use braidcast_e2e::media;
use braidcast_e2e::rtmp::Pump;
use braidcast_e2e::server::{alive, signal, signal_group};
use braidcast_e2e::tools::{eventually, http_get};
use braidcast_e2e::{Server, ServerOptions, Viewer};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

fn worker_pids(server: &Server) -> Result<Vec<u32>> {
    (1..=2).map(|id| server.worker_pid(id)).collect()
}

/// The number of the newest segment.
fn newest_segment(server: &Server, name: &str) -> Option<u64> {
    server.stream(name).ok()??["segment"].as_u64()
}

fn wait_segment(server: &Server, name: &str, least: u64) -> Result<u64> {
    eventually(PATIENCE, || newest_segment(server, name).filter(|number| *number >= least))
        .with_context(|| format!("segment {least} did not come: {:?}", server.stream(name)))
}

#[test]
fn ctrl_c_ends_everything_in_order() -> Result<()> {
    let options = ServerOptions::workers(2).set("server.stop_grace=60s");
    let mut server = Server::start(ServerOptions { own_group: true, ..options })?;
    let mut publisher = media::publish_live(&server.rtmp("x"))?;
    server.wait_live("x")?;
    let viewer = Viewer::flv(server.address("http"), "live/x.flv")?;
    viewer.wait_more(10)?;
    let workers = worker_pids(&server)?;
    let started = Instant::now();
    signal_group(server.pid(), "INT")?;
    ensure!(server.wait_end()?.success(), "the front's exit status");
    ensure!(started.elapsed() < Duration::from_secs(4), "peers that go when they are told were waited for: {:?}", started.elapsed());
    ensure!(workers.iter().all(|pid| !alive(*pid)), "a worker is left");
    ensure!(server.log_text().contains("ended in order"), "{}", server.log_text());
    publisher.wait(PATIENCE)?;
    eventually(PATIENCE, || viewer.is_over().then_some(())).context("the viewer was not closed")?;
    ensure!(!server.stream_dir("x").join("log").exists(), "logs mean nothing to the next instance, and this one is left");
    Ok(())
}

#[test]
fn a_worker_that_hangs_does_not_hold_up_the_end() -> Result<()> {
    let mut server = Server::start(ServerOptions::workers(2).set("server.stop_grace=1s"))?;
    let workers = worker_pids(&server)?;
    signal(workers[0], "STOP")?;
    let started = Instant::now();
    ensure!(server.stop()?.success(), "the front's exit status");
    ensure!(started.elapsed() >= Duration::from_secs(1), "it did not wait for stop_grace");
    ensure!(workers.iter().all(|pid| !alive(*pid)), "a worker is left");
    ensure!(server.log_text().contains("killing it"), "{}", server.log_text());
    Ok(())
}

#[test]
fn a_second_request_ends_at_once() -> Result<()> {
    let mut server = Server::start(ServerOptions::workers(2).set("server.stop_grace=120s"))?;
    let workers = worker_pids(&server)?;
    signal(workers[0], "STOP")?;
    signal(server.pid(), "TERM")?;
    server.wait_log(&["ending in order"])?;
    signal(server.pid(), "TERM")?;
    server.wait_end()?;
    ensure!(workers.iter().all(|pid| !alive(*pid)), "a worker is left");
    Ok(())
}

#[test]
fn a_killed_front_is_started_again_while_its_workers_live() -> Result<()> {
    let options = || ServerOptions::workers(2).set("hls.fragment=1s");
    let mut first = Server::start(options())?;
    let publisher = media::publish_live(&first.rtmp("x"))?;
    first.wait_live("x")?;
    let viewer = Viewer::flv(first.address("http"), "live/x.flv")?;
    viewer.wait_more(10)?;
    let before = wait_segment(&first, "x", 2)?;
    let workers = worker_pids(&first)?;
    signal(first.pid(), "KILL")?;
    first.wait_end()?;
    ensure!(first.status()?["instance"]["state"] == "lost", "{:?}", first.status());
    // Nobody notices for now: the stream and its segments go on.
    viewer.wait_more(25)?;
    wait_segment(&first, "x", before + 1)?;

    // The next front takes over what the workers have: the same connections, on the same addresses.
    let second = Server::start(ServerOptions { reuse: Some((first.shared_dir.clone(), first.state_dir.clone())), ..options() })?;
    ensure!(workers == worker_pids(&second)?, "the workers are others");
    ensure!(second.ready == first.ready, "the addresses are others: {} and {}", second.ready, first.ready);
    viewer.wait_more(25)?;
    let last = newest_segment(&second, "x").context("the segments are gone")?;
    ensure!(last > before, "segments were lost: {last}, {before} was there");
    let index = http_get(&second.http("live/x.m3u8"))?.text();
    ensure!(index.contains("2.ts") && !index.contains("DISCONTINUITY\n"), "{index}");

    // A publisher that comes back, and viewers that come now.
    drop(publisher);
    let _publisher = media::publish_live(&second.rtmp("x"))?;
    second.wait_live("x")?;
    for viewer in [viewer, Viewer::flv(second.address("http"), "live/x.flv")?, Viewer::rtmp(&second.rtmp("x"))?] {
        viewer.wait_more(20)?;
        viewer.end()?;
    }
    wait_segment(&second, "x", last + 2)?;
    let mut numbers: Vec<u64> = std::fs::read_dir(second.stream_dir("x").join("hls"))?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_suffix(".ts")?.parse().ok())
        .collect();
    numbers.sort_unstable();
    ensure!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1) && numbers[0] == 1, "a number is missing: {numbers:?}");
    Ok(())
}

#[test]
fn a_front_that_is_killed_again_and_again_keeps_its_workers_and_then_ends_them() -> Result<()> {
    let mut server = Server::start(ServerOptions::workers(2))?;
    let workers = worker_pids(&server)?;
    let _pump = Pump::start(&server.rtmp("x"), "x")?;
    server.wait_live("x")?;
    let viewer = Viewer::flv(server.address("http"), "live/x.flv")?;
    for _ in 0..3 {
        server.replace_front()?;
        ensure!(worker_pids(&server)? == workers, "the workers are others");
        viewer.wait_more(20)?;
    }
    ensure!(server.stop()?.success(), "the front's exit status");
    ensure!(workers.iter().all(|pid| !alive(*pid)), "a worker is left");
    Ok(())
}

#[test]
fn connections_wait_for_a_front_that_comes_back() -> Result<()> {
    let mut server = Server::start(ServerOptions::workers(1))?;
    let front = server.pid();
    signal(front, "KILL")?;
    server.wait_end()?;
    // Nobody accepts it, nobody refuses it.
    let mut waiting = TcpStream::connect(server.address("http"))?;
    write!(waiting, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    waiting.set_read_timeout(Some(Duration::from_millis(300)))?;
    ensure!(waiting.read(&mut [0; 64]).is_err(), "somebody answered without a front");
    server.start_front()?;
    waiting.set_read_timeout(Some(PATIENCE))?;
    let mut answer = String::new();
    waiting.read_to_string(&mut answer)?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    Ok(())
}

#[test]
fn a_crash_loop_is_told_from_bad_luck() -> Result<()> {
    // Every worker dies of the first record that it writes, whoever sent it.
    let options = ServerOptions { faults: true, ..ServerOptions::workers(2) };
    let server = Server::start(options.environment("BRAIDCAST_KILL_POINT", "written:1"))?;
    let _publisher = media::publish_live(&server.rtmp("x"))?;
    let looping = || (1..=2).any(|id| server.worker(id).is_ok_and(|row| row["state"] == "crash-loop"));
    eventually(PATIENCE, || looping().then_some(())).with_context(|| format!("no crash loop is seen:\n{}", server.log_text()))?;
    server.wait_log(&["dies again and again", "not of what a client sends"])?;
    ensure!(server.front_counter("poisoned") == 0, "somebody was blamed:\n{}", server.log_text());
    Ok(())
}
