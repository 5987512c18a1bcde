//! The counters that each process keeps in its own shared page, by name; `status` and the metrics add them up.
//!
//! A counter's place in the page is its place in the list: append, never reorder. What its documentation says is its help text in the
//! metrics; one that begins with `Gauge: ` may fall, all others only rise, over the deaths of their processes too.

/// What the documentation of a gauge begins with.
const GAUGE: &str = "Gauge: ";

macro_rules! counters {
    ($(#[$meta:meta])* $name:ident { $($(#[doc = $doc:literal])+ $variant:ident = $label:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(usize)]
        pub enum $name { $($(#[doc = $doc])+ $variant,)+ }

        impl $name {
            /// All of them, in the order of their places.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name in `status` and in the metrics.
            pub fn label(self) -> &'static str {
                match self { $(Self::$variant => $label),+ }
            }

            /// What it says.
            pub fn help(self) -> &'static str {
                let documented = match self { $(Self::$variant => concat!($($doc),+).trim()),+ };
                documented.strip_prefix(GAUGE).unwrap_or(documented)
            }

            /// Whether it may fall.
            pub fn is_gauge(self) -> bool {
                match self { $(Self::$variant => concat!($($doc),+).trim().starts_with(GAUGE)),+ }
            }
        }
    };
}

counters! {
    /// Counters and gauges of a worker.
    WorkerCounter {
        /// Gauge: process id.
        Pid = "pid",
        /// Gauge: open client connections.
        Sessions = "sessions",
        /// Gauge: publishers.
        Publishers = "publishers",
        /// Gauge: HTTP-FLV viewers.
        FlvViewers = "flv_viewers",
        /// Gauge: RTMP viewers.
        RtmpViewers = "rtmp_viewers",
        /// Gauge: viewers of HTTP-TS, AAC, MP3 and WebSocket-FLV.
        OtherViewers = "other_viewers",
        /// Bytes received from clients.
        BytesIn = "bytes_in",
        /// Bytes sent to clients.
        BytesOut = "bytes_out",
        /// CPU time used, microseconds.
        CpuMicros = "cpu_us",
        /// Gauge: share of one core used in the last second, per mille.
        CpuPermille = "cpu_permille",
        /// HTTP requests answered.
        HttpRequests = "http_requests",
        /// Viewers that were jumped to the newest keyframe because they lagged.
        ViewerJumps = "viewer_jumps",
        /// Sessions handed to another worker.
        MovesOut = "moves_out",
        /// Sessions taken from another worker.
        MovesIn = "moves_in",
        /// Segments finished.
        Segments = "segments",
        /// Closed: the handshake was not done in time.
        HandshakeTimeouts = "handshake_timeouts",
        /// Closed: no publish or play in time.
        FirstPacketTimeouts = "first_packet_timeouts",
        /// Closed: silent for too long.
        IdleTimeouts = "idle_timeouts",
        /// Closed: what the peer sent broke the protocol or a limit of it.
        ProtocolErrors = "protocol_errors",
        /// Refused: an RTMP message longer than `message_bytes`.
        RefusedMessageBytes = "refused_message_bytes",
        /// Refused: more chunk streams than `chunk_streams`.
        RefusedChunkStreams = "refused_chunk_streams",
        /// Refused: more declared and unfinished message bytes than `unfinished_message_bytes`.
        RefusedUnfinishedBytes = "refused_unfinished_bytes",
        /// Refused: AMF values nested deeper than `amf_depth`.
        RefusedAmfDepth = "refused_amf_depth",
        /// Refused: an app, stream or vhost name that is too long or not allowed.
        RefusedNames = "refused_names",
        /// Refused: an HTTP head longer than `http_head_bytes`.
        RefusedHttpHeads = "refused_http_heads",
        /// Refused: publishers, for any reason the front gave.
        RefusedPublishers = "refused_publishers",
        /// Plays that ended because nobody published in `play_wait`.
        PlayWaitTimeouts = "play_wait_timeouts",
        /// Records that could not be written because the directory was full.
        RecordsDropped = "records_dropped",
        /// Log lines about clients that were suppressed by the rate limit.
        LogLinesSuppressed = "log_lines_suppressed",
        /// Blocks evicted from logs.
        BlocksEvicted = "blocks_evicted",
        /// Segments deleted: past their retention, or for want of room.
        SegmentsEvicted = "segments_evicted",
        /// Saves of sessions that failed for want of room: such a session ends with its worker.
        SessionsUnsaved = "sessions_unsaved",
        /// Gauge: bytes of the worker's heap of saved sessions.
        SavedBytes = "saved_bytes",
        /// Closed: no PROXY header where one has to be, none in time, or a broken one; a broken real-IP prefix.
        RefusedProxyHeaders = "refused_proxy_headers",
        /// HTTP requests of trusted proxies whose `X-Forwarded-For` holds something else than addresses.
        ForwardedMalformed = "forwarded_malformed",
        /// Gauge: streams that are being pushed to other servers.
        Forwards = "forwards",
        /// Gauge: streams that are being pulled from other servers.
        Pulls = "pulls",
        /// Connections to servers that streams are forwarded to that failed, were refused, or ended.
        ForwardFailures = "forward_failures",
        /// Forwards that were jumped to the newest keyframe because the other server lagged.
        ForwardJumps = "forward_jumps",
        /// Refused: streams that would have gone round in circles between servers.
        RefusedLoops = "refused_loops",
        /// Video tags with start codes (Annex B) that were converted to what players decode.
        VideoConverted = "video_converted",
        /// Closed: asked for answers and did not read them.
        RefusedUnreadAnswers = "refused_unread_answers",
        /// Closed: a publisher's record was longer than a tag can be, or its headers changed without end.
        RefusedRecords = "refused_records",
        /// Segments that were lost: larger than `stream_budget` allows, or for want of room.
        SegmentsLost = "segments_lost",
        /// Times that the worker was woken.
        WakeUps = "wake_ups",
        /// Gauge: memory of the process alone, without what it shares with others, in bytes.
        MemoryBytes = "memory_bytes",
        /// Requests for `/metrics` that were taken up.
        MetricsRequests = "metrics_requests",
        /// Not let in by a rule of access: the client's address.
        AccessAddress = "access_refused_address",
        /// Not let in by a rule of access: the page that the client is on.
        AccessReferer = "access_refused_referer",
        /// Not let in by a rule of access: neither token nor signature.
        AccessMissing = "access_refused_missing",
        /// Not let in by a rule of access: a token that is not valid.
        AccessToken = "access_refused_token",
        /// Not let in by a rule of access: a signature that is wrong, or for another stream or intent.
        AccessSignature = "access_refused_signature",
        /// Not let in by a rule of access: a token for another stream or intent.
        AccessScope = "access_refused_scope",
        /// Not let in by a rule of access: a token or signature that has expired, or does not hold yet.
        AccessExpired = "access_refused_expired",
        /// API requests refused: no token or password, or a wrong one.
        RefusedApiCredentials = "refused_api_credentials",
        /// API requests refused: from a web page of another origin, or from elsewhere although nothing is asked for.
        RefusedApiOrigins = "refused_api_origins",
        /// API requests refused: the token or user may only read.
        RefusedApiRoles = "refused_api_roles",
        /// API requests refused: too many wrong tokens or passwords from the address.
        RefusedApiFailures = "refused_api_failures",
        /// API requests refused: too many follow the events already, or too many orders are under way.
        RefusedApiBusy = "refused_api_busy",
        /// Gauge: who follows the events.
        EventFollowers = "event_followers",
        /// Gauge: restrictions of the sandbox that are in force, one bit each: not root, system calls, files, ports.
        Sandbox = "sandbox",
        /// Lines of the access log that were dropped because they could not be written fast enough.
        RequestLinesDropped = "request_lines_dropped",
        /// Index files of HLS read; all other indexes were answered from memory.
        HlsIndexesRead = "hls_indexes_read",
        /// Segments of HLS opened; all other answers with them were sent from what was open.
        HlsSegmentsOpened = "hls_segments_opened",
        /// Gauge: bytes of segments that are held open.
        HlsHeldBytes = "hls_held_bytes",
        /// HTTP requests answered with 304: the client has it already.
        NotModified = "not_modified",
        /// Times that input of publishers was left for later, because nobody watched the stream.
        InputRested = "input_rested",
        /// Sleeping workers that this one has woken because a stream that they read has grown.
        DoorbellRings = "doorbell_rings",
        /// Writes to memory that other workers look at: commits of streams, news of these, falling asleep and waking.
        SharedWrites = "shared_writes",
    }
}

counters! {
    /// Counters of the front.
    FrontCounter {
        /// Gauge: process id.
        Pid = "pid",
        /// Connections accepted.
        Accepted = "accepted",
        /// Gauge: open connections over all workers.
        Connections = "connections",
        /// Refused: `connections` reached.
        RefusedConnections = "refused_connections",
        /// Refused: `connections_per_address` reached.
        RefusedPerAddress = "refused_per_address",
        /// Refused: the pending list of every worker is full, or no worker serves.
        RefusedPending = "refused_pending",
        /// Refused publish: stream busy.
        RefusedStreamBusy = "refused_stream_busy",
        /// Refused publish: `max_publishers`.
        RefusedPublishersFull = "refused_publishers_full",
        /// Refused publish: shared directory full.
        RefusedDirectoryFull = "refused_directory_full",
        /// Refused: no worker could take it.
        RefusedUnavailable = "refused_unavailable",
        /// Publishers that replaced an older one of the same stream.
        Replaced = "publishers_replaced",
        /// Sessions moved between workers.
        Moves = "moves",
        /// Sessions lost with a worker.
        SessionsLost = "sessions_lost",
        /// Workers restarted.
        WorkerRestarts = "worker_restarts",
        /// Gauge: bytes of the shared directory in use.
        DirectoryBytes = "directory_bytes",
        /// Gauge: the budget, in bytes.
        DirectoryBudgetBytes = "directory_budget_bytes",
        /// Streams whose next segment number was dropped from the state file because it was full.
        StateDropped = "state_dropped",
        /// Log lines about clients that were suppressed by the rate limit.
        LogLinesSuppressed = "log_lines_suppressed",
        /// Messages of workers that were malformed, or spoke of what the front does not know.
        BadMessages = "bad_messages",
        /// Pauses of accepting because the process was at its descriptor limit.
        AcceptPauses = "accept_pauses",
        /// Sessions taken over from workers that died or hung.
        Takeovers = "takeovers",
        /// Workers that hung and were killed.
        WorkersHung = "workers_hung",
        /// Sessions closed because two workers died of what they sent.
        Poisoned = "poisoned",
        /// Refused: the address sent what two workers died of.
        RefusedPoison = "refused_poison",
        /// Refused: a PROXY header is expected, and the address is none of `trusted_proxies`.
        RefusedUntrusted = "refused_untrusted",
        /// Pulls that failed, were refused, or ended.
        PullFailures = "pull_failures",
        /// Streams that were asked for and not pulled, because too many are pulled on demand already.
        RefusedPulls = "refused_pulls",
        /// Processes of another server that ended by themselves, or were killed because they were silent, and were started again.
        ProcessRestarts = "process_restarts",
        /// CPU time used, microseconds.
        CpuMicros = "cpu_us",
        /// Gauge: share of one core used in the last second, per mille.
        CpuPermille = "cpu_permille",
        /// Gauge: memory of the process alone, without what it shares with others, in bytes.
        MemoryBytes = "memory_bytes",
        /// Publishers that were admitted.
        AdmittedPublishers = "admitted_publishers",
        /// Viewers that were admitted.
        AdmittedViewers = "admitted_viewers",
        /// Questions that hooks were asked.
        HookQuestions = "hook_questions",
        /// Gauge: questions that wait for hooks.
        HookWaiting = "hook_waiting",
        /// Refused: a hook said no, or did not answer and `on_error` is `refuse`.
        RefusedByHook = "refused_by_hook",
        /// Questions that no hook answered in time: `on_error` decided.
        HookUnanswered = "hook_unanswered",
        /// Questions that were not asked because too many waited: `on_error` decided.
        HookOverflow = "hook_overflow",
        /// Events that could not be written to the log.
        EventsLost = "events_lost",
        /// Refused: HLS viewers, of which there are as many as `connections`, or as `connections_per_address` from one address.
        RefusedHlsSessions = "refused_hls_sessions",
    }
}

counters! {
    /// Counters of a hook.
    HookCounter {
        /// Calls that have ended, repetitions included.
        Calls = "calls",
        /// Calls that got no answer that means anything.
        Failures = "failures",
        /// Of these: nothing came in time.
        Timeouts = "timeouts",
        /// Questions that the server answered with no.
        Refused = "refused",
        /// Questions without an answer where `on_error` let the client in.
        AllowedOnError = "allowed_on_error",
        /// Questions without an answer where `on_error` refused the client.
        RefusedOnError = "refused_on_error",
        /// Notifications that were sent once more.
        Retries = "retries",
        /// Notifications that were delivered.
        Delivered = "delivered",
        /// Notifications that were given up after the last repetition.
        GivenUp = "given_up",
        /// Notifications that were lost because the queue was full.
        Dropped = "dropped",
        /// Time from the beginning of a call to its end, of all together.
        LatencyMicros = "latency_us",
        /// Gauge: notifications that wait or are under way.
        Waiting = "waiting",
        /// Gauge: 1 while the server is left alone because it failed too often.
        Resting = "resting",
    }
}

counters! {
    /// Counters and gauges of the attendant that takes TLS off.
    TlsCounter {
        /// Gauge: process id.
        Pid = "pid",
        /// Connections accepted.
        Accepted = "accepted",
        /// Gauge: open connections.
        Connections = "connections",
        /// Gauge: handshakes under way.
        Handshaking = "handshaking",
        /// Handshakes done.
        Handshakes = "handshakes",
        /// Handshakes that failed: what the client sent is not TLS, or it wants what is not offered, or it went away.
        HandshakeFailures = "handshake_failures",
        /// Closed: the handshake was not done in time.
        HandshakeTimeouts = "handshake_timeouts",
        /// Closed: there is no certificate for the name that the client asked for, and none at all.
        NoCertificate = "no_certificate",
        /// Refused: too many handshakes under way.
        RefusedHandshakes = "refused_handshakes",
        /// Refused: `connections` reached.
        RefusedConnections = "refused_connections",
        /// Refused: `connections_per_address` reached.
        RefusedPerAddress = "refused_per_address",
        /// Requests by HTTP/2.
        Http2Requests = "http2_requests",
        /// Requests by HTTP/2 that no worker answered.
        Http2Failures = "http2_failures",
        /// Bytes received from clients, within TLS.
        BytesIn = "bytes_in",
        /// Bytes sent to clients, within TLS.
        BytesOut = "bytes_out",
        /// Gauge: certificates in use.
        Certificates = "certificates",
        /// Certificates that could not be read or used.
        CertificateFailures = "certificate_failures",
        /// Gauge: when the first of the certificates in use expires, seconds since 1970.
        CertificateExpiry = "certificate_expiry_s",
        /// Certificates fetched by ACME.
        AcmeFetched = "acme_fetched",
        /// Attempts to fetch a certificate by ACME that failed.
        AcmeFailures = "acme_failures",
        /// Log lines about clients that were suppressed by the rate limit.
        LogLinesSuppressed = "log_lines_suppressed",
    }
}
