//! Promises 4, 6 and 7: what can't be taken is refused at the door, and nothing of it counts.

use std::io::Read;
use std::net::TcpStream;

use serde_json::{Value, json};
use store::testing::ThrowawayPostgres;

use crate::support::{Answer, Client, Database, Home, Server, until};
use crate::tools::{
    assert_problem, assert_says, count, count_until_refused, hoarding_home, wait_until_not_ready,
};

fn post(client: &mut Client, target: &str, body: &str) -> Answer {
    client.ask(&format!("POST {target}"), &["Content-Type: application/json"], body).unwrap()
}

fn increment(client: &mut Client, body: &Value) -> Answer {
    post(client, "/increment", &body.to_string())
}

/// The table has these totals and no other key.
#[track_caller]
fn assert_totals(home: &Home, server: Server, totals: &[(&str, i64)]) {
    for (key, total) in totals {
        assert_eq!(server.total(key), Some(*total), "{key}");
    }
    server.stop();
    let expected = totals.iter().map(|(key, total)| ((*key).to_owned(), *total)).collect();
    assert_eq!(Database::sqlite(home.sqlite()).totals(), expected);
    assert_eq!(Database::sqlite(home.sqlite()).set_aside(), []);
}

#[test]
fn keys_are_as_long_as_they_may_be_and_no_longer() {
    let home = Home::new(None);
    let server = home.start();
    let mut client = server.client();
    let (longest, too_long) = ("k".repeat(512), "k".repeat(513));
    // Two bytes each.
    let (longest_wide, too_long_wide) = ("ö".repeat(256), format!("{}k", "ö".repeat(256)));
    for key in [&longest, &longest_wide] {
        client.increment(key, 2).unwrap().expect(202);
    }
    for key in [&too_long, &too_long_wide] {
        let refused = client.increment(key, 2).unwrap();
        assert_problem(&refused, 422, "invalid");
        assert_says(&refused.body, &["513", "512"]);
    }
    for (key, why) in [("", "empty"), ("a\0b", "NUL")] {
        let refused = client.increment(key, 2).unwrap();
        assert_problem(&refused, 422, "invalid");
        assert_says(&refused.body, &[why]);
        let refused = client.increments([("fine", 1), (key, 1)]).unwrap();
        assert_problem(&refused, 422, "invalid");
        assert_eq!(refused.json()["entry"], 1);
    }
    // The bytes `\u0000`, as a client that escapes would send them.
    assert_problem(&post(&mut client, "/increment", r#"{"key":"a\u0000b","value":1}"#), 422, "invalid");
    assert_totals(&home, server, &[(&longest, 2), (&longest_wide, 2)]);
}

#[test]
fn values_are_integers_of_64_bits() {
    let home = Home::new(None);
    let server = home.start();
    let mut client = server.client();
    for value in ["9223372036854775808", "-9223372036854775809", "1e30", "1.5", "\"1\"", "null", "true", "[]"]
    {
        let refused = post(&mut client, "/increment", &format!("{{\"key\":\"it\",\"value\":{value}}}"));
        assert_problem(&refused, 422, "invalid");
        let refused = post(&mut client, "/increments", &format!("[{{\"key\":\"it\",\"value\":{value}}}]"));
        assert_problem(&refused, 422, "invalid");
        assert_eq!(refused.json()["entry"], 0);
    }
    assert_problem(&increment(&mut client, &json!({"key": "it"})), 422, "invalid");
    assert_problem(&increment(&mut client, &json!({"value": 1})), 422, "invalid");
    assert_problem(&post(&mut client, "/increment", "{\"key\":"), 400, "not_json");
    client.increment("least", i64::MIN).unwrap().expect(202);
    client.increment("most", i64::MAX).unwrap().expect(202);
    assert_totals(&home, server, &[("least", i64::MIN), ("most", i64::MAX)]);
}

#[test]
fn a_total_past_64_bits_is_refused_before_and_after_a_restart() {
    let home = hoarding_home(None);
    let server = home.start();
    let mut client = server.client();
    client.increments([("most", i64::MAX - 1), ("most", 1), ("least", i64::MIN)]).unwrap().expect(202);
    let refuses = |server: &Server| {
        let mut client = server.client();
        for (key, value) in [("most", 1), ("least", -1)] {
            let refused = client.increment(key, value).unwrap();
            assert_problem(&refused, 422, "overflow");
            assert_says(&refused.body, &[key, "nothing was counted"]);
        }
        // In order: the second passes what the first has brought close.
        let refused = client.increments([("most", -1), ("most", 2), ("new", 1)]).unwrap();
        assert_problem(&refused, 422, "overflow");
        assert_eq!(refused.json()["entry"], 1);
        assert_eq!(server.total("new"), None);
        assert_eq!((server.total("most"), server.total("least")), (Some(i64::MAX), Some(i64::MIN)));
    };
    refuses(&server);
    server.kill();
    // From the journal, and then from the store.
    let server = home.start();
    refuses(&server);
    server.stop();
    let server = home.start();
    refuses(&server);
    assert_totals(&home, server, &[("most", i64::MAX), ("least", i64::MIN)]);
}

#[test]
fn a_bulk_request_is_counted_wholly_or_not_at_all() {
    let home = Home::new(None);
    let server = home.start();
    let mut client = server.client();
    client.increments([("it", 1), ("other", 1)]).unwrap().expect(202);
    let mut body: Vec<Value> = (0..1_000).map(|_| json!({"key": "it", "value": 1})).collect();
    body[700] = json!({"key": "it", "value": "1"});
    let refused = post(&mut client, "/increments", &Value::from(body).to_string());
    assert_problem(&refused, 422, "invalid");
    assert_eq!(refused.json()["entry"], 700);
    let lines = "{\"key\":\"it\",\"value\":1}\n{\"key\":\"other\",\"value\":1}\n{\"key\":\"\",\"value\":1}\n";
    let refused = client.ask("POST /increments", &["Content-Type: application/x-ndjson"], lines).unwrap();
    assert_problem(&refused, 422, "invalid");
    assert_eq!(refused.json()["line"], 3);
    assert_totals(&home, server, &[("it", 1), ("other", 1)]);
}

/// What the engine refuses halfway leaves no trace: no total, no key, no idempotency key.
#[test]
fn a_bulk_request_that_overflows_is_taken_back() {
    let home = hoarding_home(None);
    let server = home.start();
    let mut client = server.client();
    client.increments([("most", i64::MAX - 1), ("it", 5)]).unwrap().expect(202);
    let json = r#"[{"key":"new","value":1},{"key":"it","value":7},{"key":"most","value":1},{"key":"most","value":1},{"key":"it","value":1}]"#;
    let lines = json.trim_matches(['[', ']']).replace("},{", "}\n{");
    let once = "Idempotency-Key: once";
    for (media, body) in [("application/json", json), ("application/x-ndjson", &*lines)] {
        let lines = [format!("Content-Type: {media}"), once.to_owned()];
        let lines: Vec<_> = lines.iter().map(String::as_str).collect();
        // With and without an idempotency key.
        for lines in [&lines[..1], &lines] {
            let refused = client.ask("POST /increments", lines, body).unwrap();
            assert_problem(&refused, 422, "overflow");
            assert_says(&refused.body, &["most", &(i64::MAX).to_string(), "nothing was counted"]);
            assert_eq!(refused.json()["entry"], 3);
        }
    }
    let counted = [("it", Some(5)), ("most", Some(i64::MAX - 1)), ("new", None)];
    let shows = |server: &Server| counted.map(|(key, _)| (key, server.total(key)));
    assert_eq!(shows(&server), counted);
    // The id was not used up.
    let body = r#"[{"key":"it","value":1}]"#;
    client.ask("POST /increments", &["Content-Type: application/json", once], body).unwrap().expect(202);
    client.increment("it", -1).unwrap().expect(202);
    server.kill();
    // As the journal tells it.
    let server = home.start();
    assert_eq!(shows(&server), counted);
    assert_totals(&home, server, &[("it", 5), ("most", i64::MAX - 1)]);
}

#[test]
fn as_many_counters_as_memory_may_hold_and_no_more() {
    let home = Home::new(None).set("max_counters", "3");
    let server = home.start();
    let mut client = server.client();
    client.increments([("a", 1), ("b", 1)]).unwrap().expect(202);
    let refused = client.increments([("a", 1), ("c", 1), ("d", 1)]).unwrap();
    assert_problem(&refused, 503, "too_many_counters");
    assert_eq!(server.total("c"), None, "the request that brought it was refused");
    client.increment("c", 1).unwrap().expect(202);
    let refused = client.increment("d", 1).unwrap();
    assert_problem(&refused, 503, "too_many_counters");
    assert_says(
        &refused.body,
        &["there are 3 counters already", "\\\"d\\\" would be a new one", "max_counters"],
    );
    client.increments([("a", 1), ("b", 1), ("c", 1)]).unwrap().expect(202);
    assert_totals(&home, server, &[("a", 2), ("b", 2), ("c", 2)]);
    // A store that holds more is refused at the start.
    let home = home.set("max_counters", "2");
    crate::tools::assert_refused(&home, &["more than 2 counters", "raise max_counters"]);
}

#[test]
fn a_full_journal_is_a_503_until_the_store_is_back() {
    let postgres = ThrowawayPostgres::start();
    let home = Home::new(Some(&postgres.url("totals")))
        .set("flush.interval", "20ms")
        .set("journal.max_bytes", "256KiB")
        .set("journal.segment_bytes", "64KiB");
    let server = home.start();
    count(&server, "it", 1);
    postgres.stop_immediate();
    let mut client = server.client();
    let (taken, refused) = count_until_refused(&mut client, "it", 500);
    assert!(taken > 0);
    assert_problem(&refused, 503, "journal_full");
    assert_says(&refused.body, &["262144 bytes wait for the store", "when the store has caught up"]);
    wait_until_not_ready(&server, "the journal is full (journal.max_bytes) until the store takes more");
    // Reads go on from memory.
    assert_eq!(server.total("it"), Some(taken + 1));
    let held = server.metric("incrementer_journal_bytes");
    assert!(held <= 262_144.0, "{held}");

    postgres.start_again();
    until("the server takes increments again", || (server.get("/readyz").status == 200).then_some(()));
    count(&server, "it", 1);
    server.stop();
    assert_eq!(Database::Postgres(&postgres, "totals").totals()["it"], taken + 2);
}

#[test]
fn a_body_that_is_too_large_is_refused() {
    let home = Home::new(None).set("http.max_body_bytes", "1KiB").set("http.max_bulk_body_bytes", "4KiB");
    let server = home.start();
    for (target, limit) in [("/increment", 1 << 10), ("/increments", 4 << 10)] {
        let entry = "{\"key\":\"it\",\"value\":1}";
        let entry = if target == "/increment" { entry.to_owned() } else { format!("[{entry}]") };
        let body = |length: usize| format!("{entry}{}", " ".repeat(length - entry.len()));
        post(&mut server.client(), target, &body(limit)).expect(202);
        let refused = post(&mut server.client(), target, &body(limit + 1));
        assert_eq!(refused.status, 413, "{refused:?}");
        assert_eq!(refused.header("content-type"), Some("application/problem+json"));
        assert_says(&refused.body, &[&limit.to_string()]);
    }
    assert_totals(&home, server, &[("it", 2)]);
}

/// With segments this small, a request may fit into the body's limit and not into a record.
#[test]
fn a_request_that_no_record_can_hold_is_refused() {
    let home = Home::new(None).set("journal.max_bytes", "256KiB");
    let server = home.start();
    let mut client = server.client();
    let key = "k".repeat(500);
    let refused = client.increments(std::iter::repeat_n((key.as_str(), 1), 140)).unwrap();
    assert_problem(&refused, 413, "too_large");
    assert_says(&refused.body, &["split it"]);
    client.increments(std::iter::repeat_n((key.as_str(), 1), 100)).unwrap().expect(202);
    assert_totals(&home, server, &[(&key, 100)]);
}

#[test]
fn one_connection_too_many_is_told_so() {
    let home = Home::new(None).set("http.max_connections", "2");
    let server = home.start();
    let mut kept: Vec<_> = (0..2)
        .map(|_| {
            // Those that looked whether it is ready may still be on their way out.
            until("there is room for a connection", || {
                let mut client = server.client();
                let answer = client.get("/healthz").ok()?;
                (answer.status == 200).then_some(client)
            })
        })
        .collect();
    let mut third = TcpStream::connect(server.address()).unwrap();
    let mut answer = String::new();
    third.read_to_string(&mut answer).unwrap();
    assert_says(
        &answer,
        &["HTTP/1.1 503 ", "retry-after: 1", "application/problem+json", "connection_limit"],
    );
    for client in &mut kept {
        client.increment("it", 1).unwrap().expect(202);
    }
    kept.pop();
    until("the place of one that left can be had", || {
        let answer = server.client().increment("it", 1).ok()?;
        (answer.status == 202).then_some(())
    });
    drop(kept);
    until("all have left", || {
        server.client().get("/healthz").is_ok_and(|answer| answer.status == 200).then_some(())
    });
    server.stop();
    assert_eq!(Database::sqlite(home.sqlite()).totals()["it"], 3);
}
