//! The server behind the stand-in: a Braidcast of one worker on ports of its own, in a directory beside the configuration.

use crate::conf::Conf;
use anyhow::{Context, Result};
use braidcast_e2e::server::{binary, signal};
use braidcast_e2e::tools::eventually;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// How long it may take to start or end.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where it listens.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// RTMP.
    pub rtmp: SocketAddr,
    /// HTTP-FLV.
    pub http: SocketAddr,
}

/// A running one. It is killed when this process ends, however it ends.
#[derive(Debug)]
pub struct Inner {
    child: Child,
    directory: PathBuf,
    /// Where it listens.
    pub addresses: Addresses,
}

impl Inner {
    /// Starts one with nothing of an earlier one's, and waits until it serves.
    pub fn start(beside: &Path, conf: &Conf) -> Result<Self> {
        let beside = std::path::absolute(beside)?;
        let directory = beside.join(format!("stand-in-{}", conf.rtmp.port()));
        if directory.exists() {
            std::fs::remove_dir_all(&directory)?;
        }
        for part in ["shared", "state"] {
            std::fs::create_dir_all(directory.join(part))?;
        }
        let mut command = Command::new(binary());
        command.args(["serve", "--workers", "1", "--shared-dir"]).arg(directory.join("shared"));
        command.arg("--state-dir").arg(directory.join("state"));
        for listener in ["--rtmp", "--http", "--api"] {
            command.args([listener, "127.0.0.1:0"]);
        }
        // SRS's players of RTMP wait for a publisher without end, and its workers do not outlive it.
        let set = ["play.play_wait=10m", "play.reconnect_grace=1h", "hls.retention=1h", "server.front_grace=0s", "server.stop_grace=0s"];
        let fragment = format!("hls.fragment={}ms", conf.fragment().as_millis().max(500));
        command.args(set.iter().flat_map(|set| ["--set", set])).args(["--set", &fragment, "--set", "server.allow_disk=true"]);
        // What is meant for the server in front is none of its.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("BRAIDCAST_")) {
            command.env_remove(name);
        }
        let log = std::fs::File::create(directory.join("log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut child = braidcast_sys::child::spawn_dependent(command).context("starting the server inside")?;
        let shared_dir = directory.join("shared");
        let ended = |child: &mut Child| child.try_wait().ok().flatten().is_some();
        let found = eventually(PATIENCE, || addresses(&shared_dir).map(Some).or_else(|| ended(&mut child).then_some(None)));
        let addresses = found.flatten().with_context(|| {
            format!("the server inside does not serve: {}", std::fs::read_to_string(directory.join("log")).unwrap_or_default())
        })?;
        Ok(Self { child, directory, addresses })
    }

    /// Its shared directory.
    pub fn shared_dir(&self) -> PathBuf {
        self.directory.join("shared")
    }

    /// Ends it, and removes what it made.
    pub fn stop(mut self) -> Result<()> {
        signal(self.child.id(), "TERM")?;
        if eventually(PATIENCE, || self.child.try_wait().ok().flatten()).is_none() {
            self.child.kill()?;
            self.child.wait()?;
        }
        std::fs::remove_dir_all(&self.directory).context("removing the server's directories")
    }
}

/// Where it listens, once its worker serves.
fn addresses(shared_dir: &Path) -> Option<Addresses> {
    let output = Command::new(binary()).args(["status", "--json", "--shared-dir"]).arg(shared_dir).output().ok()?;
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
    let address = |listener: &str| status["instance"]["addresses"][listener][0].as_str()?.parse().ok();
    let ready = status["workers"][0]["state"] == "ready";
    ready.then_some(Addresses { rtmp: address("rtmp")?, http: address("http")? })
}
