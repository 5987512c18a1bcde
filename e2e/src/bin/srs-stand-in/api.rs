//! SRS's HTTP API, of what clients and streams there are: its envelope, its fields, its ids that are words, its least count of ten.

use crate::clients::{Client, Kind, Stream};
use crate::http::{Request, answer};
use crate::{Shared, VERSION};
use anyhow::Result;
use serde_json::{Value, json};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// SRS's `code` for a stream that there is not.
const NO_STREAM: u32 = 2048;
/// SRS's `code` for a client that there is not.
const NO_CLIENT: u32 = 2049;

/// Serves one request.
pub fn serve(shared: &Arc<Shared>, mut stream: TcpStream) -> Result<()> {
    let request = Request::read(&mut stream)?;
    if matches!(&*request.path, "/api/v1/vhosts" | "/api/v1/streams" | "/api/v1/clients") {
        let location = format!("Location: {}/\r\nContent-Type: text/plain; charset=utf-8\r\n", request.path);
        return answer(&mut stream, "302 Found", &location, &format!("Redirect to {}/", request.path));
    }
    let body = said(shared, &request).to_string();
    match request.parameter("callback") {
        Some(callback) => answer(&mut stream, "200 OK", "Content-Type: text/javascript\r\n", &format!("{callback}({body})")),
        None => answer(&mut stream, "200 OK", "Content-Type: application/json\r\n", &body),
    }
}

fn said(shared: &Shared, request: &Request) -> Value {
    let clients = &shared.clients;
    let path = request.path.strip_prefix("/api/v1/").unwrap_or_default();
    let (section, id) = path.split_once('/').unwrap_or((path, ""));
    let id = Some(id).filter(|id| !id.is_empty());
    let vhost = |stream: &Stream| format!("vid-{}", shared.conf.vhost(stream.key.vhost()).replace('_', ""));
    match section {
        "versions" => {
            let [major, minor, revision] = VERSION;
            let version = format!("{major}.{minor}.{revision}");
            envelope("data", json!({"major": major, "minor": minor, "revision": revision, "version": version}))
        }
        "summaries" => {
            let own = json!({"version": "7.0.0", "pid": std::process::id(), "srs_uptime": 1, "mem_kbyte": 1, "cpu_percent": 0.0});
            let connections = clients.each(|_, _| ()).len();
            let (received, sent) = clients.traffic(None);
            let system = json!({"conn_srs": connections, "srs_recv_bytes": received, "srs_send_bytes": sent});
            envelope("data", json!({"ok": true, "self": own, "system": system}))
        }
        "vhosts" => {
            let streams = clients.streams();
            let mut rows: Vec<Value> = Vec::new();
            for stream in &streams {
                let (row_id, name) = (vhost(stream), shared.conf.vhost(stream.key.vhost()));
                if rows.iter().any(|row| row["id"] == row_id) {
                    continue;
                }
                let own = |key: &braidcast_media::StreamKey| shared.conf.vhost(key.vhost()) == name;
                let count = clients.each(|client, _| own(&client.key)).into_iter().filter(|own| *own).count();
                let (received, sent) = clients.traffic(None);
                let hls = shared
                    .conf
                    .hls(name)
                    .map_or(json!({"enabled": false}), |hls| json!({"enabled": true, "fragment": hls.fragment.as_secs_f64()}));
                rows.push(json!({
                    "id": row_id, "name": name, "enabled": true, "clients": count,
                    "streams": streams.iter().filter(|stream| own(&stream.key)).count(),
                    "send_bytes": sent, "recv_bytes": received, "kbps": {"recv_30s": 0, "send_30s": 0}, "hls": hls,
                }));
            }
            chosen(request, rows, id, ("vhosts", "vhost"), NO_STREAM)
        }
        "streams" => {
            let rows = clients.streams().iter().map(|stream| stream_row(shared, stream, vhost(stream))).collect();
            chosen(request, rows, id, ("streams", "stream"), NO_STREAM)
        }
        "clients" if request.method == "DELETE" => match id.filter(|id| clients.kick(id)) {
            Some(_) => envelope_of([]),
            None => json!({"code": NO_CLIENT}),
        },
        "clients" => {
            let rows = clients.each(|client, stream| client_row(client, stream, vhost(stream)));
            chosen(request, rows, id, ("clients", "client"), NO_CLIENT)
        }
        _ => envelope("urls", json!({"versions": "the version of SRS", "streams": "manage all streams or specified stream"})),
    }
}

fn envelope(name: &str, data: Value) -> Value {
    envelope_of([(name.to_owned(), data)])
}

fn envelope_of<const N: usize>(more: [(String, Value); N]) -> Value {
    let pid = std::process::id().to_string();
    let mut whole = serde_json::Map::new();
    whole.insert("code".into(), 0.into());
    whole.insert("server".into(), format!("vid-{pid}").into());
    whole.insert("service".into(), format!("stand{pid}").into());
    whole.insert("pid".into(), pid.into());
    whole.extend(more);
    Value::Object(whole)
}

/// The rows that are asked for, or the one of an id.
fn chosen(request: &Request, rows: Vec<Value>, id: Option<&str>, (many, one): (&str, &str), missing: u32) -> Value {
    if let Some(id) = id {
        return match rows.into_iter().find(|row| row["id"] == id) {
            Some(row) => envelope(one, row),
            None => json!({"code": missing}),
        };
    }
    let number = |name: &str| request.parameter(name).and_then(|number| number.parse().ok()).unwrap_or(0_usize);
    envelope(many, rows.into_iter().skip(number("start")).take(number("count").max(10)).collect())
}

fn stream_row(shared: &Shared, stream: &Stream, vhost: String) -> Value {
    let key = &stream.key;
    let theirs = shared.clients.each(|client, _| (client.key == *key).then(|| (client.kind, client.id.clone(), client.tc_url.clone())));
    let theirs: Vec<_> = theirs.into_iter().flatten().collect();
    let publisher = theirs.iter().find(|(kind, ..)| *kind == Kind::Publish);
    let publish = match publisher {
        Some((_, cid, _)) => json!({"active": true, "cid": cid}),
        None => json!({"active": false}),
    };
    let (received, sent) = shared.clients.traffic(Some(key));
    let (width, height) = stream.media.size;
    let video = stream.media.avc.map(|(profile, level)| {
        let profile = match profile {
            66 => "Baseline",
            77 => "Main",
            100 => "High",
            _ => "Other",
        };
        let level = f64::from(level) / 10.0;
        json!({"codec": "H264", "profile": profile, "level": level.to_string(), "width": width, "height": height})
    });
    let audio = stream.media.aac.then(|| json!({"codec": "AAC", "sample_rate": 44100, "channel": 2, "profile": "LC"}));
    json!({
        "id": stream.id, "name": key.stream(), "vhost": vhost, "app": key.app(),
        "tcUrl": publisher.or(theirs.first()).map_or("", |(_, _, tc_url)| tc_url), "url": url(key),
        "live_ms": now_ms(), "clients": theirs.len(), "frames": 0, "send_bytes": sent, "recv_bytes": received,
        "kbps": {"recv_30s": 0, "send_30s": 0}, "publish": publish, "video": video, "audio": audio,
    })
}

fn client_row(client: &Client, stream: &Stream, vhost: String) -> Value {
    let name = client.key.stream();
    json!({
        "id": client.id, "vhost": vhost, "stream": stream.id, "ip": client.ip, "pageUrl": "", "swfUrl": "", "tcUrl": client.tc_url,
        "url": url(&client.key), "name": if client.kind == Kind::Flv { format!("{name}.flv") } else { name.to_owned() },
        "type": client.kind.name(), "publish": client.kind == Kind::Publish, "alive": client.since.elapsed().as_secs_f64(),
        "send_bytes": client.traffic.sent.load(Ordering::Relaxed), "recv_bytes": client.traffic.received.load(Ordering::Relaxed),
        "kbps": {"recv_30s": 0, "send_30s": 0},
    })
}

fn url(key: &braidcast_media::StreamKey) -> String {
    format!("/{}/{}", key.app(), key.stream())
}

fn now_ms() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
