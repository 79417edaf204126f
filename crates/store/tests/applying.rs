//! Moving the watermark and adding sums, on PostgreSQL and on SQLite.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[macro_use]
mod support;

use std::collections::BTreeMap;
use std::thread;

use counter::{Applied, Seq};
use store::{ApplyError, Claim, ClaimError, Standing, StoreError, StoreUrl};
use support::{Building, Fixture, new_claim, plain};

on_both!(
    a_new_store_is_made_once_and_keeps_its_id,
    many_starts_at_once_migrate_once,
    a_newer_schema_is_refused,
    a_claim_is_a_compare_and_set,
    many_batches_add_up_exactly,
    a_batch_that_comes_again_counts_once,
    a_batch_without_rows_moves_the_watermark,
    who_moved_the_watermark_stands_beside_it,
    another_owner_fences,
    a_store_that_went_back_is_noticed,
    two_instances_share_keys_without_deadlock,
    a_sum_wider_than_64_bits_arrives,
);

fn a_new_store_is_made_once_and_keeps_its_id(fixture: &Fixture) {
    let id = store::open(&fixture.url()).unwrap().prepare().unwrap();
    let mut again = store::open(&fixture.url()).unwrap();
    assert_eq!(again.prepare().unwrap(), id);
    assert_eq!(again.prepare().unwrap(), id);
    assert_eq!(fixture.sql("SELECT id FROM store"), id.to_string());
    assert_eq!(fixture.sql("SELECT number FROM migrations"), "1\n2\n3\n4");
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

fn a_claim_is_a_compare_and_set(fixture: &Fixture) {
    let mut store = fixture.store();
    let claim = new_claim();
    assert_eq!(store.standing(claim.journal).unwrap(), None);
    store.claim(&claim, None, u64::MAX).unwrap();
    // The answer got lost, and it is made again.
    store.claim(&claim, None, u64::MAX).unwrap();
    let seen = store.standing(claim.journal).unwrap();
    assert_eq!(seen, Some(Standing { owner: claim.owner, watermark: Seq(0), moved_by: None }));

    let next = Claim { owner: new_claim().owner, ..claim };
    assert!(matches!(store.claim(&next, None, u64::MAX), Err(ClaimError::Moved)));
    store.apply(&claim, &plain(0, 4, &[("a", 1)])).unwrap();
    assert!(matches!(store.claim(&next, seen, u64::MAX), Err(ClaimError::Moved)));
    let seen = store.standing(claim.journal).unwrap();
    store.claim(&next, seen, u64::MAX).unwrap();
    store.claim(&next, seen, u64::MAX).unwrap();
    let third = Claim { owner: new_claim().owner, ..claim };
    assert!(matches!(store.claim(&third, seen, u64::MAX), Err(ClaimError::Moved)));
    // A claim moves nothing.
    let standing = Standing { owner: next.owner, watermark: Seq(4), moved_by: Some(claim.owner) };
    assert_eq!(store.standing(claim.journal).unwrap(), Some(standing));
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
        assert_eq!(
            standing,
            Standing { owner: claim.owner, watermark: Seq(seq), moved_by: Some(claim.owner) }
        );
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

fn a_batch_without_rows_moves_the_watermark(fixture: &Fixture) {
    let (mut store, claim) = fixture.claimed();
    for batch in [plain(0, 2, &[]), Building::default().unit("u", 1, &[]).batch(2, 3)] {
        assert_eq!(store.apply(&claim, &batch).unwrap(), Applied::default());
        assert_eq!(store.apply(&claim, &batch).unwrap(), Applied::default());
    }
    assert_eq!(store.standing(claim.journal).unwrap().unwrap().watermark, Seq(3));
}

fn who_moved_the_watermark_stands_beside_it(fixture: &Fixture) {
    let (mut store, first) = fixture.claimed();
    fixture.refuse_thirteen();
    let batches = [
        plain(0, 1, &[("a", 1)]),
        plain(1, 2, &[]),
        Building::default().unit("u", 1, &[("a", 1)]).batch(2, 3),
        plain(3, 4, &[("a", 1), ("b", 13)]),
    ];
    let mut claim = first;
    for batch in &batches {
        let before = store.standing(claim.journal).unwrap();
        claim = Claim { owner: new_claim().owner, ..claim };
        store.claim(&claim, before, u64::MAX).unwrap();
        let moved_by =
            |store: &mut Box<dyn store::Store>| store.standing(claim.journal).unwrap().unwrap().moved_by;
        assert_eq!(moved_by(&mut store), before.unwrap().moved_by, "a claim moves nothing");
        store.apply(&claim, batch).unwrap();
        assert_eq!(moved_by(&mut store), Some(claim.owner));
    }
    // Another one has brought it to the same place since it was looked at.
    let seen = store.standing(claim.journal).unwrap();
    fixture.sql(&format!("UPDATE journals SET moved_by = '{}'", new_claim().owner));
    let next = Claim { owner: new_claim().owner, ..claim };
    assert!(matches!(store.claim(&next, seen, u64::MAX), Err(ClaimError::Moved)));
    // A version that didn't tell.
    fixture.sql("UPDATE journals SET moved_by = NULL");
    assert!(matches!(store.claim(&next, seen, u64::MAX), Err(ClaimError::Moved)));
    let seen = store.standing(claim.journal).unwrap();
    assert_eq!(seen.unwrap().moved_by, None);
    store.claim(&next, seen, u64::MAX).unwrap();
    fixture.sql("UPDATE journals SET moved_by = 'nobody'");
    let damaged = store.standing(claim.journal).unwrap_err();
    assert!(damaged.to_string().contains("the table `journals` is damaged"), "{damaged}");
}

fn another_owner_fences(fixture: &Fixture) {
    let (mut store, claim) = fixture.claimed();
    let usurper = Claim { owner: new_claim().owner, ..claim };
    let seen = store.standing(claim.journal).unwrap();
    fixture.store().claim(&usurper, seen, u64::MAX).unwrap();
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

#[test]
fn nothing_connects_before_it_is_used() {
    let url: StoreUrl = "postgres://nobody@127.0.0.1:1/nowhere".parse().unwrap();
    let mut store = store::open(&url).unwrap();
    store::open_reader(&url).unwrap();
    assert!(matches!(store.prepare(), Err(StoreError::Unavailable(_))));
}
