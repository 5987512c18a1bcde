//! What SRS's API says in words: versions, features, endpoints, and the names of codecs, profiles and levels.

use braidcast_media::details::{Audio, Video};
use braidcast_media::tag::Codec;
use serde_json::{Value, json};

pub(super) fn versions() -> Value {
    let version = env!("CARGO_PKG_VERSION");
    let part = |index| version.split('.').nth(index).and_then(|part| part.parse::<u32>().ok()).unwrap_or(0);
    json!({ "major": part(0), "minor": part(1), "revision": part(2), "version": version })
}

pub(super) fn features() -> Value {
    json!({
        "options": "engine=native",
        "options2": concat!("target=", env!("CARGO_PKG_NAME")),
        "build": env!("CARGO_PKG_VERSION"),
        "build2": crate::VERSION,
        "features": {
            "ssl": true,
            "hls": true,
            "hds": false,
            "callback": true,
            "api": true,
            "httpd": true,
            "dvr": false,
            "transcode": false,
            "ingest": true,
            "stat": true,
            "caster": false,
            "complex_send": true,
            "tcp_nodelay": true,
            "so_sendbuf": false,
            "mr": true,
        },
    })
}

pub(super) fn authors() -> Value {
    json!({ "license": env!("CARGO_PKG_LICENSE"), "contributors": "the authors of Braidcast" })
}

pub(super) fn urls() -> Value {
    json!({
        "versions": "the version of the server",
        "summaries": "processes and machine: pid, argv, cwd, CPU, memory, network",
        "rusages": "resources used by the processes",
        "self_proc_stats": "the processes as the kernel counts them",
        "system_proc_stats": "the CPUs as the kernel counts them",
        "meminfos": "the memory of the machine",
        "authors": "licence and authors",
        "features": "what the server can do",
        "vhosts": "all vhosts, or one",
        "streams": "all streams, or one",
        "clients": "all clients, or one; the first 10 if no count is given",
    })
}

/// As SRS calls it.
pub(super) fn codec(codec: Codec) -> String {
    match codec {
        Codec::H264 => "H264".to_owned(),
        Codec::Hevc => "HEVC".to_owned(),
        Codec::LegacyVideo(4) => "VP6".to_owned(),
        other => other.to_string(),
    }
}

/// A video profile's name.
pub(super) fn profile(codec: Codec, video: &Video) -> &'static str {
    /// `constraint_set1_flag` and `constraint_set3_flag` of H.264.
    const SET1: u8 = 0x40;
    const SET3: u8 = 0x10;
    let intra = video.constraints & SET3 != 0;
    match (codec, video.profile) {
        (Codec::H264, 66) if video.constraints & SET1 != 0 => "Baseline(Constrained)",
        (Codec::H264, 66) => "Baseline",
        (Codec::H264, 77) => "Main",
        (Codec::H264, 88) => "Extended",
        (Codec::H264, 100) => "High",
        (Codec::H264, 110) if intra => "High(10+Intra)",
        (Codec::H264, 110) => "High(10)",
        (Codec::H264, 122) if intra => "High(422+Intra)",
        (Codec::H264, 122) => "High(422)",
        (Codec::H264, 144) => "High(444)",
        (Codec::H264, 244) => "High(444+Predictive)",
        (Codec::H264, 44) => "High(444+Intra)",
        (Codec::Hevc, 1) | (Codec::Av1, 0) => "Main",
        (Codec::Hevc, 2) => "Main10",
        (Codec::Hevc, 3) => "Main Still Picture",
        (Codec::Hevc, 4) => "Rext",
        (Codec::Av1, 1) => "High",
        _ => "Other",
    }
}

/// A level as people write it: `4.1`.
pub(super) fn level(codec: Codec, video: &Video) -> String {
    let (major, minor) = match codec {
        Codec::H264 => (video.level / 10, video.level % 10),
        Codec::Hevc => (video.level / 30, video.level % 30 / 3),
        Codec::Av1 => (2 + video.level / 4, video.level % 4),
        _ => (0, 0),
    };
    match (major, minor) {
        (0, _) => "Other".to_owned(),
        (_, 0) => major.to_string(),
        _ => format!("{major}.{minor}"),
    }
}

/// An AAC object type's name.
pub(super) fn object_type(codec: Codec, audio: &Audio) -> &'static str {
    match (codec, audio.object_type) {
        (Codec::Aac, 1) => "Main",
        (Codec::Aac, 2) => "LC",
        (Codec::Aac, 3) => "SSR",
        (Codec::Aac, 5) => "HE",
        (Codec::Aac, 29) => "HEv2",
        _ => "Other",
    }
}
