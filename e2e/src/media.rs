//! Test media made by ffmpeg, and what ffprobe and ffmpeg say of media.

use crate::tools::{Tool, run_ok};
use crate::viewer::Record;
use anyhow::{Context, Result};
use braidcast_media::flv;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long the clip is that live publishers repeat: longer than most tests watch.
const LIVE_SECONDS: u32 = 60;

/// The shape of a test clip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clip {
    /// H.264 with B-frames and AAC, 1 s between keyframes.
    BFrames,
    /// H.264 without B-frames and AAC, 1 s between keyframes.
    Plain,
    /// AAC alone.
    AudioOnly,
    /// H.264 alone.
    VideoOnly,
    /// 10 s between keyframes.
    LongGop,
    /// 0.5 s between keyframes.
    ShortGop,
    /// Every frame a keyframe.
    AllIntra,
    /// H.264 and MP3.
    Mp3,
    /// H.264 alone, 8 Mbit/s.
    Heavy,
    /// Like [`Clip::Plain`] with a larger picture: another codec configuration.
    Wide,
}

impl Clip {
    /// The clip as an FLV file of so many seconds. Made once for all tests, in `target/e2e/clips`; nobody may write to it.
    pub fn file(self, seconds: u32) -> Result<PathBuf> {
        let seconds_text = seconds.to_string();
        let mut arguments = self.arguments();
        arguments.extend(["-t", &seconds_text, "-f", "flv"]);
        cached(&format!("{self:?}-{seconds}"), &arguments)
    }

    /// The clip's records.
    pub fn records(self, seconds: u32) -> Result<Vec<Record>> {
        let bytes = std::fs::read(self.file(seconds)?)?;
        Ok(flv_records(&bytes))
    }

    fn arguments(self) -> Vec<&'static str> {
        let (gop, frames) = match self {
            Self::LongGop => ("250", "0"),
            Self::ShortGop => ("12", "0"),
            Self::AllIntra => ("1", "0"),
            Self::BFrames => ("25", "3"),
            _ => ("25", "0"),
        };
        let mut arguments = Vec::new();
        match self {
            Self::AudioOnly => {}
            // 8 Mbit/s: far more than socket buffers hold for the length of a test.
            Self::Heavy => arguments.extend(["-f", "lavfi", "-i", "testsrc2=size=640x360:rate=25,noise=alls=60:allf=t"]),
            Self::Wide => arguments.extend(["-f", "lavfi", "-i", "testsrc2=size=640x360:rate=25"]),
            _ => arguments.extend(["-f", "lavfi", "-i", "testsrc2=size=320x180:rate=25"]),
        }
        if self.has_audio() {
            arguments.extend(["-f", "lavfi", "-i", "sine=frequency=440:sample_rate=44100"]);
        }
        if self.has_video() {
            arguments.extend(["-c:v", "libx264", "-preset", "ultrafast", "-g", gop, "-keyint_min", gop, "-sc_threshold", "0"]);
            arguments.extend(["-bf", frames, "-threads", "1", "-pix_fmt", "yuv420p"]);
        }
        if self == Self::Heavy {
            arguments.extend(["-b:v", "8M", "-minrate", "8M", "-maxrate", "8M", "-bufsize", "4M"]);
        }
        if self.has_audio() {
            arguments.extend(["-c:a", if self == Self::Mp3 { "libmp3lame" } else { "aac" }, "-b:a", "64k"]);
        }
        arguments
    }

    /// Whether it has pictures.
    pub fn has_video(self) -> bool {
        self != Self::AudioOnly
    }

    /// Whether it has sound.
    pub fn has_audio(self) -> bool {
        !matches!(self, Self::VideoOnly | Self::Heavy)
    }
}

/// The records of an FLV file.
pub fn flv_records(bytes: &[u8]) -> Vec<Record> {
    let body = bytes.get(flv::FILE_HEADER.len()..).unwrap_or_default();
    let record = |record: flv::Record<'_>| Record {
        kind: record.header.kind,
        timestamp_ms: record.header.timestamp_ms,
        payload: record.payload.to_vec(),
    };
    flv::records(body).map(record).collect()
}

/// The file that ffmpeg makes of these arguments, made unless it is there. Tests that want the same one wait for each other.
fn cached(name: &str, arguments: &[&str]) -> Result<PathBuf> {
    cached_by("ffmpeg", name, arguments)
}

/// As [`Clip::file`], by another ffmpeg.
pub fn cached_by(program: &str, name: &str, arguments: &[&str]) -> Result<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/e2e/clips");
    std::fs::create_dir_all(&directory)?;
    let mut hasher = DefaultHasher::new();
    arguments.hash(&mut hasher);
    let file = directory.join(format!("{name}-{:016x}.flv", hasher.finish()));
    // Dropped, and so unlocked, at the end; also when the process is killed.
    let lock = File::create(file.with_extension("lock"))?;
    lock.lock().context("locking a clip")?;
    if !file.exists() {
        let part = file.with_extension("part");
        let part_text = part.to_string_lossy();
        let all = [&["-v", "error", "-y"], arguments, &[&part_text]].concat();
        run_ok(program, &all, Duration::from_secs(300))?;
        std::fs::rename(&part, &file)?;
    }
    Ok(file)
}

/// Publishes a file at its own speed, once.
pub fn publish(file: &Path, url: &str) -> Result<Tool> {
    let file = file.to_string_lossy();
    Tool::start("ffmpeg", &["-v", "error", "-re", "-i", &file, "-c", "copy", "-f", "flv", url])
}

/// Publishes a file at its own speed, again and again.
pub fn publish_loop(file: &Path, url: &str) -> Result<Tool> {
    let file = file.to_string_lossy();
    Tool::start("ffmpeg", &["-v", "error", "-re", "-stream_loop", "-1", "-i", &file, "-c", "copy", "-f", "flv", url])
}

/// Publishes a test picture and a tone without end.
pub fn publish_live(url: &str) -> Result<Tool> {
    publish_loop(&Clip::Plain.file(LIVE_SECONDS)?, url)
}

/// One packet as ffmpeg's framehash muxer lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Stream index.
    pub stream: u32,
    /// Decoding time, in milliseconds.
    pub dts_ms: i64,
    /// Presentation time, in milliseconds.
    pub pts_ms: i64,
    /// Payload bytes.
    pub bytes: u64,
    /// MD5 of the payload.
    pub hash: String,
}

/// The packets of anything ffmpeg can read, undecoded, in order.
pub fn packets(source: &str, within: Duration) -> Result<Vec<Packet>> {
    hashes(source, &["-map", "0", "-c", "copy", "-copyts"], within)
}

/// The decoded frames of one kind (`v` or `a`), in order.
pub fn frames(source: &str, kind: &str, within: Duration) -> Result<Vec<Packet>> {
    let map = format!("0:{kind}");
    hashes(source, &["-map", &map, "-copyts", "-fps_mode", "passthrough"], within)
}

fn hashes(source: &str, options: &[&str], within: Duration) -> Result<Vec<Packet>> {
    let mut arguments = vec!["-v", "error", "-i", source];
    arguments.extend(options);
    arguments.extend(["-f", "framehash", "-hash", "md5", "-"]);
    let text = run_ok("ffmpeg", &arguments, within)?;
    Ok(parse_framehash(&text))
}

/// Reads a framehash listing; times come out in milliseconds whatever the time base.
pub fn parse_framehash(text: &str) -> Vec<Packet> {
    let mut bases: Vec<(i64, i64)> = Vec::new();
    let mut packets = Vec::new();
    for line in text.lines() {
        if let Some(base) = line.strip_prefix("#tb ").and_then(|rest| rest.split_once(": ")).map(|(_, base)| base) {
            let (numerator, denominator) = base.split_once('/').unwrap_or((base, "1"));
            bases.push((numerator.parse().unwrap_or(1), denominator.parse().unwrap_or(1)));
        }
        if line.starts_with('#') || line.is_empty() {
            continue;
        }
        let fields: Vec<&str> = line.split(',').map(str::trim).collect();
        let [stream, dts, pts, _, bytes, hash, ..] = fields[..] else { continue };
        let stream: u32 = stream.parse().unwrap_or(0);
        let (numerator, denominator) = bases.get(stream as usize).copied().unwrap_or((1, 1000));
        let ms = |time: &str| time.parse::<i64>().map_or(i64::MIN, |time| (time * numerator * 1000).div_euclid(denominator));
        packets.push(Packet { stream, dts_ms: ms(dts), pts_ms: ms(pts), bytes: bytes.parse().unwrap_or(0), hash: hash.to_owned() });
    }
    packets
}
