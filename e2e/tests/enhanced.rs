//! Enhanced RTMP with the newest ffmpeg on both ends: every codec and several tracks, packet by packet, by RTMP and HTTP-FLV.

use anyhow::{Context, Result, bail, ensure};
use braidcast_e2e::next::{self, NextClip, Packet};
use braidcast_e2e::rtmp::{RawMessage, RawRtmp, command, status_code};
use braidcast_e2e::{Record, Server, ServerOptions, Viewer, media};
use braidcast_media::RecordKind;
use braidcast_media::flv::{FILE_HEADER, write_record};
use braidcast_media::tag::{Content, tracks};
use braidcast_protocols::rtmp::amf0::Value;
use braidcast_protocols::rtmp::message_type;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(90);
const SECONDS: u32 = 4;

/// The packets of an FLV file as our reader of tags sees them, tracks numbered as ffmpeg lists them.
fn walk(file: &Path) -> Result<Vec<Packet>> {
    let records = media::flv_records(&std::fs::read(file)?);
    let mut packets = Vec::new();
    for kind in [RecordKind::Video, RecordKind::Audio] {
        let (before, mut seen) = (packets.iter().map(|packet: &Packet| packet.stream + 1).max().unwrap_or(0), Vec::new());
        for record in records.iter().filter(|record| record.kind == kind) {
            for tag in tracks(kind, &record.payload).filter(|tag| matches!(tag.content, Content::SequenceHeader | Content::Frame)) {
                let place = seen.iter().position(|track| *track == tag.track).unwrap_or_else(|| {
                    seen.push(tag.track);
                    seen.len() - 1
                });
                // A sequence header is no packet, and ffmpeg says nothing of a frame without bytes.
                if tag.content == Content::Frame && !tag.body.is_empty() {
                    let dts_ms = i64::from(record.timestamp_ms);
                    packets.push(Packet {
                        stream: before + place as u32,
                        dts_ms,
                        pts_ms: dts_ms + i64::from(tag.composition_ms),
                        bytes: tag.body.len(),
                        adler: next::adler(tag.body),
                        keyframe: tag.keyframe || kind == RecordKind::Audio,
                    });
                }
            }
        }
    }
    Ok(packets)
}

/// The same packets of each track, in the same order, with the same times.
fn same(want: &[Packet], got: &[Packet]) -> Result<()> {
    let streams = want.iter().map(|packet| packet.stream + 1).max().context("nothing is wanted")?;
    for stream in 0..streams {
        let of = |packets: &[Packet]| packets.iter().filter(|packet| packet.stream == stream).cloned().collect::<Vec<_>>();
        let (want, got) = (of(want), of(got));
        if let Some(at) = want.iter().zip(&got).position(|(want, got)| want != got) {
            bail!("track {stream} differs at packet {at}: wanted {:?}, got {:?}", want[at], got[at]);
        }
        ensure!(want.len() == got.len(), "track {stream}: wanted {} packets, got {}", want.len(), got.len());
    }
    Ok(())
}

#[test]
fn tags_are_read_as_ffmpeg_reads_them() -> Result<()> {
    for clip in NextClip::ALL {
        let file = clip.file(SECONDS)?;
        let want: Vec<Packet> = next::packets(&file.to_string_lossy(), PATIENCE)?.into_iter().filter(|packet| packet.bytes > 0).collect();
        ensure!(want.len() > 90, "{clip:?} has only {} packets", want.len());
        same(&want, &walk(&file)?).with_context(|| format!("{clip:?}"))?;
    }
    Ok(())
}

/// What viewers get who were there before the publisher: they start with the first keyframe.
fn seen(file: &Path) -> Result<Vec<Packet>> {
    let mut packets = next::packets(&file.to_string_lossy(), PATIENCE)?;
    let first = packets.iter().position(|packet| packet.stream == 0).context("no picture")?;
    Ok(packets.split_off(first))
}

fn server() -> Result<Server> {
    Server::start(ServerOptions::workers(2).set("play.reconnect_grace=1s").set("play.play_wait=60s"))
}

/// A player that lists the packets it gets, until the stream ends.
fn lister(url: &str) -> Result<Child> {
    let arguments = next::listing(url);
    let child =
        Command::new("timeout").arg("90").arg(next::program()?).args(&arguments).stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    child.context("starting a player")
}

fn listed(child: Child) -> Result<Vec<Packet>> {
    next::parse_framecrc(&String::from_utf8_lossy(&child.wait_with_output()?.stdout))
}

/// Publishes a clip once; players are there before it, others come in its middle.
fn through_the_server(clip: NextClip) -> Result<()> {
    let server = server()?;
    let file = clip.file(SECONDS)?;
    let copied = clip.copied(SECONDS)?;
    let want = seen(&copied)?;
    let flv = server.http("live/x.flv?tracks=all");
    let mut players = vec![("FLV", lister(&flv)?)];
    // As a player by RTMP, ffmpeg does not say that it knows tracks; `players_that_know_tracks_get_all` stands in for it.
    if !clip.has_tracks() {
        players.push(("RTMP", lister(&server.rtmp("x"))?));
    }
    server.wait_placed("x", players.len())?;
    let early = Viewer::flv_recorder(server.address("http"), "live/x.flv?tracks=all")?;
    server.wait_placed("x", players.len() + 1)?;
    let mut publisher = next::publish(&file, &["-rtmp_enhanced_codecs", "hvc1,av01,vp09"], &server.rtmp("x"))?;
    // Past the second keyframe: what changed in the first group is in a prefix then.
    early.wait_more(60)?;
    let status = server.stream("x")?.context("the stream is not in the status")?;
    let (video, audio) = clip.codecs();
    ensure!(status["video"].as_str() == video && status["audio"].as_str() == audio, "{status}");
    let late = Viewer::flv_recorder(server.address("http"), "live/x.flv?tracks=all")?;
    late.wait_more(20)?;
    headers_come_first(&copied, &late.records())?;
    ensure!(publisher.wait(PATIENCE)?.success(), "the publisher failed");
    for (name, child) in players {
        same(&want, &listed(child)?).with_context(|| format!("by {name}"))?;
    }
    Ok(())
}

/// Before its first frame a viewer has got the metadata and everything that configures a decoder, of all tracks.
fn headers_come_first(file: &Path, got: &[Record]) -> Result<()> {
    let first = got.iter().position(|record| !record.is_header()).context("no frame")?;
    ensure!(got[0].payload.starts_with(b"\x02\0\x0aonMetaData"), "no metadata at the start");
    let sent = media::flv_records(&std::fs::read(file)?);
    for header in sent.iter().filter(|record| record.is_header() && record.kind != RecordKind::Data) {
        let there = got[..first].iter().any(|record| record.payload == header.payload);
        ensure!(there, "a header is missing: {:?} {:x?}", header.kind, &header.payload[..header.payload.len().min(16)]);
    }
    Ok(())
}

macro_rules! clips {
    ($($name:ident: $clip:ident;)+) => {
        $(#[test] fn $name() -> Result<()> { through_the_server(NextClip::$clip) })+
    };
}

clips! {
    hevc_and_opus: HevcOpus;
    av1_and_flac: Av1Flac;
    vp9_and_ac3: Vp9Ac3;
    h264_and_eac3: AvcEac3;
    h264_and_aac: AvcAac;
    h264_and_mp3: AvcMp3;
    hevc_with_hdr: Hdr;
    five_tracks: Tracks;
    two_sounds: TwoSounds;
}

/// `connect` of a client that knows all of Enhanced RTMP.
fn connect_call(server: &Server, members: Vec<(String, Value)>) -> RawMessage {
    let url = format!("rtmp://{}/live", server.address("rtmp"));
    let known = [("app".to_owned(), "live".into()), ("tcUrl".to_owned(), url.as_str().into())];
    let object = Value::Object(known.into_iter().chain(members).collect());
    RawMessage::amf0(message_type::COMMAND_AMF0, 0, &["connect".into(), 1.0.into(), object])
}

fn enhanced_members() -> Vec<(String, Value)> {
    let any = |mask: f64| Value::Object(vec![("*".to_owned(), mask.into())]);
    vec![
        ("fourCcList".to_owned(), Value::StrictArray(vec!["hvc1".into(), "av01".into()])),
        ("videoFourCcInfoMap".to_owned(), any(1.0)),
        ("audioFourCcInfoMap".to_owned(), any(1.0)),
        ("capsEx".to_owned(), 14.0.into()),
    ]
}

#[test]
fn capabilities_are_told_to_who_asks() -> Result<()> {
    let server = Server::start(ServerOptions::workers(1))?;
    let answer = |members| {
        let mut raw = RawRtmp::connect(server.address("rtmp"))?;
        raw.send(&connect_call(&server, members))?;
        let values = raw.wait_command(|values| values[0].as_str() == Some("_result"))?;
        values.into_iter().nth(2).context("no properties")
    };
    let told = answer(enhanced_members())?;
    ensure!(told.member("fourCcList") == Some(&Value::StrictArray(vec!["*".into()])), "{told:?}");
    // "May be forwarded", of any codec; tracks, modifiers, nanoseconds.
    let forwards = |map: &str| told.member(map).and_then(|map| map.member("*")).and_then(Value::as_number);
    ensure!(forwards("videoFourCcInfoMap") == Some(4.0) && forwards("audioFourCcInfoMap") == Some(4.0), "{told:?}");
    ensure!(told.member("capsEx").and_then(Value::as_number) == Some(14.0), "{told:?}");
    let plain = answer(Vec::new())?;
    ensure!(plain.member("fmsVer").is_some() && plain.member("fourCcList").is_none() && plain.member("capsEx").is_none(), "{plain:?}");
    Ok(())
}

#[test]
fn players_that_know_tracks_get_all_by_rtmp() -> Result<()> {
    let server = server()?;
    let clip = NextClip::Tracks;
    let copied = clip.copied(SECONDS)?;
    let mut raw = RawRtmp::connect(server.address("rtmp"))?;
    raw.send(&connect_call(&server, enhanced_members()))?;
    let call = |name: &str, values: &[Value]| {
        RawMessage::amf0(message_type::COMMAND_AMF0, 1, &[&[name.into(), 2.0.into(), Value::Null], values].concat())
    };
    raw.send(&call("createStream", &[]))?;
    raw.send(&call("play", &["x".into()]))?;
    server.wait_placed("x", 1)?;
    let mut publisher = next::publish(&clip.file(SECONDS)?, &[], &server.rtmp("x"))?;
    let mut got = FILE_HEADER.to_vec();
    let deadline = Instant::now() + PATIENCE;
    loop {
        ensure!(Instant::now() < deadline, "the play does not end");
        let Some(message) = raw.next(Duration::from_millis(200))? else { continue };
        if let Some(kind) = RecordKind::from_tag_type(message.message_type).filter(|kind| *kind != RecordKind::Data) {
            write_record(&mut got, kind, message.timestamp_ms, &message.payload);
        }
        if command(&message).as_deref().and_then(status_code) == Some("NetStream.Play.Stop") {
            break;
        }
    }
    ensure!(publisher.wait(PATIENCE)?.success(), "the publisher failed");
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("got.flv");
    std::fs::write(&file, got)?;
    let want = seen(&copied)?;
    same(&want, &next::packets(&file.to_string_lossy(), PATIENCE)?)
}
