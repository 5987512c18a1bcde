//! What hooks decide outlives the processes: nobody is asked twice about the same, and a stream goes on to where hooks have sent it.

use anyhow::{Context, Result, ensure};
use braidcast_e2e::hooks::{HookServer, Reply};
use braidcast_e2e::media::{self, Clip};
use braidcast_e2e::rtmp::RtmpClient;
use braidcast_e2e::tools::eventually;
use braidcast_e2e::{Server, ServerOptions, Viewer};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);
const EVENTS: [&str; 7] = ["on_connect", "on_close", "on_publish", "on_unpublish", "on_play", "on_stop", "on_forward"];

/// With a hook for everything. Workers may connect to `ports` though no rule names them.
fn hooked(hooks: &HookServer, ports: &[u16]) -> Result<Server> {
    let file = hooks.hook(&EVENTS, "timeout = '20s'\n") + &format!("[sandbox]\nconnect = {ports:?}\n");
    Server::start(ServerOptions { file, ..ServerOptions::workers(2) })
}

#[test]
fn a_question_that_is_under_way_when_processes_die_is_not_asked_twice() -> Result<()> {
    let released = Arc::new(AtomicBool::new(false));
    let gate = released.clone();
    let hooks = HookServer::start(move |heard| {
        let held = || heard.is_of("on_publish", "x") && !gate.load(Ordering::Relaxed);
        // The server answers one after the other: nobody else asks anything now.
        eventually(PATIENCE, || (!held()).then_some(()));
        if heard.is_of("on_publish", "no") { Reply::no() } else { Reply::yes() }
    })?;
    let mut server = hooked(&hooks, &[])?;
    let (url, said) = (server.rtmp("x"), Arc::new(AtomicBool::new(false)));
    let publisher = std::thread::spawn({
        let said = said.clone();
        move || {
            let client = RtmpClient::publish(&url);
            said.store(true, Ordering::Relaxed);
            client
        }
    });
    hooks.wait("on_publish", "x", 1)?;
    server.replace_front()?;
    let workers = 1..=2;
    workers.clone().try_for_each(|worker| server.kill_worker(worker))?;
    server.replace_front()?;
    ensure!(!said.load(Ordering::Relaxed), "it was told of success before it was decided");
    released.store(true, Ordering::Relaxed);
    let mut client = publisher.join().expect("no publisher panics").with_context(|| server.log_text())?;
    let records = Clip::Plain.records(5)?;
    records.iter().take(50).try_for_each(|record| client.push(record))?;
    server.wait_live("x")?;
    workers.clone().try_for_each(|worker| server.kill_worker(worker))?;
    client.end()?;
    drop(client);
    for action in ["on_connect", "on_publish", "on_forward", "on_unpublish"] {
        hooks.wait(action, "x", 1)?;
    }
    let refused = RtmpClient::publish(&server.rtmp("no"));
    let why = format!("{:#}", refused.err().context("a hook has refused it, and it publishes")?);
    ensure!(why.contains("NetStream.Publish.Denied"), "{why}");
    hooks.wait("on_connect", "no", 1)?;
    let closed = || hooks.heard().iter().filter(|heard| heard.action() == "on_close").count() == 2;
    eventually(PATIENCE, || closed().then_some(())).with_context(|| format!("not two closed: {:#?}", hooks.heard()))?;
    ensure!(hooks.of("on_unpublish", "no").is_empty() && hooks.of("on_forward", "no").is_empty(), "{:#?}", hooks.heard());
    eventually(PATIENCE, || (server.front_counter("hook_waiting") == 0).then_some(())).context("a question is still held")
}

#[test]
fn a_stream_goes_on_to_where_hooks_have_sent_it() -> Result<()> {
    let target = Server::start(ServerOptions::workers(1))?;
    let urls = [target.rtmp("copy"), "gopher://nowhere/live/x".to_owned()];
    let answer = serde_json::json!({ "code": 0, "data": { "urls": urls } }).to_string();
    let hooks = HookServer::start(move |heard| {
        let forward = heard.is_of("on_forward", "x").then(|| Reply::Say(200, answer.clone()));
        forward.unwrap_or_else(Reply::yes)
    })?;
    let mut server = hooked(&hooks, &[target.address("rtmp").port()])?;
    let publisher = media::publish_live(&server.rtmp("x"))?;
    target.wait_live("copy").with_context(|| server.log_text())?;
    server.wait_log(&["cannot be forwarded", "stream=live/x"])?;
    let viewer = Viewer::flv(target.address("http"), "live/copy.flv")?;
    viewer.wait_more(10)?;
    // By the worker's death, by the front's, and by a death that the new front has to make good.
    server.kill_worker(server.publisher_worker("x")?)?;
    viewer.wait_more(50).with_context(|| server.log_text())?;
    server.replace_front()?;
    server.kill_worker(server.publisher_worker("x")?)?;
    viewer.wait_more(50).with_context(|| server.log_text())?;
    drop(publisher);
    for action in ["on_publish", "on_forward", "on_unpublish"] {
        hooks.wait(action, "x", 1)?;
    }
    let state = || target.stream("copy").ok().flatten().map(|stream| stream["state"].clone());
    eventually(PATIENCE, || state().filter(|state| state != "live")).context("the copy goes on without its origin")?;
    Ok(())
}
