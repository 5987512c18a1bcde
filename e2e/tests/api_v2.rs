//! The native API over several workers: what is told, what is done, what happens, and who may.

use anyhow::{Context, Result, ensure};
use braidcast_e2e::api::Event;
use braidcast_e2e::rtmp::RtmpClient;
use braidcast_e2e::tools::{Answer, eventually};
use braidcast_e2e::{Api, Server, ServerOptions, Tool, Viewer};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::process::Command;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);
const CANARY: &str = "canary-4711";

fn push(server: &Server, name: &str) -> Result<Tool> {
    let url = format!("{}?token={CANARY}", server.rtmp(name));
    let arguments =
        "-v error -re -f lavfi -i testsrc=size=160x120:rate=25 -f lavfi -i sine -c:v libx264 -preset ultrafast -g 25 -c:a aac -f flv";
    Tool::start("ffmpeg", &arguments.split(' ').chain([url.as_str()]).collect::<Vec<_>>())
}

fn items(page: &Value) -> &[Value] {
    page["items"].as_array().map_or(&[], Vec::as_slice)
}

/// Waits until something is as it should be.
fn wait<T>(server: &Server, what: &str, mut ask: impl FnMut() -> Option<T>) -> Result<T> {
    eventually(PATIENCE, &mut ask).with_context(|| format!("{what}:\n{}", server.log_text()))
}

#[test]
fn everything_is_told_by_any_worker_and_done_at_the_right_one() -> Result<()> {
    let server = Server::start(ServerOptions::workers(3))?;
    let api = Api::at(server.address("api"));
    let mut follower = api.events("/api/v2/events?after=0")?;
    let mut some = api.events("/api/v2/events?kinds=publish,unpublish")?;
    let (_one, _other) = (push(&server, "one")?, push(&server, "other")?);
    for name in ["one", "other"] {
        server.wait_live(name)?;
    }
    let viewer = Viewer::flv(server.address("http"), "live/one.flv?token=canary-4711")?;
    viewer.wait_more(20)?;

    // Streams and sessions, page by page: whichever worker answers, the lists are the same.
    let stream = wait(&server, "a segment", || {
        api.get("/api/v2/streams/__defaultVhost__/live/one").ok().filter(|stream| stream["segment"].is_u64())
    })?;
    ensure!(stream["state"] == "live" && stream["video"] == "H.264" && stream["audio"] == "AAC", "{stream}");
    ensure!(stream["received_rate"].as_u64() > Some(0) && stream["segment_age_ms"].is_u64(), "{stream}");
    ensure!(stream["key_interval_ms"] == 1_000, "{stream}");
    ensure!(stream["tracks"][0]["kind"] == "video" && stream["tracks"][0]["width"] == 160, "{stream}");
    let (mut conns, mut after) = (Vec::new(), String::new());
    for _ in 0..3 {
        let page = api.get(&format!("/api/v2/sessions?limit=1{after}"))?;
        ensure!(page["total"] == 3 && items(&page).len() == 1, "{page}");
        conns.push(items(&page)[0].clone());
        after = format!("&after={}", page["next"].as_str().unwrap_or_default());
    }
    ensure!(conns.iter().map(|session| session["conn"].as_str()).collect::<HashSet<_>>().len() == 3, "{conns:?}");
    let kinds: HashSet<&str> = conns.iter().filter_map(|session| session["kind"].as_str()).collect();
    ensure!(kinds.contains("flv-play") && kinds.len() == 2, "{conns:?}");
    let workers = api.get("/api/v2/workers")?;
    ensure!(items(&workers).len() == 3 && api.get("/api/v2/workers/2")?["id"] == 2, "{workers}");
    ensure!(api.get("/api/v2/directory")?["bytes"].as_u64() > Some(0));
    let limits = api.get("/api/v2/limits")?;
    let used = limits["limits"].as_array().and_then(|limits| limits.iter().find(|limit| limit["key"] == "limits.connections").cloned());
    ensure!(used.is_some_and(|limit| limit["used"].as_u64() >= Some(3)), "{limits}");

    // One is ended, then all of a stream.
    let viewers = api.get("/api/v2/sessions?kind=flv-play&stream=live/one")?;
    let conn = items(&viewers)[0]["conn"].as_str().context("no viewer")?.to_owned();
    ensure!(api.json("DELETE", &format!("/api/v2/sessions/{conn}"), None, 202)? == json!({ "conns": [conn], "left": 0 }));
    wait(&server, "the viewer stays", || viewer.is_over().then_some(()))?;
    wait(&server, "its session stays", || (api.ask("GET", &format!("/api/v2/sessions/{conn}")).ok()?.status == 404).then_some(()))?;
    let kicked = api.json("POST", "/api/v2/sessions/kick", Some(&json!({ "stream": "live/other" })), 202)?;
    ensure!(kicked["conns"].as_array().is_some_and(|conns| conns.len() == 1), "{kicked}");
    let said: Vec<Event> = some.until(|event| event.kind == "unpublish" && event.data["stream"] == "other")?;
    ensure!(said.iter().all(|event| ["publish", "unpublish"].contains(&&*event.kind)), "{said:?}");

    // All that has happened was told, in order, and no secret of it.
    let events = follower.until(|event| event.kind == "unpublish")?;
    ensure!(events.iter().map(|event| event.id).eq(1..=events.len() as u64), "{events:?}");
    let told = |kind: &str| events.iter().find(|event| event.kind == kind).with_context(|| format!("no {kind} in {events:?}"));
    ensure!(told("play")?.data["session"]["kind"] == "flv-play" && told("front-started")?.data["pid"].is_u64());
    let all = [json!(conns), api.get("/api/v2/status")?, json!(events.iter().map(|event| &event.data).collect::<Vec<_>>())];
    ensure!(!all.iter().any(|told| told.to_string().contains(CANARY)), "a secret is told: {all:?}");
    Ok(())
}

#[test]
fn orders_are_carried_out_and_who_follows_the_events_misses_none() -> Result<()> {
    let mut server = Server::start(ServerOptions::workers(2))?;
    let api = Api::at(server.address("api"));
    let _publisher = push(&server, "one")?;
    server.wait_live("one")?;
    let mut followers: Vec<_> = (0..4).map(|_| api.events("/api/v2/events?after=0")).collect::<Result<_>>()?;
    let mut seen: Vec<Vec<Event>> =
        followers.iter_mut().map(|events| events.until(|event| event.kind == "publish")).collect::<Result<_>>()?;
    let last = |seen: &[Event]| seen.last().map_or(0, |event| event.id);
    let mut all_see = |seen: &mut Vec<Vec<Event>>, fits: &dyn Fn(&Event) -> bool| -> Result<()> {
        for (events, seen) in followers.iter_mut().zip(seen) {
            let more = events.until(fits)?;
            seen.extend(more);
            ensure!(seen.iter().map(|event| event.id).eq(1..=last(seen)), "an event is missing, or there twice: {seen:?}");
        }
        Ok(())
    };

    // Workers die, are drained, and all is read anew: the connections of those who follow stay.
    for worker in [1, 2] {
        server.kill_worker(worker)?;
        all_see(&mut seen, &|event| event.kind == "worker-ready" && event.data["worker"] == worker)?;
    }
    let pid = server.worker_pid(1)?;
    ensure!(
        api.json("POST", "/api/v2/workers/1/drain", None, 202)?["said"].as_str().is_some_and(|said| said.starts_with("worker 1 hands"))
    );
    all_see(&mut seen, &|event| event.kind == "worker-ready" && event.data["worker"] == 1)?;
    ensure!(server.worker_pid(1)? != pid, "it was not started anew");
    ensure!(api.json("POST", "/api/v2/workers/9/drain", None, 409)?["detail"].is_string());
    api.json("POST", "/api/v2/rebalance", None, 202)?;
    api.json("POST", "/api/v2/log-levels", Some(&json!({ "set": ["http=trace"] })), 202)?;
    ensure!(api.send("POST", "/api/v2/log-levels", Some(&json!({ "set": ["http=loud"] })))?.status == 400);
    let front = server.front_pid();
    api.json("POST", "/api/v2/reload", None, 202)?;
    all_see(&mut seen, &|event| event.kind == "front-started")?;
    wait(&server, "no other front", || (server.front_pid().is_some() && server.front_pid() != front).then_some(()))?;
    // The workers of the front before are replaced, one by one.
    for _ in 0..2 {
        all_see(&mut seen, &|event| event.kind == "worker-ready")?;
    }

    // A front that dies is missed by orders alone.
    wait(&server, "the front is not done", || {
        (server.front_counter("connections") > 0 && api.json("POST", "/api/v2/rebalance", None, 202).is_ok()).then_some(())
    })?;
    server.replace_front()?;
    all_see(&mut seen, &|event| event.kind == "front-started")?;
    // Who comes again says what it has.
    let had = last(&seen[0]);
    let mut again = api.with(format!("Last-Event-ID: {}", had - 2)).events("/api/v2/events")?;
    ensure!(again.read()?.id == had - 1);
    ensure!(server.workers_counter("refused_api_busy") == 0);
    Ok(())
}

#[test]
fn the_events_have_a_bounded_number_of_followers() -> Result<()> {
    let server = Server::start(ServerOptions::workers(1))?;
    let api = Api::at(server.address("api"));
    let mut followers = Vec::new();
    let refused = loop {
        ensure!(followers.len() < 1_000, "there is no limit");
        match api.events("/api/v2/events") {
            Ok(events) => followers.push(events),
            Err(_) => break api.ask("GET", "/api/v2/events")?,
        }
    };
    ensure!(refused.status == 503 && refused.head.contains("Retry-After: "), "{}", refused.head);
    ensure!(server.workers_counter("refused_api_busy") >= 1);
    followers.pop();
    wait(&server, "nobody else may follow", || api.events("/api/v2/events").ok())?;
    Ok(())
}

/// Users, tokens, an origin; not on the command line, where secrets are refused.
const GUARDED: &str = "[api]\ntoken = 'all-of-it-0123456789'\nread_token = 'read-of-it-0123456789'\ncors = ['https://admin.example']\nfailures = 4\n\
    [[api_user]]\nname = 'adam'\npassword = 'apple'\nrole = 'admin'\n";

#[test]
fn who_may_is_asked_before_all_of_the_api() -> Result<()> {
    let server = Server::start(ServerOptions { file: GUARDED.into(), ..ServerOptions::workers(2) })?;
    let nobody = Api::at(server.address("api"));
    let (all, read) = (nobody.token("all-of-it-0123456789"), nobody.token("read-of-it-0123456789"));
    let user = nobody.with("Authorization: Basic YWRhbTphcHBsZQ==");
    let paths = ["/api/v2/status", "/api/v2/events", "/api/v1/clients", "/api/v1/versions", "/api/v2/nothing", "/api/"];
    for path in paths {
        let refused = nobody.ask("GET", path)?;
        ensure!(refused.status == 401 && refused.head.contains("WWW-Authenticate: Basic realm="), "{path}: {}", refused.head);
        ensure!(!refused.head.contains("Access-Control-Allow-Origin"), "{path}: {}", refused.head);
    }
    for path in ["/api/v2/openapi.json", "/api/v2/docs"] {
        ensure!(nobody.ask("GET", path)?.status == 200, "{path}");
    }
    for (who, change) in [(&all, 202), (&read, 403), (&user, 202)] {
        for path in ["/api/v2/status", "/api/v1/clients", "/api/v1/versions"] {
            ensure!(who.ask("GET", path)?.status == 200, "{path} {who:?}");
        }
        ensure!(who.ask("POST", "/api/v2/rebalance")?.status == change, "{who:?}");
        let kick = who.ask("DELETE", "/api/v1/clients/c999")?.status;
        ensure!(kick == if change == 403 { 403 } else { 200 }, "{who:?}: {kick}");
    }

    // Web pages.
    let listed = all.with("Origin: https://admin.example");
    let answer = listed.ask("GET", "/api/v2/workers")?;
    ensure!(answer.status == 200 && answer.head.contains("Access-Control-Allow-Origin: https://admin.example\r\n"), "{}", answer.head);
    let preflight =
        nobody.with("Origin: https://admin.example").with("Access-Control-Request-Method: DELETE").ask("OPTIONS", "/api/v2/sessions/c1")?;
    ensure!(
        preflight.status == 204 && preflight.head.contains("Access-Control-Allow-Methods: GET, HEAD, POST, DELETE"),
        "{}",
        preflight.head
    );
    for origin in ["https://evil.example", "null"] {
        let other = all.with(format!("Origin: {origin}"));
        for method in ["GET", "OPTIONS", "DELETE"] {
            let answer = other.ask(method, "/api/v2/sessions/c1")?;
            ensure!(answer.status == 403 && !answer.head.contains("Access-Control-Allow-Origin"), "{origin} {method}: {}", answer.head);
        }
    }
    // The page with the streams goes on as before: it is not the API.
    ensure!(Api::at(server.address("http")).ask("GET", "/streams.json")?.status == 200);
    Ok(())
}

#[test]
fn wrong_tokens_are_counted_over_all_workers() -> Result<()> {
    let mut server = Server::start(ServerOptions { file: GUARDED.into(), ..ServerOptions::workers(3) })?;
    let api = Api::at(server.address("api"));
    let wrong = api.token("wrong-of-it-0123456789");
    let answers: Vec<Answer> = (0..4).map(|_| wrong.ask("GET", "/api/v2/status")).collect::<Result<_>>()?;
    ensure!(answers.iter().all(|answer| answer.status == 401), "{:?}", answers.iter().map(|answer| answer.status).collect::<Vec<_>>());
    let right = api.token("all-of-it-0123456789");
    let held = |answer: Answer| -> Result<()> {
        let after = answer.head.lines().find_map(|line| line.strip_prefix("Retry-After: ")?.parse::<u64>().ok());
        ensure!(answer.status == 429 && after.is_some_and(|after| (1..=60).contains(&after)), "{}", answer.head);
        Ok(())
    };
    // Whichever worker is asked, and also when all of them are others.
    for _ in 0..6 {
        held(right.ask("GET", "/api/v2/status")?)?;
    }
    for worker in 1..=3 {
        server.kill_worker(worker)?;
    }
    server.replace_front()?;
    held(right.ask("GET", "/api/v1/summaries")?)?;
    ensure!(api.ask("GET", "/api/v2/openapi.json")?.status == 200, "the document needs no credentials");
    ensure!(server.workers_counter("refused_api_failures") > 0);
    server.wait_log(&["API request refused", "too many wrong tokens"])?;
    ensure!(!server.log_text().contains("of-it-0123456789"), "a token is in the log");
    Ok(())
}

#[test]
fn an_api_for_everybody_needs_a_word_and_one_for_this_machine_is_not_for_others() -> Result<()> {
    let check = |arguments: &[&str]| -> Result<String> {
        let output = Command::new(braidcast_e2e::server::binary()).arg("check").args(arguments).output()?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let refused = check(&["--api", "0.0.0.0:0"])?;
    ensure!(refused.contains("error") && refused.contains("[api] listen = 0.0.0.0:0 can be reached from elsewhere"), "{refused}");
    ensure!(!check(&["--api", "0.0.0.0:0", "--set", "api.open=true"])?.contains("can be reached"));
    ensure!(Server::start(ServerOptions::workers(1).argument("--api").argument("0.0.0.0:0")).is_err(), "it starts all the same");

    let options = ServerOptions::workers(2).set("server.trusted_proxies=127.0.0.1");
    let server = Server::start(options)?;
    let api = Api::at(server.address("api"));
    ensure!(api.ask("GET", "/api/v2/status")?.status == 200);
    ensure!(api.with("X-Forwarded-For: 192.0.2.7").ask("GET", "/api/v2/status")?.status == 403, "a proxy lets others in");
    ensure!(api.with("Host: rebound.example").ask("GET", "/api/v2/status")?.status == 403, "a name is rebound");
    ensure!(api.with("Origin: https://evil.example").ask("DELETE", "/api/v2/sessions/c1")?.status == 403, "a web page gives orders");
    ensure!(server.workers_counter("refused_api_origins") >= 3);
    // A publisher is not harmed by any of it.
    let _publisher = RtmpClient::publish(&server.rtmp("one"))?;
    Ok(())
}
