//! Applied segments stay for as long as they are to be kept, as far as there is room.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;
use std::time::Duration;

use counter::Seq;
use journal::{Journal, Kind, Options, RealDisk, RecordBuffer};

const SEGMENT: u64 = 16 << 10;
/// With such a payload, three records fill a segment.
const PAYLOAD: usize = 4000;
const KEEP_MS: u64 = 60_000;
/// Some day in 2026.
const START_MS: u64 = 1_780_000_000_000;

/// A server with a clock: `now_ms` since its start, which was at `started_ms` by the calendar.
struct Instance {
    journal: Journal<RealDisk>,
    now_ms: u64,
    started_ms: u64,
}

fn start(path: &Path, watermark: u64, started_ms: u64, max_segments: u64, keep_ms: u64) -> Instance {
    let options =
        Options { keep: Duration::from_millis(keep_ms), ..Options::new(SEGMENT, max_segments * SEGMENT) };
    let mut journal = Journal::open(RealDisk::new(path).unwrap(), options).unwrap().journal;
    journal.resume(Seq(watermark), 0, started_ms);
    Instance { journal, now_ms: 0, started_ms }
}

impl Instance {
    fn commit(&mut self, records: u64) {
        for _ in 0..records {
            let mut buffer = RecordBuffer::default();
            buffer.extend(&[7; PAYLOAD]);
            self.journal.make_room(PAYLOAD, self.now_ms).unwrap();
            self.journal.append(Kind::Increments, self.started_ms + self.now_ms, &mut buffer).unwrap();
            self.journal.sync().unwrap();
        }
    }

    fn trim(&mut self, upto: u64) {
        self.journal.trim(Seq(upto), self.now_ms);
    }

    fn trim_all(&mut self) {
        self.trim(self.journal.last().0);
    }

    fn kept(&self) -> u64 {
        self.journal.kept_bytes() / SEGMENT
    }

    /// Lets go, and waits for what goes on in the background.
    fn end(self, path: &Path) -> u64 {
        drop(self);
        let names = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().ends_with(".segment")).count() as u64
    }
}

#[test]
fn applied_segments_stay_for_their_time_and_are_then_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut instance = start(dir.path(), 0, START_MS, 100, KEEP_MS);
    instance.commit(30);
    instance.trim_all();
    assert_eq!((instance.journal.first_kept(), instance.kept()), (Seq(1), 9));
    assert_eq!(instance.journal.bytes(), SEGMENT, "what is kept is not pending");
    instance.now_ms = KEEP_MS - 1;
    instance.commit(3);
    instance.trim_all();
    assert_eq!((instance.journal.first_kept(), instance.kept()), (Seq(1), 10));
    // The first nine have had their time; one of them is a spare. The tenth was applied now.
    instance.now_ms = KEEP_MS;
    instance.trim_all();
    assert_eq!((instance.journal.first_kept(), instance.kept()), (Seq(25), 2));
    // And the spare is written over.
    instance.commit(3);
    assert_eq!(instance.journal.first_kept(), Seq(28));
    let last = instance.journal.last();
    instance.end(dir.path());
    let instance = start(dir.path(), last.0, START_MS + KEEP_MS, 100, KEEP_MS);
    assert_eq!(instance.journal.first_kept(), Seq(28));
}

#[test]
fn their_age_survives_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let mut instance = start(dir.path(), 0, START_MS, 100, KEEP_MS);
    instance.commit(12);
    // Applied long after they were written.
    instance.now_ms = 40_000;
    instance.trim(9);
    // Only a record or a header tells of it.
    instance.commit(1);
    instance.now_ms = 50_000;
    instance.trim(13);
    instance.commit(6);
    instance.end(dir.path());

    let ago = |ms: u64| START_MS + 40_000 + KEEP_MS - ms;
    for (started_ms, first) in [(ago(1), 1), (ago(0), 7)] {
        let instance = start(dir.path(), 13, started_ms, 100, KEEP_MS);
        assert_eq!(instance.journal.first_kept(), Seq(first), "started at {started_ms}");
        instance.end(dir.path());
    }
    // What this start's clock counts comes on top.
    let mut instance = start(dir.path(), 13, ago(0) + 9_000, 100, KEEP_MS);
    instance.now_ms = 999;
    instance.trim(13);
    assert_eq!(instance.journal.first_kept(), Seq(7));
    instance.now_ms = 1_000;
    instance.trim(13);
    assert_eq!(instance.journal.first_kept(), Seq(10));
}

#[test]
fn what_no_record_tells_of_is_kept_from_the_start_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut instance = start(dir.path(), 0, START_MS, 100, KEEP_MS);
    instance.commit(12);
    instance.end(dir.path());
    // The store got them, and the process died before it could write that down.
    let mut instance = start(dir.path(), 12, START_MS + 1_000_000, 100, KEEP_MS);
    assert_eq!(instance.journal.first_kept(), Seq(1));
    instance.now_ms = KEEP_MS - 1;
    instance.trim(12);
    assert_eq!(instance.journal.first_kept(), Seq(1));
    instance.now_ms = KEEP_MS;
    instance.trim(12);
    assert_eq!(instance.journal.first_kept(), Seq(7));
}

#[test]
fn what_a_store_forgot_is_pending_again_and_stays() {
    let dir = tempfile::tempdir().unwrap();
    let mut instance = start(dir.path(), 0, START_MS, 100, KEEP_MS);
    instance.commit(30);
    instance.trim_all();
    instance.commit(1);
    instance.end(dir.path());
    // Long after their time: only what the store has may go.
    let mut instance = start(dir.path(), 14, START_MS + 10 * KEEP_MS, 100, KEEP_MS);
    assert_eq!((instance.journal.first_kept(), instance.journal.applied()), (Seq(10), Seq(14)));
    assert_eq!(instance.kept(), 1);
    assert_eq!(instance.journal.bytes(), 7 * SEGMENT);
    instance.now_ms = 10 * KEEP_MS;
    instance.commit(9);
    instance.trim(14);
    assert!(instance.journal.first_kept() <= Seq(15));
    // It is applied again, and its time counts from now on.
    instance.trim(31);
    instance.commit(1);
    instance.end(dir.path());
    let instance = start(dir.path(), 31, START_MS + 21 * KEEP_MS - 1, 100, KEEP_MS);
    assert!(instance.journal.first_kept() <= Seq(15));
    instance.end(dir.path());
    let instance = start(dir.path(), 31, START_MS + 21 * KEEP_MS, 100, KEEP_MS);
    // The spare: what came after the store had forgotten is in another segment.
    assert_eq!(instance.journal.first_kept(), Seq(31));
}

/// A start reads headers only, but for the last segment: between those of two segments the store can
/// have forgotten, and got it all again.
#[test]
fn what_is_applied_again_within_a_segment_is_as_old_as_that() {
    let dir = tempfile::tempdir().unwrap();
    let mut instance = start(dir.path(), 0, START_MS, 100, KEEP_MS);
    instance.commit(6);
    instance.trim_all();
    // The third segment: its header says that the store has the first two.
    instance.commit(1);
    instance.end(dir.path());
    let again_ms = START_MS + 10 * KEEP_MS;
    let mut instance = start(dir.path(), 2, again_ms, 100, KEEP_MS);
    instance.commit(1);
    instance.trim_all();
    instance.commit(4);
    instance.end(dir.path());
    for (started_ms, first) in [(again_ms + KEEP_MS - 1, 1), (again_ms + KEEP_MS, 7)] {
        let instance = start(dir.path(), 12, started_ms, 100, KEEP_MS);
        assert_eq!(instance.journal.first_kept(), Seq(first), "started at {started_ms}");
        instance.end(dir.path());
    }
}

/// Also without `keep`: a spare that the store forgot must not be written over.
#[test]
fn a_spare_that_the_store_forgot_is_not_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut instance = start(dir.path(), 0, START_MS, 100, 0);
    instance.commit(6);
    instance.trim_all();
    instance.commit(1);
    instance.end(dir.path());
    let mut instance = start(dir.path(), 2, START_MS, 100, 0);
    instance.commit(30);
    instance.trim(2);
    assert_eq!(instance.journal.first_kept(), Seq(1));
}

#[test]
fn what_is_pending_takes_the_room_of_what_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut instance = start(dir.path(), 0, START_MS, 8, KEEP_MS);
    for round in 1..=5 {
        instance.commit(12);
        instance.trim_all();
        let bytes = instance.journal.bytes() + instance.journal.kept_bytes();
        assert!(bytes <= 8 * SEGMENT, "{bytes} bytes in round {round}");
    }
    assert!(instance.kept() >= 6, "only {} are kept", instance.kept());
    // An outage: as much is pending as without anything kept.
    instance.commit(20);
    assert!(instance.journal.first_kept().0 > 55, "{}", instance.journal.first_kept());
    assert!(instance.end(dir.path()) <= 8);
    // With less room at the next start, what is kept goes down to it.
    let instance = start(dir.path(), 80, START_MS, 4, KEEP_MS);
    assert!(instance.journal.bytes() + instance.journal.kept_bytes() <= 4 * SEGMENT);
    assert!(instance.end(dir.path()) <= 4);
}
