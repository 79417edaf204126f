//! What happens when the store forgets what it had confirmed: a failover, a restore.

use std::fs;
use std::path::Path;

use serde_json::Value;
use store::testing::ThrowawayPostgres;

use crate::support::{Answer, Database, Home, Server, Totals, until};
use crate::tools::{ask_command, assert_says, count, gives_up, hoarding_home, postgres, refusal};

/// A store that can be put back to what it was. No server may run.
pub(crate) trait Restorable {
    fn keep(&self);
    fn bring_back(&self);
}

pub(crate) struct SqliteFile<'a>(pub(crate) &'a Path);

impl Restorable for SqliteFile<'_> {
    fn keep(&self) {
        // A server that has stopped leaves no write-ahead log behind.
        fs::copy(self.0, self.0.with_extension("kept")).unwrap();
    }

    fn bring_back(&self) {
        fs::copy(self.0.with_extension("kept"), self.0).unwrap();
        for more in ["db-wal", "db-shm"] {
            let _ = fs::remove_file(self.0.with_extension(more));
        }
    }
}

pub(crate) struct PostgresDatabase<'a>(pub(crate) &'a ThrowawayPostgres, pub(crate) &'a str);

impl PostgresDatabase<'_> {
    /// Of a killed server a session may be left for a moment.
    fn remake(&self, database: &str, template: &str) {
        self.0.sql("postgres", &format!("DROP DATABASE IF EXISTS {database} WITH (FORCE)"));
        until("nobody uses the template", || {
            let sql = format!("CREATE DATABASE {database} TEMPLATE {template}");
            self.0.psql("postgres").args(["-c", &sql]).output().unwrap().status.success().then_some(())
        });
    }
}

impl Restorable for PostgresDatabase<'_> {
    fn keep(&self) {
        self.remake(&format!("{}_kept", self.1), self.1);
    }

    fn bring_back(&self) {
        self.remake(self.1, &format!("{}_kept", self.1));
    }
}

#[test]
fn what_an_older_sqlite_file_forgot_is_applied_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("totals.db");
    let home = hoarding_home(Some(&format!("sqlite:{}", path.display())));
    applies_again(&home, &SqliteFile(&path), &Database::sqlite(&path));
}

#[test]
fn what_an_older_database_forgot_is_applied_again() {
    let home = hoarding_home(Some(&postgres().url("forgetful")));
    let table = Database::Postgres(postgres(), "forgetful");
    applies_again(&home, &PostgresDatabase(postgres(), "forgetful"), &table);
}

fn applies_again(home: &Home, store: &dyn Restorable, table: &Database<'_>) {
    let server = home.start();
    count(&server, "it", 3);
    server.stop();
    store.keep();
    let server = home.start();
    count(&server, "it", 4);
    server.stop();
    let server = home.start();
    count(&server, "it", 5);
    server.kill();
    assert_eq!(table.totals()["it"], 7);

    store.bring_back();
    assert_eq!(table.totals()["it"], 3);
    let server = home.start();
    assert_says(
        &server.log(),
        &["WARN", "The store forgot a part of what it had confirmed", "it is applied again"],
    );
    assert_eq!(server.total("it"), Some(12));
    count(&server, "it", 1);
    server.stop();
    assert_eq!(table.totals()["it"], 13);
}

#[test]
fn what_no_journal_has_any_more_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("totals.db");
    let url = format!("sqlite:{}", path.display());
    names_what_is_missing(&url, &SqliteFile(&path), &Database::sqlite(&path), false);
    let path = folder.path().join("emptied.db");
    let url = format!("sqlite:{}", path.display());
    names_what_is_missing(&url, &SqliteFile(&path), &Database::sqlite(&path), true);
}

#[test]
fn what_no_journal_has_any_more_is_named_for_a_database() {
    for (name, emptied) in [("missing", false), ("missing_row", true)] {
        let (store, table) = (PostgresDatabase(postgres(), name), Database::Postgres(postgres(), name));
        names_what_is_missing(&postgres().url(name), &store, &table, emptied);
    }
}

/// `emptied`: the store doesn't even know the journal, and ids have left meanwhile.
fn names_what_is_missing(url: &str, store: &dyn Restorable, table: &Database<'_>, emptied: bool) {
    let home = hoarding_home(Some(url)).set("journal.segment_bytes", "64KiB").set("flush.max_updates", "50");
    let server = home.start();
    count(&server, "it", 3);
    server.stop();
    store.keep();
    // Until the segment with the next record has been used again.
    let server = home.start();
    let mut sent = 3;
    while crate::tools::segments(&home)[0].ends_with("000000000001.segment") {
        sent += flush_much(&server);
    }
    server.stop();
    assert_eq!(table.totals()["it"], sent);
    store.bring_back();
    let refused = refusal(&home);
    assert_says(
        &refused,
        &["up to seq 3", "seq 4 to ", "are lost in the store", "bring back a newer copy of the store"],
    );
    assert_says(&refused, &["--data-dir", "journal.keep"]);
    // The way out that loses only what is gone, as it is written there.
    let has = held_by_the_journal(&home, "it");
    assert!(0 < has && has < sent - 3, "{has} of {sent}");
    let begins = refused.find("INSERT INTO journals").expect("a statement");
    let ends = refused.find("; and start again").expect("an end of it");
    if emptied {
        table.execute("DELETE FROM journals");
        table.execute("UPDATE store SET unknowable_before = '2020-01-02T03:04:05.000Z'");
    }
    table.execute(&refused[begins..ends]);
    let server = home.start();
    let written_off = table.rows("SELECT CAST(count(*) AS text) FROM journals WHERE written_off IS NOT NULL");
    assert_eq!(written_off, [if emptied { "1" } else { "0" }], "what left meanwhile can't count again");
    count(&server, "it", 1);
    server.stop();
    assert_eq!(table.totals()["it"], 3 + has + 1);
}

/// What all records of the journal add to a key.
fn held_by_the_journal(home: &Home, key: &str) -> i64 {
    let records = ask_command(home, &["journal", "inspect", "--json"]).unwrap();
    let records = records.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let increments = records.flat_map(|record| record["increments"].as_array().cloned().unwrap_or_default());
    increments.filter(|of| of["key"] == key).map(|of| of["value"].as_i64().unwrap()).sum()
}

/// Increments one key a lot, and others once, so that it is flushed: by how much.
fn flush_much(server: &Server) -> i64 {
    let sent = count_much(server);
    increment_others(server).unwrap().expect(202);
    sent
}

/// In one request, which alone makes no flush.
fn count_much(server: &Server) -> i64 {
    server.client().increments(std::iter::repeat_n(("it", 1), 2_000)).unwrap().expect(202);
    2_000
}

fn increment_others(server: &Server) -> std::io::Result<Answer> {
    let others: Vec<_> = (0..50).map(|number| format!("other-{number}")).collect();
    server.client().increments(others.iter().map(|key| (key.as_str(), 1)))
}

#[test]
fn a_watermark_set_back_under_a_server_stops_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("totals.db");
    set_back(&format!("sqlite:{}", path.display()), &Database::sqlite(&path));
    set_back(&postgres().url("set_back"), &Database::Postgres(postgres(), "set_back"));
}

fn set_back(url: &str, table: &Database<'_>) {
    let home = hoarding_home(Some(url)).set("flush.max_updates", "50").set("read.max_age", "1h");
    let server = home.start();
    let mut sent = flush_much(&server);
    // Nobody counts on the state that a flush finds before it is settled.
    until("it is flushed", || (server.metric("incrementer_pending_updates") == 0.0).then_some(()));
    let rows = table.rows("SELECT CAST(seq AS text) FROM journals");
    let seq: i64 = rows[0].parse().unwrap();
    assert!(seq > 0);
    let flushed = table.totals();
    // As a restore would: the totals go back together with it.
    table.execute("DELETE FROM counters; UPDATE journals SET seq = 0");
    sent += count_much(&server);
    // It is in the journal before it is flushed; its answer may come too late for a server that
    // is about to end.
    let _ = increment_others(&server);
    let error = gives_up(server);
    assert_says(
        &error,
        &["the store has forgotten commits that it had confirmed", "Start this server again"],
    );
    assert!(table.totals().is_empty(), "it wrote nothing after that");
    assert!(!flushed.is_empty());

    // The journal has all of it.
    let server = home.start();
    assert_eq!(server.total("it"), Some(sent));
    server.stop();
    assert_eq!(table.totals()["it"], sent);
    assert_eq!(table.totals()["other-0"], sent / 2_000);
}

/// A home whose server keeps all that it flushed, over many small segments.
fn keeping_home(url: &str) -> Home {
    let home = hoarding_home(Some(url)).set("journal.segment_bytes", "64KiB").set("flush.max_updates", "50");
    home.set("journal.keep", "1h")
}

fn wait_until_flushed(server: &Server) {
    until("all is flushed", || (server.metric("incrementer_pending_updates") == 0.0).then_some(()));
}

#[test]
fn an_older_sqlite_file_is_filled_up_from_what_was_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("totals.db");
    let home = keeping_home(&format!("sqlite:{}", path.display()));
    filled_up(&home, &SqliteFile(&path), &Database::sqlite(&path), None);
    // Nothing was trimmed, so it can be proved to add up.
    let verified = ask_command(&home, &["journal", "verify"]).unwrap();
    assert_says(&verified, &["the journal is whole", "seq 1 to ", "it adds up to the table: 52 keys"]);
}

#[test]
fn an_older_database_is_filled_up_from_what_was_kept() {
    let home = keeping_home(&postgres().url("filled_up"));
    let store = PostgresDatabase(postgres(), "filled_up");
    let refuse = "ALTER TABLE counters ADD CONSTRAINT no_bad_key CHECK (key <> 'bad')";
    filled_up(&home, &store, &Database::Postgres(postgres(), "filled_up"), Some(refuse));
}

/// Over several starts and segments, with idempotency keys, and (where a statement makes the store
/// refuse the key `bad`) with parts that were set aside.
fn filled_up(home: &Home, store: &dyn Restorable, table: &Database<'_>, refuse: Option<&str>) {
    let server = home.start();
    count(&server, "it", 3);
    server.stop();
    refuse.iter().for_each(|statement| table.execute(statement));
    store.keep();

    let mut expected = Totals::from([("it".to_owned(), 3)]);
    let (mut round, mut aside) = (0, 0);
    while crate::tools::segments(home).len() < 6 {
        let server = home.start();
        for _ in 0..3 {
            round += 1;
            let id = format!("id-{round}");
            server.client().increment_once(&id, "once", 5).unwrap().expect(202);
            if refuse.is_some() {
                server.client().increment("bad", 7).unwrap().expect(202);
                aside += 7;
            }
            *expected.get_mut("it").unwrap() += flush_much(&server);
            for number in 0..50 {
                *expected.entry(format!("other-{number}")).or_default() += 1;
            }
        }
        wait_until_flushed(&server);
        assert!(server.metric("incrementer_journal_kept_bytes") > 0.0 || round < 9);
        if round % 2 == 0 { server.stop() } else { server.kill() }
    }
    expected.insert("once".to_owned(), 5 * round);
    let set_aside = || -> i64 { table.set_aside().iter().map(|row| row.1.parse::<i64>().unwrap()).sum() };
    assert_eq!((table.totals(), set_aside()), (expected.clone(), aside));

    store.bring_back();
    assert_eq!((table.totals()["it"], set_aside()), (3, 0));
    let server = home.start();
    assert_says(&server.log(), &["WARN", "The store forgot a part of what it had confirmed"]);
    assert_eq!(server.total("it"), Some(expected["it"]));
    // A client that tries again is known, by memory or by the store.
    server.client().increment_once("id-1", "once", 5).unwrap().expect(202);
    server.stop();
    assert_eq!((table.totals(), set_aside()), (expected, aside));
    let ids = table.rows("SELECT id FROM idempotency_keys");
    assert_eq!(ids.len() as i64, round);
}

#[test]
fn an_idle_server_notices_that_its_sqlite_file_forgot() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("totals.db");
    let table = Database::sqlite(&path);
    let forget = || table.execute("DELETE FROM counters; UPDATE journals SET seq = 0");
    notices(keeping_home(&format!("sqlite:{}", path.display())), &table, &|| {}, &forget);
}

/// The database is dropped and made again from an older copy, under a server that runs.
#[test]
fn an_idle_server_notices_that_its_database_forgot() {
    let store = PostgresDatabase(postgres(), "idle");
    let table = Database::Postgres(postgres(), "idle");
    notices(keeping_home(&postgres().url("idle")), &table, &|| store.keep(), &|| store.bring_back());
}

fn notices(home: Home, table: &Database<'_>, keep: &dyn Fn(), forget: &dyn Fn()) {
    let server = home.start();
    count(&server, "it", 3);
    server.stop();
    keep();
    let home = home.set("read.max_age", "200ms");
    let server = home.start();
    let sent = 3 + flush_much(&server);
    wait_until_flushed(&server);
    assert_eq!(table.totals()["it"], sent);
    forget();
    let error = gives_up(server);
    assert_says(
        &error,
        &["the store has forgotten commits that it had confirmed", "Start this server again", "journal.keep"],
    );
    let server = home.start();
    assert_eq!(server.total("it"), Some(sent));
    server.stop();
    assert_eq!(table.totals()["it"], sent);
}
