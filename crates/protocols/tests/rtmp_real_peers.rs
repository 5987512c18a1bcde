//! Real encoders and players against the RTMP server machine: ffmpeg, librtmp (GStreamer's rtmpsink and rtmpsrc) and
//! GStreamer's own RTMP (rtmp2sink and rtmp2src).
//!
//! The server here is a toy: one thread a connection, records kept in memory. It saves and restores its session after every
//! read. A tool that is not installed is skipped, loudly.
#![allow(clippy::unwrap_used)]

mod tools;

use braidcast_media::RecordKind;
use braidcast_protocols::rtmp::{Output, ServerSession, Settings, egress};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tools::{Record, file_media, frames, recording, run};

#[derive(Default)]
struct Streams {
    records: HashMap<String, Vec<Record>>,
    ended: Vec<String>,
    params: HashMap<String, String>,
}

struct Server {
    port: u16,
    streams: Arc<Mutex<Streams>>,
}

impl Server {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let streams = Arc::<Mutex<Streams>>::default();
        let shared = streams.clone();
        std::thread::spawn(move || {
            for (seed, socket) in listener.incoming().enumerate() {
                let shared = shared.clone();
                std::thread::spawn(move || serve(socket.unwrap(), seed as u64, &shared));
            }
        });
        Self { port, streams }
    }

    fn url(&self, stream: &str) -> String {
        format!("rtmp://127.0.0.1:{}/live/{stream}", self.port)
    }

    fn media(&self, stream: &str) -> Vec<Record> {
        let streams = self.streams.lock().unwrap();
        streams.records.get(stream).into_iter().flatten().filter(|record| record.0 != RecordKind::Data).cloned().collect()
    }

    /// Waits until the stream has ended: the encoder may be gone before its last bytes are read.
    fn wait_for_end(&self, stream: &str) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !self.streams.lock().unwrap().ended.iter().any(|ended| ended == stream) {
            assert!(Instant::now() < deadline, "{stream} did not end");
            std::thread::yield_now();
        }
    }
}

fn serve(mut socket: TcpStream, seed: u64, streams: &Mutex<Streams>) {
    let mut session = ServerSession::new(Settings::default(), seed, 0);
    let mut name = String::new();
    let mut buffer = [0; 5000];
    loop {
        let Ok(read) = socket.read(&mut buffer) else { return };
        if read == 0 {
            return;
        }
        let mut used = 0;
        loop {
            used += session.handle_input(&buffer[used..read], 0).unwrap();
            session = ServerSession::restore(&session.save(0), 0).unwrap();
            let outputs: Vec<_> = std::iter::from_fn(|| session.poll_output()).collect();
            let mut streams = streams.lock().unwrap();
            let mut plays = false;
            for output in outputs {
                match output {
                    Output::Publish(request) => {
                        request.key.stream().clone_into(&mut name);
                        streams.params.insert(name.clone(), request.params);
                        streams.records.insert(name.clone(), Vec::new());
                        session.accept_publish(0);
                    }
                    Output::Play(request) => {
                        request.key.stream().clone_into(&mut name);
                        session.accept_play(0);
                        plays = true;
                    }
                    Output::Media { kind, timestamp_ms, payload } => {
                        streams.records.get_mut(&name).unwrap().push((kind, timestamp_ms, payload));
                    }
                    Output::PublishEnded => streams.ended.push(name.clone()),
                    Output::PlayEnded | Output::Paused(_) | Output::Tracks(_) => {}
                }
            }
            let mut out = session.take_outbox();
            if plays {
                for (kind, timestamp_ms, payload) in &streams.records[&name] {
                    egress::write_message(&mut out, *kind, *timestamp_ms, payload);
                }
                session.end_play(0);
                out.extend(session.take_outbox());
            }
            drop(streams);
            if socket.write_all(&out).is_err() {
                return;
            }
            if used == read {
                break;
            }
        }
    }
}

fn shape(records: &[Record]) -> Vec<(RecordKind, u32, usize)> {
    records.iter().map(|(kind, timestamp_ms, payload)| (*kind, *timestamp_ms, payload.len())).collect()
}

#[test]
fn ffmpeg_publishes_and_plays_back_the_same_packets() {
    let server = Server::start();
    let Some((folder, file)) = recording("ffmpeg", "3", &[&format!("{}?token=t1", server.url("cam"))]) else { return };
    server.wait_for_end("cam");
    let expected = file_media(&file);
    assert!(expected.len() > 150, "{} records", expected.len());
    let got = server.media("cam");
    assert_eq!(shape(&got), shape(&expected));
    assert!(got == expected, "payloads differ");
    let streams = server.streams.lock().unwrap();
    assert_eq!(streams.params["cam"], "token=t1");
    assert!(streams.records["cam"][0].2.starts_with(b"\x02\0\x0aonMetaData"), "@setDataFrame is taken off");
    drop(streams);

    // ffmpeg checks the digest of the handshake when it plays.
    let played = folder.join("played.flv");
    run("ffmpeg", &["-v", "error", "-y", "-i", &server.url("cam"), "-c", "copy", "-copyts", played.to_str().unwrap()]);
    assert!(frames(&file_media(&played)) == frames(&expected), "played frames differ");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn gstreamers_two_rtmp_clients_publish_and_play() {
    let server = Server::start();
    let Some((folder, file)) = recording("gstreamer", "3", &[]) else { return };
    let expected = file_media(&file);
    let source = format!("location={}", file.display());
    for (sink, src) in [("rtmpsink", "rtmpsrc"), ("rtmp2sink", "rtmp2src")] {
        let location = format!("location={}", server.url(sink));
        let publish =
            ["-q", "-e", "filesrc", &source, "!", "flvdemux", "name=d", "flvmux", "streamable=true", "name=m", "!", sink, &location];
        let links = ["d.video", "!", "queue", "!", "m.video", "d.audio", "!", "queue", "!", "m.audio"];
        if !run("gst-launch-1.0", &[&publish[..], &links].concat()) {
            return;
        }
        server.wait_for_end(sink);
        let published = server.media(sink);
        assert_eq!(frames(&published).len(), frames(&expected).len(), "{sink}");
        assert!(frames(&published) == frames(&expected), "{sink}: frames differ");

        let played = folder.join(format!("{src}.flv"));
        let to_file = format!("location={}", played.display());
        // rtmpsrc connects anew when a stream has ended, and so would never end: it takes some 80 % of the bytes here.
        let some = format!("num-buffers={}", std::fs::metadata(&file).unwrap().len() / 4096 * 8 / 10);
        let (limit, least) =
            if src == "rtmpsrc" { (some.as_str(), frames(&expected).len() / 2) } else { ("num-buffers=-1", frames(&expected).len()) };
        run("gst-launch-1.0", &["-q", src, &location, limit, "!", "filesink", &to_file]);
        let played = file_media(&played);
        let played = frames(&played);
        assert!(played.len() >= least && played.len() <= frames(&expected).len(), "{src}: {} frames", played.len());
        assert!(played == frames(&expected)[..played.len()], "{src}: frames differ");
    }
    std::fs::remove_dir_all(folder).unwrap();
}
