//! What tests with real encoders and players need: running them, a recording, and what is in a file.

use braidcast_media::{RecordKind, flv};
use std::path::{Path, PathBuf};
use std::process::Command;

pub type Record = (RecordKind, u32, Vec<u8>);

/// Runs a program to its end, for a minute at most; false if it is not installed.
pub fn run(program: &str, arguments: &[&str]) -> bool {
    let version = if program == "ffmpeg" { "-version" } else { "--version" };
    if Command::new(program).arg(version).output().is_err() {
        eprintln!("SKIPPED: {program} is not installed");
        return false;
    }
    let output = Command::new("timeout").arg("60").arg(program).args(arguments).output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{program} {arguments:?}: {}\n{words}", output.status);
    true
}

/// Records some seconds (H.264 with B-frames, and AAC) into a folder of this test's own, and to `also` at the same time.
pub fn recording(test: &str, seconds: &str, also: &[&str]) -> Option<(PathBuf, PathBuf)> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("rtmp-{test}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("source.flv");
    let picture = "testsrc=s=320x180:r=25,noise=alls=40";
    let mut arguments = vec!["-v", "error", "-y", "-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", "sine=r=44100", "-t", seconds];
    arguments.extend(["-map", "0", "-map", "1", "-c:v", "libx264", "-preset", "ultrafast", "-bf", "2", "-g", "25"]);
    arguments.extend(["-pix_fmt", "yuv420p", "-c:a", "aac", "-flags", "+global_header", "-f", "tee"]);
    let outputs = std::iter::once(file.to_str().unwrap()).chain(also.iter().copied());
    let outputs = outputs.map(|output| format!("[f=flv]{output}")).collect::<Vec<_>>().join("|");
    arguments.push(&outputs);
    run("ffmpeg", &arguments).then_some((folder, file))
}

/// Audio and video of an FLV file.
pub fn file_media(file: &Path) -> Vec<Record> {
    let bytes = std::fs::read(file).unwrap();
    let records = flv::records(&bytes[flv::FILE_HEADER.len()..]);
    let all = records.map(|record| (record.header.kind, record.header.timestamp_ms, record.payload.to_vec()));
    all.filter(|record| record.0 != RecordKind::Data).collect()
}

/// The video frames' data, without headers (GStreamer writes composition times anew) and timestamps: what every program
/// must carry over unchanged.
pub fn frames(records: &[Record]) -> Vec<&[u8]> {
    let video = records.iter().filter(|record| record.0 == RecordKind::Video && record.2.get(1) == Some(&1));
    video.map(|record| &record.2[5..]).collect()
}
