//! Promise 8 and 9: a store that is away at the start is waited for, one that refuses is not.

use std::fs;

use rustix::process::Signal;
use store::testing::ThrowawayPostgres;

use crate::support::{Database, Home};
use crate::tools::{assert_problem, assert_refused, count, hoarding_home, postgres, refusal, run};

#[test]
fn a_store_that_is_away_at_the_start_is_waited_for() {
    let postgres = ThrowawayPostgres::start();
    // Were a stop to wait for the store, it would do so for very long.
    let home = hoarding_home(Some(&postgres.url("totals"))).set("shutdown_timeout", "1h");
    let server = home.start();
    count(&server, "it", 2);
    server.stop();
    let server = home.start();
    count(&server, "it", 3);
    server.kill();
    postgres.stop_immediate();

    for signal in [Signal::TERM, Signal::INT] {
        let mut server = home.launch();
        server.line_with("The store is away; waiting for it before increments are taken");
        server.signal(signal);
        let status = server.wait();
        assert_eq!(status.code(), Some(0), "{}", server.log());
        assert!(!server.log().contains("ERROR"), "{}", server.log());
    }

    let mut server = home.launch();
    server.line_with("The store is away");
    server.get("/healthz").expect(200);
    assert!(server.get("/readyz").expect(503).body.contains("starting"));
    server.get("/metrics").expect(200);
    let mut client = server.client();
    assert_problem(&client.increment("it", 1).unwrap(), 503, "starting");
    assert_problem(&client.increments([("it", 1)]).unwrap(), 503, "starting");
    assert_problem(&client.get("/counters/it").unwrap(), 503, "starting");
    assert_problem(&client.get("/counters").unwrap(), 503, "starting");

    postgres.start_again();
    server.wait_until_ready();
    assert_eq!(server.total("it"), Some(5));
    client.increment("it", 1).unwrap().expect(202);
    server.stop();
    assert_eq!(Database::Postgres(&postgres, "totals").totals()["it"], 6);
}

#[test]
fn a_wrong_password_is_told_and_not_shown() {
    let postgres = ThrowawayPostgres::start();
    postgres.sql("postgres", "CREATE ROLE clerk LOGIN CREATEDB PASSWORD 'right-one'");
    let rules = "host all clerk 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n";
    fs::write(postgres.data_directory().join("pg_hba.conf"), rules).unwrap();
    postgres.sql("postgres", "SELECT pg_reload_conf()");
    let url = |password: &str| postgres.url("totals").replace("postgres@", &format!("clerk:{password}@"));
    crate::support::until("the rules hold", || {
        let (_, _, log) = run(Home::new(Some(&url("wrong-one"))).command(&["migrate"]));
        log.contains("ERROR").then_some(())
    });

    for password in ["wrong-one", ""] {
        let home = Home::new(Some(&url(password)));
        assert_refused(&home, &["PostgreSQL doesn't let us in", "password"]);
        let (_, _, log) = run(home.command(&["serve"]));
        assert!(!log.contains("wrong-one"), "{log}");
    }
    let home = Home::new(Some(&url("right-one")));
    let server = home.start();
    count(&server, "it", 1);
    assert!(!server.log().contains("right-one"), "{}", server.log());
    server.stop();
}

#[test]
fn a_newer_schema_is_refused() {
    let home = Home::new(None);
    let server = home.start();
    count(&server, "it", 1);
    server.stop();
    let table = Database::sqlite(home.sqlite());
    table.execute("INSERT INTO migrations (number) VALUES (999)");
    let words = ["a newer version of incrementer", "999", "run that version"];
    assert_refused(&home, &words);
    table.execute("DELETE FROM migrations WHERE number = 999");
    let server = home.start();
    assert_eq!(server.total("it"), Some(1));
    server.stop();

    let home = Home::new(Some(&postgres().url("newer")));
    home.start().stop();
    postgres().sql("newer", "INSERT INTO migrations (number) VALUES (999)");
    assert_refused(&home, &words);
}

#[test]
fn a_database_of_another_encoding_is_refused() {
    let make = "CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'";
    postgres().sql("postgres", make);
    let refused = refusal(&Home::new(Some(&postgres().url("latin"))));
    assert!(refused.contains("LATIN1") && refused.contains("UTF8"), "{refused}");
    assert_eq!(postgres().sql("latin", "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"), "0");
}
