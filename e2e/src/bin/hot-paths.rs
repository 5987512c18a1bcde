//! Takes frames along one of the ways that every frame takes, without sockets, so that the instructions and allocations of a frame can
//! be counted: `hot-paths PATH FRAME_BYTES`.
//!
//! Says how often and for how many bytes it has asked its allocator meanwhile. Callgrind counts what [`counted_frames`] calls.

use anyhow::{Context, Result, bail, ensure};
use braidcast_e2e::paced::{INTERVAL_MS, frame, header};
use braidcast_media::{RecordKind, StreamKey, flv};
use braidcast_protocols::hls::{Segmenter, SegmenterOptions, SegmenterOutput, SegmenterState};
use braidcast_protocols::mpegts::LiveMuxer;
use braidcast_protocols::rtmp::{ChunkLimits, ClientRole, ClientSession, ClientSettings, Output, ServerSession, Settings, egress};
use braidcast_stream_log::{LogOptions, Now, Root, Writer};
use braidcast_sys::allocation::{Counting, asked_for};
use std::hint::black_box;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Frames that go before: a log has evicted its first blocks by then, and buffers are as long as they become.
const WARM_UP: u64 = 1_500;
/// Frames that are counted.
const FRAMES: u64 = 1_000;

/// What is done with a frame, by its number.
type Step = Box<dyn FnMut(u64)>;

fn main() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let (path, bytes) = words.next().zip(words.next()).context("usage: hot-paths PATH FRAME_BYTES")?;
    let bytes: usize = bytes.parse()?;
    let directory = tempfile::Builder::new().prefix(&format!("braidcast-test-{}-", std::process::id())).tempdir_in("/dev/shm")?;
    let mut step = match path.as_str() {
        "copy" => copy(bytes),
        "intake" => intake(bytes)?,
        "log" => log(bytes, Root::new(directory.path().to_owned()))?,
        "rtmp" => rtmp(bytes),
        "ts" => ts(bytes),
        "segments" => segments(bytes),
        _ => bail!("no path {path}"),
    };
    (0..WARM_UP).for_each(&mut step);
    let before = asked_for();
    counted_frames(&mut step);
    let after = asked_for();
    println!("{} {}", after.0 - before.0, after.1 - before.1);
    Ok(())
}

/// Known to callgrind by its name, so nothing that it contains may have it as a part of its own.
#[inline(never)]
fn counted_frames(step: &mut Step) {
    let mut number = WARM_UP;
    while number < WARM_UP + FRAMES {
        step(number);
        number += 1;
    }
}

/// A frame's payload is copied once: what costs of other ways are compared with, because the machine decides how many bytes an instruction copies.
fn copy(bytes: usize) -> Step {
    let (payload, mut out) = (frame(1, bytes).payload, vec![0; bytes]);
    Box::new(move |_| {
        out.copy_from_slice(black_box(&payload));
        black_box(&out);
    })
}

/// What a publisher sent is read, chunk by chunk.
fn intake(bytes: usize) -> Result<Step> {
    let settings = ClientSettings {
        tc_url: "rtmp://127.0.0.1/live".to_owned(),
        app: "live".to_owned(),
        stream: "x".to_owned(),
        role: ClientRole::Publish,
        signed: false,
        chunks: ChunkLimits::default(),
    };
    let (mut client, mut server) = (ClientSession::new(settings, 7), ServerSession::new(Settings::default(), 7, 0));
    for _ in 0..20 {
        let said = client.take_outbox();
        let mut used = server.handle_input(&said, 0)?;
        while let Some(output) = server.poll_output() {
            if let Output::Publish(_) = output {
                server.accept_publish(0);
                used += server.handle_input(&said[used..], 0)?;
            }
        }
        ensure!(used == said.len(), "input is left");
        client.handle_input(&server.take_outbox())?;
    }
    ensure!(client.is_started(), "the publish has not begun");
    let inputs: Vec<Vec<u8>> = std::iter::once(header())
        .chain((1..WARM_UP + FRAMES).map(|number| frame(number, bytes)))
        .map(|record| {
            client.push_media(record.kind, record.timestamp_ms, &record.payload);
            client.take_outbox()
        })
        .collect();
    Ok(Box::new(move |number| {
        let (input, mut taken) = (&inputs[number as usize], 0);
        let used = server.handle_media(input, number * INTERVAL_MS, &mut |_, _, payload| taken += payload.len());
        assert!(used.is_ok_and(|used| used == input.len()) && taken > 0, "frame {number} was not taken");
        server.outbox_sent(server.outbox().len());
    }))
}

/// A frame is appended to a log and committed.
fn log(bytes: usize, root: Root) -> Result<Step> {
    let now = |number: u64| Now { mono_ms: 1_000 + number * INTERVAL_MS, wall_ms: 1_700_000_000_000 + number * INTERVAL_MS };
    let key = StreamKey::new("v", "live", "x")?;
    let mut writer = Writer::open(&root, &key, &LogOptions::default(), now(0))?;
    writer.begin_publish(now(0))?;
    writer.append(RecordKind::Video, 0, &header().payload, now(0))?;
    let records = [frame(0, bytes), frame(1, bytes)];
    Ok(Box::new(move |number| {
        let record = &records[usize::from(!number.is_multiple_of(braidcast_e2e::paced::GOP_FRAMES))];
        let appended = writer.append(RecordKind::Video, (number * INTERVAL_MS) as u32, &record.payload, now(number));
        let committed = appended.and_then(|()| writer.commit(now(number)));
        assert!(committed.is_ok_and(|grown| grown), "frame {number} is not in the log");
    }))
}

/// A frame of the log is put into RTMP chunks.
fn rtmp(bytes: usize) -> Step {
    let (logged, mut out) = (logged(bytes), Vec::new());
    Box::new(move |number| {
        out.clear();
        for record in flv::records(&logged[number as usize]) {
            egress::write_message(&mut out, record.header.kind, record.header.timestamp_ms, record.payload);
        }
        assert!(out.len() > bytes, "frame {number} is short");
    })
}

/// A frame of the log is put into MPEG-TS for a viewer.
fn ts(bytes: usize) -> Step {
    let (logged, mut out, mut muxer) = (logged(bytes), Vec::new(), LiveMuxer::new(1));
    muxer.record(&mut out, RecordKind::Video, 0, &header().payload);
    Box::new(move |number| {
        out.clear();
        for record in flv::records(&logged[number as usize]) {
            muxer.record(&mut out, record.header.kind, record.header.timestamp_ms, record.payload);
        }
        assert!(out.len() > bytes, "frame {number} is short");
    })
}

/// A frame of the log is put into a segment.
fn segments(bytes: usize) -> Step {
    let (logged, mut buffer) = (logged(bytes), Vec::new());
    let mut segmenter = Segmenter::new(SegmenterOptions::new(2_000), SegmenterState::new("v/live/x", 1));
    segmenter.handle_record(RecordKind::Video, 0, &header().payload, 0);
    Box::new(move |number| {
        segmenter.lend(std::mem::take(&mut buffer));
        for record in flv::records(&logged[number as usize]) {
            segmenter.handle_record(record.header.kind, record.header.timestamp_ms, record.payload, number * INTERVAL_MS);
            while let Some(output) = segmenter.poll_output() {
                if let SegmenterOutput::Bytes(mut bytes) = output {
                    bytes.clear();
                    segmenter.lend(bytes);
                }
            }
        }
        buffer = segmenter.take_lent();
    })
}

/// All frames, as they stand in a log.
fn logged(bytes: usize) -> Vec<Vec<u8>> {
    let record = |number| {
        let (record, mut out) = (frame(number, bytes), Vec::new());
        flv::write_record(&mut out, record.kind, record.timestamp_ms, &record.payload);
        out
    };
    (0..WARM_UP + FRAMES).map(record).collect()
}
