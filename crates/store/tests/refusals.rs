//! What a database refuses is set aside, on PostgreSQL and on SQLite.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[macro_use]
mod support;

use std::collections::BTreeMap;

use counter::{Seq, SetAside};
use support::{Building, Fixture, plain, set_aside};

on_both!(
    a_total_past_64_bits_is_set_aside_alone,
    a_wide_sum_that_does_not_fit_leaves_no_part,
    a_constraint_sets_aside_only_its_row,
    a_trigger_sets_aside_only_its_rows,
    a_unit_keeps_what_was_not_refused,
);

fn a_total_past_64_bits_is_set_aside_alone(fixture: &Fixture) {
    let (mut store, claim) = fixture.claimed();
    store.apply(&claim, &plain(0, 1, &[("top", i64::MAX - 1), ("bottom", i64::MIN), ("x", 1)])).unwrap();
    let batch = plain(1, 2, &[("x", 1), ("top", 2), ("new", 5), ("bottom", -1)]);
    let applied = store.apply(&claim, &batch).unwrap();
    assert_eq!(applied.totals, [Some(2), Some(i64::MAX - 1), Some(5), Some(i64::MIN)]);
    assert_eq!(
        set_aside(&applied).into_iter().collect::<BTreeMap<_, _>>(),
        [("bottom", -1), ("top", 2)].into()
    );
    assert!(applied.set_aside.iter().all(|part| !part.reason.is_empty()));
    let kept = fixture.sql("SELECT journal, seq, key, value FROM set_aside ORDER BY key");
    let journal = claim.journal;
    assert_eq!(kept, format!("{journal}|2|bottom|-1\n{journal}|2|top|2"));
    // Up to the very end it fits, from both sides.
    let applied = store.apply(&claim, &plain(2, 3, &[("top", 1), ("bottom", i64::MAX)])).unwrap();
    assert_eq!(applied.totals, [Some(i64::MAX), Some(-1)]);
    assert!(applied.set_aside.is_empty());
}

fn a_wide_sum_that_does_not_fit_leaves_no_part(fixture: &Fixture) {
    let (mut store, claim) = fixture.claimed();
    store.apply(&claim, &plain(0, 1, &[("old", -1)])).unwrap();
    let mut building = Building::default().add("fits", 3);
    for key in ["new", "old", "hopeless"] {
        building = building.add(key, i64::MAX).add(key, i64::MAX);
    }
    let batch = building.add("hopeless", i64::MAX).batch(1, 2);
    let applied = store.apply(&claim, &batch).unwrap();
    assert_eq!(applied.totals, [Some(3), None, Some(-1), None]);
    let wide = 2 * i128::from(i64::MAX);
    let expected = [("hopeless", wide + i128::from(i64::MAX)), ("new", wide), ("old", wide)];
    assert_eq!(set_aside(&applied).into_iter().collect::<BTreeMap<_, _>>(), expected.into());
    assert_eq!(fixture.table(), "fits|3\nold|-1");
    assert_eq!(store.apply(&claim, &batch).unwrap().set_aside, applied.set_aside);
}

fn a_constraint_sets_aside_only_its_row(fixture: &Fixture) {
    let (mut store, claim) = fixture.claimed();
    match fixture {
        Fixture::Postgres { .. } => fixture.sql("ALTER TABLE counters ADD CHECK (value >= 0)"),
        // SQLite can't add one to a table that exists.
        Fixture::Sqlite { .. } => fixture.sql(
            "DROP TABLE counters; CREATE TABLE counters (key TEXT NOT NULL PRIMARY KEY,
             value INTEGER NOT NULL CHECK (value >= 0)) STRICT, WITHOUT ROWID;",
        ),
    };
    let keys: Vec<String> = (0..100).map(|key| format!("{key:03}")).collect();
    let increments: Vec<(&str, i64)> =
        keys.iter().enumerate().map(|(at, key)| (key.as_str(), if at == 61 { -1 } else { 1 })).collect();
    let applied = store.apply(&claim, &plain(0, 1, &increments)).unwrap();
    assert_eq!(set_aside(&applied), [("061", -1)]);
    assert_eq!(applied.totals.iter().filter(|total| **total == Some(1)).count(), 99);
    assert_eq!(fixture.sql("SELECT count(*), sum(value) FROM counters"), "99|99");
    assert_eq!(store.standing(claim.journal).unwrap().unwrap().watermark, Seq(1));
}

fn a_trigger_sets_aside_only_its_rows(fixture: &Fixture) {
    let (mut store, claim) = fixture.claimed();
    store.apply(&claim, &plain(0, 1, &[("a", 3), ("b", 3), ("c", 3)])).unwrap();
    fixture.refuse_thirteen();
    let batch = plain(1, 2, &[("c", 10), ("new", 13), ("b", 1), ("a", 10)]);
    let applied = store.apply(&claim, &batch).unwrap();
    assert_eq!(applied.totals, [Some(3), None, Some(4), Some(3)]);
    let aside: BTreeMap<_, _> = set_aside(&applied).into_iter().collect();
    assert_eq!(aside, [("a", 10), ("c", 10), ("new", 13)].into());
    let SetAside { reason, .. } = &applied.set_aside[0];
    assert!(reason.contains("no thirteen here"), "{reason}");
    assert_eq!(fixture.table(), "a|3\nb|4\nc|3");
}

fn a_unit_keeps_what_was_not_refused(fixture: &Fixture) {
    let (mut store, claim) = fixture.claimed();
    fixture.refuse_thirteen();
    let batch = Building::default().add("a", 3).unit("u", 1, &[("a", 10), ("b", 2)]).batch(0, 1);
    let applied = store.apply(&claim, &batch).unwrap();
    assert_eq!(applied.totals, [None, Some(2)]);
    // All that the batch adds to the key, the plain part included.
    assert_eq!(set_aside(&applied), [("a", 13)]);
    let again = Building::default().unit("u", 1, &[("a", 10), ("b", 2)]).batch(1, 2);
    assert_eq!(store.apply(&claim, &again).unwrap().duplicates, [0]);
    assert_eq!(fixture.table(), "b|2");
}
