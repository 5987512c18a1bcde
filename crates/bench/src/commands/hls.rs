//! What it costs to give one stream's segments to many HLS viewers: this server against nginx, which serves the same files.
//!
//! One braidcast takes in one stream and cuts it all the time; viewers come to it and to an nginx beside it in turn, on the same
//! core, round after round. What the server spends for the stream itself is known from nginx's turns, and told apart.

use crate::arguments::{CompareArgs, ShapeArgs};
use crate::compare::Clients;
use crate::conclude;
use crate::hls_viewer::{Answers, HlsViewer};
use crate::peers::{self, Bench, Peer, Running};
use crate::process::{self, Interrupt, Process};
use crate::publisher::Publisher;
use crate::report::{self, Spread};
use crate::socket::{self, Poller};
use anyhow::Context;
use clap::Args;
use std::fmt::Write;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Arguments of `hls`.
#[derive(Clone, Debug, Args)]
pub struct HlsArgs {
    /// Viewers of the one stream.
    #[arg(long, default_value_t = 500)]
    viewers: usize,
    /// How many of them check every frame.
    #[arg(long, default_value_t = 8)]
    verified: usize,
    /// Seconds of a segment; the stream has a keyframe as often.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=20))]
    fragment: u64,
    #[command(flatten)]
    shape: ShapeArgs,
    #[command(flatten)]
    compare: CompareArgs,
}

/// The token of the publisher's socket; viewers have theirs by index.
const PUBLISHER: u64 = u64::MAX;
const INDEX: &str = "index.m3u8";
/// Segments that are there before viewers come.
const FIRST_SEGMENTS: usize = 4;
const SETTLE_DEADLINE: Duration = Duration::from_secs(120);
const CONNECT_DEADLINE: Duration = Duration::from_secs(30);
const SCRATCH_BYTES: usize = 1 << 20;
const SPARE_DESCRIPTORS: u64 = 64;

/// Who serves in a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
enum Server {
    Braidcast,
    NginxStatic,
}

impl Server {
    fn name(self) -> &'static str {
        match self {
            Self::Braidcast => "braidcast",
            Self::NginxStatic => "nginx-static",
        }
    }
}

/// One turn of one server.
#[derive(Clone, Debug, serde::Serialize)]
struct Turn {
    server: Server,
    round: u32,
    window_s: f64,
    /// Bytes that viewers received, heads and indexes included.
    delivered_bytes: u64,
    /// Whole segments that they received.
    segments: u64,
    /// CPU of whoever served.
    server_cpu_s: f64,
    /// CPU that braidcast spent while nginx served: what the stream itself costs.
    stream_cpu_s: Option<f64>,
    foreign_cores: f64,
    segment_p50_ms: f64,
    segment_p99_ms: f64,
    index_p99_ms: f64,
    verified_frames: u64,
    /// Frames missed, broken or late, and viewers lost.
    faults: u64,
    first_loss: Option<String>,
}

impl Turn {
    fn cpu_s_per_gb(&self) -> f64 {
        self.server_cpu_s / (self.delivered_bytes as f64 / 1e9)
    }
}

/// Runs the comparison; the exit code tells of frames that verified viewers missed.
///
/// # Errors
/// A server does not start, or serves nothing.
pub fn run(args: &HlsArgs) -> anyhow::Result<ExitCode> {
    let interrupt = Interrupt::install()?;
    let mut shape = args.shape.shape()?;
    shape.gop_frames = args.fragment * shape.fps;
    shape.check()?;
    let mut bench = args.compare.bench(shape, true)?;
    bench.settings.push(format!("hls.fragment={}s", args.fragment));
    let (viewers, verified) = if args.compare.quick { (args.viewers.min(50), args.verified.min(4)) } else { (args.viewers, args.verified) };
    anyhow::ensure!((1..=viewers).contains(&verified), "there must be 1 to {viewers} verified viewers");
    socket::raise_descriptor_limit(viewers as u64 + SPARE_DESCRIPTORS)?;
    let period = Duration::from_secs(args.fragment) / 2;
    let (rounds, timing) = (args.compare.rounds(), args.compare.timing());
    let mut scene = Scene::open(&bench, &interrupt)?;
    let mut turns = Vec::new();
    for round in 1..=rounds {
        let mut servers = vec![Server::Braidcast];
        if scene.nginx.is_some() {
            servers.push(Server::NginxStatic);
        }
        // Each round begins with the other one: a machine that slows down hits both alike.
        servers.rotate_left((round as usize - 1) % scene.servers());
        for server in servers {
            let crowd = Crowd { viewers, verified, period, warm_up: timing.warm_up.max(period * 2), window: timing.window };
            let turn = scene.turn(server, round, &crowd).with_context(|| format!("{} in round {round}", server.name()))?;
            eprintln!(
                "round {round}/{rounds}: {}: {:.2} CPU-s for {:.2} GB, {} verified frames, {} faults",
                server.name(),
                turn.server_cpu_s,
                turn.delivered_bytes as f64 / 1e9,
                turn.verified_frames,
                turn.faults
            );
            turns.push(turn);
        }
    }
    conclude(args, &bench, &turns, viewers)
}

fn conclude(args: &HlsArgs, bench: &Bench, turns: &[Turn], viewers: usize) -> anyhow::Result<ExitCode> {
    let heading = format!("{viewers} HLS viewers of one stream of {} kbps, segments of {} s", bench.shape.video_bps / 1000, args.fragment);
    println!("\n{heading}; medians of {} rounds; GB = 10^9 bytes\n", turns.iter().map(|turn| turn.round).max().unwrap_or(0));
    let table = table(turns);
    print!("{table}");
    let versions = serde_json::json!({ "braidcast": bench.version(Peer::Braidcast), "nginx-static": bench.version(Peer::NginxRtmp) });
    let file = serde_json::json!({
        "bench": "hls", "what": heading, "command": report::command(), "date": report::today(),
        "machine": report::machine(), "versions": versions, "table": table, "ratio_to_nginx": ratio_to_nginx(turns, Server::Braidcast),
        "shape": bench.shape, "cores": bench.cores, "turns": turns,
    });
    conclude::write("hls", args.compare.json.as_deref(), &file)?;
    let faults: u64 = turns.iter().map(|turn| turn.faults).sum();
    for turn in turns.iter().filter(|turn| turn.faults > 0) {
        println!("MISSED: {} round {}: {} faults {:?}", turn.server.name(), turn.round, turn.faults, turn.first_loss);
    }
    Ok(if faults > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What a server spent for a byte over what nginx did in the same round.
fn ratio_to_nginx(turns: &[Turn], server: Server) -> Option<Spread> {
    let nginx = |round: u32| turns.iter().find(|turn| turn.round == round && turn.server == Server::NginxStatic);
    let of = turns.iter().filter(|turn| turn.server == server);
    Spread::of(of.filter_map(|turn| Some(turn.cpu_s_per_gb() / nginx(turn.round)?.cpu_s_per_gb())))
}

/// Medians of each server; ratios are taken within their round.
fn table(turns: &[Turn]) -> String {
    let mut text = format!(
        "{:<14}{:>24}{:>24}{:>28}{:>10}{:>10}{:>10}{:>8}\n",
        "server", "CPU-s/GB (least-most)", "x nginx (least-most)", "without the stream's own", "p50 ms", "p99 ms", "index p99", "faults"
    );
    let range = |spread: Option<Spread>| spread.map_or("-".to_owned(), |s| format!("{:.3} ({:.3}-{:.3})", s.median, s.least, s.greatest));
    let median = |figures: Vec<f64>| Spread::of(figures).map_or("-".to_owned(), |spread| format!("{:.2}", spread.median));
    for server in [Server::Braidcast, Server::NginxStatic] {
        let of: Vec<&Turn> = turns.iter().filter(|turn| turn.server == server).collect();
        if of.is_empty() {
            continue;
        }
        let nginx = |round: u32| turns.iter().find(|turn| turn.round == round && turn.server == Server::NginxStatic);
        let own = |turn: &&Turn| {
            let nginx = nginx(turn.round)?;
            let stream = if server == Server::Braidcast { nginx.stream_cpu_s? / nginx.window_s * turn.window_s } else { 0.0 };
            let served = (turn.server_cpu_s - stream) / (turn.delivered_bytes as f64 / 1e9);
            Some(served / nginx.cpu_s_per_gb())
        };
        let _ = writeln!(
            text,
            "{:<14}{:>24}{:>24}{:>28}{:>10}{:>10}{:>10}{:>8}",
            server.name(),
            range(Spread::of(of.iter().map(|turn| turn.cpu_s_per_gb()))),
            range(ratio_to_nginx(turns, server)),
            range(Spread::of(of.iter().filter_map(own))),
            median(of.iter().map(|turn| turn.segment_p50_ms).collect()),
            median(of.iter().map(|turn| turn.segment_p99_ms).collect()),
            median(of.iter().map(|turn| turn.index_p99_ms).collect()),
            of.iter().map(|turn| turn.faults).sum::<u64>()
        );
    }
    text
}

/// Who comes in a turn, and for how long.
struct Crowd {
    viewers: usize,
    verified: usize,
    period: Duration,
    warm_up: Duration,
    window: Duration,
}

/// The servers, and the one publisher.
struct Scene<'a> {
    interrupt: &'a Interrupt,
    braidcast: Running,
    nginx: Option<Running>,
    publisher: Publisher,
    poller: Poller,
    scratch: Vec<u8>,
}

/// Viewers of a turn and what they find.
#[derive(Default)]
struct Turnout {
    viewers: Vec<Option<HlsViewer>>,
    answers: Answers,
    lost: u64,
    first_loss: Option<String>,
}

impl<'a> Scene<'a> {
    fn open(bench: &Bench, interrupt: &'a Interrupt) -> anyhow::Result<Self> {
        let braidcast = bench.start(Peer::Braidcast, None, Clients::Publishers(1), interrupt)?;
        let publisher = Publisher::connect(braidcast.rtmp.context("it takes no RTMP")?, peers::APP, peers::STREAM, false)?;
        let poller = Poller::new()?;
        poller.add(publisher.socket(), PUBLISHER)?;
        let mut scene = Self { interrupt, braidcast, nginx: None, publisher, poller, scratch: vec![0; SCRATCH_BYTES] };
        let mut nobody = Turnout::default();
        anyhow::ensure!(scene.drive(CONNECT_DEADLINE, &mut nobody, |scene, _| scene.publisher.is_ready())?, "the publisher gets no answer");
        scene.publisher.begin(socket::monotonic_ns(), bench.shape);
        let shared = scene.braidcast.directory().join("shared");
        let there =
            scene.drive(SETTLE_DEADLINE, &mut nobody, |_, _| segments(&shared).is_some_and(|(_, count)| count >= FIRST_SEGMENTS))?;
        let (files, _) = segments(&shared).filter(|_| there).context("no segments come")?;
        match bench.missing_nginx() {
            Some(reason) => eprintln!("nginx-static is left out: {reason}"),
            None => scene.nginx = Some(bench.start_nginx_static(&files, interrupt)?),
        }
        Ok(scene)
    }

    fn servers(&self) -> usize {
        1 + usize::from(self.nginx.is_some())
    }

    fn turn(&mut self, server: Server, round: u32, crowd: &Crowd) -> anyhow::Result<Turn> {
        let (address, path) = match (server, &self.nginx) {
            (Server::NginxStatic, Some(nginx)) => (nginx.http, format!("/{INDEX}")),
            _ => (self.braidcast.http, format!("/{}/{}.m3u8", peers::APP, peers::STREAM)),
        };
        let mut out = self.gather(address.context("it serves no HTTP")?, &path, crowd)?;
        let first = |_: &Self, out: &Turnout| out.viewers.iter().flatten().all(|viewer| viewer.segments() > 0);
        anyhow::ensure!(self.drive(CONNECT_DEADLINE, &mut out, first)?, "not every viewer got a segment: {:?}", out.first_loss);
        self.drive(crowd.warm_up, &mut out, |_, _| false)?;

        let family = process::descendants(self.braidcast.root());
        let nginx = self.nginx.as_ref().map(|nginx| process::descendants(nginx.root())).unwrap_or_default();
        let before = (Spent::now(&family, &nginx), out.received(), out.segments());
        out.answers.measuring = true;
        self.drive(crowd.window, &mut out, |_, _| false)?;
        out.answers.measuring = false;
        let spent = Spent::now(&family, &nginx).since(&before.0);
        let (server_cpu_s, stream_cpu_s) = match server {
            Server::Braidcast => (spent.braidcast_s, None),
            Server::NginxStatic => (spent.nginx_s, Some(spent.braidcast_s)),
        };
        let verifiers = || out.viewers.iter().flatten().filter_map(HlsViewer::verifier);
        // What comes after the last whole segment was not asked for.
        let missed: u64 = verifiers().map(|verifier| verifier.faults_at(verifier.next().unwrap_or(u64::MAX)).total().min(1_000_000)).sum();
        let (segment_p50_ms, segment_p99_ms) = percentiles(&mut out.answers.segments_us);
        Ok(Turn {
            server,
            round,
            window_s: spent.clock_s,
            delivered_bytes: out.received() - before.1,
            segments: out.segments() - before.2,
            server_cpu_s,
            stream_cpu_s,
            foreign_cores: ((spent.machine_s - spent.braidcast_s - spent.nginx_s - spent.own_s) / spent.clock_s).max(0.0),
            segment_p50_ms,
            segment_p99_ms,
            index_p99_ms: percentiles(&mut out.answers.indexes_us).1,
            verified_frames: verifiers().map(|verifier| verifier.frames()).sum(),
            faults: missed + out.lost,
            first_loss: out.first_loss,
        })
    }

    /// Connects viewers, whose indexes are due at different moments of a period.
    fn gather(&self, address: SocketAddr, path: &str, crowd: &Crowd) -> anyhow::Result<Turnout> {
        let mut out = Turnout::default();
        let (now_ns, period_ns) = (socket::monotonic_ns(), crowd.period.as_nanos() as u64);
        for index in 0..crowd.viewers {
            let verified = index * crowd.verified / crowd.viewers != (index + 1) * crowd.verified / crowd.viewers;
            let first_ns = now_ns + period_ns * index as u64 / crowd.viewers as u64;
            let viewer = HlsViewer::connect(address, path, first_ns, period_ns, verified)?;
            self.poller.add(viewer.socket(), index as u64)?;
            out.viewers.push(Some(viewer));
        }
        Ok(out)
    }

    /// Publishes and has viewers ask, for `duration` or until `enough`; false: it never was. Never sleeps: a receiver that has to be
    /// woken is paid for by whoever sends.
    fn drive(&mut self, duration: Duration, out: &mut Turnout, mut enough: impl FnMut(&Self, &Turnout) -> bool) -> anyhow::Result<bool> {
        let end_ns = socket::monotonic_ns() + duration.as_nanos() as u64;
        let mut ready = Vec::new();
        loop {
            self.interrupt.check()?;
            let now_ns = socket::monotonic_ns();
            self.publisher.publish_due(now_ns).context("the publisher's connection ended")?;
            for index in 0..out.viewers.len() {
                out.serve(index, |viewer, _| viewer.ask_due(now_ns));
            }
            if enough(self, out) {
                return Ok(true);
            }
            if now_ns >= end_ns {
                return Ok(false);
            }
            let patience = if out.viewers.is_empty() { Duration::from_millis(5) } else { Duration::ZERO };
            self.poller.wait(patience, &mut ready)?;
            for &event in &ready {
                match event.token {
                    PUBLISHER => self.publisher.handle(event, &mut self.scratch)?,
                    index => out.serve(index as usize, |viewer, answers| viewer.handle(event, &mut self.scratch, answers)),
                }
            }
            self.braidcast.check()?;
        }
    }
}

impl Turnout {
    fn serve(&mut self, index: usize, step: impl FnOnce(&mut HlsViewer, &mut Answers) -> anyhow::Result<()>) {
        let Some(Some(viewer)) = self.viewers.get_mut(index) else { return };
        if let Err(error) = step(viewer, &mut self.answers) {
            self.viewers[index] = None;
            self.lost += 1;
            self.first_loss.get_or_insert_with(|| format!("{error:#}"));
        }
    }

    fn received(&self) -> u64 {
        self.viewers.iter().flatten().map(HlsViewer::received_bytes).sum()
    }

    fn segments(&self) -> u64 {
        self.viewers.iter().flatten().map(HlsViewer::segments).sum()
    }
}

/// CPU and clock, in seconds.
struct Spent {
    clock_s: f64,
    braidcast_s: f64,
    nginx_s: f64,
    own_s: f64,
    machine_s: f64,
}

impl Spent {
    fn now(braidcast: &[Process], nginx: &[Process]) -> Self {
        Self {
            clock_s: socket::monotonic_ns() as f64 / 1e9,
            braidcast_s: process::cpu_seconds(braidcast),
            nginx_s: process::cpu_seconds(nginx),
            own_s: process::own_cpu_seconds(),
            machine_s: process::machine_busy_seconds(),
        }
    }

    fn since(&self, earlier: &Self) -> Self {
        Self {
            clock_s: self.clock_s - earlier.clock_s,
            braidcast_s: self.braidcast_s - earlier.braidcast_s,
            nginx_s: self.nginx_s - earlier.nginx_s,
            own_s: self.own_s - earlier.own_s,
            machine_s: self.machine_s - earlier.machine_s,
        }
    }
}

/// Median and 99th percentile in milliseconds; 0 of nothing.
fn percentiles(us: &mut [u32]) -> (f64, f64) {
    us.sort_unstable();
    let at = |share: f64| us.get((us.len().saturating_sub(1) as f64 * share).round() as usize).map_or(0.0, |us| f64::from(*us) / 1000.0);
    (at(0.50), at(0.99))
}

/// The directory below `shared` that has an index, and how many segments that names.
fn segments(shared: &Path) -> Option<(PathBuf, usize)> {
    let mut directories = vec![shared.join("streams")];
    while let Some(directory) = directories.pop() {
        if let Ok(text) = fs::read_to_string(directory.join(INDEX)) {
            return Some((directory, text.lines().filter(|line| line.starts_with("#EXTINF")).count()));
        }
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        directories.extend(entries.map(|entry| entry.path()).filter(|path| path.is_dir()));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(server: Server, round: u32, cpu_s: f64) -> Turn {
        Turn {
            server,
            round,
            window_s: 10.0,
            delivered_bytes: 2_000_000_000,
            segments: 1,
            server_cpu_s: cpu_s,
            stream_cpu_s: (server == Server::NginxStatic).then_some(0.5),
            foreign_cores: 0.0,
            segment_p50_ms: 1.0,
            segment_p99_ms: 2.0,
            index_p99_ms: 0.1,
            verified_frames: 1,
            faults: 0,
            first_loss: None,
        }
    }

    #[test]
    fn ratios_are_taken_within_their_round_and_the_stream_is_told_apart() {
        let turns = [
            turn(Server::Braidcast, 1, 1.5),
            turn(Server::NginxStatic, 1, 1.0),
            turn(Server::Braidcast, 2, 3.0),
            turn(Server::NginxStatic, 2, 2.0),
        ];
        let text = table(&turns);
        let line = text.lines().find(|line| line.starts_with("braidcast")).unwrap_or_default();
        assert!(line.contains("1.500 (1.500-1.500)"), "{text}");
        assert!(line.contains("1.125 (1.000-1.250)"), "{text}");
    }

    #[test]
    fn percentiles_of_nothing_are_nothing() {
        assert_eq!(percentiles(&mut []), (0.0, 0.0));
        assert_eq!(percentiles(&mut [3000, 1000, 2000]), (2.0, 3.0));
    }
}
