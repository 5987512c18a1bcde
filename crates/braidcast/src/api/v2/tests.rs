//! Answers from a shared directory with clients in it.

use super::endpoints::{PREFIX, Verb, find};
use super::*;
use crate::clients::{Description, Kind as ClientKind};
use crate::control::Listener;
use crate::events::{Event, Line};
use crate::saved::RowId;
use proptest::prelude::*;
use serde_json::{Value, json};

const CANARY: &str = "canary-4711";

struct Site {
    directory: tempfile::TempDir,
    table: Table,
    library: Library,
}

fn description(stream: &str, client: &str, kind: ClientKind) -> Description {
    Description {
        kind,
        listener: Listener::Rtmp,
        peer: client.parse().unwrap(),
        key: Some(StreamKey::new(DEFAULT_VHOST, "live", stream).unwrap()),
        tc_url: format!("rtmp://h/live?token={CANARY}"),
        page_url: format!("https://page.example/x?token={CANARY}"),
        swf_url: format!("x?{CANARY}"),
        param: format!("token={CANARY}"),
        agent: "LNX".into(),
        context: CANARY.into(),
    }
}

impl Site {
    fn new() -> Self {
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        std::fs::create_dir(directory.path().join("sessions")).unwrap();
        let mut config = Config::default();
        config.server.shared_dir = directory.path().to_owned();
        Self { table: Table::create(directory.path()).unwrap(), library: Library::new(&config), directory }
    }

    fn with(clients: &[(u64, &str, &str, ClientKind)]) -> Self {
        let mut site = Self::new();
        for (row, (conn, stream, client, kind)) in clients.iter().enumerate() {
            let row = RowId(u32::try_from(clients.len() - row).unwrap());
            site.table.provide(row).unwrap();
            site.table.describe(row, ConnId(*conn), &description(stream, client, *kind), 1_000);
            site.table.begin(row, 2_000);
        }
        site
    }

    fn ask(&self, verb: Verb, path: &str, query: &str, body: &Value) -> (u16, Value, Vec<u64>) {
        let found = find(Some(verb), &format!("{PREFIX}{path}"), query).ok().unwrap();
        let (answer, kicked) = match self.library.outcome(&found, body.to_string().as_bytes()) {
            Outcome::Answer(answer) => (answer, Vec::new()),
            Outcome::Kick(conns, answer) => (answer, conns.into_iter().map(|conn| conn.0).collect()),
        };
        (answer.status.0, serde_json::from_slice(&answer.body).unwrap(), kicked)
    }

    fn get(&self, path: &str, query: &str) -> (u16, Value) {
        let (status, body, kicked) = self.ask(Verb::Get, path, query, &Value::Null);
        assert!(kicked.is_empty());
        (status, body)
    }
}

fn conns(page: &Value) -> Vec<&str> {
    page["items"].as_array().unwrap().iter().map(|session| session["conn"].as_str().unwrap()).collect()
}

fn three() -> Site {
    Site::with(&[
        (100, "a", "192.0.2.1:5000", ClientKind::FmlePublish),
        (9, "a", "[::ffff:192.0.2.2]:5001", ClientKind::FlvPlay),
        (20, "b", "[2001:db8::1]:1", ClientKind::FlvPlay),
    ])
}

#[test]
fn sessions_are_listed_by_connection_and_found_by_what_they_are() {
    let site = three();
    let (status, page) = site.get("/sessions", "");
    assert_eq!((status, conns(&page), &page["total"], &page["next"]), (200, vec!["c9", "c20", "c100"], &json!(3), &Value::Null));
    assert_eq!(page["items"][2]["kind"], "fmle-publish");
    for (query, expected) in [
        ("stream=live/a", &["c9", "c100"][..]),
        ("stream=__defaultVhost__/live/b", &["c20"]),
        ("client=192.0.2.2", &["c9"]),
        ("client=2001:db8::1", &["c20"]),
        ("kind=flv-play", &["c9", "c20"]),
        ("kind=flv-play&stream=live/a", &["c9"]),
        ("stream=live/c", &[]),
    ] {
        assert_eq!(conns(&site.get("/sessions", query).1), expected, "{query}");
    }
    for wrong in ["stream=a", "client=here", "stream=a//b"] {
        assert_eq!(site.get("/sessions", wrong).0, 400, "{wrong}");
    }
    assert_eq!(site.get("/sessions/c20", "").1["stream"], "b");
    assert_eq!(site.get("/sessions/c21", "").0, 404);
}

#[test]
fn nothing_that_may_be_a_secret_is_told() {
    let mut site = three();
    let told = [site.get("/sessions", "").1, site.get("/sessions/c20", "").1];
    let record = site.table.read(RowId(1)).unwrap();
    let event = Event { record: Some(serde_json::to_value(&record).unwrap()), ..Event::new(Kind::Publish) };
    assert!(serde_json::to_string(&event).unwrap().contains(CANARY), "the record has them");
    let public = types::public(&Line { id: 7, at_ms: 8, event });
    assert_eq!(
        (&public["id"], &public["kind"], &public["session"]["page_url"]),
        (&json!(7), &json!("publish"), &json!("https://page.example/x"))
    );
    for told in told.iter().chain([&public]) {
        assert!(!told.to_string().contains(CANARY), "{told}");
    }
}

#[test]
fn those_are_ended_who_fit_and_nobody_if_nothing_is_said() {
    let site = three();
    let kick = |body: Value| site.ask(Verb::Post, "/sessions/kick", "", &body);
    let (status, body, kicked) = kick(json!({ "stream": "live/a" }));
    assert_eq!((status, body, kicked), (202, json!({ "conns": ["c9", "c100"], "left": 0 }), vec![9, 100]));
    assert_eq!(kick(json!({ "client": "192.0.2.2", "kind": "flv-play" })).2, [9]);
    assert_eq!(kick(json!({ "client": "192.0.2.9" })).2, [0; 0]);
    for wrong in [json!({}), json!([]), json!({ "stream": "a" }), json!({ "client": "x" }), json!({ "strem": "live/a" }), json!(null)] {
        let (status, body, kicked) = kick(wrong.clone());
        assert_eq!((status, kicked), (400, vec![]), "{wrong} {body}");
    }
    assert_eq!(site.ask(Verb::Delete, "/sessions/c20", "", &Value::Null).2, [20]);
    assert_eq!(site.ask(Verb::Delete, "/sessions/c21", "", &Value::Null).0, 404);
}

#[test]
fn what_cannot_be_read_is_an_error_of_ours() {
    let site = Site::new();
    let (status, body) = site.get("/workers", "");
    assert_eq!((status, &body["status"]), (500, &json!(500)), "there is no front's page");
    std::fs::remove_dir_all(site.directory.path()).unwrap();
    assert_eq!(site.get("/sessions", "").0, 500);
}

#[test]
fn limits_name_keys_and_counters_that_there_are() {
    // A key that there is not would be a panic.
    let values = limits::Values::of(&Config::default());
    assert!(format!("{values:?}").contains("1m"));
}

proptest! {
    #[test]
    fn pages_together_are_the_whole_whatever_comes_and_goes(
        mut numbers in prop::collection::btree_set(0u64..500, 0..40),
        limit in 1usize..9,
        gone in prop::collection::vec(0u64..500, 0..10),
    ) {
        let (mut seen, mut after) = (Vec::new(), String::new());
        let whole = numbers.clone();
        for round in 0.. {
            let query = if after.is_empty() { format!("limit={limit}") } else { format!("limit={limit}&after={after}") };
            let found = find(Some(Verb::Get), "/api/v2/workers", &query).ok().unwrap();
            let all: Vec<u64> = numbers.iter().copied().collect();
            let page = page(&found, &all, |number| format!("{number:05}"), ToString::to_string);
            prop_assert!(page.items.len() <= limit && page.total == all.len());
            seen.extend(page.items.into_iter().copied());
            match page.next {
                Some(next) => after = next,
                None => break,
            }
            if let Some(number) = gone.get(round) {
                numbers.remove(number);
            }
        }
        prop_assert!(seen.is_sorted() && seen.windows(2).all(|two| two[0] != two[1]));
        prop_assert!(whole.iter().all(|number| seen.contains(number) || gone.contains(number)));
    }
}
