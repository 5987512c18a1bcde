//! Where paths lead, and that the table and the document agree.

#![allow(clippy::unwrap_used)]

use super::super::openapi;
use super::*;
use proptest::prelude::*;
use serde_json::Value;
use std::collections::HashSet;

fn at(verb: Verb, path: &str, query: &str) -> Result<Found, Fault> {
    find(Some(verb), &format!("{PREFIX}{path}"), query)
}

fn operation(verb: Verb, path: &str) -> Option<Operation> {
    at(verb, path, "").ok().map(|found| found.endpoint.operation)
}

#[test]
fn paths_lead_where_the_table_says() {
    assert_eq!(operation(Verb::Get, "/workers"), Some(Operation::Workers));
    assert_eq!(operation(Verb::Get, "/workers/12"), Some(Operation::Worker));
    assert_eq!(operation(Verb::Post, "/workers/12/drain"), Some(Operation::DrainWorker));
    assert_eq!(operation(Verb::Delete, "/sessions/c7"), Some(Operation::KickSession));
    assert_eq!(operation(Verb::Post, "/sessions/kick"), Some(Operation::KickSessions));
    let found = at(Verb::Get, "/streams/v.example/a/b/c/x", "").unwrap();
    assert_eq!(["vhost", "app", "stream"].map(|name| found.value(name).unwrap()), ["v.example", "a/b/c", "x"]);
    for none in ["", "/", "/workers/", "/workers//drain", "/streams/a", "/streams/a/b", "/worker", "/openapi", "/docs/"] {
        assert_eq!(at(Verb::Get, none, "").err(), Some(Fault::NoPath), "{none}");
    }
    assert_eq!(find(Some(Verb::Get), "/api/v2workers", "").err(), Some(Fault::NoPath));
}

#[test]
fn other_methods_are_told_which_there_are() {
    let no = |verb, path: &str| match find(verb, &format!("{PREFIX}{path}"), "").err() {
        Some(Fault::NoMethod(allowed)) => allowed,
        other => panic!("{path}: {other:?}"),
    };
    assert_eq!(no(Some(Verb::Post), "/workers"), "GET, HEAD, OPTIONS");
    assert_eq!(no(Some(Verb::Get), "/sessions/kick"), "POST, OPTIONS");
    assert_eq!(no(None, "/sessions/c1"), "GET, HEAD, DELETE, OPTIONS");
    assert_eq!(allowed("/api/v2/sessions/c1").as_deref(), Some("GET, HEAD, DELETE, OPTIONS"));
    assert_eq!(allowed("/api/v2/nothing"), None);
}

#[test]
fn parameters_are_what_their_forms_say_or_refused() {
    let why = |path: &str, query: &str| match at(Verb::Get, path, query).err() {
        Some(Fault::Parameter(why)) => why,
        other => panic!("{path}?{query}: {other:?}"),
    };
    for (path, query, expected) in [
        ("/workers/0", "", "worker is no number"),
        ("/workers/+1", "", "worker is no number"),
        ("/workers/65536", "", "worker is no number"),
        ("/sessions/17", "", "conn is no connection's name"),
        ("/sessions/c07", "", "conn is no connection's name"),
        ("/sessions/o7", "", "conn is no connection's name"),
        ("/workers", "limit=0", "limit is no number"),
        ("/workers", "limit=1001", "limit is no number"),
        ("/workers", "limit=1&limit=2", "limit is there twice"),
        ("/workers", "colour=red", "no parameter \"colour\""),
        ("/workers", "after=%ff", "after cannot be decoded"),
        ("/workers", "after=%0a", "control characters"),
        ("/events", "after=-1", "no event's number"),
        ("/events", "kinds=publish,dance", "\"dance\" is no kind of event"),
        ("/events", "kinds=unknown", "\"unknown\" is no kind of event"),
    ] {
        assert!(why(path, query).contains(expected), "{path}?{query}: {}", why(path, query));
    }
    let found = at(Verb::Get, "/events", "kinds=publish,worker-died&after=5").unwrap();
    assert_eq!((found.value("kinds"), found.number("after")), (Some("publish,worker-died"), Some(5)));
}

#[test]
fn the_document_has_every_endpoint_with_its_parameters_and_nothing_that_is_not_there() {
    let document: Value = serde_json::from_str(openapi::document()).unwrap();
    let mut described = 0;
    let mut ids = HashSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            described += 1;
            assert!(ids.insert(operation["operationId"].as_str().unwrap().to_owned()));
            let filled = path.replace("{conn}", "c1").replace("{worker}", "1").replace("{process}", "1").replace(['{', '}'], "");
            let found = find(Verb::parse(&method.to_uppercase()), &filled, "").ok().unwrap_or_else(|| panic!("{method} {path}"));
            assert_eq!(operation["operationId"], found.endpoint.id);
            let in_query = |parameter: &&Value| parameter["in"] == "query";
            let parameters = operation["parameters"].as_array().map_or(&[][..], Vec::as_slice);
            let named: Vec<&str> = parameters.iter().filter(in_query).map(|parameter| parameter["name"].as_str().unwrap()).collect();
            assert_eq!(named, found.endpoint.query.iter().map(|parameter| parameter.name).collect::<Vec<_>>(), "{path}");
            assert_eq!(operation.get("requestBody").is_some(), found.endpoint.body.is_some());
        }
    }
    assert_eq!(described, ENDPOINTS.len());
    assert_eq!(ENDPOINTS.iter().map(|endpoint| endpoint.operation).collect::<HashSet<_>>().len(), ENDPOINTS.len());
}

#[test]
fn every_reference_of_the_document_leads_somewhere() {
    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(map) => map.iter().for_each(|(name, value)| match value {
                Value::String(target) if name == "$ref" => found.push(target),
                value => references(value, found),
            }),
            Value::Array(list) => list.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let document: Value = serde_json::from_str(openapi::document()).unwrap();
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 100);
    for reference in found {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
}

#[test]
fn lists_of_different_things_are_different_types() {
    let document: Value = serde_json::from_str(openapi::document()).unwrap();
    for (path, item) in
        [("workers", "Worker"), ("streams", "Stream"), ("sessions", "Session"), ("relays", "Relay"), ("processes", "Process")]
    {
        let answer = &document["paths"][format!("{PREFIX}/{path}")]["get"]["responses"]["200"]["content"]["application/json"]["schema"];
        assert_eq!(answer["$ref"], format!("#/components/schemas/PageOf{item}"));
        let items = &document["components"]["schemas"][format!("PageOf{item}")]["properties"]["items"]["items"];
        assert_eq!(items["$ref"], format!("#/components/schemas/{item}"), "{items}");
    }
}

#[test]
fn the_shape_alone_needs_no_credentials() {
    assert!(is_shape_only("/api/v2/openapi.json") && is_shape_only("/api/v2/docs"));
    for other in ["/api/v2/status", "/api/v2/docs/", "/api/v1/docs", "/docs", "/api/v2"] {
        assert!(!is_shape_only(other), "{other}");
    }
}

proptest! {
    #[test]
    fn no_request_panics(path in "(/[a-z0-9%/{}._c-]{0,12}){0,5}", query in "[a-z=&%0-9,]{0,40}", verb in 0..4usize) {
        let verb = [Some(Verb::Get), Some(Verb::Post), Some(Verb::Delete), None][verb];
        let _ = find(verb, &format!("{PREFIX}{path}"), &query);
        let _ = find(verb, &path, &query);
    }
}
