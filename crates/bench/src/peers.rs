//! The servers that are compared: how each is started, alone on its core, on loopback, in a temporary directory.
//!
//! Each listens on loopback only, on ports that were free a moment ago, and is gone, with its directory, when its
//! [`Running`] is dropped.

use crate::compare::Clients;
use crate::pace::Pace;
use crate::process::{Cores, Guarded, Interrupt, STOP_GRACE};
use crate::source::Shape;
use anyhow::Context;
use std::fs::{self, File};
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A server to compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Peer {
    /// The loop that does nothing but send.
    Bare,
    /// This server.
    Braidcast,
    /// Debian's nginx with libnginx-mod-rtmp.
    NginxRtmp,
    /// Debian's nginx with libnginx-mod-stream, which hands bytes on to an nginx-rtmp.
    NginxStream,
    /// xiu, a server in Rust, of crates.io.
    Xiu,
    /// This server as a relay, with one worker, before an nginx-rtmp that it starts.
    BraidcastRelay,
}

impl Peer {
    /// What tables call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Braidcast => "braidcast",
            Self::NginxRtmp => "nginx-rtmp",
            Self::NginxStream => "nginx-stream",
            Self::Xiu => "xiu",
            Self::BraidcastRelay => "braidcast-relay",
        }
    }
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// Where things are and how servers are to be started.
#[derive(Clone, Debug)]
pub struct Bench {
    /// The braidcast binary under test.
    pub braidcast: PathBuf,
    /// The nginx binary.
    pub nginx: PathBuf,
    /// The xiu binary.
    pub xiu: PathBuf,
    /// Who runs where.
    pub cores: Cores,
    /// What is published; the bare loop makes it itself.
    pub shape: Shape,
    /// `section.key=value` for braidcast, on top of the bench's own.
    pub settings: Vec<String>,
    /// Whether HLS segments are made (braidcast and nginx-rtmp).
    pub hls: bool,
    /// How many workers braidcast has.
    pub workers: u16,
}

/// A server that is up.
pub struct Running {
    // In the order in which they must go: first the processes, then their directory.
    process: Guarded,
    /// The server behind it, if it is a relay.
    behind: Option<Behind>,
    directory: TempDir,
    log: PathBuf,
    /// Where it takes RTMP.
    pub rtmp: Option<SocketAddr>,
    /// Where it serves HTTP-FLV.
    pub http: Option<SocketAddr>,
}

/// The server behind a relay.
enum Behind {
    /// Started by the bench.
    Ours(Box<Running>),
    /// Started by the relay, which ends it too: the process at its root.
    Theirs(u32),
}

/// The application of what is published.
pub const APP: &str = "live";
/// The stream that is published, or the first of them.
pub const STREAM: &str = "bench";
/// The servers that send to viewers and take in from publishers.
pub const SERVERS: &[Peer] = &[Peer::Bare, Peer::Braidcast, Peer::NginxRtmp, Peer::Xiu];

const START_DEADLINE: Duration = Duration::from_secs(20);
/// Where distributions put nginx's modules.
const NGINX_MODULES: [&str; 3] = ["/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/usr/share/nginx/modules"];
const RTMP_MODULE: &str = "ngx_rtmp_module.so";
const STREAM_MODULE: &str = "ngx_stream_module.so";

impl Running {
    /// The process at the root of the server.
    pub fn root(&self) -> u32 {
        self.process.id()
    }

    /// Its directory, which goes with it.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The process at the root of the server behind it, if it is a relay.
    pub fn behind(&self) -> Option<u32> {
        self.behind.as_ref().map(|behind| match behind {
            Behind::Ours(server) => server.root(),
            Behind::Theirs(root) => *root,
        })
    }

    /// Where braidcast's processes share what they know.
    pub fn shared_dir(&self) -> PathBuf {
        self.directory.path().join("shared")
    }

    /// The last lines the server wrote, for an error's context.
    pub fn last_words(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().rev().take(12).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// An error, with its last words, if the server has ended by itself.
    pub fn check(&mut self) -> anyhow::Result<()> {
        if let Some(Behind::Ours(behind)) = &mut self.behind {
            behind.check().context("the server behind it")?;
        }
        self.process.check_running().with_context(|| format!("its last words:\n{}", self.last_words()))
    }
}

impl Bench {
    /// Whether `peer` can run here; else why not.
    pub fn missing(&self, peer: Peer) -> Option<String> {
        match peer {
            Peer::Bare => None,
            Peer::Braidcast => (!self.braidcast.is_file()).then(|| format!("{} is not there (build it first)", self.braidcast.display())),
            Peer::Xiu => {
                let missing = !self.xiu.is_file();
                missing.then(|| format!("{} is not there (cargo install xiu --root target/tools)", self.xiu.display()))
            }
            Peer::BraidcastRelay => self.missing(Peer::Braidcast).or_else(|| self.missing(Peer::NginxRtmp)),
            Peer::NginxRtmp | Peer::NginxStream if !self.nginx.is_file() => self.missing_nginx(),
            Peer::NginxStream if nginx_module(STREAM_MODULE).is_none() => {
                Some("its stream module is not there (apt install libnginx-mod-stream)".to_owned())
            }
            Peer::NginxRtmp | Peer::NginxStream => {
                let missing = nginx_module(RTMP_MODULE).is_none();
                missing.then(|| "its RTMP module is not there (apt install libnginx-mod-rtmp)".to_owned())
            }
        }
    }

    /// Whether nginx itself, without modules, can run here; else why not.
    pub fn missing_nginx(&self) -> Option<String> {
        (!self.nginx.is_file()).then(|| format!("{} is not there (apt install nginx)", self.nginx.display()))
    }

    /// What exactly was compared.
    pub fn version(&self, peer: Peer) -> String {
        let (program, flag) = match peer {
            Peer::Bare => return env!("CARGO_PKG_VERSION").to_owned(),
            Peer::Braidcast | Peer::BraidcastRelay => (&self.braidcast, "--version"),
            Peer::NginxRtmp | Peer::NginxStream => (&self.nginx, "-v"),
            Peer::Xiu => (&self.xiu, "--version"),
        };
        let output = Command::new(program).arg(flag).output();
        let text = output.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
        String::from_utf8_lossy(&text).lines().next().unwrap_or("unknown").to_owned()
    }

    /// Starts a server and waits until it listens.
    pub fn start(&self, peer: Peer, pace: Option<Pace>, clients: Clients, interrupt: &Interrupt) -> anyhow::Result<Running> {
        // A RAM disk where there is one: the runs are to measure servers, not disks.
        let shared_memory = Path::new("/dev/shm");
        let place = if shared_memory.is_dir() { shared_memory.to_owned() } else { std::env::temp_dir() };
        let directory = tempfile::Builder::new().prefix("braidcast-bench-").tempdir_in(place).context("no temporary directory")?;
        let started = match peer {
            Peer::Bare => self.start_bare(directory, pace, clients, interrupt),
            Peer::Braidcast => self.start_braidcast(peer, directory, &pace.map(Pace::setting).into_iter().collect::<Vec<_>>(), interrupt),
            Peer::NginxRtmp => self.start_nginx_rtmp(directory, interrupt),
            Peer::NginxStream => self.start_nginx_stream(directory, clients, interrupt),
            Peer::Xiu => self.start_xiu(directory, interrupt),
            Peer::BraidcastRelay => self.start_braidcast_relay(directory, interrupt),
        };
        started.with_context(|| format!("{} did not start", peer.name()))
    }

    fn start_bare(&self, directory: TempDir, pace: Option<Pace>, clients: Clients, interrupt: &Interrupt) -> anyhow::Result<Running> {
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let mut command = crate::cli::own_command("bare");
        if matches!(clients, Clients::Publishers(_)) {
            command.arg("--receive");
        }
        if let Some(pace) = pace {
            let name = if matches!(clients, Clients::Publishers(_)) { "--pause-ms" } else { "--flush-ms" };
            command.args([name, &pace.bare_ms().to_string()]);
        }
        command.args(crate::arguments::shape_arguments(self.shape)).stdin(Stdio::piped()).stdout(Stdio::from(writer));
        let mut running = self.spawn(command, directory, Peer::Bare.name())?;
        running.take_addresses(File::from(reader), interrupt)?;
        Ok(running)
    }

    fn start_braidcast(&self, peer: Peer, directory: TempDir, more: &[String], interrupt: &Interrupt) -> anyhow::Result<Running> {
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        // The one descriptor that the server inherits; no other child is started while it is open.
        rustix::io::fcntl_setfd(&writer, rustix::io::FdFlags::empty())?;
        let mut command = Command::new(&self.braidcast);
        command.args([
            "serve",
            "--workers",
            &self.workers.to_string(),
            "--rtmp",
            "127.0.0.1:0",
            "--http",
            "127.0.0.1:0",
            "--api",
            "127.0.0.1:0",
        ]);
        command.arg("--shared-dir").arg(directory.path().join("shared"));
        command.arg("--state-dir").arg(directory.path().join("state"));
        command.args(["--ready-fd", &writer.as_raw_fd().to_string()]);
        let hls = format!("hls.enabled={}", self.hls);
        let own = ["limits.connections_per_address=100000", "server.on_exit=remove", "server.allow_disk=true", &hls];
        for setting in own.into_iter().chain(more.iter().chain(&self.settings).map(String::as_str)) {
            command.args(["--set", setting]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let mut running = self.spawn(command, directory, peer.name())?;
        drop(writer);
        running.take_addresses(File::from(reader), interrupt)?;
        Ok(running)
    }

    fn start_nginx_rtmp(&self, directory: TempDir, interrupt: &Interrupt) -> anyhow::Result<Running> {
        let module = nginx_module(RTMP_MODULE).context("nginx's RTMP module is not there")?;
        let address = free_address()?;
        let config = nginx_config(Some(&module), directory.path(), &rtmp_block(directory.path(), &address.to_string(), self.hls));
        self.start_nginx(Peer::NginxRtmp.name(), directory, address, &config, interrupt)
    }

    /// An nginx that serves the files of a directory, as Debian configures it, but for one worker and no access log.
    pub fn start_nginx_static(&self, files: &Path, interrupt: &Interrupt) -> anyhow::Result<Running> {
        let directory = tempfile::Builder::new().prefix("braidcast-bench-").tempdir().context("no temporary directory")?;
        let address = free_address()?;
        let config = nginx_config(None, directory.path(), &static_block(files, address));
        let mut running = self.start_nginx("nginx-static", directory, address, &config, interrupt).context("nginx-static did not start")?;
        (running.rtmp, running.http) = (None, Some(address));
        Ok(running)
    }

    /// A relay stands before a server that this starts too.
    fn start_nginx_stream(&self, directory: TempDir, clients: Clients, interrupt: &Interrupt) -> anyhow::Result<Running> {
        let module = nginx_module(STREAM_MODULE).context("nginx's stream module is not there")?;
        let behind = self.start(Peer::NginxRtmp, None, clients, interrupt)?;
        let server = behind.rtmp.context("the server behind takes no RTMP")?;
        let address = free_address()?;
        let block = format!("stream {{\n    server {{ listen {address}; proxy_pass {server}; }}\n}}");
        let config = nginx_config(Some(&module), directory.path(), &block);
        let mut running = self.start_nginx(Peer::NginxStream.name(), directory, address, &config, interrupt)?;
        running.behind = Some(Behind::Ours(Box::new(behind)));
        Ok(running)
    }

    /// The server behind is the one that nginx's stream module gets, of the same configuration.
    fn start_braidcast_relay(&self, directory: TempDir, interrupt: &Interrupt) -> anyhow::Result<Running> {
        let module = nginx_module(RTMP_MODULE).context("nginx's RTMP module is not there")?;
        let (root, template) = (Path::new("{dir}"), directory.path().join("template.conf"));
        fs::write(&template, nginx_config(Some(&module), root, &rtmp_block(root, "127.0.0.1:{rtmp_port}", self.hls)))
            .context("cannot write nginx's template")?;
        let settings = [
            "engine.kind=external".to_owned(),
            "engine.processes=1".to_owned(),
            format!("engine.command='{}' -c {{config}} -p {{dir}}/ -e {{dir}}/early.log", self.nginx.display()),
            format!("engine.template={}", template.display()),
        ];
        let note = directory.path().join("shared/engine/1/process.json");
        let mut running = self.start_braidcast(Peer::BraidcastRelay, directory, &settings, interrupt)?;
        let text = fs::read(&note).with_context(|| format!("cannot read {}", note.display()))?;
        let process: ProcessNote = serde_json::from_slice(&text).with_context(|| format!("{} names no process", note.display()))?;
        running.behind = Some(Behind::Theirs(process.pid));
        Ok(running)
    }

    fn start_nginx(
        &self,
        name: &str,
        directory: TempDir,
        address: SocketAddr,
        text: &str,
        interrupt: &Interrupt,
    ) -> anyhow::Result<Running> {
        let root = directory.path();
        let config = root.join("nginx.conf");
        fs::write(&config, text).context("cannot write nginx's configuration")?;
        let mut command = Command::new(&self.nginx);
        command.arg("-c").arg(&config).arg("-p").arg(root).arg("-e").arg(root.join("early.log"));
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let mut running = self.spawn(command, directory, name)?;
        running.wait_until_it_listens(address, interrupt)?;
        running.rtmp = Some(address);
        Ok(running)
    }

    /// It listens on all addresses: there is no setting for one.
    fn start_xiu(&self, directory: TempDir, interrupt: &Interrupt) -> anyhow::Result<Running> {
        let (rtmp, http) = (free_address()?, free_address()?);
        let mut command = Command::new(&self.xiu);
        command.args(["--rtmp", &rtmp.port().to_string(), "--httpflv", &http.port().to_string(), "--log", "warn"]);
        command.current_dir(directory.path()).stdin(Stdio::null()).stdout(Stdio::null());
        let mut running = self.spawn(command, directory, Peer::Xiu.name())?;
        running.wait_until_it_listens(rtmp, interrupt)?;
        running.wait_until_it_listens(http, interrupt)?;
        (running.rtmp, running.http) = (Some(rtmp), Some(http));
        Ok(running)
    }

    fn spawn(&self, mut command: Command, directory: TempDir, name: &str) -> anyhow::Result<Running> {
        let log = directory.path().join("server.log");
        command.stderr(File::create(&log)?);
        let process = Guarded::new(self.cores.spawn_server(&mut command)?, name, STOP_GRACE);
        Ok(Running { process, behind: None, directory, log, rtmp: None, http: None })
    }
}

/// What braidcast writes down of a process that it starts.
#[derive(serde::Deserialize)]
struct ProcessNote {
    pid: u32,
}

#[derive(serde::Deserialize)]
struct Addresses {
    #[serde(default)]
    rtmp: Vec<SocketAddr>,
    #[serde(default)]
    http: Vec<SocketAddr>,
}

impl Running {
    fn wait_until_it_listens(&mut self, address: SocketAddr, interrupt: &Interrupt) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_DEADLINE;
        while TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_err() {
            self.check()?;
            anyhow::ensure!(Instant::now() < deadline, "it does not listen on {address}");
            interrupt.sleep(Duration::from_millis(20))?;
        }
        Ok(())
    }

    /// Reads the line of JSON that says where the server listens.
    fn take_addresses(&mut self, mut pipe: File, interrupt: &Interrupt) -> anyhow::Result<()> {
        rustix::fs::fcntl_setfl(pipe.as_fd(), rustix::fs::OFlags::NONBLOCK)?;
        let deadline = Instant::now() + START_DEADLINE;
        let mut line = Vec::new();
        let mut scratch = [0; 4096];
        while !line.contains(&b'\n') {
            match pipe.read(&mut scratch) {
                Ok(0) => {
                    // The writing end is closed: the server is about to end and to say why.
                    interrupt.sleep(Duration::from_millis(200))?;
                    self.check()?;
                    anyhow::bail!("it closed the ready descriptor; its last words:\n{}", self.last_words());
                }
                Ok(bytes) => line.extend_from_slice(&scratch[..bytes]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    self.check()?;
                    anyhow::ensure!(Instant::now() < deadline, "it was not ready in time; its last words:\n{}", self.last_words());
                    interrupt.sleep(Duration::from_millis(10))?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        let text = String::from_utf8_lossy(&line);
        let addresses: Addresses = serde_json::from_str(text.lines().next().unwrap_or_default()).context("its ready line is no JSON")?;
        self.rtmp = addresses.rtmp.first().copied();
        self.http = addresses.http.first().copied();
        Ok(())
    }
}

fn nginx_module(name: &str) -> Option<PathBuf> {
    NGINX_MODULES.into_iter().map(|directory| Path::new(directory).join(name)).find(|path| path.is_file())
}

fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// One worker and room for the viewers; everything that touches the speed is as Debian's package and the module have it.
fn nginx_config(module: Option<&Path>, root: &Path, block: &str) -> String {
    let module = module.map_or(String::new(), |module| format!("load_module {};", module.display()));
    let root = root.display();
    let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
    format!(
        "{module}
{user}
daemon off;
worker_processes 1;
pid {root}/nginx.pid;
error_log {root}/error.log warn;
events {{ worker_connections 32768; }}
{block}
"
    )
}

fn static_block(files: &Path, http: SocketAddr) -> String {
    let files = files.display();
    format!(
        "http {{
    sendfile on;
    tcp_nopush on;
    types_hash_max_size 2048;
    types {{ application/vnd.apple.mpegurl m3u8; video/mp2t ts; }}
    gzip on;
    access_log off;
    server {{ listen {http}; root {files}; }}
}}"
    )
}

fn rtmp_block(root: &Path, rtmp: &str, hls: bool) -> String {
    let root = root.display();
    let hls = if hls { format!("hls on; hls_path {root}/hls; hls_fragment 4s; hls_playlist_length 60s;") } else { String::new() };
    format!(
        "rtmp {{
    access_log off;
    server {{
        listen {rtmp};
        application live {{ live on; {hls} }}
    }}
}}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nginx_listens_on_loopback_only() {
        let root = Path::new("/tmp/x");
        let config = nginx_config(Some(Path::new("/m.so")), root, &rtmp_block(root, "127.0.0.1:4711", false));
        let listens: Vec<&str> = config.lines().filter(|line| line.contains("listen")).collect();
        assert_eq!(listens, ["        listen 127.0.0.1:4711;"]);
        assert!(!config.contains("hls"));
    }
}
