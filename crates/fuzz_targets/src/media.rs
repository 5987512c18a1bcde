//! What publishers send: tags, runs of records, what becomes of them in a transport stream.

use crate::bounded;
use braidcast_media::flv::{self, RECORD_OVERHEAD_BYTES};
use braidcast_media::{RecordKind, TagInfo};
use braidcast_protocols::mpegts::muxer::MAX_MP3_BYTES;
use braidcast_protocols::mpegts::{AdtsConfig, AudioKind, AvcConfig, Muxer, PACKET_BYTES, Program, VideoFrame, aac};
use braidcast_protocols::rtmp::egress;

/// The kind that a byte stands for.
pub fn kind_of(byte: u8) -> RecordKind {
    [RecordKind::Video, RecordKind::Audio, RecordKind::Data][usize::from(byte) % 3]
}

/// What a tag says. The first byte says of which kind it is.
pub fn tags(input: &[u8]) {
    let [kind, payload @ ..] = input else { return };
    let kind = kind_of(*kind);
    let info = bounded(input, 4, 4 << 10, || TagInfo::of(kind, payload));
    assert!(!(info.keyframe && info.sequence_header), "a sequence header is no keyframe");
    assert!(!info.keyframe || kind == RecordKind::Video, "only video has keyframes");
    assert!(!info.sequence_header || kind != RecordKind::Data, "data has no decoder");
    assert!(!payload.is_empty() || (!info.keyframe && !info.sequence_header), "nothing says nothing");
}

/// A run of records of a block, and of messages of an RTMP rendition. What is walked is what was written.
pub fn records(input: &[u8]) {
    let mut written = Vec::new();
    let mut framed = Vec::new();
    let mut end = 0;
    for record in flv::records(input) {
        assert_eq!(record.offset, end, "records follow each other");
        assert_eq!(record.payload.len(), record.header.payload_bytes as usize);
        end += record.header.record_bytes();
        let (kind, timestamp_ms) = (record.header.kind, record.header.timestamp_ms);
        flv::write_record(&mut written, kind, timestamp_ms, record.payload);
        let before = framed.len();
        egress::write_message(&mut framed, kind, timestamp_ms, record.payload);
        assert_eq!(framed.len() - before, egress::message_bytes(&record.header), "a message is as long as is said before");
    }
    assert!(end <= input.len(), "a walk ends where its bytes end");
    let walked: Vec<_> = flv::records(&written).map(|record| (record.header, record.payload.to_vec())).collect();
    let read: Vec<_> = flv::records(input).map(|record| (record.header, record.payload.to_vec())).collect();
    assert_eq!(walked, read);
    assert_eq!(written.len(), read.iter().map(|(_, payload)| payload.len() + RECORD_OVERHEAD_BYTES).sum::<usize>());
    let headers: Vec<_> = egress::messages(&framed).map(|message| message.header).collect();
    assert_eq!(headers, read.iter().map(|(header, _)| *header).collect::<Vec<_>>(), "messages say what their records said");
    // Bytes that no worker made: the walk has an end all the same.
    let _ = egress::messages(input).count();
}

/// Decoder configurations and frames: the first byte says how long the configuration is, what follows it is the frame.
pub fn transport_stream(input: &[u8]) {
    let [config_bytes, flags, c0, c1, c2, rest @ ..] = input else { return };
    let (config, frame) = rest.split_at(usize::from(*config_bytes).min(rest.len()));
    let time_90k = u64::from_le_bytes([*c0, *c1, *c2, *flags, *c0, *c1, *c2, *flags]);
    let composition_ms = i32::from_be_bytes([*c0, *c1, *c2, 0]) >> 8;
    let mut out = Vec::new();
    let mut muxer = Muxer::default();
    bounded(input, 64, 64 << 10, || {
        let audio = [None, Some(AudioKind::Aac), Some(AudioKind::Mp3)][usize::from(flags % 3)];
        muxer.write_tables(&mut out, Program { video: flags & 4 != 0, audio });
        if let Some(config) = AvcConfig::parse(config)
            && config.accepts(frame)
        {
            let keyframe = flags & 8 != 0;
            muxer.write_video(&mut out, &config, VideoFrame { dts_90k: time_90k, composition_ms, keyframe, units: frame });
            muxer.write_video(&mut out, &config, VideoFrame { dts_90k: u64::MAX, composition_ms, keyframe, units: frame });
        }
        if let Some(config) = AdtsConfig::parse(config) {
            assert!((7_350..=96_000).contains(&config.rate()), "{}", config.rate());
            muxer.write_aac(&mut out, config, time_90k, frame);
            let fits = frame.len() <= aac::MAX_FRAME_BYTES;
            if fits {
                assert_eq!(config.header(frame.len())[..2], [0xff, 0xf1]);
            }
        }
        if frame.len() <= MAX_MP3_BYTES {
            muxer.write_mp3(&mut out, time_90k, frame);
        }
    });
    assert_eq!(out.len() % PACKET_BYTES, 0, "whole packets");
    assert!(out.chunks(PACKET_BYTES).all(|packet| packet[0] == 0x47), "every packet begins with its sync byte");
    let goes_on = Muxer::new(muxer.state().clone());
    assert_eq!(goes_on.state(), muxer.state());
}
