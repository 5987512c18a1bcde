//! What publishers send: tags, runs of records, what becomes of them in a transport stream.

use crate::bounded;
use braidcast_media::flv::{self, RECORD_OVERHEAD_BYTES};
use braidcast_media::tag::tracks;
use braidcast_media::{RecordKind, TagInfo, TrackChoice};
use braidcast_protocols::mpegts::audio::AudioCodec;
use braidcast_protocols::mpegts::{AudioConfig, AudioWriter, LiveMuxer, Muxer, PACKET_BYTES, Program, VideoConfig, VideoFrame, VideoKind};
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
    assert!(!(info.keyframe && info.header.is_some()), "a sequence header is no keyframe");
    assert!(!info.keyframe || kind == RecordKind::Video, "only video has keyframes");
    assert!(info.header.is_none() || kind != RecordKind::Data, "data has no decoder");
    assert!(!payload.is_empty() || (!info.keyframe && info.header.is_none()), "nothing says nothing");
    let bodies: usize = tracks(kind, payload).map(|tag| tag.body.len()).sum();
    assert!(bodies <= payload.len(), "a byte belongs to one track");
    let first = tracks(kind, payload).next();
    assert_eq!(info.codec, first.map(|tag| tag.codec), "a tag is what its first track is");
    for choice in [TrackChoice::All, TrackChoice::First, TrackChoice::Audio, TrackChoice::Video, TrackChoice::Neither] {
        let chosen = bounded(input, 4, 4 << 10, || choice.payload(kind, payload).map(|chosen| chosen.into_owned()));
        let Some(chosen) = chosen.filter(|_| choice != TrackChoice::All) else { continue };
        assert!(chosen.len() <= payload.len() && !TagInfo::of(kind, &chosen).extended, "no player need know tracks");
        let of_track =
            |bytes| tracks(kind, bytes).find(|tag| tag.track == 0).map(|tag| (tag.codec, tag.content, tag.keyframe, tag.composition_ms));
        assert_eq!(of_track(&chosen), of_track(payload), "the first track stays what it was");
    }
}

/// A block's records as live transport stream and as bare audio, whatever is in them.
fn live(input: &[u8]) {
    let (mut muxer, mut aac, mut mp3) =
        (LiveMuxer::new(u32::from(input.first().copied().unwrap_or(0))), AudioWriter::aac(), AudioWriter::mp3());
    let (mut packets, mut audio) = (Vec::new(), Vec::new());
    bounded(input, 64, 256 << 10, || {
        for record in flv::records(input) {
            let (kind, timestamp_ms) = (record.header.kind, record.header.timestamp_ms);
            muxer.record(&mut packets, kind, timestamp_ms, record.payload);
            aac.record(&mut audio, kind, record.payload);
            mp3.record(&mut audio, kind, record.payload);
        }
    });
    assert_eq!(packets.len() % PACKET_BYTES, 0, "whole packets");
    assert!(packets.chunks(PACKET_BYTES).all(|packet| packet[0] == 0x47), "every packet begins with its sync byte");
}

/// A run of records of a block, and of messages of an RTMP rendition. What is walked is what was written.
pub fn records(input: &[u8]) {
    live(input);
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
    let kind = if flags & 16 == 0 { VideoKind::H264 } else { VideoKind::Hevc };
    let codecs = [AudioCodec::Aac, AudioCodec::Mp3, AudioCodec::Ac3, AudioCodec::Eac3, AudioCodec::Opus];
    let codec = codecs[usize::from(flags >> 5) % codecs.len()];
    bounded(input, 64, 64 << 10, || {
        let audio = AudioConfig::parse(codec, config).or_else(|| AudioConfig::of_frames(codec));
        let video = VideoConfig::parse(kind, config);
        let program = Program { video: (flags & 4 != 0).then_some(kind), audio: audio.filter(|_| flags & 2 != 0).map(AudioConfig::kind) };
        muxer.write_tables(&mut out, program);
        if let Some(config) = video.filter(|config| config.accepts(frame)) {
            let keyframe = flags & 8 != 0;
            muxer.write_video(&mut out, &config, VideoFrame { dts_90k: time_90k, composition_ms, keyframe, units: frame });
            muxer.write_video(&mut out, &config, VideoFrame { dts_90k: u64::MAX, composition_ms, keyframe, units: frame });
        }
        if let Some(config) = audio.filter(|config| config.accepts(frame)) {
            muxer.write_audio(&mut out, config, time_90k, frame);
        }
    });
    assert_eq!(out.len() % PACKET_BYTES, 0, "whole packets");
    assert!(out.chunks(PACKET_BYTES).all(|packet| packet[0] == 0x47), "every packet begins with its sync byte");
    let goes_on = Muxer::new(muxer.state().clone());
    assert_eq!(goes_on.state(), muxer.state());
}
