//! A site's SRS configuration as this server's own: what there is a setting for, and a comment for each directive that there is none for.
//!
//! Each setting is taken only if the file so far is still accepted with it, so that what comes out always is.

use super::access;
use super::directive::{Directive, Origin};
use super::equivalents::{OFF, OFF_BY_DEFAULT, REASONS, ROOT, SILENT, VHOST, Value};
use super::rules::{MOUNT, Note, NoteKind};
use super::site::{Listens, endpoint, everywhere};
use super::variables::rtmp_listen;
use crate::config;
use crate::hooks::Action;
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

/// The one vhost whose name need not be said.
const DEFAULT_VHOST: &str = "__defaultVhost__";

/// The TOML. `notes` are those of the site; what is odd is repeated.
pub(super) fn native(root: &Directive, listens: &Listens, notes: &[Note]) -> String {
    let mut native = Native::default();
    native.listens(root, listens);
    native.tls(root);
    for (path, section, key, value) in ROOT {
        if let Some(directive) = root.at(path) {
            native.convert(path, directive, section, key, *value);
        }
    }
    native.log_level(root);
    native.vhosts(root);
    native.left_out(root, "");
    for note in notes.iter().filter(|note| note.kind == NoteKind::Odd) {
        native.leave(&note.origin, &note.directive, &note.text);
    }
    native.text(true)
}

#[derive(Default)]
struct Native {
    /// Sections in the order in which they came up, with their lines.
    sections: Vec<(String, Vec<String>)>,
    /// `[[certificate]]`, `[[forward]]`, `[[hook]]`, `[[pull]]` and `[[vhost]]`, each as it is written.
    tables: Vec<String>,
    /// Comments on what is not there.
    left: Vec<String>,
}

impl Native {
    fn text(&self, with_comments: bool) -> String {
        let mut out = String::new();
        if with_comments {
            out.push_str("# Made by `braidcast import-srs`. `braidcast check -c FILE` says whether this machine can run it.\n");
        }
        for (section, lines) in &self.sections {
            write!(out, "\n[{section}]\n{}\n", lines.join("\n")).expect("writing to a string does not fail");
        }
        for table in &self.tables {
            write!(out, "\n{table}\n").expect("writing to a string does not fail");
        }
        if with_comments && !self.left.is_empty() {
            out.push_str("\n# Directives that have no equivalent, and why:\n#\n");
            for line in &self.left {
                writeln!(out, "# {line}").expect("writing to a string does not fail");
            }
        }
        out
    }

    /// What is wrong with the file as it is, if anything.
    fn fault(&self) -> Option<String> {
        let problems = config::load_text(Path::new("import"), &self.text(false)).err()?;
        Some(problems.0.first().map_or(String::new(), |problem| problem.message.clone()))
    }

    fn leave(&mut self, origin: &Origin, directive: &str, why: &str) {
        let line = format!("{origin}: {directive}: {why}");
        self.left.push(line.chars().map(|c| if c.is_control() { '?' } else { c }).collect());
    }

    /// Adds a key; what is refused is left out, with the reason.
    fn key(&mut self, section: &str, key: &str, value: &str, from: (&Origin, &str)) {
        let index = self.sections.iter().position(|(name, _)| name == section).unwrap_or_else(|| {
            self.sections.push((section.to_owned(), Vec::new()));
            self.sections.len() - 1
        });
        self.sections[index].1.push(format!("{key} = {value}"));
        if let Some(fault) = self.fault() {
            self.sections[index].1.pop();
            self.sections.retain(|(_, lines)| !lines.is_empty());
            self.leave(from.0, from.1, &fault);
        }
    }

    fn table(&mut self, table: String, from: (&Origin, &str)) {
        self.tables.push(table);
        if let Some(fault) = self.fault() {
            self.tables.pop();
            // The value comes before the fault, and may hold a password.
            let fault = fault.rsplit_once("\": ").map_or(fault.as_str(), |(_, fault)| fault);
            self.leave(from.0, from.1, fault);
        }
    }

    fn convert(&mut self, path: &str, directive: &Directive, section: &str, key: &str, value: Value) {
        let from = (&directive.origin, path);
        match value(directive.arg()) {
            Some(value) => self.key(section, key, &value, from),
            None => self.leave(from.0, from.1, "its value is not understood"),
        }
    }

    fn listens(&mut self, root: &Directive, listens: &Listens) {
        let made = Origin::Made;
        let origin = |path: &str| root.at(path).map_or(&made, |directive| &directive.origin);
        // Passwords are not copied, and without one the API lets everybody in: it stays on loopback.
        let on_loopback = |address: &SocketAddr| match address.ip().is_loopback() {
            true => *address,
            false => (Ipv4Addr::LOCALHOST, address.port()).into(),
        };
        let mut api: Vec<SocketAddr> = listens.api.iter().map(on_loopback).collect();
        api.dedup();
        let both = !listens.api.is_empty() && listens.api.iter().any(|address| listens.http.contains(address));
        let sections = [("rtmp", &listens.rtmp, rtmp_listen(root)), ("http", &listens.http, "http_server.listen")];
        for (section, addresses, path) in sections {
            self.key(section, "listen", &list(addresses), (origin(path), path));
        }
        if both {
            self.leave(origin("http_api.listen"), "http_api.listen", "the API has a port of its own here, on loopback: 1985");
        } else {
            self.key("api", "listen", &list(&api), (origin("http_api.listen"), "http_api.listen"));
            if api != listens.api {
                let why = "without a password the API listens on loopback; with [api] token_file or [[api_user]] it may listen anywhere";
                self.leave(origin("http_api.listen"), "http_api.listen", why);
            }
        }
    }

    /// Where SRS speaks TLS, and its certificates: SRS has one for each place, we have one for each name.
    fn tls(&mut self, root: &Directive) {
        let places = [("rtmps", "rtmps", 1443), ("http_server.https", "https", 8088), ("http_api.https", "https_api", 1990)];
        for (path, key, port) in places {
            let Some(block) = root.at(path).filter(|block| block.on("enabled")) else { continue };
            let said = |name: &str, default: &str| block.at(name).map_or(default, Directive::arg).to_owned();
            let (cert, private) = (said("cert", "./conf/server.crt"), said("key", "./conf/server.key"));
            let table = format!("[[certificate]]\ncert = {cert:?}\nkey = {private:?}");
            if !self.tables.contains(&table) {
                self.table(table, (&block.origin, path));
            }
            let listen = match block.at("listen").map(|listen| endpoint(listen.arg())) {
                None => Some(everywhere(port)),
                Some(addresses) => addresses,
            };
            // As the API without TLS: it stays on loopback unless the site named an address.
            let near = |address: SocketAddr| match address.ip() {
                ip if !ip.is_unspecified() || key != "https_api" => address,
                IpAddr::V4(_) => (Ipv4Addr::LOCALHOST, address.port()).into(),
                IpAddr::V6(_) => (Ipv6Addr::LOCALHOST, address.port()).into(),
            };
            match listen.map(|addresses| addresses.into_iter().map(near).collect::<Vec<_>>()) {
                Some(addresses) => self.key("tls", key, &list(&addresses), (&block.origin, path)),
                None => self.leave(&block.origin, path, "its listen is no place to listen"),
            }
        }
    }

    fn log_level(&mut self, root: &Directive) {
        let (path, level) = match (root.at("srs_log_level_v2"), root.at("srs_log_level")) {
            (Some(level), _) => ("srs_log_level_v2", level),
            (None, Some(level)) => ("srs_log_level", level),
            (None, None) => return,
        };
        // What the first version calls trace is what happens to streams.
        let value = match (path, level.arg()) {
            (_, "warn") => "warn",
            (_, "error") => "error",
            ("srs_log_level", "trace") | ("srs_log_level_v2", "info") => "info",
            ("srs_log_level", "info") | ("srs_log_level_v2", "debug") => "debug",
            ("srs_log_level", "verbose") | ("srs_log_level_v2", "trace") => "trace",
            _ => return self.leave(&level.origin, path, "its value is not understood"),
        };
        self.key("server", "log_level", &format!("{value:?}"), (&level.origin, path));
    }

    fn vhosts(&mut self, root: &Directive) {
        let vhosts = root.vhosts();
        let names: Vec<&str> = vhosts.iter().map(|vhost| vhost.arg()).collect();
        if let Some(first) = vhosts.first() {
            self.key("server", "vhosts", &format!("{names:?}"), (&first.origin, "vhost"));
        }
        let segmented: Vec<&&Directive> = vhosts.iter().filter(|vhost| vhost.on("hls.enabled")).collect();
        let at = vhosts.iter().find_map(|vhost| vhost.at("hls.enabled")).map_or(&Origin::Made, |directive| &directive.origin);
        self.key("hls", "enabled", if segmented.is_empty() { "false" } else { "true" }, (at, "vhost.hls.enabled"));
        if !segmented.is_empty() && segmented.len() < vhosts.len() {
            self.leave(at, "vhost.hls.enabled", "is for all vhosts here: those without get HLS too");
        }
        for (path, section, key, value) in VHOST {
            self.vhost_value(&vhosts, path, section, key, *value);
        }
        for vhost in vhosts {
            self.forward(vhost);
            self.hooks(vhost);
            self.edge(vhost);
            self.access(vhost);
            for ingest in vhost.children.iter().filter(|child| child.name == "ingest" && child.on("enabled")) {
                self.ingest(vhost, ingest);
            }
        }
    }

    /// The value of the default vhost, or of the first that says one.
    fn vhost_value(&mut self, vhosts: &[&Directive], path: &str, section: &str, key: &str, value: Value) {
        let of_hls = path.starts_with("hls.");
        let counts = |vhost: &&&Directive| !of_hls || vhost.on("hls.enabled");
        let (default, others): (Vec<&Directive>, Vec<&Directive>) =
            vhosts.iter().filter(counts).partition(|vhost| vhost.arg() == DEFAULT_VHOST);
        let said: Vec<(&Directive, &Directive)> =
            default.iter().chain(&others).filter_map(|vhost| Some((vhost.at(path)?, *vhost))).collect();
        let Some(((first, _), rest)) = said.split_first() else { return };
        let path = format!("vhost.{path}");
        let text = first.arg();
        // These have to fit what the site says.
        match (section, key, text.parse::<f64>()) {
            ("hls", "window", Ok(window)) if window > 300.0 => {
                self.key("hls", "retention", &format!("\"{text}s\""), (&first.origin, &path))
            }
            ("play", "max_lag", Ok(lag)) if lag > 20.0 => self.key("log", "keep", &format!("\"{text}s\""), (&first.origin, &path)),
            _ => {}
        }
        self.convert(&path, first, section, key, value);
        for (other, vhost) in rest.iter().filter(|(other, _)| other.arg() != text) {
            if let ("latency", Some(value)) = (key, value(other.arg())) {
                self.table(format!("[[vhost]]\nname = {:?}\nlatency = {value}", vhost.arg()), (&other.origin, &path));
                continue;
            }
            self.leave(&other.origin, &path, &format!("one value holds for all vhosts here: {text}, of {}", first.origin));
        }
    }

    fn forward(&mut self, vhost: &Directive) {
        let Some(destination) = vhost.at("forward.destination").filter(|_| vhost.on("forward.enabled")) else { return };
        let query = if vhost.arg() == DEFAULT_VHOST { "" } else { "?vhost={vhost}" };
        let to: Vec<String> = destination.args.iter().map(|server| format!("rtmp://{server}/{{app}}/{{stream}}{query}")).collect();
        let table = format!("[[forward]]\nstreams = \"**\"\nvhost = {:?}\nto = {to:?}", vhost.arg());
        self.table(table, (&destination.origin, "vhost.forward.destination"));
    }

    /// Who is let in.
    fn access(&mut self, vhost: &Directive) {
        let (tables, odd) = access::tables(vhost);
        for (origin, text) in odd {
            self.leave(origin, "vhost.security", &text);
        }
        for access::Table { text, from } in tables {
            self.table(text, from);
        }
    }

    /// One hook for each URL, so that what it is told of a stream keeps its order.
    fn hooks(&mut self, vhost: &Directive) {
        let mut urls: Vec<(&str, Vec<&str>, &Origin)> = Vec::new();
        let of_hooks = vhost.at("http_hooks").filter(|hooks| hooks.on("enabled")).map_or(&[][..], |hooks| &hooks.children);
        let named = of_hooks.iter().filter(|child| Action::parse(&child.name).is_ok()).map(|child| (child.name.as_str(), child));
        let backend = vhost.at("forward.backend").filter(|_| vhost.on("forward.enabled"));
        for (event, directive) in named.chain(backend.map(|backend| (Action::Forward.name(), backend))) {
            for url in &directive.args {
                match urls.iter_mut().find(|(known, ..)| known == url) {
                    Some((_, events, _)) => events.push(event),
                    None => urls.push((url, vec![event], &directive.origin)),
                }
            }
        }
        for (url, events, origin) in urls {
            let table = format!("[[hook]]\nevents = {events:?}\nurl = {url:?}\nvhost = {:?}", vhost.arg());
            self.table(table, (origin, "vhost.http_hooks"));
        }
    }

    fn edge(&mut self, vhost: &Directive) {
        let Some(mode) = vhost.at("cluster.mode").filter(|mode| mode.arg() == "remote") else { return };
        let Some(origin) = vhost.at("cluster.origin").filter(|origin| !origin.args.is_empty()) else {
            return self.leave(&mode.origin, "vhost.cluster.mode", "is remote, but there is no origin");
        };
        let wanted = vhost.value("cluster.vhost").unwrap_or(vhost.arg());
        let query = if wanted == DEFAULT_VHOST || wanted == "[vhost]" { String::new() } else { format!("?vhost={wanted}") };
        let server = origin.arg();
        let from = match vhost.value("cluster.protocol") {
            Some("flv") => format!("http://{server}/{{app}}/{{stream}}.flv{query}"),
            Some("flvs") => format!("https://{server}/{{app}}/{{stream}}.flv{query}"),
            _ => format!("rtmp://{server}/{{app}}/{{stream}}{query}"),
        };
        let table = format!("[[pull]]\nstream = \"**\"\nvhost = {:?}\nfrom = {from:?}\nwhen = \"demand\"", vhost.arg());
        self.table(table, (&origin.origin, "vhost.cluster.origin"));
        for other in &origin.args[1..] {
            self.leave(&origin.origin, "vhost.cluster.origin", &format!("a stream is pulled from one server; {other} is not asked"));
        }
        self.leave(
            &mode.origin,
            "vhost.cluster.mode",
            "what is published here is not sent to the origin: publish there, or say [[forward]]",
        );
    }

    /// A source in the network that is taken as it is is a pull; anything else needs an ffmpeg of its own.
    fn ingest(&mut self, vhost: &Directive, ingest: &Directive) {
        let own_ffmpeg = "run ffmpeg beside this server: ffmpeg -i SOURCE … -f flv rtmp://127.0.0.1/APP/STREAM";
        let from = (&ingest.origin, "vhost.ingest");
        let recoded = ingest.children.iter().filter(|child| child.name == "engine" && child.on("enabled")).any(|engine| {
            let copied = |name| engine.value(name) == Some("copy");
            !copied("vcodec") || !copied("acodec")
        });
        let output = ingest.at("engine.output").and_then(|output| published(output.arg()));
        let spoken = |url: &&str| ["rtmp://", "http://", "https://"].iter().any(|scheme| url.starts_with(scheme));
        let url = ingest.value("input.url").filter(spoken);
        let (Some("stream"), Some(url), Some(stream), false) = (ingest.value("input.type"), url, output, recoded) else {
            return self.leave(from.0, from.1, own_ffmpeg);
        };
        let table = format!("[[pull]]\nstream = {stream:?}\nvhost = {:?}\nfrom = {url:?}\nwhen = \"always\"", vhost.arg());
        self.table(table, from);
    }

    /// A comment for each directive that nothing was made of; one for a whole block if there is one reason.
    fn left_out(&mut self, block: &Directive, scope: &str) {
        for directive in &block.children {
            let path = if scope.is_empty() { directive.name.clone() } else { format!("{scope}.{}", directive.name) };
            let off = directive.value("enabled").map_or(OFF_BY_DEFAULT.contains(&path.as_str()), |value| value == "off");
            let converted = ROOT.iter().any(|(root, ..)| *root == path)
                || VHOST.iter().any(|(of_vhost, ..)| path.strip_prefix("vhost.") == Some(*of_vhost));
            // A switch that is off, and a mount that is the usual one, ask for nothing.
            let unasked = OFF.contains(&path.as_str()) && directive.arg() == "off" || directive.arg() == MOUNT;
            if off && !directive.children.is_empty() || converted || unasked || path == "vhost.ingest" {
                continue;
            } else if let Some((_, why)) = REASONS.iter().find(|(of, _)| *of == path) {
                self.leave(&directive.origin, &path, why);
            } else if SILENT.contains(&path.as_str()) {
                self.left_out(directive, &path);
            } else {
                self.leave(&directive.origin, &path, "there is no setting for it");
            }
        }
    }
}

/// As it is written in a file: all addresses of a port are the port.
fn list(addresses: &[SocketAddr]) -> String {
    let mut out: Vec<String> = Vec::new();
    for address in addresses {
        let both = address.ip().is_unspecified()
            && addresses
                .iter()
                .any(|other| other.ip().is_unspecified() && other.port() == address.port() && other.is_ipv4() != address.is_ipv4());
        let item = if both { address.port().to_string() } else { format!("\"{address}\"") };
        if !out.contains(&item) {
            out.push(item);
        }
    }
    format!("[{}]", out.join(", "))
}

/// `app/stream` of a URL on this server that says both: `rtmp://127.0.0.1:[port]/live/x`, or in the older way with the vhost in the middle.
fn published(url: &str) -> Option<String> {
    let (_, path) = url.strip_prefix("rtmp://")?.split_once('/')?;
    let name = match path.split_once('?') {
        Some((app, query)) if !app.contains('/') => format!("{app}/{}", query.rsplit_once('/')?.1),
        Some((name, _)) => name.to_owned(),
        None => path.to_owned(),
    };
    Some(name).filter(|name| !name.contains(['[', '*', '?']))
}
