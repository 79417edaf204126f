//! The store goes away under load, or the server is told to go: increments are taken all the
//! while, and everything is in the table once in the end.

#![allow(clippy::unwrap_used, reason = "what a test can't get fails it")]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use store::testing::ThrowawayPostgres;
use support::{Database, Home, Load, PATIENCE, Server, seed, until};

fn lag(server: &Server) -> f64 {
    server.metric("incrementer_lag_seconds")
}

fn pending(server: &Server) -> f64 {
    server.metric("incrementer_pending_updates")
}

/// How long the outage takes at least: longer than it must be, where the environment says so.
fn at_least() -> Duration {
    let seconds = std::env::var("INCREMENTER_TEST_OUTAGE_SECONDS").ok();
    Duration::from_secs(seconds.map_or(0, |seconds| seconds.parse().unwrap()))
}

#[test]
fn postgres_away_under_load_is_shown_and_made_up_for() {
    let seed = seed();
    let postgres = ThrowawayPostgres::start();
    let home = Home::new(Some(&postgres.url("totals"))).set("flush.interval", "50ms");
    let server = home.start();
    let load = Load::start(seed, 4, 2000);
    load.open(&server);
    load.wait_for(&server, 200);
    let flushed = server.metric("incrementer_flushes_total");
    until("something is flushed", || (server.metric("incrementer_flushes_total") > flushed).then_some(()));

    let outage = Instant::now();
    postgres.stop_immediate();
    until("it says that the store is away", || {
        server.degraded().iter().any(|what| what.starts_with("the store is away: ")).then_some(())
    });
    let (began, before) = (lag(&server), load.accepted());
    // Past 10 s it is named as well, and by then it has grown for certain.
    until("it says that the lag grows", || {
        server.degraded().iter().any(|what| what.starts_with("the lag is ")).then_some(())
    });
    assert!(lag(&server) > 10.0 && lag(&server) > began);
    load.wait_for(&server, 100);
    std::thread::sleep(at_least().saturating_sub(outage.elapsed()));
    println!(
        "the outage took {:.1} s; meanwhile {} requests were accepted, and the lag grew to {} s",
        outage.elapsed().as_secs_f64(),
        load.accepted() - before,
        lag(&server)
    );
    // Reads of one key go on, and see what has been counted since.
    let mut client = server.client();
    for total in 1..=20 {
        client.increment("while away", 1).unwrap().expect(202);
        assert_eq!(server.total("while away"), Some(total));
    }

    postgres.start_again();
    let back = Instant::now();
    until("nothing is degraded", || server.degraded().is_empty().then_some(()));
    println!("{:.2} s after its start was over nothing was degraded", back.elapsed().as_secs_f64());
    let ledger = load.stop();
    until("all is flushed", || (pending(&server) == 0.0).then_some(()));
    assert!(lag(&server) == 0.0);
    // Before the stop: nothing has been restarted.
    let database = Database::Postgres(&postgres, "totals");
    let mut totals = database.totals();
    assert_eq!(totals.remove("while away"), Some(20));
    ledger.check(&totals);
    assert_eq!(ledger.statuses.keys().collect::<Vec<_>>(), [&202], "not every request was accepted");
    assert!(ledger.unanswered.is_empty(), "not every request was answered");
    server.stop();
}

/// A restart of the server of the database in the middle of flushes, again and again.
#[test]
fn postgres_restarted_under_load_again_and_again() {
    let seed = seed();
    let mut rng = fastrand::Rng::with_seed(seed);
    let postgres = ThrowawayPostgres::start();
    let home = Home::new(Some(&postgres.url("totals"))).set("flush.interval", "5ms");
    let server = home.start();
    let load = Load::start(seed, 3, 5000).with_retries(seed, 1, 100);
    load.open(&server);
    for _ in 0..8 {
        let flushed = server.metric("incrementer_flushes_total");
        until("something is flushed", || {
            (server.metric("incrementer_flushes_total") > flushed).then_some(())
        });
        std::thread::sleep(Duration::from_micros(rng.u64(..30_000)));
        if rng.bool() {
            postgres.stop_immediate();
            postgres.start_again();
        } else {
            // Ends all sessions, as a restart with the mode "fast" does.
            let end =
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE pid <> pg_backend_pid()";
            postgres.sql("postgres", end);
        }
    }
    let ledger = load.stop();
    until("all is flushed", || (pending(&server) == 0.0).then_some(()));
    ledger.check(&Database::Postgres(&postgres, "totals").totals());
    assert_eq!(ledger.statuses.keys().collect::<Vec<_>>(), [&202], "not every request was accepted");
    assert!(ledger.unanswered.is_empty(), "not every request was answered");
    server.stop();
}

/// A frozen database commits what it had been told, long after the server gave up waiting and
/// tries the same batch again.
#[test]
#[ignore = "it takes 40 s, because a flush has 30 s before it is given up; run it with --ignored"]
fn postgres_frozen_until_flushes_are_given_up() {
    let seed = seed();
    let postgres = ThrowawayPostgres::start();
    let home = Home::new(Some(&postgres.url("totals"))).set("flush.interval", "1ms");
    let server = home.start();
    let load = Load::start(seed, 3, 5000).with_retries(seed, 1, 100);
    load.open(&server);
    load.wait_for(&server, 500);
    postgres.sigstop();
    until("a flush is given up", || (server.metric("incrementer_flush_failures_total") > 0.0).then_some(()));
    postgres.sigcont();
    load.wait_for(&server, 500);
    let ledger = load.stop();
    until("all is flushed", || (pending(&server) == 0.0).then_some(()));
    ledger.check(&Database::Postgres(&postgres, "totals").totals());
    assert_eq!(ledger.statuses.keys().collect::<Vec<_>>(), [&202], "not every request was accepted");
    server.stop();
}

#[test]
fn a_flush_is_given_up_after_flush_timeout() {
    let postgres = ThrowawayPostgres::start();
    let home = Home::new(Some(&postgres.url("totals")));
    let home = home.set("flush.interval", "20ms").set("flush.timeout", "345ms");
    let server = home.start();
    let mut total = 0;
    // Where something else is asked of PostgreSQL just then, that is what is given up.
    let given_up = (0..3).any(|_| {
        let failures = server.metric("incrementer_flush_failures_total");
        postgres.sigstop();
        server.client().increment("it", 1).unwrap().expect(202);
        total += 1;
        until("a flush has failed", || {
            (server.metric("incrementer_flush_failures_total") > failures).then_some(())
        });
        postgres.sigcont();
        until("it is flushed", || (pending(&server) == 0.0).then_some(()));
        // A millisecond more for the one update in it.
        server.log().contains("PostgreSQL has not answered within 346ms")
    });
    assert!(given_up);
    assert_eq!(Database::Postgres(&postgres, "totals").totals()["it"], total);
    server.stop();
}

#[test]
fn lag_stays_below_ten_seconds_while_sqlite_answers() {
    let home = Home::new(None);
    lag_stays_below_ten_seconds(&home, &Database::sqlite(home.sqlite()));
}

#[test]
fn lag_stays_below_ten_seconds_while_postgres_answers() {
    let postgres = ThrowawayPostgres::start();
    let home = Home::new(Some(&postgres.url("totals")));
    lag_stays_below_ten_seconds(&home, &Database::Postgres(&postgres, "totals"));
}

/// With the default settings, for as long as several flushes take; by the time of the promise
/// the table has what was counted before.
fn lag_stays_below_ten_seconds(home: &Home, database: &Database<'_>) {
    let seed = seed();
    let server = home.start();
    let load = Load::start(seed, 2, 3000);
    load.open(&server);
    server.client().increment("early", 1).unwrap().expect(202);
    let began = Instant::now();
    let mut worst = 0.0;
    while began.elapsed() < Duration::from_millis(10_200) {
        worst = lag(&server).max(worst);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(database.totals().get("early"), Some(&1));
    assert!((4.0..10.0).contains(&worst), "the greatest lag was {worst} s; the flush interval is 5 s");
    assert!(server.degraded().is_empty());
    let ledger = load.stop();
    server.stop();
    let mut totals = database.totals();
    totals.remove("early");
    ledger.check(&totals);
}

#[test]
fn a_stop_under_load_leaves_nothing_behind_in_sqlite() {
    let home = Home::new(None);
    a_stop_under_load_leaves_nothing_behind(&home, &Database::sqlite(home.sqlite()));
}

#[test]
fn a_stop_under_load_leaves_nothing_behind_in_postgres() {
    let postgres = ThrowawayPostgres::start();
    let home = Home::new(Some(&postgres.url("totals")));
    a_stop_under_load_leaves_nothing_behind(&home, &Database::Postgres(&postgres, "totals"));
}

/// What was acknowledged is in the table when the process has ended, and a request in flight
/// is answered.
fn a_stop_under_load_leaves_nothing_behind(home: &Home, database: &Database<'_>) {
    let seed = seed();
    for round in 1..=3 {
        let server = home.start();
        let load = Load::start(seed + round, 4, 1000);
        load.open(&server);
        load.wait_for(&server, 300);
        let before = database.totals();
        let mut slow = request_in_flight(&server);
        server.signal(Signal::TERM);
        until("it is stopping", || server.log().contains("stopping").then_some(()));
        slow.write_all(b"{\"key\": \"in flight\", \"value\": 1}").unwrap();
        let mut answer = String::new();
        slow.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 202 "), "{answer}");
        server.ends_well();
        let ledger = load.stop();
        let mut totals = database.totals();
        assert_eq!(totals.remove("in flight"), Some(round as i64));
        // Counts from nought for the ledger of this round.
        for (key, total) in &mut totals {
            *total -= before.get(key).copied().unwrap_or_default();
        }
        ledger.check(&totals);
    }
}

/// A request whose body the server is waiting for, 32 bytes.
fn request_in_flight(server: &Server) -> TcpStream {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = b"POST /increment HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\n\
        Content-Type: application/json\r\nContent-Length: 32\r\n\r\n";
    stream.write_all(head).unwrap();
    let mut go_on = [0; 25];
    stream.read_exact(&mut go_on).unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream
}

#[test]
fn a_stop_without_postgres_is_bounded_and_the_next_start_brings_all_in() {
    let seed = seed();
    let postgres = ThrowawayPostgres::start();
    // Big batches and small segments: what is on its way fills several of them.
    let home = Home::new(Some(&postgres.url("totals")))
        .set("shutdown_timeout", "2s")
        .set("flush.interval", "1h")
        .set("flush.max_updates", "900")
        .set("journal.segment_bytes", "64KiB");
    let server = home.start();
    let load = Load::start(seed, 4, 1000).with_retries(seed, 1, 100);
    load.open(&server);
    load.wait_for(&server, 300);
    postgres.stop_immediate();
    load.wait_for(&server, 8000);
    let asked = Instant::now();
    server.signal(Signal::TERM);
    server.ends_well();
    // The time-out, the last moments of the threads, and a machine that is busy.
    assert!(asked.elapsed() < Duration::from_secs(6), "it took {:?}", asked.elapsed());

    // It starts without the store too, says so, and waits for it.
    let mut server = home.launch();
    let answer = server.get("/readyz").expect(503);
    assert!(answer.body.contains("starting"), "{answer:?}");
    server.client().increment("too early", 1).unwrap().expect(503);
    postgres.start_again();
    server.wait_until_ready();
    load.open(&server);
    load.wait_for(&server, 100);
    let ledger = load.stop();
    server.stop();
    ledger.check(&Database::Postgres(&postgres, "totals").totals());
}

#[test]
fn a_second_signal_ends_it_at_once_and_the_next_start_brings_all_in() {
    let postgres = ThrowawayPostgres::start();
    let home = Home::new(Some(&postgres.url("totals"))).set("shutdown_timeout", "1h");
    let mut server = home.start();
    postgres.stop_immediate();
    server.client().increment("signup", 3).unwrap().expect(202);
    server.signal(Signal::TERM);
    server.line_with("stopping");
    server.signal(Signal::TERM);
    // By the convention of shells, 128 and the signal's number.
    assert_eq!(server.wait().code(), Some(143), "{}", server.log());

    postgres.start_again();
    home.start().stop();
    let totals = Database::Postgres(&postgres, "totals").totals();
    assert_eq!(totals.into_iter().collect::<Vec<_>>(), [("signup".to_owned(), 3)]);
}
