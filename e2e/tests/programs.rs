//! Encoders and players other than ffmpeg's own pair, and the forms of names they use.

use anyhow::{Context, Result, ensure};
use braidcast_e2e::media;
use braidcast_e2e::server::signal;
use braidcast_e2e::tools::{Tool, eventually, has, http_get, is_root, run};
use braidcast_e2e::{Server, ServerOptions};
use std::path::Path;
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
        // Decoded, and encoded again, so that the file shows what was decoded.
        let sout = format!("#transcode{{vcodec=mp2v,vb=800,acodec=mpga}}:std{{access=file,mux=ts,dst={}}}", file.display());
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

/// A display without a screen; ended in order, so that it takes its lock file with it.
struct Display {
    xvfb: Tool,
    name: String,
}

impl Display {
    fn open(dir: &Path) -> Result<Self> {
        let number = dir.join("display");
        let xvfb =
            Tool::start("sh", &["-c", &format!("exec Xvfb -displayfd 3 -nolisten tcp -screen 0 1024x768x24 3>{}", number.display())])?;
        let told = || std::fs::read_to_string(&number).ok().filter(|text| text.ends_with('\n'));
        let name = format!(":{}", eventually(PATIENCE, told).context("no display")?.trim());
        Ok(Self { xvfb, name })
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        let _ = signal(self.xvfb.pid(), "TERM");
        let _ = self.xvfb.wait(Duration::from_secs(5));
    }
}

/// A home for OBS with one scene (a coloured rectangle) and a custom server to stream to.
fn obs_home(dir: &Path, server: &str, key: &str) -> Result<()> {
    let config = dir.join(".config/obs-studio");
    let profile = config.join("basic/profiles/Test");
    std::fs::create_dir_all(&profile)?;
    std::fs::create_dir_all(config.join("basic/scenes"))?;
    let choices = "Profile=Test\nProfileDir=Test\nSceneCollection=Test\nSceneCollectionFile=Test\n";
    // A first run, or a newer version than the last, would open a window and wait.
    std::fs::write(
        config.join("global.ini"),
        format!("[General]\nFirstRun=true\nLastVersion=4000000000\nInfoIncrement=9999\n[Basic]\n{choices}"),
    )?;
    let video = "[Video]\nBaseCX=640\nBaseCY=360\nOutputCX=640\nOutputCY=360\nFPSType=0\nFPSCommon=30\n";
    let output = "[Output]\nMode=Simple\n[SimpleOutput]\nVBitrate=800\nStreamEncoder=x264\nUseAdvanced=true\nPreset=ultrafast\n\
                  x264Settings=keyint=30 threads=1\nABitrate=96\n";
    std::fs::write(
        profile.join("basic.ini"),
        format!("[General]\nName=Test\n{video}{output}[Audio]\nSampleRate=44100\nChannelSetup=Stereo\n"),
    )?;
    let service =
        serde_json::json!({"type": "rtmp_custom", "settings": {"server": server, "key": key, "bwtest": false, "use_auth": false}});
    std::fs::write(profile.join("service.json"), service.to_string())?;
    let colour =
        serde_json::json!({"id": "color_source_v3", "name": "c", "settings": {"color": 4_283_826_005_u32, "width": 400, "height": 200}});
    let items = serde_json::json!([{"name": "c", "id": 1, "visible": true, "pos": {"x": 0.0, "y": 0.0}, "scale": {"x": 1.0, "y": 1.0}}]);
    let scene = serde_json::json!({"id": "scene", "name": "S", "settings": {"items": items, "id_counter": 1}});
    let scenes = serde_json::json!({
        "name": "Test", "current_scene": "S", "current_program_scene": "S", "scene_order": [{"name": "S"}], "sources": [scene, colour],
    });
    Ok(std::fs::write(config.join("basic/scenes/Test.json"), scenes.to_string())?)
}

#[test]
fn obs_publishes() -> Result<()> {
    if !has("obs") || !has("Xvfb") {
        eprintln!("skipped: there is no OBS, or no Xvfb to show it on");
        return Ok(());
    }
    let server = Server::start(ServerOptions::workers(2).set("hls.fragment=1s"))?;
    let dir = tempfile::tempdir()?;
    // A key with a query and a slash in it, as hosts give them out.
    obs_home(dir.path(), &format!("rtmp://{}/live", server.address("rtmp")), "obs?token=a/b")?;
    let display = Display::open(dir.path())?;
    let home = dir.path().display();
    let environment = [
        format!("HOME={home}"),
        format!("XDG_CONFIG_HOME={home}/.config"),
        format!("XDG_RUNTIME_DIR={home}"),
        format!("DISPLAY={}", display.name),
        "LIBGL_ALWAYS_SOFTWARE=1".to_owned(),
    ];
    let words: Vec<&str> =
        environment.iter().map(String::as_str).chain(["obs", "--startstreaming", "--minimize-to-tray", "--multi"]).collect();
    let _obs = Tool::start("env", &words)?;
    let row = server.wait_live("obs")?;
    ensure!(plays(&server.http("live/obs.flv"))? >= 50, "too few frames by FLV");
    ensure!(plays(&server.rtmp("obs"))? >= 50, "too few frames by RTMP");
    eventually(PATIENCE, || http_get(&server.http("live/obs.m3u8")).ok().filter(|answer| answer.status == 200)).context("no index")?;
    ensure!(plays(&server.http("live/obs.m3u8"))? >= 50, "too few frames by HLS");
    let row = server.stream("obs")?.unwrap_or(row);
    ensure!(row["video"] == "H.264" && row["audio"] == "AAC", "{row}");
    Ok(())
}

#[test]
fn mpv_and_rtmpdump_play() -> Result<()> {
    let server = Server::start(ServerOptions::workers(2).set("hls.fragment=1s"))?;
    let _publisher = media::publish_live(&server.rtmp("x"))?;
    server.wait_live("x")?;
    eventually(PATIENCE, || http_get(&server.http("live/x.m3u8")).ok().filter(|answer| answer.status == 200)).context("no index")?;
    let dir = tempfile::tempdir()?;
    if has("mpv") {
        for (name, url) in [("flv", server.http("live/x.flv")), ("rtmp", server.rtmp("x")), ("hls", server.http("live/x.m3u8"))] {
            // Decoded, and encoded again, so that the file shows what was decoded.
            let file = dir.path().join(format!("{name}.ts"));
            let out = format!("--o={}", file.display());
            let _player = Tool::start("mpv", &["--no-config", "--really-quiet", "--of=mpegts", "--ovc=mpeg4", "--no-audio", &out, &url])?;
            let got = eventually(PATIENCE, || std::fs::metadata(&file).ok().filter(|meta| meta.len() > 60_000));
            ensure!(got.is_some(), "mpv got nothing by {name}");
        }
    }
    if has("rtmpdump") {
        let file = dir.path().join("dump.flv");
        let _player = Tool::start("rtmpdump", &["-q", "--live", "-r", &server.rtmp("x"), "-o", &file.to_string_lossy()])?;
        let got = eventually(PATIENCE, || std::fs::metadata(&file).ok().filter(|meta| meta.len() > 100_000));
        ensure!(got.is_some(), "rtmpdump got nothing");
        ensure!(media::frames(&file.to_string_lossy(), "v", PATIENCE)?.len() > 10, "rtmpdump got no frames");
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
