//! The journal on a real directory: what was appended is replayed, whatever happened to the files.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use counter::{Seq, StoreId};
use journal::{Journal, Kind, NoRoom, OpenError, Opened, Options, RealDisk, RecordBuffer, read_all};
use proptest::prelude::*;

const SEGMENT: u64 = 16 << 10;

fn options(max_segments: u64) -> Options {
    Options::new(SEGMENT, max_segments * SEGMENT)
}

fn open(path: &Path) -> Opened<RealDisk> {
    Journal::open(RealDisk::new(path).unwrap(), options(100)).unwrap()
}

fn refused(path: &Path) -> OpenError {
    match Journal::open(RealDisk::new(path).unwrap(), options(100)) {
        Err(error) => error,
        Ok(opened) => opened.journal.replay(Seq::ZERO, &mut |_| Ok(())).unwrap_err(),
    }
}

fn append(journal: &mut Journal<RealDisk>, payload: &[u8]) -> Seq {
    let mut buffer = RecordBuffer::default();
    buffer.extend(payload);
    journal.make_room(payload.len(), 0).unwrap();
    journal.append(Kind::Increments, 5, &mut buffer).unwrap()
}

fn commit(journal: &mut Journal<RealDisk>, payload: &[u8]) -> Seq {
    let seq = append(journal, payload);
    journal.sync().unwrap();
    seq
}

fn replayed(journal: &Journal<RealDisk>, after: u64) -> Vec<(u64, Vec<u8>)> {
    let mut records = Vec::new();
    let keep = &mut |record: &journal::Record<'_>| {
        records.push((record.seq.0, record.payload.to_vec()));
        Ok(())
    };
    journal.replay(Seq(after), keep).unwrap();
    records
}

fn segments(path: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "segment"));
    files.sort();
    files
}

fn flip(file: &Path, offset: u64) {
    let file = OpenOptions::new().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 4], offset).unwrap();
}

/// (segment number, offset, seq) of every record.
fn places(path: &Path) -> Vec<(u64, u64, u64)> {
    let mut places = Vec::new();
    read_all(&RealDisk::read_only(path), &mut |segment, offset, record| {
        places.push((segment.header.number, offset, record.seq.0));
        Ok(())
    })
    .unwrap();
    places
}

#[test]
fn records_come_back_in_order_over_many_segments() {
    let dir = tempfile::tempdir().unwrap();
    let mut expected = Vec::new();
    let mut journal = open(dir.path()).journal;
    for seq in 1..=100_u64 {
        let payload = vec![seq as u8; 1000];
        assert_eq!(commit(&mut journal, &payload), Seq(seq));
        expected.push((seq, payload));
    }
    assert!(segments(dir.path()).len() > 5);
    drop(journal);
    let journal = open(dir.path()).journal;
    assert_eq!((journal.last(), journal.first_kept()), (Seq(100), Seq(1)));
    assert_eq!(replayed(&journal, 0), expected);
    assert_eq!(replayed(&journal, 40), expected[40..]);
    assert_eq!(replayed(&journal, 100), []);
}

#[test]
fn trimmed_segments_are_recycled_and_old_bytes_never_pass_for_new_ones() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(dir.path()).journal;
    for round in 0..20 {
        for _ in 0..30 {
            commit(&mut journal, &[round; 900]);
        }
        let upto = journal.last();
        journal.trim(upto, 0);
    }
    assert!(segments(dir.path()).len() <= 4, "{:?}", segments(dir.path()));
    assert!(journal.bytes() <= 2 * SEGMENT);
    drop(journal);
    let journal = open(dir.path()).journal;
    assert_eq!(journal.last(), Seq(600));
    let first = journal.first_kept().0;
    assert!(first > 500, "first kept: {first}");
    let seqs: Vec<u64> = replayed(&journal, 0).iter().map(|record| record.0).collect();
    assert_eq!(seqs, (first..=600).collect::<Vec<_>>());
}

#[test]
fn a_tail_torn_at_any_byte_loses_only_its_last_record() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(dir.path()).journal;
    for payload in [&b"one"[..], b"two", b"the record that is torn"] {
        commit(&mut journal, payload);
    }
    drop(journal);
    let (_, offset, _) = places(dir.path())[2];
    let file = segments(dir.path()).pop().unwrap();
    let whole = fs::read(&file).unwrap();
    for written in 0..40 + b"the record that is torn".len() {
        let mut torn = whole.clone();
        torn[offset as usize + written..].fill(0);
        fs::write(&file, torn).unwrap();
        let Opened { journal, cut } = open(dir.path());
        assert_eq!(journal.last(), Seq(2), "{written} bytes written");
        // Up to the end of the seq field nothing tells that a record was begun.
        assert_eq!(cut.map(|cut| (cut.offset, cut.seq)), (written > 8).then_some((offset, Seq(3))));
        assert_eq!(replayed(&journal, 0).len(), 2);
    }
}

#[test]
fn after_a_cut_the_next_record_takes_the_place_and_the_torn_one_stays_gone() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(dir.path()).journal;
    commit(&mut journal, b"one");
    commit(&mut journal, b"two");
    drop(journal);
    let (_, offset, _) = places(dir.path())[1];
    flip(&segments(dir.path())[0], offset + 41);
    let mut journal = open(dir.path()).journal;
    assert_eq!(commit(&mut journal, b"new two"), Seq(2));
    drop(journal);
    let journal = open(dir.path()).journal;
    assert_eq!(replayed(&journal, 0), [(1, b"one".to_vec()), (2, b"new two".to_vec())]);
}

#[test]
fn a_flipped_bit_before_the_last_record_stops_the_start_with_file_and_offset() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(dir.path()).journal;
    for _ in 0..40 {
        commit(&mut journal, &[9; 1000]);
    }
    drop(journal);
    let places = places(dir.path());
    for &(number, offset, seq) in &places[..places.len() - 1] {
        let file = dir.path().join(journal::format::segment_name(number));
        flip(&file, offset + 100);
        let message = refused(dir.path()).to_string();
        let name = file.file_name().unwrap().to_str().unwrap();
        assert!(message.contains(name), "seq {seq}: {message}");
        assert!(message.contains(&format!("offset {offset}")), "seq {seq}: {message}");
        assert!(message.contains("move the data directory away"), "{message}");
        // The refusal changed nothing: mended, all of it is readable again.
        flip(&file, offset + 100);
    }
    assert_eq!(replayed(&open(dir.path()).journal, 0).len(), 40);
}

#[test]
fn unsynced_records_may_be_lost_in_any_order_without_being_damage() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(dir.path()).journal;
    commit(&mut journal, b"durable");
    for payload in [b"lost in a power failure", b"written, but not synced"] {
        append(&mut journal, payload);
    }
    drop(journal);
    let (_, offset, _) = places(dir.path())[1];
    flip(&segments(dir.path())[0], offset + 50);
    let Opened { journal, cut } = open(dir.path());
    assert_eq!(cut.map(|cut| cut.seq), Some(Seq(2)));
    assert_eq!(replayed(&journal, 0), [(1, b"durable".to_vec())]);
}

/// Segments have their whole size before their first record, so a torn write can't shorten one.
#[test]
fn a_last_segment_that_was_cut_short_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(dir.path()).journal;
    for payload in [b"one", b"two"] {
        commit(&mut journal, payload);
    }
    drop(journal);
    let file = &segments(dir.path())[0];
    let whole = fs::read(file).unwrap();
    let second = places(dir.path())[1].1;
    let (short, headless) = ("the file was cut short", "its header fails its checksum in both copies");
    for (length, words) in [(second + 20, short), (second, short), (80, short), (79, headless), (0, headless)]
    {
        fs::write(file, &whole[..length as usize]).unwrap();
        let error = refused(dir.path());
        assert!(matches!(&error, OpenError::Damaged { what, .. } if what.contains(words)), "{error}");
    }
    fs::write(file, whole).unwrap();
    assert_eq!(open(dir.path()).journal.last(), Seq(2));
}

#[test]
fn a_missing_segment_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(dir.path()).journal;
    for _ in 0..60 {
        commit(&mut journal, &[9; 1000]);
    }
    drop(journal);
    fs::remove_file(&segments(dir.path())[1]).unwrap();
    let message = refused(dir.path()).to_string();
    assert!(message.contains("000000000002.segment, is missing"), "{message}");
}

#[test]
fn a_prepared_segment_that_was_never_begun_is_empty() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(dir.path()).journal;
    commit(&mut journal, b"one");
    drop(journal);
    let first = segments(dir.path()).remove(0);
    for stale in [fs::read(&first).unwrap(), vec![0; SEGMENT as usize], b"short".to_vec()] {
        // The first is what a recycled file looks like: whole, under another number.
        fs::write(dir.path().join("000000000002.segment"), stale).unwrap();
        let mut journal = open(dir.path()).journal;
        assert_eq!(journal.last(), Seq(1));
        assert_eq!(segments(dir.path()).len(), 1);
        assert_eq!(replayed(&journal, 0), [(1, b"one".to_vec())]);
        journal.make_room(0, 0).unwrap();
    }
}

#[test]
fn pending_bytes_are_bounded_and_trimming_makes_room_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(RealDisk::new(dir.path()).unwrap(), options(4)).unwrap().journal;
    let mut buffer = RecordBuffer::default();
    for _ in 0..3 {
        let mut taken = 0;
        let full = loop {
            buffer.clear();
            buffer.extend(&[1; 1000]);
            match journal.make_room(buffer.len(), 0) {
                Ok(()) => journal.append(Kind::Increments, 0, &mut buffer).unwrap(),
                Err(full) => break full,
            };
            taken += 1;
            assert!(taken < 100, "the journal grows without bound");
        };
        assert!(matches!(full, NoRoom::Full { max_bytes } if max_bytes == 4 * SEGMENT), "{full}");
        assert!(taken >= 30, "only {taken} records fit");
        journal.sync().unwrap();
        let upto = journal.last();
        journal.trim(upto, 0);
    }
    let large = journal.make_room(SEGMENT as usize, 0);
    assert!(matches!(large, Err(NoRoom::TooLarge { .. })));
}

#[test]
fn a_record_that_the_half_empty_segment_can_t_hold_goes_into_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(dir.path()).journal;
    commit(&mut journal, &[1; 1000]);
    // More than half of the segment is left, and less than this record takes.
    let large = vec![2; journal.max_payload_bytes() as usize - 500];
    assert_eq!(commit(&mut journal, &large), Seq(2));
    drop(journal);
    assert_eq!(replayed(&open(dir.path()).journal, 1), [(2, large)]);
}

#[test]
fn another_store_begins_a_new_journal() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(dir.path()).journal;
    journal.set_store(StoreId([1; 16])).unwrap();
    for _ in 0..40 {
        commit(&mut journal, &[1; 1000]);
    }
    let old = journal.identity().journal;
    let mut journal = journal.begin_anew(StoreId([2; 16])).unwrap();
    assert_ne!(journal.identity().journal, old);
    assert_eq!(journal.identity().store, Some(StoreId([2; 16])));
    assert_eq!((journal.last(), replayed(&journal, 0)), (Seq::ZERO, vec![]));
    commit(&mut journal, b"first of the new one");
    drop(journal);
    let journal = open(dir.path()).journal;
    assert_eq!(replayed(&journal, 0), [(1, b"first of the new one".to_vec())]);
}

#[test]
fn segments_without_an_identity_are_not_taken_for_a_new_journal() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(dir.path()).journal;
    commit(&mut journal, b"one");
    drop(journal);
    fs::remove_file(dir.path().join("identity.json")).unwrap();
    assert!(matches!(refused(dir.path()), OpenError::Identity { .. }));
    let read = read_all(&RealDisk::read_only(dir.path()), &mut |_, _, _| Ok(()));
    assert!(matches!(read, Err(OpenError::Identity { .. })), "{read:?}");
    fs::write(dir.path().join("identity.json"), "rubbish").unwrap();
    assert!(matches!(refused(dir.path()), OpenError::Identity { .. }));
}

#[test]
fn a_rewrite_that_was_cut_short_is_no_hindrance() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(dir.path()).journal;
    commit(&mut journal, b"one");
    drop(journal);
    // What a crash between the creation of the fresh file and its renaming leaves.
    fs::write(dir.path().join("tail.new"), "half").unwrap();
    fs::write(dir.path().join("identity.json.new"), "half").unwrap();
    let journal = open(dir.path()).journal;
    assert_eq!(replayed(&journal, 0), [(1, b"one".to_vec())]);
    assert!(!dir.path().join("tail.new").exists() && !dir.path().join("identity.json.new").exists());
}

#[test]
fn the_applied_mark_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(dir.path()).journal;
    commit(&mut journal, b"one");
    journal.trim(Seq(1), 0);
    journal.make_room(0, 0).unwrap();
    journal.append(Kind::Mark, 0, &mut RecordBuffer::default()).unwrap();
    journal.sync().unwrap();
    drop(journal);
    let journal = open(dir.path()).journal;
    assert_eq!((journal.applied(), journal.last()), (Seq(1), Seq(2)));
}

#[derive(Clone, Debug)]
enum Step {
    Commit(usize),
    Trim(u64),
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..6000_usize).prop_map(Step::Commit),
        2 => (0..10_u64).prop_map(Step::Trim),
        1 => Just(Step::Reopen),
    ];
    proptest::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn any_run_of_commits_trims_and_restarts_keeps_what_is_pending(steps in steps()) {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = open(dir.path()).journal;
        let mut model: Vec<(u64, Vec<u8>)> = Vec::new();
        let mut applied = 0;
        for step in steps {
            match step {
                Step::Commit(bytes) => {
                    let payload = vec![model.len() as u8; bytes];
                    let seq = commit(&mut journal, &payload);
                    model.push((seq.0, payload));
                }
                Step::Trim(behind) => {
                    applied = applied.max((model.len() as u64).saturating_sub(behind));
                    journal.trim(Seq(applied), 0);
                }
                Step::Reopen => {
                    drop(journal);
                    journal = open(dir.path()).journal;
                    prop_assert_eq!(journal.last().0, model.len() as u64);
                    prop_assert!(journal.first_kept().0 <= applied + 1);
                    prop_assert_eq!(replayed(&journal, applied), &model[applied as usize..]);
                }
            }
        }
    }

    #[test]
    fn arbitrary_bytes_in_a_segment_never_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..9000),
        at in 0..5000_usize,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = open(dir.path()).journal;
        commit(&mut journal, b"one");
        drop(journal);
        let file = segments(dir.path()).remove(0);
        let mut content = fs::read(&file).unwrap();
        let end = (at + bytes.len()).min(content.len());
        content[at..end].copy_from_slice(&bytes[..end - at]);
        fs::write(&file, content).unwrap();
        let _ = Journal::open(RealDisk::new(dir.path()).unwrap(), options(100));
    }
}
