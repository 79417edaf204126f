//! The last segment of a journal is missed when it is lost, and one that was never begun is not.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use counter::{Seq, StoreId};
use journal::format::segment_name;
use journal::{Journal, Kind, OpenError, Options, RealDisk, RecordBuffer, read_all};

const SEGMENT: u64 = 16 << 10;

fn try_open(path: &Path) -> Result<Journal<RealDisk>, OpenError> {
    let opened = Journal::open(RealDisk::new(path).unwrap(), Options::new(SEGMENT, 100 * SEGMENT))?;
    Ok(opened.journal)
}

fn append(journal: &mut Journal<RealDisk>, bytes: usize) -> Seq {
    let mut buffer = RecordBuffer::default();
    buffer.extend(&vec![7; bytes]);
    journal.make_room(bytes, 0).unwrap();
    journal.append(Kind::Increments, 5, &mut buffer).unwrap()
}

/// A journal that ended after so many more segments: the last one's path.
fn ended(path: &Path, segments: u64) -> PathBuf {
    let mut journal = try_open(path).unwrap();
    // One record a segment, so that none is prepared beyond the last.
    for _ in 0..segments {
        append(&mut journal, SEGMENT as usize - 4200);
        journal.sync().unwrap();
    }
    let last = journal.last().0;
    drop(journal);
    for prepared in last + 1..last + 9 {
        let _ = fs::remove_file(path.join(segment_name(prepared)));
    }
    path.join(segment_name(last))
}

#[track_caller]
fn assert_missed(path: &Path, file: &str, words: &str) {
    for outcome in
        [try_open(path).map(drop), read_all(&RealDisk::read_only(path), &mut |_, _, _| Ok(())).map(drop)]
    {
        let error = outcome.unwrap_err().to_string();
        for part in [file, words, "move the data directory away"] {
            assert!(error.contains(part), "no {part:?} in: {error}");
        }
    }
}

#[test]
fn a_last_segment_that_is_missing_is_missed() {
    for segments in [1, 2, 3, 6] {
        let dir = tempfile::tempdir().unwrap();
        let last = ended(dir.path(), segments);
        let away = dir.path().join("away");
        fs::rename(&last, &away).unwrap();
        let name = segment_name(segments);
        assert_missed(dir.path(), &name, "it is missing, and it was begun");
        // Also where the next one is prepared.
        fs::write(dir.path().join(segment_name(segments + 1)), vec![0; SEGMENT as usize]).unwrap();
        assert_missed(dir.path(), &name, "missing");
        fs::remove_file(dir.path().join(segment_name(segments + 1))).unwrap();
        fs::rename(&away, &last).unwrap();
        assert_eq!(try_open(dir.path()).unwrap().last(), Seq(segments));
    }
}

#[test]
fn a_last_segment_without_its_header_is_damage() {
    for segments in [1, 2] {
        let dir = tempfile::tempdir().unwrap();
        let last = ended(dir.path(), segments);
        let whole = fs::read(&last).unwrap();
        for damaged in [&[&[0; 4096][..], &whole[4096..]].concat()[..], &[], &whole[..40]] {
            fs::write(&last, damaged).unwrap();
            let words = "its header fails its checksum in both copies, and it was begun";
            assert_missed(dir.path(), &segment_name(segments), words);
        }
        fs::write(&last, whole).unwrap();
        assert_eq!(try_open(dir.path()).unwrap().last(), Seq(segments));
    }
}

/// What a power failure leaves of a commit into a new segment that nobody was told of.
#[test]
fn a_segment_of_which_nothing_was_confirmed_may_be_lost() {
    let dir = tempfile::tempdir().unwrap();
    let last = ended(dir.path(), 2);
    let mut journal = try_open(dir.path()).unwrap();
    // It goes into the third one, and is not synced.
    append(&mut journal, SEGMENT as usize - 4200);
    drop(journal);
    let third = dir.path().join(segment_name(3));
    assert!(third.exists() && last.exists());
    fs::write(&third, vec![0; SEGMENT as usize]).unwrap();
    let mut journal = try_open(dir.path()).unwrap();
    assert_eq!(journal.last(), Seq(2));
    // Written again and confirmed, it is missed.
    append(&mut journal, 100);
    journal.sync().unwrap();
    drop(journal);
    fs::remove_file(&third).unwrap();
    assert_missed(dir.path(), &segment_name(3), "missing");
}

/// A start makes what it read durable, so it knows of it from then on.
#[test]
fn what_a_start_has_read_is_missed_later() {
    let dir = tempfile::tempdir().unwrap();
    ended(dir.path(), 2);
    let mut journal = try_open(dir.path()).unwrap();
    append(&mut journal, SEGMENT as usize - 4200);
    drop(journal);
    assert_eq!(try_open(dir.path()).unwrap().last(), Seq(3));
    fs::remove_file(dir.path().join(segment_name(3))).unwrap();
    assert_missed(dir.path(), &segment_name(3), "missing");
}

#[test]
fn the_file_that_tells_is_itself_missed_and_one_slot_is_enough() {
    let dir = tempfile::tempdir().unwrap();
    ended(dir.path(), 1);
    let begun = dir.path().join("begun");
    let older = fs::read(&begun).unwrap();
    ended(dir.path(), 4);
    let whole = fs::read(&begun).unwrap();

    fs::remove_file(&begun).unwrap();
    assert_missed(dir.path(), "begun", "it is missing");
    for damaged in [&older[..], &vec![0; 8192], &[]] {
        fs::write(&begun, damaged).unwrap();
        assert_missed(dir.path(), "begun", "there is 000000000005.segment");
    }
    for slot in [0, 4096] {
        let mut damaged = whole.clone();
        damaged[slot + 30] ^= 1;
        fs::write(&begun, damaged).unwrap();
        assert_eq!(try_open(dir.path()).unwrap().last(), Seq(5));
        assert_eq!(fs::read(&begun).unwrap()[4096..4132], whole[4096..4132], "it was written again");
    }
}

#[test]
fn a_new_journal_in_the_same_directory_begins_at_none() {
    let dir = tempfile::tempdir().unwrap();
    ended(dir.path(), 3);
    let journal = try_open(dir.path()).unwrap().begin_anew(StoreId([2; 16])).unwrap();
    drop(journal);
    let mut journal = try_open(dir.path()).unwrap();
    append(&mut journal, 100);
    journal.sync().unwrap();
    drop(journal);
    fs::remove_file(dir.path().join(segment_name(1))).unwrap();
    assert_missed(dir.path(), &segment_name(1), "missing");
}

/// A header that became durable without its first record, or whose first record was torn.
#[test]
fn a_segment_without_records_knows_what_the_store_has() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = try_open(dir.path()).unwrap();
    append(&mut journal, SEGMENT as usize - 4200);
    journal.sync().unwrap();
    journal.trim(Seq(1), 0);
    append(&mut journal, 100);
    drop(journal);
    let second = dir.path().join(segment_name(2));
    let header = fs::read(&second).unwrap()[..4096].to_vec();
    fs::write(&second, [header, vec![0; SEGMENT as usize - 4096]].concat()).unwrap();
    let journal = try_open(dir.path()).unwrap();
    assert_eq!((journal.last(), journal.applied()), (Seq(1), Seq(1)), "nothing is pending");
}
