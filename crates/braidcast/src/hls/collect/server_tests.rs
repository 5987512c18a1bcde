//! Real servers segment what a real encoder publishes; a real player's demultiplexer reads our index.
//!
//! Needs `ffmpeg`, `ffprobe`, and nginx with its RTMP module; a real SRS if `SRS_BINARY` names one.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::hls::INDEX;
use std::ffi::OsString;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};
use tempfile::TempDir;

const MODULE: &str = "/usr/lib/nginx/modules/ngx_rtmp_module.so";
const OPTIONS: StoreOptions = StoreOptions { window_ms: 120_000, retention_ms: 240_000, budget_bytes: 64 << 20 };
/// A condition that is not met after this never is.
const PATIENCE: Duration = Duration::from_secs(60);
const FRAMES_PER_SECOND: f64 = 25.0;

/// A child that does not outlive the test.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        let command = std::mem::replace(command, Command::new(""));
        Self(braidcast_sys::child::spawn_dependent(command).unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Site {
    top: TempDir,
    collector: Collector,
    run: u64,
    port: u16,
    taken: Vec<SegmentInfo>,
}

impl Site {
    fn new() -> Self {
        let top = tempfile::Builder::new().prefix("braidcast-collect-").tempdir_in("/dev/shm").unwrap();
        let collector = Collector::new(Root::new(top.path().to_owned()), top.path(), OPTIONS);
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Self { top, collector, run: 1, port, taken: Vec::new() }
    }

    fn sources(&self) -> PathBuf {
        self.top.path().join("engine/1/hls")
    }

    fn config(&self, text: &str) -> PathBuf {
        let path = self.top.path().join("server.conf");
        fs::write(&path, text).unwrap();
        path
    }

    fn nginx(&self) -> Running {
        let (top, path) = (self.top.path().display(), self.sources().join("__defaultVhost__/live"));
        fs::create_dir_all(&path).unwrap();
        let root = fs::metadata("/proc/self").is_ok_and(|it| std::os::unix::fs::MetadataExt::uid(&it) == 0);
        let user = if root { "user root;" } else { "" };
        let config = self.config(&format!(
            "load_module {MODULE};\n{user}\ndaemon off;\nmaster_process off;\npid {top}/pid;\nerror_log stderr warn;\nevents {{ }}\n\
             rtmp {{ access_log off; server {{ listen 127.0.0.1:{}; application live {{ live on; hls on; hls_path {}; hls_nested on;\n\
             hls_fragment 1s; hls_playlist_length 10s; hls_cleanup off; }} }} }}\n",
            self.port,
            path.display()
        ));
        let mut command = Command::new("nginx");
        command.arg("-c").arg(config).arg("-p").arg(self.top.path()).args(["-e", "stderr"]);
        self.started(command)
    }

    fn srs(&self, binary: &OsString) -> Running {
        let (top, sources) = (self.top.path().display(), self.sources());
        let config = self.config(&format!(
            "listen 127.0.0.1:{};\nmax_connections 100;\ndaemon off;\nsrs_log_tank console;\nsrs_log_level error;\npid {top}/srs.pid;\n\
             vhost __defaultVhost__ {{ hls {{ enabled on; hls_path {}; hls_ts_file [vhost]/[app]/[stream]/[seq].ts;\n\
             hls_m3u8_file [vhost]/[app]/[stream]/index.m3u8; hls_fragment 1; hls_window 10; hls_cleanup off; hls_dispose 0; }} }}\n",
            self.port,
            sources.display()
        ));
        let mut command = Command::new(binary);
        command.arg("-c").arg(config).current_dir(self.top.path());
        self.started(command)
    }

    fn started(&self, mut command: Command) -> Running {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let server = Running::start(&mut command);
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(began.elapsed() < PATIENCE, "the server does not listen");
            std::thread::sleep(Duration::from_millis(50));
        }
        server
    }

    fn publish(&self, seconds: u32) -> Running {
        let url = format!("rtmp://127.0.0.1:{}/live/x", self.port);
        let mut command = Command::new("ffmpeg");
        command
            .args("-v error -re -f lavfi -i testsrc=size=160x120:rate=25 -re -f lavfi -i sine".split(' '))
            .arg("-t")
            .arg(seconds.to_string());
        command.args("-c:v libx264 -preset ultrafast -bf 0 -g 25 -c:a aac -f flv".split(' ')).arg(url);
        Running::start(command.stdin(Stdio::null()).stdout(Stdio::null()))
    }

    fn look(&mut self) {
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
        for one in self.collector.look(&[(1, self.run)], now_ms, &mut |_| Some(1)) {
            assert_eq!(one.refused, 0, "{one:?}");
            self.taken.extend(one.finished);
        }
    }

    /// Looks until something is so; another process collects from time to time.
    fn look_until(&mut self, what: &str, mut so: impl FnMut(&Self) -> bool) {
        let (began, mut looks) = (Instant::now(), 0);
        while !so(self) {
            assert!(began.elapsed() < PATIENCE, "{what}");
            looks += 1;
            if looks % 10 == 0 {
                self.collector = Collector::new(Root::new(self.top.path().to_owned()), self.top.path(), OPTIONS);
            }
            self.look();
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Publishes for some seconds; all of it is taken.
    fn publish_and_take(&mut self, seconds: u32) {
        let before = self.media_s();
        let mut encoder = self.publish(seconds);
        self.look_until("all that was published", |site| site.media_s() - before > f64::from(seconds) - 0.5);
        assert!(encoder.0.wait().unwrap().success());
    }

    fn media_s(&self) -> f64 {
        self.taken.iter().map(|info| info.duration_90k).sum::<u64>() as f64 / 90_000.0
    }

    fn hls(&self) -> PathBuf {
        Root::new(self.top.path().to_owned()).hls_dir(&key())
    }
}

fn key() -> StreamKey {
    StreamKey::new("__defaultVhost__", "live", "x").unwrap()
}

/// The times of the frames of the video, in order. SRS ends a publish with an access unit without a picture, which ffprobe finds odd
/// and counts at the last frame's time.
fn frame_times(file: &Path) -> Vec<f64> {
    let mut command = Command::new("ffprobe");
    command.args("-v fatal -select_streams v:0 -show_entries packet=pts_time -of csv=p=0".split(' ')).arg(file);
    let output = command.output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let mut times: Vec<f64> = text.lines().filter_map(|line| line.trim_end_matches(',').parse().ok()).collect();
    times.dedup();
    times
}

/// A publisher comes, comes back, is there when the server dies, and comes back to the next one.
fn a_publisher_comes_and_goes(site: &mut Site, start: impl Fn(&Site) -> Running) {
    let server = start(site);
    site.publish_and_take(4);
    site.publish_and_take(3);
    let before = site.taken.len();
    let encoder = site.publish(60);
    site.look_until("segments of the third publisher", |site| site.taken.len() >= before + 2);
    drop((server, encoder));
    let server = start(site);
    site.run += 1;
    site.publish_and_take(3);
    site.collector.settle(&key(), Settling::End).unwrap();
    drop(server);

    assert_eq!(site.taken.iter().map(|info| info.number).collect::<Vec<_>>(), (1..=site.taken.len() as u64).collect::<Vec<_>>());
    let parts: Vec<&[SegmentInfo]> = site.taken.chunk_by(|_, next| !next.discontinuity).collect();
    assert_eq!(parts.len(), 4, "one discontinuity for each time that something broke off: {:?}", site.taken);
    let mut frames = 0;
    for part in parts {
        let bytes: Vec<u8> = part.iter().flat_map(|info| fs::read(site.hls().join(format!("{}.ts", info.number))).unwrap()).collect();
        let whole = site.top.path().join("part.ts");
        fs::write(&whole, bytes).unwrap();
        let times = frame_times(&whole);
        let steps = times.windows(2).map(|pair| pair[1] - pair[0]);
        assert!(steps.clone().all(|step| (step - 1.0 / FRAMES_PER_SECOND).abs() < 0.005), "no gap: {:?}", steps.collect::<Vec<_>>());
        let listed_s = part.iter().map(|info| info.duration_90k).sum::<u64>() as f64 / 90_000.0;
        assert!((listed_s - times.len() as f64 / FRAMES_PER_SECOND).abs() < 0.15, "{listed_s} s for {} frames", times.len());
        assert!(part.windows(2).all(|pair| pair[0].media_end_90k == pair[1].media_start_90k));
        // Media time is that of the frames.
        assert!((part[0].media_start_90k as f64 / 90_000.0 - times[0]).abs() < 0.1, "{:?}", part[0]);
        frames += times.len();
    }
    // Over a discontinuity the demultiplexer joins SRS's access unit without a picture and the frame that follows.
    let played = frame_times(&site.hls().join(INDEX)).len();
    assert!((frames - 3..=frames).contains(&played), "a player gets {played} of {frames} frames from the index");
}

#[test]
fn nginx_with_rtmp() {
    if !Path::new(MODULE).is_file() {
        eprintln!("skipped: there is no nginx with RTMP at {MODULE}");
        return;
    }
    let mut site = Site::new();
    a_publisher_comes_and_goes(&mut site, Site::nginx);
}

#[test]
fn srs() {
    let Some(binary) = std::env::var_os("SRS_BINARY") else {
        println!("skipped: SRS_BINARY does not name an SRS");
        return;
    };
    let mut site = Site::new();
    a_publisher_comes_and_goes(&mut site, |site| site.srs(&binary));
}
