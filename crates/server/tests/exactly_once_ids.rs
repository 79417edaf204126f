//! Idempotency keys in the real server: a retry that meets its first, a restart in between, and ids
//! that leave the store when their window has passed.

#![allow(clippy::unwrap_used, reason = "what a test can't get fails it")]

mod support;

use rustix::process::Signal;
use store::testing::ThrowawayPostgres;
use support::{Answer, Client, Database, Home, Server, until};

const REPLAYED: &str = "idempotent-replayed";

fn flushed(server: &Server) {
    until("all is flushed", || (server.metric("incrementer_pending_updates") == 0.0).then_some(()));
}

/// `POST /increments` with an `Idempotency-Key`.
fn queue_many(client: &mut Client, id: &str, body: &str) {
    client.queue("POST /increments", &[JSON, &format!("Idempotency-Key: {id}")], body);
}

const JSON: &str = "Content-Type: application/json";

/// The server is frozen while they are sent, so that all of them wait for it together.
#[test]
fn retries_while_the_first_is_in_flight_are_all_answered_and_one_counts() {
    let home = Home::new(None).set("flush.interval", "10ms");
    let server = home.start();
    let mut clients: Vec<Client> = (0..16).map(|_| server.client()).collect();
    for round in 0..10 {
        server.signal(Signal::STOP);
        for client in &mut clients {
            client.queue_increment_once(&format!("one-{round}"), "one", 3);
            queue_many(client, &format!("many-{round}"), r#"[{"key":"a","value":1},{"key":"b","value":2}]"#);
            client.send().unwrap();
        }
        server.signal(Signal::CONT);
        let (mut one, mut many) = (Vec::new(), Vec::new());
        for client in &mut clients {
            one.push(client.receive().unwrap().expect(202));
            many.push(client.receive().unwrap().expect(202));
        }
        for answers in [one, many] {
            let first: Vec<&Answer> = answers.iter().filter(|a| a.header(REPLAYED).is_none()).collect();
            assert_eq!(first.len(), 1, "{answers:?}");
        }
    }
    flushed(&server);
    let totals = Database::sqlite(home.sqlite()).totals();
    assert_eq!((totals["one"], totals["a"], totals["b"]), (30, 10, 20));
    server.stop();
}

#[test]
fn after_a_restart_sqlite_tells_repetitions_and_other_requests() {
    tells_after_a_restart(None);
}

#[test]
fn after_a_restart_postgres_tells_repetitions_and_other_requests() {
    let postgres = ThrowawayPostgres::start();
    tells_after_a_restart(Some(&postgres.url("totals")));
}

/// Flushed long ago, so that only the store knows it; and once more after `kill -9`.
fn tells_after_a_restart(url: Option<&str>) {
    let home = Home::new(url).set("flush.interval", "10ms");
    let mut server = home.start();
    let prefer = "Prefer: return=representation";
    let bulk = r#"[{"key":"bulk","value":1},{"key":"bulk","value":2}]"#;
    server.client().increment_once("order-17", "orders", 5).unwrap().expect(202);
    queue_and_expect(&server, "bulk-1", bulk, 202);
    server.client().increment("orders", 100).unwrap().expect(202);
    for crash in [false, true] {
        flushed(&server);
        if crash {
            server.kill()
        } else {
            server.stop()
        }
        server = home.start();
        assert!(server.metric("incrementer_idempotency_keys") >= 2.0);
        let mut client = server.client();
        let id = "Idempotency-Key: order-17";
        let again = client.ask("POST /increment", &[JSON, id, prefer], r#"{"key":"orders","value":5}"#);
        let again = again.unwrap().expect(200);
        assert_eq!((again.header(REPLAYED), again.json()["value"].as_i64()), (Some("true"), Some(105)));
        let other = client.increment_once("order-17", "orders", 6).unwrap().expect(422);
        assert_eq!(other.json()["code"], "idempotency_mismatch");
        assert_eq!(queue_and_expect(&server, "bulk-1", bulk, 202).header(REPLAYED), Some("true"));
        queue_and_expect(&server, "bulk-1", r#"[{"key":"bulk","value":3}]"#, 422);
        assert_eq!((server.total("orders"), server.total("bulk")), (Some(105), Some(3)));
    }
    server.stop();
}

fn queue_and_expect(server: &Server, id: &str, body: &str, status: u16) -> Answer {
    let mut client = server.client();
    queue_many(&mut client, id, body);
    client.send().unwrap();
    client.receive().unwrap().expect(status)
}

/// No more than memory may hold; those that it doesn't are the store's to tell.
#[test]
fn memory_holds_the_newest_ids_and_no_more() {
    let home = Home::new(None).set("flush.interval", "10ms").set("idempotency.max_ids", "3");
    let mut server = home.start();
    for number in 0..5 {
        server.client().increment_once(&format!("id-{number}"), "a", 1).unwrap().expect(202);
    }
    for _ in 0..2 {
        assert_eq!(server.metric("incrementer_idempotency_keys"), 3.0);
        let mut client = server.client();
        assert_eq!(client.increment_once("id-4", "a", 1).unwrap().expect(202).header(REPLAYED), Some("true"));
        flushed(&server);
        server.kill();
        server = home.start();
    }
    assert_eq!(server.client().increment_once("id-0", "a", 1).unwrap().expect(202).header(REPLAYED), None);
    flushed(&server);
    assert_eq!(server.total("a"), Some(5));
    server.stop();
}

#[test]
fn in_sqlite_an_id_leaves_after_its_window_and_counts_again() {
    leaves_after_its_window(None);
}

#[test]
fn in_postgres_an_id_leaves_after_its_window_and_counts_again() {
    let postgres = ThrowawayPostgres::start();
    leaves_after_its_window(Some(&postgres.url("totals")));
}

fn leaves_after_its_window(url: Option<&str>) {
    let home = Home::new(url).set("flush.interval", "10ms").set("idempotency.window", "1s");
    let server = home.start();
    let mut client = server.client();
    for number in 0..1200 {
        client.queue_increment_once(&format!("id-{number}"), "a", 1);
    }
    client.send().unwrap();
    for _ in 0..1200 {
        client.receive().unwrap().expect(202);
    }
    until("the ids have left", || {
        (server.metric("incrementer_idempotency_keys_purged_total") == 1200.0).then_some(())
    });
    assert_eq!(server.metric("incrementer_idempotency_keys"), 0.0);
    assert_eq!(client.increment_once("id-7", "a", 1).unwrap().expect(202).header(REPLAYED), None);
    flushed(&server);
    assert_eq!(server.total("a"), Some(1201));
    server.stop();
}

/// A server dies with a repetition in its journal, and is away for several windows.
#[test]
fn ids_are_kept_for_a_journal_that_has_not_flushed() {
    let postgres = ThrowawayPostgres::start();
    let url = postgres.url("totals");
    let home = || Home::new(Some(&url)).set("flush.interval", "10ms").set("idempotency.window", "2s");
    let (left, right) = (home(), home().set("flush.interval", "1h"));
    let (mut one, slow) = (left.start(), right.start());
    one.client().increment_once("id", "a", 1).unwrap().expect(202);
    flushed(&one);
    slow.client().increment_once("id", "a", 1).unwrap().expect(202);
    slow.kill();

    one.line_with("Idempotency keys are kept for a journal that has not flushed for long");
    assert!(one.metric("incrementer_idempotency_keys_oldest_seconds") > 4.0);
    assert_eq!(one.metric("incrementer_idempotency_keys_purged_total"), 0.0);

    let right = right.set("flush.interval", "10ms");
    let slow = right.start();
    flushed(&slow);
    let purged = |server: &Server| server.metric("incrementer_idempotency_keys_purged_total");
    until("the id has left", || (purged(&one) + purged(&slow) == 1.0).then_some(()));
    assert_eq!(Database::Postgres(&postgres, "totals").totals()["a"], 1);

    // One that stops with nothing pending keeps nothing back.
    slow.stop();
    let before = purged(&one);
    one.client().increment_once("another", "a", 1).unwrap().expect(202);
    until("that has left too", || (purged(&one) > before).then_some(()));
    assert!(!one.log().contains("leave the store without it"), "it was not closed, but written off");
    one.stop();
}
