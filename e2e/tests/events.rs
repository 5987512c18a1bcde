//! The event log while processes are killed: every session begins once and ends once in it, every segment is told of once.

use anyhow::{Context, Result, ensure};
use braidcast_e2e::media::Clip;
use braidcast_e2e::rtmp::RtmpClient;
use braidcast_e2e::server::signal;
use braidcast_e2e::tools::eventually;
use braidcast_e2e::{Record, Server, ServerOptions, Viewer};
use braidcast_protocols::rtmp::ClientRole;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);
const WORKERS: u16 = 3;
const ROUNDS: usize = 5;

/// All lines of the log, in order. What the newest file ends with may be half a line.
fn lines(shared_dir: &Path) -> Result<Vec<Value>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(shared_dir.join("events"))? {
        let path = entry?.path();
        if let Some(first) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".jsonl")?.parse::<u64>().ok()) {
            files.insert(first, std::fs::read_to_string(&path)?);
        }
    }
    let whole = files.values().flat_map(|text| text.split_inclusive('\n')).filter(|line| line.ends_with('\n'));
    whole.map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

/// A thread that does something again and again, and counts how often it succeeded.
struct Comer {
    thread: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
}

impl Comer {
    fn start(mut act: impl FnMut(u64) -> Result<()> + Send + 'static) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (stop.clone(), done.clone());
        let thread = std::thread::spawn(move || {
            let mut turn = 0;
            while !stopped.load(Ordering::Relaxed) {
                turn += 1;
                if act(turn).is_ok() {
                    counted.fetch_add(1, Ordering::Relaxed);
                }
                // The whole log is to be there at the end.
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        Self { thread: Some(thread), stop, done }
    }

    fn end(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("no comer panics");
        }
        self.done.load(Ordering::Relaxed)
    }
}

impl Drop for Comer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Publishes on one connection until it is to stop.
fn steady(url: String, records: Arc<Vec<Record>>, stop: Arc<AtomicBool>) -> JoinHandle<Result<()>> {
    std::thread::spawn(move || {
        let mut client = RtmpClient::publish(&url)?;
        let (began, length_ms) = (Instant::now(), records.last().map_or(1, |last| last.timestamp_ms + 40));
        for round in 0.. {
            for record in records.iter() {
                let timestamp_ms = record.timestamp_ms + round * length_ms;
                let due = began + Duration::from_millis(u64::from(timestamp_ms));
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                if stop.load(Ordering::Relaxed) {
                    client.end()?;
                    while client.next(Duration::from_millis(20)).is_ok_and(|output| output.is_some()) {}
                    return Ok(());
                }
                client.push(&Record { timestamp_ms, ..record.clone() }).with_context(|| format!("{url} at {timestamp_ms} ms"))?;
            }
        }
        Ok(())
    })
}

/// What a log says of sessions.
#[derive(Default)]
struct Told {
    /// What has begun and not ended: by connection, and whether it is the connection itself.
    open: HashMap<(String, bool), Value>,
    /// Begins and ends, by kind and stream.
    counts: HashMap<(String, String), u64>,
    /// The next segment of each stream.
    segments: HashMap<String, u64>,
}

impl Told {
    /// Reads a log and checks that everything in it fits together.
    fn of(lines: &[Value]) -> Result<Self> {
        let mut told = Self::default();
        for (place, line) in lines.iter().enumerate() {
            ensure!(line["id"] == place as u64 + 1, "line {place} has another number: {line}");
            let kind = line["kind"].as_str().context("no kind")?.to_owned();
            let stream = line["stream"].as_str().unwrap_or_default().to_owned();
            *told.counts.entry((kind.clone(), stream.clone())).or_default() += 1;
            let whose = || (line["conn"].as_str().unwrap_or_default().to_owned(), matches!(&*kind, "connect" | "close"));
            match &*kind {
                "connect" | "publish" | "play" => {
                    let before = told.open.insert(whose(), line.clone());
                    ensure!(before.is_none(), "begun twice: {before:?}, {line}");
                    ensure!(line["client"] == "127.0.0.1" && line["record"]["description"]["peer"].is_string(), "not complete: {line}");
                }
                "close" | "unpublish" | "stop" => {
                    let began = told.open.remove(&whose()).with_context(|| format!("ended and not begun: {line}"))?;
                    ensure!(kind == "close" || (began["stream"] == line["stream"]), "another stream: {began}, {line}");
                }
                "segment" => {
                    let number = line["number"].as_u64().context("no number")?;
                    let next = told.segments.entry(stream).or_insert(number);
                    ensure!(number == *next, "segment {next} was to come: {line}");
                    *next += 1;
                    ensure!(Path::new(line["file"].as_str().unwrap_or_default()).is_absolute(), "{line}");
                }
                _ => {}
            }
        }
        Ok(told)
    }

    fn count(&self, kind: &str, stream: &str) -> u64 {
        self.counts.get(&(kind.to_owned(), stream.to_owned())).copied().unwrap_or(0)
    }
}

fn flv_for_a_moment(address: SocketAddr, name: &str) -> Result<()> {
    let viewer = Viewer::flv(address, &format!("live/{name}.flv"))?;
    let seen = eventually(Duration::from_secs(5), || (viewer.frames() > 0).then_some(()));
    viewer.end()?;
    seen.context("nothing to see")
}

#[test]
fn every_session_begins_and_ends_once_whoever_is_killed() -> Result<()> {
    let options = ServerOptions::workers(WORKERS).set("hls.fragment=1s").set("log.block_min=200ms");
    let mut server = Server::start(options)?;
    let records = Arc::new(Clip::Plain.records(20)?);
    let stop = Arc::new(AtomicBool::new(false));
    let publishers: Vec<_> = ["a", "b"].map(|name| steady(server.rtmp(name), records.clone(), stop.clone())).into();
    server.wait_live("a")?;
    server.wait_live("b")?;
    let http = server.address("http");
    let viewers: Vec<Viewer> = (0..4)
        .map(|number| if number % 2 == 0 { Viewer::flv(http, "live/a.flv") } else { Viewer::rtmp(&server.rtmp("a")) })
        .collect::<Result<_>>()?;
    let (by_flv, by_rtmp, publishes) = (http, server.rtmp("b"), server.rtmp("t"));
    let comers = [
        Comer::start(move |_| flv_for_a_moment(by_flv, "b")),
        Comer::start(move |turn| {
            let mut player = RtmpClient::connect(&by_rtmp, ClientRole::Play)?;
            // Some leave before they were answered.
            if turn % 3 == 0 { Ok(()) } else { player.wait_started() }
        }),
        Comer::start({
            let records = records.clone();
            move |turn| {
                let mut publisher = RtmpClient::publish(&format!("{publishes}{turn}"))?;
                records.iter().take(20).try_for_each(|record| publisher.push(record))?;
                // Some say goodbye.
                if turn % 2 == 0 { publisher.end() } else { Ok(()) }
            }
        }),
    ];
    for round in 0..ROUNDS {
        viewers.iter().try_for_each(|viewer| viewer.wait_more(10)).with_context(|| format!("round {round}:\n{}", server.log_text()))?;
        match round % 3 {
            0 => signal(server.worker_pid(server.publisher_worker("a")?)?, "KILL")?,
            1 => server.replace_front()?,
            _ => {
                server.kill_worker(1 + (round as u16 % WORKERS))?;
                viewers.iter().try_for_each(|viewer| viewer.wait_more(2))?;
                server.replace_front()?;
            }
        }
        viewers.iter().try_for_each(|viewer| viewer.wait_more(10)).with_context(|| format!("round {round}:\n{}", server.log_text()))?;
        let all_serve = || (1..=WORKERS).all(|id| server.worker(id).is_ok_and(|row| row["state"] == "ready"));
        eventually(PATIENCE, || all_serve().then_some(())).context("a worker does not come back")?;
    }
    let [flv, rtmp, published] = comers.map(Comer::end);
    ensure!(flv > 3 && rtmp > 3 && published > 3, "hardly anybody came: {flv}, {rtmp}, {published}");
    viewers.into_iter().try_for_each(Viewer::end)?;
    stop.store(true, Ordering::Relaxed);
    for publisher in publishers {
        publisher.join().expect("no publisher panics")?;
    }
    let told = || Told::of(&lines(&server.shared_dir)?);
    let told = eventually(PATIENCE, || match told() {
        Ok(told) if !told.open.is_empty() => None,
        told => Some(told),
    });
    let told = told.with_context(|| format!("something never ends: {:?}", lines(&server.shared_dir)))??;
    for name in ["a", "b"] {
        ensure!((told.count("publish", name), told.count("unpublish", name)) == (1, 1), "the publisher of {name} began more than once");
        ensure!(told.segments.get(name).is_some_and(|next| *next > 5), "few segments of {name}: {:?}", told.segments);
    }
    ensure!((told.count("play", "a"), told.count("stop", "a")) == (4, 4), "{} of 4 viewers", told.count("play", "a"));
    ensure!(told.count("play", "b") >= flv, "{flv} viewers by FLV, {} were told of", told.count("play", "b"));
    let times: u64 = (1..).map_while(|turn| Some(told.count("publish", &format!("t{turn}"))).filter(|_| turn < 100_000)).sum();
    ensure!(times >= published, "{published} publishers, {times} were told of");
    ensure!(told.count("front-started", "") as usize > ROUNDS / 3 && told.count("worker-died", "") > 0, "{:?}", told.counts);
    ensure!(server.front_counter("events_lost") == 0);
    println!("{} lines; {flv} viewers by FLV, {rtmp} by RTMP, {published} publishers came and went", lines(&server.shared_dir)?.len());
    Ok(())
}
