//! What every store has to do, on PostgreSQL and on SQLite.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::BTreeMap;
use std::thread;

use counter::{Applied, Seq, SetAside};
use store::{ApplyError, Claim, ClaimError, LoadError, PageQuery, Standing, StoreError, StoreUrl};
use support::{Building, Fixture, new_claim, plain, set_aside};

/// Runs each of these functions on both stores.
macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        mod postgres { $(#[test] fn $name() { super::$name(&super::Fixture::postgres()); })+ }
        mod sqlite { $(#[test] fn $name() { super::$name(&super::Fixture::sqlite()); })+ }
    };
}

on_both!(
    a_new_store_is_made_once_and_keeps_its_id,
    many_batches_add_up_exactly,
    a_batch_that_comes_again_counts_once,
    a_batch_with_units_that_comes_again_has_the_same_outcome,
    another_owner_fences,
    a_store_that_went_back_is_noticed,
    a_claim_is_a_compare_and_set,
    a_batch_without_rows_moves_the_watermark,
    two_instances_share_keys_without_deadlock,
    a_total_past_64_bits_is_set_aside_alone,
    a_sum_wider_than_64_bits_arrives,
    a_wide_sum_that_does_not_fit_leaves_no_part,
    a_constraint_sets_aside_only_its_row,
    a_trigger_sets_aside_only_its_rows,
    a_unit_keeps_what_was_not_refused,
    units_count_once_across_batches_and_journals,
    a_unit_twice_in_a_batch_counts_once,
    one_id_for_two_requests_sets_the_second_aside,
    keys_of_all_kinds_come_back,
    pages_are_in_byte_order,
    totals_and_watermark_are_one_snapshot,
    load_hands_over_everything_and_can_be_stopped,
    others_are_all_but_oneself,
    many_starts_at_once_migrate_once,
    a_newer_schema_is_refused,
);

fn a_new_store_is_made_once_and_keeps_its_id(fixture: &Fixture) {
    let id = store::open(&fixture.url()).unwrap().prepare().unwrap();
    let mut again = store::open(&fixture.url()).unwrap();
    assert_eq!(again.prepare().unwrap(), id);
    assert_eq!(again.prepare().unwrap(), id);
    assert_eq!(fixture.sql("SELECT id FROM store"), id.to_string());
    assert_eq!(fixture.sql("SELECT number FROM migrations"), "1");
}

fn many_batches_add_up_exactly(fixture: &Fixture) {
    let (mut store, claim) = fixture.claimed();
    let mut random = fastrand::Rng::with_seed(7);
    let mut model: BTreeMap<String, i64> = BTreeMap::new();
    let mut seq = 0;
    for _ in 0..30 {
        let upto = seq + random.u64(1..5);
        let mut building = Building::default();
        for _ in 0..random.usize(1..200) {
            let (key, value) = (format!("key-{}", random.u32(0..300)), random.i64(-1_000_000..1_000_000));
            *model.entry(key.clone()).or_default() += value;
            building = building.add(&key, value);
        }
        let batch = building.batch(seq, upto);
        let applied = store.apply(&claim, &batch).unwrap();
        for (row, total) in batch.rows().iter().zip(&applied.totals) {
            assert_eq!(*total, model.get(batch.key(row)).copied());
        }
        assert!(applied.duplicates.is_empty() && applied.set_aside.is_empty());
        seq = upto;
        let standing = store.standing(claim.journal).unwrap().unwrap();
        assert_eq!(standing, Standing { owner: claim.owner, watermark: Seq(seq) });
    }
    let mut loaded = BTreeMap::new();
    let watermark = store.load(claim.journal, &mut |key, value| {
        assert_eq!(loaded.insert(key.to_owned(), value), None);
        Ok(())
    });
    assert_eq!(watermark.unwrap(), Seq(seq));
    assert_eq!(loaded, model);
}

fn a_batch_that_comes_again_counts_once(fixture: &Fixture) {
    let (mut store, claim) = fixture.claimed();
    let batch = plain(0, 3, &[("b", 2), ("a", 1)]);
    let applied = store.apply(&claim, &batch).unwrap();
    assert_eq!(applied, Applied { totals: vec![Some(2), Some(1)], ..Applied::default() });
    // As after a COMMIT whose answer was lost; by another connection too.
    assert_eq!(store.apply(&claim, &batch).unwrap(), applied);
    assert_eq!(fixture.store().apply(&claim, &batch).unwrap(), applied);
    assert_eq!(fixture.table(), "a|1\nb|2");

    let next = store.apply(&claim, &plain(3, 4, &[("b", 5)])).unwrap();
    assert_eq!(next.totals, [Some(7)]);
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

fn another_owner_fences(fixture: &Fixture) {
    let (mut store, claim) = fixture.claimed();
    let usurper = Claim { owner: new_claim().owner, ..claim };
    let seen = store.standing(claim.journal).unwrap();
    fixture.store().claim(&usurper, seen).unwrap();
    for batch in [plain(0, 1, &[("a", 1)]), Building::default().unit("u", 1, &[("a", 1)]).batch(0, 1)] {
        let fenced = store.apply(&claim, &batch).unwrap_err();
        assert!(matches!(fenced, ApplyError::Fenced { journal, owner }
            if journal == claim.journal && owner == usurper.owner));
    }
    assert_eq!(fixture.table(), "");
    assert_eq!(fixture.sql("SELECT count(*) FROM idempotency_keys"), "0");
}

fn a_store_that_went_back_is_noticed(fixture: &Fixture) {
    let (mut store, claim) = fixture.claimed();
    store.apply(&claim, &plain(0, 10, &[("a", 1)])).unwrap();
    let batches = [plain(20, 30, &[("a", 1)]), Building::default().unit("u", 1, &[("b", 1)]).batch(20, 30)];
    for batch in &batches {
        let forgot = store.apply(&claim, batch).unwrap_err();
        assert!(matches!(forgot, ApplyError::Forgot { watermark: Seq(10), expected: Seq(20) }));
    }
    fixture.sql("DELETE FROM journals");
    for batch in &batches {
        let forgot = store.apply(&claim, batch).unwrap_err();
        assert!(matches!(forgot, ApplyError::Forgot { watermark: Seq(0), expected: Seq(20) }));
    }
    assert_eq!(fixture.table(), "a|1");
    assert_eq!(fixture.sql("SELECT count(*) FROM idempotency_keys"), "0");
}

fn a_claim_is_a_compare_and_set(fixture: &Fixture) {
    let mut store = fixture.store();
    let claim = new_claim();
    assert_eq!(store.standing(claim.journal).unwrap(), None);
    store.claim(&claim, None).unwrap();
    // The answer got lost, and it is made again.
    store.claim(&claim, None).unwrap();
    let seen = store.standing(claim.journal).unwrap();
    assert_eq!(seen, Some(Standing { owner: claim.owner, watermark: Seq(0) }));

    let next = Claim { owner: new_claim().owner, ..claim };
    assert!(matches!(store.claim(&next, None), Err(ClaimError::Moved)));
    store.apply(&claim, &plain(0, 4, &[("a", 1)])).unwrap();
    assert!(matches!(store.claim(&next, seen), Err(ClaimError::Moved)));
    let seen = store.standing(claim.journal).unwrap();
    store.claim(&next, seen).unwrap();
    store.claim(&next, seen).unwrap();
    let third = Claim { owner: new_claim().owner, ..claim };
    assert!(matches!(store.claim(&third, seen), Err(ClaimError::Moved)));
    let standing = Standing { owner: next.owner, watermark: Seq(4) };
    assert_eq!(store.standing(claim.journal).unwrap(), Some(standing));
}

fn a_batch_without_rows_moves_the_watermark(fixture: &Fixture) {
    let (mut store, claim) = fixture.claimed();
    for batch in [plain(0, 2, &[]), Building::default().unit("u", 1, &[]).batch(2, 3)] {
        assert_eq!(store.apply(&claim, &batch).unwrap(), Applied::default());
        assert_eq!(store.apply(&claim, &batch).unwrap(), Applied::default());
    }
    assert_eq!(store.standing(claim.journal).unwrap().unwrap().watermark, Seq(3));
}

fn two_instances_share_keys_without_deadlock(fixture: &Fixture) {
    const BATCHES: u64 = 40;
    const KEYS: u64 = 200;
    fixture.store();
    thread::scope(|scope| {
        for instance in 0..3 {
            let (mut store, claim) = fixture.claimed();
            scope.spawn(move || {
                for seq in 0..BATCHES {
                    let mut keys: Vec<String> = (0..KEYS).map(|key| format!("{key}")).collect();
                    fastrand::Rng::with_seed(instance * 1000 + seq).shuffle(&mut keys);
                    let mut building = Building::default();
                    for key in &keys {
                        building = building.add(key, 1);
                    }
                    if seq % 2 == 1 {
                        // Half of them by the longer way, ids in another order too.
                        for key in &keys[..20] {
                            building = building.unit(&format!("{seq} {key}"), 1, &[(key, 1)]);
                        }
                    }
                    let batch = building.batch(seq, seq + 1);
                    while let Err(error) = store.apply(&claim, &batch) {
                        // SQLite lets one write at a time, and may be too busy for long.
                        assert!(matches!(error, ApplyError::Store(StoreError::Unavailable(_))), "{error}");
                    }
                }
            });
        }
    });
    let ids: i64 = fixture.sql("SELECT count(*) FROM idempotency_keys").parse().unwrap();
    let plain_ones = 3 * BATCHES * KEYS;
    let total = plain_ones as i64 + ids;
    assert_eq!(fixture.sql("SELECT sum(value), count(*) FROM counters"), format!("{total}|{KEYS}"));
    if let Fixture::Postgres { server, .. } = fixture {
        assert!(!server.log().contains("deadlock"), "{}", server.log());
    }
}

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

fn a_sum_wider_than_64_bits_arrives(fixture: &Fixture) {
    let (mut store, claim) = fixture.claimed();
    store.apply(&claim, &plain(0, 1, &[("up", i64::MIN), ("down", i64::MAX)])).unwrap();
    let batch = Building::default()
        .add("up", i64::MAX)
        .add("up", i64::MAX)
        .add("up", 1)
        .add("narrow", 1)
        .add("down", i64::MIN)
        .add("down", -i64::MAX)
        .batch(1, 2);
    let applied = store.apply(&claim, &batch).unwrap();
    assert_eq!(applied.totals, [Some(i64::MAX), Some(1), Some(i64::MIN)]);
    assert_eq!(applied.set_aside, []);
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

/// Keys that a careless store would confuse, cut, fold or sort by a language's rules.
fn odd_keys() -> Vec<String> {
    let mut keys: Vec<String> = [
        "a",
        "A",
        "ä",
        "a\u{308}",
        " a",
        "a ",
        "'; DROP TABLE counters; --",
        "\"",
        "\\",
        "a\\b",
        "%",
        "_",
        "{}",
        "NULL",
        "{NULL,\"x\"}",
        "🦀",
        "🦀🦀",
        "\n",
        "\t",
        "\u{1}",
        "\u{7f}",
        "\u{80}",
        "\u{ffff}",
        "\u{10ffff}",
        "\u{10ffff}\u{10ffff}x",
        "\u{d7ff}",
        "\u{e000}",
        "مفتاح",
        "鍵",
    ]
    .map(str::to_owned)
    .into();
    keys.push("k".repeat(512));
    keys.push("🦀".repeat(128));
    keys.push("\u{10ffff}".repeat(128));
    keys
}

fn keys_of_all_kinds_come_back(fixture: &Fixture) {
    let (mut store, claim) = fixture.claimed();
    let keys = odd_keys();
    let increments: Vec<(&str, i64)> =
        keys.iter().zip(1..).map(|(key, value)| (key.as_str(), value)).collect();
    let expected: Vec<Option<i64>> = increments.iter().map(|&(_, value)| Some(value)).collect();
    assert_eq!(store.apply(&claim, &plain(0, 1, &increments)).unwrap().totals, expected);
    let asked: Vec<&str> = keys.iter().map(String::as_str).collect();
    assert_eq!(fixture.reader().totals(claim.journal, &asked).unwrap().totals, expected);
    let doubled: Vec<Option<i64>> = increments.iter().map(|&(_, value)| Some(2 * value)).collect();
    let mut building = Building::default();
    for (key, value) in increments {
        building = building.unit(key, 1, &[(key, value)]);
    }
    assert_eq!(store.apply(&claim, &building.batch(1, 2)).unwrap().totals, doubled);
}

fn pages_are_in_byte_order(fixture: &Fixture) {
    let (mut store, claim) = fixture.claimed();
    let mut keys = odd_keys();
    let increments: Vec<(&str, i64)> = keys.iter().map(|key| (key.as_str(), 1)).collect();
    store.apply(&claim, &plain(0, 1, &increments)).unwrap();
    keys.sort_unstable();
    let mut reader = fixture.reader();
    let prefixes =
        ["", "a", "ä", "🦀", "\u{d7ff}", "\u{10ffff}", "\u{10ffff}\u{10ffff}", "k", "nothing", "a\0"];
    for prefix in prefixes {
        let afters =
            keys.iter().map(|key| Some(key.as_str())).chain([None, Some(""), Some("a\0b"), Some("b")]);
        for after in afters {
            for limit in [0, 1, 3, 1000] {
                let wanted = keys.iter().filter(|key| key.starts_with(prefix));
                let wanted = wanted.filter(|key| after.is_none_or(|after| key.as_str() > after));
                let wanted: Vec<&String> = wanted.take(limit as usize).collect();
                let page = reader.page(&PageQuery { prefix, after, limit }).unwrap();
                assert!(page.iter().eq(wanted), "{prefix:?} after {after:?}: {page:?}");
            }
        }
    }
}

fn totals_and_watermark_are_one_snapshot(fixture: &Fixture) {
    const BATCHES: u64 = 100;
    let (mut store, claim) = fixture.claimed();
    let mut reader = fixture.reader();
    let snapshot = reader.totals(claim.journal, &["a", "", "a\0", "a"]).unwrap();
    assert_eq!((snapshot.watermark, snapshot.totals), (Seq(0), vec![None; 4]));
    assert_eq!(reader.totals(new_claim().journal, &[]).unwrap().totals, []);
    thread::scope(|scope| {
        let writer = scope.spawn(move || {
            for seq in 0..BATCHES {
                store.apply(&claim, &plain(seq, seq + 1, &[("a", 1), ("b", 1)])).unwrap();
            }
        });
        while !writer.is_finished() {
            let snapshot = reader.totals(claim.journal, &["b", "none", "a"]).unwrap();
            let seen = Some(snapshot.watermark.as_i64()).filter(|&seq| seq > 0);
            assert_eq!(snapshot.totals, [seen, None, seen]);
        }
    });
    let snapshot = reader.totals(claim.journal, &["a", "b"]).unwrap();
    assert_eq!(snapshot.watermark, Seq(BATCHES));
}

fn load_hands_over_everything_and_can_be_stopped(fixture: &Fixture) {
    let (mut store, claim) = fixture.claimed();
    assert_eq!(store.load(claim.journal, &mut |_, _| Err("empty".to_owned())).unwrap(), Seq(0));
    let keys: Vec<String> = (0..5000).map(|key| format!("key {key}")).collect();
    let increments: Vec<(&str, i64)> =
        keys.iter().zip(-2500..).map(|(key, value)| (key.as_str(), value)).collect();
    store.apply(&claim, &plain(0, 9, &increments)).unwrap();

    let mut count = 0;
    let stopped = store.load(claim.journal, &mut |_, _| {
        count += 1;
        if count == 1000 { Err("that is enough".to_owned()) } else { Ok(()) }
    });
    assert!(matches!(stopped, Err(LoadError::Stopped(reason)) if reason == "that is enough"));
    assert_eq!(count, 1000);

    let mut loaded = BTreeMap::new();
    let mut take = |key: &str, value| {
        loaded.insert(key.to_owned(), value);
        Ok(())
    };
    assert_eq!(store.load(claim.journal, &mut take).unwrap(), Seq(9));
    assert_eq!(loaded, increments.iter().map(|&(key, value)| (key.to_owned(), value)).collect());
    assert_eq!(store.load(new_claim().journal, &mut |_, _| Ok(())).unwrap(), Seq(0));
    store.apply(&claim, &plain(9, 10, &[("key 0", 1)])).unwrap();
}

fn others_are_all_but_oneself(fixture: &Fixture) {
    let (mut store, claim) = fixture.claimed();
    let mut reader = fixture.reader();
    assert_eq!(reader.others(claim.journal).unwrap(), []);
    let (_, other) = fixture.claimed();
    store.apply(&claim, &plain(0, 7, &[("a", 1)])).unwrap();
    assert_eq!(reader.others(claim.journal).unwrap(), [(other.journal, Seq(0))]);
    assert_eq!(reader.others(other.journal).unwrap(), [(claim.journal, Seq(7))]);
}

fn many_starts_at_once_migrate_once(fixture: &Fixture) {
    let url = fixture.url();
    let ids: Vec<_> = thread::scope(|scope| {
        let start = |_| scope.spawn(|| store::open(&url).unwrap().prepare().unwrap());
        let starts: Vec<_> = (0..8).map(start).collect();
        starts.into_iter().map(|start| start.join().unwrap()).collect()
    });
    assert!(ids.iter().all(|id| *id == ids[0]));
    assert_eq!(fixture.sql("SELECT id FROM store"), ids[0].to_string());
}

fn a_newer_schema_is_refused(fixture: &Fixture) {
    fixture.store();
    fixture.sql("INSERT INTO migrations (number) VALUES (9999)");
    let refused = store::open(&fixture.url()).unwrap().prepare().unwrap_err();
    assert!(matches!(&refused, StoreError::Refused(text) if text.contains("newer")), "{refused}");
    assert_eq!(fixture.sql("SELECT max(number) FROM migrations"), "9999");
}

#[test]
fn nothing_connects_before_it_is_used() {
    let url: StoreUrl = "postgres://nobody@127.0.0.1:1/nowhere".parse().unwrap();
    let mut store = store::open(&url).unwrap();
    store::open_reader(&url).unwrap();
    assert!(matches!(store.prepare(), Err(StoreError::Unavailable(_))));
}
