//! Writes the inputs that fuzzing starts from into `fuzz/corpus/`: what ffmpeg says to a server, what is made of its media, requests
//! of browsers, and the words of each protocol. `cargo run -p braidcast-fuzz-targets --example seeds`; needs ffmpeg.

use anyhow::{Context, Result, ensure};
use braidcast_media::{RecordKind, flv};
use braidcast_protocols::hls::{Segmenter, SegmenterOptions, SegmenterOutput, SegmenterState};
use braidcast_protocols::rtmp::{ClientRole, ClientSession, ClientSettings, ServerSession, Settings, egress};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// C0, C1 and C2 (RTMP §5.2).
const HANDSHAKE_BYTES: usize = 1 + 2 * 1536;

fn main() -> Result<()> {
    let clip = clip()?;
    rtmp(&clip)?;
    media(&clip)?;
    texts()?;
    program()
}

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus")
}

fn seed(target: &str, name: &str, bytes: &[u8]) -> Result<()> {
    let longest = braidcast_fuzz_targets::target(target).longest;
    let directory = corpus().join(target);
    fs::create_dir_all(&directory)?;
    fs::write(directory.join(name), &bytes[..bytes.len().min(longest)])?;
    Ok(())
}

/// Half a second of a tiny picture and a tone, as FLV.
fn clip() -> Result<Vec<u8>> {
    let words = "-v error -f lavfi -i testsrc2=size=32x32:rate=10 -f lavfi -i sine=frequency=440:sample_rate=22050 -t 0.6 \
                 -c:v libx264 -preset ultrafast -g 3 -threads 1 -pix_fmt yuv420p -c:a aac -b:a 16k -f flv -";
    let output = Command::new("ffmpeg").args(words.split_whitespace()).output().context("running ffmpeg")?;
    ensure!(output.status.success(), "ffmpeg: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}

/// What ffmpeg sends while it publishes the clip, or plays what it is sent.
fn capture(clip: &[u8], role: ClientRole) -> Result<Vec<u8>> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("rtmp://{}/live/x?token=1", listener.local_addr()?);
    let mut words = vec!["-v", "error", "-i"];
    match role {
        ClientRole::Publish => words.extend(["-", "-c", "copy", "-f", "flv", &url]),
        ClientRole::Play => words.extend([url.as_str(), "-t", "0.3", "-c", "copy", "-f", "null", "-"]),
    }
    let mut ffmpeg = Command::new("ffmpeg").args(words).stdin(Stdio::piped()).spawn()?;
    if let (ClientRole::Publish, Some(mut input)) = (role, ffmpeg.stdin.take()) {
        input.write_all(clip)?;
    }
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut session = ServerSession::new(Settings::default(), 5, 0);
    let (mut captured, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
    while let Ok(read) = stream.read(&mut buffer) {
        if read == 0 {
            break;
        }
        captured.extend_from_slice(&buffer[..read]);
        let mut rest = &buffer[..read];
        while !rest.is_empty() {
            let used = session.handle_input(rest, 0)?;
            rest = &rest[used..];
            session.accept_publish(0);
            let plays = session.stage() == braidcast_protocols::rtmp::Stage::DecidingPlay;
            session.accept_play(0);
            let mut answer = session.take_outbox();
            if plays {
                let records = flv::records(&clip[flv::FILE_HEADER.len()..]);
                records
                    .for_each(|record| egress::write_message(&mut answer, record.header.kind, record.header.timestamp_ms, record.payload));
            }
            stream.write_all(&answer)?;
        }
    }
    drop(stream);
    let _ = ffmpeg.kill();
    let _ = ffmpeg.wait();
    Ok(captured)
}

/// The bytes of a conversation of our own client, from its end of it and from the server's.
fn conversation(role: ClientRole, clip: &[u8]) -> Result<(Vec<u8>, Vec<u8>)> {
    let settings = ClientSettings {
        tc_url: "rtmp://h/live".into(),
        app: "live".into(),
        stream: "x".into(),
        role,
        signed: true,
        chunks: Default::default(),
    };
    let mut client = ClientSession::new(settings, 7);
    let mut server = ServerSession::new(Settings::default(), 5, 0);
    let (mut from_client, mut from_server) = (Vec::new(), Vec::new());
    for turn in 0..12 {
        let asked = client.take_outbox();
        from_client.extend_from_slice(&asked);
        let mut rest = asked.as_slice();
        while !rest.is_empty() {
            let used = server.handle_input(rest, 0)?;
            rest = &rest[used..];
            server.accept_publish(0);
            server.accept_play(0);
        }
        let mut answered = server.take_outbox();
        if turn == 8 && role == ClientRole::Play {
            for record in flv::records(&clip[flv::FILE_HEADER.len()..]) {
                egress::write_message(&mut answered, record.header.kind, record.header.timestamp_ms, record.payload);
            }
            server.end_play(0);
            answered.extend(server.take_outbox());
        }
        from_server.extend_from_slice(&answered);
        client.handle_input(&answered)?;
        if turn == 9 {
            client.push_media(RecordKind::Audio, 0, &[0xaf, 1, 2, 3]);
            client.end();
        }
    }
    Ok((from_client, from_server))
}

fn rtmp(clip: &[u8]) -> Result<()> {
    for (name, role) in [("ffmpeg-publish", ClientRole::Publish), ("ffmpeg-play", ClientRole::Play)] {
        let captured = capture(clip, role)?;
        ensure!(captured.len() > HANDSHAKE_BYTES, "ffmpeg said nothing");
        let (_, rest) = captured.split_at(HANDSHAKE_BYTES);
        seed("rtmp_server", name, &captured)?;
        seed("rtmp_session", name, &[&[0, 0], rest].concat())?;
        seed("rtmp_relay", name, &[&[0], &captured[..]].concat())?;
        seed("rtmp_chunks", name, rest)?;
        // What comes after `connect`, given to sessions that are further already.
        let half = &rest[rest.len() / 2..];
        for place in 1..4 {
            seed("rtmp_session", &format!("{name}-{place}"), &[&[place, 2], half].concat())?;
        }
    }
    for (index, role) in [(0, ClientRole::Publish), (1, ClientRole::Play)] {
        let (asked, answered) = conversation(role, clip)?;
        seed("rtmp_server", &format!("own-{role:?}"), &asked)?;
        seed("rtmp_session", &format!("own-{role:?}"), &[&[0, 0], &asked[HANDSHAKE_BYTES.min(asked.len())..]].concat())?;
        seed("rtmp_client", &format!("own-{role:?}"), &[&[index], &answered[..]].concat())?;
        seed("rtmp_client", &format!("own-{role:?}-midst"), &[&[index | 2], &answered[HANDSHAKE_BYTES..]].concat())?;
        seed("rtmp_relay", &format!("own-{role:?}"), &[&[1 | index << 1], &answered[HANDSHAKE_BYTES..]].concat())?;
        seed("rtmp_chunks", &format!("own-{role:?}"), &answered[HANDSHAKE_BYTES..])?;
    }
    let amf: [(&str, &[u8]); 6] = [
        ("metadata", b"\x20\x02\0\x0aonMetaData\x08\0\0\0\x02\0\x05width\0\x40\x94\0\0\0\0\0\0\0\x05audio\x01\x01\0\0\x09"),
        ("nested", b"\x05\x03\0\x01a\x03\0\x01b\x0a\0\0\0\x02\x05\x06\0\0\x09\0\0\x09"),
        ("date", b"\x20\x0b\x42\x70\0\0\0\0\0\0\0\0\x10\0\x01c\0\x01k\x0c\0\0\0\x02hi\0\0\x09"),
        ("count", b"\x20\x0a\xff\xff\xff\xff\x05"),
        ("long", b"\x20\x0f\0\0\0\x03xml\x07\0\x01\x0d\x11"),
        ("open", b"\x20\x08\0\0\0\x09\0\x01a\0\0\0\0\0\0\0\0\0"),
    ];
    amf.iter().try_for_each(|(name, bytes)| seed("amf0", name, bytes))
}

/// Steps for the segmenter, as its target reads them.
fn step(out: &mut Vec<u8>, what: u8, timestamp_ms: u32, payload: &[u8]) {
    out.push(what);
    out.extend(timestamp_ms.to_be_bytes());
    out.extend((payload.len() as u16).to_be_bytes());
    out.extend_from_slice(payload);
}

fn media(clip: &[u8]) -> Result<()> {
    let body = &clip[flv::FILE_HEADER.len()..];
    seed("flv_records", "ffmpeg", body)?;
    let (mut steps, mut long) = (Vec::new(), Vec::new());
    let mut segmenter = Segmenter::new(SegmenterOptions::new(100), SegmenterState::new("v/a/s", 1));
    let mut segments = Vec::new();
    for (index, record) in flv::records(body).enumerate() {
        let what = match record.header.kind {
            RecordKind::Video => 0,
            RecordKind::Audio => 1,
            RecordKind::Data => 2,
        };
        step(&mut steps, what, record.header.timestamp_ms, record.payload);
        // As if each frame lasted ten times as long: several segments.
        step(&mut long, what, record.header.timestamp_ms * 12, record.payload);
        if index < 12 {
            seed("media_tags", &format!("ffmpeg-{index}"), &[&[what], record.payload].concat())?;
        }
        segmenter.handle_record(record.header.kind, record.header.timestamp_ms, record.payload, 1_790_000_000_000);
        segments.extend(std::iter::from_fn(|| segmenter.poll_output()));
    }
    segmenter.finish();
    segments.extend(std::iter::from_fn(|| segmenter.poll_output()));
    step(&mut long, 254, 0, &[]);
    long.extend_from_slice(&steps[..steps.len() / 2]);
    step(&mut long, 255, 0, &[]);
    seed("segmenter", "ffmpeg", &steps)?;
    seed("segmenter", "ffmpeg-long", &long)?;
    made_up_tags()?;
    transport_streams(body)?;
    let mut file = Vec::new();
    for output in segments {
        match output {
            SegmenterOutput::Started { .. } => file.clear(),
            SegmenterOutput::Bytes(bytes) => file.extend(bytes),
            SegmenterOutput::Finished(info) => seed("segment_files", &format!("{}.ts", info.number), &file)?,
            SegmenterOutput::Unsupported(_) => {}
        }
    }
    Ok(())
}

fn made_up_tags() -> Result<()> {
    let tags: [(&str, &[u8]); 10] = [
        ("hevc-start", b"\0\x90hvc1\x01\x01\x60\0\0"),
        ("hevc-frame", b"\0\x91hvc1\0\0\0\0\0\0\x02\x26\x01"),
        ("av1", b"\0\x90av01\x81\0\x0c\0"),
        ("vp9-multitrack", b"\0\x96\x01vp09\x01\0\0\x04abcd"),
        ("opus", b"\x01\x90OpusOpusHead\x01\x02"),
        ("opus-frame", b"\x01\x91Opus\xfc\xff\xfe"),
        ("old-hevc", b"\0\x1c\0\0\0\0\x01"),
        ("mp3", b"\x01\x2f\xff\xfb\x90\0"),
        ("command", b"\0\x57\0"),
        ("modex", b"\0\x97\x02\0\0\x05\x10av01"),
    ];
    let mut steps = Vec::new();
    for (index, (name, bytes)) in tags.iter().enumerate() {
        seed("media_tags", name, bytes)?;
        step(&mut steps, bytes[0], 5_000 * index as u32, &bytes[1..]);
    }
    seed("segmenter", "tags", &steps)
}

fn transport_streams(body: &[u8]) -> Result<()> {
    let mut config = Vec::new();
    for (index, record) in flv::records(body).take(8).enumerate() {
        let [first, packet_type, ..] = record.payload else { continue };
        let skipped = if record.header.kind == RecordKind::Video { 5 } else { 2 };
        if *packet_type == 0 {
            config = record.payload[skipped..].to_vec();
            continue;
        }
        let flags = if first >> 4 == 1 { 12 } else { 5 };
        let input = [&[config.len() as u8, flags, 0xff, 0xf0, 1], &config[..], &record.payload[skipped..]].concat();
        seed("mpegts", &format!("ffmpeg-{index}"), &input)?;
    }
    seed("mpegts", "aac", &[2, 4, 0, 0, 0, 0x12, 0x10, 1, 2, 3, 4])
}

fn texts() -> Result<()> {
    let urls = [
        "rtmp://media.example.com:1935/live\nlive\nx?token=1",
        "rtmp://h/live?vhost=a.b\nlive?vhost=a.b\nx?vhost=c.d",
        "rtmp://h/live...vhost...a.b\nlive...vhost...a.b\nx",
        "rtmp://[::1]:1935/a/b/_definst_\na/b/_definst_\nc/x",
        "rtmp://h/live\n../../etc\n..%2f..\\x",
    ];
    for (index, url) in urls.iter().enumerate() {
        seed("rtmp_url", &index.to_string(), url.as_bytes())?;
    }
    let requests = [
        "GET /live/x.m3u8?a=1&start=-90s HTTP/1.1\r\nHost: a.example:8080\r\nUser-Agent: Mozilla/5.0 (X11)\r\nRange: bytes=0-\r\n\r\n",
        "GET /live/x.flv?vhost=b.example HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\nGET /a/b/3.ts HTTP/1.1\r\nHost: h\r\n\r\n",
        "\r\nPOST / HTTP/1.1\r\nHost: h\r\nContent-Length: 16\r\n\r\n0123456789abcdefHEAD /2 HTTP/1.0\nConnection: Keep-Alive\n\n",
        "GET http://a.b/live/%2e%2e/x.ts HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: h\r\nContent-Length: 18446744073709551616\r\nExpect: 100-continue\r\n\r\n",
        "GET /assets/a.js HTTP/1.1\r\nHost: h\r\n folded: x\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\nGET",
        "GET /api/v1/versions HTTP/1.1\r\nHost : h\r\nIf-Range: \"x\"\r\n\r\n",
        "GET /live/x.ts?only=audio HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 192.0.2.1, [::1]:80\r\n\r\nGET /live/x.aac?tracks=all HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET /live/x.flv HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        "GET /a/b/live001.m3u8 HTTP/1.1\r\nHost: [::1]\r\n\r\nGET /a/%E4%BD%A0/1.ts?q=%zz HTTP/1.1\r\nHost: h\r\n\r\n",
    ];
    for (index, request) in requests.iter().enumerate() {
        seed("http_request", &index.to_string(), request.as_bytes())?;
    }
    let answers = [
        "HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 12\r\nContent-Type: application/json\r\nServer: x\r\n\r\n{\"code\":100}",
        "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0A\r\n0123456789\r\n0\r\n\r\n",
        "HTTP/1.0 302 Found\r\nLocation: /api/v1/\r\n\r\nuntil the end",
        "HTTP/1.1 204 No Content\r\nContent-Length: 18446744073709551616\r\n\r\n",
    ];
    for (index, answer) in answers.iter().enumerate() {
        seed("http_answer", &index.to_string(), answer.as_bytes())?;
    }
    let values = [
        "bytes=0-499\nbytes=-500\nbytes=9500-\nbytes=0-18446744073709551616",
        "2026-01-31T12:00:00.5Z\n20260131T120000+02:00\n-90s\n-1.5h\nnow\n1769860800.25",
        "start=-90s&end=2026-01-31T12:00:00+02:00&vhost=a%2eb&&x\n%E4%BD%A0%c0%ae",
    ];
    for (index, value) in values.iter().enumerate() {
        seed("http_values", &index.to_string(), value.as_bytes())?;
    }
    let prefixes: [&[u8]; 6] = [
        b"PROXY TCP4 192.0.2.1 192.0.2.2 40000 1935\r\n\x03",
        b"PROXY TCP6 2001:db8::1 ::1 40000 1935\r\nGET",
        b"PROXY UNKNOWN anything at all\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0f\xc0\0\x02\x01\xc0\0\x02\x02\x9c\x40\x07\x8f\x03\0\0\x03",
        b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
        b"\xf3\0\x04\xc0\0\x02\x01\x03",
    ];
    for (index, prefix) in prefixes.iter().enumerate() {
        seed("prefixes", &index.to_string(), prefix)?;
    }
    let frames: [&[u8]; 3] = [
        b"\x89\x85\x01\x02\x03\x04hello\x82\x81\x01\x02\x03\x04x\x88\x82\0\0\0\0\x03\xe8",
        b"\x82\xfe\0\x7e\0\0\0\0",
        b"\x81\xff\0\0\0\0\0\x01\0\0\0\0\0\0",
    ];
    for (index, frame) in frames.iter().enumerate() {
        seed("websocket", &index.to_string(), frame)?;
    }
    let mut index = vec![0; 4 * 58];
    index.iter_mut().enumerate().for_each(|(at, byte)| *byte = if at % 8 == 7 { (at / 58) as u8 + 1 } else { 0 });
    let text = b"str\xc3\xa9am/x\n#EXTM3U\n1.ts\n18446744073709551615.ts\n\na=1&start=2&token=\"<>";
    index.extend_from_slice(&text.repeat(4)[..4 * 58]);
    seed("playlist", "four", &index)
}

fn program() -> Result<()> {
    let config = "[server]\nworkers = 4\nshared_dir = \"/dev/shm/x\"\n[rtmp]\nlisten = [1935, \"127.0.0.1:1936\"]\n[limits]\nidle = \"60s\"\n\
                  message_bytes = \"16MiB\"\n[[worker]]\nid = 1\nmax_publishers = 3\n[placement]\npublish = \"even\"\n";
    seed("config", "some", config.as_bytes())?;
    seed("config", "wrong", b"[limts]\nidle = 1\n[worker]\nid=0x10\n[server]\nworkers=-1\nvhosts=[\"a\",\n[hls]\nfragment = 1e9\n")?;
    seed("config", "deep", &[&b"a="[..], &b"[{b=".repeat(60)].concat())?;
    let srs = "listen 1935 [::]:1935;\nmax_connections 100; # many\nhttp_api { enabled on; listen 8080; auth { enabled on; username a; password 'b c'; } }\n\
               http_server { enabled on; listen 8080; https { enabled on; } }\nvhost __defaultVhost__ {\n hls { enabled on; hls_fragment 2; hls_window 9; }\n \
               forward { enabled on; destination 192.0.2.1 192.0.2.2:1936; }\n}\ninclude more.conf;\n";
    seed("srs_conf", "some", srs.as_bytes())?;
    let old = "http_stream { enabled on; }\nvhost v { mode remote; origin a:1935 b; vhost c; queue_length 10; mw_latency 100; forward d e; hls_fragmnt 1; \
               ingest x { enabled on; input { type stream; url rtmp://h/a/b; } engine { output rtmp://127.0.0.1:[port]/a?vhost=[vhost]/c; } } }\n";
    seed("srs_conf", "old", old.as_bytes())?;
    seed("srs_conf", "wrong", b"rtmp { listen 1 70000; }\nvhost \"a\"b {\n'c\n d'; } };")?;
    seed("srs_conf", "deep", "a {".repeat(40).as_bytes())?;
    for variant in 0..24u8 {
        let packet = [&[variant, 7, 1, 3, b'v', b'.', b'x', 1, b'a', 1, b's', 9, 0][..], &[1; 24]].concat();
        seed("control", &variant.to_string(), &packet)?;
    }
    // A log with a keyframe table that points anywhere, a commit word beyond the files, a cut block; and one that is whole.
    seed("stream_log", "whole-write", &[0])?;
    seed("stream_log", "whole-resume", &[1])?;
    seed("stream_log", "resume-damaged", &[2, 1])?;
    seed("stream_log", "commit", &[0, 2, 0, 64, 0xff, 0xff, 0xff, 0x7f])?;
    seed("stream_log", "keyframes", &[0, 2, 8, 0, 0xff, 0, 0, 0x10, 2, 0, 112, 0xff, 0xff, 0xff, 0xff])?;
    seed("stream_log", "cut", &[0, 0x20, 0, 40, 0, 0, 0, 0, 0x10, 0, 20, 0, 0, 0, 0])?;
    seed("stream_log", "table", &[0, 2, 16, 72, 1, 0, 0, 0, 2, 16, 64, 3, 0, 0, 0, 2, 0, 100, 9, 0, 0, 0])?;
    let session = ServerSession::new(Settings::default(), 5, 0).save(0);
    let row = [&[7, 1, 2, 1, 0, 0x80, 1, 5, 9, 0, 0, 0, 0, 40, 0][..], &[2, 0, 0, 100, 100, 1, 1, 5, 9, 0], &[0, 0]].concat();
    let origin = [&[0, 0, 127, 0, 0, 1, 0xff, 0xff, 3, 0, 127, 0, 0, 1, 0x8f, 0x0f][..], &[1, session.len() as u8]].concat();
    seed("saved_state", "row", &[&[0], &row[..]].concat())?;
    seed("saved_state", "session", &[&[0], &row[..], &origin, &session].concat())?;
    let state = postcard::to_stdvec(&(SegmenterState::new("v/live/x", 7), 3u32, 99u32, 2u32, 360_000u64, 60_000u64, true))?;
    seed("saved_state", "segmenter", &[&[1], &state[..]].concat())
}
