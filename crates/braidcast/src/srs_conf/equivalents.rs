//! Which key of this server stands for which directive of SRS, and why there is none for the others: tables for [`super::import`].

/// What a directive's value is in the native file.
pub(super) type Value = fn(&str) -> Option<String>;

/// Directives of the root and the keys that they become.
pub(super) const ROOT: &[(&str, &str, &str, Value)] =
    &[("max_connections", "limits", "connections", number), ("server_id", "hooks", "server_id", text)];

/// Directives of vhosts and the keys that they become. One value holds for all vhosts here, but for `latency`.
pub(super) const VHOST: &[(&str, &str, &str, Value)] = &[
    ("hls.hls_window", "hls", "window", seconds),
    ("hls.hls_fragment", "hls", "fragment", seconds),
    ("hls.hls_dispose", "hls", "hls_dispose", seconds),
    ("play.queue_length", "play", "max_lag", seconds),
    ("play.mw_latency", "play", "latency", number),
    ("publish.firstpkt_timeout", "limits", "first_packet", milliseconds),
    ("publish.normal_timeout", "limits", "idle", milliseconds),
];

/// What is looked at otherwise, or needs no setting: nothing is said of it.
pub(super) const SILENT: &[&str] = &[
    "listen",
    "rtmp",
    "rtmp.listen",
    "http_api",
    "http_api.enabled",
    "http_api.listen",
    "http_server",
    "http_server.enabled",
    "http_server.listen",
    "http_api.https",
    "http_api.https.enabled",
    "http_api.https.listen",
    "http_api.https.key",
    "http_api.https.cert",
    "http_server.https",
    "http_server.https.enabled",
    "http_server.https.listen",
    "http_server.https.key",
    "http_server.https.cert",
    "rtmps",
    "rtmps.enabled",
    "rtmps.listen",
    "rtmps.key",
    "rtmps.cert",
    "srs_log_level",
    "srs_log_level_v2",
    "vhost",
    "vhost.enabled",
    "vhost.hls",
    "vhost.hls.enabled",
    "vhost.play",
    "vhost.publish",
    "vhost.forward",
    "vhost.cluster",
    "vhost.ingest",
    "vhost.security",
    "vhost.security.enabled",
    "vhost.security.allow",
    "vhost.security.deny",
    "vhost.refer",
    "vhost.refer.enabled",
    "vhost.refer.all",
    "vhost.refer.publish",
    "vhost.refer.play",
    "vhost.http_remux",
    "vhost.http_remux.enabled",
    "vhost.cluster.mode",
    "vhost.cluster.origin",
    "vhost.cluster.vhost",
    "vhost.cluster.protocol",
    "vhost.forward.enabled",
    "vhost.forward.destination",
    "vhost.forward.backend",
    "vhost.http_hooks",
    "vhost.http_hooks.enabled",
    "vhost.http_hooks.on_connect",
    "vhost.http_hooks.on_close",
    "vhost.http_hooks.on_publish",
    "vhost.http_hooks.on_unpublish",
    "vhost.http_hooks.on_play",
    "vhost.http_hooks.on_stop",
    "vhost.http_hooks.on_hls",
    "daemon",
    "asprocess",
    "is_full",
    "empty_ip_ok",
    "in_docker",
    "disable_daemon_for_docker",
];

/// Why a directive, or a whole block, has no equivalent, and what to do about it.
pub(super) const REASONS: &[(&str, &str)] = &[
    ("pid", "this server keeps no pid file; its supervisor knows its pid"),
    ("work_dir", "paths are absolute here"),
    ("srs_log_tank", "log lines go to standard error, unless [logging] file names a file"),
    ("srs_log_file", "log lines go to standard error, unless [logging] file names a file"),
    ("ff_log_dir", "ffmpeg is started for pulls of HLS alone, and logs with the server"),
    ("ff_log_level", "ffmpeg is started for pulls of HLS alone, and logs with the server"),
    ("chunk_size", "chunks are as large as fits the frames"),
    ("rtmp.chunk_size", "chunks are as large as fits the frames"),
    ("vhost.chunk_size", "chunks are as large as fits the frames"),
    ("http_api.auth", "passwords are not copied: say [api] token_file, or [[api_user]] with password_file, and then where [api] listens"),
    ("http_api.raw_api", "`braidcast reload` reads the configuration anew"),
    ("http_server.dir", "no files are served but streams and the page; let a web server have them"),
    ("vhost.http_static", "no files are served but streams and the page; let a web server have them"),
    ("rtc_server", "WebRTC is not served; with [engine] kind = \"srs\" it is, by SRS"),
    ("vhost.rtc", "WebRTC is not served; with [engine] kind = \"srs\" it is, by SRS"),
    ("srt_server", "SRT is not served; with [engine] kind = \"srs\" it is, by SRS"),
    ("vhost.srt", "SRT is not served; with [engine] kind = \"srs\" it is, by SRS"),
    ("rtsp_server", "RTSP is not served; with [engine] kind = \"srs\" it is, by SRS"),
    ("vhost.rtsp", "RTSP is not served; with [engine] kind = \"srs\" it is, by SRS"),
    ("stream_caster", "streams come in by RTMP alone; ffmpeg can publish what comes in otherwise"),
    ("heartbeat", "nothing is reported by itself; ask the server (`braidcast status`)"),
    (
        "vhost.http_hooks.on_dvr",
        "streams are not recorded; ffmpeg can record rtmp:// or .flv of this server, and on_hls tells of each segment",
    ),
    ("vhost.http_hooks.on_hls_notify", "segments are not fetched through other servers; on_hls tells of each where it is"),
    ("vhost.exec", "no programs are started for publishers; with [engine] kind = \"srs\" they are, by SRS"),
    ("vhost.dvr", "streams are not recorded; ffmpeg can record rtmp:// or .flv of this server"),
    ("vhost.dash", "there is HLS, no DASH"),
    ("vhost.hds", "there is HLS, no HDS"),
    ("vhost.transcode", "streams are not transcoded; ffmpeg can play one from this server and publish another"),
    ("vhost.tcp_nodelay", "it is always on"),
    ("vhost.min_latency", "[play] latency says how long frames may be gathered"),
    ("vhost.play.gop_cache", "viewers always begin at the newest keyframe"),
    ("vhost.play.gop_cache_max_frames", "[log] stream_budget says how much of a stream is kept"),
    ("vhost.play.mw_msgs", "[play] latency says how long frames may be gathered"),
    ("vhost.publish.mr", "what has come is read at once"),
    ("vhost.publish.mr_latency", "what has come is read at once"),
    ("vhost.hls.hls_path", "segments lie in [server] shared_dir"),
    ("vhost.hls.hls_m3u8_file", "an index is played at /app/stream.m3u8"),
    ("vhost.hls.hls_ts_file", "segments are numbered, one directory for each stream"),
    ("vhost.hls.hls_cleanup", "[hls] retention says how long segments stay"),
    ("vhost.hls.hls_keys", "segments are not encrypted"),
    ("vhost.http_remux.mount", "streams are played at /app/stream.flv"),
    ("vhost.cluster.origin_cluster", "the workers of this server are the cluster"),
    ("vhost.cluster.coworkers", "the workers of this server are the cluster"),
    ("vhost.cluster.token_traverse", "what viewers say of themselves is not passed on to the origin"),
];

/// Blocks that do nothing unless their `enabled` says on.
pub(super) const OFF_BY_DEFAULT: &[&str] = &[
    "http_api.auth",
    "http_api.raw_api",
    "http_api.https",
    "http_server.https",
    "heartbeat",
    "exporter",
    "rtc_server",
    "srt_server",
    "rtmps",
    "rtsp_server",
    "stream_caster",
    "tencentcloud_cls",
    "tencentcloud_apm",
    "vhost.dvr",
    "vhost.dash",
    "vhost.hds",
    "vhost.exec",
    "vhost.http_hooks",
    "vhost.http_static",
    "vhost.security",
    "vhost.refer",
    "vhost.transcode",
    "vhost.rtc",
    "vhost.srt",
    "vhost.rtsp",
    "vhost.forward",
    "vhost.hls",
    "vhost.ingest",
];

/// Switches that need no setting here when they are off.
pub(super) const OFF: &[&str] = &[
    "asprocess",
    "daemon",
    "utc_time",
    "query_latest_version",
    "inotify_auto_reload",
    "vhost.hls.hls_keys",
    "vhost.hls.hls_ts_floor",
    "vhost.hls.hls_dts_directly",
    "vhost.hls.hls_use_fmp4",
    "vhost.cluster.origin_cluster",
    "vhost.cluster.token_traverse",
    "vhost.play.atc",
    "vhost.play.atc_auto",
    "vhost.play.mix_correct",
    "vhost.play.reduce_sequence_header",
    "vhost.publish.mr",
];

fn number(text: &str) -> Option<String> {
    text.parse::<u64>().ok().map(|number| number.to_string())
}

fn text(text: &str) -> Option<String> {
    Some(format!("{text:?}"))
}

fn seconds(text: &str) -> Option<String> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    text.parse::<f64>().ok().filter(|_| digits)?;
    Some(format!("\"{text}s\""))
}

fn milliseconds(text: &str) -> Option<String> {
    number(text).map(|number| format!("\"{number}ms\""))
}
