//! Forms other than the log itself: other containers, fewer tracks, WebSocket, and what RTMP players ask for while they play.

use anyhow::{Context, Result, ensure};
use braidcast_e2e::media::{self, Clip, Packet};
use braidcast_e2e::rtmp::{RawMessage, RawRtmp, RtmpClient};
use braidcast_e2e::tools::eventually;
use braidcast_e2e::{Record, Server, ServerOptions, Viewer};
use braidcast_media::{RecordKind, TagInfo, flv};
use braidcast_protocols::rtmp::amf0::Value;
use braidcast_protocols::rtmp::message_type;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tungstenite::Message;

const PATIENCE: Duration = Duration::from_secs(60);

/// A viewer by WebSocket: the records it got until the stream ended, one a message.
fn watch_websocket(address: SocketAddr, path: &str) -> Result<JoinHandle<Result<Vec<Record>>>> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let path = format!("ws://{address}/{path}");
    Ok(std::thread::spawn(move || {
        // The answer comes with the stream.
        let (mut socket, answer) = tungstenite::client(path, stream).map_err(|error| anyhow::anyhow!("the handshake: {error}"))?;
        ensure!(answer.status() == 101, "{answer:?}");
        let (mut records, mut messages, mut pongs) = (Vec::new(), 0, 0);
        loop {
            match socket.read()? {
                Message::Binary(bytes) if messages == 0 => {
                    ensure!(bytes.len() == flv::FILE_HEADER.len() && bytes.starts_with(b"FLV"), "it begins with {bytes:?}");
                    messages += 1;
                }
                Message::Binary(bytes) => {
                    let whole: Vec<_> = flv::records(&bytes).collect();
                    ensure!(whole.len() == 1 && whole[0].header.record_bytes() == bytes.len(), "a message is no record");
                    let flv::Record { header, payload, .. } = whole[0];
                    records.push(Record { kind: header.kind, timestamp_ms: header.timestamp_ms, payload: payload.to_vec() });
                    messages += 1;
                    if messages % 100 == 0 {
                        socket.send(Message::Ping(vec![messages as u8].into()))?;
                        socket.send(Message::Text("a viewer's words mean nothing".into()))?;
                    }
                }
                Message::Pong(_) => pongs += 1,
                Message::Close(frame) => {
                    ensure!(frame.is_some_and(|frame| u16::from(frame.code) == 1001), "no reason for the end");
                    ensure!(pongs + 1 >= messages / 100, "{pongs} of {} pings were answered", messages / 100);
                    return Ok(records);
                }
                other => anyhow::bail!("an unexpected message: {other:?}"),
            }
        }
    }))
}

/// Frames with equal pictures or sounds in the same order; `timed`: at the same times, but for one offset.
fn same_frames(want: &[Packet], got: &[Packet], timed: bool) -> Result<()> {
    ensure!(want.len() == got.len() && !want.is_empty(), "wanted {} frames, got {}", want.len(), got.len());
    let offset = got[0].pts_ms - want[0].pts_ms;
    for (at, (want, got)) in want.iter().zip(got).enumerate() {
        ensure!(want.hash == got.hash, "frame {at} differs");
        // 90 kHz and milliseconds both round.
        ensure!(!timed || (got.pts_ms - want.pts_ms - offset).abs() <= 2, "frame {at}: {} ms, not {} + {offset}", got.pts_ms, want.pts_ms);
    }
    Ok(())
}

#[test]
fn every_form_has_everything_while_workers_are_killed() -> Result<()> {
    let server = Server::start(ServerOptions::workers(3).set("play.reconnect_grace=1s").set("play.play_wait=60s"))?;
    let file = Clip::Plain.file(12)?;
    let records: Vec<Record> = Clip::Plain.records(12)?.into_iter().filter(|record| !record.is_header()).collect();
    let of = |kind: RecordKind| Arc::new(records.iter().filter(|record| record.kind == kind).cloned().collect::<Vec<_>>());
    let http = server.address("http");
    let only_audio = Viewer::flv_expecting(http, "live/clip.flv?only=audio", of(RecordKind::Audio))?;
    let only_video = Viewer::flv_expecting(http, "live/clip.flv?only=video", of(RecordKind::Video))?;
    let websocket = watch_websocket(http, "live/clip.flv")?;
    let decode = |url: String, kind: &'static str| std::thread::spawn(move || media::frames(&url, kind, Duration::from_secs(90)));
    let files = [("ts", "v"), ("ts", "a"), ("ts?only=audio", "a"), ("aac", "a")];
    let decoded = files.map(|(form, kind)| (form, kind, decode(server.http(&format!("live/clip.{form}")), kind)));
    server.wait_placed("clip", 7)?;
    let mut publisher = media::publish(&file, &server.rtmp("clip"))?;
    server.wait_live("clip")?;
    for round in 0..6 {
        let pid = server.worker_pid(1 + round % 3)?;
        braidcast_e2e::server::signal(pid, "KILL")?;
        eventually(PATIENCE, || server.worker(1 + round % 3).ok().filter(|row| row["pid"] != pid && row["state"] == "ready"))
            .context("it does not come back")?;
        std::thread::sleep(Duration::from_millis(300));
    }
    ensure!(publisher.wait(PATIENCE)?.success(), "the publisher failed:\n{}", server.log_text());
    for (viewer, kind) in [(only_audio, RecordKind::Audio), (only_video, RecordKind::Video)] {
        let want = of(kind).len();
        eventually(PATIENCE, || (viewer.matched() == want || viewer.is_over()).then_some(()));
        ensure!(viewer.matched() == want, "{kind:?}: {} of {want}, {:?}", viewer.matched(), viewer.end());
    }
    let got: Vec<Record> = websocket.join().expect("no panic")?.into_iter().filter(|record| !record.is_header()).collect();
    ensure!(got == records, "by WebSocket: {} records of {}, or others", got.len(), records.len());
    for (form, kind, viewer) in decoded {
        let want = media::frames(&file.to_string_lossy(), kind, PATIENCE)?;
        let got = viewer.join().expect("no panic").with_context(|| format!(".{form}: {kind}"))?;
        same_frames(&want, &got, form != "aac").with_context(|| format!(".{form}: {kind}"))?;
    }
    ensure!(server.front_counter("sessions_lost") == 0, "{}", server.log_text());
    Ok(())
}

fn get(address: SocketAddr, method: &str, target: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn what_a_stream_has_not_is_said_at_once() -> Result<()> {
    let server = Server::start(ServerOptions::workers(2).set("play.play_wait=60s"))?;
    let _aac = media::publish_live(&server.rtmp("aac"))?;
    let _flash = braidcast_e2e::rtmp::Pump::start(&server.rtmp("flash"), "x")?;
    server.wait_live("aac")?;
    server.wait_live("flash")?;
    let http = server.address("http");
    for (target, status, text) in [
        ("/live/aac.mp3", "404", "it has H.264 and AAC"),
        ("/live/flash.ts", "404", "it has H.263"),
        ("/live/flash.aac", "404", "it has H.263"),
        ("/live/aac.flv?only=sound", "400", "only=audio"),
        ("/live/aac.flv?tracks=1", "400", "tracks=all"),
    ] {
        let started = Instant::now();
        let answer = get(http, "GET", target)?;
        ensure!(answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(text), "{target}: {answer}");
        ensure!(started.elapsed() < Duration::from_secs(30), "{target}: it waited");
    }
    for (extension, content_type) in [("flv", "video/x-flv"), ("ts", "video/mp2t"), ("aac", "audio/aac"), ("mp3", "audio/mpeg")] {
        let answer = get(http, "HEAD", &format!("/live/aac.{extension}"))?;
        ensure!(answer.starts_with("HTTP/1.1 200 ") && answer.contains(&format!("Content-Type: {content_type}\r\n")), "{answer}");
    }
    let mp3 = Clip::Mp3.file(10)?;
    let _mp3 = media::publish_loop(&mp3, &server.rtmp("mp3"))?;
    server.wait_live("mp3")?;
    let mut stream = TcpStream::connect(http)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET /live/mp3.mp3 HTTP/1.1\r\nHost: x\r\n\r\n")?;
    let mut bytes = vec![0; 4096];
    stream.read_exact(&mut bytes)?;
    let body = bytes.windows(4).position(|window| window == b"\r\n\r\n").context("no head")? + 4;
    ensure!(bytes[body] == 0xff && bytes[body + 1] & 0xe0 == 0xe0, "no MP3 frame: {:?}", &bytes[body..body + 4]);
    Ok(())
}

#[test]
fn a_player_that_knows_no_tracks_gets_the_first() -> Result<()> {
    let server = Server::start(ServerOptions::workers(2).set("play.play_wait=60s"))?;
    let (http, url) = (server.address("http"), server.rtmp("x"));
    let mut publisher = RtmpClient::publish(&url)?;
    let video = |time, key| Record {
        kind: RecordKind::Video,
        timestamp_ms: time,
        payload: [if key { b"\x91av01" } else { b"\xa1av01" }, &[time as u8; 7][..]].concat(),
    };
    let audio = |time, track: u8| Record {
        kind: RecordKind::Audio,
        timestamp_ms: time,
        payload: [&b"\x95\x01Opus"[..], &[track, time as u8, 1, 2]].concat(),
    };
    let plain = |time| Record { kind: RecordKind::Audio, timestamp_ms: time, payload: [&b"\x91Opus"[..], &[time as u8, 1, 2]].concat() };
    for track in 0..2 {
        publisher.push(&Record {
            kind: RecordKind::Audio,
            timestamp_ms: 0,
            payload: [&b"\x95\0Opus"[..], &[track], b"OpusHead"].concat(),
        })?;
    }
    let mut all = Vec::new();
    for frame in 0..100 {
        all.extend([video(frame * 20, frame % 50 == 0), audio(frame * 20, 0), audio(frame * 20, 1)]);
    }
    let first: Vec<Record> = (0..100).flat_map(|frame| [video(frame * 20, frame % 50 == 0), plain(frame * 20)]).collect();
    let sound: Vec<Record> = (0..100).map(|frame| plain(frame * 20)).collect();
    all[..3].iter().try_for_each(|record| publisher.push(record))?;
    server.wait_live("x")?;
    let want = Arc::new(first);
    let viewers = [
        ("FLV", Viewer::flv_expecting(http, "live/x.flv", want.clone())?, want.len()),
        ("RTMP", Viewer::rtmp_expecting(&url, want.clone())?, want.len()),
        ("only audio", Viewer::flv_expecting(http, "live/x.flv?only=audio", Arc::new(sound.clone()))?, sound.len()),
        ("all", Viewer::flv_expecting(http, "live/x.flv?tracks=all", Arc::new(all.clone()))?, all.len()),
    ];
    eventually(PATIENCE, || viewers.iter().all(|(_, viewer, _)| viewer.matched() > 0).then_some(())).context("they do not begin")?;
    all[3..].iter().try_for_each(|record| publisher.push(record))?;
    for (how, viewer, want) in viewers {
        eventually(PATIENCE, || (viewer.matched() == want || viewer.is_over()).then_some(()));
        ensure!(viewer.matched() == want, "{how}: {} of {want}, {:?}", viewer.matched(), viewer.end());
    }
    Ok(())
}

/// An RTMP player that says what the test wants, and gives back media.
struct Player(RawRtmp);

impl Player {
    fn start(server: &Server, name: &str) -> Result<Self> {
        let mut raw = RawRtmp::connect(server.address("rtmp"))?;
        let calls = RawRtmp::publish_calls(server.address("rtmp"), "live", name);
        raw.send(&calls[0])?;
        raw.send(&calls[1])?;
        let mut player = Self(raw);
        player.call("play", 3.0, name.into())?;
        Ok(player)
    }

    fn call(&mut self, name: &str, transaction: f64, argument: Value) -> Result<()> {
        let values = [name.into(), transaction.into(), Value::Null, argument];
        self.0.send(&RawMessage::amf0(message_type::COMMAND_AMF0, 1, &values))
    }

    /// The next audio or video, headers included; `None` if none comes in the time.
    fn media(&mut self, within: Duration) -> Result<Option<Record>> {
        let deadline = Instant::now() + within;
        while Instant::now() < deadline {
            let message = self.0.next(Duration::from_millis(50))?;
            if let Some(message) = message
                && let Some(kind @ (RecordKind::Audio | RecordKind::Video)) = RecordKind::from_tag_type(message.message_type)
            {
                return Ok(Some(Record { kind, timestamp_ms: message.timestamp_ms, payload: message.payload }));
            }
        }
        Ok(None)
    }

    /// Media until one fits, that one included.
    fn until(&mut self, fits: impl Fn(&Record) -> bool) -> Result<Vec<Record>> {
        let mut seen = Vec::new();
        loop {
            let record = self.media(PATIENCE)?.with_context(|| format!("nothing more came after {} records", seen.len()))?;
            seen.push(record);
            if fits(&seen[seen.len() - 1]) {
                return Ok(seen);
            }
        }
    }
}

fn is_keyframe(record: &Record) -> bool {
    TagInfo::of(record.kind, &record.payload).keyframe
}

/// Audio records that follow each other in the clip, which is repeated.
fn follow_each_other(records: &[Record], clip: &[Record]) -> Result<()> {
    let sounds: Vec<&[u8]> = clip.iter().filter(|r| r.kind == RecordKind::Audio && !r.is_header()).map(|r| r.payload.as_slice()).collect();
    let heard: Vec<&[u8]> =
        records.iter().filter(|r| r.kind == RecordKind::Audio && !r.is_header()).map(|r| r.payload.as_slice()).collect();
    let places = |payload: &[u8]| sounds.iter().enumerate().filter(|(_, sound)| **sound == payload).map(|(at, _)| at).collect::<Vec<_>>();
    let starts = places(heard.first().context("no audio")?);
    let fits = |start: &usize| heard.iter().enumerate().all(|(at, sound)| sounds[(start + at) % sounds.len()] == *sound);
    ensure!(starts.iter().any(fits), "audio is missing or doubled among {} records", heard.len());
    Ok(())
}

#[test]
fn players_pause_and_choose_what_they_receive_whatever_workers_do() -> Result<()> {
    let server = Server::start(ServerOptions::workers(2).set("play.play_wait=60s"))?;
    let clip = Clip::Plain.records(60)?;
    let _publisher = media::publish_live(&server.rtmp("x"))?;
    server.wait_live("x")?;
    let witness = Viewer::flv(server.address("http"), "live/x.flv")?;
    let kill = |worker: u16| -> Result<()> {
        let pid = server.worker_pid(worker)?;
        braidcast_e2e::server::signal(pid, "KILL")?;
        let back = || server.worker(worker).ok().filter(|row| row["pid"] != pid && row["state"] == "ready");
        eventually(PATIENCE, back).map(drop).context("it does not come back")
    };
    let mut player = Player::start(&server, "x")?;
    let mut all = player.until(is_keyframe)?;

    player.call("pause", 0.0, Value::Boolean(true))?;
    player.0.wait_status("NetStream.Play.Reset").ok();
    while player.media(Duration::from_millis(700))?.is_some() {}
    for worker in [1, 2] {
        kill(worker)?;
    }
    witness.wait_more(30)?;
    ensure!(player.media(Duration::from_millis(300))?.is_none(), "a paused player is sent media");
    player.call("pause", 0.0, Value::Boolean(false))?;
    let resumed = player.until(is_keyframe)?;
    ensure!(resumed[0].is_header(), "it does not go on with a decoder's configuration: {:?}", resumed[0].payload.get(..8));
    let last = all.last().map_or(0, |record| record.timestamp_ms);
    ensure!(resumed.iter().all(|record| record.timestamp_ms >= last), "time went back");

    player.call("receiveVideo", 0.0, Value::Boolean(false))?;
    all = player.until(|record| record.kind == RecordKind::Video)?;
    // What was on its way ends; then there are only sounds, and all of them.
    let mut sounds = 0;
    while sounds < 60 {
        let record = player.media(PATIENCE)?.context("no more audio")?;
        sounds = if record.kind == RecordKind::Audio { sounds + 1 } else { 0 };
        all.push(record);
        if sounds == 20 {
            kill(1)?;
            kill(2)?;
        }
    }
    player.call("receiveVideo", 0.0, Value::Boolean(true))?;
    let back = player.until(|record| record.kind == RecordKind::Video && !record.is_header())?;
    ensure!(back.last().is_some_and(is_keyframe), "video begins with something else than a keyframe");
    ensure!(back.iter().any(|record| record.kind == RecordKind::Video && record.is_header()), "no configuration before the keyframe");
    all.extend(back);
    all.extend(player.until(is_keyframe)?);
    follow_each_other(&all, &clip)?;

    player.call("receiveAudio", 0.0, Value::Boolean(false))?;
    let mut pictures = 0;
    while pictures < 50 {
        let record = player.media(PATIENCE)?.context("no more video")?;
        pictures = if record.kind == RecordKind::Video { pictures + 1 } else { 0 };
    }
    witness.end()?;
    ensure!(server.front_counter("sessions_lost") == 0, "{}", server.log_text());
    Ok(())
}
