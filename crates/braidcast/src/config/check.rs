//! What no key can say alone: values that contradict each other.
//!
//! Looks at the configuration only. Whether ports are free and directories usable is for `braidcast check` and the start to find out.

use super::{Config, ProxyProtocol, Span, Worker};
use braidcast_media::StreamKey;

/// The longest list of virtual hosts: the workers get the whole configuration in one message.
const MAX_VHOSTS: usize = 256;
/// The longest list of trusted proxies, likewise; and each is compared with every new connection's address.
const MAX_TRUSTED_PROXIES: usize = 256;

/// A contradiction, at the key that is most likely the wrong one.
pub(super) struct Finding {
    /// Section and key whose place is named.
    pub key: (&'static str, &'static str),
    /// What is wrong.
    pub message: String,
    /// Whether the server can run like this all the same.
    pub harmless: bool,
}

pub(super) fn contradictions(config: &Config) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut error = |section, key, message: String| found.push(Finding { key: (section, key), message, harmless: false });
    let log = &config.log;
    at_most(&mut error, ("log", "block_min", log.block_min), ("log", "block_max", log.block_max));
    at_most(&mut error, ("log", "block_max_bytes", log.block_max_bytes), ("log", "stream_budget", log.stream_budget));
    at_most(&mut error, ("hls", "fragment", config.hls.fragment), ("hls", "window", config.hls.window));
    at_most(&mut error, ("hls", "window", config.hls.window), ("hls", "retention", config.hls.retention));
    let limits = &config.limits;
    at_most(
        &mut error,
        ("limits", "message_bytes", limits.message_bytes),
        ("limits", "unfinished_message_bytes", limits.unfinished_message_bytes),
    );
    if log.budget.bytes() != 0 {
        at_most(&mut error, ("log", "stream_budget", log.stream_budget), ("log", "budget", log.budget));
    }
    if config.server.shared_dir.starts_with(&config.server.state_dir) || config.server.state_dir.starts_with(&config.server.shared_dir) {
        error("server", "state_dir", "[server] state_dir and shared_dir must not lie one within the other".into());
    }
    vhosts(&mut error, config);
    proxies(&mut error, config);
    ports(&mut error, config);
    workers(&mut found, config);
    let play = &config.play;
    if play.max_lag > log.keep {
        let message = format!(
            "[play] max_lag = {} is more than [log] keep = {}: a viewer will be jumped when its block is gone, before that",
            play.max_lag, log.keep
        );
        found.push(Finding { key: ("play", "max_lag"), message, harmless: true });
    }
    found
}

fn at_most<T: PartialOrd + std::fmt::Display>(
    error: &mut impl FnMut(&'static str, &'static str, String),
    (small_section, small_key, small): (&'static str, &'static str, T),
    (large_section, large_key, large): (&'static str, &'static str, T),
) {
    if small > large {
        error(
            small_section,
            small_key,
            format!("[{small_section}] {small_key} = {small} is more than [{large_section}] {large_key} = {large}"),
        );
    }
}

fn vhosts(error: &mut impl FnMut(&'static str, &'static str, String), config: &Config) {
    let vhosts = &config.server.vhosts;
    if vhosts.len() > MAX_VHOSTS {
        error("server", "vhosts", format!("[server] vhosts has {} entries; allowed: at most {MAX_VHOSTS}", vhosts.len()));
    }
    for vhost in vhosts {
        if let Err(fault) = StreamKey::new(vhost, "app", "stream") {
            error("server", "vhosts", format!("[server] vhosts: {vhost:?}: {fault}"));
        }
    }
}

fn proxies(error: &mut impl FnMut(&'static str, &'static str, String), config: &Config) {
    let trusted = config.server.trusted_proxies.len();
    if trusted > MAX_TRUSTED_PROXIES {
        error(
            "server",
            "trusted_proxies",
            format!("[server] trusted_proxies has {trusted} entries; allowed: at most {MAX_TRUSTED_PROXIES}"),
        );
    }
    let listeners = [
        ("rtmp", "proxy_protocol", config.rtmp.proxy_protocol),
        ("http", "proxy_protocol", config.http.proxy_protocol),
        ("api", "proxy_protocol", config.api.proxy_protocol),
        ("server", "worker_proxy_protocol", config.server.worker_proxy_protocol),
    ];
    for (section, key, _) in listeners.into_iter().filter(|(.., value)| *value == ProxyProtocol::On && trusted == 0) {
        error(section, key, format!("[{section}] {key} = \"on\" takes connections from [server] trusted_proxies alone, and that is empty"));
    }
}

fn ports(error: &mut impl FnMut(&'static str, &'static str, String), config: &Config) {
    let mut taken: Vec<(&'static str, std::net::SocketAddr)> = Vec::new();
    for (section, addresses) in [("rtmp", &config.rtmp.listen), ("http", &config.http.listen), ("api", &config.api.listen)] {
        for address in addresses {
            let same = taken.iter().find(|(_, other)| other == address && address.port() != 0);
            match same {
                Some((other, _)) => error(section, "listen", format!("[{section}] listen = {address} is also in [{other}] listen")),
                None => taken.push((section, *address)),
            }
        }
    }
    if config.server.worker_base_port != 0 && config.sub_port(config.workers()).is_none() {
        let (base, workers) = (config.server.worker_base_port, config.workers());
        error(
            "server",
            "worker_base_port",
            format!(
                "[server] worker_base_port = {base} leaves no ports for {workers} workers; allowed: at most {}",
                65_536 - u32::from(workers)
            ),
        );
    }
}

fn workers(found: &mut Vec<Finding>, config: &Config) {
    for (index, Worker { id, .. }) in config.worker.iter().enumerate() {
        if config.worker[..index].iter().any(|other| other.id == *id) {
            found.push(Finding { key: ("worker", "id"), message: format!("[[worker]] id = {id} is there twice"), harmless: false });
        }
        if *id > config.workers() {
            let message =
                format!("[[worker]] id = {id}: there are only {} workers ([server] workers = {})", config.workers(), config.server.workers);
            // With one worker a core, the same file is used on machines of different sizes.
            found.push(Finding { key: ("worker", "id"), message, harmless: config.server.workers == 0 });
        }
    }
    let publishers: u64 = config.worker.iter().map(|worker| u64::from(worker.max_publishers)).sum();
    let all_limited = (1..=config.workers()).all(|id| config.worker(id).max_publishers != 0);
    let total = u64::from(config.placement.max_publishers);
    if all_limited && total > publishers {
        let message = format!("[placement] max_publishers = {total} is never reached: the workers take {publishers} in all");
        found.push(Finding { key: ("placement", "max_publishers"), message, harmless: true });
    }
    if config.play.reconnect_grace > config.hls.retention && config.hls.enabled {
        let message = format!(
            "[play] reconnect_grace = {} is more than [hls] retention = {}: segments of a stream that waits for its publisher will go",
            config.play.reconnect_grace, config.hls.retention
        );
        found.push(Finding { key: ("play", "reconnect_grace"), message, harmless: true });
    }
    if config.limits.idle > Span::ms(0) && config.limits.idle < config.limits.handshake {
        let message = format!(
            "[limits] idle = {} is less than handshake = {}: idle ends connections first",
            config.limits.idle, config.limits.handshake
        );
        found.push(Finding { key: ("limits", "idle"), message, harmless: true });
    }
}
