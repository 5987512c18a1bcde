//! Attackers, and what they may not disturb: a publisher and viewers beside them that check every byte.

use crate::chaos::Publisher;
use crate::media::Clip;
use crate::server::{Server, ServerOptions};
use crate::tools::eventually;
use crate::viewer::{Record, Viewer};
use anyhow::{Context, Result, ensure};
use braidcast_sys::net;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long anything may take that has to come.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// The name of the stream that nobody may disturb.
pub const HEALTHY: &str = "healthy";

/// A publisher in real time, with a viewer by HTTP-FLV and one by RTMP: all they get must be what was published, all of it.
pub struct Healthy {
    records: Arc<Vec<Record>>,
    publisher: Publisher,
    viewers: [Viewer; 2],
}

impl Healthy {
    /// Begins, with so many seconds of media.
    pub fn start(server: &Server, seconds: u32) -> Result<Self> {
        let sent = Arc::new(Clip::Plain.records(seconds)?);
        let records: Arc<Vec<Record>> = Arc::new(sent.iter().filter(|record| !record.is_header()).cloned().collect());
        let flv = Viewer::flv_expecting(server.address("http"), &format!("live/{HEALTHY}.flv"), records.clone())?;
        let rtmp = Viewer::rtmp_expecting(&server.rtmp(HEALTHY), records.clone())?;
        server.wait_placed(HEALTHY, 2)?;
        let publisher = Publisher::start(server.rtmp(HEALTHY), sent, 1);
        server.wait_live(HEALTHY)?;
        Ok(Self { records, publisher, viewers: [flv, rtmp] })
    }

    /// Waits for its end: the publisher was never disconnected, every record came to every viewer, no worker died.
    pub fn finish(self, server: &Server) -> Result<()> {
        self.publisher.wait().with_context(|| format!("the healthy publisher was disturbed:\n{}", server.log_text()))?;
        for (viewer, how) in self.viewers.into_iter().zip(["FLV", "RTMP"]) {
            eventually(PATIENCE, || (viewer.matched() >= self.records.len() || viewer.is_over()).then_some(()));
            let (matched, ended) = (viewer.matched(), viewer.end());
            let all = self.records.len();
            ensure!(matched == all, "{how}: {matched} of {all} records, {ended:?}\n{}", server.log_text());
        }
        nobody_died(server)
    }
}

/// Starts a server, does something to it beside a healthy stream of so many seconds, and sees that nobody noticed.
pub fn beside_a_healthy_stream(options: ServerOptions, seconds: u32, attack: impl FnOnce(&Server) -> Result<()>) -> Result<()> {
    let server = Server::start(options.set("play.play_wait=60s").set("play.reconnect_grace=1s"))?;
    let healthy = Healthy::start(&server, seconds)?;
    attack(&server)?;
    healthy.finish(&server)
}

/// No worker was started again.
pub fn nobody_died(server: &Server) -> Result<()> {
    let status = server.status()?;
    for worker in status["workers"].as_array().context("no workers in the status")? {
        ensure!(worker["restarts"] == 0, "worker {} died:\n{}", worker["id"], server.log_text());
    }
    Ok(())
}

/// The random source of an attack: splitmix64. Its seed is printed, and may be named by BRAIDCAST_TEST_SEED.
pub struct Chance(u64);

impl Chance {
    /// With the seed of the environment, else one of the time.
    pub fn new(what: &str) -> Self {
        let named = std::env::var("BRAIDCAST_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
        let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |since| since.subsec_nanos().into());
        let seed: u64 = named.unwrap_or_else(now);
        println!("{what}: BRAIDCAST_TEST_SEED={seed}");
        Self(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.number() % bound as u64) as usize
    }

    /// So many bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.number() as u8).collect()
    }
}

/// A connection from an address of this machine's own, 127.0.0.0/8; how many may come from one is limited.
pub fn connect_from(last: u8, address: SocketAddr) -> Result<TcpStream> {
    let from = SocketAddr::from((Ipv4Addr::new(127, 0, 1, last), 0));
    let socket = net::connect_from(from, address).with_context(|| format!("connecting from {from}"))?;
    let stream = TcpStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// Whether the server has closed the connection within some time; what it still says is thrown away.
pub fn is_closed(stream: &mut TcpStream, within: Duration) -> Result<bool> {
    let deadline = Instant::now() + within;
    let mut buffer = [0; 16 << 10];
    while Instant::now() < deadline {
        stream.set_read_timeout(Some(deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))))?;
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(true),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {}
            Err(_) => return Ok(true),
        }
    }
    Ok(false)
}

/// Writes all, then reads until the server closes: what it said. An error on the way is an end too.
pub fn exchange(address: SocketAddr, bytes: &[u8]) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    Ok(answer)
}

/// What the server's processes hold, in bytes: memory of their own, and their heaps of saved sessions in the shared directory.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Anonymous memory of the front and of all workers.
    pub private_bytes: u64,
    /// The files in `sessions/`.
    pub saved_bytes: u64,
}

impl Memory {
    /// As of now.
    pub fn of(server: &Server) -> Result<Self> {
        let status = server.status()?;
        let workers = status["workers"].as_array().context("no workers in the status")?;
        let pids = workers.iter().filter_map(|worker| worker["pid"].as_u64()).map(|pid| pid as u32).chain(server.front_pid());
        let private_bytes = pids.map(anonymous_bytes).sum::<Result<u64>>()?;
        Ok(Self { private_bytes, saved_bytes: disk_bytes(&server.shared_dir.join("sessions"))? })
    }

    /// How much more that is than before.
    pub fn since(self, before: Self) -> u64 {
        self.private_bytes.saturating_sub(before.private_bytes) + self.saved_bytes.saturating_sub(before.saved_bytes)
    }
}

fn anonymous_bytes(pid: u32) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let kib = text.lines().find_map(|line| line.strip_prefix("Anonymous:")?.trim().split(' ').next()?.parse::<u64>().ok());
    Ok(kib.context("no anonymous memory in smaps_rollup")? << 10)
}

/// Bytes that the files of a directory take.
pub fn disk_bytes(directory: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(directory)? {
        // A heap may go while it is looked at.
        if let Ok(metadata) = entry?.metadata() {
            bytes += std::os::unix::fs::MetadataExt::blocks(&metadata) * 512;
        }
    }
    Ok(bytes)
}

/// Everything below a directory, with what is in small files; what a path trick must not have changed.
pub fn tree(directory: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        found.push(path.to_string_lossy().into_owned());
        if path.is_dir() && !path.is_symlink() {
            found.extend(tree(&path)?);
        }
    }
    found.sort();
    Ok(found)
}
