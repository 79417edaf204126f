//! Which store a data directory belongs to, and what happens when the store forgets.

use std::fs;
use std::path::Path;

use store::testing::ThrowawayPostgres;

use crate::support::{Answer, Database, Home, Server, until};
use crate::tools::{assert_refused, assert_says, count, gives_up, hoarding_home, postgres};

#[test]
fn a_data_directory_with_nothing_pending_moves_to_another_store() {
    let home = hoarding_home(None);
    let server = home.start();
    count(&server, "it", 3);
    server.stop();
    let home = home.set("store", &postgres().url("moved"));
    let server = home.start();
    assert_says(
        &server.log(),
        &["The store is another one than before and nothing was pending: a new journal begins"],
    );
    assert_eq!(server.total("it"), None);
    count(&server, "it", 4);
    server.kill();
    let server = home.start();
    assert_eq!(server.total("it"), Some(4));
    server.stop();
    assert_eq!(Database::Postgres(postgres(), "moved").totals()["it"], 4);
    assert_eq!(Database::sqlite(home.sqlite()).totals()["it"], 3);
}

#[test]
fn a_data_directory_with_something_pending_stays_with_its_store() {
    let home = hoarding_home(None);
    let server = home.start();
    count(&server, "it", 3);
    server.kill();
    let home = home.set("store", &postgres().url("other"));
    for _ in 0..2 {
        assert_refused(
            &home,
            &[
                "holds increments that are not flushed, for another store",
                "start with the store they belong to, let it flush and stop",
                "--data-dir",
                "incrementer journal inspect",
            ],
        );
    }
    // The first way out.
    let home = home.set("store", "sqlite:data/incrementer.db");
    home.start().stop();
    assert_eq!(Database::sqlite(home.sqlite()).totals()["it"], 3);
    let home = home.set("store", &postgres().url("other"));
    let server = home.start();
    count(&server, "it", 1);
    server.stop();
    assert_eq!(Database::Postgres(postgres(), "other").totals()["it"], 1);
}

/// A store that can be put back to what it was. No server may run.
trait Restorable {
    fn keep(&self);
    fn bring_back(&self);
}

struct SqliteFile<'a>(&'a Path);

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

struct PostgresDatabase<'a>(&'a ThrowawayPostgres, &'a str);

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
    let home = hoarding_home(Some(&format!("sqlite:{}", path.display())))
        .set("journal.segment_bytes", "64KiB")
        .set("flush.max_updates", "50");
    let server = home.start();
    count(&server, "it", 3);
    server.stop();
    let store = SqliteFile(&path);
    store.keep();
    // Until the segment with the next record has been used again.
    let server = home.start();
    let mut sent = 3;
    while crate::tools::segments(&home)[0].ends_with("000000000001.segment") {
        sent += flush_much(&server);
    }
    server.stop();
    assert_eq!(Database::sqlite(&path).totals()["it"], sent);
    store.bring_back();
    let refused = crate::tools::refusal(&home);
    assert_says(
        &refused,
        &["up to seq 3", "seq 4 to ", "are lost in the store", "bring back a newer copy of the store"],
    );
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
    let home = hoarding_home(Some(url)).set("flush.max_updates", "50");
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
