//! The series of streams: of some each its own, of the others together.

use super::exposition::{Exposition, Family};
use super::families::*;
use super::gather::{Scope, seconds};
use super::labels::{Labelled, label_streams};
use crate::status::Stream;
use braidcast_stream_log::Root;

/// What a stream can be doing, as [`Stream::state`] says it.
pub const STREAM_STATES: [&str; 3] = ["live", "waiting", "ended"];
/// The labels of all streams together that have none of their own; no stream has an empty vhost.
const OTHER: [&str; 3] = ["", "", "other"];

/// Writes them.
pub fn of_streams(out: &mut Exposition, scope: &Scope, root: &Root, streams: &[Stream]) {
    let Labelled { own, other } = label_streams(root, streams, scope.stream_labels);
    out.family(&STREAMS_UNLABELLED).add(&[], other.len());
    let expects = |stream: &Stream| scope.hls && stream.state == "live" && stream.hls.carries;
    let sum = |what: &dyn Fn(&Stream) -> u64| other.iter().map(|stream| what(stream)).sum::<u64>();
    let most = |what: &dyn Fn(&Stream) -> Option<u64>| other.iter().filter_map(|stream| what(stream)).max();

    let mut states = out.family(&STREAM_STATE_NOW);
    for state in STREAM_STATES {
        for Stream { vhost, app, stream, state: now, .. } in &own {
            states.add(&[vhost, app, stream, state], u8::from(*now == state));
        }
    }
    if !other.is_empty() {
        for state in STREAM_STATES {
            states.add(&[OTHER[0], OTHER[1], OTHER[2], state], sum(&|stream| u64::from(stream.state == state)));
        }
    }
    let mut counter = |family: &Family, what: &dyn Fn(&Stream) -> u64| {
        let mut series = out.family(family);
        for known in &own {
            series.add(&[&known.vhost, &known.app, &known.stream], what(known));
        }
    };
    counter(&STREAM_BYTES_IN, &|stream| stream.bytes);
    counter(&STREAM_BYTES_OUT, &|stream| stream.sent_bytes);
    counter(&STREAM_JUMPS, &|stream| stream.jumps);
    counter(&STREAM_RECORDS, &|stream| stream.records);
    counter(&STREAM_KEYFRAMES, &|stream| stream.keyframes);
    counter(&STREAM_DROPPED, &|stream| stream.records_dropped);
    counter(&STREAM_SEGMENT, &|stream| stream.segment.unwrap_or(0));

    let mut summed = |family: &Family, what: &dyn Fn(&Stream) -> u64| {
        let mut series = out.family(family);
        for known in &own {
            series.add(&[&known.vhost, &known.app, &known.stream], what(known));
        }
        if !other.is_empty() {
            series.add(&OTHER, sum(what));
        }
    };
    summed(&STREAM_RATE_IN, &|stream| stream.received_rate);
    summed(&STREAM_RATE_OUT, &|stream| stream.sent_rate);
    summed(&STREAM_VIEWERS, &|stream| stream.viewers);
    summed(&STREAM_LOG_BYTES, &|stream| stream.log_bytes);
    summed(&STREAM_EXPECTS_SEGMENTS, &|stream| u64::from(expects(stream)));

    let mut longest = |family: &Family, what: &dyn Fn(&Stream) -> Option<u64>| {
        let mut series = out.family(family);
        for known in &own {
            if let Some(ms) = what(known) {
                series.add(&[&known.vhost, &known.app, &known.stream], seconds(ms));
            }
        }
        if let Some(ms) = most(what) {
            series.add(&OTHER, seconds(ms));
        }
    };
    longest(&STREAM_SILENT, &|stream| (stream.state == "live").then_some(stream.age_ms));
    longest(&STREAM_SEGMENT_AGE, &|stream| stream.segment_age_ms.filter(|_| expects(stream)));
    longest(&STREAM_SEGMENT_DURATION, &|stream| stream.segment_duration_ms.filter(|_| expects(stream)));
}
