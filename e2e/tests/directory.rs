//! The shared directory when it is small, full to its budget, and full to its last byte: nobody crashes, running streams go on.

use anyhow::{Context, Result, ensure};
use braidcast_e2e::media::{self, Clip};
use braidcast_e2e::rtmp::{Pump, RtmpClient};
use braidcast_e2e::tools::{eventually, is_root};
use braidcast_e2e::{Server, ServerOptions, Tool, Viewer};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// A tmpfs of the test's own, unmounted with it.
struct Tmpfs(PathBuf);

impl Tmpfs {
    /// `None`, and the reason printed, where a test may not mount.
    fn mount(name: &str, mebibytes: u32) -> Result<Option<Self>> {
        if !is_root() {
            eprintln!("skipped: only root can mount a small tmpfs");
            return Ok(None);
        }
        let path = std::env::temp_dir().join(format!("braidcast-tmpfs-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        let mounted = Self(path);
        let options = format!("size={mebibytes}m");
        let output = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "braidcast-test"]).arg(&mounted.0).output()?;
        if !output.status.success() {
            eprintln!("skipped: cannot mount a small tmpfs: {}", String::from_utf8_lossy(&output.stderr).trim());
            return Ok(None);
        }
        Ok(Some(mounted))
    }

    fn options(&self) -> ServerOptions {
        ServerOptions { shared_in: Some(self.0.clone()), ..ServerOptions::workers(2) }
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// Takes all that is left of a file system.
fn fill(path: &Path) -> Result<()> {
    let mut file = File::create(path)?;
    let block = vec![1; 64 << 10];
    while file.write_all(&block).is_ok() {}
    while file.write_all(&[1]).is_ok() {}
    Ok(())
}

fn refusal(server: &Server, name: &str) -> Result<String> {
    match RtmpClient::publish(&server.rtmp(name)) {
        Ok(_) => anyhow::bail!("{name} was admitted"),
        Err(error) => Ok(format!("{error:#}")),
    }
}

#[test]
fn a_small_directory_is_warned_of_with_its_size() -> Result<()> {
    let Some(tmpfs) = Tmpfs::mount("small", 64)? else { return Ok(()) };
    let server = Server::start(tmpfs.options())?;
    let line = server.wait_log(&["WARN", "64 MiB", "--shm-size"])?;
    ensure!(line.contains(&*server.shared_dir.to_string_lossy()), "{line}");
    // It is small, and works.
    let _publisher = media::publish_live(&server.rtmp("x"))?;
    let viewer = Viewer::flv(server.address("http"), "live/x.flv")?;
    viewer.wait_more(20)?;
    viewer.end()
}

#[test]
fn a_stream_keeps_to_its_own_budget() -> Result<()> {
    let options = ServerOptions::workers(1).set("log.stream_budget=4MiB").set("log.block_max_bytes=1MiB").set("hls.enabled=false");
    let server = Server::start(options)?;
    let mut publisher = RtmpClient::publish(&server.rtmp("x"))?;
    Clip::Heavy.records(20)?.iter().try_for_each(|record| publisher.push(record))?;
    let row = || server.stream("x").ok().flatten();
    let grown = eventually(PATIENCE, || row().filter(|row| row["bytes"].as_u64() > Some(15 << 20)));
    let row = grown.with_context(|| format!("the stream did not grow: {:?}", row()))?;
    ensure!(row["log_bytes"].as_u64() <= Some(4 << 20) && row["records_dropped"] == 0, "{row}");
    let files = std::fs::read_dir(server.stream_dir("x").join("log"))?;
    let bytes: u64 = files.filter_map(|file| Some(file.ok()?.metadata().ok()?.len())).sum();
    ensure!(bytes <= 4 << 20, "the blocks are {bytes} bytes");
    Ok(())
}

#[test]
fn a_full_budget_refuses_newcomers_and_spares_those_who_run() -> Result<()> {
    // Three times 8 Mbit/s for 20 s of log and 60 s of segments is far more than 16 MiB, of which no stream may have more than half.
    let server = Server::start(
        ServerOptions::workers(2)
            .set("log.budget=16MiB")
            .set("log.stream_budget=16MiB")
            .set("log.block_max_bytes=4MiB")
            .set("hls.fragment=1s")
            .set("log.block_min=500ms"),
    )?;
    let mut publishers = Vec::new();
    for name in ["x", "y", "z"] {
        publishers.push(media::publish_loop(&Clip::Heavy.file(20)?, &server.rtmp(name))?);
        server.wait_live(name)?;
    }
    let viewer = Viewer::flv(server.address("http"), "live/x.flv")?;
    viewer.wait_more(10)?;
    let (bytes, limit) = (|| server.front_counter("directory_bytes"), || server.front_counter("directory_budget_bytes"));
    eventually(PATIENCE, || (bytes() * 100 > limit() * 75).then_some(())).with_context(|| format!("{} of {} bytes", bytes(), limit()))?;
    let said = eventually(PATIENCE, || refusal(&server, "newcomer").ok()).context("newcomers are still taken")?;
    ensure!(said.contains("no room for another stream"), "{said}");
    ensure!(server.front_counter("refused_directory_full") > 0, "not counted");
    server.wait_log(&["WARN", "newcomer", "peer=127.0.0.1", "no room"])?;
    // The others go on for as long as one looks, and old blocks make room for new ones.
    let before = server.stream("x")?.context("no stream")?["bytes"].as_u64().unwrap_or(0);
    let grown = || server.stream("x").ok().flatten().and_then(|stream| stream["bytes"].as_u64()) > Some(before + (12 << 20));
    let mut most = 0;
    eventually(PATIENCE, || {
        most = most.max(bytes());
        grown().then_some(())
    })
    .context("the stream stopped")?;
    // It is measured once a second, or later on a busy machine, and what comes in meanwhile lies above the line. But it always falls
    // below again, and is far from the 36 MiB of log alone that would lie there if nothing went.
    ensure!(most <= 2 * limit(), "{most} bytes were in use, {} were allowed", limit());
    eventually(PATIENCE, || (bytes() <= limit()).then_some(())).with_context(|| format!("{} of {} bytes stay", bytes(), limit()))?;
    ensure!(server.workers_counter("records_dropped") == 0, "records of a running stream were dropped");
    viewer.wait_more(25)?;
    ensure!(publishers.iter_mut().all(Tool::is_running), "a publisher was dropped");
    viewer.end()
}

#[test]
fn a_directory_that_is_full_to_the_last_byte_kills_nobody() -> Result<()> {
    let Some(tmpfs) = Tmpfs::mount("full", 48)? else { return Ok(()) };
    // Nothing old is let go, so that the space that somebody else took is really missed.
    let server = Server::start(tmpfs.options().set("log.keep=600s").set("hls.retention=600s").set("log.block_min=500ms"))?;
    let publisher = Pump::start(&server.rtmp("x"), &"m".repeat(40_000))?;
    server.wait_live("x")?;
    let viewer = Viewer::flv(server.address("http"), "live/x.flv")?;
    viewer.wait_more(10)?;
    let workers = [server.worker_pid(1)?, server.worker_pid(2)?];
    let filler = tmpfs.0.join("filler");
    fill(&filler)?;
    server.wait_workers_counter("records_dropped", 10)?;
    server.wait_log(&["ERROR", "records are dropped"])?;
    ensure!(publisher.is_running() && !viewer.is_over(), "somebody was dropped, not only records");
    ensure!(refusal(&server, "newcomer").is_ok(), "a newcomer was taken into a full directory");
    // Space again: the stream goes on, on the same connections, whole records only.
    std::fs::remove_file(&filler)?;
    viewer.wait_more(50)?;
    ensure!(server.stream("x")?.is_some_and(|stream| stream["records_dropped"].as_u64() > Some(0)), "{:?}", server.stream("x"));
    ensure!(workers == [server.worker_pid(1)?, server.worker_pid(2)?], "a worker died:\n{}", server.log_text());
    ensure!(publisher.is_running(), "the publisher was dropped");
    viewer.end()
}

#[test]
fn a_disk_is_used_only_if_it_is_allowed_and_with_a_warning() -> Result<()> {
    // That it is refused otherwise is tried elsewhere; where even the disk is tmpfs there is nothing to warn of.
    let disk = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/e2e");
    std::fs::create_dir_all(&disk)?;
    let options =
        ServerOptions { shared_in: Some(disk), ..ServerOptions::workers(1).set("server.allow_disk=true").set("server.on_exit=remove") };
    let mut server = Server::start(options)?;
    server.wait_log(&["WARN", "the shared directory is on a disk"])?;
    let _pump = Pump::start(&server.rtmp("x"), "x")?;
    let viewer = Viewer::flv(server.address("http"), "live/x.flv")?;
    viewer.wait_more(10)?;
    viewer.end()?;
    server.stop()?;
    ensure!(!server.shared_dir.join("streams").exists(), "on_exit = remove left something");
    Ok(())
}
