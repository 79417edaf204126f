//! What only PostgreSQL can do wrong: settings, permissions, locks, deferred constraints.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::thread;

use counter::Seq;
use store::testing::ThrowawayPostgres;
use store::{ApplyError, Purge, StoreError, StoreUrl};
use support::{Building, Fixture, is_away, new_claim, plain, server, set_aside, wait_until};

fn refused(url: &str) -> String {
    match store::open(&url.parse().unwrap()).unwrap().prepare() {
        Err(StoreError::Refused(text)) => text,
        other => panic!("{other:?}"),
    }
}

/// The one statement of a plain batch must not lock a counter before it has the journal's row,
/// and must test the row again when it gets it.
#[test]
fn the_watermark_is_locked_before_the_counters() {
    let fixture = Fixture::postgres();
    let (mut store, claim) = fixture.claimed();
    store.apply(&claim, &plain(0, 1, &[("a", 1), ("b", 1)])).unwrap();
    let usurper = new_claim().owner;
    let batches = [
        plain(1, 2, &[("a", 1), ("b", 1), ("c", 1)]),
        Building::default().unit("u", 1, &[("a", 1), ("b", 1), ("c", 1)]).batch(1, 2),
    ];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let url = fixture.url().to_string();
    let (blocker, connection) =
        runtime.block_on(tokio_postgres::connect(&url, tokio_postgres::NoTls)).unwrap();
    let driver = runtime.spawn(connection);
    runtime.block_on(blocker.batch_execute("BEGIN; SELECT FROM journals FOR UPDATE")).unwrap();
    thread::scope(|scope| {
        let applies: Vec<_> = batches
            .into_iter()
            .map(|batch| {
                let mut store = fixture.store();
                scope.spawn(move || store.apply(&claim, &batch))
            })
            .collect();
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' \
                       AND datname = current_database()";
        wait_until("both wait for the journal's row", || fixture.sql(waiting) == "2");
        assert_eq!(fixture.sql("SELECT key FROM counters ORDER BY key FOR UPDATE NOWAIT"), "a\nb");
        let usurp = format!("UPDATE journals SET owner = '{usurper}'; COMMIT");
        runtime.block_on(blocker.batch_execute(&usurp)).unwrap();
        for apply in applies {
            let fenced = apply.join().unwrap().unwrap_err();
            assert!(matches!(fenced, ApplyError::Fenced { owner, .. } if owner == usurper), "{fenced}");
        }
    });
    drop(blocker);
    runtime.block_on(driver).unwrap().unwrap();
    assert_eq!(fixture.table(), "a|1\nb|1");
    assert_eq!(fixture.sql("SELECT count(*) FROM idempotency_keys"), "0");
}

/// A claim that is being made may need ids that are about to leave; it is not waited for.
#[test]
fn no_id_leaves_while_a_journal_is_being_claimed() {
    let fixture = Fixture::postgres();
    let (mut store, claim) = fixture.claimed();
    let batch = Building::default().unit("u", 1, &[("a", 1)]).batch(0, 1);
    store.apply(&claim, &batch).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let url = fixture.url().to_string();
    let (claimer, connection) =
        runtime.block_on(tokio_postgres::connect(&url, tokio_postgres::NoTls)).unwrap();
    let driver = runtime.spawn(connection);
    runtime.block_on(claimer.batch_execute("BEGIN; SELECT FROM store FOR SHARE")).unwrap();
    let flushed_past_ms = batch.units()[0].accepted_ms + 1_000;
    let purge = Purge { window_ms: 8, flushed_past_ms, watermark: Seq(1), limit: 10 };
    assert_eq!(store.purge(&claim, &purge).unwrap().removed, 0);
    assert_eq!(fixture.sql("SELECT count(*) FROM store WHERE unknowable_before IS NULL"), "1");
    runtime.block_on(claimer.batch_execute("COMMIT")).unwrap();
    assert_eq!(store.purge(&claim, &purge).unwrap().removed, 1);
    drop(claimer);
    runtime.block_on(driver).unwrap().unwrap();
}

/// A purge is frozen after its journal has told up to when it has flushed. Meanwhile a copy of its
/// directory takes the journal over, and closes it: then nothing is left that holds young ids.
#[test]
fn a_journal_that_was_closed_since_lets_no_young_id_go() {
    let fixture = Fixture::postgres();
    let (mut store, claim) = fixture.claimed();
    let batch = Building::default().unit("old", 1, &[("a", 1)]).unit("young", 2, &[("a", 1)]).batch(0, 1);
    store.apply(&claim, &batch).unwrap();
    fixture.sql(
        "UPDATE idempotency_keys SET accepted_at = now() - CASE id WHEN 'old' THEN interval '1 h' ELSE '0' END;
         CREATE FUNCTION close() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           UPDATE journals SET flushed_past = '9999-12-31 00:00:00+00'; RETURN NULL; END $$;
         CREATE TRIGGER close AFTER UPDATE ON journals
           FOR EACH ROW WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION close()",
    );
    let now_ms: u64 = fixture.sql("SELECT (extract(epoch FROM now()) * 1000)::bigint").parse().unwrap();
    let purge = Purge { window_ms: 8, flushed_past_ms: now_ms - 60_000, watermark: Seq(1), limit: 10 };
    assert_eq!(store.purge(&claim, &purge).unwrap().removed, 1);
    assert_eq!(fixture.sql("SELECT id FROM idempotency_keys"), "young");
    assert_eq!(fixture.sql("SELECT unknowable_before < now() FROM store"), "t");
}

/// What every transaction has to run with, whatever a database or a user has been set to.
#[test]
fn a_session_has_the_settings_that_the_promises_need() {
    let fixture = Fixture::postgres();
    let (_, claim) = fixture.claimed();
    let Fixture::Postgres { database, .. } = &fixture else { unreachable!() };
    for (before, after) in
        [("off", "on"), ("local", "on"), ("remote_write", "on"), ("remote_apply", "remote_apply")]
    {
        fixture.sql(&format!("ALTER DATABASE {database} SET synchronous_commit = {before}"));
        fixture.sql(&format!("ALTER DATABASE {database} SET default_transaction_isolation = serializable"));
        fixture.sql(&format!("ALTER DATABASE {database} SET statement_timeout = '1s'"));
        fixture.sql(
            "DROP TABLE IF EXISTS seen; CREATE TABLE seen (setting text, value text);
             CREATE OR REPLACE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
               INSERT INTO seen SELECT name, setting FROM pg_settings; RETURN NULL; END $$;
             CREATE OR REPLACE TRIGGER look AFTER INSERT ON counters FOR EACH STATEMENT EXECUTE FUNCTION look()",
        );
        let mut store = fixture.store();
        let from = store.standing(claim.journal).unwrap().unwrap().watermark.0;
        store.apply(&claim, &plain(from, from + 1, &[("a", 1)])).unwrap();
        let seen = |name: &str| fixture.sql(&format!("SELECT value FROM seen WHERE setting = '{name}'"));
        assert_eq!(seen("synchronous_commit"), after);
        assert_eq!(seen("transaction_isolation"), "read committed");
        assert_eq!(seen("application_name"), "incrementer");
        assert_eq!(seen("statement_timeout"), "0");
        assert_ne!(seen("lock_timeout"), "0");
        assert_ne!(seen("idle_in_transaction_session_timeout"), "0");
        assert_ne!(seen("tcp_user_timeout"), "0");
    }
}

#[test]
fn updates_of_totals_touch_no_index() {
    let fixture = Fixture::postgres();
    fixture.store();
    let indexes = fixture.sql("SELECT indexdef FROM pg_indexes WHERE tablename IN ('counters', 'journals')");
    assert!(
        indexes.lines().count() == 2
            && indexes.lines().all(|index| index.ends_with("(key)") || index.ends_with("(id)"))
    );
    let options = fixture.sql("SELECT reloptions FROM pg_class WHERE relname = 'counters'");
    assert_eq!(options, "{fillfactor=70}");
}

#[test]
fn another_encoding_is_refused() {
    for encoding in ["SQL_ASCII", "LATIN1"] {
        let name = format!("in_{}", encoding.to_lowercase());
        server().sql("postgres", &format!("CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}'"));
        let text = refused(&server().url(&name));
        assert!(text.contains(encoding) && text.contains("ENCODING 'UTF8'"), "{text}");
    }
}

/// A server of another encoding still gets a database in ours.
#[test]
fn a_database_is_made_in_utf8_whatever_the_server_has() {
    let server = ThrowawayPostgres::start_with(&["--encoding=SQL_ASCII", "--locale=C"], &["fsync=off"]);
    let url = server.url("a \"quoted\" näme").replace(' ', "%20").replace('"', "%22");
    store::open(&url.parse().unwrap()).unwrap().prepare().unwrap();
    let made = server
        .sql("postgres", "SELECT pg_encoding_to_char(encoding) FROM pg_database WHERE datname LIKE 'a %'");
    assert_eq!(made, "UTF8");
}

#[test]
fn a_login_or_permission_that_lacks_is_refused_with_what_to_do() {
    let server = ThrowawayPostgres::start();
    let hba = server.data_directory().join("pg_hba.conf");
    let rules = std::fs::read_to_string(&hba).unwrap();
    std::fs::write(
        &hba,
        format!("host all locked 127.0.0.1/32 scram-sha-256\nhost all banned all reject\n{rules}"),
    )
    .unwrap();
    server.sql("postgres", "SELECT pg_reload_conf()");
    server.sql(
        "postgres",
        "CREATE USER locked PASSWORD 'right'; CREATE USER banned; CREATE USER plain; \
                            CREATE USER few CONNECTION LIMIT 0",
    );
    server.sql("postgres", "CREATE DATABASE there");
    let url = |user: &str, database: &str| server.url(database).replace("postgres@", &format!("{user}@"));

    assert!(refused(&url("locked:wrong", "there")).contains("password"));
    assert!(refused(&url("locked", "there")).contains("password"));
    assert!(refused(&url("banned", "there")).contains("pg_hba.conf"));
    assert!(refused(&url("nobody", "there")).contains("nobody"));
    assert!(refused(&url("plain", "missing")).contains("CREATE DATABASE \"missing\""));
    assert!(refused(&url("plain", "there")).contains("grant"));
    let right: StoreUrl = url("locked:right", "there").parse().unwrap();
    assert!(
        matches!(store::open(&right).unwrap().prepare(), Err(StoreError::Refused(text)) if text.contains("grant"))
    );
    // That may pass: somebody hangs up.
    let few: StoreUrl = url("few", "there").parse().unwrap();
    assert!(matches!(store::open(&few).unwrap().prepare(), Err(StoreError::Unavailable(_))));

    // Who may not change the schema may use it once it is there.
    let mut owner = store::open(&server.url("there").parse().unwrap()).unwrap();
    owner.prepare().unwrap();
    server.sql("there", "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO plain");
    let mut store = store::open(&url("plain", "there").parse().unwrap()).unwrap();
    store.prepare().unwrap();
    let claim = new_claim();
    store.claim(&claim, None, u64::MAX).unwrap();
    store.apply(&claim, &plain(0, 1, &[("a", 1)])).unwrap();
}

#[test]
fn a_schema_that_is_not_ours_is_refused() {
    let fixture = Fixture::postgres();
    let claim = new_claim();
    let missing = store::open(&fixture.url()).unwrap().standing(claim.journal).unwrap_err();
    assert!(matches!(&missing, StoreError::Refused(text) if text.contains("migrate")), "{missing}");
    let Fixture::Postgres { server, database } = &fixture else { unreachable!() };
    server.sql("postgres", &format!("CREATE DATABASE {database}"));
    fixture.sql("CREATE TABLE counters (name text, hits int)");
    assert!(refused(&server.url(database)).contains("database of its own"));
    assert_eq!(fixture.sql("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"), "1");
}

/// As after a failover to a server that only reads, or where a provider guards a full disk.
#[test]
fn a_server_that_only_reads_is_away_until_it_writes() {
    let fixture = Fixture::postgres();
    let (mut store, claim) = fixture.claimed();
    let Fixture::Postgres { database, server } = &fixture else { unreachable!() };
    server.sql("postgres", &format!("ALTER DATABASE {database} SET default_transaction_read_only = on"));
    let mut late = store::open(&fixture.url()).unwrap();
    assert!(is_away(late.apply(&claim, &plain(0, 1, &[("a", 1)]))));
    assert!(is_away(late.apply(&claim, &Building::default().unit("u", 1, &[("a", 1)]).batch(0, 1))));
    server.sql("postgres", &format!("ALTER DATABASE {database} RESET default_transaction_read_only"));
    late.apply(&claim, &plain(0, 1, &[("a", 1)])).unwrap();
    store.apply(&claim, &plain(1, 2, &[("a", 1)])).unwrap();
}

/// A deferred constraint fails at COMMIT, after the last row has been answered for.
#[test]
fn a_deferred_constraint_sets_aside_only_its_row() {
    let fixture = Fixture::postgres();
    let (mut store, claim) = fixture.claimed();
    fixture.sql(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           IF NEW.value < 0 THEN RAISE EXCEPTION USING ERRCODE = 'XY001', MESSAGE = 'none below zero'; END IF;
           RETURN NULL; END $$;
         CREATE CONSTRAINT TRIGGER refuse AFTER INSERT OR UPDATE ON counters
           DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()",
    );
    let batches = [
        plain(0, 1, &[("a", 1), ("b", -1), ("c", 1)]),
        Building::default().add("a", 1).unit("u", 1, &[("b", -1), ("c", 1)]).batch(1, 2),
    ];
    for batch in &batches {
        let applied = store.apply(&claim, batch).unwrap();
        assert_eq!(set_aside(&applied), [("b", -1)]);
        assert!(applied.set_aside[0].reason.contains("none below zero"));
    }
    assert_eq!(fixture.table(), "a|2\nc|2");
    assert_eq!(fixture.sql("SELECT count(*), min(seq), max(seq) FROM set_aside"), "2|1|2");
}

#[test]
fn a_row_that_a_trigger_skips_is_skipped() {
    let fixture = Fixture::postgres();
    let (mut store, claim) = fixture.claimed();
    store.apply(&claim, &plain(0, 1, &[("a", 1)])).unwrap();
    fixture.sql(
        "CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           IF NEW.key = 'skipped' THEN RETURN NULL; END IF; RETURN NEW; END $$;
         CREATE TRIGGER skip BEFORE INSERT ON counters FOR EACH ROW EXECUTE FUNCTION skip()",
    );
    let applied = store.apply(&claim, &plain(1, 2, &[("skipped", 1), ("a", 1)])).unwrap();
    assert_eq!((applied.totals, applied.set_aside), (vec![None, Some(2)], vec![]));
    // No row comes back at all.
    let applied = store.apply(&claim, &plain(2, 3, &[("skipped", 1)])).unwrap();
    assert_eq!((applied.totals, applied.set_aside), (vec![None], vec![]));
    assert_eq!(fixture.sql("SELECT seq FROM journals"), "3");
}

/// No text of PostgreSQL holds a NUL.
#[test]
fn an_id_that_is_refused_sets_its_unit_aside() {
    let fixture = Fixture::postgres();
    let (mut store, claim) = fixture.claimed();
    let batch = Building::default()
        .unit("good", 1, &[("a", 1)])
        .unit("b\0d", 1, &[("a", 10), ("b", 10)])
        .unit("z", 1, &[("c", 1)])
        .batch(0, 1);
    for _ in 0..2 {
        let applied = store.apply(&claim, &batch).unwrap();
        assert_eq!(applied.totals, [Some(1), None, Some(1)]);
        assert_eq!(set_aside(&applied), [("a", 10), ("b", 10)]);
        assert_eq!(applied.duplicates, []);
    }
}

/// Halving must stay quick where it has much to find, and exact.
#[test]
fn many_refused_rows_among_many_are_all_found() {
    let fixture = Fixture::postgres();
    let (mut store, claim) = fixture.claimed();
    fixture.refuse_thirteen();
    let mut building = Building::default();
    for key in 0..2000 {
        building = building.add(&format!("{key:04}"), if key % 97 == 0 { 13 } else { 1 });
    }
    let applied = store.apply(&claim, &building.batch(0, 1)).unwrap();
    assert_eq!(applied.set_aside.len(), 21);
    assert!(applied.set_aside.iter().all(|part| part.value == 13));
    assert_eq!(fixture.sql("SELECT count(*), sum(value) FROM counters"), "1979|1979");
}

#[test]
fn a_store_may_be_dropped_inside_an_event_loop() {
    let fixture = Fixture::postgres();
    let (store, _) = fixture.claimed();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async { drop(store) });
}
