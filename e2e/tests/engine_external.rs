//! Debian's nginx-rtmp, three processes of it, as the engine: the example of the documentation, word for word.

use anyhow::{Context, Result, ensure};
use braidcast_e2e::engine::{self, BlindProxy, LoneNginx, PATIENCE, has_nginx, nginx_options, nginx_that_asks};
use braidcast_e2e::proxies::connect_from;
use braidcast_e2e::rtmp::RtmpClient;
use braidcast_e2e::server::binary;
use braidcast_e2e::tools::{eventually, run, run_ok};
use braidcast_e2e::{Server, ServerOptions, media};
use braidcast_protocols::rtmp::ClientRole;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};

/// Whether nginx cannot be had here, and says so.
fn is_skipped() -> bool {
    if !has_nginx() {
        println!("skipped: libnginx-mod-rtmp or libnginx-mod-stream is not installed");
    }
    !has_nginx()
}

/// Runs a test with a server in front of three processes, or says that there is no nginx.
fn with(change: impl FnOnce(ServerOptions) -> ServerOptions, test: impl FnOnce(&mut Server) -> Result<()>) -> Result<()> {
    if is_skipped() {
        return Ok(());
    }
    test(&mut Server::start(change(nginx_options(3, None)?))?)
}

#[test]
fn ffmpeg_publishes_and_ffprobe_plays() -> Result<()> {
    with(
        |options| options,
        |server| {
            let status = server.status()?;
            ensure!(status["engine"]["kind"] == "external" && status["engine"]["exact_takeover"] == false, "{}", status["engine"]);
            let _publisher = media::publish_live(&server.rtmp("x"))?;
            let read = ["-v", "error", "-show_entries", "stream=codec_name", "-of", "csv=p=0", &server.rtmp("x")];
            let probed = run_ok("ffprobe", &read, PATIENCE)?;
            ensure!(probed.contains("h264") && probed.contains("aac"), "{probed}");
            Ok(())
        },
    )
}

#[test]
fn thirty_players_of_one_address_all_get_the_stream() -> Result<()> {
    with(|options| options, |server| engine::every_player_gets_the_stream(server))
}

#[test]
fn a_proxy_that_knows_no_streams_feeds_a_third_of_the_players() -> Result<()> {
    if is_skipped() {
        return Ok(());
    }
    let servers = [LoneNginx::start()?, LoneNginx::start()?, LoneNginx::start()?];
    let proxy = BlindProxy::start(&servers.each_ref().map(|server| server.rtmp))?;
    let fed = engine::fed_of_thirty(&format!("rtmp://{}/live/x", proxy.rtmp))?;
    // In turn, so that a third of the thirty come to the server that has it; the connection that asks whether it listens is one of the turn.
    ensure!(fed == engine::PLAYERS / 3, "{fed} of {} are fed", engine::PLAYERS);
    Ok(())
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
fn twelve_publishers_are_four_each() -> Result<()> {
    with(|options| options.set("placement.publish=even"), |server| engine::publishers_are_shared_out(server, 12, &[4, 4, 4]))
}

#[test]
fn weights_of_one_two_three_share_twelve_publishers_two_four_six() -> Result<()> {
    let weights = |mut options: ServerOptions| {
        options.file += &(1..=3).map(|id| format!("[[worker]]\nid = {id}\nweight = {id}\n")).collect::<String>();
        options
    };
    with(weights, |server| engine::publishers_are_shared_out(server, 12, &[2, 4, 6]))
}

#[test]
fn past_max_publishers_a_publisher_is_refused() -> Result<()> {
    if is_skipped() {
        return Ok(());
    }
    let mut options = nginx_options(2, None)?;
    options.file += "[[worker]]\nid = 1\nmax_publishers = 1\n[[worker]]\nid = 2\nmax_publishers = 1\n";
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
    if is_skipped() {
        return Ok(());
    }
    let mut options = nginx_options(2, None)?;
    options.file += "[[worker]]\nid = 1\nmax_publishers = 1\n[[worker]]\nid = 2\nmax_publishers = 1\n";
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

/// An HTTP server that allows what has the right token, and keeps what it was told. Its thread ends with the test.
fn hook(token: &'static str) -> Result<(SocketAddr, Arc<Mutex<Vec<String>>>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let told = Arc::new(Mutex::new(Vec::new()));
    let shared = told.clone();
    std::thread::spawn(move || {
        while let Ok((mut socket, _)) = listener.accept() {
            let mut bytes = Vec::new();
            let mut buffer = [0; 4096];
            while !is_whole(&bytes) {
                match socket.read(&mut buffer) {
                    Ok(read) if read > 0 => bytes.extend_from_slice(&buffer[..read]),
                    _ => break,
                }
            }
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let status = if text.contains(token) { "200 OK" } else { "403 Forbidden" };
            shared.lock().expect("no test panics with it").push(text);
            let _ = write!(socket, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    });
    Ok((address, told))
}

/// Whether a request is there with the body that it says it has.
fn is_whole(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")?.parse().ok());
    body.len() >= length.unwrap_or(0)
}

#[test]
fn tokens_come_to_on_publish_as_they_were_sent() -> Result<()> {
    if is_skipped() {
        return Ok(());
    }
    let args = "token=s3cret%20%2Bword&n=2&empty=";
    let (address, told) = hook("token=s3cret%20%2Bword&")?;
    let directory = tempfile::tempdir()?;
    let template = nginx_that_asks(directory.path(), address)?;
    let server = Server::start(nginx_options(3, Some(&template))?)?;
    let _publisher = media::publish_live(&server.rtmp(&format!("x?{args}")))?;
    server.wait_live("x")?;
    let said = told.lock().expect("no test panics with it").clone();
    let asked = said.iter().find(|text| text.contains("call=publish")).context("on_publish was not called")?;
    ensure!(asked.starts_with("POST /on_publish ") && asked.ends_with(args) && asked.contains("name=x&"), "{asked}");
    // Its word holds: who has another token is refused, and takes no place.
    let file = media::Clip::Plain.file(10)?;
    let publish = ["-v", "error", "-i", &file.to_string_lossy(), "-c", "copy", "-f", "flv", &server.rtmp("y?token=wrong")];
    ensure!(!run("ffmpeg", &publish, PATIENCE)?.status.success(), "a publisher that on_publish refuses is taken");
    let free = || server.processes().ok()?.iter().all(|row| row["current"].as_u64() <= Some(1)).then_some(());
    eventually(PATIENCE, free).context("the refused publisher keeps its place")?;
    ensure!(server.stream("y")?.is_none_or(|stream| stream["state"] != "live"), "a refused stream is live");
    Ok(())
}

/// Another Braidcast as the other server: the configuration of each, in the words of any server.
const BRAIDCAST: &str = "[server]\nworkers = 1\nshared_dir = \"{dir}/shared\"\nstate_dir = \"{dir}/state\"\ntrusted_proxies = [\"127.0.0.1\"]\n\
    front_grace = \"0s\"\nstop_grace = \"0s\"\n[rtmp]\nlisten = [\"127.0.0.1:{rtmp_port}\"]\nPROXY\n[http]\nlisten = [\"127.0.0.1:{http_port}\"]\n\
    [api]\nlisten = [\"127.0.0.1:{api_port}\"]\n";

/// Whom the other server takes a client for that comes from 127.0.0.2.
fn taken_for(client_address: &str, proxy: &str) -> Result<String> {
    let directory = tempfile::tempdir()?;
    let template = directory.path().join("braidcast.toml");
    std::fs::write(&template, BRAIDCAST.replace("PROXY", proxy))?;
    let command = format!("'{}' serve -c {{config}}", binary().display());
    let file = format!(
        "[engine]\nkind = \"external\"\nprocesses = 1\ncommand = \"{command}\"\ntemplate = \"{}\"\nclient_address = \"{client_address}\"\n",
        template.display()
    );
    let server = Server::start(ServerOptions { file, ..ServerOptions::workers(1) })?;
    let stream = connect_from([127, 0, 0, 2].into(), server.address("rtmp"))?;
    let mut client = RtmpClient::over(stream, &server.rtmp("x"), ClientRole::Publish, false)?;
    client.wait_started()?;
    let shared_dir = server.shared_dir.join("engine/1/run/shared");
    let publisher = || {
        let said =
            run_ok(&binary().to_string_lossy(), &["status", "--json", "--shared-dir", &shared_dir.to_string_lossy()], PATIENCE).ok()?;
        let status: serde_json::Value = serde_json::from_str(&said).ok()?;
        Some(status["streams"][0]["publisher"].as_str()?.split(':').next()?.to_owned())
    };
    eventually(PATIENCE, publisher).with_context(|| format!("nobody publishes:\n{}", server.log_text()))
}

#[test]
fn any_server_is_told_the_clients_address_as_it_is_configured() -> Result<()> {
    for (client_address, proxy, is) in
        [("none", "", "127.0.0.1"), ("srs", "", "127.0.0.2"), ("proxy", "proxy_protocol = \"on\"", "127.0.0.2")]
    {
        let taken = taken_for(client_address, proxy).context(client_address)?;
        ensure!(taken == is, "{client_address}: taken for {taken}");
    }
    Ok(())
}
