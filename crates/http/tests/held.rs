//! Answers that are made at once and held until they are true.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::time::Duration;

use engine::Refusal;
use http_front::{Options, Route};
use support::{Client, Running, post, post_with, start_holding};

const JSON: &str = "application/json";
const HEALTH: &str = "GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n";

fn start() -> Running {
    start_holding(Options::default())
}

fn increment(value: i64) -> Vec<u8> {
    post("/increment", JSON, format!(r#"{{"key":"k","value":{value}}}"#))
}

/// Every worker has looked at all that it was sent before: later connections were answered.
fn let_all_workers_turn(running: &Running) {
    for _ in 0..64 {
        assert_eq!(running.get("/healthz").status, 200);
    }
}

#[test]
fn no_answer_comes_before_it_is_true() {
    let running = start();
    let mut client = running.client();
    client.send(increment(3));
    running.front.wait_for(1);
    let_all_workers_turn(&running);
    assert!(client.has_nothing());
    assert_eq!(running.server.stats().requests().filter(|(route, ..)| *route == Route::Increment).count(), 0);
    running.front.answer(1);
    client.receive(false).accepted();
    assert_eq!(running.front.total("k"), Some(3));
    // The connection goes on.
    client.send(increment(4));
    running.front.wait_for(2);
    running.front.answer(1);
    client.receive(false).accepted();
    let counted = running.server.stats().requests().find(|(route, ..)| *route == Route::Increment);
    assert_eq!(counted, Some((Route::Increment, 202, 2)));
    running.stop();
}

/// Other answers among them, which are ready at once, wait for their turn.
#[test]
fn pipelined_requests_are_submitted_together_and_answered_in_order() {
    let running = start();
    let mut client = running.client();
    let mut requests = Vec::new();
    for n in 0..15 {
        requests.extend(increment(n));
        if n % 4 == 0 {
            requests.extend_from_slice(HEALTH.as_bytes());
        }
    }
    requests.extend(post("/increments", JSON, r#"[{"key":"a","value":1},{"key":"b","value":2}]"#));
    client.send(requests);
    running.front.wait_for(16);
    let_all_workers_turn(&running);
    assert!(client.has_nothing());
    for answered in 0..15 {
        running.front.answer(1);
        client.receive(false).accepted();
        if answered % 4 == 0 {
            assert_eq!(client.receive(false).json()["status"], "alive");
        }
    }
    assert!(client.has_nothing());
    running.front.answer(1);
    client.receive(false).accepted();
    assert_eq!(running.front.total("k"), Some((0..15).sum()));
    running.stop();
}

#[test]
fn a_refusal_takes_the_place_of_its_answer() {
    let running = start();
    let mut client = running.client();
    client.send([increment(i64::MAX), increment(7), HEALTH.as_bytes().to_vec(), increment(-1)].concat());
    running.front.wait_for(3);
    running.front.answer(9);
    client.receive(false).accepted();
    let refused = client.receive(false);
    assert_eq!(refused.problem(422), "overflow");
    assert!(refused.header("date").is_some() && !refused.closes());
    assert_eq!(client.receive(false).json()["status"], "alive");
    client.receive(false).accepted();

    running.front.refuse(Some(Refusal::JournalFull { max_bytes: 9 }));
    client.send(post_with(
        "/increment",
        "content-type: application/json\r\nconnection: close\r\n",
        r#"{"key":"k","value":1}"#,
    ));
    running.front.wait_for(4);
    running.front.answer(9);
    let refused = client.receive(false);
    assert_eq!((refused.problem(503).as_str(), refused.header("retry-after")), ("journal_full", Some("5")));
    assert!(refused.closes() && client.is_closed());
    let of = |status| {
        let stats = running.server.stats();
        stats
            .requests()
            .find(|found| found.0 == Route::Increment && found.1 == status)
            .map(|(.., count)| count)
    };
    assert_eq!((of(202), of(422), of(503)), (Some(2), Some(1), Some(1)));
    running.stop();
}

/// What hyper answers by itself stays behind, also when what was held is replaced.
#[test]
fn what_is_no_http_is_answered_after_what_came_before() {
    for refuse in [false, true] {
        let running = start();
        running.front.refuse(refuse.then_some(Refusal::Busy));
        let mut client = running.client();
        client.send([&increment(1), &b"rubbish\r\n\r\n"[..]].concat());
        running.front.wait_for(1);
        let_all_workers_turn(&running);
        assert!(client.has_nothing());
        running.front.answer(1);
        let first = client.receive(false);
        assert_eq!(first.status, if refuse { 429 } else { 202 });
        assert!(client.rest().starts_with(b"HTTP/1.1 400 Bad Request\r\n"));
        running.stop();
    }
}

/// A server may not answer requests of one connection in parallel unless all of them are safe (RFC
/// 9112, section 9.3.2); and what was answered 202 is in every read that is answered later.
#[test]
fn a_read_behind_an_increment_shows_it() {
    for target in ["/counters/k", "/counters"] {
        let running = start();
        let mut client = running.client();
        let read = format!("GET {target} HTTP/1.1\r\nhost: a\r\n\r\n");
        client.send([increment(3), increment(4), read.into_bytes(), increment(5)].concat());
        running.front.wait_for(2);
        let_all_workers_turn(&running);
        assert!(client.has_nothing());
        running.front.answer(1);
        client.receive(false).accepted();
        let_all_workers_turn(&running);
        assert!(client.has_nothing());
        running.front.answer(1);
        client.receive(false).accepted();
        let found = client.receive(false);
        assert!(String::from_utf8_lossy(&found.body).contains(r#"{"key":"k","value":7}"#), "{found:?}");
        running.front.wait_for(3);
        running.front.answer(1);
        client.receive(false).accepted();
        running.stop();
    }
}

/// hyper writes "100 Continue" together with the answer where the body has come already.
#[test]
fn a_refusal_reaches_a_client_that_expects_to_be_told_to_go_on() {
    let running = start();
    running.front.refuse(Some(Refusal::JournalFull { max_bytes: 9 }));
    let lines = "content-type: application/json\r\nexpect: 100-continue\r\n";
    let mut client = running.client();
    client.send([increment(1), post_with("/increment", lines, r#"{"key":"k","value":1}"#)].concat());
    for asked in 1..=2 {
        running.front.wait_for(asked);
        running.front.answer(9);
        let mut refused = client.receive(false);
        if refused.status == 100 {
            refused = client.receive(false);
        }
        assert_eq!(refused.problem(503), "journal_full");
    }
    running.stop();
}

/// The first 128 are held, the rest waits to be handed over; nothing is refused or out of order.
#[test]
fn a_client_that_pipelines_without_end_is_held_up_and_answered() {
    let running = start();
    let gate = running.front.hold();
    let mut client = running.client();
    client.send((0..400).flat_map(increment).collect::<Vec<_>>());
    running.front.wait_for(129);
    let_all_workers_turn(&running);
    assert_eq!(running.front.asked(), 129, "128 are held, one waits");
    gate.add_permits(400);
    for received in 0..400 {
        // Whatever has been submitted by now.
        while client.has_nothing() {
            running.front.answer(50);
        }
        assert_eq!(client.receive(false).status, 202, "answer {received}");
    }
    assert_eq!(running.front.total("k"), Some((0..400).sum()));
    running.stop();
}

#[test]
fn a_connection_that_is_gone_is_counted_and_holds_nobody_up() {
    let running = start();
    let mut gone = running.client();
    gone.send([increment(1), increment(2)].concat());
    running.front.wait_for(2);
    drop(gone);
    let mut clients: Vec<Client> = (0..8).map(|_| running.client()).collect();
    for client in &mut clients {
        client.send(increment(10));
    }
    running.front.wait_for(10);
    running.front.answer(99);
    for client in &mut clients {
        client.receive(false).accepted();
    }
    assert_eq!(running.front.total("k"), Some(83));
    while running.server.stats().connections_open() > 8 {
        std::thread::yield_now();
    }
    running.stop();
}

#[test]
fn a_half_closed_client_and_a_stop_wait_for_what_is_held() {
    let running = start();
    let mut half = running.client();
    half.send(increment(1));
    half.close_write();
    let mut open = running.client();
    open.send(increment(2));
    let front = running.front.clone();
    front.wait_for(2);
    let_all_workers_turn(&running);
    assert!(half.has_nothing());
    let stats = running.server.stats();
    let stopping = std::thread::spawn(move || running.stop());
    // The stop has come to both workers when nothing listens any more.
    while std::net::TcpStream::connect(open.peer()).is_ok() {
        std::thread::yield_now();
    }
    assert!(open.has_nothing() && half.has_nothing());
    assert!(stats.connections_open() >= 2);
    front.answer(2);
    for client in [&mut half, &mut open] {
        client.receive(false).accepted();
        assert!(client.is_closed());
    }
    stopping.join().unwrap();
}

/// However long a commit takes, it is no fault of a client that has sent all it wanted, or a part
/// of its next request.
#[test]
fn to_wait_for_an_answer_is_not_to_be_slow() {
    let running = start_holding(Options { head_timeout: Duration::from_millis(100), ..Options::default() });
    let mut half = running.client();
    half.send(increment(1));
    half.close_write();
    let mut broken_off = running.client();
    broken_off.send([&increment(1), &b"POST /incr"[..]].concat());
    broken_off.close_write();
    let mut partial = running.client();
    partial.send(increment(1));
    running.front.wait_for(3);
    // A head's time begins with its first byte, if that doesn't come together with a request.
    partial.send("POST /incr");
    // Longer than a header section may take, and a connection linger.
    for _ in 0..25 {
        let mut late = running.client();
        late.send("GET /");
        assert_eq!(late.receive(false).problem(408), "too_slow");
    }
    running.front.answer(9);
    for client in [&mut half, &mut broken_off, &mut partial] {
        client.receive(false).accepted();
    }
    assert!(half.is_closed() && broken_off.is_closed());
    // Now it may be.
    assert_eq!(partial.receive(false).problem(408), "too_slow");
    running.stop();
}

/// Idle connections go; one that waits for its answer is none of them.
#[test]
fn to_wait_for_an_answer_is_not_to_be_idle() {
    let running = start_holding(Options { idle_timeout: Duration::from_millis(100), ..Options::default() });
    let mut waiting = running.client();
    waiting.send(increment(1));
    running.front.wait_for(1);
    for _ in 0..3 {
        assert!(running.client().is_closed());
    }
    running.front.answer(1);
    waiting.receive(false).accepted();
    assert!(waiting.is_closed());
    running.stop();
}
