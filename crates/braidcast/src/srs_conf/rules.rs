//! What becomes of the site's directives so that several processes can serve it, and what the operator is told of that: one table for both.

use super::directive::{Directive, Origin, print};
use super::variables::rtmp_listen;
use std::collections::HashSet;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Below the directory for HLS: what a stream's segments are called, and its index.
const SEGMENT: &str = "[vhost]/[app]/[stream]/[seq].ts";
const INDEX: &str = "[vhost]/[app]/[stream]/index.m3u8";
/// Where SRS serves a stream over HTTP unless a site wants otherwise.
pub(super) const MOUNT: &str = "[vhost]/[app]/[stream].flv";
/// The least that an index lists, in seconds: viewers fetch segments of other processes through it.
const LEAST_WINDOW: u32 = 60;

/// What one SRS process gets for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which process, from 1.
    pub id: u16,
    /// Where it listens for RTMP.
    pub rtmp: SocketAddr,
    /// Where it listens for HTTP.
    pub http: SocketAddr,
    /// Where its API listens.
    pub api: SocketAddr,
    /// Where all processes write HLS; absolute.
    pub hls_dir: PathBuf,
    /// Where it keeps its pid; absolute.
    pub run_dir: PathBuf,
    /// Whether it is the one process that listens on what several cannot share, and ingests.
    pub carries_others: bool,
}

/// What a note is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoteKind {
    /// It is said otherwise to the processes, and works.
    Changed,
    /// It does not work here.
    Lost,
    /// It may not mean what its author thinks.
    Odd,
}

/// Something of the site's configuration that an operator should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Where it was written.
    pub origin: Origin,
    /// Its path: `vhost.hls.hls_path`.
    pub directive: String,
    /// What of it.
    pub kind: NoteKind,
    /// A sentence.
    pub text: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.origin, self.directive, self.text)
    }
}

enum Becomes {
    /// This, whatever the site says.
    Is(fn(&Place, Option<&Directive>) -> String),
    /// This, if the site says anything.
    Instead(&'static str),
    /// Nothing.
    Gone,
    /// Nothing, but in one process what it was.
    InOne,
    /// What it was.
    Same,
}

/// A directive, what becomes of it, when that is worth telling, and the sentence.
struct Rule(&'static str, Becomes, fn(&Directive) -> bool, NoteKind, &'static str);

use Becomes::{Gone, InOne, Instead, Is, Same};
use NoteKind::{Changed, Lost};

const ROOT: &[Rule] = &[
    Rule("daemon", Is(|_, _| "off".into()), never, Changed, ""),
    Rule("pid", Is(|place, _| in_run_dir(place, "pid")), always, Changed, "each process keeps its own in the run directory"),
    Rule("asprocess", Is(|_, _| "off".into()), Directive::is_on, Changed, "is off: processes outlive a front that is replaced"),
    Rule(
        "srs_log_file",
        Is(|place, site| log_file(place, site.map_or("./objs/srs.log", Directive::arg))),
        |file| !file.arg().starts_with("/dev/"),
        Changed,
        "each process writes its own, with its number before the last dot",
    ),
    Rule("max_connections", Same, always, Changed, "holds for each process, not for all together"),
    Rule("heartbeat", Gone, enabled, Lost, "is off: what it reports would be of one process"),
    Rule("exporter", Gone, enabled, Lost, "is off: several processes cannot listen there; the metrics are this server's own"),
    Rule("http_server.https", Gone, enabled, Lost, "is off: [tls] of this server is for that"),
    Rule("http_api.https", Gone, enabled, Lost, "is off: [tls] of this server is for that"),
    Rule("http_server.enabled", Is(|_, _| "on".into()), Directive::is_off, Changed, "is on in each process, on loopback"),
    Rule("http_server.listen", Is(|place, _| place.http.to_string()), never, Changed, ""),
    Rule("http_api.enabled", Is(|_, _| "on".into()), Directive::is_off, Changed, "is on in each process, on loopback"),
    Rule("http_api.listen", Is(|place, _| place.api.to_string()), never, Changed, ""),
    Rule("rtmps", InOne, enabled, Changed, IN_ONE),
    Rule("rtsp_server", InOne, enabled, Changed, IN_ONE),
    Rule("rtc_server", InOne, enabled, Changed, IN_ONE),
    Rule("srt_server", InOne, enabled, Changed, IN_ONE),
    Rule("stream_caster", InOne, enabled, Changed, IN_ONE),
    Rule("is_full", Gone, never, Changed, ""),
];

const VHOST: &[Rule] = &[
    Rule("hls.enabled", Is(|_, _| "on".into()), Directive::is_off, Changed, "is on: HLS is how any process serves any stream"),
    Rule("hls.hls_path", Is(|place, _| place.hls_dir.display().to_string()), always, Changed, "segments lie in the shared directory"),
    Rule(
        "hls.hls_ts_file",
        Is(|_, _| SEGMENT.into()),
        |file| file.arg() != SEGMENT,
        Changed,
        "segments are numbered, one directory for each stream",
    ),
    Rule(
        "hls.hls_m3u8_file",
        Is(|_, _| INDEX.into()),
        |file| file.arg() != INDEX,
        Changed,
        "the index lies beside its segments; viewers play it at /app/stream.m3u8",
    ),
    Rule("hls.hls_window", Is(|_, site| window(site)), |site| window(Some(site)) != site.arg(), Changed, "is a minute at least"),
    Rule("hls.hls_cleanup", Is(|_, _| "off".into()), Directive::is_on, Changed, "is off: this server removes segments"),
    Rule("hls.hls_dispose", Is(|_, _| "0".into()), |site| site.arg() != "0", Changed, "is 0: this server removes segments"),
    Rule("hls.hls_keys", Instead("off"), Directive::is_on, Lost, "is off: encrypted segments cannot be served here"),
    Rule("hls.hls_ts_floor", Instead("off"), Directive::is_on, Lost, "is off: segments are numbered by their order"),
    Rule("hls.hls_use_fmp4", Instead("off"), Directive::is_on, Lost, "is off: segments are MPEG-TS here"),
    Rule("hls.hls_entry_prefix", Gone, always, Lost, "is left out: indexes are written here, and name segments by their place"),
    Rule(
        "http_remux.enabled",
        Is(|_, _| "on".into()),
        Directive::is_off,
        Changed,
        "is on: viewers are led to the process that has their stream",
    ),
    Rule(
        "http_remux.mount",
        Is(|_, site| mount(site)),
        |site| site.arg() != MOUNT,
        Lost,
        "is not where streams are looked for: viewers find them at /app/stream.flv, and where this ends with .ts it is changed to that",
    ),
    Rule("cluster.origin_cluster", Instead("off"), Directive::is_on, Lost, "is off: the processes of this server are the cluster"),
    Rule("cluster.coworkers", Gone, always, Lost, "is left out: the processes of this server are the cluster"),
    Rule("ingest", InOne, |ingest| ingest.value("enabled") == Some("on"), Changed, "runs in one of the processes"),
    Rule(
        "transcode",
        Same,
        enabled,
        Changed,
        "what it makes is published in the process that has the source, past this server's placement",
    ),
    Rule("http_hooks.on_hls", Same, always, Changed, "names files in the shared directory"),
];

const IN_ONE: &str = "one of the processes has it and listens there; the streams that come in or go out that way are in that process alone";

fn always(_: &Directive) -> bool {
    true
}

fn never(_: &Directive) -> bool {
    false
}

fn enabled(block: &Directive) -> bool {
    block.on("enabled") || block.on("tcp.enabled")
}

impl Directive {
    fn is_off(&self) -> bool {
        !self.is_on()
    }
}

fn in_run_dir(place: &Place, extension: &str) -> String {
    place.run_dir.join(format!("srs.{}.{extension}", place.id)).display().to_string()
}

/// `x.log` of process 1 is `x.1.log`. What is no file stays.
fn log_file(place: &Place, site: &str) -> String {
    let site = if site.is_empty() { "./objs/srs.log" } else { site };
    if site.starts_with("/dev/") {
        return site.to_owned();
    }
    let name_at = site.rfind('/').map_or(0, |slash| slash + 1);
    match site[name_at..].rfind('.').filter(|dot| *dot > 0) {
        Some(dot) => format!("{}.{}{}", &site[..name_at + dot], place.id, &site[name_at + dot..]),
        None => format!("{site}.{}", place.id),
    }
}

fn window(site: Option<&Directive>) -> String {
    let given = site.map_or("", Directive::arg);
    let enough = given.parse::<f64>().is_ok_and(|seconds| seconds >= f64::from(LEAST_WINDOW));
    if enough { given.to_owned() } else { LEAST_WINDOW.to_string() }
}

/// A mount for MPEG-TS is refused by SRS beside HLS.
fn mount(site: Option<&Directive>) -> String {
    site.map(Directive::arg).filter(|mount| !mount.is_empty() && !mount.ends_with(".ts")).unwrap_or(MOUNT).to_owned()
}

/// The text for one process.
pub(super) fn generate(site: &Directive, place: &Place) -> Result<String, String> {
    let mut root = site.clone();
    let active: HashSet<String> = site.vhosts().iter().map(|vhost| vhost.arg().to_owned()).collect();
    root.set(rtmp_listen(site), vec![place.rtmp.to_string()], &Origin::Made);
    if site.at("rtmp").is_some() {
        root.remove("listen");
        if site.at("rtmp.enabled").is_some() {
            root.set("rtmp.enabled", vec!["on".into()], &Origin::Made);
        }
    }
    apply(&mut root, ROOT, place);
    if !root.children.iter().any(|child| child.name == "vhost") {
        root.child("vhost").args = vec!["__defaultVhost__".into()];
        apply(root.child("vhost"), VHOST, place);
    }
    for vhost in root.children.iter_mut().filter(|child| child.name == "vhost" && active.contains(child.arg())) {
        apply(vhost, VHOST, place);
    }
    print(&root.children)
}

fn apply(block: &mut Directive, rules: &[Rule], place: &Place) {
    for Rule(path, becomes, ..) in rules {
        match becomes {
            Is(value) => {
                let value = value(place, block.at(path));
                block.set(path, vec![value], &Origin::Made);
            }
            Instead(value) if block.at(path).is_some() => block.set(path, vec![(*value).to_owned()], &Origin::Made),
            Gone => block.remove(path),
            InOne if !place.carries_others => block.remove(path),
            Instead(_) | InOne | Same => {}
        }
    }
}

/// What an operator should know of what is generated.
pub(super) fn notes(site: &Directive) -> Vec<Note> {
    let mut notes = Vec::new();
    note(site, "", ROOT, &mut notes);
    for vhost in site.vhosts() {
        note(vhost, "vhost.", VHOST, &mut notes);
    }
    notes
}

fn note(block: &Directive, scope: &str, rules: &[Rule], notes: &mut Vec<Note>) {
    for Rule(path, _, matters, kind, text) in rules {
        let (parent, name) = match path.rsplit_once('.') {
            Some((parent, name)) => (block.at(parent), name),
            None => (Some(block), *path),
        };
        let written = parent.into_iter().flat_map(|parent| &parent.children);
        for directive in written.filter(|child| child.name == name && matters(child)) {
            let (origin, directive) = (directive.origin.clone(), format!("{scope}{path}"));
            notes.push(Note { origin, directive, kind: *kind, text: (*text).to_owned() });
        }
    }
}
