//! Slow viewers: jumped, counted, and too cheap to notice.

use anyhow::{Context, Result, ensure};
use braidcast_e2e::media::{self, Clip};
use braidcast_e2e::rtmp::RtmpClient;
use braidcast_e2e::tools::eventually;
use braidcast_e2e::viewer::check_flv;
use braidcast_e2e::{Server, ServerOptions, Tool, Viewer};
use braidcast_media::RecordKind;
use braidcast_protocols::rtmp::{ClientOutput, ClientRole};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(90);
/// How many slow viewers share the cost that is measured.
const CROWD: u64 = 100;
/// The most a slow viewer may cost in our process: session, ledger and an answer's head, no frame. Frames of the stream are 40 KB each.
const MAX_COST_BYTES: u64 = 16 << 10;

/// A viewer that reads 10 kB/s.
struct Slow {
    stream: TcpStream,
    taken: Vec<u8>,
}

impl Slow {
    fn start(address: SocketAddr) -> Result<Self> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_nonblocking(true)?;
        write!(stream, "GET /live/x.flv HTTP/1.1\r\nHost: x\r\n\r\n")?;
        Ok(Self { stream, taken: Vec::new() })
    }

    /// A tenth of a second's worth.
    fn sip(&mut self) {
        let mut buffer = [0; 1_000];
        if let Ok(read) = self.stream.read(&mut buffer) {
            self.taken.extend_from_slice(&buffer[..read]);
        }
    }
}

/// Has all sip, ten times a second, until the server has counted so many jumps.
fn sip_until_jumps(server: &Server, crowd: &mut [Slow], jumps: u64) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while server.workers_counter("viewer_jumps") < jumps {
        ensure!(Instant::now() < deadline, "{} jumps, not {jumps}", server.workers_counter("viewer_jumps"));
        crowd.iter_mut().for_each(Slow::sip);
        // The pace of the viewers, not a wait for something.
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Memory that belongs to the process alone, in bytes. The log, which it maps, does not.
fn anonymous_bytes(pid: u32) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let kib = text.lines().find_map(|line| line.strip_prefix("Anonymous:")?.trim().split(' ').next()?.parse::<u64>().ok());
    Ok(kib.context("no anonymous memory in smaps_rollup")? << 10)
}

/// A server that jumps early, and a stream that is too much for a slow viewer.
fn heavy_stream() -> Result<(Server, Tool)> {
    let options =
        ServerOptions::workers(1).set("play.max_lag=2s").set("play.max_lag_bytes=256KiB").set("log.keep=3s").set("log.block_min=500ms");
    let server = Server::start(options)?;
    let publisher = media::publish_loop(&Clip::Heavy.file(20)?, &server.rtmp("x"))?;
    server.wait_live("x")?;
    Ok((server, publisher))
}

#[test]
fn slow_viewers_are_jumped_and_cost_next_to_nothing() -> Result<()> {
    let (server, _publisher) = heavy_stream()?;
    let http = server.address("http");
    let healthy = Viewer::flv(http, "live/x.flv")?;
    healthy.wait_more(10)?;

    // One that reads 10 kB/s is jumped again and again. It also warms up: tables and buffers that exist once are there afterwards.
    let mut crowd = vec![Slow::start(http)?];
    sip_until_jumps(&server, &mut crowd, 2)?;
    let pid = server.worker_pid(1)?;
    let (before, jumps) = (anonymous_bytes(pid)?, server.workers_counter("viewer_jumps"));
    for _ in 0..CROWD {
        crowd.push(Slow::start(http)?);
    }
    sip_until_jumps(&server, &mut crowd, jumps + 2 * CROWD)?;
    let each = anonymous_bytes(pid)?.saturating_sub(before) / CROWD;
    ensure!(each < MAX_COST_BYTES, "a slow viewer costs {each} bytes");

    // Then one of them reads fast: everything it gets is whole records still, times only forward.
    let Slow { stream, taken } = crowd.remove(0);
    drop(crowd);
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_millis(200)))?;
    check_flv(&mut std::io::Cursor::new(taken).chain(stream), 200)?;
    healthy.wait_more(10)?;
    let frames = |server: &Server| server.stream("x").ok().flatten().and_then(|row| row["keyframes"].as_u64());
    let now = frames(&server);
    eventually(PATIENCE, || (frames(&server) > now).then_some(())).context("the publisher was held up")?;
    healthy.end()
}

#[test]
fn an_rtmp_viewer_that_stops_reading_goes_on_at_a_message_and_a_keyframe() -> Result<()> {
    let (server, _publisher) = heavy_stream()?;
    let mut viewer = RtmpClient::start(&server.rtmp("x"), ClientRole::Play)?;
    let mut last_ms = 0;
    for round in 0..3 {
        let jumps = server.workers_counter("viewer_jumps");
        // The first jump may skip nothing, when it is to a keyframe that comes next anyway; further ones skip what lies between.
        server.wait_workers_counter("viewer_jumps", jumps + 3)?;
        // All that is read makes sense, first what lay in the sockets, then what follows the jump: chunks in step, whole messages,
        // times only forward, a keyframe after each gap.
        let deadline = Instant::now() + PATIENCE;
        let (mut gaps, mut after) = (0, 0);
        while after < 50 {
            ensure!(Instant::now() < deadline, "round {round}: {gaps} gaps, {after} frames after them");
            let Some(ClientOutput::Media { kind: RecordKind::Video, timestamp_ms, payload }) = viewer.next(Duration::from_millis(200))?
            else {
                continue;
            };
            ensure!(timestamp_ms >= last_ms, "time went back from {last_ms} to {timestamp_ms}");
            // 25 frames a second.
            if last_ms > 0 && timestamp_ms - last_ms > 60 {
                gaps += 1;
                ensure!(payload[0] >> 4 == 1, "round {round}: after a gap from {last_ms} to {timestamp_ms} comes no keyframe");
            }
            after += u64::from(gaps > 0);
            last_ms = timestamp_ms;
        }
    }
    Ok(())
}
