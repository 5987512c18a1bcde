//! HLS files as clients ask for them: again, in parts, in gzip, one behind the other; and from a worker that dies in the middle of one.

use anyhow::{Context, Result, bail, ensure};
use braidcast_e2e::media;
use braidcast_e2e::server::signal;
use braidcast_e2e::tools::{eventually, http_get, run_ok};
use braidcast_e2e::{Server, ServerOptions};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);
/// Far more than the buffers of a connection take.
const LARGE_BYTES: usize = 24 << 20;
/// What a client that reads slowly has of the answer before something happens.
const FIRST_BYTES: usize = 100_000;

fn options(workers: u16) -> ServerOptions {
    ServerOptions::workers(workers).set("hls.fragment=1s")
}

/// A published stream whose live index names at least so many segments.
fn with_segments(server: &Server, count: usize) -> Result<braidcast_e2e::tools::Tool> {
    let publisher = media::publish_live(&server.rtmp("x"))?;
    let there = || http_get(&server.http("live/x.m3u8")).ok().filter(|answer| answer.text().matches("#EXTINF").count() >= count);
    eventually(PATIENCE, there).with_context(|| format!("no segments come:\n{}", server.log_text()))?;
    Ok(publisher)
}

/// Puts a file of pseudorandom bytes where the stream's segment of this number would be.
fn plant(server: &Server, number: u64, seed: u64) -> Result<(PathBuf, Vec<u8>)> {
    let mut state = seed | 1;
    let mut bytes = vec![0; LARGE_BYTES];
    for chunk in bytes.chunks_mut(8) {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        chunk.copy_from_slice(&state.to_be_bytes()[..chunk.len()]);
    }
    let path = server.stream_dir("x").join(format!("hls/{number}.ts"));
    std::fs::write(&path, &bytes)?;
    Ok((path, bytes))
}

/// curl, with the answer's head in its output; an error if it fails.
fn curl(arguments: &[&str]) -> Result<String> {
    run_ok("curl", &[&["-sS", "-i", "--max-time", "30"], arguments].concat(), PATIENCE)
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

fn field(answer: &str, name: &str) -> Option<String> {
    let head = answer.split("\r\n\r\n").next()?;
    head.lines().find_map(|line| line.split_once(": ").filter(|(field, _)| field.eq_ignore_ascii_case(name))).map(|(_, value)| value.into())
}

/// A connection on which answers are read one by one.
struct Connection(TcpStream);

impl Connection {
    fn open(server: &Server) -> Result<Self> {
        let stream = TcpStream::connect(server.address("http"))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self(stream))
    }

    fn ask(&mut self, paths: &[&str]) -> Result<()> {
        let requests: String = paths.iter().map(|path| format!("GET /{path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).collect();
        Ok(self.0.write_all(requests.as_bytes())?)
    }

    /// The next answer's head and the length of its body.
    fn head(&mut self) -> Result<(String, usize)> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte).with_context(|| format!("after {:?}", String::from_utf8_lossy(&head)))?;
            head.push(byte[0]);
        }
        let head = String::from_utf8(head)?;
        let length = field(&head, "Content-Length").context("no length")?.parse()?;
        Ok((head, length))
    }

    fn answer(&mut self) -> Result<(String, Vec<u8>)> {
        let (head, length) = self.head()?;
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).with_context(|| format!("the body behind {head:?}"))?;
        Ok((head, body))
    }

    /// Asks for a large segment and takes the first part of it, while the rest waits in the server.
    fn begin(&mut self, number: u64) -> Result<Vec<u8>> {
        self.ask(&[&format!("live/x/{number}.ts")])?;
        let (head, length) = self.head()?;
        ensure!(length == LARGE_BYTES, "{head}");
        let mut first = vec![0; FIRST_BYTES];
        self.0.read_exact(&mut first)?;
        Ok(first)
    }
}

#[test]
fn curl_asks_again_in_parts_and_in_gzip() -> Result<()> {
    let server = Server::start(options(2))?;
    let _publisher = with_segments(&server, 7)?;
    let (index, segment) = (server.http("live/x.m3u8"), server.http("live/x/2.ts"));

    // A segment: whoever has it is told so, and parts of it are parts of it.
    let whole = http_get(&segment)?.body;
    let answer = curl(&["-o", "/dev/null", "-D", "-", &segment])?;
    let (tag, date) = (field(&answer, "ETag").context("no tag")?, field(&answer, "Last-Modified").context("no date")?);
    for condition in [format!("If-None-Match: {tag}"), format!("If-None-Match: \"x\", W/{tag}"), format!("If-Modified-Since: {date}")] {
        let answer = curl(&["-H", &condition, &segment])?;
        ensure!(status(&answer) == "304" && answer.ends_with("\r\n\r\n") && field(&answer, "ETag").as_ref() == Some(&tag), "{answer}");
        ensure!(field(&answer, "Cache-Control").is_some_and(|cache| cache.contains("max-age")), "{answer}");
    }
    let answer =
        curl(&["-o", "/dev/null", "-D", "-", "-H", "If-None-Match: \"x\"", "-H", &format!("If-Modified-Since: {date}"), &segment])?;
    ensure!(status(&answer) == "200", "a tag that differs counts before a date: {answer}");
    let file = tempfile::NamedTempFile::new()?;
    let into = file.path().to_string_lossy().into_owned();
    for (range, part) in [("188-375", &whole[188..376]), ("-188", &whole[whole.len() - 188..]), ("1000-", &whole[1000..])] {
        let code = run_ok("curl", &["-sS", "-o", &into, "-w", "%{http_code}", "-r", range, &segment], PATIENCE)?;
        ensure!(code == "206" && std::fs::read(&into)? == part, "{range}: {code}");
    }
    for (if_range, code) in [(tag.as_str(), "206"), (date.as_str(), "206"), ("\"x\"", "200")] {
        let answer = curl(&["-o", "/dev/null", "-D", "-", "-r", "0-187", "-H", &format!("If-Range: {if_range}"), &segment])?;
        ensure!(status(&answer) == code, "{if_range}: {answer}");
    }
    let beyond = curl(&["-r", "99999999-", &segment])?;
    ensure!(status(&beyond) == "416", "{beyond}");

    // The index, long enough for gzip to be worth it: the same until there is a new one, in gzip the same text.
    let answer = curl(&["--compressed", &index])?;
    ensure!(field(&answer, "Content-Encoding").as_deref() == Some("gzip"), "{answer}");
    ensure!(field(&answer, "Vary").is_some_and(|vary| vary.contains("Accept-Encoding")) && answer.contains("#EXTM3U"), "{answer}");
    let numbers = |text: &str| text.lines().filter(|line| line.ends_with(".ts")).map(str::to_owned).collect::<Vec<_>>();
    let unchanged = eventually(PATIENCE, || {
        let plain = curl(&[&index]).ok()?;
        let packed = curl(&["--compressed", &index]).ok()?;
        let tag = field(&plain, "ETag")?;
        let again = curl(&["-H", &format!("If-None-Match: {tag}"), &index]).ok()?;
        (numbers(&plain) == numbers(&packed) && field(&packed, "ETag")? != tag && status(&again) == "304").then_some(tag)
    });
    let tag = unchanged.context("the index is never the same twice")?;
    let changed = || curl(&["-H", &format!("If-None-Match: {tag}"), &index]).ok().filter(|answer| status(answer) == "200");
    let answer = eventually(PATIENCE, changed).context("a new index is not told of")?;
    ensure!(field(&answer, "ETag").is_some_and(|new| new != tag), "{answer}");
    ensure!(server.workers_counter("not_modified") >= 5, "they were not counted");

    // Two answers on one connection.
    let connects = run_ok("curl", &["-sS", "-w", "%{num_connects} ", "-o", &into, &index, "-o", &into, &segment], PATIENCE)?;
    ensure!(connects.trim() == "1 0", "the connection was not kept: {connects}");
    Ok(())
}

#[test]
fn requests_behind_each_other_are_answered_in_order() -> Result<()> {
    let server = Server::start(options(2))?;
    let _publisher = with_segments(&server, 2)?;
    let segments = [http_get(&server.http("live/x/1.ts"))?.body, http_get(&server.http("live/x/2.ts"))?.body];
    let mut connection = Connection::open(&server)?;
    let paths = ["live/x/1.ts", "live/x.m3u8", "live/x/2.ts", "live/x/77777.ts", "live/x/1.ts"];
    connection.ask(&paths.iter().cycle().take(40).copied().collect::<Vec<_>>())?;
    for path in paths.iter().cycle().take(40) {
        let (head, body) = connection.answer()?;
        let right = match *path {
            "live/x/1.ts" => body == segments[0],
            "live/x/2.ts" => body == segments[1],
            "live/x.m3u8" => body.starts_with(b"#EXTM3U"),
            _ => status(&head) == "404",
        };
        ensure!(right, "{path}: {head}");
    }
    // Most of that came from memory.
    let (read, opened) = (server.workers_counter("hls_indexes_read"), server.workers_counter("hls_segments_opened"));
    ensure!(opened <= 4 && read > 0, "{opened} segments opened, {read} indexes read");
    Ok(())
}

#[test]
fn a_player_plays_what_it_is_given() -> Result<()> {
    let server = Server::start(options(2))?;
    let _publisher = with_segments(&server, 4)?;
    let frames = run_ok(
        "ffprobe",
        &[
            "-v",
            "error",
            "-read_intervals",
            "%+2",
            "-select_streams",
            "v",
            "-show_entries",
            "packet=pts",
            "-of",
            "csv=p=0",
            &server.http("live/x.m3u8"),
        ],
        PATIENCE,
    )?;
    ensure!(frames.lines().count() >= 20, "{frames}");
    Ok(())
}

#[test]
fn a_worker_is_killed_in_the_middle_of_a_segment() -> Result<()> {
    let server = Server::start(options(1))?;
    let _publisher = with_segments(&server, 1)?;
    let (_, bytes) = plant(&server, 5_001, 7)?;
    for round in 0..3 {
        let mut connections = (0..3).map(|_| Connection::open(&server)).collect::<Result<Vec<_>>>()?;
        let mut begun = connections.iter_mut().map(|connection| connection.begin(5_001)).collect::<Result<Vec<_>>>()?;
        let pid = server.worker_pid(1)?;
        signal(pid, "KILL")?;
        for (connection, first) in connections.iter_mut().zip(&mut begun) {
            // What comes next was asked for while the first answer is under way.
            connection.ask(&["live/x.m3u8"])?;
            let mut rest = vec![0; LARGE_BYTES - FIRST_BYTES];
            connection.0.read_exact(&mut rest).with_context(|| format!("round {round}: the rest:\n{}", server.log_text()))?;
            first.extend(rest);
            ensure!(*first == bytes, "round {round}: other bytes");
            let (head, body) = connection.answer()?;
            ensure!(status(&head) == "200" && body.starts_with(b"#EXTM3U"), "{head}");
        }
        let ready = || server.worker(1).ok().filter(|row| row["pid"] != pid && row["state"] == "ready");
        eventually(PATIENCE, ready).with_context(|| format!("the worker does not come back:\n{}", server.log_text()))?;
    }
    ensure!(server.front_counter("sessions_lost") == 0, "sessions were lost:\n{}", server.log_text());
    Ok(())
}

/// Requests that wait until many are looked at together are answered by whoever goes on.
#[test]
fn a_worker_is_killed_while_many_ask() -> Result<()> {
    const CLIENTS: usize = 150;
    let server = Server::start(options(1).set("hls.read_pause=100ms"))?;
    let _publisher = with_segments(&server, 2)?;
    let mut connections = (0..CLIENTS).map(|_| Connection::open(&server)).collect::<Result<Vec<_>>>()?;
    let segment = http_get(&server.http("live/x/1.ts"))?.body;
    for round in 0..8 {
        for connection in &mut connections {
            connection.ask(&["live/x.m3u8", "live/x/1.ts"])?;
        }
        let pid = server.worker_pid(1)?;
        if round % 2 == 1 {
            signal(pid, "KILL")?;
        }
        for connection in &mut connections {
            let (head, body) = connection.answer().with_context(|| format!("round {round}:\n{}", server.log_text()))?;
            ensure!(status(&head) == "200" && body.starts_with(b"#EXTM3U"), "{head}");
            ensure!(connection.answer()?.1 == segment, "round {round}: another segment");
        }
        let ready = || server.worker(1).ok().filter(|row| round % 2 == 0 || row["pid"] != pid && row["state"] == "ready");
        eventually(PATIENCE, ready).with_context(|| format!("the worker does not come back:\n{}", server.log_text()))?;
    }
    ensure!(server.front_counter("sessions_lost") == 0, "sessions were lost:\n{}", server.log_text());
    Ok(())
}

#[test]
fn an_answer_ends_rather_than_going_on_with_another_file() -> Result<()> {
    let server = Server::start(options(1))?;
    let _publisher = with_segments(&server, 1)?;
    let (path, _) = plant(&server, 5_002, 7)?;
    let mut connection = Connection::open(&server)?;
    connection.begin(5_002)?;
    replace(&path, &plant(&server, 5_003, 9)?.0)?;
    signal(server.worker_pid(1)?, "KILL")?;
    let mut rest = Vec::new();
    // A reset and an orderly end are both right; all of it is not.
    let _ = connection.0.read_to_end(&mut rest);
    ensure!(rest.len() < LARGE_BYTES - FIRST_BYTES, "it was sent to its end");
    server.wait_log(&["a session cannot be continued", "segment 5002", "is gone"])?;
    Ok(())
}

fn replace(old: &Path, new: &Path) -> Result<()> {
    Ok(std::fs::rename(new, old)?)
}

#[test]
fn a_deleted_segment_is_let_go_of_but_not_by_those_who_are_sent_it() -> Result<()> {
    let server = Server::start(options(1))?;
    let _publisher = with_segments(&server, 1)?;
    let (path, bytes) = plant(&server, 5_004, 11)?;
    let mut connection = Connection::open(&server)?;
    let mut received = connection.begin(5_004)?;
    eventually(PATIENCE, || (server.workers_counter("hls_segments_opened") > 0).then_some(())).context("it was not counted")?;
    std::fs::remove_file(&path)?;
    let url = server.http("live/x/5004.ts");
    eventually(PATIENCE, || http_get(&url).ok().filter(|answer| answer.status == 404)).context("it is still given out")?;
    let gauge = || server.workers_counter("hls_held_bytes");
    eventually(PATIENCE, || (gauge() < LARGE_BYTES as u64).then_some(())).with_context(|| format!("{} bytes are held", gauge()))?;
    let mut rest = vec![0; LARGE_BYTES - FIRST_BYTES];
    connection.0.read_exact(&mut rest).context("the rest of a deleted segment")?;
    received.extend(rest);
    if received != bytes {
        bail!("other bytes");
    }
    Ok(())
}
