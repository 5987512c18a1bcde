//! Encoders and players other than ffmpeg's own pair, and the forms of names they use.

use anyhow::{Context, Result, ensure};
use braidcast_e2e::media;
use braidcast_e2e::tools::{Tool, eventually, has, is_root, run};
use braidcast_e2e::{Server, ServerOptions};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// Frames that can be decoded from what a player is served within two seconds of media.
fn plays(url: &str) -> Result<usize> {
    let output = run("ffmpeg", &["-v", "error", "-i", url, "-t", "2", "-map", "0:v", "-f", "framehash", "-"], PATIENCE)?;
    ensure!(output.status.success(), "{url}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).lines().filter(|line| !line.starts_with('#')).count())
}

fn gst_publisher(sink: &str) -> Result<Tool> {
    let pipeline = format!(
        "videotestsrc is-live=true ! video/x-raw,width=320,height=180,framerate=25/1 ! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=25 \
         ! h264parse ! queue ! mux. audiotestsrc is-live=true ! audioconvert ! avenc_aac ! aacparse ! queue ! mux. flvmux streamable=true name=mux ! {sink}"
    );
    let arguments: Vec<&str> = std::iter::once("-q").chain(pipeline.split_whitespace()).collect();
    Tool::start("gst-launch-1.0", &arguments)
}

#[test]
fn gstreamer_publishes_by_rtmp2sink() -> Result<()> {
    let server = Server::start(ServerOptions::workers(2))?;
    let _publisher = gst_publisher(&format!("rtmp2sink location={}", server.rtmp("x")))?;
    server.wait_live("x")?;
    ensure!(plays(&server.http("live/x.flv"))? >= 40, "too few frames by FLV");
    ensure!(plays(&server.rtmp("x"))? >= 40, "too few frames by RTMP");
    Ok(())
}

#[test]
fn gstreamer_publishes_by_rtmpsink() -> Result<()> {
    let server = Server::start(ServerOptions::workers(2))?;
    let _publisher = gst_publisher(&format!("rtmpsink location={}", server.rtmp("x")))?;
    server.wait_live("x")?;
    ensure!(plays(&server.http("live/x.flv"))? >= 40, "too few frames by FLV");
    Ok(())
}

#[test]
fn gstreamer_plays_by_rtmpsrc_and_rtmp2src() -> Result<()> {
    let server = Server::start(ServerOptions::workers(2))?;
    let _publisher = media::publish_live(&server.rtmp("x"))?;
    server.wait_live("x")?;
    let dir = tempfile::tempdir()?;
    for source in ["rtmpsrc", "rtmp2src"] {
        let file = dir.path().join(source);
        let pipeline = format!("{source} location={} ! filesink location={}", server.rtmp("x"), file.display());
        let arguments: Vec<&str> = std::iter::once("-q").chain(pipeline.split_whitespace()).collect();
        let _player = Tool::start("gst-launch-1.0", &arguments)?;
        let got = eventually(PATIENCE, || std::fs::metadata(&file).ok().filter(|meta| meta.len() > 100_000));
        ensure!(got.is_some(), "{source} got nothing");
        ensure!(media::frames(&file.to_string_lossy(), "v", PATIENCE)?.len() > 10, "{source} got no frames");
    }
    Ok(())
}

#[test]
fn vlc_plays_rtmp_flv_and_hls() -> Result<()> {
    if !has("cvlc") || (is_root() && !has("setpriv")) {
        eprintln!("skipped: there is no VLC, or nobody to run it as");
        return Ok(());
    }
    let server = Server::start(ServerOptions::workers(2).set("hls.fragment=1s"))?;
    let _publisher = media::publish_live(&server.rtmp("x"))?;
    server.wait_live("x")?;
    let dir = tempfile::tempdir()?;
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
    for (url, name) in [(server.http("live/x.flv"), "flv"), (server.rtmp("x"), "rtmp"), (server.http("live/x.m3u8"), "hls")] {
        let file = dir.path().join(format!("{name}.ts"));
        let sout = format!("#std{{access=file,mux=ts,dst={}}}", file.display());
        let vlc = ["env", "HOME=/tmp", "cvlc", "-q", &url, "--sout", &sout];
        // VLC refuses to run as root.
        let nobody: &[&str] = if is_root() { &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] } else { &[] };
        let words = [nobody, &vlc].concat();
        let _player = Tool::start(words[0], &words[1..])?;
        let got = eventually(PATIENCE, || std::fs::metadata(&file).ok().filter(|meta| meta.len() > 50_000));
        ensure!(got.is_some(), "VLC got nothing by {name}");
    }
    Ok(())
}

#[test]
fn a_stream_pushed_to_an_address_is_watched_by_a_host_name() -> Result<()> {
    let server = Server::start(ServerOptions::workers(2))?;
    let _publisher = media::publish_live(&server.rtmp("x"))?;
    server.wait_live("x")?;
    ensure!(plays(&server.http("live/x.flv?vhost=watch.example"))? > 20, "by FLV");
    ensure!(plays(&format!("{}?vhost=watch.example", server.rtmp("x")))? > 20, "by RTMP");
    ensure!(server.status()?["streams"].as_array().is_some_and(|streams| streams.len() == 1), "another stream came into being");
    Ok(())
}

#[test]
fn vhosts_are_named_in_every_form() -> Result<()> {
    let server = Server::start(ServerOptions::workers(2))?;
    let rtmp = server.address("rtmp");
    let vhost_live = |vhost: &str, app: &str, stream: &str| {
        let listed = |server: &Server| {
            let status = server.status().ok()?;
            let is_it =
                |row: &&serde_json::Value| row["vhost"] == vhost && row["app"] == app && row["stream"] == stream && row["state"] == "live";
            status["streams"].as_array()?.iter().find(is_it).map(|_| ())
        };
        eventually(PATIENCE, || listed(&server)).with_context(|| format!("{vhost} {app} {stream} is not live: {:?}", server.status()))
    };
    let forms = [
        (format!("rtmp://{rtmp}/live/a?vhost=one.example"), "one.example", "live", "a"),
        (format!("rtmp://{rtmp}/live?vhost=two.example/b"), "two.example", "live", "b"),
        (format!("rtmp://{rtmp}/live...vhost...three.example/c"), "three.example", "live", "c"),
        (format!("rtmp://{rtmp}/live/d?domain=four.example&token=t"), "four.example", "live", "d"),
        (format!("rtmp://{rtmp}/live/e"), "__defaultVhost__", "live", "e"),
    ];
    let mut tools = Vec::new();
    for (url, vhost, app, stream) in &forms {
        tools.push(media::publish_live(url)?);
        vhost_live(vhost, app, stream)?;
    }
    ensure!(plays(&server.http("live/a.flv?vhost=one.example"))? > 20, "a stream of a vhost by FLV");
    ensure!(plays(&format!("rtmp://{rtmp}/live/b?vhost=two.example"))? > 20, "a stream of a vhost by RTMP");
    Ok(())
}
