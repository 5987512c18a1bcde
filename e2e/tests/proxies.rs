//! The client's own address through proxies: HAProxy and nginx as documented, PROXY headers, `X-Forwarded-For`, SRS's real-IP prefix;
//! what limits and rules make of it, and that it stays with a session whoever dies.

use anyhow::{Context, Result, bail, ensure};
use braidcast_e2e::hostile;
use braidcast_e2e::media;
use braidcast_e2e::proxies::{PROXY, Proxy, connect_from, documented, proxy_line};
use braidcast_e2e::rtmp::RtmpClient;
use braidcast_e2e::tools::{Tool, eventually, open_directory, run, run_ok};
use braidcast_e2e::{Record, Server, ServerOptions, Viewer};
use braidcast_media::RecordKind;
use braidcast_protocols::rtmp::{ClientOutput, ClientRole};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// A server as the documentation configures it behind proxies, but for their addresses.
fn documented_options() -> Result<ServerOptions> {
    let text = documented("toml", "trusted_proxies")?;
    ensure!(text.contains(r#"["10.0.0.5", "10.0.0.6"]"#), "other proxies are documented: {text}");
    let file = text.replace("10.0.0.5", &PROXY.to_string());
    Ok(ServerOptions { file, ..ServerOptions::workers(2) })
}

/// A server that takes the test itself for a proxy.
fn trusting(options: ServerOptions) -> ServerOptions {
    options.set("server.trusted_proxies=127.0.0.1").set("rtmp.proxy_protocol=on")
}

/// A connection that says by a PROXY header that it is this client's.
fn as_client(server: &Server, client: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(server.address("rtmp"))?;
    stream.write_all(&proxy_line(client.parse()?))?;
    Ok(stream)
}

/// A publisher that says so.
fn publisher(server: &Server, client: &str, name: &str) -> Result<RtmpClient> {
    let mut publisher = RtmpClient::over(as_client(server, client)?, &server.rtmp(name), ClientRole::Publish, false)?;
    publisher.wait_started()?;
    Ok(publisher)
}

fn loopback(last: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 0, last).into()
}

/// Where the status says that a stream is published from.
fn published_from(server: &Server, name: &str) -> Option<SocketAddr> {
    server.stream(name).ok()??["publisher"].as_str()?.parse().ok()
}

fn is_closed(stream: &mut TcpStream) -> Result<bool> {
    hostile::is_closed(stream, Duration::from_secs(30))
}

/// Closed for being the first one too many of its address; a client that does nothing is closed in the end whatever its address.
fn is_one_too_many(server: &Server, stream: &mut TcpStream) -> Result<bool> {
    Ok(is_closed(stream)? && server.front_counter("refused_per_address") == 1)
}

/// Still open, and the server has answered the handshake.
fn is_answered(stream: &mut TcpStream) -> Result<bool> {
    stream.write_all(&[&[3][..], &[0; 1536]].concat())?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    Ok(stream.read_exact(&mut [0; 1 + 2 * 1536]).is_ok())
}

/// An answer's head, on a connection that stays open.
fn head_of(stream: &mut TcpStream) -> Result<String> {
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// Kills the worker that has a stream's publisher, and waits until another one has it.
fn kill_publishers_worker(server: &Server, name: &str) -> Result<()> {
    let (worker, moves) = (server.publisher_worker(name)?, server.front_counter("takeovers"));
    server.kill_worker(worker)?;
    eventually(PATIENCE, || (server.front_counter("takeovers") > moves).then_some(()))
        .with_context(|| format!("nobody took over:\n{}", server.log_text()))?;
    server.wait_live(name)?;
    Ok(())
}

/// ffmpeg publishes, ffprobe, ffmpeg and curl watch through a proxy. Their own addresses are seen, also after their workers' death.
fn true_addresses_through(server: &Server, proxy: &Proxy) -> Result<()> {
    let rtmp = format!("rtmp://{}/live/film", proxy.rtmp);
    let mut publisher = media::publish_live(&rtmp)?;
    server.wait_live("film")?;
    let from = published_from(server, "film").context("the status does not say who publishes")?;
    ensure!(from.ip() == loopback(1) && from.port() != 0, "published from {from}");

    let probed = run_ok("ffprobe", &["-v", "error", "-show_entries", "stream=codec_name", "-of", "csv=p=0", &rtmp], PATIENCE)?;
    ensure!(probed.contains("h264") && probed.contains("aac"), "{probed}");
    server.wait_log(&["playing begins", "stream=live/film", "peer=127.0.0.1:"])?;
    // A viewer over HTTP from yet another address.
    let url = format!("http://{}/live/film.flv", proxy.http);
    let mut viewer = Tool::start("curl", &["-sS", "-N", "--interface", "127.0.0.3", "-o", "/dev/null", &url])?;
    server.wait_log(&["playing begins", "stream=live/film", "peer=127.0.0.3:0"])?;
    server.wait_log(&["a viewer is placed", "peer=127.0.0.3"])?;
    let taken_for_the_proxy = |line: &&str| line.contains("stream=") && line.contains(&format!("peer={PROXY}"));
    ensure!(server.log_text().lines().find(taken_for_the_proxy).is_none(), "a client is taken for its proxy:\n{}", server.log_text());

    kill_publishers_worker(server, "film")?;
    let after = published_from(server, "film").context("nobody publishes any more")?;
    ensure!(after == from, "published from {after} since the death of its worker, before it was {from}");
    server.wait_log(&["a session has moved", "stream=live/film", "peer=127.0.0.1"])?;
    let watcher = Viewer::rtmp(&rtmp)?;
    watcher.wait_more(50)?;
    ensure!(publisher.is_running() && viewer.is_running(), "a client was disconnected");
    watcher.end()
}

#[test]
fn haproxy_by_version_2() -> Result<()> {
    let server = Server::start(documented_options()?)?;
    true_addresses_through(&server, &Proxy::haproxy(&server, "send-proxy-v2")?)
}

#[test]
fn haproxy_by_version_1() -> Result<()> {
    let server = Server::start(documented_options()?)?;
    true_addresses_through(&server, &Proxy::haproxy(&server, "send-proxy")?)
}

#[test]
fn nginx_by_its_stream_module_and_over_http() -> Result<()> {
    let server = Server::start(documented_options()?)?;
    true_addresses_through(&server, &Proxy::nginx(&server)?)
}

#[test]
fn haproxys_fields_of_version_2_are_skipped() -> Result<()> {
    let server = Server::start(documented_options()?)?;
    let proxy = Proxy::haproxy(&server, "send-proxy-v2 proxy-v2-options crc32c,unique-id")?;
    let mut client = connect_from(loopback(4), proxy.rtmp)?;
    ensure!(is_answered(&mut client)?, "the handshake is not answered");
    server.wait_log(&["a proxy says whose connection it is", "peer=127.0.0.4:", "proxy=127.0.0.9:"])?;
    Ok(())
}

#[test]
fn the_limit_for_addresses_is_for_those_behind_the_proxy() -> Result<()> {
    let server = Server::start(documented_options()?.set("limits.connections_per_address=3"))?;
    let proxy = Proxy::haproxy(&server, "send-proxy-v2")?;
    let answered = |last| -> Result<Option<TcpStream>> {
        let mut stream = connect_from(loopback(last), proxy.rtmp)?;
        Ok(is_answered(&mut stream)?.then_some(stream))
    };
    // Far more than the limit through one proxy, and over both workers.
    let mut held = Vec::new();
    for last in 2..8 {
        for _ in 0..3 {
            held.push((last, answered(last)?.with_context(|| format!("127.0.0.{last} is refused:\n{}", server.log_text()))?));
        }
    }
    let refused = || server.front_counter("refused_per_address");
    ensure!(refused() == 0, "{} were refused", refused());
    let mut fourth = connect_from(loopback(2), proxy.rtmp)?;
    ensure!(is_closed(&mut fourth)?, "the fourth connection of an address is endured");
    eventually(PATIENCE, || (refused() == 1).then_some(())).context("it was not counted")?;
    server.wait_log(&["connection refused", "connections_per_address", "peer=127.0.0.2:"])?;
    // Room again when one of them is gone.
    held.retain(|(last, _)| *last != 2);
    eventually(PATIENCE, || answered(2).ok().flatten()).context("no room again")?;

    // Viewers over HTTP are told; who only asks for files may come as often as he likes.
    let _publisher = media::publish_live(&format!("rtmp://{}/live/x", proxy.rtmp))?;
    server.wait_live("x")?;
    let url = format!("http://{}/live/x.flv", proxy.http);
    let watch = |last: u8| Tool::start("curl", &["-sS", "-N", "--interface", &loopback(last).to_string(), "-o", "/dev/null", &url]);
    let mut viewers = Vec::new();
    for number in 1..=3 {
        viewers.push(watch(10)?);
        eventually(PATIENCE, || (server.log_text().matches("a viewer is placed stream=live/x ").count() == number).then_some(()))
            .with_context(|| format!("viewer {number} is not placed"))?;
    }
    let status = |last: u8, path: &str| {
        let url = format!("http://{}/{path}", proxy.http);
        let output = run(
            "curl",
            &["-s", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}", "--interface", &loopback(last).to_string(), &url],
            PATIENCE,
        )?;
        anyhow::Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    ensure!(status(10, "live/x.flv")? == "503", "a fourth viewer is let in");
    for _ in 0..10 {
        ensure!(status(10, "streams.json")? == "200", "a page is refused");
    }
    ensure!(status(11, "live/x.flv")? == "200", "another one is refused");
    Ok(())
}

#[test]
fn strangers_do_not_come_in_where_proxies_are_expected() -> Result<()> {
    let options = ServerOptions::workers(2).set("server.trusted_proxies=127.0.0.9").set("rtmp.proxy_protocol=on");
    let server = Server::start(options)?;
    for says in [proxy_line("203.0.113.1:5000".parse()?), vec![3; 1537]] {
        let mut stranger = TcpStream::connect(server.address("rtmp"))?;
        let _ = stranger.write_all(&says);
        ensure!(is_closed(&mut stranger)?, "a stranger is let in");
    }
    ensure!(server.front_counter("refused_untrusted") == 2, "that was not counted");
    server.wait_log(&["connection refused", "trusted_proxies", "peer=127.0.0.1:"])?;
    // Over HTTP, where nothing is expected, what he says of others is not believed.
    let mut viewer = TcpStream::connect(server.address("http"))?;
    write!(viewer, "GET /live/x.flv HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 203.0.113.1\r\n\r\n")?;
    server.wait_log(&["a viewer is placed", "peer=127.0.0.1"])?;
    ensure!(!server.log_text().contains("203.0.113.1"), "a stranger is believed:\n{}", server.log_text());
    Ok(())
}

#[test]
fn a_header_that_is_missing_late_or_broken_closes_the_connection() -> Result<()> {
    let server = Server::start(trusting(ServerOptions::workers(2).set("limits.handshake=1s").set("http.proxy_protocol=on")))?;
    let cases: [(&str, &[u8], &str); 6] = [
        ("rtmp", &[3; 1537], "there is none"),
        ("http", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "there is none"),
        ("rtmp", b"PROXY TCP4 1.2.3.4 x 1 2\r\n", "not as version 1 has to be"),
        ("rtmp", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff", "it is too long"),
        ("rtmp", b"PROXY TCP4 1.2.", "none came in time"),
        ("http", b"", "none came in time"),
    ];
    for (number, (listener, says, why)) in cases.into_iter().enumerate() {
        let mut client = TcpStream::connect(server.address(listener))?;
        client.write_all(says)?;
        let peer = format!("peer={}", client.local_addr()?);
        ensure!(is_closed(&mut client)?, "{why}: it is endured");
        server.wait_log(&[&peer, "has to begin with a PROXY header", why])?;
        server.wait_workers_counter("refused_proxy_headers", number as u64 + 1)?;
    }
    // The handshake has the time that is left, not as much again.
    let mut half = as_client(&server, "203.0.113.1:5000")?;
    half.write_all(&[3])?;
    ensure!(is_closed(&mut half)?, "half a handshake is endured");
    server.wait_log(&["peer=203.0.113.1:5000", "the handshake was not done in time"])?;
    Ok(())
}

#[test]
fn a_header_may_come_in_pieces_and_with_the_first_bytes_of_the_client() -> Result<()> {
    let server = Server::start(trusting(ServerOptions::workers(2).set("http.proxy_protocol=on")))?;
    let mut slow = TcpStream::connect(server.address("rtmp"))?;
    slow.set_nodelay(true)?;
    let handshake = [&[3][..], &[0; 1536]].concat();
    for byte in proxy_line("[2001:db8::7]:5000".parse()?).iter().chain(&handshake[..2]) {
        slow.write_all(&[*byte])?;
        std::thread::yield_now();
    }
    slow.write_all(&handshake[2..])?;
    slow.read_exact(&mut [0; 1 + 2 * 1536])?;
    server.wait_log(&["a proxy says whose connection it is", "peer=[2001:db8::7]:5000"])?;
    let mut at_once = TcpStream::connect(server.address("http"))?;
    at_once.write_all(&[&proxy_line("203.0.113.1:80".parse()?)[..], b"GET /streams.json HTTP/1.1\r\nHost: x\r\n\r\n"].concat())?;
    ensure!(head_of(&mut at_once)?.starts_with("HTTP/1.1 200"), "not answered");
    // A connection of the proxy's own keeps its address.
    let mut own = TcpStream::connect(server.address("rtmp"))?;
    own.write_all(b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0")?;
    ensure!(is_answered(&mut own)?, "a health check is refused");
    Ok(())
}

#[test]
fn each_request_of_a_kept_connection_has_a_client_of_its_own() -> Result<()> {
    let server = Server::start(ServerOptions::workers(2).set("server.trusted_proxies=127.0.0.1,10.0.0.0/8").set("play.play_wait=100ms"))?;
    let _publisher = media::publish_live(&server.rtmp("x"))?;
    server.wait_live("x")?;
    let mut proxy = TcpStream::connect(server.address("http"))?;
    let mut ask = |path: &str, forwarded: &str| -> Result<String> {
        write!(proxy, "HEAD {path} HTTP/1.1\r\nHost: x\r\n{forwarded}\r\n")?;
        head_of(&mut proxy)
    };
    for forwarded in ["X-Forwarded-For: 203.0.113.1\r\n", "X-Forwarded-For: unknown\r\n", "X-Forwarded-For: 203.0.113.2, ,:80\r\n", ""] {
        ensure!(ask("/streams.json", forwarded)?.starts_with("HTTP/1.1 200"), "{forwarded}");
    }
    server.wait_workers_counter("forwarded_malformed", 2)?;
    let forwarded = "X-Forwarded-For: 198.51.100.1, 203.0.113.3:4711\r\nAccept: */*\r\nX-Forwarded-For: 10.1.2.3\r\n";
    write!(proxy, "GET /live/x.flv HTTP/1.1\r\nHost: x\r\n{forwarded}\r\n")?;
    ensure!(head_of(&mut proxy)?.starts_with("HTTP/1.1 200"), "the viewer is refused");
    server.wait_log(&["playing begins", "stream=live/x", "peer=203.0.113.3:4711"])?;
    // It stays that client's when its worker dies.
    let mut buffer = [0; 4096];
    for worker in 1..=2 {
        server.kill_worker(worker)?;
        proxy.read_exact(&mut buffer)?;
    }
    server.wait_log(&["a session has moved", "peer=203.0.113.3"])?;
    drop(proxy);
    server.wait_log(&["closed", "peer=203.0.113.3:4711"])?;
    Ok(())
}

#[test]
fn the_real_ip_prefix_of_srs_is_taken_from_trusted_proxies() -> Result<()> {
    let publish = |server: &Server, address: SocketAddr, name: &str, prefix: &[u8]| -> Result<RtmpClient> {
        let mut stream = TcpStream::connect(address)?;
        stream.write_all(prefix)?;
        let mut client = RtmpClient::over(stream, &server.rtmp(name), ClientRole::Publish, false)?;
        client.wait_started()?;
        Ok(client)
    };
    let options = ServerOptions { sub_ports: true, ..ServerOptions::workers(2) };
    let server = Server::start(options.set("server.trusted_proxies=127.0.0.1"))?;
    let prefix = b"\xf3\0\x04\xcb\x00\x71\x01";
    for (name, address) in [("a", server.address("rtmp")), ("b", server.sub_port(2))] {
        let _client = publish(&server, address, name, prefix)?;
        ensure!(published_from(&server, name) == Some("203.0.113.1:0".parse()?), "{name}: {:?}", published_from(&server, name));
    }
    // Who says nothing is who he is; and the sub-port still takes HTTP.
    let _client = publish(&server, server.address("rtmp"), "c", b"")?;
    ensure!(published_from(&server, "c").is_some_and(|address| address.ip() == loopback(1)), "{:?}", published_from(&server, "c"));
    let answer = braidcast_e2e::http_get(&format!("http://{}/streams.json", server.sub_port(1)))?;
    ensure!(answer.status == 200, "{}", answer.head);
    ensure!(!answer.text().contains("203.0.113.1"), "strangers are told who publishes");

    let suspicious = Server::start(ServerOptions::workers(1))?;
    ensure!(publish(&suspicious, suspicious.address("rtmp"), "a", prefix).is_err(), "a stranger is believed");
    suspicious.wait_log(&["closed by us", "real-IP prefix", "peer=127.0.0.1:"])?;
    Ok(())
}

#[test]
fn prefixes_can_follow_each_other_and_sub_ports_take_them() -> Result<()> {
    let options = ServerOptions { sub_ports: true, ..ServerOptions::workers(2) };
    let options = options.set("server.trusted_proxies=127.0.0.1,10.0.0.0/8").set("server.worker_proxy_protocol=on");
    let server = Server::start(options)?;
    // An SRS proxy behind a proxy of TCP.
    let mut stream = TcpStream::connect(server.sub_port(1))?;
    stream.write_all(&[&proxy_line("10.1.1.1:4000".parse()?)[..], b"\xf3\0\x04\xcb\x00\x71\x02"].concat())?;
    let mut client = RtmpClient::over(stream, &server.rtmp("a"), ClientRole::Publish, false)?;
    client.wait_started()?;
    ensure!(published_from(&server, "a") == Some("203.0.113.2:0".parse()?), "{:?}", published_from(&server, "a"));
    // A proxy of HTTP behind one.
    let mut stream = TcpStream::connect(server.sub_port(2))?;
    stream.write_all(&proxy_line("10.1.1.1:4000".parse()?))?;
    write!(stream, "GET /live/a.flv HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 203.0.113.4\r\n\r\n")?;
    server.wait_log(&["a viewer is placed", "peer=203.0.113.4"])?;
    Ok(())
}

#[test]
fn a_publisher_that_comes_back_is_known_by_its_own_address() -> Result<()> {
    let server = Server::start(trusting(ServerOptions::workers(2).set("publish.silent_after=1h")))?;
    let mut first = publisher(&server, "203.0.113.1:5000", "x")?;
    let mut stranger = RtmpClient::over(as_client(&server, "203.0.113.2:5000")?, &server.rtmp("x"), ClientRole::Publish, false)?;
    let said = stranger.wait(|output| matches!(output, ClientOutput::Started | ClientOutput::Refused { .. }))?;
    ensure!(matches!(&said, ClientOutput::Refused { code, .. } if code == "NetStream.Publish.BadName"), "{said:?}");
    let _back = publisher(&server, "203.0.113.1:6000", "x")?;
    let gone = eventually(PATIENCE, || first.next(Duration::from_millis(100)).is_err().then_some(()));
    gone.context("two publish the same stream")?;
    ensure!(published_from(&server, "x") == Some("203.0.113.1:6000".parse()?), "{:?}", published_from(&server, "x"));
    Ok(())
}

#[test]
fn a_worker_that_dies_before_the_front_has_heard_whose_a_connection_is_costs_nothing() -> Result<()> {
    for point in ["received", "naming", "named", "checkpoint", "row_saved"] {
        let directory = open_directory()?;
        let flag = directory.path().join("killed");
        let options = ServerOptions { faults: true, ..trusting(ServerOptions::workers(2)).set("limits.connections_per_address=1") };
        // A worker passes the points of saving when the connection is new; the second time is behind the header.
        let pass = if matches!(point, "checkpoint" | "row_saved") { 2 } else { 1 };
        let options = options.environment("BRAIDCAST_KILL_POINT", &format!("{point}:{pass}"));
        let server = Server::start(options.environment("BRAIDCAST_KILL_ONCE", &flag.to_string_lossy()))?;
        let _publisher = publisher(&server, "203.0.113.1:5000", "x").with_context(|| format!("{point}:\n{}", server.log_text()))?;
        ensure!(flag.exists(), "nobody came by {point}");
        eventually(PATIENCE, || (server.front_counter("takeovers") >= 1).then_some(())).with_context(|| format!("{point}: no takeover"))?;
        let from = published_from(&server, "x");
        ensure!(from == Some("203.0.113.1:5000".parse()?), "{point}: {from:?}");
        // The front counts it for that client, and for it alone.
        let mut second = as_client(&server, "203.0.113.1:5001")?;
        ensure!(is_one_too_many(&server, &mut second)?, "{point}: the connection is counted for nobody");
        let mut other = as_client(&server, "203.0.113.2:5000")?;
        ensure!(is_answered(&mut other)?, "{point}: another client is refused");
    }
    Ok(())
}

#[test]
fn another_front_is_told_whose_connections_are() -> Result<()> {
    let mut server = Server::start(trusting(ServerOptions::workers(2).set("limits.connections_per_address=1")))?;
    let mut publisher = publisher(&server, "203.0.113.1:5000", "x")?;
    server.replace_front()?;
    let mut second = as_client(&server, "203.0.113.1:5001")?;
    ensure!(is_one_too_many(&server, &mut second)?, "the new front does not know whose the connection is");
    let mut other = as_client(&server, "203.0.113.2:5000")?;
    ensure!(is_answered(&mut other)?, "another client is refused");
    publisher.push(&Record { kind: RecordKind::Video, timestamp_ms: 0, payload: vec![0x12, 1] })?;
    ensure!(published_from(&server, "x") == Some("203.0.113.1:5000".parse()?), "{:?}", published_from(&server, "x"));
    Ok(())
}

/// What crashes any worker of the binary with faults that takes it as data of a publisher.
const CRASH: &[u8] = b"\x02\x00\x06onTest\x02\x00\x14braidcast-test-crash";

#[test]
fn poison_through_a_proxy_holds_its_sender_off_and_not_the_proxy() -> Result<()> {
    let options = ServerOptions { faults: true, ..trusting(ServerOptions::workers(3).set("limits.poison_hold=1h")) };
    let server = Server::start(options)?;
    let mut attacker = publisher(&server, "203.0.113.66:5000", "attack")?;
    attacker.push(&Record { kind: RecordKind::Data, timestamp_ms: 0, payload: CRASH.to_vec() })?;
    let closed = eventually(PATIENCE, || attacker.next(Duration::from_millis(100)).is_err().then_some(()));
    closed.with_context(|| format!("the attacker stays:\n{}", server.log_text()))?;
    eventually(PATIENCE, || (server.front_counter("poisoned") == 1).then_some(())).context("nobody was found poisonous")?;
    server.wait_log(&["two workers died of what this client sent", "its address held off", "peer=203.0.113.66"])?;
    let mut again = as_client(&server, "203.0.113.66:5001")?;
    ensure!(is_closed(&mut again)?, "its address is let in again");
    ensure!(server.front_counter("refused_poison") == 1, "that was not counted");
    // By the same proxy.
    let _other = publisher(&server, "203.0.113.67:5000", "healthy")?;

    // Of a proxy that does not say for whom it connects, all others who come by it would suffer.
    let options = ServerOptions { faults: true, ..ServerOptions::workers(3).set("limits.poison_hold=1h") };
    let server = Server::start(options.set("server.trusted_proxies=127.0.0.1"))?;
    let mut attacker = RtmpClient::publish(&server.rtmp("attack"))?;
    attacker.push(&Record { kind: RecordKind::Data, timestamp_ms: 0, payload: CRASH.to_vec() })?;
    server.wait_log(&["two workers died of what came through this proxy", "peer=127.0.0.1"])?;
    let _other = RtmpClient::publish(&server.rtmp("healthy"))?;
    Ok(())
}

#[test]
fn a_configuration_that_lets_nobody_in_is_refused() -> Result<()> {
    match Server::start(ServerOptions::workers(1).set("rtmp.proxy_protocol=on")) {
        Ok(_) => bail!("it starts"),
        Err(error) => ensure!(format!("{error:#}").contains("trusted_proxies alone, and that is empty"), "{error:#}"),
    }
    Ok(())
}
