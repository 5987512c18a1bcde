//! What a hook server is sent: SRS's JSON, field by field.

use super::Action;
use braidcast_media::StreamKey;
use braidcast_media::key::DEFAULT_VHOST;
use serde_json::{Map, Value};
use std::net::IpAddr;

/// How a server introduces itself to hooks; the same as in its API.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Which server: the same as long as the instance lives, or what is configured.
    pub server: String,
    /// Which start of it.
    pub service: String,
}

/// What has happened, or is to happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its number in the log of events; for a decision, the question's own name. Tells a repetition from something new.
    pub id: String,
    /// What.
    pub action: Action,
    /// The client's name, as the API has it.
    pub client: String,
    /// Its true address.
    pub ip: IpAddr,
    /// The stream it is about.
    pub key: StreamKey,
    /// The URL the client connected to, without its query.
    pub tc_url: String,
    /// The page that a player is on.
    pub page_url: String,
    /// What the client added to the stream's name, beginning with `?`; or nothing.
    pub param: String,
    /// The stream's name in the API.
    pub stream_id: String,
    /// Bytes sent to the client.
    pub send_bytes: u64,
    /// Bytes received from it.
    pub recv_bytes: u64,
    /// The segment of `on_hls`.
    pub segment: Option<Segment>,
}

/// A finished segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Its number.
    pub number: u64,
    /// How long it is.
    pub duration_ms: u64,
    /// The directory that paths are relative to.
    pub cwd: String,
    /// Its file.
    pub file: String,
    /// Its address on the HTTP port, without the first slash.
    pub url: String,
    /// The index's file.
    pub index_file: String,
    /// The index's address, likewise.
    pub index_url: String,
}

impl Event {
    /// The stream's address without a host: `/app/stream`, with the virtual host before it unless it is the default one.
    fn stream_url(&self) -> String {
        let vhost = Some(self.key.vhost()).filter(|vhost| *vhost != DEFAULT_VHOST).unwrap_or_default();
        format!("{vhost}/{}/{}", self.key.app(), self.key.stream())
    }

    /// The body of the request.
    pub fn body(&self, names: &Names) -> String {
        let mut fields = Map::new();
        let mut put = |name: &str, value: Value| _ = fields.insert(name.to_owned(), value);
        put("server_id", names.server.as_str().into());
        put("service_id", names.service.as_str().into());
        put("action", self.action.name().into());
        put("client_id", self.client.as_str().into());
        put("ip", self.ip.to_canonical().to_string().into());
        put("vhost", self.key.vhost().into());
        put("app", self.key.app().into());
        if self.action == Action::Close {
            put("send_bytes", self.send_bytes.into());
            put("recv_bytes", self.recv_bytes.into());
            return Value::Object(fields).to_string();
        }
        put("tcUrl", self.tc_url.as_str().into());
        put("stream", self.key.stream().into());
        put("param", self.param.as_str().into());
        if matches!(self.action, Action::Connect | Action::Play) {
            put("pageUrl", self.page_url.as_str().into());
        }
        if let Some(segment) = &self.segment {
            // Milliseconds below 2^53 are exact.
            put("duration", (segment.duration_ms as f64 / 1_000.0).into());
            put("cwd", segment.cwd.as_str().into());
            put("file", segment.file.as_str().into());
            put("url", segment.url.as_str().into());
            put("m3u8", segment.index_file.as_str().into());
            put("m3u8_url", segment.index_url.as_str().into());
            put("seq_no", segment.number.into());
        }
        if !matches!(self.action, Action::Connect | Action::Forward) {
            put("stream_url", self.stream_url().into());
            put("stream_id", self.stream_id.as_str().into());
        }
        Value::Object(fields).to_string()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use super::*;

    pub fn event(action: Action, stream: &str, id: u64) -> Event {
        Event {
            id: id.to_string(),
            action,
            client: "c7".into(),
            ip: "::ffff:192.0.2.7".parse().unwrap(),
            key: StreamKey::new(DEFAULT_VHOST, "live", stream).unwrap(),
            tc_url: "rtmp://h/live".into(),
            page_url: "http://p/".into(),
            param: "?token=1".into(),
            stream_id: "vid-1".into(),
            send_bytes: 5,
            recv_bytes: 6,
            segment: (action == Action::Hls).then(|| Segment { number: 12, duration_ms: 3_990, ..Segment::default() }),
        }
    }

    #[test]
    fn each_action_has_the_fields_that_it_has_with_srs() {
        let common = "action app client_id ip server_id service_id vhost";
        let of_stream = "param stream stream_id stream_url tcUrl";
        let expected = |action| match action {
            Action::Connect => "pageUrl param stream tcUrl".to_owned(),
            Action::Close => "recv_bytes send_bytes".to_owned(),
            Action::Publish | Action::Unpublish | Action::Stop => of_stream.to_owned(),
            Action::Play => format!("pageUrl {of_stream}"),
            Action::Hls => format!("cwd duration file m3u8 m3u8_url {of_stream} seq_no url"),
            Action::Forward => "param stream tcUrl".to_owned(),
        };
        let names = Names { server: "vid-s".into(), service: "x".into() };
        for action in Action::ALL {
            let body: Map<String, Value> = serde_json::from_str(&event(action, "x", 1).body(&names)).unwrap();
            let mut fields: Vec<&str> = body.keys().map(String::as_str).collect();
            let all = format!("{common} {}", expected(action));
            let mut wanted: Vec<&str> = all.split(' ').collect();
            fields.sort_unstable();
            wanted.sort_unstable();
            assert_eq!(fields, wanted, "{action}");
            for (name, value) in &body {
                let number = matches!(name.as_str(), "send_bytes" | "recv_bytes" | "seq_no" | "duration");
                assert!(if number { value.is_number() } else { value.is_string() }, "{action} {name}");
            }
            assert_eq!((&body["action"], &body["ip"]), (&action.name().into(), &"192.0.2.7".into()));
        }
        let hls: Value = serde_json::from_str(&event(Action::Hls, "x", 1).body(&names)).unwrap();
        assert_eq!((&hls["duration"], &hls["stream_url"]), (&3.99.into(), &"/live/x".into()));
        let key = StreamKey::new("v.example", "a/b", "x").unwrap();
        assert_eq!(Event { key, ..event(Action::Play, "x", 1) }.stream_url(), "v.example/a/b/x");
    }
}
