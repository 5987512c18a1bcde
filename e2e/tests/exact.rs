//! What goes in comes out: packets by FLV and RTMP, decoded frames by HLS, through every worker.

use anyhow::{Context, Result, ensure};
use braidcast_e2e::media::{self, Clip, Packet};
use braidcast_e2e::{Server, ServerOptions, eventually};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(90);

/// Publishes the clip once while one viewer records through each worker by each protocol; gives the recordings' packets.
fn through_every_worker(clip: Clip, seconds: u32) -> Result<()> {
    let server = Server::start(ServerOptions {
        sub_ports: true,
        ..ServerOptions::workers(2).set("play.reconnect_grace=1s").set("play.play_wait=60s")
    })?;
    let file = clip.file(seconds)?;
    let want = media::packets(&file.to_string_lossy(), PATIENCE)?;
    ensure!(want.len() > seconds as usize * 10, "the clip has only {} packets", want.len());

    // Viewers first, so that they see the first frame.
    let mut recordings = Vec::new();
    for worker in 1..=2 {
        let port = server.sub_port(worker);
        for url in [format!("http://{port}/live/clip.flv"), format!("rtmp://{port}/live/clip")] {
            let child = Command::new("timeout")
                .args([
                    "90",
                    "ffmpeg",
                    "-v",
                    "error",
                    "-i",
                    &url,
                    "-map",
                    "0",
                    "-c",
                    "copy",
                    "-copyts",
                    "-f",
                    "framehash",
                    "-hash",
                    "md5",
                    "-",
                ])
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .spawn()
                .context("starting a viewer")?;
            recordings.push((url, child));
        }
    }
    server.wait_placed("clip", 4).context("the viewers did not connect")?;
    let mut publisher = media::publish(&file, &server.rtmp("clip"))?;
    ensure!(publisher.wait(PATIENCE)?.success(), "the publisher failed");
    for (url, child) in recordings {
        let output = child.wait_with_output()?;
        let got = media::parse_framehash(&String::from_utf8_lossy(&output.stdout));
        same_packets(&want, &got).with_context(|| format!("{clip:?} by {url}"))?;
    }
    Ok(())
}

/// The same packets of each track, in the same order, with the same times.
fn same_packets(want: &[Packet], got: &[Packet]) -> Result<()> {
    for stream in 0..2 {
        let of = |packets: &[Packet]| packets.iter().filter(|packet| packet.stream == stream).cloned().collect::<Vec<_>>();
        let (want, got) = (of(want), of(got));
        let differs = want.iter().zip(&got).position(|(want, got)| want != got);
        if let Some(at) = differs {
            anyhow::bail!("track {stream} differs at packet {at}: wanted {:?}, got {:?}", want[at], got[at]);
        }
        ensure!(want.len() == got.len(), "track {stream}: wanted {} packets, got {}", want.len(), got.len());
    }
    Ok(())
}

/// The same decoded frames in the same order, their times equal up to one offset.
fn same_frames(want: &[Packet], got: &[Packet]) -> Result<()> {
    ensure!(want.len() == got.len(), "wanted {} frames, got {}", want.len(), got.len());
    let Some((first_want, first_got)) = want.first().zip(got.first()) else { return Ok(()) };
    let offset = first_got.pts_ms - first_want.pts_ms;
    for (at, (want, got)) in want.iter().zip(got).enumerate() {
        ensure!(want.hash == got.hash, "frame {at} differs");
        let error = (got.pts_ms - want.pts_ms - offset).abs();
        // 90 kHz and milliseconds both round.
        ensure!(error <= 2, "frame {at} is {error} ms off: wanted {} + {offset}, got {}", want.pts_ms, got.pts_ms);
    }
    Ok(())
}

fn by_hls(clip: Clip, seconds: u32) -> Result<()> {
    let server = Server::start(ServerOptions::workers(2).set("hls.fragment=1s").set("hls.window=300s").set("play.reconnect_grace=1s"))?;
    let file = clip.file(seconds)?;
    let mut publisher = media::publish(&file, &server.rtmp("clip"))?;
    ensure!(publisher.wait(PATIENCE)?.success(), "the publisher failed");
    let index = server.stream_dir("clip").join("hls/index.m3u8");
    eventually(PATIENCE, || std::fs::read_to_string(&index).ok().filter(|text| text.contains("#EXT-X-ENDLIST")))
        .context("the index did not end")?;
    for kind in ["v", "a"] {
        if if kind == "v" { clip.has_video() } else { clip.has_audio() } {
            let want = media::frames(&file.to_string_lossy(), kind, PATIENCE)?;
            let got = media::frames(&server.http("live/clip.m3u8"), kind, PATIENCE)?;
            same_frames(&want, &got).with_context(|| format!("{clip:?} by HLS, {kind}"))?;
        }
    }
    segments_are_clean(&server.stream_dir("clip").join("hls"))
}

/// ffprobe finds nothing to complain of in any segment.
fn segments_are_clean(dir: &Path) -> Result<()> {
    let mut segments = 0;
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "ts") {
            segments += 1;
            let output = Command::new("ffprobe").args(["-v", "warning", "-show_packets"]).arg(&path).output()?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(output.status.success() && said.trim().is_empty(), "{}: {said}", path.display());
        }
    }
    ensure!(segments > 0, "no segments in {}", dir.display());
    Ok(())
}

macro_rules! clips {
    ($($name:ident: $clip:ident, $seconds:literal;)+) => {
        mod packets {
            use super::*;
            $(#[test] fn $name() -> Result<()> { through_every_worker(Clip::$clip, $seconds) })+
        }
        mod hls {
            use super::*;
            $(#[test] fn $name() -> Result<()> { by_hls(Clip::$clip, $seconds) })+
        }
    };
}

clips! {
    b_frames: BFrames, 6;
    plain: Plain, 6;
    audio_only: AudioOnly, 6;
    video_only: VideoOnly, 6;
    long_gop: LongGop, 13;
    short_gop: ShortGop, 6;
    all_intra: AllIntra, 5;
    mp3: Mp3, 6;
}
