//! Planning and merging, on answers that two SRS 7 gave while each had two streams, and on made-up ones.
#![allow(clippy::unwrap_used)]

use super::merge::{Heard, Round};
use super::plan::{Plan, plan};
use super::{ApiAnswer, ApiRequest, Method};
use crate::engine::clients::Clients;
use braidcast_protocols::http::{Answer, AnswerReader};
use proptest::prelude::*;
use serde_json::{Value, json};

pub(super) fn captured(process: u16, path: &str) -> Value {
    let all = [include_str!("captured/process1.json"), include_str!("captured/process2.json")][usize::from(process) - 1];
    serde_json::from_str::<Value>(all).unwrap()[path].take()
}

pub(super) fn request(method: Method, target: &str) -> ApiRequest {
    let client = "192.0.2.7:5000".parse().unwrap();
    ApiRequest { method, target: target.to_owned(), host: None, authorization: None, client }
}

fn whole(status: &str, body: &str) -> Answer {
    let mut reader = AnswerReader::new(1_000, 10_000_000);
    let bytes = format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    assert!(reader.handle_input(bytes.as_bytes()).unwrap() || body.is_empty());
    reader.finish().unwrap()
}

/// What a process says to one target after another.
fn says(process: u16, bodies: &[Value]) -> Heard {
    (process, bodies.iter().map(|body| Ok(whole("200 OK", &body.to_string()))).collect())
}

/// The answer to a target if the processes 1, 2, … say so.
fn merged(target: &str, heard: Vec<Heard>) -> ApiAnswer {
    let numbers: Vec<_> = heard.iter().map(|(process, _)| *process).collect();
    let Plan::All { question, .. } = plan(&request(Method::Get, target), &numbers).unwrap().0 else { panic!("{target}") };
    Round::new(heard).map_or_else(|refusal| refusal, |round| round.merge(&question))
}

fn body(answer: &ApiAnswer) -> Value {
    serde_json::from_slice(&answer.body).unwrap()
}

/// The captured answers to a target, merged.
fn of_captured(target: &str) -> Value {
    let path = target.split('?').next().unwrap();
    let ask = |process| says(process, &[captured(process, path), captured(process, "/api/v1/vhosts/")]);
    let answer = merged(target, vec![ask(1), ask(2)]);
    assert_eq!((answer.status, answer.content_type.as_str()), (200, "application/json"));
    body(&answer)
}

fn ids(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap()).collect()
}

#[test]
fn streams_and_clients_of_all_are_one_list_with_the_vhosts_of_the_merged_answers() {
    let vhosts = of_captured("/api/v1/vhosts/")["vhosts"].take();
    for (list, length) in [("streams", 4), ("clients", 6)] {
        let path = format!("/api/v1/{list}/");
        let answer = of_captured(&path);
        let (one, two) = (captured(1, &path), captured(2, &path));
        assert_eq!(ids(&answer[list]), [ids(&one[list]), ids(&two[list])].concat());
        assert_eq!((&answer["server"], &answer["pid"], &answer["code"]), (&one["server"], &one["pid"], &json!(0)));
        assert!(answer.get("missing").is_none());
        let known = ids(&vhosts);
        assert!(answer[list].as_array().unwrap().iter().all(|item| known.contains(&item["vhost"].as_str().unwrap())));
        assert_eq!(answer[list].as_array().unwrap().len(), length);
    }
    let streams = of_captured("/api/v1/streams/");
    let four = streams["streams"].as_array().unwrap().iter().find(|stream| stream["name"] == "four").unwrap();
    let v_example = vhosts.as_array().unwrap().iter().find(|vhost| vhost["name"] == "v.example").unwrap();
    assert_eq!(four["vhost"], v_example["id"]);
}

#[test]
fn an_address_that_is_known_of_a_client_of_a_process_takes_the_place_of_the_relays() {
    let path = "/api/v1/clients/";
    let own = ids(&captured(1, path)["clients"]).first().copied().map(str::to_owned).unwrap();
    let mut known = Clients::default();
    known.insert(1, &own, "192.0.2.7".parse().unwrap());
    known.insert(2, &own, "192.0.2.8".parse().unwrap());
    known.insert(1, "17", "192.0.2.9".parse().unwrap());
    let told = |target: &str, heard: Vec<Heard>| {
        let numbers: Vec<_> = heard.iter().map(|(process, _)| *process).collect();
        let Plan::All { question, .. } = plan(&request(Method::Get, target), &numbers).unwrap().0 else { panic!("{target}") };
        let mut round = Round::new(heard).unwrap();
        round.tell_addresses(&known);
        body(&round.merge(&question))
    };
    let heard = [1, 2].map(|process| says(process, &[captured(process, path), captured(process, "/api/v1/vhosts/")]));
    let (before, mut after) = (of_captured(path), told(path, heard.clone().into()));
    let changed = after["clients"].as_array_mut().unwrap().iter_mut().find(|client| client["id"] == *own).unwrap();
    assert_eq!(std::mem::replace(&mut changed["ip"], json!("127.0.0.1")), json!("192.0.2.7"));
    assert_eq!(after, before, "nothing else");

    let row = |id: Value| json!({ "id": id, "ip": "127.0.0.1" });
    let one = |process, id: Value| vec![says(process, &[json!({ "code": 0, "client": row(id) })])];
    for (process, id, ip) in
        [(1, json!(own), "192.0.2.7"), (2, json!(own), "192.0.2.8"), (3, json!(own), "127.0.0.1"), (1, json!(17), "127.0.0.1")]
    {
        assert_eq!(told(&format!("/api/v1/clients/{own}"), one(process, id))["client"]["ip"], ip, "{process}");
    }
    for client in [json!({ "id": own }), json!([]), json!(null)] {
        let heard = vec![says(1, &[json!({ "code": 0, "client": client })])];
        assert_eq!(told(&format!("/api/v1/clients/{own}"), heard)["client"], client, "what is no client stays");
    }
}

#[test]
fn vhosts_of_one_name_are_summed_and_have_the_lowest_process_id() {
    let answer = of_captured("/api/v1/vhosts/");
    let vhost = |body: &Value, name: &str| body["vhosts"].as_array().unwrap().iter().find(|vhost| vhost["name"] == name).unwrap().clone();
    assert_eq!(answer["vhosts"].as_array().unwrap().len(), 2);
    for name in ["__defaultVhost__", "v.example"] {
        let (one, two) = (vhost(&captured(1, "/api/v1/vhosts/"), name), vhost(&captured(2, "/api/v1/vhosts/"), name));
        let sum = vhost(&answer, name);
        for field in ["/clients", "/streams", "/send_bytes", "/recv_bytes", "/kbps/recv_30s", "/kbps/send_30s"] {
            let number = |vhost: &Value| vhost.pointer(field).unwrap().as_u64().unwrap();
            assert_eq!(number(&sum), number(&one) + number(&two), "{name} {field}");
        }
        assert_eq!((&sum["id"], &sum["hls"]), (&one["id"], &one["hls"]));
        for id in [&one["id"], &two["id"]] {
            let found = vhosts_heard(id.as_str().unwrap());
            assert_eq!((&found["vhost"], found.get("vhosts")), (&sum, None));
        }
    }
    assert_eq!(vhosts_heard("vid-0000000"), json!({ "code": 2014 }));
}

fn vhosts_heard(id: &str) -> Value {
    let ask = |process| says(process, &[captured(process, "/api/v1/vhosts/")]);
    body(&merged(&format!("/api/v1/vhosts/{id}"), vec![ask(1), ask(2)]))
}

#[test]
fn figures_of_a_process_add_up_and_those_of_the_machine_do_not() {
    let both =
        |path: &str, field: &str| (captured(1, path).pointer(field).unwrap().clone(), captured(2, path).pointer(field).unwrap().clone());
    for (path, fields) in [
        ("/api/v1/summaries", &["/data/self/mem_kbyte", "/data/system/srs_recv_bytes", "/data/system/conn_srs"][..]),
        ("/api/v1/rusages", &["/data/ru_maxrss", "/data/ru_nvcsw"]),
        ("/api/v1/self_proc_stats", &["/data/utime", "/data/rss", "/data/num_threads"]),
    ] {
        let answer = of_captured(path);
        for field in fields {
            let (one, two) = both(path, field);
            assert_eq!(answer.pointer(field).unwrap().as_u64().unwrap(), one.as_u64().unwrap() + two.as_u64().unwrap(), "{path} {field}");
        }
    }
    let summary = of_captured("/api/v1/summaries");
    for field in ["/data/self/pid", "/data/self/version", "/data/system/mem_ram_kbyte", "/data/system/load_1m", "/data/system/cpus"] {
        assert_eq!(*summary.pointer(field).unwrap(), both("/api/v1/summaries", field).0, "{field}");
    }
    for path in ["/api/v1/versions", "/api/v1/features", "/api/v1/authors", "/api/v1/meminfos", "/api/v1/system_proc_stats", "/api/v1/"] {
        assert_eq!(of_captured(path), captured(1, path), "{path}");
    }
}

#[test]
fn who_does_not_answer_is_named_and_errors_of_srs_pass() {
    let versions = captured(2, "/api/v1/versions");
    let silent = |process| (process, vec![Err("did not answer in time".to_owned())]);
    let no_json = (3, vec![Ok(whole("200 OK", "<html>"))]);
    let no_object = (4, vec![Ok(whole("200 OK", "[1]"))]);
    let answer =
        body(&merged("/api/v1/versions", vec![silent(1), says(2, std::slice::from_ref(&versions)), no_json, no_object, silent(5)]));
    assert_eq!((&answer["pid"], &answer["missing"]), (&versions["pid"], &json!([1, 3, 4, 5])));

    let none = merged("/api/v1/versions", vec![silent(1), silent(2)]);
    assert_eq!((none.status, &body(&none)["code"]), (503, &json!(503)));
    assert_eq!(merged("/api/v1/versions", vec![]).status, 503);

    let refused = says(2, &[json!({ "code": 1060 })]);
    let answer = merged("/api/v1/summaries", vec![silent(1), refused.clone()]);
    assert_eq!((answer.status, body(&answer)), (200, json!({ "code": 1060, "missing": [1] })));
    let answer = body(&merged("/api/v1/versions", vec![says(1, &[captured(1, "/api/v1/versions")]), refused]));
    assert_eq!((&answer["code"], &answer["missing"]), (&json!(0), &json!([2])));

    let password = (2, vec![Ok(whole("401 Unauthorized\r\nWWW-Authenticate: Basic", ""))]);
    let answer = merged("/api/v1/versions", vec![says(1, &[captured(1, "/api/v1/versions")]), password]);
    assert_eq!((answer.status, answer.www_authenticate.as_deref()), (401, Some("Basic")));
}

/// What a process says of one of its clients.
fn has(process: u16, id: Value) -> Heard {
    let client = json!({ "id": id, "vhost": 5, "stream": 6, "name": process });
    let vhosts = json!({ "code": 0, "vhosts": [{ "id": 5, "name": "v" }] });
    says(process, &[json!({ "code": 0, "client": client }), vhosts])
}

fn has_not(process: u16) -> Heard {
    says(process, &[json!({ "code": 2049 })])
}

#[test]
fn one_client_is_found_where_it_is_and_counted_ids_name_their_process() {
    let found = body(&merged("/api/v1/clients/abc", vec![has_not(1), has(2, json!("abc"))]));
    assert_eq!((&found["client"]["id"], &found["client"]["name"], found.get("missing")), (&json!("abc"), &json!(2), None));
    let counted = body(&merged("/api/v1/clients/7", vec![has_not(1), has(2, json!(7))]));
    assert_eq!(counted["client"], json!({ "id": "2:7", "vhost": "2:5", "stream": "2:6", "name": 2 }));

    let both = || vec![has(1, json!(7)), has(2, json!(7)), has_not(3)];
    let unclear = merged("/api/v1/clients/7", both());
    assert_eq!(unclear.status, 409);
    assert!(body(&unclear)["error"].as_str().unwrap().contains("1:7 or 2:7"));
    for target in ["/api/v1/clients/2:7", "/api/v1/clients/2%3A7"] {
        assert_eq!(body(&merged(target, both()))["client"]["name"], json!(2));
    }
    assert_eq!(body(&merged("/api/v1/clients/x", vec![has_not(1), has_not(2)])), json!({ "code": 2049 }));
    assert_eq!(body(&merged("/api/v1/clients/3:7", both())), json!({ "code": 2049 }));
    // One process alone: nothing is renamed.
    assert_eq!(body(&merged("/api/v1/clients/7", vec![has(1, json!(7))]))["client"]["id"], json!(7));
}

#[test]
fn a_client_is_ended_only_where_it_certainly_is() {
    let silent = || (2, vec![Err("did not answer in time".to_owned())]);
    let locate = |target: &str, heard: Vec<Heard>| {
        let numbers: Vec<_> = heard.iter().map(|(process, _)| *process).collect();
        match plan(&request(Method::Delete, target), &numbers).unwrap().0 {
            Plan::All { question: super::plan::Question::Kick(named), targets } => {
                assert_eq!(targets, [format!("/api/v1/clients/{}", named.id)]);
                Round::new(heard).unwrap().locate_client(&named).map_err(|answer| answer.status)
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(locate("/api/v1/clients/ab7", vec![has(1, json!("ab7")), silent()]), Ok(1));
    assert_eq!(locate("/api/v1/clients/7", vec![has(1, json!(7)), silent()]), Err(503));
    assert_eq!(locate("/api/v1/clients/1:7", vec![has(1, json!(7)), silent()]), Ok(1));
    assert_eq!(locate("/api/v1/clients/7", vec![has(1, json!(7)), has(2, json!(7))]), Err(409));
    assert_eq!(locate("/api/v1/clients/2:7", vec![has(1, json!(7)), has(2, json!(7))]), Ok(2));
    assert_eq!(locate("/api/v1/clients/7", vec![has_not(1), silent()]), Err(200));
}

#[test]
fn ids_that_two_processes_have_are_written_with_their_process() {
    let list = |process, ids: &[&str]| {
        let clients: Vec<_> = ids.iter().map(|id| json!({ "id": id })).collect();
        says(process, &[json!({ "code": 0, "clients": clients, "total": ids.len() })])
    };
    let answer = body(&merged("/api/v1/clients", vec![list(1, &["a", "b"]), list(2, &["b", "c"])]));
    assert_eq!(ids(&answer["clients"]), ["a", "1:b", "2:b", "c"]);
    assert_eq!(answer["total"], json!(4));
    let counted = json!({ "code": 0, "streams": [{ "id": 3, "vhost": 5, "publish": { "active": true, "cid": 9 } }] });
    let vhosts = json!({ "code": 0, "vhosts": [{ "id": 5, "name": "v" }] });
    let answer = body(&merged("/api/v1/streams", vec![says(1, &[counted.clone(), vhosts.clone()]), says(2, &[counted, vhosts])]));
    let second = json!({ "id": "2:3", "vhost": "1:5", "publish": { "active": true, "cid": "2:9" } });
    assert_eq!(answer["streams"][1], second);
}

#[test]
fn one_process_can_be_named() {
    let one = |method, target: &str| match plan(&request(method, target), &[1, 2]) {
        Ok((Plan::One { process, target }, _)) => Ok((process, target)),
        Ok((Plan::All { .. }, _)) => panic!("{target}: all"),
        Err(answer) => Err(answer.status),
    };
    let all = |target: &str| Ok((2, target.to_owned()));
    assert_eq!(one(Method::Get, "/api/v1/raw?rpc=reload&process=2&x=%20"), all("/api/v1/raw?rpc=reload&x=%20"));
    assert_eq!(one(Method::Get, "/api/v1/streams?process=2"), all("/api/v1/streams/"));
    assert_eq!(one(Method::Get, "/api/v1/clients/2:7?process=2&callback=f"), all("/api/v1/clients/7?callback=f"));
    assert_eq!(one(Method::Get, "/metrics?process=2"), all("/metrics"));
    assert_eq!(one(Method::Get, "/api/v1/clients/1:7?process=2"), Err(400));
    for target in
        ["/metrics", "/api/v1/raw?rpc=raw", "/api/v1/versions?process=3", "/api/v1/versions?process=x", "/api/v1/clients/3:7", "/"]
    {
        assert_eq!(one(Method::Get, target), Err(404), "{target}");
    }
    for target in ["/api/v1/clients/a%0d%0ab", "/api/v1/clients/a/b", "/api/v1/versions?callback=f(1)"] {
        assert_eq!(one(Method::Get, target), Err(400), "{target}");
    }
    for target in ["/api/v1/streams/", "/api/v1/streams/x", "/api/v1/vhosts"] {
        assert_eq!(one(Method::Delete, target), Err(405), "{target}");
    }
}

#[test]
fn each_is_asked_for_enough_of_a_list() {
    let targets = |target: &str| match plan(&request(Method::Get, target), &[1, 2]).unwrap().0 {
        Plan::All { targets, .. } => targets[0].clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(targets("/api/v1/clients"), "/api/v1/clients/?start=0&count=10");
    assert_eq!(targets("/api/v1/clients/?start=5&count=20x"), "/api/v1/clients/?start=0&count=25");
    assert_eq!(targets("/api/v1/streams?start=-5&count=2"), "/api/v1/streams/?start=0&count=10");
    assert_eq!(targets("/api/v1/streams?count=99999999999999999999999"), "/api/v1/streams/?start=0&count=1000000");
}

#[test]
fn a_call_for_another_page_is_written_around_the_answer_and_may_name_the_method() {
    let (planned, jsonp) = plan(&request(Method::Get, "/api/v1/clients/7?callback=a.f&method=DELETE"), &[1, 2]).unwrap();
    assert!(matches!(planned, Plan::All { question: super::plan::Question::Kick(_), .. }));
    let wrapped = jsonp.wrap(ApiAnswer::json(200, &json!({ "code": 0 })));
    assert_eq!((wrapped.content_type.as_str(), wrapped.body.as_slice()), ("text/javascript", &b"a.f({\"code\":0})"[..]));
    let refused = plan(&request(Method::Get, "/metrics?callback=f"), &[1]).unwrap_err();
    assert!(refused.body.starts_with(b"f({"));
    assert!(
        plan(&request(Method::Get, "/api/v1/clients/7?method=DELETE"), &[1])
            .is_ok_and(|(plan, _)| { matches!(plan, Plan::All { question: super::plan::Question::Single(..), .. }) })
    );
}

proptest! {
    #[test]
    fn a_page_is_a_slice_of_all_lists_behind_each_other(
        lengths in prop::collection::vec(0usize..30, 1..5),
        start in 0usize..80,
        count in 0usize..60,
    ) {
        let item = |process: usize, at: usize| json!({ "id": format!("p{process}i{at}") });
        let asked = start + count.max(10);
        let heard = lengths.iter().enumerate().map(|(process, length)| {
            // SRS gives the beginning of its list, as long as it was asked for.
            let list: Vec<_> = (0..*length).take(asked).map(|at| item(process, at)).collect();
            says(process as u16 + 1, &[json!({ "code": 0, "streams": list })])
        });
        let answer = body(&merged(&format!("/api/v1/streams/?start={start}&count={count}"), heard.collect()));
        let all: Vec<_> = lengths.iter().enumerate().flat_map(|(process, length)| (0..*length).map(move |at| item(process, at))).collect();
        let expected: Vec<_> = all.into_iter().skip(start).take(count.max(10)).collect();
        prop_assert_eq!(answer["streams"].as_array().unwrap(), &expected);
    }

    #[test]
    fn vhosts_sums_are_those_of_their_parts(parts in prop::collection::vec((0u8..4, 0u64..1 << 40, 0u64..9), 1..12)) {
        let heard = parts.iter().enumerate().map(|(at, (name, bytes, clients))| {
            let vhost = json!({ "id": format!("v{at}"), "name": format!("n{name}"), "clients": clients, "send_bytes": bytes });
            says(at as u16 + 1, &[json!({ "code": 0, "vhosts": [vhost] })])
        });
        let answer = body(&merged("/api/v1/vhosts", heard.collect()));
        let vhosts = answer["vhosts"].as_array().unwrap();
        for vhost in vhosts {
            let of_name = parts.iter().filter(|(name, ..)| vhost["name"] == format!("n{name}"));
            let (bytes, clients) = of_name.fold((0, 0), |sum, (_, bytes, clients)| (sum.0 + bytes, sum.1 + clients));
            prop_assert_eq!((&vhost["send_bytes"], &vhost["clients"]), (&json!(bytes), &json!(clients)));
        }
        let names: std::collections::HashSet<_> = parts.iter().map(|(name, ..)| name).collect();
        prop_assert_eq!(vhosts.len(), names.len());
    }

    #[test]
    fn no_json_of_any_shape_makes_it_panic(one in any_json(), two in any_json(), vhosts in any_json(), target in prop::sample::select(vec![
        "/api/v1/streams", "/api/v1/clients/1", "/api/v1/vhosts", "/api/v1/vhosts/1", "/api/v1/summaries", "/api/v1/versions",
    ])) {
        merged(target, vec![says(1, &[one.clone(), vhosts.clone()]), says(2, &[two, vhosts])]);
        let _ = super::watch::read(&one, &one, &one);
    }
}

/// JSON with the names that matter.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z1]{0,2}".prop_map(Value::from)
    ];
    let names = || {
        prop::sample::select(vec!["id", "name", "vhost", "vhosts", "streams", "stream", "client", "data", "self", "publish", "cid", "kbps"])
    };
    let inner = leaf.prop_recursive(4, 40, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            prop::collection::vec((names().prop_map(str::to_owned), inner), 0..4).prop_map(|fields| fields.into_iter().collect()),
        ]
    });
    inner.prop_map(|mut value| {
        if let Some(object) = value.as_object_mut() {
            object.insert("code".to_owned(), json!(0));
        }
        value
    })
}
