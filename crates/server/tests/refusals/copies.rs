//! A journal has one writer: whoever claims it later fences the one before.

use std::path::Path;

use crate::support::{Database, Home, Server, until};
use crate::tools::{assert_refused, assert_says, copy_dir, count, gives_up, hoarding_home, postgres};

/// Makes a server flush that does so only when many keys are pending.
#[track_caller]
fn push(server: &Server, keys: &[String]) {
    server.client().increments(keys.iter().map(|key| (key.as_str(), 1))).unwrap().expect(202);
}

/// The same where that flush will end the server: the answer may not get out any more.
fn push_to_the_end(server: &Server, keys: &[String]) {
    let _ = server.client().increments(keys.iter().map(|key| (key.as_str(), 1)));
}

fn many_keys(prefix: &str) -> Vec<String> {
    (0..60).map(|number| format!("{prefix}{number}")).collect()
}

fn until_flushed(server: &Server) {
    until("it is flushed", || (server.metric("incrementer_flushes_total") > 0.0).then_some(()));
}

/// Its server finds out only when it flushes.
fn home_beside(database: &str) -> Home {
    let home = hoarding_home(Some(&postgres().url(database)));
    home.set("flush.max_updates", "50").set("read.max_age", "1h")
}

fn copy_of(home: &Home, database: &str) -> Home {
    let copy = home_beside(database);
    copy_dir(&home.data(), &copy.data());
    copy
}

const FENCED: [&str; 3] = [
    "another server has taken over this journal",
    "The data directory was copied",
    "incrementer journal inspect",
];

#[test]
fn a_copy_of_a_live_data_directory_fences_the_first() {
    let table = Database::Postgres(postgres(), "fenced");
    let home = home_beside("fenced");
    let first = home.start();
    push(&first, &many_keys("flushed-"));
    until_flushed(&first);
    count(&first, "shared", 3);

    let copy = copy_of(&home, "fenced");
    let second = copy.start();
    // Both hold the three that both know of, and count on.
    count(&first, "shared", 10);
    count(&second, "shared", 100);
    assert_eq!(second.total("shared"), Some(103));
    assert_eq!(table.totals().get("shared"), None, "nobody has flushed yet");

    push_to_the_end(&first, &many_keys("first-"));
    let error = gives_up(first);
    assert_says(&error, &FENCED);
    assert_eq!(table.totals().get("shared"), None, "the flush that was fenced left nothing");
    push(&second, &many_keys("second-"));
    second.stop();

    let mut totals = table.totals();
    assert_eq!(totals.remove("shared"), Some(103));
    let expected = many_keys("flushed-").into_iter().chain(many_keys("second-"));
    assert_eq!(totals, expected.map(|key| (key, 1)).collect());
    assert_eq!(table.set_aside(), []);
    // What only the first one knew is still to be seen.
    let inspected = crate::tools::ask_command(&home, &["journal", "inspect"]).unwrap();
    assert_says(&inspected, &["+13 \"shared\"", "+1 \"first-0\""]);
}

/// Without a flush: it looks at its own row now and then.
#[test]
fn an_idle_server_notices_that_a_copy_has_been_started() {
    let home = home_beside("idle_copy").set("read.max_age", "200ms");
    let first = home.start();
    count(&first, "shared", 3);
    let copy = copy_of(&home, "idle_copy");
    let second = copy.start();
    assert_says(&gives_up(first), &FENCED);
    count(&second, "shared", 1);
    second.stop();
    assert_eq!(Database::Postgres(postgres(), "idle_copy").totals()["shared"], 4);
}

/// A supervisor of processes would start the first one again: what it acknowledged has other
/// contents under the same sequence numbers, so it would miss the records that the copy flushed.
#[test]
fn a_server_that_was_fenced_does_not_take_the_journal_back() {
    let table = Database::Postgres(postgres(), "fenced_again");
    let home = home_beside("fenced_again");
    let first = home.start();
    count(&first, "shared", 3);
    let copy = copy_of(&home, "fenced_again");
    let second = copy.start();
    count(&first, "shared", 10);
    count(&second, "shared", 2);
    push(&second, &many_keys("second-"));
    until_flushed(&second);
    push_to_the_end(&first, &many_keys("first-"));
    assert_says(&gives_up(first), &FENCED);

    for _ in 0..2 {
        let words =
            ["another server has taken over this journal", "holds journal", "up to seq 6", "--data-dir"];
        assert_refused(&home, &words);
    }
    count(&second, "shared", 1);
    second.stop();
    // Its next start knows its own owner, also where that one was killed.
    let second = copy.start();
    count(&second, "shared", 1);
    push(&second, &many_keys("third-"));
    until_flushed(&second);
    second.kill();
    copy.start().stop();
    assert_eq!(table.totals()["shared"], 7);
}

/// As long as the copy has flushed nothing, either of them can go on; the other one can't.
#[test]
fn of_two_copies_the_one_that_flushes_first_goes_on() {
    let table = Database::Postgres(postgres(), "two_copies");
    let home = home_beside("two_copies");
    let first = home.start();
    count(&first, "shared", 3);
    let copy = copy_of(&home, "two_copies");
    let second = copy.start();
    // So many that they reach past what the first one will have flushed.
    count(&second, "shared", 20);
    first.kill();
    let first = home.start();
    count(&first, "shared", 10);
    push(&first, &many_keys("first-"));
    until_flushed(&first);
    push_to_the_end(&second, &many_keys("second-"));
    assert_says(&gives_up(second), &FENCED);
    assert_refused(&copy, &["another server has taken over this journal"]);
    first.stop();
    assert_eq!(table.totals()["shared"], 13);
}

#[test]
fn an_owner_that_changes_in_the_store_fences_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("totals.db");
    fenced_by_hand(&format!("sqlite:{}", path.display()), &Database::sqlite(&path));
    fenced_by_hand(&postgres().url("by_hand"), &Database::Postgres(postgres(), "by_hand"));
}

fn fenced_by_hand(url: &str, table: &Database<'_>) {
    let home = hoarding_home(Some(url)).set("flush.max_updates", "50").set("read.max_age", "1h");
    let server = home.start();
    count(&server, "it", 3);
    table.execute("UPDATE journals SET owner = '00000000000000000000000000000001'");
    push_to_the_end(&server, &many_keys("it-"));
    assert_says(&gives_up(server), &FENCED);
    assert!(table.totals().is_empty());
}

#[test]
fn a_data_directory_restored_from_an_older_copy_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("totals.db");
    restores_older(&format!("sqlite:{}", path.display()), &Database::sqlite(&path));
    restores_older(&postgres().url("older"), &Database::Postgres(postgres(), "older"));
}

fn restores_older(url: &str, table: &Database<'_>) {
    let home = hoarding_home(Some(url));
    let server = home.start();
    count(&server, "it", 3);
    server.stop();
    let (older, newest) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    copy_dir(&home.data(), older.path());
    let server = home.start();
    count(&server, "it", 4);
    server.stop();
    copy_dir(&home.data(), newest.path());

    restore(older.path(), &home);
    let refused = ["was restored from an older copy", "bring back the newest copy", "--data-dir"];
    assert_refused(&home, &refused);
    assert_eq!(table.totals()["it"], 7);
    restore(newest.path(), &home);
    let server = home.start();
    count(&server, "it", 1);
    server.stop();
    assert_eq!(table.totals()["it"], 8);

    // The other way out.
    let anew = Home::new(Some(url));
    let server = anew.start();
    count(&server, "it", 1);
    server.stop();
    assert_eq!(table.totals()["it"], 9);
}

fn restore(copy: &Path, home: &Home) {
    crate::tools::replace_dir(copy, &home.data());
}
