//! `bench viral`: thousands come for one stream within a moment, while others watch other streams. What the others notice of
//! it, and how long those who come wait.

use crate::commands::churn::{CrowdArgs, Spent, judge, table_of};
use crate::compare::Clients;
use crate::crowd::{Arrivals, Crowd};
use crate::peers::Peer;
use crate::process::Interrupt;
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
    #[command(flatten)]
    crowd: CrowdArgs,
}

/// The one stream; the others follow.
const HOT: usize = 0;

/// Runs it. The exit code tells of viewers that got nothing, and of frames that the others missed.
pub fn run(args: &ViralArgs) -> anyhow::Result<ExitCode> {
    let interrupt = Interrupt::install()?;
    let quick = args.crowd.quick;
    let (joiners, window) = if quick { (args.joiners.min(200), 2.0) } else { (args.joiners, args.window) };
    let hls = args.protocols.contains(&Way::Hls);
    let (streams, viewers) = (usize::from(args.others) + 1, usize::from(args.others) * usize::from(args.viewers));
    let clients = joiners as usize + viewers + streams;
    let bench = args.crowd.bench(clients, hls)?;
    let mut server = bench.start(Peer::Braidcast, None, Clients::Viewers { viewers: clients, verified: viewers }, &interrupt)?;
    let rtmp = server.rtmp.context("the server takes no RTMP")?;
    let http = server.http.context("the server serves no HTTP")?;
    let mut crowd = Crowd::new(rtmp, http, clients, &interrupt)?;
    crowd.publish(streams, bench.shape)?;
    if hls {
        crowd.await_segments(streams, Duration::from_secs(30))?;
    }
    crowd.drive(Duration::from_secs(1), None, |_| false)?;
    crowd.watch(viewers, HOT + 1..streams, Target { protocol: Protocol::Flv, address: http })?;
    crowd.drive(Duration::from_secs(2), None, |_| false)?;

    crowd.observations.measure(true);
    crowd.drive(Duration::from_secs_f64(window), None, |_| false)?;
    let alone = latencies(&mut crowd.observations);
    let arrivals = Arrivals {
        address: |crowd, way| if way == Way::Rtmp { crowd.rtmp } else { crowd.http },
        ways: args.protocols.clone(),
        streams: HOT..HOT + 1,
        every_ns: (args.within * 1e9) as u64 / joiners.max(1),
        stay_ns: None,
        most: joiners,
    };
    let before = Spent::read(server.root());
    crowd.drive(Duration::from_secs_f64(args.within), Some(arrivals), |_| false)?;
    let coming = latencies(&mut crowd.observations);
    let spent = Spent::read(server.root()).since(before);
    crowd.drive(Duration::from_secs_f64(window), None, |_| false)?;
    let crowded = latencies(&mut crowd.observations);
    let visits = crowd.take_visits();
    let unserved = visits.begun - visits.served - visits.errors;
    server.check()?;
    let (frames, faults) = crowd.finish()?;

    let what = format!(
        "{joiners} viewers of one stream come within {} s; {viewers} others watch {} streams; all of {} kbps",
        args.within, args.others, args.crowd.kbps
    );
    let waits = visits.waits();
    let row = |name: &str, of: Latency| format!("{name:<16} {:>10.1} {:>10.1}\n", of.p50_ms, of.p99_ms);
    let table = format!(
        "latency of the others:\n{:<16} {:>10} {:>10}\n{}{}{}\ntime to the first frame of those who come:\n{}\n\
         CPU while they come: front {:.1} % of a core, workers {:.1} %\n",
        "",
        "p50 ms",
        "p99 ms",
        row("before", alone),
        row("while they come", coming),
        row("afterwards", crowded),
        table_of(&waits),
        spent.front_s / spent.clock_s * 100.0,
        spent.workers_s / spent.clock_s * 100.0,
    );
    print!("\n{what}\n\n{table}");
    let found = serde_json::json!({
        "others_before": alone, "others_while_they_come": coming, "others_afterwards": crowded, "waits": waits, "begun": visits.begun, "served": visits.served,
        "errors": visits.errors, "not_key": visits.not_key, "first_error": visits.first_error, "unserved": unserved,
        "verified_frames": frames, "faults": faults, "cpu": spent,
    });
    args.crowd.write("viral", &what, &table, &bench, &found)?;
    if unserved > 0 {
        println!("UNSERVED: {unserved} of {} had no frame when the window ended", visits.begun);
    }
    if faults.total() > 0 || frames == 0 {
        println!("MISSED by the others: {faults:?} of {frames} frames");
    }
    let sound = judge(&visits) && unserved == 0 && faults.total() == 0 && frames > 0;
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
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
