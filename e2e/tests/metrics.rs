//! What monitoring sees: the series of a live server, over a worker's death; a real Prometheus with the dashboard and the alerts of `deploy/`.

use anyhow::{Context, Result, ensure};
use braidcast_e2e::hooks::{HookServer, Reply};
use braidcast_e2e::media::publish_live;
use braidcast_e2e::monitoring::{Prometheus, Scrape};
use braidcast_e2e::rtmp::Pump;
use braidcast_e2e::server::signal;
use braidcast_e2e::tools::{eventually, http_get, run_ok};
use braidcast_e2e::{Server, ServerOptions, Viewer};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);
const OPEN_METRICS: &str = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5";
/// The series of SRS, all of them.
const OF_SRS: [&str; 8] = [
    "srs_clients",
    "srs_clients_errs_total",
    "srs_clients_total",
    "srs_cpu_percent",
    "srs_memory",
    "srs_receive_bytes_total",
    "srs_send_bytes_total",
    "srs_streams",
];

fn monitored(workers: u16) -> ServerOptions {
    ServerOptions::workers(workers).argument("--metrics").argument("127.0.0.1:0")
}

fn scrape(server: &Server) -> Result<Scrape> {
    Scrape::read(server.address("metrics"), "text/plain")
}

fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(name)
}

#[test]
fn counters_go_on_over_a_workers_death_whoever_is_asked() -> Result<()> {
    let server = Server::start(monitored(3).set("hls.fragment=1s"))?;
    let _publisher = publish_live(&server.rtmp("film"))?;
    server.wait_live("film")?;
    let viewers: Vec<Viewer> = (0..6).map(|_| Viewer::flv(server.address("http"), "live/film.flv")).collect::<Result<_>>()?;
    for viewer in &viewers {
        viewer.wait_more(50)?;
    }
    let film = ["vhost=\"__defaultVhost__\"", "app=\"live\"", "stream=\"film\""];
    let settled = |scrape: &Scrape| {
        scrape.sum("braidcast_stream_viewers", &film) == 6.0
            && scrape.sum("braidcast_stream_segment_number", &film) >= 2.0
            && scrape.sum("srs_clients", &[]) == 7.0
    };
    let before = eventually(PATIENCE, || scrape(&server).ok().filter(settled)).context("the series do not settle")?;
    before.check()?;
    let names: BTreeSet<String> = before.series().keys().filter(|series| series.starts_with("srs_")).cloned().collect();
    ensure!(names.iter().eq(OF_SRS.iter()), "{names:?}");
    ensure!(before.sum("srs_streams", &[]) == 1.0 && before.sum("braidcast_streams", &["state=\"live\""]) == 1.0);
    ensure!(before.sum("srs_memory", &[]) > 1_000.0 && before.sum("braidcast_front_memory_bytes", &[]) > 0.0);
    ensure!(before.sum("braidcast_worker_state", &["state=\"running\""]) == 3.0, "{}", before.text);
    let received = server.stream("film")?.context("no stream")?["bytes"].as_f64().context("no bytes")?;
    ensure!(before.sum("braidcast_stream_received_bytes_total", &film) <= received);
    // Each of the six has got the stream since it came.
    let (bytes_in, bytes_out) = (before.sum("srs_receive_bytes_total", &[]), before.sum("srs_send_bytes_total", &[]));
    ensure!(bytes_in > 50_000.0 && bytes_out > 2.0 * before.sum("braidcast_stream_received_bytes_per_second", &film));

    let open_metrics = Scrape::read(server.address("metrics"), OPEN_METRICS)?;
    ensure!(open_metrics.head.contains("application/openmetrics-text; version=1.0.0"), "{}", open_metrics.head);
    ensure!(open_metrics.text.ends_with("\n# EOF\n") && open_metrics.text.contains("# TYPE srs_clients_errs counter\n"));
    ensure!(before.head.contains("text/plain; version=0.0.4"), "{}", before.head);

    // Counters never fall, whichever worker answers, while the publisher's worker dies and its place is filled.
    let mut last = scrape(&server)?.counters();
    let worker = server.publisher_worker("film")?;
    let mut killed = false;
    let recovered = eventually(PATIENCE, || {
        let now = scrape(&server).ok()?;
        let counters = now.counters();
        for (series, value) in &last {
            assert!(counters.get(series).is_some_and(|now| now >= value), "{series} was {value} and is {:?}", counters.get(series));
        }
        last = counters;
        if !std::mem::replace(&mut killed, true) {
            signal(server.worker_pid(worker).ok()?, "KILL").ok()?;
        }
        let back = now.sum("braidcast_worker_restarts_total", &[&format!("worker=\"{worker}\"")]) == 1.0
            && now.sum("braidcast_worker_state", &["state=\"running\""]) == 3.0
            && now.sum("braidcast_worker_cpu_seconds_total", &[]) > 0.0;
        back.then_some(now)
    });
    let recovered = recovered.with_context(|| format!("the worker does not come back:\n{}", server.log_text()))?;
    ensure!(recovered.sum("braidcast_move_pause_seconds_count", &["why=\"worker died\""]) >= 1.0, "{}", recovered.text);
    ensure!(recovered.sum("braidcast_front_sessions_lost_total", &[]) == 0.0);
    recovered.check()?;
    // Who viewed views on, and each is counted once.
    let again = |scrape: &Scrape| scrape.sum("braidcast_stream_viewers", &film) == 6.0 && scrape.sum("srs_clients", &[]) == 7.0;
    eventually(PATIENCE, || scrape(&server).ok().filter(again)).context("the viewers are not counted again")?;
    Ok(())
}

#[test]
fn only_so_many_streams_have_series_of_their_own() -> Result<()> {
    let server = Server::start(monitored(2).set("metrics.stream_labels=3"))?;
    let mut pumps = Vec::new();
    // Not in the order of their names: who was first keeps its series.
    let names = ["m", "z", "k", "a", "b", "c", "d", "e"];
    for name in names {
        pumps.push(Pump::start(&server.rtmp(name), name)?);
        server.wait_live(name)?;
    }
    let viewer = Viewer::flv(server.address("http"), "live/d.flv")?;
    viewer.wait_more(1)?;
    let other = ["vhost=\"\"", "app=\"\"", "stream=\"other\""];
    let counted = |scrape: &Scrape| {
        scrape.sum("braidcast_streams_unlabelled", &[]) == 5.0
            && scrape.sum("braidcast_stream_viewers", &other) == 1.0
            && scrape.sum("braidcast_stream_sent_bytes_per_second", &other) > 0.0
    };
    let seen = eventually(PATIENCE, || scrape(&server).ok().filter(counted))
        .with_context(|| scrape(&server).map_or_else(|error| error.to_string(), |scrape| scrape.text))?;
    seen.check()?;
    ensure!(seen.sum("braidcast_stream_state", &[other[2], "state=\"live\""]) == 5.0, "{}", seen.text);
    ensure!(seen.sum("braidcast_streams", &["state=\"live\""]) == 8.0 && seen.sum("srs_streams", &[]) == 8.0);
    ensure!(seen.sum("braidcast_stream_received_bytes_per_second", &other) > 0.0);
    let labelled: BTreeSet<&str> = names.into_iter().filter(|name| seen.text.contains(&format!("stream=\"{name}\""))).collect();
    ensure!(labelled == BTreeSet::from(["m", "z", "k"]), "{labelled:?}");
    // A sum that streams leave would fall: there is none.
    ensure!(!seen.counters().keys().any(|series| series.contains("stream=\"other\"")), "{}", seen.text);

    // The listener knows nothing else, and the other ones know no metrics.
    let at = |listener: &str, path: &str| http_get(&format!("http://{}{path}", server.address(listener))).map(|answer| answer.status);
    ensure!(at("metrics", "/")? == 404 && at("metrics", "/streams.json")? == 404 && at("metrics", "/live/d.flv")? == 404);
    ensure!(at("http", "/metrics")? == 404 && at("api", "/metrics")? == 404);
    Ok(())
}

#[test]
fn prometheus_reads_the_server_and_knows_what_dashboard_and_alerts_ask() -> Result<()> {
    let hooks = HookServer::start(|_| Reply::yes())?;
    let keys = tempfile::tempdir()?;
    let [key, cert] = ["key.pem", "cert.pem"].map(|name| keys.path().join(name).display().to_string());
    let made =
        ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "90", "-subj", "/CN=localhost"];
    run_ok("openssl", &[&made[..], &["-addext", "subjectAltName=DNS:localhost", "-keyout", &key, "-out", &cert]].concat(), PATIENCE)?;
    let file = format!("{}\n[[certificate]]\ncert = {cert:?}\nkey = {key:?}\n", hooks.hook(&["on_play", "on_hls"], ""));
    let server = Server::start(ServerOptions { file, ..monitored(3).set("hls.fragment=1s").set("tls.https=127.0.0.1:0") })?;
    let _publishers = [publish_live(&server.rtmp("one"))?, publish_live(&server.rtmp("two"))?];
    server.wait_live("one")?;
    server.wait_live("two")?;
    let _viewers = [Viewer::flv(server.address("http"), "live/one.flv")?, Viewer::rtmp(&server.rtmp("two"))?];
    let prometheus = Prometheus::start(server.address("metrics"), &deploy("braidcast-alerts.yml").canonicalize()?)?;
    let dashboard: Value = serde_json::from_str(&fs::read_to_string(deploy("grafana-dashboard.json"))?)?;
    let expressions = expressions(&dashboard);
    ensure!(expressions.len() > 50, "only {} expressions in the dashboard", expressions.len());
    for expression in &expressions {
        let found = eventually(PATIENCE, || prometheus.query(expression).ok().filter(|found| !found.is_empty()));
        found.with_context(|| format!("no data for {expression}: {:?}", prometheus.query(expression)))?;
    }
    let rules = eventually(PATIENCE, || {
        let rules = prometheus.rules().ok()?;
        rules.iter().all(|rule| rule["health"] != "unknown").then_some(rules)
    });
    let rules = rules.context("not all rules were evaluated")?;
    ensure!(rules.len() > 20, "only {} rules", rules.len());
    for rule in &rules {
        ensure!(rule["health"] == "ok", "{rule}");
        // A server that is well gives no alarm.
        ensure!(rule["state"] == "inactive", "{rule}");
    }
    // A front that dies is seen, by what its workers say.
    signal(server.front_pid().context("no front")?, "KILL")?;
    let lost = || prometheus.query("braidcast_instance_state{state=\"lost\"} == 1").ok().filter(|found| !found.is_empty());
    eventually(PATIENCE, lost).context("the front's death is not seen")?;
    Ok(())
}

/// All that a dashboard asks, as it is asked of everything in the last minute.
fn expressions(dashboard: &Value) -> Vec<String> {
    let panels = dashboard["panels"].as_array().map(Vec::as_slice).unwrap_or_default();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().map(Vec::as_slice).unwrap_or_default());
    let asked = |text: &str| text.replace("$instance", ".*").replace("$__rate_interval", "10s").replace("$__range", "1m");
    targets.filter_map(|target| target["expr"].as_str().map(asked)).collect()
}

#[test]
fn rules_hold_and_say_what_to_do() -> Result<()> {
    let alerts = deploy("braidcast-alerts.yml");
    run_ok("promtool", &["check", "rules", &alerts.to_string_lossy()], PATIENCE)?;
    run_ok("promtool", &["test", "rules", &deploy("braidcast-alerts-test.yml").to_string_lossy()], PATIENCE)?;
    run_ok("promtool", &["check", "config", &deploy("prometheus.yml").to_string_lossy()], PATIENCE)?;
    let (alerts, tests) = (fs::read_to_string(alerts)?, fs::read_to_string(deploy("braidcast-alerts-test.yml"))?);
    let help = fs::read_to_string(deploy("../docs/troubleshooting.md"))?;
    let names: Vec<&str> = alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    ensure!(names.len() > 20, "{names:?}");
    for name in names {
        let link = format!("runbook_url: docs/troubleshooting.md#{}\n", name.to_lowercase());
        ensure!(alerts.contains(&link) && help.contains(&format!("\n### {name}\n")), "{name}: no help in docs/troubleshooting.md");
        ensure!(tests.contains(&format!("- name: {name}\n")), "{name} is not tested");
    }
    // What is asked there, is there.
    let known = fs::read_to_string(deploy("../docs/metrics.md"))?;
    let dashboard = fs::read_to_string(deploy("grafana-dashboard.json"))?;
    for word in format!("{alerts}{dashboard}").split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')) {
        let family = ["_bucket", "_count"].iter().find_map(|end| word.strip_suffix(end)).unwrap_or(word);
        if word.starts_with("braidcast_") || word.starts_with("srs_") {
            ensure!(known.contains(&format!("| `{family}` |")), "{word} is not in docs/metrics.md");
        }
    }
    Ok(())
}
