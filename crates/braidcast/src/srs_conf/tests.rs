//! The room as a whole: the samples are read, changed and translated; what is printed is read again.

use super::directive::{Directive, Origin};
use super::{Place, Site, parse, print};
use crate::access::{Asking, Rules};
use crate::config;
use crate::control::Intent;
use braidcast_media::StreamKey;
use proptest::prelude::*;
use std::path::Path;

const EVERYTHING: &str = include_str!("samples/everything.conf");
const OLD: &str = include_str!("samples/old.conf");
const NEW: &str = include_str!("samples/new.conf");
const QUOTES: &str = include_str!("samples/quotes.conf");
const SAMPLES: [(&str, &str); 4] = [("everything.conf", EVERYTHING), ("old.conf", OLD), ("new.conf", NEW), ("quotes.conf", QUOTES)];

fn included(path: &str) -> Result<String, String> {
    match path {
        "./conf/vhosts.conf" => Ok("vhost b.example.com {\n    hls { enabled on; }\n}\n".into()),
        "./conf/more.conf" => Ok(String::new()),
        _ => Err("cannot be read: no such file".into()),
    }
}

fn site(name: &str, text: &str, environment: &[(&str, &str)]) -> Site {
    let environment: Vec<_> = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Site::from_text(name, text, &environment, &mut included).unwrap()
}

fn read(text: &str) -> Directive {
    parse("test.conf", text, &mut included).unwrap()
}

fn place(id: u16) -> Place {
    let local = |port| ([127, 0, 0, 1], port + id).into();
    Place {
        id,
        rtmp: local(19350),
        http: local(18080),
        api: local(11985),
        hls_dir: "/dev/shm/x/hls".into(),
        run_dir: "/dev/shm/x/run".into(),
        carries_others: id == 1,
    }
}

/// What is generated for a process, as a tree.
fn generated(site: &Site, id: u16) -> Directive {
    read(&site.generate(&place(id)).unwrap())
}

fn args<'d>(root: &'d Directive, path: &str) -> &'d [String] {
    root.at(path).map_or(&[], |directive| &directive.args)
}

fn vhost<'d>(root: &'d Directive, name: &str) -> &'d Directive {
    root.children.iter().find(|child| child.name == "vhost" && child.arg() == name).unwrap()
}

fn notes(site: &Site) -> Vec<String> {
    site.notes().iter().map(ToString::to_string).collect()
}

#[test]
fn the_samples_are_read_printed_generated_and_imported() {
    for (name, text) in SAMPLES {
        let tree = parse(name, text, &mut included).unwrap();
        let printed = print(&tree.children).unwrap();
        assert_eq!(without_places(&read(&printed)), without_places(&tree), "{name}");
        let site = site(name, text, &[]);
        for id in 1..=2 {
            let root = generated(&site, id);
            assert_eq!(root.at("is_full"), None);
            for vhost in root.vhosts() {
                assert_eq!(args(vhost, "hls.enabled"), ["on"], "{name}");
                assert_eq!(args(vhost, "hls.hls_ts_file"), ["[vhost]/[app]/[stream]/[seq].ts"], "{name}");
            }
        }
        let native = site.to_native();
        config::load_text(Path::new(name), &native).unwrap_or_else(|problems| panic!("{name}: {problems}\n{native}"));
    }
}

#[test]
fn only_unknown_directives_are_called_unknown() {
    for (name, text) in SAMPLES {
        let odd: Vec<String> = notes(&site(name, text, &[])).into_iter().filter(|note| note.contains(": SRS ")).collect();
        assert_eq!(odd, Vec::<String>::new(), "{name}");
    }
    let site = site("x.conf", "listen 1935;\nvhost v {\n hls { hls_fragmnt 2; }\n}\nhttp_apo { }\n", &[]);
    let notes = notes(&site);
    assert!(notes[0].starts_with("x.conf:3: vhost.hls.hls_fragmnt: ") && notes[0].ends_with("is hls_fragment"), "{notes:?}");
    let twice = self::site(
        "x.conf",
        "listen 1;\nlisten 2;\nvhost a { }\nvhost b { hls { } }\nvhost a { hls { } hls { } }\nstream_caster { }\nstream_caster { }",
        &[],
    );
    assert_eq!(
        self::notes(&twice),
        [
            "x.conf:2: listen: SRS looks at the first one alone, in x.conf:1",
            "x.conf:5: vhost: SRS looks at the first one alone, in x.conf:3",
            "x.conf:5: vhost.hls: SRS looks at the first one alone, in x.conf:5",
        ]
    );
    assert!(notes[1].starts_with("x.conf:5: http_apo: ") && notes[1].ends_with("is http_api"), "{notes:?}");
}

#[test]
fn the_samples_say_every_directive_that_is_known() {
    let mut said = std::collections::BTreeSet::new();
    let mut left: Vec<(String, Directive)> = Vec::new();
    for (name, text) in SAMPLES {
        left.push((String::new(), parse(name, text, &mut included).unwrap()));
    }
    while let Some((path, directive)) = left.pop() {
        for child in directive.children {
            let inner = if path.is_empty() { child.name.clone() } else { format!("{path}.{}", child.name) };
            said.insert(inner.clone());
            left.push((inner, child));
        }
    }
    let missing: Vec<String> = super::known::paths().into_iter().filter(|path| !said.contains(path)).collect();
    assert_eq!(missing, Vec::<String>::new());
}

#[test]
fn each_process_has_ports_pid_and_log_of_its_own() {
    let site = site("everything.conf", EVERYTHING, &[]);
    for id in 1..=2 {
        let root = generated(&site, id);
        assert_eq!(args(&root, "listen"), [format!("127.0.0.1:{}", 19350 + id)]);
        assert_eq!(args(&root, "http_server.listen"), [format!("127.0.0.1:{}", 18080 + id)]);
        assert_eq!(args(&root, "http_api.listen"), [format!("127.0.0.1:{}", 11985 + id)]);
        assert_eq!(args(&root, "pid"), [format!("/dev/shm/x/run/srs.{id}.pid")]);
        assert_eq!(args(&root, "srs_log_file"), [format!("./log/srs.east.{id}.log")]);
        assert_eq!((args(&root, "daemon"), args(&root, "asprocess")), (&["off".into()][..], &["off".into()][..]));
        for gone in ["http_api.https", "http_server.https", "heartbeat", "exporter"] {
            assert_eq!(root.at(gone), None, "{gone}");
        }
        for other in ["rtmps", "srt_server", "rtc_server", "rtsp_server", "stream_caster"] {
            assert_eq!(root.at(other).is_some(), id == 1, "{other}");
        }
        assert_eq!(args(&root, "http_api.auth.password"), ["so secret; no one knows"]);
        let vhost = vhost(&root, "a.example.com");
        assert_eq!(vhost.at("ingest").is_some(), id == 1);
        assert_eq!(args(vhost, "forward.destination"), ["192.0.2.2:1936", "backup.example.com"]);
        assert_eq!(args(vhost, "http_remux.mount"), ["[vhost]/[app]/[stream].flv"]);
        assert_eq!((args(vhost, "hls.hls_fragment"), args(vhost, "hls.hls_window")), (&["6".into()][..], &["90".into()][..]));
        assert_eq!(args(vhost, "hls.hls_keys"), ["off"]);
        assert!(vhost.at("hls.hls_entry_prefix").is_none(), "names in SRS's indexes stay names of files");
    }
}

#[test]
fn a_vhost_that_is_off_stays_as_it_is_and_an_edge_stays_an_edge() {
    let site = site("everything.conf", EVERYTHING, &[]);
    let root = generated(&site, 1);
    assert_eq!(vhost(&root, "off.example.com").at("hls.hls_path"), None);
    let edge = vhost(&root, "edge.example.com");
    assert_eq!((args(edge, "cluster.mode"), args(edge, "cluster.origin_cluster")), (&["remote".into()][..], &["off".into()][..]));
    assert_eq!(edge.at("cluster.coworkers"), None);
    assert_eq!(site.edge_vhosts(), ["edge.example.com"]);
    assert_eq!(self::site("old.conf", OLD, &[]).edge_vhosts(), ["__defaultVhost__"]);
}

#[test]
fn what_is_changed_is_told_with_its_place() {
    let notes = notes(&site("everything.conf", EVERYTHING, &[]));
    for wanted in [
        "everything.conf:2: pid: each process keeps its own",
        "everything.conf:19: http_api.https: is off",
        "everything.conf:25: rtmps: one of the processes",
        ": vhost.hls.hls_keys: is off: encrypted",
        ": vhost.cluster.coworkers: is left out",
        ": vhost.http_remux.mount: is not where",
        ": vhost.ingest: runs in one of the processes",
    ] {
        assert!(notes.iter().any(|note| note.contains(wanted)), "{wanted}: {notes:#?}");
    }
    assert_eq!(notes.iter().filter(|note| note.contains(": stream_caster: ")).count(), 2);
    assert_eq!(self::notes(&site("plain.conf", "listen 1935; vhost v { }", &[])), Vec::<String>::new());
}

#[test]
fn where_the_site_listens() {
    let shown = |text: &str, environment: &[(&str, &str)]| {
        let site = site("x.conf", text, environment);
        let listens = site.listens();
        [&listens.rtmp, &listens.http, &listens.api].map(|list| list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
    };
    let both = |port: u16| format!("0.0.0.0:{port} [::]:{port}");
    assert_eq!(shown(NEW, &[]), ["127.0.0.1:1936 [::1]:1936".to_owned(), both(8080), both(8080)]);
    assert_eq!(shown("vhost v { }", &[]), [both(1935), String::new(), String::new()]);
    let changed = [("SRS_LISTEN", "1936 127.0.0.1:1937"), ("SRS_HTTP_API_ENABLED", "on"), ("SRS_HTTP_API_LISTEN", ""), ("LISTEN", "1")];
    assert_eq!(shown("listen 1935;", &changed), [format!("{} 127.0.0.1:1937", both(1936)), String::new(), both(1985)]);
    let error = Site::from_text("x.conf", "listen 1935\t19x;", &[], &mut included).unwrap_err().to_string();
    assert_eq!(error, "x.conf:1: listen: \"19x\" is no place to listen (1935, 127.0.0.1:1935, [::1]:1935)");
    let defaults = Site::load(None, &[]).unwrap();
    assert_eq!(defaults.listens().api[0].port(), 1985);
    assert_eq!(generated(&defaults, 2).vhosts().len(), 1);
}

#[test]
fn variables_are_written_into_the_configuration_and_taken_from_the_processes() {
    let variables = [
        ("SRS_VHOST_HLS_HLS_FRAGMENT", "3"),
        ("SRS_VHOST_HLS_HLS_PATH", "/elsewhere"),
        ("SRS_LOG_TANK", "console"),
        ("SRS_HTTP_API_AUTH_ENABLED", "on"),
        ("SRS_HTTP_API_AUTH_USERNAME", "me"),
        ("SRS_HTTP_API_AUTH_PASSWORD", "hush"),
        ("SRS_CONFIG_FILE", "/x"),
        ("SRS_VHOST_DVR_ENABLED", "on"),
        ("SRS_RTC_SERVER_ENABLED", "on"),
    ];
    let site = site("x.conf", "listen 1935; vhost a { } vhost b { hls { hls_fragment 9; } }", &variables);
    let mut removed = site.removed_variables().to_vec();
    removed.sort();
    let mut expected: Vec<&str> = variables.iter().map(|(name, _)| *name).filter(|name| !name.contains("DVR")).collect();
    expected.sort_unstable();
    assert_eq!(removed, expected);
    let root = generated(&site, 1);
    for name in ["a", "b"] {
        assert_eq!(args(vhost(&root, name), "hls.hls_fragment"), ["3"]);
        assert_eq!(args(vhost(&root, name), "hls.hls_path"), ["/dev/shm/x/hls"]);
    }
    assert_eq!((args(&root, "srs_log_tank"), root.at("rtc_server").is_some()), (&["console".into()][..], true));
    assert_eq!(generated(&site, 2).at("rtc_server"), None);
    let auth = site.api_auth().unwrap();
    assert_eq!((auth.user.as_str(), auth.password.as_str()), ("me", "hush"));
    assert!(!format!("{auth:?}{site:?}").contains("hush"));
    let notes = notes(&site);
    assert!(notes.iter().any(|note| note.starts_with("environment SRS_VHOST_HLS_HLS_PATH: vhost.hls.hls_path: ")), "{notes:?}");
}

#[test]
fn files_and_their_includes_are_read_from_disk() {
    let directory = tempfile::tempdir().unwrap();
    let (main, part) = (directory.path().join("srs.conf"), directory.path().join("part.conf"));
    std::fs::write(&part, "# \u{fc} in Latin-1: ").unwrap();
    std::fs::write(&part, b"# Latin-1: \xfc\nvhost v { bogus 1; }\n").unwrap();
    std::fs::write(&main, format!("listen 1;\ninclude {};\n", part.display())).unwrap();
    let site = Site::load(Some(&main), &[("SRS_ENV_ONLY".into(), "1".into())]).unwrap();
    let notes = notes(&site);
    assert!(notes[0].starts_with(&format!("{}:2: vhost.bogus: ", part.display())), "{notes:?}");
    assert!(notes[1].contains("SRS_ENV_ONLY: is ignored"), "{notes:?}");
    let named = Site::load(None, &[("SRS_CONFIG_FILE".into(), main.display().to_string())]).unwrap();
    assert_eq!(named.listens().rtmp[0].port(), 1);
    let error = Site::load(Some(&directory.path().join("none.conf")), &[]).unwrap_err().to_string();
    assert!(error.contains("none.conf: cannot be read: "), "{error}");
}

#[test]
fn faults_are_told_with_file_line_and_directive() {
    for (text, wanted) in [
        ("listen 1935\n;", "x.conf:1: listen: the line ends before its ; or {"),
        ("vhost a\n{ }", "x.conf:1: vhost: the line ends before its ; or {"),
        ("\n\nlisten 1935", "x.conf:3: listen: the file ends before its ; or {"),
        ("listen 1 # 2;", "x.conf:1: listen: the file ends before its ; or {"),
        ("a { b 1;\n", "x.conf:1: a: its block has no }"),
        ("a 1; }", "x.conf:1: a } that closes nothing"),
        ("a { b }", "x.conf:1: b: a } before its ; or {"),
        (";", "x.conf:1: a ; before any directive"),
        ("\"\";", "x.conf:1: a ; before any directive"),
        ("a { };", "x.conf:1: a ; before any directive"),
        ("a \"b;\nc\";", "x.conf:1: a: the line ends before its \""),
        ("a 'b'c;", "x.conf:1: a: no space behind the quotes of \"b\""),
        ("a b\u{fffd};", "x.conf:1: a: a word that is not UTF-8"),
        ("a\0;", "x.conf:1: a zero byte"),
        ("\ninclude;", "x.conf:2: include: is followed by names of files, and a ;"),
        ("include nowhere;", "x.conf:1: include: \"nowhere\": cannot be read: no such file"),
        ("include x.conf;", "x.conf:1: include: \"x.conf\" includes itself"),
    ] {
        assert_eq!(parse("x.conf", text, &mut included).unwrap_err().to_string(), wanted, "{text:?}");
    }
}

#[test]
fn nesting_size_and_includes_are_bounded() {
    let error = |text: &str, load: &mut dyn FnMut(&str) -> Result<String, String>| parse("x", text, load).unwrap_err().to_string();
    assert!(error(&"a {".repeat(100_000), &mut included).contains("nested more than"));
    assert!(error(&" ".repeat(2 << 20), &mut included).contains("bytes"));
    let mut count = 0;
    assert!(
        error("include 0;", &mut |_| {
            count += 1;
            Ok(format!("include {count};"))
        })
        .contains("nested more than")
    );
    let mut loads = 0;
    assert!(
        error(&"include y;\n".repeat(10_000), &mut |_| {
            loads += 1;
            Ok(String::new())
        })
        .contains("more than 256 files")
    );
    assert_eq!(loads, 256);
    assert!(error(&"include y;\n".repeat(100), &mut |_| Ok(" ".repeat(1 << 16))).contains("bytes"));
}

/// A reader that looked at anything twice for each word would not come to an end here.
#[test]
fn a_megabyte_of_anything_is_read_in_one_pass() {
    for unit in ["a;", "a \"\" ", "\"a\" ", "'", "#", "a #\n", "\n", "a{}", "a ", "x", "vhost v { hls { enabled on; } }\n"] {
        let text = unit.repeat((1 << 20) / unit.len());
        let read = parse("x", &text, &mut included);
        assert!(read.is_ok() || read.unwrap_err().origin != Origin::Made, "{unit}");
    }
    let vhosts: String = (0..40_000).map(|number| format!("vhost v{number} {{ }}\n")).collect();
    assert_eq!(read(&vhosts).vhosts().len(), 40_000);
}

#[test]
fn what_cannot_be_said_is_not_generated() {
    let site = site("x.conf", "listen 1935;", &[]);
    let there = |path: &str| site.generate(&Place { hls_dir: path.into(), ..place(1) });
    assert!(there("/a b").unwrap().contains("hls_path \"/a b\";"));
    assert!(there("/a\nb").is_err() && there("/a '\"").is_err());
}

#[test]
fn an_import_takes_what_there_is_a_setting_for() {
    let native = site("everything.conf", EVERYTHING, &[]).to_native();
    let config = config::load_text(Path::new("x"), &native).unwrap().config;
    assert_eq!(config.limits.connections, 3000);
    assert_eq!(config.rtmp.listen.len(), 3);
    // It would let everybody in at the address that the site names; the password is not copied.
    assert_eq!(config.api.listen, ["127.0.0.1:1986".parse().unwrap()]);
    assert_eq!(config.server.vhosts, ["__defaultVhost__", "a.example.com", "c.example.com", "edge.example.com", "b.example.com"]);
    assert_eq!((config.hls.enabled, config.hls.fragment, config.hls.window), (true, config::Span::secs(6), config::Span::secs(90)));
    assert_eq!(config.hls.hls_dispose, config::Span::secs(300));
    assert_eq!((config.play.max_lag, config.play.latency), (config::Span::secs(25), config::Latency::Fixed(config::Span::ms(100))));
    assert_eq!((config.limits.first_packet, config.limits.idle), (config::Span::secs(20), config::Span::secs(7)));
    assert_eq!(config.server.log_level, config::LogLevel::Debug);
    let ports = |addresses: &[std::net::SocketAddr]| addresses.iter().map(std::net::SocketAddr::port).collect::<Vec<_>>();
    assert_eq!((ports(&config.tls.rtmps), ports(&config.tls.https)), (vec![1443, 1443], vec![8443, 8443]));
    assert_eq!(ports(&config.tls.https_api), [1990, 1990]);
    let keys: Vec<_> = config.certificate.iter().map(|certificate| certificate.key.file_name().unwrap().to_owned()).collect();
    assert_eq!(keys, ["rtmp.key", "www.key", "api.key"]);
    let [forward, second] = &config.forward[..] else { panic!("{native}") };
    let to: Vec<&str> = forward.to.0.iter().map(|url| url.as_str()).collect();
    assert_eq!(to, ["rtmp://192.0.2.2:1936/{app}/{stream}?vhost={vhost}", "rtmp://backup.example.com/{app}/{stream}?vhost={vhost}"]);
    assert_eq!(second.vhost, "c.example.com");
    let pulls: Vec<(&str, &str, &str)> =
        config.pull.iter().map(|pull| (pull.vhost.as_str(), pull.stream.as_str(), pull.from.0.as_str())).collect();
    assert_eq!(
        pulls,
        [
            ("a.example.com", "live/camera", "rtmp://192.0.2.9/live/camera"),
            ("edge.example.com", "**", "rtmp://192.0.2.3:1935/{app}/{stream}?vhost=origin.example.com"),
        ]
    );
    let hooks: Vec<(&str, String)> = config.hook.iter().map(|hook| (hook.url.as_str(), format!("{:?}", hook.events.0))).collect();
    let hook = |url, events: &str| (url, events.to_owned());
    assert_eq!(
        hooks,
        [
            hook("http://127.0.0.1:8085/c", "[Connect, Close]"),
            hook("http://127.0.0.1:8085/p", "[Publish, Unpublish]"),
            hook("http://127.0.0.1:8086/p", "[Publish]"),
            hook("http://127.0.0.1:8085/v", "[Play, Stop]"),
            hook("http://127.0.0.1:8085/h", "[Hls]"),
            hook("http://127.0.0.1:8086/h", "[Hls]"),
            hook("http://127.0.0.1:8085/forward", "[Forward]"),
        ]
    );
    assert_eq!((config.hook[0].vhost.as_str(), config.hooks.server_id.as_str()), ("a.example.com", "east-1"));
    for wanted in [
        "# everything.conf:101: vhost.http_hooks.on_dvr: streams are not recorded",
        "# everything.conf:101: vhost.http_hooks.on_hls_notify: ",
        "vhost.ingest: run ffmpeg beside",
        "192.0.2.4 is not asked",
        "vhost.dvr: streams are not recorded",
        "rtc_server: WebRTC",
        "vhost.hls.hls_keys: segments are not encrypted",
    ] {
        assert!(native.contains(wanted), "{wanted}\n{native}");
    }
    assert!(!native.contains("so secret"), "{native}");
}

#[test]
fn an_import_of_the_old_spellings() {
    let native = site("old.conf", OLD, &[]).to_native();
    let config = config::load_text(Path::new("x"), &native).unwrap().config;
    assert_eq!((config.hls.enabled, config.api.listen.len(), config.http.listen.len()), (false, 0, 2));
    assert_eq!((config.play.max_lag, config.limits.first_packet), (config::Span::secs(10), config::Span::secs(15)));
    assert_eq!(config.forward[0].to.0[0].as_str(), "rtmp://192.0.2.7:1936/{app}/{stream}");
    assert_eq!(config.pull[0].from.0.as_str(), "rtmp://192.0.2.3:1935/{app}/{stream}?vhost=same.example.com");
}

#[test]
fn what_this_server_refuses_is_left_out_of_an_import_and_told() {
    let text = "listen 1935;\nmax_connections 0;\nvhost v {\n hls { enabled on; hls_fragment 900; hls_window 90000; }\n}\n\
                vhost w { forward { enabled on; destination [bad; } play { queue_length x; } hls { enabled on; hls_fragment 5; } }";
    let native = site("x.conf", text, &[]).to_native();
    let config = config::load_text(Path::new("x"), &native).unwrap().config;
    assert_eq!(config.limits.connections, config::Config::default().limits.connections);
    let secrets = "vhost v {\n ingest { enabled on; input { type stream; url rtsp://me:hush@192.0.2.1/x; } engine { output rtmp://h/a/b; } }\n \
                   ingest b { enabled on; input { type stream; url http://me:hush@192.0.2.1/x.flv; } engine { output rtmp://h/a/b; } } \
                   http_remux { mount [vhost]/[app]/[stream].flv; } hls { hls_keys off; } }";
    let quiet = site("x.conf", secrets, &[]).to_native();
    assert!(!quiet.contains("hush") && !quiet.contains("mount") && !quiet.contains("hls_keys"), "{quiet}");
    assert_eq!(
        quiet.matches("# x.conf:2: vhost.ingest: run ffmpeg").count() + quiet.matches("# x.conf:3: vhost.ingest: only a host").count(),
        2,
        "{quiet}"
    );
    for wanted in [
        "# x.conf:2: max_connections: [limits] connections = 0: out of range",
        "# x.conf:4: vhost.hls.hls_fragment: [hls] fragment = \"900s\": out of range",
        "vhost.hls.hls_fragment: one value holds for all vhosts here: 900, of x.conf:4",
        "vhost.play.queue_length: its value is not understood",
        "vhost.forward.destination: ",
    ] {
        assert!(native.contains(wanted), "{wanted}\n{native}");
    }
}

/// A tree without its places.
fn without_places(directive: &Directive) -> Directive {
    let children = directive.children.iter().map(without_places).collect();
    Directive { origin: Origin::Made, children, ..directive.clone() }
}

fn trees() -> impl Strategy<Value = Vec<Directive>> {
    // What can be said: no line ends, and not both kinds of quotes.
    let word = "[a-z\\[\\]./:#}{; ']{1,8}|[a-z\"#}{; ü]{1,8}|on|hls|vhost";
    let directive = (word, prop::collection::vec(word, 0..4)).prop_map(|(name, args)| Directive {
        name: if name == "include" { "x".into() } else { name },
        args,
        children: Vec::new(),
        origin: Origin::Made,
    });
    let nested = directive.prop_recursive(4, 32, 4, move |inner| {
        (prop::collection::vec(inner, 0..4), word).prop_map(|(children, name)| Directive {
            name,
            args: Vec::new(),
            children,
            origin: Origin::Made,
        })
    });
    prop::collection::vec(nested, 0..6)
}

proptest! {
    #[test]
    fn what_is_printed_is_read_again(tree in trees()) {
        let printed = print(&tree).unwrap();
        let again: Vec<Directive> = read(&printed).children.iter().map(without_places).collect();
        prop_assert_eq!(again, tree);
    }

    #[test]
    fn no_text_panics(text in "([a-z ]|[;{}#'\"\\n\\r\\t\\\\]|include |vhost |hls |forward |cluster |mode remote;|ü|\\PC){0,80}") {
        crate::fuzzing::srs_conf_file(&text);
    }
}

/// Who may publish and play according to what is imported of a vhost: `security` and `refer`, against what SRS says.
#[test]
fn an_import_lets_in_whom_srs_lets_in() {
    let lets_in = |block: &str, intent: Intent, client: &str, page: &str| {
        let native = site("x.conf", &format!("listen 1935;\nvhost __defaultVhost__ {{ {block} }}\n"), &[]).to_native();
        let config = config::load_text(Path::new("x"), &native).unwrap_or_else(|problems| panic!("{problems}\n{native}")).config;
        let key = StreamKey::new("__defaultVhost__", "live", "x").unwrap();
        let asking = Asking { intent, key: &key, client: client.parse().unwrap(), params: "", bearer: None, page, now_s: 0 };
        Rules::new(&config.access).check(&asking).is_ok()
    };
    let security = |rules: &str, intent, client: &str| lets_in(&format!("security {{ enabled on; {rules} }}"), intent, client, "");
    let (publish, play) = (Intent::Publish, Intent::Play);
    // Denied is denied; with rules that allow, whoever none allows is refused, for the other intent too.
    assert!(security("allow play all; allow publish 10.0.0.0/8;", play, "192.0.2.1"));
    assert!(security("allow play all; allow publish 10.0.0.1/8;", publish, "10.255.0.1"));
    assert!(!security("allow play all; allow publish 10.0.0.0/8;", publish, "192.0.2.1"));
    assert!(!security("allow play all; allow publish 10.0.0.0/8; deny publish all;", publish, "10.0.0.1"));
    assert!(!security("allow publish all;", play, "192.0.2.1"));
    assert!(security("deny publish 192.0.2.1;", publish, "192.0.2.2") && !security("deny publish 192.0.2.1;", publish, "192.0.2.1"));
    assert!(security("deny publish 192.0.2.1;", play, "192.0.2.1") && !security("", publish, "192.0.2.1"));
    assert!(!security("allow publish nobody;", publish, "192.0.2.1"));
    assert!(lets_in("security { enabled off; deny publish all; }", publish, "192.0.2.1", ""));
    for refer in ["refer { enabled on; all a.test b.test; play a.test; }", "refer a.test b.test; refer_play a.test;"] {
        let from = |intent, page| lets_in(refer, intent, "192.0.2.1", page);
        assert!(from(play, "http://www.a.test/x") && !from(play, "http://b.test/x") && from(publish, "http://b.test"), "{refer}");
        assert!(!from(publish, "") && !from(play, "http://c.test/"), "{refer}");
    }
    let native =
        site("x.conf", "vhost __defaultVhost__ { security { enabled on; allow publish nobody; deny play some.host; } }", &[]).to_native();
    assert!(native.contains("vhost.security: allow publish nobody: is no address"), "{native}");
}
