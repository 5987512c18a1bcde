//! Publishers and viewers that check every byte, while something is done to the server that none of them is to notice.

use crate::media::Clip;
use crate::rtmp::RtmpClient;
use crate::tools::eventually;
use crate::{Record, Server, ServerOptions, Viewer};
use anyhow::{Context, Result, ensure};
use braidcast_protocols::hls::SegmentInfo;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);
/// A disturbance that comes when so few records are left might come too late.
const LAST_RECORDS: usize = 25;

/// What goes on while the server is disturbed.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// How the server is started.
    pub options: ServerOptions,
    /// How many streams, each with a publisher on one connection for the whole time.
    pub streams: usize,
    /// Viewers of each stream, half by HTTP-FLV and half by RTMP.
    pub viewers: usize,
    /// Seconds of media.
    pub seconds: u32,
    /// How much faster than real time it is sent.
    pub speed: u32,
}

/// A segment, but for dates and the stream's name: number, times, what it is marked as, a hash of its other bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    number: u64,
    media_90k: (u64, u64),
    marks: (bool, u64, bool),
    bytes: u64,
}

/// What is left to look at when all is over.
#[derive(Debug)]
pub struct Outcome {
    /// The server, still running.
    pub server: Server,
    /// How often it was disturbed.
    pub rounds: usize,
    /// The segments of each stream.
    pub segments: Vec<Vec<Segment>>,
    /// When video frames came, for each viewer, by [`crate::viewer::now_us`].
    pub arrivals: Vec<Vec<u64>>,
}

impl Scenario {
    /// With two viewers for each stream, in real time.
    pub fn new(options: ServerOptions, streams: usize, seconds: u32) -> Self {
        Self { options, streams, viewers: 2, seconds, speed: 1 }
    }

    /// So much faster than real time.
    pub fn speed(self, speed: u32) -> Self {
        Self { speed, ..self }
    }

    /// So many viewers of each stream.
    pub fn viewers(self, viewers: usize) -> Self {
        Self { viewers, ..self }
    }

    /// Runs it. `disturb` is called again and again while records are sent. Fails if any publisher was disconnected, or any viewer got
    /// anything else than what was published.
    pub fn run(&self, mut disturb: impl FnMut(&mut Server, usize) -> Result<()>) -> Result<Outcome> {
        let options = self.options.clone().set("play.play_wait=60s").set("play.reconnect_grace=1s");
        let mut server =
            Server::start(options.set("hls.fragment=1s").set("hls.window=600s").set("hls.retention=600s").set("hls.hls_dispose=600s"))?;
        let records = Arc::new(Clip::Plain.records(self.seconds)?);
        let name = |stream: usize| format!("s{stream}");
        let want = Arc::new(records.iter().filter(|record| !record.is_header()).cloned().collect::<Vec<_>>());
        let mut viewers = Vec::new();
        for stream in 0..self.streams {
            for viewer in 0..self.viewers {
                let watch = match viewer % 2 {
                    0 => Viewer::flv_expecting(server.address("http"), &format!("live/{}.flv", name(stream)), want.clone())?,
                    _ => Viewer::rtmp_expecting(&server.rtmp(&name(stream)), want.clone())?,
                };
                viewers.push((stream, viewer, watch));
            }
            server.wait_placed(&name(stream), self.viewers)?;
        }
        let publish = |stream| Publisher::start(server.rtmp(&name(stream)), records.clone(), self.speed);
        let publishers: Vec<Publisher> = (0..self.streams).map(publish).collect();
        let mut rounds = 0;
        while publishers.iter().any(|publisher| publisher.sent.load(Ordering::Relaxed) + LAST_RECORDS < records.len()) {
            if publishers.iter().any(|publisher| publisher.thread.is_finished()) {
                break;
            }
            disturb(&mut server, rounds).with_context(|| format!("round {rounds}"))?;
            rounds += 1;
        }
        for publisher in publishers {
            let sent = publisher.thread.join().expect("no panic");
            sent.with_context(|| format!("a publisher was disturbed in round {rounds}:\n{}", server.log_text()))?;
        }
        let mut arrivals = Vec::new();
        for (stream, viewer, watch) in viewers {
            let all = || (watch.matched() >= want.len() || watch.is_over()).then_some(());
            eventually(PATIENCE, all);
            arrivals.push(watch.arrivals());
            let (matched, ended) = (watch.matched(), watch.end());
            let how = if viewer % 2 == 0 { "FLV" } else { "RTMP" };
            ensure!(
                matched == want.len(),
                "{} by {how} after {rounds} disturbances: {matched} of {} records, {ended:?}\n{}",
                name(stream),
                want.len(),
                server.log_text()
            );
        }
        let segments = (0..self.streams).map(|stream| segments(&server, &name(stream))).collect::<Result<_>>()?;
        Ok(Outcome { server, rounds, segments, arrivals })
    }

    /// What the segments are when nothing happens.
    pub fn undisturbed(&self) -> Result<Vec<Segment>> {
        let quiet = Self { streams: 1, viewers: 0, options: ServerOptions::workers(1), ..self.clone() };
        let pause = |_: &mut Server, _| {
            std::thread::sleep(Duration::from_millis(20));
            Ok(())
        };
        quiet.run(pause)?.segments.into_iter().next().context("no stream")
    }
}

impl Outcome {
    /// Nobody's session was lost, and every stream's segments are the ones that it has undisturbed.
    pub fn check(&self, undisturbed: &[Segment]) -> Result<()> {
        let lost = self.server.front_counter("sessions_lost");
        ensure!(lost == 0, "{lost} sessions were lost:\n{}", self.server.log_text());
        for (stream, segments) in self.segments.iter().enumerate() {
            let differs = segments.iter().zip(undisturbed).find(|(got, want)| got != want);
            ensure!(differs.is_none(), "stream {stream}: {differs:?}:\n{}", self.server.log_text());
            ensure!(segments.len() == undisturbed.len(), "stream {stream}: {} segments, not {}", segments.len(), undisturbed.len());
        }
        Ok(())
    }
}

/// A publisher that sends a clip once, at a pace, on one connection.
pub(crate) struct Publisher {
    thread: JoinHandle<Result<()>>,
    sent: Arc<AtomicUsize>,
}

impl Publisher {
    pub(crate) fn start(url: String, records: Arc<Vec<Record>>, speed: u32) -> Self {
        let sent = Arc::new(AtomicUsize::new(0));
        let counter = sent.clone();
        let thread = std::thread::spawn(move || {
            let mut client = RtmpClient::publish(&url)?;
            let started = Instant::now();
            for record in records.iter() {
                let due = started + Duration::from_millis(u64::from(record.timestamp_ms / speed));
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                client.push(record).with_context(|| format!("{url}: after {} records", counter.load(Ordering::Relaxed)))?;
                counter.fetch_add(1, Ordering::Relaxed);
            }
            client.end()?;
            // What it was sent is read, so that the connection ends without a reset.
            while client.next(Duration::from_millis(20)).is_ok_and(|output| output.is_some()) {}
            Ok(())
        });
        Self { thread, sent }
    }

    /// Waits for its end; an error if the server ended it.
    pub(crate) fn wait(self) -> Result<()> {
        self.thread.join().expect("no panic")
    }
}

/// The segments of a stream, when its index has ended.
fn segments(server: &Server, name: &str) -> Result<Vec<Segment>> {
    let directory = server.stream_dir(name).join("hls");
    let ended = || std::fs::read_to_string(directory.join("index.m3u8")).is_ok_and(|index| index.contains("#EXT-X-ENDLIST"));
    eventually(PATIENCE, || ended().then_some(())).with_context(|| format!("the index of {name} does not end:\n{}", server.log_text()))?;
    let mut segments = Vec::new();
    for entry in std::fs::read_dir(&directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "ts") {
            let bytes = std::fs::read(&path)?;
            let info = SegmentInfo::of_segment(&bytes).with_context(|| format!("{}: no info", path.display()))?;
            let mut hasher = DefaultHasher::new();
            bytes[..bytes.len() - braidcast_protocols::hls::segment_info::PACKET_BYTES].hash(&mut hasher);
            segments.push(Segment {
                number: info.number,
                media_90k: (info.media_start_90k, info.media_end_90k),
                marks: (info.discontinuity, info.discontinuity_sequence, info.independent),
                bytes: hasher.finish(),
            });
        }
    }
    segments.sort_by_key(|segment| segment.number);
    Ok(segments)
}
