//! Whose records the store holds: who moved the watermark, not who owns the journal now.

use crate::forgetful_stores::{PostgresDatabase, Restorable, SqliteFile};
use crate::support::{Database, Home};
use crate::tools::{assert_refused, copy_dir, count, hoarding_home, postgres};

const TAKEN_OVER: [&str; 3] =
    ["another server has taken over this journal", "none of the last 48 starts", "--data-dir"];

#[test]
fn a_copy_that_got_as_far_after_a_restore_is_noticed_in_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("totals.db");
    got_as_far(&format!("sqlite:{}", path.display()), &SqliteFile(&path), &Database::sqlite(&path));
}

#[test]
fn a_copy_that_got_as_far_after_a_failover_is_noticed_in_postgres() {
    let store = PostgresDatabase(postgres(), "as_far");
    got_as_far(&postgres().url("as_far"), &store, &Database::Postgres(postgres(), "as_far"));
}

/// The store forgets what one directory has flushed, and a copy of it flushes other increments up to
/// the very seq that the first one remembers: its start would take them for its own, and its own
/// would be lost without a word.
fn got_as_far(url: &str, store: &dyn Restorable, table: &Database<'_>) {
    let home = hoarding_home(Some(url));
    let server = home.start();
    count(&server, "it", 3);
    server.stop();
    store.keep();
    let copy = hoarding_home(Some(url));
    copy_dir(&home.data(), &copy.data());
    flush(&home, 10);
    let seq = "SELECT CAST(seq AS text) FROM journals";
    let held = table.rows(seq);
    store.bring_back();
    flush(&copy, 100);
    assert_eq!(table.rows(seq), held, "the same place, and other records");
    assert_eq!(table.totals()["it"], 103);

    for _ in 0..2 {
        assert_refused(&home, &TAKEN_OVER);
    }
    // A start of the copy that flushes nothing changes nothing about that.
    copy.start().kill();
    assert_refused(&home, &TAKEN_OVER);
    flush(&copy, 1);
    assert_eq!(table.totals()["it"], 104);
}

/// One request, whatever it adds, so that each takes as many records.
fn flush(home: &Home, value: i64) {
    let server = home.start();
    server.client().increment("it", value).unwrap().expect(202);
    server.stop();
}

/// Rows that a version wrote that didn't tell who moved the watermark.
#[test]
fn without_a_name_beside_the_watermark_the_owner_decides() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("totals.db");
    decides(&format!("sqlite:{}", path.display()), &Database::sqlite(&path));
    decides(&postgres().url("nameless"), &Database::Postgres(postgres(), "nameless"));
}

fn decides(url: &str, table: &Database<'_>) {
    let home = hoarding_home(Some(url));
    flush(&home, 1);
    let nameless = "UPDATE journals SET moved_by = NULL";
    let stranger = "UPDATE journals SET moved_by = NULL, owner = '00000000000000000000000000000001'";
    table.execute(nameless);
    flush(&home, 1);
    assert_eq!(table.rows("SELECT 'told' FROM journals WHERE moved_by IS NOT NULL"), ["told"]);
    // A stranger that has not flushed since.
    table.execute(stranger);
    flush(&home, 1);
    assert_eq!(table.totals()["it"], 3);
    // And one that has.
    table.execute(stranger);
    table.execute("UPDATE journals SET seq = seq - 1");
    assert_refused(&home, &["another server has taken over this journal", "--data-dir"]);
}

/// The start that flushed last may be long ago, and its name must not be forgotten.
#[test]
fn many_starts_that_flush_nothing_leave_the_journal_theirs() {
    let home = hoarding_home(None);
    flush(&home, 1);
    for _ in 0..60 {
        home.start().kill();
    }
    flush(&home, 1);
    assert_eq!(Database::sqlite(home.data().join("incrementer.db")).totals()["it"], 2);
}
