//! Every way to put a stream on the wire: chunk sizes, interleaving, abort, timestamps, commands. What arrives is compared record
//! by record, as HTTP-FLV and RTMP viewers get it.

use anyhow::{Context, Result, bail, ensure};
use braidcast_e2e::media::Clip;
use braidcast_e2e::rtmp::{Pump, RawMessage, RawRtmp, RtmpClient, status_code};
use braidcast_e2e::tools::{eventually, http_get};
use braidcast_e2e::{Record, Server, ServerOptions, Viewer};
use braidcast_media::RecordKind;
use braidcast_protocols::rtmp::amf0::Value;
use braidcast_protocols::rtmp::{ClientOutput, ClientRole, message_type};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

/// What a codec's tags begin with: video configuration, keyframe and other frame; audio configuration and frame.
type Dialect = (&'static str, [&'static [u8]; 3], [&'static [u8]; 2]);

/// A server that jumps nobody, so that viewers get everything however fast it comes.
fn server() -> Result<Server> {
    let patient = ["play.play_wait=60s", "play.max_lag=600s", "play.max_lag_bytes=1GiB", "play.reconnect_grace=60s"];
    Server::start(patient.iter().fold(ServerOptions::workers(2), |options, set| options.set(set)))
}

/// One viewer of each protocol, there before the publisher.
struct Audience(Vec<Viewer>);

impl Audience {
    fn of(server: &Server, name: &str) -> Result<Self> {
        let flv = Viewer::flv_recorder(server.address("http"), &format!("live/{name}.flv"))?;
        let rtmp = Viewer::rtmp_recorder(&server.rtmp(name))?;
        server.wait_placed(name, 2)?;
        Ok(Self(vec![flv, rtmp]))
    }

    /// Has `send` send the records; the first keyframe alone, because viewers begin with the newest.
    fn watch(&self, records: &[Record], mut send: impl FnMut(&[Record]) -> Result<()>) -> Result<()> {
        let first = records.iter().position(|record| record.kind == RecordKind::Video && !record.is_header()).unwrap_or(0);
        send(&records[..=first])?;
        for viewer in &self.0 {
            let want = records[first].clone();
            viewer.wait_record(|record| *record == want)?;
        }
        send(&records[first + 1..])
    }

    /// Every track arrived as it was sent: payloads byte for byte, times, order. Headers are among it, however often they come.
    fn got(self, want: &[Record]) -> Result<()> {
        for viewer in self.0 {
            for kind in [RecordKind::Video, RecordKind::Audio, RecordKind::Data] {
                let frames = |records: &[Record]| -> Vec<Record> {
                    records.iter().filter(|record| record.kind == kind && !record.is_header()).cloned().collect()
                };
                let want = frames(want);
                let arrived = eventually(PATIENCE, || (frames(&viewer.records()).len() >= want.len() || viewer.is_over()).then_some(()));
                let got = frames(&viewer.records());
                if let Some(at) = want.iter().zip(&got).position(|(want, got)| want != got) {
                    let (want, got) = (&want[at], &got[at]);
                    bail!(
                        "{kind:?} {at}: wanted {} bytes at {}, got {} at {}",
                        want.payload.len(),
                        want.timestamp_ms,
                        got.payload.len(),
                        got.timestamp_ms
                    );
                }
                ensure!(arrived.is_some() && got.len() == want.len(), "{kind:?}: wanted {} records, got {}", want.len(), got.len());
            }
            let got = viewer.records();
            for header in want.iter().filter(|record| record.is_header()) {
                ensure!(got.iter().any(|record| record.payload == header.payload), "a header of {:?} is missing", header.kind);
            }
            viewer.end()?;
        }
        Ok(())
    }
}

/// A clip whose times begin at `start_ms`.
fn clip_from(clip: Clip, seconds: u32, start_ms: u32) -> Result<Vec<Record>> {
    let records = clip.records(seconds)?.into_iter();
    Ok(records.map(|record| Record { timestamp_ms: record.timestamp_ms.wrapping_add(start_ms), ..record }).collect())
}

fn data(name: &str, value: Value) -> Record {
    let payload = RawMessage::amf0(0, 0, &[name.into(), value]).payload;
    Record { kind: RecordKind::Data, timestamp_ms: 0, payload }
}

#[test]
fn chunks_of_any_size_are_put_together() -> Result<()> {
    let server = server()?;
    let records = Clip::Plain.records(2)?;
    for size in [1, 127, 4_096, 1 << 20, 1 << 24] {
        let name = format!("size{size}");
        let audience = Audience::of(&server, &name)?;
        let mut raw = RawRtmp::publish(server.address("rtmp"), &name)?;
        raw.send(&RawMessage::control(message_type::SET_CHUNK_SIZE, size))?;
        let send = |records: &[Record]| {
            let bytes: Vec<u8> = records.iter().flat_map(|record| RawMessage::media(record).bytes(size as usize)).collect();
            raw.write(&bytes)
        };
        audience.watch(&records, send).with_context(|| format!("chunks of {size}"))?;
        audience.got(&records).with_context(|| format!("chunks of {size}"))?;
    }
    Ok(())
}

#[test]
fn bytes_may_trickle_in() -> Result<()> {
    let server = server()?;
    let records = Clip::Plain.records(2)?;
    let audience = Audience::of(&server, "x")?;
    let mut raw = RawRtmp::publish(server.address("rtmp"), "x")?;
    let mut step = 1;
    let send = |records: &[Record]| {
        let bytes: Vec<u8> = records.iter().flat_map(|record| RawMessage::media(record).bytes(128)).collect();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            // Pieces of every length, so that every boundary is cut somewhere.
            step = step % 1_009 + 1;
            let (piece, later) = rest.split_at(step.min(rest.len()));
            raw.write(piece)?;
            rest = later;
        }
        Ok(())
    };
    audience.watch(&records, send)?;
    audience.got(&records)
}

#[test]
fn messages_may_be_interleaved() -> Result<()> {
    let server = server()?;
    let records = Clip::Plain.records(2)?;
    let audience = Audience::of(&server, "x")?;
    let mut raw = RawRtmp::publish(server.address("rtmp"), "x")?;
    let send = |records: &[Record]| {
        // Every message and the next one of another kind go chunk by chunk in turn.
        let mut bytes = Vec::new();
        let mut left = records.iter().map(|record| (record.kind, RawMessage::media(record).chunks(128))).peekable();
        while let Some((kind, chunks)) = left.next() {
            let partner = left.next_if(|(other, _)| *other != kind).map(|(_, chunks)| chunks).unwrap_or_default();
            let mut lanes = [chunks.into_iter(), partner.into_iter()];
            while lanes.iter().any(|lane| lane.len() > 0) {
                bytes.extend(lanes.iter_mut().filter_map(Iterator::next).flatten());
            }
        }
        raw.write(&bytes)
    };
    audience.watch(&records, send)?;
    audience.got(&records)
}

#[test]
fn an_aborted_message_leaves_nothing() -> Result<()> {
    let server = server()?;
    let records = Clip::Plain.records(2)?;
    let audience = Audience::of(&server, "x")?;
    let mut raw = RawRtmp::publish(server.address("rtmp"), "x")?;
    let send = |records: &[Record]| {
        for record in records {
            let message = RawMessage::media(record);
            let chunks = message.chunks(128);
            if chunks.len() > 1 {
                // Half of it, an abort of its chunk stream, and then the message as it is to be.
                raw.write(&chunks[..chunks.len() / 2].concat())?;
                raw.send(&RawMessage::control(message_type::ABORT, message.chunk_stream.into()))?;
            }
            raw.write(&chunks.concat())?;
        }
        Ok(())
    };
    audience.watch(&records, send)?;
    audience.got(&records)
}

#[test]
fn timestamps_pass_24_and_32_bits() -> Result<()> {
    let server = server()?;
    for (name, start_ms) in [("extended", 0x00ff_ffff - 1_000), ("far", 0x00ff_ffff + 5_000), ("wrap", u32::MAX - 1_000)] {
        let records = clip_from(Clip::Plain, 6, start_ms)?;
        let audience = Audience::of(&server, name)?;
        let mut client = RtmpClient::publish(&server.rtmp(name))?;
        audience.watch(&records, |records| records.iter().try_for_each(|record| client.push(record))).context(name)?;
        audience.got(&records).context(name)?;
        // HLS notices nothing of it.
        let index =
            eventually(PATIENCE, || http_get(&server.http(&format!("live/{name}.m3u8"))).ok().filter(|answer| answer.status == 200));
        let index = index.with_context(|| format!("no index of {name}"))?.text();
        ensure!(!index.contains("#EXT-X-DISCONTINUITY\n"), "{name}: {index}");
    }
    Ok(())
}

#[test]
fn one_connection_publishes_again_and_again() -> Result<()> {
    let server = server()?;
    let records = Clip::Plain.records(2)?;
    let audience = Audience::of(&server, "one")?;
    let mut client = RtmpClient::publish(&server.rtmp("one"))?;
    audience.watch(&records, |records| records.iter().try_for_each(|record| client.push(record)))?;
    audience.got(&records)?;
    for name in ["two", "one", "one"] {
        client.end()?;
        let epoch = server.stream(name)?.map_or(0, |stream| stream["epoch"].as_u64().unwrap_or(0));
        client.publish_again(name).with_context(|| format!("publishing {name} again"))?;
        client.push(&records[0])?;
        records.iter().try_for_each(|record| client.push(record))?;
        eventually(PATIENCE, || {
            server.stream(name).ok()?.filter(|stream| stream["state"] == "live" && stream["epoch"].as_u64() > Some(epoch))
        })
        .with_context(|| format!("{name} is not live again: {:?}", server.stream(name)))?;
    }
    ensure!(server.stream("two")?.is_some_and(|stream| stream["state"] == "waiting"), "the stream that was left is still live");
    Ok(())
}

#[test]
fn one_connection_plays_twice() -> Result<()> {
    let server = server()?;
    let _pumps = [Pump::start(&server.rtmp("a"), "mark-a")?, Pump::start(&server.rtmp("b"), "mark-b")?];
    let rtmp = server.address("rtmp");
    let mut raw = RawRtmp::connect(rtmp)?;
    for call in &RawRtmp::publish_calls(rtmp, "live", "")[..2] {
        raw.send(call)?;
    }
    let play = |name: &str| RawMessage::amf0(message_type::COMMAND_AMF0, 1, &["play".into(), 0.0.into(), Value::Null, name.into()]);
    let stop = RawMessage::amf0(message_type::COMMAND_AMF0, 1, &["closeStream".into(), 0.0.into(), Value::Null]);
    // From a playing stream to another one, to the same one, and after a stop.
    for (name, stops) in [("a", false), ("b", false), ("b", true), ("a", false)] {
        if stops {
            raw.send(&stop)?;
        }
        raw.send(&play(name))?;
        raw.wait_command(|values| status_code(values) == Some("NetStream.Play.Start"))?;
        let deadline = Instant::now() + PATIENCE;
        let mut frames = 0;
        while frames < 10 {
            ensure!(Instant::now() < deadline, "no frames of {name}");
            let Some(message) = raw.next(Duration::from_millis(200))? else { continue };
            if message.message_type == message_type::VIDEO {
                let mark = String::from_utf8_lossy(&message.payload[1..]).into_owned();
                ensure!(mark == format!("mark-{name}"), "wanted {name}, got {mark}");
                frames += 1;
            }
        }
    }
    Ok(())
}

#[test]
fn commands_and_metadata_may_come_as_amf3() -> Result<()> {
    let server = server()?;
    let records = Clip::Plain.records(2)?;
    let audience = Audience::of(&server, "x")?;
    let rtmp = server.address("rtmp");
    let mut raw = RawRtmp::connect(rtmp)?;
    let amf3 = |message: RawMessage, message_type| RawMessage { message_type, payload: [&[0][..], &message.payload].concat(), ..message };
    for call in RawRtmp::publish_calls(rtmp, "live", "x") {
        raw.send(&amf3(call, message_type::COMMAND_AMF3))?;
    }
    raw.wait_status("NetStream.Publish.Start")?;
    let send = |records: &[Record]| {
        for record in records {
            let message = RawMessage::media(record);
            let is_data = record.kind == RecordKind::Data;
            raw.send(&if is_data { amf3(message, message_type::DATA_AMF3) } else { message })?;
        }
        Ok(())
    };
    audience.watch(&records, send)?;
    audience.got(&records)
}

#[test]
fn text_and_other_data_is_carried_through() -> Result<()> {
    let server = server()?;
    let mut records = Clip::Plain.records(2)?;
    let text = |text: &str, at: u32| Record { timestamp_ms: at, ..data("onTextData", Value::Object(vec![("text".into(), text.into())])) };
    let middle = records.len() / 2;
    let now = records[middle].timestamp_ms;
    records.insert(middle, text("Guten Tag, Ümläut", now));
    records.insert(middle + 1, Record { timestamp_ms: now, ..data("onCuePoint", Value::Number(7.0)) });
    records.push(text("the end", now + 1_000));
    let audience = Audience::of(&server, "x")?;
    let mut client = RtmpClient::publish(&server.rtmp("x"))?;
    audience.watch(&records, |records| records.iter().try_for_each(|record| client.push(record)))?;
    audience.got(&records)
}

#[test]
fn codecs_that_are_not_known_are_carried_through() -> Result<()> {
    let server = server()?;
    let frame = |head: &[u8], bytes: usize, salt: u8| [head, &(0..bytes).map(|at| (at * 7) as u8 ^ salt).collect::<Vec<u8>>()].concat();
    // The unofficial HEVC of codec id 12, enhanced HEVC and AV1 with Opus, and an old codec.
    let dialects: [Dialect; 4] = [
        ("hevc12", [b"\x1c\0\0\0\0", b"\x1c\x01\0\0\0", b"\x2c\x01\0\0\0"], [b"\xaf\0", b"\xaf\x01"]),
        ("hvc1", [b"\x90hvc1", b"\x91hvc1\0\0\0", b"\xa1hvc1\0\0\0"], [b"\x90Opus", b"\x91Opus"]),
        ("av01", [b"\x90av01", b"\x91av01", b"\xa1av01"], [b"\x90fLaC", b"\x91fLaC"]),
        ("vp6", [b"\x14", b"\x14", b"\x24"], [b"\xb2", b"\xb2"]),
    ];
    for (name, video, audio) in dialects {
        let mut records = Vec::new();
        let mut add = |kind, timestamp_ms, payload| records.push(Record { kind, timestamp_ms, payload });
        add(RecordKind::Video, 0, frame(video[0], 40, 1));
        add(RecordKind::Audio, 0, frame(audio[0], 12, 2));
        for at in 0..60u32 {
            // Sizes around the chunks that viewers get, and one far beyond.
            let bytes = [10, 65_535, 65_536, 65_537, 300_000, 1_000][at as usize % 6];
            add(RecordKind::Video, at * 40, frame(if at % 20 == 0 { video[1] } else { video[2] }, bytes, at as u8));
            add(RecordKind::Audio, at * 40 + 10, frame(audio[1], 200, at as u8));
        }
        let audience = Audience::of(&server, name)?;
        let mut client = RtmpClient::publish(&server.rtmp(name))?;
        audience.watch(&records, |records| records.iter().try_for_each(|record| client.push(record))).context(name)?;
        audience.got(&records).context(name)?;
    }
    Ok(())
}

#[test]
fn the_server_acknowledges_and_pings() -> Result<()> {
    let server = Server::start(ServerOptions::workers(1).set("limits.idle=2s"))?;
    let mut raw = RawRtmp::publish(server.address("rtmp"), "x")?;
    raw.send(&RawMessage::control(message_type::WINDOW_ACKNOWLEDGEMENT_SIZE, 10_000))?;
    let frame = Record { kind: RecordKind::Video, timestamp_ms: 0, payload: [&[Pump::FRAME][..], &[0; 50_000]].concat() };
    raw.send(&RawMessage::media(&frame))?;
    let (mut acknowledged, mut pinged) = (0, false);
    let deadline = Instant::now() + PATIENCE;
    while acknowledged < 50_000 || !pinged {
        ensure!(Instant::now() < deadline, "acknowledged {acknowledged}, pinged {pinged}");
        let Some(message) = raw.next(Duration::from_millis(200))? else { continue };
        match (message.message_type, message.payload.as_slice()) {
            (message_type::ACKNOWLEDGEMENT, &[a, b, c, d]) => acknowledged = u32::from_be_bytes([a, b, c, d]),
            (message_type::USER_CONTROL, &[0, 6, a, b, c, d]) => {
                pinged = true;
                // The answer counts as a sign of life.
                let answer = RawMessage { payload: vec![0, 7, a, b, c, d], ..RawMessage::control(message_type::USER_CONTROL, 0) };
                raw.send(&answer)?;
            }
            _ => {}
        }
    }
    Ok(())
}

#[test]
fn the_signed_handshake_works_for_publishers_and_players() -> Result<()> {
    let server = server()?;
    let records = Clip::Plain.records(2)?;
    let mut publisher = RtmpClient::connect_with(&server.rtmp("x"), ClientRole::Publish, true)?;
    publisher.wait_started()?;
    records.iter().try_for_each(|record| publisher.push(record))?;
    let mut player = RtmpClient::connect_with(&server.rtmp("x"), ClientRole::Play, true)?;
    player.wait_started()?;
    player.wait(|output| matches!(output, ClientOutput::Media { kind: RecordKind::Video, .. }))?;
    Ok(())
}
