//! What the engine `srs` relies on SRS for, shown of SRS alone: of the stand-in, so that it can stand in, and of a real one if `SRS_BINARY`
//! names it (`make test-srs`), so that the stand-in stays true.

use anyhow::{Context, Result, ensure};
use braidcast_e2e::engine::{PATIENCE, numbers};
use braidcast_e2e::rtmp::{RawRtmp, RtmpClient};
use braidcast_e2e::server::{alive, free_ports, signal};
use braidcast_e2e::tools::{Tool, eventually, http};
use braidcast_e2e::{Viewer, media};
use braidcast_protocols::rtmp::ClientRole;
use braidcast_protocols::rtmp::amf0::Value as AmfValue;
use serde_json::Value;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// SRS's real-IP prefix of 203.0.113.1.
const PREFIX: &[u8] = b"\xf3\0\x04\xcb\x00\x71\x01";

/// How often a start is tried when a port was taken in between.
const STARTS: u32 = 5;

struct Srs {
    process: Tool,
    directory: TempDir,
    rtmp: SocketAddr,
    http: SocketAddr,
    api: SocketAddr,
}

impl Srs {
    /// Starts one. If a port was taken in between, others are tried.
    fn start() -> Result<Self> {
        (1..STARTS).find_map(|_| Self::start_once().ok()).map_or_else(Self::start_once, Ok)
    }

    fn start_once() -> Result<Self> {
        let directory = tempfile::Builder::new().prefix(&format!("braidcast-test-{}-", std::process::id())).tempdir_in("/dev/shm")?;
        let port = free_ports(3)?;
        let [rtmp, http, api] = [0, 1, 2].map(|more| SocketAddr::from(([127, 0, 0, 1], port + more)));
        let root = directory.path().display();
        let hls = format!(
            "hls {{ enabled on; hls_path {root}/hls; hls_fragment 1; hls_window 60; hls_ts_file [vhost]/[app]/[stream]/[seq].ts; \
             hls_m3u8_file [vhost]/[app]/[stream]/index.m3u8; }}"
        );
        let text = format!(
            "listen {rtmp};\ndaemon off;\nsrs_log_tank console;\npid {root}/pid;\nhttp_api {{ enabled on; listen {api}; }}\n\
             http_server {{ enabled on; listen {http}; dir {root}; }}\n\
             vhost __defaultVhost__ {{ http_remux {{ enabled on; mount [vhost]/[app]/[stream].flv; }} {hls} }}\n"
        );
        std::fs::write(directory.path().join("srs.conf"), text)?;
        let process = run(&directory, api)?;
        Ok(Self { process, directory, rtmp, http, api })
    }

    fn kill_and_start_again(&mut self) -> Result<()> {
        let pid = self.process.pid();
        signal(pid, "KILL")?;
        self.process.wait(PATIENCE)?;
        self.process = run(&self.directory, self.api)?;
        Ok(())
    }

    fn url(&self, name: &str) -> String {
        format!("rtmp://{}/live/{name}", self.rtmp)
    }

    fn ask(&self, method: &str, path: &str) -> Result<Value> {
        let answer = http(method, &format!("http://{}/api/v1/{path}", self.api))?;
        ensure!(answer.status == 200, "{path}: {}", answer.head);
        serde_json::from_slice(&answer.body).with_context(|| answer.text())
    }

    fn row(&self, list: &str, fits: impl Fn(&Value) -> bool) -> Result<Value> {
        let found = || self.ask("GET", &format!("{list}/")).ok()?[list].as_array()?.iter().find(|row| fits(row)).cloned();
        eventually(PATIENCE, found).with_context(|| format!("not in {list}: {:?}", self.ask("GET", &format!("{list}/"))))
    }

    fn index(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.directory.path().join(format!("hls/__defaultVhost__/live/{name}/index.m3u8"))).ok()
    }

    fn index_of(&self, name: &str, fits: impl Fn(&[u64]) -> bool) -> Result<String> {
        eventually(PATIENCE, || self.index(name).filter(|index| fits(&numbers(index))))
            .with_context(|| format!("the index of {name} is {:?}", self.index(name)))
    }
}

fn run(directory: &TempDir, api: SocketAddr) -> Result<Tool> {
    let program = std::env::var_os("SRS_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_srs-stand-in").into(), PathBuf::from);
    let log = std::fs::File::options().create(true).append(true).open(directory.path().join("log"))?;
    let mut command = Command::new(program);
    command.arg("-c").arg(directory.path().join("srs.conf")).current_dir(directory.path());
    let mut process = Tool::of(command.stdout(log.try_clone()?).stderr(log).spawn()?);
    let answers = || http("GET", &format!("http://{api}/api/v1/versions")).is_ok();
    let up = eventually(PATIENCE, || (answers() || !process.is_running()).then_some(()));
    let said = std::fs::read_to_string(directory.path().join("log")).unwrap_or_default();
    ensure!(up.is_some() && process.is_running(), "SRS does not serve: {said}");
    Ok(process)
}

fn has_fields(row: &Value, fields: &[&str]) -> Result<()> {
    let missing: Vec<_> = fields.iter().filter(|field| row.pointer(&format!("/{}", field.replace('.', "/"))).is_none()).collect();
    ensure!(missing.is_empty(), "{missing:?} are missing in {row}");
    Ok(())
}

#[test]
fn the_api_has_its_envelope_and_fields() -> Result<()> {
    let srs = Srs::start()?;
    let _publisher = media::publish_live(&srs.url("x?token=1"))?;
    let stream = srs.row("streams", |row| row["publish"]["active"] == true && !row["video"].is_null())?;
    let traffic = ["send_bytes", "recv_bytes", "kbps.recv_30s", "kbps.send_30s"];
    has_fields(&stream, &traffic)?;
    has_fields(&stream, &["id", "name", "vhost", "app", "tcUrl", "url", "live_ms", "clients", "frames", "publish.cid"])?;
    has_fields(
        &stream,
        &["video.codec", "video.profile", "video.level", "video.width", "audio.codec", "audio.sample_rate", "audio.channel"],
    )?;
    ensure!(
        stream["name"] == "x" && stream["app"] == "live" && stream["url"] == "/live/x" && stream["video"]["codec"] == "H264",
        "{stream}"
    );
    let client = srs.row("clients", |row| row["id"] == stream["publish"]["cid"])?;
    has_fields(&client, &traffic)?;
    has_fields(&client, &["id", "vhost", "stream", "ip", "pageUrl", "swfUrl", "tcUrl", "url", "name", "type", "publish", "alive"])?;
    ensure!(client["stream"] == stream["id"] && client["publish"] == true && client["type"] == "fmle-publish", "{client}");
    let vhost = srs.row("vhosts", |row| row["id"] == stream["vhost"])?;
    has_fields(&vhost, &traffic)?;
    has_fields(&vhost, &["name", "enabled", "clients", "streams", "hls.enabled", "hls.fragment"])?;
    ensure!(vhost["name"] == "__defaultVhost__" && vhost["streams"] == 1 && vhost["clients"] == 1, "{vhost}");
    for path in ["versions", "summaries"] {
        let answer = srs.ask("GET", path)?;
        has_fields(&answer, &["code", "server", "service", "pid", "data"])?;
        ensure!(answer["code"] == 0 && answer["pid"].is_string(), "{answer}");
    }
    ensure!(srs.ask("GET", "streams/nothing")?["code"] != 0 && srs.ask("DELETE", "clients/nobody")?["code"] != 0, "what is not is found");
    let redirected = http("GET", &format!("http://{}/api/v1/streams", srs.api))?;
    ensure!(redirected.status == 302, "{}", redirected.head);
    let padded = http("GET", &format!("http://{}/api/v1/streams/?callback=f", srs.api))?.text();
    ensure!(padded.starts_with("f({") && padded.ends_with("})"), "{padded}");
    Ok(())
}

#[test]
fn a_list_has_ten_rows_at_least() -> Result<()> {
    let srs = Srs::start()?;
    let _publisher = media::publish_live(&srs.url("x"))?;
    srs.row("streams", |row| row["publish"]["active"] == true)?;
    let _players = (0..11).map(|_| RtmpClient::start(&srs.url("x"), ClientRole::Play)).collect::<Result<Vec<_>>>()?;
    let rows =
        |query: &str| -> Result<usize> { Ok(srs.ask("GET", &format!("clients/{query}"))?["clients"].as_array().map_or(0, Vec::len)) };
    eventually(PATIENCE, || (rows("?count=100").ok()? == 12).then_some(())).context("not all are listed")?;
    ensure!((rows("")?, rows("?count=2")?, rows("?start=10&count=2")?) == (10, 10, 2), "{} rows", rows("")?);
    Ok(())
}

#[test]
fn the_real_ip_prefix_is_understood_and_changes_nothing_of_the_api_and_delete_ends_a_client() -> Result<()> {
    let srs = Srs::start()?;
    for (name, role) in [("x", ClientRole::Publish), ("x", ClientRole::Play)] {
        let publisher = (role == ClientRole::Play).then(|| media::publish_live(&srs.url(name))).transpose()?;
        if publisher.is_some() {
            srs.row("clients", |row| row["publish"] == true)?;
        }
        let mut stream = TcpStream::connect(srs.rtmp)?;
        stream.write_all(PREFIX)?;
        let mut client = RtmpClient::over(stream, &srs.url(name), role, false)?;
        client.wait_started()?;
        let row = srs.row("clients", |row| row["publish"] == (role == ClientRole::Publish))?;
        ensure!(row["ip"] == "127.0.0.1", "SRS believes the prefix: {row}");
        ensure!(srs.ask("DELETE", &format!("clients/{}", row["id"].as_str().unwrap_or_default()))?["code"] == 0, "not kicked");
        let closed = eventually(PATIENCE, || client.next(Duration::from_millis(100)).is_err().then_some(()));
        closed.context("it stays connected")?;
    }
    let log = std::fs::read_to_string(srs.directory.path().join("log"))?;
    ensure!(log.contains("203.0.113.1"), "the prefix is not understood: {log}");
    Ok(())
}

#[test]
fn the_answer_to_connect_names_the_client() -> Result<()> {
    let srs = Srs::start()?;
    let mut raw = RawRtmp::connect(srs.rtmp)?;
    let calls = RawRtmp::publish_calls(srs.rtmp, "live", "x");
    raw.send(&calls[0])?;
    let answer = raw.wait_command(|values| values.first().and_then(AmfValue::as_str) == Some("_result"))?;
    let data = answer.iter().find_map(|value| value.member("data")).with_context(|| format!("{answer:?}"))?;
    let id = data.member("srs_id").and_then(AmfValue::as_str).with_context(|| format!("{data:?}"))?;
    calls[1..].iter().try_for_each(|call| raw.send(call))?;
    raw.wait_status("NetStream.Publish.Start")?;
    srs.row("clients", |row| row["id"] == id && row["name"] == "x")?;
    Ok(())
}

#[test]
fn a_stream_has_one_publisher_and_http_players_end_with_it() -> Result<()> {
    let srs = Srs::start()?;
    let publisher = media::publish_live(&srs.url("x"))?;
    srs.row("streams", |row| row["publish"]["active"] == true && !row["video"].is_null())?;
    let (by_http, by_rtmp) = (Viewer::flv(srs.http, "live/x.flv?a=b")?, Viewer::rtmp(&srs.url("x"))?);
    by_http.wait_more(25)?;
    by_rtmp.wait_more(25)?;
    ensure!(RtmpClient::publish(&srs.url("x")).is_err(), "a second one publishes");
    by_rtmp.wait_more(25)?;
    drop(publisher);
    eventually(PATIENCE, || by_http.is_over().then_some(())).context("the player stays")?;
    // By RTMP players wait for the next one.
    let _publisher = media::publish_live(&srs.url("x"))?;
    by_rtmp.wait_more(25)
}

#[test]
fn segments_are_numbered_from_zero_and_again_after_a_death() -> Result<()> {
    let mut srs = Srs::start()?;
    for _ in 0..2 {
        let publisher = media::publish_live(&srs.url("x"))?;
        let index = srs.index_of("x", |numbers| numbers.len() == 3)?;
        ensure!(numbers(&index) == [0, 1, 2] && index.contains("#EXT-X-MEDIA-SEQUENCE:0\n"), "{index}");
        let first = index.lines().position(|line| line == "0.ts").context("no first segment")?;
        let before: Vec<&str> = index.lines().take(first).skip(4).collect();
        ensure!(before.first() == Some(&"#EXT-X-DISCONTINUITY") && before.len() == 2, "{index}");
        ensure!(before[1].starts_with("#EXTINF:") && !index.contains("ENDLIST"), "{index}");
        drop(publisher);
        srs.kill_and_start_again()?;
    }
    Ok(())
}

#[test]
fn a_term_signal_ends_it() -> Result<()> {
    let mut srs = Srs::start()?;
    let _publisher = RtmpClient::publish(&srs.url("x"))?;
    let pid = srs.process.pid();
    signal(pid, "TERM")?;
    srs.process.wait(PATIENCE)?;
    ensure!(!alive(pid), "it lives");
    Ok(())
}
