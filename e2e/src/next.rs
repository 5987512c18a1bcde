//! The newest ffmpeg: it writes and reads Enhanced RTMP with all its codecs and several tracks, which Debian's does not yet.
//!
//! `make test` brings it; see `need_ffmpeg_next` in `scripts/lib.sh`.

use crate::media::cached_by;
use crate::tools::{Tool, run_ok};
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The program.
pub fn program() -> Result<String> {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/ffmpeg-next/ffmpeg");
    let path = std::env::var_os("BRAIDCAST_TEST_FFMPEG_NEXT").map_or_else(default, PathBuf::from);
    ensure!(path.exists(), "no {}: `make test` brings it, or name one by BRAIDCAST_TEST_FFMPEG_NEXT", path.display());
    Ok(path.to_string_lossy().into_owned())
}

const PICTURE: [&str; 4] = ["-f", "lavfi", "-i", "testsrc2=size=320x180:rate=25"];
const LARGE_PICTURE: [&str; 4] = ["-f", "lavfi", "-i", "testsrc2=size=480x270:rate=25"];
const TONE: [&str; 4] = ["-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000"];
const HIGH_TONE: [&str; 4] = ["-f", "lavfi", "-i", "sine=frequency=880:sample_rate=48000"];

const X264: [&str; 8] = ["libx264", "-preset", "ultrafast", "-bf", "2", "-pix_fmt", "yuv420p", "-sc_threshold"];
const X265: &str = "log-level=none:pools=1:frame-threads=1:bframes=2:scenecut=0:keyint=25:min-keyint=25";
const X265_HDR: &str = "log-level=none:pools=1:frame-threads=1:bframes=2:scenecut=0:keyint=25:min-keyint=25:max-cll=1000,400:\
    master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,1)";

/// What is encoded, one keyframe a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextClip {
    /// H.265 with B-frames, Opus.
    HevcOpus,
    /// AV1, FLAC.
    Av1Flac,
    /// VP9, AC-3.
    Vp9Ac3,
    /// H.264 with B-frames, E-AC-3.
    AvcEac3,
    /// H.264 with B-frames, AAC.
    AvcAac,
    /// H.264 with B-frames, MP3.
    AvcMp3,
    /// H.265 of 10 bits with HDR's colours and brightness, no sound.
    Hdr,
    /// Two pictures (H.264, H.265) and three sounds (AAC, Opus, AC-3).
    Tracks,
    /// One picture (AV1), two sounds of the same codec (Opus).
    TwoSounds,
}

impl NextClip {
    /// All of them.
    pub const ALL: [Self; 9] =
        [Self::HevcOpus, Self::Av1Flac, Self::Vp9Ac3, Self::AvcEac3, Self::AvcAac, Self::AvcMp3, Self::Hdr, Self::Tracks, Self::TwoSounds];

    /// The clip as an FLV file of so many seconds; see [`crate::media::Clip::file`].
    pub fn file(self, seconds: u32) -> Result<PathBuf> {
        let seconds_text = seconds.to_string();
        let mut arguments = self.arguments();
        arguments.extend(["-g", "25", "-t", &seconds_text, "-f", "flv"]);
        cached_by(&program()?, &format!("next-{self:?}-{seconds}"), &arguments)
    }

    /// What an ffmpeg writes that reads the file and encodes nothing, as [`publish`] does: descriptions of the picture may get lost.
    pub fn copied(self, seconds: u32) -> Result<PathBuf> {
        let file = self.file(seconds)?;
        let arguments = ["-i", &file.to_string_lossy(), "-map", "0", "-c", "copy", "-f", "flv"];
        cached_by(&program()?, &format!("next-{self:?}-{seconds}-copied"), &arguments)
    }

    /// The codecs of the first tracks, as `braidcast status` names them.
    pub fn codecs(self) -> (Option<&'static str>, Option<&'static str>) {
        match self {
            Self::HevcOpus => (Some("H.265"), Some("Opus")),
            Self::Av1Flac => (Some("AV1"), Some("FLAC")),
            Self::Vp9Ac3 => (Some("VP9"), Some("AC-3")),
            Self::AvcEac3 => (Some("H.264"), Some("E-AC-3")),
            Self::AvcAac | Self::Tracks => (Some("H.264"), Some("AAC")),
            Self::AvcMp3 => (Some("H.264"), Some("MP3")),
            Self::Hdr => (Some("H.265"), None),
            Self::TwoSounds => (Some("AV1"), Some("Opus")),
        }
    }

    /// Whether a player has to know tracks.
    pub fn has_tracks(self) -> bool {
        matches!(self, Self::Tracks | Self::TwoSounds)
    }

    fn arguments(self) -> Vec<&'static str> {
        let one = |video: &[&'static str], audio: &'static str| [&PICTURE[..], &TONE, &["-c:v"], video, &["-c:a", audio]].concat();
        let x264 = [&X264[..], &["0", "-threads", "1"]].concat();
        let x265 = ["libx265", "-preset", "ultrafast", "-x265-params", X265];
        let svt = ["libsvtav1", "-preset", "12", "-svtav1-params", "lp=1"];
        match self {
            Self::HevcOpus => one(&x265, "libopus"),
            Self::Av1Flac => one(&svt, "flac"),
            Self::Vp9Ac3 => one(&["libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8"], "ac3"),
            Self::AvcEac3 => one(&x264, "eac3"),
            Self::AvcAac => one(&x264, "aac"),
            Self::AvcMp3 => one(&x264, "libmp3lame"),
            Self::Hdr => {
                let colours = ["-color_primaries", "bt2020", "-color_trc", "smpte2084", "-colorspace", "bt2020nc"];
                let x265 = ["-pix_fmt", "yuv420p10le", "-c:v", "libx265", "-preset", "ultrafast", "-x265-params", X265_HDR];
                [&PICTURE[..], &x265, &colours].concat()
            }
            Self::Tracks => {
                let maps = ["-map", "0", "-map", "1", "-map", "2", "-map", "3", "-map", "2"];
                let x265 = ["-c:v:1", "libx265", "-preset:v:1", "ultrafast", "-x265-params", X265];
                let audio = ["-c:a:0", "aac", "-c:a:1", "libopus", "-c:a:2", "ac3"];
                [&PICTURE[..], &LARGE_PICTURE, &TONE, &HIGH_TONE, &maps, &["-c:v:0"], &x264, &x265, &audio].concat()
            }
            Self::TwoSounds => {
                let maps = ["-map", "0", "-map", "1", "-map", "2", "-c:v"];
                [&PICTURE[..], &TONE, &HIGH_TONE, &maps, &svt, &["-c:a", "libopus"]].concat()
            }
        }
    }
}

/// One packet as ffmpeg's framecrc muxer lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The place of its track: pictures come before sounds, each in the order in which they came up.
    pub stream: u32,
    /// Decoding time, in milliseconds.
    pub dts_ms: i64,
    /// Presentation time, in milliseconds.
    pub pts_ms: i64,
    /// Payload bytes.
    pub bytes: usize,
    /// Adler-32 of the payload, from 0.
    pub adler: u32,
    /// A decoder can start with it; true of sound.
    pub keyframe: bool,
}

/// The arguments that have ffmpeg list the packets of a source, undecoded: pictures first, then sounds.
pub fn listing(source: &str) -> Vec<&str> {
    vec!["-v", "error", "-copyts", "-i", source, "-map", "0:v?", "-map", "0:a?", "-c", "copy", "-f", "framecrc", "-"]
}

/// The packets of anything that the newest ffmpeg can read, in order.
pub fn packets(source: &str, within: Duration) -> Result<Vec<Packet>> {
    parse_framecrc(&run_ok(&program()?, &listing(source), within)?)
}

/// Reads a framecrc listing of FLV, whose time base is the millisecond.
pub fn parse_framecrc(text: &str) -> Result<Vec<Packet>> {
    text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).map(parse_line).collect()
}

fn parse_line(line: &str) -> Result<Packet> {
    let fields: Vec<&str> = line.split(',').map(str::trim).collect();
    let [stream, dts, pts, _, bytes, adler, rest @ ..] = &fields[..] else { anyhow::bail!("no packet: {line}") };
    let adler = adler.strip_prefix("0x").context("no checksum")?;
    Ok(Packet {
        stream: stream.parse()?,
        dts_ms: dts.parse()?,
        pts_ms: pts.parse()?,
        bytes: bytes.parse()?,
        adler: u32::from_str_radix(adler, 16)?,
        // Flags are listed unless a packet is a keyframe and nothing else; bit 0 is the keyframe's.
        keyframe: rest.iter().find_map(|field| field.strip_prefix("F=0x")).is_none_or(|flags| flags.ends_with(['1', '3', '5', '7', '9'])),
    })
}

/// Adler-32 (RFC 1950) as framecrc starts it: from 0.
pub fn adler(bytes: &[u8]) -> u32 {
    let (low, high) = bytes.iter().fold((0_u32, 0_u32), |(low, high), byte| {
        let low = (low + u32::from(*byte)) % 65_521;
        (low, (high + low) % 65_521)
    });
    high << 16 | low
}

/// Publishes a file at its own speed, once. `options` go before the URL.
pub fn publish(file: &Path, options: &[&str], url: &str) -> Result<Tool> {
    let file = file.to_string_lossy();
    let arguments = [&["-v", "error", "-re", "-i", &file, "-map", "0", "-c", "copy"], options, &["-f", "flv", url]].concat();
    Tool::start(&program()?, &arguments)
}
