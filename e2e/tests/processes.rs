//! Ends of processes, orderly and not: what a terminal sends, workers that hang, a front that is killed and started again.

use anyhow::{Context, Result, ensure};
use braidcast_e2e::media;
use braidcast_e2e::rtmp::Pump;
use braidcast_e2e::server::{alive, signal, signal_group};
use braidcast_e2e::tools::{eventually, http_get};
use braidcast_e2e::{Server, ServerOptions, Viewer};
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

    // The next front ends the old workers, and takes their streams over.
    let second = Server::start(ServerOptions { reuse: Some((first.shared_dir.clone(), first.state_dir.clone())), ..options() })?;
    ensure!(workers.iter().all(|pid| !alive(*pid)), "an old worker is left");
    eventually(PATIENCE, || viewer.is_over().then_some(())).context("a viewer of an old worker hangs")?;
    drop(publisher);
    let last = newest_segment(&second, "x").context("the segments are gone")?;
    ensure!(last > before, "segments were lost: {last}, {before} was there");
    let index = http_get(&second.http("live/x.m3u8"))?.text();
    ensure!(index.contains("2.ts"), "{index}");

    let _publisher = media::publish_live(&second.rtmp("x"))?;
    second.wait_live("x")?;
    let viewers = [Viewer::flv(second.address("http"), "live/x.flv")?, Viewer::rtmp(&second.rtmp("x"))?];
    for viewer in viewers {
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
fn a_front_that_is_killed_again_and_again_leaves_no_worker_behind() -> Result<()> {
    let mut first = Server::start(ServerOptions::workers(2))?;
    let reuse = Some((first.shared_dir.clone(), first.state_dir.clone()));
    let mut workers = worker_pids(&first)?;
    signal(first.pid(), "KILL")?;
    first.wait_end()?;
    for _ in 0..3 {
        let mut next = Server::start(ServerOptions { reuse: reuse.clone(), ..ServerOptions::workers(2) })?;
        let _pump = Pump::start(&next.rtmp("x"), "x")?;
        next.wait_live("x")?;
        ensure!(workers.iter().all(|pid| !alive(*pid)), "an old worker is left");
        workers = worker_pids(&next)?;
        signal(next.pid(), "KILL")?;
        next.wait_end()?;
    }
    Ok(())
}
