//! The server as an operator sees it: listening, processes, restarts, orderly ends, two instances.

use anyhow::{Context, Result, ensure};
use braidcast_e2e::media;
use braidcast_e2e::server::{alive, binary, signal};
use braidcast_e2e::tools::{eventually, http, http_get, run};
use braidcast_e2e::{Server, ServerOptions};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn flv_answers_as_players_expect() -> Result<()> {
    let server = Server::start(ServerOptions::workers(2).set("play.play_wait=1s"))?;
    let _publisher = media::publish_live(&server.rtmp("x"))?;
    server.wait_live("x")?;
    let head = http("HEAD", &server.http("live/x.flv"))?;
    ensure!(head.status == 200 && head.body.is_empty(), "{}", head.head);
    for field in ["Connection: close", "Content-Type: video/x-flv", "Cache-Control: no-cache", "Access-Control-Allow-Origin: *"] {
        ensure!(head.head.contains(field), "no {field} in {}", head.head);
    }
    ensure!(!head.head.contains("chunked") && !head.head.contains("\nContent-Length:"), "{}", head.head);
    let missing = http_get(&server.http("live/nobody.flv"))?;
    ensure!(missing.status == 404, "{}", missing.head);
    ensure!(http_get(&server.http("live/nobody.m3u8"))?.status == 404, "an index of nothing");
    ensure!(http_get(&server.http("live/x/999999.ts"))?.status == 404, "a segment of nothing");
    ensure!(http_get(&server.http("live/..%2f..%2fhead.flv"))?.status == 400, "a path trick");
    let page = http_get(&server.http(""))?;
    ensure!(page.status == 200 && page.head.contains("text/html"), "{}", page.head);
    let streams: serde_json::Value = serde_json::from_slice(&http_get(&server.http("streams.json"))?.body)?;
    ensure!(streams["streams"][0]["stream"] == "x", "{streams}");
    let versions = http_get(&format!("http://{}/api/v1/versions", server.address("api")))?;
    ensure!(versions.status == 200 && versions.text().contains("\"code\":0"), "{}", versions.text());
    Ok(())
}

#[test]
fn a_killed_worker_is_restarted_and_its_publisher_goes_on() -> Result<()> {
    let server = Server::start(ServerOptions::workers(2))?;
    let mut publisher = media::publish_live(&server.rtmp("x"))?;
    server.wait_live("x")?;
    let worker = server.publisher_worker("x")?;
    server.kill_worker(worker)?;
    let bytes = || server.stream("x").ok()??["bytes"].as_u64();
    let before = bytes();
    eventually(PATIENCE, || (bytes() > before).then_some(())).context("the stream stands still")?;
    ensure!(publisher.is_running(), "the publisher noticed");
    ensure!(server.worker(worker)?["restarts"] == 1, "{}", server.worker(worker)?);
    Ok(())
}

#[test]
fn workers_outlive_a_killed_front_for_front_grace() -> Result<()> {
    let server = Server::start(ServerOptions::workers(2).set("server.front_grace=3s"))?;
    let _publisher = media::publish_live(&server.rtmp("x"))?;
    server.wait_live("x")?;
    let pids: Vec<u32> = (1..=2).map(|id| server.worker_pid(id)).collect::<Result<_>>()?;
    let before = server.stream("x")?.context("no stream")?["bytes"].as_u64();
    signal(server.pid(), "KILL")?;
    // They go on: the stream grows without a front.
    let grown = eventually(PATIENCE, || (server.stream("x").ok()??["bytes"].as_u64() > before).then_some(()));
    ensure!(grown.is_some(), "the stream stopped with the front");
    eventually(PATIENCE, || pids.iter().all(|pid| !alive(*pid)).then_some(())).context("the workers did not end by themselves")
}

#[test]
fn sigterm_ends_everything_in_order() -> Result<()> {
    let mut server = Server::start(ServerOptions::workers(2).set("server.on_exit=remove"))?;
    let mut publisher = media::publish_live(&server.rtmp("x"))?;
    server.wait_live("x")?;
    let pids: Vec<u32> = (1..=2).map(|id| server.worker_pid(id)).collect::<Result<_>>()?;
    ensure!(server.stop()?.success(), "the front's exit status");
    ensure!(pids.iter().all(|pid| !alive(*pid)), "a worker is left");
    publisher.wait(PATIENCE)?;
    ensure!(!server.shared_dir.join("streams").exists(), "on_exit = remove left streams");
    Ok(())
}

#[test]
fn two_instances_do_not_collide() -> Result<()> {
    let one = Server::start(ServerOptions::workers(1))?;
    let two = Server::start(ServerOptions::workers(1))?;
    let _publishers = [media::publish_live(&one.rtmp("x"))?, media::publish_live(&two.rtmp("x"))?];
    one.wait_live("x")?;
    two.wait_live("x")?;
    // A third one in the first one's directory is refused and says by whom.
    let shared = one.shared_dir.to_string_lossy().into_owned();
    let state = one.state_dir.to_string_lossy().into_owned();
    let arguments =
        ["serve", "--rtmp", "127.0.0.1:0", "--http", "127.0.0.1:0", "--api", "127.0.0.1:0", "--shared-dir", &shared, "--state-dir", &state];
    let third = run(&binary().to_string_lossy(), &arguments, PATIENCE)?;
    let said = String::from_utf8_lossy(&third.stderr).into_owned();
    ensure!(!third.status.success() && said.contains(&one.pid().to_string()), "{said}");
    ensure!(one.stream("x")?.is_some_and(|stream| stream["state"] == "live"), "the first instance was disturbed");
    Ok(())
}

#[test]
fn a_taken_port_names_itself() -> Result<()> {
    let holder = std::net::TcpListener::bind("127.0.0.1:0")?;
    let port = holder.local_addr()?.to_string();
    let (shared, state) = (tempfile::tempdir_in("/dev/shm")?, tempfile::tempdir()?);
    let (shared, state) = (shared.path().to_string_lossy().into_owned(), state.path().to_string_lossy().into_owned());
    let output = run(
        &binary().to_string_lossy(),
        &["serve", "--rtmp", &port, "--http", "127.0.0.1:0", "--api", "127.0.0.1:0", "--shared-dir", &shared, "--state-dir", &state],
        PATIENCE,
    )?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success() && said.contains(&port), "{said}");
    Ok(())
}

#[test]
fn the_shared_directory_must_be_in_ram() -> Result<()> {
    let (shared, state) = (tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR"))?, tempfile::tempdir()?);
    let (shared, state) = (shared.path().to_string_lossy().into_owned(), state.path().to_string_lossy().into_owned());
    let arguments =
        ["serve", "--rtmp", "127.0.0.1:0", "--http", "127.0.0.1:0", "--api", "127.0.0.1:0", "--shared-dir", &shared, "--state-dir", &state];
    let output = run(&binary().to_string_lossy(), &arguments, Duration::from_secs(10))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success() && said.contains("allow_disk"), "{said}");
    Ok(())
}

#[test]
fn unknown_keys_are_refused_with_the_nearest_one_and_the_line() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("b.toml");
    std::fs::write(&file, "[hls]\nfragmnt = 2\n")?;
    let output = Command::new(binary()).arg("check").arg("-c").arg(&file).output()?;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(!output.status.success() && said.contains("fragment") && said.contains("b.toml:2"), "{said}");
    Ok(())
}

#[test]
fn each_worker_has_its_sub_port_for_rtmp_and_http() -> Result<()> {
    let server = Server::start(ServerOptions { sub_ports: true, ..ServerOptions::workers(2) })?;
    let _publisher = media::publish_live(&format!("rtmp://{}/live/x", server.sub_port(2)))?;
    server.wait_live("x")?;
    ensure!(server.publisher_worker("x")? == 2, "a sub-port's publisher moved");
    for worker in 1..=2 {
        ensure!(http("HEAD", &format!("http://{}/live/x.flv", server.sub_port(worker)))?.status == 200, "worker {worker}");
    }
    Ok(())
}

#[test]
fn the_log_blocks_are_playable_files() -> Result<()> {
    let server = Server::start(ServerOptions::workers(1).set("log.block_min=1s"))?;
    let _publisher = media::publish_live(&server.rtmp("x"))?;
    server.wait_live("x")?;
    let second = server.stream_dir("x").join("log/2.flv");
    eventually(PATIENCE, || server.stream_dir("x").join("log/4.flv").exists().then_some(())).context("no fourth block")?;
    let frames = media::frames(&second.to_string_lossy(), "v", PATIENCE)?;
    ensure!(frames.len() >= 20, "only {} frames in {}", frames.len(), second.display());
    ensure!(Path::new(&second).exists(), "the block is kept");
    Ok(())
}
