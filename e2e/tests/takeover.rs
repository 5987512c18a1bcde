//! Workers die in the middle of everything, and no publisher and no viewer notices: no byte is missing, none comes twice.

use anyhow::{Context, Result, ensure};
use braidcast_e2e::chaos::Scenario;
use braidcast_e2e::media;
use braidcast_e2e::rtmp::RtmpClient;
use braidcast_e2e::server::{alive, binary, faulty_binary, signal};
use braidcast_e2e::tools::eventually;
use braidcast_e2e::{Record, Server, ServerOptions, Viewer};
use braidcast_media::RecordKind;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a scenario in real time; nobody notices, and the segments are those of an undisturbed run.
fn nobody_notices(options: ServerOptions, streams: usize, seconds: u32, disturb: impl Fn(&mut Server, usize) -> Result<()>) -> Result<()> {
    let scenario = Scenario::new(options, streams, seconds);
    let undisturbed = scenario.clone().speed(10).undisturbed()?;
    let outcome = scenario.run(disturb)?;
    ensure!(outcome.rounds > 1, "nothing was disturbed");
    outcome.check(&undisturbed)?;
    let counter = |name| outcome.server.front_counter(name);
    println!("{} disturbances, {} takeovers, {} moves", outcome.rounds, counter("takeovers"), counter("moves"));
    Ok(())
}

/// What crashes any worker of the binary with faults that takes it as data of a publisher.
const CRASH: &[u8] = b"\x02\x00\x06onTest\x02\x00\x14braidcast-test-crash";

#[test]
fn what_two_workers_die_of_costs_its_sender_alone() -> Result<()> {
    let options = ServerOptions { faults: true, ..ServerOptions::workers(3).set("limits.poison_hold=1h") };
    let outcome = Scenario::new(options, 4, 8).run(|server, round| {
        if round > 0 {
            std::thread::sleep(Duration::from_millis(200));
            return Ok(());
        }
        let mut attacker = RtmpClient::publish(&server.rtmp("attack"))?;
        let crash = Record { kind: RecordKind::Data, timestamp_ms: 0, payload: CRASH.to_vec() };
        attacker.push(&crash)?;
        let closed = eventually(PATIENCE, || attacker.next(Duration::from_millis(100)).is_err().then_some(()));
        closed.with_context(|| format!("the attacker stays:\n{}", server.log_text()))?;
        let counted = || (server.front_counter("poisoned"), server.front_counter("worker_restarts"));
        eventually(PATIENCE, || (counted() == (1, 2)).then_some(())).with_context(|| format!("poisoned, restarts: {:?}", counted()))?;
        let line = server.wait_log(&["two workers died of what this client sent", "its last bytes are kept", "path="])?;
        let path = line.split("path=").nth(1).and_then(|rest| rest.split_whitespace().next()).context("no path in the line")?;
        let kept = std::fs::read(path).with_context(|| path.to_owned())?;
        ensure!(kept.windows(20).any(|window| window == b"braidcast-test-crash"), "the last bytes are others: {} of them", kept.len());
        // Its address is held off, though that is ours too.
        ensure!(RtmpClient::publish(&server.rtmp("again")).is_err(), "its address is let in again");
        ensure!(server.front_counter("refused_poison") > 0, "that was not counted");
        server.wait_log(&["poison_hold"])?;
        Ok(())
    })?;
    ensure!(outcome.server.front_counter("sessions_lost") == 1, "others were lost:\n{}", outcome.server.log_text());
    Ok(())
}

fn kill(server: &Server, worker: u16) -> Result<()> {
    let pid = server.worker_pid(worker)?;
    signal(pid, "KILL")?;
    eventually(PATIENCE, || server.worker(worker).ok().filter(|row| row["pid"] != pid && row["state"] == "ready"))
        .with_context(|| format!("worker {worker} does not come back:\n{}", server.log_text()))?;
    Ok(())
}

#[test]
fn workers_are_killed_in_turn() -> Result<()> {
    nobody_notices(ServerOptions::workers(3), 4, 12, |server, round| {
        kill(server, 1 + (round % 3) as u16)?;
        std::thread::sleep(Duration::from_millis(17 * (round as u64 % 13)));
        Ok(())
    })
}

#[test]
fn the_only_worker_is_killed() -> Result<()> {
    nobody_notices(ServerOptions::workers(1), 2, 8, |server, round| {
        kill(server, 1)?;
        std::thread::sleep(Duration::from_millis(100 + 31 * (round as u64 % 7)));
        Ok(())
    })
}

#[test]
fn a_worker_that_hangs_is_replaced() -> Result<()> {
    nobody_notices(ServerOptions::workers(2).set("server.hang_after=1500ms"), 2, 12, |server, round| {
        let worker = 1 + (round % 2) as u16;
        let pid = server.worker_pid(worker)?;
        signal(pid, "STOP")?;
        eventually(PATIENCE, || server.worker(worker).ok().filter(|row| row["pid"] != pid && row["state"] == "ready"))
            .with_context(|| format!("worker {worker} is not replaced:\n{}", server.log_text()))?;
        ensure!(server.front_counter("workers_hung") > round as u64, "it was not counted");
        Ok(())
    })
}

/// Gives an order by the command line.
fn order(server: &Server, words: &[&str]) -> Result<String> {
    let output = Command::new(binary()).args(words).arg("--shared-dir").arg(&server.shared_dir).args(["--timeout", "60"]).output()?;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{words:?}: {said}\n{}", server.log_text());
    Ok(said)
}

#[test]
fn workers_are_drained_in_turn() -> Result<()> {
    for workers in [3, 1] {
        nobody_notices(ServerOptions::workers(workers), 3, 8, |server, round| {
            let worker = 1 + (round % usize::from(workers)) as u16;
            let pid = server.worker_pid(worker)?;
            let said = order(server, &["drain", &worker.to_string()])?;
            ensure!(server.worker_pid(worker)? != pid, "it was not started anew: {said}");
            std::thread::sleep(Duration::from_millis(100));
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn sessions_are_shared_out_again_after_a_death() -> Result<()> {
    nobody_notices(ServerOptions::workers(2), 4, 6, |server, round| {
        if round > 0 {
            // Each session has rested once it has moved: the next time would be in a minute.
            std::thread::sleep(Duration::from_millis(200));
            return Ok(());
        }
        kill(server, 1)?;
        order(server, &["rebalance"])?;
        let loads = || -> Option<Vec<u64>> { (1..=2).map(|id| server.worker(id).ok()?["publishers"].as_u64()).collect() };
        eventually(PATIENCE, || loads().filter(|loads| loads.iter().all(|publishers| *publishers == 2)))
            .with_context(|| format!("{:?} publishers:\n{}", loads(), server.log_text()))?;
        Ok(())
    })
}

#[test]
fn orders_that_make_no_sense_are_refused() -> Result<()> {
    let server = Server::start(ServerOptions::workers(1))?;
    let refused = order(&server, &["drain", "9"]).expect_err("there is a worker 9").to_string();
    ensure!(refused.contains("there is no worker 9; there are 1 to 1"), "{refused}");
    let nowhere = Command::new(binary()).args(["drain", "1", "--shared-dir", "/nonexistent"]).output()?;
    let said = String::from_utf8_lossy(&nowhere.stderr).into_owned();
    ensure!(!nowhere.status.success() && said.contains("is it running?"), "{said}");
    Ok(())
}

#[test]
fn the_front_is_killed_and_started_again() -> Result<()> {
    nobody_notices(ServerOptions::workers(2), 3, 12, |server, round| {
        let pids = (server.worker_pid(1)?, server.worker_pid(2)?);
        server.replace_front()?;
        ensure!(pids == (server.worker_pid(1)?, server.worker_pid(2)?), "the workers are others");
        // The new one is in charge: it replaces a worker that dies, and takes connections.
        kill(server, 1 + (round % 2) as u16)?;
        let name = format!("late{round}");
        let mut late = RtmpClient::publish(&server.rtmp(&name))?;
        late.end()
    })
}

#[test]
fn a_front_upgrades_and_reloads() -> Result<()> {
    nobody_notices(ServerOptions::workers(2), 3, 25, |server, round| {
        let (front, worker) = (server.front_pid(), server.worker_pid(1)?);
        let said = order(server, &[if round % 2 == 0 { "upgrade" } else { "reload" }])?;
        ensure!(said.contains("all workers were replaced"), "{said}");
        ensure!(server.front_pid() != front && server.worker_pid(1)? != worker, "nothing has changed: {said}");
        Ok(())
    })
}

/// Puts a program where the server's lies, as a package manager does.
fn install(content: &[u8], mode: u32, at: &Path) -> Result<()> {
    let part = at.with_extension("part");
    std::fs::write(&part, content)?;
    std::fs::set_permissions(&part, std::fs::Permissions::from_mode(mode))?;
    Ok(std::fs::rename(&part, at)?)
}

/// What is refused when the program is replaced by another one, and what the command says then.
fn bad_upgrade(content: &[u8], mode: u32, environment: &[(&str, &str)], said: &str) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let program = directory.path().join("braidcast");
    std::fs::copy(binary(), &program)?;
    let options = ServerOptions { program: Some(program.clone()), ..ServerOptions::workers(2) };
    let options = environment.iter().fold(options, |options, (name, value)| options.environment(name, value));
    nobody_notices(options, 2, 12, |server, round| {
        if round == 0 {
            install(content, mode, &program)?;
            let workers = (server.worker_pid(1)?, server.worker_pid(2)?);
            let refused = order(server, &["upgrade"]).expect_err("it was carried out").to_string();
            ensure!(refused.contains(said), "{refused}");
            ensure!(server.front_pid().is_some_and(alive), "no front is left");
            ensure!(workers == (server.worker_pid(1)?, server.worker_pid(2)?), "the workers are others");
            // The one that was to be replaced is in charge as before.
            kill(server, 1)?;
            let mut late = RtmpClient::publish(&server.rtmp("late"))?;
            late.end()?;
        }
        std::thread::sleep(Duration::from_millis(100));
        Ok(())
    })
}

#[test]
fn a_binary_that_does_not_start_is_given_up() -> Result<()> {
    bad_upgrade(b"rubbish", 0o644, &[], "Permission denied")
}

#[test]
fn a_binary_that_ends_at_once_is_given_up() -> Result<()> {
    bad_upgrade(b"#!/bin/sh\nexit 3\n", 0o755, &[], "its own lines say why")
}

#[test]
fn a_binary_that_cannot_read_the_saved_state_is_given_up() -> Result<()> {
    let other = std::fs::read(faulty_binary())?;
    bad_upgrade(&other, 0o755, &[("BRAIDCAST_TEST_SAVED_VERSION", "77")], "saved state 77")
}

#[test]
fn a_binary_that_dies_in_its_first_seconds_is_given_up() -> Result<()> {
    let other = std::fs::read(faulty_binary())?;
    bad_upgrade(&other, 0o755, &[("BRAIDCAST_KILL_POINT", "succeeding:3")], "it")
}

#[test]
fn another_version_takes_over() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let program = directory.path().join("braidcast");
    std::fs::copy(binary(), &program)?;
    let versions = [std::fs::read(faulty_binary())?, std::fs::read(binary())?];
    let options = ServerOptions { program: Some(program.clone()), ..ServerOptions::workers(2) };
    nobody_notices(options, 2, 20, |server, round| {
        install(&versions[round % 2], 0o755, &program)?;
        order(server, &["upgrade"])?;
        let line = server.wait_log(&["the other front has taken over", if round % 2 == 0 { "-faults" } else { "version=\"" }])?;
        ensure!(line.contains("this one ends"), "{line}");
        Ok(())
    })
}

#[test]
fn a_configuration_with_a_mistake_changes_nothing_and_a_good_one_counts() -> Result<()> {
    nobody_notices(ServerOptions { file: "[limits]\nconnections = 1000\n".into(), ..ServerOptions::workers(2) }, 1, 12, |server, round| {
        if round > 0 {
            std::thread::sleep(Duration::from_millis(100));
            return Ok(());
        }
        let file = server.state_dir.join("test.toml");
        std::fs::write(&file, "[limits]\nconnection = 5\n")?;
        let refused = order(server, &["reload"]).expect_err("it was carried out").to_string();
        ensure!(refused.contains("did not take over") && refused.contains("connections"), "{refused}");
        // Nobody else comes in, but those who are there stay.
        std::fs::write(&file, "[limits]\nconnections = 3\n[http]\npage = false\n")?;
        order(server, &["reload"])?;
        let status = braidcast_e2e::http_get(&server.http(""));
        ensure!(status.is_err(), "one more came in");
        Ok(())
    })
}

#[test]
fn from_ffmpeg_to_ffmpeg_through_twenty_takeovers() -> Result<()> {
    let server = Server::start(ServerOptions::workers(3).set("play.reconnect_grace=1s").set("play.play_wait=60s"))?;
    let file = media::Clip::BFrames.file(20)?;
    let want = media::packets(&file.to_string_lossy(), PATIENCE)?;
    let urls = [server.http("live/clip.flv"), server.rtmp("clip")];
    let viewers = urls.map(|url| std::thread::spawn(move || media::packets(&url, Duration::from_secs(90))));
    server.wait_placed("clip", 2)?;
    let mut publisher = media::publish(&file, &server.rtmp("clip"))?;
    server.wait_live("clip")?;
    for round in 0..20 {
        kill(&server, 1 + round % 3)?;
        std::thread::sleep(Duration::from_millis(200 + u64::from(round) * 7));
    }
    ensure!(publisher.is_running(), "the takeovers took longer than the clip");
    ensure!(publisher.wait(PATIENCE)?.success(), "the publisher failed:\n{}", server.log_text());
    for (viewer, how) in viewers.into_iter().zip(["FLV", "RTMP"]) {
        let got = viewer.join().expect("no panic")?;
        for stream in 0..2 {
            let of = |packets: &[media::Packet]| packets.iter().filter(|packet| packet.stream == stream).cloned().collect::<Vec<_>>();
            ensure!(of(&got) == of(&want), "{how}, track {stream}: {} packets, or others than {}", of(&got).len(), of(&want).len());
        }
    }
    ensure!(server.front_counter("worker_restarts") == 20);
    Ok(())
}

#[test]
fn workers_are_balanced_by_themselves() -> Result<()> {
    let options = ServerOptions::workers(2).set("placement.rebalance_after=300ms").set("placement.rebalance_share=20");
    let server = Server::start(options.set("play.play_wait=60s"))?;
    let _publisher = media::publish_live(&server.rtmp("x"))?;
    server.wait_live("x")?;
    let viewers: Vec<Viewer> = (0..24).map(|_| Viewer::flv(server.address("http"), "live/x.flv")).collect::<Result<_>>()?;
    let loads = || -> Option<Vec<u64>> { (1..=2).map(|id| server.worker(id).ok()?["viewers"].as_u64()).collect() };
    eventually(PATIENCE, || loads().filter(|loads| loads.iter().sum::<u64>() == 24)).context("the viewers do not come")?;
    kill(&server, 1)?;
    eventually(PATIENCE, || loads().filter(|loads| loads == &[12, 12]))
        .with_context(|| format!("{:?} viewers:\n{}", loads(), server.log_text()))?;
    for viewer in viewers {
        viewer.wait_more(20)?;
        viewer.end()?;
    }
    ensure!(server.front_counter("sessions_lost") == 0, "{}", server.log_text());
    Ok(())
}

#[test]
fn a_session_whose_save_is_damaged_is_closed_and_never_misread() -> Result<()> {
    let server = Server::start(ServerOptions { sub_ports: true, ..ServerOptions::workers(2).set("play.reconnect_grace=60s") })?;
    let _publisher = media::publish_live(&format!("rtmp://{}/live/x", server.sub_port(1)))?;
    server.wait_live("x")?;
    let watch = |worker| Viewer::flv(server.sub_port(worker), "live/x.flv");
    let (damaged, whole) = (watch(2)?, watch(1)?);
    damaged.wait_more(10)?;
    whole.wait_more(10)?;
    // The heap that was made by the worker that is about to die, wherever its sessions lie in it.
    let pid = server.worker_pid(2)?;
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let heap = maps.lines().find_map(|line| line.split_whitespace().last().filter(|path| path.contains("/sessions/heap-")));
    let heap = heap.context("no heap")?.to_owned();
    let mut bytes = std::fs::read(&heap)?;
    bytes.iter_mut().for_each(|byte| *byte ^= 0x55);
    kill_with_damage(&server, pid, &heap, &bytes)?;
    eventually(PATIENCE, || damaged.is_over().then_some(())).with_context(|| format!("it goes on:\n{}", server.log_text()))?;
    server.wait_log(&["a session cannot be continued", "damaged"])?;
    whole.wait_more(20)?;
    whole.end()?;
    ensure!(server.front_counter("sessions_lost") == 1, "{}", server.log_text());
    Ok(())
}

/// Stops a worker, damages what its sessions are saved in, and kills it.
fn kill_with_damage(server: &Server, pid: u32, file: &str, bytes: &[u8]) -> Result<()> {
    signal(pid, "STOP")?;
    // In place: another file of the same name would not be the one that is mapped.
    std::fs::OpenOptions::new().write(true).open(file)?.write_all(bytes)?;
    signal(pid, "KILL")?;
    eventually(PATIENCE, || server.worker(2).ok().filter(|row| row["pid"] != pid && row["state"] == "ready"))
        .context("it does not come back")?;
    Ok(())
}
