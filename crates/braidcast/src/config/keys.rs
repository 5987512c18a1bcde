//! The table of all keys: what they mean, their defaults and what they may be. Nothing else says so a second time.

use super::hooks::Actions;
use super::latency::Latency;
use super::networks::Network;
use super::relays::{Source, Targets};
use super::secret::Secret;
use super::table::section;
use super::units::{Size, Span};
use super::value::choice;
use crate::hooks::Url;
use crate::relays::Pattern;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

/// The most workers there can be: the descriptors of their doorbells travel in one message (`SCM_MAX_FD` of the kernel is 253).
pub const MAX_WORKERS: u16 = 253;

section! {
    /// The instance: its processes, its directories, its log.
    Server {
        /// How many workers there are. 0: one for each core that the process may use.
        workers: u16 = 0, in 0..=MAX_WORKERS;
        /// First port of the workers' own sub-ports: worker *i* also listens on this port + *i* − 1, on loopback, for RTMP and HTTP alike.
        /// A connection that comes in there stays in that worker. 0: no sub-ports.
        worker_base_port: u16 = 0, in 0..=65_535;
        /// As `proxy_protocol` in `[rtmp]`, for the workers' sub-ports.
        worker_proxy_protocol: ProxyProtocol = ProxyProtocol::Off;
        /// Addresses and networks of the proxies that are believed when they say for whom they connect: by PROXY headers where
        /// `proxy_protocol` is on, by `X-Forwarded-For` over HTTP, by the real-IP prefix of SRS's proxy over RTMP. Their own addresses have no
        /// `connections_per_address`. Whoever can connect from one of them can claim any address.
        trusted_proxies: Vec<Network> = Vec::new();
        /// The directory in memory through which the processes share streams. Every instance needs one of its own.
        shared_dir: PathBuf = PathBuf::from("/dev/shm/braidcast");
        /// Whether `shared_dir` may be on something else than tmpfs. It will wear a disk out, and stall when the disk stalls.
        allow_disk: bool = false;
        /// What becomes of the shared directory when the server ends: `"keep"` leaves segments, indexes and counters for the next start.
        on_exit: OnExit = OnExit::Keep;
        /// A directory that outlives a reboot. It keeps the next segment number of each stream, so that a number is never used twice.
        state_dir: PathBuf = PathBuf::from("/var/lib/braidcast");
        /// How long the workers go on by themselves when the front is gone, before they end in order.
        front_grace: Span = Span::secs(60), in Span::ms(0)..=Span::secs(3_600);
        /// A worker that makes no progress for so long, although it was given time, is killed; others go on with its connections.
        hang_after: Span = Span::secs(2), in Span::ms(1_500)..=Span::secs(60);
        /// How long workers may take to end in order when the server is stopped; then they are killed.
        stop_grace: Span = Span::secs(5), in Span::ms(0)..=Span::secs(600);
        /// The virtual hosts that there are; a client that names another one gets the default one. Empty: every virtual host that a client names.
        vhosts: Vec<String> = Vec::new();
        /// The least important log lines that are written.
        log_level: LogLevel = LogLevel::Info;
    }
}

section! {
    /// What carries the streams: our own workers, or processes of another server, with our workers as relays before them. See
    /// [engines.md](engines.md).
    Engine {
        /// `"native"` are our own workers. `"srs"` starts SRS processes, `"external"` processes of any RTMP server that is started with a
        /// configuration file.
        kind: EngineKind = EngineKind::Native;
        /// How many processes are started. 0: one for each core that this process may use. `[[worker]]` says of each what it may take.
        processes: u16 = 0, in 0..=MAX_WORKERS;
        /// `"srs"`: the program of SRS, a path or a name that is looked for in `PATH`.
        srs_binary: String = "srs".into();
        /// `"srs"`: the site's own configuration. Empty: SRS's defaults.
        srs_conf: String = String::new();
        /// `"external"`: the program and its arguments, with placeholders as in `template`. Words are separated by blanks and may be quoted;
        /// no shell is asked.
        command: String = String::new();
        /// `"external"`: a file from which the configuration of each process is made. `{id}`, `{rtmp_port}`, `{http_port}`, `{api_port}`,
        /// `{hls_dir}`, `{dir}` and `{config}` are replaced.
        template: String = String::new();
        /// `"external"`: how a process is told the address of a client: not at all (`"none"`), by a PROXY header (`"proxy"`), or by the
        /// real-IP prefix of SRS's proxy (`"srs"`).
        client_address: ClientAddress = ClientAddress::None;
        /// A process that does not answer for so long is killed and started again: SRS by its HTTP API, others by taking connections.
        silent_after: Span = Span::secs(5), in Span::secs(1)..=Span::secs(300);
        /// How long a process that gets no publishers any more is left until it is ended all the same.
        drain_limit: Span = Span::secs(600), in Span::secs(0)..=Span::secs(86_400);
        /// `"srs"`: the process that has what only one can have: WebRTC, SRT, RTMPS, stream casters, ingests.
        carries_others: u16 = 1, in 1..=MAX_WORKERS;
    }
}

section! {
    /// RTMP, for publishers and viewers.
    Rtmp {
        /// Addresses to listen on. A port alone means all addresses, IPv4 and IPv6; port 0 takes a free one; an empty list turns RTMP off.
        listen: Vec<SocketAddr> = everywhere(1_935);
        /// Whether every connection begins with a PROXY header (version 1 or 2) that names the client: `"on"` takes connections from
        /// `[server] trusted_proxies` alone, and closes those without such a header.
        proxy_protocol: ProxyProtocol = ProxyProtocol::Off;
    }
}

section! {
    /// HTTP for viewers: HTTP-FLV, HLS, the web page.
    Http {
        /// Addresses to listen on, as in `[rtmp]`; an empty list turns HTTP off.
        listen: Vec<SocketAddr> = everywhere(8_080);
        /// As in `[rtmp]`. A proxy that speaks HTTP needs none: it says by `X-Forwarded-For` for whom it asks.
        proxy_protocol: ProxyProtocol = ProxyProtocol::Off;
        /// Whether `/` shows the page with the live streams and a player for each.
        page: bool = true;
    }
}

section! {
    /// The HTTP API, for operators; see [api.md](api.md). On loopback it asks for nothing unless a token or a user is configured; elsewhere it
    /// must have one of them.
    Api {
        /// Addresses to listen on, as in `[rtmp]`; an empty list turns the API off.
        listen: Vec<SocketAddr> = loopback(1_985);
        /// As in `[http]`.
        proxy_protocol: ProxyProtocol = ProxyProtocol::Off;
        /// A token that may do everything: `Authorization: Bearer TOKEN`.
        token: Secret = Secret::default();
        /// A token that may read only.
        read_token: Secret = Secret::default();
        /// Whether the API may be reached from elsewhere although it asks for nothing: everybody who can connect can then end streams.
        open: bool = false;
        /// Origins of web pages that may use the API from a browser (`https://admin.example`). `*`: all, which is refused when the API asks for nothing.
        cors: Vec<String> = Vec::new();
        /// Whether `/api/v1` answers `?callback=NAME` with a script, as SRS does. Any web page can read what it answers.
        jsonp: bool = false;
        /// How many wrong tokens or passwords an address may send within a minute, to all workers together; then it is answered 429 until that
        /// minute is over.
        failures: u32 = 10, in 1..=100_000;
    }
}

section! {
    /// Somebody who may use the API by name and password (HTTP Basic): one `[[api_user]]` for each.
    ApiUser {
        /// The name.
        name: String = String::new();
        /// The password.
        password: Secret = Secret::default();
        /// `"read"` may ask, `"admin"` may also change.
        role: Role = Role::Read;
    }
}

section! {
    /// What monitoring reads: see [metrics.md](metrics.md).
    Metrics {
        /// Addresses to answer `/metrics` on, as in `[rtmp]`; an empty list turns it off. 9972 is the usual port, and loopback the usual place.
        listen: Vec<SocketAddr> = Vec::new();
        /// How many streams have series of their own, the oldest first; all others are counted together as `other`.
        stream_labels: u32 = 200, in 0..=10_000;
    }
}

section! {
    /// Publishers.
    Publish {
        /// What happens when somebody publishes a stream that is being published: `"refuse"` the newcomer, or `"replace"` the holder.
        /// A newcomer from the holder's address with the same stream parameters always replaces it: that is an encoder that lost its connection.
        on_duplicate: OnDuplicate = OnDuplicate::Refuse;
        /// A publisher that sent nothing for so long may be replaced by anybody.
        silent_after: Span = Span::secs(3), in Span::ms(100)..=Span::secs(3_600);
        /// When publishers send often, their sockets are looked at so often, and then all that has come is read: fewer wake-ups for the
        /// same bytes, for so much delay at most. While few send, each is read at once. 0: always.
        read_pause: Span = Span::ms(5), in Span::ms(0)..=Span::ms(100);
        /// How long what a publisher sends may wait, safe in the kernel and in shared memory, not parsed, while nobody watches the stream.
        /// Whoever comes sees at most so much later what it sent before; from then on everything is passed on at once. 0: no time.
        unwatched_pause: Span = Span::ms(200), in Span::ms(0)..=Span::secs(1);
    }
}

section! {
    /// Viewers.
    Play {
        /// How long somebody who plays a stream that nobody publishes waits for it, before "not found".
        play_wait: Span = Span::secs(10), in Span::ms(0)..=Span::secs(600);
        /// How long viewers stay, and the HLS index stays open, when a publisher is gone. If it is back in time the stream goes on.
        reconnect_grace: Span = Span::secs(15), in Span::ms(0)..=Span::secs(3_600);
        /// A viewer that is so far behind is jumped to the newest keyframe.
        max_lag: Span = Span::secs(10), in Span::ms(500)..=Span::secs(600);
        /// A viewer that lacks so many bytes is jumped to the newest keyframe.
        max_lag_bytes: Size = Size::mib(32), in Size::kib(64)..=Size::mib(4_096);
        /// What counts more, that frames come soon or that they cost little CPU: a send costs the same however much it carries. `"low"`: every video
        /// frame goes at once, audio with it. `"balanced"`: likewise while the worker has time to spare, and with little time less often.
        /// `"frugal"`: every `max_batch_ms`. A number: every so many milliseconds. One who has no time at all sends later, but all there is.
        latency: Latency = Latency::Balanced;
        /// How many milliseconds frames are gathered at most, unless the worker cannot send more often. SRS's `mw_latency`.
        max_batch_ms: u32 = 350, in 5..=1_000;
    }
}

section! {
    /// A virtual host whose streams differ from the others': one `[[vhost]]` for each.
    Vhost {
        /// Its name, as in `[server] vhosts`; `"__defaultVhost__"` is the default one.
        name: String = String::new();
        /// As in `[play]`, for the streams of this virtual host.
        latency: Latency = Latency::Balanced;
    }
}

section! {
    /// Which worker serves whom.
    Placement {
        /// Where a publisher goes: `"weighted"` shares publishers out by the workers' weights, `"even"` gives each worker as many,
        /// `"measured"` takes the CPU time that the workers have to spare as their weights.
        publish: PublishPolicy = PublishPolicy::Weighted;
        /// Where a viewer goes: `"least-loaded"` is the worker with the fewest connections, `"fewest-publish-slots"` the one with the
        /// least room for publishers, so that the room stays where it is. Workers with at most a sixteenth more are equals of that one: of them
        /// the one that has the stream's publisher comes first, so that small streams wake no other worker for their few viewers.
        play: PlayPolicy = PlayPolicy::LeastLoaded;
        /// How many publishers the server takes in all; the next one is refused. 0: no limit but those of the workers.
        max_publishers: u32 = 0, in 0..=1_000_000;
        /// Sessions move to workers with less to do when one worker has so many per cent more than its share. 0: only when told to
        /// (`braidcast rebalance`).
        rebalance_share: u32 = 50, in 0..=1_000;
        /// How long the shares must differ before sessions move by themselves.
        rebalance_after: Span = Span::secs(30), in Span::ms(100)..=Span::secs(3_600);
        /// How many sessions a second are moved to balance the workers; none moves twice in a minute.
        rebalance_per_second: u32 = 50, in 1..=10_000;
    }
}

section! {
    /// The stream logs in the shared directory.
    Log {
        /// A block ends at the first keyframe after so long.
        block_min: Span = Span::secs(2), in Span::ms(100)..=Span::secs(60);
        /// A block ends after so long, keyframe or not.
        block_max: Span = Span::secs(10), in Span::ms(100)..=Span::secs(600);
        /// A block ends at this size, keyframe or not.
        block_max_bytes: Size = Size::mib(32), in Size::kib(64)..=Size::mib(1_024);
        /// How much of a stream is kept for viewers that lag and for takeovers. What is older goes, block by block.
        keep: Span = Span::secs(20), in Span::ms(500)..=Span::secs(3_600);
        /// How many bytes the log of one stream may hold; its oldest blocks go first.
        stream_budget: Size = Size::mib(256), in Size::mib(1)..=Size::mib(65_536);
        /// How many bytes logs and segments may hold in all. When it is nearly full, the streams that hold most give up their oldest ones until all
        /// hold the same at most, and new publishers are refused. No stream may hold more than half of it. 0: 80 % of what the directory's file system and the memory limit of the container allow.
        budget: Size = Size::new(0), in Size::new(0)..=Size::mib(16 << 20);
    }
}

section! {
    /// HLS segments and indexes, in the shared directory.
    Hls {
        /// Whether streams are cut into segments.
        enabled: bool = true;
        /// A segment ends at the first keyframe after so long.
        fragment: Span = Span::secs(4), in Span::ms(500)..=Span::secs(60);
        /// How much of the stream the live index lists.
        window: Span = Span::secs(60), in Span::secs(2)..=Span::secs(86_400);
        /// How long after its end a stream's directory stays.
        hls_dispose: Span = Span::secs(120), in Span::ms(0)..=Span::secs(7 * 86_400);
        /// How many bytes the segments of one stream may hold; the oldest go first, from the live index too. A segment of more than a quarter
        /// of it is lost.
        stream_budget: Size = Size::mib(1_024), in Size::mib(1)..=Size::mib(65_536);
        /// How long segments stay, for indexes by time.
        retention: Span = Span::secs(300), in Span::secs(2)..=Span::secs(7 * 86_400);
        /// Whether viewers count as sessions: whoever asks for an index gets one that leads to it with `hls_ctx=…`, and what asks with that is one
        /// viewer, in the API and for hooks; files without it are not given out. `"with_hooks"`: of streams that an on_play or on_stop hook is for.
        sessions: HlsSessions = HlsSessions::WithHooks;
        /// When many clients ask for HLS, their requests are looked at so often, and then all that have come are answered: fewer wake-ups for the
        /// same bytes, for so much delay at most. While few ask, each is answered at once. 0: always.
        read_pause: Span = Span::ms(5), in Span::ms(0)..=Span::ms(100);
    }
}

section! {
    /// Connections to other servers: what `[[forward]]` and `[[pull]]` have in common.
    Relay {
        /// How long another server may take until it is connected and has agreed.
        answer: Span = Span::secs(10), in Span::ms(100)..=Span::secs(300);
        /// A server that a stream is pulled from and that sends nothing for so long is asked anew.
        silent: Span = Span::secs(15), in Span::ms(500)..=Span::secs(600);
        /// The longest pause before a connection is tried again. The first pause is a second; each one after it is twice as long.
        retry_max: Span = Span::secs(30), in Span::secs(1)..=Span::secs(3_600);
        /// The program that fetches HLS: a path, or a name that is looked for in `PATH`.
        ffmpeg: String = "ffmpeg".into();
    }
}

section! {
    /// RTMP and HTTP within TLS. See [tls.md](tls.md).
    Tls {
        /// Addresses to listen on for RTMPS, as in `[rtmp]`. Empty: none. SRS's port is 1443.
        rtmps: Vec<SocketAddr> = Vec::new();
        /// Addresses to listen on for HTTPS, for all that `[http]` has. Empty: none. SRS's port is 8088.
        https: Vec<SocketAddr> = Vec::new();
        /// Addresses to listen on for the HTTP API by HTTPS. Empty: none. SRS's port is 1990.
        https_api: Vec<SocketAddr> = Vec::new();
        /// The oldest version of TLS that clients may speak. TLS 1.0 and 1.1 are not to be had.
        min_version: TlsVersion = TlsVersion::V12;
        /// Whether HTTP/2 is offered to clients of HTTPS, beside HTTP/1.1.
        http2: bool = true;
        /// Handshakes that may be under way at once; an eighth of them from one address. `[limits] handshake` says how long each may take.
        handshakes: u32 = 1_024, in 8..=100_000;
        /// After an upgrade of the program: how long the process that has TLS connections from before keeps them.
        drain_limit: Span = Span::secs(3_600), in Span::secs(0)..=Span::secs(86_400);
    }
}

section! {
    /// What all hooks have in common: `[[hook]]` names the servers. See [hooks.md](hooks.md).
    Hooks {
        /// What hooks are told as `server_id`. Empty: the instance's own random name.
        server_id: String = String::new();
        /// How many notifications may wait in all. Past it the newest is lost, counted and logged.
        queue: u32 = 20_000, in 1..=1_000_000;
        /// How many notifications may wait for one hook, so that a dead server has no more than its share.
        queue_per_hook: u32 = 5_000, in 1..=1_000_000;
        /// The longest pause before a notification is repeated. The first pause is a second; each one after it is twice as long.
        retry_max: Span = Span::secs(30), in Span::ms(100)..=Span::secs(600);
    }
}

section! {
    /// What clients may do at most. Each refusal is logged with the client's address, and counted.
    Limits {
        /// Open connections in all.
        connections: u32 = 20_000, in 1..=1_000_000;
        /// Open connections from one address, over all workers.
        connections_per_address: u32 = 4_096, in 1..=1_000_000;
        /// Connections that wait to be passed to a worker.
        pending_connections: u32 = 1_024, in 1..=65_536;
        /// How long the RTMP handshake, or the head of an HTTP request, may take.
        handshake: Span = Span::secs(10), in Span::ms(100)..=Span::secs(300);
        /// How long after the handshake a client may take to publish or play.
        first_packet: Span = Span::secs(20), in Span::ms(100)..=Span::secs(300);
        /// How long a connection may be silent: a publisher that sends nothing, a viewer that takes nothing, an HTTP connection between requests.
        idle: Span = Span::secs(60), in Span::ms(500)..=Span::secs(3_600);
        /// For how long no connection is taken from an address whose client sent what two workers died of.
        poison_hold: Span = Span::secs(60), in Span::ms(0)..=Span::secs(86_400);
        /// The longest RTMP message.
        message_bytes: Size = Size::mib(16), in Size::kib(64)..=Size::new(0xff_ffff + 1);
        /// RTMP chunk streams of one connection.
        chunk_streams: u32 = 64, in 4..=65_600;
        /// Bytes of RTMP messages of one connection that were announced and have not all come.
        unfinished_message_bytes: Size = Size::mib(32), in Size::kib(64)..=Size::mib(1_024);
        /// What all connections of a worker may hold together of such messages. Beyond it those that hold most are closed.
        unfinished_in_all: Size = Size::mib(512), in Size::mib(1)..=Size::mib(65_536);
        /// How deep AMF values may be nested.
        amf_depth: u32 = 32, in 2..=128;
        /// The longest vhost, app or stream name, in bytes.
        name_bytes: u32 = 80, in 1..=80;
        /// The longest head of an HTTP request, in bytes.
        http_head_bytes: u32 = 16_384, in 512..=1_048_576;
    }
}

section! {
    /// What keeps a worker that somebody has got into from doing harm. See [operations/sandbox.md](operations/sandbox.md).
    Sandbox {
        /// Whether workers lose root, capabilities, most system calls, and what they do not need of files and ports.
        enabled: bool = true;
        /// Who workers become when the server is started as root, a name or a number. Empty: `braidcast` if there is such a user, else `nobody`.
        user: String = String::new();
        /// Their group, a name or a number. Empty: that of the user.
        group: String = String::new();
        /// TCP ports that workers may connect to beside those of `[[forward]]` and `[[pull]]`: of servers that a redirection or a hook names.
        connect: Vec<u16> = Vec::new();
    }
}

section! {
    /// A worker that differs from the others: one `[[worker]]` for each. Workers that are not named have the defaults. With another engine than
    /// `"native"` this is about the process of that number.
    Worker {
        /// Which worker, from 1.
        id: u16 = 0, in 1..=MAX_WORKERS;
        /// How many publishers it takes; past it they go elsewhere, or are refused. 0: no limit.
        max_publishers: u32 = 0, in 0..=1_000_000;
        /// Its share of the publishers, in proportion to the other workers' weights. 0: `max_publishers` is its weight, or 1 if that is 0 too.
        weight: u32 = 0, in 0..=1_000_000;
    }
}

section! {
    /// A certificate for TLS: one `[[certificate]]` for each. The first one is for clients that name no server, or one that no certificate is
    /// for. Files that change are read again; nobody is disconnected.
    Certificate {
        /// Its file (PEM), the server's own certificate first, then those between it and the authority.
        cert: PathBuf = PathBuf::new();
        /// The file of its private key (PEM).
        key: PathBuf = PathBuf::new();
    }
}

section! {
    /// A certificate that is fetched from an authority, and renewed, by ACME (RFC 8555): the authority asks for a file at port 80 of each name,
    /// which has to reach `[http] listen`. See [tls.md](tls.md).
    Acme {
        /// The names that the certificate is for, all of them on one. Empty: none is fetched.
        domains: Vec<String> = Vec::new();
        /// Whether you agree to the authority's terms of service. It gives no certificate to others.
        agree: bool = false;
        /// Where the authority writes to when something is wrong: `"mailto:ops@example.org"`.
        contact: Vec<String> = Vec::new();
        /// The authority's directory.
        directory: String = "https://acme-v02.api.letsencrypt.org/directory".into();
        /// A file (PEM) with the certificate by which the directory is known, where the system does not know it. Empty: the system's.
        ca_file: String = String::new();
    }
}

section! {
    /// Streams that are pushed to other servers while somebody publishes them: one `[[forward]]` for each group. See [relays.md](relays.md).
    Forward {
        /// Which streams: `app/stream`, where `*` stands for any characters but slashes and `**` for any.
        streams: Pattern = Pattern::default();
        /// Only streams of this virtual host. Empty: of any.
        vhost: String = String::new();
        /// Where to, all of these: `rtmp://host[:port]/app/stream`, with `{stream}`, `{app}` and `{vhost}` for the stream's own names.
        to: Targets = Targets::default();
    }
}

section! {
    /// Streams that come from other servers: one `[[pull]]` for each, or for each group. The first that names a stream counts. See
    /// [relays.md](relays.md).
    Pull {
        /// Which stream, or which ones, as in `[[forward]]`.
        stream: Pattern = Pattern::default();
        /// The virtual host of the stream here. Empty: the default one.
        vhost: String = String::new();
        /// Where from: `rtmp://host/app/stream`, `http://host/….flv`, or `http://host/….m3u8` (https too), with placeholders as in `[[forward]]`.
        from: Source = Source::default();
        /// `"always"`, or on `"demand"`: when somebody wants to watch and nobody publishes the stream.
        when: When = When::Demand;
        /// On demand: how long after the last viewer it goes on.
        stop_after: Span = Span::secs(30), in Span::secs(1)..=Span::secs(86_400);
    }
}

section! {
    /// HTTP servers of yours that are asked before clients are let in, and told what has happened: one `[[hook]]` for each. Several that concern the
    /// same are asked in the order of the file, and the first that refuses decides. See [hooks.md](hooks.md).
    Hook {
        /// What it is called for. `on_connect`, `on_publish`, `on_play` and `on_forward` wait for its answer; the others tell.
        events: Actions = Actions::default();
        /// Where: `http://` or `https://`. What follows `?` is kept secret.
        url: Url = Url::default();
        /// What shows the server that it is this one that calls: sent as `Authorization: Bearer …`. Empty: nothing is.
        secret: Secret = Secret::default();
        /// Only for these streams: `app/stream`, as in `[[forward]]`.
        streams: Pattern = Pattern::everything();
        /// Only for this virtual host. Empty: for all.
        vhost: String = String::new();
        /// How long one call may take, from the look-up of the name to the end of the answer.
        timeout: Span = Span::secs(3), in Span::ms(100)..=Span::secs(30);
        /// How often a notification that did not arrive is repeated. Decisions are not.
        retries: u32 = 5, in 0..=100;
        /// What a decision is when the server does not answer, or answers nonsense: `"refuse"` or `"allow"`.
        on_error: OnError = OnError::Refuse;
    }
}

choice! {
    /// Which streams' HLS viewers count as sessions.
    HlsSessions {
        /// Of streams that an on_play or on_stop hook is for.
        WithHooks = "with_hooks",
        /// All.
        Always = "always",
        /// None.
        Never = "never",
    }
}

choice! {
    /// What is decided when a hook server cannot be asked.
    OnError {
        /// The client is let in.
        Allow = "allow",
        /// It is not.
        Refuse = "refuse",
    }
}

choice! {
    /// A version of TLS.
    TlsVersion {
        /// TLS 1.2.
        V12 = "1.2",
        /// TLS 1.3.
        V13 = "1.3",
    }
}

choice! {
    /// What somebody may do with the API.
    Role {
        /// Ask.
        Read = "read",
        /// Change, too.
        Admin = "admin",
    }
}

choice! {
    /// When a stream is pulled.
    When {
        /// As long as the server runs.
        Always = "always",
        /// While somebody wants to watch it.
        Demand = "demand",
    }
}

choice! {
    /// What carries the streams.
    EngineKind {
        /// Our own workers.
        Native = "native",
        /// SRS processes.
        Srs = "srs",
        /// Processes of any RTMP server.
        External = "external",
    }
}

choice! {
    /// How a process of another server is told the address of a client.
    ClientAddress {
        /// Not at all.
        None = "none",
        /// By a PROXY header.
        Proxy = "proxy",
        /// By the real-IP prefix of SRS's proxy.
        Srs = "srs",
    }
}

choice! {
    /// What becomes of the shared directory at the end.
    OnExit {
        /// It stays.
        Keep = "keep",
        /// It is deleted.
        Remove = "remove",
    }
}

choice! {
    /// Whether connections begin with PROXY headers.
    ProxyProtocol {
        /// None does.
        Off = "off",
        /// All do.
        On = "on",
    }
}

choice! {
    /// What a second publisher of a stream meets.
    OnDuplicate {
        /// It is refused.
        Refuse = "refuse",
        /// It takes the stream over.
        Replace = "replace",
    }
}

choice! {
    /// How publishers are shared out.
    PublishPolicy {
        /// By weights.
        Weighted = "weighted",
        /// To each worker as many.
        Even = "even",
        /// By CPU time to spare.
        Measured = "measured",
    }
}

choice! {
    /// How viewers are shared out.
    PlayPolicy {
        /// To the worker with the fewest connections.
        LeastLoaded = "least-loaded",
        /// To the worker with the least room for publishers.
        FewestPublishSlots = "fewest-publish-slots",
    }
}

choice! {
    /// The least important lines that are logged.
    LogLevel {
        /// What failed.
        Error = "error",
        /// What an operator must act on.
        Warn = "warn",
        /// What happened to streams and processes.
        Info = "info",
        /// What happened to connections.
        Debug = "debug",
        /// Every packet.
        Trace = "trace",
    }
}

fn everywhere(port: u16) -> Vec<SocketAddr> {
    vec![(IpAddr::from(Ipv4Addr::UNSPECIFIED), port).into(), (IpAddr::from(Ipv6Addr::UNSPECIFIED), port).into()]
}

fn loopback(port: u16) -> Vec<SocketAddr> {
    vec![(IpAddr::from(Ipv4Addr::LOCALHOST), port).into(), (IpAddr::from(Ipv6Addr::LOCALHOST), port).into()]
}
