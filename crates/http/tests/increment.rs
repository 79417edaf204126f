//! `POST /increment`: bodies, preferences, idempotency keys.

mod support;

use serde_json::json;
use support::{Client, post, post_with, start};

const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded";

#[test]
fn json_that_counts() {
    let running = start();
    let mut client = running.client();
    let mut expected = 0_i64;
    for (body, value) in [
        (r#"{"key":"k","value":3}"#, 3),
        (r#"{"value":-5,"key":"k"}"#, -5),
        (r#" { "key" : "k" , "value" : 0 } "#, 0),
        (r#"{"key":"k","value":1,"other":{"key":[1,{"value":2}]},"more":1e400}"#, 1),
        (r#"{"key":"\u006b","value":7}"#, 7),
    ] {
        client.ask(post("/increment", JSON, body)).accepted();
        expected += value;
        assert_eq!(running.front.total("k"), Some(expected), "{body}");
    }
    for value in [i64::MAX, i64::MIN] {
        client.ask(post("/increment", JSON, format!(r#"{{"key":"{value}","value":{value}}}"#))).accepted();
        assert_eq!(running.front.total(&value.to_string()), Some(value));
    }
    for media_type in ["application/json; charset=utf-8", "APPLICATION/JSON;charset=\"UTF-8\""] {
        client.ask(post("/increment", media_type, r#"{"key":"c","value":1}"#)).accepted();
    }
    client.ask(post("/increment?x=y", JSON, r#"{"key":"🦀 %2F+","value":1}"#)).accepted();
    assert_eq!(running.front.total("🦀 %2F+"), Some(1));
    running.stop();
}

#[test]
fn json_that_does_not() {
    let running = start();
    let mut client = running.client();
    let long = format!(r#"{{"key":"{}","value":1}}"#, "k".repeat(513));
    for (body, status, detail) in [
        ("", 400, "not JSON"),
        ("{", 400, "not JSON"),
        (r#"{"key":"k","value":1} x"#, 400, "not JSON"),
        (r#"{"key":"k","value":01}"#, 400, "not JSON"),
        (r#"{"key":"k","value":+1}"#, 400, "not JSON"),
        (r#"{"key":1,"value":}"#, 400, "not JSON"),
        ("key=k&value=1", 400, "not JSON"),
        ("[]", 422, "an object with"),
        ("3", 422, "an object with"),
        ("null", 422, "an object with"),
        ("{}", 422, "\"key\" is missing"),
        (r#"{"value":1}"#, 422, "\"key\" is missing"),
        (r#"{"key":"k"}"#, 422, "\"value\" is missing"),
        (r#"{"key":"","value":1}"#, 422, "empty"),
        (r#"{"key":"a\u0000b","value":1}"#, 422, "NUL"),
        (long.as_str(), 422, "513 bytes"),
        (r#"{"key":null,"value":1}"#, 422, "a string as \"key\""),
        (r#"{"key":7,"value":1}"#, 422, "a string as \"key\""),
        (r#"{"key":"k","value":"3"}"#, 422, "an integer from"),
        (r#"{"key":"k","value":1.0}"#, 422, "an integer from"),
        (r#"{"key":"k","value":1e3}"#, 422, "an integer from"),
        (r#"{"key":"k","value":true}"#, 422, "an integer from"),
        (r#"{"key":"k","value":null}"#, 422, "an integer from"),
        (r#"{"key":"k","value":9223372036854775808}"#, 422, "an integer from"),
        (r#"{"key":"k","value":-9223372036854775809}"#, 422, "an integer from"),
        (r#"{"key":"k","value":99999999999999999999999}"#, 422, "an integer from"),
        (r#"{"key":"k","value":1e999}"#, 422, "out of range"),
        (r#"{"key":"k","key":"k","value":1}"#, 422, "twice"),
        (r#"{"key":"k","value":1,"value":1}"#, 422, "twice"),
        (r#"{"key":"\ud800","value":1}"#, 422, "hex escape"),
    ] {
        let reply = client.ask(post("/increment", JSON, body));
        let code = reply.problem(status);
        assert_eq!(code, if status == 400 { "not_json" } else { "invalid" });
        let says = reply.json()["detail"].as_str().unwrap().to_owned();
        assert!(says.contains(detail), "{body}: {says}");
    }
    client.ask(post("/increment", JSON, b"{\"key\":\"\xff\",\"value\":1}")).problem(400);
    // A detail never grows with what was sent.
    let huge = format!(r#"{{"key":"k","value":"{}"}}"#, "ä".repeat(100_000));
    let reply = client.ask(post("/increment", JSON, huge));
    reply.problem(422);
    assert!(reply.body.len() < 1000);
    assert!(running.front.totals().is_empty());
    running.stop();
}

#[test]
fn forms() {
    let running = start();
    let mut client = running.client();
    client.ask(post("/increment", FORM, "key=a+b%2Bc%26%F0%9F%A6%80&value=-3&x=%20")).accepted();
    assert_eq!(running.front.total("a b+c&🦀"), Some(-3));
    client
        .ask(post("/increment", "application/x-www-form-urlencoded; charset=UTF-8", "&value=4&&key=f&"))
        .accepted();
    assert_eq!(running.front.total("f"), Some(4));
    for (body, status) in [
        (&b"key=%ff&value=1"[..], 400),
        (b"key=\xff&value=1", 400),
        (b"key=100%&value=1", 400),
        (b"", 422),
        (b"key=k", 422),
        (b"value=1", 422),
        (b"key=&value=1", 422),
        (b"key=%00&value=1", 422),
        (b"key=k&value=", 422),
        (b"key=k&value=1.0", 422),
        (b"key=k&value=+1", 422),
        (b"key=k&value=%2B1", 422),
        (b"key=k&value=9223372036854775808", 422),
        (b"key=k&key=l&value=1", 422),
        (b"key=k&value=1&value=1", 422),
        (b"{\"key\":\"k\",\"value\":1}", 422),
    ] {
        client.ask(post("/increment", FORM, body)).problem(status);
    }
    assert_eq!(running.front.totals().len(), 2);
    running.stop();
}

#[test]
fn types_that_are_not_understood() {
    let running = start();
    let mut client = running.client();
    let body = r#"{"key":"k","value":1}"#;
    for lines in [
        "",
        "content-type: text/plain\r\n",
        "content-type: application/json; charset=iso-8859-1\r\n",
        "content-type: application/x-ndjson\r\n",
        "content-type: application/json\r\ncontent-encoding: gzip\r\n",
    ] {
        let reply = client.ask(post_with("/increment", lines, body));
        assert_eq!(reply.problem(415), "media_type", "{lines}");
        assert_eq!(reply.header("accept-post"), Some("application/json, application/x-www-form-urlencoded"));
        // The body was there and has been passed over: the connection goes on.
        assert!(!reply.closes(), "{lines}");
    }
    let reply = client.ask(post("/increments", FORM, body));
    reply.problem(415);
    assert_eq!(
        reply.header("accept-post"),
        Some("application/json, application/x-ndjson, application/jsonl")
    );
    let identity = "content-type: application/json\r\ncontent-encoding: identity\r\n";
    client.ask(post_with("/increment", identity, body)).accepted();
    running.stop();
}

#[test]
fn the_representation_where_it_is_preferred() {
    let running = start();
    let mut client = running.client();
    let ask = |client: &mut Client, prefer: &str| {
        let lines = format!("content-type: application/json\r\n{prefer}");
        client.ask(post_with("/increment", &lines, r#"{"key":"a\"b","value":2}"#))
    };
    for (at, prefer) in [
        "prefer: return=representation\r\n",
        "Prefer: respond-async, Return=Representation; x=y\r\n",
        "prefer: wait=5\r\nprefer: return=\"representation\"\r\n",
    ]
    .into_iter()
    .enumerate()
    {
        let reply = ask(&mut client, prefer);
        assert_eq!(reply.status, 200, "{prefer}");
        assert_eq!(reply.header("preference-applied"), Some("return=representation"));
        assert_eq!(reply.header("content-type"), Some("application/json"));
        assert_eq!(reply.json(), json!({ "key": "a\"b", "value": 2 * (at as i64 + 1) }));
    }
    for prefer in
        ["prefer: return=minimal\r\n", "prefer: return=minimal, return=representation\r\n", "prefer: \r\n"]
    {
        let reply = ask(&mut client, prefer);
        reply.accepted();
        assert_eq!(reply.header("preference-applied"), None);
    }
    running.stop();
}

#[test]
fn an_idempotency_key_counts_once() {
    let running = start();
    let mut client = running.client();
    let mut ask = |target: &str, lines: &str, body: &str| {
        let lines = format!("content-type: application/json\r\n{lines}");
        client.ask(post_with(target, &lines, body))
    };
    let body = r#"{"key":"k","value":2}"#;
    let first = ask("/increment", "idempotency-key: \"id-1\"\r\n", body);
    first.accepted();
    assert_eq!(first.header("idempotent-replayed"), None);
    for (lines, body) in [
        ("idempotency-key: \"id-1\"\r\n", body),
        ("Idempotency-Key: id-1\r\n", r#"{"value":2,"x":1,"key":"k"}"#),
    ] {
        let again = ask("/increment", lines, body);
        again.accepted();
        assert_eq!(again.header("idempotent-replayed"), Some("true"));
    }
    let preferred = ask("/increment", "idempotency-key: id-1\r\nprefer: return=representation\r\n", body);
    assert_eq!((preferred.status, preferred.header("idempotent-replayed")), (200, Some("true")));
    assert_eq!(preferred.json()["value"], 2);

    let other = ask("/increment", "idempotency-key: id-1\r\n", r#"{"key":"k","value":3}"#);
    assert_eq!(other.problem(422), "idempotency_mismatch");
    let other_route = ask("/increments", "idempotency-key: id-1\r\n", &format!("[{body}]"));
    assert_eq!(other_route.problem(422), "idempotency_mismatch");
    assert_eq!(running.front.total("k"), Some(2));

    ask("/increments", "idempotency-key: id-2\r\n", &format!("[{body},{body}]")).accepted();
    let again = ask("/increments", "idempotency-key: id-2\r\n", &format!("[{body}, {body}]"));
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!(running.front.total("k"), Some(6));

    let too_long = format!("idempotency-key: {}\r\n", "k".repeat(256));
    for lines in [
        "idempotency-key: \r\n",
        "idempotency-key: \"\"\r\n",
        "idempotency-key: a b\r\n",
        "idempotency-key: \"a\r\n",
        "idempotency-key: \u{e4}\r\n",
        "idempotency-key: a\r\nidempotency-key: a\r\n",
        too_long.as_str(),
    ] {
        assert_eq!(ask("/increment", lines, body).problem(400), "idempotency_key", "{lines}");
        assert_eq!(ask("/increments", lines, &format!("[{body}]")).problem(400), "idempotency_key");
    }
    assert_eq!(running.front.total("k"), Some(6));
    running.stop();
}

#[test]
fn an_overflow_says_where_the_counter_stands() {
    let running = start();
    running.ask(post("/increment", JSON, format!(r#"{{"key":"k","value":{}}}"#, i64::MAX))).accepted();
    let reply = running.ask(post("/increment", JSON, r#"{"key":"k","value":1}"#));
    assert_eq!(reply.problem(422), "overflow");
    assert!(reply.json()["detail"].as_str().unwrap().contains(&i64::MAX.to_string()));
    assert_eq!(running.front.total("k"), Some(i64::MAX));
    running.stop();
}
