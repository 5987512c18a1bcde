//! `bench viral`: thousands come for one stream within a moment, while others watch other streams. What the others notice of
//! it, and how long those who come wait; beside a bare loop, which knows one stream and one queue, and where all wait for all.

use crate::commands::churn::{CrowdArgs, Spent, table_of};
use crate::compare::Clients;
use crate::crowd::{Arrivals, Crowd, Visits, Waits};
use crate::peers::{Bench, Peer};
use crate::process::Interrupt;
use crate::verify::Faults;
use crate::viewer::{Observations, Protocol, Target};
use crate::visitor::Way;
use anyhow::Context;
use clap::Args;
use std::process::ExitCode;
use std::time::Duration;

/// Arguments of `viral`.
#[derive(Clone, Debug, Args)]
pub struct ViralArgs {
    /// Viewers who come for the one stream.
    #[arg(long, default_value_t = 5_000)]
    joiners: u64,
    /// Seconds within which they come.
    #[arg(long, default_value_t = 2.0, value_parser = crate::arguments::seconds)]
    within: f64,
    /// How they come, in turn.
    #[arg(long, value_delimiter = ',', default_values_t = [Way::Flv])]
    protocols: Vec<Way>,
    /// Other streams.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1000))]
    others: u16,
    /// Viewers of each other stream, by HTTP-FLV; all of them check every frame.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1000))]
    viewers: u16,
    /// Seconds that the others are measured before they come, and again when all are there.
    #[arg(long, default_value_t = 5.0, value_parser = crate::arguments::seconds)]
    window: f64,
    /// Without the bare loop.
    #[arg(long)]
    alone: bool,
    #[command(flatten)]
    crowd: CrowdArgs,
}

/// The one stream; the others follow. The bare loop has this one alone.
const HOT: usize = 0;

/// What was found at one server.
#[derive(Debug, serde::Serialize)]
struct Found {
    server: Peer,
    others_before: Latency,
    others_while_they_come: Latency,
    others_afterwards: Latency,
    waits: Vec<Waits>,
    begun: u64,
    served: u64,
    errors: u64,
    not_key: u64,
    first_error: Option<String>,
    unserved: u64,
    verified_frames: u64,
    faults: Faults,
    cpu: Spent,
}

/// Runs it. The exit code tells of viewers that got nothing, and of frames that the others missed.
pub fn run(args: &ViralArgs) -> anyhow::Result<ExitCode> {
    let interrupt = Interrupt::install()?;
    let bench = args.crowd.bench(args.clients(), args.protocols.contains(&Way::Hls))?;
    let own = args.measure(Peer::Braidcast, &bench, &interrupt)?;
    // The bare loop speaks one protocol.
    let bare = if args.alone || args.protocols != [Way::Flv] { None } else { Some(args.measure(Peer::Bare, &bench, &interrupt)?) };
    let what = format!(
        "{} viewers of one stream come within {} s; {} others watch {} streams; all of {} kbps",
        args.joiners(),
        args.within,
        args.watchers(),
        args.others,
        args.crowd.kbps
    );
    let table = table(&own, bare.as_ref());
    print!("\n{what}\n\n{table}");
    let mut found = serde_json::to_value(&own)?;
    found["bare"] = serde_json::to_value(&bare)?;
    args.crowd.write("viral", &what, &table, &bench, &found)?;
    let sound = own.judge() & bare.as_ref().is_none_or(Found::judge);
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl ViralArgs {
    fn joiners(&self) -> u64 {
        if self.crowd.quick { self.joiners.min(200) } else { self.joiners }
    }

    fn streams(&self) -> usize {
        usize::from(self.others) + 1
    }

    fn watchers(&self) -> usize {
        usize::from(self.others) * usize::from(self.viewers)
    }

    fn clients(&self) -> usize {
        self.joiners() as usize + self.watchers() + self.streams()
    }

    fn measure(&self, peer: Peer, bench: &Bench, interrupt: &Interrupt) -> anyhow::Result<Found> {
        let (joiners, window) = (self.joiners(), if self.crowd.quick { 2.0 } else { self.window });
        let (streams, clients) = (self.streams(), self.clients());
        let mut server = bench.start(peer, None, Clients::Viewers { viewers: clients, verified: self.watchers() }, interrupt)?;
        let http = server.http.context("the server serves no HTTP")?;
        let rtmp = server.rtmp.unwrap_or(http);
        let mut crowd = Crowd::new(rtmp, http, clients, interrupt)?;
        if peer != Peer::Bare {
            crowd.publish(streams, bench.shape)?;
        }
        if self.protocols.contains(&Way::Hls) {
            crowd.await_segments(streams, Duration::from_secs(30))?;
        }
        crowd.drive(Duration::from_secs(1), None, |_| false)?;
        crowd.watch(self.watchers(), HOT + 1..streams, Target { protocol: Protocol::Flv, address: http })?;
        crowd.drive(Duration::from_secs(2), None, |_| false)?;

        crowd.observations.measure(true);
        crowd.drive(Duration::from_secs_f64(window), None, |_| false)?;
        let others_before = latencies(&mut crowd.observations);
        let arrivals = Arrivals {
            address: |crowd, way| if way == Way::Rtmp { crowd.rtmp } else { crowd.http },
            ways: self.protocols.clone(),
            streams: HOT..HOT + 1,
            every_ns: (self.within * 1e9) as u64 / joiners.max(1),
            stay_ns: None,
            most: joiners,
        };
        let before = Spent::read(server.root());
        crowd.drive(Duration::from_secs_f64(self.within), Some(arrivals), |_| false)?;
        let others_while_they_come = latencies(&mut crowd.observations);
        let cpu = Spent::read(server.root()).since(before);
        crowd.drive(Duration::from_secs_f64(window), None, |_| false)?;
        let others_afterwards = latencies(&mut crowd.observations);
        let visits = crowd.take_visits();
        server.check()?;
        let (verified_frames, faults) = crowd.finish()?;
        let (waits, unserved) = (visits.waits(), visits.begun - visits.served - visits.errors);
        let Visits { begun, served, not_key, errors, first_error, .. } = visits;
        Ok(Found {
            server: peer,
            others_before,
            others_while_they_come,
            others_afterwards,
            waits,
            begun,
            served,
            errors,
            not_key,
            first_error,
            unserved,
            verified_frames,
            faults,
            cpu,
        })
    }
}

impl Found {
    /// Says what went wrong; whether nothing did.
    fn judge(&self) -> bool {
        let name = self.server.name();
        if self.errors > 0 {
            println!("ERRORS at {name}: {} of {} who came: {}", self.errors, self.begun, self.first_error.as_deref().unwrap_or_default());
        }
        if self.not_key > 0 {
            println!("NOT A KEYFRAME at {name}: the first frame of {} of {}", self.not_key, self.served);
        }
        if self.unserved > 0 {
            println!("UNSERVED at {name}: {} of {} had no frame when the window ended", self.unserved, self.begun);
        }
        if self.faults.total() > 0 || self.verified_frames == 0 {
            println!("MISSED by the others at {name}: {:?} of {} frames", self.faults, self.verified_frames);
        }
        self.errors + self.not_key + self.unserved + self.faults.total() == 0 && self.verified_frames > 0 && self.served > 0
    }
}

fn table(own: &Found, bare: Option<&Found>) -> String {
    let mut text = format!("latency of the others:\n{:<16} {:>10} {:>10} {:>12} {:>10}\n", "", "p50 ms", "p99 ms", "bare p99 ms", "x bare");
    type OthersAt = fn(&Found) -> Latency;
    let moments: [(&str, OthersAt); 3] = [
        ("before", |found| found.others_before),
        ("while they come", |found| found.others_while_they_come),
        ("afterwards", |found| found.others_afterwards),
    ];
    for (name, of) in moments {
        let (latency, bare) = (of(own), bare.map(|bare| of(bare).p99_ms));
        let figure = |figure: Option<f64>, decimals: usize| figure.map_or("-".to_owned(), |figure| format!("{figure:.decimals$}"));
        let ratio = figure(bare.map(|bare| latency.p99_ms / bare), 2);
        text += &format!("{name:<16} {:>10.1} {:>10.1} {:>12} {ratio:>10}\n", latency.p50_ms, latency.p99_ms, figure(bare, 1));
    }
    text += &format!("\ntime to the first frame of those who come:\n{}", table_of(&own.waits));
    if let Some(all) = bare.and_then(|bare| bare.waits.last()) {
        text += &format!("{:<6} {:>9} {:>10.1} {:>10.1} {:>10.1}\n", "bare", all.visitors, all.p50_ms, all.p99_ms, all.most_ms);
    }
    let Spent { clock_s, front_s, workers_s } = own.cpu;
    text += &format!(
        "\nCPU while they come: front {:.1} % of a core, workers {:.1} %\n",
        front_s / clock_s * 100.0,
        workers_s / clock_s * 100.0
    );
    text
}

#[derive(Clone, Copy, Debug, serde::Serialize)]
struct Latency {
    p50_ms: f64,
    p99_ms: f64,
}

/// Of what was observed since this was asked last.
fn latencies(observations: &mut Observations) -> Latency {
    let (p50, p99) = Observations::latencies_of_all_ms(std::slice::from_ref(observations));
    observations.forget_latencies();
    Latency { p50_ms: p50.unwrap_or(0.0), p99_ms: p99.unwrap_or(0.0) }
}
