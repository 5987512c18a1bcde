//! HLS files where the configuration wants them, made of the segments of the server inside: numbered from 0 in each life of a stream,
//! each under its name only when it is whole, an index of SRS's form beside them.

use crate::Shared;
use crate::clients::Stream;
use crate::conf::Hls;
use anyhow::Result;
use braidcast_media::StreamKey;
use std::collections::{HashMap, VecDeque};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often it is looked for new segments.
const LOOK: Duration = Duration::from_millis(50);

/// How far a stream has come.
#[derive(Default)]
struct Progress {
    /// The last segment of the server inside that was taken.
    taken: u64,
    /// The publisher whose segments come now, and the life of the stream it belongs to.
    publish: u32,
    life: u32,
    next: u64,
    listed: VecDeque<Segment>,
}

struct Segment {
    number: u64,
    seconds: f64,
    discontinuity: bool,
}

/// Looks for segments without end.
pub fn run(shared: &Shared, root: &Path) {
    let mut streams: HashMap<StreamKey, Progress> = HashMap::new();
    loop {
        for stream in shared.clients.streams() {
            let Some(hls) = shared.conf.hls(stream.key.vhost()) else { continue };
            let progress = streams.entry(stream.key.clone()).or_default();
            if let Err(error) = take(hls, shared.conf.vhost(stream.key.vhost()), &stream, progress, root) {
                println!("{}: {error:#}", stream.key);
            }
        }
        std::thread::sleep(LOOK);
    }
}

fn take(hls: &Hls, vhost: &str, stream: &Stream, progress: &mut Progress, root: &Path) -> Result<()> {
    let inner = braidcast_stream_log::path::Root::new(root.to_owned()).hls_dir(&stream.key);
    let Ok(index) = std::fs::read_to_string(inner.join("index.m3u8")) else { return Ok(()) };
    for (number, seconds) in segments(&index).filter(|(number, _)| *number > progress.taken).collect::<Vec<_>>() {
        if progress.life != stream.life {
            progress.life = stream.life;
            progress.next = 0;
            progress.listed.clear();
        }
        let discontinuity = std::mem::replace(&mut progress.publish, stream.publish) != stream.publish;
        let target = place(hls, vhost, &stream.key, &hls.ts_file, progress.next);
        whole(&target, &std::fs::read(inner.join(format!("{number}.ts")))?)?;
        progress.listed.push_back(Segment { number: progress.next, seconds, discontinuity });
        (progress.taken, progress.next) = (number, progress.next + 1);
        while progress.listed.iter().map(|segment| segment.seconds).sum::<f64>() > hls.window.as_secs_f64() && progress.listed.len() > 1 {
            let Some(old) = progress.listed.pop_front() else { break };
            if hls.cleanup {
                let _ = std::fs::remove_file(place(hls, vhost, &stream.key, &hls.ts_file, old.number));
            }
        }
        let m3u8 = place(hls, vhost, &stream.key, &hls.m3u8_file, 0);
        whole(&m3u8, listing(&progress.listed, |number| uri(hls, vhost, &stream.key, number)).as_bytes())?;
    }
    Ok(())
}

/// Number and length of what an index lists.
fn segments(index: &str) -> impl Iterator<Item = (u64, f64)> {
    let mut seconds = 0.0;
    index.lines().filter_map(move |line| {
        if let Some(length) = line.strip_prefix("#EXTINF:") {
            seconds = length.split(',').next()?.parse().ok()?;
            return None;
        }
        Some((line.strip_suffix(".ts")?.parse().ok()?, seconds))
    })
}

fn place(hls: &Hls, vhost: &str, key: &StreamKey, pattern: &str, number: u64) -> PathBuf {
    let name = pattern.replace("[vhost]", vhost).replace("[app]", key.app()).replace("[stream]", key.stream());
    hls.path.join(name.replace("[seq]", &number.to_string()))
}

/// What the index calls a segment: its path from the index's directory on.
fn uri(hls: &Hls, vhost: &str, key: &StreamKey, number: u64) -> String {
    let segment = place(hls, vhost, key, &hls.ts_file, number);
    let index = place(hls, vhost, key, &hls.m3u8_file, number);
    let from = index.parent().unwrap_or(&hls.path);
    segment.strip_prefix(from).unwrap_or(&segment).display().to_string()
}

fn listing(listed: &VecDeque<Segment>, uri: impl Fn(u64) -> String) -> String {
    let longest = listed.iter().fold(0.0, |longest: f64, segment| longest.max(segment.seconds)).ceil();
    let first = listed.front().map_or(0, |segment| segment.number);
    let mut text = format!("#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-MEDIA-SEQUENCE:{first}\n#EXT-X-TARGETDURATION:{longest}\n");
    for segment in listed {
        if segment.discontinuity {
            text += "#EXT-X-DISCONTINUITY\n";
        }
        let _ = writeln!(text, "#EXTINF:{:.3}, no desc\n{}", segment.seconds, uri(segment.number));
    }
    text
}

/// Writes a file that has its name only when it is whole.
fn whole(path: &Path, bytes: &[u8]) -> Result<()> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    let part = PathBuf::from(format!("{}.tmp", path.display()));
    std::fs::write(&part, bytes)?;
    Ok(std::fs::rename(&part, path)?)
}
