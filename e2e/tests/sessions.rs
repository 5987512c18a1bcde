//! Publishers and viewers that come, go, lag and compete.

use anyhow::{Context, Result, ensure};
use braidcast_e2e::media::{self, Clip};
use braidcast_e2e::server::signal;
use braidcast_e2e::tools::{eventually, run};
use braidcast_e2e::{Server, ServerOptions, Tool, Viewer};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

fn is_live(server: &Server, name: &str) -> bool {
    server.stream(name).ok().flatten().is_some_and(|stream| stream["state"] == "live")
}

#[test]
fn viewers_stay_when_the_publisher_comes_back_on_another_worker() -> Result<()> {
    let server = Server::start(ServerOptions { sub_ports: true, ..ServerOptions::workers(2) })?;
    let publisher = media::publish_live(&format!("rtmp://{}/live/x", server.sub_port(1)))?;
    server.wait_live("x")?;
    let viewers = [Viewer::flv(server.sub_port(1), "live/x.flv")?, Viewer::flv(server.sub_port(2), "live/x.flv")?];
    let mut rtmp =
        Tool::start("ffmpeg", &["-v", "error", "-i", &format!("rtmp://{}/live/x", server.sub_port(2)), "-c", "copy", "-f", "null", "-"])?;
    for viewer in &viewers {
        viewer.wait_more(20)?;
    }
    drop(publisher);
    eventually(PATIENCE, || (!is_live(&server, "x")).then_some(())).context("the stream stayed live")?;
    let _again = media::publish_live(&format!("rtmp://{}/live/x", server.sub_port(2)))?;
    server.wait_live("x")?;
    ensure!(server.publisher_worker("x")? == 2, "the publisher is on the same worker");
    for viewer in viewers {
        viewer.wait_more(20)?;
        viewer.end()?;
    }
    ensure!(rtmp.is_running(), "the RTMP viewer was dropped");
    Ok(())
}

#[test]
fn a_killed_worker_takes_only_its_own_connections() -> Result<()> {
    let server = Server::start(ServerOptions { sub_ports: true, ..ServerOptions::workers(2) })?;
    let _one = media::publish_live(&format!("rtmp://{}/live/one", server.sub_port(1)))?;
    let two = media::publish_live(&format!("rtmp://{}/live/two", server.sub_port(2)))?;
    server.wait_live("one")?;
    server.wait_live("two")?;
    // A viewer of the other worker's stream, and a viewer of the killed worker's stream, both in the worker that lives.
    let (own, others) = (Viewer::flv(server.sub_port(1), "live/one.flv")?, Viewer::flv(server.sub_port(1), "live/two.flv")?);
    own.wait_more(10)?;
    others.wait_more(10)?;
    server.kill_worker(2)?;
    drop(two);
    own.wait_more(20)?;
    let _two = media::publish_live(&server.rtmp("two"))?;
    others.wait_more(20)?;
    own.end()?;
    others.end()
}

#[test]
fn viewers_are_told_when_nobody_comes_back() -> Result<()> {
    let server = Server::start(ServerOptions::workers(2).set("play.reconnect_grace=1s"))?;
    let publisher = media::publish_live(&server.rtmp("x"))?;
    server.wait_live("x")?;
    let viewer = Viewer::flv(server.address("http"), "live/x.flv")?;
    let mut rtmp = Tool::start("ffmpeg", &["-v", "error", "-i", &server.rtmp("x"), "-c", "copy", "-f", "null", "-"])?;
    viewer.wait_more(10)?;
    drop(publisher);
    ensure!(rtmp.wait(PATIENCE)?.success(), "ffmpeg did not see an orderly end");
    eventually(PATIENCE, || viewer.is_over().then_some(())).context("the FLV viewer was not closed")?;
    Ok(())
}

#[test]
fn players_wait_for_a_stream_that_is_not_there_yet() -> Result<()> {
    let server = Server::start(ServerOptions::workers(2))?;
    let viewer = Viewer::flv(server.address("http"), "live/x.flv")?;
    let rtmp = std::thread::spawn({
        let url = server.rtmp("x");
        move || run("ffmpeg", &["-v", "error", "-i", &url, "-t", "1", "-c", "copy", "-f", "null", "-"], PATIENCE)
    });
    server.wait_placed("x", 2).context("the players did not connect")?;
    let _publisher = media::publish_live(&server.rtmp("x"))?;
    viewer.wait_more(10)?;
    ensure!(rtmp.join().expect("no panic")?.status.success(), "the RTMP player");
    viewer.end()
}

#[test]
fn a_second_publisher_is_refused_and_the_first_goes_on() -> Result<()> {
    let server = Server::start(ServerOptions::workers(2))?;
    let _first = media::publish_live(&format!("{}?key=a", server.rtmp("x")))?;
    server.wait_live("x")?;
    let viewer = Viewer::flv(server.address("http"), "live/x.flv")?;
    viewer.wait_more(10)?;
    let file = Clip::Plain.file(10)?;
    let second = format!("{}?key=b", server.rtmp("x"));
    let refused = run("ffmpeg", &["-v", "error", "-re", "-i", &file.to_string_lossy(), "-c", "copy", "-f", "flv", &second], PATIENCE)?;
    ensure!(!refused.status.success(), "the second publisher was taken");
    viewer.wait_more(10)?;
    viewer.end()
}

#[test]
fn the_same_publisher_takes_its_stream_back_at_once() -> Result<()> {
    let server = Server::start(ServerOptions::workers(2))?;
    let url = format!("{}?key=a", server.rtmp("x"));
    let mut first = media::publish_live(&url)?;
    server.wait_live("x")?;
    let viewer = Viewer::flv(server.address("http"), "live/x.flv")?;
    viewer.wait_more(10)?;
    let mut second = media::publish_live(&url)?;
    first.wait(PATIENCE)?;
    viewer.wait_more(25)?;
    ensure!(second.is_running(), "the newcomer with the same key was refused");
    viewer.end()
}

#[test]
fn a_silent_publisher_may_be_replaced_by_anybody() -> Result<()> {
    let server = Server::start(ServerOptions::workers(2))?;
    let first = media::publish_live(&format!("{}?key=a", server.rtmp("x")))?;
    server.wait_live("x")?;
    signal(first.pid(), "STOP")?;
    let silent = || server.stream("x").ok().flatten().is_some_and(|stream| stream["age_ms"].as_u64() > Some(3_500));
    eventually(PATIENCE, || silent().then_some(())).context("the publisher is not silent")?;
    let mut second = media::publish_live(&format!("{}?key=b", server.rtmp("x")))?;
    let bytes = || server.stream("x").ok().flatten().and_then(|stream| stream["bytes"].as_u64());
    let before = bytes();
    eventually(PATIENCE, || (bytes() > before).then_some(())).context("the stream does not go on")?;
    ensure!(second.is_running(), "the newcomer was refused");
    Ok(())
}

#[test]
fn on_duplicate_replace_lets_the_newcomer_win() -> Result<()> {
    let server = Server::start(ServerOptions::workers(2).set("publish.on_duplicate=replace"))?;
    let mut first = media::publish_live(&format!("{}?key=a", server.rtmp("x")))?;
    server.wait_live("x")?;
    let mut second = media::publish_live(&format!("{}?key=b", server.rtmp("x")))?;
    first.wait(PATIENCE)?;
    server.wait_live("x")?;
    ensure!(second.is_running(), "the newcomer was refused");
    Ok(())
}

#[test]
fn time_goes_forward_for_every_viewer_however_often_the_publisher_comes_back() -> Result<()> {
    let server = Server::start(ServerOptions { sub_ports: true, ..ServerOptions::workers(2) })?;
    let publish = |worker: u16| media::publish_live(&format!("rtmp://{}/live/x", server.sub_port(worker)));
    let mut publisher = publish(1)?;
    server.wait_live("x")?;
    // Viewers check the times of all they get: they break when one goes back.
    let mut viewers = Vec::new();
    for worker in 1..=2 {
        viewers.push(Viewer::flv(server.sub_port(worker), "live/x.flv")?);
        viewers.push(Viewer::rtmp(&format!("rtmp://{}/live/x", server.sub_port(worker)))?);
    }
    for worker in [2, 1, 2, 2] {
        viewers.iter().try_for_each(|viewer| viewer.wait_more(10))?;
        drop(publisher);
        publisher = publish(worker)?;
        let there = || server.publisher_worker("x").ok() == Some(worker) && is_live(&server, "x");
        eventually(PATIENCE, || there().then_some(())).with_context(|| format!("not published by worker {worker}"))?;
    }
    viewers.iter().try_for_each(|viewer| viewer.wait_more(10))?;
    // And when the publisher's worker dies, and when the publisher comes back after that.
    server.kill_worker(2)?;
    viewers.iter().try_for_each(|viewer| viewer.wait_more(20))?;
    drop(publisher);
    let _again = publish(1)?;
    viewers.iter().try_for_each(|viewer| viewer.wait_more(20))?;
    for viewer in viewers {
        viewer.end()?;
    }
    Ok(())
}
