//! What publishers send rests while nobody watches: it outlives every death all the same, and whoever comes finds it.

use anyhow::{Context, Result, ensure};
use braidcast_e2e::chaos::{Scenario, Segment};
use braidcast_e2e::media::Clip;
use braidcast_e2e::rtmp::RtmpClient;
use braidcast_e2e::tools::{eventually, open_directory};
use braidcast_e2e::{Record, Server, ServerOptions, Viewer};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// Steps of a worker by which input comes that rests, and leaves its rest.
const STEPS: &[&str] = &["received", "taken_in", "checkpoint", "row_saved", "half_written", "batch_saved", "after_word"];

/// Streams that nobody watches. Their segmenters have what rests taken in, before the pause is over.
fn unwatched(options: ServerOptions) -> Scenario {
    Scenario::new(options.set("publish.unwatched_pause=900ms"), 3, 10).viewers(0).speed(5)
}

fn check(scenario: &Scenario, undisturbed: &[Segment], disturb: impl Fn(&mut Server, usize) -> Result<()>) -> Result<Server> {
    let outcome = scenario.run(disturb)?;
    outcome.check(undisturbed)?;
    ensure!(outcome.server.workers_counter("input_rested") > 0, "nothing has rested");
    Ok(outcome.server)
}

#[test]
fn deaths_at_every_step_lose_nothing_that_rests() -> Result<()> {
    let undisturbed = unwatched(ServerOptions::workers(1)).undisturbed()?;
    ensure!(undisturbed.len() > 5, "only {} segments", undisturbed.len());
    for (nth, point) in STEPS.iter().enumerate() {
        let directory = open_directory()?;
        let flag = directory.path().join("killed");
        let options = ServerOptions { faults: true, ..ServerOptions::workers(2) };
        let options = options.environment("BRAIDCAST_KILL_POINT", &format!("{point}:{}", 3 + nth));
        let options = options.environment("BRAIDCAST_KILL_ONCE", &flag.to_string_lossy());
        check(&unwatched(options), &undisturbed, |_, _| {
            std::thread::sleep(Duration::from_millis(30));
            Ok(())
        })
        .with_context(|| format!("killed at {point}"))?;
        ensure!(flag.exists(), "nobody came by {point}");
    }
    Ok(())
}

#[test]
fn what_rests_goes_along_when_sessions_move_and_workers_die() -> Result<()> {
    let undisturbed = unwatched(ServerOptions::workers(1)).speed(2).undisturbed()?;
    let server = check(&unwatched(ServerOptions::workers(2)).speed(2), &undisturbed, |server, round| {
        let worker = 1 + (round % 2) as u16;
        if round % 3 == 2 {
            server.kill_worker(worker)?;
        } else {
            let order = ["drain", &worker.to_string(), "--timeout", "60", "--shared-dir"].map(str::to_owned);
            Command::new(braidcast_e2e::server::binary()).args(order).arg(&server.shared_dir).output()?;
        }
        std::thread::sleep(Duration::from_millis(70 + 37 * (round as u64 % 5)));
        Ok(())
    })?;
    ensure!(server.front_counter("moves") > 0 && server.front_counter("takeovers") > 0, "nothing was moved and taken over");
    Ok(())
}

/// A server, and a publisher whose last records rest: it sends nothing more, and stays.
fn resting(clip: &[Record], pause: &str) -> Result<(Server, RtmpClient)> {
    let server = Server::start(ServerOptions::workers(2).set("hls.enabled=false").set(&format!("publish.unwatched_pause={pause}")))?;
    let mut publisher = RtmpClient::publish(&server.rtmp("quiet"))?;
    clip.iter().try_for_each(|record| publisher.push(record))?;
    server.wait_workers_counter("input_rested", 1)?;
    Ok((server, publisher))
}

#[test]
fn who_comes_while_input_rests_gets_it_and_all_that_follows_at_once() -> Result<()> {
    let records: Vec<Record> = Clip::Plain.records(4)?;
    let middle = records.len() / 2;
    let (server, mut publisher) = resting(&records[..middle], "1s")?;
    let viewers = [Viewer::flv_recorder(server.address("http"), "live/quiet.flv")?, Viewer::rtmp_recorder(&server.rtmp("quiet"))?];
    // The publisher says nothing more: it is the pause that ends.
    for viewer in &viewers {
        viewer.wait_record(|record| *record == records[middle - 1]).context("what rested does not come")?;
    }
    // From now on nothing rests.
    let before = server.workers_counter("input_rested");
    records[middle..].iter().try_for_each(|record| publisher.push(record))?;
    let sent: Vec<&Record> = records.iter().filter(|record| !record.is_header()).collect();
    for viewer in viewers {
        viewer.wait_record(|record| Some(&record) == sent.last())?;
        let got = viewer.records();
        let got: Vec<&Record> = got.iter().filter(|record| !record.is_header()).collect();
        ensure!(sent.ends_with(&got), "a viewer got {} records, and others than the last ones that were sent", got.len());
        viewer.end()?;
    }
    ensure!(server.workers_counter("input_rested") == before, "input rests that somebody waits for");
    Ok(())
}

#[test]
fn what_rests_when_its_publisher_goes_is_in_the_log() -> Result<()> {
    let records = Clip::Plain.records(2)?;
    for kills in [false, true] {
        let (server, publisher) = resting(&records, "1s")?;
        if kills {
            server.kill_worker(server.publisher_worker("quiet")?)?;
        }
        drop(publisher);
        let want: Vec<Record> = records.iter().filter(|record| !record.is_header()).cloned().collect();
        let kept = || logged(&server.stream_dir("quiet")).ok().filter(|kept| kept.len() >= want.len());
        let kept = eventually(PATIENCE, kept).with_context(|| format!("records are missing:\n{}", server.log_text()))?;
        ensure!(kept == want, "the log holds other records than were sent (killed: {kills})");
    }
    Ok(())
}

/// The records of a stream's log, in order, headers left out.
fn logged(stream: &Path) -> Result<Vec<Record>> {
    let mut blocks = std::fs::read_dir(stream.join("log"))?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    blocks.sort_by_key(|path| path.file_stem().and_then(|stem| stem.to_str()?.parse::<u32>().ok()));
    let mut records = Vec::new();
    for block in blocks {
        records.extend(braidcast_e2e::media::flv_records(&std::fs::read(block)?).into_iter().filter(|record| !record.is_header()));
    }
    Ok(records)
}
