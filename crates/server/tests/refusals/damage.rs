//! Promise 8: a torn last record is cut off; damage anywhere else stops the start. And what the
//! two commands that read a journal say of each.

use std::fs;
use std::ops::Range;
use std::path::Path;

use serde_json::Value;

use crate::support::{Database, Home};
use crate::tools::{
    ask_command, assert_refused, assert_says, copy_dir, count, hoarding_home, replace_dir, segments,
};

/// Where the records of a segment are, by the documented format.
fn records(segment: &Path) -> Vec<Range<usize>> {
    let bytes = fs::read(segment).unwrap();
    let number = |at: usize, size: usize| {
        let mut number = [0; 8];
        number[..size].copy_from_slice(&bytes[at..at + size]);
        u64::from_le_bytes(number) as usize
    };
    let first = number(40, 8);
    let mut records = Vec::new();
    let mut at = 4096;
    while number(at + 8, 8) == first + records.len() {
        let end = at + (40 + number(at + 4, 4)).next_multiple_of(8);
        records.push(at..end);
        at = end;
    }
    records
}

fn flip_bit(file: &Path, at: usize) {
    let mut bytes = fs::read(file).unwrap();
    bytes[at] ^= 0x10;
    fs::write(file, bytes).unwrap();
}

/// A home whose server was killed with three records of one increment each, and nothing flushed.
fn killed_home() -> Home {
    let home = hoarding_home(None);
    let server = home.start();
    count(&server, "it", 3);
    server.kill();
    home
}

/// One whose journal has several segments: how many increments it holds.
fn killed_home_with_segments() -> (Home, i64) {
    let home = hoarding_home(None).set("journal.segment_bytes", "64KiB");
    let server = home.start();
    let mut client = server.client();
    let mut acknowledged = 0;
    while segments(&home).len() < 5 {
        client.increments(std::iter::repeat_n(("it", 1), 3_000)).unwrap().expect(202);
        acknowledged += 3_000;
    }
    server.kill();
    (home, acknowledged)
}

/// What `journal inspect --json` prints; the second where it fails over damage.
fn inspect_json(home: &Home) -> (Value, Option<String>) {
    let (out, error) = match ask_command(home, &["journal", "inspect", "--json"]) {
        Ok(out) => (out, None),
        Err((out, error)) => (out, Some(error)),
    };
    let summary = out.lines().last().unwrap_or_default();
    (serde_json::from_str(summary).unwrap_or_else(|error| panic!("{error}: {out}")), error)
}

/// Start and both commands complain of damage with these words.
#[track_caller]
fn assert_damaged(home: &Home, parts: &[&str]) {
    assert_refused(home, parts);
    let (out, error) = ask_command(home, &["journal", "verify"]).unwrap_err();
    assert_eq!(out, "");
    assert_says(&error, parts);
    let (_, error) = ask_command(home, &["journal", "inspect"]).unwrap_err();
    assert_says(&error, parts);
    let (json, error) = inspect_json(home);
    assert_says(&error.unwrap(), parts);
    assert_says(json["error"].as_str().unwrap(), parts);
}

/// It starts, and nothing was lost.
#[track_caller]
fn assert_whole(home: &Home, total: i64) {
    let server = home.start();
    assert_eq!(server.total("it"), Some(total));
    server.stop();
    assert_eq!(Database::sqlite(home.sqlite()).totals()["it"], total);
}

const WAYS_OUT: [&str; 3] =
    ["restore the file from a copy", "incrementer journal verify", "move the data directory away"];

#[test]
fn a_flipped_bit_in_an_earlier_record_stops_the_start() {
    let home = killed_home();
    let segment = &segments(&home)[0];
    let records = records(segment);
    assert_eq!(records.len(), 3);
    // In a payload, in a header, in a checksum, and in a length.
    for (record, at) in [(0, 41), (1, 9), (1, 0), (0, 4)] {
        let record = &records[record];
        flip_bit(segment, record.start + at);
        let place = format!("000000000001.segment at offset {}", record.start);
        assert_damaged(&home, &[&["the journal is damaged", &place], &WAYS_OUT[..]].concat());
        flip_bit(segment, record.start + at);
    }
    assert_whole(&home, 3);
}

#[test]
fn a_flipped_bit_in_the_last_record_cuts_it_off_with_a_warning() {
    let home = killed_home();
    let segment = &segments(&home)[0];
    let last = records(segment).pop().unwrap();
    flip_bit(segment, last.start + 41);

    let verified = ask_command(&home, &["journal", "verify"]).unwrap();
    assert_says(&verified, &["1 segments, seq 1 to 2", "not written wholly", "can't be told", "cuts it off"]);
    let inspected = ask_command(&home, &["journal", "inspect"]).unwrap();
    assert_says(&inspected, &["seq 1 to 2", &format!("at offset {}", last.start), "+2 \"it\""]);
    assert_eq!(inspect_json(&home).0["segments"][0]["torn_at"], last.start);

    let server = home.start();
    let log = server.log();
    let warning = log.lines().find(|line| line.contains("WARN")).expect("a warning");
    let place = format!("offset={}", last.start);
    assert_says(
        warning,
        &["000000000001.segment", &place, "cut off", "unless the disk damaged it", "can't be told"],
    );
    assert_eq!(server.total("it"), Some(2));
    // The place is used again, and is whole.
    count(&server, "it", 1);
    server.stop();
    assert_eq!(Database::sqlite(home.sqlite()).totals()["it"], 3);
    assert_says(&ask_command(&home, &["journal", "verify"]).unwrap(), &["the journal is whole"]);
}

#[test]
fn a_truncated_segment_stops_the_start() {
    let home = killed_home();
    let backup = tempfile::tempdir().unwrap();
    copy_dir(&home.data(), backup.path());
    let segment = &segments(&home)[0];
    let records = records(segment);
    // In the middle of a record, between two, in the header, and nothing left.
    for length in [records[1].start + 20, records[2].start, 100] {
        let file = fs::OpenOptions::new().write(true).open(segment).unwrap();
        file.set_len(length as u64).unwrap();
        assert_damaged(
            &home,
            &[&["the journal is damaged", "000000000001.segment", "bytes"], &WAYS_OUT[..]].concat(),
        );
        replace_dir(backup.path(), &home.data());
    }
    assert_whole(&home, 3);
}

#[test]
fn a_missing_segment_stops_the_start() {
    let (home, acknowledged) = killed_home_with_segments();
    let segments = segments(&home);
    let away = home.data().join("away");
    fs::rename(&segments[2], &away).unwrap();
    let missing = ["000000000004.segment", "the segment before it, 000000000003.segment, is missing"];
    assert_damaged(&home, &[&missing, &WAYS_OUT[..]].concat());
    fs::rename(&away, &segments[2]).unwrap();

    // Without the first one the rest is whole in itself; the store tells.
    fs::rename(&segments[0], &away).unwrap();
    assert_refused(&home, &["the store holds journal", "up to seq 0", "--data-dir"]);
    fs::rename(&away, &segments[0]).unwrap();
    assert_whole(&home, acknowledged);
}

#[test]
fn a_flipped_bit_in_an_earlier_segment_stops_the_start() {
    let (home, acknowledged) = killed_home_with_segments();
    let segment = &segments(&home)[1];
    let last = records(segment).pop().unwrap();
    // With a whole segment behind it, the last record is not a torn one.
    flip_bit(segment, last.start + 41);
    let place = format!("000000000002.segment at offset {}", last.start);
    assert_damaged(&home, &[&place, "fails its checksum; the next segment begins at"]);
    flip_bit(segment, last.start + 41);

    // Of its header there are two copies.
    flip_bit(segment, 20);
    ask_command(&home, &["journal", "verify"]).unwrap();
    flip_bit(segment, 2048 + 20);
    assert_damaged(&home, &["000000000002.segment at offset 0", "in both copies"]);
    flip_bit(segment, 2048 + 20);
    assert_whole(&home, acknowledged);
}

#[test]
fn segments_without_their_identity_stop_the_start() {
    let home = killed_home();
    let identity = home.data().join("journal/identity.json");
    let known = fs::read_to_string(&identity).unwrap();
    let ways_out = ["identity.json", "from a copy of the same data directory", "move the directory away"];

    fs::remove_file(&identity).unwrap();
    assert_refused(&home, &[&["is missing"], &ways_out[..]].concat());
    for command in [&["journal", "verify"][..], &["journal", "inspect"]] {
        let (_, error) = ask_command(&home, command).unwrap_err();
        assert_says(&error, &[&["is missing"], &ways_out[..]].concat());
    }
    for rubbish in ["", "rubbish", "{}", &known.replace("\"journal\":\"", "\"journal\":\"x")] {
        fs::write(&identity, rubbish).unwrap();
        assert_damaged(&home, &[&["is unreadable"], &ways_out[..]].concat());
    }
    let mut other: Value = serde_json::from_str(&known).unwrap();
    let id = other["journal"].as_str().unwrap();
    let first = if id.starts_with('0') { "1" } else { "0" };
    other["journal"] = format!("{first}{}", &id[1..]).into();
    fs::write(&identity, other.to_string()).unwrap();
    assert_damaged(&home, &["000000000001.segment", "it belongs to journal", "and this is journal"]);

    fs::write(&identity, known).unwrap();
    assert_whole(&home, 3);
}

#[test]
fn a_journal_can_be_read_while_a_server_writes_it() {
    let home = hoarding_home(None);
    let server = home.start();
    count(&server, "it", 3);
    let inspected = ask_command(&home, &["journal", "inspect"]).unwrap();
    assert_says(&inspected, &["seq 1 to 3", "3 records, 3 increments", "+3 \"it\""]);
    let (json, error) = inspect_json(&home);
    assert_eq!(error, None);
    assert_eq!(json["pending"]["sums"][0]["value"], 3);
    assert_says(
        &ask_command(&home, &["journal", "verify"]).unwrap(),
        &["the journal is whole", "seq 1 to 3"],
    );
    // It was only read: the server goes on.
    count(&server, "it", 1);
    server.stop();
    let inspected = ask_command(&home, &["journal", "inspect"]).unwrap();
    assert_says(&inspected, &["the store has seq 4 or more", "0 records, 0 increments"]);
    assert_eq!(Database::sqlite(home.sqlite()).totals()["it"], 4);

    let empty = Home::new(None);
    let (_, error) = ask_command(&empty, &["journal", "inspect"]).unwrap_err();
    assert_says(&error, &["there is no journal in ./data", "--data-dir"]);
}
