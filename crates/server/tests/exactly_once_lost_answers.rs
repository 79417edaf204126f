//! The connection to PostgreSQL breaks at any byte, the answer to a commit gets lost: the server
//! asks for the watermark, and never guesses.

#![allow(clippy::unwrap_used, reason = "what a test can't get fails it")]

mod support;

use store::testing::ThrowawayPostgres;
use support::{Cut, Database, Home, Load, Proxy, seed, until};

#[test]
fn lost_answers_to_sums() {
    lost_answers(None, |seed| Load::start(seed, 3, 300));
}

#[test]
fn lost_answers_to_idempotent_requests() {
    lost_answers(None, |seed| Load::start(seed, 1, 300).with_retries(seed, 4, 40));
}

#[test]
fn lost_answers_to_batches_of_which_a_part_is_set_aside() {
    lost_answers(Some("key-7"), |seed| Load::start(seed, 3, 50).with_retries(seed, 1, 40));
}

/// The database refuses the key `bad`, if there is one.
fn lost_answers(bad: Option<&str>, load: impl Fn(u64) -> Load) {
    let seed = seed();
    let mut rng = fastrand::Rng::with_seed(seed);
    let postgres = ThrowawayPostgres::start();
    let proxy = Proxy::before(&postgres);
    let home = Home::new(Some(&proxy.url("totals"))).set("flush.interval", "3ms");
    let server = home.start();
    let database = Database::Postgres(&postgres, "totals");
    if let Some(bad) = bad {
        database.execute(&format!("ALTER TABLE counters ADD CHECK (key <> '{bad}')"));
    }
    let load = load(seed);
    load.open(&server);
    for _ in 0..30 {
        let flushed = server.metric("incrementer_flushes_total");
        proxy.cut(match rng.u8(..6) {
            0 => Cut::AfterRequestBytes(rng.u64(..8_000)),
            1 => Cut::AfterAnswerBytes(rng.u64(..4_000)),
            _ => Cut::BeforeAnswerToCommit,
        });
        until("the connection has been cut", || proxy.has_cut().then_some(()));
        // The next one hits a connection that works again.
        until("something is flushed", || {
            (server.metric("incrementer_flushes_total") > flushed + 1.0).then_some(())
        });
    }
    let ledger = load.stop();
    until("all is flushed", || (server.metric("incrementer_pending_updates") == 0.0).then_some(()));
    let mut totals = database.totals();
    for (key, value, _) in database.set_aside() {
        assert_eq!(Some(key.as_str()), bad);
        *totals.entry(key).or_default() += value.parse::<i64>().unwrap();
    }
    ledger.check(&totals);
    assert!(ledger.unanswered.is_empty(), "not every request was answered");
    assert_eq!(server.metric("incrementer_set_aside_total"), database.set_aside().len() as f64);
    // Memory agrees, though it has not heard every answer.
    for (key, total) in server.pages(1000) {
        assert_eq!(ledger.acknowledged.get(&key), Some(&total), "{key}");
    }
    let lost = proxy.lost();
    assert!(lost > 5, "only {lost} answers to commits were lost");
    server.stop();
}
