//! The live index over changes: another codec in the middle, discontinuities that leave the window, the end of the stream.

use anyhow::{Context, Result, ensure};
use braidcast_e2e::media::{self, Clip};
use braidcast_e2e::rtmp::RtmpClient;
use braidcast_e2e::tools::{eventually, http_get};
use braidcast_e2e::{Record, Server, ServerOptions};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// What an index says.
#[derive(Debug)]
struct Index {
    text: String,
    media_sequence: u64,
    discontinuity_sequence: u64,
    /// Number, and whether a discontinuity is before it.
    segments: Vec<(u64, bool)>,
    ended: bool,
}

impl Index {
    fn parse(text: String) -> Result<Self> {
        let number = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
        let (mut segments, mut broken) = (Vec::new(), false);
        for line in text.lines() {
            broken |= line == "#EXT-X-DISCONTINUITY";
            if let Some(segment) = line.split('?').next().and_then(|path| path.strip_suffix(".ts")?.rsplit('/').next()?.parse().ok()) {
                segments.push((segment, std::mem::take(&mut broken)));
            }
        }
        let media_sequence = number("#EXT-X-MEDIA-SEQUENCE:").with_context(|| format!("no media sequence: {text}"))?;
        ensure!(segments.first().is_none_or(|(first, _)| *first == media_sequence), "media sequence and first segment differ: {text}");
        ensure!(segments.windows(2).all(|pair| pair[1].0 == pair[0].0 + 1), "a segment is missing: {text}");
        Ok(Self {
            media_sequence,
            discontinuity_sequence: number("#EXT-X-DISCONTINUITY-SEQUENCE:").unwrap_or(0),
            segments,
            ended: text.contains("#EXT-X-ENDLIST"),
            text,
        })
    }

    fn of(server: &Server) -> Option<Result<Self>> {
        let answer = http_get(&server.http("live/x.m3u8")).ok().filter(|answer| answer.status == 200)?;
        Some(Self::parse(answer.text()))
    }

    fn discontinuities(&self) -> u64 {
        self.segments.iter().filter(|(_, broken)| *broken).count() as u64
    }
}

fn wait_index(server: &Server, fits: impl Fn(&Index) -> bool) -> Result<Index> {
    let found = eventually(PATIENCE, || match Index::of(server) {
        Some(Ok(index)) if fits(&index) => Some(Ok(index)),
        Some(Err(error)) => Some(Err(error)),
        _ => None,
    });
    found.with_context(|| format!("the index never was as wanted: {:?}", Index::of(server)))?
}

/// A clip's records, their times moved to begin at `start_ms`.
fn records(clip: Clip, seconds: u32, start_ms: u32) -> Result<Vec<Record>> {
    let records = clip.records(seconds)?.into_iter();
    Ok(records.map(|record| Record { timestamp_ms: record.timestamp_ms + start_ms, ..record }).collect())
}

fn push(client: &mut RtmpClient, records: &[Record]) -> Result<()> {
    records.iter().try_for_each(|record| client.push(record))
}

#[test]
fn another_codec_in_the_middle_is_a_discontinuity() -> Result<()> {
    let server = Server::start(ServerOptions::workers(2).set("hls.fragment=1s").set("play.reconnect_grace=1s"))?;
    let mut client = RtmpClient::publish(&server.rtmp("x"))?;
    push(&mut client, &records(Clip::Plain, 6, 0)?)?;
    push(&mut client, &records(Clip::Wide, 6, 6_000)?)?;
    client.end()?;
    let index = wait_index(&server, |index| index.ended)?;
    ensure!(index.discontinuities() == 1 && index.discontinuity_sequence == 0, "{}", index.text);
    // Each half is decodable by itself, and together they are everything.
    let frames = media::frames(&server.http("live/x.m3u8"), "v", PATIENCE)?;
    ensure!(frames.len() == 300, "{} frames of 300", frames.len());
    Ok(())
}

#[test]
fn the_window_moves_and_counts_what_it_leaves_behind() -> Result<()> {
    let options = ServerOptions::workers(2).set("hls.fragment=1s").set("hls.window=4s").set("play.reconnect_grace=1s");
    let server = Server::start(options)?;
    let mut client = RtmpClient::publish(&server.rtmp("x"))?;
    push(&mut client, &records(Clip::Plain, 6, 0)?)?;
    let first = wait_index(&server, |index| index.segments.last().is_some_and(|(last, _)| *last >= 5))?;
    ensure!(first.media_sequence > 1 && first.segments.len() <= 6 && !first.ended, "the window does not move: {}", first.text);
    ensure!(first.discontinuities() + first.discontinuity_sequence == 0, "{}", first.text);

    // Three discontinuities: two codecs, and a publisher that comes back. Each is in the window or counted, never both, never lost.
    push(&mut client, &records(Clip::Wide, 6, 6_000)?)?;
    push(&mut client, &records(Clip::Plain, 6, 12_000)?)?;
    let both = wait_index(&server, |index| index.segments.last().is_some_and(|(last, _)| *last >= 16))?;
    ensure!(both.discontinuities() + both.discontinuity_sequence == 2, "{}", both.text);
    ensure!(both.discontinuity_sequence >= 1, "what left the window is not counted: {}", both.text);
    drop(client);
    let mut client = RtmpClient::publish(&server.rtmp("x"))?;
    push(&mut client, &records(Clip::Plain, 8, 0)?)?;
    client.end()?;
    let last = wait_index(&server, |index| index.ended)?;
    ensure!(last.discontinuity_sequence == 3 && last.discontinuities() == 0, "{}", last.text);
    ensure!(last.media_sequence > both.media_sequence, "{}", last.text);
    // What is out of the window is kept for indexes by time.
    ensure!(http_get(&server.http("live/x/1.ts"))?.status == 200, "segments do not outlive the window");
    let whole = http_get(&server.http("live/x.m3u8?start=-300s"))?;
    let whole = Index::parse(whole.text())?;
    ensure!(whole.discontinuities() == 3 && whole.media_sequence == 1 && whole.ended, "{}", whole.text);
    Ok(())
}

#[test]
fn old_segments_go_after_their_retention() -> Result<()> {
    let options = ServerOptions::workers(1).set("hls.fragment=500ms").set("hls.window=2s").set("hls.retention=3s");
    let server = Server::start(options)?;
    let _publisher = media::publish_loop(&Clip::ShortGop.file(20)?, &server.rtmp("x"))?;
    let index = wait_index(&server, |index| index.media_sequence > 6)?;
    eventually(PATIENCE, || (!server.stream_dir("x").join("hls/1.ts").exists()).then_some(())).context("the first segment stays")?;
    // Nothing goes that is still listed.
    let fresh = Index::of(&server).context("no index")??;
    for (number, _) in fresh.segments {
        ensure!(http_get(&server.http(&format!("live/x/{number}.ts")))?.status == 200, "segment {number} is listed and gone");
    }
    ensure!(server.workers_counter("segments_evicted") > 0, "not counted; {}", index.text);
    Ok(())
}

#[test]
fn an_ended_stream_that_comes_back_is_live_again() -> Result<()> {
    let server = Server::start(ServerOptions::workers(2).set("hls.fragment=1s").set("play.reconnect_grace=1s"))?;
    let mut client = RtmpClient::publish(&server.rtmp("x"))?;
    push(&mut client, &records(Clip::Plain, 4, 0)?)?;
    client.end()?;
    let ended = wait_index(&server, |index| index.ended)?;
    let _publisher = media::publish_live(&server.rtmp("x"))?;
    let again = wait_index(&server, |index| !index.ended && index.segments.len() > ended.segments.len() + 1)?;
    ensure!(again.discontinuities() == 1, "{}", again.text);
    Ok(())
}
