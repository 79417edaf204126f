//! A batch that is spread over some time, on PostgreSQL: the same outcome as in one statement.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use counter::Batch;
use store::ApplyError;
use support::{Building, Fixture, new_claim, set_aside, wait_until};

/// So long that the time is never over; it is rested no longer than in proportion to the work.
const LONG: Duration = Duration::from_secs(30);
const ROWS: usize = 2_100;
/// Four full ones and a rest; or fewer, where the machine is so busy that one takes as long as if it had waited
/// for a lock.
const PARTS: std::ops::RangeInclusive<u32> = 2..=5;

/// Tells how many statements have changed counters, whatever came of them for each row.
const COUNT_STATEMENTS: &str = "
    CREATE TABLE statements (at timestamptz NOT NULL);
    CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
      INSERT INTO statements VALUES (clock_timestamp()); RETURN NULL; END $$;
    CREATE TRIGGER note AFTER INSERT ON counters FOR EACH STATEMENT EXECUTE FUNCTION note()";

fn key(number: usize) -> String {
    format!("key {:04}", number * 7919 % ROWS)
}

/// Every key once, none in order.
fn batch(from: u64) -> Batch {
    let add = |building: Building, number| building.add(&key(number), number as i64);
    (0..ROWS).fold(Building::default(), add).batch(from, from + 1)
}

fn statements(fixture: &Fixture) -> u32 {
    fixture.sql("SELECT count(*) FROM statements").parse().unwrap()
}

#[test]
fn it_goes_in_parts_and_in_one_transaction() {
    let fixture = Fixture::postgres();
    let (mut store, claim) = fixture.claimed();
    fixture.sql(COUNT_STATEMENTS);
    let applied = store.apply_over(&claim, &batch(0), LONG).unwrap();
    let parts = statements(&fixture);
    assert!(PARTS.contains(&parts), "{parts}");
    let totals = |times: i64| (0..ROWS as i64).map(|value| Some(times * value)).collect::<Vec<_>>();
    assert_eq!(applied.totals, totals(1));
    assert_eq!(fixture.sql("SELECT count(DISTINCT xmin::text) FROM counters"), "1");
    // The same batch again, whose answer got lost.
    assert_eq!(store.apply_over(&claim, &batch(0), LONG).unwrap(), applied);
    assert_eq!(statements(&fixture), parts);
    assert_eq!(store.apply(&claim, &batch(1)).unwrap().totals, totals(2));
    assert_eq!(fixture.sql("SELECT sum(value) FROM counters"), (ROWS * (ROWS - 1)).to_string());
}

/// Who waits for it must not wait for longer because it rests.
#[test]
fn the_rest_goes_in_one_part_where_another_holds_a_row() {
    let fixture = Fixture::postgres();
    let (mut store, claim) = fixture.claimed();
    store.apply(&claim, &batch(0)).unwrap();
    fixture.sql(COUNT_STATEMENTS);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let url = fixture.url().to_string();
    let (holder, connection) =
        runtime.block_on(tokio_postgres::connect(&url, tokio_postgres::NoTls)).unwrap();
    let driver = runtime.spawn(connection);
    // In the second part.
    let hold = "BEGIN; SELECT FROM counters WHERE key = 'key 0600' FOR UPDATE";
    runtime.block_on(holder.batch_execute(hold)).unwrap();
    thread::scope(|scope| {
        let apply = scope.spawn(|| store.apply_over(&claim, &batch(1), LONG));
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' \
                     AND datname = current_database() AND clock_timestamp() - query_start > interval '60 ms'";
        wait_until("it has waited for long", || fixture.sql(waits) == "1");
        runtime.block_on(holder.batch_execute("COMMIT")).unwrap();
        apply.join().unwrap().unwrap();
    });
    drop(holder);
    runtime.block_on(driver).unwrap().unwrap();
    let parts = statements(&fixture);
    assert!((2..=3).contains(&parts), "{parts}");
}

/// A server that freezes while it rests holds locks.
#[test]
fn nobody_waits_long_for_one_that_freezes_in_a_rest() {
    let fixture = Fixture::postgres();
    let (mut store, claim) = fixture.claimed();
    fixture.sql(
        "CREATE TABLE limits (value text);
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           INSERT INTO limits VALUES (current_setting('idle_in_transaction_session_timeout')); RETURN NULL; END $$;
         CREATE TRIGGER note AFTER INSERT ON counters FOR EACH STATEMENT EXECUTE FUNCTION note()",
    );
    store.apply_over(&claim, &batch(0), LONG).unwrap();
    assert_eq!(fixture.sql("SELECT DISTINCT value FROM limits"), "2s");
}

/// As for a server that is far away: each part takes its time to get there.
#[test]
fn when_the_time_is_over_the_rest_goes_in_one_part() {
    let fixture = Fixture::postgres();
    let (mut store, claim) = fixture.claimed();
    fixture.sql(COUNT_STATEMENTS);
    store.apply_over(&claim, &batch(0), Duration::from_nanos(1)).unwrap();
    assert_eq!(statements(&fixture), 1);
    assert_eq!(fixture.sql("SELECT count(*) FROM counters"), ROWS.to_string());
}

#[test]
fn what_one_part_can_not_take_is_set_aside_alone() {
    let fixture = Fixture::postgres();
    let (mut store, claim) = fixture.claimed();
    fixture.sql(&format!("INSERT INTO counters VALUES ('key 1000', {})", i64::MAX));
    let refused = (0..ROWS).find(|&number| key(number) == "key 1000").unwrap();
    let applied = store.apply_over(&claim, &batch(0), LONG).unwrap();
    assert_eq!(set_aside(&applied), [("key 1000", refused as i128)]);
    let expected: Vec<_> =
        (0..ROWS as i64).map(|value| Some(if value == refused as i64 { i64::MAX } else { value })).collect();
    assert_eq!(applied.totals, expected);
    let rest = (ROWS * (ROWS - 1) / 2 - refused).to_string();
    assert_eq!(fixture.sql("SELECT sum(value) FROM counters WHERE key <> 'key 1000'"), rest);
}

#[test]
fn another_owner_fences_it_and_nothing_is_left() {
    let fixture = Fixture::postgres();
    let (mut store, claim) = fixture.claimed();
    let usurper = new_claim().owner;
    fixture.sql(&format!("UPDATE journals SET owner = '{usurper}'"));
    let fenced = store.apply_over(&claim, &batch(0), LONG).unwrap_err();
    assert!(matches!(fenced, ApplyError::Fenced { owner, .. } if owner == usurper), "{fenced}");
    assert_eq!(fixture.table(), "");
    // The session is ready for what comes next.
    assert!(store.standing(claim.journal).unwrap().is_some());
}

#[test]
fn units_and_wide_sums_are_spread_as_well() {
    let fixture = Fixture::postgres();
    let (mut store, claim) = fixture.claimed();
    fixture.sql(COUNT_STATEMENTS);
    let mut building = (0..ROWS).fold(Building::default(), |building, number| building.add(&key(number), 1));
    for _ in 0..2 {
        building = building.add("wide", i64::MAX);
    }
    // More than one statement can add.
    fixture.sql(&format!("INSERT INTO counters VALUES ('wide', {}); DELETE FROM statements", -i64::MAX));
    let batch = building.unit("id", 1, &[("key 0000", 1)]).batch(0, 1);
    let applied = store.apply_over(&claim, &batch, LONG).unwrap();
    assert!(applied.set_aside.is_empty(), "{applied:?}");
    let totals: BTreeMap<_, _> =
        batch.rows().iter().zip(&applied.totals).map(|(row, total)| (batch.key(row), *total)).collect();
    assert_eq!(totals.len(), ROWS + 1);
    assert_eq!((totals["key 0000"], totals["key 0001"]), (Some(2), Some(1)));
    assert_eq!(totals["wide"], Some(i64::MAX));
    let parts = statements(&fixture) - 1;
    assert!(PARTS.contains(&parts), "{parts}, beside what is left of the wide sum");
    assert_eq!(fixture.sql("SELECT count(*) FROM idempotency_keys"), "1");
}

/// Whether in one statement or in parts: what a trigger skips keeps its total, and that is told.
#[test]
fn a_row_that_a_trigger_skips_is_told_as_it_is() {
    let fixture = Fixture::postgres();
    let (mut store, claim) = fixture.claimed();
    fixture.sql(
        "INSERT INTO counters VALUES ('key 0001', 42);
         CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           IF NEW.key IN ('key 0001', 'key 0002') THEN RETURN NULL; END IF; RETURN NEW; END $$;
         CREATE TRIGGER skip BEFORE INSERT ON counters FOR EACH ROW EXECUTE FUNCTION skip()",
    );
    let at = |wanted: &str| (0..ROWS).find(|&number| key(number) == wanted).unwrap();
    for (from, over) in [(0, LONG), (1, Duration::ZERO)] {
        let applied = store.apply_over(&claim, &batch(from), over).unwrap();
        let skipped = (applied.totals[at("key 0001")], applied.totals[at("key 0002")]);
        assert_eq!(skipped, (Some(42), None), "over {over:?}");
        assert!(applied.set_aside.is_empty());
    }
}
