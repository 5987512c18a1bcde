//! Workers die in the middle of everything, and no publisher and no viewer notices: no byte is missing, none comes twice.

use anyhow::{Context, Result, ensure};
use braidcast_e2e::media::Clip;
use braidcast_e2e::rtmp::RtmpClient;
use braidcast_e2e::server::signal;
use braidcast_e2e::tools::eventually;
use braidcast_e2e::{Record, Server, ServerOptions, Viewer};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

/// A publisher that sends a clip once, at its own speed, on one connection.
struct Publisher {
    thread: JoinHandle<Result<()>>,
    sent: Arc<AtomicUsize>,
}

impl Publisher {
    fn start(url: String, records: Arc<Vec<Record>>) -> Self {
        let sent = Arc::new(AtomicUsize::new(0));
        let counter = sent.clone();
        let thread = std::thread::spawn(move || {
            let mut client = RtmpClient::publish(&url)?;
            let started = Instant::now();
            for record in records.iter() {
                let due = started + Duration::from_millis(u64::from(record.timestamp_ms));
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                client.push(record).with_context(|| format!("{url}: after {} records", counter.load(Ordering::Relaxed)))?;
                counter.fetch_add(1, Ordering::Relaxed);
            }
            client.end()
        });
        Self { thread, sent }
    }
}

/// The records without those that a server may repeat or leave out.
fn media(records: &[Record]) -> Vec<Record> {
    records.iter().filter(|record| !record.is_header()).cloned().collect()
}

/// What a viewer got is what was published, from the first record to the last.
fn same(want: &[Record], got: &[Record]) -> Result<()> {
    let at = want.iter().zip(got).position(|(want, got)| want != got);
    if let Some(at) = at {
        let show = |record: &Record| format!("{:?} at {} ms, {} bytes", record.kind, record.timestamp_ms, record.payload.len());
        anyhow::bail!("record {at} of {}: wanted {}, got {}", want.len(), show(&want[at]), show(&got[at]));
    }
    ensure!(want.len() == got.len(), "{} records instead of {}", got.len(), want.len());
    Ok(())
}

/// Publishers with viewers by FLV and RTMP, while something is done to the server.
fn nobody_notices(options: ServerOptions, streams: usize, seconds: u32, disturb: impl Fn(&Server, usize) -> Result<()>) -> Result<()> {
    let server =
        Server::start(options.set("play.play_wait=60s").set("play.reconnect_grace=1s").set("hls.fragment=1s").set("hls.window=300s"))?;
    let records = Arc::new(Clip::Plain.records(seconds)?);
    let mut viewers = Vec::new();
    for stream in 0..streams {
        let name = format!("s{stream}");
        viewers.push((name.clone(), "FLV", Viewer::flv_recorder(server.address("http"), &format!("live/{name}.flv"))?));
        viewers.push((name.clone(), "RTMP", Viewer::rtmp_recorder(&server.rtmp(&name))?));
        server.wait_placed(&name, 2)?;
    }
    let publishers: Vec<Publisher> =
        (0..streams).map(|stream| Publisher::start(server.rtmp(&format!("s{stream}")), records.clone())).collect();
    for stream in 0..streams {
        server.wait_live(&format!("s{stream}"))?;
    }
    let mut round = 0;
    while publishers.iter().any(|publisher| publisher.sent.load(Ordering::Relaxed) + 25 < records.len()) {
        if publishers.iter().any(|publisher| publisher.thread.is_finished()) {
            break;
        }
        disturb(&server, round).with_context(|| format!("round {round}"))?;
        round += 1;
    }
    for publisher in publishers {
        publisher.thread.join().expect("no panic").with_context(|| format!("a publisher was disturbed:\n{}", server.log_text()))?;
    }
    ensure!(round > 1, "nothing was disturbed");
    let want = media(&records);
    for (name, how, viewer) in viewers {
        let all = || (media(&viewer.records()).len() >= want.len() || viewer.is_over()).then_some(());
        eventually(PATIENCE, all);
        let got = media(&viewer.records());
        same(&want, &got).with_context(|| format!("{name} by {how} after {round} disturbances:\n{}", server.log_text()))?;
    }
    let lost = server.front_counter("sessions_lost");
    ensure!(lost == 0, "{lost} sessions were lost:\n{}", server.log_text());
    println!("{round} disturbances, {} takeovers, {} moves", server.front_counter("takeovers"), server.front_counter("moves"));
    Ok(())
}

fn kill(server: &Server, worker: u16) -> Result<()> {
    let pid = server.worker_pid(worker)?;
    signal(pid, "KILL")?;
    eventually(PATIENCE, || server.worker(worker).ok().filter(|row| row["pid"] != pid && row["state"] == "ready"))
        .with_context(|| format!("worker {worker} does not come back:\n{}", server.log_text()))?;
    Ok(())
}

#[test]
fn workers_are_killed_in_turn() -> Result<()> {
    nobody_notices(ServerOptions::workers(3), 4, 12, |server, round| {
        kill(server, 1 + (round % 3) as u16)?;
        std::thread::sleep(Duration::from_millis(17 * (round as u64 % 13)));
        Ok(())
    })
}

#[test]
fn the_only_worker_is_killed() -> Result<()> {
    nobody_notices(ServerOptions::workers(1), 2, 8, |server, round| {
        kill(server, 1)?;
        std::thread::sleep(Duration::from_millis(100 + 31 * (round as u64 % 7)));
        Ok(())
    })
}
