//! Promise 4 and the rule for a full disk: no room for a segment is a 503 until there is some.

use std::fs;

use crate::support::{Database, Home, SmallDisk, until};
use crate::tools::{
    assert_problem, assert_refused, assert_says, count, count_until_refused, hoarding_home,
    wait_until_not_ready,
};

const NO_ROOM: &str = "the disk has no room for the journal";

/// A home with its data on this disk.
fn on_disk(disk: &SmallDisk, home: Home) -> Home {
    home.set("data_dir", disk.path().join("data").to_str().unwrap()).set("journal.segment_bytes", "256KiB")
}

#[test]
fn no_room_for_the_journal_is_a_503_until_there_is() {
    let Some(disk) = SmallDisk::new("2m") else { return };
    let elsewhere = tempfile::tempdir().unwrap();
    let totals = elsewhere.path().join("totals.db");
    let home = on_disk(&disk, hoarding_home(Some(&format!("sqlite:{}", totals.display()))));
    let server = home.start();
    let filler = disk.path().join("filler");
    fs::write(&filler, vec![0; 1 << 20]).unwrap();

    let mut client = server.client();
    let (mut acknowledged, refused) = count_until_refused(&mut client, "it", 2_000);
    assert!(acknowledged > 0);
    assert_problem(&refused, 503, "disk_full");
    assert_says(&refused.body, &["the disk has no room", "No space left on device", "make room"]);
    let readiness = server.get("/readyz").expect(503);
    assert_says(&readiness.body, &[NO_ROOM]);
    // Reads go on.
    assert_eq!(server.total("it"), Some(acknowledged));
    server.get("/healthz").expect(200);

    fs::remove_file(filler).unwrap();
    until("the server takes increments again", || (server.get("/readyz").status == 200).then_some(()));
    client.increments([("it", 1), ("it", 1)]).unwrap().expect(202);
    acknowledged += 2;
    assert_eq!(server.total("it"), Some(acknowledged));
    server.stop();
    assert_eq!(Database::sqlite(totals).totals()["it"], acknowledged);
}

#[test]
fn a_kill_while_the_disk_is_full_loses_nothing() {
    let Some(disk) = SmallDisk::new("2m") else { return };
    let elsewhere = tempfile::tempdir().unwrap();
    let totals = elsewhere.path().join("totals.db");
    let home = on_disk(&disk, hoarding_home(Some(&format!("sqlite:{}", totals.display()))));
    let server = home.start();
    let others = disk.path().join("others");
    fs::write(&others, vec![0; 1 << 20]).unwrap();
    let (acknowledged, refused) = count_until_refused(&mut server.client(), "it", 2_000);
    assert_problem(&refused, 503, "disk_full");
    server.kill();

    let filler = disk.fill();
    // Not even for the few bytes that tell who has the journal.
    assert_refused(&home, &["No space left on device", "make room"]);
    fs::remove_file(filler).unwrap();
    let filler = disk.path().join("filler");
    let left = disk.room() - (16 << 10);
    fs::write(&filler, vec![0; left as usize]).unwrap();
    // No room for another segment, as where the journal has filled its disk by itself.
    let server = home.start();
    assert_eq!(server.total("it"), Some(acknowledged));
    let refused = server.client().increments([("it", 1)]).unwrap();
    assert_problem(&refused, 503, "disk_full");
    server.kill();
    let server = home.start();
    assert_eq!(server.total("it"), Some(acknowledged));
    fs::remove_file(filler).unwrap();
    fs::remove_file(others).unwrap();
    until("the server takes increments again", || (server.get("/readyz").status == 200).then_some(()));
    count(&server, "it", 1);
    server.kill();
    let server = home.start();
    assert_eq!(server.total("it"), Some(acknowledged + 1));
    server.stop();
    assert_eq!(Database::sqlite(totals).totals()["it"], acknowledged + 1);
}

#[test]
fn a_store_without_room_is_tried_again_until_it_has_some() {
    let Some(disk) = SmallDisk::new("4m") else { return };
    let home = on_disk(&disk, Home::new(None).set("flush.interval", "20ms"));
    let server = home.start();
    count(&server, "it", 1);
    let filler = disk.fill();

    let mut client = server.client();
    let key = |number| format!("{number:0300}");
    let mut keys = 0;
    // The journal's segment has room for these; the store's file has not.
    for _ in 0..8 {
        let batch: Vec<_> = (keys..keys + 50).map(key).collect();
        client.increments(batch.iter().map(|key| (key.as_str(), 1))).unwrap().expect(202);
        keys += 50;
    }
    let away =
        until("the store is away", || server.degraded().into_iter().find(|what| what.contains("store")));
    assert_says(&away, &["the store is away", "database or disk is full"]);
    let failures = server.metric("incrementer_flush_failures_total");
    until("it was tried again", || {
        (server.metric("incrementer_flush_failures_total") > failures).then_some(())
    });
    let (acknowledged, refused) = count_until_refused(&mut client, "it", 500);
    assert_problem(&refused, 503, "disk_full");
    wait_until_not_ready(&server, NO_ROOM);

    fs::remove_file(filler).unwrap();
    until("all is well again", || {
        let answer = server.get("/readyz");
        (answer.status == 200 && answer.json()["degraded"] == serde_json::json!([])).then_some(())
    });
    count(&server, "it", 1);
    let log = server.log();
    assert_says(&log, &["A flush failed and is tried again", "The store is back"]);
    server.stop();
    let mut totals = Database::sqlite(disk.path().join("data/incrementer.db")).totals();
    assert_eq!(totals.remove("it"), Some(acknowledged + 2));
    assert_eq!(totals, (0..keys).map(|number| (key(number), 1)).collect());
}
