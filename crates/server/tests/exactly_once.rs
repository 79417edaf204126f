//! Whatever dies, each acknowledged increment is in the table once: the whole server against kill
//! -9 at any moment, counting real input, with either store.

#![allow(clippy::unwrap_used, reason = "what a test can't get fails it")]

mod support;

use std::time::Duration;

use store::testing::ThrowawayPostgres;
use support::{Database, Home, Load, names, seed};

/// Segments are small, so that they are used again and again.
fn small(home: Home) -> Home {
    home.set("journal.segment_bytes", "64KiB")
}

#[test]
fn sqlite_survives_kills() {
    let home = small(Home::new(None));
    survives_kills(&home, &Database::sqlite(home.sqlite()));
}

#[test]
fn postgres_survives_kills() {
    let postgres = ThrowawayPostgres::start();
    let home = small(Home::new(Some(&postgres.url("totals"))));
    survives_kills(&home, &Database::Postgres(&postgres, "totals"));
}

/// Then a kill may take something along, but nothing is there twice, and each start goes well.
#[test]
fn with_ack_memory_nothing_is_counted_twice() {
    let seed = seed();
    let mut rng = fastrand::Rng::with_seed(seed);
    let home = small(Home::new(None)).set("ack", "memory").set("flush.interval", "1ms");
    let load = Load::with_names(seed, 4, names());
    for _ in 0..12 {
        let server = home.start();
        load.open(&server);
        load.wait_for(&server, 1 + rng.u64(..500));
        std::thread::sleep(Duration::from_micros(rng.u64(..10_000)));
        server.kill();
    }
    let server = home.start();
    let mut ledger = load.stop();
    server.stop();
    for (key, value) in std::mem::take(&mut ledger.acknowledged) {
        *ledger.unanswered.entry(key).or_default() += value;
    }
    ledger.check(&Database::sqlite(home.sqlite()).totals());
}

/// Kills the server again and again, at moments that nobody chose, with an empty and with a full
/// hand, in the middle of flushes and of starts.
fn survives_kills(home: &Home, database: &Database<'_>) {
    let seed = seed();
    let mut rng = fastrand::Rng::with_seed(seed);
    let load = Load::with_names(seed, 4, names()).with_retries(seed, 2, 50);
    for _ in 0..12 {
        // Now nearly all is flushed when the kill comes, now nearly nothing.
        let (interval, updates) = rng.choice([("1ms", "10000"), ("30ms", "300"), ("1h", "100000")]).unwrap();
        let settings = ["--flush-interval", interval, "--flush-max-updates", updates];
        let server = home.launch_with(home.command(&[&["serve"][..], &settings].concat()));
        load.open(&server);
        if rng.u8(..4) > 0 {
            load.wait_for(&server, 1 + rng.u64(..1500));
        }
        std::thread::sleep(Duration::from_micros(rng.u64(..60_000)));
        server.kill();
    }
    let server = home.start();
    load.open(&server);
    load.wait_for(&server, 100);
    let ledger = load.stop();
    server.stop();
    let totals = database.totals();
    ledger.check(&totals);
    for (key, &total) in totals.iter().filter(|(key, _)| key.starts_with("once-")) {
        assert_eq!(ledger.acknowledged.get(key), Some(&total), "{key}");
    }
    assert!(!ledger.unanswered.is_empty(), "no kill hit a request");
}
