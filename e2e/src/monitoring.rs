//! Metrics as monitoring sees them: read and taken apart, and a Prometheus of a test's own.

use crate::server::free_ports;
use crate::tools::{Tool, eventually, http_get};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// What was read at `/metrics`.
#[derive(Clone, Debug)]
pub struct Scrape {
    /// The answer's head.
    pub head: String,
    /// The answer's text.
    pub text: String,
}

impl Scrape {
    /// Asks a server, in a form that `Accept` names.
    pub fn read(address: SocketAddr, accept: &str) -> Result<Self> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: {address}\r\nAccept: {accept}\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, text) = answer.split_once("\r\n\r\n").context("no end of the head")?;
        ensure!(head.starts_with("HTTP/1.1 200 "), "{head}\n{text}");
        Ok(Self { head: head.to_owned(), text: text.to_owned() })
    }

    /// All series, as they are written, and their values.
    pub fn series(&self) -> BTreeMap<String, f64> {
        let line = |line: &str| {
            let (series, value) = line.rsplit_once(' ').filter(|_| !line.starts_with('#'))?;
            Some((series.to_owned(), value.parse().ok()?))
        };
        self.text.lines().filter_map(line).collect()
    }

    /// Those that only rise, as the text format says it.
    pub fn counters(&self) -> BTreeMap<String, f64> {
        let kind = |line: &str| {
            let (name, kind) = line.strip_prefix("# TYPE ")?.split_once(' ')?;
            matches!(kind, "counter" | "histogram").then(|| name.to_owned())
        };
        let names: Vec<String> = self.text.lines().filter_map(kind).collect();
        let counts = |series: &str| {
            let name = series.split('{').next().unwrap_or_default();
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
            names.iter().any(|known| known == name || known == family)
        };
        self.series().into_iter().filter(|(series, _)| counts(series)).collect()
    }

    /// The sum of all series of a name that have all these labels (`worker="1"`).
    pub fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        let fits = |series: &str| series.split('{').next() == Some(name) && labels.iter().all(|label| series.contains(label));
        self.series().iter().filter(|(series, _)| fits(series)).map(|(_, value)| value).sum()
    }

    /// What `promtool check metrics` says, if it is not content.
    pub fn check(&self) -> Result<()> {
        let mut child = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting promtool")?;
        child.stdin.take().context("no input of promtool")?.write_all(self.text.as_bytes())?;
        let output = child.wait_with_output()?;
        let said = [output.stdout, output.stderr].concat();
        ensure!(output.status.success() && said.is_empty(), "promtool check metrics:\n{}", String::from_utf8_lossy(&said));
        Ok(())
    }
}

/// A Prometheus that reads one server every second.
pub struct Prometheus {
    _tool: Tool,
    address: SocketAddr,
    _directory: TempDir,
}

impl Prometheus {
    /// Starts one that knows these rules.
    pub fn start(target: SocketAddr, rules: &Path) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("braidcast-prometheus-").tempdir()?;
        let (config, data) = (directory.path().join("prometheus.yml"), directory.path().join("data"));
        let job = format!("scrape_configs:\n  - job_name: braidcast\n    static_configs:\n      - targets: ['{target}']\n");
        let times = "global:\n  scrape_interval: 1s\n  scrape_timeout: 1s\n  evaluation_interval: 1s\n";
        fs::write(&config, format!("{times}rule_files:\n  - {}\n{job}", rules.display()))?;
        let address = SocketAddr::from(([127, 0, 0, 1], free_ports(1)?));
        let arguments = [
            format!("--config.file={}", config.display()),
            format!("--storage.tsdb.path={}", data.display()),
            format!("--web.listen-address={address}"),
            "--log.level=error".to_owned(),
        ];
        let tool = Tool::start("prometheus", &arguments.each_ref().map(String::as_str))?;
        let this = Self { _tool: tool, address, _directory: directory };
        let up = || this.query("up{job=\"braidcast\"} == 1").ok().filter(|found| !found.is_empty());
        eventually(Duration::from_secs(60), up).context("Prometheus does not read the server")?;
        Ok(this)
    }

    /// The series that an expression gives now.
    pub fn query(&self, expression: &str) -> Result<Vec<Value>> {
        let data = self.get(&format!("query?query={}", encoded(expression))).with_context(|| expression.to_owned())?;
        Ok(data["result"].as_array().cloned().unwrap_or_default())
    }

    /// The alerts and rules that it knows, with how it fared with each.
    pub fn rules(&self) -> Result<Vec<Value>> {
        let data = self.get("rules")?;
        let groups = data["groups"].as_array().cloned().unwrap_or_default();
        Ok(groups.iter().flat_map(|group| group["rules"].as_array().cloned().unwrap_or_default()).collect())
    }

    fn get(&self, path: &str) -> Result<Value> {
        let answer = http_get(&format!("http://{}/api/v1/{path}", self.address))?;
        let said: Value = serde_json::from_slice(&dechunked(&answer.head, &answer.body))?;
        ensure!(said["status"] == "success", "{said}");
        Ok(said["data"].clone())
    }
}

/// A body without the lengths between its chunks.
fn dechunked(head: &str, body: &[u8]) -> Vec<u8> {
    if !head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        return body.to_owned();
    }
    let (mut rest, mut whole) = (body, Vec::new());
    while let Some(end) = rest.windows(2).position(|two| two == b"\r\n") {
        let length = std::str::from_utf8(&rest[..end]).ok().and_then(|text| usize::from_str_radix(text.trim(), 16).ok()).unwrap_or(0);
        let Some(chunk) = rest.get(end + 2..end + 2 + length).filter(|_| length > 0) else { break };
        whole.extend_from_slice(chunk);
        rest = rest.get(end + 4 + length..).unwrap_or_default();
    }
    whole
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}
