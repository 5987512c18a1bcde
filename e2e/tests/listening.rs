//! The front's doors: addresses, limits of descriptors, who is given what, and what happens when nobody can take it.

use anyhow::{Context, Result, ensure};
use braidcast_e2e::media;
use braidcast_e2e::rtmp::Pump;
use braidcast_e2e::server::{binary, signal};
use braidcast_e2e::tools::{eventually, has, http_get, run};
use braidcast_e2e::{Server, ServerOptions, Viewer};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

fn has_ipv6() -> bool {
    let there = TcpListener::bind("[::1]:0").is_ok();
    if !there {
        eprintln!("skipped: this machine has no IPv6 loopback address");
    }
    there
}

#[test]
fn ipv4_and_ipv6_are_served_alike() -> Result<()> {
    if !has_ipv6() {
        return Ok(());
    }
    let options = ["--rtmp", "--http", "--api"]
        .iter()
        .fold(ServerOptions::workers(2), |options, listener| options.argument(listener).argument("[::1]:0"));
    let server = Server::start(options)?;
    let six = |listener: &str| server.addresses(listener).into_iter().find(|address| address.is_ipv6()).context("no IPv6 address");
    let (rtmp, http, api) = (six("rtmp")?, six("http")?, six("api")?);
    let _publisher = media::publish_live(&format!("rtmp://{rtmp}/live/six"))?;
    let _pump = Pump::start(&server.rtmp("four"), "four")?;
    server.wait_live("six")?;
    // What was published by the one is watched by the other.
    let viewers = [
        Viewer::flv(http, "live/six.flv")?,
        Viewer::flv(http, "live/four.flv")?,
        Viewer::flv(server.address("http"), "live/six.flv")?,
        Viewer::rtmp(&format!("rtmp://{rtmp}/live/four"))?,
        Viewer::rtmp(&server.rtmp("six"))?,
    ];
    for viewer in viewers {
        viewer.wait_more(20)?;
        viewer.end()?;
    }
    ensure!(http_get(&format!("http://{api}/api/v1/versions"))?.status == 200, "the API by IPv6");
    // An address is no name: both are the default vhost.
    for name in ["six", "four"] {
        ensure!(server.stream(name)?.is_some_and(|stream| stream["vhost"] == "__defaultVhost__"), "{:?}", server.stream(name));
    }
    Ok(())
}

#[test]
fn a_port_alone_means_every_address() -> Result<()> {
    if !has_ipv6() {
        return Ok(());
    }
    let server = Server::start(ServerOptions::workers(1).argument("--http").argument("0"))?;
    let everywhere: Vec<_> = server.addresses("http").into_iter().filter(|address| address.ip().is_unspecified()).collect();
    let [four, six] = everywhere[..] else { anyhow::bail!("{everywhere:?}") };
    ensure!(four.is_ipv4() && six.is_ipv6() && four.port() == six.port(), "{everywhere:?}");
    for address in [format!("127.0.0.1:{}", four.port()), format!("[::1]:{}", six.port())] {
        ensure!(http_get(&format!("http://{address}/streams.json"))?.status == 200, "{address}");
    }
    Ok(())
}

#[test]
fn the_front_listens_and_workers_keep_the_sockets_for_the_next_one() -> Result<()> {
    if !has("ss") {
        eprintln!("skipped: there is no ss");
        return Ok(());
    }
    let server = Server::start(ServerOptions { sub_ports: true, ..ServerOptions::workers(2) })?;
    let output = run("ss", &["-ltnpH"], PATIENCE)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let owns = |pid: u32| text.lines().filter(|line| line.contains(&format!("pid={pid},"))).count();
    ensure!(owns(server.pid()) >= 5, "the front listens only {} times:\n{text}", owns(server.pid()));
    for worker in 1..=2 {
        ensure!(owns(server.worker_pid(worker)?) == owns(server.pid()), "worker {worker} keeps others:\n{text}");
    }
    Ok(())
}

#[test]
fn connections_go_to_the_worker_with_the_fewest() -> Result<()> {
    let server = Server::start(ServerOptions::workers(3))?;
    let mut idle: Vec<TcpStream> = (0..30).map(|_| TcpStream::connect(server.address("http"))).collect::<std::io::Result<_>>()?;
    let sessions = || -> Vec<u64> { (1..=3).map(|id| server.worker(id).map_or(0, |row| row["sessions"].as_u64().unwrap_or(0))).collect() };
    eventually(PATIENCE, || (sessions() == [10, 10, 10]).then_some(())).with_context(|| format!("{:?}", sessions()))?;
    idle.truncate(3);
    eventually(PATIENCE, || (sessions().iter().sum::<u64>() == 3).then_some(())).with_context(|| format!("{:?}", sessions()))?;
    Ok(())
}

#[test]
fn few_descriptors_mean_few_connections_and_are_said() -> Result<()> {
    let limited = |files: &str| vec!["prlimit".to_owned(), format!("--nofile={files}:{files}")];
    let server = Server::start(ServerOptions { by: limited("200"), ..ServerOptions::workers(2) })?;
    server.wait_log(&["WARN", "the descriptor limit is 200"])?;
    let pump = Pump::start(&server.rtmp("x"), "x")?;
    let streams: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(server.address("http"))).collect::<std::io::Result<_>>()?;
    let refused = || server.front_counter("refused_connections");
    eventually(PATIENCE, || (refused() >= 40).then_some(())).with_context(|| format!("only {} were refused", refused()))?;
    ensure!(server.front_counter("accept_pauses") == 0, "the limit was run into, not kept");
    drop(streams);
    let viewer = eventually(PATIENCE, || {
        let viewer = Viewer::flv(server.address("http"), "live/x.flv").ok()?;
        viewer.wait_more(5).ok().map(|()| viewer)
    });
    viewer.context("no room again")?.end()?;
    ensure!(pump.is_running(), "the publisher was lost");

    // Too few to serve anybody: refused at the start, with what to do.
    let (shared, state) = (tempfile::tempdir_in("/dev/shm")?, tempfile::tempdir()?);
    let (shared, state) = (shared.path().to_string_lossy().into_owned(), state.path().to_string_lossy().into_owned());
    let binary = binary().to_string_lossy().into_owned();
    let mut words = vec!["--nofile=100:100", &binary, "serve", "--workers", "1", "--shared-dir", &shared, "--state-dir", &state];
    words.extend(["--rtmp", "127.0.0.1:0", "--http", "127.0.0.1:0", "--api", "127.0.0.1:0"]);
    let output = run("prlimit", &words, Duration::from_secs(20))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success() && said.contains("LimitNOFILE"), "{said}");
    Ok(())
}

#[test]
fn a_worker_that_dies_again_and_again_is_started_later_and_later() -> Result<()> {
    let server = Server::start(ServerOptions { sub_ports: true, ..ServerOptions::workers(2) })?;
    let pump = Pump::start(&format!("rtmp://{}/live/x", server.sub_port(2)), "x")?;
    let viewer = Viewer::flv(server.sub_port(2), "live/x.flv")?;
    for _ in 0..5 {
        server.kill_worker(1)?;
    }
    let log = server.log_text();
    let pauses: Vec<u64> = log.lines().filter_map(|line| line.split("started again in ").nth(1)?.split(' ').next()?.parse().ok()).collect();
    ensure!(pauses == [100, 200, 400, 800, 1_600], "the pauses were {pauses:?} ms");
    ensure!(server.worker(1)?["restarts"] == 5 && server.worker(2)?["restarts"] == 0, "{:?}", server.status());
    viewer.wait_more(5)?;
    ensure!(pump.is_running(), "the other worker's publisher was lost");
    viewer.end()
}

#[test]
fn what_a_stopped_worker_does_not_take_is_bounded() -> Result<()> {
    let server = Server::start(ServerOptions::workers(1).set("limits.pending_connections=5"))?;
    let worker = server.worker_pid(1)?;
    signal(worker, "STOP")?;
    // Some fit into the channel itself, some into the list, the rest is turned away.
    let streams: Vec<TcpStream> = (0..600).map(|_| TcpStream::connect(server.address("http"))).collect::<std::io::Result<_>>()?;
    let refused = || server.front_counter("refused_pending");
    let full = eventually(PATIENCE, || (refused() > 0 && server.front_counter("accepted") == 600).then_some(()));
    signal(worker, "CONT")?;
    full.with_context(|| format!("{} refused", refused()))?;
    drop(streams);
    eventually(PATIENCE, || http_get(&server.http("streams.json")).ok().filter(|answer| answer.status == 200))
        .context("the server does not serve again")?;
    ensure!(server.worker(1)?["restarts"] == 0, "the worker died");
    Ok(())
}
