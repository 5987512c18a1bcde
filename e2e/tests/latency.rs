//! `[play] latency` and `[[vhost]] latency`: how often a viewer is sent what it lacks. Sends are counted; their times are not looked at.

use anyhow::{Context, Result, ensure};
use braidcast_e2e::counts::Trace;
use braidcast_e2e::rtmp::RtmpClient;
use braidcast_e2e::server::{binary, signal};
use braidcast_e2e::tools::eventually;
use braidcast_e2e::{Record, Server, ServerOptions, Viewer, paced};
use braidcast_media::RecordKind;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);
/// Of each kind, HTTP-FLV and RTMP.
const VIEWERS: u64 = 3;
const FRAMES: u64 = 60;
const FRAME_BYTES: usize = 2_000;
/// From one video frame to the next, with two audio frames between: less than audio waits for a frame to go with.
const FRAME_MS: u64 = 40;
/// AudioSpecificConfig (ISO/IEC 14496-3 §1.6.2.1) of AAC-LC in 44.1 kHz stereo, as a tag; and a frame that no decoder takes.
const AUDIO_HEADER: &[u8] = &[0xaf, 0, 0x12, 0x10];
const AUDIO: &[u8] = &[0xaf, 1, 0x55, 0x55, 0x55, 0x55];

/// A stream of a vhost, and who watches it.
struct Stage {
    publisher: RtmpClient,
    viewers: Vec<Viewer>,
    next_frame: u64,
}

impl Stage {
    fn new(server: &Server, vhost: &str) -> Result<Self> {
        let url = format!("{}?vhost={vhost}", server.rtmp("x"));
        let mut publisher = paced::publisher(&url)?;
        publisher.push(&audio(0, AUDIO_HEADER))?;
        let mut stage = Self { publisher, viewers: Vec::new(), next_frame: 0 };
        stage.push(5)?;
        for _ in 0..VIEWERS {
            let by_http = Viewer::flv(server.address("http"), &format!("live/x.flv?vhost={vhost}"))?;
            stage.viewers.extend([by_http, Viewer::rtmp(&url)?]);
        }
        stage.wait().with_context(|| server.log_text())?;
        Ok(stage)
    }

    fn push(&mut self, frames: u64) -> Result<()> {
        for number in self.next_frame..self.next_frame + frames {
            let at_ms = number * FRAME_MS;
            self.publisher.push(&audio(at_ms, AUDIO))?;
            std::thread::sleep(Duration::from_millis(15));
            self.publisher.push(&audio(at_ms + FRAME_MS / 2, AUDIO))?;
            std::thread::sleep(Duration::from_millis(10));
            self.publisher.push(&Record { timestamp_ms: at_ms as u32, ..paced::frame(number, FRAME_BYTES) })?;
            std::thread::sleep(Duration::from_millis(15));
        }
        self.next_frame += frames;
        Ok(())
    }

    /// Until everybody has everything.
    fn wait(&self) -> Result<()> {
        let all = || self.viewers.iter().all(|viewer| viewer.frames() + paced::GOP_FRAMES > self.next_frame).then_some(());
        eventually(PATIENCE, all).context("the viewers did not get everything")
    }

    /// How often a viewer is sent something for each video frame; and how often in a second.
    fn sends(&mut self, server: &Server) -> Result<(f64, f64)> {
        let trace = Trace::start(server.worker_pid(1)?)?;
        let begun = Instant::now();
        self.push(FRAMES)?;
        self.wait()?;
        let counts = trace.stop()?;
        let seconds = begun.elapsed().as_secs_f64();
        let sends = ["sendto", "sendmsg"].iter().filter_map(|name| counts.calls.get(*name)).sum::<u64>() as f64 / (2 * VIEWERS) as f64;
        Ok((sends / FRAMES as f64, sends / seconds))
    }
}

fn audio(timestamp_ms: u64, payload: &[u8]) -> Record {
    Record { kind: RecordKind::Audio, timestamp_ms: timestamp_ms as u32, payload: payload.to_vec() }
}

/// A viewer is sent something with each video frame, and the audio frames with it. A machine that is busy may send two at once.
fn with_every_frame(what: &str, (by_frame, by_second): (f64, f64)) -> Result<()> {
    println!("{what}: {by_frame:.2} sends a video frame, {by_second:.1} a second");
    ensure!((0.7..1.4).contains(&by_frame), "{what}: {by_frame:.2} sends to a viewer for each video frame");
    Ok(())
}

/// A viewer is sent something every so often, and never sooner.
fn with_every(what: &str, batch_ms: f64, (by_frame, by_second): (f64, f64)) -> Result<()> {
    let most = 1_000.0 / batch_ms;
    println!("{what}: {by_frame:.2} sends a video frame, {by_second:.2} a second, {most:.2} expected");
    // The first and the last batch of the time that was looked at are not whole.
    ensure!(by_second > most * 0.5 && by_second < most * 1.1 + 0.6, "{what}: {by_second:.2} sends to a viewer in a second");
    Ok(())
}

fn server(file: &str) -> Result<Server> {
    let options = ServerOptions { file: file.to_owned(), ..ServerOptions::workers(1) };
    Server::start(["hls.enabled=false", "server.log_level=info"].iter().fold(options, |options, key| options.set(key)))
}

#[test]
fn a_viewer_is_sent_batches_as_its_vhost_says() -> Result<()> {
    let vhost = |name: &str, latency: &str| format!("[[vhost]]\nname = \"{name}.example\"\nlatency = {latency}\n");
    let vhosts = [("low", "\"low\""), ("balanced", "\"balanced\""), ("frugal", "\"frugal\""), ("fixed", "120")];
    let file = vhosts.iter().fold("[play]\nlatency = 350\n".to_owned(), |file, (name, latency)| file + &vhost(name, latency));
    let server = server(&file)?;
    let sends = |vhost: &str| -> Result<(f64, f64)> { Stage::new(&server, vhost)?.sends(&server).with_context(|| server.log_text()) };
    with_every_frame("low", sends("low.example")?)?;
    with_every_frame("balanced, with time to spare", sends("balanced.example")?)?;
    with_every("frugal", 350.0, sends("frugal.example")?)?;
    with_every("120", 120.0, sends("fixed.example")?)?;
    with_every("350, as all others", 350.0, sends("other.example")?)
}

#[test]
fn a_reload_changes_it_for_those_who_watch() -> Result<()> {
    let server = server("[play]\nlatency = \"frugal\"\n")?;
    let mut stage = Stage::new(&server, "__defaultVhost__")?;
    with_every("frugal", 350.0, stage.sends(&server)?)?;
    for (latency, frugal) in [("low", false), ("frugal", true)] {
        std::fs::write(server.state_dir.join("test.toml"), format!("[play]\nlatency = \"{latency}\"\n"))?;
        let output = Command::new(binary()).args(["reload", "--timeout", "60", "--shared-dir"]).arg(&server.shared_dir).output()?;
        ensure!(output.status.success(), "{output:?}\n{}", server.log_text());
        let sends = stage.sends(&server)?;
        if frugal { with_every("frugal again", 350.0, sends)? } else { with_every_frame("low after a reload", sends)? }
    }
    stage.viewers.into_iter().try_for_each(Viewer::end)
}

/// Runs something while a process has a tenth of the time: it is stopped, again and again, for so long that several frames come meanwhile.
fn with_little_time<T>(pid: u32, run: impl FnOnce() -> Result<T>) -> Result<T> {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let stopping = scope.spawn(|| {
            let mut signalled = Ok(());
            while signalled.is_ok() && !over.load(Ordering::Relaxed) {
                signalled = signal(pid, "STOP");
                std::thread::sleep(Duration::from_millis(270));
                signalled = signalled.and(signal(pid, "CONT"));
                std::thread::sleep(Duration::from_millis(30));
            }
            signalled
        });
        let result = run();
        over.store(true, Ordering::Relaxed);
        stopping.join().expect("the thread does not panic")?;
        result
    })
}

/// Too late for every frame: more goes at once, everybody has everything, and nobody is jumped.
#[test]
fn a_worker_without_time_batches_by_itself_and_leaves_nobody_behind() -> Result<()> {
    let server = server("[play]\nlatency = \"low\"\n")?;
    let mut stage = Stage::new(&server, "__defaultVhost__")?;
    let (by_frame, _) = with_little_time(server.worker_pid(1)?, || stage.sends(&server)).with_context(|| server.log_text())?;
    println!("low, without time: {by_frame:.2} sends a video frame");
    ensure!(by_frame < 0.5, "{by_frame:.2} sends to a viewer for each video frame");
    ensure!(server.workers_counter("viewer_jumps") == 0, "a viewer was jumped");
    with_every_frame("low, with time again", stage.sends(&server)?)?;
    stage.viewers.into_iter().try_for_each(Viewer::end)
}
