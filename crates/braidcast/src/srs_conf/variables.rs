//! `SRS_…` variables: what they say goes before the file, and processes inherit them. Those that are about anything looked at or changed here
//! are written into the tree and taken out of the environment of the processes; the others stay for SRS to read.

use super::directive::{Directive, Origin};

/// The file that SRS reads whatever `-c` says, if the variable is there.
pub(super) const CONFIG_FILE: &str = "SRS_CONFIG_FILE";
/// Says SRS to read no file, if the variable is there.
pub(super) const ENV_ONLY: &str = "SRS_ENV_ONLY";

/// Variables of the root whose names are those of their directives.
const ROOT: &[&str] = &[
    "listen",
    "rtmp.listen",
    "chunk_size",
    "max_connections",
    "daemon",
    "asprocess",
    "pid",
    "srs_log_tank",
    "srs_log_file",
    "srs_log_level",
    "srs_log_level_v2",
    "heartbeat.enabled",
    "exporter.enabled",
    "http_server.enabled",
    "http_server.listen",
    "http_server.https.enabled",
    "http_server.https.listen",
    "http_api.enabled",
    "http_api.listen",
    "http_api.https.enabled",
    "http_api.https.listen",
    "http_api.auth.enabled",
    "http_api.auth.username",
    "http_api.auth.password",
    "rtc_server.enabled",
    "rtc_server.tcp.enabled",
    "srt_server.enabled",
    "rtmps.enabled",
    "rtsp_server.enabled",
];

/// As [`ROOT`], of all vhosts.
const VHOST: &[&str] = &[
    "hls.enabled",
    "hls.hls_entry_prefix",
    "hls.hls_path",
    "hls.hls_m3u8_file",
    "hls.hls_ts_file",
    "hls.hls_ts_floor",
    "hls.hls_fragment",
    "hls.hls_window",
    "hls.hls_cleanup",
    "hls.hls_dispose",
    "hls.hls_keys",
    "hls.hls_use_fmp4",
    "http_remux.enabled",
    "http_remux.mount",
    "play.queue_length",
    "play.mw_latency",
    "publish.firstpkt_timeout",
    "publish.normal_timeout",
];

/// Other names for the same; SRS prefers those above.
const ALIASES: &[(&str, &str)] = &[
    ("SRS_LOG_TANK", "srs_log_tank"),
    ("SRS_LOG_FILE", "srs_log_file"),
    ("SRS_LOG_LEVEL", "srs_log_level"),
    ("SRS_LOG_LEVEL_V2", "srs_log_level_v2"),
];

/// Where the RTMP ports stand: in a block of their own if the site uses one, which only newer versions of SRS know.
pub(super) fn rtmp_listen(root: &Directive) -> &'static str {
    if root.at("rtmp").is_some() { "rtmp.listen" } else { "listen" }
}

/// The variable for a directive.
fn name_of(scope: &str, path: &str) -> String {
    format!("SRS_{scope}{}", path.replace('.', "_").to_uppercase())
}

/// Writes the variables into the tree. Returns the names of those that the processes must not have.
pub(super) fn apply(root: &mut Directive, environment: &[(String, String)]) -> Vec<String> {
    let mut taken = Vec::new();
    let mut take = |name: &str| {
        let (name, value) = environment.iter().find(|(other, _)| other == name)?;
        taken.push(name.clone());
        // SRS takes an empty one for none.
        Some((value.clone(), Origin::Variable(name.as_str().into()))).filter(|(value, _)| !value.is_empty())
    };
    take(CONFIG_FILE);
    take(ENV_ONLY);
    let aliases = ALIASES.iter().map(|(name, path)| ((*name).to_owned(), *path));
    for (name, path) in aliases.chain(ROOT.iter().map(|path| (name_of("", path), *path))) {
        let Some((value, origin)) = take(&name) else { continue };
        match path {
            "listen" | "rtmp.listen" => root.set(rtmp_listen(root), value.split_whitespace().map(str::to_owned).collect(), &origin),
            _ => root.set(path, vec![value], &origin),
        }
    }
    for path in VHOST {
        let Some((value, origin)) = take(&name_of("VHOST_", path)) else { continue };
        for vhost in root.children.iter_mut().filter(|child| child.name == "vhost") {
            vhost.set(path, vec![value.clone()], &origin);
        }
    }
    taken
}
