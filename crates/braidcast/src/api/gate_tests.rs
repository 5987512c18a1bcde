//! Everybody at the gate: from this machine and elsewhere, with and without credentials, from web pages.

#![allow(clippy::unwrap_used)]

use super::*;
use braidcast_protocols::http::{RequestReader, Settings};

struct Site {
    _directory: tempfile::TempDir,
    failures: Failures,
    gate: Gate,
}

impl Site {
    fn new(toml: &str) -> Self {
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        std::fs::create_dir(directory.path().join("workers")).unwrap();
        let config = crate::config::load_text(std::path::Path::new("x.toml"), toml).unwrap().config;
        Self { failures: Failures::open(directory.path()).unwrap(), gate: Gate::new(&config), _directory: directory }
    }

    fn asks_at(&self, now_s: u64, method: &str, from: &str, host: &str, fields: &str) -> Verdict {
        self.gate.judge(&request(method, host, fields), from.parse().unwrap(), false, &self.failures, now_s)
    }

    fn asks(&self, method: &str, from: &str, fields: &str) -> Verdict {
        self.asks_at(1, method, from, "127.0.0.1:1985", fields)
    }
}

fn request(method: &str, host: &str, fields: &str) -> Request {
    let mut reader = RequestReader::new(Settings { keeps_all: true, ..Settings::default() });
    reader.handle_input(format!("{method} /api/v2/workers HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n").as_bytes()).unwrap();
    reader.poll_request().unwrap()
}

const HERE: &str = "127.0.0.1";
const ELSEWHERE: &str = "192.0.2.7";
const WITH_ALL: &str = "[api]\nlisten = 1985\ntoken = 'all-of-it-0123456789'\nread_token = 'read-of-it-0123456789'\nfailures = 3\n\
    [[api_user]]\nname = 'eve'\npassword = 'pass:word'\n[[api_user]]\nname = 'adam'\npassword = 'apple'\nrole = 'admin'\n";

fn basic(text: &str) -> String {
    format!("Authorization: Basic {}\r\n", STANDARD.encode(text))
}

#[test]
fn on_loopback_nothing_is_asked_for_but_who_comes_from_elsewhere_is_refused() {
    let site = Site::new("");
    for from in [HERE, "::1", "::ffff:127.0.0.1"] {
        assert_eq!(site.asks("DELETE", from, ""), Verdict::Admitted, "{from}");
    }
    // Whom a proxy on this machine has named.
    assert_eq!(site.asks("GET", ELSEWHERE, ""), Verdict::Refused(Refusal::Elsewhere));
    for host in ["localhost", "localhost:1985", "[::1]:1985", "[::1]", "127.0.0.1", "192.0.2.1:80"] {
        assert_eq!(site.asks_at(1, "GET", HERE, host, ""), Verdict::Admitted, "{host}");
    }
    for host in ["evil.example", "evil.example:1985", "localhost.evil.example", "127.0.0.1.evil.example"] {
        assert_eq!(site.asks_at(1, "GET", HERE, host, ""), Verdict::Refused(Refusal::Host), "{host}");
    }
    let open = Site::new("[api]\nlisten = 1985\nopen = true\n");
    assert_eq!(open.asks_at(1, "DELETE", ELSEWHERE, "api.example", ""), Verdict::Admitted);
}

#[test]
fn tokens_and_users_have_their_roles() {
    let site = Site::new(WITH_ALL);
    let (all, read) = ("Authorization: Bearer all-of-it-0123456789\r\n", "authorization: bearer  read-of-it-0123456789\r\n");
    for (fields, may_read, may_change) in
        [(all, true, true), (read, true, false), (&*basic("eve:pass:word"), true, false), (&*basic("adam:apple"), true, true)]
    {
        for from in [HERE, ELSEWHERE] {
            assert_eq!(site.asks("GET", from, fields) == Verdict::Admitted, may_read, "{fields}");
            assert_eq!(site.asks("HEAD", from, fields) == Verdict::Admitted, may_read, "{fields}");
            let changed = site.asks("DELETE", from, fields);
            assert_eq!(changed, if may_change { Verdict::Admitted } else { Verdict::Refused(Refusal::ReadOnly) }, "{fields}");
        }
    }
    assert_eq!(site.asks("GET", HERE, ""), Verdict::Refused(Refusal::Nobody { users: true }));
}

#[test]
fn wrong_credentials_are_refused_and_after_a_few_not_even_looked_at() {
    let right = basic("adam:apple");
    for wrong in [
        "Authorization: Bearer all-of-it-012345678\r\n".to_owned(),
        "Authorization: Bearer \r\n".into(),
        "Authorization: Bearer\r\n".into(),
        "Authorization: all-of-it-0123456789\r\n".into(),
        "Authorization: Basic all-of-it-0123456789\r\n".into(),
        basic("adam:pass:word"),
        basic("adam:"),
        basic(":apple"),
        basic("adamapple"),
        basic("Adam:apple"),
        basic("adam:apple\0"),
    ] {
        let site = Site::new(WITH_ALL);
        for _ in 0..3 {
            assert_eq!(site.asks("GET", ELSEWHERE, &wrong), Verdict::Refused(Refusal::Wrong { users: true }), "{wrong}");
        }
        assert_eq!(site.asks_at(11, "GET", ELSEWHERE, "h", &right), Verdict::Refused(Refusal::TooMany { after_s: 50 }));
        assert_eq!(site.asks_at(11, "GET", HERE, "h", &right), Verdict::Admitted, "others are");
        assert_eq!(site.asks_at(61, "GET", ELSEWHERE, "h", &right), Verdict::Admitted);
    }
}

#[test]
fn who_sends_no_credentials_is_not_counted_and_sees_the_shape_of_the_api() {
    let site = Site::new(WITH_ALL);
    for _ in 0..100 {
        assert_eq!(site.asks("GET", ELSEWHERE, ""), Verdict::Refused(Refusal::Nobody { users: true }));
    }
    let shape = |method| site.gate.judge(&request(method, "h", ""), ELSEWHERE.parse().unwrap(), true, &site.failures, 1);
    assert_eq!((shape("GET"), shape("POST")), (Verdict::Admitted, Verdict::Refused(Refusal::ReadOnly)));
}

#[test]
fn web_pages_of_other_origins_are_refused_unless_they_are_listed() {
    let listed = "[api]\ncors = ['https://admin.example', 'http://[::1]:3000']\n";
    let origins = |site: &Site, origin: &str| site.gate.origins(&request("GET", "127.0.0.1:1985", &format!("Origin: {origin}\r\n")));
    for (toml, origin, allowed, named) in [
        ("", "https://admin.example", false, false),
        ("", "null", false, false),
        ("", "http://127.0.0.1:1985", true, false),
        ("", "http://127.0.0.1:1986", false, false),
        (listed, "https://admin.example", true, true),
        (listed, "http://admin.example", false, false),
        (listed, "https://admin.example.evil.example", false, false),
        (listed, "http://[::1]:3000", true, true),
        ("[api]\ncors = '*'\ntoken = '0123456789abcdef'\n", "https://any.example", true, true),
        ("[api]\ncors = '*'\ntoken = '0123456789abcdef'\n", "null", false, false),
    ] {
        let site = Site::new(toml);
        let fields = format!("Origin: {origin}\r\nAuthorization: Bearer 0123456789abcdef\r\n");
        for method in ["GET", "POST"] {
            assert_eq!(site.asks(method, HERE, &fields) == Verdict::Admitted, allowed, "{toml} {origin}");
        }
        let preflight = site.asks("OPTIONS", HERE, &format!("Origin: {origin}\r\n"));
        assert_eq!(preflight == Verdict::Preflight, allowed, "{toml} {origin}");
        let expected = if named { Origins::This(origin.to_owned()) } else { Origins::Own };
        assert_eq!(origins(&site, origin), expected, "{toml} {origin}");
    }
}

#[test]
fn refusals_say_what_to_do() {
    let nobody = Refusal::Nobody { users: true }.answer();
    assert_eq!(nobody.status, Status::UNAUTHORIZED);
    assert!(nobody.fields[0].1.starts_with("Basic realm=\"braidcast\""), "{nobody:?}");
    assert_eq!(Refusal::Wrong { users: false }.answer().fields[0].1, "Bearer realm=\"braidcast\"");
    let held = Refusal::TooMany { after_s: 7 }.answer();
    assert_eq!((held.status, held.fields), (Status::TOO_MANY_REQUESTS, vec![("Retry-After", "7".to_owned())]));
}

#[test]
fn metrics_are_free_on_loopback_and_elsewhere_ask_if_there_is_anything_to_ask_for() {
    let asks = |site: &Site, on_loopback, host: &str, fields: &str| {
        site.gate.judge_metrics(&request("GET", host, fields), ELSEWHERE.parse().unwrap(), on_loopback, &site.failures, 1)
    };
    let (bare, site) = (Site::new(""), Site::new(WITH_ALL));
    for gate in [&bare, &site] {
        assert_eq!(asks(gate, true, "localhost:9972", ""), Verdict::Admitted);
        assert_eq!(asks(gate, true, "evil.example:9972", ""), Verdict::Refused(Refusal::Host));
    }
    assert_eq!(asks(&bare, false, "braidcast.example:9972", ""), Verdict::Admitted);
    assert_eq!(asks(&site, false, "braidcast.example:9972", ""), Verdict::Refused(Refusal::Nobody { users: true }));
    let read = "Authorization: Bearer read-of-it-0123456789\r\n";
    assert_eq!(asks(&site, false, "braidcast.example:9972", read), Verdict::Admitted);
    assert!(matches!(asks(&site, false, "h", "Authorization: Bearer read-of-it-012345678\r\n"), Verdict::Refused(Refusal::Wrong { .. })));
}
