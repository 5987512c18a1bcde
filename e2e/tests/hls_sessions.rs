//! HLS viewers as sessions: begun once, served by any worker, gone on with whoever dies, ended when they ask for nothing more; hooks hear
//! of each once.

use anyhow::{Context, Result, ensure};
use braidcast_e2e::hooks::{HookServer, Reply};
use braidcast_e2e::tools::{Answer, eventually, http};
use braidcast_e2e::{Server, ServerOptions, http_get, media};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

fn options() -> ServerOptions {
    let options = ServerOptions { sub_ports: true, ..ServerOptions::workers(3) };
    options.set("hls.sessions=always").set("hls.fragment=1s").set("hls.window=3s")
}

fn ask(address: SocketAddr, path: &str) -> Result<Answer> {
    http_get(&format!("http://{address}/live/{path}"))
}

/// The URI of the one variant of an index, or the first segment's.
fn first_uri(answer: &Answer) -> Result<String> {
    ensure!(answer.status == 200, "{}", answer.head);
    answer.text().lines().find(|line| !line.starts_with('#')).map(str::to_owned).with_context(|| answer.text())
}

/// Begins a session; the URI of its index.
fn begin(address: SocketAddr, name: &str) -> Result<String> {
    let variant = first_uri(&ask(address, &format!("{name}.m3u8?token=t"))?)?;
    ensure!(variant.starts_with(&format!("{name}.m3u8?hls_ctx=")) && variant.ends_with("&token=t"), "{variant}");
    Ok(variant)
}

fn sessions(server: &Server) -> Result<Vec<Value>> {
    let answer = http_get(&format!("http://{}/api/v1/clients?count=100", server.address("api")))?;
    let body: Value = serde_json::from_slice(&answer.body)?;
    let list = body["clients"].as_array().context("no list")?;
    Ok(list.iter().filter(|client| client["type"] == "hls-play").cloned().collect())
}

fn wait_sessions(server: &Server, count: usize) -> Result<Vec<Value>> {
    let found = eventually(PATIENCE, || sessions(server).ok().filter(|found| found.len() == count));
    found.with_context(|| format!("{count} sessions were to be: {:?}", sessions(server)))
}

/// How often the event log tells of this kind for a client.
fn told(server: &Server, kind: &str, conn: &Value) -> usize {
    let files = std::fs::read_dir(server.shared_dir.join("events")).into_iter().flatten().flatten();
    let text: String = files
        .filter(|file| file.path().extension().is_some_and(|end| end == "jsonl"))
        .filter_map(|file| std::fs::read_to_string(file.path()).ok())
        .collect();
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["kind"] == kind && line["conn"] == *conn).count()
}

#[test]
fn a_session_is_one_viewer_in_whichever_worker_and_whoever_dies() -> Result<()> {
    let mut server = Server::start(options())?;
    let _publisher = media::publish_live(&server.rtmp("x"))?;
    server.wait_live("x")?;
    let ports = [1, 2, 3].map(|worker| server.sub_port(worker));
    let variant = begin(ports[0], "x")?;
    let serves = |server: &Server| -> Result<u64> {
        let mut bytes = 0;
        for worker in 1..=3 {
            let index = ask(server.sub_port(worker), &variant)?;
            let segment = ask(server.sub_port(worker), &first_uri(&index)?)?;
            ensure!(segment.status == 200, "{}", segment.head);
            bytes += (index.body.len() + segment.body.len()) as u64;
        }
        Ok(bytes)
    };
    let bytes = serves(&server)?;
    let [session] = &wait_sessions(&server, 1)?[..] else { anyhow::bail!("not one session") };
    ensure!(session["send_bytes"] == bytes && session["name"] == "x" && session["publish"] == false, "{bytes}: {session}");
    let id = session["id"].clone();

    for worker in 1..=3 {
        server.kill_worker(worker)?;
    }
    serves(&server)?;
    server.replace_front()?;
    eventually(PATIENCE, || serves(&server).ok()).context("the session did not survive the front")?;
    let [session] = &wait_sessions(&server, 1)?[..] else { anyhow::bail!("not one session") };
    ensure!(session["id"] == id && session["send_bytes"].as_u64() > Some(bytes), "{session}");
    ensure!((told(&server, "play", &id), told(&server, "stop", &id)) == (1, 0));

    // It asks for nothing any more: it ends, and begins anew when it is back.
    wait_sessions(&server, 0)?;
    ensure!((told(&server, "play", &id), told(&server, "stop", &id)) == (1, 1));
    serves(&server)?;
    // Another worker may answer from what it saw a moment ago.
    let anew = || sessions(&server).ok().filter(|found| found.len() == 1 && found[0]["id"] != id);
    eventually(PATIENCE, anew).with_context(|| format!("no session began anew: {:?}", sessions(&server))).map(drop)
}

#[test]
fn files_are_for_sessions_and_a_kicked_one_is_refused_by_every_worker() -> Result<()> {
    let server = Server::start(options())?;
    let _publisher = media::publish_live(&server.rtmp("x"))?;
    server.wait_live("x")?;
    let variant = begin(server.sub_port(1), "x")?;
    let segment = first_uri(&ask(server.sub_port(2), &variant)?)?;
    let (file, _) = segment.split_once('?').context("no query")?;
    for query in ["", "?hls_ctx=guessed", "?token=t"] {
        ensure!(ask(server.sub_port(3), &format!("{file}{query}"))?.status == 403, "{query}");
    }
    ensure!(ask(server.sub_port(3), &segment)?.status == 200);
    // What another stream's session has opened opens nothing here.
    let _other = media::publish_live(&server.rtmp("y"))?;
    server.wait_live("y")?;
    let other = begin(server.sub_port(1), "y")?;
    let context = other.split(['=', '&']).nth(1).context("no context")?;
    ensure!(ask(server.sub_port(1), &format!("{file}?hls_ctx={context}"))?.status == 403);

    let x = wait_sessions(&server, 2)?.into_iter().find(|session| session["name"] == "x").context("no session of x")?;
    let id = x["id"].as_str().context("no id")?;
    let kicked = http("DELETE", &format!("http://{}/api/v1/clients/{id}", server.address("api")))?;
    ensure!(kicked.status == 200, "{}", kicked.text());
    let refused = || ask(server.sub_port(1), &variant).is_ok_and(|answer| answer.status == 403);
    eventually(PATIENCE, || refused().then_some(())).context("a kicked session goes on")?;
    for worker in 1..=3 {
        for path in [&variant, &segment] {
            ensure!(ask(server.sub_port(worker), path)?.status == 403, "worker {worker}: {path}");
        }
    }
    ensure!((told(&server, "play", &json!(id)), told(&server, "stop", &json!(id))) == (1, 1));
    Ok(())
}

#[test]
fn hooks_hear_of_a_session_once_and_may_refuse_it() -> Result<()> {
    let hooks = HookServer::start(|heard| match heard.is_of("on_play", "no") {
        true => Reply::no(),
        false => Reply::yes(),
    })?;
    let file = hooks.hook(&["on_play", "on_stop"], "");
    let options = ServerOptions { file, sub_ports: true, ..ServerOptions::workers(2) };
    let server = Server::start(options.set("hls.fragment=1s").set("hls.window=2s"))?;
    let publishers = [media::publish_live(&server.rtmp("yes"))?, media::publish_live(&server.rtmp("no"))?];
    server.wait_live("yes")?;
    server.wait_live("no")?;
    ensure!(ask(server.sub_port(1), "no.m3u8")?.status == 403, "a hook's no was not heard");
    let variant = begin(server.sub_port(1), "yes")?;
    for worker in [1, 2, 1, 2] {
        let segment = first_uri(&ask(server.sub_port(worker), &variant)?)?;
        ensure!(ask(server.sub_port(worker), &segment)?.status == 200);
    }
    let play = hooks.wait("on_play", "yes", 1)?.remove(0).body;
    ensure!(play["param"] == "?token=t" && play["ip"] == "127.0.0.1", "{play}");
    let stop = hooks.wait("on_stop", "yes", 1)?.remove(0).body;
    ensure!(stop["client_id"] == play["client_id"], "{stop}");
    ensure!(hooks.of("on_stop", "no").is_empty(), "it never began");
    drop(publishers);
    Ok(())
}
