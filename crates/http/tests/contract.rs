//! Every route and status of the OpenAPI document is given by the server, and no other.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use engine::Refusal;
use http_front::{OPENAPI, Options, Readiness, Route};
use serde_json::Value;
use support::{Running, post, post_with, start_with};

/// (method, path, status)
type Answer = (String, String, u16);

struct Seen {
    running: Running,
    answers: BTreeSet<Answer>,
}

impl Seen {
    /// Asks, checks the status (and that a refusal is a problem), and notes it down.
    fn note(&mut self, path: &str, status: u16, request: impl AsRef<[u8]>) {
        let request = request.as_ref();
        let reply = self.running.ask(request);
        let shown = String::from_utf8_lossy(request);
        assert_eq!(reply.status, status, "{shown} {}", String::from_utf8_lossy(&reply.body));
        if status >= 400 {
            reply.problem(status);
        }
        let method = shown.split(' ').next().unwrap().to_lowercase();
        self.answers.insert((method, path.to_owned(), status));
    }
}

fn documented() -> BTreeSet<Answer> {
    let document: Value = serde_json::from_str(OPENAPI).unwrap();
    let mut answers = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            for status in operation["responses"].as_object().unwrap().keys() {
                answers.insert((method.clone(), path.clone(), status.parse().unwrap()));
            }
        }
    }
    answers
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nhost: a\r\n\r\n")
}

const ONE: &str = r#"{"key":"a","value":1}"#;
const JSON: &str = "application/json";

#[test]
fn the_document_and_the_server_agree() {
    let options = Options { body_timeout: Duration::from_millis(50), ..Options::default() };
    let mut seen = Seen { running: start_with(options), answers: BTreeSet::new() };

    for (path, body, max_bytes) in
        [("/increment", ONE.to_owned(), 1 << 20), ("/increments", format!("[{ONE}]"), 16 << 20)]
    {
        seen.note(path, 202, post(path, JSON, &body));
        seen.note(path, 400, post(path, JSON, "{"));
        seen.note(
            path,
            408,
            format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-type: {JSON}\r\ncontent-length: 9\r\n\r\n{{"),
        );
        let too_long = max_bytes + 1;
        seen.note(path, 413, format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-type: {JSON}\r\ncontent-length: {too_long}\r\n\r\n"));
        seen.note(path, 415, post(path, "text/plain", &body));
        seen.note(path, 422, post(path, JSON, body.replace('1', "1.5")));
        for (refusal, status) in refusals() {
            seen.running.front.refuse(Some(refusal));
            seen.note(path, status, post(path, JSON, &body));
        }
        seen.running.front.refuse(None);
    }
    seen.note(
        "/increment",
        200,
        post_with("/increment", "content-type: application/json\r\nprefer: return=representation\r\n", ONE),
    );

    let key = "/counters/{key}";
    seen.note(key, 200, get("/counters/a"));
    seen.note(key, 400, get("/counters/%zz"));
    seen.note(key, 404, get("/counters/b"));
    seen.note(key, 422, get("/counters/"));
    seen.note("/counters", 200, get("/counters"));
    seen.note("/counters", 400, get("/counters?prefix=%ff"));
    seen.note("/counters", 422, get("/counters?limit=0"));
    for target in ["/healthz", "/readyz", "/metrics", "/openapi.json"] {
        seen.note(target, 200, get(target));
    }
    seen.running.front.refuse(Some(Refusal::StoreAway("refused".into())));
    seen.running.front.set_readiness(Readiness::NotReady { reason: "the journal is full".into() });
    seen.note(key, 503, get("/counters/a"));
    seen.note("/counters", 503, get("/counters"));
    seen.note("/readyz", 503, get("/readyz"));
    seen.note("/healthz", 200, get("/healthz"));

    assert_eq!(seen.answers, documented());
    seen.running.stop();
}

/// Every refusal of the engine that a request to count can meet.
fn refusals() -> Vec<(Refusal, u16)> {
    let key = || String::from("a");
    vec![
        (Refusal::Overflow { entry: 0, key: key(), total: i64::MAX, value: 1 }, 422),
        (Refusal::TooManyCounters { limit: 1, key: key() }, 503),
        (Refusal::JournalFull { max_bytes: 1 }, 503),
        (Refusal::DiskFull { reason: "no space left".into() }, 503),
        (Refusal::Busy, 429),
        (Refusal::TooLarge { max_bytes: 1 }, 413),
        (Refusal::IdempotencyMismatch, 422),
        (Refusal::Starting("the journal is replayed"), 503),
        (Refusal::Stopping, 503),
        (Refusal::StoreAway("refused".into()), 503),
    ]
}

#[test]
fn every_refusal_has_a_documented_code_of_its_own() {
    let running = start_with(Options::default());
    let document: Value = serde_json::from_str(OPENAPI).unwrap();
    let known = document["components"]["schemas"]["Problem"]["properties"]["code"]["enum"].clone();
    let mut codes = BTreeSet::new();
    for (refusal, status) in refusals() {
        running.front.refuse(Some(refusal));
        let code = running.ask(post("/increment", JSON, ONE)).problem(status);
        assert!(known.as_array().unwrap().contains(&Value::from(code.as_str())), "{code}");
        assert!(codes.insert(code));
    }
    assert_eq!(running.get("/openapi.json").json(), document);
    running.stop();
}

#[test]
fn the_routes_of_the_statistics_are_those_of_the_document() {
    let document: Value = serde_json::from_str(OPENAPI).unwrap();
    let mut documented: Vec<_> = document["paths"].as_object().unwrap().keys().cloned().collect();
    let mut counted: Vec<_> =
        Route::ALL.into_iter().filter(|&route| route != Route::Unknown).map(Route::template).collect();
    documented.sort();
    counted.sort_unstable();
    assert_eq!(documented, counted);
}

#[test]
fn wrong_paths_and_methods() {
    let running = start_with(Options::default());
    for target in ["/", "/increment/", "/Increment", "/counter/a", "/increments/1", "/healthz/"] {
        assert_eq!(running.get(target).problem(404), "no_such_resource");
    }
    for (method, target, allow) in [
        ("GET", "/increment", "POST"),
        ("HEAD", "/increments", "POST"),
        ("PUT", "/increment", "POST"),
        ("POST", "/counters", "GET, HEAD"),
        ("DELETE", "/counters/a", "GET, HEAD"),
        ("OPTIONS", "/healthz", "GET, HEAD"),
        ("POST", "/readyz", "GET, HEAD"),
        ("PATCH", "/metrics", "GET, HEAD"),
        ("FROB", "/openapi.json", "GET, HEAD"),
    ] {
        let reply = running.ask(format!("{method} {target} HTTP/1.1\r\nhost: a\r\n\r\n"));
        assert_eq!(reply.status, 405, "{method} {target}");
        assert_eq!(reply.header("allow"), Some(allow));
    }
    running.stop();
}
