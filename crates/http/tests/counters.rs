//! Reading: one counter, pages, the operator's routes; HEAD wherever GET works.

mod support;

use proptest::prelude::*;
use serde_json::json;
use std::fmt::Write;
use support::{Running, post, start};

use engine::Refusal;
use http_front::Readiness;

fn count(running: &Running, keys: &[&str]) {
    for (key, value) in keys.iter().zip(1..) {
        let body = json!({ "key": key, "value": value }).to_string();
        running.ask(post("/increment", "application/json", body)).accepted();
    }
}

#[test]
fn any_key_can_be_read_however_it_is_written() {
    let running = start();
    count(&running, &["a/b", "..", ".", "a+b", "a b", "100%", "🦀", "\"\\\n\t", "/", "a?b#c"]);
    for (target, value) in [
        ("a/b", 1),
        ("a%2Fb", 1),
        ("a%2fb", 1),
        ("..", 2),
        ("%2e%2E", 2),
        (".", 3),
        ("a+b", 4),
        ("a%2Bb", 4),
        ("a%20b", 5),
        ("100%25", 6),
        ("%F0%9F%A6%80", 7),
        ("%22%5C%0A%09", 8),
        ("/", 9),
        ("%2F", 9),
        ("a%3Fb%23c", 10),
        ("a%3Fb%23c?query=ignored", 10),
    ] {
        let reply = running.get(&format!("/counters/{target}"));
        assert_eq!(reply.status, 200, "{target}");
        assert_eq!(reply.json()["value"], value, "{target}");
        assert_eq!(reply.header("content-type"), Some("application/json"));
    }
    for (target, status) in [
        ("%", 400),
        ("%4", 400),
        ("%zz", 400),
        ("%ff", 400),
        ("%C3", 400),
        ("", 422),
        ("a%00", 422),
        ("b", 404),
        ("A%2Fb", 404),
    ] {
        running.get(&format!("/counters/{target}")).problem(status);
    }
    running.get(&format!("/counters/{}", "k".repeat(513))).problem(422);
    running.get(&format!("/counters/{}", "k".repeat(512))).problem(404);
    running.stop();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_allowed_key_makes_the_round_trip(keys in proptest::collection::vec("[^\0]{1,40}", 1..8)) {
        let running = start();
        let mut client = running.client();
        for key in &keys {
            let body = json!({ "key": key, "value": 1 }).to_string();
            client.ask(post("/increment", "application/json", body)).accepted();
        }
        for key in &keys {
            let encoded = key.bytes().fold(String::new(), |mut path, byte| {
                let _ = write!(path, "%{byte:02X}");
                path
            });
            let reply = client.ask(format!("GET /counters/{encoded} HTTP/1.1\r\nhost: a\r\n\r\n"));
            let times = keys.iter().filter(|other| *other == key).count();
            prop_assert_eq!(reply.json(), json!({ "key": key, "value": times }));
        }
        running.stop();
    }
}

#[test]
fn pages_follow_each_other() {
    let running = start();
    let keys = ["a", "a&b", "a=b", "b", "ä", "ö/+ %"];
    count(&running, &keys);
    let mut target = "/counters?limit=2".to_owned();
    let mut seen = Vec::new();
    loop {
        let reply = running.get(&target);
        assert_eq!(reply.status, 200);
        let page = reply.json();
        for counter in page["counters"].as_array().unwrap() {
            seen.push(counter["key"].as_str().unwrap().to_owned());
        }
        let Some(link) = reply.header("link") else {
            assert!(page["next"].is_null());
            break;
        };
        assert_eq!(page["next"].as_str(), seen.last().map(String::as_str));
        target = link.strip_prefix('<').unwrap().strip_suffix(">; rel=\"next\"").unwrap().to_owned();
    }
    assert_eq!(seen, keys);

    let page = running.get("/counters").json();
    assert_eq!(page["counters"].as_array().unwrap().len(), 6);
    assert_eq!(page["counters"][0], json!({ "key": "a", "value": 1 }));
    let page = running.get("/counters?prefix=a&after=a&limit=1000").json();
    assert_eq!(
        page,
        json!({ "counters": [{ "key": "a&b", "value": 2 }, { "key": "a=b", "value": 3 }], "next": null })
    );
    let reply = running.get("/counters?prefix=a&limit=1");
    assert_eq!(reply.header("link"), Some("</counters?prefix=a&after=a&limit=1>; rel=\"next\""));
    let page = running.get("/counters?prefix=%C3%B6%2F%2B+%25&after=").json();
    assert_eq!(page["counters"], json!([{ "key": "ö/+ %", "value": 6 }]));
    assert_eq!(running.get("/counters?").json()["next"], json!(null));
    running.stop();
}

#[test]
fn pages_that_cannot_be() {
    let running = start();
    for query in [
        "limit=0",
        "limit=1001",
        "limit=-1",
        "limit=%2B1",
        "limit=",
        "limit=x",
        "limit=99999999999999",
        "limit=1&limit=1",
        "prefix=a&prefix=b",
        "limt=1",
        "prefix=%00",
        "after=a%00",
    ] {
        running.get(&format!("/counters?{query}")).problem(422);
    }
    running.get(&format!("/counters?prefix={}", "k".repeat(513))).problem(422);
    for query in ["prefix=%", "after=%ff", "%zz=1"] {
        running.get(&format!("/counters?{query}")).problem(400);
    }
    running.stop();
}

#[test]
fn head_is_get_without_the_body() {
    let running = start();
    count(&running, &["a", "b"]);
    running.front.set_readiness(Readiness::Ready { degraded: vec!["the store is away".into()] });
    let mut client = running.client();
    for target in [
        "/counters/a",
        "/counters/none",
        "/counters",
        "/counters?limit=1",
        "/counters?limit=0",
        "/healthz",
        "/readyz",
        "/metrics",
        "/openapi.json",
    ] {
        let get = client.ask(format!("GET {target} HTTP/1.1\r\nhost: a\r\n\r\n"));
        let head = client.ask(format!("HEAD {target} HTTP/1.1\r\nhost: a\r\n\r\n"));
        assert!(!get.body.is_empty());
        assert_eq!(head.status, get.status);
        let without_date = |headers: &[(String, String)]| -> Vec<_> {
            headers.iter().filter(|(name, _)| name != "date").cloned().collect()
        };
        assert_eq!(without_date(&head.headers), without_date(&get.headers), "{target}");
    }
    running.stop();
}

#[test]
fn what_operators_ask() {
    let running = start();
    assert_eq!(running.get("/healthz").json(), json!({ "status": "alive" }));
    assert_eq!(running.get("/readyz").json(), json!({ "status": "ready", "degraded": [] }));
    let metrics = running.get("/metrics");
    assert_eq!(metrics.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert_eq!(metrics.body, b"up 1\n");

    running.front.refuse(Some(Refusal::Starting("the journal is replayed")));
    running.front.set_readiness(Readiness::NotReady { reason: "the journal is being replayed".into() });
    let reply = running.get("/readyz");
    assert_eq!(reply.problem(503), "not_ready");
    assert_eq!(reply.json()["detail"], "the journal is being replayed");
    for target in ["/counters/a", "/counters"] {
        assert_eq!(running.get(target).problem(503), "starting");
    }
    for target in ["/healthz", "/metrics"] {
        assert_eq!(running.get(target).status, 200);
    }
    running.stop();
}
