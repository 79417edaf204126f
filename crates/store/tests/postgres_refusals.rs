//! Codes that PostgreSQL uses for one row and for the whole table: what belongs to a row is set
//! aside, what belongs to the table is tried again and sets nothing aside.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use counter::{Batch, Seq};
use store::{ApplyError, Claim, Store, StoreError};
use support::{Building, Fixture, new_claim, plain, set_aside};

/// A store of a user to whom policies apply, unlike to the owner of the tables.
fn as_plain_user(fixture: &Fixture) -> (Box<dyn Store>, Claim) {
    fixture.store();
    fixture.sql(
        "DO $$ BEGIN CREATE USER plain; EXCEPTION WHEN duplicate_object OR unique_violation THEN END $$;
         GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO plain",
    );
    let url = fixture.url().to_string().replace("postgres@", "plain@");
    let mut store = store::open(&url.parse().unwrap()).unwrap();
    let claim = new_claim();
    store.claim(&claim, None, u64::MAX).unwrap();
    (store, claim)
}

/// Everyone may do everything, save what the restrictive policy `name` refuses.
fn policy(fixture: &Fixture, table: &str, name: &str, check: &str) {
    fixture.sql(&format!(
        "ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;
         CREATE POLICY everything ON {table} USING (true);
         CREATE POLICY {name} ON {table} AS RESTRICTIVE USING (true) WITH CHECK ({check})"
    ));
}

/// A trigger on each row of `counters`.
fn trigger(fixture: &Fixture, body: &str) {
    fixture.sql(&format!(
        "CREATE OR REPLACE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} RETURN NEW; END $$;
         CREATE OR REPLACE TRIGGER look BEFORE INSERT OR UPDATE ON counters FOR EACH ROW EXECUTE FUNCTION look()"
    ));
}

/// The batch is refused as a whole: nothing of it is in the store, least of all set aside.
#[track_caller]
fn refused(fixture: &Fixture, store: &mut dyn Store, claim: &Claim, batch: &Batch) -> String {
    let before = store.standing(claim.journal).unwrap();
    let refused = store.apply(claim, batch);
    let Err(ApplyError::Store(StoreError::Refused(text))) = refused else { panic!("{refused:?}") };
    assert_eq!(store.standing(claim.journal).unwrap(), before);
    assert_eq!(fixture.sql("SELECT count(*) FROM set_aside"), "0");
    text
}

/// Tried again for ever until 0.1, and with it everything that came after.
#[test]
fn a_policy_sets_aside_only_its_rows() {
    let fixture = Fixture::postgres();
    let (mut store, claim) = as_plain_user(&fixture);
    policy(&fixture, "counters", "no_bad", "key <> 'bad'");
    let batches = [
        plain(0, 1, &[("a", 1), ("bad", 1), ("c", 1)]),
        Building::default().add("a", 1).unit("u", 1, &[("bad", 1), ("c", 1)]).batch(1, 2),
        // By itself, so that no other row of the batch speaks for the table.
        plain(2, 3, &[("bad", 1)]),
    ];
    for batch in &batches {
        let applied = store.apply(&claim, batch).unwrap();
        assert_eq!(set_aside(&applied), [("bad", 1)]);
        let reason = &applied.set_aside[0].reason;
        assert!(reason.starts_with("new row violates row-level security policy \"no_bad\""), "{reason}");
    }
    assert_eq!(fixture.table(), "a|2\nc|2");
    assert_eq!(fixture.sql("SELECT count(*), max(seq) FROM set_aside"), "3|3");
    // Of the rows that were tried out nothing is left.
    assert_eq!(fixture.sql("SELECT seq FROM journals"), "3");
}

/// A policy that would refuse any key that is made up: rows of the batch speak for the table, and
/// later the keys that it holds.
#[test]
fn a_policy_by_prefix_sets_aside_only_its_rows() {
    let fixture = Fixture::postgres();
    let (mut store, claim) = as_plain_user(&fixture);
    policy(&fixture, "counters", "of_the_app", "key LIKE 'app.%'");
    let alone = plain(0, 1, &[("bad", 1)]);
    let text = refused(&fixture, &mut *store, &claim, &alone);
    assert!(text.contains("of_the_app") && text.contains("policies"), "{text}");

    let applied = store.apply(&claim, &plain(0, 1, &[("app.a", 1), ("bad", 1)])).unwrap();
    assert_eq!(set_aside(&applied), [("bad", 1)]);
    let applied = store.apply(&claim, &plain(1, 2, &[("bad", 2)])).unwrap();
    assert_eq!(set_aside(&applied), [("bad", 2)]);
    assert_eq!(fixture.table(), "app.a|1");
}

#[test]
fn a_policy_on_ids_sets_aside_only_its_units() {
    let fixture = Fixture::postgres();
    let (mut store, claim) = as_plain_user(&fixture);
    policy(&fixture, "idempotency_keys", "no_bad", "id <> 'bad'");
    let batch = || Building::default().unit("bad", 1, &[("a", 10)]).unit("good", 1, &[("b", 1)]);
    let applied = store.apply(&claim, &batch().batch(0, 1)).unwrap();
    assert_eq!(set_aside(&applied), [("a", 10)]);
    let applied = store.apply(&claim, &batch().batch(1, 2)).unwrap();
    assert_eq!((set_aside(&applied), &applied.duplicates[..]), (vec![("a", 10)], &[1][..]));
    assert_eq!(fixture.table(), "b|1");
    assert_eq!(fixture.sql("SELECT id FROM idempotency_keys"), "good");
}

/// Whatever a trigger raises, if it raises it for one row alone.
#[test]
fn a_trigger_may_use_the_codes_of_a_table_that_is_not_ours() {
    let fixture = Fixture::postgres();
    let (mut store, claim) = fixture.claimed();
    let codes = ["42501", "42703", "42P01", "3F000", "0A000", "23502", "2D000", "38000", "39P01", "54001"];
    for (number, code) in codes.into_iter().chain(["55000", "HV000", "0P000", "0L000", "P0001"]).enumerate() {
        let raise = format!("RAISE 'not this one' USING ERRCODE = '{code}'");
        trigger(&fixture, &format!("IF NEW.key = 'bad' THEN {raise}; END IF;"));
        let from = 2 * number as u64;
        let applied = store.apply(&claim, &plain(from, from + 1, &[("a", 1), ("bad", 1)])).unwrap();
        assert_eq!(set_aside(&applied), [("bad", 1)], "{code}");
        let alone = Building::default().unit(code, 1, &[("bad", 1)]).batch(from + 1, from + 2);
        let applied = store.apply(&claim, &alone).unwrap();
        assert_eq!(set_aside(&applied), [("bad", 1)], "{code}");
        let reason = &applied.set_aside[0].reason;
        assert!(reason.starts_with("not this one") && reason.contains(code), "{reason}");
    }
    assert_eq!(fixture.table(), "a|15");
}

/// What breaks the table as a whole, what mends it, and a part of what is told.
const WHOLE: &[(&str, &str, &str)] = &[
    ("REVOKE INSERT ON counters FROM plain", "GRANT INSERT ON counters TO plain", "grant the user"),
    ("REVOKE UPDATE ON journals FROM plain", "GRANT UPDATE ON journals TO plain", "grant the user"),
    ("REVOKE SELECT ON idempotency_keys FROM plain", "GRANT SELECT ON idempotency_keys TO plain", "grant"),
    ("REVOKE INSERT ON idempotency_keys FROM plain", "GRANT INSERT ON idempotency_keys TO plain", "grant"),
    ("ALTER TABLE counters RENAME TO others", "ALTER TABLE others RENAME TO counters", "migrate"),
    ("ALTER TABLE counters RENAME value TO v", "ALTER TABLE counters RENAME v TO value", "migrate"),
    // Without a policy that permits something, every row is refused.
    (
        "ALTER TABLE counters ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE counters DISABLE ROW LEVEL SECURITY",
        "policies",
    ),
    (
        "ALTER TABLE idempotency_keys ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE idempotency_keys DISABLE ROW LEVEL SECURITY",
        "policies",
    ),
    (
        "ALTER TABLE counters ADD tenant text NOT NULL DEFAULT ''; ALTER TABLE counters ALTER tenant DROP DEFAULT",
        "ALTER TABLE counters DROP tenant",
        "give the column a default",
    ),
];

#[test]
fn a_table_that_takes_no_rows_is_tried_again_and_sets_nothing_aside() {
    let fixture = Fixture::postgres();
    let (mut store, claim) = as_plain_user(&fixture);
    // A key that the table holds, and one that it doesn't.
    store.apply(&claim, &plain(0, 1, &[("a", 1)])).unwrap();
    for (number, (damage, repair, told)) in WHOLE.iter().enumerate() {
        let (from, new) = (2 * number as u64 + 1, format!("new-{number}"));
        let increments = [("a", 1), (new.as_str(), 1)];
        let with_unit = Building::default().add("a", 1).unit(&new, 1, &increments[1..]);
        let batches = [plain(from, from + 1, &increments), with_unit.batch(from + 1, from + 2)];
        for batch in &batches {
            fixture.sql(damage);
            // A plain batch doesn't touch the ids.
            if !batch.units().is_empty() || !damage.contains("idempotency_keys") {
                for _ in 0..2 {
                    let text = refused(&fixture, &mut *store, &claim, batch);
                    assert!(text.contains(told), "{damage}: {text}");
                }
            }
            fixture.sql(repair);
            let applied = store.apply(&claim, batch).unwrap();
            assert!(applied.set_aside.is_empty(), "{damage}: {applied:?}");
        }
    }
    let all = 2 * WHOLE.len() as u64;
    assert_eq!(fixture.sql("SELECT value FROM counters WHERE key = 'a'"), (all + 1).to_string());
    assert_eq!(store.standing(claim.journal).unwrap().unwrap().watermark, Seq(all + 1));
}

/// Among many rows, too: it must not try each of them.
#[test]
fn a_trigger_that_fails_on_every_row_sets_nothing_aside() {
    let fixture = Fixture::postgres();
    let (mut store, claim) = fixture.claimed();
    let keys: Vec<String> = (0..3000).map(|key| format!("{key:04}")).collect();
    let increments: Vec<(&str, i64)> = keys.iter().map(|key| (key.as_str(), 1)).collect();
    let batch = plain(0, 1, &increments);
    fixture.sql("CREATE SEQUENCE calls");
    trigger(&fixture, "PERFORM nextval('calls'); NEW.nothing := 1;");
    let text = refused(&fixture, &mut *store, &claim, &batch);
    assert!(text.contains("nothing"), "{text}");
    let calls: u64 = fixture.sql("SELECT last_value FROM calls").parse().unwrap();
    assert!(calls < 20, "{calls} rows were tried");
    fixture.sql("DROP TRIGGER look ON counters");
    assert!(store.apply(&claim, &batch).unwrap().set_aside.is_empty());
}

/// The table is broken while its rows are being tried one by one: those that come after that were
/// not refused for their own sake.
#[test]
fn a_table_that_breaks_in_the_middle_sets_nothing_aside() {
    let fixture = Fixture::postgres();
    let (mut store, claim) = fixture.claimed();
    fixture.sql("CREATE SEQUENCE calls");
    // Numbers of a sequence are not given back when a transaction is rolled back.
    trigger(
        &fixture,
        "IF nextval('calls') > 7 OR NEW.key = 'bad' THEN RAISE 'broken' USING ERRCODE = '42501'; END IF;",
    );
    let batch = plain(0, 1, &[("a", 1), ("b", 1), ("bad", 1), ("c", 1), ("d", 1), ("e", 1)]);
    let text = refused(&fixture, &mut *store, &claim, &batch);
    assert!(text.contains("broken"), "{text}");
    let taken: u64 = fixture.sql("SELECT last_value FROM calls").parse().unwrap();
    assert!(taken > 7, "it broke too late: {taken}");
    trigger(&fixture, "IF NEW.key = 'bad' THEN RAISE 'broken' USING ERRCODE = '42501'; END IF;");
    assert_eq!(set_aside(&store.apply(&claim, &batch).unwrap()), [("bad", 1)]);
}
