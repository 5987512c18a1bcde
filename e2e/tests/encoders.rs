//! Encoders that do odd things, and what players get of it: decoded by ffmpeg from HTTP-FLV, RTMP and HLS. docs/compatibility.md names
//! these tests.

use anyhow::{Context, Result, ensure};
use braidcast_e2e::media::{self, Clip, Packet};
use braidcast_e2e::next::{self, NextClip};
use braidcast_e2e::rtmp::{RawMessage, RawRtmp, RtmpClient};
use braidcast_e2e::tools::{eventually, http_get, run};
use braidcast_e2e::{Record, Server, ServerOptions, Viewer};
use braidcast_media::RecordKind::{self, Audio, Data, Video};
use braidcast_media::TagInfo;
use braidcast_media::flv::{FILE_HEADER, write_record};
use braidcast_protocols::rtmp::amf0::Value;
use braidcast_protocols::rtmp::message_type;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(90);

fn server() -> Result<Server> {
    server_that_waits("1s")
}

/// A server that jumps nobody, and gives viewers so long to take what is left of a stream that has ended.
fn server_that_waits(grace: &str) -> Result<Server> {
    let set = ["play.play_wait=60s", "play.max_lag=600s", "play.max_lag_bytes=1GiB", "hls.fragment=1s", "hls.window=300s"];
    let options = ServerOptions::workers(2).set(&format!("play.reconnect_grace={grace}"));
    Server::start(set.iter().fold(options, |options, set| options.set(set)))
}

/// What a player decoded, and what it complained of.
struct Decoded {
    by: &'static str,
    video: Vec<Packet>,
    audio: Vec<Packet>,
    said: String,
}

impl Decoded {
    fn of(by: &'static str, output: &std::process::Output) -> Self {
        let all = media::parse_framehash(&String::from_utf8_lossy(&output.stdout));
        let (video, audio) = all.into_iter().partition(|packet| packet.stream == 0);
        Self { by, video, audio, said: String::from_utf8_lossy(&output.stderr).into_owned() }
    }

    fn is_clean(&self) -> Result<()> {
        // How a live stream ends is no fault of its content.
        let about_the_end =
            |line: &&str| !["Stream ends prematurely", "Input/output error", "Last message repeated"].iter().any(|end| line.contains(end));
        let said: Vec<&str> = self.said.lines().filter(about_the_end).collect();
        ensure!(said.is_empty(), "{} complains: {}", self.by, said.join("\n"));
        Ok(())
    }

    /// Times never go back, and no step is longer than this.
    fn is_steady(&self, longest_ms: i64) -> Result<()> {
        for track in [&self.video, &self.audio] {
            for pair in track.windows(2) {
                let step = pair[1].pts_ms - pair[0].pts_ms;
                ensure!((0..=longest_ms).contains(&step), "{}: a step of {step} ms at {} ms", self.by, pair[0].pts_ms);
            }
        }
        Ok(())
    }

    /// The same pictures as these.
    fn shows(&self, want: &[Packet]) -> Result<()> {
        let times = || self.video.iter().map(|packet| packet.pts_ms).collect::<Vec<_>>();
        ensure!(self.video.len() == want.len(), "{}: wanted {} pictures, got {}: {:?}", self.by, want.len(), self.video.len(), times());
        let differs = self.video.iter().zip(want).position(|(got, want)| got.hash != want.hash);
        ensure!(differs.is_none(), "{}: picture {differs:?} differs", self.by);
        Ok(())
    }
}

/// Lists what is decoded: stream 0 are the pictures, stream 1 the sound.
fn decoder(url: &str) -> Result<Child> {
    let decode = [
        "-v",
        "error",
        "-copyts",
        "-i",
        url,
        "-map",
        "0:v",
        "-map",
        "0:a?",
        "-fps_mode",
        "passthrough",
        "-enc_time_base",
        "-1",
        "-f",
        "framehash",
        "-hash",
        "md5",
        "-",
    ];
    let mut player = Command::new("timeout");
    player.args(["90", "ffmpeg"]).args(decode).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    player.spawn().context("starting a player")
}

/// Publishes these records while a player of each protocol watches, then has the whole decoded from HLS.
fn watch(server: &Server, name: &str, records: &[Record]) -> Result<[Decoded; 3]> {
    let players = [("FLV", decoder(&server.http(&format!("live/{name}.flv")))?), ("RTMP", decoder(&server.rtmp(name))?)];
    server.wait_placed(name, 2)?;
    let mut client = RtmpClient::publish(&server.rtmp(name))?;
    // Viewers begin with the newest keyframe: the first goes alone.
    let first = records.iter().position(|record| record.kind == Video && !record.is_header()).context("no frame")?;
    records[..=first].iter().try_for_each(|record| client.push(record))?;
    let viewers = || server.workers_counter("flv_viewers") >= 1 && server.workers_counter("rtmp_viewers") >= 1;
    eventually(PATIENCE, || viewers().then_some(())).context("the players do not play")?;
    records[first + 1..].iter().try_for_each(|record| client.push(record))?;
    client.end()?;
    // A connection that is closed with answers unread takes with it what the server has not read.
    let ended = || server.stream(name).ok().flatten().is_none_or(|stream| stream["state"] != "live");
    eventually(PATIENCE, || ended().then_some(())).context("the stream does not end")?;
    drop(client);
    let [flv, rtmp] = players.map(|(by, child)| child.wait_with_output().map(|output| Decoded::of(by, &output)));
    Ok([flv?, rtmp?, by_hls(server, name)?])
}

/// The whole of a stream that has ended.
fn by_hls(server: &Server, name: &str) -> Result<Decoded> {
    let index = server.stream_dir(name).join("hls/index.m3u8");
    let ended = || std::fs::read_to_string(&index).ok().filter(|text| text.contains("#EXT-X-ENDLIST"));
    eventually(PATIENCE, ended).context("no end of the index")?;
    let output = decoder(&server.http(&format!("live/{name}.m3u8")))?.wait_with_output()?;
    Ok(Decoded::of("HLS", &output))
}

fn pictures(clip: Clip, seconds: u32) -> Result<Vec<Packet>> {
    media::frames(&clip.file(seconds)?.to_string_lossy(), "v", PATIENCE)
}

fn is_metadata(record: &Record) -> bool {
    record.kind == Data
}

fn is_key(record: &Record) -> bool {
    TagInfo::of(record.kind, &record.payload).keyframe
}

fn is_sequence_header(record: &Record) -> bool {
    record.kind != Data && record.is_header()
}

/// NAL units with start codes instead of lengths of four bytes.
fn with_start_codes(record: Record) -> Record {
    if record.kind != Video || record.is_header() || record.payload[1] != 1 {
        return record;
    }
    let (head, mut body) = record.payload.split_at(5);
    let mut payload = head.to_vec();
    while let Some((length, rest)) = body.split_first_chunk::<4>() {
        let (unit, rest) = rest.split_at(u32::from_be_bytes(*length) as usize);
        payload.extend_from_slice(&[0, 0, 0, 1]);
        payload.extend_from_slice(unit);
        body = rest;
    }
    Record { payload, ..record }
}

/// A frame with the parameter sets of an AVC configuration record in front, as start codes.
fn with_parameter_sets(frame: Record, header: &Record) -> Record {
    let record = &header.payload[5..];
    let sps_bytes = usize::from(u16::from_be_bytes([record[6], record[7]]));
    let (sps, rest) = record[8..].split_at(sps_bytes);
    let pps_bytes = usize::from(u16::from_be_bytes([rest[1], rest[2]]));
    let code = [0, 0, 0, 1];
    let payload = [&frame.payload[..5], &code, sps, &code, &rest[3..3 + pps_bytes], &frame.payload[5..]].concat();
    Record { payload, ..frame }
}

#[test]
fn metadata_that_is_missing_late_repeated_or_changing() -> Result<()> {
    let server = server()?;
    let clip = Clip::BFrames.records(3)?;
    let want = pictures(Clip::BFrames, 3)?;
    let metadata = clip.iter().find(|record| is_metadata(record)).context("no metadata")?.clone();
    let without: Vec<Record> = clip.iter().filter(|record| !is_metadata(record)).cloned().collect();
    let late = [&without[..60], std::slice::from_ref(&metadata), &without[60..]].concat();
    let often = |change: bool| -> Vec<Record> {
        let at = |place: usize, record: &Record| {
            let width = Value::EcmaArray(vec![("width".to_owned(), if change { place as f64 } else { 320.0 }.into())]);
            let RawMessage { payload, .. } = RawMessage::amf0(0, 0, &["onMetaData".into(), width]);
            [Record { kind: Data, timestamp_ms: record.timestamp_ms, payload }, record.clone()]
        };
        without.iter().enumerate().flat_map(|(place, record)| at(place, record)).collect()
    };
    for (name, records) in [("missing", without.clone()), ("late", late), ("repeated", often(false)), ("changing", often(true))] {
        for decoded in watch(&server, name, &records).context(name)? {
            decoded.is_clean().and_then(|()| decoded.shows(&want)).context(name)?;
        }
    }
    Ok(())
}

#[test]
fn sequence_headers_that_come_twice() -> Result<()> {
    let server = server()?;
    let clip = Clip::BFrames.records(3)?;
    let headers: Vec<Record> = clip.iter().filter(|record| is_sequence_header(record)).cloned().collect();
    let again =
        |record: &Record| headers.iter().map(|header| Record { timestamp_ms: record.timestamp_ms, ..header.clone() }).collect::<Vec<_>>();
    let records: Vec<Record> =
        clip.iter().flat_map(|record| [if is_key(record) { again(record) } else { Vec::new() }, vec![record.clone()]].concat()).collect();
    for decoded in watch(&server, "x", &records)? {
        decoded.is_clean()?;
        decoded.shows(&pictures(Clip::BFrames, 3)?)?;
    }
    Ok(())
}

#[test]
fn a_sequence_header_that_comes_late() -> Result<()> {
    let server = server()?;
    let clip = Clip::Plain.records(3)?;
    let header = clip.iter().position(|record| record.kind == Video && is_sequence_header(record)).context("no header")?;
    // It comes before the second keyframe only.
    let second = clip.iter().enumerate().filter(|(_, record)| is_key(record)).nth(1).context("no second keyframe")?.0;
    let mut records = clip.clone();
    let late = Record { timestamp_ms: clip[second].timestamp_ms, ..records.remove(header) };
    records.insert(second - 1, late);
    let want = pictures(Clip::Plain, 3)?.split_off(25);
    let early = Viewer::flv_recorder(server.address("http"), "live/x.flv")?;
    server.wait_placed("x", 1)?;
    let mut client = RtmpClient::publish(&server.rtmp("x"))?;
    records.iter().try_for_each(|record| client.push(record))?;
    // Who was there is given the header before the first frame that needs it; who comes then gets only what can be decoded.
    early.wait_record(|record| *record == records[records.len() - 1])?;
    let got = early.records();
    let header = got.iter().position(|record| record.payload == clip[header].payload).context("the header did not come")?;
    ensure!(
        is_key(&got[header + 1..].iter().find(|record| record.kind == Video).context("no frame")?.clone()),
        "no keyframe behind the header"
    );
    let joiner = decoder(&server.http("live/x.flv"))?;
    eventually(PATIENCE, || (server.workers_counter("flv_viewers") >= 2).then_some(())).context("nobody plays")?;
    client.end()?;
    drop(client);
    let joined = Decoded::of("FLV", &joiner.wait_with_output()?);
    joined.is_clean()?;
    joined.shows(&want[want.len() - joined.video.len().clamp(25, want.len())..])?;
    // Its first segment has sound alone; the next one begins with the first picture that can be decoded.
    by_hls(&server, "x")?;
    let hls = server.stream_dir("x").join("hls");
    let index = std::fs::read_to_string(hls.join("index.m3u8"))?;
    ensure!(index.contains("#EXT-X-DISCONTINUITY\n"), "{index}");
    let segments = index.lines().filter(|line| line.ends_with(".ts")).map(|name| std::fs::read(hls.join(name)));
    let whole = server.state_dir.join("whole.ts");
    std::fs::write(&whole, segments.collect::<std::io::Result<Vec<_>>>()?.concat())?;
    let pictures = media::frames(&whole.to_string_lossy(), "v", PATIENCE)?;
    ensure!(
        pictures.len() == want.len() && pictures.iter().zip(&want).all(|(got, want)| got.hash == want.hash),
        "{} pictures",
        pictures.len()
    );
    Ok(())
}

#[test]
fn a_picture_that_changes_its_size() -> Result<()> {
    let server = server()?;
    let (small, wide) = (Clip::Plain.records(2)?, Clip::Wide.records(2)?);
    let later = wide.into_iter().map(|record| Record { timestamp_ms: record.timestamp_ms + 2_000, ..record });
    let records: Vec<Record> = small.into_iter().filter(|record| record.payload[..2] != [0x17, 2]).chain(later).collect();
    for decoded in watch(&server, "x", &records)? {
        decoded.is_clean()?;
        // ffmpeg scales to the first size: the number says it.
        ensure!(decoded.video.len() == 100, "{}: {} pictures", decoded.by, decoded.video.len());
        decoded.is_steady(100)?;
    }
    Ok(())
}

#[test]
fn start_codes_with_and_without_a_sequence_header() -> Result<()> {
    let server = server()?;
    let clip = Clip::BFrames.records(3)?;
    let want = pictures(Clip::BFrames, 3)?;
    let header = clip.iter().find(|record| record.kind == Video && is_sequence_header(record)).context("no header")?.clone();
    let with: Vec<Record> = clip.iter().cloned().map(with_start_codes).collect();
    let without: Vec<Record> = with
        .iter()
        .filter(|record| **record != header)
        .map(|record| if is_key(record) { with_parameter_sets(record.clone(), &header) } else { record.clone() })
        .collect();
    for (name, records) in [("with", with), ("without", without)] {
        for decoded in watch(&server, name, &records).context(name)? {
            decoded.is_clean().and_then(|()| decoded.shows(&want)).context(name)?;
        }
        server.wait_log(&[&format!("stream=live/{name}"), "start codes"])?;
    }
    ensure!(server.workers_counter("video_converted") >= 150, "{}", server.workers_counter("video_converted"));
    Ok(())
}

/// The parameter sets of an HEVC configuration record (ISO/IEC 14496-15 section 8.3.3.1), with start codes.
fn hevc_parameter_sets(record: &[u8]) -> Vec<u8> {
    let (mut rest, mut sets) = (&record[23..], Vec::new());
    for _ in 0..record[22] {
        let count = u16::from_be_bytes([rest[1], rest[2]]);
        rest = &rest[3..];
        for _ in 0..count {
            let (set, after) = rest[2..].split_at(usize::from(u16::from_be_bytes([rest[0], rest[1]])));
            sets.extend_from_slice(&[0, 0, 0, 1]);
            sets.extend_from_slice(set);
            rest = after;
        }
    }
    sets
}

#[test]
fn hevc_with_start_codes_and_no_sequence_header() -> Result<()> {
    let server = server()?;
    let file = NextClip::HevcOpus.file(3)?;
    let clip = media::flv_records(&std::fs::read(&file)?);
    let header = clip.iter().find(|record| record.payload.starts_with(b"\x90hvc1")).context("no header")?.clone();
    let sets = hevc_parameter_sets(&header.payload[5..]);
    let convert = |record: &Record| {
        let head = match (record.kind, record.payload[0] & 0x0f) {
            (Video, 1) => 8,
            (Video, 3) => 5,
            _ => return record.clone(),
        };
        let (head, mut body) = record.payload.split_at(head);
        let mut payload = head.to_vec();
        payload.extend_from_slice(if is_key(record) { &sets } else { &[] });
        while let Some((length, rest)) = body.split_first_chunk::<4>() {
            let (unit, rest) = rest.split_at(u32::from_be_bytes(*length) as usize);
            payload.extend_from_slice(&[0, 0, 1]);
            payload.extend_from_slice(unit);
            body = rest;
        }
        Record { payload, ..record.clone() }
    };
    let records: Vec<Record> = clip.iter().filter(|record| **record != header).map(convert).collect();
    let listing = |source: &str| -> Result<Vec<Packet>> {
        let arguments = ["-v", "error", "-i", source, "-map", "0:v", "-fps_mode", "passthrough", "-f", "framehash", "-hash", "md5", "-"];
        let output = run(&next::program()?, &arguments, PATIENCE)?;
        Ok(media::parse_framehash(&String::from_utf8_lossy(&output.stdout)))
    };
    let viewer = Viewer::flv_recorder(server.address("http"), "live/x.flv")?;
    server.wait_placed("x", 1)?;
    let mut client = RtmpClient::publish(&server.rtmp("x"))?;
    let first = records.iter().position(is_key).context("no keyframe")?;
    records[..=first].iter().try_for_each(|record| client.push(record))?;
    viewer.wait_record(is_key)?;
    records[first + 1..].iter().try_for_each(|record| client.push(record))?;
    let last = records.iter().rfind(|record| record.kind == Audio).context("no sound")?;
    viewer.wait_record(|record| record == last)?;
    // What the viewer has got, as a file for an ffmpeg that knows the codec.
    let mut flv = FILE_HEADER.to_vec();
    viewer.records().iter().for_each(|record| write_record(&mut flv, record.kind, record.timestamp_ms, &record.payload));
    let got = server.state_dir.join("got.flv");
    std::fs::write(&got, flv)?;
    let (want, got) = (listing(&file.to_string_lossy())?, listing(&got.to_string_lossy())?);
    ensure!(want.len() == 75 && got.len() == want.len(), "wanted {} pictures, got {}", want.len(), got.len());
    ensure!(got.iter().zip(&want).all(|(got, want)| got.hash == want.hash), "other pictures");
    Ok(())
}

#[test]
fn clocks_that_jump() -> Result<()> {
    let server = server()?;
    let clip = Clip::Plain.records(4)?;
    let want = pictures(Clip::Plain, 4)?;
    let jump = |from: u32, by: i64| -> Vec<Record> {
        let moved =
            |record: &Record| if record.timestamp_ms >= from { (i64::from(record.timestamp_ms) + by) as u32 } else { record.timestamp_ms };
        clip.iter().map(|record| Record { timestamp_ms: moved(record), ..record.clone() }).collect()
    };
    for (name, records) in [("forward", jump(2_000, 3_600_000)), ("back", jump(2_000, -2_000)), ("wild", jump(2_000, 1 << 30))] {
        let back_enough: Vec<Record> = if name == "back" {
            // A clock that starts anew has run for a while.
            jump(0, 0)
                .iter()
                .map(|record| Record {
                    timestamp_ms: if record.timestamp_ms < 2_000 { record.timestamp_ms + 600_000 } else { record.timestamp_ms - 2_000 },
                    ..record.clone()
                })
                .collect()
        } else {
            records
        };
        for decoded in watch(&server, name, &back_enough).context(name)? {
            decoded.is_clean().and_then(|()| decoded.shows(&want)).and_then(|()| decoded.is_steady(200)).context(name)?;
        }
    }
    Ok(())
}

#[test]
fn sound_that_is_an_hour_ahead() -> Result<()> {
    let server = server()?;
    let clip = Clip::Plain.records(4)?;
    let ahead = |record: &Record| record.timestamp_ms + if record.kind == Audio && !record.is_header() { 3_600_000 } else { 0 };
    let records: Vec<Record> = clip.iter().map(|record| Record { timestamp_ms: ahead(record), ..record.clone() }).collect();
    for decoded in watch(&server, "x", &records)? {
        decoded.is_clean()?;
        decoded.shows(&pictures(Clip::Plain, 4)?)?;
        decoded.is_steady(200)?;
        let apart = decoded.video[50].pts_ms - decoded.audio[80].pts_ms;
        ensure!(apart.abs() < 1_000, "{}: sound and picture are {apart} ms apart", decoded.by);
    }
    Ok(())
}

#[test]
fn frames_that_are_shown_before_they_are_decoded() -> Result<()> {
    let server = server()?;
    let clip = Clip::BFrames.records(3)?;
    // The same presentation times, said by decoding times 80 ms later: composition times become negative.
    let later = |record: &Record| {
        let mut record = record.clone();
        if record.kind == Video && record.payload[1] == 1 {
            let composition_ms = i32::from_be_bytes([record.payload[2], record.payload[3], record.payload[4], 0]) >> 8;
            record.payload[2..5].copy_from_slice(&(composition_ms - 80).to_be_bytes()[1..]);
            record.timestamp_ms += 80;
        }
        record
    };
    let records: Vec<Record> = clip.iter().map(later).collect();
    for decoded in watch(&server, "x", &records)? {
        decoded.shows(&pictures(Clip::BFrames, 3)?)?;
        decoded.is_steady(100)?;
    }
    Ok(())
}

/// Frames so many milliseconds apart, of a clip with a keyframe every `group` frames.
fn paced(clip: Clip, seconds: u32, step_ms: f64) -> Result<Vec<Record>> {
    let mut frame = 0.0;
    let mut pace = |record: Record| {
        let timestamp_ms = (frame * step_ms) as u32;
        frame += f64::from(u8::from(record.kind == Video && !record.is_header()));
        Record { timestamp_ms, ..record }
    };
    Ok(clip.records(seconds)?.into_iter().filter(|record| record.kind != Audio).map(&mut pace).collect())
}

#[test]
fn one_frame_a_second_and_two_hundred_and_forty() -> Result<()> {
    let server = server()?;
    for (name, step_ms, longest) in [("slow", 1_000.0, 1_001), ("fast", 1_000.0 / 240.0, 10)] {
        for decoded in watch(&server, name, &paced(Clip::VideoOnly, 4, step_ms)?).context(name)? {
            decoded.is_clean().and_then(|()| decoded.shows(&pictures(Clip::VideoOnly, 4)?)).context(name)?;
            decoded.is_steady(longest).context(name)?;
        }
    }
    Ok(())
}

#[test]
fn a_hundred_megabits_a_second() -> Result<()> {
    let server = server_that_waits("10s")?;
    // Two seconds of pictures with half a megabyte each, mostly filler that decoders skip (NAL unit type 12).
    let mut records = Clip::VideoOnly.records(2)?;
    for record in records.iter_mut().filter(|record| record.kind == Video && record.payload[1] == 1) {
        let filler = [&[12][..], &vec![0xff; 500_000], &[0x80]].concat();
        record.payload.extend_from_slice(&(filler.len() as u32).to_be_bytes());
        record.payload.extend_from_slice(&filler);
    }
    for decoded in watch(&server, "x", &records)? {
        decoded.is_clean()?;
        decoded.shows(&pictures(Clip::VideoOnly, 2)?)?;
    }
    Ok(())
}

#[test]
fn a_stream_without_keyframes_starts_all_the_same() -> Result<()> {
    let server = server()?;
    let clip = Clip::Plain.records(6)?;
    // Only the first frame says that it is one; with `never`, not even that.
    for (name, keep) in [("first", 1), ("never", 0)] {
        let mut keys = 0;
        let mut lower = |mut record: Record| {
            if is_key(&record) {
                keys += 1;
                if keys > keep {
                    record.payload[0] = 0x27;
                }
            }
            record
        };
        let records: Vec<Record> = clip.iter().cloned().map(&mut lower).collect();
        let mut client = RtmpClient::publish(&server.rtmp(name))?;
        records.iter().try_for_each(|record| client.push(record))?;
        server.wait_live(name)?;
        let joiner = decoder(&server.http(&format!("live/{name}.flv")))?;
        eventually(PATIENCE, || (server.workers_counter("flv_viewers") >= 1).then_some(())).context("nobody plays")?;
        client.end()?;
        drop(client);
        let joined = Decoded::of("FLV", &joiner.wait_with_output()?);
        // The whole from the only keyframe on; else the newest block, and what can be decoded of it.
        let least = if keep == 1 { 150 } else { 20 };
        ensure!(joined.video.len() >= least, "{name}: {} pictures\n{}", joined.video.len(), joined.said);
        ensure!(joined.audio.len() >= 30, "{name}: {} pieces of sound", joined.audio.len());
    }
    Ok(())
}

#[test]
fn names_of_every_kind() -> Result<()> {
    let server = server()?;
    let records = Clip::Plain.records(2)?;
    let rtmp = server.address("rtmp");
    // What the encoder sends as app and stream; what the stream is called; where a player finds it.
    let names = [
        ("live", "with space", "with space", "live/with%20space.flv"),
        ("live", "Grüße-東京", "Grüße-東京", "live/Gr%C3%BC%C3%9Fe-%E6%9D%B1%E4%BA%AC.flv"),
        ("live/_definst_", "definst", "definst", "live/definst.flv"),
        ("live", "key?token=a/b&x=1", "key", "live/key.flv?token=a/b"),
        ("live", "room/inner", "inner", "live/room/inner.flv"),
        ("live", "mp4:file.name", "mp4:file.name", "live/mp4:file.name.flv"),
    ];
    for (app, sent, stream, path) in names {
        let mut raw = RawRtmp::connect(rtmp)?;
        for call in RawRtmp::publish_calls(rtmp, app, sent) {
            raw.send(&call)?;
        }
        raw.wait_status("NetStream.Publish.Start").with_context(|| sent.to_owned())?;
        records.iter().try_for_each(|record| raw.send(&RawMessage::media(record)))?;
        let viewer = Viewer::flv_recorder(server.address("http"), path)?;
        viewer.wait_record(|record| record.kind == Video).with_context(|| sent.to_owned())?;
        ensure!(server.wait_live(stream)?["video"] == "H.264", "{sent}");
    }
    Ok(())
}

#[test]
fn an_extended_timestamp_at_its_edge() -> Result<()> {
    let server = server()?;
    // 0xFFFFFF itself is said by an extended timestamp, on every chunk or on the first only.
    for (name, repeats) in [("repeats", true), ("omits", false)] {
        let viewer = Viewer::flv_recorder(server.address("http"), &format!("live/{name}.flv"))?;
        server.wait_placed(name, 1)?;
        let mut raw = RawRtmp::publish(server.address("rtmp"), name)?;
        let mut sent = Vec::new();
        for (place, timestamp_ms) in [0x00ff_fffe, 0x00ff_ffff, 0x0100_0000, 0x0100_0028].into_iter().enumerate() {
            let payload = [&[0x12, 0xaa][..], &vec![place as u8 + 1; 1_000]].concat();
            let record = Record { kind: Video, timestamp_ms, payload };
            for (chunk, bytes) in RawMessage::media(&record).chunks(128).into_iter().enumerate() {
                let extended = timestamp_ms >= 0x00ff_ffff && chunk > 0 && !repeats;
                raw.write(&if extended { [&bytes[..1], &bytes[5..]].concat() } else { bytes })?;
            }
            sent.push(record);
        }
        viewer.wait_record(|record| *record == sent[3]).context(name)?;
        let got: Vec<Record> = viewer.records().into_iter().filter(|record| record.kind == Video).collect();
        ensure!(got.len() <= 4 && sent.ends_with(&got), "{name}: {} records", got.len());
    }
    Ok(())
}

/// The tags of an enhanced stream as encoders wrote H.265 before there was a FourCC: codec id 12.
fn hevc_by_codec_id(records: Vec<Record>) -> Vec<Record> {
    let retag = |mut record: Record| {
        if record.kind == Video && record.payload.get(1..5) == Some(b"hvc1") {
            let first = (record.payload[0] & 0x70) | 12;
            let (packet_type, body) = (record.payload[0] & 0x0f, record.payload.split_off(5));
            record.payload = match packet_type {
                0 | 2 => [&[first, packet_type, 0, 0, 0][..], &body].concat(),
                1 => [&[first, 1][..], &body].concat(),
                _ => [&[first, 1, 0, 0, 0][..], &body].concat(),
            };
        }
        record
    };
    records.into_iter().filter(|record| record.payload.first() != Some(&0xd4)).map(retag).collect()
}

#[test]
fn hevc_of_codec_id_12() -> Result<()> {
    let server = server()?;
    let records = hevc_by_codec_id(media::flv_records(&std::fs::read(NextClip::HevcOpus.file(3)?)?));
    let viewers = [Viewer::flv_recorder(server.address("http"), "live/x.flv")?, Viewer::rtmp_recorder(&server.rtmp("x"))?];
    server.wait_placed("x", 2)?;
    let mut client = RtmpClient::publish(&server.rtmp("x"))?;
    let first = records.iter().position(is_key).context("no keyframe")?;
    records[..=first].iter().try_for_each(|record| client.push(record))?;
    for viewer in &viewers {
        viewer.wait_record(|record| *record == records[first])?;
    }
    records[first + 1..].iter().try_for_each(|record| client.push(record))?;
    ensure!(server.wait_live("x")?["video"] == "H.265", "the status names another codec");
    let pictures: Vec<Record> = records.iter().filter(|record| record.kind == Video && !record.is_header()).cloned().collect();
    for viewer in viewers {
        viewer.wait_record(|record| Some(record) == pictures.last())?;
        let got: Vec<Record> = viewer.records().into_iter().filter(|record| record.kind == Video && !record.is_header()).collect();
        ensure!(got == pictures, "{} of {} pictures", got.len(), pictures.len());
    }
    Ok(())
}

#[test]
fn vp8_by_fourcc() -> Result<()> {
    let server = server()?;
    let dir = tempfile::tempdir()?;
    let ivf = dir.path().join("clip.ivf");
    // No ffmpeg writes VP8 into FLV: its frames come from another container.
    let picture = "testsrc2=size=320x180:rate=25";
    let arguments =
        ["-v", "error", "-f", "lavfi", "-i", picture, "-t", "2", "-c:v", "libvpx", "-deadline", "realtime", "-g", "25", "-f", "ivf"];
    let made = run(&next::program()?, &[&arguments[..], &[&ivf.to_string_lossy()]].concat(), PATIENCE)?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let bytes = std::fs::read(&ivf)?;
    let (mut rest, mut records) = (&bytes[32..], Vec::new());
    while let Some((head, after)) = rest.split_first_chunk::<12>() {
        let (frame, after) = after.split_at(u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize);
        // Bit 0 of a frame's first byte says that it is no keyframe (RFC 6386 section 9.1).
        let first = if frame[0] & 1 == 0 { 0x91 } else { 0xa1 };
        records.push(Record { kind: Video, timestamp_ms: records.len() as u32 * 40, payload: [&[first][..], b"vp08", frame].concat() });
        rest = after;
    }
    ensure!(records.len() >= 50, "{} frames", records.len());
    let viewers = [Viewer::flv_recorder(server.address("http"), "live/x.flv")?, Viewer::rtmp_recorder(&server.rtmp("x"))?];
    server.wait_placed("x", 2)?;
    let mut client = RtmpClient::publish(&server.rtmp("x"))?;
    client.push(&records[0])?;
    for viewer in &viewers {
        viewer.wait_record(|record| *record == records[0])?;
    }
    records[1..].iter().try_for_each(|record| client.push(record))?;
    ensure!(server.wait_live("x")?["video"] == "VP8", "the status names another codec");
    for viewer in viewers {
        viewer.wait_record(|record| Some(record) == records.last())?;
        let got: Vec<Record> = viewer.records().into_iter().filter(|record| record.kind == RecordKind::Video).collect();
        ensure!(got == records, "{} of {} frames", got.len(), records.len());
    }
    Ok(())
}

#[test]
fn encoders_that_never_acknowledge_and_ask_for_no_acknowledgement() -> Result<()> {
    let server = server()?;
    let mut raw = RawRtmp::publish(server.address("rtmp"), "x")?;
    raw.send(&RawMessage::control(message_type::WINDOW_ACKNOWLEDGEMENT_SIZE, 0))?;
    // More than the window that the server announces, several times, without a word of acknowledgement.
    let frame = |at: u32| Record { kind: Video, timestamp_ms: at * 40, payload: [&[0x12][..], &vec![at as u8; 1_000_000]].concat() };
    for at in 0..10 {
        raw.send(&RawMessage::media(&frame(at)))?;
    }
    let viewer = Viewer::flv_recorder(server.address("http"), "live/x.flv")?;
    viewer.wait_record(|record| *record == frame(9))?;
    while let Some(message) = raw.next(Duration::from_millis(100))? {
        ensure!(message.message_type != message_type::ACKNOWLEDGEMENT, "it is acknowledged what was not asked for");
    }
    Ok(())
}

#[test]
fn a_late_joiner_finds_the_index() -> Result<()> {
    let server = server()?;
    let clip = Clip::LongGop.records(13)?;
    let mut client = RtmpClient::publish(&server.rtmp("x"))?;
    clip.iter().try_for_each(|record| client.push(record))?;
    // Ten seconds between keyframes: segments are cut without one, and the joiner by FLV starts with the newest keyframe.
    eventually(PATIENCE, || http_get(&server.http("live/x.m3u8")).ok().filter(|answer| answer.status == 200)).context("no index")?;
    let viewer = Viewer::flv_recorder(server.address("http"), "live/x.flv")?;
    viewer.wait_more(70)?;
    let records = viewer.records();
    let first = records.iter().find(|record| record.kind == Video && !record.is_header()).context("no frame")?;
    let newest = clip.iter().rfind(|record| is_key(record)).context("no keyframe")?;
    ensure!(first == newest && newest.timestamp_ms > 9_000, "{:?} at {}", first.kind, first.timestamp_ms);
    Ok(())
}
