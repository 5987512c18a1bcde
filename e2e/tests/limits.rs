//! Limits against hostile peers: each refuses, says so, counts, and costs nobody else anything.

use anyhow::{Context, Result, ensure};
use braidcast_e2e::hostile;
use braidcast_e2e::media;
use braidcast_e2e::rtmp::{RawMessage, RawRtmp, RtmpClient, status_code};
use braidcast_e2e::tools::{eventually, http_get};
use braidcast_e2e::{Record, Server, ServerOptions};
use braidcast_protocols::rtmp::{ClientOutput, ClientRole};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// A connection that has done the simple handshake.
fn shaken(address: SocketAddr) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut hello = vec![3];
    hello.extend([0; 1536]);
    stream.write_all(&hello)?;
    let mut answer = vec![0; 1 + 2 * 1536];
    stream.read_exact(&mut answer)?;
    stream.write_all(&answer[1..1537])?;
    Ok(stream)
}

/// Whether the server closes the connection; what it still says is read and thrown away.
fn is_closed(stream: &mut TcpStream) -> Result<bool> {
    hostile::is_closed(stream, Duration::from_secs(30))
}

/// The connection is closed by the server, and the log says whose it was.
fn is_closed_and_named(server: &Server, stream: &mut TcpStream, what: &str) -> Result<()> {
    let peer = format!("peer={}", stream.local_addr()?);
    ensure!(is_closed(stream)?, "{what}: it is endured");
    server.wait_log(&[&peer, "closed by us"]).with_context(|| what.to_owned())?;
    Ok(())
}

/// A chunk of format 0 on chunk stream `csid` that begins a message of `declared` bytes and holds `payload` of it.
fn chunk(csid: u16, message_type: u8, declared: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = match csid {
        2..=63 => vec![csid as u8],
        64..=319 => vec![0, (csid - 64) as u8],
        _ => vec![1, ((csid - 64) & 0xff) as u8, ((csid - 64) >> 8) as u8],
    };
    let [_, d0, d1, d2] = declared.to_be_bytes();
    bytes.extend([0, 0, 0, d0, d1, d2, message_type, 0, 0, 0, 0]);
    bytes.extend_from_slice(payload);
    bytes
}

/// Runs `attack` beside a healthy publisher with a viewer that must lose nothing: its packets are those that were published.
fn beside_a_healthy_stream(options: ServerOptions, attack: impl FnOnce(&Server) -> Result<()>) -> Result<()> {
    let server = Server::start(options.set("play.play_wait=60s").set("play.reconnect_grace=1s"))?;
    let file = media::Clip::Plain.file(10)?;
    let want = media::packets(&file.to_string_lossy(), PATIENCE)?;
    let url = server.http("live/healthy.flv");
    let viewer = std::thread::spawn(move || media::packets(&url, PATIENCE));
    server.wait_placed("healthy", 1).context("the viewer did not connect")?;
    let mut publisher = media::publish(&file, &server.rtmp("healthy"))?;
    server.wait_live("healthy")?;
    attack(&server)?;
    ensure!(publisher.wait(PATIENCE)?.success(), "the healthy publisher failed");
    let got = viewer.join().expect("no panic")?;
    ensure!(got == want, "the healthy viewer got {} of {} packets, or others", got.len(), want.len());
    for worker in 1..=2 {
        ensure!(server.worker(worker)?["restarts"] == 0, "worker {worker} died:\n{}", server.log_text());
    }
    Ok(())
}

#[test]
fn silence_costs_the_silent_one() -> Result<()> {
    let options = ServerOptions::workers(2).set("limits.handshake=1s").set("limits.first_packet=1s").set("limits.idle=2s");
    beside_a_healthy_stream(options, |server| {
        let mut mute = TcpStream::connect(server.address("rtmp"))?;
        let mut half = TcpStream::connect(server.address("http"))?;
        half.write_all(b"GET /live/x.flv HTTP/1.1\r\nHos")?;
        let mut shaken = shaken(server.address("rtmp"))?;
        is_closed_and_named(server, &mut mute, "a mute RTMP client")?;
        is_closed_and_named(server, &mut half, "a slow HTTP head")?;
        is_closed_and_named(server, &mut shaken, "a client without a command")?;
        server.wait_workers_counter("handshake_timeouts", 1)?;
        server.wait_workers_counter("first_packet_timeouts", 1)
    })
}

#[test]
fn rubbish_and_excess_cost_their_own_session() -> Result<()> {
    let options = ServerOptions::workers(2).set("limits.message_bytes=1MiB").set("limits.unfinished_message_bytes=2MiB");
    beside_a_healthy_stream(options, |server| {
        let rtmp = server.address("rtmp");
        let mut random = TcpStream::connect(rtmp)?;
        // Version 3, then what no handshake and no chunk stream looks like.
        let noise: Vec<u8> = std::iter::once(3).chain((0u32..200_000).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)).collect();
        let _ = random.write_all(&noise);
        is_closed_and_named(server, &mut random, "random bytes")?;

        let mut long = shaken(rtmp)?;
        long.write_all(&chunk(3, 20, 5 << 20, &[0; 128]))?;
        is_closed_and_named(server, &mut long, "a message beyond message_bytes")?;
        server.wait_workers_counter("refused_message_bytes", 1)?;

        let mut many = shaken(rtmp)?;
        let mut bytes = Vec::new();
        for csid in 3..300 {
            bytes.extend(chunk(csid, 9, 200, &[0; 128]));
        }
        let _ = many.write_all(&bytes);
        is_closed_and_named(server, &mut many, "chunk streams without end")?;
        server.wait_workers_counter("refused_chunk_streams", 1)?;

        let mut declared = RawRtmp::publish(rtmp, "declared")?;
        let mut bytes = Vec::new();
        for csid in 3..40 {
            bytes.extend(chunk(csid, 9, 1 << 20, &[0; 128]));
        }
        let _ = declared.write(&bytes);
        is_closed_and_named(server, &mut declared.stream, "memory that is declared and not sent")?;
        server.wait_workers_counter("refused_unfinished_bytes", 1)?;

        let mut deep = shaken(rtmp)?;
        let mut command = b"\x02\x00\x07connect\x00\x3f\xf0\x00\x00\x00\x00\x00\x00".to_vec();
        command.extend(b"\x03\x00\x01a".repeat(200));
        let mut bytes = Vec::new();
        for (at, piece) in command.chunks(128).enumerate() {
            bytes.extend(if at == 0 { chunk(3, 20, command.len() as u32, piece) } else { [&[0xc3], piece].concat() });
        }
        deep.write_all(&bytes)?;
        is_closed_and_named(server, &mut deep, "AMF without a floor")?;
        server.wait_workers_counter("refused_amf_depth", 1)
    })
}

#[test]
fn http_tricks_are_refused() -> Result<()> {
    beside_a_healthy_stream(ServerOptions::workers(2), |server| {
        let ask = |bytes: &[u8]| -> Result<String> {
            let mut stream = TcpStream::connect(server.address("http"))?;
            stream.set_read_timeout(Some(Duration::from_secs(20)))?;
            let _ = stream.write_all(bytes);
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer);
            Ok(String::from_utf8_lossy(&answer).into_owned())
        };
        let cases: [(&[u8], &str); 6] = [
            (b"GET /live/x.flv HTTP/1.1\r\nHost: x\r\nContent-Length: 18446744073709551615\r\n\r\n", " 4"),
            (b"POST /live/x.flv HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", " 4"),
            (b"GET /live/%2e%2e/%2e%2e/head.flv HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", " 400"),
            (b"GET /live/%c0%ae%c0%ae.flv HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", " 400"),
            (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", " 400"),
            (b"GET /live/x.flv HTTP/3.7\r\nHost: x\r\n\r\n", " 505"),
        ];
        for (bytes, want) in cases {
            let answer = ask(bytes)?;
            ensure!(answer.starts_with("HTTP/1.1") && answer[8..].starts_with(want), "{}: {answer}", String::from_utf8_lossy(bytes));
        }
        let flood =
            [b"GET / HTTP/1.1\r\nHost: x\r\n".to_vec(), b"X-Flood: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n".repeat(2_000), b"\r\n".to_vec()]
                .concat();
        ensure!(ask(&flood)?.contains(" 431"), "a flood of headers is endured");
        server.wait_workers_counter("refused_http_heads", 1)
    })
}

#[test]
fn connections_are_limited_in_all_and_per_address() -> Result<()> {
    let server = Server::start(ServerOptions::workers(2).set("limits.connections_per_address=10"))?;
    let mut streams: Vec<TcpStream> = (0..30).map(|_| TcpStream::connect(server.address("http"))).collect::<std::io::Result<_>>()?;
    let refused = || server.status().ok().and_then(|status| status["front"]["refused_per_address"].as_u64()).unwrap_or(0);
    eventually(PATIENCE, || (refused() >= 20).then_some(())).with_context(|| format!("only {} refused", refused()))?;
    ensure!(server.log_text().contains("127.0.0.1"), "the log does not name the address");
    streams.clear();
    // Room again when they are gone: the count is over all workers.
    eventually(PATIENCE, || http_get(&server.http("streams.json")).ok().filter(|answer| answer.status == 200)).context("no room again")?;

    let server = Server::start(ServerOptions::workers(2).set("limits.connections=5"))?;
    let _streams: Vec<TcpStream> = (0..20).map(|_| TcpStream::connect(server.address("http"))).collect::<std::io::Result<_>>()?;
    let refused = || server.status().ok().and_then(|status| status["front"]["refused_connections"].as_u64()).unwrap_or(0);
    eventually(PATIENCE, || (refused() >= 15).then_some(())).with_context(|| format!("only {} refused", refused()))?;
    Ok(())
}

#[test]
fn churn_and_half_open_connections_leave_a_healthy_stream_alone() -> Result<()> {
    beside_a_healthy_stream(ServerOptions::workers(2), |server| {
        let (rtmp, http) = (server.address("rtmp"), server.address("http"));
        let idle: Vec<TcpStream> = (0..500).map(|_| TcpStream::connect(rtmp)).collect::<std::io::Result<_>>()?;
        for _ in 0..1_000 {
            drop(TcpStream::connect(http)?);
        }
        drop(idle);
        Ok(())
    })
}

#[test]
fn names_and_heads_have_a_longest_length() -> Result<()> {
    let options = ServerOptions::workers(2).set("limits.name_bytes=20").set("limits.http_head_bytes=1024");
    beside_a_healthy_stream(options, |server| {
        let long = "n".repeat(21);
        for url in [
            server.rtmp(&long),
            format!("rtmp://{}/{long}/x", server.address("rtmp")),
            format!("{}?vhost={long}.example", server.rtmp("x")),
        ] {
            let mut client = RtmpClient::connect(&url, ClientRole::Publish)?;
            let said = client.wait(|output| matches!(output, ClientOutput::Started | ClientOutput::Refused { .. }))?;
            ensure!(matches!(&said, ClientOutput::Refused { code, .. } if code == "NetStream.Publish.BadName"), "{url}: {said:?}");
        }
        // Names that would lead out of the directory, or nowhere.
        for name in ["..", "a/../..", "%2e%2e", ""] {
            let mut raw = RawRtmp::connect(server.address("rtmp"))?;
            for call in RawRtmp::publish_calls(server.address("rtmp"), "live", name) {
                raw.send(&call)?;
            }
            let values = raw.wait_command(|values| status_code(values).is_some())?;
            let started = status_code(&values) == Some("NetStream.Publish.Start");
            // A percent sign is a character like any other: it is encoded once more.
            ensure!(started == (name == "%2e%2e"), "{name}: {values:?}");
        }
        ensure!(!server.shared_dir.join("streams/head").exists(), "a name led out of its directory");
        server.wait_workers_counter("refused_names", 6)?;
        server.wait_log(&["peer=127.0.0.1:", "longer than 20 bytes"])?;
        // The longest that is allowed is.
        RtmpClient::publish(&server.rtmp(&"n".repeat(20)))?;
        for path in [format!("live/{}.flv", "n".repeat(200)), format!("live/{}.m3u8", "n".repeat(200))] {
            let answer = http_get(&server.http(&path))?;
            ensure!(answer.status == 400, "{path}: {}", answer.head);
        }
        let answer = http_get(&server.http(&format!("live/x.m3u8?token={}", "t".repeat(2_000))))?;
        ensure!(answer.status == 431, "{}", answer.head);
        server.wait_workers_counter("refused_http_heads", 1)?;
        server.wait_log(&["peer=127.0.0.1:", "bad HTTP request"])?;
        Ok(())
    })
}

#[test]
fn a_publisher_that_falls_silent_and_a_connection_nobody_uses_are_closed() -> Result<()> {
    let server = Server::start(ServerOptions::workers(2).set("limits.idle=1s").set("limits.first_packet=1s"))?;
    // One frame, then silence, and no answer to pings.
    let mut silent = RawRtmp::publish(server.address("rtmp"), "x")?;
    let frame = Record { kind: braidcast_media::RecordKind::Video, timestamp_ms: 0, payload: vec![0x12, 1, 2, 3] };
    silent.send(&RawMessage::media(&frame))?;
    is_closed_and_named(&server, &mut silent.stream, "a silent publisher")?;
    server.wait_workers_counter("idle_timeouts", 1)?;
    // A publish without media, and an HTTP connection between requests.
    let mut empty = RawRtmp::publish(server.address("rtmp"), "y")?;
    is_closed_and_named(&server, &mut empty.stream, "a publisher without media")?;
    server.wait_workers_counter("first_packet_timeouts", 1)?;
    let mut kept = TcpStream::connect(server.address("http"))?;
    kept.write_all(b"GET /streams.json HTTP/1.1\r\nHost: x\r\n\r\n")?;
    is_closed_and_named(&server, &mut kept, "an idle HTTP connection")?;
    Ok(())
}
