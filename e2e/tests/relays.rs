//! Streams that go to other servers and come from them: ours, nginx's, ffmpeg. What is sent is what arrives; servers that die, workers that
//! die, and circles are no surprise.

use anyhow::{Context, Result, ensure};
use braidcast_e2e::media::{self, Clip, Packet};
use braidcast_e2e::relays::{Hand, Nginx, answer_once};
use braidcast_e2e::rtmp::RtmpClient;
use braidcast_e2e::server::{alive, binary, free_ports, signal};
use braidcast_e2e::tools::{Tool, eventually};
use braidcast_e2e::{Record, Server, ServerOptions, Viewer, http_get};
use braidcast_media::RecordKind;
use braidcast_protocols::rtmp::ClientRole;
use serde_json::Value;
use std::process::Command;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);
/// Pauses between tries are short in tests.
const QUICK: &str = "relay.retry_max=1s";

fn with(workers: u16, file: &str) -> ServerOptions {
    ServerOptions { file: file.to_owned(), ..ServerOptions::workers(workers).set(QUICK).set("relay.silent=3s").set("play.play_wait=30s") }
}

fn forward(streams: &str, to: &str) -> String {
    format!("[[forward]]\nstreams = {streams:?}\nto = [{to:?}]\n")
}

fn pull(stream: &str, from: &str, more: &str) -> String {
    format!("[[pull]]\nstream = {stream:?}\nfrom = {from:?}\n{more}\n")
}

/// The relay of a stream in the status.
fn relay(server: &Server, stream: &str) -> Option<Value> {
    server.status().ok()?["relays"].as_array()?.iter().find(|relay| relay["stream"] == stream).cloned()
}

fn wait_relay(server: &Server, stream: &str, fits: impl Fn(&Value) -> bool) -> Result<Value> {
    eventually(PATIENCE, || relay(server, stream).filter(&fits))
        .with_context(|| format!("the relay of {stream} is {:?}:\n{}", relay(server, stream), server.log_text()))
}

fn wait_state(server: &Server, stream: &str, state: &str) -> Result<Value> {
    wait_relay(server, stream, |relay| relay["state"] == state)
}

/// Ends what serves a worker, and waits for its successor.
fn kill_worker(server: &Server, worker: u16) -> Result<()> {
    let pid = server.worker_pid(worker)?;
    signal(pid, "KILL")?;
    eventually(PATIENCE, || server.worker(worker).ok().filter(|row| row["pid"] != pid && row["state"] == "ready"))
        .with_context(|| format!("worker {worker} does not come back:\n{}", server.log_text()))?;
    Ok(())
}

fn of(packets: &[Packet], stream: u32) -> Vec<(i64, String)> {
    packets.iter().filter(|packet| packet.stream == stream).map(|packet| (packet.dts_ms, packet.hash.clone())).collect()
}

/// Every packet of both tracks, in order; times may be shifted together.
fn same_packets(got: &[Packet], want: &[Packet]) -> Result<()> {
    let shift = got.first().context("nothing came")?.dts_ms - want.first().context("nothing is wanted")?.dts_ms;
    for stream in 0..2 {
        let want: Vec<_> = of(want, stream).into_iter().map(|(ms, hash)| (ms + shift, hash)).collect();
        ensure!(of(got, stream) == want, "track {stream}: {} packets, or others than {}", of(got, stream).len(), want.len());
    }
    Ok(())
}

/// Watches a URL with ffmpeg to its end, in a thread.
fn watch(url: String) -> std::thread::JoinHandle<Result<Vec<Packet>>> {
    std::thread::spawn(move || media::packets(&url, Duration::from_secs(90)))
}

/// A stream keeps coming: so many more frames.
fn flows(server: &Server, name: &str) -> Result<()> {
    let viewer = Viewer::flv(server.address("http"), &format!("live/{name}.flv"))?;
    viewer.wait_more(30).with_context(|| format!("{name}:\n{}", server.log_text()))?;
    viewer.end()
}

#[test]
fn a_stream_is_forwarded_packet_for_packet() -> Result<()> {
    let target = Server::start(with(2, "").set("play.reconnect_grace=1s"))?;
    let to = format!("rtmp://{}/copy/{{stream}}?key=s3cret", target.address("rtmp"));
    let server = Server::start(with(2, &forward("live/*", &to)))?;
    let viewer = watch(target.http("copy/clip.flv"));
    target.wait_log(&["a viewer is placed stream=copy/clip "])?;
    let file = Clip::BFrames.file(6)?;
    let mut publisher = media::publish(&file, &server.rtmp("clip"))?;
    let running = wait_state(&server, "live/clip", "running")?;
    ensure!(running["kind"] == "forward" && running["url"] == format!("rtmp://{}/copy/clip", target.address("rtmp")), "{running}");
    ensure!(publisher.wait(PATIENCE)?.success(), "the publisher failed:\n{}", server.log_text());
    same_packets(&viewer.join().expect("no panic")?, &media::packets(&file.to_string_lossy(), PATIENCE)?)?;
    target.wait_log(&["publishing ended: the client ended it"])?;
    eventually(PATIENCE, || relay(&server, "live/clip").is_none().then_some(())).context("it stays in the status")?;
    ensure!(!server.log_text().contains("s3cret") && !server.status()?.to_string().contains("s3cret"), "the secret is told");
    Ok(())
}

#[test]
fn a_forward_goes_on_when_the_server_or_a_worker_dies() -> Result<()> {
    let mut target = Server::start(with(1, "").set("play.reconnect_grace=30s"))?;
    let to = format!("rtmp://{}/live/{{stream}}", target.address("rtmp"));
    let server = Server::start(with(2, &forward("live/*", &to)))?;
    let _publisher = media::publish_live(&server.rtmp("x"))?;
    target.wait_live("x")?;
    flows(&target, "x")?;
    // Its own worker.
    let worker = server.publisher_worker("x")?;
    kill_worker(&server, worker)?;
    wait_relay(&server, "live/x", |relay| relay["state"] == "running" && relay["worker"] != worker)?;
    flows(&target, "x")?;
    // The other server: it comes back on the same port.
    let address = target.address("rtmp");
    let (shared, state) = (target.shared_dir.clone(), target.state_dir.clone());
    target.stop()?;
    let waiting = wait_relay(&server, "live/x", |relay| relay["state"] == "waiting" && !relay["error"].is_null())?;
    ensure!(waiting["url"] == to.replace("{stream}", "x"), "{waiting}");
    let again = ServerOptions { reuse: Some((shared, state)), ..with(1, "") }.set(&format!("rtmp.listen={address}"));
    let second = Server::start(again)?;
    let running = wait_state(&server, "live/x", "running")?;
    ensure!(running["reconnects"].as_u64() > Some(0) && server.workers_counter("forward_failures") > 0, "{running}");
    flows(&second, "x")
}

#[test]
fn nginx_gets_and_gives_streams() -> Result<()> {
    if !Nginx::is_there() {
        println!("skipped: nginx's RTMP module is not there (apt install libnginx-mod-rtmp)");
        return Ok(());
    }
    let mut nginx = Nginx::start()?;
    let to = format!("rtmp://{}/live/{{stream}}", nginx.address);
    let file = forward("live/*", &to) + &pull("back/*", &to, "stop_after = '2s'");
    let server = Server::start(with(2, &file).set("play.reconnect_grace=1s"))?;
    let clip = Clip::BFrames.file(12)?;
    let mut publisher = media::publish(&clip, &server.rtmp("clip"))?;
    wait_state(&server, "live/clip", "running")?;
    let (there, back) = (watch(nginx.rtmp("clip")), watch(server.http("back/clip.flv")));
    wait_state(&server, "back/clip", "running")?;
    ensure!(publisher.wait(PATIENCE)?.success());
    // Whoever came later has what was sent from a keyframe on, and all of that.
    let want = media::packets(&clip.to_string_lossy(), PATIENCE)?;
    nginx.kill();
    for (viewer, how) in [(there, "nginx"), (back, "back")] {
        let got = viewer.join().expect("no panic")?;
        let hashes = |packets: &[Packet], stream| of(packets, stream).into_iter().map(|(_, hash)| hash).collect::<Vec<_>>();
        // To whoever comes in the middle ffmpeg shows the metadata as a track of its own.
        let (got, want) = ([0, 1, 2].map(|stream| hashes(&got, stream)), [0, 1].map(|stream| hashes(&want, stream)));
        for track in &want {
            // nginx does not keep the order of the tracks.
            let ends_alike = |got: &Vec<String>| got.len() > 20 && track.ends_with(got);
            ensure!(got.iter().any(ends_alike), "{how}: {:?} packets of {}, or others", got.each_ref().map(Vec::len), track.len());
        }
    }
    // It was gone; it is back.
    nginx.start_again()?;
    let _publisher = media::publish_live(&server.rtmp("clip"))?;
    wait_state(&server, "live/clip", "running")?;
    let viewer = RtmpClient::start(&nginx.rtmp("clip"), ClientRole::Play)?;
    drop(viewer);
    Ok(())
}

#[test]
fn ffmpeg_takes_a_stream_that_is_pushed_to_it() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let port = free_ports(1)?;
    let (url, out) = (format!("rtmp://127.0.0.1:{port}/live/clip"), directory.path().join("out.flv"));
    let arguments = ["-v", "error", "-listen", "1", "-i", &url, "-c", "copy", "-f", "flv", &out.to_string_lossy()].map(str::to_owned);
    let mut listener = Tool::start("ffmpeg", &arguments.each_ref().map(String::as_str))?;
    eventually(PATIENCE, || listening(port).then_some(())).context("ffmpeg does not listen")?;
    let server = Server::start(with(1, &forward("live/clip", &url)))?;
    let clip = Clip::BFrames.file(6)?;
    let mut publisher = media::publish(&clip, &server.rtmp("clip"))?;
    ensure!(publisher.wait(PATIENCE)?.success());
    ensure!(listener.wait(PATIENCE)?.success(), "ffmpeg failed:\n{}", server.log_text());
    same_packets(&media::packets(&out.to_string_lossy(), PATIENCE)?, &media::packets(&clip.to_string_lossy(), PATIENCE)?)
}

/// Whether somebody listens on a port; asked of the kernel, for the program takes one connection only.
fn listening(port: u16) -> bool {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    table.lines().any(|line| line.contains(&format!(":{port:04X} 00000000:0000 0A")))
}

#[test]
fn streams_are_pulled_by_rtmp_and_http_flv_packet_for_packet() -> Result<()> {
    let origin = Server::start(with(2, "").set("play.play_wait=60s").set("play.reconnect_grace=1s"))?;
    let file =
        pull("live/rtmp", &origin.rtmp("clip"), "when = 'always'") + &pull("live/flv", &origin.http("live/clip.flv"), "when = 'always'");
    let options = with(2, &file).set("relay.silent=60s").set("relay.answer=60s").set("play.play_wait=60s").set("play.reconnect_grace=1s");
    let edge = Server::start(options)?;
    origin.wait_placed("clip", 2)?;
    let viewers = [watch(edge.rtmp("rtmp")), watch(edge.http("live/flv.flv"))];
    edge.wait_placed("rtmp", 1)?;
    edge.wait_placed("flv", 1)?;
    let clip = Clip::BFrames.file(6)?;
    let mut publisher = media::publish(&clip, &origin.rtmp("clip"))?;
    let row = wait_state(&edge, "live/flv", "running")?;
    ensure!(row["kind"] == "pull" && row["url"] == origin.http("live/clip.flv"), "{row}");
    ensure!(publisher.wait(PATIENCE)?.success());
    let want = media::packets(&clip.to_string_lossy(), PATIENCE)?;
    for viewer in viewers {
        same_packets(&viewer.join().expect("no panic")?, &want).with_context(|| edge.log_text())?;
    }
    Ok(())
}

#[test]
fn a_pull_goes_on_when_the_server_or_a_worker_dies_and_times_never_go_back() -> Result<()> {
    let mut origin = Server::start(with(1, ""))?;
    let file = pull("live/*", &format!("rtmp://{}/live/{{stream}}", origin.address("rtmp")), "");
    let edge = Server::start(with(2, &file).set("play.reconnect_grace=60s"))?;
    let publisher = media::publish_live(&origin.rtmp("x"))?;
    // The viewer's own rule: no track's times go back, and the connection stays.
    let viewer = Viewer::rtmp(&edge.rtmp("x"))?;
    viewer.wait_more(30).with_context(|| edge.log_text())?;
    for round in 0..4 {
        // Sometimes the one that pulls, sometimes the one that the viewer is with.
        kill_worker(&edge, 1 + round % 2)?;
        viewer.wait_more(20).with_context(|| edge.log_text())?;
    }
    // The origin goes away, and comes back with another publisher, whose times begin anew.
    let address = origin.address("rtmp");
    drop(publisher);
    origin.stop()?;
    wait_relay(&edge, "live/x", |relay| relay["state"] != "running" && !relay["error"].is_null())?;
    let second = Server::start(with(1, "").set(&format!("rtmp.listen={address}")))?;
    let _publisher = media::publish_live(&second.rtmp("x"))?;
    viewer.wait_more(50).with_context(|| edge.log_text())?;
    let row = relay(&edge, "live/x").context("no relay")?;
    ensure!(row["reconnects"].as_u64() > Some(0) && row["bytes"].as_u64() > Some(0), "{row}");
    viewer.end()
}

#[test]
fn a_front_that_dies_leaves_pulls_as_they_are_and_draining_moves_them() -> Result<()> {
    let origin = Server::start(with(1, ""))?;
    let file = pull("live/x", &origin.rtmp("x"), "when = 'always'");
    let mut edge = Server::start(with(2, &file).set("play.reconnect_grace=60s"))?;
    let _publisher = media::publish_live(&origin.rtmp("x"))?;
    edge.wait_live("x")?;
    let viewer = Viewer::flv(edge.address("http"), "live/x.flv")?;
    viewer.wait_more(30)?;
    let epoch = edge.stream("x")?.context("no stream")?["epoch"].clone();
    edge.replace_front()?;
    viewer.wait_more(50)?;
    wait_state(&edge, "live/x", "running")?;
    ensure!(edge.stream("x")?.context("no stream")?["epoch"] == epoch, "the pull was made anew");
    let worker = edge.publisher_worker("x")?;
    order(&edge, &["drain", &worker.to_string()])?;
    eventually(PATIENCE, || edge.publisher_worker("x").ok().filter(|now| *now != worker)).with_context(|| edge.log_text())?;
    viewer.wait_more(50).with_context(|| edge.log_text())?;
    viewer.end()
}

/// Gives an order by the command line.
fn order(server: &Server, words: &[&str]) -> Result<()> {
    let output = Command::new(binary()).args(words).args(["--timeout", "60", "--shared-dir"]).arg(&server.shared_dir).output()?;
    ensure!(output.status.success(), "{words:?}: {output:?}\n{}", server.log_text());
    Ok(())
}

#[test]
fn a_reload_brings_forwards_and_pulls_and_takes_them_away() -> Result<()> {
    let other = Server::start(with(1, ""))?;
    let _theirs = media::publish_live(&other.rtmp("theirs"))?;
    let server = Server::start(with(2, ""))?;
    let _ours = media::publish_live(&server.rtmp("ours"))?;
    server.wait_live("ours")?;
    let viewer = Viewer::flv(server.address("http"), "live/ours.flv")?;
    let file = server.state_dir.join("test.toml");
    let text = forward("live/ours", &other.rtmp("ours")) + &pull("live/theirs", &other.rtmp("theirs"), "when = 'always'");
    std::fs::write(&file, &text)?;
    order(&server, &["reload"])?;
    wait_state(&server, "live/ours", "running")?;
    wait_state(&server, "live/theirs", "running")?;
    flows(&other, "ours")?;
    flows(&server, "theirs")?;
    std::fs::write(&file, "")?;
    order(&server, &["reload"])?;
    eventually(PATIENCE, || (server.status().ok()?["relays"] == serde_json::json!([])).then_some(())).with_context(|| server.log_text())?;
    let gone = || other.stream("ours").ok().flatten().is_none_or(|stream| stream["state"] != "live");
    eventually(PATIENCE, || gone().then_some(())).context("it is still forwarded")?;
    viewer.wait_more(30)?;
    viewer.end()
}

#[test]
fn what_is_pulled_on_demand_starts_with_the_first_viewer_and_stops_after_the_last() -> Result<()> {
    let origin = Server::start(with(1, ""))?;
    let _publisher = media::publish_live(&origin.rtmp("x"))?;
    origin.wait_live("x")?;
    let from = format!("http://{}/live/{{stream}}.flv", origin.address("http"));
    let edge = Server::start(
        with(2, &pull("live/*", &from, "stop_after = '4s'")).set("play.reconnect_grace=1s").set("hls.fragment=1s").set("play.play_wait=8s"),
    )?;
    ensure!(edge.status()?["relays"] == serde_json::json!([]), "nobody has asked");
    let viewer = Viewer::rtmp(&edge.rtmp("x"))?;
    viewer.wait_more(30).with_context(|| edge.log_text())?;
    let watched = || (origin.status().ok()?["workers"][0]["viewers"] == 1).then_some(());
    eventually(PATIENCE, watched).context("the origin sends to nobody")?;
    viewer.end()?;
    eventually(PATIENCE, || relay(&edge, "live/x").is_none().then_some(())).with_context(|| edge.log_text())?;
    eventually(PATIENCE, || (origin.status().ok()?["workers"][0]["viewers"] == 0).then_some(())).context("the origin still sends")?;
    edge.wait_log(&["nobody wants the stream any more"])?;
    // HLS viewers count too, and viewers who come by a name.
    let index = eventually(PATIENCE, || http_get(&edge.http("live/x.m3u8")).ok().filter(|answer| answer.status == 200));
    ensure!(index.is_some_and(|answer| answer.text().contains(".ts")), "no index:\n{}", edge.log_text());
    let named = edge.http("live/x.flv?vhost=edge.example.com");
    let (address, path) = (edge.address("http"), named.split_once("/live").map(|(_, path)| format!("live{path}")).context("no path")?);
    let viewer = Viewer::flv(address, &path)?;
    viewer.wait_more(10).with_context(|| edge.log_text())?;
    viewer.end()?;
    // What is not there is not found, and does not stay.
    let missing = http_get(&edge.http("live/missing.flv"))?;
    ensure!(missing.status == 404, "{}", missing.status);
    Ok(())
}

#[test]
fn hls_is_pulled_through_ffmpeg_which_ends_with_the_server() -> Result<()> {
    let origin = Server::start(with(1, "").set("hls.fragment=1s").set("hls.window=6s"))?;
    let _publisher = media::publish_live(&origin.rtmp("x"))?;
    eventually(PATIENCE, || http_get(&origin.http("live/x.m3u8")).ok().filter(|answer| answer.status == 200)).context("no index")?;
    let file = pull("live/hls", &origin.http("live/x.m3u8"), "when = 'always'");
    let mut edge = Server::start(with(2, &file).set("play.reconnect_grace=60s"))?;
    edge.wait_live("hls")?;
    let viewer = Viewer::flv(edge.address("http"), "live/hls.flv")?;
    viewer.wait_more(50).with_context(|| edge.log_text())?;
    let program = || -> Option<u32> {
        let log = edge.log_text();
        let line = log.lines().rev().find(|line| line.contains("a program was started"))?;
        line.split("pid=").nth(1)?.split_whitespace().next()?.parse().ok()
    };
    // A worker's death is nothing to it; its own is a reason to start it again.
    let first = program().context("no program")?;
    let worker = edge.publisher_worker("hls")?;
    kill_worker(&edge, worker)?;
    viewer.wait_more(50).with_context(|| edge.log_text())?;
    ensure!(program() == Some(first) && alive(first), "it was started again");
    signal(first, "KILL")?;
    let second = eventually(PATIENCE, || program().filter(|pid| *pid != first)).context("it was not started again")?;
    viewer.wait_more(50).with_context(|| edge.log_text())?;
    wait_relay(&edge, "live/hls", |relay| relay["reconnects"].as_u64() > Some(0) && relay["state"] == "running")?;
    viewer.end()?;
    // A front that is killed takes it along, and the next one starts another.
    edge.replace_front()?;
    eventually(PATIENCE, || (!alive(second)).then_some(())).context("it outlives its front")?;
    let third = eventually(PATIENCE, || {
        let log = edge.log_text();
        let line = log.lines().rev().find(|line| line.contains("a program was started"))?;
        line.split("pid=").nth(1)?.split_whitespace().next()?.parse::<u32>().ok().filter(|pid| *pid != second)
    })
    .context("the next front starts none")?;
    edge.stop()?;
    eventually(PATIENCE, || (!alive(third)).then_some(())).context("it outlives the server")?;
    Ok(())
}

#[test]
fn a_pull_is_a_publisher_among_others() -> Result<()> {
    let origin = Server::start(with(1, ""))?;
    let _origins = media::publish_live(&origin.rtmp("x"))?;
    origin.wait_live("x")?;
    let edge = Server::start(with(2, &pull("live/x", &origin.rtmp("x"), "when = 'always'")).set("placement.max_publishers=1"))?;
    wait_state(&edge, "live/x", "running")?;
    ensure!(RtmpClient::publish(&edge.rtmp("other")).is_err(), "there is a place more than max_publishers");
    ensure!(RtmpClient::publish(&edge.rtmp("x")).is_err(), "the stream has two publishers");
    let total: u64 = (1..=2).map(|id| edge.worker(id).map(|row| row["current"].as_u64().unwrap_or(0))).sum::<Result<u64>>()?;
    ensure!(total == 1, "{total} publishers are counted");
    drop(edge);
    // Whoever was there first stays, and the pull waits.
    let edge = Server::start(with(2, &pull("live/x", &origin.rtmp("x"), "stop_after = '60s'")))?;
    let own = media::publish_live(&edge.rtmp("x"))?;
    edge.wait_live("x")?;
    let viewer = Viewer::flv(edge.address("http"), "live/x.flv")?;
    viewer.wait_more(20)?;
    ensure!(relay(&edge, "live/x").is_none(), "it is pulled although somebody publishes it");
    // When he goes, viewers get the origin's.
    drop(own);
    wait_state(&edge, "live/x", "running")?;
    viewer.wait_more(50).with_context(|| edge.log_text())?;
    viewer.end()
}

#[test]
fn a_missing_program_is_said_in_status_and_log() -> Result<()> {
    let file = pull("live/hls", "http://127.0.0.1:9/x.m3u8", "when = 'always'");
    let edge = Server::start(with(1, &file).set("relay.ffmpeg=/nowhere/ffmpeg"))?;
    let row = wait_state(&edge, "live/hls", "waiting")?;
    ensure!(row["error"].as_str().is_some_and(|error| error.contains("/nowhere/ffmpeg") && error.contains("cannot be run")), "{row}");
    edge.wait_log(&["pulling failed", "/nowhere/ffmpeg"])?;
    Ok(())
}

#[test]
fn circles_are_refused() -> Result<()> {
    let port = free_ports(2)?;
    let (a, b) = (format!("127.0.0.1:{port}"), format!("127.0.0.1:{}", port + 1));
    // A forwards to itself under another name, and to B; B forwards all of that to A; and A and B pull what neither has from each other.
    let of_a = forward("live/*", &format!("rtmp://{b}/live/{{stream}}"))
        + &forward("live/*", &format!("rtmp://{a}/self/{{stream}}"))
        + &pull("none/*", &format!("rtmp://{b}/none/{{stream}}"), "stop_after = '60s'");
    let of_b = forward("live/*", &format!("rtmp://{a}/back/{{stream}}")) + &pull("none/*", &format!("rtmp://{a}/none/{{stream}}"), "");
    let start = |file: &str, address: &str| Server::start(with(1, file).set("play.play_wait=5s").set(&format!("rtmp.listen={address}")));
    let own = start(&of_a, &a).err().context("it starts although it forwards to itself")?;
    ensure!(format!("{own:#}").contains("that is this server itself"), "{own:#}");
    // Written so that only a resolver knows where it is.
    let of_a = of_a.replace(&format!("rtmp://{a}/self"), &format!("rtmp://{}/self", a.replace("127.0.0.1", "127.1")));
    let (a_server, b_server) = (start(&of_a, &a)?, start(&of_b, &b)?);
    let _publisher = media::publish_live(&a_server.rtmp("x"))?;
    b_server.wait_live("x")?;
    a_server.wait_log(&["/self/x", "forwarding failed: loop: that is this server itself"])?;
    let refused = wait_relay(&b_server, "live/x", |relay| relay["error"].as_str().is_some_and(|error| error.contains("loop:")))?;
    ensure!(refused["state"] == "waiting", "{refused}");
    ensure!(a_server.workers_counter("refused_loops") > 0);
    a_server.wait_log(&["refused: loop: the stream has passed through this server already"])?;
    ensure!(a_server.stream("x")?.is_some_and(|stream| stream["app"] == "live"), "it came back");
    let viewer = http_get(&a_server.http("none/y.flv"))?;
    ensure!(viewer.status == 404, "{}", viewer.status);
    let refused = wait_relay(&b_server, "none/y", |relay| relay["error"].as_str().is_some_and(|error| error.contains("loop:")))?;
    ensure!(refused["kind"] == "pull", "{refused}");
    Ok(())
}

#[test]
fn a_server_that_names_another_message_stream_gets_its_media_there() -> Result<()> {
    let hand = Hand::start(7, None)?;
    let server = Server::start(with(1, &forward("live/*", &format!("rtmp://{}/live/{{stream}}", hand.address))))?;
    let clip = Clip::BFrames.file(6)?;
    let mut publisher = media::publish(&clip, &server.rtmp("clip"))?;
    ensure!(publisher.wait(PATIENCE)?.success());
    // ffmpeg interleaves the tracks as it likes, and says at the end of the video that it is the end.
    let of_kind = |records: Vec<Record>, kind| -> Vec<Vec<u8>> {
        let media = |record: &Record| record.kind == kind && !record.is_header() && record.payload.get(..2) != Some(&[0x17, 2]);
        records.into_iter().filter(media).map(|record| record.payload).collect()
    };
    let got = |kind| of_kind(hand.records().into_iter().map(|(_, record)| record).collect(), kind);
    for kind in [RecordKind::Video, RecordKind::Audio] {
        let sent = of_kind(Clip::BFrames.records(6)?, kind);
        eventually(PATIENCE, || (got(kind).len() >= sent.len()).then_some(()))
            .with_context(|| format!("{} of {}", got(kind).len(), sent.len()))?;
        ensure!(got(kind) == sent, "what came of {kind:?} is other than what was sent");
    }
    ensure!(hand.records().iter().all(|(message_stream, _)| *message_stream == 7), "some of it went elsewhere");
    eventually(PATIENCE, || (hand.commands().ends_with(&["FCUnpublish".to_owned(), "deleteStream".to_owned()])).then_some(()))
        .with_context(|| format!("the goodbye is {:?}", hand.commands()))?;
    Ok(())
}

#[test]
fn a_server_that_does_not_read_holds_up_nobody_but_its_own_forward() -> Result<()> {
    let hand = Hand::start(1, Some(200_000))?;
    let file = forward("live/*", &format!("rtmp://{}/live/{{stream}}", hand.address));
    let server = Server::start(with(1, &file).set("play.max_lag_bytes=1MiB"))?;
    let _publisher = media::publish_loop(&Clip::Heavy.file(10)?, &server.rtmp("x"))?;
    server.wait_live("x")?;
    let viewer = Viewer::flv(server.address("http"), "live/x.flv")?;
    eventually(PATIENCE, || (server.workers_counter("forward_jumps") > 0).then_some(())).with_context(|| server.log_text())?;
    viewer.wait_more(50)?;
    ensure!(server.workers_counter("viewer_jumps") == 0);
    viewer.end()
}

#[test]
fn redirections_are_followed_but_not_for_ever() -> Result<()> {
    let origin = Server::start(with(1, ""))?;
    let _publisher = media::publish_live(&origin.rtmp("x"))?;
    origin.wait_live("x")?;
    let there = origin.http("live/x.flv");
    let away = answer_once(move |_| format!("HTTP/1.1 302 Found\r\nLocation: {there}\r\n\r\n"))?;
    let round = answer_once(|own| format!("HTTP/1.1 302 Found\r\nLocation: http://{own}/again.flv\r\n\r\n"))?;
    let file = pull("live/away", &format!("http://{away}/x.flv"), "when = 'always'")
        + &pull("live/round", &format!("http://{round}/x.flv"), "when = 'always'");
    // Where to is not in the configuration.
    let closed = Server::start(with(1, &file))?;
    wait_relay(&closed, "live/away", |relay| relay["error"].as_str().is_some_and(|error| error.contains("[sandbox] connect")))?;
    let edge = Server::start(with(1, &file).set(&format!("sandbox.connect={}", origin.address("http").port())))?;
    wait_state(&edge, "live/away", "running")?;
    let row = wait_relay(&edge, "live/round", |relay| relay["error"].as_str().is_some_and(|error| error.contains("redirections")))?;
    ensure!(row["state"] == "waiting", "{row}");
    Ok(())
}
