//! What only SQLite can do wrong.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::fs;
use std::time::Duration;

use counter::Seq;
use store::testing::{open_reader_with_timeout, open_with_timeout};
use store::{ApplyError, StoreError, StoreUrl};
use support::{Building, Fixture, plain, set_aside};

fn refused(url: &StoreUrl) -> String {
    match store::open(url).unwrap().prepare() {
        Err(StoreError::Refused(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_no_database_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("letter.txt");
    fs::write(&file, "Dear database, this is a text that is no database at all. ".repeat(100)).unwrap();
    let before = fs::read(&file).unwrap();
    assert!(refused(&StoreUrl::sqlite(&file)).contains("not a database"));
    assert_eq!(fs::read(&file).unwrap(), before);
    assert!(refused(&StoreUrl::sqlite(directory.path())).contains("is a directory"));
    assert!(refused(&StoreUrl::sqlite(directory.path().join("missing/x.db"))).contains("make it"));
    // Nobody can make files here, not even root.
    assert!(refused(&StoreUrl::sqlite("/proc/incrementer.db")).contains("/proc"));
}

#[test]
fn a_foreign_schema_and_a_foreign_encoding_are_refused() {
    let foreign = Fixture::sqlite();
    foreign.sql("CREATE TABLE counters (name TEXT, hits INTEGER)");
    assert!(refused(&foreign.url()).contains("a file of its own"));
    assert_eq!(foreign.sql("SELECT count(*) FROM sqlite_schema"), "1");

    let wide = Fixture::sqlite();
    wide.sql("PRAGMA encoding = 'UTF-16le'; CREATE TABLE x (y);");
    assert!(refused(&wide.url()).contains("UTF-16le"));
}

/// RAISE(ROLLBACK) ends the whole transaction; RAISE(FAIL) leaves the row in place that it
/// complains about. Neither may count a row twice, or lose the others.
#[test]
fn whatever_a_trigger_raises_sets_aside_only_its_row() {
    for (when, raise) in [
        ("BEFORE", "ROLLBACK"),
        ("AFTER", "ROLLBACK"),
        ("AFTER", "FAIL"),
        ("AFTER", "ABORT"),
        ("BEFORE", "ABORT"),
    ] {
        let fixture = Fixture::sqlite();
        let (mut store, claim) = fixture.claimed();
        fixture.sql(&format!(
            "CREATE TRIGGER no_new {when} INSERT ON counters WHEN NEW.value = 13
               BEGIN SELECT RAISE({raise}, 'no thirteen here'); END;
             CREATE TRIGGER no_old {when} UPDATE ON counters WHEN NEW.value = 13
               BEGIN SELECT RAISE({raise}, 'no thirteen here'); END;"
        ));
        store.apply(&claim, &plain(0, 1, &[("b", 3), ("d", 3)])).unwrap();
        let increments = [("d", 10), ("a", 1), ("b", 10), ("c", 13), ("e", 1)];
        let batch = Building::default().unit("u", 1, &increments).batch(1, 2);
        let applied = store.apply(&claim, &batch).unwrap();
        assert_eq!(applied.totals, [Some(3), Some(1), Some(3), None, Some(1)], "{when} {raise}");
        assert_eq!(set_aside(&applied), [("d", 10), ("b", 10), ("c", 13)]);
        assert_eq!(fixture.table(), "a|1\nb|3\nd|3\ne|1");
        assert_eq!(fixture.sql("SELECT seq FROM journals"), "2");
        assert_eq!(fixture.sql("SELECT id FROM idempotency_keys"), "u");
        assert_eq!(store.apply(&claim, &batch).unwrap(), applied);
    }
}

#[test]
fn a_row_that_a_trigger_skips_is_skipped() {
    let fixture = Fixture::sqlite();
    let (mut store, claim) = fixture.claimed();
    store.apply(&claim, &plain(0, 1, &[("a", 1)])).unwrap();
    fixture.sql("CREATE TRIGGER no_new BEFORE INSERT ON counters BEGIN SELECT RAISE(IGNORE); END");
    let applied = store.apply(&claim, &plain(1, 2, &[("a", 1), ("b", 1)])).unwrap();
    assert_eq!((applied.totals, applied.set_aside), (vec![Some(1), None], vec![]));
}

/// An overflow inside a trigger is an error without a class of its own.
#[test]
fn an_error_inside_a_trigger_belongs_to_its_row() {
    let fixture = Fixture::sqlite();
    let (mut store, claim) = fixture.claimed();
    fixture.sql(
        "CREATE TABLE log (n INTEGER) STRICT;
         CREATE TRIGGER log AFTER INSERT ON counters
           BEGIN INSERT INTO log VALUES (abs(NEW.value)); END;",
    );
    // abs of the least integer is an "integer overflow".
    let applied = store.apply(&claim, &plain(0, 1, &[("a", 1), ("b", i64::MIN), ("c", 1)])).unwrap();
    assert_eq!(set_aside(&applied), [("b", i128::from(i64::MIN))]);
    assert_eq!(fixture.table(), "a|1\nc|1");
    assert_eq!(fixture.sql("SELECT n FROM log"), "1\n1");
}

#[test]
fn an_id_that_is_refused_sets_its_unit_aside() {
    let fixture = Fixture::sqlite();
    let (mut store, claim) = fixture.claimed();
    fixture.sql(
        "CREATE TRIGGER no_id BEFORE INSERT ON idempotency_keys WHEN NEW.id LIKE 'bad%'
           BEGIN SELECT RAISE(ABORT, 'no bad ids'); END",
    );
    let batch = Building::default()
        .unit("good", 1, &[("a", 1)])
        .unit("bad", 1, &[("a", 10), ("b", 10)])
        .unit("bad", 1, &[("a", 10)])
        .batch(0, 1);
    for _ in 0..2 {
        let applied = store.apply(&claim, &batch).unwrap();
        assert_eq!(applied.totals, [Some(1), None]);
        assert_eq!(set_aside(&applied), [("a", 10), ("b", 10), ("a", 10)]);
        assert!(applied.set_aside[0].reason.contains("no bad ids"));
        assert_eq!(applied.duplicates, []);
    }
}

#[test]
fn a_store_that_is_busy_is_away_and_comes_back() {
    let fixture = Fixture::sqlite();
    fixture.store();
    let mut store = open_with_timeout(&fixture.url(), Duration::from_millis(50));
    let (_, claim) = fixture.claimed();
    let batch = plain(0, 1, &[("a", 1)]);

    let path = fixture.url().sqlite_path().unwrap().to_owned();
    let other = rusqlite::Connection::open(path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let away = store.apply(&claim, &batch).unwrap_err();
    assert!(matches!(away, ApplyError::Store(StoreError::Unavailable(_))), "{away}");
    // Readers don't wait for writers.
    let mut reader = open_reader_with_timeout(&fixture.url(), Duration::from_millis(50));
    assert_eq!(reader.totals(claim.journal, &["a"]).unwrap().totals, [None]);

    other.execute_batch("COMMIT").unwrap();
    assert_eq!(store.apply(&claim, &batch).unwrap().totals, [Some(1)]);
}

/// A deleted file can be written to for ever by who has it open.
#[test]
fn a_file_that_was_deleted_or_replaced_is_noticed() {
    let fixture = Fixture::sqlite();
    let (mut store, claim) = fixture.claimed();
    store.apply(&claim, &plain(0, 1, &[("a", 1)])).unwrap();
    let path = fixture.url().sqlite_path().unwrap().to_owned();
    for more in ["", "-wal", "-shm"] {
        fs::remove_file(format!("{}{more}", path.display())).unwrap();
    }
    let next = plain(1, 2, &[("a", 1)]);
    let away = store.apply(&claim, &next).unwrap_err();
    assert!(matches!(away, ApplyError::Store(StoreError::Unavailable(_))), "{away}");
    assert!(!path.exists(), "only prepare makes the file");

    fixture.store();
    let forgot = store.apply(&claim, &next).unwrap_err();
    assert!(matches!(forgot, ApplyError::Forgot { watermark: Seq(0), expected: Seq(1) }), "{forgot}");
}
