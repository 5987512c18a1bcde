//! HLS of the founding method: numbers that never fall, indexes that can be made again, clips by time.

use anyhow::{Context, Result, ensure};
use braidcast_e2e::media;
use braidcast_e2e::server::binary;
use braidcast_e2e::tools::{eventually, http, http_get, run_ok};
use braidcast_e2e::{Server, ServerOptions};
use std::path::Path;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

fn options() -> ServerOptions {
    ServerOptions::workers(2).set("hls.fragment=1s").set("play.reconnect_grace=3s")
}

/// The segment numbers an index lists.
fn numbers(index: &str) -> Vec<u64> {
    index.lines().filter_map(|line| line.split('?').next()?.strip_suffix(".ts")?.rsplit('/').next()?.parse().ok()).collect()
}

fn tag<'a>(index: &'a str, name: &str) -> Option<&'a str> {
    index.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
}

fn live_index(server: &Server) -> Option<String> {
    http_get(&server.http("live/x.m3u8")).ok().filter(|answer| answer.status == 200).map(|answer| answer.text())
}

/// Waits until the live index lists a segment with at least this number.
fn index_with(server: &Server, number: u64) -> Result<String> {
    eventually(PATIENCE, || live_index(server).filter(|index| numbers(index).last() >= Some(&number)))
        .with_context(|| format!("segment {number} did not come; index: {:?}", live_index(server)))
}

fn rises_by_one(numbers: &[u64]) -> bool {
    numbers.windows(2).all(|pair| pair[1] == pair[0] + 1)
}

#[test]
fn segments_are_numbered_from_one_and_served_with_the_right_heads() -> Result<()> {
    let server = Server::start(options())?;
    let _publisher = media::publish_live(&server.rtmp("x"))?;
    let index = index_with(&server, 3)?;
    ensure!(numbers(&index).first() == Some(&1) && rises_by_one(&numbers(&index)), "{index}");
    ensure!(tag(&index, "#EXT-X-MEDIA-SEQUENCE") == Some("1"), "{index}");
    ensure!(index.contains("#EXT-X-PROGRAM-DATE-TIME:") && !index.contains("ENDLIST"), "{index}");
    let target: f64 = tag(&index, "#EXT-X-TARGETDURATION").context("no target duration")?.parse()?;
    for duration in index.lines().filter_map(|line| line.strip_prefix("#EXTINF:")?.split(',').next()) {
        ensure!(duration.parse::<f64>()?.round() <= target, "{index}");
    }
    let head = http("HEAD", &server.http("live/x.m3u8"))?;
    ensure!(head.head.contains("application/vnd.apple.mpegurl") && head.head.contains("no-cache"), "{}", head.head);
    let segment = http_get(&server.http("live/x/2.ts"))?;
    ensure!(
        segment.head.contains("video/mp2t") && segment.head.contains("max-age") && segment.head.contains("Access-Control-Allow-Origin: *")
    );
    ensure!(segment.body.len() % 188 == 0 && !segment.body.is_empty() && segment.body[0] == 0x47, "not MPEG-TS");
    let named = http_get(&server.http("live/x/index.m3u8"))?.text();
    ensure!(named.lines().any(|line| line == "2.ts"), "{named}");
    Ok(())
}

#[test]
fn numbers_go_on_after_a_reconnect_a_killed_worker_and_a_restart() -> Result<()> {
    let mut server = Server::start(options())?;
    let publisher = media::publish_live(&server.rtmp("x"))?;
    index_with(&server, 2)?;
    drop(publisher);

    // The publisher comes back: the next number, with a discontinuity.
    let publisher = media::publish_live(&server.rtmp("x"))?;
    let last = *numbers(&live_index(&server).context("no index")?).last().context("an empty index")?;
    let index = index_with(&server, last + 2)?;
    ensure!(rises_by_one(&numbers(&index)) && index.contains("#EXT-X-DISCONTINUITY\n"), "{index}");

    // Its worker is killed; somebody publishes again.
    let worker = server.publisher_worker("x")?;
    server.kill_worker(worker)?;
    drop(publisher);
    let publisher = media::publish_live(&server.rtmp("x"))?;
    let last = *numbers(&live_index(&server).context("no index")?).last().context("an empty index")?;
    let index = index_with(&server, last + 2)?;
    ensure!(rises_by_one(&numbers(&index)), "{index}");
    ensure!(index.matches("#EXT-X-DISCONTINUITY\n").count() >= 2, "{index}");

    // The server is ended and started again, the directory kept.
    server.stop()?;
    drop(publisher);
    let index_file = server.stream_dir("x").join("hls/index.m3u8");
    let last = *numbers(&std::fs::read_to_string(&index_file)?).last().context("an empty index")?;
    let reuse = Some((server.shared_dir.clone(), server.state_dir.clone()));
    let second = Server::start(ServerOptions { reuse: reuse.clone(), ..options() })?;
    let publisher = media::publish_live(&second.rtmp("x"))?;
    let index = index_with(&second, last + 1)?;
    ensure!(rises_by_one(&numbers(&index)) && numbers(&index).contains(&(last + 1)), "{index}");
    drop(publisher);
    drop(second);

    // The machine starts again: the RAM directory is empty, the numbers are not.
    let last = numbers(&std::fs::read_to_string(&index_file)?).last().copied().context("an empty index")?;
    for entry in std::fs::read_dir(&server.shared_dir)? {
        let path = entry?.path();
        if path.is_dir() { std::fs::remove_dir_all(path)? } else { std::fs::remove_file(path)? }
    }
    let third = Server::start(ServerOptions { reuse, ..options() })?;
    let _publisher = media::publish_live(&third.rtmp("x"))?;
    let index = index_with(&third, last + 1)?;
    ensure!(numbers(&index).iter().all(|number| *number > last), "a number fell: {index}");
    Ok(())
}

#[test]
fn a_deleted_index_is_made_again_from_the_segments() -> Result<()> {
    let mut server = Server::start(options())?;
    let publisher = media::publish_live(&server.rtmp("x"))?;
    index_with(&server, 4)?;
    server.stop()?;
    drop(publisher);
    let dir = server.stream_dir("x");
    let index = dir.join("hls/index.m3u8");
    let before = std::fs::read_to_string(&index)?;
    std::fs::remove_file(&index)?;
    let said = run_ok(&binary().to_string_lossy(), &["index", "rebuild", &dir.to_string_lossy(), "--verify-with-ffprobe"], PATIENCE)?;
    ensure!(std::fs::read_to_string(&index)? == before, "the rebuilt index differs; {said}");

    // A start does the same by itself.
    std::fs::remove_file(&index)?;
    let reuse = Some((server.shared_dir.clone(), server.state_dir.clone()));
    let second = Server::start(ServerOptions { reuse, ..options() })?;
    let found = eventually(PATIENCE, || std::fs::read_to_string(&index).ok());
    ensure!(found.map(|text| numbers(&text)) == Some(numbers(&before)), "not rebuilt at start: {}", second.log_text());
    Ok(())
}

#[test]
fn clips_hold_exactly_the_segments_of_their_range() -> Result<()> {
    let server = Server::start(options())?;
    let _publisher = media::publish_live(&server.rtmp("x"))?;
    let index = index_with(&server, 6)?;
    let dates: Vec<&str> = index.lines().filter_map(|line| line.strip_prefix("#EXT-X-PROGRAM-DATE-TIME:")).collect();
    ensure!(dates.len() >= 6, "not every segment has a date: {index}");
    // From the middle of segment 2 to the middle of segment 4: exactly 2, 3, 4.
    let within = |date: &str| -> Result<String> {
        let (day, rest) = date.split_once('T').context("no date")?;
        let (seconds, fraction) = rest.split_once('.').context("no fraction")?;
        let milliseconds: u32 = fraction.chars().take(3).collect::<String>().parse()?;
        // A fragment is a second long: 300 ms later is inside it, whatever the fraction was.
        let (carry, milliseconds) = ((milliseconds + 300) / 1000, (milliseconds + 300) % 1000);
        ensure!(seconds.len() == 8, "{date}");
        let clock: Vec<u32> = seconds.split(':').map(str::parse).collect::<Result<_, _>>()?;
        let total = clock[0] * 3600 + clock[1] * 60 + clock[2] + carry;
        Ok(format!("{day}T{:02}:{:02}:{:02}.{milliseconds:03}Z", total / 3600, total / 60 % 60, total % 60))
    };
    let (start, end) = (within(dates[1])?, within(dates[3])?);
    let clip = http_get(&server.http(&format!("live/x.m3u8?start={start}&end={end}")))?;
    ensure!(clip.status == 200 && clip.text().contains("#EXT-X-ENDLIST"), "{}", clip.text());
    ensure!(numbers(&clip.text()) == [2, 3, 4], "{start} to {end}: {}", clip.text());

    let dir = server.stream_dir("x");
    let arguments = ["index", "clip", &dir.to_string_lossy(), "--start", &start, "--end", &end, "--name", "live001"];
    run_ok(&binary().to_string_lossy(), &arguments, PATIENCE)?;
    let named = http_get(&server.http("live/x/live001.m3u8"))?;
    ensure!(named.status == 200 && numbers(&named.text()) == [2, 3, 4], "{}", named.text());
    let recent = http_get(&server.http("live/x.m3u8?start=-3s"))?;
    ensure!(recent.status == 200 && !numbers(&recent.text()).is_empty(), "{}", recent.text());
    ensure!(http_get(&server.http("live/x.m3u8?start=yesterday"))?.status == 400, "a bad time");
    ensure!(http_get(&server.http("live/x.m3u8?start=-5s&end=-10s"))?.status == 400, "an end before the start");
    let nothing = http_get(&server.http("live/x.m3u8?start=-3000s&end=-2000s"))?;
    ensure!(nothing.status == 404 && nothing.text().contains("no segment shows"), "{}", nothing.text());
    Ok(())
}

#[test]
fn an_ended_stream_gets_an_end_and_is_disposed_of() -> Result<()> {
    let server = Server::start(options().set("play.reconnect_grace=1s").set("hls.hls_dispose=2s"))?;
    let publisher = media::publish_live(&server.rtmp("x"))?;
    index_with(&server, 2)?;
    drop(publisher);
    server.wait_log(&["publishing ended: the client ", "stream=live/x", "peer=127.0.0.1"])?;
    let index = server.stream_dir("x").join("hls/index.m3u8");
    let ended = eventually(PATIENCE, || std::fs::read_to_string(&index).ok().filter(|text| text.contains("#EXT-X-ENDLIST")));
    ensure!(ended.is_some(), "no ENDLIST: {:?}", std::fs::read_to_string(&index));
    eventually(PATIENCE, || (!server.stream_dir("x").exists()).then_some(())).context("the directory stays")
}

#[test]
fn every_worker_serves_index_and_segments() -> Result<()> {
    let server = Server::start(ServerOptions { sub_ports: true, ..options() })?;
    let _publisher = media::publish_live(&server.rtmp("x"))?;
    index_with(&server, 2)?;
    let bodies: Vec<Vec<u8>> =
        (1..=2).map(|worker| Ok(http_get(&format!("http://{}/live/x/1.ts", server.sub_port(worker)))?.body)).collect::<Result<_>>()?;
    ensure!(!bodies[0].is_empty() && bodies[0] == bodies[1], "the workers serve different bytes");
    ensure!(Path::new(&server.stream_dir("x").join("hls/1.ts")).exists());
    Ok(())
}
