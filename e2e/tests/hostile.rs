//! Hostile peers, by the thousand: each pays for itself, is counted, and takes nothing from a healthy stream beside it.
//!
//! `limits.rs` asks whether each limit refuses what it is there for; this asks what is left when many go to their limits at once.

use anyhow::{Context, Result, ensure};
use braidcast_e2e::hostile::{self, HEALTHY, Memory, PATIENCE, beside_a_healthy_stream, connect_from, exchange, is_closed};
use braidcast_e2e::rtmp::{RawMessage, RawRtmp, basic_header, status_code};
use braidcast_e2e::tools::{eventually, http_get};
use braidcast_e2e::{Record, Server, ServerOptions};
use braidcast_media::RecordKind;
use braidcast_protocols::rtmp::message_type;
use braidcast_sys::limits;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What a connection may cost in all our processes before it has said what it wants: session, row, checkpoint and journal
/// (docs/operations/hostile-peers.md).
const NEGOTIATING_BYTES: u64 = 16 << 10;
/// The same for one that has as many commands under way as it may: their bytes, in the worker and saved.
const COMMANDING_BYTES: u64 = 1 << 20;
/// The same for a publisher that has sent nearly all of `unfinished_message_bytes`: that much in the worker, and saved with a
/// journal as long.
const PUBLISHING_BYTES: u64 = 160 << 20;
/// What tables, buffers and allocators may keep beyond what single connections need.
const SLACK_BYTES: u64 = 64 << 20;
/// Connections at once in the test of half-open ones; the machine's descriptor limit may allow fewer.
const HALF_OPEN: u64 = 10_000;
/// Connections that come and go, and how many a second.
const CHURN: u64 = 6_000;
const CHURN_PER_SECOND: u64 = 2_000;

/// A whole RTMP handshake of a client that does not look at the answer.
fn handshake() -> Vec<u8> {
    [&[3][..], &[0; 2 * 1536]].concat()
}

fn calls(address: SocketAddr, app: &str, name: &str) -> Vec<u8> {
    RawRtmp::publish_calls(address, app, name).iter().flat_map(|call| call.bytes(128)).collect()
}

/// Sends what `words` gives a byte at a time to each connection, until the server has closed them all.
fn drip(streams: &mut Vec<TcpStream>, words: &[u8], pace: Duration) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let mut at = 0;
    while !streams.is_empty() {
        ensure!(Instant::now() < deadline, "{} that go byte by byte are endured", streams.len());
        let byte = words[at % words.len()];
        at += 1;
        streams.retain_mut(|stream| stream.write_all(&[byte]).is_ok());
        // The pace of the attackers, not a wait for something.
        std::thread::sleep(pace);
    }
    Ok(())
}

#[test]
fn who_goes_byte_by_byte_is_ended_in_time() -> Result<()> {
    let options = ServerOptions::workers(2).set("limits.handshake=1500ms").set("limits.first_packet=1500ms");
    beside_a_healthy_stream(options, 7, |server| {
        let (rtmp, http) = (server.address("rtmp"), server.address("http"));
        let many = |address| (0..40).map(|_| Ok(TcpStream::connect(address)?)).collect::<Result<Vec<_>>>();
        let mut in_handshake = many(rtmp)?;
        let mut in_head = many(http)?;
        let mut in_header = many(rtmp)?;
        in_header.iter_mut().try_for_each(|stream| stream.write_all(&handshake()))?;
        let pace = Duration::from_millis(25);
        std::thread::scope(|scope| {
            // A header of three bytes that says that an extended timestamp follows, and so on for ever.
            let header = scope.spawn(|| drip(&mut in_header, &[0x43, 0, 0, 1, 0, 0, 1, 8, 7], pace));
            let head = scope.spawn(|| drip(&mut in_head, b"GET /live/x.flv HTTP/1.1 ", pace));
            drip(&mut in_handshake, &[3], pace)?;
            header.join().expect("no panic").context("chunk headers")?;
            head.join().expect("no panic").context("HTTP heads")
        })?;
        // 40 handshakes and 40 heads; the others got through theirs and then said nothing that is a wish.
        server.wait_workers_counter("handshake_timeouts", 80)?;
        server.wait_workers_counter("first_packet_timeouts", 40)
    })
}

#[test]
fn thousands_of_half_open_connections_cost_what_is_said() -> Result<()> {
    let descriptors = limits::raise_rlimit_nofile(u64::MAX / 2).map_or(limits::rlimit_nofile().soft, |limit| limit.soft);
    // The front has one for each connection, and so has a worker; this process has as many.
    let wanted = HALF_OPEN.min(descriptors.saturating_sub(1_000));
    println!("{wanted} half-open connections ({descriptors} descriptors are allowed)");
    let options = ServerOptions::workers(2).set("limits.connections=20000").set("limits.handshake=60s");
    beside_a_healthy_stream(options, 10, |server| {
        let (rtmp, http) = (server.address("rtmp"), server.address("http"));
        let sessions = || server.status().ok().map_or(0, |status| status["front"]["connections"].as_u64().unwrap_or(0));
        let begun = |chunk_stream, sent: usize| {
            let mut chunk = declares(chunk_stream, message_type::COMMAND_AMF0, 65_000);
            chunk.resize(chunk.len() - 128 + sent, 0);
            chunk
        };
        let chunk_size = RawMessage::control(message_type::SET_CHUNK_SIZE, 60_000).bytes(128);
        let commands: Vec<u8> = (3..7).flat_map(|chunk_stream| begun(chunk_stream, 60_000)).collect();
        let most = wanted / 4;
        let states = [
            ("accepted", rtmp, most, Vec::new(), NEGOTIATING_BYTES),
            ("in the handshake", rtmp, most, vec![3; 1_000], NEGOTIATING_BYTES),
            ("in a command", rtmp, most, [handshake(), begun(3, 128)].concat(), NEGOTIATING_BYTES),
            ("in an HTTP head", http, most, [&b"GET /"[..], &[b'x'; 2_000]].concat(), NEGOTIATING_BYTES),
            ("in as many commands as may be under way", rtmp, 100, [handshake(), chunk_size, commands].concat(), COMMANDING_BYTES),
        ];
        let mut held = Vec::new();
        for (state, address, each, bytes, allowed) in states {
            let (before, connected, received) = (Memory::of(server)?, sessions(), server.workers_counter("bytes_in"));
            for index in 0..each {
                // From ten addresses, for each may have 4096.
                let mut stream = connect_from((index % 10) as u8 + 1, address)?;
                stream.write_all(&bytes)?;
                held.push(stream);
            }
            let all = || (sessions() >= connected + each).then_some(());
            eventually(PATIENCE, all).with_context(|| format!("{state}: {} connections", sessions()))?;
            // What was sent is read, and saved.
            server.wait_workers_counter("bytes_in", received + each * bytes.len() as u64)?;
            let more = Memory::of(server)?.since(before);
            println!("{state}: {} bytes for each of {each}", more / each);
            ensure!(more <= each * allowed + SLACK_BYTES / 4, "{state}: {more} bytes for {each} half-open connections");
        }
        // There is room for others all the same.
        ensure!(http_get(&server.http("streams.json"))?.status == 200, "the page's list is not served any more");
        drop(held);
        eventually(PATIENCE, || (sessions() < 100).then_some(())).with_context(|| format!("{} connections are still there", sessions()))
    })
}

#[test]
fn rubbish_on_every_listener_costs_its_own_connection() -> Result<()> {
    let mut random = hostile::chance("rubbish");
    let options = ServerOptions { sub_ports: true, ..ServerOptions::workers(2) };
    beside_a_healthy_stream(options.set("limits.handshake=2s").set("limits.first_packet=2s").set("limits.idle=3s"), 9, |server| {
        let rtmp = server.address("rtmp");
        let listeners = [rtmp, server.address("http"), server.address("api"), server.sub_port(1), server.sub_port(2)];
        let sane = [&handshake()[..], &calls(rtmp, "live", "r"), &RawMessage::media(&frame(0, 20_000)).bytes(128)].concat();
        let mut streams = Vec::new();
        for round in 0..60 {
            for address in listeners {
                let count = 1 + random.below(30_000);
                let mut bytes = match round % 5 {
                    0 => hostile::random_bytes(&mut random, count),
                    1 => [&[3][..], &hostile::random_bytes(&mut random, count)].concat(),
                    2 => [&handshake()[..], &hostile::random_bytes(&mut random, count)].concat(),
                    3 => [&b"GET /live/"[..], &hostile::random_bytes(&mut random, count)].concat(),
                    // A publisher that was cut off somewhere, with some bytes that are others.
                    _ => sane[..random.below(sane.len())].to_vec(),
                };
                if round % 5 == 4 {
                    for _ in 0..random.below(5) {
                        let at = random.below(bytes.len() + 1);
                        if let Some(byte) = bytes.get_mut(at) {
                            *byte = random.word() as u8;
                        }
                    }
                }
                let mut stream = TcpStream::connect(address)?;
                let _ = stream.write_all(&bytes);
                if random.below(2) == 0 {
                    let _ = stream.shutdown(Shutdown::Write);
                }
                streams.push(stream);
            }
        }
        for (index, stream) in streams.iter_mut().enumerate() {
            ensure!(is_closed(stream, Duration::from_secs(20))?, "rubbish {index} is endured");
        }
        // Random bytes are no handshake, no chunk, no request.
        server.wait_workers_counter("protocol_errors", 60)
    })
}

/// A record of video that no decoder wants, with a keyframe's first byte.
fn frame(index: u32, bytes: usize) -> Record {
    let payload = [&[0x12][..], &vec![index as u8; bytes]].concat();
    Record { kind: RecordKind::Video, timestamp_ms: index * 10, payload }
}

/// The first chunk, of 128 bytes, of a message that declares so many.
fn declares(chunk_stream: u16, message_type: u8, bytes: u32) -> Vec<u8> {
    let mut chunk = basic_header(0, chunk_stream);
    let [_, b0, b1, b2] = bytes.to_be_bytes();
    chunk.extend([0, 0, 0, b0, b1, b2, message_type, 1, 0, 0, 0]);
    chunk.extend([0; 128]);
    chunk
}

#[test]
fn what_is_declared_and_not_sent_takes_no_memory() -> Result<()> {
    const MOST: u32 = 0x00ff_ffff;
    let (attackers, strangers) = (100u64, 100u64);
    beside_a_healthy_stream(ServerOptions::workers(2), 8, |server| {
        let rtmp = server.address("rtmp");
        let before = Memory::of(server)?;
        let mut held = Vec::new();
        for index in 0..attackers {
            let mut raw = RawRtmp::publish(rtmp, &format!("d{index}"))?;
            // Two are within `unfinished_message_bytes`: they are waited for.
            raw.write(&[declares(20, 9, MOST), declares(21, 8, MOST)].concat())?;
            held.push(raw);
        }
        server.wait_workers_counter("publishers", attackers + 1)?;
        let more = Memory::of(server)?.since(before);
        println!("{} bytes for each that declares 32 MiB", more / attackers);
        // A publisher has its log's head and files, its segmenter, its journal; none of it depends on what it declares.
        ensure!(more <= attackers * (512 << 10) + SLACK_BYTES, "{more} bytes for {attackers} that declare what they do not send");
        // A third one is too much.
        for raw in &mut held {
            let _ = raw.write(&declares(22, 9, MOST));
        }
        for raw in &mut held {
            ensure!(is_closed(&mut raw.stream, PATIENCE)?, "64 MiB of unfinished messages are endured");
        }
        server.wait_workers_counter("refused_unfinished_bytes", attackers)?;
        // One that sends what it declares, but for the end, is the most that a publisher can cost.
        let before = Memory::of(server)?;
        let (received, senders) = (server.workers_counter("bytes_in"), 3);
        let mut held = Vec::new();
        for index in 0..senders {
            let mut raw = RawRtmp::publish(rtmp, &format!("u{index}"))?;
            raw.send(&RawMessage::control(message_type::SET_CHUNK_SIZE, 16_000_000))?;
            for chunk_stream in [20, 21] {
                let mut chunk = declares(chunk_stream, 9, MOST);
                // A whole chunk of it, so that the other message may begin.
                chunk.resize(chunk.len() - 128 + 16_000_000, 0);
                raw.write(&chunk)?;
            }
            held.push(raw);
        }
        server.wait_workers_counter("bytes_in", received + senders * 32_000_000)?;
        let more = Memory::of(server)?.since(before);
        println!("{} MiB for each that sends 32 MB of unfinished messages", (more / senders) >> 20);
        ensure!(more <= senders * PUBLISHING_BYTES + SLACK_BYTES, "{more} bytes for {senders} that do not finish what they send");
        drop(held);
        // Who has not been admitted as a publisher cannot even begin: nothing but commands is heard from him.
        for index in 0..strangers {
            let bytes =
                if index % 2 == 0 { handshake() } else { [handshake(), RawRtmp::publish_calls(rtmp, "live", "x")[0].bytes(128)].concat() };
            let mut stream = TcpStream::connect(rtmp)?;
            stream.write_all(&bytes)?;
            let _ = stream.write_all(&(3..60).flat_map(|csid| declares(csid, 20, MOST)).collect::<Vec<_>>());
            ensure!(is_closed(&mut stream, PATIENCE)?, "a stranger may declare as much as a publisher");
        }
        let refused = server.workers_counter("refused_message_bytes");
        ensure!(refused >= strangers / 2, "{refused} strangers were refused for the length of their messages");
        Ok(())
    })
}

#[test]
fn those_who_hold_most_of_unfinished_messages_are_closed_first() -> Result<()> {
    let options = ServerOptions::workers(2).set("limits.unfinished_in_all=24MiB");
    beside_a_healthy_stream(options, 6, |server| {
        // Each is within its own limit; those of one worker together are not within all's.
        let mut held = Vec::new();
        for index in 0..8 {
            let mut raw = RawRtmp::publish(server.address("rtmp"), &format!("u{index}"))?;
            raw.send(&RawMessage::control(message_type::SET_CHUNK_SIZE, 10_000_000))?;
            let mut chunk = declares(20, 9, 16_000_000);
            chunk.resize(chunk.len() - 128 + 9_000_000 + index * 100_000, 0);
            // It may be closed before it has sent all.
            let _ = raw.write(&chunk);
            held.push(raw);
        }
        // Four of some 9 MB at each worker: two stay at most.
        server.wait_workers_counter("refused_unfinished_bytes", 4)?;
        server.wait_log(&["closed by us", "it held most"]).map(drop)
    })
}

/// Heads that no request may have, and what they are answered with.
const NO_REQUESTS: [(&[u8], &str); 24] = [
    (b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 18446744073709551615\r\n\r\n", "4"),
    (b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 18446744073709551616\r\n\r\n", "4"),
    (b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n", "400"),
    (b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: +4\r\n\r\nGET ", "400"),
    (b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\nabcd", "400"),
    (b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nContent-Length: 40\r\n\r\nabcd", "400"),
    (b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 4, 4\r\n\r\nabcd", "400"),
    (b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 0x4\r\n\r\nabcd", "400"),
    (b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"),
    (b"GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"),
    (b"GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", "400"),
    (b"GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", "400"),
    (b"GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding:\tchunked\r\nTransfer-encoding: x\r\n\r\n0\r\n\r\n", "400"),
    (b"GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n", "400"),
    (b"GET / HTTP/1.1\r\nHost: h\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"),
    (b"GET / HTTP/1.1\r\nHost: h\r\nX: a\r\n b\r\n\r\n", "400"),
    (b"GET / HTTP/1.1\r\nHost: h\r\nX: a\0b\r\n\r\n", "400"),
    (b"GET / HTTP/1.1\r\nHost: h\r\nX: a\rb: c\r\n\r\n", "400"),
    (b"GET / HTTP/1.1\r\nHost: h\r\nHost: other\r\n\r\n", "400"),
    (b"GET / HTTP/1.1\r\n\r\n", "400"),
    (b"GET  / HTTP/1.1\r\nHost: h\r\n\r\n", "400"),
    (b"GET /\x7f HTTP/1.1\r\nHost: h\r\n\r\n", "400"),
    (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", "400"),
    (b"CONNECT h:1 HTTP/1.1\r\nHost: h\r\n\r\n", "405"),
];

/// The status of the one answer that came; an error if there are several.
fn only_status(answer: &[u8]) -> Result<String> {
    let text = String::from_utf8_lossy(answer).into_owned();
    ensure!(text.matches("HTTP/1.1 ").count() == 1, "not one answer but: {text}");
    Ok(text.split(' ').nth(1).unwrap_or_default().to_owned())
}

#[test]
fn requests_that_could_be_read_in_two_ways_are_read_in_none() -> Result<()> {
    beside_a_healthy_stream(ServerOptions::workers(2), 6, |server| {
        let http = server.address("http");
        for (head, want) in NO_REQUESTS {
            // What follows would be a request of its own if the first one ended where another reader thinks that it ends.
            let smuggled = [head, b"GET /streams.json HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"].concat();
            let status = only_status(&exchange(http, &smuggled)?).with_context(|| String::from_utf8_lossy(head).into_owned())?;
            ensure!(status.starts_with(want), "{}: {status}, not {want}", String::from_utf8_lossy(head));
        }
        server.wait_workers_counter("protocol_errors", NO_REQUESTS.len() as u64)?;
        // Line ends without a carriage return mean the same everywhere: one request, one answer.
        let bare = exchange(http, b"GET /streams.json HTTP/1.1\nHost: h\nConnection: close\n\n")?;
        ensure!(only_status(&bare)? == "200", "a bare line feed: {}", String::from_utf8_lossy(&bare));
        for flood in [b"X: y\r\n".repeat(5_000), [&b"X: "[..], &vec![b'y'; 200_000]].concat(), b"\r\n".repeat(5_000)] {
            let answer = exchange(http, &[&b"GET / HTTP/1.1\r\nHost: h\r\n"[..], &flood, b"\r\n\r\n"].concat())?;
            // The third flood is a request, with line ends behind it that are none.
            let status = String::from_utf8_lossy(&answer).split(' ').nth(1).unwrap_or_default().to_owned();
            ensure!(["431", "200"].contains(&status.as_str()), "a flood of fields: {status}");
        }
        server.wait_workers_counter("refused_http_heads", 2)
    })
}

/// Ways out of a directory, if anybody took them for one.
const WAYS_OUT: [&str; 16] = [
    "..",
    "../..",
    "../../secret",
    "..\\..\\secret",
    "%2e%2e",
    "%2e%2e/%2e%2e/secret",
    "..%2fsecret",
    "..%2f..%2fsecret",
    "..%5csecret",
    "%252e%252e%252fsecret",
    "..%c0%afsecret",
    "%c0%ae%c0%ae%c0%afsecret",
    "%e0%80%ae%e0%80%ae/secret",
    "x%00.flv",
    "....//secret",
    "./x/./secret",
];

#[test]
fn no_name_leads_out_of_the_streams_directory() -> Result<()> {
    beside_a_healthy_stream(ServerOptions::workers(2), 8, |server| {
        // What is to be had outside, under every name that is asked for.
        let secret = "this is none of a client's business";
        let streams = server.shared_dir.join("streams");
        for name in ["secret", "secret.flv", "secret.m3u8", "1.ts", "index.m3u8", "head"] {
            std::fs::write(server.shared_dir.join(name), secret)?;
            std::fs::write(streams.join(name), secret)?;
        }
        let outside = || -> Result<Vec<String>> {
            let below = streams.to_string_lossy().into_owned() + "/";
            // Three levels down a stream begins; what lies higher and is no directory was put there by this test.
            let is_outside = |path: &String| {
                path.strip_prefix(&below)
                    .is_none_or(|_| std::path::Path::new(path).is_file() && path.matches('/').count() == below.matches('/').count())
            };
            Ok(hostile::tree(&server.shared_dir)?.into_iter().filter(|path| is_outside(path) && !path.contains("/sessions/")).collect())
        };
        let before = outside()?;
        let refused = server.workers_counter("protocol_errors") + server.workers_counter("refused_names");
        let mut asked = 0;
        for way in WAYS_OUT {
            for path in [
                format!("/{way}"),
                format!("/{way}.flv"),
                format!("/{way}/x.flv"),
                format!("/live/{way}.flv"),
                format!("/live/{way}.m3u8"),
                format!("/live/{way}/1.ts"),
                format!("/live/{HEALTHY}/{way}.m3u8"),
                format!("/live/{HEALTHY}/{way}/1.ts"),
                format!("/live/{HEALTHY}/{way}"),
                format!("/assets/{way}"),
                format!("/api/{way}"),
                format!("/live/none.flv?vhost={way}"),
            ] {
                // Nobody waits for a stream that is not there: a HEAD of it would be answered 200 without a look.
                let method = if path.contains(".flv") || path.contains(".m3u8") { "OPTIONS" } else { "GET" };
                for method in [method, "GET"] {
                    let waits = method == "GET" && (path.ends_with(".flv") || path.ends_with(".m3u8") || path.contains("?vhost"));
                    let mut stream = TcpStream::connect(server.address("http"))?;
                    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
                    write!(stream, "{method} {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")?;
                    if waits {
                        stream.shutdown(Shutdown::Write)?;
                    }
                    let mut answer = Vec::new();
                    let _ = stream.read_to_end(&mut answer);
                    let text = String::from_utf8_lossy(&answer);
                    ensure!(!text.contains(secret), "{method} {path} gave away what lies outside");
                    let status = text.split(' ').nth(1).unwrap_or_default();
                    let good = if method == "OPTIONS" { &["204", "400"][..] } else { &["400", "404"] };
                    ensure!(good.contains(&status), "{method} {path}: {text}");
                    asked += 1;
                }
            }
        }
        println!("{asked} requests");
        server.wait_workers_counter("protocol_errors", 50)?;
        let now = server.workers_counter("protocol_errors") + server.workers_counter("refused_names");
        ensure!(now > refused + 100, "only {} of {asked} requests were refused and counted", now - refused);
        publish_ways_out(server)?;
        ensure!(outside()? == before, "something was made or deleted outside of the streams' directories");
        Ok(())
    })
}

/// The same ways as app, stream and vhost of publishers: refused, or a name like any other, encoded into one directory of its own.
fn publish_ways_out(server: &Server) -> Result<()> {
    let rtmp = server.address("rtmp");
    let base = server.shared_dir.join("streams");
    let mut started = 0;
    for way in WAYS_OUT {
        for (app, name) in [("live", way.to_owned()), (way, "x".to_owned()), ("live", format!("x?vhost={way}"))] {
            let mut raw = RawRtmp::connect(rtmp)?;
            for call in RawRtmp::publish_calls(rtmp, app, &name) {
                raw.send(&call)?;
            }
            let values = raw.wait_command(|values| status_code(values).is_some()).with_context(|| format!("{app} {name}"))?;
            if status_code(&values) == Some("NetStream.Publish.Start") {
                started += 1;
                ensure!(!app.contains("..") || app.contains('%'), "{app} was taken for an app");
            }
        }
    }
    println!("{started} of them are names");
    for path in hostile::tree(&base)? {
        let inner = path.strip_prefix(&*base.to_string_lossy()).unwrap_or(&path);
        ensure!(inner.split('/').all(|level| level != ".." && level != "." && !level.contains('\\')), "{path}");
    }
    server.wait_workers_counter("refused_names", 20)
}

/// A publisher of H.264 that sends as fast as the server takes it. Gives how many bytes it sent.
fn flood(address: SocketAddr, name: &str, until: Instant) -> Result<u64> {
    let mut raw = RawRtmp::publish(address, name)?;
    raw.send(&RawMessage::control(message_type::SET_CHUNK_SIZE, 1 << 20))?;
    let header = b"\x17\0\0\0\0\x01\x64\0\x1f\xff\xe1\0\x01\x67\x01\0\x01\x68";
    let mut sent = 0;
    for index in 0u32.. {
        if Instant::now() >= until {
            break;
        }
        let mut bytes = Vec::new();
        if index == 0 {
            let record = Record { kind: RecordKind::Video, timestamp_ms: 0, payload: header.to_vec() };
            bytes.extend(RawMessage::media(&record).bytes(1 << 20));
        }
        let units = 500_000u32;
        let payload = [&b"\x17\x01\0\0\0"[..], &units.to_be_bytes(), &vec![0x65; units as usize]].concat();
        let record = Record { kind: RecordKind::Video, timestamp_ms: index * 40, payload };
        bytes.extend(RawMessage::media(&record).bytes(1 << 20));
        sent += bytes.len() as u64;
        // It may be ended for what it does.
        if raw.write(&bytes).is_err() {
            break;
        }
    }
    Ok(sent)
}

#[test]
fn publishers_that_send_as_fast_as_they_can_take_nothing_from_others() -> Result<()> {
    const BUDGET: u64 = 256 << 20;
    let options = ServerOptions::workers(2)
        .set("log.budget=256MiB")
        .set("hls.fragment=1s")
        .set("hls.window=4s")
        .set("limits.first_packet=2s")
        .set("limits.idle=3s");
    beside_a_healthy_stream(options, 16, |server| {
        let rtmp = server.address("rtmp");
        let hls = server.stream_dir(HEALTHY).join("hls");
        let segments = || -> Result<Vec<String>> {
            let names = std::fs::read_dir(&hls)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
            Ok(names.filter(|name| name.ends_with(".ts") && !name.starts_with('.')).collect())
        };
        eventually(PATIENCE, || segments().ok().filter(|names| names.len() >= 3)).context("the healthy stream has no segments")?;
        let (kept, blocks) = (segments()?, server.stream(HEALTHY)?.context("the healthy stream is gone")?["blocks"].clone());
        let before = Memory::of(server)?;
        let silent = RawRtmp::publish(rtmp, "silent")?;
        let mut dripping = RawRtmp::publish(rtmp, "dripping")?;
        let until = Instant::now() + Duration::from_secs(6);
        let most = AtomicU64::new(0);
        let sent = std::thread::scope(|scope| -> Result<u64> {
            let floods: Vec<_> = (0..2).map(|index| scope.spawn(move || flood(rtmp, &format!("flood{index}"), until))).collect();
            while Instant::now() < until {
                let _ = dripping.write(&[3]);
                most.fetch_max(server.front_counter("directory_bytes"), Ordering::Relaxed);
                // One byte now and then.
                std::thread::sleep(Duration::from_millis(200));
            }
            floods.into_iter().map(|flood| flood.join().expect("no panic")).sum()
        })?;
        let more = Memory::of(server)?.since(before);
        println!(
            "{} MiB sent, the directory held {} MiB at most, memory rose by {} MiB",
            sent >> 20,
            most.load(Ordering::Relaxed) >> 20,
            more >> 20
        );
        ensure!(sent > BUDGET, "only {sent} bytes were sent: that is no flood");
        ensure!(most.load(Ordering::Relaxed) <= BUDGET, "the directory held more than its budget");
        // Each flooder may have a message under way, with its checkpoint and journal, and a batch.
        ensure!(more <= 2 * (96 << 20) + SLACK_BYTES, "memory rose by {more} bytes");
        // Nothing of the healthy stream had to go for them: everything that was there still is.
        let now = segments()?;
        let gone: Vec<_> = kept.iter().filter(|name| !now.contains(name)).collect();
        ensure!(gone.is_empty(), "{gone:?} went for the flood; the log had {blocks} blocks\n{}", server.log_text());
        ensure!(server.workers_counter("records_dropped") == 0, "records were dropped for want of room");
        // Those that send nothing, or no message, are ended.
        for mut raw in [silent, dripping] {
            ensure!(is_closed(&mut raw.stream, PATIENCE)?, "a publisher that sends no media is endured");
        }
        server.wait_workers_counter("first_packet_timeouts", 2)
    })
}

#[test]
fn viewers_that_never_read_are_given_up() -> Result<()> {
    let viewers = 200u64;
    let options = ServerOptions::workers(2).set("limits.idle=2s").set("play.max_lag=2s").set("play.max_lag_bytes=1MiB");
    beside_a_healthy_stream(options, 14, |server| {
        let (http, rtmp) = (server.address("http"), server.address("rtmp"));
        // A stream that fills sockets soon.
        let until = Instant::now() + Duration::from_secs(9);
        let feeder = std::thread::spawn(move || -> Result<()> {
            let mut raw = RawRtmp::publish(rtmp, "heavy")?;
            raw.send(&RawMessage::control(message_type::SET_CHUNK_SIZE, 1 << 20))?;
            for index in 0u32.. {
                if Instant::now() >= until {
                    break;
                }
                raw.write(&RawMessage::media(&frame(index, 100_000)).bytes(1 << 20))?;
                std::thread::sleep(Duration::from_millis(10));
            }
            Ok(())
        });
        server.wait_live("heavy")?;
        let before = Memory::of(server)?;
        let mut mute = Vec::new();
        for index in 0..viewers {
            let mut stream = TcpStream::connect(if index % 2 == 0 { http } else { rtmp })?;
            if index % 2 == 0 {
                stream.write_all(b"GET /live/heavy.flv HTTP/1.1\r\nHost: h\r\n\r\n")?;
            } else {
                let play = RawMessage::amf0(
                    message_type::COMMAND_AMF0,
                    1,
                    &["play".into(), 0.0.into(), braidcast_protocols::rtmp::amf0::Value::Null, "heavy".into()],
                );
                let calls: Vec<u8> = RawRtmp::publish_calls(rtmp, "live", "")[..2].iter().flat_map(|call| call.bytes(128)).collect();
                stream.write_all(&[handshake(), calls, play.bytes(128)].concat())?;
            }
            mute.push(stream);
        }
        server.wait_placed("heavy", viewers as usize)?;
        server.wait_workers_counter("viewer_jumps", viewers)?;
        let more = Memory::of(server)?.since(before);
        println!("{} bytes for each viewer that does not read", more / viewers);
        ensure!(more <= viewers * NEGOTIATING_BYTES + SLACK_BYTES, "{more} bytes for {viewers} viewers that do not read");
        // The kernel gives them up after `idle`, and that is counted.
        server.wait_workers_counter("idle_timeouts", viewers)?;
        feeder.join().expect("no panic")
    })
}

#[test]
fn who_asks_and_never_reads_the_answers_is_ended() -> Result<()> {
    beside_a_healthy_stream(ServerOptions::workers(2), 6, |server| {
        let rtmp = server.address("rtmp");
        let mut stream = TcpStream::connect(rtmp)?;
        stream.set_write_timeout(Some(Duration::from_secs(20)))?;
        stream.write_all(&[handshake(), RawRtmp::publish_calls(rtmp, "live", "x")[0].bytes(128)].concat())?;
        let ask = RawMessage::amf0(message_type::COMMAND_AMF0, 0, &["createStream".into(), 2.0.into()]).bytes(128).repeat(1_000);
        // Its requests are not read any more while it does not read; or it is closed for it.
        let mut sent = 0u64;
        while sent < 200 << 20 {
            match stream.write(&ask) {
                Ok(written) => sent += written as u64,
                Err(_) => break,
            }
        }
        ensure!(sent < 200 << 20, "answers without end are kept for it");
        drop(stream);
        println!("{sent} bytes of questions");
        server.wait_workers_counter("refused_unread_answers", 1)
    })
}

#[test]
fn connections_that_come_and_go_leave_nothing() -> Result<()> {
    let mut random = hostile::chance("churn");
    let words: Vec<Vec<u8>> =
        (0..64).map(|index| [&[if index % 2 == 0 { 3 } else { b'G' }][..], &hostile::random_bytes(&mut random, 200)].concat()).collect();
    beside_a_healthy_stream(ServerOptions::workers(2).set("limits.connections_per_address=20000"), 9, |server| {
        let (rtmp, http) = (server.address("rtmp"), server.address("http"));
        let accepted = server.front_counter("accepted");
        let before = Memory::of(server)?;
        let started = Instant::now();
        for index in 0..CHURN {
            let mut stream = TcpStream::connect(if index % 2 == 0 { rtmp } else { http })?;
            if index % 3 > 0 {
                let _ = stream.write_all(&words[index as usize % words.len()]);
            }
            drop(stream);
            let due = started + Duration::from_micros(1_000_000 / CHURN_PER_SECOND * index);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        println!("{CHURN} connections, {:.0} a second", CHURN as f64 / started.elapsed().as_secs_f64());
        let taken = || server.front_counter("accepted") - accepted;
        eventually(PATIENCE, || (taken() >= CHURN).then_some(())).with_context(|| format!("{} of {CHURN} were accepted", taken()))?;
        let left = || server.front_counter("connections");
        eventually(PATIENCE, || (left() < 20).then_some(())).with_context(|| format!("{} connections are left", left()))?;
        let more = Memory::of(server)?.since(before);
        ensure!(more <= SLACK_BYTES, "{more} bytes are left of {CHURN} connections that are gone");
        server.wait_workers_counter("protocol_errors", CHURN / 10)
    })
}
