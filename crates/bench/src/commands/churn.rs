//! `bench churn`: viewers come and go all the time. How long each waits for its first frame, whether that is a keyframe, who
//! gets none, and what a coming and going costs the server.

use crate::compare::Clients;
use crate::conclude;
use crate::crowd::{Arrivals, Crowd, Visits, Waits};
use crate::peers::{Bench, Peer};
use crate::process::{self, Cores, Interrupt, Process};
use crate::report;
use crate::socket;
use crate::source::Shape;
use crate::visitor::Way;
use anyhow::Context;
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// What `churn` and `viral` have in common.
#[derive(Clone, Debug, Args)]
pub struct CrowdArgs {
    /// Video kilobits (1000 bits) per second of each stream, at 30 frames, with a keyframe every two seconds.
    #[arg(long, default_value_t = 1000)]
    pub kbps: u64,
    /// Workers of the server.
    #[arg(long, default_value_t = 1)]
    workers: u16,
    /// The braidcast binary; else this program itself.
    #[arg(long)]
    braidcast: Option<PathBuf>,
    /// A configuration key of braidcast, `section.key=value`; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// The core of the server's processes.
    #[arg(long, default_value_t = 0)]
    server_core: usize,
    /// The core of the load.
    #[arg(long, default_value_t = 1)]
    load_core: usize,
    /// Small and short: to see that everything works. The figures mean nothing.
    #[arg(long)]
    pub quick: bool,
    /// Where to write all figures as JSON [default: target/bench/NAME.json if there is a target directory, else NAME.json].
    #[arg(long)]
    json: Option<PathBuf>,
}

impl CrowdArgs {
    /// What is published.
    pub fn shape(&self) -> anyhow::Result<Shape> {
        let video_bps = self.kbps.checked_mul(1000).context("the bit rate is too high")?;
        let shape = Shape { video_bps, fps: 30, gop_frames: 60, audio_bps: 0 };
        shape.check()?;
        Ok(shape)
    }

    /// How the server is started; pins this process to its core.
    pub fn bench(&self, clients: usize, hls: bool) -> anyhow::Result<Bench> {
        let braidcast = match &self.braidcast {
            Some(path) => path.clone(),
            None => std::env::current_exe().context("cannot tell where this program is")?,
        };
        let cores = Cores { server: self.server_core, load: self.load_core };
        cores.pin()?;
        let own = [format!("limits.connections={}", (clients + 1000).max(20_000)), format!("server.workers={}", self.workers)];
        let settings = own.into_iter().chain(self.settings.iter().cloned()).collect();
        Ok(Bench { braidcast, nginx: PathBuf::new(), xiu: PathBuf::new(), cores, shape: self.shape()?, settings, hls, workers: 1 })
    }

    /// Writes what was found beside the machine's description; says where.
    pub fn write(&self, name: &str, what: &str, table: &str, bench: &Bench, found: &serde_json::Value) -> anyhow::Result<()> {
        let file = serde_json::json!({
            "bench": name, "what": what, "command": report::command(), "date": report::today(), "machine": report::machine(),
            "version": bench.version(Peer::Braidcast), "table": table, "shape": bench.shape, "cores": bench.cores, "found": found,
        });
        conclude::write(name, self.json.as_deref(), &file)
    }
}

/// CPU of the front and of all other processes of a server.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Spent {
    /// Seconds that passed.
    pub clock_s: f64,
    /// CPU seconds of the front.
    pub front_s: f64,
    /// CPU seconds of workers and attendants.
    pub workers_s: f64,
}

impl Spent {
    /// So far; [`Spent::since`] makes a difference of it.
    pub fn read(root: u32) -> Self {
        let (front, workers): (Vec<Process>, Vec<Process>) =
            process::descendants(root).into_iter().partition(|member| member.pid() == root);
        Self {
            clock_s: socket::monotonic_ns() as f64 / 1e9,
            front_s: process::cpu_seconds(&front),
            workers_s: process::cpu_seconds(&workers),
        }
    }

    /// Since an earlier reading.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            clock_s: self.clock_s - earlier.clock_s,
            front_s: self.front_s - earlier.front_s,
            workers_s: self.workers_s - earlier.workers_s,
        }
    }
}

/// The table of times to the first frame.
pub fn table_of(waits: &[Waits]) -> String {
    let head = format!("{:<6} {:>9} {:>10} {:>10} {:>10}\n", "", "visitors", "p50 ms", "p99 ms", "most ms");
    let lines = waits.iter().map(|Waits { way, visitors, p50_ms, p99_ms, most_ms }| {
        let name = way.map_or("all", Way::name);
        format!("{name:<6} {visitors:>9} {p50_ms:>10.1} {p99_ms:>10.1} {most_ms:>10.1}\n")
    });
    std::iter::once(head).chain(lines).collect()
}

/// Says what went wrong with visitors; whether nothing did.
fn judge(visits: &Visits) -> bool {
    if visits.errors > 0 {
        println!("ERRORS: {} of {} visitors: {}", visits.errors, visits.begun, visits.first_error.as_deref().unwrap_or_default());
    }
    if visits.not_key > 0 {
        println!("NOT A KEYFRAME: the first frame of {} of {} visitors", visits.not_key, visits.served);
    }
    visits.errors == 0 && visits.not_key == 0 && visits.served > 0
}

/// Arguments of `churn`.
#[derive(Clone, Debug, Args)]
pub struct ChurnArgs {
    /// Connections that come in a minute.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(60..=1_000_000))]
    rate: u64,
    /// Seconds that each stays; HLS visitors too, on their idle connection.
    #[arg(long, default_value_t = 2.0, value_parser = crate::arguments::seconds)]
    stay: f64,
    /// How they come, in turn.
    #[arg(long, value_delimiter = ',', default_values_t = Way::ALL)]
    protocols: Vec<Way>,
    /// Streams that they come for, in turn.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1000))]
    streams: u16,
    /// Seconds that are measured.
    #[arg(long, default_value_t = 15.0, value_parser = crate::arguments::seconds)]
    window: f64,
    #[command(flatten)]
    crowd: CrowdArgs,
}

/// Runs it. The exit code tells of visitors that got nothing, or no keyframe first.
pub fn run(args: &ChurnArgs) -> anyhow::Result<ExitCode> {
    let interrupt = Interrupt::install()?;
    anyhow::ensure!(!args.protocols.is_empty(), "visitors have to come somehow");
    let quick = args.crowd.quick;
    let (rate, stay, window) = if quick { (args.rate.min(3_000), 1.0, 2.0) } else { (args.rate, args.stay, args.window) };
    let (streams, at_once) = (usize::from(args.streams), (rate as f64 / 60.0 * (stay + 10.0)) as usize);
    let hls = args.protocols.contains(&Way::Hls);
    let bench = args.crowd.bench(at_once, hls)?;
    let mut server = bench.start(Peer::Braidcast, None, Clients::Viewers { viewers: at_once, verified: 0 }, &interrupt)?;
    let rtmp = server.rtmp.context("the server takes no RTMP")?;
    let http = server.http.context("the server serves no HTTP")?;
    let mut crowd = Crowd::new(rtmp, http, at_once + streams, &interrupt)?;
    crowd.publish(streams, bench.shape)?;
    if hls {
        crowd.await_segments(streams, Duration::from_secs(30))?;
    } else {
        crowd.drive(Duration::from_secs(1), None, |_| false)?;
    }
    let arrivals = Arrivals {
        address: |crowd, way| if way == Way::Rtmp { crowd.rtmp } else { crowd.http },
        ways: args.protocols.clone(),
        streams: 0..streams,
        every_ns: 60_000_000_000 / rate,
        stay_ns: Some((stay * 1e9) as u64),
        most: u64::MAX,
    };
    // As many come as go before anything counts.
    crowd.drive(Duration::from_secs_f64(stay + 0.5), Some(arrivals.clone()), |_| false)?;
    let warm_up = crowd.take_visits();
    let before = Spent::read(server.root());
    crowd.drive(Duration::from_secs_f64(window), Some(arrivals), |_| false)?;
    let spent = Spent::read(server.root()).since(before);
    let there = crowd.visitors();
    let visits = crowd.take_visits();
    server.check()?;
    crowd.finish()?;

    let a_minute = visits.begun as f64 / spent.clock_s * 60.0;
    let what =
        format!("{a_minute:.0} connections a minute to {streams} streams of {} kbps, each for {stay} s, {there} at once", args.crowd.kbps);
    let each = |seconds: f64| seconds * 1e6 / visits.begun.max(1) as f64;
    let waits = visits.waits();
    let table = format!(
        "time to the first frame:\n{}\nCPU: front {:.1} % of a core, {:.0} us a connection; workers {:.1} %, {:.0} us (what they send included)\n",
        table_of(&waits),
        spent.front_s / spent.clock_s * 100.0,
        each(spent.front_s),
        spent.workers_s / spent.clock_s * 100.0,
        each(spent.workers_s),
    );
    print!("\n{what}\n\n{table}");
    let found = serde_json::json!({
        "connections_per_minute": a_minute, "begun": visits.begun, "served": visits.served, "errors": visits.errors,
        "not_key": visits.not_key, "first_error": visits.first_error, "waits": waits, "cpu": spent,
        "front_us_per_connection": each(spent.front_s), "workers_us_per_connection": each(spent.workers_s),
        "errors_before": warm_up.errors,
    });
    args.crowd.write("churn", &what, &table, &bench, &found)?;
    Ok(if judge(&visits) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
