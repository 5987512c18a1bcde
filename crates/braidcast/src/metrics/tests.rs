//! A shared directory as processes leave it, told in both forms, and taken apart by rules that know neither.

use super::exposition::{Exposition, Family, Form, Kind};
use super::families::{GROUPS, of_front, of_worker};
use super::labels::{Labelled, label_streams};
use super::{Scope, gather};
use crate::control::counters::{FrontCounter, WorkerCounter};
use crate::control::pages::{FrontPage, InstanceState, MoveRow, Why, WorkerRow, WorkerState};
use crate::control::{ConnId, WorkerId};
use crate::status::Stream;
use crate::watched::Lane;
use braidcast_media::{RecordKind, StreamKey};
use braidcast_stream_log::{LogOptions, Now, Root, WorkerPage, Writer};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;

fn key(stream: &str) -> StreamKey {
    StreamKey::new("v.example", "live", stream).unwrap()
}

/// Two workers, one of which never came up, and so many live streams.
fn instance(directory: &Path, streams: &[&str]) -> (FrontPage, Vec<Writer>) {
    let root = Root::new(directory.to_owned());
    std::fs::create_dir_all(directory.join("workers")).unwrap();
    let front = FrontPage::create(directory).unwrap();
    front.set_instance(5_000, 2, 0);
    let row = WorkerRow { state: WorkerState::Running, pid: std::process::id(), allowed: 7, restarts: 3, ..WorkerRow::default() };
    front.set_row(WorkerId(1), &row);
    front.counter(FrontCounter::RefusedPerAddress).store(4, Relaxed);
    front.counter(FrontCounter::CpuMicros).store(1_500_000, Relaxed);
    let (from, to) = (WorkerId(2), WorkerId(1));
    front.push_move(&MoveRow { wall_ms: 1, conn: ConnId(1), from, to, why: Why::Died, pause_ms: 700 });
    front.set_state(InstanceState::Running);
    let page = WorkerPage::create(&root, 1).unwrap();
    page.counter(WorkerCounter::BytesOut as usize).store(1 << 50, Relaxed);
    page.counter(WorkerCounter::IdleTimeouts as usize).store(2, Relaxed);
    let now = Now::read();
    let writer = |stream: &&str| {
        let mut writer = Writer::open(&root, &key(stream), &LogOptions::default(), now).unwrap();
        writer.begin_publish(now).unwrap();
        writer.append(RecordKind::Video, 0, &[0x17, 1, 0, 0, 0, 2, 3], now).unwrap();
        writer.commit(now).unwrap();
        Lane::open(&root, &key(stream), WorkerId(1)).unwrap().tell(2, 16_000, 1);
        writer
    };
    (front, streams.iter().map(writer).collect())
}

fn told(directory: &Path, form: Form, stream_labels: usize) -> String {
    gather(&Scope { shared_dir: directory.to_owned(), stream_labels, hls: true }, form).unwrap()
}

/// The samples by series; checks that each stands below the family that it belongs to, and that nothing is there twice.
fn samples(text: &str) -> BTreeMap<String, String> {
    let (mut family, mut families, mut samples) = (String::new(), BTreeSet::new(), BTreeMap::new());
    for line in text.lines().filter(|line| *line != "# EOF") {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            family = rest.split(' ').next().unwrap().to_owned();
            assert!(families.insert(family.clone()), "{family} is there twice");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            assert_eq!(rest.split(' ').next(), Some(&*family), "{line}");
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let name = series.split('{').next().unwrap();
            let ends = ["", "_total", "_bucket", "_sum", "_count"];
            assert!(name.strip_prefix(&*family).is_some_and(|end| ends.contains(&end)), "{line} below {family}");
            assert!(value.parse::<f64>().is_ok(), "{line}");
            assert!(samples.insert(series.to_owned(), value.to_owned()).is_none(), "{series} is there twice");
        }
    }
    samples
}

#[test]
fn what_the_pages_say_is_told_in_both_forms() {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let (_front, _writers) = instance(directory.path(), &["a"]);
    let text = samples(&told(directory.path(), Form::Text, 10));
    let open_metrics = told(directory.path(), Form::OpenMetrics, 10);
    assert!(open_metrics.ends_with("\n# EOF\n"));
    assert_eq!(samples(&open_metrics).keys().collect::<Vec<_>>(), text.keys().collect::<Vec<_>>());
    let of_a = "{vhost=\"v.example\",app=\"live\",stream=\"a\"}";
    for (series, value) in [
        ("braidcast_front_refused_per_address_total".to_owned(), "4"),
        ("braidcast_limit_hits_total{limit=\"refused_per_address\"}".to_owned(), "4"),
        ("braidcast_limit_hits_total{limit=\"idle_timeouts\"}".to_owned(), "2"),
        ("braidcast_front_cpu_seconds_total".to_owned(), "1.5"),
        ("braidcast_worker_state{worker=\"1\",state=\"running\"}".to_owned(), "1"),
        ("braidcast_worker_state{worker=\"2\",state=\"empty\"}".to_owned(), "1"),
        ("braidcast_worker_restarts_total{worker=\"1\"}".to_owned(), "3"),
        ("braidcast_worker_bytes_out_total{worker=\"2\"}".to_owned(), "0"),
        // Of such a size numbers must not be written with an exponent that a reader rounds.
        ("braidcast_worker_bytes_out_total{worker=\"1\"}".to_owned(), "1125899906842624"),
        ("srs_send_bytes_total".to_owned(), "1125899906842624"),
        ("srs_clients_errs_total".to_owned(), "2"),
        ("braidcast_start_time_seconds".to_owned(), "5"),
        ("braidcast_move_pause_seconds_bucket{why=\"worker died\",le=\"0.5\"}".to_owned(), "0"),
        ("braidcast_move_pause_seconds_bucket{why=\"worker died\",le=\"1.0\"}".to_owned(), "1"),
        ("braidcast_move_pause_seconds_sum{why=\"worker died\"}".to_owned(), "0.7"),
        (format!("braidcast_stream_viewers{of_a}"), "2"),
        (format!("braidcast_stream_sent_bytes_total{of_a}"), "16000"),
        (format!("braidcast_stream_sent_bytes_per_second{of_a}"), "2000"),
        (format!("braidcast_stream_viewer_jumps_total{of_a}"), "1"),
        (format!("braidcast_stream_keyframes_total{of_a}"), "1"),
        (format!("braidcast_stream_segment_number{of_a}"), "0"),
    ] {
        assert_eq!(text.get(&series).map(String::as_str), Some(value), "{series}");
    }
    // There are no hooks, no TLS, no segments here; all else is.
    let absent = [
        "braidcast_attendant_up",
        "braidcast_hook_events_missed_total",
        "braidcast_stream_segment_age_seconds",
        "braidcast_stream_segment_duration_seconds",
    ];
    let names: BTreeSet<&str> = text.keys().map(|series| series.split('{').next().unwrap()).collect();
    let pages =
        FrontCounter::ALL.iter().map(|counter| of_front(*counter).0).chain(WorkerCounter::ALL.iter().map(|counter| of_worker(*counter).0));
    for family in GROUPS.iter().flat_map(|(_, families)| families.iter().cloned()).chain(pages) {
        let name = if family.kind == Kind::Histogram { format!("{}_bucket", family.name) } else { family.name.to_string() };
        assert_eq!(names.contains(&*name), !absent.contains(&&*name), "{name}");
    }
}

#[test]
fn what_is_beyond_the_labels_is_told_together() {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let names = ["a", "b", "c", "d", "e"];
    let (_front, _writers) = instance(directory.path(), &names);
    for labels in 0..=names.len() {
        let text = samples(&told(directory.path(), Form::Text, labels));
        let (own, other): (Vec<_>, Vec<_>) = text
            .iter()
            .filter(|(series, _)| series.starts_with("braidcast_stream_viewers"))
            .partition(|(series, _)| series.contains("v.example"));
        assert_eq!((own.len(), other.len()), (labels, usize::from(labels < names.len())));
        let all: u64 = own.into_iter().chain(other).map(|(_, value)| value.parse::<u64>().unwrap()).sum();
        assert_eq!(all, 2 * names.len() as u64);
        assert_eq!(text["braidcast_streams_unlabelled"], (names.len() - labels).to_string());
        assert_eq!(text["braidcast_streams{state=\"live\"}"], "5");
    }
}

#[test]
fn who_was_first_keeps_its_series() {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let root = Root::new(directory.path().to_owned());
    let made = |stream: &str| std::fs::metadata(root.stream_dir(&key(stream))).and_then(|metadata| metadata.created()).ok();
    let mut streams: Vec<Stream> = Vec::new();
    let mut newest = None;
    for name in ["z", "m", "a"] {
        // The file system's clock is a coarse one.
        loop {
            std::fs::create_dir_all(root.stream_dir(&key(name))).unwrap();
            if made(name).is_none() || made(name) > newest {
                break;
            }
            std::fs::remove_dir(root.stream_dir(&key(name))).unwrap();
        }
        newest = made(name);
        streams.push(stream(name));
    }
    if newest.is_none() {
        // A kernel whose tmpfs does not keep it: then it goes by names.
        return;
    }
    let own = |streams: &[Stream]| label_streams(&root, streams, 2).own.iter().map(|stream| stream.stream.clone()).collect::<Vec<_>>();
    assert_eq!(own(&streams), ["m", "z"]);
    streams.retain(|stream| stream.stream != "z");
    assert_eq!(own(&streams), ["a", "m"]);
}

fn stream(name: &str) -> Stream {
    Stream { vhost: "v.example".into(), app: "live".into(), stream: name.into(), ..Stream::default() }
}

proptest! {
    #[test]
    fn each_stream_is_told_once(names in prop::collection::btree_set("[a-z]{1,3}", 0..40), most in 0_usize..50) {
        let root = Root::new("/nowhere".into());
        let streams: Vec<Stream> = names.iter().map(|name| stream(name)).collect();
        let Labelled { own, other } = label_streams(&root, &streams, most);
        prop_assert_eq!(own.len(), most.min(names.len()));
        prop_assert!(own.is_sorted_by_key(|stream| &stream.stream));
        let told: Vec<&str> = own.iter().chain(&other).map(|stream| &*stream.stream).collect();
        prop_assert_eq!(told.len(), names.len());
        prop_assert_eq!(told.into_iter().collect::<BTreeSet<_>>(), names.iter().map(|name| &**name).collect::<BTreeSet<_>>());
    }

    #[test]
    fn any_label_is_read_back(label in any::<String>(), accept in any::<String>()) {
        let family = Family { name: "x".into(), kind: Kind::Gauge, labels: &["l"], help: "Help.".into() };
        let mut out = Exposition::new(Form::accepted(Some(&accept)));
        out.family(&family).add(&[&label], 1);
        let text = out.finish();
        let line = text.split('\n').find_map(|line| line.strip_prefix("x{l=\"")).unwrap();
        let mut read = String::new();
        let mut letters = line.chars();
        loop {
            match letters.next() {
                Some('\\') => read.push(match letters.next() { Some('n') => '\n', Some(other) => other, None => unreachable!() }),
                Some('"') => break,
                Some(letter) => read.push(letter),
                None => prop_assert!(false, "no end: {line}"),
            }
        }
        prop_assert_eq!(letters.as_str(), "} 1");
        prop_assert_eq!(read, label);
    }
}
