//! What is too much or too slow, and how it is told.

mod support;

use std::time::Duration;

use http_front::Options;
use support::{chunked, post, start_with};

const JSON: &str = "application/json";
const BODY: &str = r#"{"key":"k","value":1}"#;

#[test]
fn a_body_that_is_too_large() {
    let options = Options { increment_max_bytes: 30, increments_max_bytes: 40, ..Options::default() };
    let running = start_with(options);
    let fits = |length: usize| format!("{BODY}{}", " ".repeat(length - BODY.len()));
    running.ask(post("/increment", JSON, fits(30))).accepted();
    running.ask(post("/increments", "application/x-ndjson", fits(40))).accepted();
    for request in [
        post("/increment", JSON, fits(31)),
        post("/increments", "application/x-ndjson", fits(41)),
        chunked("", "1f\r\n").into_bytes(),
        chunked("", &format!("15\r\n{BODY}\r\na\r\n          \r\n")).into_bytes(),
    ] {
        let mut client = running.client();
        // Where the length is announced the answer comes before the body; chunks count as they come.
        client.send(&request);
        if request.ends_with(b"1f\r\n") {
            client.send(" ".repeat(31));
        }
        let reply = client.receive(false);
        assert_eq!(reply.problem(413), "too_large");
        assert!(reply.closes());
        // The rest of the body is taken, so that the answer isn't lost in a reset.
        client.send(vec![b' '; 100_000]);
        assert!(client.is_closed());
    }
    running.stop();
}

#[test]
fn a_slow_client_is_told_so() {
    let running = start_with(Options {
        head_timeout: Duration::from_millis(60),
        body_timeout: Duration::from_millis(60),
        idle_timeout: Duration::from_secs(3600),
        ..Options::default()
    });
    let mut slow_body = running.client();
    slow_body.send(&post("/increment", JSON, BODY)[..100]);
    let mut slow_chunks = running.client();
    slow_chunks.send(chunked("", "5\r\n{\"key"));
    let mut slow_head = running.client();
    slow_head.send("POST /incr");
    for mut client in [slow_body, slow_chunks, slow_head] {
        let reply = client.receive(false);
        assert_eq!(reply.problem(408), "too_slow");
        assert!(reply.closes() && client.is_closed());
    }
    // Neither limit is one for a connection at rest, nor for an engine that takes its time.
    let gate = running.front.hold();
    let mut client = running.client();
    client.send(post("/increment", JSON, BODY));
    let mut slow_head = running.client();
    slow_head.send("GET");
    slow_head.receive(false).problem(408);
    gate.add_permits(1);
    client.receive(false).accepted();
    assert!(running.front.totals().len() == 1);
    running.stop();
}

#[test]
fn an_idle_connection_is_closed() {
    let running = start_with(Options { idle_timeout: Duration::from_millis(400), ..Options::default() });
    let mut fresh = running.client();
    assert!(fresh.is_closed());
    let mut used = running.client();
    used.ask(post("/increment", JSON, BODY)).accepted();
    assert!(used.is_closed());
    running.stop();
}

#[test]
fn a_client_that_never_reads_is_left() {
    let running = start_with(Options { write_timeout: Duration::from_millis(100), ..Options::default() });
    let mut client = running.client();
    let request = b"GET /openapi.json HTTP/1.1\r\nhost: a\r\n\r\n".repeat(100);
    // Ends when the server resets the connection: nothing else makes a write fail.
    while client.try_send(&request) {}
    running.stop();
}

#[test]
fn too_much_header() {
    let running = start_with(Options { header_max_bytes: 10_000, ..Options::default() });
    let padded =
        |bytes: usize| format!("GET /healthz HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "x".repeat(bytes));
    assert_eq!(running.ask(padded(9_000)).status, 200);
    for request in [
        padded(20_000),
        padded(300_000),
        format!("GET /healthz HTTP/1.1\r\nhost: a\r\n{}\r\n", "x: y\r\n".repeat(101)),
    ] {
        let mut client = running.client();
        let reply = client.ask(&request);
        assert_eq!(reply.status, 431);
        assert!(reply.closes() && client.is_closed());
    }
    assert_eq!(running.ask(format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "x".repeat(70_000))).status, 431);
    running.stop();
    let running = start_with(Options { header_max_bytes: 100_000, ..Options::default() });
    assert_eq!(running.ask(format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "x".repeat(65_535))).status, 414);
    running.stop();
}
