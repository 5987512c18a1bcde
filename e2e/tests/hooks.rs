//! Hooks, with real hook servers: what they are sent, what their answers do, and that nobody's stream waits for them.

use anyhow::{Context, Result, ensure};
use braidcast_e2e::hooks::{Heard, HookServer, Reply};
use braidcast_e2e::media::{self, Clip};
use braidcast_e2e::relays::Hand;
use braidcast_e2e::rtmp::{Pump, RtmpClient};
use braidcast_e2e::server::signal;
use braidcast_e2e::tools::{eventually, run_ok};
use braidcast_e2e::viewer::now_us;
use braidcast_e2e::{Record, Server, ServerOptions, Tool, Viewer, http_get};
use braidcast_media::RecordKind;
use braidcast_protocols::rtmp::ClientRole;
use serde_json::Value;
use std::collections::HashSet;
use std::fs::File;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);
const ALL: [&str; 8] = ["on_connect", "on_close", "on_publish", "on_unpublish", "on_play", "on_stop", "on_hls", "on_forward"];

fn with(workers: u16, file: &str) -> ServerOptions {
    let options = ServerOptions::workers(workers).set("hls.fragment=1s").set("hooks.retry_max=1s");
    ServerOptions { file: file.to_owned(), ..options.set("play.reconnect_grace=1s").set("play.play_wait=1s") }
}

/// What the status says of a hook, by its place.
fn hook(server: &Server, place: usize) -> Option<Value> {
    server.status().ok()?["hooks"].get(place).cloned()
}

fn wait_counter(server: &Server, place: usize, name: &str, least: u64) -> Result<Value> {
    eventually(PATIENCE, || hook(server, place).filter(|hook| hook["counters"][name].as_u64().is_some_and(|count| count >= least)))
        .with_context(|| format!("{name} is not {least}: {:?}\n{}", hook(server, place), server.log_text()))
}

/// An HLS player: it keeps to the address that it was led to.
struct HlsPlayer {
    index: String,
}

impl HlsPlayer {
    fn start(server: &Server, path: &str) -> Result<Self> {
        let leads = http_get(&server.http(path))?;
        let text = leads.text();
        let address = text.lines().last().filter(|line| line.contains("hls_ctx=")).with_context(|| format!("{}: {text}", leads.status))?;
        Ok(Self { index: server.http(&format!("live/{address}")) })
    }

    /// Takes the newest segment.
    fn play(&self) -> Result<()> {
        let index = http_get(&self.index)?.text();
        let segment = index.lines().last().filter(|line| line.contains(".ts")).with_context(|| index.clone())?;
        let (folder, _) = self.index.split_once(".m3u8").and_then(|(index, _)| index.rsplit_once('/')).context("no folder")?;
        let segment = http_get(&format!("{folder}/{segment}"))?;
        ensure!(segment.status == 200 && segment.body.len() > 188, "{}: {}", segment.status, segment.head);
        Ok(())
    }
}

/// The fields of SRS's table for an action, without those that all have.
fn fields(action: &str) -> &'static str {
    match action {
        "on_connect" => "tcUrl pageUrl stream param",
        "on_close" => "send_bytes recv_bytes",
        "on_play" => "tcUrl stream param stream_url stream_id pageUrl",
        "on_hls" => "tcUrl stream param duration cwd file url m3u8 m3u8_url seq_no stream_url stream_id",
        "on_forward" => "tcUrl stream param",
        _ => "tcUrl stream param stream_url stream_id",
    }
}

fn check_fields(heard: &Heard) -> Result<()> {
    let body = heard.body.as_object().context("no object")?;
    let wanted: HashSet<&str> =
        "server_id service_id action client_id ip vhost app".split(' ').chain(fields(heard.action()).split(' ')).collect();
    let found: HashSet<&str> = body.keys().map(String::as_str).collect();
    ensure!(found == wanted, "{}: {:?} are missing or too many", heard.action(), found.symmetric_difference(&wanted));
    for (name, value) in body {
        let is_number = matches!(name.as_str(), "send_bytes" | "recv_bytes" | "duration" | "seq_no");
        ensure!(if is_number { value.is_number() } else { value.is_string() }, "{} {name} = {value}", heard.action());
    }
    ensure!(body["ip"] == "127.0.0.1" && body["vhost"] == "__defaultVhost__" && body["app"] == "live", "{body:?}");
    ensure!(!heard.id.is_empty() && heard.target == "/hook?key=canary", "{heard:?}");
    ensure!(heard.authorization == "Bearer canary", "{heard:?}");
    Ok(())
}

/// Each begin of an action has just one end, of the same client.
fn check_pairs(heard: &[Heard], begin: &str, end: &str) -> Result<()> {
    let clients = |action: &str| {
        let mut clients: Vec<&str> =
            heard.iter().filter(|heard| heard.action() == action).filter_map(|heard| heard.body["client_id"].as_str()).collect();
        clients.sort_unstable();
        clients
    };
    ensure!(clients(begin) == clients(end), "{begin} {:?}, {end} {:?}", clients(begin), clients(end));
    let once: HashSet<&str> = clients(begin).into_iter().collect();
    ensure!(once.len() == clients(begin).len(), "{begin} came twice for a client: {:?}", clients(begin));
    Ok(())
}

#[test]
fn every_hook_has_srs_s_fields_before_and_after_a_worker_s_death() -> Result<()> {
    let other = Hand::start(1, None)?;
    let urls = format!(r#"{{"code":0,"data":{{"urls":["rtmp://{}/live/x"]}}}}"#, other.address);
    let hooks = HookServer::start(move |heard| match heard.action() {
        "on_forward" => Reply::Say(200, urls.clone()),
        _ => Reply::yes(),
    })?;
    let connect = format!("sandbox.connect={}", other.address.port());
    // An HLS viewer is gone when it has asked for nothing for two windows.
    let mut server = Server::start(with(3, &hooks.hook(&ALL, "secret = \"canary\"")).set("hls.window=2s").set(&connect))?;
    let _publisher = media::publish_live(&format!("{}?token=7", server.rtmp("x")))?;
    server.wait_live("x")?;
    let rtmp = Viewer::rtmp(&server.rtmp("x"))?;
    let flv = Viewer::flv(server.address("http"), "live/x.flv?token=8")?;
    rtmp.wait_more(20)?;
    flv.wait_more(20)?;
    let segments = |least: usize| eventually(PATIENCE, || (hooks.of("on_hls", "x").len() >= least).then_some(()));
    segments(2).with_context(|| format!("no segments:\n{}", server.log_text()))?;
    let hls = HlsPlayer::start(&server, "live/x.m3u8?token=9").with_context(|| server.log_text())?;
    (0..3).try_for_each(|_| hls.play())?;
    eventually(PATIENCE, || (!other.records().is_empty()).then_some(())).context("on_forward forwards nothing")?;
    // The API knows everything by the names that hooks are told.
    let streams: Value = serde_json::from_slice(&http_get(&format!("http://{}/api/v1/streams/", server.address("api")))?.body)?;
    let (stream, publish) = (&streams["streams"][0], &hooks.of("on_publish", "x")[0].body);
    ensure!(publish["stream_id"] == stream["id"] && publish["client_id"] == stream["publish"]["cid"], "{publish}, {streams}");
    ensure!(publish["server_id"] == streams["server"] && publish["service_id"] == streams["service"], "{publish}, {streams}");
    // Whoever dies: nothing begins again, and nothing ends.
    let owner = server.publisher_worker("x")?;
    server.kill_worker(owner)?;
    flv.wait_more(50)?;
    segments(hooks.of("on_hls", "x").len() + 2).context("no segments after the death")?;
    (0..3).try_for_each(|_| hls.play())?;
    drop((rtmp, flv, _publisher));
    hooks.wait("on_unpublish", "x", 1)?;
    hooks.wait("on_stop", "x", 3)?;
    eventually(PATIENCE, || (hooks.heard().iter().filter(|heard| heard.action() == "on_close").count() >= 2).then_some(()))
        .with_context(|| format!("no on_close for both RTMP clients: {:#?}", hooks.heard()))?;
    server.stop()?;
    let heard = hooks.heard();
    heard.iter().try_for_each(check_fields)?;
    for (begin, end, clients) in [("on_connect", "on_close", 2), ("on_publish", "on_unpublish", 1), ("on_play", "on_stop", 3)] {
        check_pairs(&heard, begin, end)?;
        ensure!(heard.iter().filter(|heard| heard.action() == begin).count() == clients, "{begin}: {heard:#?}");
    }
    let publish = &hooks.of("on_publish", "x")[0].body;
    ensure!(publish["param"] == "?token=7" && publish["stream_url"] == "/live/x", "{publish}");
    ensure!(publish["tcUrl"] == format!("rtmp://{}/live", server.address("rtmp")), "{publish}");
    let mut params: Vec<String> = hooks.of("on_play", "x").iter().map(|heard| heard.body["param"].to_string()).collect();
    params.sort_unstable();
    ensure!(params[0] == "\"\"" && params[1] == "\"?token=8\"" && params[2].contains("token=9"), "{params:?}");
    ensure!(
        heard.iter().filter(|heard| heard.action() == "on_close").all(|heard| heard.body["recv_bytes"].as_u64() > Some(100)),
        "{heard:#?}"
    );
    let ids: HashSet<&str> = heard.iter().map(|heard| heard.id.as_str()).collect();
    ensure!(ids.len() == heard.len(), "something was told twice: {heard:#?}");
    let publisher = &publish["client_id"];
    let of_publisher = |heard: &Heard| heard.body["client_id"] == *publisher && heard.body["param"] == "?token=7";
    ensure!(hooks.of("on_hls", "x").iter().chain(&hooks.of("on_unpublish", "x")).all(of_publisher), "{heard:#?}");
    let mut numbers: Vec<u64> = hooks.of("on_hls", "x").iter().filter_map(|heard| heard.body["seq_no"].as_u64()).collect();
    numbers.dedup();
    let first = numbers.first().copied().unwrap_or(0);
    ensure!(first == 1 && numbers == (first..first + numbers.len() as u64).collect::<Vec<_>>(), "segments: {numbers:?}");
    ensure!(!server.log_text().contains("canary"), "a secret is in the log");
    Ok(())
}

#[test]
fn answers_do_what_the_configuration_says_and_are_counted() -> Result<()> {
    let asked = HookServer::start(|_| Reply::yes())?;
    let fails_open = HookServer::start(|_| Reply::yes())?;
    let only = |server: &HookServer, stream: &str, on_error: &str| {
        server.hook(&["on_publish", "on_play"], &format!("streams = \"live/{stream}*\"\ntimeout = \"500ms\"\non_error = \"{on_error}\""))
    };
    let server = Server::start(with(2, &(only(&asked, "closed", "refuse") + &only(&fails_open, "open", "allow"))))?;
    let publish = |stream: &str| Pump::start(&server.rtmp(stream), "x");
    let play = |stream: &str| RtmpClient::start(&server.rtmp(stream), ClientRole::Play);
    let bad = [
        Reply::Silence,
        Reply::Close,
        Reply::Endless,
        Reply::Say(500, "0".into()),
        Reply::Say(200, "fine".into()),
        Reply::Say(200, "0".repeat(1 << 20)),
    ];
    let (yes, mut failures) = (publish("closed0")?, 0);
    for (number, reply) in bad.iter().enumerate() {
        // Each is asked while the server before has answered, so that none is left alone for having failed too often.
        asked.answer(|_| Reply::yes());
        fails_open.answer(|_| Reply::yes());
        drop(play("closed0").with_context(|| format!("a good answer before {reply:?}:\n{}", server.log_text()))?);
        let open = publish(&format!("open{number}"))?;
        let (one, other) = (reply.clone(), reply.clone());
        asked.answer(move |_| one.clone());
        fails_open.answer(move |_| other.clone());
        ensure!(publish(&format!("closed-{number}")).is_err(), "{reply:?} lets a publisher in");
        ensure!(play("closed0").is_err(), "{reply:?} lets a viewer in");
        let again = publish(&format!("open-{number}")).with_context(|| format!("{reply:?} with on_error = \"allow\""))?;
        ensure!(http_get(&server.http(&format!("live/closed0.flv?n={number}")))?.status == 403, "{reply:?} lets an HTTP viewer in");
        ensure!(again.is_running() && open.is_running());
        failures += 1;
    }
    asked.answer(|_| Reply::no());
    ensure!(publish("closed-no").is_err());
    ensure!(http_get(&server.http("live/closed0.flv"))?.status == 403);
    ensure!(publish("other")?.is_running() && yes.is_running(), "who was let in stays, and who is nobody's is not asked about");
    let counters = &wait_counter(&server, 0, "refused", 2)?["counters"];
    ensure!(counters["refused_on_error"] == 3 * failures && counters["failures"].as_u64() >= Some(3 * failures), "{counters}");
    let counters = &hook(&server, 1).context("no second hook")?["counters"];
    ensure!(counters["allowed_on_error"] == failures && counters["refused_on_error"] == 0, "{counters}");
    Ok(())
}

#[test]
fn a_dead_hook_server_loses_nothing_that_can_be_told_later_and_holds_nobody_up() -> Result<()> {
    let dead = HookServer::start(|_| Reply::Silence)?;
    let good = HookServer::start(|_| Reply::yes())?;
    let file = dead.hook(&["on_stop", "on_unpublish"], "timeout = \"300ms\"\nretries = 50") + &good.hook(&["on_stop", "on_unpublish"], "");
    let server = Server::start(with(2, &file))?;
    let publisher = Pump::start(&server.rtmp("x"), "x")?;
    server.wait_live("x")?;
    for round in 1..=5 {
        drop(RtmpClient::start(&server.rtmp("x"), ClientRole::Play)?);
        good.wait("on_stop", "x", round)?;
    }
    drop(publisher);
    good.wait("on_unpublish", "x", 1)?;
    wait_counter(&server, 0, "retries", 1)?;
    // The process that calls them dies too: it goes on where it was.
    let attendant = server.status()?["attendants"].as_array().and_then(|all| all.iter().find(|one| one["role"] == "hooks").cloned());
    let pid = attendant.and_then(|one| one["pid"].as_u64()).context("no process calls the hooks")?;
    signal(pid as u32, "KILL")?;
    dead.answer(|_| Reply::yes());
    eventually(PATIENCE, || (dead.of("on_unpublish", "x").len() == 1 && hook(&server, 0)?["counters"]["waiting"] == 0).then_some(()))
        .with_context(|| format!("not all is told: {:?}\n{}", hook(&server, 0), server.log_text()))?;
    let mut ids: Vec<u64> = dead.heard().iter().filter_map(|heard| heard.id.parse().ok()).collect();
    ensure!(ids.is_sorted(), "out of order: {ids:?}");
    ids.dedup();
    ensure!(ids.len() == 6, "five viewers and a publisher: {ids:?}");
    good.wait("on_stop", "x", 5)?;
    Ok(())
}

/// The hook server of the documentation, by TLS, with a certificate of its own.
struct Documented {
    port: u16,
    certificate: PathBuf,
    log: PathBuf,
    _process: Tool,
    _directory: TempDir,
}

impl Documented {
    fn start() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let path = |name: &str| directory.path().join(name);
        let (certificate, key, log) = (path("cert.pem"), path("key.pem"), path("log"));
        let [certificate_text, key_text, wanted] = [&certificate, &key, &path("wanted")].map(|path| path.to_string_lossy().into_owned());
        let extensions = "basicConstraints = critical,CA:FALSE\nsubjectAltName = DNS:localhost";
        let text = format!(
            "[req]\ndistinguished_name = name\nx509_extensions = more\nprompt = no\n[name]\nCN = localhost\n[more]\n{extensions}\n"
        );
        std::fs::write(&wanted, text)?;
        let request = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-config", &wanted];
        run_ok("openssl", &[&request[..], &["-keyout", &key_text, "-out", &certificate_text]].concat(), PATIENCE)?;
        let program = format!(
            "import sys, ssl; sys.path.insert(0, {:?}); import hook_server as hook; \
             server = hook.ThreadingHTTPServer(('127.0.0.1', 0), hook.Hook); context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); \
             context.load_cert_chain({certificate_text:?}, {key_text:?}); server.socket = context.wrap_socket(server.socket, server_side=True); \
             print('listening on', server.server_port, flush=True); server.serve_forever()",
            concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/examples")
        );
        let child = Command::new("python3").args(["-B", "-c", &program]).env("TOKEN", "right").stdout(File::create(&log)?).spawn()?;
        let process = Tool::of(child);
        let listening = || std::fs::read_to_string(&log).ok()?.lines().next()?.strip_prefix("listening on ")?.parse().ok();
        let port = eventually(PATIENCE, listening).context("the hook server does not start")?;
        Ok(Self { port, certificate, log, _process: process, _directory: directory })
    }

    /// The lines that it has printed about a stream, by their first word.
    fn told(&self, stream: &str) -> Vec<String> {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        text.lines()
            .filter(|line| line.ends_with(&format!(" {stream}")))
            .filter_map(|line| Some(line.split(' ').next()?.to_owned()))
            .collect()
    }
}

#[test]
fn the_documented_server_by_tls_comes_with_a_reload_and_stays_over_an_upgrade() -> Result<()> {
    let documented = Documented::start()?;
    let options = with(2, "").environment("SSL_CERT_FILE", &documented.certificate.to_string_lossy());
    let server = Server::start(options)?;
    let before = Pump::start(&server.rtmp("before"), "x")?;
    let events = ["on_publish", "on_unpublish", "on_play", "on_stop"];
    let file = format!("[[hook]]\nevents = {events:?}\nurl = \"https://localhost:{}/\"\n", documented.port);
    std::fs::write(server.state_dir.join("test.toml"), file)?;
    server.order(&["reload"])?;
    let refused = Pump::start(&server.rtmp("x?token=wrong"), "x").err().context("a wrong token lets a publisher in")?;
    ensure!(format!("{refused:#}").contains("refused"), "{refused:#}");
    let publisher = Pump::start(&server.rtmp("x?token=right"), "x").with_context(|| server.log_text())?;
    let viewer = RtmpClient::start(&server.rtmp("x"), ClientRole::Play)?;
    server.order(&["upgrade"])?;
    ensure!(publisher.is_running() && before.is_running(), "who was there stays");
    drop((viewer, publisher));
    let all = ["on_publish", "on_publish", "on_play", "on_stop", "on_unpublish"];
    eventually(PATIENCE, || (documented.told("x").len() >= all.len()).then_some(()))
        .with_context(|| format!("{:?}\n{}", documented.told("x"), server.log_text()))?;
    let mut told = documented.told("x");
    told[3..].sort_unstable();
    ensure!(told == all, "{told:?}");
    Ok(())
}

#[test]
fn a_worker_that_dies_while_a_hook_thinks_changes_nothing() -> Result<()> {
    let (answer, asked) = (Reply::After(Duration::from_secs(4)), "on_publish");
    let hooks = HookServer::start(move |heard| if heard.action() == asked { answer.clone() } else { Reply::yes() })?;
    let server = Server::start(with(2, &hooks.hook(&["on_publish", "on_unpublish"], "timeout = \"10s\"")))?;
    let mut publisher = RtmpClient::connect(&server.rtmp("x"), ClientRole::Publish)?;
    // The handshake goes on while the answer is waited for.
    let has_asked = || {
        let _ = publisher.next(Duration::from_millis(20));
        (!hooks.of("on_publish", "x").is_empty()).then_some(())
    };
    eventually(PATIENCE, has_asked).context("the hook is not asked")?;
    let has_it = |worker: &u16| server.worker(*worker).is_ok_and(|row| row["sessions"] == 1);
    let worker = eventually(PATIENCE, || [1, 2].into_iter().find(has_it)).context("no worker has the publisher")?;
    ensure!(server.stream("x")?.is_none_or(|stream| stream["state"] != "live"), "the hook has answered already");
    server.kill_worker(worker)?;
    publisher.wait_started().with_context(|| server.log_text())?;
    server.wait_live("x")?;
    drop(publisher);
    hooks.wait("on_unpublish", "x", 1)?;
    hooks.wait("on_publish", "x", 1)?;
    Ok(())
}

/// How late the frames of a stream come to a viewer, microseconds: the worst, after the first half of a second.
fn lateness(server: &Server, name: &str) -> Result<u64> {
    let (headers, records): (Vec<Record>, Vec<Record>) = Clip::Plain.records(2)?.into_iter().partition(Record::is_header);
    let mut publisher = RtmpClient::publish(&server.rtmp(name))?;
    headers.iter().try_for_each(|record| publisher.push(record))?;
    let records = Arc::new(records);
    let viewer = Viewer::flv_expecting(server.address("http"), &format!("live/{name}.flv"), records.clone())?;
    let begun = now_us();
    let mut sent = Vec::new();
    for record in records.iter() {
        let due = begun + u64::from(record.timestamp_ms) * 1_000;
        // The frame rate, not a wait for something.
        std::thread::sleep(Duration::from_micros(due.saturating_sub(now_us())));
        if record.kind == RecordKind::Video {
            sent.push(now_us());
        }
        publisher.push(record)?;
    }
    let arrivals = eventually(PATIENCE, || Some(viewer.arrivals()).filter(|arrivals| arrivals.len() == sent.len()))
        .with_context(|| format!("not all frames came:\n{}", server.log_text()))?;
    let late = sent.iter().zip(arrivals).map(|(sent, arrived)| arrived.saturating_sub(*sent)).skip(12);
    late.max().context("no frames")
}

/// Comes and goes, and is asked about each time, until told to stop.
fn come_and_go(server: &Server, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        if let Ok(mut client) = RtmpClient::connect(&server.rtmp("others"), ClientRole::Play) {
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_millis(300) && client.next(Duration::from_millis(50)).is_ok() {}
        }
    }
}

#[test]
fn no_frame_is_later_because_a_hook_server_is_slow() -> Result<()> {
    // Rounds differ by what else the machine does; more are needed only where it does much.
    const ROUNDS: (usize, usize) = (3, 9);
    let silent = HookServer::start(|heard| if heard.body["stream"] == "others" { Reply::Silence } else { Reply::yes() })?;
    let file = silent.hook(&ALL, "on_error = \"allow\"\ntimeout = \"1s\"");
    let (plain, hooked) = (Server::start(with(1, ""))?, Server::start(with(1, &file))?);
    let (mut without, mut with_hooks) = (Vec::new(), Vec::new());
    let is_unmoved = |with_hooks: &[u64], without: &[u64]| with_hooks.iter().min() <= without.iter().max();
    for round in 0..ROUNDS.1 {
        if round >= ROUNDS.0 && is_unmoved(&with_hooks, &without) {
            break;
        }
        // The same crowd comes and goes on both sides; on one of them somebody is asked about it who never answers.
        for (server, late) in [(&plain, &mut without), (&hooked, &mut with_hooks)] {
            let stop = AtomicBool::new(false);
            std::thread::scope(|scope| -> Result<()> {
                (0..4).for_each(|_| _ = scope.spawn(|| come_and_go(server, &stop)));
                let result = lateness(server, &format!("x{round}"));
                stop.store(true, Ordering::Relaxed);
                late.push(result?);
                Ok(())
            })?;
        }
    }
    let failures = hook(&hooked, 0).and_then(|hook| hook["counters"]["allowed_on_error"].as_u64());
    ensure!(failures >= Some(10), "nobody was asked about: {failures:?}");
    println!("the latest frame of each round: with hooks {with_hooks:?} us, without {without:?} us");
    // Had a frame waited for a hook, it would have waited for a second, in every round.
    ensure!(is_unmoved(&with_hooks, &without), "with hooks {with_hooks:?} us, without {without:?} us");
    Ok(())
}
