//! A stream whose frames are all of one length and come at one pace: for tests that count what a frame costs.
//!
//! No decoder takes it. Nothing depends on how exactly the pace is kept.

use crate::Record;
use crate::rtmp::RtmpClient;
use anyhow::Result;
use braidcast_media::RecordKind;
use std::ops::Range;
use std::time::{Duration, Instant};

/// From one frame to the next: more than a viewer needs to be served, on a busy machine too.
pub const INTERVAL_MS: u64 = 20;
/// From one keyframe to the next, frames.
pub const GOP_FRAMES: u64 = 50;

/// AVCDecoderConfigurationRecord (ISO/IEC 14496-15 §5.3.3.1) of 1280x720, as a tag.
pub const HEADER: [u8; 50] = [
    0x17, 0x00, 0x00, 0x00, 0x00, 0x01, 0x64, 0x00, 0x1f, 0xff, 0xe1, 0x00, 0x18, 0x67, 0x64, 0x00, 0x1f, 0xac, 0xb2, 0x00, 0xa0, 0x0b,
    0x76, 0x02, 0x20, 0x00, 0x00, 0x03, 0x00, 0x20, 0x00, 0x00, 0x07, 0x81, 0xe3, 0x06, 0x49, 0x01, 0x00, 0x06, 0x68, 0xeb, 0xc3, 0xcb,
    0x22, 0xc0, 0xfd, 0xf8, 0xf8, 0x00,
];

/// [`HEADER`], as it is sent.
pub fn header() -> Record {
    Record { kind: RecordKind::Video, timestamp_ms: 0, payload: HEADER.to_vec() }
}

/// A video frame with a payload of so many bytes, from 10 on: one NAL unit.
pub fn frame(number: u64, bytes: usize) -> Record {
    let (kind, unit) = if number.is_multiple_of(GOP_FRAMES) { (0x17, 0x65) } else { (0x27, 0x41) };
    let unit_bytes = (bytes - 9) as u32;
    let mut payload = [&[kind, 1, 0, 0, 0][..], &unit_bytes.to_be_bytes(), &[unit]].concat();
    payload.resize(bytes, 0x55);
    Record { kind: RecordKind::Video, timestamp_ms: (number * INTERVAL_MS) as u32, payload }
}

/// One that has said what it sends.
pub fn publisher(url: &str) -> Result<RtmpClient> {
    let mut publisher = RtmpClient::publish(url)?;
    publisher.push(&header())?;
    Ok(publisher)
}

/// Each publisher sends these frames. One that is late makes up for it: what a server gathers for a time is not less because the test is slow.
pub fn push(publishers: &mut [RtmpClient], frames: Range<u64>, bytes: usize) -> Result<()> {
    let begun = Instant::now();
    for (sent, number) in (1..).zip(frames) {
        publishers.iter_mut().try_for_each(|publisher| publisher.push(&frame(number, bytes)))?;
        std::thread::sleep(Duration::from_millis(sent * INTERVAL_MS).saturating_sub(begun.elapsed()));
    }
    Ok(())
}
