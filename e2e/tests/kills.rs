//! Workers killed in the middle of everything, again and again: what is in the log stays whole, in the middle of a publisher and between two.

use anyhow::{Context, Result, ensure};
use braidcast_e2e::media::Clip;
use braidcast_e2e::rtmp::RtmpClient;
use braidcast_e2e::server::signal;
use braidcast_e2e::tools::{eventually, http_get};
use braidcast_e2e::{Record, Server, ServerOptions, Viewer};
use braidcast_media::flv;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);
const WORKERS: u16 = 3;
const KILLS: u32 = 12;

/// A publisher that comes again and again, much faster than real time.
struct Stubborn {
    thread: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    lives: Arc<AtomicU64>,
}

impl Stubborn {
    fn start(url: String, records: Vec<Record>) -> Self {
        let (stop, lives) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (stop.clone(), lives.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let Ok(mut client) = RtmpClient::publish(&url) else {
                    std::thread::sleep(Duration::from_millis(20));
                    continue;
                };
                counted.fetch_add(1, Ordering::Relaxed);
                let _ = Self::live(&mut client, &records, &stopped);
            }
        });
        Self { thread: Some(thread), stop, lives }
    }

    fn live(client: &mut RtmpClient, records: &[Record], stop: &AtomicBool) -> Result<()> {
        let started = Instant::now();
        for record in records {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            client.push(record)?;
            // Ten times real time.
            let due = started + Duration::from_millis(u64::from(record.timestamp_ms) / 10);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        client.end()
    }
}

impl Drop for Stubborn {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Every block is an FLV file of whole records to its very end; the newest one may be growing.
fn blocks_are_whole(directory: &Path) -> Result<usize> {
    let numbers = || -> Result<Vec<u64>> {
        let mut numbers: Vec<u64> = std::fs::read_dir(directory)?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_suffix(".flv")?.parse().ok())
            .collect();
        numbers.sort_unstable();
        Ok(numbers)
    };
    let blocks = numbers()?;
    let mut whole = 0;
    for number in &blocks[..blocks.len().saturating_sub(1)] {
        // Old blocks go while we look.
        let Ok(bytes) = std::fs::read(directory.join(format!("{number}.flv"))) else { continue };
        ensure!(bytes.starts_with(b"FLV\x01"), "block {number} does not begin like an FLV file");
        let body = &bytes[flv::FILE_HEADER.len()..];
        let end = flv::records(body).last().map_or(0, |record| record.offset + record.header.record_bytes());
        ensure!(end == body.len(), "block {number} holds {} bytes behind its last whole record at {end}", body.len() - end);
        for record in flv::records(body) {
            let size = &body[record.offset + record.header.record_bytes() - 4..][..4];
            ensure!(size == ((record.header.record_bytes() - 4) as u32).to_be_bytes(), "block {number}: a wrong trailing size");
        }
        whole += 1;
    }
    Ok(whole)
}

#[test]
fn every_block_stays_whole_and_every_publisher_goes_on() -> Result<()> {
    let options = ServerOptions::workers(WORKERS).set("log.block_min=200ms").set("hls.fragment=1s").set("play.reconnect_grace=60s");
    let server = Server::start(ServerOptions { sub_ports: true, ..options })?;
    let publisher = Stubborn::start(server.rtmp("x"), Clip::Plain.records(20)?);
    server.wait_live("x")?;
    let log = server.stream_dir("x").join("log");
    let watch = |worker: u16| Viewer::flv(server.sub_port(worker), "live/x.flv");
    let viewers: Vec<Viewer> = (1..=WORKERS).map(watch).collect::<Result<_>>()?;
    let mut looked_at = 0;
    for kill in 0..KILLS {
        let worker = eventually(PATIENCE, || server.publisher_worker("x").ok()).context("nobody publishes any more")?;
        let pid = server.worker_pid(worker)?;
        // After a different number of frames each time; then in the middle of whatever it is doing.
        let beside = &viewers[usize::from(worker % WORKERS)];
        beside.wait_more(1 + u64::from(kill % 7)).with_context(|| format!("before kill {kill}:\n{}", server.log_text()))?;
        signal(pid, "KILL")?;
        for viewer in &viewers {
            viewer.wait_more(30).with_context(|| format!("after kill {kill}:\n{}", server.log_text()))?;
        }
        looked_at += blocks_are_whole(&log).with_context(|| format!("after kill {kill}"))?;
        eventually(PATIENCE, || server.worker(worker).ok().filter(|row| row["pid"] != pid && row["state"] == "ready"))
            .with_context(|| format!("worker {worker} does not come back"))?;
    }
    ensure!(publisher.lives.load(Ordering::Relaxed) > 1, "the publisher never came back: the log had one epoch only");
    ensure!(looked_at > KILLS as usize, "only {looked_at} blocks were looked at");
    for viewer in viewers {
        viewer.wait_more(20)?;
        viewer.end()?;
    }
    // The numbers of segments have no hole, and each segment is there.
    let index = http_get(&server.http("live/x.m3u8"))?.text();
    let numbers: Vec<u64> = index.lines().filter_map(|line| line.strip_suffix(".ts")?.rsplit('/').next()?.parse().ok()).collect();
    ensure!(numbers.len() > 3 && numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{index}");
    Ok(())
}
