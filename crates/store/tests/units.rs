//! Requests with an idempotency key, on PostgreSQL and on SQLite.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[macro_use]
mod support;

use counter::Applied;
use support::{Building, Fixture, set_aside};

on_both!(
    units_count_once_across_batches_and_journals,
    a_unit_twice_in_a_batch_counts_once,
    one_id_for_two_requests_sets_the_second_aside,
    a_batch_with_units_that_comes_again_has_the_same_outcome,
);

fn units_count_once_across_batches_and_journals(fixture: &Fixture) {
    let (mut store, claim) = fixture.claimed();
    let batch =
        Building::default().add("a", 1).unit("one", 1, &[("a", 10), ("b", 20), ("a", 30)]).batch(0, 1);
    let applied = store.apply(&claim, &batch).unwrap();
    assert_eq!(applied, Applied { totals: vec![Some(41), Some(20)], ..Applied::default() });

    let (mut other_store, other) = fixture.claimed();
    let batch = Building::default()
        .unit("one", 1, &[("a", 10), ("b", 20), ("a", 30)])
        .unit("two", 1, &[("c", 5)])
        .unit("one", 1, &[("never", 1)])
        .batch(0, 1);
    for _ in 0..2 {
        let applied = other_store.apply(&other, &batch).unwrap();
        assert_eq!(applied.duplicates, [0, 2]);
        assert_eq!(applied.totals, [Some(41), Some(20), Some(5), None]);
        assert_eq!(applied.set_aside, []);
    }
    assert_eq!(fixture.table(), "a|41\nb|20\nc|5");
    let ids = fixture.sql("SELECT id, journal, seq FROM idempotency_keys ORDER BY id");
    assert_eq!(ids, format!("one|{}|1\ntwo|{}|1", claim.journal, other.journal));
    let dated = fixture.sql(
        "SELECT count(*) FROM idempotency_keys WHERE accepted_at > '2023-11-14T22:13:20.100Z' \
                             AND accepted_at < '2023-11-14T22:13:20.200Z'",
    );
    assert_eq!(dated, "2");
}

fn a_unit_twice_in_a_batch_counts_once(fixture: &Fixture) {
    let (mut store, claim) = fixture.claimed();
    let batch = Building::default()
        .unit("twice", 1, &[("a", 1)])
        .unit("", 1, &[("a", 100)])
        .unit("twice", 1, &[("a", 1)])
        .unit("twice", 9, &[("a", 7), ("b", 7)])
        .batch(0, 1);
    for _ in 0..2 {
        let applied = store.apply(&claim, &batch).unwrap();
        assert_eq!(applied.totals, [Some(101), None]);
        assert_eq!(applied.duplicates, [2]);
        assert_eq!(set_aside(&applied), [("a", 7), ("b", 7)]);
    }
    assert_eq!(fixture.table(), "a|101");
}

fn one_id_for_two_requests_sets_the_second_aside(fixture: &Fixture) {
    let (mut store, claim) = fixture.claimed();
    store.apply(&claim, &Building::default().unit("id", 1, &[("a", 1)]).batch(0, 1)).unwrap();
    let (mut other_store, other) = fixture.claimed();
    let batch = Building::default().add("b", 2).unit("id", 2, &[("a", 5), ("z", -6)]).batch(0, 1);
    let applied = other_store.apply(&other, &batch).unwrap();
    assert_eq!(applied.totals, [Some(2), Some(1), None]);
    assert_eq!(applied.duplicates, []);
    assert_eq!(set_aside(&applied), [("a", 5), ("z", -6)]);
    assert!(applied.set_aside[0].reason.contains("\"id\""));
    assert_eq!(fixture.table(), "a|1\nb|2");
    let kept = fixture.sql("SELECT seq, key, value FROM set_aside ORDER BY key");
    assert_eq!(kept, "1|a|5\n1|z|-6");
}

fn a_batch_with_units_that_comes_again_has_the_same_outcome(fixture: &Fixture) {
    let (mut store, claim) = fixture.claimed();
    store.apply(&claim, &Building::default().unit("old", 1, &[("a", 1)]).batch(0, 1)).unwrap();
    fixture.refuse_thirteen();
    let batch = Building::default()
        .add("bad", 13)
        .unit("old", 1, &[("a", 1)])
        .unit("new", 1, &[("b", 2)])
        .unit("new", 1, &[("b", 2)])
        .unit("old", 2, &[("c", 3)])
        .batch(1, 2);
    let applied = store.apply(&claim, &batch).unwrap();
    assert_eq!(applied.totals, [None, Some(1), Some(2), None]);
    assert_eq!(applied.duplicates, [0, 2]);
    assert_eq!(set_aside(&applied), [("c", 3), ("bad", 13)]);
    assert_eq!(store.apply(&claim, &batch).unwrap(), applied);
    assert_eq!(fixture.table(), "a|1\nb|2");
}
