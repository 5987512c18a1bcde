//! TLS from the client's side: certificates made by openssl, curl as a viewer, what openssl says of a server.

use crate::media::Clip;
use crate::server::{Server, ServerOptions};
use crate::tools::{Tool, eventually, run, run_ok};
use crate::viewer::Viewer;
use anyhow::{Context, Result};
use serde_json::Value;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// A self-signed certificate, and its key.
#[derive(Clone, Debug)]
pub struct Files {
    /// PEM.
    pub cert: PathBuf,
    /// PEM.
    pub key: PathBuf,
}

impl Files {
    /// Makes them in a directory, for these names, as `NAME.crt` and `NAME.key`. The subject is the file's name.
    pub fn make(directory: &Path, name: &str, names: &str) -> Result<Self> {
        let (cert, key) = (directory.join(format!("{name}.crt")), directory.join(format!("{name}.key")));
        let (subject, names) = (format!("/CN={name}"), format!("subjectAltName={names}"));
        let (cert_text, key_text) = (cert.to_string_lossy(), key.to_string_lossy());
        let words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30".split(' ');
        let mut arguments: Vec<&str> = words.collect();
        arguments.extend([
            "-subj",
            &subject,
            "-addext",
            &names,
            "-addext",
            "basicConstraints=critical,CA:FALSE",
            "-out",
            &cert_text,
            "-keyout",
            &key_text,
        ]);
        run_ok("openssl", &arguments, Duration::from_secs(30))?;
        Ok(Self { cert, key })
    }

    /// The table of a configuration.
    pub fn table(&self) -> String {
        format!("[[certificate]]\ncert = {:?}\nkey = {:?}\n", self.cert.display(), self.key.display())
    }

    /// Puts these in the place of others, as a program does that renews certificates.
    pub fn replace(&self, others: &Self) -> Result<()> {
        for (from, to) in [(&self.cert, &others.cert), (&self.key, &others.key)] {
            let part = to.with_extension("part");
            std::fs::copy(from, &part)?;
            std::fs::rename(part, to)?;
        }
        Ok(())
    }
}

/// A server with RTMPS, HTTPS and the API by HTTPS on free ports, and these certificates.
pub fn options(workers: u16, certificates: &[&Files]) -> ServerOptions {
    let listen = "[tls]\nrtmps = \"127.0.0.1:0\"\nhttps = \"127.0.0.1:0\"\nhttps_api = \"127.0.0.1:0\"\n";
    let tables = certificates.iter().map(|files| files.table());
    ServerOptions { file: std::iter::once(listen.to_owned()).chain(tables).collect(), ..ServerOptions::workers(workers) }
}

/// `rtmps://…/live/NAME`.
pub fn rtmps(server: &Server, name: &str) -> String {
    format!("rtmps://{}/live/{name}", server.address("rtmps"))
}

/// `https://…/PATH`.
pub fn https(server: &Server, path: &str) -> String {
    format!("https://{}/{path}", server.address("https"))
}

/// ffmpeg publishes by RTMPS until it is dropped.
pub fn publish(server: &Server, name: &str) -> Result<Tool> {
    let file = Clip::Plain.file(60)?;
    let url = rtmps(server, name);
    let words = ["-v", "error", "-re", "-stream_loop", "-1", "-i", &file.to_string_lossy(), "-c", "copy", "-f", "flv", &url];
    Tool::start("ffmpeg", &words)
}

/// The row of the attendant for TLS that takes new work.
pub fn attendant(server: &Server) -> Result<Value> {
    let status = server.status()?;
    let rows = status["attendants"].as_array().context("no attendants in the status")?;
    let row = rows.iter().find(|row| row["role"] == "tls" && row["state"] != "retiring");
    row.cloned().with_context(|| format!("no attendant for TLS in {status}"))
}

/// Its process.
pub fn attendant_pid(server: &Server) -> Result<u32> {
    let row = attendant(server)?;
    row["pid"].as_u64().filter(|pid| *pid > 0 && row["state"] == "ready").map(|pid| pid as u32).with_context(|| row.to_string())
}

/// Waits for its process.
pub fn wait_attendant(server: &Server) -> Result<u32> {
    eventually(PATIENCE, || attendant_pid(server).ok()).with_context(|| format!("no attendant for TLS:\n{}", server.log_text()))
}

/// A counter of its.
pub fn counter(server: &Server, name: &str) -> u64 {
    attendant(server).ok().and_then(|row| row["counters"][name].as_u64()).unwrap_or(0)
}

/// Waits until one is at least this.
pub fn wait_counter(server: &Server, name: &str, least: u64) -> Result<()> {
    let reached = eventually(PATIENCE, || (counter(server, name) >= least).then_some(()));
    reached.with_context(|| format!("{name} is {}, not {least}:\n{}", counter(server, name), server.log_text()))
}

/// A program that writes FLV to its standard output, and who reads it.
pub struct Watching {
    /// The program.
    pub tool: Tool,
    /// What comes of it.
    pub viewer: Viewer,
}

impl Watching {
    /// curl, by `--http1.1` or `--http2`.
    pub fn curl(version: &str, url: &str) -> Result<Self> {
        Self::by("curl", &["-skNf", version, url])
    }

    /// Any program.
    pub fn by(program: &str, arguments: &[&str]) -> Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(OwnedFd::from(theirs)).stderr(Stdio::inherit());
        let tool = Tool::of(command.spawn().with_context(|| format!("starting {program}"))?);
        Ok(Self { tool, viewer: Viewer::flv_body(ours)? })
    }
}

/// The body of an answer, by curl.
pub fn get(arguments: &[&str], url: &str) -> Result<Vec<u8>> {
    let output = run("curl", &[&["-skf", "--max-time", "30"], arguments, &[url]].concat(), PATIENCE)?;
    anyhow::ensure!(output.status.success(), "{url}: curl {}", output.status);
    Ok(output.stdout)
}

/// The version of HTTP that curl comes to speak with the server when it offers this one.
pub fn version(server: &Server, offer: &str) -> Result<String> {
    let url = https(server, "streams.json");
    run_ok("curl", &["-sk", offer, "-o", "/dev/null", "-w", "%{http_version}", "--max-time", "30", &url], PATIENCE)
}

/// What `openssl s_client` says of a connection with these arguments; `None` if the handshake fails.
pub fn shake_hands(address: SocketAddr, arguments: &[&str]) -> Result<Option<String>> {
    let address = address.to_string();
    let output = run("openssl", &[&["s_client", "-brief", "-connect", &address], arguments].concat(), Duration::from_secs(20))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    Ok(said.contains("CONNECTION ESTABLISHED").then_some(said))
}

/// The subject of the certificate that a client gets who asks for a name.
pub fn subject(address: SocketAddr, name: &str) -> Result<String> {
    let said = shake_hands(address, &["-servername", name])?.context("no handshake")?;
    let line = said.lines().find_map(|line| line.strip_prefix("Peer certificate: "));
    Ok(line.context("no certificate")?.replace(' ', ""))
}
