//! SRS processes as the engine: a stand-in for SRS, or a real one if `SRS_BINARY` names it (`make test-srs`).

use anyhow::{Context, Result, bail, ensure};
use braidcast_e2e::engine::{self, PATIENCE, Stubborn, publish_many};
use braidcast_e2e::proxies::connect_from;
use braidcast_e2e::rtmp::RtmpClient;
use braidcast_e2e::server::{alive, binary, signal};
use braidcast_e2e::tools::{Tool, eventually, http, http_get};
use braidcast_e2e::{Server, ServerOptions, Viewer, media};
use braidcast_protocols::rtmp::ClientRole;
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// A site as SRS's users have them, but with short segments.
const SITE: &str = "listen 1935;\nmax_connections 1000;\ndaemon on;\nhttp_api { enabled on; listen 1985; }\n\
    http_server { enabled on; listen 8080; }\n\
    vhost __defaultVhost__ { hls { enabled on; hls_fragment 2; hls_window 30; } http_remux { enabled on; mount [vhost]/[app]/[stream].flv; } }\n";

/// SRS: the one that the environment names, or the stand-in.
fn srs() -> PathBuf {
    std::env::var_os("SRS_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_srs-stand-in").into(), PathBuf::from)
}

/// A server in front of so many processes of SRS, and the directory of the site's configuration.
fn options(processes: u16, site: &str) -> Result<(ServerOptions, TempDir)> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("srs.conf");
    std::fs::write(&file, site)?;
    let mut options = ServerOptions::workers(2).set(&format!("engine.processes={processes}")).argument("--engine").argument("srs");
    for (flag, path) in [("--srs-binary", srs()), ("--srs-conf", file)] {
        options = options.argument(flag).argument(&path.to_string_lossy());
    }
    Ok((options, directory))
}

/// Runs a test with a server in front of three processes.
fn with(change: impl FnOnce(ServerOptions) -> ServerOptions, test: impl FnOnce(&mut Server) -> Result<()>) -> Result<()> {
    let (options, _directory) = options(3, SITE)?;
    test(&mut Server::start(change(options))?)
}

/// An answer of the API.
fn api(server: &Server, method: &str, path: &str) -> Result<Value> {
    let answer = http(method, &format!("http://{}/api/v1/{path}", server.address("api")))?;
    ensure!(answer.status == 200, "{path}: {}", answer.head);
    serde_json::from_slice(&answer.body).with_context(|| answer.text())
}

/// The rows of a list of the API.
fn rows(server: &Server, list: &str) -> Result<Vec<Value>> {
    let answer = api(server, "GET", &format!("{list}/?count=100"))?;
    ensure!(answer["code"] == 0 && ["server", "service", "pid"].iter().all(|field| answer[*field].is_string()), "{answer}");
    answer[list].as_array().cloned().with_context(|| format!("no {list} in {answer}"))
}

fn loopback(last: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 0, last).into()
}

/// A client from an address of its own.
fn client_from(server: &Server, last: u8, name: &str, role: ClientRole) -> Result<RtmpClient> {
    let stream = connect_from(loopback(last), server.address("rtmp"))?;
    let mut client = RtmpClient::over(stream, &server.rtmp(name), role, false)?;
    client.wait_started()?;
    Ok(client)
}

/// The row of the client that comes from this address, once there is one.
fn client_row(server: &Server, last: u8) -> Result<Value> {
    let ip = loopback(last).to_string();
    eventually(PATIENCE, || rows(server, "clients").ok()?.into_iter().find(|row| row["ip"] == *ip))
        .with_context(|| format!("nobody from {ip}: {:?}", rows(server, "clients")))
}

#[test]
fn status_tells_of_engine_and_processes() -> Result<()> {
    with(
        |options| options,
        |server| {
            let _publisher = media::publish_live(&server.rtmp("x"))?;
            let place = server.process_of("x")?;
            let status = server.status()?;
            ensure!(status["engine"]["kind"] == "srs" && status["engine"]["exact_takeover"] == false, "{}", status["engine"]);
            let mut addresses = BTreeSet::new();
            for (row, id) in server.processes()?.iter().zip(1_u16..) {
                ensure!(row["id"] == id && row["state"] == "ready" && row["restarts"] == 0 && row["weight"] == 1, "{row}");
                ensure!(row["current"] == u64::from(id == place) && row["allowed"].is_null() && row["free"].is_null(), "{row}");
                ensure!(row["pid"].as_u64().is_some_and(|pid| alive(pid as u32)), "{row}");
                for listener in ["rtmp", "http", "api"] {
                    let address = row[listener].as_str().with_context(|| row.to_string())?;
                    ensure!(address.starts_with("127.0.0.1:") && addresses.insert(address.to_owned()), "{row}");
                }
            }
            ensure!(addresses.len() == 9, "{addresses:?}");
            Ok(())
        },
    )
}

#[test]
fn thirty_players_of_one_address_all_get_the_stream() -> Result<()> {
    with(|options| options, |server| engine::every_player_gets_the_stream(server))
}

#[test]
fn http_flv_comes_from_the_process_that_has_the_stream() -> Result<()> {
    with(
        |options| options,
        |server| {
            let _publishers = publish_many(server, 3)?;
            let watch = |name: usize| Viewer::flv(server.address("http"), &format!("live/s{name}.flv?token=a%20b"));
            let viewers = (0..9).map(|number| watch(number % 3)).collect::<Result<Vec<_>>>()?;
            for viewer in viewers {
                viewer.wait_more(50).with_context(|| server.log_text())?;
                viewer.end()?;
            }
            Ok(())
        },
    )
}

#[test]
fn hls_is_collected_numbered_from_one_and_played_without_a_gap() -> Result<()> {
    with(|options| options, |server| engine::hls_is_collected_and_has_no_gap(server))
}

#[test]
fn a_killed_process_comes_back_and_its_streams_go_on_elsewhere() -> Result<()> {
    with(|options| options, |server| engine::a_killed_process_comes_back_and_its_streams_go_on(server))
}

#[test]
fn a_process_whose_api_is_silent_is_started_anew() -> Result<()> {
    with(
        |options| options.set("engine.silent_after=1s"),
        |server| {
            let _publisher = Stubborn::publish(&server.rtmp("x"));
            let place = server.process_of("x")?;
            let last = *engine::numbers(&engine::index_with(server, "x", 1)?).last().context("an empty index")?;
            let old = server.process_pid(place)?;
            signal(old, "STOP")?;
            let row = server.wait_replaced(place, old)?;
            ensure!(row["restarts"] == 1 && !alive(old), "{row}");
            engine::index_with(server, "x", last + 2)?;
            Ok(())
        },
    )
}

#[test]
fn twelve_publishers_are_four_each() -> Result<()> {
    with(|options| options.set("placement.publish=even"), |server| engine::publishers_are_shared_out(server, 12, &[4, 4, 4]))
}

#[test]
fn weights_of_one_two_three_share_twelve_publishers_two_four_six() -> Result<()> {
    let weights = |mut options: ServerOptions| {
        options.file = (1..=3).map(|id| format!("[[worker]]\nid = {id}\nweight = {id}\n")).collect();
        options
    };
    with(weights, |server| engine::publishers_are_shared_out(server, 12, &[2, 4, 6]))
}

#[test]
fn past_max_publishers_a_publisher_is_refused() -> Result<()> {
    let (mut options, _directory) = options(2, SITE)?;
    options.file = "[[worker]]\nid = 1\nmax_publishers = 1\n[[worker]]\nid = 2\nmax_publishers = 1\n".into();
    engine::one_publisher_too_many_is_refused(&Server::start(options)?)
}

#[test]
fn players_wait_for_a_stream_that_comes_later() -> Result<()> {
    with(|options| options.set("play.play_wait=5s"), |server| engine::play_waits_for_the_stream(server))
}

#[test]
fn viewers_get_the_publisher_that_comes_back() -> Result<()> {
    with(|options| options.set("placement.publish=even"), |server| engine::viewers_get_the_publisher_that_comes_back(server))
}

#[test]
fn an_encoder_takes_its_own_stream_over() -> Result<()> {
    with(|options| options, |server| engine::an_encoder_takes_its_own_stream_over(server))
}

#[test]
fn players_are_closed_where_their_publisher_does_not_come_back() -> Result<()> {
    let (mut options, _directory) = options(2, SITE)?;
    options.file = "[[worker]]\nid = 1\nmax_publishers = 1\n[[worker]]\nid = 2\nmax_publishers = 1\n".into();
    engine::players_are_closed_where_their_publisher_does_not_come_back(&Server::start(options)?)
}

#[test]
fn a_workers_death_costs_its_connections_alone() -> Result<()> {
    with(|options| options, |server| engine::a_workers_death_costs_its_connections_alone(server))
}

#[test]
fn another_front_finds_the_processes_and_their_streams() -> Result<()> {
    with(|options| options, engine::another_front_finds_the_processes)
}

#[test]
fn nobody_outlives_a_front_that_is_gone_for_good() -> Result<()> {
    with(|options| options.set("server.front_grace=1s"), |server| engine::nobody_outlives_a_front_that_is_gone_for_good(server))
}

#[test]
fn nothing_is_left_behind() -> Result<()> {
    with(|options| options, engine::nothing_is_left_behind)
}

#[test]
fn srs_is_told_whose_connections_are_and_kicks_them() -> Result<()> {
    with(
        |options| options,
        |server| {
            let mut publisher = client_from(server, 2, "x", ClientRole::Publish)?;
            media::Clip::Plain.records(1)?.iter().take(10).try_for_each(|record| publisher.push(record))?;
            let published = client_row(server, 2)?;
            ensure!(published["publish"] == true && published["name"] == "x", "{published}");
            let mut player = client_from(server, 3, "x", ClientRole::Play)?;
            let played = client_row(server, 3)?;
            ensure!(played["publish"] == false, "{played}");
            for (row, client) in [(played, &mut player), (published, &mut publisher)] {
                let id = row["id"].as_str().with_context(|| row.to_string())?;
                let one = api(server, "GET", &format!("clients/{id}"))?;
                ensure!(one["code"] == 0 && one["client"]["ip"] == row["ip"], "{one}");
                let kicked = api(server, "DELETE", &format!("clients/{id}"))?;
                ensure!(kicked["code"] == 0, "{kicked}");
                let closed = eventually(PATIENCE, || client.next(Duration::from_millis(100)).is_err().then_some(()));
                closed.with_context(|| format!("{row} is still connected"))?;
            }
            ensure!(api(server, "GET", "clients/nobody")?["code"] != 0, "a client that there is not is found");
            Ok(())
        },
    )
}

#[test]
fn the_api_is_of_all_processes_together() -> Result<()> {
    with(
        |options| options,
        |server| {
            let _publishers = publish_many(server, 3)?;
            let _players =
                (0..3).map(|number| client_from(server, 3, &format!("s{number}"), ClientRole::Play)).collect::<Result<Vec<_>>>()?;
            let all = || rows(server, "clients").ok().filter(|rows| rows.len() == 6);
            let clients = eventually(PATIENCE, all).with_context(|| format!("clients: {:?}", rows(server, "clients")))?;
            let streams = rows(server, "streams")?;
            let names: BTreeSet<_> = streams.iter().filter_map(|row| row["name"].as_str()).collect();
            ensure!(names == BTreeSet::from(["s0", "s1", "s2"]) && streams.len() == 3, "{streams:?}");
            for stream in &streams {
                ensure!(stream["publish"]["active"] == true && stream["video"]["codec"] == "H264", "{stream}");
                let its = clients.iter().filter(|client| client["stream"] == stream["id"]).count();
                ensure!(its == 2, "{its} clients of {stream} in {clients:?}");
                let id = stream["id"].as_str().with_context(|| stream.to_string())?;
                let one = api(server, "GET", &format!("streams/{id}"))?;
                ensure!(one["code"] == 0 && one["stream"]["name"] == stream["name"], "{one}");
            }
            let ids: BTreeSet<_> = clients.iter().filter_map(|row| row["id"].as_str()).collect();
            ensure!(ids.len() == 6, "ids are not each one's own: {clients:?}");
            let vhosts = rows(server, "vhosts")?;
            ensure!(vhosts.len() == 1 && vhosts[0]["streams"] == 3 && vhosts[0]["clients"] == 6, "{vhosts:?}");
            // A page of the list, as SRS counts: at least ten rows.
            let page = api(server, "GET", "clients/?start=4&count=10")?;
            ensure!(page["clients"].as_array().is_some_and(|rows| rows.len() == 2), "{page}");
            let version = api(server, "GET", "versions")?;
            ensure!(version["code"] == 0 && version["data"]["version"].is_string(), "{version}");
            ensure!(api(server, "GET", "summaries")?["data"]["ok"] == true, "no summary");
            Ok(())
        },
    )
}

#[test]
fn a_process_that_is_drained_gets_no_publishers_and_ends_with_its_streams() -> Result<()> {
    with(
        |options| options.set("placement.publish=even"),
        |server| {
            let mut publishers = publish_many(server, 3)?;
            ensure!(server.process_of("s0")? == 1, "the first stream is at process {}", server.process_of("s0")?);
            let old = server.process_pid(1)?;
            let shared_dir = server.shared_dir.to_string_lossy().into_owned();
            let words = ["drain", "--process", "1", "--timeout", "60", "--shared-dir", &shared_dir];
            let mut drain = Tool::start(&binary().to_string_lossy(), &words)?;
            eventually(PATIENCE, || server.process(1).ok().filter(|row| row["state"] == "draining"))
                .with_context(|| format!("{:?}", server.process(1)))?;
            let _another = media::publish_live(&server.rtmp("another"))?;
            ensure!(server.process_of("another")? != 1, "a process that is drained gets a publisher");
            let viewer = Viewer::rtmp(&server.rtmp("s0"))?;
            viewer.wait_more(25)?;
            ensure!(server.process_pid(1)? == old, "it ended before its stream");
            drop((publishers.remove(0), viewer));
            let row = server.wait_replaced(1, old)?;
            ensure!(row["restarts"] == 0, "it counts as a death: {row}");
            let ended = drain.wait(PATIENCE)?;
            ensure!(ended.success(), "the order says that it failed");
            Ok(())
        },
    )
}

#[test]
fn an_upgrade_replaces_the_processes_one_by_one() -> Result<()> {
    with(
        |options| options.set("engine.drain_limit=1s"),
        |server| {
            let _publisher = Stubborn::publish(&server.rtmp("x"));
            let last = *engine::numbers(&engine::index_with(server, "x", 1)?).last().context("an empty index")?;
            let before: Vec<Value> = server.processes()?.iter().map(|row| row["pid"].clone()).collect();
            let directory = tempfile::tempdir()?;
            let next = directory.path().join("srs-next");
            std::fs::copy(srs(), &next)?;
            server.order(&["upgrade", "--srs-binary", &next.to_string_lossy(), "--timeout", "60"])?;
            let is_new = |row: &Value| {
                let replaced = row["program"] == *next.to_string_lossy() && row["state"] == "ready" && !before.contains(&row["pid"]);
                let program = std::fs::read_link(format!("/proc/{}/exe", row["pid"]));
                replaced && row["restarts"] == 0 && program.is_ok_and(|program| program == next)
            };
            let all_new = || server.processes().ok()?.iter().all(is_new).then_some(());
            eventually(Duration::from_secs(5), all_new).with_context(|| format!("not replaced: {:?}", server.processes()))?;
            engine::index_with(server, "x", last + 2)?;
            // A program that there is not changes nothing.
            ensure!(server.order(&["upgrade", "--srs-binary", "/nonexistent/srs"]).is_err(), "a program that there is not is taken");
            ensure!(server.processes()?.iter().all(|row| row["program"] == *next.to_string_lossy()), "{:?}", server.processes());
            Ok(())
        },
    )
}

/// A site of two files with a second vhost.
fn site_of_two_files(directory: &Path) -> Result<String> {
    let more = directory.join("vhosts.conf");
    std::fs::write(&more, "vhost a.example.com { hls { enabled on; hls_fragment 10; hls_path /srv/hls; } }\n")?;
    Ok(format!(
        "listen 1935;\nheartbeat {{ enabled on; url http://127.0.0.1:1/; }}\nvhost __defaultVhost__ {{ }}\ninclude {};\n",
        more.display()
    ))
}

#[test]
fn vhosts_includes_and_variables_of_a_site_are_kept() -> Result<()> {
    let elsewhere = tempfile::tempdir()?;
    let (options, _directory) = options(3, &site_of_two_files(elsewhere.path())?)?;
    // With these variables, were they left to them, all processes would listen at one place.
    let options = options.environment("SRS_LISTEN", "127.0.0.1:19").environment("SRS_HTTP_API_LISTEN", "127.0.0.1:19");
    let server = Server::start(options.environment("SRS_VHOST_HLS_HLS_FRAGMENT", "1"))?;
    let address = server.address("rtmp");
    let _publisher = media::publish_live(&format!("rtmp://{address}/live/x?vhost=a.example.com"))?;
    let segment = server.shared_dir.join("streams/a.example.com/live/x/hls/2.ts");
    eventually(PATIENCE, || segment.exists().then_some(())).with_context(|| format!("no {}:\n{}", segment.display(), server.log_text()))?;
    let index = http_get(&server.http("live/x.m3u8?vhost=a.example.com"))?.text();
    let lengths = index.lines().filter_map(|line| line.strip_prefix("#EXTINF:")?.split(',').next()?.parse::<f64>().ok());
    let longest = lengths.fold(0.0, f64::max);
    ensure!(longest > 0.5 && longest < 2.5, "segments of {longest} s: {index}");
    Ok(())
}

#[test]
fn check_lists_what_is_changed_of_a_site() -> Result<()> {
    let (site, shared, state) = (tempfile::tempdir()?, tempfile::tempdir_in("/dev/shm")?, tempfile::tempdir()?);
    let file = site.path().join("srs.conf");
    std::fs::write(&file, site_of_two_files(site.path())?)?;
    let mut command = Command::new(binary());
    command.args(["check", "--engine", "srs", "--srs-binary"]).arg(srs()).arg("--srs-conf").arg(&file);
    command.arg("--shared-dir").arg(shared.path().join("b")).arg("--state-dir").arg(state.path());
    for listener in ["--rtmp", "--http", "--api"] {
        command.args([listener, "127.0.0.1:0"]);
    }
    let output = command.output()?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    ensure!(output.status.success(), "{said}");
    let lines = |words: &[&str]| said.lines().any(|line| words.iter().all(|word| line.contains(word)));
    for words in [["srs.conf:2", "heartbeat"], ["vhosts.conf:1", "hls_path"]] {
        ensure!(lines(&words), "no line with {words:?}: {said}");
    }
    // What SRS itself would not read is an error, with its place.
    std::fs::write(&file, "listen 1935;\nvhost __defaultVhost__ {\n")?;
    let output = command.output()?;
    if output.status.success() {
        bail!("a broken file passes");
    }
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    ensure!(said.contains("srs.conf"), "{said}");
    Ok(())
}

#[test]
fn rules_of_access_hold_before_the_processes() -> Result<()> {
    let (mut options, _directory) = options(2, SITE)?;
    options.file = "[[access]]\nstreams = 'live/closed*'\ntokens = ['some-token-of-the-test']\n".to_owned();
    let server = Server::start(options)?;
    let token = "token=some-token-of-the-test";
    for role in [ClientRole::Publish, ClientRole::Play] {
        let mut client = RtmpClient::connect(&server.rtmp("closed"), role)?;
        let error = client.wait_started().err().context("let in without a token")?.to_string();
        ensure!(error.contains("a token or a signature is needed"), "{error}");
    }
    let _publisher = media::publish_live(&format!("{}?{token}", server.rtmp("closed")))?;
    server.process_of("closed")?;
    ensure!(http_get(&server.http("live/closed.flv"))?.status == 401, "FLV without a token");
    ensure!(http_get(&server.http("live/closed.m3u8?token=wrong"))?.status == 403, "an index with a wrong one");
    let mut player = RtmpClient::connect(&format!("{}?{token}", server.rtmp("closed")), ClientRole::Play)?;
    player.wait_started()?;
    // What another server could read differently is refused.
    ensure!(http_get(&server.http(&format!("live/closed.flv?{token}&vhost=a.example&vhost=b.example")))?.status == 400, "two vhosts");
    // WebRTC: by the query alone, and nothing in it twice.
    let rtc = |path: &str| http("POST", &server.http(path)).map(|answer| answer.status);
    ensure!(rtc("rtc/v1/whip/?app=live&stream=closed")? == 401 && rtc("rtc/v1/whep/?app=live&stream=closed")? == 401, "WHIP and WHEP");
    ensure!(rtc("rtc/v1/whip/?app=live&stream=open&stream=closed")? == 400 && rtc("rtc/v1/play/")? == 403, "other ways");
    Ok(())
}
