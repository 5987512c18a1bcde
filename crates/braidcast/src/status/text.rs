//! A status for people: a few lines on the instance, a table of workers, a table of streams.

use super::table::Align::{Left, Right};
use super::table::{bytes, columns, duration};
use super::{Attendant, Status, Stream};
use crate::engine::report::Process;
use crate::relays::report::{Kind, Relay};
use braidcast_media::key::DEFAULT_VHOST;
use braidcast_sys::clock;
use serde_json::Value;

pub(super) fn text(status: &Status) -> String {
    let mut out = instance(status);
    out.push('\n');
    out.push_str(&workers(status));
    out.push('\n');
    if !status.processes.is_empty() {
        out.push_str(&processes(status));
        out.push('\n');
    }
    if !status.attendants.is_empty() {
        out.push_str(&attendants(status));
        out.push('\n');
    }
    if status.streams.is_empty() {
        out.push_str("no streams\n");
    } else {
        out.push_str(&streams(&status.streams));
        out.push_str(&left_out_of_hls(&status.streams));
    }
    if !status.relays.is_empty() {
        out.push('\n');
        out.push_str(&relays(&status.relays));
    }
    if !status.hooks.is_empty() {
        out.push('\n');
        out.push_str(&super::hooks::text(&status.hooks));
    }
    out
}

fn instance(status: &Status) -> String {
    let (instance, directory) = (&status.instance, &status.directory);
    let what = if instance.running {
        format!("{}, pid {}, up {}", instance.state, instance.pid, duration(instance.uptime_s * 1_000))
    } else {
        format!("not running ({})", instance.state)
    };
    let budget = if directory.budget_bytes == 0 { String::new() } else { format!(" of {}", bytes(directory.budget_bytes)) };
    let mut lines = vec![
        format!("braidcast {}: {what}", status.version),
        format!("{}: {}{budget} used, {} free", instance.shared_dir, bytes(directory.bytes), bytes(directory.free_bytes)),
    ];
    if let Some(allowed) = instance.allowed {
        let current: u32 = status.workers.iter().map(|worker| worker.current).sum();
        lines.push(format!("publishers: {current} of {allowed} allowed in all, {} free", allowed.saturating_sub(current)));
    }
    for (what, addresses) in &instance.addresses {
        let list: Vec<&str> = addresses.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        lines.push(format!("{what:<5} {}", list.join(" ")));
    }
    if instance.running {
        lines.push(format!("sandbox of workers: {}", instance.sandbox));
    }
    if !status.engine.exact_takeover {
        let kind = &status.engine.kind;
        lines.push(format!("engine: {kind}; connections end with the process or the worker that they go through (no exact takeover)"));
    }
    if let Some(last) = status.moves.last.first() {
        let front = |name: &str| status.front.get(name).and_then(Value::as_u64).unwrap_or(0);
        lines.push(format!(
            "moves: {} under way, {} so far ({} takeovers, {} sessions lost, {} poisoned); last: {} from worker {} to {} ({}, {} ms)",
            status.moves.under_way,
            front("moves"),
            front("takeovers"),
            front("sessions_lost"),
            front("poisoned"),
            last.conn,
            last.from,
            last.to,
            last.why,
            last.pause_ms
        ));
    }
    lines.join("\n") + "\n"
}

fn or_none(number: Option<u32>) -> String {
    number.map_or("-".to_owned(), |number| number.to_string())
}

fn workers(status: &Status) -> String {
    let row = |worker: &super::Worker| {
        vec![
            worker.id.to_string(),
            if worker.pid == 0 { "-".to_owned() } else { worker.pid.to_string() },
            worker.state.to_owned(),
            worker.current.to_string(),
            or_none(worker.allowed),
            or_none(worker.free),
            worker.weight.to_string(),
            worker.viewers.to_string(),
            worker.sessions.to_string(),
            format!("{}%", (worker.cpu_permille + 5) / 10),
            worker.restarts.to_string(),
            if worker.pid == 0 { "-".to_owned() } else { duration(worker.uptime_s * 1_000) },
        ]
    };
    let headings = [
        ("WORKER", Right),
        ("PID", Right),
        ("STATE", Left),
        ("PUBLISHERS", Right),
        ("ALLOWED", Right),
        ("FREE", Right),
        ("WEIGHT", Right),
        ("VIEWERS", Right),
        ("SESSIONS", Right),
        ("CPU", Right),
        ("RESTARTS", Right),
        ("UP", Right),
    ];
    columns(&headings, &status.workers.iter().map(row).collect::<Vec<_>>())
}

fn processes(status: &Status) -> String {
    let now_ms = clock::wall_ms();
    let row = |process: &Process| {
        vec![
            process.id.to_string(),
            if process.pid == 0 { "-".to_owned() } else { process.pid.to_string() },
            if process.silent.is_some() { "silent".to_owned() } else { process.state.clone() },
            process.current.to_string(),
            or_none(process.allowed),
            or_none(process.free),
            process.weight.to_string(),
            process.viewers.to_string(),
            format!("{}%", (process.cpu_permille + 5) / 10),
            process.restarts.to_string(),
            if process.pid == 0 { "-".to_owned() } else { duration(now_ms.saturating_sub(process.started_wall_ms)) },
            process.rtmp.map_or("-".to_owned(), |address| address.to_string()),
            process.program.clone(),
        ]
    };
    let headings = [
        ("PROCESS", Right),
        ("PID", Right),
        ("STATE", Left),
        ("PUBLISHERS", Right),
        ("ALLOWED", Right),
        ("FREE", Right),
        ("WEIGHT", Right),
        ("VIEWERS", Right),
        ("CPU", Right),
        ("RESTARTS", Right),
        ("UP", Right),
        ("RTMP", Left),
        ("PROGRAM", Left),
    ];
    columns(&headings, &status.processes.iter().map(row).collect::<Vec<_>>())
}

fn attendants(status: &Status) -> String {
    let row = |attendant: &Attendant| {
        vec![
            attendant.role.clone(),
            if attendant.pid == 0 { "-".to_owned() } else { attendant.pid.to_string() },
            attendant.state.clone(),
            attendant.restarts.to_string(),
            if attendant.pid == 0 { "-".to_owned() } else { duration(attendant.uptime_s * 1_000) },
        ]
    };
    let headings = [("ATTENDANT", Left), ("PID", Right), ("STATE", Left), ("RESTARTS", Right), ("UP", Right)];
    let mut table = columns(&headings, &status.attendants.iter().map(row).collect::<Vec<_>>());
    for attendant in &status.attendants {
        attendant.notes.iter().for_each(|note| table += &format!("{}: {}\n", attendant.role, printable(note)));
    }
    table
}

/// A stream's name, with its vhost unless it is the default one.
fn name_of(stream: &Stream) -> String {
    let name = format!("{}/{}", stream.app, stream.stream);
    printable(&if stream.vhost == DEFAULT_VHOST { name } else { format!("{}/{name}", stream.vhost) })
}

/// A line for each stream of which HLS lacks something.
fn left_out_of_hls(streams: &[Stream]) -> String {
    let lacking = streams.iter().filter(|stream| !stream.hls.leaves_out.is_empty());
    lacking.map(|stream| format!("{}: HLS cannot carry {}\n", name_of(stream), stream.hls.leaves_out.join(" and "))).collect()
}

fn streams(streams: &[Stream]) -> String {
    let row = |stream: &Stream| {
        let codecs: Vec<&str> = [&stream.video, &stream.audio].into_iter().flatten().map(String::as_str).collect();
        vec![
            name_of(stream),
            stream.state.to_owned(),
            stream.process.or(stream.worker).map_or("-".to_owned(), |holder| holder.to_string()),
            stream.publisher.map_or("-".to_owned(), |address| address.to_string()),
            if codecs.is_empty() { "-".to_owned() } else { codecs.join(" + ") },
            bytes(stream.bytes),
            stream.records.to_string(),
            stream.keyframes.to_string(),
            stream.segment.map_or("-".to_owned(), |number| number.to_string()),
            bytes(stream.log_bytes),
            duration(stream.age_ms),
        ]
    };
    let headings = [
        ("STREAM", Left),
        ("STATE", Left),
        (if streams.iter().any(|stream| stream.process.is_some()) { "PROCESS" } else { "WORKER" }, Right),
        ("PUBLISHER", Left),
        ("CODECS", Left),
        ("RECEIVED", Right),
        ("RECORDS", Right),
        ("KEYFRAMES", Right),
        ("SEGMENT", Right),
        ("LOG", Right),
        ("AGE", Right),
    ];
    columns(&headings, &streams.iter().map(row).collect::<Vec<_>>())
}

fn relays(relays: &[Relay]) -> String {
    let now_ms = clock::wall_ms();
    let row = |relay: &Relay| {
        vec![
            printable(&relay.stream),
            if relay.kind == Kind::Forward { "to".to_owned() } else { "from".to_owned() },
            printable(&relay.url),
            relay.state.label().to_owned(),
            duration(now_ms.saturating_sub(relay.since_wall_ms)),
            relay.worker.map_or("-".to_owned(), |worker| worker.to_string()),
            bytes(relay.bytes),
            relay.reconnects.to_string(),
            relay.error.as_deref().map_or("-".to_owned(), printable),
        ]
    };
    let headings = [
        ("RELAY", Left),
        ("", Left),
        ("SERVER", Left),
        ("STATE", Left),
        ("SINCE", Right),
        ("WORKER", Right),
        ("BYTES", Right),
        ("RECONNECTS", Right),
        ("LAST ERROR", Left),
    ];
    columns(&headings, &relays.iter().map(row).collect::<Vec<_>>())
}

/// A name that a client chose, without what a terminal would obey or that turns the text around.
pub(super) fn printable(name: &str) -> String {
    let harmless = |c: &char| {
        !c.is_control() && !matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    name.chars().map(|c| if harmless(&c) { c } else { '?' }).collect()
}
