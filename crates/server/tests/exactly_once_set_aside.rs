//! What only the store can tell: an update that it refuses for good is set aside, the rest of its
//! batch is in the totals, and memory knows it.

#![allow(clippy::unwrap_used, reason = "what a test can't get fails it")]

mod support;

use store::testing::ThrowawayPostgres;
use support::{Database, Home, Server, until};

const NEAR_THE_END: i64 = i64::MAX - 10;

fn wait_until_flushed(server: &Server) {
    until("all is flushed", || (server.metric("incrementer_pending_updates") == 0.0).then_some(()));
}

#[test]
fn postgres_a_total_that_another_instance_filled_up() {
    let postgres = ThrowawayPostgres::start();
    let home = || Home::new(Some(&postgres.url("totals"))).set("flush.interval", "50ms");
    let (left, right) = (home(), home().set("read.max_age", "1h"));
    let (one, other) = (left.start(), right.start());
    one.client().increment("full", NEAR_THE_END).unwrap().expect(202);
    wait_until_flushed(&one);
    // The other one hasn't heard of it.
    full_total_is_set_aside(&other, &Database::Postgres(&postgres, "totals"));
    other.stop();
    one.stop();
}

#[test]
fn sqlite_a_total_that_somebody_filled_up() {
    let home = Home::new(None).set("flush.interval", "50ms").set("read.max_age", "1h");
    let server = home.start();
    let database = Database::sqlite(home.sqlite());
    database.execute(&format!("INSERT INTO counters VALUES ('full', {NEAR_THE_END})"));
    full_total_is_set_aside(&server, &database);
    server.stop();
}

/// `server` doesn't know yet that the key `full` is near the end.
fn full_total_is_set_aside(server: &Server, database: &Database<'_>) {
    let mut client = server.client();
    client.increments([("before", 1), ("full", 100), ("zoo", 2)]).unwrap().expect(202);
    wait_until_flushed(server);
    let totals: Vec<_> = database.totals().into_iter().collect();
    let expected = [("before", 1), ("full", NEAR_THE_END), ("zoo", 2)];
    assert_eq!(totals, expected.map(|(key, total)| (key.to_owned(), total)));
    let aside = database.set_aside();
    assert!(matches!(&aside[..], [(key, value, _)] if key == "full" && value == "100"), "{aside:?}");
    assert_eq!(server.metric("incrementer_set_aside_total"), 1.0);
    assert!(server.log().contains("full"), "{}", server.log());

    // Memory has been told: it shows the store's total, and refuses by it.
    assert_eq!(server.total("full"), Some(NEAR_THE_END));
    let refused = client.increment("full", 11).unwrap().expect(422);
    assert_eq!(refused.json()["code"], "overflow");
    client.increment("full", 10).unwrap().expect(202);
    wait_until_flushed(server);
    assert_eq!(database.totals()["full"], i64::MAX);
    assert_eq!(database.set_aside().len(), 1);
}

#[test]
fn postgres_a_key_that_a_constraint_refuses() {
    let postgres = ThrowawayPostgres::start();
    let home = Home::new(Some(&postgres.url("totals"))).set("flush.interval", "50ms");
    let database = Database::Postgres(&postgres, "totals");
    let refuse = "ALTER TABLE counters ADD CONSTRAINT no_bad_key CHECK (key <> 'bad')";
    refused_key_is_set_aside(&home, &database, refuse);
}

/// The home of a server that is no owner of the tables, so that policies and permissions are for it.
fn home_of_plain_user(postgres: &ThrowawayPostgres) -> Home {
    let url = postgres.url("totals");
    Home::new(Some(&url)).start().stop();
    postgres.sql(
        "totals",
        "CREATE USER plain; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO plain",
    );
    Home::new(Some(&url.replace("postgres@", "plain@"))).set("flush.interval", "50ms")
}

/// Its error has the code of a permission that lacks, and was tried again for ever.
#[test]
fn postgres_a_key_that_a_policy_refuses() {
    let postgres = ThrowawayPostgres::start();
    let home = home_of_plain_user(&postgres);
    let database = Database::Postgres(&postgres, "totals");
    let refuse = "ALTER TABLE counters ENABLE ROW LEVEL SECURITY;
        CREATE POLICY everything ON counters USING (true);
        CREATE POLICY no_bad_key ON counters AS RESTRICTIVE USING (true) WITH CHECK (key <> 'bad')";
    refused_key_is_set_aside(&home, &database, refuse);
}

/// The other side of it: a permission that does lack is waited for.
#[test]
fn postgres_a_permission_that_lacks_sets_nothing_aside() {
    let postgres = ThrowawayPostgres::start();
    let home = home_of_plain_user(&postgres);
    let database = Database::Postgres(&postgres, "totals");
    let server = home.start();
    let mut client = server.client();
    client.increments([("signup", 1), ("visit", 1)]).unwrap().expect(202);
    wait_until_flushed(&server);
    database.execute("REVOKE INSERT ON counters FROM plain");
    client.increments([("signup", 2), ("new", 2)]).unwrap().expect(202);
    client.increment_once("an-id", "visit", 4).unwrap().expect(202);
    let failures = server.metric("incrementer_flush_failures_total");
    until("it was tried several times", || {
        (server.metric("incrementer_flush_failures_total") >= failures + 3.0).then_some(())
    });
    let degraded = server.degraded().concat();
    assert!(degraded.contains("permission denied") && degraded.contains("grant the user"), "{degraded}");
    client.increment("signup", 8).unwrap().expect(202);
    database.execute("GRANT INSERT ON counters TO plain");
    wait_until_flushed(&server);
    let totals: Vec<_> = database.totals().into_iter().collect();
    assert_eq!(
        totals,
        [("new", 2), ("signup", 11), ("visit", 5)].map(|(key, total)| (key.to_owned(), total))
    );
    assert_eq!((database.set_aside().len(), server.metric("incrementer_set_aside_total")), (0, 0.0));
    server.stop();
}

#[test]
fn sqlite_a_key_that_a_trigger_refuses() {
    let home = Home::new(None).set("flush.interval", "50ms");
    let refuse = "CREATE TRIGGER no_bad_key BEFORE INSERT ON counters WHEN NEW.key = 'bad'
        BEGIN SELECT RAISE(ABORT, 'no_bad_key'); END";
    refused_key_is_set_aside(&home, &Database::sqlite(home.sqlite()), refuse);
}

fn refused_key_is_set_aside(home: &Home, database: &Database<'_>, refuse: &str) {
    let server = home.start();
    database.execute(refuse);
    let mut client = server.client();
    let keys: Vec<String> = (0..500).map(|number| format!("good-{number}")).collect();
    for round in 1..=3 {
        let good = keys.iter().map(|key| (key.as_str(), 2));
        client.increments(good.chain([("bad", round)])).unwrap().expect(202);
        wait_until_flushed(&server);
        let totals = database.totals();
        assert!(totals.len() == 500 && totals.values().all(|&total| total == 2 * round), "{totals:?}");
        let aside = database.set_aside();
        assert_eq!(aside.len() as i64, round);
        let (key, value, reason) = aside.last().unwrap();
        assert_eq!((key.as_str(), value.as_str()), ("bad", round.to_string().as_str()));
        assert!(reason.contains("no_bad_key"), "{reason}");
        assert_eq!(server.metric("incrementer_set_aside_total"), round as f64);
        // Nothing of it ever reached the store, so it is no counter: neither by name nor in a page.
        assert_eq!(server.total("bad"), None);
        assert!(server.pages(1000).iter().all(|(key, _)| key.starts_with("good-")));
    }
    // With an idempotency key it is no different, and a retry doesn't bring it back.
    for _ in 0..2 {
        client.increment_once("an-id", "bad", 9).unwrap().expect(202);
        wait_until_flushed(&server);
    }
    assert_eq!(database.set_aside().len(), 4);
    assert!(server.degraded().is_empty());
    server.stop();
}
