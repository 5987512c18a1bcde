//! Who serves whom: the placement policies, seen from outside.

use anyhow::{Context, Result, ensure};
use braidcast_e2e::media;
use braidcast_e2e::rtmp::{Pump, RawMessage, RawRtmp, RtmpClient, command, status_code};
use braidcast_e2e::tools::{Tool, eventually, run};
use braidcast_e2e::{Record, Server, ServerOptions, Viewer};
use braidcast_media::RecordKind;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

fn publishers_by_worker(server: &Server) -> Result<Vec<u64>> {
    let status = server.status()?;
    let workers = status["workers"].as_array().context("no workers")?;
    Ok(workers.iter().map(|worker| worker["publishers"].as_u64().unwrap_or(0)).collect())
}

/// One file, published under many names by stream copy: cheap enough for two cores.
fn publish_many(server: &Server, count: usize) -> Result<Vec<Tool>> {
    let mut tools = Vec::new();
    for number in 0..count {
        tools.push(media::publish_live(&server.rtmp(&format!("s{number}")))?);
        server.wait_live(&format!("s{number}"))?;
    }
    Ok(tools)
}

fn shares(options: ServerOptions, want: &[u64]) -> Result<()> {
    let server = Server::start(options)?;
    let _tools = publish_many(&server, 12)?;
    let got = eventually(PATIENCE, || publishers_by_worker(&server).ok().filter(|got| got == want));
    ensure!(got.is_some(), "wanted {want:?}, got {:?}", publishers_by_worker(&server));
    Ok(())
}

#[test]
fn twelve_publishers_on_three_workers_are_four_each() -> Result<()> {
    shares(ServerOptions::workers(3).set("placement.publish=even"), &[4, 4, 4])
}

#[test]
fn weights_of_one_two_three_share_twelve_publishers_two_four_six() -> Result<()> {
    let mut options = ServerOptions::workers(3);
    options.file = (1..=3).map(|id| format!("[[worker]]\nid = {id}\nweight = {id}\n")).collect();
    shares(options, &[2, 4, 6])
}

#[test]
fn max_publishers_is_a_hard_limit_and_status_shows_allowed_current_free() -> Result<()> {
    let mut options = ServerOptions::workers(2);
    options.file = "[[worker]]\nid = 1\nmax_publishers = 1\n[[worker]]\nid = 2\nmax_publishers = 2\n".into();
    let server = Server::start(options)?;
    let _tools = publish_many(&server, 3)?;
    let rows = [server.worker(1)?, server.worker(2)?];
    for (row, allowed) in rows.iter().zip([1, 2]) {
        ensure!(row["allowed"] == allowed && row["current"] == allowed && row["free"] == 0, "{row}");
    }
    let file = media::Clip::Plain.file(10)?;
    let refused =
        run("ffmpeg", &["-v", "error", "-i", &file.to_string_lossy(), "-c", "copy", "-f", "flv", &server.rtmp("one-too-many")], PATIENCE)?;
    ensure!(!refused.status.success(), "the fourth publisher was taken");
    ensure!(server.log_text().contains("max_publishers"), "the log does not say why");
    Ok(())
}

#[test]
fn a_publish_lands_on_the_chosen_worker_whichever_accepted_it() -> Result<()> {
    // Sessions move: with weights 1:9 nearly all publishers belong to worker 2, wherever they were accepted.
    let mut options = ServerOptions::workers(2);
    options.file = "[[worker]]\nid = 2\nweight = 9\n".into();
    let server = Server::start(options)?;
    let _tools = publish_many(&server, 5)?;
    let landed = eventually(PATIENCE, || publishers_by_worker(&server).ok().filter(|got| got == &[0, 5]));
    ensure!(landed.is_some(), "{:?}", publishers_by_worker(&server));
    let moved = server.worker(1)?["counters"]["moves_out"].as_u64().unwrap_or(0);
    ensure!(moved > 0, "nothing was moved, so nothing was shown");
    Ok(())
}

fn viewers_by_worker(server: &Server) -> Result<Vec<u64>> {
    let status = server.status()?;
    let workers = status["workers"].as_array().context("no workers")?;
    Ok(workers.iter().map(|worker| worker["viewers"].as_u64().unwrap_or(0)).collect())
}

/// So many viewers of one stream, half of them by each protocol, until they are all placed as wanted.
fn viewers_land(server: &Server, count: usize, want: &[u64]) -> Result<()> {
    let _pump = Pump::start(&server.rtmp("x"), "x")?;
    let viewers: Vec<Viewer> = (0..count)
        .map(|n| if n % 2 == 0 { Viewer::flv(server.address("http"), "live/x.flv") } else { Viewer::rtmp(&server.rtmp("x")) })
        .collect::<Result<_>>()?;
    let landed = eventually(PATIENCE, || viewers_by_worker(server).ok().filter(|got| got == want));
    ensure!(landed.is_some(), "wanted {want:?}, got {:?}", viewers_by_worker(server));
    for viewer in viewers {
        viewer.wait_more(5)?;
        viewer.end()?;
    }
    Ok(())
}

#[test]
fn viewers_go_to_the_least_loaded_worker() -> Result<()> {
    // The publisher counts as well: eleven sessions in all on three workers.
    let server = Server::start(ServerOptions::workers(3))?;
    viewers_land(&server, 11, &[3, 4, 4])
}

#[test]
fn viewers_go_where_the_fewest_publish_slots_are() -> Result<()> {
    let mut options = ServerOptions::workers(3).set("placement.play=fewest-publish-slots");
    options.file = "[[worker]]\nid = 1\nmax_publishers = 9\n[[worker]]\nid = 2\nmax_publishers = 2\n".into();
    let server = Server::start(options)?;
    // Worker 1 takes the publisher and has 8 slots, worker 2 has 2, worker 3 any number.
    viewers_land(&server, 6, &[0, 6, 0])
}

#[test]
fn measured_places_by_what_is_spare_and_survives_a_death() -> Result<()> {
    let server = Server::start(ServerOptions::workers(2).set("placement.publish=measured"))?;
    let pumps: Vec<Pump> = (0..6).map(|n| Pump::start(&server.rtmp(&format!("m{n}")), "m")).collect::<Result<_>>()?;
    let all = |want: u64| eventually(PATIENCE, || publishers_by_worker(&server).ok().filter(|got| got.iter().sum::<u64>() == want));
    let shares = all(6).context("six publishers")?;
    ensure!(shares.iter().all(|share| *share >= 1), "an idle worker got none: {shares:?}");
    server.kill_worker(1)?;
    drop(pumps);
    let _pumps: Vec<Pump> = (0..6).map(|n| Pump::start(&server.rtmp(&format!("n{n}")), "m")).collect::<Result<_>>()?;
    all(6).with_context(|| format!("after a death: {:?}", publishers_by_worker(&server)))?;
    Ok(())
}

#[test]
fn max_publishers_in_all_refuses_clearly_and_frees_again() -> Result<()> {
    let server = Server::start(ServerOptions::workers(2).set("placement.max_publishers=2"))?;
    let mut pumps: Vec<Pump> = (0..2).map(|n| Pump::start(&server.rtmp(&format!("s{n}")), "s")).collect::<Result<_>>()?;
    let Err(error) = RtmpClient::publish(&server.rtmp("third")) else { anyhow::bail!("the third publisher was taken") };
    let said = format!("{error:#}");
    ensure!(said.contains("NetStream.Publish.Denied") && said.contains("max_publishers"), "{said}");
    ensure!(server.front_counter("refused_publishers_full") == 1, "not counted");
    server.wait_log(&["WARN", "live/third", "peer=127.0.0.1", "max_publishers"])?;
    // On a sub-port, on any worker, again and again: the limit is one for all.
    ensure!(server.status()?["instance"]["allowed"] == 2, "{:?}", server.status());
    pumps.pop();
    eventually(PATIENCE, || RtmpClient::publish(&server.rtmp("third")).ok()).context("no room after one had left")?;
    ensure!(pumps[0].is_running(), "the first publisher was disturbed");
    Ok(())
}

#[test]
fn a_moved_client_has_one_conversation() -> Result<()> {
    // Everything in one write: the media behind `publish` is with the first worker when the session moves.
    let mut options = ServerOptions::workers(3).set("hls.enabled=false");
    options.file = "[[worker]]\nid = 3\nweight = 100\n".into();
    let server = Server::start(options)?;
    let rtmp = server.address("rtmp");
    for number in 0..12u32 {
        let name = format!("moved{number}");
        let mut raw = RawRtmp::connect(rtmp)?;
        let mut bytes: Vec<u8> = RawRtmp::publish_calls(rtmp, "live", &name).iter().flat_map(|call| call.bytes(128)).collect();
        let frames: Vec<Record> = (0..40)
            .map(|at| Record {
                kind: RecordKind::Video,
                timestamp_ms: at * 40,
                payload: [&[Pump::FRAME][..], &vec![at as u8; 3_000 + number as usize]].concat(),
            })
            .collect();
        bytes.extend(frames.iter().flat_map(|frame| RawMessage::media(frame).bytes(128)));
        raw.write(&bytes)?;
        let (mut results, mut starts) = (Vec::new(), 0);
        let deadline = Instant::now() + PATIENCE;
        while starts == 0 {
            ensure!(Instant::now() < deadline, "{name} was not started; results: {results:?}");
            let Some(values) = raw.next(Duration::from_millis(200))?.and_then(|message| command(&message)) else { continue };
            match values[0].as_str() {
                Some("_result") => results.push(values[1].as_number().unwrap_or(0.0) as u32),
                Some("onStatus") => {
                    ensure!(status_code(&values) == Some("NetStream.Publish.Start"), "{values:?}");
                    starts += 1;
                }
                _ => {}
            }
        }
        ensure!(results == [1, 2], "{name} was answered {results:?}");
        // Nothing was lost on the way, and nothing came twice.
        let records = || server.stream(&name).ok().flatten().and_then(|stream| stream["records"].as_u64());
        eventually(PATIENCE, || (records() == Some(40)).then_some(())).with_context(|| format!("{name} has {:?} records", records()))?;
        ensure!(raw.next(Duration::from_millis(50))?.and_then(|message| command(&message)).is_none(), "a second answer");
    }
    ensure!(server.worker(3)?["current"] == 0 || server.publisher_worker("moved11").is_ok(), "{:?}", server.status());
    ensure!(server.front_counter("moves") >= 6, "only {} moves", server.front_counter("moves"));
    Ok(())
}
