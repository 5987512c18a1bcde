//! The directives that SRS knows, of versions 4 to 7 and the older spellings that it still takes. Versions differ, and SRS refuses what it does
//! not know, so what is missing here is worth a warning and no more.

use super::directive::Directive;
use super::rules::{Note, NoteKind};
use std::collections::HashMap;

/// Blocks and what may stand in them. A block that is not listed holds anything: parameters of ffmpeg.
const BLOCKS: &[(&str, &str)] = &[
    (
        "",
        "listen pid chunk_size ff_log_dir srs_log_tank srs_log_level srs_log_level_v2 srs_log_file max_connections daemon heartbeat \
         tencentcloud_apm tencentcloud_cls http_api stats vhost pithy_print_ms http_server stream_caster rtc_server srt_server utc_time \
         work_dir asprocess server_id ff_log_level grace_final_wait force_grace_quit grace_start_wait empty_ip_ok \
         disable_daemon_for_docker inotify_auto_reload auto_reload_for_docker tcmalloc_release_rate query_latest_version \
         first_wait_for_qlv threads circuit_breaker is_full in_docker exporter http_stream rtmp rtmps rtsp_server \
         max_rtmp_conn_per_ip",
    ),
    ("rtmp", "enabled listen chunk_size"),
    ("rtmps", "enabled listen key cert"),
    ("rtsp_server", "enabled listen"),
    ("http_api", "enabled listen crossdomain raw_api auth https"),
    ("http_api.raw_api", "enabled allow_reload allow_query allow_update"),
    ("http_api.auth", "enabled username password"),
    ("http_api.https", "enabled listen key cert"),
    ("http_server", "enabled listen dir crossdomain https"),
    ("http_server.https", "enabled listen key cert"),
    ("http_stream", "enabled listen dir crossdomain https"),
    ("http_stream.https", "enabled listen key cert"),
    (
        "srt_server",
        "enabled listen maxbw mss latency recvlatency peerlatency connect_timeout peer_idle_timeout sendbuf recvbuf payloadsize \
         default_app default_streamid default_mode sei_filter mix_correct tlpktdrop tlpkdrop tsbpdmode passphrase pbkeylen",
    ),
    ("heartbeat", "enabled interval url device_id summaries ports"),
    ("stats", "enabled network disk"),
    (
        "rtc_server",
        "enabled listen dir candidate ecdsa tcp encrypt reuseport merge_nalus black_hole protocol ip_family api_as_candidates \
         resolve_api_domain keep_api_domain use_auto_detect_network_ip perf_stat queue_length",
    ),
    ("rtc_server.tcp", "enabled listen"),
    ("rtc_server.black_hole", "enabled addr publisher"),
    ("exporter", "enabled listen label tag"),
    ("threads", "interval"),
    ("circuit_breaker", "enabled high_threshold high_pulse critical_threshold critical_pulse dying_threshold dying_pulse"),
    (
        "tencentcloud_cls",
        "enabled label tag secret_id secret_key endpoint topic_id debug_logging stat_heartbeat heartbeat_ratio stat_streams streams_ratio",
    ),
    ("tencentcloud_apm", "enabled team token endpoint service_name debug_logging"),
    (
        "stream_caster",
        "enabled caster output listen sip host tcp_enable rtp_port_min rtp_port_max wait_keyframe rtp_idle_timeout audio_enable \
         auto_create_channel",
    ),
    (
        "stream_caster.sip",
        "enabled listen timeout reinvite candidate serial realm ack_timeout keepalive_timeout invite_port_fixed \
         query_catalog_interval auto_play",
    ),
    (
        "vhost",
        "enabled chunk_size min_latency tcp_nodelay dvr ingest hls http_hooks refer forward transcode bandcheck play publish cluster \
         security http_remux dash http_static hds exec in_ack_size out_ack_size rtc srt rtsp http refer_play refer_publish mr \
         publish_1stpkt_timeout publish_normal_timeout time_jitter mix_correct atc atc_auto mw_latency gop_cache gop_cache_max_frames \
         queue_length send_min_interval reduce_sequence_header mode origin token_traverse vhost debug_srs_upnode nack twcc",
    ),
    ("vhost.mr", "enabled latency"),
    ("vhost.nack", "enabled no_copy"),
    ("vhost.twcc", "enabled"),
    ("vhost.dvr", "enabled dvr_apply dvr_path dvr_plan dvr_duration dvr_wait_keyframe time_jitter"),
    ("vhost.refer", "enabled all publish play"),
    ("vhost.exec", "enabled publish"),
    (
        "vhost.play",
        "time_jitter mix_correct atc atc_auto mw_latency gop_cache gop_cache_max_frames queue_length send_min_interval \
         reduce_sequence_header mw_msgs",
    ),
    ("vhost.cluster", "mode origin token_traverse vhost debug_srs_upnode coworkers origin_cluster protocol follow_client"),
    ("vhost.publish", "mr mr_latency firstpkt_timeout normal_timeout parse_sps try_annexb_first kickoff_for_idle"),
    ("vhost.ingest", "enabled input ffmpeg engine"),
    ("vhost.ingest.input", "type url"),
    ("vhost.http_static", "enabled mount dir"),
    ("vhost.http", "enabled mount dir"),
    ("vhost.http_remux", "enabled mount fast_cache drop_if_not_match has_audio has_video guess_has_av hstrs"),
    (
        "vhost.dash",
        "enabled dash_fragment dash_update_period dash_timeshift dash_path dash_mpd_file dash_window_size dash_dispose dash_cleanup",
    ),
    ("vhost.hds", "enabled hds_path hds_fragment hds_window"),
    (
        "vhost.hls",
        "enabled hls_entry_prefix hls_path hls_fragment hls_window hls_on_error hls_storage hls_mount hls_td_ratio hls_aof_ratio \
         hls_acodec hls_vcodec hls_m3u8_file hls_ts_file hls_ts_floor hls_cleanup hls_nb_notify hls_wait_keyframe hls_dispose hls_keys \
         hls_fragments_per_key hls_key_file hls_key_file_path hls_key_url hls_dts_directly hls_ctx hls_ts_ctx hls_use_fmp4 \
         hls_fmp4_file hls_init_file hls_recover",
    ),
    ("vhost.http_hooks", "enabled on_connect on_close on_publish on_unpublish on_play on_stop on_dvr on_hls on_hls_notify"),
    ("vhost.forward", "enabled destination backend"),
    ("vhost.security", "enabled deny allow"),
    ("vhost.transcode", "enabled ffmpeg engine"),
    ("vhost.transcode.engine", ENGINE),
    ("vhost.ingest.engine", ENGINE),
    (
        "vhost.rtc",
        "enabled nack twcc nack_no_copy bframe aac stun_timeout stun_strict_check dtls_role dtls_version drop_for_pt rtc_to_rtmp \
         pli_for_rtmp rtmp_to_rtc keep_bframe opus_bitrate aac_bitrate keep_avc_nalu_sei init_rate_from_sdp",
    ),
    ("vhost.srt", "enabled srt_to_rtmp"),
    ("vhost.rtsp", "enabled rtmp_to_rtsp"),
];

const ENGINE: &str = "enabled vfilter vcodec vbitrate vfps vwidth vheight vthreads vprofile vpreset vparams acodec abitrate asample_rate \
                      achannels aparams output perfile iformat oformat";

/// What may be there several times in one block.
const SEVERAL: &[&str] = &["stream_caster", "ingest", "transcode", "engine", "allow", "deny"];

/// A note for each directive that SRS does not know, as far as is known here, and for each that it overlooks.
pub(super) fn oddities(root: &Directive) -> Vec<Note> {
    let mut notes = Vec::new();
    look(root, "", &mut notes);
    notes
}

fn look(block: &Directive, path: &str, notes: &mut Vec<Note>) {
    let Some((_, names)) = BLOCKS.iter().find(|(of, _)| *of == path) else { return };
    let mut first: HashMap<(&str, &str), &Directive> = HashMap::new();
    for directive in &block.children {
        let inner = if path.is_empty() { directive.name.clone() } else { format!("{path}.{}", directive.name) };
        if names.split_whitespace().any(|name| name == directive.name) {
            // Vhosts are told apart by their names.
            let argument = if directive.name == "vhost" { directive.arg() } else { "" };
            let before = *first.entry((&directive.name, argument)).or_insert(directive);
            if !std::ptr::eq(before, directive) && !SEVERAL.contains(&directive.name.as_str()) {
                let text = format!("SRS looks at the first one alone, in {}", before.origin);
                notes.push(Note { origin: directive.origin.clone(), directive: inner.clone(), kind: NoteKind::Odd, text });
            }
            look(directive, &inner, notes);
            continue;
        }
        let near = |name: &&str| strsim::normalized_damerau_levenshtein(&directive.name, name);
        let nearest = names.split_whitespace().max_by(|a, b| near(a).total_cmp(&near(b))).unwrap_or_default();
        let text = format!("SRS 4 to 7 do not know it there and may refuse to start; the nearest that they know is {nearest}");
        notes.push(Note { origin: directive.origin.clone(), directive: inner, kind: NoteKind::Odd, text });
    }
}

/// All that are known, as paths.
#[cfg(test)]
pub(super) fn paths() -> Vec<String> {
    let of_block = |(block, names): &(&str, &str)| {
        let path = |name: &str| if block.is_empty() { name.to_owned() } else { format!("{block}.{name}") };
        names.split_whitespace().map(path).collect::<Vec<_>>()
    };
    BLOCKS.iter().flat_map(of_block).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_is_a_directive_of_the_block_around_it() {
        for (path, names) in BLOCKS.iter().filter(|(path, _)| !path.is_empty()) {
            let (outer, name) = path.rsplit_once('.').unwrap_or(("", path));
            let around = BLOCKS.iter().find(|(of, _)| *of == outer).map_or("", |(_, names)| names);
            assert!(around.split_whitespace().any(|known| known == name), "{path}");
            assert!(!names.is_empty());
        }
    }
}
