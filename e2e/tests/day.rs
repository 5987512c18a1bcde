//! A day of a server, in minutes: streams and viewers come and go, and when as many are there as before, as much is held as before.

use anyhow::{Result, ensure};
use braidcast_e2e::day::{Outcome, Plan};
use braidcast_e2e::tools::any_seed;

/// More than this part of it is growth, where there is much.
const GROWTH_PARTS: u64 = 20;
/// More than this is growth, where there is little: bytes, and counts.
const SLACK_BYTES: u64 = 256 << 10;
const SLACK: u64 = 24;

fn live(plan: Plan) -> Result<Outcome> {
    let seed = any_seed();
    println!("seed {seed}: {plan:?}");
    let outcome = plan.live(seed)?;
    let [frames, streams, viewers, segments] = outcome.done;
    println!("{frames} frames, {streams} publishers, {viewers} viewers, {segments} segments fetched");
    for (what, early, late) in outcome.early_and_late() {
        println!("{what:40} {early:12} early {late:12} late");
    }
    let lost = outcome.server.front_counter("worker_restarts");
    ensure!(lost == 0, "{lost} workers were started again:\n{}", outcome.server.log_text());
    Ok(outcome)
}

/// Time passes as it is told to: streams that nobody publishes end and go, blocks and segments are evicted, within seconds of ours.
#[test]
fn an_hour_passes_in_seconds() -> Result<()> {
    let outcome = live(Plan { factor: 180, hours: 1, lasting: 2, short: 2, viewers: 6 })?;
    let [frames, streams, viewers, segments] = outcome.done;
    ensure!(frames > 8_000 && streams > 5 && viewers > 5 && segments > 20, "too little happened: {:?}", outcome.done);
    let evicted = outcome.server.workers_counter("segments_evicted") + outcome.server.workers_counter("blocks_evicted");
    ensure!(evicted > 200, "{evicted} blocks and segments were evicted");
    let most = outcome.looks.iter().filter_map(|look| look.get("streams: files")).max();
    ensure!(most.is_some_and(|files| *files < 1_500), "{most:?} files of streams");
    Ok(())
}

/// The long form, by `make soak`.
#[test]
fn a_day_leaves_no_more_than_an_hour() -> Result<()> {
    if std::env::var_os("BRAIDCAST_TEST_SOAK").is_none() {
        println!("skipped: make soak");
        return Ok(());
    }
    let outcome = live(Plan { factor: 288, hours: 24, lasting: 4, short: 3, viewers: 12 })?;
    let [frames, streams, viewers, segments] = outcome.done;
    ensure!(frames > 500_000 && streams > 200 && viewers > 200 && segments > 2_000, "too little happened: {:?}", outcome.done);
    for (what, early, late) in outcome.early_and_late() {
        let slack = if what.ends_with("bytes") { SLACK_BYTES } else { SLACK };
        ensure!(late <= early + early / GROWTH_PARTS + slack, "{what}: {early} early in the day, {late} late");
    }
    Ok(())
}
