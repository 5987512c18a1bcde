//! SRS's HTTP API over three workers: every endpoint's fields and types, the same from whichever worker, before and after a takeover; clients
//! of all kinds that are kicked; no secret of a client in any answer.

use anyhow::{Context, Result, ensure};
use braidcast_e2e::tools::{eventually, http};
use braidcast_e2e::{Server, ServerOptions, Tool, Viewer, http_get, media};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);
/// Requests to the API go round among the workers: so many come to each of three.
const ENOUGH: usize = 9;

/// What SRS's answers hold: field and type, by endpoint. `?`: may be missing. `~`: a number with a point.
const CONTRACT: &[(&str, &str)] = &[
    ("/api/v1/versions", "data{major:n minor:n revision:n version:s}"),
    (
        "/api/v1/summaries",
        "data{ok:b now_ms:n self{version:s pid:n ppid:n argv:s cwd:s mem_kbyte:n mem_percent:~ cpu_percent:~ srs_uptime:n} \
         system{cpu_percent:~ disk_read_KBps:n disk_write_KBps:n disk_busy_percent:~ mem_ram_kbyte:n mem_ram_percent:~ mem_swap_kbyte:n \
         mem_swap_percent:~ cpus:n cpus_online:n uptime:~ ilde_time:~ load_1m:~ load_5m:~ load_15m:~ net_sample_time:n net_recv_bytes:n \
         net_send_bytes:n net_recvi_bytes:n net_sendi_bytes:n srs_sample_time:n srs_recv_bytes:n srs_send_bytes:n conn_sys:n conn_sys_et:n \
         conn_sys_tw:n conn_sys_udp:n conn_srs:n}}",
    ),
    (
        "/api/v1/rusages",
        "data{ok:b sample_time:n ru_utime:n ru_stime:n ru_maxrss:n ru_ixrss:n ru_idrss:n ru_isrss:n ru_minflt:n ru_majflt:n ru_nswap:n \
         ru_inblock:n ru_oublock:n ru_msgsnd:n ru_msgrcv:n ru_nsignals:n ru_nvcsw:n ru_nivcsw:n}",
    ),
    (
        "/api/v1/self_proc_stats",
        "data{ok:b sample_time:n percent:~ pid:n comm:s state:s ppid:n pgrp:n session:n utime:n stime:n num_threads:n vsize:n rss:n \
         processor:n}",
    ),
    ("/api/v1/system_proc_stats", "data{ok:b sample_time:n percent:~ user:n nice:n sys:n idle:n iowait:n irq:n softirq:n steal:n guest:n}"),
    (
        "/api/v1/meminfos",
        "data{ok:b sample_time:n percent_ram:~ percent_swap:~ MemActive:n RealInUse:n NotInUse:n MemTotal:n MemFree:n Buffers:n Cached:n \
         SwapTotal:n SwapFree:n}",
    ),
    ("/api/v1/features", "data{options:s options2:s build:s build2:s features{ssl:b hls:b callback:b api:b httpd:b stat:b}}"),
    (
        "/api/v1/vhosts/",
        "vhosts[{id:s name:s enabled:b clients:n streams:n send_bytes:n recv_bytes:n kbps{recv_30s:n send_30s:n} hls{enabled:b fragment:~}}]",
    ),
    (
        "/api/v1/streams/",
        "total:n streams[{id:s name:s vhost:s app:s tcUrl:s url:s live_ms:n clients:n frames:n send_bytes:n recv_bytes:n \
         kbps{recv_30s:n send_30s:n} publish{active:b cid:s} video{codec:s profile:s level:s width:n height:n} \
         audio{codec:s sample_rate:n channel:n profile:s}}]",
    ),
    (
        "/api/v1/clients/",
        "total:n clients[{id:s vhost:s stream:s ip:s pageUrl:s swfUrl:s tcUrl:s url:s name:s type:s publish:b alive:~ send_bytes:n \
         recv_bytes:n kbps{recv_30s:n send_30s:n}}]",
    ),
];

/// Checks a value against a description of its fields; returns what follows the description.
fn check<'a>(value: &Value, mut fields: &'a str, path: &str) -> Result<&'a str> {
    loop {
        fields = fields.trim_start();
        if fields.is_empty() || fields.starts_with('}') {
            return Ok(fields);
        }
        let end = fields.find([':', '{', '[']).context("a description that cannot be read")?;
        let (name, rest) = fields.split_at(end);
        let at = format!("{path}/{name}");
        let field = value.get(name).with_context(|| format!("{at} is missing in {value}"))?;
        fields = match rest.as_bytes() {
            [b'{', ..] => check(field, &rest[1..], &at)?.strip_prefix('}').context("no end")?,
            [b'[', ..] => {
                let items = field.as_array().with_context(|| format!("{at} is no list"))?;
                ensure!(!items.is_empty(), "{at} is empty");
                let mut after = "";
                for item in items {
                    after = check(item, &rest[2..], &at)?;
                }
                after.strip_prefix("}]").context("no end")?
            }
            _ => {
                let fits = match rest.as_bytes()[1] {
                    b's' => field.is_string(),
                    b'b' => field.is_boolean(),
                    b'n' => field.is_i64() || field.is_u64(),
                    _ => field.is_f64(),
                };
                ensure!(fits, "{at} is of another type: {field}");
                &rest[2..]
            }
        };
    }
}

fn get(server: &Server, path: &str) -> Result<Value> {
    let answer = http_get(&format!("http://{}{path}", server.address("api")))?;
    ensure!(answer.status == 200 && answer.head.contains("Content-Type: application/json"), "{path}: {}", answer.head);
    ensure!(!answer.text().contains("canary"), "{path} shows a secret: {}", answer.text());
    Ok(serde_json::from_slice(&answer.body)?)
}

fn meets_the_contract(server: &Server) -> Result<()> {
    for (path, fields) in CONTRACT {
        let body = get(server, path)?;
        check(&body, "code:n server:s service:s pid:s", path)?;
        ensure!(body["code"] == 0, "{path}: {body}");
        ensure!(check(&body, fields, path)?.is_empty());
        for (list, one) in [("vhosts", "vhost"), ("streams", "stream"), ("clients", "client")] {
            for item in body[list].as_array().into_iter().flatten() {
                let id = item["id"].as_str().context("no id")?;
                let single = get(server, &format!("/api/v1/{list}/{id}"))?;
                ensure!(single[one]["id"] == id, "{list}/{id}: {single}");
            }
        }
    }
    for (path, code) in [("vhosts/vid-none", 2014), ("streams/vid-none", 2048), ("clients/none", 2049)] {
        ensure!(get(server, &format!("/api/v1/{path}"))? == json!({ "code": code }));
    }
    ensure!(http_get(&format!("http://{}/api/v1/none", server.address("api")))?.status == 404);
    Ok(())
}

/// The clients by type: id, and bytes both ways.
fn clients(server: &Server) -> Result<BTreeMap<String, (String, u64, u64)>> {
    let body = get(server, "/api/v1/clients?count=100")?;
    let each = |client: &Value| {
        let text = |name: &str| client[name].as_str().map(str::to_owned);
        Some((text("type")?, (text("id")?, client["recv_bytes"].as_u64()?, client["send_bytes"].as_u64()?)))
    };
    body["clients"].as_array().context("no list")?.iter().map(|client| each(client).with_context(|| client.to_string())).collect()
}

fn wait_clients(server: &Server, types: &[&str]) -> Result<BTreeMap<String, (String, u64, u64)>> {
    let wanted: BTreeSet<&str> = types.iter().copied().collect();
    let found = || clients(server).ok().filter(|found| found.keys().map(String::as_str).collect::<BTreeSet<_>>() == wanted);
    eventually(PATIENCE, found).with_context(|| format!("{types:?} are not there: {:?}\n{}", clients(server), server.log_text()))
}

fn kick(server: &Server, id: &str) -> Result<Value> {
    let answer = http("DELETE", &format!("http://{}/api/v1/clients/{id}", server.address("api")))?;
    ensure!(answer.status == 200, "{}", answer.head);
    Ok(serde_json::from_slice(&answer.body)?)
}

#[test]
fn every_endpoint_meets_srs_s_contract_before_and_after_a_takeover() -> Result<()> {
    let all = ["fmle-publish", "flv-play", "rtmp-play", "hls-play"];
    let server = Server::start(ServerOptions::workers(3).set("hls.sessions=always").set("hls.fragment=1s"))?;
    let _publisher = media::publish_live(&format!("{}?token=canary", server.rtmp("x")))?;
    server.wait_live("x")?;
    let http = server.address("http");
    let flv = Viewer::flv(http, "live/x.flv?token=canary")?;
    let mut rtmp =
        Tool::start("ffmpeg", &["-v", "error", "-i", &format!("{}?token=canary", server.rtmp("x")), "-c", "copy", "-f", "null", "-"])?;
    let hls = server.http("live/x.m3u8?token=canary");
    let mut hls = Tool::start("ffmpeg", &["-v", "error", "-i", &hls, "-c", "copy", "-f", "null", "-"])?;
    let before = wait_clients(&server, &all)?;
    // The machine is looked at every two seconds.
    eventually(PATIENCE, || get(&server, "/api/v1/meminfos").ok().filter(|body| body["data"]["ok"] == true)).context("no sample")?;
    meets_the_contract(&server)?;
    let stream = get(&server, "/api/v1/streams/")?["streams"][0].clone();
    ensure!(stream["publish"] == json!({ "active": true, "cid": before["fmle-publish"].0 }), "{stream}");
    ensure!((&stream["clients"], &stream["url"], &stream["video"]["width"]) == (&json!(4), &json!("/live/x"), &json!(320)), "{stream}");
    for _ in 0..ENOUGH {
        let ids: Vec<String> = clients(&server)?.into_values().map(|(id, ..)| id).collect();
        ensure!(ids == before.values().map(|(id, ..)| id.clone()).collect::<Vec<_>>(), "another worker says: {ids:?}");
    }

    for worker in 1..=3 {
        server.kill_worker(worker)?;
    }
    flv.wait_more(20)?;
    let after = eventually(PATIENCE, || {
        let after = wait_clients(&server, &all).ok()?;
        let grown = |kind: &&str| {
            let ((id, received, sent), (old, received_then, sent_then)) = (&after[*kind], &before[*kind]);
            id == old && received >= received_then && sent >= sent_then && received + sent > received_then + sent_then
        };
        all.iter().all(grown).then_some(after)
    });
    let after = after.with_context(|| format!("{before:?} and {:?}\n{}", clients(&server), server.log_text()))?;
    meets_the_contract(&server)?;
    ensure!(rtmp.is_running() && hls.is_running(), "a player was dropped");

    ensure!(kick(&server, "c999999")? == json!({ "code": 2049 }));
    ensure!(kick(&server, &after["flv-play"].0)?["code"] == 0);
    eventually(PATIENCE, || flv.is_over().then_some(())).context("the FLV viewer was not kicked")?;
    ensure!(kick(&server, &after["rtmp-play"].0)?["code"] == 0);
    rtmp.wait(PATIENCE).context("the RTMP viewer was not kicked")?;
    ensure!(kick(&server, &after["hls-play"].0)?["code"] == 0);
    hls.wait(PATIENCE).context("the HLS viewer was not kicked")?;
    ensure!(kick(&server, &after["fmle-publish"].0)?["code"] == 0);
    eventually(PATIENCE, || clients(&server).ok()?.is_empty().then_some(())).with_context(|| format!("{:?}", clients(&server)))?;
    eventually(PATIENCE, || (get(&server, "/api/v1/streams/").ok()?["total"] == 0).then_some(())).context("the stream is still listed")
}

#[test]
fn pages_of_a_list_and_callbacks() -> Result<()> {
    let server = Server::start(ServerOptions::workers(2).set("api.jsonp=true"))?;
    let _publishers: Vec<Tool> = (0..12).map(|n| media::publish_live(&server.rtmp(&format!("s{n:02}")))).collect::<Result<_>>()?;
    let names = |query: &str| -> Result<Vec<String>> {
        let body = get(&server, &format!("/api/v1/streams/?{query}"))?;
        ensure!(body["total"] == 12, "{body}");
        Ok(body["streams"].as_array().context("no list")?.iter().filter_map(|stream| stream["name"].as_str().map(str::to_owned)).collect())
    };
    // Each answer is another worker's, and these learn of the streams one after the other.
    let pages = || -> Result<()> {
        ensure!(names("")?.len() == 10 && names("count=5")?.len() == 10 && names("count=100")?.len() == 12);
        ensure!(names("start=10")? == ["s10", "s11"] && names("start=99")?.is_empty());
        Ok(())
    };
    eventually(PATIENCE, || pages().ok()).context("the pages are not right")?;
    let called = http_get(&format!("http://{}/api/v1/versions?callback=f", server.address("api")))?;
    ensure!(called.head.contains("text/javascript") && called.text().starts_with("f({\"code\":0"), "{}", called.text());
    Ok(())
}
