//! Which store a data directory belongs to.

use crate::support::Database;
use crate::tools::{assert_refused, assert_says, count, hoarding_home, postgres};

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
