//! What no key can say alone: values that contradict each other.
//!
//! Looks at the configuration only. Whether ports are free and directories usable is for `braidcast check` and the start to find out.

use super::{Api, Config, EngineKind, Hook, ProxyProtocol, Pull, Span, Vhost, When, Worker};
use crate::api::gate::is_origin;
use braidcast_media::StreamKey;
use std::net::IpAddr;

/// The longest list of virtual hosts: the workers get the whole configuration in one message.
const MAX_VHOSTS: usize = 256;
/// The longest list of trusted proxies, likewise; and each is compared with every new connection's address.
const MAX_TRUSTED_PROXIES: usize = 256;

/// The most certificates: the descriptors of their files travel in one message (`SCM_MAX_FD` of the kernel is 253).
const MAX_CERTIFICATES: usize = 120;
/// The most names of a certificate that is fetched: authorities have such a limit.
const MAX_DOMAINS: usize = 100;
/// The most forwards, and the most pulls.
const MAX_RELAYS: usize = 256;
/// The most origins of web pages, and the most users, of the API.
const MAX_ORIGINS: usize = 64;
const MAX_API_USERS: usize = 256;
/// Shorter tokens are worth a warning.
const SHORT_TOKEN_BYTES: usize = 16;
/// The most hooks: each has counters of its own, and each decision goes through all of them.
const MAX_HOOKS: usize = crate::hooks::MAX_HOOKS;
/// The longest configuration as the workers get it, in bytes: a part of one message.
const MAX_JSON_BYTES: usize = crate::control::MAX_MESSAGE_BYTES / 2;

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
    relays(&mut error, config);
    api(&mut error, config);
    hooks(&mut error, config);
    if config.to_json().len() > MAX_JSON_BYTES {
        error("server", "vhosts", format!("the configuration is too long: written as JSON it has more than {MAX_JSON_BYTES} bytes"));
    }
    weak_api(&mut found, config);
    pulls(&mut found, config);
    tls(&mut found, config);
    super::access::contradictions(&mut found, config);
    workers(&mut found, config);
    engine(&mut found, config);
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

/// What another engine needs, and what it does without.
fn engine(found: &mut Vec<Finding>, config: &Config) {
    let engine = &config.engine;
    let mut add = |key, message: String, harmless| found.push(Finding { key, message, harmless });
    if engine.kind == EngineKind::External {
        for (key, value) in [("command", &engine.command), ("template", &engine.template)] {
            if value.is_empty() {
                add(("engine", key), format!("[engine] kind = \"external\" without {key}"), false);
            }
        }
    }
    if engine.kind == EngineKind::Native {
        return;
    }
    if engine.kind == EngineKind::Srs && engine.carries_others > config.processes() {
        add(
            ("engine", "carries_others"),
            format!("[engine] carries_others = {}: there are {} processes", engine.carries_others, config.processes()),
            false,
        );
    }
    if !config.pull.is_empty() || !config.forward.is_empty() {
        add(("engine", "kind"), "[[forward]] and [[pull]] are the native engine's: the other servers have their own".into(), false);
    }
    if config.server.worker_base_port != 0 {
        add(
            ("server", "worker_base_port"),
            "[server] worker_base_port: relays have no sub-ports; the processes have ports of their own".into(),
            false,
        );
    }
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
    for (index, Vhost { name, .. }) in config.vhost.iter().enumerate() {
        if let Err(fault) = StreamKey::new(name, "app", "stream") {
            error("vhost", "name", format!("[[vhost]] name = {name:?}: {fault}"));
        }
        if config.vhost[..index].iter().any(|other| other.name == *name) {
            error("vhost", "name", format!("[[vhost]] name = {name:?} is there twice"));
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
    let mut taken: Vec<(&'static str, &'static str, std::net::SocketAddr)> = Vec::new();
    for (section, key, addresses) in config.listens() {
        for address in addresses {
            let same = taken.iter().find(|(.., other)| other == address && address.port() != 0);
            match same {
                Some((section_of_other, other, _)) => {
                    error(section, key, format!("[{section}] {key} = {address} is also in [{section_of_other}] {other}"));
                }
                None => taken.push((section, key, *address)),
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

/// Who may use the API: nobody from elsewhere without saying who he is.
fn api(error: &mut impl FnMut(&'static str, &'static str, String), config: &Config) {
    let Api { listen, token, read_token, open, cors, .. } = &config.api;
    let listening = [("api", "listen", listen), ("tls", "https_api", &config.tls.https_api)];
    let everywhere = listening.iter().flat_map(|(section, key, addresses)| addresses.iter().map(move |address| (*section, *key, address)));
    let elsewhere = everywhere.into_iter().find(|(.., address)| !address.ip().to_canonical().is_loopback());
    if let Some((section, key, address)) = elsewhere.filter(|_| !config.api_asks() && !open) {
        let message = format!(
            "[{section}] {key} = {address} can be reached from elsewhere, and the API asks nobody who he is: anybody could end streams; say [api] token \
             or token_file, or [[api_user]], or listen on 127.0.0.1:{}; [api] open = true if something before it asks",
            address.port()
        );
        error(section, key, message);
    }
    for origin in cors {
        if origin == "*" && !config.api_asks() {
            error(
                "api",
                "cors",
                "[api] cors = \"*\" would let every web page use the API, which asks nobody who he is: say [api] token too".into(),
            );
        } else if origin != "*" && !is_origin(origin) {
            error("api", "cors", format!("[api] cors: {origin:?} is no origin; they are written https://name or https://name:port"));
        }
    }
    if cors.len() > MAX_ORIGINS {
        error("api", "cors", format!("[api] cors has {} entries; allowed: at most {MAX_ORIGINS}", cors.len()));
    }
    if token.is_set() && token == read_token {
        error("api", "read_token", "[api] read_token is the same as token, which may do everything".into());
    }
    if config.api_user.len() > MAX_API_USERS {
        error("api_user", "name", format!("[[api_user]] is there {} times; allowed: at most {MAX_API_USERS}", config.api_user.len()));
    }
    for (index, user) in config.api_user.iter().enumerate() {
        if user.name.is_empty() || user.name.contains(':') || user.name.contains(char::is_control) {
            error("api_user", "name", format!("[[api_user]] name = {:?}: a name is not empty and has no colon", user.name));
        }
        if !user.password.is_set() {
            error("api_user", "password", format!("[[api_user]] {:?} has an empty password", user.name));
        }
        if config.api_user[..index].iter().any(|other| other.name == user.name) {
            error("api_user", "name", format!("[[api_user]] name = {:?} is there twice", user.name));
        }
    }
}

/// What is worth a word about who may use the API.
fn weak_api(found: &mut Vec<Finding>, config: &Config) {
    let mut add = |key, message: String| found.push(Finding { key: ("api", key), message, harmless: true });
    if config.api.open && config.api_asks() {
        add("open", "[api] open = true changes nothing: there is a token or a user".into());
    }
    for (key, token) in [("token", &config.api.token), ("read_token", &config.api.read_token)] {
        if token.is_set() && token.expose().len() < SHORT_TOKEN_BYTES {
            add(
                key,
                format!("[api] {key} is shorter than {SHORT_TOKEN_BYTES} bytes and may be guessed; make one by: openssl rand -hex 24"),
            );
        }
    }
    if let Some(address) = config.metrics.listen.iter().find(|address| !address.ip().to_canonical().is_loopback())
        && !config.api_asks()
    {
        let message = format!(
            "[metrics] listen = {address} can be reached from elsewhere and asks nobody who he is: names of streams, numbers of viewers; say [api] read_token"
        );
        found.push(Finding { key: ("metrics", "listen"), message, harmless: true });
    }
}

fn tls(found: &mut Vec<Finding>, config: &Config) {
    let mut add = |key, message: String, harmless| found.push(Finding { key, message, harmless });
    let (count, acme) = (config.certificate.len(), &config.acme);
    if count > MAX_CERTIFICATES {
        add(("certificate", "cert"), format!("[[certificate]] is there {count} times; allowed: at most {MAX_CERTIFICATES}"), false);
    }
    if config.tls.is_on() && count == 0 && acme.domains.is_empty() {
        let message = "[tls] listens, and there is no certificate: name one by [[certificate]], or have one fetched by [acme]";
        add(("tls", "https"), message.to_owned(), false);
    }
    if acme.domains.is_empty() {
        return;
    }
    if !acme.agree {
        let message = "[acme] agree = true says that you agree to the authority's terms of service; without it there is no certificate";
        add(("acme", "agree"), message.to_owned(), false);
    }
    if acme.domains.len() > MAX_DOMAINS {
        add(("acme", "domains"), format!("[acme] domains has {} entries; allowed: at most {MAX_DOMAINS}", acme.domains.len()), false);
    }
    for domain in acme.domains.iter().filter(|domain| !is_host_name(domain)) {
        let message = format!("[acme] domains: {domain:?} is no full host name; \"*.\" and addresses cannot be had this way");
        add(("acme", "domains"), message, false);
    }
    if !acme.directory.starts_with("https://") {
        add(("acme", "directory"), format!("[acme] directory = {:?} is no https:// URL", acme.directory), false);
    }
    if !config.tls.is_on() {
        add(("acme", "domains"), "[acme] fetches no certificate while [tls] listens nowhere".to_owned(), true);
    }
    if config.http.listen.is_empty() {
        let message = "[acme] domains: the authority asks for a file by HTTP, and [http] listen is empty";
        add(("acme", "domains"), message.to_owned(), false);
    }
}

/// A name with at least one dot, of labels as in RFC 1123.
fn is_host_name(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let is_address = name.parse::<IpAddr>().is_ok();
    name.len() <= 253 && name.contains('.') && !is_address && name.split('.').all(label)
}

fn relays(error: &mut impl FnMut(&'static str, &'static str, String), config: &Config) {
    for (section, key, count) in [("forward", "streams", config.forward.len()), ("pull", "stream", config.pull.len())] {
        if count > MAX_RELAYS {
            error(section, key, format!("[[{section}]] is there {count} times; allowed: at most {MAX_RELAYS}"));
        }
    }
    let example = StreamKey::new("v", "app", "stream").expect("these are names");
    let forwards = config.forward.iter().flat_map(|forward| forward.to.0.iter().map(|url| ("forward", "to", url)));
    for (section, key, url) in forwards.chain(config.pull.iter().map(|pull| ("pull", "from", &pull.from.0))) {
        if let Ok(endpoint) = url.for_stream(&example)
            && is_own(config, &endpoint.host, endpoint.port)
        {
            error(section, key, format!("[[{section}]] {key} = {:?}: that is this server itself", endpoint.shown));
        }
    }
}

fn hooks(error: &mut impl FnMut(&'static str, &'static str, String), config: &Config) {
    if config.hook.len() > MAX_HOOKS {
        error("hook", "url", format!("[[hook]] is there {} times; allowed: at most {MAX_HOOKS}", config.hook.len()));
    }
    at_most(error, ("hooks", "queue_per_hook", config.hooks.queue_per_hook), ("hooks", "queue", config.hooks.queue));
    if config.relays() && !config.hook.is_empty() {
        error("engine", "kind", "[[hook]] is the native engine's: SRS calls its own (http_hooks), others call none".into());
    }
    for (index, hook) in config.hook.iter().enumerate() {
        let same = |other: &Hook| {
            (&other.url, &other.events, &other.streams, &other.vhost) == (&hook.url, &hook.events, &hook.streams, &hook.vhost)
        };
        if config.hook[..index].iter().any(same) {
            error("hook", "url", format!("[[hook]] url = {:?} is there twice with the same events and streams", hook.url.shown()));
        }
        let place = hook.url.place();
        if is_own(config, &place.host, place.port) {
            error("hook", "url", format!("[[hook]] url = {:?}: that is this server itself", hook.url.shown()));
        }
    }
}

/// Whether an address, written as one, is one that this server listens on.
fn is_own(config: &Config, host: &str, port: u16) -> bool {
    let address = match host {
        "localhost" => Some(IpAddr::from([127, 0, 0, 1])),
        other => other.parse().ok(),
    };
    let Some(address) = address else { return false };
    let listening = [&config.rtmp.listen, &config.http.listen, &config.api.listen, &config.metrics.listen];
    let same = |listen: &std::net::SocketAddr| {
        listen.port() == port && (listen.ip() == address || (listen.ip().is_unspecified() && address.is_loopback()))
    };
    port != 0 && listening.into_iter().flatten().any(same)
}

fn pulls(found: &mut Vec<Finding>, config: &Config) {
    for (index, pull) in config.pull.iter().enumerate() {
        let Pull { stream, vhost, from, when, .. } = pull;
        let mut add = |key, message: String, harmless| found.push(Finding { key: ("pull", key), message, harmless });
        if *when == When::Always && !stream.is_exact() {
            add("when", format!("[[pull]] stream = {:?} stands for many: only one can be pulled \"always\"", stream.as_str()), false);
        }
        if !stream.is_exact() && !from.0.has_placeholders() {
            add(
                "from",
                format!("[[pull]] stream = {:?}: all of them come from the same address, for it has no placeholder", stream.as_str()),
                true,
            );
        }
        if config.pull[..index].iter().any(|other| other.stream == *stream && other.vhost == *vhost) {
            add("stream", format!("[[pull]] stream = {:?} is there twice", stream.as_str()), false);
        }
        if from.0.is_hls() && config.rtmp.listen.is_empty() {
            add(
                "from",
                "[[pull]] from = ….m3u8: what fetches it pushes to this server's RTMP address, and [rtmp] listen is empty".into(),
                false,
            );
        }
    }
}

fn workers(found: &mut Vec<Finding>, config: &Config) {
    let (count, configured, called, key) = match config.relays() {
        true => (config.processes(), config.engine.processes, "processes", "[engine] processes"),
        false => (config.workers(), config.server.workers, "workers", "[server] workers"),
    };
    for (index, Worker { id, .. }) in config.worker.iter().enumerate() {
        if config.worker[..index].iter().any(|other| other.id == *id) {
            found.push(Finding { key: ("worker", "id"), message: format!("[[worker]] id = {id} is there twice"), harmless: false });
        }
        if *id > count {
            let message = format!("[[worker]] id = {id}: there are only {count} {called} ({key} = {configured})");
            // With one a core, the same file is used on machines of different sizes.
            found.push(Finding { key: ("worker", "id"), message, harmless: configured == 0 });
        }
    }
    let publishers: u64 = config.worker.iter().map(|worker| u64::from(worker.max_publishers)).sum();
    let all_limited = (1..=count).all(|id| config.worker(id).max_publishers != 0);
    let total = u64::from(config.placement.max_publishers);
    if all_limited && total > publishers {
        let message = format!("[placement] max_publishers = {total} is never reached: the {called} take {publishers} in all");
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
