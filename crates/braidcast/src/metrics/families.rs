//! The series that there are: names, labels, what they say. What is written here is what [`super::gather`] fills and what
//! `docs/metrics.md` shows; the counters of the pages come from their own lists.

use super::exposition::{Family, Kind};
use crate::control::counters::{FrontCounter, HookCounter, TlsCounter, WorkerCounter};

/// A stream's own labels.
const STREAM: &[&str] = &["vhost", "app", "stream"];
const STREAM_STATE: &[&str] = &["vhost", "app", "stream", "state"];

macro_rules! families {
    ($($heading:literal: $list:ident { $($name:ident = $kind:ident $text:literal $labels:expr, $help:literal;)+ })+) => {
        $($(
            #[doc = $help]
            pub const $name: Family = Family {
                name: std::borrow::Cow::Borrowed($text),
                kind: Kind::$kind,
                labels: $labels,
                help: std::borrow::Cow::Borrowed($help),
            };
        )+)+

        $(const $list: &[Family] = &[$($name),+];)+

        /// What there is beside the pages' counters: headings of the documentation, and the families under each.
        pub const GROUPS: &[(&str, &[Family])] = &[$(($heading, $list)),+];
    };
}

families! {
    "The series of SRS": OF_SRS {
        SRS_STREAMS = Gauge "srs_streams" &[], "Streams that are live.";
        SRS_CLIENTS = Gauge "srs_clients" &[], "Publishers and viewers.";
        SRS_CLIENTS_TOTAL = CounterBesideGauge "srs_clients_total" &[], "Publishers and viewers that were admitted.";
        SRS_CLIENTS_ERRS_TOTAL = Counter "srs_clients_errs_total" &[],
            "Connections that were closed for what their clients did or did not do in time, and sessions that were lost.";
        SRS_SEND_BYTES_TOTAL = Counter "srs_send_bytes_total" &[], "Bytes sent to clients.";
        SRS_RECEIVE_BYTES_TOTAL = Counter "srs_receive_bytes_total" &[], "Bytes received from clients.";
        SRS_CPU_PERCENT = Gauge "srs_cpu_percent" &[], "CPU time used in the last second, all processes together, in per cent of one core.";
        SRS_MEMORY = Gauge "srs_memory" &[], "Memory of all processes, without what they share, in KiB.";
    }
    "The instance": OF_INSTANCE {
        BUILD_INFO = Gauge "braidcast_build_info" &["version"], "Always 1; the version of the program that answers.";
        INSTANCE_STATE = Gauge "braidcast_instance_state" &["state"],
            "1 for what the instance is doing, else 0; it is lost if the front is gone without having ended in order.";
        START_TIME = Gauge "braidcast_start_time_seconds" &[], "When the front began, in seconds since 1970.";
        LIMIT_HITS = Counter "braidcast_limit_hits_total" &["limit"],
            "What was refused, or closed in want of time, by the counter's name as in status; the front and all workers together.";
        SESSIONS_MOVING = Gauge "braidcast_sessions_moving" &[], "Sessions on their way from one worker to another.";
        MOVE_PAUSE = Histogram "braidcast_move_pause_seconds" &["why"], "How long sessions that moved were without a worker, by why they moved.";
        DIRECTORY_SIZE = Gauge "braidcast_directory_size_bytes" &[], "Size of the file system of the shared directory.";
        DIRECTORY_FREE = Gauge "braidcast_directory_free_bytes" &[], "What is free in it.";
        STREAMS = Gauge "braidcast_streams" &["state"], "Streams by what they are doing.";
        STREAMS_UNLABELLED = Gauge "braidcast_streams_unlabelled" &[], "Streams that are beyond [metrics] stream_labels: those that are counted as \"other\".";
    }
    "Each worker": OF_WORKERS {
        WORKER_STATE = Gauge "braidcast_worker_state" &["worker", "state"], "1 for what the worker is doing, else 0.";
        WORKER_START_TIME = Gauge "braidcast_worker_start_time_seconds" &["worker"], "When its process was started, in seconds since 1970; not there without a process.";
        WORKER_RESTARTS = Counter "braidcast_worker_restarts_total" &["worker"], "How often its process was started again.";
        WORKER_ALLOWED = Gauge "braidcast_worker_publishers_allowed" &["worker"], "The most publishers it may have; not there without a limit of its own.";
        WORKER_PLACED = Gauge "braidcast_worker_publishers_placed" &["worker"], "Publishers that count against that, places that were promised included.";
    }
    "Processes beside the workers": OF_ATTENDANTS {
        ATTENDANT_UP = Gauge "braidcast_attendant_up" &["role"], "1 while there is a process for this, else 0: hooks, tls.";
        HOOK_EVENTS_MISSED = Counter "braidcast_hook_events_missed_total" &[],
            "Events that were gone from the event log before the process that calls hooks had read them.";
    }
    "Each stream": OF_STREAMS {
        STREAM_STATE_NOW = Gauge "braidcast_stream_state" STREAM_STATE, "1 for what the stream is doing, else 0; of \"other\", how many streams.";
        STREAM_RATE_IN = Gauge "braidcast_stream_received_bytes_per_second" STREAM, "What its publisher sends, over the last half minute at most.";
        STREAM_RATE_OUT = Gauge "braidcast_stream_sent_bytes_per_second" STREAM,
            "What its viewers are sent, live and in segments; an average in which the last ten seconds count most.";
        STREAM_BYTES_IN = Counter "braidcast_stream_received_bytes_total" STREAM, "Bytes received since the stream's log was made; not there for \"other\".";
        STREAM_BYTES_OUT = Counter "braidcast_stream_sent_bytes_total" STREAM, "Bytes sent to viewers since then, live and in segments; not there for \"other\".";
        STREAM_JUMPS = Counter "braidcast_stream_viewer_jumps_total" STREAM,
            "How often viewers lagged and were jumped to the newest keyframe; not there for \"other\".";
        STREAM_VIEWERS = Gauge "braidcast_stream_viewers" STREAM, "Viewers by RTMP and by HTTP in one endless answer.";
        STREAM_RECORDS = Counter "braidcast_stream_records_total" STREAM, "Records received since then: frames of video and audio, metadata; not there for \"other\".";
        STREAM_KEYFRAMES = Counter "braidcast_stream_keyframes_total" STREAM, "Keyframes received since then; not there for \"other\".";
        STREAM_DROPPED = Counter "braidcast_stream_records_dropped_total" STREAM, "Records dropped since then because the directory was full; not there for \"other\".";
        STREAM_LOG_BYTES = Gauge "braidcast_stream_log_bytes" STREAM, "Bytes that its log holds.";
        STREAM_SILENT = Gauge "braidcast_stream_silent_seconds" STREAM, "Since its last record, while it is live; of \"other\", the longest.";
        STREAM_EXPECTS_SEGMENTS = Gauge "braidcast_stream_expects_segments" STREAM,
            "1 while the stream is live, HLS is on and can carry it, else 0; of \"other\", how many streams.";
        STREAM_SEGMENT = Gauge "braidcast_stream_segment_number" STREAM, "Number of the newest segment, 0 if there is none; not there for \"other\".";
        STREAM_SEGMENT_AGE = Gauge "braidcast_stream_segment_age_seconds" STREAM, "Since the end of the newest segment, while segments are expected; of \"other\", the longest.";
        STREAM_SEGMENT_DURATION = Gauge "braidcast_stream_segment_duration_seconds" STREAM, "How long the newest segment lasts, likewise; of \"other\", the longest.";
    }
}

/// Whether a counter, by its label, says how often a limit was hit.
pub fn is_limit(label: &str) -> bool {
    label.starts_with("refused_") || label.ends_with("_timeouts")
}

/// The family of a counter of the front's page, and what its numbers are multiplied with.
pub fn of_front(counter: FrontCounter) -> (Family, f64) {
    of_page("front", &[], counter.label(), counter.help(), counter.is_gauge())
}

/// The family of a counter of the workers' pages, and what its numbers are multiplied with.
pub fn of_worker(counter: WorkerCounter) -> (Family, f64) {
    of_page("worker", &["worker"], counter.label(), counter.help(), counter.is_gauge())
}

/// The family of a counter of a hook, and what its numbers are multiplied with.
pub fn of_hook(counter: HookCounter) -> (Family, f64) {
    of_page("hook", &["hook", "description"], counter.label(), counter.help(), counter.is_gauge())
}

/// The family of a counter of what takes TLS off, and what its numbers are multiplied with.
pub fn of_tls(counter: TlsCounter) -> (Family, f64) {
    of_page("tls", &[], counter.label(), counter.help(), counter.is_gauge())
}

/// A counter's label, in the units that the field has agreed on: seconds, and ratios from 0 to 1.
fn of_page(whose: &str, labels: &'static [&'static str], label: &str, help: &'static str, is_gauge: bool) -> (Family, f64) {
    const UNITS: [(&str, &str, f64, &str, &str); 4] = [
        ("_s", "_seconds", 1.0, "seconds", "seconds"),
        ("_us", "_seconds", 1e-6, "microseconds", "seconds"),
        ("_ms", "_seconds", 1e-3, "milliseconds", "seconds"),
        ("_permille", "_ratio", 1e-3, "per mille", "from 0 to 1"),
    ];
    let unit =
        UNITS.into_iter().find_map(|(ours, theirs, factor, said, says)| Some((label.strip_suffix(ours)?, theirs, factor, said, says)));
    let (stem, unit, factor, help) = match unit {
        Some((stem, theirs, factor, said, says)) => (stem, theirs, factor, help.replace(said, says).into()),
        None => (label, "", 1.0, help.into()),
    };
    let (kind, total) = if is_gauge { (Kind::Gauge, "") } else { (Kind::Counter, "_total") };
    (Family { name: format!("braidcast_{whose}_{stem}{unit}{total}").into(), kind, labels, help }, factor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn all() -> Vec<Family> {
        let front = FrontCounter::ALL.iter().map(|counter| of_front(*counter).0);
        let workers = WorkerCounter::ALL.iter().map(|counter| of_worker(*counter).0);
        let hooks = HookCounter::ALL.iter().map(|counter| of_hook(*counter).0);
        let tls = TlsCounter::ALL.iter().map(|counter| of_tls(*counter).0);
        let others = GROUPS.iter().flat_map(|(_, families)| families.iter().cloned());
        others.chain(front).chain(workers).chain(hooks).chain(tls).collect()
    }

    #[test]
    fn names_are_there_once_and_say_what_they_are() {
        let mut names = HashSet::new();
        for family in all() {
            assert!(names.insert(family.name.clone()), "{} is there twice", family.name);
            let counts = matches!(family.kind, Kind::Counter | Kind::CounterBesideGauge);
            assert_eq!(family.name.ends_with("_total"), counts, "{}", family.name);
            assert!(!family.help.is_empty() && !family.help.contains('\n'), "{}", family.name);
        }
        // What OpenMetrics calls a counter is the name of nothing else.
        for family in all().iter().filter(|family| family.kind == Kind::Counter) {
            let base = family.name.strip_suffix("_total").unwrap_or_default();
            assert!(!names.contains(base), "{base}");
        }
    }

    #[test]
    fn counters_of_pages_have_the_units_of_the_field() {
        let (cpu, factor) = of_worker(WorkerCounter::CpuMicros);
        assert_eq!((&*cpu.name, &*cpu.help, factor), ("braidcast_worker_cpu_seconds_total", "CPU time used, seconds.", 1e-6));
        let (share, factor) = of_front(FrontCounter::CpuPermille);
        assert_eq!((&*share.name, share.kind, factor), ("braidcast_front_cpu_ratio", Kind::Gauge, 1e-3));
        let (refused, factor) = of_front(FrontCounter::RefusedStreamBusy);
        assert_eq!((&*refused.name, factor), ("braidcast_front_refused_stream_busy_total", 1.0));
    }
}
