//! What clients can do to a worker by coming, going, stopping and starting again: each costs itself alone.

use anyhow::{Context, Result, ensure};
use braidcast_e2e::media;
use braidcast_e2e::server::signal;
use braidcast_e2e::tools::{eventually, http_get};
use braidcast_e2e::{Server, ServerOptions};
use braidcast_media::{RecordKind, flv};
use braidcast_protocols::rtmp::chunk::{ChunkLimits, ChunkReader, Message};
use braidcast_protocols::rtmp::egress;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);

/// An RTMP client that says exactly what a test wants said.
struct Rtmp {
    stream: TcpStream,
    reader: ChunkReader,
    unread: Vec<u8>,
}

fn string(text: &str) -> Vec<u8> {
    [&[2], &(text.len() as u16).to_be_bytes()[..], text.as_bytes()].concat()
}

fn number(value: f64) -> Vec<u8> {
    [&[0], &value.to_be_bytes()[..]].concat()
}

/// A command as one chunk; `arguments` are encoded AMF0 values.
fn command(message_stream: u32, name: &str, transaction: f64, arguments: &[Vec<u8>]) -> Vec<u8> {
    let payload = [string(name), number(transaction), arguments.concat()].concat();
    assert!(payload.len() <= 128, "longer than a chunk");
    let mut bytes = vec![3, 0, 0, 0, 0, 0, payload.len() as u8, 20];
    bytes.extend(message_stream.to_le_bytes());
    bytes.extend(payload);
    bytes
}

impl Rtmp {
    /// Connected to the app `live`, with a message stream.
    fn connect(address: SocketAddr) -> Result<Self> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        stream.write_all(&[&[3][..], &[0; 1536]].concat())?;
        let mut answer = vec![0; 1 + 2 * 1536];
        stream.read_exact(&mut answer)?;
        stream.write_all(&answer[1..1537])?;
        let mut client = Self { stream, reader: ChunkReader::new(ChunkLimits::default(), 0), unread: Vec::new() };
        let members = [("app", "live"), ("tcUrl", "rtmp://h/live")];
        let mut object = vec![3];
        for (key, value) in members {
            object.extend(&string(key)[1..]);
            object.extend(string(value));
        }
        object.extend([0, 0, 9]);
        client.say(&command(0, "connect", 1.0, &[object]))?;
        client.wait_for("NetConnection.Connect.Success")?;
        client.say(&command(0, "createStream", 2.0, &[vec![5]]))?;
        Ok(client)
    }

    fn say(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(bytes)?)
    }

    fn publish(&mut self, name: &str) -> Result<()> {
        self.say(&command(1, "publish", 0.0, &[vec![5], string(name), string("live")]))?;
        self.wait_for("NetStream.Publish.Start")
    }

    fn unpublish(&mut self, name: &str) -> Result<()> {
        self.say(&command(0, "FCUnpublish", 6.0, &[vec![5], string(name)]))?;
        self.wait_for("NetStream.Unpublish.Success")
    }

    fn play(&mut self, name: &str) -> Result<()> {
        self.say(&command(1, "play", 0.0, &[vec![5], string(name)]))?;
        self.wait_for("NetStream.Play.Start")
    }

    /// A second of media that no decoder has to understand: a keyframe and some audio.
    fn media(from_ms: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        egress::write_message(&mut bytes, RecordKind::Video, from_ms, &[0x17, 1, 0, 0, 0, 9, 9, 9, 9]);
        for step in 1..25 {
            egress::write_message(&mut bytes, RecordKind::Audio, from_ms + 40 * step, &[0xaf, 1, 7, 7, 7]);
        }
        bytes
    }

    fn message(&mut self) -> Result<Message> {
        loop {
            let (used, message) = self.reader.read(&self.unread)?;
            self.unread.drain(..used);
            if let Some(message) = message {
                return Ok(message);
            }
            let mut buffer = [0; 64 << 10];
            let read = self.stream.read(&mut buffer).context("reading what the server says")?;
            ensure!(read > 0, "the server closed the connection");
            self.unread.extend_from_slice(&buffer[..read]);
        }
    }

    /// Reads on until a message holds this text.
    fn wait_for(&mut self, text: &str) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let message = self.message().with_context(|| format!("waiting for {text}"))?;
            if message.payload.windows(text.len()).any(|window| window == text.as_bytes()) {
                return Ok(());
            }
        }
        anyhow::bail!("{text} was not said")
    }

    /// Reads on until so many media messages have come.
    fn wait_media(&mut self, mut count: usize) -> Result<()> {
        while count > 0 {
            count -= usize::from(matches!(self.message()?.message_type, 8 | 9));
        }
        Ok(())
    }
}

/// A connection on which one request was sent.
fn asked(address: SocketAddr, request: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(request.as_bytes())?;
    Ok(stream)
}

fn get(path: &str) -> String {
    format!("GET /{path} HTTP/1.1\r\nHost: x\r\n\r\n")
}

/// Reads until so many bytes have come.
fn take(stream: &mut TcpStream, count: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn pid(server: &Server, worker: u16) -> Result<u32> {
    Ok(server.worker(worker)?["pid"].as_u64().context("a worker without a pid")? as u32)
}

fn no_worker_died(server: &Server, workers: u16) -> Result<()> {
    for worker in 1..=workers {
        ensure!(server.worker(worker)?["restarts"] == 0, "worker {worker} died:\n{}", server.log_text());
    }
    Ok(())
}

fn wait_state(server: &Server, name: &str, state: &str) -> Result<()> {
    let is_so = || server.stream(name).ok().flatten().is_some_and(|stream| stream["state"] == state);
    eventually(Duration::from_secs(10), || is_so().then_some(())).with_context(|| format!("{name} is not {state}:\n{}", server.log_text()))
}

#[test]
fn the_end_of_a_publisher_that_comes_with_its_last_bytes_is_seen() -> Result<()> {
    let server = Server::start(ServerOptions::workers(1))?;
    let mut publisher = Rtmp::connect(server.address("rtmp"))?;
    publisher.publish("x")?;
    publisher.say(&Rtmp::media(0))?;
    server.wait_live("x")?;
    let worker = pid(&server, 1)?;
    // Bytes and the end arrive together, because the worker looks at neither before both are there.
    signal(worker, "STOP")?;
    publisher.say(&Rtmp::media(1_000))?;
    drop(publisher);
    signal(worker, "CONT")?;
    wait_state(&server, "x", "waiting")
}

#[test]
fn viewers_that_are_torn_away_take_nothing_with_them() -> Result<()> {
    let server = Server::start(ServerOptions::workers(2))?;
    let _publisher = media::publish_live(&server.rtmp("x"))?;
    server.wait_live("x")?;
    for round in 0..60 {
        let mut viewer = asked(server.address("http"), &get("live/x.flv"))?;
        take(&mut viewer, 2_000)?;
        // Closing with unread input resets the connection, at a moment that differs from round to round.
        std::thread::sleep(Duration::from_millis(round));
    }
    no_worker_died(&server, 2)
}

#[test]
fn a_viewer_goes_on_when_its_worker_slept_through_many_blocks() -> Result<()> {
    let options = ServerOptions { sub_ports: true, ..ServerOptions::workers(2) };
    let server = Server::start(options.set("log.keep=1s").set("log.block_min=500ms").set("server.hang_after=60s"))?;
    let _publisher = media::publish_live(&format!("rtmp://{}/live/x", server.sub_port(1)))?;
    server.wait_live("x")?;
    let mut viewer = asked(server.sub_port(2), &get("live/x.flv"))?;
    let mut rtmp = Rtmp::connect(server.sub_port(2))?;
    rtmp.play("x")?;
    rtmp.wait_media(50)?;
    take(&mut viewer, 20_000)?;
    let worker = pid(&server, 2)?;
    let bytes = || server.stream("x").ok().flatten().and_then(|stream| stream["bytes"].as_u64()).unwrap_or(0);
    signal(worker, "STOP")?;
    let asleep_at = Instant::now();
    let slept = eventually(PATIENCE, || (asleep_at.elapsed() > Duration::from_secs(5) && bytes() > 0).then_some(()));
    signal(worker, "CONT")?;
    slept.context("the stream stands still")?;
    // Far more than what socket buffers and the viewers' last block can hold of 320x180.
    rtmp.wait_media(400)?;
    take(&mut viewer, 500_000)?;
    let jumps = || server.worker(2).ok().and_then(|row| row["counters"]["viewer_jumps"].as_u64());
    ensure!(jumps() >= Some(2), "{:?} jumps were counted", jumps());
    no_worker_died(&server, 2)
}

#[test]
fn http_clients_that_end_their_half_get_their_answers() -> Result<()> {
    let server = Server::start(ServerOptions::workers(2).set("hls.fragment=1s"))?;
    let _publisher = media::publish_live(&server.rtmp("x"))?;
    server.wait_live("x")?;
    let all_of = |path: &str| -> Result<String> {
        let mut stream = asked(server.address("http"), &get(path))?;
        stream.shutdown(Shutdown::Write)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    ensure!(http_get(&server.http("live/x.m3u8"))?.status == 200, "no index");
    let index = all_of("live/x.m3u8")?;
    ensure!(index.starts_with("HTTP/1.1 200") && index.contains("#EXTM3U"), "an index: {index}");
    ensure!(all_of("live/nobody.flv")?.starts_with("HTTP/1.1 404"), "a stream that does not come");
    let mut viewer = asked(server.address("http"), &get("live/x.flv"))?;
    viewer.shutdown(Shutdown::Write)?;
    take(&mut viewer, 50_000)?;
    drop(viewer);
    let viewers = || (1..=2).map(|id| server.worker(id).map_or(1, |row| row["viewers"].as_u64().unwrap_or(1))).sum::<u64>();
    eventually(PATIENCE, || (viewers() == 0).then_some(())).context("a viewer that is gone is still served")
}

#[test]
fn pipelined_requests_are_answered_in_order_even_behind_one_that_waits() -> Result<()> {
    let server = Server::start(ServerOptions::workers(1).set("hls.fragment=1s"))?;
    let requests =
        [get("live/x.m3u8"), get("nothing/here"), "HEAD /live/x.m3u8 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".to_owned()];
    let mut client = asked(server.address("http"), &requests.concat())?;
    let _publisher = media::publish_live(&server.rtmp("x"))?;
    let mut answers = String::new();
    client.read_to_string(&mut answers)?;
    let lines: Vec<&str> = answers.lines().filter(|line| line.starts_with("HTTP/1.1")).collect();
    ensure!(lines.len() == 3, "{answers}");
    ensure!(lines[0].contains("200") && lines[1].contains("404") && lines[2].contains("200"), "{answers}");
    ensure!(answers.matches("#EXTM3U").count() == 1, "HEAD has a body: {answers}");
    Ok(())
}

#[test]
fn one_connection_publishes_and_plays_again_and_again() -> Result<()> {
    let server = Server::start(ServerOptions { sub_ports: true, ..ServerOptions::workers(2) })?;
    let mut publisher = Rtmp::connect(server.sub_port(1))?;
    let mut time = 0;
    for name in ["one", "two", "one"] {
        publisher.publish(name)?;
        publisher.say(&Rtmp::media(time))?;
        server.wait_live(name)?;
        publisher.unpublish(name)?;
        wait_state(&server, name, "waiting")?;
        time += 1_000;
    }
    // The other role on the same connection, from the worker that has it, twice without saying goodbye between.
    let _live = media::publish_live(&format!("rtmp://{}/live/live", server.sub_port(2)))?;
    server.wait_live("live")?;
    for round in 0..4 {
        publisher.play("live")?;
        publisher.wait_media(30)?;
        if round % 2 == 1 {
            publisher.say(&command(0, "deleteStream", 7.0, &[vec![5], number(1.0)]))?;
        }
    }
    publisher.publish("three")?;
    publisher.say(&Rtmp::media(0))?;
    server.wait_live("three")?;
    let publishers = || (1..=2).map(|id| server.worker(id).map_or(0, |row| row["publishers"].as_u64().unwrap_or(0))).sum::<u64>();
    eventually(PATIENCE, || (publishers() == 2).then_some(())).with_context(|| format!("{} publishers are counted", publishers()))?;
    drop(publisher);
    wait_state(&server, "three", "waiting")?;
    let held = || (1..=2).map(|id| server.worker(id).map_or(1, |row| row["viewers"].as_u64().unwrap_or(1))).sum::<u64>();
    eventually(PATIENCE, || (held() == 0).then_some(())).context("a play that ended is still counted")?;
    no_worker_died(&server, 2)
}

#[test]
fn a_stream_that_was_deleted_can_be_watched_when_it_is_made_anew() -> Result<()> {
    let options = ServerOptions::workers(1).set("play.reconnect_grace=200ms").set("hls.hls_dispose=300ms").set("play.play_wait=30s");
    let server = Server::start(options)?;
    for _ in 0..3 {
        // They wait before the stream is there; one never reads, so that it is still there when its stream is gone.
        let mut viewer = asked(server.address("http"), &get("live/x.flv"))?;
        let _sleeper = asked(server.address("http"), &get("live/x.flv"))?;
        let mut publisher = Rtmp::connect(server.address("rtmp"))?;
        publisher.publish("x")?;
        publisher.say(&Rtmp::media(0))?;
        let mut answer = Vec::new();
        drop(publisher);
        viewer.read_to_end(&mut answer)?;
        let start = answer.windows(3).position(|window| window == b"FLV").context("no FLV")?;
        let records = flv::records(&answer[start + flv::FILE_HEADER.len()..]).count();
        ensure!(records == 25, "{records} of 25 records");
        eventually(PATIENCE, || server.stream("x").ok().filter(Option::is_none)).context("the stream was not deleted")?;
    }
    no_worker_died(&server, 1)
}

#[test]
fn many_that_wait_for_streams_that_never_come_slow_nobody_down() -> Result<()> {
    const WAITING: usize = 2_000;
    let server = Server::start(ServerOptions::workers(1).set("play.play_wait=60s").set("limits.connections_per_address=4096"))?;
    let waiting: Vec<TcpStream> =
        (0..WAITING).map(|number| asked(server.address("http"), &get(&format!("live/no{number}.flv")))).collect::<Result<_>>()?;
    let sessions = || server.worker(1).ok().and_then(|row| row["sessions"].as_u64()).unwrap_or(0);
    eventually(PATIENCE, || (sessions() >= WAITING as u64).then_some(())).context("they did not all connect")?;
    let _publisher = media::publish_live(&server.rtmp("x"))?;
    server.wait_live("x")?;
    let cpu = || server.worker(1).ok().and_then(|row| row["counters"]["cpu_us"].as_u64()).unwrap_or(0);
    let (before, since) = (cpu(), Instant::now());
    let mut viewer = asked(server.address("http"), &get("live/x.flv"))?;
    take(&mut viewer, 100_000)?;
    eventually(PATIENCE, || (since.elapsed() > Duration::from_secs(3)).then_some(()));
    let (used, passed) = (cpu() - before, since.elapsed());
    ensure!(used < passed.as_micros() as u64 / 3, "{WAITING} that wait cost {used} µs of CPU in {passed:?}");
    drop(waiting);
    eventually(PATIENCE, || (sessions() < 10).then_some(())).context("those who waited in vain are still there")?;
    no_worker_died(&server, 1)
}

#[test]
fn a_damaged_log_is_begun_anew_by_the_next_publisher() -> Result<()> {
    let server = Server::start(ServerOptions::workers(2).set("play.play_wait=1s"))?;
    let mut publisher = Rtmp::connect(server.address("rtmp"))?;
    publisher.publish("x")?;
    publisher.say(&Rtmp::media(0))?;
    server.wait_live("x")?;
    publisher.unpublish("x")?;
    wait_state(&server, "x", "waiting")?;
    let head = server.stream_dir("x").join("head");
    let length = std::fs::metadata(&head)?.len();
    std::fs::write(&head, vec![0xa5; length as usize])?;
    ensure!(http_get(&server.http("live/x.flv"))?.status == 404, "a damaged log is served");
    publisher.publish("x")?;
    publisher.say(&Rtmp::media(0))?;
    server.wait_live("x")?;
    let mut viewer = asked(server.address("http"), &get("live/x.flv"))?;
    take(&mut viewer, 300)?;
    ensure!(server.log_text().contains("damaged"), "the operator is not told");
    no_worker_died(&server, 2)
}

#[test]
fn viewers_that_do_not_take_the_end_of_their_stream_cost_no_work() -> Result<()> {
    let server = Server::start(ServerOptions::workers(1).set("play.reconnect_grace=200ms").set("hls.hls_dispose=60s"))?;
    let mut publisher = Rtmp::connect(server.address("rtmp"))?;
    publisher.publish("x")?;
    publisher.say(&Rtmp::media(0))?;
    server.wait_live("x")?;
    let _viewers: Vec<TcpStream> = (0..20).map(|_| asked(server.address("http"), &get("live/x.flv"))).collect::<Result<_>>()?;
    let mut rtmp = Rtmp::connect(server.address("rtmp"))?;
    rtmp.play("x")?;
    // More than any socket takes, so that the viewers, who do not read, are owed something when the stream ends.
    let mut frame = Vec::new();
    for at in 0..400u32 {
        frame.clear();
        let mut payload = vec![0x27, 1, 0, 0, 0];
        payload.resize(60_000, 7);
        write_in_chunks(&mut frame, 1_000 + at, &payload);
        publisher.say(&frame)?;
    }
    drop(publisher);
    wait_state(&server, "x", "ended")?;
    let cpu = || server.worker(1).ok().and_then(|row| row["counters"]["cpu_us"].as_u64()).unwrap_or(0);
    let (before, since) = (cpu(), Instant::now());
    eventually(PATIENCE, || (since.elapsed() > Duration::from_secs(3)).then_some(()));
    let used = cpu() - before;
    ensure!(used < 500_000, "{used} µs of CPU for a stream that is over");
    let sessions = || server.worker(1).ok().and_then(|row| row["sessions"].as_u64()).unwrap_or(99);
    eventually(PATIENCE, || (sessions() == 0).then_some(())).context("viewers of an ended stream stay")?;
    no_worker_died(&server, 1)
}

/// A video message in chunks of 128 bytes, as a client sends it that has not said otherwise.
fn write_in_chunks(out: &mut Vec<u8>, timestamp_ms: u32, payload: &[u8]) {
    let [_, t0, t1, t2] = timestamp_ms.to_be_bytes();
    let [_, l0, l1, l2] = (payload.len() as u32).to_be_bytes();
    out.extend([6, t0, t1, t2, l0, l1, l2, 9, 1, 0, 0, 0]);
    for (index, chunk) in payload.chunks(128).enumerate() {
        if index > 0 {
            out.push(0xc6);
        }
        out.extend_from_slice(chunk);
    }
}
