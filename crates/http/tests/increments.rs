//! `POST /increments`: many at once, all or nothing.

mod support;

use support::{post, start, start_with};

const JSON: &str = "application/json";
const LINES: &str = "application/x-ndjson";

#[test]
fn arrays_and_lines_count() {
    let running = start();
    let mut client = running.client();
    client
        .ask(post(
            "/increments",
            JSON,
            r#" [{"key":"a","value":1}, {"value":2,"key":"b","x":[]},{"key":"a","value":4}] "#,
        ))
        .accepted();
    client
        .ask(post("/increments", LINES, "{\"key\":\"a\",\"value\":8}\r\n\n  \n{\"key\":\"c\",\"value\":-1}"))
        .accepted();
    client.ask(post("/increments", "application/jsonl", "{\"key\":\"a\",\"value\":16}\n")).accepted();
    let totals: Vec<_> = running.front.totals().into_iter().collect();
    assert_eq!(totals, [("a".into(), 29), ("b".into(), 2), ("c".into(), -1)]);
    running.stop();
}

#[test]
fn a_bad_entry_refuses_all_and_is_named() {
    let running = start();
    let mut client = running.client();
    let good = r#"{"key":"a","value":1}"#;
    for (bad, status) in [
        (r#"{"key":"","value":1}"#, 422),
        (r#"{"key":"k","value":1.5}"#, 422),
        (r#"{"key":"k"}"#, 422),
        (r#"{"key":"k","value":1,"value":1}"#, 422),
        ("7", 422),
        ("[]", 422),
    ] {
        let reply = client.ask(post("/increments", JSON, format!("[{good},{good},{bad},{good}]")));
        reply.problem(status);
        assert_eq!(reply.json()["entry"], 2, "{bad}");
        assert!(reply.json().get("line").is_none());
        let reply = client.ask(post("/increments", LINES, format!("{good}\n\n{good}\n{bad}\n{good}\n")));
        reply.problem(status);
        assert_eq!((&reply.json()["entry"], &reply.json()["line"]), (&2.into(), &4.into()), "{bad}");
    }
    for body in ["", "{", "[", "[1,", "[{\"key\":\"a\",\"value\":1},]", "[{\"key\":\"a\",\"value\":1}]]"] {
        assert_eq!(client.ask(post("/increments", JSON, body)).problem(400), "not_json", "{body}");
    }
    for body in [
        "{\"key\":\"a\",\n\"value\":1}",
        "nonsense",
        "{\"key\":\"a\",\"value\":1}{\"key\":\"a\",\"value\":1}",
    ] {
        let reply = client.ask(post("/increments", LINES, body));
        assert_eq!(reply.problem(400), "not_json");
        assert_eq!((&reply.json()["entry"], &reply.json()["line"]), (&0.into(), &1.into()), "{body}");
    }
    client.ask(post("/increments", JSON, b"[{\"key\":\"\xff\",\"value\":1}]")).problem(400);
    client.ask(post("/increments", LINES, b"\xff")).problem(400);
    for body in ["{}", "3", good] {
        let reply = client.ask(post("/increments", JSON, body));
        reply.problem(422);
        assert!(reply.json().get("entry").is_none());
    }
    let most = i64::MAX;
    let overflow = format!(r#"[{good},{{"key":"o","value":{most}}},{{"key":"o","value":1}}]"#);
    let reply = client.ask(post("/increments", JSON, overflow));
    assert_eq!(reply.problem(422), "overflow");
    assert_eq!(reply.json()["entry"], 2);
    assert!(running.front.totals().is_empty());
    running.stop();
}

#[test]
fn nothing_to_count_is_refused() {
    let running = start();
    running.ask(post("/increments", JSON, "[]")).problem(422);
    running.ask(post("/increments", LINES, "")).problem(422);
    running.ask(post("/increments", LINES, "\n \r\n")).problem(422);
    running.stop();
}

#[test]
fn many_entries_arrive_in_many_pieces() {
    let running = start();
    let line = "{\"key\":\"key-1\",\"value\":1}\n";
    let count = (4 << 20) / line.len();
    running.ask(post("/increments", LINES, line.repeat(count))).accepted();
    assert_eq!(running.front.total("key-1"), Some(count as i64));
    running.stop();
}

#[test]
fn bodies_share_a_budget() {
    let options = http_front::Options { bodies_max_bytes: 100_000, ..Default::default() };
    let running = start_with(options);
    let line = "{\"key\":\"k\",\"value\":1}\n";
    let large = post("/increments", LINES, line.repeat(300_000 / line.len()));
    let reply = running.ask(large);
    assert_eq!(reply.problem(503), "bodies_limit");
    assert!(reply.closes());
    // What it took is free again.
    running.ask(post("/increments", LINES, line.repeat(90_000 / line.len()))).accepted();
    running.stop();
}
