//! Several instances on one store: sums add up, nobody waits for ever, and what one has flushed
//! the other reads.

#![allow(clippy::unwrap_used, reason = "what a test can't get fails it")]

mod support;

use std::time::Duration;

use rustix::process::Signal;
use store::testing::ThrowawayPostgres;
use support::{Database, Home, Ledger, Load, Server, seed, until};

/// Where a deadlock would be found, and told in the log, soon.
fn postgres() -> ThrowawayPostgres {
    let settings = ["fsync=off", "full_page_writes=off", "deadlock_timeout=50ms"];
    ThrowawayPostgres::start_with(&["--encoding=UTF8", "--locale=C"], &settings)
}

/// Every key once, in an order of its own.
fn send_all_keys(server: &Server, rng: &mut fastrand::Rng, keys: &[String], ledger: &mut Ledger) {
    let mut keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    rng.shuffle(&mut keys);
    server.client().increments(keys.iter().map(|&key| (key, 1))).unwrap().expect(202);
    for key in keys {
        *ledger.acknowledged.entry(key.to_owned()).or_default() += 1;
    }
}

#[test]
fn two_instances_on_an_empty_server_add_up_though_one_is_killed() {
    let seed = seed();
    let mut rng = fastrand::Rng::with_seed(seed);
    let postgres = postgres();
    let home = || Home::new(Some(&postgres.url("totals"))).set("flush.interval", "10ms");
    let (left, right) = (home(), home());
    // The database isn't there yet: both make it, or try to.
    let (mut one, mut other) = (left.launch(), right.launch());
    one.wait_until_ready();
    other.wait_until_ready();

    let keys: Vec<String> = (0..4000).map(|number| format!("key-{number}")).collect();
    let mut ledger = Ledger::default();
    let (to_one, to_other) = (Load::start(seed, 2, keys.len()), Load::start(seed + 1, 2, keys.len()));
    to_one.open(&one);
    to_other.open(&other);
    for round in 0..12 {
        send_all_keys(&one, &mut rng, &keys, &mut ledger);
        send_all_keys(&other, &mut rng, &keys, &mut ledger);
        if round % 4 == 3 {
            to_other.wait_for(&other, 1 + rng.u64(..200));
            other.kill();
            other = right.start();
            to_other.open(&other);
        }
    }
    ledger.add(&to_one.stop());
    ledger.add(&to_other.stop());
    one.stop();
    other.stop();
    ledger.check(&Database::Postgres(&postgres, "totals").totals());
    let log = postgres.log();
    assert!(!log.contains("deadlock"), "{log}");
    let journals = Database::Postgres(&postgres, "totals").rows("SELECT count(*)::text FROM journals");
    assert_eq!(journals, ["2"]);
}

#[test]
fn what_one_flushed_the_other_reads() {
    let max_age = Duration::from_millis(300);
    let postgres = postgres();
    let database = Database::Postgres(&postgres, "totals");
    let url = postgres.url("totals");
    let home = || Home::new(Some(&url)).set("flush.interval", "20ms").set("read.max_age", "300ms");
    let (left, right) = (home(), home());
    let (one, other) = (left.start(), right.start());
    let flushed = |key: &str, total: i64| {
        until("it is flushed", || (database.totals().get(key) == Some(&total)).then_some(()));
    };

    // Memory doesn't hold it, so the store is asked.
    one.client().increment("only one", 7).unwrap().expect(202);
    flushed("only one", 7);
    assert_eq!(other.total("only one"), Some(7));
    assert_eq!(other.total("nobody"), None);

    // Memory holds it, and is believed for no longer than max_age.
    one.client().increment("only one", 1).unwrap().expect(202);
    flushed("only one", 8);
    std::thread::sleep(max_age);
    assert_eq!(other.total("only one"), Some(8));

    // A key that both count, in memory from the first increment on.
    other.client().increment("both", 10).unwrap().expect(202);
    one.client().increment("both", 100).unwrap().expect(202);
    flushed("both", 110);
    std::thread::sleep(max_age);
    assert_eq!((one.total("both"), other.total("both")), (Some(110), Some(110)));

    // Pages have the keys of both, and what is not flushed.
    other.client().increment("other one", 5).unwrap().expect(202);
    flushed("other one", 5);
    std::thread::sleep(max_age);
    for server in [&one, &other] {
        for limit in [1, 2, 100] {
            let page = server.pages(limit);
            let page: Vec<_> = page.iter().map(|(key, total)| (key.as_str(), *total)).collect();
            assert_eq!(page, [("both", 110), ("only one", 8), ("other one", 5)]);
        }
    }
    one.stop();
    other.stop();
}

/// Without any look for the flushes of others: the flush of a key brings its total along.
#[test]
fn a_flush_takes_over_what_others_have_flushed() {
    let postgres = postgres();
    let url = postgres.url("totals");
    let home = || Home::new(Some(&url)).set("flush.interval", "20ms").set("read.max_age", "1h");
    let (left, right) = (home(), home());
    let (one, other) = (left.start(), right.start());
    other.client().increment("signup", 1).unwrap().expect(202);
    until("it is flushed", || (other.metric("incrementer_pending_updates") == 0.0).then_some(()));
    for round in 1..=3 {
        one.client().increment("signup", 100).unwrap().expect(202);
        until("it is flushed", || (one.metric("incrementer_pending_updates") == 0.0).then_some(()));
        other.client().increment("signup", 1).unwrap().expect(202);
        until("it is flushed", || (other.metric("incrementer_pending_updates") == 0.0).then_some(()));
        assert_eq!(other.total("signup"), Some(1 + 101 * round));
    }
}

/// Clients that try one instance, and then the other.
#[test]
fn an_idempotency_key_counts_once_on_two_instances() {
    let postgres = postgres();
    let database = Database::Postgres(&postgres, "totals");
    let url = postgres.url("totals");
    let home = || Home::new(Some(&url)).set("flush.interval", "10ms").set("read.max_age", "100ms");
    let (left, right) = (home(), home());
    let (one, other) = (left.start(), right.start());
    std::thread::scope(|scope| {
        for server in [&one, &other] {
            scope.spawn(|| {
                let mut client = server.client();
                for number in 0..400 {
                    client.increment_once(&format!("id-{number}"), "once", 5).unwrap().expect(202);
                }
            });
        }
    });
    // Another body under the same key: which one counts is for the store to say.
    one.client().increment_once("twofold", "heads", 1).unwrap().expect(202);
    other.client().increment_once("twofold", "tails", 1).unwrap().expect(202);
    for server in [&one, &other] {
        until("all is flushed", || (server.metric("incrementer_pending_updates") == 0.0).then_some(()));
    }
    let mut totals = database.totals();
    assert_eq!(totals.remove("once"), Some(2000));
    let aside = database.set_aside();
    let [(key, value, reason)] = &aside[..] else { panic!("{aside:?}") };
    let counted = if key == "heads" { "tails" } else { "heads" };
    assert_eq!((totals.get(counted), value.as_str()), (Some(&1), "1"), "{totals:?}, {aside:?}");
    assert!(!totals.contains_key(key) && reason.contains("twofold"), "{totals:?}, {aside:?}");
    std::thread::sleep(Duration::from_millis(100));
    for server in [&one, &other] {
        assert_eq!((server.total("once"), server.total(counted)), (Some(2000), Some(1)));
        assert_eq!(server.total(key), None);
    }
    one.stop();
    other.stop();
}

/// What is frozen in the middle of a flush doesn't hold the others up for ever.
#[test]
fn an_instance_that_is_frozen_under_load_loses_nothing() {
    let seed = seed();
    let postgres = postgres();
    let home = || Home::new(Some(&postgres.url("totals"))).set("flush.interval", "5ms");
    let (left, right) = (home(), home());
    let (one, other) = (left.start(), right.start());
    let (to_one, to_other) = (Load::start(seed, 2, 300), Load::start(seed + 1, 2, 300));
    to_one.open(&one);
    to_other.open(&other);
    let mut rng = fastrand::Rng::with_seed(seed);
    for _ in 0..6 {
        to_other.wait_for(&other, 1 + rng.u64(..200));
        other.signal(Signal::STOP);
        to_one.wait_for(&one, 200);
        std::thread::sleep(Duration::from_millis(rng.u64(..100)));
        other.signal(Signal::CONT);
    }
    let mut ledger = to_one.stop();
    ledger.add(&to_other.stop());
    one.stop();
    other.stop();
    assert!(ledger.unanswered.is_empty());
    ledger.check(&Database::Postgres(&postgres, "totals").totals());
}
