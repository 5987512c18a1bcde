//! A simulated day: a server of the build with faults whose clock runs many times as fast, publishers whose media keeps up with it, clients
//! that come and go. Its memory is looked at again and again.
//!
//! Nobody checks what is delivered: other tests do, at a pace at which somebody could watch.

use crate::paced;
use crate::rtmp::RtmpClient;
use crate::tools::http_get;
use crate::viewer::Record;
use crate::{Server, ServerOptions};
use anyhow::{Context, Result, ensure};
use braidcast_media::RecordKind;
use braidcast_protocols::random::Random;
use braidcast_protocols::rtmp::ClientRole;
use rustix::time::{ClockId, clock_gettime};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Until the clock begins to run fast: the server starts at its own pace.
const STARTING: Duration = Duration::from_secs(3);
/// Between two video frames of a stream, milliseconds of media.
const FRAME_MS: u64 = 500;
/// From one keyframe to the next, frames.
const GOP_FRAMES: u64 = 8;
/// Names that short streams take in turn: more than are kept at once.
const SHORT_NAMES: u64 = 60;
/// How much goes on.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How many times as fast as ours the server's clock runs.
    pub factor: u32,
    /// Simulated hours.
    pub hours: u64,
    /// Streams that are published all day.
    pub lasting: u64,
    /// Publishers of streams that last for minutes.
    pub short: u64,
    /// Viewers, one after the other at each of so many places.
    pub viewers: u64,
}

/// What happened, and what was seen.
#[derive(Debug)]
pub struct Outcome {
    /// The server, still running.
    pub server: Server,
    /// Frames that were published, streams that were begun, viewers that saw something, segments that were fetched.
    pub done: [u64; 4],
    /// Every quarter of an hour, from the first one on.
    pub looks: Vec<Look>,
}

/// What the server holds, by what it is: bytes, and counts of what costs memory in the kernel.
pub type Look = BTreeMap<String, u64>;

/// The clock of the server, as seen from here.
#[derive(Clone, Copy, Debug)]
struct Clock {
    start_us: u64,
    factor: u32,
}

impl Clock {
    fn new(factor: u32) -> Self {
        Self { start_us: real_us() + STARTING.as_micros() as u64, factor }
    }

    /// Simulated milliseconds since it runs fast.
    fn now_ms(self) -> u64 {
        real_us().saturating_sub(self.start_us) * u64::from(self.factor) / 1_000
    }

    fn sleep_until(self, at_ms: u64) {
        let at_us = self.start_us + at_ms * 1_000 / u64::from(self.factor);
        std::thread::sleep(Duration::from_micros(at_us.saturating_sub(real_us())));
    }
}

fn real_us() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1_000
}

/// What all clients share.
#[derive(Debug)]
struct Stage {
    clock: Clock,
    lasting: u64,
    rtmp: String,
    http: String,
    over: AtomicBool,
    next_short: AtomicU64,
    done: [AtomicU64; 4],
}

impl Plan {
    /// Lives the day.
    pub fn live(self, seed: u64) -> Result<Outcome> {
        let clock = Clock::new(self.factor);
        let environment = format!("{}@{}", self.factor, clock.start_us);
        let options = ServerOptions { faults: true, ..ServerOptions::workers(2) }.environment("BRAIDCAST_CLOCK", &environment);
        // Patience with clients, who live at our pace; what costs memory is as configured by default.
        let patience =
            ["limits.handshake=300s", "limits.first_packet=300s", "limits.idle=3600s", "play.max_lag=600s", "server.hang_after=60s"];
        let options =
            patience.iter().fold(options, |options, set| options.set(set)).set("hls.sessions=always").set("server.log_level=warn");
        let server = Server::start(options)?;
        let stage = Arc::new(Stage {
            clock,
            lasting: self.lasting,
            rtmp: format!("rtmp://{}/live", server.address("rtmp")),
            http: format!("http://{}/live", server.address("http")),
            over: AtomicBool::new(false),
            next_short: AtomicU64::new(0),
            done: Default::default(),
        });
        let mut threads: Vec<JoinHandle<()>> = Vec::new();
        let mut spawn = |place: u64, live: fn(&Stage, u64, &mut Random)| {
            let stage = stage.clone();
            let mut random = Random(seed + place);
            threads.push(std::thread::spawn(move || {
                while !stage.over.load(Ordering::Relaxed) {
                    live(&stage, place, &mut random);
                }
            }));
        };
        (0..self.lasting).for_each(|place| spawn(place, Stage::publish_lasting));
        (0..self.short).for_each(|place| spawn(100 + place, Stage::publish_short));
        (0..self.viewers).for_each(|place| spawn(200 + place, Stage::view));
        let looks = (1..=4 * self.hours).map(|quarter| {
            clock.sleep_until(quarter * 900_000);
            look(&server)
        });
        let looks: Result<Vec<Look>> = looks.collect();
        stage.over.store(true, Ordering::Relaxed);
        threads.into_iter().for_each(|thread| thread.join().expect("no client panics"));
        let looks = looks.with_context(|| server.log_text())?;
        Ok(Outcome { looks, done: std::array::from_fn(|which| stage.done[which].load(Ordering::Relaxed)), server })
    }
}

impl Stage {
    fn count(&self, which: usize) {
        self.done[which].fetch_add(1, Ordering::Relaxed);
    }

    /// Encoders lose their connection every few hours, and come back.
    fn publish_lasting(&self, place: u64, random: &mut Random) {
        self.publish(&format!("lasting{place}"), minutes(120, 240, random));
    }

    fn publish_short(&self, _: u64, random: &mut Random) {
        let number = self.next_short.fetch_add(1, Ordering::Relaxed) % SHORT_NAMES;
        self.publish(&format!("short{number}"), minutes(2, 20, random));
    }

    /// Publishes for so long. Ends early if the server does not take it: patience of a few simulated seconds is little on a busy machine.
    fn publish(&self, name: &str, life_ms: u64) {
        let Ok(mut client) = RtmpClient::publish(&format!("{}/{name}", self.rtmp)) else { return self.rest() };
        self.count(1);
        let (began_ms, mut frame) = (self.clock.now_ms(), 0);
        if client.push(&paced::header()).is_err() {
            return;
        }
        while frame * FRAME_MS < life_ms && !self.over.load(Ordering::Relaxed) {
            self.clock.sleep_until(began_ms + frame * FRAME_MS);
            if client.push(&picture(frame)).is_err() {
                return;
            }
            self.count(0);
            frame += 1;
        }
        let _ = client.end();
        while client.next(Duration::from_millis(20)).is_ok_and(|output| output.is_some()) {}
    }

    fn view(&self, place: u64, random: &mut Random) {
        let name = format!("lasting{}", random.below(self.lasting as usize));
        let until_ms = self.clock.now_ms() + minutes(2, 30, random);
        let seen = match place % 3 {
            0 => self.view_flv(&name, until_ms),
            1 => self.view_rtmp(&name, until_ms),
            _ => self.view_hls(&name, until_ms),
        };
        match seen {
            Ok(()) => self.count(2),
            Err(_) => self.rest(),
        }
    }

    fn goes_on(&self, until_ms: u64) -> bool {
        self.clock.now_ms() < until_ms && !self.over.load(Ordering::Relaxed)
    }

    fn view_flv(&self, name: &str, until_ms: u64) -> Result<()> {
        let (authority, path) = self.http["http://".len()..].split_once('/').context("no path")?;
        let mut stream = TcpStream::connect(authority)?;
        stream.set_read_timeout(Some(Duration::from_millis(50)))?;
        write!(stream, "GET /{path}/{name}.flv HTTP/1.1\r\nHost: {authority}\r\n\r\n")?;
        let (mut buffer, mut bytes) = (vec![0; 64 << 10], 0);
        while self.goes_on(until_ms) {
            match stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => bytes += read,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) => return Err(error.into()),
            }
        }
        ensure!(bytes > 1_000, "it saw {bytes} bytes");
        Ok(())
    }

    fn view_rtmp(&self, name: &str, until_ms: u64) -> Result<()> {
        let mut client = RtmpClient::start(&format!("{}/{name}", self.rtmp), ClientRole::Play)?;
        while self.goes_on(until_ms) {
            client.next(Duration::from_millis(50))?;
        }
        Ok(())
    }

    /// Asks for the index, then again and again for the variant that is this viewer's own and the newest segment of it.
    fn view_hls(&self, name: &str, until_ms: u64) -> Result<()> {
        let uris = |text: &str| text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect::<Vec<_>>();
        let master = http_get(&format!("{}/{name}.m3u8", self.http))?;
        let variant = uris(&master.text()).pop().with_context(|| master.head.clone())?;
        while self.goes_on(until_ms) {
            let index = http_get(&format!("{}/{variant}", self.http))?;
            let segment = uris(&index.text()).pop().with_context(|| index.head.clone())?;
            let answer = http_get(&format!("{}/{segment}", self.http))?;
            ensure!(answer.status == 200 && !answer.body.is_empty(), "{}", answer.head);
            self.count(3);
            self.clock.sleep_until(self.clock.now_ms() + 30_000);
        }
        Ok(())
    }

    /// Before somebody tries again.
    fn rest(&self) {
        self.clock.sleep_until(self.clock.now_ms() + 20_000);
    }
}

fn minutes(least: u64, most: u64, random: &mut Random) -> u64 {
    60_000 * least + random.below(60_000 * (most - least) as usize) as u64
}

/// A video frame: one NAL unit that no decoder would take.
fn picture(frame: u64) -> Record {
    let key = frame.is_multiple_of(GOP_FRAMES);
    let (head, nal, bytes) = if key { (0x17, 0x65, 800_u32) } else { (0x27, 0x41, 200) };
    let mut payload = vec![head, 1, 0, 0, 0];
    payload.extend(bytes.to_be_bytes());
    payload.push(nal);
    payload.resize(9 + bytes as usize, frame as u8 | 0x80);
    Record { kind: RecordKind::Video, timestamp_ms: (frame * FRAME_MS) as u32, payload }
}

/// What is held now.
fn look(server: &Server) -> Result<Look> {
    let mut look = Look::new();
    let front = server.front_pid().context("no front")?;
    for (name, pid) in [("front", front), ("worker 1", server.worker_pid(1)?), ("worker 2", server.worker_pid(2)?)] {
        let directory = format!("/proc/{pid}");
        let rollup = std::fs::read_to_string(format!("{directory}/smaps_rollup"))?;
        let anonymous =
            rollup.lines().find_map(|line| line.strip_prefix("Pss_Anon:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
        look.insert(format!("{name}: heap and stacks, bytes"), anonymous.context("no Pss_Anon")? << 10);
        look.insert(format!("{name}: mappings"), std::fs::read_to_string(format!("{directory}/maps"))?.lines().count() as u64);
        look.insert(format!("{name}: descriptors"), std::fs::read_dir(format!("{directory}/fd"))?.count() as u64);
    }
    for (what, under) in [("streams", "streams"), ("saved sessions", "sessions"), ("pages", "workers")] {
        let (mut bytes, mut files) = (0, 0);
        walk(&server.shared_dir.join(under), &mut bytes, &mut files);
        look.insert(format!("{what}: bytes"), bytes);
        look.insert(format!("{what}: files"), files);
    }
    Ok(look)
}

/// Adds up what the files in a directory hold; they may go meanwhile.
fn walk(directory: &Path, bytes: &mut u64, files: &mut u64) {
    use std::os::unix::fs::MetadataExt;
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => walk(&entry.path(), bytes, files),
            Ok(metadata) => (*bytes, *files) = (*bytes + metadata.blocks() * 512, *files + 1),
            Err(_) => {}
        }
    }
}

impl Outcome {
    /// What was held early in the day, after a warm-up of an eighth of it, and late, as the medians of a quarter of the looks each.
    pub fn early_and_late(&self) -> Vec<(String, u64, u64)> {
        let quarter = (self.looks.len() / 4).max(1);
        let early = &self.looks[quarter / 2..][..quarter];
        let late = &self.looks[self.looks.len() - quarter..];
        let median = |looks: &[Look], name: &str| {
            let mut all: Vec<u64> = looks.iter().filter_map(|look| look.get(name).copied()).collect();
            all.sort_unstable();
            all.get(all.len() / 2).copied().unwrap_or(0)
        };
        let names = self.looks.first().into_iter().flat_map(Look::keys);
        names.map(|name| (name.clone(), median(early, name), median(late, name))).collect()
    }
}
