//! Idempotency keys by their age, on PostgreSQL and on SQLite: which are read at a start, and which
//! leave.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[macro_use]
mod support;

use std::sync::Barrier;
use std::thread;

use counter::{Batch, JournalId, OpenBatch, OwnerId, Seq, Unit};
use store::{ApplyError, Claim, Purge, Purged, Standing, Store, StoreError};
use support::{Fixture, set_aside};

on_both!(
    the_newest_ids_are_read_newest_first,
    an_id_leaves_when_its_window_and_the_margin_have_passed,
    an_id_stays_for_a_journal_that_has_not_flushed_past_it,
    a_purge_is_bounded_and_takes_the_oldest,
    instances_that_purge_and_flush_at_once_dont_deadlock,
    what_one_copy_told_is_not_believed_of_the_other,
    a_journal_that_is_silent_for_too_long_is_written_off,
    a_journal_that_was_written_off_is_fresh_again_once_it_has_flushed,
    what_was_closed_is_not_waited_for_until_it_is_claimed,
    a_journal_whose_claim_was_forgotten_hears_which_ids_have_left,
    a_store_that_forgot_or_another_owner_is_told_nothing,
    a_time_ahead_of_the_stores_is_not_believed,
);

/// Some day in 2023.
const START_MS: u64 = 1_700_000_000_000;
const WINDOW_MS: u64 = 80_000;
/// The window and two margins.
const KEPT_MS: u64 = 100_000;

/// A batch of units, each with an id, when it was accepted, and the value that it adds to `a`.
fn units(from: u64, upto: u64, units: &[(&str, u64, i64)]) -> Batch {
    let mut open = OpenBatch::default();
    let row = open.open_row("a", 0);
    for &(id, accepted_ms, value) in units {
        let (id, increments) = (id.into(), vec![(row, value)]);
        open.push_unit(Unit { id, fingerprint: [7; 16], accepted_ms, increments });
    }
    open.freeze(Seq(from), Seq(upto))
}

/// A purge by a journal that has flushed past `flushed_past_ms`.
fn upto(flushed_past_ms: u64) -> Purge {
    Purge { window_ms: WINDOW_MS, flushed_past_ms, watermark: Seq::ZERO, limit: 100 }
}

fn ids(fixture: &Fixture) -> String {
    fixture.sql("SELECT id FROM idempotency_keys ORDER BY id").replace('\n', " ")
}

fn the_newest_ids_are_read_newest_first(fixture: &Fixture) {
    let (mut store, claim) = fixture.claimed();
    let batch =
        units(0, 1, &[("b", START_MS + 1, 1), ("c", START_MS + 2, 1), ("a", START_MS, 1), ("d", 5, 1)]);
    store.apply(&claim, &batch).unwrap();
    let mut read = |since_ms, limit| {
        let mut read = Vec::new();
        store
            .load_ids(since_ms, limit, &mut |id, fingerprint, accepted_ms| {
                assert_eq!(fingerprint, [7; 16]);
                read.push((id.to_owned(), accepted_ms));
            })
            .unwrap();
        read
    };
    let all = [("c", START_MS + 2), ("b", START_MS + 1), ("a", START_MS), ("d", 5)];
    let all: Vec<_> = all.into_iter().map(|(id, ms)| (id.to_owned(), ms)).collect();
    assert_eq!(read(0, 9), all);
    assert_eq!(read(START_MS, 9), all[..3]);
    assert_eq!(read(START_MS + 1, 9), all[..2]);
    assert_eq!(read(0, 1), all[..1]);
    assert_eq!(read(0, 0), []);
}

fn an_id_leaves_when_its_window_and_the_margin_have_passed(fixture: &Fixture) {
    let (mut store, claim) = fixture.claimed();
    assert_eq!(store.purge(&claim, &upto(START_MS)).unwrap(), Purged::default());
    store.apply(&claim, &units(0, 1, &[("old", START_MS, 1), ("young", START_MS + 1, 1)])).unwrap();
    let nothing = Purged { oldest_ms: Some(START_MS), ..Purged::default() };
    assert_eq!(store.purge(&claim, &upto(START_MS + KEPT_MS)).unwrap(), nothing);
    // Where nothing is old enough, nothing is written.
    assert_eq!(fixture.sql("SELECT count(*) FROM journals WHERE flushed_past IS NOT NULL"), "0");

    let purged = store.purge(&claim, &upto(START_MS + KEPT_MS + 1)).unwrap();
    assert_eq!(purged, Purged { removed: 1, ..nothing });
    assert_eq!(ids(fixture), "young");
    // Outside the window it counts again; inside it doesn't.
    store.apply(&claim, &units(1, 2, &[("old", START_MS + KEPT_MS + 2, 1), ("young", 0, 1)])).unwrap();
    assert_eq!(fixture.table(), "a|3");
}

/// Two servers: the one counts a request and goes on; the other has a repetition in its journal,
/// and can't flush for long.
fn an_id_stays_for_a_journal_that_has_not_flushed_past_it(fixture: &Fixture) {
    let (mut store, claim) = fixture.claimed();
    let (mut slow_store, slow) = fixture.claimed();
    store.apply(&claim, &units(0, 1, &[("id", START_MS, 1)])).unwrap();
    let later = START_MS + 3 * KEPT_MS;
    let purged = store.purge(&claim, &upto(later)).unwrap();
    let kept = Purged { oldest_ms: Some(START_MS), kept_for: Some(slow.journal), ..Purged::default() };
    assert_eq!(purged, kept);
    // It tells how far it has got, which is not far enough.
    slow_store.purge(&slow, &upto(START_MS + KEPT_MS)).unwrap();
    slow_store.purge(&slow, &upto(START_MS + KEPT_MS - 1)).unwrap();
    assert_eq!(store.purge(&claim, &upto(later)).unwrap(), kept);

    let applied = slow_store.apply(&slow, &units(0, 1, &[("id", START_MS + WINDOW_MS, 1)])).unwrap();
    assert_eq!((applied.duplicates, applied.totals), (vec![0], vec![Some(1)]));
    let purged = slow_store.purge(&slow, &upto(START_MS + KEPT_MS + 1)).unwrap();
    assert_eq!((purged.removed, purged.kept_for), (1, None));
    assert_eq!((ids(fixture), fixture.table()), (String::new(), "a|1".to_owned()));
}

fn a_purge_is_bounded_and_takes_the_oldest(fixture: &Fixture) {
    let (mut store, claim) = fixture.claimed();
    let names: Vec<String> = (0..50).map(|at| format!("id-{at:02}")).collect();
    let all: Vec<_> = names.iter().zip(0..).map(|(id, at)| (id.as_str(), START_MS + 50 - at, 1)).collect();
    store.apply(&claim, &units(0, 1, &all)).unwrap();
    let purge = Purge { limit: 20, ..upto(START_MS + KEPT_MS + 46) };
    let removed = |store: &mut Box<dyn Store>| store.purge(&claim, &purge).unwrap().removed;
    assert_eq!(removed(&mut store), 20);
    assert_eq!(fixture.sql("SELECT count(*), max(id) FROM idempotency_keys"), "30|id-29");
    assert_eq!([removed(&mut store), removed(&mut store), removed(&mut store)], [20, 5, 0]);
    assert_eq!(ids(fixture), "id-00 id-01 id-02 id-03 id-04");
}

/// As the flusher does: a batch that meets a purge of its ids is tried again.
fn apply(store: &mut Box<dyn Store>, claim: &Claim, batch: &Batch) {
    loop {
        match store.apply(claim, batch) {
            Ok(_) => return,
            Err(ApplyError::Store(StoreError::Unavailable(text))) if text.contains("left the store") => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// Each of four instances purges what the others count, with ids in another order than theirs.
fn instances_that_purge_and_flush_at_once_dont_deadlock(fixture: &Fixture) {
    const ROUNDS: u64 = 30;
    let begin = Barrier::new(4);
    let removed: u64 = thread::scope(|scope| {
        let instance = |number: u64| {
            let (begin, fixture) = (&begin, &fixture);
            scope.spawn(move || {
                let (mut store, claim) = fixture.claimed();
                begin.wait();
                let mut removed = 0;
                for round in 0..ROUNDS {
                    let names: Vec<String> =
                        (0..60).map(|at| format!("{}", (at * 7919 + number * 13) % 100)).collect();
                    let all: Vec<_> =
                        names.iter().map(|id| (id.as_str(), START_MS + round * KEPT_MS, 1)).collect();
                    apply(&mut store, &claim, &units(round, round + 1, &all));
                    let past = START_MS + (round + 2) * KEPT_MS;
                    removed += store.purge(&claim, &Purge { limit: 40, ..upto(past) }).unwrap().removed;
                }
                store.close(&claim, Seq(ROUNDS)).unwrap();
                removed
            })
        };
        let instances: Vec<_> = (0..4).map(instance).collect();
        instances.into_iter().map(|instance| instance.join().unwrap()).sum()
    });
    let left: u64 = fixture.sql("SELECT count(*) FROM idempotency_keys").parse().unwrap();
    // Each id that was written added 1, and is there or has left.
    assert_eq!(fixture.table(), format!("a|{}", removed + left));
    if let Fixture::Postgres { server, .. } = fixture {
        assert!(!server.log().contains("deadlock detected"), "{}", server.log());
    }
}

/// The journal comes back after all, with a repetition of what has left and with what is new.
fn a_journal_that_is_silent_for_too_long_is_written_off(fixture: &Fixture) {
    let (mut store, claim) = fixture.claimed();
    let (mut silent_store, silent) = fixture.claimed();
    let (gone, kept) = (START_MS, START_MS + WINDOW_MS);
    store.apply(&claim, &units(0, 1, &[("gone", gone, 1), ("kept", kept, 1)])).unwrap();
    let last_chance = START_MS + KEPT_MS + 7 * WINDOW_MS;
    let purged = store.purge(&claim, &upto(last_chance)).unwrap();
    assert_eq!((purged.removed, purged.kept_for, purged.written_off), (0, Some(silent.journal), vec![]));
    let purged = store.purge(&claim, &upto(last_chance + 1)).unwrap();
    assert_eq!((purged.removed, purged.kept_for), (1, None));
    assert_eq!(purged.written_off, [silent.journal]);
    assert_eq!(ids(fixture), "kept");
    // Once is enough.
    store.apply(&claim, &units(1, 2, &[("more", START_MS + 2, 1)])).unwrap();
    let purged = store.purge(&claim, &upto(last_chance + 3)).unwrap();
    assert_eq!((purged.removed, purged.written_off), (1, vec![]));

    let written_off = START_MS + KEPT_MS + 3;
    let batch = [
        ("gone", gone + 1, 1),
        ("kept", kept + 1, 1),
        ("too early", written_off - 1, 10),
        ("too early", written_off - 1, 10),
        ("new", written_off, 100),
    ];
    let batch = units(0, 1, &batch);
    for _ in 0..2 {
        let applied = silent_store.apply(&silent, &batch).unwrap();
        assert_eq!(applied.totals, [Some(103)]);
        assert_eq!(applied.duplicates, [1]);
        assert_eq!(set_aside(&applied), [("a", 1), ("a", 10), ("a", 10)]);
        assert!(
            applied.set_aside[0].reason.contains("ids of its time have left the store without its journal"),
            "{applied:?}"
        );
    }
    assert_eq!(ids(fixture), "kept new");
}

fn a_journal_that_was_written_off_is_fresh_again_once_it_has_flushed(fixture: &Fixture) {
    let (mut store, claim) = fixture.claimed();
    let (mut silent_store, silent) = fixture.claimed();
    store.apply(&claim, &units(0, 1, &[("id", START_MS, 1), ("more", START_MS + 1, 1)])).unwrap();
    let late = START_MS + 10 * KEPT_MS;
    assert_eq!(store.purge(&claim, &Purge { limit: 1, ..upto(late) }).unwrap().written_off, [silent.journal]);
    let off = "SELECT count(*) FROM journals WHERE written_off IS NOT NULL";
    // Not far enough yet, and then it is.
    silent_store.purge(&silent, &upto(START_MS + KEPT_MS + 5)).unwrap();
    assert_eq!(fixture.sql(off), "1");
    store.apply(&claim, &units(1, 2, &[("again", START_MS, 1)])).unwrap();
    silent_store.purge(&silent, &upto(late)).unwrap();
    assert_eq!(fixture.sql(off), "0");
    let applied = silent_store.apply(&silent, &units(0, 1, &[("new", START_MS, 1)])).unwrap();
    assert_eq!(applied.set_aside, []);
}

fn what_was_closed_is_not_waited_for_until_it_is_claimed(fixture: &Fixture) {
    let (mut store, claim) = fixture.claimed();
    let (mut other_store, other) = fixture.claimed();
    store.apply(&claim, &units(0, 1, &[("one", START_MS, 1), ("two", START_MS + 1, 1)])).unwrap();
    other_store.close(&other, Seq::ZERO).unwrap();
    let one = Purge { limit: 1, ..upto(START_MS + 2 * KEPT_MS) };
    assert_eq!(store.purge(&claim, &one).unwrap().removed, 1);

    // Claimed, it may take requests at once, and hold some: how far it has flushed is open.
    let again = Claim { owner: OwnerId::random().unwrap(), ..other };
    let seen = Some(Standing { owner: other.owner, watermark: Seq::ZERO, moved_by: None });
    other_store.claim(&again, seen, u64::MAX).unwrap();
    let open = "SELECT count(*) FROM journals WHERE flushed_past IS NULL";
    assert_eq!(fixture.sql(open), "1");
    // The start that was there before has nothing to say any more.
    other_store.close(&other, Seq::ZERO).unwrap();
    assert_eq!(fixture.sql(open), "1");
    assert_eq!(store.purge(&claim, &one).unwrap().removed, 1);
}

/// A data directory was copied, and both copies were started. What one of them told before the other one
/// took the journal back says nothing of what lies in the other one.
fn what_one_copy_told_is_not_believed_of_the_other(fixture: &Fixture) {
    let (mut store, claim) = fixture.claimed();
    let (mut copy_store, first) = fixture.claimed();
    store.apply(&claim, &units(0, 1, &[("one", START_MS, 1)])).unwrap();
    let late = upto(START_MS + 2 * KEPT_MS);
    assert_eq!(copy_store.purge(&first, &late).unwrap().removed, 0);

    let other = Claim { owner: OwnerId::random().unwrap(), ..first };
    let seen = Some(Standing { owner: first.owner, watermark: Seq::ZERO, moved_by: None });
    copy_store.claim(&other, seen, u64::MAX).unwrap();
    assert_eq!(store.purge(&claim, &late).unwrap().removed, 0);
    let again = units(0, 1, &[("one", START_MS + WINDOW_MS, 1)]);
    assert_eq!(copy_store.apply(&other, &again).unwrap().duplicates, [0]);
    assert_eq!(fixture.table(), "a|1");
    assert_eq!(copy_store.purge(&other, &late).unwrap().removed, 1);
}

/// A failover forgot that a journal was claimed: its row is missing, or says that nothing is pending.
/// Ids leave without it, and it comes back with repetitions in it.
fn a_journal_whose_claim_was_forgotten_hears_which_ids_have_left(fixture: &Fixture) {
    let (mut store, claim) = fixture.claimed();
    let (mut closed_store, closed) = fixture.claimed();
    closed_store.close(&closed, Seq::ZERO).unwrap();
    let missing = Claim { journal: JournalId::random().unwrap(), owner: OwnerId::random().unwrap() };
    let off = "SELECT count(*) FROM journals WHERE written_off IS NOT NULL";
    // While none has left, nothing is in doubt.
    let (_, kept) = fixture.claimed();
    assert_eq!(fixture.sql(off), "0");
    closed_store.close(&kept, Seq::ZERO).unwrap();

    store.apply(&claim, &units(0, 1, &[("gone", START_MS, 1), ("kept", START_MS + 1, 1)])).unwrap();
    assert_eq!(store.purge(&claim, &upto(START_MS + KEPT_MS + 1)).unwrap().removed, 1);
    assert_eq!(ids(fixture), "kept");

    // The last time at which a repetition within the window may have been accepted, by a clock that
    // is ahead by an eighth of it.
    let last_ms = START_MS + WINDOW_MS + WINDOW_MS / 8;
    let again = |of: Claim| Claim { owner: OwnerId::random().unwrap(), ..of };
    let row = |of: Claim| Some(Standing { owner: of.owner, watermark: Seq::ZERO, moved_by: None });
    for (before, seen) in [(missing, None), (closed, row(closed))] {
        let claim = again(before);
        closed_store.claim(&claim, seen, u64::MAX).unwrap();
        // Made again, because the answer got lost.
        closed_store.claim(&claim, row(claim), u64::MAX).unwrap();
        let id = claim.owner.to_string();
        let batch = [("gone", last_ms, 10), ("kept", last_ms, 10), (id.as_str(), last_ms + 1, 100)];
        let applied = closed_store.apply(&claim, &units(0, 1, &batch)).unwrap();
        assert_eq!((applied.duplicates.as_slice(), set_aside(&applied)), (&[1][..], vec![("a", 10)]));
    }
    assert_eq!(fixture.table(), "a|202");
    // What it accepts after the claim is in no doubt, whatever clocks say.
    let late = again(kept);
    closed_store.claim(&late, row(kept), START_MS + 5).unwrap();
    let applied = closed_store.apply(&late, &units(0, 1, &[("new", START_MS + 5, 1)])).unwrap();
    assert_eq!((applied.totals, applied.set_aside), (vec![Some(203)], vec![]));
    // Nor is anything of a journal for which they were kept.
    let (_, open) = fixture.claimed();
    fixture.sql("UPDATE journals SET written_off = NULL");
    closed_store.claim(&again(open), row(open), u64::MAX).unwrap();
    assert_eq!(fixture.sql(off), "0");
}

fn a_store_that_forgot_or_another_owner_is_told_nothing(fixture: &Fixture) {
    let (mut store, claim) = fixture.claimed();
    store.apply(&claim, &units(0, 1, &[("id", START_MS, 1)])).unwrap();
    let late = upto(START_MS + 2 * KEPT_MS);
    let strangers = [
        (claim, Purge { watermark: Seq(2), ..late }),
        (Claim { owner: OwnerId::random().unwrap(), ..claim }, late),
        (Claim { journal: JournalId::random().unwrap(), ..claim }, late),
    ];
    for (claim, purge) in strangers {
        assert_eq!(store.purge(&claim, &purge).unwrap().removed, 0);
        store.close(&claim, purge.watermark).unwrap();
    }
    assert_eq!(fixture.sql("SELECT count(*) FROM journals WHERE flushed_past IS NOT NULL"), "0");
    assert_eq!(store.purge(&claim, &Purge { watermark: Seq(1), ..late }).unwrap().removed, 1);
}

fn a_time_ahead_of_the_stores_is_not_believed(fixture: &Fixture) {
    let (mut store, claim) = fixture.claimed();
    let unix_ms = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64;
    store.apply(&claim, &units(0, 1, &[("id", unix_ms, 1)])).unwrap();
    let year_ms = 365 * 24 * 3_600_000;
    assert_eq!(store.purge(&claim, &upto(unix_ms + year_ms)).unwrap().removed, 0);
    assert_eq!(ids(fixture), "id");
}
