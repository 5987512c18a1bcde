//! The configuration as a person meets it: a file, variables, flags, and what is said when they are wrong.

use super::table::Section;
use super::*;
use std::io::Write;
use std::path::PathBuf;

fn with_file(text: &str) -> (tempfile::NamedTempFile, Sources) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let sources = Sources { file: Some(file.path().to_owned()), ..Sources::default() };
    (file, sources)
}

fn from_file(text: &str) -> Result<Config, String> {
    let (file, sources) = with_file(text);
    // The tests compare messages; the file's name is not interesting.
    load(&sources).map(|loaded| loaded.config).map_err(|problems| problems.to_string().replace(file.path().to_str().unwrap(), "b.toml"))
}

fn from_environment(variables: &[(&str, &str)]) -> Result<Config, String> {
    let environment = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    load(&Sources { environment, ..Sources::default() }).map(|loaded| loaded.config).map_err(|problems| problems.to_string())
}

fn from_set(path: &str, value: &str) -> Result<Config, String> {
    let flags = vec![(format!("--set {path}={value}"), path.to_owned(), value.to_owned())];
    load(&Sources { flags, ..Sources::default() }).map(|loaded| loaded.config).map_err(|problems| problems.to_string())
}

#[test]
fn defaults_have_no_contradiction() {
    let loaded = load(&Sources::default()).unwrap();
    assert_eq!(loaded.config, Config::default());
    assert_eq!(loaded.warnings, []);
}

#[test]
fn every_documented_default_is_the_default_and_allowed() {
    let config = Config::default();
    for (section, _, keys) in sections().into_iter().filter(|(section, ..)| !is_table(section)) {
        for key in keys {
            assert_eq!(config.show(section, key.name).as_deref(), Some(&*key.default), "[{section}] {}", key.name);
        }
    }
    assert_eq!(from_file(&config.to_toml()), Ok(Config::default()));
    for key in Worker::keys() {
        assert_eq!(Worker::default().show(key.name).as_deref(), Some(&*key.default));
    }
}

#[test]
fn the_keys_are_those_that_were_promised() {
    let names: Vec<String> = sections()
        .iter()
        .map(|(section, _, keys)| format!("{section}: {}", keys.iter().map(|key| key.name).collect::<Vec<_>>().join(" ")))
        .collect();
    assert_eq!(
        names,
        [
            "server: workers worker_base_port worker_proxy_protocol trusted_proxies shared_dir allow_disk on_exit state_dir front_grace hang_after stop_grace vhosts log_level",
            "engine: kind processes srs_binary srs_conf command template client_address silent_after drain_limit carries_others",
            "rtmp: listen proxy_protocol",
            "http: listen proxy_protocol page",
            "api: listen proxy_protocol token read_token open cors jsonp failures",
            "metrics: listen stream_labels",
            "publish: on_duplicate silent_after read_pause unwatched_pause",
            "play: play_wait reconnect_grace max_lag max_lag_bytes latency max_batch_ms",
            "placement: publish play max_publishers rebalance_share rebalance_after rebalance_per_second",
            "log: block_min block_max block_max_bytes keep stream_budget budget",
            "logging: format file levels access_log",
            "hls: enabled fragment window hls_dispose stream_budget retention sessions read_pause",
            "relay: answer silent retry_max ffmpeg",
            "tls: rtmps https https_api min_version http2 handshakes drain_limit",
            "acme: domains agree contact directory ca_file",
            "hooks: server_id queue queue_per_hook retry_max",
            "limits: connections connections_per_address pending_connections handshake first_packet idle poison_hold message_bytes chunk_streams unfinished_message_bytes unfinished_in_all amf_depth name_bytes http_head_bytes",
            "sandbox: enabled user group connect",
            "worker: id max_publishers weight",
            "vhost: name latency",
            "certificate: cert key",
            "api_user: name password role",
            "access: streams vhost intent allow deny referers sign_secret tokens jwt_secret jwt_public_key jwks leeway",
            "forward: streams vhost to",
            "pull: stream vhost from when stop_after",
            "hook: events url secret streams vhost timeout retries on_error",
        ]
    );
}

#[test]
fn json_carries_everything_to_the_workers_and_toml_to_people() {
    let config = from_file(
        "[server]\nvhosts = ['a.b']\non_exit = 'remove'\n[rtmp]\nlisten = 0\n[play]\nlatency = 250\n[log]\nbudget = '1GB'\n[[worker]]\nid = 1\nweight = 3",
    )
    .unwrap();
    assert_ne!(config, Config::default());
    assert_eq!(Config::from_json(&config.to_json()).unwrap(), config);
    assert_eq!(from_file(&config.to_toml()), Ok(config.clone()));
    assert_eq!(Config::from_json(&Config::default().to_json()).unwrap(), Config::default());
    assert!(config.to_json().len() < crate::control::MAX_MESSAGE_BYTES / 4);
}

#[test]
fn tls_needs_a_certificate_and_acme_what_it_asks_for() {
    let tls = "[tls]\nhttps = 8443\n";
    let error = |text: &str| from_file(&format!("{tls}{text}")).unwrap_err();
    assert!(error("").contains("there is no certificate"));
    assert!(from_file(&format!("{tls}[[certificate]]\ncert = '/a'\nkey = '/b'")).is_ok());
    let acme = |more: &str| format!("[acme]\ndomains = ['live.example.org']\n{more}");
    assert!(from_file(&format!("{tls}{}", acme("agree = true"))).is_ok());
    assert!(error(&acme("")).contains("[acme] agree = true says that you agree"));
    assert!(error(&acme("agree = true\ndirectory = 'http://ca'")).contains("no https:// URL"));
    assert!(error(&acme("agree = true\n[http]\nlisten = []")).contains("asks for a file by HTTP"));
    for bad in ["localhost", "*.example.org", "192.0.2.1", "a..b", "-a.b", "ü.de"] {
        assert!(error(&format!("[acme]\nagree = true\ndomains = ['{bad}']")).contains("no full host name"), "{bad}");
    }
    assert!(from_file("[tls]\nhttps = 8080\n[[certificate]]\ncert = '/a'\nkey = '/b'").unwrap_err().contains("is also in [http] listen"));
}

#[test]
fn what_cannot_change_while_it_runs_stays_and_is_named() {
    let running = from_file("[server]\nworkers = 2\n[rtmp]\nlisten = 1936\n[hls]\nfragment = 2").unwrap();
    let mut next = from_file("[server]\nworkers = 3\nstate_dir = '/elsewhere'\n[hls]\nfragment = 3").unwrap();
    assert_eq!(next.keep_fixed(&running), ["[rtmp] listen", "[server] state_dir", "[server] workers"]);
    assert_eq!((next.server.workers, &next.rtmp, next.hls.fragment), (2, &running.rtmp, Span::secs(3)));
    assert_eq!(next.keep_fixed(&running), [] as [&str; 0]);
}

#[test]
fn later_layers_win() {
    let (_file, mut sources) = with_file("[hls]\nfragment = 2\nwindow = 30\n[play]\nplay_wait = '1m'");
    sources.environment =
        vec![("BRAIDCAST_HLS_FRAGMENT".into(), "3s".into()), ("BRAIDCAST_HLS_WINDOW".into(), "40".into()), ("HOME".into(), "/".into())];
    sources.flags = vec![("--set hls.fragment=5".into(), "hls.fragment".into(), "5".into())];
    let config = load(&sources).unwrap().config;
    assert_eq!((config.hls.fragment, config.hls.window, config.play.play_wait), (Span::secs(5), Span::secs(40), Span::secs(60)));
}

#[test]
fn all_errors_of_a_file_come_together_with_line_and_nearest_name() {
    let file = "\
[server]
worker = 4

[htp]
listen = 80

[hls]
fragment = '2x'
max_lag = 3
window = 1
page = true

[limits]
connections = -1
[placement]
publish = \"random\"
";
    assert_eq!(
        from_file(file).unwrap_err(),
        "\
b.toml:2: unknown key \"worker\" in [server]; did you mean workers?
b.toml:4: unknown section [htp]; did you mean [http]?
b.toml:8: [hls] fragment = \"2x\": not a duration (10, 2.5, \"500ms\", \"2m\"); allowed: 500ms to 1m
b.toml:9: unknown key \"max_lag\" in [hls]; there is one in [play]
b.toml:10: [hls] window = 1: out of range; allowed: 2s to 1d
b.toml:11: unknown key \"page\" in [hls]; there is one in [http]
b.toml:14: [limits] connections = -1: out of range; allowed: 1 to 1000000
b.toml:16: [placement] publish = \"random\": not one of these; allowed: `\"weighted\"`, `\"even\"` or `\"measured\"`"
    );
}

#[test]
fn what_is_not_toml_is_an_error_with_its_line() {
    let message = from_file("[server]\nworkers = \n[hls]\nfragmnt = 2\n").unwrap_err();
    assert!(message.starts_with("b.toml:2: "), "{message}");
    assert!(message.contains("b.toml:4: unknown key \"fragmnt\" in [hls]; did you mean fragment?"), "{message}");
    assert!(from_file("workers = 4").unwrap_err().starts_with("b.toml:1: workers: a key outside of a section"));
    assert!(from_file("[hls]\nfragment = 2\nfragment = 3").unwrap_err().starts_with("b.toml:3: "));
    let missing = load(&Sources { file: Some(PathBuf::from("/nowhere/b.toml")), ..Sources::default() }).unwrap_err();
    assert!(missing.to_string().starts_with("/nowhere/b.toml: cannot be read"));
}

#[test]
fn contradictions_name_the_line_of_the_key() {
    assert_eq!(
        from_file("[hls]\nfragment = 60\nwindow = 30").unwrap_err(),
        "b.toml:2: [hls] fragment = 1m is more than [hls] window = 30s"
    );
    assert_eq!(from_file("[http]\nlisten = 1935").unwrap_err().lines().count(), 2);
    assert!(from_file("[http]\nlisten = 0\n[rtmp]\nlisten = 0").is_ok());
    assert!(from_file("[server]\nworkers = 8\nworker_base_port = 65530").unwrap_err().contains("allowed: at most 65528"));
    assert_eq!(
        from_file("[http]\nproxy_protocol = 'on'").unwrap_err(),
        "b.toml:2: [http] proxy_protocol = \"on\" takes connections from [server] trusted_proxies alone, and that is empty"
    );
    assert!(from_file("[server]\ntrusted_proxies = ['10.0.0.0/8']\n[http]\nproxy_protocol = 'on'").is_ok());
    assert!(from_file("[server]\nvhosts = ['a/b']").unwrap_err().starts_with("b.toml:2: [server] vhosts: \"a/b\""));
}

#[test]
fn workers_are_named_by_id() {
    let config = from_file("[server]\nworkers = 3\n[[worker]]\nid = 3\nmax_publishers = 4\n[[worker]]\nid = 1\nweight = 2").unwrap();
    assert_eq!([1, 2, 3].map(|id| config.worker(id).effective_weight()), [2, 1, 4]);
    assert_eq!(
        from_file("[server]\nworkers = 2\n[[worker]]\nid = 1\n[[worker]]\nid = 1\n[[worker]]\nid = 3").unwrap_err(),
        "b.toml:8: [[worker]] id = 1 is there twice\nb.toml:8: [[worker]] id = 3: there are only 2 workers ([server] workers = 2)"
    );
    assert_eq!(from_file("[[worker]]\nweight = 1").unwrap_err(), "b.toml:1: [[worker]] without id; allowed: 1 to 253");
    assert_eq!(from_file("[[worker]]\nid = 0").unwrap_err(), "b.toml:2: [[worker]] id = 0: out of range; allowed: 1 to 253");
    assert_eq!(from_file("[worker]\nid = 1").unwrap_err(), "b.toml:1: [worker] is written [[worker]], once for each worker");
    let config = from_set("worker.1.max_publishers", "7").unwrap();
    assert_eq!(config.worker(1).max_publishers, 7);
    assert_eq!(from_environment(&[("BRAIDCAST_WORKER_1_WEIGHT", "7")]).unwrap().worker(1).weight, 7);
}

#[test]
fn every_key_has_a_variable_and_others_are_refused() {
    let all: Vec<(String, String)> = sections()
        .into_iter()
        .filter(|(section, ..)| !is_table(section))
        .flat_map(|(section, _, keys)| keys.into_iter().map(move |key| (load::variable_name(section, key.name), key.default)))
        .map(|(name, default)| {
            (name, default.replace(['"', '[', ']'], "").replace("::", "[::]").replace("[::]1:", "[::1]:").replace(", ", ","))
        })
        .collect();
    let loaded = load(&Sources { environment: all, ..Sources::default() }).map(|loaded| loaded.config);
    assert_eq!(loaded, Ok(Config::default()));
    assert_eq!(from_environment(&[("BRAIDCAST_LOG", "debug"), ("BRAIDCAST_TEST_X", "1")]), Ok(Config::default()));
    assert_eq!(
        from_environment(&[("BRAIDCAST_HLS_FRAGMNT", "2s"), ("BRAIDCAST_HLS_WINDOW", "x")]).unwrap_err(),
        "\
environment BRAIDCAST_HLS_FRAGMNT: no such setting; did you mean BRAIDCAST_HLS_FRAGMENT?
environment BRAIDCAST_HLS_WINDOW: [hls] window = x: not a duration (10, 2.5, \"500ms\", \"2m\"); allowed: 2s to 1d"
    );
}

#[test]
fn flags_that_set_nothing_are_refused() {
    assert_eq!(from_set("hls.fragmnt", "2").unwrap_err(), "--set hls.fragmnt=2: unknown key \"fragmnt\" in [hls]; did you mean fragment?");
    assert_eq!(from_set("hsl.fragment", "2").unwrap_err(), "--set hsl.fragment=2: unknown section [hsl]; did you mean [hls]?");
    assert!(from_set("fragment", "2").unwrap_err().contains("section.key=value"));
    assert!(from_set("worker.x.weight", "2").unwrap_err().contains("no worker's id"));
}

#[test]
fn forwards_and_pulls_are_tables_with_checked_addresses() {
    let text = "[[forward]]\nstreams = 'live/*'\nto = ['rtmp://a/live/{stream}?key=1', 'rtmp://b/x/y']\n[[forward]]\nstreams = '**'\nto = 'rtmp://c/{app}/{stream}'\n[[pull]]\nstream = 'live/*'\nfrom = 'http://o/live/{stream}.flv'\nstop_after = '5s'";
    let config = from_file(text).unwrap();
    assert_eq!((config.forward[0].to.0.len(), config.forward[1].to.0.len(), config.pull[0].stop_after), (2, 1, Span::secs(5)));
    assert_eq!(from_file(&config.to_toml()), Ok(config.clone()));
    assert_eq!(Config::from_json(&config.to_json()).unwrap(), config);
    assert_eq!(
        from_file("[[forward]]\nstreams = 'live'\nto = ['rtmp://a/b/c', 'rtmps://a/b/c']\nstream = 'x'\n[[pull]]\nform = 'x'\n[pull2]\n[forward2]").unwrap_err(),
        "\
b.toml:2: [[forward]] streams = \"live\": not app/stream (\"live/*\", \"live/news\"); allowed: `\"app/stream\"`, with stars
b.toml:3: [[forward]] to = [\"rtmp://a/b/c\", \"rtmps://a/b/c\"]: rtmps:// is not spoken yet: TLS to other servers is missing; allowed: URLs: `\"rtmp://host/app/{stream}\"`
b.toml:4: unknown key \"stream\" in [[forward]]; there is one in [[pull]]
b.toml:6: unknown key \"form\" in [[pull]]; did you mean from?
b.toml:7: unknown section [pull2]; did you mean [[pull]]?
b.toml:8: unknown section [forward2]; did you mean [[forward]]?
b.toml:5: [[pull]] without stream; allowed: `\"app/stream\"`, with stars
b.toml:5: [[pull]] without from; allowed: a URL: `\"rtmp://host/app/{stream}\"`, `\"http://host/app/{stream}.flv\"`, `\"https://host/x.m3u8\"`"
    );
    assert_eq!(from_file("[forward]\nstreams = 'a/b'").unwrap_err(), "b.toml:1: [forward] is written [[forward]], once for each forward");
}

#[test]
fn forwards_and_pulls_that_make_no_sense_are_refused() {
    let pull =
        |stream: &str, from: &str, when: &str| from_file(&format!("[[pull]]\nstream = '{stream}'\nfrom = '{from}'\nwhen = '{when}'"));
    assert!(pull("live/*", "rtmp://o/live/{stream}", "always").unwrap_err().contains("only one can be pulled"));
    assert!(pull("live/x", "rtmp://o/live/x", "always").is_ok());
    assert!(pull("live/x", "rtmp://127.0.0.1/live/y", "demand").unwrap_err().contains("this server itself"));
    assert!(pull("live/x", "http://localhost:8080/live/y.flv", "demand").unwrap_err().contains("this server itself"));
    assert!(pull("live/x", "http://localhost:8081/live/y.flv", "demand").is_ok());
    let twice = "[[pull]]\nstream = 'a/b'\nfrom = 'rtmp://o/a/b'\n[[pull]]\nstream = 'a/b'\nfrom = 'rtmp://p/a/b'";
    assert!(from_file(twice).unwrap_err().contains("is there twice"));
    assert!(
        from_file("[rtmp]\nlisten = []\n[[pull]]\nstream = 'a/b'\nfrom = 'http://o/x.m3u8'")
            .unwrap_err()
            .contains("[rtmp] listen is empty")
    );
}

#[test]
fn tables_are_named_by_their_place_in_variables_and_flags() {
    let flags = |list: &[(&str, &str)]| {
        let flags = list.iter().map(|(path, value)| (format!("--set {path}"), (*path).to_owned(), (*value).to_owned())).collect();
        load(&Sources { flags, ..Sources::default() }).map(|loaded| loaded.config).map_err(|problems| problems.to_string())
    };
    let config = flags(&[("forward.1.streams", "live/*"), ("forward.1.to", "rtmp://a/b/c,rtmp://d/e/f")]).unwrap();
    assert_eq!(config.forward[0].to.0.len(), 2);
    assert!(flags(&[("forward.2.streams", "live/*")]).unwrap_err().contains("no place of a [[forward]]; allowed: 1 to 1"));
    assert!(flags(&[("forward.1.streams", "live/*")]).unwrap_err().contains("[[forward]] without to"));
    let config = from_environment(&[("BRAIDCAST_PULL_1_FROM", "rtmp://a/b/c"), ("BRAIDCAST_PULL_1_STREAM", "b/c")]).unwrap();
    assert!(config.pull[0].stream.is_exact());
}

#[test]
fn the_documentation_is_not_stale() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
    let written = std::fs::read_to_string(&path).unwrap();
    assert!(written == markdown(), "docs/configuration.md is stale: cargo run -- config-docs > docs/configuration.md");
}

proptest::proptest! {
    #[test]
    fn no_file_panics_and_every_refusal_has_a_line(text in r#"(\[{0,2}(server|worker|hls|x)\]{0,2}\n|(workers|id|fragment|listen|é) ?= ?(-?[0-9]{1,30}|"[^"\n]{0,5}"|\[1, "a"\]|true|1979-05-27|\{ a = 1 \})\n|.{0,9}\n){0,6}"#) {
        if let Err(message) = from_file(&text) {
            for line in message.lines() {
                let place = line.strip_prefix("b.toml:").and_then(|rest| rest.split_once(": ")).and_then(|(number, _)| number.parse::<usize>().ok());
                proptest::prop_assert!(place.is_some_and(|number| number >= 1 && number <= text.lines().count() + 1), "{}", message);
            }
        }
    }
}

#[test]
fn secrets_come_from_files_too_and_are_never_shown() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"canary-4711\n").unwrap();
    let path = file.path().to_str().unwrap();
    let config = from_file(&format!(
        "[api]\ntoken_file = {path:?}\n[[api_user]]\nname = 'a'\npassword = 'canary-4712'\n[[api_user]]\nname = 'b'\npassword_file = {path:?}"
    ))
    .unwrap();
    assert!(config.api.token.matches("canary-4711") && config.api_user[0].password.matches("canary-4712"));
    assert!(config.api_user[1].password.matches("canary-4711"));
    for shown in [config.to_toml(), format!("{config:?}"), markdown()] {
        assert!(!shown.contains("canary"), "{shown}");
    }
    assert!(from_file(&config.to_toml()).unwrap_err().contains("[api] token = ***: this stands for a secret"));
    assert_eq!(Config::from_json(&config.to_json()).unwrap(), config);

    let from_variables = from_environment(&[("BRAIDCAST_API_TOKEN_FILE", path), ("BRAIDCAST_API_READ_TOKEN", "canary-4713")]).unwrap();
    assert!(from_variables.api.token.matches("canary-4711") && from_variables.api.read_token.matches("canary-4713"));
}

#[test]
fn a_wrong_secret_is_reported_without_it() {
    let on_command_line = from_set("api.token", "canary-4711").unwrap_err();
    assert!(on_command_line.starts_with("--set api.token=***: [api] token is a secret, and every user"), "{on_command_line}");
    let twice = from_file("[api]\ntoken = \"canary-4711\\u0007\"\n[[api_user]]\nname = 'x'\npassword = ['canary']").unwrap_err();
    assert!(twice.contains("[api] token = ***: control characters") && twice.contains("[[api_user]] password = ***: not text"), "{twice}");
    assert!(!twice.contains("canary"), "{twice}");
    let missing = from_set("api.token_file", "/nowhere/token").unwrap_err();
    assert!(missing.contains("[api] token_file = /nowhere/token: cannot be opened: No such file"), "{missing}");
}

#[test]
fn an_api_that_can_be_reached_from_elsewhere_asks_who_somebody_is() {
    for listen in ["1985", "'0.0.0.0:1985'", "['127.0.0.1:1985', '192.0.2.1:1985']", "'[::]:1985'"] {
        let alone = from_file(&format!("[api]\nlisten = {listen}")).unwrap_err();
        assert!(alone.starts_with("b.toml:2: [api] listen = ") && alone.contains("say [api] token or token_file"), "{alone}");
        for with in ["token = '0123456789abcdef'", "read_token = '0123456789abcdef'", "open = true"] {
            assert!(from_file(&format!("[api]\nlisten = {listen}\n{with}")).is_ok(), "{listen} {with}");
        }
        assert!(from_file(&format!("[api]\nlisten = {listen}\n[[api_user]]\nname = 'a'\npassword = 'b'")).is_ok());
    }
    for here in ["'127.0.0.1:1985'", "'[::1]:1985'", "'[::ffff:127.0.0.1]:1985'", "[]", "'localhost:0'"] {
        assert!(from_file(&format!("[api]\nlisten = {here}")).is_ok(), "{here}");
    }
}

#[test]
fn users_and_origins_that_make_no_sense_are_refused() {
    for (text, expected) in [
        ("[api]\ncors = '*'", "[api] cors = \"*\" would let every web page"),
        ("[api]\ncors = ['admin.example']", "[api] cors: \"admin.example\" is no origin"),
        ("[api]\ncors = ['https://admin.example/']", "is no origin"),
        ("[api]\ntoken = '0123456789abcdef'\nread_token = '0123456789abcdef'", "[api] read_token is the same as token"),
        ("[[api_user]]\nname = 'a:b'\npassword = 'x'", "has no colon"),
        ("[[api_user]]\nname = 'a'\npassword = ''", "[[api_user]] \"a\" has an empty password"),
        ("[[api_user]]\nname = 'a'", "[[api_user]] without password"),
        ("[[api_user]]\nname = 'a'\npassword = 'x'\n[[api_user]]\nname = 'a'\npassword = 'y'", "\"a\" is there twice"),
    ] {
        let error = from_file(text).unwrap_err();
        assert!(error.contains(expected), "{text}: {error}");
    }
    let loaded = load_text(std::path::Path::new("b.toml"), "[api]\nopen = true\ntoken = 'short'").unwrap();
    let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    assert!(warnings[0].contains("[api] open = true changes nothing") && warnings[1].contains("[api] token is shorter than 16 bytes"));
}
