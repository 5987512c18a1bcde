//! HLS of other codecs than H.264 and AAC: what segments carry is played, what they cannot is said, and nobody waits for it.

use anyhow::{Context, Result, ensure};
use braidcast_e2e::tools::{Tool, eventually, http_get, run, run_ok};
use braidcast_e2e::{Server, ServerOptions};
use std::path::{Path, PathBuf};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// The newest ffmpeg, which alone writes these codecs into FLV.
fn next() -> Result<String> {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/ffmpeg-next/ffmpeg");
    let path = std::env::var_os("BRAIDCAST_TEST_FFMPEG_NEXT").map_or_else(default, PathBuf::from);
    ensure!(path.exists(), "no {}: `make test` brings it, or name one by BRAIDCAST_TEST_FFMPEG_NEXT", path.display());
    Ok(path.to_string_lossy().into_owned())
}

const X265: &str =
    "-c:v libx265 -preset ultrafast -x265-params log-level=none:pools=1:frame-threads=1:bframes=2:scenecut=0:keyint=25:min-keyint=25";
const X264: &str = "-c:v libx264 -preset ultrafast -g 25 -bf 2 -threads 1 -sc_threshold 0";
const AV1: &str = "-c:v libsvtav1 -preset 12 -g 25 -svtav1-params lp=1";

/// A clip of ten seconds in a directory of its own.
struct Clip {
    _directory: tempfile::TempDir,
    path: String,
}

impl Clip {
    fn new(encode: &str) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("clip.flv").to_string_lossy().into_owned();
        let inputs = "-v error -y -f lavfi -i testsrc2=s=320x180:r=25:d=10 -f lavfi -i sine=440:r=48000:d=10";
        let words: Vec<&str> = inputs.split(' ').chain(encode.split(' ')).chain(["-f", "flv", &path]).collect();
        run_ok(&next()?, &words, PATIENCE)?;
        Ok(Self { _directory: directory, path })
    }

    /// Publishes it at its own speed.
    fn publish(&self, server: &Server) -> Result<Tool> {
        Tool::start(&next()?, &["-v", "error", "-re", "-i", &self.path, "-c", "copy", "-f", "flv", &server.rtmp("x")])
    }
}

fn server() -> Result<Server> {
    Server::start(ServerOptions::workers(2).set("hls.fragment=1s").set("hls.window=60s").set("play.reconnect_grace=1s"))
}

/// Hashes of the decoded frames of a stream of a file or an index.
fn decoded(source: &str, stream: &str) -> Result<Vec<String>> {
    let map = format!("0:{stream}:0");
    let arguments = ["-v", "error", "-i", source, "-map", &map, "-fps_mode", "passthrough", "-f", "framehash", "-hash", "md5", "-"];
    let listing = run_ok(&next()?, &arguments, PATIENCE)?;
    Ok(listing.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit(',').next()).map(str::to_owned).collect())
}

/// The text of the index once it has ended.
fn ended_index(server: &Server) -> Result<String> {
    let index = || http_get(&server.http("live/x.m3u8")).ok().map(|answer| answer.text()).filter(|text| text.contains("#EXT-X-ENDLIST"));
    eventually(PATIENCE, index).context("the index does not end")
}

/// A whole publish comes out of HLS as it went in: the same frames, named as the codecs they are, without a complaint.
fn comes_out_as_it_went_in(encode: &str, codecs: [&str; 2]) -> Result<()> {
    let (server, clip) = (server()?, Clip::new(encode)?);
    let _publisher = clip.publish(&server)?;
    ended_index(&server)?;
    let url = server.http("live/x.m3u8");
    let probed = run("ffprobe", &["-v", "warning", "-show_streams", &url], PATIENCE)?;
    let (streams, complaints) = (String::from_utf8_lossy(&probed.stdout), String::from_utf8_lossy(&probed.stderr));
    let found: Vec<&str> = streams.lines().filter_map(|line| line.strip_prefix("codec_name=")).collect();
    ensure!(found == codecs && complaints.is_empty(), "{found:?}: {complaints}");
    ensure!(decoded(&clip.path, "v")? == decoded(&url, "v")?, "the pictures differ");
    // Of Opus's first frame FLV's reader leaves out the encoder's pre-skip.
    let skipped = usize::from(codecs[1] == "opus");
    let (sent, got) = (decoded(&clip.path, "a")?, decoded(&url, "a")?);
    ensure!(sent.len() > 200 && sent[skipped..] == got[skipped..], "the sound differs: {} and {}", sent.len(), got.len());
    Ok(())
}

#[test]
fn hevc_and_opus() -> Result<()> {
    comes_out_as_it_went_in(&format!("{X265} -c:a libopus"), ["hevc", "opus"])
}

#[test]
fn hevc_and_ac3() -> Result<()> {
    comes_out_as_it_went_in(&format!("{X265} -c:a ac3"), ["hevc", "ac3"])
}

#[test]
fn h264_and_eac3() -> Result<()> {
    comes_out_as_it_went_in(&format!("{X264} -c:a eac3"), ["h264", "eac3"])
}

#[test]
fn a_worker_that_dies_changes_no_segment_of_hevc_and_opus() -> Result<()> {
    let (server, clip) = (server()?, Clip::new(&format!("{X265} -c:a libopus"))?);
    let _publisher = clip.publish(&server)?;
    eventually(PATIENCE, || http_get(&server.http("live/x.m3u8")).ok().filter(|answer| answer.text().contains("x/3.ts")))
        .context("segment 3 does not come")?;
    let worker = server.publisher_worker("x")?;
    server.kill_worker(worker)?;
    let index = ended_index(&server)?;
    ensure!(!index.contains("#EXT-X-DISCONTINUITY\n"), "{index}");
    let url = server.http("live/x.m3u8");
    for stream in ["v", "a"] {
        let (sent, got) = (decoded(&clip.path, stream)?, decoded(&url, stream)?);
        ensure!(sent.len() > 200 && sent[1..] == got[1..], "{stream}: {} and {}", sent.len(), got.len());
    }
    Ok(())
}

#[test]
fn a_stream_that_segments_cannot_carry_is_refused_at_once() -> Result<()> {
    let (server, clip) = (server()?, Clip::new(&format!("{AV1} -c:a flac"))?);
    let url = server.http("live/x.m3u8");
    // Somebody already waits when the stream begins.
    let waiting = std::thread::spawn(move || http_get(&url));
    let mut publisher = clip.publish(&server)?;
    let answer = waiting.join().expect("no panic")?;
    let told = |text: &str| text.contains("HLS cannot carry this stream (AV1 + FLAC)") && text.contains("HTTP-FLV");
    ensure!(answer.status == 404 && told(&answer.text()), "{}", answer.text());
    ensure!(publisher.is_running(), "it was told before the end of the stream");
    let again = http_get(&server.http("live/x.m3u8"))?;
    ensure!(again.status == 404 && told(&again.text()) && publisher.is_running(), "{}", again.text());
    server.wait_log(&["HLS leaves this codec out", "codec=AV1", "stream=live/x"])?;
    server.wait_log(&["HLS leaves this codec out", "codec=FLAC", "stream=live/x"])?;
    let stream = server.stream("x")?.context("no stream")?;
    ensure!(stream["hls"]["leaves_out"] == serde_json::json!(["AV1", "FLAC"]), "{stream}");
    ensure!(stream["segment"].is_null(), "{stream}");
    Ok(())
}

#[test]
fn of_a_picture_that_segments_cannot_carry_the_sound_is_left() -> Result<()> {
    let (server, clip) = (server()?, Clip::new(&format!("{AV1} -c:a aac"))?);
    let _publisher = clip.publish(&server)?;
    server.wait_live("x")?;
    let left_out = || {
        let page: serde_json::Value = serde_json::from_slice(&http_get(&server.http("streams.json")).ok()?.body).ok()?;
        (page["streams"][0]["hls"]["leaves_out"] == serde_json::json!(["AV1"])).then_some(())
    };
    eventually(PATIENCE, left_out).context("the page does not hear of it")?;
    ended_index(&server)?;
    let (sent, got) = (decoded(&clip.path, "a")?, decoded(&server.http("live/x.m3u8"), "a")?);
    ensure!(sent.len() > 200 && sent == got, "{} and {}", sent.len(), got.len());
    Ok(())
}
