//! Real input: the names in the `Depends:` lines of the Debian package index, a few of them very
//! frequent and most of them rare, one increment each. `scripts/real-input` does the same with
//! the whole index.

#![allow(clippy::unwrap_used, reason = "what a test can't get fails it")]

mod support;

use std::io::Write;
use std::process::Command;

use store::testing::ThrowawayPostgres;
use support::{Database, Home, Server, Totals, names};

#[test]
fn dependency_names_are_counted_exactly_in_sqlite() {
    let names = names();
    let expected = count_by_sort_and_uniq(&names);
    for way in [one_by_one, in_arrays, in_lines] {
        let home = Home::new(None);
        let server = home.start();
        way(&server, &names);
        server.stop();
        assert!(Database::sqlite(home.sqlite()).totals() == expected, "the table is not `sort | uniq -c`");
    }
}

#[test]
fn dependency_names_are_counted_exactly_in_postgres() {
    let names = names();
    let expected = count_by_sort_and_uniq(&names);
    let postgres = ThrowawayPostgres::start();
    for (database, way) in [("single", one_by_one as Way), ("array", in_arrays), ("lines", in_lines)] {
        let home = Home::new(Some(&postgres.url(database)));
        let server = home.start();
        way(&server, &names);
        server.stop();
        let totals = Database::Postgres(&postgres, database).totals();
        assert!(totals == expected, "the table is not `sort | uniq -c`");
    }
}

type Way = fn(&Server, &[String]);

/// By `/increment`, on several connections.
fn one_by_one(server: &Server, names: &[String]) {
    std::thread::scope(|scope| {
        for share in names.chunks(names.len().div_ceil(8)) {
            let mut client = server.client();
            scope.spawn(move || {
                for some in share.chunks(100) {
                    some.iter().for_each(|name| client.queue_increment(name, 1));
                    client.send().unwrap();
                    for _ in some {
                        client.receive().unwrap().expect(202);
                    }
                }
            });
        }
    });
}

/// By `/increments`, as JSON arrays.
fn in_arrays(server: &Server, names: &[String]) {
    let mut client = server.client();
    for some in names.chunks(777) {
        client.increments(some.iter().map(|name| (name.as_str(), 1))).unwrap().expect(202);
    }
}

/// By `/increments`, as lines of JSON.
fn in_lines(server: &Server, names: &[String]) {
    let mut client = server.client();
    for some in names.chunks(10_000) {
        client.increment_lines(some.iter().map(|name| (name.as_str(), 1))).unwrap().expect(202);
    }
}

/// The same count by other people's programs.
fn count_by_sort_and_uniq(names: &[String]) -> Totals {
    let mut lines = tempfile::NamedTempFile::new().unwrap();
    lines.write_all(names.join("\n").as_bytes()).unwrap();
    let counted =
        Command::new("sh").args(["-c", "LC_ALL=C sort \"$0\" | uniq -c"]).arg(lines.path()).output().unwrap();
    assert!(counted.status.success(), "{}", String::from_utf8_lossy(&counted.stderr));
    let counted = String::from_utf8(counted.stdout).unwrap();
    let entry =
        |line: &str| line.trim_start().split_once(' ').map(|(n, key)| (key.to_owned(), n.parse().unwrap()));
    let totals: Totals = counted.lines().filter_map(entry).collect();
    assert_eq!(totals.values().sum::<i64>(), names.len() as i64);
    totals
}
