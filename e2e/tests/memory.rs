//! What a viewer takes of memory, in counts of pages that do not depend on the machine's speed: what all processes of the server have of their own and
//! share with each other, the program itself left out. The bounds are what was counted when they were recorded, and some room.

use anyhow::{Context, Result, ensure};
use braidcast_e2e::rtmp::RtmpClient;
use braidcast_e2e::tools::eventually;
use braidcast_e2e::{Record, Server, ServerOptions, Viewer};
use braidcast_media::RecordKind;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);
/// What the first viewers take once for all is not counted.
const FIRST: usize = 20;
const VIEWERS: usize = 240;
const FRAME_BYTES: usize = 8_000;
const FRAME_INTERVAL: Duration = Duration::from_millis(100);
/// What of a stream may be in memory that everybody has got: it is let go of in steps.
const STREAM_BYTES: u64 = 320 << 10;

/// Proportional bytes of a process, of the mappings whose names fit.
fn pss(pid: u32, fits: impl Fn(&str) -> bool) -> Result<u64> {
    let smaps = std::fs::read_to_string(format!("/proc/{pid}/smaps")).context("reading smaps")?;
    let (mut counted, mut bytes) = (false, 0);
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            Some("Pss:") if counted => bytes += words.next().context("no number")?.parse::<u64>()? << 10,
            Some(first) if !first.ends_with(':') => counted = fits(words.nth(4).unwrap_or_default()),
            _ => {}
        }
    }
    Ok(bytes)
}

/// Of front and worker: what they hold, and what of it is mapped of streams' logs.
fn held(server: &Server) -> Result<(u64, u64)> {
    let shared = server.shared_dir.to_string_lossy().into_owned();
    let is_log = |name: &str| name.starts_with(&shared) && name.contains("/log/");
    let is_held = |name: &str| name.is_empty() || name.starts_with("[heap") || name.starts_with("[anon") || name.starts_with(&shared);
    let (mut all, mut logs) = (0, 0);
    for pid in [server.pid(), server.worker_pid(1)?] {
        all += pss(pid, is_held)?;
        logs += pss(pid, is_log)?;
    }
    Ok((all, logs))
}

/// A publisher that goes on at its pace.
struct Source {
    publisher: RtmpClient,
    number: u32,
}

impl Source {
    /// A picture, and the pause that follows it; a keyframe every 5 s.
    fn push(&mut self) -> Result<()> {
        let kind = if self.number.is_multiple_of(50) { 0x17 } else { 0x27 };
        let payload = [&[kind, 1, 0, 0, 0][..], &[0x55; FRAME_BYTES]].concat();
        self.publisher.push(&Record { kind: RecordKind::Video, timestamp_ms: self.number * 100, payload })?;
        self.number += 1;
        std::thread::sleep(FRAME_INTERVAL);
        Ok(())
    }

    /// Until something is so.
    fn push_until(&mut self, is_so: impl Fn() -> Result<bool>) -> Result<bool> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            self.push()?;
            if is_so()? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn viewers_take(what: &str, watch: impl Fn(&Server) -> Result<Viewer>, bound: u64) -> Result<()> {
    let options = ServerOptions::workers(1).set("hls.enabled=false").set("log.block_min=10s").set("play.max_lag=60s");
    let server = Server::start(options.set("limits.connections_per_address=10000"))?;
    let mut source = Source { publisher: RtmpClient::publish(&server.rtmp("x"))?, number: 0 };
    source.push()?;
    let mut viewers: Vec<Viewer> = Vec::new();
    let mut more = |source: &mut Source, count: usize| -> Result<()> {
        for _ in 0..count / 20 {
            (0..20).try_for_each(|_| watch(&server).map(|viewer| viewers.push(viewer)))?;
            source.push()?;
        }
        let from = viewers[viewers.len() - 1].frames();
        ensure!(source.push_until(|| Ok(viewers.iter().all(|viewer| viewer.frames() > from + 5)))?, "not all viewers get the stream");
        Ok(())
    };
    more(&mut source, FIRST)?;
    let few = || Ok(held(&server)?.1 <= STREAM_BYTES);
    ensure!(source.push_until(few)?, "{} bytes of the log stay mapped", held(&server)?.1);
    // Who rests says so nowhere: they do when there is no less.
    (0..15).try_for_each(|_| source.push())?;
    let (before, _) = held(&server)?;
    more(&mut source, VIEWERS)?;
    let each = || -> Result<u64> { Ok(held(&server)?.0.saturating_sub(before) / VIEWERS as u64) };
    let fits = source.push_until(|| Ok(each()? <= bound))?;
    ensure!(fits, "{what} takes {} bytes, more than {bound}", each()?);
    let mapped = || held(&server).map(|held| held.1);
    ensure!(
        (0..15).try_fold(true, |few, _| anyhow::Ok(source.push().map(|()| few)? && mapped()? <= STREAM_BYTES))?,
        "the log stays mapped"
    );
    println!("{what} takes {} bytes; {} of the log are mapped", each()?, mapped()?);
    eventually(PATIENCE, || viewers.iter().all(|viewer| !viewer.is_over()).then_some(())).context("viewers were lost")?;
    Ok(())
}

#[test]
fn a_viewer_by_flv() -> Result<()> {
    viewers_take("a viewer by HTTP-FLV", |server| Viewer::flv(server.address("http"), "live/x.flv"), 1_300)
}

#[test]
fn a_viewer_by_rtmp() -> Result<()> {
    viewers_take("a viewer by RTMP", |server| Viewer::rtmp(&server.rtmp("x")), 1_600)
}
