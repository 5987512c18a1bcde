//! Vhosts, streams and clients as SRS writes them.

use super::super::ids;
use super::super::machine::hundredths;
use super::snapshot::{Snapshot, Stream};
use super::words;
use crate::clients::Record;
use braidcast_media::StreamKey;
use braidcast_media::key::DEFAULT_VHOST;
use braidcast_sys::clock;
use serde_json::{Value, json};
use std::collections::BTreeMap;

#[derive(Default)]
struct Vhost {
    clients: usize,
    streams: usize,
    sent: u64,
    received: u64,
    bits_in: u64,
    bits_out: u64,
}

/// Those that have a stream or a client now.
pub(super) fn vhosts(snapshot: &Snapshot) -> Vec<Value> {
    let mut vhosts: BTreeMap<&str, Vhost> = BTreeMap::new();
    for stream in &snapshot.streams {
        let vhost = vhosts.entry(stream.key.vhost()).or_default();
        vhost.clients += stream.clients;
        vhost.streams += usize::from(stream.active);
        vhost.sent += stream.sent;
        vhost.received += stream.received;
        vhost.bits_in += stream.bits_in;
        vhost.bits_out += stream.bits_out;
    }
    let mut hls = json!({ "enabled": snapshot.hls_fragment_ms.is_some() });
    if let Some(fragment_ms) = snapshot.hls_fragment_ms {
        hls["fragment"] = hundredths(fragment_ms as f64 / 1_000.0);
    }
    let show = |(name, vhost): (&str, Vhost)| {
        json!({
            "id": ids::vhost_id(name),
            "name": name,
            "enabled": true,
            "clients": vhost.clients,
            "streams": vhost.streams,
            "send_bytes": vhost.sent,
            "recv_bytes": vhost.received,
            "kbps": kbps(vhost.bits_in, vhost.bits_out),
            "hls": hls,
        })
    };
    vhosts.into_iter().map(show).collect()
}

pub(super) fn stream(stream: &Stream) -> Value {
    let mut publish = json!({ "active": stream.active });
    if let Some(publisher) = stream.publisher {
        publish["cid"] = ids::client_id(publisher).into();
    }
    let video = stream.tracks.video.map(|(codec, video)| {
        let (width, height) = video.size.unwrap_or_default();
        json!({
            "codec": words::codec(codec),
            "profile": words::profile(codec, &video),
            "level": words::level(codec, &video),
            "width": width,
            "height": height,
        })
    });
    let audio = stream.tracks.audio.map(|(codec, audio)| {
        json!({
            "codec": words::codec(codec),
            "sample_rate": audio.rate,
            "channel": audio.channels,
            "profile": words::object_type(codec, &audio),
        })
    });
    json!({
        "id": stream.id,
        "name": stream.key.stream(),
        "vhost": ids::vhost_id(stream.key.vhost()),
        "app": stream.key.app(),
        "tcUrl": stream.tc_url,
        "url": url(&stream.key),
        "live_ms": clock::wall_ms(),
        "clients": stream.clients,
        "frames": stream.frames,
        "send_bytes": stream.sent,
        "recv_bytes": stream.received,
        "kbps": kbps(stream.bits_in, stream.bits_out),
        "publish": publish,
        "video": video,
        "audio": audio,
    })
}

pub(super) fn client(record: &Record) -> Value {
    let said = &record.description;
    let key = said.key.as_ref();
    let alive_ms = clock::wall_ms().saturating_sub(record.began_ms);
    json!({
        "id": ids::client_id(record.conn),
        "vhost": key.map(|key| ids::vhost_id(key.vhost())).unwrap_or_default(),
        "stream": key.map(ids::stream_id).unwrap_or_default(),
        "ip": said.peer.ip().to_canonical().to_string(),
        "pageUrl": shown(&said.page_url),
        "swfUrl": shown(&said.swf_url),
        "tcUrl": shown(&said.tc_url),
        "url": key.map(url).unwrap_or_default(),
        "name": key.map_or("", StreamKey::stream),
        "type": said.kind.label(),
        "publish": said.kind.publishes(),
        "alive": hundredths(alive_ms as f64 / 1_000.0),
        "send_bytes": record.bytes_out,
        "recv_bytes": record.bytes_in,
        "kbps": kbps(record.bits_in, record.bits_out),
    })
}

fn kbps(bits_in: u64, bits_out: u64) -> Value {
    json!({ "recv_30s": bits_in / 1_000, "send_30s": bits_out / 1_000 })
}

/// A stream's path, with its vhost unless that is the default one.
fn url(key: &StreamKey) -> String {
    let vhost = if key.vhost() == DEFAULT_VHOST { "" } else { key.vhost() };
    format!("{vhost}/{}/{}", key.app(), key.stream())
}

/// A URL without what may be secret: user and password, the query in any of its spellings, the fragment.
pub(super) fn shown(url: &str) -> String {
    let end = ["?", "#", "..."].iter().filter_map(|mark| url.find(mark)).min().unwrap_or(url.len());
    let url = &url[..end];
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}{path}")
}
